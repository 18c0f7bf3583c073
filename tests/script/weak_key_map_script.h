// SPDX-License-Identifier: Apache-2.0
// Scripts of WeakKeyMaps, by identity or by value.
#ifndef WEAKCACHE_TESTS_SCRIPT_WEAK_KEY_MAP_SCRIPT_H_
#define WEAKCACHE_TESTS_SCRIPT_WEAK_KEY_MAP_SCRIPT_H_

#include <cstddef>
#include <cstdint>

#include "tests/script/script.h"

namespace weakcache::testing {

ScriptResult RunWeakKeyMapScript(const uint8_t* data, size_t size, bool trace);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SCRIPT_WEAK_KEY_MAP_SCRIPT_H_
