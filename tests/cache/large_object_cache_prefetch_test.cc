// SPDX-License-Identifier: Apache-2.0
// Objects that are loaded ahead.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/object_info.h"
#include "weakcache/cache/prefetch_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;
using testing::RunInline;

// Weighs what it says.
struct Page {
  uint64_t weight = 10;
};
using Cache = LargeObjectCache<int, Page>;
using Result = absl::StatusOr<Ref<Page>>;

class PrefetchTest : public ::testing::Test {
 protected:
  PrefetchTest() { Make(NewOptions()); }
  ~PrefetchTest() override {
    if (cache_.has_value()) cache_->CheckInvariantsForTesting();
  }
  static Cache::Options NewOptions(size_t max_loads = 0) {
    Cache::Options options = testing::WithBudget<Cache>(100);
    options.shards = 1;
    options.max_concurrent_loads = max_loads;
    options.weigher = [](const Page& page) { return page.weight; };
    return options;
  }
  // Begins a load, which has the permit until `done` is called.
  void LoadUntilCalled(int key, std::optional<LoadCompletion<Page>>& done) {
    cache_->GetOrLoadAsync(
        key, [&](LoadCompletion<Page> own) { done.emplace(std::move(own)); }, RunInline,
        [](const Result&) {});
  }
  void Make(Cache::Options options) {
    cache_.emplace(std::move(Cache::Create(std::move(options))).value());
  }
  auto Loader(uint64_t weight = 10) {
    return [this, weight](int number) {
      loaded_.push_back(number);
      return Page{weight};
    };
  }
  bool Has(int number) const { return cache_->Peek(number) != nullptr; }

  std::optional<Cache> cache_;
  testing::TaskQueue queue_;
  std::vector<int> loaded_;
};

TEST_F(PrefetchTest, LoadsWhatIsMissingOneByOne) {
  cache_->Put(2, Page());
  const CacheStats before = cache_->Stats();
  cache_->Prefetch({1, 2, 3, 2, 1, 4}, Loader(), queue_.executor());
  EXPECT_TRUE(loaded_.empty());
  for (size_t i = 1; i <= 3; ++i) {
    ASSERT_EQ(queue_.tasks.size(), 1u);
    queue_.RunOne();
    EXPECT_EQ(loaded_.size(), i);
  }
  EXPECT_TRUE(queue_.tasks.empty());
  EXPECT_EQ(loaded_, (std::vector<int>{1, 3, 4}));
  const CacheStats after = cache_->Stats();
  EXPECT_EQ(after.hits, before.hits);
  EXPECT_EQ(after.misses, before.misses);
  EXPECT_EQ(after.loads, 3u);
  EXPECT_EQ(after.bytes_idle, 40u);
  EXPECT_EQ(after.bytes_reserved, 0u);
  for (const int number : {1, 3, 4}) {
    const std::optional<ObjectInfo> info = cache_->Inspect(number);
    ASSERT_TRUE(info.has_value());
    EXPECT_EQ(info->uses, 0u);
    EXPECT_FALSE(info->in_use);
    EXPECT_TRUE(info->retained);
  }
}

TEST_F(PrefetchTest, EvictsNothing) {
  cache_->Put(0, Page{75});
  cache_->Prefetch({1, 2, 3, 4}, Loader(), queue_.executor());
  queue_.RunAll();
  // The third would not fit, as the others' weights say, and so is not loaded.
  EXPECT_EQ(loaded_, (std::vector<int>{1, 2}));
  EXPECT_TRUE(Has(0) && Has(1) && Has(2));
  // This one is heavier than it was said to be. It is not kept, nor is another one loaded.
  loaded_.clear();
  cache_->Prefetch({5, 6}, Loader(/*weight=*/6), queue_.executor(), {.weight_estimate = 5});
  queue_.RunAll();
  EXPECT_EQ(loaded_, std::vector<int>{5});
  EXPECT_FALSE(Has(5));
  EXPECT_TRUE(Has(0) && Has(1) && Has(2));
  EXPECT_EQ(cache_->Stats().evictions_budget, 0u);
  EXPECT_EQ(cache_->Stats().bytes_reserved, 0u);
  // What is loaded ahead may be evicted for what somebody asks for.
  EXPECT_TRUE(cache_->GetOrLoad(7, Loader(/*weight=*/20)).ok());
  EXPECT_TRUE(Has(7));
}

// What comes during the load takes the room that was there.
TEST_F(PrefetchTest, ReservesNothing) {
  cache_->Put(0, Page{80});
  cache_->Prefetch({1, 2},
                   [&](int) {
                     cache_->Put(3, Page{15});
                     EXPECT_TRUE(Has(0));
                     return Page();
                   },
                   queue_.executor(), {.weight_estimate = 10});
  queue_.RunAll();
  EXPECT_TRUE(Has(0) && Has(3));
  EXPECT_FALSE(Has(1) || Has(2));
  EXPECT_EQ(cache_->Stats().evictions_budget, 0u);
}

TEST_F(PrefetchTest, AFullCacheLoadsNothing) {
  cache_->Put(0, Page{100});
  cache_->Prefetch({1, 2}, Loader(/*weight=*/0), queue_.executor());
  queue_.RunAll();
  EXPECT_TRUE(loaded_.empty());
}

TEST_F(PrefetchTest, HeedsTheMostBytes) {
  cache_->Prefetch({1, 2, 3, 4}, Loader(), queue_.executor(), {.max_bytes = 25});
  queue_.RunAll();
  EXPECT_EQ(loaded_, (std::vector<int>{1, 2}));
  cache_->Prefetch({3}, Loader(), queue_.executor(), {.max_bytes = 9});
  cache_->Prefetch({4}, Loader(), queue_.executor(), {.max_bytes = 9, .weight_estimate = 10});
  cache_->Prefetch({5}, Loader(), queue_.executor(), {.max_bytes = 0});
  queue_.RunAll();
  EXPECT_EQ(loaded_, (std::vector<int>{1, 2, 3}));
  EXPECT_FALSE(Has(3));
  EXPECT_EQ(cache_->size(), 2u);
}

TEST_F(PrefetchTest, EndsWhenAStopIsRequested) {
  std::stop_source stop;
  cache_->Prefetch({1, 2}, Loader(), queue_.executor(), {.stop_token = stop.get_token()});
  queue_.RunOne();
  stop.request_stop();
  queue_.RunAll();
  EXPECT_EQ(loaded_, std::vector<int>{1});
  // The loader under way is told, but not if somebody waits for its object.
  for (const bool somebody_waits : {false, true}) {
    std::stop_source own;
    std::optional<Result> result;
    cache_->Prefetch({5, 6},
                     [&](int number, const std::stop_token& token) -> absl::StatusOr<Page> {
                       EXPECT_EQ(number, 5);
                       if (somebody_waits) {
                         cache_->GetOrLoadAsync(5, Loader(), queue_.executor(),
                                                [&](Result got) { result = std::move(got); });
                       }
                       own.request_stop();
                       EXPECT_EQ(token.stop_requested(), !somebody_waits);
                       return absl::CancelledError("");
                     },
                     queue_.executor(), {.stop_token = own.get_token()});
    queue_.RunAll();
    EXPECT_EQ(Has(5), somebody_waits);
    EXPECT_EQ(result.has_value(), somebody_waits);
  }
}

TEST_F(PrefetchTest, OthersWaitForItsLoad) {
  std::optional<Result> result;
  cache_->Prefetch(
      {1},
      [&](int) {
        cache_->GetOrLoadAsync(1, Loader(), queue_.executor(),
                               [&](Result got) { result = std::move(got); });
        EXPECT_EQ(queue_.posted, 1);
        return Page();
      },
      queue_.executor());
  queue_.RunAll();
  ASSERT_TRUE(result.has_value() && result->ok());
  EXPECT_TRUE(loaded_.empty());
}

TEST_F(PrefetchTest, PassesOverWhatIsBeingLoaded) {
  std::vector<LoadCompletion<Page>> done;
  cache_->GetOrLoadAsync(
      1, [&](LoadCompletion<Page> own) { done.push_back(std::move(own)); }, RunInline,
      [](const Result&) {});
  cache_->GetOrLoadAsync(2, Loader(), queue_.executor(), [](const Result&) {});  // is queued
  cache_->Prefetch({1, 2, 3}, Loader(), RunInline);
  EXPECT_EQ(loaded_, std::vector<int>{3});
  done[0](Page());
  queue_.RunAll();
  EXPECT_EQ(loaded_, (std::vector<int>{3, 2}));
}

TEST_F(PrefetchTest, FailuresArePassedOver) {
  cache_->Prefetch(
      {1, 2, 3, 4},
      [&](int number) -> absl::StatusOr<Page> {
        loaded_.push_back(number);
        if (number == 1) throw std::runtime_error("no page");
        if (number == 2) return absl::NotFoundError("");
        return Page();
      },
      RunInline);
  EXPECT_EQ(loaded_, (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(cache_->size(), 2u);
}

// Whoever waits for a permit comes first, whenever he has asked.
TEST_F(PrefetchTest, GivesWayToLoadsThatSomebodyWaitsFor) {
  Make(NewOptions(/*max_loads=*/1));
  std::vector<LoadCompletion<Page>> done;
  const auto ask = [&](int number) {
    cache_->GetOrLoadAsync(
        number,
        [&, number](LoadCompletion<Page> own) {
          loaded_.push_back(number);
          done.push_back(std::move(own));
        },
        queue_.executor(), [](const Result& got) { EXPECT_TRUE(got.ok()); });
  };
  ask(0);
  cache_->Prefetch({1, 2}, Loader(), queue_.executor());
  cache_->Prefetch({11, 12}, Loader(), queue_.executor());
  queue_.RunAll();
  ask(3);
  queue_.RunAll();
  EXPECT_EQ(loaded_, std::vector<int>{0});  // has the only permit
  done[0](Page());
  queue_.RunAll();
  EXPECT_EQ(loaded_, (std::vector<int>{0, 3}));
  done[1](Page());
  queue_.RunAll();
  EXPECT_EQ(loaded_.size(), 6u);
  for (const int number : {0, 1, 2, 3, 11, 12}) EXPECT_TRUE(Has(number));
}

TEST_F(PrefetchTest, AnExecutorMayRunManyTasksInline) {
  std::vector<int> keys;
  for (int i = 0; i < 100'000; ++i) keys.push_back(i);
  cache_->Prefetch(std::move(keys), Loader(/*weight=*/0), RunInline);
  EXPECT_EQ(loaded_.size(), 100'000u);
}

TEST_F(PrefetchTest, AnExecutorMayThrowOrDropATask) {
  cache_->Prefetch({1}, Loader(), [](const auto&) { throw std::runtime_error("full"); });
  cache_->Prefetch({1}, Loader(), [](const auto&) {});
  EXPECT_TRUE(loaded_.empty());
}

// Or else the others that are put off would wait for ever.
TEST_F(PrefetchTest, ATaskThatIsDroppedPassesItsTurnOn) {
  for (const bool throws : {false, true}) {
    Make(NewOptions(/*max_loads=*/1));
    loaded_.clear();
    std::vector<LoadCompletion<Page>> done;
    cache_->GetOrLoadAsync(
        0, [&](LoadCompletion<Page> own) { done.push_back(std::move(own)); }, RunInline,
        [](const Result&) {});
    int posted = 0;
    cache_->Prefetch({1}, Loader(), queue_.executor());
    cache_->Prefetch({3}, Loader(), queue_.executor());
    queue_.RunAll();
    // Comes before the others, as it is put off later.
    cache_->Prefetch({2}, Loader(), [&](std::function<void()> task) {
      if (++posted == 1) {
        task();  // is put off
      } else if (throws) {
        throw std::runtime_error("full");
      }
    });
    EXPECT_TRUE(loaded_.empty());
    done[0](Page());
    queue_.RunAll();
    EXPECT_EQ(posted, 2);
    EXPECT_TRUE(Has(1) && Has(3));
  }
}

TEST_F(PrefetchTest, TasksMayOutliveTheCache) {
  Make(NewOptions(/*max_loads=*/1));
  cache_->Prefetch({1, 2}, Loader(), queue_.executor());
  cache_.reset();
  queue_.RunAll();
  EXPECT_TRUE(loaded_.empty());
  // One that is put off.
  Make(NewOptions(/*max_loads=*/1));
  std::vector<LoadCompletion<Page>> done;
  cache_->GetOrLoadAsync(
      1, [&](LoadCompletion<Page> own) { done.push_back(std::move(own)); }, RunInline,
      [](const Result&) {});
  cache_->Prefetch({1, 2}, Loader(), queue_.executor());
  cache_->Prefetch({1, 2}, Loader(), RunInline);
  queue_.RunAll();
  cache_.reset();
  queue_.RunAll();
  EXPECT_TRUE(loaded_.empty());
}

// The last task drops the loader.
TEST_F(PrefetchTest, TheDestructorOfItsLoaderEndsTheCache) {
  struct EndsCache {
    ~EndsCache() {
      if (cache != nullptr) cache->reset();
    }
    std::optional<Cache>* cache = nullptr;
  };
  auto ends = std::make_shared<EndsCache>();
  cache_->Prefetch(
      {1, 2},
      [this, ends](int) {
        loaded_.push_back(1);
        return absl::StatusOr<Page>(absl::NotFoundError(""));
      },
      queue_.executor());
  ends->cache = &cache_;
  ends.reset();
  queue_.RunAll();
  EXPECT_EQ(loaded_.size(), 2u);
  EXPECT_FALSE(cache_.has_value());
}

TEST_F(PrefetchTest, WhatWasEvictedCountsAsOftenAsItWasUsed) {
  cache_->Put(1, Page());
  for (int i = 0; i < 3; ++i) EXPECT_NE(cache_->Get(1), nullptr);
  const uint64_t uses = cache_->Inspect(1)->uses;
  cache_->Trim(0);
  EXPECT_FALSE(Has(1));
  cache_->Prefetch({1}, Loader(), RunInline);
  EXPECT_LE(cache_->Inspect(1)->uses, uses);
}

TEST_F(PrefetchTest, TheHardLimitHolds) {
  Cache::Options options = NewOptions();
  options.hard_limit_bytes = 100;
  Make(std::move(options));
  const Ref<Page> used = cache_->Put(0, Page{85});
  cache_->Prefetch({1, 2}, Loader(), RunInline);
  EXPECT_EQ(loaded_, std::vector<int>{1});
  EXPECT_EQ(cache_->charged_bytes(), 95u);
  cache_->Prefetch({3}, Loader(), RunInline, {.weight_estimate = 1});
  EXPECT_FALSE(Has(3));
  EXPECT_EQ(cache_->charged_bytes(), 95u);
}

TEST_F(PrefetchTest, FailedAllocations) {
  const int failures = testing::FailEachAllocation(
      [&] {
        cache_->Prefetch(
            {1}, [](int) { return Page(); }, RunInline);
        if (!Has(1)) throw std::bad_alloc();
      },
      [&] { cache_->CheckInvariantsForTesting(); });
  EXPECT_GT(failures, 1);
}

TEST_F(PrefetchTest, Races) {
  testing::SharedTaskQueue tasks;
  std::optional<std::stop_source> stop;
  std::atomic<int> answers{0};
  int round_of = 0;
  const auto load = [](int) { return Page(); };
  const std::vector<std::function<void()>> others = {
      [&] { cache_->Clear(); },
      [&] { cache_->Invalidate(1); },
      [&] { cache_->Put(2, Page()); },
      [&] { EXPECT_TRUE(cache_->GetOrLoad(2, load).ok()); },
  };
  for (const auto& other : others) {
    const bool clears = &other == &others[0];
    Race(
        RaceRounds(5'000),
        [&](int round) {
          round_of = round;
          Make(NewOptions(/*max_loads=*/1));
          stop.emplace();
          answers = 0;
          cache_->Prefetch({1, 2, 3}, load, tasks.executor(), {.stop_token = stop->get_token()});
          cache_->Prefetch({3, 2, 1}, load, tasks.executor());
        },
        {[&] { tasks.RunAll(); }, [&] { tasks.RunAll(); },
         [&] {
           cache_->GetOrLoadAsync(1, load, tasks.executor(), [&](const Result& got) {
             ++answers;
             EXPECT_TRUE(got.ok());
           });
           if (round_of % 2 == 0) stop->request_stop();
         },
         other},
        [&](int) {
          tasks.RunAll();
          EXPECT_EQ(answers, 1);
          EXPECT_TRUE(clears || Has(3));
          cache_->CheckInvariantsForTesting();
        });
  }
}

// A prefetch that is stopped as its turn comes leaves it to the next one.
TEST_F(PrefetchTest, RacesWithAStopAsItsTurnComes) {
  testing::SharedTaskQueue tasks;
  const auto load = [](int) { return Page(); };
  std::optional<LoadCompletion<Page>> done;
  std::optional<std::stop_source> stop;
  Race(
      RaceRounds(40'000),
      [&](int) {
        Make(NewOptions(/*max_loads=*/1));
        stop.emplace();
        LoadUntilCalled(1, done);
        cache_->Prefetch({2}, load, tasks.executor());
        tasks.RunAll();
        cache_->Prefetch({3}, load, tasks.executor(), {.stop_token = stop->get_token()});
        tasks.RunAll();  // comes before the other
      },
      {[&] { (*done)(Page()); }, [&] { stop->request_stop(); }},
      [&](int) {
        tasks.RunAll();
        EXPECT_TRUE(Has(2));
      });
}

// Threads come first, but those that leave in vain leave no prefetch behind.
TEST_F(PrefetchTest, RacesWithThreadsThatWaitForAPermit) {
  testing::SharedTaskQueue tasks;
  const auto load = [](int) { return Page(); };
  std::optional<LoadCompletion<Page>> done;
  std::optional<std::stop_source> stop;
  Race(
      RaceRounds(10'000),
      [&](int) {
        Make(NewOptions(/*max_loads=*/1));
        stop.emplace();
        LoadUntilCalled(1, done);
        cache_->Prefetch({1, 2, 3}, load, tasks.executor());
      },
      {[&] { tasks.RunAll(); },
       [&] {
         LoadOptions options;
         options.stop_token = stop->get_token();
         cache_->GetOrLoad(4, load, options).IgnoreError();
       },
       [&] { stop->request_stop(); }, [&] { (*done)(Page()); }},
      [&](int) {
        tasks.RunAll();
        EXPECT_TRUE(Has(2) && Has(3));
      });
}

TEST_F(PrefetchTest, RacesWithTheEndOfTheCache) {
  testing::SharedTaskQueue tasks;
  const auto load = [](int) { return Page(); };
  Race(
      RaceRounds(10'000),
      [&](int round) {
        Make(NewOptions(/*max_loads=*/round % 2 == 0 ? 1 : 0));
        cache_->Prefetch({1, 2, 3}, load, tasks.executor());
        cache_->Prefetch({3, 2, 1}, load, tasks.executor());
      },
      {[&] { tasks.RunAll(); }, [&] { tasks.RunAll(); }, [&] { cache_.reset(); }},
      [&](int) { tasks.RunAll(); });
}

struct TroubledHash {
  size_t operator()(int key) const {
    if (key == 2) throw std::runtime_error("no hash");
    return std::hash<int>()(key);
  }
};

TEST(PrefetchFailureTest, TheExecutorSeesNoException) {
  using TroubledCache = LargeObjectCache<int, Page, TroubledHash, std::equal_to<>>;
  TroubledCache::Options options = testing::WithBudget<TroubledCache>(100);
  options.weigher = [](const Page& page) { return page.weight; };
  TroubledCache cache = std::move(TroubledCache::Create(options)).value();
  testing::TaskQueue tasks;
  cache.Prefetch(
      {1, 2, 3}, [] { return Page(); }, tasks.executor());
  EXPECT_NO_THROW(tasks.RunAll());
  EXPECT_NE(cache.Peek(1), nullptr);
  EXPECT_EQ(cache.Stats().loads, 1u);  // the run has ended at the second key
}

}  // namespace
}  // namespace weakcache
