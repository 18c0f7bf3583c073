// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/cache_stats.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace weakcache {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
constexpr size_t kLast = CacheStats::kLoadTimeBuckets - 1;

// Every figure differs from the others.
CacheStats Example() {
  CacheStats stats;
  stats.hits = 70;
  stats.weak_hits = 10;
  stats.misses = 20;
  stats.loads = 18;
  stats.load_failures = 3;
  stats.load_time = absl::Milliseconds(4500);
  stats.time_saved = absl::Milliseconds(20500);
  stats.load_time_histogram[0] = 1;
  stats.load_time_histogram[10] = 12;
  stats.load_time_histogram[20] = 4;
  stats.load_time_histogram[kLast] = 1;
  stats.bytes_loaded = 7000000;
  stats.evictions_budget = 5;
  stats.evictions_expired = 4;
  stats.removals_replaced = 2;
  stats.removals_invalidated = 1;
  stats.removals_died = 6;
  stats.bytes_evicted = 6000000;
  stats.eviction_age = absl::Seconds(250);
  stats.eviction_age_histogram[0] = 1;
  stats.eviction_age_histogram[16] = 3;
  stats.eviction_age_histogram[CacheStats::kEvictionAgeBuckets - 1] = 1;
  stats.bytes_idle = 900000;
  stats.bytes_in_use = 150000;
  stats.bytes_reserved = 3000;
  stats.bytes_retained = 1000000;
  stats.bytes_pinned = 50000;
  stats.loads_in_flight = 7;
  stats.dead_entries = 8;
  stats.failures_served = 9;
  stats.stale_served = 10;
  return stats;
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(CacheStatsTest, Ratios) {
  EXPECT_EQ(CacheStats().requests(), 0u);
  EXPECT_EQ(CacheStats().hit_ratio(), 1);
  EXPECT_EQ(CacheStats().mean_load_time(), absl::ZeroDuration());
  EXPECT_EQ(Example().requests(), 100u);
  EXPECT_DOUBLE_EQ(Example().hit_ratio(), 0.8);
  EXPECT_EQ(Example().evictions(), 9u);
  EXPECT_EQ(Example().mean_load_time(), absl::Milliseconds(250));
}

TEST(CacheStatsTest, RatiosOfHugeCounts) {
  CacheStats stats;
  stats.hits = kMax;
  stats.misses = kMax;
  EXPECT_EQ(stats.requests(), kMax);
  EXPECT_DOUBLE_EQ(stats.hit_ratio(), 0.5);
}

TEST(CacheStatsTest, PlusAddsEverything) {
  const CacheStats sum = Example() + Example();
  EXPECT_EQ(sum.hits, 140u);
  EXPECT_EQ(sum.weak_hits, 20u);
  EXPECT_EQ(sum.misses, 40u);
  EXPECT_EQ(sum.loads, 36u);
  EXPECT_EQ(sum.load_failures, 6u);
  EXPECT_EQ(sum.load_time, absl::Seconds(9));
  EXPECT_EQ(sum.time_saved, absl::Seconds(41));
  EXPECT_EQ(sum.load_time_histogram[10], 24u);
  EXPECT_EQ(sum.load_time_histogram[kLast], 2u);
  EXPECT_EQ(sum.bytes_loaded, 14000000u);
  EXPECT_EQ(sum.bytes_evicted, 12000000u);
  EXPECT_EQ(sum.eviction_age, absl::Seconds(500));
  EXPECT_EQ(sum.eviction_age_histogram[16], 6u);
  EXPECT_EQ(sum.evictions_budget, 10u);
  EXPECT_EQ(sum.evictions_expired, 8u);
  EXPECT_EQ(sum.removals_replaced, 4u);
  EXPECT_EQ(sum.removals_invalidated, 2u);
  EXPECT_EQ(sum.removals_died, 12u);
  EXPECT_EQ(sum.bytes(), 2106000u);
  EXPECT_EQ(sum.bytes_retained, 2000000u);
  EXPECT_EQ(sum.bytes_pinned, 100000u);
  EXPECT_EQ(sum.loads_in_flight, 14u);
  EXPECT_EQ(sum.dead_entries, 16u);
  EXPECT_EQ(sum, Example().Plus(Example()));
  EXPECT_EQ(sum, Example() += Example());
  EXPECT_EQ(Example() + CacheStats(), Example());
}

TEST(CacheStatsTest, MinusSubtractsCountersAndKeepsTheNewerGauges) {
  const CacheStats newer = Example() + Example();
  CacheStats expected = Example();
  expected.bytes_idle = newer.bytes_idle;
  expected.bytes_in_use = newer.bytes_in_use;
  expected.bytes_reserved = newer.bytes_reserved;
  expected.bytes_retained = newer.bytes_retained;
  expected.bytes_pinned = newer.bytes_pinned;
  expected.loads_in_flight = newer.loads_in_flight;
  expected.dead_entries = newer.dead_entries;
  EXPECT_EQ(newer - Example(), expected);
  EXPECT_EQ(newer.Minus(Example()), expected);
  CacheStats difference = newer;
  EXPECT_EQ(difference -= Example(), expected);
}

TEST(CacheStatsTest, SumsAndDifferencesSaturate) {
  CacheStats full;
  full.hits = full.load_time_histogram[3] = full.evictions_expired = full.bytes_retained = kMax - 1;
  full.load_time = full.eviction_age = absl::InfiniteDuration();
  const CacheStats sum = full + full;
  EXPECT_EQ(sum.hits, kMax);
  EXPECT_EQ(sum.load_time_histogram[3], kMax);
  EXPECT_EQ(sum.evictions_expired, kMax);
  EXPECT_EQ(sum.bytes_retained, kMax);
  EXPECT_EQ(sum.load_time, absl::InfiniteDuration());
  EXPECT_EQ(sum.eviction_age, absl::InfiniteDuration());

  const CacheStats difference = CacheStats() - Example();
  EXPECT_EQ(difference, CacheStats());
}

TEST(CacheStatsTest, BucketsOfLoadTimes) {
  EXPECT_EQ(CacheStats::LoadTimeBucket(-absl::InfiniteDuration()), 0u);
  EXPECT_EQ(CacheStats::LoadTimeBucket(absl::ZeroDuration()), 0u);
  EXPECT_EQ(CacheStats::LoadTimeBucket(absl::InfiniteDuration()), kLast);
  EXPECT_EQ(CacheStats::LoadTimeLimit(0), absl::Microseconds(1));
  EXPECT_EQ(CacheStats::LoadTimeLimit(10), absl::Microseconds(1024));
  EXPECT_EQ(CacheStats::LoadTimeLimit(kLast), absl::InfiniteDuration());
  EXPECT_GT(CacheStats::LoadTimeLimit(kLast - 1), absl::Hours(1));
  for (size_t bucket = 0; bucket < kLast; ++bucket) {
    const absl::Duration limit = CacheStats::LoadTimeLimit(bucket);
    EXPECT_EQ(CacheStats::LoadTimeBucket(limit), bucket);
    EXPECT_EQ(CacheStats::LoadTimeBucket(limit + absl::Nanoseconds(1)), bucket + 1);
  }
}

TEST(CacheStatsTest, QuantilesAreInterpolated) {
  CacheStats stats;
  EXPECT_EQ(stats.LoadTimeQuantile(0.5), absl::ZeroDuration());
  stats.load_time_histogram[4] = 50;  // up to 16 µs
  stats.load_time_histogram[6] = 50;  // over 32 µs, up to 64 µs
  EXPECT_EQ(stats.LoadTimeQuantile(0), absl::Microseconds(8));
  EXPECT_EQ(stats.LoadTimeQuantile(0.25), absl::Microseconds(12));
  EXPECT_EQ(stats.LoadTimeQuantile(0.5), absl::Microseconds(16));
  EXPECT_EQ(stats.LoadTimeQuantile(0.75), absl::Microseconds(48));
  EXPECT_EQ(stats.LoadTimeQuantile(1), absl::Microseconds(64));
}

TEST(CacheStatsTest, QuantilesOutOfRange) {
  CacheStats stats;
  stats.load_time_histogram[0] = 1;
  EXPECT_EQ(stats.LoadTimeQuantile(-1), absl::ZeroDuration());
  EXPECT_EQ(stats.LoadTimeQuantile(std::numeric_limits<double>::quiet_NaN()), absl::ZeroDuration());
  EXPECT_EQ(stats.LoadTimeQuantile(7), absl::Microseconds(1));
  // Of the last bucket only the lower limit is known.
  stats.load_time_histogram[kLast] = 1;
  EXPECT_EQ(stats.LoadTimeQuantile(1), CacheStats::LoadTimeLimit(kLast - 1));
  stats.load_time_histogram.fill(kMax);
  EXPECT_EQ(stats.LoadTimeQuantile(1), CacheStats::LoadTimeLimit(kLast - 1));
}

TEST(CacheStatsTest, QuantileIsWithinAFactorOfTwo) {
  std::vector<absl::Duration> times;
  CacheStats stats;
  for (int i = 1; i <= 1000; ++i) {
    times.push_back(absl::Microseconds(i * i));
    ++stats.load_time_histogram[CacheStats::LoadTimeBucket(times.back())];
  }
  for (const double fraction : {0.1, 0.5, 0.9, 0.99, 1.0}) {
    const absl::Duration exact = times[static_cast<size_t>(fraction * 1000) - 1];
    EXPECT_LE(stats.LoadTimeQuantile(fraction), 2 * exact);
    EXPECT_GE(stats.LoadTimeQuantile(fraction), exact / 2);
  }
}

TEST(CacheStatsTest, AgesOfEvictedObjects) {
  constexpr size_t kLastAge = CacheStats::kEvictionAgeBuckets - 1;
  EXPECT_EQ(CacheStats::EvictionAgeBucket(-absl::Seconds(1)), 0u);
  EXPECT_EQ(CacheStats::EvictionAgeBucket(absl::InfiniteDuration()), kLastAge);
  EXPECT_EQ(CacheStats::EvictionAgeLimit(0), absl::Milliseconds(1));
  EXPECT_EQ(CacheStats::EvictionAgeLimit(kLastAge), absl::InfiniteDuration());
  EXPECT_GT(CacheStats::EvictionAgeLimit(kLastAge - 1), absl::Hours(24 * 49));
  for (size_t bucket = 0; bucket < kLastAge; ++bucket) {
    const absl::Duration limit = CacheStats::EvictionAgeLimit(bucket);
    EXPECT_EQ(CacheStats::EvictionAgeBucket(limit), bucket);
    EXPECT_EQ(CacheStats::EvictionAgeBucket(limit + absl::Nanoseconds(1)), bucket + 1);
  }
  CacheStats stats;
  EXPECT_EQ(stats.EvictionAgeQuantile(0.5), absl::ZeroDuration());
  stats.eviction_age_histogram[4] = 50;  // up to 16 ms
  stats.eviction_age_histogram[6] = 50;  // over 32 ms, up to 64 ms
  EXPECT_EQ(stats.EvictionAgeQuantile(0.25), absl::Milliseconds(12));
  EXPECT_EQ(stats.EvictionAgeQuantile(0.75), absl::Milliseconds(48));
}

TEST(CacheStatsTest, NamesOfCauses) {
  EXPECT_EQ(RemovalCauseName(RemovalCause::kBudget), "budget");
  EXPECT_EQ(RemovalCauseName(RemovalCause::kExpired), "expired");
  EXPECT_EQ(RemovalCauseName(RemovalCause::kReplaced), "replaced");
  EXPECT_EQ(RemovalCauseName(RemovalCause::kInvalidated), "invalidated");
  EXPECT_EQ(RemovalCauseName(RemovalCause::kDied), "died");
  EXPECT_EQ(RemovalCauseName(static_cast<RemovalCause>(kRemovalCauses)), "unknown");
}

TEST(CacheStatsTest, Text) {
  EXPECT_EQ(Example().ToText(),
            "requests  100: 70 hits, 10 weak hits, 20 misses; hit ratio 0.8000\n"
            "loads     18, 3 failed, 7 in flight; 4.5s in all\n"
            "failures  9 requests got a kept one, 10 an expired object\n"
            "load time mean 250ms, about 853us for half, 943.718ms for 90%, "
            "1h11m34.967296s for 99%\n"
            "saved     20.5s of loads by hits\n"
            "removals  5 by budget, 4 by expiry, 2 replaced, 1 invalidated, 6 died\n"
            "by budget after about 0 for a tenth, 49.152s for half, 1193h2m47.296s for 90%\n"
            "bytes     1053000: 900000 idle, 150000 in use, 3000 reserved; 1000000 retained, 50000 "
            "pinned "
            "by users\n"
            "          7000000 loaded, 6000000 evicted by budget\n"
            "entries   8 dead and not yet purged\n");
}

TEST(CacheStatsTest, Json) {
  EXPECT_EQ(Example().ToJson(),
            R"({"hits":70,"weak_hits":10,"misses":20,"loads":18,"load_failures":3,)"
            R"("failures_served":9,"stale_served":10,)"
            R"("bytes_loaded":7000000,"bytes_evicted":6000000,)"
            R"("load_time_seconds":4.5,"time_saved_seconds":20.5,"load_time_histogram":[)"
            R"({"at_most_seconds":0.000001,"loads":1},{"at_most_seconds":0.001024,"loads":12},)"
            R"({"at_most_seconds":1.048576,"loads":4},{"at_most_seconds":null,"loads":1}],)"
            R"("eviction_age_seconds":250,"eviction_age_histogram":[)"
            R"({"at_most_seconds":0.001,"evictions":1},{"at_most_seconds":65.536,"evictions":3},)"
            R"({"at_most_seconds":null,"evictions":1}],)"
            R"("evictions_budget":5,"evictions_expired":4,"removals_replaced":2,)"
            R"("removals_invalidated":1,"removals_died":6,)"
            R"("bytes_idle":900000,"bytes_in_use":150000,"bytes_reserved":3000,)"
            R"("bytes_retained":1000000,"bytes_pinned":50000,"loads_in_flight":7,)"
            R"("dead_entries":8,"requests":100,"hit_ratio":0.8})");
}

TEST(CacheStatsTest, JsonOfNothingAndOfInfinity) {
  EXPECT_TRUE(
      Contains(CacheStats().ToJson(), R"("time_saved_seconds":0,"load_time_histogram":[],)"));
  CacheStats stats;
  stats.load_time = absl::InfiniteDuration();
  EXPECT_TRUE(Contains(stats.ToJson(), R"("load_time_seconds":9223372036.854775807,)"));
}

constexpr char kPrometheusBeforeTheBuckets[] =
    R"(# HELP weakcache_requests_total Requests, by what served them.
# TYPE weakcache_requests_total counter
weakcache_requests_total{cache="images",result="hit"} 70
weakcache_requests_total{cache="images",result="weak_hit"} 10
weakcache_requests_total{cache="images",result="miss"} 20
# HELP weakcache_loads_total Loads that have ended, well or not.
# TYPE weakcache_loads_total counter
weakcache_loads_total{cache="images"} 18
# HELP weakcache_load_failures_total Loads that gave no object.
# TYPE weakcache_load_failures_total counter
weakcache_load_failures_total{cache="images"} 3
# HELP weakcache_failures_served_total Misses that got a failure which was kept.
# TYPE weakcache_failures_served_total counter
weakcache_failures_served_total{cache="images"} 9
# HELP weakcache_stale_served_total Misses that got an expired object, as there was no other.
# TYPE weakcache_stale_served_total counter
weakcache_stale_served_total{cache="images"} 10
# HELP weakcache_load_duration_seconds How long the loads took.
# TYPE weakcache_load_duration_seconds histogram
weakcache_load_duration_seconds_bucket{cache="images",le="0.000001"} 1
weakcache_load_duration_seconds_bucket{cache="images",le="0.000002"} 1
)";
constexpr char kPrometheusAfterTheBuckets[] =
    R"(weakcache_load_duration_seconds_bucket{cache="images",le="4294.967296"} 17
weakcache_load_duration_seconds_bucket{cache="images",le="+Inf"} 18
weakcache_load_duration_seconds_sum{cache="images"} 4.5
weakcache_load_duration_seconds_count{cache="images"} 18
# HELP weakcache_time_saved_seconds_total How long it would have taken to load what hits found.
# TYPE weakcache_time_saved_seconds_total counter
weakcache_time_saved_seconds_total{cache="images"} 20.5
# HELP weakcache_loaded_bytes_total Weights of the objects that were loaded.
# TYPE weakcache_loaded_bytes_total counter
weakcache_loaded_bytes_total{cache="images"} 7000000
# HELP weakcache_removals_total Objects that left the cache, by cause.
# TYPE weakcache_removals_total counter
weakcache_removals_total{cache="images",cause="budget"} 5
weakcache_removals_total{cache="images",cause="expired"} 4
weakcache_removals_total{cache="images",cause="replaced"} 2
weakcache_removals_total{cache="images",cause="invalidated"} 1
weakcache_removals_total{cache="images",cause="died"} 6
# HELP weakcache_evicted_bytes_total Weights of the objects evicted for the budget.
# TYPE weakcache_evicted_bytes_total counter
weakcache_evicted_bytes_total{cache="images"} 6000000
# HELP weakcache_eviction_age_seconds How long ago the objects evicted for the budget had come.
# TYPE weakcache_eviction_age_seconds histogram
weakcache_eviction_age_seconds_bucket{cache="images",le="0.001"} 1
)";
constexpr char kPrometheusAfterAllBuckets[] =
    R"(weakcache_eviction_age_seconds_bucket{cache="images",le="4294967.296"} 4
weakcache_eviction_age_seconds_bucket{cache="images",le="+Inf"} 5
weakcache_eviction_age_seconds_sum{cache="images"} 250
weakcache_eviction_age_seconds_count{cache="images"} 5
# HELP weakcache_idle_bytes Weights of the objects that nobody uses.
# TYPE weakcache_idle_bytes gauge
weakcache_idle_bytes{cache="images"} 900000
# HELP weakcache_in_use_bytes Weights of the objects that somebody uses.
# TYPE weakcache_in_use_bytes gauge
weakcache_in_use_bytes{cache="images"} 150000
# HELP weakcache_reserved_bytes Bytes kept free for loads under way.
# TYPE weakcache_reserved_bytes gauge
weakcache_reserved_bytes{cache="images"} 3000
# HELP weakcache_retained_bytes Weights of the objects that the cache keeps alive.
# TYPE weakcache_retained_bytes gauge
weakcache_retained_bytes{cache="images"} 1000000
# HELP weakcache_pinned_bytes Weights of the objects that only their users keep alive.
# TYPE weakcache_pinned_bytes gauge
weakcache_pinned_bytes{cache="images"} 50000
# HELP weakcache_loads_in_flight Loads that have begun and not ended.
# TYPE weakcache_loads_in_flight gauge
weakcache_loads_in_flight{cache="images"} 7
# HELP weakcache_dead_entries Entries of dead objects that wait for a purge.
# TYPE weakcache_dead_entries gauge
weakcache_dead_entries{cache="images"} 8
)";

TEST(CacheStatsTest, Prometheus) {
  const std::string text = Example().ToPrometheus("weakcache", {{"cache", "images"}});
  const std::string before = kPrometheusBeforeTheBuckets;
  const std::string after = kPrometheusAfterAllBuckets;
  ASSERT_GT(text.size(), before.size() + after.size());
  EXPECT_EQ(text.substr(0, before.size()), before);
  EXPECT_EQ(text.substr(text.size() - after.size()), after);
  EXPECT_TRUE(Contains(text, R"(_bucket{cache="images",le="0.000512"} 1)"));
  EXPECT_TRUE(Contains(text, R"(_bucket{cache="images",le="0.001024"} 13)"));
  EXPECT_TRUE(Contains(text, kPrometheusAfterTheBuckets));
  EXPECT_TRUE(Contains(text, R"(_age_seconds_bucket{cache="images",le="65.536"} 4)"));
}

TEST(CacheStatsTest, PrometheusBucketsAreCumulative) {
  std::istringstream lines(Example().ToPrometheus());
  std::string line;
  uint64_t before = 0;
  size_t buckets = 0;
  while (std::getline(lines, line)) {
    if (line.rfind("weakcache_load_duration_seconds_bucket{le=\"", 0) != 0) continue;
    const uint64_t count = std::stoull(line.substr(line.rfind(' ') + 1));
    EXPECT_GE(count, before);
    before = count;
    ++buckets;
  }
  EXPECT_EQ(buckets, CacheStats::kLoadTimeBuckets);
  EXPECT_EQ(before, Example().loads);
}

TEST(CacheStatsTest, PrometheusLabelsAndNames) {
  const CacheStats stats = Example();
  EXPECT_TRUE(Contains(stats.ToPrometheus(), "\nweakcache_loads_total 18\n"));
  EXPECT_TRUE(Contains(stats.ToPrometheus(""), "\nloads_total 18\n"));
  EXPECT_TRUE(Contains(stats.ToPrometheus("2nd app:images"), "\n_2nd_app:images_loads_total 18\n"));
  EXPECT_TRUE(Contains(stats.ToPrometheus("p", {{"path", "C:\\a \"b\"\nc"}}),
                       "\np_loads_total{path=\"C:\\\\a \\\"b\\\"\\nc\"} 18\n"));
  EXPECT_TRUE(Contains(stats.ToPrometheus("p", {{"a-b:c", ""}, {"", "d"}, {"0", "e"}}),
                       "\np_loads_total{a_b_c=\"\",_=\"d\",_0=\"e\"} 18\n"));
  EXPECT_TRUE(Contains(stats.ToPrometheus("p", {{"le", "1"}, {"cause", "2"}, {"result", "3"}}),
                       "\np_loads_total{exported_le=\"1\",exported_cause=\"2\","
                       "exported_result=\"3\"} 18\n"));
}

TEST(CacheStatsTest, PrometheusOfSeveralCachesDeclaresAMetricOnce) {
  const std::string text =
      ToPrometheus("p", {{{{"cache", "a"}}, Example()}, {{{"cache", "b"}}, CacheStats()}});
  EXPECT_TRUE(Contains(text,
                       "# TYPE p_loads_total counter\n"
                       "p_loads_total{cache=\"a\"} 18\n"
                       "p_loads_total{cache=\"b\"} 0\n"
                       "# HELP "));
  EXPECT_EQ(text.find("# TYPE p_loads_total"), text.rfind("# TYPE p_loads_total"));
}

}  // namespace
}  // namespace weakcache
