#include "tests/support/race.h"

#include <gtest/gtest.h>

#include <thread>

namespace weakcache::testing {
namespace {

// That a race test has run its rounds shows something only if its racers met.
TEST(RaceTest, RacersMeet) {
  int rounds = 0;
  const int overlapped = Race(
      2000, [](int) {}, {[] {}, [] {}, [] {}, [] {}}, [&](int) { ++rounds; });
  EXPECT_EQ(rounds, 2000);
  if (std::thread::hardware_concurrency() >= 2) {
    EXPECT_GT(overlapped, 100);
  }
  RecordProperty("overlapped", overlapped);
}

}  // namespace
}  // namespace weakcache::testing
