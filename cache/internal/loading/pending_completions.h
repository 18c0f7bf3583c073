// SPDX-License-Identifier: Apache-2.0
// The loads of a cache that nobody works on until their completions are called.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_PENDING_COMPLETIONS_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_PENDING_COMPLETIONS_H_

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/loading/load_task.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// The loads of a cache whose loaders have returned before their completions. Any thread.
class PendingCompletions {
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
    friend class PendingCompletions;
    std::shared_ptr<Load> keep_;  // while it is on the list
    Load* next_ = nullptr;
    Load* previous_ = nullptr;
  };

  PendingCompletions() = default;
  PendingCompletions(const PendingCompletions&) = delete;
  PendingCompletions& operator=(const PendingCompletions&) = delete;

  // The loads that have begun, and not ended.
  TaskCount& count() { return count_; }

  // False if the cache ends: then the load has to end at once.
  bool Add(Load& load, std::shared_ptr<Load> keep) {
    MutexLock lock(mutex_);
    if (ends_) return false;
    load.keep_ = std::move(keep);
    load.next_ = first_;
    if (first_ != nullptr) first_->previous_ = &load;
    first_ = &load;
    return true;
  }
  // Does nothing if the load is not on the list. The caller keeps it.
  void Remove(Load& load) {
    MutexLock lock(mutex_);
    static_cast<void>(Take(load));
  }
  // At the cache's end. Waits for threads that are in a call of a completion.
  void EndAll() {
    while (const std::shared_ptr<Load> load = TakeFirst()) load->EndWithCache();
    count_.AwaitCertainReturns();
  }

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;

  std::shared_ptr<Load> Take(Load& load) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (load.keep_ == nullptr) return nullptr;
    (load.previous_ == nullptr ? first_ : load.previous_->next_) = load.next_;
    if (load.next_ != nullptr) load.next_->previous_ = load.previous_;
    load.next_ = load.previous_ = nullptr;
    return std::move(load.keep_);
  }
  std::shared_ptr<Load> TakeFirst() {
    MutexLock lock(mutex_);
    ends_ = true;
    return first_ == nullptr ? nullptr : Take(*first_);
  }

  Mutex mutex_;
  Load* first_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  TaskCount count_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_PENDING_COMPLETIONS_H_
