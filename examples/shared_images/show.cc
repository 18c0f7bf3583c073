// SPDX-License-Identifier: Apache-2.0
#include "examples/shared_images/show.h"

#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "examples/shared_images/process.h"
#include "examples/shared_images/worker.h"

namespace shared_images {
namespace {

constexpr int kChangedImage = 0;  // the one that is shown most

// A folder that goes with this object. Its path is short, as a socket's has to be.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/shared_images.XXXXXX";
};

class Demonstration {
 public:
  Demonstration(const ShowOptions& options, std::string folder, std::ostream& out)
      : options_(options), out_(out), folder_(std::move(folder)), server_(folder_ + "/server") {
    std::filesystem::create_directory(folder_ + "/images");
  }

  absl::StatusOr<Report> Run() {
    CountDifferentImages();
    {
      std::vector<Worker> workers = StartWorkers("");
      report_.decodes_without_tier = ShowImages(workers);
    }
    Say("without a tier:        ", report_.decodes_without_tier, " decodes");

    if (!server_.Start()) return absl::UnavailableError("redis-server does not answer");
    std::vector<Worker> workers = StartWorkers(server_.socket());
    report_.decodes_with_tier = ShowImages(workers);
    Say("with a tier on Redis:  ", report_.decodes_with_tier, " decodes");
    report_.change_seen = ChangeImage(workers, 2);
    Say("a change:              seen by all others within ", report_.change_seen);

    server_.Kill();
    TellAll(workers, "lose");
    report_.decodes_without_server = ShowImages(workers);
    Say("server killed:         ", report_.decodes_without_server, " decodes, ", report_.failures,
        " failures");
    if (!server_.Start()) return absl::UnavailableError("redis-server does not come back");
    TellAll(workers, "reconnect");
    report_.change_seen_after = ChangeImage(workers, 3);
    Say("server back, a change: seen by all others within ", report_.change_seen_after);
    if (failed_) return absl::InternalError("a process has ended, or has not seen a change");
    return report_;
  }

 private:
  template <typename... Parts>
  void Say(const Parts&... parts) {
    (out_ << ... << parts) << std::endl;
  }

  uint32_t Seed(size_t process) const { return static_cast<uint32_t>(process) + 1; }

  void CountDifferentImages() {
    std::set<int> numbers;
    for (size_t i = 0; i < static_cast<size_t>(options_.processes); ++i) {
      for (const int number : ImagesToShow(options_.images, options_.shown, Seed(i))) {
        numbers.insert(number);
      }
    }
    report_.different_images = static_cast<int>(numbers.size());
    Say(options_.processes, " processes show ", options_.shown, " images each, of which ",
        numbers.size(), " are different");
  }

  std::vector<Worker> StartWorkers(const std::string& socket) {
    const WorkerOptions options{
        .images = options_.images, .folder = folder_ + "/images", .socket = socket};
    std::vector<Worker> workers;
    for (int i = 0; i < options_.processes; ++i) {
      workers.emplace_back([&](Lines& lines) { RunWorker(options, lines); });
    }
    for (Worker& worker : workers) Answer(worker);
    return workers;
  }

  void TellAll(std::vector<Worker>& workers, const char* command) {
    for (Worker& worker : workers) worker.lines().Send(command);
    for (Worker& worker : workers) Answer(worker);
  }

  // Returns the first number of a worker's answer.
  int64_t Answer(Worker& worker, int64_t* second = nullptr) {
    const std::optional<std::string> line = worker.lines().Receive();
    if (!line.has_value() || *line == "0") failed_ = true;
    std::istringstream words(line.value_or(""));
    int64_t first = 0;
    words >> first;
    if (second != nullptr) words >> *second;
    return first;
  }

  // Has all of them show their images at the same time; returns how many they have decoded.
  int ShowImages(std::vector<Worker>& workers) {
    for (size_t i = 0; i < workers.size(); ++i) {
      workers[i].lines().Send("show " + std::to_string(Seed(i)) + ' ' +
                              std::to_string(options_.shown));
    }
    int decodes = 0;
    for (Worker& worker : workers) {
      int64_t failures = 0;
      decodes += static_cast<int>(Answer(worker, &failures));
      report_.failures += static_cast<int>(failures);
    }
    return decodes;
  }

  // Has one of them change an image that the others have; returns how long they take to show it.
  absl::Duration ChangeImage(std::vector<Worker>& workers, uint32_t version) {
    const std::string number = std::to_string(kChangedImage);
    for (size_t i = 1; i < workers.size(); ++i) {
      workers[i].lines().Send("await " + number + ' ' + std::to_string(version - 1));
      Answer(workers[i]);
      workers[i].lines().Send("await " + number + ' ' + std::to_string(version));
    }
    workers[0].lines().Send("change " + number);
    const int64_t changed = Answer(workers[0]);
    int64_t seen = changed;
    for (size_t i = 1; i < workers.size(); ++i) seen = std::max(seen, Answer(workers[i]));
    return absl::Nanoseconds(seen - changed);
  }

  const ShowOptions options_;
  std::ostream& out_;
  const std::string folder_;
  RedisServer server_;
  Report report_;
  bool failed_ = false;
};

}  // namespace

absl::StatusOr<Report> Show(const ShowOptions& options, std::ostream& out) {
  const TemporaryFolder folder;
  if (folder.path().empty()) return absl::UnavailableError("no temporary folder");
  return Demonstration(options, folder.path(), out).Run();
}

}  // namespace shared_images
