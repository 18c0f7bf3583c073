// SPDX-License-Identifier: Apache-2.0
// The program prints what it always has. After a change that is meant:
//   ./bazelw run //examples:cycles >examples/cycles/cycles_golden.txt

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace cycles {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(CyclesExampleTest, PrintsTheGoldenText) {
  const std::string output = ::testing::TempDir() + "/cycles_output";
  ASSERT_EQ(std::system(("examples/cycles/cycles >'" + output + "'").c_str()), 0);
  const std::string golden = Contents("examples/cycles/cycles_golden.txt");
  EXPECT_NE(golden, "");
  EXPECT_EQ(Contents(output), golden);
}

}  // namespace
}  // namespace cycles
