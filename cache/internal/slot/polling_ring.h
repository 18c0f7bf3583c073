// SPDX-License-Identifier: Apache-2.0
// The entries of a table whose handles can't notify of their objects' ends, such as std::weak_ptr,
// in a ring: the table looks at the next few of them in each operation that changes it.
//
// Only entries are in it, so the dead ones are bounded by the live ones, not by the most slots that
// there were at a time.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_

#include <cstddef>

namespace weakcache::internal {

// A place in a ring. Both are null outside of one.
template <typename Slot>
struct PollingPlace {
  Slot* previous = nullptr;
  Slot* next = nullptr;
};

// Slot has polling_place(), which is the ring's.
template <typename Slot>
class PollingRing {
 public:
  PollingRing() = default;
  PollingRing(const PollingRing&) = delete;
  PollingRing& operator=(const PollingRing&) = delete;

  size_t size() const { return size_; }

  // Enters a slot as the last that is looked at.
  void Enter(Slot* slot) {
    Slot* const last = last_ == nullptr ? slot : last_;
    Slot* const first = last_ == nullptr ? slot : last->polling_place().next;
    slot->polling_place() = {last, first};
    last->polling_place().next = first->polling_place().previous = slot;
    last_ = slot;
    ++size_;
  }
  void Leave(Slot* slot) {
    const PollingPlace<Slot> place = slot->polling_place();
    place.previous->polling_place().next = place.next;
    place.next->polling_place().previous = place.previous;
    if (slot == last_) last_ = place.previous == slot ? nullptr : place.previous;
    slot->polling_place() = {};
    --size_;
  }

  // Returns the slot to look at next. Precondition: the ring is not empty.
  Slot* Next() const { return last_->polling_place().next; }
  // Makes the slot that Next returned the last.
  void Pass() { last_ = Next(); }

 private:
  Slot* last_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_
