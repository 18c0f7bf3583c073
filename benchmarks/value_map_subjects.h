// SPDX-License-Identifier: Apache-2.0
// The maps that are compared, behind one interface:
//
//   Strong Insert(key, id)   makes an object, which lives as long as the result or copies of it
//   Strong Get(lookup)       null if there is none
//   ForEach(visit)           calls `visit(object)` for each live one
//   Reserve(count)
//   size_t Sweep()           removes all dead entries at once; where nothing dies unnoticed: absent
//   Make(id)                 an object as Insert makes it, in no map
#ifndef WEAKCACHE_BENCHMARKS_VALUE_MAP_SUBJECTS_H_
#define WEAKCACHE_BENCHMARKS_VALUE_MAP_SUBJECTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "benchmarks/benchmark_data.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {

// What a map with transparent look-up takes: `View` for strings.
template <typename Key, typename View>
using ViewOf = std::conditional_t<std::is_same_v<Key, std::string>, View, Key>;

template <typename KeyType, typename Value>
class WeakcacheSubject {
 public:
  using Key = KeyType;
  using Lookup = ViewOf<Key, std::string_view>;
  using Strong = typename WeakValueMap<Key, Value>::mapped_type;

  static Strong Make(int64_t id) { return HandleTraits<Strong>::Make(id); }
  Strong Insert(const Key& key, int64_t id) { return map_.try_emplace(key, id).first; }
  Strong Get(Lookup key) { return map_.get(key); }
  template <typename Visit>
  void ForEach(Visit visit) {
    for (const auto& [key, object] : map_) visit(*object);
  }
  void Reserve(size_t count) { map_.reserve(count); }
  size_t Sweep() { return map_.purge(); }

 protected:
  WeakValueMap<Key, Value> map_;
};

template <typename Key>
using CreatedSubject = WeakcacheSubject<Key, Object>;
template <typename Key>
using SharedPtrSubject = WeakcacheSubject<Key, std::shared_ptr<Object>>;

// Objects that were made before the map heard of them.
template <typename Key>
class InsertedSubject : public WeakcacheSubject<Key, Object> {
 public:
  Ref<Object> Insert(const Key& key, int64_t id) {
    return this->map_.insert(key, MakeRef<Object>(id)).first;
  }
};

// A weak_ptr map that drops its dead entries as hand-written ones do, if at all: all at once, when
// it has grown to twice what the last sweep left.
template <typename Map, typename LookupType>
class SweptMap {
 public:
  using Key = typename Map::key_type;
  using Lookup = LookupType;
  using Strong = std::shared_ptr<Object>;

  static Strong Make(int64_t id) { return std::make_shared<Object>(id); }
  Strong Insert(const Key& key, int64_t id) {
    Strong object = Make(id);
    map_[key] = object;
    if (map_.size() >= sweep_at_) Sweep();
    return object;
  }
  Strong Get(Lookup key) {
    const auto found = map_.find(key);
    return found == map_.end() ? nullptr : found->second.lock();
  }
  template <typename Visit>
  void ForEach(Visit visit) {
    for (const auto& [key, weak] : map_) {
      if (const Strong object = weak.lock()) visit(*object);
    }
  }
  void Reserve(size_t count) { map_.reserve(count); }
  size_t Sweep() {
    const size_t size_before = map_.size();
    for (auto entry = map_.begin(); entry != map_.end();) {
      if (entry->second.expired()) {
        map_.erase(entry++);
      } else {
        ++entry;
      }
    }
    sweep_at_ = 2 * map_.size() + 16;
    return size_before - map_.size();
  }

 private:
  Map map_;
  size_t sweep_at_ = 16;
};

template <typename Key>
using AbslSubject = SweptMap<absl::flat_hash_map<Key, std::weak_ptr<Object>>,  //
                             ViewOf<Key, absl::string_view>>;

template <typename KeyType>
class StdMutexSubject {
  using Map = SweptMap<std::unordered_map<KeyType, std::weak_ptr<Object>>, const KeyType&>;

 public:
  using Key = KeyType;
  using Lookup = typename Map::Lookup;
  using Strong = typename Map::Strong;

  static Strong Make(int64_t id) { return Map::Make(id); }
  Strong Insert(const Key& key, int64_t id) {
    const std::lock_guard lock(mutex_);
    return map_.Insert(key, id);
  }
  Strong Get(Lookup key) {
    const std::lock_guard lock(mutex_);
    return map_.Get(key);
  }
  template <typename Visit>
  void ForEach(Visit visit) {
    const std::lock_guard lock(mutex_);
    map_.ForEach(visit);
  }
  void Reserve(size_t count) { map_.Reserve(count); }
  size_t Sweep() {
    const std::lock_guard lock(mutex_);
    return map_.Sweep();
  }

 private:
  std::mutex mutex_;
  Map map_;
};

template <typename KeyType>
class FloorSubject {
  struct Counted {
    explicit Counted(int64_t id) : object(id) {}
    std::atomic<int64_t> count{0};
    Object object;
  };

 public:
  using Key = KeyType;
  using Lookup = ViewOf<Key, absl::string_view>;
  // Two atomic operations a look-up: what handing out a counted reference can't do without.
  class Strong {
   public:
    explicit Strong(Counted* counted = nullptr) : counted_(counted) {
      if (counted_ != nullptr) counted_->count.fetch_add(1, std::memory_order_relaxed);
    }
    Strong(Strong&& other) noexcept : counted_(std::exchange(other.counted_, nullptr)) {}
    Strong& operator=(Strong&& other) noexcept {
      std::swap(counted_, other.counted_);
      return *this;
    }
    ~Strong() {
      if (counted_ != nullptr) counted_->count.fetch_sub(1, std::memory_order_release);
    }
    Object* operator->() const { return &counted_->object; }
    explicit operator bool() const { return counted_ != nullptr; }

   private:
    Counted* counted_;
  };

  FloorSubject() = default;
  ~FloorSubject() {
    for (const auto& [key, counted] : map_) delete counted;
  }
  static std::unique_ptr<Counted> Make(int64_t id) { return std::make_unique<Counted>(id); }
  Strong Insert(const Key& key, int64_t id) {
    Counted* const counted = Make(id).release();
    map_.emplace(key, counted);
    return Strong(counted);
  }
  Strong Get(Lookup key) {
    const auto found = map_.find(key);
    return Strong(found == map_.end() ? nullptr : found->second);
  }
  template <typename Visit>
  void ForEach(Visit visit) {
    for (const auto& [key, counted] : map_) visit(*Strong(counted).operator->());
  }
  void Reserve(size_t count) { map_.reserve(count); }
  // An object's end takes its entry along, as if it were told at no cost.
  void Remove(Lookup key) {
    const auto found = map_.find(key);
    delete found->second;
    map_.erase(found);
  }

 private:
  absl::flat_hash_map<Key, Counted*> map_;
};

template <typename Subject>
inline constexpr bool kRemovesAtEnd = requires(Subject subject) {
  subject.Remove(typename Subject::Key());
};

// Ends an object that nobody else holds; its key is its id.
template <typename Subject>
void End(Subject& subject, typename Subject::Strong& object) {
  if constexpr (kRemovesAtEnd<Subject>) {
    const int64_t key = object->id;
    object = typename Subject::Strong();
    subject.Remove(key);
  } else {
    object = typename Subject::Strong();
  }
}

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_VALUE_MAP_SUBJECTS_H_
