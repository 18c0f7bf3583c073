// SPDX-License-Identifier: Apache-2.0
// Types that are hard to contain: over-aligned, with an operator & of their own, compared by
// address; allocators with a state and a limit; sizes that can't be.
#include <gtest/gtest.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <memory_resource>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/table/swap_allocators.h"
#include "weakcache/cache/key_policy.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

// A key, value or object of kSize bytes that checks its alignment, and whose & gives nothing.
template <size_t kAlignment, size_t kSize>
struct alignas(kAlignment) Aligned {
  explicit Aligned(int number) : number(number) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(this) % kAlignment, 0u);
  }
  Aligned(const Aligned& other) : Aligned(other.number) {}
  Aligned& operator=(const Aligned&) = delete;
  void operator&() const = delete;  // NOLINT: that is what is tested
  friend bool operator==(const Aligned& a, const Aligned& b) { return a.number == b.number; }
  template <typename State>
  friend State AbslHashValue(State state, const Aligned& aligned) {
    return State::combine(std::move(state), aligned.number);
  }

  int number;
  char padding[kSize - sizeof(int)] = {};
};

template <typename T>
class WeakContainerTypesTest : public ::testing::Test {};
// Less than a cache line, which slots are aligned to, just that, more, and more than a page of
// slots.
using AlignedTypes =
    ::testing::Types<Aligned<4, 8>, Aligned<64, 64>, Aligned<128, 384>, Aligned<4096, 4096>>;
TYPED_TEST_SUITE(WeakContainerTypesTest, AlignedTypes);

TYPED_TEST(WeakContainerTypesTest, KeysOfAValueMap) {
  WeakValueMap<TypeParam, int> map;
  WeakValueMap<TypeParam, std::shared_ptr<int>> shared;
  const Ref<int> object = MakeRef<int>(1);
  const auto shared_object = std::make_shared<int>(1);
  std::vector<Ref<int>> created;
  for (int i = 0; i < 40; ++i) {
    map.insert(TypeParam(i), object);
    created.push_back(map.get_or_create(TypeParam(100 + i), [] { return 2; }));
    shared.insert(TypeParam(i), shared_object);
  }
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(map.get(TypeParam(i)), object);
    EXPECT_EQ(map.get(TypeParam(100 + i)), created[static_cast<size_t>(i)]);
    EXPECT_EQ(shared.get(TypeParam(i)), shared_object);
  }
  EXPECT_EQ(map.take(TypeParam(3)), object);
  EXPECT_EQ(map.erase(TypeParam(4)), 1u);
  for (const auto& [key, value] : map) EXPECT_NE(key.number, 4);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(WeakContainerTypesTest, ValuesAndKeysOfAKeyMap) {
  WeakKeyMap<TypeParam, TypeParam> by_identity;
  WeakKeyMap<TypeParam, TypeParam, ByValue<>> by_value;
  std::vector<Ref<TypeParam>> keys;
  for (int i = 0; i < 20; ++i) {
    keys.push_back(MakeRef<TypeParam>(i));
    by_identity.try_emplace(keys.back(), i);
    by_value.insert_or_assign(keys.back(), TypeParam(i));
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(by_identity.get(keys[static_cast<size_t>(i)])->number, i);
    EXPECT_EQ(by_value.get(TypeParam(i))->number, i);
  }
}

TYPED_TEST(WeakContainerTypesTest, ObjectsOfSetsAndInterners) {
  WeakSet<TypeParam> set;
  WeakInterner<TypeParam> interner;
  std::vector<Ref<TypeParam>> objects;
  std::vector<Ref<const TypeParam>> interned;
  for (int i = 0; i < 20; ++i) {
    objects.push_back(MakeRef<TypeParam>(i));
    EXPECT_TRUE(set.insert(objects.back()).second);
    interned.push_back(interner.intern(TypeParam(i)));
  }
  EXPECT_EQ(set.size(), 20u);
  EXPECT_EQ(interner.get(TypeParam(7)), interned[7]);
}

// --- Text by address ----------------------------------------------------------------------------

template <typename Key, typename Equal = internal::DefaultEqual<Key>>
inline constexpr bool kRefused = internal::kComparesTextByAddress<Key, Equal>;
struct SameText {
  bool operator()(const char* a, const char* b) const { return std::string(a) == b; }
};
static_assert(kRefused<const char*> && kRefused<char*> && kRefused<const char8_t*> &&
              kRefused<const wchar_t*, std::equal_to<>>);
static_assert(!kRefused<std::string> && !kRefused<const int*> && !kRefused<const void*>);
static_assert(!kRefused<const char*, SameText>);

TEST(WeakContainerTextTest, CharactersByAnEqualityOfTheTextAreKeys) {
  const auto hash = [](const char* text) { return std::hash<std::string>()(text); };
  WeakValueMap<const char*, int, decltype(hash), SameText> map(hash);
  const Ref<int> object = MakeRef<int>(1);
  map.insert("one", object);
  EXPECT_EQ(map.get(std::string("one").c_str()), object);
}

// --- Sizes that can't be ------------------------------------------------------------------------

// Gives no more than so many objects at once, as every allocator does at some size.
template <typename T>
struct LimitedAllocator {
  using value_type = T;
  LimitedAllocator() = default;
  template <typename U>
  LimitedAllocator(const LimitedAllocator<U>&) {}  // NOLINT: converts, as allocators do
  static constexpr size_t max_size() { return 1000; }
  T* allocate(size_t count) {
    EXPECT_LE(count, max_size());
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* memory, size_t count) { std::allocator<T>().deallocate(memory, count); }
  friend bool operator==(const LimitedAllocator&, const LimitedAllocator&) { return true; }
};

TEST(WeakContainerSizesTest, ReserveThrowsForWhatCanNotBe) {
  WeakValueMap<int, int> map;
  const Ref<int> object = map.get_or_create(1, [] { return 1; });
  EXPECT_THROW(map.reserve((size_t{1} << 28) + 1), std::length_error);
  EXPECT_THROW(map.reserve(std::numeric_limits<size_t>::max()), std::length_error);
  EXPECT_THROW(WeakSet<int>().reserve(std::numeric_limits<size_t>::max() / 2), std::length_error);
  EXPECT_EQ(map.get(1), object);
  map.reserve(100);
  map.CheckInvariantsForTesting();
}

// On 32 bits a std::allocator's limit is below 2^28 entries.
TEST(WeakContainerSizesTest, ReserveAsksTheAllocatorWhatItCanGive) {
  WeakValueMap<int, int, absl::Hash<int>, std::equal_to<int>, LimitedAllocator<char>> map;
  const Ref<int> object = map.get_or_create(1, [] { return 1; });
  EXPECT_THROW(map.reserve(1'000'000), std::length_error);
  EXPECT_EQ(map.get(1), object);
  map.reserve(1000);
  map.CheckInvariantsForTesting();
}

// --- Keys that collide and go
// ---------------------------------------------------------------------

struct CollidingHash {
  size_t operator()(int key) const { return key >= 100'000 ? 0 : absl::Hash<int>()(key); }
};

// The index has forgotten them afterwards: CheckInvariantsForTesting says so.
TEST(WeakContainerCollisionsTest, CollidingKeysThatHaveGoneLeaveNothing) {
  for (const int way : {0, 1, 2}) {
    WeakValueMap<int, int, CollidingHash> map;
    std::vector<Ref<int>> live, colliding;
    for (int i = 0; i < 2000; ++i) live.push_back(map.get_or_create(i, [] { return 1; }));
    for (int i = 0; i < 1500; ++i) {
      colliding.push_back(map.get_or_create(100'000 + i, [] { return 1; }));
    }
    if (way == 0) {
      colliding.clear();
      map.purge();
    } else if (way == 1) {
      for (int i = 0; i < 1500; ++i) EXPECT_EQ(map.erase(100'000 + i), 1u);
    } else {
      EXPECT_EQ(map.erase_if([](int key, const auto&) { return key >= 100'000; }), 1500u);
    }
    map.CheckInvariantsForTesting();
    EXPECT_EQ(map.size(), 2000u);
    for (int i = 0; i < 2000; ++i) ASSERT_EQ(map.get(i), live[static_cast<size_t>(i)]);
  }
}

// --- Swaps --------------------------------------------------------------------------------------

// Moves the contents of a container with itself, which has an allocator with a state.
template <typename Container>
void SwapWithItself(Container& container) {
  Container& itself = container;
  container.swap(itself);
  swap(container, itself);
}

TEST(WeakContainerSwapTest, WithItself) {
  std::pmr::unsynchronized_pool_resource pool;
  const std::pmr::polymorphic_allocator<char> allocator(&pool);
  using Allocator = std::pmr::polymorphic_allocator<char>;
  const Ref<int> object = MakeRef<int>(1);

  WeakValueMap<int, int, absl::Hash<int>, std::equal_to<int>, Allocator> map(allocator);
  map.insert(1, object);
  SwapWithItself(map);
  EXPECT_EQ(map.get(1), object);
  EXPECT_EQ(map.get_allocator().resource(), &pool);
  map.insert(2, object);
  EXPECT_EQ(map.size(), 2u);

  WeakSet<int, Allocator> set(allocator);
  set.insert(object);
  SwapWithItself(set);
  EXPECT_TRUE(set.contains(object));
  EXPECT_EQ(set.get_allocator().resource(), &pool);
}

// The allocator alone: a swap destroys it and copies it, but never from one that was destroyed.
struct CopiedAllocator {
  CopiedAllocator() { alive.insert(this); }
  CopiedAllocator(const CopiedAllocator& other) : number(other.number) {
    EXPECT_TRUE(alive.contains(std::addressof(other)));
    alive.insert(this);
  }
  CopiedAllocator& operator=(const CopiedAllocator&) = delete;
  ~CopiedAllocator() { alive.erase(this); }

  inline static std::set<const CopiedAllocator*> alive;
  int number = 7;
};
TEST(WeakContainerSwapTest, AnAllocatorWithItself) {
  CopiedAllocator allocator;
  internal::SwapAllocators(allocator, allocator);
  EXPECT_EQ(allocator.number, 7);
}

// --- Names that all containers have --------------------------------------------------------------

template <typename Container>
concept HasStandardNames = requires(const Container& container) {
  typename Container::Strong;
  typename Container::Weak;
  typename Container::key_type;
  typename Container::value_type;
  typename Container::size_type;
  typename Container::difference_type;
  typename Container::allocator_type;
  typename Container::iterator;
  typename Container::const_iterator;
  { container.size() } -> std::same_as<typename Container::size_type>;
  { container.empty() } -> std::same_as<bool>;
  { container.clone() } -> std::same_as<Container>;
  container.snapshot();
};
static_assert(HasStandardNames<WeakValueMap<int, int>>);
static_assert(HasStandardNames<WeakKeyMap<int, int>>);
static_assert(HasStandardNames<WeakSet<int>>);
static_assert(HasStandardNames<WeakInterner<int>>);
static_assert(std::same_as<WeakValueMap<int, int>::mapped_type, Ref<int>>);
static_assert(std::same_as<WeakKeyMap<int, std::string>::mapped_type, std::string>);

}  // namespace
}  // namespace weakcache
