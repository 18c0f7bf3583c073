// SPDX-License-Identifier: Apache-2.0
// Slots that never move, in pages; and apart from each, in the same page, what is rarely looked at.
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

// Slot is constructible from a Header* without throwing, has is_free(), and has next() and
// set_next(), which are the pages' while it is free. Header is what a page begins with, and
// constructible from whatever Allocate is given.
// Cold is what lies apart: memory only, its life is its user's affair.
template <typename Slot, typename Header, typename Allocator, typename Cold = void>
class SlotPages {
 public:
  // A place that a slot has or could have. It stays valid whatever is allocated or freed.
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

  // A free slot; those that were freed last are used first. If memory runs out it throws and
  // changes nothing.
  template <typename HeaderArgument>
  Slot* Allocate(HeaderArgument&& argument) {
    if (free_ == nullptr) AddPage(std::forward<HeaderArgument>(argument));
    Slot* const slot = free_;
    free_ = static_cast<Slot*>(slot->next());
    return slot;
  }

  // As well, but only one that is there: null if there is none.
  Slot* AllocateFree() {
    Slot* const slot = free_;
    if (slot != nullptr) free_ = static_cast<Slot*>(slot->next());
    return slot;
  }

  void Free(Slot* slot) {
    slot->set_next(free_);
    free_ = slot;
  }

  // How many slots there are, free or not.
  size_t size() const { return size_; }

  // The first slot at or after `position`, which becomes its position; null at the end.
  Slot* At(Position& position) const {
    for (; position.page < pages_.size(); ++position.page, position.slot = 0) {
      Page* const page = pages_[position.page];
      if (page != nullptr && position.slot < page->size) return page->slots() + position.slot;
    }
    return nullptr;
  }

  // Where the slot has what lies apart.
  static void* cold_part(Slot* slot) {
    auto* const page = static_cast<Page*>(static_cast<Header*>(slot->page()));
    const size_t index = static_cast<size_t>(slot - page->slots());
    return reinterpret_cast<char*>(page) + FirstCold(page->size) + index * kColdBytes;
  }

  // Gives back the pages all of whose slots are free.
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

  // Leaves each page to `leave(header, slots, size)`, which may delete it, at once or later.
  template <typename Leave>
  void Shutdown(Leave&& leave) {
    free_ = nullptr;
    size_ = 0;
    for (Page*& page : pages_) {
      if (page == nullptr) continue;
      Page* const abandoned = std::exchange(page, nullptr);
      leave(static_cast<Header*>(abandoned), abandoned->slots(), abandoned->size);
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
    Page(size_t size, Argument&& argument) : Header(std::forward<Argument>(argument)), size(size) {}
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

  // A few percent of the slots that there are, so that hardly more than that is unused; and so
  // large in the end that all pages' headers stay in a processor's cache.
  size_t NextPageSize() const {
    constexpr size_t kMaxSlots = 1024;
    constexpr size_t kMaxBytes = 64 * 1024;
    constexpr size_t kSlotBytes = sizeof(Slot) + kColdBytes;
    constexpr size_t kMaxPage = std::clamp(kMaxBytes / kSlotBytes, kMinPage, kMaxSlots);
    return std::clamp(size_ / 32, kMinPage, kMaxPage);
  }

  void ReservePlaces(size_t count) {
    PageList larger(pages_.get_allocator());
    larger.reserve(count);
    replaced_.push_front(PageList(pages_.get_allocator()));
    larger = pages_;
    pages_.swap(larger);
    replaced_.front().swap(larger);
  }

  template <typename Argument>
  void AddPage(Argument&& argument) {
    if (holes_ == 0 && pages_.size() == pages_.capacity()) ReservePlaces(2 * pages_.size() + 1);
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

  PageList pages_;  // null where one was given back: at `holes_` places
  // Shorter lists that were here before: nothing is to be freed while their user holds a lock.
  std::forward_list<PageList, Rebind<PageList>> replaced_;
  size_t holes_ = 0;
  Slot* free_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_SLOT_PAGES_H_
