// SPDX-License-Identifier: Apache-2.0
// Removes many objects of a LargeObjectCache, and cancels loads of their keys.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_INVALIDATION_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_INVALIDATION_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "weakcache/cache/internal/core/freshness.h"
#include "weakcache/cache/internal/core/load_failures.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Thread-safe. Store is a CacheStore, which outlives this.
template <typename Store>
class CacheInvalidation {
 public:
  using K = typename Store::Key;
  using V = typename Store::Value;
  using Entry = typename Store::Entry;

  explicit CacheInvalidation(Store& store) : store_(store) {}
  CacheInvalidation(const CacheInvalidation&) = delete;
  CacheInvalidation& operator=(const CacheInvalidation&) = delete;

  // Does LargeObjectCache::InvalidateIf. Cancels the loads first: then every object that one of
  // them has entered before is found.
  template <typename Condition>
  size_t InvalidateIf(Condition& condition) {
    constexpr bool kOnObject = std::is_invocable_v<Condition&, const K&, const Ref<V>&>;
    if constexpr (kOnObject) {
      CancelLoads();
    } else {
      CancelLoadsIf(condition);
    }
    size_t removed = 0;
    const int64_t now = store_.freshness().NowIfNeeded();
    store_.shards().ForEach([&](const Entry& entry, const Ref<V>& object) {
      if constexpr (kOnObject) {
        if (!condition(entry.key(), object)) return;
      } else {
        if (!condition(entry.key())) return;
      }
      // Marks an object that has expired idle before Remove looks at it: by then this thread's own
      // reference would make it seem to be in use.
      static_cast<void>(IsExpired(entry, now));
      removed += store_.Remove(entry, RemovalCause::kInvalidated, now) ? 1u : 0u;
    });
    return removed;
  }
  // Does LargeObjectCache::Clear.
  size_t RemoveAll() {
    const auto any = [](const K&, const Ref<V>&) { return true; };
    return InvalidateIf(any);
  }
  // Does LargeObjectCache::InvalidateGroup. Invalidates the objects first, and then cancels loads:
  // so each load either has begun afterwards, or is cancelled here, or has entered its object with
  // an earlier stamp.
  void InvalidateGroup(uint32_t group) {
    store_.freshness().InvalidateGroup(group);
    store_.shards().ForEachShard([group](Shard& shard) {
      {
        MutexLock lock(shard.table.mutex);
        shard.flights.CancelGroup(group);
        shard.refreshes.CancelGroup(group);
      }
      LoadFailures<Store>::ForgetGroup(shard, group);
    });
    store_.retention().SearchInvalidated();
  }
  // Makes all objects unverified, cancels the loads and refreshes under way, so that nobody joins
  // them, and forgets kept failures. A load that ends between the two steps enters its object
  // unverified.
  void MakeAllUnverified() {
    store_.freshness().MakeAllUnverified();
    CancelLoads();
  }
  // Removes all objects that have expired by time, and are not kept for loads that fail; and those
  // of groups that have been invalidated.
  void RemoveExpired() {
    const Freshness& freshness = store_.freshness();
    const int64_t now = freshness.NowIfNeeded();
    store_.shards().ForEach([&](const Entry& entry, const Ref<V>&) {
      if (!IsExpired(entry, now) || !freshness.IsRemovable(entry, now)) return;
      store_.Remove(entry, RemovalCause::kExpired, now);
    });
  }

 private:
  // Returns whether an object that ForEach visits has expired.
  bool IsExpired(const Entry& entry, int64_t now) const {
    const size_t own = entry.is_embedded() ? 2 : 1;  // to the slot, and to the object
    return store_.freshness().needed() && store_.freshness().IsExpiredUnlessInUse(entry, now, own);
  }

  using KeyLocation = typename Store::KeyLocation;
  using Shard = typename Store::Shard;
  using MutexLock = typename Store::MutexLock;

  // Cancels the loads and refreshes under way: what they load does not enter the cache. Forgets the
  // failures of earlier ones.
  void CancelLoads() {
    store_.shards().ForEachShard([](Shard& shard) {
      {
        MutexLock lock(shard.table.mutex);
        shard.flights.CancelAll();
        shard.refreshes.CancelAll();
      }
      LoadFailures<Store>::ForgetIf(shard, [](const K&) { return true; });
    });
  }

  // Does the same only for keys for which `condition(key)` is true, which is called without a lock.
  // Where keys can't be copied for that, cancels all loads.
  template <typename Condition>
  void CancelLoadsIf(Condition& condition) {
    if constexpr (!std::is_copy_constructible_v<K>) {
      CancelLoads();
    } else {
      store_.shards().ForEachShard([&](Shard& shard) {
        CancelLoadsIf(shard, condition, /*hash=*/0, /*bits=*/0);
        LoadFailures<Store>::ForgetIf(shard, condition);
      });
    }
  }
  // Does the same for the loads whose keys' hashes have those lowest bits. Copies no more than 64
  // keys under the lock, unless more have the same hash: if there are more, splits them into two
  // parts.
  template <typename Condition>
  void CancelLoadsIf(Shard& shard, Condition& condition, uint32_t hash, int bits) {
    std::vector<K> keys;
    bool complete = true;
    {
      MutexLock lock(shard.table.mutex);
      const auto copy = [&](const K& key) {
        constexpr size_t kMaxKeys = 64;
        if (keys.empty()) keys.reserve(kMaxKeys);
        complete = keys.size() < kMaxKeys || bits == 32;
        if (complete) keys.push_back(key);
        return complete;
      };
      shard.flights.ForEachKey(hash, bits, copy);
      if (complete) shard.refreshes.ForEachKey(hash, bits, copy);
    }
    if (!complete) {
      keys.clear();
      CancelLoadsIf(shard, condition, hash, bits + 1);
      CancelLoadsIf(shard, condition, hash | uint32_t{1} << bits, bits + 1);
      return;
    }
    for (const K& key : keys) {
      if (condition(key)) CancelLoad(key);
    }
  }
  // Cancels the load of the key that is under way, if any, and refreshes.
  void CancelLoad(const K& key) {
    const typename Store::template LookupKeyOf<K> lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    MutexLock lock(location.shard->table.mutex);
    for (auto* const flights : {&location.shard->flights, &location.shard->refreshes}) {
      // A key may be refreshed twice at a time, if it was invalidated in between.
      for (;;) {
        const auto match = store_.shards().MatchingKey(lookup);
        auto* const flight = flights->Find(location.hash(), match).flight;
        if (flight == nullptr || flight->queued()) break;
        flights->Cancel(*flight);
      }
    }
  }

  Store& store_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_INVALIDATION_H_
