// SPDX-License-Identifier: Apache-2.0
// How many bits of a hash the containers use, and which.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_HASH_BITS_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_HASH_BITS_H_

#include <cstddef>
#include <cstdint>

#include "absl/hash/hash.h"

namespace weakcache::internal {

// The number of bits of a hash that slots and the index use.
inline constexpr int kSlotHashBits = 28;

// Whether every bit of the hash depends on all of the key. Other hashes are mixed before use.
template <typename Hash>
inline constexpr bool kIsWellMixed = false;
template <typename Key>
inline constexpr bool kIsWellMixed<absl::Hash<Key>> = sizeof(size_t) == 8;

// Returns all bits of a hash, passed through Knuth's multiplicative hash unless `Hash` mixes well.
// The upper bits are the better ones.
template <typename Hash>
uint64_t MixedHash(size_t hash) {
  return kIsWellMixed<Hash> ? hash : uint64_t{hash} * 0x9E3779B97F4A7C15u;
}
// The containers use the upper bits of a mixed hash; the bits below choose a shard.
inline constexpr int kBitsBelowSlotHash = 64 - kSlotHashBits;
template <typename Hash>
uint32_t SlotHash(size_t hash) {
  return static_cast<uint32_t>(MixedHash<Hash>(hash) >> kBitsBelowSlotHash);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_HASH_BITS_H_
