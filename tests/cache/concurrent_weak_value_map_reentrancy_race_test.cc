// SPDX-License-Identifier: Apache-2.0
// User code inside ConcurrentWeakValueMap's operations while other threads are in them too:
// destructors of objects and keys, and factories, that use the map, all in one shard. If any of
// them ran under the shard's lock, it would wait for itself. And what a stalled thread must not
// stop.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "tests/support/handle_kinds.h"
#include "tests/support/object.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::HandleOf;
using testing::LiveSize;
using testing::Make;
using testing::Object;
using testing::OwnHandles;
using testing::Race;
using testing::SharedPointers;
using testing::Tracked;

template <typename Kind>
class ConcurrentWeakValueMapReentryRaceTest : public ::testing::Test {
 protected:
  using Map = ConcurrentWeakValueMap<int, testing::ValueOf<Kind, Object>>;
  using Handle = HandleOf<Kind, Object>;

  // An object whose destructor does everything that there is to do.
  Handle MakeBusy(int key) {
    return Make<Kind, Object>(key, [this, key](const Object&) {
      ++ended_;
      UseAll(key);
    });
  }
  void UseAll(int key) {
    (void)map_->get(key);
    (void)map_->contains(key);
    const Handle own = Make<Kind, Object>(key);
    map_->insert(key, own);
    map_->erase(key, own);
    const Handle other = map_->get_or_create(100, [] { return Make<Kind, Object>(100); });
    map_->insert_or_assign(101, other);
    map_->erase(101);
    map_->for_each([](const int&, const Handle&) {});
    (void)map_->size();
    map_->purge();
  }

  const int rounds_ = testing::RaceRounds(100'000);
  std::atomic<int> ended_{0};
  std::unique_ptr<Map> map_ = std::make_unique<Map>(*Map::Create({.shards = 1}));
};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(ConcurrentWeakValueMapReentryRaceTest, Kinds);

// Hand-written caches fail here: the last reference is dropped under the cache's lock.
TYPED_TEST(ConcurrentWeakValueMapReentryRaceTest, ObjectsDestructorsUseTheMap) {
  typename TestFixture::Handle object;
  Race(
      this->rounds_,
      [&](int) {
        object = this->MakeBusy(1);
        this->map_->insert_or_assign(1, object);
      },
      {[&] { object.reset(); }, [&] { this->map_->insert_or_assign(1, this->MakeBusy(1)); },
       [&] {
         this->map_->get_or_create(1, [&] { return this->MakeBusy(1); });
         this->map_->insert(2, this->MakeBusy(2));
       },
       [&] {
         (void)this->map_->get(1);
         this->map_->erase(1);
         this->map_->for_each([](const int&, const auto&) {});
         this->map_->purge();
         this->map_->clear();
       }},
      [&](int round) {
        ASSERT_EQ(LiveSize(*this->map_), 0u);
        if (round % 64 == 0) this->map_->CheckInvariantsForTesting();
      });
  EXPECT_GE(this->ended_, 3 * this->rounds_);
}

TYPED_TEST(ConcurrentWeakValueMapReentryRaceTest, FactoriesUseTheMap) {
  const auto create = [&](int key) {
    const auto object = this->map_->get_or_create(key, [&] {
      this->UseAll(50);
      return this->MakeBusy(key);
    });
    EXPECT_EQ(object->id, key);
  };
  Race(
      this->rounds_, [](int) {},
      {[&] { create(1); }, [&] { create(2); }, [&] { create(1); }, [&] { create(3); }},
      [&](int round) {
        ASSERT_EQ(LiveSize(*this->map_), 0u);
        if (round % 64 == 0) this->map_->CheckInvariantsForTesting();
      });
}

// A key whose copies all do something at their end.
struct TalkingKey {
  TalkingKey(int id, const std::function<void()>* on_end = nullptr) : id(id), on_end(on_end) {}
  TalkingKey(const TalkingKey&) = default;
  ~TalkingKey() {
    if (on_end != nullptr) (*on_end)();
  }
  bool operator==(const TalkingKey& other) const { return id == other.id; }
  struct Hash {
    size_t operator()(const TalkingKey& key) const { return static_cast<size_t>(key.id); }
  };
  const int id;
  const std::function<void()>* const on_end;
};

template <typename Kind>
class ConcurrentWeakValueMapKeyRaceTest : public ::testing::Test {};
TYPED_TEST_SUITE(ConcurrentWeakValueMapKeyRaceTest, Kinds);

TYPED_TEST(ConcurrentWeakValueMapKeyRaceTest, KeysDestructorsUseTheMap) {
  using Map = ConcurrentWeakValueMap<TalkingKey, testing::ValueOf<TypeParam, Tracked>,
                                     TalkingKey::Hash, std::equal_to<TalkingKey>>;
  Map map = *Map::Create({.shards = 1});
  const HandleOf<TypeParam, Tracked> kept = Make<TypeParam, Tracked>(9);
  std::atomic<int> spoken{0};
  const std::function<void()> speak = [&] {
    ++spoken;
    (void)map.get(TalkingKey(1));
    map.insert(TalkingKey(2), kept);
    map.erase(TalkingKey(2));
  };
  HandleOf<TypeParam, Tracked> object;
  Race(
      testing::RaceRounds(100'000),
      [&](int) {
        object = Make<TypeParam, Tracked>(1);
        map.insert(TalkingKey(1, &speak), object);
      },
      {[&] {
         object.reset();
         map.purge();
       },
       [&] { map.erase(TalkingKey(1, &speak)); },
       [&] { map.insert_or_assign(TalkingKey(1, &speak), kept); },
       [&] {
         map.get_or_create(TalkingKey(1, &speak), [] { return Tracked(1); });
         map.clear();
       }},
      [&](int round) {
        if (round % 64 == 0) map.CheckInvariantsForTesting();
        map.clear();
        ASSERT_EQ(map.size(), 0u);
      });
  EXPECT_GT(spoken, 0);
}

// A purge of many entries lets others in: keys that it has removed end while most entries are left.
TEST(ConcurrentWeakValueMapPurgeTest, TakesTurns) {
  using Map = ConcurrentWeakValueMap<TalkingKey, std::shared_ptr<int>, TalkingKey::Hash,
                                     std::equal_to<TalkingKey>>;
  Map map = *Map::Create({.shards = 1});
  constexpr size_t kCount = 10'000;
  size_t left_at_first = 0;
  const std::function<void()> speak = [&] {
    if (left_at_first == 0) left_at_first = map.size();
  };
  {
    std::vector<std::shared_ptr<int>> objects;
    for (size_t i = 0; i < kCount; ++i) {
      objects.push_back(std::make_shared<int>());
      map.insert(TalkingKey(static_cast<int>(i), i % 16 == 0 ? &speak : nullptr), objects.back());
    }
    left_at_first = 0;  // of copies
  }
  EXPECT_EQ(map.purge(), kCount);
  EXPECT_GE(left_at_first, kCount - 500);
  EXPECT_EQ(map.size(), 0u);
  map.CheckInvariantsForTesting();
}

struct CountingHash {
  size_t operator()(int key) const {
    calls->fetch_add(1, std::memory_order_relaxed);
    return static_cast<size_t>(key);
  }
  std::atomic<int64_t>* calls;
};

// A dead key can't be asked for its hash again, nor a large one in vain: once for each operation,
// whatever grows, is replaced or purged.
TEST(ConcurrentWeakValueMapHashTest, EachOperationHashesOnce) {
  using Map = ConcurrentWeakValueMap<int, Tracked, CountingHash, std::equal_to<int>>;
  std::atomic<int64_t> calls{0};
  Map map = *Map::Create({.shards = 1}, CountingHash{&calls});
  int64_t operations = 0;
  std::vector<Ref<Tracked>> objects;
  for (int key = 0; key < 3000; ++key) {
    objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
    map.insert(key, objects.back());
    map.insert_or_assign(key, objects.back());
    (void)map.get(key);
    (void)map.contains(key / 2);
    operations += 5;
    if (key % 3 == 0) {
      map.erase(key);
      ++operations;
    } else if (key % 3 == 1) {
      objects.back().reset();
    }
    ASSERT_EQ(calls, operations) << key;
  }
  map.reserve(100'000);
  map.purge();
  map.for_each([](const int&, const Ref<Tracked>&) {});
  map.clear();
  EXPECT_EQ(calls, operations);
}

// All keys collide, and a comparison by the thread that is told to stall waits until it may go on.
struct StallingEqual {
  bool operator()(int a, int b) const {
    if (stall_next_comparison) {
      stall_next_comparison = false;
      stalled = true;
      while (!may_go_on) std::this_thread::yield();
    }
    return a == b;
  }
  static void AwaitStall() {
    while (!stalled) std::this_thread::yield();
  }
  inline static thread_local bool stall_next_comparison = false;
  inline static std::atomic<bool> stalled{false};
  inline static std::atomic<bool> may_go_on{false};
};
struct OneHash {
  size_t operator()(int) const { return 42; }
};
using StallingMap = ConcurrentWeakValueMap<int, Tracked, OneHash, StallingEqual>;

// A writer that stalls under its shard's lock stops no hit. (A map with a mutex fails this.)
TEST(ConcurrentWeakValueMapStallTest, StalledWriterStopsNoHit) {
  StallingMap map = *StallingMap::Create({.shards = 1});
  const Ref<Tracked> object = map.get_or_create(1, [] { return Tracked(1); });
  StallingEqual::stalled = StallingEqual::may_go_on = false;
  std::thread writer([&] {
    StallingEqual::stall_next_comparison = true;
    map.insert(2, object);
  });
  StallingEqual::AwaitStall();
  std::atomic<bool> found{false};
  std::thread reader([&] { found = map.get(1) == object; });
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!found && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  EXPECT_TRUE(found);
  StallingEqual::may_go_on = true;
  writer.join();
  reader.join();
  EXPECT_EQ(map.size(), 2u);
}

// A look-up that stalls delays no object's end, nor its memory, but for the one that it has found.
TEST(ConcurrentWeakValueMapStallTest, StalledLookUpDelaysNoOtherObjectsMemory) {
  ConcurrentWeakValueMap<int, Tracked, absl::Hash<int>, StallingEqual> map;
  std::vector<Ref<Tracked>> objects;
  for (int key = 0; key < 1000; ++key) {
    objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
  }
  StallingEqual::stalled = StallingEqual::may_go_on = false;
  std::thread reader([&] {
    StallingEqual::stall_next_comparison = true;
    EXPECT_EQ(map.get(1)->id(), 1);
  });
  StallingEqual::AwaitStall();
  objects.clear();
  EXPECT_EQ(Tracked::live(), 1);
  StallingEqual::may_go_on = true;
  reader.join();
  EXPECT_EQ(Tracked::live(), 0);
}

}  // namespace
}  // namespace weakcache
