// SPDX-License-Identifier: Apache-2.0
// What a LargeObjectCache does while the source of its objects fails: it keeps failures, and serves
// objects that have expired. Ages are in virtual time.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "weakcache/cache/internal/loading/failure_table.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Page {
  int version = 0;
};

using Cache = LargeObjectCache<int, Page>;
using Result = absl::StatusOr<Ref<Page>>;

class SourceTest : public ::testing::Test {
 protected:
  Cache::Options Timed() {
    Cache::Options options = testing::WithBudget<Cache>(1'000'000);
    options.clock = [this] { return now_; };
    options.weigher = [](const Page&) { return uint64_t{1}; };
    options.shards = 1;
    return options;
  }
  static Cache Make(Cache::Options options) {
    return std::move(Cache::Create(std::move(options))).value();
  }
  void Pass(int seconds) { now_ += absl::Seconds(seconds); }

  // A loader, and how often it has been called.
  auto Failing(absl::StatusCode code = absl::StatusCode::kNotFound) {
    return [this, code]() -> absl::StatusOr<Page> {
      ++loads_;
      return absl::Status(code, "down");
    };
  }
  auto Loading(int version) {
    return [this, version] {
      ++loads_;
      return Page{version};
    };
  }
  Result AskAsync(Cache& cache, int key, std::function<absl::StatusOr<Page>()> loader) {
    Result result;
    cache.GetOrLoadAsync(
        key, std::move(loader), [](auto task) { task(); },
        [&](Result loaded) { result = std::move(loaded); });
    return result;
  }
  Result AskForMany(Cache& cache, int key, std::function<absl::StatusOr<Page>()> loader) {
    return cache.GetAll(std::vector<int>{key}, [&](const std::vector<int>& keys) {
      std::vector<absl::StatusOr<Page>> pages;
      for (size_t i = 0; i < keys.size(); ++i) pages.push_back(loader());
      return pages;
    })[0];
  }
  // Asks in each of the ways.
  std::vector<Result> AskInAllWays(Cache& cache, int key,
                                   const std::function<absl::StatusOr<Page>()>& loader) {
    std::vector<Result> results;
    results.push_back(cache.GetOrLoad(key, loader));
    results.push_back(AskAsync(cache, key, loader));
    results.push_back(AskForMany(cache, key, loader));
    return results;
  }

  absl::Time now_ = absl::UnixEpoch();
  int loads_ = 0;
};

// NotFound is kept for a minute, Unavailable for a second, and nothing else.
class KeptFailureTest : public SourceTest {
 protected:
  Cache::Options Keeping() {
    Cache::Options options = Timed();
    options.failure_ttl = [](const absl::Status& status) {
      if (absl::IsNotFound(status)) return absl::Minutes(1);
      return absl::IsUnavailable(status) ? absl::Seconds(1) : absl::ZeroDuration();
    };
    return options;
  }
  bool IsKept(int key) {
    const int before = loads_;
    cache_.GetOrLoad(key, Failing(absl::StatusCode::kInternal)).IgnoreError();
    return loads_ == before;
  }

  Cache cache_ = Make(Keeping());
};

TEST_F(KeptFailureTest, AHundredAsksMakeOneLoad) {
  for (int i = 0; i < 100; ++i) {
    for (const Result& result : AskInAllWays(cache_, 1, Failing())) {
      EXPECT_EQ(result.status(), absl::NotFoundError("down"));
    }
  }
  EXPECT_EQ(loads_, 1);
  const CacheStats stats = cache_.Stats();
  EXPECT_EQ(stats.loads, 1u);
  EXPECT_EQ(stats.misses, 300u);
  EXPECT_EQ(stats.failures_served, 299u);
  cache_.CheckInvariantsForTesting();
}

TEST_F(KeptFailureTest, EachWayOfAskingKeepsIt) {
  AskAsync(cache_, 1, Failing()).IgnoreError();
  AskForMany(cache_, 2, Failing()).IgnoreError();
  EXPECT_EQ(loads_, 2);
  EXPECT_TRUE(IsKept(1));
  EXPECT_TRUE(IsKept(2));
}

TEST_F(KeptFailureTest, APrefetchPassesItOverAndKeepsItsOwn) {
  const auto load = [&](int /*key*/) {
    ++loads_;
    return absl::StatusOr<Page>(absl::NotFoundError("gone"));
  };
  const auto inline_executor = [](auto task) { task(); };
  cache_.Prefetch({1, 2}, load, inline_executor);
  EXPECT_EQ(loads_, 2);
  cache_.Prefetch({1, 2}, load, inline_executor);
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(cache_.Stats().failures_served, 0u);
  EXPECT_TRUE(IsKept(1));
  EXPECT_EQ(cache_.Stats().failures_served, 1u);
}

// In each run, another load fails while the prefetch reads the clock for the n-th time.
TEST_F(KeptFailureTest, APrefetchCallsNoLoaderAfterIt) {
  const auto inline_executor = [](auto task) { task(); };
  int meet_at = 0;
  int reads = 0;
  for (; meet_at <= reads; ++meet_at) {
    reads = 0;
    bool inside = true;
    std::optional<Cache> cache;
    Cache::Options options = Keeping();
    options.expire_after_write = absl::Hours(1);  // so that look-ups read the clock
    options.clock = [&] {
      if (!std::exchange(inside, true)) {
        if (reads++ == meet_at) {
          cache->GetOrLoadAsync(1, Failing(), inline_executor, [](const Result& /*result*/) {});
        }
        inside = false;
      }
      return now_;
    };
    cache.emplace(Make(std::move(options)));
    inside = false;
    loads_ = 0;
    cache->Prefetch(
        {1}, [load = Failing()](int /*key*/) { return load(); }, inline_executor);
    EXPECT_EQ(loads_, 1) << meet_at;
    inside = true;
  }
  EXPECT_GT(meet_at, 2);
}

TEST_F(KeptFailureTest, ForAsLongAsItsStatusSays) {
  const auto fail = [&](int key, absl::StatusCode code) {
    EXPECT_EQ(cache_.GetOrLoad(key, Failing(code)).status().code(), code);
  };
  fail(1, absl::StatusCode::kNotFound);
  fail(2, absl::StatusCode::kUnavailable);
  fail(3, absl::StatusCode::kInternal);
  EXPECT_TRUE(IsKept(1));
  EXPECT_TRUE(IsKept(2));
  EXPECT_FALSE(IsKept(3));
  Pass(1);
  EXPECT_FALSE(IsKept(2));
  Pass(58);
  EXPECT_TRUE(IsKept(1));
  Pass(1);
  EXPECT_EQ(cache_.GetOrLoad(1, Loading(7)).value()->version, 7);
}

TEST_F(KeptFailureTest, WhateverChangesTheKeyDropsIt) {
  const std::function<void()> changes[] = {
      [&] { cache_.Invalidate(1); },
      [&] { cache_.Clear(); },
      [&] { cache_.InvalidateIf([](int key) { return key == 1; }); },
      [&] { cache_.InvalidateIf([](int, const Ref<Page>&) { return false; }); },
      [&] {
        cache_.Put(1, Page{});
        EXPECT_TRUE(cache_.Get(1) != nullptr);
        cache_.Invalidate(1);
      },
      [&] {
        EXPECT_TRUE(cache_.PutIfAbsent(1, Page{}).second);
        now_ += absl::ZeroDuration();
        EXPECT_TRUE(cache_.Invalidate(1));
      }};
  for (const auto& change : changes) {
    ASSERT_FALSE(cache_.GetOrLoad(1, Failing()).ok());
    ASSERT_TRUE(IsKept(1));
    change();
    EXPECT_FALSE(IsKept(1));
  }
}

// Not only because it is invalidated afterwards.
TEST_F(KeptFailureTest, AnObjectThatIsPutDropsIt) {
  for (const bool if_absent : {false, true}) {
    ASSERT_FALSE(cache_.GetOrLoad(1, Failing()).ok());
    const Loaded<Page> at_once{.object = Page{}, .expires_after = absl::ZeroDuration()};
    if (if_absent) {
      cache_.PutIfAbsent(1, Loaded<Page>(at_once));
    } else {
      cache_.Put(1, Loaded<Page>(at_once));
    }
    EXPECT_FALSE(IsKept(1));
  }
}

TEST_F(KeptFailureTest, ChangesOfOtherKeysLeaveItAlone) {
  ASSERT_FALSE(cache_.GetOrLoad(1, Failing()).ok());
  cache_.Invalidate(2);
  cache_.Put(3, Page{});
  cache_.InvalidateIf([](int key) { return key != 1; });
  EXPECT_TRUE(IsKept(1));
}

TEST_F(KeptFailureTest, OfALoadThatWasOvertakenIsNone) {
  const std::function<void()> changes[] = {[&] { cache_.Invalidate(1); }, [&] { cache_.Clear(); },
                                           [&] {
                                             cache_.Put(1, Page{});
                                             cache_.Invalidate(1);
                                           }};
  for (const auto& change : changes) {
    const auto load = [&]() -> absl::StatusOr<Page> {
      change();
      return absl::NotFoundError("gone");
    };
    EXPECT_TRUE(absl::IsNotFound(cache_.GetOrLoad(1, load).status()));
    EXPECT_FALSE(IsKept(1));
    EXPECT_TRUE(absl::IsNotFound(AskForMany(cache_, 1, load).status()));
    EXPECT_FALSE(IsKept(1));
  }
}

TEST_F(KeptFailureTest, AnExceptionIsNone) {
  const auto load = []() -> Page { throw std::runtime_error("down"); };
  EXPECT_THROW(cache_.GetOrLoad(1, load).IgnoreError(), std::runtime_error);
  EXPECT_FALSE(IsKept(1));
}

TEST_F(KeptFailureTest, WhatTheOptionThrowsKeepsNone) {
  Cache::Options options = Timed();
  options.failure_ttl = [](const absl::Status&) -> absl::Duration {
    throw std::runtime_error("no idea");
  };
  Cache cache = Make(options);
  for (const Result& result : AskInAllWays(cache, 1, Failing())) {
    EXPECT_EQ(result.status(), absl::NotFoundError("down"));
  }
  EXPECT_EQ(loads_, 3);
}

// A caller that is cancelled says nothing about the source.
TEST_F(KeptFailureTest, OfACallerThatWasCancelledIsNone) {
  std::stop_source stop;
  LoadOptions options;
  options.stop_token = stop.get_token();
  const auto load = [&]() -> absl::StatusOr<Page> {
    stop.request_stop();
    return absl::NotFoundError("cancelled");
  };
  EXPECT_FALSE(cache_.GetOrLoad(1, load, options).ok());
  EXPECT_FALSE(IsKept(1));
}

// Also by who has asked before it was kept, and then waited for that load.
TEST_F(KeptFailureTest, OfAnothersLoadIsFoundOnceAnOwnOneHasBegun) {
  std::thread other;
  const auto load = [&]() -> absl::StatusOr<Page> {
    other = std::thread([&] { EXPECT_FALSE(AskForMany(cache_, 1, Failing()).ok()); });
    while (cache_.Stats().misses < 2) std::this_thread::yield();
    return absl::NotFoundError("down");
  };
  EXPECT_FALSE(cache_.GetOrLoad(1, load).ok());
  other.join();
  EXPECT_EQ(loads_, 0);
}

TEST_F(KeptFailureTest, NeedsNoPermit) {
  Cache::Options options = Keeping();
  options.max_concurrent_loads = 1;
  Cache cache = Make(options);
  EXPECT_FALSE(cache.GetOrLoad(1, Failing()).ok());
  std::thread other;
  const auto load = [&] {
    other = std::thread([&] { AskInAllWays(cache, 1, Failing()); });
    other.join();
    return Page{};
  };
  EXPECT_TRUE(cache.GetOrLoad(2, load).ok());
  EXPECT_EQ(loads_, 1);
}

// They have no weight, so there is another bound.
TEST_F(KeptFailureTest, SomeAreKeptHoweverManyThereAre) {
  for (int key = 0; key < 5000; ++key) cache_.GetOrLoad(key, Failing()).IgnoreError();
  int kept = 0;
  for (int key = 0; key < 5000; ++key) kept += IsKept(key) ? 1 : 0;
  EXPECT_LE(kept, static_cast<int>(internal::FailureTable<int>::kMost));
  EXPECT_GT(kept, 400);
}

TEST_F(KeptFailureTest, AClockThatIsSetBackEndsIt) {
  ASSERT_FALSE(cache_.GetOrLoad(1, Failing()).ok());
  now_ -= absl::Hours(1);
  EXPECT_FALSE(IsKept(1));
}

TEST_F(KeptFailureTest, MayLastForEver) {
  Cache::Options options = Timed();
  options.failure_ttl = [](const absl::Status&) { return absl::InfiniteDuration(); };
  Cache cache = Make(options);
  ASSERT_FALSE(cache.GetOrLoad(1, Failing()).ok());
  now_ += absl::Hours(24 * 365 * 200);
  EXPECT_FALSE(cache.GetOrLoad(1, Failing()).ok());
  EXPECT_EQ(loads_, 1);
}

// Keys whose copies share a token, and all have the same hash.
struct TokenKey {
  bool operator==(const TokenKey& other) const { return token == other.token; }
  std::shared_ptr<void> token = std::make_shared<int>();
};
struct OneHash {
  size_t operator()(const TokenKey&) const { return 0; }
};
class KeptFailureKeyTest : public ::testing::Test {
 protected:
  using KeyCache = LargeObjectCache<TokenKey, Page, OneHash>;

  static absl::StatusOr<Page> Fail() { return absl::NotFoundError(""); }
  KeyCache Make() {
    KeyCache::Options options = testing::WithBudget<KeyCache>(1000);
    options.clock = [this] { return on_clock_ ? on_clock_() : now_; };
    options.failure_ttl = [](const absl::Status&) { return absl::Seconds(10); };
    return std::move(KeyCache::Create(options)).value();
  }

  absl::Time now_ = absl::UnixEpoch();
  std::function<absl::Time()> on_clock_ = nullptr;
  KeyCache cache_ = Make();
};

TEST_F(KeptFailureKeyTest, IsReleasedByPurgeWhenItIsOver) {
  const TokenKey key;
  ASSERT_FALSE(cache_.GetOrLoad(key, Fail).ok());
  EXPECT_EQ(key.token.use_count(), 2);
  cache_.Purge();
  EXPECT_EQ(key.token.use_count(), 2);
  now_ += absl::Seconds(10);
  cache_.Purge();
  EXPECT_EQ(key.token.use_count(), 1);
}

// Or else each miss would take a lock because of a failure that nobody asks for again.
TEST_F(KeptFailureKeyTest, LeavesWithTheNextLookWhenItIsOver) {
  const TokenKey keys[3];
  for (const TokenKey& key : keys) ASSERT_FALSE(cache_.GetOrLoad(key, Fail).ok());
  now_ += absl::Seconds(5);
  EXPECT_TRUE(cache_.GetOrLoad(TokenKey(), [] { return Page{}; }).ok());
  for (const TokenKey& key : keys) EXPECT_EQ(key.token.use_count(), 2);
  now_ += absl::Seconds(5);
  EXPECT_TRUE(cache_.GetOrLoad(TokenKey(), [] { return Page{}; }).ok());
  for (const TokenKey& key : keys) EXPECT_EQ(key.token.use_count(), 1);
}

// A thread that is delayed after it has read the clock takes nothing away that came meanwhile.
TEST_F(KeptFailureKeyTest, OfAnotherKeyOutlastsADelayedLook) {
  const TokenKey failing;
  int loads = 0;
  const auto fail = [&]() -> absl::StatusOr<Page> {
    ++loads;
    return absl::NotFoundError("");
  };
  ASSERT_FALSE(cache_.GetOrLoad(TokenKey(), Fail).ok());  // or no look would read the clock
  bool delayed = false;
  std::function<void()> meanwhile = [&] {
    now_ += absl::Seconds(1);
    EXPECT_FALSE(cache_.GetOrLoad(failing, fail).ok());
  };
  on_clock_ = [&] {
    const absl::Time read = now_;
    if (!std::exchange(delayed, true)) meanwhile();
    return read;
  };
  EXPECT_TRUE(cache_.GetOrLoad(TokenKey(), [] { return Page{}; }).ok());
  EXPECT_FALSE(cache_.GetOrLoad(failing, fail).ok());
  EXPECT_EQ(loads, 1);
}

// A destructor that asks for the key that is being loaded would be refused otherwise.
TEST_F(KeptFailureKeyTest, EndsWhenTheFlightOfAnotherHasEnded) {
  const TokenKey loaded;
  absl::Status status = absl::UnknownError("not asked");
  {
    TokenKey asking;
    asking.token = std::shared_ptr<void>(
        nullptr, [&](void*) { status = cache_.GetOrLoad(loaded, Fail).status(); });
    ASSERT_FALSE(cache_.GetOrLoad(asking, Fail).ok());
  }
  ASSERT_TRUE(absl::IsUnknown(status));
  const auto load = [&]() -> absl::StatusOr<Page> {
    now_ += absl::Seconds(10);
    return absl::NotFoundError("");
  };
  EXPECT_TRUE(absl::IsNotFound(cache_.GetOrLoad(loaded, load).status()));
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

TEST(KeptFailureOptionTest, IsRefusedIfKeysCannotBeCopied) {
  using KeyCache = LargeObjectCache<std::unique_ptr<int>, Page>;
  KeyCache::Options options = testing::WithBudget<KeyCache>(1000);
  EXPECT_TRUE(KeyCache::Create(options).ok());
  options.failure_ttl = [](const absl::Status&) { return absl::Seconds(10); };
  EXPECT_TRUE(absl::IsInvalidArgument(KeyCache::Create(options).status()));
}

// Whoever asks at the time when the failure is kept gets it.
TEST(KeptFailureRaceTest, ThreadsMakeOneLoad) {
  Cache::Options options = testing::WithBudget<Cache>(1000);
  options.failure_ttl = [](const absl::Status&) { return absl::Hours(1); };
  Cache cache = std::move(Cache::Create(options)).value();
  constexpr int kKeys = 300;
  std::vector<std::atomic<int>> loads(kKeys);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int key = 0; key < kKeys; ++key) {
        const auto load = [&]() -> absl::StatusOr<Page> {
          ++loads[static_cast<size_t>(key)];
          return absl::NotFoundError("");
        };
        if (i == 0) {
          const auto results = cache.GetAll(std::vector<int>{key}, [&](const std::vector<int>&) {
            std::vector<absl::StatusOr<Page>> pages;
            pages.push_back(load());
            return pages;
          });
          EXPECT_FALSE(results[0].ok());
        } else {
          EXPECT_FALSE(cache.GetOrLoad(key, load).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::atomic<int>& each : loads) EXPECT_EQ(each, 1);
}

// Objects that expire after ten seconds, and are served for a hundred more if there is no new one.
class StaleTest : public SourceTest {
 protected:
  Cache::Options Serving() {
    Cache::Options options = Timed();
    options.expire_after_write = absl::Seconds(10);
    options.stale_if_error = absl::Seconds(100);
    return options;
  }

  Cache cache_ = Make(Serving());
};

TEST_F(StaleTest, AnExpiredObjectIsServedIfTheLoadFails) {
  cache_.Put(1, Page{1});
  Pass(10);
  for (const Result& result : AskInAllWays(cache_, 1, Failing())) {
    EXPECT_EQ(result.value()->version, 1);
  }
  const auto load = []() -> Page { throw std::runtime_error("down"); };
  EXPECT_EQ(cache_.GetOrLoad(1, load).value()->version, 1);
  EXPECT_EQ(AskAsync(cache_, 1, load).value()->version, 1);
  EXPECT_EQ(loads_, 3);
  CacheStats stats = cache_.Stats();
  EXPECT_EQ(stats.stale_served, 5u);
  EXPECT_EQ(stats.misses, 5u);
  EXPECT_EQ(stats.hits, 0u);
  EXPECT_EQ(stats.evictions_expired, 0u);
  EXPECT_EQ(cache_.Get(1), nullptr);
  EXPECT_EQ(cache_.Peek(1), nullptr);

  Pass(99);
  EXPECT_TRUE(cache_.GetOrLoad(1, Failing()).ok());
  Pass(1);
  for (const Result& result : AskInAllWays(cache_, 1, Failing())) EXPECT_FALSE(result.ok());
  EXPECT_EQ(cache_.Stats().evictions_expired, 1u);
  EXPECT_TRUE(cache_.empty());
}

TEST_F(StaleTest, ANewObjectTakesItsPlace) {
  int version = 2;
  for (const auto ask : {0, 1, 2}) {
    cache_.Put(1, Page{1});
    Pass(10);
    const auto load = Loading(++version);
    const Result result = ask == 0   ? cache_.GetOrLoad(1, load)
                          : ask == 1 ? AskAsync(cache_, 1, load)
                                     : AskForMany(cache_, 1, load);
    EXPECT_EQ(result.value()->version, version);
    EXPECT_EQ(cache_.Get(1)->version, version);
    EXPECT_EQ(cache_.size(), 1u);
  }
  EXPECT_EQ(cache_.Stats().stale_served, 0u);
  EXPECT_EQ(cache_.Stats().evictions_expired, 3u);
  cache_.CheckInvariantsForTesting();
}

TEST_F(StaleTest, WhatIsInvalidatedIsNotServed) {
  cache_.Put(1, Page{1});
  Pass(10);
  cache_.Invalidate(1);
  EXPECT_FALSE(cache_.GetOrLoad(1, Failing()).ok());
}

TEST_F(StaleTest, AlsoAfterALifeOfItsOwnAndByAccess) {
  Cache::Options options = Serving();
  options.expire_after_write = absl::InfiniteDuration();
  options.expire_after_access = absl::Seconds(30);
  Cache cache = Make(options);
  cache.Put(1, Loaded<Page>{.object = Page{1}, .expires_after = absl::Seconds(1)});
  cache.Put(2, Page{2});
  Pass(30);
  EXPECT_EQ(cache.Get(2), nullptr);
  EXPECT_EQ(cache.GetOrLoad(1, Failing()).value()->version, 1);
  EXPECT_EQ(cache.GetOrLoad(2, Failing()).value()->version, 2);
  Pass(71);
  EXPECT_FALSE(cache.GetOrLoad(1, Failing()).ok());
  EXPECT_EQ(cache.GetOrLoad(2, Failing()).value()->version, 2);
  Pass(29);
  EXPECT_FALSE(cache.GetOrLoad(2, Failing()).ok());
}

TEST_F(StaleTest, PurgeKeepsIt) {
  cache_.Put(1, Page{1});
  Pass(10);
  cache_.Purge();
  EXPECT_TRUE(cache_.GetOrLoad(1, Failing()).ok());
  Pass(100);
  cache_.Purge();
  EXPECT_TRUE(cache_.empty());
}

// While it may be needed it is no first victim; afterwards it is.
TEST_F(StaleTest, IsEvictedInItsTurn) {
  Cache::Options options = Serving();
  options.budget_bytes = 100;
  for (const bool own_life : {false, true}) {
    options.expire_after_write = own_life ? absl::InfiniteDuration() : absl::Seconds(10);
    Cache cache = Make(options);
    cache.Put(0, Loaded<Page>{.object = Page{}, .expires_after = absl::Seconds(10)});
    for (int i = 0; i < 50; ++i) EXPECT_NE(cache.Get(0), nullptr);
    Pass(10);
    for (int key = 1; key < 120; ++key) cache.Put(key, Page{});
    EXPECT_TRUE(cache.GetOrLoad(0, Failing()).ok());
    EXPECT_EQ(cache.Stats().evictions_expired, 0u);
    Pass(100);
    cache.Put(1000, Loaded<Page>{.object = Page{}, .expires_after = absl::Hours(1)});
    cache.Put(1001, Loaded<Page>{.object = Page{}, .expires_after = absl::Hours(1)});
    EXPECT_FALSE(cache.GetOrLoad(0, Failing()).ok());
    EXPECT_GE(cache.Stats().evictions_expired, 1u);
  }
}

TEST_F(StaleTest, IsEvictedAsExpired) {
  Cache::Options options = Serving();
  std::vector<RemovalCause> causes;
  options.removal_listener = [&](const int&, const Ref<Page>&, RemovalCause cause, uint64_t) {
    causes.push_back(cause);
  };
  Cache cache = Make(options);
  cache.Put(1, Page{1});
  Pass(10);
  cache.Trim(0);
  EXPECT_EQ(causes, std::vector{RemovalCause::kExpired});
  EXPECT_EQ(cache.Stats().evictions_expired, 1u);
}

TEST_F(StaleTest, NotToACallerThatIsCancelled) {
  std::stop_source stop;
  LoadOptions options;
  options.stop_token = stop.get_token();
  cache_.Put(1, Page{1});
  Pass(10);
  const auto load = [&]() -> absl::StatusOr<Page> {
    stop.request_stop();
    return absl::CancelledError("");
  };
  EXPECT_TRUE(absl::IsCancelled(cache_.GetOrLoad(1, load, options).status()));
  stop = std::stop_source();
  options.stop_token = stop.get_token();
  const auto throwing = [&]() -> Page {
    stop.request_stop();
    throw std::runtime_error("cancelled");
  };
  EXPECT_THROW(cache_.GetOrLoad(1, throwing, options).IgnoreError(), std::runtime_error);
  EXPECT_EQ(cache_.Stats().stale_served, 0u);
}

TEST_F(StaleTest, WithAKeptFailureOneAskGoesToTheSource) {
  Cache::Options options = Serving();
  options.failure_ttl = [](const absl::Status&) { return absl::Seconds(20); };
  Cache cache = Make(options);
  cache.Put(1, Page{1});
  Pass(10);
  for (int i = 0; i < 10; ++i) {
    for (const Result& result : AskInAllWays(cache, 1, Failing())) EXPECT_TRUE(result.ok());
  }
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(cache.Stats().stale_served, 30u);
  Pass(20);
  EXPECT_EQ(cache.GetOrLoad(1, Loading(2)).value()->version, 2);
}

TEST_F(StaleTest, GetAllLoadsExpiredObjectsByOneCall) {
  const std::vector<int> keys = {1, 2, 3};
  for (const int key : keys) cache_.Put(key, Page{1});
  Pass(10);
  int calls = 0;
  const auto load = [&](const std::vector<int>& missing) {
    ++calls;
    return std::vector<Page>(missing.size(), Page{2});
  };
  for (const Result& result : cache_.GetAll(keys, load)) EXPECT_EQ(result.value()->version, 2);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(cache_.size(), 3u);
  EXPECT_EQ(cache_.Get(2)->version, 2);
  Pass(10);
  const auto fail = [&](const std::vector<int>&) -> absl::StatusOr<std::vector<Page>> {
    ++calls;
    return absl::UnavailableError("down");
  };
  for (const Result& result : cache_.GetAll(keys, fail)) EXPECT_EQ(result.value()->version, 2);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(cache_.Stats().stale_served, 3u);
  EXPECT_EQ(cache_.Stats().misses, 6u);
  cache_.CheckInvariantsForTesting();
}

TEST_F(StaleTest, ATaskThatIsDroppedIsAFailure) {
  cache_.Put(1, Page{1});
  Pass(10);
  const auto drop = [](auto) {};
  EXPECT_EQ(cache_.GetOrLoadAsync(1, Failing(), drop).get().value()->version, 1);
  EXPECT_EQ(loads_, 0);
}

TEST_F(StaleTest, TheOptionIsNotNegative) {
  Cache::Options options = Serving();
  options.stale_if_error = -absl::Seconds(1);
  EXPECT_TRUE(absl::IsInvalidArgument(Cache::Create(options).status()));
  options.stale_if_error = absl::InfiniteDuration();
  Cache cache = Make(options);
  cache.Put(1, Page{1});
  now_ += absl::Hours(1'000'000);
  EXPECT_TRUE(cache.GetOrLoad(1, Failing()).ok());
}

}  // namespace
}  // namespace weakcache
