// What a LargeObjectCache consists of: shards of a table that finds objects without a lock, a
// Retention that keeps some of them alive, and the loads under way.
//
// Locks are taken in this order: a shard's, then the retention's or the load limiter's. Weigher,
// loader, listener, clock and destructors run under none of them.
#ifndef WEAKCACHE_CACHE_INTERNAL_CACHE_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_CACHE_CORE_H_

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
#include "cache/cache_stats.h"
#include "cache/internal/bulk_load.h"
#include "cache/internal/cache_entry.h"
#include "cache/internal/concurrent_table.h"
#include "cache/internal/freshness.h"
#include "cache/internal/key_lookup.h"
#include "cache/internal/load_limiter.h"
#include "cache/internal/load_result.h"
#include "cache/internal/retention.h"
#include "cache/internal/single_flight.h"
#include "weakref/handle_traits.h"
#include "weakref/internal/check.h"
#include "weakref/internal/control_block.h"
#include "weakref/ref.h"

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
  using Departures = typename Retention<K>::Departures;
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
    for (size_t i = 0; i < shard_count_; ++i) shards_[i].table.SetCompanion(shared_);
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
    const Place place = PlaceOf(lookup);
    if (Resident* const resident = FindOrdinary(place, lookup)) [[likely]]
      return resident->Adopt();
    const auto found = FindUnusual(place, lookup);
    return RefAccess::AdoptAs<Ref<V>>(found.pointer, found.block);
  }

  // Has no effect but on the object's count.
  template <typename Key>
  Ref<V> Peek(const Key& key) const {
    const LookupKeyOf<Key> lookup = key;
    const Place place = PlaceOf(lookup);
    const int64_t now = freshness_.NowIfNeeded();
    return place.shard->table.Find(place.hash(), Fresh(Matching(lookup), now));
  }

  template <typename Key, typename Loader>
  absl::StatusOr<Ref<V>> GetOrLoad(Key&& key, Loader&& loader, uint64_t estimate) {
    const LookupKeyOf<Key> lookup = key;
    const Place place = PlaceOf(lookup);
    if (Resident* const resident = FindOrdinary(place, lookup)) [[likely]]
      return resident->Adopt();
    return GetUnusualOrLoad(place, lookup, std::forward<Key>(key), std::forward<Loader>(loader),
                            estimate);
  }

  // Made is a Ref, which owns an object, or an OwnedObject.
  template <typename Key, typename Made>
  Ref<V> Put(Key&& key, Made made) {
    const uint64_t weight = Weigh(*made);
    const LookupKeyOf<Key> lookup = key;
    const Place place = PlaceOf(lookup);
    Prepared prepared;
    Prepare<!std::is_same_v<Made, Ref<V>>>(place, prepared, std::forward<Key>(key));
    const int64_t now = freshness_.NowIfNeeded();
    SetUp(prepared.cold(), weight, now);

    Table& table = place.shard->table;
    Flights& flights = place.shard->flights;
    Reservation none{retention_};
    TableEntry present;
    Departures departures(retention_);
    MutexLock lock(table.mutex);
    present =
        table.FindLocked(place.hash(), Matching(prepared.payload().key), departures.postponed);
    auto* const flight = flights.Find(place.hash(), MatchingKey(prepared.payload().key)).flight;
    Ref<V> entered = Enter(table, place.hash(), prepared, made, present,
                           CauseOfReplacing(present, now), none, departures);
    if (flight != nullptr) flights.Overtake(*flight);
    return entered;
  }

  // Also keeps a load under way from entering what it loads.
  template <typename Key>
  bool Invalidate(const Key& key) {
    const LookupKeyOf<Key> lookup = key;
    const Place place = PlaceOf(lookup);
    Table& table = place.shard->table;
    TableEntry present;
    Departures departures(retention_);
    MutexLock lock(table.mutex);
    // One whose key is not there yet has not begun to load.
    auto* const flight = place.shard->flights.Find(place.hash(), MatchingKey(lookup)).flight;
    if (flight != nullptr) place.shard->flights.Cancel(*flight);
    return RemoveLocked(table, place.hash(), Matching(lookup), RemovalCause::kInvalidated,
                        AnyObject(), present, departures);
  }
  // Only if the object is that of `expected`, a strong or weak reference.
  template <typename Key, typename Expected>
  bool Invalidate(const Key& key, const Expected& expected) {
    const LookupKeyOf<Key> lookup = key;
    return RemoveIf(
        PlaceOf(lookup), Matching(lookup), RemovalCause::kInvalidated,
        [&](const Ref<V>& object) { return HandleTraits<Ref<V>>::SameOwner(object, expected); });
  }

  // Removes the entry if it is still there. The caller is counted in at it.
  bool Remove(const Entry& entry, RemovalCause cause) {
    return RemoveIf(PlaceOfHash(entry.key_hash), Same(entry), cause, AnyObject());
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
    const Place place = PlaceOf(lookup);
    Departures departures(retention_);
    Sighting sighting(freshness_);
    const auto match = Matching(lookup);
    const Ref<V> object = place.shard->table.Find(place.hash(), [&](Slot& slot) {
      if (!match(slot)) return false;
      sighting.Hold(Table::ColdOf(&slot));
      return true;
    });
    if (object.get() == nullptr) return false;
    Entry* const entry = sighting.entry();
    const uint32_t weighing = retention_.BeginWeighing(entry);
    retention_.SetWeight(entry, weighing, Weigh(*object), departures);
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
            visit(std::as_const(Table::ColdOf(entry.slot)), entry.object);
          });
        }
      }
    }
  }
  bool IsStale(const Entry& entry) const {
    return freshness_.IsStale(entry, freshness_.NowIfNeeded());
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
      typename Table::Postponed postponed;
      MutexLock lock(shards_[i].table.mutex);
      shards_[i].table.PurgeUpTo(SIZE_MAX, postponed);
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
      stats.expired_unpurged += entries - std::min(entries, shards_[i].table.size());
    }
    return stats;
  }

  // For tests, while all is quiet. Purges, for links' entries weigh something until then.
  void Validate() const {
    Purge();
    for (size_t i = 0; i < shard_count_; ++i) {
      MutexLock lock(shards_[i].table.mutex);
      shards_[i].table.Validate();
      Check(shards_[i].flights.empty(), "Validate", "a load has not ended");
    }
    size_t retained = 0;
    uint64_t retained_bytes = 0;
    uint64_t pinned_bytes = 0;
    ForEach([&](const Entry& entry, const Ref<V>&) {
      Check(!entry.departing, "Validate", "an entry is stuck on its way out");
      retained += entry.retained() ? 1 : 0;
      if (entry.retained()) {
        retained_bytes += entry.object_weight();
      } else {
        pinned_bytes += CacheCounters::AsPinned(entry.object_weight());
      }
    });
    retention_.Validate(retained, retained_bytes);
    Check(shared_->counters.bytes_pinned() == pinned_bytes, "Validate",
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
  using Resident = typename Table::Resident;
  using TableEntry = typename Table::Entry;
  using Prepared = typename Table::Prepared;
  using MutexLock = typename Table::MutexLock;
  using Flights = SingleFlight<LandedLoad<V>, K, StdAtomics>;
  using Sighting = EntrySighting<K>;

  struct Shard {
    Table table;
    Flights flights;
  };
  using Landing = internal::Landing<Shard, Flights>;
  struct Place {
    uint32_t hash() const { return static_cast<uint32_t>(key_hash >> kBitsBelowSlotHash); }
    Shard* shard;
    uint64_t key_hash;
  };

  template <typename Lookup>
  Place PlaceOf(const Lookup& key) const {
    return PlaceOfHash(MixedHash<Hash>(keys_.hash(key)));
  }
  Place PlaceOfHash(uint64_t hash) const {
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
  auto Fresh(Match match, int64_t now) const {
    return [this, match, now](Slot& slot) {
      return match(slot) && (!ages_matter_ || !freshness_.IsStale(Table::ColdOf(&slot), now));
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
  [[gnu::always_inline]] Resident* FindOrdinary(Place place, const Lookup& lookup) {
    if (ages_matter_) [[unlikely]]
      return nullptr;
    Resident* const resident = place.shard->table.FindResident(place.hash(), Matching(lookup));
    if (resident == nullptr) [[unlikely]]
      return nullptr;
    if (resident->payload().mark.Touch()) [[likely]] {
      shared_->counters.CountHit();
    } else {
      NoteWeakHit(resident);
    }
    return resident;
  }
  // Any other.
  template <typename Lookup>
  [[gnu::noinline]] auto FindUnusual(const Place& place, const Lookup& lookup) {
    Sighting sighting(freshness_);
    Ref<V> found = Find(place, lookup, sighting);
    if (found.get() != nullptr && !Settle(sighting)) found.reset();
    return RefAccess::TakeApart(std::move(found));
  }

  template <typename Lookup>
  Ref<V> Find(const Place& place, const Lookup& lookup, Sighting& sighting) const {
    const auto match = Matching(lookup);
    return place.shard->table.Find(place.hash(), [&](Slot& slot) {
      if (!match(slot)) return false;
      sighting.See(Table::ColdOf(&slot));
      return true;
    });
  }

  // What is to do about an object that was found. False if it is too old to be found.
  bool Settle(const Sighting& sighting) {
    if (sighting.entry() == nullptr) [[likely]] {
      shared_->counters.CountHit();
      return true;
    }
    return SettleUnusual(sighting);
  }
  [[gnu::noinline]] bool SettleUnusual(const Sighting& sighting) {
    Entry* const entry = sighting.entry();
    if (sighting.stale()) {
      Remove(*entry, RemovalCause::kAge);
      return false;
    }
    if (!sighting.weak()) {
      shared_->counters.CountHit();
      return true;
    }
    shared_->counters.CountWeakHit();
    AdmitFound(entry);
    return true;
  }
  // The caller is counted in at it.
  [[gnu::noinline]] void NoteWeakHit(Resident* resident) {
    shared_->counters.CountWeakHit();
    if (retention_.has_budget()) AdmitFound(&Table::ColdOf(resident));
  }
  void AdmitFound(Entry* entry) {
    if (!retention_.Fits(entry->object_weight())) return;
    Departures departures(retention_);
    retention_.Admit(entry, departures);
  }

  struct AnyObject {
    bool operator()(const Ref<V>&) const { return true; }
  };
  template <typename Match, typename Condition>
  bool RemoveIf(const Place& place, const Match& match, RemovalCause cause,
                const Condition& condition) {
    TableEntry present;
    Departures departures(retention_);
    Table& table = place.shard->table;
    MutexLock lock(table.mutex);
    return RemoveLocked(table, place.hash(), match, cause, condition, present, departures);
  }
  template <typename Match, typename Condition>
  bool RemoveLocked(Table& table, uint32_t hash, const Match& match, RemovalCause cause,
                    const Condition& condition, TableEntry& present, Departures& departures)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    table.PurgeUpTo(Table::kPurgesPerOperation, departures.postponed);
    present = table.FindLocked(hash, match, departures.postponed);
    if (present.slot == nullptr || !condition(present.object)) return false;
    retention_.Remove(&Table::ColdOf(present.slot), cause, departures);
    table.Remove(present, departures.postponed);
    return true;
  }

  template <bool kResident, typename Key>
  void Prepare(const Place& place, Prepared& prepared, Key&& key) {
    {
      Table& table = place.shard->table;
      typename Table::Postponed postponed;
      MutexLock lock(table.mutex);
      table.PurgeUpTo(Table::kPurgesPerOperation, postponed);
      table.template Prepare<kResident>(prepared);
    }
    MakePayload(place, prepared, std::forward<Key>(key));
  }
  template <typename Key>
  void MakePayload(const Place& place, Prepared& prepared, Key&& key) {
    prepared.MakePayload(std::in_place, std::forward<Key>(key));
    prepared.cold().SetUp(shared_.get(), place.key_hash);
  }
  void SetUp(Entry& entry, uint64_t weight, int64_t now) {
    entry.set_object_weight(weight);
    // Relaxed, both: see the fields.
    entry.written.store(now, std::memory_order_relaxed);
    entry.accessed.store(now, std::memory_order_relaxed);
  }

  RemovalCause CauseOfReplacing(const TableEntry& present, int64_t now) const {
    return present.slot != nullptr && freshness_.IsStale(Table::ColdOf(present.slot), now)
               ? RemovalCause::kAge
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

  // In place of `present`, if that is something. Gives the reservation back.
  template <typename Made>
  Ref<V> Enter(Table& table, uint32_t hash, Prepared& prepared, Made& made,
               const TableEntry& present, RemovalCause cause, Reservation& reservation,
               Departures& departures) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    table.MakeRoom(departures.postponed);
    if (present.slot != nullptr) {
      retention_.Remove(&Table::ColdOf(present.slot), cause, departures);
    }
    Entry* const entry = &prepared.cold();
    entry->object = BlockOfMade(made, prepared.slot());
    entry->attached = true;
    shared_->counters.Pinned(entry->object_weight());
    Ref<V> object;
    if constexpr (std::is_same_v<Made, Ref<V>>) {
      object = made;
      table.Enter(prepared, hash, object, present, departures.postponed);
    } else {
      object = table.Enter(prepared, hash, made, present, departures.postponed);
    }
    retention_.Admit(entry, departures, std::exchange(reservation.bytes, 0));
    return object;
  }

  void Reserve(Reservation& reservation, uint64_t estimate) {
    if (estimate == 0 || !retention_.Fits(estimate)) return;
    Departures departures(retention_);
    reservation.bytes = retention_.Reserve(estimate, departures);
  }

  // From the beginning of a load to its end, for the counters.
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
  [[gnu::noinline]] absl::StatusOr<Ref<V>> GetUnusualOrLoad(const Place& place,
                                                            const Lookup& lookup, Key&& key,
                                                            Loader&& loader, uint64_t estimate) {
    Sighting sighting(freshness_);
    Ref<V> found = Find(place, lookup, sighting);
    if (found.get() != nullptr && Settle(sighting)) {
      if (sighting.refresh_due() && ClaimRefresh(sighting.entry())) {
        return Refresh(place, std::move(found), sighting.entry(), std::forward<Key>(key),
                       std::forward<Loader>(loader), estimate);
      }
      return found;
    }
    // The old object should not wait for the new one.
    found.reset();
    sighting.Reset();
    shared_->counters.CountMiss();
    return Load(place, lookup, std::forward<Key>(key), std::forward<Loader>(loader), estimate);
  }

  // A miss. Another thread may be at it already, or is done by now.
  template <typename Lookup, typename Key, typename Loader>
  [[gnu::noinline]] absl::StatusOr<Ref<V>> Load(const Place& place, const Lookup& lookup, Key&& key,
                                                Loader&& loader, uint64_t estimate) {
    using Made = MadeBy<Loader>;
    typename Flights::Flight flight(place.hash());
    Prepared prepared;
    LandedLoad<V> result;
    LoadLimiter::Leave leave(limiter_);
    Landing landing{place.shard, nullptr, result};  // before its key goes
    const Beginning beginning = BeginOrJoinLoad<!std::is_same_v<Made, Ref<V>>>(
        place, lookup, flight, prepared, landing, leave);
    if (beginning != Beginning::kBegun) return Joined(beginning, std::move(result));
    Made made{};
    CatchInto(result, [&] {
      MakePayload(place, prepared, std::forward<Key>(key));
      flight.SetKey(&prepared.payload().key);
      Reservation reservation{retention_};
      Reserve(reservation, estimate);
      result.status = Make(prepared.cold(), std::forward<Loader>(loader), made);
      if (result.status.ok()) EnterLoaded(place, prepared, made, landing, reservation);
    });
    landing.Land();
    if (!result.status.ok()) return std::move(result.status);
    return std::move(result.object);
  }

  template <bool kResident, typename Lookup>
  Beginning BeginOrJoinLoad(const Place& place, const Lookup& lookup,
                            typename Flights::Flight& flight, Prepared& prepared, Landing& landing,
                            LoadLimiter::Leave& leave) {
    const int64_t now = freshness_.NowIfNeeded();
    const auto match = Fresh(Matching(lookup), now);
    // Who has to wait for leave must not have begun.
    if (leave.is_free()) {
      leave.Acquire();
      const Beginning beginning =
          BeginAlone<kResident>(*place.shard, place.hash(), match, flight, prepared, landing);
      if (beginning != Beginning::kRefused) return beginning;
    }
    const auto try_leave = [&] { return leave.TryAcquire(); };
    for (;;) {
      const Beginning beginning =
          BeginOrJoin<kResident, StdAtomics>(*place.shard, place.hash(), match, MatchingKey(lookup),
                                             flight, prepared, landing.result, try_leave);
      if (beginning == Beginning::kBegun) landing.flight = &flight;
      if (beginning != Beginning::kRefused) return beginning;
      leave.Acquire();
    }
  }
  static absl::StatusOr<Ref<V>> Joined(Beginning beginning, LandedLoad<V> result) {
    if (beginning == Beginning::kRecursive) {
      return absl::FailedPreconditionError("the loader asks for the key that it loads");
    }
    if (result.error != nullptr) std::rethrow_exception(result.error);
    if (!result.status.ok()) return std::move(result.status);
    return std::move(result.object);
  }

  // Unless the key has got another object meanwhile: then that is the result, and `made` goes. If
  // it was invalidated meanwhile, or the other object has gone again, only those that wait get it.
  template <typename Made>
  void EnterLoaded(const Place& place, Prepared& prepared, Made& made, Landing& landing,
                   Reservation& reservation) {
    Table& table = place.shard->table;
    LandedLoad<V>& result = landing.result;
    const int64_t now = freshness_.NowIfNeeded();
    TableEntry present;
    Departures departures(retention_);
    MutexLock lock(table.mutex);
    const bool cancelled = landing.flight->cancelled();
    if (!cancelled || landing.flight->overtaken()) {
      present =
          table.FindLocked(place.hash(), Matching(prepared.payload().key), departures.postponed);
    }
    table.PurgeUpTo(Table::kPurgesPerOperation, departures.postponed);
    if (present.slot != nullptr && !freshness_.IsStale(Table::ColdOf(present.slot), now)) {
      result.object = std::move(present.object);
    } else if (cancelled) {
      lock.unlock();
      result.object = AsRef<V>(std::move(made));
      return;
    } else {
      result.object = Enter(table, place.hash(), prepared, made, present, RemovalCause::kAge,
                            reservation, departures);
    }
    if (landing.flight->has_spares()) {
      table.template KeepSpare<!std::is_same_v<Made, Ref<V>>>();
    }
    landing.LandLocked(table);
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
  [[gnu::noinline]] Ref<V> Refresh(const Place& place, Ref<V> old, Entry* entry, Key&& key,
                                   Loader&& loader, uint64_t estimate) {
    const RefreshClaim claim{entry};
#ifdef __cpp_exceptions
    try {
#endif
      using Made = MadeBy<Loader>;
      Made made{};
      Prepared prepared;
      LoadLimiter::Leave leave(limiter_);
      leave.Acquire();
      Prepare<!std::is_same_v<Made, Ref<V>>>(place, prepared, std::forward<Key>(key));
      Reservation reservation{retention_};
      Reserve(reservation, estimate);
      if (!Make(prepared.cold(), std::forward<Loader>(loader), made).ok()) return old;
      return EnterRefreshed(place, prepared, made, entry, reservation);
#ifdef __cpp_exceptions
    } catch (...) {
      return old;  // the counters know
    }
#endif
  }
  template <typename Made>
  Ref<V> EnterRefreshed(const Place& place, Prepared& prepared, Made& made, Entry* old,
                        Reservation& reservation) {
    Table& table = place.shard->table;
    TableEntry present;
    Departures departures(retention_);
    MutexLock lock(table.mutex);
    present = table.FindLocked(place.hash(), Same(*old), departures.postponed);
    table.PurgeUpTo(Table::kPurgesPerOperation, departures.postponed);
    if (present.slot == nullptr) {
      lock.unlock();
      return AsRef<V>(std::move(made));
    }
    return Enter(table, place.hash(), prepared, made, present, RemovalCause::kReplaced, reservation,
                 departures);
  }

  KeyFunctions<Hash, Equal> keys_;
  const Freshness freshness_;
  const bool ages_matter_ = freshness_.needed();
  const std::shared_ptr<CacheShared<K>> shared_;  // the companion of all tables
  const size_t shard_count_;
  const std::unique_ptr<Shard[]> shards_;
  const std::function<uint64_t(const V&)> weigher_;
  LoadLimiter limiter_;
  Retention<K> retention_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CACHE_CORE_H_
