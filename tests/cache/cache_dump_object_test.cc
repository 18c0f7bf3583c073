// SPDX-License-Identifier: Apache-2.0
// Which containers DumpObject finds.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/dump_object.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace app {

struct Image {
  int pixels[32] = {};
};
struct Thumbnail {
  int width = 0;
};
struct Histogram {
  int bins[32] = {};
};
struct Name {
  char text[64] = {};
  friend bool operator==(const Name& a, const Name& b) { return a.text[0] == b.text[0]; }
  template <typename H>
  friend H AbslHashValue(H hash, const Name& name) {
    return H::combine(std::move(hash), name.text[0]);
  }
};
// A key with a function that is called like one of the library's.
struct Key {
  int number = 0;
  bool retained() const { std::abort(); }
  friend bool operator==(const Key&, const Key&) = default;
  template <typename H>
  friend H AbslHashValue(H hash, const Key& key) {
    return H::combine(std::move(hash), key.number);
  }
};

}  // namespace app

namespace weakcache {
namespace {

using app::Image;

// Returns "TYPE: ENTRIES, RETAINED" for each type of container.
template <typename Reference>
std::vector<std::string> Containers(const Reference& reference) {
  std::vector<std::string> found;
  for (const ObjectDump::Containers& containers : DumpObject(reference).containers) {
    found.push_back(containers.type + ": " + std::to_string(containers.entries) + ", " +
                    std::to_string(containers.retained));
  }
  return found;
}
using Found = std::vector<std::string>;

TEST(CacheDumpObjectTest, FindsTheEntriesOfObjectsThatWereInserted) {
  const Ref<Image> image = MakeRef<Image>();
  WeakValueMap<int, Image> by_number;
  by_number.insert(1, image);
  by_number.insert(2, image);
  EXPECT_EQ(Containers(image), (Found{"WeakValueMap<int, app::Image>: 2, 0"}));
  EXPECT_EQ(Containers(WeakRef<Image>(image)), Containers(image));
  by_number.erase(1);
  EXPECT_EQ(Containers(image), (Found{"WeakValueMap<int, app::Image>: 1, 0"}));
  WeakSet<Image> open;
  open.insert(image);
  WeakKeyMap<Image, app::Thumbnail> thumbnails;
  thumbnails.insert_or_assign(image, app::Thumbnail());
  WeakKeyMap<Image, app::Histogram> histograms;
  histograms.insert_or_assign(image, app::Histogram());
  ConcurrentWeakValueMap<app::Key, Image> concurrent;
  concurrent.insert(app::Key{1}, image);
  EXPECT_EQ(Containers(image),
            (Found{"ConcurrentWeakValueMap<app::Key, app::Image>: 1, 0",
                   "WeakKeyMap<app::Image, app::Histogram>: 1, 0",
                   "WeakKeyMap<app::Image, app::Thumbnail>: 1, 0", "WeakSet<app::Image>: 1, 0",
                   "WeakValueMap<int, app::Image>: 1, 0"}));
  concurrent.erase(app::Key{1});
  histograms.clear();
  by_number.clear();
  open.erase(image);
  thumbnails.erase(image);
  EXPECT_EQ(Containers(image), Found());
}

// The counts of an object that a container has created are in the slot.
template <typename Container, typename Create, typename Remove>
void ExpectOwnEntry(const std::string& name, Create create, Remove remove) {
  std::optional<Container> container(std::in_place);
  const auto object = create(*container);
  EXPECT_EQ(Containers(object), (Found{name + ": 1, 0"}));
  remove(*container);
  EXPECT_EQ(Containers(object), Found()) << name;
  const auto another = create(*container);
  EXPECT_EQ(Containers(another), (Found{name + ": 1, 0"}));
  container.reset();
  EXPECT_EQ(Containers(another), Found()) << name << " has ended";
}

TEST(CacheDumpObjectTest, FindsTheEntriesOfObjectsThatAContainerCreated) {
  ExpectOwnEntry<WeakValueMap<int, Image>>(
      "WeakValueMap<int, app::Image>",
      [](auto& map) { return map.get_or_create(1, [] { return Image(); }); },
      [](auto& map) { map.erase(1); });
  ExpectOwnEntry<ConcurrentWeakValueMap<int, Image>>(
      "ConcurrentWeakValueMap<int, app::Image>",
      [](auto& map) { return map.get_or_create(1, [] { return Image(); }); },
      [](auto& map) { map.erase(1); });
  ExpectOwnEntry<WeakInterner<int>>(
      "WeakInterner<int>", [](auto& interner) { return interner.intern(1); },
      [](auto& interner) { interner.clear(); });
  ExpectOwnEntry<WeakInterner<app::Name>>(
      "WeakInterner<app::Name>", [](auto& interner) { return interner.intern(app::Name()); },
      [](auto& interner) { interner.clear(); });
}

using Images = LargeObjectCache<int, Image>;
Images NewCache(uint64_t budget = 1000) {
  Images::Options options = testing::WithBudget<Images>(budget);
  options.weigher = [](const Image&) { return 100; };
  return *Images::Create(std::move(options));
}

TEST(CacheDumpObjectTest, SaysWhetherACacheRetainsTheObject) {
  Images images = NewCache();
  const Ref<Image> loaded = *images.GetOrLoad(1, [] { return Image(); });
  const Ref<Image> put = MakeRef<Image>();
  images.Put(2, put);
  const std::string name = "LargeObjectCache<int, app::Image>";
  EXPECT_EQ(Containers(loaded), Found{name + ": 1, 1"});
  EXPECT_EQ(Containers(put), Found{name + ": 1, 1"});
  EXPECT_EQ(DumpObject(put).strong_count, 2u);
  EXPECT_NE(ToText(DumpObject(put))
                .find("\n  entries of " + name + ": 1\n  references of " + name + ": 1\n"),
            std::string::npos)
      << ToText(DumpObject(put));
  images.SetBudget(0);
  EXPECT_EQ(Containers(loaded), Found{name + ": 1, 0"}) << "found while somebody uses it";
  EXPECT_EQ(Containers(put), Found{name + ": 1, 0"});
  EXPECT_EQ(DumpObject(put).strong_count, 1u);
  images.Invalidate(1);
  images.Invalidate(2);
  EXPECT_EQ(Containers(loaded), Found());
  EXPECT_EQ(Containers(put), Found());
}

TEST(CacheDumpObjectTest, NothingIsLeftOfACacheThatHasEnded) {
  std::optional<Images> images = NewCache();
  const Ref<Image> loaded = *images->GetOrLoad(1, [] { return Image(); });
  const Ref<Image> put = MakeRef<Image>();
  images->Put(2, put);
  images.reset();
  EXPECT_EQ(Containers(loaded), Found());
  EXPECT_EQ(Containers(put), Found());
}

TEST(CacheDumpObjectTest, RacesWithEvictionRemovalAndTheEnd) {
  std::optional<Images> images;
  std::optional<ConcurrentWeakValueMap<int, Image>> map;
  Ref<Image> loaded;
  Ref<Image> put;
  testing::Race(
      testing::RaceRounds(20000),
      [&](int) {
        images = NewCache();
        loaded = *images->GetOrLoad(1, [] { return Image(); });
        put = MakeRef<Image>();
        images->Put(2, put);
        map.emplace().insert(1, put);
        map->insert(2, loaded);
      },
      {[&] {
         EXPECT_LE(DumpObject(loaded).containers.size(), 2u);
         EXPECT_LE(DumpObject(put).containers.size(), 2u);
       },
       [&] { images->SetBudget(0); },
       [&] {
         images->Invalidate(2);
         images->Invalidate(1);
       },
       [&] { map.reset(); }},
      [&](int round) {
        if (round % 2 == 0) images.reset();
        EXPECT_EQ(Containers(loaded), Found());
        EXPECT_EQ(Containers(put), Found());
      });
}

}  // namespace
}  // namespace weakcache
