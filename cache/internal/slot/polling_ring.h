// SPDX-License-Identifier: Apache-2.0
// A ring of the entries of a table whose handles notify nobody of their objects' death, such as
// std::shared_ptr: each operation that changes the table polls the next few.
//
// Free slots are not in the ring, so the dead entries are bounded by the live ones, not by the most
// slots that there were at a time.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_

#include <cstddef>
#include <utility>

namespace weakcache::internal {

// A slot's links in a ring; null outside of one.
template <typename Slot>
struct PollingPlace {
  Slot* previous = nullptr;
  Slot* next = nullptr;
};

// Where a slot has its place: by default in itself.
template <typename Slot>
struct PollingPlaceInSlot {
  static PollingPlace<Slot>& PollingPlaceOf(Slot* slot) { return slot->polling_place(); }
};

// Places::PollingPlaceOf(slot) belongs to the ring.
template <typename Slot, typename Places = PollingPlaceInSlot<Slot>>
class PollingRing {
 public:
  PollingRing() = default;
  PollingRing(const PollingRing&) = delete;
  PollingRing& operator=(const PollingRing&) = delete;

  void swap(PollingRing& other) noexcept {
    std::swap(last_, other.last_);
    std::swap(size_, other.size_);
  }

  bool empty() const { return last_ == nullptr; }
  size_t size() const { return size_; }

  // Enters a slot, which is polled last.
  void Enter(Slot* slot) {
    Slot* const last = last_ == nullptr ? slot : last_;
    Slot* const first = last_ == nullptr ? slot : Places::PollingPlaceOf(last).next;
    Places::PollingPlaceOf(slot) = {last, first};
    Places::PollingPlaceOf(last).next = Places::PollingPlaceOf(first).previous = slot;
    last_ = slot;
    ++size_;
  }
  void Leave(Slot* slot) {
    const PollingPlace<Slot> place = Places::PollingPlaceOf(slot);
    Places::PollingPlaceOf(place.previous).next = place.next;
    Places::PollingPlaceOf(place.next).previous = place.previous;
    if (slot == last_) last_ = place.previous == slot ? nullptr : place.previous;
    Places::PollingPlaceOf(slot) = {};
    --size_;
  }

  // Returns the slot to poll next. Precondition: the ring is not empty.
  Slot* Next() const { return Places::PollingPlaceOf(last_).next; }
  // Makes the slot that Next returned the last.
  void Pass() { last_ = Next(); }

 private:
  Slot* last_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_POLLING_RING_H_
