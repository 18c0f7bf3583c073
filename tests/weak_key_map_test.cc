#include "cache/weak_key_map.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakref/ref.h"
#include "weakref/weak_ref.h"

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
  EXPECT_FALSE(names.insert_or_assign(key, "three"));
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

// Pain: a new object at a dead one's address inherits its data.
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
      100'000,
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
