// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/hit_ratio/trace.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace weakcache {
namespace {

// zlib reads what is not gzip as it is.
absl::StatusOr<std::string> ReadFile(const std::string& path) {
  gzFile file = path == "-" ? gzdopen(dup(STDIN_FILENO), "rb") : gzopen(path.c_str(), "rb");
  if (file == nullptr) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  int count;
  while ((count = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()))) > 0) {
    text.append(buffer.data(), static_cast<size_t>(count));
  }
  // Closing tells of gzip files that end too early.
  if (const int closed = gzclose(file); count < 0 || closed != Z_OK) {
    return absl::DataLossError(absl::StrCat("cannot read ", path));
  }
  return text;
}

}  // namespace

absl::StatusOr<std::vector<Request>> ReadTrace(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return text.status();
  std::vector<Request> trace;
  absl::flat_hash_map<absl::string_view, uint64_t> keys;
  size_t line_number = 0;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    ++line_number;
    const std::vector<absl::string_view> fields =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (fields.empty()) continue;
    uint64_t weight = 1;
    if (fields.size() > 2 || (fields.size() == 2 && !absl::SimpleAtoi(fields[1], &weight))) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", line_number, ": not `key [size]`: ", line));
    }
    const uint64_t key = keys.try_emplace(fields[0], keys.size()).first->second;
    trace.push_back({key, std::max<uint64_t>(weight, 1)});
  }
  return trace;
}

void DrawLoadTimes(uint64_t spread, uint64_t seed, std::vector<Request>& trace) {
  for (Request& request : trace) {
    // One draw of SplitMix64, as in weakcache_replayer.h.
    uint64_t random = request.key + (seed + 1) * 0x9e3779b97f4a7c15;
    random = (random ^ (random >> 30)) * 0xbf58476d1ce4e5b9;
    random = (random ^ (random >> 27)) * 0x94d049bb133111eb;
    random ^= random >> 31;
    const double share = static_cast<double>(random >> 11) * 0x1p-53;
    request.load_time = static_cast<uint64_t>(1000 * std::pow(static_cast<double>(spread), share));
  }
}

}  // namespace weakcache
