// SPDX-License-Identifier: Apache-2.0
// Iteration over the live entries of a weak container.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_LIVE_ITERATOR_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_LIVE_ITERATOR_H_

#include <cstddef>
#include <iterator>
#include <memory>
#include <type_traits>

#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// Iterates over live entries and holds a strong reference to the current object. `Entry` is either
// constructed from the slot and that reference, or is the reference; if it has a static member
// IsLive(slot), entries for which that is false are skipped. Insertions, erasures and expiries do
// not invalidate the iterator; moving or destroying the container does.
template <typename Table, typename H, typename Entry>
class LiveIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using difference_type = std::ptrdiff_t;
  using value_type = std::remove_cvref_t<Entry>;

  explicit LiveIterator(const Table* table) : table_(table) { FindLive(); }

  // Makes `iterator->key` work although entries exist only as temporaries.
  struct pointer {
    Entry entry;
    const std::remove_reference_t<Entry>* operator->() const { return std::addressof(entry); }
  };
  using reference = Entry;

  // Returns the current entry. Precondition: not the end.
  Entry operator*() const {
    Check(slot_ != nullptr, "iterator::operator*", "it is at the end");
    if constexpr (std::is_same_v<Entry, const H&>) {
      return referent_;
    } else {
      return Entry(*slot_, referent_);
    }
  }

  pointer operator->() const { return {**this}; }

  LiveIterator& operator++() {
    ++position_;
    FindLive();
    return *this;
  }
  void operator++(int) { ++*this; }

  friend bool operator==(const LiveIterator& iterator, std::default_sentinel_t) {
    return iterator.slot_ == nullptr;
  }

  // Returns the slot of the current entry, for the container's own loops.
  typename Table::Slot* slot() const { return slot_; }

 private:
  static bool IsLive(typename Table::Slot& slot) {
    if constexpr (requires { Entry::IsLive(slot); }) {
      return Entry::IsLive(slot);
    } else {
      return true;
    }
  }

  void FindLive() {
    for (;; ++position_) {
      // Drops the reference first: a destructor that runs here may erase the next entry.
      referent_ = H();
      slot_ = table_->Next(position_);
      if (slot_ == nullptr) return;
      referent_ = slot_->Lock();
      if (referent_.get() != nullptr && IsLive(*slot_)) return;
    }
  }

  const Table* table_;
  typename Table::Position position_;
  typename Table::Slot* slot_ = nullptr;
  H referent_{};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_LIVE_ITERATOR_H_
