// SPDX-License-Identifier: Apache-2.0
// At most so many loads at a time.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_

#include <cstddef>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe. A load inside a load, on the same thread, needs no location of its own: the outer
// one would wait for it while it waits for the outer one's.
class LoadLimiter {
 public:
  // 0: as many as there are.
  explicit LoadLimiter(size_t limit) : limit_(limit) {}
  LoadLimiter(const LoadLimiter&) = delete;
  LoadLimiter& operator=(const LoadLimiter&) = delete;

 private:
  friend class LoadPermit;
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;

  // How many permits a thread has, of any cache, also one without a limit. One cache's loads inside
  // another's count as nested, too: two caches whose loaders use each other must not wait for each
  // other either.
  struct Nesting {
    size_t depth;
  };
  static size_t& Depth() { return StdAtomics::ThreadLocal<Nesting>().depth; }

  bool TryAcquire() {
    if (Depth() == 0 && limit_ != 0) {
      MutexLock lock(mutex_);
      if (running_ == limit_) return false;
      ++running_;
    }
    ++Depth();
    return true;
  }
  void Acquire() {
    if (Depth() == 0 && limit_ != 0) {
      MutexLock lock(mutex_);
      released_.Wait(mutex_, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return running_ < limit_; });
      ++running_;
    }
    ++Depth();
  }
  void Release() {
    if (--Depth() > 0 || limit_ == 0) return;
    MutexLock lock(mutex_);
    --running_;
    released_.NotifyAll();
  }

  const size_t limit_;
  // Taken under a shard's lock, or none; nothing is taken under it.
  Mutex mutex_;
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  BasicCondition<StdAtomics> released_;
};

// RAII permit for one load, on one thread.
class LoadPermit {
 public:
  explicit LoadPermit(LoadLimiter& limiter) : limiter_(limiter) {}
  LoadPermit(const LoadPermit&) = delete;
  LoadPermit& operator=(const LoadPermit&) = delete;
  ~LoadPermit() {
    if (acquired_) limiter_.Release();
  }

  // Whether nobody ever waits for one.
  bool unlimited() const { return limiter_.limit_ == 0; }
  bool TryAcquire() {
    acquired_ = acquired_ || limiter_.TryAcquire();
    return acquired_;
  }
  // Waits if need be.
  void Acquire() {
    if (acquired_) return;
    limiter_.Acquire();
    acquired_ = true;
  }

 private:
  LoadLimiter& limiter_;
  bool acquired_ = false;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_
