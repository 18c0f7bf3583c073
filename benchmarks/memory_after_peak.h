// SPDX-License-Identifier: Apache-2.0
// What a LargeObjectCache, or the map under it, keeps of its entries' memory when most objects have
// gone. Objects have 16 bytes, so nearly all memory is the entries'.
#ifndef WEAKCACHE_BENCHMARKS_MEMORY_AFTER_PEAK_H_
#define WEAKCACHE_BENCHMARKS_MEMORY_AFTER_PEAK_H_

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {

struct SmallObject {
  char bytes[16] = {};
};

class SmallObjectCache {
 public:
  using Cache = LargeObjectCache<int64_t, SmallObject>;

  // Fills it; `looked_up`: then looks up random keys, twice as many as there are objects, half of
  // which it has to load, so that the objects lie in no order.
  SmallObjectCache(int64_t objects, bool looked_up) : budget_(Weight(objects)), cache_(Make()) {
    for (int64_t key = 0; key < objects; ++key) Load(key);
    std::mt19937_64 random(1);
    std::uniform_int_distribution<int64_t> draw(0, 2 * objects - 1);
    for (int64_t i = 0; looked_up && i < 2 * objects; ++i) Load(draw(random));
  }

  void Load(int64_t key) {
    benchmark::DoNotOptimize(cache_.GetOrLoad(key, [] { return SmallObject(); }));
  }
  Cache& cache() { return cache_; }
  static uint64_t Weight(int64_t objects) {
    return static_cast<uint64_t>(objects) * sizeof(SmallObject);
  }

 private:
  Cache Make() const {
    Cache::Options options;
    options.budget_bytes = budget_;
    options.count_entry_memory = false;
    return std::move(Cache::Create(std::move(options))).value();
  }

  const uint64_t budget_;
  Cache cache_;
};

inline double MegabytesSince(int64_t before) {
  return static_cast<double>(AllocatedBytes() - before) / 1e6;
}

inline void CacheMemoryAfterPeak(benchmark::State& state, bool looked_up) {
  const int64_t objects = state.range(0);
  // Fills a cache, has it changed, and notes what it takes then.
  const auto note = [&](const char* counter, auto change) {
    const int64_t before = AllocatedBytes();
    SmallObjectCache filled(objects, looked_up);
    change(filled);
    state.counters[counter] = MegabytesSince(before);
  };
  for (auto _ : state) {
    note("peak_mb", [](SmallObjectCache&) {});
    note("cleared_mb", [](SmallObjectCache& filled) { filled.cache().Clear(); });
    note("small_budget_mb", [&](SmallObjectCache& filled) {
      filled.cache().SetBudget(SmallObjectCache::Weight(objects / 250));
    });
    note("trimmed_mb", [](SmallObjectCache& filled) { filled.cache().Trim(0); });
    note("refilled_mb", [&](SmallObjectCache& filled) {
      filled.cache().Trim(0);
      for (int64_t key = 0; key < objects / 33; ++key) filled.Load(2 * objects + key);
    });
  }
}

inline void MapMemoryAfterPeak(benchmark::State& state) {
  std::vector<Ref<SmallObject>> held(static_cast<size_t>(state.range(0)));
  for (auto _ : state) {
    const int64_t before = AllocatedBytes();
    ConcurrentWeakValueMap<int64_t, SmallObject> map;
    for (int64_t key = 0; key < state.range(0); ++key) {
      held[static_cast<size_t>(key)] = map.get_or_create(key, [] { return SmallObject(); });
    }
    state.counters["peak_mb"] = MegabytesSince(before);
    for (Ref<SmallObject>& object : held) object.reset();
    map.purge();
    state.counters["cleared_mb"] = MegabytesSince(before);
  }
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_MEMORY_AFTER_PEAK_H_
