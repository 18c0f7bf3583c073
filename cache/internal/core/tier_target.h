// SPDX-License-Identifier: Apache-2.0
// What a second tier does to its cache: the notices of others' changes, and objects whose lease was
// revoked. Where keys have the default hash and equality, only the codec instantiates this: a cache
// without a tier does not have the code.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_TIER_TARGET_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_TIER_TARGET_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>

#include "weakcache/cache/internal/core/cache_invalidation.h"
#include "weakcache/cache/internal/core/cache_store.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"
#include "weakcache/cache/internal/tier/object_tier.h"
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

 private:
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
