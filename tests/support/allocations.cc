// SPDX-License-Identifier: Apache-2.0
#include "tests/support/allocations.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <utility>

namespace {

std::atomic<int64_t> live_bytes{0};
std::atomic<int64_t> live_blocks{0};
thread_local int64_t countdown = 0;
thread_local size_t largest = 0;
thread_local void (*on_allocation)() = nullptr;

// In front of each block: its size and where it really begins.
struct Header {
  size_t size;
  void* start;
};

void* Allocate(size_t size, size_t alignment) {
  largest = std::max(largest, size);
  if (countdown > 0 && --countdown == 0) throw std::bad_alloc();
  if (on_allocation != nullptr) {
    auto* const function = std::exchange(on_allocation, nullptr);
    function();
    on_allocation = function;
  }
  if (alignment < alignof(std::max_align_t)) alignment = alignof(std::max_align_t);
  char* const start = static_cast<char*>(std::malloc(size + sizeof(Header) + alignment));
  if (start == nullptr) throw std::bad_alloc();
  auto address = reinterpret_cast<uintptr_t>(start) + sizeof(Header) + alignment - 1;
  address -= address % alignment;
  auto* const header = reinterpret_cast<Header*>(address) - 1;
  *header = {size, start};
  live_bytes += static_cast<int64_t>(size);
  ++live_blocks;
  return reinterpret_cast<void*>(address);
}

void Deallocate(void* block) {
  if (block == nullptr) return;
  const Header header = *(static_cast<Header*>(block) - 1);
  live_bytes -= static_cast<int64_t>(header.size);
  --live_blocks;
  std::free(header.start);
}

}  // namespace

void* operator new(size_t size) { return Allocate(size, 1); }
void* operator new[](size_t size) { return Allocate(size, 1); }
void* operator new(size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<size_t>(alignment));
}
// Sanitizers' own would not go through those above.
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  try {
    return operator new(size, alignment);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new(size_t size, const std::nothrow_t& nothrow) noexcept {
  return operator new(size, std::align_val_t(1), nothrow);
}
void* operator new[](size_t size, std::align_val_t alignment,
                     const std::nothrow_t& nothrow) noexcept {
  return operator new(size, alignment, nothrow);
}
void* operator new[](size_t size, const std::nothrow_t& nothrow) noexcept {
  return operator new(size, nothrow);
}
void operator delete(void* block) noexcept { Deallocate(block); }
void operator delete[](void* block) noexcept { Deallocate(block); }
void operator delete(void* block, size_t) noexcept { Deallocate(block); }
void operator delete[](void* block, size_t) noexcept { Deallocate(block); }
void operator delete(void* block, std::align_val_t) noexcept { Deallocate(block); }
void operator delete[](void* block, std::align_val_t) noexcept { Deallocate(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { Deallocate(block); }
void operator delete[](void* block, size_t, std::align_val_t) noexcept { Deallocate(block); }

namespace weakcache::testing {

int64_t LiveAllocatedBytes() { return live_bytes; }
int64_t LiveAllocations() { return live_blocks; }

size_t TakeLargestAllocation() { return std::exchange(largest, 0); }

void FailAllocation(int64_t at) { countdown = at; }

void OnAllocation(void (*function)()) { on_allocation = function; }

}  // namespace weakcache::testing
