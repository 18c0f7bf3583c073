// SPDX-License-Identifier: Apache-2.0
// How many bits of a hash the containers use, and which.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_HASH_BITS_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_HASH_BITS_H_

#include <cstddef>
#include <cstdint>

#include "absl/hash/hash.h"

namespace weakcache::internal {

// The bits of a hash that slots and the index work with.
inline constexpr int kSlotHashBits = 28;

// Whether every bit of the hash depends on all of the key. Others are spread before they are used.
template <typename Hash>
inline constexpr bool kIsWellMixed = false;
template <typename Key>
inline constexpr bool kIsWellMixed<absl::Hash<Key>> = sizeof(size_t) == 8;

// All bits of a hash, after Knuth's multiplicative hash if `Hash` may be as plain as the identity;
// the upper ones are the better ones.
template <typename Hash>
uint64_t MixedHash(size_t hash) {
  return kIsWellMixed<Hash> ? hash : uint64_t{hash} * 0x9E3779B97F4A7C15u;
}
// Those that the containers use, and below them those that choose among shards.
inline constexpr int kBitsBelowSlotHash = 64 - kSlotHashBits;
template <typename Hash>
uint32_t SlotHash(size_t hash) {
  return static_cast<uint32_t>(MixedHash<Hash>(hash) >> kBitsBelowSlotHash);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_HASH_BITS_H_
