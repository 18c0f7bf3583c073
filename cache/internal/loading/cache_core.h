// SPDX-License-Identifier: Apache-2.0
// What a LargeObjectCache consists of: shards of a table that finds objects without a lock, a
// Retention that keeps some of them alive, and the loads under way.
//
// Locks are taken in this order: a shard's, then the retention's or the load limiter's. Weigher,
// loader, listener, clock and destructors run under none of them.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_CACHE_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_CACHE_CORE_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/concurrent/concurrent_table.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/loading/bulk_load.h"
#include "weakcache/cache/internal/loading/freshness.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/retention.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

template <typename K, typename V>
struct CacheSettings {
  uint64_t budget;
  size_t shards;
  size_t max_concurrent_loads;
  std::function<uint64_t(const V&)> weigher;
  typename CacheShared<K>::Listener listener;
  Freshness freshness;
};

template <typename K, typename V, typename Hash, typename Equal>
class CacheCore {
 public:
  using Entry = CacheEntry<K>;
  using PendingRemovals = typename Retention<K>::PendingRemovals;
  using OwnedObject = Owned<V>;
  template <typename Key>
  using LookupKeyOf = LookupKey<K, Hash, Equal, Key>;

  static constexpr size_t kMaxShards = 4096;

  CacheCore(CacheSettings<K, V> settings, Hash hash, Equal equal)
      : keys_(std::move(hash), std::move(equal)),
        freshness_(std::move(settings.freshness)),
        shared_(std::make_shared<CacheShared<K>>(std::move(settings.listener))),
        shard_count_(settings.shards),
        shards_(std::make_unique<Shard[]>(settings.shards)),
        weigher_(std::move(settings.weigher)),
        limiter_(settings.max_concurrent_loads),
        retention_(settings.budget, shared_) {
    for (size_t i = 0; i < shard_count_; ++i) shards_[i].table.SetKeepAlive(shared_);
  }
  CacheCore(const CacheCore&) = delete;
  CacheCore& operator=(const CacheCore&) = delete;
  ~CacheCore() { shared_->open.store(false, std::memory_order_relaxed); }  // see the field

  Retention<K>& retention() { return retention_; }
  const Retention<K>& retention() const { return retention_; }

  template <typename Key>
  Ref<V> Get(const Key& key) {
    Ref<V> found = GetIfPresent(key);
    if (found.get() == nullptr) [[unlikely]]
      shared_->counters.CountMiss();
    return found;
  }
  // As well, but to find nothing does not count as a miss.
  template <typename Key>
  Ref<V> GetIfPresent(const Key& key) {
    const LookupKeyOf<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    if (Embedded* const resident = FindFast(location, lookup)) [[likely]]
      return resident->Adopt();
    const auto found = FindSlow(location, lookup);
    return RefAccess::AdoptAs<Ref<V>>(found.pointer, found.block);
  }

  // Has no effect but on the object's count.
  template <typename Key>
  Ref<V> Peek(const Key& key) const {
    const LookupKeyOf<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    const int64_t now = freshness_.NowIfNeeded();
    return location.shard->table.Find(location.hash(), Unexpired(Matching(lookup), now));
  }

  template <typename Key, typename Loader>
  absl::StatusOr<Ref<V>> GetOrLoad(Key&& key, Loader&& loader, uint64_t estimate) {
    const LookupKeyOf<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    if (Embedded* const resident = FindFast(location, lookup)) [[likely]]
      return resident->Adopt();
    return GetOrLoadSlow(location, lookup, std::forward<Key>(key), std::forward<Loader>(loader),
                         estimate);
  }

  // Made is a Ref, which owns an object, or an OwnedObject.
  template <typename Key, typename Made>
  Ref<V> Put(Key&& key, Made made) {
    const uint64_t weight = Weigh(*made);
    const LookupKeyOf<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    PreparedSlot prepared;
    Prepare<!std::is_same_v<Made, Ref<V>>>(location, prepared, std::forward<Key>(key));
    const int64_t now = freshness_.NowIfNeeded();
    SetUp(prepared.cold(), weight, now);

    Table& table = location.shard->table;
    Flights& flights = location.shard->flights;
    Reservation none{retention_};
    TableEntry present;
    PendingRemovals removals(retention_);
    MutexLock lock(table.mutex);
    present =
        table.FindLocked(location.hash(), Matching(prepared.payload().key), removals.deferred);
    auto* const flight = flights.Find(location.hash(), MatchingKey(prepared.payload().key)).flight;
    Ref<V> entered = Enter(table, location.hash(), prepared, made, present,
                           CauseOfReplacing(present, now), none, removals);
    if (flight != nullptr) flights.Supersede(*flight);
    return entered;
  }

  // Also keeps a load under way from entering what it loads.
  template <typename Key>
  bool Invalidate(const Key& key) {
    const LookupKeyOf<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    Table& table = location.shard->table;
    TableEntry present;
    PendingRemovals removals(retention_);
    MutexLock lock(table.mutex);
    // One whose key is not there yet has not begun to load.
    auto* const flight = location.shard->flights.Find(location.hash(), MatchingKey(lookup)).flight;
    if (flight != nullptr) location.shard->flights.Cancel(*flight);
    return RemoveLocked(table, location.hash(), Matching(lookup), RemovalCause::kInvalidated,
                        AnyObject(), present, removals);
  }
  // Only if the object is that of `expected`, a strong or weak reference.
  template <typename Key, typename Expected>
  bool Invalidate(const Key& key, const Expected& expected) {
    const LookupKeyOf<Key> lookup = key;
    return RemoveIf(
        Locate(lookup), Matching(lookup), RemovalCause::kInvalidated,
        [&](const Ref<V>& object) { return HandleTraits<Ref<V>>::SameOwner(object, expected); });
  }

  // Removes the entry if it is still there. The caller is counted in at it.
  bool Remove(const Entry& entry, RemovalCause cause) {
    return RemoveIf(LocateHash(entry.key_hash), Same(entry), cause, AnyObject());
  }

  void CancelLoads() {
    for (size_t i = 0; i < shard_count_; ++i) {
      MutexLock lock(shards_[i].table.mutex);
      shards_[i].flights.CancelAll();
    }
  }

  template <typename Key>
  bool UpdateWeight(const Key& key) {
    const LookupKeyOf<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    PendingRemovals removals(retention_);
    Outcome outcome(freshness_);
    const auto match = Matching(lookup);
    const Ref<V> object = location.shard->table.Find(location.hash(), [&](Slot& slot) {
      if (!match(slot)) return false;
      outcome.AddRef(Table::cold_part(&slot));
      return true;
    });
    if (object.get() == nullptr) return false;
    Entry* const entry = outcome.entry();
    const uint32_t weighing = retention_.BeginWeighing(entry);
    retention_.SetWeight(entry, weighing, Weigh(*object), removals);
    return true;
  }

  // Calls `visit(entry, object)` for each live object; without a lock.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    for (size_t i = 0; i < shard_count_; ++i) {
      Table& table = shards_[i].table;
      typename Table::Position position;
      for (bool more = true; more;) {
        typename Table::Collected collected;
        {
          MutexLock lock(table.mutex);
          more = table.Collect(position, collected);
        }
        while (!collected.empty()) {
          collected.VisitNext([&](const TableEntry& entry) {
            visit(std::as_const(Table::cold_part(entry.slot)), entry.object);
          });
        }
      }
    }
  }
  bool IsExpired(const Entry& entry) const {
    return freshness_.IsExpired(entry, freshness_.NowIfNeeded());
  }

  std::vector<K> RankedKeys(size_t count, bool hottest_first) const {
    struct Held {
      ~Held() {
        for (Entry* const entry : entries) entry->slot->ReleaseStrong();
      }
      const std::vector<Entry*> entries;
    };
    const Held held{retention_.Ranked(count, hottest_first)};
    std::vector<K> keys;
    keys.reserve(held.entries.size());
    for (const Entry* const entry : held.entries) keys.push_back(entry->key);
    return keys;
  }

  // Takes all entries of dead objects out.
  void Purge() const {
    for (size_t i = 0; i < shard_count_; ++i) {
      typename Table::DeferredReleases deferred;
      MutexLock lock(shards_[i].table.mutex);
      shards_[i].table.PurgeUpTo(SIZE_MAX, deferred);
    }
  }

  size_t size() const {
    size_t size = 0;
    for (size_t i = 0; i < shard_count_; ++i) size += shards_[i].table.size();
    return size;
  }

  CacheStats Stats() const {
    CacheStats stats;
    shared_->counters.AddTo(&stats);
    stats.bytes_retained = retention_.bytes();
    for (size_t i = 0; i < shard_count_; ++i) {
      MutexLock lock(shards_[i].table.mutex);
      const size_t entries = shards_[i].table.in_index();
      stats.dead_entries += entries - std::min(entries, shards_[i].table.size());
    }
    return stats;
  }

  // For tests, while all is quiet. Purges, for links' entries weigh something until then.
  void CheckInvariantsForTesting() const {
    Purge();
    for (size_t i = 0; i < shard_count_; ++i) {
      MutexLock lock(shards_[i].table.mutex);
      shards_[i].table.CheckInvariantsForTesting();
      Check(shards_[i].flights.empty(), "CheckInvariantsForTesting", "a load has not ended");
    }
    size_t retained = 0;
    uint64_t retained_bytes = 0;
    uint64_t pinned_bytes = 0;
    ForEach([&](const Entry& entry, const Ref<V>&) {
      Check(!entry.notifying, "CheckInvariantsForTesting", "an entry is stuck on its way out");
      retained += entry.retained() ? 1 : 0;
      if (entry.retained()) {
        retained_bytes += entry.object_weight();
      } else {
        pinned_bytes += CacheCounters::AsPinned(entry.object_weight());
      }
    });
    retention_.CheckInvariantsForTesting(retained, retained_bytes);
    Check(shared_->counters.bytes_pinned() == pinned_bytes, "CheckInvariantsForTesting",
          "the pinned bytes don't add up");
  }

  template <typename Loader>
  std::vector<absl::StatusOr<Ref<V>>> GetAll(absl::Span<const K> keys, Loader& loader) {
    return BulkLoad<CacheCore, K, V, Loader>(*this, keys, loader).Run();
  }

 private:
  template <typename Core, typename Key, typename Object, typename Loader>
  friend class BulkLoad;

  using Table = ConcurrentTable<Ref<V>, CacheKey<K>>;
  using Slot = typename Table::Slot;
  using Embedded = typename Table::Embedded;
  using TableEntry = typename Table::Entry;
  using PreparedSlot = typename Table::PreparedSlot;
  using MutexLock = typename Table::MutexLock;
  using Flights = SingleFlight<LoadOutcome<V>, K, StdAtomics>;
  using Outcome = LookupOutcome<K>;

  struct Shard {
    Table table;
    Flights flights;
  };
  using FlightCompletion = internal::FlightCompletion<Shard, Flights>;
  struct KeyLocation {
    uint32_t hash() const { return static_cast<uint32_t>(key_hash >> kBitsBelowSlotHash); }
    Shard* shard;
    uint64_t key_hash;
  };

  template <typename Lookup>
  KeyLocation Locate(const Lookup& key) const {
    return LocateHash(MixedHash<Hash>(keys_.hash(key)));
  }
  KeyLocation LocateHash(uint64_t hash) const {
    constexpr int kShift = kBitsBelowSlotHash - std::bit_width(kMaxShards);
    return {&shards_[(hash >> kShift) & (shard_count_ - 1)], hash};
  }
  template <typename Lookup>
  auto Matching(const Lookup& key) const {
    if constexpr (kIsCheapToCompare<K, Equal>) {
      return [key](const Slot& slot) { return slot.payload().key == key; };
    } else {
      return [this, &key](const Slot& slot) { return keys_.equal(slot.payload().key, key); };
    }
  }
  // That, and not too old.
  template <typename Match>
  auto Unexpired(Match match, int64_t now) const {
    return [this, match, now](Slot& slot) {
      return match(slot) && (!ages_matter_ || !freshness_.IsExpired(Table::cold_part(&slot), now));
    };
  }
  static auto Same(const Entry& entry) {
    return [&entry](const Slot& slot) { return &slot.payload().key == &entry.key; };
  }
  template <typename Lookup>
  auto MatchingKey(const Lookup& key) const {
    return [this, &key](const K& present) { return keys_.equal(present, key); };
  }

  uint64_t Weigh(const V& object) const { return weigher_(object); }

  // Nearly every hit: an object that the table has created, where it is looked for first, while
  // ages don't matter. Null says nothing. The caller is counted in.
  template <typename Lookup>
  [[gnu::always_inline]] Embedded* FindFast(KeyLocation location, const Lookup& lookup) {
    if (ages_matter_) [[unlikely]]
      return nullptr;
    Embedded* const resident =
        location.shard->table.FindEmbeddedFast(location.hash(), Matching(lookup));
    if (resident == nullptr) [[unlikely]]
      return nullptr;
    if (resident->payload().mark.RecordAccess()) [[likely]] {
      shared_->counters.CountHit();
    } else {
      NoteWeakHit(resident);
    }
    return resident;
  }
  // Any other.
  template <typename Lookup>
  [[gnu::noinline]] auto FindSlow(const KeyLocation& location, const Lookup& lookup) {
    Outcome outcome(freshness_);
    Ref<V> found = Find(location, lookup, outcome);
    if (found.get() != nullptr && !RecordHit(outcome)) found.reset();
    return RefAccess::TakeApart(std::move(found));
  }

  template <typename Lookup>
  Ref<V> Find(const KeyLocation& location, const Lookup& lookup, Outcome& outcome) const {
    const auto match = Matching(lookup);
    return location.shard->table.Find(location.hash(), [&](Slot& slot) {
      if (!match(slot)) return false;
      outcome.Record(Table::cold_part(&slot));
      return true;
    });
  }

  // What is to do about an object that was found. False if it is too old to be found.
  bool RecordHit(const Outcome& outcome) {
    if (outcome.entry() == nullptr) [[likely]] {
      shared_->counters.CountHit();
      return true;
    }
    return RecordHitSlow(outcome);
  }
  [[gnu::noinline]] bool RecordHitSlow(const Outcome& outcome) {
    Entry* const entry = outcome.entry();
    if (outcome.expired()) {
      Remove(*entry, RemovalCause::kExpired);
      return false;
    }
    if (!outcome.weak()) {
      shared_->counters.CountHit();
      return true;
    }
    shared_->counters.CountWeakHit();
    AdmitFound(entry);
    return true;
  }
  // The caller is counted in at it.
  [[gnu::noinline]] void NoteWeakHit(Embedded* resident) {
    shared_->counters.CountWeakHit();
    if (retention_.has_budget()) AdmitFound(&Table::cold_part(resident));
  }
  void AdmitFound(Entry* entry) {
    if (!retention_.Fits(entry->object_weight())) return;
    PendingRemovals removals(retention_);
    retention_.Admit(entry, removals);
  }

  struct AnyObject {
    bool operator()(const Ref<V>&) const { return true; }
  };
  template <typename Match, typename Condition>
  bool RemoveIf(const KeyLocation& location, const Match& match, RemovalCause cause,
                const Condition& condition) {
    TableEntry present;
    PendingRemovals removals(retention_);
    Table& table = location.shard->table;
    MutexLock lock(table.mutex);
    return RemoveLocked(table, location.hash(), match, cause, condition, present, removals);
  }
  template <typename Match, typename Condition>
  bool RemoveLocked(Table& table, uint32_t hash, const Match& match, RemovalCause cause,
                    const Condition& condition, TableEntry& present, PendingRemovals& removals)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    table.PurgeUpTo(Table::kPurgesPerOperation, removals.deferred);
    present = table.FindLocked(hash, match, removals.deferred);
    if (present.slot == nullptr || !condition(present.object)) return false;
    retention_.Remove(&Table::cold_part(present.slot), cause, removals);
    table.Remove(present, removals.deferred);
    return true;
  }

  template <bool kEmbedded, typename Key>
  void Prepare(const KeyLocation& location, PreparedSlot& prepared, Key&& key) {
    {
      Table& table = location.shard->table;
      typename Table::DeferredReleases deferred;
      MutexLock lock(table.mutex);
      table.PurgeUpTo(Table::kPurgesPerOperation, deferred);
      table.template Prepare<kEmbedded>(prepared);
    }
    MakePayload(location, prepared, std::forward<Key>(key));
  }
  template <typename Key>
  void MakePayload(const KeyLocation& location, PreparedSlot& prepared, Key&& key) {
    prepared.MakePayload(std::in_place, std::forward<Key>(key));
    prepared.cold().SetUp(shared_.get(), location.key_hash);
  }
  void SetUp(Entry& entry, uint64_t weight, int64_t now) {
    entry.set_object_weight(weight);
    // Relaxed, both: see the fields.
    entry.written.store(now, std::memory_order_relaxed);
    entry.accessed.store(now, std::memory_order_relaxed);
  }

  RemovalCause CauseOfReplacing(const TableEntry& present, int64_t now) const {
    return present.slot != nullptr && freshness_.IsExpired(Table::cold_part(present.slot), now)
               ? RemovalCause::kExpired
               : RemovalCause::kReplaced;
  }

  static ControlBlock* BlockOfMade(const Ref<V>& made, ControlBlock*) {
    return RefAccess::Block(made);
  }
  static ControlBlock* BlockOfMade(const OwnedObject&, ControlBlock* slot) { return slot; }

  // Bytes that are kept free for a load.
  struct Reservation {
    ~Reservation() {
      if (bytes != 0) retention.GiveBack(bytes);
    }
    Retention<K>& retention;
    uint64_t bytes = 0;
  };

  // In location of `present`, if that is something. Gives the reservation back.
  template <typename Made>
  Ref<V> Enter(Table& table, uint32_t hash, PreparedSlot& prepared, Made& made,
               const TableEntry& present, RemovalCause cause, Reservation& reservation,
               PendingRemovals& removals) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    table.MakeRoom(removals.deferred);
    if (present.slot != nullptr) {
      retention_.Remove(&Table::cold_part(present.slot), cause, removals);
    }
    Entry* const entry = &prepared.cold();
    entry->object = BlockOfMade(made, prepared.slot());
    entry->in_cache = true;
    shared_->counters.Pinned(entry->object_weight());
    Ref<V> object;
    if constexpr (std::is_same_v<Made, Ref<V>>) {
      object = made;
      table.Enter(prepared, hash, object, present, removals.deferred);
    } else {
      object = table.Enter(prepared, hash, made, present, removals.deferred);
    }
    retention_.Admit(entry, removals, std::exchange(reservation.bytes, 0));
    return object;
  }

  void Reserve(Reservation& reservation, uint64_t estimate) {
    if (estimate == 0 || !retention_.Fits(estimate)) return;
    PendingRemovals removals(retention_);
    reservation.bytes = retention_.Reserve(estimate, removals);
  }

  // From the outcome of a load to its end, for the counters.
  class LoadTimer {
   public:
    explicit LoadTimer(const CacheCore& core) : core_(core), began_(core.freshness_.Now()) {
      core_.shared_->counters.LoadBegan();
    }
    ~LoadTimer() { core_.shared_->counters.LoadEnded(core_.freshness_.Now() - began_, succeeded_); }
    void Succeed() { succeeded_ = true; }

   private:
    const CacheCore& core_;
    const absl::Time began_;
    bool succeeded_ = false;
  };

  template <typename Loader>
  using MadeBy = typename MadeOf<V, std::remove_cvref_t<decltype(CallLoader(
                                        std::declval<Loader>(), std::declval<const K&>()))>>::type;

  // Runs the loader and the weigher.
  template <typename Made, typename Loader>
  absl::Status Make(Entry& entry, Loader&& loader, Made& made) {
    LoadTimer timer(*this);
    absl::Status status = LoadInto<V>(
        [&]() -> decltype(auto) { return CallLoader(std::forward<Loader>(loader), entry.key); },
        made);
    if (!status.ok()) return status;
    SetUp(entry, Weigh(*made), freshness_.NowIfNeeded());
    timer.Succeed();
    return status;
  }

  template <typename Lookup, typename Key, typename Loader>
  [[gnu::noinline]] absl::StatusOr<Ref<V>> GetOrLoadSlow(const KeyLocation& location,
                                                         const Lookup& lookup, Key&& key,
                                                         Loader&& loader, uint64_t estimate) {
    Outcome outcome(freshness_);
    Ref<V> found = Find(location, lookup, outcome);
    if (found.get() != nullptr && RecordHit(outcome)) {
      if (outcome.refresh_due() && ClaimRefresh(outcome.entry())) {
        return Refresh(location, std::move(found), outcome.entry(), std::forward<Key>(key),
                       std::forward<Loader>(loader), estimate);
      }
      return found;
    }
    // The old object should not wait for the new one.
    found.reset();
    outcome.Reset();
    shared_->counters.CountMiss();
    return Load(location, lookup, std::forward<Key>(key), std::forward<Loader>(loader), estimate);
  }

  // A miss. Another thread may be at it already, or is done by now.
  template <typename Lookup, typename Key, typename Loader>
  [[gnu::noinline]] absl::StatusOr<Ref<V>> Load(const KeyLocation& location, const Lookup& lookup,
                                                Key&& key, Loader&& loader, uint64_t estimate) {
    using Made = MadeBy<Loader>;
    typename Flights::Flight flight(location.hash());
    PreparedSlot prepared;
    LoadOutcome<V> result;
    LoadPermit permit(limiter_);
    FlightCompletion completion{location.shard, nullptr, result};  // before its key goes
    const StartOutcome outcome = StartOrJoinLoad<!std::is_same_v<Made, Ref<V>>>(
        location, lookup, flight, prepared, completion, permit);
    if (outcome != StartOutcome::kStarted) return Joined(outcome, std::move(result));
    Made made{};
    CatchInto(result, [&] {
      MakePayload(location, prepared, std::forward<Key>(key));
      flight.SetKey(&prepared.payload().key);
      Reservation reservation{retention_};
      Reserve(reservation, estimate);
      result.status = Make(prepared.cold(), std::forward<Loader>(loader), made);
      if (result.status.ok()) EnterLoaded(location, prepared, made, completion, reservation);
    });
    completion.Complete();
    if (!result.status.ok()) return std::move(result.status);
    return std::move(result.object);
  }

  template <bool kEmbedded, typename Lookup>
  StartOutcome StartOrJoinLoad(const KeyLocation& location, const Lookup& lookup,
                               typename Flights::Flight& flight, PreparedSlot& prepared,
                               FlightCompletion& completion, LoadPermit& permit) {
    const int64_t now = freshness_.NowIfNeeded();
    const auto match = Unexpired(Matching(lookup), now);
    // Who has to wait for permit must not have begun.
    if (permit.unlimited()) {
      permit.Acquire();
      const StartOutcome outcome = StartUncontended<kEmbedded>(*location.shard, location.hash(),
                                                               match, flight, prepared, completion);
      if (outcome != StartOutcome::kRefused) return outcome;
    }
    const auto try_permit = [&] { return permit.TryAcquire(); };
    for (;;) {
      const StartOutcome outcome = StartOrJoin<kEmbedded, StdAtomics>(
          *location.shard, location.hash(), match, MatchingKey(lookup), flight, prepared,
          completion.result, try_permit);
      if (outcome == StartOutcome::kStarted) completion.flight = &flight;
      if (outcome != StartOutcome::kRefused) return outcome;
      permit.Acquire();
    }
  }
  static absl::StatusOr<Ref<V>> Joined(StartOutcome outcome, LoadOutcome<V> result) {
    if (outcome == StartOutcome::kRecursive) {
      return absl::FailedPreconditionError("the loader asks for the key that it loads");
    }
    if (result.error != nullptr) std::rethrow_exception(result.error);
    if (!result.status.ok()) return std::move(result.status);
    return std::move(result.object);
  }

  // Unless the key has got another object meanwhile: then that is the result, and `made` goes. If
  // it was invalidated meanwhile, or the other object has gone again, only those that wait get it.
  template <typename Made>
  void EnterLoaded(const KeyLocation& location, PreparedSlot& prepared, Made& made,
                   FlightCompletion& completion, Reservation& reservation) {
    Table& table = location.shard->table;
    LoadOutcome<V>& result = completion.result;
    const int64_t now = freshness_.NowIfNeeded();
    TableEntry present;
    PendingRemovals removals(retention_);
    MutexLock lock(table.mutex);
    const bool cancelled = completion.flight->cancelled();
    if (!cancelled || completion.flight->superseded()) {
      present =
          table.FindLocked(location.hash(), Matching(prepared.payload().key), removals.deferred);
    }
    table.PurgeUpTo(Table::kPurgesPerOperation, removals.deferred);
    if (present.slot != nullptr && !freshness_.IsExpired(Table::cold_part(present.slot), now)) {
      result.object = std::move(present.object);
    } else if (cancelled) {
      lock.unlock();
      result.object = AsRef<V>(std::move(made));
      return;
    } else {
      result.object = Enter(table, location.hash(), prepared, made, present, RemovalCause::kExpired,
                            reservation, removals);
    }
    if (completion.flight->has_spares()) {
      table.template KeepSpare<!std::is_same_v<Made, Ref<V>>>();
    }
    completion.CompleteLocked(table);
  }

  // Relaxed, both: see the field.
  static bool ClaimRefresh(Entry* entry) {
    return !entry->refreshing.exchange(true, std::memory_order_relaxed);
  }
  struct RefreshClaim {
    ~RefreshClaim() { entry->refreshing.store(false, std::memory_order_relaxed); }
    Entry* entry;
  };

  // Replaces an object by a fresh one if it is still there then. If that fails the old one is good
  // enough.
  template <typename Key, typename Loader>
  [[gnu::noinline]] Ref<V> Refresh(const KeyLocation& location, Ref<V> old, Entry* entry, Key&& key,
                                   Loader&& loader, uint64_t estimate) {
    const RefreshClaim claim{entry};
#ifdef __cpp_exceptions
    try {
#endif
      using Made = MadeBy<Loader>;
      Made made{};
      PreparedSlot prepared;
      LoadPermit permit(limiter_);
      permit.Acquire();
      Prepare<!std::is_same_v<Made, Ref<V>>>(location, prepared, std::forward<Key>(key));
      Reservation reservation{retention_};
      Reserve(reservation, estimate);
      if (!Make(prepared.cold(), std::forward<Loader>(loader), made).ok()) return old;
      return EnterRefreshed(location, prepared, made, entry, reservation);
#ifdef __cpp_exceptions
    } catch (...) {
      return old;  // the counters know
    }
#endif
  }
  template <typename Made>
  Ref<V> EnterRefreshed(const KeyLocation& location, PreparedSlot& prepared, Made& made, Entry* old,
                        Reservation& reservation) {
    Table& table = location.shard->table;
    TableEntry present;
    PendingRemovals removals(retention_);
    MutexLock lock(table.mutex);
    present = table.FindLocked(location.hash(), Same(*old), removals.deferred);
    table.PurgeUpTo(Table::kPurgesPerOperation, removals.deferred);
    if (present.slot == nullptr) {
      lock.unlock();
      return AsRef<V>(std::move(made));
    }
    return Enter(table, location.hash(), prepared, made, present, RemovalCause::kReplaced,
                 reservation, removals);
  }

  KeyFunctions<Hash, Equal> keys_;
  const Freshness freshness_;
  const bool ages_matter_ = freshness_.needed();
  const std::shared_ptr<CacheShared<K>> shared_;  // the keep_alive of all tables
  const size_t shard_count_;
  const std::unique_ptr<Shard[]> shards_;
  const std::function<uint64_t(const V&)> weigher_;
  LoadLimiter limiter_;
  Retention<K> retention_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_CACHE_CORE_H_
