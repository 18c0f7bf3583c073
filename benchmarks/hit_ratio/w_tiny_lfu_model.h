// SPDX-License-Identifier: Apache-2.0
// W-TinyLFU (Einziger, Friedman and Manes, ACM Transactions on Storage 2017), whose window climbs
// towards the better hit ratio (Einziger, Eytan, Friedman and Manes, Middleware 2018), with weights
// in place of counts.
//
// A new object enters a window, which is a small LRU. The object that the window gives up is a
// candidate for the main part, a segmented LRU: the candidate takes the place of the main part's
// victim if it was requested more often lately, evicted objects' requests included.
//
// The constants are those of Caffeine: a window of 1 % at first, 80 % of the main part protected, a
// step of 6.25 % of the capacity, which shrinks by 2 % each time and is renewed when the hit ratio
// changes by 5 %. Two things differ. Requests are counted exactly, not in a sketch. A candidate
// that is not requested more often than the victim is always rejected; Caffeine admits one in 128
// at random, against attacks.
#ifndef WEAKCACHE_BENCHMARKS_HIT_RATIO_W_TINY_LFU_MODEL_H_
#define WEAKCACHE_BENCHMARKS_HIT_RATIO_W_TINY_LFU_MODEL_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/hit_ratio/weighted_queue.h"

namespace weakcache {

class WTinyLfuModel {
 public:
  // A window that does not adapt keeps its 1 %.
  explicit WTinyLfuModel(uint64_t capacity, bool adapts = true)
      : capacity_(capacity),
        adapts_(adapts),
        window_capacity_(std::max(std::min<uint64_t>(capacity, 1), capacity / 100)),
        protected_capacity_((capacity - window_capacity_) * 4 / 5),
        step_(-kStep * static_cast<double>(capacity)) {}

  // Returns whether it is a hit; else the object is loaded, and keeps the weight that it has then.
  bool Access(uint64_t key, uint64_t weight) {
    const auto found = entries_.find(key);
    const bool hit = found != entries_.end();
    CountRequest(key, hit);
    if (hit) {
      Promote(found->second);
    } else if (weight <= capacity_) {
      Enter(kWindow, {key, weight});
      Evict();
      most_objects_ = std::max(most_objects_, entries_.size());
    }
    return hit;
  }

  uint64_t window_capacity() const { return window_capacity_; }

 private:
  enum Segment { kWindow, kProbation, kProtected };
  struct Entry {
    Segment segment;
    WeightedQueue::Position position;
  };
  static constexpr uint8_t kMaxCount = 15;
  static constexpr size_t kSample = 10;  // requests for each object in the cache
  static constexpr double kStep = 0.0625;
  static constexpr double kStepDecay = 0.98;
  static constexpr double kRestart = 0.05;

  uint64_t weight() const {
    return queues_[kWindow].weight() + queues_[kProbation].weight() + queues_[kProtected].weight();
  }

  void Enter(Segment segment, WeightedQueue::Item item) {
    entries_[item.key] = {segment, queues_[segment].PushNewest(item)};
  }
  void MoveOldest(Segment from, Segment to) { Enter(to, queues_[from].PopOldest()); }
  void EvictOldest(Segment segment) { entries_.erase(queues_[segment].PopOldest().key); }

  void Promote(Entry& entry) {
    if (entry.segment != kProbation) {
      queues_[entry.segment].MakeNewest(entry.position);
      return;
    }
    Enter(kProtected, queues_[kProbation].Remove(entry.position));
    DemoteProtected();
  }
  void DemoteProtected() {
    while (queues_[kProtected].weight() > protected_capacity_) MoveOldest(kProtected, kProbation);
  }

  void Evict() {
    // What leaves the window is at the new end of probation: these are the candidates.
    uint64_t candidates = 0;
    for (; queues_[kWindow].weight() > window_capacity_; ++candidates) {
      MoveOldest(kWindow, kProbation);
    }
    while (weight() > capacity_) {
      const Segment victims = !queues_[kProbation].empty()   ? kProbation
                              : !queues_[kProtected].empty() ? kProtected
                                                             : kWindow;
      if (candidates == 0) {
        EvictOldest(victims);
        continue;
      }
      // The oldest of the candidates is compared with the oldest of all.
      auto candidate = queues_[kProbation].end();
      for (uint64_t i = 0; i < candidates; ++i) --candidate;
      const auto victim = queues_[kProbation].oldest();
      if (CountOf(candidate->key) > CountOf(victim->key)) {
        EvictOldest(kProbation);
      } else {
        --candidates;
        entries_.erase(candidate->key);
        queues_[kProbation].Remove(candidate);
      }
    }
  }
  uint8_t CountOf(uint64_t key) const {
    const auto found = counts_.find(key);
    return found == counts_.end() ? uint8_t{0} : found->second;
  }

  // Until the cache is half full, only counts: it has nothing to learn yet.
  void CountRequest(uint64_t key, bool hit) {
    uint8_t& count = counts_[key];
    if (count < kMaxCount) ++count;
    if (weight() < capacity_ / 2) return;
    if (++requests_since_halving_ >= kSample * most_objects_) HalveCounts();
    sampled_hits_ += uint64_t{hit};
    if (++sampled_requests_ >= kSample * most_objects_ && adapts_) Climb();
  }
  void HalveCounts() {
    requests_since_halving_ /= 2;
    absl::erase_if(counts_, [](auto& counted) { return (counted.second >>= 1) == 0; });
  }

  // Moves the window's size on in the same direction if the hit ratio has risen, and else back.
  void Climb() {
    const double ratio =
        static_cast<double>(sampled_hits_) / static_cast<double>(sampled_requests_);
    const double change = ratio - last_ratio_;
    const double amount = change >= 0 ? step_ : -step_;
    const double full_step = std::copysign(kStep * static_cast<double>(capacity_), amount);
    step_ = std::abs(change) >= kRestart ? full_step : kStepDecay * amount;
    last_ratio_ = ratio;
    sampled_hits_ = sampled_requests_ = 0;
    if (amount > 0) {
      GrowWindow(static_cast<uint64_t>(amount));
    } else {
      ShrinkWindow(static_cast<uint64_t>(-amount));
    }
  }
  // The protected part pays for it. Its objects, and the oldest on probation, move over.
  void GrowWindow(uint64_t amount) {
    amount = std::min(amount, protected_capacity_);
    window_capacity_ += amount;
    protected_capacity_ -= amount;
    DemoteProtected();
    while (!queues_[kProbation].empty() &&
           queues_[kWindow].weight() + queues_[kProbation].oldest()->weight <= window_capacity_) {
      MoveOldest(kProbation, kWindow);
    }
  }
  void ShrinkWindow(uint64_t amount) {
    amount = std::min(amount, window_capacity_ - std::min<uint64_t>(window_capacity_, 1));
    window_capacity_ -= amount;
    protected_capacity_ += amount;
    while (queues_[kWindow].weight() > window_capacity_) MoveOldest(kWindow, kProbation);
  }

  const uint64_t capacity_;
  const bool adapts_;
  uint64_t window_capacity_;
  uint64_t protected_capacity_;
  WeightedQueue queues_[3];  // by segment
  absl::flat_hash_map<uint64_t, Entry> entries_;
  absl::flat_hash_map<uint64_t, uint8_t> counts_;  // of the latest requests, by key
  size_t most_objects_ = 1;                        // that were in the cache at a time
  uint64_t requests_since_halving_ = 0;
  uint64_t sampled_requests_ = 0;
  uint64_t sampled_hits_ = 0;
  double last_ratio_ = 0;
  double step_;  // negative: the window shrinks
};

// With the window of 1 % of the first paper, as libCacheSim has it.
class FixedWindowWTinyLfuModel : public WTinyLfuModel {
 public:
  explicit FixedWindowWTinyLfuModel(uint64_t capacity) : WTinyLfuModel(capacity, false) {}
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_HIT_RATIO_W_TINY_LFU_MODEL_H_
