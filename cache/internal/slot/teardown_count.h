// SPDX-License-Identifier: Apache-2.0
// A count of the uses of memory that outlive the memory's container.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_TEARDOWN_COUNT_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_TEARDOWN_COUNT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Counts the uses of memory that outlive its container. The container never waits for them: it sets
// the number of remaining uses, and the last use frees the memory.
template <typename Policy>
class BasicTeardownCount {
 public:
  // Ends one use: the caller won't touch the memory any more. Returns true if the caller must free
  // it.
  [[nodiscard]] bool Decrement() {
    // Acquire and release: what each user did happens before the memory is freed.
    return outstanding_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

  // Sets the number of uses, including those that have ended already or end during this call. The
  // container calls it once. Returns true if all have ended, so that the container must free the
  // memory.
  [[nodiscard]] bool SetRemaining(size_t remaining) {
    const size_t surplus = kBias - remaining;
    // Acquire and release: see Decrement.
    return outstanding_.fetch_sub(surplus, std::memory_order_acq_rel) == surplus;
  }

 private:
  // More than there can be uses, so that the count reaches zero only after SetRemaining.
  static constexpr size_t kBias = SIZE_MAX / 2;

  // kBias minus the ended uses while the container lives; afterwards the uses that have not ended.
  // Each use subtracts one at its end. Whoever makes it zero frees the memory.
  typename Policy::template Atomic<size_t> outstanding_{kBias};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_TEARDOWN_COUNT_H_
