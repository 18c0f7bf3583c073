// SPDX-License-Identifier: Apache-2.0
// Figures of a cache that all its threads count, at next to no cost to a hit.
#ifndef WEAKCACHE_CACHE_INTERNAL_STATS_CACHE_COUNTERS_H_
#define WEAKCACHE_CACHE_INTERNAL_STATS_CACHE_COUNTERS_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/time/time.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/stats/load_time.h"

namespace weakcache::internal {

// A small number for each thread. Up to kOwned threads at a time have one that no other running
// thread has; the others share the numbers from there up to kAll.
//
// The attribute keeps it to one set of numbers per process, even if its libraries hide their
// symbols: with two, two threads would both take one number for their own.
class __attribute__((visibility("default"))) ThreadNumber {
 public:
  static constexpr uint32_t kOwned = 64;
  static constexpr uint32_t kAll = kOwned + 8;

  // Returns this thread's number, which is kAll or more until the thread has called Claim() once.
  static uint32_t Current() { return current_; }

  // Returns this thread's number, below kAll. It stays the same until the thread ends; in
  // destructors of thread_local variables it may be a shared one instead of its own.
  ABSL_ATTRIBUTE_NOINLINE static uint32_t Claim() {
    if (current_ < kAll) return current_;
    uint64_t taken = taken_.load(std::memory_order_relaxed);
    while (~taken != 0) {
      const uint64_t lowest_free = ~taken & (taken + 1);
      if (taken_.compare_exchange_weak(taken, taken | lowest_free, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
        static thread_local const Return at_end;
        static_cast<void>(at_end);
        return current_ = static_cast<uint32_t>(std::countr_zero(lowest_free));
      }
    }
    return current_ = NextShared();
  }

 private:
  struct Return {
    Return() = default;
    Return(const Return&) = delete;
    Return& operator=(const Return&) = delete;
    ~Return() {
      const uint64_t own = uint64_t{1} << current_;
      current_ = NextShared();
      taken_.fetch_and(~own, std::memory_order_release);
    }
  };

  static uint32_t NextShared() {
    return kOwned + next_shared_.fetch_add(1, std::memory_order_relaxed) % (kAll - kOwned);
  }

  // Bit i is set while a running thread has number i. A thread sets a bit that is not set, and
  // clears it as it ends. If a thread has cleared a bit (release) and another sets it (acquire),
  // then the other sees all that the first did with its number. A failed exchange concludes
  // nothing.
  inline static constinit std::atomic<uint64_t> taken_{0};
  // How many threads have taken a shared number, modulo 2^32. Any thread adds 1; relaxed, as it is
  // all the same which numbers they get.
  inline static constinit std::atomic<uint32_t> next_shared_{0};
  // This thread's number. It needs no destructor and thus can be used until the thread is gone.
  inline static constinit thread_local uint32_t current_ = kAll;
};

// Counts exactly, on any threads. Nobody waits, and nothing is allocated.
//
// A thread with a number of its own counts in a cell of its own, with a load and a store; others
// share cells and add atomically. In a hit, between the object's increment and decrement, the first
// costs about 0.3 ns, and an atomic addition 2.6 ns even if no other thread makes one in that cell
// (//benchmarks:cache_counters_benchmark). Gauges are counted the same way: a cell has what its
// thread has added, less what it has taken off, and only the sum of all cells has a meaning.
class CacheCounters {
 public:
  CacheCounters() = default;
  CacheCounters(const CacheCounters&) = delete;
  CacheCounters& operator=(const CacheCounters&) = delete;

  void CountHit() { Count(kHits, 1); }
  void CountWeakHit() { Count(kWeakHits, 1); }
  void CountMiss() { Count(kMisses, 1); }
  void CountFailureServed() { Count(kFailuresServed, 1); }
  void CountStaleServed() { Count(kStaleServed, 1); }
  // Counts what a hit has saved, if that is known.
  void CountTimeSaved(LoadTime time) { Count(kMicrosecondsSaved, time.microseconds()); }
  void CountRemoval(RemovalCause cause) { Count(kRemovals + static_cast<size_t>(cause), 1); }

  // Count an object that the cache has but does not retain, and one that stops being so.
  void Pinned(uint64_t bytes) { Count(kBytesPinned, AsPinned(bytes)); }
  void Unpinned(uint64_t bytes) { Count(kBytesPinned, uint64_t{0} - AsPinned(bytes)); }
  // Returns what an object counts for: some weigh UINT64_MAX, so as never to be retained, and the
  // sum of two of them would wrap round.
  static uint64_t AsPinned(uint64_t bytes) { return std::min(bytes, uint64_t{1} << 48); }
  // Returns the sum of all cells, modulo 2^64.
  uint64_t bytes_pinned() const {
    uint64_t sum = 0;
    for (const Cell& cell : cells_)
      sum += cell.counts[kBytesPinned].load(std::memory_order_relaxed);
    return sum;
  }

  void LoadBegan() { Count(kLoadsInFlight, 1); }
  // Counts an object that a load has given.
  void Loaded(uint64_t bytes) {
    if (IsWeight(bytes)) Count(kBytesLoaded, bytes);
  }
  // Whether an object counts in a sum that only grows: many of those above wrap it round.
  static bool IsWeight(uint64_t bytes) { return bytes <= uint64_t{1} << 48; }
  // Counts a load that took so long; a negative time, of a clock that was set back, is 0.
  void LoadEnded(int64_t nanoseconds, bool ok) {
    Count(kLoadsInFlight, uint64_t{0} - 1);
    if (!ok) Count(kLoadFailures, 1);
    const auto time = static_cast<uint64_t>(std::max<int64_t>(nanoseconds, 0));
    const uint32_t number = ThreadNumber::Claim();
    // Relaxed: see the field.
    load_times_[number % load_times_.size()].buckets[LoadTimeBucket(time)].fetch_add(
        1, std::memory_order_relaxed);
    AddTime(number, time);
  }

  // Records that a load has neither failed nor given an object: another process has it.
  void LoadWasLeft() { Count(kLoadsInFlight, uint64_t{0} - 1); }

  // Adds the counts so far to `stats`: all that happened before the call and, each figure on its
  // own, perhaps some that are made meanwhile.
  void AddTo(CacheStats* stats) const {
    std::array<uint64_t, kFigures> sums{};
    for (const Cell& cell : cells_) {
      for (size_t i = 0; i < kFigures; ++i) {
        sums[i] += cell.counts[i].load(std::memory_order_relaxed);
      }
      // On its own, as they may come to more than a count can be.
      stats->load_time += absl::Nanoseconds(
          static_cast<int64_t>(cell.counts[kLoadNanoseconds].load(std::memory_order_relaxed)));
    }
    stats->hits += sums[kHits];
    stats->weak_hits += sums[kWeakHits];
    stats->misses += sums[kMisses];
    const uint64_t* const removals = sums.data() + kRemovals;
    stats->evictions_budget += removals[static_cast<size_t>(RemovalCause::kBudget)];
    stats->evictions_expired += removals[static_cast<size_t>(RemovalCause::kExpired)];
    stats->removals_replaced += removals[static_cast<size_t>(RemovalCause::kReplaced)];
    stats->removals_invalidated += removals[static_cast<size_t>(RemovalCause::kInvalidated)];
    stats->removals_died += removals[static_cast<size_t>(RemovalCause::kDied)];
    stats->bytes_pinned += NotNegative(sums[kBytesPinned]);
    stats->loads_in_flight += NotNegative(sums[kLoadsInFlight]);
    stats->load_failures += sums[kLoadFailures];
    stats->failures_served += sums[kFailuresServed];
    stats->stale_served += sums[kStaleServed];
    constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
    stats->time_saved +=
        absl::Microseconds(static_cast<int64_t>(std::min(sums[kMicrosecondsSaved], kMost)));
    stats->bytes_loaded += sums[kBytesLoaded];
    for (const LoadTimes& times : load_times_) {
      for (size_t i = 0; i < CacheStats::kLoadTimeBuckets; ++i) {
        const uint64_t loads = times.buckets[i].load(std::memory_order_relaxed);
        stats->load_time_histogram[i] += loads;
        stats->loads += loads;
      }
    }
  }

 private:
  // A hit's figures are in a cell's first cache line, with figures that are rarely counted.
  enum : size_t {
    kHits,
    kWeakHits,
    kMisses,
    kRemovals,
    kBytesPinned = kRemovals + kRemovalCauses,
    kLoadsInFlight,
    kLoadFailures,
    kLoadNanoseconds,
    kFailuresServed,
    kStaleServed,
    kMicrosecondsSaved,
    kBytesLoaded,
    kFigures
  };

  struct alignas(64) Cell {
    // How often each thing happened in the threads with this number. In a cell with an owner's
    // number only that thread writes, and the next owner after it (see ThreadNumber::taken_, which
    // makes it go on from the last count); in a shared one any thread adds. Modulo 2^64; but the
    // nanoseconds end at the largest int64_t. Relaxed, all: no thread concludes from them that
    // anything else has happened.
    std::array<std::atomic<uint64_t>, kFigures> counts{};
  };
  static_assert(kBytesPinned == 8 && sizeof(Cell) == 128,
                "a count should touch one line, that no other thread writes");

  struct alignas(64) LoadTimes {
    // Any thread adds 1, and none concludes anything from them: relaxed. They only grow. `loads` of
    // CacheStats is the sum of the buckets, so that it is also their sum there.
    std::array<std::atomic<uint64_t>, CacheStats::kLoadTimeBuckets> buckets{};
  };

  // Returns 0 for a negative sum: the cells are read one after the other, so what a thread takes
  // off may be seen before what another has added.
  static uint64_t NotNegative(uint64_t sum) { return static_cast<int64_t>(sum) < 0 ? 0 : sum; }

  void Count(size_t figure, uint64_t change) {
    const uint32_t number = ThreadNumber::Current();
    if (ABSL_PREDICT_FALSE(number >= ThreadNumber::kOwned)) return CountSlow(figure, change);
    AddInOwnCell(cells_[number].counts[figure], change);
  }

  static void AddInOwnCell(std::atomic<uint64_t>& count, uint64_t change) {
    count.store(count.load(std::memory_order_relaxed) + change, std::memory_order_relaxed);
  }

  ABSL_ATTRIBUTE_NOINLINE void CountSlow(size_t figure, uint64_t change) {
    const uint32_t number = ThreadNumber::Claim();
    std::atomic<uint64_t>& count = cells_[number].counts[figure];
    if (number < ThreadNumber::kOwned) return AddInOwnCell(count, change);
    count.fetch_add(change, std::memory_order_relaxed);
  }

  // Does the same as CacheStats::LoadTimeBucket.
  static size_t LoadTimeBucket(uint64_t nanoseconds) {
    const uint64_t above_whole_microseconds = nanoseconds == 0 ? 0 : (nanoseconds - 1) / 1000;
    return std::min(static_cast<size_t>(std::bit_width(above_whole_microseconds)),
                    CacheStats::kLoadTimeBuckets - 1);
  }
  // Adds to the time in the cell of a thread with that number.
  void AddTime(uint32_t number, uint64_t nanoseconds) {
    std::atomic<uint64_t>& time = cells_[number].counts[kLoadNanoseconds];
    constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
    uint64_t sum = time.load(std::memory_order_relaxed);
    if (number < ThreadNumber::kOwned) {
      time.store(sum + std::min(nanoseconds, kMost - sum), std::memory_order_relaxed);
      return;
    }
    while (!time.compare_exchange_weak(sum, sum + std::min(nanoseconds, kMost - sum),
                                       std::memory_order_relaxed)) {
    }
  }

  std::array<Cell, ThreadNumber::kAll> cells_;
  std::array<LoadTimes, 4> load_times_;  // loads are rare: they don't want one for each thread
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_STATS_CACHE_COUNTERS_H_
