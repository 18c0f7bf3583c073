// SPDX-License-Identifier: Apache-2.0
// What the dump of an object tells of one of its watchers: see weakref/dump_object.h. Constants and
// copies, so that it may be asked for under the lock of a watcher list.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_WATCHER_INFO_H_
#define WEAKCACHE_WEAKREF_INTERNAL_WATCHER_INFO_H_

#include <string_view>

namespace weakcache::internal {

// The name of a container's type: the template and its first arguments.
struct ContainerType {
  std::string_view name;
  std::string_view first;
  std::string_view second;  // empty if there is one argument
};

struct WatcherInfo {
  enum class Kind { kNone, kExpiryCallback, kFinalizer, kCensus, kEntry };

  Kind kind = Kind::kNone;
  const ContainerType* container = nullptr;  // of an entry
  bool retained = false;                     // whether the entry's cache retains the object
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_WATCHER_INFO_H_
