// SPDX-License-Identifier: Apache-2.0
// How long tests that repeat themselves do so: for a moment, or for all the rounds that they have.
#ifndef WEAKCACHE_TESTS_SUPPORT_ROUNDS_H_
#define WEAKCACHE_TESTS_SUPPORT_ROUNDS_H_

#include <cstdlib>
#include <string_view>

namespace weakcache::testing {

// Under which sanitizer the test runs, if any. GCC tells by a macro, clang by a feature.
#if defined(__has_feature)
inline constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
inline constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif
#ifdef __SANITIZE_THREAD__
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#endif
// They multiply the time that everything takes, and the size of stack frames.
inline constexpr bool kSanitized = kAddressSanitizer || kThreadSanitizer;

// The one switch: WEAKCACHE_TEST_ROUNDS=all, which `.ci/run nightly` sets.
inline bool AllRounds() {
  const char* const wish = std::getenv("WEAKCACHE_TEST_ROUNDS");
  return wish != nullptr && std::string_view(wish) == "all";
}

// Returns `all`, or a part of it that takes a moment.
template <typename Count>
Count Rounds(Count all, Count part) {
  return AllRounds() ? all : part;
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_ROUNDS_H_
