// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/evict_all.h"
#include "tests/support/race.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;

constexpr int kKeys = 32;

// How many objects there are under each key; more than one only if the test replaces or
// invalidates.
std::atomic<int> live[kKeys];

struct Blob {
  Blob(int key, uint64_t size) : key(key), size(size) { ++live[key]; }
  Blob(const Blob& other) : Blob(other.key, other.size) {}
  Blob& operator=(const Blob&) = delete;
  ~Blob() {
    --live[key];
    key = -1;
  }
  uint64_t byte_size() const { return size.load(); }

  int key;
  std::atomic<uint64_t> size;
};

using Cache = LargeObjectCache<int, Blob>;

Cache MakeCache(Cache::Options options) { return std::move(Cache::Create(options)).value(); }

// The object under a key, as long as it lives.
class OnlyOne {
 public:
  void Check(const Ref<Blob>& object) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Ref<Blob> former = object_.lock();
    if (former.get() != nullptr) {
      EXPECT_EQ(former, object);
    }
    object_ = object;
  }

 private:
  std::mutex mutex_;
  WeakRef<Blob> object_;
};

// What the cache is told to do by one of several threads, and what must be true all the time.
class Worker {
 public:
  Worker(Cache& cache, unsigned seed, int kinds)
      : cache_(cache), random_(seed), kinds_(kinds), held_(8) {}

  void Step() {
    const int key = static_cast<int>(random_() % kKeys);
    const uint64_t size = random_() % 40;
    Ref<Blob>& place = held_[random_() % held_.size()];
    switch (random_() % static_cast<unsigned>(kinds_)) {
      case 0:
        place = cache_.Get(key);
        break;
      case 1:
        place.reset();
        break;
      case 2:
      case 3:
      case 4:
        Take(key, place, cache_.GetOrLoad(key, [&] { return Blob(key, size); }));
        break;
      case 5:
        Take(key, place, cache_.GetOrLoad(key, [&] { return MakeRef<Blob>(key, size); }));
        break;
      case 6:
        static_cast<void>(
            cache_.GetOrLoad(key, []() -> absl::StatusOr<Blob> { return absl::AbortedError(""); }));
        break;
      case 7:
        cache_.Trim(random_() % 100);
        break;
      case 8:
        if (place.get() != nullptr) place->size.store(size);
        cache_.UpdateWeight(key);
        break;
      case 9:
        cache_.SetBudget(100 + random_() % 100);
        break;
      // What follows lets there be two objects under one key.
      case 10:
        place = cache_.Put(key, Blob(key, size));
        break;
      case 11:
        cache_.Put(key, MakeRef<Blob>(key, size));
        break;
      case 12:
        cache_.Invalidate(key);
        break;
      case 13:
        if (place.get() != nullptr) cache_.Invalidate(place->key, place);
        break;
      case 14:
        if (random_() % 16 == 0) cache_.Clear();
        break;
      case 15:
        for (const int hot : cache_.HottestKeys(3)) static_cast<void>(cache_.Peek(hot));
        break;
      case 16: {
        const std::vector<int> keys = {key, (key + 7) % kKeys, (key + 3) % kKeys};
        const auto results = cache_.GetAll(keys, [&](const std::vector<int>& missing) {
          std::vector<Ref<Blob>> blobs;
          for (const int absent : missing) blobs.push_back(MakeRef<Blob>(absent, size));
          return blobs;
        });
        // It may have waited for a load that failed.
        if (results[1].ok()) {
          EXPECT_EQ((*results[1])->key, keys[1]);
        }
        break;
      }
    }
    if (place.get() != nullptr) {
      EXPECT_EQ(place->key >= 0, true);
    }
  }
  static constexpr int kAllKinds = 17;
  static constexpr int kKindsThatKeepOne = 10;

 private:
  Cache& cache_;
  // It may have waited for a load that failed.
  void Take(int key, Ref<Blob>& place, absl::StatusOr<Ref<Blob>> result) {
    if (!result.ok()) return;
    place = *std::move(result);
    if (kinds_ == kKindsThatKeepOne) only_[key].Check(place);
  }

  inline static OnlyOne only_[kKeys];
  std::minstd_rand random_;
  const int kinds_;
  std::vector<Ref<Blob>> held_;
};

void Stress(Cache& cache, int kinds, const std::function<void()>& watch) {
  constexpr int kThreads = 4;
  const int steps = RaceRounds(30000);
  std::atomic<int> running{kThreads};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Worker worker(cache, i + 1, kinds);
      for (int step = 0; step < steps; ++step) worker.Step();
      --running;
    });
  }
  while (running > 0) watch();
  for (std::thread& thread : threads) thread.join();
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheRaceTest, NeverHasTwoObjectsUnderAKeyNorExceedsTheBudget) {
  for (const size_t shards : {1, 8}) {
    Cache::Options options = testing::WithBudget<Cache>(199);
    options.shards = shards;
    Cache cache = MakeCache(options);
    Stress(cache, Worker::kKindsThatKeepOne, [&] {
      EXPECT_LE(cache.Stats().bytes_retained, 199u);
      cache.ForEach([&](int key, const Ref<Blob>& blob) { EXPECT_EQ(blob->key, key); });
    });
    cache.Trim(0);
    cache.Purge();
    EXPECT_TRUE(cache.empty());
    const CacheStats stats = cache.Stats();
    EXPECT_EQ(stats.bytes_retained, 0u);
    EXPECT_EQ(stats.bytes_pinned, 0u);
    EXPECT_EQ(stats.dead_entries, 0u);
    EXPECT_EQ(stats.loads_in_flight, 0u);
    for (const std::atomic<int>& count : live) EXPECT_EQ(count, 0);
  }
}

TEST(LargeObjectCacheRaceTest, AllOperationsTogether) {
  for (const bool listens : {false, true}) {
    std::atomic<uint64_t> told{0};
    std::atomic<int64_t> nanoseconds{0};
    Cache::Options options = testing::WithBudget<Cache>(200);
    options.shards = 4;
    options.max_concurrent_loads = 2;
    // Time passes as it is looked at.
    options.clock = [&] { return absl::FromUnixNanos(++nanoseconds); };
    options.expire_after_write = absl::Nanoseconds(100);
    options.refresh_after_write = absl::Nanoseconds(30);
    options.expire_after_access = absl::Nanoseconds(60);
    Cache* inner = nullptr;
    if (listens) {
      options.removal_listener = [&](int key, RemovalCause, uint64_t) {
        if (++told % 5 == 0) static_cast<void>(inner->Get(key));
        if (told % 7 == 0) inner->Invalidate(key);
      };
    }
    Cache cache = MakeCache(options);
    inner = &cache;
    Stress(cache, Worker::kAllKinds, [&] { EXPECT_LE(cache.Stats().bytes_retained, 200u); });
    cache.Clear();
    cache.Purge();
    EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
    EXPECT_EQ(cache.Stats().dead_entries, 0u);
    cache.CheckInvariantsForTesting();
    EXPECT_EQ(told > 0, listens);
    EXPECT_GT(cache.Stats().evictions_expired, 0u);
  }
  for (const std::atomic<int>& count : live) EXPECT_EQ(count, 0);
}

// One thread makes a life shorter while others record an access, and are about to store that the
// object is fresh for longer.
TEST(LargeObjectCacheRaceTest, AShorterLifeIsNotOverlooked) {
  std::atomic<int64_t> seconds{0};
  Cache::Options options = testing::WithBudget<Cache>(100);
  options.clock = [&] { return absl::UnixEpoch() + absl::Seconds(seconds.load()); };
  options.expire_after_access = absl::Hours(1);
  Cache cache = MakeCache(options);
  const auto find = [&] { EXPECT_NE(cache.Get(1), nullptr); };
  Race(
      RaceRounds(20'000),
      [&](int) {
        cache.Put(1, Blob(1, 10));
        seconds += 2;
      },
      {find, find, [&] { EXPECT_TRUE(cache.SetExpiry(1, absl::Milliseconds(300))); }},
      [&](int) {
        seconds += 1;
        EXPECT_EQ(cache.Get(1), nullptr);
      });
}

TEST(LargeObjectCacheRaceTest, AllThatMissGetTheOneThatIsLoaded) {
  Cache::Options options = testing::WithBudget<Cache>(100);
  Cache cache = MakeCache(options);
  std::atomic<int> loads{0};
  absl::StatusOr<Ref<Blob>> results[3];
  std::vector<std::function<void()>> racers;
  for (auto& result : results) {
    racers.emplace_back([&] {
      result = cache.GetOrLoad(1, [&] {
        ++loads;
        return Blob(1, 10);
      });
    });
  }
  Race(
      RaceRounds(3000), [&](int) { loads = 0; }, racers,
      [&](int) {
        EXPECT_EQ(loads, 1);
        EXPECT_EQ(*results[0], *results[1]);
        EXPECT_EQ(*results[0], *results[2]);
        for (auto& result : results) result->reset();
        EXPECT_EQ(cache.Stats().bytes_retained, 10u);
        cache.Invalidate(1);
        EXPECT_EQ(live[1], 0);
      });
}

TEST(LargeObjectCacheRaceTest, FailuresReachAllThatWait) {
  Cache::Options options = testing::WithBudget<Cache>(100);
  Cache cache = MakeCache(options);
  std::atomic<int> loads{0};
  std::atomic<int> exceptions{0};
  bool throws = false;
  // Compared where all is quiet: those that wait share the status, and ThreadSanitizer can't see
  // how a prebuilt Abseil counts its users.
  absl::StatusOr<Ref<Blob>> results[2];
  std::vector<std::function<void()>> racers;
  for (auto& result : results) {
    racers.emplace_back([&] {
      try {
        result = cache.GetOrLoad(1, [&]() -> absl::StatusOr<Blob> {
          ++loads;
          if (throws) throw std::runtime_error("no");
          return absl::DataLossError("no");
        });
      } catch (const std::runtime_error&) {
        ++exceptions;
      }
    });
  }
  Race(
      RaceRounds(3000),
      [&](int round) {
        throws = round % 2 == 0;
        exceptions = 0;
        for (auto& result : results) result = Ref<Blob>();
      },
      racers,
      [&](int) {
        EXPECT_EQ(exceptions, throws ? 2 : 0);
        for (const auto& result : results) {
          EXPECT_EQ(result.status(), throws ? absl::OkStatus() : absl::DataLossError("no"));
        }
      });
  EXPECT_EQ(cache.Stats().load_failures, static_cast<uint64_t>(loads));
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheRaceTest, AnInvalidatedLoadIsNotKept) {
  Cache::Options options = testing::WithBudget<Cache>(100);
  Cache cache = MakeCache(options);
  std::atomic<int> source{0};
  Race(
      RaceRounds(3000), [&](int) { cache.Clear(); },
      {[&] {
         cache.GetOrLoad(1, [&] { return Blob(1, static_cast<uint64_t>(source.load())); }).value();
       },
       [&] {
         // As an application does it: first the source changes, then what was made from it goes.
         source = (source + 1) % 50;
         cache.Invalidate(1);
       }},
      [&](int) {
        const Ref<Blob> kept = cache.Get(1);
        if (kept.get() != nullptr) {
          EXPECT_EQ(kept->size, static_cast<uint64_t>(source.load()));
        }
        cache.CheckInvariantsForTesting();
      });
}

// A hit between the publication of a loaded object and its admission must not count its weight
// beside the bytes that are reserved for it.
TEST(LargeObjectCacheRaceTest, AHitMeetsTheAdmissionOfAReservedObject) {
  struct Weighed {
    uint64_t byte_size() const { return size; }
    uint64_t size;
  };
  using WeighedCache = LargeObjectCache<int, Weighed>;
  std::optional<WeighedCache> cache;
  testing::Race(
      testing::RaceRounds(5'000),
      [&](int) {
        WeighedCache::Options options = testing::WithBudget<WeighedCache>(100);
        options.shards = 1;
        cache = std::move(WeighedCache::Create(options)).value();
        // A hit looks at eight others at most to make room.
        for (int key = 0; key < 5; ++key) cache->Put(key, Weighed{10});
      },
      {[&] { cache->GetOrLoad(99, [] { return Weighed{50}; }, {.weight_estimate = 50}).value(); },
       [&] {
         while (cache->Get(99) == nullptr) {
         }
       }},
      [&](int) { ASSERT_EQ(cache->Stats().evictions_budget, 0); });
}

TEST(LargeObjectCacheRaceTest, EvictionMeetsLookUpAndRelease) {
  Cache::Options options = testing::WithBudget<Cache>(10);
  Cache cache = MakeCache(options);
  Ref<Blob> held;
  Ref<Blob> found;
  Race(
      RaceRounds(5000), [&](int) { held = cache.GetOrLoad(1, [] { return Blob(1, 10); }).value(); },
      {[&] { testing::EvictAll(cache); }, [&] { held.reset(); }, [&] { found = cache.Get(1); }},
      [&](int) {
        EXPECT_EQ(live[1], found.get() != nullptr || cache.size() > 0 ? 1 : 0);
        found.reset();
        cache.CheckInvariantsForTesting();
      });
}

// A load is cancelled while another one of its shard begins, which takes over what it has left.
TEST(LargeObjectCacheRaceTest, ClearMeetsLoads) {
  Cache::Options options;
  options.shards = 1;
  Cache cache = std::move(Cache::CreateWeak(options)).value();
  int round = 0;
  std::atomic<int> loads{0};
  const auto load = [&](int key) {
    const auto loaded = cache.GetOrLoad(key, [&] {
      ++loads;
      std::this_thread::yield();
      return Blob(key, 10);
    });
    EXPECT_EQ(loaded.value()->key, key);
  };
  Race(
      RaceRounds(20000), [&](int i) { round = i; },
      {[&] { load(round % 8); }, [&] { load(8 + round % 8); }, [&] { cache.Clear(); }},
      [&](int) { cache.CheckInvariantsForTesting(); });
  EXPECT_GE(loads, 2 * RaceRounds(20000));
}

// Of two threads that put if there is nothing, one puts, and both have its object.
TEST(LargeObjectCacheRaceTest, PutIfAbsentMeetsPutIfAbsent) {
  Cache::Options options = testing::WithBudget<Cache>(100);
  Cache cache = MakeCache(options);
  std::pair<Ref<Blob>, bool> results[2];
  Race(
      RaceRounds(50000),
      [&](int) {
        for (auto& result : results) result.first.reset();
        cache.Clear();
      },
      {[&] { results[0] = cache.PutIfAbsent(1, Blob(1, 10)); },
       [&] { results[1] = cache.PutIfAbsent(1, MakeRef<Blob>(1, 10)); }},
      [&](int) {
        EXPECT_NE(results[0].second, results[1].second);
        EXPECT_EQ(results[0].first, results[1].first);
        EXPECT_EQ(results[0].first, cache.Get(1));
        EXPECT_EQ(live[1], 1);
      });
  cache.CheckInvariantsForTesting();
}

// Whoever has found an object holds it when it is evicted: its end is told of.
TEST(LargeObjectCacheRaceTest, EvictionMeetsLookUpOfWhatNobodyUses) {
  Cache::Options options = testing::WithBudget<Cache>(10);
  std::atomic<int> died{0};
  options.removal_listener = [&](int, RemovalCause cause, uint64_t) {
    died += cause == RemovalCause::kDied ? 1 : 0;
  };
  Cache cache = MakeCache(options);
  Ref<Blob> found;
  int held = 0;
  int not_held = 0;
  Race(
      {RaceRounds(100000), {&held, &not_held}}, [&](int) { cache.Put(1, Blob(1, 10)); },
      {[&] { testing::EvictAll(cache); }, [&] { found = cache.Get(1); }},
      [&](int) {
        const bool retained = cache.Stats().bytes_retained != 0;
        const bool expected = found.get() != nullptr && !retained;
        died = 0;
        found.reset();
        EXPECT_EQ(died, expected ? 1 : 0);
        ++(expected ? held : not_held);
      });
  EXPECT_GT(held, 0);
  EXPECT_GT(not_held, 0);
}

// An object is evicted while its last user lets it go: the listener hears of its death last, if at
// all, and not while it is still being told of the eviction.
template <typename Make>
void EvictAsTheLastUserLeaves(Make&& make) {
  std::atomic<bool> telling{false};
  std::vector<RemovalCause> told;
  Cache::Options options = testing::WithBudget<Cache>(10);
  options.removal_listener = [&](int, RemovalCause cause, uint64_t) {
    EXPECT_FALSE(telling.exchange(true));
    told.push_back(cause);
    std::this_thread::yield();
    telling = false;
  };
  Cache cache = MakeCache(options);
  Ref<Blob> held;
  int died = 0;
  int rounds = 0;
  const auto race = [&] {
    Race(
        RaceRounds(50000),
        [&](int) {
          told.clear();
          held = cache.GetOrLoad(1, make).value();
        },
        {[&] { testing::EvictAll(cache); }, [&] { held.reset(); }},
        [&](int) {
          ++rounds;
          EXPECT_EQ(live[1], 0);
          EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
          ASSERT_FALSE(told.empty());
          EXPECT_EQ(told[0], RemovalCause::kBudget);
          if (told.size() == 1) return;  // nobody used it
          ++died;
          EXPECT_EQ(told.size(), 2u);
          EXPECT_EQ(told[1], RemovalCause::kDied);
        });
  };
  // The one that evicts has more to do: it is seldom the first.
  for (int attempt = 0; attempt < 20 && died == 0; ++attempt) race();
  EXPECT_GT(died, 0);
  EXPECT_LT(died, rounds);
}
TEST(LargeObjectCacheRaceTest, TellsInOrderOfWhatItMade) {
  EvictAsTheLastUserLeaves([] { return Blob(1, 10); });
}
TEST(LargeObjectCacheRaceTest, TellsInOrderOfWhatIsLinked) {
  EvictAsTheLastUserLeaves([] { return MakeRef<Blob>(1, 10); });
}

}  // namespace
}  // namespace weakcache
