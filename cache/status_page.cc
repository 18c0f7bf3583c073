// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/status_page.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "weakcache/cache/cache_stats.h"

namespace weakcache::internal {
namespace {

// Longer texts are cut: a page with many long keys is of no use.
constexpr size_t kMaxTextBytes = 200;

// Returns the text as it may stand in an element or a quoted attribute. Bytes that HTML doesn't
// allow are shown as "\x1f".
std::string Escaped(std::string_view text) {
  const bool cut = text.size() > kMaxTextBytes;
  if (cut) {
    size_t end = kMaxTextBytes;
    // Not within a character of UTF-8, whose further bytes are 10xxxxxx.
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    text = text.substr(0, end);
  }
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default: {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7F) {
          absl::StrAppend(&escaped, "\\x", absl::Hex(byte, absl::kZeroPad2));
        } else {
          escaped += c;
        }
      }
    }
  }
  return cut ? escaped + "…" : escaped;
}

std::string Bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return absl::StrCat(bytes, " B");
  auto value = static_cast<double>(bytes) / 1000;
  size_t unit = 0;
  for (; value >= 999.95; ++unit) value /= 1000;
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string Row(const std::string& name, const std::string& value) {
  return absl::StrCat("<tr><th scope=\"row\">", name, "</th><td>", value, "</td></tr>\n");
}

// Returns a bar, without a style of its own, that text browsers show as the text beside it.
std::string Meter(uint64_t value, uint64_t max) {
  return absl::StrCat("<meter min=\"0\" max=\"", std::max<uint64_t>(max, 1), "\" value=\"",
                      std::min(value, std::max<uint64_t>(max, 1)), "\"></meter>");
}

std::string Figures(const StatusPageContent& content) {
  const CacheStats& stats = content.stats;
  std::string rows = "<table>\n<tbody>\n";
  rows += Row("budget", absl::StrCat(Meter(stats.bytes(), content.budget_bytes), " ",
                                     Bytes(stats.bytes()), " of ", Bytes(content.budget_bytes)));
  rows +=
      Row("bytes", absl::StrCat(Bytes(stats.bytes_idle), " idle, ", Bytes(stats.bytes_in_use),
                                " in use, ", Bytes(stats.bytes_reserved), " reserved for loads"));
  rows += Row("bytes so far", absl::StrCat(Bytes(stats.bytes_loaded), " loaded, ",
                                           Bytes(stats.bytes_evicted), " evicted for the budget"));
  rows += Row("kept alive by users only", Bytes(stats.bytes_pinned));
  rows += Row("objects",
              absl::StrCat(content.objects, ", and ", stats.dead_entries, " entries of dead ones"));
  rows += Row("requests", absl::StrCat(stats.requests(), ": ", stats.hits, " hits, ",
                                       stats.weak_hits, " weak hits, ", stats.misses, " misses"));
  rows += Row("hit ratio", absl::StrFormat("%.1f %%", 100 * stats.hit_ratio()));
  rows += Row("loads", absl::StrCat(stats.loads, ", ", stats.load_failures, " failed, ",
                                    stats.loads_in_flight, " under way"));
  rows +=
      Row("removals",
          absl::StrCat(stats.evictions_budget, " for the budget, ", stats.evictions_expired,
                       " expired, ", stats.removals_replaced, " replaced, ",
                       stats.removals_invalidated, " invalidated, ", stats.removals_died, " died"));
  return rows + "</tbody>\n</table>\n";
}

// Returns a histogram from the shortest to the longest time that there was. `limit_of(bucket)`
// returns a bucket's limit.
template <typename Counts>
std::string Histogram(const char* caption, const Counts& counts,
                      absl::Duration (*limit_of)(size_t bucket)) {
  const auto is_used = [](uint64_t count) { return count != 0; };
  const auto first = std::find_if(counts.begin(), counts.end(), is_used);
  if (first == counts.end()) return "";
  const auto last = std::find_if(counts.rbegin(), counts.rend(), is_used).base();
  const uint64_t most = *std::max_element(counts.begin(), counts.end());
  std::string rows = absl::StrCat("<table>\n<caption>", caption, "</caption>\n<tbody>\n");
  for (auto count = first; count != last; ++count) {
    const auto bucket = static_cast<size_t>(count - counts.begin());
    const bool open = bucket + 1 == counts.size();
    const absl::Duration limit = limit_of(open ? bucket - 1 : bucket);
    rows += Row(absl::StrCat(open ? "more than " : "up to ", absl::FormatDuration(limit)),
                absl::StrCat(Meter(*count, most), " ", *count));
  }
  return rows + "</tbody>\n</table>\n";
}

std::string Keys(const char* heading, const std::vector<std::string>& keys) {
  if (keys.empty()) return "";
  std::string list = absl::StrCat("<h3>", heading, "</h3>\n<ol>\n");
  for (const std::string& key : keys) {
    absl::StrAppend(&list, "<li><code>", Escaped(key), "</code></li>\n");
  }
  return list + "</ol>\n";
}

}  // namespace

std::string RenderStatusPage(const StatusPageContent& content) {
  const CacheStats& stats = content.stats;
  return absl::StrCat("<section class=\"weakcache-status\">\n<h2>", Escaped(content.title),
                      "</h2>\n", Figures(content),
                      Histogram("load times", stats.load_time_histogram, CacheStats::LoadTimeLimit),
                      Histogram("ages at eviction for the budget", stats.eviction_age_histogram,
                                CacheStats::EvictionAgeLimit),
                      Keys("evicted last", content.hottest), Keys("evicted first", content.coldest),
                      "</section>\n");
}

}  // namespace weakcache::internal
