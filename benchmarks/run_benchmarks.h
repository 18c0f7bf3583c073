// SPDX-License-Identifier: Apache-2.0
// What every benchmark program does once it has registered its benchmarks.
#ifndef WEAKCACHE_BENCHMARKS_RUN_BENCHMARKS_H_
#define WEAKCACHE_BENCHMARKS_RUN_BENCHMARKS_H_

#include <benchmark/benchmark.h>

#include <atomic>
#include <string_view>
#include <thread>

namespace weakcache {

// Whether Google Benchmark mixes the repetitions of all benchmarks.
inline bool repetitions_are_interleaved = false;

// Returns the exit code. A second thread exists meanwhile: while a process has one, libstdc++
// counts shared_ptr without atomics and locks without locking, and the comparison would be none.
inline int RunBenchmarks(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--benchmark_enable_random_interleaving=true" ||
        argument == "--benchmark_enable_random_interleaving") {
      repetitions_are_interleaved = true;
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  std::atomic<bool> done{false};
  std::thread second([&] { done.wait(false); });
  benchmark::RunSpecifiedBenchmarks();
  done = true;
  done.notify_all();
  second.join();
  return 0;
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_RUN_BENCHMARKS_H_
