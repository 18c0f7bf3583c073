// SPDX-License-Identifier: Apache-2.0
// The slots of one table, of both kinds: the external ones' pages and the embedded ones'.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_TABLE_PAGES_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_TABLE_PAGES_H_

#include <cstddef>

#include "weakcache/cache/internal/slot/teardown_count.h"

namespace weakcache::internal {

// ExternalSlots and EmbeddedSlots are SlotPages with the same Header. If not kHasEmbedded, the
// latter stay empty.
template <typename ExternalSlots, typename EmbeddedSlots, bool kHasEmbedded, typename Allocator,
          typename Policy>
class TablePages {
 public:
  // A position in the external slots' pages, or after them in the embedded slots'.
  class Position {
   public:
    Position& operator++() {
      ++(in_embedded_slots_ ? embedded_.slot : external_.slot);
      return *this;
    }

   private:
    friend class TablePages;
    bool in_embedded_slots_ = false;
    typename ExternalSlots::Position external_;
    typename EmbeddedSlots::Position embedded_;
  };

  explicit TablePages(const Allocator& allocator)
      : allocator_(allocator), external(allocator), embedded(allocator) {}

  const Allocator& allocator() const { return allocator_; }

  // Returns the number of slots, free or not.
  size_t size() const { return external.size() + embedded.size(); }

  // Returns the first slot at or after `position`, which becomes its position; null at the end.
  template <typename Slot>
  Slot* At(Position& position) const {
    if (!position.in_embedded_slots_) {
      if (Slot* const slot = external.At(position.external_)) return slot;
      position.in_embedded_slots_ = kHasEmbedded;
      if constexpr (!kHasEmbedded) return nullptr;
    }
    return embedded.At(position.embedded_);
  }

  void DropFreePages() {
    external.DropFreePages();
    if constexpr (kHasEmbedded) embedded.DropFreePages();
  }

  // Deletes the pages that no other thread needs, at the table's end, after the retire list was
  // closed. `count_outstanding(slot)` drops what a slot still refers to and returns how often the
  // slot will be pushed to the closed list, or has been. Returns whether all pages are gone; if
  // not, a later call of EndPage returns true.
  template <typename CountOutstanding>
  [[nodiscard]] bool Shutdown(CountOutstanding&& count_outstanding) {
    size_t pages_left = 0;
    external.Shutdown([&](auto* header, auto* slots, size_t size) {
      if (!Release<ExternalSlots>(header, slots, size, count_outstanding)) ++pages_left;
    });
    if constexpr (kHasEmbedded) {
      embedded.Shutdown([&](auto* header, auto* slots, size_t size) {
        if (!Release<EmbeddedSlots>(header, slots, size, count_outstanding)) ++pages_left;
      });
    }
    return teardown_count_.SetRemaining(pages_left);
  }
  // Deletes a page, by the last thread that needed it. Returns whether it was the last page.
  template <typename Header>
  [[nodiscard]] bool EndPage(Header* header, bool is_external) {
    if (is_external || !kHasEmbedded) {
      ExternalSlots::Delete(header, allocator_);
    } else {
      EmbeddedSlots::Delete(header, allocator_);
    }
    return teardown_count_.Decrement();
  }

  void CheckInvariantsForTesting() const {
    external.CheckInvariantsForTesting();
    if constexpr (kHasEmbedded) embedded.CheckInvariantsForTesting();
  }

 private:
  template <typename Slots, typename Header, typename Slot, typename CountOutstanding>
  bool Release(Header* header, Slot* slots, size_t size, CountOutstanding& count_outstanding) {
    size_t outstanding = 0;
    for (size_t i = 0; i < size; ++i) outstanding += count_outstanding(&slots[i]);
    if (!header->SetRemaining(outstanding)) return false;
    Slots::Delete(header, allocator_);
    return true;
  }

  [[no_unique_address]] Allocator allocator_;

 public:
  ExternalSlots external;
  EmbeddedSlots embedded;

 private:
  BasicTeardownCount<Policy> teardown_count_;  // of pages, after the table's end
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_TABLE_PAGES_H_
