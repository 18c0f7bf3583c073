// SPDX-License-Identifier: Apache-2.0
// Tasks of a cache that nobody waits for. They use the cache only while it exists.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_BACKGROUND_TASKS_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_BACKGROUND_TASKS_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Knows which of a cache's tasks run. The cache and its tasks own this together. Thread-safe.
class BackgroundTasks {
 public:
  // A task that runs on this thread, as long as this lives. During that time the cache does not
  // end, except by user code of this very task.
  class Running {
   public:
    explicit Running(std::shared_ptr<BackgroundTasks> tasks)
        : tasks_(std::move(tasks)), may_run_(tasks_->TryBegin()), outer_(nullptr) {
      if (may_run_) outer_ = std::exchange(Innermost(), this);
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    ~Running() {
      if (!may_run_) return;
      Innermost() = outer_;
      tasks_->End();
    }
    // Returns false if the cache has ended, or is about to.
    bool may_run() const { return may_run_; }

   private:
    friend class BackgroundTasks;
    struct OfThread {
      Running* innermost;
    };
    static Running*& Innermost() { return StdAtomics::ThreadLocal<OfThread>().innermost; }

    const std::shared_ptr<BackgroundTasks> tasks_;
    const bool may_run_;
    Running* outer_;
  };

  BackgroundTasks() = default;
  BackgroundTasks(const BackgroundTasks&) = delete;
  BackgroundTasks& operator=(const BackgroundTasks&) = delete;

  // Lets no task begin any more, at the cache's end.
  void RefuseTasks() {
    Lock lock(mutex_);
    closed_ = true;
  }
  // Does the same, and waits for those that run on other threads.
  void Close() {
    size_t own = 0;
    for (const Running* task = Running::Innermost(); task != nullptr; task = task->outer_) {
      own += task->tasks_.get() == this ? size_t{1} : 0;
    }
    Lock lock(mutex_);
    closed_ = true;
    changed_.Wait(mutex_, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return running_ <= own; });
  }

 private:
  using Lock = BasicMutexLock<StdAtomics>;

  bool TryBegin() {
    Lock lock(mutex_);
    if (closed_) return false;
    ++running_;
    return true;
  }
  void End() {
    Lock lock(mutex_);
    --running_;
    if (closed_) changed_.NotifyAll();
  }

  BasicMutex<StdAtomics> mutex_;
  BasicCondition<StdAtomics> changed_;
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_BACKGROUND_TASKS_H_
