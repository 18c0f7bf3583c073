// SPDX-License-Identifier: Apache-2.0
// What a count costs, alone and between an object's increment and decrement, as in a hit.
//
//   weakcache    CacheCounters: a cell for each thread, a load and a store
//   stripes      a cell for each thread, an atomic addition
//   one_atomic   one cell for all threads, an atomic addition
//   nothing      no count
//
// The column CPU is the time of one operation; the other is divided by the threads.
#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "benchmarks/run_benchmarks.h"
#include "weakcache/cache/internal/stats/cache_counters.h"

namespace weakcache {
namespace {

struct alignas(64) Cell {
  std::atomic<uint64_t> count{0};
};

class WeakcacheSubject {
 public:
  void Count() { counters_.CountHit(); }

 private:
  internal::CacheCounters counters_;
};

class StripesSubject {
 public:
  void Count() {
    uint32_t number = internal::ThreadNumber::Current();
    if (number >= cells_.size()) number = internal::ThreadNumber::Claim();
    cells_[number].count.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  std::array<Cell, internal::ThreadNumber::kAll> cells_;
};

class OneAtomicSubject {
 public:
  void Count() { cell_.count.fetch_add(1, std::memory_order_relaxed); }

 private:
  Cell cell_;
};

struct NothingSubject {
  void Count() {}
};

template <typename Subject>
void Alone(benchmark::State& state) {
  static Subject subject;
  for (auto _ : state) {
    subject.Count();
    benchmark::ClobberMemory();
  }
}

template <typename Subject>
void InAHit(benchmark::State& state) {
  static Subject subject;
  constexpr size_t kObjects = size_t{1} << 12;  // they stay in a processor's cache
  static std::vector<Cell> objects(kObjects);
  uint64_t random = static_cast<uint64_t>(state.thread_index()) + 1;
  for (auto _ : state) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    std::atomic<uint64_t>& uses = objects[(random >> 40) % kObjects].count;
    uses.fetch_add(1, std::memory_order_relaxed);
    subject.Count();
    uses.fetch_sub(1, std::memory_order_release);
  }
}

BENCHMARK_TEMPLATE(Alone, WeakcacheSubject)->Name("alone/weakcache")->ThreadRange(1, 2);
BENCHMARK_TEMPLATE(Alone, StripesSubject)->Name("alone/stripes")->ThreadRange(1, 2);
BENCHMARK_TEMPLATE(Alone, OneAtomicSubject)->Name("alone/one_atomic")->ThreadRange(1, 2);
BENCHMARK_TEMPLATE(Alone, NothingSubject)->Name("alone/nothing")->ThreadRange(1, 2);
BENCHMARK_TEMPLATE(InAHit, WeakcacheSubject)->Name("in_a_hit/weakcache")->ThreadRange(1, 2);
BENCHMARK_TEMPLATE(InAHit, StripesSubject)->Name("in_a_hit/stripes")->ThreadRange(1, 2);
BENCHMARK_TEMPLATE(InAHit, OneAtomicSubject)->Name("in_a_hit/one_atomic")->ThreadRange(1, 2);
BENCHMARK_TEMPLATE(InAHit, NothingSubject)->Name("in_a_hit/nothing")->ThreadRange(1, 2);

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) { return weakcache::RunBenchmarks(argc, argv); }
