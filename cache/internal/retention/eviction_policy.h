// SPDX-License-Identifier: Apache-2.0
// What a cache asks of an eviction policy.
//
// A policy decides which object goes next; it owns nothing and takes no lock. Retention<K, Policy>
// calls it under the budget's lock: Insert for an object that is retained from now on, Evict or
// Remove for one that no longer is. A hit, which takes no lock, calls only
// Policy::AccessCounter::RecordAccess.
//
// To evict an object that is in use frees nothing, so such an object is set aside: it stays in the
// policy, but not in the order of eviction, until the retention finds that nobody uses it any more.
//
// An object's share of the policy lies in two places:
//
//   Policy::AccessCounter   beside the key, in the cache line that a hit reads anyway. It is
//                           default-constructed with the key, thread-safe, and should be small.
//   Policy::Node            in the cold part of the entry, which is derived from it. The policy has
//                           it to itself, under the budget's lock, while the object is retained.
//                           It is constructed with a pointer to the object's AccessCounter.
//
// Whether an object is retained is not the policy's to say: the cache keeps that beside the counter
// (see Ownership). RecordAccess may therefore come for an object that has just left the policy, or
// that is being inserted anew at that moment; the policy has to tolerate one hit too many.
//
// LazyGreedyDual is the policy of LargeObjectCache; tests/cache/internal/retention/lru_policy.h is
// the simplest one.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_EVICTION_POLICY_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_EVICTION_POLICY_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace weakcache::internal {

inline constexpr uint64_t kUnknownCost = UINT64_MAX;

// Semantics, beyond what the types say:
//  - Policy(budget), SetBudget(budget): a policy may lower a budget, such as UINT64_MAX; budget()
//    returns the one that counts. Neither evicts.
//  - Insert(node, hash, weight, cost, is_use): `weight` is at most budget(), and the node is not in
//    the policy. bytes() may exceed budget() until the caller has taken enough victims. `hash` is
//    that of the object's key, for policies that remember evicted keys. `cost` is what a hit on it
//    saves, in microseconds, for policies that ask for it; kUnknownCost; or 0 if costs don't count.
//    `is_use` says whether somebody has asked for the object.
//  - NextVictim(looks, spare_used, spare_newest): returns the node that is to be evicted next; the
//    caller then calls Evict or SetAside for it. It looks at no more than `looks` nodes and takes
//    those off `looks`; null if there is no victim among them, which makes the next call go on from
//    there, or if there is no victim at all, and then some looks are left. If `spare_used` is
//    false, no node is passed over because it has been hit; if `spare_newest` is true, the nodes
//    that the policy promises to keep for a while are no victims.
//  - NextHeavierThan(weight, looks): returns a node that weighs more than `weight`; the caller then
//    calls Evict or SetAside for it. Null if there is none, or none among the first `looks`, which
//    are counted as above; the next call with the same weight goes on from there. Costs nothing if
//    no node was inserted that is so heavy, and otherwise should not look at nodes that are much
//    lighter.
//  - WouldSpare(node): returns whether NextVictim would pass the node over if it looked at it now.
//  - Evict(node): takes out a victim.
//  - SetAside(node): takes a node out of the order of eviction, or makes it the newest of those
//    that are set aside already. IsAside(node): returns whether it is. OldestAside(): returns the
//    one that was set aside first, or null. Return(node): puts it back, as one that has been used
//    just now. aside_bytes(): returns what those nodes weigh. bytes(), size() and the ranks include
//    them.
//  - Node::frequency(): returns how often its object was used, as far as the policy knows. On any
//    thread.
//  - Remove(node): takes a node out that is not evicted.
//  - SetWeight(node, weight): as after Insert, bytes() may exceed budget().
//  - ColdestFirst(visit), HottestFirst(visit): call `visit(node)` in the order of eviction, or the
//    reverse, until it returns false. The order need not account for the latest hits.
//  - Epoch(), RankSince(node, epoch): of nodes that are ranked with one epoch, those with a lower
//    rank are evicted first, as far as the latest hits don't matter. For orders of many nodes,
//    which are not made under one lock.
//  - CheckInvariantsForTesting(): aborts, and says why, if the policy is inconsistent.
template <typename Policy>
concept EvictionPolicy = std::constructible_from<Policy, uint64_t> &&
    std::default_initializable<typename Policy::AccessCounter> &&
    std::constructible_from<typename Policy::Node, typename Policy::AccessCounter*> &&
    requires(Policy policy, const Policy& const_policy, typename Policy::Node* node,
             typename Policy::AccessCounter counter, bool (*visit)(typename Policy::Node&),
             uint64_t number, size_t& looks) {
  { std::as_const(*node).frequency() } -> std::convertible_to<uint32_t>;
  counter.RecordAccess();
  policy.Insert(node, number, number, number, true);
  { policy.NextVictim(looks, true, true) } -> std::same_as<typename Policy::Node*>;
  { policy.NextHeavierThan(number, looks) } -> std::same_as<typename Policy::Node*>;
  { const_policy.WouldSpare(*node) } -> std::same_as<bool>;
  policy.Evict(node);
  policy.SetAside(node);
  { const_policy.IsAside(*node) } -> std::same_as<bool>;
  { const_policy.OldestAside() } -> std::same_as<typename Policy::Node*>;
  policy.Return(node);
  { const_policy.aside_bytes() } -> std::same_as<uint64_t>;
  policy.Remove(node);
  policy.SetWeight(node, number);
  policy.SetBudget(number);
  { const_policy.budget() } -> std::same_as<uint64_t>;
  { const_policy.bytes() } -> std::same_as<uint64_t>;
  { const_policy.size() } -> std::same_as<size_t>;
  { const_policy.Epoch() } -> std::same_as<uint64_t>;
  { const_policy.RankSince(*node, number) } -> std::same_as<uint64_t>;
  const_policy.ColdestFirst(visit);
  const_policy.HottestFirst(visit);
  const_policy.CheckInvariantsForTesting();
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_EVICTION_POLICY_H_
