// SPDX-License-Identifier: Apache-2.0
// The tour of docs/guide.md and the examples of the public headers, so that they stay true.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "weakcache/cache/cache_holders.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/cycles.h"
#include "weakcache/cache/holder_label.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/cycles.h"
#include "weakcache/weakref/dump_object.h"
#include "weakcache/weakref/edge_ref.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/testing.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

struct Image {
  Image(int width, int height) : width(width), height(height) {}
  int width, height;
  char pixels[1000] = {};
};
struct Thumbnail {
  int width;
};
Image DecodeImage(const std::string&) { return Image(640, 480); }
Thumbnail Shrink(const Image& image) { return {image.width / 8}; }
void Show(const Image&) {}

struct Font {
  Font(std::string name, int size) : name(std::move(name)), size(size) {}
  friend bool operator==(const Font& a, const Font& b) {
    return a.name == b.name && a.size == b.size;
  }
  template <typename State>
  friend State AbslHashValue(State state, const Font& font) {
    return State::combine(std::move(state), font.name, font.size);
  }
  std::string name;
  int size;
};
struct Metrics {
  int ascent = 10;
};
int Use(const Metrics& metrics) { return metrics.ascent; }

TEST(DocumentationTest, DumpObject) {
  const Ref<Image> cover = MakeRef<Image>(640, 480);
  const WeakRef<Image> weak = cover;
  ::testing::internal::CaptureStderr();
  // snippet: dump
  std::cerr << ToText(weakcache::DumpObject(weak));
  // end
  const std::string dump = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(dump.find("::Image at 0x"), std::string::npos) << dump;
  EXPECT_NE(dump.find("\n  strong references: 1\n  weak references: 1\n"), std::string::npos)
      << dump;
}

TEST(DocumentationTest, Tour) {
  ::testing::internal::CaptureStdout();

  // snippet: tour
  weakcache::WeakValueMap<std::string, Image> images;
  weakcache::WeakKeyMap<Image, Thumbnail> thumbnails;

  weakcache::Ref<Image> cover =
      images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
  EXPECT_EQ(images.get("cover"), cover);

  Thumbnail& small = thumbnails.get_or_create(cover, [&] { return Shrink(*cover); });
  EXPECT_EQ(small.width, 80);

  weakcache::ExpiryRegistration registration =
      weakcache::OnExpire(cover, [] { std::puts("the cover has gone"); });

  cover.reset();
  // end
  EXPECT_EQ(images.get("cover"), nullptr);
  EXPECT_EQ(images.size(), 0u);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "the cover has gone\n");
}

TEST(DocumentationTest, RefAndWeakRef) {
  weakcache::Ref<Image> image = weakcache::MakeRef<Image>(640, 480);
  weakcache::WeakRef<Image> weak = image;
  if (weakcache::Ref<Image> again = weak.lock()) Show(*again);
  EXPECT_FALSE(weak.expired());
  image.reset();
  EXPECT_TRUE(weak.expired());
}

TEST(DocumentationTest, OnExpire) {
  int released = 0;
  weakcache::Ref<Image> image = weakcache::MakeRef<Image>(640, 480);
  weakcache::ExpiryRegistration registration = weakcache::OnExpire(image, [&] { ++released; });
  image.reset();
  EXPECT_EQ(released, 1);
}

TEST(DocumentationTest, WeakValueMap) {
  weakcache::WeakValueMap<std::string, Image> images;
  weakcache::Ref<Image> cover =
      images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
  EXPECT_EQ(images.get("cover"), cover);
  cover.reset();
  EXPECT_EQ(images.get("cover"), nullptr);
}

TEST(DocumentationTest, WeakKeyMap) {
  weakcache::Ref<Image> image = weakcache::MakeRef<Image>(640, 480);
  weakcache::WeakKeyMap<Image, Thumbnail> thumbnails;
  thumbnails.get_or_create(image, [&] { return Shrink(*image); });
  EXPECT_EQ(thumbnails.get(image)->width, 80);
  image.reset();
  EXPECT_TRUE(thumbnails.empty());
}

TEST(DocumentationTest, WeakKeyMapByValue) {
  const weakcache::Ref<Font> font = weakcache::MakeRef<Font>("Serif", 12);
  weakcache::WeakKeyMap<Font, Metrics, weakcache::ByValue<>> metrics;
  metrics.try_emplace(font);
  int used = 0;
  if (auto found = metrics.get(Font("Serif", 12))) used = Use(*found);
  EXPECT_EQ(used, 10);
  weakcache::Ref<Font> first = metrics.canonical_key(font);
  EXPECT_EQ(first, font);
  EXPECT_FALSE(metrics.get(Font("Serif", 13)));
}

TEST(DocumentationTest, WeakInterner) {
  weakcache::WeakInterner<std::string> names;
  weakcache::Ref<const std::string> a = names.intern("position");
  weakcache::Ref<const std::string> b = names.intern("position");
  EXPECT_TRUE(a == b);
  EXPECT_FALSE(names.contains("velocity"));
  EXPECT_EQ(names.size(), 1u);
}

TEST(DocumentationTest, ConcurrentWeakValueMap) {
  weakcache::ConcurrentWeakValueMap<std::string, Image> images;
  weakcache::Ref<Image> cover =  //
      images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
  EXPECT_EQ(images.get("cover"), cover);
  cover.reset();
  EXPECT_EQ(images.get("cover"), nullptr);
}

// Stands in for a cache.
struct Counting {
  weakcache::CacheStats Stats() const { return stats; }
  weakcache::CacheStats stats;
};
void Serve(Counting& cache) { ++cache.stats.hits; }
void Warn(const char* message) { std::cerr << message; }

std::string Observe(Counting& cache) {
  const weakcache::CacheStats before = cache.Stats();
  Serve(cache);
  const weakcache::CacheStats served = cache.Stats() - before;
  if (served.hit_ratio() < 0.9) std::cerr << served.ToText();
  if (served.LoadTimeQuantile(0.99) > absl::Seconds(1)) Warn("slow loader");
  return served.ToPrometheus("weakcache", {{"cache", "images"}});
}

// weakref/cycles.h, weakref/testing.h
struct Node {
  weakcache::Ref<Node> parent;
  std::vector<weakcache::Ref<Node>> children;
};
void WeakcacheTrace(const Node& node, weakcache::Tracer& trace) {
  trace(node.parent, "parent");
  trace(node.children, "children");  // a std::vector<weakcache::Ref<Node>>
}

TEST(DocumentationTest, Cycles) {
  weakcache::Census census;  // MakeRef<Node> joins from now on
  weakcache::Ref<Node> root = weakcache::MakeRef<Node>();
  root->children.push_back(weakcache::MakeRef<Node>());
  root->children[0]->parent = root;
  const weakcache::WeakRef<Node> weak = root;
  root.reset();
  ::testing::internal::CaptureStderr();
  std::cerr << weakcache::ToText(weakcache::FindCycles(census));
  EXPECT_EQ(::testing::internal::GetCapturedStderr().substr(0, 53),
            "1 unreachable group among 2 objects and 2 edges\n2 obj");
  weak.lock()->children.clear();
  EXPECT_NO_CYCLES(census);
}

// weakref/edge_ref.h
struct Linked {
  weakcache::EdgeRef<Linked> next;
};
void WeakcacheTrace(const Linked& node, weakcache::Tracer& trace) { trace(node.next, "next"); }

TEST(DocumentationTest, EdgeRef) {
  const weakcache::Ref<Linked> node = weakcache::MakeRef<Linked>();
  const weakcache::Ref<Linked> other = weakcache::MakeRef<Linked>();
  node->next.store(other);                          // on any thread
  weakcache::Ref<Linked> next = node->next.load();  // on any other
  EXPECT_EQ(next, other);
}

// cache/cycles.h
struct Photo {
  char pixels[1000] = {};
};
void WeakcacheTrace(const Photo&, weakcache::Tracer&) {}

TEST(DocumentationTest, CacheCycles) {
  using Photos = weakcache::LargeObjectCache<std::string, Photo>;
  Photos::Options options;
  options.budget_bytes = uint64_t{2} << 30;
  Photos images = *Photos::Create(options);
  weakcache::Census census;
  const weakcache::WeakRef<Photo> weak = *images.GetOrLoad("cover", [] { return Photo(); });
  census.Add(
      *images.GetOrLoad("cover", [] { return Photo(); }));  // docs/memory_does_not_go_back.md
  weakcache::CensusRoot root(census, images, "images");     // a LargeObjectCache
  ::testing::internal::CaptureStderr();
  std::cerr << ToText(WhyAlive(census, weak));  // cache "images" --retained--> app::Image
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.substr(0, 32), "cache \"images\"\n  --retained--> w");
}

// holder_label.h, cache_holders.h
TEST(DocumentationTest, Holders) {
  using Images = weakcache::LargeObjectCache<std::string, Image>;
  Images::Options options;
  options.budget_bytes = uint64_t{2} << 30;
  options.holder_sample_bytes = 1;
  Images images = *Images::Create(options);
  static_cast<void>(images.GetOrLoad("cover.png", DecodeImage));
  WEAKCACHE_HOLDER("renderer");
  const auto cover = images.Get("cover.png");
  const weakcache::CacheHolders holders = images.Holders();
  std::cerr << images.Holders().ToText();
  EXPECT_NE(holders.ToText().find("renderer: 1 object, 1008 bytes"), std::string::npos);
}

TEST(DocumentationTest, CacheStats) {
  Counting cache;
  cache.stats.misses = 1000;
  EXPECT_NE(Observe(cache).find("weakcache_requests_total{cache=\"images\",result=\"hit\"} 1\n"),
            std::string::npos);
}

}  // namespace
}  // namespace weakcache
