// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/image.h"

#include <stb/stb_image.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/status/status.h"

namespace image_cache {
namespace {

using ::weakcache::MakeRef;
using ::weakcache::Ref;
using ::weakcache::WeakRef;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// stb_image pads a JPEG that was cut off with gray and calls it a success, so this notes whether
// the decoder wanted more than there was.
struct Source {
  std::unique_ptr<std::FILE, CloseFile> file;
  bool too_short = false;
};

int Read(void* user, char* data, int size) {
  Source& source = *static_cast<Source*>(user);
  const size_t count = std::fread(data, 1, size, source.file.get());
  if (count == 0) source.too_short = true;
  return static_cast<int>(count);
}

void Skip(void* user, int count) {
  std::fseek(static_cast<Source*>(user)->file.get(), count, SEEK_CUR);
}

int AtEnd(void* user) { return std::feof(static_cast<Source*>(user)->file.get()); }

constexpr stbi_io_callbacks kReadSource = {Read, Skip, AtEnd};

bool IsPngOrJpeg(std::FILE* file) {
  constexpr unsigned char kPng[] = {0x89, 'P', 'N', 'G'};
  constexpr unsigned char kJpeg[] = {0xff, 0xd8, 0xff};
  unsigned char start[4] = {};
  const size_t count = std::fread(start, 1, sizeof(start), file);
  std::rewind(file);
  return count == sizeof(start) && (std::memcmp(start, kPng, sizeof(kPng)) == 0 ||
                                    std::memcmp(start, kJpeg, sizeof(kJpeg)) == 0);
}

absl::Status CorruptFile(const Source& source) {
  if (source.too_short) return absl::DataLossError("the file ends too early");
  // The reason may quote the file, so it may hold anything.
  std::string reason = stbi_failure_reason();
  std::replace_if(
      reason.begin(), reason.end(), [](unsigned char c) { return !std::isprint(c); }, '?');
  return absl::DataLossError(reason);
}

}  // namespace

int64_t ImageLedger::decodes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return decodes_;
}

int64_t ImageLedger::live_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return live_bytes_;
}

int64_t ImageLedger::peak_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return peak_bytes_;
}

int ImageLedger::most_copies() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return most_copies_;
}

void ImageLedger::CountDecode() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++decodes_;
}

// Asks weak references instead of counting destructors: an image that nobody can reach any more is
// not a live copy, even while the thread that let go of it last is still busy destroying it.
void ImageLedger::CountCopy(const std::string& path, const Ref<Image>& image) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<WeakRef<Image>>& copies = copies_[path];
  std::erase_if(copies, [](const WeakRef<Image>& copy) { return copy.expired(); });
  copies.emplace_back(image);
  most_copies_ = std::max(most_copies_, static_cast<int>(copies.size()));
}

void ImageLedger::AddBytes(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  live_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
}

void Image::FreePixels::operator()(unsigned char* pixels) const { stbi_image_free(pixels); }

Image::Image(int width, int height, int channels, Pixels pixels, ImageLedger& ledger)
    : width_(width),
      height_(height),
      channels_(channels),
      pixels_(std::move(pixels)),
      ledger_(ledger) {
  ledger_.AddBytes(bytes());
}

Image::~Image() {
  pixels_.reset();
  ledger_.AddBytes(-bytes());
}

absl::StatusOr<Ref<Image>> DecodeImage(const std::string& path, ImageLedger& ledger) {
  ledger.CountDecode();
  Source source;
  source.file.reset(std::fopen(path.c_str(), "rb"));
  if (source.file == nullptr) {
    return absl::Status(absl::ErrnoToStatusCode(errno), std::generic_category().message(errno));
  }
  if (!IsPngOrJpeg(source.file.get())) {
    return absl::InvalidArgumentError("neither a PNG nor a JPEG file");
  }
  int width = 0;
  int height = 0;
  int channels = 0;
  Image::Pixels pixels(
      stbi_load_from_callbacks(&kReadSource, &source, &width, &height, &channels, 0));
  if (pixels == nullptr || source.too_short) return CorruptFile(source);
  Ref<Image> image = MakeRef<Image>(width, height, channels, std::move(pixels), ledger);
  ledger.CountCopy(path, image);
  return image;
}

}  // namespace image_cache
