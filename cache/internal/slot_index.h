// From a hash to a slot: cache lines of seven one-byte tags and seven pointers, after F14 (Bronson
// and Shi, 2019). All tags of a line are compared at once, so a look-up takes one line and no
// unpredictable branch. A line counts the entries that passed it because it was full; erasing one
// takes the count back, so there are no tombstones and never a rebuild to get rid of them.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakref/internal/check.h"

namespace weakcache::internal {

// The bits of a hash that slots and the index work with.
inline constexpr int kSlotHashBits = 28;

// Also of allocators that can't be assigned, as those of std::pmr.
template <typename Allocator>
void SwapAllocators(Allocator& a, Allocator& b) noexcept {
  if constexpr (!std::is_empty_v<Allocator>) {
    const Allocator before = a;
    std::destroy_at(&a);
    std::construct_at(&a, b);
    std::destroy_at(&b);
    std::construct_at(&b, before);
  }
}

// On average at most kFullEntries entries of a line are in use. With fewer, fewer look-ups have to
// go on to the next line (of a full index 10 % at six, 5 % at five), and an entry takes more
// memory.
template <typename Slot, typename Allocator = std::allocator<Slot>, size_t kFullEntries = 6>
class SlotIndex {
 public:
  explicit SlotIndex(const Allocator& allocator = Allocator()) : allocator_(allocator) {}
  // Room for `size` slots.
  SlotIndex(size_t size, const Allocator& allocator) : allocator_(allocator) {
    const size_t lines = size / kFullEntries + 1;
    lines_ = std::allocator_traits<LineAllocator>::allocate(allocator_, lines);
    line_count_ = static_cast<uint32_t>(lines);
    Clear();
  }
  SlotIndex(SlotIndex&& other) noexcept : allocator_(other.allocator_) { swap(other); }
  SlotIndex& operator=(SlotIndex&& other) noexcept {
    SlotIndex(std::move(other)).swap(*this);
    return *this;
  }
  ~SlotIndex() {
    if (line_count_ == 0) return;
    std::allocator_traits<LineAllocator>::deallocate(allocator_, lines_, line_count_);
  }

  void swap(SlotIndex& other) noexcept {
    std::swap(lines_, other.lines_);
    std::swap(line_count_, other.line_count_);
    SwapAllocators(allocator_, other.allocator_);
  }

  // How many slots fit.
  size_t max_size() const { return size_t{line_count_} * kFullEntries; }
  // How large to make the next one if `size` slots don't fit: large enough for an insertion to cost
  // O(1) on average, small enough to waste less than a quarter.
  size_t GrownSize(size_t size) const { return std::max(size, max_size() + max_size() / 3); }

  // The slot with that hash for which `match(slot)` is true, or null. When it says true, `match`
  // may have changed the index.
  template <typename Match>
  Slot* Find(uint32_t hash, Match&& match) const {
    // Nearly always it is in the first line, or nowhere.
    Line* const line = Home(hash);
    Slot* const slot = FindIn(line, TagOf(hash), match);
    if (slot != nullptr || line->passed() == 0) [[likely]]
      return slot;
    return FindFurther(hash, line, match);
  }

  // Lets the memory that Find, Insert or Erase would look at first come nearer.
  void Prefetch(uint32_t hash) const { __builtin_prefetch(Home(hash)); }

  // There is room.
  void Insert(uint32_t hash, Slot* slot) {
    Line* line = Home(hash);
    uint64_t free;
    while ((free = line->Free()) == 0) {
      line->CountPassed(1);
      line = Next(line);
    }
    line->Set(Line::EntryOf(free), TagOf(hash), slot);
  }

  // The slot is there.
  void Erase(uint32_t hash, Slot* slot) {
    const Place place = PlaceOf(hash, slot);
    place.line->Set(place.entry, 0, nullptr);
    for (Line* line = Home(hash); line != place.line; line = Next(line)) line->CountPassed(-1);
  }

  void Clear() { std::uninitialized_fill_n(lines_, line_count_, Line()); }

  // Lets a slot take the place of one with the same hash.
  void Replace(uint32_t hash, Slot* replaced, Slot* slot) {
    const Place place = PlaceOf(hash, replaced);
    place.line->slots[place.entry] = slot;
  }

  // Aborts unless there are `size` slots, each where a look-up finds it and counted where it
  // passed.
  void Validate(size_t size) const {
    size_t found = 0;
    size_t passed = 0;
    size_t counted = 0;
    bool lost_track = false;
    for (size_t i = 0; i < line_count_; ++i) {
      Line* const line = &lines_[i];
      counted += line->passed();
      lost_track |= line->passed() == Line::kManyPassed;
      for (uint64_t used = ~line->Free() & Line::kTopBits; used != 0; used &= used - 1) {
        const Slot* const slot = line->slots[Line::EntryOf(used)];
        ++found;
        for (Line* on_way = Home(slot->hash()); on_way != line; on_way = Next(on_way)) {
          Check(on_way->Free() == 0 || on_way->passed() != 0, "Validate", "a slot is out of reach");
          ++passed;
        }
      }
    }
    Check(found == size, "Validate", "the index has too many slots or too few");
    Check(lost_track || passed == counted, "Validate", "the index has lost count");
  }

 private:
  static constexpr size_t kEntries = 7;

  struct alignas(64) Line {
    static constexpr uint64_t kLowBits = 0x01010101010101;
    static constexpr uint64_t kTopBits = kLowBits << 7;
    // A count this high has lost track and stays, until the index grows or is cleared.
    static constexpr uint64_t kManyPassed = UINT8_MAX;

    // The top bit of each byte whose entry is free.
    uint64_t Free() const {
      // Tags are at least 2: adding 0x7e sets the top bit of those that have it not already.
      return ~(((tags & ~(kTopBits | kPassed)) + kLowBits * 0x7e) | tags) & kTopBits;
    }
    // The top bit of each byte that is this tag; the byte after one may be there by mistake, if it
    // is another tag (Mycroft, 1987).
    uint64_t Matching(uint64_t tag) const {
      const uint64_t difference = tags ^ (kLowBits * tag);
      return (difference - kLowBits) & ~difference & kTopBits;
    }

    static size_t EntryOf(uint64_t bits) { return static_cast<size_t>(std::countr_zero(bits)) / 8; }

    void Set(size_t entry, uint64_t tag, Slot* slot) {
      tags = (tags & ~(uint64_t{0xff} << (8 * entry))) | (tag << (8 * entry));
      slots[entry] = slot;
    }

    // Entries that are further on because this line was full.
    uint64_t passed() const { return tags >> 56; }
    void CountPassed(int change) {
      if (passed() != kManyPassed) tags += static_cast<uint64_t>(int64_t{change}) << 56;
    }

    static constexpr uint64_t kPassed = uint64_t{0xff} << 56;
    uint64_t tags = 0;  // a byte for each entry, 0 if it is free, and the passed ones above
    Slot* slots[kEntries] = {};
  };
  static_assert(sizeof(void*) != 8 || sizeof(Line) == 64);

  using LineAllocator = typename std::allocator_traits<Allocator>::template rebind_alloc<Line>;

  struct Place {
    Line* line;
    size_t entry;
  };

  // 0 is a free entry, 1 could be mistaken for one.
  static uint64_t TagOf(uint32_t hash) {
    const uint64_t tag = hash & 0xff;
    return tag < 2 ? tag + 2 : tag;
  }

  // The hash, scaled to any number of lines (Lemire, 2019).
  Line* Home(uint32_t hash) const {
    return &lines_[(uint64_t{hash} * line_count_) >> kSlotHashBits];
  }
  Line* Next(Line* line) const { return line + 1 == lines_ + line_count_ ? lines_ : line + 1; }

  template <typename Match>
  [[gnu::noinline]] Slot* FindFurther(uint32_t hash, Line* first, Match& match) const {
    for (Line* line = Next(first); line != first; line = Next(line)) {
      Slot* const slot = FindIn(line, TagOf(hash), match);
      if (slot != nullptr || line->passed() == 0) return slot;
    }
    return nullptr;
  }
  template <typename Match>
  static Slot* FindIn(Line* line, uint64_t tag, Match& match) {
    for (uint64_t candidates = line->Matching(tag); candidates != 0; candidates &= candidates - 1) {
      Slot* const slot = line->slots[Line::EntryOf(candidates)];
      if (match(*slot)) [[likely]]
        return slot;
    }
    return nullptr;
  }

  // The slot is there.
  Place PlaceOf(uint32_t hash, const Slot* slot) const {
    for (Line* line = Home(hash);; line = Next(line)) {
      for (uint64_t candidates = line->Matching(TagOf(hash)); candidates != 0;
           candidates &= candidates - 1) {
        const size_t entry = Line::EntryOf(candidates);
        if (line->slots[entry] == slot) return {line, entry};
      }
    }
  }

  // Before there is any other there is an empty one, so that a look-up need not ask. Nobody writes
  // to it, as it has no room.
  inline static Line no_line_{};

  Line* lines_ = &no_line_;
  uint32_t line_count_ = 0;
  [[no_unique_address]] LineAllocator allocator_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_
