// SPDX-License-Identifier: Apache-2.0
// How slots lie in cache lines.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_ALIGNMENT_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_ALIGNMENT_H_

#include <cstddef>

namespace weakcache::internal {

// A slot whose hot fields fit is not spread over two cache lines; in a large one they come first.
template <typename Slot>
inline constexpr size_t kSlotAlignment = sizeof(Slot) <= 64 || sizeof(Slot) >= 192 ? 64
                                                                                   : alignof(Slot);

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_ALIGNMENT_H_
