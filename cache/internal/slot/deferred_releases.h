// SPDX-License-Identifier: Apache-2.0
// What an operation of a table releases after its unlock.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_DEFERRED_RELEASES_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_DEFERRED_RELEASES_H_

#include <cstddef>
#include <new>

namespace weakcache::internal {

// Blocks of memory that are not needed any more. Frees them at its end. Its list is kept in the
// blocks themselves, so that it takes no memory.
class UnusedBlocks {
 public:
  struct Link {
    Link* next;
    size_t slots;
    void (*free)(void* block, size_t slots);
  };

  UnusedBlocks() = default;
  UnusedBlocks(const UnusedBlocks&) = delete;
  UnusedBlocks& operator=(const UnusedBlocks&) = delete;
  ~UnusedBlocks() {
    while (Link* const first = first_) {
      const Link link = *first;
      first_ = link.next;
      link.free(first, link.slots);
    }
  }

  // Adds a block, with the memory for so many slots and for a Link, that `free` frees.
  void Add(void* block, size_t slots, void (*free)(void* block, size_t slots)) {
    first_ = ::new (block) Link{first_, slots, free};
  }

 private:
  Link* first_ = nullptr;
};

// References, and memory of free slots. Declare it before a lock. `References` is the
// DeferredReleases of a control block.
template <typename References>
struct DeferredReleasesOf : References {
  UnusedBlocks unused_blocks;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_DEFERRED_RELEASES_H_
