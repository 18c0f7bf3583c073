// SPDX-License-Identifier: Apache-2.0
// What an eviction policy remembers of evicted objects: that they were there, and how often they
// were used. Without it, an object that returns just after its eviction is new each time.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_GHOST_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_GHOST_TABLE_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <utility>

namespace weakcache::internal {

// Eight bytes for each eviction among the latest, in buckets of eight entries and 64 bytes. A
// fingerprint that two objects share, one time in 2^28 / evictions remembered, costs a little hit
// ratio and nothing else.
//
// The table grows and shrinks with the number of retained objects by linear hashing: each eviction
// splits one bucket in two, or merges a few pairs. So no call takes longer than a few cache misses,
// which matters under the budget's lock; to allocate and fill a larger table would take tens of
// milliseconds for a million objects. A split brings eight entries, an eviction needs one, so the
// table is never behind. It stays as it is if there is no memory to grow.
class GhostTable {
 public:
  static constexpr uint8_t kMaxFrequency = 15;

  // Remembers an eviction. The table grows to room for about `room` evictions, once that many have
  // come.
  void Remember(uint64_t hash, uint8_t frequency, size_t room) {
    FitTo(room);
    ++now_;
    if (bucket_count_ == 0) return;
    const uint32_t fingerprint = FingerprintOf(hash);
    Bucket& bucket = BucketOf(fingerprint);
    ShiftBack(bucket);
    bucket.entries[0] = {.fingerprint = fingerprint & kFingerprintMask,
                         .frequency = frequency & kFrequencyMask,
                         .time = now_};
  }

  // A remembered eviction: how often the object had been used, and how many evictions there were
  // since.
  struct Eviction {
    uint8_t frequency;
    uint32_t age;
  };
  // Returns an object's last eviction, and forgets it.
  std::optional<Eviction> Take(uint64_t hash) {
    if (bucket_count_ == 0) return std::nullopt;
    const uint32_t fingerprint = FingerprintOf(hash);
    Bucket& bucket = BucketOf(fingerprint);
    size_t found = kBucketEntries;
#pragma GCC unroll 8
    for (size_t i = kBucketEntries; i-- > 0;) {
      if (bucket.entries[i].fingerprint == fingerprint) found = i;
    }
    if (found == kBucketEntries) return std::nullopt;
    const Entry entry = bucket.entries[found];
    std::copy(&bucket.entries[found] + 1, std::end(bucket.entries), &bucket.entries[found]);
    bucket.entries[kBucketEntries - 1] = Entry();
    return Eviction{.frequency = static_cast<uint8_t>(entry.frequency), .age = AgeOf(entry)};
  }

  // Returns how many evictions there is room for.
  size_t capacity() const { return bucket_count_ * kBucketEntries; }

 private:
  static constexpr int kFingerprintBits = 28;
  static constexpr int kFrequencyBits = 4;
  static constexpr uint32_t kFingerprintMask = (uint32_t{1} << kFingerprintBits) - 1;
  static constexpr uint32_t kFrequencyMask = (uint32_t{1} << kFrequencyBits) - 1;
  static constexpr size_t kBucketEntries = 8;
  static constexpr size_t kMaxBuckets = size_t{1} << kFingerprintBits;

  struct Entry {
    uint32_t fingerprint : kFingerprintBits = 0;  // 0: nothing is here
    uint32_t frequency : kFrequencyBits = 0;
    uint32_t time = 0;
  };
  // The newest entry first, the free ones last.
  struct alignas(64) Bucket {
    Entry entries[kBucketEntries];
  };
  static_assert(sizeof(Bucket) == 64);
  // The unit of allocation.
  struct Segment {
    static constexpr size_t kBuckets = 64;
    Bucket buckets[kBuckets];
  };

  static uint32_t FingerprintOf(uint64_t hash) {
    // Spreads the differences of a weak hash over all bits, also the lowest, which choose a bucket.
    constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
    hash = (hash ^ (hash >> 32)) * kOdd;
    hash = (hash ^ (hash >> 32)) * kOdd;
    const auto fingerprint = static_cast<uint32_t>(hash >> (64 - kFingerprintBits));
    return fingerprint == 0 ? 1 : fingerprint;
  }
  // Returns the bucket of a fingerprint. Of 2^n + s buckets, the first s and the last s have been
  // split: a fingerprint's lowest n + 1 bits say which one it belongs to. For the others it is the
  // lowest n.
  Bucket& BucketOf(uint32_t fingerprint) const {
    const size_t bits = std::bit_ceil(bucket_count_);
    const size_t index = fingerprint & (bits - 1);
    return BucketAt(index < bucket_count_ ? index : index - bits / 2);
  }
  Bucket& BucketAt(size_t index) const {
    return segments_[index / Segment::kBuckets]->buckets[index % Segment::kBuckets];
  }
  // Returns the bucket that the last bucket was split from, and is merged with.
  Bucket& BuddyOfLast() const {
    return BucketAt((bucket_count_ - 1) - std::bit_floor(bucket_count_ - 1));
  }

  // Returns the number of evictions since. The counter may wrap: then an old entry looks young once
  // in 2^32 evictions.
  uint32_t AgeOf(const Entry& entry) const {
    return entry.fingerprint == 0 ? UINT32_MAX : now_ - entry.time;
  }

  void FitTo(size_t room) {
    if (capacity() < room + room / 2) {
      Grow();
    } else {
      for (int i = 0; i < 4 && room < capacity() / 8; ++i) Shrink();
    }
  }
  void Grow() {
    if (bucket_count_ == kMaxBuckets || !AddSegmentIfFull()) return;
    if (++bucket_count_ == 1) return;
    Bucket& last = BucketAt(bucket_count_ - 1);
    Bucket& buddy = BuddyOfLast();
    Entry* moved = last.entries;
    Entry* stays = buddy.entries;
    for (Entry& entry : buddy.entries) {
      const Entry each = std::exchange(entry, Entry());
      if (each.fingerprint != 0) *(&BucketOf(each.fingerprint) == &last ? moved : stays)++ = each;
    }
  }
  void Shrink() {
    Bucket& last = BucketAt(bucket_count_ - 1);
    if (bucket_count_ > 1) {
      for (const Entry& entry : last.entries) Move(entry, BuddyOfLast());
    }
    last = Bucket();
    if (--bucket_count_ % Segment::kBuckets == 0) {
      segments_[bucket_count_ / Segment::kBuckets].reset();
    }
  }
  // Makes the first entry free; the last one is lost.
  static void ShiftBack(Bucket& bucket) {
#pragma GCC unroll 8
    for (size_t i = kBucketEntries - 1; i > 0; --i) bucket.entries[i] = bucket.entries[i - 1];
  }
  // Adds the entry at the place that its age gives it, unless the bucket has eight newer ones.
  void Move(Entry entry, Bucket& bucket) {
    for (Entry& other : bucket.entries) {
      if (AgeOf(entry) < AgeOf(other)) std::swap(entry, other);
    }
  }

  // Makes room for one more bucket. Returns false if there is no memory.
  bool AddSegmentIfFull() {
    if (bucket_count_ % Segment::kBuckets != 0) return true;
    const size_t count = bucket_count_ / Segment::kBuckets;
    if (count == max_segments_) {
      // A pointer for each 512 entries: these are few even if there are millions of objects.
      const size_t more = std::max<size_t>(4, 2 * count);
      std::unique_ptr<std::unique_ptr<Segment>[]> segments(new (std::nothrow)
                                                               std::unique_ptr<Segment>[more]);
      if (segments == nullptr) return false;
      std::move(segments_.get(), segments_.get() + count, segments.get());
      segments_ = std::move(segments);
      max_segments_ = more;
    }
    segments_[count].reset(new (std::nothrow) Segment);
    return segments_[count] != nullptr;
  }

  std::unique_ptr<std::unique_ptr<Segment>[]> segments_;
  size_t max_segments_ = 0;
  size_t bucket_count_ = 0;
  uint32_t now_ = 0;  // counts evictions
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_GHOST_TABLE_H_
