// SPDX-License-Identifier: Apache-2.0
// Bounds how long a thread waits for another's creation, and counts those that still wait for one.
//
// A thread leaves a wait at its deadline, or when its stop token says so; the creation goes on for
// the others. A creation whose factory can be stopped counts those that wait for it, its own caller
// included. The last one that leaves asks the factory to stop.
#ifndef WEAKCACHE_CACHE_INTERNAL_CREATION_BOUNDED_WAIT_H_
#define WEAKCACHE_CACHE_INTERNAL_CREATION_BOUNDED_WAIT_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

using SteadyTime = std::chrono::steady_clock::time_point;

// The patience of a caller that has nothing else than what it waits for.
inline constexpr std::chrono::nanoseconds kEndlessPatience = std::chrono::nanoseconds::max();

// A wait without an end of its own.
struct UnboundedWait {
  static constexpr bool ended() { return false; }
  static constexpr bool cancelled() { return false; }
  static constexpr bool has_deadline() { return false; }
  static constexpr SteadyTime deadline() { return SteadyTime::max(); }
  static void StopLater(const StopSource& /*unused*/) {}
};

// The waits of one call. Declare it before locks, flights and permits: its destructor runs the
// callbacks of a factory that this call has been the last to wait for.
class BoundedWait {
 public:
  // A caller with `patience` leaves so long after its first BeginWait, too.
  BoundedWait(SteadyTime deadline, StopToken token,
              std::chrono::nanoseconds patience = kEndlessPatience)
      : deadline_(deadline), patience_(patience), token_(std::move(token)) {}
  BoundedWait(const BoundedWait&) = delete;
  BoundedWait& operator=(const BoundedWait&) = delete;
  ~BoundedWait() {
    if (to_stop_.stop_possible()) to_stop_.request_stop();
  }

  // Returns whether the thread has to leave.
  bool ended() const { return cancelled() || late(); }
  bool cancelled() const { return token_.stop_requested(); }
  bool late() const { return has_deadline() && std::chrono::steady_clock::now() >= deadline_; }
  bool has_deadline() const { return deadline_ != SteadyTime::max(); }
  SteadyTime deadline() const { return deadline_; }
  const StopToken& stop_token() const { return token_; }

  // Has to be called before the thread sleeps for the first time; may be called again.
  void BeginWait() {
    if (patience_ == kEndlessPatience) [[likely]]
      return;
    const SteadyTime now = std::chrono::steady_clock::now();
    if (patience_ < SteadyTime::max() - now) deadline_ = std::min(deadline_, now + patience_);
    patience_ = kEndlessPatience;
  }

  // Lets the destructor stop a factory. Allocates nothing, so that it may be called under a lock.
  void StopLater(StopSource source) { to_stop_ = std::move(source); }

 private:
  SteadyTime deadline_;
  std::chrono::nanoseconds patience_;  // until the wait begins
  const StopToken token_;
  StopSource to_stop_{kNoStopState};
};

// Waits on a condition until the predicate is true, or the wait's deadline has come. Whoever
// cancels the wait has to wake its thread, and the predicate has to look whether the wait was
// cancelled.
template <typename Policy, typename Predicate, typename Wait>
void WaitFor(BasicCondition<Policy>& condition, BasicMutex<Policy>& mutex, Predicate&& predicate,
             const Wait& wait) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
  if (wait.has_deadline()) {
    condition.WaitUntil(mutex, predicate, wait.deadline());
  } else {
    condition.Wait(mutex, predicate);
  }
}

// Counts those that wait for one creation, or for several that one call of a factory makes.
// Thread-safe.
template <typename Policy>
class BasicInterest {
 public:
  // Begins with the caller, who runs the factory. No timer watches the caller's deadline: if the
  // last other one leaves after it, the caller counts as gone, too.
  explicit BasicInterest(SteadyTime deadline_of_caller, StopSource source = StopSource())
      : deadline_of_caller_(deadline_of_caller), source_(std::move(source)) {}
  BasicInterest(const BasicInterest&) = delete;
  BasicInterest& operator=(const BasicInterest&) = delete;

  const StopSource& source() const { return source_; }
  // Returns whether the factory has been asked to stop.
  bool stopped() const { return source_.stop_requested(); }

  void Join() { waiting_.fetch_add(1, std::memory_order_relaxed); }
  // Does the same for each of a list.
  template <typename Continuations>
  void Join(const Continuations& continuations) {
    waiting_.fetch_add(continuations.size(), std::memory_order_relaxed);
  }
  // Both return whether nobody is left: then the caller has to stop the factory, without a lock.
  bool Leave() {
    const size_t before = waiting_.fetch_sub(1, std::memory_order_relaxed);
    if (before == 2 && deadline_of_caller_ != SteadyTime::max() &&
        std::chrono::steady_clock::now() >= deadline_of_caller_) {
      return CallerLeaves();
    }
    return before == 1;
  }
  bool CallerLeaves() {
    return !caller_has_left_.exchange(true, std::memory_order_relaxed) &&
           waiting_.fetch_sub(1, std::memory_order_relaxed) == 1;
  }

 private:
  const SteadyTime deadline_of_caller_;
  const StopSource source_;
  // How many wait, with the caller unless `caller_has_left_`. Whoever waits adds 1 as it joins, and
  // takes it off as it leaves before the end. Relaxed, both: nothing is read by reason of them; the
  // request to stop has orders of its own.
  typename Policy::template Atomic<size_t> waiting_{1};
  // Set once, by whoever notices it.
  typename Policy::template Atomic<bool> caller_has_left_{false};
};
using Interest = BasicInterest<StdAtomics>;

// Makes the caller of a load leave when its stop token says so, as long as this lives. Declare it
// before flights and permits: its destructor waits for callbacks of the factory.
class CallerCancellation {
 public:
  CallerCancellation() = default;
  CallerCancellation(const CallerCancellation&) = delete;
  CallerCancellation& operator=(const CallerCancellation&) = delete;
  // `interest` may be null.
  void Watch(Interest* interest, const StopToken& token) {
    if (interest != nullptr && token.stop_possible()) callback_.emplace(token, Callback{interest});
  }

 private:
  struct Callback {
    void operator()() const {
      if (!interest->CallerLeaves()) return;
      StopSource source = interest->source();
      source.request_stop();
    }
    Interest* interest;
  };
  std::optional<StopCallback<Callback>> callback_;
};

// Calls `wake()` when the wait is cancelled, on the thread that cancels it, for as long as this
// lives. Construct and destroy it without a lock that `wake` takes.
template <typename Wake>
class WakeIfCancelled {
 public:
  WakeIfCancelled(const BoundedWait& wait, Wake wake)
      : callback_(wait.stop_token(), std::move(wake)) {}
  WakeIfCancelled(const WakeIfCancelled&) = delete;
  WakeIfCancelled& operator=(const WakeIfCancelled&) = delete;

 private:
  // Registers nothing if the token can't be stopped.
  const StopCallback<Wake> callback_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CREATION_BOUNDED_WAIT_H_
