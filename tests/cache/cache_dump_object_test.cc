// SPDX-License-Identifier: Apache-2.0
// Which containers DumpObject finds.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <optional>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/holder_label.h"
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

// The cache samples each object.
Images NewSampledCache(std::function<absl::Time()> clock = {}) {
  Images::Options options = testing::WithBudget<Images>(1000);
  options.weigher = [](const Image&) { return 100; };
  options.holder_sample_bytes = 1;
  options.clock = std::move(clock);
  return *Images::Create(std::move(options));
}
// Returns "label*look-ups" of each holder, in a cache without others.
template <typename Reference>
std::string Holders(const Reference& reference) {
  const ObjectDump dump = DumpObject(reference);
  EXPECT_EQ(dump.containers.size(), 1u);
  EXPECT_EQ(dump.containers[0].sampled, 1u);
  std::string text;
  for (const ObjectDump::Holder& holder : dump.containers[0].holders) {
    text += (text.empty() ? "" : " ") + holder.label + "*" + std::to_string(holder.look_ups);
  }
  const uint64_t dropped = dump.containers[0].dropped_look_ups;
  return dropped == 0 ? text : text + " others*" + std::to_string(dropped);
}
Ref<Image> Take(Images& images, int key, const char* label) {
  const HolderLabel holder(label);
  return *images.GetOrLoad(key, [] { return Image(); });
}

TEST(CacheDumpObjectTest, NamesWhoHasTakenTheObject) {
  Images images = NewSampledCache();
  const Ref<Image> loaded = Take(images, 1, "renderer");
  const Ref<Image> put = MakeRef<Image>();
  {
    WEAKCACHE_HOLDER("importer");
    images.Put(2, put);
  }
  EXPECT_EQ(Holders(loaded), "renderer*1");
  EXPECT_EQ(Holders(put), "importer*1");
  for (const auto& [key, image] : {std::pair(1, loaded), std::pair(2, put)}) {
    static_cast<void>(Take(images, key, "export"));
    static_cast<void>(Take(images, key, "export"));
    static_cast<void>(Take(images, key, nullptr));
    const std::string first = key == 1 ? " renderer*1" : " importer*1";
    EXPECT_EQ(Holders(image), "*1 export*2" + first);
    EXPECT_EQ(Holders(WeakRef<Image>(image)), Holders(image));
    images.Invalidate(key);
    EXPECT_TRUE(DumpObject(image).containers.empty());
  }
}

// The clock that the cache reads, which is some milliseconds behind.
std::chrono::nanoseconds CoarseNow() {
  timespec now = {};
  EXPECT_EQ(clock_gettime(CLOCK_MONOTONIC_COARSE, &now), 0);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

TEST(CacheDumpObjectTest, SaysHowLongAgoTheObjectWasTaken) {
  Images images = NewSampledCache();
  const auto start = CoarseNow();
  const Ref<Image> image = Take(images, 1, "renderer");
  const auto taken = CoarseNow();
  while (CoarseNow() < taken + std::chrono::milliseconds(20)) continue;
  static_cast<void>(Take(images, 1, "export"));
  static_cast<void>(Take(images, 1, "renderer"));
  const ObjectDump dump = DumpObject(image);
  const auto most = std::chrono::steady_clock::now().time_since_epoch() - start;
  ASSERT_EQ(dump.containers[0].holders.size(), 2u);
  const ObjectDump::Holder& renderer = dump.containers[0].holders[0];
  EXPECT_EQ(renderer.label, "renderer");
  EXPECT_GE(*renderer.first_age, std::chrono::milliseconds(20));
  EXPECT_LE(*renderer.first_age, most);
  EXPECT_GE(*renderer.last_age, std::chrono::nanoseconds(0));
  EXPECT_LT(*renderer.last_age, *renderer.first_age);
  EXPECT_TRUE(std::regex_search(
      ToText(dump), std::regex("\n  taken by \"renderer\": 2 look-ups, [0-9]+m?s to [0-9]+m?s ago\n"
                               "  taken by \"export\": 1 look-up, [0-9]+m?s to [0-9]+m?s ago\n")))
      << ToText(dump);
}

TEST(CacheDumpObjectTest, DoesNotCallTheCachesClock) {
  int calls = 0;
  Images images = NewSampledCache([&] {
    ++calls;
    return absl::UnixEpoch();
  });
  const Ref<Image> image = Take(images, 1, "renderer");
  const int before = calls;
  const ObjectDump dump = DumpObject(image);
  EXPECT_EQ(calls, before);
  EXPECT_FALSE(dump.containers[0].holders[0].first_age.has_value());
  EXPECT_FALSE(dump.containers[0].holders[0].last_age.has_value());
  EXPECT_NE(ToText(dump).find("\n  taken by \"renderer\": 1 look-up\n"), std::string::npos)
      << ToText(dump);
}

TEST(CacheDumpObjectTest, ReferencesOfOtherEntriesAreNobodys) {
  Images images = NewSampledCache();
  Ref<Image> image = Take(images, 1, "renderer");
  images.Put(2, image);
  const WeakRef<Image> weak = image;
  EXPECT_FALSE(DumpObject(weak).containers[0].holders.empty());
  image.reset();
  EXPECT_TRUE(DumpObject(weak).containers[0].holders.empty()) << "only the cache holds it";
}

TEST(CacheDumpObjectTest, WhoHasReleasedTheObjectIsNotNamed) {
  Images images = NewSampledCache();
  Ref<Image> image = Take(images, 1, "renderer");
  const WeakRef<Image> weak = image;
  EXPECT_EQ(Holders(weak), "renderer*1");
  image.reset();
  EXPECT_EQ(Holders(weak), "") << "only the cache holds it";
  EXPECT_NE(ToText(DumpObject(weak)).find("\n  taken by nobody in a look-up"), std::string::npos);
  image = weak.lock();
  static_cast<void>(DumpObject(weak));
  EXPECT_EQ(Holders(image), "renderer*1") << "anew only when a look-up finds it idle";
  image.reset();
  image = Take(images, 1, "export");
  EXPECT_EQ(Holders(image), "export*1");
}

TEST(CacheDumpObjectTest, CountsTheLookUpsOfOthers) {
  Images images = NewSampledCache();
  const Ref<Image> image = Take(images, 1, "first");
  for (const char* const label : {"a", "b", "c", "d", "e", "f", "g", "h", "i"}) {
    static_cast<void>(Take(images, 1, label));
  }
  EXPECT_EQ(Holders(image), "i*1 h*1 g*1 f*1 e*1 d*1 c*1 first*1 others*2");
  EXPECT_NE(ToText(DumpObject(image)).find("\n  taken by others: 2 look-ups\n"), std::string::npos);
}

TEST(CacheDumpObjectTest, OneLabelsStacksCountTogether) {
  Images::Options options = testing::WithBudget<Images>(1000);
  options.weigher = [](const Image&) { return 100; };
  options.holder_sample_bytes = 1;
  options.holder_stacks = true;
  Images images = *Images::Create(std::move(options));
  const Ref<Image> image = Take(images, 1, "renderer");
  static_cast<void>([&] { return Take(images, 1, "renderer"); }());
  EXPECT_EQ(Holders(image), "renderer*2");
}

TEST(CacheDumpObjectTest, NamesNobodyOfObjectsThatAreNotSampled) {
  Images images = NewCache();
  const Ref<Image> image = Take(images, 1, "renderer");
  const ObjectDump dump = DumpObject(image);
  EXPECT_EQ(dump.containers[0].sampled, 0u);
  EXPECT_TRUE(dump.containers[0].holders.empty());
  EXPECT_EQ(ToText(dump).find("taken by"), std::string::npos);
}

TEST(CacheDumpObjectTest, NamesOfHoldersRaceWithLookUpsAndRemoval) {
  std::optional<Images> images;
  Ref<Image> loaded;
  Ref<Image> put;
  testing::Race(
      testing::RaceRounds(20000),
      [&](int) {
        images = NewSampledCache();
        loaded = Take(*images, 1, "renderer");
        put = MakeRef<Image>();
        images->Put(2, put);
      },
      {[&] {
         for (const Ref<Image>& image : {loaded, put}) {
           for (const ObjectDump::Containers& found : DumpObject(image).containers) {
             EXPECT_EQ(found.sampled, 1u);
             EXPECT_GE(found.holders.size(), 1u);
             EXPECT_LE(found.holders.size(), 2u);
           }
         }
       },
       [&] {
         static_cast<void>(Take(*images, 1, "export"));
         static_cast<void>(Take(*images, 2, "export"));
       },
       [&] { images->Invalidate(1); }},
      [&](int) {
        images.reset();
        EXPECT_EQ(Containers(loaded), Found());
        EXPECT_EQ(Containers(put), Found());
      });
}

TEST(CacheDumpObjectTest, NamesOfHoldersRaceWithTheEnd) {
  std::optional<Images> images;
  Ref<Image> loaded;
  Ref<Image> put;
  testing::Race(
      testing::RaceRounds(20000),
      [&](int) {
        images = NewSampledCache();
        loaded = Take(*images, 1, "renderer");
        put = MakeRef<Image>();
        images->Put(2, put);
      },
      {[&] {
         for (const Ref<Image>& image : {put, loaded}) {
           for (const ObjectDump::Containers& found : DumpObject(image).containers) {
             EXPECT_EQ(found.holders.size(), 1u);
           }
         }
       },
       [&] { images.reset(); }},
      [&](int) {
        EXPECT_EQ(Containers(loaded), Found());
        EXPECT_EQ(Containers(put), Found());
      });
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
