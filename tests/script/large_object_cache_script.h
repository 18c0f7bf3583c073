// SPDX-License-Identifier: Apache-2.0
#ifndef WEAKCACHE_TESTS_SCRIPT_LARGE_OBJECT_CACHE_SCRIPT_H_
#define WEAKCACHE_TESTS_SCRIPT_LARGE_OBJECT_CACHE_SCRIPT_H_

#include <cstddef>
#include <cstdint>

#include "tests/script/script.h"

namespace weakcache::testing {

// Runs a script on a LargeObjectCache with a budget and a hard limit, and compares it after each
// operation with the sums of the weights of what is in use and idle.
ScriptResult RunLargeObjectCacheScript(const uint8_t* data, size_t size, bool trace);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SCRIPT_LARGE_OBJECT_CACHE_SCRIPT_H_
