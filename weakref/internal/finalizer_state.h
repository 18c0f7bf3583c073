// SPDX-License-Identifier: Apache-2.0
// Who runs a finalizer, and who frees it: the two atomics of one finalizer.
//
// Any number of threads may want to run its function or to give it back: the one that drops the
// last reference, those that call or detach through a handle, and the run at exit. One of them
// claims it, and from then on the function is its alone. States:
//
//   pending --TryClaim, by any owner--> claimed      (final)
#ifndef WEAKCACHE_WEAKREF_INTERNAL_FINALIZER_STATE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_FINALIZER_STATE_H_

#include <atomic>
#include <cstdint>

#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

template <typename Policy>
class BasicFinalizerState {
 public:
  using Count = typename Policy::CountWord;

  explicit BasicFinalizerState(Count owners) : owners_(owners) {}
  BasicFinalizerState(const BasicFinalizerState&) = delete;
  BasicFinalizerState& operator=(const BasicFinalizerState&) = delete;

  // Acquire pairs with the release in TryClaim: who sees that it is no longer pending sees all that
  // the claimer had done before, and so the effects of the destructor if the referent has expired.
  bool pending() const { return claimed_.load(std::memory_order_acquire) == 0; }

  // True for one caller, once. The caller is an owner.
  [[nodiscard]] bool TryClaim() {
    // Release: see pending(). Acquire: a caller that comes too late sees as much as one that asks
    // pending().
    return claimed_.exchange(1, std::memory_order_acq_rel) == 0;
  }

  // The caller is an owner.
  void AddOwner() {
    // Relaxed: the caller's own share keeps the finalizer, and was handed over to it in order.
    const Count before = owners_.fetch_add(1, std::memory_order_relaxed);
    // Half of what would wrap: no more threads than that can count before one of them aborts.
    constexpr Count kLimit = static_cast<Count>(static_cast<Count>(~Count{0}) / 2);
    Check(before < kLimit, "Finalizer", "too many handles to one finalizer");
  }

  // True if it was the last owner: the caller frees the finalizer.
  [[nodiscard]] bool DropOwner() {
    // Release pairs with acquire: what every owner did, above all the claimer with the function,
    // happens before the finalizer is freed.
    return owners_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

 private:
  // Invariant: 1 from the moment when somebody has the right to the function. Written by whoever
  // claims. Transitions: 0 to 1, once; later claims write 1 again.
  typename Policy::template Atomic<uint32_t> claimed_{0};

  // Invariant: the handles, plus one for the referent's watcher list (or the thread that has taken
  // the finalizer off it), plus one for the registry of those that run at exit (or the thread that
  // has taken it off that). Written by every owner. Transitions: n to n + 1 by an owner, and n to
  // n - 1, never from 0.
  typename Policy::template Atomic<Count> owners_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_FINALIZER_STATE_H_
