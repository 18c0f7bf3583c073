// SPDX-License-Identifier: Apache-2.0
// Holds what one operation removes from a cache or from its budget, until user code may run.
//
// The listener and destructors are user code. They may use the cache, wait for other threads that
// do, and even end the cache, so they must run after the operation has ended whatever others may
// wait for, be it a lock, a flight or a permit:
//
//   PendingRemovals removals;                          // declared first, so destroyed last
//   MutexLock lock(shard.mutex);
//   retention.AdmitNew(entry, reservation, removals);  // takes and releases the budget's lock
//   …                                                  // unlocks, calls the listener, objects die
//
// Notifications about one object must come one after the other and in the order of the removals,
// though the thread that reports the first may still be in the listener when the second happens.
// So each entry has a flag, `notifying`: whoever sets it reports, and looks again for a later cause
// before it clears the flag; whoever finds it set leaves its cause in `next_cause`.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_PENDING_REMOVALS_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_PENDING_REMOVALS_H_

#include <cstdint>
#include <optional>
#include <utility>

#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/slot/deferred_releases.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

template <typename K, EvictionPolicy Policy>
class Retention;

// Thread-compatible.
template <typename K, EvictionPolicy Policy>
class PendingRemovals {
 public:
  using Entry = CacheEntry<K, Policy>;

  PendingRemovals() = default;
  PendingRemovals(const PendingRemovals&) = delete;
  PendingRemovals& operator=(const PendingRemovals&) = delete;
  ~PendingRemovals() {
    FinishEviction();
    while (first_ != nullptr) {
      Entry* const entry = std::exchange(first_, first_->next_pending);
      ControlBlock* const slot = entry->slot;
      ControlBlock* const object = entry->object;
      const bool unused_at_eviction = NotifyListener(entry);
      const uint64_t weight = entry->object_weight();
      ControlBlock::DeferredReleases last;
      if (object->ReleaseStrong(last)) {
        CountFreed(weight);
        if (unused_at_eviction) entry->hot.ownership.SetEvictedUnused();
      }
      if (object != slot) slot->ReleaseStrong();
    }
  }

  // Counts a removal, and if there is a listener has it notified. The object, to which the caller
  // holds a reference, then lives until this is destroyed, so that its death is reported last. The
  // caller holds the budget's lock.
  void Add(Entry* entry, RemovalCause cause) {
    CacheShared<K>& shared = entry->shared();
    shared.counters.CountRemoval(cause);
    if (!shared.listener) return;
    if (entry->notifying) {
      entry->next_cause = cause;
      return;
    }
    entry->notifying = true;
    entry->cause = cause;
    entry->notified_weight = entry->own_weight();
    entry->slot->AddStrong();
    if (entry->object != entry->slot) entry->object->AddStrong();
    entry->next_pending = std::exchange(first_, entry);
  }

  // Records that the budget may still be exceeded, so that FinishEviction evicts more, in turns.
  void SetUnfinished(Retention<K, Policy>* retention) { unfinished_ = retention; }
  // Has to be called before any user code runs that might end the cache, without any lock. The
  // destructor calls it if nobody else has.
  void FinishEviction() {
    if (auto* const retention = std::exchange(unfinished_, nullptr)) {
      retention->FinishEviction(*this);
    }
  }

  // Returns whether there is no user code to run.
  bool empty() const { return first_ == nullptr && unfinished_ == nullptr && deferred.empty(); }

  // Counts an object whose last reference the operation has dropped.
  void CountFreed(uint64_t bytes) {
    if (freed_bytes != nullptr) *freed_bytes += bytes;
  }
  // Where CountFreed adds the bytes; may be null.
  uint64_t* freed_bytes = nullptr;

  // The time by which objects may have expired that the operation evicts: see Freshness::Now.
  int64_t now = 0;
  // References that the table or the budget drops.
  DeferredReleasesOf<ControlBlock::DeferredReleases> deferred;

 private:
  // Reports everything about an entry that is to be reported, in order. Returns whether nobody used
  // its object when it was evicted.
  static bool NotifyListener(Entry* entry) {
    CacheShared<K>& shared = entry->shared();
    for (;;) {
      shared.NotifyListener(entry->key(), entry->slot, entry->cause, entry->notified_weight);
      BasicMutexLock<StdAtomics> lock(shared.mutex);
      entry->notifying = entry->next_cause.has_value();
      if (!entry->notifying) {
        // Users may hold the object by now, such as the listener: see Retention::CountEvictedInUse.
        const bool counts = entry->in_cache && !entry->retained() && !entry->exceeds_budget;
        if (counts && entry->object->strong_count() > 1) entry->SetEvictedInUse(true);
        return entry->unused_at_eviction;
      }
      entry->cause = *std::exchange(entry->next_cause, std::nullopt);
      entry->notified_weight = entry->own_weight();
    }
  }

  Retention<K, Policy>* unfinished_ = nullptr;
  Entry* first_ = nullptr;  // linked by next_pending; holds a reference to each and its object
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_PENDING_REMOVALS_H_
