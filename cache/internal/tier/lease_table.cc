// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/tier/lease_table.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace weakcache::internal {

// The analysis can't follow a lock that is one of an array's.
LeaseTable::KeyLock::KeyLock(LeaseTable& table, std::string_view key) ABSL_NO_THREAD_SAFETY_ANALYSIS
    : table_(table),
      stripe_(table.StripeOf(key)),
      key_(key) {
  stripe_.mutex.lock();
}

LeaseTable::KeyLock::~KeyLock() ABSL_NO_THREAD_SAFETY_ANALYSIS { stripe_.mutex.unlock(); }

bool LeaseTable::KeyLock::Has(const TierLease& lease) const ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const auto found = stripe_.leases.find(key_);
  return found != stripe_.leases.end() && found->second.token == lease.token;
}

bool LeaseTable::KeyLock::MayPut(const TierLease& lease, std::optional<uint32_t> group) const
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (!Has(lease)) return false;
  if (!group.has_value()) return true;
  const uint64_t taken_at = stripe_.leases.find(key_)->second.taken_at;
  return table_.erased_at_[*group % kGroupNumbers] <= taken_at;
}

bool LeaseTable::KeyLock::End(const TierLease& lease) {
  if (!Has(lease)) return false;
  Revoke();
  return true;
}

void LeaseTable::KeyLock::Revoke() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (stripe_.leases.erase(key_) != 0) stripe_.lease_ended.NotifyAll();
}

LeaseTable::AllLock::AllLock(LeaseTable& table,
                             std::optional<uint32_t> group) ABSL_NO_THREAD_SAFETY_ANALYSIS
    : table_(table) {
  // In the order of the array, as everybody who takes several.
  for (Stripe& stripe : table_.stripes_) {
    stripe.mutex.lock();
    if (group.has_value()) continue;
    stripe.leases.clear();
    stripe.lease_ended.NotifyAll();
  }
  if (group.has_value()) table_.erased_at_[*group % kGroupNumbers] = ++table_.erasures_;
}

LeaseTable::AllLock::~AllLock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (Stripe& stripe : table_.stripes_) stripe.mutex.unlock();
}

TierLease LeaseTable::TryTake(std::string_view key) {
  const Clock::time_point now = Clock::now();
  Stripe& stripe = StripeOf(key);
  const BasicMutexLock<StdAtomics> lock(stripe.mutex);
  Lease& lease = stripe.leases[std::string(key)];
  if (!lease.token.empty() && now < lease.end) return {};
  lease.token = std::to_string(tokens_.fetch_add(1, std::memory_order_relaxed) + 1);
  lease.end = now + lease_timeout_;
  lease.taken_at = erasures_;
  return {.token = lease.token};
}

std::vector<std::string> LeaseTable::Keys() {
  std::vector<std::string> keys;
  for (Stripe& stripe : stripes_) {
    const BasicMutexLock<StdAtomics> lock(stripe.mutex);
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
    const BasicMutexLock<StdAtomics> lock(stripe.mutex);
    stripe.lease_ended.NotifyAll();
  };
  // Ends after the lock, which `wake` takes.
  const StopCallback<decltype(wake)> on_stop(wait.stop_token, wake);
  const BasicMutexLock<StdAtomics> lock(stripe.mutex);
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
  stripe.lease_ended.WaitUntil(stripe.mutex, over, std::min({lease_end, too_long, wait.deadline}));
  if (over()) return ended ? Awaited::kEnded : Awaited::kStopped;
  const Clock::time_point now = Clock::now();
  if (now >= wait.deadline) return Awaited::kDeadline;
  if (now >= lease_end) return Awaited::kEnded;
  return Awaited::kTooLong;
}

}  // namespace weakcache::internal
