// SPDX-License-Identifier: Apache-2.0
// The counts of a referent in a word so narrow that their limit is near: no increment wraps,
// whatever path it takes.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/reference_counts.h"

namespace weakcache::internal {
namespace {

// Runs once in front of the next compare-and-exchange, as another thread might.
std::function<void()> interruption;

template <typename T>
struct InterruptibleAtomic : std::atomic<T> {
  using std::atomic<T>::atomic;

  bool compare_exchange_weak(T& expected, T desired, std::memory_order success,
                             std::memory_order failure) {
    if (interruption) std::exchange(interruption, nullptr)();
    return std::atomic<T>::compare_exchange_weak(expected, desired, success, failure);
  }
};

struct NarrowCounts : StdAtomics {
  using CountWord = uint16_t;
  template <typename T>
  using Atomic = InterruptibleAtomic<T>;
};

// Eight bits each. The uppermost of the strong half is the flag, and the limit is half of that.
constexpr int kMostStrong = 64;
// The strong references hold one of 64 together.
constexpr int kMostWeak = 63;

constexpr char kTooManyStrong[] = "weakcache: Ref: too many strong references to one object";
constexpr char kTooManyWeak[] = "weakcache: WeakRef: too many weak references to one object";

class NarrowCountsTest : public ::testing::Test {
 protected:
  void AddStrongUpTo(int count) {
    while (counts_.strong_count() < static_cast<size_t>(count)) counts_.AddStrong();
  }
  void AddWeakUpTo(int count) {
    while (counts_.weak_count() < static_cast<size_t>(count)) counts_.AddWeak();
  }
  // Everything goes, and exactly the last release says that it was the last.
  void ReleaseAll() {
    for (size_t strong = counts_.strong_count(); strong > 1; --strong) {
      EXPECT_EQ(counts_.ReleaseStrong(), AfterRelease::kNothing);
    }
    EXPECT_EQ(counts_.ReleaseStrong(), AfterRelease::kDestroyReferent);
    EXPECT_TRUE(counts_.expired());
    for (size_t weak = counts_.weak_count(); weak > 1; --weak) EXPECT_FALSE(counts_.ReleaseWeak());
    EXPECT_TRUE(counts_.ReleaseWeak());
  }

  BasicReferenceCounts<NarrowCounts> counts_;
};

using NarrowCountsDeathTest = NarrowCountsTest;

TEST_F(NarrowCountsTest, BothCountsReachTheirLimitsAndComeBack) {
  AddWeakUpTo(kMostWeak);
  AddStrongUpTo(kMostStrong);
  EXPECT_EQ(counts_.strong_count(), static_cast<size_t>(kMostStrong));
  EXPECT_EQ(counts_.weak_count(), static_cast<size_t>(kMostWeak));
  ReleaseAll();
}

TEST_F(NarrowCountsTest, UpgradesReachTheLimit) {
  counts_.AddWeak();
  for (int strong = 1; strong < kMostStrong; ++strong) ASSERT_TRUE(counts_.TryAddStrong());
  EXPECT_EQ(counts_.strong_count(), static_cast<size_t>(kMostStrong));
  ReleaseAll();
}

TEST_F(NarrowCountsDeathTest, CopyOfAStrongReference) {
  AddStrongUpTo(kMostStrong);
  EXPECT_DEATH(counts_.AddStrong(), kTooManyStrong);
}

TEST_F(NarrowCountsDeathTest, Upgrade) {
  counts_.AddWeak();
  AddStrongUpTo(kMostStrong);
  EXPECT_DEATH(counts_.TryAddStrong(), kTooManyStrong);
}

TEST_F(NarrowCountsDeathTest, WeakReference) {
  AddWeakUpTo(kMostWeak);
  EXPECT_DEATH(counts_.AddWeak(), kTooManyWeak);
}

TEST_F(NarrowCountsDeathTest, WeakReferenceToAnExpiredReferent) {
  AddWeakUpTo(kMostWeak);
  ASSERT_EQ(counts_.ReleaseStrong(), AfterRelease::kDestroyReferent);
  EXPECT_DEATH(counts_.AddWeak(), kTooManyWeak);
}

// An upgrade that overtakes the last release adds a weak reference for the releasing thread.
TEST_F(NarrowCountsTest, OvertakingUpgradesUpToTheLimit) {
  AddWeakUpTo(kMostWeak - 1);
  interruption = [this] { ASSERT_TRUE(counts_.TryAddStrong()); };
  EXPECT_EQ(counts_.ReleaseStrong(), AfterRelease::kNothing);
  EXPECT_FALSE(counts_.expired());
  EXPECT_EQ(counts_.strong_count(), 1u);
  EXPECT_EQ(counts_.weak_count(), static_cast<size_t>(kMostWeak - 1));
  ReleaseAll();
}

TEST_F(NarrowCountsDeathTest, OvertakingUpgrade) {
  AddWeakUpTo(kMostWeak);
  interruption = [this] { static_cast<void>(counts_.TryAddStrong()); };
  EXPECT_DEATH(static_cast<void>(counts_.ReleaseStrong()), kTooManyWeak);
  interruption = nullptr;
}

TEST_F(NarrowCountsTest, FailedUpgradesLeaveNothingBehind) {
  counts_.AddWeak();
  ASSERT_EQ(counts_.ReleaseStrong(), AfterRelease::kDestroyReferent);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_FALSE(counts_.TryAddStrong());
    ASSERT_TRUE(counts_.expired());
    ASSERT_EQ(counts_.strong_count(), 0u);
    ASSERT_EQ(counts_.weak_count(), 2u);  // with the one of the destruction
  }
  EXPECT_FALSE(counts_.ReleaseWeak());
  EXPECT_TRUE(counts_.ReleaseWeak());
}

}  // namespace
}  // namespace weakcache::internal
