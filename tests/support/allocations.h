// SPDX-License-Identifier: Apache-2.0
// Counts and fails the program's allocations: linking this library replaces operator new and
// delete.
#ifndef WEAKCACHE_TESTS_SUPPORT_ALLOCATIONS_H_
#define WEAKCACHE_TESTS_SUPPORT_ALLOCATIONS_H_

#include <cstddef>
#include <cstdint>
#include <new>

namespace weakcache::testing {

// Bytes and blocks allocated by operator new and not yet given back, on all threads.
int64_t LiveAllocatedBytes();
int64_t LiveAllocations();

// The largest block that this thread has asked operator new for since the last such call.
size_t TakeLargestAllocation();

// This thread's `countdown`-th allocation from now (1: the next) throws std::bad_alloc; 0: none
// does.
void FailAllocation(int64_t countdown);
// Calls the function at each of this thread's allocations from now on, but not at those that it
// makes itself; null: none.
void OnAllocation(void (*function)());
// Runs `operation()` with the k-th allocation in it failing, for k = 1, 2, … until it gets
// through; after each failure runs `check()`. Returns the number of failures.
template <typename Operation, typename Check>
int FailEachAllocation(Operation&& operation, Check&& check) {
  for (int failures = 0;; ++failures) {
    FailAllocation(failures + 1);
    try {
      operation();
      FailAllocation(0);
      return failures;
    } catch (const std::bad_alloc&) {
      FailAllocation(0);
      check();
    }
  }
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_ALLOCATIONS_H_
