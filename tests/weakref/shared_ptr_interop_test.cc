// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/shared_ptr_interop.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocatedBytes;
using testing::LiveAllocations;
using testing::SmallTracked;
using testing::Tracked;

template <typename T>
bool SameOwner(const std::shared_ptr<T>& a, const std::shared_ptr<T>& b) {
  return !a.owner_before(b) && !b.owner_before(a);
}

struct Image {
  Image(int width, int height) : pixels(width * height) {}
  int pixels;
};

namespace library {
std::shared_ptr<Image> drawn;
void Draw(std::shared_ptr<Image> image) { drawn = std::move(image); }
std::shared_ptr<Image> Canvas() { return std::make_shared<Image>(2, 2); }
}  // namespace library

TEST(SharedPtrInteropTest, HeaderExample) {
  Ref<Image> image = MakeRef<Image>(3, 4);
  std::shared_ptr<Image> shared = ToSharedPtr(image);
  library::Draw(shared);
  const Ref<Image> canvas = FromSharedPtr(library::Canvas());
  EXPECT_EQ(canvas->pixels, 4);
  shared.reset();
  image.reset();
  EXPECT_EQ(library::drawn->pixels, 12);
  library::drawn.reset();
}

template <typename T>
class SharedPtrInteropSizesTest : public ::testing::Test {};
using Referents = ::testing::Types<SmallTracked, Tracked, const Tracked>;
TYPED_TEST_SUITE(SharedPtrInteropSizesTest, Referents);

TYPED_TEST(SharedPtrInteropSizesTest, SharedPtrKeepsTheReferentAlive) {
  const int64_t before = LiveAllocations();
  Ref<TypeParam> ref = MakeRef<TypeParam>(7);
  TypeParam* const address = ref.get();
  std::shared_ptr<TypeParam> shared = ToSharedPtr(ref);
  EXPECT_EQ(shared.get(), address);
  ref.reset();
  EXPECT_EQ(shared->id(), 7);
  EXPECT_EQ(TypeParam::live(), 1);
  shared.reset();
  EXPECT_EQ(TypeParam::live(), 0);
  EXPECT_EQ(LiveAllocations(), before);
}

TYPED_TEST(SharedPtrInteropSizesTest, RefKeepsTheSharedPtrsObjectAlive) {
  const int64_t before = LiveAllocations();
  std::shared_ptr<TypeParam> shared = std::make_shared<TypeParam>(7);
  TypeParam* const address = shared.get();
  Ref<TypeParam> ref = FromSharedPtr(shared);
  EXPECT_EQ(ref.get(), address);
  shared.reset();
  EXPECT_EQ(ref->id(), 7);
  EXPECT_EQ(TypeParam::live(), 1);
  ref.reset();
  EXPECT_EQ(TypeParam::live(), 0);
  EXPECT_EQ(LiveAllocations(), before);
}

TYPED_TEST(SharedPtrInteropSizesTest, FailedAllocationChangesNothing) {
  Ref<TypeParam> ref = MakeRef<TypeParam>(1);
  std::shared_ptr<TypeParam> shared = std::make_shared<TypeParam>(2);
  TypeParam* const object = ref.get();
  TypeParam* const shared_object = shared.get();
  const int64_t before = LiveAllocations();
  const auto unchanged = [&] {
    EXPECT_EQ(ref.get(), object);
    EXPECT_EQ(ref.use_count(), 1u);
    EXPECT_EQ(shared.get(), shared_object);
    EXPECT_EQ(shared.use_count(), 1);
    EXPECT_EQ(LiveAllocations(), before);
  };
  std::shared_ptr<TypeParam> made_shared;
  EXPECT_EQ(testing::FailEachAllocation([&] { made_shared = ToSharedPtr(ref); }, unchanged), 1);
  made_shared.reset();
  EXPECT_EQ(
      testing::FailEachAllocation([&] { made_shared = ToSharedPtr(std::move(ref)); }, unchanged),
      1);
  EXPECT_EQ(made_shared.get(), object);
  Ref<TypeParam> made;
  ref = FromSharedPtr(made_shared);
  made_shared.reset();
  EXPECT_EQ(testing::FailEachAllocation([&] { made = FromSharedPtr(shared); }, unchanged), 1);
  made.reset();
  EXPECT_EQ(
      testing::FailEachAllocation([&] { made = FromSharedPtr(std::move(shared)); }, unchanged), 1);
  EXPECT_EQ(made.get(), shared_object);
}

TEST(SharedPtrInteropTest, MovingTakesTheArgument) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  std::shared_ptr<Tracked> shared = ToSharedPtr(std::move(ref));
  EXPECT_EQ(ref, nullptr);  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(ref.use_count(), 0u);
  ref = FromSharedPtr(std::move(shared));
  EXPECT_EQ(shared, nullptr);  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(ref.use_count(), 1u);
  std::shared_ptr<Tracked> original = std::make_shared<Tracked>(2);
  const Ref<Tracked> of_original = FromSharedPtr(std::move(original));
  EXPECT_EQ(original, nullptr);  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(of_original->id(), 2);
}

TEST(SharedPtrInteropTest, NullGivesNull) {
  const int64_t before = LiveAllocations();
  const std::shared_ptr<int> shared = ToSharedPtr(Ref<int>());
  EXPECT_EQ(shared, nullptr);
  EXPECT_EQ(shared.use_count(), 0);
  const Ref<int> ref = FromSharedPtr(std::shared_ptr<int>());
  EXPECT_EQ(ref, nullptr);
  EXPECT_EQ(ref.use_count(), 0u);
  EXPECT_EQ(LiveAllocations(), before);
}

// libstdc++ destroys the deleter only when the last weak_ptr goes.
TEST(SharedPtrLifetimeTest, ReferentGoesAtTheLastReleaseAlthoughAWeakPtrRemains) {
  using Large = std::array<char, 1 << 20>;
  const int64_t before = LiveAllocatedBytes();
  std::shared_ptr<Large> shared = ToSharedPtr(MakeRef<Large>());
  const std::weak_ptr<Large> weak = shared;
  shared.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_LE(LiveAllocatedBytes() - before, 128);
}

TEST(SharedPtrLifetimeTest, ObjectGoesAtTheLastReleaseAlthoughAWeakRefRemains) {
  using Large = std::array<char, 1 << 20>;
  const int64_t before = LiveAllocatedBytes();
  Ref<Large> ref = FromSharedPtr(std::make_shared<Large>());
  const WeakRef<Large> weak = ref;
  ref.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_LE(LiveAllocatedBytes() - before, 128);
}

TEST(SharedPtrLifetimeTest, WeakReferencesSeeTheirOwnFamily) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  std::shared_ptr<Tracked> shared = ToSharedPtr(ref);
  const WeakRef<Tracked> weak_ref = ref;
  const std::weak_ptr<Tracked> weak_ptr = shared;
  shared.reset();
  EXPECT_TRUE(weak_ptr.expired());
  EXPECT_FALSE(weak_ref.expired());
  shared = ToSharedPtr(ref);
  EXPECT_TRUE(weak_ptr.expired());  // of another family
  ref.reset();
  EXPECT_FALSE(weak_ref.expired());  // the shared_ptr holds a Ref
  shared.reset();
  EXPECT_TRUE(weak_ref.expired());
}

TEST(SharedPtrLifetimeTest, WeakReferencesToASharedPtrsObjectSeeTheirOwnFamily) {
  std::shared_ptr<Tracked> shared = std::make_shared<Tracked>(1);
  Ref<Tracked> ref = FromSharedPtr(shared);
  const WeakRef<Tracked> weak_ref = ref;
  const std::weak_ptr<Tracked> weak_ptr = shared;
  int told = 0;
  const ExpiryRegistration registration = OnExpire(ref, [&] { ++told; });
  ref.reset();
  EXPECT_TRUE(weak_ref.expired());
  EXPECT_EQ(told, 1);
  EXPECT_EQ(Tracked::live(), 1);
  ref = FromSharedPtr(shared);
  EXPECT_TRUE(weak_ref.expired());  // of another family
  shared.reset();
  EXPECT_FALSE(weak_ptr.expired());  // the Ref holds a shared_ptr
  ref.reset();
  EXPECT_TRUE(weak_ptr.expired());
}

TEST(SharedPtrLifetimeTest, AFamilyCountsAsOneOnTheOtherSide) {
  const Ref<int> ref = MakeRef<int>(1);
  const std::shared_ptr<int> shared = ToSharedPtr(ref);
  const std::shared_ptr<int> copy = shared;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_EQ(ref.use_count(), 2u);
  EXPECT_EQ(shared.use_count(), 2);
  const std::shared_ptr<int> second = ToSharedPtr(ref);
  EXPECT_EQ(ref.use_count(), 3u);
  EXPECT_EQ(second.use_count(), 1);
  EXPECT_FALSE(SameOwner(shared, second));
  EXPECT_EQ(shared, second);
}

TEST(SharedPtrLifetimeTest, AFamilyOfRefsCountsAsOneSharedPtr) {
  const std::shared_ptr<int> shared = std::make_shared<int>(1);
  const Ref<int> ref = FromSharedPtr(shared);
  const Ref<int> copy = ref;
  EXPECT_EQ(shared.use_count(), 2);
  EXPECT_EQ(ref.use_count(), 2u);
  const Ref<int> second = FromSharedPtr(shared);
  EXPECT_EQ(shared.use_count(), 3);
  EXPECT_FALSE(ref.owner_equal(second));
  EXPECT_EQ(ref, second);
}

TEST(SharedPtrRoundTripTest, SharedPtrComesBack) {
  const std::shared_ptr<int> shared = std::make_shared<int>(1);
  Ref<int> ref = FromSharedPtr(shared);
  const WeakRef<int> weak = ref;
  const int64_t before = LiveAllocations();
  const std::shared_ptr<int> back = ToSharedPtr(std::move(ref));
  EXPECT_EQ(LiveAllocations() - before, 0);
  EXPECT_EQ(back, shared);
  EXPECT_TRUE(SameOwner(back, shared));
  EXPECT_EQ(shared.use_count(), 2);
  EXPECT_TRUE(weak.expired());  // the result does not hold the family in between
}

#ifdef __cpp_rtti
TEST(SharedPtrRoundTripTest, RefComesBack) {
  const Ref<int> ref = MakeRef<int>(1);
  std::shared_ptr<const int> shared = ToSharedPtr(ref);
  const std::weak_ptr<const int> weak = shared;
  const int64_t before = LiveAllocations();
  const Ref<const int> back = FromSharedPtr(std::move(shared));
  EXPECT_EQ(LiveAllocations() - before, 0);
  EXPECT_EQ(back, ref);
  EXPECT_TRUE(back.owner_equal(ref));
  EXPECT_EQ(ref.use_count(), 2u);
  EXPECT_TRUE(weak.expired());  // the result does not hold the family in between
}
#endif

struct Base {
  virtual ~Base() = default;
  int64_t base = 1;
};
struct Other {
  virtual ~Other() = default;
  int64_t other = 2;
};
struct Derived : Base, Other {
  Tracked tracked;
};

TEST(SharedPtrRoundTripTest, WorksAfterConversionsAndThroughParts) {
  const std::shared_ptr<Derived> shared = std::make_shared<Derived>();
  const Ref<Other> other = FromSharedPtr(shared);
  EXPECT_EQ(ToSharedPtr(other), shared);
  const Ref<int64_t> part(other, &other->other);
  const std::shared_ptr<int64_t> shared_part = ToSharedPtr(part);
  EXPECT_EQ(shared_part.get(), &shared->other);
  EXPECT_EQ(shared.use_count(), 3);

  const Ref<Derived> ref = MakeRef<Derived>();
  const std::shared_ptr<Other> shared_other = ToSharedPtr(ref);
  const Ref<Other> back = FromSharedPtr(shared_other);
  EXPECT_EQ(back, static_cast<Ref<Other>>(ref));
#ifdef __cpp_rtti
  EXPECT_TRUE(back.owner_equal(ref));
#endif
}

TEST(SharedPtrAliasTest, AliasKeepsItsPointerAndItsOwner) {
  Ref<Derived> ref = MakeRef<Derived>();
  std::shared_ptr<int64_t> shared = ToSharedPtr(Ref<int64_t>(std::move(ref), &ref->base));
  EXPECT_EQ(*shared, 1);
  EXPECT_EQ(Tracked::live(), 1);
  shared.reset();
  EXPECT_EQ(Tracked::live(), 0);

  std::shared_ptr<Derived> owner = std::make_shared<Derived>();
  Ref<int64_t> part = FromSharedPtr(std::shared_ptr<int64_t>(owner, &owner->other));
  owner.reset();
  EXPECT_EQ(*part, 2);
  EXPECT_EQ(Tracked::live(), 1);
  part.reset();
  EXPECT_EQ(Tracked::live(), 0);
}

TEST(SharedPtrAliasTest, AliasMayPointNowhere) {
  bool deleted = false;
  std::shared_ptr<int> shared(static_cast<int*>(nullptr), [&](int*) { deleted = true; });
  Ref<int> ref = FromSharedPtr(std::move(shared));
  EXPECT_EQ(ref, nullptr);
  EXPECT_EQ(ref.use_count(), 1u);
  EXPECT_EQ(ToSharedPtr(ref).use_count(), 2);
  EXPECT_FALSE(deleted);
  ref.reset();
  EXPECT_TRUE(deleted);
}

TEST(SharedPtrAliasDeathTest, AliasWithoutAnOwnerIsRefused) {
  int value = 1;
  const Ref<int> ref(Ref<int>(), &value);
  EXPECT_DEATH((void)ToSharedPtr(ref), "ToSharedPtr: the reference owns nothing");
  const std::shared_ptr<int> shared(std::shared_ptr<int>(), &value);
  EXPECT_DEATH((void)FromSharedPtr(shared), "FromSharedPtr: the shared_ptr owns nothing");
}

TEST(SharedPtrTypesTest, VoidAndArrays) {
  Ref<void> ref = FromSharedPtr(std::shared_ptr<void>(std::make_shared<Tracked>(1)));
  std::shared_ptr<void> shared = ToSharedPtr(Ref<void>(MakeRef<Tracked>(2)));
  EXPECT_EQ(Tracked::live(), 2);
  ref = nullptr;
  shared = nullptr;
  EXPECT_EQ(Tracked::live(), 0);

  Ref<Tracked[]> array = FromSharedPtr(std::shared_ptr<Tracked[]>(new Tracked[3]));
  std::shared_ptr<Tracked[]> shared_array = ToSharedPtr(MakeRef<Tracked[]>(4));
  EXPECT_EQ(Tracked::live(), 7);
  EXPECT_EQ(array[2].id(), shared_array[3].id());
  EXPECT_EQ(ToSharedPtr(array).get(), array.get());
  array = nullptr;
  shared_array = nullptr;
  EXPECT_EQ(Tracked::live(), 0);
}

struct KnowsSharedPtr : std::enable_shared_from_this<KnowsSharedPtr> {};

TEST(SharedPtrTypesTest, DoesNotEnableSharedFromThis) {
  const Ref<KnowsSharedPtr> ref = MakeRef<KnowsSharedPtr>();
  const std::shared_ptr<KnowsSharedPtr> shared = ToSharedPtr(ref);
  EXPECT_TRUE(shared->weak_from_this().expired());
}

template <typename T>
concept HasSharedPtr = requires(T t) {
  ToSharedPtr(t);
};

TEST(SharedPtrTypesTest, ForbiddenUsesDoNotCompile) {
  static_assert(!std::is_convertible_v<Ref<int>, std::shared_ptr<int>>, "only by name");
  static_assert(!std::is_convertible_v<std::shared_ptr<int>, Ref<int>>, "only by name");
  static_assert(!std::is_constructible_v<Ref<int>, std::shared_ptr<int>>, "only by name");
  static_assert(!HasSharedPtr<WeakRef<int>> && HasSharedPtr<Ref<int>>, "lock() first");
  static_assert(std::is_same_v<decltype(ToSharedPtr(Ref<const int>())), std::shared_ptr<const int>>,
                "const stays");
  static_assert(
      std::is_same_v<decltype(FromSharedPtr(std::shared_ptr<const int>())), Ref<const int>>);
}

// An upgrade may fail only after the last strong references of its family have begun to go.
struct Outcomes {
  std::atomic<bool> releasing{false};
  std::atomic<int> locked{0}, expired{0};

  template <typename Strong>
  void Record(const Strong& strong, int round) {
    if (strong != nullptr) {
      ASSERT_EQ(strong->id(), round);  // alive and whole
      ++locked;
    } else {
      ASSERT_TRUE(releasing);
      ++expired;
    }
  }
};

// `make` sets a Ref and a shared_ptr to one object. Both go at once, while both sides upgrade and
// cross over.
template <typename Make>
void RaceLastReleasesAgainstUpgrades(Make make) {
  const int rounds = testing::RaceRounds(100'000);
  const int64_t before = LiveAllocations();
  Ref<Tracked> ref;
  std::shared_ptr<Tracked> shared;
  WeakRef<Tracked> weak_ref;
  std::weak_ptr<Tracked> weak_ptr;
  Outcomes refs, shared_ptrs;
  int round_now = 0;
  const auto initialise = [&](int round) {
    round_now = round;
    refs.releasing = false;
    shared_ptrs.releasing = false;
    make(round, ref, shared);
    weak_ref = ref;
    weak_ptr = shared;
  };
  const auto drop_ref = [&] {
    refs.releasing = true;
    ref.reset();
  };
  const auto drop_shared_ptr = [&] {
    shared_ptrs.releasing = true;
    shared.reset();
  };
  const auto upgrade_ref = [&] {
    Ref<Tracked> strong = weak_ref.lock();
    refs.Record(strong, round_now);
    const std::shared_ptr<Tracked> crossed = ToSharedPtr(std::move(strong));
    ASSERT_TRUE(crossed == nullptr || crossed->id() == round_now);
  };
  const auto upgrade_shared_ptr = [&] {
    std::shared_ptr<Tracked> strong = weak_ptr.lock();
    shared_ptrs.Record(strong, round_now);
    const Ref<Tracked> crossed = FromSharedPtr(std::move(strong));
    ASSERT_TRUE(crossed == nullptr || crossed->id() == round_now);
  };
  testing::Race(rounds, initialise, {drop_ref, drop_shared_ptr, upgrade_ref, upgrade_shared_ptr},
                [&](int) {
                  ASSERT_EQ(Tracked::live(), 0);
                  ASSERT_TRUE(weak_ref.expired() && weak_ptr.expired());
                });
  weak_ref.reset();
  weak_ptr.reset();
  EXPECT_EQ(LiveAllocations(), before);
  EXPECT_EQ(refs.locked + refs.expired, rounds);
  EXPECT_EQ(shared_ptrs.locked + shared_ptrs.expired, rounds);
  ::testing::Test::RecordProperty("ref_upgrades_failed", refs.expired);
  ::testing::Test::RecordProperty("shared_ptr_upgrades_failed", shared_ptrs.expired);
}

TEST(SharedPtrRaceTest, ObjectOwnedByRefs) {
  RaceLastReleasesAgainstUpgrades(
      [](int round, Ref<Tracked>& ref, std::shared_ptr<Tracked>& shared) {
        ref = MakeRef<Tracked>(round);
        shared = ToSharedPtr(ref);
      });
}

TEST(SharedPtrRaceTest, ObjectOwnedBySharedPtrs) {
  RaceLastReleasesAgainstUpgrades(
      [](int round, Ref<Tracked>& ref, std::shared_ptr<Tracked>& shared) {
        shared = std::make_shared<Tracked>(round);
        ref = FromSharedPtr(shared);
      });
}

}  // namespace
}  // namespace weakcache
