// SPDX-License-Identifier: Apache-2.0
// How slots are aligned to cache lines.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_ALIGNMENT_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_ALIGNMENT_H_

#include <algorithm>
#include <cstddef>

namespace weakcache::internal {

// The alignment of a slot: to a cache line if that keeps the hot fields, which come first in a
// large slot, in one line. Never less than the type's own alignment.
template <typename Slot>
inline constexpr size_t kSlotAlignment =
    std::max<size_t>(alignof(Slot), sizeof(Slot) <= 64 || sizeof(Slot) >= 192 ? 64 : 1);

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_ALIGNMENT_H_
