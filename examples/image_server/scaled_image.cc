// SPDX-License-Identifier: Apache-2.0
#include "examples/image_server/scaled_image.h"

#include <stb/stb_image_resize.h>
#include <stb/stb_image_write.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/status/status.h"

namespace image_server {
namespace {

constexpr int kJpegQuality = 85;

using Pixels = std::vector<unsigned char>;

// Returns the pixels without their last channel, the transparency.
Pixels OnWhite(const Pixels& pixels, int channels) {
  const int colors = channels - 1;
  Pixels opaque;
  opaque.reserve(pixels.size() / static_cast<size_t>(channels) * static_cast<size_t>(colors));
  for (size_t i = 0; i < pixels.size(); i += static_cast<size_t>(channels)) {
    const int alpha = pixels[i + static_cast<size_t>(colors)];
    for (int color = 0; color < colors; ++color) {
      const int value = pixels[i + static_cast<size_t>(color)];
      opaque.push_back(static_cast<unsigned char>((value * alpha + 255 * (255 - alpha)) / 255));
    }
  }
  return opaque;
}

void Append(void* jpeg, void* data, int size) {
  static_cast<std::string*>(jpeg)->append(static_cast<const char*>(data),
                                          static_cast<size_t>(size));
}

}  // namespace

absl::StatusOr<ScaledImage> ScaleImage(const image_cache::Image& image, int width) {
  width = std::min(width, image.width());
  const int height = std::max(1, static_cast<int>(int64_t{image.height()} * width / image.width()));
  int channels = image.channels();
  Pixels pixels(static_cast<size_t>(width) * static_cast<size_t>(height) *
                static_cast<size_t>(channels));
  if (stbir_resize_uint8(image.pixels(), image.width(), image.height(), 0, pixels.data(), width,
                         height, 0, channels) == 0) {
    return absl::InternalError("the image could not be scaled");
  }
  if (channels % 2 == 0) {
    pixels = OnWhite(pixels, channels);
    --channels;
  }
  ScaledImage scaled;
  if (stbi_write_jpg_to_func(Append, &scaled.jpeg, width, height, channels, pixels.data(),
                             kJpegQuality) == 0) {
    return absl::InternalError("the image could not be encoded");
  }
  scaled.jpeg.shrink_to_fit();
  return scaled;
}

}  // namespace image_server
