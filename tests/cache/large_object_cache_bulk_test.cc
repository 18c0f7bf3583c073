// SPDX-License-Identifier: Apache-2.0
// GetAll of a LargeObjectCache beside other threads' loads, and with many keys.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <future>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Picture {
  int id;
};

using Cache = LargeObjectCache<int, Picture>;
using Keys = std::vector<int>;

class BulkTest : public ::testing::Test {
 protected:
  // Loads key 1 on a thread of its own, which fails by `fail()` once the other thread's GetAll({1,
  // 2}) waits for it; returns the results of that.
  template <typename Fail>
  std::vector<absl::StatusOr<Ref<Picture>>> GetAllBesideAFailure(Fail fail) {
    std::promise<void> loading;
    std::thread failing([&] {
      const auto load = [&]() -> absl::StatusOr<Picture> {
        loading.set_value();
        // The bulk load has loaded key 2, then misses on key 1 once more, and waits for it.
        while (cache_.Stats().misses < 3) std::this_thread::yield();
        for (int i = 0; i < 100; ++i) std::this_thread::yield();
        return fail();
      };
      try {
        cache_.GetOrLoad(1, load).IgnoreError();
      } catch (const std::runtime_error&) {
      }
    });
    loading.get_future().wait();
    auto results = cache_.GetAll(Keys{1, 2}, [&](const Keys& missing) {
      calls_.push_back(missing);
      std::vector<Picture> pictures;
      for (const int key : missing) pictures.push_back({10 * key});
      return pictures;
    });
    failing.join();
    return results;
  }

  Cache cache_ = std::move(Cache::CreateWeak()).value();
  std::vector<Keys> calls_;
};

TEST_F(BulkTest, AnotherThreadsStatusIsNotAmongTheResults) {
  const auto results = GetAllBesideAFailure([] { return absl::UnavailableError("down"); });
  EXPECT_EQ(results[0].value()->id, 10);
  EXPECT_EQ(results[1].value()->id, 20);
  EXPECT_EQ(calls_, (std::vector<Keys>{{2}, {1}}));
  cache_.CheckInvariantsForTesting();
}

TEST_F(BulkTest, AnotherThreadsExceptionIsNotThrown) {
  const auto results =
      GetAllBesideAFailure([]() -> absl::StatusOr<Picture> { throw std::runtime_error("down"); });
  EXPECT_EQ(results[0].value()->id, 10);
  EXPECT_EQ(results[1].value()->id, 20);
  EXPECT_EQ(calls_, (std::vector<Keys>{{2}, {1}}));
}

TEST_F(BulkTest, AWrongNumberOfObjectsIsNamed) {
  const auto few =
      cache_.GetAll(Keys{1, 2, 3}, [](const Keys&) { return std::vector<Picture>{{1}}; });
  for (const auto& result : few) {
    EXPECT_EQ(result.status(), absl::InternalError("the bulk loader gave 1 objects for 3 keys"));
  }
}

// The key that an outer loader of the same thread loads is no repetition of an earlier key.
TEST_F(BulkTest, AKeyThatThisThreadLoadsIsAnError) {
  const auto outer = cache_.GetOrLoad(1, [&]() -> absl::StatusOr<Picture> {
    const auto results = cache_.GetAll(Keys{2, 1, 2}, [](const Keys& missing) {
      return std::vector<Picture>(missing.size(), Picture{7});
    });
    EXPECT_EQ(results[0].value()->id, 7);
    EXPECT_EQ(results[1].status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(results[2].value(), results[0].value());
    return Picture{1};
  });
  EXPECT_TRUE(outer.ok());
}

// However many loads of a shard are under way, InvalidateIf asks once about each.
TEST(BulkInvalidationTest, AsksAboutEachLoadUnderWay) {
  Cache::Options options = testing::WithBudget<Cache>(1 << 20);
  options.shards = 1;
  Cache cache = std::move(Cache::Create(options)).value();
  Keys keys(1000);
  std::iota(keys.begin(), keys.end(), 0);
  Keys asked;
  const auto results = cache.GetAll(keys, [&](const Keys& missing) {
    cache.InvalidateIf([&](int key) mutable {
      asked.push_back(key);
      return key % 2 == 0;
    });
    return std::vector<Picture>(missing.size(), Picture{1});
  });
  std::sort(asked.begin(), asked.end());
  EXPECT_EQ(asked, keys);
  for (const int key : keys) EXPECT_EQ(cache.Get(key) != nullptr, key % 2 != 0) << key;
}

// The weigher of the next object may take its time, while other threads rely on the budget.
TEST(BulkEvictionTest, KeepsTheBudgetBeforeTheNextWeigherRuns) {
  constexpr int kObjects = 2000;
  Cache* used = nullptr;
  int weighed = 0;
  Cache::Options options = testing::WithBudget<Cache>(kObjects);
  options.weigher = [&](const Picture&) {
    if (used != nullptr) {
      ++weighed;
      EXPECT_LE(used->Stats().bytes_retained, uint64_t{kObjects});
    }
    return uint64_t{1};
  };
  Cache cache = std::move(Cache::Create(options)).value();
  for (int key = 0; key < kObjects; ++key) cache.Put(key, Picture{1});
  // Now each one is spared once, which is more than one turn of an eviction can look at.
  for (int key = 0; key < kObjects; ++key) EXPECT_NE(cache.Get(key), nullptr);
  used = &cache;
  cache.GetAll(Keys{kObjects, kObjects + 1},
               [](const Keys& missing) { return std::vector<Picture>(missing.size()); });
  EXPECT_EQ(weighed, 2);
}

// While a load of another key begins in the same shard, at the same time.
TEST(BulkRaceTest, CallsTheLoaderOnce) {
  Cache::Options options = testing::WithBudget<Cache>(1 << 20);
  options.shards = 1;
  Cache cache = std::move(Cache::Create(options)).value();
  int calls = 0;
  const int rounds = testing::RaceRounds(100'000);
  testing::Race(
      rounds, [&](int) { cache.Clear(); },
      {[&] {
         cache.GetAll(Keys{1, 2}, [&](const Keys& missing) {
           ++calls;
           return std::vector<Picture>(missing.size());
         });
       },
       [&] { EXPECT_TRUE(cache.GetOrLoad(9, [] { return Picture{9}; }).ok()); }},
      [](int) {});
  EXPECT_EQ(calls, rounds);
}

// Of this thread alone: others may be busy.
std::chrono::nanoseconds TimeOfThread() {
  timespec time = {};
  EXPECT_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// The shortest time of a few calls of GetAll for so many missing keys, all in one shard.
std::chrono::nanoseconds TimeFor(int count) {
  Keys keys(static_cast<size_t>(count));
  std::iota(keys.begin(), keys.end(), 0);
  keys.insert(keys.end(), {0, 1, 2});
  auto shortest = std::chrono::nanoseconds::max();
  for (int i = 0; i < 3; ++i) {
    Cache::Options options = testing::WithBudget<Cache>(1 << 30);
    options.shards = 1;
    Cache cache = std::move(Cache::Create(options)).value();
    const auto begin = TimeOfThread();
    const auto results = cache.GetAll(
        keys, [](const Keys& missing) { return std::vector<Picture>(missing.size(), Picture{1}); });
    const std::chrono::nanoseconds time = TimeOfThread() - begin;
    shortest = std::min(shortest, time);
    EXPECT_EQ(results.back().value()->id, 1);
  }
  return shortest;
}

// Sixteen times as many keys take sixteen times as long, or a few times that where memory is slow;
// by a scan of all earlier ones for each it would be 256 times.
TEST(BulkTimeTest, IsProportionalToTheKeys) {
  const auto few = TimeFor(2000);
  const auto many = TimeFor(32000);
  EXPECT_LT(many, 80 * few) << few.count() << " ns and " << many.count() << " ns";
}

}  // namespace
}  // namespace weakcache
