// SPDX-License-Identifier: Apache-2.0
// What share of a trace's requests a cache answers, by number and by bytes: this library's policy,
// models of others to compare it with, and what none can exceed (`belady`).
//
//   hit_ratio --trace=FILE --capacity=N [--capacity=N…]
//   hit_ratio --synthetic=NAME [--capacity=N…]
//   hit_ratio … --load_time_spread=N [--seed=N]
//
// FILE has a request a line, `key` or `key size`, and may be compressed with gzip; `-` is the
// standard input. Capacities are in the trace's unit: bytes, or objects if it has no sizes. Prints
// one line of CSV for each. NAME is one of the traces of synthetic_trace.h, which says for which
// capacity each is meant. With a spread, the loads take from 1 to so many milliseconds, drawn by
// the seed: then there is also the share of that time that hits save, and the library's policy with
// ObjectValue::kTimeSaved. docs/eviction.md has the figures of public traces.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "benchmarks/hit_ratio/arc_model.h"
#include "benchmarks/hit_ratio/belady.h"
#include "benchmarks/hit_ratio/lirs_model.h"
#include "benchmarks/hit_ratio/lru_model.h"
#include "benchmarks/hit_ratio/s3_fifo_model.h"
#include "benchmarks/hit_ratio/sieve_model.h"
#include "benchmarks/hit_ratio/synthetic_trace.h"
#include "benchmarks/hit_ratio/trace.h"
#include "benchmarks/hit_ratio/w_tiny_lfu_model.h"
#include "benchmarks/hit_ratio/weakcache_replayer.h"

namespace weakcache {
namespace {

struct Options {
  std::string trace;
  std::string synthetic;
  std::vector<uint64_t> capacities;
  uint64_t load_time_spread = 0;  // 0: loads take no time
  uint64_t seed = 1;
};

// By hand: of a flag that is given twice, Abseil keeps the last.
bool Parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--trace=")) {
      options.trace = std::string(argument);
      continue;
    }
    if (absl::ConsumePrefix(&argument, "--synthetic=")) {
      options.synthetic = std::string(argument);
      continue;
    }
    if (absl::ConsumePrefix(&argument, "--load_time_spread=")) {
      if (!absl::SimpleAtoi(argument, &options.load_time_spread)) return false;
      continue;
    }
    if (absl::ConsumePrefix(&argument, "--seed=")) {
      if (!absl::SimpleAtoi(argument, &options.seed)) return false;
      continue;
    }
    uint64_t capacity = 0;
    if (!absl::ConsumePrefix(&argument, "--capacity=") || !absl::SimpleAtoi(argument, &capacity)) {
      return false;
    }
    options.capacities.push_back(capacity);
  }
  if (options.trace.empty()) return !options.synthetic.empty();
  return options.synthetic.empty() && !options.capacities.empty();
}

// `bazel run` starts a program elsewhere, and says where the user was.
std::string FromUsersDirectory(const std::string& path) {
  const char* const directory = std::getenv("BUILD_WORKING_DIRECTORY");
  if (directory == nullptr || path == "-" || absl::StartsWith(path, "/")) return path;
  return absl::StrCat(directory, "/", path);
}

// The trace that the options ask for. Sets the capacity if they have none.
absl::StatusOr<std::vector<Request>> GetTrace(Options& options) {
  if (!options.trace.empty()) return ReadTrace(FromUsersDirectory(options.trace));
  absl::StatusOr<SyntheticTrace> trace = MakeSyntheticTrace(options.synthetic);
  if (!trace.ok()) return trace.status();
  if (options.capacities.empty()) options.capacities.push_back(trace->capacity);
  return std::move(trace->requests);
}

template <typename Cache>
HitRatio ReplayWith(const std::vector<Request>& trace, uint64_t capacity) {
  return Replay(trace, Cache(capacity));
}

struct Subject {
  const char* name;
  HitRatio (*replay)(const std::vector<Request>&, uint64_t capacity);
};
constexpr Subject kSubjects[] = {
    {"weakcache", ReplayWith<WeakcacheReplayer>},
    {"lru", ReplayWith<LruModel>},
    {"arc", ReplayWith<ArcModel>},
    {"s3_fifo", ReplayWith<S3FifoModel>},
    {"sieve", ReplayWith<SieveModel>},
    {"lirs", ReplayWith<LirsModel>},
    {"w_tiny_lfu", ReplayWith<WTinyLfuModel>},
    {"w_tiny_lfu_fixed", ReplayWith<FixedWindowWTinyLfuModel>},
    {"belady", BestHitRatio},
};

constexpr Subject kTimeSaving = {"weakcache_time_saved", ReplayWith<TimeSavingReplayer>};

void Print(const std::vector<Request>& trace, const Options& options) {
  const bool with_times = options.load_time_spread != 0;
  std::vector<Subject> subjects(std::begin(kSubjects), std::end(kSubjects));
  // Belady's algorithm knows no times.
  if (with_times) subjects.back() = kTimeSaving;
  std::printf("capacity");
  for (const Subject& subject : subjects) {
    std::printf(",%s_objects,%s_bytes", subject.name, subject.name);
    if (with_times) std::printf(",%s_time", subject.name);
  }
  std::printf("\n");
  for (const uint64_t capacity : options.capacities) {
    std::printf("%llu", static_cast<unsigned long long>(capacity));
    for (const Subject& subject : subjects) {
      const HitRatio ratio = subject.replay(trace, capacity);
      std::printf(",%.4f,%.4f", ratio.objects, ratio.bytes);
      if (with_times) std::printf(",%.4f", ratio.load_time);
    }
    std::printf("\n");
  }
}

int Run(int argc, char** argv) {
  Options options;
  if (!Parse(argc, argv, options)) {
    std::fprintf(stderr,
                 "usage: hit_ratio --trace=FILE --capacity=N [--capacity=N…]\n"
                 "       hit_ratio --synthetic=NAME [--capacity=N…]\n"
                 "       hit_ratio … --load_time_spread=N [--seed=N]\n");
    return 2;
  }
  absl::StatusOr<std::vector<Request>> trace = GetTrace(options);
  if (!trace.ok()) {
    std::fprintf(stderr, "hit_ratio: %s\n", trace.status().ToString().c_str());
    return 1;
  }
  if (options.load_time_spread != 0) {
    DrawLoadTimes(options.load_time_spread, options.seed, *trace);
  }
  Print(*trace, options);
  return 0;
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) { return weakcache::Run(argc, argv); }
