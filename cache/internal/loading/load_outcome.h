// SPDX-License-Identifier: Apache-2.0
// What a loader may return, and what becomes of it: an object that the cache's table takes over, or
// a reference to one that was there before.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_OUTCOME_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_OUTCOME_H_

#include <cxxabi.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// The result of a load, for all that wait for it.
template <typename V>
struct LoadOutcome {
  void SetCircular(const std::string& circle) {
    status = absl::FailedPreconditionError("loaders wait for each other's keys: " + circle);
  }

  Ref<V> object;
  absl::Status status;
  std::exception_ptr error = nullptr;
  // Whether the load has failed after its caller had left, or because its loader was asked to stop:
  // that is no failure of the others'.
  bool abandoned = false;
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

// Returns `function()`, or `on_error()` if that throws. A thread that is cancelled or exits in the
// function ends: the exception that libstdc++ throws for that is passed on. (It is no object, and
// its reference is null, which UndefinedBehaviorSanitizer would report here.)
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

// Throws again what CatchErrors has caught. For use in its `on_error`.
[[noreturn]] inline void Rethrow() {
#ifdef __cpp_exceptions
  throw;
#else
  std::abort();
#endif
}
// Returns a status without an exception: if there is no memory for the message, without that.
inline absl::Status NoThrowStatus(absl::StatusCode code, std::string_view message) noexcept {
  return CatchErrors(
      [&] {
        return absl::Status(code, {message.data(), message.size()});
      },
      [&] { return absl::Status(code, {}); });
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

// Owned or Ref: what LoadInto<V> makes of a result of this type. A std::unique_ptr's object has to
// end by its deleter. Even std::default_delete may be specialised, which nothing shows for certain,
// so the table can't take over such an object.
template <typename V, typename Result>
struct MadeOf {
  static constexpr bool kIsReference = std::is_convertible_v<Result, Ref<V>> ||
                                       kIsUniquePtr<Result> || std::is_same_v<Result, absl::Status>;
  using type = std::conditional_t<kIsReference, Ref<V>, Owned<V>>;
};
template <typename V, typename Result>
struct MadeOf<V, absl::StatusOr<Result>> : MadeOf<V, Result> {};

template <typename V, typename Object>
struct MadeOf<V, Loaded<Object>> : MadeOf<V, Object> {};

// What is particular to an object, beside the object itself: see Loaded.
struct ObjectTerms {
  bool has_life() const { return expires_after.has_value() || refresh_after.has_value(); }

  std::optional<uint64_t> weight;
  std::optional<absl::Duration> expires_after;
  std::optional<absl::Duration> refresh_after;
  std::optional<absl::Duration> load_time;
  std::optional<uint32_t> group;
  // If not 0, that of the second tier's entry that the object came from: see EntryExtras.
  uint64_t tier_fingerprint = 0;
};

template <typename T>
inline constexpr bool kIsLoaded = false;
template <typename Object>
inline constexpr bool kIsLoaded<Loaded<Object>> = true;

template <typename Result>
ObjectTerms TermsOf(const Result& result) {
  if constexpr (kIsLoaded<Result>) {
    return {result.weight, result.expires_after, result.refresh_after, result.load_time,
            result.group};
  } else {
    return {};
  }
}

template <typename V, typename Result>
typename MadeOf<V, Result>::type MakeFrom(Result&& result) {
  if constexpr (kIsLoaded<Result>) {
    return MakeFrom<V>(std::forward<Result>(result).object);
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

// Moves the object out of what a loader has returned, and its terms. Returns an error if that is
// one, or has no object.
template <typename V, typename Result, typename Made>
absl::Status TakeObject(Result&& result, Made& made, ObjectTerms& terms) {
  static_assert(std::is_rvalue_reference_v<Result&&>);
  if constexpr (std::is_same_v<Result, absl::Status>) {
    if (!result.ok()) return std::forward<Result>(result);
  } else if constexpr (kIsStatusOr<Result>) {
    if (!result.ok()) return std::forward<Result>(result).status();
    terms = TermsOf(*result);
    made = MakeFrom<V>(*std::forward<Result>(result));
  } else {
    terms = TermsOf(result);
    made = MakeFrom<V>(std::forward<Result>(result));
  }
  if (!OwnsObject(made)) return absl::InternalError("the loader gave no object");
  return absl::OkStatus();
}

// Keeps what a loader has returned, after the object has been moved out of it: what is left has a
// destructor of the user's, too. Declare it before flights and permits, so that it is destroyed
// after they have ended. (A V that is returned as such is constructed where it stays.)
template <typename V, typename Result>
class LoaderResult {
 public:
  LoaderResult() {}
  LoaderResult(const LoaderResult&) = delete;
  LoaderResult& operator=(const LoaderResult&) = delete;
  ~LoaderResult() {
    if (has_result_) std::destroy_at(std::addressof(result_));
  }

  template <typename Load>
  Result& Emplace(Load&& load) {
    ::new (static_cast<void*>(std::addressof(result_))) Result(std::forward<Load>(load)());
    has_result_ = true;
    return result_;
  }

 private:
  union {
    Result result_;
  };
  bool has_result_ = false;
};
template <typename V>
class LoaderResult<V, std::remove_cv_t<V>> {};

// Makes the object that `load()` returns: a V, a std::unique_ptr or a Ref to one, a Loaded of any
// of them, an absl::StatusOr of any of all these, or an absl::Status. Returns an error if that is
// one, or has no object.
template <typename V, typename Load, typename Made, typename Result>
absl::Status LoadInto(Load&& load, Made& made, ObjectTerms& terms,
                      LoaderResult<V, Result>& result) {
  if constexpr (std::is_same_v<Result, std::remove_cv_t<V>>) {
    made = MakeObjectBy<Ref<V>>(std::forward<Load>(load));
    return absl::OkStatus();
  } else {
    return TakeObject<V, Result>(std::move(result.Emplace(std::forward<Load>(load))), made, terms);
  }
}

// Return the only reference to an object that was made for a table and is not entered there.
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
