// SPDX-License-Identifier: Apache-2.0
// The store of a LargeObjectCache: finds objects, puts them in, and removes them.
//
// A store is a number of shards and one Retention. A shard has a table, which finds every object
// that is alive, retained or not, without a lock (see concurrent_table.h); a lock for changes of
// the table; and the flights, which are the loads under way for keys of that shard. The Retention
// decides which of the objects the cache itself keeps alive.
//
// A hit, by GetIfPresent(key) or in the first lines of CacheAsks::GetOrLoad, goes through these
// steps:
//
//   1. CacheShards::Locate hashes the key. Some bits choose the shard, others the place in its
//      index.
//   2. FindFast asks the table for an embedded slot at the first place where the key may be. The
//      table adds one to the slot's count, which is the object's, and then compares the key.
//   3. CacheKey::RecordAccess, in the cache line of the key, reads one byte that says whether the
//      object is retained; if it is, the next byte, the policy's counter, goes up.
//   4. The counters of this thread count a hit. The slot's count becomes the caller's Ref.
//
// So a hit takes no lock, and writes to nothing but the object's count, its counter until that is
// saturated, and the thread's own figures. If objects may expire, it also reads a coarse time, and
// compares it with a tick beside the key. FindSlow does everything else: it finds an object in an
// external slot or further on in the index; an object whose tick has come, for which LookupOutcome
// records what is to be done once the look-up holds it; a weak hit, which asks the Retention to
// retain the object again; and a miss.
//
// Put prepares a slot with the key, outside the lock, then takes the shard's lock, and Enter
// exchanges the old entry for the new one and has the Retention admit the object. Locks are taken
// in this order: a shard's, then the Retention's. Weigher, listener, clock and destructors run
// under none of them: what is removed waits in a PendingRemovals, declared before the lock.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_STORE_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_STORE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/holder_label.h"
#include "weakcache/cache/internal/core/cache_settings.h"
#include "weakcache/cache/internal/core/cache_shards.h"
#include "weakcache/cache/internal/core/freshness.h"
#include "weakcache/cache/internal/core/lookup_outcome.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/loading/failure_table.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/retention/byte_limit.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/eviction_policy.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/cache/internal/retention/retention.h"
#include "weakcache/cache/internal/stats/holder_sampler.h"
#include "weakcache/cache/internal/stats/load_time.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Thread-safe.
template <typename K, typename V, typename Hash, typename Equal, EvictionPolicy Policy>
class CacheStore {
 public:
  using Key = K;
  using Value = V;
  using Entry = CacheEntry<K, Policy>;
  using Budget = Retention<K, Policy>;
  using PendingRemovals = typename Budget::PendingRemovals;
  using Reservation = typename Budget::Reservation;
  using Shared = CacheShared<K>;
  using Outcome = LookupOutcome<Entry>;
  using Shards = CacheShards<K, V, Hash, Equal, Policy>;
  using Shard = typename Shards::Shard;
  using KeyLocation = typename Shards::KeyLocation;
  using Flights = typename Shards::Flights;
  using Table = typename Shards::Table;
  using Slot = typename Table::Slot;
  using Embedded = typename Table::Embedded;
  using TableEntry = typename Table::Entry;
  using PreparedSlot = typename Table::PreparedSlot;
  using MutexLock = typename Table::MutexLock;
  using Failure = typename FailureTable<K>::Failure;
  template <typename AnyKey>
  using LookupKeyOf = LookupKey<K, Hash, Equal, AnyKey>;

  CacheStore(CacheSettings<K, V>& settings, Hash hash, Equal equal)
      : shared_(std::make_shared<CacheShared<K>>(
            ListenerOnSlots(std::move(settings.listener), settings.tier),
            settings.count_entry_memory ? EntryMemory() : typename Shared::EntryWeights(),
            settings.hard_limit.bytes == 0 ? ByteLimit::kNone : settings.hard_limit.bytes,
            settings.freshness.stale_if_error())),
        hard_limit_(settings.hard_limit),
        counts_time_saved_(settings.value == ObjectValue::kTimeSaved),
        holder_sampler_(settings.holders),
        freshness_(std::move(settings.freshness)),
        shards_(settings.shards, std::move(hash), std::move(equal), shared_),
        weigher_(std::move(settings.weigher)),
        retention_(
            settings.budget, settings.budget_covers_in_use, shared_,
            [this](const Entry& entry, int64_t now) { return ExpiryOf(entry, now); },
            freshness_.expires_by_default(), counts_time_saved_) {}
  CacheStore(const CacheStore&) = delete;
  CacheStore& operator=(const CacheStore&) = delete;
  // Destructors of objects and keys may use all of the cache until Retention and shards have
  // released them.
  ~CacheStore() {
    Check(!shared_->hard_limit.active() || shared_->hard_limit.Sleeping() == 0, "~LargeObjectCache",
          "a load still waits for room below the hard limit");
    shared_->open.store(false, std::memory_order_relaxed);  // see the field
    retention_.Close();
    shards_.DropEntries();
  }

  Budget& retention() { return retention_; }
  const Budget& retention() const { return retention_; }
  const Shards& shards() const { return shards_; }
  const Freshness& freshness() const { return freshness_; }
  const HardLimitSettings& hard_limit() const { return hard_limit_; }
  CacheCounters& counters() const { return shared_->counters; }
  const HolderSampler& holder_sampler() const { return holder_sampler_; }
  // Returns the part that tells an operation which goes on after user code whether that has ended
  // the cache.
  const std::shared_ptr<Shared>& shared() const { return shared_; }
  // Returns the object's own weight.
  uint64_t Weigh(const V& object) const { return weigher_(object); }
  uint64_t WeightOf(const V& object, const ObjectTerms& terms) const {
    return terms.weight.has_value() ? *terms.weight : Weigh(object);
  }

  // Does the same as Shards::Matching, but only for current objects: see Freshness::IsCurrent.
  template <typename Lookup>
  auto MatchingUnexpired(const Lookup& key, int64_t now) const {
    return [this, match = shards_.Matching(key), now](Slot& slot) {
      if (!match(slot)) return false;
      if (!freshness_.needed()) return true;
      const Entry& entry = Table::cold_part(&slot);
      return freshness_.IsCurrent(entry, now, entry.references_of_look_up());
    };
  }
  // Returns the object under the key, or null. Counts a hit or a miss. All user code that this runs
  // comes last: it may end the cache.
  template <typename AnyKey>
  Ref<V> Get(const AnyKey& key) {
    return GetOr<IfAbsent::kRemoveExpiredAndCountMiss>(key);
  }
  // Does the same without counting a miss.
  template <typename AnyKey>
  Ref<V> GetIfPresent(const AnyKey& key) {
    return GetOr<IfAbsent::kRemoveExpired>(key);
  }
  // Does the same; an object that may be handed out if the load of a new one fails goes to
  // `expired`.
  template <typename AnyKey>
  Ref<V> GetIfPresent(const AnyKey& key, Ref<V>& expired) {
    const LookupKeyOf<AnyKey> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    if (Embedded* const found = FindFast(location, lookup)) [[likely]]
      return found->Adopt();
    Outcome outcome(freshness_);
    Ref<V> found = Find(location, lookup, outcome);
    if (found.get() == nullptr || RecordHit(outcome)) return found;
    if (outcome.servable_if_load_fails()) expired = std::move(found);
    return Ref<V>();
  }
  // Does the same without removing an object that has expired by time.
  template <typename AnyKey>
  Ref<V> GetIfUnexpired(const AnyKey& key) {
    return GetOr<IfAbsent::kNothing>(key);
  }

  // Does the same as GetIfPresent, but counts nothing at all.
  template <typename AnyKey>
  Ref<V> Peek(const AnyKey& key) const {
    const LookupKeyOf<AnyKey> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    Ref<V> found = location.shard->table.Find(location.hash(),
                                              MatchingUnexpired(lookup, freshness_.NowIfNeeded()));
    RecordTaken(location, found);
    return found;
  }

  // Records, if the object is sampled, that this thread's holder gets it from something else than a
  // hit. The caller holds the object, if there is one, which may have left the cache. Takes the
  // shard's lock; runs no user code but the clock.
  void RecordTaken(const KeyLocation& location, const Ref<V>& object) const {
    if (holder_sampler_.active()) RecordTakenBy(HolderLabel::Current(), location, object);
  }
  // Does the same for a holder with that label. Precondition: the sampler is active.
  [[gnu::noinline]] void RecordTakenBy(const char* label, const KeyLocation& location,
                                       const Ref<V>& object) const {
    if (object.get() == nullptr) return;
    // Looks twice: OriginOf may take a stack and allocate, so it runs without the lock, and only
    // for a sampled object; the entry may have left the cache meanwhile.
    {
      MutexLock lock(location.shard->table.mutex);
      const Entry* const entry = FindEntryOf(object, location);
      if (entry == nullptr || entry->holders() == nullptr) return;
    }
    const HolderOrigin origin = holder_sampler_.OriginOf(label);
    const int64_t now = freshness_.RoughNow();
    MutexLock lock(location.shard->table.mutex);
    const Entry* const entry = FindEntryOf(object, location);
    if (entry == nullptr || entry->holders() == nullptr) return;
    entry->holders()->Add(*entry->object, /*own=*/1, origin, now);
  }

  // Serves nearly every hit: finds an object in an embedded slot at the first index position for
  // its key, if nothing is to be done about its times. Null means that FindSlow has to look. The
  // caller gets a reference to the slot.
  template <typename Lookup>
  [[gnu::always_inline]] Embedded* FindFast(KeyLocation location, const Lookup& lookup) {
    Embedded* const found = freshness_.needed() ? FindFastIfFresh(location, lookup)
                                                : location.shard->table.FindEmbeddedFast(
                                                      location.hash(), shards_.Matching(lookup));
    if (found == nullptr) [[unlikely]]
      return nullptr;
    if (found->payload().RecordAccess()) [[likely]] {
      shared_->counters.CountHit();
    } else {
      RecordAccessSlow(found);
    }
    return found;
  }

  // Does the same in a cache whose objects may expire, if nothing is to be done about the object's
  // times.
  template <typename Lookup>
  [[gnu::always_inline]] Embedded* FindFastIfFresh(KeyLocation location,
                                                   const Lookup& lookup) const {
    const uint32_t tick = freshness_.Tick();
    return location.shard->table.FindEmbeddedFast(
        location.hash(), [match = shards_.Matching(lookup), tick](const Slot& slot) {
          // Relaxed: see the field.
          return match(slot) && tick < slot.payload().fresh_until.load(std::memory_order_relaxed);
        });
  }

  // Finds any object, also one that has expired by time; RecordHit has to follow.
  template <typename Lookup>
  Ref<V> Find(const KeyLocation& location, const Lookup& lookup, Outcome& outcome) const {
    return location.shard->table.Find(location.hash(), Recording(lookup, outcome));
  }
  // Does the same after FindFast has found nothing. If there is no object, `*absent_as_of` is the
  // table's version at which that was so.
  template <typename Lookup>
  Ref<V> FindOrProveAbsent(const KeyLocation& location, const Lookup& lookup, Outcome& outcome,
                           uint64_t* absent_as_of) const {
    const auto recording = Recording(lookup, outcome);
    if (freshness_.needed()) {  // then FindFast may have left it to this
      Embedded* const found = location.shard->table.FindEmbeddedFast(location.hash(), recording);
      if (found != nullptr) return found->Adopt();
    }
    auto found = location.shard->table.FindOrProveAbsent(location.hash(), recording);
    *absent_as_of = found.version;
    return std::move(found.object);
  }

  // Finds an object, and lets `outcome` hold its entry.
  template <typename Match>
  Ref<V> FindHeld(const KeyLocation& location, const Match& match, Outcome& outcome) const {
    return location.shard->table.Find(location.hash(), [&](auto& slot) {
      if (!match(slot)) return false;
      outcome.AddRef(Table::cold_part(&slot));
      return true;
    });
  }
  // Finds an object whose entry `outcome` then holds, whatever there is to be done about it.
  template <typename Lookup>
  Ref<V> FindUnexpired(const KeyLocation& location, const Lookup& lookup, Outcome& outcome) const {
    const auto match = MatchingUnexpired(lookup, freshness_.NowIfNeeded());
    return FindHeld(location, match, outcome);
  }

  // Does what the look-up of an object calls for. Returns false if the object has expired, or
  // is unverified, which makes it a miss.
  bool RecordHit(const Outcome& outcome) {
    if (outcome.entry() == nullptr) [[likely]] {
      shared_->counters.CountHit();
      if (outcome.load_time().known()) shared_->counters.CountTimeSaved(outcome.load_time());
      return true;
    }
    return RecordHitSlow(outcome);
  }

  // Puts an object in place of the one under the key, if any, and returns it. A load of the key
  // that is under way is superseded. `made` is a Ref, which owns an object, or an Owned<V>. Calls
  // `on_entered()` under the shard's lock.
  template <typename AnyKey, typename Made, typename OnEntered>
  Ref<V> Put(AnyKey&& key, Made made, const ObjectTerms& terms, OnEntered&& on_entered) {
    return PutObject</*kReplaces=*/true>(std::forward<AnyKey>(key), made, terms, on_entered).first;
  }
  // Does the same unless there is an object under the key. Returns the object that is in the cache
  // then, and whether it is the new one.
  template <typename AnyKey, typename Made, typename OnEntered>
  std::pair<Ref<V>, bool> PutIfAbsent(AnyKey&& key, Made made, const ObjectTerms& terms,
                                      OnEntered&& on_entered) {
    Ref<V> present = Peek(key);
    if (present.get() != nullptr) return {std::move(present), false};
    return PutObject</*kReplaces=*/false>(std::forward<AnyKey>(key), made, terms, on_entered);
  }

  // Removes the object. A load of the key that is under way will not enter what it loads.
  template <typename AnyKey>
  bool Invalidate(const AnyKey& key) {
    return InvalidateAnd(key, [](Flights& flights, auto& flight) { flights.Cancel(flight); });
  }
  // Does the same because of a second tier's notice: a load that is reading from the tier reads
  // again instead.
  bool InvalidateByNotice(const K& key) {
    return InvalidateAnd(key, [](Flights& flights, auto& flight) { flights.Notice(flight); });
  }
  // Removes the object only if it is that of `expected`, a strong or weak reference.
  template <typename AnyKey, typename Expected>
  bool Invalidate(const AnyKey& key, const Expected& expected) {
    const LookupKeyOf<AnyKey> lookup = key;
    return RemoveIf(shards_.Locate(lookup), shards_.Matching(lookup), RemovalCause::kInvalidated,
                    freshness_.NowIfNeeded(), [&](const Ref<V>& object) {
                      return HandleTraits<Ref<V>>::SameOwner(object, expected);
                    });
  }
  // Does the same in a cache with a second tier, where a load under way may have read `expected`
  // from the tier: then it will not enter that, unless there is another object under the key.
  template <typename AnyKey, typename Expected>
  bool InvalidateUnlessReplaced(const AnyKey& key, const Expected& expected, bool& is_replaced) {
    const LookupKeyOf<AnyKey> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    const int64_t now = freshness_.NowIfNeeded();
    Table& table = location.shard->table;
    TableEntry present;
    PendingRemovals removals;
    MutexLock lock(table.mutex);
    Flights& flights = location.shard->flights;
    auto* const flight = flights.Find(location.hash(), shards_.MatchingKey(lookup)).flight;
    const bool removed = RemoveLocked(
        table, location.hash(), shards_.Matching(lookup), RemovalCause::kInvalidated, now,
        [&](const Ref<V>& object) { return HandleTraits<Ref<V>>::SameOwner(object, expected); },
        present, removals);
    is_replaced = !removed && present.slot != nullptr &&
                  freshness_.IsCurrent(Table::cold_part(present.slot), now, /*own=*/1);
    if (flight != nullptr && !is_replaced) flights.Cancel(*flight);
    return removed;
  }
  // Returns what the cache says of that very object, unless a look-up would not find it. Counts
  // nothing.
  std::optional<EvictedTerms> TermsOf(const K& key, const Ref<V>& object) const {
    const LookupKeyOf<K> lookup = key;
    Outcome outcome(freshness_);
    const Ref<V> found = FindUnexpired(shards_.Locate(lookup), lookup, outcome);
    if (found.get() == nullptr || !HandleTraits<Ref<V>>::SameOwner(found, object)) {
      return std::nullopt;
    }
    const Entry& entry = *outcome.entry();
    EvictedTerms terms;
    terms.age = entry.AgeAt(freshness_.Now());
    const int64_t life = entry.expires_after.load(std::memory_order_relaxed);  // see the field
    if (life != kNeverDue) terms.life = absl::Nanoseconds(life);
    terms.group = GroupOf(entry.stamp());
    return terms;
  }
  // Does TierTarget's function of the same name.
  void SetFingerprint(const K& key, const Ref<V>& object, uint64_t fingerprint) const {
    const LookupKeyOf<K> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    MutexLock lock(location.shard->table.mutex);
    const Entry* const entry = FindEntryOf(object, location);
    if (entry != nullptr) SetFingerprint(*entry, fingerprint);
  }
  // Returns the unexpired object under the key that has this fingerprint, or null. References that
  // are to be released go to `deferred`.
  Ref<V> FindByFingerprint(const K& key, uint64_t fingerprint,
                           typename Table::DeferredReleases& deferred) const {
    const LookupKeyOf<K> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    const int64_t now = freshness_.NowIfNeeded();
    const auto match = [&, match_key = shards_.Matching(lookup)](Slot& slot) {
      if (!match_key(slot)) return false;
      const Entry& entry = Table::cold_part(&slot);
      return HasFingerprint(entry, fingerprint) &&
             !freshness_.IsExpiredUnlessInUse(entry, now, entry.references_of_look_up());
    };
    MutexLock lock(location.shard->table.mutex);
    return std::move(location.shard->table.FindLocked(location.hash(), match, deferred).object);
  }
  // Makes an object current for a load that has verified it. Changes nothing if all objects were
  // made unverified, or its group was invalidated, after that load began. Records an access, and
  // may retain the object again, unless the load is a prefetch. The caller holds the object.
  void Verify(Table& table, Entry& entry, const typename TierRecheck<V>::Check& check,
              PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    if (!freshness_.Verify(entry, check.epoch, check.group)) return;
    table.NotePublished();
    if (shared_->hard_limit.active()) shared_->hard_limit.NotifyEntered(entry.key_hash);
    if (check.is_ahead) return;
    freshness_.RecordAccess(entry, check.now);
    if (entry.hot.RecordAccess() || entry.hot.RecordAccessSlow()) return;
    removals.now = check.now;
    if (retention_.Fits(entry.object_weight())) retention_.AdmitAtHit(&entry, removals);
  }
  // Removes the entry if it is still in the table; for `cause`, or because it has expired by `now`.
  // The caller holds a reference to its slot.
  bool Remove(const Entry& entry, RemovalCause cause, int64_t now) {
    return RemoveIf(shards_.LocateHash(entry.key_hash), shards_.MatchingEntry(entry), cause, now,
                    AnyObject());
  }

  // Prepares a slot, to be entered after MakePayload. Calls `on_prepared()` under the shard's lock.
  template <bool kEmbedded, typename OnPrepared>
  void Prepare(const KeyLocation& location, PreparedSlot& prepared, PendingRemovals& removals,
               const OnPrepared& on_prepared) {
    Table& table = location.shard->table;
    MutexLock lock(table.mutex);
    table.PurgeUpTo(Table::kPurgesPerOperation, removals.deferred);
    table.template Prepare<kEmbedded>(prepared);
    on_prepared();
  }
  template <typename AnyKey>
  void MakePayload(const KeyLocation& location, PreparedSlot& prepared, AnyKey&& key) {
    prepared.MakePayload(std::in_place, std::forward<AnyKey>(key));
    prepared.cold().SetUp(shared_.get(), location.key_hash);
  }
  // Begins a load in a prepared slot with a payload: shows its flight to others, and stamps its
  // entry. In this order, see ObjectGroups::Stamp: either an invalidation of the group finds the
  // flight, or the load sees what was done before the invalidation.
  template <typename Flight>
  void BeginLoad(Flight& flight, PreparedSlot& prepared,
                 const std::optional<uint32_t>& group) const {
    if (group.has_value()) flight.SetGroup(*group);
    flight.SetKey(std::addressof(prepared.payload().key));
    prepared.cold().set_stamp(freshness_.StampFor(group));
  }
  // Sets up the entry of a made object before it is entered. If the object was loaded, its load
  // time is set already.
  void SetUp(Entry& entry, uint64_t weight, const ObjectTerms& terms, int64_t now,
             bool loaded = true) const {
    entry.set_object_weight(weight);
    freshness_.SetGroup(entry, terms.group);
    entry.extras =
        EntryExtras::TryNew(holder_sampler_.TryNewLog(weight), freshness_.checks_again());
    if (terms.tier_fingerprint != 0) [[unlikely]]
      SetFingerprint(entry, terms.tier_fingerprint);
    freshness_.BeginLife(entry, terms, now);
    if (!counts_time_saved_) return;
    if (terms.load_time.has_value()) {
      entry.hot.load_time = LoadTime(absl::ToInt64Nanoseconds(*terms.load_time));
    } else if (loaded) {
      entry.hot.load_time = LoadTime(static_cast<int64_t>(std::min(entry.load_time, 1e18f)));
    }
  }
  // Does the same, and counts what a load has given.
  template <bool kEmbedded>
  void SetUpLoaded(Entry& entry, uint64_t weight, const ObjectTerms& terms, int64_t now) const {
    SetUp(entry, weight, terms, now);
    shared_->counters.Loaded(shared_->WithEntry(weight, kEmbedded));
  }

  // Reserves room below the hard limit for a weighed object, beside what is reserved for it
  // already. Runs no user code. Returns false if there is no room, true if there is no hard limit.
  template <bool kEmbedded>
  bool GrowRoom(const Entry& entry, Reservation& reservation, PendingRemovals& removals,
                typename Budget::Effort effort = Budget::Effort::kAny) {
    if (!shared_->hard_limit.active()) return true;
    removals.now = freshness_.NowOrWritten(entry);
    return reservation.GrowRoom(shared_->WithEntry(entry.object_weight(), kEmbedded), removals,
                                effort);
  }

  // Enters a made object, in place of `present` if that is an entry; returns the object. The
  // reservation ends. If the hard limit leaves no room, only removes what is present, and returns
  // null.
  template <typename Made>
  Ref<V> Enter(Table& table, uint32_t hash, PreparedSlot& prepared, Made& made,
               const TableEntry& present, int64_t now, Reservation& reservation,
               PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    removals.now = now;
    table.MakeRoom(removals.deferred);
    if (present.slot != nullptr) {
      Entry& replaced = Table::cold_part(present.slot);
      retention_.Remove(&replaced, CauseOf(replaced, RemovalCause::kReplaced, now), removals);
    }
    Entry* const entry = &prepared.cold();
    entry->SetObject(BlockOfMade(made, prepared.slot()));
    if (!retention_.Charge(entry, reservation)) [[unlikely]] {
      if (present.slot != nullptr) table.Remove(present, removals.deferred);
      return Ref<V>();
    }
    Ref<V> object;
    if constexpr (std::is_same_v<Made, Ref<V>>) {
      object = made;
      table.Enter(prepared, hash, object, present, removals.deferred);
    } else {
      object = table.Enter(prepared, hash, made, present, removals.deferred);
    }
    retention_.AdmitNew(entry, reservation, removals);
    if (shared_->hard_limit.active()) shared_->hard_limit.NotifyEntered(entry->key_hash);
    return object;
  }

 private:
  static typename Shared::Listener ListenerOnSlots(RemovalListener<K, V> listener,
                                                   const std::shared_ptr<ObjectTier<K, V>>& tier) {
    if (tier != nullptr && tier->writes_evicted()) {
      // Objects in use keep this, but not the tier.
      return [listener = std::move(listener), of_cache = std::weak_ptr(tier)](
                 const K& key, ControlBlock* slot, RemovalCause cause, uint64_t weight) {
        Ref<V> object;
        if (slot != nullptr) object = Table::ObjectOf(static_cast<Slot*>(slot));
        if (slot != nullptr && cause == RemovalCause::kBudget) {
          const std::shared_ptr<ObjectTier<K, V>> locked = of_cache.lock();
          const Entry& entry = Table::cold_part(static_cast<Slot*>(slot));
          if (locked != nullptr && !entry.came_from_tier) locked->WriteEvicted(key, object);
        }
        if (listener) listener(key, object, cause, weight);
      };
    }
    if (!listener) return nullptr;
    return [listener = std::move(listener)](const K& key, ControlBlock* slot, RemovalCause cause,
                                            uint64_t weight) {
      const Ref<V> object = slot == nullptr ? Ref<V>() : Table::ObjectOf(static_cast<Slot*>(slot));
      listener(key, object, cause, weight);
    };
  }
  static typename Shared::EntryWeights EntryMemory() {
    return {Table::kEmbeddedEntryBytes, Table::kExternalEntryBytes};
  }

  // Does Invalidate. Calls `cancel(flights, flight)` for the key's load, under the shard's lock.
  template <typename AnyKey, typename Cancel>
  bool InvalidateAnd(const AnyKey& key, const Cancel& cancel) {
    const LookupKeyOf<AnyKey> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    const int64_t now = freshness_.NowIfNeeded();
    Table& table = location.shard->table;
    TableEntry present;
    PendingRemovals removals;
    Failure failure;
    MutexLock lock(table.mutex);
    failure = location.shard->failures.Take(location.hash(), shards_.MatchingKey(lookup));
    // A flight that has no key yet has not begun to load.
    auto* const flight =
        location.shard->flights.Find(location.hash(), shards_.MatchingKey(lookup)).flight;
    if (flight != nullptr) cancel(location.shard->flights, *flight);
    return RemoveLocked(table, location.hash(), shards_.Matching(lookup),
                        RemovalCause::kInvalidated, now, AnyObject(), present, removals);
  }

  // Precondition of both: the caller holds a reference to the slot, or has yet to enter it.
  // Relaxed: see the field.
  static void SetFingerprint(const Entry& entry, uint64_t fingerprint) {
    if (entry.extras == nullptr) return;
    entry.extras->tier_fingerprint.store(fingerprint, std::memory_order_relaxed);
  }
  static bool HasFingerprint(const Entry& entry, uint64_t fingerprint) {
    return entry.extras != nullptr &&
           entry.extras->tier_fingerprint.load(std::memory_order_relaxed) == fingerprint;
  }

  // Returns the entry of an object that the caller holds, or null if it is not in the cache.
  const Entry* FindEntryOf(const Ref<V>& object, const KeyLocation& location) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(location.shard->table.mutex) {
    const ControlBlock* const block = RefAccess::Block(object);
    Slot* const slot = location.shard->table.FindSlotOf(
        object, location.hash(),
        [&](Slot& external) { return Table::cold_part(&external).object == block; });
    return slot == nullptr ? nullptr : &Table::cold_part(slot);
  }

  template <typename Lookup>
  auto Recording(const Lookup& lookup, Outcome& outcome) const {
    return [match = shards_.Matching(lookup), &outcome](Slot& slot) {
      if (!match(slot)) return false;
      outcome.Record(Table::cold_part(&slot));
      return true;
    };
  }

  struct AnyObject {
    bool operator()(const Ref<V>&) const { return true; }
  };

  // What a look-up does if it finds no object, or one that has expired by time.
  enum class IfAbsent { kNothing, kRemoveExpired, kRemoveExpiredAndCountMiss };

  template <IfAbsent kIfAbsent, typename AnyKey>
  Ref<V> GetOr(const AnyKey& key) {
    const LookupKeyOf<AnyKey> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    if (Embedded* const found = FindFast(location, lookup)) [[likely]]
      return found->Adopt();
    const auto found = FindSlow<kIfAbsent>(location, lookup);
    return RefAccess::AdoptAs<Ref<V>>(found.pointer, found.block);
  }
  template <IfAbsent kIfAbsent, typename Lookup>
  [[gnu::noinline]] auto FindSlow(const KeyLocation& location, const Lookup& lookup) {
    Outcome outcome(freshness_);
    Ref<V> found = Find(location, lookup, outcome);
    if (found.get() != nullptr && !outcome.expired()) {
      RecordHit(outcome);
    } else {
      if (kIfAbsent == IfAbsent::kRemoveExpiredAndCountMiss) shared_->counters.CountMiss();
      if (kIfAbsent != IfAbsent::kNothing && found.get() != nullptr) RecordHit(outcome);
      found.reset();
    }
    return RefAccess::TakeApart(std::move(found));
  }

  // Does Put or PutIfAbsent.
  template <bool kReplaces, typename AnyKey, typename Made, typename OnEntered>
  std::pair<Ref<V>, bool> PutObject(AnyKey&& key, Made& made, const ObjectTerms& terms,
                                    OnEntered& on_entered) {
    constexpr bool kEmbedded = !std::is_same_v<Made, Ref<V>>;
    const GroupStamp stamp = freshness_.StampFor(terms.group);
    const uint64_t weight = WeightOf(*made, terms);
    // Destroyed in reverse order: the room is given back before user code runs.
    PendingRemovals removals;
    TableEntry present;
    Failure failure;
    PreparedSlot prepared;
    Reservation reservation(retention_);
    if (shared_->hard_limit.active()) {
      const auto room =
          reservation.GetRoom(shared_->WithEntry(weight, kEmbedded), freshness_.RoughNow());
      if (room == Reservation::Room::kCacheEnded) return {AsRef<V>(std::move(made)), false};
    }
    const LookupKeyOf<AnyKey> lookup = key;
    const KeyLocation location = shards_.Locate(lookup);
    Prepare<kEmbedded>(location, prepared, removals, [] {});
    MakePayload(location, prepared, std::forward<AnyKey>(key));
    prepared.cold().set_stamp(stamp);
    const int64_t now = freshness_.NowFor(terms);
    SetUp(prepared.cold(), weight, terms, now, /*loaded=*/false);

    Table& table = location.shard->table;
    Flights& flights = location.shard->flights;
    MutexLock lock(table.mutex);
    const K& own_key = prepared.payload().key;
    present = table.FindLocked(location.hash(), shards_.Matching(own_key), removals.deferred);
    if (!kReplaces && present.slot != nullptr &&
        freshness_.IsCurrent(Table::cold_part(present.slot), now, /*own=*/1)) {
      lock.unlock();
      RecordTaken(location, present.object);
      return {std::move(present.object), false};
    }
    auto* const flight = flights.Find(location.hash(), shards_.MatchingKey(own_key)).flight;
    Ref<V> entered =
        Enter(table, location.hash(), prepared, made, present, now, reservation, removals);
    const bool has_entered = entered.get() != nullptr;
    if (kReplaces || has_entered) {
      if (flight != nullptr) flights.Supersede(*flight);
      failure = location.shard->failures.Take(location.hash(), shards_.MatchingKey(own_key));
    }
    on_entered();
    lock.unlock();
    if (!has_entered) [[unlikely]]
      entered = AsRef<V>(std::move(made));
    RecordTaken(location, entered);
    removals.FinishEviction();
    return {std::move(entered), has_entered};
  }

  [[gnu::noinline]] bool RecordHitSlow(const Outcome& outcome) {
    Entry* const entry = outcome.entry();
    if (outcome.times_are_doubtful()) {
      freshness_.CorrectTimes(*entry);
      retention_.UpdateExpiryTime(entry);
    }
    // An expired object that is kept may be handed out if the load fails. The caller has a
    // reference to the object, the outcome one to the slot.
    const bool may_be_taken = !outcome.expired() || outcome.servable_if_load_fails();
    if (may_be_taken) RecordHolder(*entry, entry->is_embedded() ? 2 : 1);
    if (outcome.expired()) {
      if (outcome.removable()) Remove(*entry, RemovalCause::kExpired, /*now=*/0);
      return false;
    }
    if (outcome.load_time().known()) shared_->counters.CountTimeSaved(outcome.load_time());
    if (!outcome.weak()) {
      shared_->counters.CountHit();
      return true;
    }
    shared_->counters.CountWeakHit();
    if (retention_.MayAdmitAtHit(entry->hot)) AdmitFound(entry);
    return true;
  }
  // Records that this thread's holder takes the object, if that is sampled. The caller has `own`
  // references to it.
  void RecordHolder(const Entry& entry, size_t own) const {
    if (entry.holders() == nullptr) return;
    const HolderOrigin origin = holder_sampler_.OriginOf(HolderLabel::Current());
    entry.holders()->Add(*entry.object, own, origin, freshness_.RoughNow());
  }
  // Counts a hit or a weak hit, the time that it saves, and who takes the object; has a weak hit's
  // object retained again, if it fits. The caller holds a reference to the slot.
  [[gnu::noinline]] void RecordAccessSlow(Embedded* slot) {
    const LoadTime load_time = slot->payload().load_time;
    if (load_time.known()) shared_->counters.CountTimeSaved(load_time);
    if (holder_sampler_.active()) RecordHolder(Table::cold_part(slot), /*own=*/1);
    if (slot->payload().RecordAccessSlow()) {
      shared_->counters.CountHit();
      return;
    }
    shared_->counters.CountWeakHit();
    if (!retention_.has_budget() || !retention_.MayAdmitAtHit(slot->payload())) return;
    AdmitFound(&Table::cold_part(slot));
  }
  void AdmitFound(Entry* entry) {
    if (!retention_.Fits(entry->object_weight())) return;
    PendingRemovals removals;
    removals.now = freshness_.RoughNow();
    retention_.AdmitAtHit(entry, removals);
  }

  template <typename Match, typename Condition>
  bool RemoveIf(const KeyLocation& location, const Match& match, RemovalCause cause, int64_t now,
                const Condition& condition) {
    TableEntry present;
    PendingRemovals removals;
    Table& table = location.shard->table;
    MutexLock lock(table.mutex);
    return RemoveLocked(table, location.hash(), match, cause, now, condition, present, removals);
  }
  template <typename Match, typename Condition>
  bool RemoveLocked(Table& table, uint32_t hash, const Match& match, RemovalCause cause,
                    int64_t now, const Condition& condition, TableEntry& present,
                    PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    table.PurgeUpTo(Table::kPurgesPerOperation, removals.deferred);
    present = table.FindLocked(hash, match, removals.deferred);
    if (present.slot == nullptr || !condition(present.object)) return false;
    Entry& entry = Table::cold_part(present.slot);
    removals.now = now;
    retention_.Remove(&entry, CauseOf(entry, cause, now), removals);
    table.Remove(present, removals.deferred);
    return true;
  }

  typename Budget::Expiry ExpiryOf(const Entry& entry, int64_t now) const {
    if (!freshness_.needed() || !freshness_.IsExpiredUnlessInUse(entry, now, /*own=*/0)) {
      return Budget::Expiry::kNone;
    }
    if (freshness_.IsInvalidated(entry.stamp())) return Budget::Expiry::kInvalidated;
    return freshness_.IsRemovable(entry, now) ? Budget::Expiry::kExpiredAndRemovable
                                              : Budget::Expiry::kExpired;
  }
  // The caller has found the object under the lock, and holds it.
  RemovalCause CauseOf(const Entry& entry, RemovalCause unless_expired, int64_t now) const {
    if (freshness_.IsInvalidated(entry.stamp())) return RemovalCause::kInvalidated;
    return freshness_.IsExpiredUnlessInUse(entry, now, /*own=*/1) ? RemovalCause::kExpired
                                                                  : unless_expired;
  }

  static ControlBlock* BlockOfMade(const Ref<V>& made, ControlBlock*) {
    return RefAccess::Block(made);
  }
  static ControlBlock* BlockOfMade(const Owned<V>&, ControlBlock* slot) { return slot; }

  struct EndMark {
    ~EndMark() { shared.SetEnded(); }
    CacheShared<K>& shared;
  };

  const std::shared_ptr<CacheShared<K>> shared_;  // all tables keep it alive
  const EndMark end_mark_{*shared_};              // destroyed after all that follows
  const HardLimitSettings hard_limit_;
  const bool counts_time_saved_;
  const HolderSampler holder_sampler_;
  const Freshness freshness_;
  const Shards shards_;
  const std::function<uint64_t(const V&)> weigher_;
  Budget retention_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_STORE_H_
