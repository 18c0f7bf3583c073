// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/slot/slot_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <random>
#include <set>
#include <vector>

#include "tests/support/allocations.h"
#include "weakcache/cache/internal/slot/deferred_releases.h"

namespace weakcache::internal {
namespace {

struct Page {
  static constexpr bool kEndsSlots = false;

  explicit Page(int* owner) : owner(owner) { ++*owner; }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  ~Page() { --*owner; }
  int* owner;  // counts its pages
};

struct alignas(32) PlainSlot {
  explicit PlainSlot(Page* page) : its_page(page) {}
  Page* page() const { return its_page; }
  bool is_free() const { return !in_use; }
  PlainSlot* next() const { return link; }
  void set_next(PlainSlot* next) { link = next; }

  Page* const its_page;
  bool in_use = false;
  PlainSlot* link = nullptr;
};

class SlotPagesTest : public ::testing::Test {
 protected:
  using Pages = SlotPages<PlainSlot, Page, std::allocator<char>>;

  PlainSlot* Allocate() {
    PlainSlot* const slot = pages_.Allocate(&page_count_);
    slot->in_use = true;
    return slot;
  }
  std::vector<PlainSlot*> AllocateMany(int count) {
    std::vector<PlainSlot*> slots;
    for (int i = 0; i < count; ++i) slots.push_back(Allocate());
    return slots;
  }
  void Free(PlainSlot* slot) {
    slot->in_use = false;
    pages_.Free(slot);
  }
  std::set<PlainSlot*> InUse() const {
    std::set<PlainSlot*> slots;
    for (Pages::Position position; PlainSlot* const slot = pages_.At(position); ++position.slot) {
      if (!slot->in_use) continue;
      EXPECT_TRUE(slots.insert(slot).second);
    }
    return slots;
  }

  int page_count_ = 0;
  Pages pages_{std::allocator<char>()};
};

TEST_F(SlotPagesTest, SlotsStayWhereTheyAreAndKnowTheirPage) {
  const std::vector<PlainSlot*> slots = AllocateMany(10'000);
  for (PlainSlot* const slot : slots) {
    ASSERT_EQ(slot->page()->owner, &page_count_);
    ASSERT_LT(reinterpret_cast<char*>(slot) - reinterpret_cast<char*>(slot->page()), 64 * 1024);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(slot) % alignof(PlainSlot), 0u);
  }
  EXPECT_EQ(InUse(), std::set<PlainSlot*>(slots.begin(), slots.end()));
  EXPECT_LE(pages_.size(), 10'000u + 10'000u / 32 + 8);
  pages_.CheckInvariantsForTesting();
}

TEST_F(SlotPagesTest, WhatWasFreedLastIsUsedFirst) {
  const std::vector<PlainSlot*> slots = AllocateMany(100);
  Free(slots[77]);
  Free(slots[33]);
  EXPECT_EQ(Allocate(), slots[33]);
  EXPECT_EQ(Allocate(), slots[77]);
  pages_.CheckInvariantsForTesting();
}

TEST_F(SlotPagesTest, OnlyFreePagesAreGivenBack) {
  const std::vector<PlainSlot*> slots = AllocateMany(5000);
  const int64_t bytes = testing::LiveAllocatedBytes();
  const int pages = page_count_;
  PlainSlot* const survivor = slots[2500];
  for (PlainSlot* const slot : slots) {
    if (slot != survivor) Free(slot);
  }
  pages_.DropFreePages();
  pages_.CheckInvariantsForTesting();
  EXPECT_EQ(page_count_, 1);
  EXPECT_LT(pages_.size(), 5000u / static_cast<size_t>(pages) * 8);
  EXPECT_EQ(InUse(), std::set<PlainSlot*>{survivor});
  EXPECT_GE(bytes - testing::LiveAllocatedBytes(), static_cast<int64_t>(4800 * sizeof(PlainSlot)));
  Free(survivor);
  pages_.DropFreePages();
  EXPECT_EQ(page_count_, 0);
  EXPECT_EQ(pages_.size(), 0u);
  pages_.CheckInvariantsForTesting();
}

// An iteration that stands anywhere goes on, and meets each slot that stays once.
TEST_F(SlotPagesTest, PositionsStayValidWhenPagesGo) {
  for (size_t stop = 0; stop < 400; stop += 7) {
    const std::vector<PlainSlot*> slots = AllocateMany(400);
    Pages::Position position;
    std::multiset<PlainSlot*> met;
    for (size_t step = 0; step < stop; ++step, ++position.slot) {
      PlainSlot* const slot = pages_.At(position);
      ASSERT_NE(slot, nullptr);
      met.insert(slot);
    }
    std::set<PlainSlot*> staying;
    for (size_t i = 0; i < slots.size(); ++i) {
      if (i % 60 == 0) {
        staying.insert(slots[i]);
      } else {
        Free(slots[i]);
      }
    }
    pages_.DropFreePages();
    pages_.CheckInvariantsForTesting();
    const std::vector<PlainSlot*> others = AllocateMany(static_cast<int>(stop));
    for (; PlainSlot* const slot = pages_.At(position); ++position.slot) {
      if (slot->in_use) met.insert(slot);
    }
    for (PlainSlot* const slot : staying) ASSERT_EQ(met.count(slot), 1u) << stop;
    for (PlainSlot* const slot : staying) Free(slot);
    for (PlainSlot* const slot : others) Free(slot);
    pages_.DropFreePages();
    ASSERT_EQ(page_count_, 0);
  }
}

// Pages come and go in the middle without the table of pages growing.
TEST_F(SlotPagesTest, HolesAreUsedAgain) {
  std::vector<PlainSlot*> slots = AllocateMany(1000);
  PlainSlot* const last = slots.back();
  slots.pop_back();
  int64_t bytes_early = 0;
  for (int round = 0; round < 1000; ++round) {
    for (PlainSlot* const slot : slots) Free(slot);
    pages_.DropFreePages();
    ASSERT_EQ(page_count_, 1);
    slots = AllocateMany(999);
    pages_.CheckInvariantsForTesting();
    ASSERT_EQ(InUse().size(), 1000u);
    if (round == 10) bytes_early = testing::LiveAllocatedBytes();
  }
  EXPECT_EQ(testing::LiveAllocatedBytes(), bytes_early);
  EXPECT_TRUE(last->in_use);
}

TEST_F(SlotPagesTest, AFailedAllocationChangesNothing) {
  std::vector<PlainSlot*> slots;
  slots.reserve(1000);
  int failures = 0;
  for (int i = 0; i < 1000; ++i) {
    const int pages = page_count_;
    failures += testing::FailEachAllocation([&] { slots.push_back(Allocate()); },
                                            [&] {
                                              ASSERT_EQ(page_count_, pages);
                                              ASSERT_EQ(pages_.size(), slots.size());
                                              pages_.CheckInvariantsForTesting();
                                            });
  }
  EXPECT_GT(failures, page_count_);
}

TEST_F(SlotPagesTest, PagesLeftByShutdownBelongToWhoeverTakesThem) {
  const int64_t before = testing::LiveAllocations();
  {
    Pages pages{std::allocator<char>()};
    for (int i = 0; i < 1000; ++i) pages.Allocate(&page_count_)->in_use = true;
    std::vector<Page*> left;
    size_t slots = 0;
    pages.Shutdown([&](Page* page, PlainSlot* first, size_t size) {
      EXPECT_EQ(first->page(), page);
      left.push_back(page);
      slots += size;
    });
    EXPECT_EQ(pages.size(), 0u);
    EXPECT_GE(slots, 1000u);
    EXPECT_EQ(static_cast<int>(left.size()), page_count_);
    for (Page* const page : left) Pages::Delete(page, std::allocator<char>());
    EXPECT_EQ(page_count_, 0);
  }
  EXPECT_EQ(testing::LiveAllocations(), before);
}

using SlotPagesDeathTest = SlotPagesTest;

TEST_F(SlotPagesDeathTest, ValidateSeesALostSlot) {
  PlainSlot* const slot = Allocate();
  slot->in_use = false;  // and not on the list
  EXPECT_DEATH(pages_.CheckInvariantsForTesting(),
               "CheckInvariantsForTesting: a free slot is not on the list");
}

TEST_F(SlotPagesDeathTest, ValidateSeesASlotInUseOnTheList) {
  PlainSlot* const slot = Allocate();
  Free(slot);
  slot->in_use = true;
  EXPECT_DEATH(pages_.CheckInvariantsForTesting(),
               "CheckInvariantsForTesting: a slot in use is on the list of the free ones");
}

struct alignas(64) ColdPart {
  char bytes[192];
};

class ColdPartsTest : public ::testing::Test {
 protected:
  using Pages = SlotPages<PlainSlot, Page, std::allocator<char>, ColdPart>;

  PlainSlot* Allocate() {
    PlainSlot* const slot = pages_.Allocate(&page_count_);
    slot->in_use = true;
    ::new (Pages::cold_part(slot)) ColdPart;
    return slot;
  }
  std::vector<PlainSlot*> AllocateMany(int count) {
    std::vector<PlainSlot*> slots;
    for (int i = 0; i < count; ++i) slots.push_back(Allocate());
    return slots;
  }
  // Frees a slot, and what memory that makes unused.
  void Free(PlainSlot* slot) {
    UnusedBlocks unused;
    slot->in_use = false;
    pages_.Free(slot);
    pages_.ReleaseUnusedCold(unused);
  }

  int page_count_ = 0;
  Pages pages_{std::allocator<char>()};
};

TEST_F(ColdPartsTest, LieApartAndAreAligned) {
  const std::vector<PlainSlot*> slots = AllocateMany(1000);
  std::set<char*> parts;
  for (PlainSlot* const slot : slots) {
    char* const part = static_cast<char*>(Pages::cold_part(slot));
    ASSERT_EQ(reinterpret_cast<uintptr_t>(part) % alignof(ColdPart), 0u);
    const auto next = parts.insert(part).first;
    if (next != parts.begin()) {
      ASSERT_GE(part - *std::prev(next), static_cast<ptrdiff_t>(sizeof(ColdPart)));
    }
  }
  EXPECT_EQ(parts.size(), slots.size());
  pages_.CheckInvariantsForTesting();
}

// The slots stay, as stalled readers may still look at them.
TEST_F(ColdPartsTest, GoBackWhenFewSlotsAreInUse) {
  std::vector<PlainSlot*> slots(10'000);
  const auto allocate_all = [&] {
    for (PlainSlot*& slot : slots) slot = Allocate();
  };
  const int64_t before = testing::LiveAllocatedBytes();
  allocate_all();
  const int64_t at_peak = testing::LiveAllocatedBytes() - before;
  EXPECT_GT(at_peak, static_cast<int64_t>(10'000 * (sizeof(PlainSlot) + sizeof(ColdPart))));
  for (PlainSlot* const slot : slots) Free(slot);
  pages_.CheckInvariantsForTesting();
  EXPECT_LT(testing::LiveAllocatedBytes() - before,
            static_cast<int64_t>(11'000 * sizeof(PlainSlot) + 512 * sizeof(ColdPart)));
  // They come again with the slots.
  const size_t size = pages_.size();
  allocate_all();
  EXPECT_EQ(pages_.size(), size);
  EXPECT_LE(testing::LiveAllocatedBytes() - before, at_peak);
  for (PlainSlot* const slot : slots)
    static_cast<ColdPart*>(Pages::cold_part(slot))->bytes[191] = 1;
  pages_.CheckInvariantsForTesting();
}

// Half of them are unused: as many slots as are in use may come without an allocation.
TEST_F(ColdPartsTest, StayForTwiceTheSlotsInUse) {
  const std::vector<PlainSlot*> slots = AllocateMany(10'000);
  const int64_t at_peak = testing::LiveAllocatedBytes();
  size_t in_use = slots.size();
  while (in_use > 5'000) Free(slots[--in_use]);
  EXPECT_EQ(testing::LiveAllocatedBytes(), at_peak);
  while (in_use > 1'000) Free(slots[--in_use]);
  const int64_t gone = at_peak - testing::LiveAllocatedBytes();
  EXPECT_GE(gone, static_cast<int64_t>((10'000 - 2'000 - 512) * sizeof(ColdPart)));
  EXPECT_LE(gone, static_cast<int64_t>((10'000 - 2'000 + 512) * sizeof(ColdPart)));
  pages_.CheckInvariantsForTesting();
}

TEST_F(ColdPartsTest, StayOnPagesWithASlotInUse) {
  std::vector<PlainSlot*> slots = AllocateMany(10'000);
  const int64_t at_peak = testing::LiveAllocatedBytes();
  std::vector<PlainSlot*> staying;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (i % 2'000 == 0) {
      staying.push_back(slots[i]);
      static_cast<ColdPart*>(Pages::cold_part(slots[i]))->bytes[0] = 'x';
    } else {
      Free(slots[i]);
    }
  }
  pages_.CheckInvariantsForTesting();
  EXPECT_GT(at_peak - testing::LiveAllocatedBytes(),
            static_cast<int64_t>(8'000 * sizeof(ColdPart)));
  for (PlainSlot* const slot : staying) {
    EXPECT_EQ(static_cast<ColdPart*>(Pages::cold_part(slot))->bytes[0], 'x');
  }
}

// Slots that were freed in no order are not taken in that order, which would bring nearly all
// blocks back.
TEST_F(ColdPartsTest, SlotsInUseGatherOnFewPages) {
  std::vector<PlainSlot*> slots = AllocateMany(10'000);
  std::shuffle(slots.begin(), slots.end(), std::mt19937(1));
  for (PlainSlot* const slot : slots) Free(slot);
  const int64_t empty = testing::LiveAllocatedBytes();
  slots = AllocateMany(300);
  EXPECT_LT(testing::LiveAllocatedBytes() - empty, static_cast<int64_t>(600 * sizeof(ColdPart)));
  pages_.CheckInvariantsForTesting();
}

TEST_F(ColdPartsTest, PagesThatArePartlyInUseAreTakenFirst) {
  const std::vector<PlainSlot*> slots = AllocateMany(10'000);
  Free(slots[0]);
  Page* const last = slots.back()->page();
  for (PlainSlot* const slot : slots) {
    if (slot->page() == last) Free(slot);
  }
  EXPECT_EQ(Allocate(), slots[0]);
  EXPECT_EQ(Allocate()->page(), last);
}

TEST_F(ColdPartsTest, SlotsThatComeAndGoAllocateNothing) {
  for (const size_t in_use : {size_t{0}, size_t{50}}) {
    SCOPED_TRACE(in_use);
    std::vector<PlainSlot*> slots = AllocateMany(10'000);
    std::shuffle(slots.begin(), slots.end(), std::mt19937(2));
    while (slots.size() > in_use) {
      Free(slots.back());
      slots.pop_back();
    }
    if (slots.empty()) slots = AllocateMany(1);
    std::mt19937 random(3);
    std::vector<PlainSlot*> spare = AllocateMany(1);
    testing::FailAllocation(1);
    for (int turn = 0; turn < 1'000; ++turn) {
      PlainSlot*& slot = slots[random() % slots.size()];
      Free(slot);
      slot = Allocate();
    }
    testing::FailAllocation(0);
    pages_.CheckInvariantsForTesting();
    for (PlainSlot* const slot : slots) Free(slot);
    Free(spare[0]);
  }
}

TEST_F(ColdPartsTest, AFailedAllocationTakesNoSlot) {
  std::vector<PlainSlot*> slots;
  slots.reserve(1'000);
  int failures = 0;
  for (int i = 0; i < 1'000; ++i) {
    failures += testing::FailEachAllocation([&] { slots.push_back(Allocate()); },
                                            [&] { pages_.CheckInvariantsForTesting(); });
  }
  EXPECT_EQ(slots.size(), 1'000u);
  EXPECT_GT(failures, page_count_);
}

TEST_F(ColdPartsTest, ASlotWithoutOneIsNotTakenWithoutMemory) {
  for (PlainSlot* const slot : AllocateMany(1'000)) Free(slot);
  // One page keeps its cold parts.
  std::vector<PlainSlot*> slots;
  while (PlainSlot* const slot = pages_.AllocateFree()) {
    slot->in_use = true;
    slots.push_back(slot);
  }
  EXPECT_LE(slots.size(), 64u);
  const int64_t before = testing::LiveAllocatedBytes();
  Allocate();
  EXPECT_GT(testing::LiveAllocatedBytes(), before);
  PlainSlot* const slot = pages_.AllocateFree();
  ASSERT_NE(slot, nullptr);
  slot->in_use = true;
  pages_.CheckInvariantsForTesting();
}

}  // namespace
}  // namespace weakcache::internal
