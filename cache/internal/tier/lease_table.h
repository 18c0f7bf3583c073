// SPDX-License-Identifier: Apache-2.0
// The leases of a tier that one process has for itself, and the locks that order its changes.
//
// A change of a key holds the key's stripe while it is written, and ends the key's lease. A Put
// with a lease holds it from the look at the lease until the entry is written: so an entry that is
// put with a revoked lease is never visible. A change of many keys holds all stripes. No user code
// runs under a stripe's lock; those who wait for it wait for a write at most.
//
// Erasures of groups have numbers, and a lease has that of the last one before it: what it puts may
// not be of a group that has been erased since.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_LEASE_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_LEASE_TABLE_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

class LeaseTable {
 public:
  using Clock = std::chrono::steady_clock;

  // Precondition: the duration can be added to the time.
  explicit LeaseTable(Clock::duration lease_timeout) : lease_timeout_(lease_timeout) {}

 private:
  struct Lease {
    std::string token;
    Clock::time_point end;
    uint64_t taken_at = 0;  // of erasures_
  };
  struct Stripe {
    BasicMutex<StdAtomics> mutex;
    BasicCondition<StdAtomics> lease_ended;
    std::unordered_map<std::string, Lease> leases ABSL_GUARDED_BY(mutex);
  };

 public:
  // Holds the stripe of a key for its lifetime.
  class ABSL_SCOPED_LOCKABLE KeyLock {
   public:
    KeyLock(LeaseTable& table, std::string_view key)
        ABSL_EXCLUSIVE_LOCK_FUNCTION(table.StripeOf(key).mutex);
    KeyLock(const KeyLock&) = delete;
    KeyLock& operator=(const KeyLock&) = delete;
    ~KeyLock() ABSL_UNLOCK_FUNCTION();

    // Returns whether the key's lease is this one.
    bool Has(const TierLease& lease) const;
    // Returns whether an entry of that group may be put with it.
    bool MayPut(const TierLease& lease, std::optional<uint32_t> group) const;
    // Ends the key's lease if it is this one. Returns whether it was.
    bool End(const TierLease& lease);
    // Ends the key's lease, whoever has it.
    void Revoke();

   private:
    const LeaseTable& table_;
    Stripe& stripe_;
    const std::string key_;
  };

  // Holds all stripes for its lifetime. At its beginning it ends all leases, or, if it is for the
  // erasure of a group, the right to put entries of that group.
  class AllLock {
   public:
    explicit AllLock(LeaseTable& table, std::optional<uint32_t> group = {});
    AllLock(const AllLock&) = delete;
    AllLock& operator=(const AllLock&) = delete;
    ~AllLock();

   private:
    LeaseTable& table_;
  };

  // Takes the key's lease, unless another caller has it, and has not had it for too long.
  TierLease TryTake(std::string_view key);

  // Returns the keys that have leases.
  std::vector<std::string> Keys();

  // How a wait for the end of another's lease has ended.
  enum class Awaited { kEnded, kTooLong, kDeadline, kStopped };
  // Waits until the key's lease has ended or lasted too long; until the caller has waited as long
  // as one lease lasts, from `since` on; or as `wait` says.
  Awaited Await(std::string_view key, const TierWait& wait, Clock::time_point since);

 private:
  // ThreadSanitizer follows 64 locks of a thread at most, and AllLock is not alone.
  static constexpr size_t kStripes = 32;
  // Groups share a number with few others: a Put for one of these may be refused, too.
  static constexpr size_t kGroupNumbers = 256;

  Stripe& StripeOf(std::string_view key) {
    return stripes_[std::hash<std::string_view>()(key) % kStripes];
  }

  const Clock::duration lease_timeout_;
  // Counts the tokens, which are never used twice. Relaxed: orders nothing.
  std::atomic<uint64_t> tokens_{0};
  std::array<Stripe, kStripes> stripes_;
  // Written under the locks of all stripes, read under that of one.
  uint64_t erasures_ = 0;
  std::array<uint64_t, kGroupNumbers> erased_at_{};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_LEASE_TABLE_H_
