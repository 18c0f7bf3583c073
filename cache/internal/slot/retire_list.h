// SPDX-License-Identifier: Apache-2.0
// The slots of one container whose referents have expired: a lock-free stack that any thread pushes
// to and that the container takes as a whole from time to time (Treiber, 1986). Because nodes are
// never popped singly, a node that is pushed again cannot cause an ABA problem.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_RETIRE_LIST_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_RETIRE_LIST_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// A Node has next() and set_next(). The list owns them from the push until the node is taken.
template <typename Policy, typename Node>
class BasicRetireList {
 public:
  BasicRetireList() = default;
  BasicRetireList(const BasicRetireList&) = delete;
  BasicRetireList& operator=(const BasicRetireList&) = delete;

  // Returns how many referents have expired since the list was made, including every release that
  // happened before this call.
  size_t expired_count() const {
    // Relaxed: whatever made the release happen before this call orders the count too.
    return expired_count_.load(std::memory_order_relaxed);
  }
  // Counts an expiry. Runs in the same critical section that makes a later Detach of the container
  // fail.
  void CountExpired() {
    // Relaxed: that critical section orders it.
    expired_count_.fetch_add(1, std::memory_order_relaxed);
  }

  // Returns false, without touching the node, if the list is closed.
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

  // Takes all nodes, linked by next(). Only the container calls this, before Close.
  Node* TakeAll() {
    // Relaxed: only a hint that the list is empty. A push that happened before is seen.
    if (head_.load(std::memory_order_relaxed) == 0) return nullptr;
    // Acquire pairs with the release in Push.
    return reinterpret_cast<Node*>(head_.exchange(0, std::memory_order_acquire));
  }

  // Returns whether Close has been called. Relaxed: a hint.
  bool closed() const { return head_.load(std::memory_order_relaxed) == kClosed; }

  // Takes all nodes; later pushes are refused.
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
