#include "cache/internal/slot_index.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "cache/internal/slot_pages.h"
#include "weakref/internal/watcher_list.h"

namespace weakcache::internal {
namespace {

class Model {
 public:
  Model(uint64_t seed, size_t size, uint32_t hashes)
      : random_(seed), hashes_(hashes), index_(size), of_(size) {
    for (uint32_t i = 0; i < size; ++i) free_.push_back(i);
  }

  void Insert() {
    if (used_.size() == index_.max_size() || free_.empty()) return;
    const uint32_t slot = free_.back();
    free_.pop_back();
    of_[slot] = Hash();
    used_.push_back(slot);
    index_.Insert(of_[slot], slot);
  }

  void Erase() {
    if (used_.empty()) return;
    const size_t which = random_() % used_.size();
    const uint32_t slot = used_[which];
    index_.Erase(of_[slot], slot);
    used_[which] = used_.back();
    used_.pop_back();
    free_.push_back(slot);
  }

  void Check() const {
    for (const uint32_t slot : used_) {
      const auto same = [&](uint32_t found) { return found == slot; };
      ASSERT_EQ(index_.Find(of_[slot], same), slot);
    }
    for (const uint32_t slot : free_) {
      const auto same = [&](uint32_t found) { return found == slot; };
      ASSERT_EQ(index_.Find(of_[slot], same), SlotIndex::kNone);
    }
  }

  uint64_t Random() { return random_(); }

 private:
  // From all over the range, but only so many different ones.
  uint32_t Hash() { return static_cast<uint32_t>(random_() % hashes_) * (UINT32_MAX / hashes_); }

  std::mt19937_64 random_;
  uint32_t hashes_;
  SlotIndex index_;
  std::vector<uint32_t> of_;
  std::vector<uint32_t> free_;
  std::vector<uint32_t> used_;
};

// With few different hashes, entries go far from home, past more full lines than these can count.
TEST(SlotIndexTest, BehavesAsItsModel) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const uint32_t hashes = seed % 3 == 0 ? 3 : seed % 3 == 1 ? 50 : 1'000'000;
    Model model(seed, 10 + seed % 700, hashes);
    for (int i = 0; i < 1000; ++i) {
      // Fills up, then empties, again and again.
      if (model.Random() % 100 < (i / 200 % 2 == 0 ? 70u : 30u)) {
        model.Insert();
      } else {
        model.Erase();
      }
      if (i % 50 == 0) model.Check();
      if (HasFatalFailure()) return;
    }
  }
}

TEST(SlotIndexTest, EmptyOneFindsNothing) {
  const SlotIndex index;
  EXPECT_EQ(index.Find(0, [](uint32_t) { return true; }), SlotIndex::kNone);
  EXPECT_EQ(index.max_size(), 0u);
}

TEST(SlotIndexTest, HoldsAtLeastWhatItWasMadeFor) {
  for (size_t size = 1; size < 2000; ++size) {
    EXPECT_GE(SlotIndex(size).max_size(), size);
  }
}

struct PlainSlot {
  PlainSlot(int* owner, uint32_t index) : owner(owner), index(index) {}
  PlainSlot* next() const { return link; }
  void set_next(PlainSlot* next) { link = next; }
  int* owner;
  uint32_t index;
  PlainSlot* link = nullptr;
};

TEST(SlotPagesTest, EverySlotHasItsIndexAndStaysWhereItIs) {
  int owner = 0;
  SlotPages<PlainSlot> pages;
  std::unordered_map<uint32_t, PlainSlot*> slots;
  for (int i = 0; i < 10'000; ++i) {
    PlainSlot* const slot = pages.Allocate(&owner);
    EXPECT_EQ(slot->owner, &owner);
    EXPECT_TRUE(slots.emplace(slot->index, slot).second);
  }
  for (const auto& [index, slot] : slots) ASSERT_EQ(&pages[index], slot);
  PlainSlot* const freed = slots.at(77);
  pages.Free(freed);
  EXPECT_EQ(pages.Allocate(&owner), freed);
  const uint32_t end = pages.end();
  pages.Reserve(end + 1, &owner);
  EXPECT_GT(pages.end(), end);
}

}  // namespace
}  // namespace weakcache::internal
