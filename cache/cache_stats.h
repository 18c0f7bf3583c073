// SPDX-License-Identifier: Apache-2.0
// CacheStats: what a cache has done so far and holds now, as plain figures that an operator can
// read.
//
// Why: a budget can't be chosen, nor a slow loader found, without figures; and whoever collects
// them wants text, JSON or Prometheus's format and not a loop over getters.
//
//   const weakcache::CacheStats before = cache.Stats();
//   Serve(cache);
//   const weakcache::CacheStats served = cache.Stats() - before;   // of that time alone
//   if (served.hit_ratio() < 0.9) std::cerr << served.ToText();
//   if (served.LoadTimeQuantile(0.99) > absl::Seconds(1)) Warn("slow loader");
//   return served.ToPrometheus("weakcache", {{"cache", "images"}});
//
// Thread safety: thread-compatible, a plain value; a cache's Stats() may be called on any thread.
//
// Differences from Caffeine's and Guava's CacheStats
//  - A request that was served by an object which was evicted, but still in use, is a weak hit. It
//    counts as a hit in hit_ratio(); an ordinary cache would have missed.
//  - `loads` counts all loads that have ended, `load_failures` those of them that failed.
//  - Quantiles of times can be estimated from histograms, also for a sum of figures.
//  - Removals are counted by their cause; only the first two are evictions.
//  - Gauges show the present: a sum adds them, a difference keeps the newer ones.
//  - Nothing wraps round: a sum ends at the largest value, a difference at 0.
//
// Complexity: O(1) for each operation, where the buckets of the histograms are a constant.
#ifndef WEAKCACHE_CACHE_CACHE_STATS_H_
#define WEAKCACHE_CACHE_CACHE_STATS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "weakcache/cache/removal_cause.h"

namespace weakcache {

struct CacheStats {
  // Names and values that distinguish this cache from others.
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // A load is in the first bucket whose limit it does not exceed. The limits are 1, 2, 4, … µs, up
  // to 2^32 µs, an hour and 12 minutes; the last bucket has none.
  static constexpr size_t kLoadTimeBuckets = 34;
  // The same for ages of evicted objects; the limits are 1, 2, 4, … ms, up to 2^32 ms, 49 days.
  static constexpr size_t kEvictionAgeBuckets = 34;

  // Counters: they only grow while the cache lives.

  uint64_t hits = 0;           // requests served by an object that the cache retained
  uint64_t weak_hits = 0;      // requests served by an object that only its users kept alive
  uint64_t misses = 0;         // all other requests, whether or not they waited for a load
  uint64_t loads = 0;          // loads that have ended, well or not
  uint64_t load_failures = 0;  // those of them that gave no object
  // Misses that got a failure which was kept (`failure_ttl`), and misses that got an expired object
  // because there was no other (`stale_if_error`), or not in time (`soft_timeout`).
  uint64_t failures_served = 0;
  uint64_t stale_served = 0;
  absl::Duration load_time;  // of all loads, added up, also of those at the same time
  // The sum over all hits and weak hits of the time that the load of the object took. Each time to
  // within a sixteenth, in whole microseconds, and at least one. Counted with
  // ObjectValue::kTimeSaved only; else 0.
  absl::Duration time_saved;
  std::array<uint64_t, kLoadTimeBuckets> load_time_histogram{};
  // Weights of loaded objects, with their entries; without weights above 2^48, which mark objects
  // that are never to be retained.
  uint64_t bytes_loaded = 0;
  uint64_t evictions_budget = 0;
  uint64_t evictions_expired = 0;
  uint64_t removals_replaced = 0;
  uint64_t removals_invalidated = 0;
  uint64_t removals_died = 0;
  // Of evictions_budget: the weights of the objects, as in bytes_loaded; and how long ago they had
  // been entered, to within 10 ms unless objects expire or `clock` was set in the options.
  uint64_t bytes_evicted = 0;
  absl::Duration eviction_age;
  std::array<uint64_t, kEvictionAgeBuckets> eviction_age_histogram{};

  // With a second tier (second_tier.h), and else 0.
  bool has_tier = false;
  uint64_t tier_hits = 0;             // loads that got their object from the tier
  uint64_t tier_misses = 0;           // loads that got none, also because the tier was away
  uint64_t tier_rechecks = 0;         // loads for which it had the cache's own: kCheckAgain
  uint64_t tier_decode_failures = 0;  // entries that the codec could not decode
  uint64_t tier_encode_failures = 0;  // objects that it could not encode
  uint64_t tier_failed_changes = 0;  // changes that the tier has not taken; later loads repeat them
  // Notices of unknown keys, and those that could not be applied, so that the cache dropped all.
  uint64_t tier_failed_notices = 0;
  // The tier's own figures, from its construction on: see TierStats.
  uint64_t tier_errors = 0;
  uint64_t tier_timeouts = 0;
  uint64_t tier_puts = 0;
  uint64_t tier_erases = 0;
  uint64_t tier_bytes_read = 0;
  uint64_t tier_bytes_written = 0;
  uint64_t tier_skipped_values = 0;
  uint64_t tier_leases_won = 0;
  uint64_t tier_leases_awaited = 0;
  uint64_t tier_leases_lost = 0;
  uint64_t tier_notices = 0;
  uint64_t tier_dropped_changes = 0;
  absl::Duration tier_read_time;
  absl::Duration tier_write_time;

  // Gauges: what is true at the moment.

  // Weights of the live objects in the cache, by whether anybody but the cache holds them; and the
  // bytes that are kept free for loads under way. Exact while no other thread uses the cache or its
  // objects.
  uint64_t bytes_idle = 0;
  uint64_t bytes_in_use = 0;
  uint64_t bytes_reserved = 0;
  // Weights of the same objects, by whether the cache keeps them alive, or only their users do.
  uint64_t bytes_retained = 0;
  uint64_t bytes_pinned = 0;     // each object's up to 2^48
  uint64_t loads_in_flight = 0;  // loads under way
  uint64_t dead_entries = 0;     // entries of dead objects that have not been purged yet
  std::string tier_condition;    // what is wrong with the tier, or empty; a sum has one of the two

  // Returns what all live objects weigh, with the reservations: what the budget bounds, but for
  // objects in use that were never retained.
  uint64_t bytes() const;
  uint64_t requests() const;
  // Returns the share of hits and weak hits in all requests: 0 to 1, and 1 without requests.
  double hit_ratio() const;
  uint64_t evictions() const;
  // Returns 0 if there were no loads.
  absl::Duration mean_load_time() const;

  // Estimates the time that a fraction of the loads, such as 0.99, did not exceed; 0 if there were
  // no loads. Assumes that the loads of a bucket are spread over it evenly, and that those of the
  // last bucket took its lower limit. From 1 µs to that limit the result is between half and twice
  // the true time. A fraction below 0, or not a number, is 0; one above 1 is 1.
  absl::Duration LoadTimeQuantile(double fraction) const;
  // Does the same for the ages of evicted objects: how long an object stays that nobody asks for.
  // The result is as close, from 1 ms on.
  absl::Duration EvictionAgeQuantile(double fraction) const;

  // Return the bucket of a load, 0 for a negative time; and the longest time in a bucket,
  // absl::InfiniteDuration() for the last.
  static size_t LoadTimeBucket(absl::Duration time);
  static absl::Duration LoadTimeLimit(size_t bucket);
  static size_t EvictionAgeBucket(absl::Duration age);
  static absl::Duration EvictionAgeLimit(size_t bucket);

  // Adds the figures of two caches, or of one cache in two periods (but then mind the gauges, which
  // are added, too).
  CacheStats Plus(const CacheStats& other) const;
  // Returns what was counted after `earlier`, of the same cache, with the gauges of this, the
  // newer.
  CacheStats Minus(const CacheStats& earlier) const;
  friend CacheStats operator+(const CacheStats& a, const CacheStats& b) { return a.Plus(b); }
  friend CacheStats operator-(const CacheStats& a, const CacheStats& b) { return a.Minus(b); }
  CacheStats& operator+=(const CacheStats& other) { return *this = Plus(other); }
  CacheStats& operator-=(const CacheStats& earlier) { return *this = Minus(earlier); }
  friend bool operator==(const CacheStats& a, const CacheStats& b) = default;

  // Returns a few lines for people. Not to be parsed: they may change.
  std::string ToText() const;

  // Returns one JSON object on one line, without a newline. Its names are those of the fields,
  // times are in seconds, and the histograms have the buckets that are not empty, with their
  // limits, null in the last.
  std::string ToJson() const;

  // Returns Prometheus's text exposition format 0.0.4, which ends in a newline. All metrics have
  // the labels, whose names have to differ, and begin with `name_prefix` and '_', or with neither
  // if it is empty. Characters that a name can't have become '_'; the names "cause", "le" and
  // "result", which the metrics use themselves, become "exported_cause" and so on; values are
  // escaped.
  //
  // A program with several caches must not concatenate their texts, as a metric is declared once:
  // see ToPrometheus below.
  std::string ToPrometheus(std::string_view name_prefix = "weakcache",
                           const Labels& labels = {}) const;
};

// Does the same for several caches, which differ in their labels.
std::string ToPrometheus(std::string_view name_prefix,
                         const std::vector<std::pair<CacheStats::Labels, CacheStats>>& caches);

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CACHE_STATS_H_
