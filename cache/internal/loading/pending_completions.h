// SPDX-License-Identifier: Apache-2.0
// The loads of a cache that nobody works on until their completions are called.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_PENDING_COMPLETIONS_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_PENDING_COMPLETIONS_H_

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/loading/task_count.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Lists the loads that a cache's end has to end: those whose loaders have returned before their
// completions or, as BackgroundLoads, those of callers with a soft timeout that have no outcome
// yet. Thread-safe.
template <typename Policy>
class BasicPendingLoads {
 public:
  class Load {
   public:
    Load() = default;
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;
    // Ends the load, unless another thread does.
    virtual void EndWithCache() = 0;

   protected:
    virtual ~Load() = default;

   private:
    friend class BasicPendingLoads;
    std::shared_ptr<Load> keep_;  // while it is on the list
    Load* next_ = nullptr;
    Load* previous_ = nullptr;
  };

  enum class HandOver {
    kPending,    // whoever comes first ends the load: its completion, or the end of the cache
    kCompleted,  // the completion has come: the loader's thread ends the load
    kCacheEnds,  // whoever comes first of the completion and the loader's thread
  };

  BasicPendingLoads() = default;
  BasicPendingLoads(const BasicPendingLoads&) = delete;
  BasicPendingLoads& operator=(const BasicPendingLoads&) = delete;

  // Hands over a load whose loader has returned. Calls `completed()`, which tells the load's
  // CompletionHandoff, and returns whether the completion has come. That happens under the lock: so
  // the end of the cache, which takes the load from the list, either finds it handed over, or has
  // begun before and is noticed here.
  template <typename Completed>
  [[nodiscard]] HandOver Add(Load& load, std::shared_ptr<Load> keep, const Completed& completed) {
    Lock lock(mutex_);
    if (completed()) return HandOver::kCompleted;
    if (ends_) return HandOver::kCacheEnds;
    load.keep_ = std::move(keep);
    load.next_ = first_;
    if (first_ != nullptr) first_->previous_ = &load;
    first_ = &load;
    return HandOver::kPending;
  }
  // Takes the load off the list, if it is on it. The caller keeps it.
  void Remove(Load& load) {
    Lock lock(mutex_);
    static_cast<void>(Take(load));
  }
  // Lets no load become pending from now on.
  void Close() {
    Lock lock(mutex_);
    ends_ = true;
  }
  // Takes a load off the list; null if there is none.
  std::shared_ptr<Load> TakeFirst() {
    Lock lock(mutex_);
    return first_ == nullptr ? nullptr : Take(*first_);
  }

 private:
  using Lock = BasicMutexLock<Policy>;

  std::shared_ptr<Load> Take(Load& load) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (load.keep_ == nullptr) return nullptr;
    (load.previous_ == nullptr ? first_ : load.previous_->next_) = load.next_;
    if (load.next_ != nullptr) load.next_->previous_ = load.previous_;
    load.next_ = load.previous_ = nullptr;
    return std::move(load.keep_);
  }

  BasicMutex<Policy> mutex_;
  Load* first_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
};

class PendingCompletions : public BasicPendingLoads<StdAtomics> {
 public:
  // Returns the count that the cache's end waits for; all that it counts is certain to end soon:
  // one for each load that has begun and not ended, one for each of their tasks until it has
  // returned, and one for each ask that is leaving its flight.
  TaskCount& count() { return count_; }

  // Ends all pending loads, at the cache's end and after Close. Waits for the threads that are in a
  // call of a completion, in such a loader, or in a stop callback.
  void EndAll() {
    while (const std::shared_ptr<Load> load = TakeFirst()) load->EndWithCache();
    count_.AwaitCertainReturns();
  }

 private:
  TaskCount count_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_PENDING_COMPLETIONS_H_
