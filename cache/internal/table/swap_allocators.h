// SPDX-License-Identifier: Apache-2.0
// Swaps two allocators, also those that cannot be assigned.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_SWAP_ALLOCATORS_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_SWAP_ALLOCATORS_H_

#include <memory>
#include <type_traits>

namespace weakcache::internal {

// Also of allocators that can't be assigned, as those of std::pmr.
template <typename Allocator>
void SwapAllocators(Allocator& a, Allocator& b) noexcept {
  if constexpr (!std::is_empty_v<Allocator>) {
    const Allocator before = a;
    std::destroy_at(&a);
    std::construct_at(&a, b);
    std::destroy_at(&b);
    std::construct_at(&b, before);
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_SWAP_ALLOCATORS_H_
