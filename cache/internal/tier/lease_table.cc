// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_ROCKSDB_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/tier/lease_table.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace weakcache::internal {

using MutexLock = BasicMutexLock<StdAtomics>;

LeaseTable::KeyChange::KeyChange(LeaseTable& table, std::string_view key)
    : table_(table), stripe_(table.StripeOf(key)), key_(key) {
  const MutexLock lock(stripe_.mutex);
  const auto is_free = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {  // under the lock of Wait
    return !stripe_.all_changing && !stripe_.changing.contains(key_);
  };
  stripe_.changed.Wait(stripe_.mutex, is_free);
  stripe_.changing.insert(key_);
}

LeaseTable::KeyChange::~KeyChange() {
  {
    const MutexLock lock(stripe_.mutex);
    stripe_.changing.erase(key_);
  }
  stripe_.changed.NotifyAll();
}

bool LeaseTable::KeyChange::Has(const TierLease& lease) const {
  const MutexLock lock(stripe_.mutex);
  const auto found = stripe_.leases.find(key_);
  return found != stripe_.leases.end() && found->second.token == lease.token;
}

bool LeaseTable::KeyChange::MayPut(const TierLease& lease, std::optional<uint32_t> group) const {
  const MutexLock lock(stripe_.mutex);
  const auto found = stripe_.leases.find(key_);
  if (found == stripe_.leases.end() || found->second.token != lease.token) return false;
  return !group.has_value() || table_.erased_at_[*group % kGroupNumbers] <= found->second.taken_at;
}

void LeaseTable::KeyChange::Revoke() {
  const MutexLock lock(stripe_.mutex);
  if (stripe_.leases.erase(key_) != 0) stripe_.changed.NotifyAll();
}

LeaseTable::AllChange::AllChange(LeaseTable& table, std::optional<uint32_t> group) : table_(table) {
  // In the order of the array: the first stripe decides between two of these.
  for (Stripe& stripe : table_.stripes_) {
    const MutexLock lock(stripe.mutex);
    stripe.changed.Wait(stripe.mutex,
                        [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !stripe.all_changing; });
    stripe.all_changing = true;
  }
  for (Stripe& stripe : table_.stripes_) {
    const MutexLock lock(stripe.mutex);
    stripe.changed.Wait(stripe.mutex,
                        [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stripe.changing.empty(); });
    if (group.has_value()) continue;
    stripe.leases.clear();
    stripe.changed.NotifyAll();
  }
  if (group.has_value()) {
    table_.erased_at_[*group % kGroupNumbers] = table_.erasures_.fetch_add(1) + 1;
  }
}

LeaseTable::AllChange::~AllChange() {
  for (Stripe& stripe : table_.stripes_) {
    {
      const MutexLock lock(stripe.mutex);
      stripe.all_changing = false;
    }
    stripe.changed.NotifyAll();
  }
}

void LeaseTable::End(std::string_view key, const TierLease& lease) {
  Stripe& stripe = StripeOf(key);
  const MutexLock lock(stripe.mutex);
  const auto found = stripe.leases.find(std::string(key));
  if (found == stripe.leases.end() || found->second.token != lease.token) return;
  stripe.leases.erase(found);
  stripe.changed.NotifyAll();
}

TierLease LeaseTable::TryTake(std::string_view key) {
  const Clock::time_point now = Clock::now();
  Stripe& stripe = StripeOf(key);
  const MutexLock lock(stripe.mutex);
  Lease& lease = stripe.leases[std::string(key)];
  if (!lease.token.empty() && now < lease.end) return {};
  lease.token = std::to_string(tokens_.fetch_add(1, std::memory_order_relaxed) + 1);
  lease.end = now + lease_timeout_;
  lease.taken_at = erasures_.load();
  return {.token = lease.token};
}

std::vector<std::string> LeaseTable::Keys() {
  std::vector<std::string> keys;
  for (Stripe& stripe : stripes_) {
    const MutexLock lock(stripe.mutex);
    for (const auto& [key, lease] : stripe.leases) keys.push_back(key);
  }
  return keys;
}

LeaseTable::Awaited LeaseTable::Await(std::string_view key, const TierWait& wait,
                                      Clock::time_point since) {
  Stripe& stripe = StripeOf(key);
  const std::string name(key);
  const auto wake = [&stripe] {
    // Under the lock, so that it can't come between a waiter's look at the stop and its sleep.
    const MutexLock lock(stripe.mutex);
    stripe.changed.NotifyAll();
  };
  // Ends after the lock, which `wake` takes.
  const StopCallback<decltype(wake)> on_stop(wait.stop_token, wake);
  const MutexLock lock(stripe.mutex);
  const auto found = stripe.leases.find(name);
  if (found == stripe.leases.end()) return Awaited::kEnded;
  const std::string token = found->second.token;
  const Clock::time_point lease_end = found->second.end;
  bool ended = false;
  const auto over = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {  // under the lock of WaitUntil
    const auto now_there = stripe.leases.find(name);
    ended = now_there == stripe.leases.end() || now_there->second.token != token;
    return ended || wait.stop_token.stop_requested();
  };
  const Clock::time_point too_long = since + lease_timeout_;
  stripe.changed.WaitUntil(stripe.mutex, over, std::min({lease_end, too_long, wait.deadline}));
  if (over()) return ended ? Awaited::kEnded : Awaited::kStopped;
  const Clock::time_point now = Clock::now();
  if (now >= wait.deadline) return Awaited::kDeadline;
  if (now >= lease_end) return Awaited::kEnded;
  return Awaited::kTooLong;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_ROCKSDB_TIER
