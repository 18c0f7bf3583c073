// SPDX-License-Identifier: Apache-2.0
// The program prints what it always has. After a change that is meant:
//   ./bazelw run //examples:cycles >examples/cycles/cycles_golden.txt

#include <gtest/gtest.h>

#include "examples/golden.h"

namespace cycles {
namespace {

TEST(CyclesExampleTest, PrintsTheGoldenText) { examples::ExpectGoldenText("cycles"); }

}  // namespace
}  // namespace cycles
