// SPDX-License-Identifier: Apache-2.0
// What a second tier does to its cache: the notices of others' changes, objects whose lease was
// revoked, and checks whether an object is current. Where keys have the default hash and equality,
// only the codec instantiates this: a cache without a tier does not have the code.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_TIER_TARGET_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_TIER_TARGET_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/core/cache_invalidation.h"
#include "weakcache/cache/internal/core/cache_store.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::internal {

// Does what the tier says, without the tier. Store is a CacheStore, which outlives this.
template <typename Store>
class CacheTierTarget final : public TierTarget<typename Store::Key, typename Store::Value> {
 public:
  using K = typename Store::Key;
  using V = typename Store::Value;

  explicit CacheTierTarget(Store& store) : store_(store) {}

  void Invalidate(const K& key) override { store_.InvalidateByNotice(key); }
  std::optional<EvictedTerms> TermsOf(const K& key, const Ref<V>& object) override {
    return store_.TermsOf(key, object);
  }
  void InvalidateIfSame(const K& key, const WeakRef<V>& object) override {
    store_.Invalidate(key, object);
  }
  void InvalidateGroup(uint32_t group) override {
    CacheInvalidation<Store>(store_).InvalidateGroup(group);
  }
  void Clear() override { CacheInvalidation<Store>(store_).RemoveAll(); }

  void MakeAllUnverified() override { CacheInvalidation<Store>(store_).MakeAllUnverified(); }
  void SetFingerprint(const K& key, const Ref<V>& object, uint64_t fingerprint) override {
    store_.SetFingerprint(key, object, fingerprint);
  }
  TierRecheckPtr<V> MakeRecheck(const K& key) override {
    return std::make_unique<Recheck>(store_, key);
  }

 private:
  class Recheck final : public TierRecheck<V> {
   public:
    using Check = typename TierRecheck<V>::Check;

    Recheck(Store& store, const K& key)
        : store_(store),
          key_(key),
          location_(store.shards().Locate(LookupKey(key))),
          table_(location_.shard->table) {}

    bool Find(uint64_t fingerprint) override {
      Dismiss();
      Ref<V> found = store_.FindByFingerprint(key_, fingerprint, removals_.deferred);
      has_found_ = found.get() != nullptr;
      if (object_.get() != nullptr) Defer(std::move(object_));
      object_ = std::move(found);
      return has_found_;
    }
    void Dismiss() override { has_found_ = false; }
    bool has_found() const override { return has_found_; }
    Ref<V> Verify(const Check& check) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(table_.mutex) {
      present_ =
          table_.FindLocked(location_.hash(), store_.shards().Matching(key_), removals_.deferred);
      table_.PurgeUpTo(Table::kPurgesPerOperation, removals_.deferred);
      if (present_.slot == nullptr) return object_;
      auto& entry = Table::cold_part(present_.slot);
      if (store_.freshness().IsCurrent(entry, check.now, /*own=*/1)) return present_.object;
      if (!check.cancelled && HandleTraits<Ref<V>>::SameOwner(present_.object, object_)) {
        store_.Verify(table_, entry, check, removals_);
      }
      return object_;
    }

   private:
    using Table = typename Store::Table;
    using LookupKey = typename Store::template LookupKeyOf<K>;

    void Defer(Ref<V> object) {
      RefAccess::TakeApart(std::move(object)).block->ReleaseStrong(removals_.deferred);
    }

    Store& store_;
    const K& key_;
    const typename Store::KeyLocation location_;
    Table& table_;
    typename Store::PendingRemovals removals_;
    Ref<V> object_;  // also one that was dismissed
    bool has_found_ = false;
    typename Store::TableEntry present_;
  };

  Store& store_;
};

// The store of nearly all caches: the one that a codec, which does not know the cache's hash and
// equality, can know.
template <typename K, typename V>
using DefaultCacheStore = CacheStore<K, V, DefaultHash<K>, DefaultEqual<K>, LazyGreedyDual>;

// Makes the target of such a store, which `store` points to.
template <typename K, typename V>
std::unique_ptr<TierTarget<K, V>> MakeDefaultTierTarget(void* store) {
  return std::make_unique<CacheTierTarget<DefaultCacheStore<K, V>>>(
      *static_cast<DefaultCacheStore<K, V>*>(store));
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_TIER_TARGET_H_
