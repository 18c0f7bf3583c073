// SPDX-License-Identifier: Apache-2.0
// Refreshes an object of a LargeObjectCache that has passed `refresh_after_write`.
//
// Such an object is stale, not expired: every look-up still gets it. The first GetOrLoad that finds
// it stale also loads a new object, on its own thread, or has the cache's executor load it;
// likewise the first GetOrLoadAsync, whose own executor loads it then (refresh_task.h):
//
//   1. LookupOutcome, under the look-up's reference, sees that a refresh is due and that no other
//      thread has claimed it, and holds the entry.
//   2. RefreshClaim::Claim lets one thread win. The others return the stale object at once. Nobody
//      wins once the entry has left the cache: its object has been refreshed already, or replaced.
//   3. Refresh prepares a slot and runs the loader like a load (see cache_loads.h). Its flight is
//      among the shard's refreshes, where nobody waits for it, but it can be cancelled. So a miss
//      on the same key, after the stale object has been invalidated, may load beside it. If the
//      number of loads is limited and no permit is to be had, there is no refresh for now: a hit
//      waits for nobody.
//   4. EnterRefreshed takes the shard's lock and replaces the stale entry by the new one, if it is
//      that very entry which is still in the table, and the flight has not been cancelled. If
//      another object has come under the key meanwhile, that one is newer: it is the result, and
//      the loaded one is dropped. If there is none, because the key was invalidated, the caller
//      gets the loaded one, which is not kept. InvalidateIf and Clear cancel all refreshes that may
//      concern them before they look at the objects: a refresh could enter its object where they
//      have looked already. Until they have removed the stale entry, a cancelled refresh returns
//      the stale object. SetExpiry leaves the stale entry there. So with a second tier it marks
//      that entry: then what a refresh has read from the tier, which has the former life, is
//      dropped.
//
// If the refresh fails, by a status or an exception, its caller gets the stale object; the failure
// only shows in the figures. The object becomes due again later, each time after a longer time, and
// the claim is released, so that then a GetOrLoad tries again, until the object expires by time. A
// thread that is cancelled in the loader ends as in a load.
//
// With a second tier, processes whose copies become due at the same moment load one new object
// (TieredObjects::AskForRefresh). In place of the loader's object step 3 takes what another process
// has put since. If another one has the lease of the key, the refresh is left to it: the object
// becomes due again a second later, and nothing has failed. After ten times in a row the refresh is
// left to nobody, and calls the loader unless there is a new entry. Step 4 holds for what comes
// from the tier as well: any change of the key, by this process or by a notice of another's, has
// removed, replaced or marked the stale entry. An explicit Refresh only takes the lease, if that is
// free.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_REFRESH_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_REFRESH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "weakcache/cache/internal/core/freshness.h"
#include "weakcache/cache/internal/core/refresh_task.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/background_tasks.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Thread-safe. Loads is a CacheLoads, which outlives this.
template <typename Loads>
class CacheRefresh {
 public:
  using K = typename Loads::K;
  using V = typename Loads::V;
  using Result = typename Loads::Result;
  using Entry = typename Loads::Entry;
  using KeyLocation = typename Loads::KeyLocation;
  using PreparedSlot = typename Loads::PreparedSlot;
  using Reservation = typename Loads::Reservation;
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;
  using Effort = typename Store::Budget::Effort;

  explicit CacheRefresh(Loads& loads)
      : loads_(loads), store_(loads.store()), tasks_(std::make_shared<BackgroundTasks>()) {}
  CacheRefresh(const CacheRefresh&) = delete;
  CacheRefresh& operator=(const CacheRefresh&) = delete;

  // Returns the object that the cache has after the refresh, or how that has failed. The caller has
  // claimed the refresh, and holds a reference to the entry's slot.
  template <typename Key, typename Made>
  [[gnu::noinline]] Result Refresh(const KeyLocation& location, Entry* entry, Key&& key,
                                   AnyLoader<K, Made>& loader, const RefreshTerms& terms) {
    const auto shared = store_.shared();  // destructors of what was loaded may end the cache
    const ClaimGuard guard{store_.freshness(), *shared, *entry};
    Ending ending = Ending::kDone;
    Result result = CatchErrors(
        [&] {
          return LoadAndEnter(location, entry, std::forward<Key>(key), loader, terms, ending);
        },
        [&] {
          ending = Ending::kFailed;
          return Result(absl::UnknownError("the load threw"));
        });
    if (ending == Ending::kDone || shared->ended()) return result;
    ending == Ending::kLeft ? store_.freshness().LeaveRefresh(*entry) : BackOff(*entry);
    return result;
  }
  // Does the same in a task. Returns false if there is no free permit, or no task could be posted.
  template <typename Key, typename Made, typename Executor>
  [[gnu::noinline]] bool Post(const KeyLocation& location, Entry* entry, Key&& key,
                              AnyLoader<K, Made>& loader, const RefreshTerms& terms,
                              Executor&& executor) {
    using Task = RefreshTask<CacheRefresh, Made>;
    std::shared_ptr<Task> task = CatchErrors(
        [&] {
          if (!loader.can_outlive_call() || !LoadPermit(loads_.limiter()).available()) {
            return std::shared_ptr<Task>();
          }
          return std::make_shared<Task>(*this, tasks_, location, entry, std::forward<Key>(key),
                                        loader.ForTask(), terms);
        },
        [] { return std::shared_ptr<Task>(); });
    if (task == nullptr) {
      store_.freshness().ReleaseRefresh(*entry);
      return false;
    }
    // A task that an executor refuses by an exception is dropped.
    return CatchErrors(
        [&] {
          std::invoke(executor, [task = std::move(task)] { task->Run(); });
          return true;
        },
        [] { return false; });
  }
  // Makes the object due again later, after a refresh that has failed. The caller has the claim.
  void BackOff(Entry& entry) const {
    store_.freshness().BackOff(entry, entry.refresh.CountFailure());
  }
  // Does the same for a task that has been dropped.
  void GiveUp(Entry& entry) const {
    BackOff(entry);
    store_.freshness().ReleaseRefresh(entry);
  }
  // Lets no task begin any more, at the cache's end.
  void RefuseTasks() { tasks_->RefuseTasks(); }
  // Does the same, and waits for those that run.
  void CloseTasks() { tasks_->Close(); }
  // For other tasks that nobody waits for.
  const std::shared_ptr<BackgroundTasks>& tasks() const { return tasks_; }

 private:
  enum class Ending {
    kDone,    // or nothing was done, as there was no permit or no room
    kFailed,  // the loader, or there was no room for its object
    kLeft     // to another process
  };

  struct ClaimGuard {
    ~ClaimGuard() {
      if (!shared.ended()) freshness.ReleaseRefresh(entry);
    }
    const Freshness& freshness;
    const typename Store::Shared& shared;
    Entry& entry;
  };

  // Lists a refresh among those of its shard, so that it can be cancelled, until its thread leaves
  // on whatever way.
  class Registration {
   public:
    Registration(typename Store::Shard& shard, uint32_t hash)
        : shard_(shard), hash_(hash), flight_(hash) {}
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;
    ~Registration() {
      if (!under_way_) return;
      typename Store::MutexLock lock(shard_.table.mutex);
      End();
    }

    // Both: for a thread that holds the shard's lock. End returns whether it has been cancelled.
    void Begin() {
      const auto none = [](const typename Loads::K&) { return false; };
      under_way_ = shard_.refreshes.Start(flight_, shard_.refreshes.Find(hash_, none));
    }
    bool End() {
      under_way_ = false;
      shard_.refreshes.End(flight_, LoadOutcome<V>());
      return flight_.cancelled();
    }
    typename Loads::Flights::Flight& flight() { return flight_; }

   private:
    typename Store::Shard& shard_;
    const uint32_t hash_;
    typename Loads::Flights::Flight flight_;
    bool under_way_ = false;
  };

  // Acquires a permit, and room below the hard limit. Returns false if either is not to be had now.
  // Bytes are reserved without a permit, as user code runs then.
  template <bool kEmbedded>
  bool AcquirePermit(LoadPermit& permit, uint64_t estimate, Reservation& reservation) {
    if (!permit.TryAcquire()) return false;
    ByteLimit& hard_limit = store_.retention().hard_limit();
    if (estimate == 0 && !hard_limit.active()) return true;
    permit.Release();
    const auto shared = store_.shared();
    permit.PostTasks();
    if (shared->ended()) return false;
    const uint64_t weight = shared->WithEntry(estimate, kEmbedded);
    const int64_t now = store_.freshness().RoughNow();
    if (hard_limit.active()) {
      // Those that wait for room come first.
      if (hard_limit.HasWaiters()) return false;
      const auto room = reservation.GetRoom(weight, now, Effort::kIdle);
      if (room != Reservation::Room::kGiven) return false;
    }
    if (estimate != 0 && !reservation.Reserve(weight, now)) return false;
    return permit.TryAcquire();
  }

  // Makes the object, as step 3 says, or says why not.
  template <typename Made>
  absl::Status Make(PreparedSlot& prepared, Entry& stale, AnyLoader<K, Made>& loader, Made& made,
                    const RefreshTerms& terms, TierTurnPtr<V>& turn, Ending& ending) {
    const BoundedWait nobody(SteadyTime::max(), StopToken());
    TierRecheckPtr<V> none;  // a refresh replaces the object
    TierUse<V> use{nobody, nullptr, /*reads=*/false, terms.writes_tier, turn, none};
    TierRefresh in_tier;
    if (terms.reads_tier && loads_.tier() != nullptr) [[unlikely]] {
      in_tier.age_limit = store_.freshness().AgeLimitInTier(stale);
      in_tier.may_be_left = stale.refresh.may_be_left();
      use.reads = true;
      use.refresh = &in_tier;
      stale.refresh.BeginReading();
    }
    absl::Status status = loads_.Make(prepared.cold(), loader, made, use);
    if (!in_tier.is_left) stale.refresh.EndLeaving();
    if (!status.ok()) ending = in_tier.is_left ? Ending::kLeft : Ending::kFailed;
    return status;
  }

  // Does Refresh. Says how it has ended, unless this throws.
  template <typename Key, typename Made>
  Result LoadAndEnter(const KeyLocation& location, Entry* entry, Key&& key,
                      AnyLoader<K, Made>& loader, const RefreshTerms& terms, Ending& ending) {
    constexpr bool kEmbedded = Loads::template kIsEmbedded<Made>;
    // Destroyed in reverse order: the permit is returned before user code runs.
    typename Store::PendingRemovals removals;
    typename Store::TableEntry present;
    typename FailureTable<K>::Failure failure;
    Made made{};
    TierTurnPtr<V> turn;
    PostLater post;
    const IdleTurnEnd<V> idle_end(turn);
    PreparedSlot prepared;
    Registration refresh(*location.shard, location.hash());
    Reservation reservation(store_.retention());
    LoadPermit permit(loads_.limiter(), &post);
    if (!AcquirePermit<kEmbedded>(permit, terms.weight_estimate, reservation)) {
      return absl::UnavailableError("a refresh waits neither for a permit to load nor for room");
    }
    store_.template Prepare<kEmbedded>(location, prepared, removals, [&] { refresh.Begin(); });
    store_.MakePayload(location, prepared, std::forward<Key>(key));
    store_.BeginLoad(refresh.flight(), prepared, terms.GroupAfter(*entry));
    absl::Status status = Make(prepared, *entry, loader, made, terms, turn, ending);
    if (!status.ok()) return status;
    if (!store_.template GrowRoom<kEmbedded>(prepared.cold(), reservation, removals,
                                             Effort::kIdle)) {
      ending = Ending::kFailed;
      removals.FinishEviction();
      return absl::ResourceExhaustedError("the hard limit leaves no room for the new object");
    }
    bool is_entered = false;
    Ref<V> fresh = EnterRefreshed(location, prepared, made, present, failure, entry, refresh,
                                  reservation, removals, is_entered);
    permit.Release();
    removals.FinishEviction();
    if (fresh.get() == nullptr) return absl::ResourceExhaustedError("the hard limit");
    if (turn != nullptr && is_entered) turn->Put(fresh);
    return fresh;
  }

  template <typename Made>
  Ref<V> EnterRefreshed(const KeyLocation& location, PreparedSlot& prepared, Made& made,
                        typename Store::TableEntry& present,
                        typename FailureTable<K>::Failure& failure, Entry* stale,
                        Registration& refresh, Reservation& reservation,
                        typename Store::PendingRemovals& removals, bool& is_entered) {
    auto& table = location.shard->table;
    const int64_t now = store_.freshness().NowOrWritten(prepared.cold());
    typename Store::MutexLock lock(table.mutex);
    // As in CacheLoads::EnterLoaded.
    bool cancelled = refresh.End() || store_.freshness().IsInvalidated(prepared.cold().stamp());
    if (prepared.cold().came_from_tier && stale->refresh.life_was_set()) cancelled = true;
    present = table.FindLocked(location.hash(), store_.shards().Matching(prepared.payload().key),
                               removals.deferred);
    table.PurgeUpTo(Store::Table::kPurgesPerOperation, removals.deferred);
    if (cancelled || present.slot == nullptr || &Store::Table::cold_part(present.slot) != stale) {
      // Before the unlock: after it the entry may leave the table.
      const bool newer = present.slot != nullptr &&
                         !store_.freshness().IsExpired(Store::Table::cold_part(present.slot), now);
      lock.unlock();
      return newer ? std::move(present.object) : AsRef<V>(std::move(made));
    }
    is_entered = true;
    // A load beside this refresh may have failed since the object expired, or may yet fail.
    const auto match = store_.shards().MatchingKey(prepared.payload().key);
    auto& flights = location.shard->flights;
    if (auto* const load = flights.Find(location.hash(), match).flight) flights.DropFailure(*load);
    failure = location.shard->failures.Take(location.hash(), match);
    return store_.Enter(table, location.hash(), prepared, made, present, now, reservation,
                        removals);
  }

  Loads& loads_;
  Store& store_;
  const std::shared_ptr<BackgroundTasks> tasks_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_REFRESH_H_
