// SPDX-License-Identifier: Apache-2.0
// What loaders and Put may give. Anything else is one error that says what is accepted.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_ACCEPTED_TYPES_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_ACCEPTED_TYPES_H_

#include <memory>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

template <typename V, typename Object>
inline constexpr bool kIsObject =
    std::is_same_v<Object, std::remove_cv_t<V>> || std::is_convertible_v<Object, Ref<V>>;
template <typename V, typename T, typename Deleter>
inline constexpr bool kIsObject<V, std::unique_ptr<T, Deleter>> =
    std::is_convertible_v<typename std::unique_ptr<T, Deleter>::pointer, V*>;

template <typename V, typename Object>
inline constexpr bool kIsObject<V, Loaded<Object>> = kIsObject<V, Object>;

template <typename V, typename Result>
inline constexpr bool kIsLoadResult = kIsObject<V, Result> || std::is_same_v<Result, absl::Status>;
template <typename V, typename Result>
inline constexpr bool kIsLoadResult<V, absl::StatusOr<Result>> = kIsObject<V, Result>;

template <typename V, typename Results>
inline constexpr bool kIsBulkResult = false;
template <typename V, typename Result, typename Allocator>
inline constexpr bool kIsBulkResult<V, std::vector<Result, Allocator>> = kIsLoadResult<V, Result>;
template <typename V, typename Results>
inline constexpr bool kIsBulkResult<V, absl::StatusOr<Results>> = kIsBulkResult<V, Results>;

// Each returns whether its arguments are accepted; if not, nothing else need be compiled.

template <typename V, typename Result>
constexpr bool CheckLoadResult() {
  constexpr bool kIsAccepted = kIsLoadResult<V, std::remove_cvref_t<Result>>;
  static_assert(kIsAccepted,
                "the loader must return a V, a std::unique_ptr or a Ref to one, a Loaded of any "
                "of these, an absl::StatusOr of any of all these, or an absl::Status");
  return kIsAccepted;
}

template <typename V, typename K, typename Loader>
constexpr bool CheckLoader() {
  constexpr bool kTakesKey = std::is_invocable_v<Loader, const K&>;
  constexpr bool kIsCallable =
      kTakesStopToken<Loader, K> || kTakesKey || std::is_invocable_v<Loader>;
  static_assert(kIsCallable,
                "the loader must take the key, as a const K&, or nothing, and perhaps a "
                "std::stop_token after it");
  if constexpr (kTakesStopToken<Loader, K>) {
    using Stoppable = StoppableLoader<K, Loader>;
    return CheckLoadResult<V, std::invoke_result_t<Stoppable&, const K&>>();
  } else if constexpr (kTakesKey) {
    return CheckLoadResult<V, std::invoke_result_t<Loader, const K&>>();
  } else if constexpr (kIsCallable) {
    return CheckLoadResult<V, std::invoke_result_t<Loader>>();
  } else {
    return false;
  }
}

// What a bulk loader returns.
template <typename Loader, typename K, bool kTakesToken>
struct BulkResultImpl {
  using type = std::invoke_result_t<Loader&, const std::vector<K>&>;
};
template <typename Loader, typename K>
struct BulkResultImpl<Loader, K, true> {
  using type = std::invoke_result_t<Loader&, const std::vector<K>&, StopToken>;
};

template <typename V, typename K, typename Loader>
constexpr bool CheckBulkLoader() {
  constexpr bool kTakesToken = kTakesKeyAndStopToken<Loader&, std::vector<K>>;
  constexpr bool kIsCallable = kTakesToken || std::is_invocable_v<Loader&, const std::vector<K>&>;
  static_assert(kIsCallable,
                "the bulk loader must take a const std::vector<K>&, and perhaps a std::stop_token");
  if constexpr (kIsCallable) {
    using Result = typename BulkResultImpl<Loader, K, kTakesToken>::type;
    constexpr bool kIsAccepted = kIsBulkResult<V, std::remove_cvref_t<Result>>;
    static_assert(kIsAccepted,
                  "the bulk loader must return a std::vector of what a loader may return, or an "
                  "absl::StatusOr of that");
    return kIsAccepted;
  } else {
    return false;
  }
}

// `Object` is the type of a forwarding reference.
template <typename V, typename Object>
constexpr bool CheckPut() {
  using Bare = std::remove_cvref_t<Object>;
  constexpr bool kIsAccepted =
      kIsObject<V, Bare> && (std::is_convertible_v<Bare, Ref<V>> || std::is_same_v<Object, Bare>);
  static_assert(
      kIsAccepted,
      "Put takes a Ref, or by rvalue a V, a std::unique_ptr to one or a Loaded of any of these: "
      "move the object, or copy it yourself");
  return kIsAccepted;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_ACCEPTED_TYPES_H_
