// SPDX-License-Identifier: Apache-2.0
// Operations of a LargeObjectCache on keys, one and many.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "tests/support/cache_options.h"
#include "tests/support/evict_all.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/core/core_owner.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/object_info.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

bool Says(const absl::Status& status, const std::string& text) {
  return std::string(status.message()).find(text) != std::string::npos;
}

struct Picture {
  int version;
};

using Cache = LargeObjectCache<std::string, Picture>;

class OperationsTest : public ::testing::Test {
 protected:
  static Cache::Options WithBudget() {
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    return options;
  }

  Cache cache_ = std::move(Cache::Create(WithBudget())).value();
};

bool IsBelowDir(const std::string& key) { return key.rfind("dir/", 0) == 0; }

// Whether what is loaded under the key is kept if the condition's objects are invalidated during
// the load.
template <typename Condition>
bool IsKept(Cache& cache, const std::string& key, Condition condition) {
  EXPECT_TRUE(cache
                  .GetOrLoad(key,
                             [&] {
                               EXPECT_EQ(cache.InvalidateIf(condition), 0u);
                               return Picture{1};
                             })
                  .ok());
  const bool kept = cache.Get(key) != nullptr;
  cache.CheckInvariantsForTesting();
  return kept;
}

TEST_F(OperationsTest, InvalidateIfDropsLoadsOfMatchingKeys) {
  EXPECT_FALSE(IsKept(cache_, "dir/a", IsBelowDir));
  EXPECT_TRUE(IsKept(cache_, "a", IsBelowDir));
  EXPECT_TRUE(IsKept(cache_, "dir/b", [](const std::string& key) { return key == "dir/a"; }));
}

// It can't know what would be said about the object.
TEST_F(OperationsTest, InvalidateIfByTheObjectDropsAllLoads) {
  const auto by_object = [](const std::string& key, const Ref<Picture>&) {
    return IsBelowDir(key);
  };
  EXPECT_FALSE(IsKept(cache_, "dir/a", by_object));
  EXPECT_FALSE(IsKept(cache_, "a", by_object));
}

TEST_F(OperationsTest, InvalidateIfTakesAConditionOnTheKey) {
  cache_.Put("dir/a", Picture{1});
  cache_.Put("dir/b", Picture{1});
  cache_.Put("a", Picture{1});
  EXPECT_EQ(cache_.InvalidateIf(IsBelowDir), 2u);
  EXPECT_EQ(cache_.size(), 1u);
  EXPECT_NE(cache_.Get("a"), nullptr);
}

// The condition may use the cache: no lock is held.
TEST_F(OperationsTest, InvalidateIfsConditionMayUseTheCache) {
  const auto loaded = cache_.GetOrLoad("dir/a", [&] {
    cache_.InvalidateIf([&](const std::string& key) {
      cache_.Invalidate(key);
      return true;
    });
    return Picture{1};
  });
  EXPECT_TRUE(loaded.ok());
  EXPECT_EQ(cache_.Get("dir/a"), nullptr);
}

struct UniqueKeyHash {
  size_t operator()(const std::unique_ptr<int>& key) const { return static_cast<size_t>(*key); }
};
struct UniqueKeyEqual {
  bool operator()(const std::unique_ptr<int>& a, const std::unique_ptr<int>& b) const {
    return *a == *b;
  }
};
TEST(InvalidateIfTest, TakesKeysThatCantBeCopied) {
  using UniqueKeys = LargeObjectCache<std::unique_ptr<int>, Picture, UniqueKeyHash, UniqueKeyEqual>;
  UniqueKeys cache = std::move(UniqueKeys::CreateWeak()).value();
  const auto loaded = cache.GetOrLoad(std::make_unique<int>(1), [&] {
    cache.InvalidateIf([](const std::unique_ptr<int>& key) { return *key == 1; });
    return Picture{1};
  });
  EXPECT_TRUE(loaded.ok());
  EXPECT_EQ(cache.Get(std::make_unique<int>(1)), nullptr);
}

// A cache of ten objects.
class WeakHitTest : public ::testing::Test {
 protected:
  WeakHitTest() {
    Cache::Options options = testing::WithBudget<Cache>(10 * sizeof(Picture));
    cache_ = std::move(Cache::Create(options)).value();
  }
  Ref<Picture> Put(int i) { return cache_.Put(std::to_string(i), Picture{i}); }
  bool IsHit(int i) {
    const uint64_t hits = cache_.Stats().hits;
    EXPECT_NE(cache_.Get(std::to_string(i)), nullptr);
    return cache_.Stats().hits > hits;
  }

  absl::StatusOr<Cache> created_ = Cache::CreateWeak();
  Cache& cache_ = *created_;
};

TEST_F(WeakHitTest, LetsNoObjectGoThatIsInUse) {
  std::vector<Ref<Picture>> held;
  for (int i = 0; i < 100; ++i) held.push_back(Put(i));
  const uint64_t evictions = cache_.Stats().evictions_budget;
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 100; ++i)
      EXPECT_EQ(cache_.Get(std::to_string(i)), held[static_cast<size_t>(i)]);
  }
  EXPECT_EQ(cache_.Stats().evictions_budget, evictions);
  EXPECT_EQ(cache_.Stats().weak_hits, 40u * 90u);
  EXPECT_EQ(cache_.Stats().bytes_retained, cache_.budget_bytes());
  cache_.CheckInvariantsForTesting();
}

TEST_F(WeakHitTest, IsNoneWhileIdleObjectsMakeRoom) {
  const Ref<Picture> used = Put(0);
  for (int i = 1; i <= 20; ++i) Put(i);
  EXPECT_TRUE(IsHit(0));
}

TEST_F(WeakHitTest, EvictsNoneThatWasHitSinceItCame) {
  std::vector<Ref<Picture>> held;
  for (int i = 0; i <= 10; ++i) held.push_back(Put(i));
  int weak = 0;
  while (IsHit(weak)) ++weak;
  const int idle = weak == 5 ? 6 : 5;
  held[static_cast<size_t>(idle)].reset();
  EXPECT_TRUE(IsHit(idle));
  for (int hit = 0; hit < 40; ++hit) EXPECT_FALSE(IsHit(weak));
  EXPECT_NE(cache_.Peek(std::to_string(idle)), nullptr);
}

TEST_F(WeakHitTest, RetainsTheObjectAgainWhenThereIsRoom) {
  std::vector<Ref<Picture>> held;
  for (int i = 0; i < 20; ++i) held.push_back(Put(i));
  int weak = 0;
  while (IsHit(weak)) ++weak;
  EXPECT_FALSE(IsHit(weak));
  cache_.SetBudget(2 * cache_.budget_bytes());
  EXPECT_FALSE(IsHit(weak));
  EXPECT_TRUE(IsHit(weak));
}

// The cache is not told when a retained object is used no more: a few hits later it has noticed.
TEST_F(WeakHitTest, RetainsTheObjectAgainWhenOthersAreNoLongerUsed) {
  std::vector<Ref<Picture>> held;
  for (int i = 0; i < 20; ++i) held.push_back(Put(i));
  int weak = 0;
  while (IsHit(weak)) ++weak;
  EXPECT_FALSE(IsHit(weak));
  const Ref<Picture> used = cache_.Peek(std::to_string(weak));
  held.clear();
  int hits = 0;
  while (!IsHit(weak)) ++hits;
  EXPECT_LE(hits, 17);
}

// Reservations that no longer fit a smaller budget do not flush the rest.
TEST_F(WeakHitTest, ABudgetBelowAReservationIsUsed) {
  for (int i = 1; i <= 4; ++i) Put(i);
  const uint64_t weight = sizeof(Picture);
  const auto loaded = cache_.GetOrLoad("0",
                                       [&] {
                                         cache_.SetBudget(5 * weight);
                                         Put(5);
                                         for (int i = 1; i <= 5; ++i)
                                           EXPECT_NE(cache_.Peek(std::to_string(i)), nullptr) << i;
                                         return Picture{0};
                                       },
                                       {.weight_estimate = 6 * weight});
  EXPECT_TRUE(loaded.ok());
  EXPECT_LE(cache_.Stats().bytes_retained, 5 * weight);
  cache_.CheckInvariantsForTesting();
}

TEST(BudgetTest, TakesWhatCanBeMeant) {
  constexpr auto kLargest = static_cast<uint64_t>(PTRDIFF_MAX);
  for (const uint64_t budget : {uint64_t{1}, uint64_t{2} << 30, kLargest}) {
    EXPECT_TRUE(Cache::Create({.budget_bytes = budget}).ok());
  }
  EXPECT_FALSE(Cache::Create({.budget_bytes = kLargest + 1}).ok());
  EXPECT_FALSE(Cache::Create({.budget_bytes = UINT64_MAX}).ok());
  Cache cache = std::move(Cache::Create({.budget_bytes = kLargest})).value();
  cache.SetBudget(0);
  EXPECT_EQ(cache.budget_bytes(), 0u);
  EXPECT_DEATH(cache.SetBudget(static_cast<uint64_t>(INT64_MIN)), "SetBudget: a negative budget");
}

// The messages say what to write.
TEST(BudgetTest, HasToBeSet) {
  const absl::Status forgotten = Cache::Create({}).status();
  EXPECT_EQ(forgotten.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Says(forgotten, "options.budget_bytes = "));
  EXPECT_TRUE(Says(forgotten, "CreateWeak"));
  EXPECT_TRUE(Says(Cache::Create({.budget_bytes = UINT64_MAX}).status(), "-1"));
  const absl::Status both = Cache::CreateWeak({.budget_bytes = 1}).status();
  EXPECT_EQ(both.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Says(both, "LargeObjectCache::Create(options)"));
}

TEST(BudgetTest, AWeakCacheMayGetOneLater) {
  Cache cache = std::move(Cache::CreateWeak()).value();
  EXPECT_EQ(cache.budget_bytes(), 0u);
  cache.Put("a", Picture{1});
  EXPECT_EQ(cache.Get("a"), nullptr);
  cache.SetBudget(1000);
  cache.Put("a", Picture{1});
  EXPECT_NE(cache.Get("a"), nullptr);
  cache.CheckInvariantsForTesting();
}

struct Image {
  std::vector<char> pixels;
};
TEST(CacheOptionsTest, DoWhatTheHeaderSays) {
  using Images = weakcache::LargeObjectCache<std::string, Image>;
  Images::Options options;
  options.budget_bytes = uint64_t{2} << 30;
  options.weigher = [](const Image& image) { return image.pixels.size(); };
  options.expire_after_write = absl::Hours(1);
  absl::StatusOr<Images> images = Images::Create(options);
  EXPECT_TRUE(images.ok());
}

struct OwnsMemory {
  std::unique_ptr<int> value;
};
struct CountsBytes : OwnsMemory {
  size_t byte_size() const { return 17; }
};
struct ForgetsConst {
  size_t byte_size() { return 17; }
};
struct NamesItsSize {
  std::string byte_size() const { return "large"; }
};

static_assert(HasDefaultWeight<Picture> && HasDefaultWeight<const Picture>);
static_assert(HasDefaultWeight<CountsBytes> && HasDefaultWeight<std::string>);
static_assert(HasDefaultWeight<std::vector<Picture>>);
static_assert(!HasDefaultWeight<OwnsMemory> && !HasDefaultWeight<std::vector<OwnsMemory>>);
static_assert(!HasDefaultWeight<std::vector<std::string>> && !HasDefaultWeight<std::vector<bool>>);
static_assert(!HasDefaultWeight<std::map<int, int>> && !HasDefaultWeight<std::list<int>>);
// Each is an error at compile time, with a weigher, too.
static_assert(internal::HasUnusableByteSize<ForgetsConst>);
static_assert(internal::HasUnusableByteSize<const ForgetsConst>);
static_assert(internal::HasUnusableByteSize<NamesItsSize>);
static_assert(!internal::HasUnusableByteSize<CountsBytes>);

TEST(DefaultWeightTest, CountsWhatAnObjectOwns) {
  EXPECT_EQ(DefaultWeight(Picture{1}), sizeof(Picture));
  EXPECT_EQ(DefaultWeight(CountsBytes()), 17u);
  EXPECT_EQ(DefaultWeight(std::array<int, 5>()), sizeof(int[5]));
  EXPECT_EQ(DefaultWeight(absl::Span<const int>()), sizeof(absl::Span<const int>));  // owns none
  std::vector<Picture> pictures(100);
  EXPECT_EQ(DefaultWeight(pictures), sizeof(pictures) + 100 * sizeof(Picture));
  pictures.reserve(1000);
  pictures.clear();
  EXPECT_EQ(DefaultWeight(pictures), sizeof(pictures) + 1000 * sizeof(Picture));
  const std::string text(1000, 'a');
  EXPECT_EQ(DefaultWeight(text), sizeof(text) + text.capacity());
  EXPECT_EQ(DefaultWeight(std::string("a")), sizeof(std::string));  // lies in the object
  EXPECT_EQ(DefaultWeight(std::vector<int>()), sizeof(std::vector<int>));
}

TEST(DefaultWeightTest, IsUsedByACache) {
  using Texts = LargeObjectCache<int, std::string>;
  Texts cache = std::move(Texts::Create(testing::WithBudget<Texts>(10'000))).value();
  for (int key = 0; key < 20; ++key) cache.Put(key, std::string(1000, 'a'));
  EXPECT_EQ(cache.size(), 9u);
}

TEST(DefaultWeightTest, ATypeWithoutOneHasToBeWeighed) {
  using Owners = LargeObjectCache<int, OwnsMemory>;
  auto options = testing::WithBudget<Owners>(100);
  for (const absl::Status& unweighed :
       {Owners::Create(options).status(), Owners::CreateWeak().status()}) {
    EXPECT_EQ(unweighed.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(Says(unweighed, "options.weigher = "));
    EXPECT_TRUE(Says(unweighed, "byte_size() const"));
  }
  options.weigher = [](const OwnsMemory&) { return uint64_t{1}; };
  EXPECT_TRUE(Owners::Create(options).ok());
}

// An object whose weight is what a test says.
struct Weighed {
  uint64_t byte_size() const { return weight; }
  uint64_t weight;
};
using WeighedCache = LargeObjectCache<int, Weighed>;

// Or else objects that weigh nothing would have no limit.
TEST(EntryMemoryTest, Weighs) {
  std::vector<uint64_t> told;
  WeighedCache::Options options;
  options.budget_bytes = 100'000;
  options.removal_listener = [&](int, RemovalCause, uint64_t weight) { told.push_back(weight); };
  WeighedCache cache = std::move(WeighedCache::Create(options)).value();
  for (int key = 0; key < 10'000; ++key) cache.Put(key, Weighed{0});
  EXPECT_LT(cache.size(), 1000u);
  EXPECT_GT(cache.size(), 100u);
  EXPECT_EQ(told, std::vector<uint64_t>(told.size(), 0));
  cache.Clear();
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  const auto weight_of = [&](int key) {
    const uint64_t before = cache.Stats().bytes_retained;
    EXPECT_TRUE(cache.UpdateWeight(key));
    EXPECT_EQ(cache.Stats().bytes_retained, before);
    cache.Invalidate(key);
    return before - cache.Stats().bytes_retained;
  };
  cache.Put(1, Weighed{0});
  cache.Put(2, Weighed{1000});
  cache.Put(3, MakeRef<Weighed>(Weighed{1000}));
  const uint64_t embedded = weight_of(1);
  EXPECT_GT(embedded, 100u);
  EXPECT_EQ(weight_of(2), embedded + 1000);
  EXPECT_GT(weight_of(3), embedded + 1000);  // its slot is larger
  EXPECT_EQ(told.back(), 1000u);
  const Ref<Weighed> heaviest = cache.Put(4, Weighed{UINT64_MAX});  // does not wrap round
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  cache.Invalidate(4);
  EXPECT_EQ(told.back(), UINT64_MAX);
  cache.CheckInvariantsForTesting();
}

TEST(EntryMemoryTest, DoesNotWeighIfTheOptionSaysSo) {
  WeighedCache::Options options;
  options.budget_bytes = 10;  // objects
  options.weigher = [](const Weighed&) { return uint64_t{1}; };
  options.count_entry_memory = false;
  WeighedCache cache = std::move(WeighedCache::Create(options)).value();
  for (int key = 0; key < 100; ++key) cache.Put(key, Weighed{0});
  EXPECT_EQ(cache.size(), 10u);
  EXPECT_EQ(cache.Stats().bytes_retained, 10u);
}

// The reservation has room for the entry, too: nothing more is evicted when the object comes.
TEST(EntryMemoryTest, IsReservedWithTheEstimate) {
  WeighedCache::Options options;
  options.budget_bytes = 10'000;
  WeighedCache cache = std::move(WeighedCache::Create(options)).value();
  for (int key = 0; key < 100; ++key) cache.Put(key, Weighed{0});
  uint64_t evictions = 0;
  const auto load = [&] {
    evictions = cache.Stats().evictions_budget;
    return Weighed{1000};
  };
  EXPECT_TRUE(cache.GetOrLoad(1000, load, {.weight_estimate = 1000}).ok());
  EXPECT_GT(evictions, 0u);
  EXPECT_EQ(cache.Stats().evictions_budget, evictions);
  EXPECT_LE(cache.Stats().bytes_retained, 10'000u);
}

class InspectTest : public ::testing::Test {
 protected:
  WeighedCache::Options WithClock() {
    WeighedCache::Options options;
    options.budget_bytes = 100'000;
    options.clock = [this] { return now_; };
    return options;
  }
  static WeighedCache Create(const WeighedCache::Options& options) {
    return std::move(WeighedCache::Create(options)).value();
  }
  Ref<Weighed> Load(WeighedCache& cache, int key, uint64_t weight, absl::Duration time) {
    return *cache.GetOrLoad(key, [&] {
      now_ += time;
      return Weighed{weight};
    });
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

TEST_F(InspectTest, TellsWhatIsKnownOfAnObject) {
  WeighedCache cache = Create(WithClock());
  EXPECT_FALSE(cache.Inspect(1).has_value());
  Ref<Weighed> object = Load(cache, 1, 1000, absl::Seconds(2));
  now_ += absl::Seconds(5);
  std::optional<ObjectInfo> info = cache.Inspect(1);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->weight, 1000u);
  EXPECT_EQ(info->bytes, cache.Stats().bytes_in_use);
  EXPECT_GT(info->bytes, info->weight);
  EXPECT_EQ(info->age, absl::Seconds(5));
  EXPECT_EQ(info->load_time, absl::Seconds(2));
  EXPECT_EQ(info->uses, 0u);
  EXPECT_TRUE(info->in_use);
  EXPECT_TRUE(info->retained);
  object.reset();
  for (int i = 0; i < 3; ++i) cache.Get(1).reset();
  info = cache.Inspect(1);
  EXPECT_FALSE(info->in_use);
  EXPECT_EQ(info->uses, 3u);
  for (int i = 0; i < 30; ++i) cache.Get(1).reset();
  EXPECT_EQ(cache.Inspect(1)->uses, 16u);
}

TEST_F(InspectTest, IsNoUse) {
  WeighedCache::Options options = WithClock();
  options.expire_after_access = absl::Seconds(10);
  WeighedCache cache = Create(options);
  cache.Put(1, Weighed{1000});
  const CacheStats before = cache.Stats();
  now_ += absl::Seconds(9);
  EXPECT_EQ(cache.Inspect(1)->age, absl::Seconds(9));
  EXPECT_EQ(cache.Inspect(1)->uses, 0u);
  EXPECT_FALSE(cache.Inspect(2).has_value());
  EXPECT_EQ(cache.Stats(), before);
  now_ += absl::Seconds(1);
  EXPECT_FALSE(cache.Inspect(1).has_value());  // has expired
  EXPECT_EQ(cache.size(), 1u);
}

TEST_F(InspectTest, TellsOfObjectsThatTheCacheHasNotMadeOrDoesNotRetain) {
  WeighedCache cache = Create(WithClock());
  Ref<Weighed> object = MakeRef<Weighed>(Weighed{1000});
  cache.Put(1, object);
  EXPECT_TRUE(cache.Inspect(1)->in_use);
  EXPECT_EQ(cache.Inspect(1)->load_time, absl::ZeroDuration());
  object.reset();
  EXPECT_FALSE(cache.Inspect(1)->in_use);
  EXPECT_TRUE(cache.Inspect(1)->retained);
  object = cache.Put(2, Weighed{200'000});
  EXPECT_TRUE(cache.Inspect(2)->in_use);
  EXPECT_FALSE(cache.Inspect(2)->retained);
  object->weight = 300'000;
  cache.UpdateWeight(2);
  EXPECT_EQ(cache.Inspect(2)->weight, 300'000u);
}

TEST_F(InspectTest, ABulkLoadsTimeIsDivided) {
  WeighedCache cache = Create(WithClock());
  const std::array<int, 4> keys = {1, 2, 3, 4};
  cache.GetAll(keys, [&](const std::vector<int>& missing) {
    now_ += absl::Seconds(8);
    return std::vector<Weighed>(missing.size(), Weighed{100});
  });
  now_ += absl::Seconds(1);
  EXPECT_EQ(cache.Inspect(3)->load_time, absl::Seconds(2));
  EXPECT_EQ(cache.Inspect(3)->age, absl::Seconds(1));
  EXPECT_EQ(cache.Stats().bytes_loaded, 4 * cache.Inspect(3)->bytes);
}

TEST_F(InspectTest, ALoadIsExactWithoutAges) {
  WeighedCache::Options options = WithClock();
  options.clock = {};
  WeighedCache cache = Create(options);
  const auto began = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point loaded;
  const Ref<Weighed> object = *cache.GetOrLoad(1, [&] {
    loaded = std::chrono::steady_clock::now();
    return Weighed{100};
  });
  // A Put reads the coarse clock, which is some milliseconds behind.
  timespec before_put = {};
  ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC_COARSE, &before_put), 0);
  cache.Put(2, Weighed{100});
  const ObjectInfo of_load = *cache.Inspect(1);
  const ObjectInfo of_put = *cache.Inspect(2);
  const auto ended = std::chrono::steady_clock::now();
  EXPECT_LE(of_load.age, absl::FromChrono(ended - loaded));
  EXPECT_LE(of_load.age + of_load.load_time, absl::FromChrono(ended - began));
  EXPECT_LE(of_put.age,
            absl::FromChrono(ended.time_since_epoch()) - absl::DurationFromTimespec(before_put));
}

// Whatever evicts knows the time.
TEST_F(InspectTest, AgesAtEvictionAreThoseOfTheObjects) {
  const std::function<void(WeighedCache&)> evictions[] = {
      [](WeighedCache& cache) { cache.Put(100, Weighed{60'000}); },
      [this](WeighedCache& cache) { Load(cache, 100, 60'000, absl::ZeroDuration()); },
      [](WeighedCache& cache) {
        const auto fail = [] { return absl::NotFoundError(""); };
        EXPECT_FALSE(cache.GetOrLoad(100, fail, {.weight_estimate = 60'000}).ok());
      },
      [](WeighedCache& cache) {
        const std::array<int, 1> keys = {100};
        cache.GetAll(keys,
                     [](const std::vector<int>&) { return std::vector<Weighed>{Weighed{60'000}}; });
      },
      [](WeighedCache& cache) { cache.SetBudget(50'000); },
      [](WeighedCache& cache) { cache.Trim(0); },
      [](WeighedCache& cache) {
        cache.Peek(0)->weight = 200'000;
        EXPECT_TRUE(cache.UpdateWeight(0));
      },
      [](WeighedCache& cache) {
        const Ref<Weighed> held = cache.Peek(0);
        cache.SetBudget(1);
        cache.SetBudget(100'000);
        EXPECT_EQ(cache.Get(0), held);  // a weak hit
      },
  };
  for (const uint64_t hard_limit : {uint64_t{0}, uint64_t{110'000}}) {
    for (const std::function<void(WeighedCache&)>& evict : evictions) {
      WeighedCache::Options options = WithClock();
      options.hard_limit_bytes = hard_limit;
      WeighedCache cache = Create(options);
      for (int key = 0; key < 50; ++key) cache.Put(key, Weighed{1500});
      now_ += absl::Seconds(100);
      const uint64_t bytes = cache.Inspect(0)->bytes;
      evict(cache);
      const CacheStats stats = cache.Stats();
      EXPECT_GT(stats.evictions_budget, 0u);
      EXPECT_EQ(stats.eviction_age, stats.evictions_budget * absl::Seconds(100));
      EXPECT_EQ(stats.eviction_age_histogram[CacheStats::EvictionAgeBucket(absl::Seconds(100))],
                stats.evictions_budget);
      EXPECT_EQ(stats.bytes_evicted, stats.evictions_budget * bytes);
    }
  }
}

TEST_F(InspectTest, ObjectsThatExpireAreNotAmongTheEvictedForTheBudget) {
  WeighedCache::Options options = WithClock();
  options.expire_after_write = absl::Seconds(10);
  WeighedCache cache = Create(options);
  for (int key = 0; key < 20; ++key) cache.Put(key, Weighed{1500});
  now_ += absl::Seconds(10);
  cache.Put(100, Weighed{90'000});
  cache.Get(1).reset();
  const CacheStats stats = cache.Stats();
  EXPECT_GT(stats.evictions_expired, 0u);
  EXPECT_EQ(stats.evictions_budget, 0u);
  EXPECT_EQ(stats.bytes_evicted, 0u);
  EXPECT_EQ(stats.eviction_age, absl::ZeroDuration());
}

// The example of object_info.h.
TEST(ObjectInfoTest, DoesWhatTheHeaderSays) {
  LargeObjectCache<std::string, std::string> images =
      std::move(LargeObjectCache<std::string, std::string>::Create({.budget_bytes = 1000})).value();
  std::vector<std::string> saved;
  const auto SaveDecoded = [&](const char* key) { saved.emplace_back(key); };
  if (std::optional<weakcache::ObjectInfo> cover = images.Inspect("cover.png")) {
    if (cover->load_time > absl::Seconds(1) && !cover->in_use) SaveDecoded("cover.png");
  }
  EXPECT_TRUE(saved.empty());
}

// What a listener with the object has kept: object and cause.
struct Kept {
  Ref<Weighed> object;
  RemovalCause cause;
};

// For either kind of slot: the object is alive although nobody else uses it.
TEST(RemovalListenerTest, GetsTheObjectBeforeItDies) {
  for (const bool is_embedded : {true, false}) {
    std::vector<Kept> kept;
    std::vector<uint64_t> weights;
    auto options = testing::WithBudget<WeighedCache>(20);
    options.removal_listener = [&](int key, const Ref<Weighed>& object, RemovalCause cause,
                                   uint64_t weight) {
      ASSERT_EQ(object.get() == nullptr, cause == RemovalCause::kDied);
      EXPECT_EQ(key % 2 == 0, cause == RemovalCause::kBudget);
      if (object.get() != nullptr) {
        EXPECT_EQ(object->weight, weight);
      }
      kept.push_back({object, cause});
    };
    WeighedCache cache = std::move(WeighedCache::Create(options)).value();
    const auto put = [&](int key) {
      return is_embedded ? cache.Put(key, Weighed{10})
                         : cache.Put(key, MakeRef<Weighed>(Weighed{10}));
    };
    Weighed* const evicted = put(2).get();
    cache.Trim(0);
    ASSERT_EQ(kept.size(), 1u);
    EXPECT_EQ(kept[0].object.get(), evicted);
    // What the listener keeps is in use, and still in the cache.
    EXPECT_EQ(cache.Get(2).get(), evicted);
    cache.CheckInvariantsForTesting();
    for (const int key : {1, 1}) put(key);
    ASSERT_EQ(kept.size(), 2u);
    EXPECT_EQ(kept[1].cause, RemovalCause::kReplaced);
    EXPECT_NE(kept[1].object, cache.Get(1));
    EXPECT_TRUE(cache.Invalidate(1));
    EXPECT_EQ(kept.back().cause, RemovalCause::kInvalidated);
    EXPECT_EQ(kept.back().object.use_count(), 1u);
    EXPECT_EQ(cache.Get(1), nullptr);
    kept.clear();
    Ref<Weighed> heavy = cache.Put(3, Weighed{21});
    heavy.reset();
    ASSERT_EQ(kept.size(), 1u);
    EXPECT_EQ(kept[0].cause, RemovalCause::kDied);
    kept.clear();
    cache.CheckInvariantsForTesting();
  }
}

// For either kind of slot: the death of an object is told of unless it follows from the eviction.
TEST(RemovalListenerTest, HearsOfTheDeathOfWhatWasUsedWhenItWasEvicted) {
  for (const bool is_embedded : {true, false}) {
    for (const bool was_used : {true, false}) {
      std::vector<RemovalCause> told;
      Ref<Weighed> used;
      auto options = testing::WithBudget<WeighedCache>(20);
      options.removal_listener = [&](int, RemovalCause cause, uint64_t) {
        told.push_back(cause);
        used.reset();  // so that the cache has the last reference when this has returned
      };
      WeighedCache cache = std::move(WeighedCache::Create(options)).value();
      used = is_embedded ? cache.Put(1, Weighed{10}) : cache.Put(1, MakeRef<Weighed>(Weighed{10}));
      if (!was_used) used.reset();
      testing::EvictAll(cache);
      std::vector<RemovalCause> expected = {RemovalCause::kBudget};
      if (was_used) expected.push_back(RemovalCause::kDied);
      EXPECT_EQ(told, expected);
      EXPECT_EQ(cache.Stats().removals_died, was_used ? 1u : 0u);
      EXPECT_EQ(cache.Get(1), nullptr);
      cache.CheckInvariantsForTesting();
    }
  }
}

TEST(RemovalListenerTest, TakesThreeForms) {
  std::vector<std::string> calls;
  const auto options_with = [](RemovalListener<int, Weighed> listener) {
    auto options = testing::WithBudget<WeighedCache>(20);
    options.removal_listener = std::move(listener);
    return options;
  };
  const std::function<void(int, RemovalCause, uint64_t)> former = [&](int, RemovalCause, uint64_t) {
    calls.push_back("weight");
  };
  for (const auto& options : {
           options_with(
               [&](int, const Ref<Weighed>&, RemovalCause, uint64_t) { calls.push_back("both"); }),
           options_with([&](int, const Ref<Weighed>&, RemovalCause) { calls.push_back("object"); }),
           options_with(former),
           options_with([&](auto&&...) { calls.push_back("any"); }),
       }) {
    WeighedCache cache = std::move(WeighedCache::Create(options)).value();
    cache.Put(1, Weighed{1});
    cache.Clear();
  }
  EXPECT_EQ(calls, (std::vector<std::string>{"both", "object", "weight", "any"}));
  using Listener = RemovalListener<int, Weighed>;
  EXPECT_FALSE(Listener() || Listener(nullptr));
  EXPECT_FALSE(Listener(std::function<void(int, RemovalCause, uint64_t)>()));
}

TEST_F(OperationsTest, AMovedFromCacheSaysSo) {
  Cache moved = std::move(cache_);
  moved.Put("a", Picture{1});
  EXPECT_DEATH((void)cache_.Get("a"), "moved from");  // NOLINT(bugprone-use-after-move)
  EXPECT_DEATH((void)cache_.Stats(), "moved from");
  cache_ = std::move(moved);
  EXPECT_NE(cache_.Get("a"), nullptr);
}

// Not every standard library's unique_ptr does that.
TEST(CoreOwnerTest, ReachesTheCoreUntilItIsGone) {
  struct Core {
    ~Core() { EXPECT_EQ(owner->get(), this); }
    internal::CoreOwner<Core>* owner = nullptr;
  };
  internal::CoreOwner<Core> owner(std::make_unique<Core>());
  owner->owner = &owner;
}

struct LargePicture : Picture {};

TEST_F(OperationsTest, PutTakesWhateverOwnsAnObject) {
  EXPECT_EQ(cache_.Put("u", std::make_unique<Picture>(Picture{1}))->version, 1);
  EXPECT_EQ(cache_.Put("r", MakeRef<LargePicture>())->version, 0);
  const Ref<Picture> ref = MakeRef<Picture>(Picture{3});
  EXPECT_EQ(cache_.Put("c", ref), ref);
  EXPECT_EQ(cache_.Put("v", Picture{4})->version, 4);
  EXPECT_EQ(cache_.Get("u")->version, 1);
  EXPECT_DEATH(cache_.Put("n", std::unique_ptr<Picture>()), "Put: there is no object");
  cache_.CheckInvariantsForTesting();
}

TEST_F(OperationsTest, PutIfAbsentTakesWhateverOwnsAnObject) {
  EXPECT_EQ(cache_.PutIfAbsent("u", std::make_unique<Picture>(Picture{1})).first->version, 1);
  EXPECT_TRUE(cache_.PutIfAbsent("r", MakeRef<LargePicture>()).second);
  const Ref<Picture> ref = MakeRef<Picture>(Picture{3});
  EXPECT_EQ(cache_.PutIfAbsent("c", ref), std::make_pair(ref, true));
  EXPECT_EQ(cache_.PutIfAbsent("v", Picture{4}).first->version, 4);
  EXPECT_EQ(cache_.PutIfAbsent("b", {5}).first->version, 5);
  EXPECT_EQ(cache_.PutIfAbsent("c", Picture{6}), std::make_pair(ref, false));
  EXPECT_EQ(cache_.PutIfAbsent("c", MakeRef<Picture>()), std::make_pair(ref, false));
  EXPECT_EQ(cache_.size(), 5u);
  EXPECT_DEATH(cache_.PutIfAbsent("n", std::unique_ptr<Picture>()),
               "PutIfAbsent: there is no object");
  EXPECT_DEATH(cache_.PutIfAbsent("n", Ref<Picture>()), "PutIfAbsent: there is no object");
  cache_.CheckInvariantsForTesting();
}

TEST_F(OperationsTest, PutIfAbsentIsNewerThanALoadUnderWay) {
  const auto loaded = cache_.GetOrLoad("a", [&] {
    EXPECT_TRUE(cache_.PutIfAbsent("a", Picture{2}).second);
    return Picture{1};
  });
  EXPECT_EQ(loaded.value()->version, 2);
  EXPECT_EQ(cache_.Get("a"), loaded.value());
  const CacheStats stats = cache_.Stats();
  EXPECT_FALSE(cache_.PutIfAbsent("a", Picture{3}).second);
  EXPECT_EQ(cache_.Stats().hits, stats.hits);
  EXPECT_EQ(cache_.Stats().misses, stats.misses);
}

// A cache whose objects expire, and the causes that its listener has heard.
class ExpiryCauseTest : public ::testing::Test {
 protected:
  ExpiryCauseTest() {
    Cache::Options options = testing::WithBudget<Cache>(1000);
    options.expire_after_write = absl::Seconds(10);
    options.clock = [this] { return now_; };
    options.removal_listener = [this](const std::string&, RemovalCause cause, uint64_t) {
      causes_.push_back(cause);
    };
    cache_ = std::move(Cache::Create(options)).value();
  }

  absl::Time now_ = absl::UnixEpoch();
  std::vector<RemovalCause> causes_;
  WeakRef<Picture> object_;
  absl::StatusOr<Cache> created_ = Cache::CreateWeak();
  Cache& cache_ = *created_;
};

TEST_F(ExpiryCauseTest, IsThatOfWhateverRemovesAnExpiredObject) {
  const std::function<void()> removals[] = {
      [&] { EXPECT_TRUE(cache_.Invalidate("a")); },
      [&] { EXPECT_TRUE(cache_.Invalidate("a", object_)); },
      [&] { cache_.InvalidateIf([](const std::string&) { return true; }); },
      [&] { cache_.Clear(); },
      [&] { cache_.Purge(); },
      [&] { cache_.Put("a", Picture{2}); },
      [&] { EXPECT_TRUE(cache_.PutIfAbsent("a", Picture{2}).second); },
      [&] { EXPECT_EQ(cache_.Get("a"), nullptr); },
      [&] { cache_.Trim(0); },
      [&] {
        cache_.SetBudget(0);
        cache_.SetBudget(1000);
      },

      [&] { EXPECT_TRUE(cache_.GetOrLoad("a", [] { return Picture{2}; }).ok()); },
  };
  uint64_t expired = 0;
  for (const auto& remove : removals) {
    cache_.Clear();
    object_ = cache_.Put("a", Picture{1});
    now_ += absl::Seconds(10);
    causes_.clear();
    remove();
    EXPECT_EQ(causes_, std::vector<RemovalCause>{RemovalCause::kExpired}) << expired;
    EXPECT_EQ(cache_.Stats().evictions_expired, ++expired);
  }
}

TEST_F(ExpiryCauseTest, IsToldOnceOfAnObjectInUse) {
  const Ref<Picture> used = cache_.Put("a", Picture{1});
  now_ += absl::Seconds(10);
  testing::EvictAll(cache_);
  EXPECT_EQ(causes_, std::vector<RemovalCause>{RemovalCause::kBudget});
  EXPECT_EQ(cache_.Get("a"), nullptr);
  EXPECT_EQ(causes_, (std::vector<RemovalCause>{RemovalCause::kBudget, RemovalCause::kExpired}));
  EXPECT_EQ(cache_.Stats().evictions_expired, 1u);
}

// A clock that was set back makes an object new; unless another look-up, by a later time, has found
// it meanwhile: whenever that is, between two of the clock's reads or before the last.
TEST(ClockSetBackTest, KeepsALaterAccess) {
  constexpr int kReads = 3;
  for (int at = 1; at <= kReads; ++at) {
    absl::Time now = absl::UnixEpoch() + absl::Seconds(100);
    int reads = 0;
    std::function<void()> meanwhile;
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    options.expire_after_access = absl::Seconds(10);
    options.clock = [&] {
      const absl::Time read = now;
      if (++reads == at && meanwhile) meanwhile();
      return read;
    };
    Cache cache = std::move(Cache::Create(options)).value();
    cache.Put("a", Picture{1});
    now -= absl::Seconds(5);
    reads = 0;
    int reads_of_another = 0;
    meanwhile = [&] {
      now += absl::Seconds(12);
      const int before = reads;
      EXPECT_NE(cache.Get("a"), nullptr);
      reads_of_another = reads - before;
    };
    EXPECT_NE(cache.Get("a"), nullptr);
    EXPECT_GE(reads - reads_of_another, at);  // else it came later
    now += absl::Seconds(9);
    EXPECT_NE(cache.Get("a"), nullptr) << at;
  }
}

TEST_F(OperationsTest, PutsAndInvalidatesMany) {
  std::vector<std::pair<std::string, std::unique_ptr<Picture>>> pictures;
  for (int i = 0; i < 3; ++i) {
    pictures.emplace_back(std::to_string(i), std::make_unique<Picture>(Picture{i}));
  }
  cache_.PutAll(std::move(pictures));
  EXPECT_EQ(cache_.Get("2")->version, 2);
  const std::vector<std::string> keys = {"0", "2", "4"};
  EXPECT_EQ(cache_.InvalidateAll(keys), 2u);
  EXPECT_EQ(cache_.size(), 1u);
}

TEST_F(OperationsTest, ATaskThatIsLeftAtTheEndIsTold) {
  const auto leave_a_task = [] {
    std::function<void()> left;
    Cache cache = std::move(Cache::Create(WithBudget())).value();
    auto future = cache.GetOrLoadAsync(
        "a", [] { return Picture{1}; }, [&](auto task) { left = std::move(task); });
  };
  EXPECT_DEATH(leave_a_task(), "a task of GetOrLoadAsync has neither run nor been dropped");
}

TEST(TaskTest, MayBeDroppedOrRunAndKept) {
  std::function<void()> kept;
  {
    Cache cache = std::move(Cache::CreateWeak()).value();
    cache
        .GetOrLoadAsync(
            "a", [] { return Picture{1}; }, [](const auto&) {})
        .wait();
    auto future = cache.GetOrLoadAsync(
        "a", [] { return Picture{1}; }, [&](auto task) { kept = std::move(task); });
    kept();
    EXPECT_EQ(future.get().value()->version, 1);
  }
}

}  // namespace
}  // namespace weakcache
