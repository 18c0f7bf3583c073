// SPDX-License-Identifier: Apache-2.0
// Why an object is no longer in a cache.
#ifndef WEAKCACHE_CACHE_REMOVAL_CAUSE_H_
#define WEAKCACHE_CACHE_REMOVAL_CAUSE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace weakcache {

enum class RemovalCause : uint8_t {
  kBudget,       // others needed its bytes
  kExpired,      // its time was up: see expire_after_write and expire_after_access
  kReplaced,     // its key got another object
  kInvalidated,  // Invalidate, InvalidateIf, InvalidateGroup or Clear removed it
  kDied,         // its last user let it go, and the cache did not retain it
};
inline constexpr size_t kRemovalCauses = 5;

// Returns "budget", "expired", "replaced", "invalidated" or "died".
std::string_view RemovalCauseName(RemovalCause cause);

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_REMOVAL_CAUSE_H_
