// SPDX-License-Identifier: Apache-2.0
// What a loader may return, and what becomes of it: an object that the cache's table takes over, or
// a reference to one that was there before.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_OUTCOME_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_OUTCOME_H_

#include <cxxabi.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// What a load came to, for all that wait for it.
template <typename V>
struct LoadOutcome {
  void SetCircular(const std::string& circle) {
    status = absl::FailedPreconditionError("loaders wait for each other's keys: " + circle);
  }

  Ref<V> object;
  absl::Status status;
  std::exception_ptr error = nullptr;
};

// Calls a loader that takes the key, or nothing.
template <typename Loader, typename K>
decltype(auto) CallLoader(Loader&& loader, const K& key) {
  if constexpr (std::is_invocable_v<Loader, const K&>) {
    return std::invoke(std::forward<Loader>(loader), key);
  } else {
    return std::invoke(std::forward<Loader>(loader));
  }
}

// Returns `function()`, or `on_error()` if that throws. A thread that is cancelled or exits inside
// ends: what libstdc++ throws for that must not be kept from its way. (It is no object, and its
// reference is null, which UndefinedBehaviorSanitizer would report here.)
template <typename Function, typename OnError>
__attribute__((no_sanitize("null"))) auto CatchErrors(Function&& function, OnError&& on_error) {
#ifdef __cpp_exceptions
  try {
    return function();
#ifdef __GLIBCXX__
  } catch (abi::__forced_unwind&) {
    throw;
#endif
  } catch (...) {
    return on_error();
  }
#else
  static_cast<void>(on_error);
  return function();
#endif
}

template <typename T>
inline constexpr bool kIsStatusOr = false;
template <typename T>
inline constexpr bool kIsStatusOr<absl::StatusOr<T>> = true;
template <typename T>
inline constexpr bool kIsUniquePtr = false;
template <typename T, typename Deleter>
inline constexpr bool kIsUniquePtr<std::unique_ptr<T, Deleter>> = true;

// An object of the table's own, as MakeObject makes it.
template <typename V>
using Owned = std::unique_ptr<std::remove_cv_t<V>, ObjectDiscarder<std::remove_cv_t<V>>>;

// Whether `delete object` runs a function of the object's class, of any of the forms that there
// are.
template <typename T, typename... Arguments>
concept HasDelete = requires(T* object, Arguments... arguments) {
  T::operator delete(object, arguments...);
};
template <typename T, typename... First>
inline constexpr bool kHasSizedDelete =
    HasDelete<T, First...> || HasDelete<T, First..., size_t> ||
    HasDelete<T, First..., std::align_val_t> || HasDelete<T, First..., size_t, std::align_val_t>;
template <typename T>
inline constexpr bool kHasOwnDelete =
    kHasSizedDelete<T> || kHasSizedDelete<T, std::destroying_delete_t>;

// Whether std::default_delete<T> is the standard's own, and not a specialisation. Only the
// standard's own can be made from the default_delete of a derived class. False for some types for
// which it is true: those that no class is derived from.
template <typename T>
struct IsDefaultDeleteStandard : std::false_type {};
template <typename T>
requires std::is_class_v<T> &&(!std::is_final_v<T>)struct IsDefaultDeleteStandard<T> {
  struct Derived : T {};
  static constexpr bool value =
      std::is_convertible_v<std::default_delete<Derived>, std::default_delete<T>>;
};

// Whether a unique_ptr's object is as the table would have allocated it, and ends as if the table
// ended it: then the table takes it over with its counts in the slot, and a look-up touches one
// cache line less.
template <typename V, typename Result>
inline constexpr bool kIsTakenOver = false;
template <typename V, typename T>
requires std::is_same_v<std::remove_cv_t<V>, T>
inline constexpr bool kIsTakenOver<V, std::unique_ptr<T>> =
    !kHasOwnDelete<T> && !std::is_polymorphic_v<T> &&
    (std::is_scalar_v<T> || IsDefaultDeleteStandard<T>::value);

// Owned or Ref: what LoadInto<V> makes of a result of this type.
template <typename V, typename Result>
struct MadeOf {
  static constexpr bool kIsReference =
      !kIsTakenOver<V, Result> && (std::is_convertible_v<Result, Ref<V>> || kIsUniquePtr<Result> ||
                                   std::is_same_v<Result, absl::Status>);
  using type = std::conditional_t<kIsReference, Ref<V>, Owned<V>>;
};
template <typename V, typename Result>
struct MadeOf<V, absl::StatusOr<Result>> : MadeOf<V, Result> {};

template <typename V, typename Result>
typename MadeOf<V, Result>::type MakeFrom(Result&& result) {
  if constexpr (kIsTakenOver<V, Result>) {
    return Owned<V>(result.release());
  } else if constexpr (kIsUniquePtr<Result>) {
    return AdoptRef(std::forward<Result>(result));
  } else if constexpr (MadeOf<V, Result>::kIsReference) {
    return std::forward<Result>(result);
  } else {
    return MakeObject<Ref<V>>(std::forward<Result>(result));
  }
}

template <typename H>
bool OwnsObject(const H& made) {
  if constexpr (Handle<H>) {
    return made.get() != nullptr && HandleTraits<H>::Owns(made);
  } else {
    return made != nullptr;
  }
}

// What `load()` makes; an error if it says so, or if it gives nothing. `load` returns a V, a
// std::unique_ptr or a Ref to one, an absl::StatusOr of any of them, or an absl::Status.
template <typename V, typename Load, typename Made>
absl::Status LoadInto(Load&& load, Made& made) {
  using Result = std::remove_cvref_t<std::invoke_result_t<Load>>;
  if constexpr (std::is_same_v<Result, absl::Status>) {
    absl::Status status = load();
    if (!status.ok()) return status;
  } else if constexpr (kIsStatusOr<Result>) {
    Result result = load();
    if (!result.ok()) return std::move(result).status();
    made = MakeFrom<V>(*std::move(result));
  } else if constexpr (MadeOf<V, Result>::kIsReference || kIsTakenOver<V, Result>) {
    made = MakeFrom<V>(Result(load()));
  } else {
    static_assert(std::is_same_v<Result, std::remove_cv_t<V>>,
                  "the loader must return an object, a unique_ptr or Ref to one, or a status");
    made = MakeObjectBy<Ref<V>>(std::forward<Load>(load));
  }
  if (!OwnsObject(made)) return absl::InternalError("the loader gave no object");
  return absl::OkStatus();
}

// The only reference to an object that was made for a table and is not entered there.
template <typename V>
Ref<V> AsRef(Ref<V>&& made) {
  return std::move(made);
}
template <typename V, typename T, typename Deleter>
Ref<V> AsRef(std::unique_ptr<T, Deleter>&& made) {
  return AdoptRef(std::move(made));
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_OUTCOME_H_
