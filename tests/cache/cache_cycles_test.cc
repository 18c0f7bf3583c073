// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/cache_options.h"
#include "weakcache/cache/cycles.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/testing.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

struct Image {
  std::string name;
  Ref<Image> frame;
};
void WeakcacheTrace(const Image& image, Tracer& trace) { trace(image.frame, "frame"); }
std::string WeakcacheLabel(const Image& image) { return image.name; }

// What is attached to an image, and may hold it.
struct Preview {
  Ref<Image> source;
  std::shared_ptr<Image> shared;
};
void WeakcacheTrace(const Preview& preview, Tracer& trace) {
  trace(preview.source, "source");
  trace(preview.shared, "shared");
}

Ref<Image> NewImage(Census& census, std::string name) {
  Ref<Image> image = MakeRef<Image>(Image{std::move(name), nullptr});
  census.Add(image);
  return image;
}

TEST(CacheCyclesTest, ACacheHoldsWhatItRetains) {
  using Images = LargeObjectCache<int, Image>;
  Images::Options options = testing::WithBudget<Images>(1000);
  options.weigher = [](const Image&) { return 100; };
  Images images = *Images::Create(std::move(options));
  Census census;
  WeakRef<Image> frame;
  {
    const Ref<Image> loaded = *images.GetOrLoad(1, [] { return Image{"cover", nullptr}; });
    loaded->frame = NewImage(census, "frame");
    frame = loaded->frame;
    census.Add(loaded);
  }
  const CensusRoot root(census, images, "images");
  const AlivePath path = WhyAlive(census, frame);
  ASSERT_EQ(path.objects.size(), 3u);
  EXPECT_EQ(path.edges, (std::vector<std::string_view>{"retained", "frame"}));
  EXPECT_EQ(ToText(path).substr(0, 15), "cache \"images\"\n") << ToText(path);
  // An object in use that is not retained is held by its users only.
  const Ref<Image> in_use = images.Get(1);
  images.SetBudget(0);
  ASSERT_EQ(images.Peek(1), in_use);
  EXPECT_EQ(WhyAlive(census, frame).references_from_outside, 1u);
  EXPECT_NO_CYCLES(census);
}

TEST(CacheCyclesTest, AConcurrentSearchLeavesOutWhatACacheRetains) {
  using Images = LargeObjectCache<int, Image>;
  Images::Options options = testing::WithBudget<Images>(100'000);
  options.weigher = [](const Image&) { return 100; };
  Images images = *Images::Create(std::move(options));
  Census census;
  const CensusRoot root(census, images, "images");
  for (int i = 0; i < 100; ++i) {  // more than a search enters at once
    const Ref<Image> image = *images.GetOrLoad(i, [] { return Image{"cover", nullptr}; });
    census.Add(image);
    const CycleReport report = FindCyclesConcurrently(census);
    EXPECT_TRUE(report.groups.empty()) << ToText(report);
    EXPECT_EQ(report.edges_seen, 0u);
    EXPECT_EQ(FindCycles(census).edges_seen, static_cast<size_t>(i) + 1);
  }
}

// A path is a range of paths.
TEST(CacheCyclesTest, APathMayBeAKey) {
  using Images = LargeObjectCache<std::filesystem::path, Image>;
  Images::Options options = testing::WithBudget<Images>(1000);
  options.weigher = [](const Image&) { return 100; };
  Images images = *Images::Create(std::move(options));
  Census census;
  const CensusRoot root(census, images, "images");
  const WeakRef<Image> image = *images.GetOrLoad("cover.png", [] {
    return Image{"cover", nullptr};
  });
  census.Add(image.lock());
  EXPECT_EQ(WhyAlive(census, image).objects.size(), 2u);
}

TEST(CacheCyclesTest, AValueThatHoldsItsKeyIsACycleOfTheKey) {
  Census census;
  WeakKeyMap<Image, Preview> previews;
  const CensusRoot root(census, previews, "previews");
  Ref<Image> leaked = NewImage(census, "leaked");
  Ref<Image> fine = NewImage(census, "fine");
  previews.insert(leaked, Preview{leaked, nullptr});
  previews.insert(fine, Preview{});
  EXPECT_NO_CYCLES(census);
  const WeakRef<Image> weak = leaked;
  leaked.reset();
  const CycleReport report = FindCycles(census);
  ASSERT_EQ(report.groups.size(), 1u) << ToText(report);
  ASSERT_EQ(report.groups[0].objects.size(), 1u);
  EXPECT_EQ(report.groups[0].objects[0].label, "leaked");
  ASSERT_EQ(report.groups[0].edges.size(), 1u);
  EXPECT_EQ(report.groups[0].edges[0].name, "source");
  EXPECT_TRUE(WhyAlive(census, weak).objects.empty());
  previews.erase(weak.lock());
  EXPECT_TRUE(weak.expired());
  EXPECT_NO_CYCLES(census);
}

TEST(CacheCyclesTest, ValuesLeadFromKeyToKey) {
  const Ref<Image> unknown = MakeRef<Image>();
  Census census;
  WeakKeyMap<Image, Ref<Image>> next;
  const CensusRoot root(census, next, "next");
  std::vector<Ref<Image>> images;
  for (const char* name : {"a", "b", "c", "d"}) images.push_back(NewImage(census, name));
  images[0]->frame = images[3];  // comes before the edges that the map tells
  next.insert(images[0], images[1]);
  next.insert(images[1], images[2]);
  const WeakRef<Image> last = images[2];
  images.resize(1);
  AlivePath path = WhyAlive(census, last);
  ASSERT_EQ(path.objects.size(), 3u) << ToText(path);
  EXPECT_EQ(path.objects[1].label, "b");
  EXPECT_EQ(path.edges[1], "value attached to it");
  next.insert(last.lock(), images[0]);
  images.clear();
  const CycleReport report = FindCycles(census);
  ASSERT_EQ(report.groups.size(), 1u) << ToText(report);
  EXPECT_EQ(report.groups[0].objects.size(), 3u);
  EXPECT_EQ(report.groups[0].edges.size(), 3u);
  EXPECT_EQ(report.groups[0].held_objects, 1u);
  // What a key outside the census holds may be held from outside.
  next.insert(unknown, last.lock());
  EXPECT_NO_CYCLES(census);
  next.clear();
  EXPECT_TRUE(last.expired());
}

TEST(CacheCyclesTest, AValueThatHoldsItsSharedKey) {
  Census census;
  WeakKeyMap<std::shared_ptr<Image>, Preview> previews;
  const CensusRoot root(census, previews, "previews");
  auto leaked = std::make_shared<Image>();
  census.Add(leaked);
  previews.insert(leaked, Preview{nullptr, leaked});
  EXPECT_NO_CYCLES(census);
  leaked.reset();
  EXPECT_EQ(FindCycles(census).groups.size(), 1u);
  previews.clear();
}

// An object that has each of the containers as a member.
struct Library {
  WeakValueMap<Ref<Library>, Image> by_library;
  WeakValueMap<std::string, Image> by_name;
  ConcurrentWeakValueMap<std::shared_ptr<Library>, Image> concurrent;
  ConcurrentWeakValueMap<std::string, Image> concurrent_by_name;
  WeakSet<Library> open;
  WeakInterner<std::string> names;
  WeakKeyMap<Image, int> sizes;
};
void WeakcacheTrace(const Library& library, Tracer& trace) {
  trace(library.by_library, "by_library");
  trace(library.by_name, "by_name");
  trace(library.concurrent, "concurrent");
  trace(library.concurrent_by_name, "concurrent_by_name");
  trace(library.open, "open");
  trace(library.names, "names");
  trace(library.sizes, "sizes");
}

TEST(CacheCyclesTest, ContainersAreTracedAsMembers) {
  Census census;
  const Ref<Image> image = NewImage(census, "image");
  Ref<Library> library = MakeRef<Library>();
  census.Add(library);
  library->by_name.insert("image", image);
  library->concurrent_by_name.insert("image", image);
  library->open.insert(library);
  library->sizes.insert(image, 3);
  EXPECT_EQ(FindCycles(census).edges_seen, 0u) << "weak references are no edges";
  library->by_library.insert(library, image);  // a key is held strongly
  const auto shared = std::make_shared<Library>();
  census.Add(shared);
  library->concurrent.insert(shared, image);
  const WeakRef<Library> weak = library;
  library.reset();
  const CycleReport report = FindCycles(census);
  EXPECT_EQ(report.edges_seen, 2u);
  ASSERT_EQ(report.groups.size(), 1u) << ToText(report);
  EXPECT_EQ(report.groups[0].edges[0].name, "key");
  weak.lock()->by_library.clear();
  EXPECT_TRUE(weak.expired());
}

}  // namespace
}  // namespace weakcache
