// SPDX-License-Identifier: Apache-2.0
// WeakKeyMap with keys by value: what it promises. Its destructors' and threads' part is in
// weak_key_map_by_value_reentrancy_test.cc.
#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/tracked.h"
#include "tests/support/word.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::SmallTracked;
using testing::Word;
using testing::WordEqual;
using testing::WordHash;
using testing::WordLog;

using Names = WeakKeyMap<std::string, int, ByValue<>>;
template <typename V>
using WordMap = WeakKeyMap<Word, V, ByValue<WordHash, WordEqual>>;

TEST(WeakKeyMapByValueTest, AnyEqualKeyFindsTheValue) {
  Names map;
  const Ref<std::string> key = MakeRef<std::string>("one");
  EXPECT_TRUE(map.insert(key, 1).second);
  const Ref<std::string> equal = MakeRef<std::string>("one");
  EXPECT_EQ(*map.get(key), 1);
  EXPECT_EQ(*map.get(equal), 1);
  EXPECT_EQ(*std::as_const(map).get(equal), 1);
  EXPECT_FALSE(map.insert(equal, 2).second);
  EXPECT_EQ(*map.get(key), 1);
  EXPECT_FALSE(map.contains(MakeRef<std::string>("two")));
  EXPECT_EQ(map.get(MakeRef<std::string>("two")), nullptr);
  EXPECT_EQ(equal.weak_count(), 0u);  // only looked up by
  EXPECT_EQ(map.size(), 1u);
}

TEST(WeakKeyMapByValueTest, StringsAreLookedUpByObjectsViewsAndLiterals) {
  Names map;
  const Ref<std::string> key = MakeRef<std::string>("one");
  map.try_emplace(key, 1);
  EXPECT_EQ(*map.get("one"), 1);
  EXPECT_EQ(*map.get(std::string("one")), 1);
  EXPECT_EQ(*map.get(std::string_view("one more").substr(0, 3)), 1);
  EXPECT_TRUE(map.contains("one"));
  EXPECT_FALSE(map.contains("on"));
  EXPECT_EQ(map.canonical_key("one"), key);
  EXPECT_EQ(map.canonical_key("two"), nullptr);
  EXPECT_EQ(map.take("one"), 1);
  EXPECT_EQ(map.take("one"), std::nullopt);
  map.try_emplace(key, 1);
  EXPECT_EQ(map.erase("two"), 0u);
  EXPECT_EQ(map.erase("one"), 1u);
  EXPECT_TRUE(map.empty());
}

// What hash and equality take is looked up as it is: no key is made for it.
TEST(WeakKeyMapByValueTest, ATransparentHashMakesNoKey) {
  WordLog log;
  WordMap<int> map({WordHash{&log}, WordEqual{&log}});
  const Ref<Word> key = MakeRef<Word>("one");
  map.insert(key, 1);
  const int made = Word::made();
  EXPECT_EQ(*map.get("one"), 1);
  EXPECT_EQ(*map.get(*key), 1);
  EXPECT_TRUE(map.contains(key));
  EXPECT_FALSE(map.contains("two"));
  EXPECT_EQ(map.erase("one"), 1u);
  EXPECT_EQ(Word::made(), made);
  EXPECT_GT(log.hashed, 0);
}

struct LengthHash {
  size_t operator()(const std::string& text) const { return text.size(); }
};
struct LengthEqual {
  bool operator()(const std::string& a, const std::string& b) const { return a.size() == b.size(); }
};

TEST(WeakKeyMapByValueTest, AnOpaqueHashIsGivenAKeyMadeForIt) {
  WeakKeyMap<std::string, int, ByValue<LengthHash, LengthEqual>> map;
  const Ref<std::string> key = MakeRef<std::string>("one");
  map.insert(key, 3);
  EXPECT_EQ(*map.get("two"), 3);
  EXPECT_EQ(map.get("three"), nullptr);
  EXPECT_EQ(map.canonical_key(std::string("six")), key);
}

TEST(WeakKeyMapByValueTest, FunctionsWithStateAreKeptAndGoAlong) {
  using Hash = std::function<size_t(const std::string&)>;
  using Equal = std::function<bool(const std::string&, const std::string&)>;
  using Map = WeakKeyMap<std::string, int, ByValue<Hash, Equal>>;
  Map map({[](const std::string& text) { return text.size(); },
           [](const std::string& a, const std::string& b) { return a.size() == b.size(); }});
  const Ref<std::string> key = MakeRef<std::string>("one");
  map.insert(key, 3);
  Map clone = map.clone();
  EXPECT_TRUE(clone.contains("two"));
  Map other({[](const std::string&) { return 0; },
             [](const std::string& a, const std::string& b) { return a == b; }});
  other.insert(key, 4);
  swap(map, other);
  EXPECT_FALSE(map.contains("two"));
  EXPECT_EQ(*other.get("two"), 3);
  const Map moved = std::move(other);
  EXPECT_EQ(*moved.get("two"), 3);
}

struct Shape {
  virtual ~Shape() = default;
  virtual int sides() const = 0;
};
struct Polygon final : Shape {
  explicit Polygon(int sides) : count(sides) {}
  Polygon(const Polygon&) = delete;
  int sides() const override { return count; }
  int count;
};
struct SidesHash {
  size_t operator()(const Shape& shape) const { return static_cast<size_t>(shape.sides()); }
};
struct SidesEqual {
  bool operator()(const Shape& a, const Shape& b) const { return a.sides() == b.sides(); }
};

// Neither sliced nor copied.
TEST(WeakKeyMapByValueTest, ADerivedObjectIsLookedUpAsItIs) {
  WeakKeyMap<Shape, std::string, ByValue<SidesHash, SidesEqual>> map;
  const Ref<Shape> square = MakeRef<Polygon>(4);
  map.insert(square, "square");
  EXPECT_EQ(*map.get(square), "square");
  EXPECT_EQ(*map.get(Polygon(4)), "square");
  EXPECT_FALSE(map.contains(Polygon(3)));
}

TEST(WeakKeyMapByValueTest, AssignmentUnderAnEqualKeyTakesThatKey) {
  WeakKeyMap<std::string, SmallTracked, ByValue<>> map;
  Ref<std::string> first = MakeRef<std::string>("one");
  Ref<std::string> second = MakeRef<std::string>("one");
  EXPECT_TRUE(map.insert_or_assign(first, SmallTracked(1)).second);
  EXPECT_FALSE(map.insert_or_assign(second, SmallTracked(2)).second);
  EXPECT_EQ(SmallTracked::live(), 1);  // the old one goes at once
  EXPECT_EQ(map.canonical_key(first), second);
  EXPECT_EQ(first.weak_count(), 0u);
  first.reset();
  EXPECT_EQ(map.get("one")->id(), 2);  // it does not die with the old key
  EXPECT_EQ(map.size(), 1u);
  second.reset();
  EXPECT_EQ(SmallTracked::live(), 0);
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapByValueTest, AFailedInsertionKeepsTheOldKey) {
  Names map;
  Ref<std::string> first = MakeRef<std::string>("one");
  const Ref<std::string> second = MakeRef<std::string>("one");
  map.insert(first, 1);
  EXPECT_FALSE(map.try_emplace(second, 2).second);
  EXPECT_EQ(map.get_or_create(second, [] { return 3; }).key(), first);
  EXPECT_EQ(map.canonical_key(second), first);
  first.reset();
  EXPECT_FALSE(map.contains(second));  // the value was the first one's
}

TEST(WeakKeyMapByValueTest, ALookUpHoldsKeyAndValue) {
  WeakKeyMap<Word, SmallTracked, ByValue<WordHash, WordEqual>> map;
  Ref<Word> key = MakeRef<Word>("one");
  auto made = map.try_emplace(key, 1).first;
  const Word* const object = key.get();
  key.reset();
  auto found = map.get("one");
  auto copy = found;
  made = {};
  found = {};
  EXPECT_EQ(copy.key().get(), object);
  EXPECT_EQ(copy->id(), 1);
  EXPECT_EQ((*copy).id(), 1);
  EXPECT_EQ(copy.get()->id(), 1);
  EXPECT_EQ(map.size(), 1u);
  copy = {};
  EXPECT_EQ(Word::live(), 0);
  EXPECT_EQ(SmallTracked::live(), 0);
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(map.get("one"), nullptr);
}

TEST(WeakKeyMapByValueTest, AnEmptyResultIsSafeToAsk) {
  const Names::pointer nothing;
  EXPECT_FALSE(nothing);
  EXPECT_TRUE(nothing == nullptr);
  EXPECT_EQ(nothing.get(), nullptr);
  EXPECT_EQ(nothing.key(), nullptr);
  static_assert(std::is_same_v<decltype(*std::declval<Names::const_pointer>()), const int&>);
}

TEST(WeakKeyMapByValueDeathTest, UsingAnEmptyResultNamesTheCall) {
  const Names map;
  EXPECT_DEATH((void)*map.get("one"), "HeldValue::operator\\*: there is no value");
  WeakKeyMap<std::string, std::string, ByValue<>> texts;
  EXPECT_DEATH((void)texts.get("one")->size(), "HeldValue::operator->: there is no value");
}

TEST(WeakKeyMapByValueDeathTest, ANullKeyNamesTheCall) {
  Names map;
  EXPECT_DEATH(map.insert(nullptr, 1), "WeakKeyMap::insert: the reference is null");
  EXPECT_DEATH(map.insert_or_assign(nullptr, 1),
               "WeakKeyMap::insert_or_assign: the reference is null");
  EXPECT_DEATH(map.try_emplace(nullptr, 1), "WeakKeyMap::try_emplace: the reference is null");
  EXPECT_DEATH((void)map.get(Ref<std::string>()), "look-up by value: the key is null");
  EXPECT_DEATH(map.erase(Ref<std::string>()), "look-up by value: the key is null");
}

TEST(WeakKeyMapByValueTest, TheFactoryMayAttachAValueToAnEqualKey) {
  Names map;
  const Ref<std::string> inner = MakeRef<std::string>("one");
  const Ref<std::string> outer = MakeRef<std::string>("one");
  const auto given = map.get_or_create(outer, [&] {
    map.insert(inner, 1);
    return 2;
  });
  EXPECT_EQ(*given, 1);
  EXPECT_EQ(given.key(), inner);
  EXPECT_EQ(map.size(), 1u);
}

// Expired keys are neither compared nor hashed, whatever their entries are still there for.
TEST(WeakKeyMapByValueTest, TheDeadAreNotAsked) {
  WordLog log;
  log.collide = true;
  WordMap<SmallTracked> map({WordHash{&log}, WordEqual{&log}});
  std::vector<Ref<Word>> words;
  for (int i = 0; i < 100; ++i) {
    words.push_back(MakeRef<Word>(std::to_string(i)));
    map.try_emplace(words.back(), i);
  }
  words.clear();
  const int hashed = log.hashed;
  log.compared = 0;
  EXPECT_FALSE(map.contains("7"));
  EXPECT_EQ(log.hashed, hashed + 1);
  EXPECT_EQ(log.compared, 0);
  map.reserve(1000);  // rebuilds the index
  const Ref<Word> word = MakeRef<Word>("7");
  EXPECT_TRUE(map.try_emplace(word, 7).second);
  EXPECT_EQ(log.compared, 0);
  EXPECT_EQ(map.purge(), 96u);
  map.shrink_to_fit();
  EXPECT_EQ(log.hashed, hashed + 2);
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapByValueTest, AKeyIsNotFoundWhileItsDestructorRuns) {
  WordMap<int> map;
  bool found = true;
  Ref<Word> first = MakeRef<Word>("one", [&] { found = map.contains("one"); });
  map.insert(first, 1);
  first.reset();
  EXPECT_FALSE(found);
}

// The same value again, entered while its predecessor's entry is still there, and before it goes.
TEST(WeakKeyMapByValueTest, ANewKeyIsNotRemovedByItsPredecessorsDeath) {
  WordMap<int> map;
  Ref<Word> second = MakeRef<Word>("one");
  Ref<Word> first = MakeRef<Word>("one", [&] { map.insert(second, 2); });
  map.insert(first, 1);
  first.reset();
  EXPECT_EQ(*map.get("one"), 2);
  EXPECT_EQ(map.size(), 1u);
  EXPECT_EQ(map.purge(), 1u);
  EXPECT_EQ(*map.get("one"), 2);
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapByValueTest, ManyCollidingKeysAreToldApart) {
  WordLog log;
  log.collide = true;
  WordMap<int> map({WordHash{&log}, WordEqual{&log}});
  std::vector<Ref<Word>> words;
  for (int i = 0; i < 200; ++i) {
    words.push_back(MakeRef<Word>(std::to_string(i)));
    ASSERT_TRUE(map.insert(words.back(), i).second);
  }
  for (int i = 0; i < 200; i += 3) words[i].reset();
  for (int i = 1; i < 200; i += 3) ASSERT_EQ(map.erase(std::to_string(i)), 1u);
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(map.contains(std::to_string(i)), i % 3 == 2) << i;
  }
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapByValueTest, TwoPartsOfOneObjectAreTwoKeys) {
  struct Both {
    std::string a = "a";
    std::string b = "b";
  };
  WeakKeyMap<std::string, SmallTracked, ByValue<>> map;
  Ref<Both> both = MakeRef<Both>();
  map.try_emplace(Ref<std::string>(both, &both->a), 1);
  map.try_emplace(Ref<std::string>(both, &both->b), 2);
  EXPECT_EQ(map.get("a")->id(), 1);
  EXPECT_EQ(map.get("b")->id(), 2);
  EXPECT_EQ(map.erase("a"), 1u);
  EXPECT_EQ(map.get("b")->id(), 2);
  both.reset();
  EXPECT_EQ(SmallTracked::live(), 0);
  EXPECT_TRUE(map.empty());
}

TEST(WeakKeyMapByValueTest, TheBulkOperationsGoByValueToo) {
  std::vector<Ref<std::string>> here = {MakeRef<std::string>("a"), MakeRef<std::string>("b")};
  std::vector<Ref<std::string>> there = {MakeRef<std::string>("b"), MakeRef<std::string>("c")};
  Names a, b;
  for (const auto& key : here) a.insert(key, 1);
  for (const auto& key : there) b.insert(key, 2);
  Names merged = a.clone();
  Names from = b.clone();
  merged.merge(from);
  EXPECT_EQ(merged.size(), 3u);
  EXPECT_EQ(*merged.get("b"), 1);
  EXPECT_EQ(merged.canonical_key("b"), here[1]);
  EXPECT_EQ(from.keys(), std::vector<Ref<std::string>>{there[0]});
  Names updated = a.clone();
  updated.update(b);
  EXPECT_EQ(updated.size(), 3u);
  EXPECT_EQ(*updated.get("b"), 2);
  EXPECT_EQ(updated.canonical_key("b"), there[0]);
  EXPECT_FALSE(a == b);
  Names equal;
  const Ref<std::string> other_keys[] = {MakeRef<std::string>("b"), MakeRef<std::string>("a")};
  for (const auto& key : other_keys) equal.insert(key, 1);
  EXPECT_EQ(a, equal);
  EXPECT_EQ(a.erase_if([](const auto& key, int) { return *key == "a"; }), 1u);
  EXPECT_FALSE(a == equal);
  EXPECT_EQ(a.pop()->first, here[1]);
  EXPECT_EQ(a.pop(), std::nullopt);
}

using Text = std::shared_ptr<std::string>;

TEST(WeakKeyMapByValueTest, TakesSharedPtrs) {
  WeakKeyMap<Text, SmallTracked, ByValue<>> map;
  Text key = std::make_shared<std::string>("one");
  EXPECT_TRUE(map.try_emplace(key, 1).second);
  EXPECT_FALSE(map.try_emplace(std::make_shared<std::string>("one"), 2).second);
  EXPECT_EQ(map.get("one")->id(), 1);
  EXPECT_EQ(map.canonical_key("one"), key);
  auto held = map.get("one");
  key.reset();
  EXPECT_EQ(*held.key(), "one");
  EXPECT_TRUE(map.contains("one"));
  held = {};
  EXPECT_FALSE(map.contains("one"));
  EXPECT_EQ(map.get("one"), nullptr);
  EXPECT_EQ(SmallTracked::live(), 1);  // until the purge, as documented
  key = std::make_shared<std::string>("one");
  EXPECT_TRUE(map.insert_or_assign(key, SmallTracked(3)).second);
  EXPECT_EQ(map.get(key)->id(), 3);
  map.purge();
  EXPECT_EQ(SmallTracked::live(), 1);
  EXPECT_EQ(map.size(), 1u);
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapByValueTest, SharedPtrsToPartsGoByThePartsValue) {
  struct Both {
    std::string a = "same";
    std::string b = "same";
  };
  WeakKeyMap<Text, int, ByValue<>> map;
  const auto both = std::make_shared<Both>();
  EXPECT_TRUE(map.insert(Text(both, &both->a), 1).second);
  EXPECT_FALSE(map.insert(Text(both, &both->b), 2).second);
  EXPECT_FALSE(map.insert_or_assign(Text(both, &both->b), 3).second);
  EXPECT_EQ(map.canonical_key("same").get(), &both->b);
  EXPECT_EQ(map.size(), 1u);
}

// A value that tells and can be told to fail.
struct Fragile {
  explicit Fragile(int id) : id(id) { testing::MayThrow(); }
  Fragile(const Fragile& other) : id(other.id) { testing::MayThrow(); }
  Fragile& operator=(const Fragile&) = delete;
  bool operator==(const Fragile& other) const { return id == other.id; }
  int id;
};

// A full map, and what may be entered there.
struct FullMap {
  FullMap() {
    log.collide = true;
    for (int i = 0; i < 6; ++i) {  // as many as the smallest index takes
      words.push_back(MakeRef<Word>(std::to_string(i)));
      map.try_emplace(words.back(), i);
      values.push_back(map.get(words.back()).get());
    }
  }
  void ExpectUnchanged() {
    map.CheckInvariantsForTesting();
    ASSERT_EQ(map.size(), words.size());
    for (size_t i = 0; i < words.size(); ++i) {
      ASSERT_EQ(map.get(words[i]).get(), values[i]);
      ASSERT_EQ(map.canonical_key(words[i]), words[i]);
      ASSERT_EQ(values[i]->id, static_cast<int>(i));
    }
  }

  WordLog log;
  WordMap<Fragile> map{WordHash{&log}, WordEqual{&log}};
  std::vector<Ref<Word>> words;
  std::vector<Fragile*> values;
  const Ref<Word> fresh = MakeRef<Word>("new");
  const Ref<Word> equal = MakeRef<Word>("3");
  const Fragile value{7};
};

// Fails the operation wherever it calls user code, and wherever it allocates.
template <typename Operation>
void ExpectUnchangedByFailures(int points, Operation operation) {
  FullMap throwing;
  EXPECT_GE(
      testing::ThrowAtEachPoint([&] { operation(throwing); }, [&] { throwing.ExpectUnchanged(); }),
      points);
  FullMap allocating;
  testing::FailEachAllocation([&] { operation(allocating); },
                              [&] { allocating.ExpectUnchanged(); });
}

TEST(WeakKeyMapByValueFailureTest, Insertion) {
  // The hash, six comparisons, the copy.
  ExpectUnchangedByFailures(
      8, [](FullMap& full) { EXPECT_TRUE(full.map.try_emplace(full.fresh, full.value).second); });
  ExpectUnchangedByFailures(8, [](FullMap& full) {
    EXPECT_EQ(full.map.get_or_create(full.fresh, [&] { return full.value; })->id, 7);
  });
}
TEST(WeakKeyMapByValueFailureTest, Assignment) {
  ExpectUnchangedByFailures(3, [](FullMap& full) {
    EXPECT_FALSE(full.map.insert_or_assign(full.equal, full.value).second);
  });
}
TEST(WeakKeyMapByValueFailureTest, Take) {
  ExpectUnchangedByFailures(3, [](FullMap& full) { EXPECT_EQ(full.map.take("3")->id, 3); });
}
TEST(WeakKeyMapByValueFailureTest, LookUpsAndCopies) {
  ExpectUnchangedByFailures(3, [](FullMap& full) {
    EXPECT_FALSE(full.map.contains("new"));
    EXPECT_EQ(full.map.get("5")->id, 5);
    EXPECT_EQ(full.map.erase("new"), 0u);
    EXPECT_EQ(full.map.clone(), full.map);
    EXPECT_EQ(full.map.snapshot().size(), 6u);
  });
}

// A new object in each round; what it had goes with it.
TEST(WeakKeyMapByValueTest, MemoryIsBoundedWithoutAPurge) {
  Names map;
  int64_t early = 0;
  for (int round = 0; round < 20'000; ++round) {
    const Ref<std::string> key = MakeRef<std::string>(std::to_string(round % 7));
    ASSERT_TRUE(map.insert(key, round).second);
    if (round == 1000) early = testing::LiveAllocatedBytes();
  }
  EXPECT_LE(testing::LiveAllocatedBytes(), early);
}

}  // namespace
}  // namespace weakcache
