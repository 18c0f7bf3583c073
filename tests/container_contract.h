// What every weak container promises, as one suite. A test file makes an adapter of its container
// and instantiates the suite:
//
//   struct Adapter {
//     void Add(const Ref<Object>& object);            // enters the object, or replaces
//     bool Has(const Ref<Object>& object) const;
//     size_t Remove(const Ref<Object>& object);
//     bool RemoveSelf(const Object& object);          // from the object's destructor
//     void ForEach(std::function<void(const Object&)>);
//     Container container;                            // size, purge, clear, reserve, swap, move
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Name, ContainerContract, Adapter);
#ifndef WEAKCACHE_TESTS_CONTAINER_CONTRACT_H_
#define WEAKCACHE_TESTS_CONTAINER_CONTRACT_H_

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "weakref/ref.h"
#include "weakref/weak_ref.h"

namespace weakcache::testing {

// A large referent that may do something in its destructor.
struct Object {
  explicit Object(int id, std::function<void(const Object&)> on_destruction = nullptr)
      : id(id), on_destruction(std::move(on_destruction)) {}
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  ~Object() {
    if (on_destruction) on_destruction(*this);
  }

  const int id;
  std::function<void(const Object&)> on_destruction;
  char bytes[100] = {};
};

inline std::vector<Ref<Object>> MakeObjects(int count) {
  std::vector<Ref<Object>> objects;
  for (int id = 0; id < count; ++id) objects.push_back(MakeRef<Object>(id));
  return objects;
}

template <typename Adapter>
class ContainerContract : public ::testing::Test {
 protected:
  void AddAll(const std::vector<Ref<Object>>& objects) {
    for (const Ref<Object>& object : objects) adapter_->Add(object);
  }
  std::multiset<int> Ids() {
    std::multiset<int> ids;
    adapter_->ForEach([&](const Object& object) { ids.insert(object.id); });
    return ids;
  }

  std::unique_ptr<Adapter> adapter_ = std::make_unique<Adapter>();
};

TYPED_TEST_SUITE_P(ContainerContract);

TYPED_TEST_P(ContainerContract, FindsWhatWasAddedAndNotWhatWasRemoved) {
  const std::vector<Ref<Object>> objects = MakeObjects(5000);
  this->AddAll(objects);
  EXPECT_EQ(this->adapter_->container.size(), objects.size());
  for (size_t i = 0; i < objects.size(); i += 2) {
    EXPECT_EQ(this->adapter_->Remove(objects[i]), 1u);
    EXPECT_EQ(this->adapter_->Remove(objects[i]), 0u);
  }
  EXPECT_EQ(this->adapter_->container.size(), objects.size() / 2);
  for (size_t i = 0; i < objects.size(); ++i) {
    EXPECT_EQ(this->adapter_->Has(objects[i]), i % 2 == 1) << i;
  }
}

// Pain: dead entries never leave.
TYPED_TEST_P(ContainerContract, SizeIsExactAfterAThousandExpiries) {
  std::vector<Ref<Object>> objects = MakeObjects(3000);
  this->AddAll(objects);
  for (int i = 0; i < 1000; ++i) {
    objects[i * 3].reset();
    ASSERT_EQ(this->adapter_->container.size(), 2999u - i);
  }
  EXPECT_EQ(this->Ids().size(), 2000u);
  EXPECT_EQ(this->adapter_->container.purge(), 1000u);
  EXPECT_EQ(this->adapter_->container.purge(), 0u);
  EXPECT_EQ(this->adapter_->container.size(), 2000u);
}

TYPED_TEST_P(ContainerContract, AnOperationPurgesUpToFourEntries) {
  std::vector<Ref<Object>> objects = MakeObjects(100);
  this->AddAll(objects);
  objects.clear();
  const Ref<Object> fresh = MakeRef<Object>(1000);
  this->adapter_->Add(fresh);
  EXPECT_EQ(this->adapter_->container.purge(), 96u);
  EXPECT_TRUE(this->adapter_->Has(fresh));
}

// A container in steady state takes no more memory however long it runs.
TYPED_TEST_P(ContainerContract, MemoryIsBoundedWithoutAPurge) {
  int64_t bytes_early = 0;
  for (int round = 0; round < 20'000; ++round) {
    this->adapter_->Add(MakeRef<Object>(round));
    if (round == 1000) bytes_early = LiveAllocatedBytes();
  }
  EXPECT_LE(LiveAllocatedBytes(), bytes_early);
}

// Pain: make_shared memory pinned by weak pointers.
TYPED_TEST_P(ContainerContract, AnExpiredEntryKeepsLittleMemory) {
  constexpr int kObjects = 10'000;
  const int64_t before = LiveAllocatedBytes();
  {
    std::vector<Ref<Object>> objects = MakeObjects(kObjects);
    this->AddAll(objects);
  }
  EXPECT_EQ(this->adapter_->container.size(), 0u);
  EXPECT_LE((LiveAllocatedBytes() - before) / kObjects, 128);
}

// Pain: a deleter touches a destroyed map.
TYPED_TEST_P(ContainerContract, ContainerMayGoFirst) {
  const int64_t before = LiveAllocations();
  {
    std::vector<Ref<Object>> objects = MakeObjects(100);
    this->AddAll(objects);
    std::thread([&] { this->adapter_.reset(); }).join();
    EXPECT_EQ(objects[50]->id, 50);
    std::thread([&] { objects.clear(); }).join();
  }
  EXPECT_LT(LiveAllocations(), before);
}

TYPED_TEST_P(ContainerContract, ObjectsMayGoFirst) {
  const int64_t before = LiveAllocations();
  {
    std::vector<Ref<Object>> objects = MakeObjects(100);
    this->AddAll(objects);
    std::thread([&] { objects.clear(); }).join();
    EXPECT_EQ(this->adapter_->container.size(), 0u);
    std::thread([&] { this->adapter_.reset(); }).join();
  }
  EXPECT_LT(LiveAllocations(), before);
}

// Pain: a destructor that looks itself up; that erases; and the last reference dropped inside the
// cache.
TYPED_TEST_P(ContainerContract, DestructorMayUseItsOwnContainer) {
  std::vector<Ref<Object>> objects = MakeObjects(100);
  this->AddAll(objects);
  std::vector<Ref<Object>> inserted;
  bool found_itself = false;
  size_t size_then = 0;
  Ref<Object> self = MakeRef<Object>(1000, [&](const Object& object) {
    this->adapter_->ForEach([&](const Object& other) { found_itself |= other.id == object.id; });
    EXPECT_FALSE(this->adapter_->RemoveSelf(object));
    EXPECT_EQ(this->adapter_->Remove(objects[3]), 1u);
    for (int id = 2000; id < 2200; ++id) {
      inserted.push_back(MakeRef<Object>(id));
      this->adapter_->Add(inserted.back());
    }
    objects[4].reset();
    this->adapter_->container.purge();
    size_then = this->adapter_->container.size();
  });
  this->adapter_->Add(self);
  self.reset();
  EXPECT_FALSE(found_itself);
  EXPECT_GE(size_then, 298u);
  EXPECT_EQ(this->adapter_->container.size(), 298u);
  EXPECT_EQ(this->Ids().size(), 298u);
}

TYPED_TEST_P(ContainerContract, ClearInADestructorEmptiesAtOnce) {
  std::vector<Ref<Object>> objects = MakeObjects(10);
  this->AddAll(objects);
  Ref<Object> self = MakeRef<Object>(1000, [&](const Object&) {
    this->adapter_->container.clear();
    EXPECT_EQ(this->adapter_->container.size(), 0u);
  });
  this->adapter_->Add(self);
  self.reset();
  EXPECT_EQ(this->adapter_->container.size(), 0u);
  this->AddAll(objects);
  EXPECT_EQ(this->adapter_->container.size(), 10u);
}

TYPED_TEST_P(ContainerContract, ClearForgetsAllAndKeepsNone) {
  std::vector<Ref<Object>> objects = MakeObjects(100);
  this->AddAll(objects);
  objects[7].reset();
  this->adapter_->container.clear();
  EXPECT_EQ(this->adapter_->container.size(), 0u);
  EXPECT_FALSE(this->adapter_->Has(objects[8]));
  objects.resize(7);
  this->AddAll(objects);
  EXPECT_EQ(this->adapter_->container.size(), 7u);
}

TYPED_TEST_P(ContainerContract, IterationSurvivesInsertionErasureAndExpiry) {
  std::vector<Ref<Object>> objects = MakeObjects(300);
  this->AddAll(objects);
  std::vector<Ref<Object>> inserted;
  std::multiset<int> seen;
  this->adapter_->ForEach([&](const Object& object) {
    seen.insert(object.id);
    if (object.id >= 300 || object.id % 3 != 0) return;
    // From the third on, erases the next, expires the one after that, and inserts a new one.
    if (object.id % 2 == 0) {
      this->adapter_->Remove(objects[object.id + 1]);
      objects[object.id + 2].reset();
    }
    inserted.push_back(MakeRef<Object>(1000 + object.id));
    this->adapter_->Add(inserted.back());
  });
  for (int id = 0; id < 300; id += 3) EXPECT_EQ(seen.count(id), 1u) << id;
  for (const int id : seen) EXPECT_EQ(seen.count(id), 1u) << id;
  EXPECT_EQ(this->adapter_->container.size(), 300u - 100u + 100u);
}

TYPED_TEST_P(ContainerContract, IterationHoldsTheObjectThatItStandsOn) {
  std::vector<Ref<Object>> objects = MakeObjects(10);
  this->AddAll(objects);
  int steps = 0;
  this->adapter_->ForEach([&](const Object& object) {
    const int id = object.id;
    objects.clear();
    EXPECT_EQ(object.id, id);
    ++steps;
  });
  EXPECT_EQ(steps, 1);
  EXPECT_EQ(this->adapter_->container.size(), 0u);
}

TYPED_TEST_P(ContainerContract, MovesAndSwaps) {
  std::vector<Ref<Object>> objects = MakeObjects(30);
  this->AddAll(objects);
  TypeParam other;
  other.container = std::move(this->adapter_->container);
  EXPECT_EQ(this->adapter_->container.size(), 0u);
  EXPECT_TRUE(other.Has(objects[3]));
  objects[3].reset();
  EXPECT_EQ(other.container.size(), 29u);
  this->adapter_->Add(objects[4]);
  swap(this->adapter_->container, other.container);
  EXPECT_EQ(this->adapter_->container.size(), 29u);
  EXPECT_EQ(other.container.size(), 1u);
  objects.clear();
  EXPECT_EQ(this->adapter_->container.size() + other.container.size(), 0u);
  EXPECT_EQ(this->adapter_->container.purge(), 30u);
}

TYPED_TEST_P(ContainerContract, FailedAllocationLeavesItAsItWas) {
  const std::vector<Ref<Object>> objects = MakeObjects(40);
  for (size_t present = 0; present < objects.size() - 1; ++present) {
    TypeParam fresh;
    for (size_t i = 0; i < present; ++i) fresh.Add(objects[i]);
    FailEachAllocation([&] { fresh.Add(objects[present]); },
                       [&] {
                         ASSERT_EQ(fresh.container.size(), present);
                         for (size_t i = 0; i < objects.size(); ++i) {
                           ASSERT_EQ(fresh.Has(objects[i]), i < present);
                         }
                       });
    ASSERT_EQ(fresh.container.size(), present + 1);
    ASSERT_TRUE(fresh.Has(objects[present]));
    FailEachAllocation([&] { fresh.container.reserve(100 + 10 * present); },
                       [&] { ASSERT_EQ(fresh.container.size(), present + 1); });
  }
  for (const Ref<Object>& object : objects) ASSERT_EQ(object.use_count(), 1u);
}

// Expiry on three threads while the container's owner adds, removes, purges and clears.
TYPED_TEST_P(ContainerContract, RaceOfExpiryAgainstEveryOperation) {
  constexpr int kSlots = 3;
  constexpr int kEach = 4;
  std::vector<Ref<Object>> dying[kSlots];
  std::vector<Ref<Object>> staying = MakeObjects(4);
  int purged = 0;
  const auto drop = [&](int slot) { return [&dying, slot] { dying[slot].clear(); }; };
  Race(
      20'000,
      [&](int round) {
        for (auto& objects : dying) {
          for (int i = 0; i < kEach; ++i) {
            objects.push_back(MakeRef<Object>(static_cast<int>(10 + 100 * (&objects - dying) + i)));
            this->adapter_->Add(objects.back());
          }
        }
        this->adapter_->Add(staying[round % 2]);
      },
      {drop(0), drop(1), drop(2),
       [&] {
         purged += static_cast<int>(this->adapter_->container.purge());
         for (const Ref<Object>& object : staying) {
           this->adapter_->Add(object);
           this->adapter_->ForEach([](const Object& visited) { ASSERT_GE(visited.id, 0); });
           ASSERT_EQ(this->adapter_->Remove(object), 1u);
         }
         this->adapter_->container.clear();
         this->adapter_->Add(staying[3]);
       }},
      [&](int round) {
        ASSERT_EQ(this->adapter_->container.size(), 1u) << round;
        ASSERT_TRUE(this->adapter_->Has(staying[3]));
        if (round % 16 == 0) this->adapter_->container.purge();
      });
  EXPECT_GT(purged, 0);
}

// The container ends while its objects do: neither waits for the other, nothing leaks.
TYPED_TEST_P(ContainerContract, RaceOfExpiryAgainstTheEnd) {
  const int64_t before = LiveAllocations();
  std::vector<Ref<Object>> dying[3];
  const auto drop = [&](int slot) {
    return [&dying, slot] { dying[slot] = std::vector<Ref<Object>>(); };
  };
  Race(
      20'000,
      [&](int) {
        this->adapter_ = std::make_unique<TypeParam>();
        for (auto& objects : dying) {
          objects = MakeObjects(2);
          for (const Ref<Object>& object : objects) {
            this->adapter_->Add(object);
          }
        }
      },
      {drop(0), drop(1), drop(2), [&] { this->adapter_.reset(); }}, [](int) {});
  EXPECT_LE(LiveAllocations(), before);
}

REGISTER_TYPED_TEST_SUITE_P(ContainerContract, FindsWhatWasAddedAndNotWhatWasRemoved,
                            SizeIsExactAfterAThousandExpiries, AnOperationPurgesUpToFourEntries,
                            MemoryIsBoundedWithoutAPurge, AnExpiredEntryKeepsLittleMemory,
                            ContainerMayGoFirst, ObjectsMayGoFirst, DestructorMayUseItsOwnContainer,
                            ClearInADestructorEmptiesAtOnce, ClearForgetsAllAndKeepsNone,
                            IterationSurvivesInsertionErasureAndExpiry,
                            IterationHoldsTheObjectThatItStandsOn, MovesAndSwaps,
                            FailedAllocationLeavesItAsItWas, RaceOfExpiryAgainstEveryOperation,
                            RaceOfExpiryAgainstTheEnd);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_CONTAINER_CONTRACT_H_
