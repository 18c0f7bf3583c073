// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/hit_ratio/synthetic_trace.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace weakcache {
namespace {

// The engine's numbers are the same everywhere; those of std's distributions are not.
using Random = std::mt19937_64;

constexpr uint64_t kFirstKeyOfOnce = 1'000'000;  // of the objects that are requested once

class ZipfLaw {
 public:
  // The k-th of `size` objects in proportion to 1 / k^0.9.
  explicit ZipfLaw(size_t size) : sums_(size) {
    double sum = 0;
    for (size_t rank = 0; rank < size; ++rank) {
      sums_[rank] = sum += std::pow(static_cast<double>(rank + 1), -0.9);
    }
  }
  uint64_t operator()(Random& random) const {
    const double point = static_cast<double>(random() >> 11) * 0x1p-53 * sums_.back();
    return static_cast<uint64_t>(std::upper_bound(sums_.begin(), sums_.end(), point) -
                                 sums_.begin());
  }

 private:
  std::vector<double> sums_;
};

}  // namespace

SyntheticTrace LoopTrace() {
  SyntheticTrace trace{.capacity = 202, .requests = {}};
  for (int round = 0; round < 100; ++round) {
    for (uint64_t key = 0; key < 1011; ++key) trace.requests.push_back({key, 1});
  }
  return trace;
}

SyntheticTrace ShuffledEpochsTrace() {
  SyntheticTrace trace{.capacity = 1000, .requests = {}};
  Random random(1);
  std::vector<uint64_t> keys(3000);
  std::iota(keys.begin(), keys.end(), uint64_t{0});
  for (int epoch = 0; epoch < 20; ++epoch) {
    for (size_t left = keys.size(); left > 1; --left) {
      std::swap(keys[left - 1], keys[random() % left]);
    }
    for (const uint64_t key : keys) trace.requests.push_back({key, 1});
  }
  return trace;
}

SyntheticTrace ScanTrace() {
  SyntheticTrace trace{.capacity = 1000, .requests = {}};
  Random random(2);
  const ZipfLaw law(10'000);
  uint64_t next = kFirstKeyOfOnce;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 5000; ++i) trace.requests.push_back({law(random), 1});
    for (int i = 0; i < 2000; ++i) trace.requests.push_back({next++, 1});
  }
  return trace;
}

SyntheticTrace WorkingSetChangeTrace() {
  SyntheticTrace trace{.capacity = 500, .requests = {}};
  Random random(3);
  const ZipfLaw law(2000);
  for (uint64_t set = 0; set < 5; ++set) {
    for (uint64_t i = 0; i < kRequestsOfWorkingSet; ++i) {
      trace.requests.push_back({set * 2000 + law(random), 1});
    }
  }
  return trace;
}

SyntheticTrace OneHitFloodTrace() {
  SyntheticTrace trace{.capacity = 1000, .requests = {}};
  Random random(4);
  const ZipfLaw law(10'000);
  uint64_t next = kFirstKeyOfOnce;
  for (int i = 0; i < 150'000; ++i) {
    trace.requests.push_back({random() % 3 == 0 ? law(random) : next++, 1});
  }
  return trace;
}

absl::StatusOr<SyntheticTrace> MakeSyntheticTrace(absl::string_view name) {
  if (name == "loop") return LoopTrace();
  if (name == "shuffled_epochs") return ShuffledEpochsTrace();
  if (name == "scan") return ScanTrace();
  if (name == "working_set_change") return WorkingSetChangeTrace();
  if (name == "one_hit_flood") return OneHitFloodTrace();
  return absl::InvalidArgumentError(absl::StrCat("no synthetic trace is called ", name));
}

}  // namespace weakcache
