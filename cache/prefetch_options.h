// SPDX-License-Identifier: Apache-2.0
// PrefetchOptions: how much one LargeObjectCache::Prefetch may load, and when it has to stop.
//
// Why: a viewer that shows one page knows which ones come next. Loading them ahead must neither
// evict objects that have proved useful, nor delay loads that somebody waits for.
//
//   weakcache::PrefetchOptions options;
//   options.max_bytes = 64 << 20;
//   options.stop_token = chapter.stop_token();   // the reader has left the chapter
//   pages.Prefetch({8, 9, 10}, LoadPage, executor, options);
//
// Thread safety: thread-compatible, plain values.
//
// Unlike LoadOptions it has no deadline: nobody waits.
//
// Complexity: none.
#ifndef WEAKCACHE_CACHE_PREFETCH_OPTIONS_H_
#define WEAKCACHE_CACHE_PREFETCH_OPTIONS_H_

#include <cstdint>
#include <optional>

#include "weakcache/cache/internal/creation/stop_token.h"

namespace weakcache {

struct PrefetchOptions {
  // What the loaded objects may weigh together, with their entries if options.count_entry_memory.
  // An object that would exceed it is not kept, and nothing more is loaded.
  uint64_t max_bytes = UINT64_MAX;
  // The probable weight of each object, without its entry. If so many bytes are not free, nothing
  // more is loaded. 0: the average of the objects loaded so far.
  uint64_t weight_estimate = 0;
  // A std::stop_token: once its stop is requested nothing more is loaded. If nobody else waits for
  // the object under way, its loader's own std::stop_token fires. (An empty class with libc++
  // before version 18.)
  internal::StopToken stop_token = {};
  // The group of the objects that are loaded: see LoadOptions.
  std::optional<uint32_t> group = {};
  // As in LoadOptions.
  bool read_tier = true;
  bool write_tier = true;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_PREFETCH_OPTIONS_H_
