// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/redis/held_leases.h"

#include <chrono>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace weakcache::internal {
namespace {

using std::chrono::hours;
using std::chrono::steady_clock;

std::vector<std::string> TokensOf(const std::vector<HeldLeases::Lease>& leases) {
  std::vector<std::string> tokens;
  for (const HeldLeases::Lease& lease : leases) tokens.push_back(lease.token);
  return tokens;
}

TEST(HeldLeasesTest, EachIsProlongedAfterTheInterval) {
  HeldLeases leases(hours(1));
  EXPECT_EQ(leases.NextDue(), Deadline::max());
  const steady_clock::time_point start = steady_clock::now();
  leases.Add({.key = "a", .token = "1"});
  leases.Add({.key = "b", .token = "2"});
  leases.Add({.key = "c", .token = "3"});
  const steady_clock::time_point first = steady_clock::now();
  leases.Add({.key = "a", .token = "1"});  // once more: it comes last now
  leases.Remove("2");
  leases.Remove("2");  // by its process, after the server has said that it has ended
  leases.Remove("no such token");
  EXPECT_TRUE(leases.TakeDue(start).empty());
  EXPECT_GE(leases.NextDue(), start + hours(1));
  EXPECT_LE(leases.NextDue(), first + hours(1));
  const steady_clock::time_point later = start + hours(2);
  EXPECT_EQ(TokensOf(leases.TakeDue(later)), (std::vector<std::string>{"3", "1"}));
  EXPECT_TRUE(leases.TakeDue(later).empty());
  EXPECT_EQ(leases.NextDue(), later + hours(1));
}

TEST(HeldLeasesTest, AnIntervalOfNothingIsNotForEver) {
  HeldLeases leases(hours(0));
  leases.Add({.key = "a", .token = "1"});
  EXPECT_EQ(TokensOf(leases.TakeDue(steady_clock::now())), std::vector<std::string>{"1"});
  leases.Clear();
  EXPECT_EQ(leases.NextDue(), Deadline::max());
}

}  // namespace
}  // namespace weakcache::internal
