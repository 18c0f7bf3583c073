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
  uint64_t load_time = 1000;  // in microseconds; the same for each request of a key
};

// A request a line, `key` or `key size`, with or without gzip; `-` is the standard input. Sizes are
// 1 where they are missing or 0. Empty lines don't count.
absl::StatusOr<std::vector<Request>> ReadTrace(const std::string& path);

// Sets the times that loads take: from a millisecond to `spread` milliseconds, evenly in their
// logarithm, by a hash of the key and the seed, so whatever the objects weigh.
void DrawLoadTimes(uint64_t spread, uint64_t seed, std::vector<Request>& trace);

struct HitRatio {
  double objects = 0;
  double bytes = 0;
  double load_time = 0;
};

// `cache.Access(key, weight)` says whether the object was there, and keeps it from then on. A cache
// that asks for it is also told the time of its load.
template <typename Cache>
HitRatio Replay(const std::vector<Request>& trace, Cache&& cache) {
  uint64_t hits = 0;
  double hit_bytes = 0;
  double bytes = 0;
  double hit_load_time = 0;
  double load_time = 0;
  const auto access = [&cache](const Request& request) {
    if constexpr (requires { cache.Access(request.key, request.weight, request.load_time); }) {
      return cache.Access(request.key, request.weight, request.load_time);
    } else {
      return cache.Access(request.key, request.weight);
    }
  };
  for (const Request& request : trace) {
    const auto weight = static_cast<double>(request.weight);
    const auto time = static_cast<double>(request.load_time);
    bytes += weight;
    load_time += time;
    if (!access(request)) continue;
    ++hits;
    hit_bytes += weight;
    hit_load_time += time;
  }
  if (trace.empty()) return {};
  return {static_cast<double>(hits) / static_cast<double>(trace.size()), hit_bytes / bytes,
          hit_load_time / load_time};
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_TRACE_H_
