// SPDX-License-Identifier: Apache-2.0
#include "examples/shared_images/image.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shared_images {
namespace {

constexpr size_t kPixelBytes = 256 * 256 * 4;
constexpr int kPasses = 16;  // some milliseconds, as a photograph takes

}  // namespace

absl::StatusOr<Image> Source::Decode(int number) const {
  Image image{.version = Version(number), .pixels = std::string(kPixelBytes, '\0')};
  uint32_t state = static_cast<uint32_t>(number) * 2654435761u + image.version;
  for (int pass = 0; pass < kPasses; ++pass) {
    for (char& byte : image.pixels) {
      state = state * 1664525u + 1013904223u;
      // Neighbours are like each other, so that the tier has something to compress.
      byte = static_cast<char>(byte / 2 + (state >> 28));
    }
  }
  return image;
}

uint32_t Source::Version(int number) const {
  uint32_t version = 1;
  std::ifstream(Path(number)) >> version;
  return version == 0 ? 1 : version;
}

uint32_t Source::Change(int number) const {
  const uint32_t version = Version(number) + 1;
  const std::string path = Path(number);
  std::ofstream(path + ".new") << version;
  std::filesystem::rename(path + ".new", path);  // nobody sees half a file
  return version;
}

absl::Status ImageCodec::Encode(const Image& image, weakcache::ByteSink& sink) const {
  sink.Reserve(sizeof(image.version) + image.pixels.size());
  sink.Append(
      std::string_view(reinterpret_cast<const char*>(&image.version), sizeof(image.version)));
  sink.Append(image.pixels);
  return absl::OkStatus();
}

absl::StatusOr<Image> ImageCodec::Decode(std::string_view bytes) const {
  Image image;
  if (bytes.size() != sizeof(image.version) + kPixelBytes) {
    return absl::DataLossError("not the size of an image");
  }
  std::memcpy(&image.version, bytes.data(), sizeof(image.version));
  image.pixels = bytes.substr(sizeof(image.version));
  return image;
}

}  // namespace shared_images
