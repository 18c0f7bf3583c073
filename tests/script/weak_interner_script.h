// SPDX-License-Identifier: Apache-2.0
// Scripts of WeakInterners.
#ifndef WEAKCACHE_TESTS_SCRIPT_WEAK_INTERNER_SCRIPT_H_
#define WEAKCACHE_TESTS_SCRIPT_WEAK_INTERNER_SCRIPT_H_

#include <cstddef>
#include <cstdint>

#include "tests/script/script.h"

namespace weakcache::testing {

ScriptResult RunWeakInternerScript(const uint8_t* data, size_t size, bool trace);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SCRIPT_WEAK_INTERNER_SCRIPT_H_
