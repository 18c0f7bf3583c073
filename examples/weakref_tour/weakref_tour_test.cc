// SPDX-License-Identifier: Apache-2.0
// The tour prints what it always has. After a change that is meant:
//   ./bazelw run //examples:weakref_tour >examples/weakref_tour/weakref_tour_golden.txt

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace weakref_tour {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(WeakrefTourTest, PrintsTheGoldenText) {
  const std::string output = ::testing::TempDir() + "/weakref_tour_output";
  ASSERT_EQ(std::system(("examples/weakref_tour/weakref_tour >'" + output + "'").c_str()), 0);
  const std::string golden = Contents("examples/weakref_tour/weakref_tour_golden.txt");
  EXPECT_NE(golden, "");
  EXPECT_EQ(Contents(output), golden);
}

}  // namespace
}  // namespace weakref_tour
