// SPDX-License-Identifier: Apache-2.0
// What the dump of an object tells of one of its watchers: see weakref/dump_object.h. Constants and
// copies, so that it may be asked for under the lock of a watcher list.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_WATCHER_INFO_H_
#define WEAKCACHE_WEAKREF_INTERNAL_WATCHER_INFO_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace weakcache::internal {

// The name of a container's type: the template and its first arguments.
struct ContainerType {
  std::string_view name;
  std::string_view first;
  std::string_view second;  // empty if there is one argument
};

// Who has taken an object from a cache that samples it: see cache/internal/stats/holder_sampler.h.
struct HoldersInfo {
  static constexpr size_t kMost = 8;

  // Look-ups under one label. The times are nanoseconds of the cache's clock.
  struct Holder {
    const char* label = nullptr;  // may be null
    uint64_t look_ups = 0;
    int64_t first = 0;
    int64_t last = 0;
  };

  bool sampled = false;
  bool has_own_clock = false;  // else the times are those of std::chrono::steady_clock
  size_t references = 0;       // beside the cache's; if 0, there are no holders
  uint64_t dropped_look_ups = 0;
  size_t size = 0;
  std::array<Holder, kMost> holders = {};  // the first `size`, the most recent first
};

struct WatcherInfo {
  enum class Kind { kNone, kExpiryCallback, kFinalizer, kCensus, kEntry };

  Kind kind = Kind::kNone;
  const ContainerType* container = nullptr;  // of an entry
  bool retained = false;                     // whether the entry's cache retains the object
  HoldersInfo holders = {};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_WATCHER_INFO_H_
