// SPDX-License-Identifier: Apache-2.0
// The concurrency primitives that the core is written against. Production code uses StdAtomics; a
// model checker supplies its own policy and so runs the very headers that ship.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_ATOMICS_POLICY_H_
#define WEAKCACHE_WEAKREF_INTERNAL_ATOMICS_POLICY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

namespace weakcache::internal {

struct StdAtomics {
  template <typename T>
  using Atomic = std::atomic<T>;

  // A field that is not atomic because a lock or an ownership hand-over protects it. A model
  // checker replaces it to find the accesses that nothing orders.
  template <typename T>
  using Plain = T;

  // Where a concurrent container has what outlives it.
  template <typename T>
  using Allocator = std::allocator<T>;

  // Holds both counts of a referent, the strong one in the lower half.
  using CountWord = uint64_t;

  // Tells the running threads apart; none has the id ThreadId().
  using ThreadId = std::thread::id;
  static ThreadId CurrentThread() { return std::this_thread::get_id(); }

  // Destructions nested deeper than this wait until the one at this depth is through.
  static constexpr int kMaxNestedDestructions = 32;

  // One zero-initialised T per thread. T needs no destructor, so that it can be used by whatever
  // still runs while a thread or the process ends.
  template <typename T>
  static T& ThreadLocal() {
    static constinit thread_local T instance{};
    return instance;
  }

  // Called between two looks at a lock that another thread holds for a few instructions.
  static void Pause(int attempt) {
    constexpr int kSpins = 64;
    if (attempt >= kSpins) {
      std::this_thread::yield();
      return;
    }
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_ATOMICS_POLICY_H_
