// SPDX-License-Identifier: Apache-2.0
// The strong handle of a container's element type: WeakSet<Image> uses Ref<Image>,
// WeakSet<std::shared_ptr<Image>> uses std::shared_ptr<Image>.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_STORED_HANDLE_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_STORED_HANDLE_H_

#include <functional>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/new_object.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/referent_storage.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

template <typename T>
struct StoredHandle {
  using type = Ref<T>;
};
template <Handle H>
struct StoredHandle<H> {
  using type = H;
};
template <typename T>
using HandleFor = typename StoredHandle<T>::type;

template <typename H>
using ReferentOf = typename HandleTraits<H>::element_type;

// Aborts for null and for aliases without an owner: they can't expire.
template <typename H>
void CheckOwns(const H& handle, const char* call) {
  Check(handle.get() != nullptr && HandleTraits<H>::Owns(handle), call,
        "the reference is null or owns nothing");
}

// Whether the container can create objects whose counts lie in its own slots.
template <typename H>
inline constexpr bool kHasEmbeddedSlots = false;
template <typename T>
inline constexpr bool kHasEmbeddedSlots<Ref<T>> = !std::is_array_v<T> && !std::is_void_v<T>;

// Makes an object to be entered: as an object for an embedded slot where the container has such
// slots, otherwise as a handle.
template <typename H, typename... Args>
auto MakeObject(Args&&... args) {
  if constexpr (kHasEmbeddedSlots<H>) {
    return NewObject<std::remove_cv_t<ReferentOf<H>>>(std::forward<Args>(args)...);
  } else {
    return HandleTraits<H>::Make(std::forward<Args>(args)...);
  }
}
// Does the same as MakeObject, from what `factory()` returns: a handle, or an object, which is
// constructed in place for a Ref and moved for other handles.
template <typename H, typename Factory>
auto MakeObjectBy(Factory&& factory) {
  using Result = std::invoke_result_t<Factory>;
  if constexpr (std::is_convertible_v<Result, H>) {
    return H(std::invoke(std::forward<Factory>(factory)));
  } else {
    static_assert(std::is_same_v<std::remove_cv_t<Result>, std::remove_cv_t<ReferentOf<H>>>,
                  "the factory must return an object or a handle of the container's kind");
    if constexpr (kHasEmbeddedSlots<H>) {
      return MakeObject<H>(ResultOf<Factory>{std::forward<Factory>(factory)});
    } else {
      return MakeObject<H>(std::invoke(std::forward<Factory>(factory)));
    }
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_STORED_HANDLE_H_
