// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/stores.h"

#include "absl/strings/str_format.h"

namespace image_cache {

absl::StatusOr<weakcache::Ref<Image>> MapStore::Get(const std::string& path) {
  std::vector<weakcache::Ref<Image>> dropped;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (weakcache::Ref<Image> image = Find(path)) return image;
    if (being_decoded_.insert(path).second) break;
    decoded_.wait(lock);
  }
  lock.unlock();

  absl::StatusOr<weakcache::Ref<Image>> image = decode_(path);

  lock.lock();
  if (image.ok()) Insert(path, *image, dropped);
  being_decoded_.erase(path);
  lock.unlock();
  decoded_.notify_all();
  return image;
}

weakcache::Ref<Image> LruStore::Find(const std::string& path) {
  const auto found = index_.find(path);
  if (found == index_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->image;
}

void LruStore::Insert(const std::string& path, const weakcache::Ref<Image>& image,
                      std::vector<weakcache::Ref<Image>>& dropped) {
  entries_.push_front({path, image});
  index_[path] = entries_.begin();
  bytes_ += static_cast<uint64_t>(image->bytes());
  while (bytes_ > budget_bytes_) {
    Entry& oldest = entries_.back();
    bytes_ -= static_cast<uint64_t>(oldest.image->bytes());
    index_.erase(oldest.path);
    dropped.push_back(std::move(oldest.image));
    entries_.pop_back();
  }
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
