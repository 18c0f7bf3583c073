// SPDX-License-Identifier: Apache-2.0
// Loads of a LargeObjectCache: how objects end that came with a deleter, that nothing is held while
// user code runs, and who waits for what.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/last_words.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

// As C libraries do it: made and ended by functions.
struct Surface {
  uint64_t byte_size() const { return 1; }
  int live_mark = 0;
};

namespace {
int surfaces_freed = 0;
}  // namespace

template <>
struct std::default_delete<Surface> {
  void operator()(Surface* surface) const {
    ++surfaces_freed;
    delete surface;
  }
};

// One that can be converted to as the standard's own can.
struct Texture : Surface {};
template <>
struct std::default_delete<Texture> {
  default_delete() = default;
  template <typename Derived>
  requires std::is_convertible_v<Derived*, Texture*> default_delete(
      const std::default_delete<Derived>&)
  noexcept {}
  void operator()(Texture* texture) const {
    ++surfaces_freed;
    delete texture;
  }
};

namespace weakcache {
namespace {

std::unique_ptr<Surface> MakeSurface() { return std::unique_ptr<Surface>(new Surface); }

using SurfaceCache = LargeObjectCache<int, Surface>;
using SurfaceResult = absl::StatusOr<std::unique_ptr<Surface>>;

class DeleterTest : public ::testing::Test {
 protected:
  DeleterTest() { surfaces_freed = 0; }
  static SurfaceCache MakeCache() {
    SurfaceCache::Options options = testing::WithBudget<SurfaceCache>(100);
    return std::move(SurfaceCache::Create(options)).value();
  }
};

TEST_F(DeleterTest, ALoadedObjectEndsByItsDeleter) {
  {
    SurfaceCache cache = MakeCache();
    ASSERT_TRUE(cache.GetOrLoad(1, MakeSurface).ok());
    ASSERT_TRUE(cache.GetOrLoad(2, []() -> SurfaceResult { return MakeSurface(); }).ok());
    cache.Invalidate(1);
    EXPECT_EQ(surfaces_freed, 1);
  }
  EXPECT_EQ(surfaces_freed, 2);
}

TEST_F(DeleterTest, ADeleterThatLooksLikeTheStandardsEndsItsObject) {
  {
    auto cache = std::move(LargeObjectCache<int, Texture>::CreateWeak()).value();
    ASSERT_TRUE(cache.GetOrLoad(1, [] { return std::make_unique<Texture>(); }).ok());
  }
  EXPECT_EQ(surfaces_freed, 1);
}

TEST_F(DeleterTest, AnObjectOfABulkLoadEndsByItsDeleter) {
  {
    SurfaceCache cache = MakeCache();
    cache.GetAll(std::vector<int>{1, 2}, [](const std::vector<int>& missing) {
      std::vector<std::unique_ptr<Surface>> made;
      for (size_t i = 0; i < missing.size(); ++i) made.push_back(MakeSurface());
      return made;
    });
    cache.GetAll(std::vector<int>{3}, [](const std::vector<int>&) {
      std::vector<SurfaceResult> made;
      made.push_back(MakeSurface());
      return made;
    });
    EXPECT_EQ(cache.size(), 3);
  }
  EXPECT_EQ(surfaces_freed, 3);
}

TEST_F(DeleterTest, AnInvalidatedLoadEndsByItsDeleter) {
  SurfaceCache cache = MakeCache();
  cache
      .GetOrLoad(1,
                 [&] {
                   cache.Invalidate(1);
                   return MakeSurface();
                 })
      .value()
      .reset();
  EXPECT_EQ(surfaces_freed, 1);
}

using Blob = testing::CallsAtEnd;
using Cache = LargeObjectCache<int, Blob>;

Cache::Options OneObject() {
  Cache::Options options = testing::WithBudget<Cache>(10);
  options.shards = 1;
  options.weigher = [](const Blob&) { return uint64_t{10}; };
  return options;
}
Cache MakeCache(Cache::Options options) {
  return std::move(Cache::Create(std::move(options))).value();
}

constexpr std::chrono::seconds kLong{60};

// Runs a function on another thread, for a limited time.
class OtherThread {
 public:
  explicit OtherThread(std::function<void()> function)
      : thread_([this, function = std::move(function)] {
          function();
          done_.set_value();
        }) {}
  ~OtherThread() { thread_.join(); }
  bool Finishes() { return future_.wait_for(kLong) == std::future_status::ready; }

 private:
  std::promise<void> done_;
  std::future<void> future_ = done_.get_future();
  std::thread thread_;
};

constexpr int kInUse = 5;  // a key whose object is in use but not retained

struct Way {
  const char* name;
  bool limited;
  // Makes object 0 leave the cache.
  void (*evict)(Cache&, std::atomic<int64_t>& now);
};
std::vector<Blob> BlobsFor(const std::vector<int>& keys) { return std::vector<Blob>(keys.size()); }

const Way kWays[] = {
    {"Load", false, [](Cache& cache, auto&) { cache.GetOrLoad(1, [] { return Blob(); }).value(); }},
    {"LoadWithLimit", true,
     [](Cache& cache, auto&) { cache.GetOrLoad(1, [] { return Blob(); }).value(); }},
    {"LoadRef", true,
     [](Cache& cache, auto&) { cache.GetOrLoad(1, [] { return MakeRef<Blob>(); }).value(); }},
    {"LoadWithEstimate", false,
     [](Cache& cache, auto&) {
       cache.GetOrLoad(1, [] { return Blob(); }, {.weight_estimate = 10}).value();
     }},
    {"LoadWithEstimateAndLimit", true,
     [](Cache& cache, auto&) {
       cache.GetOrLoad(1, [] { return Blob(); }, {.weight_estimate = 10}).value();
     }},
    {"BulkLoad", true,
     [](Cache& cache, auto&) {
       cache.GetAll(std::vector<int>{1, 2, 3}, BlobsFor);
     }},
    {"BulkLoadWithAWeakHit", true,
     [](Cache& cache, auto&) {
       cache.GetAll(std::vector<int>{1, kInUse, 2, 3}, BlobsFor);
     }},
    {"Refresh", true,
     [](Cache& cache, auto& now) {
       now = 100;
       cache.GetOrLoad(0, [] { return Blob(); }).value();
     }},
};

class UserCodeTest : public ::testing::TestWithParam<Way> {};

// While the listener or a destructor runs, another thread needs the same keys and a permit.
TEST_P(UserCodeTest, TheListenerRunsWithNothingHeld) {
  std::atomic<int64_t> now{0};
  std::atomic<Cache*> current{nullptr};
  std::atomic<int> calls{0};
  Cache::Options options = OneObject();
  options.max_concurrent_loads = GetParam().limited ? 1 : 0;
  options.clock = [&] { return absl::FromUnixNanos(now); };
  options.refresh_after_write = absl::Nanoseconds(50);
  options.removal_listener = [&](int, RemovalCause, uint64_t) {
    Cache* const cache = current.exchange(nullptr);
    if (cache == nullptr) return;
    ++calls;
    for (const int key : {1, 2, 3, 77}) {
      OtherThread other([&] { cache->GetOrLoad(key, [] { return Blob(); }).value(); });
      if (!other.Finishes()) {
        ADD_FAILURE() << "key " << key << " is not to be had";
        std::_Exit(1);
      }
    }
  };
  Cache cache = MakeCache(options);
  const Ref<Blob> in_use = cache.Put(kInUse, Blob());
  cache.Put(0, Blob());
  current = &cache;
  GetParam().evict(cache, now);
  EXPECT_EQ(calls, 1);
  cache.CheckInvariantsForTesting();
}

TEST_P(UserCodeTest, DestructorsRunWithNothingHeld) {
  std::atomic<int64_t> now{0};
  std::atomic<Cache*> current{nullptr};
  std::atomic<int> calls{0};
  Cache::Options options = OneObject();
  options.max_concurrent_loads = GetParam().limited ? 1 : 0;
  options.clock = [&] { return absl::FromUnixNanos(now); };
  options.refresh_after_write = absl::Nanoseconds(50);
  Cache cache = MakeCache(options);
  const Ref<Blob> in_use = cache.Put(kInUse, Blob());
  cache.Put(0, Blob([&] {
              Cache* const used = current.exchange(nullptr);
              if (used == nullptr) return;
              ++calls;
              for (const int key : {1, 2, 3, 77}) {
                OtherThread other([&] { used->GetOrLoad(key, [] { return Blob(); }).value(); });
                if (!other.Finishes()) {
                  ADD_FAILURE() << "key " << key << " is not to be had";
                  std::_Exit(1);
                }
              }
            }));
  current = &cache;
  GetParam().evict(cache, now);
  EXPECT_EQ(calls, 1);
  cache.CheckInvariantsForTesting();
}

INSTANTIATE_TEST_SUITE_P(All, UserCodeTest, ::testing::ValuesIn(kWays),
                         [](const auto& info) { return std::string(info.param.name); });

// An object whose destructor does something even after it has been moved from.
struct Residue {
  explicit Residue(const std::function<void()>* on_end) : on_end(on_end) {}
  Residue(Residue&& other) noexcept : on_end(other.on_end) {}
  ~Residue() { (*on_end)(); }
  uint64_t byte_size() const { return sizeof(Residue); }

  const std::function<void()>* on_end;
};
using ResidueResult = absl::StatusOr<Residue>;

// What a loader's result leaves behind when the object has been moved out of it.
class ResidueTest : public ::testing::Test {
 protected:
  using ResidueCache = LargeObjectCache<int, Residue>;

  // At the first end of an object after a loader has set `armed_`, another thread needs the key and
  // a permit.
  ResidueTest() {
    on_end_ = [this] {
      if (!armed_.exchange(false)) return;
      ++ends_;
      for (const int key : {1, 2, 77}) {
        OtherThread other(
            [&] { cache_.GetOrLoad(key, [&] { return Residue(&on_end_); }).value(); });
        if (!other.Finishes()) {
          ADD_FAILURE() << "key " << key << " is not to be had";
          std::_Exit(1);
        }
      }
    };
  }
  void MakeCache(size_t max_concurrent_loads) {
    ResidueCache::Options options = testing::WithBudget<ResidueCache>(1000);
    options.max_concurrent_loads = max_concurrent_loads;
    options.clock = [this] { return now_; };
    options.refresh_after_write = absl::Seconds(10);
    cache_ = std::move(ResidueCache::Create(options)).value();
  }
  ResidueResult Load() {
    ResidueResult result(absl::in_place, &on_end_);
    armed_ = true;
    return result;
  }
  std::vector<ResidueResult> LoadAll(size_t count) {
    std::vector<ResidueResult> results;
    results.reserve(count);
    for (size_t i = 0; i < count; ++i) results.emplace_back(absl::in_place, &on_end_);
    armed_ = true;
    return results;
  }

  std::function<void()> on_end_;
  std::atomic<bool> armed_{false};
  int ends_ = 0;
  absl::Time now_ = absl::UnixEpoch();
  absl::StatusOr<ResidueCache> created_ = ResidueCache::CreateWeak();
  ResidueCache& cache_ = *created_;
};

TEST_F(ResidueTest, EndsAfterALoadAndARefresh) {
  MakeCache(1);
  for (int i = 1; i <= 2; ++i) {
    ASSERT_TRUE(cache_.GetOrLoad(1, [&] { return Load(); }).ok());
    EXPECT_EQ(ends_, i);
    now_ += absl::Seconds(10);
  }
}

TEST_F(ResidueTest, EndsAfterABulkLoad) {
  MakeCache(1);
  const auto load = [&](const std::vector<int>& keys) { return LoadAll(keys.size()); };
  for (const auto& result : cache_.GetAll(std::vector<int>{1, 2}, load)) EXPECT_TRUE(result.ok());
  EXPECT_EQ(ends_, 1);
}

TEST_F(ResidueTest, EndsAfterABulkLoadsLoadOfOneKey) {
  MakeCache(0);
  std::promise<void> loading;
  std::thread failing([&] {
    const auto load = [&]() -> ResidueResult {
      loading.set_value();
      // The other thread finds this load, then misses on its key once more, and waits for it.
      while (cache_.Stats().misses < 2) std::this_thread::yield();
      return absl::UnavailableError("down");
    };
    cache_.GetOrLoad(1, load).IgnoreError();
  });
  loading.get_future().wait();
  const auto load = [&](const std::vector<int>& keys) { return LoadAll(keys.size()); };
  EXPECT_TRUE(cache_.GetAll(std::vector<int>{1}, load)[0].ok());
  failing.join();
  EXPECT_EQ(ends_, 1);
}

// The made object, too, ends when its load has ended.
TEST(LoadingTest, AnObjectThatCannotBeWeighedEndsAfterItsLoad) {
  bool weigher_throws = true;
  Cache::Options options = OneObject();
  options.weigher = [&](const Blob&) -> uint64_t {
    if (weigher_throws) throw std::runtime_error("can't weigh");
    return 10;
  };
  Cache cache = MakeCache(options);
  int loaded = 0;
  const auto on_end = [&] {
    weigher_throws = false;
    loaded += cache.GetOrLoad(1, [] { return Blob(); }).ok() ? 1 : 0;
  };
  EXPECT_THROW(static_cast<void>(cache.GetOrLoad(1, [&] { return Blob(on_end); })),
               std::runtime_error);
  EXPECT_EQ(loaded, 1);
  weigher_throws = true;
  const auto bulk = [&](const std::vector<int>& keys) {
    std::vector<Blob> blobs(keys.size());
    blobs.front().on_end = [&] {
      weigher_throws = false;
      for (const int key : {11, 12}) loaded += cache.GetOrLoad(key, [] { return Blob(); }).ok();
    };
    return blobs;
  };
  EXPECT_THROW(cache.GetAll(std::vector<int>{11, 12}, bulk), std::runtime_error);
  EXPECT_EQ(loaded, 3);
  cache.CheckInvariantsForTesting();
}

// Destructors and listeners may end the cache, as the last thing that a call does.
struct EndingCall {
  const char* name;
  void (*call)(Cache&);
};
const EndingCall kEndingCalls[] = {
    {"Load", [](Cache& cache) { cache.GetOrLoad(1, [] { return Blob(); }).value(); }},
    {"LoadRef", [](Cache& cache) { cache.GetOrLoad(1, [] { return MakeRef<Blob>(); }).value(); }},
    {"Put", [](Cache& cache) { cache.Put(1, Blob()); }},
    {"PutIfAbsent", [](Cache& cache) { cache.PutIfAbsent(1, Blob()); }},
    {"Invalidate", [](Cache& cache) { cache.Invalidate(0); }},
    {"Trim", [](Cache& cache) { cache.Trim(0); }},
    {"SetBudget", [](Cache& cache) { cache.SetBudget(0); }},
};
class EndingTest : public ::testing::TestWithParam<EndingCall> {};

TEST_P(EndingTest, ADestructorMayEndTheCache) {
  std::optional<Cache> cache = MakeCache(OneObject());
  cache->Put(0,
             Blob([&] { const std::optional<Cache> ended = std::exchange(cache, std::nullopt); }));
  GetParam().call(*cache);
  EXPECT_FALSE(cache.has_value());
}
TEST_P(EndingTest, TheListenerMayEndTheCache) {
  std::optional<Cache> cache;
  int calls = 0;
  Cache::Options options = OneObject();
  options.removal_listener = [&](int, RemovalCause, uint64_t) {
    ++calls;
    const std::optional<Cache> ended = std::exchange(cache, std::nullopt);
  };
  cache = MakeCache(options);
  cache->Put(0, Blob());
  GetParam().call(*cache);
  EXPECT_FALSE(cache.has_value());
  EXPECT_EQ(calls, 1);
}

INSTANTIATE_TEST_SUITE_P(All, EndingTest, ::testing::ValuesIn(kEndingCalls),
                         [](const auto& info) { return std::string(info.param.name); });

Cache::Options Limited(size_t limit) {
  Cache::Options options = testing::WithBudget<Cache>(1000);
  options.weigher = [](const Blob&) { return uint64_t{1}; };
  options.max_concurrent_loads = limit;
  return options;
}

// Loads that hold all permits until they are told to go on.
class BusyLoads {
 public:
  BusyLoads(Cache& cache, int count) {
    std::atomic<int> running{0};
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([this, &cache, &running, i] {
        cache
            .GetOrLoad(-1 - i,
                       [&] {
                         ++running;
                         go_.wait(false);
                         return Blob();
                       })
            .value();
      });
    }
    while (running < count) std::this_thread::yield();
  }
  ~BusyLoads() { Finish(); }
  void Finish() {
    go_ = true;
    go_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::atomic<bool> go_{false};
  std::vector<std::thread> threads_;
};

TEST(LoadingTest, WhoWaitsForAPermitGetsAnObjectThatIsPut) {
  Cache cache = MakeCache(Limited(1));
  BusyLoads busy(cache, 1);
  std::atomic<int> loaded{0};
  const uint64_t misses = cache.Stats().misses;
  const auto loader = [&] {
    ++loaded;
    return Blob();
  };
  OtherThread one([&] { cache.GetOrLoad(1, loader).value(); });
  OtherThread bulk([&] {
    cache.GetAll(std::vector<int>{2}, [&](const std::vector<int>& keys) {
      ++loaded;
      return BlobsFor(keys);
    });
  });
  while (cache.Stats().misses < misses + 1) std::this_thread::yield();
  cache.Put(1, Blob());
  cache.Put(2, Blob());
  const bool finished = one.Finishes() && bulk.Finishes();
  busy.Finish();
  EXPECT_TRUE(finished);
  EXPECT_EQ(loaded, 0);
}

// The permit of another cache is of no use.
TEST(LoadingTest, ALoadInsideAnotherCachesLoadNeedsAPermit) {
  Cache cache = MakeCache(Limited(1));
  Cache outer = MakeCache(Limited(1));
  BusyLoads busy(cache, 1);
  std::atomic<int> loaded{0};
  std::future<absl::StatusOr<Ref<Blob>>> inner;
  const auto loader = [&] {
    ++loaded;
    return Blob();
  };
  outer
      .GetOrLoad(1,
                 [&] {
                   // Without a permit the task is kept until there is one.
                   inner = cache.GetOrLoadAsync(1, loader, [](const auto& task) { task(); });
                   return Blob();
                 })
      .value();
  EXPECT_EQ(loaded, 0);
  busy.Finish();
  EXPECT_TRUE(inner.get().ok());
  EXPECT_EQ(loaded, 1);
}

TEST(LoadingTest, WhoWaitsForAPermitReservesNothing) {
  Cache::Options options = Limited(1);
  options.budget_bytes = 100;
  Cache cache = MakeCache(options);
  for (int key = 0; key < 90; ++key) cache.Put(key, Blob());
  {
    BusyLoads busy(cache, 1);
    const uint64_t misses = cache.Stats().misses;
    std::vector<std::thread> waiting;
    for (int i = 0; i < 4; ++i) {
      waiting.emplace_back([&] {
        static_cast<void>(cache.GetOrLoad(100, [] { return Blob(); }, {.weight_estimate = 20}));
      });
    }
    while (cache.Stats().misses < misses + 4) std::this_thread::yield();
    // Each of these wakes the threads that wait.
    for (int i = 0; i < 200; ++i) cache.Put(0, Blob());
    EXPECT_EQ(cache.Stats().bytes_retained, 90u);
    busy.Finish();
    for (std::thread& thread : waiting) thread.join();
  }
  EXPECT_TRUE(cache.Get(100) != nullptr);
}

TEST(LoadingTest, AHitDoesNotWaitForAPermitToRefresh) {
  std::atomic<int64_t> now{0};
  Cache::Options options = Limited(1);
  options.clock = [&] { return absl::FromUnixNanos(now); };
  options.refresh_after_write = absl::Nanoseconds(50);
  Cache cache = MakeCache(options);
  const Ref<Blob> stale = cache.Put(1, Blob());
  now = 100;
  BusyLoads busy(cache, 1);
  for (const uint64_t estimate : {0, 5}) {
    Ref<Blob> found;
    OtherThread other([&] {
      found = cache.GetOrLoad(1, [] { return Blob(); }, {.weight_estimate = estimate}).value();
    });
    const bool finished = other.Finishes();
    if (!finished) busy.Finish();
    EXPECT_TRUE(finished);
    EXPECT_EQ(found, stale);
  }
  busy.Finish();
  // Now it is refreshed.
  EXPECT_NE(cache.GetOrLoad(1, [] { return Blob(); }).value(), stale);
  cache.CheckInvariantsForTesting();
}

// Threads that wait for one key, whose load has begun, leave the other permit to other keys.
TEST(LoadingTest, WhoWaitsForAnothersLoadHoldsNoPermit) {
  Cache cache = MakeCache(Limited(2));
  std::atomic<bool> go{false};
  std::atomic<int> loading_7{0};
  std::vector<std::unique_ptr<OtherThread>> threads;
  {
    BusyLoads busy(cache, 2);
    const uint64_t misses = cache.Stats().misses;
    for (int i = 0; i < 4; ++i) {
      threads.push_back(std::make_unique<OtherThread>([&] {
        cache
            .GetOrLoad(7,
                       [&] {
                         ++loading_7;
                         go.wait(false);
                         return Blob();
                       })
            .value();
      }));
    }
    while (cache.Stats().misses < misses + 4) std::this_thread::yield();
  }
  // One of the four loads, the others wait for it; so there is a permit for another key.
  while (loading_7 == 0) std::this_thread::yield();
  OtherThread other([&] { cache.GetOrLoad(8, [] { return Blob(); }).value(); });
  const bool finished = other.Finishes();
  go = true;
  go.notify_all();
  EXPECT_TRUE(finished);
  for (auto& thread : threads) EXPECT_TRUE(thread->Finishes());
  EXPECT_EQ(loading_7, 1);
}

// An object that does not fit beside a reservation evicts nothing.
TEST(LoadingTest, AnObjectThatDoesNotFitBesideAReservationEvictsNothing) {
  Cache::Options options = Limited(0);
  options.budget_bytes = 100;
  uint64_t weight = 4;
  options.weigher = [&](const Blob&) { return weight; };
  Cache cache = MakeCache(options);
  for (int key = 0; key < 10; ++key) cache.Put(key, Blob());
  static_cast<void>(cache.GetOrLoad(100,
                                    [&]() -> absl::StatusOr<Blob> {
                                      weight = 50;
                                      cache.Put(99, Blob());
                                      return absl::NotFoundError("no");
                                    },
                                    {.weight_estimate = 60}));
  EXPECT_EQ(cache.Stats().bytes_retained, 40);
  EXPECT_EQ(cache.Stats().evictions_budget, 0);
  cache.CheckInvariantsForTesting();
}

}  // namespace
}  // namespace weakcache
