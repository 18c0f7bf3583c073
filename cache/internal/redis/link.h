// SPDX-License-Identifier: Apache-2.0
// A RedisTier's tie to its server: a thread with two connections, through which all changes go and
// all notices come.
//
// One connection sends changes. The server tracks the changes of the name space that others make
// ("CLIENT TRACKING … BCAST NOLOOP") and sends notices of them to the second connection, which has
// subscribed to them. If either connection is lost, so are notices, and both are given up. Without
// both, the tier is *away*: nobody reads, and changes are kept. When both are there again, the kept
// changes are made, then the application's threads may read again, and then the listeners are told.
//
// A process gets no notices of its own changes. So each read first waits until these have been
// answered. A change by another process may be told before or after a read: in the first case the
// read sees the new value, in the second the notice drops what was read. The listener's owner makes
// sure of that, also while its read is under way.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_LINK_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_LINK_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/redis/change_queue.h"
#include "weakcache/cache/internal/redis/circuit_breaker.h"
#include "weakcache/cache/internal/redis/connection.h"
#include "weakcache/cache/internal/redis/counters.h"
#include "weakcache/cache/internal/redis/dispatcher.h"
#include "weakcache/cache/internal/redis/generations.h"
#include "weakcache/cache/internal/redis/held_leases.h"
#include "weakcache/cache/internal/redis/key_events.h"
#include "weakcache/cache/internal/redis/keys.h"
#include "weakcache/cache/internal/redis/lead_waiters.h"
#include "weakcache/cache/internal/redis/wake_pipe.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/redis_tier_options.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// The server as it is connected now.
struct Endpoint {
  RedisAddress address = {};
  uint64_t epoch = 0;  // differs between any two connections
};

// Thread-safe, except Start and Stop.
class Link {
 public:
  Link(const RedisTierOptions& options, const KeyNames& names, TierCounters& counters,
       std::shared_ptr<Dispatcher> dispatcher);

  // Starts the thread, and waits for the end of its first attempt to connect.
  absl::Status Start();
  // Sends what is queued, for `hard_timeout` at most, and ends the thread.
  void Stop();

  // Null: the tier is away. Another object for each connection.
  std::shared_ptr<const Endpoint> endpoint() const;
  // What is wrong; empty: nothing.
  std::string condition() const;

  ChangeQueue& changes() { return changes_; }
  LeadWaiters& waiters() { return waiters_; }
  // Waits until listeners have been told what has come so far, or until the deadline.
  void AwaitTold(Deadline deadline) { (void)dispatcher_->AwaitTold(deadline); }
  // Waits until listeners have been told of all changes that others had made before.
  absl::Status AwaitNotices(Deadline deadline);
  // Prolongs a lease from now on, or no longer.
  void HoldLease(HeldLeases::Lease lease);
  void DropLease(const std::string& token) { leases_.Remove(token); }
  Generations& generations() { return generations_; }

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;
  // A change that has been sent, and of whose replies so many have not come.
  struct Sent {
    Change change = {};
    size_t replies = 0;
    uint64_t generations_version = 0;
    absl::Status error = {};  // the first
  };

  // The server's process, and which of its clients changes are sent as.
  struct Identity {
    std::string run = {};
    long long client = 0;
  };

  void Run();
  // Connects, or serves the connections for a while.
  void RunOnce();
  // Waits for the time of the next attempt; after a stop, the first one is at once.
  void AwaitRetry();
  absl::Status Connect();
  absl::StatusOr<RedisAddress> Resolve();
  // Makes sure that nothing that was sent before is done from now on.
  absl::Status EndFormerWriter(Deadline deadline);
  absl::Status StartTracking(Deadline deadline);
  // Has notices and messages come on their connection, and events of keys if the server tells them.
  absl::Status Subscribe(Deadline deadline);
  // No later than the end of the time that a stop has left.
  Deadline Bounded(Deadline deadline) const;
  // One round: sends, waits, receives. Fails if a connection is lost.
  absl::Status Serve();
  absl::Status AwaitFiles();
  void SendQueued();
  void SendDue(Deadline now);
  void Send(Change change);
  // Notes that from now on an answer is awaited.
  void BeginToWait();
  // Appends the commands of a change, which is the last in `sent_`.
  void Fill(Sent& sent, Change&& change);
  size_t AppendCommands(Change& change, const ValueTag& tag);
  size_t AppendPut(Change& change, const ValueTag& tag);
  size_t AppendChunks(Change& change, std::string_view time);
  void AppendValue(std::string_view name, std::string_view time, std::string_view header,
                   const TierBytes& body);
  void DropChunks(Manifest chunks);
  size_t AppendErase(const Change& change);
  size_t AppendEndGeneration(const Change& change);
  std::string MessageOf(char kind, std::string_view about) const;
  std::string TimeOf(const Change& change) const;
  absl::Status ReceiveReplies();
  void Complete(Sent sent, const redisReply& last);
  void CompletePut(Sent sent, const redisReply& last);
  void CompleteEndLead(Sent sent, const redisReply& last);
  // Both return whether a later change that has been sent already would be overtaken if this were
  // sent again: one of the key or of everything, or of the new value's group.
  bool IsSuperseded(const Change& put) const;
  bool IsErasedWithGroup(const Change& put) const;
  void FailPut(Change change, const absl::Status& status);
  absl::Status ReceiveNotices();
  void TakeNotice(const redisReply& reply);
  // Asks what somebody waits for in AwaitNotices.
  void SendQuestion();
  void TakeAnswer(std::string_view number);
  void TakeInvalidation(const redisReply& keys);
  void TakeMessage(std::string_view text);
  void TakeEvent(std::string_view channel, std::string_view event);
  void Tell(Notice notice);
  // Makes the kept changes, one round after the other, and is connected when there are none.
  void PlayKept();
  void Lose(const absl::Status& reason);
  bool stopping() const;
  bool MayStop();

  const RedisTierOptions options_;
  const KeyNames& names_;
  TierCounters& counters_;
  const std::shared_ptr<Dispatcher> dispatcher_;
  const std::string id_;  // of this tier, in its messages to others
  WakePipe wake_pipe_;
  ChangeQueue changes_;
  LeadWaiters waiters_;
  HeldLeases leases_;
  Generations generations_;

  mutable Mutex mutex_;
  BasicCondition<StdAtomics> attempted_condition_;
  bool attempted_ ABSL_GUARDED_BY(mutex_) = false;
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Deadline stop_deadline_ ABSL_GUARDED_BY(mutex_) = {};
  std::shared_ptr<const Endpoint> endpoint_ ABSL_GUARDED_BY(mutex_);
  // Questions on the connection of notices, whose answers come after all notices before them: how
  // many have been asked for, and the number of the last one that was answered.
  BasicCondition<StdAtomics> answered_condition_;
  uint64_t questions_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t answered_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string condition_ ABSL_GUARDED_BY(mutex_) = "not connected yet";

  // The thread's own.
  uint64_t epoch_ = 0;
  Backoff backoff_;
  Deadline retry_ = {};
  bool hurried_ = false;  // has attempted to connect since the stop
  std::unique_ptr<Connection> writer_;
  std::unique_ptr<Connection> notices_;
  Identity identity_;         // of the writer, or of the last one if there is none
  bool events_told_ = false;  // whether the server publishes the events of keys
  KeyEvents events_;
  std::deque<Sent> sent_;
  uint64_t sent_bytes_ = 0;
  bool playing_ = false;  // connected, but the kept changes are not made yet
  // When something last came, or went from a full queue of the system's, or the wait for an answer
  // began; and when a sign of life
  // was last asked for.
  Deadline writer_active_ = {};
  Deadline notices_active_ = {};
  bool writer_full_ = false;  // whether the system has not taken all that is to be sent
  bool notices_asked_ = false;
  uint64_t sent_question_ = 0;  // the last one that this connection was asked
  std::thread thread_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_LINK_H_
