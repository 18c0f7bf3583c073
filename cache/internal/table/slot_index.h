// SPDX-License-Identifier: Apache-2.0
// Maps a hash to a slot: an array of chunks, each a tag word and seven pointers (see chunk_tags.h).
// An overflow count that has saturated can't be decremented: after many such erasures the index is
// to be refilled (see needs_refill).
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_SLOT_INDEX_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_SLOT_INDEX_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/chunk_tags.h"
#include "weakcache/cache/internal/slot/hash_bits.h"
#include "weakcache/cache/internal/slot/length_error.h"
#include "weakcache/cache/internal/table/swap_allocators.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// At most kFullEntries entries of a chunk are in use on average. A smaller number costs memory and
// lets fewer look-ups continue in the next chunk: in a full index 10 % at six, 5 % at five.
template <typename Slot, typename Allocator = std::allocator<Slot>, size_t kFullEntries = 6>
class SlotIndex {
 public:
  explicit SlotIndex(const Allocator& allocator = Allocator()) : allocator_(allocator) {}
  // Makes room for `size` slots.
  SlotIndex(size_t size, const Allocator& allocator) : allocator_(allocator) {
    const size_t chunks = size / kFullEntries + 1;
    CheckLength(
        chunks <= std::min<size_t>(UINT32_MAX,
                                   std::allocator_traits<ChunkAllocator>::max_size(allocator_)),
        "weakcache: an index of that many entries");
    chunks_ = std::allocator_traits<ChunkAllocator>::allocate(allocator_, chunks);
    chunk_count_ = static_cast<uint32_t>(chunks);
    Clear();
  }
  SlotIndex(SlotIndex&& other) noexcept : allocator_(other.allocator_) { swap(other); }
  SlotIndex& operator=(SlotIndex&& other) noexcept {
    SlotIndex(std::move(other)).swap(*this);
    return *this;
  }
  ~SlotIndex() {
    if (chunk_count_ == 0) return;
    std::allocator_traits<ChunkAllocator>::deallocate(allocator_, chunks_, chunk_count_);
  }

  void swap(SlotIndex& other) noexcept {
    std::swap(chunks_, other.chunks_);
    std::swap(chunk_count_, other.chunk_count_);
    std::swap(missed_decrements_, other.missed_decrements_);
    std::swap(fill_steps_, other.fill_steps_);
    SwapAllocators(allocator_, other.allocator_);
  }

  // Returns how many slots fit.
  size_t max_size() const { return size_t{chunk_count_} * kFullEntries; }
  // Returns the size of the next index if `size` slots do not fit: large enough for insertions to
  // cost O(1) amortised, small enough to waste less than a quarter.
  size_t GrownSize(size_t size) const { return std::max(size, max_size() + max_size() / 3); }

  // Returns the slot with that hash for which `match(slot)` is true, or null. `match` may change
  // the index if it returns true.
  template <typename Match>
  Slot* Find(uint32_t hash, Match&& match) const {
    // Nearly always the slot is in the first chunk or not in the index.
    Chunk* const chunk = HomeChunk(hash);
    Slot* const slot = FindIn(chunk, ChunkTags::TagOf(hash), match);
    if (slot != nullptr || chunk->overflow_count() == 0) [[likely]]
      return slot;
    return FindSlow(hash, chunk, match);
  }

  // Prefetches the memory that Find, Insert or Erase reads first.
  void Prefetch(uint32_t hash) const { __builtin_prefetch(HomeChunk(hash)); }

  // Adds the slot. Precondition: there is room.
  void Insert(uint32_t hash, Slot* slot) {
    Chunk* chunk = HomeChunk(hash);
    uint64_t free;
    while ((free = chunk->Free()) == 0) {
      chunk->AddToOverflowCount(1);
      ++fill_steps_;
      chunk = Next(chunk);
    }
    chunk->Set(ChunkTags::EntryOf(free), ChunkTags::TagOf(hash), slot);
  }

  // Removes the slot. Precondition: it is in the index.
  void Erase(uint32_t hash, Slot* slot) {
    const IndexPosition position = PositionOf(hash, slot);
    position.chunk->Set(position.entry, 0, nullptr);
    for (Chunk* chunk = HomeChunk(hash); chunk != position.chunk; chunk = Next(chunk)) {
      if (!chunk->AddToOverflowCount(-1)) ++missed_decrements_;
    }
  }

  // Returns whether so many decrements of saturated counts were missed that look-ups may have
  // become slow. Clear and the insertion of all slots make the counts exact again. A missed
  // decrement is one step of an Erase; a refill takes a step for each chunk and each full chunk
  // passed. So a refill once a share of that number was missed costs O(1) amortised.
  bool needs_refill() const {
    return missed_decrements_ > std::max<size_t>(chunk_count_ / 4, fill_steps_ / 2);
  }

  void Clear() {
    std::uninitialized_fill_n(chunks_, chunk_count_, Chunk());
    missed_decrements_ = 0;
    fill_steps_ = 0;
  }

  // Puts a slot into the position of another with the same hash.
  void Replace(uint32_t hash, Slot* replaced, Slot* slot) {
    const IndexPosition position = PositionOf(hash, replaced);
    position.chunk->slots[position.entry] = slot;
  }

  // Aborts unless the index has `size` slots, each where a look-up finds it and counted in each
  // full chunk that precedes it.
  void CheckInvariantsForTesting(size_t size) const {
    size_t found = 0;
    size_t overflows = 0;
    size_t counted = 0;
    bool saturated = false;
    for (size_t i = 0; i < chunk_count_; ++i) {
      Chunk* const chunk = &chunks_[i];
      counted += chunk->overflow_count();
      saturated |= chunk->overflow_count() == ChunkTags::kSaturated;
      for (uint64_t used = ChunkTags::Used(chunk->tags); used != 0; used &= used - 1) {
        const Slot* const slot = chunk->slots[ChunkTags::EntryOf(used)];
        ++found;
        for (Chunk* on_way = HomeChunk(slot->hash()); on_way != chunk; on_way = Next(on_way)) {
          Check(on_way->Free() == 0 || on_way->overflow_count() != 0, "CheckInvariantsForTesting",
                "a slot is out of reach");
          ++overflows;
        }
      }
    }
    Check(found == size, "CheckInvariantsForTesting", "the index has too many slots or too few");
    Check(saturated || overflows == counted, "CheckInvariantsForTesting",
          "the index has lost count");
  }

 private:
  struct alignas(64) Chunk {
    uint64_t Free() const { return ChunkTags::Free(tags); }
    uint64_t Matching(uint64_t tag) const { return ChunkTags::Matching(tags, tag); }
    void Set(size_t entry, uint64_t tag, Slot* slot) {
      tags = ChunkTags::WithTag(tags, entry, tag);
      slots[entry] = slot;
    }
    uint64_t overflow_count() const { return ChunkTags::OverflowCount(tags); }
    // Returns false, without a change, if the count has saturated.
    bool AddToOverflowCount(int change) {
      if (overflow_count() == ChunkTags::kSaturated) return false;
      tags = ChunkTags::AddToOverflowCount(tags, change);
      return true;
    }

    uint64_t tags = 0;
    Slot* slots[ChunkTags::kEntries] = {};
  };
  static_assert(sizeof(void*) != 8 || sizeof(Chunk) == 64);

  using ChunkAllocator = typename std::allocator_traits<Allocator>::template rebind_alloc<Chunk>;

  struct IndexPosition {
    Chunk* chunk;
    size_t entry;
  };

  // Returns the chunk of a hash by scaling it to the number of chunks (Lemire, 2019).
  Chunk* HomeChunk(uint32_t hash) const {
    return &chunks_[(uint64_t{hash} * chunk_count_) >> kSlotHashBits];
  }
  Chunk* Next(Chunk* chunk) const {
    return chunk + 1 == chunks_ + chunk_count_ ? chunks_ : chunk + 1;
  }

  template <typename Match>
  [[gnu::noinline]] Slot* FindSlow(uint32_t hash, Chunk* first, Match& match) const {
    for (Chunk* chunk = Next(first); chunk != first; chunk = Next(chunk)) {
      Slot* const slot = FindIn(chunk, ChunkTags::TagOf(hash), match);
      if (slot != nullptr || chunk->overflow_count() == 0) return slot;
    }
    return nullptr;
  }
  template <typename Match>
  static Slot* FindIn(Chunk* chunk, uint64_t tag, Match& match) {
    for (uint64_t candidates = chunk->Matching(tag); candidates != 0;
         candidates &= candidates - 1) {
      Slot* const slot = chunk->slots[ChunkTags::EntryOf(candidates)];
      if (match(*slot)) [[likely]]
        return slot;
    }
    return nullptr;
  }

  // Returns where the slot is. Precondition: it is in the index.
  IndexPosition PositionOf(uint32_t hash, const Slot* slot) const {
    for (Chunk* chunk = HomeChunk(hash);; chunk = Next(chunk)) {
      for (uint64_t candidates = chunk->Matching(ChunkTags::TagOf(hash)); candidates != 0;
           candidates &= candidates - 1) {
        const size_t entry = ChunkTags::EntryOf(candidates);
        if (chunk->slots[entry] == slot) return {chunk, entry};
      }
    }
  }

  // Stands for the chunks of an index without memory, so that a look-up need not check. Never
  // written, because such an index has no room.
  inline static Chunk empty_chunk_{};

  Chunk* chunks_ = &empty_chunk_;
  uint32_t chunk_count_ = 0;
  size_t missed_decrements_ = 0;  // of saturated counts since the index was filled
  size_t fill_steps_ = 0;         // full chunks that insertions have passed since then
  [[no_unique_address]] ChunkAllocator allocator_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_SLOT_INDEX_H_
