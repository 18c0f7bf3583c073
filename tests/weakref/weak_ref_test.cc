// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/weak_ref.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <sstream>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocations;
using testing::SmallTracked;
using testing::Tracked;

template <typename T>
class WeakRefTest : public ::testing::Test {};
using Referents = ::testing::Types<SmallTracked, Tracked>;
TYPED_TEST_SUITE(WeakRefTest, Referents);

TYPED_TEST(WeakRefTest, LocksWhileTheReferentLives) {
  Ref<TypeParam> ref = MakeRef<TypeParam>(3);
  const WeakRef<TypeParam> weak = ref;
  EXPECT_FALSE(weak.expired());
  EXPECT_EQ(weak.lock(), ref);
  EXPECT_EQ(weak.use_count(), 1u);
  ref.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(weak.lock(), nullptr);
  EXPECT_EQ(weak.use_count(), 0u);
}

TYPED_TEST(WeakRefTest, DeducesTheReferentsType) {
  const Ref<TypeParam> ref = MakeRef<TypeParam>();
  const WeakRef weak = ref;
  static_assert(std::is_same_v<decltype(weak), const WeakRef<TypeParam>>);
  EXPECT_EQ(weak.lock(), ref);
}

TYPED_TEST(WeakRefTest, DoesNotKeepTheReferentAlive) {
  WeakRef<TypeParam> weak = MakeRef<TypeParam>(3);
  EXPECT_EQ(TypeParam::live(), 0);
  EXPECT_TRUE(weak.expired());
}

TYPED_TEST(WeakRefTest, FreesItsBlockInEitherOrder) {
  const int64_t before = LiveAllocations();
  {
    Ref<TypeParam> ref = MakeRef<TypeParam>(3);
    WeakRef<TypeParam> weak = ref;
    weak.reset();
    EXPECT_EQ(ref->id(), 3);
  }
  EXPECT_EQ(LiveAllocations(), before);
  {
    Ref<TypeParam> ref = MakeRef<TypeParam>(3);
    WeakRef<TypeParam> weak = ref;
    WeakRef<TypeParam> copy = weak;
    ref.reset();
    EXPECT_EQ(weak.lock(), nullptr);
    weak = WeakRef<TypeParam>();
    EXPECT_TRUE(copy.expired());
  }
  EXPECT_EQ(LiveAllocations(), before);
}

TYPED_TEST(WeakRefTest, ManyFailedLocksChangeNothing) {
  Ref<TypeParam> ref = MakeRef<TypeParam>(3);
  const WeakRef<TypeParam> weak = ref;
  ref.reset();
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(weak.lock(), nullptr);
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(weak.use_count(), 0u);
}

TYPED_TEST(WeakRefTest, CountsWeakReferences) {
  const Ref<TypeParam> ref = MakeRef<TypeParam>(3);
  EXPECT_EQ(ref.weak_count(), 0u);
  const WeakRef<TypeParam> first = ref;
  const WeakRef<TypeParam> second = first;
  EXPECT_EQ(ref.weak_count(), 2u);
  EXPECT_EQ(second.weak_count(), 2u);
  EXPECT_EQ(ref.watcher_count(), 0u);
  const ExpiryRegistration registration = OnExpire(ref, [] {});
  EXPECT_EQ(first.watcher_count(), 1u);
  EXPECT_EQ(first.weak_count(), 3u);
}

TYPED_TEST(WeakRefTest, PrintsTheAddressAlsoAfterDeath) {
  Ref<TypeParam> ref = MakeRef<TypeParam>(3);
  const WeakRef<TypeParam> weak = ref;
  std::ostringstream alive, dead;
  alive << weak;
  ref.reset();
  dead << weak;
  EXPECT_EQ(alive.str(), dead.str());
}

TEST(WeakRefDefaultTest, RefersToNothing) {
  const WeakRef<int> weak;
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(weak.lock(), nullptr);
  const WeakRef<int> of_null = Ref<int>();
  EXPECT_EQ(weak, of_null);
}

TEST(WeakRefIdentityTest, IsByOwnerAndStableAfterDeath) {
  Ref<std::pair<int, int>> owner = MakeRef<std::pair<int, int>>(1, 2);
  const WeakRef<std::pair<int, int>> whole = owner;
  const WeakRef<int> part = Ref<int>(owner, &owner->second);
  const WeakRef<int> other = MakeRef<int>(2);
  EXPECT_EQ(whole, part);
  EXPECT_NE(part, other);
  const size_t hash = part.owner_hash();
  const bool before = part < other;
  owner.reset();
  EXPECT_EQ(whole, part);
  EXPECT_NE(part, other);
  EXPECT_EQ(part.owner_hash(), hash);
  EXPECT_EQ(part < other, before);
}

TEST(WeakRefIdentityTest, CanBeAKey) {
  Ref<int> ref = MakeRef<int>(1);
  std::unordered_map<WeakRef<int>, int> unordered{{ref, 1}};
  std::map<WeakRef<int>, int> ordered{{ref, 2}};
  const WeakRef<int> weak = ref;
  ref.reset();
  EXPECT_EQ(unordered.at(weak), 1);
  EXPECT_EQ(ordered.at(weak), 2);
}

struct VirtualBase {
  virtual ~VirtualBase() = default;
  int value = 4;
};
struct VirtuallyDerived : virtual VirtualBase {
  char bytes[200];
};

// The conversion would read the dead object's table of virtual bases.
TEST(WeakRefConversionTest, ToAVirtualBaseIsSafeAfterDeath) {
  Ref<VirtuallyDerived> ref = MakeRef<VirtuallyDerived>();
  const WeakRef<VirtuallyDerived> weak = ref;
  const WeakRef<VirtualBase> alive = weak;
  EXPECT_EQ(alive.lock()->value, 4);
  ref.reset();
  const WeakRef<VirtualBase> dead = weak;
  EXPECT_TRUE(dead.expired());
  EXPECT_EQ(dead, weak);
}

TEST(WeakRefConversionTest, ForbiddenOnesDoNotCompile) {
  static_assert(std::is_convertible_v<Ref<int>, WeakRef<const int>>);
  static_assert(!std::is_convertible_v<WeakRef<const int>, WeakRef<int>>, "not away from const");
  static_assert(!std::is_convertible_v<WeakRef<int>, Ref<int>>, "only by lock()");
  static_assert(!std::is_convertible_v<WeakRef<int>, bool>, "ask expired(), better lock()");
  static_assert(sizeof(WeakRef<int>) == 2 * sizeof(void*));
}

// An upgrade against the last release gets the object whole, or nothing.
TEST(WeakRefRaceTest, LockAgainstLastRelease) {
  Ref<Tracked> ref;
  WeakRef<Tracked> first, second;
  std::atomic<int> locked{0}, expired{0};
  const auto lock = [&](WeakRef<Tracked>& weak, int& round) {
    if (const Ref<Tracked> strong = weak.lock()) {
      ASSERT_EQ(strong->id(), round);  // alive and whole
      ++locked;
    } else {
      ++expired;
    }
    weak.reset();
  };
  int round_now = 0;
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int round) {
        round_now = round;
        ref = MakeRef<Tracked>(round);
        first = ref;
        second = ref;
      },
      {[&] { ref.reset(); }, [&] { lock(first, round_now); }, [&] { lock(second, round_now); }},
      [&](int) { ASSERT_EQ(Tracked::live(), 0); });
  EXPECT_GT(locked, 0);
  EXPECT_GT(expired, 0);
}

// The upgrade comes after another thread has counted down to zero and before that thread sets the
// expired flag. All other references go next. The block must outlive the overtaken thread.
TEST(WeakRefRaceTest, UpgradeOutlivesTheReleaseThatItOvertakes) {
  const int64_t before = LiveAllocations();
  Ref<SmallTracked> ref;
  WeakRef<SmallTracked> first, second, third;
  const auto upgrade_twice = [](WeakRef<SmallTracked>& weak) {
    for (int i = 0; i < 2; ++i) weak.lock().reset();
    weak.reset();
  };
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int round) {
        ref = MakeRef<SmallTracked>(round);
        first = ref;
        second = ref;
        third = ref;
      },
      {[&] { ref.reset(); }, [&] { upgrade_twice(first); }, [&] { upgrade_twice(second); },
       [&] { upgrade_twice(third); }},
      [&](int) { ASSERT_EQ(SmallTracked::live(), 0); });
  EXPECT_EQ(LiveAllocations(), before);
}

}  // namespace
}  // namespace weakcache
