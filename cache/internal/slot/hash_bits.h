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

// Returns all bits of a hash, mixed if `Hash` may be as plain as the identity. The upper bits are
// the better ones; but even if only a few bits of the hash differ, wherever those are, the lower
// ones differ, too.
template <typename Hash>
uint64_t MixedHash(size_t hash) {
  if constexpr (kIsWellMixed<Hash>) return hash;
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;  // Knuth's multiplicative hash
#ifdef __SIZEOF_INT128__
  // A product's lower bits depend on lower bits of the hash only; its upper half makes up for that.
  __extension__ typedef unsigned __int128 Product;
  const Product product = Product{hash} * kMultiplier;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
#else
  return uint64_t{hash} * kMultiplier;
#endif
}
// The containers use the upper bits of a mixed hash; the bits below choose a shard.
inline constexpr int kBitsBelowSlotHash = 64 - kSlotHashBits;
template <typename Hash>
uint32_t SlotHash(size_t hash) {
  return static_cast<uint32_t>(MixedHash<Hash>(hash) >> kBitsBelowSlotHash);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_HASH_BITS_H_
