// SPDX-License-Identifier: Apache-2.0
// Refreshes of a LargeObjectCache beside what else happens to their keys.
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/last_words.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/internal/core/cache_core.h"
#include "weakcache/cache/internal/core/freshness.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Picture {
  int version;
};

using Cache = LargeObjectCache<int, Picture>;

// A cache whose objects are due for a refresh ten seconds after they came, by a clock of its own.
class RefreshTest : public ::testing::Test {
 protected:
  Cache::Options Refreshing() {
    Cache::Options options = testing::WithBudget<Cache>(1000);
    options.shards = 1;
    options.refresh_after_write = absl::Seconds(10);
    options.clock = [this] { return now_; };
    return options;
  }

  absl::Time now_ = absl::UnixEpoch();
  Cache cache_ = std::move(Cache::Create(Refreshing())).value();
};

int VersionOf(const absl::StatusOr<Ref<Picture>>& picture) { return picture.value()->version; }

TEST_F(RefreshTest, AnObjectThatIsPutMeanwhileWins) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  const auto refreshed = cache_.GetOrLoad(1, [&] {
    cache_.Put(1, Picture{2});
    return Picture{3};
  });
  EXPECT_EQ(VersionOf(refreshed), 2);
  EXPECT_EQ(cache_.Get(1), refreshed.value());
  cache_.CheckInvariantsForTesting();
}

TEST_F(RefreshTest, ACallerThatMayNotWaitGetsTheStaleObject) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  const auto not_called = [] {
    ADD_FAILURE();
    return Picture{2};
  };
  const auto past = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, not_called, {.deadline = past})), 1);
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, not_called, {.stop_token = stopped.get_token()})), 1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{3}; })), 3);
}

TEST_F(RefreshTest, AnEnteredObjectEndsTheFailureOfALoadBesideIt) {
  Cache::Options options = Refreshing();
  options.expire_after_write = absl::Seconds(20);
  options.stale_if_error = absl::Hours(1);
  options.failure_ttl = [](const absl::Status&) { return absl::Hours(1); };
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  const auto refreshed = cache.GetOrLoad(1, [&] {
    now_ += absl::Seconds(15);  // the old object has expired
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return absl::NotFoundError(""); })), 1);
    return Picture{3};
  });
  EXPECT_EQ(VersionOf(refreshed), 3);
  {
    const Ref<Picture> entered = cache.Get(1);
    ASSERT_NE(entered, nullptr);
    EXPECT_EQ(entered->version, 3);
  }
  now_ += absl::Seconds(20);  // it has expired, too
  cache.Purge();
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{4}; })), 4);
}

TEST_F(RefreshTest, AnObjectThatIsLoadedMeanwhileWins) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  const auto refreshed = cache_.GetOrLoad(1, [&] {
    cache_.Invalidate(1);
    EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{2}; })), 2);
    return Picture{3};
  });
  EXPECT_EQ(VersionOf(refreshed), 2);
  EXPECT_EQ(cache_.Get(1), refreshed.value());
}

TEST_F(RefreshTest, NothingIsKeptIfTheKeyIsInvalidatedMeanwhile) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  const auto refreshed = cache_.GetOrLoad(1, [&] {
    cache_.Invalidate(1);
    return Picture{3};
  });
  EXPECT_EQ(VersionOf(refreshed), 3);
  EXPECT_EQ(cache_.Get(1), nullptr);
}

// Refreshes key 1, beside two others, on another thread, and has the refresh end while
// `invalidate(on_visit)` is running: when `on_visit()` is called.
void RefreshBeside(Cache& cache, absl::Time& now,
                   const std::function<void(const std::function<void()>&)>& invalidate) {
  for (const int key : {2, 1, 3}) cache.Put(key, Picture{key});
  now += absl::Seconds(10);
  std::promise<void> loading;
  std::promise<void> go_on;
  std::thread refreshing([&] {
    const auto load = [&] {
      loading.set_value();
      go_on.get_future().wait();
      return Picture{10};
    };
    EXPECT_TRUE(cache.GetOrLoad(1, load).ok());
  });
  loading.get_future().wait();
  const auto end_refresh = [&] {
    if (!refreshing.joinable()) return;
    go_on.set_value();
    refreshing.join();
  };
  invalidate(end_refresh);
  EXPECT_FALSE(refreshing.joinable());
  end_refresh();
  cache.CheckInvariantsForTesting();
}

TEST_F(RefreshTest, InvalidateIfByTheKeyCancelsIt) {
  RefreshBeside(cache_, now_, [&](const auto& on_visit) {
    cache_.InvalidateIf([&](int key) {
      if (key != 1) on_visit();  // before or after key 1
      return true;
    });
  });
  EXPECT_TRUE(cache_.empty());
}

TEST_F(RefreshTest, InvalidateIfByTheObjectCancelsIt) {
  RefreshBeside(cache_, now_, [&](const auto& on_visit) {
    cache_.InvalidateIf([&](int key, const Ref<Picture>&) {
      if (key != 1) on_visit();
      return true;
    });
  });
  EXPECT_TRUE(cache_.empty());
}

TEST_F(RefreshTest, InvalidateIfLeavesRefreshesOfOtherKeysAlone) {
  RefreshBeside(cache_, now_, [&](const auto& on_visit) {
    cache_.InvalidateIf([&](int key) {
      if (key != 1) on_visit();
      return key != 1;
    });
  });
  EXPECT_EQ(cache_.Get(1)->version, 10);
  EXPECT_EQ(cache_.size(), 1);
}

// It can't know what would be said about the new object. The key never has two objects.
TEST_F(RefreshTest, AfterInvalidateIfByTheObjectTheStaleOneStays) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1,
                                       [&] {
                                         cache_.InvalidateIf(
                                             [](int, const Ref<Picture>&) { return false; });
                                         return Picture{2};
                                       })),
            1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{3}; })), 3);
}

TEST_F(RefreshTest, AfterAFailureALaterOneTries) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return absl::UnavailableError("down"); })), 1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{2}; })), 1);
  now_ += absl::Seconds(1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, []() -> Picture { throw std::runtime_error("down"); })),
            1);
  now_ += absl::Seconds(1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{2}; })), 1);
  now_ += absl::Seconds(1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{2}; })), 2);
}

// Asks once in each second, with a source that is down, and returns when it was asked.
std::vector<int> AttemptsIn(Cache& cache, absl::Time& now, int key, int seconds) {
  std::vector<int> attempts;
  for (int second = 0; second < seconds; ++second, now += absl::Seconds(1)) {
    const auto load = [&] {
      attempts.push_back(second);
      return absl::UnavailableError("down");
    };
    EXPECT_TRUE(cache.GetOrLoad(key, load).ok());
    EXPECT_TRUE(cache.GetOrLoad(key, load).ok());
  }
  return attempts;
}

TEST_F(RefreshTest, FailuresBackOff) {
  Cache::Options options = Refreshing();
  options.refresh_backoff = {.initial = absl::Seconds(1), .limit = absl::Seconds(6), .jitter = 0};
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(1, Picture{1});
  EXPECT_EQ(AttemptsIn(cache, now_, 1, 30), (std::vector<int>{10, 11, 13, 17, 23, 29}));
  now_ += absl::Seconds(6);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{2}; })), 2);
  // It begins again with the new object.
  EXPECT_EQ(AttemptsIn(cache, now_, 1, 14), (std::vector<int>{10, 11, 13}));
  // However many there were.
  for (int i = 0; i < 1000; ++i) {
    now_ += absl::Seconds(6);
    EXPECT_EQ(AttemptsIn(cache, now_, 1, 1).size(), 1u);
  }
}

TEST_F(RefreshTest, BackingOffIsSpread) {
  Cache::Options options = Refreshing();
  options.refresh_backoff = {
      .initial = absl::Seconds(100), .limit = absl::Seconds(100), .jitter = 0.5};
  Cache cache = std::move(Cache::Create(options)).value();
  for (int key = 0; key < 100; ++key) cache.Put(key, Picture{1});
  now_ += absl::Seconds(10);
  for (int key = 0; key < 100; ++key) AttemptsIn(cache, now_, key, 0);
  int attempts = 0;
  const auto ask_for_all = [&] {
    attempts = 0;
    for (int key = 0; key < 100; ++key) {
      EXPECT_TRUE(cache
                      .GetOrLoad(key,
                                 [&] {
                                   ++attempts;
                                   return absl::UnavailableError("down");
                                 })
                      .ok());
    }
  };
  ask_for_all();
  EXPECT_EQ(attempts, 100);
  now_ += absl::Seconds(49);
  ask_for_all();
  EXPECT_EQ(attempts, 0);
  now_ += absl::Seconds(26);
  ask_for_all();
  EXPECT_GT(attempts, 30);
  EXPECT_LT(attempts, 70);
}

TEST_F(RefreshTest, BackingOffMayBeOff) {
  Cache::Options options = Refreshing();
  options.refresh_backoff.initial = absl::ZeroDuration();
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  EXPECT_EQ(AttemptsIn(cache, now_, 1, 1), (std::vector<int>{0, 0}));
}

TEST_F(RefreshTest, TheBackOffIsChecked) {
  const RefreshBackoff bad[] = {{-absl::Seconds(1), absl::Seconds(1), 0},
                                {absl::Seconds(2), absl::Seconds(1), 0},
                                {absl::Seconds(1), absl::Seconds(1), -1},
                                {absl::Seconds(1), absl::Seconds(1), 1.1}};
  for (const RefreshBackoff& backoff : bad) {
    Cache::Options options = Refreshing();
    options.refresh_backoff = backoff;
    EXPECT_TRUE(absl::IsInvalidArgument(Cache::Create(options).status()));
  }
}

// A cache whose refreshes are tasks that the test runs.
class BackgroundRefreshTest : public RefreshTest {
 protected:
  using Tasks = std::vector<std::function<void()>>;

  Cache::Options InBackground() {
    Cache::Options options = Refreshing();
    options.refresh_executor = [this](std::function<void()> task) {
      tasks_.push_back(std::move(task));
    };
    return options;
  }
  Cache MakeStale(Cache::Options options) {
    Cache cache = std::move(Cache::Create(std::move(options))).value();
    cache.Put(1, Picture{1});
    now_ += absl::Seconds(10);
    return cache;
  }
  void RunTasks() {
    for (auto& task : std::exchange(tasks_, Tasks())) std::exchange(task, nullptr)();
  }

  Tasks tasks_;
};

TEST_F(BackgroundRefreshTest, ALoadBesideItThatFailsLaterKeepsNoFailure) {
  Cache::Options options = InBackground();
  options.expire_after_write = absl::Seconds(20);
  options.stale_if_error = absl::Hours(1);
  options.failure_ttl = [](const absl::Status&) { return absl::Hours(1); };
  Cache cache = MakeStale(std::move(options));
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{2}; })), 1);
  now_ += absl::Seconds(10);  // the old object has expired
  EXPECT_TRUE(cache
                  .GetOrLoad(1,
                             [this] {
                               RunTasks();
                               return absl::NotFoundError("");
                             })
                  .ok());
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{3}; })), 2);
  now_ += absl::Seconds(20);  // it has expired, too
  cache.Purge();
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{4}; })), 4);
}

TEST_F(BackgroundRefreshTest, ALoadBesideItEntersItsObjectIfTheOtherHasGone) {
  Cache::Options options = InBackground();
  options.expire_after_write = absl::Seconds(20);
  options.stale_if_error = absl::Hours(1);
  Cache cache = std::move(Cache::Create(std::move(options))).value();
  cache.SetBudget(0);
  const Ref<Picture> held = cache.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{2}; })), 1);
  now_ += absl::Seconds(10);  // the old object has expired
  const auto loaded = cache.GetOrLoad(1, [this] {
    RunTasks();
    return Picture{3};
  });
  EXPECT_EQ(VersionOf(loaded), 3);
  EXPECT_EQ(cache.Get(1), loaded.value());
}

TEST_F(BackgroundRefreshTest, EverybodyGetsTheOldObjectMeanwhile) {
  Cache cache = MakeStale(InBackground());
  const auto load = [] { return Picture{2}; };
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load)), 1);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load)), 1);
  EXPECT_EQ(tasks_.size(), 1u);
  EXPECT_EQ(cache.Stats().loads, 0u);
  RunTasks();
  EXPECT_EQ(cache.Stats().loads, 1u);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load)), 2);
  EXPECT_TRUE(tasks_.empty());
  cache.CheckInvariantsForTesting();
}

// It reads the time once, and not the object's.
TEST_F(BackgroundRefreshTest, AHitMeanwhileCostsAsMuchAsAnyOther) {
  int reads = 0;
  Cache::Options options = InBackground();
  options.clock = [&] {
    ++reads;
    return now_;
  };
  options.refresh_backoff.initial = absl::ZeroDuration();
  Cache cache = MakeStale(options);
  const auto reads_of_hit = [&] {
    reads = 0;
    EXPECT_NE(cache.Get(1), nullptr);
    return reads;
  };
  EXPECT_GT(reads_of_hit(), 1);
  cache.GetOrLoad(1, []() -> absl::StatusOr<Picture> { return absl::UnavailableError(""); })
      .IgnoreError();
  EXPECT_EQ(reads_of_hit(), 1);
  RunTasks();
  EXPECT_GT(reads_of_hit(), 1);  // one is due again
}

TEST_F(BackgroundRefreshTest, TheLoaderOutlivesTheCall) {
  Cache cache = MakeStale(InBackground());
  const auto next = [&] {
    EXPECT_EQ(tasks_.size(), 1u);
    RunTasks();
    const int version = cache.Get(1)->version;
    now_ += absl::Seconds(10);
    return version;
  };
  {
    const std::string text = "a text that is too long for a short string";
    const auto copied = [text](int key) { return Picture{key + static_cast<int>(text.size())}; };
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, copied)), 1);
  }
  EXPECT_EQ(next(), 43);
  cache.GetOrLoad(1, [version = std::make_unique<int>(7)] { return Picture{*version}; })
      .IgnoreError();
  EXPECT_EQ(next(), 7);
  cache
      .GetOrLoad(1,
                 [version = std::make_unique<int>(8)](std::stop_token token) {
                   EXPECT_FALSE(token.stop_requested());
                   return Picture{*version};
                 })
      .IgnoreError();
  EXPECT_EQ(next(), 8);
}

// One that can't be copied is called at once.
TEST_F(BackgroundRefreshTest, ALoaderThatCannotIsCalledInTheCall) {
  Cache cache = MakeStale(InBackground());
  const auto load = [version = std::make_unique<int>(7)] { return Picture{*version}; };
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load)), 7);
  EXPECT_TRUE(tasks_.empty());
}

TEST_F(BackgroundRefreshTest, ATaskThatFailsOrIsDroppedBacksOff) {
  Cache cache = MakeStale(InBackground());
  const auto load = []() -> Picture { throw std::runtime_error("down"); };
  for (const bool dropped : {false, true}) {
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load)), 1);
    ASSERT_EQ(tasks_.size(), 1u);
    if (dropped) {
      tasks_.clear();
    } else {
      RunTasks();
    }
    EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load)), 1);
    EXPECT_TRUE(tasks_.empty());
    now_ += absl::Seconds(dropped ? 2 : 1);
  }
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, load)), 1);
  EXPECT_EQ(tasks_.size(), 1u);
}

TEST_F(BackgroundRefreshTest, AnExecutorMayThrow) {
  Cache::Options options = Refreshing();
  options.refresh_executor = [](const std::function<void()>&) { throw std::runtime_error("full"); };
  Cache cache = MakeStale(options);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{2}; })), 1);
}

TEST_F(BackgroundRefreshTest, WhatHasLeftIsNotLoaded) {
  Cache cache = MakeStale(InBackground());
  EXPECT_TRUE(cache.GetOrLoad(1, [] { return Picture{2}; }).ok());
  cache.Invalidate(1);
  RunTasks();
  EXPECT_EQ(cache.Stats().loads, 0u);
  EXPECT_TRUE(cache.empty());
}

TEST_F(BackgroundRefreshTest, NothingIsPostedWithoutAPermit) {
  Cache::Options options = InBackground();
  options.max_concurrent_loads = 1;
  Cache cache = MakeStale(options);
  const auto load = [&] {
    std::thread([&] {
      EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{2}; })), 1);
    }).join();
    return Picture{3};
  };
  EXPECT_TRUE(cache.GetOrLoad(2, load).ok());
  EXPECT_TRUE(tasks_.empty());
  EXPECT_TRUE(cache.GetOrLoad(1, [] { return Picture{2}; }).ok());
  EXPECT_EQ(tasks_.size(), 1u);
}

TEST_F(BackgroundRefreshTest, AnAsynchronousAskHasItDoneByItsOwnExecutor) {
  Cache cache = MakeStale(Refreshing());
  Tasks tasks;
  const auto ask = [&](auto loader) {
    return VersionOf(
        cache.GetOrLoadAsync(1, loader, [&](auto task) { tasks.push_back(task); }).get());
  };
  EXPECT_EQ(ask([] { return Picture{2}; }), 1);
  EXPECT_EQ(ask([] { return Picture{3}; }), 1);
  ASSERT_EQ(tasks.size(), 1u);
  std::exchange(tasks, Tasks())[0]();
  EXPECT_EQ(cache.Get(1)->version, 2);
  now_ += absl::Seconds(10);
  EXPECT_EQ(ask([](std::stop_token) { return Picture{4}; }), 2);
  ASSERT_EQ(tasks.size(), 1u);
  tasks[0]();
  EXPECT_EQ(cache.Get(1)->version, 4);
}

TEST_F(BackgroundRefreshTest, ATaskMayOutliveTheCache) {
  for (const bool in_external_slot : {false, true}) {
    for (const bool dropped : {false, true}) {
      int loads = 0;
      {
        Cache cache = MakeStale(InBackground());
        if (in_external_slot) {
          cache.Put(1, MakeRef<Picture>(Picture{1}));
          now_ += absl::Seconds(10);
        }
        EXPECT_TRUE(cache
                        .GetOrLoad(1,
                                   [&] {
                                     ++loads;
                                     return Picture{2};
                                   })
                        .ok());
        EXPECT_EQ(tasks_.size(), 1u);
      }
      if (dropped) {
        tasks_.clear();
      } else {
        RunTasks();
      }
      EXPECT_EQ(loads, 0);
    }
  }
}

TEST_F(BackgroundRefreshTest, ATaskMayOutliveACacheWhoseObjectIsInUse) {
  for (const bool dropped : {false, true}) {
    int loads = 0;
    absl::StatusOr<Ref<Picture>> used;
    {
      Cache cache = MakeStale(InBackground());
      used = cache.GetOrLoad(1, [&] { return Picture{++loads}; });
      ASSERT_EQ(tasks_.size(), 1u);
    }
    dropped ? tasks_.clear() : RunTasks();
    EXPECT_EQ(loads, 0);
    EXPECT_EQ(VersionOf(used), 1);
  }
}

TEST_F(BackgroundRefreshTest, AnObjectInUseThatHasLeftIsNotLoadedAnew) {
  Cache cache = MakeStale(InBackground());
  int loads = 0;
  const auto used = cache.GetOrLoad(1, [&] { return Picture{++loads}; });
  ASSERT_EQ(tasks_.size(), 1u);
  EXPECT_TRUE(cache.Invalidate(1));
  RunTasks();
  EXPECT_EQ(loads, 0);
  EXPECT_EQ(cache.Get(1), nullptr);
}

TEST_F(BackgroundRefreshTest, TheEndWaitsForATaskThatRuns) {
  std::atomic<bool> loading = false;
  std::atomic<bool> ending = false;
  std::atomic<bool> loaded = false;
  std::thread running;
  {
    Cache cache = MakeStale(InBackground());
    const auto load = [&] {
      loading = true;
      while (!ending) std::this_thread::yield();
      for (int i = 0; i < 1000; ++i) std::this_thread::yield();
      loaded = true;
      return Picture{2};
    };
    EXPECT_TRUE(cache.GetOrLoad(1, load).ok());
    running = std::thread([&] { RunTasks(); });
    while (!loading) std::this_thread::yield();
    ending = true;
  }
  EXPECT_TRUE(loaded);
  running.join();
}

// An object that the task replaces ends the cache.
// An object that calls a function when it is destroyed, unless it has been moved from.
using EnderCache = LargeObjectCache<int, testing::CallsAtEnd>;

class RefreshOfEndersTest : public BackgroundRefreshTest {
 protected:
  std::unique_ptr<EnderCache> MakeEnderCache() {
    EnderCache::Options options = testing::WithBudget<EnderCache>(1000);
    options.weigher = [](const testing::CallsAtEnd&) { return uint64_t{1}; };
    options.refresh_after_write = absl::Seconds(10);
    options.clock = [this] { return now_; };
    options.refresh_executor = [this](std::function<void()> task) {
      tasks_.push_back(std::move(task));
    };
    return std::make_unique<EnderCache>(std::move(EnderCache::Create(options)).value());
  }
  void PostRefresh(EnderCache& cache) {
    now_ += absl::Seconds(10);
    EXPECT_TRUE(cache.GetOrLoad(1, [] { return testing::CallsAtEnd(); }).ok());
    EXPECT_EQ(tasks_.size(), 1u);
  }
};

TEST_F(RefreshOfEndersTest, ATaskMayEndTheCache) {
  for (const bool in_external_slot : {false, true}) {
    auto cache = MakeEnderCache();
    const auto at_end = [&] { cache.reset(); };
    if (in_external_slot) {
      cache->Put(1, MakeRef<testing::CallsAtEnd>(at_end));
    } else {
      cache->Put(1, testing::CallsAtEnd(at_end));
    }
    PostRefresh(*cache);
    RunTasks();
    EXPECT_EQ(cache, nullptr);
    tasks_.clear();
  }
}

// As an object's destructor may use the cache, it must not come after the cache's end.
TEST_F(RefreshOfEndersTest, AQueuedTaskKeepsNoObjectAlive) {
  for (const bool ends : {false, true}) {
    auto cache = MakeEnderCache();
    EnderCache* const used = cache.get();
    int ended = 0;
    cache->Put(1, testing::CallsAtEnd([&] {
                 ++ended;
                 EXPECT_EQ(used->Get(2), nullptr);
               }));
    PostRefresh(*cache);
    if (ends) {
      cache.reset();
    } else {
      EXPECT_TRUE(cache->Invalidate(1));
    }
    EXPECT_EQ(ended, 1);
    RunTasks();
    tasks_.clear();
  }
}

TEST_F(BackgroundRefreshTest, TellsIfItCannotBePosted) {
  Cache::Options options = InBackground();
  options.refresh_executor = [](const std::function<void()>&) {
    throw std::runtime_error("the pool is full");
  };
  Cache cache = MakeStale(options);
  EXPECT_EQ(cache.Refresh(1, [] { return Picture{2}; }).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{2}; })), 1);
}

TEST_F(RefreshTest, OfAnExpiredObjectFailsAsItsLoad) {
  Cache::Options options = testing::WithBudget<Cache>(1000);
  options.clock = [this] { return now_; };
  options.expire_after_write = absl::Seconds(10);
  options.stale_if_error = absl::Hours(1);
  options.weigher = [](const Picture&) { return uint64_t{1}; };
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(1, Picture{1});
  now_ += absl::Seconds(20);
  EXPECT_EQ(cache.Refresh(1, [] { return absl::UnavailableError("down"); }),
            absl::UnavailableError("down"));
  EXPECT_EQ(cache.Stats().stale_served, 0u);
  EXPECT_TRUE(cache.Refresh(1, [] { return Picture{2}; }).ok());
  EXPECT_EQ(VersionOf(cache.GetOrLoad(1, [] { return Picture{3}; })), 2);
}

TEST_F(RefreshTest, MayBeAskedForAtAnyAge) {
  cache_.Put(1, Picture{1});
  EXPECT_TRUE(cache_.Refresh(1, [] { return Picture{2}; }).ok());
  EXPECT_EQ(cache_.Get(1)->version, 2);
  EXPECT_EQ(cache_.Refresh(1, [] { return absl::UnavailableError("down"); }),
            absl::UnavailableError("down"));
  EXPECT_EQ(cache_.Refresh(1, []() -> Picture { throw std::runtime_error("down"); }).code(),
            absl::StatusCode::kUnknown);
  EXPECT_EQ(cache_.Get(1)->version, 2);
  EXPECT_TRUE(cache_.Refresh(1, [](std::stop_token) { return Picture{3}; }).ok());
  EXPECT_EQ(cache_.Get(1)->version, 3);
  // What has failed early is still due when it was.
  EXPECT_FALSE(cache_.Refresh(1, [] { return absl::UnavailableError("down"); }).ok());
  now_ += absl::Seconds(9);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{4}; })), 3);
  now_ += absl::Seconds(1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{4}; })), 4);
}

TEST_F(RefreshTest, OfAnAbsentObjectIsALoad) {
  EXPECT_TRUE(cache_.Refresh(1, [] { return Picture{1}; }).ok());
  EXPECT_EQ(cache_.Get(1)->version, 1);
  Cache::Options options = Refreshing();
  options.failure_ttl = [](const absl::Status&) { return absl::Hours(1); };
  Cache cache = std::move(Cache::Create(options)).value();
  EXPECT_FALSE(cache.GetOrLoad(1, [] { return absl::UnavailableError("down"); }).ok());
  EXPECT_TRUE(cache.Refresh(1, [] { return Picture{2}; }).ok());
  EXPECT_EQ(cache.Get(1)->version, 2);
}

TEST_F(BackgroundRefreshTest, MayBeAskedFor) {
  Cache cache = MakeStale(InBackground());
  cache.Put(1, Picture{1});
  EXPECT_TRUE(cache.Refresh(1, [] { return Picture{2}; }).ok());
  EXPECT_TRUE(cache.Refresh(1, [] { return Picture{3}; }).ok());
  EXPECT_EQ(tasks_.size(), 1u);
  EXPECT_EQ(cache.Get(1)->version, 1);
  RunTasks();
  EXPECT_EQ(cache.Get(1)->version, 2);
}

TEST_F(RefreshTest, WaitsForNoPermit) {
  Cache::Options options = Refreshing();
  options.max_concurrent_loads = 1;
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(1, Picture{1});
  const auto load = [&] {
    std::thread([&] {
      EXPECT_TRUE(absl::IsUnavailable(cache.Refresh(1, [] { return Picture{2}; })));
    }).join();
    return Picture{3};
  };
  EXPECT_TRUE(cache.GetOrLoad(2, load).ok());
}

// A thread that has found the object stale and goes on only after another one's refresh.
TEST(RefreshClaimTest, FailsOnAnEntryThatHasLeft) {
  using Core =
      internal::CacheCore<int, Picture, internal::DefaultHash<int>, internal::DefaultEqual<int>>;
  using Change = std::function<void(Core&)>;
  const Change changes[] = {
      [](Core& core) {
        EXPECT_EQ(core.asks().GetOrLoad(1, [] { return Picture{2}; }, {}).value()->version, 2);
      },
      [](Core& core) { core.Put(1, MakeRef<Picture>(Picture{2})); },
      [](Core& core) { core.store().Invalidate(1); },
  };
  for (const Change& change : changes) {
    absl::Time now = absl::UnixEpoch();
    Core core({1000, true, 1, 0, [](const Picture&) { return uint64_t{1}; }, nullptr,
               internal::Freshness(
                   {.clock = [&] { return now; }, .refresh_after_write = absl::Seconds(10)}),
               /*count_entry_memory=*/false, ObjectValue::kHits},
              {}, {});
    core.Put(1, MakeRef<Picture>(Picture{1}));
    now += absl::Seconds(10);
    Core::Store::LookupKeyOf<int> key = 1;
    Core::Store::Outcome late(core.store().freshness());
    const Ref<Picture> found = core.store().Find(core.store().shards().Locate(key), key, late);
    EXPECT_EQ(found->version, 1);
    EXPECT_TRUE(late.refresh_due());
    change(core);
    EXPECT_FALSE(late.entry()->refresh.Claim());
  }
}

TEST_F(RefreshTest, AThreadMayExitInTheLoader) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  std::thread([&] {
    cache_.GetOrLoad(1, []() -> Picture { pthread_exit(nullptr); }).IgnoreError();
  }).join();
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{2}; })), 2);
  cache_.CheckInvariantsForTesting();
}

TEST_F(RefreshTest, AThreadMayExitInATask) {
  std::function<void()> task;
  auto future = cache_.GetOrLoadAsync(
      1, []() -> Picture { pthread_exit(nullptr); }, [&](auto new_task) { task = new_task; });
  std::thread(std::exchange(task, nullptr)).join();
  EXPECT_EQ(future.get().status().code(), absl::StatusCode::kAborted);
}

// Who waits for a thread that exits in its loader is told so, and gets no null for an object.
TEST_F(RefreshTest, ThoseThatWaitForAThreadThatExitsGetAnError) {
  for (int round = 0; round < 20; ++round) {
    const uint64_t misses = cache_.Stats().misses;
    std::atomic<bool> loading = false;
    std::thread exiting([&] {
      const auto load = [&]() -> Picture {
        loading = true;
        while (cache_.Stats().misses < misses + 2) std::this_thread::yield();
        for (int i = 0; i < 100; ++i) std::this_thread::yield();  // let the other one join
        pthread_exit(nullptr);
      };
      cache_.GetOrLoad(1, load).IgnoreError();
    });
    while (!loading) std::this_thread::yield();
    const auto loaded = cache_.GetOrLoad(1, [] { return Picture{2}; });
    exiting.join();
    if (loaded.ok()) {
      EXPECT_NE(loaded.value(), nullptr);
    } else {
      EXPECT_EQ(loaded.status().code(), absl::StatusCode::kAborted);
    }
    cache_.Invalidate(1);
  }
}

// A clock of the user's that is set back does not keep an object for longer than its time.
TEST(ClockTest, MayBeSetBack) {
  absl::Time now = absl::UnixEpoch();
  for (const bool by_access : {false, true}) {
    Cache::Options options = testing::WithBudget<Cache>(1000);
    (by_access ? options.expire_after_access : options.expire_after_write) = absl::Seconds(10);
    options.clock = [&] { return now; };
    Cache cache = std::move(Cache::Create(options)).value();
    cache.Put(1, Picture{1});
    now -= absl::Hours(1);
    EXPECT_NE(cache.Get(1), nullptr);
    now += absl::Seconds(9);
    EXPECT_NE(cache.Peek(1), nullptr);
    now += absl::Seconds(1);
    EXPECT_EQ(cache.Get(1), nullptr);
  }
}

// A look-up that is delayed after it has read the clock finds objects that are newer, and makes
// them no older.
TEST(ClockTest, ADelayedLookUpLeavesTimesAsTheyAre) {
  for (const bool by_access : {false, true}) {
    absl::Time now = absl::UnixEpoch();
    std::function<void()> delay;
    Cache::Options options = testing::WithBudget<Cache>(1000);
    (by_access ? options.expire_after_access : options.expire_after_write) = absl::Seconds(10);
    options.clock = [&] {
      const absl::Time read = now;
      if (const auto others = std::exchange(delay, nullptr)) others();
      return read;
    };
    Cache cache = std::move(Cache::Create(options)).value();
    cache.Put(1, Picture{1});
    delay = [&] {
      now += absl::Seconds(8);
      by_access ? cache.Get(1) : cache.Put(1, Picture{2});
    };
    EXPECT_NE(cache.Get(1), nullptr);
    now += absl::Seconds(8);
    EXPECT_NE(cache.Peek(1), nullptr);
    now += absl::Seconds(2);
    EXPECT_EQ(cache.Get(1), nullptr);
  }
}

// By default ages go by a clock that nobody sets.
TEST(ClockTest, IsMonotonicByDefault) {
  const internal::Freshness freshness({.expire_after_write = absl::Seconds(1)});
  const auto monotonic = [] {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const int64_t before = monotonic();
  const int64_t now = freshness.Now();
  EXPECT_LE(before, now);
  EXPECT_LE(now, monotonic());
}

}  // namespace
}  // namespace weakcache
