// SPDX-License-Identifier: Apache-2.0
// std::mutex and its condition variable with annotations for clang's -Wthread-safety, and open to a
// model checker. (ThreadSanitizer can't see into an absl::Mutex that was not built for it.)
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_MUTEX_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_MUTEX_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

template <typename Policy>
struct MutexesOf {
  using Mutex = std::mutex;
  using ConditionVariable = std::condition_variable;

  // Tries a few times before it sleeps: critical sections take a fraction of a microsecond,
  // sleeping and waking takes many.
  static void Lock(Mutex& mutex) {
    constexpr int kAttempts = 32;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      if (mutex.try_lock()) return;
      Policy::Pause(attempt);
    }
    mutex.lock();
  }
};

template <typename Policy>
class ABSL_LOCKABLE BasicMutex {
 public:
  BasicMutex() = default;
  BasicMutex(const BasicMutex&) = delete;
  BasicMutex& operator=(const BasicMutex&) = delete;

  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { MutexesOf<Policy>::Lock(mutex_); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  template <typename AnyPolicy>
  friend class BasicCondition;

  typename MutexesOf<Policy>::Mutex mutex_;
};

// Holds a mutex for its lifetime, except between unlock() and lock().
template <typename Policy>
class ABSL_SCOPED_LOCKABLE BasicMutexLock {
 public:
  explicit BasicMutexLock(BasicMutex<Policy>& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : mutex_(mutex) {
    mutex_.lock();
  }
  BasicMutexLock(const BasicMutexLock&) = delete;
  BasicMutexLock& operator=(const BasicMutexLock&) = delete;
  ~BasicMutexLock() ABSL_UNLOCK_FUNCTION() {
    if (locked_) mutex_.unlock();
  }

  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    mutex_.lock();
    locked_ = true;
  }
  void unlock() ABSL_UNLOCK_FUNCTION() {
    locked_ = false;
    mutex_.unlock();
  }

 private:
  BasicMutex<Policy>& mutex_;
  bool locked_ = true;
};

template <typename Policy>
class BasicCondition {
 public:
  // Waits until the predicate is true. The caller holds the mutex before and afterwards, also if
  // the thread is cancelled meanwhile and so leaves by an unwinding.
  template <typename Predicate>
  void Wait(BasicMutex<Policy>& mutex, Predicate&& predicate) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    UniqueLock lock(mutex.mutex_, std::adopt_lock);
    const Disown disown{lock};
    while (!predicate()) condition_.wait(lock);
  }
  // Waits until the predicate is true, or the deadline, with a look at the predicate after it.
  template <typename Predicate, typename TimePoint>
  void WaitUntil(BasicMutex<Policy>& mutex, Predicate&& predicate, const TimePoint& deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    UniqueLock lock(mutex.mutex_, std::adopt_lock);
    const Disown disown{lock};
    while (!predicate()) {
      if (condition_.wait_until(lock, deadline) == std::cv_status::timeout) return;
    }
  }
  void NotifyAll() { condition_.notify_all(); }

 private:
  using UniqueLock = std::unique_lock<typename MutexesOf<Policy>::Mutex>;
  // Leaves the mutex locked, which is the caller's to unlock.
  struct Disown {
    ~Disown() { lock.release(); }
    UniqueLock& lock;
  };

  typename MutexesOf<Policy>::ConditionVariable condition_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_MUTEX_H_
