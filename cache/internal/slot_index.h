// From a hash to the index of a slot: cache lines of twelve one-byte tags and twelve slot indices,
// after F14 (Bronson and Shi, 2019). All tags of a line are compared at once, so a look-up takes
// one line and no unpredictable branch. A line counts the entries that passed it because it was
// full; erasing one takes the count back, so there are no tombstones and never a rebuild to get rid
// of them.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace weakcache::internal {

class SlotIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  SlotIndex() = default;
  // Room for `size` slots.
  explicit SlotIndex(size_t size)
      : lines_(std::make_unique<Line[]>(LinesFor(size))),
        line_count_(static_cast<uint32_t>(LinesFor(size))) {}
  SlotIndex(SlotIndex&& other) noexcept { *this = std::move(other); }
  SlotIndex& operator=(SlotIndex&& other) noexcept {
    lines_ = std::move(other.lines_);
    line_count_ = std::exchange(other.line_count_, 0);
    return *this;
  }

  // How many slots fit.
  size_t max_size() const { return size_t{line_count_} * kFullEntries; }

  // The slot with that hash for which `match(index)` is true, or kNone.
  template <typename Match>
  uint32_t Find(uint32_t hash, Match&& match) const {
    const Place place = FindPlace(hash, std::forward<Match>(match));
    return place.line == nullptr ? kNone : place.line->slots[place.entry];
  }

  // There is room.
  void Insert(uint32_t hash, uint32_t slot) {
    Line* line = Home(hash);
    uint32_t free;
    while ((free = line->Matching(kEmpty)) == 0) {
      if (line->passed < kManyPassed) ++line->passed;
      line = Next(line);
    }
    const int entry = std::countr_zero(free);
    line->tags[entry] = TagOf(hash);
    line->slots[entry] = slot;
  }

  // The slot is there.
  void Erase(uint32_t hash, uint32_t slot) {
    const Place place = FindPlace(hash, [slot](uint32_t found) { return found == slot; });
    place.line->tags[place.entry] = kEmpty;
    for (Line* line = Home(hash); line != place.line; line = Next(line)) {
      if (line->passed < kManyPassed) --line->passed;
    }
  }

  void Clear() { std::fill_n(lines_.get(), line_count_, Line()); }

 private:
  static constexpr int kEntries = 12;
  // On average at most so many entries of a line are in use.
  static constexpr int kFullEntries = 10;
  static constexpr uint8_t kEmpty = 0;
  // A count this high has lost track and stays, until the index grows or is cleared.
  static constexpr uint8_t kManyPassed = UINT8_MAX;

  struct alignas(64) Line {
    // A bit for each entry that has this tag.
    uint32_t Matching(uint8_t tag) const {
      constexpr uint32_t kAll = (1 << kEntries) - 1;
#ifdef __SSE2__
      const __m128i all = _mm_load_si128(reinterpret_cast<const __m128i*>(tags));
      const __m128i equal = _mm_cmpeq_epi8(all, _mm_set1_epi8(static_cast<char>(tag)));
      return static_cast<uint32_t>(_mm_movemask_epi8(equal)) & kAll;
#else
      uint32_t matching = 0;
      for (int i = 0; i < kEntries; ++i) matching |= uint32_t{tags[i] == tag} << i;
      return matching & kAll;
#endif
    }

    uint8_t tags[kEntries] = {};
    uint8_t passed = 0;  // entries that are further on because this line was full
    uint8_t padding[3] = {};
    uint32_t slots[kEntries] = {};
  };
  static_assert(sizeof(Line) == 64);

  struct Place {
    Line* line;  // null if there is none
    int entry;
  };

  static size_t LinesFor(size_t size) { return size / kFullEntries + 1; }

  static uint8_t TagOf(uint32_t hash) {
    const auto tag = static_cast<uint8_t>(hash);
    return tag == kEmpty ? 1 : tag;
  }

  // The upper bits of the hash, scaled to any number of lines (Lemire, 2019).
  Line* Home(uint32_t hash) const { return &lines_[(uint64_t{hash} * line_count_) >> 32]; }
  Line* Next(Line* line) const {
    return line + 1 == lines_.get() + line_count_ ? lines_.get() : line + 1;
  }

  template <typename Match>
  Place FindPlace(uint32_t hash, Match&& match) const {
    if (line_count_ == 0) return {nullptr, 0};
    const uint8_t tag = TagOf(hash);
    Line* line = Home(hash);
    for (uint32_t looked_at = 0; looked_at < line_count_; ++looked_at) {
      for (uint32_t candidates = line->Matching(tag); candidates != 0;
           candidates &= candidates - 1) {
        const int entry = std::countr_zero(candidates);
        if (match(line->slots[entry])) return {line, entry};
      }
      if (line->passed == 0) break;
      line = Next(line);
    }
    return {nullptr, 0};
  }

  std::unique_ptr<Line[]> lines_;
  uint32_t line_count_ = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_INDEX_H_
