// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/warm_start.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"

namespace weakcache {
namespace {

using ::weakcache::testing::TemporaryFolder;

struct Page {
  uint64_t weight = 10;
};

template <typename K>
LargeObjectCache<K, Page> MakeCache(uint64_t budget = 1000, size_t max_loads = 0) {
  using Cache = LargeObjectCache<K, Page>;
  typename Cache::Options options = testing::WithBudget<Cache>(budget);
  options.shards = 1;
  options.max_concurrent_loads = max_loads;
  options.weigher = [](const Page& page) { return page.weight; };
  return std::move(Cache::Create(std::move(options))).value();
}

// Virtual time that passes in sleeps only.
struct ManualTime {
  WarmOptions Options(double keys_per_second) {
    WarmOptions options;
    options.keys_per_second = keys_per_second;
    options.clock = [this] { return now; };
    options.sleep = [this](absl::Duration time) {
      now += time;
      ++sleeps;
    };
    return options;
  }

  const absl::Time start = absl::FromUnixSeconds(1000);
  absl::Time now = start;
  int sleeps = 0;
};

TEST(WarmStartTest, WritesKeysAndReadsThemAgain) {
  const std::vector<HotKey> keys = {
      {"cover.png", 9}, {"", 0}, {std::string("end 1\n\0x", 8), UINT32_MAX}, {"\n", 1}};
  std::stringstream text;
  ASSERT_EQ(WriteHotKeys(keys, text), absl::OkStatus());
  auto read = ReadHotKeys(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, keys);
  std::stringstream none;
  ASSERT_EQ(WriteHotKeys(std::vector<HotKey>(), none), absl::OkStatus());
  EXPECT_TRUE(ReadHotKeys(none)->empty());
}

// Each prefix is refused, and each changed byte of what is not a key's text or uses.
TEST(WarmStartTest, RefusesWhatIsNotWhole) {
  std::ostringstream out;
  ASSERT_EQ(WriteHotKeys({{"a", 1}, {"bb", 2}}, out), absl::OkStatus());
  const std::string whole = out.str();
  for (size_t size = 0; size < whole.size(); ++size) {
    std::istringstream in(whole.substr(0, size));
    EXPECT_EQ(ReadHotKeys(in).status().code(), absl::StatusCode::kDataLoss) << size;
  }
  for (const std::string hostile : {"1 99999999999999999999\n", "1 18446744073709551615\nx\n",
                                    "1 1048577\n", "-1 1\na\n", "4294967296 1\na\n", "1\n1\na\n"}) {
    std::istringstream in("weakcache hot keys, format 1\n" + hostile + "end 1\n");
    EXPECT_EQ(ReadHotKeys(in).status().code(), absl::StatusCode::kDataLoss) << hostile;
  }
}

TEST(WarmStartTest, AFileIsReplacedWhole) {
  const TemporaryFolder folder;
  const std::string file = (folder.path() / "hot").string();
  EXPECT_EQ(ReadHotKeys(file).status().code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(WriteHotKeys(std::vector<HotKey>{{"a", 1}}, file), absl::OkStatus());
  // A failure leaves the former file, and no other.
  const std::vector<HotKey> too_long = {{std::string((1 << 20) + 1, 'x'), 1}};
  EXPECT_EQ(WriteHotKeys(too_long, file).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadHotKeys(file)->at(0).text, "a");
  ASSERT_EQ(WriteHotKeys(std::vector<HotKey>{{"b", 2}}, file), absl::OkStatus());
  EXPECT_EQ(ReadHotKeys(file)->at(0).text, "b");
  EXPECT_EQ(folder.Files().size(), 1u);
  EXPECT_EQ(WriteHotKeys({}, (folder.path() / "none" / "hot").string()).code(),
            absl::StatusCode::kUnavailable);
}

TEST(WarmStartTest, BringsBackWhatWasHotHottestFirst) {
  const TemporaryFolder folder;
  const std::string file = (folder.path() / "hot").string();
  std::vector<std::string> hottest;
  {
    auto cache = MakeCache<std::string>();
    for (int i = 0; i < 5; ++i) {
      const std::string key = "page" + std::to_string(i);
      cache.Put(key, Page());
      for (int use = 0; use < 3 * i; ++use) (void)cache.Get(key);
    }
    hottest = cache.HottestKeys(5);
    ASSERT_EQ(ExportHot(cache, file), absl::OkStatus());
    const std::vector<HotKey> keys = *ReadHotKeys(file);
    ASSERT_EQ(keys.size(), 5u);
    for (size_t i = 0; i < keys.size(); ++i) {
      EXPECT_EQ(keys[i].text, hottest[i]);
      EXPECT_EQ(keys[i].uses, cache.Inspect(hottest[i])->uses);
    }
    EXPECT_GT(keys.front().uses, keys.back().uses);
  }
  auto cache = MakeCache<std::string>();
  cache.Put(hottest[1], Page());
  std::vector<std::string> loaded;
  ManualTime time;
  const auto result = Warm(
      cache, file,
      [&](const std::string& key) {
        loaded.push_back(key);
        return Page();
      },
      time.Options(0));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->keys, 5u);
  EXPECT_EQ(result->loads, 4u);
  EXPECT_FALSE(result->stopped);
  EXPECT_EQ(loaded, (std::vector<std::string>{hottest[0], hottest[2], hottest[3], hottest[4]}));
  EXPECT_EQ(cache.size(), 5u);
  EXPECT_EQ(time.sleeps, 0);
}

TEST(WarmStartTest, KeysMayBeIntegersOrHaveFunctions) {
  auto cache = MakeCache<int64_t>();
  cache.Put(-5, Page());
  std::stringstream text;
  ASSERT_EQ(ExportHot(cache, text), absl::OkStatus());
  auto again = MakeCache<int64_t>();
  EXPECT_EQ(Warm(again, text, [] { return Page(); })->loads, 1u);
  EXPECT_NE(again.Peek(-5), nullptr);

  std::stringstream hex;
  ASSERT_EQ(ExportHot(cache, hex, [](int64_t key) { return "minus " + std::to_string(-key); }),
            absl::OkStatus());
  auto third = MakeCache<int64_t>();
  const auto key_of = [](const std::string& text) -> std::optional<int64_t> {
    return -std::stoll(text.substr(6));
  };
  EXPECT_EQ(Warm(
                third, hex, [](int64_t) { return Page(); }, {}, key_of)
                ->loads,
            1u);
  EXPECT_NE(third.Peek(-5), nullptr);
}

TEST(WarmStartTest, PassesOverTextsThatAreNoKeys) {
  std::stringstream text;
  ASSERT_EQ(WriteHotKeys({{"1", 1}, {"x", 1}, {"", 1}, {"2 ", 1}, {"300", 1}}, text),
            absl::OkStatus());
  auto cache = MakeCache<int8_t>();
  const auto result = Warm(cache, text, [] { return Page(); });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->unreadable, 4u);
  EXPECT_EQ(result->loads, 1u);
}

TEST(WarmStartTest, WithoutAFileThereIsNothingToDo) {
  const TemporaryFolder folder;
  auto cache = MakeCache<int>();
  const std::string file = (folder.path() / "hot").string();
  auto result = Warm(cache, file, [] { return Page(); });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->keys, 0u);
  std::ofstream(file) << "something else";
  EXPECT_EQ(Warm(cache, file, [] { return Page(); }).status().code(), absl::StatusCode::kDataLoss);
}

TEST(WarmStartTest, LoadsAtTheRate) {
  auto cache = MakeCache<int>();
  ManualTime time;
  std::vector<absl::Duration> at;
  const WarmResult result = Warm(
      cache, std::vector<int>{1, 2, 3, 4},
      [&](int) {
        at.push_back(time.now - time.start);
        if (at.size() == 2) time.now += absl::Seconds(2);  // a slow load
        return Page();
      },
      time.Options(4));
  EXPECT_EQ(result.loads, 4u);
  EXPECT_EQ(at, (std::vector<absl::Duration>{absl::ZeroDuration(), absl::Milliseconds(250),
                                             absl::Milliseconds(2250), absl::Milliseconds(2500)}))
      << "a slow load is not made up for by faster ones";
}

TEST(WarmStartTest, EvictsNothingAndEndsWithoutRoom) {
  auto cache = MakeCache<int>(100);
  for (int key = 0; key < 5; ++key) cache.Put(key, Page());
  const auto room = static_cast<size_t>((cache.budget_bytes() - cache.Stats().bytes()) / 10);
  ManualTime time;
  std::vector<int> keys;
  for (int key = 100; key < 150; ++key) keys.push_back(key);
  const WarmResult result = Warm(
      cache, keys, [](int) { return Page(); }, time.Options(0));
  EXPECT_LE(result.loads, room + 1);
  EXPECT_FALSE(result.stopped);
  for (int key = 0; key < 5; ++key) EXPECT_NE(cache.Peek(key), nullptr);
}

TEST(WarmStartTest, StopsWhenAsked) {
  internal::StopSource stop;
  if (!stop.stop_possible()) GTEST_SKIP() << "no std::stop_token";
  auto cache = MakeCache<int>();
  ManualTime time;
  WarmOptions options = time.Options(10);
  options.stop_token = stop.get_token();
  WarmResult result = Warm(
      cache, std::vector<int>{1, 2, 3},
      [&](int key) {
        if (key == 2) stop.request_stop();
        return Page();
      },
      options);
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.loads, 2u);
  EXPECT_EQ(cache.Peek(3), nullptr);
  result = Warm(
      cache, std::vector<int>{3}, [](int) { return Page(); }, options);
  EXPECT_EQ(result.loads, 0u);
  EXPECT_TRUE(result.stopped);
}

TEST(WarmStartTest, ObeysItsOtherLimits) {
  auto cache = MakeCache<int>();
  ManualTime time;
  WarmOptions options = time.Options(0);
  options.max_keys = 2;
  WarmResult result = Warm(
      cache, std::vector<int>{1, 2, 3}, [](int) { return Page(); }, options);
  EXPECT_EQ(result.keys, 2u);
  EXPECT_EQ(result.loads, 2u);
}

TEST(WarmStartTest, PassesOverLoadsThatFail) {
  auto cache = MakeCache<int>();
  ManualTime time;
  const WarmResult result = Warm(
      cache, std::vector<int>{1, 2, 3},
      [](int key) -> absl::StatusOr<Page> {
        if (key == 2) return absl::NotFoundError("");
        return Page();
      },
      time.Options(0));
  EXPECT_EQ(result.loads, 3u);
  EXPECT_EQ(cache.size(), 2u);
}

// Somebody's load has the only permit: Warm comes after it, and not at the same time.
TEST(WarmStartTest, WaitsForAPermit) {
  auto cache = MakeCache<int>(1000, /*max_loads=*/1);
  std::optional<LoadCompletion<Page>> other;
  cache.GetOrLoadAsync(
      7, [&](LoadCompletion<Page> own) { other.emplace(std::move(own)); },
      [](std::function<void()> task) { task(); }, [](const absl::StatusOr<Ref<Page>>&) {});
  ASSERT_TRUE(other.has_value());
  ManualTime time;
  bool other_has_ended = false;
  std::thread finisher;
  WarmOptions options = time.Options(1000);
  options.clock = [&] {
    // The first look at the clock is before the first task runs.
    if (!finisher.joinable()) {
      finisher = std::thread([&] {
        other_has_ended = true;
        (*std::exchange(other, std::nullopt))(Page());
      });
    }
    return time.now;
  };
  const WarmResult result = Warm(
      cache, std::vector<int>{1, 2},
      [&](int) {
        EXPECT_TRUE(other_has_ended);
        return Page();
      },
      options);
  finisher.join();
  EXPECT_EQ(result.loads, 2u);
  EXPECT_EQ(cache.size(), 3u);
}

}  // namespace
}  // namespace weakcache
