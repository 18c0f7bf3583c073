// SPDX-License-Identifier: Apache-2.0
// Decides which thread ends a load whose result comes by a completion, on any thread.
//
// Three may want to end it: the thread that calls or drops the completion, the thread that has
// called the loader, and the end of the cache. As long as the loader runs, only the second may: a
// completion that comes earlier leaves its result there. Afterwards whoever comes first ends it.
//
//   completion called, loader returns      the loader's thread ends the load, with the result
//   loader returns, completion called      the completing thread does
//   loader returns, the cache ends         the ending one does; a completion called later finds out
//   loader throws                          the loader's thread does, with what was thrown
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_COMPLETION_HANDOFF_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_COMPLETION_HANDOFF_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Whoever gets true ends the load. Result is movable.
template <typename Policy, typename Result>
class BasicCompletionHandoff {
 public:
  BasicCompletionHandoff() = default;
  BasicCompletionHandoff(const BasicCompletionHandoff&) = delete;
  BasicCompletionHandoff& operator=(const BasicCompletionHandoff&) = delete;

  // Returns whether the calling thread, which completes the load, ends it. If not, then either
  // `result` has been moved to the loader's thread, or the load has ended without it. Called once.
  [[nodiscard]] bool Complete(Result& result) {
    uint32_t state = kLoading;
    // Relaxed: TryEnd looks at any other state.
    if (state_.load(std::memory_order_relaxed) == kLoading) {
      result_ = std::move(result);
      // Release pairs with the acquires in LoaderReturned and LoaderFailed. On failure as above.
      if (state_.compare_exchange_strong(state, kCompleted, std::memory_order_release,
                                         std::memory_order_relaxed)) {
        return false;
      }
      result = std::move(result_);
    }
    return TryEnd();
  }
  // Returns whether the completion has come, whose result goes to `result`. Called by the loader's
  // thread, after all else that it does with the load.
  [[nodiscard]] bool LoaderReturned(Result& result) {
    uint32_t state = kLoading;
    // Release pairs with the acquire in TryEnd. Acquire pairs with the release in Complete.
    if (state_.compare_exchange_strong(state, kReturned, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      return false;
    }
    result = std::move(result_);
    // Relaxed: nobody else does anything with a load that is in kCompleted.
    state_.store(kEnded, std::memory_order_relaxed);
    return true;
  }
  // Lets the loader's thread, which calls this, end the load in any case. A result that has come
  // goes to `unwanted`.
  void LoaderFailed(Result& unwanted) {
    // Acquire as in LoaderReturned. No release: who finds kEnded does nothing more.
    if (state_.exchange(kEnded, std::memory_order_acquire) == kCompleted) {
      unwanted = std::move(result_);
    }
  }
  // Returns whether the caller ends the load. Called by any thread, after the loader has returned.
  [[nodiscard]] bool TryEnd() {
    uint32_t state = kReturned;
    // Acquire pairs with the release in LoaderReturned: who ends the load sees all that the
    // loader's thread has done with it. Nothing is read on failure.
    return state_.compare_exchange_strong(state, kEnded, std::memory_order_acquire,
                                          std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kLoading = 0;    // the loader runs
  static constexpr uint32_t kCompleted = 1;  // it runs still, and `result_` has come
  static constexpr uint32_t kReturned = 2;   // it has returned before the completion
  static constexpr uint32_t kEnded = 3;      // somebody ends the load, or has ended it

  // From kLoading to kCompleted by the completing thread; from there to kEnded, or from kLoading to
  // kReturned or, if the loader fails, kEnded by the loader's thread; from kReturned to kEnded by
  // anybody.
  typename Policy::template Atomic<uint32_t> state_{kLoading};
  // Written by the completing thread in kLoading, and moved out by whoever changes the state next.
  Result result_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_COMPLETION_HANDOFF_H_
