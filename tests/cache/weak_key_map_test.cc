// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/weak_key_map.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "tests/support/word.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::SmallTracked;
using testing::Tracked;
// Keys and mapped values are told apart by their size.
using Key = Tracked;
using Value = SmallTracked;

TEST(WeakKeyMapTest, FindsTheValueWhileItsKeyLives) {
  WeakKeyMap<Key, std::string> names;
  Ref<Key> key = MakeRef<Key>(1);
  EXPECT_EQ(names.get(key), nullptr);
  EXPECT_TRUE(names.insert(key, "one").second);
  EXPECT_EQ(*names.get(key), "one");
  EXPECT_FALSE(names.insert(key, "two").second);
  EXPECT_EQ(*names.get(key), "one");
  EXPECT_FALSE(names.insert_or_assign(key, "three").second);
  EXPECT_EQ(*std::as_const(names).get(key), "three");
  EXPECT_EQ(names.get_or_create(key, [] { return "four"; }), "three");
  key.reset();
  EXPECT_TRUE(names.empty());
}

TEST(WeakKeyMapTest, KeysGoByIdentity) {
  WeakKeyMap<std::string, int> map;
  const Ref<std::string> a = MakeRef<std::string>("same");
  const Ref<std::string> b = MakeRef<std::string>("same");
  map.insert(a, 1);
  EXPECT_FALSE(map.contains(b));
  EXPECT_FALSE(map.contains(nullptr));
  const Ref<std::string> also_a = a;
  EXPECT_TRUE(map.contains(also_a));
}

// Hand-written caches fail here: a new object at a dead one's address inherits its data.
TEST(WeakKeyMapTest, ANewObjectInheritsNothing) {
  WeakKeyMap<SmallTracked, int> map;
  for (int i = 0; i < 1000; ++i) {
    const Ref<SmallTracked> key = MakeRef<SmallTracked>(i);  // often at the last one's address
    ASSERT_FALSE(map.contains(key));
    map.insert(key, i);
  }
}

TEST(WeakKeyMapTest, TheValueIsDestroyedAtTheKeysDeathNotAtThePurge) {
  WeakKeyMap<Key, Value> map;
  Ref<Key> key = MakeRef<Key>(1);
  map.insert(key, Value(1));
  EXPECT_EQ(Value::live(), 1);
  key.reset();
  EXPECT_EQ(Value::live(), 0);
  EXPECT_EQ(map.purge(), 1u);
}

TEST(WeakKeyMapTest, TheReleasingThreadDestroysTheValueAfterTheKey) {
  struct Witness {
    ~Witness() {
      if (thread != nullptr) *thread = std::this_thread::get_id();
      if (live_keys != nullptr) *live_keys = Key::live();
    }
    std::thread::id* thread = nullptr;
    int* live_keys = nullptr;
  };
  WeakKeyMap<Key, std::unique_ptr<Witness>> map;
  Ref<Key> key = MakeRef<Key>(1);
  std::thread::id destroyer;
  int live_keys = -1;
  map.insert(key, std::make_unique<Witness>(Witness{&destroyer, &live_keys}));
  std::thread releaser([&] { key.reset(); });
  const std::thread::id id = releaser.get_id();
  releaser.join();
  EXPECT_EQ(destroyer, id);
  EXPECT_EQ(live_keys, 0);
}

TEST(WeakKeyMapTest, EveryWayOutDestroysTheValueOnce) {
  const Ref<Key> key = MakeRef<Key>(1);
  {
    WeakKeyMap<Key, Value> map;
    map.insert(key, Value(1));
    map.erase(key);
    EXPECT_EQ(Value::live(), 0);
    map.insert(key, Value(1));
    map.clear();
    EXPECT_EQ(Value::live(), 0);
    map.insert(key, Value(1));
    EXPECT_EQ(Value::live(), 1);
  }
  EXPECT_EQ(Value::live(), 0);
}

TEST(WeakKeyMapTest, PointersToValuesSurviveGrowth) {
  WeakKeyMap<Key, int> map;
  std::vector<Ref<Key>> keys;
  std::vector<int*> values;
  for (int i = 0; i < 5000; ++i) {
    keys.push_back(MakeRef<Key>(i));
    values.push_back(map.insert(keys.back(), i).first);
  }
  for (int i = 0; i < 5000; ++i) {
    EXPECT_EQ(*values[i], i);
    EXPECT_EQ(map.get(keys[i]), values[i]);
  }
}

TEST(WeakKeyMapTest, AConstructorOrFactoryMayAttachItself) {
  WeakKeyMap<Key, Value> map;
  const Ref<Key> key = MakeRef<Key>(1);
  Value& value = map.get_or_create(key, [&] {
    map.insert(key, Value(10));
    return Value(20);
  });
  EXPECT_EQ(value.id(), 10);
  EXPECT_EQ(Value::live(), 1);

  // Its constructor attaches one to the same key: the inner one stays.
  struct Recursive {
    Recursive(WeakKeyMap<Key, Recursive>* map, const Ref<Key>& key, int depth) : depth(depth) {
      if (depth > 0) map->try_emplace(key, map, key, depth - 1);
    }
    int depth;
  };
  WeakKeyMap<Key, Recursive> recursive;
  const auto [inner, created] = recursive.try_emplace(key, &recursive, key, 3);
  EXPECT_FALSE(created);
  EXPECT_EQ(inner->depth, 0);
  EXPECT_EQ(recursive.size(), 1u);
}

TEST(WeakKeyMapTest, ThrowingConstructorLeavesItAsItWas) {
  struct Throwing {
    explicit Throwing(bool now) {
      if (now) throw std::runtime_error("now");
    }
  };
  WeakKeyMap<Key, Throwing> map;
  const Ref<Key> key = MakeRef<Key>(1);
  EXPECT_THROW(map.try_emplace(key, true), std::runtime_error);
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(key.weak_count(), 0u);
  EXPECT_TRUE(map.try_emplace(key, false).second);
}

TEST(WeakKeyMapTest, ValuesMayOwnOtherKeys) {
  WeakKeyMap<Key, Ref<Key>> map;
  Ref<Key> first = MakeRef<Key>(0);
  Ref<Key> last = first;
  for (int i = 1; i < 1000; ++i) {
    const Ref<Key> next = MakeRef<Key>(i);
    map.insert(last, next);
    last = next;
  }
  last.reset();
  EXPECT_EQ(Key::live(), 1000);
  first.reset();  // each key's death destroys the value that owns the next key
  EXPECT_EQ(Key::live(), 0);
  EXPECT_TRUE(map.empty());
}

TEST(WeakKeyMapTest, IterationGivesMutableValues) {
  WeakKeyMap<Key, int> map;
  const Ref<Key> key = MakeRef<Key>(1);
  map.insert(key, 1);
  for (const auto& [visited, value] : map) {
    EXPECT_EQ(visited, key);
    ++value;
  }
  EXPECT_EQ(*map.get(key), 2);
  for (const auto& entry : std::as_const(map)) {
    static_assert(std::is_same_v<decltype((entry.value)), const int&>);
  }
}

TEST(WeakKeyMapTest, ExtractDetachesTheValueAndReturnsIt) {
  WeakKeyMap<Key, std::unique_ptr<int>> map;
  const Ref<Key> key = MakeRef<Key>(1);
  EXPECT_EQ(map.take(key), std::nullopt);
  map.insert(key, std::make_unique<int>(7));
  const std::optional<std::unique_ptr<int>> extracted = map.take(key);
  EXPECT_EQ(**extracted, 7);
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(key.weak_count(), 0u);
  EXPECT_EQ(map.take(key), std::nullopt);
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapTest, PopTakesEachLiveEntryOnce) {
  WeakKeyMap<Key, std::unique_ptr<int>> map;
  EXPECT_EQ(map.pop(), std::nullopt);
  std::vector<Ref<Key>> keys;
  for (int i = 0; i < 100; ++i) {
    keys.push_back(MakeRef<Key>(i));
    map.insert(keys.back(), std::make_unique<int>(i));
  }
  for (int i = 0; i < 100; i += 2) keys[i].reset();
  std::set<int> popped;
  while (auto entry = map.pop()) {
    EXPECT_EQ(entry->first->id(), *entry->second);
    EXPECT_EQ(entry->first, keys[*entry->second]);
    EXPECT_TRUE(popped.insert(*entry->second).second);
  }
  EXPECT_EQ(popped.size(), 50u);
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
  map.insert(keys[1], nullptr);
  EXPECT_EQ(map.pop()->first, keys[1]);
}

// A value whose construction from another fails when it is told to.
struct Fragile {
  explicit Fragile(int id) : id(id) {}
  Fragile(const Fragile& other) : id(other.id) { testing::MayThrow(); }
  Fragile(Fragile&& other) : id(other.id) {
    testing::MayThrow();
    other.id = -1;
  }
  int id;
};

// No value is lost on its way out.
TEST(WeakKeyMapTest, AThrowingMoveLeavesTheValueThere) {
  WeakKeyMap<Key, Fragile> map;
  const Ref<Key> key = MakeRef<Key>(1);
  const auto check = [&] {
    ASSERT_EQ(map.size(), 1u);
    ASSERT_EQ(map.get(key)->id, 7);
  };
  map.try_emplace(key, 7);
  EXPECT_EQ(testing::ThrowAtEachPoint([&] { (void)map.take(key); }, check), 1);
  EXPECT_TRUE(map.empty());
  map.try_emplace(key, 7);
  EXPECT_EQ(testing::ThrowAtEachPoint([&] { (void)map.pop(); }, check), 1);
  EXPECT_TRUE(map.empty());
}

TEST(WeakKeyMapTest, EraseIfRemovesWhatTheConditionNames) {
  WeakKeyMap<Key, Value> map;
  std::vector<Ref<Key>> keys;
  for (int i = 0; i < 100; ++i) {
    keys.push_back(MakeRef<Key>(i));
    map.try_emplace(keys.back(), i);
  }
  keys[3].reset();
  EXPECT_EQ(map.erase_if([](const Ref<Key>& key, Value& value) {
    EXPECT_EQ(key->id(), value.id());
    return value.id() % 3 == 0;
  }),
            33u);
  EXPECT_EQ(map.size(), 66u);
  EXPECT_EQ(Value::live(), 66);
  EXPECT_FALSE(map.contains(keys[6]));
  EXPECT_TRUE(map.contains(keys[7]));
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapDeathTest, AConditionThatChangesTheMapNamesTheCall) {
  WeakKeyMap<Key, int> map;
  const Ref<Key> key = MakeRef<Key>(1);
  map.insert(key, 1);
  EXPECT_DEATH(map.erase_if([&](const Ref<Key>&, int) { return map.erase(key) == 1; }),
               "WeakKeyMap::erase_if: the condition has changed the container");
}

TEST(WeakKeyMapTest, UpdateReplacesAndMergeDoesNot) {
  WeakKeyMap<Key, std::string> a, b;
  const Ref<Key> keys[] = {MakeRef<Key>(0), MakeRef<Key>(1), MakeRef<Key>(2)};
  const std::string long_text(100, 'x');
  a.insert(keys[0], "a");
  a.insert(keys[1], "a");
  b.insert(keys[1], "b");
  b.insert(keys[2], long_text);
  WeakKeyMap<Key, std::string> updated = a.clone();
  updated.update(b);
  EXPECT_EQ(*updated.get(keys[1]), "b");
  EXPECT_EQ(*updated.get(keys[2]), long_text);
  EXPECT_EQ(updated.size(), 3u);
  EXPECT_EQ(b.size(), 2u);
  a.merge(b);
  EXPECT_EQ(*a.get(keys[1]), "a");
  EXPECT_EQ(*a.get(keys[2]), long_text);
  EXPECT_EQ(b.size(), 1u);
  EXPECT_EQ(*b.get(keys[1]), "b");
  a.update(a);
  a.merge(a);
  EXPECT_EQ(a.size(), 3u);
  EXPECT_EQ(*a.get(keys[0]), "a");
  a.CheckInvariantsForTesting();
  b.CheckInvariantsForTesting();
}

// It stops where it fails: each value is in one of the maps, and whole.
TEST(WeakKeyMapTest, AFailedMergeLosesNoValue) {
  const std::string text(100, 'x');
  for (int present = 0; present < 20; ++present) {
    WeakKeyMap<Key, std::string> to, from;
    std::vector<Ref<Key>> keys;
    for (int i = 0; i < present + 20; ++i) {
      keys.push_back(MakeRef<Key>(i));
      (i < present ? to : from).insert(keys.back(), text);
    }
    testing::FailEachAllocation([&] { to.merge(from); },
                                [&] {
                                  ASSERT_EQ(to.size() + from.size(), keys.size());
                                  for (const Ref<Key>& key : keys) {
                                    ASSERT_NE(to.contains(key), from.contains(key));
                                    ASSERT_EQ(*(to.contains(key) ? to : from).get(key), text);
                                  }
                                });
    ASSERT_EQ(to.size(), keys.size());
  }
}

TEST(WeakKeyMapTest, KeysSnapshotAndCloneAreOfTheLiving) {
  WeakKeyMap<Key, std::string> map;
  Ref<Key> dead = MakeRef<Key>(0);
  Ref<Key> key = MakeRef<Key>(1);
  map.insert(dead, "dead");
  map.insert(key, "one");
  dead.reset();
  EXPECT_EQ(map.keys(), std::vector<Ref<Key>>{key});
  std::vector<std::pair<Ref<Key>, std::string>> snapshot = map.snapshot();
  EXPECT_EQ(snapshot, (std::vector<std::pair<Ref<Key>, std::string>>{{key, "one"}}));
  const WeakKeyMap<Key, std::string> clone = map.clone();
  *map.get(key) = "two";
  EXPECT_EQ(*clone.get(key), "one");
  EXPECT_EQ(snapshot[0].second, "one");
  key.reset();
  EXPECT_EQ(clone.size(), 1u);  // the snapshot holds its key
  snapshot.clear();
  EXPECT_TRUE(clone.empty());
  EXPECT_EQ(Key::live(), 0);
}

TEST(WeakKeyMapTest, EqualMapsHaveEqualValuesUnderTheSameKeys) {
  WeakKeyMap<Key, int> a, b;
  EXPECT_EQ(a, b);
  Ref<Key> keys[] = {MakeRef<Key>(0), MakeRef<Key>(1)};
  a.insert(keys[0], 1);
  EXPECT_FALSE(a == b);
  EXPECT_FALSE(b == a);
  b.insert(keys[0], 1);
  EXPECT_EQ(a, b);
  b.insert(keys[1], 1);
  EXPECT_FALSE(a == b);
  EXPECT_FALSE(b == a);
  a.insert(keys[1], 2);
  EXPECT_FALSE(a == b);
  keys[1].reset();  // the dead don't count
  EXPECT_EQ(a, b);
  EXPECT_EQ(a, a);
}

TEST(WeakKeyMapTest, ThePartsOfAnObjectAreOneKey) {
  struct Whole {
    int first = 1;
    int second = 2;
  };
  WeakKeyMap<int, Value> map;
  Ref<Whole> whole = MakeRef<Whole>();
  Ref<int> first(whole, &whole->first);
  Ref<int> second(whole, &whole->second);
  map.try_emplace(first, 1);
  EXPECT_FALSE(map.try_emplace(second, 2).second);
  EXPECT_EQ(map.get(second)->id(), 1);
  EXPECT_EQ(map.canonical_key(second).get(), &whole->first);
  EXPECT_FALSE(map.insert_or_assign(second, Value(3)).second);
  EXPECT_EQ(map.canonical_key(first).get(), &whole->second);
  EXPECT_EQ(map.size(), 1u);
  whole.reset();
  first.reset();
  EXPECT_EQ(map.size(), 1u);
  second.reset();
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(Value::live(), 0);
}

TEST(WeakKeyMapTest, ARefToADerivedObjectFindsItsBase) {
  struct Derived : Key {
    using Key::Key;
  };
  WeakKeyMap<Key, int> map;
  const Ref<Derived> key = MakeRef<Derived>(1);
  EXPECT_EQ(map.canonical_key(key), nullptr);
  map.insert(key, 1);
  EXPECT_EQ(*map.get(key), 1);
  EXPECT_EQ(map.canonical_key(key), key);
  EXPECT_EQ(map.take(key), 1);
  map.insert(key, 2);
  EXPECT_EQ(map.erase(key), 1u);
}

TEST(WeakKeyMapTest, AssignmentDestroysTheOldValueOnce) {
  WeakKeyMap<Key, Value> map;
  const Ref<Key> key = MakeRef<Key>(1);
  EXPECT_TRUE(map.insert_or_assign(key, Value(1)).second);
  const Value* const old = map.get(key);
  EXPECT_FALSE(
      map.insert_or_assign(key, *old).second);  // a copy of the very value that is replaced
  EXPECT_EQ(map.get(key)->id(), 1);
  EXPECT_EQ(Value::live(), 1);
  EXPECT_FALSE(map.insert_or_assign(key, 5).second);  // what a value can be made from
  EXPECT_EQ(map.get(key)->id(), 5);
  EXPECT_EQ(map.size(), 1u);
  EXPECT_EQ(key.weak_count(), 1u);
  map.CheckInvariantsForTesting();
}

// Values need no more than a constructor and a destructor; not even an address that & gives.
TEST(WeakKeyMapTest, ValuesMayBeNeitherCopiedNorMovedNorAssigned) {
  struct alignas(128) Fixed {
    explicit Fixed(int id) : id(id) {}
    Fixed(const Fixed&) = delete;
    Fixed& operator=(const Fixed&) = delete;
    void operator&() const = delete;
    const int id;
  };
  WeakKeyMap<Key, Fixed> map;
  std::vector<Ref<Key>> keys;
  for (int i = 0; i < 100; ++i) {
    keys.push_back(MakeRef<Key>(i));
    const Fixed* const fixed = map.try_emplace(keys.back(), i).first;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(fixed) % 128, 0u);
    EXPECT_EQ(map.get_or_create(keys.back(), [] { return -1; }).id, i);
  }
  EXPECT_FALSE(map.insert_or_assign(keys[3], 33).second);
  EXPECT_EQ(std::as_const(map).get(keys[3])->id, 33);
  EXPECT_EQ(map.erase_if([](const auto&, const Fixed& fixed) { return fixed.id > 50; }), 49u);
  int visited = 0;
  map.for_each([&](const auto&, Fixed&) { ++visited; });
  EXPECT_EQ(visited, 51);
  const auto moved = std::move(map);
  EXPECT_EQ(moved.size(), 51u);
  EXPECT_EQ(moved.keys().size(), 51u);
}

TEST(WeakKeyMapTest, AConstMapGivesConstValues) {
  WeakKeyMap<Key, int> map;
  const Ref<Key> key = MakeRef<Key>(1);
  map.insert(key, 1);
  const auto& constant = map;
  static_assert(std::is_same_v<decltype(constant.get(key)), const int*>);
  static_assert(std::is_same_v<decltype(map)::const_pointer, const int*>);
  constant.for_each([](const Ref<Key>&, auto& value) {
    static_assert(std::is_same_v<decltype(value), const int&>);
  });
  EXPECT_TRUE(constant.contains(key));
  EXPECT_EQ(constant.canonical_key(key), key);
  EXPECT_EQ(constant.canonical_key(MakeRef<Key>(1)), nullptr);
}

TEST(WeakKeyMapTest, FindsTheKeysThatTheirOwnValuesHold) {
  WeakKeyMap<Key, std::vector<Ref<Key>>> map;
  const Ref<Key> selfish = MakeRef<Key>(1);
  const Ref<Key> friendly = MakeRef<Key>(2);
  const Ref<Key> alone = MakeRef<Key>(3);
  map.insert(selfish, {friendly, selfish});
  map.insert(friendly, {selfish, selfish});
  map.insert(alone, {});
  EXPECT_EQ(map.find_self_references(), std::vector<Ref<Key>>{selfish});
  map.get(selfish)->clear();
  EXPECT_TRUE(map.find_self_references().empty());

  WeakKeyMap<Key, Ref<Key>> direct;
  direct.insert(selfish, selfish);
  direct.insert(friendly, selfish);
  EXPECT_EQ(direct.find_self_references(), std::vector<Ref<Key>>{selfish});
  direct.clear();

  WeakKeyMap<Key, WeakRef<Key>> weak;
  weak.insert(selfish, WeakRef<Key>(selfish));
  EXPECT_TRUE(weak.find_self_references().empty());
}

TEST(WeakKeyMapTest, ValuesThatCantBeCopiedAreAskedWhetherTheyHoldTheirKey) {
  WeakKeyMap<Key, std::unique_ptr<Ref<Key>>> map;
  const Ref<Key> selfish = MakeRef<Key>(1);
  const Ref<Key> friendly = MakeRef<Key>(2);
  map.insert(selfish, std::make_unique<Ref<Key>>(selfish));
  map.insert(friendly, std::make_unique<Ref<Key>>(selfish));
  const auto holds = [](const std::unique_ptr<Ref<Key>>& value, const Ref<Key>& key) {
    return *value == key;
  };
  EXPECT_EQ(std::as_const(map).find_self_references(holds), std::vector<Ref<Key>>{selfish});
  map.clear();
}

// A value that does something when it ends.
struct Deed {
  explicit Deed(std::function<void()> act) : act(std::move(act)) {}
  Deed(const Deed&) = delete;
  Deed& operator=(const Deed&) = delete;
  ~Deed() {
    if (act) act();
  }
  std::function<void()> act;
};

TEST(WeakKeyMapTest, ValuesDestructorMayUseTheMap) {
  WeakKeyMap<Key, Deed> map;
  for (const bool by_clear : {false, true}) {
    Ref<Key> first = MakeRef<Key>(1);
    Ref<Key> second = MakeRef<Key>(2);
    const Ref<Key> third = MakeRef<Key>(3);
    map.try_emplace(first, [&] {
      map.purge();
      map.try_emplace(third, nullptr);
    });
    map.try_emplace(second, nullptr);
    second.reset();
    if (by_clear) {
      map.clear();
    } else {
      first.reset();
    }
    EXPECT_EQ(map.size(), 1u);
    EXPECT_TRUE(map.contains(third));
    EXPECT_EQ(map.erase(third), 1u);
    map.purge();
  }
}

// Each way for a value to end runs its destructor, which changes the map that it is leaving.
TEST(WeakKeyMapTest, ValuesDestructorMayUseTheMapOnEveryWayOut) {
  using Map = WeakKeyMap<Key, Deed>;
  const std::function<void(Map&, Ref<Key>&)> ways_out[] = {
      [](Map& map, Ref<Key>& key) { map.erase(key); },
      [](Map& map, Ref<Key>& key) { map.insert_or_assign(key, nullptr); },
      [](Map& map, Ref<Key>&) {
        map.erase_if([](const auto&, const Deed& deed) { return deed.act != nullptr; });
      },
      [](Map& map, Ref<Key>&) { map.clear(); },
      [](Map&, Ref<Key>& key) { key.reset(); },
      [](Map& map, Ref<Key>& key) { map.for_each([&](const auto&, Deed&) { key.reset(); }); },
  };
  const std::function<void(Map&, const Ref<Key>&)> deeds[] = {
      [](Map& map, const Ref<Key>& key) { map.erase(key); },
      [](Map& map, const Ref<Key>& key) { map.try_emplace(key, nullptr); },
      [](Map& map, const Ref<Key>& key) { map.insert_or_assign(key, nullptr); },
      [](Map& map, const Ref<Key>&) { map.clear(); },
      [](Map& map, const Ref<Key>&) { map.shrink_to_fit(); },
      [](Map& map, const Ref<Key>& key) {
        for (int i = 0; i < 50; ++i) {
          const Ref<Key> brief = MakeRef<Key>(i);
          map.try_emplace(brief, nullptr);
          map.try_emplace(key, nullptr);
        }
      },
  };
  for (const auto& way_out : ways_out) {
    for (const auto& deed : deeds) {
      Map map;
      Ref<Key> key = MakeRef<Key>(1);
      const WeakRef<Key> weak = key;
      const Ref<Key> other = MakeRef<Key>(2);
      int done = 0;
      map.try_emplace(other, nullptr);
      map.try_emplace(key, [&] {
        ++done;
        deed(map, other);
        if (const Ref<Key> again = weak.lock()) deed(map, again);
      });
      way_out(map, key);
      EXPECT_EQ(done, 1);
      map.CheckInvariantsForTesting();
      map.purge();
      map.CheckInvariantsForTesting();
    }
  }
  EXPECT_EQ(Key::live(), 0);
}

TEST(WeakKeyMapTest, ValuesDestructorMayEndTheMap) {
  auto map = std::make_unique<WeakKeyMap<Key, Deed>>();
  Ref<Key> key = MakeRef<Key>(1);
  map->try_emplace(key, [&] { map.reset(); });
  key.reset();
  EXPECT_EQ(map, nullptr);
}

// Two threads are inside their keys' death, with the entries taken but not yet in the queue, while
// the map ends: it waits for neither, and the later one frees what they share.
TEST(WeakKeyMapTest, TheMapMayEndInTheMidstOfItsKeysDeaths) {
  const int64_t before = testing::LiveAllocations();
  {
    auto map = std::make_unique<WeakKeyMap<Key, Deed>>();
    std::atomic<int> inside{0}, may_leave{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i) {
      Ref<Key> key = MakeRef<Key>(i);
      map->try_emplace(key, [&, i] {
        ++inside;
        while (may_leave <= i) std::this_thread::yield();
      });
      threads.emplace_back([key = std::move(key)]() mutable { key.reset(); });
    }
    while (inside < 2) std::this_thread::yield();
    EXPECT_TRUE(map->empty());
    map.reset();
    for (int i = 0; i < 2; ++i) {
      may_leave = i + 1;
      threads[i].join();
    }
  }
  EXPECT_EQ(testing::LiveAllocations(), before);
}

TEST(WeakKeyMapTest, AConstructorMayTakeTheCallersReference) {
  WeakKeyMap<Key, Ref<Key>> map;
  Ref<Key> key = MakeRef<Key>(1);
  const WeakRef<Key> weak = key;
  EXPECT_TRUE(map.try_emplace(key, std::move(key)).second);
  EXPECT_EQ(map.size(), 1u);
  EXPECT_FALSE(weak.expired());  // it holds its own key: the documented leak
  map.erase(weak.lock());
  EXPECT_TRUE(weak.expired());
}

TEST(WeakKeyMapDeathTest, NullKeyNamesTheCall) {
  WeakKeyMap<Key, int> map;
  EXPECT_DEATH(map.insert(nullptr, 1), "WeakKeyMap::insert: the reference is null");
}

// The value is destroyed exactly once, by the key's death or by the map's.
TEST(WeakKeyMapRaceTest, KeysDeathAgainstTheMapsEnd) {
  std::unique_ptr<WeakKeyMap<Key, Value>> map;
  Ref<Key> keys[3];
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int round) {
        map = std::make_unique<WeakKeyMap<Key, Value>>();
        for (Ref<Key>& key : keys) {
          key = MakeRef<Key>(round);
          map->insert(key, Value(round));
        }
      },
      {[&] { keys[0].reset(); }, [&] { keys[1].reset(); }, [&] { keys[2].reset(); },
       [&] { map.reset(); }},
      [&](int) {
        ASSERT_EQ(Key::live(), 0);
        ASSERT_EQ(Value::live(), 0);
      });
}

}  // namespace
}  // namespace weakcache
