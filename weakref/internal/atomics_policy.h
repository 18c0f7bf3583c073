// SPDX-License-Identifier: Apache-2.0
// The concurrency primitives that the library is written against. Production code uses StdAtomics;
// the model tests supply a policy of their own and so check the headers that ship.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_ATOMICS_POLICY_H_
#define WEAKCACHE_WEAKREF_INTERNAL_ATOMICS_POLICY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "weakcache/weakref/internal/language_version.h"

namespace weakcache::internal {

// Visible outside a shared object that is compiled with hidden symbols: a thread has one
// ThreadLocal, whatever shared object it runs in.
struct [[gnu::visibility("default")]] StdAtomics {
  template <typename T>
  using Atomic = std::atomic<T>;

  // A field that needs no atomic, because a lock or a transfer of ownership orders its accesses.
  // The model tests replace the type to find the accesses that nothing orders.
  template <typename T>
  using Plain = T;

  // Allocates the parts of a concurrent container that may outlive the container object.
  template <typename T>
  using Allocator = std::allocator<T>;

  // The word with both counts of a referent: the strong count is the lower half.
  using CountWord = uint64_t;

  // Identifies a running thread. No thread has the id ThreadId().
  using ThreadId = std::thread::id;
  static ThreadId CurrentThread() { return std::this_thread::get_id(); }

  // A destruction that would nest deeper is deferred until the one at this depth has returned.
  static constexpr int kMaxNestedDestructions = 32;

  // Returns the calling thread's T, zero-initialised. T has a trivial destructor, so the result can
  // still be used by destructors that run while the thread or the process ends.
  template <typename T>
  static T& ThreadLocal() {
    static constinit thread_local T instance{};
    return instance;
  }

  // Waits between two attempts to take a lock that is held for a few instructions.
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
