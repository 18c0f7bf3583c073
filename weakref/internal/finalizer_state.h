// SPDX-License-Identifier: Apache-2.0
// The two atomics of one finalizer, which decide who runs it and who frees it.
//
// Several threads may compete for the function: the one that drops the last reference, those that
// call or detach through a handle, and the run at exit. The first one to claim it has it for
// itself. States:
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

  // Returns whether the function is unclaimed. Acquire pairs with the release in TryClaim: a caller
  // that sees the claim sees what the claiming thread did before, such as the referent's
  // destructor.
  bool pending() const { return claimed_.load(std::memory_order_acquire) == 0; }

  // Claims the function. Returns true to one caller, once. The caller is an owner.
  [[nodiscard]] bool TryClaim() {
    // Release: see pending(). Acquire: a caller that comes too late sees what pending() would show.
    return claimed_.exchange(1, std::memory_order_acq_rel) == 0;
  }

  // Adds an owner. The caller is one.
  void AddOwner() {
    // Relaxed: the caller's ownership keeps the finalizer, and the caller got it in order.
    const Count before = owners_.fetch_add(1, std::memory_order_relaxed);
    // Half of what would wrap: fewer threads than that can add before one of them aborts.
    constexpr Count kLimit = static_cast<Count>(static_cast<Count>(~Count{0}) / 2);
    Check(before < kLimit, "Finalizer", "too many handles to one finalizer");
  }

  // Drops an owner. Returns true if it was the last: the caller frees the finalizer.
  [[nodiscard]] bool DropOwner() {
    // Acquire pairs with release: what every owner did happens before the finalizer is freed.
    return owners_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

 private:
  // Invariant: 1 once the function has been claimed. Written by every caller of TryClaim.
  // Transitions: 0 to 1, once; later claims write 1 again.
  typename Policy::template Atomic<uint32_t> claimed_{0};

  // Invariant: the number of handles, plus one for the referent's watcher list or the thread that
  // took the finalizer off it, plus one for the exit registry or the thread that took it off that.
  // Written by every owner. Transitions: n to n + 1 and n to n - 1 by an owner; never from 0.
  typename Policy::template Atomic<Count> owners_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_FINALIZER_STATE_H_
