// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/second_tier.h"

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace weakcache {

std::vector<absl::StatusOr<TierEntry>> SecondTier::GetAll(absl::Span<const std::string> keys,
                                                          const TierWait& wait) {
  std::vector<absl::StatusOr<TierEntry>> entries;
  entries.reserve(keys.size());
  for (const std::string& key : keys) entries.push_back(Get(key, wait));
  return entries;
}

absl::StatusOr<TierLead> SecondTier::TryLead(std::string_view key) {
  TierWait wait;
  wait.deadline = std::chrono::steady_clock::now();
  return Lead(key, wait);
}

// NOLINTBEGIN(performance-unnecessary-value-param): those that override these keep what they get.
void SecondTier::GetAsync(std::string key, const TierWait& wait,
                          std::function<void(absl::StatusOr<TierEntry>)> done) {
  done(Get(key, wait));
}

void SecondTier::PutAsync(std::string key, TierEntry entry, TierLease lease,
                          std::function<void(absl::Status)> done) {
  done(Put(key, entry, lease));
}

void SecondTier::EraseAsync(std::string key, std::function<void(absl::Status)> done) {
  done(Erase(key));
}

void SecondTier::Subscribe(std::weak_ptr<TierListener> /*listener*/) {}
// NOLINTEND(performance-unnecessary-value-param)

}  // namespace weakcache
