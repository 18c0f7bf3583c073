// Who was first: the container that lets go of an object that it has created, or the thread that
// drops the last reference to it.
#ifndef WEAKCACHE_CACHE_INTERNAL_RESIDENT_LINK_H_
#define WEAKCACHE_CACHE_INTERNAL_RESIDENT_LINK_H_

#include <atomic>
#include <cstdint>

#include "weakref/internal/atomics_policy.h"

namespace weakcache::internal {

template <typename Policy>
class BasicResidentLink {
 public:
  BasicResidentLink() = default;
  BasicResidentLink(const BasicResidentLink&) = delete;
  BasicResidentLink& operator=(const BasicResidentLink&) = delete;

  // By the thread that drops the last reference. True, and counted in the queue, unless the
  // container has detached the object: then the slot is not the container's any more.
  template <typename Queue>
  [[nodiscard]] bool TakeExpired(Queue& queue) {
    uint32_t state = kAttached;
    // Relaxed: what the container wrote was published with the references that have gone. Nothing
    // is read on failure.
    if (!state_.compare_exchange_strong(state, kTaking, std::memory_order_relaxed,
                                        std::memory_order_relaxed)) {
      return false;
    }
    queue.CountExpired();
    // Release pairs with the acquire in Detach: a container that comes too late finds it counted.
    state_.store(kTaken, std::memory_order_release);
    return true;
  }

  // By the container. False if the expiry came first.
  [[nodiscard]] bool Detach() {
    uint32_t state = kAttached;
    // Relaxed: there is nothing to see on success, and on failure it looks again.
    if (state_.compare_exchange_strong(state, kDetached, std::memory_order_relaxed,
                                       std::memory_order_relaxed)) {
      return true;
    }
    // Acquire: see TakeExpired.
    for (int attempt = 0; state_.load(std::memory_order_acquire) != kTaken; ++attempt) {
      Policy::Pause(attempt);
    }
    return false;
  }

 private:
  static constexpr uint32_t kAttached = 0;
  static constexpr uint32_t kTaking = 1;  // for the few instructions in which it is counted
  static constexpr uint32_t kTaken = 2;
  static constexpr uint32_t kDetached = 3;

  // Transitions: attached to detached, by the container; attached to taking to taken, by the
  // releasing thread. It stays there until the slot is used again.
  typename Policy::template Atomic<uint32_t> state_{kAttached};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RESIDENT_LINK_H_
