// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/enable_ref_from_this.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocatedBytes;
using testing::LiveAllocations;

// The example of the header.
class Download : public EnableRefFromThis<Download> {
 public:
  std::function<void()> OnTimeout() {
    return [weak = weak_from_this()] {
      if (Ref<Download> self = weak.lock()) self->Cancel();
    };
  }
  void Cancel() { ++cancelled; }
  inline static int cancelled = 0;
};

TEST(EnableRefFromThisTest, HeaderExample) {
  Download::cancelled = 0;
  Ref<Download> download = MakeRef<Download>();
  const std::function<void()> on_timeout = download->OnTimeout();
  on_timeout();
  EXPECT_EQ(Download::cancelled, 1);
  download.reset();
  on_timeout();
  EXPECT_EQ(Download::cancelled, 1);
}

template <int kBytes>
struct Node : EnableRefFromThis<Node<kBytes>> {
  char bytes[kBytes] = {};
};

// A referent beside its counts, and one with an allocation of its own.
template <typename T>
class EnableRefFromThisSizesTest : public ::testing::Test {};
using Nodes = ::testing::Types<Node<8>, Node<200>, const Node<8>, const Node<200>>;
TYPED_TEST_SUITE(EnableRefFromThisSizesTest, Nodes);

TYPED_TEST(EnableRefFromThisSizesTest, GivesAReferenceThatCounts) {
  Ref<TypeParam> ref = MakeRef<TypeParam>();
  TypeParam& node = *ref;
  Ref<TypeParam> self = node.ref_from_this();
  EXPECT_EQ(self, ref);
  EXPECT_TRUE(self.owner_equal(ref));
  EXPECT_EQ(ref.use_count(), 2u);
  ref.reset();
  EXPECT_EQ(&*self, &node);
  const WeakRef<TypeParam> weak = node.weak_from_this();
  EXPECT_EQ(weak.lock(), self);
  self.reset();
  EXPECT_TRUE(weak.expired());
}

TYPED_TEST(EnableRefFromThisSizesTest, TheLinkIsNoLeak) {
  const int64_t before = LiveAllocations();
  Ref<TypeParam> ref = MakeRef<TypeParam>();
  EXPECT_EQ(ref.weak_count(), 1u);  // its own
  EXPECT_EQ(LiveAllocations() - before, sizeof(TypeParam) <= 24 ? 1 : 2);
  ref.reset();
  EXPECT_EQ(LiveAllocations(), before);
}

TYPED_TEST(EnableRefFromThisSizesTest, FailedAllocationLeavesNothingBehind) {
  const int64_t before = LiveAllocations();
  Ref<TypeParam> ref;
  const int failures = testing::FailEachAllocation([&] { ref = MakeRef<TypeParam>(); },
                                                   [&] { EXPECT_EQ(LiveAllocations(), before); });
  EXPECT_EQ(failures, sizeof(TypeParam) <= 24 ? 1 : 2);
  EXPECT_EQ(ref->ref_from_this(), ref);
}

TEST(EnableRefFromThisTest, MemoryOfALargeReferentGoesBackAtTheLastRelease) {
  using Large = Node<1 << 20>;
  const int64_t before = LiveAllocatedBytes();
  Ref<Large> ref = MakeRef<Large>();
  const WeakRef<Large> weak = ref->weak_from_this();
  ref.reset();
  EXPECT_LE(LiveAllocatedBytes() - before, 128);
}

TEST(EnableRefFromThisTest, ConstObjectGivesReferencesToConst) {
  const Ref<Download> ref = MakeRef<Download>();
  const Download& constant = *ref;
  static_assert(std::is_same_v<decltype(constant.ref_from_this()), Ref<const Download>>);
  static_assert(std::is_same_v<decltype(constant.weak_from_this()), WeakRef<const Download>>);
  static_assert(std::is_same_v<decltype(ref->ref_from_this()), Ref<Download>>);
  EXPECT_EQ(constant.ref_from_this(), ref);
  EXPECT_EQ(constant.weak_from_this().lock(), ref);
}

struct Before {
  virtual ~Before() = default;
  int64_t before = 1;
};
struct Shape : EnableRefFromThis<Shape> {
  virtual ~Shape() = default;
  int64_t area = 4;
};
struct Circle : Before, Shape {};  // the base is not at the start

TEST(EnableRefFromThisTest, LinksThroughAClassBetween) {
  Ref<Circle> circle = MakeRef<Circle>();
  const Ref<Shape> shape = circle->ref_from_this();
  EXPECT_EQ(shape, static_cast<Ref<Shape>>(circle));
  EXPECT_EQ(shape->area, 4);
  EXPECT_TRUE(shape.owner_equal(circle));
}

TEST(EnableRefFromThisTest, LinksWhatIsAdoptedOrAllocated) {
  const Ref<Shape> adopted = AdoptRef(std::unique_ptr<Shape>(new Circle));
  EXPECT_EQ(adopted->ref_from_this(), adopted);
  const Ref<Circle> allocated = AllocateRef<Circle>(std::allocator<char>());
  EXPECT_EQ(allocated->ref_from_this(), static_cast<Ref<Shape>>(allocated));
}

TEST(EnableRefFromThisTest, ElementsOfAnArrayAreNotLinked) {
  const Ref<Download[]> downloads = MakeRef<Download[]>(2);
  EXPECT_TRUE(downloads[0].weak_from_this().expired());
  EXPECT_EQ(downloads.weak_count(), 0u);
}

struct Lent {
  template <typename T>
  void operator()(T*) const {}
};

TEST(EnableRefFromThisTest, TheFirstOwnerCountsWhileItIsThere) {
  Download download;
  Ref<Download> first = AdoptRef(std::unique_ptr<Download, Lent>(&download));
  Ref<Download> second = AdoptRef(std::unique_ptr<Download, Lent>(&download));
  EXPECT_TRUE(download.weak_from_this().owner_equal(first));
  second.reset();
  EXPECT_TRUE(download.ref_from_this().owner_equal(first));
  first.reset();
  EXPECT_TRUE(download.weak_from_this().expired());
  first = AdoptRef(std::unique_ptr<Download, Lent>(&download));
  EXPECT_TRUE(download.ref_from_this().owner_equal(first));
}

TEST(EnableRefFromThisTest, RefersToNothingWithoutAnOwner) {
  Download download;
  EXPECT_TRUE(download.weak_from_this().expired());
  EXPECT_TRUE(download.weak_from_this().owner_equal(WeakRef<Download>()));
}

TEST(EnableRefFromThisTest, CopyingAndAssigningLeaveTheLinkAlone) {
  const Ref<Download> original = MakeRef<Download>();
  Download copy = *original;
  EXPECT_TRUE(copy.weak_from_this().expired());
  const Ref<Download> other = MakeRef<Download>(*original);
  EXPECT_EQ(other->ref_from_this(), other);
  *other = *original;
  EXPECT_EQ(other->ref_from_this(), other);
  *other = std::move(copy);
  EXPECT_EQ(other->ref_from_this(), other);
  EXPECT_EQ(original->ref_from_this(), original);
}

struct SeesItself : EnableRefFromThis<SeesItself> {
  explicit SeesItself(int* checks) : checks(checks) {
    EXPECT_TRUE(weak_from_this().expired());
    EXPECT_TRUE(weak_from_this().owner_equal(WeakRef<SeesItself>()));
    ++*checks;
  }
  ~SeesItself() {
    EXPECT_TRUE(weak_from_this().expired());
    EXPECT_EQ(weak_from_this().lock(), nullptr);
    EXPECT_FALSE(weak_from_this().owner_equal(WeakRef<SeesItself>()));
    ++*checks;
  }
  int* checks;
};

TEST(EnableRefFromThisTest, RefersToNothingInTheConstructorAndIsExpiredInTheDestructor) {
  int checks = 0;
  Ref<SeesItself> ref = MakeRef<SeesItself>(&checks);
  EXPECT_EQ(checks, 1);
  ref.reset();
  EXPECT_EQ(checks, 2);
}

struct EscapesFromDestructor : EnableRefFromThis<EscapesFromDestructor> {
  explicit EscapesFromDestructor(WeakRef<EscapesFromDestructor>* weak) : weak(weak) {}
  ~EscapesFromDestructor() { *weak = weak_from_this(); }
  WeakRef<EscapesFromDestructor>* weak;
};

TEST(EnableRefFromThisTest, WeakReferenceTakenInTheDestructorMayOutliveIt) {
  const int64_t before = LiveAllocations();
  WeakRef<EscapesFromDestructor> weak;
  MakeRef<EscapesFromDestructor>(&weak).reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(weak.lock(), nullptr);
  EXPECT_EQ(LiveAllocations() - before, 1);
  weak.reset();
  EXPECT_EQ(LiveAllocations(), before);
}

struct Throwing : EnableRefFromThis<Throwing> {
  Throwing() { throw 1; }
};

TEST(EnableRefFromThisTest, ThrowingConstructorLeavesNothingBehind) {
  const int64_t before = LiveAllocations();
  EXPECT_THROW((void)MakeRef<Throwing>(), int);
  EXPECT_EQ(LiveAllocations(), before);
}

struct Plain {};
class Private : EnableRefFromThis<Private> {};
struct Left : Shape {};
struct Right : Shape {};
struct Twice : Left, Right {};
struct TwoKinds : Shape, Download {};

TEST(EnableRefFromThisTest, OnlyAPublicUnambiguousBaseIsLinked) {
  static_assert(internal::HasRefFromThis<Download>);
  static_assert(internal::HasRefFromThis<Circle>);
  static_assert(internal::HasRefFromThis<const Circle>);
  static_assert(!internal::HasRefFromThis<Plain>);
  static_assert(!internal::HasRefFromThis<int>);
  static_assert(!internal::HasRefFromThis<Private>);
  static_assert(!internal::HasRefFromThis<Twice>);
  static_assert(!internal::HasRefFromThis<TwoKinds>);
  const Ref<Twice> twice = MakeRef<Twice>();
  EXPECT_TRUE(static_cast<Left&>(*twice).weak_from_this().expired());
}

TEST(EnableRefFromThisTest, ForbiddenUsesDoNotCompile) {
  static_assert(!std::is_default_constructible_v<EnableRefFromThis<Plain>>, "a base only");
  static_assert(!std::is_copy_constructible_v<EnableRefFromThis<Plain>>, "a base only");
  static_assert(!std::is_destructible_v<EnableRefFromThis<Plain>>, "not deleted through it");
  static_assert(
      !std::is_convertible_v<decltype(std::declval<const Shape&>().ref_from_this()), Ref<Shape>>,
      "const stays");
  static_assert(sizeof(EnableRefFromThis<Plain>) == sizeof(void*));
  static_assert(std::is_trivially_destructible_v<Plain>, "other types pay nothing");
}

struct AsksInConstructor : EnableRefFromThis<AsksInConstructor> {
  AsksInConstructor() { (void)ref_from_this(); }
};
struct AsksInDestructor : EnableRefFromThis<AsksInDestructor> {
  ~AsksInDestructor() { (void)ref_from_this(); }
};

TEST(EnableRefFromThisDeathTest, RefFromThisNeedsALivingOwner) {
  const char* const unowned = "EnableRefFromThis::ref_from_this: no Ref owns the object";
  const char* const expired = "EnableRefFromThis::ref_from_this: the last Ref .* has gone";
  EXPECT_DEATH((void)MakeRef<AsksInConstructor>(), unowned);
  EXPECT_DEATH(MakeRef<AsksInDestructor>().reset(), expired);
  Download download;
  EXPECT_DEATH((void)download.ref_from_this(), unowned);
  EXPECT_DEATH((void)std::as_const(download).ref_from_this(), unowned);
  const std::shared_ptr<Download> shared = std::make_shared<Download>();
  EXPECT_DEATH((void)shared->ref_from_this(), unowned);
}

// An object in a table of plain pointers, which its destructor leaves: the table finds objects
// whose last reference is just being dropped.
class Listed : public EnableRefFromThis<Listed> {
 public:
  explicit Listed(int id) : id_(id) {
    const std::lock_guard lock(mutex_);
    listed_ = this;
  }
  ~Listed() {
    const std::lock_guard lock(mutex_);
    listed_ = nullptr;
    ++destroyed_;
  }
  static Ref<Listed> Find() {
    const std::lock_guard lock(mutex_);
    return listed_ == nullptr ? nullptr : listed_->weak_from_this().lock();
  }
  int id() const { return id_; }
  static int destroyed() { return destroyed_; }

 private:
  inline static std::mutex mutex_;
  inline static Listed* listed_ = nullptr;  // guarded by mutex_
  inline static std::atomic<int> destroyed_{0};
  const int id_;
};

// Nobody but the object itself has a weak reference: the last release must not take itself to be
// alone with the block.
TEST(EnableRefFromThisRaceTest, WeakFromThisAgainstLastRelease) {
  const int64_t before = LiveAllocations();
  const int destroyed_before = Listed::destroyed();
  Ref<Listed> ref;
  std::atomic<bool> releasing{false};
  std::atomic<int> found{0}, missed{0};
  int round_now = 0;
  const auto find = [&] {
    if (const Ref<Listed> strong = Listed::Find()) {
      ASSERT_EQ(strong->id(), round_now);
      ASSERT_EQ(strong->ref_from_this(), strong);
      ++found;
    } else {
      ASSERT_TRUE(releasing);  // never missed before
      ASSERT_EQ(Listed::Find(), nullptr);
      ++missed;
    }
  };
  const auto release = [&] {
    releasing = true;
    ref.reset();
  };
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int round) {
        round_now = round;
        releasing = false;
        ref = MakeRef<Listed>(round);
      },
      {release, find, find, find},
      [&](int round) { ASSERT_EQ(Listed::destroyed() - destroyed_before, round + 1); });
  EXPECT_EQ(found + missed, 3 * testing::RaceRounds(100'000));
  EXPECT_EQ(LiveAllocations(), before);
  RecordProperty("found", found);
  RecordProperty("missed", missed);
}

}  // namespace
}  // namespace weakcache
