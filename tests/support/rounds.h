// SPDX-License-Identifier: Apache-2.0
// How long tests that repeat themselves do so: for a moment, or for all the rounds that they have.
#ifndef WEAKCACHE_TESTS_SUPPORT_ROUNDS_H_
#define WEAKCACHE_TESTS_SUPPORT_ROUNDS_H_

#include <cstdlib>
#include <string_view>

namespace weakcache::testing {

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
