// SPDX-License-Identifier: Apache-2.0
// What a map of weak references costs in memory. The times mean nothing.
//
//   bytes_per_live_entry     `size` live objects, keys of 8 bytes: what the map takes beyond what
//                            the same objects take without it
//   bytes_per_expired_entry  all of them have expired and nothing has been purged: what the map
//                            and the dead objects still hold (the floor's leave at once, so it has
//                            no such figure)
//
// Counted is what glibc's malloc has handed out, with what it adds to each block. Some hundred
// freed blocks count as handed out, so a byte or two an entry are uncertain at 1,000. Nothing is
// reserved: the sizes between the powers of ten show how the tables grow.
#ifndef WEAKCACHE_BENCHMARKS_VALUE_MAP_MEMORY_H_
#define WEAKCACHE_BENCHMARKS_VALUE_MAP_MEMORY_H_

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/value_map_subjects.h"

namespace weakcache {

template <typename Subject>
int64_t BytesOfObjects(size_t size) {
  std::vector<decltype(Subject::Make(0))> objects;
  objects.reserve(size);
  const int64_t before = AllocatedBytes();
  for (size_t i = 0; i < size; ++i) objects.push_back(Subject::Make(KeyAt(i)));
  return AllocatedBytes() - before;
}

template <typename Subject>
void MapMemory(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  const auto per_entry = [size](int64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(size);
  };
  for (auto _ : state) {
    const int64_t objects = BytesOfObjects<Subject>(size);
    std::vector<typename Subject::Strong> held;
    held.reserve(size);
    const int64_t before = AllocatedBytes();
    Subject subject;
    for (size_t i = 0; i < size; ++i) held.push_back(subject.Insert(KeyAt(i), KeyAt(i)));
    state.counters["bytes_per_live_entry"] = per_entry(AllocatedBytes() - before - objects);
    for (size_t i = 0; i < size; ++i) {
      if (!subject.Get(KeyAt(i))) state.SkipWithError("wrong answer");
    }
    held.clear();
    if constexpr (!kRemovesAtEnd<Subject>) {
      state.counters["bytes_per_expired_entry"] = per_entry(AllocatedBytes() - before);
      if (subject.Get(KeyAt(0))) state.SkipWithError("wrong answer");
    }
  }
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_VALUE_MAP_MEMORY_H_
