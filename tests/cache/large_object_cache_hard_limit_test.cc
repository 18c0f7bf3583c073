// SPDX-License-Identifier: Apache-2.0
// What a hard limit bounds, what becomes of loads that would exceed it, and who wakes those that
// wait.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/core/cache_core.h"
#include "weakcache/cache/internal/core/freshness.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/retention/byte_limit.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Page {
  uint64_t byte_size() const { return bytes; }
  int id = 0;
  uint64_t bytes = 0;
};
using Cache = LargeObjectCache<int, Page>;
using Result = absl::StatusOr<Ref<Page>>;

Cache::Options Limit(uint64_t budget, uint64_t limit) {
  Cache::Options options = testing::WithBudget<Cache>(budget);
  options.hard_limit_bytes = limit;
  return options;
}
Cache MakeCache(Cache::Options options) {
  return std::move(Cache::Create(std::move(options))).value();
}
bool Contains(const Cache& cache, int key) { return cache.Peek(key) != nullptr; }
Ref<Page> Put(Cache& cache, int key, uint64_t bytes) { return cache.Put(key, Page{key, bytes}); }
Result Load(Cache& cache, int key, uint64_t bytes, uint64_t estimate) {
  return cache.GetOrLoad(key, [&] { return Page{key, bytes}; }, {.weight_estimate = estimate});
}
Result Load(Cache& cache, int key, uint64_t bytes) { return Load(cache, key, bytes, bytes); }
bool IsExhausted(const Result& result) { return absl::IsResourceExhausted(result.status()); }

TEST(HardLimitTest, IdleObjectsGoForALoadAndThoseInUseDoNot) {
  for (const uint64_t budget : {50, 100}) {
    Cache cache = MakeCache(Limit(budget, 100));
    for (int key = 0; key < 20; ++key) {
      EXPECT_TRUE(Load(cache, key, 10).ok());
      EXPECT_LE(cache.Stats().bytes(), budget);
    }
    std::vector<Ref<Page>> used;
    for (int key = 100; key < 109; ++key) used.push_back(Load(cache, key, 10).value());
    EXPECT_EQ(cache.Stats().bytes_in_use, 90u);
    EXPECT_TRUE(Load(cache, 200, 10).ok());
    EXPECT_TRUE(IsExhausted(Load(cache, 201, 20)));
    EXPECT_EQ(cache.Stats().loads_in_flight, 0u);
    EXPECT_FALSE(Contains(cache, 201));
    for (int key = 100; key < 109; ++key) EXPECT_TRUE(Contains(cache, key));
    used.pop_back();
    EXPECT_TRUE(Load(cache, 201, 20).ok());
    EXPECT_LE(cache.Stats().bytes(), 100u);
    cache.CheckInvariantsForTesting();
  }
}

TEST(HardLimitTest, AWeakCacheMayHaveOne) {
  Cache::Options options = Limit(0, 100);
  Cache cache = std::move(Cache::CreateWeak(options)).value();
  Ref<Page> used = Load(cache, 1, 60).value();
  EXPECT_TRUE(IsExhausted(Load(cache, 2, 50)));
  const Ref<Page> other = Load(cache, 3, 40).value();
  used.reset();
  EXPECT_TRUE(Load(cache, 2, 50).ok());
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, BoundsAllObjectsWhateverTheBudgetDoes) {
  Cache::Options options = Limit(50, 100);
  options.budget_covers_in_use = false;
  Cache cache = MakeCache(options);
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 10; ++key) used.push_back(Load(cache, key, 10).value());
  EXPECT_TRUE(IsExhausted(Load(cache, 10, 10)));
  used.clear();
  EXPECT_TRUE(Load(cache, 10, 10).ok());
  EXPECT_LE(cache.Stats().bytes(), 100u);
  cache.CheckInvariantsForTesting();
}

// Heavier than the budget, so it is never retained; but it is in the cache, so it counts.
TEST(HardLimitTest, CountsObjectsThatAreNeverRetained) {
  Cache cache = MakeCache(Limit(50, 100));
  Ref<Page> heavy = Load(cache, 1, 80).value();
  EXPECT_TRUE(IsExhausted(Load(cache, 2, 30)));
  EXPECT_TRUE(Load(cache, 2, 20).ok());
  cache.CheckInvariantsForTesting();
  heavy.reset();
  EXPECT_TRUE(Load(cache, 3, 30).ok());
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, CountsTheEntries) {
  Cache::Options options = Limit(10000, 10000);
  options.count_entry_memory = true;
  Cache cache = MakeCache(options);
  std::vector<Ref<Page>> used;
  int key = 0;
  for (; key < 1000; ++key) {
    Result result = Load(cache, key, 0);
    if (!result.ok()) break;
    used.push_back(*std::move(result));
  }
  EXPECT_LT(key, 60);
  EXPECT_GT(key, 10);
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, WhatHasLeftTheCacheDoesNotCount) {
  Cache cache = MakeCache(Limit(100, 100));
  const Ref<Page> invalidated = Load(cache, 1, 100).value();
  EXPECT_TRUE(IsExhausted(Load(cache, 2, 10)));
  cache.Invalidate(1);
  const Ref<Page> replaced = Load(cache, 2, 100).value();
  EXPECT_NE(Put(cache, 2, 90), nullptr);
  EXPECT_TRUE(Contains(cache, 2));
  EXPECT_TRUE(Load(cache, 3, 10).ok());
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, EvictsNothingInVain) {
  Cache cache = MakeCache(Limit(100, 100));
  std::vector<Ref<Page>> used = {Load(cache, 0, 50).value()};
  cache.SetBudget(0);  // now it is pinned
  cache.SetBudget(100);
  for (int key = 1; key < 6; ++key) EXPECT_TRUE(Load(cache, key, 10).ok());
  const uint64_t evictions = cache.Stats().evictions();
  EXPECT_TRUE(IsExhausted(Load(cache, 10, 60)));
  EXPECT_TRUE(IsExhausted(Load(cache, 10, 1000)));
  EXPECT_TRUE(IsExhausted(Load(cache, 10, UINT64_MAX)));
  EXPECT_EQ(cache.Stats().evictions(), evictions);
  EXPECT_TRUE(Load(cache, 11, 50).ok());
  EXPECT_EQ(cache.Stats().bytes(), 100u);
}

// However many are in use, an idle object is found.
TEST(HardLimitTest, FindsTheOneThatIsIdle) {
  for (const bool newest : {false, true}) {
    Cache cache = MakeCache(Limit(10000, 10000));
    std::vector<Ref<Page>> used;
    for (int key = 0; key < 10000; ++key) used.push_back(Load(cache, key, 1).value());
    used.erase(newest ? used.end() - 1 : used.begin());
    EXPECT_TRUE(Load(cache, 10000, 1).ok());
    EXPECT_TRUE(IsExhausted(Load(cache, 10001, 2)));
    cache.CheckInvariantsForTesting();
  }
}

TEST(HardLimitTest, ObjectsThatWereLetGoAreKeptAgain) {
  Cache cache = MakeCache(Limit(100, 100));
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 10; ++key) used.push_back(Load(cache, key, 10).value());
  EXPECT_TRUE(IsExhausted(Load(cache, 10, 10)));
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  EXPECT_EQ(cache.Get(3), used[3]);
  used.clear();
  EXPECT_TRUE(Contains(cache, 3));
  EXPECT_EQ(cache.Stats().bytes_retained, 10u);
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, ALoadMayBeServedWithoutBeingKept) {
  Cache::Options options = Limit(100, 100);
  options.at_hard_limit = AtHardLimit::kServeUncached;
  Cache cache = MakeCache(options);
  Ref<Page> used = Load(cache, 1, 60).value();
  for (const uint64_t estimate : {0, 50}) {
    const Ref<Page> served = Load(cache, 2, 50, estimate).value();
    EXPECT_EQ(served->bytes, 50u);
    EXPECT_FALSE(Contains(cache, 2));
    EXPECT_EQ(cache.Stats().bytes(), 60u);
  }
  EXPECT_EQ(cache.GetOrLoad(2, [] { return MakeRef<Page>(Page{2, 50}); }).value()->bytes, 50u);
  EXPECT_FALSE(Contains(cache, 2));
  used.reset();
  EXPECT_TRUE(Load(cache, 2, 50).ok());
  EXPECT_TRUE(Contains(cache, 2));
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, AnEstimateMayBeWrong) {
  Cache cache = MakeCache(Limit(100, 100));
  // What is too much is given back.
  Ref<Page> used = Load(cache, 1, 20, 90).value();
  EXPECT_EQ(cache.Stats().bytes_reserved, 0u);
  Ref<Page> other = Load(cache, 2, 70).value();
  // What is missing is looked for, and idle objects go.
  EXPECT_TRUE(IsExhausted(Load(cache, 3, 20, 10)));
  EXPECT_FALSE(Contains(cache, 3));
  other.reset();
  EXPECT_TRUE(Load(cache, 3, 20, 10).ok());
  EXPECT_FALSE(Contains(cache, 2));
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, WithoutAnEstimateThereIsRoomOrNot) {
  for (const bool listens : {false, true}) {
    Cache::Options options = Limit(100, 100);
    if (listens) options.removal_listener = [](auto&&...) {};
    Cache cache = MakeCache(options);
    EXPECT_TRUE(Load(cache, 1, 100).ok());
    // With a listener nothing dies before it has been called, and that is too late.
    EXPECT_EQ(Load(cache, 2, 10, 0).ok(), !listens);
    EXPECT_EQ(Contains(cache, 1), listens);
    EXPECT_TRUE(Load(cache, 3, 10).ok());
    EXPECT_FALSE(Contains(cache, 1));
    cache.CheckInvariantsForTesting();
  }
  Cache::Options options = Limit(90, 100);
  options.removal_listener = [](auto&&...) {};
  Cache cache = MakeCache(options);
  for (int key = 0; key < 100; ++key) EXPECT_TRUE(Load(cache, key, 10, 0).ok());
  EXPECT_EQ(cache.Stats().bytes(), 90u);
}

// What a listener keeps is alive, so it counts.
TEST(HardLimitTest, CountsWhatAListenerKeeps) {
  Cache::Options options = Limit(100, 100);
  std::vector<Ref<Page>> kept;
  options.removal_listener = [&](int, const Ref<Page>& object, RemovalCause) {
    if (object != nullptr) kept.push_back(object);
  };
  Cache cache = MakeCache(options);
  for (int key = 0; key < 10; ++key) EXPECT_TRUE(Load(cache, key, 10).ok());
  EXPECT_TRUE(IsExhausted(Load(cache, 10, 10)));
  EXPECT_EQ(kept.size(), 10u);
  EXPECT_EQ(cache.Stats().bytes_in_use, 100u);
  kept.pop_back();
  EXPECT_TRUE(Load(cache, 10, 10).ok());
  EXPECT_LE(cache.Stats().bytes(), 100u);
  kept.clear();
  cache.CheckInvariantsForTesting();
}

// A listener puts the object that is being loaded, before its load is in the queue for room, and
// keeps the evicted one, so that there is none.
TEST(HardLimitTest, AnObjectThatIsPutBeforeTheWaitIsFound) {
  Cache::Options options = Limit(1000, 1000);
  options.hard_limit_wait = absl::Seconds(5);
  Cache* cache_ptr = nullptr;
  std::vector<Ref<Page>> kept;
  options.removal_listener = [&](int key, const Ref<Page>& object, RemovalCause) {
    if (key != 2 || !kept.empty()) return;
    kept.push_back(object);
    kept.push_back(Put(*cache_ptr, 3, 0));  // the load has taken what room there was
  };
  Cache cache = MakeCache(options);
  cache_ptr = &cache;
  const Ref<Page> used = Put(cache, 1, 500);
  Put(cache, 2, 300);
  const Result result = Load(cache, 3, 450);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)->bytes, 0u);
  EXPECT_EQ(*result, kept.back());
}

TEST(HardLimitTest, AFailedLoadGivesItsRoomBack) {
  Cache cache = MakeCache(Limit(100, 100));
  const auto fails = cache.GetOrLoad(1,
                                     [&]() -> absl::StatusOr<Page> {
                                       EXPECT_EQ(cache.Stats().bytes_reserved, 60u);
                                       // A load inside needs room beside it.
                                       EXPECT_TRUE(IsExhausted(Load(cache, 2, 50)));
                                       EXPECT_TRUE(Load(cache, 2, 40).ok());
                                       return absl::AbortedError("");
                                     },
                                     {.weight_estimate = 60});
  EXPECT_TRUE(absl::IsAborted(fails.status()));
#ifdef __cpp_exceptions
  EXPECT_THROW(static_cast<void>(cache.GetOrLoad(1, []() -> Page { throw std::runtime_error(""); },
                                                 {.weight_estimate = 60})),
               std::runtime_error);
#endif
  // The key is put meanwhile, and invalidated.
  const Ref<Page> put = cache
                            .GetOrLoad(1,
                                       [&] {
                                         Put(cache, 1, 10);
                                         return Page{1, 60};
                                       },
                                       {.weight_estimate = 60})
                            .value();
  EXPECT_EQ(put->bytes, 10u);
  const Ref<Page> dropped = cache
                                .GetOrLoad(3,
                                           [&] {
                                             cache.Invalidate(3);
                                             return Page{3, 50};
                                           },
                                           {.weight_estimate = 50})
                                .value();
  EXPECT_EQ(cache.Stats().bytes_reserved, 0u);
  EXPECT_TRUE(Load(cache, 4, 90).ok());
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, WhatIsPutMayFindNoRoom) {
  Cache cache = MakeCache(Limit(100, 100));
  Put(cache, 1, 40);
  const Ref<Page> used = Put(cache, 2, 60);
  const Ref<Page> fits = Put(cache, 3, 40);  // the idle one goes
  EXPECT_TRUE(Contains(cache, 3));
  EXPECT_FALSE(Contains(cache, 1));
  const Ref<Page> put = Put(cache, 4, 10);
  EXPECT_EQ(put->bytes, 10u);
  EXPECT_FALSE(Contains(cache, 4));
  // The replaced object leaves room, or goes in vain, because it is outdated.
  EXPECT_NE(cache.Put(3, MakeRef<Page>(Page{3, 40})), nullptr);
  EXPECT_TRUE(Contains(cache, 3));
  EXPECT_NE(Put(cache, 3, 50), nullptr);
  EXPECT_FALSE(Contains(cache, 3));
  const auto [absent, entered] = cache.PutIfAbsent(5, Page{5, 50});
  EXPECT_EQ(absent->bytes, 50u);
  EXPECT_FALSE(entered);
  EXPECT_FALSE(Contains(cache, 5));
  EXPECT_TRUE(cache.PutIfAbsent(5, Page{5, 40}).second);
  cache.CheckInvariantsForTesting();
}

// What is put is newer than what is being loaded, even if it finds no room.
TEST(HardLimitTest, WhatIsPutInVainSupersedesALoad) {
  Cache cache = MakeCache(Limit(100, 100));
  const Ref<Page> used = Put(cache, 1, 60);
  const Result loaded = cache.GetOrLoad(2,
                                        [&] {
                                          Put(cache, 2, 50);
                                          EXPECT_FALSE(cache.PutIfAbsent(2, Page{2, 50}).second);
                                          return Page{2, 10};
                                        },
                                        {.weight_estimate = 10});
  EXPECT_TRUE(loaded.ok());
  EXPECT_FALSE(Contains(cache, 2));
  const Result other = cache.GetOrLoad(3,
                                       [&] {
                                         EXPECT_FALSE(cache.PutIfAbsent(3, Page{3, 50}).second);
                                         return Page{3, 10};
                                       },
                                       {.weight_estimate = 10});
  EXPECT_TRUE(Contains(cache, 3));
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, AnObjectThatOutgrowsTheRoomLeaves) {
  std::vector<RemovalCause> causes;
  for (const bool listens : {false, true}) {
    Cache::Options options = Limit(100, 100);
    if (listens) {
      options.removal_listener = [&](int, RemovalCause cause, uint64_t) {
        causes.push_back(cause);
      };
    }
    Cache cache = MakeCache(options);
    const Ref<Page> used = cache.Put(1, MakeRef<Page>(Page{1, 60}));
    Put(cache, 2, 40);
    const_cast<Page&>(*used).bytes = 30;
    EXPECT_TRUE(cache.UpdateWeight(1));
    EXPECT_EQ(cache.Stats().bytes(), 70u);
    const_cast<Page&>(*used).bytes = 65;
    EXPECT_TRUE(cache.UpdateWeight(1));
    EXPECT_EQ(Contains(cache, 1), !listens);
    EXPECT_EQ(Contains(cache, 2), listens);
    if (!listens) {
      const_cast<Page&>(*used).bytes = 101;
      EXPECT_TRUE(cache.UpdateWeight(1));
      EXPECT_FALSE(Contains(cache, 1));
    }
    EXPECT_LE(cache.Stats().bytes(), 100u);
    cache.CheckInvariantsForTesting();
  }
  EXPECT_EQ(causes, (std::vector<RemovalCause>{RemovalCause::kBudget}));
}

TEST(HardLimitTest, TheLimitMayChange) {
  Cache cache = MakeCache(Limit(100, 100));
  Ref<Page> used = Put(cache, 1, 60);
  for (int key = 2; key < 6; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.SetHardLimit(80), 20u);
  EXPECT_EQ(cache.Stats().bytes(), 80u);
  EXPECT_EQ(cache.SetHardLimit(50), 20u);
  EXPECT_EQ(cache.Stats().bytes(), 60u);
  EXPECT_TRUE(IsExhausted(Load(cache, 10, 0, 1)));
  used.reset();
  EXPECT_TRUE(Load(cache, 10, 50).ok());
  EXPECT_EQ(cache.SetHardLimit(1000), 0u);
  std::vector<Ref<Page>> all;
  for (int key = 20; key < 29; ++key) all.push_back(Load(cache, key, 100).value());
  EXPECT_LE(cache.Stats().bytes(), 1000u);
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, ABudgetAboveTheLimitRetainsNoMore) {
  Cache cache = MakeCache(Limit(50, 100));
  cache.SetBudget(1000);
  for (int key = 0; key < 50; ++key) EXPECT_TRUE(Load(cache, key, 10).ok());
  EXPECT_EQ(cache.Stats().bytes(), 100u);
  cache.SetBudget(0);
  EXPECT_EQ(cache.Stats().bytes(), 0u);
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, BulkLoads) {
  for (const bool serves : {false, true}) {
    Cache::Options options = Limit(100, 100);
    if (serves) options.at_hard_limit = AtHardLimit::kServeUncached;
    Cache cache = MakeCache(options);
    const std::vector<int> keys = {1, 2, 3, 4};
    const std::vector<Result> results = cache.GetAll(keys, [](const std::vector<int>& missing) {
      std::vector<Page> pages;
      for (const int key : missing) pages.push_back({key, 40});
      return pages;
    });
    EXPECT_TRUE(results[0].ok() && results[1].ok());
    EXPECT_EQ(results[2].ok(), serves);
    EXPECT_EQ(IsExhausted(results[3]), !serves);
    EXPECT_FALSE(Contains(cache, 3));
    EXPECT_EQ(cache.Stats().bytes(), 80u);
    cache.CheckInvariantsForTesting();
  }
}

TEST(HardLimitTest, ARefreshThatFindsNoRoomIsLeftForLater) {
  absl::Time now = absl::UnixEpoch();
  Cache::Options options = Limit(100, 100);
  options.clock = [&] { return now; };
  options.refresh_after_write = absl::Minutes(1);
  Cache cache = MakeCache(options);
  EXPECT_TRUE(Load(cache, 1, 50).ok());
  Ref<Page> used = Load(cache, 2, 20).value();
  now += absl::Minutes(2);
  for (const uint64_t estimate : {0, 40}) {
    // A stale object is in use while it is refreshed, so both have to find room.
    const Ref<Page> stale = Load(cache, 1, 40, estimate).value();
    EXPECT_EQ(stale->bytes, 50u) << estimate;
    EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  }
  used.reset();
  cache.Invalidate(2);
  now += absl::Minutes(2);  // the refresh without an estimate had called its loader: it backs off
  EXPECT_EQ(Load(cache, 1, 40).value()->bytes, 40u);
  cache.CheckInvariantsForTesting();
}

TEST(HardLimitTest, BadOptionsAreRefused) {
  const auto is_refused = [](const Cache::Options& options) {
    return absl::IsInvalidArgument(Cache::Create(options).status());
  };
  EXPECT_FALSE(is_refused(Limit(100, 100)));
  EXPECT_TRUE(is_refused(Limit(100, 99)));
  EXPECT_TRUE(is_refused(Limit(100, uint64_t{1} << 63)));
  for (const absl::Duration wait :
       {-absl::Seconds(1), -absl::InfiniteDuration(), absl::InfiniteDuration()}) {
    Cache::Options options = Limit(100, 100);
    options.hard_limit_wait = wait;
    EXPECT_TRUE(is_refused(options)) << wait;
  }
  Cache::Options options = Limit(100, 0);
  options.hard_limit_wait = absl::Seconds(1);
  EXPECT_TRUE(is_refused(options));
}

TEST(HardLimitDeathTest, OfACacheWithoutOne) {
  Cache cache = MakeCache(Limit(100, 0));
  EXPECT_DEATH(cache.SetHardLimit(10), "SetHardLimit.*was not set");
}

// The wait itself, in the cache's core, which shows whether a load sleeps.

using Core =
    internal::CacheCore<int, Page, internal::DefaultHash<int>, internal::DefaultEqual<int>>;

class HardLimitWaitTest : public ::testing::Test {
 protected:
  static constexpr absl::Duration kLong = absl::Minutes(2);

  explicit HardLimitWaitTest(absl::Duration wait = kLong, uint64_t budget = 100,
                             size_t max_concurrent_loads = 0)
      : core_(internal::CacheSettings<int, Page>{
                  budget,
                  /*budget_covers_in_use=*/true,
                  /*shards=*/1,
                  max_concurrent_loads,
                  [](const Page& page) { return page.bytes; },
                  [this](int key, const Ref<Page>& object, RemovalCause cause, uint64_t) {
                    if (listener_) listener_(key, object, cause);
                  },
                  internal::Freshness(internal::FreshnessSettings()),
                  /*count_entry_memory=*/false,
                  ObjectValue::kHits,
                  {.bytes = 100, .wait = wait, .at_limit = AtHardLimit::kFail}},
              internal::DefaultHash<int>(), internal::DefaultEqual<int>()) {}
  ~HardLimitWaitTest() override {
    EXPECT_FALSE(limit().HasWaiters());
    core_.CheckInvariantsForTesting();
  }

  internal::ByteLimit& limit() { return core_.store().retention().hard_limit(); }
  Result Load(int key, uint64_t bytes, uint64_t estimate) {
    return core_.asks().GetOrLoad(
        key,
        [&] {
          ++loads_;
          return Page{key, bytes};
        },
        LoadOptions{.weight_estimate = estimate});
  }
  Result Load(int key, uint64_t bytes) { return Load(key, bytes, bytes); }
  Ref<Page> Put(int key, uint64_t bytes) {
    return core_.Put(key, internal::MakeObject<Ref<Page>>(Page{key, bytes}));
  }
  Ref<Page> PutExternal(int key, uint64_t bytes) {
    return core_.Put(key, MakeRef<Page>(Page{key, bytes}));
  }

  // Loads on another thread; returns once the load sleeps.
  class Waiting {
   public:
    Waiting(HardLimitWaitTest& test, int key, uint64_t bytes)
        : sleeping_before_(test.limit().Sleeping()), thread_([this, &test, key, bytes] {
            result_ = test.Load(key, bytes);
            done_ = true;
          }) {
      while (test.limit().Sleeping() == sleeping_before_ && !done_) std::this_thread::yield();
    }
    ~Waiting() {
      if (thread_.joinable()) thread_.join();
    }
    // Whether it has the object, which this keeps.
    bool Finish() {
      thread_.join();
      return result_.ok();
    }
    void Release() { result_ = absl::UnknownError(""); }
    bool done() const { return done_; }

   private:
    const uint64_t sleeping_before_;
    Result result_ = absl::UnknownError("");
    std::atomic<bool> done_{false};
    std::thread thread_;
  };

  std::function<void(int, const Ref<Page>&, RemovalCause)> listener_;
  std::atomic<int> loads_{0};
  Core core_;
};

TEST_F(HardLimitWaitTest, TheLastReleaseOfARetainedObjectWakes) {
  for (const bool external : {false, true}) {
    Ref<Page> used = external ? PutExternal(1, 60) : Put(1, 60);
    {
      Waiting load(*this, 2, 70);
      EXPECT_EQ(core_.Stats().bytes_pinned, 60u);
      used.reset();
      EXPECT_TRUE(load.Finish());
    }
    core_.store().Invalidate(2);
  }
}

TEST_F(HardLimitWaitTest, EachWayToMakeRoomWakes) {
  const auto changes = std::initializer_list<std::function<void(Ref<Page>&)>>{
      [](Ref<Page>& used) { used.reset(); },
      [&](Ref<Page>&) { core_.store().Invalidate(1); },
      [&](Ref<Page>&) { Put(1, 10); },
      [&](Ref<Page>& used) {
        const_cast<Page&>(*used).bytes = 10;
        core_.UpdateWeight(1);
      },
      [&](Ref<Page>&) { limit().SetLimit(200); },
  };
  for (const auto& change : changes) {
    Ref<Page> used = Put(1, 60);
    core_.Get(1);
    Waiting load(*this, 2, 70);
    change(used);
    EXPECT_TRUE(load.Finish());
    limit().SetLimit(100);
    used.reset();
    core_.store().Invalidate(1);
    core_.store().Invalidate(2);
  }
}

TEST_F(HardLimitWaitTest, TheEndOfALoadWakes) {
  for (const bool fails : {false, true}) {
    std::optional<Waiting> waiting;
    const Result result = core_.asks().GetOrLoad(
        1,
        [&]() -> absl::StatusOr<Page> {
          waiting.emplace(*this, 2, 70);
          if (fails) return absl::AbortedError("");
          return Page{1, 10};
        },
        LoadOptions{.weight_estimate = 60});
    EXPECT_EQ(result.ok(), !fails);
    EXPECT_TRUE(waiting->Finish());
    core_.store().Invalidate(1);  // retained if the other load has gone on before
    core_.store().Invalidate(2);
  }
}

// As such an object would become idle in silence.
TEST_F(HardLimitWaitTest, NothingIsRetainedWhileALoadWaits) {
  Ref<Page> used = Put(1, 50);
  std::optional<Waiting> waiting;
  Ref<Page> loaded = core_.asks()
                         .GetOrLoad(
                             2,
                             [&] {
                               waiting.emplace(*this, 3, 20);
                               return Page{2, 40};
                             },
                             LoadOptions{.weight_estimate = 40})
                         .value();
  EXPECT_EQ(limit().Sleeping(), 1u);
  EXPECT_EQ(core_.Stats().bytes_retained, 0u);
  // Nor again by a hit.
  EXPECT_EQ(core_.Get(1), used);
  EXPECT_EQ(core_.Stats().bytes_retained, 0u);
  loaded.reset();
  EXPECT_TRUE(waiting->Finish());
  EXPECT_EQ(core_.store().Peek(2), nullptr);
  EXPECT_EQ(core_.Get(1), used);
  EXPECT_EQ(core_.Stats().bytes_retained, 70u);
}

// Idle objects go only once that helps.
TEST_F(HardLimitWaitTest, IdleObjectsStayWhileThatWouldBeInVain) {
  Ref<Page> used = Put(1, 60);
  for (const uint64_t budget : {0, 100}) {  // pins it
    typename Core::PendingRemovals removals;
    core_.store().retention().SetBudget(budget, removals);
  }
  Put(2, 30);
  Waiting load(*this, 3, 50);
  EXPECT_EQ(core_.Stats().bytes_idle, 30u);
  used.reset();
  EXPECT_TRUE(load.Finish());
  EXPECT_NE(core_.store().Peek(2), nullptr);
}

TEST_F(HardLimitWaitTest, TheFirstToComeIsTheFirstToLoad) {
  Ref<Page> used = Put(1, 50);
  Waiting large(*this, 2, 100);
  Waiting small(*this, 3, 10);  // there would be room for it
  EXPECT_EQ(limit().Sleeping(), 2u);
  used.reset();
  EXPECT_TRUE(large.Finish());
  // That woke the next one, which finds no room and sleeps again.
  while (limit().Sleeping() == 0 && !small.done()) std::this_thread::yield();
  EXPECT_FALSE(small.done());
  large.Release();
  EXPECT_TRUE(small.Finish());
}

TEST_F(HardLimitWaitTest, OneOfThoseThatWaitForAnObjectLoadsIt) {
  Ref<Page> used = Put(1, 60);
  Waiting first(*this, 2, 70);
  Waiting second(*this, 2, 70);
  Waiting third(*this, 2, 70);
  used.reset();
  EXPECT_TRUE(first.Finish());
  EXPECT_TRUE(second.Finish());
  EXPECT_TRUE(third.Finish());
  EXPECT_EQ(loads_, 1);
}

TEST_F(HardLimitWaitTest, AnObjectThatIsPutEndsTheWait) {
  const Ref<Page> used = Put(1, 60);
  Waiting load(*this, 2, 70);
  const Ref<Page> put = Put(2, 10);
  EXPECT_TRUE(load.Finish());
  EXPECT_EQ(loads_, 0);
}

// It has made room for a load of its own, during which another one has begun.
TEST_F(HardLimitWaitTest, WhoWaitsForAnothersLoadGivesItsRoomBack) {
  Put(1, 60);
  std::thread first;
  std::atomic<bool> loading{false};
  std::atomic<bool> may_end{false};
  listener_ = [&](int key, const Ref<Page>&, RemovalCause) {
    if (key != 1) return;
    first = std::thread([&] {
      const auto load = [&] {
        loading = true;
        while (!may_end) std::this_thread::yield();
        return Page{2, 40};
      };
      EXPECT_TRUE(core_.asks().GetOrLoad(2, load, LoadOptions{.weight_estimate = 40}).ok());
    });
    while (!loading) std::this_thread::yield();
  };
  std::thread second([&] { EXPECT_TRUE(Load(2, 50).ok()); });
  while (!loading) std::this_thread::yield();
  // Time for the second one to reserve its room: nothing says when it has.
  for (int i = 0; i < 10000; ++i) std::this_thread::yield();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (limit().used() != 40 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(limit().used(), 40u);
  may_end = true;
  second.join();
  first.join();
  EXPECT_EQ(loads_, 0);
  listener_ = nullptr;
}

TEST_F(HardLimitWaitTest, AnImpossibleLoadDoesNotWait) {
  EXPECT_TRUE(IsExhausted(Load(1, 101)));
  // Nor does an object that is heavier than its estimate, because others wait for it.
  const Ref<Page> used = Put(1, 60);
  EXPECT_TRUE(IsExhausted(Load(2, 50, 10)));
  EXPECT_TRUE(IsExhausted(Load(2, 50, 0)));
}

// Destructors and the listener may load while they are called for a load that waits.
TEST_F(HardLimitWaitTest, UserCodeMayUseTheCache) {
  Ref<Page> used = Put(1, 40);
  for (const uint64_t budget : {0, 100}) {  // pins it
    typename Core::PendingRemovals removals;
    core_.store().retention().SetBudget(budget, removals);
  }
  Put(2, 60);
  int called = 0;
  listener_ = [&](int key, const Ref<Page>& object, RemovalCause) {
    if (key != 2) return;
    ++called;
    EXPECT_EQ(core_.Get(key), object);
    // The waiting load is not in the queue, or this one would wait for its own thread.
    EXPECT_FALSE(limit().HasWaiters());
    EXPECT_TRUE(Load(102, 40).ok());
    EXPECT_TRUE(IsExhausted(Load(101, 41, 0)));
  };
  // Idle objects don't go in vain, so the listener is called once the first one has died.
  Waiting load(*this, 10, 70);
  EXPECT_EQ(called, 0);
  core_.store().Invalidate(1);
  EXPECT_TRUE(load.Finish());
  EXPECT_EQ(called, 1);
  listener_ = nullptr;
}

TEST_F(HardLimitWaitTest, ACallersOwnDeadlineAndStopTokenEndTheWait) {
  const Ref<Page> used = Put(1, 60);
  const auto load = [&](const LoadOptions& options) {
    return core_.asks()
        .GetOrLoad(
            2,
            [&] {
              ++loads_;
              return Page{2, 50};
            },
            options)
        .status();
  };
  const auto now = std::chrono::steady_clock::now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      load({.weight_estimate = 50, .deadline = now + std::chrono::milliseconds(1)})));
  std::stop_source source;
  absl::Status status;
  std::thread waits(
      [&] { status = load({.weight_estimate = 50, .stop_token = source.get_token()}); });
  while (limit().Sleeping() == 0) std::this_thread::yield();
  source.request_stop();
  waits.join();
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_EQ(loads_, 0);
}

class HardLimitDeadlineTest : public HardLimitWaitTest {
 protected:
  HardLimitDeadlineTest() : HardLimitWaitTest(absl::Milliseconds(1)) {}
};
TEST_F(HardLimitDeadlineTest, EndsTheWait) {
  Ref<Page> used = Put(1, 60);
  EXPECT_TRUE(IsExhausted(Load(2, 50)));
  EXPECT_TRUE(IsExhausted(core_.asks().GetOrLoad(
      3, [&] { return Load(4, 50); }, LoadOptions{.weight_estimate = 20})));
  EXPECT_EQ(loads_, 0);
  EXPECT_FALSE(limit().HasWaiters());
  used.reset();
  EXPECT_TRUE(Load(2, 50).ok());
}

// A thread that waits for room has no permit, and one that waits for a permit has no room.
class HardLimitAndPermitsTest : public HardLimitWaitTest {
 protected:
  HardLimitAndPermitsTest() : HardLimitWaitTest(kLong, 100, /*max_concurrent_loads=*/1) {}
};
TEST_F(HardLimitAndPermitsTest, BothAreNeeded) {
  Ref<Page> used = Put(1, 60);
  Waiting waits(*this, 2, 70);
  EXPECT_EQ(core_.limiter().CurrentLoad(), core_.limiter().kNoLoad);
  used.reset();
  EXPECT_TRUE(waits.Finish());
  waits.Release();
  std::vector<std::thread> threads;
  for (int key = 10; key < 20; ++key) {
    threads.emplace_back([&, key] {
      for (int round = 0; round < 20; ++round)
        EXPECT_EQ(Load(key + 100 * round, 60).status(), absl::OkStatus());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Each load has to be woken, however it meets what makes room for it.
class HardLimitRaceTest : public HardLimitWaitTest {
 protected:
  void RaceLoadAgainst(const std::vector<std::function<void()>>& others, uint64_t in_use) {
    std::atomic<int> failed{0};
    std::vector<std::function<void()>> racers = others;
    for (const int key : {2, 3}) {
      racers.emplace_back([&, key] { failed += Load(key, 70).ok() ? 0 : 1; });
    }
    testing::Race(
        testing::RaceRounds(20000),
        [&](int round) {
          if (in_use != 0) used_ = round % 2 == 0 ? Put(1, in_use) : PutExternal(1, in_use);
        },
        racers,
        [&](int) {
          ASSERT_EQ(failed, 0);
          ASSERT_LE(limit().used(), 100u);
          used_.reset();
          for (const int key : {1, 2, 3}) core_.store().Invalidate(key);
          ASSERT_EQ(limit().used(), 0u);
        });
  }

  Ref<Page> used_;
};
TEST_F(HardLimitRaceTest, TheLastRelease) {
  RaceLoadAgainst({[&] { used_.reset(); }}, 60);
}
TEST_F(HardLimitRaceTest, TheLastReleaseAndABudgetThatIsSet) {
  RaceLoadAgainst({[&] { used_.reset(); },
                   [&] {
                     for (const uint64_t budget : {0, 100}) {
                       typename Core::PendingRemovals removals;
                       core_.store().retention().SetBudget(budget, removals);
                     }
                   }},
                  60);
}
TEST_F(HardLimitRaceTest, TheLastReleaseAndAHit) {
  RaceLoadAgainst({[&] { used_.reset(); }, [&] { core_.Get(1); }}, 60);
}
TEST_F(HardLimitRaceTest, TheEndOfALoad) {
  RaceLoadAgainst(
      {[&] { static_cast<void>(Load(1, 60)); }, [&] { static_cast<void>(Load(1, 60)); }}, 0);
}
TEST_F(HardLimitRaceTest, AnInvalidation) {
  RaceLoadAgainst({[&] { core_.store().Invalidate(1); }}, 60);
}

TEST(HardLimitEndDeathTest, OfACacheForWhichALoadWaits) {
  EXPECT_DEATH(
      {
        class Ended : public HardLimitWaitTest {
         public:
          using HardLimitWaitTest::core_;
          using HardLimitWaitTest::limit;
          using HardLimitWaitTest::Load;
          using HardLimitWaitTest::Put;
          void TestBody() override {}
        } ended;
        const Ref<Page> used = ended.Put(1, 60);
        std::thread([&] { static_cast<void>(ended.Load(2, 50)); }).detach();
        while (ended.limit().Sleeping() == 0) std::this_thread::yield();
        std::destroy_at(&ended.core_);
      },
      "LargeObjectCache.*still waits");
}

// The listener ends the cache while its thread's load is in the queue.
TEST(HardLimitEndTest, InsideAWait) {
  Cache::Options options = Limit(100, 100);
  options.hard_limit_wait = absl::Minutes(2);
  std::optional<Cache> cache;
  bool ends = false;
  options.removal_listener = [&](auto&&...) {
    if (std::exchange(ends, false)) cache.reset();
  };
  cache.emplace(MakeCache(options));
  Put(*cache, 1, 60);
  ends = true;
  EXPECT_TRUE(absl::IsAborted(Load(*cache, 2, 50).status()));
}

}  // namespace
}  // namespace weakcache
