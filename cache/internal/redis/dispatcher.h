// SPDX-License-Identifier: Apache-2.0
// The thread that tells listeners, and runs what may run user code: no call of a tier waits for it.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_DISPATCHER_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_DISPATCHER_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

struct Notice {
  enum class Kind { kChanged, kGroupErased, kAllErased, kDisconnected, kConnected, kTask };

  Kind kind = Kind::kTask;
  std::string key = {};
  uint32_t group = 0;
  std::function<void()> task = {};
  uint64_t number = 0;  // set by the dispatcher: one more than that of the notice before
};

// Thread-safe. Always in a std::shared_ptr: its thread has one, too.
class Dispatcher : public std::enable_shared_from_this<Dispatcher> {
 public:
  void Start();
  // Tells what has been posted, and ends the thread; from that thread itself, not before it
  // returns.
  void Stop();

  // Tells all listeners.
  void Post(Notice notice);
  // Tells the listener too from now on, beginning with whether the tier is connected.
  void Add(std::weak_ptr<TierListener> listener);
  // Waits until all that has been posted before has been told, but not beyond the deadline:
  // listeners may run user code. Returns whether it has been. On the thread that tells, does not
  // wait.
  bool AwaitTold(std::chrono::steady_clock::time_point deadline);

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;
  struct Listener {
    std::weak_ptr<TierListener> listener;
    uint64_t first = 0;      // of the notices that it is told
    bool connected = false;  // whether the tier was when the listener was added
    bool told = false;       // of that
  };

  // If the listeners are so slow, they are told that all has been erased.
  static constexpr size_t kMaxNotices = 100000;

  void Run();
  size_t CountListeners();
  void Tell(const Notice& notice);
  void PostLocked(Notice notice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  BasicCondition<StdAtomics> changed_;
  BasicCondition<StdAtomics> told_condition_;
  std::deque<Notice> notices_ ABSL_GUARDED_BY(mutex_);
  size_t changes_ ABSL_GUARDED_BY(mutex_) = 0;  // of the notices
  std::vector<Listener> listeners_ ABSL_GUARDED_BY(mutex_);
  uint64_t posted_ ABSL_GUARDED_BY(mutex_) = 0;  // the last notice's number
  uint64_t told_ ABSL_GUARDED_BY(mutex_) = 0;    // that of the last one that has been told
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_DISPATCHER_H_
