// SPDX-License-Identifier: Apache-2.0
// The threads that wait until another process's load has ended. The thread that reads notices wakes
// them itself.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_LEAD_WAITERS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_LEAD_WAITERS_H_

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/redis/connection.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe.
class LeadWaiters {
 public:
  class Waiter;

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;
  // Its iterators stay valid while others come and go.
  using Waiters = std::multimap<std::string, Waiter*, std::less<>>;

 public:
  // A thread that waits for a key from the construction on: it misses no notice between its look at
  // the server and Wait.
  class Waiter {
   public:
    Waiter(LeadWaiters& waiters, std::string_view key) : waiters_(waiters) {
      const MutexLock lock(waiters_.mutex_);
      place_ = waiters_.waiters_.emplace(key, this);
    }
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    ~Waiter() {
      const MutexLock lock(waiters_.mutex_);
      waiters_.waiters_.erase(place_);
    }

    // Waits until a notice has come since the last call, or the deadline, or a stop.
    void Wait(Deadline deadline, const StopToken& stop) {
      const auto wake = [this] { waiters_.woken_.NotifyAll(); };
      const auto stopped = [&] {
        // Else the stop could come between the look at it and the sleep.
        { const MutexLock lock(waiters_.mutex_); }
        wake();
      };
      const StopCallback<decltype(stopped)> callback(stop, stopped);
      const MutexLock lock(waiters_.mutex_);
      waiters_.woken_.WaitUntil(
          waiters_.mutex_, [&] { return woken_ || stop.stop_requested(); }, deadline);
      woken_ = false;
    }

   private:
    friend class LeadWaiters;

    LeadWaiters& waiters_;
    Waiters::iterator place_;
    bool woken_ = false;  // guarded by the mutex of the waiters
  };

  void Wake(std::string_view key) {
    {
      const MutexLock lock(mutex_);
      const auto [first, last] = waiters_.equal_range(key);
      if (first == last) return;
      for (auto place = first; place != last; ++place) place->second->woken_ = true;
    }
    woken_.NotifyAll();
  }
  void WakeAll() {
    {
      const MutexLock lock(mutex_);
      for (const auto& [key, waiter] : waiters_) waiter->woken_ = true;
    }
    woken_.NotifyAll();
  }

 private:
  Mutex mutex_;
  BasicCondition<StdAtomics> woken_;
  Waiters waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_LEAD_WAITERS_H_
