// SPDX-License-Identifier: Apache-2.0
// What the models of the concurrent map share: a handle whose counts are the model checker's, keys
// and objects that watch their own fate, and memory that shows who still looks at it.
#ifndef WEAKCACHE_TESTS_MODEL_CONCURRENT_MODEL_H_
#define WEAKCACHE_TESTS_MODEL_CONCURRENT_MODEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <utility>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/concurrent_weak_value_map.h"

namespace weakcache::model {

using Block = internal::BasicControlBlock<RelacyAtomics>;

// As WeakRef.
template <typename T>
struct ModelWeakRef {
  ModelWeakRef() = default;
  ModelWeakRef(T* pointer, Block* block) : pointer_(pointer), block_(block) {
    if (block_ != nullptr) block_->AddWeak();
  }
  ModelWeakRef(const ModelWeakRef& other) noexcept : ModelWeakRef(other.pointer_, other.block_) {}
  ModelWeakRef& operator=(ModelWeakRef other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(block_, other.block_);
    return *this;
  }
  ~ModelWeakRef() {
    if (block_ != nullptr) block_->ReleaseWeak();
  }

  T* pointer_ = nullptr;
  Block* block_ = nullptr;
};

// As Ref.
template <typename T>
struct ModelRef {
  using element_type = T;

  ModelRef() = default;
  // Takes over one strong reference that has been counted already.
  ModelRef(T* pointer, Block* block) : pointer_(pointer), block_(block) {}
  ModelRef(const ModelRef& other) noexcept : ModelRef(other.pointer_, other.block_) {
    if (block_ != nullptr) block_->AddStrong();
  }
  ModelRef(ModelRef&& other) noexcept
      : ModelRef(std::exchange(other.pointer_, nullptr), std::exchange(other.block_, nullptr)) {}
  ModelRef& operator=(ModelRef other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(block_, other.block_);
    return *this;
  }
  ~ModelRef() {
    if (block_ != nullptr) block_->ReleaseStrong();
  }

  T* get() const { return pointer_; }
  void reset() { ModelRef().swap(*this); }
  void swap(ModelRef& other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(block_, other.block_);
  }

  T* pointer_ = nullptr;
  Block* block_ = nullptr;
};

}  // namespace weakcache::model

template <typename T>
struct weakcache::HandleTraits<weakcache::model::ModelRef<T>> {
  using element_type = T;
  using strong_type = model::ModelRef<T>;
  using weak_type = model::ModelWeakRef<T>;
  static constexpr bool kNotifiesExpiry = true;

  static weak_type MakeWeak(const strong_type& strong) noexcept {
    return weak_type(strong.pointer_, strong.block_);
  }
  static strong_type Lock(const weak_type& weak) noexcept {
    const bool locked = weak.block_ != nullptr && weak.block_->TryAddStrong();
    return locked ? strong_type(weak.pointer_, weak.block_) : strong_type();
  }
  static bool Expired(const weak_type& weak) noexcept {
    return weak.block_ == nullptr || weak.block_->expired();
  }
  template <typename A, typename B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return a.block_ == b.block_;
  }
  static bool Owns(const strong_type& strong) noexcept { return strong.block_ != nullptr; }
};

template <typename T>
struct weakcache::internal::AtomicsOf<weakcache::model::ModelRef<T>> {
  using Policy = weakcache::model::RelacyAtomics;
};
template <typename T>
inline constexpr bool weakcache::internal::kHasEmbeddedSlots<weakcache::model::ModelRef<T>> = true;

namespace weakcache::model {

// All memory with an alignment of its own: pages, lines, objects. It stays until the schedule ends,
// so that a use after it was given back finds life marks.
class AlignedMemory {
 public:
  static void* Allocate(size_t bytes, size_t alignment) {
    Piece& piece = pieces_.at(count_++);
    piece = {std::aligned_alloc(alignment, (bytes + alignment - 1) & ~(alignment - 1)), true};
    return piece.start;
  }
  static void Deallocate(void* memory) {
    for (size_t i = 0; i < count_; ++i) {
      if (pieces_[i].start != memory) continue;
      RL_ASSERT(std::exchange(pieces_[i].in_use, false));
    }
  }
  // Of one schedule.
  static void End() {
    for (; count_ > 0; --count_) {
      RL_ASSERT(!pieces_[count_ - 1].in_use);
      std::free(pieces_[count_ - 1].start);
    }
  }

 private:
  struct Piece {
    void* start;
    bool in_use;
  };
  static inline std::array<Piece, 64> pieces_;
  static inline size_t count_ = 0;
};

// How many there are in this schedule.
struct Census {
  int keys = 0;
  int objects = 0;
};
inline Census census;

// A key that must be there while it is looked at. Keys with the same number have the same hash, and
// so have others, where a model says so.
class Key {
 public:
  explicit Key(int number) : number_(number) { ++census.keys; }
  Key(const Key& other) : number_(other.number_) { ++census.keys; }
  Key& operator=(const Key&) = delete;
  ~Key() { --census.keys; }

  friend bool operator==(const Key& a, const Key& b) { return a.number_ == b.number_; }

 private:
  RelacyPlain<int> number_;
};
struct SameHash {
  size_t operator()(const Key&) const { return 1; }
};

// An object for one key. Aligned so that its memory is not Relacy's, which tries each time whether
// it is used again.
class alignas(64) Object {
 public:
  explicit Object(int key) : key_(key) { ++census.objects; }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  ~Object() {
    Use();
    --census.objects;
  }
  void Use() const { RL_ASSERT(key_ != 0); }
  void UseFor(int key) const { RL_ASSERT(key_ == key); }

 private:
  RelacyPlain<int> key_;  // not 0
};

using Handle = ModelRef<Object>;

// An object that no map has created.
class alignas(64) ExternalBlock final : public Block {
 public:
  static Handle Make(int key) {
    auto* const block = new ExternalBlock(key);
    return Handle(block->object_, block);
  }

 private:
  explicit ExternalBlock(int key) : object_(new Object(key)) {}

  void Expire() noexcept override {
    delete object_;
    FinishExpiry();
  }
  void FreeBlock() noexcept override { delete this; }

  Object* const object_;
};

// A map of one shard. Derived has Thread(unsigned), and may have Prepare() and Finish(), which run
// before and after all threads, with everything ordered. What the model's handles hold goes after
// Finish.
template <typename Derived, int kThreads>
class MapModel : public rl::test_suite<Derived, kThreads> {
 public:
  using Map = ConcurrentWeakValueMap<Key, Handle, SameHash>;

  void before() {
    ++current_schedule;
    census = Census();
    wait_graph.emplace();
    map_.emplace(*Map::Create({.shards = 1}));
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(index); }
  void after() {
    static_cast<Derived*>(this)->Finish();
    for (Handle& handle : handles_) handle.reset();
    RL_ASSERT(census.objects == 0);
    if (map_.has_value()) {
      RL_ASSERT(map_->size() == 0);
      map_->purge();
      map_->CheckInvariantsForTesting();
      RL_ASSERT(census.keys == 0);
      EndMap();
    }
    RL_ASSERT(census.keys == 0);
    wait_graph.reset();
    AlignedMemory::End();
  }

 protected:
  void Prepare() {}
  void Finish() {}

  Map& map() { return *map_; }
  void EndMap() { map_.reset(); }
  // What the model's threads hold.
  Handle& handle(size_t index) { return handles_.at(index); }

  Handle Get(int key) { return CheckedFor(key, map_->get(Key(key))); }
  // An object whose counts are in the map's own slot, unless there is one.
  Handle Create(int key) {
    return CheckedFor(key, map_->get_or_create(Key(key), [&] { return Object(key); }));
  }
  // An object that was there before; either way it is the first under the key.
  template <bool kEmbedded>
  Handle EnterFirst(int key) {
    if constexpr (kEmbedded) return Create(key);
    Handle object = ExternalBlock::Make(key);
    RL_ASSERT(map_->insert(Key(key), object).second);
    return object;
  }

 private:
  static Handle CheckedFor(int key, Handle handle) {
    if (handle.get() != nullptr) handle.get()->UseFor(key);
    return handle;
  }

  std::optional<Map> map_;
  std::array<Handle, 4> handles_;
};

}  // namespace weakcache::model

void* operator new(size_t bytes, std::align_val_t alignment) {
  return weakcache::model::AlignedMemory::Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory, std::align_val_t) noexcept {
  weakcache::model::AlignedMemory::Deallocate(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  weakcache::model::AlignedMemory::Deallocate(memory);
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return weakcache::model::AlignedMemory::Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  weakcache::model::AlignedMemory::Deallocate(memory);
}
void operator delete[](void* memory, size_t, std::align_val_t) noexcept {
  weakcache::model::AlignedMemory::Deallocate(memory);
}

#endif  // WEAKCACHE_TESTS_MODEL_CONCURRENT_MODEL_H_
