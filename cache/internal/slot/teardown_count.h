// SPDX-License-Identifier: Apache-2.0
// Memory that outlives its container until the last other thread that uses it is through.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_TEARDOWN_COUNT_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_TEARDOWN_COUNT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Memory that outlives its container until the last of some other threads has left it. The
// container never waits for them: it says how many are still to leave, and the last of all frees
// the memory.
template <typename Policy>
class BasicTeardownCount {
 public:
  // By a thread that won't touch the memory any more. True if it has to free it.
  [[nodiscard]] bool Decrement() {
    // Acquire and release: what each of the leavers did happens before the memory is freed.
    return outstanding_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

  // By the container, once: `remaining` counts those that leave during this call or have left
  // already. True if all have, so that the container has to free the memory.
  [[nodiscard]] bool SetRemaining(size_t remaining) {
    const size_t surplus = kBias - remaining;
    // Acquire and release: see Decrement.
    return outstanding_.fetch_sub(surplus, std::memory_order_acq_rel) == surplus;
  }

 private:
  // More than can ever be to leave, so that the count reaches zero only after SetRemaining.
  static constexpr size_t kBias = SIZE_MAX / 2;

  // kBias while the container lives, then those still to leave; each takes one off, also before
  // SetRemaining. Whoever makes it zero frees the memory.
  typename Policy::template Atomic<size_t> outstanding_{kBias};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_TEARDOWN_COUNT_H_
