// SPDX-License-Identifier: Apache-2.0
// The viewer's figures are what they always have been. After a change that is meant:
//   ./bazelw run //examples:prefetch_viewer >examples/prefetch_viewer/prefetch_viewer_golden.txt

#include <gtest/gtest.h>

#include "examples/golden.h"

namespace prefetch_viewer {
namespace {

TEST(PrefetchViewerTest, PrintsTheGoldenText) { examples::ExpectGoldenText("prefetch_viewer"); }

}  // namespace
}  // namespace prefetch_viewer
