// SPDX-License-Identifier: Apache-2.0
// The outcome of a load that another thread makes, for a caller that waits only for some time.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_AWAITED_OUTCOME_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_AWAITED_OUTCOME_H_

#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe. The load and the caller own this together.
template <typename V>
class AwaitedOutcome {
 public:
  AwaitedOutcome() = default;
  AwaitedOutcome(const AwaitedOutcome&) = delete;
  AwaitedOutcome& operator=(const AwaitedOutcome&) = delete;

  // Called once. Drops the outcome if nobody waits any more.
  void Set(LoadOutcome<V> outcome) {
    Lock lock(mutex_);
    if (has_left_) return;
    outcome_.emplace(std::move(outcome));
    has_come_.NotifyAll();
  }
  // Called once. Returns nothing if the wait has ended before the outcome has come.
  std::optional<LoadOutcome<V>> Await(BoundedWait& wait) {
    wait.BeginWait();
    const WakeIfCancelled wake(wait, [this] {
      { Lock lock(mutex_); }  // after which the thread sleeps, if it has looked already
      has_come_.NotifyAll();
    });
    Lock lock(mutex_);
    WaitFor(
        has_come_, mutex_,
        [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return outcome_.has_value() || wait.cancelled(); },
        wait);
    has_left_ = true;
    return std::move(outcome_);
  }

 private:
  using Lock = BasicMutexLock<StdAtomics>;

  BasicMutex<StdAtomics> mutex_;
  BasicCondition<StdAtomics> has_come_;
  std::optional<LoadOutcome<V>> outcome_ ABSL_GUARDED_BY(mutex_);
  bool has_left_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_AWAITED_OUTCOME_H_
