// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/large_object_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/evict_all.h"
#include "tests/support/tracked.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using ::weakcache::testing::EvictAll;

using testing::Tracked;

// An object that says how large it is.
struct Blob {
  explicit Blob(uint64_t size, int id = 0) : size(size), id(id) {}
  uint64_t byte_size() const { return size; }

  uint64_t size;
  int id;
};

using Cache = LargeObjectCache<std::string, Blob>;

Cache MakeCache(Cache::Options options) { return std::move(Cache::Create(options)).value(); }
Cache MakeCache(uint64_t budget) {
  Cache::Options options = testing::WithBudget<Cache>(budget);
  return MakeCache(options);
}
Ref<Blob> Load(Cache& cache, const std::string& key, uint64_t size, int id = 0) {
  return cache.GetOrLoad(key, [&] { return Blob(size, id); }).value();
}

// What a listener was told, in order.
struct Told {
  std::string key;
  RemovalCause cause;
  uint64_t weight;

  friend bool operator==(const Told& a, const Told& b) {
    return std::tie(a.key, a.cause, a.weight) == std::tie(b.key, b.cause, b.weight);
  }
  friend std::ostream& operator<<(std::ostream& stream, const Told& told) {
    return stream << told.key << ':' << static_cast<int>(told.cause) << ':' << told.weight;
  }
};
using Tale = std::vector<Told>;

Cache::Options Listening(uint64_t budget, Tale* tale) {
  Cache::Options options = testing::WithBudget<Cache>(budget);
  options.removal_listener = [tale](const std::string& key, RemovalCause cause, uint64_t weight) {
    tale->push_back({key, cause, weight});
  };
  return options;
}

using Image = Blob;
Image DecodeImage(const std::string& path) { return Image(path.size()); }

TEST(LargeObjectCacheTest, DoesWhatTheHeaderSays) {
  using Images = weakcache::LargeObjectCache<std::string, Image>;
  Images::Options options;
  options.budget_bytes = uint64_t{2} << 30;
  absl::StatusOr<Images> images = Images::Create(options);
  absl::StatusOr<weakcache::Ref<Image>> cover =
      images->GetOrLoad("cover.png", [](const std::string& path) { return DecodeImage(path); });
  EXPECT_EQ((*cover)->size, 9u);
  EXPECT_EQ(images->GetOrLoad("cover.png", DecodeImage).value(), *cover);
}

TEST(LargeObjectCacheTest, LoadsOnceAndRetains) {
  Cache cache = MakeCache(100);
  int loads = 0;
  const auto loader = [&](const std::string& key) {
    ++loads;
    EXPECT_EQ(key, "a");
    return Blob(10, 7);
  };
  EXPECT_EQ(cache.GetOrLoad("a", loader).value()->id, 7);
  EXPECT_EQ(cache.GetOrLoad("a", loader).value()->id, 7);
  EXPECT_EQ(cache.Get("a")->id, 7);
  EXPECT_EQ(cache.Get(std::string_view("a"))->id, 7);
  EXPECT_EQ(cache.Get("b"), nullptr);
  EXPECT_EQ(loads, 1);
  EXPECT_EQ(cache.size(), 1u);
  const CacheStats stats = cache.Stats();
  EXPECT_EQ(stats.hits, 3u);
  EXPECT_EQ(stats.misses, 2u);
  EXPECT_EQ(stats.weak_hits, 0u);
  EXPECT_EQ(stats.loads, 1u);
  EXPECT_EQ(stats.loads_in_flight, 0u);
  EXPECT_EQ(stats.bytes_retained, 10u);
  EXPECT_EQ(stats.bytes_pinned, 0u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, TakesWhateverALoaderReturns) {
  Cache cache = MakeCache(1000);
  using Status = absl::Status;
  EXPECT_EQ(cache.GetOrLoad("v", [] { return Blob(1, 1); }).value()->id, 1);
  EXPECT_EQ(cache.GetOrLoad("u", [] { return std::make_unique<Blob>(1, 2); }).value()->id, 2);
  const Ref<Blob> ref = MakeRef<Blob>(1, 3);
  EXPECT_EQ(cache.GetOrLoad("r", [&] { return ref; }).value(), ref);
  EXPECT_EQ(cache.GetOrLoad("sv", []() -> absl::StatusOr<Blob> { return Blob(1, 4); }).value()->id,
            4);
  EXPECT_EQ(cache
                .GetOrLoad("su",
                           []() -> absl::StatusOr<std::unique_ptr<Blob>> {
                             return std::make_unique<Blob>(1, 5);
                           })
                .value()
                ->id,
            5);
  EXPECT_EQ(cache.GetOrLoad("sr", [&]() -> absl::StatusOr<Ref<Blob>> { return ref; }).value(), ref);
  EXPECT_EQ(cache.GetOrLoad("s", []() -> Status { return absl::NotFoundError("no"); }).status(),
            absl::NotFoundError("no"));
  EXPECT_EQ(cache.GetOrLoad("s", [] { return absl::OkStatus(); }).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(cache.GetOrLoad("n", [] { return Ref<Blob>(); }).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(cache.GetOrLoad("n", [] { return std::unique_ptr<Blob>(); }).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(cache.size(), 6u);
  EXPECT_EQ(cache.Stats().load_failures, 4u);
  EXPECT_EQ(cache.Stats().bytes_retained, 6u);
  cache.CheckInvariantsForTesting();
}

// What a std::unique_ptr owns ends as that would have ended it.
template <typename V>
void LoadAndDrop(std::unique_ptr<V> object) {
  typename LargeObjectCache<int, V>::Options options;
  options.weigher = [](const V&) { return uint64_t{1}; };
  auto cache = std::move(LargeObjectCache<int, V>::CreateWeak(options)).value();
  Ref<V> loaded = cache.GetOrLoad(1, [&] { return std::move(object); }).value();
  EXPECT_EQ(cache.Get(1), loaded);
  loaded.reset();
  EXPECT_EQ(cache.Get(1), nullptr);
  cache.CheckInvariantsForTesting();
}
struct Shape {
  virtual ~Shape() = default;
  virtual int corners() const = 0;  // there need not be objects of V itself
};
struct Circle final : Shape {
  ~Circle() override { ++ended; }
  int corners() const override { return 0; }
  std::string name = "a name that has memory of its own";
  inline static int ended = 0;
};
struct Pooled {
  static void operator delete(void* memory) {
    ++given_back;
    ::operator delete(memory);
  }
  int value = 0;
  inline static int given_back = 0;
};
struct alignas(128) Aligned {
  char bytes[256] = {};
};
TEST(LargeObjectCacheTest, EndsWhatAUniquePtrOwned) {
  LoadAndDrop<Shape>(std::make_unique<Circle>());
  EXPECT_EQ(Circle::ended, 1);
  LoadAndDrop(std::make_unique<Circle>());
  EXPECT_EQ(Circle::ended, 2);
  LoadAndDrop(std::make_unique<Pooled>());
  EXPECT_EQ(Pooled::given_back, 1);
  LoadAndDrop(std::make_unique<Aligned>());
  LoadAndDrop<const Aligned>(std::make_unique<const Aligned>());
}

TEST(LargeObjectCacheTest, KeepsTheBudget) {
  Cache cache = MakeCache(100);
  for (int i = 0; i < 1000; ++i) {
    Load(cache, std::to_string(i % 70), static_cast<uint64_t>(i % 23));
    EXPECT_LE(cache.Stats().bytes_retained, 100u);
  }
  EXPECT_GT(cache.Stats().evictions_budget, 0u);
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, FindsAnEvictedObjectWhileItIsUsed) {
  Cache cache = MakeCache(10);
  const Ref<Blob> used = Load(cache, "a", 10, 1);
  EvictAll(cache);
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  EXPECT_EQ(cache.Stats().bytes_pinned, 10u);
  cache.CheckInvariantsForTesting();
  EXPECT_EQ(Load(cache, "a", 10, 2), used);
  EXPECT_EQ(cache.Stats().weak_hits, 1u);
  EXPECT_EQ(cache.Stats().loads, 1u);
  // It is back.
  EXPECT_EQ(cache.Stats().bytes_retained, 10u);
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  EXPECT_EQ(cache.Get("a"), used);
  EXPECT_EQ(cache.Stats().hits, 1u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, RetainsReferencesFromElsewhere) {
  Cache cache = MakeCache(10);
  WeakRef<Blob> weak;
  {
    const Ref<Blob> blob = MakeRef<Blob>(10, 1);
    weak = blob;
    cache.Put("a", blob);
    EvictAll(cache);
    EXPECT_EQ(cache.Get("a"), blob);
    EXPECT_EQ(cache.Stats().weak_hits, 1u);
  }
  EXPECT_EQ(cache.Get("a"), weak.lock());
  EXPECT_FALSE(weak.expired());
  EvictAll(cache);
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(cache.Get("a"), nullptr);
  cache.Purge();
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  EXPECT_EQ(cache.Stats().dead_entries, 0u);
  cache.CheckInvariantsForTesting();
}

// Without a purge, whether the cache made the object or only refers to it.
TEST(LargeObjectCacheTest, HearsOfADeathAtOnce) {
  Cache::Options options = testing::WithBudget<Cache>(0);
  int told = 0;
  options.removal_listener = [&](const std::string&, RemovalCause cause, uint64_t weight) {
    EXPECT_EQ(cause, RemovalCause::kDied);
    EXPECT_EQ(weight, 10u);
    ++told;
  };
  Cache cache = std::move(Cache::CreateWeak(options)).value();
  Ref<Blob> made = Load(cache, "made", 10, 1);
  Ref<Blob> linked = *cache.GetOrLoad("linked", [] { return MakeRef<Blob>(10, 2); });
  EXPECT_EQ(cache.Stats().bytes_pinned, 20u);
  made.reset();
  EXPECT_EQ(told, 1);
  EXPECT_EQ(cache.Stats().bytes_pinned, 10u);
  linked.reset();
  EXPECT_EQ(told, 2);
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  EXPECT_EQ(cache.Stats().removals_died, 2u);
  EXPECT_EQ(cache.Stats().dead_entries, 2u);
  cache.Purge();
  EXPECT_EQ(told, 2);
  EXPECT_EQ(cache.Stats().dead_entries, 0u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, RetainsNothingWithoutABudget) {
  auto options = testing::WithBudget<LargeObjectCache<int, Tracked>>(0);
  options.weigher = [](const Tracked&) { return sizeof(Tracked); };
  auto cache = std::move(LargeObjectCache<int, Tracked>::CreateWeak(options)).value();
  Ref<Tracked> used = cache.GetOrLoad(1, [] { return Tracked(1); }).value();
  EXPECT_EQ(cache.Get(1), used);
  EXPECT_EQ(cache.Stats().weak_hits, 1u);
  EXPECT_EQ(cache.Stats().bytes_pinned, sizeof(Tracked));
  cache.CheckInvariantsForTesting();
  used.reset();
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_EQ(cache.Stats().bytes_pinned, 0u);
  EXPECT_EQ(cache.Stats().removals_died, 1u);
  EXPECT_EQ(cache.Stats().dead_entries, 1u);
  EXPECT_EQ(cache.size(), 0u);
  cache.Purge();
  EXPECT_EQ(cache.Stats().dead_entries, 0u);
}

TEST(LargeObjectCacheTest, HandsOutWhatIsTooHeavy) {
  Cache cache = MakeCache(10);
  Load(cache, "light", 10);
  Ref<Blob> heavy = Load(cache, "heavy", 11);
  EXPECT_EQ(cache.Get("heavy"), heavy);
  EXPECT_EQ(cache.Stats().bytes_retained, 10u);
  EXPECT_EQ(cache.Stats().bytes_pinned, 11u);
  EXPECT_EQ(cache.Stats().evictions_budget, 0u);
  heavy.reset();
  EXPECT_EQ(cache.Get("heavy"), nullptr);
  const Ref<Blob> heaviest = Load(cache, "a", std::numeric_limits<uint64_t>::max());
  EXPECT_NE(cache.Get("light"), nullptr);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, TheHeaviestObjectsAddUp) {
  Cache cache = MakeCache(100);
  const Ref<Blob> a = Load(cache, "a", UINT64_MAX);
  const Ref<Blob> b = Load(cache, "b", UINT64_MAX);
  const Ref<Blob> c = Load(cache, "c", 101);
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  EXPECT_EQ(cache.Stats().bytes_pinned, (uint64_t{2} << 48) + 101);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, FailedLoadsLeaveNothing) {
  Cache cache = MakeCache(10);
  EXPECT_THROW(
      static_cast<void>(cache.GetOrLoad("a", []() -> Blob { throw std::runtime_error("no"); })),
      std::runtime_error);
  EXPECT_FALSE(cache.GetOrLoad("a", [] { return absl::AbortedError("no"); }).ok());
  cache.CheckInvariantsForTesting();
  EXPECT_TRUE(cache.empty());
  EXPECT_EQ(cache.Stats().load_failures, 2u);
  EXPECT_EQ(Load(cache, "a", 1, 3)->id, 3);
}

TEST(LargeObjectCacheTest, WeigherMayThrow) {
  Cache::Options options = testing::WithBudget<Cache>(10);
  options.weigher = [](const Blob& blob) {
    if (blob.id < 0) throw std::runtime_error("no");
    return blob.size;
  };
  Cache cache = MakeCache(options);
  EXPECT_THROW(Load(cache, "a", 1, -1), std::runtime_error);
  EXPECT_THROW(cache.Put("a", Blob(1, -1)), std::runtime_error);
  EXPECT_EQ(cache.Get("a"), nullptr);
  Load(cache, "a", 1, 1)->id = -1;
  EXPECT_THROW(cache.UpdateWeight("a"), std::runtime_error);
  EXPECT_EQ(cache.Stats().bytes_retained, 1u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, RecursionIsAnError) {
  Cache cache = MakeCache(10);
  absl::Status inner;
  const auto outer = cache.GetOrLoad("a", [&] {
    inner = cache.GetOrLoad("a", [] { return Blob(1); }).status();
    // Another key is none of it.
    EXPECT_EQ(Load(cache, "b", 1, 2)->id, 2);
    return Blob(1, 1);
  });
  EXPECT_EQ(inner.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(outer.value()->id, 1);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, DoesNotKeepWhatWasInvalidatedDuringTheLoad) {
  Cache cache = MakeCache(10);
  const Ref<Blob> stale = cache
                              .GetOrLoad("a",
                                         [&] {
                                           EXPECT_FALSE(cache.Invalidate("a"));
                                           return Blob(1, 1);
                                         })
                              .value();
  EXPECT_EQ(stale->id, 1);
  EXPECT_EQ(cache.Get("a"), nullptr);
  const Ref<Blob> cleared = cache
                                .GetOrLoad("a",
                                           [&] {
                                             cache.Clear();
                                             // It is nobody's load any more.
                                             EXPECT_EQ(Load(cache, "a", 1, 3)->id, 3);
                                             return Blob(1, 2);
                                           })
                                .value();
  EXPECT_EQ(cleared->id, 2);
  EXPECT_EQ(cache.Get("a")->id, 3);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, AnObjectPutDuringTheLoadWins) {
  Cache cache = MakeCache(10);
  const auto loaded = cache.GetOrLoad("a", [&] {
    cache.Put("a", Blob(2, 2));
    return Blob(1, 1);
  });
  EXPECT_EQ(loaded.value()->id, 2);
  EXPECT_EQ(cache.Stats().bytes_retained, 2u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, ReservesTheEstimate) {
  Cache cache = MakeCache(100);
  Load(cache, "a", 60);
  uint64_t during = 0;
  LoadOptions options;
  options.weight_estimate = 50;
  cache
      .GetOrLoad(
          "b",
          [&] {
            during = cache.Stats().bytes_retained;
            return Blob(70);
          },
          options)
      .value();
  EXPECT_EQ(during, 0u);
  EXPECT_EQ(cache.Stats().bytes_retained, 70u);
  EXPECT_FALSE(cache
                   .GetOrLoad(
                       "c", [] { return absl::AbortedError(""); }, options)
                   .ok());
  cache.CheckInvariantsForTesting();
  Load(cache, "c", 100);
  EXPECT_EQ(cache.Stats().bytes_retained, 100u);
}

TEST(LargeObjectCacheTest, PutReplaces) {
  Tale tale;
  Cache cache = MakeCache(Listening(100, &tale));
  const Ref<Blob> first = cache.Put("a", Blob(10, 1));
  const Ref<Blob> second = cache.Put("a", MakeRef<Blob>(20, 2));
  EXPECT_EQ(cache.Get("a"), second);
  EXPECT_EQ(cache.Stats().bytes_retained, 20u);
  cache.Put("a", second);
  EXPECT_EQ(cache.Stats().bytes_retained, 20u);
  cache.Put("a", Blob(101));
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  EXPECT_EQ(tale, (Tale{{"a", RemovalCause::kReplaced, 10},
                        {"a", RemovalCause::kReplaced, 20},
                        {"a", RemovalCause::kReplaced, 20},
                        {"a", RemovalCause::kDied, 101}}));
  EXPECT_EQ(cache.Stats().removals_replaced, 3u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, Invalidates) {
  Tale tale;
  Cache cache = MakeCache(Listening(100, &tale));
  const Ref<Blob> first = Load(cache, "a", 10, 1);
  EXPECT_TRUE(cache.Invalidate("a"));
  EXPECT_FALSE(cache.Invalidate("a"));
  EXPECT_FALSE(cache.Invalidate("b"));
  const Ref<Blob> second = Load(cache, "a", 20, 2);
  EXPECT_FALSE(cache.Invalidate("a", first));
  EXPECT_TRUE(cache.Invalidate("a", second));
  EXPECT_EQ(tale,
            (Tale{{"a", RemovalCause::kInvalidated, 10}, {"a", RemovalCause::kInvalidated, 20}}));
  for (int i = 0; i < 10; ++i) Load(cache, std::to_string(i), 1, i);
  EXPECT_EQ(cache.InvalidateIf(
                [](const std::string&, const Ref<Blob>& blob) { return blob->id % 2 == 0; }),
            5u);
  EXPECT_EQ(cache.size(), 5u);
  cache.CheckInvariantsForTesting();
  cache.Clear();
  EXPECT_TRUE(cache.empty());
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  EXPECT_EQ(cache.Stats().removals_invalidated, 12u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, TellsTheTrueCause) {
  Tale tale;
  Cache cache = MakeCache(Listening(10, &tale));
  Load(cache, "idle", 10);
  Ref<Blob> used = Load(cache, "idle", 10);
  EvictAll(cache);
  used.reset();
  // Used when it was evicted, so there are two things to tell.
  EXPECT_EQ(tale, (Tale{{"idle", RemovalCause::kBudget, 10}, {"idle", RemovalCause::kDied, 10}}));
  tale.clear();
  Load(cache, "idle", 10);
  EvictAll(cache);
  EXPECT_EQ(tale, (Tale{{"idle", RemovalCause::kBudget, 10}}));
  tale.clear();
  used = Load(cache, "a", 10);
  EvictAll(cache);
  cache.Invalidate("a");
  used.reset();
  EXPECT_EQ(tale, (Tale{{"a", RemovalCause::kBudget, 10}, {"a", RemovalCause::kInvalidated, 10}}));
  EXPECT_EQ(cache.Stats().removals_died, 1u);
}

TEST(LargeObjectCacheTest, TellsInOrderWhatTheListenerItselfCauses) {
  Tale tale;
  Cache* inner = nullptr;
  Cache::Options options = testing::WithBudget<Cache>(10);
  options.removal_listener = [&](const std::string& key, RemovalCause cause, uint64_t weight) {
    tale.push_back({key, cause, weight});
    if (cause == RemovalCause::kBudget) {
      EXPECT_TRUE(inner->Invalidate(key));
      tale.push_back({"returned", cause, 0});
    }
  };
  Cache cache = MakeCache(options);
  inner = &cache;
  const Ref<Blob> used = Load(cache, "a", 10);
  EvictAll(cache);
  EXPECT_EQ(tale, (Tale{{"a", RemovalCause::kBudget, 10},
                        {"returned", RemovalCause::kBudget, 0},
                        {"a", RemovalCause::kInvalidated, 10}}));
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, ObjectsMayOutliveTheCache) {
  Tale tale;
  Ref<Blob> loaded;
  Ref<Blob> put = MakeRef<Blob>(1, 2);
  {
    Cache cache = MakeCache(Listening(10, &tale));
    loaded = Load(cache, "a", 1, 1);
    cache.Put("b", put);
    Load(cache, "c", 1);
    Cache moved = std::move(cache);
    EXPECT_EQ(moved.Get("a"), loaded);
  }
  EXPECT_EQ(loaded->id, 1);
  EXPECT_EQ(put->id, 2);
  loaded.reset();
  put.reset();
  EXPECT_EQ(tale, Tale());
}

TEST(LargeObjectCacheTest, SetBudgetTakesEffectAtOnce) {
  Cache cache = MakeCache(100);
  for (int i = 0; i < 10; ++i) Load(cache, std::to_string(i), 10);
  EXPECT_EQ(cache.Stats().bytes_retained, 100u);
  cache.SetBudget(35);
  EXPECT_EQ(cache.Stats().bytes_retained, 30u);
  EXPECT_EQ(cache.budget_bytes(), 35u);
  cache.SetBudget(0);
  EXPECT_TRUE(cache.empty());
  cache.SetBudget(std::numeric_limits<int64_t>::max());
  Load(cache, "a", uint64_t{1} << 62);
  Load(cache, "b", uint64_t{1} << 62);
  EXPECT_EQ(cache.size(), 2u - cache.Stats().evictions_budget + 10u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, UpdatesWeights) {
  Cache cache = MakeCache(100);
  const Ref<Blob> blob = Load(cache, "a", 10);
  Load(cache, "b", 50);
  blob->size = 50;
  EXPECT_TRUE(cache.UpdateWeight("a"));
  EXPECT_FALSE(cache.UpdateWeight("c"));
  EXPECT_EQ(cache.Stats().bytes_retained, 100u);
  blob->size = 101;
  EXPECT_TRUE(cache.UpdateWeight("a"));
  EXPECT_EQ(cache.Stats().bytes_retained, 50u);
  EXPECT_EQ(cache.Stats().bytes_pinned, 101u);
  blob->size = 20;
  EXPECT_TRUE(cache.UpdateWeight("a"));
  EXPECT_EQ(cache.Stats().bytes_pinned, 20u);
  EXPECT_EQ(cache.Get("a"), blob);
  EXPECT_EQ(cache.Stats().bytes_retained, 70u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, PeekHasNoEffect) {
  Cache cache = MakeCache(10);
  const Ref<Blob> blob = Load(cache, "a", 10);
  EvictAll(cache);
  EXPECT_EQ(cache.Peek("a"), blob);
  EXPECT_EQ(cache.Peek("b"), nullptr);
  const CacheStats stats = cache.Stats();
  EXPECT_EQ(stats.bytes_retained, 0u);
  EXPECT_EQ(stats.weak_hits + stats.hits, 0u);
  EXPECT_EQ(stats.misses, 1u);
}

TEST(LargeObjectCacheTest, VisitsAndRanks) {
  Cache cache = MakeCache(100);
  for (int i = 0; i < 5; ++i) Load(cache, std::to_string(i), 10, i);
  for (int i = 0; i < 8; ++i) static_cast<void>(cache.Get("3"));
  std::map<std::string, int> seen;
  cache.ForEach([&](const std::string& key, const Ref<Blob>& blob) { seen[key] = blob->id; });
  EXPECT_EQ(seen, (std::map<std::string, int>{{"0", 0}, {"1", 1}, {"2", 2}, {"3", 3}, {"4", 4}}));
  EXPECT_EQ(cache.ColdestKeys(2), (std::vector<std::string>{"0", "1"}));
  EXPECT_EQ(cache.ColdestKeys(10).size(), 5u);
  EXPECT_EQ(cache.HottestKeys(0).size(), 0u);
  // What is about to go gets its place by its hits; the newest go last.
  EXPECT_EQ(cache.Trim(20), 30u);
  EXPECT_EQ(cache.HottestKeys(10), (std::vector<std::string>{"4", "3"}));
  cache.CheckInvariantsForTesting();
}

class FreshnessTest : public ::testing::Test {
 protected:
  Cache::Options Timed() {
    Cache::Options options = Listening(100, &tale_);
    options.clock = [this] { return now_; };
    return options;
  }
  void Pass(absl::Duration time) { now_ += time; }

  absl::Time now_ = absl::UnixEpoch();
  Tale tale_;
};

TEST_F(FreshnessTest, ExpiresAfterWrite) {
  Cache::Options options = Timed();
  options.expire_after_write = absl::Seconds(10);
  Cache cache = MakeCache(options);
  const Ref<Blob> old = Load(cache, "a", 1, 1);
  Pass(absl::Seconds(9));
  EXPECT_EQ(cache.Get("a"), old);
  Pass(absl::Seconds(1));
  EXPECT_EQ(cache.Peek("a"), nullptr);
  EXPECT_EQ(cache.size(), 1u);
  EXPECT_EQ(cache.Get("a"), nullptr);
  EXPECT_EQ(cache.size(), 0u);
  EXPECT_EQ(Load(cache, "a", 1, 2)->id, 2);
  EXPECT_EQ(tale_, (Tale{{"a", RemovalCause::kExpired, 1}}));
  Pass(absl::Seconds(10));
  EXPECT_EQ(Load(cache, "a", 1, 3)->id, 3);
  Pass(absl::Seconds(10));
  cache.Put("a", Blob(1, 4));
  Pass(absl::Seconds(10));
  cache.Purge();
  EXPECT_EQ(tale_.size(), 4u);
  EXPECT_EQ(cache.Stats().evictions_expired, 4u);
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  cache.CheckInvariantsForTesting();
}

TEST_F(FreshnessTest, ExpiresAfterAccess) {
  Cache::Options options = Timed();
  options.expire_after_access = absl::Seconds(10);
  Cache cache = MakeCache(options);
  Load(cache, "a", 1, 1);
  for (int i = 0; i < 3; ++i) {
    Pass(absl::Seconds(9));
    EXPECT_NE(cache.Get("a"), nullptr);
  }
  Pass(absl::Seconds(9));
  EXPECT_NE(cache.Peek("a"), nullptr);
  Pass(absl::Seconds(1));
  EXPECT_EQ(cache.Get("a"), nullptr);
}

TEST_F(FreshnessTest, OneCallerRefreshes) {
  Cache::Options options = Timed();
  options.refresh_after_write = absl::Seconds(10);
  Cache cache = MakeCache(options);
  Load(cache, "a", 1, 1);
  Pass(absl::Seconds(10));
  EXPECT_EQ(cache.Get("a")->id, 1);
  const auto fresh = cache.GetOrLoad("a", [&] {
    EXPECT_EQ(Load(cache, "a", 1, 3)->id, 1);
    return Blob(2, 2);
  });
  EXPECT_EQ(fresh.value()->id, 2);
  EXPECT_EQ(cache.Get("a")->id, 2);
  Pass(absl::Seconds(10));
  // What fails leaves the old one, and after a while the next one tries again.
  EXPECT_EQ(cache.GetOrLoad("a", [] { return absl::AbortedError(""); }).value()->id, 2);
  Pass(absl::Minutes(2));
  EXPECT_EQ(cache.GetOrLoad("a", []() -> Blob { throw std::runtime_error("no"); }).value()->id, 2);
  Pass(absl::Minutes(2));
  const auto unkept = cache.GetOrLoad("a", [&] {
    cache.Invalidate("a");
    return Blob(1, 4);
  });
  EXPECT_EQ(unkept.value()->id, 4);
  EXPECT_EQ(cache.Get("a"), nullptr);
  cache.CheckInvariantsForTesting();
}

TEST_F(FreshnessTest, TheClockMayGoToItsEnds) {
  for (const absl::Time start : {absl::InfinitePast(), absl::InfiniteFuture()}) {
    Cache::Options options = Timed();
    options.expire_after_write = absl::Nanoseconds(1);
    options.expire_after_access = absl::Hours(1000000);
    Cache cache = MakeCache(options);
    now_ = start;
    Load(cache, "a", 1, 1);
    EXPECT_NE(cache.Get("a"), nullptr);
    now_ = absl::InfiniteFuture();
    EXPECT_EQ(cache.Get("a") == nullptr, start != now_);
    now_ = absl::InfinitePast();
    EXPECT_EQ(Load(cache, "a", 1, 2)->id, start == now_ ? 2 : 1);
    cache.CheckInvariantsForTesting();
  }
}

TEST(LargeObjectCacheTest, NamesABadOption) {
  const auto error_of = [](auto set) {
    Cache::Options options = testing::WithBudget<Cache>(100);
    set(options);
    const absl::Status status = Cache::Create(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message().substr(0, status.message().find(':')));
  };
  using Options = Cache::Options;
  EXPECT_EQ(error_of([](Options& options) { options.shards = 3; }), "shards");
  EXPECT_EQ(error_of([](Options& options) { options.shards = 8192; }), "shards");
  EXPECT_EQ(error_of([](Options& options) { options.budget_bytes = 0; }), "budget_bytes");
  EXPECT_EQ(error_of([](Options& options) { options.budget_bytes = -2147483648; }), "budget_bytes");
  EXPECT_EQ(error_of([](Options& options) { options.budget_bytes = uint64_t{1} << 63; }),
            "budget_bytes");
  EXPECT_EQ(error_of([](Options& options) { options.expire_after_write = absl::ZeroDuration(); }),
            "expire_after_write");
  EXPECT_EQ(error_of([](Options& options) { options.expire_after_access = -absl::Seconds(1); }),
            "expire_after_access");
  EXPECT_EQ(
      error_of([](Options& options) { options.refresh_after_write = -absl::InfiniteDuration(); }),
      "refresh_after_write");
  EXPECT_EQ(error_of([](Options& options) {
              options.refresh_after_write = absl::Seconds(2);
              options.expire_after_write = absl::Seconds(2);
            }),
            "refresh_after_write");
}

TEST(LargeObjectCacheTest, LoadsInsideLoadsNeedNoLeave) {
  Cache::Options options = testing::WithBudget<Cache>(10);
  options.max_concurrent_loads = 1;
  Cache cache = MakeCache(options);
  const auto outer = cache.GetOrLoad("a", [&] { return Blob(1, Load(cache, "b", 1, 2)->id); });
  EXPECT_EQ(outer.value()->id, 2);
  EXPECT_EQ(Load(cache, "c", 1, 3)->id, 3);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, LoadsOnAnExecutor) {
  Cache cache = MakeCache(10);
  std::vector<std::function<void()>> tasks;
  const auto executor = [&](std::function<void()> task) { tasks.push_back(std::move(task)); };
  auto first = cache.GetOrLoadAsync(
      "a", [] { return Blob(1, 1); }, executor);
  auto second = cache.GetOrLoadAsync(
      "a", [] { return Blob(1, 2); }, executor);
  auto failed = cache.GetOrLoadAsync(
      "b", [] { return absl::AbortedError(""); }, executor);
  auto thrown = cache.GetOrLoadAsync(
      "d", []() -> Blob { throw std::runtime_error("no"); }, executor);
  auto dropped = cache.GetOrLoadAsync(
      "c", [] { return Blob(1, 3); }, executor);
  ASSERT_EQ(tasks.size(), 4u);  // one for "a"
  tasks.pop_back();
  EXPECT_THROW(static_cast<void>(dropped.get()), std::future_error);
  for (const auto& task : tasks) task();
  EXPECT_EQ(first.get().value()->id, 1);
  EXPECT_EQ(second.get().value()->id, 1);
  EXPECT_EQ(failed.get().status(), absl::AbortedError(""));
  EXPECT_THROW(static_cast<void>(thrown.get()), std::runtime_error);
  auto hit = cache.GetOrLoadAsync(
      "a", [] { return Blob(1, 4); }, executor);
  EXPECT_EQ(hit.get().value()->id, 1);
  EXPECT_EQ(tasks.size(), 3u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, LoadsManyAtOnce) {
  Cache::Options options = testing::WithBudget<Cache>(100);
  options.max_concurrent_loads = 1;
  Cache cache = MakeCache(options);
  Load(cache, "b", 1, 7);
  std::vector<std::string> asked;
  const auto load = [&](const std::vector<std::string>& missing) {
    asked = missing;
    std::vector<Blob> blobs;
    for (const std::string& key : missing) blobs.emplace_back(1, key[0]);
    return blobs;
  };
  const std::vector<std::string> keys = {"a", "b", "c", "a"};
  const auto found = cache.GetAll(keys, load);
  EXPECT_EQ(asked, (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(found[0].value()->id, 'a');
  EXPECT_EQ(found[1].value()->id, 7);
  EXPECT_EQ(found[2].value()->id, 'c');
  EXPECT_EQ(found[3].value(), found[0].value());
  EXPECT_EQ(cache.Stats().loads, 2u);
  EXPECT_TRUE(cache.GetAll({}, load).empty());
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, ABulkLoadLoadsARepeatedKeyOnce) {
  Cache cache = MakeCache(100);
  int calls = 0;
  const std::vector<std::string> keys = {"a", "b", "a", "a"};
  const auto loaded = cache.GetAll(keys, [&](const std::vector<std::string>& missing) {
    ++calls;
    EXPECT_EQ(missing, std::vector<std::string>({"a", "b"}));
    return std::vector<Blob>{Blob(1, 1), Blob(1, 2)};
  });
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(loaded[1].value()->id, 2);
  for (const size_t i : {0, 2, 3}) EXPECT_EQ(loaded[i].value(), loaded[0].value());
  EXPECT_EQ(cache.Stats().requests(), 4u);
  const std::vector<std::string> others = {"c", "c", "c"};
  const auto failed = cache.GetAll(
      others, [&](const std::vector<std::string>&) -> absl::StatusOr<std::vector<Blob>> {
        ++calls;
        return absl::NotFoundError("no");
      });
  EXPECT_EQ(calls, 2);
  for (const auto& result : failed) EXPECT_EQ(result.status(), absl::NotFoundError("no"));
  EXPECT_EQ(cache.Stats().requests(), 7u);
  cache.CheckInvariantsForTesting();
}

TEST(LargeObjectCacheTest, ABulkLoadMayFail) {
  Cache cache = MakeCache(100);
  using Keys = std::vector<std::string>;
  const Keys keys = {"a", "b"};
  const auto failed = cache.GetAll(keys, [](const Keys&) -> absl::StatusOr<std::vector<Blob>> {
    return absl::DataLossError("no");
  });
  EXPECT_EQ(failed[1].status(), absl::DataLossError("no"));
  const auto few = cache.GetAll(keys, [](const Keys&) { return std::vector<Blob>{Blob(1)}; });
  EXPECT_EQ(few[0].status().code(), absl::StatusCode::kInternal);
  EXPECT_THROW(
      cache.GetAll(keys, [](const Keys&) -> std::vector<Blob> { throw std::runtime_error("no"); }),
      std::runtime_error);
  cache.CheckInvariantsForTesting();
  EXPECT_TRUE(cache.empty());
  const auto partly = cache.GetAll(keys, [&](const Keys&) {
    EXPECT_EQ(cache.GetOrLoad("a", [] { return Blob(1); }).status().code(),
              absl::StatusCode::kFailedPrecondition);
    cache.Invalidate("b");
    std::vector<absl::StatusOr<std::unique_ptr<Blob>>> results;
    results.emplace_back(absl::NotFoundError("a"));
    results.emplace_back(std::make_unique<Blob>(1, 2));
    return results;
  });
  EXPECT_EQ(partly[0].status(), absl::NotFoundError("a"));
  EXPECT_EQ(partly[1].value()->id, 2);
  EXPECT_TRUE(cache.empty());
  cache.CheckInvariantsForTesting();
}

}  // namespace
}  // namespace weakcache
