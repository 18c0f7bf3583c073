// SPDX-License-Identifier: Apache-2.0
// EXPECT_NO_CYCLES: lets a test fail if it leaves objects behind that keep each other alive.
//
//   weakcache::Census census;
//   …                                  // the test makes its objects, and drops its references
//   EXPECT_NO_CYCLES(census);
//
// The failure shows the report of FindCycles, and the path of a picture for Graphviz. Include
// GoogleTest, too.
//
// Thread safety: needs quiet, as FindCycles does. Complexity: that of FindCycles.
#ifndef WEAKCACHE_WEAKREF_TESTING_H_
#define WEAKCACHE_WEAKREF_TESTING_H_

#include "weakcache/weakref/cycles.h"

#define EXPECT_NO_CYCLES(census) \
  EXPECT_EQ(::weakcache::internal::DescribeCycles(census, ::testing::TempDir()), "")

#endif  // WEAKCACHE_WEAKREF_TESTING_H_
