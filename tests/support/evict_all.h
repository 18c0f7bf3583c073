// SPDX-License-Identifier: Apache-2.0
#ifndef WEAKCACHE_TESTS_SUPPORT_EVICT_ALL_H_
#define WEAKCACHE_TESTS_SUPPORT_EVICT_ALL_H_

#include <cstdint>

namespace weakcache::testing {

// Evicts all objects, also those in use, which Trim leaves alone.
template <typename Cache>
void EvictAll(Cache& cache) {
  const uint64_t budget = cache.budget_bytes();
  cache.SetBudget(0);
  cache.SetBudget(budget);
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_EVICT_ALL_H_
