// SPDX-License-Identifier: Apache-2.0
// One creation per key at a time: who comes later waits for its result.
//
// StartOutcome a creation or joining another thread's, and ending it for those that wait on
// whatever way its thread leaves, are the same for all thread-safe containers, so they are here.
// Nearly always nothing else is being created in the shard: then outcome takes no lock.
#ifndef WEAKCACHE_CACHE_INTERNAL_CREATION_SINGLE_FLIGHT_H_
#define WEAKCACHE_CACHE_INTERNAL_CREATION_SINGLE_FLIGHT_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/creation/wait_graph.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/recursive_creation_error.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// What a creation came to: a handle, null too, or an exception.
template <typename H>
struct CreationResult {
  void SetCircular(const std::string& circle) { error = CircularCreationError(circle); }

  H object;
  std::exception_ptr error = nullptr;
};

// The creations that are under way in one shard, and who waits for them. Flights and waiters are on
// their threads' stacks. Guarded by the shard's lock, which all callers hold, but for
// StartUncontended. AnyResult is a CreationResult or the like.
template <typename AnyResult, typename Key, typename Policy>
class SingleFlight {
  using Mutex = BasicMutex<Policy>;
  using WaitGraph = BasicWaitGraph<Policy>;

 public:
  using Result = AnyResult;

  class Flight {
   public:
    explicit Flight(uint32_t hash) : hash_(hash), thread_(&WaitGraph::ThisThread()) {}
    Flight(const Flight&) = delete;
    Flight& operator=(const Flight&) = delete;

    // The key is there, and stays until the completion.
    void SetKey(const Key* key) {
      // Release pairs with the acquire in Find.
      key_.store(key, std::memory_order_release);
    }
    bool IsThisThreads() const { return thread_ == &WaitGraph::ThisThread(); }
    // These are for a thread that holds the shard's lock.
    bool cancelled() const { return cancelled_; }
    bool superseded() const { return superseded_; }
    // Whether the spare slots of the shard are this thread's.
    bool has_spares() const { return uncontended_ && !cancelled_; }

   private:
    friend class SingleFlight;
    struct Waiter {
      Result result;
      bool completed = false;
      typename WaitGraph::Wait wait;
      Waiter* next;
    };

    const uint32_t hash_;
    typename WaitGraph::Thread* const thread_;
    bool uncontended_ = false;  // it has begun by StartUncontended
    bool cancelled_ = false;
    bool superseded_ = false;
    // Null until the creating thread has made the key; only that thread writes, once.
    typename Policy::template Atomic<const Key*> key_{nullptr};
    Waiter* waiters_ = nullptr;
    Flight* children_[2] = {nullptr, nullptr};
    Flight* next_visited_ = nullptr;  // scratch of ForEach
  };

  SingleFlight() = default;
  SingleFlight(const SingleFlight&) = delete;
  SingleFlight& operator=(const SingleFlight&) = delete;

  // Without the lock: begins the flight if there is no other. From then on until it is cancelled or
  // has ended no other begins so. Nobody cancels it before it has a key.
  bool StartUncontended(Flight& flight) {
    Flight* none = nullptr;
    // Release pairs with the acquire in Find. Acquire pairs with the release in Unlink: what all
    // earlier flights have entered is seen, and what they have kept for this one.
    flight.uncontended_ = root_.compare_exchange_strong(none, &flight, std::memory_order_acq_rel,
                                                        std::memory_order_relaxed);
    return flight.uncontended_;
  }

  // What a look at the flights has found.
  struct Found {
    Flight* flight;    // under the key, or null
    bool key_pending;  // there may be one whose key is not there yet: then look again soon
    Flight* parent;    // for Start: where a new one goes, which is the root if this is null
    uint32_t side;
  };
  template <typename Match>
  Found Find(uint32_t hash, const Match& match) const {
    Found found{nullptr, false, nullptr, 0};
    Flight* flight = root_.load(std::memory_order_acquire);
    for (uint32_t path = hash; flight != nullptr; path >>= 1) {
      if (flight->hash_ == hash) {
        const Key* const key = flight->key_.load(std::memory_order_acquire);
        if (key == nullptr) {
          found.key_pending |= !flight->IsThisThreads();
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

  // Begins the flight after a Find that has found none, under the same lock. False if another one
  // has begun alone meanwhile: then look again.
  bool Start(Flight& flight, const Found& found) {
    if (found.parent != nullptr) {
      found.parent->children_[found.side] = &flight;
      return true;
    }
    Flight* none = nullptr;
    // Orders as in StartUncontended.
    const bool started = root_.compare_exchange_strong(none, &flight, std::memory_order_acq_rel,
                                                       std::memory_order_relaxed);
    return started;
  }

  // Nobody joins the creation any more: another one under its key may begin at once.
  void Cancel(Flight& flight) {
    Unlink(flight);
    flight.cancelled_ = true;
  }
  // As well, since an object has come in under its key that is newer than what it creates.
  void Supersede(Flight& flight) {
    Cancel(flight);
    flight.superseded_ = true;
  }
  // All that have a key: the others have not got to creating anything.
  void CancelAll() {
    ForEach([this](Flight& flight) {
      // Acquire, as in Find: whoever begins alone after it takes over what this one has left.
      if (flight.key_.load(std::memory_order_acquire) != nullptr) Cancel(flight);
    });
  }
  // Calls `visit(key)` for each flight that has a key.
  template <typename Visit>
  void ForEachKey(const Visit& visit) {
    ForEach([&](const Flight& flight) {
      // Acquire, as in Find.
      const Key* const key = flight.key_.load(std::memory_order_acquire);
      if (key != nullptr) visit(*key);
    });
  }

  // Waits for another thread's flight, and moves its result to `result`. The mutex is unlocked
  // meanwhile. If that thread waits for this one, perhaps through others, returns false at once and
  // describes the circle.
  [[nodiscard]] bool Await(Flight& flight, Mutex& mutex, Result& result, std::string* circle)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    typename Flight::Waiter waiter;
    // Relaxed: whoever found the flight has seen the key.
    const Key* const key = flight.key_.load(std::memory_order_relaxed);
    if (!WaitGraph::Get().Begin(waiter.wait, *flight.thread_, key, circle)) return false;
    Join(flight, waiter);
    completed_.Wait(mutex, [&] { return waiter.completed; });
    result = std::move(waiter.result);
    return true;
  }

  void End(Flight& flight, const Result& result) {
    if (!flight.cancelled_) Unlink(flight);
    if (flight.waiters_ == nullptr) return;
    // First of all, so that nobody takes them for waiting when they don't.
    WaitGraph::Get().EndAll(flight.waiters_);
    for (auto* waiter = flight.waiters_; waiter != nullptr; waiter = waiter->next) {
      waiter->result = result;
      waiter->completed = true;
    }
    completed_.NotifyAll();
  }

  // For tests, while all is quiet.
  bool empty() const { return root_.load(std::memory_order_relaxed) == nullptr; }

 private:
  // Apart, since GCC can't see that the waiter outlives what points to it: End lets go of it.
  [[gnu::noinline]] static void Join(Flight& flight, typename Flight::Waiter& waiter) {
    waiter.next = flight.waiters_;
    flight.waiters_ = &waiter;
  }
  // Calls `visit(flight)` for each one that there is now; it may cancel that one.
  template <typename Visit>
  void ForEach(const Visit& visit) {
    Flight* const root = root_.load(std::memory_order_acquire);
    Flight* last = root;
    for (Flight* flight = root; flight != nullptr; flight = flight->next_visited_) {
      for (Flight* const child : flight->children_) {
        if (child == nullptr) continue;
        last->next_visited_ = child;
        last = child;
      }
      if (flight == last) flight->next_visited_ = nullptr;
    }
    Flight* next;
    for (Flight* flight = root; flight != nullptr; flight = next) {
      next = flight->next_visited_;
      visit(*flight);
    }
  }

  // Takes a flight out of the tree. A leaf below it takes its place: that has the same path so far.
  void Unlink(Flight& flight) {
    Flight* parent = nullptr;
    uint32_t side = 0;
    uint32_t path = flight.hash_;
    // Acquire, as in Find.
    for (Flight* at = root_.load(std::memory_order_acquire); at != &flight; path >>= 1) {
      parent = at;
      side = path & 1;
      at = at->children_[side];
    }
    Flight* const heir = TakeLeafBelow(flight);
    if (heir != nullptr) std::copy_n(flight.children_, 2, heir->children_);
    if (parent != nullptr) {
      parent->children_[side] = heir;
    } else {
      // Release pairs with the acquire in StartUncontended.
      root_.store(heir, std::memory_order_release);
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
  // hash are on one path, of about log2(n) flights.
  //
  // The root changes from null to a flight by any thread; all else happens under the shard's lock.
  typename Policy::template Atomic<Flight*> root_{nullptr};
  BasicCondition<Policy> completed_;
};

enum class StartOutcome {
  kStarted,    // the caller creates
  kFound,      // there is an object under the key
  kJoined,     // another thread's creation has completed
  kRecursive,  // the creation under the key is this very thread's
  kCircular,   // it is one whose thread waits for this one; the result says so
  kRefused,    // there is neither, and `may_start` said no
};

struct MayAlwaysStart {
  bool operator()() const { return true; }
};

// Begins `flight`, with a prepared slot, unless there is an object for whose slot
// `match_slot` is true, which goes to `result`, or a creation for whose key `match_key` is true,
// whose end the caller awaits. The shard has a table and flights.
template <bool kEmbedded, typename Policy, typename Shard, typename MatchSlot, typename MatchKey,
          typename Flight, typename PreparedSlot, typename Result,
          typename MayStart = MayAlwaysStart>
StartOutcome StartOrJoin(Shard& shard, uint32_t hash, const MatchSlot& match_slot,
                         const MatchKey& match_key, Flight& flight, PreparedSlot& prepared,
                         Result& result, const MayStart& may_start = MayStart()) {
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
    // Whatever that let go of goes before this waits, or is waited for.
    if (!deferred.empty()) continue;
    const auto other = shard.flights.Find(hash, match_key);
    if (other.flight != nullptr) {
      if (other.flight->IsThisThreads()) return StartOutcome::kRecursive;
      std::string circle;
      if (shard.flights.Await(*other.flight, table.mutex, result, &circle)) {
        return StartOutcome::kJoined;
      }
      result.SetCircular(circle);
      return StartOutcome::kCircular;
    }
    if (!other.key_pending) {
      if (!may_start()) return StartOutcome::kRefused;
      table.template Prepare<kEmbedded>(prepared);
      if (shard.flights.Start(flight, other)) return StartOutcome::kStarted;
    }
    lock.unlock();
    Policy::Pause(attempt);
  }
}

// As well, without the lock: kRefused unless nothing else is being created in the shard. Sets the
// completion's flight if it has begun. If the caller has found nothing as of `version` of the
// table, it is only searched again if it has changed.
inline constexpr uint64_t kNoVersion = ~uint64_t{0};
template <bool kEmbedded, typename Shard, typename MatchSlot, typename Flight,
          typename PreparedSlot, typename FlightCompletion>
StartOutcome StartUncontended(Shard& shard, uint32_t hash, const MatchSlot& match_slot,
                              Flight& flight, PreparedSlot& prepared, FlightCompletion& completion,
                              uint64_t version = kNoVersion) {
  auto& table = shard.table;
  using Table = std::remove_reference_t<decltype(table)>;
  if (!shard.flights.StartUncontended(flight)) return StartOutcome::kRefused;
  completion.flight = &flight;
  // What other flights have entered since has changed the version.
  if (table.version() != version) [[unlikely]] {
    completion.result.object = table.FindOrProveAbsent(hash, match_slot).object;
    if (completion.result.object.get() != nullptr) {
      completion.Complete();
      return StartOutcome::kFound;
    }
  }
  if (!table.template PrepareSpare<kEmbedded>(prepared)) {
    typename Table::MutexLock lock(table.mutex);
    table.template Prepare<kEmbedded>(prepared);
  }
  return StartOutcome::kStarted;
}

// Ends a creation for those that wait, on whatever way its thread leaves.
template <typename Shard, typename Flights>
struct FlightCompletion {
  using Table = decltype(Shard::table);

  ~FlightCompletion() { Complete(); }
  void Complete() {
    if (flight == nullptr) return;
    Table& table = shard->table;
    typename Table::DeferredReleases deferred;
    typename Table::MutexLock lock(table.mutex);
    // If it has come to nothing its slot goes to the queue, and nobody may ever enter anything.
    table.PurgeUpTo(Table::kPurgesPerOperation, deferred);
    CompleteLocked(table);
  }
  // The table is the shard's.
  void CompleteLocked(Table& table) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
    static_cast<void>(table);
    shard->flights.End(*flight, result);
    flight = nullptr;
  }

  Shard* shard;
  typename Flights::Flight* flight;
  typename Flights::Result& result;
};

// Calls `function()`; what it throws goes to `result` as well.
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
