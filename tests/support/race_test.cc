// SPDX-License-Identifier: Apache-2.0
#include "tests/support/race.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

namespace weakcache::testing {
namespace {

// That a race test has run its rounds shows something only if its racers met. How often they meet
// is the scheduler's business: on two quiet cores in half of the rounds, on busy ones in a few of a
// hundred; were they not spread over the cores, in next to none.
TEST(RaceTest, RacersMeet) {
  constexpr int kRounds = 2000;
  constexpr int kEnough = 100;
  int rounds = 0;
  int expected_rounds = 0;
  int overlapped = 0;
  const bool can_meet = std::thread::hardware_concurrency() >= 2;
  do {
    overlapped += Race(
        kRounds, [](int) {}, {[] {}, [] {}, [] {}, [] {}}, [&](int) { ++rounds; });
    expected_rounds += kRounds;
    ASSERT_EQ(rounds, expected_rounds);
  } while (can_meet && overlapped < kEnough && rounds < 30 * kRounds);
  if (can_meet) {
    EXPECT_GE(overlapped, kEnough) << "in " << rounds << " rounds";
  }
  RecordProperty("overlapped", overlapped);
  RecordProperty("rounds", rounds);
}

TEST(RaceTest, GoesOnUntilEachOutcomeHasCome) {
  for (const int last : {0, 1, 7, 100}) {
    int begun = 0;
    std::atomic<int> ran{0};
    int first = 0;
    int second = 0;
    const auto check = [&](int round) { ++(round == last ? second : first); };
    Race(
        {2, {&first, &second}}, [&](int) { ++begun; }, {[&] { ++ran; }, [&] { ++ran; }}, check);
    const int rounds = std::clamp(last + 1, 2, 40);
    EXPECT_EQ(begun, rounds);
    EXPECT_EQ(ran, 2 * rounds);
  }
}

}  // namespace
}  // namespace weakcache::testing
