// SPDX-License-Identifier: Apache-2.0
// Refuses impossible sizes.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_LENGTH_ERROR_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_LENGTH_ERROR_H_

#include <stdexcept>

#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// Throws std::length_error if `possible` is false, or aborts where there are no exceptions.
inline void CheckLength(bool possible, const char* call) {
  if (possible) [[likely]]
    return;
#ifdef __cpp_exceptions
  throw std::length_error(call);
#else
  CheckFailed(call, "more entries than there can be");
#endif
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_LENGTH_ERROR_H_
