// SPDX-License-Identifier: Apache-2.0
// What a LargeObjectCache consists of:
//
//   CacheCore ── CacheAsks ──── CacheLoads ──── CacheStore ─── CacheShards ── tables, flights
//                CacheRefresh   LoadLimiter     Freshness      Retention ──── Policy
//
// The store finds objects, puts them in and removes them (cache_store.h walks through a hit); the
// loads make missing ones (cache_loads.h walks through a miss); the refresh replaces stale ones;
// the asks decide which of these is to be done. This file puts the parts together, and has the
// operations on the whole cache: weights, ranks, figures and invariants. Those that remove many
// objects are in cache_invalidation.h.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_CORE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/cache_holders.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/core/bulk_load.h"
#include "weakcache/cache/internal/core/cache_asks.h"
#include "weakcache/cache/internal/core/cache_invalidation.h"
#include "weakcache/cache/internal/core/cache_loads.h"
#include "weakcache/cache/internal/core/cache_settings.h"
#include "weakcache/cache/internal/core/cache_store.h"
#include "weakcache/cache/internal/core/check_options.h"
#include "weakcache/cache/internal/core/tier_target.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"
#include "weakcache/cache/internal/stats/holder_sampler.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/object_info.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::internal {

// Thread-safe.
template <typename K, typename V, typename Hash, typename Equal,
          EvictionPolicy Policy = LazyGreedyDual>
class CacheCore {
 public:
  using Store = CacheStore<K, V, Hash, Equal, Policy>;
  using Entry = typename Store::Entry;
  using PendingRemovals = typename Store::PendingRemovals;
  using Result = absl::StatusOr<Ref<V>>;
  using Asks = CacheAsks<CacheLoads<Store>>;

  CacheCore(CacheSettings<K, V> settings, Hash hash, Equal equal)
      : loads_(store_, settings.max_concurrent_loads, std::move(settings.failure_ttl),
               settings.tier),
        asks_(loads_, settings.refresh_executor),
        store_(settings, std::move(hash), std::move(equal)) {
    if (loads_.tier() != nullptr) AttachTo(*loads_.tier());
  }
  CacheCore(const CacheCore&) = delete;
  CacheCore& operator=(const CacheCore&) = delete;
  ~CacheCore() {
    asks_.Close();
    if (loads_.tier() != nullptr) loads_.tier()->Detach();
  }

  Store& store() { return store_; }
  const Store& store() const { return store_; }
  // Returns the part for GetOrLoad, GetOrLoadAsync and Refresh.
  Asks& asks() { return asks_; }
  const LoadLimiter& limiter() { return loads_.limiter(); }

  template <typename Key>
  Ref<V> Get(const Key& key) {
    return store_.Get(key);
  }

  template <typename Key, typename Made>
  Ref<V> Put(Key&& key, Made made, const ObjectTerms& terms = {}) {
    const std::shared_ptr<ObjectTier<K, V>> tier = loads_.tier();  // user code may end the cache
    const TierTurnPtr<V> turn = BeginChange(key);
    Ref<V> object = store_.Put(std::forward<Key>(key), std::move(made), terms,
                               [&] { loads_.limiter().NotifyChange(); });
    if (tier != nullptr) [[unlikely]]
      PutInTier(*tier, turn.get(), object, terms);
    return object;
  }

  template <typename Loader>
  std::vector<Result> GetAll(absl::Span<const K> keys, Loader& loader, const LoadOptions& options) {
    if constexpr (kTakesKeyAndStopToken<Loader&, std::vector<K>>) {
      StoppableLoader<std::vector<K>, Loader&> bound(loader, options);
      return BulkLoad<CacheLoads<Store>, decltype(bound)>(loads_, keys, bound, bound.Request())
          .Run();
    } else {
      return BulkLoad<CacheLoads<Store>, Loader>(loads_, keys, loader, {options}).Run();
    }
  }

  // Convert what a user gives to Put or PutIfAbsent, and put it.
  template <typename Key, typename Object>
  Ref<V> PutMade(Key&& key, Object&& object) {
    const ObjectTerms terms = TermsOf(object);
    auto made = MakeFrom<V>(std::remove_cvref_t<Object>(std::forward<Object>(object)));
    Check(OwnsObject(made), "LargeObjectCache::Put", "there is no object");
    return Put(std::forward<Key>(key), std::move(made), terms);
  }
  template <typename Key, typename Object>
  std::pair<Ref<V>, bool> PutMadeIfAbsent(Key&& key, Object&& object) {
    const ObjectTerms terms = TermsOf(object);
    auto made = MakeFrom<V>(std::remove_cvref_t<Object>(std::forward<Object>(object)));
    Check(OwnsObject(made), "LargeObjectCache::PutIfAbsent", "there is no object");
    const std::shared_ptr<ObjectTier<K, V>> tier = loads_.tier();  // user code may end the cache
    const TierTurnPtr<V> turn = BeginChange(key);
    auto result = store_.PutIfAbsent(std::forward<Key>(key), std::move(made), terms,
                                     [&] { loads_.limiter().NotifyChange(); });
    if (tier != nullptr && result.second) [[unlikely]]
      PutInTier(*tier, turn.get(), result.first, terms);
    return result;
  }

  // Do the same as LargeObjectCache's functions of the same names.
  template <typename Key>
  bool Invalidate(const Key& key) {
    if (loads_.tier() == nullptr) [[likely]]
      return store_.Invalidate(key);
    const EvictionPause<K, V> pause(loads_.tier());
    EraseInTier(key);
    return store_.Invalidate(key);
  }
  template <typename Key>
  bool Invalidate(const Key& key, const WeakRef<V>& expected) {
    if (loads_.tier() == nullptr) [[likely]]
      return store_.Invalidate(key, expected);
    const TierTurnPtr<V> turn = BeginChange(key);
    bool has_successor = false;
    const bool removed = store_.InvalidateUnlessReplaced(key, expected, has_successor);
    // What the tier has may be that object, unless the cache has its successor. (User code may have
    // ended the cache.)
    if (turn != nullptr && !has_successor) turn->Erase();
    return removed;
  }

  // Do the same as LargeObjectCache's functions of the same names.
  template <typename Condition>
  size_t InvalidateIf(Condition& condition) {
    const EvictionPause<K, V> pause(loads_.tier());
    if (loads_.tier() != nullptr) [[unlikely]] {
      // A condition on objects can't be tested on encoded ones, so everything is erased.
      if constexpr (std::is_invocable_v<Condition&, const K&, const Ref<V>&>) {
        loads_.tier()->EraseAll();
      } else {
        loads_.tier()->EraseIf([&](const K& key) { return static_cast<bool>(condition(key)); });
      }
    }
    return CacheInvalidation<Store>(store_).InvalidateIf(condition);
  }
  void InvalidateGroup(uint32_t group) {
    const EvictionPause<K, V> pause(loads_.tier());
    if (loads_.tier() != nullptr) loads_.tier()->EraseGroup(group);
    CacheInvalidation<Store>(store_).InvalidateGroup(group);
  }
  void Clear() {
    const EvictionPause<K, V> pause(loads_.tier());
    if (loads_.tier() != nullptr) loads_.tier()->EraseAll();
    CacheInvalidation<Store>(store_).RemoveAll();
  }
  void Purge() {
    CacheInvalidation<Store>(store_).RemoveExpired();
    loads_.failures().Purge();
    PurgeDead();
  }
  uint64_t SetBudget(uint64_t bytes) {
    Check(IsBudget(bytes), "LargeObjectCache::SetBudget", "a negative budget");
    return CountFreed(
        [&](PendingRemovals& removals) { store_.retention().SetBudget(bytes, removals); });
  }
  uint64_t Trim(uint64_t bytes) {
    return CountFreed([&](PendingRemovals& removals) { store_.retention().Trim(bytes, removals); });
  }
  uint64_t SetHardLimit(uint64_t bytes) {
    CheckHasHardLimit("LargeObjectCache::SetHardLimit");
    Check(IsBudget(bytes), "LargeObjectCache::SetHardLimit", "a negative limit");
    return CountFreed(
        [&](PendingRemovals& removals) { store_.retention().SetHardLimit(bytes, removals); });
  }
  uint64_t charged_bytes() const {
    CheckHasHardLimit("LargeObjectCache::charged_bytes");
    return store_.retention().hard_limit().used();
  }

  // Weighs an object anew. Returns false if there is none.
  template <typename Key>
  bool UpdateWeight(const Key& key) {
    const typename Store::template LookupKeyOf<Key> lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    PendingRemovals removals;
    removals.now = store_.freshness().RoughNow();
    typename Store::Outcome outcome(store_.freshness());
    const auto match = store_.shards().Matching(lookup);
    const Ref<V> object = store_.FindHeld(location, match, outcome);
    if (object.get() == nullptr) return false;
    Entry* const entry = outcome.entry();
    typename Store::Reservation growth(store_.retention());
    const uint32_t weighing = store_.retention().BeginWeighing(entry);
    const uint64_t weight = entry->WithEntry(store_.Weigh(*object));
    const uint64_t before = entry->object_weight();
    if (store_.retention().hard_limit().active() && weight > before) {
      growth.GrowRoom(weight - before, removals);
    }
    const bool fits = store_.retention().SetWeight(entry, weighing, weight, growth, removals);
    growth.Release();
    removals.FinishEviction();
    if (!fits) store_.Remove(*entry, RemovalCause::kBudget, removals.now);
    return true;
  }

  // Sets an object to expire that long after now. Returns false if there is none.
  template <typename Key>
  bool SetExpiry(const Key& key, absl::Duration duration) {
    const typename Store::template LookupKeyOf<Key> lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    typename Store::Outcome outcome(store_.freshness());
    const Ref<V> object = store_.FindUnexpired(location, lookup, outcome);
    if (object.get() == nullptr) return false;
    if (loads_.tier() == nullptr) [[likely]] {
      SetExpiryOf(*outcome.entry(), duration);
      return true;
    }
    const EvictionPause<K, V> pause(loads_.tier());
    EraseInTier(key);  // the tier's entry has the former end of its life, so it is erased first
    // A refresh may have read that, and may even have entered what it has read.
    {
      typename Store::MutexLock lock(location.shard->table.mutex);
      outcome.entry()->refresh.SetLifeWasSet();
    }
    typename Store::Outcome latest(store_.freshness());
    const Ref<V> present = store_.FindUnexpired(location, lookup, latest);
    SetExpiryOf(present.get() != nullptr ? *latest.entry() : *outcome.entry(), duration);
    return true;
  }

  // Returns what is known about an object, if there is one.
  template <typename Key>
  std::optional<ObjectInfo> Inspect(const Key& key) const {
    const typename Store::template LookupKeyOf<Key> lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    const int64_t now = store_.freshness().Now();
    typename Store::Outcome outcome(store_.freshness());
    const Ref<V> object = store_.FindHeld(location, store_.MatchingUnexpired(lookup, now), outcome);
    if (object.get() == nullptr) return std::nullopt;
    const Entry& entry = *outcome.entry();
    ObjectInfo info;
    info.weight = entry.own_weight();
    info.bytes = entry.object_weight();
    info.age = entry.AgeAt(now);
    info.load_time = absl::Nanoseconds(static_cast<double>(entry.load_time));
    info.uses = entry.frequency();
    info.in_use = IsInUse(entry);
    info.retained = entry.retained();
    return info;
  }

  // Returns up to `count` keys of retained objects in the order of eviction, or the reverse.
  std::vector<K> RankedKeys(size_t count, bool hottest_first) const {
    if (count > Store::Budget::kMaxRanked) return RankedKeysSlow(count, hottest_first);
    struct HeldEntries {
      ~HeldEntries() {
        for (Entry* const entry : entries) entry->slot->ReleaseStrong();
      }
      const std::vector<Entry*> entries;
    };
    const HeldEntries held{store_.retention().Ranked(count, hottest_first)};
    std::vector<K> keys;
    keys.reserve(held.entries.size());
    for (const Entry* const entry : held.entries) keys.push_back(entry->key());
    return keys;
  }

  size_t size() const {
    size_t size = 0;
    store_.shards().ForEachShard([&](auto& shard) { size += shard.table.size(); });
    return size;
  }

  CacheStats Stats() const {
    CacheStats stats;
    store_.counters().AddTo(&stats);
    store_.retention().AddTo(&stats);
    store_.shards().ForEach([&](const Entry& entry, const Ref<V>&) {
      // Up to 2^48 for each, so that the sums can't overflow.
      (IsInUse(entry) ? stats.bytes_in_use : stats.bytes_idle) +=
          CacheCounters::AsPinned(entry.object_weight());
    });
    store_.shards().ForEachShard([&](auto& shard) {
      MutexLock lock(shard.table.mutex);
      const size_t entries = shard.table.in_index();
      stats.dead_entries += entries - std::min(entries, shard.table.size());
    });
    if (loads_.tier() != nullptr) loads_.tier()->AddTo(stats);
    return stats;
  }

  // Calls `visit(key, held)` for each sampled object in use.
  template <typename Visit>
  void ForEachHeld(Visit& visit) const {
    const HolderSampler& sampler = store_.holder_sampler();
    if (!sampler.active()) return;
    const int64_t now = store_.freshness().RoughNow();
    store_.shards().ForEach([&](const Entry& entry, const Ref<V>&) {
      if (entry.holders() == nullptr) return;
      HeldObject held;
      const OtherEntries others = OthersOf(entry);
      held.other_entries = others.count;
      if (!entry.holders()->Describe(*entry.object, OwnReferences(entry), others.retaining, now,
                                     held)) {
        return;
      }
      held.weight = entry.own_weight();
      held.represented_bytes = sampler.RepresentedBytes(held.weight);
      visit(entry.key(), std::move(held));
    });
  }
  // Entries of the same object, in any container, beside one of them.
  struct OtherEntries {
    size_t count = 0;
    size_t retaining = 0;
  };
  static OtherEntries OthersOf(const Entry& entry) {
    OtherEntries all;
    const auto add = [&all](const WatcherInfo& info) {
      if (info.kind != WatcherInfo::Kind::kEntry) return;
      ++all.count;
      if (info.retained) ++all.retaining;
    };
    if (entry.is_embedded()) {
      entry.object->DescribeWatchers(add);
      return all;
    }
    // This entry is one of the watchers. Whether it retains the object may change meanwhile: it
    // counts as retaining if it does before or after, so that nobody's reference is left out.
    bool retains = entry.retained();
    add(entry.object->DescribeOwnEntry());
    entry.object->DescribeWatchers(add);
    retains = retains || entry.retained();
    return {all.count - std::min<size_t>(all.count, 1),
            all.retaining - std::min<size_t>(all.retaining, retains ? 1 : 0)};
  }
  CacheHolders Holders() const {
    CacheHolders holders;
    holders.sample_bytes = store_.holder_sampler().sample_bytes();
    auto add = [&](const K&, HeldObject held) { holders.objects.push_back(std::move(held)); };
    ForEachHeld(add);
    return holders;
  }

  // Aborts if the cache is inconsistent. For tests, while no other thread uses the cache. Purges,
  // because entries of dead objects in external slots weigh something until then.
  void CheckInvariantsForTesting() const {
    constexpr const char* kCall = "CheckInvariantsForTesting";
    PurgeDead();
    store_.shards().ForEachShard([](auto& shard) {
      MutexLock lock(shard.table.mutex);
      shard.table.CheckInvariantsForTesting();
      Check(shard.flights.empty() && shard.refreshes.empty(), kCall, "a load has not ended");
    });
    size_t retained = 0;
    uint64_t retained_bytes = 0;
    uint64_t pinned_bytes = 0;
    uint64_t live_bytes = 0;
    store_.shards().ForEach([&](const Entry& entry, const Ref<V>&) {
      Check(!entry.notifying, kCall, "a notification has not ended");
      retained += entry.retained() ? 1u : 0u;
      live_bytes += entry.object_weight();
      if (entry.retained()) {
        retained_bytes += entry.object_weight();
      } else {
        pinned_bytes += CacheCounters::AsPinned(entry.object_weight());
      }
    });
    store_.retention().CheckInvariantsForTesting(retained, retained_bytes);
    const ByteLimit& hard_limit = store_.retention().hard_limit();
    Check(!hard_limit.active() || hard_limit.used() == live_bytes, kCall,
          "the hard limit does not count what the objects weigh");
    Check(store_.counters().bytes_pinned() == pinned_bytes, kCall, "the pinned bytes don't add up");
  }

 private:
  void AttachTo(ObjectTier<K, V>& tier) {
    if constexpr (std::is_same_v<Store, DefaultCacheStore<K, V>>) {
      tier_target_ = tier.MakeDefaultTarget(&store_);
    } else {
      tier_target_ = std::make_unique<CacheTierTarget<Store>>(store_);
    }
    tier.Attach(*tier_target_);
  }

  // Begins a change of the key in the tier, before the change of the cache. Null without a tier.
  template <typename Key>
  TierTurnPtr<V> BeginChange(const Key& key) {
    if (loads_.tier() == nullptr) [[likely]]
      return nullptr;
    return BeginChangeInTier(key);
  }
  template <typename Key>
  [[gnu::noinline]] TierTurnPtr<V> BeginChangeInTier(const Key& key) {
    if constexpr (std::is_same_v<Key, K>) {
      return loads_.tier()->BeginChange(key);
    } else if constexpr (std::is_constructible_v<K, const Key&>) {
      return loads_.tier()->BeginChange(K(key));
    } else {
      Check(false, "LargeObjectCache", "a second tier needs keys that a K can be made of");
      return nullptr;
    }
  }
  void SetExpiryOf(Entry& entry, absl::Duration duration) {
    store_.freshness().SetExpiry(entry, duration);
    store_.retention().UpdateExpiry(&entry);
  }
  template <typename Key>
  [[gnu::noinline]] void EraseInTier(const Key& key) {
    const TierTurnPtr<V> turn = BeginChangeInTier(key);
    if (turn != nullptr) turn->Erase();
  }
  [[gnu::noinline]] static void PutInTier(ObjectTier<K, V>& tier, TierTurn<V>* turn,
                                          const Ref<V>& object, const ObjectTerms& terms) {
    if (turn == nullptr) return tier.EndUnmarkedChange();
    turn->SetTerms(terms);
    turn->Put(object);
  }

  using KeyLocation = typename Store::KeyLocation;
  using Shard = typename Store::Shard;
  using Table = typename Store::Table;
  using MutexLock = typename Store::MutexLock;

  void CheckHasHardLimit(const char* call) const {
    Check(store_.retention().hard_limit().active(), call, "options.hard_limit_bytes was not set");
  }
  // Calls `evict(removals)`. Returns the weight of the objects whose last references that drops.
  // The memory of their entries goes back, too.
  template <typename Evict>
  uint64_t CountFreed(const Evict& evict) {
    const auto shared = store_.shared();  // user code may end the cache
    uint64_t freed = 0;
    {
      PendingRemovals removals;
      removals.now = store_.freshness().RoughNow();
      removals.freed_bytes = &freed;
      evict(removals);
    }
    if (!shared->ended()) PurgeDead();
    return freed;
  }
  // Removes all entries of dead objects.
  void PurgeDead() const {
    store_.shards().ForEachShard([](auto& shard) { shard.table.Purge(); });
  }

  // Returns how many references to the object a caller has who has one to the slot and one to the
  // object: both are in the same count if the slot is an embedded one.
  static size_t OwnReferences(const Entry& entry) { return entry.is_embedded() ? 2 : 1; }
  // Returns whether others than the cache and such a caller hold the object. The cache has a
  // reference if it retains the object.
  static bool IsInUse(const Entry& entry) {
    return entry.object->strong_count() > OwnReferences(entry) + (entry.retained() ? 1u : 0u);
  }

  // Ranks one entry at a time, so that nobody waits for all of them.
  std::vector<K> RankedKeysSlow(size_t count, bool hottest_first) const {
    const uint64_t epoch = store_.retention().Epoch();
    std::vector<std::pair<uint64_t, K>> ranked;
    store_.shards().ForEach([&](const Entry& entry, const Ref<V>&) {
      const std::optional<uint64_t> rank = store_.retention().RankSince(entry, epoch);
      if (rank.has_value()) ranked.emplace_back(hottest_first ? ~*rank : *rank, entry.key());
    });
    // Sorts indices, because keys need not be assignable.
    std::vector<size_t> order(ranked.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return ranked[a].first < ranked[b].first; });
    order.resize(std::min(count, order.size()));
    std::vector<K> keys;
    keys.reserve(order.size());
    for (const size_t index : order) keys.push_back(std::move(ranked[index].second));
    return keys;
  }

  CacheLoads<Store> loads_;
  std::unique_ptr<TierTarget<K, V>> tier_target_;  // null without a tier
  // Destroyed after `store_`, whose objects' destructors may use it.
  Asks asks_;
  // Destroyed first: destructors of objects that it retains may use all of the cache.
  Store store_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_CORE_H_
