// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/memory.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace image_cache {

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  file >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

void ReturnLargeBlocksAtOnce() {
#ifdef __GLIBC__
  // glibc maps a large block by itself and unmaps it when it is freed. But each such free raises
  // the size that counts as large, up to 32 MiB, and smaller images then stay with the process as
  // free heap: its resident size would tell nothing about the cache. A threshold that is set stays.
  mallopt(M_MMAP_THRESHOLD, 256 * 1024);
#endif
}

}  // namespace image_cache
