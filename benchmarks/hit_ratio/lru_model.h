// SPDX-License-Identifier: Apache-2.0
// Least recently used: what a hit ratio is measured against first of all.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_LRU_MODEL_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_LRU_MODEL_H_

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/hit_ratio/weighted_queue.h"

namespace weakcache {

class LruModel {
 public:
  explicit LruModel(uint64_t capacity) : capacity_(capacity) {}

  // True if it is a hit; else the object is loaded. It keeps the weight that it had then.
  bool Access(uint64_t key, uint64_t weight) {
    const auto found = positions_.find(key);
    if (found != positions_.end()) {
      queue_.MakeNewest(found->second);
      return true;
    }
    if (weight > capacity_) return false;
    positions_[key] = queue_.PushNewest({key, weight});
    while (queue_.weight() > capacity_) positions_.erase(queue_.PopOldest().key);
    return false;
  }

 private:
  const uint64_t capacity_;
  WeightedQueue queue_;
  absl::flat_hash_map<uint64_t, WeightedQueue::Position> positions_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_LRU_MODEL_H_
