// SPDX-License-Identifier: Apache-2.0
// What a cache remembers of changes that its tier has not taken, and when they are made again.
#include "weakcache/cache/internal/tier/tier_changes.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace weakcache::internal {
namespace {

using State = TierChanges::State;
using Ended = TierChanges::Ended;

class TierChangesTest : public ::testing::Test {
 protected:
  void Fail(const std::string& key) {
    changes_.Begin(key);
    EXPECT_FALSE(changes_.End(key, Ended::kNotErased));
  }
  // Passes the first look of a load after a failure, which only sets the time.
  TierChanges::Repair RepairAfter(absl::Duration delay) {
    now_ += delay;
    return changes_.TakeRepair(now_);
  }
  static bool IsNothing(const TierChanges::Repair& repair) {
    return !repair.all && !repair.group.has_value() && repair.keys.empty();
  }

  TierChanges changes_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(24 * 365 * 50);
};

TEST_F(TierChangesTest, AnErasureMakesUpForFailuresBeforeItOnly) {
  Fail("before");
  changes_.EndGroup(3, changes_.BeginMany(), false);
  const uint64_t number = changes_.BeginMany();
  Fail("beside");
  changes_.EndGroup(4, changes_.BeginMany(), false);
  changes_.EndAll(number, true);
  EXPECT_EQ(changes_.Look("before"), State::kNone);
  EXPECT_EQ(changes_.Look("beside"), State::kFailed);
  EXPECT_TRUE(changes_.TrustsGroup(3));
  EXPECT_FALSE(changes_.TrustsGroup(4));
  changes_.EndAll(changes_.BeginMany(), true);
  EXPECT_EQ(changes_.Look("beside"), State::kNone);
  EXPECT_TRUE(changes_.TrustsGroup(4));
  EXPECT_FALSE(changes_.HasFailed());
}

TEST_F(TierChangesTest, AnErasureOfAGroupMakesUpForFailuresBeforeItOnly) {
  const uint64_t first = changes_.BeginMany();
  const uint64_t second = changes_.BeginMany();
  changes_.EndGroup(3, second, false);
  changes_.EndGroup(3, first, true);
  EXPECT_FALSE(changes_.TrustsGroup(3));
  const uint64_t third = changes_.BeginMany();
  changes_.EndGroup(3, changes_.BeginMany(), false);  // once more
  changes_.EndGroup(3, third, true);
  EXPECT_FALSE(changes_.TrustsGroup(3));
  changes_.EndGroup(3, changes_.BeginMany(), true);
  EXPECT_TRUE(changes_.TrustsGroup(3));
}

TEST_F(TierChangesTest, DistrustEndsWithAnErasureThatBeganAfterIt) {
  const uint64_t number = changes_.BeginMany();
  changes_.EndAll(changes_.BeginMany(), false);
  changes_.EndAll(number, true);
  EXPECT_EQ(changes_.Look("a"), State::kUnderWay);
  const uint64_t second = changes_.BeginMany();
  Fail("a");  // is remembered as a part of all
  changes_.EndAll(second, true);
  EXPECT_EQ(changes_.Look("a"), State::kUnderWay);
  EXPECT_EQ(changes_.Look("b"), State::kUnderWay);
  const uint64_t third = changes_.BeginMany();
  changes_.EndGroup(3, changes_.BeginMany(), false);  // the same
  changes_.EndAll(third, true);
  EXPECT_EQ(changes_.Look("b"), State::kUnderWay);
  changes_.EndAll(changes_.BeginMany(), true);
  EXPECT_EQ(changes_.Look("a"), State::kNone);
  EXPECT_TRUE(changes_.TrustsGroup(3));
  EXPECT_EQ(changes_.failures(), 3u);
}

TEST_F(TierChangesTest, RepairsAreTriedLessAndLessOften) {
  EXPECT_TRUE(IsNothing(RepairAfter(absl::Hours(1))));
  changes_.EndAll(changes_.BeginMany(), false);
  EXPECT_TRUE(IsNothing(RepairAfter(absl::Hours(1))));  // has only just failed
  EXPECT_TRUE(IsNothing(RepairAfter(absl::Milliseconds(99))));
  EXPECT_TRUE(RepairAfter(absl::Milliseconds(1)).all);
  EXPECT_TRUE(IsNothing(RepairAfter(absl::ZeroDuration())));  // another load is at it
  EXPECT_TRUE(RepairAfter(absl::Milliseconds(100)).all);
  EXPECT_TRUE(IsNothing(RepairAfter(absl::Milliseconds(199))));
  EXPECT_TRUE(RepairAfter(absl::Milliseconds(1)).all);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(RepairAfter(absl::Seconds(10)).all);
  EXPECT_TRUE(IsNothing(RepairAfter(absl::Seconds(9))));
  EXPECT_TRUE(RepairAfter(-absl::Hours(1)).all);  // the clock was set back
  changes_.EndAll(changes_.BeginMany(), true);
  EXPECT_TRUE(IsNothing(RepairAfter(absl::Hours(1))));
  // The next failure does not wait for as long.
  changes_.EndAll(changes_.BeginMany(), false);
  EXPECT_TRUE(IsNothing(RepairAfter(absl::ZeroDuration())));
  EXPECT_TRUE(RepairAfter(absl::Milliseconds(100)).all);
}

TEST_F(TierChangesTest, GroupsAndKeysAreRepairedAtOnceIfTheTierWorks) {
  changes_.EndGroup(3, changes_.BeginMany(), false);
  changes_.EndGroup(4, changes_.BeginMany(), false);
  for (int i = 0; i < 20; ++i) Fail(std::to_string(i));
  changes_.Begin("0");  // by a load of that key
  EXPECT_TRUE(IsNothing(RepairAfter(absl::ZeroDuration())));
  for (int i = 0; i < 2; ++i) {
    const TierChanges::Repair repair =
        RepairAfter(i == 0 ? absl::Milliseconds(100) : absl::ZeroDuration());
    ASSERT_TRUE(repair.group.has_value());
    changes_.EndGroup(*repair.group, changes_.BeginMany(), true);
  }
  EXPECT_STREQ(changes_.condition(), "keys have yet to be erased");
  int repaired = 0;
  for (;;) {
    const TierChanges::Repair repair = RepairAfter(absl::ZeroDuration());
    if (IsNothing(repair)) break;
    EXPECT_LE(repair.keys.size(), 16u);
    for (const std::string& key : repair.keys) {
      EXPECT_NE(key, "0");
      EXPECT_EQ(changes_.Look(key), State::kUnderWay);
      while (changes_.End(key, Ended::kDone)) {
      }
      EXPECT_EQ(changes_.Look(key), State::kNone);
      ++repaired;
    }
  }
  EXPECT_EQ(repaired, 19);
  EXPECT_TRUE(changes_.HasFailed());
  EXPECT_TRUE(changes_.End("0", Ended::kDone));  // once more, as groups have been erased since
  EXPECT_FALSE(changes_.End("0", Ended::kDone));
  EXPECT_FALSE(changes_.HasFailed());
  EXPECT_EQ(changes_.failures(), 22u);
  EXPECT_STREQ(changes_.condition(), "");
}

TEST_F(TierChangesTest, TooManyFailuresAreOne) {
  for (int i = 0; i < 4096; ++i) Fail(std::to_string(i));
  EXPECT_EQ(changes_.Look("other"), State::kNone);
  Fail("one more");
  EXPECT_EQ(changes_.Look("other"), State::kUnderWay);
  EXPECT_TRUE(changes_.KeysToErase().empty());  // nothing is remembered of each
  changes_.EndAll(changes_.BeginMany(), true);
  EXPECT_EQ(changes_.Look("0"), State::kNone);
  EXPECT_FALSE(changes_.HasFailed());
}

}  // namespace
}  // namespace weakcache::internal
