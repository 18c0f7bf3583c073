// SPDX-License-Identifier: Apache-2.0
// The end of a ConcurrentWeakValueMap while user code is running in it or by it, and what may be
// done with a map that was moved from.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/last_words.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::LastWords;

using Map = ConcurrentWeakValueMap<LastWords, int>;

TEST(ConcurrentWeakValueMapEndTest, KeysMayUseTheMapAtItsEnd) {
  constexpr int kEntries = 40;
  for (const size_t shards : {size_t{1}, size_t{16}}) {
    std::vector<Ref<int>> objects;
    std::optional<Map> map(*Map::Create({.shards = shards}));
    int ended = 0;
    int entered_late = 0;
    for (int i = 0; i < kEntries; ++i) {
      objects.push_back(MakeRef<int>(i));
      map->insert(LastWords(i,
                            [&, i] {
                              ++ended;
                              for (int key = 0; key < kEntries; ++key) {
                                const Ref<int> found = map->get(LastWords(key));
                                EXPECT_TRUE(found == nullptr || *found == key);
                              }
                              EXPECT_EQ(map->get(LastWords(i)), nullptr);
                              if (i % 10 != 0) return;
                              map->insert(LastWords(100 + i,
                                                    [&] {
                                                      ++entered_late;
                                                      for (int key = 0; key < kEntries; ++key) {
                                                        static_cast<void>(map->get(LastWords(key)));
                                                      }
                                                    }),
                                          objects[static_cast<size_t>(i)]);
                            }),
                  objects.back());
    }
    Map* const before = &*map;
    // Its own memory stays, and so it is reachable by its destructor's callees.
    std::destroy_at(before);
    EXPECT_EQ(ended, kEntries);
    EXPECT_EQ(entered_late, kEntries / 10);
    std::construct_at(before);
  }
}

// As the last object but one goes, the map is ended in the middle of an operation of its own.
TEST(ConcurrentWeakValueMapEndTest, EndsInsideACreationThatComesToNothing) {
  for (const bool creates_before : {false, true}) {
    auto map = std::make_unique<Map>(*Map::Create({.shards = 1}));
    Ref<int> other;
    if (creates_before) other = map->get_or_create(LastWords(3), [] { return 3; });
    map->insert(LastWords(1, [&] { map.reset(); }), MakeRef<int>(1));
    // The first object has died; its key goes as this operation removes its entry.
    const Ref<int> created = map->get_or_create(LastWords(2), []() -> Ref<int> { return nullptr; });
    EXPECT_EQ(created, nullptr);
    EXPECT_EQ(map, nullptr);
  }
}

TEST(ConcurrentWeakValueMapEndTest, EndsInsideTheDestructorOfAKeyThatWasForNothing) {
  auto map = std::make_unique<Map>(*Map::Create({.shards = 1}));
  const Ref<int> created =
      map->get_or_create(LastWords(1, [&] { map.reset(); }), []() -> Ref<int> { return nullptr; });
  EXPECT_EQ(created, nullptr);
  EXPECT_EQ(map, nullptr);
}

TEST(ConcurrentWeakValueMapDeathTest, MapThatWasMovedFrom) {
  using Strings = ConcurrentWeakValueMap<std::string, int>;
  Strings map;
  Strings other = std::move(map);
  // NOLINTBEGIN(bugprone-use-after-move)
  const Ref<int> object = MakeRef<int>(1);
  EXPECT_DEATH((void)map.get("a"), "ConcurrentWeakValueMap::get: the map has been moved from");
  EXPECT_DEATH((void)map.get_or_create("a", [] { return 1; }), "get_or_create: the map has been");
  EXPECT_DEATH(map.insert("a", object), "::insert: the map has been moved from");
  EXPECT_DEATH(map.insert_or_assign("a", object), "insert_or_assign: the map has been moved from");
  EXPECT_DEATH((void)map.emplace_or_assign("a", 1), "emplace_or_assign: the map has been moved");
  EXPECT_DEATH(map.erase("a"), "erase: the map has been moved from");
  EXPECT_DEATH((void)map.size(), "size: the map has been moved from");
  EXPECT_DEATH(map.purge(), "purge: the map has been moved from");
  EXPECT_DEATH(map.clear(), "clear: the map has been moved from");
  EXPECT_DEATH(map.reserve(10), "reserve: the map has been moved from");
  EXPECT_DEATH(map.for_each([](const auto&, const auto&) {}), "for_each: the map has been moved");
  map = Strings();
  // NOLINTEND(bugprone-use-after-move)
  EXPECT_TRUE(map.empty());
}

}  // namespace
}  // namespace weakcache
