// SPDX-License-Identifier: Apache-2.0
// Decides a race between a container that detaches an object in an embedded slot and the thread
// that drops the last reference to it.
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

  // Claims the slot for the thread that drops the last reference, and counts the expiry in the
  // retire list. Returns false if the container has detached the object: the slot then belongs to
  // the references only.
  template <typename RetireList>
  [[nodiscard]] bool ClaimExpiry(RetireList& retire_list) {
    uint32_t state = kUnclaimed;
    // Relaxed: what the container wrote was published with the references that were dropped.
    // Nothing is read on failure.
    if (!state_.compare_exchange_strong(state, kClaiming, std::memory_order_relaxed,
                                        std::memory_order_relaxed)) {
      return false;
    }
    retire_list.CountExpired();
    // Release pairs with the acquire in Detach: a container whose Detach fails sees the count.
    state_.store(kClaimed, std::memory_order_release);
    return true;
  }

  // Returns whether the container has neither detached the object nor lost it. Relaxed: a hint.
  bool unclaimed() const { return state_.load(std::memory_order_relaxed) == kUnclaimed; }

  // Detaches the object for the container. Returns false if the expiry was claimed first.
  [[nodiscard]] bool Detach() {
    uint32_t state = kUnclaimed;
    // Relaxed: nothing is read on success, and the loop below reads again after a failure.
    if (state_.compare_exchange_strong(state, kDetached, std::memory_order_relaxed,
                                       std::memory_order_relaxed)) {
      return true;
    }
    // Acquire pairs with the release in ClaimExpiry.
    for (int attempt = 0; state_.load(std::memory_order_acquire) != kClaimed; ++attempt) {
      Policy::Pause(attempt);
    }
    return false;
  }

 private:
  static constexpr uint32_t kUnclaimed = 0;
  static constexpr uint32_t kClaiming = 1;  // while the expiry is being counted
  static constexpr uint32_t kClaimed = 2;
  static constexpr uint32_t kDetached = 3;

  // Transitions: kUnclaimed to kDetached, by the container; kUnclaimed to kClaiming to kClaimed, by
  // the releasing thread. A slot that is used again begins with a new claim.
  typename Policy::template Atomic<uint32_t> state_{kUnclaimed};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_EXPIRY_CLAIM_H_
