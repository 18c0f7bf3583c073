// SPDX-License-Identifier: Apache-2.0
// A pointer whose lowest bit is a lock, for critical sections of a few instructions: the list of
// watchers and the atomic references each fit their lock into a word that they have anyway.
//
//   unlocked p --Lock--> locked p --Unlock(q)--> unlocked q
#ifndef WEAKCACHE_WEAKREF_INTERNAL_POINTER_LOCK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_POINTER_LOCK_H_

#include <atomic>
#include <cstdint>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// T is aligned to two bytes or more; the pointer may be null.
template <typename Policy, typename T>
class BasicPointerLock {
 public:
  explicit BasicPointerLock(T* pointer = nullptr) : word_(reinterpret_cast<uintptr_t>(pointer)) {}
  BasicPointerLock(const BasicPointerLock&) = delete;
  BasicPointerLock& operator=(const BasicPointerLock&) = delete;

  // Waits for the lock, takes it and returns the pointer. The caller runs no user code before
  // Unlock. `order` is acquire, which pairs with the release in Unlock, or stronger.
  T* Lock(std::memory_order order) {
    // Relaxed, here and on failure: only the exchange that succeeds takes over what it guards.
    uintptr_t word = word_.load(std::memory_order_relaxed);
    for (int attempt = 0;; ++attempt) {
      if ((word & kLocked) == 0 &&
          word_.compare_exchange_weak(word, word | kLocked, order, std::memory_order_relaxed)) {
        return reinterpret_cast<T*>(word);
      }
      if ((word & kLocked) != 0) {
        Policy::Pause(attempt);
        word = word_.load(std::memory_order_relaxed);
      }
    }
  }

  // Replaces the pointer and gives the lock back. The caller holds the lock.
  void Unlock(T* pointer) {
    static_assert(alignof(T) > kLocked, "the lowest bit of a T's address is the lock");
    // Release pairs with the acquire in Lock.
    word_.store(reinterpret_cast<uintptr_t>(pointer), std::memory_order_release);
  }

  // Returns whether the pointer is null and nobody holds the lock. Relaxed: for callers whom
  // something else orders after every change that matters to them.
  bool IsNullRelaxed() const { return word_.load(std::memory_order_relaxed) == 0; }

  // Returns the pointer for a caller that is alone with the object. Relaxed: the handover to that
  // caller orders it.
  T* GetUnshared() const { return reinterpret_cast<T*>(word_.load(std::memory_order_relaxed)); }

 private:
  static constexpr uintptr_t kLocked = 1;

  // Invariant: the pointer, plus 1 while a thread holds the lock. Written by: any thread that takes
  // the lock, and then that thread alone. Transitions: an even value to itself + 1 (Lock), and from
  // there to any even value (Unlock).
  typename Policy::template Atomic<uintptr_t> word_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_POINTER_LOCK_H_
