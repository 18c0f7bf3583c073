// SPDX-License-Identifier: Apache-2.0
// The memory of this process, as the operating system sees it (Linux).
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_MEMORY_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_MEMORY_H_

#include <cstdint>

namespace image_cache {

// Bytes of physical memory in use, 0 if the system does not tell.
int64_t ResidentBytes();

// Makes `free` give large blocks back to the operating system at once. Call it first thing in
// `main`.
void ReturnLargeBlocksAtOnce();

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_MEMORY_H_
