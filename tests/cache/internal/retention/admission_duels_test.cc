// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/retention/admission_duels.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

namespace weakcache::internal {
namespace {

struct TestNode {
  uint8_t frequency() const { return uses; }

  uint64_t hash = 0;
  uint8_t uses = 0;
  uint8_t duel = 0;
};

class AdmissionDuelsTest : public ::testing::Test {
 protected:
  static constexpr size_t kWindow = 10;

  void Start(uint64_t evicted, TestNode& kept, bool kept_returned, uint64_t evictions = 0) {
    duels_.Start(evicted, &kept, kept_returned, evictions, [] { return kWindow; });
  }
  // One duel of its own, which the returning object wins or loses.
  void Fight(bool returning_wins) {
    TestNode kept{.hash = 1};
    Start(/*evicted=*/2, kept, /*kept_returned=*/!returning_wins);
    duels_.Returned(2);
    ASSERT_EQ(kept.duel, 0);
  }

  AdmissionDuels<TestNode> duels_;
};

TEST_F(AdmissionDuelsTest, ReturningObjectsWinAtFirst) {
  EXPECT_TRUE(duels_.ReturningObjectsWin());
}

TEST_F(AdmissionDuelsTest, TheShareOfTheLatestDuelsDecides) {
  Fight(/*returning_wins=*/false);
  EXPECT_FALSE(duels_.ReturningObjectsWin());
  Fight(/*returning_wins=*/true);
  EXPECT_TRUE(duels_.ReturningObjectsWin());
  for (int i = 0; i < 200; ++i) Fight(/*returning_wins=*/true);
  // An average over sixteen: (15/16)^15 < 0.4 < (15/16)^14.
  int lost = 0;
  for (; duels_.ReturningObjectsWin() && lost < 100; ++lost) Fight(/*returning_wins=*/false);
  EXPECT_EQ(lost, 15);
}

TEST_F(AdmissionDuelsTest, TheOneThatIsUsedNextWins) {
  // The kept one had returned, and is used before the other one comes back: it wins.
  TestNode kept{.hash = 1};
  Start(2, kept, /*kept_returned=*/true);
  ++kept.uses;
  duels_.Returned(2);
  EXPECT_TRUE(duels_.ReturningObjectsWin());
  // It is not used before: it loses.
  Start(2, kept, /*kept_returned=*/true);
  duels_.Returned(2);
  EXPECT_TRUE(duels_.ReturningObjectsWin());
  Start(2, kept, /*kept_returned=*/true);
  duels_.Returned(2);
  EXPECT_FALSE(duels_.ReturningObjectsWin());
}

TEST_F(AdmissionDuelsTest, AKeptObjectThatIsEvictedHasWonIfItWasUsed) {
  TestNode kept{.hash = 1};
  Start(2, kept, /*kept_returned=*/false);
  ++kept.uses;
  duels_.Evicted(&kept);
  EXPECT_EQ(kept.duel, 0);
  EXPECT_FALSE(duels_.ReturningObjectsWin());
  duels_.Returned(2);  // the duel is over
  duels_.Returned(1);
  EXPECT_FALSE(duels_.ReturningObjectsWin());
}

TEST_F(AdmissionDuelsTest, AfterBothWereEvictedTheOneThatReturnsFirstWins) {
  for (const uint64_t first : {uint64_t{1}, uint64_t{2}}) {
    AdmissionDuels<TestNode> duels;
    TestNode kept{.hash = 1};
    duels.Start(2, &kept, /*kept_returned=*/true, /*evictions=*/0, [] { return kWindow; });
    duels.Evicted(&kept);
    EXPECT_EQ(kept.duel, 0);
    duels.Returned(first);
    EXPECT_EQ(duels.ReturningObjectsWin(), first == 1);
    duels.Returned(3 - first);
    EXPECT_EQ(duels.ReturningObjectsWin(), first == 1);
  }
}

TEST_F(AdmissionDuelsTest, WithAnObjectThatIsRemovedNobodyWins) {
  TestNode kept{.hash = 1};
  Start(2, kept, /*kept_returned=*/true);
  duels_.Removed(&kept);
  EXPECT_EQ(kept.duel, 0);
  duels_.Returned(2);
  EXPECT_TRUE(duels_.ReturningObjectsWin());
}

TEST_F(AdmissionDuelsTest, ANodeIsInOneDuel) {
  TestNode kept{.hash = 1};
  Start(2, kept, /*kept_returned=*/true);
  const uint8_t duel = kept.duel;
  ASSERT_NE(duel, 0);
  Start(0x123456789abcdef0, kept, /*kept_returned=*/true);
  EXPECT_EQ(kept.duel, duel);
  duels_.Returned(0x123456789abcdef0);  // it was not begun
  EXPECT_TRUE(duels_.ReturningObjectsWin());
}

// Two pairs whose evicted objects have the same hash want the same place.
TEST_F(AdmissionDuelsTest, AnUndecidedPairKeepsItsPlaceForAWhile) {
  TestNode older{.hash = 1};
  TestNode newer{.hash = 3};
  Start(2, older, /*kept_returned=*/true, /*evictions=*/100);
  Start(2, newer, /*kept_returned=*/true, /*evictions=*/100 + kWindow - 1);
  EXPECT_NE(older.duel, 0);
  EXPECT_EQ(newer.duel, 0);
  Start(2, newer, /*kept_returned=*/true, /*evictions=*/100 + kWindow);
  EXPECT_EQ(older.duel, 0);
  EXPECT_NE(newer.duel, 0);
  EXPECT_TRUE(duels_.ReturningObjectsWin());  // that decides nothing
}

TEST_F(AdmissionDuelsTest, ADecidedPairGivesItsPlaceToTheNext) {
  TestNode older{.hash = 1};
  TestNode newer{.hash = 3};
  Start(2, older, /*kept_returned=*/false);
  ++older.uses;
  Start(2, newer, /*kept_returned=*/false);
  EXPECT_EQ(older.duel, 0);
  EXPECT_NE(newer.duel, 0);
  EXPECT_FALSE(duels_.ReturningObjectsWin());
}

}  // namespace
}  // namespace weakcache::internal
