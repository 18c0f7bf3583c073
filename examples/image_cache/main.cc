// SPDX-License-Identifier: Apache-2.0
// Replays one viewing session with several ways to cache decoded images, and compares them:
//
//   ./bazelw run //examples:image_cache [-- [OPTION]... [PATH]...]

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "examples/image_cache/files.h"
#include "examples/image_cache/image.h"
#include "examples/image_cache/memory.h"
#include "examples/image_cache/options.h"
#include "examples/image_cache/progress.h"
#include "examples/image_cache/report.h"
#include "examples/image_cache/session.h"
#include "examples/image_cache/stores.h"
#include "weakcache/weakref/ref.h"

namespace image_cache {
namespace {

namespace fs = std::filesystem;

constexpr int kNothingDecoded = 1;
constexpr int kBadUsage = 2;

void Complain(const std::string& line) { std::cerr << "image_cache: " << line << std::endl; }

// The images that come with the example: Bazel puts them beside the program, and starts it with the
// right working directory.
std::string DefaultImages() {
  const fs::path images = "examples/image_cache/images";
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  for (const auto& root : fs::directory_iterator(program.string() + ".runfiles", ignored)) {
    if (fs::is_directory(root.path() / images, ignored)) return (root.path() / images).string();
  }
  return images.string();
}

// `bazel run` starts the program elsewhere, and tells here where the user typed the paths.
void GoWhereTheUserIs() {
  std::error_code error;
  if (const char* directory = std::getenv("BUILD_WORKING_DIRECTORY")) {
    fs::current_path(directory, error);
  }
  if (error) Complain("cannot go to the working directory: " + error.message());
}

struct Images {
  std::vector<std::string> paths;
  int64_t bytes = 0;  // once decoded
};

// Those that can be decoded. Tries each once, so that a bad file is reported once, and no replay
// meets it.
Images FindDecodable(std::vector<std::string> paths) {
  if (paths.empty()) {
    paths.push_back(DefaultImages());
  } else {
    GoWhereTheUserIs();
  }
  const FoundFiles found = FindImageFiles(paths);
  for (const std::string& problem : found.problems) Complain(problem);
  Images images;
  ImageLedger ledger;
  for (const std::string& path : found.paths) {
    const absl::StatusOr<weakcache::Ref<Image>> image = DecodeImage(path, ledger);
    if (image.ok()) {
      images.paths.push_back(path);
      images.bytes += (*image)->bytes();
    } else {
      Complain(path + ": " + std::string(image.status().message()));
    }
  }
  return images;
}

struct StoreKind {
  std::string name;
  std::function<std::unique_ptr<ImageStore>(ImageDecoder)> make;
};

template <typename Store>
std::unique_ptr<ImageStore> Make(ImageDecoder decode) {
  return std::make_unique<Store>(std::move(decode));
}

std::vector<ReportRow> ReplayEach(const std::vector<StoreKind>& kinds, const Images& images,
                                  const SessionOptions& options) {
  using Clock = std::chrono::steady_clock;
  const bool for_some_time = options.seconds > 0;
  // In look-ups or in milliseconds.
  const int64_t steps =
      for_some_time ? int64_t{options.seconds} * 1000 : int64_t{options.viewers} * options.lookups;
  ProgressBar progress(static_cast<int64_t>(kinds.size()) * steps);
  std::vector<ReportRow> rows;
  for (const StoreKind& kind : kinds) {
    ImageLedger ledger;
    const std::unique_ptr<ImageStore> store =
        kind.make([&ledger](const std::string& path) { return DecodeImage(path, ledger); });
    const auto before = static_cast<int64_t>(rows.size()) * steps;
    const Clock::time_point start = Clock::now();
    std::mutex mutex;  // guards samples
    std::vector<Sample> samples;
    const auto after_lookup = [&] {
      {
        const std::lock_guard<std::mutex> lock(mutex);
        samples.push_back({ledger.decodes(), ledger.live_bytes(), ledger.peak_bytes()});
      }
      if (!for_some_time) return progress.Step();
      progress.StepTo(before + (Clock::now() - start) / std::chrono::milliseconds(1));
    };
    SessionResult result = ReplaySession(images.paths, options, *store, ledger, after_lookup);
    rows.push_back({kind.name, result, store->Details(), std::move(samples)});
  }
  return rows;
}

int Run(const std::vector<std::string>& arguments) {
  const absl::StatusOr<Options> options = ParseOptions(arguments);
  if (!options.ok()) {
    Complain(std::string(options.status().message()) + "; --help lists the options");
    return kBadUsage;
  }
  if (options->help) {
    std::cout << UsageText();
    return 0;
  }
  const Images images = FindDecodable(options->paths);
  if (images.paths.empty()) {
    Complain("no image could be decoded");
    return kNothingDecoded;
  }
  const uint64_t budget_bytes = static_cast<uint64_t>(options->budget_mb) * 1'000'000;
  const auto within_budget = [budget_bytes]<typename Store>(std::type_identity<Store>) {
    return [budget_bytes](ImageDecoder decode) -> std::unique_ptr<ImageStore> {
      return std::make_unique<Store>(std::move(decode), budget_bytes);
    };
  };
  const std::vector<StoreKind> kinds = {
      {"no cache", Make<NoStore>},
      {"strong map", Make<StrongMapStore>},
      {"weak map", Make<WeakMapStore>},
      {"LRU", within_budget(std::type_identity<LruStore>())},
      {"large object cache", within_budget(std::type_identity<CacheStore>())}};
  const SessionOptions& session = options->session;
  const std::vector<ReportRow> rows = ReplayEach(kinds, images, session);
  if (options->csv != 0) {
    std::cout << FormatCsv(rows);
    return 0;
  }
  std::cout << FormatReport(rows)
            << absl::StrFormat(
                   "\nImages: %d, %.1f MB once decoded; viewers: %d, each holding the last %d that "
                   "it looked at: the weak map decodes what none of them holds, and keeps nothing "
                   "itself.\n",
                   images.paths.size(), images.bytes / 1e6, session.viewers, session.on_screen);
  return 0;
}

}  // namespace
}  // namespace image_cache

int main(int argc, char** argv) {
  image_cache::ReturnLargeBlocksAtOnce();
  return image_cache::Run(std::vector<std::string>(argv + 1, argv + argc));
}
