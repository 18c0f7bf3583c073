// SPDX-License-Identifier: Apache-2.0
// The end of a LargeObjectCache inside user code that one of its operations runs, and destructors
// that use it at its end. Most of what could go wrong here only AddressSanitizer sees.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/last_words.h"
#include "tests/support/race.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::LastWords;

using Blob = testing::CallsAtEnd;
using Cache = LargeObjectCache<int, Blob>;
using Keys = std::vector<int>;

std::vector<Blob> BlobsFor(const Keys& keys) { return std::vector<Blob>(keys.size()); }

// A cache for one object, which is ended by that object's destructor, or by the listener.
class EndInsideTest : public ::testing::TestWithParam<bool> {
 protected:
  EndInsideTest() { Make(); }
  ~EndInsideTest() override { EXPECT_EQ(cache_, nullptr); }
  void Make() {
    Cache::Options options = testing::WithBudget<Cache>(10);
    options.shards = 1;
    options.weigher = [this](const Blob&) { return weight_; };
    options.expire_after_write = absl::Seconds(10);
    options.clock = [this] { return now_; };
    options.holder_sample_bytes = sample_bytes_;
    if (ByListener()) {
      options.removal_listener = [this](int key, RemovalCause, uint64_t) {
        if (key == 1) cache_.reset();
      };
    }
    const auto end_cache = [this] {
      if (!ByListener()) cache_.reset();
    };
    cache_.reset();
    cache_ = std::make_unique<Cache>(std::move(Cache::Create(options)).value());
    cache_->Put(1, Blob(end_cache));
  }

  bool ByListener() const { return GetParam(); }
  void Expire() { now_ += absl::Seconds(10); }
  static absl::StatusCode CodeOf(const absl::StatusOr<Ref<Blob>>& result) {
    return result.status().code();
  }

  absl::Time now_ = absl::UnixEpoch();
  uint64_t weight_ = 10;
  uint64_t sample_bytes_ = 0;
  std::unique_ptr<Cache> cache_;
};
INSTANTIATE_TEST_SUITE_P(All, EndInsideTest, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "ByTheListener" : "ByADestructor");
});

TEST_P(EndInsideTest, OfGetOfAnExpiredObject) {
  Expire();
  EXPECT_EQ(cache_->Get(1), nullptr);
}

TEST_P(EndInsideTest, OfGetOrLoadOfAnExpiredObject) {
  Expire();
  EXPECT_EQ(CodeOf(cache_->GetOrLoad(1,
                                     []() -> Blob {
                                       ADD_FAILURE() << "for a cache that has ended";
                                       return Blob();
                                     })),
            absl::StatusCode::kAborted);
}

TEST_P(EndInsideTest, OfALoadThatEvicts) {
  EXPECT_TRUE(cache_->GetOrLoad(2, [] { return Blob(); }).ok());
}

TEST_P(EndInsideTest, OfAnEstimateThatEvicts) {
  EXPECT_EQ(CodeOf(cache_->GetOrLoad(2, [] { return Blob(); }, {.weight_estimate = 10})),
            absl::StatusCode::kAborted);
}

// There is nobody to be recorded as the object's holder.
TEST_P(EndInsideTest, OfAnEstimateThatEvictsASampledObject) {
  sample_bytes_ = 1;
  Make();
  EXPECT_EQ(CodeOf(cache_->GetOrLoad(2, [] { return Blob(); }, {.weight_estimate = 10})),
            absl::StatusCode::kAborted);
}

TEST_P(EndInsideTest, OfATaskThatEvicts) {
  auto future = cache_->GetOrLoadAsync(
      2, [] { return Blob(); }, [](const auto& task) { task(); });
  EXPECT_TRUE(future.get().ok());
}

TEST_P(EndInsideTest, OfATasksEstimateThatEvicts) {
  auto future = cache_->GetOrLoadAsync(
      2, [] { return Blob(); }, [](const auto& task) { task(); }, {.weight_estimate = 10});
  EXPECT_EQ(CodeOf(future.get()), absl::StatusCode::kAborted);
}

TEST_P(EndInsideTest, OfATaskThatFindsAnExpiredObject) {
  Expire();
  auto future = cache_->GetOrLoadAsync(
      1, [] { return Blob(); }, [](const auto& task) { task(); });
  EXPECT_EQ(CodeOf(future.get()), absl::StatusCode::kAborted);
}

TEST_P(EndInsideTest, OfGetAllThatEvicts) {
  const auto results = cache_->GetAll(Keys{2, 2}, BlobsFor);
  EXPECT_TRUE(results[0].ok());
  EXPECT_EQ(results[1].value(), results[0].value());
}

TEST_P(EndInsideTest, OfGetAllOfAnExpiredObject) {
  Expire();
  for (const auto& result : cache_->GetAll(Keys{1, 2}, BlobsFor)) {
    EXPECT_EQ(CodeOf(result), absl::StatusCode::kAborted);
  }
}

TEST_P(EndInsideTest, OfGetAllOfAnAbsentAndAnExpiredObject) {
  Expire();
  for (const auto& result : cache_->GetAll(Keys{2, 1}, BlobsFor)) {
    EXPECT_EQ(CodeOf(result), absl::StatusCode::kAborted);
  }
}

// While it waits for a permit, its key is loaded; and once it gets that object, this has expired.
TEST(LargeObjectCacheEndTest, InsideGetAllThatHasWaitedForAPermit) {
  const std::thread::id waiting_thread = std::this_thread::get_id();
  std::atomic<int> looks{0};
  std::promise<void> has_loaded;
  Cache::Options options = testing::WithBudget<Cache>(10);
  options.shards = 1;
  options.weigher = [](const Blob&) { return uint64_t{10}; };
  options.max_concurrent_loads = 1;
  options.expire_after_write = absl::Seconds(10);
  options.clock = [&] {
    const absl::Time start = absl::UnixEpoch();
    if (std::this_thread::get_id() != waiting_thread || ++looks < 3) return start;
    if (looks == 3) has_loaded.get_future().wait();
    return start + absl::Seconds(10);
  };
  auto cache = std::make_unique<Cache>(std::move(Cache::Create(options)).value());
  testing::SpinBarrier loading(2);
  std::thread other([&] {
    static_cast<void>(cache->GetOrLoad(1, [&] {
      loading.Wait();
      while (looks < 2) std::this_thread::yield();
      for (int i = 0; i < 100; ++i) std::this_thread::yield();
      return Blob([&] { cache.reset(); });
    }));
    has_loaded.set_value();
  });
  loading.Wait();
  const auto results = cache->GetAll(Keys{1}, BlobsFor);
  EXPECT_EQ(results[0].status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(cache, nullptr);
  other.join();
}

TEST_P(EndInsideTest, OfUpdateWeight) {
  weight_ = 11;
  EXPECT_TRUE(cache_->UpdateWeight(1));
}

// Without AddressSanitizer a use of what has ended may go unnoticed, here and in the next test.
TEST(LargeObjectCacheEndTest, KeysOfKeptFailuresMayUseTheCacheAtItsEnd) {
  using KeyedCache = LargeObjectCache<LastWords, int>;
  constexpr int kKeys = 40;
  KeyedCache::Options options = testing::WithBudget<KeyedCache>(1000);
  options.shards = 16;
  options.weigher = [](const int&) { return sizeof(int); };
  options.failure_ttl = [](const absl::Status&) { return absl::Hours(1); };
  std::optional<KeyedCache> cache(std::move(KeyedCache::Create(options)).value());
  KeyedCache* const before = &*cache;
  int ended = 0;
  bool ends = false;
  for (int i = 0; i < kKeys; ++i) {
    const LastWords key(i, [&] {
      if (!ends) return;  // a copy that is not the failure's
      ++ended;
      for (int other = 0; other < kKeys; ++other) before->Get(LastWords(other)).reset();
    });
    EXPECT_FALSE(before->GetOrLoad(key, [] { return absl::NotFoundError(""); }).ok());
  }
  ends = true;
  std::destroy_at(before);
  EXPECT_EQ(ended, kKeys);
  new (before) KeyedCache(std::move(KeyedCache::Create(options)).value());
}

TEST(LargeObjectCacheEndTest, APurgedKeyMayEndTheCacheAfterAFailedLoad) {
  using KeyedCache = LargeObjectCache<LastWords, int>;
  KeyedCache::Options options;
  options.shards = 1;
  options.holder_sample_bytes = 1;
  options.weigher = [](const int&) { return sizeof(int); };
  auto cache = std::make_unique<KeyedCache>(std::move(KeyedCache::CreateWeak(options)).value());
  Ref<int> object = MakeRef<int>(1);
  cache->Put(LastWords(1, [&] { cache.reset(); }), object);
  object.reset();
  const auto result = cache->GetOrLoad(LastWords(2), [] { return absl::NotFoundError("no"); });
  EXPECT_EQ(result.status().message(), "no");
  EXPECT_EQ(cache, nullptr);
}

// The task of key 3 is posted before that.
TEST(LargeObjectCacheEndTest, APurgedKeyMayWaitForATaskThatALoadHasDelayed) {
  using KeyedCache = LargeObjectCache<LastWords, int>;
  KeyedCache::Options options;
  options.shards = 1;
  options.max_concurrent_loads = 1;
  options.weigher = [](const int&) { return sizeof(int); };
  for (const bool throws : {false, true}) {
    SCOPED_TRACE(throws);
    KeyedCache cache = std::move(KeyedCache::CreateWeak(options)).value();
    std::future<absl::StatusOr<Ref<int>>> delayed;
    bool has_waited = false;
    Ref<int> object = MakeRef<int>(1);
    cache.Put(LastWords(1,
                        [&] {
                          has_waited = true;
                          EXPECT_TRUE(delayed.get().ok());
                        }),
              object);
    object.reset();
    const auto run_inline = [](const std::function<void()>& task) { task(); };
    const auto load = [&]() -> absl::StatusOr<int> {
      // On a thread that acts for no load, so there is no permit for it.
      std::thread([&] {
        delayed = cache.GetOrLoadAsync(
            LastWords(3), [] { return 3; }, run_inline);
      }).join();
      if (throws) throw std::runtime_error("no");
      return absl::NotFoundError("no");
    };
    if (throws) {
      EXPECT_THROW(static_cast<void>(cache.GetOrLoad(LastWords(2), load)), std::runtime_error);
    } else {
      EXPECT_FALSE(cache.GetOrLoad(LastWords(2), load).ok());
    }
    EXPECT_TRUE(has_waited);
  }
}

// Of objects that were put as references, also of ones that outlive the cache; and of ones that the
// cache has made.
TEST(LargeObjectCacheEndTest, KeysMayUseTheCacheAtItsEnd) {
  using KeyedCache = LargeObjectCache<LastWords, int>;
  constexpr int kObjects = 40;
  for (const size_t shards : {size_t{1}, size_t{16}}) {
    KeyedCache::Options options = testing::WithBudget<KeyedCache>(kObjects / 2 * sizeof(int));
    options.shards = shards;
    options.weigher = [](const int&) { return sizeof(int); };
    std::vector<Ref<int>> held;
    std::optional<KeyedCache> cache(std::move(KeyedCache::Create(options)).value());
    KeyedCache* const before = &*cache;
    int ended = 0;
    int entered_late = 0;
    for (int i = 0; i < kObjects; ++i) {
      const auto on_end = [&, i] {
        ++ended;
        for (int key = 0; key < kObjects; ++key) {
          const Ref<int> found = before->Get(LastWords(key));
          EXPECT_TRUE(found == nullptr || *found == key);
        }
        EXPECT_EQ(before->Peek(LastWords(i)), nullptr);
        if (i % 10 != 0) return;
        before->Put(LastWords(100 + i, [&] { ++entered_late; }), held[0]);
        EXPECT_TRUE(before->GetOrLoad(LastWords(200 + i), [] { return 1; }).ok());
      };
      if (i % 4 == 3) {
        before->Put(LastWords(i, on_end), int{i});  // is not held
      } else {
        held.push_back(before->Put(LastWords(i, on_end), MakeRef<int>(i)));
      }
    }
    // Its own memory stays, and so it is reachable by its destructor's callees.
    std::destroy_at(before);
    EXPECT_EQ(ended, kObjects);
    EXPECT_EQ(entered_late, kObjects / 10);
    std::construct_at(before, std::move(KeyedCache::Create(options)).value());
  }
}

}  // namespace
}  // namespace weakcache
