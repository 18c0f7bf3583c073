// SPDX-License-Identifier: Apache-2.0
// An asynchronous ask for an object of a LargeObjectCache: no thread waits for it. (With a second
// tier, the thread of the task waits for that.)
//
//   1. Ask looks, under the shard's lock, for the object, and then for a flight of the key. If
//      there is one, the ask becomes one of its continuations: it is completed as the flight ends.
//   2. Else the ask enters a *queued* flight of its own, whose first continuation it is, and posts
//      a task. So there is one task for a load, however many ask.
//   3. The task takes the queued flight over: its thread starts a flight in that one's place, with
//      all continuations, and goes on as any load (cache_loads.h). If a thread that calls GetOrLoad
//      for the key comes first, it takes the flight over instead of waiting for the task, which may
//      be in the queue of that very thread; then the task finds nothing to do.
//   4. If there is no permit for the load, the task is deferred: see load_limiter.h.
//
// An ask that is cancelled leaves the flight, on the thread that cancels it. An ask whose deadline
// is over when its task begins leaves then (there is no timer). A queued flight that everybody has
// left ends. If the executor drops a task, or throws, its own ask fails, and the others ask anew,
// each with its own loader and executor. The continuations of an abandoned flight ask anew, too.
//
// The receiver is called without a lock, a flight or a permit: on the asking thread if the object
// is there; otherwise on the thread that has ended the flight or cancelled the ask. A task no
// longer uses the cache by then: whoever has all results may end the cache.
//
// A loader that takes a LoadCompletion ends its load later: see completion_load.h.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_ASYNC_LOAD_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_ASYNC_LOAD_H_

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/holder_label.h"
#include "weakcache/cache/internal/core/cache_loads.h"
#include "weakcache/cache/internal/core/completion_load.h"
#include "weakcache/cache/internal/core/completion_loader.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/internal/loading/task_count.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// The part of an ask that does not depend on the types of loader, executor and receiver. Owned by
// its task, and, while it waits for a flight, or its task is deferred, by itself.
template <typename Loads>
class AsyncLoad : public Loads::Flights::Continuation,
                  public Loads::Flights::QueuedOwner,
                  public Loads::Queued,
                  public std::enable_shared_from_this<AsyncLoad<Loads>> {
 public:
  using K = typename Loads::K;
  using V = typename Loads::V;
  using Flights = typename Loads::Flights;
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;

  // The function that the executor gets. It runs once, or is dropped when its last copy is
  // destroyed.
  class Task {
   public:
    explicit Task(std::shared_ptr<AsyncLoad> load) : load_(std::move(load)) {}
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    ~Task() { Fail(nullptr); }
    // Lets the task neither run nor fail from now on: its load ends with the cache.
    void Disown() { Claim(); }
    void Run() {
      if (Claim()) load_->RunTask();
    }
    void SetPosted() { posted_.store(true, std::memory_order_relaxed); }
    // Makes the ask fail, unless the task has begun.
    void Fail(std::exception_ptr error) {
      if (Claim()) load_->Drop(std::move(error));
    }

   private:
    bool Claim() { return posted_.exchange(false, std::memory_order_relaxed); }

    const std::shared_ptr<AsyncLoad> load_;
    // Whether the task is to run. Set before the executor gets the task, and cleared once, by the
    // thread that runs it or makes it fail. Relaxed: whoever clears it goes on under the shard's
    // lock.
    std::atomic<bool> posted_{false};
  };

  // Says that the asking thread sleeps until the ask has its outcome. Such an ask begins nothing
  // once the cache ends, and waits for no load of its own thread. Called before Start.
  void SetCallerWaits() { caller_waits_ = true; }
  // Sets what the ask gets if the load fails. Called before Start.
  void SetFallback(Ref<V> expired) { fallback_ = std::move(expired); }
  // Begins.
  void Start() {
    WatchStop();
    Ask();
  }

 protected:
  using Outcome = LoadOutcome<V>;

  AsyncLoad(Loads& loads, TaskCount& tasks, PendingCompletions& pending, K key, LoadOptions options)
      : loads_(loads),
        store_(loads.store()),
        shared_(store_.shared()),
        tasks_(tasks),
        pending_(pending),
        limiter_(loads.limiter()),
        maker_(limiter_.CurrentMaker()),
        key_(std::move(key)),
        options_(std::move(options)),
        location_(Locate(store_, key_)),
        is_sampled_(store_.holder_sampler().active()),
        holder_label_(is_sampled_ ? HolderLabel::Current() : nullptr),
        flight_(location_.hash(), *this) {}
  ~AsyncLoad() = default;

  virtual void Post(std::shared_ptr<Task> task) = 0;
  // Calls CacheLoads::Load.
  virtual void Load(typename Loads::QueuedRun& run) = 0;
  // Gets the outcome; or hears that the executor has dropped the task.
  virtual void Receive(Outcome outcome) = 0;
  virtual void ReceiveDrop() = 0;

  Loads& loads() { return loads_; }
  PendingCompletions& pending() { return pending_; }
  // Leaves the flight, as the stop callback, or at the cache's end.
  void LeaveIfWaiting() {
    Departure departure;
    Leave(departure);
  }
  // Ends the ask's task, which has not begun, because the cache ends.
  void EndUnrun() {
    if (!Claim()) return;
    Outcome outcome;
    outcome.status = EndedBeforeLoad();
    EndWithoutRun(std::move(outcome), [] {});
  }

  K& key() { return key_; }
  const LoadOptions& options() const { return options_; }
  const typename Loads::KeyLocation& location() const { return location_; }

 private:
  using Lookup = typename Store::template LookupKeyOf<K>;
  using MutexLock = typename Store::MutexLock;
  using Flight = typename Flights::Flight;
  struct OnStop {
    void operator()() const { load->LeaveIfWaiting(); }
    AsyncLoad* load;
  };

  static absl::Status EndedBeforeLoad() {
    return NoThrowStatus(absl::StatusCode::kAborted,
                         "the cache has ended before the load could begin");
  }
  static typename Loads::KeyLocation Locate(Store& store, const K& key) {
    const Lookup lookup = key;
    return store.shards().Locate(lookup);
  }

  // Makes the ask leave when its stop is requested.
  void WatchStop() {
    if (options_.stop_token.stop_possible()) {
      stop_callback_.emplace(options_.stop_token, OnStop{this});
    }
  }
  // Joins the flight of the key, or queues one.
  void Ask() {
    Outcome outcome;
    std::shared_ptr<Task> task;
    Asked asked;
    {
      PostLater post;
      asked = TryAsk(outcome, task, post);
    }
    if (asked == Asked::kAnswered) Deliver(std::move(outcome));
    if (asked == Asked::kQueued) PostTask(std::move(task));
  }
  // Posts the task. An exception of the executor is the result of the ask, whose task will not run
  // then.
  void PostTask(std::shared_ptr<Task> task) {
    task->SetPosted();
    CatchErrors([&] { Post(task); }, [&] { task->Fail(std::current_exception()); });
  }
  enum class Asked { kAnswered, kWaits, kQueued };
  static Asked Fail(Outcome& outcome, const absl::Status& status) {
    outcome.status = status;
    return Asked::kAnswered;
  }
  Asked TryAsk(Outcome& outcome, std::shared_ptr<Task>& task, PostLater& post) {
    const std::shared_ptr<AsyncLoad> self = this->shared_from_this();
    const Lookup lookup = key_;
    auto& table = location_.shard->table;
    Flights& flights = location_.shard->flights;
    task = std::make_shared<Task>(self);
    for (int attempt = 0;; ++attempt) {
      typename Store::TableEntry present;
      typename Store::Table::DeferredReleases deferred;
      const auto match = store_.MatchingUnexpired(lookup, store_.freshness().NowIfNeeded());
      const bool late = IsLate();
      MutexLock lock(table.mutex);
      present = table.FindLocked(location_.hash(), match, deferred);
      if (present.slot != nullptr) {
        outcome.object = std::move(present.object);
        lock.unlock();
        RecordTaken(outcome.object);
        return Asked::kAnswered;
      }
      // If a stop is requested after this look, its callback finds the flight.
      const bool cancelled = options_.stop_token.stop_requested();
      if (cancelled || late) return Fail(outcome, LeftStatus(cancelled));
      if (!deferred.empty()) continue;
      // Under the lock: then the end of the cache comes later to this key, and finds the ask.
      if (caller_waits_ && shared_->is_ending()) return Fail(outcome, EndedBeforeLoad());
      const auto found = flights.Find(location_.hash(), store_.shards().MatchingKey(lookup));
      if (found.flight != nullptr) {
        if (caller_waits_ && found.flight->IsThisThreads()) {
          return Fail(outcome, Loads::AsksForOwnKey());
        }
        keep_ = self;
        JoinFlight(*found.flight, post);
        return Asked::kWaits;
      }
      if (found.key_pending == nullptr) {
        if (StartFlight(found, self)) return Asked::kQueued;
      } else if (attempt >= Flights::kSpins) {
        std::string circle;
        if (flights.AwaitKey(*found.key_pending, lock, &circle)) continue;
        outcome.SetCircular(circle);
        return Asked::kAnswered;
      }
      lock.unlock();
      StdAtomics::Pause(attempt);
    }
  }

  // Starts the flight that a task is to take over, under the shard's lock. Returns false if another
  // one has just started in the shard without the lock.
  bool StartFlight(const typename Flights::Found& found, const std::shared_ptr<AsyncLoad>& self) {
    Flights& flights = location_.shard->flights;
    if (!flights.Start(flight_, found)) return false;
    flight_.SetKey(std::addressof(key_));
    flights.Join(flight_, *this);
    keep_ = self;
    taken_ = false;
    tasks_.Begin();
    // Relaxed: the task is posted after this.
    state_.store(State::kPosted, std::memory_order_relaxed);
    return true;
  }
  // Joins a flight, under the shard's lock.
  void JoinFlight(Flight& other, PostLater& post) {
    location_.shard->flights.Join(other, *this);
    // A running load that has made this ask may wait for the queued task: so that may exceed the
    // limit.
    if (other.queued() && maker_ != LoadLimiter::kNoLoad) {
      loads_.limiter().LetExceed(*static_cast<AsyncLoad*>(other.owner()), post);
    }
  }

  // An ask that has left its flight, and the loader's stop source if it was the last that waited.
  struct Departure {
    Departure() = default;
    Departure(const Departure&) = delete;
    Departure& operator=(const Departure&) = delete;
    ~Departure() {
      if (load == nullptr) return;
      if (to_stop.stop_possible()) to_stop.request_stop();
      load->Deliver(std::move(outcome));
    }
    std::shared_ptr<AsyncLoad> load;
    StopSource to_stop{kNoStopState};
    Outcome outcome;
  };

  // Runs the task.
  void RunTask() {
    if (!Claim()) return;
    const std::shared_ptr<AsyncLoad> self = this->shared_from_this();
    // Destroyed in reverse order: this thread no longer uses the cache when anybody gets a result,
    // and may end the cache.
    Departure departure;
    typename Loads::QueuedRun run{*this};
    PostLater post;
    const TaskCount::Running running(tasks_);
    const TaskEnd end{*this, run, post};
    // The load that has made the task may wait for it.
    const LoadLimiter::TaskScope scope(loads_.limiter(), maker_);
    if (IsLate()) Leave(departure);
    CatchErrors([&] { Load(run); }, [&] { run.outcome.error = std::current_exception(); });
  }
  // Ends the task, on whatever way its thread leaves.
  struct TaskEnd {
    ~TaskEnd() { load.EndTask(run, post); }
    AsyncLoad& load;
    typename Loads::QueuedRun& run;
    PostLater& post;
  };
  void EndTask(typename Loads::QueuedRun& run, PostLater& post) {
    if (run.deferred) return;  // it may run again already
    if (shared_->ended()) {
      // By user code of this very task: no other thread uses it.
      if (taken_) return;
      Flights::TakeContinuations(flight_, run.ended);
      run.ended.result.status = CacheHasEnded();
      return;
    }
    {
      MutexLock lock(location_.shard->table.mutex);
      if (!taken_) {  // it has ended before its flight has begun
        location_.shard->flights.EndQueued(flight_, &run.ended);
        run.ended.result = run.outcome;
      }
    }
    loads_.limiter().PostNext(post);
    // While the cache is certain to be there: it may end before asks of a pending load have their
    // results.
    run.ended.Prepare();
    if (!run.ended.result.abandoned) return;
    post.PostAll();
    run.ended.AskAnew();
  }
  // Ends the ask's task, which will not run, because of the error, or if that is null, because the
  // executor has dropped it.
  void Drop(std::exception_ptr error) {
    if (!Claim()) return;
    Outcome others;
    others.abandoned = true;
    EndWithoutRun(std::move(others), [&] {
      dropped_ = this->flight() == &flight_;
      drop_error_ = std::move(error);
    });
  }
  // Calls `on_end()` under the shard's lock, unless the flight has been taken over.
  template <typename OnEnd>
  void EndWithoutRun(Outcome outcome, const OnEnd& on_end) {
    const std::shared_ptr<AsyncLoad> self = this->shared_from_this();
    // As in RunTask.
    typename Flights::EndedContinuations ended;
    PostLater post;
    const TaskCount::Running running(tasks_);
    {
      MutexLock lock(location_.shard->table.mutex);
      if (taken_) return;
      on_end();
      location_.shard->flights.EndQueued(flight_, &ended);
    }
    ended.result = std::move(outcome);
    loads_.limiter().PostNext(post);
    ended.Prepare();
    // As in EndTask: whoever hears of a drop may end the cache, and an ask that nobody waits for
    // must not use it afterwards.
    if (!ended.result.abandoned) return;
    post.PostAll();
    ended.AskAnew();
  }
  // Returns true once: to the thread that decides what happens to the task and to its place in the
  // count.
  bool Claim() {
    // Acquire and release, as in SetTaken's exchange: exactly one of the two leaves kPosted, and a
    // task that comes second sees that the flight was taken over, and does not touch the cache.
    State posted = State::kPosted;
    return state_.compare_exchange_strong(posted, State::kRunning, std::memory_order_acq_rel);
  }

  // Records, under the shard's lock, that the flight has been taken over, or has ended.
  void SetTaken() override {
    taken_ = true;
    // Orders as in Claim.
    if (state_.exchange(State::kTaken, std::memory_order_acq_rel) == State::kPosted) tasks_.End();
  }

  const Flight& queued_flight() const override { return flight_; }
  StartOutcome TryDefer() override {
    keep_deferred_ = this->shared_from_this();
    tasks_.Begin();
    State running = State::kRunning;
    // Orders as in Claim, here and below.
    bool given_back =
        state_.compare_exchange_strong(running, State::kPosted, std::memory_order_acq_rel);
    if (given_back && loads_.limiter().Defer(*this)) return StartOutcome::kDeferred;
    State posted = State::kPosted;
    const bool taken = !given_back || !state_.compare_exchange_strong(posted, State::kRunning,
                                                                      std::memory_order_acq_rel);
    // If it was taken in between, whoever took it has ended its place in the count.
    if (!given_back || !taken) tasks_.End();
    keep_deferred_.reset();
    return taken ? StartOutcome::kTaken : StartOutcome::kRefused;
  }
  bool wanted() const override {
    // Relaxed: PostAgain's task looks again.
    return state_.load(std::memory_order_relaxed) != State::kTaken;
  }
  void PostAgain() override {
    const std::shared_ptr<AsyncLoad> self = std::move(keep_deferred_);
    if (!wanted()) return;
    if (shared_->is_ending()) return EndUnrun();
    CatchErrors([&] { PostTask(std::make_shared<Task>(self)); },
                [&] { Drop(std::current_exception()); });
  }

  void Leave(Departure& departure) {
    if (shared_->ended()) return;  // by the user code that stops this, on this thread
    std::optional<TaskCount::Running> leaving;
    PostLater post;
    {
      MutexLock lock(location_.shard->table.mutex);
      if (this->flight() == nullptr) return;
      // The cache may end once its pending loads have, and so the asks that wait for them.
      pending_.count().Begin();
      leaving.emplace(pending_.count());
      location_.shard->flights.Leave(*this, &departure.to_stop);
      departure.load = std::move(keep_);
      departure.outcome.status = LeftStatus(options_.stop_token.stop_requested());
    }
    loads_.limiter().PostNext(post);
  }
  // Removes the stop callback, or waits for it if another thread runs it: it finds nothing to do.
  void PrepareToComplete(const Outcome& outcome) override {
    stop_callback_.reset();
    RecordTaken(outcome.object);
  }
  // Records that the asker gets the object, while the cache is certain to be there.
  void RecordTaken(const Ref<V>& object) const {
    if (is_sampled_ && !shared_->ended()) store_.RecordTakenBy(holder_label_, location_, object);
  }
  bool TryAskAnew() override {
    if (dropped_) return false;
    const bool cancelled = options_.stop_token.stop_requested();
    if (cancelled || IsLate()) {
      cannot_ask_ = LeftStatus(cancelled);
    } else if (shared_->is_ending()) {
      cannot_ask_ = CacheHasEnded();
    }
    if (!cannot_ask_.ok()) return false;
    const std::shared_ptr<AsyncLoad> self = std::move(keep_);
    CatchErrors(
        [&] {
          WatchStop();
          Ask();
        },
        [&] {
          Outcome own;
          own.error = std::current_exception();
          Deliver(std::move(own));
        });
    return true;
  }
  void Complete(const Outcome& outcome) override {
    if (outcome.abandoned && cannot_ask_.ok() && TryAskAnew()) return;
    const std::shared_ptr<AsyncLoad> self = std::move(keep_);
    Outcome own;
    if (std::exchange(dropped_, false)) {
      if (drop_error_ == nullptr && fallback_.get() == nullptr) {
        const LoadLimiter::TaskScope scope(limiter_, maker_);
        return ReceiveDrop();
      }
      own.error = std::exchange(drop_error_, nullptr);
    } else if (!outcome.abandoned) {
      own = outcome;
    } else {
      own.status = std::exchange(cannot_ask_, absl::OkStatus());
    }
    Deliver(std::move(own));
  }
  // Calls the receiver. Comes last, since the receiver may end the cache.
  void Deliver(Outcome outcome) {
    // Waits for the callback, if another thread runs it: it finds nothing to do.
    stop_callback_.reset();
    if (outcome.object.get() == nullptr && fallback_.get() != nullptr &&
        !options_.stop_token.stop_requested()) {
      shared_->counters.CountStaleServed();
      outcome.object = std::move(fallback_);
      outcome.error = nullptr;
      outcome.status = absl::OkStatus();
    }
    // The load that has made this ask may also wait for what the receiver asks for: so that counts
    // as asked for by the load, too.
    const LoadLimiter::TaskScope scope(limiter_, maker_);
    Receive(std::move(outcome));
  }

  bool IsLate() const {
    return options_.deadline != SteadyTime::max() &&
           std::chrono::steady_clock::now() >= options_.deadline;
  }

  Loads& loads_;
  Store& store_;
  const std::shared_ptr<typename Store::Shared> shared_;
  TaskCount& tasks_;
  PendingCompletions& pending_;
  LoadLimiter& limiter_;
  const LoadLimiter::LoadId maker_;
  K key_;
  const LoadOptions options_;
  const typename Loads::KeyLocation location_;
  const bool is_sampled_;  // whether the cache samples who takes objects
  const char* const holder_label_;
  Flight flight_;    // in the tree while it is queued
  Ref<V> fallback_;  // an expired object, or null
  bool caller_waits_ = false;
  // Guarded by the shard's lock while this waits for a flight; then only the thread that has ended
  // the flight uses them.
  std::shared_ptr<AsyncLoad> keep_;  // while this waits for a flight
  bool dropped_ = false;  // the executor has dropped this ask's own task, and it is not completed
  std::exception_ptr drop_error_ = nullptr;
  absl::Status cannot_ask_;  // why this does not ask anew, until it completes
  // Guarded by the shard's lock.
  bool taken_ = true;
  // While the task is deferred: set before Defer and taken by PostAgain, which the limiter's mutex
  // orders.
  std::shared_ptr<AsyncLoad> keep_deferred_;
  enum class State {
    kTaken,   // there is no task, or it has nothing to do
    kPosted,  // the executor has the task, or it is deferred; it has a place in the count of tasks
    kRunning  // the task runs, or has been dropped
  };
  // From kTaken to kPosted when a flight is queued; from kPosted to kRunning by the thread that
  // runs, drops or ends the task; from kRunning back to kPosted by TryDefer; from both to kTaken,
  // under the shard's lock, by the thread that takes the queued flight out. The thread that leaves
  // kPosted takes the task off the count; a task that runs stays in it until it returns.
  std::atomic<State> state_{State::kTaken};
  std::optional<StopCallback<OnStop>> stop_callback_;
};

// An ask with the types of a call. Loader is a decayed type, called once, as an rvalue.
template <typename Loads, typename Loader, typename Executor, typename Receiver>
class AsyncLoadBy final : public AsyncLoad<Loads> {
  using Base = AsyncLoad<Loads>;
  using K = typename Base::K;

 public:
  template <typename Key, typename GivenLoader, typename AnyExecutor>
  AsyncLoadBy(Loads& loads, TaskCount& tasks, PendingCompletions& pending, Key&& key,
              GivenLoader&& loader, AnyExecutor&& executor, Receiver receiver,
              const LoadOptions& options)
      : Base(loads, tasks, pending, K(std::forward<Key>(key)), options),
        loader_(std::forward<GivenLoader>(loader)),
        executor_(std::forward<AnyExecutor>(executor)),
        receiver_(std::move(receiver)) {}

 private:
  void Post(std::shared_ptr<typename Base::Task> task) override {
    std::invoke(executor_, [task = std::move(task)] { task->Run(); });
  }
  void Load(typename Loads::QueuedRun& run) override {
    const typename Base::Store::template LookupKeyOf<K> lookup = this->key();
    if constexpr (TakesCompletion<Loader, K, typename Base::V>()) {
      constexpr bool kTakesToken = kTakesTokenAndCompletion<Loader, K, typename Base::V>;
      const auto load = std::make_shared<CompletionLoad<Loads>>(
          this->loads(), this->pending(), this->location(), this->options(), kTakesToken);
      load->Run(lookup, std::move(this->key()), std::move(loader_), run);
    } else {
      WithAnyLoader<typename Base::V, K>(
          std::move(loader_), this->options(), [&](auto& any, const LoadRequest& request) {
            static_cast<void>(this->loads().Load(this->location(), lookup, std::move(this->key()),
                                                 any, request, IfOtherFails::kFail,
                                                 kNeverProvedAbsent, &run));
          });
    }
  }
  void Receive(typename Base::Outcome outcome) override { receiver_(std::move(outcome)); }
  void ReceiveDrop() override { receiver_.Drop(); }

  Loader loader_;
  Executor executor_;
  Receiver receiver_;
};

// Stores an executor; one that can't be copied or moved by reference.
template <typename Executor>
using StoredExecutor =
    std::conditional_t<std::is_constructible_v<std::decay_t<Executor>, Executor>,
                       std::decay_t<Executor>, std::reference_wrapper<std::decay_t<Executor>>>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_ASYNC_LOAD_H_
