// One creation per key at a time: who comes later waits for its result.
//
// Beginning a creation or joining another thread's, and ending it for those that wait on whatever
// way its thread leaves, are the same for all thread-safe containers, so they are here.
#ifndef WEAKCACHE_CACHE_INTERNAL_SINGLE_FLIGHT_H_
#define WEAKCACHE_CACHE_INTERNAL_SINGLE_FLIGHT_H_

#include <atomic>
#include <cstdint>
#include <exception>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "cache/internal/mutex.h"
#include "weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// What a creation came to: a handle, null too, or an exception.
template <typename H>
struct Landed {
  H object;
  std::exception_ptr error = nullptr;
};

// The creations that are under way in one shard, and who waits for them. Guarded by the shard's
// lock, which all callers hold; flights and waiters are on their threads' stacks. AnyLanded is a
// Landed or the like.
template <typename AnyLanded, typename Key, typename Policy>
class SingleFlight {
  using Mutex = BasicMutex<Policy>;

 public:
  using Result = AnyLanded;

  class Flight {
   public:
    explicit Flight(uint32_t hash) : hash_(hash), thread_(Policy::CurrentThread()) {}
    Flight(const Flight&) = delete;
    Flight& operator=(const Flight&) = delete;

    // The key is there, and stays until the landing.
    void SetKey(const Key* key) {
      // Release pairs with the acquire in Find.
      key_.store(key, std::memory_order_release);
    }
    bool IsThisThreads() const { return thread_ == Policy::CurrentThread(); }
    // Under the shard's lock.
    bool cancelled() const { return cancelled_; }

   private:
    friend class SingleFlight;
    struct Waiter {
      Result result;
      bool landed = false;
      Waiter* next;
    };

    const uint32_t hash_;
    const typename Policy::ThreadId thread_;
    // Null until the creating thread has made the key; only that thread writes, once.
    typename Policy::template Atomic<const Key*> key_{nullptr};
    Waiter* waiters_ = nullptr;
    Flight* next_ = nullptr;
    Flight** link_ = nullptr;  // what points to this one
    bool cancelled_ = false;
  };

  SingleFlight() = default;
  SingleFlight(const SingleFlight&) = delete;
  SingleFlight& operator=(const SingleFlight&) = delete;

  void Begin(Flight& flight) {
    flight.next_ = first_;
    flight.link_ = &first_;
    if (first_ != nullptr) first_->link_ = &flight.next_;
    first_ = &flight;
  }

  // The creation under a key for which `match` is true, or null. `*unclear` if there may be one
  // whose key is not there yet: then look again soon.
  template <typename Match>
  Flight* Find(uint32_t hash, const Match& match, bool* unclear) const {
    *unclear = false;
    for (Flight* flight = first_; flight != nullptr; flight = flight->next_) {
      if (flight->hash_ != hash) continue;
      const Key* const key = flight->key_.load(std::memory_order_acquire);
      if (key == nullptr) {
        *unclear = !flight->IsThisThreads();
      } else if (match(*key)) {
        return flight;
      }
    }
    return nullptr;
  }

  // Nobody joins the creation any more: another one under its key may begin at once.
  void Cancel(Flight& flight) {
    Unlink(flight);
    flight.cancelled_ = true;
  }
  void CancelAll() {
    while (first_ != nullptr) Cancel(*first_);
  }

  // Lets go of the mutex meanwhile.
  Result Await(Flight& flight, Mutex& mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    typename Flight::Waiter waiter;
    Join(flight, waiter);
    landing_.Wait(mutex, [&] { return waiter.landed; });
    return std::move(waiter.result);
  }

  void End(Flight& flight, const Result& result) {
    if (!flight.cancelled_) Unlink(flight);
    if (flight.waiters_ == nullptr) return;
    for (auto* waiter = flight.waiters_; waiter != nullptr; waiter = waiter->next) {
      waiter->result = result;
      waiter->landed = true;
    }
    landing_.NotifyAll();
  }

  bool empty() const { return first_ == nullptr; }

 private:
  // Apart, since GCC can't see that the waiter outlives what points to it: End lets go of it.
  [[gnu::noinline]] static void Join(Flight& flight, typename Flight::Waiter& waiter) {
    waiter.next = flight.waiters_;
    flight.waiters_ = &waiter;
  }
  void Unlink(Flight& flight) {
    *flight.link_ = flight.next_;
    if (flight.next_ != nullptr) flight.next_->link_ = flight.link_;
  }

  Flight* first_ = nullptr;
  BasicCondition<Policy> landing_;
};

enum class Beginning {
  kBegun,      // the caller creates
  kFound,      // there is an object under the key
  kJoined,     // another thread's creation has landed
  kRecursive,  // the creation under the key is this very thread's
  kRefused,    // there is neither, and `may_begin` said no
};

struct MayAlwaysBegin {
  bool operator()() const { return true; }
};

// Begins `flight`, with a prepared slot, unless there is an object for whose payload
// `match_payload` is true, which goes to `result`, or a creation for whose key `match_key` is true,
// whose end the caller awaits. The shard has a table and flights.
template <bool kResident, typename Policy, typename Shard, typename MatchPayload, typename MatchKey,
          typename Flight, typename Prepared, typename Result, typename MayBegin = MayAlwaysBegin>
Beginning BeginOrJoin(Shard& shard, uint32_t hash, const MatchPayload& match_payload,
                      const MatchKey& match_key, Flight& flight, Prepared& prepared, Result& result,
                      const MayBegin& may_begin = MayBegin()) {
  auto& table = shard.table;
  using Table = std::remove_reference_t<decltype(table)>;
  for (int attempt = 0;; ++attempt) {
    typename Table::Entry present;
    typename Table::Postponed postponed;
    typename Table::MutexLock lock(table.mutex);
    if (attempt == 0) table.PurgeUpTo(Table::kPurgesPerOperation, postponed);
    present = table.FindLocked(hash, match_payload, postponed);
    if (present.slot != nullptr) {
      result.object = std::move(present.object);
      return Beginning::kFound;
    }
    // Whatever that let go of goes before this waits, or is waited for.
    if (!postponed.empty()) continue;
    bool unclear;
    auto* const other = shard.flights.Find(hash, match_key, &unclear);
    if (other != nullptr) {
      if (other->IsThisThreads()) return Beginning::kRecursive;
      result = shard.flights.Await(*other, table.mutex);
      return Beginning::kJoined;
    }
    if (!unclear) {
      if (!may_begin()) return Beginning::kRefused;
      table.template Prepare<kResident>(prepared);
      shard.flights.Begin(flight);
      return Beginning::kBegun;
    }
    lock.unlock();
    Policy::Pause(attempt);
  }
}

// Ends a creation for those that wait, on whatever way its thread leaves.
template <typename Shard, typename Flights>
struct Landing {
  using Table = decltype(Shard::table);

  ~Landing() { Land(); }
  void Land() {
    if (flight == nullptr) return;
    Table& table = shard->table;
    typename Table::MutexLock lock(table.mutex);
    LandLocked(table);
  }
  // The table is the shard's.
  void LandLocked(Table& table) ABSL_EXCLUSIVE_LOCKS_REQUIRED(table.mutex) {
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

#endif  // WEAKCACHE_CACHE_INTERNAL_SINGLE_FLIGHT_H_
