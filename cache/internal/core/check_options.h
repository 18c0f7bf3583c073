// SPDX-License-Identifier: Apache-2.0
// Which options of a LargeObjectCache are bad, and what to write instead.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CHECK_OPTIONS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CHECK_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/internal/concurrent/sharding.h"
#include "weakcache/cache/internal/tier/tier_codec.h"

namespace weakcache::internal {

// Returns whether a budget is plausible: at most half of the address space.
constexpr bool IsBudget(uint64_t bytes) { return std::in_range<ptrdiff_t>(bytes); }

// Returns InvalidArgument unless the budget is set and plausible, or for a purely weak cache is not
// set.
inline absl::Status CheckBudget(uint64_t budget_bytes, bool weak) {
  if (weak && budget_bytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("budget_bytes: is ", budget_bytes,
                     ", but a weak cache retains nothing; for one with a budget write "
                     "LargeObjectCache::Create(options)"));
  }
  if (!weak && budget_bytes == 0) {
    return absl::InvalidArgumentError(
        "budget_bytes: is not set; write options.budget_bytes = uint64_t{256} << 20 for 256 MB, "
        "or LargeObjectCache::CreateWeak(options) for a cache that retains nothing");
  }
  if (!IsBudget(budget_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("budget_bytes: ", budget_bytes, " is more than half of the address space, or ",
                     static_cast<int64_t>(budget_bytes),
                     " before its conversion; the largest that an int can be is 2^31 - 1, so write "
                     "uint64_t{2} << 30 for 2 GB"));
  }
  return absl::OkStatus();
}

// Returns InvalidArgument if one of the durations is bad.
template <typename Options>
absl::Status CheckDurations(const Options& options) {
  const auto check = [](const char* option, absl::Duration duration) {
    if (duration > absl::ZeroDuration()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": ", absl::FormatDuration(duration), " is not positive"));
  };
  absl::Status status = check("expire_after_write", options.expire_after_write);
  status.Update(check("expire_after_access", options.expire_after_access));
  status.Update(check("refresh_after_write", options.refresh_after_write));
  if (options.stale_if_error != absl::ZeroDuration()) {
    status.Update(check("stale_if_error", options.stale_if_error));
  }
  if (status.ok() && options.refresh_after_write != absl::InfiniteDuration() &&
      options.refresh_after_write >= options.expire_after_write) {
    return absl::InvalidArgumentError("refresh_after_write: is not before expire_after_write");
  }
  return status;
}

// Returns InvalidArgument unless the jitter is a part of a life.
inline absl::Status CheckJitter(double jitter) {
  if (jitter >= 0 && jitter <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("expiry_jitter: ", jitter, " is not between 0 and 1"));
}

// Returns InvalidArgument unless the hard limit is plausible, or there is none.
template <typename Options>
absl::Status CheckHardLimit(const Options& options) {
  if (options.hard_limit_wait < absl::ZeroDuration() ||
      options.hard_limit_wait == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("hard_limit_wait: ", absl::FormatDuration(options.hard_limit_wait),
                     " is not a time that a load can wait; callers that hold the objects which "
                     "each other's loads wait for would wait for ever"));
  }
  if (options.hard_limit_bytes == 0) {
    if (options.hard_limit_wait == absl::ZeroDuration()) return absl::OkStatus();
    return absl::InvalidArgumentError("hard_limit_wait: is set, but hard_limit_bytes is not");
  }
  if (!IsBudget(options.hard_limit_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("hard_limit_bytes: ", options.hard_limit_bytes,
                                                   " is more than half of the address space"));
  }
  if (options.hard_limit_bytes < options.budget_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("hard_limit_bytes: ", options.hard_limit_bytes,
                                                   " is less than budget_bytes, ",
                                                   options.budget_bytes));
  }
  return absl::OkStatus();
}

// Sets the weigher if there is none. Returns InvalidArgument if V has no default weight.
template <typename K, typename V>
absl::Status SetDefaultWeigher(LargeObjectCacheOptions<K, V>& options) {
  static_assert(!HasUnusableByteSize<V>, "byte_size() must be const, and return a number of bytes");
  if (options.weigher) return absl::OkStatus();
  if constexpr (HasDefaultWeight<V>) {
    options.weigher = DefaultWeight<V>;
    return absl::OkStatus();
  } else {
    return absl::InvalidArgumentError(
        "weigher: is not set, and the cache can't know how much memory these objects own; write "
        "options.weigher = [](const V& object) -> uint64_t { return …; }, or give V a member "
        "uint64_t byte_size() const");
  }
}

// Returns InvalidArgument unless a failed refresh is tried again after some time.
inline absl::Status CheckBackoff(const RefreshBackoff& backoff) {
  if (backoff.initial < absl::ZeroDuration() || backoff.limit < backoff.initial) {
    return absl::InvalidArgumentError(
        absl::StrCat("refresh_backoff: an initial time of ", absl::FormatDuration(backoff.initial),
                     " with a limit of ", absl::FormatDuration(backoff.limit)));
  }
  if (backoff.jitter >= 0 && backoff.jitter <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("refresh_backoff: a jitter of ", backoff.jitter, " is not between 0 and 1"));
}

// Returns InvalidArgument if failures are to be kept but keys can't be copied for that.
template <typename K, typename V>
absl::Status CheckFailureTtl(const LargeObjectCacheOptions<K, V>& options) {
  if (std::is_copy_constructible_v<K> || !options.failure_ttl) return absl::OkStatus();
  return absl::InvalidArgumentError("failure_ttl: is set, but keys can't be copied");
}

// Returns InvalidArgument unless so many bytes make sense, or no object is sampled.
template <typename Options>
absl::Status CheckHolders(const Options& options) {
  if (options.holder_stacks && options.holder_sample_bytes == 0) {
    return absl::InvalidArgumentError("holder_stacks: is set, but holder_sample_bytes is not");
  }
  if (IsBudget(options.holder_sample_bytes)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("holder_sample_bytes: ", options.holder_sample_bytes,
                   " is more than half of the address space"));
}

// Returns InvalidArgument if evicted objects are to be written, but can't be.
template <typename K, typename V>
absl::Status CheckTierWrite(const LargeObjectCacheOptions<K, V>& options) {
  if (options.tier_write == TierWrite::kOnLoad) return absl::OkStatus();
  if (options.second_tier == nullptr) {
    return absl::InvalidArgumentError("tier_write: is kOnEviction, but second_tier is not set");
  }
  if (!options.refresh_executor) {
    return absl::InvalidArgumentError(
        "tier_write: is kOnEviction, but refresh_executor is not set; a hit may evict an object, "
        "and must not wait for the tier");
  }
  if (options.at_tier_disconnect == AtTierDisconnect::kKeep) {
    return absl::InvalidArgumentError(
        "tier_write: is kOnEviction, and at_tier_disconnect is kKeep: what may be old would be "
        "written");
  }
  if (options.at_tier_disconnect == AtTierDisconnect::kCheckAgain) {
    return absl::InvalidArgumentError(
        "tier_write: is kOnEviction, and at_tier_disconnect is kCheckAgain: an object is in "
        "no tier before its eviction, so there may be no entry to check it by");
  }
  return absl::OkStatus();
}

// Returns InvalidArgument unless the cache has a tier with all that belongs to it, or none.
template <typename K, typename V>
absl::Status CheckTier(const LargeObjectCacheOptions<K, V>& options) {
  if (options.second_tier == nullptr) {
    if (!options.codec) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "codec: is set, but second_tier is not; write options.second_tier = std::move(tier), a "
        "std::shared_ptr<SecondTier>");
  }
  if (!options.codec) {
    return absl::InvalidArgumentError(
        "codec: is not set, and the second tier keeps bytes; include codec.h and write "
        "options.codec = std::make_shared<const YourCodec>()");
  }
  if (static_cast<bool>(options.encode_key) != static_cast<bool>(options.decode_key)) {
    return absl::InvalidArgumentError("encode_key, decode_key: one is set, but not the other");
  }
  if (!HasDefaultTierKey<K> && !options.encode_key) {
    return absl::InvalidArgumentError(
        "encode_key, decode_key: are not set, and the second tier can't write such keys as "
        "strings; "
        "write options.encode_key = [](const K& key) -> std::string { return …; } and "
        "options.decode_key = [](std::string_view text) -> std::optional<K> { return …; }");
  }
  return absl::OkStatus();
}

// Returns InvalidArgument if an option is bad; sets the default weigher.
template <typename K, typename V>
absl::Status CheckOptions(LargeObjectCacheOptions<K, V>& options, bool weak) {
  absl::Status status = CheckBudget(options.budget_bytes, weak);
  status.Update(ValidateShards(options.shards));
  status.Update(CheckHardLimit(options));
  status.Update(CheckDurations(options));
  status.Update(CheckJitter(options.expiry_jitter));
  status.Update(CheckFailureTtl(options));
  status.Update(CheckBackoff(options.refresh_backoff));
  status.Update(CheckHolders(options));
  status.Update(CheckTier(options));
  status.Update(CheckTierWrite(options));
  status.Update(SetDefaultWeigher(options));
  return status;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CHECK_OPTIONS_H_
