// SPDX-License-Identifier: Apache-2.0
// ObjectInfo: what a LargeObjectCache knows about one of its objects.
//
// Why: the figures of a cache don't say why one object has been evicted, or loaded again. An
// operator wants to ask about that one, and a program may keep on disk what took long to load.
//
//   if (std::optional<weakcache::ObjectInfo> cover = images.Inspect("cover.png")) {
//     if (cover->load_time > absl::Seconds(1) && !cover->in_use) SaveDecoded("cover.png");
//   }
//
// Thread safety: thread-compatible, a plain value: what was true when Inspect looked.
//
// Unlike Caffeine's CacheEntry, it has neither the key nor the object, so it keeps nothing alive.
//
// Complexity: O(1). A hit does nothing for it.
#ifndef WEAKCACHE_CACHE_OBJECT_INFO_H_
#define WEAKCACHE_CACHE_OBJECT_INFO_H_

#include <cstdint>

#include "absl/time/time.h"

namespace weakcache {

struct ObjectInfo {
  // The object's own weight: the weigher's, or that of Loaded or of the last UpdateWeight. Exact.
  uint64_t weight = 0;
  // What the budget counts for it: the same with the memory of its entry. Exact.
  uint64_t bytes = 0;
  // How long ago it was entered, by the cache's clock. Exact if it was loaded, if objects of the
  // cache expire, or if the cache has a clock of yours; otherwise up to 10 ms more.
  absl::Duration age;
  // How long its loader and the weigher took, to seven digits; of a bulk load, an equal part of the
  // whole. Zero if it was put.
  absl::Duration load_time;
  // How often the policy knows it to have been found while it was retained, 16 at most: hits at the
  // same time may count once, less recent ones may count less, and an object that was evicted
  // before may begin with some of its former uses.
  uint32_t uses = 0;
  // Whether anybody but the cache holds it: a Ref, or a look-up at that moment.
  bool in_use = false;
  // Whether the cache keeps it alive. If not, it dies at its users' last release.
  bool retained = false;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_OBJECT_INFO_H_
