#include "tests/support/race.h"

#include <gtest/gtest.h>

#include <thread>

namespace weakcache::testing {
namespace {

// That a race test has run its rounds shows something only if its racers met.
TEST(RaceTest, RacersMeet) {
  int rounds = 0;
  const int overlapped = Race(
      10'000, [](int) {}, {[] {}, [] {}, [] {}, [] {}}, [&](int) { ++rounds; });
  EXPECT_EQ(rounds, 10'000);
  if (std::thread::hardware_concurrency() >= 2) {
    EXPECT_GT(overlapped, 500);
  }
  RecordProperty("overlapped", overlapped);
}

}  // namespace
}  // namespace weakcache::testing
