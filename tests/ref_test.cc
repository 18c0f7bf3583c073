#include "weakref/ref.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocatedBytes;
using testing::LiveAllocations;
using testing::SmallTracked;
using testing::Tracked;

template <typename T>
class RefTest : public ::testing::Test {};
using Referents = ::testing::Types<SmallTracked, Tracked>;
TYPED_TEST_SUITE(RefTest, Referents);

TYPED_TEST(RefTest, CopiesShareTheReferentAndTheLastOneDestroysIt) {
  Ref<TypeParam> first = MakeRef<TypeParam>(7);
  EXPECT_EQ(first->id(), 7);
  EXPECT_EQ(first.use_count(), 1u);
  Ref<TypeParam> second = first;
  EXPECT_EQ(second, first);
  EXPECT_EQ(first.use_count(), 2u);
  first.reset();
  EXPECT_EQ(first, nullptr);
  EXPECT_EQ(TypeParam::live(), 1);
  second = nullptr;
  EXPECT_EQ(TypeParam::live(), 0);
}

TYPED_TEST(RefTest, MovingTransfersAndLeavesNull) {
  Ref<TypeParam> from = MakeRef<TypeParam>(1);
  TypeParam* const address = from.get();
  Ref<TypeParam> to = std::move(from);
  EXPECT_EQ(from, nullptr);  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(to.get(), address);
  EXPECT_EQ(to.use_count(), 1u);
}

TYPED_TEST(RefTest, AssigningToItselfKeepsTheReferent) {
  Ref<TypeParam> ref = MakeRef<TypeParam>(1);
  Ref<TypeParam>& same = ref;
  ref = same;
  EXPECT_EQ(ref->id(), 1);
  ref = std::move(same);
  EXPECT_EQ(ref->id(), 1);
}

TYPED_TEST(RefTest, AssigningReleasesTheFormerReferentAfterTheChange) {
  Ref<TypeParam> ref = MakeRef<TypeParam>(1);
  ref = MakeRef<TypeParam>(2);
  EXPECT_EQ(TypeParam::live(), 1);
  EXPECT_EQ(ref->id(), 2);
}

TYPED_TEST(RefTest, AllocatesOnceForASmallReferentAndTwiceForALargeOne) {
  const int64_t before = LiveAllocations();
  const Ref<TypeParam> ref = MakeRef<TypeParam>(1);
  EXPECT_EQ(LiveAllocations() - before, sizeof(TypeParam) <= 24 ? 1 : 2);
}

TYPED_TEST(RefTest, FailedAllocationLeavesNothingBehind) {
  const int64_t before = LiveAllocations();
  Ref<TypeParam> ref;
  const int failures = testing::FailEachAllocation([&] { ref = MakeRef<TypeParam>(1); },
                                                   [&] {
                                                     EXPECT_EQ(LiveAllocations(), before);
                                                     EXPECT_EQ(TypeParam::live(), 0);
                                                   });
  EXPECT_EQ(failures, sizeof(TypeParam) <= 24 ? 1 : 2);
  EXPECT_EQ(ref->id(), 1);
}

struct Base {
  virtual ~Base() = default;
  int base = 1;
};
struct Derived : Base {
  explicit Derived(bool* destroyed = nullptr) : destroyed(destroyed) {}
  ~Derived() override {
    if (destroyed != nullptr) *destroyed = true;
  }
  bool* destroyed;
};

TEST(RefConversionTest, GoesUpTheHierarchyAndToConst) {
  bool destroyed = false;
  Ref<const Base> base = MakeRef<Derived>(&destroyed);
  EXPECT_EQ(base->base, 1);
  base.reset();
  EXPECT_TRUE(destroyed);
}

TEST(RefConversionTest, ForbiddenOnesDoNotCompile) {
  static_assert(!std::is_convertible_v<Ref<Base>, Ref<Derived>>, "not down");
  static_assert(!std::is_convertible_v<Ref<const int>, Ref<int>>, "not away from const");
  static_assert(!std::is_convertible_v<Ref<int>, Ref<long>>, "not between unrelated types");
  static_assert(!std::is_constructible_v<Ref<int>, int*>, "no second owner for a plain pointer");
  static_assert(!std::is_convertible_v<Ref<int>, bool>, "only explicitly");
  static_assert(std::is_nothrow_move_constructible_v<Ref<int>>);
  static_assert(sizeof(Ref<int>) == 2 * sizeof(void*));
}

TEST(RefConversionTest, AliasKeepsItsOwnerAlive) {
  Ref<std::pair<Tracked, int>> owner = MakeRef<std::pair<Tracked, int>>();
  owner->second = 5;
  Ref<int> part(owner, &owner->second);
  EXPECT_TRUE(part.owner_equal(owner));
  owner.reset();
  EXPECT_EQ(Tracked::live(), 1);
  EXPECT_EQ(*part, 5);
  part.reset();
  EXPECT_EQ(Tracked::live(), 0);
}

TEST(RefConversionTest, WorksWithIncompleteTypes) {
  struct Incomplete;
  Ref<Incomplete> ref;
  WeakRef<Incomplete> weak = ref;
  EXPECT_EQ(ref, nullptr);
  EXPECT_TRUE(weak.expired());
}

TEST(RefComparisonTest, OrdersAndHashesByAddress) {
  const Ref<int> a = MakeRef<int>(1);
  const Ref<int> b = MakeRef<int>(1);
  const Ref<const int> same = a;
  EXPECT_EQ(a, same);
  EXPECT_NE(a, b);
  EXPECT_EQ(a < b, a.get() < b.get());
  EXPECT_EQ((std::unordered_set<Ref<int>>{a, b, a}).size(), 2u);
  EXPECT_EQ((std::set<Ref<int>>{a, b, a}).size(), 2u);
}

struct alignas(256) OverAligned {
  char bytes[256];
};

TEST(MakeRefTest, RespectsAlignment) {
  std::vector<Ref<OverAligned>> refs;
  for (int i = 0; i < 8; ++i) {
    refs.push_back(MakeRef<OverAligned>());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(refs.back().get()) % 256, 0u);
  }
}

struct Throwing {
  explicit Throwing(const char* message) { throw std::string(message); }
  char bytes[100];
};

TEST(MakeRefTest, ThrowingConstructorLeavesNothingBehind) {
  const int64_t before = LiveAllocations();
  EXPECT_THROW((void)MakeRef<Throwing>("no"), std::string);
  EXPECT_EQ(LiveAllocations(), before);
}

struct Link {
  Ref<Link> next;
};

void DestroyLongChain() {
  Ref<Link> head;
  for (int i = 0; i < 1'000'000; ++i) head = MakeRef<Link>(Link{std::move(head)});
  head.reset();
}

TEST(RefDestructionTest, LongChainTakesNoDeepStack) {
  const int64_t before = LiveAllocations();
  DestroyLongChain();
  EXPECT_EQ(LiveAllocations(), before);
}

struct Tree {
  Ref<Tree> left, right;
};

Ref<Tree> MakeTree(int depth) {
  if (depth == 0) return nullptr;
  return MakeRef<Tree>(Tree{MakeTree(depth - 1), MakeTree(depth - 1)});
}

TEST(RefDestructionTest, EveryNodeOfADeepTreeIsDestroyed) {
  const int64_t before = LiveAllocations();
  // A comb: deeper than destructions may nest, with a bushy tree at each tooth.
  Ref<Tree> comb;
  for (int i = 0; i < 200; ++i) comb = MakeRef<Tree>(Tree{std::move(comb), MakeTree(5)});
  comb.reset();
  EXPECT_EQ(LiveAllocations(), before);
}

struct SeesItself {
  ~SeesItself() { *expired = weak.expired() && weak.lock() == nullptr && weak.use_count() == 0; }
  WeakRef<SeesItself> weak;
  bool* expired;
};

TEST(RefDestructionTest, DestructorFindsItselfExpired) {
  bool expired = false;
  Ref<SeesItself> ref = MakeRef<SeesItself>(SeesItself{{}, &expired});
  ref->weak = ref;
  ref.reset();
  EXPECT_TRUE(expired);
}

// Pain: make_shared memory pinned by weak pointers.
TEST(RefMemoryTest, LargeReferentsMemoryGoesBackAtTheLastStrongRelease) {
  struct Large {
    char bytes[64 << 20];
  };
  const int64_t before = LiveAllocatedBytes();
  Ref<Large> ref = MakeRef<Large>();
  const WeakRef<Large> weak = ref;
  EXPECT_GE(LiveAllocatedBytes() - before, int64_t{64} << 20);
  ref.reset();
  EXPECT_LE(LiveAllocatedBytes() - before, 128);
}

TEST(RefDeathTest, DereferencingNullNamesTheCall) {
  const Ref<std::string> null;
  EXPECT_DEATH((void)*null, "Ref::operator\\*: the reference is null");
  EXPECT_DEATH((void)null->size(), "Ref::operator->: the reference is null");
}

// Both drop the last two references at once: exactly one destroys.
TEST(RefRaceTest, LastReleaseAgainstLastRelease) {
  Ref<Tracked> a, b, c;
  testing::Race(
      100'000,
      [&](int round) {
        a = MakeRef<Tracked>(round);
        b = a;
        c = a;
      },
      {[&] { a.reset(); }, [&] { b.reset(); }, [&] { c.reset(); }},
      [&](int) { ASSERT_EQ(Tracked::live(), 0); });
}

}  // namespace
}  // namespace weakcache
