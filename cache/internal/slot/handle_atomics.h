// SPDX-License-Identifier: Apache-2.0
// The atomics and the control block that belong to a kind of handle.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_HANDLE_ATOMICS_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_HANDLE_ATOMICS_H_

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// The atomics policy of a handle's control blocks. A model checker's handles specialise it.
template <typename H>
struct AtomicsOf {
  using Policy = StdAtomics;
};
template <typename H>
using BlockOf = BasicControlBlock<typename AtomicsOf<H>::Policy>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_HANDLE_ATOMICS_H_
