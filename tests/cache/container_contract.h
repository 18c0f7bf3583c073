// SPDX-License-Identifier: Apache-2.0
// What every weak container promises, as one suite. A test file makes an adapter of its container
// for each kind of handle, and of slot, and instantiates the suite:
//
//   struct Adapter {
//     using Handle = Ref<Object>;
//     Handle AddNew(int id, OnDestruction = nullptr);     // a new object, entered or created there
//     bool Has(const Handle& object) const;
//     void ForEach(const std::function<void(const Object&)>&);
//     Container container;
//     // Where the container can do it:
//     void Add(const Handle& object);                      // enters it, or replaces
//     size_t Remove(const Handle& object);
//     size_t RemoveById(int id);                           // needs no handle
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Name, ContainerContract, Adapter);
//
// Handles that notify nobody are promised less: see cache/weak_value_map.h.
#ifndef WEAKCACHE_TESTS_CACHE_CONTAINER_CONTRACT_H_
#define WEAKCACHE_TESTS_CACHE_CONTAINER_CONTRACT_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/object.h"
#include "tests/support/race.h"
#include "tests/support/rounds.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::testing {

inline const int kRaceRounds = Rounds(10000, kThreadSanitizer ? 500 : 2000);

template <typename Adapter>
class ContainerContract : public ::testing::Test {
 protected:
  using Handle = typename Adapter::Handle;
  using Traits = HandleTraits<Handle>;
  using Weak = typename Traits::weak_type;
  // Whether the container is told of the end of its objects.
  static constexpr bool kNotifies = Traits::kNotifiesExpiry;
  static constexpr bool kCanAdd = requires(Adapter & adapter, const Handle& handle) {
    adapter.Add(handle);
  };
  static constexpr bool kCanRemove = requires(Adapter & adapter, const Handle& handle) {
    adapter.Remove(handle);
  };
  static constexpr bool kCanRemoveById = requires(Adapter & adapter) { adapter.RemoveById(0); };

  void TearDown() override {
    if (adapter_ != nullptr) adapter_->container.CheckInvariantsForTesting();
  }

  // Of objects from `first` on.
  std::vector<Handle> AddNewOnes(int count, int first = 0) {
    std::vector<Handle> objects;
    for (int id = first; id < first + count; ++id) objects.push_back(adapter_->AddNew(id));
    return objects;
  }
  static std::multiset<int> IdsIn(Adapter& adapter) {
    std::multiset<int> ids;
    adapter.ForEach([&](const Object& object) { ids.insert(object.id); });
    return ids;
  }
  std::multiset<int> Ids() { return IdsIn(*adapter_); }

  // With `dead` entries that may not be purged yet, if nobody has told the container.
  void ExpectSize(size_t live, size_t dead) {
    const size_t size = adapter_->container.size();
    EXPECT_GE(size, live);
    EXPECT_LE(size, kNotifies ? live : live + dead);
    EXPECT_EQ(Ids().size(), live);
    adapter_->container.CheckInvariantsForTesting();
  }

  // Races the last release of one of two objects, and that of a weak reference to it, against
  // `operate(id)`. Both must come first at times.
  void RaceLastReleaseAgainst(const std::function<void(int)>& operate) {
    constexpr int kDying = 1;
    Handle staying, dying;
    Weak dropped, witness;
    int expired_first = 0;
    int operated_first = 0;
    Race(
        {kRaceRounds, {&expired_first, &operated_first}},
        [&](int) {
          if (adapter_ == nullptr) adapter_ = std::make_unique<Adapter>();
          staying = adapter_->AddNew(0);
          dying = adapter_->AddNew(kDying);
          dropped = Traits::MakeWeak(dying);
          witness = dropped;
        },
        {[&] { dying = Handle(); },
         [&] {
           operate(kDying);
           ++(Traits::Expired(witness) ? expired_first : operated_first);
         },
         [&] { dropped = Weak(); }},
        [&](int) {
          ASSERT_TRUE(Traits::Expired(witness));
          if (adapter_ != nullptr) CheckAfterRace();
          staying = Handle();
        });
    EXPECT_GT(expired_first, 0);
    EXPECT_GT(operated_first, 0);
  }
  void CheckAfterRace() {
    adapter_->container.CheckInvariantsForTesting();
    const size_t live = Ids().size();
    ASSERT_LE(live, 2u);
    if (kNotifies) {
      ASSERT_EQ(adapter_->container.size(), live);
    }
    adapter_->container.purge();
    adapter_->container.CheckInvariantsForTesting();
    ASSERT_EQ(adapter_->container.size(), live);
  }

  std::unique_ptr<Adapter> adapter_ = std::make_unique<Adapter>();
};

TYPED_TEST_SUITE_P(ContainerContract);

TYPED_TEST_P(ContainerContract, FindsWhatWasAddedAndNotWhatWasRemoved) {
  const auto objects = this->AddNewOnes(5000);
  EXPECT_EQ(this->adapter_->container.size(), objects.size());
  for (const auto& object : objects) ASSERT_TRUE(this->adapter_->Has(object)) << object->id;
  this->adapter_->container.CheckInvariantsForTesting();
  if constexpr (TestFixture::kCanRemove) {
    for (size_t i = 0; i < objects.size(); i += 2) {
      EXPECT_EQ(this->adapter_->Remove(objects[i]), 1u);
      EXPECT_EQ(this->adapter_->Remove(objects[i]), 0u);
    }
    EXPECT_EQ(this->adapter_->container.size(), objects.size() / 2);
    for (size_t i = 0; i < objects.size(); ++i) {
      EXPECT_EQ(this->adapter_->Has(objects[i]), i % 2 == 1) << i;
    }
  }
}

// Hand-written caches fail here: dead entries never leave.
TYPED_TEST_P(ContainerContract, SizeFollowsAThousandExpiries) {
  auto objects = this->AddNewOnes(3000);
  for (int i = 0; i < 1000; ++i) {
    objects[i * 3] = typename TestFixture::Handle();
    const size_t size = this->adapter_->container.size();
    ASSERT_EQ(size, TestFixture::kNotifies ? 2999u - i : 3000u);
  }
  EXPECT_EQ(this->Ids().size(), 2000u);
  this->adapter_->container.CheckInvariantsForTesting();
  EXPECT_EQ(this->adapter_->container.purge(), 1000u);
  EXPECT_EQ(this->adapter_->container.purge(), 0u);
  EXPECT_EQ(this->adapter_->container.size(), 2000u);
}

TYPED_TEST_P(ContainerContract, AnOperationPurgesUpToFourEntries) {
  this->AddNewOnes(100).clear();
  this->adapter_->container.purge();
  this->AddNewOnes(100).clear();
  const auto fresh = this->adapter_->AddNew(1000);
  const size_t purged = this->adapter_->container.purge();
  if (TestFixture::kNotifies) {
    EXPECT_EQ(purged, 96u);
  } else {
    EXPECT_GE(purged, 96u);
  }
  EXPECT_TRUE(this->adapter_->Has(fresh));
  EXPECT_EQ(this->adapter_->container.size(), 1u);
}

// The dead are found by going round the slots: while objects come and go, few of them pile up.
TYPED_TEST_P(ContainerContract, SteadyChurnLeavesFewDeadEntries) {
  constexpr size_t kLive = 1000;
  std::deque<typename TestFixture::Handle> objects;
  uint32_t random = 1;
  for (int id = 0; id < 30'000; ++id) {
    objects.push_back(this->adapter_->AddNew(id));
    if (objects.size() <= kLive) continue;
    // At first the oldest goes, later any.
    random = random * 1664525u + 1013904223u;
    if (id > 15'000) std::swap(objects.front(), objects[random % kLive]);
    objects.pop_front();
    const size_t size = this->adapter_->container.size();
    ASSERT_LE(size, TestFixture::kNotifies ? kLive : kLive * 4 / 3 + kLive / 16 + 16) << id;
  }
  this->ExpectSize(kLive, kLive);
}

TYPED_TEST_P(ContainerContract, AQuarterAsManyOperationsPurgeAMassExpiry) {
  constexpr int kMany = 4000;
  this->AddNewOnes(kMany).clear();
  constexpr int kFew = kMany / 64 + 8;  // where there might have been entries
  const auto fresh = this->AddNewOnes(kMany / 4 + (TestFixture::kNotifies ? 0 : kFew), kMany);
  EXPECT_EQ(this->adapter_->container.size(), fresh.size());
  EXPECT_EQ(this->adapter_->container.purge(), 0u);
}

// Entries that have left are not looked at any more, however many they were.
TYPED_TEST_P(ContainerContract, ChurnOfFewAfterManyHaveLeftLeavesFewDeadEntries) {
  constexpr int kMany = 5000;
  using Handles = std::vector<typename TestFixture::Handle>;
  std::vector<std::function<void(Handles&)>> ways_out = {
      [&](Handles&) { this->adapter_->container.clear(); },
      [&](Handles& objects) {
        objects.clear();
        this->adapter_->container.purge();
      },
      [&](Handles& objects) {
        objects.clear();
        this->adapter_->container.shrink_to_fit();
      }};
  if constexpr (TestFixture::kCanRemove) {
    ways_out.push_back([&](Handles& objects) {
      for (const auto& object : objects) this->adapter_->Remove(object);
    });
  }
  if constexpr (requires { this->adapter_->container.pop(); }) {
    ways_out.push_back([&](Handles&) {
      while (this->adapter_->container.pop()) continue;
    });
  }
  for (const auto& way_out : ways_out) {
    auto many = this->AddNewOnes(kMany);
    way_out(many);
    std::deque<typename TestFixture::Handle> few;
    for (int id = kMany; id < 2 * kMany; ++id) {
      few.push_back(this->adapter_->AddNew(id));
      if (few.size() > 10) few.pop_front();
    }
    EXPECT_LE(this->adapter_->container.size(), 20u);
    this->ExpectSize(10, 10);
  }
}

// A container in steady state takes no more memory however long it runs.
TYPED_TEST_P(ContainerContract, MemoryIsBoundedWithoutAPurge) {
  int64_t bytes_early = 0;
  for (int round = 0; round < 20'000; ++round) {
    this->adapter_->AddNew(round);
    if (round == 1000) bytes_early = LiveAllocatedBytes();
  }
  EXPECT_LE(LiveAllocatedBytes(), bytes_early);
}

// Hand-written caches fail here: make_shared memory pinned by weak pointers.
TYPED_TEST_P(ContainerContract, AnExpiredEntryKeepsLittleMemory) {
  constexpr int kObjects = 10'000;
  const int64_t before = LiveAllocatedBytes();
  this->AddNewOnes(kObjects).clear();
  // That of std::make_shared is the reason for Ref.
  if (TestFixture::kNotifies) {
    EXPECT_LE((LiveAllocatedBytes() - before) / kObjects, 128);
  }
  this->adapter_->container.purge();
  this->adapter_->container.shrink_to_fit();
  EXPECT_LE(LiveAllocatedBytes() - before, 8192);  // the first page of a few slots, if at all
}

// Hand-written caches fail here: a deleter touches a destroyed map.
TYPED_TEST_P(ContainerContract, ContainerMayGoFirst) {
  const int64_t before = LiveAllocations();
  {
    auto objects = this->AddNewOnes(100);
    std::thread([&] { this->adapter_.reset(); }).join();
    EXPECT_EQ(objects[50]->id, 50);
    std::thread([&] { objects.clear(); }).join();
  }
  EXPECT_LT(LiveAllocations(), before);
}

TYPED_TEST_P(ContainerContract, ObjectsMayGoFirst) {
  const int64_t before = LiveAllocations();
  {
    auto objects = this->AddNewOnes(100);
    std::thread([&] { objects.clear(); }).join();
    this->ExpectSize(0, 100);
    std::thread([&] { this->adapter_.reset(); }).join();
  }
  EXPECT_LT(LiveAllocations(), before);
}

// An object that the container created may lie in it: then its page stays, and no more than that.
TYPED_TEST_P(ContainerContract, SurvivorsOfTheContainerKeepTheirPagesOnly) {
  constexpr int kSurvivors = 10;
  using Handle = typename TestFixture::Handle;
  this->adapter_.reset();
  std::vector<Handle> survivors(kSurvivors);
  typename TestFixture::Weak weak;
  const int64_t allocations = LiveAllocations();
  const int64_t bytes = LiveAllocatedBytes();
  this->adapter_ = std::make_unique<TypeParam>();
  {
    const std::vector<Handle> objects = this->AddNewOnes(1000 * kSurvivors);
    for (int i = 0; i < kSurvivors; ++i) survivors[i] = objects[i * 1000];
    weak = TestFixture::Traits::MakeWeak(objects[5]);
  }
  std::thread([&] { this->adapter_.reset(); }).join();
  constexpr int64_t kOne = 64 * 1024 + sizeof(Object) + 1024;
  for (int i = 0; i < kSurvivors; ++i) {
    EXPECT_LE(LiveAllocatedBytes() - bytes, kOne * (kSurvivors - i + 1)) << i;
    EXPECT_EQ(survivors[i]->id, i * 1000);
    std::thread([&] { survivors[i] = Handle(); }).join();
  }
  EXPECT_TRUE(TestFixture::Traits::Expired(weak));
  std::thread([&] { weak = typename TestFixture::Weak(); }).join();
  EXPECT_EQ(LiveAllocations(), allocations);
  EXPECT_EQ(LiveAllocatedBytes(), bytes);
}

// Object, entry, container and weak reference end in all orders, on this or on other threads.
TYPED_TEST_P(ContainerContract, WeakReferencesAndEntriesEndInAnyOrder) {
  this->adapter_.reset();
  int order[] = {0, 1, 2, 3};
  const int64_t before = LiveAllocations();
  int permutation = 0;
  do {
    this->adapter_ = std::make_unique<TypeParam>();
    auto object = this->adapter_->AddNew(permutation);
    auto weak = TestFixture::Traits::MakeWeak(object);
    bool is_there = true;
    bool weak_is_there = true;
    const std::function<void()> ends[] = {
        [&] { object = typename TestFixture::Handle(), is_there = false; },
        [&] {
          if (this->adapter_ != nullptr) this->adapter_->container.clear();
        },
        [&] { this->adapter_.reset(); },
        [&] { weak = typename TestFixture::Weak(), weak_is_there = false; }};
    for (const int end : order) {
      if ((permutation + end) % 2 == 0) {
        ends[end]();
      } else {
        std::thread(ends[end]).join();
      }
      if (this->adapter_ != nullptr) this->adapter_->container.CheckInvariantsForTesting();
      ASSERT_EQ(!TestFixture::Traits::Expired(weak), is_there && weak_is_there);
      if (is_there) {
        ASSERT_EQ(object->id, permutation);
      }
    }
    ++permutation;
    ASSERT_EQ(LiveAllocations(), before) << permutation;
  } while (std::next_permutation(std::begin(order), std::end(order)));
}

// What was removed, and lives on, has nothing to do with its successor under the same key.
TYPED_TEST_P(ContainerContract, ARemovedObjectLeavesItsSuccessorAlone) {
  std::vector<typename TestFixture::Handle> objects;
  for (int round = 0; round < 100; ++round) {
    objects.push_back(this->adapter_->AddNew(7));
    ASSERT_TRUE(this->adapter_->Has(objects.back()));
    ASSERT_EQ(this->Ids(), std::multiset<int>{7});
    if constexpr (TestFixture::kCanRemove) {
      if (round % 2 == 0) {
        ASSERT_EQ(this->adapter_->Remove(objects.back()), 1u);
      } else {
        this->adapter_->container.clear();
      }
    } else {
      this->adapter_->container.clear();
    }
    ASSERT_EQ(this->adapter_->container.size(), 0u);
    if (round % 3 == 0) objects.front() = nullptr;
    this->adapter_->container.CheckInvariantsForTesting();
  }
  const auto last = this->adapter_->AddNew(7);
  while (!objects.empty()) {
    objects.pop_back();
    ASSERT_TRUE(this->adapter_->Has(last));
    ASSERT_EQ(this->adapter_->container.size(), 1u);
  }
  EXPECT_EQ(this->adapter_->container.purge(), 0u);
}

// Hand-written caches fail here: a destructor that looks itself up; that erases; and the last
// reference dropped inside the cache.
TYPED_TEST_P(ContainerContract, DestructorMayUseItsOwnContainer) {
  auto objects = this->AddNewOnes(100);
  std::vector<typename TestFixture::Handle> inserted;
  bool found_itself = false;
  auto self = this->adapter_->AddNew(1000, [&](const Object& object) {
    this->adapter_->ForEach([&](const Object& other) { found_itself |= other.id == object.id; });
    if constexpr (TestFixture::kCanRemoveById) {
      EXPECT_EQ(this->adapter_->RemoveById(object.id), 0u);
    }
    if constexpr (TestFixture::kCanRemove) {
      EXPECT_EQ(this->adapter_->Remove(objects[3]), 1u);
    }
    objects[3] = nullptr;
    for (int id = 2000; id < 2200; ++id) inserted.push_back(this->adapter_->AddNew(id));
    objects[4] = nullptr;
    this->adapter_->container.purge();
    this->adapter_->container.shrink_to_fit();
    EXPECT_GE(this->adapter_->container.size(), 298u);
  });
  self = nullptr;
  EXPECT_FALSE(found_itself);
  this->ExpectSize(298, 1);
}

TYPED_TEST_P(ContainerContract, ClearInADestructorEmptiesAtOnce) {
  auto objects = this->AddNewOnes(10);
  auto self = this->adapter_->AddNew(1000, [&](const Object&) {
    this->adapter_->container.clear();
    EXPECT_EQ(this->adapter_->container.size(), 0u);
  });
  self = nullptr;
  EXPECT_EQ(this->adapter_->container.size(), 0u);
  this->adapter_->container.CheckInvariantsForTesting();
  const auto others = this->AddNewOnes(10, 100);
  this->ExpectSize(10, 0);
}

TYPED_TEST_P(ContainerContract, ClearForgetsAllAndKeepsNone) {
  auto objects = this->AddNewOnes(100);
  objects[7] = nullptr;
  this->adapter_->container.clear();
  EXPECT_EQ(this->adapter_->container.size(), 0u);
  EXPECT_FALSE(this->adapter_->Has(objects[8]));
  this->adapter_->container.CheckInvariantsForTesting();
  if constexpr (TestFixture::kCanAdd) {
    for (int i = 0; i < 7; ++i) this->adapter_->Add(objects[i]);
    this->ExpectSize(7, 0);
  }
}

TYPED_TEST_P(ContainerContract, IterationSurvivesInsertionErasureAndExpiry) {
  auto objects = this->AddNewOnes(300);
  std::vector<typename TestFixture::Handle> inserted;
  std::multiset<int> seen;
  this->adapter_->ForEach([&](const Object& object) {
    seen.insert(object.id);
    if (object.id >= 300 || object.id % 3 != 0) return;
    // From the third on, erases the next, expires the one after that, and inserts a new one.
    if (object.id % 2 == 0) {
      if constexpr (TestFixture::kCanRemove) this->adapter_->Remove(objects[object.id + 1]);
      objects[object.id + 1] = nullptr;
      objects[object.id + 2] = nullptr;
    }
    inserted.push_back(this->adapter_->AddNew(1000 + object.id));
    if (object.id % 50 == 0) this->adapter_->container.shrink_to_fit();
  });
  for (int id = 0; id < 300; id += 3) EXPECT_EQ(seen.count(id), 1u) << id;
  for (const int id : seen) EXPECT_EQ(seen.count(id), 1u) << id;
  this->ExpectSize(300u - 100u + 100u, 100);
}

TYPED_TEST_P(ContainerContract, IterationHoldsTheObjectThatItStandsOn) {
  auto objects = this->AddNewOnes(10);
  int steps = 0;
  this->adapter_->ForEach([&](const Object& object) {
    const int id = object.id;
    objects.clear();
    EXPECT_EQ(object.id, id);
    ++steps;
  });
  EXPECT_EQ(steps, 1);
  this->ExpectSize(0, 10);
}

TYPED_TEST_P(ContainerContract, MovesAndSwaps) {
  auto objects = this->AddNewOnes(30);
  TypeParam other;
  other.container = std::move(this->adapter_->container);
  EXPECT_EQ(this->adapter_->container.size(), 0u);
  EXPECT_TRUE(other.Has(objects[3]));
  objects[3] = nullptr;
  EXPECT_EQ(this->IdsIn(other).size(), 29u);
  objects[3] = this->adapter_->AddNew(1000);
  swap(this->adapter_->container, other.container);
  EXPECT_EQ(this->Ids().size(), 29u);
  EXPECT_EQ(other.container.size(), 1u);
  other.container.CheckInvariantsForTesting();
  this->adapter_->container.CheckInvariantsForTesting();
  auto moved = std::move(other.container);
  EXPECT_EQ(moved.size(), 1u);
  objects.clear();
  EXPECT_EQ(this->adapter_->container.purge(), 30u);
  EXPECT_EQ(moved.purge(), 1u);
  moved.CheckInvariantsForTesting();
}

// What a bounded purge has taken out of the queue and not yet looked at is the container's, too.
TYPED_TEST_P(ContainerContract, WhatIsLeftToPurgeGoesAlongWithASwap) {
  auto objects = this->AddNewOnes(100);
  objects.resize(1);
  objects.push_back(this->adapter_->AddNew(1000));
  TypeParam other;
  const auto object_of_the_other = other.AddNew(2000);
  swap(this->adapter_->container, other.container);
  EXPECT_EQ(this->adapter_->container.purge(), 0u);
  EXPECT_EQ(this->Ids(), std::multiset<int>{2000});
  EXPECT_GT(other.container.purge(), 0u);
  EXPECT_EQ(other.container.size(), 2u);
  other.container.CheckInvariantsForTesting();
  this->adapter_->container.CheckInvariantsForTesting();
}

TYPED_TEST_P(ContainerContract, AFailedAllocationLeavesItAsItWas) {
  std::vector<typename TestFixture::Handle> objects;
  std::multiset<int> ids;
  const auto is_as_it_was = [&] {
    this->adapter_->container.CheckInvariantsForTesting();
    ASSERT_EQ(this->adapter_->container.size(), ids.size());
    ASSERT_EQ(this->Ids(), ids);
  };
  objects.reserve(100);
  int failures = 0;
  for (int id = 0; id < 100; ++id) {
    failures +=
        FailEachAllocation([&] { objects.push_back(this->adapter_->AddNew(id)); }, is_as_it_was);
    ids.insert(id);
    is_as_it_was();
    failures +=
        FailEachAllocation([&] { this->adapter_->container.reserve(100 + 10 * id); }, is_as_it_was);
    if (id % 10 == 0) {
      failures +=
          FailEachAllocation([&] { this->adapter_->container.shrink_to_fit(); }, is_as_it_was);
      is_as_it_was();
    }
  }
  EXPECT_GE(failures, 200);
  for (const auto& object : objects) ASSERT_EQ(object.use_count(), 1u);
}

TYPED_TEST_P(ContainerContract, AThrowingConstructorLeavesItAsItWas) {
  for (int present = 0; present < 40; ++present) {
    this->adapter_ = std::make_unique<TypeParam>();
    const auto objects = this->AddNewOnes(present);
    for (int i = 0; i < 3; ++i) {
      EXPECT_THROW(this->adapter_->AddNew(-1), std::invalid_argument);
      this->ExpectSize(present, 0);
    }
    const auto next = this->adapter_->AddNew(present);
    this->ExpectSize(present + 1, 0);
  }
}

TYPED_TEST_P(ContainerContract, GetsItsMemoryBackByShrinking) {
  const auto few = this->AddNewOnes(10);
  const int64_t before = LiveAllocatedBytes();
  this->AddNewOnes(20'000, 100).clear();
  this->adapter_->container.shrink_to_fit();
  EXPECT_LE(LiveAllocatedBytes() - before, 64 * 1024);
  for (const auto& object : few) EXPECT_TRUE(this->adapter_->Has(object));
  this->ExpectSize(10, 0);
  const auto more = this->AddNewOnes(2000, 50'000);
  this->ExpectSize(2010, 0);
}

// Expiry on three threads while the container's owner adds, removes, purges and clears.
TYPED_TEST_P(ContainerContract, RaceOfExpiryAgainstEveryOperation) {
  constexpr int kRacers = 3;
  std::vector<typename TestFixture::Handle> dying[kRacers];
  typename TestFixture::Handle added, last;
  int64_t purged = 0;
  const auto drop = [&](int racer) { return [&dying, racer] { dying[racer].clear(); }; };
  Race(
      kRaceRounds,
      [&](int) {
        for (int racer = 0; racer < kRacers; ++racer) {
          dying[racer] = this->AddNewOnes(4, 10 * racer);
        }
      },
      {drop(0), drop(1), drop(2),
       [&] {
         purged += static_cast<int64_t>(this->adapter_->container.purge());
         for (int id = 100; id < 104; ++id) {
           added = this->adapter_->AddNew(id);
           this->adapter_->ForEach([](const Object& visited) { ASSERT_GE(visited.id, 0); });
           if constexpr (TestFixture::kCanRemove) {
             ASSERT_EQ(this->adapter_->Remove(added), 1u);
           }
         }
         this->adapter_->container.clear();
         last = this->adapter_->AddNew(200);
       }},
      [&](int round) {
        ASSERT_EQ(this->adapter_->container.size(), 1u) << round;
        ASSERT_TRUE(this->adapter_->Has(last));
        this->adapter_->container.CheckInvariantsForTesting();
        if (round % 16 == 0) this->adapter_->container.purge();
      });
  EXPECT_GT(purged, 0);
}

TYPED_TEST_P(ContainerContract, RaceOfTheLastReleaseAgainstErasure) {
  this->RaceLastReleaseAgainst([&]([[maybe_unused]] int id) {
    if constexpr (TestFixture::kCanRemoveById) {
      this->adapter_->RemoveById(id);
    } else {
      this->adapter_->container.clear();
    }
  });
}

TYPED_TEST_P(ContainerContract, RaceOfTheLastReleaseAgainstItsSuccessor) {
  typename TestFixture::Handle successor;
  this->RaceLastReleaseAgainst([&](int id) {
    successor = this->adapter_->AddNew(id);
    ASSERT_TRUE(this->adapter_->Has(successor));
    successor = nullptr;
  });
}

TYPED_TEST_P(ContainerContract, RaceOfTheLastReleaseAgainstClear) {
  this->RaceLastReleaseAgainst([&](int) {
    this->adapter_->container.clear();
    ASSERT_EQ(this->adapter_->container.size(), 0u);
  });
}

TYPED_TEST_P(ContainerContract, RaceOfTheLastReleaseAgainstPurgeAndShrinking) {
  int64_t purged = 0;
  int64_t rounds = 0;
  // On a busy machine the same one may come first in all rounds of a race.
  for (int race = 0; race < 20 && (purged == 0 || purged == rounds); ++race) {
    this->RaceLastReleaseAgainst([&](int) {
      purged += static_cast<int64_t>(this->adapter_->container.purge());
      this->adapter_->container.shrink_to_fit();
      ++rounds;
    });
  }
  EXPECT_GT(purged, 0);
  EXPECT_LT(purged, rounds);
}

// The container ends while its objects do: neither waits for the other, nothing leaks.
TYPED_TEST_P(ContainerContract, RaceOfTheLastReleaseAgainstTheEnd) {
  this->adapter_.reset();
  const int64_t before = LiveAllocations();
  this->RaceLastReleaseAgainst([&](int) { this->adapter_.reset(); });
  EXPECT_EQ(LiveAllocations(), before);
}

TYPED_TEST_P(ContainerContract, RaceOfManyExpiriesAgainstTheEnd) {
  this->adapter_.reset();
  const int64_t before = LiveAllocations();
  std::vector<typename TestFixture::Handle> dying[3];
  const auto drop = [&](int racer) {
    return [&dying, racer] { dying[racer] = std::vector<typename TestFixture::Handle>(); };
  };
  Race(
      kRaceRounds,
      [&](int) {
        this->adapter_ = std::make_unique<TypeParam>();
        for (int racer = 0; racer < 3; ++racer) dying[racer] = this->AddNewOnes(2, 10 * racer);
      },
      {drop(0), drop(1), drop(2), [&] { this->adapter_.reset(); }}, [](int) {});
  EXPECT_EQ(LiveAllocations(), before);
}

REGISTER_TYPED_TEST_SUITE_P(
    ContainerContract, FindsWhatWasAddedAndNotWhatWasRemoved, SizeFollowsAThousandExpiries,
    AnOperationPurgesUpToFourEntries, SteadyChurnLeavesFewDeadEntries,
    AQuarterAsManyOperationsPurgeAMassExpiry, ChurnOfFewAfterManyHaveLeftLeavesFewDeadEntries,
    MemoryIsBoundedWithoutAPurge, AnExpiredEntryKeepsLittleMemory, ContainerMayGoFirst,
    ObjectsMayGoFirst, SurvivorsOfTheContainerKeepTheirPagesOnly,
    WeakReferencesAndEntriesEndInAnyOrder, ARemovedObjectLeavesItsSuccessorAlone,
    DestructorMayUseItsOwnContainer, ClearInADestructorEmptiesAtOnce, ClearForgetsAllAndKeepsNone,
    IterationSurvivesInsertionErasureAndExpiry, IterationHoldsTheObjectThatItStandsOn,
    MovesAndSwaps, WhatIsLeftToPurgeGoesAlongWithASwap, AFailedAllocationLeavesItAsItWas,
    AThrowingConstructorLeavesItAsItWas, GetsItsMemoryBackByShrinking,
    RaceOfExpiryAgainstEveryOperation, RaceOfTheLastReleaseAgainstErasure,
    RaceOfTheLastReleaseAgainstItsSuccessor, RaceOfTheLastReleaseAgainstClear,
    RaceOfTheLastReleaseAgainstPurgeAndShrinking, RaceOfTheLastReleaseAgainstTheEnd,
    RaceOfManyExpiriesAgainstTheEnd);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_CACHE_CONTAINER_CONTRACT_H_
