// SPDX-License-Identifier: Apache-2.0
// WeakValueMap with unusual handles, values, keys and allocators.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "tests/support/allocations.h"
#include "tests/support/tracked.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/enable_ref_from_this.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::Tracked;

// A handle of somebody's own that can do no more than a Handle has to: it does not even compare.
template <typename T>
class OwnPointer {
 public:
  OwnPointer() = default;
  explicit OwnPointer(std::shared_ptr<T> owner) : owner_(std::move(owner)) {}
  T* get() const { return owner_.get(); }
  T& operator*() const { return *owner_; }
  T* operator->() const { return owner_.get(); }
  const std::shared_ptr<T>& owner() const { return owner_; }

 private:
  std::shared_ptr<T> owner_;
};
template <typename T>
class OwnWeakPointer {
 public:
  OwnWeakPointer() = default;
  explicit OwnWeakPointer(const OwnPointer<T>& strong) noexcept : owner_(strong.owner()) {}
  const std::weak_ptr<T>& owner() const { return owner_; }

 private:
  std::weak_ptr<T> owner_;
};

}  // namespace

template <typename T>
struct HandleTraits<OwnPointer<T>> {
  using element_type = T;
  using strong_type = OwnPointer<T>;
  using weak_type = OwnWeakPointer<T>;

  static constexpr bool kNotifiesExpiry = false;

  static weak_type MakeWeak(const strong_type& strong) noexcept { return weak_type(strong); }
  static strong_type Lock(const weak_type& weak) noexcept {
    return strong_type(weak.owner().lock());
  }
  static bool Expired(const weak_type& weak) noexcept { return weak.owner().expired(); }
  template <typename A, typename B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return !a.owner().owner_before(b.owner()) && !b.owner().owner_before(a.owner());
  }
  static bool Owns(const strong_type& strong) noexcept { return strong.owner() != nullptr; }
  template <typename... Args>
  static strong_type Make(Args&&... args) {
    return strong_type(std::make_shared<T>(std::forward<Args>(args)...));
  }
};

namespace {

TEST(WeakValueMapHandleTest, TakesAHandleOfSomebodysOwn) {
  using Handle = OwnPointer<Tracked>;
  static_assert(weakcache::Handle<Handle>);
  WeakValueMap<int, Handle> map, other;
  Handle first = map.try_emplace(1, 1).first;
  Handle second = map.get_or_create(2, [] { return Tracked(2); });
  const Handle third = map.get_or_create(3, [] { return HandleTraits<Handle>::Make(3); });
  EXPECT_EQ(map.get_or_create(4, [] { return Handle(); }).get(), nullptr);
  EXPECT_FALSE(map.insert(1, third).second);
  EXPECT_FALSE(map.insert_or_assign(3, third).second);
  EXPECT_EQ(map.size(), 3u);
  EXPECT_EQ(map.erase(1, HandleTraits<Handle>::MakeWeak(second)), 0u);
  EXPECT_EQ(map.take(2).get(), second.get());
  EXPECT_TRUE(map == map.clone());
  other.merge(map);
  EXPECT_EQ(other.size(), 2u);
  EXPECT_TRUE(map.empty());
  other.update(map);
  first = Handle();
  EXPECT_EQ(other.get(1).get(), nullptr);
  EXPECT_EQ(other.purge(), 1u);
  EXPECT_EQ(other.pop()->second.get(), third.get());
  map.CheckInvariantsForTesting();
  other.CheckInvariantsForTesting();
}

TEST(WeakValueMapHandleTest, SharedPtrToAPartExpiresWithItsOwner) {
  WeakValueMap<int, std::shared_ptr<int>> map;
  auto owner = std::make_shared<std::pair<Tracked, int>>(Tracked(1), 5);
  map.insert(1, std::shared_ptr<int>(owner, &owner->second));
  EXPECT_EQ(map.get(1).get(), &owner->second);
  owner = nullptr;
  EXPECT_EQ(map.get(1), nullptr);
  EXPECT_EQ(map.purge(), 1u);
}

TEST(WeakValueMapHandleDeathTest, SharedPtrWithoutAnOwnerIsRefused) {
  WeakValueMap<int, std::shared_ptr<int>> map;
  static int unowned = 0;
  const std::shared_ptr<int> alias(std::shared_ptr<int>(), &unowned);
  EXPECT_DEATH(map.insert(1, alias), "WeakValueMap::insert: the reference is null or owns nothing");
  EXPECT_DEATH(map.insert(1, nullptr), "WeakValueMap::insert: the reference is null");
  EXPECT_DEATH(map.insert_or_assign(1, alias), "WeakValueMap::insert_or_assign: .*owns nothing");
  EXPECT_DEATH(map.get_or_create(1, [&] { return alias; }),
               "WeakValueMap::get_or_create: .*owns nothing");
  EXPECT_TRUE(map.empty());
}

// Neither copied nor moved, wherever it is made.
struct Immovable {
  Immovable(int id, const std::string& name) : id(id), name(name) {}
  Immovable(const Immovable&) = delete;
  Immovable& operator=(const Immovable&) = delete;
  int id;
  std::string name;
};

TEST(WeakValueMapValueTest, ImmovableObjectsAreMadeInPlace) {
  WeakValueMap<int, Immovable> map;
  const Ref<Immovable> one = map.try_emplace(1, 11, "one").first;
  const Ref<Immovable> two = map.get_or_create(2, [] { return Immovable(12, "two"); });
  EXPECT_EQ(map.get(1)->name + map.get(2)->name, "onetwo");
  WeakValueMap<int, std::shared_ptr<Immovable>> shared;
  const std::shared_ptr<Immovable> three = shared.try_emplace(3, 13, "three").first;
  EXPECT_EQ(shared.get(3)->id, 13);
}

struct Shape {
  virtual ~Shape() = default;
  virtual int corners() const = 0;
};
struct Square final : Shape {
  int corners() const override { return 4; }
};

TEST(WeakValueMapValueTest, AbstractObjectsAreEntered) {
  WeakValueMap<int, Shape> map;
  Ref<Square> square = MakeRef<Square>();
  map.insert(1, square);
  EXPECT_EQ(map.get(1)->corners(), 4);
  const Ref<Shape> created = map.get_or_create(2, [] { return MakeRef<Square>(); });
  EXPECT_EQ(map.get(2), created);
  square.reset();
  EXPECT_EQ(map.size(), 1u);
  map.clear();
}

struct Incomplete;
void UseIncomplete(WeakValueMap<int, Incomplete>& map, const Ref<Incomplete>& object) {
  map.insert(1, object);
  EXPECT_EQ(map.get(1), object);
  map.insert_or_assign(1, object);
  EXPECT_EQ(map.erase(1), 1u);
  map.insert(1, object);
  map.purge();
  map.shrink_to_fit();
}
struct Incomplete {
  int id = 1;
};

TEST(WeakValueMapValueTest, IncompleteObjectsAreEntered) {
  WeakValueMap<int, Incomplete> map;
  const Ref<Incomplete> object = MakeRef<Incomplete>();
  UseIncomplete(map, object);
  EXPECT_EQ(map.get(1)->id, 1);
  const Ref<Incomplete> created = map.try_emplace(2).first;
  EXPECT_EQ(map.size(), 2u);
}

TEST(WeakValueMapValueTest, ArraysAndErasedTypes) {
  WeakValueMap<int, int[]> arrays;
  Ref<int[]> numbers = arrays.try_emplace(1, 100).first;
  numbers[99] = 5;
  EXPECT_EQ(arrays.get(1)[99], 5);
  numbers.reset();
  EXPECT_TRUE(arrays.empty());
  WeakValueMap<int, std::shared_ptr<int[]>> shared_arrays;
  const std::shared_ptr<int[]> shared = shared_arrays.try_emplace(1, 100).first;
  EXPECT_EQ(shared_arrays.get(1), shared);
  WeakValueMap<int, void> anything;
  Ref<Tracked> object = MakeRef<Tracked>(1);
  anything.insert(1, object);
  EXPECT_EQ(anything.get(1).get(), object.get());
  object.reset();
  EXPECT_TRUE(anything.empty());
}

struct alignas(256) OverAligned {
  char bytes[256] = {};
};

TEST(WeakValueMapValueTest, OverAlignedObjects) {
  WeakValueMap<int, OverAligned> map;
  std::vector<Ref<OverAligned>> objects;
  for (int i = 0; i < 100; ++i) {
    objects.push_back(map.try_emplace(i).first);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(objects.back().get()) % 256, 0u);
  }
}

struct Selfish : EnableRefFromThis<Selfish> {
  explicit Selfish(std::vector<WeakRef<Selfish>>* registry = nullptr) : registry(registry) {}
  ~Selfish() {
    if (registry != nullptr) registry->push_back(weak_from_this());
  }
  std::vector<WeakRef<Selfish>>* registry;
  char bytes[100] = {};
};

TEST(WeakValueMapValueTest, CreatedObjectsKnowTheirRefs) {
  std::vector<WeakRef<Selfish>> registry;
  WeakRef<Selfish> weak;
  {
    WeakValueMap<int, Selfish> map;
    Ref<Selfish> object = map.try_emplace(1, &registry).first;
    EXPECT_EQ(object->ref_from_this(), object);
    weak = object->weak_from_this();
    map.erase(1);
    EXPECT_EQ(object->ref_from_this(), object);
    object = map.get_or_create(1, [] { return Selfish(); });
    EXPECT_EQ(object->ref_from_this().use_count(), 2u);
    map.clear();
    object.reset();
    map.CheckInvariantsForTesting();
  }
  ASSERT_EQ(registry.size(), 1u);  // outlives the map whose slot it refers to
  EXPECT_TRUE(registry[0].expired());
  EXPECT_TRUE(weak.expired());
  EXPECT_TRUE(weak.owner_equal(registry[0]));
}

// Keys of all sizes: the slot that a created object's counts share with its key grows with it.
template <typename K>
class WeakValueMapKeyTest : public ::testing::Test {};
struct alignas(32) AlignedKey {   // more is beyond GCC 12 with AddressSanitizer
  AlignedKey(int id) : id(id) {}  // NOLINT(google-explicit-constructor)
  bool operator==(const AlignedKey& other) const { return id == other.id; }
  int id;
};
template <typename H>
H AbslHashValue(H hash, const AlignedKey& key) {
  return H::combine(std::move(hash), key.id);
}
struct LargeKey {
  LargeKey(int id) { words.fill(id); }  // NOLINT(google-explicit-constructor)
  bool operator==(const LargeKey& other) const { return words == other.words; }
  std::array<int, 1000> words;
};
template <typename H>
H AbslHashValue(H hash, const LargeKey& key) {
  return H::combine(std::move(hash), key.words);
}
struct OneCacheLineKey {
  OneCacheLineKey(int id) { words.fill(id); }  // NOLINT(google-explicit-constructor)
  bool operator==(const OneCacheLineKey& other) const { return words == other.words; }
  std::array<int, 16> words;
};
template <typename H>
H AbslHashValue(H hash, const OneCacheLineKey& key) {
  return H::combine(std::move(hash), key.words);
}
using KeyTypes =
    ::testing::Types<signed char, short, int64_t, AlignedKey, OneCacheLineKey, LargeKey>;
TYPED_TEST_SUITE(WeakValueMapKeyTest, KeyTypes);

TYPED_TEST(WeakValueMapKeyTest, KeysOfAllSizes) {
  const int64_t before = testing::LiveAllocations();
  {
    std::vector<Ref<Tracked>> objects;
    WeakValueMap<TypeParam, Tracked> map;
    for (int id = 0; id < 100; ++id) {
      const auto key = static_cast<TypeParam>(id);
      objects.push_back(map.try_emplace(key, id).first);
      if (id % 3 != 0) continue;
      map.insert_or_assign(key, MakeRef<Tracked>(-1));
      objects.back() = MakeRef<Tracked>(id);
      map.insert(key, objects.back());
    }
    for (int id = 0; id < 100; ++id) {
      EXPECT_EQ(map.get(static_cast<TypeParam>(id)), objects[id]);
    }
    for (const auto& [key, value] : map) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(&key) % alignof(TypeParam), 0u);
      EXPECT_TRUE(key == static_cast<TypeParam>(value->id()));
    }
    map.CheckInvariantsForTesting();
    for (int id = 0; id < 100; id += 2) objects[id].reset();
    EXPECT_EQ(map.size(), 50u);
    map.purge();
    map.shrink_to_fit();
    map.CheckInvariantsForTesting();
    WeakValueMap<TypeParam, Tracked> last(std::move(map));
    std::thread([gone = std::move(last)] {}).join();
  }
  EXPECT_EQ(testing::LiveAllocations(), before);
}

struct Dereferenced {
  using is_transparent = void;
  static int ValueOf(int value) { return value; }
  static int ValueOf(const std::unique_ptr<int>& value) { return *value; }
  template <typename T>
  size_t operator()(const T& value) const {
    return static_cast<size_t>(ValueOf(value));
  }
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    return ValueOf(a) == ValueOf(b);
  }
};

TEST(WeakValueMapMoveOnlyKeyTest, MoveOnlyKeys) {
  using Map = WeakValueMap<std::unique_ptr<int>, Tracked, Dereferenced, Dereferenced>;
  Map map;
  const Ref<Tracked> object = MakeRef<Tracked>(1);
  EXPECT_TRUE(map.insert(std::make_unique<int>(1), object).second);
  auto key = std::make_unique<int>(1);
  EXPECT_FALSE(map.insert(std::move(key), object).second);
  EXPECT_NE(key, nullptr);  // NOLINT(bugprone-use-after-move): not needed, not moved
  EXPECT_TRUE(map.insert_or_assign(std::make_unique<int>(2), object).second);
  const Ref<Tracked> third = map.try_emplace(std::make_unique<int>(3), 3).first;
  const Ref<Tracked> fourth =
      map.get_or_create(std::make_unique<int>(4), [] { return Tracked(4); });
  EXPECT_EQ(map.get(4), fourth);
  EXPECT_EQ(map.take(3), third);
  int sum = 0;
  while (auto popped = map.pop()) sum += *popped->first;
  EXPECT_EQ(sum, 1 + 2 + 4);
}

// Counts the bytes that are out, and is known by its number.
struct Ledger {
  std::atomic<int64_t> bytes{0};
  std::atomic<int> blocks{0};
};
template <typename T>
class CountingAllocator {
 public:
  using value_type = T;
  explicit CountingAllocator(Ledger* ledger) : ledger(ledger) {}
  template <typename U>
  CountingAllocator(const CountingAllocator<U>& other)  // NOLINT: as std::allocator
      : ledger(other.ledger) {}
  T* allocate(size_t count) {
    ledger->bytes += static_cast<int64_t>(count * sizeof(T));
    ++ledger->blocks;
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* memory, size_t count) {
    ledger->bytes -= static_cast<int64_t>(count * sizeof(T));
    --ledger->blocks;
    std::allocator<T>().deallocate(memory, count);
  }
  template <typename U>
  bool operator==(const CountingAllocator<U>& other) const {
    return ledger == other.ledger;
  }
  Ledger* ledger;
};

template <typename V>
class WeakValueMapAllocatorTest : public ::testing::Test {};
using AllocatedValues = ::testing::Types<Tracked, std::shared_ptr<Tracked>>;
TYPED_TEST_SUITE(WeakValueMapAllocatorTest, AllocatedValues);

TYPED_TEST(WeakValueMapAllocatorTest, StatefulAllocatorGoesWithTheTable) {
  using Allocator = CountingAllocator<char>;
  using Map = WeakValueMap<int, TypeParam, absl::Hash<int>, std::equal_to<int>, Allocator>;
  Ledger one, two;
  {
    Map map({}, {}, Allocator(&one));
    Map other({}, {}, Allocator(&two));
    EXPECT_EQ(one.blocks, 0);  // nothing until it is needed
    std::vector<typename Map::mapped_type> objects;
    for (int id = 0; id < 1000; ++id) objects.push_back(map.try_emplace(id, id).first);
    EXPECT_GT(one.bytes, 1000 * 16);
    EXPECT_EQ(two.blocks, 0);
    EXPECT_EQ(map.get_allocator(), Allocator(&one));
    swap(map, other);
    EXPECT_EQ(map.get_allocator(), Allocator(&two));
    map.insert(1, objects[1]);
    EXPECT_GT(two.blocks, 0);
    const Map clone = other.clone();
    EXPECT_EQ(clone.get_allocator(), Allocator(&one));
    map = std::move(other);
    EXPECT_EQ(two.blocks, 0);
    EXPECT_EQ(map.get_allocator(), Allocator(&one));
    EXPECT_EQ(map.get(500), objects[500]);
    EXPECT_EQ(map.size(), 1000u);
    map.CheckInvariantsForTesting();
  }
  EXPECT_EQ(one.blocks, 0);
  EXPECT_EQ(one.bytes, 0);
}

TYPED_TEST(WeakValueMapAllocatorTest, PolymorphicAllocator) {
  using Allocator = std::pmr::polymorphic_allocator<char>;
  using Map = WeakValueMap<int, TypeParam, absl::Hash<int>, std::equal_to<int>, Allocator>;
  std::pmr::unsynchronized_pool_resource one, two;
  Map map({}, {}, &one);
  Map other({}, {}, &two);
  std::vector<typename Map::mapped_type> objects;
  for (int id = 0; id < 1000; ++id) objects.push_back(map.try_emplace(id, id).first);
  map.swap(other);
  EXPECT_EQ(map.get_allocator().resource(), &two);
  EXPECT_EQ(other.get_allocator().resource(), &one);
  map.swap(map);
  EXPECT_EQ(map.get_allocator().resource(), &two);
  map = std::move(other);
  EXPECT_EQ(map.get_allocator().resource(), &one);
  EXPECT_EQ(map.get(500), objects[500]);
  EXPECT_TRUE(map == map.clone());
  map.shrink_to_fit();
  map.CheckInvariantsForTesting();
  objects.clear();
}

// The page of a created object comes from the map's allocator, also after the map's end.
TEST(WeakValueMapAllocatorLifetimeTest, MustOutliveTheObjectsThatTheMapCreated) {
  using Allocator = CountingAllocator<char>;
  using Map = WeakValueMap<int, Tracked, absl::Hash<int>, std::equal_to<int>, Allocator>;
  Ledger ledger;
  Ref<Tracked> created;
  WeakRef<Tracked> weak;
  const Ref<Tracked> entered = MakeRef<Tracked>(0);
  {
    Map map({}, {}, Allocator(&ledger));
    created = map.try_emplace(1, 1).first;
    map.insert(2, entered);
    weak = created;
  }
  EXPECT_GT(ledger.blocks, 0);
  created.reset();
  EXPECT_GT(ledger.blocks, 0);
  std::thread([&] { weak.reset(); }).join();
  EXPECT_EQ(ledger.blocks, 0);
  EXPECT_EQ(ledger.bytes, 0);
}

}  // namespace
}  // namespace weakcache
