// SPDX-License-Identifier: Apache-2.0
// The table that the example prints.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_REPORT_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_REPORT_H_

#include <string>
#include <vector>

#include "examples/image_cache/session.h"

namespace image_cache {

struct ReportRow {
  std::string store;
  SessionResult result;
  std::string details;
};

// A table, and below it the details that there are.
std::string FormatReport(const std::vector<ReportRow>& rows);

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_REPORT_H_
