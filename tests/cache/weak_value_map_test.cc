// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/weak_value_map.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/last_words.h"
#include "tests/support/object.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LastWords;
using testing::LiveAllocations;
using testing::Tracked;

TEST(WeakValueMapTest, FindsTheObjectWhileItLives) {
  WeakValueMap<std::string, Tracked> map;
  Ref<Tracked> cover = map.get_or_create("cover", [] { return Tracked(7); });
  EXPECT_EQ(map.get("cover"), cover);
  EXPECT_TRUE(map.contains("cover"));
  EXPECT_EQ(map.get_or_create("cover", [] { return Tracked(8); }), cover);
  cover.reset();
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_EQ(map.get("cover"), nullptr);
  EXPECT_FALSE(map.contains("cover"));
  EXPECT_TRUE(map.empty());
}

TEST(WeakValueMapTest, LooksUpByOtherTypesThanTheKeys) {
  WeakValueMap<std::string, Tracked> map;
  const Ref<Tracked> object = MakeRef<Tracked>(1);
  const std::string_view view = "a key that is too long for the short-string optimisation";
  EXPECT_TRUE(map.insert(view, object).second);
  const int64_t before = LiveAllocations();
  testing::FailAllocation(1);  // no temporary std::string is made
  EXPECT_EQ(map.get(view), object);
  EXPECT_TRUE(map.contains(view));
  EXPECT_FALSE(map.contains("another"));
  testing::FailAllocation(0);
  EXPECT_EQ(LiveAllocations(), before);
  EXPECT_EQ(map.erase(view), 1u);
}

// What the hash does not take is made a key first, as by std::unordered_map.
TEST(WeakValueMapTest, LooksUpByWhatAKeyCanBeMadeFrom) {
  WeakValueMap<std::string, Tracked> map;
  const std::filesystem::path path = "images/cover.png";
  const Ref<Tracked> object = map.get_or_create(path, [] { return Tracked(1); });
  EXPECT_EQ(map.get(path), object);
  EXPECT_EQ(map.get("images/cover.png"), object);
  EXPECT_EQ(map.erase(path), 1u);
}

TEST(WeakValueMapTest, InsertKeepsTheLiveObject) {
  WeakValueMap<int, Tracked> map;
  const Ref<Tracked> first = MakeRef<Tracked>(1);
  const Ref<Tracked> second = MakeRef<Tracked>(2);
  EXPECT_EQ(map.insert(5, first), std::make_pair(first, true));
  EXPECT_EQ(map.insert(5, second), std::make_pair(first, false));
  EXPECT_EQ(map.size(), 1u);
}

TEST(WeakValueMapTest, InsertOrAssignReplaces) {
  WeakValueMap<int, Tracked> map;
  Ref<Tracked> first = MakeRef<Tracked>(1);
  const Ref<Tracked> second = MakeRef<Tracked>(2);
  EXPECT_TRUE(map.insert_or_assign(5, first).second);
  EXPECT_FALSE(map.insert_or_assign(5, second).second);
  EXPECT_EQ(map.get(5), second);
  first.reset();  // no longer the map's
  EXPECT_EQ(map.size(), 1u);
  EXPECT_EQ(map.get(5), second);
}

TEST(WeakValueMapTest, TryEmplaceMakesTheObjectInPlace) {
  WeakValueMap<int, Tracked> map;
  const auto [object, created] = map.try_emplace(5, 17);
  EXPECT_TRUE(created);
  EXPECT_EQ(object->id(), 17);
  EXPECT_EQ(map.try_emplace(5, 18), std::make_pair(object, false));
  EXPECT_EQ(Tracked::live(), 1);
}

struct Immovable {
  explicit Immovable(int id) : id(id) {}
  Immovable(const Immovable&) = delete;
  Immovable& operator=(const Immovable&) = delete;
  int id;
  char bytes[100];
};

TEST(WeakValueMapTest, FactoryMayReturnAnImmovableObjectARefOrNull) {
  WeakValueMap<int, Immovable> map;
  const Ref<Immovable> by_value = map.get_or_create(1, [] { return Immovable(11); });
  const Ref<Immovable> by_ref = map.get_or_create(2, [] { return MakeRef<Immovable>(12); });
  EXPECT_EQ(by_value->id, 11);
  EXPECT_EQ(by_ref->id, 12);
  EXPECT_EQ(map.get_or_create(3, [] { return Ref<Immovable>(); }), nullptr);
  EXPECT_EQ(map.size(), 2u);
}

TEST(WeakValueMapTest, FactoryMayEnterItsOwnKey) {
  WeakValueMap<int, Tracked> map;
  Ref<Tracked> inner;
  const Ref<Tracked> outer = map.get_or_create(1, [&] {
    inner = map.get_or_create(1, [] { return Tracked(10); });
    return Tracked(20);
  });
  EXPECT_EQ(outer, inner);
  EXPECT_EQ(map.size(), 1u);
}

TEST(WeakValueMapTest, ThrowingFactoryLeavesNothingBehind) {
  WeakValueMap<int, Tracked> map;
  EXPECT_THROW(map.get_or_create(1, []() -> Tracked { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_TRUE(map.empty());
  const Ref<Tracked> object = map.get_or_create(1, [] { return Tracked(1); });
  EXPECT_EQ(map.get(1), object);
}

TEST(WeakValueMapTest, ReinsertAfterExpirySurvivesTheLatePurge) {
  WeakValueMap<std::string, Tracked> map;
  Ref<Tracked> old = MakeRef<Tracked>(1);
  map.insert("key", old);
  old.reset();
  const Ref<Tracked> fresh = MakeRef<Tracked>(2);
  EXPECT_TRUE(map.insert("key", fresh).second);
  map.purge();
  EXPECT_EQ(map.get("key"), fresh);
  EXPECT_EQ(map.size(), 1u);
}

// The new object enters while the old one's destructor still runs, so before its entry is told.
TEST(WeakValueMapTest, ReinsertDuringTheOldDestructorSurvives) {
  using testing::Object;
  WeakValueMap<int, Object> map;
  Ref<Object> fresh;
  Ref<Object> old = MakeRef<Object>(1, [&](const Object&) {
    EXPECT_EQ(map.get(1), nullptr);
    fresh = map.get_or_create(1, [] { return MakeRef<Object>(2); });
  });
  map.insert(1, old);
  old.reset();
  map.purge();
  EXPECT_EQ(map.get(1), fresh);
  EXPECT_EQ(map.size(), 1u);
}

TEST(WeakValueMapTest, FactoryMayEnterItsOwnKeyDuringTheOldDestructor) {
  using testing::Object;
  WeakValueMap<int, Object> map;
  const Ref<Object> inner = MakeRef<Object>(2);
  Ref<Object> outer;
  Ref<Object> old = MakeRef<Object>(1, [&](const Object&) {
    outer = map.get_or_create(1, [&] {
      EXPECT_TRUE(map.insert_or_assign(1, inner).second);
      return MakeRef<Object>(3);
    });
  });
  map.insert(1, old);
  old.reset();
  EXPECT_EQ(outer, inner);
  EXPECT_EQ(map.get(1), inner);
  EXPECT_EQ(map.size(), 1u);
}

TEST(WeakValueMapTest, GuardedEraseSparesTheSuccessor) {
  WeakValueMap<int, Tracked> map;
  Ref<Tracked> old = MakeRef<Tracked>(1);
  const WeakRef<Tracked> weak_old = old;
  map.insert(5, old);
  old.reset();
  const Ref<Tracked> fresh = MakeRef<Tracked>(2);
  map.insert(5, fresh);
  EXPECT_EQ(map.erase(5, weak_old), 0u);
  EXPECT_EQ(map.get(5), fresh);
  EXPECT_EQ(map.erase(5, WeakRef<Tracked>(fresh)), 1u);
  EXPECT_EQ(map.get(5), nullptr);
}

TEST(WeakValueMapTest, OneObjectUnderManyKeys) {
  WeakValueMap<int, Tracked> map;
  Ref<Tracked> object = MakeRef<Tracked>(1);
  for (int key = 0; key < 1000; ++key) map.insert(key, object);
  EXPECT_EQ(map.size(), 1000u);
  for (int key = 0; key < 500; ++key) EXPECT_EQ(map.erase(key), 1u);
  object.reset();
  EXPECT_EQ(map.size(), 0u);
  EXPECT_EQ(map.purge(), 500u);
}

TEST(WeakValueMapTest, AliasExpiresWithItsOwner) {
  WeakValueMap<int, int> map;
  Ref<std::pair<Tracked, int>> owner = MakeRef<std::pair<Tracked, int>>();
  owner->second = 5;
  map.insert(1, Ref<int>(owner, &owner->second));
  EXPECT_EQ(*map.get(1), 5);
  owner.reset();
  EXPECT_EQ(map.get(1), nullptr);
}

// Hand-written caches fail here: the last reference dropped under the cache's lock. The map is used
// under a mutex that the destructor takes too, while another thread drops what might then be the
// last reference but one.
TEST(WeakValueMapRaceTest, ReplacingReleasesNothingUnderTheCallersMutex) {
  using testing::Object;
  std::mutex mutex;
  WeakValueMap<int, Object> map;
  const auto lock_in_destructor = [&](const Object&) { const std::lock_guard lock(mutex); };
  Ref<Object> present, replacement;
  testing::Race(
      testing::RaceRounds(20'000),
      [&](int) {
        present = MakeRef<Object>(1, lock_in_destructor);
        replacement = MakeRef<Object>(2, lock_in_destructor);
        map.insert_or_assign(1, present);
      },
      {[&] { present.reset(); },
       [&] {
         const std::lock_guard lock(mutex);
         map.insert_or_assign(1, replacement);
         (void)map.contains(1);
         map.erase(1, WeakRef<Object>());
         map.purge();
       }},
      [&](int) {
        ASSERT_EQ(map.get(1), replacement);
        ASSERT_EQ(map.size(), 1u);
      });
}

TEST(WeakValueMapTest, IteratesOverLiveObjects) {
  WeakValueMap<std::string, Tracked> map;
  const Ref<Tracked> a = MakeRef<Tracked>(1);
  Ref<Tracked> b = MakeRef<Tracked>(2);
  map.insert("a", a);
  map.insert("b", b);
  b.reset();
  std::vector<std::string> keys;
  for (const auto& [key, value] : std::as_const(map)) {
    keys.push_back(key);
    EXPECT_EQ(value, a);
  }
  EXPECT_EQ(keys, std::vector<std::string>{"a"});
}

// The key's destructor purges, erases, clears and inserts, whatever operation it runs in.
TEST(WeakValueMapTest, KeysDestructorMayUseTheMap) {
  using Map = WeakValueMap<LastWords, Tracked, LastWords::Hash, std::equal_to<LastWords>>;
  const std::pair<const char*, void (*)(Map&)> ways_out[] = {
      {"clear", [](Map& map) { map.clear(); }},
      {"purge", [](Map& map) { map.purge(); }},
      {"erase", [](Map& map) { map.erase(LastWords(1)); }},
      {"move", [](Map& map) { Map(std::move(map)); }},
  };
  const Ref<Tracked> other = MakeRef<Tracked>(2);
  for (const auto& [name, way_out] : ways_out) {
    for (const bool expired : {false, true}) {
      if (!expired && std::string_view(name) == "purge") continue;
      SCOPED_TRACE(std::string(name) + (expired ? " expired" : " alive"));
      Ref<Tracked> first = MakeRef<Tracked>(1);
      Ref<Tracked> third = MakeRef<Tracked>(3);
      bool spoken = false;
      {
        Map map;
        map.insert(LastWords(1,
                             [&] {
                               spoken = true;
                               map.purge();
                               map.insert(LastWords(2), other);
                               map.erase(LastWords(3));
                             }),
                   first);
        map.insert(LastWords(3), third);
        if (expired) {
          third.reset();
          first.reset();
        }
        way_out(map);
        EXPECT_TRUE(spoken);
        EXPECT_EQ(map.get(LastWords(2)), other);
        EXPECT_EQ(map.erase(LastWords(2)), 1u);
      }
      EXPECT_EQ(LastWords::live, 0);
    }
  }
}

// An entry that its key's destructor adds while the map ends goes with the map.
TEST(WeakValueMapTest, KeysDestructorMayInsertWhileTheMapEnds) {
  using Map = WeakValueMap<LastWords, Tracked, LastWords::Hash, std::equal_to<LastWords>>;
  const Ref<Tracked> object = MakeRef<Tracked>(1);
  {
    Map map;
    map.insert(LastWords(1, [&] { map.insert(LastWords(2), object); }), object);
  }
  EXPECT_EQ(LastWords::live, 0);
  EXPECT_EQ(object.weak_count(), 0u);
}

TEST(WeakValueMapTest, PurgeCountsWhatItRemoves) {
  WeakValueMap<int, Tracked> map;
  for (int key = 0; key < 3; ++key) map.try_emplace(key, key);
  EXPECT_EQ(map.erase(0), 0u);  // takes it out, though it has expired already
  EXPECT_LE(map.purge(), 2u);
  for (int key = 0; key < 3; ++key) map.try_emplace(key, key);
  map.clear();
  EXPECT_EQ(map.purge(), 0u);
}

// The step off an object may end it, and its destructor may erase what would be next.
TEST(WeakValueMapTest, IterationSurvivesADestructorThatErasesTheNext) {
  using testing::Object;
  WeakValueMap<std::string, Object> map;
  const std::string long_name(100, 'x');
  std::vector<Ref<Object>> objects;
  for (int i = 0; i < 10; ++i) {
    objects.push_back(MakeRef<Object>(
        i, [&, i](const Object&) { map.erase(long_name + std::to_string(i + 1)); }));
    map.insert(long_name + std::to_string(i), objects.back());
  }
  int visited = 0;
  for (const auto& [key, object] : map) {
    EXPECT_EQ(key, long_name + std::to_string(object->id));
    objects[object->id].reset();
    ++visited;
  }
  EXPECT_EQ(visited, 5);
}

struct Greedy {
  template <typename T>
  explicit Greedy(T&&) : from_int(std::is_same_v<std::remove_cvref_t<T>, int>) {}
  Greedy(const Greedy&) = delete;
  bool from_int;
  char bytes[100];
};

// A constructor that takes anything is not given the factory in place of its result.
TEST(WeakValueMapTest, FactoryForAGreedyConstructor) {
  WeakValueMap<int, Greedy> map;
  EXPECT_TRUE(map.get_or_create(1, [] { return Greedy(5); })->from_int);
}

// All keys collide, or throw when asked to.
struct Hostile {
  int id = 0;
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
    size_t operator()(const Hostile&) const {
      Step();
      return 42;
    }
  };
};

TEST(WeakValueMapTest, CollidingKeysAreKeptApart) {
  WeakValueMap<Hostile, Tracked, Hostile::Hash, std::equal_to<Hostile>> map;
  std::vector<Ref<Tracked>> objects;
  for (int id = 0; id < 300; ++id) objects.push_back(map.try_emplace(Hostile(id), id).first);
  for (int id = 0; id < 300; id += 3) map.erase(Hostile(id));
  for (int id = 1; id < 300; id += 3) objects[id].reset();
  map.purge();
  for (int id = 0; id < 300; ++id) {
    EXPECT_EQ(map.get(Hostile(id)), id % 3 == 2 ? objects[id] : nullptr) << id;
  }
}

// So many that the index's counts saturate, and it is filled again while an entry is erased.
TEST(WeakValueMapTest, ManyCollidingKeysComeAndGo) {
  constexpr int kKeys = 1000;
  WeakValueMap<Hostile, Tracked, Hostile::Hash, std::equal_to<Hostile>> map;
  std::vector<Ref<Tracked>> objects;
  for (int id = 0; id < kKeys; ++id) objects.push_back(map.try_emplace(Hostile(id), id).first);
  for (int id = kKeys; id-- > 0;) {
    EXPECT_TRUE(map.erase(Hostile(id)));
    if (id % 100 == 0) map.CheckInvariantsForTesting();
  }
  EXPECT_TRUE(map.empty());
}

TEST(WeakValueMapTest, ThrowingKeyLeavesItAsItWas) {
  const Ref<Tracked> object = MakeRef<Tracked>(1);
  for (int present = 0; present < 12; ++present) {
    WeakValueMap<Hostile, Tracked, Hostile::Hash, std::equal_to<Hostile>> map;
    for (int id = 0; id < present; ++id) map.insert(id, object);
    const Hostile key(present);
    int throws = 0;
    for (;; ++throws) {
      Hostile::throw_in = throws + 1;
      try {
        map.insert(key, object);
        break;
      } catch (const std::runtime_error&) {
        Hostile::throw_in = 0;
        ASSERT_EQ(map.size(), static_cast<size_t>(present));
        ASSERT_FALSE(map.contains(key));
      }
    }
    Hostile::throw_in = 0;
    EXPECT_GE(throws, 2);
    EXPECT_TRUE(map.contains(key));
  }
}

TEST(WeakValueMapTest, ForbiddenUsesDoNotCompile) {
  using Map = WeakValueMap<int, Tracked>;
  static_assert(!std::is_copy_constructible_v<Map>, "a copy would be weak or strong: say which");
  static_assert(std::is_nothrow_move_constructible_v<Map>);
  static_assert(std::is_nothrow_move_assignable_v<Map>);
}

TEST(WeakValueMapDeathTest, EnteringNullNamesTheCall) {
  WeakValueMap<int, Tracked> map;
  EXPECT_DEATH(map.insert(1, nullptr), "WeakValueMap::insert: the reference is null");
  EXPECT_DEATH(map.insert_or_assign(1, Ref<Tracked>()), "WeakValueMap::insert_or_assign");
  Tracked unowned(1);
  EXPECT_DEATH(map.insert(1, Ref<Tracked>(Ref<Tracked>(), &unowned)), "owns nothing");
  const Ref<Tracked> owner = MakeRef<Tracked>(1);
  EXPECT_DEATH(map.insert(1, Ref<Tracked>(owner, nullptr)), "the reference is null");
}

// Const operations on any threads while objects expire.
TEST(WeakValueMapRaceTest, LookUpAgainstLastRelease) {
  WeakValueMap<int, Tracked> map;
  Ref<Tracked> ref;
  std::atomic<int> hits{0}, misses{0};
  int round_now = 0;
  const auto look_up = [&] {
    if (const Ref<Tracked> found = map.get(1)) {
      ASSERT_EQ(found->id(), round_now);
      ++hits;
    } else {
      ++misses;
    }
    (void)map.size();
  };
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int round) {
        round_now = round;
        ref = map.get_or_create(1, [&] { return Tracked(round); });
        ASSERT_EQ(ref->id(), round);
      },
      {[&] { ref.reset(); }, look_up, look_up}, [&](int) { ASSERT_EQ(map.size(), 0u); });
  EXPECT_GT(hits, 0);
  EXPECT_GT(misses, 0);
}

// Random operations, each checked against a model that holds what must be alive.
class Script {
 public:
  explicit Script(uint64_t seed) : random_(seed) {}

  void Run(int operations) {
    for (int i = 0; i < operations; ++i) Step();
    objects_.clear();
    ASSERT_EQ(map_.size(), 0u);
  }

 private:
  // Few keys, and hashes that collide: every path of the table is taken often.
  struct PoorHash {
    size_t operator()(int key) const { return static_cast<size_t>(key % 7); }
  };
  static constexpr int kKeys = 40;

  void Step() {
    const int key = Random(kKeys);
    switch (Random(9)) {
      case 0:
        Keep(map_.get_or_create(key, [&] { return MakeRef<Tracked>(++made_); }), key);
        break;
      case 1: {
        Ref<Tracked> object = MakeRef<Tracked>(++made_);
        const auto [present, inserted] = map_.insert(key, object);
        ASSERT_EQ(inserted, !IsLive(key));
        if (inserted) Keep(object, key);
        break;
      }
      case 2: {
        Ref<Tracked> object = MakeRef<Tracked>(++made_);
        ASSERT_EQ(map_.insert_or_assign(key, object).second, !IsLive(key));
        model_[key] = WeakRef<Tracked>(object);
        objects_.push_back(object);
        break;
      }
      case 3:
        ASSERT_EQ(map_.erase(key), IsLive(key) ? 1u : 0u);
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

  void Keep(const Ref<Tracked>& object, int key) {
    model_[key] = WeakRef<Tracked>(object);
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
    ASSERT_EQ(map_.size(), live);
    size_t visited = 0;
    for (const auto& [key, value] : map_) {
      ASSERT_EQ(model_.at(key).lock(), value);
      ++visited;
    }
    ASSERT_EQ(visited, live);
  }
  int Random(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }

  std::mt19937_64 random_;
  int made_ = 0;
  WeakValueMap<int, Tracked, PoorHash, std::equal_to<int>> map_;
  std::unordered_map<int, WeakRef<Tracked>> model_;
  std::vector<Ref<Tracked>> objects_;
};

TEST(WeakValueMapModelTest, BehavesAsItsModel) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Script(seed).Run(300);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(Tracked::live(), 0);
}

}  // namespace
}  // namespace weakcache
