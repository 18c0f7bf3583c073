// SPDX-License-Identifier: Apache-2.0
// A load whose loader is itself asynchronous: it gets a LoadCompletion, returns, and no thread
// works on the load until the completion is called.
//
//   1. The task of an asynchronous ask (async_load.h) starts the flight, as for any other loader,
//      with a permit and what the estimate reserves. But all of that lies in a CompletionLoad, on
//      the heap, and not on the thread's stack.
//   2. The loader is called. As long as it runs its thread counts as that of the flight and of the
//      permit, so that a loader which waits for its own key, or for a load without a permit, gets
//      the same answer as any other (wait_graph.h).
//   3. It returns. Flight and permit are taken off the thread. The load is on the list of the
//      cache's PendingCompletions.
//   4. The completion is called or dropped, on any thread: that one weighs the object, enters it,
//      ends the flight and returns the permit. It waits for nothing but a shard's lock, and then
//      for the second tier, which it writes. Last of all it completes the continuations, for they
//      may end the cache.
//
// A CompletionHandoff decides which thread ends the load. If the completion comes before step 3,
// that is the loader's thread. At the end of the cache it is the ending thread: those that wait for
// the load get Aborted, and the completion will do nothing.
//
// The cache may end as soon as nobody has a place in the count of PendingCompletions. A load has
// one from step 2 on, and its end gives it back; its task has another one, until it has returned.
// What comes after that, on the same thread, does not touch the cache.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_COMPLETION_LOAD_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_COMPLETION_LOAD_H_

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "weakcache/cache/internal/core/cache_loads.h"
#include "weakcache/cache/internal/core/completion_loader.h"
#include "weakcache/cache/internal/core/load_failures.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/completion_handoff.h"
#include "weakcache/cache/internal/loading/completion_target.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/pending_completions.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/internal/loading/task_count.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Owned by its completion, by the list of pending ones, and by the thread that works on it. Loads
// is a CacheLoads.
template <typename Loads>
class CompletionLoad final : public CompletionTarget<typename Loads::V>,
                             public PendingCompletions::Load,
                             public std::enable_shared_from_this<CompletionLoad<Loads>> {
 public:
  using K = typename Loads::K;
  using V = typename Loads::V;
  using KeyLocation = typename Loads::KeyLocation;
  using QueuedRun = typename Loads::QueuedRun;

  CompletionLoad(Loads& loads, PendingCompletions& pending, const KeyLocation& location,
                 const LoadOptions& options, bool takes_token)
      : loads_(loads),
        store_(loads.store()),
        pending_(pending),
        shared_(store_.shared()),
        location_(location),
        options_(options),
        asker_(options_.deadline, options_.stop_token),
        call_(asker_, {options_, takes_token ? &source_ : nullptr}),
        flight_(location.hash()),
        reservation_(store_.retention()),
        permit_(loads.limiter()) {}

  // Does steps 1 to 3, in a task.
  template <typename Lookup, typename Loader>
  void Run(const Lookup& lookup, K&& key, Loader&& loader, QueuedRun& run) {
    typename LoadFailures<Store>::Held held_failures;
    PostLater post;
    if (!Start(lookup, std::move(key), run, post)) return;
    pending_.count().Begin();
    pending_.count().Begin();
    run.returning.emplace(pending_.count());
    LoaderEnd end{*this, run};
    const LoadLimiter::TaskScope scope(loads_.limiter(), permit_.id());
    CatchErrors(
        [&] {
          end.kept_failure =
              loads_.failures().Find(location_, prepared_->payload().key, held_failures);
          if (!end.kept_failure.ok()) return;
          timer_.emplace(store_);
          if (FindInTier(end.found)) return;
          LoadCompletion<V> completion(this->shared_from_this());
          CallCompletionLoader(std::forward<Loader>(loader), prepared_->payload().key,
                               source_.get_token(), std::move(completion));
          end.has_returned = true;
        },
        [&] { end.error = std::current_exception(); });
  }

  void Complete(CompletionResult<V>& result) noexcept override {
    if (!handoff_.Complete(result)) return;
    Ended ended;
    const TaskCount::Running running(pending_.count());
    pending_.Remove(*this);
    End(result, Cause::kCompletion, ended);
    if (ended.result.abandoned) ended.AskAnew();
  }

 private:
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;
  using Entry = typename Store::Entry;
  using Flights = typename Loads::Flights;
  using Ended = typename Flights::EndedContinuations;
  using PreparedSlot = typename Loads::PreparedSlot;
  using FlightCompletion = typename Loads::FlightCompletion;
  using Result = CompletionResult<V>;

  // Why the load ends.
  enum class Cause { kCompletion, kLoaderFailed, kCacheEnds };

  // Calls FinishLoader, on whatever way the loader's thread leaves the loader.
  struct LoaderEnd {
    ~LoaderEnd() { load.FinishLoader(*this); }
    CompletionLoad& load;
    QueuedRun& run;
    bool has_returned = false;
    absl::Status kept_failure = {};  // of an earlier load
    Result found = {};               // of the tier, which has an object or none
    std::exception_ptr error = nullptr;
  };

  template <typename Lookup>
  bool Start(const Lookup& lookup, K&& key, QueuedRun& run, PostLater& post) {
    BoundedWait unbounded(SteadyTime::max(), StopToken());
    LoadOutcome<V> outcome;
    flight_.SetInterest(call_.interest());
    prepared_.emplace();
    permit_.PrepareToDetach(run.load, post);
    FlightCompletion completion{location_.shard, nullptr, outcome, &run.ended};
    // On whatever way this leaves without a load.
    Withdrawal withdrawal{permit_, reservation_};
    const StartOutcome start = loads_.template StartOrJoin<kEmbedded>(
        location_, lookup, flight_, *prepared_, completion, options_.weight_estimate, reservation_,
        permit_, IfOtherFails::kFail, unbounded, &run);
    if (start != StartOutcome::kStarted) {
      static_cast<void>(Loads::LeaveTask(start, std::move(outcome), run));
      return false;
    }
    call_.RemoveCaller();
    CatchInto(outcome, [&] {
      store_.MakePayload(location_, *prepared_, std::move(key));
      store_.BeginLoad(flight_, *prepared_, options_.group);
    });
    withdrawal.has_load = true;
    completion.flight = nullptr;
    return true;
  }
  struct Withdrawal {
    ~Withdrawal() {
      if (has_load) return;
      permit.Release();
      reservation.Release();
    }
    LoadPermit& permit;
    typename Loads::Reservation& reservation;
    bool has_load = false;
  };

  // Ends step 2, and does step 3 if the completion has not come.
  void FinishLoader(LoaderEnd& end) {
    const std::shared_ptr<CompletionLoad> self = this->shared_from_this();
    if (!end.has_returned) return FailLoader(end);
    {
      typename Store::MutexLock lock(location_.shard->table.mutex);
      location_.shard->flights.Detach(flight_);
    }
    permit_.LeaveThread();
    permit_.set_post(nullptr);
    Result result;
    Cause cause = Cause::kCompletion;
    switch (pending_.Add(*this, self, [&] { return handoff_.LoaderReturned(result); })) {
      case PendingCompletions::HandOver::kPending:
        return;
      case PendingCompletions::HandOver::kCompleted:
        break;
      case PendingCompletions::HandOver::kCacheEnds:
        if (!handoff_.TryEnd()) return;
        cause = Cause::kCacheEnds;
        result.status = EndedWithCache();
    }
    const TaskCount::Running running(pending_.count());
    End(result, cause, end.run.ended);
  }
  // Looks whether the second tier has the object. Waits for the tier's answer, but for no other
  // process: the thread may be the one that another load's completion needs.
  bool FindInTier(Result& found) {
    if (loads_.tier() == nullptr) [[likely]]
      return false;
    const BoundedWait unbounded(SteadyTime::max(), StopToken());
    typename Loads::FlightNotices notices(*location_.shard, flight_);
    found.owned = loads_.tier()->Ask(
        prepared_->payload().key,
        TierUse<V>{unbounded, &source_, options_.read_tier, options_.write_tier, turn_, recheck_,
                   /*waits_for_lease=*/false, &notices},
        found.terms);
    prepared_->cold().came_from_tier = found.owned != nullptr;
    return found.owned != nullptr || HasFound(recheck_);
  }
  // Ends the load after the loader has thrown, or as its thread ends; or without the loader,
  // because an earlier failure is kept, or the tier has the object.
  void FailLoader(LoaderEnd& end) {
    const TaskCount::Running running(pending_.count());
    Result unwanted;
    handoff_.LoaderFailed(unwanted);
    if (end.found.owned != nullptr || HasFound(recheck_)) {
      return End(end.found, Cause::kCompletion, end.run.ended);
    }
    Result result;
    result.error = std::move(end.error);
    if (!end.kept_failure.ok()) {
      result.status = std::move(end.kept_failure);
    } else if (result.error == nullptr) {
      result.status = NoThrowStatus(absl::StatusCode::kAborted, "the loading thread has ended");
    }
    End(result, Cause::kLoaderFailed, end.run.ended);
  }

  void EndWithCache() override {
    if (!handoff_.TryEnd()) return;
    Ended ended;
    const TaskCount::Running running(pending_.count());
    Result result;
    result.status = EndedWithCache();
    End(result, Cause::kCacheEnds, ended);
  }
  static absl::Status EndedWithCache() {
    return NoThrowStatus(absl::StatusCode::kAborted,
                         "the cache has ended before the loader's completion was called");
  }

  // Does step 4, except for the continuations, which go to `ended`, prepared. Runs user code in the
  // end.
  void End(Result& given, Cause cause, Ended& ended) {
    // Destroyed in reverse order: deferred tasks are posted before user code runs.
    typename Store::PendingRemovals removals;
    typename Store::TableEntry present;
    Result result = std::move(given);
    TierRecheckPtr<V> recheck = std::move(recheck_);
    TierTurnPtr<V> turn = std::move(turn_);
    typename LoadFailures<Store>::Held held_failures;
    PreparedSlot external;
    LoadOutcome<V> outcome;
    PostLater post;
    const IdleTurnEnd<V> idle_end(turn);
    permit_.set_post(&post);
    FlightCompletion completion{location_.shard, &flight_, outcome, &ended};
    CatchErrors(
        [&] {
          Enter(result, present, external, completion, removals, turn, recheck);
          if (cause != Cause::kCompletion || result.status.ok() || call_.abandoned()) return;
          loads_.failures().Keep(location_, flight_, prepared_->cold(), result.status,
                                 held_failures);
        },
        [&] { outcome.error = std::current_exception(); });
    // At the cache's end nobody is to ask anew.
    if (cause != Cause::kCacheEnds && outcome.object.get() == nullptr) {
      outcome.abandoned = call_.abandoned();
    }
    timer_.reset();
    permit_.Release();
    removals.FinishEviction();
    reservation_.Release();
    Loads::EndFlight(completion, removals);
    ended.Prepare();  // the user code that follows may end the cache
    prepared_.reset();
  }
  void Enter(Result& result, typename Store::TableEntry& present, PreparedSlot& external,
             FlightCompletion& completion, typename Store::PendingRemovals& removals,
             const TierTurnPtr<V>& turn, const TierRecheckPtr<V>& recheck) {
    completion.result.error = result.error;
    completion.result.status = result.status;
    if (result.error != nullptr || !result.status.ok()) return;
    if (HasFound(recheck)) {
      timer_->Succeed();
      loads_.EnterLoaded(location_, *prepared_, result.owned, present, completion, reservation_,
                         removals, turn.get(), recheck.get());
      return;
    }
    if (result.owned != nullptr) {
      EnterInto(*prepared_, result.owned, result.terms, present, completion, removals, turn);
      return;
    }
    store_.template Prepare<!kEmbedded>(location_, external, removals, [] {});
    store_.MakePayload(location_, external, std::as_const(prepared_->payload().key));
    external.cold().set_stamp(prepared_->cold().stamp());
    EnterInto(external, result.referred, result.terms, present, completion, removals, turn);
  }
  template <typename Made>
  void EnterInto(PreparedSlot& prepared, Made& made, const ObjectTerms& terms,
                 typename Store::TableEntry& present, FlightCompletion& completion,
                 typename Store::PendingRemovals& removals, const TierTurnPtr<V>& turn) {
    const uint64_t weight = store_.WeightOf(*made, terms);
    const int64_t now = timer_->Succeed();
    prepared.cold().load_time = timer_->LoadTimeUntil(now);
    timer_.reset();
    constexpr bool kMadeEmbedded = Loads::template kIsEmbedded<Made>;
    store_.template SetUpLoaded<kMadeEmbedded>(prepared.cold(), weight, terms, now);
    if (turn != nullptr) Loads::SetTermsOf(*turn, prepared.cold(), terms);
    store_.template GrowRoom<kMadeEmbedded>(prepared.cold(), reservation_, removals);
    loads_.EnterLoaded(location_, prepared, made, present, completion, reservation_, removals,
                       turn.get(), nullptr);
  }

  // An object that is given as a V goes to the slot that was prepared when the load began.
  static constexpr bool kEmbedded = true;

  Loads& loads_;
  Store& store_;
  PendingCompletions& pending_;
  const std::shared_ptr<typename Store::Shared> shared_;
  const KeyLocation location_;
  const LoadOptions options_;
  StopSource source_{kNoStopState};
  BoundedWait asker_;
  StoppableCall call_;
  std::optional<PreparedSlot> prepared_;  // has the key
  typename Flights::Flight flight_;
  typename Loads::Reservation reservation_;
  LoadPermit permit_;
  std::optional<typename Loads::Timer> timer_;
  TierRecheckPtr<V> recheck_;
  TierTurnPtr<V> turn_;
  BasicCompletionHandoff<StdAtomics, Result> handoff_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_COMPLETION_LOAD_H_
