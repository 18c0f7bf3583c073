// SPDX-License-Identifier: Apache-2.0
// A million of two million objects end at once. Until the table has got rid of their entries, how
// long can a single operation take?
//
// Counters, in nanoseconds, of the operations that follow (insertions of new objects, and as many
// look-ups):
//   longest_ns         the longest one
//   p99999_ns          all but one in 100,000 are shorter
//   longest_always_ns  every repetition does the same operations in the same order; an operation
//                      counts with the least time that it has taken, and this is the longest
//   sweep_ns           one full sweep of the same table right after the expiry (weakcache's:
//                      purge())
//
// The time is that of all those operations. The machine interrupts operations of any length, so
// longest_ns and p99999_ns are each the least of a few repetitions, every one with a table of its
// own; the row of the floor, where nothing is left to purge, shows what is still the machine's
// share. Every measurement includes that of the clock, a few tens of ns.
#ifndef WEAKCACHE_BENCHMARKS_MASS_EXPIRY_H_
#define WEAKCACHE_BENCHMARKS_MASS_EXPIRY_H_

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/value_map_subjects.h"

namespace weakcache {

// SweptMap doubles its threshold from 16 on: it sweeps at 2,097,136 entries, which is just after
// the expiry.
inline constexpr size_t kMassEntries = 2'000'000;
inline constexpr size_t kMassOperations = 1'500'000;
inline constexpr int kMassRepetitions = 5;

// A table of kMassEntries, every second of which has expired.
template <typename Subject>
class ExpiredTable {
 public:
  ExpiredTable() {
    const size_t entries = kMassEntries + kMassOperations / 2;
    // All subjects get room for all that will ever be in them at once: it is not growth, which
    // rehashes a table whole, that is to be measured here.
    subject_.Reserve(entries);
    held_.reserve(entries);
    while (next_ < kMassEntries) held_.push_back(InsertNext());
    for (size_t i = 1; i < kMassEntries; i += 2) End(subject_, held_[i]);
    // glibc leaves it to the next allocation to sort what has been freed, up to 10,000 blocks.
    benchmark::DoNotOptimize(Subject::Make(0));
  }

  Subject& subject() { return subject_; }

  // Runs all operations; the i-th takes (*nanoseconds)[i]. False if an answer is wrong.
  bool Operate(std::vector<uint32_t>* nanoseconds) {
    std::mt19937_64 random(1);
    bool right = true;
    for (size_t i = 0; i < kMassOperations; ++i) {
      if (i % 2 == 0) {
        typename Subject::Strong inserted;
        (*nanoseconds)[i] = Measure([&] { inserted = InsertNext(); });
        right = right && static_cast<bool>(inserted);
        held_.push_back(std::move(inserted));
      } else {
        const size_t wanted = random() % next_;
        const int64_t key = KeyAt(wanted);
        bool found = false;
        (*nanoseconds)[i] = Measure([&] { found = static_cast<bool>(subject_.Get(key)); });
        right = right && found == static_cast<bool>(held_[wanted]);
      }
    }
    return right;
  }

 private:
  using Clock = std::chrono::steady_clock;

  template <typename Operation>
  static uint32_t Measure(Operation operation) {
    const Clock::time_point start = Clock::now();
    operation();
    const auto taken = std::chrono::nanoseconds(Clock::now() - start).count();
    return static_cast<uint32_t>(std::min<int64_t>(taken, std::numeric_limits<uint32_t>::max()));
  }

  typename Subject::Strong InsertNext() {
    const int64_t key = KeyAt(next_++);
    return subject_.Insert(key, key);
  }

  Subject subject_;
  std::vector<typename Subject::Strong> held_;
  size_t next_ = 0;
};

template <typename Subject>
void MeasureSweep(benchmark::State& state) {
  using Clock = std::chrono::steady_clock;
  ExpiredTable<Subject> table;
  const Clock::time_point start = Clock::now();
  if (table.subject().Sweep() != kMassEntries / 2) state.SkipWithError("wrong answer");
  state.counters["sweep_ns"] =
      static_cast<double>(std::chrono::nanoseconds(Clock::now() - start).count());
}

template <typename Subject>
void MassExpiry(benchmark::State& state) {
  constexpr uint32_t kNever = std::numeric_limits<uint32_t>::max();
  uint32_t longest = kNever;
  uint32_t rare = kNever;
  std::vector<uint32_t> nanoseconds(kMassOperations);
  std::vector<uint32_t> least(kMassOperations, kNever);
  for (auto _ : state) {
    ExpiredTable<Subject> table;
    if (!table.Operate(&nanoseconds)) state.SkipWithError("wrong answer");
    state.SetIterationTime(1e-9 * std::accumulate(nanoseconds.begin(), nanoseconds.end(), 0.0));
    for (size_t i = 0; i < kMassOperations; ++i) least[i] = std::min(least[i], nanoseconds[i]);
    const auto limit = nanoseconds.end() - kMassOperations / 100'000 - 1;
    std::nth_element(nanoseconds.begin(), limit, nanoseconds.end());
    rare = std::min(rare, *limit);
    longest = std::min(longest, *std::max_element(limit, nanoseconds.end()));
  }
  state.counters["longest_ns"] = longest;
  state.counters["p99999_ns"] = rare;
  state.counters["longest_always_ns"] = *std::max_element(least.begin(), least.end());
  if constexpr (requires(Subject subject) { subject.Sweep(); }) MeasureSweep<Subject>(state);
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_MASS_EXPIRY_H_
