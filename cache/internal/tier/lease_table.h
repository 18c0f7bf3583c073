// SPDX-License-Identifier: Apache-2.0
// The leases of a tier that only one process uses, and the order of the tier's changes.
//
// A change holds its key while it is written, and ends the key's lease. A Put with a lease holds
// the key from its look at the lease until the entry is written: so an entry that is put with a
// revoked lease is never visible. A change of many keys holds all of them. Only changes wait for
// changes, because a disk may hang: no mutex is locked during a write, and whoever takes a lease,
// waits for one or gives one up never waits for a write. A lease that is taken while an erasure is
// written stays: its load began after the erasure did, and so loads nothing older.
//
// Erasures of groups are numbered, and a lease has the number of the last one before it: it may put
// nothing of a group that was erased after that.
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
#include <unordered_set>
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
    BasicCondition<StdAtomics> changed;  // a lease or a change has ended
    std::unordered_map<std::string, Lease> leases ABSL_GUARDED_BY(mutex);
    std::unordered_set<std::string> changing ABSL_GUARDED_BY(mutex);
    bool all_changing ABSL_GUARDED_BY(mutex) = false;
  };

 public:
  // Has a key for its lifetime: no other change of it is under way.
  class KeyChange {
   public:
    KeyChange(LeaseTable& table, std::string_view key);
    KeyChange(const KeyChange&) = delete;
    KeyChange& operator=(const KeyChange&) = delete;
    ~KeyChange();

    // Returns whether the key's lease is this one.
    bool Has(const TierLease& lease) const;
    // Returns whether an entry of that group may be put with it.
    bool MayPut(const TierLease& lease, std::optional<uint32_t> group) const;
    // Ends the key's lease, whoever has it.
    void Revoke();

   private:
    const LeaseTable& table_;
    Stripe& stripe_;
    const std::string key_;
  };

  // Has all keys for its lifetime. At its beginning it ends all leases, or, if it is for the
  // erasure of a group, the right to put entries of that group.
  class AllChange {
   public:
    explicit AllChange(LeaseTable& table, std::optional<uint32_t> group = {});
    AllChange(const AllChange&) = delete;
    AllChange& operator=(const AllChange&) = delete;
    ~AllChange();

   private:
    LeaseTable& table_;
  };

  // Takes the key's lease, unless another caller has it, and has not had it for too long.
  TierLease TryTake(std::string_view key);
  // Ends the key's lease if it is this one.
  void End(std::string_view key, const TierLease& lease);

  // Returns the keys that have leases.
  std::vector<std::string> Keys();

  // How a wait for the end of another's lease has ended.
  enum class Awaited { kEnded, kTooLong, kDeadline, kStopped };
  // Waits until the key's lease has ended or lasted too long; until the caller has waited as long
  // as one lease lasts, from `since` on; or as `wait` says.
  Awaited Await(std::string_view key, const TierWait& wait, Clock::time_point since);

 private:
  static constexpr size_t kStripes = 32;
  // Several groups share a number, so the erasure of one may also refuse a Put for another.
  static constexpr size_t kGroupNumbers = 256;

  Stripe& StripeOf(std::string_view key) {
    return stripes_[std::hash<std::string_view>()(key) % kStripes];
  }

  const Clock::duration lease_timeout_;
  // Counts the tokens, which are never used twice. Relaxed: orders nothing.
  std::atomic<uint64_t> tokens_{0};
  std::array<Stripe, kStripes> stripes_;
  // Grows at each erasure of a group, before that erases anything: what is loaded with a lease that
  // has this number or a later one is loaded after the erasure has begun.
  std::atomic<uint64_t> erasures_{0};
  // Written by who has all keys, read by who has one.
  std::array<uint64_t, kGroupNumbers> erased_at_{};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_LEASE_TABLE_H_
