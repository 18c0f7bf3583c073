// SPDX-License-Identifier: Apache-2.0
// The tag word of an index's chunk, after F14 (Bronson and Shi, 2019).
//
//   byte    7                6     5     4     3     2     1     0
//         overflow count    tag6  tag5  tag4  tag3  tag2  tag1  tag0
//
// A chunk is a cache line: this word and seven pointers. A tag is eight bits of the hash of the
// entry that the pointer of the same number refers to, or 0 if there is none. All tags are compared
// at once, so a look-up takes one chunk and no unpredictable branch. The overflow count says how
// many entries passed this chunk because it was full. Erasing such an entry takes one off, so there
// are no tombstones.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_CHUNK_TAGS_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_CHUNK_TAGS_H_

#include <bit>
#include <cstddef>
#include <cstdint>

namespace weakcache::internal {

// Functions on a tag word. A set of entries is a word that has the top bit of their bytes set.
struct ChunkTags {
  static constexpr size_t kEntries = 7;
  // The highest overflow count that there is room for.
  static constexpr uint64_t kSaturated = UINT8_MAX;

  // Returns the tag of a hash: neither 0, a free entry, nor 1, which could be mistaken for one.
  static uint64_t TagOf(uint32_t hash) {
    const uint64_t tag = hash & 0xff;
    return tag < 2 ? tag + 2 : tag;
  }

  // Returns the entries that are free.
  static uint64_t Free(uint64_t tags) {
    // Tags are at least 2: adding 0x7e sets the top bit of each tag that lacks it.
    return ~(((tags & ~(kTopBits | kOverflowByte)) + kLowBits * 0x7e) | tags) & kTopBits;
  }
  static uint64_t Used(uint64_t tags) { return ~Free(tags) & kTopBits; }
  // Returns the entries with this tag. The entry after one of them may be in the set by mistake,
  // if it has another tag (Mycroft, 1987).
  static uint64_t Matching(uint64_t tags, uint64_t tag) {
    const uint64_t difference = tags ^ (kLowBits * tag);
    return (difference - kLowBits) & ~difference & kTopBits;
  }
  // Returns the first entry of a set.
  static size_t EntryOf(uint64_t set) { return static_cast<size_t>(std::countr_zero(set)) / 8; }

  static uint64_t TagAt(uint64_t tags, size_t entry) { return (tags >> (8 * entry)) & 0xff; }
  static uint64_t WithTag(uint64_t tags, size_t entry, uint64_t tag) {
    return (tags & ~(uint64_t{0xff} << (8 * entry))) | (tag << (8 * entry));
  }

  static uint64_t OverflowCount(uint64_t tags) { return tags >> 56; }
  static uint64_t WithOverflowCount(uint64_t tags, uint64_t count) {
    return (tags & ~kOverflowByte) | (count << 56);
  }
  // Changes the overflow count by 1 or -1, unless it is saturated: such a count has lost track and
  // stays as it is.
  static uint64_t AddToOverflowCount(uint64_t tags, int change) {
    if (OverflowCount(tags) == kSaturated) return tags;
    return tags + (static_cast<uint64_t>(int64_t{change}) << 56);
  }

 private:
  static constexpr uint64_t kLowBits = 0x01010101010101;
  static constexpr uint64_t kTopBits = kLowBits << 7;
  static constexpr uint64_t kOverflowByte = uint64_t{0xff} << 56;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_CHUNK_TAGS_H_
