// SPDX-License-Identifier: Apache-2.0
// Slots that never move, in pages. The cold part of each slot, which hits do not read, lies after
// the slots of the page.
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
// slot constructs and destroys.
template <typename Slot, typename Header, typename Allocator, typename Cold = void>
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

  // Returns a free slot, the one that was freed last if any. If an allocation throws, nothing has
  // changed.
  template <typename HeaderArgument>
  Slot* Allocate(HeaderArgument&& argument) {
    if (free_ == nullptr) AddPage(std::forward<HeaderArgument>(argument));
    Slot* const slot = free_;
    free_ = static_cast<Slot*>(slot->next());
    return slot;
  }

  // Does the same as Allocate, but returns null instead of adding a page.
  Slot* AllocateFree() {
    Slot* const slot = free_;
    if (slot != nullptr) free_ = static_cast<Slot*>(slot->next());
    return slot;
  }

  void Free(Slot* slot) {
    slot->set_next(free_);
    free_ = slot;
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

  // Returns the memory of the slot's cold part.
  static void* cold_part(Slot* slot) {
    auto* const page = static_cast<Page*>(static_cast<Header*>(slot->page()));
    const size_t index = static_cast<size_t>(slot - page->slots());
    char* cold = reinterpret_cast<char*>(page) + FirstCold(page->size) + index * kColdBytes;
    asm("" : "+r"(cold));  // or else GCC takes it for a part of the page's base, and warns
    return cold;
  }

  // Frees the pages whose slots are all free.
  void DropFreePages() {
    free_ = nullptr;
    for (Page*& page : pages_) {
      if (page == nullptr) continue;
      Slot* const slots = page->slots();
      if (std::all_of(slots, slots + page->size, [](Slot& slot) { return slot.is_free(); })) {
        size_ -= page->size;
        Delete(page, pages_.get_allocator());
        page = nullptr;
        ++holes_;
        continue;
      }
      for (size_t i = page->size; i-- > 0;) {
        if (slots[i].is_free()) Free(slots + i);
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
    page->~Page();
    Rebind<Unit> rebound(allocator);
    UnitTraits::deallocate(rebound, reinterpret_cast<Unit*>(page), units);
  }

  // Aborts unless the free slots are those on the list.
  void CheckInvariantsForTesting() const {
    size_t on_list = 0;
    for (const Slot* slot = free_; slot != nullptr; slot = static_cast<const Slot*>(slot->next())) {
      Check(slot->is_free(), "CheckInvariantsForTesting",
            "a slot in use is on the list of the free ones");
      ++on_list;
    }
    size_t free = 0;
    size_t all = 0;
    for (Position position; const Slot* const slot = At(position); ++position.slot) {
      ++all;
      if (slot->is_free()) ++free;
    }
    Check(all == size_, "CheckInvariantsForTesting", "the pages have lost count");
    Check(free == on_list, "CheckInvariantsForTesting", "a free slot is not on the list");
  }

 private:
  static constexpr size_t kMinPage = 8;

  struct Page final : Header {
    template <typename Argument>
    Page(size_t slot_count, Argument&& argument)
        : Header(std::forward<Argument>(argument)), size(slot_count) {}
    Slot* slots() { return reinterpret_cast<Slot*>(reinterpret_cast<char*>(this) + kFirstSlot); }

    const size_t size;
  };
  static constexpr size_t kColdBytes = SizeOf<Cold>();
  static constexpr size_t kColdAlignment = AlignmentOf<Cold>();
  static constexpr size_t kAlignment = std::max({alignof(Slot), alignof(Page), kColdAlignment});
  static constexpr size_t kFirstSlot = (sizeof(Page) + alignof(Slot) - 1) & ~(alignof(Slot) - 1);
  static size_t FirstCold(size_t slots) {
    return (kFirstSlot + slots * sizeof(Slot) + kColdAlignment - 1) & ~(kColdAlignment - 1);
  }
  struct alignas(kAlignment) Unit {
    unsigned char bytes[kAlignment];
  };
  template <typename T>
  using Rebind = typename std::allocator_traits<Allocator>::template rebind_alloc<T>;
  using UnitTraits = std::allocator_traits<Rebind<Unit>>;

  static size_t UnitsFor(size_t slots) {
    return (FirstCold(slots) + slots * kColdBytes + sizeof(Unit) - 1) / sizeof(Unit);
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
    PageList larger(pages_.get_allocator());
    larger.reserve(count);
    replaced_.push_front(PageList(pages_.get_allocator()));
    larger = pages_;
    pages_.swap(larger);
    replaced_.front().swap(larger);
  }

  template <typename Argument>
  void AddPage(Argument&& argument) {
    if (holes_ == 0 && pages_.size() == pages_.capacity()) ReservePages(2 * pages_.size() + 1);
    const size_t size = NextPageSize();
    Rebind<Unit> allocator(pages_.get_allocator());
    auto* const page = ::new (static_cast<void*>(UnitTraits::allocate(allocator, UnitsFor(size))))
        Page(size, std::forward<Argument>(argument));
    Slot* const slots = page->slots();
    for (size_t i = size; i-- > 0;) {
      Free(::new (static_cast<void*>(slots + i)) Slot(static_cast<Header*>(page)));
    }
    if (holes_ == 0) {
      pages_.push_back(page);
    } else {
      *std::find(pages_.begin(), pages_.end(), nullptr) = page;
      --holes_;
    }
    size_ += size;
  }

  using PageList = std::vector<Page*, Rebind<Page*>>;

  PageList pages_;  // null where a page was freed: `holes_` times
  // Former, shorter lists, which are not freed while the user of the pages holds a lock.
  std::forward_list<PageList, Rebind<PageList>> replaced_;
  size_t holes_ = 0;
  Slot* free_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_PAGES_H_
