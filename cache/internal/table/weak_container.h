// SPDX-License-Identifier: Apache-2.0
// What all weak containers have in common: a table, its size, and its upkeep.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_CONTAINER_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_CONTAINER_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/weak_table.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// `Keys` is what hashes and compares.
template <typename H, typename Payload, PayloadLifetime kLifetime, typename Keys,
          typename Allocator>
class WeakContainer {
 protected:
  using Table = WeakTable<H, Payload, kLifetime, Allocator>;
  using Slot = typename Table::Slot;
  template <typename Entry>
  using Iterator = LiveIterator<Table, H, Entry>;

 public:
  using size_type = size_t;
  using allocator_type = Allocator;

  // Own handles: exact, without the objects whose destruction is through. Others: with those of the
  // dead that are not purged yet, see the top of the container's header.
  size_type size() const { return table_.size(); }
  bool empty() const { return size() == 0; }

  // Removes the entries of all objects that have expired; returns how many. Own handles: O(that
  // number); others: O(the most entries that there were).
  size_type purge() { return table_.Purge(); }
  // O(the most entries that there were).
  void clear() { table_.Clear(); }
  // Lets no insertion rebuild the index until there are more than `count` entries, expired ones
  // included.
  void reserve(size_type count) { table_.Reserve(count); }
  // Purges, and gives back memory that was for more entries than there are. Entries stay where they
  // are, so a page of them goes only if it is empty. O(entries).
  void shrink_to_fit() { table_.ShrinkToFit(); }

  Allocator get_allocator() const { return table_.allocator(); }

  // For tests: aborts, and says why, if the container is inconsistent. No other thread releases an
  // object meanwhile. O(the most entries that there were).
  void CheckInvariantsForTesting() const { table_.CheckInvariantsForTesting(); }

 protected:
  WeakContainer(const Keys& keys, const Allocator& allocator) : keys_(keys), table_(allocator) {}
  // What hashes and compares is copied: a container that was moved from is empty, and can be used.
  WeakContainer(WeakContainer&& other) noexcept
      : keys_(other.keys_), table_(std::move(other.table_)) {}
  // The contents that were here end when all is in its place: destructors may use the container.
  WeakContainer& operator=(WeakContainer&& other) noexcept {
    WeakContainer(std::move(other)).swap(*this);
    return *this;
  }
  ~WeakContainer() = default;

  void swap(WeakContainer& other) noexcept {
    using std::swap;
    swap(keys_, other.keys_);
    table_.swap(other.table_);
  }

  // Removes the entries from `entry` on for which `condition(*entry)` is true.
  template <typename EntryIterator, typename Condition>
  size_type EraseIf(EntryIterator entry, const char* call, Condition&& condition) {
    size_type erased = 0;
    for (; entry != std::default_sentinel; ++entry) {
      const uint64_t version = table_.version();
      if (!condition(*entry)) continue;
      Check(table_.version() == version, call, "the condition has changed the container");
      table_.Erase(entry.slot());
      ++erased;
    }
    return erased;
  }

  // Erases the entries of `other` that `take(entry)` has entered here, which it says by true; but
  // not one that a destructor may have changed meanwhile.
  template <typename Other, typename OtherTable, typename Take>
  void MoveEach(Other& other, OtherTable& table, Take&& take) {
    for (auto entry = other.begin(); entry != other.end(); ++entry) {
      const auto purged = table_.PurgeUpTo();  // its end comes after the entry's
      const uint64_t version = table.version();
      if (take(*entry) && table.version() == version) table.Erase(entry.slot());
    }
  }

  // What `make` gives for each entry from `entry` on.
  template <typename Element, typename EntryIterator, typename Make>
  std::vector<Element> Collect(EntryIterator entry, Make make) const {
    std::vector<Element> elements;
    elements.reserve(size());
    for (; entry != std::default_sentinel; ++entry) elements.push_back(make(*entry));
    return elements;
  }

  // It outlives the table, whose end may run destructors that use the container.
  [[no_unique_address]] Keys keys_;
  Table table_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_CONTAINER_H_
