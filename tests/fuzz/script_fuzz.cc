// SPDX-License-Identifier: Apache-2.0
// Fuzzes the script of one container: which, the target says (see BUILD).
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "tests/script/large_object_cache_script.h"
#include "tests/script/script.h"
#include "tests/script/weak_interner_script.h"
#include "tests/script/weak_key_map_script.h"
#include "tests/script/weak_set_script.h"
#include "tests/script/weak_value_map_script.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr bool kTrace = false;
  const auto result = weakcache::testing::WEAKCACHE_FUZZED_SCRIPT(data, size, kTrace);
  if (!result.failure.empty()) std::abort();  // the script has said what is wrong
  return 0;
}
