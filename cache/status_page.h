// SPDX-License-Identifier: Apache-2.0
// StatusPage: the state of a cache as an HTML fragment, for a server's page of diagnostics.
//
// Why: when a server is slow or short of memory, somebody looks at a page in a browser and wants to
// see how full the cache is, how long its loads take, and which keys would be evicted first and
// last. Metrics show the figures over time, but no keys.
//
//   response.body = "<!doctype html><meta charset=utf-8>" + weakcache::StatusPage(images);
//   response.body = weakcache::StatusPage(tiles, [](const TileId& id) { return id.ToString(); },
//                                         {.title = "tiles"});
//
// The fragment is one <section> without scripts, styles or links, so that it fits into any page and
// any content security policy. Titles and keys are escaped.
//
// Thread safety: may be called on any thread while the cache is used. The figures are read one
// after the other, so they may differ by what other threads do meanwhile.
//
// Unlike CacheStats::ToText, it has keys: show it only to those who may see them.
//
// Complexity: that of the cache's Stats, HottestKeys and ColdestKeys.
#ifndef WEAKCACHE_CACHE_STATUS_PAGE_H_
#define WEAKCACHE_CACHE_STATUS_PAGE_H_

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "weakcache/cache/cache_stats.h"

namespace weakcache {

struct StatusPageOptions {
  std::string_view title = "cache";
  // How many of the hottest keys are shown, and of the coldest: at most 256, for which the cache's
  // lock is held only briefly.
  size_t keys = 10;
};

namespace internal {

struct StatusPageContent {
  std::string_view title;
  CacheStats stats;
  uint64_t budget_bytes;
  size_t objects;
  std::vector<std::string> hottest;
  std::vector<std::string> coldest;
};
std::string RenderStatusPage(const StatusPageContent& content);

template <typename Keys, typename KeyText>
std::vector<std::string> TextsOf(const Keys& keys, KeyText& key_text) {
  std::vector<std::string> texts;
  texts.reserve(keys.size());
  for (const auto& key : keys) texts.emplace_back(key_text(key));
  return texts;
}

// Returns the text of a key that is text or a number.
struct PlainKeyText {
  template <typename K>
  std::string operator()(const K& key) const {
    if constexpr (std::convertible_to<const K&, std::string_view>) {
      return std::string(std::string_view(key));
    } else {
      return std::to_string(key);
    }
  }
};
template <typename K>
concept HasPlainText = std::convertible_to<const K&, std::string_view> || std::is_arithmetic_v<K>;

}  // namespace internal

// Returns the page of a LargeObjectCache. `key_text(key)` returns a key's text, in UTF-8; it is
// called without a lock.
template <typename Cache, std::invocable<const typename Cache::key_type&> KeyText>
[[nodiscard]] std::string StatusPage(const Cache& cache, KeyText&& key_text,
                                     const StatusPageOptions& options = {}) {
  constexpr size_t kMaxKeys = 256;
  const size_t keys = std::min(options.keys, kMaxKeys);
  return internal::RenderStatusPage({options.title, cache.Stats(), cache.budget_bytes(),
                                     cache.size(),
                                     internal::TextsOf(cache.HottestKeys(keys), key_text),
                                     internal::TextsOf(cache.ColdestKeys(keys), key_text)});
}

// Does the same where the keys are text or numbers.
template <typename Cache>
[[nodiscard]] std::string StatusPage(const Cache& cache, const StatusPageOptions& options = {}) {
  static_assert(internal::HasPlainText<typename Cache::key_type>,
                "StatusPage needs a function that returns a key's text: StatusPage(cache, "
                "[](const Key& key) { return …; })");
  return StatusPage(cache, internal::PlainKeyText(), options);
}

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_STATUS_PAGE_H_
