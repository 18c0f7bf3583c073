// SPDX-License-Identifier: Apache-2.0
#include "tests/support/soak.h"

#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"

ABSL_FLAG(int64_t, operations, 50'000'000, "on all threads together");
ABSL_FLAG(int, threads, 4, "that use a container at once");
ABSL_FLAG(uint64_t, seed, 1, "of the random choice of operations and keys");
ABSL_FLAG(int64_t, keys, 256, "of which the first are used most");

namespace weakcache::testing {
namespace {

std::atomic<int64_t> errors{0};

}  // namespace

void Expect(bool condition, const char* what) {
  if (condition) return;
  if (errors.fetch_add(1) < 20) std::fprintf(stderr, "wrong: %s\n", what);
}

int SoakThreads() { return absl::GetFlag(FLAGS_threads); }
uint64_t SoakSeed() { return absl::GetFlag(FLAGS_seed); }
int64_t SoakKey(std::mt19937_64& random) {
  static const auto keys = static_cast<uint64_t>(absl::GetFlag(FLAGS_keys));
  return static_cast<int64_t>(random() % (1 + random() % keys));
}

int RunSoak(int argc, char** argv, void (*warm_up)(), void (*soak)(int64_t operations)) {
  absl::ParseCommandLine(argc, argv);
  const int64_t operations = absl::GetFlag(FLAGS_operations);
  if (operations < 1 || absl::GetFlag(FLAGS_threads) < 1 || absl::GetFlag(FLAGS_keys) < 1) {
    std::fprintf(stderr, "--operations, --threads and --keys are at least 1\n");
    return 1;
  }
  std::thread(warm_up).join();
  soak(operations);
  std::printf("%lld errors\n", static_cast<long long>(errors));
  return errors == 0 ? 0 : 1;
}

}  // namespace weakcache::testing
