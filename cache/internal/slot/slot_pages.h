// SPDX-License-Identifier: Apache-2.0
// Slots that never move, in pages. The cold part of each slot, which hits do not read, lies apart:
// each page has a block of memory for those of its slots. While all slots of a page are free the
// block is not needed, and may be freed before the page. Then the pages have a list of free slots
// each, and a slot is taken from a page that is partly in use if there is one: slots in
// use gather on few pages.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_PAGES_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_PAGES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <forward_list>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/slot/deferred_releases.h"
#include "weakcache/cache/internal/slot/page_list.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

template <typename T>
constexpr size_t SizeOf() {
  return sizeof(T);
}
template <>
constexpr size_t SizeOf<void>() {
  return 0;
}
template <typename T>
constexpr size_t AlignmentOf() {
  return alignof(T);
}
template <>
constexpr size_t AlignmentOf<void>() {
  return 1;
}

// Slot is constructible from a Header* without throwing, and has is_free(), next() and set_next();
// the pages own its link while it is free. Header, the beginning of a page, is constructible from
// the argument of Allocate. Cold is the type of the cold part: memory only, which the user of the
// slot constructs and destroys. If kReleasesCold is false, it stays as long as its page.
template <typename Slot, typename Header, typename Allocator, typename Cold = void,
          bool kReleasesCold = !std::is_void_v<Cold>>
class SlotPages {
 public:
  // A position of a slot. It stays valid whatever is allocated or freed.
  struct Position {
    size_t page = 0;
    size_t slot = 0;
  };

  explicit SlotPages(const Allocator& allocator) : pages_(allocator), replaced_(allocator) {}
  SlotPages(const SlotPages&) = delete;
  SlotPages& operator=(const SlotPages&) = delete;
  ~SlotPages() {
    for (Page* const page : pages_) {
      if (page != nullptr) Delete(page, pages_.get_allocator());
    }
  }

  // Returns a free slot: the one that was freed last, if cold parts are not released. If an
  // allocation throws, nothing has changed, but that there may be another page of free slots.
  template <typename HeaderArgument>
  Slot* Allocate(HeaderArgument&& argument) {
    if constexpr (kReleasesCold) {
      Page* page = PageWithFreeSlot();
      if (page == nullptr) page = of_cold_.without.front();
      if (page == nullptr) page = AddPage(std::forward<HeaderArgument>(argument));
      if (page->cold == nullptr) AllocateCold(page);
      return TakeFree(page);
    } else {
      if (free_ == nullptr) AddPage(std::forward<HeaderArgument>(argument));
      if constexpr (kHasCold) {
        if (Page* const page = PageOf(free_); page->cold == nullptr) AllocateCold(page);
      }
      return TakeFree();
    }
  }

  // Does the same as Allocate, but returns null where that would allocate memory.
  Slot* AllocateFree() {
    if constexpr (kReleasesCold) {
      Page* const page = PageWithFreeSlot();
      return page == nullptr ? nullptr : TakeFree(page);
    } else {
      static_assert(!kHasCold);
      return free_ == nullptr ? nullptr : TakeFree();
    }
  }

  void Free(Slot* slot) {
    if constexpr (kReleasesCold) {
      Page* const page = PageOf(slot);
      AddFree(&page->slots_free.first, slot);
      --page->slots_free.in_use;
      --of_cold_.in_use;
      Classify(page);
    } else {
      AddFree(&free_, slot);
    }
  }

  // Moves to `unused` the cold parts of up to two pages whose slots are all free, if cold parts for
  // twice as many slots as are in use remain. So slots that come and go allocate nothing, and what
  // remains, beside those of pages that are partly in use, is for at most twice the slots in use,
  // and a page. Call it for each slot that is freed. The allocator has to be stateless.
  void ReleaseUnusedCold(UnusedBlocks& unused) {
    if constexpr (kReleasesCold) {
      for (int i = 0; i < 2; ++i) {
        Page* const page = of_cold_.unused.back();
        if (page == nullptr || of_cold_.slots - page->size < 2 * of_cold_.in_use + kMinPage) return;
        const auto free = [](void* block, size_t slots) { FreeCold(block, slots, Allocator()); };
        unused.Add(std::exchange(page->cold, nullptr), page->size, free);
        of_cold_.slots -= page->size;
        Classify(page);
      }
    }
  }

  // Returns the number of slots, free or not.
  size_t size() const { return size_; }

  // Returns the first slot at or after `position`, and sets `position` to it; null at the end.
  Slot* At(Position& position) const {
    for (; position.page < pages_.size(); ++position.page, position.slot = 0) {
      Page* const page = pages_[position.page];
      if (page != nullptr && position.slot < page->size) return page->slots() + position.slot;
    }
    return nullptr;
  }

  // Returns the memory of the cold part of a slot that is in use.
  static void* cold_part(Slot* slot) {
    static_assert(kHasCold);
    Page* const page = PageOf(slot);
    const size_t index = static_cast<size_t>(slot - page->slots());
    return static_cast<char*>(page->cold) + index * kColdBytes;
  }

  // Frees the pages whose slots are all free.
  void DropFreePages() {
    free_ = nullptr;
    for (Page*& page : pages_) {
      if (page == nullptr) continue;
      if (IsUnused(page)) {
        size_ -= page->size;
        if constexpr (kReleasesCold) {
          if (page->cold != nullptr) of_cold_.slots -= page->size;
          PageList<Page>::Move(page, nullptr);
        }
        Delete(page, pages_.get_allocator());
        page = nullptr;
        ++holes_;
      } else if constexpr (!kReleasesCold) {
        Slot* const slots = page->slots();
        for (size_t i = page->size; i-- > 0;) {
          if (slots[i].is_free()) AddFree(&free_, slots + i);
        }
      }
    }
    for (; !pages_.empty() && pages_.back() == nullptr; --holes_) pages_.pop_back();
    replaced_.clear();
  }

  // Passes each page to `take_over(header, slots, size)`, which may delete it at once or later.
  template <typename TakeOver>
  void Shutdown(TakeOver&& take_over) {
    free_ = nullptr;
    size_ = 0;
    of_cold_ = {};
    for (Page*& page : pages_) {
      if (page == nullptr) continue;
      Page* const taken = std::exchange(page, nullptr);
      take_over(static_cast<Header*>(taken), taken->slots(), taken->size);
    }
  }
  template <typename OtherAllocator>
  static void Delete(Header* header, const OtherAllocator& allocator) {
    auto* const page = static_cast<Page*>(header);
    const size_t units = UnitsFor(page->size);
    if constexpr (Header::kEndsSlots) std::destroy_n(page->slots(), page->size);
    if (page->cold != nullptr) FreeCold(page->cold, page->size, allocator);
    page->~Page();
    Rebind<Unit> rebound(allocator);
    UnitTraits::deallocate(rebound, reinterpret_cast<Unit*>(page), units);
  }

  // Aborts unless the free slots are those on the list.
  void CheckInvariantsForTesting() const {
    size_t on_list = CountFreeForTesting(free_);
    size_t free = 0;
    size_t all = 0;
    for (Position position; Slot* const slot = At(position); ++position.slot) {
      if constexpr (kReleasesCold) {
        if (position.slot == 0) on_list += CountFreeForTesting(PageOf(slot)->slots_free.first);
      }
      ++all;
      if (slot->is_free()) ++free;
    }
    Check(all == size_, "CheckInvariantsForTesting", "the pages have lost count");
    Check(free == on_list, "CheckInvariantsForTesting", "a free slot is not on the list");
    if constexpr (kReleasesCold) CheckColdForTesting(all - free);
  }

 private:
  static constexpr size_t kMinPage = 8;
  static constexpr bool kHasCold = SizeOf<Cold>() != 0;
  static constexpr size_t kCacheLine = 64;

  struct Page;
  // Written under the lock of the pages' user, so it is apart from what is read without it.
  struct alignas(kCacheLine) FreeSlots {
    size_t in_use = 0;
    Slot* first = nullptr;
    PageLinks<Page> links;
  };
  struct NoFreeSlots {};
  // The pages with free slots.
  struct OfCold {
    PageList<Page> partly_used;
    PageList<Page> unused;   // no slot is in use
    PageList<Page> without;  // likewise, and there are no cold parts
    size_t in_use = 0;       // slots
    size_t slots = 0;        // with cold parts
  };
  struct OfNoCold {};

  struct Page final : Header {
    template <typename Argument>
    Page(size_t slot_count, Argument&& argument)
        : Header(std::forward<Argument>(argument)), size(slot_count) {}
    Slot* slots() { return reinterpret_cast<Slot*>(reinterpret_cast<char*>(this) + kFirstSlot); }
    PageLinks<Page>& links() { return slots_free.links; }

    const size_t size;
    // Only if there are cold parts. The block is there while any slot is in use, so whoever uses
    // one may read the pointer without the lock of the pages' user.
    void* cold = nullptr;
    [[no_unique_address]] std::conditional_t<kReleasesCold, FreeSlots, NoFreeSlots> slots_free;
  };
  static constexpr size_t kColdBytes = SizeOf<Cold>();
  static constexpr size_t kAlignment = std::max(alignof(Slot), alignof(Page));
  static constexpr size_t kFirstSlot = (sizeof(Page) + alignof(Slot) - 1) & ~(alignof(Slot) - 1);
  struct alignas(kAlignment) Unit {
    unsigned char bytes[kAlignment];
  };
  // A page has so many slots that a block has room for a link.
  static constexpr size_t kColdAlignment =
      std::max(AlignmentOf<Cold>(), alignof(UnusedBlocks::Link));
  static_assert(!kHasCold || kMinPage * kColdBytes >= sizeof(UnusedBlocks::Link));
  struct alignas(kColdAlignment) ColdUnit {
    unsigned char bytes[kColdAlignment];
  };
  template <typename T>
  using Rebind = typename std::allocator_traits<Allocator>::template rebind_alloc<T>;
  using UnitTraits = std::allocator_traits<Rebind<Unit>>;
  using ColdTraits = std::allocator_traits<Rebind<ColdUnit>>;

  static size_t UnitsFor(size_t slots) {
    return (kFirstSlot + slots * sizeof(Slot) + sizeof(Unit) - 1) / sizeof(Unit);
  }
  static size_t ColdUnitsFor(size_t slots) {
    return (slots * kColdBytes + sizeof(ColdUnit) - 1) / sizeof(ColdUnit);
  }
  static Page* PageOf(Slot* slot) { return static_cast<Page*>(static_cast<Header*>(slot->page())); }

  static void AddFree(Slot** list, Slot* slot) {
    slot->set_next(*list);
    *list = slot;
  }
  static Slot* TakeFree(Slot** list) {
    Slot* const slot = *list;
    *list = static_cast<Slot*>(slot->next());
    return slot;
  }
  Slot* TakeFree() { return TakeFree(&free_); }
  Slot* TakeFree(Page* page) {
    Slot* const slot = TakeFree(&page->slots_free.first);
    ++page->slots_free.in_use;
    ++of_cold_.in_use;
    Classify(page);
    return slot;
  }

  // Returns a page with a free slot and with cold parts, or null.
  Page* PageWithFreeSlot() const {
    return of_cold_.partly_used.front() != nullptr ? of_cold_.partly_used.front()
                                                   : of_cold_.unused.front();
  }
  // Returns the list where a page belongs: none if its slots are all in use.
  const PageList<Page>* ListFor(const Page* page) const {
    if (page->slots_free.first == nullptr) return nullptr;
    if (page->slots_free.in_use != 0) return &of_cold_.partly_used;
    return page->cold != nullptr ? &of_cold_.unused : &of_cold_.without;
  }
  void Classify(Page* page) {
    PageList<Page>::Move(page, const_cast<PageList<Page>*>(ListFor(page)));
  }
  static bool IsUnused(Page* page) {
    if constexpr (kReleasesCold) return page->slots_free.in_use == 0;
    Slot* const slots = page->slots();
    return std::all_of(slots, slots + page->size, [](Slot& slot) { return slot.is_free(); });
  }

  void AllocateCold(Page* page) {
    Rebind<ColdUnit> allocator(pages_.get_allocator());
    page->cold = ColdTraits::allocate(allocator, ColdUnitsFor(page->size));
    if constexpr (kReleasesCold) of_cold_.slots += page->size;
  }
  template <typename OtherAllocator>
  static void FreeCold(void* block, size_t slots, const OtherAllocator& allocator) {
    Rebind<ColdUnit> rebound(allocator);
    ColdTraits::deallocate(rebound, static_cast<ColdUnit*>(block), ColdUnitsFor(slots));
  }
  static size_t CountFreeForTesting(const Slot* list) {
    size_t count = 0;
    for (const Slot* slot = list; slot != nullptr; slot = static_cast<const Slot*>(slot->next())) {
      Check(slot->is_free(), "CheckInvariantsForTesting",
            "a slot in use is on the list of the free ones");
      ++count;
    }
    return count;
  }
  void CheckColdForTesting(size_t in_use) const {
    size_t with_cold = 0;
    for (Page* const page : pages_) {
      if (page == nullptr) continue;
      Slot* const slots = page->slots();
      const auto is_used = [](Slot& slot) { return !slot.is_free(); };
      const auto used = std::count_if(slots, slots + page->size, is_used);
      Check(static_cast<size_t>(used) == page->slots_free.in_use, "CheckInvariantsForTesting",
            "a page has lost count");
      Check(used == 0 || page->cold != nullptr, "CheckInvariantsForTesting",
            "a slot in use has no cold part");
      Check(page->links().list == ListFor(page), "CheckInvariantsForTesting",
            "a page is on a wrong list");
      if (page->cold != nullptr) with_cold += page->size;
    }
    Check(in_use == of_cold_.in_use && with_cold == of_cold_.slots, "CheckInvariantsForTesting",
          "the cold parts don't add up");
  }

  // Returns a few percent of the number of slots, so that few are unused. The maximum is so large
  // that the headers of all pages stay in a processor's cache.
  size_t NextPageSize() const {
    constexpr size_t kMaxSlots = 1024;
    constexpr size_t kMaxBytes = 64 * 1024;
    constexpr size_t kSlotBytes = sizeof(Slot) + kColdBytes;
    constexpr size_t kMaxPage = std::clamp(kMaxBytes / kSlotBytes, kMinPage, kMaxSlots);
    return std::clamp(size_ / 32, kMinPage, kMaxPage);
  }

  void ReservePages(size_t count) {
    PageVector larger(pages_.get_allocator());
    larger.reserve(count);
    replaced_.push_front(PageVector(pages_.get_allocator()));
    larger = pages_;
    pages_.swap(larger);
    replaced_.front().swap(larger);
  }

  // Adds a page of free slots, without cold parts.
  template <typename Argument>
  Page* AddPage(Argument&& argument) {
    if (holes_ == 0 && pages_.size() == pages_.capacity()) ReservePages(2 * pages_.size() + 1);
    const size_t size = NextPageSize();
    Rebind<Unit> allocator(pages_.get_allocator());
    auto* const page = ::new (static_cast<void*>(UnitTraits::allocate(allocator, UnitsFor(size))))
        Page(size, std::forward<Argument>(argument));
    Slot* const slots = page->slots();
    Slot** list = &free_;
    if constexpr (kReleasesCold) list = &page->slots_free.first;
    for (size_t i = size; i-- > 0;) {
      AddFree(list, ::new (static_cast<void*>(slots + i)) Slot(static_cast<Header*>(page)));
    }
    if (holes_ == 0) {
      pages_.push_back(page);
    } else {
      *std::find(pages_.begin(), pages_.end(), nullptr) = page;
      --holes_;
    }
    size_ += size;
    if constexpr (kReleasesCold) Classify(page);
    return page;
  }

  using PageVector = std::vector<Page*, Rebind<Page*>>;

  PageVector pages_;  // null where a page was freed: `holes_` times
  // Former, shorter lists, which are not freed while the user of the pages holds a lock.
  std::forward_list<PageVector, Rebind<PageVector>> replaced_;
  size_t holes_ = 0;
  Slot* free_ = nullptr;  // all free slots, unless kReleasesCold
  size_t size_ = 0;
  [[no_unique_address]] std::conditional_t<kReleasesCold, OfCold, OfNoCold> of_cold_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_PAGES_H_
