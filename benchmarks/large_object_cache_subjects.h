// SPDX-License-Identifier: Apache-2.0
// The caches that are compared, behind one interface:
//
//   Subject(room)       room for so many objects, of kWeight bytes as they say
//   Get(id)             a handle to the object, which is false if there is none
//   GetOrLoad(id)       the same, after loading the object by a trivial loader if there is none
//
// The key of an object is KeyFor<Key>(id).
#ifndef WEAKCACHE_BENCHMARKS_LARGE_OBJECT_CACHE_SUBJECTS_H_
#define WEAKCACHE_BENCHMARKS_LARGE_OBJECT_CACHE_SUBJECTS_H_

#include <rocksdb/cache.h>
#include <rocksdb/slice.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/time/time.h"
#include "benchmarks/benchmark_data.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/loaded.h"

// The header of oneTBB's cache refuses to be included without it.
#define TBB_PREVIEW_CONCURRENT_LRU_CACHE 1
#include <tbb/concurrent_lru_cache.h>

namespace weakcache {

constexpr uint64_t kWeight = 1 << 20;

// RocksDB's HyperClock cache takes keys of 16 bytes only.
struct Key16 {
  uint64_t words[2];

  friend auto operator<=>(const Key16&, const Key16&) = default;
  template <typename State>
  friend State AbslHashValue(State state, const Key16& key) {
    return State::combine(std::move(state), key.words[0], key.words[1]);
  }
};

template <typename Key>
Key KeyFor(int64_t id) {
  if constexpr (std::is_same_v<Key, Key16>) {
    return {{static_cast<uint64_t>(id), ~static_cast<uint64_t>(id)}};
  } else {
    return id;
  }
}

// What the objects of a cache expire after: an hour after they were entered or last found, or an
// hour as each of them says.
enum class Expire { kNever, kAfterWrite, kAfterAccess, kAfterOwnLife };

template <typename Key, Expire kExpire = Expire::kNever>
class WeakcacheSubject {
 public:
  explicit WeakcacheSubject(size_t room) : cache_(Make(room)) {}

  auto Get(int64_t id) { return cache_.Get(KeyFor<Key>(id)); }
  auto GetOrLoad(int64_t id) {
    if constexpr (kExpire == Expire::kAfterOwnLife) {
      return *cache_.GetOrLoad(KeyFor<Key>(id), [id] {
        return Loaded<Object>{.object = Object(id), .expires_after = absl::Hours(1)};
      });
    } else {
      return *cache_.GetOrLoad(KeyFor<Key>(id), [id] { return Object(id); });
    }
  }

 private:
  using Cache = LargeObjectCache<Key, Object>;
  static Cache Make(size_t room) {
    typename Cache::Options options;
    options.budget_bytes = room * kWeight;
    options.count_entry_memory = false;
    options.weigher = [](const Object&) { return kWeight; };
    if (kExpire == Expire::kAfterWrite) options.expire_after_write = absl::Hours(1);
    if (kExpire == Expire::kAfterAccess) options.expire_after_access = absl::Hours(1);
    return std::move(room == 0 ? Cache::CreateWeak(options) : Cache::Create(options)).value();
  }
  Cache cache_;
};

// Has room for everything that somebody holds.
class ConcurrentMapSubject {
 public:
  explicit ConcurrentMapSubject(size_t) {}

  auto Get(int64_t id) { return map_.get(id); }
  auto GetOrLoad(int64_t id) {
    return map_.get_or_create(id, [&] { return Object(id); });
  }

 private:
  ConcurrentWeakValueMap<int64_t, Object> map_;
};

template <typename Key>
class MutexLruSubject {
 public:
  explicit MutexLruSubject(size_t room) : budget_(room * kWeight) {}

  std::shared_ptr<Object> Get(int64_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return Find(KeyFor<Key>(id));
  }
  // As it is usually written: the loader runs without the lock, perhaps twice.
  std::shared_ptr<Object> GetOrLoad(int64_t id) {
    if (std::shared_ptr<Object> found = Get(id)) return found;
    const Key key = KeyFor<Key>(id);
    auto loaded = std::make_shared<Object>(id);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::shared_ptr<Object> found = Find(key)) return found;
    entries_.push_front({key, loaded});
    index_[key] = entries_.begin();
    for (bytes_ += kWeight; bytes_ > budget_; bytes_ -= kWeight) {
      index_.erase(entries_.back().key);
      entries_.pop_back();
    }
    return loaded;
  }

 private:
  struct Entry {
    Key key;
    std::shared_ptr<Object> object;
  };
  // Integers have the hash of the standard library, as they would have by hand.
  using Hash =
      std::conditional_t<std::is_same_v<Key, int64_t>, std::hash<int64_t>, absl::Hash<Key>>;

  std::shared_ptr<Object> Find(const Key& key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->object;
  }

  std::mutex mutex_;
  const uint64_t budget_;
  uint64_t bytes_ = 0;
  std::list<Entry> entries_;
  std::unordered_map<Key, typename std::list<Entry>::iterator, Hash> index_;
};

// A cache of RocksDB. Holding a handle pins its object, as a Ref does.
class RocksDbSubject {
 public:
  class Handle {
   public:
    Handle(rocksdb::Cache* cache, rocksdb::Cache::Handle* handle)
        : cache_(cache), handle_(handle) {}
    Handle(Handle&& other) noexcept
        : cache_(other.cache_), handle_(std::exchange(other.handle_, nullptr)) {}
    Handle& operator=(Handle&&) = delete;
    ~Handle() {
      if (handle_ != nullptr) cache_->Release(handle_);
    }
    explicit operator bool() const { return handle_ != nullptr; }

   private:
    rocksdb::Cache* cache_;
    rocksdb::Cache::Handle* handle_;
  };

  Handle Get(int64_t id) {
    const Key16 key = KeyFor<Key16>(id);
    return {cache_.get(), cache_->Lookup(SliceOf(key))};
  }
  Handle GetOrLoad(int64_t id) {
    if (Handle found = Get(id)) return found;
    const Key16 key = KeyFor<Key16>(id);
    rocksdb::Cache::Handle* handle = nullptr;
    const rocksdb::Status status =
        cache_->Insert(SliceOf(key), new Object(id), kWeight, &Delete, &handle);
    return {cache_.get(), status.ok() ? handle : nullptr};
  }

 protected:
  explicit RocksDbSubject(std::shared_ptr<rocksdb::Cache> cache) : cache_(std::move(cache)) {}

 private:
  static rocksdb::Slice SliceOf(const Key16& key) {
    return {reinterpret_cast<const char*>(&key), sizeof(key)};
  }
  static void Delete(const rocksdb::Slice&, void* object) { delete static_cast<Object*>(object); }

  std::shared_ptr<rocksdb::Cache> cache_;
};

// Both with the number of shards that RocksDB chooses. Each shard has its share of the room.
class RocksDbLruSubject : public RocksDbSubject {
 public:
  explicit RocksDbLruSubject(size_t room) : RocksDbSubject(Make(room)) {}

 private:
  static std::shared_ptr<rocksdb::Cache> Make(size_t room) {
    rocksdb::LRUCacheOptions options;
    options.capacity = room * kWeight;
    options.metadata_charge_policy = rocksdb::kDontChargeCacheMetadata;
    return rocksdb::NewLRUCache(options);
  }
};
class RocksDbHyperClockSubject : public RocksDbSubject {
 public:
  explicit RocksDbHyperClockSubject(size_t room) : RocksDbSubject(Make(room)) {}

 private:
  static std::shared_ptr<rocksdb::Cache> Make(size_t room) {
    rocksdb::HyperClockCacheOptions options(room * kWeight, kWeight);
    options.metadata_charge_policy = rocksdb::kDontChargeCacheMetadata;
    return options.MakeSharedCache();
  }
};

// oneTBB's cache has no look-up that does not load, and its room is for objects not in use.
class TbbLruSubject {
 public:
  explicit TbbLruSubject(size_t room) : cache_(&Load, room) {}

  auto Get(int64_t id) { return cache_[KeyFor<Key16>(id)]; }
  auto GetOrLoad(int64_t id) { return Get(id); }

 private:
  using Cache = tbb::concurrent_lru_cache<Key16, std::shared_ptr<Object>>;

  static std::shared_ptr<Object> Load(Key16 key) {
    return std::make_shared<Object>(static_cast<int64_t>(key.words[0]));
  }
  Cache cache_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_LARGE_OBJECT_CACHE_SUBJECTS_H_
