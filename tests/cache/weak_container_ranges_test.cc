// SPDX-License-Identifier: Apache-2.0
// Containers made from, updated by and combined with ranges.
#include <gtest/gtest.h>

#include <list>
#include <map>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/handle_kinds.h"
#include "tests/support/tracked.h"
#include "weakcache/cache/key_policy.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

template <typename Kind>
class WeakContainerRangesTest : public ::testing::Test {
 protected:
  using Handle = HandleOf<Kind, Tracked>;
  using Value = ValueOf<Kind, Tracked>;

  const Handle a_ = Make<Kind, Tracked>(1);
  const Handle b_ = Make<Kind, Tracked>(2);
  const Handle c_ = Make<Kind, Tracked>(3);
};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(WeakContainerRangesTest, Kinds);

TYPED_TEST(WeakContainerRangesTest, ValueMapsAreMadeFromPairs) {
  using Map = WeakValueMap<std::string, typename TestFixture::Value>;
  const Map listed = {{"a", this->a_}, {"b", this->b_}, {"a", this->c_}};
  EXPECT_EQ(listed.size(), 2u);
  EXPECT_EQ(listed.get("a"), this->a_);  // the first one, as of std's maps

  const std::map<std::string, typename TestFixture::Handle> entries = {{"a", this->a_},
                                                                       {"b", this->b_}};
  EXPECT_EQ(Map(entries.begin(), entries.end()), listed);
  const auto snapshot = listed.snapshot();
  EXPECT_EQ(Map(snapshot.begin(), snapshot.end()), listed);
  EXPECT_EQ(Map(listed.begin(), listed.end()), listed);
}

TYPED_TEST(WeakContainerRangesTest, ValueMapsAreUpdatedByPairs) {
  WeakValueMap<std::string, typename TestFixture::Value> map = {{"a", this->a_}, {"b", this->b_}};
  map.update({{"a", this->c_}});
  EXPECT_EQ(map.get("a"), this->c_);
  map.update(std::list<std::pair<const char*, typename TestFixture::Handle>>{{"b", this->c_}});
  EXPECT_EQ(map.get("b"), this->c_);
  map.update(map);
  EXPECT_EQ(map.size(), 2u);
}

TYPED_TEST(WeakContainerRangesTest, KeyMapsAreMadeFromAndUpdatedByPairs) {
  using Map = WeakKeyMap<typename TestFixture::Value, int>;
  Map map = {{this->a_, 1}, {this->b_, 2}, {this->a_, 3}};
  EXPECT_EQ(map.size(), 2u);
  EXPECT_EQ(*map.get(this->a_), 1);
  const auto snapshot = map.snapshot();
  EXPECT_EQ(Map(snapshot.begin(), snapshot.end()), map);
  map.update({{this->a_, 4}, {this->c_, 5}});
  EXPECT_EQ(*map.get(this->a_), 4);
  EXPECT_EQ(*map.get(this->c_), 5);
  map.update(std::vector<std::pair<typename TestFixture::Handle, short>>{{this->b_, short{6}}});
  EXPECT_EQ(*map.get(this->b_), 6);
}

TYPED_TEST(WeakContainerRangesTest, SetsAreMadeFromObjects) {
  using Set = WeakSet<typename TestFixture::Value>;
  const Set listed = {this->a_, this->b_, this->a_};
  EXPECT_EQ(listed.size(), 2u);
  const std::list<typename TestFixture::Handle> objects = {this->b_, this->a_};
  EXPECT_EQ(Set(objects.begin(), objects.end()), listed);
}

TYPED_TEST(WeakContainerRangesTest, SetsAreCombinedWithRanges) {
  using Set = WeakSet<typename TestFixture::Value>;
  using Objects = std::vector<typename TestFixture::Handle>;
  Set set = {this->a_, this->b_};
  set.update(Objects{this->b_, this->c_});
  EXPECT_EQ(set, Set({this->a_, this->b_, this->c_}));
  set -= Objects{this->a_};
  EXPECT_EQ(set, Set({this->b_, this->c_}));
  set &= Objects{this->a_, this->b_};
  EXPECT_EQ(set, Set({this->b_}));
  set ^= Objects{this->b_, this->c_, this->c_};
  EXPECT_EQ(set, Set({this->c_}));
  set |= Objects{this->a_};
  set |= Set{this->b_};
  set.update({this->a_});
  EXPECT_EQ(set.size(), 3u);
}

TEST(WeakInternerRangesTest, InternersAreMadeFromHandles) {
  const Ref<const std::string> one = MakeRef<const std::string>("one");
  const Ref<const std::string> other_one = MakeRef<const std::string>("one");
  WeakInterner<std::string> names = {one, other_one};
  EXPECT_EQ(names.size(), 1u);
  EXPECT_EQ(names.intern("one"), one);
}

// --- The interner as a set
// ------------------------------------------------------------------------

template <typename Kind>
class WeakInternerSetTest : public ::testing::Test {};
struct Own {
  using Short = std::string;
  using Names = WeakInterner<std::string>;
  using Numbers = WeakInterner<int>;  // in its slots
};
struct Shared {
  using Names = WeakInterner<std::shared_ptr<const std::string>>;
  using Numbers = WeakInterner<std::shared_ptr<const int>>;
};
using InternerKinds = ::testing::Types<Own, Shared>;
TYPED_TEST_SUITE(WeakInternerSetTest, InternerKinds);

TYPED_TEST(WeakInternerSetTest, ErasedObjectsLiveOnButAreNotFound) {
  typename TypeParam::Numbers numbers;
  const auto seven = numbers.intern(7);
  EXPECT_EQ(numbers.erase(8), 0u);
  EXPECT_EQ(numbers.erase(7), 1u);
  EXPECT_EQ(numbers.erase(7), 0u);
  EXPECT_EQ(*seven, 7);
  EXPECT_FALSE(numbers.contains(7));
  const auto another = numbers.intern(7);
  EXPECT_NE(another, seven);
  EXPECT_EQ(numbers.size(), 1u);
  numbers.CheckInvariantsForTesting();

  typename TypeParam::Names names;
  const auto name = names.intern("a name that is longer than fits");
  EXPECT_EQ(names.erase(name), 1u);
  EXPECT_TRUE(names.empty());
}

TYPED_TEST(WeakInternerSetTest, PopAndEraseIf) {
  typename TypeParam::Numbers numbers;
  std::vector<typename TypeParam::Numbers::Strong> held;
  for (int i = 0; i < 10; ++i) held.push_back(numbers.intern(i));
  EXPECT_EQ(numbers.erase_if([](const auto& number) { return *number % 2 == 0; }), 5u);
  EXPECT_FALSE(numbers.contains(4));
  EXPECT_TRUE(numbers.contains(5));
  int sum = 0;
  while (const auto popped = numbers.pop()) sum += *popped;
  EXPECT_EQ(sum, 1 + 3 + 5 + 7 + 9);
  EXPECT_TRUE(numbers.empty());
  held.clear();
  numbers.purge();
  numbers.CheckInvariantsForTesting();
}

TYPED_TEST(WeakInternerSetTest, ClonesHaveTheSameObjects) {
  typename TypeParam::Numbers numbers;
  auto one = numbers.intern(1);
  const auto two = numbers.intern(2);
  const typename TypeParam::Numbers clone = numbers.clone();
  EXPECT_EQ(clone, numbers);
  EXPECT_EQ(clone.get(2), two);

  typename TypeParam::Numbers others;
  const auto other_one = others.intern(1);
  const auto other_two = others.intern(2);
  EXPECT_FALSE(others == numbers);  // equal, but not the same objects

  one.reset();
  EXPECT_EQ(clone.get(1), nullptr);  // it keeps none alive
  EXPECT_EQ(clone, numbers);
  numbers.erase(2);
  EXPECT_FALSE(clone == numbers);
}

// --- Visits
// ---------------------------------------------------------------------------------------

TYPED_TEST(WeakContainerRangesTest, AnObserverThatRegistersItselfAgainIsVisitedOnce) {
  WeakSet<typename TestFixture::Value> set;
  std::vector<typename TestFixture::Handle> observers;
  for (int i = 0; i < 100; ++i) {
    observers.push_back(Make<TypeParam, Tracked>(i));
    set.insert(observers.back());
  }
  std::vector<int> visits(100);
  size_t total = 0;
  set.for_each([&](const auto& observer) {
    ASSERT_LT(++total, 1000u);
    ++visits[static_cast<size_t>(observer->id())];
    const auto held = observer;
    set.erase(held);
    set.insert(held);
  });
  for (const int visited : visits) EXPECT_EQ(visited, 1);
  EXPECT_EQ(set.size(), 100u);
}

TYPED_TEST(WeakContainerRangesTest, AVisitEndsThoughEachOneAddsAMember) {
  WeakSet<typename TestFixture::Value> set;
  WeakSet<typename TestFixture::Value> other;
  std::vector<typename TestFixture::Handle> observers = {Make<TypeParam, Tracked>(0)};
  set.insert(observers.back());
  other.insert(observers.back());
  size_t inner = 0;
  size_t visited = 0;
  set.for_each([&](const auto&) {
    ASSERT_LT(++visited, 100u);
    observers.push_back(Make<TypeParam, Tracked>(1));
    set.insert(observers.back());
    // A loop that begins later has the new member; one over another set has nothing to do with it.
    set.for_each([&](const auto&) { ++inner; });
    other.for_each([&](const auto&) { ++inner; });
  });
  EXPECT_EQ(visited, 1u);
  EXPECT_EQ(inner, 3u);
  size_t later = 0;
  set.for_each([&](const auto&) { ++later; });
  EXPECT_EQ(later, 2u);
}

}  // namespace
}  // namespace weakcache::testing
