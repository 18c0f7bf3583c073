// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/report.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace image_cache {
namespace {

std::string Megabytes(int64_t bytes) { return absl::StrFormat("%.1f MB", bytes / 1e6); }

std::vector<std::string> Cells(const ReportRow& row) {
  const SessionResult& result = row.result;
  return {
      row.store,
      absl::StrCat(result.lookups),
      absl::StrCat(result.decodes),
      absl::StrCat(result.hits),
      absl::StrCat(result.most_copies),
      Megabytes(result.peak_bytes),
      Megabytes(result.final_bytes),
      Megabytes(result.peak_resident_bytes),
      Megabytes(result.final_resident_bytes),
      absl::StrFormat("%.2f s", result.time.count()),
  };
}

}  // namespace

std::string FormatReport(const std::vector<ReportRow>& rows) {
  std::vector<std::vector<std::string>> lines = {{"store", "look-ups", "decodes", "hits",
                                                  "most copies", "peak live", "final live",
                                                  "peak RSS", "final RSS", "time"}};
  for (const ReportRow& row : rows) lines.push_back(Cells(row));

  std::vector<size_t> widths(lines[0].size());
  for (const std::vector<std::string>& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string text;
  for (const std::vector<std::string>& line : lines) {
    absl::StrAppendFormat(&text, "%-*s", widths[0], line[0]);
    for (size_t i = 1; i < line.size(); ++i) {
      absl::StrAppendFormat(&text, "  %*s", widths[i], line[i]);
    }
    absl::StrAppend(&text, "\n");
  }
  for (const ReportRow& row : rows) {
    if (!row.details.empty()) absl::StrAppend(&text, "\n", row.details);
  }
  return text;
}

std::string FormatCsv(const std::vector<ReportRow>& rows) {
  std::string text = "store,lookups,decodes,live_bytes,peak_bytes\n";
  const auto append = [&text](const std::string& store, size_t lookups, const Sample& sample) {
    absl::StrAppend(&text, store, ",", lookups, ",", sample.decodes, ",", sample.live_bytes, ",",
                    sample.peak_bytes, "\n");
  };
  for (const ReportRow& row : rows) {
    size_t lookups = 0;
    for (const Sample& sample : row.samples) append(row.store, ++lookups, sample);
    const SessionResult& result = row.result;
    append(row.store, lookups, {result.decodes, result.final_bytes, result.peak_bytes});
  }
  return text;
}

}  // namespace image_cache
