// SPDX-License-Identifier: Apache-2.0
// WeakValueMap's operations on many objects, and what each leaves behind when it fails.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/rounds.h"
#include "tests/support/tracked.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::FailEachAllocation;
using testing::Tracked;

// V is what the user of the map writes: Tracked for Refs.
template <typename V>
class WeakValueMapOperationsTest : public ::testing::Test {
 protected:
  using Map = WeakValueMap<std::string, V>;
  using Strong = typename Map::mapped_type;
  using Contents = std::map<std::string, Strong>;

  // Keys from "a" on; every other object is created by the map.
  static std::vector<Strong> Fill(Map& map, int count, int first_id = 0) {
    std::vector<Strong> objects;
    for (int i = 0; i < count; ++i) {
      const std::string key = Key(i);
      if (i % 2 == 0) {
        objects.push_back(map.try_emplace(key, first_id + i).first);
      } else {
        objects.push_back(HandleTraits<Strong>::Make(first_id + i));
        EXPECT_TRUE(map.insert(key, objects.back()).second);
      }
    }
    return objects;
  }
  static std::string Key(int i) { return "key " + std::to_string(i); }
  static Contents ContentsOf(const Map& map) {
    map.CheckInvariantsForTesting();
    Contents contents;
    map.for_each([&](const std::string& key, const Strong& value) {
      EXPECT_TRUE(contents.emplace(key, value).second);
      EXPECT_EQ(map.get(key), value);
    });
    return contents;
  }
};
using Values = ::testing::Types<Tracked, std::shared_ptr<Tracked>, const Tracked>;
TYPED_TEST_SUITE(WeakValueMapOperationsTest, Values);

TYPED_TEST(WeakValueMapOperationsTest, EmplaceOrAssignReplacesByANewObject) {
  typename TestFixture::Map map;
  auto objects = this->Fill(map, 4);
  for (int i = 0; i < 6; ++i) {
    const auto made = map.emplace_or_assign(this->Key(i), 10 + i);
    ASSERT_NE(made, nullptr);
    EXPECT_EQ(made->id(), 10 + i);
    EXPECT_EQ(map.get(this->Key(i)), made);
    if (i < 4) {
      EXPECT_EQ(objects[i]->id(), i);  // lives on
      objects[i] = nullptr;            // no longer the map's
      EXPECT_EQ(map.get(this->Key(i)), made);
    }
    map.CheckInvariantsForTesting();
  }
  map.purge();
  EXPECT_TRUE(map.empty());
  EXPECT_NE(map.emplace_or_assign(this->Key(0), 1), nullptr);  // over a dead one
  map.CheckInvariantsForTesting();
}

// What the factory enters may take the very place of the expired object.
TYPED_TEST(WeakValueMapOperationsTest, FactoryMayEnterItsOwnKeyInPlaceOfWhatHasExpired) {
  using Strong = typename TestFixture::Strong;
  constexpr int kCount = 20;  // so many that most have not been purged when it is their turn
  typename TestFixture::Map map;
  auto objects = this->Fill(map, kCount);
  for (int i = 0; i < kCount; ++i) {
    objects[i].reset();
    const Strong inner = HandleTraits<Strong>::Make(kCount + i);
    const Strong outer = map.get_or_create(this->Key(i), [&] {
      EXPECT_TRUE(map.insert_or_assign(this->Key(i), inner).second);
      return HandleTraits<Strong>::Make(0);
    });
    EXPECT_EQ(outer, inner);
    EXPECT_EQ(map.get(this->Key(i)), inner);
    objects[i] = inner;
  }
  EXPECT_EQ(this->ContentsOf(map).size(), size_t{kCount});
}

TYPED_TEST(WeakValueMapOperationsTest, EmplaceOrAssignThatFailsChangesNothing) {
  typename TestFixture::Map map;
  const auto objects = this->Fill(map, 2);
  typename TestFixture::Strong made;
  FailEachAllocation([&] { made = map.emplace_or_assign(this->Key(0), 7); },
                     [&] {
                       EXPECT_EQ(map.get(this->Key(0)), objects[0]);
                       EXPECT_EQ(map.size(), 2u);
                       map.CheckInvariantsForTesting();
                     });
  EXPECT_EQ(map.get(this->Key(0)), made);
}

TYPED_TEST(WeakValueMapOperationsTest, ExtractTakesTheObjectOut) {
  typename TestFixture::Map map;
  auto objects = this->Fill(map, 4);
  for (int i = 0; i < 4; ++i) {
    const auto extracted = map.take(this->Key(i));
    EXPECT_EQ(extracted, objects[i]);
    EXPECT_EQ(map.get(this->Key(i)), nullptr);
    EXPECT_EQ(map.take(this->Key(i)), nullptr);
    objects[i] = nullptr;
    EXPECT_EQ(extracted->id(), i);
    map.CheckInvariantsForTesting();
  }
  map.try_emplace("expired");
  EXPECT_EQ(map.take("expired"), nullptr);
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(Tracked::live(), 0);
}

TYPED_TEST(WeakValueMapOperationsTest, PopEmptiesTheMap) {
  typename TestFixture::Map map;
  auto objects = this->Fill(map, 200);
  for (int i = 0; i < 200; i += 5) objects[i] = nullptr;
  std::set<std::string> keys;
  while (const auto popped = map.pop()) {
    EXPECT_TRUE(keys.insert(popped->first).second);
    EXPECT_EQ(popped->first, this->Key(popped->second->id()));
    EXPECT_FALSE(map.contains(popped->first));
    map.CheckInvariantsForTesting();
  }
  EXPECT_EQ(keys.size(), 160u);
  EXPECT_TRUE(map.empty());
  EXPECT_FALSE(map.pop().has_value());
}

TYPED_TEST(WeakValueMapOperationsTest, UpdateReplacesAndMergeDoesNot) {
  for (const bool merges : {false, true}) {
    typename TestFixture::Map map, other;
    const auto ours = this->Fill(map, 10);
    auto theirs = this->Fill(other, 20, 100);
    theirs[15] = nullptr;
    if (merges) {
      map.merge(other);
    } else {
      map.update(other);
    }
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(map.get(this->Key(i)), merges && i < 10 ? ours[i] : theirs[i]) << i;
      const bool moved = merges && i >= 10;
      EXPECT_EQ(other.get(this->Key(i)), moved ? nullptr : theirs[i]) << i;
    }
    EXPECT_EQ(this->ContentsOf(map).size(), 19u);
    EXPECT_EQ(this->ContentsOf(other).size(), merges ? 10u : 19u);
    theirs.clear();  // the entries here follow them, whoever created them
    EXPECT_EQ(this->ContentsOf(map).size(), merges ? 10u : 0u);
  }
}

TYPED_TEST(WeakValueMapOperationsTest, UpdateAndMergeWithItselfChangeNothing) {
  typename TestFixture::Map map;
  const auto objects = this->Fill(map, 30);
  const auto contents = this->ContentsOf(map);
  map.update(map);
  map.merge(map);
  EXPECT_EQ(this->ContentsOf(map), contents);
}

TYPED_TEST(WeakValueMapOperationsTest, CopiesOfTheContents) {
  typename TestFixture::Map map;
  auto objects = this->Fill(map, 50);
  objects[10] = nullptr;
  const auto contents = this->ContentsOf(map);
  std::set<std::string> keys;
  for (const std::string& key : map.keys()) keys.insert(key);
  EXPECT_EQ(keys.size(), 49u);
  const auto values = map.values();
  EXPECT_EQ(values.size(), 49u);
  for (const auto& value : values) EXPECT_EQ(contents.at(this->Key(value->id())), value);
  const auto snapshot = map.snapshot();
  EXPECT_EQ((typename TestFixture::Contents(snapshot.begin(), snapshot.end())), contents);
  objects.clear();
  EXPECT_EQ(Tracked::live(), 49);  // the copies hold them
}

TYPED_TEST(WeakValueMapOperationsTest, CloneIsEqualAndHoldsNothing) {
  typename TestFixture::Map map;
  auto objects = this->Fill(map, 50);
  objects[10] = nullptr;
  typename TestFixture::Map clone = map.clone();
  EXPECT_EQ(this->ContentsOf(clone), this->ContentsOf(map));
  EXPECT_TRUE(clone == map);
  map.erase(this->Key(3));
  EXPECT_FALSE(clone == map);
  EXPECT_FALSE(map == clone);
  EXPECT_EQ(clone.get(this->Key(3)), objects[3]);
  map.insert(this->Key(3), objects[4]);
  EXPECT_FALSE(clone == map);
  map.insert_or_assign(this->Key(3), objects[3]);
  EXPECT_TRUE(clone == map);
  map.clear();  // created some of them: that is over, and the clone does not mind
  map.shrink_to_fit();
  EXPECT_EQ(clone.get(this->Key(0)), objects[0]);
  objects.clear();
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_TRUE(clone == map);
  EXPECT_TRUE(this->ContentsOf(clone).empty());
}

TYPED_TEST(WeakValueMapOperationsTest, EraseIfErasesWhatTheConditionSays) {
  typename TestFixture::Map map;
  auto objects = this->Fill(map, 20);
  objects[2] = nullptr;
  const auto is_even = [&](const std::string& key, const auto& value) {
    EXPECT_EQ(key, this->Key(value->id()));
    return value->id() % 2 == 0;
  };
  EXPECT_EQ(map.erase_if(is_even), 9u);
  EXPECT_EQ(map.erase_if(is_even), 0u);
  EXPECT_EQ(this->ContentsOf(map).size(), 10u);
}

TYPED_TEST(WeakValueMapOperationsTest, ConditionThatChangesTheMapAborts) {
  typename TestFixture::Map map;
  const auto objects = this->Fill(map, 3);
  EXPECT_DEATH(map.erase_if([&](const std::string& key, const auto&) {
    map.erase(key);
    return true;
  }),
               "WeakValueMap::erase_if: the condition has changed the container");
  EXPECT_DEATH(map.erase_if([&](const std::string&, const auto& value) {
    map.insert("another", value);
    return true;
  }),
               "WeakValueMap::erase_if: the condition has changed the container");
}

TYPED_TEST(WeakValueMapOperationsTest, ShrinkToFitKeepsEntriesAndReferencesToThem) {
  typename TestFixture::Map map;
  const auto kept = map.try_emplace("kept", 1).first;
  const auto begin = map.begin();
  const std::string& key = (*begin).key;
  { const auto objects = this->Fill(map, 3000); }
  const int64_t before = testing::LiveAllocatedBytes();
  map.shrink_to_fit();
  EXPECT_LT(testing::LiveAllocatedBytes(), before);
  EXPECT_EQ(key, "kept");
  EXPECT_EQ(&(*begin).key, &key);
  EXPECT_EQ(this->ContentsOf(map), (typename TestFixture::Contents{{"kept", kept}}));
}

// Every operation that changes the map fails at each of its allocations in turn.
TYPED_TEST(WeakValueMapOperationsTest, AFailedAllocationLeavesItAsItWas) {
  using Map = typename TestFixture::Map;
  using Strong = typename TestFixture::Strong;
  const Strong another = HandleTraits<Strong>::Make(1000);
  const std::string fresh = "a fresh key, too long for the short-string optimisation";
  const std::pair<const char*, std::function<void(Map&)>> operations[] = {
      {"insert", [&](Map& map) { map.insert(fresh, another); }},
      {"insert_or_assign new", [&](Map& map) { map.insert_or_assign(fresh, another); }},
      {"insert_or_assign old",
       [&](Map& map) { map.insert_or_assign(TestFixture::Key(0), another); }},
      {"try_emplace", [&](Map& map) { map.try_emplace(fresh, 1); }},
      {"get_or_create, a handle",
       [&](Map& map) { map.get_or_create(fresh, [&] { return HandleTraits<Strong>::Make(1); }); }},
      {"get_or_create, an object",
       [&](Map& map) { map.get_or_create(fresh, [] { return Tracked(1); }); }},
      {"reserve", [](Map& map) { map.reserve(10'000); }},
      {"shrink_to_fit", [](Map& map) { map.shrink_to_fit(); }},
      {"clone", [](Map& map) { (void)map.clone(); }},
      {"snapshot", [](Map& map) { (void)map.snapshot(); }},
      {"keys", [](Map& map) { (void)map.keys(); }},
  };
  for (const auto& named : operations) {
    const char* const name = named.first;
    const auto& operation = named.second;
    int all_failures = 0;
    for (int present = 1; present < 40; ++present) {
      SCOPED_TRACE(name);
      Map map;
      const auto objects = this->Fill(map, present);
      const auto contents = this->ContentsOf(map);
      const int live = Tracked::live();
      const int failures = FailEachAllocation([&] { operation(map); },
                                              [&] {
                                                ASSERT_EQ(this->ContentsOf(map), contents);
                                                ASSERT_EQ(Tracked::live(), live);
                                              });
      all_failures += failures;
      map.CheckInvariantsForTesting();
    }
    // An entry that was there before may be given another object without any allocation.
    if (std::string_view(name) != "insert_or_assign old") {
      EXPECT_GT(all_failures, 0) << name;
    }
  }
}

// Of many objects those before the failure have moved, each is in one of the maps.
TYPED_TEST(WeakValueMapOperationsTest, AFailedMergeOrUpdateStopsThere) {
  for (const bool merges : {false, true}) {
    typename TestFixture::Map map, other;
    const auto ours = this->Fill(map, 3);
    const auto theirs = this->Fill(other, 40, 100);
    const auto operate = [&] {
      if (merges) {
        map.merge(other);
      } else {
        map.update(other);
      }
    };
    const int failures = FailEachAllocation(operate, [&] {
      map.CheckInvariantsForTesting();
      other.CheckInvariantsForTesting();
      for (int i = 0; i < 40; ++i) {
        const bool is_here = map.get(TestFixture::Key(i)) == theirs[i];
        const bool is_there = other.get(TestFixture::Key(i)) == theirs[i];
        ASSERT_TRUE(merges ? is_here != is_there : is_there) << i;
      }
    });
    EXPECT_GT(failures, 3);
    EXPECT_EQ(map.size(), 40u);
    EXPECT_EQ(other.size(), merges ? 3u : 40u);
  }
}

// A key that throws when told to, in its copy, hash or equality.
struct Hostile {
  inline static int throw_in = 0;
  static void Step() {
    if (throw_in > 0 && --throw_in == 0) throw std::runtime_error("hostile");
  }
  Hostile(int id) : id(id) {}  // NOLINT(google-explicit-constructor)
  Hostile(const Hostile& other) : id(other.id) { Step(); }
  Hostile& operator=(const Hostile&) = delete;
  bool operator==(const Hostile& other) const {
    Step();
    return id == other.id;
  }
  struct Hash {
    size_t operator()(const Hostile& key) const {
      Step();
      return static_cast<size_t>(key.id % 3);
    }
  };
  int id;
};

TYPED_TEST(WeakValueMapOperationsTest, AThrowingKeyLeavesItAsItWas) {
  using Map = WeakValueMap<Hostile, TypeParam, Hostile::Hash, std::equal_to<Hostile>>;
  using Strong = typename Map::mapped_type;
  const Strong another = HandleTraits<Strong>::Make(1000);
  const Hostile fresh(1000);
  const Hostile old(1);
  const std::function<void(Map&)> operations[] = {
      [&](Map& map) { map.insert(fresh, another); },
      [&](Map& map) { map.insert_or_assign(fresh, another); },
      [&](Map& map) { map.insert_or_assign(old, another); },
      [&](Map& map) { map.try_emplace(fresh, 1); },
      [&](Map& map) { map.get_or_create(fresh, [] { return Tracked(1); }); },
      [&](Map& map) { map.erase(old); },
      [&](Map& map) { (void)map.take(old); },
      [&](Map& map) { (void)map.clone(); },
      [&](Map& map) { map.reserve(1000); },
  };
  for (const auto& operation : operations) {
    for (int throws = 0;; ++throws) {
      Map map;
      std::vector<Strong> objects;
      for (int id = 0; id < 12; ++id) objects.push_back(map.try_emplace(id, id).first);
      Hostile::throw_in = throws + 1;
      bool has_thrown = false;
      try {
        operation(map);
      } catch (const std::runtime_error&) {
        has_thrown = true;
      }
      Hostile::throw_in = 0;
      map.CheckInvariantsForTesting();
      if (!has_thrown) break;
      ASSERT_EQ(map.size(), 12u);
      for (int id = 0; id < 12; ++id) ASSERT_EQ(map.get(id), objects[id]);
    }
  }
}

TYPED_TEST(WeakValueMapOperationsTest, AThrowingFactoryLeavesItAsItWas) {
  typename TestFixture::Map map;
  const auto objects = this->Fill(map, 6);  // the next one needs more room
  const auto contents = this->ContentsOf(map);
  const auto throws = []() -> Tracked { throw std::runtime_error("no"); };
  EXPECT_THROW(map.get_or_create("fresh", throws), std::runtime_error);
  EXPECT_EQ(this->ContentsOf(map), contents);
  EXPECT_EQ(map.get_or_create(this->Key(0), throws), objects[0]);
  const auto throws_late = [&]() -> Tracked {
    map.erase(this->Key(0));
    throw std::runtime_error("after it has used the map");
  };
  EXPECT_THROW(map.get_or_create("fresh", throws_late), std::runtime_error);
  EXPECT_EQ(this->ContentsOf(map).size(), 5u);
}

// An entry is counted out before anybody is told.
TEST(WeakValueMapCreatedTest, CallbacksFindTheEntryGone) {
  WeakValueMap<int, Tracked> map;
  Ref<Tracked> object = map.try_emplace(1, 1).first;
  const Ref<Tracked> other = map.try_emplace(2, 2).first;
  std::vector<std::string> told;
  const auto expect_gone = [&](const char* who) {
    told.emplace_back(who);
    EXPECT_EQ(Tracked::live(), 1);
    EXPECT_EQ(map.size(), 1u);
    EXPECT_EQ(map.get(1), nullptr);
    EXPECT_FALSE(map.contains(1));
  };
  Finalize(object, [&] { expect_gone("finalizer"); });
  const ExpiryRegistration registration = OnExpire(object, [&] {
    expect_gone("callback");
    EXPECT_EQ(map.purge(), 1u);
    EXPECT_TRUE(map.try_emplace(1, 3).second);
  });
  object.reset();
  EXPECT_EQ(told, (std::vector<std::string>{"callback", "finalizer"}));
  EXPECT_EQ(map.size(), 1u);
  map.CheckInvariantsForTesting();
}

// Registrations of an object that was created here, after its entry and its map have gone.
TEST(WeakValueMapCreatedTest, CallbacksOutliveEntryAndMap) {
  int told = 0;
  const int64_t before = testing::LiveAllocations();
  for (const bool by_erase : {false, true}) {
    auto map = std::make_unique<WeakValueMap<int, Tracked>>();
    Ref<Tracked> object = map->try_emplace(1, 1).first;
    const ExpiryRegistration registration = OnExpire(object, [&] { ++told; });
    if (by_erase) map->erase(1);
    map.reset();
    EXPECT_EQ(object.watcher_count(), 1u);
    object.reset();
  }
  EXPECT_EQ(told, 2);
  EXPECT_EQ(testing::LiveAllocations(), before);
}

TEST(WeakValueMapCreatedTest, CountsAreThoseOfARef) {
  WeakValueMap<int, Tracked> map;
  const Ref<Tracked> object = map.try_emplace(1, 1).first;
  EXPECT_EQ(object.use_count(), 1u);
  EXPECT_EQ(object.weak_count(), 1u);  // the entry
  EXPECT_EQ(object.watcher_count(), 0u);
  map.erase(1);
  EXPECT_EQ(object.weak_count(), 0u);
  map.insert(1, object);  // again, in an external slot
  EXPECT_EQ(object.weak_count(), 1u);
  EXPECT_EQ(object.watcher_count(), 1u);
  map.insert(2, object);
  map.CheckInvariantsForTesting();
}

struct Node {
  explicit Node(Ref<Node> next) : next(std::move(next)) {}
  Ref<Node> next;
};

// Each object owns the one that was created before it.
TEST(WeakValueMapCreatedTest, DeepChainsGoOnAFixedAmountOfStack) {
  const int kDepth = testing::kSanitized ? 200'000 : testing::Rounds(2'000'000, 400'000);
  for (const int depth : {kDepth, kDepth / 100}) {
    const bool map_goes_first = depth != kDepth;
    const int64_t before = testing::LiveAllocations();
    {
      auto map = std::make_unique<WeakValueMap<int, Node>>();
      Ref<Node> chain;
      for (int i = 0; i < depth; ++i) chain = map->try_emplace(i, std::move(chain)).first;
      ASSERT_EQ(map->size(), static_cast<size_t>(depth));
      if (map_goes_first) map.reset();
      chain.reset();
      if (!map_goes_first) {
        EXPECT_TRUE(map->empty());
        EXPECT_EQ(map->purge(), static_cast<size_t>(depth));
      }
    }
    EXPECT_EQ(testing::LiveAllocations(), before);
  }
}

}  // namespace
}  // namespace weakcache
