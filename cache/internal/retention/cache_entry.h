// SPDX-License-Identifier: Apache-2.0
// What a cache keeps with each object, in the object's slot: a hot part, which every hit reads, and
// a cold part, which lies apart so that the hot parts are dense.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_CACHE_ENTRY_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_CACHE_ENTRY_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/time/time.h"
#include "weakcache/cache/internal/retention/byte_limit.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/retention/expiry_queue.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/internal/slot/payload_description.h"
#include "weakcache/cache/internal/stats/cache_counters.h"
#include "weakcache/cache/internal/stats/holder_sampler.h"
#include "weakcache/cache/internal/stats/load_time.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/watcher_info.h"

namespace weakcache::internal {

// The part of a cache that its objects may need after the cache's end, when they die late.
template <typename K>
struct CacheShared {
  // Takes the object's slot; null for an object that has died. The caller holds references to slot
  // and object.
  using Listener = std::function<void(const K&, ControlBlock* slot, RemovalCause, uint64_t weight)>;

  // What an entry weighs beside its object, by the kind of slot; 0 if that does not count.
  struct EntryWeights {
    uint64_t Of(bool is_embedded) const { return is_embedded ? embedded : external; }

    uint64_t embedded = 0;
    uint64_t external = 0;
  };

  explicit CacheShared(Listener to_notify, EntryWeights weights = {},
                       uint64_t hard_limit_bytes = ByteLimit::kNone, int64_t expired_stays = 0)
      : listener(std::move(to_notify)),
        entry_weights(weights),
        stale_if_error(expired_stays),
        hard_limit(hard_limit_bytes) {}

  // Calls the listener. Its exceptions go to the handler of callbacks' exceptions.
  void NotifyListener(const K& key, ControlBlock* slot, RemovalCause cause,
                      uint64_t weight) noexcept {
#ifdef __cpp_exceptions
    try {
      listener(key, slot, cause, weight);
    } catch (...) {
      ReportCallbackError();
    }
#else
    listener(key, slot, cause, weight);
#endif
  }

  // Returns what an object of that weight weighs with its entry.
  uint64_t WithEntry(uint64_t own_weight, bool is_embedded) const {
    const uint64_t weight = own_weight + entry_weights.Of(is_embedded);
    return weight < own_weight ? UINT64_MAX : weight;
  }

  const Listener listener;
  const EntryWeights entry_weights;
  // How long expired objects are kept for loads that fail, in nanoseconds.
  const int64_t stale_if_error;
  CacheCounters counters;
  // Counts all live objects in the cache, retained or not, and what is reserved for loads.
  ByteLimit hard_limit;
  // The lock of the cache's Retention. It is here because a listener or a destructor may end the
  // cache, and the thread that has called it goes on to the next removal that it has to report.
  BasicMutex<StdAtomics> mutex;
  // Whether the cache still exists. True to false by the cache's end, once. Relaxed: for an object
  // that is released at the same time, the listener may be called or not.
  std::atomic<bool> open{true};

  // Returns the total weight of the live objects that were evicted while they were in use.
  uint64_t evicted_in_use_bytes() const {
    return evicted_in_use_bytes_.load(std::memory_order_relaxed);  // see the field
  }
  // Adds, or subtracts, up to 2^48 bytes of an object, so that the sum can't overflow.
  void AddEvictedInUse(uint64_t bytes) {
    bytes = CacheCounters::AsPinned(bytes);
    evicted_in_use_bytes_.fetch_add(bytes, std::memory_order_relaxed);  // see the field
  }
  void SubtractEvictedInUse(uint64_t bytes) {
    bytes = CacheCounters::AsPinned(bytes);
    evicted_in_use_bytes_.fetch_sub(bytes, std::memory_order_relaxed);  // see the field
  }

  // Returns whether the cache has ended. For an operation that goes on after user code, which may
  // have ended the cache on the operation's own thread.
  bool ended() const { return ended_.load(std::memory_order_relaxed); }
  void SetEnded() { ended_.store(true, std::memory_order_relaxed); }
  // Returns whether the cache's end has begun. For threads that may outlast the cache.
  bool is_ending() const { return ending_; }
  void SetEnding() { ending_ = true; }

 private:
  // Added to by a thread that holds the lock, before it releases the object; subtracted from by
  // such a thread, too, or by the one that drops the last reference. Relaxed: an eviction that
  // misses a death evicts an object too many, as if it had come a moment earlier.
  std::atomic<uint64_t> evicted_in_use_bytes_{0};
  // False to true after the last part of the cache has been destroyed, once. Relaxed: an operation
  // reads it on the thread that has ended the cache, or while the cache can't end.
  std::atomic<bool> ended_{false};
  // Set once, by the thread that ends the cache, before it takes any shard's lock for that: so who
  // reads false under a shard's lock has had it before. Any thread reads it. Sequentially
  // consistent.
  std::atomic<bool> ending_{false};
};

// Knows whether a cache owns an object, in a byte beside the policy's counter.
class Ownership {
 public:
  // Returns whether the cache retains the object: then it holds a strong reference to the object,
  // and the entry is in the policy.
  bool retained() const { return retained_uncounted() || retained_counted(); }
  // Return the same, by whether a hit counts only itself, or also the time that it saves or who
  // takes the object (see HolderLog). A hit tells the first state from all others by one
  // comparison, so counting costs nothing where nobody asks for it.
  bool retained_uncounted() const { return state() == State::kRetained; }
  bool retained_counted() const { return state() == State::kRetainedCounted; }
  // Both by a thread that holds the budget's lock.
  void SetRetained(bool hits_count_more) {
    set_state(hits_count_more ? State::kRetainedCounted : State::kRetained);
  }
  void SetNotRetained() { set_state(State::kNotRetained); }

  // Records that the object dies because of its eviction: nobody used it then, and whoever has
  // found it since has released it. Called by the thread that has dropped the last reference, the
  // cache's, before the object's destructor; no look-up finds the object any more.
  void SetEvictedUnused() { set_state(State::kEvictedUnused); }
  bool evicted_unused() const { return state() == State::kEvictedUnused; }

 private:
  enum class State : uint8_t { kNotRetained, kRetained, kRetainedCounted, kEvictedUnused };

  State state() const { return state_.load(std::memory_order_relaxed); }
  void set_state(State state) { state_.store(state, std::memory_order_relaxed); }

  // kNotRetained to kRetained, or to kRetainedCounted of an object that is sampled or whose load's
  // time is known, and back under the budget's lock; from kNotRetained to kEvictedUnused once, see
  // there. Relaxed: a look-up, which reads it without the lock, only decides by it whether it
  // counts a hit or a weak hit, and whether it asks for the object to be retained.
  std::atomic<State> state_{State::kNotRetained};
};

// Decides who refreshes an object: one thread at a time, and nobody once the object has left the
// cache. Thread-safe.
class RefreshClaim {
 public:
  bool available() const { return state_.load(std::memory_order_seq_cst) == State::kAvailable; }
  // Returns whether the refresh is the caller's.
  bool Claim() {
    State available = State::kAvailable;
    return state_.compare_exchange_strong(available, State::kClaimed, std::memory_order_relaxed,
                                          std::memory_order_relaxed);
  }
  // Lets the next thread try again, after a refresh that has failed. Called by the thread that has
  // claimed it.
  void Release() {
    State claimed = State::kClaimed;
    state_.compare_exchange_strong(claimed, State::kAvailable, std::memory_order_seq_cst,
                                   std::memory_order_relaxed);
  }
  // Refuses all later claims. Called by the thread that takes the entry out of the cache: a thread
  // that saw a refresh due before does not load another object for an entry that nobody finds any
  // more.
  void Close() { state_.store(State::kClosed, std::memory_order_relaxed); }
  bool closed() const { return state_.load(std::memory_order_relaxed) == State::kClosed; }

  // Counts a refresh that has failed, up to 255, and returns how many have. Called by the thread
  // that has claimed it.
  int CountFailure() {
    const int failures = std::min(failures_.load(std::memory_order_relaxed) + 1, 255);
    failures_.store(static_cast<uint8_t>(failures), std::memory_order_relaxed);
    EndLeaving();
    return failures;
  }

  // Returns whether a refresh may be left to another process: ten times in a row, since that
  // process may take for ever.
  bool may_be_left() const { return left_.load(std::memory_order_relaxed) < kMostLeft; }
  // Counts a refresh that is left to another process. Called by the thread that has claimed it.
  void CountLeft() {
    left_.store(static_cast<uint8_t>(left_.load(std::memory_order_relaxed) + 1),
                std::memory_order_relaxed);
  }
  // Lets it be left so often again, after one that was not left. By the same thread.
  void EndLeaving() { left_.store(0, std::memory_order_relaxed); }

  // Called by the thread that has claimed it, before it reads from the second tier.
  void BeginReading() { life_was_set_.store(false, std::memory_order_relaxed); }
  // Both: under the shard's lock.
  void SetLifeWasSet() { life_was_set_.store(true, std::memory_order_relaxed); }
  bool life_was_set() const { return life_was_set_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint8_t kMostLeft = 10;

  enum class State : uint8_t { kAvailable, kClaimed, kClosed };

  // kAvailable to kClaimed by the thread that refreshes, back by the same thread; to kClosed by the
  // one that removes the entry, once, under the lock of its shard. Relaxed where it decides who
  // loads, which orders nothing: a read-modify-write sees the last change all the same. Release is
  // sequentially consistent, because it shortens the time for which hits need not look at the
  // entry: see Freshness::Arm.
  std::atomic<State> state_{State::kAvailable};
  // Written only by the thread that has the claim. Relaxed: if the last owner's count is not seen,
  // the next refresh comes earlier.
  std::atomic<uint8_t> failures_{0};
  // The same: a refresh may then be left once more.
  std::atomic<uint8_t> left_{0};
  // Whether SetExpiry has been called, in a cache with a second tier, since a refresh last began to
  // read from that: what it has read has the former life. Any thread sets it, under the lock of the
  // shard, once it has begun to erase the tier's entry. The thread that has the claim resets it,
  // and then asks TierChanges whether it may read. Relaxed: the lock orders it with the entering of
  // what was read; and if the reset comes last, TierChanges, which has a mutex, knows the erasure.
  std::atomic<bool> life_was_set_{false};
};

// The life of an object that does not expire, or is never due for a refresh, in nanoseconds.
inline constexpr int64_t kNeverDue = INT64_MAX;

// Holds the optional parts of an entry, in an allocation of its own: entries that need none pay for
// one pointer. In a cache that checks again every entry has it, in others only a sampled one.
struct EntryExtras {
  // Returns null if no part is needed, or if there is no memory: then the object is not sampled,
  // and is decoded or loaded again in place of being checked.
  static std::unique_ptr<EntryExtras> TryNew(std::unique_ptr<HolderLog> log,
                                             bool has_fingerprint) noexcept {
    if (log == nullptr && !has_fingerprint) [[likely]]
      return nullptr;
    return std::unique_ptr<EntryExtras>(new (std::nothrow) EntryExtras{std::move(log)});
  }

  // Null unless the object is sampled.
  std::unique_ptr<HolderLog> holders;
  // The fingerprint of the second tier's entry that the object was read from, or last written as; 0
  // if unknown. Set before the slot is entered, and by a thread that has written the object.
  // Relaxed: nothing else is read by reason of it, and who misses a new value only decodes or
  // loads.
  std::atomic<uint64_t> tier_fingerprint{0};
};

template <typename K, EvictionPolicy Policy>
class CacheEntry;
template <typename K, EvictionPolicy Policy>
class EntryList;

// The hot part.
template <typename K, EvictionPolicy Policy>
struct CacheKey {
  using Cold = CacheEntry<K, Policy>;

  template <typename Key>
  explicit CacheKey(std::in_place_t, Key&& given) : key(std::forward<Key>(given)) {}
  CacheKey(const CacheKey&) = delete;
  CacheKey& operator=(const CacheKey&) = delete;

  // Counts a hit. Returns false if RecordAccessSlow has to count it.
  bool RecordAccess() {
    if (!ownership.retained_uncounted()) [[unlikely]]
      return false;
    counter.RecordAccess();
    return true;
  }
  // Does the same for a hit that may count more. Returns false if the object is not retained: then
  // it is a weak hit.
  bool RecordAccessSlow() {
    if (!ownership.retained()) return false;
    counter.RecordAccess();
    return true;
  }

  // Counts a weak hit. Returns true for each sixteenth one.
  bool IsSixteenthWeakHit() {
    // Relaxed, both: see the field.
    const uint8_t hits = weak_hits.load(std::memory_order_relaxed) + 1;
    weak_hits.store(hits % 16, std::memory_order_relaxed);
    return hits == 16;
  }

  const K key;
  Ownership ownership;
  typename Policy::AccessCounter counter;
  // Weak hits that did not ask for the object to be retained, modulo 16. Any thread; of two hits at
  // the same time one may be lost. Relaxed: it only decides how often a look-up asks.
  std::atomic<uint8_t> weak_hits{0};
  // Known if a hit counts the time that it saves. Set before the slot is entered.
  LoadTime load_time;
  // The tick before which a look-up need not look at the object's times, nor change them: see
  // Freshness, whose Arm and BeginLife alone write it. 0 if a look-up always has to.
  std::atomic<uint32_t> fresh_until{0};
};

template <typename K, EvictionPolicy Policy>
class CacheEntry;

template <typename K, EvictionPolicy Policy>
struct PayloadDescription<CacheKey<K, Policy>> {
  static constexpr std::string_view container = "LargeObjectCache";
  using Argument = K;
  static bool IsRetained(const CacheKey<K, Policy>& payload) {
    return payload.ownership.retained();
  }
  static HoldersInfo HoldersOf(const CacheEntry<K, Policy>& entry) {
    HolderLog* const log = entry.holders();
    return log == nullptr ? HoldersInfo() : log->Snapshot(*entry.object);
  }
};

// The cold part. A thread that holds a reference to the slot may read what is constant once the
// slot is entered (the key and its hash, `slot`, `object`, `extras`, the load time,
// `came_from_tier`), and use the atomic fields. Everything else belongs to the thread that prepares
// the slot, until the slot is entered in the table; from then on it is guarded by the mutex of the
// cache's Retention; in the end it belongs to the thread that drops the last reference.
template <typename K, EvictionPolicy Policy>
class CacheEntry : public Policy::Node, public ExpiryLinks {
 public:
  using Hot = CacheKey<K, Policy>;

  template <typename Slot>
  explicit CacheEntry(Slot* own_slot) noexcept
      : Policy::Node(&own_slot->payload().counter), hot(own_slot->payload()), slot(own_slot) {}
  CacheEntry(const CacheEntry&) = delete;
  CacheEntry& operator=(const CacheEntry&) = delete;

  // Sets up the entry, before its slot is entered. `shared` outlives the entry.
  void SetUp(CacheShared<K>* shared, uint64_t hash_of_key) {
    shared_ = shared;
    key_hash = hash_of_key;
  }
  // Does the same for the object, once its own weight is set.
  void SetObject(ControlBlock* block) {
    object = block;
    set_object_weight(WithEntry(object_weight()));
  }

  ~CacheEntry() { OnObjectExpired(); }

  // Reports the death of an object that was still in the cache, without being retained. Nobody else
  // uses the entry then.
  void OnObjectExpired() noexcept {
    const bool was_in_cache = std::exchange(in_cache, false);
    if (was_in_cache) SetEvictedInUse(false);
    // A load that this wakes finds that the budget does not count the object any more.
    Uncharge();
    if (!was_in_cache) return;
    const uint64_t bytes = object_weight();
    shared_->counters.Unpinned(bytes);
    // Its eviction has been reported, and its death follows from that.
    if (hot.ownership.evicted_unused()) return;
    shared_->counters.CountRemoval(RemovalCause::kDied);
    // Relaxed: see the field.
    if (!shared_->listener || !shared_->open.load(std::memory_order_relaxed)) return;
    shared_->NotifyListener(key(), /*slot=*/nullptr, RemovalCause::kDied, own_weight());
  }

  CacheShared<K>& shared() const { return *shared_; }
  const K& key() const { return hot.key; }
  bool is_embedded() const { return object == slot; }
  bool retained() const { return hot.ownership.retained(); }
  // Returns null unless the object is sampled.
  HolderLog* holders() const { return extras == nullptr ? nullptr : extras->holders.get(); }
  // Return and set the group, if any, and the epoch at which the object's load began, or the last
  // load that verified it. Relaxed, both: see the field.
  GroupStamp stamp() const { return stamp_.load(std::memory_order_relaxed); }
  void set_stamp(GroupStamp stamp) { stamp_.store(stamp, std::memory_order_relaxed); }
  // Return what the object weighs with its entry, and alone. Relaxed, all: see the field.
  uint64_t object_weight() const { return weight_.load(std::memory_order_relaxed); }
  void set_object_weight(uint64_t bytes) { weight_.store(bytes, std::memory_order_relaxed); }
  uint64_t own_weight() const {
    const uint64_t bytes = object_weight();
    return bytes == UINT64_MAX ? bytes : bytes - shared_->entry_weights.Of(is_embedded());
  }
  uint64_t WithEntry(uint64_t own_weight) const {
    return shared_->WithEntry(own_weight, is_embedded());
  }

  // Returns whether the hard limit counts the object: from just before it is entered until it has
  // left the cache, or has died.
  bool charged() const { return charged_; }
  // Records that the caller has added the weight, or takes it off now.
  void SetCharged() { charged_ = true; }
  void Uncharge() {
    if (!charged_) return;
    charged_ = false;
    shared_->hard_limit.Subtract(object_weight());
  }

  // Returns whether the object was evicted while it was in use: then the budget still counts it.
  bool evicted_in_use() const { return evicted_in_use_; }
  void SetEvictedInUse(bool evicted_in_use) {
    if (evicted_in_use_ == evicted_in_use) return;
    evicted_in_use_ = evicted_in_use;
    if (evicted_in_use) {
      shared_->AddEvictedInUse(object_weight());
    } else {
      shared_->SubtractEvictedInUse(object_weight());
    }
  }

  // Returns when the object has expired by its life, and is no longer kept for loads that fail, in
  // nanoseconds of the cache's clock; expire_after_access does not count here. Relaxed, both: see
  // the fields.
  int64_t expiry_time() const {
    const int64_t since = written.load(std::memory_order_relaxed);
    const int64_t life = expires_after.load(std::memory_order_relaxed);
    const int64_t stay = shared_->stale_if_error;
    const int64_t end = life > kNeverDue - stay ? kNeverDue : life + stay;
    return end == kNeverDue || (since > 0 && end > kNeverDue - since) ? kNeverDue : since + end;
  }

  // Returns how long before `now` the object was entered; 0 if the clock has been set back.
  // Relaxed: see the field.
  absl::Duration AgeAt(int64_t now) const {
    const int64_t since = written.load(std::memory_order_relaxed);
    return now <= since ? absl::ZeroDuration() : absl::Nanoseconds(now) - absl::Nanoseconds(since);
  }

  // Returns whether anybody holds the object beside the cache and the caller, who has `own`
  // references to it. The count comes first: an object that is evicted in between seems to be in
  // use, but none that is in use seems to be idle. Look-ups of other threads may seem to use it.
  bool IsInUse(size_t own) const {
    const size_t all = object->strong_count();
    return all > own + (retained() ? 1u : 0u);
  }
  // Returns how many references to the object a look-up has when it looks at the entry.
  size_t references_of_look_up() const { return is_embedded() ? 1 : 0; }

  // Returns whether a look-up has found the object since it was written, or somebody has seen that
  // it was in use; only known if that matters for its age. Relaxed, both: see the fields.
  bool WasFound() const {
    return accessed.load(std::memory_order_relaxed) != written.load(std::memory_order_relaxed);
  }

  // Nanoseconds of the cache's clock. The time of writing is set before the slot is entered, and
  // again by a look-up that finds that the clock has been set back; that of access by any look-up,
  // without an order among them, as the last of them is as good as any. Relaxed: nothing else is
  // concluded from them.
  std::atomic<int64_t> written{0};
  mutable std::atomic<int64_t> accessed{0};
  // How long after it was written the object expires, and is due for a refresh. Set before the slot
  // is entered; the former also by SetExpiry, on any thread. Relaxed, as above; but what may
  // shorten a life is written, and read by Freshness::Arm, with sequential consistency: see there.
  std::atomic<int64_t> expires_after{kNeverDue};
  std::atomic<int64_t> refresh_after{kNeverDue};

  CacheKey<K, Policy>& hot;
  uint64_t key_hash = 0;
  // The counts of the slot, and those of the object. In an embedded slot they are the same.
  ControlBlock* const slot;
  ControlBlock* object = nullptr;
  // Null unless the object is sampled, or the cache checks again. Set before the slot is entered.
  std::unique_ptr<EntryExtras> extras;
  // How many weighings of the object have begun, and the number of the last one that counted.
  uint32_t weighings = 0;
  uint32_t weighed = 0;
  RefreshClaim refresh;
  // Whether somebody has seen that the object was idle when it had not been accessed for too long.
  // False to true once, on any thread. Then it stays expired, even if it is used again: mostly by
  // the very caller who has missed it, and holds it in case its load fails. Relaxed: of two looks
  // at the same time either may come first.
  mutable std::atomic<bool> expired_idle{false};
  // Whether the object may expire earlier or later than others that were written at the same time.
  // Set before the slot is entered, or by SetExpiry.
  bool has_own_life : 1 = false;
  bool unused_at_eviction : 1 = false;  // nobody used the object when it was evicted last
  // Of an object that is not retained: whether it was heavier than the budget when it was evicted,
  // or weighed since.
  bool exceeds_budget : 1 = false;

 private:
  bool evicted_in_use_ : 1 = false;
  bool charged_ : 1 = false;

 public:
  // Whether the object is in the cache, unless it has died. False to true when the entry is
  // admitted as a new one, just after a look-up may find it; true to false once, when it is
  // removed.
  bool in_cache = false;

  // Whether the object came from the second tier. Set before the slot is entered, and then
  // constant. Not a bit beside those above, which are written under the mutex.
  bool came_from_tier = false;

  // Whether a thread is notifying the listener about this object. Only that thread does so until
  // nothing is left to report; a cause that comes meanwhile is in `next_cause`.
  bool notifying = false;
  RemovalCause cause = RemovalCause::kBudget;
  std::optional<RemovalCause> next_cause;
  // How long the object took to load, in nanoseconds; of a bulk load, an equal part of the whole; 0
  // if it was put. Set before the slot is entered.
  float load_time = 0;
  uint64_t notified_weight = 0;
  CacheEntry* next_pending = nullptr;

 private:
  friend class EntryList<K, Policy>;

  CacheEntry* older_ = nullptr;  // neighbours in an EntryList
  CacheEntry* newer_ = nullptr;
  // Set when the load begins; its group perhaps only before the slot is entered. Then the epoch
  // only grows, and a group is set at most once, under the shard's lock: see Freshness::Verify.
  // Relaxed: a look-up compares it with the epochs of ObjectGroups, and one that reads the stamp of
  // before a verification only misses.
  std::atomic<GroupStamp> stamp_{GroupStamp()};
  // Set before the slot is entered, and then under the mutex. Relaxed: by it, look-ups only guess
  // whether the object may be retained.
  std::atomic<uint64_t> weight_{0};
  CacheShared<K>* shared_ = nullptr;
};

// A list of entries, which owns nothing; with a hand that goes round it.
template <typename K, EvictionPolicy Policy>
class EntryList {
 public:
  using Entry = CacheEntry<K, Policy>;

  Entry* oldest() const { return oldest_; }
  // Returns the entry that the hand points at, and moves it on; null if the list is empty.
  Entry* AdvanceHand() {
    Entry* const entry = hand_ == nullptr ? oldest_ : hand_;
    if (entry != nullptr) hand_ = entry->newer_;
    return entry;
  }
  void PushNewest(Entry* entry) {
    entry->older_ = newest_;
    entry->newer_ = nullptr;
    (newest_ == nullptr ? oldest_ : newest_->newer_) = entry;
    newest_ = entry;
  }
  void Remove(Entry* entry) {
    if (hand_ == entry) hand_ = entry->newer_;
    (entry->older_ == nullptr ? oldest_ : entry->older_->newer_) = entry->newer_;
    (entry->newer_ == nullptr ? newest_ : entry->newer_->older_) = entry->older_;
  }

 private:
  Entry* oldest_ = nullptr;
  Entry* newest_ = nullptr;
  Entry* hand_ = nullptr;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_CACHE_ENTRY_H_
