// SPDX-License-Identifier: Apache-2.0
// The state that AtomicRef and AtomicWeakRef share: a pointer and a control block, with one counted
// reference to that block, which threads read and replace at the same time.
//
// Both words are guarded by a lock in the lowest bit of the block's address. It is held for a few
// instructions: to add a reference, or to exchange the words. References are dropped, and so
// destructors run, only by the callers, after the unlock.
//
// All operations on one such object are totally ordered, each one happening before the next, as the
// unlock is a release and the lock an acquire; that holds for loads too, since they lock. Taking
// the lock is seq_cst, so that the operations also take part in the single order of the program's
// other seq_cst operations. If one thread stores here and then reads a flag, and another thread
// sets the flag and then loads here, at least one of them sees the other's write.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_ATOMIC_REFERENCE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_ATOMIC_REFERENCE_H_

#include <atomic>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/pointer_lock.h"

namespace weakcache::internal {

struct StrongCounting {
  template <typename Block>
  static void Add(Block* block) {
    block->AddStrong();
  }
  template <typename Block>
  static void Release(Block* block) {
    block->ReleaseStrong();
  }
};

struct WeakCounting {
  template <typename Block>
  static void Add(Block* block) {
    block->AddWeak();
  }
  template <typename Block>
  static void Release(Block* block) {
    block->ReleaseWeak();
  }
};

// `Counting` says which of the block's counts the reference is in.
template <typename Policy, typename Element, typename Block, typename Counting>
class BasicAtomicReference {
 public:
  // A reference taken apart. Each function says whether it is counted, and who owns that count.
  struct Parts {
    Element* pointer = nullptr;
    Block* block = nullptr;

    friend bool operator==(const Parts&, const Parts&) = default;
  };

  // Takes over the count of `parts`.
  explicit BasicAtomicReference(Parts parts) : block_(parts.block), pointer_(parts.pointer) {}
  BasicAtomicReference(const BasicAtomicReference&) = delete;
  BasicAtomicReference& operator=(const BasicAtomicReference&) = delete;
  // Drops the reference. No other thread uses the object any more.
  ~BasicAtomicReference() {
    if (Block* const block = block_.GetUnshared()) Counting::Release(block);
  }

  // Returns the current reference, counted once more for the caller.
  Parts Load() const {
    const Parts current = Lock();
    AddAndUnlock(current);
    return current;
  }

  // Replaces the reference and takes over the count of `desired`. Returns the former reference,
  // whose count is the caller's.
  Parts Exchange(Parts desired) {
    const Parts former = Lock();
    ReplaceAndUnlock(desired);
    return former;
  }

  struct CompareExchangeResult {
    bool exchanged;
    Parts former;  // counted for the caller
  };
  // Replaces the reference if it is `expected` and then takes over the count of `desired`. The
  // caller keeps the count of `expected`, and of `desired` where nothing was exchanged.
  CompareExchangeResult CompareExchange(Parts expected, Parts desired) {
    const Parts current = Lock();
    if (current == expected) {
      ReplaceAndUnlock(desired);
      return {true, current};
    }
    AddAndUnlock(current);
    return {false, current};
  }

 private:
  Parts Lock() const {
    // A statement of its own: pointer_ is read after the lock is taken.
    Block* const block = block_.Lock(std::memory_order_seq_cst);
    return {pointer_, block};
  }
  void ReplaceAndUnlock(Parts desired) {
    pointer_ = desired.pointer;
    block_.Unlock(desired.block);
  }
  // Adds a reference before the unlock: else another thread could first replace the reference and
  // drop the last count.
  void AddAndUnlock(Parts current) const {
    if (current.block != nullptr) Counting::Add(current.block);
    block_.Unlock(current.block);
  }

  mutable BasicPointerLock<Policy, Block> block_;      // one reference is counted
  typename Policy::template Plain<Element*> pointer_;  // guarded by block_'s lock
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_ATOMIC_REFERENCE_H_
