// SPDX-License-Identifier: Apache-2.0
// Refreshes of a LargeObjectCache beside what else happens to their keys.
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
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

TEST_F(RefreshTest, AFailureLetsTheNextOneTry) {
  cache_.Put(1, Picture{1});
  now_ += absl::Seconds(10);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return absl::UnavailableError("down"); })), 1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, []() -> Picture { throw std::runtime_error("down"); })),
            1);
  EXPECT_EQ(VersionOf(cache_.GetOrLoad(1, [] { return Picture{2}; })), 2);
}

// A thread that has found the object stale and goes on only after another one's refresh.
TEST(RefreshClaimTest, FailsOnAnEntryThatHasLeft) {
  using Core =
      internal::CacheCore<int, Picture, internal::DefaultHash<int>, internal::DefaultEqual<int>>;
  using Change = std::function<void(Core&)>;
  const Change changes[] = {
      [](Core& core) {
        EXPECT_EQ(core.GetOrLoad(1, [] { return Picture{2}; }, {}).value()->version, 2);
      },
      [](Core& core) { core.Put(1, MakeRef<Picture>(Picture{2})); },
      [](Core& core) { core.store().Invalidate(1); },
  };
  for (const Change& change : changes) {
    absl::Time now = absl::UnixEpoch();
    Core core({1000, true, 1, 0, [](const Picture&) { return uint64_t{1}; }, nullptr,
               internal::Freshness(
                   {.clock = [&] { return now; }, .refresh_after_write = absl::Seconds(10)}),
               /*count_entry_memory=*/false},
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
