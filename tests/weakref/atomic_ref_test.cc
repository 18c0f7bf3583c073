// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/atomic_ref.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocations;
using testing::SmallTracked;
using testing::Tracked;

TEST(AtomicRefTest, LoadsWhatWasStored) {
  AtomicRef<Tracked> atomic;
  EXPECT_EQ(atomic.load(), nullptr);
  const Ref<Tracked> one = MakeRef<Tracked>(1);
  atomic.store(one);
  EXPECT_EQ(atomic.load(), one);
  EXPECT_EQ(one.use_count(), 2u);
  atomic = MakeRef<Tracked>(2);
  EXPECT_EQ(one.use_count(), 1u);
  EXPECT_EQ(static_cast<Ref<Tracked>>(atomic)->id(), 2);
  EXPECT_EQ(atomic.load(std::memory_order_acquire)->id(), 2);
  EXPECT_FALSE(atomic.is_lock_free());
  static_assert(!AtomicRef<Tracked>::is_always_lock_free);
  static_assert(!std::is_copy_constructible_v<AtomicRef<Tracked>>);
  static_assert(!std::is_copy_assignable_v<AtomicRef<Tracked>>);
}

TEST(AtomicRefTest, DropsItsReferenceAtItsEnd) {
  const int64_t before = LiveAllocations();
  {
    const AtomicRef<Tracked> atomic(MakeRef<Tracked>(1));
    const AtomicWeakRef<Tracked> weak(atomic.load());
    EXPECT_EQ(weak.load().lock(), atomic.load());
    EXPECT_EQ(Tracked::live(), 1);
  }
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_EQ(LiveAllocations(), before);
}

TEST(AtomicRefTest, ExchangeReturnsTheFormerReference) {
  AtomicRef<Tracked> atomic(MakeRef<Tracked>(1));
  const Ref<Tracked> former = atomic.exchange(MakeRef<Tracked>(2));
  EXPECT_EQ(former->id(), 1);
  EXPECT_EQ(former.use_count(), 1u);
  EXPECT_EQ(atomic.exchange(nullptr)->id(), 2);
  EXPECT_EQ(atomic.load(), nullptr);
}

TEST(AtomicRefTest, CompareExchangeReplacesWhatWasExpected) {
  AtomicRef<Tracked> atomic;
  Ref<Tracked> expected;
  const Ref<Tracked> one = MakeRef<Tracked>(1);
  EXPECT_TRUE(atomic.compare_exchange_strong(expected, one));
  EXPECT_EQ(expected, nullptr);
  EXPECT_EQ(one.use_count(), 2u);
  EXPECT_FALSE(atomic.compare_exchange_weak(expected, MakeRef<Tracked>(2)));
  EXPECT_EQ(expected, one);
  EXPECT_EQ(one.use_count(), 3u);
  EXPECT_EQ(Tracked::live(), 1);
  EXPECT_TRUE(atomic.compare_exchange_weak(expected, MakeRef<Tracked>(3), std::memory_order_release,
                                           std::memory_order_relaxed));
  EXPECT_EQ(expected, one);
  EXPECT_EQ(one.use_count(), 2u);
  EXPECT_EQ(atomic.load()->id(), 3);
}

TEST(AtomicRefTest, CompareExchangeTellsOwnersAndPartsApart) {
  int part[2] = {};
  const Ref<Tracked> owner = MakeRef<Tracked>(1), other = MakeRef<Tracked>(2);
  const Ref<int> first(owner, &part[0]);
  AtomicRef<int> atomic(first);
  Ref<int> expected(owner, &part[1]);
  EXPECT_FALSE(atomic.compare_exchange_strong(expected, nullptr)) << "another part";
  EXPECT_EQ(expected, first);
  expected = Ref<int>(other, &part[0]);
  EXPECT_FALSE(atomic.compare_exchange_strong(expected, nullptr)) << "another owner";
  EXPECT_TRUE(expected.owner_equal(owner));
  EXPECT_TRUE(atomic.compare_exchange_strong(expected, nullptr));
}

TEST(AtomicRefTest, ArraysAndConversions) {
  AtomicRef<const int[]> array(MakeRef<int[]>(3));
  EXPECT_EQ(array.load()[2], 0);
  AtomicRef<void> anything;
  anything.store(MakeRef<int>(1));
  EXPECT_NE(anything.load(), nullptr);
}

// A destructor that uses the very object that held the last reference: it would hang if it ran
// under the lock.
TEST(AtomicRefTest, DestructorsRunUnderNoLock) {
  struct Node {
    ~Node() {
      seen->push_back(atomic->load() == nullptr);
      atomic->store(nullptr);
    }
    AtomicRef<Node>* atomic;
    std::vector<bool>* seen;
  };
  AtomicRef<Node> atomic;
  std::vector<bool> seen;
  const auto fill = [&] {
    Ref<Node> node = MakeRefForOverwrite<Node>();
    node->atomic = &atomic;
    node->seen = &seen;
    atomic.store(std::move(node));
  };
  fill();
  atomic.store(nullptr);
  fill();
  static_cast<void>(atomic.exchange(nullptr));
  fill();
  Ref<Node> expected = atomic.load();
  EXPECT_TRUE(atomic.compare_exchange_strong(expected, nullptr));
  expected.reset();
  EXPECT_EQ(seen, (std::vector<bool>{true, true, true}));
}

TEST(AtomicWeakRefTest, KeepsNothingAlive) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  AtomicWeakRef<Tracked> atomic(ref);
  WeakRef<Tracked> expected = atomic.load();
  EXPECT_EQ(expected.lock(), ref);
  ref.reset();
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_TRUE(atomic.load().expired());
  const Ref<Tracked> other = MakeRef<Tracked>(2);
  EXPECT_TRUE(atomic.compare_exchange_strong(expected, other)) << "an expired one keeps its owner";
  EXPECT_FALSE(atomic.compare_exchange_weak(expected, WeakRef<Tracked>()));
  EXPECT_EQ(expected.lock(), other);
  EXPECT_EQ(atomic.exchange(WeakRef<Tracked>()).lock(), other);
}

// Readers get a whole object of the old or the new value, while it is replaced and its last
// reference goes.
TEST(AtomicRefRaceTest, LoadsAgainstAStore) {
  const int64_t before = LiveAllocations();
  AtomicRef<Tracked> atomic;
  int round_now = 0;
  const auto load = [&] {
    const Ref<Tracked> ref = atomic.load();
    ASSERT_TRUE(ref->id() == round_now || ref->id() == round_now + 1);
  };
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int round) {
        round_now = round;
        atomic.store(MakeRef<Tracked>(round));
      },
      {[&] { atomic.store(MakeRef<Tracked>(round_now + 1)); }, load, load},
      [&](int round) {
        ASSERT_EQ(Tracked::live(), 1);
        ASSERT_EQ(atomic.load()->id(), round + 1);
      });
  atomic.store(nullptr);
  EXPECT_EQ(LiveAllocations(), before);
}

// Each of the increments counts once: exactly one of the threads that saw a value replaces it.
TEST(AtomicRefRaceTest, CompareExchangesAgainstEachOther) {
  AtomicRef<SmallTracked> atomic;
  const auto increment = [&] {
    Ref<SmallTracked> seen = atomic.load();
    while (!atomic.compare_exchange_weak(seen, MakeRef<SmallTracked>(seen->id() + 1))) {
    }
  };
  testing::Race(
      testing::RaceRounds(100'000), [&](int) { atomic.store(MakeRef<SmallTracked>(0)); },
      {increment, increment, increment},
      [&](int) {
        ASSERT_EQ(atomic.load()->id(), 3);
        ASSERT_EQ(SmallTracked::live(), 1);
      });
}

// The last Ref goes while a weak one to it is loaded and replaced.
TEST(AtomicRefRaceTest, WeakLoadsAgainstAStoreAndTheLastRelease) {
  const int64_t before = LiveAllocations();
  AtomicWeakRef<SmallTracked> atomic;
  Ref<SmallTracked> ref;
  int round_now = 0;
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int round) {
        round_now = round;
        ref = MakeRef<SmallTracked>(round);
        atomic.store(ref);
      },
      {[&] { ref.reset(); }, [&] { atomic.store(WeakRef<SmallTracked>()); },
       [&] {
         if (const Ref<SmallTracked> locked = atomic.load().lock()) {
           ASSERT_EQ(locked->id(), round_now);
         }
       }},
      [&](int) {
        ASSERT_EQ(SmallTracked::live(), 0);
        ASSERT_TRUE(atomic.load().expired());
      });
  EXPECT_EQ(LiveAllocations(), before);
}

}  // namespace
}  // namespace weakcache
