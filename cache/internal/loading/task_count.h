// SPDX-License-Identifier: Apache-2.0
// TaskCount: what the end of a cache waits for.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_TASK_COUNT_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_TASK_COUNT_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <utility>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// Counts tasks, or other work of any thread, that use a cache. The cache's end waits for them: see
// AwaitReturns and AwaitCertainReturns. Thread-safe.
class TaskCount {
 public:
  // A task that runs on this thread, as long as this lives. The user code with which it ends may
  // end the cache.
  class Running {
   public:
    explicit Running(TaskCount& count) : count_(&count), outer_(std::exchange(Innermost(), this)) {}
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    ~Running() {
      // Mostly the innermost one.
      Running** link = &Innermost();
      while (*link != this) link = &(*link)->outer_;
      *link = outer_;
      if (count_ != nullptr) count_->End();
    }

   private:
    friend class TaskCount;
    struct OfThread {
      Running* innermost;
    };
    static Running*& Innermost() { return StdAtomics::ThreadLocal<OfThread>().innermost; }

    TaskCount* count_;  // null once the cache has ended
    Running* outer_;
  };

  TaskCount() = default;
  TaskCount(const TaskCount&) = delete;
  TaskCount& operator=(const TaskCount&) = delete;
  // Checks, at the cache's end, that no task outlives the cache, except one that ends it.
  ~TaskCount() {
    for (Running* task = Running::Innermost(); task != nullptr; task = task->outer_) {
      if (task->count_ == this) std::exchange(task->count_, nullptr)->End();
    }
    Check(count_.load(std::memory_order_acquire) == 0, "~LargeObjectCache",
          "a task of GetOrLoadAsync has neither run nor been dropped");
  }
  // Waits for tasks of other threads that have given their results, and are about to return.
  void AwaitReturns() const {
    const size_t own = OnThisThread();
    const auto latest = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    // The whole process may have been stopped until now: then others need some time, too.
    int late_attempts = 0;
    for (int attempt = 0; count_.load(std::memory_order_acquire) > own; ++attempt) {
      if (std::chrono::steady_clock::now() > latest && ++late_attempts > 1000) {
        return;  // the destructor says what is wrong
      }
      StdAtomics::Pause(attempt);
    }
  }
  // Waits for other threads' work that is certain to end.
  void AwaitCertainReturns() const {
    const size_t own = OnThisThread();
    for (int attempt = 0; count_.load(std::memory_order_acquire) > own; ++attempt) {
      StdAtomics::Pause(attempt);
    }
  }
  void Begin() { count_.fetch_add(1, std::memory_order_relaxed); }
  void End() { count_.fetch_sub(1, std::memory_order_release); }

 private:
  size_t OnThisThread() const {
    size_t own = 0;
    for (const Running* task = Running::Innermost(); task != nullptr; task = task->outer_) {
      own += task->count_ == this ? 1 : 0;
    }
    return own;
  }

  // A thread adds 1 for its task or other work, while it uses the cache, which can't end then: so
  // relaxed. The thread that is through with it takes 1 off. That release pairs with the acquire at
  // the cache's end: by then the tasks have done all that they do with the cache.
  std::atomic<size_t> count_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_TASK_COUNT_H_
