// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sstream>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "examples/shared_images/process.h"
#include "examples/shared_images/show.h"

namespace shared_images {
namespace {

TEST(SharedImagesTest, EachImageIsDecodedOnceInAllProcesses) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "there is no redis-server";
  std::ostringstream out;
  const absl::StatusOr<Report> report = Show({.processes = 3, .images = 20, .shown = 60}, out);
  ASSERT_TRUE(report.ok()) << report.status() << '\n' << out.str();
  // Each process's cache may drop what it loads until its tier has told that it is connected.
  EXPECT_GE(report->decodes_with_tier, report->different_images) << out.str();
  EXPECT_LE(report->decodes_with_tier, report->different_images + 3) << out.str();
  EXPECT_GT(report->decodes_without_tier, report->different_images + 3);
  EXPECT_GT(report->decodes_without_server, 0);
  EXPECT_EQ(report->failures, 0);
  // They have shown the new image after the change, and before they gave up.
  EXPECT_GT(report->change_seen, absl::ZeroDuration());
  EXPECT_GT(report->change_seen_after, absl::ZeroDuration());
}

}  // namespace
}  // namespace shared_images
