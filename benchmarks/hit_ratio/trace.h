// SPDX-License-Identifier: Apache-2.0
// Traces of cache requests: reading them, and what share of their requests a cache answers.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_TRACE_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_TRACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace weakcache {

struct Request {
  uint64_t key;  // equal where the trace's keys are equal
  uint64_t weight;
};

// A request a line, `key` or `key size`, with or without gzip; `-` is the standard input. Sizes are
// 1 where they are missing or 0. Empty lines don't count.
absl::StatusOr<std::vector<Request>> ReadTrace(const std::string& path);

struct HitRatio {
  double objects = 0;
  double bytes = 0;
};

// `cache.Access(key, weight)` says whether the object was there, and keeps it from then on.
template <typename Cache>
HitRatio Replay(const std::vector<Request>& trace, Cache&& cache) {
  uint64_t hits = 0;
  double hit_bytes = 0;
  double bytes = 0;
  for (const Request& request : trace) {
    const auto weight = static_cast<double>(request.weight);
    bytes += weight;
    if (!cache.Access(request.key, request.weight)) continue;
    ++hits;
    hit_bytes += weight;
  }
  if (trace.empty()) return {};
  return {static_cast<double>(hits) / static_cast<double>(trace.size()), hit_bytes / bytes};
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_TRACE_H_
