// SPDX-License-Identifier: Apache-2.0
// An executor whose tasks run when the test says so.
#ifndef WEAKCACHE_TESTS_SUPPORT_TASK_QUEUE_H_
#define WEAKCACHE_TESTS_SUPPORT_TASK_QUEUE_H_

#include <deque>
#include <functional>
#include <mutex>
#include <utility>

namespace weakcache::testing {

// For one thread at a time.
class TaskQueue {
 public:
  auto executor() {
    return [this](std::function<void()> task) {
      ++posted;
      tasks.push_back(std::move(task));
    };
  }
  void RunOne() {
    const std::function<void()> task = std::move(tasks.front());
    tasks.pop_front();
    task();
  }
  void RunAll() {
    while (!tasks.empty()) RunOne();
  }

  std::deque<std::function<void()>> tasks;
  int posted = 0;
};

// Thread-safe.
class SharedTaskQueue {
 public:
  auto executor() {
    return [this](std::function<void()> task) {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    };
  }
  // Returns false if there is no task.
  bool RunOne() {
    std::function<void()> task;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (tasks_.empty()) return false;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
    return true;
  }
  void RunAll() {
    while (RunOne()) {
    }
  }
  // Has the next task a second copy, which runs too, or is dropped.
  void CopyFirst() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!tasks_.empty()) tasks_.push_back(tasks_.front());
  }

 private:
  std::mutex mutex_;
  std::deque<std::function<void()>> tasks_;
};

inline void RunInline(const std::function<void()>& task) { task(); }

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_TASK_QUEUE_H_
