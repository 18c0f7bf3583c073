// SPDX-License-Identifier: Apache-2.0
// The simplest eviction policy there is: least recently used, found by a search of all nodes. It
// shows what the retention asks of a policy, and that it asks for nothing else.
#ifndef WEAKCACHE_TESTS_CACHE_INTERNAL_RETENTION_LRU_POLICY_H_
#define WEAKCACHE_TESTS_CACHE_INTERNAL_RETENTION_LRU_POLICY_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::testing {

class LruPolicy {
 public:
  class AccessCounter {
   public:
    void RecordAccess() {
      // Relaxed, all: the order of concurrent hits is anybody's guess.
      last_access_.store(accesses_.fetch_add(1, std::memory_order_relaxed),
                         std::memory_order_relaxed);
    }
    uint64_t last_access() const { return last_access_.load(std::memory_order_relaxed); }

   private:
    inline static std::atomic<uint64_t> accesses_{1};
    // When the object was last accessed: a number of all accesses of all objects. Any thread
    // stores.
    std::atomic<uint64_t> last_access_{0};
  };

  struct Node {
    explicit Node(AccessCounter* counter) : counter(counter) {}
    uint32_t frequency() const { return counter->last_access() == 0 ? 0 : 1; }
    AccessCounter* const counter;
    uint64_t weight = 0;
  };

  explicit LruPolicy(uint64_t budget) { SetBudget(budget); }

  void Insert(Node* node, uint64_t, uint64_t weight, uint64_t, bool) {
    node->counter->RecordAccess();
    node->weight = weight;
    bytes_ += weight;
    nodes_.push_back(node);
  }
  Node* NextVictim(size_t& looks, bool, bool) {
    if (nodes_.empty() || looks == 0) return nullptr;
    --looks;
    return *std::min_element(nodes_.begin(), nodes_.end(), IsColder);
  }
  Node* NextHeavierThan(uint64_t weight, size_t& looks) {
    if (looks == 0) return nullptr;
    for (const std::vector<Node*>* const nodes : {&nodes_, &aside_}) {
      const auto heavy = std::find_if(nodes->begin(), nodes->end(),
                                      [weight](const Node* node) { return node->weight > weight; });
      if (heavy == nodes->end()) continue;
      --looks;
      return *heavy;
    }
    return nullptr;
  }
  bool WouldSpare(const Node&) const { return false; }
  void Evict(Node* node) { Remove(node); }
  void Remove(Node* node) {
    bytes_ -= node->weight;
    TakeOut(node);
  }
  void SetAside(Node* node) {
    TakeOut(node);
    aside_.push_back(node);
  }
  bool IsAside(const Node& node) const {
    return std::find(aside_.begin(), aside_.end(), &node) != aside_.end();
  }
  Node* OldestAside() const { return aside_.empty() ? nullptr : aside_.front(); }
  void Return(Node* node) {
    TakeOut(node);
    node->counter->RecordAccess();
    nodes_.push_back(node);
  }
  void SetWeight(Node* node, uint64_t weight) {
    bytes_ += weight - node->weight;
    node->weight = weight;
  }
  void SetBudget(uint64_t budget) { budget_ = std::min(budget, UINT64_MAX / 2); }

  uint64_t budget() const { return budget_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t aside_bytes() const { return BytesOf(aside_); }
  size_t size() const { return nodes_.size() + aside_.size(); }

  uint64_t Epoch() const { return 0; }
  uint64_t RankSince(const Node& node, uint64_t) const { return node.counter->last_access(); }
  template <typename Visit>
  void ColdestFirst(Visit&& visit) const {
    std::vector<Node*> nodes = Sorted();
    for (Node* node : nodes) {
      if (!visit(*node)) return;
    }
  }
  template <typename Visit>
  void HottestFirst(Visit&& visit) const {
    std::vector<Node*> nodes = Sorted();
    std::reverse(nodes.begin(), nodes.end());
    for (Node* node : nodes) {
      if (!visit(*node)) return;
    }
  }

  void CheckInvariantsForTesting() const {
    internal::Check(BytesOf(nodes_) + BytesOf(aside_) == bytes_, "CheckInvariantsForTesting",
                    "the bytes don't add up");
  }

 private:
  static bool IsColder(const Node* a, const Node* b) {
    return a->counter->last_access() < b->counter->last_access();
  }
  static uint64_t BytesOf(const std::vector<Node*>& nodes) {
    uint64_t bytes = 0;
    for (const Node* node : nodes) bytes += node->weight;
    return bytes;
  }
  void TakeOut(Node* node) {
    std::erase(nodes_, node);
    std::erase(aside_, node);
  }
  std::vector<Node*> Sorted() const {
    std::vector<Node*> nodes = nodes_;
    nodes.insert(nodes.end(), aside_.begin(), aside_.end());
    std::sort(nodes.begin(), nodes.end(), IsColder);
    return nodes;
  }

  std::vector<Node*> nodes_;
  std::vector<Node*> aside_;  // the first has waited longest
  uint64_t budget_ = 0;
  uint64_t bytes_ = 0;
};
static_assert(internal::EvictionPolicy<LruPolicy>);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_CACHE_INTERNAL_RETENTION_LRU_POLICY_H_
