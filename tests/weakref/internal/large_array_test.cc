// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/internal/large_array.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace weakcache::internal {
namespace {

TEST(LargeArrayTest, ReserveKeepsWhatIsThere) {
  std::vector<std::unique_ptr<int>> array;
  for (int i = 0; i < 3; ++i) array.push_back(std::make_unique<int>(i));
  ReserveLarge(&array, 1000);
  EXPECT_EQ(array.capacity(), 1000u);
  ASSERT_EQ(array.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(*array[static_cast<size_t>(i)], i);
}

TEST(LargeArrayTest, ReserveMakesNoArraySmaller) {
  std::vector<int> array(100, 7);
  const int* const data = array.data();
  ReserveLarge(&array, 10);
  EXPECT_EQ(array.data(), data);
  EXPECT_EQ(array, std::vector<int>(100, 7));
}

TEST(LargeArrayTest, FillMakesCopies) {
  std::vector<uint32_t> array;
  FillLarge(&array, size_t{3} << 20, uint32_t{5});
  EXPECT_EQ(array, std::vector<uint32_t>(size_t{3} << 20, 5u));
}

// Returns what the system has been advised about the memory at an address ("VmFlags"), or an empty
// string if it does not tell.
std::string AdviceAt(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  bool found = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char dash = 0;
    std::istringstream words(line);
    if (words >> std::hex >> begin >> dash >> end && dash == '-') {
      const auto at = reinterpret_cast<uintptr_t>(address);
      found = begin <= at && at < end;
    } else if (found && line.starts_with("VmFlags:")) {
      return line;
    }
  }
  return "";
}

TEST(LargeArrayTest, HugePagesAreAskedFor) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled").good()) {
    GTEST_SKIP() << "this system has no transparent huge pages";
  }
  std::vector<char> array;
  ReserveLarge(&array, size_t{64} << 20);
  const std::string advice = AdviceAt(array.data() + (size_t{32} << 20));
  if (advice.empty()) GTEST_SKIP() << "this system does not tell its advice";
  EXPECT_NE(advice.find(" hg"), std::string::npos) << advice;
}

}  // namespace
}  // namespace weakcache::internal
