// One creation per key at a time: who comes later waits for its result.
#ifndef WEAKCACHE_CACHE_INTERNAL_SINGLE_FLIGHT_H_
#define WEAKCACHE_CACHE_INTERNAL_SINGLE_FLIGHT_H_

#include <atomic>
#include <cstdint>
#include <exception>

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
// lock, which all callers hold; flights and waiters are on their threads' stacks.
template <typename H, typename Key, typename Policy>
class SingleFlight {
  using Mutex = BasicMutex<Policy>;

 public:
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

   private:
    friend class SingleFlight;
    struct Waiter {
      Landed<H> result;
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

  // Lets go of the mutex meanwhile.
  Landed<H> Await(Flight& flight, Mutex& mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    typename Flight::Waiter waiter;
    waiter.next = flight.waiters_;
    flight.waiters_ = &waiter;
    landing_.Wait(mutex, [&] { return waiter.landed; });
    return std::move(waiter.result);
  }

  void End(Flight& flight, const Landed<H>& result) {
    *flight.link_ = flight.next_;
    if (flight.next_ != nullptr) flight.next_->link_ = flight.link_;
    if (flight.waiters_ == nullptr) return;
    for (auto* waiter = flight.waiters_; waiter != nullptr; waiter = waiter->next) {
      waiter->result = result;
      waiter->landed = true;
    }
    landing_.NotifyAll();
  }

  bool empty() const { return first_ == nullptr; }

 private:
  Flight* first_ = nullptr;
  BasicCondition<Policy> landing_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SINGLE_FLIGHT_H_
