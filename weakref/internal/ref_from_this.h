// SPDX-License-Identifier: Apache-2.0
// Links a new object that derives from EnableRefFromThis to its control block.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REF_FROM_THIS_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REF_FROM_THIS_H_

#include "weakcache/weakref/internal/control_block.h"

namespace weakcache {

template <typename T>
class EnableRefFromThis;

namespace internal {

struct RefFromThisAccess {
  // Finds the base, whichever class of the hierarchy derives from it.
  template <typename U>
  static const EnableRefFromThis<U>* Base(const EnableRefFromThis<U>* base) {
    return base;
  }
  template <typename U>
  static void Link(const EnableRefFromThis<U>* base, ControlBlock* block) {
    base->Link(block);
  }
};

// True if T has exactly one accessible base EnableRefFromThis, as std::enable_shared_from_this
// asks.
template <typename T>
concept HasRefFromThis = requires(const T* referent) {
  RefFromThisAccess::Base(referent);
};

// Links the object to its block. The code that creates the first Ref to an object calls this, after
// the constructor and before another thread can reach the object. Other types pay nothing.
template <typename T, typename AnyBlock>
void LinkRefToThis([[maybe_unused]] T* referent, [[maybe_unused]] AnyBlock* block) {
  if constexpr (HasRefFromThis<T>) {
    RefFromThisAccess::Link(RefFromThisAccess::Base(referent), block);
  }
}

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REF_FROM_THIS_H_
