// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/table/slot_index.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"

namespace weakcache::internal {
namespace {

constexpr uint32_t kHashes = 1u << kSlotHashBits;

class HashedSlot {
 public:
  uint32_t hash() const { return hash_; }
  void set_hash(uint32_t hash) { hash_ = hash; }

 private:
  uint32_t hash_ = 0;
};
using Index = SlotIndex<HashedSlot>;

HashedSlot* FindIn(const Index& index, const HashedSlot& slot) {
  return index.Find(slot.hash(), [&](const HashedSlot& found) { return &found == &slot; });
}

class Model {
 public:
  Model(uint64_t seed, size_t size, uint32_t hashes)
      : random_(seed), hashes_(hashes), index_(size, std::allocator<HashedSlot>()), slots_(size) {
    for (HashedSlot& slot : slots_) free_.push_back(&slot);
  }

  void Insert() {
    if (used_.size() == index_.max_size() || free_.empty()) return;
    HashedSlot* const slot = TakeFrom(free_);
    slot->set_hash(Hash());
    used_.push_back(slot);
    index_.Insert(slot->hash(), slot);
  }

  void Erase() {
    if (used_.empty()) return;
    HashedSlot* const slot = TakeFrom(used_);
    index_.Erase(slot->hash(), slot);
    free_.push_back(slot);
  }

  void Replace() {
    if (used_.empty() || free_.empty()) return;
    HashedSlot* const replaced = TakeFrom(used_);
    HashedSlot* const slot = TakeFrom(free_);
    slot->set_hash(replaced->hash());
    index_.Replace(slot->hash(), replaced, slot);
    free_.push_back(replaced);
    used_.push_back(slot);
  }

  void Check() const {
    index_.CheckInvariantsForTesting(used_.size());
    for (HashedSlot* const slot : used_) ASSERT_EQ(FindIn(index_, *slot), slot);
    for (HashedSlot* const slot : free_) ASSERT_EQ(FindIn(index_, *slot), nullptr);
  }

  uint64_t Random() { return random_(); }

 private:
  HashedSlot* TakeFrom(std::vector<HashedSlot*>& slots) {
    std::swap(slots[random_() % slots.size()], slots.back());
    HashedSlot* const slot = slots.back();
    slots.pop_back();
    return slot;
  }
  // From all over the range, but only so many different ones.
  uint32_t Hash() { return static_cast<uint32_t>(random_() % hashes_) * (kHashes / hashes_); }

  std::mt19937_64 random_;
  uint32_t hashes_;
  Index index_;
  std::vector<HashedSlot> slots_;
  std::vector<HashedSlot*> free_;
  std::vector<HashedSlot*> used_;
};

// With few different hashes, entries go far from home, past more full chunks than these can count.
TEST(SlotIndexTest, BehavesAsItsModel) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const uint32_t hashes = seed % 3 == 0 ? 3 : seed % 3 == 1 ? 50 : 1'000'000;
    Model model(seed, 10 + seed % 700, hashes);
    for (int i = 0; i < 1000; ++i) {
      // Fills up, then empties, again and again.
      if (model.Random() % 5 == 0) {
        model.Replace();
      } else if (model.Random() % 100 < (i / 200 % 2 == 0 ? 70u : 30u)) {
        model.Insert();
      } else {
        model.Erase();
      }
      if (i % 50 == 0) model.Check();
      if (HasFatalFailure()) return;
    }
  }
}

// More entries pass a chunk than it can count: it loses count, and nothing else.
TEST(SlotIndexTest, ManyEntriesOfOneHash) {
  std::vector<HashedSlot> slots(1000);
  Index index(slots.size(), std::allocator<HashedSlot>());
  for (HashedSlot& slot : slots) index.Insert(0, &slot);
  index.CheckInvariantsForTesting(slots.size());
  for (size_t i = 0; i < slots.size(); i += 2) index.Erase(0, &slots[i]);
  index.CheckInvariantsForTesting(slots.size() / 2);
  for (size_t i = 0; i < slots.size(); ++i) {
    ASSERT_EQ(FindIn(index, slots[i]), i % 2 == 1 ? &slots[i] : nullptr) << i;
  }
  for (size_t i = 1; i < slots.size(); i += 2) index.Erase(0, &slots[i]);
  index.CheckInvariantsForTesting(0);
  index.Clear();
  index.Insert(0, &slots[0]);
  index.CheckInvariantsForTesting(1);
}

TEST(SlotIndexTest, EveryTagIsFound) {
  std::vector<HashedSlot> slots(1024);
  Index index(slots.size(), std::allocator<HashedSlot>());
  for (uint32_t i = 0; i < slots.size(); ++i) {
    slots[i].set_hash(i);  // all at home in one chunk, with all tags
    index.Insert(i, &slots[i]);
  }
  for (HashedSlot& slot : slots) {
    HashedSlot* const found = index.Find(
        slot.hash(), [&](const HashedSlot& other) { return other.hash() == slot.hash(); });
    EXPECT_EQ(found, &slot);
  }
}

TEST(SlotIndexTest, EmptyOneFindsNothing) {
  const Index index;
  EXPECT_EQ(index.Find(0, [](const HashedSlot&) { return true; }), nullptr);
  EXPECT_EQ(index.max_size(), 0u);
  index.Prefetch(0);
  index.CheckInvariantsForTesting(0);
}

TEST(SlotIndexTest, HoldsAtLeastWhatItWasMadeForAndWastesLittle) {
  for (size_t size = 0; size < 2000; ++size) {
    const Index index(size, std::allocator<HashedSlot>());
    EXPECT_GE(index.max_size(), size);
    EXPECT_LE(index.max_size(), size + 6);
    EXPECT_GT(index.GrownSize(size + 1), size);
    EXPECT_LE(index.GrownSize(index.max_size() + 1), (index.max_size() + 1) * 4 / 3 + 1);
  }
}

TEST(SlotIndexTest, MovesAndGivesItsMemoryBack) {
  const int64_t before = testing::LiveAllocations();
  {
    HashedSlot slot;
    Index index(10, std::allocator<HashedSlot>());
    index.Insert(0, &slot);
    Index other(std::move(index));
    EXPECT_EQ(index.max_size(), 0u);  // NOLINT(bugprone-use-after-move): it is empty
    EXPECT_EQ(FindIn(other, slot), &slot);
    Index assigned(1000, std::allocator<HashedSlot>());
    assigned = std::move(other);
    EXPECT_EQ(FindIn(assigned, slot), &slot);
    assigned.CheckInvariantsForTesting(1);
  }
  EXPECT_EQ(testing::LiveAllocations(), before);
}

TEST(SlotIndexDeathTest, ValidateSeesAWrongCount) {
  HashedSlot slot;
  Index index(10, std::allocator<HashedSlot>());
  index.Insert(0, &slot);
  EXPECT_DEATH(index.CheckInvariantsForTesting(0),
               "CheckInvariantsForTesting: the index has too many slots or too few");
  EXPECT_DEATH(index.CheckInvariantsForTesting(2),
               "CheckInvariantsForTesting: the index has too many slots or too few");
}

// Saturated overflow counts can't be decremented: without a refill, look-ups would go on past
// chunks that nobody passes any more.
TEST(SlotIndexTest, SaturatedCountsAskForARefill) {
  std::vector<HashedSlot> slots(5000);
  std::vector<HashedSlot> others(100);  // with the same tag, far behind
  Index index(25'000, std::allocator<HashedSlot>());
  for (HashedSlot& slot : slots) index.Insert(0, &slot);
  for (HashedSlot& other : others) {
    other.set_hash(kHashes / 64);
    index.Insert(other.hash(), &other);
  }
  EXPECT_FALSE(index.needs_refill());
  size_t erased = 0;
  for (; erased < slots.size() && !index.needs_refill(); ++erased) index.Erase(0, &slots[erased]);
  EXPECT_GT(erased, 0u);
  ASSERT_LT(erased, slots.size());
  for (; erased < slots.size(); ++erased) index.Erase(0, &slots[erased]);
  const auto matches_of_a_miss = [&] {
    size_t matches = 0;
    index.Find(0, [&](const HashedSlot&) { return ++matches == 0; });
    return matches;
  };
  EXPECT_GT(matches_of_a_miss(), 0u);

  index.Clear();
  for (HashedSlot& other : others) index.Insert(other.hash(), &other);
  EXPECT_FALSE(index.needs_refill());
  EXPECT_EQ(matches_of_a_miss(), 0u);
  index.CheckInvariantsForTesting(others.size());
}

// Few missed decrements do not: a refill would cost more than they do.
TEST(SlotIndexTest, CountsThatAreExactAskForNoRefill) {
  std::vector<HashedSlot> slots(200);
  Index index(25'000, std::allocator<HashedSlot>());
  for (int round = 0; round < 100; ++round) {
    for (HashedSlot& slot : slots) index.Insert(0, &slot);
    for (HashedSlot& slot : slots) index.Erase(0, &slot);
  }
  EXPECT_FALSE(index.needs_refill());
}

TEST(SlotIndexDeathTest, ValidateSeesASlotWhereNobodyLooks) {
  HashedSlot slot;
  Index index(1000, std::allocator<HashedSlot>());
  index.Insert(0, &slot);
  slot.set_hash(kHashes / 2);  // at home elsewhere
  EXPECT_DEATH(index.CheckInvariantsForTesting(1),
               "CheckInvariantsForTesting: a slot is out of reach");
}

TEST(SlotIndexDeathTest, ValidateSeesALostCount) {
  std::vector<HashedSlot> slots(8);  // one more than a chunk has
  Index index(1000, std::allocator<HashedSlot>());
  for (HashedSlot& slot : slots) index.Insert(0, &slot);
  index.CheckInvariantsForTesting(slots.size());
  const uint32_t next_chunk = kHashes / static_cast<uint32_t>(index.max_size() / 6) + 1;
  slots.back().set_hash(next_chunk);  // as if that were its home chunk, where it passed no other
  EXPECT_DEATH(index.CheckInvariantsForTesting(slots.size()),
               "CheckInvariantsForTesting: the index has lost count");
}

}  // namespace
}  // namespace weakcache::internal
