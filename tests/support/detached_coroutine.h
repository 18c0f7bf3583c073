// SPDX-License-Identifier: Apache-2.0
// The least that a coroutine can be. Include it only where the language has coroutines.
#ifndef WEAKCACHE_TESTS_SUPPORT_DETACHED_COROUTINE_H_
#define WEAKCACHE_TESTS_SUPPORT_DETACHED_COROUTINE_H_

#include <coroutine>
#include <exception>

namespace weakcache::testing {

// Begins at once, and ends by itself.
struct DetachedCoroutine {
  struct promise_type {
    DetachedCoroutine get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_DETACHED_COROUTINE_H_
