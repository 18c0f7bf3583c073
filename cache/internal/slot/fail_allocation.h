// SPDX-License-Identifier: Apache-2.0
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_FAIL_ALLOCATION_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_FAIL_ALLOCATION_H_

#include <new>

#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// Fails as operator new does, for a size that can't even be computed. Without exceptions, aborts.
[[noreturn]] [[gnu::cold]] inline void FailAllocation(const char* call) {
#ifdef __cpp_exceptions
  static_cast<void>(call);
  throw std::bad_alloc();
#else
  CheckFailed(call, "out of memory");
#endif
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_FAIL_ALLOCATION_H_
