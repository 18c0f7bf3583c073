// SPDX-License-Identifier: Apache-2.0
// Chooses the object to evict when a cache is over its budget.
//
// An object is worth keeping if it is used often, was used lately, and is small: with the bytes of
// one large object the cache could keep many small ones. GreedyDual-Size-Frequency (Cherkasova,
// 1998) orders objects by just that: priority = clock + uses / weight, where the clock is the
// priority of the last victim, so an object that is not used any more is overtaken. But that
// algorithm moves an object on each hit, under a lock. This policy makes it lazy, as S3-FIFO (SOSP
// 2023) and SIEVE (NSDI 2024) do it for LRU: a hit counts in one byte of its object; only when the
// object is about to be evicted, the policy looks whether it was used, and if so gives it its new
// priority.
//
// A new object is a newcomer first: it waits in a FIFO nursery of an eighteenth of the budget. Then
// it enters the priority queues if it was used, or is much smaller than other victims, or if the
// ghost knows it; otherwise it is the next victim. The ghost remembers for a while how often
// evicted objects were used. So a scan replaces the nursery and no more, and a loop that does not
// fit keeps a part of itself.
//
// An object that the ghost knows, and that was not used in the nursery, takes another one's place.
// Where that has turned out to be a mistake lately (admission_duels.h), it must have had more uses
// than the other one. So of objects that are used once in each round the cache keeps the same ones.
// One in 128 is admitted all the same, so that the clock advances and old uses count less.
//
// The cost that a hit on an object saves counts, too, if Insert gets it.
//
// Guarantee: a new object stays until newer ones that weigh a twentieth of the budget together have
// come, and the newest always stays, unless what is left of the budget beside reservations and
// objects in use becomes less than the newest weigh.
//
// Priorities are rounded to half powers of two. All objects of equal value then wait in one queue,
// and as the clock never goes back each queue is in order: the victim is the oldest of some queue.
// docs/eviction.md compares the policy with others on real traces, and says what else was tried.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_LAZY_GREEDY_DUAL_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_LAZY_GREEDY_DUAL_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "weakcache/cache/internal/retention/admission_duels.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/retention/ghost_table.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// Thread-compatible, except that any thread may call AccessCounter::RecordAccess at any time. The
// caller owns the nodes, and evicts victims while `bytes() > budget()`. Operations are amortised
// O(1): a node that a victim search passes over leaves the nursery, once, or has been hit since it
// was queued.
class LazyGreedyDual {
 public:
  static constexpr uint8_t kMaxFrequency = GhostTable::kMaxFrequency;

  // One byte beside the key: a hit reads no other cache line, and writes to no other byte.
  class AccessCounter {
   public:
    // One more than the maximum, so that an object of maximal frequency can still show a hit.
    static constexpr uint8_t kSaturated = kMaxFrequency + 1;

    // Counts a hit. An object that is hit often and not evicted soon stops being written to.
    void RecordAccess() {
      // Relaxed, both: see the field.
      uint8_t frequency = value_.load(std::memory_order_relaxed);
      if (frequency >= kSaturated) return;
      // Not a store, which could undo what the policy sets meanwhile. Of two hits at the same time
      // one may be lost.
      value_.compare_exchange_strong(frequency, static_cast<uint8_t>(frequency + 1),
                                     std::memory_order_relaxed, std::memory_order_relaxed);
    }

   private:
    friend class LazyGreedyDual;
    uint8_t frequency() const { return value_.load(std::memory_order_relaxed); }
    void set_frequency(uint8_t frequency) { value_.store(frequency, std::memory_order_relaxed); }

    // How often the object was used, up to kSaturated. Any thread adds 1 below kSaturated; the
    // policy's user, under its lock, sets any value and may overwrite a hit. Relaxed: it is an
    // estimate, and nobody concludes from it that anything else has happened.
    std::atomic<uint8_t> value_{0};
  };

  // What the policy keeps for each object in it.
  struct Node {
    explicit Node(AccessCounter* of_object) : counter(of_object) {}

    uint8_t frequency() const { return counter->frequency(); }

    AccessCounter* const counter;     // outlives the node
    uint8_t accounted_frequency = 0;  // the part of the frequency that the priority accounts for
    uint8_t queue = 0;
    bool newcomer = false;  // has not left the nursery, except to be set aside
    bool returned = false;  // whether the ghost knew it; of a newcomer
    uint8_t duel = 0;       // see AdmissionDuels
    uint8_t cost = 0;       // 2 log2 of it, rounded down, up to kMaxCost
    Node* older = nullptr;  // neighbours in its queue
    Node* newer = nullptr;
    uint64_t hash = 0;
    uint64_t weight = 0;
    // Of a newcomer: the bytes that had come by then, itself included.
    uint64_t priority = 0;
  };

  // A greater budget counts as this one, so that an object more can't make the bytes overflow.
  static constexpr uint64_t kMaxBudget = UINT64_MAX / 2;

  explicit LazyGreedyDual(uint64_t budget) : budget_(std::min(budget, kMaxBudget)) {}
  LazyGreedyDual(const LazyGreedyDual&) = delete;
  LazyGreedyDual& operator=(const LazyGreedyDual&) = delete;

  // Admits an object that is not heavier than the budget, as a newcomer. Its value is multiplied by
  // the cost, see eviction_policy.h; one that is not known is the average of the latest few
  // hundred.
  void Insert(Node* node, uint64_t hash, uint64_t weight, uint64_t cost = 0, bool is_use = true) {
    const std::optional<GhostTable::Eviction> past = ghost_.Take(hash);
    const bool returned = past.has_value() && past->age < GhostWindow();
    if (returned && is_use) duels_.Returned(hash);
    const int uses = returned ? past->frequency + (is_use ? 1 : 0) : 0;
    const int frequency = std::min(uses, int{kMaxFrequency});
    node->hash = hash;
    node->weight = weight;
    node->cost = CostOf(cost);
    greatest_cost_ = std::max(greatest_cost_, node->cost);
    node->counter->set_frequency(static_cast<uint8_t>(frequency));
    node->accounted_frequency = static_cast<uint8_t>(frequency);
    node->newcomer = true;
    node->returned = returned;
    arrived_bytes_ += weight;
    node->priority = arrived_bytes_;
    bytes_ += weight;
    ++size_;
    NoteWeight(weight);
    PushNewest(kNursery, node);
    // While nothing has to go, those whose time is over enter the queues: a few, as one heavy
    // object may end the time of many.
    if (std::exchange(evicted_, false) || bytes_ > budget_) return;
    for (int i = 0; i < 4; ++i) {
      Node* const oldest = OldestUnprotected();
      if (oldest == nullptr) return;
      LeaveNursery(oldest);
    }
  }

  // Returns the next victim, see eviction_policy.h: newcomers whose time is over come first, then
  // the object that is worth least, and then the other newcomers.
  Node* NextVictim(size_t& looks, bool spare_used, bool spare_newest) {
    Node* admitted = nullptr;  // the latest newcomer that takes another one's place
    for (; looks > 0; --looks) {
      Node* const newcomer = OldestUnprotected();
      if (newcomer != nullptr && DeservesQueue(*newcomer)) {
        LeaveNursery(newcomer);
        continue;
      }
      if (newcomer != nullptr && !newcomer->returned) return Looked(newcomer, looks);
      Node* const node = LeastPriority();
      if (node != nullptr) {
        clock_ = node->priority;
        if (spare_used && WasHit(*node)) {
          Dequeue(node);
          Enqueue(node, AccountFrequency(*node));
          continue;
        }
      }
      if (newcomer != nullptr) {
        if (node != nullptr && !MayReplace(*newcomer, *node)) {
          pending_duel_ = {.victim = newcomer, .kept = node, .kept_returned = false};
          return Looked(newcomer, looks);
        }
        admitted = newcomer;
        LeaveNursery(newcomer);
        continue;
      }
      if (node != nullptr) {
        pending_duel_ = {.victim = node, .kept = admitted, .kept_returned = true};
        return Looked(node, looks);
      }
      Node* const last = oldest_[kNursery];
      if (last == nullptr || (spare_newest && IsNew(*last))) return nullptr;
      return Looked(last, looks);
    }
    return nullptr;
  }

  bool WouldSpare(const Node& node) const {
    return WasHit(node) || (node.queue == kNursery && IsNew(node));
  }

  // Sets a node aside, see eviction_policy.h.
  void SetAside(Node* node) {
    Dequeue(node);
    PushNewest(kAside, node);
    // The search for heavy nodes may have passed the place where it is now.
    NoteWeight(node->weight);
  }
  static bool IsAside(const Node& node) { return node.queue == kAside; }
  Node* OldestAside() const { return oldest_[kAside]; }
  // Puts a node back whose object's users have released it just now, which counts as a use. The
  // newest nodes become newcomers again, because they are to stay.
  void Return(Node* node) {
    Dequeue(node);
    NoteWeight(node->weight);  // as in SetAside
    if (node->newcomer && IsNew(*node)) {
      PushNewest(kNursery, node);
      return;
    }
    const int frequency = std::min(AccountFrequency(*node) + 1, int{kMaxFrequency});
    node->counter->set_frequency(static_cast<uint8_t>(frequency));
    Enqueue(node, static_cast<uint8_t>(frequency));
  }

  // Returns an object that weighs more than `weight`, for the caller to evict or to set aside. Null
  // if there is none, or if `looks` have not been enough to find one: then the next call with that
  // weight goes on. The queues that it has to search hold no object that weighs less than a
  // thousandth of `weight`; and often it is known that no object is so heavy.
  Node* NextHeavierThan(uint64_t weight, size_t& looks) {
    return heaviest_ <= weight ? nullptr : NextHeavierThanSlow(weight, looks);
  }

  // Removes a node, and remembers it as a victim.
  void Evict(Node* node) {
    const uint8_t frequency = std::min(node->counter->frequency(), kMaxFrequency);
    duels_.Evicted(node);
    const PendingDuel duel = pending_duel_;
    Remove(node);
    if (duel.victim == node && duel.kept != nullptr && duel.kept != node) {
      duels_.Start(node->hash, duel.kept, duel.kept_returned, evictions_,
                   [this] { return GhostWindow(); });
    }
    ++evictions_;
    evicted_ = true;
    Remember(*node, frequency);
  }
  // Removes a node that is not evicted, so it is not remembered.
  void Remove(Node* node) {
    if (node == pending_duel_.victim || node == pending_duel_.kept) pending_duel_ = PendingDuel();
    duels_.Removed(node);
    Dequeue(node);
    bytes_ -= node->weight;
    --size_;
  }

  // Changes a node's weight, which is not above the budget either.
  void SetWeight(Node* node, uint64_t weight) {
    bytes_ += weight - node->weight;
    if (node->queue == kAside) aside_bytes_ += weight - node->weight;
    node->weight = weight;
    NoteWeight(weight);
    if (node->queue >= kQueues || QueueOf(*node) == node->queue) return;
    Dequeue(node);
    Enqueue(node, node->accounted_frequency);
  }

  void SetBudget(uint64_t budget) { budget_ = std::min(budget, kMaxBudget); }

  uint64_t budget() const { return budget_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t aside_bytes() const { return aside_bytes_; }
  size_t size() const { return size_; }
  // Returns how many evictions the ghost has room for.
  size_t ghost_capacity() const { return ghost_.capacity(); }

  // Calls `visit(node)` for each node until it returns false, in the order of eviction, or the
  // reverse. Hits since a node was queued don't count. O(1) for each, with a large factor.
  template <typename Visit>
  void ColdestFirst(Visit&& visit) const {
    Node* newcomer = oldest_[kNursery];
    for (; newcomer != nullptr && !IsProtected(*newcomer); newcomer = newcomer->newer) {
      if (!visit(*newcomer)) return;
    }
    static_cast<void>(ForEach(oldest_, &Node::newer, /*sign=*/0, visit) &&
                      VisitQueue(newcomer, &Node::newer, visit) &&
                      VisitQueue(oldest_[kAside], &Node::newer, visit));
  }
  template <typename Visit>
  void HottestFirst(Visit&& visit) const {
    if (!VisitQueue(newest_[kAside], &Node::older, visit)) return;
    Node* newcomer = newest_[kNursery];
    for (; newcomer != nullptr && IsProtected(*newcomer); newcomer = newcomer->older) {
      if (!visit(*newcomer)) return;
    }
    static_cast<void>(ForEach(newest_, &Node::older, /*sign=*/~uint64_t{0}, visit) &&
                      VisitQueue(newcomer, &Node::older, visit));
  }

  // Priorities wrap around, so only how far they are ahead of some earlier clock can be compared.
  // Newcomers whose time is over come first; the others, and what is set aside, last.
  uint64_t Epoch() const { return clock_; }
  uint64_t RankSince(const Node& node, uint64_t epoch) const {
    if (node.queue == kAside) return UINT64_MAX;
    if (node.queue == kNursery) return IsProtected(node) ? UINT64_MAX - 1 : 0;
    return node.priority - epoch;
  }

  // Aborts unless the queues are in order and the totals right.
  void CheckInvariantsForTesting() const {
    uint64_t bytes = 0;
    size_t size = 0;
    for (size_t queue = 0; queue < kQueues; ++queue) {
      const Node* older = nullptr;
      for (const Node* node = oldest_[queue]; node != nullptr; node = node->newer) {
        Check(node->older == older, "CheckInvariantsForTesting", "a queue's links differ");
        Check(node->queue == queue, "CheckInvariantsForTesting", "a node is in the wrong queue");
        Check(QueueOf(*node) == queue, "CheckInvariantsForTesting", "a node is misplaced");
        const uint64_t lead = node->priority - clock_;
        Check(lead <= ValueOf(queue), "CheckInvariantsForTesting", "a priority is out of range");
        Check(older == nullptr || older->priority - clock_ <= lead, "CheckInvariantsForTesting",
              "a queue is out of order");
        bytes += node->weight;
        ++size;
        older = node;
      }
      Check(newest_[queue] == older, "CheckInvariantsForTesting", "a queue has lost its end");
      const bool marked = (used_[queue / 64] >> (queue % 64) & 1) != 0;
      Check(marked == (older != nullptr), "CheckInvariantsForTesting",
            "the set of used queues is wrong");
    }
    const Totals newcomers = CheckQueue(kNursery);
    Check(newcomers.size == newcomers_, "CheckInvariantsForTesting", "the newcomers don't add up");
    const Totals aside = CheckQueue(kAside);
    Check(aside.bytes == aside_bytes_, "CheckInvariantsForTesting",
          "what is set aside does not add up");
    bytes += newcomers.bytes + aside.bytes;
    size += newcomers.size + aside.size;
    Check(bytes == bytes_, "CheckInvariantsForTesting", "the bytes don't add up");
    Check(size == size_, "CheckInvariantsForTesting", "the nodes don't add up");
  }

 private:
  // The value of an object is (frequency + 1/10) / weight^(3/4), times its cost. Dividing by the
  // whole weight would be best for the number of hits, but at the expense of bytes; 1/10 makes the
  // share of the cache that is on probation. Queue q holds the objects of value 2^(q/2), times a
  // constant.
  //
  // 2 log2(10 frequency + 1):
  static constexpr std::array<uint8_t, kMaxFrequency + 1> kFrequencyPart = {
      0, 7, 9, 10, 11, 11, 12, 12, 13, 13, 13, 14, 14, 14, 14, 14};
  static constexpr size_t kMaxWeightPart = 96;
  // 2 log2 of the greatest cost that counts, 2^34 microseconds or almost five hours; and of every
  // object's cost if costs don't count, 2^20 microseconds or a second.
  static constexpr uint8_t kMaxCost = 68;
  static constexpr uint8_t kUsualCost = 40;
  // Those of values below 2^63. Only objects of a few bytes that cost minutes could be worth more,
  // and only those of terabytes that cost microseconds less than the first.
  static constexpr size_t kQueues = 125;
  // Queues that follow the ones in the order of priorities, and are not ordered with them.
  static constexpr size_t kNursery = kQueues;
  static constexpr size_t kAside = kQueues + 1;  // nodes of objects that are in use
  using Queues = std::array<Node*, kQueues + 2>;
  using QueueSet = std::array<uint64_t, (kQueues + 63) / 64>;

  // Returns 2 log2(weight^(3/4)), for a weight of 0 that of 1.
  static size_t WeightPart(uint64_t weight) {
    weight |= uint64_t{weight == 0};
    const int exponent = static_cast<int>(std::bit_width(weight)) - 1;
    const uint64_t quarters = (weight << (63 - exponent) >> 61) & 3;
    return (4 * static_cast<size_t>(exponent) + quarters) * 3 / 8;
  }
  static size_t QueueFor(uint8_t frequency, uint64_t weight, uint8_t cost) {
    const size_t for_usual_cost = kMaxWeightPart - WeightPart(weight) + kFrequencyPart[frequency];
    const size_t queue = for_usual_cost + cost;
    return std::clamp(queue, size_t{kUsualCost}, kUsualCost + kQueues - 1) - kUsualCost;
  }
  static size_t QueueOf(const Node& node) {
    return QueueFor(node.accounted_frequency, node.weight, node.cost);
  }
  // Returns 2^(queue/2); at least 1, so that the clock advances whatever is evicted.
  static uint64_t ValueOf(size_t queue) {
    constexpr uint64_t kRootOfTwo = 0xb504f333;  // times 2^31
    const uint64_t mantissa = queue % 2 == 0 ? uint64_t{1} << 31 : kRootOfTwo;
    return (mantissa << (queue / 4)) >> 31 << (queue / 2 - queue / 4);
  }

  // Returns how much newer objects may weigh together before a newcomer's time is over: more than
  // the twentieth of the budget that is promised. A larger nursery is better on real traces, by
  // very little, and worse for a loop.
  uint64_t NurseryBytes() const { return budget_ / 18 + 1; }
  // The newest four also stay as long as they weigh at most half of the budget together, because a
  // twentieth of a small cache is less than one object.
  static constexpr size_t kFewNewcomers = 4;

  uint64_t BytesSince(const Node& newcomer) const { return arrived_bytes_ - newcomer.priority; }
  // Returns whether the newcomer stays by the guarantee.
  bool IsNew(const Node& newcomer) const { return BytesSince(newcomer) < budget_ / 20 + 1; }
  // Returns whether the newcomer's time is not over.
  bool IsProtected(const Node& newcomer) const {
    if (BytesSince(newcomer) < NurseryBytes()) return true;
    uint64_t bytes = 0;
    const Node* node = newest_[kNursery];
    for (size_t count = 0; count < kFewNewcomers && node != nullptr; ++count) {
      bytes += node->weight;
      if (bytes > budget_ / 2) return false;
      if (node == &newcomer) return true;
      node = node->older;
    }
    return false;
  }
  // Returns the oldest newcomer if its time is over, or null.
  Node* OldestUnprotected() const {
    Node* const oldest = oldest_[kNursery];
    if (oldest == nullptr || BytesSince(*oldest) < NurseryBytes()) return nullptr;
    return newcomers_ <= kFewNewcomers && IsProtected(*oldest) ? nullptr : oldest;
  }
  // Returns whether a newcomer whose time is over is kept in any case. A small one need not have
  // been used: with the bytes of one victim the cache keeps two of them. Nor need one that costs as
  // much more to make.
  bool DeservesQueue(const Node& newcomer) const {
    return WasHit(newcomer) || Price(newcomer) < evicted_price_ / 2;
  }
  // Returns whether a newcomer that the ghost knows is kept, and the victim evicted for it. The
  // return itself, which counts as a use, is no reason.
  bool MayReplace(const Node& newcomer, const Node& victim) {
    constexpr uint32_t kAdmitted = 128;
    return duels_.ReturningObjectsWin() || newcomer.accounted_frequency > victim.frequency() + 1 ||
           ++turned_away_ % kAdmitted == 0;
  }
  // Returns the cost of a new object, see Node.
  uint8_t CostOf(uint64_t cost) {
    if (cost == 0) return kUsualCost;
    // Objects that have come before any cost was known are worth least, because they may be many.
    if (cost == kUnknownCost) return static_cast<uint8_t>(std::lround(average_cost_));
    constexpr uint64_t kRootOfTwo = 0xb504f333f9de6485;  // times 2^63
    constexpr int kLatest = 256;
    const int exponent = static_cast<int>(std::bit_width(cost)) - 1;
    const int exact = 2 * exponent + (cost << (63 - exponent) >= kRootOfTwo ? 1 : 0);
    const int bounded = std::min(exact, static_cast<int>(kMaxCost));
    if (costs_ < kLatest) ++costs_;
    average_cost_ += (bounded - average_cost_) / costs_;
    return static_cast<uint8_t>(bounded);
  }
  // Returns what an object of the same value weighs if it has the usual cost.
  static double Price(const Node& node) {
    return static_cast<double>(node.weight) * kPrices[node.cost];
  }
  static constexpr std::array<double, kMaxCost + 1> kPrices = [] {
    constexpr double kStep = 0.6299605249474366;  // 2^(-2/3): half an octave, to the power of -4/3
    std::array<double, kMaxCost + 1> prices{};
    prices[kUsualCost] = 1;
    for (size_t i = kUsualCost + 1; i <= kMaxCost; ++i) prices[i] = prices[i - 1] * kStep;
    for (size_t i = kUsualCost; i > 0; --i) prices[i - 1] = prices[i] / kStep;
    return prices;
  }();
  void LeaveNursery(Node* node) {
    Dequeue(node);
    Enqueue(node, AccountFrequency(*node));
  }

  // Returns whether the object was hit since it was queued.
  static bool WasHit(const Node& node) {
    return node.counter->frequency() != node.accounted_frequency;
  }
  // Returns how often the object was used, up to the maximum, and lowers a saturated counter, so
  // that it can show a hit again.
  static uint8_t AccountFrequency(const Node& node) {
    const uint8_t frequency = node.counter->frequency();
    if (frequency <= kMaxFrequency) return frequency;
    node.counter->set_frequency(kMaxFrequency);
    return kMaxFrequency;
  }
  static Node* Looked(Node* node, size_t& looks) {
    --looks;
    return node;
  }

  void Remember(const Node& evicted, uint8_t frequency) {
    // An average over about the latest hundred.
    constexpr double kShare = 0.01;
    evicted_weight_ += kShare * (static_cast<double>(evicted.weight) - evicted_weight_);
    evicted_price_ += kShare * (Price(evicted) - evicted_price_);
    ghost_.Remember(evicted.hash, frequency, 2 * (size_ + 1));
  }
  // Returns as many evictions as fill the budget twice: so many have to be remembered to recognise
  // objects that a cache of three times the size would have kept. Where large objects are evicted
  // first, that is few.
  size_t GhostWindow() const {
    const double evictions = 2 * static_cast<double>(budget_) / std::max(evicted_weight_, 1.0);
    const auto residents = static_cast<double>(size_ + 1);
    return static_cast<size_t>(std::clamp(evictions, residents, 2 * residents));
  }

  void NoteWeight(uint64_t weight) {
    heaviest_ = std::max(heaviest_, weight);
    search_.heaviest = std::max(search_.heaviest, weight);
  }

  Node* NextHeavierThanSlow(uint64_t weight, size_t& looks) {
    if (search_.weight != weight || !search_.active) {
      search_ = {.active = true, .weight = weight, .heaviest = weight, .next = oldest_[kNursery]};
    }
    const size_t last = QueueFor(kMaxFrequency, weight, greatest_cost_);
    while (looks > 0) {
      Node* const node = search_.next;
      if (node == nullptr) {
        if (search_.queue == last) {
          heaviest_ = search_.heaviest;
          search_ = Search();
          return nullptr;
        }
        search_.queue = QueueToSearchAfter(search_.queue);
        search_.next = oldest_[search_.queue];
        continue;
      }
      --looks;
      search_.next = node->newer;
      if (node->weight > weight) return node;
    }
    return nullptr;
  }

  // Returns the queue that the search for heavy nodes looks at next. In this order, a node that
  // leaves the nursery, or is used, moves to a queue that is searched later.
  static size_t QueueToSearchAfter(size_t queue) {
    if (queue == kNursery) return kAside;
    return queue == kAside ? 0 : queue + 1;
  }

  void Enqueue(Node* node, uint8_t frequency) {
    node->newcomer = false;
    node->accounted_frequency = frequency;
    const size_t queue = QueueOf(*node);
    node->priority = clock_ + ValueOf(queue);
    PushNewest(queue, node);
    used_[queue / 64] |= uint64_t{1} << (queue % 64);
  }
  void PushNewest(size_t queue, Node* node) {
    node->queue = static_cast<uint8_t>(queue);
    node->older = newest_[queue];
    node->newer = nullptr;
    (node->older == nullptr ? oldest_[queue] : node->older->newer) = node;
    newest_[queue] = node;
    if (search_.active && search_.queue == queue && search_.next == nullptr) search_.next = node;
    if (queue == kAside) aside_bytes_ += node->weight;
    if (queue == kNursery) ++newcomers_;
  }
  void Dequeue(Node* node) {
    const size_t queue = node->queue;
    if (search_.next == node) search_.next = node->newer;
    (node->older == nullptr ? oldest_[queue] : node->older->newer) = node->newer;
    (node->newer == nullptr ? newest_[queue] : node->newer->older) = node->older;
    if (queue == kNursery) {
      --newcomers_;
    } else if (queue == kAside) {
      aside_bytes_ -= node->weight;
    } else if (oldest_[queue] == nullptr) {
      used_[queue / 64] &= ~(uint64_t{1} << (queue % 64));
    }
  }

  // Returns the candidate that is first, or last if `sign` is all ones. Priorities wrap around like
  // the clock, so only how far they lead it can be compared.
  Node* First(const Queues& candidates, const QueueSet& used, uint64_t sign) const {
    Node* first = nullptr;
    uint64_t least = 0;
    for (size_t word = 0; word < used.size(); ++word) {
      for (uint64_t bits = used[word]; bits != 0; bits &= bits - 1) {
        const size_t queue = 64 * word + static_cast<size_t>(std::countr_zero(bits));
        Node* const node = candidates[queue];
        const uint64_t lead = (node->priority - clock_) ^ sign;
        if (first == nullptr || lead < least) {
          first = node;
          least = lead;
        }
      }
    }
    return first;
  }
  Node* LeastPriority() const { return First(oldest_, used_, /*sign=*/0); }

  // Both return whether every call of `visit` has returned true.
  template <typename Visit>
  static bool VisitQueue(Node* from, Node* Node::*link, Visit& visit) {
    for (Node* node = from; node != nullptr; node = node->*link) {
      if (!visit(*node)) return false;
    }
    return true;
  }
  template <typename Visit>
  bool ForEach(Queues next, Node* Node::*link, uint64_t sign, Visit& visit) const {
    QueueSet used = used_;
    while (Node* const node = First(next, used, sign)) {
      const size_t queue = node->queue;
      next[queue] = node->*link;
      if (next[queue] == nullptr) used[queue / 64] &= ~(uint64_t{1} << (queue % 64));
      if (!visit(*node)) return false;
    }
    return true;
  }

  struct Totals {
    uint64_t bytes = 0;
    size_t size = 0;
  };
  Totals CheckQueue(size_t queue) const {
    Totals totals;
    const Node* older = nullptr;
    for (const Node* node = oldest_[queue]; node != nullptr; node = node->newer) {
      Check(node->older == older, "CheckInvariantsForTesting", "a queue's links differ");
      Check(node->queue == queue, "CheckInvariantsForTesting", "a node is in the wrong queue");
      totals.bytes += node->weight;
      ++totals.size;
      older = node;
    }
    Check(newest_[queue] == older, "CheckInvariantsForTesting", "a queue has lost its end");
    return totals;
  }

  Queues oldest_ = {};
  Queues newest_ = {};
  QueueSet used_ = {};  // the queues that hold something
  uint64_t clock_ = 0;  // the priority of the node looked at last, modulo 2^64; none is less
  uint64_t budget_;
  uint64_t bytes_ = 0;
  size_t size_ = 0;
  uint64_t arrived_bytes_ = 0;  // of all newcomers that have ever come, modulo 2^64
  uint64_t aside_bytes_ = 0;
  size_t newcomers_ = 0;  // in the nursery
  bool evicted_ = false;  // whether anything was, since the last object came
  // No node weighs more. The end of a search lowers it to what that has found to be enough.
  uint64_t heaviest_ = 0;
  // A search for nodes that weigh more than `weight`, which may take several calls. Before `next`
  // in `queue`, and in the queues before that, no node weighs more than `heaviest`: an object that
  // is inserted or weighed anew has its weight noted, and others only move to later queues.
  struct Search {
    bool active = false;
    uint64_t weight = 0;
    uint64_t heaviest = 0;
    size_t queue = kNursery;
    Node* next = nullptr;
  };
  Search search_;
  double evicted_weight_ = 0;  // on average, lately
  double evicted_price_ = 0;   // the same of their prices
  double average_cost_ = 0;    // of the known ones, lately, as in a node
  int costs_ = 0;              // how many that accounts for
  uint8_t greatest_cost_ = 0;  // no node's is greater
  uint64_t evictions_ = 0;
  AdmissionDuels<Node> duels_;
  uint32_t turned_away_ = 0;  // newcomers that had returned, modulo 2^32
  // A duel that begins if the next eviction is that of `victim`, which is the latest result of
  // NextVictim. The cache may also set it aside. Both are in the policy, or null.
  struct PendingDuel {
    Node* victim = nullptr;
    Node* kept = nullptr;
    bool kept_returned = false;
  };
  PendingDuel pending_duel_;
  GhostTable ghost_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_LAZY_GREEDY_DUAL_H_
