// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/version.h"

#include <gtest/gtest.h>

#include <string>

#if WEAKCACHE_VERSION < 100
#error "the preprocessor orders versions by one number"
#endif

namespace weakcache {
namespace {

TEST(VersionTest, TheStringAndTheMacrosAgree) {
  EXPECT_EQ(kVersion, std::to_string(WEAKCACHE_VERSION_MAJOR) + "." +
                          std::to_string(WEAKCACHE_VERSION_MINOR) + "." +
                          std::to_string(WEAKCACHE_VERSION_PATCH));
  EXPECT_EQ(WEAKCACHE_VERSION, WEAKCACHE_VERSION_MAJOR * 10000 + WEAKCACHE_VERSION_MINOR * 100 +
                                   WEAKCACHE_VERSION_PATCH);
}

}  // namespace
}  // namespace weakcache
