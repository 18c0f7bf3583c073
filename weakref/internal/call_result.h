// SPDX-License-Identifier: Apache-2.0
// The result of a call of a user's function that may not take place: a finalizer's, which runs at
// most once, and a weak binding's, which runs only while the object is alive.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CALL_RESULT_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CALL_RESULT_H_

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

template <typename Result>
struct CallResultOf {
  using type = std::optional<std::remove_cv_t<Result>>;
};
template <typename Result>
struct CallResultOf<Result&> {
  using type = std::optional<std::reference_wrapper<Result>>;
};
// The referent of an rvalue reference may end with the call, so the result is moved out.
template <typename Result>
struct CallResultOf<Result&&> {
  using type = std::optional<std::remove_cv_t<Result>>;
};
template <>
struct CallResultOf<void> {
  using type = bool;
};

// The result of such a call. Its default value, false or empty, says that there was no call.
template <typename Function, typename... Arguments>
using CallResult = typename CallResultOf<std::invoke_result_t<Function, Arguments...>>::type;

// Calls the function and returns its result, or true if it returns nothing.
template <typename Function, typename... Arguments>
CallResult<Function, Arguments...> CallForResult(Function&& function, Arguments&&... arguments) {
  if constexpr (std::is_void_v<std::invoke_result_t<Function, Arguments...>>) {
    std::invoke(std::forward<Function>(function), std::forward<Arguments>(arguments)...);
    return true;
  } else {
    return CallResult<Function, Arguments...>(
        std::in_place,
        std::invoke(std::forward<Function>(function), std::forward<Arguments>(arguments)...));
  }
}

// Aborts if `function` is a null pointer. `call` names the public operation that takes it.
template <typename Function>
void CheckNotNullFunction(const Function& function, const char* call) {
  if constexpr (std::is_pointer_v<Function> || std::is_member_pointer_v<Function>) {
    Check(function != nullptr, call, "the function is null");
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CALL_RESULT_H_
