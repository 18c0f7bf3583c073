// SPDX-License-Identifier: Apache-2.0
// The program prints what it always has, and every line of the table at its top does what it says.
// After a change that is meant: ./bazelw run //examples:drop_in
// >examples/drop_in/drop_in_golden.txt

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <unordered_map>

#include "examples/golden.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"

namespace drop_in {
namespace {

using ::weakcache::WeakValueMap;

struct Page {
  int number = 0;
};
using K = std::string;

TEST(DropInTest, PrintsTheGoldenTextAndFindsNoDifference) { examples::ExpectGoldenText("drop_in"); }

// The left column.
TEST(DropInTableTest, Today) {
  using V = Page;
  const K key = "key";
  const auto Load = [] { return std::make_shared<V>(); };
  const auto HasExpired = [](const auto& entry) { return entry.second.expired(); };
  const auto condition = [](const auto& entry) { return entry.first == "key"; };
  int used = 0;
  const auto Use = [&](const std::shared_ptr<V>&) { ++used; };
  std::shared_ptr<V> object;

  std::unordered_map<K, std::weak_ptr<V>> map;
  {
    std::weak_ptr<V>& entry = map[key];
    object = entry.lock();
    if (!object) entry = object = Load();
  }
  const std::shared_ptr<V> loaded = object;
  object = nullptr;
  auto found = map.find(key);
  if (found != map.end()) object = found->second.lock();
  EXPECT_EQ(object, loaded);

  map["dead"] = Load();
  map.insert({"dead", object});
  EXPECT_EQ(map["dead"].lock(), nullptr) << "insert() has not replaced the dead entry";
  EXPECT_TRUE(map.contains("dead"));
  EXPECT_EQ(map.size(), 2u);
  for (const auto& [key, entry] : map)
    if (auto object = entry.lock()) Use(object);
  EXPECT_EQ(used, 1);
  std::erase_if(map, HasExpired);
  EXPECT_EQ(map.size(), 1u);

  if (map[key].lock() == object) map.erase(key);
  EXPECT_TRUE(map.empty());
  map[key] = object;
  std::unordered_map<K, std::weak_ptr<V>> copy;
  copy = map;
  EXPECT_EQ(copy.size(), 1u);
  std::erase_if(map, condition);
  EXPECT_TRUE(map.empty());
  map.swap(copy);
  map.reserve(100);
  map.erase(key);
  EXPECT_TRUE(map.empty());
  map.clear();
}

// The right column, with either kind of handle.
template <typename V>
class DropInTableTest : public ::testing::Test {};
using Handles = ::testing::Types<std::shared_ptr<Page>, Page>;
TYPED_TEST_SUITE(DropInTableTest, Handles);

TYPED_TEST(DropInTableTest, Then) {
  using Handle = typename WeakValueMap<K, TypeParam>::mapped_type;
  const K key = "key";
  const auto Load = [] { return weakcache::HandleTraits<Handle>::Make(); };
  const auto condition = [](const K& key, const Handle&) { return key == "key"; };
  int used = 0;
  const auto Use = [&](const Handle&) { ++used; };
  Handle object;

  WeakValueMap<K, TypeParam> map;
  object = map.get_or_create(key, Load);
  const Handle loaded = object;
  object = nullptr;
  object = map.get(key);
  EXPECT_EQ(object, loaded);

  map.insert_or_assign("dead", Load());
  EXPECT_FALSE(map.contains("dead"));
  map.insert("dead", object);
  EXPECT_EQ(map.get("dead"), object) << "insert() has replaced the dead entry";
  map.insert_or_assign("dead", Load());
  for (const auto& [key, object] : map) Use(object);
  EXPECT_EQ(used, 1);
  map.purge();
  EXPECT_EQ(map.size(), 1u);

  map.erase(key, Load());
  EXPECT_TRUE(map.contains(key)) << "erase() has removed another object than the expected one";
  map.erase(key, object);
  EXPECT_TRUE(map.empty());
  map.insert_or_assign(key, object);
  WeakValueMap<K, TypeParam> copy;
  copy = map.clone();
  EXPECT_EQ(copy.size(), 1u);
  map.erase_if(condition);
  EXPECT_TRUE(map.empty());
  map.swap(copy);
  map.reserve(100);
  map.erase(key);
  EXPECT_TRUE(map.empty());
  map.clear();
}

}  // namespace
}  // namespace drop_in
