#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "tests/script/script.h"
#include "tests/script/weak_value_map_script.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The script has said what is wrong.
  constexpr bool kTrace = false;
  if (!weakcache::testing::RunWeakValueMapScript(data, size, kTrace).failure.empty()) std::abort();
  return 0;
}
