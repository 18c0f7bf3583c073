// The strong tier of a cache: which objects it keeps alive, within a budget of bytes.
//
// One policy and one lock for the whole cache, so that the budget is exact and the victim is the
// worst of all, not of a shard. Hits don't come here. Letting go of an object, which may run its
// destructor, and telling the listener wait in a Departures until all locks are released.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "cache/internal/cache_entry.h"
#include "cache/internal/eviction_policy.h"
#include "cache/internal/mutex.h"
#include "weakref/internal/atomics_policy.h"
#include "weakref/internal/check.h"
#include "weakref/internal/control_block.h"

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
  class Departures {
   public:
    explicit Departures(Retention& retention) : retention_(retention) {}
    Departures(const Departures&) = delete;
    Departures& operator=(const Departures&) = delete;
    ~Departures() {
      while (first_ != nullptr) {
        Entry* const entry = std::exchange(first_, first_->next_departure);
        ControlBlock* const slot = entry->slot;
        ControlBlock* const object = entry->object;
        const bool evicted_idle = retention_.TellAbout(entry);
        ControlBlock::Postponed last;
        if (object->ReleaseStrong(last) && evicted_idle) entry->mark->SetLeftIdle();
        if (object != slot) slot->ReleaseStrong();
      }
    }

    // References that the table lets go of.
    ControlBlock::Postponed postponed;

   private:
    friend class Retention;
    Retention& retention_;
    Entry* first_ = nullptr;  // linked by next_departure; counted in at each and its object
  };

  Retention(uint64_t budget, std::shared_ptr<CacheShared<K>> shared)
      : policy_(budget), budget_(policy_.budget()), shared_(std::move(shared)) {}
  Retention(const Retention&) = delete;
  Retention& operator=(const Retention&) = delete;
  ~Retention() {
    ControlBlock::Postponed postponed;
    MutexLock lock(mutex_);
    // What destructors find in the cache after this is not retained again.
    policy_.SetBudget(0);
    budget_.store(0, std::memory_order_relaxed);  // see the field
    while (auto* const entry = static_cast<Entry*>(policy_.PopVictim())) {
      shared_->counters.Pinned(entry->object_weight());
      entry->object->ReleaseStrong(postponed);
    }
  }

  // Whether an object of that weight is ever retained; and whether any is.
  bool Fits(uint64_t weight) const { return has_budget() && weight <= budget(); }
  bool has_budget() const { return budget() != 0; }

  // Retains the object, unless it is retained, is too heavy, has left, or is just leaving. The
  // caller holds it. `reserved` bytes, which the caller has reserved, are given back.
  void Admit(Entry* entry, Departures& departures, uint64_t reserved = 0) {
    MutexLock lock(mutex_);
    reserved_ -= reserved;
    const uint64_t weight = entry->object_weight();
    if (!entry->attached || entry->retained() || entry->departing || !Fits(weight)) return;
    entry->object->AddStrong();
    shared_->counters.Unpinned(weight);
    policy_.Insert(entry, entry->key_hash, weight);
    EvictSurplus(departures);
  }

  // The entry leaves the table for good, whose lock the caller holds.
  void Remove(Entry* entry, RemovalCause cause, Departures& departures) {
    MutexLock lock(mutex_);
    if (entry->retained()) {
      policy_.Remove(entry);
      LetGo(entry, departures);
    }
    entry->attached = false;
    shared_->counters.Unpinned(entry->object_weight());
    Depart(entry, cause, departures);
  }

  // Room for an object that is about to be loaded; returns how many bytes, to be given back.
  uint64_t Reserve(uint64_t bytes, Departures& departures) {
    MutexLock lock(mutex_);
    const uint64_t room = policy_.budget() - std::min(reserved_, policy_.budget());
    bytes = std::min(bytes, room);
    reserved_ += bytes;
    EvictSurplus(departures);
    return bytes;
  }
  void GiveBack(uint64_t reserved) {
    MutexLock lock(mutex_);
    reserved_ -= reserved;
  }

  void SetBudget(uint64_t budget, Departures& departures) {
    MutexLock lock(mutex_);
    policy_.SetBudget(budget);
    // Relaxed: see the field.
    budget_.store(policy_.budget(), std::memory_order_relaxed);
    if (policy_.budget() == 0) EvictDownTo(0, departures, /*weightless_too=*/true);
    EvictSurplus(departures);
  }
  // Lets objects go until at most so many bytes are retained; of none if that is 0.
  void Trim(uint64_t bytes, Departures& departures) {
    MutexLock lock(mutex_);
    EvictDownTo(bytes, departures, /*weightless_too=*/bytes == 0);
  }
  // Before an object is weighed anew.
  uint32_t BeginWeighing(Entry* entry) {
    MutexLock lock(mutex_);
    return ++entry->weighings;
  }
  // The object has another weight now, unless a later weighing has ended before. If it is too heavy
  // it is not retained any longer.
  void SetWeight(Entry* entry, uint32_t weighing, uint64_t weight, Departures& departures) {
    MutexLock lock(mutex_);
    if (!entry->attached || static_cast<int32_t>(weighing - entry->weighed) < 0) return;
    entry->weighed = weighing;
    const uint64_t before = entry->object_weight();
    if (entry->retained() && Fits(weight)) {
      entry->set_object_weight(weight);
      policy_.SetWeight(entry, weight);
      EvictSurplus(departures);
      return;
    }
    if (entry->retained()) {
      policy_.Remove(entry);
      Evict(entry, departures);
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
    const auto visit = [&](EvictionNode& node) {
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
  void Validate(size_t retained, uint64_t retained_bytes) const {
    MutexLock lock(mutex_);
    policy_.Validate();
    Check(reserved_ == 0, "Validate", "a reservation is left over");
    Check(policy_.bytes() <= policy_.budget(), "Validate", "the budget is exceeded");
    Check(policy_.size() == retained, "Validate", "an object is retained by mistake");
    Check(policy_.bytes() == retained_bytes, "Validate", "the weights don't add up");
  }

 private:
  void EvictSurplus(Departures& departures) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t reserved = std::min(reserved_, policy_.budget());
    EvictDownTo(policy_.budget() - reserved, departures, /*weightless_too=*/false);
  }
  void EvictDownTo(uint64_t bytes, Departures& departures, bool weightless_too)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (policy_.bytes() > bytes || (weightless_too && policy_.size() > 0)) {
      Evict(static_cast<Entry*>(policy_.PopVictim()), departures);
    }
  }

  // It is out of the policy already, as below.
  void Evict(Entry* entry, Departures& departures) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->evicted_idle = entry->object->strong_count() == 1;
    Depart(entry, RemovalCause::kBudget, departures);
    if (LetGo(entry, departures)) entry->mark->SetLeftIdle();
  }
  // Whether nobody else had it.
  bool LetGo(Entry* entry, Departures& departures) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    shared_->counters.Pinned(entry->object_weight());
    return entry->object->ReleaseStrong(departures.postponed);
  }

  // The entry and its object, which is there, stay until `departures` goes if there is somebody to
  // tell: of its death last.
  void Depart(Entry* entry, RemovalCause cause, Departures& departures)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Count(cause);
    if (!shared_->listener) return;
    if (entry->departing) {
      entry->next_cause = cause;
      return;
    }
    entry->departing = true;
    entry->cause = cause;
    entry->told_weight = entry->object_weight();
    entry->slot->AddStrong();
    if (entry->object != entry->slot) entry->object->AddStrong();
    entry->next_departure = std::exchange(departures.first_, entry);
  }
  void Count(RemovalCause cause) { shared_->counters.CountRemoval(cause); }

  // All that there is to tell about an entry, one after the other. Returns whether nobody used its
  // object when it was evicted.
  bool TellAbout(Entry* entry) {
    for (;;) {
      shared_->Tell(entry->key, entry->cause, entry->told_weight);
      MutexLock lock(mutex_);
      entry->departing = entry->next_cause.has_value();
      if (!entry->departing) return entry->evicted_idle;
      entry->cause = *std::exchange(entry->next_cause, std::nullopt);
      entry->told_weight = entry->object_weight();
    }
  }

  // Taken after a shard's lock, if that is held too; nothing is taken under it.
  mutable Mutex mutex_;
  EvictionPolicy policy_ ABSL_GUARDED_BY(mutex_);
  // Bytes that are kept free for loads under way.
  uint64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  // The policy's budget, written under the mutex. Relaxed: a look-up that sees an old one at most
  // comes here in vain, or not for once.
  std::atomic<uint64_t> budget_;
  const std::shared_ptr<CacheShared<K>> shared_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_H_
