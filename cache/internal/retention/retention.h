// SPDX-License-Identifier: Apache-2.0
// Decides which objects a cache keeps alive, within a budget of bytes.
//
// An object in the cache is retained, if the cache holds a strong reference to it, or pinned, if
// only its users keep it alive. AdmitNew and AdmitAtHit make an object retained; an eviction makes
// a retained one pinned, and if nobody uses it that ends it. One policy and one lock serve the
// whole cache, so that the budget is exact and the victim is the worst of all objects, not of one
// shard. Hits never come here.
//
// The budget bounds the live objects: the retained ones, and those that were evicted while they
// were in use. Evicting an object in use frees nothing, so the victims are idle objects, as long as
// there are any: first an expired one, found by an ExpiryQueue, or by a list in order of age if all
// objects live equally long; then the policy's choice. If that turns out to be in use, it is set
// aside, and looked at again by later evictions, a few at a time, until it is idle. Only when
// nothing idle has been found, and the retained objects alone exceed the budget, objects in use are
// evicted; they are counted until they die, or leave the cache, or a hit has them retained again.
//
// A hard limit bounds all live objects in the cache, retained or pinned, and what loads have
// reserved, in one count (byte_limit.h). Bytes are added before an object is entered, and only if
// there is room; so the limit holds whatever the policy does. To make room, idle objects are
// evicted, and if these are not enough, objects in use are evicted as well. That frees nothing yet,
// but from then on each of them dies at its last release, and the count is told of that. (Nothing
// tells it when a retained object becomes idle.) For the same reason nothing is retained while a
// load waits for room. If even the pinned objects and the reservations alone leave no room,
// evictions would be in vain, and nothing is evicted.
//
// Removed objects go to a PendingRemovals, which runs the user code for them after all locks have
// been released: see there.
//
// Under the lock no more than a few hundred nodes of the policy are looked at. An operation that
// has to look at more (the first eviction after all objects were hit, a Trim of half of the cache)
// takes turns: it releases the lock in between. An eviction takes a few turns at most to find a
// victim; only Trim and its like look at all objects. An eviction that begins under a shard's lock
// leaves the other turns to the destructor of its PendingRemovals, so that the budget is kept when
// the operation ends. Other operations meanwhile leave those turns to that thread.
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
#include "absl/time/time.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/retention/byte_limit.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/retention/expiry_queue.h"
#include "weakcache/cache/internal/retention/pending_removals.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/internal/stats/cache_counters.h"
#include "weakcache/cache/internal/stats/load_time.h"
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
  // After how many turns without a victim an eviction no longer spares objects because they have
  // been used: so many were used that it matters less which of them goes than how long the search
  // takes.
  static constexpr size_t kMostTurnsInVain = 16;
  // Of the objects that are set aside: how many that are still in use an eviction looks at before
  // it takes a victim, and how many an operation looks at in all.
  static constexpr size_t kFewAside = 4;
  static constexpr size_t kLooksAside = 64;
  // How many objects that have not expired a turn looks at to find one that has; and how many of
  // those with a life of their own, expired or not.
  static constexpr size_t kLooksByAge = 16;
  static constexpr size_t kLooksByExpiry = 256;

 public:
  using Entry = CacheEntry<K, Policy>;
  using PendingRemovals = internal::PendingRemovals<K, Policy>;

  // What is evicted to make room below the hard limit.
  enum class Effort {
    kAny,         // idle objects, and in the end all others; nothing if that would be in vain
    kIdle,        // idle objects, as far as they are found soon; nothing if that would be in vain
    kIdleAnyway,  // all idle objects, even in vain
  };

  // Bytes of the budget that are kept free for an object that is being loaded, until AdmitNew uses
  // the reservation, or it ends.
  class Reservation {
   public:
    explicit Reservation(Retention& retention) : retention_(retention) {}
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    ~Reservation() { Release(); }

    // Evicts until `bytes` are free, before the object comes, and keeps them free for it. If so
    // many bytes can't be freed beside other reservations, evicts and reserves nothing. User code
    // runs; if that has ended the cache, returns false. `now`: see PendingRemovals.
    bool Reserve(uint64_t bytes, int64_t now = 0) {
      if (bytes_ != 0 || !retention_.Fits(bytes)) return true;
      const std::shared_ptr<CacheShared<K>> shared = retention_.shared_;
      {
        PendingRemovals removals;
        removals.now = now;
        bytes_ = retention_.Reserve(bytes, removals);
      }
      if (shared->ended()) Forget();
      return !shared->ended();
    }

    // Returns whether `bytes` are free for an object that nobody has asked for. Reserves nothing,
    // since others may be evicted for the sake of what is reserved. Has the object admitted only if
    // nothing has to go for it, and if it weighs at most `limit`.
    bool BeginAhead(uint64_t bytes, uint64_t limit) {
      is_ahead_ = true;
      ahead_limit_ = limit;
      return bytes <= limit && retention_.HasFree(bytes);
    }

    // Returns whether such an object was not retained, or not even entered, because it was too
    // heavy.
    bool refused() const { return refused_; }
    // Returns whether BeginAhead has been called.
    bool is_ahead() const { return is_ahead_; }

    // The result of an attempt to get room below the hard limit.
    enum class Room { kGiven, kNone, kCacheEnded };
    // Reserves so many bytes below the hard limit, for an object that comes later. Evicts for that,
    // so user code runs. Precondition: the caller holds nothing that others wait for.
    Room GetRoom(uint64_t bytes, int64_t now, Effort effort = Effort::kAny) {
      const auto nothing = [] {};
      return GetRoom(bytes, now, effort, nothing, nothing);
    }
    // Does the same; calls `before_look()` before each look for room, and `before_user_code()`
    // after a look and before the user code that its evictions call for. When this returns, there
    // is room, or there was none in a look after which no user code ran.
    template <typename BeforeLook, typename BeforeUserCode>
    Room GetRoom(uint64_t bytes, int64_t now, Effort effort, const BeforeLook& before_look,
                 const BeforeUserCode& before_user_code) {
      const std::shared_ptr<CacheShared<K>> shared = retention_.shared_;
      for (bool user_code_ran = true; user_code_ran;) {
        {
          PendingRemovals removals;
          removals.now = now;
          before_look();
          retention_.AddRoom(bytes, *this, effort, removals);
          user_code_ran = !removals.empty();
          if (user_code_ran) before_user_code();
        }
        if (shared->ended()) {
          Forget();
          return Room::kCacheEnded;
        }
        if (room_ >= bytes) return Room::kGiven;
      }
      return Room::kNone;
    }
    // Does the same without user code, which is left to `removals`. Evicts nothing if there is a
    // listener. Returns whether there is room.
    bool GrowRoom(uint64_t bytes, PendingRemovals& removals, Effort effort = Effort::kAny) {
      if (room_ < bytes) {
        if (retention_.shared_->listener) {
          retention_.AddFreeRoom(bytes, *this);
        } else {
          retention_.AddRoom(bytes, *this, effort, removals);
        }
      }
      return room_ >= bytes;
    }

    void Release() {
      if (bytes_ != 0 || room_ != 0) retention_.ReleaseReserved(*this);
    }

   private:
    friend class Retention;
    // Forgets the reservation, as the cache has ended.
    void Forget() { bytes_ = room_ = 0; }

    Retention& retention_;
    uint64_t bytes_ = 0;  // of the budget
    uint64_t room_ = 0;   // counted by the hard limit
    bool is_ahead_ = false;
    uint64_t ahead_limit_ = 0;  // if it is
    bool refused_ = false;
  };

  // Whether an object has expired by time, and whether it is not even kept for loads that fail; or
  // whether its group has been invalidated.
  enum class Expiry { kNone, kExpired, kExpiredAndRemovable, kInvalidated };
  // Returns the expiry of an entry by `now`. Must not drop a last reference.
  using ExpiryTest = std::function<Expiry(const Entry&, int64_t now)>;

  // `covers_in_use` says whether the budget bounds all live objects, or only those that are not in
  // use, as far as the retention has noticed. The test is called under the budget's lock.
  // `expires_by_default` says whether also objects without a life of their own may expire,
  // `load_times_count` whether the policy is told what objects cost.
  Retention(uint64_t budget, bool covers_in_use, std::shared_ptr<CacheShared<K>> shared,
            ExpiryTest expiry_of, bool expires_by_default, bool load_times_count = false)
      : shared_(std::move(shared)),
        expiry_of_(std::move(expiry_of)),
        expires_by_default_(expires_by_default),
        covers_in_use_(covers_in_use),
        unknown_cost_(load_times_count ? kUnknownCost : 0),
        mutex_(shared_->mutex),
        policy_(budget),
        budget_(policy_.budget()) {}
  Retention(const Retention&) = delete;
  Retention& operator=(const Retention&) = delete;
  ~Retention() { Close(); }
  // Releases all objects, and retains none from now on. Their destructors may use the cache.
  void Close() {
    PendingRemovals removals;
    MutexLock lock(mutex_);
    // An object that a destructor finds in the cache after this is not retained again, even if the
    // destructor sets another budget.
    closed_ = true;
    policy_.SetBudget(0);
    budget_.store(0, std::memory_order_relaxed);  // see the field
    size_t looks = SIZE_MAX;
    for (;;) {
      Node* node = policy_.OldestAside();
      if (node == nullptr) {
        node = policy_.NextVictim(looks, /*spare_used=*/false, /*spare_newest=*/false);
      }
      if (node == nullptr) return;
      policy_.Remove(node);
      ReleaseRetained(static_cast<Entry*>(node), removals);
    }
  }

  // Return whether an object of that weight is ever retained; and whether any is.
  bool Fits(uint64_t weight) const { return has_budget() && weight <= budget(); }
  bool has_budget() const { return budget() != 0; }

  // Lets the hard limit count a new entry, in place of what is reserved for it. Returns false if
  // there is no room: then the entry must not be entered. Returns true if there is no hard limit.
  bool Charge(Entry* entry, Reservation& reservation) {
    if (!hard_limit().active()) return true;
    const uint64_t weight = entry->object_weight();
    MutexLock lock(mutex_);
    if (reservation.room_ < weight && !AddFreeRoomLocked(weight, reservation)) {
      reservation.refused_ = true;
      return false;
    }
    const uint64_t reserved = std::exchange(reservation.room_, 0);
    reserved_room_ -= reserved;
    if (reserved != weight) hard_limit().Subtract(reserved - weight);
    entry->SetCharged();
    if (!LoadsWaitForRoom()) {
      admissions_are_vain_.store(false, std::memory_order_relaxed);  // see the field
    }
    return true;
  }
  // Admits a new entry, which its table has just published, in place of the reserved bytes. Until
  // now a hit by another thread could not admit it, as it would have counted beside the
  // reservation.
  void AdmitNew(Entry* entry, Reservation& reservation, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    entry->in_cache = true;
    reserved_ -= std::exchange(reservation.bytes_, 0);
    const bool is_ahead = reservation.is_ahead_;
    const uint64_t weight = entry->object_weight();
    reservation.refused_ = is_ahead && (weight > reservation.ahead_limit_ || !IsFree(weight));
    if (!reservation.refused_ && CanAdmit(*entry)) {
      RetainUncounted(entry, /*is_use=*/!is_ahead);
      EvictSurplus(removals);
    } else {
      shared_->counters.Pinned(entry->object_weight());
    }
  }

  // Retains an object that a hit has found, and that is in use therefore, if there is room, or if
  // evicting idle objects can make room: to evict one that is in use would free nothing.
  void AdmitAtHit(Entry* entry, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (!IsAdmissible(*entry)) {
      if (LoadsWaitForRoom()) admissions_are_vain_.store(true, std::memory_order_relaxed);
      return;
    }
    const bool has_room = EvictUnusedFor(entry->object_weight(), removals);
    admissions_are_vain_.store(!has_room, std::memory_order_relaxed);  // see the field
    if (has_room) Retain(entry);
  }
  // Returns whether to call AdmitAtHit. If the last admission was in vain, only one hit of sixteen
  // on an object asks, so that all others take no lock.
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
      ReleaseRetained(entry, removals);
    }
    entry->SetEvictedInUse(false);
    entry->Uncharge();
    entry->in_cache = false;
    entry->refresh.Close();
    shared_->counters.Unpinned(entry->object_weight());
    if (cause == RemovalCause::kBudget) figures_.Count(*entry, removals.now);
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
      EvictInTurns(removals, [] { return uint64_t{0}; },
                   {.for_budget = true, .thorough = true, .weightless_too = true});
    } else {
      EvictForBudget(removals, /*thorough=*/true);
    }
  }
  // Evicts idle objects until the live ones weigh at most `bytes` together; all idle objects if
  // that is 0. Objects that are admitted or released meanwhile may stay.
  void Trim(uint64_t bytes, PendingRemovals& removals) {
    // Objects that turn out to be idle may exceed the budget, if it leaves out objects in use.
    const auto target = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return covers_in_use_ ? bytes : std::min(bytes, unreserved_budget());
    };
    EvictInTurns(removals, target,
                 {.for_budget = false, .thorough = true, .weightless_too = bytes == 0});
  }

  // Sets another hard limit, and evicts idle objects as far as that helps to keep it. Precondition:
  // there is one.
  void SetHardLimit(uint64_t limit, PendingRemovals& removals) {
    hard_limit().SetLimit(limit);
    Reservation none(*this);
    AddRoom(0, none, Effort::kIdleAnyway, removals);
  }
  ByteLimit& hard_limit() const { return shared_->hard_limit; }

  // Ends an eviction that has not kept the budget under one lock. The caller is in `evicting_`.
  void FinishEviction(PendingRemovals& removals) { EvictForBudget(removals, /*thorough=*/false); }

  // Returns the number of a weighing that begins. The object is weighed without a lock.
  uint32_t BeginWeighing(Entry* entry) {
    MutexLock lock(mutex_);
    return ++entry->weighings;
  }
  // Sets the object's weight, unless a later weighing has ended before. An object that has become
  // too heavy is evicted, and no other for its sake. Returns false if the hard limit leaves no room
  // for the growth, beside what is reserved for it: then the object has to leave the cache.
  bool SetWeight(Entry* entry, uint32_t weighing, uint64_t weight, Reservation& reservation,
                 PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (!entry->in_cache || static_cast<int32_t>(weighing - entry->weighed) < 0) return true;
    const uint64_t before = entry->object_weight();
    if (entry->charged() && !ChargeDifference(before, weight, reservation)) return false;
    entry->weighed = weighing;
    if (entry->retained() && weight <= unreserved_budget()) {
      entry->set_object_weight(weight);
      policy_.SetWeight(entry, weight);
      EvictSurplus(removals);
      return true;
    }
    if (entry->retained()) Evict(entry, removals);
    shared_->counters.Unpinned(before);
    shared_->counters.Pinned(weight);
    const bool evicted_in_use = entry->evicted_in_use();
    entry->SetEvictedInUse(false);
    entry->set_object_weight(weight);
    // Beside what is reserved, as after the load of an object of that weight.
    entry->exceeds_budget = has_budget() && weight > unreserved_budget();
    if (evicted_in_use && !entry->exceeds_budget) entry->SetEvictedInUse(true);
    EvictSurplus(removals);
    return true;
  }

  // Moves the entry to its place by its new life.
  void UpdateExpiry(Entry* entry) {
    MutexLock lock(mutex_);
    entry->has_own_life = true;
    RequeueByExpiry(entry);
  }
  // Does the same after its times have been corrected.
  void UpdateExpiryTime(Entry* entry) {
    MutexLock lock(mutex_);
    RequeueByExpiry(entry);
  }
  // Has evictions search for objects whose groups have been invalidated.
  void SearchInvalidated() {
    MutexLock lock(mutex_);
    unsearched_ = policy_.size();
  }

  uint64_t bytes() const {
    MutexLock lock(mutex_);
    return policy_.bytes();
  }
  // Adds the retention's counts to the figures.
  void AddTo(CacheStats* stats) const {
    MutexLock lock(mutex_);
    stats->bytes_retained += policy_.bytes();
    stats->bytes_reserved += hard_limit().active() ? reserved_room_ : reserved_;
    stats->bytes_evicted += figures_.bytes;
    stats->eviction_age += figures_.age;
    for (size_t i = 0; i < figures_.ages.size(); ++i) {
      stats->eviction_age_histogram[i] += figures_.ages[i];
    }
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
  // Return what ranks more entries than that: see EvictionPolicy. An entry that is not retained has
  // no rank.
  uint64_t Epoch() const {
    MutexLock lock(mutex_);
    return policy_.Epoch();
  }
  std::optional<uint64_t> RankSince(const Entry& entry, uint64_t epoch) const {
    MutexLock lock(mutex_);
    if (!entry.retained()) return std::nullopt;
    return policy_.RankSince(entry, epoch);
  }

  // Aborts if the retention is inconsistent. For tests, while no other thread uses the cache.
  void CheckInvariantsForTesting(size_t retained, uint64_t retained_bytes) const {
    constexpr const char* kCall = "CheckInvariantsForTesting";
    MutexLock lock(mutex_);
    policy_.CheckInvariantsForTesting();
    Check(reserved_ == 0 && reserved_room_ == 0, kCall, "a reservation is left over");
    Check(held_bytes() <= policy_.budget(), kCall, "the budget is exceeded");
    Check(policy_.size() == retained, kCall, "an object is retained by mistake");
    Check(policy_.bytes() == retained_bytes, kCall, "the weights don't add up");
  }

 private:
  // See CacheStats::bytes_evicted and the fields after it.
  struct EvictionFigures {
    void Count(const Entry& entry, int64_t now) {
      if (const uint64_t weight = entry.object_weight(); CacheCounters::IsWeight(weight)) {
        bytes += weight;
      }
      const absl::Duration old = entry.AgeAt(now);
      age += old;
      ++ages[CacheStats::EvictionAgeBucket(old)];
    }

    uint64_t bytes = 0;
    absl::Duration age;
    std::array<uint64_t, CacheStats::kEvictionAgeBuckets> ages{};
  };

  // Returns what objects may weigh beside the reservations. If the budget has become smaller than
  // the reservations, these can't be honoured, and nothing is evicted for them.
  uint64_t unreserved_budget() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t budget = policy_.budget();
    return reserved_ <= budget ? budget - reserved_ : budget;
  }

  // Return the bytes of retained objects that the budget bounds; and all bytes that it bounds,
  // without the reservations.
  uint64_t held_bytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return covers_in_use_ ? policy_.bytes() : policy_.bytes() - policy_.aside_bytes();
  }
  uint64_t live_bytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return covers_in_use_ ? policy_.bytes() + shared_->evicted_in_use_bytes() : held_bytes();
  }
  // Returns whether anybody but the cache holds the object. Exact if only users and look-ups can be
  // about to release it.
  static bool IsInUse(const Entry& entry) { return entry.object->strong_count() > 1; }

  // Returns whether the object is not retained but may be, if there is room.
  bool IsAdmissible(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return entry.in_cache && !entry.retained() && !entry.notifying && has_budget() &&
           !LoadsWaitForRoom();
  }
  // Returns whether a load has joined the queue for room, which evicts retained objects under this
  // lock.
  bool LoadsWaitForRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return hard_limit().active() && hard_limit().HasWaiters();
  }
  bool CanAdmit(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return IsAdmissible(entry) && entry.object_weight() <= unreserved_budget();
  }
  void Retain(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    shared_->counters.Unpinned(entry->object_weight());
    entry->SetEvictedInUse(false);
    RetainUncounted(entry);
  }
  // Retains an object that is not counted as pinned.
  void RetainUncounted(Entry* entry, bool is_use = true) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->object->AddStrong();
    const LoadTime load_time = entry->hot.load_time;
    policy_.Insert(entry, entry->key_hash, entry->object_weight(),
                   load_time.known() ? load_time.microseconds() : unknown_cost_, is_use);
    by_age_.PushNewest(entry);
    QueueByExpiry(entry);
    const bool is_sampled = entry->holders() != nullptr;
    if (is_sampled) entry->holders()->SetRetained(true);
    entry->hot.ownership.SetRetained(/*hits_count_more=*/load_time.known() || is_sampled);
  }
  void QueueByExpiry(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool expires = entry->expires_after.load(std::memory_order_relaxed) != kNeverDue;
    if (entry->has_own_life && expires) {
      by_expiry_.Insert(entry, entry->written.load(std::memory_order_relaxed));
    }
  }

  // Returns whether so many bytes are free, beside what is reserved.
  bool IsFree(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t live = live_bytes();
    const uint64_t budget = unreserved_budget();
    return live <= budget && bytes <= budget - live;
  }
  bool HasFree(uint64_t bytes) const {
    MutexLock lock(mutex_);
    return IsFree(std::max(bytes, uint64_t{1})) && !LoadsWaitForRoom();
  }
  // Returns how many bytes it has reserved.
  uint64_t Reserve(uint64_t bytes, PendingRemovals& removals) {
    MutexLock lock(mutex_);
    if (bytes > unreserved_budget()) return 0;
    reserved_ += bytes;
    // This is not left to another thread, since the load begins when there is room.
    if (!EvictOneTurn(removals)) LeaveEvictionTo(removals);
    return bytes;
  }
  void ReleaseReserved(Reservation& reservation) {
    MutexLock lock(mutex_);
    const uint64_t bytes = std::exchange(reservation.bytes_, 0);
    reserved_ -= bytes;
    admissions_are_vain_.store(false, std::memory_order_relaxed);  // see the field
    if (const uint64_t room = std::exchange(reservation.room_, 0)) {
      reserved_room_ -= room;
      hard_limit().Subtract(room);
    }
  }

  // Has the reservation's room grow to `bytes` if that much is free.
  void AddFreeRoom(uint64_t bytes, Reservation& reservation) {
    MutexLock lock(mutex_);
    AddFreeRoomLocked(bytes, reservation);
  }
  bool AddFreeRoomLocked(uint64_t bytes, Reservation& reservation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t missing = bytes - reservation.room_;
    if (!hard_limit().TryAdd(missing)) return false;
    reservation.room_ += missing;
    reserved_room_ += missing;
    return true;
  }
  // Accounts for a new weight of a charged object. Returns false if it has grown and there is no
  // room.
  bool ChargeDifference(uint64_t before, uint64_t weight, Reservation& reservation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (weight <= before) {
      hard_limit().Subtract(before - weight);
      return true;
    }
    const uint64_t more = weight - before;
    if (reservation.room_ < more && !AddFreeRoomLocked(more, reservation)) return false;
    reservation.room_ -= more;
    reserved_room_ -= more;
    return true;
  }
  // Evicts until the budget is kept, beside what is reserved. If one turn is not enough, leaves the
  // rest to `removals`, unless another thread is evicting.
  void EvictSurplus(PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (covers_in_use_ && live_bytes() <= unreserved_budget()) return;
    if (!EvictOneTurn(removals) && evicting_ == 0) LeaveEvictionTo(removals);
  }
  // Returns whether one turn was enough.
  bool EvictOneTurn(PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Eviction eviction{.for_budget = true};
    return EvictDownTo(unreserved_budget(), eviction, removals);
  }
  void LeaveEvictionTo(PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++evicting_;
    removals.SetUnfinished(this);
  }
  void EvictForBudget(PendingRemovals& removals, bool thorough) {
    const auto target = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return unreserved_budget(); };
    EvictInTurns(removals, target, {.for_budget = true, .thorough = thorough});
  }
  // How an eviction goes on.
  struct Eviction {
    bool for_budget;              // objects in use go, too, if the idle ones are not enough
    bool thorough = false;        // looks at all objects for idle ones, not only at some
    bool weightless_too = false;  // not only until the bytes are few enough
    bool retained_only = false;   // the bytes are those of the retained objects
    bool spare_used = true;
    // What is left of a turn.
    size_t looks = kLooksPerTurn;
    size_t looks_by_age = kLooksByAge;
    size_t looks_by_expiry = kLooksByExpiry;
    // What is left of the operation: how many victims it may find to be in use, and how many
    // objects that are set aside it may look at.
    size_t looks_in_use = kLooksPerTurn;
    size_t looks_aside = kLooksAside;
  };
  // Evicts down to `target()`, which is called under the lock. Ends even if other threads admit and
  // hit objects all the time: after two looks for each object that there was at the start, no
  // object is spared any more, and after three more looks for each, every one of them has been
  // evicted, or set aside and looked at again.
  template <typename Target>
  void EvictInTurns(PendingRemovals& removals, const Target& target, Eviction eviction) {
    size_t size = 0;
    size_t turns_in_vain = 0;
    for (size_t looked = 0;; looked += kLooksPerTurn) {
      {
        MutexLock lock(mutex_);
        if (looked == 0) size = policy_.size();
        if (looked == 0 && eviction.thorough) eviction.looks_in_use = eviction.looks_aside = size;
        eviction.looks = kLooksPerTurn;
        eviction.looks_by_age = kLooksByAge;
        eviction.looks_by_expiry = kLooksByExpiry;
        eviction.spare_used =
            looked / 2 <= size && (eviction.thorough || turns_in_vain < kMostTurnsInVain);
        const size_t before = policy_.size();
        if (EvictDownTo(target(), eviction, removals) || looked / 5 > size) {
          evicting_ -= eviction.for_budget ? 1u : 0u;
          return;
        }
        turns_in_vain = policy_.size() < before ? 0 : turns_in_vain + 1;
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
  // Evicts until the objects that the budget bounds weigh at most `bytes`. Returns false if the
  // looks were not enough.
  bool EvictDownTo(uint64_t bytes, Eviction& eviction, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (eviction.for_budget && eviction.spare_used && bytes != 0) {
      EvictHeavierThan(bytes, eviction, removals);
    }
    if (!covers_in_use_) UpdateAside(bytes, eviction);
    EvictIdle(bytes, eviction, removals);
    if (eviction.for_budget && HasToEvict(held_bytes(), bytes, eviction)) {
      EvictInUse(bytes, eviction, removals);
    }
    return eviction.looks != 0;
  }
  // Returns whether there is something to evict while objects weigh `present`.
  bool HasToEvict(uint64_t present, uint64_t bytes, const Eviction& eviction) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return present > bytes || (eviction.weightless_too && policy_.size() > 0);
  }
  // Evicts objects that weigh more than `bytes`: they have to go in any case, so they go first, and
  // nothing else goes for their sake.
  void EvictHeavierThan(uint64_t bytes, Eviction& eviction, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (held_bytes() > bytes) {
      Node* const node = policy_.NextHeavierThan(bytes, eviction.looks);
      if (node == nullptr) return;
      if (covers_in_use_) {
        Evict(static_cast<Entry*>(node), removals);
      } else if (policy_.IsAside(*node)) {
        return;
      } else {
        EvictUnlessInUse(static_cast<Entry*>(node), removals);
      }
    }
  }
  void EvictIdle(uint64_t bytes, Eviction& eviction, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    size_t few_aside = kFewAside;
    while (eviction.looks > 0 && eviction.looks_in_use > 0 &&
           HasToEvict(eviction.retained_only ? policy_.bytes() : live_bytes(), bytes, eviction)) {
      if (policy_.OldestAside() != nullptr) ReturnIdle(std::exchange(few_aside, 0), eviction);
      if (EvictExpired(eviction, removals)) continue;
      Node* const node = policy_.NextVictim(eviction.looks, eviction.spare_used,
                                            /*spare_newest=*/eviction.for_budget);
      if (node != nullptr) {
        if (!EvictUnlessInUse(static_cast<Entry*>(node), removals)) --eviction.looks_in_use;
      } else if (!ReturnIdle(eviction.looks_aside, eviction)) {
        return;
      }
    }
  }
  // Looks at objects that are set aside, until it has seen `in_use` that are still in use. Puts
  // idle ones back into the order of eviction, and returns whether there were any.
  bool ReturnIdle(size_t in_use, Eviction& eviction) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Node* first_in_use = nullptr;
    bool any = false;
    while (in_use > 0 && eviction.looks > 0 && eviction.looks_aside > 0) {
      Node* const node = policy_.OldestAside();
      if (node == nullptr || node == first_in_use) break;
      --eviction.looks;
      --eviction.looks_aside;
      if (IsInUse(*static_cast<Entry*>(node))) {
        policy_.SetAside(node);
        if (first_in_use == nullptr) first_in_use = node;
        --in_use;
      } else {
        policy_.Return(node);
        any = true;
      }
    }
    return any;
  }
  // Notices some objects that have become idle, and some that have come into use, instead of
  // evicting others for them. Called only where the budget bounds the idle objects alone.
  void UpdateAside(uint64_t bytes, Eviction& eviction) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ReturnIdle(kFewAside, eviction);
    for (size_t looks = kLooksAside; looks > 0 && eviction.looks > 0; --looks) {
      if (held_bytes() <= bytes) return;
      Entry* const entry = by_age_.AdvanceHand();
      if (entry == nullptr) return;
      --eviction.looks;
      if (!policy_.IsAside(*entry) && IsInUse(*entry)) policy_.SetAside(entry);
    }
  }
  // Evicts objects that have to go although they are in use, or new.
  void EvictInUse(uint64_t bytes, Eviction& eviction, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool all = covers_in_use_ || !has_budget();
    while (eviction.looks > 0 && HasToEvict(held_bytes(), bytes, eviction)) {
      Node* node = all ? policy_.OldestAside() : nullptr;
      if (node != nullptr) {
        --eviction.looks;
      } else {
        node = policy_.NextVictim(eviction.looks, /*spare_used=*/false, /*spare_newest=*/false);
      }
      if (node == nullptr) return;
      if (all) {
        Evict(static_cast<Entry*>(node), removals);
      } else {
        EvictUnlessInUse(static_cast<Entry*>(node), removals);
      }
    }
  }
  // Evicts an expired object that is idle, if it finds one.
  bool EvictExpired(Eviction& eviction, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (Entry* const entry = by_expiry_.NextExpired(removals.now, eviction.looks_by_expiry)) {
      if (IsInUse(*entry)) continue;
      --eviction.looks;
      Evict(entry, removals);
      return true;
    }
    if (unsearched_ != 0 && EvictInvalidated(eviction, removals)) return true;
    return expires_by_default_ && EvictOldestExpired(eviction, removals);
  }
  // Evicts an idle object of a group that has been invalidated, if it finds one. After an
  // invalidation evictions go round the retained objects once, a part each time. (Where the budget
  // leaves out objects in use, UpdateAside shares the hand, and some objects may be passed over.)
  bool EvictInvalidated(Eviction& eviction, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (unsearched_ != 0 && eviction.looks_by_expiry != 0) {
      --eviction.looks_by_expiry;
      Entry* const entry = by_age_.AdvanceHand();
      unsearched_ = entry == nullptr ? 0 : unsearched_ - 1;
      if (entry == nullptr || expiry_of_(*entry, removals.now) != Expiry::kInvalidated) continue;
      if (IsInUse(*entry)) continue;
      --eviction.looks;
      Evict(entry, removals);
      return true;
    }
    return false;
  }
  // Evicts the oldest object, if it has expired. With expire_after_write alone, this finds all
  // expired objects. An object that was found since it was entered, or has a life of its own, may
  // expire later than newer ones, so it becomes the newest, to be looked at again in its turn; and
  // so does one that is in use.
  bool EvictOldestExpired(Eviction& eviction, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (Entry* const entry = by_age_.oldest()) {
      const bool expired = expiry_of_(*entry, removals.now) >= Expiry::kExpiredAndRemovable;
      if (expired && !IsInUse(*entry)) {
        --eviction.looks;
        Evict(entry, removals);
        return true;
      }
      const bool may_live_longest = expired || entry->WasFound() || entry->has_own_life;
      if (!may_live_longest || eviction.looks_by_age == 0) return false;
      --eviction.looks_by_age;
      by_age_.Remove(entry);
      by_age_.PushNewest(entry);
    }
    return false;
  }

  // Does the same as AddFreeRoom, but evicts, in turns, until so much is free. Idle objects go
  // first, then all others: the next one of these may be idle, and the deaths of those in use are
  // noticed from then on. Evicts nothing if the reservations and pinned objects alone leave no
  // room. If there is a listener, evicted objects die only once `removals` has ended.
  void AddRoom(uint64_t bytes, Reservation& reservation, Effort effort, PendingRemovals& removals) {
    AddRoomInTurns(bytes, reservation, effort, removals);
    if (covers_in_use_) return;
    // Objects that have turned out to be idle may exceed the budget.
    MutexLock lock(mutex_);
    EvictSurplus(removals);
  }
  void AddRoomInTurns(uint64_t bytes, Reservation& reservation, Effort effort,
                      PendingRemovals& removals) {
    const bool even_in_vain = effort == Effort::kIdleAnyway;
    Eviction eviction{.for_budget = false,
                      .retained_only = true,
                      .looks_in_use = effort == Effort::kIdle ? kLooksPerTurn : SIZE_MAX};
    uint64_t dying = 0;  // what has been evicted, and dies after the listener has been called
    size_t size = 0;
    size_t turns_in_vain = 0;
    for (size_t looked = 0;; looked += kLooksPerTurn) {
      {
        MutexLock lock(mutex_);
        if (looked == 0) size = policy_.size();
        if (looked == 0 && even_in_vain) eviction.looks_aside = size;
        eviction.spare_used =
            2 * size >= looked && (even_in_vain || turns_in_vain < kMostTurnsInVain);
        const size_t before = policy_.size();
        if (AddFreeRoomLocked(bytes, reservation)) return;
        const uint64_t missing = MissingRoom(bytes - reservation.room_);
        const bool in_vain = missing > dying + policy_.bytes() && !even_in_vain;
        if (missing <= dying || policy_.size() == 0 || in_vain) return;
        eviction.looks = kLooksPerTurn;
        eviction.looks_by_age = kLooksByAge;
        eviction.looks_by_expiry = kLooksByExpiry;
        const uint64_t retained = policy_.bytes();
        const uint64_t still_missing = missing - dying;
        EvictIdle(retained - std::min(retained, still_missing), eviction, removals);
        uint64_t idle = retained - policy_.bytes();
        if (effort == Effort::kAny) EvictAnyForRoom(still_missing, idle, eviction, removals);
        if (shared_->listener) dying += idle;
        // Nothing idle has been found that is not among the dying.
        const bool has_finished = eviction.looks != 0 && idle < still_missing;
        if (has_finished && effort != Effort::kAny) return;
        turns_in_vain = policy_.size() < before ? 0 : turns_in_vain + 1;
      }
      StdAtomics::Pause(0);
    }
  }
  // Returns how many bytes have to go before `bytes` can be added; 0 if none.
  uint64_t MissingRoom(uint64_t bytes) const {
    const uint64_t used = hard_limit().used();
    const uint64_t limit = hard_limit().limit();
    const uint64_t sum = used + bytes < used ? UINT64_MAX : used + bytes;
    return sum - std::min(sum, limit);
  }
  // Evicts the next objects, in use or not, until `idle` is as much as is missing. Adds the bytes
  // of those that turn out to be idle to `idle`.
  void EvictAnyForRoom(uint64_t missing, uint64_t& idle, Eviction& eviction,
                       PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (eviction.looks > 0 && idle < missing) {
      Node* node = policy_.OldestAside();
      if (node != nullptr) {
        --eviction.looks;
      } else {
        node = policy_.NextVictim(eviction.looks, /*spare_used=*/false, /*spare_newest=*/false);
      }
      if (node == nullptr) return;
      auto* const entry = static_cast<Entry*>(node);
      if (!IsInUse(*entry)) idle += entry->object_weight();
      Evict(entry, removals);
    }
  }

  // Makes room for an object of that weight, if among the next few objects to be evicted there are
  // enough that are idle and have not been hit since they were queued. Otherwise does nothing, and
  // returns false.
  bool EvictUnusedFor(uint64_t weight, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (weight > unreserved_budget()) return false;
    const uint64_t target = unreserved_budget() - weight;
    if (held_bytes() <= target) return true;
    uint64_t surplus = held_bytes() - target;
    std::array<Entry*, 8> unused;
    size_t count = 0;
    size_t looked = 0;
    policy_.ColdestFirst([&](Node& node) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      // Evicting objects that the budget leaves out makes no room.
      if (!covers_in_use_ && policy_.IsAside(node)) return ++looked < unused.size();
      auto& entry = static_cast<Entry&>(node);
      if (!IsInUse(entry) && entry.object_weight() != 0 && !policy_.WouldSpare(node)) {
        unused[count++] = &entry;
        surplus -= std::min(surplus, entry.object_weight());
      }
      return surplus != 0 && ++looked < unused.size();
    });
    if (surplus != 0) return false;
    for (size_t i = 0; i < count; ++i) Evict(unused[i], removals);
    return true;
  }

  // Evicts the object, or sets it aside if it is in use, and then returns false.
  bool EvictUnlessInUse(Entry* entry, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (IsInUse(*entry)) {
      policy_.SetAside(entry);
      return false;
    }
    Evict(entry, removals);
    return true;
  }
  void Evict(Entry* entry, PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    policy_.Evict(entry);
    entry->unused_at_eviction = !IsInUse(*entry);
    entry->exceeds_budget = has_budget() && entry->object_weight() > policy_.budget();
    // An expired object that is in use stays in the table, so a look-up will remove it as expired.
    const Expiry expiry =
        entry->unused_at_eviction ? expiry_of_(*entry, removals.now) : Expiry::kNone;
    if (expiry == Expiry::kNone) figures_.Count(*entry, removals.now);
    removals.Add(entry, CauseOf(expiry));
    if (entry->object->TryReleaseOnlyStrong(removals.deferred)) {
      StopRetaining(entry);
      // So that its death, which follows from the eviction, is neither counted nor reported.
      entry->in_cache = false;
      removals.CountFreed(entry->object_weight());
      entry->Uncharge();  // it dies as soon as the caller holds no lock
      return;
    }
    // Before the release: after it the object may die at any time. A look-up may have found it
    // since the test. If there is a listener, PendingRemovals looks again when that has returned.
    if (!entry->notifying || !entry->unused_at_eviction) CountEvictedInUse(entry);
    if (ReleaseRetained(entry, removals)) {
      entry->Uncharge();  // as above
      entry->SetEvictedInUse(false);
      entry->hot.ownership.SetEvictedUnused();
    }
  }
  static RemovalCause CauseOf(Expiry expiry) {
    if (expiry == Expiry::kNone) return RemovalCause::kBudget;
    return expiry == Expiry::kInvalidated ? RemovalCause::kInvalidated : RemovalCause::kExpired;
  }
  // Counts an object as evicted in use, unless it is heavier than the budget: then it can't be
  // kept, and nothing else is evicted for its sake.
  void CountEvictedInUse(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!entry->exceeds_budget) entry->SetEvictedInUse(true);
  }
  void RequeueByExpiry(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!entry->retained()) return;
    by_expiry_.Remove(entry);
    QueueByExpiry(entry);
  }
  // Makes a retained object pinned. It is out of the policy already. Returns whether the cache's
  // was the last reference.
  bool ReleaseRetained(Entry* entry, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    StopRetaining(entry);
    const uint64_t weight = entry->object_weight();
    shared_->counters.Pinned(weight);
    if (!entry->object->ReleaseStrong(removals.deferred)) return false;
    removals.CountFreed(weight);
    return true;
  }
  // Records that an object is not retained any more. It is out of the policy already. Called before
  // the cache's reference is released, unless the object dies with that.
  void StopRetaining(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    by_age_.Remove(entry);
    by_expiry_.Remove(entry);
    entry->hot.ownership.SetNotRetained();
    if (entry->holders() != nullptr) entry->holders()->SetRetained(false);
    admissions_are_vain_.store(false, std::memory_order_relaxed);  // see the field
  }

  const std::shared_ptr<CacheShared<K>> shared_;
  const ExpiryTest expiry_of_;
  const bool expires_by_default_;
  const bool covers_in_use_;
  const uint64_t unknown_cost_;
  // Taken after a shard's lock, if that is held too; no other lock is taken under it.
  Mutex& mutex_;
  Policy policy_ ABSL_GUARDED_BY(mutex_);
  // The retained entries in the order in which they were admitted.
  EntryList<K, Policy> by_age_ ABSL_GUARDED_BY(mutex_);
  // The retained entries that have a life of their own, and expire.
  ExpiryQueue<Entry> by_expiry_ ABSL_GUARDED_BY(mutex_);
  // How many retained objects evictions have yet to look at, after a group has been invalidated.
  size_t unsearched_ ABSL_GUARDED_BY(mutex_) = 0;
  // Bytes that are kept free for loads under way.
  uint64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  // Bytes that the hard limit counts for loads under way.
  uint64_t reserved_room_ ABSL_GUARDED_BY(mutex_) = 0;
  EvictionFigures figures_ ABSL_GUARDED_BY(mutex_);
  // Threads that evict in turns until the budget is kept, or are about to.
  uint32_t evicting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // the end has begun: nothing is retained any more
  // The policy's budget, written under the mutex. Relaxed: a look-up that reads an old value at
  // most asks for an admission in vain, or omits one.
  std::atomic<uint64_t> budget_;
  // Whether the last hit that asked for an admission was refused because the objects that would
  // have had to go were in use, or a load waited for room, and none has left since. Written under
  // the mutex. Relaxed: see `budget_`.
  std::atomic<bool> admissions_are_vain_{false};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_RETENTION_H_
