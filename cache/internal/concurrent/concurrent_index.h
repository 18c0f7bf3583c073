// SPDX-License-Identifier: Apache-2.0
// Finds a slot by the hash of its key, for one writer at a time and any number of readers that take
// no lock.
//
// The layout is SlotIndex's: chunks of a tag word and seven pointers, see chunk_tags.h. A reader
// that finds a slot then tries to take a reference to it. The writer allows that only once the slot
// is in the index, so a hit needs no second look. What a reader does not find may have been entered
// meanwhile, in a place that the reader had passed: then the version has changed, and the reader
// looks again. When the index grows it publishes new chunks, and keeps the old ones until the end
// for the readers that are still in them. As it doubles, all old ones together are no larger than
// the new.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_INDEX_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_INDEX_H_

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>

#include "weakcache/cache/internal/slot/chunk_tags.h"
#include "weakcache/cache/internal/slot/fail_allocation.h"
#include "weakcache/cache/internal/slot/hash_bits.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// Slot has hash(), which readers call at any time. Precondition: slots that were ever entered are
// not freed before the index.
template <typename Slot, typename Policy>
class ConcurrentIndex {
 public:
  explicit ConcurrentIndex(size_t size = 0) {
    Header* const header = TryNewChunks(OrderFor(size));
    if (header == nullptr) FailAllocation("ConcurrentWeakValueMap");
    Publish(ChunksOf(header));
  }
  ConcurrentIndex(const ConcurrentIndex&) = delete;
  ConcurrentIndex& operator=(const ConcurrentIndex&) = delete;
  ~ConcurrentIndex() {
    for (Chunk* chunks = Current().chunks(); chunks != nullptr;) {
      Header* const header = HeaderOf(chunks);
      chunks = header->replaced;
      DeleteExcess(header);
      Delete(header);
    }
  }

  // What a reader has found. Without a slot: if `certain`, the key is absent as of that version; if
  // not, look again.
  struct Found {
    Slot* slot;
    bool certain;
    uint64_t version;
  };

  // Returns the slot with that hash for which `take(slot)` is true.
  template <typename Take>
  Found Find(uint32_t hash, Take&& take) const {
    // Acquire pairs with the release in AddToVersion: earlier changes are seen. If a later change
    // is seen in part, the second load sees another version: the part is loaded with acquire, and
    // was stored with release after the version had been.
    const uint64_t version = version_.load(std::memory_order_acquire);
    const Chunks chunks = Current();
    Chunk* const home = chunks.HomeChunk(hash);
    for (Chunk* chunk = home;;) {
      // Acquire, also of the pointer, pairs with the release in SetEntry.
      const uint64_t tags = chunk->tags.load(std::memory_order_acquire);
      for (uint64_t candidates = ChunkTags::Matching(tags, ChunkTags::TagOf(hash)); candidates != 0;
           candidates &= candidates - 1) {
        Slot* const slot =
            chunk->slots[ChunkTags::EntryOf(candidates)].load(std::memory_order_acquire);
        if (slot->hash() == hash && take(slot)) return {slot, true, version};
      }
      chunk = ChunkTags::OverflowCount(tags) == 0 ? home : chunks.Next(chunk);
      if (chunk == home) break;
    }
    return {nullptr, version % 2 == 0 && version_.load(std::memory_order_relaxed) == version,
            version};
  }

  // Changes with each entry that is inserted, published or erased. Relaxed: callers order it with
  // what they conclude from it.
  uint64_t version() const { return version_.load(std::memory_order_relaxed); }

  // Like Find, but looks at one slot only, which nearly always is the right one: null proves
  // nothing. `take` compares the hash.
  template <typename Take>
  Slot* FindFirst(uint32_t hash, Take&& take) const {
    Chunk* const chunk = Current().HomeChunk(hash);
    const uint64_t candidates =
        ChunkTags::Matching(chunk->tags.load(std::memory_order_acquire), ChunkTags::TagOf(hash));
    if (candidates == 0) return nullptr;
    Slot* const slot = chunk->slots[ChunkTags::EntryOf(candidates)].load(std::memory_order_acquire);
    return take(slot) ? slot : nullptr;
  }

  // Returns true if no slot can have that hash, as of `*version`. Looks at no slot; false proves
  // nothing.
  bool IsAbsent(uint32_t hash, uint64_t* version) const {
    // Orders as in Find.
    *version = version_.load(std::memory_order_acquire);
    const uint64_t tags = Current().HomeChunk(hash)->tags.load(std::memory_order_acquire);
    return ChunkTags::Matching(tags, ChunkTags::TagOf(hash)) == 0 &&
           ChunkTags::OverflowCount(tags) == 0 && *version % 2 == 0 &&
           version_.load(std::memory_order_relaxed) == *version;
  }

  // Like Find, for the writer.
  template <typename Take>
  Slot* FindAsWriter(uint32_t hash, Take&& take) const {
    return Find(hash, take).slot;
  }

  // Returns how many slots can ever fit.
  static size_t max_slots() { return kFullEntries << Chunks::kMaxOrder; }

  // What follows is for the writer. Returns how many slots fit.
  size_t max_size() const { return Current().count() * kFullEntries; }

  // Makes room for so many slots. If memory runs out it changes nothing, and throws or returns
  // false.
  void Grow(size_t size) {
    Check(size <= max_slots(), "ConcurrentWeakValueMap", "too many entries in one shard");
    if (!TryGrow(size)) FailAllocation("ConcurrentWeakValueMap");
  }
  bool TryGrow(size_t size) {
    const Chunks old = Current();
    Header* const header = TryNewChunks(OrderFor(size));
    if (header == nullptr) return false;
    const Chunks grown = ChunksOf(header);
    HeaderOf(grown.chunks())->replaced = old.chunks();
    for (Chunk* chunk = old.chunks(); chunk != old.chunks() + old.count(); ++chunk) {
      ForEach(*chunk, [&](Slot* slot) { InsertIn(grown, slot); });
    }
    NoteChange();
    Publish(grown);
    DeleteExcess(HeaderOf(old.chunks()));  // only the writer has used it
    return true;
  }

  // Inserts a slot. Precondition: there is room.
  void Insert(Slot* slot) {
    NoteChange();
    InsertIn(Current(), slot);
  }
  // Has to be called when other threads can take references to a slot that was inserted. A reader
  // that found it before, in vain, has an older version.
  void NotePublished() { NoteChange(); }

  // Erases a slot, which is in the index.
  void Erase(const Slot* slot) {
    NoteChange();
    const Chunks chunks = Current();
    const IndexPosition position = PositionOf(chunks, slot);
    position.chunk->SetTag(position.entry, 0);
    for (Chunk* chunk = chunks.HomeChunk(slot->hash()); chunk != position.chunk;
         chunk = chunks.Next(chunk)) {
      CountOverflow(chunks, chunk, -1);
    }
  }

  // Puts a slot in the position of another one with the same hash; `publish()` allows references to
  // it. A reader that comes between may find neither, but is not certain of that.
  template <typename Publish>
  void Replace(const Slot* replaced, Slot* slot, Publish&& publish) {
    BeginChange();
    const IndexPosition position = PositionOf(Current(), replaced);
    position.chunk->slots[position.entry].store(slot, std::memory_order_release);  // see SetEntry
    publish();
    EndChange();
  }

  // Calls `visit(slot)` for each slot.
  template <typename Visit>
  void ForEachSlot(Visit&& visit) const {
    const Chunks chunks = Current();
    for (Chunk* chunk = chunks.chunks(); chunk != chunks.chunks() + chunks.count(); ++chunk) {
      ForEach(*chunk, visit);
    }
  }

  // Aborts unless there are `size` slots, each where a look-up finds it.
  void CheckInvariantsForTesting(size_t size) const {
    size_t found = 0;
    ForEachSlot([&](Slot* slot) {
      ++found;
      const Slot* const reached =
          FindAsWriter(slot->hash(), [&](const Slot* other) { return other == slot; });
      Check(reached == slot, "CheckInvariantsForTesting", "a slot is out of reach");
    });
    Check(found == size, "CheckInvariantsForTesting", "the index has too many slots or too few");
  }

 private:
  template <typename T>
  using Atomic = typename Policy::template Atomic<T>;

  static constexpr size_t kMinChunks = 4;
  // At most so many entries of a chunk are in use on average. With one more, twice as many look-ups
  // have to go on to the next chunk: in a full index 10 % instead of 5 %.
  static constexpr size_t kFullEntries = 5;

  struct alignas(64) Chunk {
    // For the writer. Relaxed: only the writer stores.
    uint64_t Tags() const { return tags.load(std::memory_order_relaxed); }
    void SetEntry(size_t entry, uint64_t tag, Slot* slot) {
      // Release pairs with the acquire in Find: a reader sees the slot's page, and the version.
      slots[entry].store(slot, std::memory_order_release);
      SetTag(entry, tag);
    }
    void SetTag(size_t entry, uint64_t tag) {
      // Release: as above, and a reader that sees the tag sees the pointer.
      tags.store(ChunkTags::WithTag(Tags(), entry, tag), std::memory_order_release);
    }
    void SetOverflowCount(uint64_t count) {
      tags.store(ChunkTags::WithOverflowCount(Tags(), count),
                 std::memory_order_release);  // as above
    }

    // Invariant: see chunk_tags.h. Only the writer stores; any value may follow any other.
    Atomic<uint64_t> tags{0};
    // Invariant: the slots that the tags belong to. An erased slot stays here until its entry is
    // used again. Only the writer stores.
    Atomic<Slot*> slots[ChunkTags::kEntries]{};
  };

  // The chunks follow, and then for each segment of them a pointer to their Excess.
  struct alignas(64) Header {
    Chunk* replaced = nullptr;  // the chunks before these
    size_t count;
  };

  // The writer's: for each chunk of a segment how much its overflow count exceeds what the chunk
  // has room for. Nearly always there is none; what has to be allocated for it, under a lock, does
  // not grow with the index.
  static constexpr size_t kSegment = 1024;
  struct Excess {
    uint32_t of_chunk[kSegment] = {};
  };

  struct IndexPosition {
    Chunk* chunk;
    size_t entry;
  };

  // A power of two of chunks, as one word: their address, and in its lowest bits by how much a hash
  // is shifted to give its chunk.
  struct Chunks {
    explicit Chunks(uintptr_t any_word) : word(any_word) {}
    Chunks(Chunk* chunks, int order)
        : word(reinterpret_cast<uintptr_t>(chunks) | static_cast<uintptr_t>(kMaxOrder - order)) {}

    Chunk* chunks() const { return reinterpret_cast<Chunk*>(word & ~uintptr_t{kShiftMask}); }
    size_t count() const { return size_t{1} << (kMaxOrder - static_cast<int>(word & kShiftMask)); }
    Chunk* HomeChunk(uint32_t hash) const { return chunks() + (hash >> (word & kShiftMask)); }
    Chunk* Next(Chunk* chunk) const {
      return chunk + 1 == chunks() + count() ? chunks() : chunk + 1;
    }

    static constexpr int kMaxOrder = kSlotHashBits;
    static constexpr uintptr_t kShiftMask = 31;
    static_assert(kMaxOrder <= 31 && alignof(Chunk) > 31);
    uintptr_t word;
  };

  // The fewest chunks that so many slots fit in; at most max_slots().
  static int OrderFor(size_t slots) {
    const size_t chunks = std::max((slots + kFullEntries - 1) / kFullEntries, kMinChunks);
    return static_cast<int>(std::bit_width(chunks - 1));
  }
  static Header* HeaderOf(Chunk* chunks) { return reinterpret_cast<Header*>(chunks) - 1; }
  static Chunks ChunksOf(Header* header) {
    return Chunks(reinterpret_cast<Chunk*>(header + 1),
                  static_cast<int>(std::bit_width(header->count)) - 1);
  }
  // Returns null if memory runs out.
  static Header* TryNewChunks(int order) {
    const size_t count = size_t{1} << order;
    const size_t segments = SegmentsOf(count);
    if (count > (SIZE_MAX - sizeof(Header)) / (sizeof(Chunk) + sizeof(Excess*))) return nullptr;
    void* const memory =
        ::operator new(sizeof(Header) + count * sizeof(Chunk) + segments * sizeof(Excess*),
                       std::align_val_t(alignof(Chunk)), std::nothrow);
    if (memory == nullptr) return nullptr;
    auto* const header = ::new (memory) Header{.count = count};
    auto* const chunks = reinterpret_cast<Chunk*>(header + 1);
    for (size_t i = 0; i < count; ++i) ::new (static_cast<void*>(chunks + i)) Chunk;
    for (size_t i = 0; i < segments; ++i) ::new (&ExcessOf(header)[i]) Excess*(nullptr);
    return header;
  }
  static void Delete(Header* header) {
    auto* const chunks = reinterpret_cast<Chunk*>(header + 1);
    for (size_t i = 0; i < header->count; ++i) chunks[i].~Chunk();
    ::operator delete(header, std::align_val_t(alignof(Chunk)));
  }
  static size_t SegmentsOf(size_t count) { return (count + kSegment - 1) / kSegment; }
  static Excess** ExcessOf(Header* header) {
    return reinterpret_cast<Excess**>(reinterpret_cast<Chunk*>(header + 1) + header->count);
  }
  static void DeleteExcess(Header* header) {
    for (size_t i = 0; i < SegmentsOf(header->count); ++i) {
      Excess*& excess = ExcessOf(header)[i];
      if (excess != &lost_) delete excess;
      excess = nullptr;
    }
  }

  // Acquire pairs with the release in Publish: their content is there.
  Chunks Current() const { return Chunks(chunks_.load(std::memory_order_acquire)); }
  void Publish(const Chunks& chunks) { chunks_.store(chunks.word, std::memory_order_release); }

  // One of these has to be called before any store that readers see.
  void NoteChange() { AddToVersion(2); }
  void BeginChange() { AddToVersion(1); }  // until EndChange, nobody is certain of a miss
  void EndChange() { AddToVersion(1); }
  void AddToVersion(uint64_t change) {
    // Relaxed: nobody else writes. Release: see Find.
    version_.store(version_.load(std::memory_order_relaxed) + change, std::memory_order_release);
  }

  // Changes an overflow count by 1 or -1. What is above the highest count that a chunk has room for
  // is counted apart. Readers need not know it, and nearly always there is none.
  static void CountOverflow(const Chunks& chunks, Chunk* chunk, int change) {
    const uint64_t count = ChunkTags::OverflowCount(chunk->Tags());
    if (count < ChunkTags::kSaturated) {
      chunk->SetOverflowCount(count + static_cast<uint64_t>(int64_t{change}));
    } else {
      CountExcess(chunks, chunk, change);
    }
  }
  [[gnu::noinline]] static void CountExcess(const Chunks& chunks, Chunk* chunk, int change) {
    const auto index = static_cast<size_t>(chunk - chunks.chunks());
    Excess*& excess = ExcessOf(HeaderOf(chunks.chunks()))[index / kSegment];
    if (excess == nullptr && change > 0) {
      excess = new (std::nothrow) Excess;
      // Without memory such counts of this segment stay as they are, until the index grows.
      if (excess == nullptr) excess = &lost_;
    }
    if (excess == &lost_) return;
    uint32_t* const count = excess == nullptr ? nullptr : &excess->of_chunk[index % kSegment];
    if (change > 0) {
      ++*count;
    } else if (count != nullptr && *count != 0) {
      --*count;
    } else {
      chunk->SetOverflowCount(ChunkTags::kSaturated - 1);
    }
  }

  static void InsertIn(const Chunks& chunks, Slot* slot) {
    const uint32_t hash = slot->hash();
    Chunk* chunk = chunks.HomeChunk(hash);
    uint64_t free;
    while ((free = ChunkTags::Free(chunk->Tags())) == 0) {
      CountOverflow(chunks, chunk, 1);
      chunk = chunks.Next(chunk);
    }
    chunk->SetEntry(ChunkTags::EntryOf(free), ChunkTags::TagOf(hash), slot);
  }

  // Returns where a slot is, which is in the index.
  static IndexPosition PositionOf(const Chunks& chunks, const Slot* slot) {
    const uint32_t hash = slot->hash();
    for (Chunk* chunk = chunks.HomeChunk(hash);; chunk = chunks.Next(chunk)) {
      for (uint64_t candidates = ChunkTags::Matching(chunk->Tags(), ChunkTags::TagOf(hash));
           candidates != 0; candidates &= candidates - 1) {
        const size_t entry = ChunkTags::EntryOf(candidates);
        // Relaxed: the writer's own.
        if (ChunkTags::TagAt(chunk->Tags(), entry) == ChunkTags::TagOf(hash) &&
            chunk->slots[entry].load(std::memory_order_relaxed) == slot) {
          return {chunk, entry};
        }
      }
    }
  }

  template <typename Visit>
  static void ForEach(const Chunk& chunk, Visit&& visit) {
    for (uint64_t used = ChunkTags::Used(chunk.Tags()); used != 0; used &= used - 1) {
      visit(chunk.slots[ChunkTags::EntryOf(used)].load(
          std::memory_order_relaxed));  // the writer's own
    }
  }

  // Stands for an Excess that could not be allocated. Never written.
  inline static Excess lost_;

  // The chunks and how many there are. Only the writer stores; the number grows. A hit reads
  // nothing else of the index, so this has a cache line without anything that changes write.
  alignas(64) Atomic<uintptr_t> chunks_{0};
  // Twice the number of changes, and one more during a replacement. Only the writer stores; grows.
  alignas(64) Atomic<uint64_t> version_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_INDEX_H_
