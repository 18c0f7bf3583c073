// SPDX-License-Identifier: Apache-2.0
// WeakKeyMap over other handles than this library's own: std::shared_ptr, and one of somebody's own
// that has nothing but what a Handle must have.
#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/tracked.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::SmallTracked;
using testing::Tracked;
using Key = Tracked;
using Value = SmallTracked;
using Pointer = std::shared_ptr<Key>;

// Only get(): it can be neither dereferenced nor compared.
template <typename T>
struct BareHandle {
  T* get() const noexcept { return object.get(); }
  std::shared_ptr<T> object;
};
template <typename T>
struct BareWeak {
  std::weak_ptr<T> object;
};

}  // namespace

template <typename T>
struct HandleTraits<BareHandle<T>> {
  using element_type = T;
  using strong_type = BareHandle<T>;
  using weak_type = BareWeak<T>;
  static constexpr bool kNotifiesExpiry = false;
  static weak_type MakeWeak(const strong_type& strong) noexcept { return {strong.object}; }
  static strong_type Lock(const weak_type& weak) noexcept { return {weak.object.lock()}; }
  static bool Expired(const weak_type& weak) noexcept { return weak.object.expired(); }
  template <typename A, typename B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return !a.object.owner_before(b.object) && !b.object.owner_before(a.object);
  }
  static bool Owns(const strong_type& strong) noexcept { return strong.object != nullptr; }
  template <typename... Args>
  static strong_type Make(Args&&... args) {
    return {std::make_shared<T>(std::forward<Args>(args)...)};
  }
};

namespace {

template <typename Strong>
class WeakKeyMapHandlesTest : public ::testing::Test {
 protected:
  static Strong Make(int id) { return HandleTraits<Strong>::Make(id); }
};
using AllHandles = ::testing::Types<Ref<Key>, Ref<const Key>, Pointer, std::shared_ptr<const Key>,
                                    BareHandle<Key>>;
TYPED_TEST_SUITE(WeakKeyMapHandlesTest, AllHandles);

TYPED_TEST(WeakKeyMapHandlesTest, TheWholeSurfaceByIdentity) {
  WeakKeyMap<TypeParam, Value> map;
  TypeParam keys[] = {this->Make(0), this->Make(1), this->Make(0)};
  EXPECT_TRUE(map.try_emplace(keys[0], 10).second);
  EXPECT_FALSE(map.try_emplace(keys[0], 11).second);
  EXPECT_EQ(map.get_or_create(keys[1], [] { return Value(11); }).id(), 11);
  EXPECT_FALSE(map.contains(keys[2]));
  EXPECT_EQ(map.get(TypeParam()), nullptr);
  EXPECT_FALSE(map.insert_or_assign(keys[0], Value(12)).second);
  EXPECT_EQ(map.get(keys[0])->id(), 12);
  EXPECT_EQ(map.canonical_key(keys[0]).get(), keys[0].get());
  EXPECT_EQ(map.size(), 2u);
  EXPECT_EQ(map.snapshot().size(), 2u);
  EXPECT_EQ(map.clone().size(), 2u);
  EXPECT_EQ(map.erase_if([](const TypeParam& key, const Value&) { return key.get()->id() == 0; }),
            1u);
  EXPECT_EQ(map.pop()->second.id(), 11);
  EXPECT_EQ(map.pop().has_value(), false);
  EXPECT_EQ(Value::live(), 0);
  map.try_emplace(keys[2], 1);
  keys[2] = TypeParam();
  EXPECT_EQ(map.keys().size(), 0u);
  map.purge();
  EXPECT_EQ(Value::live(), 0);
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

struct IdHash {
  size_t operator()(const Key& key) const { return static_cast<size_t>(key.id()); }
};
struct IdEqual {
  bool operator()(const Key& a, const Key& b) const { return a.id() == b.id(); }
};

TYPED_TEST(WeakKeyMapHandlesTest, TheWholeSurfaceByValue) {
  WeakKeyMap<TypeParam, Value, ByValue<IdHash, IdEqual>> map;
  TypeParam keys[] = {this->Make(0), this->Make(1), this->Make(0)};
  EXPECT_TRUE(map.try_emplace(keys[0], 10).second);
  EXPECT_FALSE(map.try_emplace(keys[2], 11).second);
  EXPECT_EQ(map.get_or_create(keys[1], [] { return Value(11); })->id(), 11);
  EXPECT_FALSE(map.insert_or_assign(keys[2], Value(12)).second);
  EXPECT_EQ(map.get(keys[0])->id(), 12);
  EXPECT_EQ(map.canonical_key(keys[0]).get(), keys[2].get());
  EXPECT_EQ(map.get(Key(1))->id(), 11);
  EXPECT_EQ(map.get(2), nullptr);  // a Key is made of it
  EXPECT_EQ(map.take(Key(1))->id(), 11);
  EXPECT_EQ(map.erase(keys[0]), 1u);
  EXPECT_TRUE(map.empty());
  map.try_emplace(keys[1], 1);
  keys[1] = TypeParam();
  EXPECT_FALSE(map.contains(Key(1)));
  EXPECT_TRUE(map.keys().empty());
  map.purge();
  EXPECT_EQ(Value::live(), 0);
}

TEST(WeakKeyMapSharedPtrTest, APartIsAKeyOfItsOwn) {
  struct Whole {
    int first = 1;
    int second = 2;
  };
  WeakKeyMap<std::shared_ptr<int>, Value> map;
  auto whole = std::make_shared<Whole>();
  std::shared_ptr<int> first(whole, &whole->first);
  std::shared_ptr<int> second(whole, &whole->second);
  EXPECT_TRUE(map.try_emplace(first, 1).second);
  EXPECT_FALSE(map.contains(second));
  EXPECT_TRUE(map.try_emplace(second, 2).second);
  EXPECT_EQ(map.get(first)->id(), 1);
  EXPECT_EQ(map.get(second)->id(), 2);
  EXPECT_EQ(map.erase(first), 1u);
  EXPECT_EQ(map.size(), 1u);
  // The same address with another owner is another key.
  const std::shared_ptr<int> stranger(std::make_shared<int>(), second.get());
  EXPECT_FALSE(map.contains(stranger));
  whole.reset();
  first.reset();
  second.reset();
  EXPECT_EQ(map.purge(), 1u);
  EXPECT_EQ(Value::live(), 0);
}

TEST(WeakKeyMapSharedPtrTest, ANewObjectInheritsNothing) {
  WeakKeyMap<Pointer, int> map;
  for (int i = 0; i < 1000; ++i) {
    const Pointer key(new Key(i));  // often at the last one's address
    ASSERT_FALSE(map.contains(key));
    map.insert(key, i);
  }
  EXPECT_LE(map.size(), 10u);  // each insertion purges some
}

TEST(WeakKeyMapSharedPtrTest, FindsTheKeysThatTheirOwnValuesHold) {
  WeakKeyMap<Pointer, std::vector<Pointer>> map;
  const Pointer selfish = std::make_shared<Key>(1);
  const Pointer friendly = std::make_shared<Key>(2);
  map.insert(selfish, {friendly, selfish});
  map.insert(friendly, {selfish});
  EXPECT_EQ(map.find_self_references(), std::vector<Pointer>{selfish});
  WeakKeyMap<BareHandle<Key>, std::vector<Pointer>> bare;
  bare.insert({selfish}, {selfish});
  EXPECT_EQ(bare.find_self_references([](const std::vector<Pointer>& value, const auto& key) {
                  return value[0] == key.object;
                })
                .size(),
            1u);
}

TEST(WeakKeyMapSharedPtrDeathTest, AliasesWithoutAnOwnerNameTheCall) {
  WeakKeyMap<Pointer, int> map;
  Key key(1);
  const Pointer alias(Pointer(), &key);
  EXPECT_DEATH(map.insert(alias, 1), "WeakKeyMap::insert: the reference is null or owns nothing");
  EXPECT_FALSE(map.contains(alias));
}

// Values of dead keys go when an operation comes by their entries, and may use the map then.
TEST(WeakKeyMapSharedPtrTest, ThePurgedValuesDestructorMayUseTheMap) {
  struct Deed {
    explicit Deed(std::function<void()> act) : act(std::move(act)) {}
    Deed(const Deed&) = delete;
    ~Deed() {
      if (act) act();
    }
    std::function<void()> act;
  };
  using Map = WeakKeyMap<Pointer, Deed>;
  const Pointer other = std::make_shared<Key>(100);
  const std::function<void(Map&)> deeds[] = {
      [](Map& map) { map.purge(); },
      [](Map& map) { map.clear(); },
      [](Map& map) { map.shrink_to_fit(); },
      [&](Map& map) { map.insert_or_assign(other, nullptr); },
      [&](Map& map) {
        map.erase(other);
        map.try_emplace(other, nullptr);
      },
      [](Map& map) {
        for (int i = 0; i < 20; ++i) map.try_emplace(std::make_shared<Key>(i), nullptr);
      },
  };
  for (const auto& deed : deeds) {
    for (const bool by_insertion : {false, true}) {
      Map map;
      int done = 0;
      {
        std::vector<Pointer> keys;
        for (int i = 0; i < 10; ++i) {
          keys.push_back(std::make_shared<Key>(i));
          map.try_emplace(keys.back(), [&] {
            ++done;
            deed(map);
          });
        }
      }
      if (by_insertion) {
        for (int i = 0; i < 10; ++i) map.insert_or_assign(other, nullptr);
        EXPECT_EQ(map.get(other) != nullptr, true);
      } else {
        map.purge();
      }
      map.CheckInvariantsForTesting();
      map.purge();
      EXPECT_EQ(done, 10);
      map.CheckInvariantsForTesting();
    }
  }
}

}  // namespace
}  // namespace weakcache
