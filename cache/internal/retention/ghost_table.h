// SPDX-License-Identifier: Apache-2.0
// What an eviction policy remembers of evicted objects: that they were there, and how often they
// were used. Without it, an object that returns just after its eviction is new each time.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_GHOST_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_GHOST_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <utility>

namespace weakcache::internal {

// Eight bytes for each eviction among the latest, in buckets of eight: to look one up takes one
// cache bucket. It grows and shrinks with the number of resident objects, and stays as it is if
// there is no memory to grow. A fingerprint that two objects share, one time in 2^28 / evictions
// remembered, costs a little hit ratio and nothing else.
class GhostTable {
 public:
  static constexpr uint8_t kMaxFrequency = 15;

  // Notes an eviction, and has room for about `room` of them.
  void Remember(uint64_t hash, uint8_t frequency, size_t room) {
    FitTo(room);
    ++now_;
    if (bucket_count_ == 0) return;
    const uint32_t fingerprint = FingerprintOf(hash);
    Bucket& bucket = BucketOf(fingerprint);
    Entry* place = &bucket.entries[0];
    for (Entry& entry : bucket.entries) {
      if (entry.fingerprint == fingerprint) {
        place = &entry;
        break;
      }
      if (AgeOf(entry) > AgeOf(*place)) place = &entry;
    }
    *place = {.fingerprint = fingerprint & kFingerprintMask,
              .frequency = frequency & kFrequencyMask,
              .time = now_};
  }

  // Returns how often an object had been used, if it was among the latest `window` evictions, and
  // forgets it.
  std::optional<uint8_t> Take(uint64_t hash, size_t window) {
    if (bucket_count_ == 0) return std::nullopt;
    const uint32_t fingerprint = FingerprintOf(hash);
    for (Entry& entry : BucketOf(fingerprint).entries) {
      if (entry.fingerprint != fingerprint) continue;
      const bool lately = AgeOf(entry) < window;
      const uint8_t frequency = entry.frequency;
      entry = Entry();
      if (lately) return frequency;
      break;
    }
    return std::nullopt;
  }

  // Returns how many evictions there is room for.
  size_t capacity() const { return bucket_count_ * kBucketEntries; }

 private:
  static constexpr int kFingerprintBits = 28;
  static constexpr int kFrequencyBits = 4;
  static constexpr uint32_t kFingerprintMask = (uint32_t{1} << kFingerprintBits) - 1;
  static constexpr uint32_t kFrequencyMask = (uint32_t{1} << kFrequencyBits) - 1;
  static constexpr size_t kBucketEntries = 8;

  struct Entry {
    uint32_t fingerprint : kFingerprintBits = 0;  // 0: nothing is here
    uint32_t frequency : kFrequencyBits = 0;
    uint32_t time = 0;
  };
  struct alignas(64) Bucket {
    Entry entries[kBucketEntries];
  };
  static_assert(sizeof(Bucket) == 64);

  static uint32_t FingerprintOf(uint64_t hash) {
    // Spreads the differences of a weak hash; the product's upper bits are the good ones.
    const auto fingerprint =
        static_cast<uint32_t>((hash * 0x9e3779b97f4a7c15) >> (64 - kFingerprintBits));
    return fingerprint == 0 ? 1 : fingerprint;
  }
  Bucket& BucketOf(uint32_t fingerprint) const {
    return buckets_[(uint64_t{fingerprint} * bucket_count_) >> kFingerprintBits];
  }

  // Evictions since. The clock may go round: then an old entry looks young once in 2^32 evictions.
  uint32_t AgeOf(const Entry& entry) const {
    return entry.fingerprint == 0 ? UINT32_MAX : now_ - entry.time;
  }

  void FitTo(size_t room) {
    if (room > capacity() || room < capacity() / 8) [[unlikely]]
      Resize(room + room / 2, room);
  }

  [[gnu::noinline]] void Resize(size_t entries, size_t room) {
    const size_t count = (entries + kBucketEntries - 1) / kBucketEntries;
    if (count == bucket_count_) return;
    std::unique_ptr<Bucket[]> buckets(new (std::nothrow) Bucket[count]);
    if (buckets == nullptr) return;
    std::swap(buckets, buckets_);
    const size_t old_count = std::exchange(bucket_count_, count);
    for (size_t i = 0; i < old_count; ++i) {
      for (const Entry& entry : buckets[i].entries) {
        if (AgeOf(entry) < room) Move(entry);
      }
    }
  }
  void Move(const Entry& entry) {
    Entry* oldest = nullptr;
    for (Entry& place : BucketOf(entry.fingerprint).entries) {
      if (oldest == nullptr || AgeOf(place) > AgeOf(*oldest)) oldest = &place;
    }
    if (AgeOf(*oldest) > AgeOf(entry)) *oldest = entry;
  }

  std::unique_ptr<Bucket[]> buckets_;
  size_t bucket_count_ = 0;
  uint32_t now_ = 0;  // counts evictions
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_GHOST_TABLE_H_
