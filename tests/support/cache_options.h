// SPDX-License-Identifier: Apache-2.0
// Options of a LargeObjectCache for tests.
#ifndef WEAKCACHE_TESTS_SUPPORT_CACHE_OPTIONS_H_
#define WEAKCACHE_TESTS_SUPPORT_CACHE_OPTIONS_H_

#include <cstdint>

namespace weakcache::testing {

// Returns options with a budget, in which objects have the weights that the test gives them.
template <typename Cache>
typename Cache::Options WithBudget(uint64_t budget_bytes) {
  typename Cache::Options options;
  options.budget_bytes = budget_bytes;
  options.count_entry_memory = false;
  return options;
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_CACHE_OPTIONS_H_
