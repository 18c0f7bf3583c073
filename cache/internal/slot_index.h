// From a hash to the index of a slot: open addressing with linear probing in Robin Hood order
// (Celis, 1986) and deletion by shifting back, so that there are no tombstones and never a rebuild
// to get rid of them. A bucket is four bytes: how far it is from home, some bits of the hash, and
// the slot's index.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace weakcache::internal {

class SlotIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  SlotIndex() = default;
  // Room for `size` slots whose indices are below `index_end` (at most 2^28).
  SlotIndex(size_t size, uint32_t index_end)
      : capacity_(static_cast<uint32_t>(size + size / 6 + 1)),
        index_bits_(std::bit_width(std::max(index_end, 1u) - 1)),
        buckets_(std::make_unique<uint32_t[]>(capacity_)) {}
  SlotIndex(SlotIndex&& other) noexcept { *this = std::move(other); }
  SlotIndex& operator=(SlotIndex&& other) noexcept {
    capacity_ = std::exchange(other.capacity_, 0);
    index_bits_ = std::exchange(other.index_bits_, 0);
    buckets_ = std::move(other.buckets_);
    return *this;
  }

  // How many slots fit, and below what all their indices must be.
  size_t max_size() const { return capacity_ - (capacity_ + 6) / 7; }
  uint32_t index_end() const { return capacity_ == 0 ? 0 : uint32_t{1} << index_bits_; }
  size_t allocated_bytes() const { return capacity_ * sizeof(uint32_t); }

  // The slot with that hash for which `match(index)` is true, or kNone.
  template <typename Match>
  uint32_t Find(uint32_t hash, Match&& match) const {
    const uint32_t position = FindPosition(hash, std::forward<Match>(match));
    return position == kNone ? kNone : IndexIn(buckets_[position]);
  }

  // `hash_of(index)` gives any inserted slot's hash. There is room.
  template <typename HashOf>
  void Insert(uint32_t hash, uint32_t index, HashOf&& hash_of) {
    uint32_t carried = Fingerprint(hash) | index;
    uint32_t distance = 0;
    for (uint32_t position = Home(hash);; position = Next(position), ++distance) {
      uint32_t& bucket = buckets_[position];
      if (bucket == 0) {
        bucket = WithDistance(carried, distance);
        return;
      }
      const uint32_t resident_distance = DistanceOf(position, hash_of);
      if (resident_distance >= distance) continue;
      const uint32_t resident = std::exchange(bucket, WithDistance(carried, distance));
      carried = resident & kContentMask;
      distance = resident_distance;
    }
  }

  // The slot is there.
  template <typename HashOf>
  void Erase(uint32_t hash, uint32_t index, HashOf&& hash_of) {
    uint32_t position = FindPosition(hash, [index](uint32_t found) { return found == index; });
    for (;;) {
      const uint32_t next = Next(position);
      const uint32_t distance = buckets_[next] == 0 ? 0 : DistanceOf(next, hash_of);
      if (distance == 0) break;
      buckets_[position] = WithDistance(buckets_[next] & kContentMask, distance - 1);
      position = next;
    }
    buckets_[position] = 0;
  }

  void Clear() { std::fill_n(buckets_.get(), capacity_, 0); }

 private:
  // The uppermost bits of a bucket hold its distance from home plus one, so an empty bucket is
  // zero. The largest value stands for that distance and any longer one.
  static constexpr int kContentBits = 28;
  static constexpr uint32_t kContentMask = (uint32_t{1} << kContentBits) - 1;
  static constexpr uint32_t kFarAway = 15;

  static uint32_t WithDistance(uint32_t content, uint32_t distance) {
    return content | std::min(distance + 1, kFarAway) << kContentBits;
  }

  // Monotonous in the hash, and any capacity will do (Lemire, 2019).
  uint32_t Home(uint32_t hash) const {
    return static_cast<uint32_t>((uint64_t{hash} * capacity_) >> 32);
  }
  uint32_t Next(uint32_t position) const { return position + 1 == capacity_ ? 0 : position + 1; }
  uint32_t IndexMask() const { return (uint32_t{1} << index_bits_) - 1; }
  uint32_t IndexIn(uint32_t bucket) const { return bucket & IndexMask(); }

  // The bits of the hash that home does not use much, where the index leaves room.
  uint32_t Fingerprint(uint32_t hash) const { return (hash << index_bits_) & kContentMask; }

  template <typename HashOf>
  uint32_t DistanceOf(uint32_t position, HashOf&& hash_of) const {
    const uint32_t stored = buckets_[position] >> kContentBits;
    if (stored != kFarAway) return stored - 1;
    const uint32_t home = Home(hash_of(IndexIn(buckets_[position])));
    return position >= home ? position - home : position + capacity_ - home;
  }

  template <typename Match>
  uint32_t FindPosition(uint32_t hash, Match&& match) const {
    if (capacity_ == 0) return kNone;
    const uint32_t fingerprint = Fingerprint(hash);
    const uint32_t index_mask = IndexMask();
    uint32_t position = Home(hash);
    for (uint32_t distance = 1;; ++distance) {
      const uint32_t bucket = buckets_[position];
      const uint32_t expected = std::min(distance, kFarAway);
      if ((bucket >> kContentBits) < expected) return kNone;
      // Whoever has this hash is exactly this far from home.
      const uint32_t difference = bucket ^ (fingerprint | expected << kContentBits);
      if ((difference & ~index_mask) == 0 && match(bucket & index_mask)) return position;
      position = Next(position);
    }
  }

  uint32_t capacity_ = 0;
  int index_bits_ = 0;
  std::unique_ptr<uint32_t[]> buckets_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_
