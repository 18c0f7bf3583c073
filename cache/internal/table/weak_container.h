// SPDX-License-Identifier: Apache-2.0
// What the single-threaded weak containers share: a table and the operations on it as a whole.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_CONTAINER_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_CONTAINER_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <ranges>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/weak_table.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// A range that is no container of the given type.
template <typename Range, typename Container>
concept RangeOtherThan = std::ranges::input_range<const Range> && !std::same_as<Range, Container>;

// `Keys` hashes and compares.
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
  using difference_type = std::ptrdiff_t;
  using allocator_type = Allocator;
  // The container's handles: Ref and WeakRef, or those that its element type names.
  using Strong = H;
  using Weak = typename HandleTraits<H>::weak_type;

  // Returns the number of live objects. With handles that notify nobody (std::shared_ptr), entries
  // of dead objects that no operation has purged yet count too.
  [[nodiscard]] size_type size() const { return table_.size(); }
  [[nodiscard]] bool empty() const { return size() == 0; }

  // Removes the entries of all dead objects and returns their number. O(that number); with
  // std::shared_ptr, O(the most entries that there were).
  size_type purge() { return table_.Purge(); }
  // Removes all entries. O(the most entries that there were).
  void clear() { table_.Clear(); }
  // Makes room in the index for `count` entries, those of dead objects included: until then no
  // insertion rebuilds it. Throws std::length_error if there can't be so many entries.
  void reserve(size_type count) { table_.Reserve(count); }
  // Purges and frees memory that the entries do not need. Entries do not move, so a page is freed
  // only if all its entries are gone. O(entries).
  void shrink_to_fit() { table_.ShrinkToFit(); }

  [[nodiscard]] Allocator get_allocator() const { return table_.allocator(); }

  // Aborts with a message if the container is inconsistent. For tests. No other thread may release
  // an object meanwhile. O(the most entries that there were).
  void CheckInvariantsForTesting() const { table_.CheckInvariantsForTesting(); }

 protected:
  WeakContainer(const Keys& keys, const Allocator& allocator) : keys_(keys), table_(allocator) {}
  // Copies the hash and the equality, so that a moved-from container is empty and usable.
  WeakContainer(WeakContainer&& other) noexcept
      : keys_(other.keys_), table_(std::move(other.table_)) {}
  // Destroys the old contents last: their destructors may use the container.
  WeakContainer& operator=(WeakContainer&& other) noexcept {
    WeakContainer(std::move(other)).swap(*this);
    return *this;
  }
  ~WeakContainer() = default;

  void swap(WeakContainer& other) noexcept {
    if (this == std::addressof(other)) return;
    using std::swap;
    swap(keys_, other.keys_);
    table_.swap(other.table_);
  }

  // Removes the entries from `entry` on for which `condition(*entry)` is true; returns their
  // number.
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

  // Erases the slots of live objects for which `is_dead(slot)` is true; returns their number.
  template <typename IsDead>
  size_type EraseDead(IsDead&& is_dead) {
    size_type erased = 0;
    for (typename Table::Position position; Slot* const slot = table_.Next(position); ++position) {
      const H referent = slot->Lock();  // the payload may be read while its referent lives
      if (referent.get() == nullptr || !is_dead(*slot)) continue;
      table_.Erase(slot);
      ++erased;
    }
    return erased;
  }

  // Calls `take(entry)` for the entries of `other` and erases each for which it returned true,
  // unless a destructor has changed `other` during that call.
  template <typename Other, typename OtherTable, typename Take>
  void MoveEach(Other& other, OtherTable& table, Take&& take) {
    for (auto entry = other.begin(); entry != other.end(); ++entry) {
      const auto purged = table_.PurgeUpTo();  // its payloads end after the entry is erased
      const uint64_t version = table.version();
      if (take(*entry) && table.version() == version) table.Erase(entry.slot());
    }
  }

  // Returns `make(*entry)` for each entry from `entry` on.
  template <typename Element, typename EntryIterator, typename Make>
  std::vector<Element> Collect(EntryIterator entry, Make make) const {
    std::vector<Element> elements;
    elements.reserve(size());
    for (; entry != std::default_sentinel; ++entry) elements.push_back(make(*entry));
    return elements;
  }

  // Declared first, so that it outlives the table: destructors that run in ~Table may use both.
  [[no_unique_address]] Keys keys_;
  Table table_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_CONTAINER_H_
