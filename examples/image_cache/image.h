// SPDX-License-Identifier: Apache-2.0
// A decoded image, and the books on how many of them are in memory.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_IMAGE_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_IMAGE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace image_cache {

class Image;

// Counts decodes, live images and their bytes. Thread-safe; outlives the images that it counts.
class ImageLedger {
 public:
  int64_t decodes() const;
  int64_t live_bytes() const;
  int64_t peak_bytes() const;
  // The most live images of one file that there ever were at a time.
  int most_copies() const;

 private:
  friend class Image;
  friend absl::StatusOr<weakcache::Ref<Image>> DecodeImage(const std::string& path,
                                                           ImageLedger& ledger);

  void CountDecode();
  void CountCopy(const std::string& path, const weakcache::Ref<Image>& image);
  void AddBytes(int64_t bytes);

  mutable std::mutex mutex_;  // guards all that follows
  int64_t decodes_ = 0;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
  int most_copies_ = 0;
  std::unordered_map<std::string, std::vector<weakcache::WeakRef<Image>>> copies_;
};

class Image {
 public:
  struct FreePixels {
    void operator()(unsigned char* pixels) const;
  };
  // As the decoder returns them: rows from the top, no padding, one byte per channel.
  using Pixels = std::unique_ptr<unsigned char[], FreePixels>;

  Image(int width, int height, int channels, Pixels pixels, ImageLedger& ledger);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  int width() const { return width_; }
  int height() const { return height_; }
  int channels() const { return channels_; }  // 1: gray, 3: RGB; one more: transparency
  const unsigned char* pixels() const { return pixels_.get(); }
  int64_t bytes() const { return int64_t{width_} * height_ * channels_; }

 private:
  int width_;
  int height_;
  int channels_;
  Pixels pixels_;
  ImageLedger& ledger_;
};

// Reads a PNG or JPEG file. The message of an error says what is wrong with it, without its name.
absl::StatusOr<weakcache::Ref<Image>> DecodeImage(const std::string& path, ImageLedger& ledger);

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_IMAGE_H_
