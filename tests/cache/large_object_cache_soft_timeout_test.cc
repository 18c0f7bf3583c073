// SPDX-License-Identifier: Apache-2.0
// A load that takes longer than the caller's soft timeout: the caller gets an expired object, and
// the load goes on. Ages are in virtual time; soft timeouts are none at all, or never come, unless
// a test says otherwise.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
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
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "tests/support/last_words.h"
#include "tests/support/race.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;

struct Page {
  int version = 0;
};

using Cache = LargeObjectCache<int, Page>;
using Result = absl::StatusOr<Ref<Page>>;

const LoadOptions kAtOnce = {.soft_timeout = absl::ZeroDuration()};
const LoadOptions kNever = {.soft_timeout = absl::Hours(1)};

int VersionOf(const Result& result) { return result.ok() ? (*result)->version : -1; }

// Objects expire after ten seconds, and are kept for a hundred more.
class SoftTimeoutTest : public ::testing::Test {
 protected:
  Cache::Options Serving() {
    Cache::Options options = testing::WithBudget<Cache>(1000);
    options.clock = [this] { return now_; };
    options.weigher = [](const Page&) { return uint64_t{1}; };
    options.shards = 1;
    options.expire_after_write = absl::Seconds(10);
    options.stale_if_error = absl::Seconds(100);
    return options;
  }
  Cache::Options WithExecutor() {
    Cache::Options options = Serving();
    options.refresh_executor = queue_.executor();
    return options;
  }
  // Returns a cache with one object under the key 1, of version 1, which has expired.
  Cache MakeExpired(Cache::Options options) {
    Cache cache = std::move(Cache::Create(std::move(options))).value();
    PutExpired(cache);
    return cache;
  }
  void PutExpired(Cache& cache) {
    cache.Put(1, Page{1});
    now_ += absl::Seconds(10);
  }
  auto Loading(int version) {
    return [this, version] {
      ++loads_;
      return Page{version};
    };
  }
  auto Failing() {
    return [this]() -> absl::StatusOr<Page> {
      ++loads_;
      return absl::UnavailableError("down");
    };
  }

  absl::Time now_ = absl::UnixEpoch();
  std::atomic<int> loads_{0};
  testing::TaskQueue queue_;
};

TEST_F(SoftTimeoutTest, HandsOutTheExpiredObjectAndTheLoadGoesOn) {
  Cache cache = MakeExpired(WithExecutor());
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
  EXPECT_EQ(loads_, 0);
  EXPECT_EQ(cache.Stats().stale_served, 1u);
  EXPECT_EQ(cache.Stats().misses, 1u);
  EXPECT_EQ(cache.Get(1), nullptr);
  ASSERT_EQ(queue_.tasks.size(), 1u);
  queue_.RunAll();
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(cache.Get(1)->version, 2);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), kAtOnce)), 2);
  EXPECT_EQ(cache.size(), 1u);
  EXPECT_EQ(cache.Stats().load_failures, 0u);
  cache.CheckInvariantsForTesting();
}

TEST_F(SoftTimeoutTest, HandsOutTheNewObjectIfThatComesBefore) {
  std::optional<std::thread> worker;
  const std::function<void(std::function<void()>)> executors[] = {
      [](const std::function<void()>& task) { task(); },
      [&](std::function<void()> task) { worker.emplace(std::move(task)); }};
  for (const auto& executor : executors) {
    Cache::Options options = Serving();
    options.refresh_executor = executor;
    Cache cache = MakeExpired(options);
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kNever)), 2);
    EXPECT_EQ(cache.Get(1)->version, 2);
    EXPECT_EQ(cache.Stats().stale_served, 0u);
    if (worker.has_value()) worker->join();
    cache.CheckInvariantsForTesting();
  }
}

TEST_F(SoftTimeoutTest, IsMeasuredFromTheBeginningOfTheWait) {
  Cache cache = MakeExpired(WithExecutor());
  const auto before = std::chrono::steady_clock::now();
  const LoadOptions soon = {.soft_timeout = absl::Milliseconds(5)};
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), soon)), 1);
  EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(5));
}

TEST_F(SoftTimeoutTest, IsNothingWithoutAnExpiredObject) {
  Cache::Options options = WithExecutor();
  options.stale_if_error = absl::ZeroDuration();
  Cache cache = MakeExpired(options);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 2);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(5, Loading(3), kAtOnce)), 3);
  EXPECT_EQ(queue_.posted, 0);
}

TEST_F(SoftTimeoutTest, ThereIsOneLoadHoweverManyAsk) {
  Cache cache = MakeExpired(WithExecutor());
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
  }
  EXPECT_EQ(queue_.posted, 1);
  int asynchronous = 0;
  cache.GetOrLoadAsync(
      1, Loading(3), [](const auto&) { ADD_FAILURE(); },
      [&](const Result& result) { asynchronous = VersionOf(result); });
  // One that can't leave does not wait for the task.
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(4))), 4);
  EXPECT_EQ(asynchronous, 4);
  queue_.RunAll();
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(cache.Stats().loads, 1u);
  EXPECT_EQ(cache.Stats().stale_served, 10u);
  cache.CheckInvariantsForTesting();
}

TEST_F(SoftTimeoutTest, AnEarlierDeadlineDoesTheSame) {
  Cache cache = MakeExpired(WithExecutor());
  LoadOptions options = kNever;
  options.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), options)), 1);
  ASSERT_EQ(queue_.tasks.size(), 1u);
  // Once the deadline is over, nothing is loaded for this caller.
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), options)), 1);
  EXPECT_EQ(queue_.posted, 1);
  queue_.RunAll();
  EXPECT_EQ(cache.Get(1)->version, 2);
  EXPECT_EQ(cache.Stats().stale_served, 2u);
}

TEST_F(SoftTimeoutTest, ACallerThatIsCancelledGetsNothing) {
  std::stop_source stop;
  Cache::Options options = Serving();
  std::vector<std::function<void()>> tasks;
  options.refresh_executor = [&](std::function<void()> task) {
    tasks.push_back(std::move(task));
    stop.request_stop();
  };
  Cache cache = MakeExpired(options);
  LoadOptions cancelled = kNever;
  cancelled.stop_token = stop.get_token();
  // At first while it waits, and then before.
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(absl::IsCancelled(cache.GetOrLoad(1, Loading(2), cancelled).status()));
  }
  ASSERT_EQ(tasks.size(), 1u);
  tasks[0]();
  EXPECT_EQ(loads_, 0);
  EXPECT_EQ(cache.Stats().stale_served, 0u);
  cache.CheckInvariantsForTesting();
}

TEST_F(SoftTimeoutTest, ACallerThatSleepsIsCancelled) {
  Cache cache = MakeExpired(WithExecutor());
  std::stop_source stop;
  LoadOptions options = kNever;
  options.stop_token = stop.get_token();
  Result result;
  std::thread caller([&] { result = cache.GetOrLoad(1, Loading(2), options); });
  // The key is on its way to the executor: that caller sleeps, or will.
  while (cache.Stats().misses == 0) std::this_thread::yield();
  stop.request_stop();
  caller.join();
  EXPECT_TRUE(absl::IsCancelled(result.status()));
}

// Its token is that of a request, which ends.
TEST_F(SoftTimeoutTest, ACallerThatHasLeftDoesNotStopTheLoad) {
  Cache cache = MakeExpired(WithExecutor());
  std::stop_source stop;
  LoadOptions options = kAtOnce;
  options.stop_token = stop.get_token();
  const auto load = [&](const std::stop_token& token) {
    EXPECT_FALSE(token.stop_requested());
    return Page{2};
  };
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load, options)), 1);
  stop.request_stop();
  queue_.RunAll();
  EXPECT_EQ(cache.Get(1)->version, 2);
}

TEST_F(SoftTimeoutTest, AFailureInTimeIsAFailureAsAnyOther) {
  for (const bool is_kept : {false, true}) {
    Cache::Options options = Serving();
    options.refresh_executor = testing::RunInline;
    if (is_kept) options.failure_ttl = [](const absl::Status&) { return absl::Minutes(1); };
    Cache cache = MakeExpired(options);
    loads_ = 0;
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Failing(), kNever)), 1);
    }
    EXPECT_EQ(loads_, is_kept ? 1 : 3);
    const auto throwing = []() -> Page { throw std::runtime_error("down"); };
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, throwing, kNever)), 1);
    EXPECT_EQ(cache.Stats().stale_served, 4u);
    cache.Invalidate(1);
    EXPECT_FALSE(cache.GetOrLoad(1, Failing(), kNever).ok());
    cache.CheckInvariantsForTesting();
  }
}

TEST_F(SoftTimeoutTest, AFailureThatComesLaterIsKept) {
  Cache::Options options = WithExecutor();
  options.failure_ttl = [](const absl::Status&) { return absl::Minutes(1); };
  Cache cache = MakeExpired(options);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Failing(), kAtOnce)), 1);
  queue_.RunAll();
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Failing(), kNever)), 1);
  EXPECT_EQ(queue_.posted, 1);
  EXPECT_EQ(cache.Stats().failures_served, 1u);
}

TEST_F(SoftTimeoutTest, ATaskThatIsDroppedIsAFailure) {
  const std::function<void(std::function<void()>)> executors[] = {
      [](const std::function<void()>&) {},
      [](const std::function<void()>&) { throw std::runtime_error("full"); }};
  for (const auto& executor : executors) {
    Cache::Options options = Serving();
    options.refresh_executor = executor;
    Cache cache = MakeExpired(options);
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kNever)), 1);
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2))), 2);
    cache.CheckInvariantsForTesting();
  }
  EXPECT_EQ(loads_, 2);
}

// Whoever waits for a task that is dropped after its caller has left asks anew.
TEST_F(SoftTimeoutTest, ATaskThatIsDroppedLaterFailsNoOther) {
  Cache cache = MakeExpired(WithExecutor());
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Failing(), kAtOnce)), 1);
  int asynchronous = 0;
  cache.GetOrLoadAsync(1, Loading(2), testing::RunInline,
                       [&](const Result& result) { asynchronous = VersionOf(result); });
  EXPECT_EQ(asynchronous, 0);
  queue_.tasks.clear();
  EXPECT_EQ(asynchronous, 2);
}

TEST_F(SoftTimeoutTest, WhatIsPutMeanwhileWins) {
  Cache cache = MakeExpired(WithExecutor());
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
  cache.Put(1, Page{3});
  queue_.RunAll();
  EXPECT_EQ(loads_, 0);
  EXPECT_EQ(cache.Get(1)->version, 3);
  now_ += absl::Seconds(10);
  const auto load = [&] {
    cache.Put(1, Page{5});
    return Page{4};
  };
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load, kAtOnce)), 3);
  queue_.RunAll();
  EXPECT_EQ(cache.Get(1)->version, 5);
  cache.CheckInvariantsForTesting();
}

TEST_F(SoftTimeoutTest, WhatIsInvalidatedMeanwhileIsNotEntered) {
  const std::function<void(Cache&)> removals[] = {
      [](Cache& cache) { cache.Invalidate(1); },
      [](Cache& cache) { cache.InvalidateIf([](int key) { return key == 1; }); },
      [](Cache& cache) { cache.Clear(); }};
  for (const auto& remove : removals) {
    Cache cache = MakeExpired(WithExecutor());
    const auto load = [&] {
      remove(cache);
      return Page{2};
    };
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load, kAtOnce)), 1);
    queue_.RunAll();
    EXPECT_TRUE(cache.empty());
    // A load that has not begun will be new enough.
    PutExpired(cache);
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), kAtOnce)), 1);
    remove(cache);
    queue_.RunAll();
    EXPECT_EQ(cache.Get(1)->version, 3);
    cache.CheckInvariantsForTesting();
  }
}

// A caller never waits for a permit longer than its soft timeout, and a task never waits for one.
TEST_F(SoftTimeoutTest, NobodyWaitsForAPermit) {
  Cache::Options options = WithExecutor();
  options.max_concurrent_loads = 1;
  Cache cache = MakeExpired(options);
  const Result other = cache.GetOrLoad(2, [&] {
    std::thread caller([&] {
      EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
      queue_.RunAll();
      EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), kAtOnce)), 1);
    });
    caller.join();
    return Page{};
  });
  EXPECT_TRUE(other.ok());
  EXPECT_EQ(loads_, 0);
  EXPECT_EQ(queue_.posted, 2);  // the task was posted again, for the permit
  queue_.RunAll();
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(cache.Get(1)->version, 2);
  cache.CheckInvariantsForTesting();
}

TEST_F(SoftTimeoutTest, ALoaderMayAskForItsOwnKey) {
  Cache::Options options = Serving();
  options.refresh_executor = testing::RunInline;
  Cache cache = MakeExpired(options);
  const auto load = [&] {
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), kAtOnce)), 1);
    return Page{2};
  };
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load, kNever)), 2);
  EXPECT_EQ(loads_, 0);
}

// The inner caller is the one that it would wait for.
TEST_F(SoftTimeoutTest, ALoaderThatAsksForItsOwnKeyDoesNotWait) {
  Cache::Options options = Serving();
  options.refresh_executor = testing::RunInline;
  Cache cache = MakeExpired(options);
  const auto load = [&] {
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), kNever)), 1);
    return Page{2};
  };
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load, kNever)), 2);
  EXPECT_EQ(loads_, 0);
  cache.CheckInvariantsForTesting();
}

// Neither its key nor its loader stays with the cache.
TEST_F(SoftTimeoutTest, ALoadForWhichThereIsNoMemoryLeavesNothing) {
  Cache cache = MakeExpired(WithExecutor());
  const auto token = std::make_shared<int>();
  const auto load = [token] { return Page{2}; };
  int failures = 0;
  while (queue_.tasks.empty()) {
    testing::FailAllocation(++failures);
    const Result result = cache.GetOrLoad(1, load, kAtOnce);
    testing::FailAllocation(0);
    EXPECT_EQ(VersionOf(result), 1);
    if (queue_.tasks.empty()) {
      EXPECT_EQ(token.use_count(), 2) << failures;
    }
  }
  EXPECT_GT(failures, 3);
  queue_.RunAll();
  EXPECT_EQ(cache.Get(1)->version, 2);
  cache.CheckInvariantsForTesting();
}

// Such a loader is called in the call, which it therefore can't leave.
TEST_F(SoftTimeoutTest, ALoaderThatCannotBeMovedIsCalledInTheCall) {
  Cache cache = MakeExpired(WithExecutor());
  auto load = [object = std::make_unique<Page>(Page{2})] { return *object; };
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load, kAtOnce)), 2);
  EXPECT_EQ(queue_.posted, 0);
}

TEST_F(SoftTimeoutTest, LoaderAndKeyMayBeMovedOnly) {
  using Cache = LargeObjectCache<std::unique_ptr<int>, Page>;
  Cache::Options options = testing::WithBudget<Cache>(1000);
  options.clock = [this] { return now_; };
  options.expire_after_write = absl::Seconds(10);
  options.stale_if_error = absl::Seconds(100);
  options.refresh_executor = queue_.executor();
  Cache cache = std::move(Cache::Create(options)).value();
  EXPECT_TRUE(cache.GetOrLoad(std::unique_ptr<int>(), [] { return Page{1}; }).ok());
  now_ += absl::Seconds(10);
  auto load = [object = std::make_unique<Page>(Page{2})] { return MakeRef<Page>(*object); };
  const auto stale = cache.GetOrLoad(std::unique_ptr<int>(), std::move(load), kAtOnce);
  EXPECT_EQ(VersionOf(stale), 1);
  queue_.RunAll();
  EXPECT_EQ(cache.Get(std::unique_ptr<int>())->version, 2);
}

// Its object is not kept alive by what is left of the task.
TEST_F(SoftTimeoutTest, AnObjectThatComesLaterIsTheCachesAlone) {
  Cache cache = MakeExpired(WithExecutor());
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
  queue_.tasks.front()();
  const WeakRef<Page> loaded = cache.Get(1);
  cache.Clear();
  EXPECT_TRUE(loaded.expired());
}

// The callers in these tests have no executor.

TEST_F(SoftTimeoutTest, WithoutAnExecutorACallerLeavesAnothersLoad) {
  Cache cache = MakeExpired(Serving());
  const Result led = cache.GetOrLoad(1, [&] {
    std::thread follower([&] {
      EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Failing(), kAtOnce)), 1);
      EXPECT_EQ(VersionOf(cache.GetAll(
                    std::vector<int>{1},
                    [&](const std::vector<int>&) {
                      ADD_FAILURE();
                      return std::vector<Page>(1);
                    },
                    kAtOnce)[0]),
                1);
    });
    follower.join();
    return Page{2};
  });
  EXPECT_EQ(VersionOf(led), 2);
  EXPECT_EQ(cache.Get(1), *led);
  EXPECT_EQ(loads_, 0);
  EXPECT_EQ(cache.Stats().stale_served, 2u);
  cache.CheckInvariantsForTesting();
}

// It waits as long for all keys together as for one.
TEST_F(SoftTimeoutTest, GetAllLeavesAllKeysAfterOneSoftTimeout) {
  Cache cache = std::move(Cache::Create(Serving())).value();
  std::vector<int> keys(50);
  for (int& key : keys) {
    key = static_cast<int>(&key - keys.data());
    cache.Put(key, Page{1});
  }
  now_ += absl::Seconds(10);
  std::vector<LoadCompletion<Page>> pending;
  for (const int key : keys) {
    cache.GetOrLoadAsync(
        key, [&](LoadCompletion<Page> completion) { pending.push_back(std::move(completion)); },
        testing::RunInline, [](const Result& result) { EXPECT_EQ(VersionOf(result), 2); });
  }
  const auto before = std::chrono::steady_clock::now();
  const auto load = [](const std::vector<int>& missing) {
    ADD_FAILURE();
    return std::vector<Page>(missing.size());
  };
  const LoadOptions soon = {.soft_timeout = absl::Milliseconds(200)};
  for (const Result& result : cache.GetAll(keys, load, soon)) EXPECT_EQ(VersionOf(result), 1);
  const auto took = std::chrono::steady_clock::now() - before;
  EXPECT_GE(took, std::chrono::milliseconds(200));
  EXPECT_LT(took, std::chrono::seconds(5));  // half of 50 times 200 ms
  for (LoadCompletion<Page>& completion : pending) completion(Page{2});
  EXPECT_EQ(cache.Stats().stale_served, 50u);
  cache.CheckInvariantsForTesting();
}

TEST_F(SoftTimeoutTest, WithoutAnExecutorACallerLeavesTheWaitForAPermit) {
  Cache::Options options = Serving();
  options.max_concurrent_loads = 1;
  Cache cache = MakeExpired(options);
  const Result other = cache.GetOrLoad(2, [&] {
    std::thread caller([&] { EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1); });
    caller.join();
    return Page{};
  });
  EXPECT_TRUE(other.ok());
  EXPECT_EQ(loads_, 0);
  // There is one now, and nobody else loads.
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 2);
  cache.CheckInvariantsForTesting();
}

TEST_F(SoftTimeoutTest, WithoutAnExecutorACallerLeavesTheWaitForRoom) {
  Cache::Options options = Serving();
  options.budget_bytes = 2;
  options.hard_limit_bytes = 2;
  options.hard_limit_wait = absl::Hours(1);
  Cache cache = MakeExpired(options);
  const Ref<Page> held = cache.Put(2, Page{});
  const Ref<Page> expired = cache.GetOrLoad(1, Failing()).value();
  LoadOptions estimated = kAtOnce;
  estimated.weight_estimate = 1;
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), estimated)), 1);
  EXPECT_EQ(loads_, 1);
  cache.Invalidate(2);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), estimated)), 2);
}

TEST_F(SoftTimeoutTest, WithoutAnExecutorACallersOwnLoadIsAsAnyOther) {
  Cache::Options options = Serving();
  options.failure_ttl = [](const absl::Status&) { return absl::Minutes(1); };
  Cache cache = MakeExpired(options);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Failing(), kAtOnce)), 1);
  EXPECT_EQ(loads_, 1);
  now_ += absl::Minutes(1);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 2);
}

// Refreshes need no soft timeout: while there is an object that has not expired, nobody waits.
TEST_F(SoftTimeoutTest, IsNothingToARefresh) {
  Cache::Options options = WithExecutor();
  options.refresh_after_write = absl::Seconds(5);
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(1, Page{1});
  now_ += absl::Seconds(5);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kNever)), 1);
  EXPECT_EQ(cache.Stats().stale_served, 0u);
  queue_.RunAll();
  EXPECT_EQ(cache.Get(1)->version, 2);
}

// The ends of a cache.

TEST_F(SoftTimeoutTest, ATaskMayOutliveTheCache) {
  for (const bool runs : {true, false}) {
    {
      Cache cache = MakeExpired(WithExecutor());
      EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
    }
    if (runs) queue_.RunAll();
    queue_.tasks.clear();
  }
  EXPECT_EQ(loads_, 0);
}

TEST_F(SoftTimeoutTest, ALoadThatIsDeferredEndsWithTheCache) {
  {
    Cache::Options options = WithExecutor();
    options.max_concurrent_loads = 1;
    Cache cache = MakeExpired(options);
    std::function<void()> finish;
    cache.GetOrLoadAsync(
        2,
        [&](LoadCompletion<Page> completion) {
          finish = [completion = std::make_shared<LoadCompletion<Page>>(std::move(completion))] {
            (*completion)(Page{});
          };
        },
        testing::RunInline, [](const Result&) {});
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
    queue_.RunAll();  // there is no permit
  }
  queue_.RunAll();
  EXPECT_EQ(loads_, 0);
}

TEST_F(SoftTimeoutTest, TheEndWaitsForATaskThatRuns) {
  std::atomic<bool> is_running{false};
  std::atomic<bool> may_return{false};
  std::atomic<bool> has_returned{false};
  std::optional<Cache> cache(MakeExpired(WithExecutor()));
  const auto load = [&] {
    is_running = true;
    while (!may_return) std::this_thread::yield();
    has_returned = true;
    return Page{2};
  };
  EXPECT_EQ(VersionOf(cache->GetOrLoad(1, load, kAtOnce)), 1);
  std::thread worker([&] { queue_.RunAll(); });
  while (!is_running) std::this_thread::yield();
  std::thread ender([&] {
    cache.reset();
    EXPECT_TRUE(has_returned);
  });
  may_return = true;
  worker.join();
  ender.join();
}

// The end has closed the tasks, but has not come to this one's load yet.
TEST_F(SoftTimeoutTest, ATaskThatMeetsTheEndDoesNothing) {
  for (const bool runs : {true, false}) {
    int version = 0;
    {
      Cache cache = MakeExpired(WithExecutor());
      EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(2), kAtOnce)), 1);
      cache.Put(2, Page{7});
      now_ += absl::Seconds(10);
      EXPECT_TRUE(cache.GetOrLoad(2, Loading(2), kAtOnce).ok());
      cache.GetOrLoadAsync(2, Loading(2), testing::RunInline, [&](const Result& result) {
        version = VersionOf(result);
        std::thread worker([&] {
          if (runs) queue_.tasks.front()();
          queue_.tasks.pop_front();
        });
        worker.join();
      });
      EXPECT_EQ(version, 0);
    }
    EXPECT_EQ(version, 7);
    queue_.RunAll();
  }
  EXPECT_EQ(loads_, 0);
}

TEST_F(SoftTimeoutTest, AnExecutorMayEndTheCache) {
  std::optional<Cache> cache;
  Cache::Options options = Serving();
  std::vector<std::function<void()>> tasks;
  options.refresh_executor = [&](std::function<void()> task) {
    tasks.push_back(std::move(task));
    cache.reset();
  };
  cache.emplace(MakeExpired(options));
  EXPECT_EQ(VersionOf(cache->GetOrLoad(1, Loading(2), kNever)), 1);
  for (const auto& task : tasks) task();
  EXPECT_EQ(loads_, 0);
}

// The asynchronous caller has its result, so the cache may end, although its task has not run, for
// which a caller that has left still waits.
TEST_F(SoftTimeoutTest, ACallerThatHasLeftKeepsNoCacheFromEnding) {
  testing::TaskQueue other;
  {
    Cache cache = MakeExpired(WithExecutor());
    std::stop_source stop;
    int results = 0;
    LoadOptions cancelled;
    cancelled.stop_token = stop.get_token();
    cache.GetOrLoadAsync(
        1, Loading(2), other.executor(), [&](const Result&) { ++results; }, cancelled);
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), kAtOnce)), 1);
    EXPECT_EQ(queue_.posted, 0);
    stop.request_stop();
    EXPECT_EQ(results, 1);
  }
  other.RunAll();
  EXPECT_EQ(loads_, 0);
}

// Whoever hears that its task was dropped may end the cache. By then this caller's load does not
// depend on that task any more: it is a task of its own, which the end finds.
TEST_F(SoftTimeoutTest, ACallerThatHasLeftAsksAnewBeforeADropIsKnown) {
  testing::TaskQueue other;
  Cache cache = MakeExpired(WithExecutor());
  int posted = -1;
  cache.GetOrLoadAsync(1, Loading(2), other.executor(),
                       [&](const Result&) { posted = queue_.posted; });
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, Loading(3), kAtOnce)), 1);
  EXPECT_EQ(queue_.posted, 0);
  other.tasks.clear();
  EXPECT_EQ(posted, 1);
  queue_.RunAll();
  EXPECT_EQ(cache.Get(1)->version, 3);
}

// The end waits for that task, whose loader waits for one that will not run.
TEST_F(SoftTimeoutTest, TheEndWakesACallerInATask) {
  testing::SharedTaskQueue tasks;
  std::atomic<int> posted{0};
  Cache::Options options = Serving();
  options.refresh_executor = [&, post = tasks.executor()](std::function<void()> task) mutable {
    post(std::move(task));
    ++posted;
  };
  std::optional<Cache> cache(std::move(Cache::Create(options)).value());
  cache->Put(2, Page{7});
  PutExpired(*cache);
  int inner = 0;
  const auto load = [&, &in_use = *cache] {
    inner = VersionOf(in_use.GetOrLoad(2, Loading(8), kNever));
    return Page{2};
  };
  EXPECT_EQ(VersionOf(cache->GetOrLoad(1, load, kAtOnce)), 1);
  std::thread worker([&] { EXPECT_TRUE(tasks.RunOne()); });
  while (posted != 2) std::this_thread::yield();
  cache.reset();
  worker.join();
  EXPECT_EQ(inner, 7);
  tasks.RunAll();
  EXPECT_EQ(loads_, 0);
}

// Destructors of the cache's objects may use it, but no task runs any more.
TEST_F(SoftTimeoutTest, ADestructorThatAsksAtTheEndGetsTheExpiredObject) {
  using testing::CallsAtEnd;
  using Cache = LargeObjectCache<int, CallsAtEnd>;
  const std::function<void(std::function<void()>)> executors[] = {queue_.executor(),
                                                                  testing::RunInline};
  for (const auto& executor : executors) {
    Cache::Options options = testing::WithBudget<Cache>(1000);
    options.clock = [this] { return now_; };
    options.expire_after_write = absl::Seconds(10);
    options.stale_if_error = absl::Seconds(100);
    options.refresh_executor = executor;
    Ref<CallsAtEnd> expired;
    bool has_asked = false;
    {
      Cache cache = std::move(Cache::Create(options)).value();
      expired = cache.Put(1, CallsAtEnd());
      now_ += absl::Seconds(10);
      cache.Put(2, CallsAtEnd([&] {
                  has_asked = true;
                  const auto result = cache.GetOrLoad(
                      1, [] { return CallsAtEnd(); }, kNever);
                  EXPECT_EQ(result.value(), expired);
                }));
    }
    EXPECT_TRUE(has_asked);
    queue_.RunAll();
  }
}

// A caller leaves while the load lands: it gets either object, and the new one is cached in any
// case. The timeouts are of the length of the race, but for
// a few, by which both come about on any machine.
TEST_F(SoftTimeoutTest, LeavingMeetsLanding) {
  testing::SharedTaskQueue tasks;
  Cache::Options options = Serving();
  options.refresh_executor = tasks.executor();
  Cache cache = std::move(Cache::Create(options)).value();
  LoadOptions soon;
  int result = 0;
  int stale = 0;
  int fresh = 0;
  bool is_late = false;  // then the load begins after the caller has left
  std::atomic<bool> has_left = false;
  Race(
      {RaceRounds(20'000), {&stale, &fresh}},
      [&](int round) {
        PutExpired(cache);
        const bool is_patient = round % 64 == 63;
        soon.soft_timeout = is_patient ? absl::Hours(1) : absl::Microseconds(round % 64);
        is_late = round % 64 == 1;
        has_left = false;
      },
      {[&] {
         result = VersionOf(cache.GetOrLoad(1, Loading(2), soon));
         has_left = true;
       },
       [&] {
         while (is_late && !has_left) std::this_thread::yield();
         while (!tasks.RunOne()) std::this_thread::yield();
       }},
      [&](int) {
        EXPECT_TRUE(result == 1 || result == 2) << result;
        ++(result == 1 ? stale : fresh);
        EXPECT_EQ(cache.Get(1)->version, 2);
      });
  EXPECT_GT(stale, 0);
  EXPECT_GT(fresh, 0);
  EXPECT_EQ(loads_, stale + fresh);
  EXPECT_EQ(cache.Stats().stale_served, static_cast<uint64_t>(stale));
  cache.CheckInvariantsForTesting();
}

// A caller leaves, its load's task runs, and the cache ends.
TEST_F(SoftTimeoutTest, TheEndOfTheCacheMeetsTheTask) {
  std::optional<Cache> cache;
  testing::SharedTaskQueue tasks;
  int loaded = 0;
  int dropped = 0;
  Race(
      {RaceRounds(8'000), {&loaded, &dropped}},
      [&](int) {
        Cache::Options options = Serving();
        options.refresh_executor = tasks.executor();
        cache.emplace(MakeExpired(options));
        loads_ = 0;
        EXPECT_EQ(VersionOf(cache->GetOrLoad(1, Loading(2), kAtOnce)), 1);
      },
      {[&] { EXPECT_TRUE(tasks.RunOne()); }, [&] { cache.reset(); }},
      [&](int) { ++(loads_ != 0 ? loaded : dropped); });
  EXPECT_GT(loaded, 0);
  EXPECT_GT(dropped, 0);
}

}  // namespace
}  // namespace weakcache
