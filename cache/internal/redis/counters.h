// SPDX-License-Identifier: Apache-2.0
// The figures of a RedisTier.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_COUNTERS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_COUNTERS_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache::internal {

// Thread-safe. Each is a sum that nothing else depends on, so all accesses are relaxed.
struct TierCounters {
  using Counter = std::atomic<uint64_t>;

  static void Add(Counter& counter, uint64_t n = 1) {
    counter.fetch_add(n, std::memory_order_relaxed);
  }
  void AddFailure(const absl::Status& status) {
    Add(errors);
    if (absl::IsDeadlineExceeded(status)) Add(timeouts);
  }

  TierStats Read() const {
    const auto read = [](const Counter& counter) {
      return counter.load(std::memory_order_relaxed);
    };
    TierStats stats;
    stats.hits = read(hits);
    stats.misses = read(misses);
    stats.errors = read(errors);
    stats.timeouts = read(timeouts);
    stats.puts = read(puts);
    stats.erases = read(erases);
    stats.bytes_read = read(bytes_read);
    stats.bytes_written = read(bytes_written);
    stats.skipped_values = read(skipped_values);
    stats.leases_won = read(leases_won);
    stats.leases_awaited = read(leases_awaited);
    stats.leases_lost = read(leases_lost);
    stats.notices = read(notices);
    stats.dropped_changes = read(dropped_changes);
    stats.read_time = absl::Nanoseconds(static_cast<int64_t>(read(read_ns)));
    stats.write_time = absl::Nanoseconds(static_cast<int64_t>(read(write_ns)));
    return stats;
  }

  Counter hits = 0;
  Counter misses = 0;
  Counter errors = 0;
  Counter timeouts = 0;
  Counter puts = 0;
  Counter erases = 0;
  Counter bytes_read = 0;
  Counter bytes_written = 0;
  Counter skipped_values = 0;
  Counter leases_won = 0;
  Counter leases_awaited = 0;
  Counter leases_lost = 0;
  Counter notices = 0;
  Counter dropped_changes = 0;
  Counter read_ns = 0;
  Counter write_ns = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_COUNTERS_H_
