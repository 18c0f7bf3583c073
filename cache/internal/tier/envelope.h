// SPDX-License-Identifier: Apache-2.0
// Writes a TierEntry as one run of bytes, and reads it again, whatever has become of the bytes.
//
// What a server, a file or another version of the application returns is not to be trusted: it may
// be cut off, mixed up, or made to do harm. OpenEntry returns an entry only if each of its bytes is
// as SealEntry has written it. It reads nothing beyond the bytes, throws nothing, and allocates for
// the object only once the checksum, the caller's limit and the compressor's own frame agree on how
// large it is.
//
//   offset  size  (numbers are little-endian)
//        0     4  "WCTE"
//        4     1  format: 1
//        5     1  flags: 1 compressed with zstd, 2 has a group
//        6     2  0
//        8     4  group, or 0
//       12     4  the codec's schema
//       16     8  size of the object's bytes
//       24     8  written: Unix time in ns; the least and the greatest number are the infinite ones
//       32     8  expires: likewise
//       40     8  checksum: XXH3 (64 bits) of the payload, with that of the bytes above as its seed
//       48        payload: the object's bytes, or one frame of zstd that is shorter than they are
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_ENVELOPE_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_ENVELOPE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache::internal {

// A sealed entry is at most this much larger than the object's bytes.
inline constexpr size_t kEnvelopeBytes = 48;

struct SealOptions {
  // Objects of more bytes are compressed, if that saves a twentieth of them.
  size_t compress_above = SIZE_MAX;
  int level = 1;  // zstd's
};

// Fails with ResourceExhausted only: no memory.
absl::StatusOr<std::string> SealEntry(const TierEntry& entry, const SealOptions& options);

// Whether somebody else has found that the bytes are those that were written: then the checksum,
// which takes 0.1 ms for each MB or so, is not looked at.
enum class Checked { kNo, kYes };

// Returns the entry; DataLoss if the bytes are not those of SealEntry, of this format;
// ResourceExhausted if the object has more than `max_bytes`, or there is no memory. An entry that
// is not compressed shares the bytes of `sealed`.
absl::StatusOr<TierEntry> OpenEntry(TierBytes sealed, uint64_t max_bytes,
                                    Checked checked = Checked::kNo);

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_ENVELOPE_H_
