// What a factory may return, made a Ref.
#ifndef WEAKCACHE_CACHE_INTERNAL_CREATED_REF_H_
#define WEAKCACHE_CACHE_INTERNAL_CREATED_REF_H_

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakref/internal/referent_storage.h"
#include "weakref/ref.h"

namespace weakcache::internal {

// `factory()` gives a Ref<V>, or a V, which becomes the referent without a move.
template <typename V, typename Factory>
Ref<V> CreateRef(Factory&& factory) {
  using Result = std::invoke_result_t<Factory>;
  if constexpr (std::is_convertible_v<Result, Ref<V>>) {
    return std::invoke(std::forward<Factory>(factory));
  } else {
    static_assert(std::is_same_v<std::remove_cv_t<Result>, std::remove_cv_t<V>>,
                  "the factory must return a V or a Ref<V>");
    using Allocator = std::allocator<char>;
    return FirstRef<V>(NewBlock<BlockFor<V, Allocator>>(
        Allocator(), ResultOf<Factory>{std::forward<Factory>(factory)}));
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CREATED_REF_H_
