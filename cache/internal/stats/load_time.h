// SPDX-License-Identifier: Apache-2.0
// How long an object's load took, in a byte.
#ifndef WEAKCACHE_CACHE_INTERNAL_STATS_LOAD_TIME_H_
#define WEAKCACHE_CACHE_INTERNAL_STATS_LOAD_TIME_H_

#include <algorithm>
#include <bit>
#include <cstdint>

namespace weakcache::internal {

// Either unknown, or a number of microseconds with four binary digits: at least one microsecond, at
// most four and a half hours, and from a microsecond on within a sixteenth of the time that was
// given. A plain value.
class LoadTime {
 public:
  LoadTime() = default;  // unknown
  explicit LoadTime(int64_t nanoseconds) : code_(CodeOf(nanoseconds)) {}

  bool known() const { return code_ != 0; }
  // 0 if unknown.
  uint64_t microseconds() const {
    if (code_ < kDigits) return code_;
    return (kDigits + code_ % kDigits) << (code_ / kDigits - 1);
  }

 private:
  static constexpr uint64_t kDigits = 8;  // the first digit is 1, so it need not be stored

  static uint8_t CodeOf(int64_t nanoseconds) {
    constexpr int64_t kMost = int64_t{15'000} << 30;
    const auto rounded = static_cast<uint64_t>(std::clamp<int64_t>(nanoseconds, 0, kMost)) + 500;
    const uint64_t microseconds = std::max<uint64_t>(rounded / 1000, 1);
    if (microseconds < 2 * kDigits) return static_cast<uint8_t>(microseconds);
    const int exponent = static_cast<int>(std::bit_width(microseconds)) - 4;
    // 8 to 16, where 16 is the 8 of the next exponent.
    const uint64_t digits = (microseconds + (uint64_t{1} << (exponent - 1))) >> exponent;
    return static_cast<uint8_t>(kDigits * static_cast<uint64_t>(exponent) + digits);
  }

  uint8_t code_ = 0;  // below 8 the time itself; else an exponent, plus one, and three digits
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_STATS_LOAD_TIME_H_
