// SPDX-License-Identifier: Apache-2.0
// A loader that is itself asynchronous: it takes a LoadCompletion, and returns nothing.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_COMPLETION_LOADER_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_COMPLETION_LOADER_H_

#include <functional>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/accepted_types.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/load_completion.h"

namespace weakcache::internal {

template <typename Loader, typename K, typename V>
inline constexpr bool kTakesTokenAndCompletion =
    std::is_invocable_v<Loader, const K&, StopToken, LoadCompletion<V>> ||
    std::is_invocable_v<Loader, StopToken, LoadCompletion<V>>;
template <typename Loader, typename K, typename V>
inline constexpr bool kTakesCompletionImpl =
    kTakesTokenAndCompletion<Loader, K, V> ||
    std::is_invocable_v<Loader, const K&, LoadCompletion<V>> ||
    std::is_invocable_v<Loader, LoadCompletion<V>>;
// The other kinds of loaders are tried first, so that a generic parameter is never a completion.
template <typename Loader, typename K>
inline constexpr bool kReturnsResult =
    kTakesStopToken<Loader, K> || std::is_invocable_v<Loader, const K&> ||
    std::is_invocable_v<Loader>;
template <typename Loader, typename K, typename V>
constexpr bool TakesCompletion() {
  if constexpr (kReturnsResult<Loader, K>) {
    return false;
  } else {
    return kTakesCompletionImpl<Loader, K, V>;
  }
}

// Calls such a loader with the arguments that it takes.
template <typename Loader, typename K, typename V>
void CallCompletionLoader(Loader&& loader, const K& key, const StopToken& token,
                          LoadCompletion<V> completion) {
  if constexpr (std::is_invocable_v<Loader, const K&, StopToken, LoadCompletion<V>>) {
    std::invoke(std::forward<Loader>(loader), key, token, std::move(completion));
  } else if constexpr (std::is_invocable_v<Loader, const K&, LoadCompletion<V>>) {
    std::invoke(std::forward<Loader>(loader), key, std::move(completion));
  } else if constexpr (std::is_invocable_v<Loader, StopToken, LoadCompletion<V>>) {
    std::invoke(std::forward<Loader>(loader), token, std::move(completion));
  } else {
    std::invoke(std::forward<Loader>(loader), std::move(completion));
  }
}

// Does the same as CheckLoader for GetOrLoadAsync, which takes loaders of both kinds.
template <typename V, typename K, typename Loader>
constexpr bool CheckAsyncLoader() {
  if constexpr (TakesCompletion<Loader, K, V>()) {
    static_assert(std::is_copy_constructible_v<K>,
                  "a loader that takes a LoadCompletion is for keys that can be copied");
    return std::is_copy_constructible_v<K>;
  } else {
    return CheckLoader<V, K, Loader>();
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_COMPLETION_LOADER_H_
