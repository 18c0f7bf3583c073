// SPDX-License-Identifier: Apache-2.0
// An image as a browser wants it: small, and as a JPEG file.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_SERVER_SCALED_IMAGE_H_
#define WEAKCACHE_EXAMPLES_IMAGE_SERVER_SCALED_IMAGE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "examples/image_cache/image.h"

namespace image_server {

struct ScaledImage {
  std::string jpeg;

  // What the cache weighs it by.
  uint64_t byte_size() const { return jpeg.capacity(); }
};

// Scales an image to a width in pixels, but never beyond its own; the height follows. What is
// transparent becomes white.
absl::StatusOr<ScaledImage> ScaleImage(const image_cache::Image& image, int width);

}  // namespace image_server

#endif  // WEAKCACHE_EXAMPLES_IMAGE_SERVER_SCALED_IMAGE_H_
