// SPDX-License-Identifier: Apache-2.0
// Traces with one property each, for hit ratios. They are the same in each run.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_SYNTHETIC_TRACE_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_SYNTHETIC_TRACE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "benchmarks/hit_ratio/trace.h"

namespace weakcache {

struct SyntheticTrace {
  uint64_t capacity;  // in objects, for which the trace is meant
  std::vector<Request> requests;
};

// A hundred rounds over 1,011 objects in the same order; room for 202.
SyntheticTrace LoopTrace();

// Twenty epochs, each with every one of 3,000 objects once in an order of its own; room for 1,000.
// Programs that train a model on data read so.
SyntheticTrace ShuffledEpochsTrace();

// Requests of 10,000 objects by Zipf's law. After each 5,000 of them, 2,000 objects are read once
// one after the other. Room for 1,000.
SyntheticTrace ScanTrace();

// Requests of 2,000 objects by Zipf's law. After each 20,000 requests, 2,000 new objects take their
// place. Room for 500.
SyntheticTrace WorkingSetChangeTrace();
constexpr uint64_t kRequestsOfWorkingSet = 20'000;

// Requests of 10,000 objects by Zipf's law. Two thirds of all requests, at random, are of objects
// that are requested only once. Room for 1,000.
SyntheticTrace OneHitFloodTrace();

// The trace of that name: loop, shuffled_epochs, scan, working_set_change or one_hit_flood.
absl::StatusOr<SyntheticTrace> MakeSyntheticTrace(absl::string_view name);

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_SYNTHETIC_TRACE_H_
