#include "examples/image_cache_stores.h"

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

}  // namespace image_cache
