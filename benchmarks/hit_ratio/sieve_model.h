// SPDX-License-Identifier: Apache-2.0
// SIEVE (Zhang et al., NSDI 2024), with weights in place of counts: one queue in the order of
// arrival, and a hand that goes from the oldest object to the newest and then begins anew. The hand
// evicts the first object that was not hit since the hand met it last. No object ever moves.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_SIEVE_MODEL_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_SIEVE_MODEL_H_

#include <cstdint>
#include <iterator>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/hit_ratio/weighted_queue.h"

namespace weakcache {

class SieveModel {
 public:
  explicit SieveModel(uint64_t capacity) : capacity_(capacity), hand_(queue_.end()) {}

  // Returns whether it is a hit; else the object is loaded, and keeps the weight that it has then.
  bool Access(uint64_t key, uint64_t weight) {
    const auto found = entries_.find(key);
    if (found != entries_.end()) {
      found->second.hit = true;
      return true;
    }
    if (weight > capacity_) return false;
    while (queue_.weight() + weight > capacity_) Evict();
    entries_[key] = {.hit = false, .position = queue_.PushNewest({key, weight})};
    return false;
  }

 private:
  struct Entry {
    bool hit;  // since the hand met the object last
    WeightedQueue::Position position;
  };

  void Evict() {
    for (;;) {
      if (hand_ == queue_.end()) hand_ = queue_.oldest();
      const WeightedQueue::Position candidate = hand_++;
      const auto entry = entries_.find(candidate->key);
      if (!entry->second.hit) {
        queue_.Remove(candidate);
        entries_.erase(entry);
        return;
      }
      entry->second.hit = false;
    }
  }

  const uint64_t capacity_;
  WeightedQueue queue_;
  WeightedQueue::Position hand_;  // the next candidate; the end means the oldest object
  absl::flat_hash_map<uint64_t, Entry> entries_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_SIEVE_MODEL_H_
