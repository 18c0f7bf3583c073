// SPDX-License-Identifier: Apache-2.0
// The adaptive replacement cache (Megiddo and Modha, FAST 2003), with weights in segment of counts.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_ARC_MODEL_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_ARC_MODEL_H_

#include <algorithm>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/hit_ratio/weighted_queue.h"

namespace weakcache {

class ArcModel {
 public:
  explicit ArcModel(uint64_t capacity) : capacity_(capacity) {}

  // True if it is a hit; else the object is loaded. It keeps the weight that it had then.
  bool Access(uint64_t key, uint64_t weight) {
    const auto found = entries_.find(key);
    const Segment segment = found == entries_.end() ? kNowhere : found->second.segment;
    if (segment == kRecent || segment == kFrequent) {
      Enter(kFrequent, queues_[segment].Remove(found->second.position));
      return true;
    }
    if (weight > capacity_) return false;
    if (segment == kNowhere) {
      ForgetFor(weight);
    } else {
      Adapt(segment, weight);
      queues_[segment].Remove(found->second.position);
      entries_.erase(found);
    }
    while (queues_[kRecent].weight() + queues_[kFrequent].weight() + weight > capacity_) {
      Replace(segment == kFrequentGhost);
    }
    Enter(segment == kNowhere ? kRecent : kFrequent, {key, weight});
    return false;
  }

 private:
  enum Segment { kRecent, kFrequent, kRecentGhost, kFrequentGhost, kNowhere };
  struct Entry {
    Segment segment;
    WeightedQueue::Position position;
  };

  void Enter(Segment segment, WeightedQueue::Item item) {
    entries_[item.key] = {segment, queues_[segment].PushNewest(item)};
  }
  void ForgetOldest(Segment segment) { entries_.erase(queues_[segment].PopOldest().key); }

  // Used once and come back too late: these deserve more room. Used twice: those.
  void Adapt(Segment ghost, uint64_t weight) {
    const double recent = static_cast<double>(queues_[kRecentGhost].weight());
    const double frequent = static_cast<double>(queues_[kFrequentGhost].weight());
    const auto step = static_cast<double>(weight);
    if (ghost == kRecentGhost) {
      recent_share_ += step * std::max(1.0, frequent / recent);
    } else {
      recent_share_ -= step * std::max(1.0, recent / frequent);
    }
    recent_share_ = std::clamp(recent_share_, 0.0, static_cast<double>(capacity_));
  }

  // Keeps what was used once, with its ghost, within the capacity, and everything within twice.
  void ForgetFor(uint64_t weight) {
    while (queues_[kRecent].weight() + queues_[kRecentGhost].weight() + weight > capacity_) {
      ForgetOldest(queues_[kRecentGhost].empty() ? kRecent : kRecentGhost);
    }
    const auto total = [this] {
      uint64_t weights = 0;
      for (const WeightedQueue& queue : queues_) weights += queue.weight();
      return weights;
    };
    while (total() + weight > 2 * capacity_ && !queues_[kFrequentGhost].empty()) {
      ForgetOldest(kFrequentGhost);
    }
  }

  void Replace(bool for_frequent) {
    const auto recent = static_cast<double>(queues_[kRecent].weight());
    const bool over = recent > recent_share_ || (for_frequent && recent == recent_share_);
    const bool evict_recent = !queues_[kRecent].empty() && (over || queues_[kFrequent].empty());
    if (evict_recent) {
      Enter(kRecentGhost, queues_[kRecent].PopOldest());
    } else {
      Enter(kFrequentGhost, queues_[kFrequent].PopOldest());
    }
  }

  const uint64_t capacity_;
  double recent_share_ = 0;  // what the objects that were used once should weigh
  WeightedQueue queues_[4];  // by segment
  absl::flat_hash_map<uint64_t, Entry> entries_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_ARC_MODEL_H_
