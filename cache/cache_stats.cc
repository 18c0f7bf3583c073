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

constexpr std::array<Figure, 7> kCounters = {{
    {"hits", &CacheStats::hits},
    {"weak_hits", &CacheStats::weak_hits},
    {"misses", &CacheStats::misses},
    {"loads", &CacheStats::loads},
    {"load_failures", &CacheStats::load_failures},
    {"failures_served", &CacheStats::failures_served},
    {"stale_served", &CacheStats::stale_served},
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
  for (size_t i = 0; i < CacheStats::kLoadTimeBuckets; ++i) {
    uint64_t& count = result.load_time_histogram[i];
    count = combine(count, other.load_time_histogram[i]);
  }
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

  void LoadTimes(const std::string& name, std::string_view help) {
    Declare(name, "histogram", help);
    for (size_t cache = 0; cache < caches_.size(); ++cache) {
      const CacheStats& stats = caches_[cache].second;
      uint64_t sum = 0;
      for (size_t i = 0; i < CacheStats::kLoadTimeBuckets; ++i) {
        const absl::Duration limit = CacheStats::LoadTimeLimit(i);
        sum = SaturatingAdd(sum, stats.load_time_histogram[i]);
        Sample(name + "_bucket", cache, "le",
               limit == absl::InfiniteDuration() ? "+Inf" : Seconds(limit), absl::StrCat(sum));
      }
      Sample(name + "_sum", cache, "", "", Seconds(stats.load_time));
      Sample(name + "_count", cache, "", "", absl::StrCat(sum));
    }
  }

  void Times(std::string_view name, std::string_view help, absl::Duration CacheStats::*time) {
    Declare(name, "counter", help);
    for (size_t cache = 0; cache < caches_.size(); ++cache) {
      Sample(name, cache, "", "", Seconds(caches_[cache].second.*time));
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
  double all = 0;
  for (const uint64_t count : load_time_histogram) all += static_cast<double>(count);
  // Not a number fails the comparison as well.
  const double rank = fraction > 0 ? std::min(fraction, 1.0) * all : 0;
  double below = 0;
  absl::Duration last;
  for (size_t i = 0; i < kLoadTimeBuckets; ++i) {
    const double count = static_cast<double>(load_time_histogram[i]);
    if (count == 0) continue;
    const absl::Duration lower = i == 0 ? absl::ZeroDuration() : LoadTimeLimit(i - 1);
    if (i == kLoadTimeBuckets - 1) return lower;
    last = LoadTimeLimit(i);
    if (below + count >= rank) return lower + (last - lower) * ((rank - below) / count);
    below += count;
  }
  return last;  // for want of digits, the rank was not reached; or there are no loads
}

size_t CacheStats::LoadTimeBucket(absl::Duration time) {
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(time);
  if (nanoseconds <= 1000) return 0;
  // Limits are inclusive: 2000 ns is in bucket 1, 2001 ns in bucket 2.
  const auto above_whole_microseconds = static_cast<uint64_t>((nanoseconds - 1) / 1000);
  return std::min<size_t>(std::bit_width(above_whole_microseconds), kLoadTimeBuckets - 1);
}

absl::Duration CacheStats::LoadTimeLimit(size_t bucket) {
  if (bucket >= kLoadTimeBuckets - 1) return absl::InfiniteDuration();
  return absl::Microseconds(int64_t{1} << bucket);
}

CacheStats CacheStats::Plus(const CacheStats& other) const {
  CacheStats sum = *this;
  CombineCounters(sum, other, SaturatingAdd);
  sum.load_time += other.load_time;  // saturates
  sum.time_saved += other.time_saved;
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
  const auto quantile = [&](double fraction) {
    // Whole microseconds: more digits would be noise.
    return absl::FormatDuration(absl::Trunc(LoadTimeQuantile(fraction), absl::Microseconds(1)));
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
      "bytes     %d: %d idle, %d in use, %d reserved; %d retained, %d pinned by users\n"
      "entries   %d dead and not yet purged\n",
      evictions_budget, evictions_expired, removals_replaced, removals_invalidated, removals_died,
      bytes(), bytes_idle, bytes_in_use, bytes_reserved, bytes_retained, bytes_pinned,
      dead_entries);
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
  append_each(kCounters);
  append("load_time_seconds", Seconds(load_time));
  append("time_saved_seconds", Seconds(time_saved));
  std::string buckets;
  for (size_t i = 0; i < kLoadTimeBuckets; ++i) {
    if (load_time_histogram[i] == 0) continue;
    const bool last = i == kLoadTimeBuckets - 1;
    absl::StrAppend(&buckets, buckets.empty() ? "" : ",",
                    "{\"at_most_seconds\":", last ? "null" : Seconds(LoadTimeLimit(i)),
                    ",\"loads\":", load_time_histogram[i], "}");
  }
  append("load_time_histogram", absl::StrCat("[", buckets, "]"));
  append_each(kRemovals);
  append_each(kGauges);
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
  text.LoadTimes("load_duration_seconds", "How long the loads took.");
  text.Times("time_saved_seconds_total", "How long it would have taken to load what hits found.",
             &CacheStats::time_saved);
  std::vector<std::string_view> causes;
  for (size_t i = 0; i < kRemovalCauses; ++i) {
    causes.push_back(RemovalCauseName(static_cast<RemovalCause>(i)));
  }
  text.Metric("removals_total", "counter", "Objects that left the cache, by cause.",
              {kRemovals.begin(), kRemovals.end()}, "cause", causes);
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
