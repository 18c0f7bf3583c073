// SPDX-License-Identifier: Apache-2.0
// At most so many loads at a time.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_

#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe. A load inside a load, on the same thread, needs no permit of its own: the outer load
// would wait for the inner one, and that for the outer one's permit.
//
// A thread never waits in here for a permit as such, but for a change, after which it looks again
// whether its object has come by now, whether another thread is loading it, and only then whether
// it gets a permit:
//
//   for (;;) {
//     const uint64_t changes = limiter.changes();
//     if (ObjectIsThere() || AnotherThreadLoadsIt() || permit.TryAcquire()) break;
//     limiter.AwaitChange(changes);
//   }
class LoadLimiter {
 public:
  // 0: no limit.
  explicit LoadLimiter(size_t limit) : limit_(limit) {}
  LoadLimiter(const LoadLimiter&) = delete;
  LoadLimiter& operator=(const LoadLimiter&) = delete;

  // Returns a number that differs after each change.
  uint64_t changes() {
    if (limit_ == 0) return 0;
    MutexLock lock(mutex_);
    return changes_;
  }
  // Waits until there has been a change since changes() returned `seen`: a permit has been
  // returned, or NotifyChange() called. Precondition: there is a limit, and the caller holds no
  // lock, flight or permit of the cache's.
  void AwaitChange(uint64_t seen) {
    MutexLock lock(mutex_);
    changed_.Wait(mutex_, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return changes_ != seen; });
  }
  // Has to be called after an object has entered the cache by other ways than a load.
  void NotifyChange() {
    if (limit_ == 0) return;
    MutexLock lock(mutex_);
    ++changes_;
    changed_.NotifyAll();
  }

 private:
  friend class LoadPermit;
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;

  // How many permits a thread has, of any cache, also of one without a limit. A load of one cache
  // inside one of another's counts as nested, too: two caches whose loaders use each other must not
  // wait for each other either.
  struct Nesting {
    size_t depth;
  };
  static size_t& Depth() { return StdAtomics::ThreadLocal<Nesting>().depth; }

  bool HasPermit() {
    if (Depth() != 0 || limit_ == 0) return true;
    MutexLock lock(mutex_);
    return running_ < limit_;
  }
  bool TryAcquire() {
    if (Depth() == 0 && limit_ != 0) {
      MutexLock lock(mutex_);
      if (running_ == limit_) return false;
      ++running_;
    }
    ++Depth();
    return true;
  }
  void Release() {
    const bool nested = --Depth() > 0;
    if (limit_ == 0) return;
    MutexLock lock(mutex_);
    if (!nested) --running_;
    ++changes_;
    changed_.NotifyAll();
  }

  const size_t limit_;
  // Taken under a shard's lock, or none; no other lock is taken under it.
  Mutex mutex_;
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  BasicCondition<StdAtomics> changed_;
};

// RAII permit for one load, on one thread.
class LoadPermit {
 public:
  explicit LoadPermit(LoadLimiter& limiter) : limiter_(limiter) {}
  LoadPermit(const LoadPermit&) = delete;
  LoadPermit& operator=(const LoadPermit&) = delete;
  ~LoadPermit() { Release(); }

  // Whether TryAcquire always succeeds.
  bool unlimited() const { return limiter_.limit_ == 0; }
  // Whether TryAcquire would succeed, if no other thread came first.
  bool available() { return acquired_ || limiter_.HasPermit(); }
  // Takes a permit, unless it has one. False if there is none to be had.
  bool TryAcquire() {
    acquired_ = acquired_ || limiter_.TryAcquire();
    return acquired_;
  }
  void Release() {
    if (acquired_) limiter_.Release();
    acquired_ = false;
  }

 private:
  LoadLimiter& limiter_;
  bool acquired_ = false;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_
