// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/weak_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::Tracked;

template <typename H>
std::vector<H> MakeMany(int count) {
  std::vector<H> objects;
  for (int id = 0; id < count; ++id) objects.push_back(HandleTraits<H>::Make(id));
  return objects;
}

template <typename H>
class WeakSetTest : public ::testing::Test {
 protected:
  // Ref<Tracked> and Tracked are written for the same set.
  using Set = WeakSet<H>;

  Set SetOf(const std::vector<H>& objects) {
    Set set;
    for (const H& object : objects) set.insert(object);
    return set;
  }
  // The ids of the members, which are live.
  static std::set<int> IdsIn(const Set& set) {
    std::set<int> ids;
    for (const H& member : set) EXPECT_TRUE(ids.insert(member->id()).second);
    set.CheckInvariantsForTesting();
    return ids;
  }
  using Ids = std::set<int>;
};
using Handles = ::testing::Types<Ref<Tracked>, std::shared_ptr<Tracked>, Ref<const Tracked>>;
TYPED_TEST_SUITE(WeakSetTest, Handles);

TYPED_TEST(WeakSetTest, HasWhatWasAddedWhileItLives) {
  typename TestFixture::Set set;
  EXPECT_TRUE(set.empty());
  TypeParam object = HandleTraits<TypeParam>::Make(1);
  EXPECT_FALSE(set.contains(object));
  EXPECT_TRUE(set.insert(object).second);
  EXPECT_FALSE(set.insert(object).second);
  EXPECT_TRUE(set.contains(object));
  EXPECT_FALSE(set.empty());
  EXPECT_EQ(set.size(), 1u);
  EXPECT_EQ(object.use_count(), 1);
  object = nullptr;
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_EQ(this->IdsIn(set), std::set<int>());
  set.purge();
  EXPECT_TRUE(set.empty());
}

TYPED_TEST(WeakSetTest, ErasesAndClears) {
  const std::vector<TypeParam> objects = MakeMany<TypeParam>(3);
  typename TestFixture::Set set = this->SetOf(objects);
  EXPECT_EQ(set.erase(objects[0]), 1u);
  EXPECT_EQ(set.erase(objects[0]), 0u);
  EXPECT_EQ(set.erase(nullptr), 0u);
  EXPECT_FALSE(set.contains(nullptr));
  EXPECT_EQ(this->IdsIn(set), (std::set<int>{1, 2}));
  set.clear();
  EXPECT_TRUE(set.empty());
  EXPECT_TRUE(set.insert(objects[0]).second);
}

TYPED_TEST(WeakSetTest, PopsEachLiveMemberOnce) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(100);
  typename TestFixture::Set set = this->SetOf(objects);
  for (int id = 0; id < 100; id += 3) objects[id] = nullptr;
  std::set<int> popped;
  bool again = false;
  while (const TypeParam object = set.pop()) {
    EXPECT_TRUE(popped.insert(object->id()).second);
    EXPECT_NE(object->id() % 3, 0);
    EXPECT_FALSE(set.contains(object));
    set.CheckInvariantsForTesting();
    if (object->id() == 50 && !again) {
      again = true;
      set.insert(object);
      popped.erase(50);
    }
  }
  EXPECT_EQ(popped.size(), 66u);
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.pop(), nullptr);
}

TYPED_TEST(WeakSetTest, ErasesWhatTheConditionSays) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(10);
  typename TestFixture::Set set = this->SetOf(objects);
  objects[1] = nullptr;
  EXPECT_EQ(set.erase_if([](const TypeParam& member) { return member->id() % 2 == 1; }), 4u);
  EXPECT_EQ(this->IdsIn(set), (std::set<int>{0, 2, 4, 6, 8}));
  EXPECT_EQ(objects[3]->id(), 3);
}

TYPED_TEST(WeakSetTest, AlgebraOfLiveMembers) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(8);
  typename TestFixture::Set a = this->SetOf({objects.begin(), objects.begin() + 5});
  typename TestFixture::Set b = this->SetOf({objects.begin() + 3, objects.end()});
  for (const int dead : {0, 4, 7}) objects[dead] = nullptr;  // of one, of both, of the other
  using Ids = std::set<int>;
  EXPECT_EQ(this->IdsIn(a | b), (Ids{1, 2, 3, 5, 6}));
  EXPECT_EQ(this->IdsIn(a & b), (Ids{3}));
  EXPECT_EQ(this->IdsIn(a - b), (Ids{1, 2}));
  EXPECT_EQ(this->IdsIn(a ^ b), (Ids{1, 2, 5, 6}));
  EXPECT_EQ(this->IdsIn(a), (Ids{1, 2, 3}));
  EXPECT_EQ(this->IdsIn(b), (Ids{3, 5, 6}));

  typename TestFixture::Set changed = a.clone();
  EXPECT_EQ(&(changed |= b), &changed);
  EXPECT_EQ(this->IdsIn(changed), (Ids{1, 2, 3, 5, 6}));
  EXPECT_EQ(this->IdsIn(changed ^= a), (Ids{5, 6}));
  EXPECT_EQ(this->IdsIn(changed -= b), Ids());
  EXPECT_EQ(this->IdsIn((changed |= a) &= b), (Ids{3}));
  for (const TypeParam& object : objects) {
    if (object == nullptr) continue;
    EXPECT_EQ(object.use_count(), 1);
  }
}

TYPED_TEST(WeakSetTest, AlgebraWithItself) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(50);
  typename TestFixture::Set set = this->SetOf(objects);
  objects[7] = nullptr;
  const std::set<int> all = this->IdsIn(set);
  EXPECT_EQ(all.size(), 49u);
  EXPECT_EQ(this->IdsIn(set |= set), all);
  EXPECT_EQ(this->IdsIn(set &= set), all);
  EXPECT_EQ(this->IdsIn(set | set), all);
  EXPECT_EQ(this->IdsIn(set & set), all);
  EXPECT_TRUE((set - set).empty());
  EXPECT_TRUE((set ^ set).empty());
  EXPECT_EQ(this->IdsIn(set), all);
  typename TestFixture::Set other = set.clone();
  EXPECT_TRUE(this->IdsIn(set -= set).empty());
  EXPECT_TRUE(this->IdsIn(other ^= other).empty());
}

TYPED_TEST(WeakSetTest, ComparesLiveMembers) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(4);
  typename TestFixture::Set all = this->SetOf(objects);
  typename TestFixture::Set some = this->SetOf({objects[0], objects[1]});
  typename TestFixture::Set others = this->SetOf({objects[2], objects[3]});
  typename TestFixture::Set none;
  EXPECT_TRUE(some.is_subset_of(all) && all.is_superset_of(some));
  EXPECT_FALSE(all.is_subset_of(some) || some.is_superset_of(all));
  EXPECT_TRUE(all.is_subset_of(all) && none.is_subset_of(some) && all.is_superset_of(none));
  EXPECT_TRUE(some.is_disjoint_from(others) && none.is_disjoint_from(none));
  EXPECT_FALSE(all.is_disjoint_from(some) || some.is_disjoint_from(all));
  EXPECT_TRUE(all == all && all != some && some != others && none == none);
  objects[2] = nullptr;
  objects[3] = nullptr;
  EXPECT_TRUE(all == some && all.is_subset_of(some) && others == none);
  objects.clear();
  EXPECT_TRUE(all == none && all.is_disjoint_from(all));
}

TYPED_TEST(WeakSetTest, SnapshotsHoldAndClonesDoNot) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(10);
  typename TestFixture::Set set = this->SetOf(objects);
  objects[4] = nullptr;
  const typename TestFixture::Set clone = set.clone();
  EXPECT_TRUE(clone == set);
  set.erase(objects[5]);
  EXPECT_TRUE(clone.contains(objects[5]));
  {
    const std::vector<TypeParam> snapshot = set.snapshot();
    EXPECT_EQ(snapshot.size(), 8u);
    objects.clear();
    EXPECT_EQ(Tracked::live(), 8);
    EXPECT_EQ(this->IdsIn(clone).size(), 8u);
  }
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_TRUE(this->IdsIn(clone).empty());
}

TYPED_TEST(WeakSetTest, IterationMeetsChanges) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(100);
  typename TestFixture::Set set = this->SetOf(objects);
  std::multiset<int> visited;
  set.for_each([&](const TypeParam& member) {
    const int id = member->id();
    visited.insert(id);
    if (id >= 100) return;
    set.erase(objects[id]);  // itself, which it goes on holding
    EXPECT_EQ(member->id(), id);
    if (id % 10 == 0) objects[id + 1] = nullptr;
    if (id % 10 == 5) set.erase(objects[id + 1]);
    objects.push_back(HandleTraits<TypeParam>::Make(static_cast<int>(objects.size())));
    set.insert(objects.back());
  });
  for (int id = 0; id < 100; ++id) {
    const bool gone = id % 10 == 1 || id % 10 == 6;
    EXPECT_EQ(visited.count(id), gone ? 0u : 1u) << id;
  }
  for (const int id : visited) {
    EXPECT_LT(id, 100);  // what is added during the visit is not visited
    EXPECT_EQ(visited.count(id), 1u);
  }
  EXPECT_EQ(this->IdsIn(set).size(), 80u);
}

TYPED_TEST(WeakSetTest, AnIteratorHoldsItsMember) {
  TypeParam object = HandleTraits<TypeParam>::Make(1);
  typename TestFixture::Set set = this->SetOf({object});
  {
    auto iterator = set.begin();
    static_assert(std::input_iterator<decltype(iterator)>);
    object = nullptr;
    set.clear();
    EXPECT_EQ((*iterator)->id(), 1);
    EXPECT_EQ(++iterator, set.end());
    EXPECT_EQ(Tracked::live(), 0);
  }
}

TYPED_TEST(WeakSetTest, MovesAndSwaps) {
  std::vector<TypeParam> objects = MakeMany<TypeParam>(3);
  typename TestFixture::Set a = this->SetOf({objects[0], objects[1]});
  typename TestFixture::Set b = this->SetOf({objects[2]});
  swap(a, b);
  EXPECT_EQ(this->IdsIn(a), (std::set<int>{2}));
  a = std::move(b);
  EXPECT_EQ(this->IdsIn(a), (std::set<int>{0, 1}));
  typename TestFixture::Set c(std::move(a));
  EXPECT_TRUE(a.empty());  // NOLINT(bugprone-use-after-move): it is empty
  EXPECT_TRUE(a.insert(objects[2]).second);
  EXPECT_EQ(this->IdsIn(c), (std::set<int>{0, 1}));
  static_assert(!std::is_copy_constructible_v<typename TestFixture::Set>);
  static_assert(std::is_nothrow_move_constructible_v<typename TestFixture::Set>);
  static_assert(std::is_nothrow_move_assignable_v<typename TestFixture::Set>);
}

// Algebra on many members stops where memory runs out; neither set is damaged.
TYPED_TEST(WeakSetTest, SurvivesFailedAllocations) {
  const std::vector<TypeParam> objects = MakeMany<TypeParam>(60);
  const std::vector<TypeParam> first(objects.begin(), objects.begin() + 30);
  const typename TestFixture::Set other = this->SetOf(objects);
  typename TestFixture::Set set = this->SetOf(first);
  const auto is_as_it_was = [&] { ASSERT_TRUE(set == this->SetOf(first)); };
  EXPECT_GT(testing::FailEachAllocation([&] { (void)set.clone(); }, is_as_it_was), 2);
  EXPECT_GT(testing::FailEachAllocation([&] { (void)(set | other); }, is_as_it_was), 2);
  EXPECT_GT(testing::FailEachAllocation([&] { (void)(set & other); }, is_as_it_was), 2);
  EXPECT_GT(testing::FailEachAllocation([&] { (void)set.snapshot(); }, is_as_it_was), 0);
  EXPECT_GT(testing::FailEachAllocation([&] { set |= other; },
                                        [&] {
                                          set.CheckInvariantsForTesting();
                                          ASSERT_TRUE(set.is_subset_of(other));
                                          ASSERT_GE(set.size(), 30u);
                                        }),
            2);
  EXPECT_TRUE(set == other);
}

struct Pair {
  Tracked first;
  Tracked second;
};

// A Ref's member is the whole object, a std::shared_ptr's is the part.
TEST(WeakSetAliasTest, PartsOfOneObjectAreOneMemberByRef) {
  WeakSet<Tracked> set;
  Ref<Pair> owner = MakeRef<Pair>();
  const WeakRef<Pair> weak = owner;
  Ref<Tracked> first(owner, &owner->first);
  Ref<Tracked> second(owner, &owner->second);
  EXPECT_TRUE(set.insert(first).second);
  EXPECT_FALSE(set.insert(second).second);
  EXPECT_TRUE(set.contains(second));
  EXPECT_EQ(set.snapshot(), std::vector<Ref<Tracked>>{first});
  EXPECT_EQ(set.erase(second), 1u);
  EXPECT_TRUE(set.insert(second).second);
  owner = nullptr;
  first = nullptr;
  EXPECT_EQ(set.size(), 1u);
  second = nullptr;
  EXPECT_TRUE(weak.expired());
  EXPECT_TRUE(set.empty());
}

TEST(WeakSetAliasTest, PartsOfOneObjectAreMembersByThemselvesBySharedPtr) {
  WeakSet<std::shared_ptr<Tracked>> set;
  std::shared_ptr<Pair> owner = std::make_shared<Pair>();
  std::shared_ptr<Tracked> first(owner, &owner->first);
  std::shared_ptr<Tracked> second(owner, &owner->second);
  EXPECT_TRUE(set.insert(first).second);
  EXPECT_FALSE(set.contains(second));
  EXPECT_TRUE(set.insert(second).second);
  EXPECT_EQ(set.size(), 2u);
  // Another owner of the same address is another member.
  const std::shared_ptr<Tracked> elsewhere(std::make_shared<int>(), first.get());
  EXPECT_FALSE(set.contains(elsewhere));
  EXPECT_TRUE(set.insert(elsewhere).second);
  EXPECT_EQ(set.erase(first), 1u);
  EXPECT_TRUE(set.contains(second) && set.contains(elsewhere));
  owner = nullptr;
  first = nullptr;
  second = nullptr;
  EXPECT_EQ(set.purge(), 1u);
  EXPECT_EQ(set.size(), 1u);
  set.CheckInvariantsForTesting();
}

struct Listener {
  void OnChange() { ++changes; }
  int changes = 0;
};

TEST(WeakSetDocumentationTest, HeaderExample) {
  weakcache::Ref<Listener> listener = weakcache::MakeRef<Listener>();
  weakcache::WeakSet<Listener> others;
  others.insert(listener);

  weakcache::WeakSet<Listener> listeners;
  listeners.insert(listener);  // a weakcache::Ref<Listener>
  for (const auto& each : listeners) each->OnChange();
  EXPECT_EQ(listener->changes, 1);
  EXPECT_TRUE((listeners & others).contains(listener));
  listener.reset();  // gone from the set too
  EXPECT_TRUE(listeners.empty());
  weakcache::WeakSet<Listener> both = listeners & others;
  EXPECT_TRUE(both.empty());
}

TEST(WeakSetDeathTest, MisuseNamesTheCall) {
  WeakSet<Tracked> set;
  EXPECT_DEATH(set.insert(nullptr), "WeakSet::insert: the reference is null or owns nothing");
  Tracked unowned(1);
  EXPECT_DEATH(set.insert(Ref<Tracked>(Ref<Tracked>(), &unowned)), "owns nothing");
  WeakSet<std::shared_ptr<Tracked>> shared;
  EXPECT_DEATH(shared.insert(std::shared_ptr<Tracked>(std::shared_ptr<Tracked>(), &unowned)),
               "WeakSet::insert: the reference is null or owns nothing");
  const Ref<Tracked> object = MakeRef<Tracked>(1);
  set.insert(object);
  EXPECT_DEATH(set.erase_if([&](const Ref<Tracked>& member) { return set.erase(member) == 1; }),
               "WeakSet::erase_if: the condition has changed the container");
}

// Const operations on any threads while members expire.
TEST(WeakSetRaceTest, LookUpAgainstLastRelease) {
  WeakSet<Tracked> set;
  Ref<Tracked> member;
  const Ref<Tracked> other = MakeRef<Tracked>(0);
  set.insert(other);
  int met = 0;
  int missed = 0;
  const auto look = [&] {
    ASSERT_TRUE(set.contains(other));
    (void)set.size();
    (void)set.is_disjoint_from(set);
  };
  testing::Race(
      {testing::RaceRounds(10'000), {&met, &missed}},
      [&](int round) {
        member = MakeRef<Tracked>(round + 1);
        set.insert(member);
      },
      {[&] { member.reset(); }, look,
       [&] {
         const size_t members = set.snapshot().size();
         ASSERT_TRUE(members == 1 || members == 2);
         ++(members == 2 ? met : missed);
       }},
      [&](int) { ASSERT_EQ(set.size(), 1u); });
  EXPECT_GT(met, 0);
  EXPECT_GT(missed, 0);
  set.CheckInvariantsForTesting();
}

}  // namespace
}  // namespace weakcache
