// SPDX-License-Identifier: Apache-2.0
// What the dump of an object tells of a slot, which the type of the slot's payload decides. A
// specialisation stands beside the payload that it describes.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_PAYLOAD_DESCRIPTION_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_PAYLOAD_DESCRIPTION_H_

#include <string_view>
#include <type_traits>

#include "weakcache/weakref/internal/census_type.h"
#include "weakcache/weakref/internal/watcher_info.h"

namespace weakcache::internal {

template <typename Payload>
struct PayloadDescription {
  // The container's template; empty for what its engine has payloads of any type for.
  static constexpr std::string_view container{};
  // What the user calls the payload's type; void if there is no such argument.
  using Argument = Payload;
  // Returns whether the container holds the object strongly. Runs no user code.
  static bool IsRetained(const Payload&) { return false; }
  // There may be a HoldersInfo HoldersOf(const Payload::Cold&), which runs no user code either.
};

// The payload of a WeakSet, and of a WeakInterner whose objects do not lie in the slots.
struct Nothing {};
template <>
struct PayloadDescription<Nothing> {
  static constexpr std::string_view container = "WeakSet";
  using Argument = void;
};
struct NothingBesideInterned {};
template <>
struct PayloadDescription<NothingBesideInterned> {
  static constexpr std::string_view container = "WeakInterner";
  using Argument = void;
};

template <typename T>
constexpr std::string_view ArgumentName() {
  if constexpr (std::is_void_v<T>) return {};
  return TypeName<std::remove_cv_t<T>>();
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_PAYLOAD_DESCRIPTION_H_
