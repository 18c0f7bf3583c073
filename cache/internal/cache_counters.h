// How a cache counts what happens.
#ifndef WEAKCACHE_CACHE_INTERNAL_CACHE_COUNTERS_H_
#define WEAKCACHE_CACHE_INTERNAL_CACHE_COUNTERS_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "cache/cache_stats.h"

namespace weakcache::internal {

// Thread-safe. One method for each event.
class CacheCounters {
 public:
  void Hit() { Add(hits_); }
  void WeakHit() { Add(weak_hits_); }
  void Miss() { Add(misses_); }
  void LoadBegan() { Add(loads_in_flight_); }
  void LoadEnded(bool succeeded, absl::Duration time) {
    Add(loads_);
    if (!succeeded) Add(load_failures_);
    Add(load_nanoseconds_, absl::ToInt64Nanoseconds(time));
    Add(loads_in_flight_, -1);
  }
  void EvictedForBudget() { Add(evictions_budget_); }
  void EvictedForAge() { Add(evictions_age_); }
  void Replaced() { Add(removals_replaced_); }
  void Invalidated() { Add(removals_invalidated_); }
  void Died() { Add(removals_died_); }
  // An object is in the cache without being retained, or no longer.
  void Pinned(uint64_t bytes) { Add(bytes_pinned_, static_cast<int64_t>(bytes)); }
  void Unpinned(uint64_t bytes) { Add(bytes_pinned_, -static_cast<int64_t>(bytes)); }

  uint64_t bytes_pinned() const { return Get(bytes_pinned_); }

  // Leaves alone what others count.
  void AddTo(CacheStats& stats) const {
    stats.hits = Get(hits_);
    stats.weak_hits = Get(weak_hits_);
    stats.misses = Get(misses_);
    stats.loads = Get(loads_);
    stats.load_failures = Get(load_failures_);
    stats.load_time = absl::Nanoseconds(static_cast<int64_t>(Get(load_nanoseconds_)));
    stats.evictions_budget = Get(evictions_budget_);
    stats.evictions_age = Get(evictions_age_);
    stats.removals_replaced = Get(removals_replaced_);
    stats.removals_invalidated = Get(removals_invalidated_);
    stats.removals_died = Get(removals_died_);
    stats.bytes_pinned = Get(bytes_pinned_);
    stats.loads_in_flight = Get(loads_in_flight_);
  }

 private:
  // Invariant of each: how often its event has happened, or how many bytes or loads there are now.
  // Any thread adds. Relaxed, all: nobody concludes from a count that anything else has happened.
  using Count = std::atomic<uint64_t>;
  static void Add(Count& count, int64_t change = 1) {
    count.fetch_add(static_cast<uint64_t>(change), std::memory_order_relaxed);
  }
  static uint64_t Get(const Count& count) { return count.load(std::memory_order_relaxed); }

  Count hits_{0};
  Count weak_hits_{0};
  Count misses_{0};
  Count loads_{0};
  Count load_failures_{0};
  Count load_nanoseconds_{0};
  Count evictions_budget_{0};
  Count evictions_age_{0};
  Count removals_replaced_{0};
  Count removals_invalidated_{0};
  Count removals_died_{0};
  Count bytes_pinned_{0};
  Count loads_in_flight_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CACHE_COUNTERS_H_
