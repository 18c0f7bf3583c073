// SPDX-License-Identifier: Apache-2.0
// Processes that show the same images, without and with a second tier on a Redis server, which it
// starts itself, kills, and starts again:
//
//   ./bazelw run -c opt //examples:shared_images [-- [--processes=N] [--images=N] [--shown=N]]

#include <charconv>
#include <iostream>
#include <string_view>
#include <system_error>

#include "absl/status/statusor.h"
#include "examples/shared_images/process.h"
#include "examples/shared_images/show.h"

namespace {

constexpr int kFailed = 1;
constexpr int kBadUsage = 2;
constexpr char kUsage[] = "shared_images [--processes=N] [--images=N] [--shown=N]\n";

// Sets the number if the argument names it. Returns false if it does not, or is no number from 2 to
// a million.
bool ParseNumber(std::string_view argument, std::string_view name, int& number) {
  if (!argument.starts_with(name)) return false;
  const char* const end = argument.data() + argument.size();
  const auto [rest, error] = std::from_chars(argument.data() + name.size(), end, number);
  return error == std::errc() && rest == end && number >= 2 && number <= 1000000;
}

}  // namespace

int main(int argc, char** argv) {
  shared_images::ShowOptions options;
  for (int i = 1; i < argc; ++i) {
    if (!ParseNumber(argv[i], "--processes=", options.processes) &&
        !ParseNumber(argv[i], "--images=", options.images) &&
        !ParseNumber(argv[i], "--shown=", options.shown)) {
      std::cerr << kUsage;
      return kBadUsage;
    }
  }
  if (!shared_images::RedisServer::IsInstalled()) {
    std::cerr << "There is no redis-server (Debian: apt-get install redis-server).\n";
    return kFailed;
  }
  const absl::StatusOr<shared_images::Report> report = shared_images::Show(options, std::cout);
  if (!report.ok()) {
    std::cerr << report.status() << '\n';
    return kFailed;
  }
  return 0;
}
