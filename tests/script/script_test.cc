// SPDX-License-Identifier: Apache-2.0
// Random operation scripts of each container against its model, see tests/script/script.h.
//
//   WEAKCACHE_SCRIPT_SEED=N  runs the script of that seed only, and prints its operations
//   WEAKCACHE_SCRIPT_SEEDS=N runs so many seeds
#include "tests/script/script.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/script/large_object_cache_script.h"
#include "tests/script/weak_interner_script.h"
#include "tests/script/weak_key_map_script.h"
#include "tests/script/weak_set_script.h"
#include "tests/script/weak_value_map_script.h"
#include "tests/support/rounds.h"

// Of a sanitizer, if there is one; otherwise null.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace weakcache::testing {
namespace {

constexpr uint64_t kAllSeeds = kSanitized ? 1000 : 10'000;
constexpr size_t kScriptBytes = 2800;  // for 300 operations and some more
constexpr int kMinOperations = 300;

uint64_t running_seed = 0;

// For the ends that GoogleTest does not see: a failed CheckInvariantsForTesting(), a sanitizer's
// report.
void PrintSeed() { std::fprintf(stderr, "script: seed %ju\n", uintmax_t{running_seed}); }

void PrintSeedAndAbort(int signal) {
  PrintSeed();
  ::signal(signal, SIG_DFL);
  raise(signal);
}

void PrintSeedOnCrash() {
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(&PrintSeed);
  } else {
    signal(SIGSEGV, &PrintSeedAndAbort);
  }
  signal(SIGABRT, &PrintSeedAndAbort);
}

std::vector<uint8_t> ScriptOfSeed(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(kScriptBytes);
  for (size_t i = 0; i < bytes.size();) {
    uint64_t word = random();
    for (int j = 0; j < 8 && i < bytes.size(); ++j, word >>= 8) {
      bytes[i++] = static_cast<uint8_t>(word);
    }
  }
  return bytes;
}

template <typename RunScript>
void RunSeeds(RunScript run_script) {
  PrintSeedOnCrash();
  const char* const only = std::getenv("WEAKCACHE_SCRIPT_SEED");
  const char* const count = std::getenv("WEAKCACHE_SCRIPT_SEEDS");
  const uint64_t first = only != nullptr ? std::strtoull(only, nullptr, 10) : 1;
  const uint64_t seeds = only != nullptr    ? 1
                         : count != nullptr ? std::strtoull(count, nullptr, 10)
                                            : Rounds(kAllSeeds, kAllSeeds / 4);
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    SCOPED_TRACE("WEAKCACHE_SCRIPT_SEED=" + std::to_string(seed));
    running_seed = seed;
    const std::vector<uint8_t> bytes = ScriptOfSeed(seed);
    const ScriptResult result = run_script(bytes.data(), bytes.size(), only != nullptr);
    ASSERT_EQ(result.failure, "");
    ASSERT_GE(result.operations, kMinOperations);
  }
}

TEST(ScriptTest, LargeObjectCache) { RunSeeds(&RunLargeObjectCacheScript); }
TEST(ScriptTest, WeakInterner) { RunSeeds(&RunWeakInternerScript); }
TEST(ScriptTest, WeakKeyMap) { RunSeeds(&RunWeakKeyMapScript); }
TEST(ScriptTest, WeakSet) { RunSeeds(&RunWeakSetScript); }
TEST(ScriptTest, WeakValueMap) { RunSeeds(&RunWeakValueMapScript); }

}  // namespace
}  // namespace weakcache::testing
