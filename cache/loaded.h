// SPDX-License-Identifier: Apache-2.0
// Loaded<Object>: an object for a LargeObjectCache, with what is particular to it: how long it is
// fresh, and what it weighs.
//
// Why: a web server says of each answer how long it may be kept (Cache-Control: max-age), a token
// has an end of its own, a decoder knows the size that a weigher would have to guess. One
// expire_after_write for all of them is too long for some and too short for the rest.
//
//   using weakcache::Loaded;
//   absl::StatusOr<weakcache::Ref<Page>> page = pages.GetOrLoad(url, [](const std::string& url) {
//     Response response = Fetch(url);
//     return Loaded<Page>{.object = std::move(response.page), .expires_after = response.max_age};
//   });
//
// A loader may return it wherever it may return an object, also in an absl::StatusOr; Put and
// PutIfAbsent take it. SetExpiry changes the life of an object that is in the cache.
//
// Thread safety: thread-compatible, a plain value.
//
// Unlike Caffeine's Expiry, this is not a callback of the cache: whoever makes the object says how
// long it lives.
//
// Complexity: that of the object's own operations.
#ifndef WEAKCACHE_CACHE_LOADED_H_
#define WEAKCACHE_CACHE_LOADED_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace weakcache {

// Object is what the loader would return otherwise: a V, or a std::unique_ptr or a Ref to one.
template <typename Object>
struct Loaded {
  Object object;
  // Empty: what the weigher returns. If this is set, only UpdateWeight calls the weigher.
  std::optional<uint64_t> weight = {};
  // In place of the options `expire_after_write` and `refresh_after_write`; `expiry_jitter` applies
  // to them, too. absl::InfiniteDuration(): never. Zero or less: at once, so that the object is
  // handed out to those that wait for it, and not found any more.
  std::optional<absl::Duration> expires_after = {};
  std::optional<absl::Duration> refresh_after = {};
  // What a hit on the object saves, for `ObjectValue::kTimeSaved`. Empty: the time that the cache
  // has measured; an object that is put is valued as if its load had taken as long as others
  // lately, but its hits are not counted as time saved.
  std::optional<absl::Duration> load_time = {};
  // The object's group: see LoadOptions::group, in whose place it holds if a loader returns it. But
  // InvalidateGroup can't find a load under way by it: such a load's object is not cached, but
  // callers who join the load until its end get it.
  std::optional<uint32_t> group = {};
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_LOADED_H_
