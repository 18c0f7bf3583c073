// SPDX-License-Identifier: Apache-2.0
// From a hash to a slot: cache chunks of seven one-byte tags and seven pointers, after F14 (Bronson
// and Shi, 2019). All tags of a chunk are compared at once, so a look-up takes one chunk and no
// unpredictable branch. A chunk counts the entries that overflow_count it because it was full;
// erasing one takes the count back, so there are no tombstones and never a rebuild to get rid of
// them.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_SLOT_INDEX_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_SLOT_INDEX_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/hash_bits.h"
#include "weakcache/cache/internal/table/swap_allocators.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// On average at most kFullEntries entries of a chunk are in use. With fewer, fewer look-ups have to
// go on to the next chunk (of a full index 10 % at six, 5 % at five), and an entry takes more
// memory.
template <typename Slot, typename Allocator = std::allocator<Slot>, size_t kFullEntries = 6>
class SlotIndex {
 public:
  explicit SlotIndex(const Allocator& allocator = Allocator()) : allocator_(allocator) {}
  // Room for `size` slots.
  SlotIndex(size_t size, const Allocator& allocator) : allocator_(allocator) {
    const size_t chunks = size / kFullEntries + 1;
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
    SwapAllocators(allocator_, other.allocator_);
  }

  // How many slots fit.
  size_t max_size() const { return size_t{chunk_count_} * kFullEntries; }
  // How large to make the next one if `size` slots don't fit: large enough for an insertion to cost
  // O(1) on average, small enough to waste less than a quarter.
  size_t GrownSize(size_t size) const { return std::max(size, max_size() + max_size() / 3); }

  // The slot with that hash for which `match(slot)` is true, or null. When it says true, `match`
  // may have changed the index.
  template <typename Match>
  Slot* Find(uint32_t hash, Match&& match) const {
    // Nearly always it is in the first chunk, or nowhere.
    Chunk* const chunk = HomeChunk(hash);
    Slot* const slot = FindIn(chunk, TagOf(hash), match);
    if (slot != nullptr || chunk->overflow_count() == 0) [[likely]]
      return slot;
    return FindSlow(hash, chunk, match);
  }

  // Lets the memory that Find, Insert or Erase would look at first come nearer.
  void Prefetch(uint32_t hash) const { __builtin_prefetch(HomeChunk(hash)); }

  // There is room.
  void Insert(uint32_t hash, Slot* slot) {
    Chunk* chunk = HomeChunk(hash);
    uint64_t free;
    while ((free = chunk->Free()) == 0) {
      chunk->AddToOverflowCount(1);
      chunk = Next(chunk);
    }
    chunk->Set(Chunk::EntryOf(free), TagOf(hash), slot);
  }

  // The slot is there.
  void Erase(uint32_t hash, Slot* slot) {
    const IndexPosition position = PositionOf(hash, slot);
    position.chunk->Set(position.entry, 0, nullptr);
    for (Chunk* chunk = HomeChunk(hash); chunk != position.chunk; chunk = Next(chunk))
      chunk->AddToOverflowCount(-1);
  }

  void Clear() { std::uninitialized_fill_n(chunks_, chunk_count_, Chunk()); }

  // Lets a slot take the position of one with the same hash.
  void Replace(uint32_t hash, Slot* replaced, Slot* slot) {
    const IndexPosition position = PositionOf(hash, replaced);
    position.chunk->slots[position.entry] = slot;
  }

  // Aborts unless there are `size` slots, each where a look-up finds it and counted where it
  // overflow_count.
  void CheckInvariantsForTesting(size_t size) const {
    size_t found = 0;
    size_t overflow_count = 0;
    size_t counted = 0;
    bool lost_track = false;
    for (size_t i = 0; i < chunk_count_; ++i) {
      Chunk* const chunk = &chunks_[i];
      counted += chunk->overflow_count();
      lost_track |= chunk->overflow_count() == Chunk::kSaturated;
      for (uint64_t used = ~chunk->Free() & Chunk::kTopBits; used != 0; used &= used - 1) {
        const Slot* const slot = chunk->slots[Chunk::EntryOf(used)];
        ++found;
        for (Chunk* on_way = HomeChunk(slot->hash()); on_way != chunk; on_way = Next(on_way)) {
          Check(on_way->Free() == 0 || on_way->overflow_count() != 0, "CheckInvariantsForTesting",
                "a slot is out of reach");
          ++overflow_count;
        }
      }
    }
    Check(found == size, "CheckInvariantsForTesting", "the index has too many slots or too few");
    Check(lost_track || overflow_count == counted, "CheckInvariantsForTesting",
          "the index has lost count");
  }

 private:
  static constexpr size_t kEntries = 7;

  struct alignas(64) Chunk {
    static constexpr uint64_t kLowBits = 0x01010101010101;
    static constexpr uint64_t kTopBits = kLowBits << 7;
    // A count this high has lost track and stays, until the index grows or is cleared.
    static constexpr uint64_t kSaturated = UINT8_MAX;

    // The top bit of each byte whose entry is free.
    uint64_t Free() const {
      // Tags are at least 2: adding 0x7e sets the top bit of those that have it not already.
      return ~(((tags & ~(kTopBits | kOverflowCount)) + kLowBits * 0x7e) | tags) & kTopBits;
    }
    // The top bit of each byte that is this tag; the byte after one may be there by mistake, if it
    // is another tag (Mycroft, 1987).
    uint64_t Matching(uint64_t tag) const {
      const uint64_t difference = tags ^ (kLowBits * tag);
      return (difference - kLowBits) & ~difference & kTopBits;
    }

    static size_t EntryOf(uint64_t bits) { return static_cast<size_t>(std::countr_zero(bits)) / 8; }

    void Set(size_t entry, uint64_t tag, Slot* slot) {
      tags = (tags & ~(uint64_t{0xff} << (8 * entry))) | (tag << (8 * entry));
      slots[entry] = slot;
    }

    // Entries that are further on because this chunk was full.
    uint64_t overflow_count() const { return tags >> 56; }
    void AddToOverflowCount(int change) {
      if (overflow_count() != kSaturated) tags += static_cast<uint64_t>(int64_t{change}) << 56;
    }

    static constexpr uint64_t kOverflowCount = uint64_t{0xff} << 56;
    uint64_t tags = 0;  // a byte for each entry, 0 if it is free, and the overflow_count ones above
    Slot* slots[kEntries] = {};
  };
  static_assert(sizeof(void*) != 8 || sizeof(Chunk) == 64);

  using ChunkAllocator = typename std::allocator_traits<Allocator>::template rebind_alloc<Chunk>;

  struct IndexPosition {
    Chunk* chunk;
    size_t entry;
  };

  // 0 is a free entry, 1 could be mistaken for one.
  static uint64_t TagOf(uint32_t hash) {
    const uint64_t tag = hash & 0xff;
    return tag < 2 ? tag + 2 : tag;
  }

  // The hash, scaled to any number of chunks (Lemire, 2019).
  Chunk* HomeChunk(uint32_t hash) const {
    return &chunks_[(uint64_t{hash} * chunk_count_) >> kSlotHashBits];
  }
  Chunk* Next(Chunk* chunk) const {
    return chunk + 1 == chunks_ + chunk_count_ ? chunks_ : chunk + 1;
  }

  template <typename Match>
  [[gnu::noinline]] Slot* FindSlow(uint32_t hash, Chunk* first, Match& match) const {
    for (Chunk* chunk = Next(first); chunk != first; chunk = Next(chunk)) {
      Slot* const slot = FindIn(chunk, TagOf(hash), match);
      if (slot != nullptr || chunk->overflow_count() == 0) return slot;
    }
    return nullptr;
  }
  template <typename Match>
  static Slot* FindIn(Chunk* chunk, uint64_t tag, Match& match) {
    for (uint64_t candidates = chunk->Matching(tag); candidates != 0;
         candidates &= candidates - 1) {
      Slot* const slot = chunk->slots[Chunk::EntryOf(candidates)];
      if (match(*slot)) [[likely]]
        return slot;
    }
    return nullptr;
  }

  // The slot is there.
  IndexPosition PositionOf(uint32_t hash, const Slot* slot) const {
    for (Chunk* chunk = HomeChunk(hash);; chunk = Next(chunk)) {
      for (uint64_t candidates = chunk->Matching(TagOf(hash)); candidates != 0;
           candidates &= candidates - 1) {
        const size_t entry = Chunk::EntryOf(candidates);
        if (chunk->slots[entry] == slot) return {chunk, entry};
      }
    }
  }

  // Before there is any other there is an empty one, so that a look-up need not ask. Nobody writes
  // to it, as it has no room.
  inline static Chunk empty_chunk_{};

  Chunk* chunks_ = &empty_chunk_;
  uint32_t chunk_count_ = 0;
  [[no_unique_address]] ChunkAllocator allocator_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_SLOT_INDEX_H_
