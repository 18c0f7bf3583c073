// SPDX-License-Identifier: Apache-2.0
// What the model of the concurrent index is too small to show.
#include "weakcache/cache/internal/concurrent/concurrent_index.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/support/allocations.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {
namespace {

struct HashedSlot {
  uint32_t hash() const { return hash_value; }
  uint32_t hash_value;
};
using Index = ConcurrentIndex<HashedSlot, StdAtomics>;

bool IsAbsent(const Index& index, uint32_t hash) {
  uint64_t version;
  return index.IsAbsent(hash, &version);
}

// A chunk has room for overflow counts up to 255. Beyond that they are counted all the same, so
// colliding entries that have come and gone leave nothing that a later miss would have to pass.
TEST(ConcurrentIndexTest, CollidingEntriesThatHaveGoneLeaveNoTrace) {
  constexpr uint32_t kHash = 2;
  for (const size_t count : {10u, 254u, 255u, 256u, 257u, 5000u}) {
    std::vector<HashedSlot> slots(count, HashedSlot{kHash});
    Index index(2 * count);
    for (HashedSlot& slot : slots) index.Insert(&slot);
    index.CheckInvariantsForTesting(count);
    EXPECT_FALSE(IsAbsent(index, kHash + 1));
    // Not in the order in which they came.
    for (size_t i = 0; i < count; i += 2) index.Erase(&slots[i]);
    index.CheckInvariantsForTesting(count / 2);
    for (size_t i = 1; i < count; i += 2) index.Erase(&slots[i]);
    index.CheckInvariantsForTesting(0);
    EXPECT_TRUE(IsAbsent(index, kHash + 1)) << count;
  }
}

TEST(ConcurrentIndexTest, CountsOverflowsAnewWhenItGrows) {
  constexpr uint32_t kHash = 2;
  constexpr size_t kCount = 3000;
  std::vector<HashedSlot> slots(kCount, HashedSlot{kHash});
  Index index;
  for (size_t i = 0; i < kCount; ++i) {
    if (i == index.max_size()) index.Grow(2 * i);
    index.Insert(&slots[i]);
  }
  for (HashedSlot& slot : slots) index.Erase(&slot);
  EXPECT_TRUE(IsAbsent(index, kHash + 1));
}

// What an insertion allocates for such counts does not grow with the index, because it happens
// under a lock; and it is freed when the index grows.
TEST(ConcurrentIndexTest, CountsBeyondAChunksRoomTakeLittleMemory) {
  constexpr size_t kCount = 300;
  std::vector<HashedSlot> slots(kCount, HashedSlot{2});
  Index index(1'000'000);
  const int64_t before = testing::LiveAllocatedBytes();
  for (HashedSlot& slot : slots) index.Insert(&slot);
  EXPECT_LE(testing::LiveAllocatedBytes() - before, 5000);
  for (HashedSlot& slot : slots) index.Erase(&slot);
  const int64_t allocations = testing::LiveAllocations();
  index.Grow(2 * index.max_size());
  EXPECT_EQ(testing::LiveAllocations(), allocations);  // one chunk more, and one segment less
}

}  // namespace
}  // namespace weakcache::internal
