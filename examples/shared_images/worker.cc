// SPDX-License-Identifier: Apache-2.0
#include "examples/shared_images/worker.h"

#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "examples/shared_images/image.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/redis_tier.h"
#include "weakcache/weakref/ref.h"

namespace shared_images {
namespace {

using Images = weakcache::LargeObjectCache<int, Image>;

int64_t Nanoseconds() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Calls `condition` until it returns true; returns false after that time.
template <typename Condition>
bool WaitUntil(std::chrono::seconds time, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

absl::StatusOr<std::shared_ptr<weakcache::RedisTier>> MakeTier(const std::string& socket) {
  weakcache::RedisTierOptions options;
  options.key_namespace = "shared_images";
  options.address.unix_socket = socket;
  // A machine that is busy with all the decoding answers late.
  options.connect_timeout = absl::Seconds(10);
  options.soft_timeout = absl::Seconds(10);
  options.hard_timeout = absl::Seconds(20);
  options.max_backoff = absl::Milliseconds(500);
  return weakcache::RedisTier::Create(options);
}

class ImageProcess {
 public:
  static absl::StatusOr<std::unique_ptr<ImageProcess>> Create(const WorkerOptions& options) {
    Images::Options cache_options;
    cache_options.budget_bytes = uint64_t{1} << 30;
    std::shared_ptr<weakcache::RedisTier> tier;
    if (!options.socket.empty()) {
      absl::StatusOr<std::shared_ptr<weakcache::RedisTier>> made = MakeTier(options.socket);
      if (!made.ok()) return made.status();
      tier = *std::move(made);
      cache_options.second_tier = tier;
      cache_options.codec = std::make_shared<const ImageCodec>();
    }
    absl::StatusOr<Images> images = Images::Create(std::move(cache_options));
    if (!images.ok()) return images.status();
    return std::unique_ptr<ImageProcess>(
        new ImageProcess(options, std::move(tier), *std::move(images)));
  }

  // Does what a line says, and returns the answer.
  std::string Do(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    int64_t first = 0;
    int64_t second = 0;
    words >> command >> first >> second;
    if (command == "show") return Show(static_cast<uint32_t>(first), static_cast<int>(second));
    if (command == "change") return Change(static_cast<int>(first));
    if (command == "await") return Await(static_cast<int>(first), static_cast<uint32_t>(second));
    if (command == "lose") return LoseConnection();
    if (command == "reconnect") return Reconnect();
    return "no such command";
  }

 private:
  ImageProcess(const WorkerOptions& options, std::shared_ptr<weakcache::RedisTier> tier,
               Images images)
      : options_(options),
        source_(options.folder),
        tier_(std::move(tier)),
        images_(std::move(images)) {}

  absl::StatusOr<weakcache::Ref<Image>> Get(int number) {
    return images_.GetOrLoad(number, [this](int wanted) {
      ++decodes_;
      return source_.Decode(wanted);
    });
  }

  std::string Show(uint32_t seed, int count) {
    const int decodes_before = decodes_;
    int failures = 0;
    for (const int number : ImagesToShow(options_.images, count, seed)) {
      if (!Get(number).ok()) ++failures;
    }
    return std::to_string(decodes_ - decodes_before) + ' ' + std::to_string(failures);
  }

  std::string Change(int number) {
    const int64_t before = Nanoseconds();
    source_.Change(number);
    images_.Invalidate(number);
    return std::to_string(before);
  }

  std::string Await(int number, uint32_t version) {
    const bool seen = WaitUntil(std::chrono::seconds(10), [&] {
      const absl::StatusOr<weakcache::Ref<Image>> image = Get(number);
      return image.ok() && (*image)->version >= version;
    });
    return seen ? std::to_string(Nanoseconds()) : "0";
  }

  // Waits until the cache has dropped what might be old from now on.
  std::string LoseConnection() {
    return WaitUntil(std::chrono::seconds(20),
                     [&] {
                       for (int number = 0; number < options_.images; ++number) {
                         if (images_.Peek(number) != nullptr) return false;
                       }
                       return true;
                     })
               ? "1"
               : "0";
  }

  std::string Reconnect() {
    return WaitUntil(std::chrono::seconds(20),
                     [&] {
                       // The next call tries the server again.
                       Get(0).IgnoreError();
                       return tier_->Stats().condition.empty();
                     })
               ? "1"
               : "0";
  }

  const WorkerOptions options_;
  const Source source_;
  const std::shared_ptr<weakcache::RedisTier> tier_;
  int decodes_ = 0;
  Images images_;
};

}  // namespace

std::vector<int> ImagesToShow(int images, int count, uint32_t seed) {
  std::vector<double> weights;
  for (int i = 0; i < images; ++i) weights.push_back(1.0 / (i + 1));
  std::discrete_distribution<int> zipf(weights.begin(), weights.end());
  std::mt19937 random(seed);
  std::vector<int> numbers;
  for (int i = 0; i < count; ++i) numbers.push_back(zipf(random));
  return numbers;
}

void RunWorker(const WorkerOptions& options, Lines& lines) {
  absl::StatusOr<std::unique_ptr<ImageProcess>> process = ImageProcess::Create(options);
  if (!process.ok()) {
    std::cerr << process.status() << '\n';
    return;
  }
  lines.Send("ready");
  while (const std::optional<std::string> line = lines.Receive()) {
    if (*line == "end") return;
    lines.Send((*process)->Do(*line));
  }
}

}  // namespace shared_images
