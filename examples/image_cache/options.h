// SPDX-License-Identifier: Apache-2.0
// The command line of the example.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_OPTIONS_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "examples/image_cache/session.h"

namespace image_cache {

struct Options {
  SessionOptions session;
  int budget_mb = 128;
  int csv = 0;  // 1: CSV instead of the table
  std::vector<std::string> paths;
  bool help = false;
};

// `arguments` go without the program's name. The message of an error is one line for the user.
absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments);

std::string UsageText();

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_OPTIONS_H_
