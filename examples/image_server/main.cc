// SPDX-License-Identifier: Apache-2.0
// Serves images over HTTP, scaled as a request wants them, from two caches:
//
//   ./bazelw run //examples:image_server [-- [--port=PORT] [PATH]...]

#include <httplib.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "examples/image_cache/files.h"
#include "examples/image_server/image_server.h"

namespace image_server {
namespace {

constexpr int kNothingToServe = 1;
constexpr int kBadUsage = 2;
constexpr char kUsage[] =
    "image_server [--port=PORT] [PATH]...\n"
    "Serves PNG and JPEG files, and those in folders, at http://localhost:PORT/ (8080).\n";

struct Arguments {
  int port = 8080;  // 0: any free one
  std::vector<std::string> paths;
};

// Returns false if one is bad.
bool Parse(const std::vector<std::string>& words, Arguments& arguments) {
  constexpr std::string_view kPort = "--port=";
  for (const std::string& word : words) {
    if (word.starts_with(kPort)) {
      const char* const end = word.data() + word.size();
      const auto [rest, error] = std::from_chars(word.data() + kPort.size(), end, arguments.port);
      if (error != std::errc() || rest != end || arguments.port < 0 || arguments.port > 65535) {
        return false;
      }
    } else if (word.starts_with("--")) {
      return false;
    } else {
      arguments.paths.push_back(word);
    }
  }
  return true;
}

// Paths mean what they mean where the user typed them: `bazel run` starts the program elsewhere.
void FindPaths(Arguments& arguments) {
  if (arguments.paths.empty()) {
    arguments.paths = {"examples/image_cache/images"};
  } else if (const char* directory = std::getenv("BUILD_WORKING_DIRECTORY")) {
    std::error_code ignored;
    std::filesystem::current_path(directory, ignored);
  }
}

int Run(const std::vector<std::string>& words) {
  Arguments arguments;
  if (!Parse(words, arguments)) {
    std::cerr << kUsage;
    return kBadUsage;
  }
  FindPaths(arguments);
  image_cache::FoundFiles found = image_cache::FindImageFiles(arguments.paths);
  for (const std::string& problem : found.problems) std::cerr << problem << '\n';
  if (found.paths.empty()) return kNothingToServe;

  ImageServer images({.paths = std::move(found.paths)});
  httplib::Server server;
  images.Register(server);
  const std::string host = "localhost";
  const bool bound = arguments.port == 0 ? (arguments.port = server.bind_to_any_port(host)) > 0
                                         : server.bind_to_port(host, arguments.port);
  if (!bound) {
    std::cerr << "port " << arguments.port << " is not to be had\n";
    return kNothingToServe;
  }
  std::cout << "http://" << host << ":" << arguments.port << "/" << std::endl;
  return server.listen_after_bind() ? 0 : kNothingToServe;
}

}  // namespace
}  // namespace image_server

int main(int argc, char** argv) {
  return image_server::Run(std::vector<std::string>(argv + 1, argv + argc));
}
