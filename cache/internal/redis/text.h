// SPDX-License-Identifier: Apache-2.0
// Text from pieces. (absl::StrCat takes no std::string_view where Abseil has its own.)
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_TEXT_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_TEXT_H_

#include <concepts>
#include <string>
#include <string_view>

namespace weakcache::internal {

inline void AppendPiece(std::string& text, std::string_view piece) { text += piece; }
void AppendPiece(std::string& text, std::integral auto number) { text += std::to_string(number); }

// Appends pieces of text and integers.
template <typename... Pieces>
void AppendText(std::string& text, const Pieces&... pieces) {
  (AppendPiece(text, pieces), ...);
}

template <typename... Pieces>
std::string Text(const Pieces&... pieces) {
  std::string text;
  AppendText(text, pieces...);
  return text;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_TEXT_H_
