// SPDX-License-Identifier: Apache-2.0
// A server of scaled images with two caches, and the two pages that tell how they are doing.
//
//   /                        all images, small
//   /images/NAME?width=W     one of them, as a JPEG file that is W pixels wide
//   /metrics                 the caches' figures, for Prometheus
//   /cachez                  the caches' state, for people
#ifndef WEAKCACHE_EXAMPLES_IMAGE_SERVER_IMAGE_SERVER_H_
#define WEAKCACHE_EXAMPLES_IMAGE_SERVER_IMAGE_SERVER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "examples/image_cache/image.h"
#include "examples/image_server/scaled_image.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace httplib {
class Server;
}  // namespace httplib

namespace image_server {

// What a request asks for.
struct ScaledKey {
  std::string name;
  int width;

  friend bool operator==(const ScaledKey&, const ScaledKey&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const ScaledKey& key) {
    return H::combine(std::move(state), key.name, key.width);
  }
};

struct ServerOptions {
  // Files; each is served under its name without folders.
  std::vector<std::string> paths;
  // What the decoded images may take, and what the scaled ones.
  uint64_t decoded_bytes = 128'000'000;
  uint64_t scaled_bytes = 16'000'000;
  // How many requests may decode at a time: each needs a whole image's memory.
  size_t decoders = 2;
  // How long a request waits for others that decode.
  std::chrono::milliseconds patience = std::chrono::seconds(10);
};

// Thread-safe. A request's own thread decodes and scales what it misses; others that ask for the
// same wait for it.
class ImageServer {
 public:
  explicit ImageServer(const ServerOptions& options);
  ImageServer(const ImageServer&) = delete;
  ImageServer& operator=(const ImageServer&) = delete;

  // Adds the pages to a server, which must not answer requests any more when this is destroyed.
  void Register(httplib::Server& server);

  // Returns NotFound for a name that it does not serve, or what is wrong with the file.
  absl::StatusOr<weakcache::Ref<ScaledImage>> Get(const ScaledKey& key);

  std::string IndexPage() const;
  std::string StatusPages() const;
  std::string Metrics() const;

  const image_cache::ImageLedger& ledger() const { return ledger_; }

 private:
  const std::chrono::milliseconds patience_;
  image_cache::ImageLedger ledger_;  // outlives the images
  std::map<std::string, std::string> paths_by_name_;
  weakcache::LargeObjectCache<std::string, image_cache::Image> decoded_;
  weakcache::LargeObjectCache<ScaledKey, ScaledImage> scaled_;
};

}  // namespace image_server

#endif  // WEAKCACHE_EXAMPLES_IMAGE_SERVER_IMAGE_SERVER_H_
