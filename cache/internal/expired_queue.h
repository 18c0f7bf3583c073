// Where the slots of one container go when their referents expire: a lock-free stack that any
// thread pushes to and that the container empties in its own time (Treiber, 1986; taken only as a
// whole, so a node that comes back can confuse nobody).
#ifndef WEAKCACHE_CACHE_INTERNAL_EXPIRED_QUEUE_H_
#define WEAKCACHE_CACHE_INTERNAL_EXPIRED_QUEUE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// A Node has next() and set_next(), which are the queue's from the push until it is taken.
template <typename Policy, typename Node>
class BasicExpiredQueue {
 public:
  BasicExpiredQueue() = default;
  BasicExpiredQueue(const BasicExpiredQueue&) = delete;
  BasicExpiredQueue& operator=(const BasicExpiredQueue&) = delete;

  // How many referents have expired since the beginning. Exact for every release that happened
  // before.
  size_t expired_count() const {
    // Relaxed: whatever made the release happen before this call orders the count too.
    return expired_count_.load(std::memory_order_relaxed);
  }
  // Runs in the same critical section as what tells the container that it comes too late.
  void CountExpired() {
    // Relaxed: that critical section orders it.
    expired_count_.fetch_add(1, std::memory_order_relaxed);
  }

  // False if the queue is closed; the node is not touched then.
  [[nodiscard]] bool Push(Node* node) {
    uintptr_t head = head_.load(std::memory_order_relaxed);
    while (head != kClosed) {
      node->set_next(reinterpret_cast<Node*>(head));
      // Release pairs with the acquire in TakeAll and Close. Relaxed on failure: only compared.
      if (head_.compare_exchange_weak(head, reinterpret_cast<uintptr_t>(node),
                                      std::memory_order_release, std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  // The nodes pushed so far, linked by next(). Only the container calls this, before Close.
  Node* TakeAll() {
    // Relaxed: only a hint that there is nothing to do; a push that happened before is seen.
    if (head_.load(std::memory_order_relaxed) == 0) return nullptr;
    // Acquire pairs with the release in Push.
    return reinterpret_cast<Node*>(head_.exchange(0, std::memory_order_acquire));
  }

  // As TakeAll; later pushes are refused.
  Node* Close() {
    return reinterpret_cast<Node*>(head_.exchange(kClosed, std::memory_order_acquire));
  }

 private:
  static constexpr uintptr_t kClosed = 1;

  // The node pushed last; 0 if none; kClosed for good. Any thread pushes, the container takes.
  typename Policy::template Atomic<uintptr_t> head_{0};
  // Only grows. Written by whichever thread drops the last reference to a referent.
  typename Policy::template Atomic<size_t> expired_count_{0};
};

// Memory that outlives its container until the last of some other threads has left it. The
// container never waits for them: it says how many are still to leave, and the last of all frees
// the memory.
template <typename Policy>
class BasicDepartures {
 public:
  // By a thread that won't touch the memory any more. True if it has to free it.
  [[nodiscard]] bool Leave() {
    // Acquire and release: what each of the leavers did happens before the memory is freed.
    return outstanding_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

  // By the container, once: `still_to_leave` counts those that leave during this call or have left
  // already. True if all have, so that the container has to free the memory.
  [[nodiscard]] bool LeaveTo(size_t still_to_leave) {
    const size_t surplus = kOpen - still_to_leave;
    // Acquire and release: see Leave.
    return outstanding_.fetch_sub(surplus, std::memory_order_acq_rel) == surplus;
  }

 private:
  // More than can ever be to leave, so that the count reaches zero only after LeaveTo.
  static constexpr size_t kOpen = SIZE_MAX / 2;

  // kOpen while the container lives, then those still to leave; each takes one off, also before
  // LeaveTo. Whoever makes it zero frees the memory.
  typename Policy::template Atomic<size_t> outstanding_{kOpen};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_EXPIRED_QUEUE_H_
