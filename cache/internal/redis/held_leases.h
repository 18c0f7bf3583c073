// SPDX-License-Identifier: Apache-2.0
// The leases of this process, and when each is to be prolonged.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_HELD_LEASES_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_HELD_LEASES_H_

#include <chrono>
#include <cstddef>
#include <list>
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
    const std::string token = lease.token;
    Erase(token);
    // Into both, or, if there is no memory, into neither.
    std::list<Held> added;
    added.push_back({std::move(lease), std::chrono::steady_clock::now() + interval_});
    leases_[token] = added.begin();
    due_.splice(due_.end(), added);
  }
  void Remove(const std::string& token) {
    const MutexLock lock(mutex_);
    Erase(token);
  }
  void Clear() {
    const MutexLock lock(mutex_);
    leases_.clear();
    due_.clear();
  }
  // Those that are to be prolonged now; the next time for each is after the interval.
  std::vector<Lease> TakeDue(Deadline now) {
    const MutexLock lock(mutex_);
    std::vector<Lease> due;
    for (size_t left = due_.size(); left > 0 && due_.front().prolong <= now; --left) {
      due.push_back(due_.front().lease);
      due_.front().prolong = now + interval_;
      due_.splice(due_.end(), due_, due_.begin());
    }
    return due;
  }
  // When the first is to be prolonged, or the latest time there is.
  Deadline NextDue() const {
    const MutexLock lock(mutex_);
    return due_.empty() ? Deadline::max() : due_.front().prolong;
  }

 private:
  using MutexLock = BasicMutexLock<StdAtomics>;
  struct Held {
    Lease lease;
    Deadline prolong;
  };

  void Erase(const std::string& token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = leases_.find(token);
    if (found == leases_.end()) return;
    due_.erase(found->second);
    leases_.erase(found);
  }

  const Deadline::duration interval_;
  mutable BasicMutex<StdAtomics> mutex_;
  // In the order of their times: each that is new, or prolonged, is the last.
  std::list<Held> due_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, std::list<Held>::iterator> leases_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_HELD_LEASES_H_
