// SPDX-License-Identifier: Apache-2.0
// The strong tier of a cache: which objects it keeps alive, within a budget of bytes.
//
// An object in the cache is retained, if the cache holds a strong reference to it, or pinned, if
// only its users keep it alive. Admit makes a pinned object retained; an eviction makes a retained
// one pinned, and if nobody uses it that ends it. One policy and one lock serve the whole cache, so
// that the budget is exact and the victim is the worst of all objects, not of one shard. Hits never
// come here.
//
// What an operation removes goes to a PendingRemovals, which runs the user code that this calls for
// after all locks have been released: see there.
//
// Under the lock no more than a few hundred nodes of the policy are looked at. An operation that
// has to look at more (the first eviction after all objects were hit, a Trim of half of the cache)
// takes turns: it releases the lock in between. An eviction that begins under a shard's lock leaves
// the other turns to the destructor of its PendingRemovals, so that the budget is kept when the
// operation ends. Other operations meanwhile leave those turns to that thread.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_RETENTION_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_RETENTION_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/retention/pending_removals.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// Thread-safe. A caller that passes an entry holds a reference to its slot or its object.
template <typename K, EvictionPolicy Policy>
class Retention {
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;
  using Node = typename Policy::Node;
  static constexpr size_t kLooksPerTurn = 256;

 public:
  using Entry = CacheEntry<K, Policy>;
  using PendingRemovals = internal::PendingRemovals<K, Policy>;

  // Bytes of the budget that are kept free for an object that is being loaded, until the
  // reservation is used by Admit, or ends.
  class Reservation {
   public:
    explicit Reservation(Retention& retention) : retention_(retention) {}
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    ~Reservation() { Release(); }

    // Evicts until `bytes` are free, before the object comes: that is what a reservation is for. If
    // so many can't be had beside other reservations, it evicts and reserves nothing. User code
    // runs; if that has ended the cache, returns false. `now`: see PendingRemovals.
    bool Reserve(uint64_t bytes, int64_t now = 0) {
      if (bytes_ != 0 || !retention_.Fits(bytes)) return true;
      const std::shared_ptr<CacheShared<K>> shared = retention_.shared_;
      {
        PendingRemovals removals;
        removals.now = now;
        bytes_ = retention_.Reserve(bytes, removals);
      }
      if (shared->ended()) bytes_ = 0;
      return !shared->ended();
    }
    void Release() {
      if (const uint64_t bytes = std::exchange(bytes_, 0)) retention_.ReleaseReserved(bytes);
    }

   private:
    friend class Retention;
    Retention& retention_;
    uint64_t bytes_ = 0;
  };

  // Whether an entry has expired by time by `now`.
  using ExpiryTest = std::function<bool(const Entry&, int64_t now)>;

  // An empty test says that nothing expires by time. It is called under the budget's lock.
  Retention(uint64_t budget, std::shared_ptr<CacheShared<K>> shared, ExpiryTest is_expired = {})
      : shared_(std::move(shared)),
        is_expired_(std::move(is_expired)),
        mutex_(shared_->mutex),
        policy_(budget),
        budget_(policy_.budget()) {}
  Retention(const Retention&) = delete;
  Retention& operator=(const Retention&) = delete;
  ~Retention() { Close(); }
  // Lets go of all objects, and retains none from now on. Their destructors may use the cache.
  void Close() {
    ControlBlock::DeferredReleases deferred;
    MutexLock lock(mutex_);
    // An object that a destructor finds in the cache after this is not retained again, even if the
    // destructor sets another budget.
    closed_ = true;
    policy_.SetBudget(0);
    budget_.store(0, std::memory_order_relaxed);  // see the field
    size_t looks = SIZE_MAX;
    while (Node* const node = policy_.PopVictim(looks, /*spare_used=*/false)) {
      ReleaseRetained(static_cast<Entry*>(node), deferred);
    }
  }

  // Whether an object of that weight is ever retained; and whether any is.
  bool Fits(uint64_t weight) const { return has_budget() && weight <= budget(); }
  bool has_budget() const { return budget() != 0; }

  // Retains the object, unless it is retained already, is too heavy for the budget beside what is
  // reserved, or has left the cache, or the listener is just being notified of it. The caller holds
  // the object.
  void Admit(Entry* entry, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    AdmitLocked(entry, removals);
  }
  // The same for a new entry, which its table has just published, in place of the reserved bytes.
  // Until now, a hit by another thread could not admit it, beside the reservation.
  void AdmitNew(Entry* entry, Reservation& reservation, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    entry->in_cache = true;
    reserved_ -= std::exchange(reservation.bytes_, 0);
    AdmitLocked(entry, removals);
  }

  // Retains an object that a hit has found, which is in use therefore, if there is room, or if
  // objects that nobody uses can make room: to evict one that is in use would free nothing.
  void AdmitAtHit(Entry* entry, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (!IsAdmissible(*entry)) return;
    const bool has_room = EvictUnusedFor(entry->object_weight(), removals);
    admissions_are_vain_.store(!has_room, std::memory_order_relaxed);  // see the field
    if (has_room) Retain(entry);
  }
  // Whether to call AdmitAtHit. If an admission has been in vain lately, only one hit of sixteen on
  // an object asks, so that all others take no lock.
  bool MayAdmitAtHit(typename Entry::Hot& hot) const {
    return !admissions_are_vain_.load(std::memory_order_relaxed) ||  // see the field
           hot.IsSixteenthWeakHit();
  }

  // Takes the entry out of the cache for good. The caller holds the lock of the entry's table, and
  // takes it out there.
  void Remove(Entry* entry, RemovalCause cause, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (entry->retained()) {
      policy_.Remove(entry);
      ReleaseRetained(entry, removals.deferred);
    }
    entry->in_cache = false;
    entry->refresh.Close();
    shared_->counters.Unpinned(entry->object_weight());
    removals.Add(entry, cause);
  }

  void SetBudget(uint64_t budget, PendingRemovals& removals) {
    {
      MutexLock lock(mutex_);
      if (closed_) return;
      policy_.SetBudget(budget);
      budget_.store(policy_.budget(), std::memory_order_relaxed);    // see the field
      admissions_are_vain_.store(false, std::memory_order_relaxed);  // see the field
      ++evicting_;
    }
    if (budget == 0) {
      EvictInTurns(
          removals, [] { return uint64_t{0}; }, /*weightless_too=*/true, /*for_budget=*/true);
    } else {
      FinishEviction(removals);
    }
  }
  // Evicts until the retained objects weigh at most `bytes` together; all objects if that is 0. Of
  // objects that are admitted meanwhile some may stay.
  void Trim(uint64_t bytes, PendingRemovals& removals) {
    EvictInTurns(
        removals, [bytes] { return bytes; }, /*weightless_too=*/bytes == 0, /*for_budget=*/false);
  }

  // Ends an eviction that has not kept the budget under one lock. The caller is in `evicting_`.
  void FinishEviction(PendingRemovals& removals) {
    const auto target = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return unreserved_budget(); };
    EvictInTurns(removals, target, /*weightless_too=*/false, /*for_budget=*/true);
  }

  // Returns the number of a weighing that begins. The object is weighed without a lock.
  uint32_t BeginWeighing(Entry* entry) {
    MutexLock lock(mutex_);
    return ++entry->weighings;
  }
  // Sets the object's weight, unless a later weighing has ended before. An object that has become
  // too heavy is evicted.
  void SetWeight(Entry* entry, uint32_t weighing, uint64_t weight, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (!entry->in_cache || static_cast<int32_t>(weighing - entry->weighed) < 0) return;
    entry->weighed = weighing;
    const uint64_t before = entry->object_weight();
    if (entry->retained() && weight <= unreserved_budget()) {
      entry->set_object_weight(weight);
      policy_.SetWeight(entry, weight);
      EvictSurplus(removals);
      return;
    }
    if (entry->retained()) {
      policy_.Remove(entry);
      Evict(entry, removals);
    }
    shared_->counters.Unpinned(before);
    shared_->counters.Pinned(weight);
    entry->set_object_weight(weight);
  }

  uint64_t bytes() const {
    MutexLock lock(mutex_);
    return policy_.bytes();
  }
  uint64_t budget() const { return budget_.load(std::memory_order_relaxed); }  // see the field
  size_t size() const {
    MutexLock lock(mutex_);
    return policy_.size();
  }

  // Returns up to `count` retained entries in the reverse order of their eviction, or in that
  // order. The caller has to release a reference to the slot of each.
  static constexpr size_t kMaxRanked = kLooksPerTurn;
  std::vector<Entry*> Ranked(size_t count, bool hottest_first) const {
    Check(count <= kMaxRanked, "Retention::Ranked", "too many under one lock");
    std::vector<Entry*> entries;
    entries.reserve(count);
    MutexLock lock(mutex_);
    const auto visit = [&](Node& node) {
      if (entries.size() == count) return false;
      entries.push_back(static_cast<Entry*>(&node));
      entries.back()->slot->AddStrong();
      return true;
    };
    if (hottest_first) {
      policy_.HottestFirst(visit);
    } else {
      policy_.ColdestFirst(visit);
    }
    return entries;
  }
  // For more of them: see EvictionPolicy. An entry that is not retained has no rank.
  uint64_t Epoch() const {
    MutexLock lock(mutex_);
    return policy_.Epoch();
  }
  std::optional<uint64_t> RankSince(const Entry& entry, uint64_t epoch) const {
    MutexLock lock(mutex_);
    if (!entry.retained()) return std::nullopt;
    return policy_.RankSince(entry, epoch);
  }

  // For tests, while no other thread uses the cache.
  void CheckInvariantsForTesting(size_t retained, uint64_t retained_bytes) const {
    constexpr const char* kCall = "CheckInvariantsForTesting";
    MutexLock lock(mutex_);
    policy_.CheckInvariantsForTesting();
    Check(reserved_ == 0, kCall, "a reservation is left over");
    Check(policy_.bytes() <= policy_.budget(), kCall, "the budget is exceeded");
    Check(policy_.size() == retained, kCall, "an object is retained by mistake");
    Check(policy_.bytes() == retained_bytes, kCall, "the weights don't add up");
  }

 private:
  // What objects may weigh beside the reservations. Where the budget has become smaller than those
  // they can't be honoured, and nothing is evicted for them.
  uint64_t unreserved_budget() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t budget = policy_.budget();
    return reserved_ <= budget ? budget - reserved_ : budget;
  }

  // Whether the object may be retained and is not, if there is room.
  bool IsAdmissible(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return entry.in_cache && !entry.retained() && !entry.notifying && has_budget();
  }
  void Retain(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->object->AddStrong();
    shared_->counters.Unpinned(entry->object_weight());
    policy_.Insert(entry, entry->key_hash, entry->object_weight());
    entry->hot.ownership.SetRetained(true);
  }
  void AdmitLocked(Entry* entry, PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!IsAdmissible(*entry) || entry->object_weight() > unreserved_budget()) return;
    Retain(entry);
    EvictSurplus(removals);
  }

  // Returns how many bytes it has reserved.
  uint64_t Reserve(uint64_t bytes, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (bytes > unreserved_budget()) return 0;
    reserved_ += bytes;
    // Not left to another thread: the load begins when there is room.
    if (!EvictOneTurn(removals)) LeaveEvictionTo(removals);
    return bytes;
  }
  void ReleaseReserved(uint64_t bytes) {
    MutexLock lock(mutex_);
    reserved_ -= bytes;
    admissions_are_vain_.store(false, std::memory_order_relaxed);  // see the field
  }

  // Evicts until the budget is kept, beside what is reserved; or leaves the rest to `removals`,
  // unless another thread is at it.
  void EvictSurplus(PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!EvictOneTurn(removals) && evicting_ == 0) LeaveEvictionTo(removals);
  }
  // Returns whether one turn was enough.
  bool EvictOneTurn(PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    size_t looks = kLooksPerTurn;
    return EvictDownTo(unreserved_budget(), looks, /*spare_used=*/true, /*weightless_too=*/false,
                       removals);
  }
  void LeaveEvictionTo(PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++evicting_;
    removals.SetUnfinished(this);
  }
  // Evicts until the retained objects weigh at most `target()`, which is called under the lock. It
  // ends, even if other threads admit and hit objects all the time: after two looks for each object
  // that there was, no more are spared, and after three all of those objects have been evicted.
  template <typename Target>
  void EvictInTurns(PendingRemovals& removals, const Target& target, bool weightless_too,
                    bool for_budget) {
    size_t size = 0;
    for (size_t looked = 0;; looked += kLooksPerTurn) {
      {
        MutexLock lock(mutex_);
        if (looked == 0) size = policy_.size();
        size_t looks = kLooksPerTurn;
        if (EvictDownTo(target(), looks, looked / 2 <= size, weightless_too, removals) ||
            looked / 4 > size) {
          evicting_ -= for_budget ? 1u : 0u;
          return;
        }
      }
      // Threads that look for the lock get it in the gap. To yield each time would cost a busy
      // machine's whole time slices.
      if (looked / kLooksPerTurn % 16 == 15) {
        std::this_thread::yield();
      } else {
        StdAtomics::Pause(0);
      }
    }
  }
  // Returns whether that many looks were enough. Objects that weigh more than `bytes` have to go in
  // any case, so they go first, and nothing else goes for their sake.
  bool EvictDownTo(uint64_t bytes, size_t& looks, bool spare_used, bool weightless_too,
                   PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool some_stay = spare_used && bytes != 0;
    while (policy_.bytes() > bytes || (weightless_too && policy_.size() > 0)) {
      Node* node = some_stay ? policy_.PopHeavierThan(bytes, looks) : nullptr;
      if (node == nullptr) node = policy_.PopVictim(looks, spare_used);
      if (node == nullptr) return false;
      Evict(static_cast<Entry*>(node), removals);
    }
    return true;
  }

  // Makes room for an object of that weight, if there are enough objects that nobody uses, and that
  // have not been hit since they were queued, among the next few to be evicted; or else does
  // nothing, and returns false.
  bool EvictUnusedFor(uint64_t weight, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (weight > unreserved_budget()) return false;
    const uint64_t target = unreserved_budget() - weight;
    if (policy_.bytes() <= target) return true;
    uint64_t surplus = policy_.bytes() - target;
    std::array<Entry*, 8> unused;
    size_t count = 0;
    size_t looked = 0;
    policy_.ColdestFirst([&](Node& node) {
      auto& entry = static_cast<Entry&>(node);
      if (entry.object->strong_count() == 1 && entry.object_weight() != 0 &&
          !Policy::WouldSpare(node)) {
        unused[count++] = &entry;
        surplus -= std::min(surplus, entry.object_weight());
      }
      return surplus != 0 && ++looked < unused.size();
    });
    if (surplus != 0) return false;
    for (size_t i = 0; i < count; ++i) {
      policy_.Evict(unused[i]);
      Evict(unused[i], removals);
    }
    return true;
  }

  // The entry is out of the policy already, also for ReleaseRetained.
  void Evict(Entry* entry, PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->unused_at_eviction = entry->object->strong_count() == 1;
    // An expired object that is in use stays in the table, so a look-up will remove it as expired.
    const bool expired =
        entry->unused_at_eviction && is_expired_ && is_expired_(*entry, removals.now);
    removals.Add(entry, expired ? RemovalCause::kExpired : RemovalCause::kBudget);
    if (ReleaseRetained(entry, removals.deferred)) entry->hot.ownership.SetEvictedUnused();
  }
  // Makes a retained object pinned. Returns whether that was the last reference.
  bool ReleaseRetained(Entry* entry, ControlBlock::DeferredReleases& deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->hot.ownership.SetRetained(false);
    admissions_are_vain_.store(false, std::memory_order_relaxed);  // see the field
    shared_->counters.Pinned(entry->object_weight());
    return entry->object->ReleaseStrong(deferred);
  }

  const std::shared_ptr<CacheShared<K>> shared_;
  const ExpiryTest is_expired_;
  // Taken after a shard's lock, if that is held too; no other lock is taken under it.
  Mutex& mutex_;
  Policy policy_ ABSL_GUARDED_BY(mutex_);
  // Bytes that are kept free for loads under way.
  uint64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  // Threads that evict in turns until the budget is kept, or are about to.
  uint32_t evicting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // the end has begun: nothing is retained any more
  // The policy's budget, written under the mutex. Relaxed: a look-up that reads an old value at
  // most asks for an admission in vain, or omits one.
  std::atomic<uint64_t> budget_;
  // Whether the last hit that asked for an admission was refused because the objects that would
  // have had to go were in use, and none has left since. Written under the mutex. Relaxed: see
  // `budget_`.
  std::atomic<bool> admissions_are_vain_{false};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_RETENTION_H_
