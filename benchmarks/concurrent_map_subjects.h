// SPDX-License-Identifier: Apache-2.0
// The thread-safe maps that are compared, behind one interface:
//
//   Strong Get(lookup)             null if there is none
//   Strong GetOrCreate(key, id)    the object under the key, or a new one with that id
//   Strong Assign(key, id)         a new object in place of what is there
//   Reserve(count)
//
// The floor has only Get, and Insert for filling it.
#ifndef WEAKCACHE_BENCHMARKS_CONCURRENT_MAP_SUBJECTS_H_
#define WEAKCACHE_BENCHMARKS_CONCURRENT_MAP_SUBJECTS_H_

#include <tbb/concurrent_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/synchronization/mutex.h"
#include "benchmarks/benchmark_data.h"
#include "benchmarks/value_map_subjects.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"

namespace weakcache {

template <typename KeyType, typename Value>
class WeakcacheConcurrentSubject {
 public:
  using Key = KeyType;
  using Lookup = ViewOf<Key, std::string_view>;
  using Strong = typename ConcurrentWeakValueMap<Key, Value>::Strong;

  Strong Get(Lookup key) { return map_.get(key); }
  Strong GetOrCreate(const Key& key, int64_t id) {
    return map_.get_or_create(key, [id] { return Object(id); });
  }
  Strong Assign(const Key& key, int64_t id) { return map_.emplace_or_assign(key, id); }
  void Reserve(size_t count) { map_.reserve(count); }

 private:
  ConcurrentWeakValueMap<Key, Value> map_;
};
template <typename Key>
using ConcurrentSubject = WeakcacheConcurrentSubject<Key, Object>;
template <typename Key>
using ConcurrentSharedPtrSubject = WeakcacheConcurrentSubject<Key, std::shared_ptr<Object>>;

class ABSL_LOCKABLE AbslMutex {
 public:
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.Lock(); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }

 private:
  absl::Mutex mutex_;
};

// Each shard sweeps its dead entries when it has doubled.
template <typename Map, typename Mutex, size_t kShards>
class LockedSubject {
 public:
  using Key = typename Map::Key;
  using Lookup = typename Map::Lookup;
  using Strong = typename Map::Strong;

  Strong Get(Lookup key) {
    Shard& shard = ShardOf(key);
    const std::lock_guard lock(shard.mutex);
    return shard.map.Get(key);
  }
  Strong GetOrCreate(const Key& key, int64_t id) {
    Shard& shard = ShardOf(key);
    const std::lock_guard lock(shard.mutex);
    if (Strong found = shard.map.Get(key)) return found;
    return shard.map.Insert(key, id);
  }
  Strong Assign(const Key& key, int64_t id) {
    Shard& shard = ShardOf(key);
    const std::lock_guard lock(shard.mutex);
    return shard.map.Insert(key, id);
  }
  void Reserve(size_t count) {
    for (Shard& shard : shards_) shard.map.Reserve(count / kShards);
  }

 private:
  struct alignas(64) Shard {
    Mutex mutex;
    Map map;
  };

  template <typename AnyKey>
  Shard& ShardOf(const AnyKey& key) {
    if constexpr (kShards == 1) return shards_[0];
    // Other bits than those that flat_hash_map looks at first.
    return shards_[(absl::Hash<AnyKey>()(key) >> 40) % kShards];
  }

  Shard shards_[kShards];
};

template <typename Key>
using StdUnorderedMap = SweptMap<std::unordered_map<Key, std::weak_ptr<Object>>, const Key&>;
template <typename Key>
using FlatHashMap = SweptMap<absl::flat_hash_map<Key, std::weak_ptr<Object>>,  //
                             ViewOf<Key, absl::string_view>>;
template <typename Key>
using ConcurrentStdMutexSubject = LockedSubject<StdUnorderedMap<Key>, std::mutex, 1>;
template <typename Key>
using AbslMutexSubject = LockedSubject<FlatHashMap<Key>, AbslMutex, 1>;
template <typename Key>
using ShardedSubject = LockedSubject<FlatHashMap<Key>, std::mutex, 64>;

// Keeps its dead entries: it can't be swept while it is in use.
template <typename KeyType>
class TbbSubject {
  struct HashCompare {
    static size_t hash(const KeyType& key) { return absl::Hash<KeyType>()(key); }
    static bool equal(const KeyType& a, const KeyType& b) { return a == b; }
  };
  using Map = tbb::concurrent_hash_map<KeyType, std::weak_ptr<Object>, HashCompare>;

 public:
  using Key = KeyType;
  using Lookup = const Key&;
  using Strong = std::shared_ptr<Object>;

  Strong Get(Lookup key) {
    typename Map::const_accessor found;
    return map_.find(found, key) ? found->second.lock() : nullptr;
  }
  Strong GetOrCreate(const Key& key, int64_t id) {
    if (Strong present = Get(key)) return present;
    typename Map::accessor place;
    map_.insert(place, key);
    if (Strong present = place->second.lock()) return present;
    Strong object = std::make_shared<Object>(id);
    place->second = object;
    return object;
  }
  Strong Assign(const Key& key, int64_t id) {
    Strong object = std::make_shared<Object>(id);
    typename Map::accessor place;
    map_.insert(place, key);
    place->second = object;
    return object;
  }
  void Reserve(size_t count) { map_.rehash(count); }

 private:
  Map map_;
};

template <typename Key>
class ConcurrentFloorSubject : public FloorSubject<Key> {
 public:
  typename FloorSubject<Key>::Strong GetOrCreate(const Key& key, int64_t id) {
    return this->Insert(key, id);
  }
};
template <typename Subject>
inline constexpr bool kIsReadOnly = !requires(Subject subject) {
  subject.Assign(typename Subject::Key(), 0);
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_CONCURRENT_MAP_SUBJECTS_H_
