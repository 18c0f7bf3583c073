// SPDX-License-Identifier: Apache-2.0
// ConcurrentWeakValueMap on one thread when something goes wrong: factories that fail or recurse,
// allocations that fail, keys that throw or collide; and user code that uses the map from within.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/handle_kinds.h"
#include "tests/support/object.h"
#include "tests/support/tracked.h"
#include "tests/support/word.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::HandleOf;
using testing::LiveAllocations;
using testing::LiveSize;
using testing::Make;
using testing::Object;
using testing::OwnHandles;
using testing::SharedPointers;
using testing::Tracked;
using testing::Word;
using testing::WordEqual;
using testing::WordHash;
using testing::WordLog;

template <typename Kind, typename K, typename T>
using MapOf = ConcurrentWeakValueMap<K, testing::ValueOf<Kind, T>>;
template <typename Kind>
using WordMap = ConcurrentWeakValueMap<Word, testing::ValueOf<Kind, Tracked>, WordHash, WordEqual>;

template <typename Kind>
class ConcurrentWeakValueMapFailureTest : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(Tracked::live(), 0);
    EXPECT_EQ(Word::live(), 0);
  }
};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(ConcurrentWeakValueMapFailureTest, Kinds);

// Hand-written caches fail here: a failed load is left behind, if only a slot of the table's.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, FailingFactoriesTakeNoMemory) {
  auto map = std::move(MapOf<TypeParam, int, Tracked>::Create({.shards = 1})).value();
  const auto fail_often = [&] {
    for (int i = 0; i < 2000; ++i) {
      EXPECT_EQ(map.get_or_create(i, [] { return HandleOf<TypeParam, Tracked>(); }), nullptr);
      EXPECT_THROW(map.get_or_create(i, []() -> Tracked { throw std::runtime_error("no"); }),
                   std::runtime_error);
    }
  };
  fail_often();
  const int64_t before = testing::LiveAllocatedBytes();
  fail_often();
  EXPECT_LE(testing::LiveAllocatedBytes(), before);
  map.CheckInvariantsForTesting();
}

// An object that was made and can't be entered ends when its creation has: it may ask for its key.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, AnObjectThatCannotBeEnteredMayAskForItsKey) {
  struct Asking {
    explicit Asking(std::function<void()> ask) : ask(std::move(ask)) {}
    Asking(Asking&& other) noexcept : ask(std::exchange(other.ask, nullptr)) {}
    Asking& operator=(Asking&&) = delete;
    ~Asking() {
      if (ask) ask();
    }
    std::function<void()> ask;
    char large[64] = {};
  };
  auto map = std::move(MapOf<TypeParam, int, Asking>::Create({.shards = 1})).value();
  constexpr int kKeys = 100;
  std::vector<HandleOf<TypeParam, Asking>> held;
  held.reserve(kKeys);
  int asked = 0;
  for (int key = 0; key < kKeys; ++key) {
    bool done = false;
    for (int countdown = 1; !done; ++countdown) {
      try {
        held.push_back(map.get_or_create(key, [&] {
          Asking made([&, key] {
            try {
              EXPECT_EQ(map.get_or_create(key, [] { return HandleOf<TypeParam, Asking>(); }),
                        nullptr);
              ++asked;
            } catch (const RecursiveCreationError&) {
              // There was no memory for what the factory had returned: that is part of the factory.
              EXPECT_TRUE((std::is_same_v<TypeParam, SharedPointers>));
            }
          });
          testing::FailAllocation(countdown);
          return made;
        }));
        done = true;
      } catch (const std::bad_alloc&) {
      }
      testing::FailAllocation(0);
    }
  }
  EXPECT_GT(asked, 0);
  for (auto& object : held) object->ask = nullptr;
}

// Hand-written caches fail here: a failed load is left behind.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, ThrowingFactoryLeavesNothingBehind) {
  MapOf<TypeParam, int, Tracked> map;
  for (int i = 0; i < 3; ++i) {
    EXPECT_THROW(map.get_or_create(1, []() -> Tracked { throw std::runtime_error("no"); }),
                 std::runtime_error);
    EXPECT_TRUE(map.empty());
    EXPECT_FALSE(map.contains(1));
    EXPECT_EQ(map.purge(), 0u);
    map.CheckInvariantsForTesting();
  }
  const HandleOf<TypeParam, Tracked> object = map.get_or_create(1, [] { return Tracked(1); });
  EXPECT_EQ(map.get(1), object);
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, NullFromAFactoryLeavesNothingBehind) {
  MapOf<TypeParam, int, Tracked> map;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(map.get_or_create(1, [] { return HandleOf<TypeParam, Tracked>(); }), nullptr);
    EXPECT_TRUE(map.empty());
    EXPECT_EQ(map.purge(), 0u);
    map.CheckInvariantsForTesting();
  }
  EXPECT_NE(map.get_or_create(1, [] { return Tracked(1); }), nullptr);
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, ConstructorThatThrowsLeavesNothingBehind) {
  MapOf<TypeParam, int, Object> map;
  EXPECT_THROW(map.get_or_create(1, [] { return Make<TypeParam, Object>(-1); }),
               std::invalid_argument);
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(map.get_or_create(1, [] { return Make<TypeParam, Object>(1); })->id, 1);
}

// Hand-written caches fail here: a recursive load hangs.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, FactoryThatAsksForItsOwnKeyGetsAnError) {
  MapOf<TypeParam, int, Tracked> map;
  const auto recursive = [&]() -> Tracked {
    map.get_or_create(1, [] { return Tracked(2); });
    return Tracked(1);
  };
  EXPECT_THROW(map.get_or_create(1, recursive), RecursiveCreationError);
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
  // Caught within, it does no harm to the outer call.
  const HandleOf<TypeParam, Tracked> object = map.get_or_create(1, [&] {
    EXPECT_THROW(map.get_or_create(1, [] { return Tracked(2); }), RecursiveCreationError);
    return Tracked(1);
  });
  EXPECT_EQ(object->id(), 1);
  EXPECT_EQ(map.get(1), object);
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, RecursionByWayOfAnotherKeyGetsAnError) {
  MapOf<TypeParam, int, Tracked> map;
  const auto one_again = [&]() -> Tracked {
    map.get_or_create(1, [] { return Tracked(3); });
    return Tracked(2);
  };
  const auto two = [&]() -> Tracked {
    map.get_or_create(2, one_again);
    return Tracked(1);
  };
  EXPECT_THROW(map.get_or_create(1, two), RecursiveCreationError);
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, FactoryMayAskForOtherKeys) {
  MapOf<TypeParam, int, Tracked> map;
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  const std::function<HandleOf<TypeParam, Tracked>(int)> create = [&](int key) {
    return map.get_or_create(key, [&, key] {
      if (key < 100) objects.push_back(create(key + 1));
      return Make<TypeParam, Tracked>(key);
    });
  };
  objects.push_back(create(0));
  EXPECT_EQ(map.size(), 101u);
  for (int key = 0; key <= 100; ++key) ASSERT_EQ(map.get(key), objects[100 - key]);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, FactoryMayEnterItsOwnKey) {
  MapOf<TypeParam, int, Tracked> map;
  const HandleOf<TypeParam, Tracked> inner = Make<TypeParam, Tracked>(10);
  for (const bool replace : {false, true}) {
    map.clear();
    const HandleOf<TypeParam, Tracked> outer = map.get_or_create(1, [&] {
      if (replace) {
        map.insert_or_assign(1, inner);
      } else {
        map.insert(1, inner);
      }
      EXPECT_EQ(map.get(1), inner);
      return Tracked(20);
    });
    EXPECT_EQ(outer, inner);
    EXPECT_EQ(map.get(1), inner);
    EXPECT_EQ(Tracked::live(), 1);
  }
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, FactoryMayUseTheMapInAnyOtherWay) {
  MapOf<TypeParam, int, Tracked> map;
  const HandleOf<TypeParam, Tracked> object = map.get_or_create(1, [&] {
    EXPECT_EQ(map.get(1), nullptr);
    EXPECT_FALSE(map.contains(1));
    EXPECT_EQ(map.erase(1), 0u);
    EXPECT_EQ(map.size(), 0u);
    map.for_each([](const int&, const auto&) { ADD_FAILURE(); });
    map.purge();
    map.clear();
    map.reserve(1000);
    return Tracked(1);
  });
  EXPECT_EQ(object->id(), 1);
  map.CheckInvariantsForTesting();
}

// In each round `operation(map, key, object)` enters a key that is new or has an expired entry,
// into a map of another size, so that every growth is among them.
template <typename Kind, typename Operation>
void FailEachAllocationOf(Operation operation) {
  int failures = 0;
  for (int present = 0; present < 40; ++present) {
    for (const bool expired : {false, true}) {
      MapOf<Kind, std::string, Tracked> map;
      const auto name = [](int id) { return std::string(40, 'x') + std::to_string(id); };
      const HandleOf<Kind, Tracked> object = Make<Kind, Tracked>(1);
      const HandleOf<Kind, Tracked> fresh = Make<Kind, Tracked>(2);
      for (int id = 0; id < present; ++id) map.insert(name(id), object);
      if (expired) map.insert(name(present), Make<Kind, Tracked>(3));
      const std::string key = name(present);
      const auto count_before = fresh.use_count();
      failures += testing::FailEachAllocation(
          [&] { operation(map, key, fresh); },
          [&] {
            ASSERT_EQ(fresh.use_count(), count_before);
            if (HandleTraits<HandleOf<Kind, Tracked>>::kNotifiesExpiry) {
              ASSERT_EQ(map.size(), static_cast<size_t>(present));
            }
            ASSERT_EQ(map.get(key), nullptr);
            map.CheckInvariantsForTesting();
          });
      ASSERT_EQ(map.get(key), fresh) << present;
      ASSERT_EQ(LiveSize(map), static_cast<size_t>(present) + 1);
      for (int id = 0; id < present; ++id) ASSERT_EQ(map.get(name(id)), object);
    }
  }
  EXPECT_GE(failures, 80);  // at least one in each
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, AllocationsFailInInsert) {
  FailEachAllocationOf<TypeParam>(
      [](auto& map, const std::string& key, const auto& object) { map.insert(key, object); });
}
TYPED_TEST(ConcurrentWeakValueMapFailureTest, AllocationsFailInInsertOrAssign) {
  FailEachAllocationOf<TypeParam>([](auto& map, const std::string& key, const auto& object) {
    map.insert_or_assign(key, object);
  });
}
TYPED_TEST(ConcurrentWeakValueMapFailureTest, AllocationsFailInGetOrCreate) {
  FailEachAllocationOf<TypeParam>([](auto& map, const std::string& key, const auto& object) {
    map.get_or_create(key, [&] { return object; });
  });
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, AllocationsFailInAReplacement) {
  MapOf<TypeParam, std::string, Tracked> map;
  const std::string key(40, 'x');
  const HandleOf<TypeParam, Tracked> present = Make<TypeParam, Tracked>(1);
  const HandleOf<TypeParam, Tracked> fresh = Make<TypeParam, Tracked>(2);
  map.insert(key, present);
  testing::FailEachAllocation([&] { ASSERT_FALSE(map.insert_or_assign(key, fresh).second); },
                              [&] {
                                ASSERT_EQ(map.get(key), present);
                                ASSERT_EQ(map.size(), 1u);
                              });
  EXPECT_EQ(map.get(key), fresh);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, AllocationsFailInAReplacementByANewObject) {
  MapOf<TypeParam, std::string, Tracked> map;
  const std::string key(40, 'x');
  const HandleOf<TypeParam, Tracked> present = Make<TypeParam, Tracked>(1);
  map.insert(key, present);
  HandleOf<TypeParam, Tracked> fresh;
  testing::FailEachAllocation([&] { fresh = map.emplace_or_assign(key, 2); },
                              [&] {
                                ASSERT_EQ(map.get(key), present);
                                ASSERT_EQ(map.size(), 1u);
                                ASSERT_EQ(Tracked::live(), 1);
                              });
  EXPECT_EQ(map.get(key), fresh);
  EXPECT_EQ(fresh->id(), 2);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, AllocationsFailWhereTheMapMakesTheObject) {
  MapOf<TypeParam, std::string, Tracked> map;
  HandleOf<TypeParam, Tracked> object;
  const int failures = testing::FailEachAllocation(
      [&] { object = map.get_or_create(std::string(40, 'x'), [] { return Tracked(1); }); },
      [&] {
        ASSERT_EQ(Tracked::live(), 0);
        ASSERT_TRUE(map.empty());
        map.CheckInvariantsForTesting();
      });
  EXPECT_GE(failures, 2);
  EXPECT_EQ(map.get(std::string(40, 'x')), object);
}

// A full index in which an entry is dead has room for another, also if it can't grow.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, AnIndexWithADeadEntryNeedNotGrow) {
  using Map = MapOf<TypeParam, int, Tracked>;
  constexpr int kFull = 20;
  for (int dead = 0; dead < kFull; ++dead) {
    Map map = *Map::Create({.shards = 1});
    std::vector<HandleOf<TypeParam, Tracked>> objects;
    for (int key = 0; key < kFull; ++key) {
      objects.push_back(Make<TypeParam, Tracked>(key));
      map.insert(key, objects.back());
    }
    objects[dead].reset();
    testing::FailAllocation(1);
    EXPECT_NO_THROW(map.insert(kFull, objects[(dead + 1) % kFull])) << dead;
    testing::FailAllocation(0);
    EXPECT_EQ(map.get(kFull), objects[(dead + 1) % kFull]);
    map.CheckInvariantsForTesting();
  }
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, AllocationsFailInReserveForEachAndTheBeginning) {
  using Map = MapOf<TypeParam, int, Tracked>;
  { const Map warm_up; }
  const int64_t before = LiveAllocations();
  testing::FailEachAllocation([] { const Map map; }, [&] { ASSERT_EQ(LiveAllocations(), before); });
  Map map;
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  for (int key = 0; key < 100; ++key) {
    objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
  }
  const auto check = [&] {
    ASSERT_EQ(map.size(), 100u);
    for (int key = 0; key < 100; ++key) ASSERT_EQ(map.get(key), objects[key]);
    map.CheckInvariantsForTesting();
  };
  EXPECT_GE(testing::FailEachAllocation([&] { map.reserve(100'000); }, check), 1);
  int visited = 0;
  testing::FailEachAllocation(
      [&] {
        visited = 0;
        map.for_each([&](const int&, const auto&) { ++visited; });
      },
      check);
  EXPECT_EQ(visited, 100);
}

// What takes nothing in, allocates nothing, and so can't fail.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, WhatOnlyTakesOutNeedsNoMemory) {
  MapOf<TypeParam, std::string, Tracked> map;
  const HandleOf<TypeParam, Tracked> object = Make<TypeParam, Tracked>(1);
  const std::string first(40, 'x'), second(41, 'x'), third(42, 'x');
  map.insert(first, object);
  map.insert(second, object);
  map.insert(third, Make<TypeParam, Tracked>(2));
  const int failures = testing::FailEachAllocation(
      [&] {
        (void)map.get(first);
        (void)map.contains(first);
        (void)map.size();
        map.erase(first);
        map.purge();
        map.clear();
      },
      [] {});
  EXPECT_EQ(failures, 0);
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, CollidingKeysAreKeptApart) {
  WordLog log;
  log.collide = true;
  auto map = WordMap<TypeParam>::Create({}, WordHash{&log}, WordEqual{&log});
  ASSERT_TRUE(map.ok());
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  const auto name = [](int id) { return std::to_string(id); };
  for (int id = 0; id < 300; ++id) {
    objects.push_back(map->get_or_create(Word(name(id)), [id] { return Tracked(id); }));
  }
  for (int id = 0; id < 300; id += 3) ASSERT_EQ(map->erase(std::string_view(name(id))), 1u);
  for (int id = 1; id < 300; id += 3) objects[id].reset();
  map->purge();
  for (int id = 0; id < 300; ++id) {
    ASSERT_EQ(map->get(std::string_view(name(id))).get(), id % 3 == 2 ? objects[id].get() : nullptr)
        << id;
  }
  map->CheckInvariantsForTesting();
}

// A throwing copy, hash or equality of a key, in each operation that has one.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, ThrowingKeyLeavesItAsItWas) {
  using Map = WordMap<TypeParam>;
  using Handle = HandleOf<TypeParam, Tracked>;
  const std::vector<std::function<void(Map&, const Word&, const Handle&)>> operations = {
      [](Map& map, const Word& key, const Handle& object) { map.insert(key, object); },
      [](Map& map, const Word& key, const Handle& object) { map.insert_or_assign(key, object); },
      [](Map& map, const Word& key, const Handle& object) {
        map.get_or_create(key, [&] { return object; });
      }};
  for (size_t which = 0; which < operations.size(); ++which) {
    for (int present = 0; present < 12; ++present) {
      Map map;
      const Handle object = Make<TypeParam, Tracked>(1);
      for (int id = 0; id < present; ++id) map.insert(Word(std::to_string(id)), object);
      const Word key(std::to_string(present));
      const auto count_before = object.use_count();
      const int words_before = Word::live();
      const int throws =
          testing::ThrowAtEachPoint([&] { operations[which](map, key, object); },
                                    [&] {
                                      ASSERT_EQ(map.size(), static_cast<size_t>(present)) << which;
                                      ASSERT_EQ(map.get(key), nullptr);
                                      ASSERT_EQ(object.use_count(), count_before);
                                      ASSERT_EQ(Word::live(), words_before);
                                      map.CheckInvariantsForTesting();
                                    });
      EXPECT_GE(throws, 2) << which;  // hash and copy
      EXPECT_EQ(map.get(key), object);
    }
  }
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, ThrowingKeyInLookUpAndErasure) {
  WordMap<TypeParam> map;
  const HandleOf<TypeParam, Tracked> object = Make<TypeParam, Tracked>(1);
  const Word key("key");
  map.insert(key, object);
  const auto check = [&] {
    ASSERT_EQ(map.size(), 1u);
    ASSERT_EQ(map.get(key), object);
    map.CheckInvariantsForTesting();
  };
  EXPECT_GE(testing::ThrowAtEachPoint([&] { (void)map.get(key); }, check), 2);
  EXPECT_GE(testing::ThrowAtEachPoint([&] { (void)map.contains(key); }, check), 2);
  EXPECT_GE(testing::ThrowAtEachPoint([&] { map.erase(key, object); }, check), 2);
  EXPECT_TRUE(map.empty());
}

// Hand-written caches fail here: a destructor that looks itself up, or erases, or creates its
// successor.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, DestructorMayUseTheMapForItsOwnKey) {
  MapOf<TypeParam, int, Object> map;
  HandleOf<TypeParam, Object> successor;
  HandleOf<TypeParam, Object> old = Make<TypeParam, Object>(1, [&](const Object&) {
    EXPECT_EQ(map.get(1), nullptr);
    EXPECT_FALSE(map.contains(1));
    EXPECT_EQ(map.erase(1), 0u);
    map.for_each([](const int&, const auto&) { ADD_FAILURE(); });
    successor = map.get_or_create(1, [] { return Make<TypeParam, Object>(2); });
    EXPECT_EQ(map.get(1), successor);
    map.purge();
  });
  const typename HandleTraits<HandleOf<TypeParam, Object>>::weak_type weak_old = old;
  map.insert(1, old);
  old.reset();
  ASSERT_NE(successor, nullptr);
  EXPECT_EQ(map.get(1), successor);
  EXPECT_EQ(map.erase(1, weak_old), 0u);
  map.purge();
  EXPECT_EQ(map.get(1), successor);
  EXPECT_EQ(map.size(), 1u);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, RejectedObjectsDestructorMayUseTheMap) {
  MapOf<TypeParam, int, Object> map;
  int ended = 0;
  const auto use = [&](const Object&) {
    ++ended;
    EXPECT_EQ(map.get(1)->id, 1);
    map.erase(2);
    map.purge();
  };
  const HandleOf<TypeParam, Object> present = Make<TypeParam, Object>(1);
  map.insert(1, present);
  EXPECT_FALSE(map.insert(1, Make<TypeParam, Object>(3, use)).second);
  EXPECT_EQ(ended, 1);
  map.erase(1);
  EXPECT_EQ(map.get_or_create(1,
                              [&] {
                                map.insert(1, present);
                                return Make<TypeParam, Object>(4, use);
                              }),
            present);
  EXPECT_EQ(ended, 2);
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, ForEachMayChangeTheMap) {
  MapOf<TypeParam, int, Tracked> map;
  std::vector<HandleOf<TypeParam, Tracked>> objects;
  for (int key = 0; key < 100; ++key) {
    objects.push_back(map.get_or_create(key, [key] { return Tracked(key); }));
  }
  std::vector<bool> visited(100);
  map.for_each([&](const int& key, const HandleOf<TypeParam, Tracked>& value) {
    EXPECT_EQ(value->id() % 1000, key % 1000);
    if (key >= 1000) return;  // entered meanwhile: may be visited or not
    EXPECT_FALSE(visited[key]);
    visited[key] = true;
    EXPECT_EQ(map.erase(key), 1u);
    objects.push_back(map.get_or_create(1000 + key, [key] { return Tracked(1000 + key); }));
    map.purge();
    map.reserve(10 * objects.size());
  });
  EXPECT_EQ(visited, std::vector<bool>(100, true));
  EXPECT_EQ(map.size(), 100u);
  int after_clear = 0;
  map.for_each([&](const int&, const auto&) {
    ++after_clear;
    map.clear();
    objects.clear();  // the one that is visited is held
  });
  EXPECT_EQ(after_clear, 1);
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapFailureTest, ThrowingVisitorLeavesItAsItWas) {
  MapOf<TypeParam, int, Tracked> map;
  const HandleOf<TypeParam, Tracked> object = Make<TypeParam, Tracked>(1);
  for (int key = 0; key < 10; ++key) map.insert(key, object);
  const auto count_before = object.use_count();
  int visited = 0;
  const auto visit = [&](const int&, const auto&) {
    if (++visited == 5) throw std::runtime_error("enough");
  };
  EXPECT_THROW(map.for_each(visit), std::runtime_error);
  EXPECT_EQ(object.use_count(), count_before);
  EXPECT_EQ(map.size(), 10u);
  map.CheckInvariantsForTesting();
}

// The key's destructor uses the map, whatever operation it runs in.
TYPED_TEST(ConcurrentWeakValueMapFailureTest, KeysDestructorMayUseTheMap) {
  using Map = WordMap<TypeParam>;
  using Handle = HandleOf<TypeParam, Tracked>;
  const std::vector<std::function<void(Map&, const Handle&)>> ways_out = {
      [](Map& map, const Handle&) { map.clear(); },
      [](Map& map, const Handle&) { map.purge(); },
      [](Map& map, const Handle&) { map.erase(std::string_view("speaking")); },
      [](Map& map, const Handle& other) {
        map.insert_or_assign(std::string_view("speaking"), other);
      },
      [](Map& map, const Handle& other) {
        for (int i = 0; i < 100; ++i) map.insert(Word(std::to_string(i)), other);
        map.purge();
      },
  };
  for (size_t which = 0; which < ways_out.size(); ++which) {
    for (const bool expired : {false, true}) {
      int spoken = 0;
      const Handle other = Make<TypeParam, Tracked>(2);
      Handle first = Make<TypeParam, Tracked>(1);
      Map map;
      const auto speak = [&] {
        ++spoken;
        map.purge();
        (void)map.get(std::string_view("speaking"));
        map.insert(std::string_view("other"), other);
        map.erase(std::string_view("absent"));
      };
      map.insert(Word("speaking", speak), first);  // the copy that was made for it speaks as well
      const int spoken_before = spoken;
      if (expired) first.reset();
      ways_out[which](map, other);
      map.clear();
      map.purge();
      EXPECT_GT(spoken, spoken_before) << which;
    }
  }
}

}  // namespace
}  // namespace weakcache
