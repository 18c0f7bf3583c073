// SPDX-License-Identifier: Apache-2.0
// What the budget of a LargeObjectCache bounds, and which objects go for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/support/allocations.h"
#include "tests/support/evict_all.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/stats/load_time.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

struct Page {
  size_t byte_size() const { return bytes; }
  int id = 0;
  size_t bytes = 0;
};
using Cache = LargeObjectCache<int, Page>;

Cache::Options Budget(uint64_t bytes, bool has_listener = false) {
  Cache::Options options;
  if (has_listener) options.removal_listener = [](auto&&...) {};
  options.budget_bytes = bytes;
  options.count_entry_memory = false;  // so that the weights are round
  return options;
}
Cache MakeCache(const Cache::Options& options) { return std::move(Cache::Create(options)).value(); }

Ref<Page> Put(Cache& cache, int key, size_t bytes) { return cache.Put(key, Page{key, bytes}); }
bool Contains(const Cache& cache, int key) { return cache.Peek(key) != nullptr; }

TEST(BudgetTest, CountsObjectsInUse) {
  Cache cache = MakeCache(Budget(100));
  const Ref<Page> used = Put(cache, 1, 60);
  Put(cache, 2, 25);
  Put(cache, 4, 6);  // new, so it stays
  CacheStats stats = cache.Stats();
  EXPECT_EQ(stats.bytes_in_use, 60u);
  EXPECT_EQ(stats.bytes_idle, 31u);
  EXPECT_EQ(stats.bytes(), 91u);
  const auto loaded = cache.GetOrLoad(3,
                                      [&] {
                                        stats = cache.Stats();
                                        EXPECT_EQ(stats.bytes_reserved, 30u);
                                        EXPECT_EQ(stats.bytes(), 96u);  // 2 has gone
                                        return Page{3, 10};
                                      },
                                      {.weight_estimate = 30});
  EXPECT_TRUE(loaded.ok());
  EXPECT_FALSE(Contains(cache, 2));
  EXPECT_EQ(cache.Stats().bytes(), 76u);
  cache.CheckInvariantsForTesting();
}

// velox#7547, flutter#45406, fresco#471: to evict what is in use frees nothing.
TEST(BudgetTest, ObjectsInUseStayWhileIdleOnesCanGo) {
  Cache cache = MakeCache(Budget(200));
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 10; ++key) used.push_back(Put(cache, key, 10));
  for (int key = 10; key < 100; ++key) {
    Put(cache, key, 10);
    EXPECT_LE(cache.Stats().bytes(), 200u);
  }
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  EXPECT_EQ(cache.Stats().bytes_in_use, 100u);
  EXPECT_EQ(cache.Stats().bytes_idle, 100u);
  cache.CheckInvariantsForTesting();
}

TEST(BudgetTest, TrimFreesIdleObjectsOnlyAndTellsHowMuch) {
  Cache cache = MakeCache(Budget(200));
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 10; ++key) used.push_back(Put(cache, key, 10));
  for (int key = 10; key < 20; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Trim(150), 50u);
  EXPECT_EQ(cache.Stats().bytes(), 150u);
  EXPECT_EQ(cache.Trim(20), 50u);
  EXPECT_EQ(cache.Trim(20), 0u);
  EXPECT_EQ(cache.Stats().bytes_in_use, 100u);
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  used.clear();
  EXPECT_EQ(cache.Trim(30), 70u);
  EXPECT_EQ(cache.SetBudget(20), 10u);
  cache.CheckInvariantsForTesting();
}

TEST(BudgetTest, TrimTellsWhatDiesAfterTheListenerHasReturned) {
  Cache::Options options = Budget(200);
  int removals = 0;
  options.removal_listener = [&](auto&&...) { ++removals; };
  Cache cache = MakeCache(options);
  for (int key = 0; key < 4; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Trim(20), 20u);
  EXPECT_EQ(removals, 2);
}

// glide#2560, cesium-native#964, Coil#295.
TEST(BudgetTest, WhatWasShownIsKeptAfterItsLastRelease) {
  Cache cache = MakeCache(Budget(100));
  Ref<Page> shown = Put(cache, 1, 10);
  cache.Trim(0);
  shown.reset();
  EXPECT_TRUE(Contains(cache, 1));
  shown = Put(cache, 2, 10);
  for (int round = 0; round < 3; ++round) {
    for (int key = 100; key < 112; ++key) Put(cache, key, 10);
  }
  shown.reset();
  EXPECT_TRUE(Contains(cache, 2));
}

TEST(BudgetTest, WhatWasLetGoInUseCountsUntilItDies) {
  Cache cache = MakeCache(Budget(100));
  Ref<Page> used = Put(cache, 1, 60);
  testing::EvictAll(cache);
  EXPECT_EQ(cache.Stats().bytes_pinned, 60u);
  for (int key = 10; key < 20; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Stats().bytes(), 100u);
  used.reset();
  EXPECT_FALSE(Contains(cache, 1));
  for (int key = 20; key < 30; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Stats().bytes_idle, 100u);
  // Nor once it has left the cache, or is kept again.
  used = Put(cache, 2, 60);
  testing::EvictAll(cache);
  cache.Invalidate(2);
  for (int key = 30; key < 40; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Stats().bytes_idle, 100u);
  used = Put(cache, 3, 60);
  testing::EvictAll(cache);
  EXPECT_EQ(cache.Get(3), used);
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  for (int key = 40; key < 44; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Stats().bytes(), 100u);
  used.reset();
  for (int key = 50; key < 60; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Stats().bytes(), 100u);
  cache.CheckInvariantsForTesting();
}

TEST(BudgetTest, LetsGoOfObjectsInUseIfNothingElseIsLeft) {
  Cache cache = MakeCache(Budget(100));
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 15; ++key) used.push_back(Put(cache, key, 10));
  EXPECT_EQ(cache.Stats().bytes_retained, 100u);
  EXPECT_EQ(cache.Stats().bytes_pinned, 50u);
  // They die at their last release, not later.
  used.clear();
  EXPECT_EQ(cache.Stats().bytes(), 100u);
  EXPECT_EQ(cache.size(), 10u);
  cache.CheckInvariantsForTesting();
}

TEST(BudgetTest, LetsGoOfAnObjectInUseForANewOne) {
  Cache cache = MakeCache(Budget(100));
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 10; ++key) used.push_back(Put(cache, key, 10));
  Put(cache, 10, 5);
  Put(cache, 11, 1);  // less than a twentieth of the budget
  EXPECT_TRUE(Contains(cache, 10));
  EXPECT_TRUE(Contains(cache, 11));
  EXPECT_EQ(cache.Stats().bytes_pinned, 10u);
  EXPECT_LE(cache.Stats().bytes_retained, 100u);
}

TEST(BudgetTest, MayBoundIdleObjectsAlone) {
  Cache::Options options = Budget(200);
  options.budget_covers_in_use = false;
  Cache cache = MakeCache(options);
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 20; ++key) used.push_back(Put(cache, key, 10));
  for (int key = 100; key < 120; ++key) {
    for (int in_use = 0; in_use < 20; ++in_use) EXPECT_NE(cache.Get(in_use), nullptr);
    Put(cache, key, 10);
  }
  CacheStats stats = cache.Stats();
  EXPECT_EQ(stats.bytes_in_use, 200u);
  EXPECT_EQ(stats.bytes_idle, 200u);
  EXPECT_EQ(stats.bytes_pinned, 0u);
  // What has become idle is noticed a few objects at a time.
  used.clear();
  for (int key = 200; key < 220; ++key) Put(cache, key, 10);
  EXPECT_LE(cache.Stats().bytes(), 210u);
  cache.CheckInvariantsForTesting();
}

// nessie#10629, CacheLib#86: expired objects keep the budget from fresh ones.
TEST(BudgetTest, ExpiredObjectsGoFirst) {
  absl::Time now = absl::UnixEpoch();
  for (const bool by_access : {false, true}) {
    Cache::Options options = Budget(100);
    options.clock = [&] { return now; };
    (by_access ? options.expire_after_access : options.expire_after_write) = absl::Minutes(1);
    Cache cache = MakeCache(options);
    for (int key = 0; key < 20; ++key) Put(cache, key, 5);
    for (int hit = 0; hit < 20; ++hit) {
      for (int key = 0; key < 10; ++key) EXPECT_NE(cache.Get(key), nullptr);
    }
    now += absl::Seconds(40);
    for (int key = 0; key < 10; ++key) EXPECT_NE(cache.Get(key), nullptr);
    now += absl::Seconds(40);
    // If an access renews them, the first ten are fresh.
    const int expired = by_access ? 10 : 20;
    for (int key = 100; key < 100 + expired; ++key) Put(cache, key, 5);
    for (int key = 100; key < 100 + expired; ++key) EXPECT_TRUE(Contains(cache, key)) << key;
    for (int key = 0; key < 10; ++key) EXPECT_EQ(Contains(cache, key), by_access) << key;
    EXPECT_EQ(cache.Stats().evictions_expired, static_cast<uint64_t>(expired));
    now += absl::Hours(1);
    EXPECT_EQ(cache.Trim(50), 50u);
  }
}

TEST(BudgetTest, ExpiredObjectsInUseAreNoVictims) {
  absl::Time now = absl::UnixEpoch();
  Cache::Options options = Budget(100);
  options.clock = [&] { return now; };
  options.expire_after_write = absl::Minutes(1);
  Cache cache = MakeCache(options);
  const Ref<Page> used = Put(cache, 0, 10);
  for (int key = 1; key < 10; ++key) Put(cache, key, 10);
  now += absl::Minutes(2);
  for (int key = 10; key < 15; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  EXPECT_EQ(cache.Stats().evictions_expired, 5u);
}

TEST(BudgetTest, ManyObjectsWithAgesAreEvicted) {
  absl::Time now = absl::UnixEpoch();
  Cache::Options options = Budget(2000);
  options.clock = [&] { return now; };
  options.expire_after_access = absl::Hours(1);
  for (const uint64_t budget : {0, 100}) {
    Cache cache = MakeCache(options);
    for (int key = 0; key < 2000; ++key) Put(cache, key, 1);
    now += absl::Seconds(1);
    for (int key = 0; key < 2000; ++key) EXPECT_NE(cache.Get(key), nullptr);
    EXPECT_EQ(cache.SetBudget(budget), 2000u - budget);
    EXPECT_EQ(cache.Trim(0), budget);
    EXPECT_TRUE(cache.empty());
  }
}

TEST(BudgetTest, CountsWhatTheListenerKeeps) {
  Cache::Options options = Budget(100);
  Cache* inner = nullptr;
  std::vector<Ref<Page>> kept;
  options.removal_listener = [&](auto&&... arguments) {
    const auto key = [](const int& first, auto&&...) { return first; }(arguments...);
    if (kept.size() < 5) kept.push_back(inner->Get(key));
  };
  Cache cache = MakeCache(options);
  inner = &cache;
  for (int key = 0; key < 30; ++key) Put(cache, key, 10);
  EXPECT_EQ(kept.size(), 5u);
  EXPECT_EQ(cache.Stats().bytes_in_use, 50u);
  EXPECT_EQ(cache.Stats().bytes(), 100u);
  kept.clear();
  for (int key = 30; key < 60; ++key) Put(cache, key, 10);
  EXPECT_EQ(cache.Stats().bytes(), 100u);
}

// What can't be kept is not counted, so nothing else goes for it.
TEST(BudgetTest, AnObjectThatOutgrowsTheBudgetEvictsNoOther) {
  for (const bool has_listener : {false, true}) {
    SCOPED_TRACE(has_listener);
    Cache cache = MakeCache(Budget(100, has_listener));
    const Ref<Page> used = cache.Put(0, MakeRef<Page>(Page{0, 10}));
    for (int key = 1; key < 10; ++key) Put(cache, key, 10);
    const_cast<Page&>(*used).bytes = 1000;
    EXPECT_TRUE(cache.UpdateWeight(0));
    EXPECT_EQ(cache.Stats().bytes_idle, 90u);
    for (int key = 10; key < 20; ++key) Put(cache, key, 10);
    EXPECT_EQ(cache.Stats().bytes_idle, 100u);
    const_cast<Page&>(*used).bytes = UINT64_MAX;
    EXPECT_TRUE(cache.UpdateWeight(0));
    EXPECT_EQ(cache.Stats().bytes_idle, 100u);
    cache.CheckInvariantsForTesting();
  }
}

TEST(BudgetTest, AnObjectThatOutgrowsTheRoomBesideALoadEvictsNoOther) {
  for (const bool has_listener : {false, true}) {
    SCOPED_TRACE(has_listener);
    Cache cache = MakeCache(Budget(100, has_listener));
    const Ref<Page> used = cache.Put(0, MakeRef<Page>(Page{0, 10}));
    for (int key = 1; key < 4; ++key) Put(cache, key, 10);
    const auto load = [&] {
      const_cast<Page&>(*used).bytes = 70;
      EXPECT_TRUE(cache.UpdateWeight(0));
      EXPECT_EQ(cache.Stats().bytes_idle, 30u);
      Put(cache, 4, 10);
      EXPECT_EQ(cache.Stats().bytes_idle, 40u);
      return Page{5, 60};
    };
    EXPECT_TRUE(cache.GetOrLoad(5, load, {.weight_estimate = 60}).ok());
  }
}

TEST(BudgetTest, AnObjectAboveASmallerBudgetEvictsNoOther) {
  for (const bool has_listener : {false, true}) {
    SCOPED_TRACE(has_listener);
    Cache cache = MakeCache(Budget(200, has_listener));
    const Ref<Page> used = Put(cache, 0, 150);
    cache.SetBudget(100);
    EXPECT_EQ(cache.Stats().bytes_pinned, 150u);
    for (int key = 1; key < 20; ++key) Put(cache, key, 10);
    EXPECT_EQ(cache.Stats().bytes_idle, 100u);
  }
}

TEST(BudgetTest, HeavyObjectsInUseAreLeftAloneIfTheBudgetIsForIdleOnes) {
  Cache::Options options = Budget(200);
  options.budget_covers_in_use = false;
  Cache cache = MakeCache(options);
  const Ref<Page> used = Put(cache, 0, 150);
  EXPECT_TRUE(cache.GetOrLoad(1, [] { return Page{1, 100}; }, {.weight_estimate = 100}).ok());
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
}

// A new object's time is not cut short because somebody held it meanwhile.
TEST(BudgetTest, NewObjectsThatWereHeldStayAWhile) {
  for (const bool covers_in_use : {false, true}) {
    Cache::Options options = Budget(1000);
    options.budget_covers_in_use = covers_in_use;
    Cache cache = MakeCache(options);
    for (int key = 0; key < 16; ++key) {
      Put(cache, key, 50);
      for (int hit = 0; hit < 5; ++hit) EXPECT_NE(cache.Get(key), nullptr);
    }
    Put(cache, 100, 200);
    Put(cache, 101, 200);
    cache.Trim(1000);
    Put(cache, 102, 10);
    EXPECT_TRUE(Contains(cache, 101));
    EXPECT_LE(cache.Stats().bytes(), 1010u);
  }
}

// Thumbnails stay on the screen, pages are loaded ahead and shown once: ristretto#46, reth#20527.
TEST(BudgetTest, LoadsEachPageOfAViewerOnce) {
  for (const uint64_t estimate : {0, 200}) {
    for (int ahead = 1; ahead <= 3; ++ahead) {
      Cache cache = MakeCache(Budget(1000));
      int loads = 0;
      const auto page = [&](int key) {
        return cache
            .GetOrLoad(1000 + key,
                       [&] {
                         ++loads;
                         return Page{key, 200};
                       },
                       {.weight_estimate = estimate})
            .value();
      };
      Ref<Page> shown;
      for (int step = 0; step < 100; ++step) {
        for (int key = 0; key < 20; ++key) {
          EXPECT_TRUE(cache.GetOrLoad(key, [&] { return Page{key, 10}; }).ok());
        }
        shown = page(step);
        for (int next = 1; next <= ahead; ++next) page(step + next);
      }
      EXPECT_EQ(loads, 100 + ahead) << estimate;
    }
  }
}

// The reference: what is in the cache, who holds it, and what has come since.
class Model {
 public:
  struct Object {
    Ref<Page> held;
    WeakRef<Page> weak;
    uint64_t weight = 0;
    uint64_t arrived = 0;  // bytes that had come by then, itself included
  };

  explicit Model(uint64_t seed)
      : random_(seed), budget_(Random(2000) + 100), cache_(MakeCache(Budget(budget_))) {}

  void Step() {
    const int key = static_cast<int>(Random(60));
    const uint64_t choice = Random(100);
    if (choice < 45) {
      Enter(key);
    } else if (choice < 65) {
      Ref<Page> found = cache_.Get(key);
      if (found != nullptr && Random(3) == 0) objects_[key].held = std::move(found);
    } else if (choice < 90) {
      if (const auto object = objects_.find(key); object != objects_.end()) {
        object->second.held.reset();
      }
    } else if (choice < 94) {
      cache_.Invalidate(key);
      objects_.erase(key);
    } else if (choice < 98) {
      Trim(Random(budget_ + 1));
    } else {
      cache_.SetBudget(budget_ = Random(2000) + 100);
    }
    Compare();
  }

 private:
  uint64_t Random(uint64_t limit) { return random_() % limit; }

  void Enter(int key) {
    const uint64_t weight = 1 + Random(100 / (1 + Random(10)));  // all fit
    Object object;
    object.held = Random(2) == 0 ? Put(cache_, key, weight)
                                 : cache_.Put(key, MakeRef<Page>(Page{key, weight}));
    object.weak = object.held;
    object.weight = weight;
    arrived_ += weight;
    object.arrived = arrived_;
    if (Random(4) != 0) object.held.reset();
    objects_[key] = std::move(object);
    const CacheStats stats = cache_.Stats();
    for (auto& [other, state] : objects_) {
      const uint64_t newer = arrived_ - state.arrived;
      if (!Contains(cache_, other) || state.held.get() != nullptr || newer <= budget_ / 20) {
        continue;
      }
      // Something idle is there, and not new: so the budget holds.
      EXPECT_LE(stats.bytes(), budget_) << other;
    }
  }

  void Trim(uint64_t bytes) {
    const CacheStats before = cache_.Stats();
    const uint64_t freed = cache_.Trim(bytes);
    const CacheStats after = cache_.Stats();
    EXPECT_EQ(freed, before.bytes() - after.bytes());
    EXPECT_EQ(after.bytes_in_use, before.bytes_in_use);
    EXPECT_TRUE(after.bytes() <= bytes || after.bytes_idle == 0);
  }

  void Compare() {
    uint64_t idle = 0;
    uint64_t in_use = 0;
    for (auto object = objects_.begin(); object != objects_.end();) {
      const bool alive = !object->second.weak.expired();
      EXPECT_TRUE(alive || object->second.held.get() == nullptr);
      EXPECT_EQ(Contains(cache_, object->first), alive);
      if (!alive) {
        object = objects_.erase(object);
        continue;
      }
      (object->second.held.get() == nullptr ? idle : in_use) += object->second.weight;
      ++object;
    }
    const CacheStats stats = cache_.Stats();
    EXPECT_EQ(stats.bytes_idle, idle);
    EXPECT_EQ(stats.bytes_in_use, in_use);
    EXPECT_EQ(stats.bytes_retained + stats.bytes_pinned, idle + in_use);
    EXPECT_LE(stats.bytes_retained, budget_);
    EXPECT_EQ(cache_.size(), objects_.size());
    cache_.CheckInvariantsForTesting();
  }

  std::mt19937_64 random_;
  uint64_t budget_;
  Cache cache_;
  uint64_t arrived_ = 0;
  std::map<int, Object> objects_;
};

class BudgetModelTest : public ::testing::TestWithParam<uint64_t> {};
TEST_P(BudgetModelTest, AgreesWithAModel) {
  Model model(GetParam());
  for (int step = 0; step < 500; ++step) {
    SCOPED_TRACE(step);
    model.Step();
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, BudgetModelTest, ::testing::Range<uint64_t>(1, 11));

// A new object stays until newer ones that weigh a twentieth of the budget together have come.
class NewObjectTest : public ::testing::TestWithParam<uint64_t> {};
TEST_P(NewObjectTest, StaysAWhile) {
  std::mt19937_64 random(GetParam());
  const uint64_t budget = 1 + random() % 5000;
  Cache cache = MakeCache(Budget(budget));
  struct Arrival {
    int key;
    uint64_t arrived;
  };
  std::vector<Arrival> arrivals;
  uint64_t arrived = 0;
  for (int key = 0; key < 500; ++key) {
    // A hot set that is used all the time fills the budget.
    for (int hit = 0; hit < 3; ++hit) {
      const int hot = -1 - static_cast<int>(random() % 20);
      EXPECT_TRUE(
          cache.GetOrLoad(hot,
                          [&] {
                            return Page{hot, 1 + static_cast<size_t>(budget / 30)};
                          })
              .ok());
    }
    const uint64_t hot_loads = cache.Stats().loads;
    const uint64_t weight = 1 + random() % (1 + budget / (1 + random() % 100));
    if (weight > budget) continue;
    Put(cache, key, weight);
    // Loads of the hot set are arrivals as well; count them generously.
    arrived += weight;
    arrivals.push_back({key, arrived + (1 + budget / 30) * hot_loads});
    const uint64_t now = arrived + (1 + budget / 30) * hot_loads;
    for (size_t i = arrivals.size(); i-- > 0;) {
      if (now - arrivals[i].arrived > budget / 20) break;
      EXPECT_TRUE(Contains(cache, arrivals[i].key)) << key << " " << arrivals[i].key;
    }
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, NewObjectTest, ::testing::Range<uint64_t>(1, 21));

// A cache of ten pages, whose clock is that of the loads alone.
class TimeSavedTest : public ::testing::Test {
 protected:
  TimeSavedTest() { options_.value = ObjectValue::kTimeSaved; }

  Cache::Options WithClock() {
    options_.clock = [this] { return now_; };
    return options_;
  }
  Ref<Page> Load(Cache& cache, int key, absl::Duration time) {
    return *cache.GetOrLoad(key, [&] {
      now_ += time;
      return Page{key, 10};
    });
  }

  Cache::Options options_ = Budget(100);
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(TimeSavedTest, KeepsWhatTakesLongToLoad) {
  for (const ObjectValue value : {ObjectValue::kHits, ObjectValue::kTimeSaved}) {
    options_.value = value;
    Cache cache = MakeCache(WithClock());
    for (int key = 0; key < 5; ++key) {
      Load(cache, key, absl::Seconds(1));
      Load(cache, key, absl::ZeroDuration());
    }
    for (int key = 5; key < 100; ++key) {
      Load(cache, key, absl::Milliseconds(5));
      Load(cache, key, absl::ZeroDuration());
    }
    for (int key = 0; key < 5; ++key) {
      EXPECT_EQ(Contains(cache, key), value == ObjectValue::kTimeSaved) << key;
    }
    cache.CheckInvariantsForTesting();
  }
}

TEST_F(TimeSavedTest, CountsTheLoadTimesOfHitsAndWeakHits) {
  Cache cache = MakeCache(WithClock());
  Load(cache, 1, absl::Milliseconds(9));
  const Ref<Page> used = Load(cache, 2, absl::Milliseconds(1000));
  EXPECT_EQ(cache.Stats().time_saved, absl::ZeroDuration());
  const auto rounded = [](absl::Duration time) {
    const internal::LoadTime load_time(absl::ToInt64Nanoseconds(time));
    return absl::Microseconds(static_cast<int64_t>(load_time.microseconds()));
  };
  const absl::Duration first = rounded(absl::Milliseconds(9));
  const absl::Duration second = rounded(absl::Milliseconds(1000));
  for (int i = 0; i < 100; ++i) Load(cache, 1, absl::ZeroDuration());
  EXPECT_NE(cache.Get(2), nullptr);
  EXPECT_EQ(cache.Stats().time_saved, 100 * first + second);
  EXPECT_EQ(cache.Stats().hits, 101u);
  EXPECT_NE(cache.Peek(1), nullptr);
  cache.SetBudget(0);
  EXPECT_NE(cache.Get(2), nullptr);
  EXPECT_EQ(cache.Stats().weak_hits, 1u);
  EXPECT_EQ(cache.Stats().time_saved, 100 * first + 2 * second);
}

// Its hits, and those of an object that was there before, take a slower way.
TEST_F(TimeSavedTest, CountsInACacheWithAges) {
  options_.expire_after_write = absl::Hours(1);
  Cache cache = MakeCache(WithClock());
  Load(cache, 1, absl::Milliseconds(8));
  const Ref<Page> own = MakeRef<Page>(Page{2, 10});
  EXPECT_TRUE(cache
                  .GetOrLoad(2,
                             [&] {
                               now_ += absl::Milliseconds(16);
                               return own;
                             })
                  .ok());
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(cache.Get(1), nullptr);
    EXPECT_NE(cache.Get(2), nullptr);
  }
  const absl::Duration saved = cache.Stats().time_saved;
  EXPECT_GE(saved, absl::Milliseconds(3 * 24 * 15 / 16));
  EXPECT_LE(saved, absl::Milliseconds(3 * 24 * 17 / 16));
  now_ += absl::Hours(2);
  EXPECT_EQ(cache.Get(1), nullptr);
  EXPECT_EQ(cache.Stats().time_saved, saved);
}

TEST_F(TimeSavedTest, GetAllSharesItsTime) {
  Cache cache = MakeCache(WithClock());
  const std::vector<int> keys = {1, 2, 3, 4};
  const auto pages = cache.GetAll(keys, [&](const std::vector<int>& missing) {
    now_ += absl::Microseconds(40);
    std::vector<Page> loaded;
    for (const int key : missing) loaded.push_back(Page{key, 10});
    return loaded;
  });
  EXPECT_NE(cache.Get(1), nullptr);
  EXPECT_EQ(cache.Stats().time_saved, absl::Microseconds(10));
}

TEST_F(TimeSavedTest, WhatIsPutSavesWhatItsMakerSays) {
  Cache cache = MakeCache(WithClock());
  Put(cache, 1, 10);
  EXPECT_NE(cache.Get(1), nullptr);
  EXPECT_EQ(cache.Stats().time_saved, absl::ZeroDuration());
  cache.Put(2, Loaded<Page>{.object = Page{2, 10}, .load_time = absl::Microseconds(7)});
  EXPECT_NE(cache.Get(2), nullptr);
  EXPECT_EQ(cache.Stats().time_saved, absl::Microseconds(7));
  EXPECT_EQ(cache.Stats().hits, 2u);
  EXPECT_TRUE(
      cache
          .GetOrLoad(
              3,
              [&] {
                now_ += absl::Hours(1);
                return Loaded<Page>{.object = Page{3, 10}, .load_time = absl::Microseconds(2)};
              })
          .ok());
  EXPECT_NE(cache.Get(3), nullptr);
  EXPECT_EQ(cache.Stats().time_saved, absl::Microseconds(9));
}

TEST_F(TimeSavedTest, IsNotCountedUnlessAskedFor) {
  options_.value = ObjectValue::kHits;
  Cache cache = MakeCache(WithClock());
  Load(cache, 1, absl::Milliseconds(8));
  cache.Put(2, Loaded<Page>{.object = Page{2, 10}, .load_time = absl::Microseconds(7)});
  EXPECT_NE(cache.Get(1), nullptr);
  EXPECT_NE(cache.Get(2), nullptr);
  EXPECT_EQ(cache.Stats().time_saved, absl::ZeroDuration());
}

// What remains are the slots, at which a stalled look-up may still look, and the index.
TEST(BudgetTest, EntriesMemoryGoesBackAfterAPeak) {
  constexpr int kPeak = 30'000;
  for (const bool as_references : {false, true}) {
    Cache cache = MakeCache(Budget(kPeak));
    const auto fill = [&](int count) {
      for (int key = 0; key < count; ++key) {
        as_references ? cache.Put(key, MakeRef<Page>(Page{key, 1})) : Put(cache, key, 1);
      }
    };
    const int64_t before = testing::LiveAllocatedBytes();
    fill(kPeak);
    ASSERT_EQ(cache.size(), static_cast<size_t>(kPeak));
    const int64_t at_peak = testing::LiveAllocatedBytes() - before;
    cache.Clear();
    EXPECT_LT(testing::LiveAllocatedBytes() - before, at_peak * 2 / 5) << at_peak;
    cache.CheckInvariantsForTesting();
    fill(kPeak);
    EXPECT_LE(testing::LiveAllocatedBytes() - before, at_peak + at_peak / 50);
    // Also if a few stay.
    cache.SetBudget(10);
    EXPECT_LT(testing::LiveAllocatedBytes() - before, at_peak / 2) << at_peak;
    EXPECT_EQ(cache.size(), 10u);
    cache.CheckInvariantsForTesting();
    // An emergency.
    cache.SetBudget(kPeak);
    fill(kPeak);
    cache.Trim(0);
    EXPECT_LT(testing::LiveAllocatedBytes() - before, at_peak * 2 / 5) << at_peak;
    // What comes then fills a few pages.
    const int64_t after = testing::LiveAllocatedBytes();
    fill(kPeak / 30);
    EXPECT_LT(testing::LiveAllocatedBytes() - after, at_peak / 10) << at_peak;
  }
}

TEST(BudgetTest, EntriesMemoryGoesBackAfterALowerHardLimit) {
  constexpr int kPeak = 30'000;
  Cache::Options options = Budget(kPeak);
  options.hard_limit_bytes = kPeak;
  Cache cache = MakeCache(options);
  const int64_t before = testing::LiveAllocatedBytes();
  for (int key = 0; key < kPeak; ++key) Put(cache, key, 1);
  ASSERT_EQ(cache.size(), static_cast<size_t>(kPeak));
  const int64_t at_peak = testing::LiveAllocatedBytes() - before;
  cache.SetHardLimit(10);
  EXPECT_LE(cache.size(), 10u);
  EXPECT_LT(testing::LiveAllocatedBytes() - before, at_peak / 2) << at_peak;
}

}  // namespace
}  // namespace weakcache
