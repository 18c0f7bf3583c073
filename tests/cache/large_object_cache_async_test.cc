// SPDX-License-Identifier: Apache-2.0
// Loads that no thread waits for: futures, callbacks and coroutines.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"
#ifdef __cpp_impl_coroutine
#include "tests/support/detached_coroutine.h"
#endif

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;
using testing::RunInline;
using testing::TaskQueue;

using Cache = LargeObjectCache<int, int>;
using Result = absl::StatusOr<Ref<int>>;

int NotCalled() {
  ADD_FAILURE() << "a loader was called";
  return 0;
}
absl::StatusCode CodeOf(const std::optional<Result>& result) {
  return result.has_value() ? result->status().code() : absl::StatusCode::kUnknown;
}
int ValueOf(const std::optional<Result>& result) {
  return result.has_value() && result->ok() ? ***result : -1;
}

class AsyncTest : public ::testing::Test {
 protected:
  explicit AsyncTest(size_t limit = 0) {
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    options.shards = 1;
    options.max_concurrent_loads = limit;
    cache_.emplace(std::move(Cache::Create(options)).value());
  }
  ~AsyncTest() override {
    if (cache_.has_value()) cache_->CheckInvariantsForTesting();
  }
  auto Into(std::optional<Result>& result) {
    return [&](Result got) {
      EXPECT_FALSE(result.has_value());
      result = std::move(got);
    };
  }

  std::optional<Cache> cache_;
  TaskQueue queue_;
};

TEST_F(AsyncTest, AFailingAllocationOfTheTaskLosesNoAsk) {
  int failures = 0;
  for (std::optional<Result> result; !result.has_value() || !result->ok(); ++failures) {
    result.reset();
    cache_->GetOrLoadAsync(
        1, [] { return 7; }, queue_.executor(), Into(result));
    const std::function<void()> task = std::move(queue_.tasks.front());
    queue_.tasks.pop_front();
    testing::FailAllocation(failures + 1);
    task();
    testing::FailAllocation(0);
    ASSERT_TRUE(result.has_value()) << failures;
  }
  EXPECT_GT(failures, 1);
}

TEST_F(AsyncTest, OneTaskForALoadHoweverManyAsk) {
  std::optional<Result> results[3];
  int loads = 0;
  for (auto& result : results) {
    cache_->GetOrLoadAsync(
        1, [&] { return ++loads; }, queue_.executor(), Into(result));
  }
  auto future = cache_->GetOrLoadAsync(1, NotCalled, queue_.executor());
  EXPECT_EQ(queue_.posted, 1);
  queue_.RunAll();
  EXPECT_EQ(loads, 1);
  for (const auto& result : results) EXPECT_EQ(ValueOf(result), 1);
  EXPECT_EQ(*future.get(), cache_->Get(1));
}

TEST_F(AsyncTest, AHitAllocatesNothingAndCompletesAtOnce) {
  cache_->Put(1, 7);
  const Ref<int> held = cache_->Get(1);
  int value = 0;
  const std::thread::id here = std::this_thread::get_id();
  testing::FailAllocation(1);
  cache_->GetOrLoadAsync(
      1, NotCalled, [](auto&&) { ADD_FAILURE(); },
      [&](Result got) {
        EXPECT_EQ(std::this_thread::get_id(), here);
        value = **got;
      });
  testing::FailAllocation(0);
  EXPECT_EQ(value, 7);
}

TEST_F(AsyncTest, TakesAnAnyInvocable) {
  std::optional<Result> result;
  absl::AnyInvocable<void(Result)> callback = Into(result);
  cache_->GetOrLoadAsync(
      1, [] { return 3; }, RunInline, std::move(callback));
  EXPECT_EQ(ValueOf(result), 3);
}

TEST_F(AsyncTest, FailuresReachAllThatAsk) {
  std::optional<Result> failed[2];
  std::optional<Result> thrown;
  for (auto& result : failed) {
    cache_->GetOrLoadAsync(
        1, [] { return absl::NotFoundError("none"); }, queue_.executor(), Into(result));
  }
  cache_->GetOrLoadAsync(
      2, []() -> int { throw std::runtime_error("no such page"); }, queue_.executor(),
      Into(thrown));
  queue_.RunAll();
  for (const auto& result : failed) EXPECT_EQ(CodeOf(result), absl::StatusCode::kNotFound);
  EXPECT_EQ(thrown->status(), absl::UnknownError("the load threw: no such page"));
}

// The task may be in the queue of the very thread that asks.
TEST_F(AsyncTest, AThreadThatWantsTheObjectTakesAQueuedLoadOver) {
  std::optional<Result> result;
  cache_->GetOrLoadAsync(1, NotCalled, queue_.executor(), Into(result));
  EXPECT_EQ(**cache_->GetOrLoad(1, [] { return 5; }), 5);
  EXPECT_EQ(ValueOf(result), 5);
  std::optional<Result> bulk;
  cache_->GetOrLoadAsync(2, NotCalled, queue_.executor(), Into(bulk));
  const auto all = cache_->GetAll(std::vector<int>{2, 3}, [](const std::vector<int>& keys) {
    return std::vector<int>(keys.size(), 6);
  });
  EXPECT_EQ(ValueOf(bulk), 6);
  // The tasks that are left need no cache.
  cache_.reset();
  queue_.RunAll();
}

TEST_F(AsyncTest, JoinsTheLoadOfAThreadWithoutATask) {
  std::optional<Result> single;
  std::optional<Result> bulk;
  std::optional<Result> ended_by_put;
  cache_
      ->GetOrLoad(1,
                  [&] {
                    cache_->GetOrLoadAsync(1, NotCalled, queue_.executor(), Into(single));
                    EXPECT_FALSE(single.has_value());
                    return 4;
                  })
      .value();
  EXPECT_EQ(ValueOf(single), 4);
  cache_->GetAll(std::vector<int>{2, 3}, [&](const std::vector<int>& keys) {
    cache_->GetOrLoadAsync(3, NotCalled, queue_.executor(), Into(bulk));
    return std::vector<int>(keys.size(), 8);
  });
  EXPECT_EQ(ValueOf(bulk), 8);
  cache_
      ->GetOrLoad(5,
                  [&] {
                    cache_->GetOrLoadAsync(5, NotCalled, queue_.executor(), Into(ended_by_put));
                    cache_->Put(5, 55);
                    return 4;
                  })
      .value();
  EXPECT_EQ(ValueOf(ended_by_put), 55);
  EXPECT_EQ(queue_.posted, 0);
}

TEST_F(AsyncTest, WhatComesWhileATaskIsQueued) {
  std::optional<Result> put;
  std::optional<Result> invalidated;
  cache_->GetOrLoadAsync(1, NotCalled, queue_.executor(), Into(put));
  cache_->Put(1, 9);
  cache_->GetOrLoadAsync(
      2, [] { return 2; }, queue_.executor(), Into(invalidated));
  cache_->Invalidate(2);
  cache_->InvalidateIf([](int key) { return key == 2; });
  queue_.RunAll();
  EXPECT_EQ(ValueOf(put), 9);
  EXPECT_EQ(ValueOf(invalidated), 2);
  EXPECT_NE(cache_->Get(2), nullptr);  // it has been loaded after that
}

TEST_F(AsyncTest, ADroppedTaskFailsItsOwnAskOnly) {
  std::optional<Result> own;
  std::optional<Result> other;
  TaskQueue others;
  cache_->GetOrLoadAsync(1, NotCalled, queue_.executor(), Into(own));
  cache_->GetOrLoadAsync(
      1, [] { return 2; }, others.executor(), Into(other));
  EXPECT_EQ(others.posted, 0);
  queue_.tasks.clear();
  EXPECT_EQ(own->status(), absl::AbortedError("the executor has dropped the task"));
  EXPECT_EQ(others.posted, 1);
  others.RunAll();
  EXPECT_EQ(ValueOf(other), 2);
}

TEST_F(AsyncTest, AnExecutorThatThrows) {
  std::optional<Result> result;
  std::function<void()> kept;
  const auto keep_and_throw = [&](const auto& task) {
    kept = task;
    throw std::runtime_error("full");
  };
  cache_->GetOrLoadAsync(1, NotCalled, keep_and_throw, Into(result));
  EXPECT_EQ(result->status(), absl::UnknownError("the load threw: full"));
  kept();  // it does nothing
  auto future = cache_->GetOrLoadAsync(1, NotCalled, keep_and_throw);
  EXPECT_THROW(future.get().IgnoreError(), std::runtime_error);
}

TEST_F(AsyncTest, AnExecutorThatCantBeCopied) {
  struct Pool {
    explicit Pool(TaskQueue& of) : queue(of) {}
    Pool(const Pool&) = delete;
    void operator()(std::function<void()> task) { queue.tasks.push_back(std::move(task)); }
    TaskQueue& queue;
  };
  Pool pool(queue_);
  auto future = cache_->GetOrLoadAsync(
      1, [] { return 1; }, pool);
  queue_.RunAll();
  EXPECT_TRUE(future.get().ok());
}

TEST_F(AsyncTest, AskersLeaveWhenTheyAreCancelled) {
  std::stop_source stops[2];
  std::optional<Result> results[2];
  for (int i = 0; i < 2; ++i) {
    cache_->GetOrLoadAsync(1, [] { return 1; }, queue_.executor(), Into(results[i]),
                           {.stop_token = stops[i].get_token()});
  }
  // The first one's task loads for the second.
  stops[0].request_stop();
  EXPECT_EQ(CodeOf(results[0]), absl::StatusCode::kCancelled);
  EXPECT_FALSE(results[1].has_value());
  queue_.RunAll();
  EXPECT_EQ(ValueOf(results[1]), 1);
  // Nobody is left: the task does nothing, and needs no cache.
  std::optional<Result> alone;
  std::stop_source stop;
  cache_->GetOrLoadAsync(2, NotCalled, queue_.executor(), Into(alone),
                         {.stop_token = stop.get_token()});
  stop.request_stop();
  EXPECT_EQ(CodeOf(alone), absl::StatusCode::kCancelled);
  std::optional<Result> before;
  cache_->GetOrLoadAsync(2, NotCalled, queue_.executor(), Into(before),
                         {.stop_token = stop.get_token()});
  EXPECT_EQ(CodeOf(before), absl::StatusCode::kCancelled);
  cache_.reset();
  queue_.RunAll();
}

TEST_F(AsyncTest, ALoaderIsStoppedWhenAllAskersHaveLeft) {
  std::stop_source stops[2];
  std::optional<Result> results[2];
  std::optional<Result> late;
  for (int i = 0; i < 2; ++i) {
    cache_->GetOrLoadAsync(1,
                           [&](std::stop_token token) -> absl::StatusOr<int> {
                             stops[0].request_stop();
                             EXPECT_FALSE(token.stop_requested());
                             stops[1].request_stop();
                             EXPECT_TRUE(token.stop_requested());
                             cache_->GetOrLoadAsync(
                                 1, [] { return 12; }, queue_.executor(), Into(late));
                             return absl::CancelledError("stopped");
                           },
                           queue_.executor(), Into(results[i]),
                           {.stop_token = stops[i].get_token()});
  }
  queue_.RunOne();
  for (const auto& result : results) EXPECT_EQ(CodeOf(result), absl::StatusCode::kCancelled);
  EXPECT_FALSE(late.has_value());
  queue_.RunAll();
  EXPECT_EQ(ValueOf(late), 12);
}

TEST_F(AsyncTest, ADeadlineIsHeededWhenTheTaskBegins) {
  std::optional<Result> result;
  const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
  cache_->GetOrLoadAsync(1, [] { return 1; }, queue_.executor(), Into(result), {.deadline = soon});
  while (std::chrono::steady_clock::now() < soon) std::this_thread::yield();
  queue_.RunAll();
  EXPECT_EQ(CodeOf(result), absl::StatusCode::kDeadlineExceeded);
}

// Any number of asks, of any keys, from any callback.
TEST_F(AsyncTest, APoolOfOneThreadIsNotDeadlocked) {
  int done = 0;
  std::function<void(int)> ask = [&](int key) {
    cache_->GetOrLoadAsync(
        key,
        [&, key] {
          if (key > 0) ask(key - 1);
          return key;
        },
        queue_.executor(),
        [&, key](Result got) {
          EXPECT_EQ(**got, key);
          ++done;
          if (key > 0) ask(key - 1);
        });
  };
  for (int i = 0; i < 3; ++i) ask(5);
  queue_.RunAll();
  EXPECT_GE(done, 18);
}

class LimitedAsyncTest : public AsyncTest {
 protected:
  LimitedAsyncTest() : AsyncTest(1) {}

  // Runs all tasks while a load has the only permit, so that they are put off.
  void RunAllWithoutAPermit() {
    cache_
        ->GetOrLoad(100,
                    [&] {
                      std::thread([&] { queue_.RunAll(); }).join();
                      return 1;
                    })
        .value();
  }
};

TEST_F(LimitedAsyncTest, TasksWithoutAPermitAreDeferredInOrder) {
  std::vector<int> order;
  std::optional<Result> results[4];
  const auto ask = [&](int key) {
    cache_->GetOrLoadAsync(
        key,
        [&order, key] {
          order.push_back(key);
          return key;
        },
        queue_.executor(), Into(results[key]));
  };
  for (int key = 0; key < 4; ++key) ask(key);
  cache_
      ->GetOrLoad(100,
                  [&] {
                    // They return although another load has the only permit.
                    std::thread([&] {
                      for (int i = 0; i < 3; ++i) queue_.RunOne();
                    }).join();
                    EXPECT_TRUE(order.empty());
                    return 1;
                  })
      .value();
  // The last one comes first in the queue, but not in turn.
  EXPECT_EQ(queue_.tasks.size(), 2u);
  queue_.RunAll();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3}));
  for (int key = 0; key < 4; ++key) EXPECT_EQ(ValueOf(results[key]), key);
}

// Who was posted for a permit and does not need it passes it on.
TEST_F(LimitedAsyncTest, APermitThatIsNotNeededIsPassedOn) {
  std::optional<Result> results[3];
  std::stop_source stop;
  for (int key = 0; key < 3; ++key) {
    LoadOptions options;
    if (key == 0) options.stop_token = stop.get_token();
    cache_->GetOrLoadAsync(
        key, [key] { return key; }, queue_.executor(), Into(results[key]), options);
  }
  RunAllWithoutAPermit();
  ASSERT_EQ(queue_.tasks.size(), 1u);  // that of key 0
  cache_->Put(1, 11);
  stop.request_stop();
  EXPECT_EQ(CodeOf(results[0]), absl::StatusCode::kCancelled);
  queue_.RunAll();
  EXPECT_EQ(ValueOf(results[1]), 11);
  EXPECT_EQ(ValueOf(results[2]), 2);
}

TEST_F(LimitedAsyncTest, ADroppedTaskPassesItsTurnOn) {
  std::optional<Result> results[2];
  for (int key = 0; key < 2; ++key) {
    cache_->GetOrLoadAsync(
        key, [key] { return key; }, queue_.executor(), Into(results[key]));
  }
  RunAllWithoutAPermit();
  ASSERT_EQ(queue_.tasks.size(), 1u);
  queue_.tasks.pop_front();
  EXPECT_EQ(CodeOf(results[0]), absl::StatusCode::kAborted);
  queue_.RunAll();
  EXPECT_EQ(ValueOf(results[1]), 1);
}

// A loader waits for a load that others have asked for before, and that has been put off.
TEST_F(LimitedAsyncTest, ALoadThatARunningOneWaitsForMayExceedTheLimit) {
  std::optional<Result> asked_before;
  cache_->GetOrLoadAsync(
      1, [] { return 1; }, queue_.executor(), Into(asked_before));
  const auto outer = cache_->GetOrLoad(100, [&]() -> absl::StatusOr<int> {
    std::thread([&] { queue_.RunAll(); }).join();
    EXPECT_FALSE(asked_before.has_value());
    auto future = cache_->GetOrLoadAsync(1, NotCalled, queue_.executor());
    std::thread([&] { queue_.RunAll(); }).join();
    return **future.get() + 1;
  });
  EXPECT_EQ(**outer, 2);
}

// The last thing that a call does is to complete others' asks: they may end the cache.
TEST_F(AsyncTest, ACallbackEndsTheCache) {
  cache_->GetOrLoadAsync(
      1, [] { return 1; }, queue_.executor(), [&](Result) { cache_.reset(); });
  queue_.RunAll();
  EXPECT_FALSE(cache_.has_value());
}

TEST_F(AsyncTest, ACallbackEndsTheCacheAfterAPut) {
  cache_->GetOrLoadAsync(1, NotCalled, queue_.executor(), [&](const Result& result) {
    EXPECT_EQ(ValueOf(result), 5);
    cache_.reset();
  });
  cache_->Put(1, 5);
  queue_.RunAll();
  EXPECT_FALSE(cache_.has_value());
}

TEST_F(AsyncTest, ACallbackEndsTheCacheAtItsDeadline) {
  const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
  cache_->GetOrLoadAsync(1, NotCalled, queue_.executor(), [&](const Result&) { cache_.reset(); },
                         {.deadline = soon});
  while (std::chrono::steady_clock::now() < soon) std::this_thread::yield();
  queue_.RunAll();
  EXPECT_FALSE(cache_.has_value());
}

TEST_F(AsyncTest, ACallbackEndsTheCacheAndStopsAnother) {
  std::stop_source stop;
  std::optional<Result> other;
  cache_->GetOrLoadAsync(
      1, [] { return 1; }, queue_.executor(),
      [&](const Result&) {
        cache_.reset();
        stop.request_stop();
      });
  cache_->GetOrLoadAsync(1, NotCalled, queue_.executor(), Into(other),
                         {.stop_token = stop.get_token()});
  queue_.RunAll();
  EXPECT_FALSE(cache_.has_value());
  EXPECT_EQ(ValueOf(other), 1);
}

TEST_F(AsyncTest, TheCacheMayEndWhenItsAsksHaveTheirResults) {
  for (int round = 0; round < RaceRounds(2'000); ++round) {
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    cache_.emplace(std::move(Cache::Create(options)).value());
    auto future = cache_->GetOrLoadAsync(
        1, [] { return 1; }, queue_.executor());
    std::thread pool([&] { queue_.RunOne(); });
    EXPECT_EQ(**future.get(), 1);
    cache_.reset();
    pool.join();
  }
}

// A listener is called by a load that has returned its permit, for which a task has waited.
TEST(AsyncListenerTest, MayWaitForADeferredTask) {
  TaskQueue queue;
  std::future<Result> future;
  std::optional<int> loaded;
  Cache::Options options = testing::WithBudget<Cache>(1);
  options.weigher = [](const int&) { return uint64_t{1}; };
  options.max_concurrent_loads = 1;
  options.removal_listener = [&](int key, RemovalCause, uint64_t) {
    if (key != 0) return;
    std::thread pool([&] { queue.RunAll(); });
    loaded = **future.get();
    pool.join();
  };
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(0, 0);
  EXPECT_TRUE(cache
                  .GetOrLoad(100,
                             [&] {
                               std::thread([&] {
                                 future = cache.GetOrLoadAsync(
                                     1, [] { return 1; }, queue.executor());
                                 queue.RunAll();  // it is put off
                               }).join();
                               return 100;
                             })
                  .ok());
  EXPECT_EQ(loaded, 1);
}

// Each of several threads asks, leaves, takes over, or changes the cache.
TEST_F(AsyncTest, Races) {
  std::atomic<int> answers{0};
  std::optional<std::stop_source> stop;
  std::mutex mutex;
  std::deque<std::function<void()>> tasks;
  const auto executor = [&](std::function<void()> task) {
    const std::lock_guard<std::mutex> lock(mutex);
    tasks.push_back(std::move(task));
  };
  const auto run = [&] {
    std::function<void()> task;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (tasks.empty()) return false;
      task = std::move(tasks.front());
      tasks.pop_front();
    }
    task();
    return true;
  };
  const auto ask = [&](bool stoppable) {
    LoadOptions options;
    if (stoppable) options.stop_token = stop->get_token();
    cache_->GetOrLoadAsync(
        1,
        [](std::stop_token token) -> absl::StatusOr<int> {
          if (token.stop_requested()) return absl::CancelledError("");
          return 1;
        },
        executor,
        [&, stoppable](Result got) {
          ++answers;
          EXPECT_TRUE(got.ok() || (stoppable && absl::IsCancelled(got.status())));
        },
        options);
  };
  const std::vector<std::function<void()>> others = {
      [&] { cache_->Invalidate(1); },
      [&] { cache_->Clear(); },
      [&] { cache_->Put(1, 3); },
      [&] { cache_->GetOrLoad(1, [] { return 2; }).value(); },
      [&] { run(); },
      [&] {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!tasks.empty()) tasks.push_back(tasks.front());  // a copy, which runs or is dropped
      },
  };
  for (const auto& other : others) {
    Race(
        RaceRounds(10'000),
        [&](int) {
          stop.emplace();
          answers = 0;
          cache_->Clear();
        },
        {[&] { ask(false); }, [&] { ask(true); }, [&] { stop->request_stop(); }, [&] { run(); },
         other},
        [&](int) {
          while (run()) {
          }
          EXPECT_EQ(answers, 2);
        });
  }
}

#ifdef __cpp_impl_coroutine
TEST_F(AsyncTest, ACoroutineAwaits) {
  std::vector<int> seen;
  // Parameters, as a lambda's captures end before its coroutine.
  const auto sum = [](Cache& cache, TaskQueue& queue,
                      std::vector<int>& to) -> testing::DetachedCoroutine {
    const Result a = co_await cache.CoGetOrLoad(
        1, [] { return 1; }, queue.executor());
    to.push_back(**a);
    const Result hit = co_await cache.CoGetOrLoad(1, NotCalled, queue.executor());
    to.push_back(**hit);
    const Result at_once = co_await cache.CoGetOrLoad(
        2, [] { return 2; }, RunInline);
    to.push_back(**at_once);
    try {
      static_cast<void>(co_await cache.CoGetOrLoad(
          3, []() -> int { throw std::runtime_error(""); }, queue.executor()));
    } catch (const std::runtime_error&) {
      to.push_back(3);
    }
    const Result failed = co_await cache.CoGetOrLoad(4, NotCalled, queue.executor());
    to.push_back(static_cast<int>(failed.status().code()));
  };
  sum(*cache_, queue_, seen);
  EXPECT_TRUE(seen.empty());
  queue_.RunOne();
  EXPECT_EQ(seen, (std::vector<int>{1, 1, 2}));
  queue_.RunOne();
  EXPECT_EQ(seen.size(), 4u);
  queue_.tasks.clear();
  ASSERT_EQ(seen.size(), 5u);
  EXPECT_EQ(seen[4], static_cast<int>(absl::StatusCode::kAborted));
}

TEST_F(AsyncTest, ACoroutineWhoseExecutorThrows) {
  std::function<void()> kept;
  std::string thrown;
  const auto ask = [](Cache& cache, std::function<void()>& task,
                      std::string& to) -> testing::DetachedCoroutine {
    try {
      static_cast<void>(co_await cache.CoGetOrLoad(1, NotCalled, [&task](const auto& posted) {
        task = posted;
        throw std::runtime_error("full");
      }));
    } catch (const std::runtime_error& error) {
      to = error.what();
    }
  };
  ask(*cache_, kept, thrown);
  EXPECT_EQ(thrown, "full");
  kept();
}
#endif

}  // namespace
}  // namespace weakcache
