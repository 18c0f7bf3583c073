// SPDX-License-Identifier: Apache-2.0
// Reserves large arrays that are read in no order.
//
// Nearly each such read misses the translation cache of the processor where pages have 4 KiB, and
// each page's first use costs a fault. With its arrays in huge pages, a search for cycles over a
// million objects takes two thirds of the time.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_LARGE_ARRAY_H_
#define WEAKCACHE_WEAKREF_INTERNAL_LARGE_ARRAY_H_

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

namespace weakcache::internal {

// Asks the system for huge pages for the part of the memory that such pages can fill. What the
// allocator puts there later is in huge pages, too, so this is for arrays that are large enough to
// be given back to the system. A system that has none ignores it; errno may change.
inline void AdviseHugePages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Does what array->reserve(size) does, in huge pages if there are any.
template <typename T>
void ReserveLarge(std::vector<T>* array, size_t size) {
  if (size <= array->capacity()) return;
  std::vector<T> larger;
  larger.reserve(size);
  AdviseHugePages(larger.data(), size * sizeof(T));
  larger.insert(larger.end(), std::make_move_iterator(array->begin()),
                std::make_move_iterator(array->end()));
  array->swap(larger);
}
// Makes an empty array one of `size` copies of `value`.
template <typename T>
void FillLarge(std::vector<T>* array, size_t size, const T& value) {
  ReserveLarge(array, size);
  array->assign(size, value);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_LARGE_ARRAY_H_
