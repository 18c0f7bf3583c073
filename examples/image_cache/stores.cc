// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/stores.h"

#include "absl/strings/str_format.h"

namespace image_cache {

absl::StatusOr<weakcache::Ref<Image>> MapStore::Get(const std::string& path) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (weakcache::Ref<Image> image = Find(path)) return image;
    if (being_decoded_.insert(path).second) break;
    decoded_.wait(lock);
  }
  lock.unlock();

  absl::StatusOr<weakcache::Ref<Image>> image = decode_(path);

  lock.lock();
  if (image.ok()) Insert(path, *image);
  being_decoded_.erase(path);
  lock.unlock();
  decoded_.notify_all();
  return image;
}

namespace {

weakcache::LargeObjectCache<std::string, Image> MakeCache(uint64_t budget_bytes) {
  weakcache::LargeObjectCache<std::string, Image>::Options options;
  options.budget_bytes = budget_bytes;
  options.weigher = [](const Image& image) { return static_cast<uint64_t>(image.bytes()); };
  // Nothing is wrong with these options.
  return *weakcache::LargeObjectCache<std::string, Image>::Create(std::move(options));
}

}  // namespace

CacheStore::CacheStore(ImageDecoder decode, uint64_t budget_bytes)
    : decode_(std::move(decode)), images_(MakeCache(budget_bytes)) {}

std::string CacheStore::Details() const {
  const weakcache::CacheStats stats = images_.Stats();
  return absl::StrFormat(
      "The images may take %.1f MB, those on a screen included. It found %d images that it had let "
      "go, because a viewer still showed them: an LRU would have decoded each of these again, "
      "beside "
      "the copy on the screen.\n\n%s",
      images_.budget_bytes() / 1e6, stats.weak_hits, stats.ToText());
}

}  // namespace image_cache
