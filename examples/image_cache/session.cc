// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/session.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "examples/image_cache/memory.h"
#include "weakcache/weakref/ref.h"

namespace image_cache {
namespace {

using ::weakcache::Ref;

// Draws index `i` with a probability in proportion to 1 / (i + 1)^exponent. The standard library's
// distributions would do, but may draw other numbers with another standard library.
class ZipfDistribution {
 public:
  ZipfDistribution(size_t count, double exponent) {
    double sum = 0.0;
    for (size_t i = 0; i < count; ++i) {
      sum += std::pow(static_cast<double>(i + 1), -exponent);
      sums_.push_back(sum);
    }
  }

  size_t operator()(std::mt19937_64& random) const {
    const double share = static_cast<double>(random() >> 11) * 0x1p-53;  // in [0, 1)
    const auto found = std::upper_bound(sums_.begin(), sums_.end() - 1, share * sums_.back());
    return found - sums_.begin();
  }

 private:
  std::vector<double> sums_;
};

class PeakMemory {
 public:
  void Sample() {
    const int64_t bytes = ResidentBytes();
    std::lock_guard<std::mutex> lock(mutex_);
    peak_ = std::max(peak_, bytes);
  }
  int64_t peak() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return peak_;
  }

 private:
  mutable std::mutex mutex_;  // guards peak_
  int64_t peak_ = 0;
};

class Viewer {
 public:
  Viewer(const SessionOptions& options, int number) : on_screen_(options.on_screen) {
    std::seed_seq seed{options.seed, options.seed >> 32, static_cast<uint64_t>(number)};
    random_.seed(seed);
  }

  const std::string& PickNext(const std::vector<std::string>& paths,
                              const ZipfDistribution& popularity) {
    return paths[popularity(random_)];
  }

  void Show(Ref<Image> image) {
    screen_.push_back(std::move(image));
    if (screen_.size() > on_screen_) screen_.pop_front();
  }

  void EmptyScreen() { screen_.clear(); }

 private:
  const size_t on_screen_;
  std::mt19937_64 random_;
  std::deque<Ref<Image>> screen_;
};

}  // namespace

SessionResult ReplaySession(const std::vector<std::string>& paths, const SessionOptions& options,
                            ImageStore& store, const ImageLedger& ledger,
                            const std::function<void()>& after_lookup) {
  const ZipfDistribution popularity(paths.size(), options.zipf);
  std::vector<Viewer> viewers;
  for (int i = 0; i < options.viewers; ++i) viewers.emplace_back(options, i);
  PeakMemory memory;

  const auto start = std::chrono::steady_clock::now();
  const auto is_through = [&](int lookups) {
    if (options.seconds == 0) return lookups == options.lookups;
    return std::chrono::steady_clock::now() - start >= std::chrono::seconds(options.seconds);
  };
  std::atomic<int64_t> lookups = 0;
  const auto look = [&](Viewer& viewer) {
    ++lookups;
    absl::StatusOr<Ref<Image>> image = store.Get(viewer.PickNext(paths, popularity));
    memory.Sample();  // before an older image leaves the screen
    // A file that has gone bad meanwhile is not shown.
    if (image.ok()) viewer.Show(*std::move(image));
    after_lookup();
  };
  if (options.in_turns != 0) {
    for (int i = 0; !is_through(i); ++i) {
      for (Viewer& viewer : viewers) look(viewer);
    }
  } else {
    std::vector<std::jthread> threads;
    for (Viewer& viewer : viewers) {
      threads.emplace_back([&] {
        for (int i = 0; !is_through(i); ++i) look(viewer);
      });
    }
  }
  const auto end = std::chrono::steady_clock::now();
  // Only now: a viewer that is through early goes on showing what it saw last.
  for (Viewer& viewer : viewers) viewer.EmptyScreen();

  SessionResult result;
  result.lookups = lookups;
  result.decodes = ledger.decodes();
  result.hits = result.lookups - result.decodes;
  result.peak_bytes = ledger.peak_bytes();
  result.final_bytes = ledger.live_bytes();
  result.peak_resident_bytes = memory.peak();
  result.final_resident_bytes = ResidentBytes();
  result.most_copies = ledger.most_copies();
  result.time = end - start;
  return result;
}

}  // namespace image_cache
