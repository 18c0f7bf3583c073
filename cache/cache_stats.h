// CacheStats: what a LargeObjectCache has done and holds, for an operator to read.
//
//   const weakcache::CacheStats stats = images.Stats();
//   const double saved = stats.weak_hits;      // loads that a cache without weak references
//   repeats
//
// Thread safety: a plain struct, as safe as an int.
//
// The counts of what has happened only grow; each is exact, but they are not taken at one instant.
// Complexity: O(1).
#ifndef WEAKCACHE_CACHE_CACHE_STATS_H_
#define WEAKCACHE_CACHE_CACHE_STATS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace weakcache {

struct CacheStats {
  // Look-ups that found an object that the cache retained; one that only users held; none.
  uint64_t hits = 0;
  uint64_t weak_hits = 0;
  uint64_t misses = 0;

  // Loads that were begun and are through, those of them that failed, and their time together.
  uint64_t loads = 0;
  uint64_t load_failures = 0;
  absl::Duration load_time;

  // Objects that the cache has let go: for the budget's sake, or as too old.
  uint64_t evictions_budget = 0;
  uint64_t evictions_age = 0;
  // Entries that ended otherwise. Died: the object's last user let it go.
  uint64_t removals_replaced = 0;
  uint64_t removals_invalidated = 0;
  uint64_t removals_died = 0;

  // Now: under the budget; in the cache only because somebody uses them (with objects that came as
  // references and have died, until they are purged); loads under way; entries of dead objects.
  uint64_t bytes_retained = 0;
  uint64_t bytes_pinned = 0;
  uint64_t loads_in_flight = 0;
  uint64_t expired_unpurged = 0;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CACHE_STATS_H_
