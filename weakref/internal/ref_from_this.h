// SPDX-License-Identifier: Apache-2.0
// How a newly created object that derives from EnableRefFromThis learns of the block that owns it.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REF_FROM_THIS_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REF_FROM_THIS_H_

#include "weakcache/weakref/internal/control_block.h"

namespace weakcache {

template <typename T>
class EnableRefFromThis;

namespace internal {

struct RefFromThisAccess {
  // Finds the base whichever class of the hierarchy inherited it.
  template <typename U>
  static const EnableRefFromThis<U>* Base(const EnableRefFromThis<U>* base) {
    return base;
  }
  template <typename U>
  static void Link(const EnableRefFromThis<U>* base, ControlBlock* block) {
    base->Link(block);
  }
};

// As for std::enable_shared_from_this, a base that is private or there more than once does not
// count.
template <typename T>
concept HasRefFromThis = requires(const T* referent) {
  RefFromThisAccess::Base(referent);
};

// Whatever creates the first Ref to an object calls this, after the constructor and before anybody
// else can reach the object. It costs other types nothing.
template <typename T, typename AnyBlock>
void LinkRefToThis([[maybe_unused]] T* referent, [[maybe_unused]] AnyBlock* block) {
  if constexpr (HasRefFromThis<T>) {
    RefFromThisAccess::Link(RefFromThisAccess::Base(referent), block);
  }
}

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REF_FROM_THIS_H_
