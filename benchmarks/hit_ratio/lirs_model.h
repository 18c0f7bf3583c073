// SPDX-License-Identifier: Apache-2.0
// LIRS (Jiang and Zhang, SIGMETRICS 2002), with weights in place of counts.
//
// What counts is the number of other objects that are used between two uses of one object. Objects
// for which it is low (LIR) fill 99 % of the cache. The others that are cached (HIR) wait in a
// short queue. A stack has, in the order of their last use, all objects that were used later than
// some LIR object, evicted ones included: a HIR object that is used while it is in the stack was
// used again sooner than that LIR object, and takes its place.
//
// As in libCacheSim, the stack forgets evicted objects once it weighs twice the capacity, and an
// object that is heavier than the queue is not cached.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_LIRS_MODEL_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_LIRS_MODEL_H_

#include <algorithm>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/hit_ratio/weighted_queue.h"

namespace weakcache {

class LirsModel {
 public:
  explicit LirsModel(uint64_t capacity)
      : capacity_(capacity),
        queue_capacity_(std::max<uint64_t>(1, capacity / 100)),
        lir_capacity_(capacity - std::min(capacity, queue_capacity_)) {}

  // Returns whether it is a hit; else the object is loaded, and keeps the weight that it has then.
  bool Access(uint64_t key, uint64_t weight) {
    const auto found = entries_.find(key);
    if (found != entries_.end() && found->second.status != kEvicted) {
      Hit(key, found->second);
      return true;
    }
    if (weight > queue_capacity_ || weight > capacity_) return false;
    if (found != entries_.end()) {
      evicted_.Remove(found->second.queue);
      stack_.Remove(found->second.stack);
      entries_.erase(found);
      InsertLir({key, weight});
    } else if (lir_weight_ + weight <= lir_capacity_) {
      InsertLir({key, weight});
    } else {
      MakeRoomInQueue(weight);
      entries_[key] = {.status = kHir,
                       .in_stack = true,
                       .stack = stack_.PushNewest({key, weight}),
                       .queue = queue_.PushNewest({key, weight})};
    }
    ShortenStack();
    return false;
  }

 private:
  enum Status { kLir, kHir, kEvicted };
  struct Entry {
    Status status;
    bool in_stack = false;
    WeightedQueue::Position stack = {};  // if it is there
    WeightedQueue::Position queue = {};  // in `queue_` or `evicted_`, by status
  };

  void Hit(uint64_t key, Entry& entry) {
    if (entry.status == kLir) {
      stack_.MakeNewest(entry.stack);
      PruneStack();
    } else if (entry.in_stack) {
      const WeightedQueue::Item item = queue_.Remove(entry.queue);
      stack_.Remove(entry.stack);
      entries_.erase(key);
      InsertLir(item);
    } else {
      queue_.MakeNewest(entry.queue);
      entry.in_stack = true;
      entry.stack = stack_.PushNewest(*entry.queue);
    }
    ShortenStack();
  }

  // Inserts an object of which nothing is known any more.
  void InsertLir(WeightedQueue::Item item) {
    while (lir_weight_ + item.weight > lir_capacity_ && lir_weight_ > 0) DemoteOldestLir();
    lir_weight_ += item.weight;
    entries_[item.key] = {.status = kLir, .in_stack = true, .stack = stack_.PushNewest(item)};
    PruneStack();
  }

  void DemoteOldestLir() {
    PruneStack();
    const WeightedQueue::Item item = stack_.PopOldest();
    lir_weight_ -= item.weight;
    MakeRoomInQueue(item.weight);
    entries_[item.key] = {.status = kHir, .queue = queue_.PushNewest(item)};
    PruneStack();
  }

  // Lets the stack end with a LIR object. The objects below it are of no use for comparison.
  void PruneStack() {
    while (!stack_.empty()) {
      const auto oldest = entries_.find(stack_.oldest()->key);
      if (oldest->second.status == kLir) return;
      stack_.PopOldest();
      if (oldest->second.status == kEvicted) {
        evicted_.Remove(oldest->second.queue);
        entries_.erase(oldest);
      } else {
        oldest->second.in_stack = false;
      }
    }
  }

  void MakeRoomInQueue(uint64_t weight) {
    while (!queue_.empty() && queue_.weight() + weight > queue_capacity_) {
      const WeightedQueue::Item item = queue_.PopOldest();
      const auto entry = entries_.find(item.key);
      if (entry->second.in_stack) {
        entry->second.status = kEvicted;
        entry->second.queue = evicted_.PushNewest(item);
      } else {
        entries_.erase(entry);
      }
    }
  }

  void ShortenStack() {
    while (stack_.weight() > 2 * capacity_ && !evicted_.empty()) {
      const auto entry = entries_.find(evicted_.PopOldest().key);
      stack_.Remove(entry->second.stack);
      entries_.erase(entry);
    }
  }

  const uint64_t capacity_;
  const uint64_t queue_capacity_;
  const uint64_t lir_capacity_;
  uint64_t lir_weight_ = 0;
  WeightedQueue stack_;    // by last use
  WeightedQueue queue_;    // HIR objects that are cached
  WeightedQueue evicted_;  // HIR objects that are in the stack only, by eviction
  absl::flat_hash_map<uint64_t, Entry> entries_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_LIRS_MODEL_H_
