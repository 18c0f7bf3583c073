// SPDX-License-Identifier: Apache-2.0
// The shards of a LargeObjectCache: the tables that find its objects, and the loads under way.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_SHARDS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_SHARDS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "weakcache/cache/internal/concurrent/concurrent_table.h"
#include "weakcache/cache/internal/concurrent/sharding.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/loading/failure_table.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Thread-safe, with the tables' locks.
template <typename K, typename V, typename Hash, typename Equal, EvictionPolicy Policy>
class CacheShards {
 public:
  using Entry = CacheEntry<K, Policy>;
  using Table = ConcurrentTable<Ref<V>, CacheKey<K, Policy>>;
  using Slot = typename Table::Slot;
  using TableEntry = typename Table::Entry;
  using MutexLock = typename Table::MutexLock;
  using Flights = SingleFlight<LoadOutcome<V>, K, StdAtomics>;

  struct Shard {
    // See ShardArray.
    bool DropEntries() {
      const bool had_failures = DropFailures();
      return table.DropExternalEntries() || had_failures;
    }
    // Returns whether there were any. Their keys die without the lock, and may use the cache.
    bool DropFailures() {
      const auto dropped = [&] {
        const MutexLock lock(table.mutex);
        return failures.TakeAll();
      }();
      return dropped != nullptr;
    }

    Table table;
    Flights flights;           // guarded by the table's mutex
    Flights refreshes;         // the same; nobody waits for them
    FailureTable<K> failures;  // the same
  };
  struct KeyLocation {
    uint32_t hash() const { return static_cast<uint32_t>(key_hash >> kBitsBelowSlotHash); }
    Shard* shard;
    uint64_t key_hash;
  };

  // `keep_alive` lives as long as any of the entries.
  CacheShards(size_t count, Hash hash, Equal equal, const std::shared_ptr<const void>& keep_alive)
      : keys_(std::move(hash), std::move(equal)), shards_(count) {
    ForEachShard([&](Shard& shard) { shard.table.SetKeepAlive(keep_alive); });
  }

  template <typename Lookup>
  KeyLocation Locate(const Lookup& key) const {
    return LocateHash(MixedHash<Hash>(keys_.hash(key)));
  }
  KeyLocation LocateHash(uint64_t hash) const { return {&shards_.ForHash(hash), hash}; }

  // Return conditions on slots and on flights' keys. They refer to `key`, unless it is cheap to
  // copy.
  template <typename Lookup>
  auto Matching(const Lookup& key) const {
    if constexpr (kIsCheapToCompare<K, Equal>) {
      return [key](const Slot& slot) { return slot.payload().key == key; };
    } else {
      return [this, &key](const Slot& slot) { return keys_.equal(slot.payload().key, key); };
    }
  }
  template <typename Lookup>
  auto MatchingKey(const Lookup& key) const {
    return [this, &key](const K& present) { return keys_.equal(present, key); };
  }
  static auto MatchingEntry(const Entry& entry) {
    return [&entry](const Slot& slot) { return &slot.payload() == &entry.hot; };
  }

  // Calls `visit(shard)` for each shard.
  template <typename Visit>
  void ForEachShard(Visit&& visit) const {
    for (Shard& shard : shards_) visit(shard);
  }
  // Calls `visit(entry, object)` for each live object; without a lock.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    ForEachShard([&](Shard& shard) {
      shard.table.ForEach([&](const TableEntry& entry) {
        visit(std::as_const(Table::cold_part(entry.slot)), entry.object);
      });
    });
  }
  // Drops all entries, before the end, while all of the cache can still be used: see ShardArray.
  void DropEntries() const { shards_.DropEntries(); }

 private:
  KeyFunctions<Hash, Equal> keys_;
  const ShardArray<Shard> shards_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_SHARDS_H_
