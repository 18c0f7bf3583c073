// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/status_page.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using Cache = LargeObjectCache<std::string, std::string>;

Cache NewCache(uint64_t budget = 4000) {
  Cache::Options options = testing::WithBudget<Cache>(budget);
  options.weigher = [](const std::string& object) { return object.size(); };
  return *Cache::Create(std::move(options));
}

// Returns what is wrong with the order of the tags, or "" if each is closed where it has to be.
std::string WrongTag(const std::string& html) {
  std::vector<std::string> open;
  for (size_t i = html.find('<'); i != std::string::npos; i = html.find('<', i + 1)) {
    const size_t end = html.find('>', i);
    if (end == std::string::npos) return html.substr(i);
    const std::string tag = html.substr(i + 1, end - i - 1);
    if (tag[0] != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    } else if (open.empty() || open.back() != tag.substr(1)) {
      return tag;
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back();
}

bool Contains(const std::string& page, std::string_view text) {
  return page.find(text) != std::string::npos;
}

TEST(StatusPageTest, FiguresAreShown) {
  Cache cache = NewCache();
  static_cast<void>(cache.GetOrLoad("a", [] { return std::string(1000, 'x'); }));
  static_cast<void>(cache.GetOrLoad("a", [] { return std::string(1000, 'x'); }));
  static_cast<void>(cache.GetOrLoad("b", [] { return absl::NotFoundError("b"); }));
  const std::string page = StatusPage(cache, {.title = "images"});
  EXPECT_EQ(WrongTag(page), "");
  EXPECT_TRUE(Contains(page, "<h2>images</h2>")) << page;
  EXPECT_TRUE(Contains(page,
                       "<meter min=\"0\" max=\"4000\" value=\"1000\"></meter> "
                       "1.0 kB of 4.0 kB<"))
      << page;
  EXPECT_TRUE(Contains(page, "1.0 kB idle, 0 B in use, 0 B reserved for loads")) << page;
  EXPECT_TRUE(Contains(page, "3: 1 hits, 0 weak hits, 2 misses")) << page;
  EXPECT_TRUE(Contains(page, "33.3 %")) << page;
  EXPECT_TRUE(Contains(page, "2, 1 failed, 0 under way")) << page;
  EXPECT_TRUE(Contains(page, "<td>1, and 0 entries of dead ones</td>")) << page;
}

TEST(StatusPageTest, LoadsUnderWayAreCounted) {
  Cache cache = NewCache();
  std::string page;
  static_cast<void>(cache.GetOrLoad("a", [&] {
    page = StatusPage(cache);  // no lock is held
    return std::string("x");
  }));
  EXPECT_TRUE(Contains(page, "0, 0 failed, 1 under way")) << page;
}

TEST(StatusPageTest, LoadTimesAreAHistogram) {
  absl::Time now = absl::UnixEpoch();
  Cache::Options options = testing::WithBudget<Cache>(4000);
  options.clock = [&now] { return now; };
  Cache cache = *Cache::Create(options);
  const auto load = [&](const std::string& key, absl::Duration time) {
    static_cast<void>(cache.GetOrLoad(key, [&] {
      now += time;
      return std::string("x");
    }));
  };
  EXPECT_FALSE(Contains(StatusPage(cache), "load times"));
  load("a", absl::Microseconds(3));
  load("b", absl::Microseconds(4));
  load("c", absl::Microseconds(16));
  const std::string page = StatusPage(cache);
  EXPECT_EQ(WrongTag(page), "");
  // From the shortest to the longest, with empty buckets between them only.
  EXPECT_TRUE(Contains(page,
                       "<tr><th scope=\"row\">up to 4us</th>"
                       "<td><meter min=\"0\" max=\"2\" value=\"2\"></meter> 2</td></tr>\n"
                       "<tr><th scope=\"row\">up to 8us</th>"
                       "<td><meter min=\"0\" max=\"2\" value=\"0\"></meter> 0</td></tr>\n"
                       "<tr><th scope=\"row\">up to 16us</th>"
                       "<td><meter min=\"0\" max=\"2\" value=\"1\"></meter> 1</td></tr>\n</tbody>"))
      << page;
  EXPECT_FALSE(Contains(page, "up to 2us"));
  load("d", absl::Hours(2));
  EXPECT_TRUE(Contains(StatusPage(cache), "more than 1h11m34.967296s")) << StatusPage(cache);
}

TEST(StatusPageTest, AgesAtEvictionAreAHistogram) {
  absl::Time now = absl::UnixEpoch();
  Cache::Options options = testing::WithBudget<Cache>(4000);
  options.clock = [&now] { return now; };
  Cache cache = *Cache::Create(options);
  static_cast<void>(cache.GetOrLoad("a", [] { return std::string(3000, 'x'); }));
  EXPECT_FALSE(Contains(StatusPage(cache), "ages at eviction"));
  now += absl::Milliseconds(1024);
  cache.Put("b", std::string(3000, 'x'));
  const std::string page = StatusPage(cache);
  EXPECT_EQ(WrongTag(page), "");
  EXPECT_TRUE(Contains(page,
                       "<caption>ages at eviction for the budget</caption>\n<tbody>\n"
                       "<tr><th scope=\"row\">up to 1.024s</th>"
                       "<td><meter min=\"0\" max=\"1\" value=\"1\"></meter> 1</td></tr>\n</tbody>"))
      << page;
  EXPECT_TRUE(Contains(page, "3.0 kB loaded, 3.0 kB evicted for the budget")) << page;
}

TEST(StatusPageTest, KeysAreShownInOrder) {
  Cache cache = NewCache();
  for (const char* const key : {"k1", "k2", "k3", "k4"}) cache.Put(key, std::string(10, 'x'));
  const auto list = [](const std::vector<std::string>& keys) {
    std::string items = "<ol>\n";
    for (const std::string& key : keys) items += "<li><code>" + key + "</code></li>\n";
    return items + "</ol>\n";
  };
  const std::string page = StatusPage(cache, {.keys = 3});
  EXPECT_TRUE(Contains(page, "<h3>evicted last</h3>\n" + list(cache.HottestKeys(3)))) << page;
  EXPECT_TRUE(Contains(page, "<h3>evicted first</h3>\n" + list(cache.ColdestKeys(3)))) << page;
  EXPECT_FALSE(Contains(StatusPage(cache, {.keys = 0}), "<ol>"));
}

TEST(StatusPageTest, KeysAndTitleAreEscaped) {
  Cache cache = NewCache();
  cache.Put("<script>alert('&\"')</script>", std::string("x"));
  cache.Put(std::string("\0\x1f\x7f", 3), std::string("x"));
  const std::string page = StatusPage(cache, {.title = "a<b"});
  EXPECT_EQ(WrongTag(page), "");
  EXPECT_FALSE(Contains(page, "<script>")) << page;
  EXPECT_TRUE(Contains(page, "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;")) << page;
  EXPECT_TRUE(Contains(page, "<code>\\x00\\x1f\\x7f</code>")) << page;
  EXPECT_TRUE(Contains(page, "<h2>a&lt;b</h2>")) << page;
}

TEST(StatusPageTest, LongKeysAreCutBetweenCharacters) {
  Cache cache = NewCache();
  cache.Put(std::string(199, 'a') + "ééé", std::string("x"));
  cache.Put(std::string(200, 'b'), std::string("x"));
  const std::string page = StatusPage(cache);
  EXPECT_TRUE(Contains(page, "<code>" + std::string(199, 'a') + "…</code>")) << page;
  EXPECT_TRUE(Contains(page, "<code>" + std::string(200, 'b') + "</code>")) << page;
}

TEST(StatusPageTest, OtherKeysHaveAText) {
  struct Tile {
    int x, y;
    bool operator==(const Tile&) const = default;
  };
  struct HashTile {
    size_t operator()(const Tile& tile) const { return static_cast<size_t>(31 * tile.x + tile.y); }
  };
  auto options = testing::WithBudget<LargeObjectCache<Tile, int, HashTile>>(100);
  auto tiles = *LargeObjectCache<Tile, int, HashTile>::Create(options);
  tiles.Put(Tile{3, 4}, 7);
  const auto text = [](const Tile& tile) {
    return std::to_string(tile.x) + "/" + std::to_string(tile.y);
  };
  EXPECT_TRUE(Contains(StatusPage(tiles, text), "<code>3/4</code>"));

  auto int_options = testing::WithBudget<LargeObjectCache<int, int>>(100);
  auto numbers = *LargeObjectCache<int, int>::Create(int_options);
  numbers.Put(-5, 7);
  EXPECT_TRUE(Contains(StatusPage(numbers), "<code>-5</code>"));
}

TEST(StatusPageTest, TheBarIsFullAboveTheBudget) {
  CacheStats stats;
  stats.bytes_idle = 1'000'000'000;
  stats.bytes_in_use = 2'000'000'000;
  stats.bytes_pinned = 999'960;
  const std::string page = internal::RenderStatusPage({"t", stats, 2'000'000'000, 1, {}, {}});
  EXPECT_TRUE(Contains(page,
                       "max=\"2000000000\" value=\"2000000000\"></meter> "
                       "3.0 GB of 2.0 GB<"))
      << page;
  EXPECT_TRUE(Contains(page, "<td>1.0 MB</td>")) << page;
  // A weak cache has no budget.
  EXPECT_TRUE(Contains(internal::RenderStatusPage({"t", CacheStats(), 0, 0, {}, {}}),
                       "max=\"1\" value=\"0\"></meter> 0 B of 0 B<"));
}

}  // namespace
}  // namespace weakcache
