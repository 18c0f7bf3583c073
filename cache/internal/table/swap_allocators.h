// SPDX-License-Identifier: Apache-2.0
// Swaps two allocators that may lack assignment.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_SWAP_ALLOCATORS_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_SWAP_ALLOCATORS_H_

#include <memory>
#include <type_traits>

namespace weakcache::internal {

// Swaps allocators by construction, because std::pmr's cannot be assigned.
template <typename Allocator>
void SwapAllocators(Allocator& a, Allocator& b) noexcept {
  if constexpr (!std::is_empty_v<Allocator>) {
    if (std::addressof(a) == std::addressof(b)) return;
    const Allocator before = a;
    std::destroy_at(std::addressof(a));
    std::construct_at(std::addressof(a), b);
    std::destroy_at(std::addressof(b));
    std::construct_at(std::addressof(b), before);
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_SWAP_ALLOCATORS_H_
