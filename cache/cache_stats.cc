// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/cache_stats.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace weakcache {
namespace {

using Labels = CacheStats::Labels;
using Caches = std::vector<std::pair<Labels, CacheStats>>;

struct Figure {
  std::string_view name;  // in JSON
  uint64_t CacheStats::*value;
};

constexpr std::array<Figure, 9> kCounters = {{
    {"hits", &CacheStats::hits},
    {"weak_hits", &CacheStats::weak_hits},
    {"misses", &CacheStats::misses},
    {"loads", &CacheStats::loads},
    {"load_failures", &CacheStats::load_failures},
    {"failures_served", &CacheStats::failures_served},
    {"stale_served", &CacheStats::stale_served},
    {"bytes_loaded", &CacheStats::bytes_loaded},
    {"bytes_evicted", &CacheStats::bytes_evicted},
}};
// In the order of RemovalCause.
constexpr std::array<Figure, kRemovalCauses> kRemovals = {{
    {"evictions_budget", &CacheStats::evictions_budget},
    {"evictions_expired", &CacheStats::evictions_expired},
    {"removals_replaced", &CacheStats::removals_replaced},
    {"removals_invalidated", &CacheStats::removals_invalidated},
    {"removals_died", &CacheStats::removals_died},
}};
constexpr std::array<Figure, 7> kGauges = {{
    {"bytes_idle", &CacheStats::bytes_idle},
    {"bytes_in_use", &CacheStats::bytes_in_use},
    {"bytes_reserved", &CacheStats::bytes_reserved},
    {"bytes_retained", &CacheStats::bytes_retained},
    {"bytes_pinned", &CacheStats::bytes_pinned},
    {"loads_in_flight", &CacheStats::loads_in_flight},
    {"dead_entries", &CacheStats::dead_entries},
}};

struct TierFigure {
  std::string_view name;  // in JSON
  std::string_view metric;
  std::string_view help;
  uint64_t CacheStats::*value;
};
constexpr std::array<TierFigure, 19> kTierCounters = {{
    {"tier_hits", "tier_hits_total", "Loads that got their object from the second tier.",
     &CacheStats::tier_hits},
    {"tier_misses", "tier_misses_total", "Loads that asked the second tier in vain.",
     &CacheStats::tier_misses},
    {"tier_rechecks", "tier_rechecks_total",
     "Loads for which the second tier had the very entry of the cache's object.",
     &CacheStats::tier_rechecks},
    {"tier_decode_failures", "tier_decode_failures_total",
     "Entries of the second tier that could not be decoded.", &CacheStats::tier_decode_failures},
    {"tier_encode_failures", "tier_encode_failures_total",
     "Objects that could not be encoded for the second tier.", &CacheStats::tier_encode_failures},
    {"tier_failed_changes", "tier_failed_changes_total",
     "Changes that the second tier has not taken, and that later loads make up for.",
     &CacheStats::tier_failed_changes},
    {"tier_failed_notices", "tier_failed_notices_total",
     "Notices of others' changes that were of unknown keys, or have failed.",
     &CacheStats::tier_failed_notices},
    {"tier_errors", "tier_errors_total", "Calls of the second tier that have failed.",
     &CacheStats::tier_errors},
    {"tier_timeouts", "tier_timeouts_total", "Of these, those that took too long.",
     &CacheStats::tier_timeouts},
    {"tier_puts", "tier_puts_total", "Entries that were put into the second tier.",
     &CacheStats::tier_puts},
    {"tier_erases", "tier_erases_total", "Erasures in the second tier.", &CacheStats::tier_erases},
    {"tier_bytes_read", "tier_read_bytes_total", "Encoded objects read from the second tier.",
     &CacheStats::tier_bytes_read},
    {"tier_bytes_written", "tier_written_bytes_total",
     "Encoded objects written to the second tier.", &CacheStats::tier_bytes_written},
    {"tier_skipped_values", "tier_skipped_values_total",
     "Entries that are too large for the second tier.", &CacheStats::tier_skipped_values},
    {"tier_leases_won", "tier_leases_won_total", "Leases that this process has got.",
     &CacheStats::tier_leases_won},
    {"tier_leases_awaited", "tier_leases_awaited_total",
     "Loads that have waited for the lease of another process.", &CacheStats::tier_leases_awaited},
    {"tier_leases_lost", "tier_leases_lost_total",
     "Objects that came after the end of their leases.", &CacheStats::tier_leases_lost},
    {"tier_notices", "tier_notices_total", "Changes by other processes.",
     &CacheStats::tier_notices},
    {"tier_dropped_changes", "tier_dropped_changes_total",
     "Changes that were not sent because too many waited to be.",
     &CacheStats::tier_dropped_changes},
}};

// Abseil may have a string_view of its own, which its StrAppend takes instead of std's.
void Append(std::string& text, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) text += part;
}

uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return a > std::numeric_limits<uint64_t>::max() - b ? std::numeric_limits<uint64_t>::max()
                                                      : a + b;
}
uint64_t SaturatingSubtract(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

// Everything but the gauges. Combine is one of the two above.
template <typename Combine>
void CombineCounters(CacheStats& result, const CacheStats& other, Combine&& combine) {
  for (const Figure& each : kCounters) {
    result.*each.value = combine(result.*each.value, other.*each.value);
  }
  for (const Figure& each : kRemovals) {
    result.*each.value = combine(result.*each.value, other.*each.value);
  }
  for (const TierFigure& each : kTierCounters) {
    result.*each.value = combine(result.*each.value, other.*each.value);
  }
  const auto combine_each = [&](auto histogram) {
    for (size_t i = 0; i < (result.*histogram).size(); ++i) {
      (result.*histogram)[i] = combine((result.*histogram)[i], (other.*histogram)[i]);
    }
  };
  combine_each(&CacheStats::load_time_histogram);
  combine_each(&CacheStats::eviction_age_histogram);
}

// The limits of a histogram's buckets are 1, 2, 4, … units; the last bucket has none.
constexpr int64_t kLoadTimeUnit = 1'000;         // nanoseconds
constexpr int64_t kEvictionAgeUnit = 1'000'000;  // the same

size_t BucketOf(absl::Duration time, int64_t unit, size_t buckets) {
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(time);
  if (nanoseconds <= unit) return 0;
  // Limits are inclusive: 2 units are in bucket 1, a nanosecond more is in bucket 2.
  const auto above_whole_units = static_cast<uint64_t>((nanoseconds - 1) / unit);
  return std::min<size_t>(std::bit_width(above_whole_units), buckets - 1);
}

absl::Duration LimitOf(size_t bucket, int64_t unit, size_t buckets) {
  if (bucket >= buckets - 1) return absl::InfiniteDuration();
  return absl::Nanoseconds(unit) * (int64_t{1} << bucket);
}

template <size_t kBuckets>
absl::Duration QuantileOf(const std::array<uint64_t, kBuckets>& histogram, int64_t unit,
                          double fraction) {
  double all = 0;
  for (const uint64_t count : histogram) all += static_cast<double>(count);
  // Not a number fails the comparison as well.
  const double rank = fraction > 0 ? std::min(fraction, 1.0) * all : 0;
  double below = 0;
  absl::Duration last;
  for (size_t i = 0; i < kBuckets; ++i) {
    const double count = static_cast<double>(histogram[i]);
    if (count == 0) continue;
    const absl::Duration lower = i == 0 ? absl::ZeroDuration() : LimitOf(i - 1, unit, kBuckets);
    if (i == kBuckets - 1) return lower;
    last = LimitOf(i, unit, kBuckets);
    if (below + count >= rank) return lower + (last - lower) * ((rank - below) / count);
    below += count;
  }
  return last;  // for want of digits, the rank was not reached; or there is nothing
}

// In seconds, exact to the nanosecond, and a number whatever the time is: JSON has no infinity, and
// the usual conversions keep six digits.
std::string Seconds(absl::Duration time) {
  const int64_t nanoseconds = std::max<int64_t>(absl::ToInt64Nanoseconds(time), 0);
  constexpr int64_t kPerSecond = 1'000'000'000;
  const int64_t whole = nanoseconds / kPerSecond;
  const int64_t rest = nanoseconds % kPerSecond;
  if (rest == 0) return absl::StrCat(whole);
  std::string text = absl::StrCat(whole, ".", absl::Dec(rest, absl::kZeroPad9));
  text.erase(text.find_last_not_of('0') + 1);
  return text;
}

// With what a JSON string can't have escaped.
std::string JsonString(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppend(&json, "\\u", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad4));
    } else {
      json += c;
    }
  }
  return json + '"';
}

// `name` with '_' in place of what a label's name, or a metric's, which may have colons, can't
// have.
std::string ValidName(std::string_view name, bool colons) {
  std::string valid;
  if (name.empty() || absl::ascii_isdigit(static_cast<unsigned char>(name[0]))) valid = '_';
  for (const char c : name) {
    const bool allowed = absl::ascii_isalnum(static_cast<unsigned char>(c)) || (colons && c == ':');
    valid += allowed ? c : '_';
  }
  return valid;
}

std::string ValidLabelName(std::string_view name) {
  std::string valid = ValidName(name, /*colons=*/false);
  const bool taken = valid == "cause" || valid == "le" || valid == "result";
  return taken ? "exported_" + valid : valid;
}

// Writes one metric after the other.
class PrometheusText {
 public:
  PrometheusText(std::string_view name_prefix, const Caches& caches) : caches_(caches) {
    if (!name_prefix.empty()) prefix_ = ValidName(name_prefix, /*colons=*/true) + "_";
    for (const auto& [labels, stats] : caches) {
      std::string& text = labels_.emplace_back();
      for (const auto& [name, value] : labels) AppendLabel(text, ValidLabelName(name), value);
    }
  }

  // A metric of one or more figures; those have the values of the label called `label`.
  void Metric(std::string_view name, std::string_view type, std::string_view help,
              const std::vector<Figure>& figures, std::string_view label = "",
              const std::vector<std::string_view>& values = {}) {
    Declare(name, type, help);
    for (size_t cache = 0; cache < caches_.size(); ++cache) {
      for (size_t i = 0; i < figures.size(); ++i) {
        const uint64_t CacheStats::*const value = figures[i].value;
        Sample(name, cache, label, label.empty() ? "" : values[i],
               absl::StrCat(caches_[cache].second.*value));
      }
    }
  }

  // `histogram` and `total` are members of CacheStats.
  template <typename Counts>
  void Histogram(const std::string& name, std::string_view help, Counts histogram, int64_t unit,
                 absl::Duration CacheStats::*total) {
    Declare(name, "histogram", help);
    for (size_t cache = 0; cache < caches_.size(); ++cache) {
      const CacheStats& stats = caches_[cache].second;
      const auto& counts = stats.*histogram;
      uint64_t sum = 0;
      for (size_t i = 0; i < counts.size(); ++i) {
        const absl::Duration limit = LimitOf(i, unit, counts.size());
        sum = SaturatingAdd(sum, counts[i]);
        Sample(name + "_bucket", cache, "le",
               limit == absl::InfiniteDuration() ? "+Inf" : Seconds(limit), absl::StrCat(sum));
      }
      Sample(name + "_sum", cache, "", "", Seconds(stats.*total));
      Sample(name + "_count", cache, "", "", absl::StrCat(sum));
    }
  }

  void Times(std::string_view name, std::string_view help, absl::Duration CacheStats::*time) {
    Declare(name, "counter", help);
    for (size_t cache = 0; cache < caches_.size(); ++cache) {
      Sample(name, cache, "", "", Seconds(caches_[cache].second.*time));
    }
  }

  void TierConditions() {
    Declare("tier_in_order", "gauge", "1 unless something is wrong with the second tier.");
    for (size_t cache = 0; cache < caches_.size(); ++cache) {
      Sample("tier_in_order", cache, "", "",
             caches_[cache].second.tier_condition.empty() ? "1" : "0");
    }
  }

  std::string Take() { return std::move(text_); }

 private:
  static void AppendLabel(std::string& text, std::string_view name, std::string_view value) {
    Append(text, {text.empty() ? "" : ",", name, "=\""});
    for (const char c : value) {
      if (c == '\\' || c == '"' || c == '\n') text += '\\';
      text += c == '\n' ? 'n' : c;
    }
    text += '"';
  }

  void Declare(std::string_view name, std::string_view type, std::string_view help) {
    Append(text_, {"# HELP ", prefix_, name, " ", help, "\n"});
    Append(text_, {"# TYPE ", prefix_, name, " ", type, "\n"});
  }

  void Sample(std::string_view name, size_t cache, std::string_view label, std::string_view value,
              std::string_view number) {
    std::string labels = labels_[cache];
    if (!label.empty()) AppendLabel(labels, label, value);
    const bool any = !labels.empty();
    Append(text_, {prefix_, name, any ? "{" : "", labels, any ? "}" : "", " ", number, "\n"});
  }

  const Caches& caches_;
  std::string prefix_;
  std::vector<std::string> labels_;  // of each cache
  std::string text_;
};

}  // namespace

uint64_t CacheStats::bytes() const {
  return SaturatingAdd(SaturatingAdd(bytes_idle, bytes_in_use), bytes_reserved);
}

uint64_t CacheStats::requests() const {
  return SaturatingAdd(SaturatingAdd(hits, weak_hits), misses);
}

double CacheStats::hit_ratio() const {
  // In floating point, where the sum can't saturate, so that the ratio is right even then.
  const double served = static_cast<double>(hits) + static_cast<double>(weak_hits);
  const double all = served + static_cast<double>(misses);
  return all == 0 ? 1 : served / all;
}

uint64_t CacheStats::evictions() const {
  return SaturatingAdd(evictions_budget, evictions_expired);
}

absl::Duration CacheStats::mean_load_time() const {
  return loads == 0 ? absl::ZeroDuration() : load_time / static_cast<double>(loads);
}

absl::Duration CacheStats::LoadTimeQuantile(double fraction) const {
  return QuantileOf(load_time_histogram, kLoadTimeUnit, fraction);
}
absl::Duration CacheStats::EvictionAgeQuantile(double fraction) const {
  return QuantileOf(eviction_age_histogram, kEvictionAgeUnit, fraction);
}

size_t CacheStats::LoadTimeBucket(absl::Duration time) {
  return BucketOf(time, kLoadTimeUnit, kLoadTimeBuckets);
}
absl::Duration CacheStats::LoadTimeLimit(size_t bucket) {
  return LimitOf(bucket, kLoadTimeUnit, kLoadTimeBuckets);
}
size_t CacheStats::EvictionAgeBucket(absl::Duration age) {
  return BucketOf(age, kEvictionAgeUnit, kEvictionAgeBuckets);
}
absl::Duration CacheStats::EvictionAgeLimit(size_t bucket) {
  return LimitOf(bucket, kEvictionAgeUnit, kEvictionAgeBuckets);
}

CacheStats CacheStats::Plus(const CacheStats& other) const {
  CacheStats sum = *this;
  CombineCounters(sum, other, SaturatingAdd);
  sum.load_time += other.load_time;  // saturates, as the next
  sum.time_saved += other.time_saved;
  sum.eviction_age += other.eviction_age;
  sum.tier_read_time += other.tier_read_time;
  sum.tier_write_time += other.tier_write_time;
  sum.has_tier = has_tier || other.has_tier;
  if (sum.tier_condition.empty()) sum.tier_condition = other.tier_condition;
  for (const Figure& each : kGauges) {
    sum.*each.value = SaturatingAdd(sum.*each.value, other.*each.value);
  }
  return sum;
}

CacheStats CacheStats::Minus(const CacheStats& earlier) const {
  CacheStats difference = *this;
  CombineCounters(difference, earlier, SaturatingSubtract);
  difference.load_time = std::max(load_time - earlier.load_time, absl::ZeroDuration());
  difference.time_saved = std::max(time_saved - earlier.time_saved, absl::ZeroDuration());
  difference.eviction_age = std::max(eviction_age - earlier.eviction_age, absl::ZeroDuration());
  difference.tier_read_time =
      std::max(tier_read_time - earlier.tier_read_time, absl::ZeroDuration());
  difference.tier_write_time =
      std::max(tier_write_time - earlier.tier_write_time, absl::ZeroDuration());
  return difference;
}

std::string CacheStats::ToText() const {
  std::string text;
  absl::StrAppendFormat(&text,
                        "requests  %d: %d hits, %d weak hits, %d misses; hit ratio %.4f\n"
                        "loads     %d, %d failed, %d in flight; %s in all\n"
                        "failures  %d requests got a kept one, %d an expired object\n",
                        requests(), hits, weak_hits, misses, hit_ratio(), loads, load_failures,
                        loads_in_flight, absl::FormatDuration(load_time), failures_served,
                        stale_served);
  // More digits would be noise.
  const auto quantile = [&](double fraction) {
    return absl::FormatDuration(absl::Trunc(LoadTimeQuantile(fraction), absl::Microseconds(1)));
  };
  const auto age = [&](double fraction) {
    return absl::FormatDuration(absl::Trunc(EvictionAgeQuantile(fraction), absl::Milliseconds(1)));
  };
  absl::StrAppendFormat(&text, "load time mean %s, about %s for half, %s for 90%%, %s for 99%%\n",
                        absl::FormatDuration(absl::Trunc(mean_load_time(), absl::Nanoseconds(1))),
                        quantile(0.5), quantile(0.9), quantile(0.99));
  if (time_saved != absl::ZeroDuration()) {
    absl::StrAppendFormat(&text, "saved     %s of loads by hits\n",
                          absl::FormatDuration(time_saved));
  }
  absl::StrAppendFormat(
      &text,
      "removals  %d by budget, %d by expiry, %d replaced, %d invalidated, %d died\n"
      "by budget after about %s for a tenth, %s for half, %s for 90%%\n"
      "bytes     %d: %d idle, %d in use, %d reserved; %d retained, %d pinned by users\n"
      "          %d loaded, %d evicted by budget\n"
      "entries   %d dead and not yet purged\n",
      evictions_budget, evictions_expired, removals_replaced, removals_invalidated, removals_died,
      age(0.1), age(0.5), age(0.9), bytes(), bytes_idle, bytes_in_use, bytes_reserved,
      bytes_retained, bytes_pinned, bytes_loaded, bytes_evicted, dead_entries);
  if (has_tier) {
    absl::StrAppendFormat(
        &text,
        "tier      %d hits, %d misses, %d rechecks; %d errors, %d of them timeouts; %s\n"
        "          %d puts of %d bytes in %s, %d too large, %d erased; %d bytes read in %s\n"
        "          leases: %d won, %d awaited, %d lost; changes: %d by others, %d not sent\n"
        "          %d changes failed at first, %d notices failed\n"
        "          codec: %d not decoded, %d not encoded\n",
        tier_hits, tier_misses, tier_rechecks, tier_errors, tier_timeouts,
        tier_condition.empty() ? "in order" : tier_condition, tier_puts, tier_bytes_written,
        absl::FormatDuration(tier_write_time), tier_skipped_values, tier_erases, tier_bytes_read,
        absl::FormatDuration(tier_read_time), tier_leases_won, tier_leases_awaited,
        tier_leases_lost, tier_notices, tier_dropped_changes, tier_failed_changes,
        tier_failed_notices, tier_decode_failures, tier_encode_failures);
  }
  return text;
}

std::string CacheStats::ToJson() const {
  std::string json = "{";
  const auto append = [&](std::string_view name, std::string_view value) {
    Append(json, {json.size() == 1 ? "" : ",", "\"", name, "\":", value});
  };
  const auto append_each = [&](const auto& figures) {
    for (const Figure& each : figures) append(each.name, absl::StrCat(this->*each.value));
  };
  const auto append_histogram = [&](std::string_view name, const auto& histogram, int64_t unit,
                                    std::string_view what) {
    std::string buckets = "[";
    for (size_t i = 0; i < histogram.size(); ++i) {
      if (histogram[i] == 0) continue;
      const bool last = i == histogram.size() - 1;
      Append(buckets, {buckets.size() == 1 ? "" : ",", "{\"at_most_seconds\":",
                       last ? "null" : Seconds(LimitOf(i, unit, histogram.size())), ",\"", what,
                       "\":", absl::StrCat(histogram[i]), "}"});
    }
    append(name, buckets + "]");
  };
  append_each(kCounters);
  append("load_time_seconds", Seconds(load_time));
  append("time_saved_seconds", Seconds(time_saved));
  append_histogram("load_time_histogram", load_time_histogram, kLoadTimeUnit, "loads");
  append("eviction_age_seconds", Seconds(eviction_age));
  append_histogram("eviction_age_histogram", eviction_age_histogram, kEvictionAgeUnit, "evictions");
  append_each(kRemovals);
  append_each(kGauges);
  if (has_tier) {
    for (const TierFigure& each : kTierCounters) append(each.name, absl::StrCat(this->*each.value));
    append("tier_read_time_seconds", Seconds(tier_read_time));
    append("tier_write_time_seconds", Seconds(tier_write_time));
    append("tier_condition", JsonString(tier_condition));
  }
  append("requests", absl::StrCat(requests()));
  append("hit_ratio", absl::StrCat(hit_ratio()));
  return json + "}";
}

std::string CacheStats::ToPrometheus(std::string_view name_prefix, const Labels& labels) const {
  return weakcache::ToPrometheus(name_prefix, {{labels, *this}});
}

std::string ToPrometheus(std::string_view name_prefix, const Caches& caches) {
  PrometheusText text(name_prefix, caches);
  text.Metric("requests_total", "counter", "Requests, by what served them.",
              {kCounters[0], kCounters[1], kCounters[2]}, "result", {"hit", "weak_hit", "miss"});
  text.Metric("loads_total", "counter", "Loads that have ended, well or not.", {kCounters[3]});
  text.Metric("load_failures_total", "counter", "Loads that gave no object.", {kCounters[4]});
  text.Metric("failures_served_total", "counter", "Misses that got a failure which was kept.",
              {kCounters[5]});
  text.Metric("stale_served_total", "counter",
              "Misses that got an expired object, as there was no other.", {kCounters[6]});
  text.Histogram("load_duration_seconds", "How long the loads took.",
                 &CacheStats::load_time_histogram, kLoadTimeUnit, &CacheStats::load_time);
  text.Times("time_saved_seconds_total", "How long it would have taken to load what hits found.",
             &CacheStats::time_saved);
  text.Metric("loaded_bytes_total", "counter", "Weights of the objects that were loaded.",
              {kCounters[7]});
  std::vector<std::string_view> causes;
  for (size_t i = 0; i < kRemovalCauses; ++i) {
    causes.push_back(RemovalCauseName(static_cast<RemovalCause>(i)));
  }
  text.Metric("removals_total", "counter", "Objects that left the cache, by cause.",
              {kRemovals.begin(), kRemovals.end()}, "cause", causes);
  text.Metric("evicted_bytes_total", "counter", "Weights of the objects evicted for the budget.",
              {kCounters[8]});
  text.Histogram("eviction_age_seconds",
                 "How long ago the objects evicted for the budget had come.",
                 &CacheStats::eviction_age_histogram, kEvictionAgeUnit, &CacheStats::eviction_age);
  if (std::any_of(caches.begin(), caches.end(), [](const auto& c) { return c.second.has_tier; })) {
    for (const TierFigure& each : kTierCounters) {
      text.Metric(each.metric, "counter", each.help, {Figure{each.name, each.value}});
    }
    text.Times("tier_read_seconds_total", "How long the second tier has read.",
               &CacheStats::tier_read_time);
    text.Times("tier_write_seconds_total", "How long the second tier has written.",
               &CacheStats::tier_write_time);
    text.TierConditions();
  }
  text.Metric("idle_bytes", "gauge", "Weights of the objects that nobody uses.", {kGauges[0]});
  text.Metric("in_use_bytes", "gauge", "Weights of the objects that somebody uses.", {kGauges[1]});
  text.Metric("reserved_bytes", "gauge", "Bytes kept free for loads under way.", {kGauges[2]});
  text.Metric("retained_bytes", "gauge", "Weights of the objects that the cache keeps alive.",
              {kGauges[3]});
  text.Metric("pinned_bytes", "gauge", "Weights of the objects that only their users keep alive.",
              {kGauges[4]});
  text.Metric("loads_in_flight", "gauge", "Loads that have begun and not ended.", {kGauges[5]});
  text.Metric("dead_entries", "gauge", "Entries of dead objects that wait for a purge.",
              {kGauges[6]});
  return text.Take();
}

}  // namespace weakcache
