// What every benchmark program does once it has registered its benchmarks.
#ifndef WEAKCACHE_BENCHMARKS_RUN_BENCHMARKS_H_
#define WEAKCACHE_BENCHMARKS_RUN_BENCHMARKS_H_

#include <benchmark/benchmark.h>

#include <atomic>
#include <thread>

namespace weakcache {

// Returns the exit code. A second thread exists meanwhile: while a process has one, libstdc++
// counts shared_ptr without atomics and locks without locking, and the comparison would be none.
inline int RunBenchmarks(int argc, char** argv) {
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
