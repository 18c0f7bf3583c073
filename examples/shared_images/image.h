// SPDX-License-Identifier: Apache-2.0
// Images that take their time to decode, where they come from, and how a second tier keeps them.
#ifndef WEAKCACHE_EXAMPLES_SHARED_IMAGES_IMAGE_H_
#define WEAKCACHE_EXAMPLES_SHARED_IMAGES_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/codec.h"

namespace shared_images {

struct Image {
  size_t byte_size() const { return sizeof(Image) + pixels.size(); }

  uint32_t version = 0;
  std::string pixels = {};
};

// A folder in which each image that has been changed has a file with its version.
class Source {
 public:
  explicit Source(std::string folder) : folder_(std::move(folder)) {}

  // Returns the image as it is now, after some milliseconds.
  absl::StatusOr<Image> Decode(int number) const;
  // Changes an image, for all processes; returns its new version.
  uint32_t Change(int number) const;

 private:
  std::string Path(int number) const { return folder_ + "/" + std::to_string(number); }
  uint32_t Version(int number) const;

  const std::string folder_;
};

// The version, then the pixels.
class ImageCodec final : public weakcache::Codec<Image> {
 public:
  uint32_t schema() const override { return 1; }
  absl::Status Encode(const Image& image, weakcache::ByteSink& sink) const override;
  absl::StatusOr<Image> Decode(std::string_view bytes) const override;
};

}  // namespace shared_images

#endif  // WEAKCACHE_EXAMPLES_SHARED_IMAGES_IMAGE_H_
