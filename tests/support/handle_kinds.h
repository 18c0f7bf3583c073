// SPDX-License-Identifier: Apache-2.0
// The kinds of handle that a container's tests run with: the library's own, and std::shared_ptr.
#ifndef WEAKCACHE_TESTS_SUPPORT_HANDLE_KINDS_H_
#define WEAKCACHE_TESTS_SUPPORT_HANDLE_KINDS_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {

// `Value` is what a container is told to hold, `Handle` what it hands out.
struct OwnHandles {
  template <typename T>
  using Value = T;
  template <typename T>
  using Handle = Ref<T>;
};
struct SharedPointers {
  template <typename T>
  using Value = std::shared_ptr<T>;
  template <typename T>
  using Handle = std::shared_ptr<T>;
};

template <typename Kind, typename T>
using ValueOf = typename Kind::template Value<T>;
template <typename Kind, typename T>
using HandleOf = typename Kind::template Handle<T>;
template <typename Kind, typename T>
using WeakOf = typename HandleTraits<HandleOf<Kind, T>>::weak_type;

template <typename Kind, typename T, typename... Args>
HandleOf<Kind, T> Make(Args&&... args) {
  return HandleTraits<HandleOf<Kind, T>>::Make(std::forward<Args>(args)...);
}

// How many live objects a map has; only own handles tell it of an end by themselves.
template <typename Map>
size_t LiveSize(Map& map) {
  if (!HandleTraits<typename Map::Strong>::kNotifiesExpiry) map.purge();
  return map.size();
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_HANDLE_KINDS_H_
