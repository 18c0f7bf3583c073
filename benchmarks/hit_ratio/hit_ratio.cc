// SPDX-License-Identifier: Apache-2.0
// What share of a trace's requests a cache answers, by number and by bytes: this library's policy,
// and models of others to compare it with.
//
//   hit_ratio --trace=FILE --capacity=N [--capacity=N…]
//
// FILE has a request a line, `key` or `key size`, and may be compressed with gzip; `-` is the
// standard input. Capacities are in the trace's unit: bytes, or objects if it has no sizes. Prints
// one line of CSV for each. docs/eviction.md has the figures of public traces.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "benchmarks/hit_ratio/arc_model.h"
#include "benchmarks/hit_ratio/lru_model.h"
#include "benchmarks/hit_ratio/s3_fifo_model.h"
#include "benchmarks/hit_ratio/trace.h"
#include "benchmarks/hit_ratio/weakcache_replayer.h"

namespace weakcache {
namespace {

struct Options {
  std::string trace;
  std::vector<uint64_t> capacities;
};

// By hand: of a flag that is given twice, Abseil keeps the last.
bool Parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--trace=")) {
      options.trace = std::string(argument);
      continue;
    }
    uint64_t capacity = 0;
    if (!absl::ConsumePrefix(&argument, "--capacity=") || !absl::SimpleAtoi(argument, &capacity)) {
      return false;
    }
    options.capacities.push_back(capacity);
  }
  return !options.trace.empty() && !options.capacities.empty();
}

// `bazel run` starts a program elsewhere, and says where the user was.
std::string FromUsersDirectory(const std::string& path) {
  const char* const directory = std::getenv("BUILD_WORKING_DIRECTORY");
  if (directory == nullptr || path == "-" || absl::StartsWith(path, "/")) return path;
  return absl::StrCat(directory, "/", path);
}

template <typename Cache>
void Print(const std::vector<Request>& trace, uint64_t capacity) {
  const HitRatio ratio = Replay(trace, Cache(capacity));
  std::printf(",%.4f,%.4f", ratio.objects, ratio.bytes);
}

int Run(int argc, char** argv) {
  Options options;
  if (!Parse(argc, argv, options)) {
    std::fprintf(stderr, "usage: hit_ratio --trace=FILE --capacity=N [--capacity=N…]\n");
    return 2;
  }
  const absl::StatusOr<std::vector<Request>> trace = ReadTrace(FromUsersDirectory(options.trace));
  if (!trace.ok()) {
    std::fprintf(stderr, "hit_ratio: %s\n", trace.status().ToString().c_str());
    return 1;
  }
  std::printf(
      "capacity,weakcache_objects,weakcache_bytes,lru_objects,lru_bytes,arc_objects,arc_bytes,"
      "s3_fifo_objects,s3_fifo_bytes\n");
  for (const uint64_t capacity : options.capacities) {
    std::printf("%llu", static_cast<unsigned long long>(capacity));
    Print<WeakcacheReplayer>(*trace, capacity);
    Print<LruModel>(*trace, capacity);
    Print<ArcModel>(*trace, capacity);
    Print<S3FifoModel>(*trace, capacity);
    std::printf("\n");
  }
  return 0;
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) { return weakcache::Run(argc, argv); }
