// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/retention/ghost_table.h"

namespace weakcache::internal {
namespace {

struct Object : LazyGreedyDual::Node {
  Object() : Node(&own_counter) {}

  LazyGreedyDual::AccessCounter own_counter;
  uint64_t key = 0;
};

LazyGreedyDual::Node* PopVictim(LazyGreedyDual& policy, size_t& looks, bool spare_used = true) {
  LazyGreedyDual::Node* const victim = policy.NextVictim(looks, spare_used, /*spare_newest=*/false);
  if (victim != nullptr) policy.Evict(victim);
  return victim;
}
LazyGreedyDual::Node* PopHeavierThan(LazyGreedyDual& policy, uint64_t weight, size_t& looks) {
  LazyGreedyDual::Node* const heavy = policy.NextHeavierThan(weight, looks);
  if (heavy != nullptr) policy.Evict(heavy);
  return heavy;
}
LazyGreedyDual::Node* PopVictim(LazyGreedyDual& policy) {
  size_t looks = 1'000'000;
  return PopVictim(policy, looks);
}

TEST(LazyGreedyDualTest, AHeavyNodeThatIsReturnedIsFoundAgain) {
  LazyGreedyDual policy(1000);
  Object heavy, light;
  policy.Insert(&heavy, 1, 60, 0);
  policy.Insert(&light, 2, 40, 0);
  policy.SetAside(&heavy);
  size_t looks = 1000;
  EXPECT_EQ(policy.NextHeavierThan(50, looks), &heavy);  // still aside
  EXPECT_EQ(policy.NextHeavierThan(50, looks), nullptr);
  policy.Return(&heavy);
  EXPECT_EQ(policy.NextHeavierThan(50, looks), &heavy);
  policy.Remove(&heavy);
  policy.Remove(&light);
}

// A cache without values: what callers of the policy do.
class KeyCache {
 public:
  explicit KeyCache(uint64_t budget) : policy_(budget) {}

  // True if it was there.
  bool Access(uint64_t key, uint64_t weight = 1, uint64_t cost = 0) {
    const auto found = objects_.find(key);
    if (found != objects_.end()) {
      found->second->own_counter.RecordAccess();
      return true;
    }
    auto object = std::make_unique<Object>();
    object->key = key;
    policy_.Insert(object.get(), key, weight, cost);
    objects_[key] = std::move(object);
    Shrink();
    return false;
  }
  void Remove(uint64_t key) {
    policy_.Remove(objects_.at(key).get());
    objects_.erase(key);
  }
  void SetWeight(uint64_t key, uint64_t weight) {
    policy_.SetWeight(objects_.at(key).get(), weight);
    Shrink();
  }
  void SetBudget(uint64_t budget) {
    policy_.SetBudget(budget);
    Shrink();
  }

  bool contains(uint64_t key) const { return objects_.contains(key); }
  const Object& object(uint64_t key) const { return *objects_.at(key); }
  const std::map<uint64_t, std::unique_ptr<Object>>& objects() const { return objects_; }
  const LazyGreedyDual& policy() const { return policy_; }

 private:
  void Shrink() {
    while (policy_.bytes() > policy_.budget()) {
      auto* const victim = static_cast<Object*>(PopVictim(policy_));
      ASSERT_NE(victim, nullptr);
      objects_.erase(victim->key);
    }
  }

  std::map<uint64_t, std::unique_ptr<Object>> objects_;
  LazyGreedyDual policy_;
};

std::vector<uint64_t> ColdestFirst(const LazyGreedyDual& policy) {
  std::vector<uint64_t> keys;
  policy.ColdestFirst([&](const LazyGreedyDual::Node& node) {
    keys.push_back(static_cast<const Object&>(node).key);
    return true;
  });
  return keys;
}

TEST(LazyGreedyDualTest, BeginsEmpty) {
  LazyGreedyDual policy(100);
  EXPECT_EQ(policy.budget(), 100);
  EXPECT_EQ(policy.bytes(), 0);
  EXPECT_EQ(policy.size(), 0);
  EXPECT_EQ(PopVictim(policy), nullptr);
  policy.CheckInvariantsForTesting();
}

TEST(LazyGreedyDualTest, EvictsTheOldestUnused) {
  KeyCache cache(100);
  for (uint64_t key = 0; key < 100; ++key) cache.Access(key);
  EXPECT_TRUE(cache.Access(0));
  // The new ones are used, too, so they take the room of the oldest.
  for (uint64_t key = 1000; key < 1020; ++key) {
    cache.Access(key);
    cache.Access(key);
  }
  EXPECT_TRUE(cache.contains(0));
  EXPECT_FALSE(cache.contains(1));
  for (uint64_t key = 1000; key < 1020; ++key) EXPECT_TRUE(cache.contains(key)) << key;
}

TEST(LazyGreedyDualTest, EvictsLargeObjectsFirst) {
  KeyCache cache(1000);
  cache.Access(1, 10);
  cache.Access(2, 900);
  cache.Access(3, 10);
  cache.Access(4, 100);
  EXPECT_FALSE(cache.contains(2));
  EXPECT_EQ(cache.policy().bytes(), 120);
}

TEST(LazyGreedyDualTest, TheNewestStays) {
  KeyCache cache(100);
  for (int round = 0; round < 3; ++round) {
    for (uint64_t key = 0; key < 100; ++key) cache.Access(key);
  }
  cache.Access(1000, 100);
  EXPECT_TRUE(cache.contains(1000));
  EXPECT_EQ(cache.policy().size(), 1);
}

TEST(LazyGreedyDualTest, AFewNewObjectsStayInASmallCache) {
  KeyCache cache(100);
  for (int round = 0; round < 5; ++round) {
    for (uint64_t key = 0; key < 10; ++key) cache.Access(key, 10);
  }
  for (uint64_t key = 1000; key < 1004; ++key) cache.Access(key, 10);
  for (uint64_t key = 1000; key < 1004; ++key) EXPECT_TRUE(cache.contains(key)) << key;
  cache.Access(1004, 10);
  EXPECT_FALSE(cache.contains(1000));
}

TEST(LazyGreedyDualTest, AnUnusedNewcomerLeavesBeforeOlderObjects) {
  KeyCache cache(100);
  for (uint64_t key = 0; key < 200; ++key) cache.Access(key);
  for (uint64_t key = 0; key < 90; ++key) EXPECT_TRUE(cache.contains(key)) << key;
  for (uint64_t key = 100; key < 190; ++key) EXPECT_FALSE(cache.contains(key)) << key;
  for (uint64_t key = 195; key < 200; ++key) EXPECT_TRUE(cache.contains(key)) << key;
}

// As with bytes that are reserved before the object comes.
TEST(LazyGreedyDualTest, AnEvictionBeforeTheInsertionIsForIt) {
  LazyGreedyDual policy(100);
  std::vector<Object> objects(300);
  uint64_t hits = 0;
  std::set<const LazyGreedyDual::Node*> present;
  for (int round = 0; round < 10; ++round) {
    for (size_t i = 0; i < objects.size(); ++i) {
      if (present.contains(&objects[i])) {
        objects[i].own_counter.RecordAccess();
        ++hits;
        continue;
      }
      while (policy.bytes() >= policy.budget()) present.erase(PopVictim(policy));
      policy.Insert(&objects[i], i, 1);
      present.insert(&objects[i]);
    }
  }
  EXPECT_GE(hits, 700);  // a loop keeps a part of itself
  policy.CheckInvariantsForTesting();
}

TEST(LazyGreedyDualTest, AScanLeavesUsedObjects) {
  KeyCache cache(100);
  for (int round = 0; round < 3; ++round) {
    for (uint64_t key = 0; key < 50; ++key) cache.Access(key);
  }
  for (uint64_t key = 1000; key < 1400; ++key) cache.Access(key);
  for (uint64_t key = 0; key < 50; ++key) EXPECT_TRUE(cache.contains(key)) << key;
}

TEST(LazyGreedyDualTest, EvictsObjectsThatAreNoLongerUsed) {
  KeyCache cache(100);
  for (int round = 0; round < 100; ++round) {
    for (uint64_t key = 0; key < 100; ++key) cache.Access(key);
  }
  for (int round = 0; round < 100; ++round) {
    for (uint64_t key = 1000; key < 1100; ++key) cache.Access(key);
  }
  for (uint64_t key = 0; key < 100; ++key) EXPECT_FALSE(cache.contains(key)) << key;
}

TEST(LazyGreedyDualTest, RecognisesReturningKeys) {
  KeyCache cache(10);
  for (uint64_t key = 0; key < 15; ++key) cache.Access(key);
  ASSERT_FALSE(cache.contains(9));
  cache.Access(9);
  EXPECT_EQ(cache.object(9).accounted_frequency, 1);
  for (uint64_t key = 100; key < 150; ++key) cache.Access(key);
  EXPECT_TRUE(cache.contains(9));
}

TEST(LazyGreedyDualTest, DoesNotRecogniseRemovedOrLongGoneKeys) {
  KeyCache cache(10);
  cache.Access(0);
  cache.Remove(0);
  cache.Access(0);
  EXPECT_EQ(cache.object(0).accounted_frequency, 0);
  for (uint64_t key = 100; key < 200; ++key) cache.Access(key);
  ASSERT_FALSE(cache.contains(120));
  cache.Access(120);
  EXPECT_EQ(cache.object(120).accounted_frequency, 0);
}

// A hit may come while its object leaves the policy, or when it has left.
TEST(LazyGreedyDualTest, AHitOutsideThePolicyDoesNothing) {
  LazyGreedyDual policy(10);
  Object object;
  for (int hit = 0; hit < 1000; ++hit) object.own_counter.RecordAccess();
  policy.Insert(&object, 1, 1);
  EXPECT_EQ(object.accounted_frequency, 0);
  policy.CheckInvariantsForTesting();
  policy.Remove(&object);
  for (int hit = 0; hit < 1000; ++hit) object.own_counter.RecordAccess();
  policy.Insert(&object, 1, 1);
  EXPECT_EQ(object.accounted_frequency, 0);
  EXPECT_EQ(PopVictim(policy), &object);
  EXPECT_EQ(PopVictim(policy), nullptr);
  policy.CheckInvariantsForTesting();
}

// A saturated frequency must not make an object immortal, nor its hits invisible.
TEST(LazyGreedyDualTest, SaturatedObjectsStillShowTheirHits) {
  LazyGreedyDual policy(8);
  Object a;
  Object b;
  Object c;
  Object newest;  // keeps the others out of the nursery
  policy.Insert(&a, 1, 1);
  policy.Insert(&b, 2, 1);
  policy.Insert(&c, 3, 1);
  policy.Insert(&newest, 4, 5);
  for (Object* object : {&a, &b, &c}) {
    for (int hit = 0; hit < 100; ++hit) object->own_counter.RecordAccess();
  }
  // All are spared once; then the first is seen to be unused since.
  EXPECT_EQ(PopVictim(policy), &a);
  b.own_counter.RecordAccess();
  EXPECT_EQ(PopVictim(policy), &c);
  EXPECT_EQ(PopVictim(policy), &b);
  EXPECT_EQ(PopVictim(policy), &newest);
  EXPECT_EQ(PopVictim(policy), nullptr);
}

TEST(LazyGreedyDualTest, ASearchIsBoundedAndGoesOn) {
  constexpr size_t kObjects = 100;
  std::vector<Object> objects(kObjects);
  LazyGreedyDual policy(kObjects);
  for (size_t i = 0; i < kObjects; ++i) policy.Insert(&objects[i], i, 1);
  for (Object& object : objects) object.own_counter.RecordAccess();
  constexpr size_t kQueued = 94;  // an eighteenth is new
  size_t looks = 60;
  EXPECT_EQ(PopVictim(policy, looks), nullptr);
  EXPECT_EQ(looks, 0);
  policy.CheckInvariantsForTesting();
  looks = 60;
  EXPECT_EQ(PopVictim(policy, looks), &objects[0]);
  EXPECT_EQ(looks, 120 - kQueued - 1);
  objects[1].own_counter.RecordAccess();
  EXPECT_EQ(PopVictim(policy, looks, /*spare_used=*/false), &objects[1]);
  EXPECT_EQ(looks, 120 - kQueued - 2);
  EXPECT_EQ(policy.size(), kObjects - 2);
}

// As if it had been used when its last user let go of it.
TEST(LazyGreedyDualTest, WhatIsSetAsideIsNoVictimUntilItReturns) {
  std::vector<Object> objects(40);
  LazyGreedyDual policy(40);
  for (size_t i = 0; i < objects.size(); ++i) policy.Insert(&objects[i], i, 1);
  size_t looks = 100;
  for (size_t i = 0; i < 3; ++i) {
    LazyGreedyDual::Node* const victim = policy.NextVictim(looks, true, true);
    ASSERT_EQ(victim, &objects[i]);
    policy.SetAside(victim);
    policy.CheckInvariantsForTesting();
  }
  EXPECT_EQ(policy.aside_bytes(), 3);
  EXPECT_EQ(policy.bytes(), 40);
  EXPECT_EQ(policy.size(), 40);
  EXPECT_EQ(ColdestFirst(policy).back(), objects[2].key);
  EXPECT_EQ(policy.OldestAside(), &objects[0]);
  policy.SetAside(&objects[0]);
  EXPECT_EQ(policy.OldestAside(), &objects[1]);
  policy.Return(&objects[1]);
  policy.Remove(&objects[2]);
  policy.CheckInvariantsForTesting();
  EXPECT_EQ(policy.aside_bytes(), 1);
  policy.SetWeight(&objects[0], 2);
  EXPECT_EQ(policy.aside_bytes(), 2);
  // The others have no use, so they go first, but for the newest.
  for (size_t i = 3; i < 36; ++i) ASSERT_NE(PopVictim(policy), &objects[1]) << i;
  EXPECT_EQ(PopVictim(policy), &objects[1]);
  EXPECT_EQ(PopVictim(policy), &objects[36]);
  looks = 100;
  EXPECT_EQ(policy.NextVictim(looks, true, /*spare_newest=*/true), nullptr);
  EXPECT_GT(looks, 0);
  EXPECT_EQ(PopVictim(policy), &objects[37]);
  EXPECT_EQ(PopVictim(policy), &objects[38]);
  EXPECT_EQ(PopVictim(policy), &objects[39]);
  EXPECT_EQ(PopVictim(policy), nullptr);
  EXPECT_EQ(policy.OldestAside(), &objects[0]);
}
TEST(LazyGreedyDualTest, ASearchForHeavyObjectsFindsThoseThatAreNewOrSetAside) {
  std::vector<Object> objects(10);
  LazyGreedyDual policy(1000);
  for (size_t i = 0; i < objects.size(); ++i) policy.Insert(&objects[i], i, 10 * (i + 1));
  policy.SetAside(&objects[4]);
  policy.SetAside(&objects[6]);
  for (const uint64_t limit : {80, 45, 0}) {
    size_t looks = 100;
    while (const LazyGreedyDual::Node* const node = PopHeavierThan(policy, limit, looks)) {
      EXPECT_GT(node->weight, limit);
    }
    EXPECT_EQ(policy.size(), limit / 10);
    policy.CheckInvariantsForTesting();
  }
}

TEST(LazyGreedyDualTest, RemovesHeavyObjectsHoweverOftenTheyWereUsed) {
  constexpr size_t kObjects = 200;
  std::vector<Object> objects(kObjects);
  LazyGreedyDual policy(1'000'000);
  std::mt19937_64 random(1);
  for (Object& object : objects) {
    policy.Insert(&object, object.key, uint64_t{1} << random() % 15);
    for (uint64_t hits = random() % 20; hits > 0; --hits) object.own_counter.RecordAccess();
  }
  size_t looks = 100;
  policy.Insert(PopVictim(policy, looks), 0, 1);  // accounts for the hits
  for (const uint64_t limit : {10'000, 4096, 100, 1, 0}) {
    looks = kObjects;
    while (const LazyGreedyDual::Node* const node = PopHeavierThan(policy, limit, looks)) {
      EXPECT_GT(node->weight, limit);
    }
    EXPECT_GT(looks, 0);
    policy.CheckInvariantsForTesting();
    policy.ColdestFirst([&](const LazyGreedyDual::Node& node) {
      EXPECT_LE(node.weight, limit);
      return true;
    });
  }
  EXPECT_EQ(policy.size(), 0);
}

// A search for heavy objects in small steps, between which objects come, go, are weighed and hit.
TEST(LazyGreedyDualTest, ASearchForHeavyObjectsGoesOn) {
  constexpr uint64_t kLimit = 1000;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    std::vector<Object> objects(300);
    std::vector<bool> inserted(objects.size());
    LazyGreedyDual policy(1'000'000);
    std::mt19937_64 random(seed);
    const auto weight = [&] { return 1 + random() % (uint64_t{1} << random() % 13); };
    for (size_t i = 0; i < objects.size(); ++i) {
      policy.Insert(&objects[i], i, weight());
      inserted[i] = true;
      for (uint64_t hits = random() % 3; hits > 0; --hits) {
        objects[i].own_counter.RecordAccess();
      }
    }
    const auto index = [&](const LazyGreedyDual::Node* node) {
      return static_cast<size_t>(static_cast<const Object*>(node) - objects.data());
    };
    size_t looks = 0;
    while (looks == 0) {
      looks = 1 + random() % 4;
      while (const LazyGreedyDual::Node* const node = PopHeavierThan(policy, kLimit, looks)) {
        EXPECT_GT(node->weight, kLimit);
        inserted[index(node)] = false;
      }
      policy.CheckInvariantsForTesting();
      if (looks > 0) break;
      const size_t i = random() % objects.size();
      if (!inserted[i]) {
        policy.Insert(&objects[i], i, 1 + random() % kLimit);
        inserted[i] = true;
      } else if (random() % 3 == 0) {
        policy.Remove(&objects[i]);
        inserted[i] = false;
      } else {
        policy.SetWeight(&objects[i], 1 + random() % kLimit);
      }
      size_t one_look = 1;
      const LazyGreedyDual::Node* const victim = PopVictim(policy, one_look);
      if (victim != nullptr) inserted[index(victim)] = false;
    }
    policy.ColdestFirst([&](const LazyGreedyDual::Node& node) {
      EXPECT_LE(node.weight, kLimit);
      return true;
    });
  }
}

// The only node of its queue, where the search is, comes to the end of that queue.
TEST(LazyGreedyDualTest, ASearchForHeavyObjectsSeesANodeThatIsQueuedAnew) {
  Object heavy, lighter, light;
  LazyGreedyDual policy(3000);
  policy.Insert(&lighter, 1, 520);
  policy.Insert(&heavy, 2, 600);
  policy.Insert(&light, 3, 1);
  Object newest;  // ends the time of the others
  policy.Insert(&newest, 4, 1600);
  policy.Remove(&newest);
  for (int hit = 0; hit < 16; ++hit) {
    lighter.own_counter.RecordAccess();
    heavy.own_counter.RecordAccess();
  }
  size_t looks = 2;
  ASSERT_EQ(PopVictim(policy, looks), nullptr);
  heavy.own_counter.RecordAccess();
  looks = 2;
  ASSERT_EQ(PopHeavierThan(policy, 550, looks), nullptr);  // has seen the others
  policy.Remove(&lighter);
  looks = 1;
  ASSERT_EQ(PopVictim(policy, looks), &light);
  looks = 1;
  ASSERT_EQ(PopVictim(policy, looks), nullptr);
  looks = 100;
  EXPECT_EQ(PopHeavierThan(policy, 550, looks), &heavy);
}

TEST(LazyGreedyDualTest, ASearchForHeavyObjectsIsFreeIfThereIsNone) {
  std::vector<Object> objects(100);
  LazyGreedyDual policy(1'000'000);
  for (Object& object : objects) policy.Insert(&object, 0, 100);
  size_t looks = 1000;
  EXPECT_EQ(PopHeavierThan(policy, 100, looks), nullptr);
  EXPECT_EQ(looks, 1000);
  EXPECT_NE(PopHeavierThan(policy, 99, looks), nullptr);
}

TEST(LazyGreedyDualTest, SetWeightKeepsTheTotalAndTheOrder) {
  KeyCache cache(1000);
  cache.Access(1, 10);
  cache.Access(2, 10);
  cache.Access(3, 600);  // the others leave the nursery
  cache.Remove(3);
  cache.SetWeight(2, 500);
  EXPECT_EQ(cache.policy().bytes(), 510);
  EXPECT_EQ(ColdestFirst(cache.policy()), (std::vector<uint64_t>{2, 1}));
  cache.SetWeight(2, 1);
  EXPECT_EQ(cache.policy().bytes(), 11);
  EXPECT_EQ(ColdestFirst(cache.policy()), (std::vector<uint64_t>{1, 2}));
  cache.SetWeight(1, 0);
  EXPECT_EQ(cache.policy().bytes(), 1);
  cache.policy().CheckInvariantsForTesting();
}

TEST(LazyGreedyDualTest, ASmallerBudgetEvicts) {
  KeyCache cache(100);
  for (uint64_t key = 0; key < 10; ++key) cache.Access(key, 10);
  cache.SetBudget(35);
  EXPECT_EQ(cache.policy().bytes(), 30);
  cache.SetBudget(0);
  EXPECT_EQ(cache.policy().size(), 0);
  cache.SetBudget(20);
  cache.Access(1, 20);
  EXPECT_TRUE(cache.contains(1));
  cache.policy().CheckInvariantsForTesting();
}

TEST(LazyGreedyDualTest, AnyWeight) {
  KeyCache cache(UINT64_MAX);
  EXPECT_EQ(cache.policy().budget(), LazyGreedyDual::kMaxBudget);
  cache.Access(1, LazyGreedyDual::kMaxBudget);
  cache.Access(2, LazyGreedyDual::kMaxBudget);
  cache.Access(3, 0);
  cache.Access(4, 1);
  cache.policy().CheckInvariantsForTesting();
  EXPECT_FALSE(cache.contains(1));
  EXPECT_FALSE(cache.contains(2));
  EXPECT_EQ(cache.policy().bytes(), 1);
  cache.SetBudget(0);
  EXPECT_EQ(cache.policy().bytes(), 0);
}

TEST(LazyGreedyDualTest, CostlyObjectsStayLonger) {
  KeyCache cache(100);
  // Half of them cost a hundred times as much as the others; all are used.
  const auto cost = [](uint64_t key) { return uint64_t{key % 2 == 0 ? 1'000u : 100'000u}; };
  for (uint64_t key = 0; key < 100; ++key) {
    cache.Access(key, 1, cost(key));
    cache.Access(key);
  }
  for (uint64_t key = 1000; key < 1050; ++key) {
    cache.Access(key, 1, cost(0));
    cache.Access(key);
  }
  for (uint64_t key = 6; key < 100; ++key) EXPECT_EQ(cache.contains(key), key % 2 == 1) << key;
  cache.policy().CheckInvariantsForTesting();
}

TEST(LazyGreedyDualTest, ACostlyNewcomerNeedsNoUse) {
  KeyCache cache(100);
  for (uint64_t key = 0; key < 200; ++key) {
    cache.Access(key, 1, 10);
    cache.Access(key);
  }
  cache.Access(1000, 1, 10);
  cache.Access(1001, 1, 100);
  for (uint64_t key = 2000; key < 2020; ++key) cache.Access(key, 1, 10);
  EXPECT_FALSE(cache.contains(1000));
  EXPECT_TRUE(cache.contains(1001));
}

// Only how priorities are rounded depends on the cost then.
TEST(LazyGreedyDualTest, EqualCostsLoseNothing) {
  KeyCache without(1000);
  KeyCache with(1000);
  std::mt19937_64 random(1);
  constexpr int kSteps = 20'000;
  int gained = 0;
  for (int step = 0; step < kSteps; ++step) {
    const uint64_t key = random() % (1 + random() % 500);
    gained += with.Access(key, 1 + key % 20, 12'345) ? 1 : 0;
    gained -= without.Access(key, 1 + key % 20) ? 1 : 0;
  }
  EXPECT_GT(gained, -kSteps / 1000);
}

TEST(LazyGreedyDualTest, AnUnknownCostIsTheAverage) {
  KeyCache cache(1000);
  cache.Access(2000, 1, kUnknownCost);
  EXPECT_EQ(cache.object(2000).cost, 0);
  for (uint64_t key = 0; key < 100; ++key) cache.Access(key, 1, key % 2 == 0 ? 16 : 64);
  cache.Access(1000, 1, kUnknownCost);
  cache.Access(1001, 1, 32);
  EXPECT_EQ(cache.object(1000).cost, cache.object(1001).cost);
  EXPECT_EQ(cache.object(98).cost, cache.object(1001).cost - 2);
  EXPECT_EQ(cache.object(99).cost, cache.object(1001).cost + 2);
  cache.Access(1002, 1, 23);  // the root of two, rounded down and up
  cache.Access(1003, 1, 22);
  EXPECT_EQ(cache.object(1002).cost, cache.object(1001).cost - 1);
  EXPECT_EQ(cache.object(1003).cost, cache.object(1001).cost - 2);
}

TEST(LazyGreedyDualTest, AnyCost) {
  KeyCache cache(LazyGreedyDual::kMaxBudget);
  const std::vector<uint64_t> weights = {0, 1, 1000, uint64_t{1} << 40,
                                         LazyGreedyDual::kMaxBudget / 8};
  uint64_t key = 0;
  for (const uint64_t cost : {uint64_t{1}, uint64_t{1000}, UINT64_MAX - 1}) {
    for (const uint64_t weight : weights) {
      for (int i = 0; i < 20; ++i) {
        cache.Access(++key, weight, cost);
        for (int use = 0; use < i; ++use) cache.Access(key);
      }
      cache.policy().CheckInvariantsForTesting();
    }
  }
  cache.SetBudget(10);
  cache.policy().CheckInvariantsForTesting();
}

TEST(LazyGreedyDualTest, ASearchForHeavyObjectsFindsCostlyOnes) {
  LazyGreedyDual policy(1'000'000);
  std::vector<Object> objects(20);
  for (size_t i = 0; i < objects.size(); ++i) {
    policy.Insert(&objects[i], i, 10'000, i == 1 ? 1'000'000'000 : 1);
    for (int use = 0; use < 20; ++use) objects[i].own_counter.RecordAccess();
  }
  Object newest;
  policy.Insert(&newest, 99, 900'000, 1);  // those before leave the nursery
  size_t looks = 1'000'000;
  while (policy.bytes() > 1'000'000) ASSERT_NE(PopVictim(policy, looks), nullptr);
  while (PopHeavierThan(policy, 9'999, looks) != nullptr) {
  }
  EXPECT_EQ(policy.size(), 0u);
}

// Objects of weight 1 take the clock round in some ten thousand evictions.
TEST(LazyGreedyDualTest, TheClockMayGoRound) {
  KeyCache cache(13);
  uint64_t greatest = 0;
  bool went_round = false;
  for (uint64_t step = 0; step < 200'000; ++step) {
    cache.Access(step % 8);
    for (int use = 0; use < 2; ++use) cache.Access(1000 + step);
    if (step % 100 != 0) continue;
    cache.policy().CheckInvariantsForTesting();
    const uint64_t priority = cache.objects().begin()->second->priority;
    went_round |= priority < greatest / 2;
    greatest = std::max(greatest, priority);
  }
  EXPECT_TRUE(went_round);
  for (uint64_t key = 0; key < 8; ++key) EXPECT_TRUE(cache.contains(key)) << key;
}

TEST(LazyGreedyDualTest, VisitsInTheOrderOfEviction) {
  KeyCache cache(100'000);
  std::mt19937_64 random(1);
  for (int step = 0; step < 1000; ++step) cache.Access(random() % 200, 1 + random() % 500);
  const std::vector<uint64_t> coldest = ColdestFirst(cache.policy());
  EXPECT_EQ(coldest.size(), cache.policy().size());
  std::vector<uint64_t> hottest;
  uint64_t lead = ~uint64_t{0};
  cache.policy().HottestFirst([&](const LazyGreedyDual::Node& node) {
    const uint64_t rank = cache.policy().RankSince(node, cache.policy().Epoch());
    EXPECT_LE(rank, lead);
    lead = rank;
    hottest.push_back(static_cast<const Object&>(node).key);
    return true;
  });
  EXPECT_EQ(std::set(hottest.begin(), hottest.end()), std::set(coldest.begin(), coldest.end()));
  EXPECT_EQ(hottest.size(), coldest.size());
  size_t visited = 0;
  cache.policy().ColdestFirst([&](const LazyGreedyDual::Node&) { return ++visited < 3; });
  EXPECT_EQ(visited, 3);
}

class LazyGreedyDualRandomTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(LazyGreedyDualRandomTest, AgreesWithAModel) {
  std::mt19937_64 random(GetParam());
  const auto weight = [&](uint64_t budget) {
    return random() % (budget / (uint64_t{1} << random() % 10) + 1);
  };
  KeyCache cache(10'000);
  for (int step = 0; step < 20'000; ++step) {
    const uint64_t key = random() % 300;
    const uint64_t budget = cache.policy().budget();
    const uint64_t choice = random() % 100;
    if (choice < 80) {
      cache.Access(key, weight(budget), random() >> random() % 64);
    } else if (choice < 99 && cache.contains(key)) {
      choice < 90 ? cache.Remove(key) : cache.SetWeight(key, weight(budget));
    } else if (choice == 99) {
      cache.SetBudget(random() % 20'000);
    }
    // The objects in the cache are the model: the policy's totals are theirs, and within the
    // budget.
    if (step % 16 != 0) continue;
    uint64_t bytes = 0;
    for (const auto& [its_key, object] : cache.objects()) bytes += object->weight;
    ASSERT_EQ(cache.policy().bytes(), bytes);
    ASSERT_LE(bytes, cache.policy().budget());
    ASSERT_EQ(cache.policy().size(), cache.objects().size());
    cache.policy().CheckInvariantsForTesting();
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, LazyGreedyDualRandomTest, ::testing::Range<uint64_t>(1, 6));

class LazyGreedyDualNewcomerTest : public ::testing::TestWithParam<uint64_t> {};

// The guarantee: an object stays until newer ones that weigh a twentieth of the budget have come,
// as long as it fits beside them. So the newest always stays.
TEST_P(LazyGreedyDualNewcomerTest, NewObjectsStay) {
  std::mt19937_64 random(GetParam());
  const uint64_t budget = GetParam() % 2 == 0 ? 1 + random() % 50 : 10'000;
  KeyCache cache(budget);
  struct Arrival {
    uint64_t key;
    uint64_t weight;
    bool promised = true;  // false once it was removed
  };
  std::vector<Arrival> arrivals;  // newest last
  for (int step = 0; step < 20'000; ++step) {
    const uint64_t key = random() % 300;
    const uint64_t weight = random() % (budget / (uint64_t{1} << random() % 8) + 1);
    const bool remove = random() % 10 == 0 && cache.contains(key);
    const bool arrived = !remove && !cache.Access(key, weight);
    if (remove) cache.Remove(key);
    if (remove || arrived) {
      for (Arrival& arrival : arrivals) {
        if (arrival.key == key) arrival.promised = false;
      }
    }
    if (arrived) arrivals.push_back({key, weight});
    uint64_t newer = 0;
    size_t i = arrivals.size();
    for (; i > 0 && newer * 20 < budget; --i) {
      const Arrival& arrival = arrivals[i - 1];
      if (arrival.promised && newer + arrival.weight <= budget) {
        ASSERT_TRUE(cache.contains(arrival.key)) << newer << " newer bytes, step " << step;
      }
      newer += arrival.weight;
    }
    arrivals.erase(arrivals.begin(), arrivals.begin() + static_cast<std::ptrdiff_t>(i));
    if (step % 64 == 0) cache.policy().CheckInvariantsForTesting();
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, LazyGreedyDualNewcomerTest, ::testing::Range<uint64_t>(1, 7));

// Synthetic traces, each with what this policy reaches and a little slack.
TEST(LazyGreedyDualTraceTest, ALoopKeepsAPartOfItself) {
  KeyCache cache(202);
  uint64_t hits = 0;
  for (int round = 0; round < 100; ++round) {
    for (uint64_t key = 0; key < 1011; ++key) hits += cache.Access(key) ? 1 : 0;
  }
  EXPECT_GE(hits, 18'198);  // .18
}

// One that the ghost knows when it comes back.
TEST(LazyGreedyDualTraceTest, AShortLoopKeepsAPartOfItself) {
  KeyCache cache(202);
  uint64_t hits = 0;
  for (int round = 0; round < 100; ++round) {
    for (uint64_t key = 0; key < 300; ++key) hits += cache.Access(key) ? 1 : 0;
  }
  EXPECT_GE(hits, 17'000);  // of 20,200, if it were known beforehand
}

TEST(LazyGreedyDualTraceTest, ShuffledEpochsKeepTheSameObjects) {
  KeyCache cache(1000);
  std::mt19937_64 random(1);
  std::vector<uint64_t> keys(3000);
  std::iota(keys.begin(), keys.end(), uint64_t{0});
  uint64_t hits = 0;
  for (int epoch = 0; epoch < 20; ++epoch) {
    for (size_t left = keys.size(); left > 1; --left) {
      std::swap(keys[left - 1], keys[random() % left]);
    }
    for (const uint64_t key : keys) hits += cache.Access(key) ? 1 : 0;
  }
  EXPECT_GE(hits, 17'000);  // of 60,000; 19,000 would be ideal
}

TEST(LazyGreedyDualTraceTest, AOneHitFloodLeavesWhatIsUsed) {
  KeyCache cache(200);
  for (int round = 0; round < 3; ++round) {
    for (uint64_t key = 0; key < 150; ++key) cache.Access(key);
  }
  uint64_t hits = 0;
  uint64_t flood = 1000;
  for (int round = 0; round < 200; ++round) {
    for (uint64_t key = 0; key < 150; ++key) {
      hits += cache.Access(key) ? 1 : 0;
      for (int once = 0; once < 5; ++once) cache.Access(flood++);
    }
  }
  EXPECT_GE(hits, 29'000);  // of 30,000
}

TEST(LazyGreedyDualTraceTest, ANewWorkingSetTakesOver) {
  KeyCache cache(1000);
  for (int round = 0; round < 30; ++round) {
    for (uint64_t key = 0; key < 900; ++key) cache.Access(key);
  }
  uint64_t hits = 0;
  for (int round = 0; round < 10; ++round) {
    for (uint64_t key = 10'000; key < 10'900; ++key) hits += cache.Access(key) ? 1 : 0;
  }
  EXPECT_GE(hits, 5000);  // of 9,000
}

TEST(LazyGreedyDualTest, TheGhostIsBounded) {
  KeyCache cache(1000);
  for (uint64_t key = 0; key < 100'000; ++key) cache.Access(key);
  EXPECT_LE(cache.policy().ghost_capacity(), 3500);
  cache.SetBudget(10);
  for (uint64_t key = 0; key < 100; ++key) cache.Access(key);
  EXPECT_LE(cache.policy().ghost_capacity(), 200);
}

// Other threads hit objects while one evicts; ThreadSanitizer would report a race.
TEST(LazyGreedyDualTest, RecordAccessNeedsNoLock) {
  constexpr size_t kObjects = 64;
  std::vector<Object> objects(kObjects);
  LazyGreedyDual policy(kObjects);
  for (size_t i = 0; i < kObjects; ++i) policy.Insert(&objects[i], i, 1);
  std::atomic<bool> done{false};
  std::thread hitter([&] {
    while (!done) {
      for (Object& object : objects) object.own_counter.RecordAccess();
    }
  });
  for (int round = 0; round < 2000; ++round) {
    LazyGreedyDual::Node* const victim = PopVictim(policy);
    ASSERT_NE(victim, nullptr);
    policy.Insert(victim, victim->hash, 1);
  }
  done = true;
  hitter.join();
  policy.CheckInvariantsForTesting();
  EXPECT_EQ(policy.size(), kObjects);
}

// Returns how often an object had been used, if it was among the latest `window` evictions.
std::optional<uint8_t> Take(GhostTable& ghost, uint64_t hash, size_t window) {
  const std::optional<GhostTable::Eviction> last = ghost.Take(hash);
  if (!last.has_value() || last->age >= window) return std::nullopt;
  return last->frequency;
}

TEST(GhostTableTest, RemembersFrequenciesOnce) {
  GhostTable ghost;
  EXPECT_EQ(Take(ghost, 1, 100), std::nullopt);
  ghost.Remember(1, 7, 100);
  ghost.Remember(2, 15, 100);
  EXPECT_EQ(Take(ghost, 1, 100), 7);
  EXPECT_EQ(Take(ghost, 1, 100), std::nullopt);
  EXPECT_EQ(Take(ghost, 2, 1), 15);
}

TEST(GhostTableTest, ForgetsKeysOlderThanTheWindow) {
  GhostTable ghost;
  for (uint64_t hash = 0; hash < 10; ++hash) ghost.Remember(hash, 1, 100);
  EXPECT_EQ(Take(ghost, 4, 5), std::nullopt);
  EXPECT_EQ(Take(ghost, 5, 5), 1);
}

// Whatever was forgotten in between, or moved as the table grew and shrank.
TEST(GhostTableTest, ForgetsTheOldestOfABucket) {
  for (const size_t room : {1, 400}) {
    GhostTable ghost;
    for (int grown = 0; grown < 400; ++grown) ghost.Remember(1'000'000, 1, room);
    for (int shrunk = 0; shrunk < 400; ++shrunk) ghost.Remember(1'000'001, 1, 1);
    ASSERT_EQ(ghost.capacity(), 8u);
    for (uint64_t hash = 0; hash < 8; ++hash) ghost.Remember(hash, 1, 1);
    EXPECT_EQ(Take(ghost, 3, 100), 1);
    EXPECT_EQ(Take(ghost, 7, 100), 1);
    for (uint64_t hash = 8; hash < 12; ++hash) ghost.Remember(hash, 1, 1);
    for (const uint64_t forgotten : {0, 1, 3, 7}) {
      EXPECT_EQ(Take(ghost, forgotten, 100), std::nullopt) << forgotten;
    }
    for (const uint64_t kept : {2, 4, 5, 6, 8, 9, 10, 11}) {
      EXPECT_EQ(Take(ghost, kept, 100), 1) << kept;
    }
  }
}

TEST(GhostTableTest, KeepsNearlyAllWhileThereIsRoom) {
  constexpr uint64_t kCount = 10'000;
  for (const bool while_it_grows : {false, true}) {
    GhostTable ghost;
    const uint64_t begin = while_it_grows ? 0 : 5 * kCount;
    for (uint64_t hash = 0; hash < begin + kCount; ++hash) {
      ghost.Remember(hash, hash % 16, while_it_grows ? hash + 1 : kCount);
    }
    uint64_t kept = 0;
    for (uint64_t hash = begin; hash < begin + kCount; ++hash) {
      const std::optional<uint8_t> frequency = Take(ghost, hash, kCount);
      if (!frequency.has_value()) continue;
      EXPECT_EQ(*frequency, hash % 16);
      ++kept;
    }
    EXPECT_GE(kept, kCount / 10 * (while_it_grows ? 8 : 9));
  }
}

// Its work is done under the budget's lock: it grows and shrinks by a few entries at a time.
TEST(GhostTableTest, GrowsAndShrinksInSteps) {
  GhostTable ghost;
  size_t capacity = 0;
  uint64_t hash = 0;
  for (const size_t room : {1'000'000, 10}) {
    for (int eviction = 0; eviction < 100'000; ++eviction) {
      const size_t before = capacity;
      ghost.Remember(++hash, 1, room);
      capacity = ghost.capacity();
      ASSERT_LE(std::max(capacity, before) - std::min(capacity, before), 32);
      ASSERT_EQ(Take(ghost, hash, 1), 1);
      ghost.Remember(hash, 1, room);
      capacity = ghost.capacity();
    }
    EXPECT_EQ(capacity >= 1'000'000, room > 10);
  }
  EXPECT_LE(capacity, 80);
}

// The numbers of a weak hash differ in a few bits, wherever they are.
TEST(GhostTableTest, SpreadsWeakHashes) {
  for (int shift = 0; shift < 50; ++shift) {
    GhostTable ghost;
    constexpr uint64_t kCount = 10'000;
    for (uint64_t i = 0; i < kCount; ++i) ghost.Remember(i << shift, 1, 2 * kCount);
    uint64_t kept = 0;
    for (uint64_t i = 0; i < kCount; ++i) {
      kept += Take(ghost, i << shift, kCount).has_value() ? 1 : 0;
    }
    EXPECT_GE(kept, kCount * 9 / 10) << shift;
  }
}

}  // namespace
}  // namespace weakcache::internal
