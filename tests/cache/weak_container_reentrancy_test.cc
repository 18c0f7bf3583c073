// SPDX-License-Identifier: Apache-2.0
// Destructors of keys and values, which run inside a container's operations, change or end it: with
// the library's own handles and with std::shared_ptr.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/handle_kinds.h"
#include "tests/support/last_words.h"
#include "tests/support/tracked.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

template <typename Kind>
class WeakContainerReentrancyTest : public ::testing::Test {
 protected:
  using ValueMap =
      WeakValueMap<LastWords, ValueOf<Kind, Tracked>, LastWords::Hash, std::equal_to<LastWords>>;
  using KeyMap = WeakKeyMap<ValueOf<Kind, Tracked>, LastWords>;
  using Handle = HandleOf<Kind, Tracked>;

  // Enters an entry under `id` that is dead at once, and whose key's end does this.
  static void EnterDying(ValueMap& map, int id, std::function<void()> speak) {
    map.insert_or_assign(LastWords(id, std::move(speak)), Make<Kind, Tracked>(id));
  }
  // The same, in the midst of so many that the next operation does not purge it.
  static void EnterDyingAmongOthers(ValueMap& map, int id, const std::function<void()>& speak) {
    std::vector<Handle> objects;
    for (int i = 0; i < 9; ++i) {
      objects.push_back(Make<Kind, Tracked>(i));
      map.insert(i == 4 ? LastWords(id, speak) : LastWords(100 + i), objects.back());
    }
  }
  void TearDown() override { EXPECT_EQ(LastWords::live, 0); }
};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(WeakContainerReentrancyTest, Kinds);

// --- The end of the container -----------------------------------------------------------------

TYPED_TEST(WeakContainerReentrancyTest, KeysDestructorsUseTheMapThatEnds) {
  using Map = typename TestFixture::ValueMap;
  std::vector<typename TestFixture::Handle> objects;
  auto map = std::make_unique<Map>();
  Map* const ending = map.get();
  int spoken = 0;
  for (int i = 0; i < 40; ++i) {
    objects.push_back(Make<TypeParam, Tracked>(i));
    map->insert(LastWords(i,
                          [&spoken, &objects, ending] {
                            ++spoken;
                            for (int j = 0; j < 40; ++j) {
                              EXPECT_EQ(ending->get(LastWords(j)), nullptr);
                            }
                            ending->erase(LastWords(1));
                            for ([[maybe_unused]] const auto& entry : *ending) break;
                            // One that comes late ends with the map, too.
                            if (spoken == 1) ending->insert(LastWords(100), objects[0]);
                          }),
                objects.back());
  }
  map.reset();
  EXPECT_EQ(spoken, 40);
}

TYPED_TEST(WeakContainerReentrancyTest, ValuesDestructorsUseTheMapThatEnds) {
  using Map = typename TestFixture::KeyMap;
  std::vector<typename TestFixture::Handle> keys;
  auto map = std::make_unique<Map>();
  Map* const ending = map.get();
  int spoken = 0;
  const auto late = Make<TypeParam, Tracked>(100);
  for (int i = 0; i < 40; ++i) keys.push_back(Make<TypeParam, Tracked>(i));
  for (int i = 0; i < 40; ++i) {
    map->try_emplace(keys[static_cast<size_t>(i)], i, [&spoken, &keys, &late, ending] {
      ++spoken;
      for (const auto& key : keys) EXPECT_EQ(ending->get(key), nullptr);
      if (spoken == 1) ending->try_emplace(late, 100);
    });
  }
  map.reset();
  EXPECT_EQ(spoken, 40);
}

// --- merge() -----------------------------------------------------------------------------------

TYPED_TEST(WeakContainerReentrancyTest, AnEntryMayLeaveWhileItIsMerged) {
  typename TestFixture::ValueMap map, other;
  const auto object = Make<TypeParam, Tracked>(1);
  for (const bool under_the_same_key : {false, true}) {
    other.insert(LastWords(1), object);
    const auto erase = [&] { other.erase(LastWords(1)); };
    if (under_the_same_key) {
      this->EnterDyingAmongOthers(map, 1, erase);
    } else {
      this->EnterDying(map, 2, erase);
    }
    map.merge(other);
    EXPECT_EQ(other.size(), 0u);
    EXPECT_EQ(map.get(LastWords(1)), object);
    map.clear();
    other.clear();
  }
}

TYPED_TEST(WeakContainerReentrancyTest, MergeTakesTheObjectAndNotItsSuccessor) {
  typename TestFixture::ValueMap map, other;
  const auto object = Make<TypeParam, Tracked>(1);
  const auto successor = Make<TypeParam, Tracked>(2);
  other.insert(LastWords(1), object);
  // Its end comes in the midst of the merge, since it makes way for the other.
  this->EnterDyingAmongOthers(map, 1, [&] { other.insert_or_assign(LastWords(1), successor); });
  map.merge(other);
  EXPECT_EQ(map.get(LastWords(1)), object);
  EXPECT_EQ(other.get(LastWords(1)), successor);
}

TYPED_TEST(WeakContainerReentrancyTest, MergeTakesTheValueAndNotItsSuccessor) {
  typename TestFixture::KeyMap map, other;
  const auto key = Make<TypeParam, Tracked>(1);
  other.try_emplace(key, 1);
  map.try_emplace(Make<TypeParam, Tracked>(2), 2,
                  [&] { other.insert_or_assign(key, LastWords(3)); });
  // A value goes with its key if that tells of its end, or else in the midst of the merge.
  const bool at_once = HandleTraits<typename TestFixture::Handle>::kNotifiesExpiry;
  map.merge(other);
  ASSERT_NE(map.get(key), nullptr);
  EXPECT_EQ(map.get(key)->id, at_once ? 3 : 1);
  EXPECT_EQ(other.size(), at_once ? 0u : 1u);
  if (at_once) return;
  ASSERT_NE(other.get(key), nullptr);
  EXPECT_EQ(other.get(key)->id, 3);
}

// --- The container's end -----------------------------------------------------------------------

TYPED_TEST(WeakContainerReentrancyTest, KeysEndsMayEnterAndEraseWhileTheMapEnds) {
  const int64_t before = LiveAllocations();
  {
    const auto object = Make<TypeParam, Tracked>(1);
    auto map = std::make_unique<typename TestFixture::ValueMap>();
    auto* const ending = map.get();
    ending->insert(LastWords(1,
                             [&] {
                               this->EnterDying(*ending, 2, [&] {
                                 ending->insert(LastWords(3), object);
                                 EXPECT_EQ(ending->erase(LastWords(3)), 1u);
                               });
                             }),
                   object);
    map.reset();
    EXPECT_EQ(LastWords::live, 0);
    EXPECT_EQ(object.use_count(), 1);
  }
  EXPECT_EQ(LiveAllocations(), before);
}

TYPED_TEST(WeakContainerReentrancyTest, AKeysEndMayEndTheMap) {
  using Map = typename TestFixture::ValueMap;
  const std::pair<const char*, void (*)(Map&)> ways_out[] = {
      {"erase", [](Map& map) { map.erase(LastWords(1)); }},
      {"take", [](Map& map) { (void)map.take(LastWords(1)); }},
      {"pop", [](Map& map) { (void)map.pop(); }},
      {"insert_or_assign",
       [](Map& map) { map.insert_or_assign(LastWords(1), Make<TypeParam, Tracked>(2)); }},
      {"emplace_or_assign", [](Map& map) { map.emplace_or_assign(LastWords(1), 2); }},
      {"insert", [](Map& map) { map.insert(LastWords(2), Make<TypeParam, Tracked>(2)); }},
  };
  for (const auto& [name, way_out] : ways_out) {
    for (const bool expired : {false, true}) {
      if (std::string(name) == (expired ? "pop" : "insert")) continue;
      SCOPED_TRACE(std::string(name) + (expired ? " expired" : " alive"));
      const int64_t before = LiveAllocations();
      {
        auto map = std::make_unique<Map>();
        auto object = Make<TypeParam, Tracked>(1);
        map->insert(LastWords(1, [&] { map.reset(); }), object);
        if (expired) object.reset();
        way_out(*map);
        map.reset();  // replacing the object of an external slot keeps its key
      }
      EXPECT_EQ(LiveAllocations(), before);
    }
  }
}

TYPED_TEST(WeakContainerReentrancyTest, AValuesEndMayEndTheMap) {
  using Map = typename TestFixture::KeyMap;
  using Handle = typename TestFixture::Handle;
  const std::pair<const char*, void (*)(Map&, Handle&)> ways_out[] = {
      {"erase", [](Map& map, Handle& key) { map.erase(key); }},
      {"insert_or_assign", [](Map& map, Handle& key) { map.insert_or_assign(key, LastWords(2)); }},
      {"expiry, insertion",
       [](Map& map, Handle& key) {
         key.reset();
         if (LastWords::live > 0) map.try_emplace(Make<TypeParam, Tracked>(2), 2);
       }},
  };
  for (const auto& [name, way_out] : ways_out) {
    SCOPED_TRACE(name);
    const int64_t before = LiveAllocations();
    {
      auto map = std::make_unique<Map>();
      auto key = Make<TypeParam, Tracked>(1);
      map->try_emplace(key, 1, [&] { map.reset(); });
      way_out(*map, key);
      EXPECT_EQ(map, nullptr);
    }
    EXPECT_EQ(LiveAllocations(), before);
  }
}

// --- Keys by value -----------------------------------------------------------------------------

struct Named {
  explicit Named(int name) : name(name) {}
  Named(const Named&) = delete;
  Named& operator=(const Named&) = delete;
  ~Named() {
    if (at_end) at_end();
  }
  bool operator==(const Named& other) const { return name == other.name; }
  template <typename H>
  friend H AbslHashValue(H hash, const Named& named) {
    return H::combine(std::move(hash), named.name);
  }

  int name;
  std::function<void()> at_end;
};
struct MadeBy {
  explicit MadeBy(const std::function<void()>& act) { act(); }
};

// The value's constructor lets the key that was found go, and that key's end removes what another
// look-up has found.
TYPED_TEST(WeakContainerReentrancyTest, TheEndOfAFoundKeyMayEraseAnEqualOne) {
  WeakKeyMap<ValueOf<TypeParam, Named>, MadeBy, ByValue<>> map;
  auto found = Make<TypeParam, Named>(1);
  const auto assigned = Make<TypeParam, Named>(1);
  const auto equal = Make<TypeParam, Named>(1);
  const std::function<void()> nothing = [] {};
  map.try_emplace(found, nothing);
  found->at_end = [&] { EXPECT_EQ(map.erase(equal), 1u); };
  map.insert_or_assign(assigned, [&] {
    EXPECT_EQ(map.erase(assigned), 1u);
    map.try_emplace(equal, nothing);
    found.reset();
  });
  EXPECT_EQ(map.canonical_key(Named(1)), assigned);
  EXPECT_EQ(map.size(), 1u);
  map.CheckInvariantsForTesting();
}

// The object of a replaced entry has died, so its slot is still to come through the retire list:
// it does, while the key ends. No slot may be lost.
TYPED_TEST(WeakContainerReentrancyTest, AKeysEndMayPurgeWhatIsBeingReplaced) {
  typename TestFixture::ValueMap map;
  int64_t bytes = 0;
  for (int round = 0; round < 500; ++round) {
    bool has_ended = false;
    this->EnterDyingAmongOthers(map, 50, [&] {
      map.purge();
      has_ended = true;
    });
    const auto object = Make<TypeParam, Tracked>(1);
    map.insert_or_assign(LastWords(50), object);
    EXPECT_TRUE(has_ended);
    map.clear();
    map.purge();
    map.CheckInvariantsForTesting();
    if (round == 10) bytes = LiveAllocatedBytes();
  }
  EXPECT_LE(LiveAllocatedBytes(), bytes);
}

}  // namespace
}  // namespace weakcache::testing
