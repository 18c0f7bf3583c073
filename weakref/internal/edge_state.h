// SPDX-License-Identifier: Apache-2.0
// The state of an EdgeRef: a reference that threads read and replace at once, and a mark of every
// access, by which a search knows that there was none between two of its looks.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_EDGE_STATE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_EDGE_STATE_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/pointer_lock.h"

namespace weakcache::internal {

// Invariant: the number of EdgeStates that were made. Written by their constructors. Relaxed: the
// numbers need only be distinct.
[[gnu::visibility("default")]] inline std::atomic<uint64_t> edge_states_made{0};

class EdgeState {
 public:
  // A reference taken apart. Each function says who owns its count.
  struct Parts {
    const void* pointer = nullptr;
    ControlBlock* block = nullptr;
  };
  // What a search sees. Two that are equal are of one edge, and it was not accessed in between.
  struct Look {
    const ControlBlock* block = nullptr;
    uint64_t serial = 0;
    uint64_t accesses = 0;

    friend bool operator==(const Look&, const Look&) = default;
  };

  // Takes over the count of `parts`.
  explicit EdgeState(Parts parts)
      : block_(parts.block),
        pointer_(parts.pointer),
        serial_(edge_states_made.fetch_add(1, std::memory_order_relaxed)) {}
  EdgeState(const EdgeState&) = delete;
  EdgeState& operator=(const EdgeState&) = delete;
  // Drops the reference. No other thread uses the edge any more.
  ~EdgeState() {
    if (ControlBlock* const block = block_.GetUnshared()) block->ReleaseStrong();
  }

  // Returns the reference, counted once more for the caller.
  Parts Load() const {
    ControlBlock* const block = Lock();
    const Parts parts{pointer_, block};
    ++accesses_;
    if (block != nullptr) block->AddStrong();
    block_.Unlock(block);
    return parts;
  }
  // Takes over the count of `desired`, and returns the former reference, whose count is the
  // caller's.
  Parts Exchange(Parts desired) {
    ControlBlock* const block = Lock();
    const Parts parts{std::exchange(pointer_, desired.pointer), block};
    ++accesses_;
    block_.Unlock(desired.block);
    return parts;
  }
  // Looks without a mark. Nothing is counted: the block is only to be compared.
  Look LookAt() const {
    ControlBlock* const block = Lock();
    const Look look{block, serial_, accesses_};
    block_.Unlock(block);
    return look;
  }

 private:
  // Each access happens before the next, and all take part in the order of the program's other
  // sequentially consistent operations: see BasicAtomicReference.
  ControlBlock* Lock() const { return block_.Lock(std::memory_order_seq_cst); }

  mutable BasicPointerLock<StdAtomics, ControlBlock> block_;  // one reference is counted
  // Guarded by block_'s lock.
  const void* pointer_;
  mutable uint64_t accesses_ = 0;
  // Tells this edge from another one at the same address, before or after.
  const uint64_t serial_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_EDGE_STATE_H_
