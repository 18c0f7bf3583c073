// SPDX-License-Identifier: Apache-2.0
// The parts of weak_containers_benchmark.
#ifndef WEAKCACHE_BENCHMARKS_WEAK_CONTAINERS_BENCHMARK_H_
#define WEAKCACHE_BENCHMARKS_WEAK_CONTAINERS_BENCHMARK_H_

namespace weakcache {

void RegisterInternerBenchmarks();
void RegisterKeyMapBenchmarks();
void RegisterSetBenchmarks();

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_WEAK_CONTAINERS_BENCHMARK_H_
