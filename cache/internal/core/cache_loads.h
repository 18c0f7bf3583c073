// SPDX-License-Identifier: Apache-2.0
// The loads of a LargeObjectCache: one per key at a time, and at most so many at a time in all.
//
// A thread that misses on a key goes through these steps:
//
//   1. StartOrJoin looks whether there is an object by now, or a flight: another thread's load of
//      the key. It waits for that flight's outcome, which is then its own, or else it enters a
//      flight of its own. If nothing else is being loaded in the shard this takes no lock.
//      It leaves that wait, or the one of step 2, when its caller's deadline comes or its stop
//      token says so; or when it has waited for as long as its soft timeout, if it has an expired
//      object. The caller of a failed load whose own wait has ended does not fail the
//      others: they go through step 1 again, so that one of them loads.
//   2. With an estimate, bytes of the budget are reserved for the object before the flight begins;
//      and a permit is acquired with the flight, if the number of loads is limited. A thread that
//      can't have one waits without a flight, because others would wait for it, perhaps with a
//      permit; after each change of the limiter it goes back to step 1. Likewise a thread that
//      finds no room below a hard limit waits without a flight or a permit (RoomQueue), and goes
//      back to step 1 once it has room, or another thread has loaded its object. A thread that
//      joins a flight gives back what it has reserved.
//   3. The key is constructed in a slot that was prepared with the flight. From then on others can
//      find the flight: they wait for it, or cancel it, because the key is invalidated, or
//      supersede it, because another object is put under the key.
//   4. Make asks the second tier, if there is one (object_tier.h). If that does not have the
//      object, it runs the loader; and then the weigher, without any lock, and measures the time;
//      unless an earlier failure is kept under the key, which is the outcome then
//      (load_failures.h).
//   5. Under a hard limit, the room is made exact. EnterLoaded takes the shard's lock. If the
//      flight is neither cancelled nor superseded the object enters the table. Whatever the
//      outcome, the flight ends and those that wait get it.
//   6. The permit is returned, and a deferred task that waits for it is posted. Then the second
//      tier is written. Only then the continuations are completed, the listener is notified of
//      evictions, and objects die. While the thread has a flight or a permit, no user code runs but
//      the loader, the weigher, the clock, `failure_ttl`, the key's copy, hash and equality, and
//      with a second tier `encode_key`, `decode_key` and the codec's Decode and schema: any other
//      user code may wait for threads that wait for either. It may also end the cache, so it comes
//      last.
//
// An exception of the loader, the weigher or an allocation ends the flight, too: FlightCompletion
// ends it on whatever way the thread leaves, and those that wait throw the same exception.
//
// What a loader returns is a `Made`: an Owned<V>, if the object can live in the table with its
// counts in the slot (an embedded slot); or a Ref, if it comes with counts of its own, to which an
// external slot refers. See load_outcome.h.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_LOADS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_LOADS_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/internal/core/load_failures.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/internal/loading/task_count.h"
#include "weakcache/cache/internal/retention/byte_limit.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Returns the result of an operation in which user code has ended the cache.
inline absl::Status CacheHasEnded() {
  return NoThrowStatus(absl::StatusCode::kAborted,
                       "a destructor or the listener has ended the cache during the call");
}

// Returns the result of a caller that has left.
inline absl::Status LeftStatus(bool cancelled) {
  if (cancelled) {
    return NoThrowStatus(absl::StatusCode::kCancelled,
                         "the caller was cancelled before its object came");
  }
  return NoThrowStatus(absl::StatusCode::kDeadlineExceeded,
                       "the caller's deadline came before its object");
}

inline absl::Status HasLeft(const BoundedWait& wait) { return LeftStatus(wait.cancelled()); }

// What a thread does if another thread's load, for which it waits, has failed.
enum class IfOtherFails {
  kFail,  // in the same way
  kLoad,  // it loads, as if it had come later
};

// Thread-safe. Store is a CacheStore, which outlives this.
template <typename Store>
class CacheLoads {
  class RoomQueue;

 public:
  using K = typename Store::Key;
  using V = typename Store::Value;
  using Entry = typename Store::Entry;
  using Flights = typename Store::Flights;
  using FlightCompletion = internal::FlightCompletion<typename Store::Shard, Flights>;
  using KeyLocation = typename Store::KeyLocation;
  using PreparedSlot = typename Store::PreparedSlot;
  using Reservation = typename Store::Reservation;
  using Result = absl::StatusOr<Ref<V>>;

  // Says whether what a loader makes, a Ref or an Owned<V>, goes to an embedded slot.
  template <typename Made>
  static constexpr bool kIsEmbedded = !std::is_same_v<Made, Ref<V>>;

  // A load whose task runs: see async_load.h.
  class Queued : public DeferrableTask {
   public:
    virtual const typename Flights::Flight& queued_flight() const = 0;
    // Defers the task until there is a permit, and returns kDeferred. Or returns kRefused, if there
    // is a permit by now, or kTaken.
    virtual StartOutcome TryDefer() = 0;

   protected:
    ~Queued() override = default;
  };
  struct QueuedRun {
    Queued& load;
    // Completed when the task is through with the cache.
    typename Flights::EndedContinuations ended = {};
    // The result for those that wait for the queued flight, if that is still there in the end.
    // (This must not allocate: a task that has begun must not fail here.)
    LoadOutcome<V> outcome = {};
    bool deferred = false;  // then it may run again already, on another thread
    // For a load that ends later: makes the cache's end wait until the task has returned.
    std::optional<TaskCount::Running> returning = std::nullopt;
  };

  // `limit`: see LoadLimiter. `tier` may be null.
  CacheLoads(Store& store, size_t limit, typename LoadFailures<Store>::Ttl failure_ttl,
             std::shared_ptr<ObjectTier<K, V>> tier = nullptr)
      : store_(store),
        failures_(store, std::move(failure_ttl)),
        tier_(std::move(tier)),
        limiter_(limit) {}
  CacheLoads(const CacheLoads&) = delete;
  CacheLoads& operator=(const CacheLoads&) = delete;

  Store& store() const { return store_; }
  const LoadFailures<Store>& failures() const { return failures_; }
  LoadLimiter& limiter() { return limiter_; }
  const std::shared_ptr<ObjectTier<K, V>>& tier() const { return tier_; }

  // Measures and counts a load, from its construction on.
  class Timer {
   public:
    explicit Timer(const Store& store) : store_(store), began_(store.freshness().Now()) {
      store_.counters().LoadBegan();
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    ~Timer() {
      if (was_left_) {
        store_.counters().LoadWasLeft();
        return;
      }
      const int64_t ended = ended_.has_value() ? *ended_ : store_.freshness().Now();
      store_.counters().LoadEnded(NanosecondsUntil(ended), ended_.has_value());
    }
    // Ends a load that has succeeded. Returns the time.
    int64_t Succeed() { return ended_.emplace(store_.freshness().Now()); }
    // Ends one that is left to another process: it does not count.
    void Leave() { was_left_ = true; }
    // Returns how long the load took until then: see CacheEntry::load_time.
    float LoadTimeUntil(int64_t now) const { return static_cast<float>(NanosecondsUntil(now)); }

   private:
    // Returns 0 if the clock has been set back.
    int64_t NanosecondsUntil(int64_t now) const {
      if (now <= began_) return 0;
      int64_t time;
      return __builtin_sub_overflow(now, began_, &time) ? INT64_MAX : time;
    }

    const Store& store_;
    const int64_t began_;
    std::optional<int64_t> ended_;
    bool was_left_ = false;
  };

  // Serves a miss, which another thread may have served by now. `absent_as_of` is a version of the
  // table at which there was nothing under the key, if one is known. In a task, `run` is not null:
  // then the result goes to those that wait for the queued flight.
  template <typename Lookup, typename Key, typename Made>
  [[gnu::noinline]] Result Load(const KeyLocation& location, const Lookup& lookup, Key&& key,
                                AnyLoader<K, Made>& loader, const LoadRequest& request,
                                IfOtherFails if_other_fails = IfOtherFails::kFail,
                                uint64_t absent_as_of = kNeverProvedAbsent,
                                QueuedRun* run = nullptr) {
    // User code that runs before the load begins may end the cache.
    const auto sampled = store_.holder_sampler().active() ? store_.shared() : nullptr;
    // Destroyed in reverse order: what others wait for ends before user code runs.
    BoundedWait asker(request.options.deadline, request.options.stop_token);
    std::optional<BoundedWait> other_wait;
    BoundedWait& wait = WaitOf(request, run, asker, other_wait);
    StoppableCall call(asker, request);
    typename Store::PendingRemovals removals;
    typename Store::TableEntry present;
    Made made{};
    TierRecheckPtr<V> recheck;
    typename LoadFailures<Store>::Held held_failures;
    typename Flights::EndedContinuations own_ended;
    TierTurnPtr<V> turn;
    PostLater post;
    const IdleTurnEnd<V> idle_end(turn);
    PreparedSlot prepared;
    typename Flights::Flight flight(location.hash());
    flight.SetInterest(call.interest());
    LoadOutcome<V> outcome;
    FlightCompletion completion{location.shard, nullptr, outcome,
                                run == nullptr ? &own_ended : &run->ended, absent_as_of};
    const FlightEnd flight_end{completion, removals};
    Reservation reservation(store_.retention());
    LoadPermit permit(limiter_, &post, run == nullptr ? nullptr : &run->load);
    const StartOutcome start = StartOrJoin<kIsEmbedded<Made>>(
        location, lookup, flight, prepared, completion, request.options.weight_estimate,
        reservation, permit, if_other_fails, wait, run);
    if (start == StartOutcome::kLeft) return HasLeft(wait);
    if (start != StartOutcome::kStarted) {
      if (run != nullptr) return LeaveTask(start, std::move(outcome), *run);
      if (sampled != nullptr && !sampled->ended()) store_.RecordTaken(location, outcome.object);
      return ResultOfOther(start, std::move(outcome));
    }
    run == nullptr ? call.Watch() : call.RemoveCaller();
    const TierUse<V> use = UseOfTier(request, run, asker, wait, turn, recheck);
    CatchInto(outcome, [&] {
      const StoppableCall::MarkIfAbandoned<LoadOutcome<V>> mark{call, outcome};
      store_.MakePayload(location, prepared, std::forward<Key>(key));
      store_.BeginLoad(flight, prepared, request.options.group);
      outcome.status = MakeUnlessFailed(location, flight, call, prepared.cold(), loader, made, use,
                                        held_failures);
      if (!outcome.status.ok()) return;
      GrowRoomAndEnter(location, prepared, made, present, completion, reservation, removals, use);
    });
    EndLoad(permit, removals, reservation, completion);
    PrepareToReturn(location, outcome, own_ended, run);
    if (!outcome.status.ok()) return std::move(outcome.status);
    return std::move(outcome.object);
  }

  // Returns the result of a load inside the loader of the same key.
  static absl::Status AsksForOwnKey() {
    return NoThrowStatus(absl::StatusCode::kFailedPrecondition,
                         "the loader asks for the key that it loads");
  }
  // Ends a task that does not load. User code may have ended the cache.
  static Result LeaveTask(StartOutcome start, LoadOutcome<V> outcome, QueuedRun& run) {
    run.deferred = start == StartOutcome::kDeferred;
    if (start == StartOutcome::kFound || start == StartOutcome::kJoined) {
      run.outcome = std::move(outcome);
    }
    return absl::AbortedError("the task has nothing to load");
  }

  // Calls LoadPermit::AwaitChange.
  void AwaitPermit(LoadPermit& permit, const BoundedWait& wait) {
    const WakeIfCancelled wake(wait, [this] { limiter_.WakeAll(); });
    permit.AwaitChange(wait);
  }

  // Does the same as Make, unless a failure is kept under the key. Keeps its own failure.
  template <typename Made>
  absl::Status MakeUnlessFailed(
      const KeyLocation& location, typename Flights::Flight& flight, const StoppableCall& call,
      Entry& entry, AnyLoader<K, Made>& loader, Made& made, const TierUse<V>& use,
      typename LoadFailures<Store>::Held& held,
      typename LoadFailures<Store>::Asker asker = LoadFailures<Store>::Asker::kRequest) {
    absl::Status status = failures_.Find(location, entry.key(), held, asker);
    if (!status.ok()) return status;
    status = Make(entry, loader, made, use, &flight);
    if (status.ok() || call.abandoned()) return status;
    failures_.Keep(location, flight, entry, status, held);
    return status;
  }
  // Runs the loader, unless the tier has the object, and then the weigher. Runs neither, and leaves
  // `made` empty, if the recheck has found the cache's own object. `flight` is that of a load, not
  // of a refresh.
  template <typename Made>
  absl::Status Make(Entry& entry, AnyLoader<K, Made>& loader, Made& made, const TierUse<V>& use,
                    typename Flights::Flight* flight = nullptr) {
    Timer timer(store_);
    ObjectTerms terms;
    absl::Status status = tier_ == nullptr
                              ? loader.Load(entry.key(), made, terms)
                              : FindInTierOrLoad(entry, loader, made, terms, use, flight);
    if (!status.ok()) {
      if (use.refresh != nullptr && use.refresh->is_left) timer.Leave();
      return status;
    }
    if (HasFound(use.recheck)) [[unlikely]] {
      timer.Succeed();
      return status;
    }
    const uint64_t weight = store_.WeightOf(*made, terms);
    const int64_t now = timer.Succeed();
    entry.load_time = timer.LoadTimeUntil(now);
    store_.template SetUpLoaded<kIsEmbedded<Made>>(entry, weight, terms, now);
    if (use.turn != nullptr) [[unlikely]]
      SetTermsOf(*use.turn, entry, terms);
    return status;
  }
  // The notices that a load's flight hears.
  class FlightNotices final : public TierNotices {
   public:
    FlightNotices(typename Store::Shard& shard, typename Flights::Flight& flight)
        : shard_(shard), flight_(flight) {}

    void Hear() override {
      typename Store::MutexLock lock(shard_.table.mutex);
      shard_.flights.HearNotices(flight_);
    }
    bool TryEnd() override {
      typename Store::MutexLock lock(shard_.table.mutex);
      if (flight_.noticed()) return false;
      shard_.flights.EndHearing(flight_);
      return true;
    }
    void End() override {
      typename Store::MutexLock lock(shard_.table.mutex);
      shard_.flights.EndHearing(flight_);
    }

   private:
    typename Store::Shard& shard_;
    typename Flights::Flight& flight_;
  };

  // Tells the tier's turn of a load about the object, whose entry has been set up.
  static void SetTermsOf(TierTurn<V>& turn, const Entry& entry, ObjectTerms terms) {
    if (entry.stamp().has_group) terms.group = GroupOf(entry.stamp());
    turn.SetTerms(terms);
  }

  // Enters a loaded object and ends its flight. If another object has been put under the key
  // meanwhile, that one is the outcome, and `made` is dropped. If the key was invalidated
  // meanwhile, or that other object has left again, `made` is the outcome but does not enter the
  // cache. If the hard limit leaves no room for it beside the reservation, the outcome is the same,
  // or an error. `present` takes the entry that is replaced. `turn`, which may be null, gets `made`
  // unless that is older than the cache's last change of the key. If `recheck`, which
  // may be null, has found the cache's own object, enters nothing: see CompleteRecheck.
  template <typename Made>
  void EnterLoaded(const KeyLocation& location, PreparedSlot& prepared, Made& made,
                   typename Store::TableEntry& present, FlightCompletion& completion,
                   Reservation& reservation, typename Store::PendingRemovals& removals,
                   TierTurn<V>* turn, TierRecheck<V>* recheck) {
    if (recheck != nullptr && recheck->has_found()) [[unlikely]]
      return CompleteRecheck(location, prepared, completion, reservation, *recheck);
    auto& table = location.shard->table;
    LoadOutcome<V>& outcome = completion.result;
    const int64_t now = store_.freshness().NowOrWritten(prepared.cold());
    typename Store::MutexLock lock(table.mutex);
    // A flight whose group only its loader has named could not be cancelled.
    const bool cancelled =
        completion.flight->cancelled() || store_.freshness().IsInvalidated(prepared.cold().stamp());
    if (!completion.key_is_absent() && (!cancelled || completion.flight->superseded())) {
      present = table.FindLocked(location.hash(), store_.shards().Matching(prepared.payload().key),
                                 removals.deferred);
    }
    table.PurgeUpTo(Store::Table::kPurgesPerOperation, removals.deferred);
    if (present.slot != nullptr &&
        store_.freshness().IsCurrent(Store::Table::cold_part(present.slot), now, /*own=*/1)) {
      outcome.object = std::move(present.object);
    } else if (cancelled) {
      lock.unlock();
      outcome.object = AsRef<V>(std::move(made));
      return;
    } else {
      outcome.object =
          store_.Enter(table, location.hash(), prepared, made, present, now, reservation, removals);
      if (outcome.object.get() == nullptr) [[unlikely]] {
        lock.unlock();
        if (store_.hard_limit().at_limit == AtHardLimit::kServeUncached) {
          outcome.object = AsRef<V>(std::move(made));
        } else {
          outcome.status = NoRoom(prepared.cold().object_weight());
          return;
        }
        if (turn != nullptr) turn->Put(outcome.object);
        return;
      }
      if (turn != nullptr) [[unlikely]]
        turn->Put(outcome.object);
    }
    if (completion.flight->has_spares()) table.template KeepSpare<kIsEmbedded<Made>>();
    completion.CompleteLocked(table);
  }

  // Makes a load's room exact, and does EnterLoaded.
  template <typename Made>
  void GrowRoomAndEnter(const KeyLocation& location, PreparedSlot& prepared, Made& made,
                        typename Store::TableEntry& present, FlightCompletion& completion,
                        Reservation& reservation, typename Store::PendingRemovals& removals,
                        const TierUse<V>& use) {
    if (!HasFound(use.recheck)) [[likely]]
      store_.template GrowRoom<kIsEmbedded<Made>>(prepared.cold(), reservation, removals);
    EnterLoaded(location, prepared, made, present, completion, reservation, removals,
                use.turn.get(), use.recheck.get());
  }
  // Ends the flight of a load that enters nothing, as its recheck has found the cache's own object.
  void CompleteRecheck(const KeyLocation& location, PreparedSlot& prepared,
                       FlightCompletion& completion, Reservation& reservation,
                       TierRecheck<V>& recheck) {
    const GroupStamp stamp = prepared.cold().stamp();
    const int64_t now = store_.freshness().Now();
    const bool is_ahead = reservation.is_ahead();
    reservation.Release();  // else it could keep the object from being retained
    auto& table = location.shard->table;
    typename Store::MutexLock lock(table.mutex);
    completion.result.object = recheck.Verify(
        {stamp.epoch, GroupOf(stamp), completion.flight->cancelled(), is_ahead, now});
    completion.CompleteLocked(table);
  }

  // Gives back what a load has, in this order, once its outcome is known.
  static void EndLoad(LoadPermit& permit, typename Store::PendingRemovals& removals,
                      Reservation& reservation, FlightCompletion& completion) {
    permit.Release();
    removals.FinishEviction();
    reservation.Release();
    EndFlight(completion, removals);
  }
  // Ends the flight of a load that throws, as EndFlight does.
  struct FlightEnd {
    ~FlightEnd() { EndFlight(completion, removals); }
    FlightCompletion& completion;
    typename Store::PendingRemovals& removals;
  };
  // Ends a flight, unless it has ended. Leaves user code to `removals`.
  static void EndFlight(FlightCompletion& completion, typename Store::PendingRemovals& removals) {
    if (completion.flight == nullptr) return;
    auto& table = completion.shard->table;
    typename Store::MutexLock lock(table.mutex);
    // A prepared slot that is not entered comes back through the retire list: without a purge here,
    // loads that always fail would fill it.
    table.PurgeUpTo(Store::Table::kPurgesPerOperation, removals.deferred);
    completion.CompleteLocked(table);
  }

  // Does steps 1 and 2. In a task, `run` is not null.
  template <bool kEmbedded, typename Lookup>
  StartOutcome StartOrJoin(const KeyLocation& location, const Lookup& lookup,
                           typename Flights::Flight& flight, PreparedSlot& prepared,
                           FlightCompletion& completion, uint64_t estimate,
                           Reservation& reservation, LoadPermit& permit,
                           IfOtherFails if_other_fails, BoundedWait& wait, QueuedRun* run) {
    const bool is_limited = store_.retention().hard_limit().active();
    const bool needs_no_reservation = estimate == 0 && !is_limited;
    bool reserved = needs_no_reservation;
    if (reserved && permit.unlimited() && !wait.ended() && run == nullptr) {
      const StartOutcome start =
          StartOrFindUncontended<kEmbedded>(location, lookup, flight, prepared, completion, permit);
      if (start != StartOutcome::kRefused) return start;
    }
    std::optional<RoomQueue> queue;
    if (is_limited) queue.emplace(store_, location);
    for (;;) {
      const bool ended = wait.ended();
      if (is_limited) queue->BeforeLookUp();
      const auto may_start = [&] { return !ended && reserved && permit.TryAcquire(); };
      const auto before_wait = [&] {
        wait.BeginWait();
        reservation.Release();
        reserved = needs_no_reservation;
      };
      const StartOutcome start = [&] {
        const WakeIfCancelled wake(wait, [&] { WakeAll(*location.shard); });
        return internal::StartOrJoin<kEmbedded, StdAtomics>(
            *location.shard, location.hash(), MatchingNow(lookup),
            store_.shards().MatchingKey(lookup), flight, prepared, completion.result, may_start,
            before_wait, wait, run == nullptr ? nullptr : &run->load.queued_flight());
      }();
      if (start == StartOutcome::kStarted) completion.flight = &flight;
      LoadOutcome<V>& outcome = completion.result;
      if (start == StartOutcome::kJoined && outcome.object.get() == nullptr &&
          (if_other_fails == IfOtherFails::kLoad || outcome.abandoned)) {
        outcome = LoadOutcome<V>();
      } else if (start != StartOutcome::kRefused) {
        return start;
      } else if (ended) {
        return StartOutcome::kLeft;
      } else if (reserved || !permit.available()) {
        // Many may wait for one permit, so they reserve nothing meanwhile.
        before_wait();
        const StartOutcome deferred = AwaitPermitOrDefer(permit, wait, run);
        if (deferred != StartOutcome::kRefused) return deferred;
      } else {
        const absl::StatusOr<bool> now_reserved =
            ReserveWithoutPermit<kEmbedded>(permit, estimate, reservation, queue, wait);
        if (!now_reserved.ok()) return FailToReserve(now_reserved.status(), permit, outcome);
        reserved = *now_reserved;
      }
    }
  }

 private:
  static TierUse<V> UseOfTier(const LoadRequest& request, QueuedRun* run, const BoundedWait& asker,
                              const BoundedWait& wait, TierTurnPtr<V>& turn,
                              TierRecheckPtr<V>& recheck) {
    // No caller waits for a task. Else the wait may be shorter than the asker's own.
    return {run == nullptr ? asker : wait, request.source, request.options.read_tier,
            request.options.write_tier,    turn,           recheck};
  }
  template <typename Made>
  [[gnu::noinline]] absl::Status FindInTierOrLoad(Entry& entry, AnyLoader<K, Made>& loader,
                                                  Made& made, ObjectTerms& terms, TierUse<V> use,
                                                  typename Flights::Flight* flight) {
    std::optional<FlightNotices> notices;
    if (flight != nullptr) {
      use.notices = &notices.emplace(*store_.shards().LocateHash(entry.key_hash).shard, *flight);
    }
    Owned<V> found = tier_->Ask(entry.key(), use, terms);
    if (found == nullptr) {
      if (use.refresh != nullptr && use.refresh->is_left) {
        return NoThrowStatus(absl::StatusCode::kUnavailable, "another process is refreshing it");
      }
      if (HasFound(use.recheck)) return absl::OkStatus();
      // No loader begins after its caller's wait has ended.
      if (use.wait.ended()) return HasLeft(use.wait);
      return loader.Load(entry.key(), made, terms);
    }
    entry.came_from_tier = true;
    if constexpr (kIsEmbedded<Made>) {
      made = std::move(found);
    } else {
      made = AsRef<V>(std::move(found));
    }
    return absl::OkStatus();
  }
  // Does what uses the cache for the last time: the user code that follows may end it.
  void PrepareToReturn(const KeyLocation& location, const LoadOutcome<V>& outcome,
                       typename Flights::EndedContinuations& own_ended, QueuedRun* run) {
    if (run == nullptr) {
      store_.RecordTaken(location, outcome.object);
      own_ended.Prepare();
    } else {
      run->ended.Prepare();
    }
  }
  // Returns the wait of a load for what others do. The asker's, who may run the loader, has no end
  // by its patience: if the load fails after that, the failure is everybody's.
  static BoundedWait& WaitOf(const LoadRequest& request, const QueuedRun* run, BoundedWait& asker,
                             std::optional<BoundedWait>& other) {
    // No caller waits for a task.
    if (run != nullptr) return other.emplace(SteadyTime::max(), StopToken());
    if (request.patience == kEndlessPatience) return asker;
    return other.emplace(request.options.deadline, request.options.stop_token, request.patience);
  }
  template <typename Lookup>
  auto MatchingNow(const Lookup& lookup) const {
    return store_.MatchingUnexpired(lookup, store_.freshness().NowIfNeeded());
  }
  static void WakeAll(typename Store::Shard& shard) { shard.flights.WakeAll(shard.table.mutex); }
  // Starts a flight without the lock, if there is no object and no other flight in the shard.
  template <bool kEmbedded, typename Lookup>
  StartOutcome StartOrFindUncontended(const KeyLocation& location, const Lookup& lookup,
                                      typename Flights::Flight& flight, PreparedSlot& prepared,
                                      FlightCompletion& completion, LoadPermit& permit) {
    uint64_t version = completion.absent_as_of;
    if (version == kNeverProvedAbsent) {
      // Before the flight begins, as it may run destructors.
      auto found = location.shard->table.FindOrProveAbsent(location.hash(), MatchingNow(lookup));
      completion.result.object = std::move(found.object);
      if (completion.result.object.get() != nullptr) return StartOutcome::kFound;
      version = found.version;
    }
    permit.TryAcquire();
    return StartUncontended<kEmbedded>(*location.shard, flight, prepared, completion, version);
  }
  // Waits for a permit, and returns kRefused; or defers the task, and returns what TryDefer does.
  StartOutcome AwaitPermitOrDefer(LoadPermit& permit, BoundedWait& wait, QueuedRun* run) {
    if (run != nullptr) return run->load.TryDefer();
    AwaitPermit(permit, wait);
    return StartOutcome::kRefused;
  }
  template <bool kEmbedded>
  absl::StatusOr<bool> ReserveWithoutPermit(LoadPermit& permit, uint64_t estimate,
                                            Reservation& reservation,
                                            std::optional<RoomQueue>& queue, BoundedWait& wait) {
    // It may have been acquired just before another thread's flight was found.
    permit.Release();
    const auto shared = store_.shared();
    permit.PostTasks();
    if (shared->ended()) return CacheHasEnded();
    return ReserveBytes(shared->WithEntry(estimate, kEmbedded), /*for_budget=*/estimate != 0,
                        reservation, queue, wait);
  }
  static StartOutcome FailToReserve(const absl::Status& status, LoadPermit& permit,
                                    LoadOutcome<V>& outcome) {
    if (absl::IsAborted(status)) permit.ForgetLimiter();
    outcome.status = status;
    return StartOutcome::kJoined;
  }

  // The place of a load among those that wait for room below the hard limit.
  class RoomQueue {
   public:
    using Room = typename Reservation::Room;

    RoomQueue(Store& store, const KeyLocation& location)
        : store_(store),
          shared_(store.shared()),
          table_(location.shard->table),
          waiter_(shared_->hard_limit, location.key_hash) {}

    // Remembers the table's version. Has to be called before each look for the object and for a
    // flight.
    void BeforeLookUp() { version_ = table_.version(); }
    // Waits until there is room. If the object may have come meanwhile, or the caller has to leave,
    // returns kNone, and look_again() is true; any other kNone says that the time is over. User
    // code may run while this thread is not in the queue.
    Room GetRoom(uint64_t weight, Reservation& reservation, BoundedWait& wait) {
      look_again_ = false;
      if (!shared_->hard_limit.HasWaiters()) {
        const Room room = reservation.GetRoom(weight, store_.freshness().RoughNow());
        if (room != Room::kNone) return room;
      }
      if (!MayWait(weight)) return Room::kNone;
      for (;;) {
        const Room room = GetRoomInTurn(weight, reservation);
        if (room != Room::kNone) return room;
        // Another thread's object may have come between the look-up and Join.
        look_again_ = table_.version() != version_ || wait.ended();
        if (look_again_) break;
        const auto event = Await(wait);
        if (event == ByteLimit::Waiter::Event::kRoom) continue;
        look_again_ = event == ByteLimit::Waiter::Event::kEntered || wait.ended();
        break;
      }
      waiter_.Leave();
      return Room::kNone;
    }
    bool look_again() const { return look_again_; }

   private:
    using Clock = std::chrono::steady_clock;

    bool MayWait(uint64_t weight) {
      const absl::Duration wait = store_.hard_limit().wait;
      if (wait == absl::ZeroDuration() || weight > shared_->hard_limit.limit()) return false;
      if (!deadline_.has_value()) {
        const absl::Duration kCentury = absl::Hours(24 * 36500);
        deadline_ = Clock::now() + absl::ToChronoNanoseconds(std::min(wait, kCentury));
      }
      return true;
    }
    ByteLimit::Waiter::Event Await(BoundedWait& wait) {
      wait.BeginWait();
      const WakeIfCancelled wake(wait, [this] { waiter_.Interrupt(); });
      return waiter_.Await(std::min(*deadline_, wait.deadline()));
    }
    // Looks for room. If there is none, this thread is in the queue, and has looked since it
    // joined.
    Room GetRoomInTurn(uint64_t weight, Reservation& reservation) {
      waiter_.Join();
      if (!waiter_.IsFirst()) return Room::kNone;
      const Room room = reservation.GetRoom(
          weight, store_.freshness().RoughNow(), Store::Budget::Effort::kAny,
          [&] { waiter_.Join(); }, [&] { waiter_.Leave(); });
      if (room != Room::kNone) waiter_.Leave();
      return room;
    }

    Store& store_;
    const std::shared_ptr<typename Store::Shared> shared_;  // also after the cache's end
    const typename Store::Table& table_;
    ByteLimit::Waiter waiter_;
    std::optional<Clock::time_point> deadline_;
    uint64_t version_ = 0;
    bool look_again_ = false;
  };

  // Reserves what an object will weigh, in the budget, and below the hard limit if there is one.
  // Returns false if the caller has to look for the object again. User code runs; if it ends the
  // cache, returns Aborted.
  absl::StatusOr<bool> ReserveBytes(uint64_t weight, bool for_budget, Reservation& reservation,
                                    std::optional<RoomQueue>& queue, BoundedWait& wait) {
    using Room = typename Reservation::Room;
    if (queue.has_value()) {
      const Room room = queue->GetRoom(weight, reservation, wait);
      if (room == Room::kCacheEnded) return CacheHasEnded();
      if (room == Room::kNone) {
        if (queue->look_again()) return false;
        if (store_.hard_limit().at_limit == AtHardLimit::kFail) return NoRoom(weight);
      }
    }
    if (for_budget && !reservation.Reserve(weight, store_.freshness().RoughNow())) {
      return CacheHasEnded();
    }
    return true;
  }
  absl::Status NoRoom(uint64_t weight) const {
    return absl::ResourceExhaustedError(
        absl::StrCat("the hard limit of ", store_.retention().hard_limit().limit(),
                     " bytes leaves no room for an object of ", weight));
  }

  // Returns the result of a load that this thread has not made itself. (kLeft: see HasLeft.)
  static Result ResultOfOther(StartOutcome start, LoadOutcome<V> outcome) {
    if (start == StartOutcome::kRecursive) return AsksForOwnKey();
    if (outcome.error != nullptr) std::rethrow_exception(outcome.error);
    if (!outcome.status.ok()) return std::move(outcome.status);
    // A thread that was cancelled, or has exited, in its loader leaves nothing.
    if (outcome.object.get() == nullptr) return absl::AbortedError("the loading thread has ended");
    return std::move(outcome.object);
  }

  Store& store_;
  const LoadFailures<Store> failures_;
  const std::shared_ptr<ObjectTier<K, V>> tier_;  // null if there is none
  LoadLimiter limiter_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_LOADS_H_
