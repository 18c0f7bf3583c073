// SPDX-License-Identifier: Apache-2.0
// WeakKeyMaps whose values are weak references: an entry is dead when its key or its value's object
// is.
#include <gtest/gtest.h>

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

// Other values are what they were, even if they are handles of another kind.
static_assert(!internal::kIsWeakValue<Ref<int>> && !internal::kIsWeakValue<std::shared_ptr<int>> &&
              !internal::kIsWeakValue<int> && internal::kIsWeakValue<const WeakRef<int>>);

}  // namespace
}  // namespace weakcache
