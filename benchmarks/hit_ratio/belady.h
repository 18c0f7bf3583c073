// SPDX-License-Identifier: Apache-2.0
// What no policy can exceed, because this one knows the future.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_BELADY_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_BELADY_H_

#include <cstdint>
#include <vector>

#include "benchmarks/hit_ratio/trace.h"

namespace weakcache {

// The best hit ratios that a cache of that capacity can have. Where all weights are equal they are
// exact: Belady's algorithm keeps the objects that are requested next (1966). Otherwise they are
// bounds, one for the objects and one for the bytes, which a cache may be unable to reach: a hit
// takes an object's weight from one request to the next, and all hits together have the capacity
// at each step (PFOO-U of Berger, Beckmann and Harchol-Balter, 2018, with one segment).
HitRatio BestHitRatio(const std::vector<Request>& trace, uint64_t capacity);

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_BELADY_H_
