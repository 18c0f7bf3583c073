// SPDX-License-Identifier: Apache-2.0
// Where new objects join each Census that exists. Without a Census, that costs a traceable type's
// creation a load and a branch, and others nothing.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CENSUS_HOOK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CENSUS_HOOK_H_

#include <atomic>

#include "weakcache/weakref/internal/census_type.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

using JoinCensuses = void (*)(ControlBlock* block, const void* object, const CensusType& type);

// Null while there is no Census. Written by the constructor of the first and the destructor of the
// last one, under the lock of their list. Release there pairs with the acquire in JoinIfCensus,
// though an object that is made at the same time may join or not.
[[gnu::visibility("default")]] inline std::atomic<JoinCensuses> join_censuses{nullptr};

// Lets the first reference's object join. If that throws, the object has joined some or none.
template <typename T>
void JoinIfCensus([[maybe_unused]] ControlBlock* block, [[maybe_unused]] const T* object) {
  if constexpr (Traceable<T>) {
    if (const JoinCensuses join = join_censuses.load(std::memory_order_acquire)) [[unlikely]] {
      join(block, object, kCensusType<T>);
    }
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CENSUS_HOOK_H_
