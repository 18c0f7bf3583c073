// SPDX-License-Identifier: Apache-2.0
// Scripts of two WeakValueMaps.
#ifndef WEAKCACHE_TESTS_SCRIPT_WEAK_VALUE_MAP_SCRIPT_H_
#define WEAKCACHE_TESTS_SCRIPT_WEAK_VALUE_MAP_SCRIPT_H_

#include <cstddef>
#include <cstdint>

#include "tests/script/script.h"

namespace weakcache::testing {

// The first byte chooses the handle: a Ref to a small or to a large object, or a std::shared_ptr.
// The second chooses who makes the objects, the map or the script, and how many hashes there are.
ScriptResult RunWeakValueMapScript(const uint8_t* data, size_t size, bool trace);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SCRIPT_WEAK_VALUE_MAP_SCRIPT_H_
