// The library's own part in a comparison of hit ratios: its eviction policy over a table of keys.
#ifndef WEAKCACHE_BENCHMARKS_WEAKCACHE_REPLAYER_H_
#define WEAKCACHE_BENCHMARKS_WEAKCACHE_REPLAYER_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "cache/internal/eviction_policy.h"

namespace weakcache {

class WeakcacheReplayer {
 public:
  explicit WeakcacheReplayer(uint64_t capacity) : policy_(capacity) {}

  // True if it is a hit; else the object is loaded. It keeps the weight that it had then.
  bool Access(uint64_t key, uint64_t weight) {
    const auto found = nodes_.find(key);
    if (found != nodes_.end()) {
      internal::EvictionPolicy::Touch(*found->second);
      return true;
    }
    if (weight > policy_.budget()) return false;
    auto node = std::make_unique<Node>(key);
    policy_.Insert(node.get(), HashOf(key), weight);
    nodes_[key] = std::move(node);
    while (policy_.bytes() > policy_.budget()) {
      nodes_.erase(static_cast<Node*>(policy_.PopVictim())->key);
    }
    return false;
  }

 private:
  struct Node : internal::EvictionNode {
    explicit Node(uint64_t key) : key(key) {}
    const uint64_t key;
  };

  // SplitMix64 (Steele, Lea and Flood, 2014): absl::Hash would give other figures in each run.
  static uint64_t HashOf(uint64_t key) {
    key += 0x9e3779b97f4a7c15;
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9;
    key = (key ^ (key >> 27)) * 0x94d049bb133111eb;
    return key ^ (key >> 31);
  }

  internal::EvictionPolicy policy_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Node>> nodes_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_WEAKCACHE_REPLAYER_H_
