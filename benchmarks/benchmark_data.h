// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of the containers store and look for, and the memory that it takes.
#ifndef WEAKCACHE_BENCHMARKS_BENCHMARK_DATA_H_
#define WEAKCACHE_BENCHMARKS_BENCHMARK_DATA_H_

#include <malloc.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace weakcache {

// Large enough to have an allocation of its own.
struct Object {
  explicit Object(int64_t id) : id(id) {}
  int64_t id;
  char bytes[120] = {};
};

// Spread over all of int64 so that no hash is lucky; even ones are in the table, odd ones are not.
inline int64_t KeyAt(size_t i) {
  return static_cast<int64_t>(i * 0x9E3779B97F4A7C15u) & ~int64_t{1};
}

// 16 to 64 bytes, which differ somewhere in the first 16. Needs no allocation if `text` has room.
inline void AssignText(int64_t id, std::string& text) {
  const auto bits = static_cast<uint64_t>(id);
  text.assign(16 + (bits >> 32) % 49, '.');
  for (size_t i = 0; i < 16; ++i) text[i] = "0123456789abcdef"[(bits >> (4 * i)) & 15];
}

inline std::string TextOf(int64_t id) {
  std::string text;
  AssignText(id, text);
  return text;
}

// Returns what malloc has given out, with what it adds to each block.
inline int64_t AllocatedBytes() {
  const struct mallinfo2 all = mallinfo2();
  return static_cast<int64_t>(all.uordblks + all.hblkhd);
}

// The key of the object with that id.
template <typename Key>
Key KeyOf(int64_t id) {
  if constexpr (std::is_same_v<Key, std::string>) {
    return TextOf(id);
  } else {
    return id;
  }
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_BENCHMARK_DATA_H_
