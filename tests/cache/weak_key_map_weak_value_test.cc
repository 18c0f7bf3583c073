// SPDX-License-Identifier: Apache-2.0
// WeakKeyMaps whose values are weak references: an entry is dead when its key or its value's object
// is.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/tracked.h"
#include "weakcache/cache/key_policy.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::Tracked;

// A key whose destructor calls `at_end`.
struct LastKey {
  std::function<void()> at_end;
  ~LastKey() {
    if (at_end) at_end();
  }
};
// A handle for which another thread drops its reference just after the map has taken one.
struct RacedHandle {
  LastKey* get() const noexcept { return object.get(); }
  std::shared_ptr<LastKey> object;
  static inline std::shared_ptr<LastKey>* dropped = nullptr;
};
struct RacedWeak {
  std::weak_ptr<LastKey> object;
};

}  // namespace

template <>
struct HandleTraits<RacedHandle> {
  using element_type = LastKey;
  using strong_type = RacedHandle;
  using weak_type = RacedWeak;
  static constexpr bool kNotifiesExpiry = false;
  static weak_type MakeWeak(const strong_type& strong) noexcept { return {strong.object}; }
  static strong_type Lock(const weak_type& weak) noexcept {
    strong_type strong{weak.object.lock()};
    std::shared_ptr<LastKey>* const dropped = RacedHandle::dropped;
    if (dropped != nullptr && *dropped == strong.object) dropped->reset();
    return strong;
  }
  static bool Expired(const weak_type& weak) noexcept { return weak.object.expired(); }
  template <typename A, typename B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return !a.object.owner_before(b.object) && !b.object.owner_before(a.object);
  }
  static bool Owns(const strong_type& strong) noexcept { return strong.object != nullptr; }
  template <typename... Args>
  static strong_type Make(Args&&... args) {
    return {std::make_shared<LastKey>(std::forward<Args>(args)...)};
  }
};

namespace {

template <typename K, typename S, typename P>
struct Case {
  using Key = K;
  using Strong = S;
  using Weak = typename HandleTraits<S>::weak_type;
  using Policy = P;
  using Map = WeakKeyMap<K, Weak, P>;
};
using Cases =
    ::testing::Types<Case<std::string, Ref<Tracked>, ByIdentity>,
                     Case<std::string, Ref<Tracked>, ByValue<>>,
                     Case<std::string, std::shared_ptr<Tracked>, ByIdentity>,
                     Case<std::shared_ptr<std::string>, std::shared_ptr<Tracked>, ByIdentity>,
                     Case<std::shared_ptr<std::string>, Ref<Tracked>, ByValue<>>>;

template <typename T>
class WeakKeyMapWeakValueTest : public ::testing::Test {
 protected:
  using Map = typename T::Map;
  using Key = typename Map::Strong;
  using Value = typename T::Strong;
  using Weak = typename T::Weak;

  static Key MakeKey(const char* text) { return HandleTraits<Key>::Make(text); }
  static Value MakeValue(int id) { return HandleTraits<Value>::Make(id); }
};
TYPED_TEST_SUITE(WeakKeyMapWeakValueTest, Cases);

TYPED_TEST(WeakKeyMapWeakValueTest, ADeadValueIsNotFound) {
  typename TestFixture::Map map;
  const auto key = this->MakeKey("key");
  auto value = this->MakeValue(1);
  EXPECT_TRUE(map.insert_or_assign(key, typename TestFixture::Weak(value)).second);
  EXPECT_TRUE(map.contains(key));
  EXPECT_EQ(map.get(key)->lock(), value);
  EXPECT_EQ(map.canonical_key(key), key);
  value.reset();
  EXPECT_FALSE(map.contains(key));
  EXPECT_FALSE(map.get(key));
  EXPECT_EQ(map.canonical_key(key), nullptr);
  for ([[maybe_unused]] const auto& entry : map) ADD_FAILURE();
  EXPECT_TRUE(map.snapshot().empty());
  EXPECT_EQ(map.erase(key), 0u);
  EXPECT_EQ(map.size(), 0u);
}

TYPED_TEST(WeakKeyMapWeakValueTest, ADeadValueIsReplaced) {
  typename TestFixture::Map map;
  const auto key = this->MakeKey("key");
  using Weak = typename TestFixture::Weak;
  auto value = this->MakeValue(1);
  map.insert(key, Weak(value));
  value = this->MakeValue(2);
  int calls = 0;
  const auto create = [&] {
    ++calls;
    return Weak(value);
  };
  const auto id_of = [](const auto& found) { return (*found).lock()->id(); };
  static_cast<void>(map.get_or_create(key, create));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(id_of(map.get(key)), 2);
  static_cast<void>(map.get_or_create(key, create));
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(map.try_emplace(key, value).second);

  value = this->MakeValue(3);
  const auto [found, inserted] = map.try_emplace(key, value);
  EXPECT_TRUE(inserted);
  EXPECT_EQ(id_of(found), 3);
  value = this->MakeValue(4);
  EXPECT_TRUE(map.insert_or_assign(key, value).second);  // there was none
  EXPECT_FALSE(map.insert_or_assign(key, value).second);
  EXPECT_EQ(map.size(), 1u);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(WeakKeyMapWeakValueTest, DeadValuesArePurgedAndNeitherTakenNorPopped) {
  typename TestFixture::Map map;
  using Weak = typename TestFixture::Weak;
  const auto first = this->MakeKey("first");
  const auto second = this->MakeKey("second");
  auto dying = this->MakeValue(1);
  const auto living = this->MakeValue(2);
  const auto fill = [&] {
    dying = this->MakeValue(1);
    map.insert_or_assign(first, Weak(dying));
    map.insert_or_assign(second, Weak(living));
    dying.reset();
  };
  fill();
  EXPECT_EQ(map.purge(), 1u);
  EXPECT_EQ(map.size(), 1u);
  EXPECT_EQ(map.purge(), 0u);
  fill();
  EXPECT_FALSE(map.take(first).has_value());
  EXPECT_EQ(map.take(second)->lock(), living);
  EXPECT_EQ(map.size(), 0u);
  fill();
  const auto popped = map.pop();
  ASSERT_TRUE(popped.has_value());
  EXPECT_EQ(popped->first, second);
  EXPECT_EQ(map.pop(), std::nullopt);
  map.CheckInvariantsForTesting();
}

TYPED_TEST(WeakKeyMapWeakValueTest, MergeUpdateAndCloneSkipDeadValues) {
  typename TestFixture::Map map, other;
  using Weak = typename TestFixture::Weak;
  const auto key = this->MakeKey("key");
  const auto second = this->MakeKey("second");
  auto dead = this->MakeValue(1);
  const auto living = this->MakeValue(2);
  map.insert(key, Weak(dead));
  other.insert(key, Weak(living));
  other.insert(second, Weak(dead));
  dead.reset();
  EXPECT_EQ(other.clone().size(), 1u);
  map.merge(other);
  EXPECT_EQ(map.get(key)->lock(), living);
  EXPECT_FALSE(map.contains(second));
  EXPECT_EQ(map.size(), 1u);
}

TYPED_TEST(WeakKeyMapWeakValueTest, AnIteratorKeepsNoKeyThatItHasSkipped) {
  typename TestFixture::Map map;
  auto key = this->MakeKey("key");
  auto value = this->MakeValue(1);
  map.insert(key, typename TestFixture::Weak(value));
  value.reset();
  const auto end = map.begin();
  EXPECT_TRUE(end == map.end());
  const typename HandleTraits<typename TestFixture::Key>::weak_type weak(key);
  key.reset();
  EXPECT_TRUE(weak.expired());
}

using RacedMap = WeakKeyMap<RacedHandle, WeakRef<Tracked>>;
RacedHandle MakeRaced() { return HandleTraits<RacedHandle>::Make(); }

// Without AddressSanitizer an entry that was erased too early may go unnoticed.
TEST(WeakKeyMapRacedKeyTest, ASkippedKeyMayEraseTheNextEntryOfAnIteration) {
  RacedMap map;
  RacedHandle first = MakeRaced();
  const RacedHandle second = MakeRaced();
  Ref<Tracked> dead = MakeRef<Tracked>(1);
  const Ref<Tracked> living = MakeRef<Tracked>(2);
  map.insert(first, WeakRef<Tracked>(dead));
  map.insert(second, WeakRef<Tracked>(living));
  dead.reset();
  first.object->at_end = [&] { EXPECT_EQ(map.erase(second), 1u); };
  RacedHandle::dropped = &first.object;
  for ([[maybe_unused]] const auto& entry : map) ADD_FAILURE();
  RacedHandle::dropped = nullptr;
  EXPECT_EQ(first.object, nullptr);
  map.purge();
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

TEST(WeakKeyMapRacedKeyTest, APoppedKeyWithADeadValueMayChangeTheMap) {
  RacedMap map;
  RacedHandle key = MakeRaced();
  const RacedHandle other = MakeRaced();
  Ref<Tracked> dead = MakeRef<Tracked>(1);
  const Ref<Tracked> living = MakeRef<Tracked>(2);
  map.insert(key, WeakRef<Tracked>(dead));
  dead.reset();
  key.object->at_end = [&] {
    map.clear();
    map.insert(other, WeakRef<Tracked>(living));
  };
  RacedHandle::dropped = &key.object;
  const auto popped = map.pop();
  RacedHandle::dropped = nullptr;
  EXPECT_EQ(key.object, nullptr);
  ASSERT_TRUE(popped.has_value());
  EXPECT_EQ(popped->first.object, other.object);
  EXPECT_EQ(map.pop(), std::nullopt);
  map.CheckInvariantsForTesting();
}

// Other values are what they were, even if they are handles of another kind.
static_assert(!internal::kIsWeakValue<Ref<int>> && !internal::kIsWeakValue<std::shared_ptr<int>> &&
              !internal::kIsWeakValue<int> && internal::kIsWeakValue<const WeakRef<int>>);

}  // namespace
}  // namespace weakcache
