// SPDX-License-Identifier: Apache-2.0
// Keeps calls away from a server that fails: after some failures one after the other, it is asked
// once after a time, then once after twice that, and so on, until it has answered.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_CIRCUIT_BREAKER_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_CIRCUIT_BREAKER_H_

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Times that grow twofold with each failure. A random part of up to a half is taken off, so that
// the clients of a server that returns don't all come at once. Thread-compatible.
class Backoff {
 public:
  using Duration = std::chrono::steady_clock::duration;

  // `random` returns numbers from 0 to below 1.
  Backoff(Duration least, Duration most, std::function<double()> random)
      : least_(least), most_(most), next_(least), random_(std::move(random)) {}

  Duration Next() {
    const Duration full = next_;
    next_ = std::min(most_, next_ * 2);
    return std::chrono::duration_cast<Duration>(full * (1 - random_() / 2));
  }
  void Reset() { next_ = least_; }

 private:
  const Duration least_;
  const Duration most_;
  Duration next_;
  const std::function<double()> random_;
};

// Thread-safe.
class CircuitBreaker {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  enum class State { kClosed, kOpen, kHalfOpen };

  CircuitBreaker(int failures, Backoff backoff)
      : max_failures_(failures), backoff_(std::move(backoff)) {}

  // Returns whether a call may ask the server now. If so, the call reports its result later, by one
  // of the functions below.
  bool Allow(TimePoint now) {
    const MutexLock lock(mutex_);
    if (state_ == State::kClosed) return true;
    if (state_ == State::kHalfOpen || now < retry_) return false;
    state_ = State::kHalfOpen;
    return true;
  }
  void Succeeded() {
    const MutexLock lock(mutex_);
    state_ = State::kClosed;
    failures_ = 0;
    backoff_.Reset();
  }
  void Failed(TimePoint now) {
    const MutexLock lock(mutex_);
    // Others that were allowed before it opened tell nothing new.
    if (state_ == State::kOpen) return;
    if (state_ == State::kClosed && ++failures_ < max_failures_) return;
    state_ = State::kOpen;
    retry_ = now + backoff_.Next();
  }
  // The call has not asked, or has not waited for the answer.
  void Unclear() {
    const MutexLock lock(mutex_);
    // The time to try again has come already.
    if (state_ == State::kHalfOpen) state_ = State::kOpen;
  }

  // A call that was allowed: what came of it is unclear until it says so, also if it throws.
  class Call {
   public:
    explicit Call(CircuitBreaker& breaker) : breaker_(&breaker) {}
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call() {
      if (breaker_ != nullptr) breaker_->Unclear();
    }

    void Succeeded() { std::exchange(breaker_, nullptr)->Succeeded(); }
    void Failed(TimePoint now) { std::exchange(breaker_, nullptr)->Failed(now); }

   private:
    CircuitBreaker* breaker_;
  };

  State state() const {
    const MutexLock lock(mutex_);
    return state_;
  }

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;

  const int max_failures_;
  mutable Mutex mutex_;
  Backoff backoff_ ABSL_GUARDED_BY(mutex_);
  State state_ ABSL_GUARDED_BY(mutex_) = State::kClosed;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  TimePoint retry_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_CIRCUIT_BREAKER_H_
