// SPDX-License-Identifier: Apache-2.0
// S3-FIFO (Yang et al., SOSP 2023), with weights in segment of counts, as libCacheSim has it: a
// tenth for the small queue, nine tenths for the ghost, two hits to get into the main queue.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_S3_FIFO_MODEL_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_S3_FIFO_MODEL_H_

#include <algorithm>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/hit_ratio/weighted_queue.h"

namespace weakcache {

class S3FifoModel {
 public:
  explicit S3FifoModel(uint64_t capacity)
      : small_capacity_(capacity / 10), main_capacity_(capacity - small_capacity_) {}

  // True if it is a hit; else the object is loaded. It keeps the weight that it had then.
  bool Access(uint64_t key, uint64_t weight) {
    const auto found = entries_.find(key);
    const bool known = found != entries_.end();
    if (known && found->second.segment != kGhost) {
      ++found->second.hits;
      return true;
    }
    if (weight > small_capacity_ + main_capacity_) return false;
    if (known) {
      queues_[kGhost].Remove(found->second.position);
      entries_.erase(found);
    } else if (weight >= small_capacity_ && small_capacity_ > 1) {
      return false;  // as libCacheSim: the small queue couldn't hold it
    }
    while (queues_[kSmall].weight() + queues_[kMain].weight() + weight >
           small_capacity_ + main_capacity_) {
      Evict();
    }
    Enter(known ? kMain : kSmall, {key, weight}, 0);
    return false;
  }

 private:
  enum Segment { kSmall, kMain, kGhost };
  struct Entry {
    Segment segment;
    uint64_t hits;
    WeightedQueue::Position position;
  };
  static constexpr uint64_t kHitsForMain = 2;
  static constexpr uint64_t kMaxHits = 3;

  void Enter(Segment segment, WeightedQueue::Item item, uint64_t hits) {
    entries_[item.key] = {segment, hits, queues_[segment].PushNewest(item)};
  }

  void Evict() {
    if (queues_[kMain].weight() > main_capacity_ || queues_[kSmall].empty()) {
      EvictFromMain();
    } else {
      EvictFromSmall();
    }
  }
  void EvictFromSmall() {
    while (!queues_[kSmall].empty()) {
      const WeightedQueue::Item item = queues_[kSmall].PopOldest();
      if (entries_[item.key].hits < kHitsForMain) {
        Remember(item);
        return;
      }
      Enter(kMain, item, 0);
    }
  }
  void EvictFromMain() {
    for (;;) {
      const WeightedQueue::Item item = queues_[kMain].PopOldest();
      const uint64_t hits = std::min(entries_[item.key].hits, kMaxHits);
      if (hits == 0) {
        entries_.erase(item.key);
        return;
      }
      Enter(kMain, item, hits - 1);
    }
  }
  void Remember(WeightedQueue::Item item) {
    Enter(kGhost, item, 0);
    while (queues_[kGhost].weight() > main_capacity_) {
      entries_.erase(queues_[kGhost].PopOldest().key);
    }
  }

  const uint64_t small_capacity_;
  const uint64_t main_capacity_;  // the ghost's, too
  WeightedQueue queues_[3];       // by segment
  absl::flat_hash_map<uint64_t, Entry> entries_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_S3_FIFO_MODEL_H_
