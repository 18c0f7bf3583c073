// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/concurrent/sharding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "weakcache/cache/internal/slot/hash_bits.h"

namespace weakcache::internal {
namespace {

struct Counter {
  int count = 0;
};

// Returns the most of 4,096 keys that one of 16 shards gets, where keys differ in the bits from
// `shift` on.
template <typename Hash>
int MostKeysInAShard(int shift) {
  ShardArray<Counter> shards(16);
  for (uint64_t i = 0; i < 4096; ++i) {
    ++shards.ForHash(MixedHash<Hash>(Hash()(i << shift))).count;
  }
  int most = 0;
  for (const Counter& shard : shards) most = std::max(most, shard.count);
  return most;
}

TEST(ShardingTest, KeysSpreadWhateverBitsTheyDifferIn) {
  for (int shift = 0; shift <= 52; ++shift) {
    EXPECT_LE(MostKeysInAShard<std::hash<uint64_t>>(shift), 3 * 4096 / 16) << shift;
    EXPECT_LE(MostKeysInAShard<absl::Hash<uint64_t>>(shift), 2 * 4096 / 16) << shift;
  }
}

TEST(ShardingTest, NumbersOfShards) {
  EXPECT_TRUE(ValidateShards(DefaultShards()).ok());
  for (const size_t shards : {size_t{0}, size_t{1}, size_t{16}, kMaxShards}) {
    EXPECT_TRUE(ValidateShards(shards).ok()) << shards;
  }
  for (const size_t shards : {size_t{3}, size_t{17}, 2 * kMaxShards}) {
    EXPECT_EQ(ValidateShards(shards).code(), absl::StatusCode::kInvalidArgument) << shards;
  }
}

TEST(ShardingTest, MovesLeaveNoShards) {
  ShardArray<Counter> first(4);
  first.begin()->count = 7;
  ShardArray<Counter> second(std::move(first));
  EXPECT_TRUE(first.moved_from());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(second.begin()->count, 7);
  first = std::move(second);
  EXPECT_EQ(first.count(), 4u);
  EXPECT_TRUE(second.moved_from());  // NOLINT(bugprone-use-after-move)
}

}  // namespace
}  // namespace weakcache::internal
