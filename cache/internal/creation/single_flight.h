// SPDX-License-Identifier: Apache-2.0
// One creation per key at a time: when several threads miss on one key, one creates the object and
// the others wait for its result.
//
// A creation that is under way is a flight. This file starts and joins flights, and ends them on
// whatever way the creating thread leaves, for all thread-safe containers. Nearly always there is
// no other flight in the shard: then starting one takes no lock.
#ifndef WEAKCACHE_CACHE_INTERNAL_CREATION_SINGLE_FLIGHT_H_
#define WEAKCACHE_CACHE_INTERNAL_CREATION_SINGLE_FLIGHT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/wait_graph.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/recursive_creation_error.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// The result of a creation: a handle, which may be null, or an exception.
template <typename H>
struct CreationResult {
  void SetCircular(const std::string& circle) { error = CircularCreationError(circle); }

  H object;
  std::exception_ptr error = nullptr;
};

// The flights of one shard, and the threads that wait for them. Flights and waiters are on their
// threads' stacks. All is guarded by the shard's lock, which callers hold except for
// StartUncontended. AnyResult is a CreationResult or the like.
template <typename AnyResult, typename Key, typename Policy>
class SingleFlight {
  using Mutex = BasicMutex<Policy>;
  using WaitGraph = BasicWaitGraph<Policy>;
  using Interest = BasicInterest<Policy>;

 public:
  using Result = AnyResult;
  class Flight;

  // Gets a flight's result, without a waiting thread. The fields are guarded by the shard's lock.
  // After the flight has ended, only the thread that has ended it uses the links.
  class Continuation {
   public:
    Continuation() = default;
    Continuation(const Continuation&) = delete;
    Continuation& operator=(const Continuation&) = delete;
    // All three are called without a lock once the flight has ended: first this one for all
    // continuations of the flight, while the container is certain to be there, and then the others,
    // which may run user code.
    virtual void PrepareToComplete(const Result& /*result*/) {}
    // Looks for another flight. Returns false if this gets the result of the one that has ended.
    virtual bool TryAskAnew() { return false; }
    virtual void Complete(const Result& result) = 0;

    // Returns the flight that this waits for, or null.
    Flight* flight() const { return flight_; }

   protected:
    virtual ~Continuation() = default;

   private:
    friend class SingleFlight;
    Flight* flight_ = nullptr;
    Continuation* next_ = nullptr;
    Continuation* previous_ = nullptr;
  };
  // In the order in which they have come.
  class Continuations {
   public:
    Continuations() = default;
    Continuations(const Continuations&) = delete;
    Continuations& operator=(const Continuations&) = delete;

    bool empty() const { return first_ == nullptr; }
    size_t size() const { return size_; }
    void Append(Continuation& continuation) {
      ++size_;
      continuation.previous_ = last_;
      continuation.next_ = nullptr;
      (last_ == nullptr ? first_ : last_->next_) = &continuation;
      last_ = &continuation;
    }
    void Remove(Continuation& continuation) {
      --size_;
      Continuation* const next = continuation.next_;
      Continuation* const previous = continuation.previous_;
      (previous == nullptr ? first_ : previous->next_) = next;
      (next == nullptr ? last_ : next->previous_) = previous;
    }
    // Moves all to the end of another list; from then on they wait for `flight`, which may be null.
    void MoveTo(Continuations& other, Flight* flight) {
      while (first_ != nullptr) {
        Continuation& moved = *first_;
        Remove(moved);
        moved.flight_ = flight;
        other.Append(moved);
      }
    }
    void PrepareToComplete(const Result& result) {
      for (Continuation* at = first_; at != nullptr; at = at->next_) at->PrepareToComplete(result);
    }
    Continuation* TakeFirst() {
      Continuation* const first = first_;
      if (first != nullptr) Remove(*first);
      return first;
    }

   private:
    Continuation* first_ = nullptr;
    Continuation* last_ = nullptr;
    size_t size_ = 0;
  };
  // Continuations whose flight has ended, and their result. Declare it before locks, flights and
  // permits: its destructor completes them.
  struct EndedContinuations {
    EndedContinuations() = default;
    EndedContinuations(const EndedContinuations&) = delete;
    EndedContinuations& operator=(const EndedContinuations&) = delete;
    ~EndedContinuations() {
      Prepare();
      while (Continuation* const continuation = list.TakeFirst()) continuation->Complete(result);
    }
    // Calls PrepareToComplete for all. Has to be called if the container may end before this
    // object's destructor: afterwards no other thread comes to the container through one of them.
    void Prepare() {
      if (!std::exchange(is_prepared, true)) list.PrepareToComplete(result);
    }
    // Does the same, and lets those ask anew that do not take the result. User code runs.
    void AskAnew() {
      Prepare();
      Continuations rest;
      while (Continuation* const continuation = list.TakeFirst()) {
        if (!continuation->TryAskAnew()) rest.Append(*continuation);
      }
      rest.MoveTo(list, nullptr);
    }
    Continuations list;
    Result result;
    bool is_prepared = false;
  };

  // Tells the owner of a queued flight that another flight has taken it over, or that nobody waits
  // for it any more. Called under the shard's lock.
  class QueuedOwner {
   public:
    virtual void SetTaken() = 0;

   protected:
    ~QueuedOwner() = default;
  };

  class Flight {
   public:
    explicit Flight(uint32_t hash) : hash_(hash), thread_(&WaitGraph::ThisThread()) {}
    // A queued flight: no thread works on it yet, and only continuations wait for it. A thread that
    // wants its key takes it over.
    Flight(uint32_t hash, QueuedOwner& owner) : hash_(hash), thread_(nullptr), owner_(&owner) {}
    Flight(const Flight&) = delete;
    Flight& operator=(const Flight&) = delete;

    // Sets the key, which has to stay until the flight has ended. From now on others can find it.
    void SetKey(const Key* key) {
      // Release pairs with the acquire in Find.
      key_.store(key, std::memory_order_release);
    }
    // Sets the group of what the flight creates, before it has a key.
    void SetGroup(uint32_t group) {
      group_ = group;
      has_group_ = true;
    }
    // Sets where those that wait are counted, before others can find the flight. `interest` may be
    // null, and has to stay until the flight has ended.
    void SetInterest(Interest* interest) { interest_ = interest; }
    bool IsThisThreads() const { return thread_ == &WaitGraph::ThisThread(); }
    bool queued() const { return owner_ != nullptr; }
    QueuedOwner* owner() const { return owner_; }
    // The next four: for a thread that holds the shard's lock.
    bool cancelled() const { return cancelled_; }
    bool superseded() const { return superseded_; }
    // Returns whether its failure is worth keeping.
    bool keeps_failure() const { return !cancelled_ && keeps_failure_; }
    // Returns whether a notice has come since HearNotices.
    bool noticed() const { return noticed_; }
    // Returns whether this thread may use the spare slots of the shard.
    bool has_spares() const { return uncontended_ && !cancelled_; }

   private:
    friend class SingleFlight;
    struct Waiter {
      Result result;
      bool completed = false;
      typename WaitGraph::Wait wait;
      Waiter* next;
      Waiter** link;  // what points to this one
    };

    const typename Policy::template Plain<uint32_t> hash_;
    // Who works on the flight. Changes under the shard's lock.
    typename WaitGraph::Thread* thread_;
    bool uncontended_ = false;  // started by StartUncontended
    bool cancelled_ = false;
    bool superseded_ = false;
    bool keeps_failure_ = true;
    bool hears_notices_ = false;
    bool noticed_ = false;
    // Both set before the key, and then constant.
    bool has_group_ = false;
    uint32_t group_ = 0;
    // Null until the creating thread has made the key; only that thread writes, once.
    typename Policy::template Atomic<const Key*> key_{nullptr};
    QueuedOwner* const owner_ = nullptr;
    Interest* interest_ = nullptr;
    Waiter* waiters_ = nullptr;
    Continuations continuations_;
    Flight* children_[2] = {nullptr, nullptr};
    Flight* next_visited_ = nullptr;  // scratch of ForEach and ForEachKey
  };

  SingleFlight() = default;
  SingleFlight(const SingleFlight&) = delete;
  SingleFlight& operator=(const SingleFlight&) = delete;

  // Starts the flight, without the lock, if there is no other. Until it is cancelled or has ended,
  // no other flight starts in this way. No thread cancels it before it has a key.
  bool StartUncontended(Flight& flight) {
    Flight* none = nullptr;
    // Release pairs with the acquire in Find. Acquire pairs with the release in Unlink: this thread
    // sees what earlier flights have entered, and the spare slots that they have left.
    flight.uncontended_ = root_.compare_exchange_strong(none, &flight, std::memory_order_acq_rel,
                                                        std::memory_order_relaxed);
    return flight.uncontended_;
  }

  // What a look at the flights has found.
  struct Found {
    Flight* flight;  // under the key, or null
    // Another thread's flight that has that hash and no key yet, or null: then look again soon.
    Flight* key_pending;
    Flight* parent;  // for Start: where a new one goes, which is the root if this is null
    uint32_t side;
  };
  template <typename Match>
  Found Find(uint32_t hash, const Match& match) const {
    Found found{nullptr, nullptr, nullptr, 0};
    Flight* flight = root_.load(std::memory_order_acquire);
    for (uint32_t path = hash; flight != nullptr; path >>= 1) {
      if (flight->hash_ == hash) {
        const Key* const key = flight->key_.load(std::memory_order_acquire);
        if (key == nullptr) {
          if (!flight->IsThisThreads()) found.key_pending = flight;
        } else if (match(*key)) {
          found.flight = flight;
          break;
        }
      }
      found.parent = flight;
      found.side = path & 1;
      flight = flight->children_[found.side];
    }
    return found;
  }

  // Starts the flight after a Find that has found none, under the same lock. Returns false if
  // another one has started without the lock meanwhile: then look again.
  bool Start(Flight& flight, const Found& found) {
    flight.uncontended_ = false;
    if (found.parent != nullptr) {
      found.parent->children_[found.side] = &flight;
      return true;
    }
    Flight* none = nullptr;
    // Relaxed: who looks at the flight holds the lock, too. Only StartUncontended does not, and
    // that fails as long as there is a flight; after this one it sees the release in Unlink.
    const bool started = root_.compare_exchange_strong(none, &flight, std::memory_order_relaxed,
                                                       std::memory_order_relaxed);
    return started;
  }

  // Takes a flight out of the tree: nobody joins it any more, and another one under its key may
  // start at once. Leaves a queued flight alone: it has not begun, so what it creates will be new
  // enough.
  void Cancel(Flight& flight) {
    if (flight.queued()) return;
    Unlink(flight);
    flight.cancelled_ = true;
  }
  // For a flight whose thread reads from a second tier, and reads again after a notice: from now on
  // a notice does not cancel the flight, but is remembered. Forgets earlier ones.
  void HearNotices(Flight& flight) {
    flight.hears_notices_ = true;
    flight.noticed_ = false;
  }
  // Lets notices cancel the flight again.
  void EndHearing(Flight& flight) { flight.hears_notices_ = false; }
  // Cancels a flight because of a second tier's notice, unless its thread hears that.
  void Notice(Flight& flight) {
    if (!flight.hears_notices_) return Cancel(flight);
    flight.noticed_ = true;
  }
  // Cancels a flight because an object has been entered that is newer than what the flight creates.
  void Supersede(Flight& flight) {
    Cancel(flight);
    flight.superseded_ = true;
  }
  // Has the flight keep no failure: an object has been entered, but it may be older than what the
  // flight creates.
  void DropFailure(Flight& flight) { flight.keeps_failure_ = false; }

  // Lets a continuation wait for a flight that has not ended.
  void Join(Flight& flight, Continuation& continuation) {
    continuation.flight_ = &flight;
    flight.continuations_.Append(continuation);
    if (flight.interest_ != nullptr) flight.interest_->Join();
  }
  // Takes out a continuation that waits for a flight. Whoever calls this stops `*to_stop` after the
  // unlock. Ends a queued flight that nobody waits for any more.
  void Leave(Continuation& continuation, StopSource* to_stop) {
    Flight& flight = *continuation.flight_;
    flight.continuations_.Remove(continuation);
    continuation.flight_ = nullptr;
    if (flight.queued()) {
      if (flight.continuations_.empty()) EndQueued(flight, nullptr);
    } else if (flight.interest_ != nullptr && flight.interest_->Leave()) {
      *to_stop = flight.interest_->source();
    }
  }
  // Puts the calling thread's flight in place of a queued one, whose continuations it takes over.
  void TakeOver(Flight& flight, Flight& queued) {
    flight.uncontended_ = false;
    Flight** const link = FindLink(queued);
    std::copy_n(queued.children_, 2, flight.children_);
    std::fill_n(queued.children_, 2, nullptr);
    if (link != nullptr) {
      *link = &flight;
    } else {
      // Relaxed, as in Start.
      root_.store(&flight, std::memory_order_relaxed);
    }
    if (flight.interest_ != nullptr) flight.interest_->Join(queued.continuations_);
    queued.continuations_.MoveTo(flight.continuations_, &flight);
    queued.owner_->SetTaken();
  }
  // Ends a queued flight that is in the tree. Its continuations, if there are any, go to `ended`.
  void EndQueued(Flight& queued, EndedContinuations* ended) {
    Unlink(queued);
    if (ended != nullptr) queued.continuations_.MoveTo(ended->list, nullptr);
    queued.owner_->SetTaken();
  }
  // Lets a flight go on without its thread: any thread may end it. Precondition: the flight has a
  // key.
  void Detach(Flight& flight) {
    // If no thread waits for it, then no search comes to it, as that is under the shard's lock.
    auto& graph = WaitGraph::Get();
    if (flight.waiters_ == nullptr) {
      flight.thread_ = &graph.AnyThread();
    } else {
      graph.Redirect(flight.waiters_, flight.thread_, graph.AnyThread());
    }
  }
  // Cancels all flights that have a key. The others have not called a factory yet.
  void CancelAll() {
    ForEach([this](Flight& flight) {
      // Acquire, as in Find: a flight that starts uncontended afterwards takes over the spare
      // slots.
      if (flight.key_.load(std::memory_order_acquire) != nullptr) Cancel(flight);
    });
  }
  // Cancels those of a group.
  void CancelGroup(uint32_t group) {
    ForEach([this, group](Flight& flight) {
      // Acquire, as in Find. The group is set before the key.
      if (flight.key_.load(std::memory_order_acquire) == nullptr) return;
      if (flight.has_group_ && flight.group_ == group) Cancel(flight);
    });
  }
  // Calls `visit(key)` for each flight that has a key, and a hash whose lowest `bits` bits are
  // those of `hash`; until it returns false.
  template <typename Visit>
  void ForEachKey(uint32_t hash, int bits, const Visit& visit) {
    const auto visit_key = [&](const Flight& flight) {
      if (((uint64_t{flight.hash_} ^ hash) & ((uint64_t{1} << bits) - 1)) != 0) return true;
      // Acquire, as in Find.
      const Key* const key = flight.key_.load(std::memory_order_acquire);
      return key == nullptr || visit(*key);
    };
    // Down to the tree of those flights, as in Find.
    Flight* top = root_.load(std::memory_order_acquire);
    for (int bit = 0; bit < bits && top != nullptr; ++bit) {
      if (!visit_key(*top)) return;
      top = top->children_[(hash >> bit) & 1];
    }
    Flight* last = top;
    for (Flight* flight = top; flight != nullptr; flight = flight->next_visited_) {
      last = AppendChildren(*flight, last);
      if (!visit_key(*flight)) return;
    }
  }

  enum class AwaitOutcome {
    kCompleted,  // the result has been moved to the caller's
    kCircular,   // the flight's thread waits for this one, perhaps through others: did not wait
    kLeft,       // the wait has ended before the flight
  };
  // Waits for another thread's flight. The mutex is unlocked meanwhile. If the wait would close a
  // circle, describes that in `*circle`. Whoever cancels the wait has to call WakeAll.
  template <typename Wait>
  [[nodiscard]] AwaitOutcome Await(Flight& flight, Mutex& mutex, Result& result,
                                   std::string* circle, Wait& wait)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    typename Flight::Waiter waiter;
    // Relaxed: Find has seen the key, with acquire.
    const Key* const key = flight.key_.load(std::memory_order_relaxed);
    if (!WaitGraph::Get().Begin(waiter.wait, *flight.thread_, key, circle)) {
      return AwaitOutcome::kCircular;
    }
    Join(flight, waiter);
    if (flight.interest_ != nullptr) flight.interest_->Join();
    const AwaitGuard<Wait> guard{flight, waiter, wait};
    WaitFor(
        completed_, mutex, [&] { return waiter.completed || wait.cancelled(); }, wait);
    if (!waiter.completed) return AwaitOutcome::kLeft;
    result = std::move(waiter.result);
    return AwaitOutcome::kCompleted;
  }
  // Does the same for a wait without an end of its own; false means kCircular.
  [[nodiscard]] bool Await(Flight& flight, Mutex& mutex, Result& result, std::string* circle)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    UnboundedWait wait;
    return Await(flight, mutex, result, circle, wait) == AwaitOutcome::kCompleted;
  }
  // Makes all waiting threads look whether they have been cancelled. Called without the lock, which
  // is `mutex`: this takes it for a moment, after which each thread that has looked already is
  // asleep.
  void WakeAll(Mutex& mutex) {
    { BasicMutexLock<Policy> lock(mutex); }
    completed_.NotifyAll();
  }

  // Waits a moment for a flight that has no key yet, which is mostly about to get one. (Its thread
  // wakes nobody when it sets the key, or every creation would pay for that.) The lock is released
  // before this returns. But constructing a key may run any code: returns false if the flight's
  // thread waits for this one, as in Await.
  [[nodiscard]] bool AwaitKey(Flight& flight, BasicMutexLock<Policy>& lock,
                              std::string* circle) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    PendingKey pending(flight);
    typename Flight::Waiter waiter;
    if (!WaitGraph::Get().Begin(waiter.wait, pending, circle)) return false;
    Join(flight, waiter);
    lock.unlock();
    Policy::Pause(kSpins);
    lock.lock();
    Leave(waiter);
    lock.unlock();
    return true;
  }
  // How many times a thread looks again before it enters the graph for AwaitKey.
  static constexpr int kSpins = 64;

  // Takes those that wait for a queued flight which is not in the tree any more.
  static void TakeContinuations(Flight& queued, EndedContinuations& ended) {
    queued.continuations_.MoveTo(ended.list, nullptr);
  }

  // Ends a flight, and wakes the threads that wait for it. Its continuations go to `ended`, which
  // may be null only if there are none.
  void End(Flight& flight, const Result& result, EndedContinuations* ended = nullptr) {
    if (!flight.cancelled_) Unlink(flight);
    if (ended != nullptr && !flight.continuations_.empty()) {
      flight.continuations_.MoveTo(ended->list, nullptr);
      ended->result = result;
    }
    if (flight.waiters_ == nullptr) return;
    // First of all, so that no other thread concludes that they still wait for this one.
    WaitGraph::Get().EndAll(flight.waiters_);
    for (auto* waiter = flight.waiters_; waiter != nullptr; waiter = waiter->next) {
      waiter->result = result;
      waiter->completed = true;
    }
    flight.waiters_ = nullptr;  // it may start once more
    completed_.NotifyAll();
  }

  // Returns whether there is no flight. For tests, while no other thread uses the shard.
  bool empty() const { return root_.load(std::memory_order_relaxed) == nullptr; }

 private:
  // Not inlined, since GCC warns: it can't see that End drops the pointer before the waiter ends.
  [[gnu::noinline]] static void Join(Flight& flight, typename Flight::Waiter& waiter) {
    waiter.next = flight.waiters_;
    waiter.link = &flight.waiters_;
    if (waiter.next != nullptr) waiter.next->link = &waiter.next;
    flight.waiters_ = &waiter;
  }
  // Takes a waiter out whose thread leaves, if the flight has not ended. (If it has, it may be
  // gone.)
  static void Leave(typename Flight::Waiter& waiter) {
    if (waiter.completed) return;
    *waiter.link = waiter.next;
    if (waiter.next != nullptr) waiter.next->link = waiter.link;
    WaitGraph::Get().End(waiter.wait);
  }
  // Takes a waiting thread off the flight, on whatever way it leaves.
  template <typename Wait>
  struct AwaitGuard {
    ~AwaitGuard() {
      if (waiter.completed) return;
      Leave(waiter);
      Interest* const interest = flight.interest_;
      if (interest != nullptr && interest->Leave()) wait.StopLater(interest->source());
    }
    Flight& flight;
    typename Flight::Waiter& waiter;
    Wait& wait;
  };
  // The wait for a flight's key. While it is in the graph the flight has not ended.
  class PendingKey final : public WaitGraph::Resource {
   public:
    explicit PendingKey(Flight& flight) : flight_(flight) {}

   private:
    bool VisitHolders(typename WaitGraph::Visitor& visitor) const override {
      // Relaxed: nothing is read through it.
      if (flight_.key_.load(std::memory_order_relaxed) != nullptr) return false;
      visitor.Visit(*flight_.thread_);
      return true;
    }
    const char* Name() const override { return "(a key under construction)"; }

    Flight& flight_;
  };
  // Calls `visit(flight)` for each present flight, which `visit` may cancel.
  template <typename Visit>
  void ForEach(const Visit& visit) {
    Flight* const root = root_.load(std::memory_order_acquire);
    Flight* last = root;
    for (Flight* flight = root; flight != nullptr; flight = flight->next_visited_) {
      last = AppendChildren(*flight, last);
    }
    Flight* next;
    for (Flight* flight = root; flight != nullptr; flight = next) {
      next = flight->next_visited_;
      visit(*flight);
    }
  }

  // Appends a flight's children to the list that ends with `last`, whose next flight after it this
  // is. Returns the new last one.
  static Flight* AppendChildren(Flight& flight, Flight* last) {
    for (Flight* const child : flight.children_) {
      if (child == nullptr) continue;
      last->next_visited_ = child;
      last = child;
    }
    last->next_visited_ = nullptr;
    return last;
  }

  // Returns the place in its parent that refers to a flight in the tree, or null for the root.
  Flight** FindLink(Flight& flight) {
    Flight** link = nullptr;
    uint32_t path = flight.hash_;
    // Relaxed: who put this flight below the root, under the lock, had found that one by an
    // acquire.
    for (Flight* at = root_.load(std::memory_order_relaxed); at != &flight; path >>= 1) {
      link = &at->children_[path & 1];
      at = *link;
    }
    return link;
  }
  // Takes a flight out of the tree. A leaf below it takes its place: that has the same path so far.
  void Unlink(Flight& flight) {
    if (root_.load(std::memory_order_relaxed) == &flight && flight.children_[0] == nullptr &&
        flight.children_[1] == nullptr) [[likely]] {
      // Release pairs with the acquire in StartUncontended.
      root_.store(nullptr, std::memory_order_release);
      return;
    }
    Flight** const link = FindLink(flight);
    Flight* const heir = TakeLeafBelow(flight);
    if (heir != nullptr) std::copy_n(flight.children_, 2, heir->children_);
    std::fill_n(flight.children_, 2, nullptr);  // it may start once more
    if (link != nullptr) {
      *link = heir;
    } else {
      // Relaxed, as in Start: there is a heir, or else it would have been taken out above.
      root_.store(heir, std::memory_order_relaxed);
    }
  }
  static Flight* TakeLeafBelow(Flight& flight) {
    Flight* parent = nullptr;
    uint32_t side = 0;
    Flight* leaf = &flight;
    for (;;) {
      const uint32_t next_side = leaf->children_[0] != nullptr ? 0 : 1;
      Flight* const child = leaf->children_[next_side];
      if (child == nullptr) break;
      parent = leaf;
      side = next_side;
      leaf = child;
    }
    if (parent == nullptr) return nullptr;
    parent->children_[side] = nullptr;
    return leaf;
  }

  // The flights are a binary tree, so that a thread finds its key's among thousands that a bulk
  // load has begun. A flight is somewhere on the path from the root that the bits of its hash make,
  // the lowest bit first; after 32 of them the path goes on to the left. So all flights with one
  // hash are on one path. It has about log2(n) flights if hashes differ; flights with equal hashes
  // follow one another.
  //
  // The root changes from null to a flight by any thread; all else happens under the shard's lock.
  typename Policy::template Atomic<Flight*> root_{nullptr};
  BasicCondition<Policy> completed_;
};

enum class StartOutcome {
  kStarted,    // the caller creates the object
  kFound,      // there is an object under the key
  kJoined,     // another thread's creation has completed
  kRecursive,  // the creation under the key is this very thread's
  kCircular,   // that creation's thread waits for this one; the result says so
  kRefused,    // no object and no creation, and `may_start()` was false
  kLeft,       // the caller's wait has ended before the other's creation
  kTaken,      // the caller's queued flight has been taken over, or nobody waits for it any more
  kDeferred,   // the caller's task has been deferred until it may start
};

// Waits for another thread's flight. The caller holds the shard's lock.
template <typename Table, typename Flights, typename Flight, typename Result, typename Wait>
StartOutcome JoinFlight(Table& table, Flights& flights, Flight& other, Result& result, Wait& wait)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
  using AwaitOutcome = typename Flights::AwaitOutcome;
  std::string circle;
  switch (flights.Await(other, table.mutex, result, &circle, wait)) {
    case AwaitOutcome::kCompleted:
      return StartOutcome::kJoined;
    case AwaitOutcome::kLeft:
      return StartOutcome::kLeft;
    case AwaitOutcome::kCircular:
      break;
  }
  result.SetCircular(circle);
  return StartOutcome::kCircular;
}

// Starts `flight` and prepares a slot for it, unless there is an object or another flight under the
// key. An object, for whose slot `match_slot` is true, goes to `result`. For another flight, for
// whose key `match_key` is true, this waits, and its result goes to `result`; `before_wait()` is
// called before the wait, under the shard's lock. The shard has a table and flights. With `queued`,
// the caller's queued flight, this starts a flight in place of that one or none, and waits for no
// other.
template <bool kEmbedded, typename Policy, typename Shard, typename MatchSlot, typename MatchKey,
          typename Flight, typename PreparedSlot, typename Result, typename MayStart,
          typename BeforeWait, typename Wait>
StartOutcome StartOrJoin(Shard& shard, uint32_t hash, const MatchSlot& match_slot,
                         const MatchKey& match_key, Flight& flight, PreparedSlot& prepared,
                         Result& result, const MayStart& may_start, const BeforeWait& before_wait,
                         Wait& wait, const Flight* queued = nullptr) {
  auto& table = shard.table;
  using Table = std::remove_reference_t<decltype(table)>;
  for (int attempt = 0;; ++attempt) {
    typename Table::Entry present;
    typename Table::DeferredReleases deferred;
    typename Table::MutexLock lock(table.mutex);
    present = table.FindLocked(hash, match_slot, deferred);
    if (present.slot != nullptr) {
      result.object = std::move(present.object);
      return StartOutcome::kFound;
    }
    // What that has removed is destroyed before this thread waits, or others wait for it.
    if (!deferred.empty()) continue;
    const auto other = shard.flights.Find(hash, match_key);
    if (queued != nullptr && other.flight != queued) return StartOutcome::kTaken;
    if (other.flight != nullptr && other.flight->queued()) {
      if (!may_start()) return StartOutcome::kRefused;
      table.template Prepare<kEmbedded>(prepared);
      shard.flights.TakeOver(flight, *other.flight);
      return StartOutcome::kStarted;
    }
    if (other.flight != nullptr) {
      if (other.flight->IsThisThreads()) return StartOutcome::kRecursive;
      before_wait();
      return JoinFlight(table, shard.flights, *other.flight, result, wait);
    }
    if (other.key_pending == nullptr) {
      if (!may_start()) return StartOutcome::kRefused;
      table.template Prepare<kEmbedded>(prepared);
      if (shard.flights.Start(flight, other)) return StartOutcome::kStarted;
    } else if (attempt >= shard.flights.kSpins) {
      if (wait.ended()) return StartOutcome::kLeft;
      before_wait();
      std::string circle;
      if (shard.flights.AwaitKey(*other.key_pending, lock, &circle)) continue;
      result.SetCircular(circle);
      return StartOutcome::kCircular;
    }
    lock.unlock();
    Policy::Pause(attempt);
  }
}

// Does the same for a caller that may always start, and waits as long as it takes.
template <bool kEmbedded, typename Policy, typename Shard, typename MatchSlot, typename MatchKey,
          typename Flight, typename PreparedSlot, typename Result>
StartOutcome StartOrJoin(Shard& shard, uint32_t hash, const MatchSlot& match_slot,
                         const MatchKey& match_key, Flight& flight, PreparedSlot& prepared,
                         Result& result) {
  UnboundedWait wait;
  return StartOrJoin<kEmbedded, Policy>(
      shard, hash, match_slot, match_key, flight, prepared, result, [] { return true; }, [] {},
      wait);
}

// Starts `flight`, without the lock, if there is no other in the shard and the table is still as of
// `version`, when the caller has proved the key absent. Else returns kRefused: call StartOrJoin.
// Sets the completion's flight if it has started.
template <bool kEmbedded, typename Shard, typename Flight, typename PreparedSlot,
          typename FlightCompletion>
StartOutcome StartUncontended(Shard& shard, Flight& flight, PreparedSlot& prepared,
                              FlightCompletion& completion, uint64_t version) {
  auto& table = shard.table;
  using Table = std::remove_reference_t<decltype(table)>;
  if (!shard.flights.StartUncontended(flight)) return StartOutcome::kRefused;
  completion.flight = &flight;
  // Another flight's entry would have changed the version. The key can't be looked for here: a
  // search may hold other objects for a moment, and so run their destructors during this flight.
  if (table.version() != version) [[unlikely]] {
    typename Table::MutexLock lock(table.mutex);
    completion.CompleteLocked(table);  // without a purge, which may run destructors, too
    return StartOutcome::kRefused;
  }
  if (!table.template PrepareSpare<kEmbedded>(prepared)) {
    typename Table::MutexLock lock(table.mutex);
    table.template Prepare<kEmbedded>(prepared);
  }
  return StartOutcome::kStarted;
}

// No version of a table, for a thread that has its lock.
inline constexpr uint64_t kNeverProvedAbsent = UINT64_MAX;

// Ends a flight, on whatever way its thread leaves.
template <typename Shard, typename Flights>
struct FlightCompletion {
  using Table = decltype(Shard::table);

  ~FlightCompletion() { Complete(); }
  void Complete() {
    if (flight == nullptr) return;
    Table& table = shard->table;
    typename Table::DeferredReleases deferred;
    typename Table::MutexLock lock(table.mutex);
    // A slot that comes to nothing goes through the retire list, even if nothing is ever entered.
    table.PurgeUpTo(Table::kPurgesPerOperation, deferred);
    CompleteLocked(table);
  }
  // Does the same under the lock of `table`, which is the shard's.
  void CompleteLocked(Table& table) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    static_cast<void>(table);
    shard->flights.End(*flight, result, ended);
    flight = nullptr;
  }

  // Returns whether the table still has the version at which the key was proved absent. The caller
  // has the lock.
  bool key_is_absent() const { return shard->table.version() == absent_as_of; }

  Shard* shard;
  typename Flights::Flight* flight;
  typename Flights::Result& result;
  typename Flights::EndedContinuations* ended = nullptr;
  // A version of the table as of which there is nothing under the key, expired or not.
  uint64_t absent_as_of = kNeverProvedAbsent;
};

// Calls `function()`. Its exception goes to `result`, and to the caller.
template <typename Result, typename Function>
void CatchInto(Result& result, Function&& function) {
#ifdef __cpp_exceptions
  try {
    function();
  } catch (...) {
    result.error = std::current_exception();
    throw;
  }
#else
  static_cast<void>(result);
  function();
#endif
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CREATION_SINGLE_FLIGHT_H_
