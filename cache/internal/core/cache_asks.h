// SPDX-License-Identifier: Apache-2.0
// The ways in which a LargeObjectCache is asked for an object that may have to be loaded:
// GetOrLoad, GetOrLoadAsync and Refresh.
//
// Each looks for the object first. A hit that leaves nothing to do ends there, inline (see
// cache_store.h). Otherwise there is one of these cases:
//
//   * A refresh is due, and this thread claims it: it is posted to an executor if there is one, or
//     else runs in the call (cache_refresh.h). All others get the object as it is.
//   * There is no object: a failure that is kept under the key is the result; or else the object is
//     loaded, in the call (cache_loads.h) or in a task (async_load.h).
//   * The object has expired, but is kept for loads that fail: the same, and if the load fails, the
//     caller gets the expired object, unless it was cancelled. If the caller has a soft timeout,
//     and there is an executor, the load is a task, and the caller waits for that long
//     (background_load.h).
//
// Finding, refreshing or removing an object may run user code that ends the cache: then the result
// is CacheHasEnded(), and nothing of the cache is used any more.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_ASKS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_ASKS_H_

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "weakcache/cache/internal/core/async_load.h"
#include "weakcache/cache/internal/core/background_load.h"
#include "weakcache/cache/internal/core/cache_loads.h"
#include "weakcache/cache/internal/core/cache_refresh.h"
#include "weakcache/cache/internal/core/completion_loader.h"
#include "weakcache/cache/internal/core/load_failures.h"
#include "weakcache/cache/internal/core/load_receivers.h"
#include "weakcache/cache/internal/core/prefetch_run.h"
#include "weakcache/cache/internal/core/refresh_task.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/awaited_outcome.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/pending_completions.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/internal/loading/task_count.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/prefetch_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Thread-safe. Loads is a CacheLoads, which outlives this.
template <typename Loads>
class CacheAsks {
 public:
  using K = typename Loads::K;
  using V = typename Loads::V;
  using Result = typename Loads::Result;
  // Runs refreshes that GetOrLoad and Refresh begin. Empty: they run in the call.
  using Executor = std::function<void(std::function<void()>)>;

  CacheAsks(Loads& loads, const Executor& refresh_executor)
      : loads_(loads),
        store_(loads.store()),
        refresh_(loads),
        refresh_executor_(refresh_executor ? std::make_shared<const Executor>(refresh_executor)
                                           : nullptr) {}
  CacheAsks(const CacheAsks&) = delete;
  CacheAsks& operator=(const CacheAsks&) = delete;
  // Ends all asynchronous requests, at the cache's end: no task and no completion uses the cache
  // after this.
  void Close() {
    // In this order, because each step may end what a later step waits for.
    store_.shared()->SetEnding();
    pending_.Close();
    {
      PostLater put_off;  // ends them instead
      loads_.limiter().PostAllDeferred(put_off);
    }
    refresh_.RefuseTasks();
    // Loaders that run may wait for one of these.
    while (const auto load = background_loads_->TakeFirst()) load->EndWithCache();
    pending_.EndAll();
    refresh_.CloseTasks();
    tasks_.AwaitReturns();
    pending_.EndAll();  // a refresh that was still running may have begun another one
  }

  template <typename Key, typename Loader>
  Result GetOrLoad(Key&& key, Loader&& loader, const LoadOptions& options) {
    const typename Store::template LookupKeyOf<Key> lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    if (auto* const found = store_.FindFast(location, lookup)) [[likely]]
      return found->Adopt();
    return GetOrLoadSlow(location, lookup, std::forward<Key>(key), std::forward<Loader>(loader),
                         options);
  }

  // Loads the object anew, unless that is being done already; or loads one if there is none.
  // Returns how the load has failed, unless it runs in the background.
  template <typename Key, typename Loader>
  absl::Status Refresh(Key&& key, Loader&& loader, const LoadOptions& options) {
    const typename Store::template LookupKeyOf<Key> lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    typename Store::Outcome outcome(store_.freshness());
    const Ref<V> found = store_.FindUnexpired(location, lookup, outcome);
    if (found.get() == nullptr) {
      loads_.failures().Forget(location, lookup);
      LoadOptions anew = options;
      anew.read_tier = false;
      return LoadAnew(location, lookup, std::forward<Key>(key), std::forward<Loader>(loader), anew);
    }
    if (!store_.freshness().ClaimRefresh(*outcome.entry())) return absl::OkStatus();
    return WithAnyLoader<V, K>(std::forward<Loader>(loader), options,
                               [&](auto& any, const LoadRequest&) {
                                 return RefreshEntry(
                                     location, outcome.entry(), std::forward<Key>(key), any,
                                     RefreshTerms(options, /*is_due=*/false), found);
                               })
        .status();
  }

  // Asks for an object. `receiver(outcome)` is called once: at once, if the object is there.
  template <typename Key, typename Loader, typename Executor, typename Receiver>
  void LoadAsync(Key&& key, Loader&& loader, Executor&& executor, Receiver receiver,
                 const LoadOptions& options) {
    {
      const typename Store::template LookupKeyOf<Key> lookup = key;
      if (auto* const found = store_.FindFast(store_.shards().Locate(lookup), lookup)) [[likely]] {
        receiver(LoadOutcome<V>{found->Adopt(), absl::OkStatus()});
        return;
      }
    }
    LoadAsyncSlow(std::forward<Key>(key), std::forward<Loader>(loader),
                  std::forward<Executor>(executor), std::move(receiver), options);
  }

  // Has the executor load what is missing: see prefetch_run.h.
  template <typename Loader, typename AnyExecutor>
  void Prefetch(std::vector<K> keys, Loader&& loader, AnyExecutor&& executor,
                const PrefetchOptions& options) {
    using Run = PrefetchRun<Loads, std::decay_t<Loader>, StoredExecutor<AnyExecutor>>;
    const auto run = std::make_shared<Run>(loads_, refresh_.tasks(), std::move(keys),
                                           std::forward<Loader>(loader),
                                           std::forward<AnyExecutor>(executor), options);
    run->Post();
  }

 private:
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;
  using Entry = typename Loads::Entry;
  using KeyLocation = typename Loads::KeyLocation;

  template <typename Key, typename Loader, typename Executor, typename Receiver>
  [[gnu::noinline]] void LoadAsyncSlow(Key&& key, Loader&& loader, Executor&& executor,
                                       Receiver receiver, const LoadOptions& options) {
    const typename Store::template LookupKeyOf<Key> lookup = key;
    const KeyLocation location = store_.shards().Locate(lookup);
    const auto shared = store_.shared();
    LoadOutcome<V> outcome;
    Ref<V> expired;
    {
      typename Store::Outcome look(store_.freshness());
      Ref<V> found = store_.Find(location, lookup, look);
      // User code may run and end the cache.
      if (found.get() != nullptr && store_.RecordHit(look)) {
        if constexpr (!TakesCompletion<std::decay_t<Loader>, K, V>()) {
          if (look.refresh_due() && !shared->ended() &&
              store_.freshness().ClaimRefresh(*look.entry())) {
            PostRefresh(location, look.entry(), std::forward<Key>(key),
                        std::forward<Loader>(loader), executor, options);
          }
        }
        outcome.object = std::move(found);
      } else if (found.get() != nullptr && look.servable_if_load_fails()) {
        expired = std::move(found);
      }
    }
    if (outcome.object.get() == nullptr && shared->ended()) outcome.status = CacheHasEnded();
    if (outcome.object.get() != nullptr || !outcome.status.ok()) {
      receiver(std::move(outcome));
      return;
    }
    store_.counters().CountMiss();
    typename LoadFailures<Store>::Held held_failures;
    outcome.status = loads_.failures().Find(location, lookup, held_failures);
    if (!outcome.status.ok()) {
      if (expired.get() != nullptr) {
        store_.counters().CountStaleServed();
        outcome = {std::move(expired), absl::OkStatus()};
      }
      receiver(std::move(outcome));
      return;
    }
    using Load = AsyncLoadBy<Loads, std::decay_t<Loader>, StoredExecutor<Executor>, Receiver>;
    const auto load = std::make_shared<Load>(
        loads_, tasks_, pending_, std::forward<Key>(key), std::forward<Loader>(loader),
        std::forward<Executor>(executor), std::move(receiver), options);
    load->SetFallback(std::move(expired));
    load->Start();
  }

  // Counts a miss and loads, without looking for kept failures or expired objects.
  template <typename Lookup, typename Key, typename Loader>
  absl::Status LoadAnew(const KeyLocation& location, const Lookup& lookup, Key&& key,
                        Loader&& loader, const LoadOptions& options) {
    store_.counters().CountMiss();
    return WithAnyLoader<V, K>(std::forward<Loader>(loader), options,
                               [&](auto& any, const LoadRequest& request) {
                                 return loads_.Load(location, lookup, std::forward<Key>(key), any,
                                                    request);
                               })
        .status();
  }
  template <typename Lookup, typename Key, typename Loader>
  [[gnu::noinline]] Result GetOrLoadSlow(const KeyLocation& location, const Lookup& lookup,
                                         Key&& key, Loader&& loader, const LoadOptions& options) {
    return WithAnyLoader<V, K>(
        std::forward<Loader>(loader), options, [&](auto& any, const LoadRequest& request) {
          return FindOrLoad(location, lookup, std::forward<Key>(key), any, request);
        });
  }
  template <typename Lookup, typename Key, typename Made>
  Result FindOrLoad(const KeyLocation& location, const Lookup& lookup, Key&& key,
                    AnyLoader<K, Made>& loader, const LoadRequest& request) {
    typename Store::Outcome outcome(store_.freshness());
    uint64_t absent_as_of = kNeverProvedAbsent;
    Ref<V> found = store_.FindOrProveAbsent(location, lookup, outcome, &absent_as_of);
    if (found.get() == nullptr) {
      store_.counters().CountMiss();
    } else if (!outcome.expired() && !outcome.refresh_due()) {
      store_.RecordHit(outcome);
      return found;
    } else {
      const auto shared = store_.shared();
      if (outcome.expired()) store_.counters().CountMiss();
      const bool is_hit = store_.RecordHit(outcome);  // user code may run and end the cache
      if (is_hit && !shared->ended() && MayRefresh(loader, request.options) &&
          store_.freshness().ClaimRefresh(*outcome.entry())) {
        Result fresh = RefreshEntry(location, outcome.entry(), std::forward<Key>(key), loader,
                                    RefreshTerms(request.options, /*is_due=*/true), found);
        if (fresh.ok()) {
          // The object that was found has been recorded as a hit.
          if (!shared->ended() && *fresh != found) store_.RecordTaken(location, *fresh);
          return fresh;
        }
      }
      if (is_hit) return found;
      // Drops the expired object before the load, unless it may have to be served.
      if (!outcome.servable_if_load_fails()) found.reset();
      outcome.Reset();
      if (shared->ended()) return CacheHasEnded();
      absent_as_of = kNeverProvedAbsent;
    }
    if (found.get() != nullptr) {
      return LoadOrServeExpired(location, lookup, std::forward<Key>(key), loader, request,
                                std::move(found));
    }
    return LoadUnlessFailed(location, lookup, std::forward<Key>(key), loader, request,
                            absent_as_of);
  }
  // Returns whether a caller that finds a stale object may refresh it: a caller that may not wait
  // does not do so in its own call.
  template <typename Made>
  bool MayRefresh(const AnyLoader<K, Made>& loader, const LoadOptions& options) const {
    if constexpr (std::is_move_constructible_v<K>) {
      if (refresh_executor_ != nullptr && loader.can_outlive_call()) return true;
    }
    return !BoundedWait(options.deadline, options.stop_token).ended();
  }
  // Refreshes an entry that the caller has claimed, whose object is `found`: in this call, or if
  // there is an executor and the loader can outlive the call, by a task; then returns `found`.
  template <typename Key, typename Made>
  Result RefreshEntry(const KeyLocation& location, Entry* entry, Key&& key,
                      AnyLoader<K, Made>& loader, const RefreshTerms& terms, const Ref<V>& found) {
    if constexpr (std::is_move_constructible_v<K>) {  // a task owns the key
      const auto executor = refresh_executor_;        // the cache may end in the call
      if (executor != nullptr && loader.can_outlive_call()) {
        if (!refresh_.Post(location, entry, std::forward<Key>(key), loader, terms, *executor)) {
          return absl::UnavailableError("there is no permit for a refresh, or no task of it");
        }
        return found;
      }
    }
    return refresh_.Refresh(location, entry, std::forward<Key>(key), loader, terms);
  }
  // Does the same by the executor of an asynchronous ask.
  template <typename Key, typename Loader, typename Executor>
  void PostRefresh(const KeyLocation& location, Entry* entry, Key&& key, Loader&& loader,
                   Executor&& executor, const LoadOptions& options) {
    WithAnyLoader<V, K>(std::forward<Loader>(loader), options, [&](auto& any, const LoadRequest&) {
      refresh_.Post(location, entry, std::forward<Key>(key), any,
                    RefreshTerms(options, /*is_due=*/true), executor);
    });
  }
  template <typename Lookup, typename Key, typename Made>
  Result LoadUnlessFailed(const KeyLocation& location, const Lookup& lookup, Key&& key,
                          AnyLoader<K, Made>& loader, const LoadRequest& request,
                          uint64_t absent_as_of) {
    typename LoadFailures<Store>::Held held_failures;
    absl::Status failure = loads_.failures().Find(location, lookup, held_failures);
    if (!failure.ok()) return failure;
    return loads_.Load(location, lookup, std::forward<Key>(key), loader, request,
                       IfOtherFails::kFail, absent_as_of);
  }
  // Does the same; if the load fails, or takes too long, the result is an expired object, unless
  // the caller is cancelled.
  template <typename Lookup, typename Key, typename Made>
  [[gnu::noinline]] Result LoadOrServeExpired(const KeyLocation& location, const Lookup& lookup,
                                              Key&& key, AnyLoader<K, Made>& loader,
                                              const LoadRequest& request, Ref<V> expired) {
    const auto shared = store_.shared();  // the load's user code may end the cache
    Result result = CatchErrors(
        [&] { return LoadWithPatience(location, lookup, std::forward<Key>(key), loader, request); },
        [&] {
          if (request.options.stop_token.stop_requested()) Rethrow();
          return Result(absl::UnknownError("the load threw"));
        });
    if (result.ok() || request.options.stop_token.stop_requested()) return result;
    shared->counters.CountStaleServed();
    return expired;
  }
  // Does LoadUnlessFailed for a caller that has an expired object: it leaves after its soft
  // timeout. Leaves the load to the executor, if there is one.
  template <typename Lookup, typename Key, typename Made>
  Result LoadWithPatience(const KeyLocation& location, const Lookup& lookup, Key&& key,
                          AnyLoader<K, Made>& loader, const LoadRequest& asked) {
    const LoadRequest request{asked.options, asked.source, PatienceOf(asked.options)};
    if constexpr (std::is_move_constructible_v<K>) {  // a task owns the key
      const bool leaves = request.patience != kEndlessPatience;
      if (leaves && refresh_executor_ != nullptr && loader.can_outlive_call()) {
        BoundedWait wait(asked.options.deadline, asked.options.stop_token, request.patience);
        if (wait.ended()) return HasLeft(wait);
        typename LoadFailures<Store>::Held held_failures;
        absl::Status failure = loads_.failures().Find(location, lookup, held_failures);
        if (!failure.ok()) return failure;
        return LoadInBackground(std::forward<Key>(key), loader, asked.options, wait);
      }
    }
    return LoadUnlessFailed(location, lookup, std::forward<Key>(key), loader, request,
                            kNeverProvedAbsent);
  }
  // Has the executor load an object, and waits for it. If the wait ends before, the load goes on,
  // unless the caller is cancelled: then it has left, as any asynchronous ask.
  template <typename Key, typename Made>
  Result LoadInBackground(Key&& key, AnyLoader<K, Made>& loader, const LoadOptions& options,
                          BoundedWait& wait) {
    const auto awaited = std::make_shared<AwaitedOutcome<V>>();
    StopSource cancel{kNoStopState};
    if (options.stop_token.stop_possible()) cancel = StopSource();
    LoadOptions of_load;
    of_load.weight_estimate = options.weight_estimate;
    of_load.stop_token = cancel.get_token();
    of_load.group = options.group;
    of_load.read_tier = options.read_tier;
    of_load.write_tier = options.write_tier;
    const auto load = std::make_shared<BackgroundLoad<Loads, Made>>(
        loads_, tasks_, pending_, std::forward<Key>(key), loader.ForTask(), of_load,
        typename BackgroundLoad<Loads, Made>::Surroundings{refresh_executor_, refresh_.tasks(),
                                                           background_loads_, awaited});
    load->Start();
    std::optional<LoadOutcome<V>> outcome = awaited->Await(wait);
    if (!outcome.has_value()) {
      if (wait.cancelled()) cancel.request_stop();
      return HasLeft(wait);
    }
    if (outcome->error != nullptr) std::rethrow_exception(outcome->error);
    if (!outcome->status.ok()) return std::move(outcome->status);
    if (outcome->object.get() == nullptr) return ThreadHasEnded();
    return std::move(outcome->object);
  }

  Loads& loads_;
  Store& store_;
  CacheRefresh<Loads> refresh_;
  const std::shared_ptr<const Executor> refresh_executor_;  // null if there is none
  TaskCount tasks_;
  PendingCompletions pending_;
  // Those whose tasks the executor has.
  const std::shared_ptr<BackgroundLoads> background_loads_ = std::make_shared<BackgroundLoads>();
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CACHE_ASKS_H_
