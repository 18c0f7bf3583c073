// SPDX-License-Identifier: Apache-2.0
// A load by the cache's executor for a caller that has an expired object, and waits for the new one
// no longer than its soft timeout.
//
// It is an asynchronous ask (async_load.h), so there is one load for a key, whoever asks for it and
// in whatever way. Its receiver is an AwaitedOutcome, for which the caller sleeps. A caller that
// leaves stays a continuation of the flight: the load goes on. Only if it is cancelled it leaves
// the flight, too.
//
// Nobody who ends the cache can know of a load that was left behind. So its task uses the cache as
// that of a refresh does (BackgroundTasks): one that the executor still has at the cache's end does
// nothing, and the end waits for those that run. Until the load has its outcome it is on a list, by
// which the end finds those that have not begun.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_BACKGROUND_LOAD_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_BACKGROUND_LOAD_H_

#include <functional>
#include <memory>
#include <utility>

#include "weakcache/cache/internal/core/async_load.h"
#include "weakcache/cache/internal/core/load_receivers.h"
#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/awaited_outcome.h"
#include "weakcache/cache/internal/loading/background_tasks.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/pending_completions.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/internal/loading/task_count.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// The loads whose tasks an executor has. The cache and its loads own this together.
using BackgroundLoads = BasicPendingLoads<StdAtomics>;

// Loads is a CacheLoads.
template <typename Loads, typename Made>
class BackgroundLoad final : public AsyncLoad<Loads>, public BackgroundLoads::Load {
  using Base = AsyncLoad<Loads>;

 public:
  using K = typename Base::K;
  using V = typename Base::V;
  using Executor = std::function<void(std::function<void()>)>;

  struct Surroundings {
    std::shared_ptr<const Executor> executor;
    std::shared_ptr<BackgroundTasks> tasks;
    std::shared_ptr<BackgroundLoads> list;
    std::shared_ptr<AwaitedOutcome<V>> awaited;
  };

  template <typename Key>
  BackgroundLoad(Loads& loads, TaskCount& count, PendingCompletions& pending, Key&& key,
                 std::unique_ptr<AnyLoader<K, Made>> loader, const LoadOptions& options,
                 Surroundings surroundings)
      : Base(loads, count, pending, K(std::forward<Key>(key)), options),
        loader_(std::move(loader)),
        surroundings_(std::move(surroundings)) {
    this->SetCallerWaits();
  }

  // Begins. Called once, after the construction.
  void Start() {
    const auto self = std::static_pointer_cast<BackgroundLoad>(this->shared_from_this());
    // The result does not matter: if the cache is ending, TryAsk sees that under the shard's lock.
    static_cast<void>(surroundings_.list->Add(*this, self, [] { return false; }));
    CatchErrors([&] { Base::Start(); },
                [&] {
                  surroundings_.list->Remove(*this);
                  Rethrow();
                });
  }

 private:
  // The function that the executor gets.
  class PostedTask {
   public:
    PostedTask(std::shared_ptr<BackgroundTasks> tasks, std::shared_ptr<typename Base::Task> task)
        : tasks_(std::move(tasks)), task_(std::move(task)) {}
    PostedTask(const PostedTask&) = delete;
    PostedTask& operator=(const PostedTask&) = delete;
    // Makes the load fail, unless the task has begun, or the cache ends.
    ~PostedTask() {
      const BackgroundTasks::Running running(tasks_);
      if (!running.may_run()) task_->Disown();
      task_.reset();
    }
    void Run() {
      const BackgroundTasks::Running running(tasks_);
      if (running.may_run()) task_->Run();
    }

   private:
    const std::shared_ptr<BackgroundTasks> tasks_;
    std::shared_ptr<typename Base::Task> task_;
  };

  void Post(std::shared_ptr<typename Base::Task> task) override {
    const auto executor = surroundings_.executor;  // the cache may end in the call
    std::invoke(*executor, [posted = std::make_shared<PostedTask>(
                                surroundings_.tasks, std::move(task))] { posted->Run(); });
  }
  void Load(typename Loads::QueuedRun& run) override {
    const typename Base::Store::template LookupKeyOf<K> lookup = this->key();
    static_cast<void>(this->loads().Load(this->location(), lookup, std::move(this->key()), *loader_,
                                         LoadRequest{this->options()}, IfOtherFails::kFail,
                                         kNeverProvedAbsent, &run));
  }
  void EndWithCache() override {
    this->EndUnrun();
    // If it has joined another ask's flight instead, leaves that; nobody else may be waiting for
    // it.
    this->LeaveIfWaiting();
  }
  void Receive(typename Base::Outcome outcome) override {
    surroundings_.list->Remove(*this);
    surroundings_.awaited->Set(std::move(outcome));
  }
  void ReceiveDrop() override {
    typename Base::Outcome outcome;
    outcome.status = TaskWasDropped();
    Receive(std::move(outcome));
  }

  const std::unique_ptr<AnyLoader<K, Made>> loader_;
  const Surroundings surroundings_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_BACKGROUND_LOAD_H_
