// SPDX-License-Identifier: Apache-2.0
// The leases of this process, and when each is to be prolonged.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_HELD_LEASES_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_HELD_LEASES_H_

#include <algorithm>
#include <chrono>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/redis/connection.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe.
class HeldLeases {
 public:
  struct Lease {
    std::string key;
    std::string token;
  };

  // Prolongs each lease after `interval`.
  explicit HeldLeases(Deadline::duration interval) : interval_(interval) {}

  void Add(Lease lease) {
    const MutexLock lock(mutex_);
    leases_[std::move(lease.token)] = {std::move(lease.key),
                                       std::chrono::steady_clock::now() + interval_};
  }
  void Remove(const std::string& token) {
    const MutexLock lock(mutex_);
    leases_.erase(token);
  }
  void Clear() {
    const MutexLock lock(mutex_);
    leases_.clear();
  }
  // Those that are to be prolonged now; the next time for each is after the interval.
  std::vector<Lease> TakeDue(Deadline now) {
    const MutexLock lock(mutex_);
    std::vector<Lease> due;
    for (auto& [token, held] : leases_) {
      if (held.prolong > now) continue;
      due.push_back({held.key, token});
      held.prolong = now + interval_;
    }
    return due;
  }
  // When the first is to be prolonged, or the latest time there is.
  Deadline NextDue() const {
    const MutexLock lock(mutex_);
    Deadline next = Deadline::max();
    for (const auto& [token, held] : leases_) next = std::min(next, held.prolong);
    return next;
  }

 private:
  using MutexLock = BasicMutexLock<StdAtomics>;
  struct Held {
    std::string key;
    Deadline prolong;
  };

  const Deadline::duration interval_;
  mutable BasicMutex<StdAtomics> mutex_;
  std::unordered_map<std::string, Held> leases_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_HELD_LEASES_H_
