// SPDX-License-Identifier: Apache-2.0
// What each operation does on one thread. How they fail, and what user code may do meanwhile, is in
// concurrent_weak_value_map_exception_safety_test.cc.
#include "weakcache/cache/concurrent_weak_value_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/allocations.h"
#include "tests/support/handle_kinds.h"
#include "tests/support/rounds.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/enable_ref_from_this.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::HandleOf;
using testing::LiveAllocatedBytes;
using testing::LiveAllocations;
using testing::LiveSize;
using testing::Make;
using testing::OwnHandles;
using testing::SharedPointers;
using testing::Tracked;
using testing::WeakOf;

template <typename Kind, typename K, typename T>
using MapOf = ConcurrentWeakValueMap<K, testing::ValueOf<Kind, T>>;

template <typename Kind>
class ConcurrentWeakValueMapTest : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(Tracked::live(), 0); }
};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(ConcurrentWeakValueMapTest, Kinds);

TYPED_TEST(ConcurrentWeakValueMapTest, RoomThatCantBeHad) {
  MapOf<TypeParam, int, Tracked> map;
  EXPECT_THROW(map.reserve(SIZE_MAX), std::bad_alloc);
  EXPECT_EQ(map.size(), 0u);
  map.CheckInvariantsForTesting();
}

struct KeyWithAddressOperator {
  int id;
  void operator&() const = delete;
  bool operator==(const KeyWithAddressOperator& other) const { return id == other.id; }
  template <typename H>
  friend H AbslHashValue(H h, const KeyWithAddressOperator& key) {
    return H::combine(std::move(h), key.id);
  }
};
TYPED_TEST(ConcurrentWeakValueMapTest, KeysMayOverloadTheAddressOperator) {
  MapOf<TypeParam, KeyWithAddressOperator, Tracked> map;
  const auto object = map.get_or_create(KeyWithAddressOperator{1}, [] { return Tracked(1); });
  EXPECT_EQ(map.get(KeyWithAddressOperator{1}), object);
  EXPECT_FALSE(map.insert(KeyWithAddressOperator{1}, object).second);
  EXPECT_EQ(map.erase(KeyWithAddressOperator{1}), 1u);
}

// Handles that notify nobody are looked at in turn: not among all slots that there ever were, but
// among the entries.
TYPED_TEST(ConcurrentWeakValueMapTest, DeadEntriesAreBoundedByTheLiveOnesAfterAPeak) {
  using Map = MapOf<TypeParam, int, Tracked>;
  Map map = *Map::Create({.shards = 1});
  constexpr int kPeak = 4000;
  std::deque<HandleOf<TypeParam, Tracked>> live;
  for (int i = 0; i < kPeak; ++i) {
    live.push_back(map.get_or_create(i, [&] { return Make<TypeParam, Tracked>(i); }));
  }
  live.clear();
  map.purge();
  EXPECT_EQ(map.size(), 0u);
  size_t most = 0;
  for (int i = kPeak; i < 2 * kPeak; ++i) {
    live.push_back(map.get_or_create(i, [&] { return Make<TypeParam, Tracked>(i); }));
    if (live.size() > 10) live.pop_front();
    most = std::max(most, map.size());
  }
  EXPECT_LE(most, 20u);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, FindsTheObjectWhileItLives) {
  MapOf<TypeParam, std::string, Tracked> map;
  HandleOf<TypeParam, Tracked> cover = map.get_or_create("cover", [] { return Tracked(7); });
  ASSERT_NE(cover, nullptr);
  EXPECT_EQ(cover->id(), 7);
  EXPECT_EQ(map.get("cover"), cover);
  EXPECT_TRUE(map.contains("cover"));
  EXPECT_EQ(map.get_or_create("cover", [] { return Tracked(8); }), cover);
  EXPECT_EQ(map.size(), 1u);
  cover.reset();
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_EQ(map.get("cover"), nullptr);
  EXPECT_FALSE(map.contains("cover"));
  EXPECT_EQ(LiveSize(map), 0u);
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, AnEmptyMapHasNothing) {
  MapOf<TypeParam, int, Tracked> map;
  EXPECT_EQ(map.get(1), nullptr);
  EXPECT_FALSE(map.contains(1));
  EXPECT_EQ(map.erase(1), 0u);
  EXPECT_EQ(map.erase(1, WeakOf<TypeParam, Tracked>()), 0u);
  EXPECT_EQ(map.purge(), 0u);
  map.clear();
  map.for_each([](const int&, const auto&) { ADD_FAILURE(); });
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, LooksUpByOtherTypesThanTheKeys) {
  MapOf<TypeParam, std::string, Tracked> map;
  const HandleOf<TypeParam, Tracked> object = Make<TypeParam, Tracked>(1);
  const std::string_view view = "a key that is too long for the short-string optimisation";
  EXPECT_TRUE(map.insert(view, object).second);
  EXPECT_EQ(map.get(view), object);
  const int64_t before = LiveAllocations();
  testing::FailAllocation(1);  // no temporary std::string is made
  const bool same = map.get(view) == object;
  const bool contained = map.contains(view);
  const bool another = map.contains("another key that is too long for the optimisation");
  testing::FailAllocation(0);
  EXPECT_TRUE(same);
  EXPECT_TRUE(contained);
  EXPECT_FALSE(another);
  EXPECT_EQ(LiveAllocations(), before);
  EXPECT_EQ(map.get_or_create(view, [] { return Tracked(2); }), object);
  EXPECT_FALSE(map.insert_or_assign(view, object).second);
  EXPECT_EQ(map.erase(view), 1u);
}

TYPED_TEST(ConcurrentWeakValueMapTest, InsertKeepsTheLiveObject) {
  MapOf<TypeParam, int, Tracked> map;
  HandleOf<TypeParam, Tracked> first = Make<TypeParam, Tracked>(1);
  const HandleOf<TypeParam, Tracked> second = Make<TypeParam, Tracked>(2);
  EXPECT_EQ(map.insert(5, first), std::make_pair(first, true));
  EXPECT_EQ(map.insert(5, second), std::make_pair(first, false));
  EXPECT_EQ(map.size(), 1u);
  first.reset();
  EXPECT_EQ(map.insert(5, second), std::make_pair(second, true));
  EXPECT_EQ(LiveSize(map), 1u);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, InsertOrAssignReplaces) {
  MapOf<TypeParam, int, Tracked> map;
  HandleOf<TypeParam, Tracked> first = Make<TypeParam, Tracked>(1);
  const HandleOf<TypeParam, Tracked> second = Make<TypeParam, Tracked>(2);
  EXPECT_EQ(map.insert_or_assign(5, first), std::pair(first, true));
  EXPECT_EQ(map.insert_or_assign(5, second), std::pair(second, false));
  EXPECT_EQ(map.get(5), second);
  EXPECT_EQ(first->id(), 1);  // lives on
  first.reset();              // no longer the map's
  EXPECT_EQ(map.purge(), 0u);
  EXPECT_EQ(map.size(), 1u);
  EXPECT_EQ(map.get(5), second);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, EmplaceOrAssignReplacesByANewObject) {
  MapOf<TypeParam, std::string, Tracked> map;
  HandleOf<TypeParam, Tracked> first = map.emplace_or_assign("five", 1);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(map.get("five"), first);
  HandleOf<TypeParam, Tracked> second = map.emplace_or_assign("five", 2);
  EXPECT_EQ(map.get("five"), second);
  EXPECT_EQ(second->id(), 2);
  EXPECT_EQ(first->id(), 1);  // lives on
  EXPECT_EQ(map.size(), 1u);
  first.reset();  // no longer the map's
  EXPECT_EQ(map.purge(), 0u);
  EXPECT_EQ(map.get("five"), second);
  second.reset();
  EXPECT_EQ(map.get("five"), nullptr);
  EXPECT_NE(map.emplace_or_assign("five", 3), nullptr);  // over a dead one
  EXPECT_EQ(LiveSize(map), 0u);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, InsertOrAssignOverADeadObjectIsAnInsertion) {
  MapOf<TypeParam, int, Tracked> map;
  map.insert(5, Make<TypeParam, Tracked>(1));  // dies here
  const HandleOf<TypeParam, Tracked> second = Make<TypeParam, Tracked>(2);
  EXPECT_TRUE(map.insert_or_assign(5, second).second);
  EXPECT_EQ(LiveSize(map), 1u);
}

TYPED_TEST(ConcurrentWeakValueMapTest, EraseLetsTheObjectLive) {
  MapOf<TypeParam, int, Tracked> map;
  const HandleOf<TypeParam, Tracked> object = Make<TypeParam, Tracked>(1);
  map.insert(5, object);
  EXPECT_EQ(map.erase(6), 0u);
  EXPECT_EQ(map.erase(5), 1u);
  EXPECT_EQ(map.erase(5), 0u);
  EXPECT_EQ(map.get(5), nullptr);
  EXPECT_EQ(object->id(), 1);
  map.insert(5, Make<TypeParam, Tracked>(2));
  EXPECT_EQ(map.erase(5), 0u);  // it has left by itself
  EXPECT_TRUE(map.empty());
}

TYPED_TEST(ConcurrentWeakValueMapTest, GuardedEraseSparesTheSuccessor) {
  MapOf<TypeParam, int, Tracked> map;
  HandleOf<TypeParam, Tracked> old = Make<TypeParam, Tracked>(1);
  const WeakOf<TypeParam, Tracked> weak_old = old;
  map.insert(5, old);
  old.reset();
  const HandleOf<TypeParam, Tracked> fresh = Make<TypeParam, Tracked>(2);
  map.insert(5, fresh);
  EXPECT_EQ(map.erase(5, weak_old), 0u);
  EXPECT_EQ(map.erase(5, WeakOf<TypeParam, Tracked>()), 0u);
  EXPECT_EQ(map.get(5), fresh);
  EXPECT_EQ(map.erase(6, fresh), 0u);
  EXPECT_EQ(map.erase(5, fresh), 1u);
  EXPECT_EQ(map.get(5), nullptr);
}

TYPED_TEST(ConcurrentWeakValueMapTest, OneObjectUnderManyKeys) {
  MapOf<TypeParam, int, Tracked> map;
  HandleOf<TypeParam, Tracked> object = Make<TypeParam, Tracked>(1);
  for (int key = 0; key < 1000; ++key) ASSERT_TRUE(map.insert(key, object).second);
  EXPECT_EQ(map.size(), 1000u);
  for (int key = 0; key < 500; ++key) ASSERT_EQ(map.erase(key), 1u);
  for (int key = 0; key < 1000; ++key) {
    ASSERT_EQ(map.get(key).get(), key < 500 ? nullptr : object.get());
  }
  object.reset();
  EXPECT_EQ(map.purge(), 500u);
  EXPECT_EQ(map.size(), 0u);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, AliasExpiresWithItsOwner) {
  using Pair = std::pair<Tracked, int>;
  MapOf<TypeParam, int, int> map;
  HandleOf<TypeParam, Pair> owner = Make<TypeParam, Pair>();
  owner->second = 5;
  map.insert(1, HandleOf<TypeParam, int>(owner, &owner->second));
  map.insert_or_assign(2, HandleOf<TypeParam, int>(owner, &owner->second));
  EXPECT_EQ(*map.get(1), 5);
  EXPECT_EQ(map.get(2), map.get(1));
  owner.reset();
  EXPECT_EQ(map.get(1), nullptr);
  EXPECT_EQ(map.get(2), nullptr);
}

TYPED_TEST(ConcurrentWeakValueMapTest, PurgeCountsWhatItRemoves) {
  MapOf<TypeParam, int, Tracked> map;
  map.reserve(1000);
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  for (int key = 0; key < 300; ++key) {
    objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
  }
  EXPECT_EQ(map.purge(), 0u);
  for (int key = 0; key < 300; key += 3) objects[key].reset();
  EXPECT_EQ(map.purge(), 100u);
  EXPECT_EQ(map.purge(), 0u);
  EXPECT_EQ(map.size(), 200u);
  map.clear();
  objects.clear();
  EXPECT_EQ(map.purge(), 0u);
}

TYPED_TEST(ConcurrentWeakValueMapTest, ClearLetsTheObjectsLive) {
  MapOf<TypeParam, int, Tracked> map;
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  for (int key = 0; key < 100; ++key) {
    objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
  }
  map.clear();
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(Tracked::live(), 100);
  for (int key = 0; key < 100; ++key) {
    ASSERT_EQ(map.get(key), nullptr);
    ASSERT_EQ(objects[key]->id(), key);
    ASSERT_TRUE(map.insert(key, objects[99 - key]).second);
  }
  EXPECT_EQ(map.size(), 100u);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, ForEachVisitsTheLiveObjects) {
  MapOf<TypeParam, std::string, Tracked> map;
  std::map<std::string, HandleOf<TypeParam, Tracked>> objects;
  for (int id = 0; id < 50; ++id) {
    const std::string key = std::to_string(id);
    objects[key] = map.get_or_create(key, [id] { return Tracked(id); });
  }
  for (int id = 0; id < 50; id += 2) objects.erase(std::to_string(id));
  std::map<std::string, HandleOf<TypeParam, Tracked>> visited;
  std::as_const(map).for_each([&](const std::string& key, const HandleOf<TypeParam, Tracked>& it) {
    EXPECT_TRUE(visited.emplace(key, it).second);
  });
  EXPECT_EQ(visited, objects);
}

TYPED_TEST(ConcurrentWeakValueMapTest, ReserveAndGrowthKeepWhatIsThere) {
  MapOf<TypeParam, int, Tracked> map;
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  for (int key = 0; key < 5000; ++key) {
    objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
    if (key == 10) map.reserve(100);
    if (key == 100) map.reserve(10);
    if ((key & (key + 1)) == 0) map.CheckInvariantsForTesting();
  }
  map.reserve(20000);
  map.CheckInvariantsForTesting();
  EXPECT_EQ(map.size(), 5000u);
  for (int key = 0; key < 5000; ++key) ASSERT_EQ(map.get(key), objects[key]);
}

// Hand-written caches fail here: dead entries never leave. A million keys that nobody asks for
// again.
TYPED_TEST(ConcurrentWeakValueMapTest, DeadEntriesLeaveByThemselves) {
  for (const size_t shards : {size_t{1}, size_t{0}}) {
    const int64_t before = LiveAllocatedBytes();
    auto map = MapOf<TypeParam, int, Tracked>::Create({.shards = shards});
    ASSERT_TRUE(map.ok());
    int64_t most_bytes_early = 0;
    int64_t most_bytes_late = 0;
    const int keys = testing::Rounds(1'000'000, 300'000);
    for (int key = 0; key < keys; ++key) {
      map->get_or_create(key, [key] { return Tracked(key); });
      int64_t& most_bytes = key < keys / 10 ? most_bytes_early : most_bytes_late;
      if (key % 64 == 0) most_bytes = std::max(most_bytes, LiveAllocatedBytes() - before);
    }
    // A chain of a table grows a little if the hashes want it; dead entries would be ten times
    // more.
    EXPECT_LE(most_bytes_late, 2 * most_bytes_early);
    // Far below the 40 MB and more that a million entries would take.
    EXPECT_LT(most_bytes_late, 4 << 20);
    map->CheckInvariantsForTesting();
  }
}

TYPED_TEST(ConcurrentWeakValueMapTest, ObjectsOutliveTheMap) {
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  {
    MapOf<TypeParam, int, Tracked> map;
    for (int key = 0; key < 100; ++key) {
      objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
    }
  }
  for (int key = 0; key < 100; ++key) ASSERT_EQ(objects[key]->id(), key);
}

TYPED_TEST(ConcurrentWeakValueMapTest, GivesEverythingBack) {
  const int64_t before = LiveAllocations();
  for (const bool map_first : {false, true}) {
    std::vector<HandleOf<TypeParam, Tracked>> objects(1000);
    std::vector<WeakOf<TypeParam, Tracked>> weak(1000);
    auto map = std::make_unique<MapOf<TypeParam, std::string, Tracked>>();
    for (int key = 0; key < 1000; ++key) {
      objects[key] =
          map->get_or_create(std::to_string(key) + std::string(50, 'x'), [] { return Tracked(); });
      weak[key] = objects[key];
    }
    if (map_first) map.reset();
    objects.clear();
    for (const auto& reference : weak) ASSERT_TRUE(reference.expired());
    map.reset();
  }
  EXPECT_EQ(LiveAllocations(), before);
}

TYPED_TEST(ConcurrentWeakValueMapTest, MovesWhileQuiet) {
  using Map = MapOf<TypeParam, int, Tracked>;
  Map map;
  const HandleOf<TypeParam, Tracked> kept = map.get_or_create(1, [] { return Tracked(1); });
  HandleOf<TypeParam, Tracked> dropped = map.get_or_create(2, [] { return Tracked(2); });
  Map moved(std::move(map));
  EXPECT_EQ(moved.get(1), kept);
  dropped.reset();  // tells the map that is there now
  EXPECT_EQ(LiveSize(moved), 1u);
  Map target;
  const HandleOf<TypeParam, Tracked> replaced = target.get_or_create(9, [] { return Tracked(9); });
  target = std::move(moved);
  EXPECT_EQ(target.get(1), kept);
  EXPECT_EQ(target.get(9), nullptr);
  EXPECT_EQ(replaced->id(), 9);
  map = std::move(target);  // what has been moved from takes a new value
  EXPECT_EQ(map.get(1), kept);
  EXPECT_EQ(map.get_or_create(3, [] { return Tracked(3); })->id(), 3);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapTest, TakesOptions) {
  using Map = MapOf<TypeParam, int, Tracked>;
  for (const size_t shards : {0, 1, 2, 64, 4096}) {
    absl::StatusOr<Map> map = Map::Create({.shards = shards, .expected_size = 1000});
    ASSERT_TRUE(map.ok()) << map.status();
    const HandleOf<TypeParam, Tracked> object = map->get_or_create(1, [] { return Tracked(1); });
    EXPECT_EQ(map->get(1), object);
    EXPECT_EQ(map->size(), 1u);
    map->CheckInvariantsForTesting();
  }
}

TYPED_TEST(ConcurrentWeakValueMapTest, BadOptionsAreNamed) {
  using Map = MapOf<TypeParam, int, Tracked>;
  for (const size_t shards : {size_t{3}, size_t{12}, size_t{8192}, SIZE_MAX, SIZE_MAX / 2 + 1}) {
    const absl::Status status = Map::Create({.shards = shards}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << shards;
    EXPECT_NE(status.message().find("shards"), std::string_view::npos) << status;
  }
  const absl::Status status = Map::Create({.expected_size = SIZE_MAX}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("expected_size"), std::string_view::npos) << status;
}

TYPED_TEST(ConcurrentWeakValueMapTest, ForbiddenUsesDoNotCompile) {
  using Map = MapOf<TypeParam, int, Tracked>;
  static_assert(!std::is_copy_constructible_v<Map>, "a copy would be weak or strong: say which");
  static_assert(!std::is_copy_assignable_v<Map>);
  static_assert(std::is_nothrow_move_constructible_v<Map>);
  static_assert(std::is_nothrow_move_assignable_v<Map>);
  static_assert(std::is_base_of_v<std::logic_error, RecursiveCreationError>);
  static_assert(std::is_same_v<typename Map::Strong, HandleOf<TypeParam, Tracked>>);
  static_assert(std::is_same_v<typename Map::Weak, WeakOf<TypeParam, Tracked>>);
}

// Own handles tell of their end: no operation is needed in between.
TEST(ConcurrentWeakValueMapSizeTest, IsExactForReleasesThatHappenedBefore) {
  ConcurrentWeakValueMap<int, Tracked> map;
  std::vector<Ref<Tracked>> objects;
  for (int key = 0; key < 1000; ++key) {
    objects.push_back(MakeRef<Tracked>(key));
    map.insert(key, objects.back());
    ASSERT_EQ(map.size(), objects.size());
  }
  while (!objects.empty()) {
    objects.pop_back();
    ASSERT_EQ(map.size(), objects.size());
    ASSERT_EQ(map.empty(), objects.empty());
  }
}

TEST(ConcurrentWeakValueMapDeathTest, EnteringNullNamesTheCall) {
  ConcurrentWeakValueMap<int, Tracked> map;
  EXPECT_DEATH(map.insert(1, nullptr),
               "ConcurrentWeakValueMap::insert: the reference is null or owns nothing");
  EXPECT_DEATH(map.insert_or_assign(1, Ref<Tracked>()),
               "ConcurrentWeakValueMap::insert_or_assign: the reference is null or owns nothing");
  Tracked unowned(1);
  EXPECT_DEATH(map.insert(1, Ref<Tracked>(Ref<Tracked>(), &unowned)), "owns nothing");
  const Ref<Tracked> owner = MakeRef<Tracked>(1);
  EXPECT_DEATH(map.insert(1, Ref<Tracked>(owner, nullptr)), "the reference is null");
  EXPECT_DEATH(map.get_or_create(1, [&] { return Ref<Tracked>(Ref<Tracked>(), &unowned); }),
               "ConcurrentWeakValueMap::get_or_create: the reference is null or owns nothing");
  ConcurrentWeakValueMap<int, std::shared_ptr<Tracked>> shared;
  EXPECT_DEATH(shared.insert(1, nullptr), "ConcurrentWeakValueMap::insert: the reference is null");
  EXPECT_DEATH(
      shared.insert_or_assign(1, std::shared_ptr<Tracked>(std::shared_ptr<Tracked>(), &unowned)),
      "ConcurrentWeakValueMap::insert_or_assign: the reference is null or owns nothing");
}

// Random operations, each checked against a model that holds what must be alive.
template <typename Kind>
class Script {
 public:
  explicit Script(uint64_t seed) : random_(seed) {}

  void Run(int operations) {
    for (int i = 0; i < operations; ++i) Step();
    objects_.clear();
    ASSERT_EQ(LiveSize(map_), 0u);
    map_.CheckInvariantsForTesting();
  }

 private:
  // Few keys, and hashes that collide: every path of the table is taken often.
  struct PoorHash {
    size_t operator()(int key) const { return static_cast<size_t>(key % 7); }
  };
  static constexpr int kKeys = 40;

  void Step() {
    const int key = Random(kKeys);
    const bool live = IsLive(key);
    const HandleOf<Kind, Tracked> made = Make<Kind, Tracked>(++made_);
    switch (Random(10)) {
      case 0:
        Keep(map_.get_or_create(key, [&] { return made; }), key);
        break;
      case 8:
        Keep(map_.emplace_or_assign(key, made_), key);
        break;
      case 1:
        ASSERT_EQ(map_.insert(key, made).second, !live);
        if (!live) Keep(made, key);
        break;
      case 2:
        ASSERT_EQ(map_.insert_or_assign(key, made), std::pair(made, !live));
        Keep(made, key);
        break;
      case 3:
        ASSERT_EQ(map_.erase(key), live ? 1u : 0u);
        model_.erase(key);
        break;
      case 4:
        if (!objects_.empty()) objects_[Random(static_cast<int>(objects_.size()))].reset();
        break;
      case 5:
        if (Random(8) == 0) map_.purge();
        break;
      case 6:
        if (Random(40) == 0) {
          map_.clear();
          model_.clear();
        }
        break;
      case 7:
        if (!objects_.empty()) objects_.erase(objects_.begin());
        break;
      default:
        CheckAll();
    }
    ASSERT_EQ(map_.contains(key), IsLive(key));
  }

  void Keep(const HandleOf<Kind, Tracked>& object, int key) {
    model_[key] = object;
    objects_.push_back(object);
  }
  bool IsLive(int key) const {
    const auto found = model_.find(key);
    return found != model_.end() && !found->second.expired();
  }
  void CheckAll() {
    size_t live = 0;
    for (const auto& [key, weak] : model_) {
      ASSERT_EQ(map_.get(key), weak.lock()) << key;
      live += weak.expired() ? 0 : 1;
    }
    ASSERT_EQ(LiveSize(map_), live);
    std::set<int> visited;
    map_.for_each([&](const int& key, const HandleOf<Kind, Tracked>& value) {
      ASSERT_EQ(model_.at(key).lock(), value);
      ASSERT_TRUE(visited.insert(key).second);
    });
    ASSERT_EQ(visited.size(), live);
  }
  int Random(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }

  std::mt19937_64 random_;
  int made_ = 0;
  ConcurrentWeakValueMap<int, testing::ValueOf<Kind, Tracked>, PoorHash, std::equal_to<int>> map_;
  std::unordered_map<int, WeakOf<Kind, Tracked>> model_;
  std::vector<HandleOf<Kind, Tracked>> objects_;
};

TYPED_TEST(ConcurrentWeakValueMapTest, BehavesAsItsModel) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Script<TypeParam>(seed).Run(300);
    if (this->HasFatalFailure()) return;
  }
}

// The object's own weak reference counts from the start, not only once its slot can be had.
struct SelfAware : EnableRefFromThis<SelfAware> {
  explicit SelfAware(int id) : id(id) {}
  int id;
  char bytes[100] = {};
};

TEST(ConcurrentWeakValueMapCreatedTest, ObjectsThatKnowTheirRef) {
  ConcurrentWeakValueMap<int, SelfAware> map =
      *ConcurrentWeakValueMap<int, SelfAware>::Create({.shards = 1});
  for (int round = 0; round < 100; ++round) {
    const Ref<SelfAware> object = map.get_or_create(round % 3, [&] { return SelfAware(round); });
    EXPECT_EQ(object->ref_from_this(), object);
    EXPECT_EQ(object.weak_count(), 2u);  // its own and the map's
  }
  map.purge();
  map.CheckInvariantsForTesting();
  EXPECT_TRUE(map.empty());
}

// Converting a key is the user's code, and so runs outside the lock: it may use the map.
struct Converted {
  Converted(int id) : id(id) {  // NOLINT(google-explicit-constructor)
    if (on_conversion != nullptr) (*on_conversion)();
  }
  friend bool operator==(const Converted& a, const Converted& b) { return a.id == b.id; }
  template <typename H>
  friend H AbslHashValue(H hash, const Converted& key) {
    return H::combine(std::move(hash), key.id);
  }
  int id;
  static inline std::function<void()>* on_conversion = nullptr;
};

TEST(ConcurrentWeakValueMapCreatedTest, KeysAreConvertedOutsideTheLock) {
  using Map = ConcurrentWeakValueMap<Converted, SelfAware>;
  Map map = *Map::Create({.shards = 1});
  const Converted known(1);
  int conversions = 0;
  std::function<void()> use = [&] {
    ++conversions;
    map.erase(known);
  };
  Converted::on_conversion = &use;
  const Ref<SelfAware> object = MakeRef<SelfAware>(5);
  map.insert(5, object);
  map.insert_or_assign(6, object);
  const Ref<SelfAware> made = map.get_or_create(7, [] { return SelfAware(7); });
  Converted::on_conversion = nullptr;
  EXPECT_GE(conversions, 3);
  EXPECT_EQ(map.size(), 3u);
}

TEST(ConcurrentWeakValueMapCreatedTest, ReservingInStepsKeepsNoMoreThanGrowing) {
  using Map = ConcurrentWeakValueMap<int, SelfAware>;
  const auto bytes_after = [](int step) {
    const int64_t before = LiveAllocatedBytes();
    Map map = *Map::Create({.shards = 1});
    for (int size = step; size <= 100'000; size += step) map.reserve(size);
    return LiveAllocatedBytes() - before;
  };
  EXPECT_LE(bytes_after(100), 4 * bytes_after(100'000));
}

}  // namespace
}  // namespace weakcache
