// SPDX-License-Identifier: Apache-2.0
// How a thread-safe container is split into shards, each with a lock of its own.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_SHARDING_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_SHARDING_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weakcache/cache/internal/slot/hash_bits.h"

namespace weakcache::internal {

inline constexpr size_t kMaxShards = 4096;

// Returns how many shards a container has unless its user says it: eight for each core, at least
// 16.
inline size_t DefaultShards() {
  return std::clamp(std::bit_ceil(8 * size_t{std::thread::hardware_concurrency()}), size_t{16},
                    kMaxShards);
}
// Returns InvalidArgument unless `shards` is a number of shards, or 0 for the default.
inline absl::Status ValidateShards(size_t shards) {
  if (shards == 0 || (std::has_single_bit(shards) && shards <= kMaxShards)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("shards: ", shards, " is not a power of two of at most ", kMaxShards));
}

// Owns the shards. At the end it calls DropEntries() on each of them, if they have that. As if it
// were a std::unique_ptr<Shard[]>, except that the shards stay reachable until they are gone:
// destructors of objects and keys may use the container until its end.
template <typename Shard>
class ShardArray {
 public:
  explicit ShardArray(size_t count) : count_(count), shards_(new Shard[count]) {}
  ShardArray(ShardArray&& other) noexcept
      : count_(std::exchange(other.count_, 0)), shards_(std::exchange(other.shards_, nullptr)) {}
  ShardArray& operator=(ShardArray&& other) noexcept {
    ShardArray(std::move(other)).swap(*this);
    return *this;
  }
  ~ShardArray() {
    DropEntries();
    delete[] shards_;
  }

  // Calls DropEntries() on each shard, until none has dropped anything: the destructors that this
  // runs may enter something in any shard.
  void DropEntries() const {
    if constexpr (requires(Shard & shard) { shard.DropEntries(); }) {
      for (bool dropped = true; dropped;) {
        dropped = false;
        for (Shard& shard : *this) dropped |= shard.DropEntries();
      }
    }
  }

  void swap(ShardArray& other) noexcept {
    std::swap(count_, other.count_);
    std::swap(shards_, other.shards_);
  }

  size_t count() const { return count_; }
  // Whether the shards have been moved away.
  bool moved_from() const { return shards_ == nullptr; }
  Shard* begin() const { return shards_; }
  Shard* end() const { return shards_ + count_; }

  // Returns the shard of a hash that has been mixed. Its bits lie below those that the tables use.
  Shard& ForHash(uint64_t hash) const {
    constexpr int kShift = kBitsBelowSlotHash - std::bit_width(kMaxShards);
    return shards_[(hash >> kShift) & (count_ - 1)];
  }

  // Returns how many entries each shard should have room for, for `size` in all. As keys do not
  // spread quite evenly, it is somewhat more than the average.
  size_t RoomPerShard(size_t size) const {
    const size_t average = size / count_ + 1;
    return count_ == 1 ? size : average + average / 8 + 8;
  }

 private:
  size_t count_;
  Shard* shards_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_SHARDING_H_
