// SPDX-License-Identifier: Apache-2.0
// The strong tier of a cache: which objects it keeps alive, within a budget of bytes.
//
// One policy and one lock for the whole cache, so that the budget is exact and the victim is the
// worst of all, not of a shard. Hits don't come here. Letting go of an object, which may run its
// destructor, and telling the listener wait in a PendingRemovals until all locks are released.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_RETENTION_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_RETENTION_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// Thread-safe. A caller that passes an entry is counted in at its slot or holds its object.
template <typename K>
class Retention {
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;

 public:
  using Entry = CacheEntry<K>;

  // What has left the cache or its budget. Is declared before any lock, so that it goes after it:
  // then it tells the listener, and objects die.
  class PendingRemovals {
   public:
    explicit PendingRemovals(Retention& retention) : retention_(retention) {}
    PendingRemovals(const PendingRemovals&) = delete;
    PendingRemovals& operator=(const PendingRemovals&) = delete;
    ~PendingRemovals() {
      while (first_ != nullptr) {
        Entry* const entry = std::exchange(first_, first_->next_pending);
        ControlBlock* const slot = entry->slot;
        ControlBlock* const object = entry->object;
        const bool unused_at_eviction = retention_.NotifyListenerOf(entry);
        ControlBlock::DeferredReleases last;
        if (object->ReleaseStrong(last) && unused_at_eviction) entry->mark->SetLeftIdle();
        if (object != slot) slot->ReleaseStrong();
      }
    }

    // References that the table lets go of.
    ControlBlock::DeferredReleases deferred;

   private:
    friend class Retention;
    Retention& retention_;
    Entry* first_ = nullptr;  // linked by next_pending; counted in at each and its object
  };

  Retention(uint64_t budget, std::shared_ptr<CacheShared<K>> shared)
      : policy_(budget), budget_(policy_.budget()), shared_(std::move(shared)) {}
  Retention(const Retention&) = delete;
  Retention& operator=(const Retention&) = delete;
  ~Retention() {
    ControlBlock::DeferredReleases deferred;
    MutexLock lock(mutex_);
    // What destructors find in the cache after this is not retained again.
    policy_.SetBudget(0);
    budget_.store(0, std::memory_order_relaxed);  // see the field
    while (auto* const entry = static_cast<Entry*>(policy_.PopVictim())) {
      shared_->counters.Pinned(entry->object_weight());
      entry->object->ReleaseStrong(deferred);
    }
  }

  // Whether an object of that weight is ever retained; and whether any is.
  bool Fits(uint64_t weight) const { return has_budget() && weight <= budget(); }
  bool has_budget() const { return budget() != 0; }

  // Retains the object, unless it is retained, is too heavy, has left, or is just leaving. The
  // caller holds it. `reserved` bytes, which the caller has reserved, are given back.
  void Admit(Entry* entry, PendingRemovals& removals, uint64_t reserved = 0) {
    MutexLock lock(mutex_);
    reserved_ -= reserved;
    const uint64_t weight = entry->object_weight();
    if (!entry->in_cache || entry->retained() || entry->notifying || !Fits(weight)) return;
    entry->object->AddStrong();
    shared_->counters.Unpinned(weight);
    policy_.Insert(entry, entry->key_hash, weight);
    EvictSurplus(removals);
  }

  // The entry leaves the table for good, whose lock the caller holds.
  void Remove(Entry* entry, RemovalCause cause, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (entry->retained()) {
      policy_.Remove(entry);
      ReleaseRetained(entry, removals);
    }
    entry->in_cache = false;
    shared_->counters.Unpinned(entry->object_weight());
    AddPending(entry, cause, removals);
  }

  // Room for an object that is about to be loaded; returns how many bytes, to be given back.
  uint64_t Reserve(uint64_t bytes, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    const uint64_t room = policy_.budget() - std::min(reserved_, policy_.budget());
    bytes = std::min(bytes, room);
    reserved_ += bytes;
    EvictSurplus(removals);
    return bytes;
  }
  void GiveBack(uint64_t reserved) {
    MutexLock lock(mutex_);
    reserved_ -= reserved;
  }

  void SetBudget(uint64_t budget, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    policy_.SetBudget(budget);
    // Relaxed: see the field.
    budget_.store(policy_.budget(), std::memory_order_relaxed);
    if (policy_.budget() == 0) EvictDownTo(0, removals, /*weightless_too=*/true);
    EvictSurplus(removals);
  }
  // Lets objects go until at most so many bytes are retained; of none if that is 0.
  void Trim(uint64_t bytes, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    EvictDownTo(bytes, removals, /*weightless_too=*/bytes == 0);
  }
  // Before an object is weighed anew.
  uint32_t BeginWeighing(Entry* entry) {
    MutexLock lock(mutex_);
    return ++entry->weighings;
  }
  // The object has another weight now, unless a later weighing has ended before. If it is too heavy
  // it is not retained any longer.
  void SetWeight(Entry* entry, uint32_t weighing, uint64_t weight, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (!entry->in_cache || static_cast<int32_t>(weighing - entry->weighed) < 0) return;
    entry->weighed = weighing;
    const uint64_t before = entry->object_weight();
    if (entry->retained() && Fits(weight)) {
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

  // Up to so many of the retained, those first that would go last, or the reverse; the caller is
  // counted in at each of them then.
  std::vector<Entry*> Ranked(size_t count, bool hottest_first) const {
    std::vector<Entry*> entries;
    entries.reserve(std::min(count, size()));
    MutexLock lock(mutex_);
    const auto visit = [&](GreedyDualNode& node) {
      if (entries.size() == entries.capacity()) return false;
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

  // For tests, while all is quiet.
  void CheckInvariantsForTesting(size_t retained, uint64_t retained_bytes) const {
    MutexLock lock(mutex_);
    policy_.CheckInvariantsForTesting();
    Check(reserved_ == 0, "CheckInvariantsForTesting", "a reservation is left over");
    Check(policy_.bytes() <= policy_.budget(), "CheckInvariantsForTesting",
          "the budget is exceeded");
    Check(policy_.size() == retained, "CheckInvariantsForTesting",
          "an object is retained by mistake");
    Check(policy_.bytes() == retained_bytes, "CheckInvariantsForTesting",
          "the weights don't add up");
  }

 private:
  void EvictSurplus(PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t reserved = std::min(reserved_, policy_.budget());
    EvictDownTo(policy_.budget() - reserved, removals, /*weightless_too=*/false);
  }
  void EvictDownTo(uint64_t bytes, PendingRemovals& removals, bool weightless_too)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (policy_.bytes() > bytes || (weightless_too && policy_.size() > 0)) {
      Evict(static_cast<Entry*>(policy_.PopVictim()), removals);
    }
  }

  // It is out of the policy already, as below.
  void Evict(Entry* entry, PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->unused_at_eviction = entry->object->strong_count() == 1;
    AddPending(entry, RemovalCause::kBudget, removals);
    if (ReleaseRetained(entry, removals)) entry->mark->SetLeftIdle();
  }
  // Whether nobody else had it.
  bool ReleaseRetained(Entry* entry, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    shared_->counters.Pinned(entry->object_weight());
    return entry->object->ReleaseStrong(removals.deferred);
  }

  // The entry and its object, which is there, stay until `removals` goes if there is somebody to
  // tell: of its death last.
  void AddPending(Entry* entry, RemovalCause cause, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Count(cause);
    if (!shared_->listener) return;
    if (entry->notifying) {
      entry->next_cause = cause;
      return;
    }
    entry->notifying = true;
    entry->cause = cause;
    entry->notified_weight = entry->object_weight();
    entry->slot->AddStrong();
    if (entry->object != entry->slot) entry->object->AddStrong();
    entry->next_pending = std::exchange(removals.first_, entry);
  }
  void Count(RemovalCause cause) { shared_->counters.CountRemoval(cause); }

  // All that there is to tell about an entry, one after the other. Returns whether nobody used its
  // object when it was evicted.
  bool NotifyListenerOf(Entry* entry) {
    for (;;) {
      shared_->NotifyListener(entry->key, entry->cause, entry->notified_weight);
      MutexLock lock(mutex_);
      entry->notifying = entry->next_cause.has_value();
      if (!entry->notifying) return entry->unused_at_eviction;
      entry->cause = *std::exchange(entry->next_cause, std::nullopt);
      entry->notified_weight = entry->object_weight();
    }
  }

  // Taken after a shard's lock, if that is held too; nothing is taken under it.
  mutable Mutex mutex_;
  LazyGreedyDual policy_ ABSL_GUARDED_BY(mutex_);
  // Bytes that are kept free for loads under way.
  uint64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  // The policy's budget, written under the mutex. Relaxed: a look-up that sees an old one at most
  // comes here in vain, or not for once.
  std::atomic<uint64_t> budget_;
  const std::shared_ptr<CacheShared<K>> shared_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_RETENTION_H_
