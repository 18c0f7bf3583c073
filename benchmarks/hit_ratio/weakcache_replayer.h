// SPDX-License-Identifier: Apache-2.0
// The library's own part in a comparison of hit ratios: a LargeObjectCache.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_WEAKCACHE_REPLAYER_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_WEAKCACHE_REPLAYER_H_

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"

namespace weakcache {

class WeakcacheReplayer {
 public:
  explicit WeakcacheReplayer(uint64_t capacity, ObjectValue value = ObjectValue::kHits)
      : cache_(*Cache::Create(OptionsFor(capacity, value))) {}
  WeakcacheReplayer(const WeakcacheReplayer&) = delete;
  WeakcacheReplayer& operator=(const WeakcacheReplayer&) = delete;

  // True if it is a hit; else the object is loaded, in so many microseconds. It keeps the weight
  // that it had then, and nobody uses it afterwards.
  bool Access(uint64_t key, uint64_t weight, uint64_t load_time = 1000) {
    bool loaded = false;
    const auto object = cache_.GetOrLoad(key, [&] {
      loaded = true;
      now_ += absl::Microseconds(load_time);
      return Object{weight};
    });
    return !loaded;
  }

  CacheStats Stats() const { return cache_.Stats(); }

 private:
  struct Object {
    uint64_t byte_size() const { return weight; }
    uint64_t weight;
  };
  // SplitMix64 (Steele, Lea and Flood, 2014): absl::Hash would give other figures in each run.
  struct Hash {
    size_t operator()(uint64_t key) const {
      key += 0x9e3779b97f4a7c15;
      key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9;
      key = (key ^ (key >> 27)) * 0x94d049bb133111eb;
      return key ^ (key >> 31);
    }
  };
  using Cache = LargeObjectCache<uint64_t, Object, Hash>;

  Cache::Options OptionsFor(uint64_t capacity, ObjectValue value) {
    Cache::Options options;
    options.budget_bytes = capacity;
    options.count_entry_memory = false;  // the traces have weights of their own
    options.value = value;
    options.clock = [this] { return now_; };
    return options;
  }

  absl::Time now_ = absl::UnixEpoch();
  Cache cache_;
};

// The same where what counts is the time that hits save.
class TimeSavingReplayer : public WeakcacheReplayer {
 public:
  explicit TimeSavingReplayer(uint64_t capacity)
      : WeakcacheReplayer(capacity, ObjectValue::kTimeSaved) {}
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_WEAKCACHE_REPLAYER_H_
