// SPDX-License-Identifier: Apache-2.0
// The tour prints what it always has. After a change that is meant:
//   ./bazelw run //examples:weakref_tour >examples/weakref_tour/weakref_tour_golden.txt

#include <gtest/gtest.h>

#include "examples/golden.h"

namespace weakref_tour {
namespace {

TEST(WeakrefTourTest, PrintsTheGoldenText) { examples::ExpectGoldenText("weakref_tour"); }

}  // namespace
}  // namespace weakref_tour
