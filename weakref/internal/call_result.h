// SPDX-License-Identifier: Apache-2.0
// What a call that may not take place returns, for those who call something of the user's at most
// once (finalizers) or only while an object lives (weak bindings).
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
// What an rvalue reference refers to may end with the call: it is moved out.
template <typename Result>
struct CallResultOf<Result&&> {
  using type = std::optional<std::remove_cv_t<Result>>;
};
template <>
struct CallResultOf<void> {
  using type = bool;
};

// False or empty, as its default value: there was no call.
template <typename Function, typename... Arguments>
using CallResult = typename CallResultOf<std::invoke_result_t<Function, Arguments...>>::type;

// Calls, and returns true or the result.
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

// `call` is the public operation that takes the function.
template <typename Function>
void CheckNotNullFunction(const Function& function, const char* call) {
  if constexpr (std::is_pointer_v<Function> || std::is_member_pointer_v<Function>) {
    Check(function != nullptr, call, "the function is null");
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CALL_RESULT_H_
