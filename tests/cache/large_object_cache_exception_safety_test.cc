// SPDX-License-Identifier: Apache-2.0
// LargeObjectCache when something goes wrong, or at an awkward moment.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocatedBytes;

struct Blob {
  explicit Blob(int id, uint64_t size = 10) : id(id), size(size) { ++live; }
  Blob(Blob&& other) noexcept
      : id(other.id), size(other.size), at_end(std::exchange(other.at_end, nullptr)) {
    ++live;
  }
  Blob& operator=(Blob&&) = delete;
  ~Blob() {
    --live;
    if (at_end) at_end();
  }
  uint64_t byte_size() const { return size; }

  int id;
  uint64_t size;
  std::function<void()> at_end;
  inline static std::atomic<int> live{0};
};
using Cache = LargeObjectCache<int, Blob>;

Cache MakeCache(Cache::Options options) {
  options.shards = 1;
  return std::move(Cache::Create(std::move(options))).value();
}
Cache MakeCache(uint64_t budget) {
  Cache::Options options = testing::WithBudget<Cache>(budget);
  return MakeCache(options);
}

absl::StatusOr<Blob> FailToLoad() { return absl::NotFoundError("no"); }

// Calls `fail()` often, twice: the second time takes no more memory than the first has left.
template <typename Fail>
void ExpectTakesNoMemory(Fail&& fail) {
  const auto fail_often = [&] {
    for (int i = 0; i < 1000; ++i) fail(i);
  };
  fail_often();
  const int64_t before = LiveAllocatedBytes();
  fail_often();
  EXPECT_LE(LiveAllocatedBytes(), before);
}

// Hand-written caches fail here: what fails is left behind, a little each time.
TEST(LargeObjectCacheFailureTest, FailedLoadsTakeNoMemory) {
  Cache cache = MakeCache(100);
  ExpectTakesNoMemory([&](int key) {
    EXPECT_FALSE(cache.GetOrLoad(key, FailToLoad).ok());
    EXPECT_THROW(
        static_cast<void>(cache.GetOrLoad(key, []() -> Blob { throw std::runtime_error("no"); })),
        std::runtime_error);
  });
  cache.CheckInvariantsForTesting();
}
TEST(LargeObjectCacheFailureTest, FailedRefreshesTakeNoMemory) {
  absl::Time now = absl::UnixEpoch();
  Cache::Options options = testing::WithBudget<Cache>(100);
  options.clock = [&] { return now; };
  options.refresh_after_write = absl::Seconds(1);
  Cache cache = MakeCache(options);
  const Ref<Blob> old = cache.Put(1, Blob(1));
  ExpectTakesNoMemory([&](int) {
    now += absl::Minutes(2);  // longer than any back-off
    EXPECT_EQ(cache.GetOrLoad(1, FailToLoad).value(), old);
  });
  EXPECT_EQ(cache.Stats().load_failures, 2000u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheFailureTest, AFailingAllocationKeepsNoReservation) {
  constexpr uint64_t kBudget = 1'000'000;
  Cache cache = MakeCache(kBudget);
  constexpr int kKeys = 300;
  std::vector<Ref<Blob>> held;
  held.reserve(kKeys);
  int failures = 0;
  for (int key = 0; key < kKeys; ++key) {
    for (int countdown = 1;; ++countdown) {
      const auto load = [&] {
        auto blob = std::make_unique<Blob>(key);
        testing::FailAllocation(countdown);
        return blob;
      };
      try {
        held.push_back(cache.GetOrLoad(key, load, {.weight_estimate = 1000}).value());
        testing::FailAllocation(0);
        break;
      } catch (const std::bad_alloc&) {
        testing::FailAllocation(0);
        ++failures;
        EXPECT_EQ(cache.Peek(key), nullptr);
      }
    }
  }
  EXPECT_GT(failures, 0);  // the index grew
  cache.CheckInvariantsForTesting();
  held.clear();
  cache.Clear();
  cache.Put(-1, Blob(-1, kBudget));
  EXPECT_EQ(cache.Stats().bytes_retained, kBudget);
  EXPECT_EQ(Blob::live, 1);
}

// A destructor that runs at the cache's end finds an object that is in use: it is not retained, as
// nobody would let go of it.
TEST(LargeObjectCacheFailureTest, NothingIsRetainedAtTheEnd) {
  std::optional<Cache> cache(MakeCache(15));
  const Ref<Blob> used = cache->Put(1, Blob(1));
  bool found = false;
  {
    Blob last(2);
    // Not by `cache`, which is being reset then.
    last.at_end = [&found, &used, ending = &*cache] { found = ending->Get(1) == used; };
    cache->Trim(0);
    cache->Put(2, std::move(last));
  }
  EXPECT_EQ(cache->Stats().bytes_retained, 10u);
  cache.reset();
  EXPECT_TRUE(found);
  EXPECT_EQ(used.use_count(), 1u);
}

struct Deaths {
  explicit Deaths(Cache::Options* options) {
    *options = testing::WithBudget<Cache>(100);
    options->removal_listener = [this](int, RemovalCause cause, uint64_t) {
      told.push_back(cause);
      if (on_told) on_told();
    };
  }
  std::vector<RemovalCause> told;
  std::function<void()> on_told;
};

TEST(LargeObjectCacheFailureTest, TellsOfTheDeathOfWhatTheListenerItselfKept) {
  Cache::Options options;
  Deaths deaths(&options);
  Cache cache = MakeCache(options);
  Ref<Blob> kept;
  deaths.on_told = [&] { kept = cache.Peek(1); };
  cache.Put(1, Blob(1));
  cache.Trim(0);
  ASSERT_NE(kept, nullptr);
  deaths.on_told = nullptr;
  kept.reset();
  EXPECT_EQ(deaths.told, std::vector<RemovalCause>({RemovalCause::kBudget, RemovalCause::kDied}));
  EXPECT_EQ(cache.Stats().removals_died, 1u);
}

// A destructor that looks for its own object is no use of it.
TEST(LargeObjectCacheFailureTest, TellsNothingOfTheDeathOfWhatNobodyUsed) {
  Cache::Options options;
  Deaths deaths(&options);
  Cache cache = MakeCache(options);
  for (const bool linked : {false, true}) {
    deaths.told.clear();
    Blob blob(1);
    blob.at_end = [&] { EXPECT_EQ(cache.Get(1), nullptr); };
    if (linked) {
      cache.Put(1, MakeRef<Blob>(std::move(blob)));
    } else {
      cache.Put(1, std::move(blob));
    }
    cache.Trim(0);
    EXPECT_EQ(deaths.told, std::vector<RemovalCause>({RemovalCause::kBudget}));
  }
  EXPECT_EQ(cache.Stats().removals_died, 0u);
  EXPECT_EQ(Blob::live, 0);
}

// The loaders of two caches use each other's cache, of which only one limits them.
TEST(LargeObjectCacheFailureTest, ALimitMeetsACacheWithout) {
  Cache unlimited = MakeCache(100);
  Cache::Options options = testing::WithBudget<Cache>(100);
  options.max_concurrent_loads = 1;
  Cache limited = MakeCache(options);
  std::atomic<int> loading{0};
  const auto both_load = [&] {
    ++loading;
    while (loading < 2) std::this_thread::yield();
  };
  std::thread other([&] {
    static_cast<void>(unlimited.GetOrLoad(1, [&] {
      both_load();
      static_cast<void>(limited.GetOrLoad(1, [] { return Blob(1); }));
      return Blob(1);
    }));
  });
  const auto result = limited.GetOrLoad(2, [&] {
    both_load();
    EXPECT_EQ(unlimited.GetOrLoad(1, [] { return Blob(3); }).value()->id, 1);
    return Blob(2);
  });
  other.join();
  EXPECT_EQ(result.value()->id, 2);
}

// An object that was put is newer than what a load under way loads, also if it has gone already.
TEST(LargeObjectCacheFailureTest, APutObjectIsNotFollowedByAnOlderOne) {
  Cache cache = MakeCache(100);
  const auto loaded = cache.GetOrLoad(1, [&] {
    Blob old(100);
    cache.Put(1, Blob(200));
    cache.Trim(0);
    EXPECT_EQ(cache.Get(1), nullptr);
    return old;
  });
  EXPECT_EQ(loaded.value()->id, 100);
  EXPECT_EQ(cache.Get(1), nullptr);
  EXPECT_EQ(cache.GetOrLoad(1, [] { return Blob(300); }).value()->id, 300);
  cache.CheckInvariantsForTesting();
}

struct Small {
  uint64_t byte_size() const { return 8; }
  int64_t value;
};
// What entries weigh is about what they take, for either kind of slot.
TEST(LargeObjectCacheMemoryTest, AnEntryWeighsWhatItTakes) {
  using SmallCache = LargeObjectCache<int64_t, Small>;
  constexpr int64_t kEntries = 50'000;
  for (const bool is_embedded : {true, false}) {
    SmallCache::Options options;
    options.budget_bytes = uint64_t{1} << 30;
    options.shards = 1;
    const int64_t before = LiveAllocatedBytes();
    SmallCache cache = std::move(SmallCache::Create(options)).value();
    for (int64_t key = 0; key < kEntries; ++key) {
      if (is_embedded) {
        cache.Put(key, Small{key});
      } else {
        cache.Put(key, MakeRef<Small>(Small{key}));
      }
    }
    const auto taken = static_cast<double>(LiveAllocatedBytes() - before);
    const auto weight = static_cast<double>(cache.Stats().bytes_retained);
    EXPECT_GT(weight, 0.7 * taken);
    EXPECT_LT(weight, 1.2 * taken);
  }
}

// Hand-written caches fail here: weights drift. Of two weighings at the same time the one that
// began last counts.
TEST(LargeObjectCacheFailureTest, AnOldWeighingIsForgotten) {
  std::atomic<int> stage{0};
  Cache::Options options = testing::WithBudget<Cache>(1000);
  std::atomic<uint64_t> weight{10};
  options.weigher = [&](const Blob&) {
    const uint64_t seen = weight;
    int first = 1;
    if (stage.compare_exchange_strong(first, 2)) {
      while (stage != 3) std::this_thread::yield();
    }
    return seen;
  };
  Cache cache = MakeCache(options);
  cache.Put(1, Blob(1));
  stage = 1;
  std::thread slow([&] { cache.UpdateWeight(1); });
  while (stage != 2) std::this_thread::yield();
  weight = 500;
  EXPECT_TRUE(cache.UpdateWeight(1));
  EXPECT_EQ(cache.Stats().bytes_retained, 500u);
  stage = 3;
  slow.join();
  EXPECT_EQ(cache.Stats().bytes_retained, 500u);
}

}  // namespace
}  // namespace weakcache
