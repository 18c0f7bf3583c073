// What of a cache there is at the moment, beside what has happened (cache_counters.h).
#ifndef WEAKCACHE_CACHE_INTERNAL_CACHE_GAUGES_H_
#define WEAKCACHE_CACHE_INTERNAL_CACHE_GAUGES_H_

#include <atomic>
#include <cstdint>

#include "cache/cache_stats.h"

namespace weakcache::internal {

class CacheGauges {
 public:
  void LoadBegan() { Add(loads_in_flight_, 1); }
  void LoadEnded() { Add(loads_in_flight_, uint64_t{0} - 1); }
  // An object is in the cache without being retained, or no longer.
  void Pinned(uint64_t bytes) { Add(bytes_pinned_, bytes); }
  void Unpinned(uint64_t bytes) { Add(bytes_pinned_, uint64_t{0} - bytes); }

  uint64_t bytes_pinned() const { return bytes_pinned_.load(std::memory_order_relaxed); }

  void AddTo(CacheStats* stats) const {
    stats->bytes_pinned = bytes_pinned();
    stats->loads_in_flight = loads_in_flight_.load(std::memory_order_relaxed);
  }

 private:
  // Relaxed, all: nobody concludes from a gauge that anything else has happened.
  static void Add(std::atomic<uint64_t>& gauge, uint64_t change) {
    gauge.fetch_add(change, std::memory_order_relaxed);
  }

  // Invariant of each: how many bytes or loads there are now. Any thread adds and takes off.
  std::atomic<uint64_t> bytes_pinned_{0};
  std::atomic<uint64_t> loads_in_flight_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CACHE_GAUGES_H_
