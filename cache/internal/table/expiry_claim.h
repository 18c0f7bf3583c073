// SPDX-License-Identifier: Apache-2.0
// Who was first: the container that lets go of an object that it has created, or the thread that
// drops the last reference to it.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_EXPIRY_CLAIM_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_EXPIRY_CLAIM_H_

#include <atomic>
#include <cstdint>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

template <typename Policy>
class BasicExpiryClaim {
 public:
  BasicExpiryClaim() = default;
  BasicExpiryClaim(const BasicExpiryClaim&) = delete;
  BasicExpiryClaim& operator=(const BasicExpiryClaim&) = delete;

  // By the thread that drops the last reference. True, and counted in the retire_list, unless the
  // container has detached the object: then the slot is not the container's any more.
  template <typename Queue>
  [[nodiscard]] bool ClaimExpiry(Queue& retire_list) {
    uint32_t state = kUnclaimed;
    // Relaxed: what the container wrote was published with the references that have gone. Nothing
    // is read on failure.
    if (!state_.compare_exchange_strong(state, kClaiming, std::memory_order_relaxed,
                                        std::memory_order_relaxed)) {
      return false;
    }
    retire_list.CountExpired();
    // Release pairs with the acquire in Detach: a container that comes too late finds it counted.
    state_.store(kClaimed, std::memory_order_release);
    return true;
  }

  // By the container. False if the expiry came first.
  [[nodiscard]] bool Detach() {
    uint32_t state = kUnclaimed;
    // Relaxed: there is nothing to see on success, and on failure it looks again.
    if (state_.compare_exchange_strong(state, kDetached, std::memory_order_relaxed,
                                       std::memory_order_relaxed)) {
      return true;
    }
    // Acquire: see ClaimExpiry.
    for (int attempt = 0; state_.load(std::memory_order_acquire) != kClaimed; ++attempt) {
      Policy::Pause(attempt);
    }
    return false;
  }

 private:
  static constexpr uint32_t kUnclaimed = 0;
  static constexpr uint32_t kClaiming = 1;  // for the few instructions in which it is counted
  static constexpr uint32_t kClaimed = 2;
  static constexpr uint32_t kDetached = 3;

  // Transitions: attached to detached, by the container; attached to taking to taken, by the
  // releasing thread. It stays there until the slot is used again.
  typename Policy::template Atomic<uint32_t> state_{kUnclaimed};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_EXPIRY_CLAIM_H_
