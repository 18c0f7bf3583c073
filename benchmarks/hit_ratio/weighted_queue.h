// SPDX-License-Identifier: Apache-2.0
// What the reference models are made of: a queue of keys that knows the weight of all of them.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_WEIGHTED_QUEUE_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_WEIGHTED_QUEUE_H_

#include <cstdint>
#include <list>

namespace weakcache {

class WeightedQueue {
 public:
  struct Item {
    uint64_t key;
    uint64_t weight;
  };
  using Position = std::list<Item>::iterator;

  Position PushNewest(Item item) {
    weight_ += item.weight;
    return items_.insert(items_.end(), item);
  }
  Item PopOldest() { return Remove(items_.begin()); }
  Item Remove(Position position) {
    const Item item = *position;
    weight_ -= item.weight;
    items_.erase(position);
    return item;
  }
  // Positions stay valid.
  void MakeNewest(Position position) { items_.splice(items_.end(), items_, position); }

  // The positions from the oldest item to the newest, and the one after that.
  Position oldest() { return items_.begin(); }
  Position end() { return items_.end(); }

  bool empty() const { return items_.empty(); }
  uint64_t weight() const { return weight_; }

 private:
  std::list<Item> items_;  // oldest first
  uint64_t weight_ = 0;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_WEIGHTED_QUEUE_H_
