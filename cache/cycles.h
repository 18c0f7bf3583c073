// SPDX-License-Identifier: Apache-2.0
// Traces of the containers, for FindCycles and WhyAlive (weakref/cycles.h).
//
// Why: a container may be what keeps an object: a cache retains it, or a value that is attached to
// it holds it. Include this header, and a container is traced like any other member, or as a root:
//
//   weakcache::Census census;
//   weakcache::CensusRoot root(census, images, "images");  // images: a LargeObjectCache
//   census.Add(*images.GetOrLoad("cover", load));   // what a container makes does not join itself
//   std::cerr << ToText(WhyAlive(census, weak));    // cache "images" --retained--> app::Image
//
// A WeakKeyMap's value lives only as long as its key. So references in a value count as references
// in the key's object: a value that holds its own key is reported as a cycle of the key alone, even
// while the map is alive. Keys of maps are traced if a Tracer takes their type, save for those of
// dead entries: purge() before. Containers hold no other objects.
//
// Thread safety: as FindCycles: no other thread may use the container or its objects meanwhile.
//
// Differences from the traces of std's containers: weak values are no edges, as they hold nothing.
//
// Complexity: linear in the entries.
#ifndef WEAKCACHE_CACHE_CYCLES_H_
#define WEAKCACHE_CACHE_CYCLES_H_

#include <string_view>
#include <type_traits>

#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/cycles.h"

namespace weakcache {

namespace internal {

struct CacheAccess {
  // Calls `visit(entry, object)` for each live object.
  template <typename Cache, typename Visit>
  static void ForEach(const Cache& cache, Visit&& visit) {
    cache.core_->store().shards().ForEach(visit);
  }
};

template <typename K>
void TraceKey(const K& key, Tracer& trace) {
  if constexpr (IsTellable<K>()) trace(key, "key");
}

template <typename K, typename V, typename Hash, typename Equal>
inline constexpr std::string_view kRootKind<LargeObjectCache<K, V, Hash, Equal>> = "cache";

}  // namespace internal

template <typename K, typename V, typename Hash, typename Equal>
void WeakcacheTrace(const LargeObjectCache<K, V, Hash, Equal>& cache, Tracer& trace) {
  internal::CacheAccess::ForEach(cache, [&](const auto& entry, const Ref<V>& object) {
    internal::TraceKey(entry.key(), trace);
    if (!entry.retained()) return;
    internal::TracerAccess::TellReference(trace, object, &entry, "retained");
  });
}

template <typename K, typename V, typename... Policies>
void WeakcacheTrace(const ConcurrentWeakValueMap<K, V, Policies...>& map, Tracer& trace) {
  if constexpr (internal::IsTellable<K>()) {
    map.for_each([&](const K& key, const auto&) { internal::TraceKey(key, trace); });
  }
}
template <typename K, typename V, typename... Policies>
void WeakcacheTrace(const WeakValueMap<K, V, Policies...>& map, Tracer& trace) {
  if constexpr (internal::IsTellable<K>()) {
    map.for_each([&](const K& key, const auto&) { internal::TraceKey(key, trace); });
  }
}

template <typename K, typename V, typename... Policies>
void WeakcacheTrace(const WeakKeyMap<K, V, Policies...>& map, Tracer& trace) {
  if constexpr (internal::IsTellable<V>()) {
    map.for_each([&](const auto& key, const V& value) {
      internal::TracerAccess::TellHeldBy(trace, key, value, "value attached to it");
    });
  }
}

template <typename T, typename... Policies>
void WeakcacheTrace(const WeakSet<T, Policies...>&, Tracer&) {}
template <typename T, typename... Policies>
void WeakcacheTrace(const WeakInterner<T, Policies...>&, Tracer&) {}

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CYCLES_H_
