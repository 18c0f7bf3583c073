// SPDX-License-Identifier: Apache-2.0
// Loads objects of a LargeObjectCache before anybody asks for them.
//
// A prefetch is a row of tasks of its caller's executor, one at a time. A task goes through the
// keys, passes over those whose objects are there or are being loaded, loads one object, and posts
// the next task: so on a pool of one thread, tasks that others have posted meanwhile run first.
//
//   1. The bytes for the object have to be free, or else the prefetch ends: nothing is evicted for
//      it. They are not reserved either, as other loads would evict for that.
//   2. The task starts a flight, as any load (cache_loads.h), so whoever asks for the key meanwhile
//      waits for it. If the number of loads is limited, the task needs a permit, as any other, but
//      comes after all others that wait for one, because somebody waits for those loads. Without a
//      permit it is deferred, so its thread never waits (load_limiter.h).
//   3. The loader runs, and the object enters the cache as one that nobody has used. The retention
//      keeps it only if it fits in beside all others, since it may be heavier than estimated.
//   4. The reference to it is dropped: it is idle.
//
// The tasks use the cache as those of refreshes do (BackgroundTasks): a task that the executor
// still has at the end of the cache does nothing.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_PREFETCH_RUN_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_PREFETCH_RUN_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/core/cache_loads.h"
#include "weakcache/cache/internal/core/load_failures.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/background_tasks.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/prefetch_options.h"

namespace weakcache::internal {

// Owned by its task, and by itself while that is deferred. Loads is a CacheLoads. Loader and
// Executor are decayed types; the loader is called as an lvalue.
template <typename Loads, typename Loader, typename Executor>
class PrefetchRun final
    : public DeferrableTask,
      public std::enable_shared_from_this<PrefetchRun<Loads, Loader, Executor>> {
 public:
  using K = typename Loads::K;
  using V = typename Loads::V;

  template <typename GivenLoader, typename AnyExecutor>
  PrefetchRun(Loads& loads, std::shared_ptr<BackgroundTasks> tasks, std::vector<K> keys,
              GivenLoader&& loader, AnyExecutor&& executor, const PrefetchOptions& options)
      : DeferrableTask(/*comes_last=*/true),
        loads_(loads),
        store_(loads.store()),
        tasks_(std::move(tasks)),
        shared_(store_.shared()),
        keys_(std::move(keys)),
        loader_(std::forward<GivenLoader>(loader)),
        executor_(std::forward<AnyExecutor>(executor)),
        options_(options) {
    load_options_.stop_token = options_.stop_token;
    load_options_.read_tier = options_.read_tier;
    load_options_.write_tier = options_.write_tier;
  }

  // Posts the next task. If the executor throws, or drops it, nothing more is loaded.
  void Post() {
    CatchErrors(
        [&] {
          std::invoke(executor_,
                      [task = std::make_shared<Task>(this->shared_from_this())] { task->Run(); });
        },
        [&] { PassOn(); });
  }

 private:
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;
  using Lookup = typename Store::template LookupKeyOf<K>;
  using Flights = typename Loads::Flights;
  using KeyLocation = typename Loads::KeyLocation;
  using FlightCompletion = typename Loads::FlightCompletion;
  using Reservation = typename Loads::Reservation;
  using PreparedSlot = typename Loads::PreparedSlot;
  using Asker = typename LoadFailures<Store>::Asker;

  // The function that the executor gets.
  class Task {
   public:
    explicit Task(std::shared_ptr<PrefetchRun> run) : run_(std::move(run)) {}
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    ~Task() {
      if (!has_run_.load(std::memory_order_relaxed)) run_->PassOn();
    }
    void Run() {
      has_run_.store(true, std::memory_order_relaxed);
      run_->Run();
    }

   private:
    const std::shared_ptr<PrefetchRun> run_;
    // Set by any copy of the function that runs. Relaxed: the last copy goes after that.
    std::atomic<bool> has_run_{false};
  };

  // Makes a step, and one more for each task that the executor runs inside Post, or on another
  // thread before this has returned.
  void Run() {
    // Acquire and release: each step sees what the one before has done.
    if (begun_.fetch_add(1, std::memory_order_acq_rel) != 0) return;
    const auto self = this->shared_from_this();
    do {
      RunStep();
    } while (begun_.fetch_sub(1, std::memory_order_acq_rel) != 1);
  }
  void RunStep() {
    const BackgroundTasks::Running running(tasks_);
    if (!running.may_run()) return;
    // The executor is not to see an exception, of an allocation or the key's functions: it ends
    // this run.
    switch (CatchErrors([&] { return LoadNext(); }, [] { return Step::kEnd; })) {
      case Step::kLoaded:
        if (MayLoadMore()) Post();
        return;
      case Step::kDeferred:
        return;
      case Step::kEnd:
        PostNext();
    }
  }
  // Has other deferred tasks posted: this run may have been posted in their place.
  void PostNext() {
    PostLater post;
    if (!shared_->ended()) loads_.limiter().PostNext(post);
  }
  void PassOn() {
    const BackgroundTasks::Running running(tasks_);
    if (running.may_run()) PostNext();
  }
  bool MayLoadMore() {
    return next_ < keys_.size() && !options_.stop_token.stop_requested() &&
           bytes_ < options_.max_bytes && !is_full_ && !shared_->is_ending();
  }

  // The result of a task, or of one attempt to load.
  enum class Step { kLoaded, kDeferred, kEnd };
  enum class Start { kStarted, kNotMissing, kNoPermit, kNoRoom };

  Step LoadNext() {
    while (MayLoadMore()) {
      const Start start = LoadOne(keys_[next_]);
      if (shared_->ended() || start == Start::kNoRoom) return Step::kEnd;
      if (start == Start::kNoPermit) {
        keep_ = this->shared_from_this();
        if (loads_.limiter().Defer(*this)) return Step::kDeferred;
        keep_.reset();
        continue;
      }
      ++next_;
      if (start == Start::kStarted) return Step::kLoaded;
    }
    return Step::kEnd;
  }
  bool wanted() const override { return !options_.stop_token.stop_requested(); }
  void PostAgain() override {
    const auto self = std::move(keep_);
    if (shared_->is_ending()) return;
    if (wanted()) {
      Post();
    } else {
      PassOn();
    }
  }

  Start LoadOne(K& key) {
    return WithAnyLoader<V, K>(loader_, load_options_, [&](auto& any, const LoadRequest& request) {
      return LoadOneBy(key, any, request);
    });
  }
  template <typename Made>
  Start LoadOneBy(K& key, AnyLoader<K, Made>& loader, const LoadRequest& request) {
    constexpr bool kEmbedded = Loads::template kIsEmbedded<Made>;
    const Lookup lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    // As in CacheLoads::Load: destroyed in reverse order.
    BoundedWait nobody(SteadyTime::max(), options_.stop_token);
    StoppableCall call(nobody, request);
    typename Store::PendingRemovals removals;
    typename Store::TableEntry present;
    Made made{};
    TierRecheckPtr<V> recheck;
    typename LoadFailures<Store>::Held held_failures;
    typename Flights::EndedContinuations ended;
    TierTurnPtr<V> turn;
    LoadOutcome<V> outcome;
    PostLater post;
    const IdleTurnEnd<V> idle_end(turn);
    PreparedSlot prepared;
    typename Flights::Flight flight(location.hash());
    flight.SetInterest(call.interest());
    FlightCompletion completion{location.shard, nullptr, outcome, &ended};
    Reservation reservation(store_.retention());
    LoadPermit permit(loads_.limiter(), &post, this);
    if (!IsMissing(location, lookup, held_failures)) return Start::kNotMissing;
    if (!reservation.BeginAhead(Estimate(kEmbedded), options_.max_bytes - bytes_)) {
      return Start::kNoRoom;
    }
    const Start start = StartFlight<kEmbedded>(location, lookup, flight, prepared, permit);
    if (start != Start::kStarted) return start;
    completion.flight = &flight;
    call.Watch();
    CatchErrors(
        [&] {
          const StoppableCall::MarkIfAbandoned<LoadOutcome<V>> mark{call, outcome};
          store_.MakePayload(location, prepared, std::move(key));
          store_.BeginLoad(flight, prepared, options_.group);
          outcome.status = loads_.MakeUnlessFailed(
              location, flight, call, prepared.cold(), loader, made,
              {nobody, request.source, options_.read_tier, options_.write_tier, turn, recheck},
              held_failures, Asker::kPrefetch);
          if (!outcome.status.ok()) return;
          if (!HasFound(recheck)) Count(prepared.cold().object_weight(), kEmbedded);
          loads_.EnterLoaded(location, prepared, made, present, completion, reservation, removals,
                             turn.get(), recheck.get());
        },
        [&] { outcome.error = std::current_exception(); });
    is_full_ = reservation.refused();
    Loads::EndLoad(permit, removals, reservation, completion);
    ended.Prepare();  // the user code that follows may end the cache
    return Start::kStarted;
  }
  // Returns whether there is neither an object nor a kept failure. Looks without a permit, so that
  // many such keys are soon passed over. May run destructors.
  bool IsMissing(const KeyLocation& location, const Lookup& lookup,
                 typename LoadFailures<Store>::Held& held) {
    const auto match = store_.MatchingUnexpired(lookup, store_.freshness().NowIfNeeded());
    return location.shard->table.Find(location.hash(), match).get() == nullptr &&
           loads_.failures().Find(location, lookup, held, Asker::kPrefetch).ok();
  }
  template <bool kEmbedded>
  Start StartFlight(const KeyLocation& location, const Lookup& lookup,
                    typename Flights::Flight& flight, PreparedSlot& prepared, LoadPermit& permit) {
    auto& table = location.shard->table;
    Flights& flights = location.shard->flights;
    for (;;) {
      typename Store::TableEntry present;
      typename Store::Table::DeferredReleases deferred;
      const auto match = store_.MatchingUnexpired(lookup, store_.freshness().NowIfNeeded());
      typename Store::MutexLock lock(table.mutex);
      present = table.FindLocked(location.hash(), match, deferred);
      if (present.slot != nullptr) return Start::kNotMissing;
      // Removed objects are destroyed before others wait for the flight.
      if (!deferred.empty()) continue;
      const auto found = flights.Find(location.hash(), store_.shards().MatchingKey(lookup));
      // One whose key is not known yet has most probably this key.
      if (found.flight != nullptr || found.key_pending != nullptr) return Start::kNotMissing;
      if (!permit.TryAcquire()) return Start::kNoPermit;
      table.template Prepare<kEmbedded>(prepared);
      if (flights.Start(flight, found)) return Start::kStarted;
    }
  }

  // Returns what the next object will probably weigh, with its entry.
  uint64_t Estimate(bool is_embedded) const {
    if (options_.weight_estimate == 0 && loaded_ != 0) return bytes_ / loaded_;
    return shared_->WithEntry(options_.weight_estimate, is_embedded);
  }
  void Count(uint64_t weight, bool is_embedded) {
    const uint64_t bytes = shared_->WithEntry(weight, is_embedded);
    ++loaded_;
    bytes_ = bytes > UINT64_MAX - bytes_ ? UINT64_MAX : bytes_ + bytes;
  }

  Loads& loads_;
  Store& store_;
  const std::shared_ptr<BackgroundTasks> tasks_;
  const std::shared_ptr<typename Store::Shared> shared_;
  // Of the task that runs:
  std::vector<K> keys_;
  size_t next_ = 0;
  uint64_t bytes_ = 0;
  uint64_t loaded_ = 0;
  bool is_full_ = false;
  Loader loader_;
  Executor executor_;
  const PrefetchOptions options_;
  LoadOptions load_options_;
  std::shared_ptr<PrefetchRun> keep_;  // while it is deferred
  // How many tasks have begun without a step made for them. The thread that adds the first one
  // makes a step for each, and takes it off.
  std::atomic<size_t> begun_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_PREFETCH_RUN_H_
