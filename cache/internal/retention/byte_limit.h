// SPDX-License-Identifier: Apache-2.0
// The hard limit of a cache: bytes that are never exceeded, and the loads that wait for room.
//
// The whole state is one word: the weight of the objects in the cache and of what is reserved for
// loads under way; and one bit that says whether a load waits. So a dying object gives its bytes
// back without a lock, unless somebody waits for them:
//
//   a death      subtracts its bytes, and reads in the same step that there is a waiter: wakes it
//   a waiter     joins the queue, which sets the bit, then looks for the last time, then sleeps
//
// Both are read-modify-writes of the same word, so one of them comes first: either the waiter sees
// the room, or the death sees the bit. No wake-up is lost.
//
// Waiters queue in the order in which they came. Only the first may take room, so that a large
// object's load is not starved by those of small ones; whoever leaves the front wakes the next one.
// A thread that does not wait, such as one that puts an object, may still be quicker.
//
// A waiter is in no wait graph (wait_graph.h): it waits for users of objects, whom the graph can't
// know. Its deadline ends the wait in any case.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_BYTE_LIMIT_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_BYTE_LIMIT_H_

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe.
template <typename Policy>
class BasicByteLimit {
  using Mutex = BasicMutex<Policy>;
  using Lock = BasicMutexLock<Policy>;

 public:
  class Waiter;

  // The value of a cache without a hard limit, for which nothing but active() may be called.
  static constexpr uint64_t kNone = UINT64_MAX;
  // `limit`: kNone, or less than 2^63.
  explicit BasicByteLimit(uint64_t limit) : active_(limit != kNone), limit_(limit) {}
  BasicByteLimit(const BasicByteLimit&) = delete;
  BasicByteLimit& operator=(const BasicByteLimit&) = delete;

  bool active() const { return active_; }
  // Relaxed, here and in the next three: see the fields.
  uint64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  uint64_t used() const { return word_.load(std::memory_order_relaxed) & ~kHasWaiters; }
  bool HasWaiters() const { return (word_.load(std::memory_order_relaxed) & kHasWaiters) != 0; }

  // Adds the bytes, unless the sum would exceed the limit.
  [[nodiscard]] bool TryAdd(uint64_t bytes) {
    uint64_t word = word_.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t limit = this->limit();
      const uint64_t used = word & ~kHasWaiters;
      if (used > limit || bytes > limit - used) return false;
      if (word_.compare_exchange_weak(word, word + bytes, std::memory_order_relaxed,
                                      std::memory_order_relaxed)) {
        return true;
      }
    }
  }
  // Takes off bytes that have been added. Takes no lock if nobody waits.
  void Subtract(uint64_t bytes) {
    if ((word_.fetch_sub(bytes, std::memory_order_relaxed) & kHasWaiters) != 0) [[unlikely]]
      WakeFirst();
  }
  // Sets another limit, which the sum may exceed for now.
  void SetLimit(uint64_t limit) {
    limit_.store(limit, std::memory_order_relaxed);
    // An RMW, like the bit's setting: if this one comes first, its release pairs with the acquire
    // there, and the waiter sees the new limit; else this thread sees the bit.
    if ((word_.fetch_add(0, std::memory_order_release) & kHasWaiters) != 0) WakeFirst();
  }
  // Wakes the waiters for a key with this hash. Has to be called after an object has come under it.
  void NotifyEntered(uint64_t hash) {
    // As in SetLimit: else the waiter finds the object.
    if ((word_.fetch_add(0, std::memory_order_release) & kHasWaiters) == 0) return;
    Lock lock(mutex_);
    for (Waiter* waiter = first_; waiter != nullptr; waiter = waiter->next_) {
      if (waiter->hash_ != hash) continue;
      waiter->entered_ = true;
      Wake(*waiter);
    }
  }
  // Returns how many threads sleep in Waiter::Await.
  uint64_t Sleeping() const {
    if (!HasWaiters()) return 0;
    Lock lock(mutex_);
    return sleeping_;
  }

 private:
  static constexpr uint64_t kHasWaiters = uint64_t{1} << 63;

  void WakeFirst() {
    Lock lock(mutex_);
    if (first_ != nullptr) Wake(*first_);
  }
  // Wakes a waiter. Holds the mutex to the end, as the waiter may be destroyed once that is free.
  static void Wake(Waiter& waiter) {
    waiter.signalled_ = true;
    waiter.condition_.NotifyAll();
  }

  // Whether there is a limit at all.
  const bool active_;
  // Any thread. Relaxed, as only the wake-ups depend on it: see SetLimit.
  typename Policy::template Atomic<uint64_t> limit_;
  // The sum of the bytes, at most the limit when bytes are added; and kHasWaiters, exactly while
  // the queue is not empty. Any thread adds and subtracts bytes; the bit is changed under the
  // mutex. Read-modify-writes only. Relaxed: nobody reads an object's memory because there is room
  // for another one; the order of the changes of this word is all that matters.
  typename Policy::template Atomic<uint64_t> word_{0};
  // The innermost lock: taken under any other one, and none is taken under it.
  mutable Mutex mutex_;
  Waiter* first_ ABSL_GUARDED_BY(mutex_) = nullptr;  // in the order of their tickets
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sleeping_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A load's place in the queue; on its thread's stack. Look for room after Join, and sleep only if
// there is none:
//
//   waiter.Join();
//   while (!(waiter.IsFirst() && TryToGetRoom())) {
//     switch (waiter.Await(deadline)) …
//   }
//   waiter.Leave();
template <typename Policy>
class BasicByteLimit<Policy>::Waiter {
 public:
  enum class Event { kRoom, kEntered, kDeadline };

  struct NoDeadline {};

  // For a load of a key with this hash.
  Waiter(BasicByteLimit& limit, uint64_t hash) : limit_(limit), hash_(hash) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter() { Leave(); }

  // Joins the queue, unless this is in it; at its old place if it has left.
  void Join() {
    if (queued_) return;
    Lock lock(limit_.mutex_);
    if (ticket_ == 0) ticket_ = ++limit_.last_ticket_;
    // Acquire pairs with the releases in SetLimit and NotifyEntered. Later waiters need none:
    // whoever finds the bit takes the mutex, which orders them.
    if (limit_.first_ == nullptr) limit_.word_.fetch_add(kHasWaiters, std::memory_order_acquire);
    Waiter** link = &limit_.first_;
    while (*link != nullptr && (*link)->ticket_ < ticket_) link = &(*link)->next_;
    next_ = *link;
    *link = this;
    queued_ = true;
    signalled_ = entered_ = false;
  }
  // Returns whether no other thread has waited longer.
  bool IsFirst() const {
    Lock lock(limit_.mutex_);
    return limit_.first_ == this;
  }
  // Returns when there may be room for the first one (also if this has become the first), or an
  // object has come under the key, since Join or the last Await; or when the deadline has come.
  template <typename Deadline>
  Event Await(const Deadline& deadline) {
    Lock lock(limit_.mutex_);
    ++limit_.sleeping_;
    const Awake awake{limit_};
    const auto signalled = [&] { return signalled_; };
    if constexpr (std::is_same_v<Deadline, NoDeadline>) {
      condition_.Wait(limit_.mutex_, signalled);
    } else {
      condition_.WaitUntil(limit_.mutex_, signalled, deadline);
    }
    if (!signalled_) return Event::kDeadline;
    signalled_ = false;
    return entered_ ? Event::kEntered : Event::kRoom;
  }
  // Makes Await return as if there were room. Called on any thread.
  void Interrupt() {
    Lock lock(limit_.mutex_);
    Wake(*this);
  }
  // Leaves the queue, if this is in it.
  void Leave() {
    if (!queued_) return;
    Lock lock(limit_.mutex_);
    Waiter** link = &limit_.first_;
    while (*link != this) link = &(*link)->next_;
    *link = next_;
    queued_ = false;
    if (limit_.first_ == nullptr) {
      limit_.word_.fetch_sub(kHasWaiters, std::memory_order_relaxed);
    } else if (link == &limit_.first_) {
      Wake(*limit_.first_);  // there may be room for that one
    }
  }

 private:
  friend class BasicByteLimit;
  struct Awake {
    ~Awake() ABSL_NO_THREAD_SAFETY_ANALYSIS { --limit.sleeping_; }
    BasicByteLimit& limit;
  };

  BasicByteLimit& limit_;
  const uint64_t hash_;
  bool queued_ = false;  // the thread's own
  // Guarded by the limit's mutex.
  uint64_t ticket_ = 0;  // 0: has not joined yet
  bool signalled_ = false;
  bool entered_ = false;
  Waiter* next_ = nullptr;
  BasicCondition<Policy> condition_;
};

using ByteLimit = BasicByteLimit<StdAtomics>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_BYTE_LIMIT_H_
