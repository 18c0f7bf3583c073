// SPDX-License-Identifier: Apache-2.0
// Refreshes an object of a LargeObjectCache that has passed `refresh_after_write`.
//
// Such an object is stale, not expired: every look-up still gets it. The first GetOrLoad that finds
// it stale also loads a new object, on its own thread:
//
//   1. LookupOutcome, under the look-up's reference, sees that a refresh is due and that no other
//      thread has claimed it, and holds the entry.
//   2. Claim sets the entry's flag `refreshing` by an exchange, so that one thread wins. The others
//      return the stale object at once.
//   3. Refresh prepares a slot and runs the loader like a load (see cache_loads.h), but without a
//      flight: nobody waits for it. So a miss on the same key, after the stale object has been
//      invalidated, may load beside it.
//   4. EnterRefreshed takes the shard's lock and replaces the stale entry by the new one, if it is
//      that very entry which is still in the table. Otherwise the caller gets the new object, and
//      the cache keeps what it has.
//
// If the refresh fails, by a status or an exception, its caller gets the stale object; the failure
// only shows in the figures. The flag is cleared, so that the next GetOrLoad tries again, until the
// object expires by time.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_REFRESH_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_REFRESH_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Thread-safe. Loads is a CacheLoads, which outlives this.
template <typename Loads>
class CacheRefresh {
 public:
  using V = typename Loads::V;
  using Entry = typename Loads::Entry;
  using KeyLocation = typename Loads::KeyLocation;
  using PreparedSlot = typename Loads::PreparedSlot;
  using Reservation = typename Loads::Reservation;
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;

  explicit CacheRefresh(Loads& loads) : loads_(loads), store_(loads.store()) {}
  CacheRefresh(const CacheRefresh&) = delete;
  CacheRefresh& operator=(const CacheRefresh&) = delete;

  // Returns whether the refresh of the entry is the caller's.
  static bool Claim(Entry* entry) {
    // Relaxed: see the field.
    return !entry->refreshing.exchange(true, std::memory_order_relaxed);
  }

  // Returns a new object, which has replaced `stale` if that was still in the cache; or `stale`, if
  // there is none. The caller has claimed the refresh, and holds a reference to the entry's slot.
  template <typename Key, typename Loader>
  [[gnu::noinline]] Ref<V> Refresh(const KeyLocation& location, Ref<V> stale, Entry* entry,
                                   Key&& key, Loader&& loader, uint64_t estimate) {
    const ClaimGuard guard{entry};
#ifdef __cpp_exceptions
    try {
#endif
      using Made = typename Loads::template MadeBy<Loader>;
      Made made{};
      PreparedSlot prepared;
      LoadPermit permit(loads_.limiter());
      permit.Acquire();
      store_.template Prepare<Loads::template kIsEmbedded<Made>>(location, prepared,
                                                                 std::forward<Key>(key));
      Reservation reservation(store_.retention());
      reservation.Reserve(estimate);
      if (!loads_.Make(prepared.cold(), std::forward<Loader>(loader), made).ok()) return stale;
      return EnterRefreshed(location, prepared, made, entry, reservation);
#ifdef __cpp_exceptions
    } catch (...) {
      return stale;  // the failure has been counted
    }
#endif
  }

 private:
  struct ClaimGuard {
    // Relaxed: see the field.
    ~ClaimGuard() { entry->refreshing.store(false, std::memory_order_relaxed); }
    Entry* entry;
  };

  template <typename Made>
  Ref<V> EnterRefreshed(const KeyLocation& location, PreparedSlot& prepared, Made& made,
                        Entry* stale, Reservation& reservation) {
    auto& table = location.shard->table;
    typename Store::TableEntry present;
    typename Store::PendingRemovals removals(store_.retention());
    typename Store::MutexLock lock(table.mutex);
    present =
        table.FindLocked(location.hash(), store_.shards().MatchingEntry(*stale), removals.deferred);
    table.PurgeUpTo(Store::Table::kPurgesPerOperation, removals.deferred);
    if (present.slot == nullptr) {
      lock.unlock();
      return AsRef<V>(std::move(made));
    }
    return store_.Enter(table, location.hash(), prepared, made, present, RemovalCause::kReplaced,
                        reservation, removals);
  }

  Loads& loads_;
  Store& store_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_REFRESH_H_
