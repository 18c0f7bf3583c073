// SPDX-License-Identifier: Apache-2.0
// Where the slots of one container go when their referents expire: a lock-free stack that any
// thread pushes to and that the container empties in its own time (Treiber, 1986; taken only as a
// whole, so a node that comes back can confuse nobody).
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_RETIRE_LIST_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_RETIRE_LIST_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// A Node has next() and set_next(), which are the queue's from the push until it is taken.
template <typename Policy, typename Node>
class BasicRetireList {
 public:
  BasicRetireList() = default;
  BasicRetireList(const BasicRetireList&) = delete;
  BasicRetireList& operator=(const BasicRetireList&) = delete;

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

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_RETIRE_LIST_H_
