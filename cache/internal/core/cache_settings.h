// SPDX-License-Identifier: Apache-2.0
// What a LargeObjectCache makes of its options.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_SETTINGS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_SETTINGS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/internal/concurrent/sharding.h"
#include "weakcache/cache/internal/core/check_options.h"
#include "weakcache/cache/internal/core/freshness.h"
#include "weakcache/cache/internal/stats/holder_sampler.h"
#include "weakcache/cache/internal/tier/object_tier.h"

namespace weakcache::internal {

struct HardLimitSettings {
  uint64_t bytes = 0;  // 0: none
  absl::Duration wait = absl::ZeroDuration();
  AtHardLimit at_limit = AtHardLimit::kFail;
};

// A LargeObjectCache's options, checked, with the defaults in place.
template <typename K, typename V>
struct CacheSettings {
  uint64_t budget;
  bool budget_covers_in_use;
  size_t shards;
  size_t max_concurrent_loads;
  std::function<uint64_t(const V&)> weigher;
  RemovalListener<K, V> listener;
  Freshness freshness;
  bool count_entry_memory;
  ObjectValue value = ObjectValue::kHits;
  HardLimitSettings hard_limit = {};
  std::function<absl::Duration(const absl::Status&)> failure_ttl = {};
  std::function<void(std::function<void()>)> refresh_executor = {};
  HolderSampler::Settings holders = {};
  std::shared_ptr<ObjectTier<K, V>> tier = nullptr;
};

// Returns null if there is no tier. Takes the key functions out of the options.
template <typename K, typename V>
std::shared_ptr<ObjectTier<K, V>> MakeTier(LargeObjectCacheOptions<K, V>& options) {
  if (options.second_tier == nullptr) [[likely]]
    return nullptr;
  return options.codec.MakeTier({std::move(options.second_tier), std::move(options.encode_key),
                                 std::move(options.decode_key), options.clock,
                                 options.expire_after_write, options.refresh_after_write,
                                 options.at_tier_disconnect == AtTierDisconnect::kKeep,
                                 options.at_tier_disconnect == AtTierDisconnect::kCheckAgain,
                                 options.tier_write == TierWrite::kOnEviction
                                     ? options.refresh_executor
                                     : std::function<void(std::function<void()>)>()});
}

// Returns InvalidArgument if an option is bad.
template <typename K, typename V>
absl::StatusOr<CacheSettings<K, V>> MakeSettings(LargeObjectCacheOptions<K, V> options, bool weak) {
  if (absl::Status status = CheckOptions(options, weak); !status.ok()) return status;
  const HolderSampler::Settings holders{options.holder_sample_bytes, options.holder_stacks,
                                        static_cast<bool>(options.clock)};
  auto tier = MakeTier(options);
  return CacheSettings<K, V>{
      options.budget_bytes,
      options.budget_covers_in_use,
      options.shards == 0 ? DefaultShards() : options.shards,
      options.max_concurrent_loads,
      std::move(options.weigher),
      std::move(options.removal_listener),
      Freshness({std::move(options.clock), options.expire_after_write, options.expire_after_access,
                 options.refresh_after_write, options.expiry_jitter, options.stale_if_error,
                 options.refresh_backoff, tier != nullptr && tier->checks_again()}),
      options.count_entry_memory,
      options.value,
      {options.hard_limit_bytes, options.hard_limit_wait, options.at_hard_limit},
      std::move(options.failure_ttl),
      std::move(options.refresh_executor),
      holders,
      std::move(tier)};
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_SETTINGS_H_
