// SPDX-License-Identifier: Apache-2.0
// What the example prints: a table, or CSV.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_REPORT_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "examples/image_cache/session.h"

namespace image_cache {

// The books after a look-up.
struct Sample {
  int64_t decodes = 0;
  int64_t live_bytes = 0;
  int64_t peak_bytes = 0;
};

struct ReportRow {
  std::string store;
  SessionResult result;
  std::string details;
  std::vector<Sample> samples;
};

// A table, and below it the details that there are.
std::string FormatReport(const std::vector<ReportRow>& rows);

// A line for each sample, and for each store a last one once every screen is empty. Bytes are of
// live images; `peak_bytes` is the most that there were so far, also during a look-up.
std::string FormatCsv(const std::vector<ReportRow>& rows);

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_REPORT_H_
