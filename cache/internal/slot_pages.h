// Slots that never move, found by a small index: a list of pages that double up to a fixed size.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_PAGES_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_PAGES_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "weakref/internal/check.h"

namespace weakcache::internal {

// Slot is constructible from (owner, index) without throwing, needs no destructor, and has next()
// and set_next(), which are the pages' while the slot is free.
template <typename Slot>
class SlotPages {
 public:
  // Slot indices fit in this many bits.
  static constexpr int kIndexBits = 28;

  SlotPages() = default;
  SlotPages(const SlotPages&) = delete;
  SlotPages& operator=(const SlotPages&) = delete;
  ~SlotPages() {
    for (size_t page = 0; page < pages_.size(); ++page) {
      std::allocator<Slot>().deallocate(pages_[page], PageSize(page));
    }
  }

  Slot& operator[](uint32_t index) const {
    if (index >= kFullPage) [[likely]] {
      return pages_[(index >> kFullPageBits) + kSmallPages - 1][index & (kFullPage - 1)];
    }
    const int page = std::bit_width(index / kFirstPage);
    return pages_[page][page == 0 ? index : index - PageSize(page)];
  }

  // A free slot; the lowest indices are used first. If memory runs out it throws and changes
  // nothing.
  template <typename Owner>
  Slot* Allocate(Owner* owner) {
    if (free_ == nullptr) AddPage(owner);
    Slot* const slot = free_;
    free_ = static_cast<Slot*>(slot->next());
    return slot;
  }

  void Free(Slot* slot) {
    slot->set_next(free_);
    free_ = slot;
  }

  // Makes room for `count` slots in all.
  template <typename Owner>
  void Reserve(size_t count, Owner* owner) {
    CheckCount(count);
    while (end_ < count) AddPage(owner);
  }

  // Every slot's index is below this.
  uint32_t end() const { return end_; }

 private:
  static constexpr uint32_t kFirstPage = 8;
  static constexpr int kFullPageBits = 10;
  static constexpr uint32_t kFullPage = 1 << kFullPageBits;
  // Pages of 8, 8, 16, 32 … 512 slots hold the first 1024.
  static constexpr size_t kSmallPages = kFullPageBits - std::bit_width(kFirstPage) + 2;

  // Pages 1 to 7 are as large as all before them together, so this is also their first index.
  static constexpr size_t PageSize(size_t page) {
    if (page >= kSmallPages) return kFullPage;
    return page == 0 ? kFirstPage : kFirstPage << (page - 1);
  }

  static void CheckCount(size_t count) {
    Check(count <= size_t{1} << kIndexBits, "insert or reserve", "more than 2^28 entries");
  }

  template <typename Owner>
  void AddPage(Owner* owner) {
    const size_t size = PageSize(pages_.size());
    CheckCount(end_ + size);
    if (pages_.size() == pages_.capacity()) pages_.reserve(2 * pages_.size() + 1);
    Slot* const page = std::allocator<Slot>().allocate(size);
    pages_.push_back(page);
    for (size_t i = size; i-- > 0;) {
      ::new (static_cast<void*>(page + i)) Slot(owner, end_ + static_cast<uint32_t>(i));
      Free(page + i);
    }
    end_ += static_cast<uint32_t>(size);
  }

  std::vector<Slot*> pages_;
  Slot* free_ = nullptr;
  uint32_t end_ = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_PAGES_H_
