// What an eviction policy remembers of objects that it has let go: that they were there, and how
// often they were used. Without it, an object that comes round just too late is new each time.
#ifndef WEAKCACHE_CACHE_INTERNAL_EVICTION_GHOST_H_
#define WEAKCACHE_CACHE_INTERNAL_EVICTION_GHOST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <utility>

namespace weakcache::internal {

// Eight bytes for each eviction among the latest, in lines of eight: to look one up takes one cache
// line. It grows and shrinks with the number of resident objects, and stays as it is if there is no
// memory to grow. A fingerprint that two objects share, one time in 2^28 / evictions remembered,
// costs a little hit ratio and nothing else.
class EvictionGhost {
 public:
  static constexpr uint8_t kMaxFrequency = 15;

  // Notes an eviction, and has room for about `room` of them.
  void Remember(uint64_t hash, uint8_t frequency, size_t room) {
    FitTo(room);
    ++now_;
    if (line_count_ == 0) return;
    const uint32_t fingerprint = FingerprintOf(hash);
    Line& line = LineOf(fingerprint);
    Entry* place = &line.entries[0];
    for (Entry& entry : line.entries) {
      if (entry.fingerprint == fingerprint) {
        place = &entry;
        break;
      }
      if (AgeOf(entry) > AgeOf(*place)) place = &entry;
    }
    *place = {.fingerprint = fingerprint, .frequency = frequency, .time = now_};
  }

  // How often an object had been used that was among the latest `window` evictions; forgets it.
  std::optional<uint8_t> Take(uint64_t hash, size_t window) {
    if (line_count_ == 0) return std::nullopt;
    const uint32_t fingerprint = FingerprintOf(hash);
    for (Entry& entry : LineOf(fingerprint).entries) {
      if (entry.fingerprint != fingerprint) continue;
      const bool lately = AgeOf(entry) < window;
      const uint8_t frequency = entry.frequency;
      entry = Entry();
      if (lately) return frequency;
      break;
    }
    return std::nullopt;
  }

  // How many evictions there is room for.
  size_t capacity() const { return line_count_ * kLineEntries; }

 private:
  static constexpr int kFingerprintBits = 28;
  static constexpr size_t kLineEntries = 8;

  struct Entry {
    uint32_t fingerprint : kFingerprintBits = 0;  // 0: nothing is here
    uint32_t frequency : 4 = 0;
    uint32_t time = 0;
  };
  struct alignas(64) Line {
    Entry entries[kLineEntries];
  };
  static_assert(sizeof(Line) == 64);

  static uint32_t FingerprintOf(uint64_t hash) {
    // Spreads the differences of a weak hash; the product's upper bits are the good ones.
    const auto fingerprint =
        static_cast<uint32_t>((hash * 0x9e3779b97f4a7c15) >> (64 - kFingerprintBits));
    return fingerprint == 0 ? 1 : fingerprint;
  }
  Line& LineOf(uint32_t fingerprint) const {
    return lines_[(uint64_t{fingerprint} * line_count_) >> kFingerprintBits];
  }

  // Evictions since. The clock may go round: then an old entry looks young once in 2^32 evictions.
  uint32_t AgeOf(const Entry& entry) const {
    return entry.fingerprint == 0 ? UINT32_MAX : now_ - entry.time;
  }

  void FitTo(size_t room) {
    if (room > capacity() || room < capacity() / 8) [[unlikely]]
      Resize(room + room / 2, room);
  }

  [[gnu::noinline]] void Resize(size_t entries, size_t room) {
    const size_t count = (entries + kLineEntries - 1) / kLineEntries;
    if (count == line_count_) return;
    std::unique_ptr<Line[]> lines(new (std::nothrow) Line[count]);
    if (lines == nullptr) return;
    std::swap(lines, lines_);
    const size_t old_count = std::exchange(line_count_, count);
    for (size_t i = 0; i < old_count; ++i) {
      for (const Entry& entry : lines[i].entries) {
        if (AgeOf(entry) < room) Move(entry);
      }
    }
  }
  void Move(const Entry& entry) {
    Entry* oldest = nullptr;
    for (Entry& place : LineOf(entry.fingerprint).entries) {
      if (oldest == nullptr || AgeOf(place) > AgeOf(*oldest)) oldest = &place;
    }
    if (AgeOf(*oldest) > AgeOf(entry)) *oldest = entry;
  }

  std::unique_ptr<Line[]> lines_;
  size_t line_count_ = 0;
  uint32_t now_ = 0;  // counts evictions
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_EVICTION_GHOST_H_
