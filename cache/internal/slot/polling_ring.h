// SPDX-License-Identifier: Apache-2.0
// A ring of the entries of a table whose handles notify nobody of their objects' death, such as
// std::shared_ptr: each operation that changes the table polls the next few.
//
// Free slots are not in the ring, so the dead entries are bounded by the live ones, not by the most
// slots that there were at a time.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_

#include <cstddef>

namespace weakcache::internal {

// A slot's links in a ring; null outside of one.
template <typename Slot>
struct PollingPlace {
  Slot* previous = nullptr;
  Slot* next = nullptr;
};

// Slot has polling_place(), which belongs to the ring.
template <typename Slot>
class PollingRing {
 public:
  PollingRing() = default;
  PollingRing(const PollingRing&) = delete;
  PollingRing& operator=(const PollingRing&) = delete;

  size_t size() const { return size_; }

  // Enters a slot, which is polled last.
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

  // Returns the slot to poll next. Precondition: the ring is not empty.
  Slot* Next() const { return last_->polling_place().next; }
  // Makes the slot that Next returned the last.
  void Pass() { last_ = Next(); }

 private:
  Slot* last_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_
