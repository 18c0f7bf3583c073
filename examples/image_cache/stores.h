// SPDX-License-Identifier: Apache-2.0
// Ways to keep decoded images: the part of this example that is worth copying.
//
// A store is asked for an image by its path, by several threads at once. Whoever holds the `Ref` it
// gets keeps that image alive; what the store itself keeps alive is what the stores differ in.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_STORES_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_STORES_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "examples/image_cache/image.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/ref.h"

namespace image_cache {

// Slow, thread-safe, and reports failure by its status: never by an exception.
using ImageDecoder = std::function<absl::StatusOr<weakcache::Ref<Image>>(const std::string& path)>;

// Thread-safe.
class ImageStore {
 public:
  virtual ~ImageStore() = default;
  virtual absl::StatusOr<weakcache::Ref<Image>> Get(const std::string& path) = 0;
  // What there is to tell about the store beside what it decoded and kept.
  virtual std::string Details() const { return ""; }
};

// Decodes every time, and keeps nothing.
class NoStore final : public ImageStore {
 public:
  explicit NoStore(ImageDecoder decode) : decode_(std::move(decode)) {}

  absl::StatusOr<weakcache::Ref<Image>> Get(const std::string& path) override {
    return decode_(path);
  }

 private:
  ImageDecoder decode_;
};

// A map behind a mutex that decodes outside of it: a hit never waits for a decode, and of several
// threads that miss one image, one decodes it and the others wait for that.
class MapStore : public ImageStore {
 public:
  explicit MapStore(ImageDecoder decode) : decode_(std::move(decode)) {}

  absl::StatusOr<weakcache::Ref<Image>> Get(const std::string& path) final;

 private:
  // Both are called under the mutex, so neither may drop the last reference to an image: freeing it
  // takes long, and a destructor that came back to this store would deadlock. What Insert() lets go
  // of is moved to `dropped`, which is destroyed after the unlock.
  virtual weakcache::Ref<Image> Find(const std::string& path) = 0;
  virtual void Insert(const std::string& path, const weakcache::Ref<Image>& image,
                      std::vector<weakcache::Ref<Image>>& dropped) = 0;

  const ImageDecoder decode_;
  std::mutex mutex_;  // guards being_decoded_ and what Find() and Insert() use
  std::condition_variable decoded_;
  std::unordered_set<std::string> being_decoded_;
};

// Keeps every image for as long as the store lives.
class StrongMapStore final : public MapStore {
 public:
  using MapStore::MapStore;

 private:
  weakcache::Ref<Image> Find(const std::string& path) override {
    const auto found = images_.find(path);
    return found == images_.end() ? weakcache::Ref<Image>() : found->second;
  }
  void Insert(const std::string& path, const weakcache::Ref<Image>& image,
              std::vector<weakcache::Ref<Image>>& /*dropped*/) override {
    images_.emplace(path, image);
  }

  std::unordered_map<std::string, weakcache::Ref<Image>> images_;
};

// Finds every image that somebody still uses, and keeps none alive.
class WeakMapStore final : public MapStore {
 public:
  using MapStore::MapStore;

 private:
  weakcache::Ref<Image> Find(const std::string& path) override { return images_.get(path); }
  void Insert(const std::string& path, const weakcache::Ref<Image>& image,
              std::vector<weakcache::Ref<Image>>& /*dropped*/) override {
    images_.insert_or_assign(path, image);
  }

  weakcache::WeakValueMap<std::string, Image> images_;
};

// Keeps the images that were used last, within a budget, as it is usually written by hand: an image
// that was evicted is not found any more, though a viewer may still show it.
class LruStore final : public MapStore {
 public:
  LruStore(ImageDecoder decode, uint64_t budget_bytes)
      : MapStore(std::move(decode)), budget_bytes_(budget_bytes) {}

 private:
  struct Entry {
    std::string path;
    weakcache::Ref<Image> image;
  };

  weakcache::Ref<Image> Find(const std::string& path) override;
  void Insert(const std::string& path, const weakcache::Ref<Image>& image,
              std::vector<weakcache::Ref<Image>>& dropped) override;

  const uint64_t budget_bytes_;
  uint64_t bytes_ = 0;
  std::list<Entry> entries_;  // the one that was used last first
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
};

// Finds every image that somebody still uses, and keeps the best of the others within a budget. All
// that the stores above do by hand is the cache's affair: whom a look-up waits for, what runs under
// which lock, and what is let go.
class CacheStore final : public ImageStore {
 public:
  CacheStore(ImageDecoder decode, uint64_t budget_bytes);

  absl::StatusOr<weakcache::Ref<Image>> Get(const std::string& path) override {
    return images_.GetOrLoad(path, decode_);
  }
  std::string Details() const override;

  weakcache::CacheStats stats() const { return images_.Stats(); }

 private:
  using Images = weakcache::LargeObjectCache<std::string, Image>;

  const ImageDecoder decode_;
  Images images_;
};

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_STORES_H_
