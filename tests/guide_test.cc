// SPDX-License-Identifier: Apache-2.0
// The programs of docs/guide.md. The code between "snippet" and "end" stands in the page, too, but
// for the lines that begin with EXPECT_: tools/check_snippets.py compares the two.
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/fake_tier.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/cache_holders.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/holder_label.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/object_info.h"
#include "weakcache/cache/prefetch_options.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/cache/status_page.h"
#include "weakcache/cache/warm_start.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/atomic_ref.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/shared_ptr_interop.h"
#include "weakcache/weakref/weak_bind.h"
#include "weakcache/weakref/weak_proxy.h"
#include "weakcache/weakref/weak_ref.h"

#ifdef __cpp_impl_coroutine
#include "tests/support/detached_coroutine.h"
#endif

namespace weakcache {
namespace {

// snippet: image
struct Image {
  size_t byte_size() const { return sizeof(Image) + pixels.size(); }
  std::string pixels;
};
using Images = weakcache::LargeObjectCache<std::string, Image>;
// end

absl::StatusOr<Image> DecodeImage(const std::string& path) {
  if (path == "no_such_file.png") return absl::NotFoundError(path);
  return Image{std::string(1000, '\0')};
}
void Show(const Image&) {}

Images NewCache() {
  Images::Options options;
  options.budget_bytes = 1 << 20;
  return *Images::Create(options);
}

TEST(GuideTest, Load) {
  // snippet: load
  Images::Options options;
  options.budget_bytes = uint64_t{256} << 20;
  absl::StatusOr<Images> images = Images::Create(options);

  absl::StatusOr<weakcache::Ref<Image>> cover =
      images->GetOrLoad("cover.png", [](const std::string& path) { return DecodeImage(path); });
  if (cover.ok()) Show(**cover);
  // end
  EXPECT_TRUE(cover.ok());
}

TEST(GuideTest, HardLimit) {
  // snippet: hard_limit
  Images::Options options;
  options.budget_bytes = uint64_t{2} << 30;
  options.hard_limit_bytes = uint64_t{3} << 30;  // objects in use included, and loads under way
  options.hard_limit_wait = absl::Seconds(1);    // and then ResourceExhausted
  absl::StatusOr<Images> images = Images::Create(options);
  absl::StatusOr<weakcache::Ref<Image>> cover =
      images->GetOrLoad("cover.png", DecodeImage, {.weight_estimate = 4 << 20});
  // end
  EXPECT_TRUE(cover.ok());
}

TEST(GuideTest, Readme) {
  // snippet: readme
  using Images = weakcache::LargeObjectCache<std::string, Image>;
  Images::Options options;
  options.budget_bytes = 256 << 20;
  absl::StatusOr<Images> images = Images::Create(options);
  absl::StatusOr<weakcache::Ref<Image>> cover =
      images->GetOrLoad("cover.png", [](const std::string& path) { return DecodeImage(path); });
  // end
  EXPECT_TRUE(cover.ok());
}

TEST(GuideTest, Failure) {
  Images images = NewCache();
  // snippet: failure
  absl::StatusOr<weakcache::Ref<Image>> image = images.GetOrLoad("no_such_file.png", DecodeImage);
  EXPECT_TRUE(absl::IsNotFound(image.status()));
  image = images.GetOrLoad("no_such_file.png", [] { return Image{"a placeholder"}; });
  EXPECT_TRUE(image.ok());
  // end
}

TEST(GuideTest, SourceDown) {
  // snippet: source_down
  Images::Options options;
  options.budget_bytes = uint64_t{256} << 20;
  options.expire_after_write = absl::Minutes(10);
  options.failure_ttl = [](const absl::Status& status) {
    if (absl::IsNotFound(status)) return absl::Minutes(1);
    return absl::IsUnavailable(status) ? absl::Seconds(1) : absl::ZeroDuration();
  };
  options.stale_if_error = absl::Hours(1);
  absl::StatusOr<Images> images = Images::Create(options);
  // end
  EXPECT_FALSE(images->GetOrLoad("no_such_file.png", DecodeImage).ok());
  EXPECT_FALSE(images->GetOrLoad("no_such_file.png", [] { return Image{"new"}; }).ok());
  EXPECT_EQ(images->Stats().failures_served, 1u);
  images->Put("news.png", weakcache::Loaded<Image>{.object = Image{"old"},
                                                   .expires_after = absl::ZeroDuration()});
  // snippet: soft_timeout
  weakcache::LoadOptions patient;
  patient.soft_timeout = absl::Milliseconds(50);
  absl::StatusOr<weakcache::Ref<Image>> image = images->GetOrLoad("news.png", DecodeImage, patient);
  // end
  EXPECT_TRUE(image.ok());
}

TEST(GuideTest, Refresh) {
  struct Pool {
    void Post(std::function<void()> task) { tasks.push_back(std::move(task)); }
    std::vector<std::function<void()>> tasks;
  } pool;
  absl::Time now = absl::UnixEpoch();
  Images::Options options;
  options.budget_bytes = uint64_t{256} << 20;
  options.refresh_after_write = absl::Minutes(5);
  options.clock = [&] { return now; };
  // snippet: refresh
  options.refresh_executor = [&pool](std::function<void()> task) { pool.Post(std::move(task)); };
  // end
  absl::StatusOr<Images> images = Images::Create(options);
  weakcache::Ref<Image> old = images->Put("cover.png", Image{"old"});
  now += absl::Minutes(5);
  EXPECT_EQ(images->GetOrLoad("cover.png", [] { return Image{"new"}; }).value(), old);
  ASSERT_EQ(pool.tasks.size(), 1u);
  pool.tasks[0]();
  EXPECT_NE(images->Get("cover.png"), old);
}

TEST(GuideTest, Change) {
  Images images = NewCache();
  // snippet: change
  weakcache::Ref<Image> old = images.Put("cover.png", Image{"first"});
  weakcache::Ref<Image> fresh = images.Put("cover.png", Image{"second"});
  images.Invalidate("cover.png", old);  // does nothing: that object was replaced
  EXPECT_EQ(images.Get("cover.png"), fresh);
  images.Invalidate("cover.png");
  images.InvalidateIf([](const std::string& path) { return path.starts_with("covers/"); });
  // end
  EXPECT_EQ(images.Get("cover.png"), nullptr);
}

TEST(GuideTest, Group) {
  Images images = NewCache();
  const auto load_cover = [] { return Image{"cover"}; };
  // snippet: group
  constexpr uint32_t kCovers = 1;
  weakcache::LoadOptions options;
  options.group = kCovers;
  absl::StatusOr<weakcache::Ref<Image>> cover = images.GetOrLoad("cover.png", load_cover, options);
  images.Put("back.png", weakcache::Loaded<Image>{.object = Image{"back"}, .group = kCovers});
  images.InvalidateGroup(kCovers);  // finds neither "cover.png" nor "back.png" any more
  // end
  EXPECT_EQ(images.Get("cover.png"), nullptr);
  EXPECT_EQ(images.Get("back.png"), nullptr);
  EXPECT_NE(images.GetOrLoad("cover.png", load_cover, options).value(), *cover);
}

TEST(GuideTest, Time) {
  // snippet: time
  Images::Options options;
  options.budget_bytes = uint64_t{256} << 20;
  options.refresh_after_write = absl::Minutes(5);
  options.expire_after_write = absl::Hours(1);
  absl::StatusOr<Images> images = Images::Create(options);
  // end
  EXPECT_TRUE(images.ok());
  // snippet: life
  const auto load_news = [](const std::string&) {
    return weakcache::Loaded<Image>{.object = Image{"news"}, .expires_after = absl::Minutes(1)};
  };
  absl::StatusOr<weakcache::Ref<Image>> news = images->GetOrLoad("news.png", load_news);
  images->SetExpiry("news.png", absl::Seconds(10));  // from now on
  // end
  EXPECT_EQ(images->Peek("news.png"), news.value());
}

TEST(GuideTest, Bulk) {
  Images images = NewCache();
  // snippet: bulk
  const std::vector<std::string> paths = {"a.png", "b.png", "c.png"};
  std::vector<absl::StatusOr<weakcache::Ref<Image>>> pages =
      images.GetAll(paths, [](const std::vector<std::string>& missing) {
        std::vector<absl::StatusOr<Image>> loaded;
        for (const std::string& path : missing) loaded.push_back(DecodeImage(path));
        return loaded;
      });
  // end
  EXPECT_EQ(pages.size(), 3u);
}

// Stands in for a thread pool.
struct Pool {
  void Schedule(const std::function<void()>& task) { task(); }
};

TEST(GuideTest, Executor) {
  Images images = NewCache();
  Pool pool;
  // snippet: executor
  const auto executor = [&](std::function<void()> task) { pool.Schedule(std::move(task)); };
  std::future<absl::StatusOr<weakcache::Ref<Image>>> next_page =
      images.GetOrLoadAsync("next.png", DecodeImage, executor);
  // end
  EXPECT_TRUE(next_page.get().ok());
  // snippet: callback
  images.GetOrLoadAsync("next.png", DecodeImage, executor,
                        [](absl::StatusOr<weakcache::Ref<Image>> page) {
                          if (page.ok()) Show(**page);
                        });
  // end
}

struct Network {
  using Callback = absl::AnyInvocable<void(absl::StatusOr<Image>)>;
  void Fetch(const std::string& /*url*/, Callback callback) {
    callbacks.push_back(std::move(callback));
  }
  std::vector<Callback> callbacks;
};

TEST(GuideTest, Completion) {
  Images images = NewCache();
  Network network;
  const auto executor = [](const std::function<void()>& task) { task(); };
  // snippet: completion
  const auto request_image = [&](const std::string& url, weakcache::LoadCompletion<Image> done) {
    network.Fetch(url, [done = std::move(done)](absl::StatusOr<Image> image) mutable {
      done(std::move(image));  // on a thread of the network's
    });
  };
  images.GetOrLoadAsync("https://example.org/map.png", request_image, executor,
                        [](absl::StatusOr<weakcache::Ref<Image>> map) {
                          if (map.ok()) Show(**map);
                        });
  // end
  ASSERT_EQ(network.callbacks.size(), 1u);
  network.callbacks.front()(Image{"map"});
  EXPECT_NE(images.Get("https://example.org/map.png"), nullptr);
}

TEST(GuideTest, Prefetch) {
  Images images = NewCache();
  const auto executor = [](const std::function<void()>& task) { task(); };
  std::stop_source chapter;
  // snippet: prefetch
  weakcache::PrefetchOptions options;
  options.max_bytes = 64 << 20;
  options.stop_token = chapter.get_token();  // stops when the reader leaves the chapter
  images.Trim(images.budget_bytes() - options.max_bytes);
  images.Prefetch({"page8.png", "page9.png"}, DecodeImage, executor, options);
  // end
  EXPECT_NE(images.Get("page8.png"), nullptr);
  EXPECT_NE(images.Get("page9.png"), nullptr);
  EXPECT_EQ(images.Stats().loads, 2u);
}

TEST(GuideTest, Warm) {
  const testing::TemporaryFolder folder;
  const std::string file = folder.path() / "images.hot";
  std::stop_source shutdown;
  {
    Images images = NewCache();
    images.Put("cover.png", Image{"pixels"});
    // snippet: export
    absl::Status written = weakcache::ExportHot(images, file);
    // end
    EXPECT_TRUE(written.ok()) << written;
  }
  Images images = NewCache();
  // snippet: warm
  weakcache::WarmOptions options;
  options.keys_per_second = 50;  // so that the source is not overrun
  options.stop_token = shutdown.get_token();
  absl::StatusOr<weakcache::WarmResult> result =
      weakcache::Warm(images, file, DecodeImage, options);
  // end
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->loads, 1u);
  EXPECT_NE(images.Get("cover.png"), nullptr);
}

#ifdef __cpp_impl_coroutine
TEST(GuideTest, Coroutine) {
  Images images = NewCache();
  const auto executor = [](const std::function<void()>& task) { task(); };
  bool ok = false;
  const auto show = [&]() -> testing::DetachedCoroutine {
    // snippet: coroutine
    absl::StatusOr<weakcache::Ref<Image>> page =
        co_await images.CoGetOrLoad("next.png", DecodeImage, executor);
    if (page.ok()) Show(**page);
    // end
    ok = page.ok();
  };
  show();
  EXPECT_TRUE(ok);
}
#endif

TEST(GuideTest, Emergency) {
  Images images = NewCache();
  const weakcache::Ref<Image> used = images.Put("used.png", Image{"pixels"});
  images.Put("unused.png", Image{"pixels"});
  // snippet: emergency
  images.Trim(0);
  malloc_trim(0);
  // end
  EXPECT_EQ(images.Get("unused.png"), nullptr);
  EXPECT_EQ(images.Get("used.png"), used);
}

TEST(GuideTest, Memory) {
  Images images = NewCache();
  // snippet: memory
  images.Trim(images.budget_bytes() / 2);       // the system is short of memory: give back a part
  images.SetBudget(images.budget_bytes() / 2);  // and keep to it from now on
  // end
  EXPECT_EQ(images.budget_bytes(), uint64_t{1} << 19);
}

TEST(GuideTest, Listener) {
  int evicted = 0;
  // snippet: listener
  Images::Options options;
  options.budget_bytes = uint64_t{256} << 20;
  options.removal_listener = [&](const std::string&, weakcache::RemovalCause cause, uint64_t) {
    if (cause == weakcache::RemovalCause::kBudget) ++evicted;
  };
  absl::StatusOr<Images> images = Images::Create(options);
  // end
  EXPECT_TRUE(images.ok());
  EXPECT_EQ(evicted, 0);
}

TEST(GuideTest, Prometheus) {
  Images images = NewCache();
  Images covers = NewCache();
  // snippet: prometheus
  const std::string body = weakcache::ToPrometheus(
      "weakcache",
      {{{{"cache", "images"}}, images.Stats()}, {{{"cache", "covers"}}, covers.Stats()}});
  // end
  for (const char* const name : {"requests_total", "load_duration_seconds", "removals_total"}) {
    EXPECT_NE(body.find(std::string("# TYPE weakcache_") + name), std::string::npos) << name;
  }
  EXPECT_NE(body.find("cache=\"covers\""), std::string::npos);
}

TEST(GuideTest, Holders) {
  Images::Options options;
  options.budget_bytes = uint64_t{256} << 20;
  // snippet: holders
  options.holder_sample_bytes = uint64_t{4} << 20;
  Images images = *Images::Create(options);
  std::vector<weakcache::Ref<Image>> frames;
  {
    WEAKCACHE_HOLDER("renderer");
    frames.push_back(*images.GetOrLoad("cover.png", DecodeImage));
  }
  std::cerr << images.Holders().ToText();
  // end
  // It may or may not be one of the objects that are chosen.
  EXPECT_EQ(images.Holders().sample_bytes, uint64_t{4} << 20);
}

TEST(GuideTest, StatusPage) {
  Images images = NewCache();
  // snippet: status_page
  const std::string page = "<!doctype html><meta charset=utf-8>" +
                           weakcache::StatusPage(images, {.title = "images", .keys = 20});
  // end
  EXPECT_NE(page.find("<h2>images</h2>"), std::string::npos);
}

TEST(GuideTest, Figures) {
  Images images = NewCache();
  // snippet: figures
  const weakcache::CacheStats before = images.Stats();
  images.Get("cover.png").reset();
  const weakcache::CacheStats served = images.Stats() - before;
  std::cout << served.ToText();
  std::cout << served.ToPrometheus("weakcache", {{"cache", "images"}});
  // end

  // snippet: inspect
  if (const std::optional<weakcache::ObjectInfo> cover = images.Inspect("cover.png")) {
    std::cout << cover->bytes << " bytes, loaded in " << cover->load_time << ", " << cover->age
              << " ago, used " << cover->uses << " times" << (cover->in_use ? ", in use" : "");
  }
  // end
  EXPECT_EQ(served.misses, 1u);
}

// Stands in for a C library.
struct c_texture {
  size_t bytes;
};
int textures_alive = 0;
c_texture* texture_load(const char* path) {
  if (path == std::string("no_such_file.tex")) return nullptr;
  ++textures_alive;
  return new c_texture{4096};
}
void texture_free(c_texture* texture) {
  --textures_alive;
  delete texture;
}
size_t texture_bytes(const c_texture* texture) { return texture->bytes; }

// snippet: c_library
struct FreeTexture {
  void operator()(c_texture* texture) const { texture_free(texture); }
};
using TexturePtr = std::unique_ptr<c_texture, FreeTexture>;
using Textures = weakcache::LargeObjectCache<std::string, c_texture>;

absl::StatusOr<TexturePtr> LoadTexture(const std::string& path) {
  TexturePtr texture(texture_load(path.c_str()));
  if (texture == nullptr) return absl::NotFoundError(path);
  return texture;
}
// end

TEST(GuideTest, CLibrary) {
  // snippet: c_library_use
  Textures::Options options;
  options.budget_bytes = uint64_t{64} << 20;
  options.weigher = [](const c_texture& texture) { return texture_bytes(&texture); };
  absl::StatusOr<Textures> textures = Textures::Create(options);
  absl::StatusOr<weakcache::Ref<c_texture>> wood = textures->GetOrLoad("wood.tex", LoadTexture);
  // end
  EXPECT_TRUE(wood.ok());
  EXPECT_TRUE(absl::IsNotFound(textures->GetOrLoad("no_such_file.tex", LoadTexture).status()));
  EXPECT_EQ(textures_alive, 1);
  wood->reset();
  textures->Clear();
  EXPECT_EQ(textures_alive, 0);
}

TEST(GuideTest, Clock) {
  // snippet: clock
  absl::Time now = absl::UnixEpoch();
  Images::Options options;
  options.budget_bytes = 1 << 20;
  options.expire_after_write = absl::Minutes(10);
  options.clock = [&now] { return now; };
  absl::StatusOr<Images> images = Images::Create(options);

  images->Put("cover.png", Image{"pixels"});
  now += absl::Minutes(9);
  EXPECT_NE(images->Get("cover.png"), nullptr);
  now += absl::Minutes(2);
  EXPECT_EQ(images->Get("cover.png"), nullptr);
  // end
}

TEST(GuideTest, CollectedTasks) {
  Images images = NewCache();
  // snippet: collected_tasks
  std::vector<std::function<void()>> tasks;
  std::future<absl::StatusOr<weakcache::Ref<Image>>> cover =
      images.GetOrLoadAsync("cover.png", DecodeImage,
                            [&](std::function<void()> task) { tasks.push_back(std::move(task)); });
  EXPECT_EQ(images.Stats().loads, 0u);
  for (const std::function<void()>& task : tasks) task();
  EXPECT_TRUE(cover.get().ok());
  // end
}

TEST(GuideTest, Share) {
  // snippet: share
  weakcache::ConcurrentWeakValueMap<std::string, Image> open_images;
  weakcache::Ref<Image> cover = open_images.get_or_create("cover", [] { return Image{"pixels"}; });
  EXPECT_EQ(open_images.get("cover"), cover);
  cover.reset();  // closes the image: nobody else holds it
  EXPECT_EQ(open_images.get("cover"), nullptr);
  // end
}

struct Thumbnail {
  int width;
};

TEST(GuideTest, Attach) {
  // snippet: attach
  weakcache::WeakKeyMap<Image, Thumbnail> thumbnails;
  weakcache::Ref<Image> image = weakcache::MakeRef<Image>();
  Thumbnail& thumbnail = thumbnails.get_or_create(image, [] { return Thumbnail{80}; });
  EXPECT_EQ(thumbnail.width, 80);
  image.reset();  // destroys the image, then its thumbnail
  EXPECT_TRUE(thumbnails.empty());
  // end
}

struct Listener {
  void OnChange() { ++changes; }
  int changes = 0;
};

TEST(GuideTest, Observers) {
  weakcache::Ref<Listener> listener = weakcache::MakeRef<Listener>();
  // snippet: observers
  weakcache::WeakSet<Listener> listeners;
  listeners.insert(listener);
  listeners.for_each([](const weakcache::Ref<Listener>& each) { each->OnChange(); });
  // end
  EXPECT_EQ(listener->changes, 1);
}

TEST(GuideTest, Intern) {
  // snippet: intern
  weakcache::WeakInterner<std::string> names;
  weakcache::Ref<const std::string> a = names.intern("position");
  weakcache::Ref<const std::string> b = names.intern("position");
  EXPECT_EQ(a, b);
  EXPECT_EQ(names.get("velocity"), nullptr);
  // end
}

TEST(GuideTest, Death) {
  int textures = 1;
  weakcache::Ref<Image> image = weakcache::MakeRef<Image>();
  // snippet: death
  weakcache::ExpiryRegistration registration =
      weakcache::OnExpire(image, [&] { --textures; });  // as long as `registration` exists
  weakcache::Finalize(image, [] { std::cout << "the image is gone\n"; });  // nobody has to keep it
  image.reset();
  // end
  EXPECT_EQ(textures, 0);
}

struct Button {
  void Press() { ++presses; }
  int presses = 0;
};

TEST(GuideTest, Callbacks) {
  // snippet: callbacks
  weakcache::Ref<Button> button = weakcache::MakeRef<Button>();
  std::function<void()> on_click = weakcache::WeakBind(button, &Button::Press);
  weakcache::WeakProxy<Button> proxy(button);
  on_click();
  proxy->Press();
  EXPECT_EQ(button->presses, 2);
  button.reset();
  on_click();  // does nothing; proxy->Press() would throw ExpiredReferenceError
  // end
  EXPECT_TRUE(proxy.expired());
}

TEST(GuideTest, Publish) {
  // snippet: publish
  weakcache::AtomicRef<Image> current(weakcache::MakeRef<Image>());
  weakcache::Ref<Image> seen = current.load();      // on any thread
  current.store(weakcache::MakeRef<Image>(*seen));  // on any other
  // end
  EXPECT_NE(current.load(), seen);
}

TEST(GuideTest, SharedPtr) {
  // snippet: shared_ptr
  weakcache::WeakValueMap<std::string, std::shared_ptr<Image>> by_name;
  std::shared_ptr<Image> cover = std::make_shared<Image>();
  by_name.insert("cover", cover);

  weakcache::Ref<Image> ref = weakcache::FromSharedPtr(cover);
  std::shared_ptr<Image> again = weakcache::ToSharedPtr(ref);
  EXPECT_EQ(again, cover);
  // end
  EXPECT_EQ(by_name.get("cover"), cover);
}

TEST(GuideTest, Step1) {
  // snippet: step1
  std::unordered_map<std::string, std::weak_ptr<Image>> by_name;
  std::weak_ptr<Image>& entry = by_name["cover"];
  std::shared_ptr<Image> cover = entry.lock();
  if (cover == nullptr) entry = cover = std::make_shared<Image>();
  // end
  EXPECT_EQ(by_name["cover"].lock(), cover);
}

TEST(GuideTest, Step2) {
  // snippet: step2
  weakcache::WeakValueMap<std::string, std::shared_ptr<Image>> by_name;
  std::shared_ptr<Image> cover =
      by_name.get_or_create("cover", [] { return std::make_shared<Image>(); });
  // end
  EXPECT_EQ(by_name.get("cover"), cover);
}

TEST(GuideTest, Step3) {
  // snippet: step3
  weakcache::WeakValueMap<std::string, Image> by_name;
  weakcache::Ref<Image> cover = by_name.get_or_create("cover", [] { return Image(); });
  std::shared_ptr<Image> for_old_code = weakcache::ToSharedPtr(cover);
  // end
  EXPECT_EQ(by_name.get("cover"), cover);
  EXPECT_EQ(for_old_code.get(), cover.get());
}

TEST(GuideTest, Mistakes) {
  Images images = NewCache();
  Images::Options options;
  const weakcache::WeakRef<Image> weak = images.Put("cover.png", Image{"pixels"});
  // snippet: mistakes
  // if (!weak.expired()) Show(*weak.lock());  The object may die between the two calls. Instead:
  if (weakcache::Ref<Image> image = weak.lock()) Show(*image);

  // const Image& cover = *images.Get("cover.png");  Nobody holds the object after this line.
  weakcache::Ref<Image> cover = images.Get("cover.png");

  // if (images.Get(path) == nullptr) images.Put(path, …);  Two threads may both decode. Instead:
  absl::StatusOr<weakcache::Ref<Image>> loaded = images.GetOrLoad("cover.png", DecodeImage);

  // options.budget_bytes = 2 << 30;  An int, and negative. Instead:
  options.budget_bytes = uint64_t{2} << 30;
  // end
  EXPECT_EQ(*loaded, cover);
  EXPECT_TRUE(Images::Create(options).ok());
}

// snippet: codec
class ImageCodec final : public weakcache::Codec<Image> {
 public:
  uint32_t schema() const override { return 1; }
  absl::Status Encode(const Image& image, weakcache::ByteSink& sink) const override {
    sink.Append(image.pixels);
    return absl::OkStatus();
  }
  absl::StatusOr<Image> Decode(std::string_view bytes) const override {
    return Image{std::string(bytes)};
  }
};
// end

TEST(GuideTest, SecondTier) {
  const std::shared_ptr<weakcache::SecondTier> tier = std::make_shared<testing::FakeTier>();
  // snippet: tier
  Images::Options options;
  options.budget_bytes = uint64_t{2} << 30;
  options.second_tier = tier;  // a std::shared_ptr<weakcache::SecondTier>
  options.codec = std::make_shared<const ImageCodec>();
  absl::StatusOr<Images> images = Images::Create(options);
  absl::StatusOr<weakcache::Ref<Image>> cover = images->GetOrLoad("cover.png", DecodeImage);
  // end
  ASSERT_TRUE(cover.ok());
  EXPECT_TRUE(tier->Get("cover.png", {}).ok());
}

}  // namespace
}  // namespace weakcache
