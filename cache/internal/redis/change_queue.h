// SPDX-License-Identifier: Apache-2.0
// The changes that application threads make, on their way to the server.
//
// While the server is away, the queue keeps which keys and groups were changed, and they are erased
// when it is back. A Put is kept as an erasure, too, because another process may have changed the
// key since, and an object must not be put after a later change. So it is enough to keep keys; if
// there are too many, the queue keeps only that everything is to be erased.
//
// A thread that reads first waits for earlier changes of its process, which come with no notice.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_CHANGE_QUEUE_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_CHANGE_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/redis/connection.h"
#include "weakcache/cache/internal/redis/counters.h"
#include "weakcache/cache/internal/redis/keys.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

struct Change {
  enum class Kind { kPut, kErase, kEraseGroup, kEraseAll, kEndLead, kProlong, kDropChunks, kPing };

  // Whether it is kept while the server is away.
  bool is_kept() const {
    return kind == Kind::kErase || kind == Kind::kEraseGroup || kind == Kind::kEraseAll ||
           (kind == Kind::kPut && lease.empty());
  }

  Kind kind = Kind::kPing;
  std::string key = {};
  std::optional<uint32_t> group = {};  // that is erased, or of the entry that is put
  std::string lease = {};              // the token of a TierLease, or empty
  TierBytes sealed = {};               // the entry that is put
  uint64_t object_bytes = 0;           // of that
  absl::Time expires = absl::InfiniteFuture();
  int attempts = 0;      // to put it with the right generations
  bool erases = false;   // with the lease that is given up, if it is held, goes the former value
  Manifest chunks = {};  // that it was put as, or that are to go; without a number: none
  // Is called once, on the tier's own thread, which waits for nobody. May be empty.
  std::function<void(absl::Status)> done = {};
};

// Thread-safe.
class ChangeQueue {
 public:
  // `wake` makes the thread that sends look at the queue.
  ChangeQueue(size_t max_changes, uint64_t max_bytes, TierCounters& counters,
              std::function<void()> wake);

  // Takes a change from any thread.
  void Push(Change change);
  // Waits until no change of the key, of a group or of everything that was pushed before is still
  // unanswered. Returns DeadlineExceeded if that takes too long, and Unavailable if the server is
  // away.
  absl::Status AwaitChangesOf(std::string_view key, Deadline deadline);

  // The rest is for the thread that sends.

  // Takes the next change from the queue. The thread calls Finish for it when it has been answered.
  std::optional<Change> Pop();
  void Finish(Change&& change, const absl::Status& status);
  // Returns the kept changes, and keeps them no longer. If there are none, the queue is open from
  // then on: changes are sent.
  std::vector<Change> TakeKept();
  // Closes the queue: from now on changes are kept, also those in the queue, and `unanswered`.
  void Close(std::vector<Change> unanswered);
  // Keeps that everything is to be erased, in place of what is kept and of what is lost.
  void KeepAll();
  bool empty();
  bool has_kept();

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;
  struct Ended {
    std::function<void(absl::Status)> done;
    absl::Status status;
  };

  void Keep(Change& change, std::vector<Ended>& ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Count(const Change& change, int difference) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enqueue(Change change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EraseAllInstead(std::vector<Ended>& ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Run(std::vector<Ended>& ended);

  const size_t max_changes_;
  const uint64_t max_bytes_;
  TierCounters& counters_;
  const std::function<void()> wake_;

  Mutex mutex_;
  BasicCondition<StdAtomics> finished_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Change> queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // Of the changes that are queued or sent: how many there are of each key, and of many keys.
  std::unordered_map<std::string, int> changes_of_ ABSL_GUARDED_BY(mutex_);
  int wide_changes_ ABSL_GUARDED_BY(mutex_) = 0;
  // What was changed while the server is away.
  std::set<std::string> kept_keys_ ABSL_GUARDED_BY(mutex_);
  std::set<uint32_t> kept_groups_ ABSL_GUARDED_BY(mutex_);
  bool kept_all_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_CHANGE_QUEUE_H_
