// SPDX-License-Identifier: Apache-2.0
// For the tests of programs that always print the same text.
#ifndef WEAKCACHE_EXAMPLES_GOLDEN_H_
#define WEAKCACHE_EXAMPLES_GOLDEN_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace examples {

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Runs //examples:NAME, and compares what it prints with NAME_golden.txt in its folder.
inline void ExpectGoldenText(const std::string& name) {
  const std::string program = "examples/" + name + "/" + name;
  const std::string output = ::testing::TempDir() + "/" + name + "_output";
  ASSERT_EQ(std::system((program + " >'" + output + "'").c_str()), 0);
  const std::string golden = ReadFile(program + "_golden.txt");
  EXPECT_NE(golden, "");
  EXPECT_EQ(ReadFile(output), golden);
}

}  // namespace examples

#endif  // WEAKCACHE_EXAMPLES_GOLDEN_H_
