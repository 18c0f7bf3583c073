// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/ref.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <new>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/weak_ref.h"

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

constexpr size_t kSmallStack = testing::kSanitized ? 1 << 20 : 64 << 10;
const int kLongChain = testing::kSanitized ? 1'000'000 : testing::Rounds(10'000'000, 2'000'000);

void RunOnSmallStack(std::function<void()> run) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  const long least = sysconf(_SC_THREAD_STACK_MIN);  // 128 KiB on aarch64; -1 if there is none
  const size_t stack = std::max(kSmallStack, static_cast<size_t>(std::max(least, 0L)));
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, stack), 0);
  pthread_t thread;
  const auto call = [](void* function) -> void* {
    (*static_cast<std::function<void()>*>(function))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, call, &run), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

struct Link {
  Ref<Link> next;
};

TEST(RefDestructionTest, ALongChainTakesASmallStack) {
  const int64_t before = LiveAllocations();
  Ref<Link> head;
  for (int i = 0; i < kLongChain; ++i) head = MakeRef<Link>(Link{std::move(head)});
  RunOnSmallStack([&] { head.reset(); });
  EXPECT_EQ(LiveAllocations(), before);
}

// Large nodes whose weak references remain, so that every step of the last release is taken.
struct WatchedLink {
  Ref<WatchedLink> next;
  char bytes[100];
};

TEST(RefDestructionTest, AChainThatIsWatchedDoesToo) {
  int told = 0;
  std::vector<ExpiryRegistration> registrations;
  Ref<WatchedLink> head;
  for (int i = 0; i < 100'000; ++i) {
    head = MakeRef<WatchedLink>(WatchedLink{std::move(head), {}});
    registrations.push_back(OnExpire(head, [&] { ++told; }));
  }
  RunOnSmallStack([&] { head.reset(); });
  EXPECT_EQ(told, 100'000);
}

struct Tree {
  Ref<Tree> left, right;
};

Ref<Tree> MakeTree(int depth) {
  if (depth == 0) return nullptr;
  return MakeRef<Tree>(Tree{MakeTree(depth - 1), MakeTree(depth - 1)});
}

TEST(RefDestructionTest, ATreeOfAMillionTakesASmallStack) {
  const int64_t before = LiveAllocations();
  Ref<Tree> tree = MakeTree(20);
  RunOnSmallStack([&] { tree.reset(); });
  EXPECT_EQ(LiveAllocations(), before);
}

struct Nested {
  explicit Nested(Ref<Nested> inner, int* depth, std::vector<int>* ended)
      : inner(std::move(inner)), depth(depth), ended(ended) {}
  ~Nested() {
    ++*depth;
    inner.reset();
    ended->push_back(*depth);
    --*depth;
  }
  Ref<Nested> inner;
  int* depth;
  std::vector<int>* ended;
};

// Up to 32 deep, what an object owns ends before it does; deeper, one after the other at that
// depth.
TEST(RefDestructionTest, NestsUpToTheDocumentedDepth) {
  int depth = 0;
  std::vector<int> ended;
  Ref<Nested> outer;
  for (int i = 0; i < 40; ++i) outer = MakeRef<Nested>(std::move(outer), &depth, &ended);
  outer.reset();
  // The one at depth 32 ends first, then the eight that it defers, at its depth.
  std::vector<int> expected(9, 32);
  for (int level = 31; level > 0; --level) expected.push_back(level);
  EXPECT_EQ(ended, expected);
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

TEST(RefArrayTest, HoldsElementsAndEndsThemNewestFirst) {
  static std::vector<int> ended;
  struct Element {
    ~Element() { ended.push_back(id); }
    int id = 0;
  };
  ended.clear();
  Ref<Element[]> array = MakeRef<Element[]>(3);
  for (int i = 0; i < 3; ++i) array[i].id = i;
  const Ref<const Element[]> as_const = array;
  EXPECT_EQ(as_const[2].id, 2);
  EXPECT_EQ(array.use_count(), 2u);
  Ref<Element> second(array, &array[1]);
  EXPECT_EQ(second->id, 1);
  array.reset();
  EXPECT_TRUE(ended.empty());
  const_cast<Ref<const Element[]>&>(as_const).reset();
  second.reset();
  EXPECT_EQ(ended, (std::vector<int>{2, 1, 0}));
}

struct ElementWithAddressOperator {
  int id;
  void operator&() const = delete;  // NOLINT: that is what is tested
};
TEST(RefArrayTest, CopiesElementsThatOverloadTheAddressOperator) {
  const auto array = MakeRef<ElementWithAddressOperator[]>(3, ElementWithAddressOperator{7});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(array[i].id, 7);
}

TEST(RefArrayTest, ElementsAreZeroUnlessMadeForOverwrite) {
  const Ref<int[]> zeros = MakeRef<int[]>(1000);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(zeros[i], 0);
  const Ref<unsigned char[]> buffer = MakeRefForOverwrite<unsigned char[]>(1 << 20);
  buffer[(1 << 20) - 1] = 7;
  EXPECT_EQ(buffer[(1 << 20) - 1], 7);
  EXPECT_EQ(MakeRef<int[]>(0).use_count(), 1u);
  EXPECT_EQ(MakeRefForOverwrite<std::string>()->size(), 0u);
}

TEST(RefArrayTest, OfArraysOfAClassType) {
  const Ref<std::string[][3]> names = MakeRef<std::string[][3]>(2);
  names[1][2] = "last";
  EXPECT_EQ(names[0][0], "");
  EXPECT_EQ(names[1][2], "last");
  const std::string row[3] = {"a", "b", "c"};
  const Ref<std::string[][3]> rows = MakeRef<std::string[][3]>(2, row);
  EXPECT_EQ(rows[0][0] + rows[0][1] + rows[0][2], "abc");
  EXPECT_EQ(rows[1][0] + rows[1][1] + rows[1][2], "abc");
  const Ref<Tracked[][2][2]> deep = MakeRef<Tracked[][2][2]>(3);
  EXPECT_EQ(Tracked::live(), 12);
  EXPECT_EQ(deep[2][1][1].id(), 0);
  EXPECT_THROW((void)MakeRef<std::string[][16]>(SIZE_MAX / 8), std::bad_alloc) << "it overflows";
}

TEST(RefArrayTest, OfABound) {
  const Ref<int[4]> zeros = MakeRef<int[4]>();
  EXPECT_EQ(zeros[3], 0);
  const Ref<const std::string[2]> words = MakeRef<std::string[2]>("word");
  EXPECT_EQ(words[1], "word");
  MakeRefForOverwrite<int[4]>()[3] = 1;
  const Ref<Tracked[2][3]> tracked = MakeRef<Tracked[2][3]>();
  EXPECT_EQ(Tracked::live(), 6);
  const WeakRef<Tracked[2][3]> weak = tracked;
  EXPECT_EQ(weak.lock(), tracked);
}

TEST(RefArrayTest, OfCopies) {
  const Ref<std::string[]> words = MakeRef<std::string[]>(3, "word");
  EXPECT_EQ(words[0] + words[2], "wordword");
  const Ref<const int[]> sevens = MakeRef<const int[]>(2, 7);
  EXPECT_EQ(sevens[1], 7);
}

TEST(RefArrayTest, ByAnAllocatorWhichConstructsAndDestroysThem) {
  const int64_t before = LiveAllocations();
  std::byte memory[4096];
  std::pmr::monotonic_buffer_resource resource(memory, sizeof(memory),
                                               std::pmr::null_memory_resource());
  const std::pmr::polymorphic_allocator<> allocator(&resource);
  const Ref<std::pmr::string[]> words = AllocateRef<std::pmr::string[]>(allocator, 2);
  EXPECT_EQ(words[1].get_allocator().resource(), &resource);
  const Ref<std::pmr::string[2][2]> rows = AllocateRef<std::pmr::string[2][2]>(allocator);
  EXPECT_EQ(rows[1][1].get_allocator().resource(), &resource);
  EXPECT_EQ(AllocateRef<int[]>(allocator, 2, 5)[1], 5);
  EXPECT_EQ(AllocateRef<int[3]>(allocator, 6)[2], 6);
  EXPECT_EQ(AllocateRef<Tracked[2]>(allocator).use_count(), 1u);
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_EQ(LiveAllocations(), before);
}

TEST(RefArrayTest, MemoryGoesBackAtTheLastStrongRelease) {
  const int64_t before = LiveAllocatedBytes();
  Ref<char[]> array = MakeRef<char[]>(8 << 20);
  const WeakRef<char[]> weak = array;
  array.reset();
  EXPECT_LE(LiveAllocatedBytes() - before, 128);
  EXPECT_EQ(weak.lock(), nullptr);
}

TEST(RefArrayTest, AThrowingElementLeavesNothingBehind) {
  static int until_throw;
  struct Element {
    Element() {
      if (--until_throw < 0) throw std::runtime_error("element");
    }
    Tracked tracked;
  };
  const int64_t before = LiveAllocations();
  until_throw = 2;
  EXPECT_THROW((void)MakeRef<Element[]>(5), std::runtime_error);
  until_throw = 5;
  EXPECT_THROW((void)(MakeRef<Element[][2]>(5)), std::runtime_error);
  until_throw = 2;
  EXPECT_THROW((void)AllocateRef<Element[4]>(std::allocator<int>()), std::runtime_error);
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_EQ(LiveAllocations(), before);
  EXPECT_THROW((void)MakeRef<int[]>(SIZE_MAX / 2), std::bad_alloc);
}

TEST(RefCastTest, Casts) {
  const Ref<Base> base = MakeRef<Derived>();
  const Ref<Derived> derived = static_pointer_cast<Derived>(base);
  EXPECT_EQ(derived.get(), base.get());
  EXPECT_EQ(base.use_count(), 2u);
  EXPECT_EQ(dynamic_pointer_cast<Derived>(base), derived);
  EXPECT_EQ(dynamic_pointer_cast<Derived>(MakeRef<Base>()), nullptr);
  const Ref<const Base> constant = base;
  EXPECT_EQ(const_pointer_cast<Base>(constant), base);
  const Ref<const int[]> array = MakeRef<int[]>(3);
  EXPECT_EQ(const_pointer_cast<int[]>(array).get(), array.get());
  const Ref<void> anything = base;
  EXPECT_EQ(static_pointer_cast<Base>(anything), base);
  EXPECT_TRUE(anything.owner_equal(base));
}

TEST(RefPrintTest, PrintsTheAddress) {
  const Ref<int> ref = MakeRef<int>(1);
  std::ostringstream by_ref, by_address;
  by_ref << ref;
  by_address << static_cast<const void*>(ref.get());
  EXPECT_EQ(by_ref.str(), by_address.str());
}

TEST(AdoptRefTest, TakesTheObjectAndItsDeleter) {
  int deleted = 0;
  const auto deleter = [&, witness = MakeRef<Tracked>(1)](Tracked* tracked) {
    ++deleted;
    delete tracked;
  };
  {
    std::unique_ptr<Tracked, decltype(deleter)> owner(new Tracked(5), deleter);
    Ref<Tracked> ref = AdoptRef(std::move(owner));
    EXPECT_EQ(owner, nullptr);  // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(ref->id(), 5);
    const WeakRef<Tracked> weak = ref;
    ref.reset();
    EXPECT_EQ(deleted, 1);
    EXPECT_TRUE(weak.expired());
  }
  EXPECT_EQ(AdoptRef(std::unique_ptr<Tracked>()), nullptr);
  const Ref<int[]> array = AdoptRef(std::unique_ptr<int[]>(new int[2]{1, 2}));
  EXPECT_EQ(array[1], 2);
}

struct CountingDeleter {
  void operator()(Tracked* tracked) { delete tracked, ++*deleted; }
  int* deleted;
};

TEST(GetDeleterTest, FindsTheDeleterThatWasAdopted) {
  int deleted = 0, other = 0;
  using Owner = std::unique_ptr<Tracked, CountingDeleter>;
  Ref<Tracked> ref = AdoptRef(Owner(new Tracked(1), CountingDeleter{&deleted}));
  const Ref<const int> alias(ref, &other);
  ASSERT_NE(get_deleter<CountingDeleter>(ref), nullptr);
  EXPECT_EQ(get_deleter<CountingDeleter>(alias), get_deleter<CountingDeleter>(ref));
  get_deleter<CountingDeleter>(ref)->deleted = &other;
  const_cast<Ref<const int>&>(alias).reset();
  ref.reset();
  EXPECT_EQ(deleted, 0);
  EXPECT_EQ(other, 1);
}

TEST(GetDeleterTest, IsNullForAnyOtherReference) {
  const Ref<int> adopted = AdoptRef(std::make_unique<int>(1));
  EXPECT_NE(get_deleter<std::default_delete<int>>(adopted), nullptr);
  EXPECT_EQ(get_deleter<std::default_delete<long>>(adopted), nullptr);
  EXPECT_EQ(get_deleter<std::default_delete<int>>(MakeRef<int>(1)), nullptr);
  EXPECT_EQ(get_deleter<std::default_delete<int>>(MakeRef<int[]>(1)), nullptr);
  EXPECT_EQ(get_deleter<std::default_delete<int>>(Ref<int>()), nullptr);
}

TEST(GetDeleterTest, FindsWhatAReferenceRefersTo) {
  int deleted = 0;
  CountingDeleter deleter{&deleted};
  const Ref<Tracked> ref =
      AdoptRef(std::unique_ptr<Tracked, CountingDeleter&>(new Tracked(1), deleter));
  EXPECT_EQ(get_deleter<CountingDeleter>(ref), &deleter);
  using Function = void (*)(int*);
  const Function function = [](int* object) { delete object; };
  const Ref<int> by_function = AdoptRef(std::unique_ptr<int, Function>(new int(1), function));
  ASSERT_NE(get_deleter<Function>(by_function), nullptr);
  EXPECT_EQ(*get_deleter<Function>(by_function), function);
}

TEST(AdoptRefTest, FailedAllocationLeavesTheOwnerItsObject) {
  auto owner = std::make_unique<Tracked>(5);
  Ref<Tracked> ref;
  const int failures = testing::FailEachAllocation([&] { ref = AdoptRef(std::move(owner)); },
                                                   [&] { ASSERT_NE(owner, nullptr); });
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(ref->id(), 5);
}

TEST(AllocateRefTest, TakesAllMemoryFromTheAllocator) {
  std::pmr::monotonic_buffer_resource upstream;
  std::pmr::unsynchronized_pool_resource pool(&upstream);
  using Strings = std::pmr::vector<std::pmr::string>;
  Ref<Strings> strings = AllocateRef<Strings>(std::pmr::polymorphic_allocator<>(&pool), size_t{3});
  EXPECT_EQ(strings->get_allocator().resource(), &pool);
  const int64_t before = LiveAllocations();
  const Ref<Tracked> large = AllocateRef<Tracked>(std::pmr::polymorphic_allocator<>(&upstream), 4);
  EXPECT_EQ(large->id(), 4);
  EXPECT_LE(LiveAllocations() - before, 1);  // at most a chunk of the resource's
}

TEST(AllocateRefTest, FailedAllocationLeavesNothingBehind) {
  const int64_t before = LiveAllocations();
  Ref<Tracked> ref;
  const int failures =
      testing::FailEachAllocation([&] { ref = AllocateRef<Tracked>(std::allocator<int>(), 1); },
                                  [&] {
                                    EXPECT_EQ(LiveAllocations(), before);
                                    EXPECT_EQ(Tracked::live(), 0);
                                  });
  EXPECT_EQ(failures, 2);
}

// Weak references must not pin the memory, as those to an object of std::make_shared do.
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
      testing::RaceRounds(100'000),
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
