// SPDX-License-Identifier: Apache-2.0
// The lives of objects in a LargeObjectCache: by the options, by Loaded and by SetExpiry; and which
// of the expired ones go first. All in virtual time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "weakcache/cache/internal/retention/expiry_queue.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Page {
  int version = 0;
};

using Cache = LargeObjectCache<int, Page>;

class LifeTest : public ::testing::Test {
 protected:
  Cache::Options Timed(uint64_t budget = 1'000'000) {
    Cache::Options options = testing::WithBudget<Cache>(budget);
    options.clock = [this] { return now_; };
    options.weigher = [](const Page&) { return uint64_t{1}; };
    return options;
  }
  static Cache Make(Cache::Options options) {
    return std::move(Cache::Create(std::move(options))).value();
  }
  void Pass(int seconds) { now_ += absl::Seconds(seconds); }

  absl::Time now_ = absl::UnixEpoch();
};

bool Contains(Cache& cache, int key) { return cache.Get(key).get() != nullptr; }
Loaded<Page> Lasting(int seconds) {
  return {.object = Page{}, .expires_after = absl::Seconds(seconds)};
}

TEST_F(LifeTest, OfEachObjectIsWhatItsLoaderSays) {
  Cache cache = Make(Timed());  // nothing expires unless it says so

  const auto load = [&](int key, auto loader) { ASSERT_TRUE(cache.GetOrLoad(key, loader).ok()); };
  using Status = absl::StatusOr<Loaded<Page>>;
  load(0, [] { return Page{}; });
  load(1, [] { return Lasting(10); });
  load(2, []() -> Status { return Lasting(20); });
  load(3, [](int) {
    return Loaded<std::unique_ptr<Page>>{.object = std::make_unique<Page>(),
                                         .expires_after = absl::Seconds(30)};
  });
  load(4, [] {
    return Loaded<Ref<Page>>{.object = MakeRef<Page>(), .expires_after = absl::Seconds(40)};
  });
  cache.GetOrLoadAsync(
      5, [] { return Lasting(50); }, [](auto task) { task(); });
  const auto bulk = cache.GetAll(std::vector<int>{6}, [](const std::vector<int>&) {
    std::vector<Loaded<Page>> pages;
    pages.push_back(Lasting(60));
    return pages;
  });
  ASSERT_TRUE(bulk[0].ok());
  const auto bulk_status = cache.GetAll(std::vector<int>{7}, [](const std::vector<int>&) {
    std::vector<Status> pages;
    pages.emplace_back(Lasting(70));
    return pages;
  });
  ASSERT_TRUE(bulk_status[0].ok());
  cache.Put(8, Lasting(80));
  EXPECT_TRUE(cache.PutIfAbsent(9, Lasting(90)).second);
  for (int passed = 0; passed < 10; ++passed) {
    for (int key = 0; key < 10; ++key) {
      EXPECT_EQ(Contains(cache, key), key == 0 || key > passed) << key << " at " << passed;
    }
    Pass(9);
    EXPECT_EQ(Contains(cache, passed + 1), passed < 9);
    Pass(1);
  }
  EXPECT_EQ(cache.Stats().evictions_expired, 9u);
  cache.CheckInvariantsForTesting();
}

TEST_F(LifeTest, OfItsOwnTakesTheDefaultsPlace) {
  Cache::Options options = Timed();
  options.expire_after_write = absl::Seconds(10);
  options.refresh_after_write = absl::Seconds(5);
  Cache cache = Make(options);
  cache.Put(1, Page{});
  cache.Put(2, Loaded<Page>{.object = Page{}, .expires_after = absl::InfiniteDuration()});
  cache.Put(3, Loaded<Page>{.object = Page{}, .refresh_after = absl::Seconds(1)});
  cache.Put(4, Loaded<Page>{.object = Page{}, .refresh_after = absl::InfiniteDuration()});
  const auto version = [&](int key) {
    return cache.GetOrLoad(key, [] { return Page{1}; }).value();
  };
  Pass(1);
  EXPECT_EQ(version(1)->version, 0);
  EXPECT_EQ(version(3)->version, 1);
  Pass(8);
  EXPECT_EQ(version(4)->version, 0);
  EXPECT_EQ(version(1)->version, 1);
  Pass(1000);
  EXPECT_TRUE(Contains(cache, 2));
  EXPECT_FALSE(Contains(cache, 1));
  EXPECT_FALSE(Contains(cache, 4));
}

// Whoever waits for it gets it, as after Cache-Control: max-age=0.
TEST_F(LifeTest, MayBeNone) {
  Cache cache = Make(Timed());
  for (const absl::Duration life :
       {absl::ZeroDuration(), -absl::Seconds(1), -absl::InfiniteDuration()}) {
    const auto load = [&] { return Loaded<Page>{.object = Page{7}, .expires_after = life}; };
    EXPECT_EQ(cache.GetOrLoad(1, load).value()->version, 7);
    EXPECT_FALSE(Contains(cache, 1));
  }
  EXPECT_EQ(cache.Stats().loads, 3u);
  EXPECT_EQ(cache.Stats().evictions_expired, 3u);
}

TEST_F(LifeTest, AWeightOfItsOwnTakesTheWeighersPlace) {
  Cache cache = Make(Timed(100));
  cache.Put(1, Loaded<Page>{.object = Page{}, .weight = 60});
  ASSERT_TRUE(cache.GetOrLoad(2, [] { return Loaded<Page>{.object = Page{}, .weight = 30}; }).ok());
  EXPECT_EQ(cache.Stats().bytes_retained, 90u);
  EXPECT_TRUE(cache.UpdateWeight(1));  // asks the weigher
  EXPECT_EQ(cache.Stats().bytes_retained, 31u);
}

TEST_F(LifeTest, MayBeChangedLater) {
  Cache cache = Make(Timed());
  EXPECT_FALSE(cache.SetExpiry(1, absl::Seconds(1)));
  cache.Put(1, Page{});
  EXPECT_TRUE(cache.SetExpiry(1, absl::Seconds(10)));
  Pass(9);
  EXPECT_TRUE(Contains(cache, 1));
  EXPECT_TRUE(cache.SetExpiry(1, absl::Seconds(10)));
  Pass(9);
  EXPECT_TRUE(Contains(cache, 1));
  EXPECT_TRUE(cache.SetExpiry(1, absl::InfiniteDuration()));
  Pass(1000);
  EXPECT_TRUE(Contains(cache, 1));
  EXPECT_TRUE(cache.SetExpiry(1, absl::Seconds(-1)));
  EXPECT_FALSE(cache.SetExpiry(1, absl::Seconds(10)));  // it has expired
  EXPECT_FALSE(Contains(cache, 1));
  cache.CheckInvariantsForTesting();
}

// The longest life must not come round to a short one.
TEST_F(LifeTest, MayBeLongerThanTheClock) {
  Cache cache = Make(Timed());
  now_ = absl::FromUnixNanos(INT64_MAX - 1000);
  cache.Put(1, Loaded<Page>{.object = Page{}, .expires_after = absl::Nanoseconds(INT64_MAX - 1)});
  EXPECT_TRUE(Contains(cache, 1));
  EXPECT_TRUE(cache.SetExpiry(1, absl::Nanoseconds(INT64_MAX - 1)));
  EXPECT_TRUE(Contains(cache, 1));
  cache.Trim(0);
  EXPECT_EQ(cache.Stats().evictions_expired, 0u);
}

// The example of loaded.h.
struct Response {
  Page page;
  absl::Duration max_age;
};
Response Fetch(const std::string&) { return {Page{3}, absl::Minutes(1)}; }

TEST(LoadedTest, Example) {
  using Pages = LargeObjectCache<std::string, Page>;
  Pages pages = std::move(Pages::Create(testing::WithBudget<Pages>(1000))).value();
  const std::string url = "https://example.org";
  using weakcache::Loaded;
  absl::StatusOr<weakcache::Ref<Page>> page = pages.GetOrLoad(url, [](const std::string& url) {
    Response response = Fetch(url);
    return Loaded<Page>{.object = std::move(response.page), .expires_after = response.max_age};
  });
  EXPECT_EQ(page.value()->version, 3);
}

// moka#231: what is loaded together must not be loaded together again.
TEST_F(LifeTest, JitterSpreadsWhatWasLoadedTogether) {
  constexpr int kKeys = 1000;
  Cache::Options options = Timed();
  options.expire_after_write = absl::Seconds(60);
  std::vector<int> loads_of[2];
  for (std::vector<int>& loads : loads_of) {
    options.expiry_jitter = 0.1;
    Cache cache = Make(options);
    for (int second = 0; second <= 60; ++second, Pass(1)) {
      const uint64_t before = cache.Stats().loads;
      for (int key = 0; key < kKeys; ++key) {
        ASSERT_TRUE(cache.GetOrLoad(key, [] { return Page{}; }).ok());
      }
      loads.push_back(static_cast<int>(cache.Stats().loads - before));
    }
    EXPECT_EQ(loads[0], kKeys);
    for (int second = 1; second < 55; ++second) EXPECT_EQ(loads[second], 0) << second;
    for (int second = 55; second <= 60; ++second) {
      EXPECT_GT(loads[second], kKeys / 12) << second;
      EXPECT_LT(loads[second], kKeys / 4) << second;
    }
  }
  EXPECT_EQ(loads_of[0], loads_of[1]);  // by the keys alone
}

TEST_F(LifeTest, AJitterIsAPart) {
  for (const double jitter : {-0.1, 1.1, std::nan("")}) {
    Cache::Options options = Timed();
    options.expiry_jitter = jitter;
    const absl::Status status = Cache::Create(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message().substr(0, 13), "expiry_jitter");
  }
}

// Most hits do not look at an object's times: see Freshness::Arm. All the same its life is exact.
TEST_F(LifeTest, IsExactHoweverOftenTheObjectIsFound) {
  for (const bool by_option : {false, true}) {
    Cache::Options options = Timed();
    if (by_option) options.expire_after_write = absl::Seconds(10);
    Cache cache = Make(options);
    cache.Put(1, by_option ? Loaded<Page>{.object = Page{}} : Lasting(10));
    for (int i = 1; i <= 10'000; ++i) {
      now_ += absl::Milliseconds(1);
      ASSERT_EQ(Contains(cache, 1), i < 10'000) << i;
    }
    cache.Put(1, by_option ? Loaded<Page>{.object = Page{}} : Lasting(10));
    EXPECT_TRUE(Contains(cache, 1));
    EXPECT_TRUE(cache.SetExpiry(1, absl::Milliseconds(1)));
    EXPECT_TRUE(Contains(cache, 1));
    now_ += absl::Milliseconds(1);
    EXPECT_FALSE(Contains(cache, 1));
  }
}

TEST_F(LifeTest, IsNotProlongedByAClockThatIsSetBack) {
  for (const int minutes : {30, 90}) {  // after the cache was made, and before
    Cache cache = Make(Timed());
    now_ += absl::Hours(1);
    cache.Put(1, Lasting(10));
    EXPECT_TRUE(Contains(cache, 1));
    now_ -= absl::Minutes(minutes);
    EXPECT_TRUE(Contains(cache, 1));
    Pass(9);
    EXPECT_TRUE(Contains(cache, 1));
    Pass(1);
    EXPECT_FALSE(Contains(cache, 1));
  }
}

TEST_F(LifeTest, MayBeginBeforeTheCacheWasMade) {
  Cache cache = Make(Timed());
  now_ -= absl::Hours(1);
  cache.Put(1, Lasting(5000));
  for (int i = 0; i < 49; ++i) {
    Pass(100);
    EXPECT_TRUE(Contains(cache, 1));
  }
  Pass(99);
  EXPECT_TRUE(Contains(cache, 1));
  Pass(1);
  EXPECT_FALSE(Contains(cache, 1));
}

// An access is recorded if the last recorded one is a second ago, or a sixteenth of the life. So
// the object may expire by so much earlier, and never later.
TEST_F(LifeTest, AfterAccessCountsFromAnAccessThatMayBeAWhileAgo) {
  for (const int seconds : {4, 100}) {
    Cache::Options options = Timed();
    options.expire_after_access = absl::Seconds(seconds);
    Cache cache = Make(options);
    const absl::Duration early = std::min(absl::Seconds(1), absl::Seconds(seconds) / 16);
    for (const int step : {1, 7, 50, 300}) {
      cache.Put(1, Page{});
      for (int i = 0; i < 5000 / step; ++i) {
        now_ += absl::Milliseconds(step);
        ASSERT_TRUE(Contains(cache, 1)) << step;
      }
      now_ += absl::Seconds(seconds) - early;
      now_ -= absl::Milliseconds(1);
      EXPECT_NE(cache.Peek(1), nullptr);
      now_ += early + absl::Milliseconds(1);
      EXPECT_FALSE(Contains(cache, 1));
    }
  }
}

// Objects expire 16 seconds after their last access, of which one is recorded each second.
class InUseTest : public LifeTest {
 protected:
  Cache::Options ByAccess() {
    Cache::Options options = Timed();
    options.expire_after_access = absl::Seconds(16);
    return options;
  }
  static Page NotCalled() {
    ADD_FAILURE() << "a loader was called";
    return Page{};
  }
};

// Whether the object lies in an embedded slot or in an external one, and is retained or not.
TEST_F(InUseTest, AnObjectDoesNotExpireByAccess) {
  for (const bool external : {false, true}) {
    for (const uint64_t budget : {uint64_t{100}, uint64_t{0}}) {
      Cache cache = Make(ByAccess());
      Ref<Page> used = external ? cache.Put(1, MakeRef<Page>()) : cache.Put(1, Page{});
      cache.SetBudget(budget);
      for (int i = 0; i < 3; ++i) {
        Pass(100);
        EXPECT_EQ(cache.Get(1), used);
        EXPECT_EQ(cache.GetOrLoad(1, NotCalled).value(), used);
      }
      EXPECT_EQ(cache.Stats().misses, 0u);
      EXPECT_EQ(cache.Stats().evictions_expired, 0u);
      used.reset();
      if (budget == 0) continue;
      Pass(15);
      EXPECT_TRUE(Contains(cache, 1));
      Pass(16);
      EXPECT_FALSE(Contains(cache, 1));
      EXPECT_EQ(cache.Stats().evictions_expired, 1u);
      cache.CheckInvariantsForTesting();
    }
  }
}

// Whatever looks at the object sees that it is in use; its time begins anew then.
TEST_F(InUseTest, EachLookCounts) {
  const std::function<void(Cache&)> looks[] = {
      [](Cache& cache) { EXPECT_TRUE(Contains(cache, 1)); },
      [](Cache& cache) { EXPECT_NE(cache.Peek(1), nullptr); },
      [](Cache& cache) { EXPECT_TRUE(cache.Inspect(1).has_value()); },
      [](Cache& cache) { EXPECT_TRUE(cache.SetExpiry(1, absl::Hours(1))); },
      [](Cache& cache) { EXPECT_FALSE(cache.PutIfAbsent(1, Page{}).second); },
      [](Cache& cache) { EXPECT_TRUE(cache.GetOrLoad(1, NotCalled).ok()); },
      [](Cache& cache) {
        const auto load = [](const std::vector<int>& keys) {
          ADD_FAILURE();
          return std::vector<Page>(keys.size());
        };
        EXPECT_TRUE(cache.GetAll(std::vector<int>{1}, load)[0].ok());
      },
      [](Cache& cache) { cache.Purge(); },
      [](Cache& cache) {  // which looks for expired objects
        for (int key = 10; key < 30; ++key) cache.Put(key, Page{});
      }};
  for (size_t i = 0; i < std::size(looks); ++i) {
    Cache::Options options = ByAccess();
    options.budget_bytes = 10;
    Cache cache = Make(options);
    cache.Put(0, Page{});
    Ref<Page> used = cache.Put(1, Page{});
    Pass(1000);
    looks[i](cache);
    used.reset();
    Pass(15);
    EXPECT_NE(cache.Peek(1), nullptr) << i;
    Pass(1);
    EXPECT_EQ(cache.Peek(1), nullptr) << i;
  }
}

// Nobody tells the cache of a release. What it has not seen in use, it takes for idle since the
// last access.
TEST_F(InUseTest, AUseThatNobodySawDoesNotCount) {
  Cache cache = Make(ByAccess());
  Ref<Page> used = cache.Put(1, Page{});
  Pass(1000);
  used.reset();
  EXPECT_FALSE(Contains(cache, 1));
}

TEST_F(InUseTest, PurgeAndEvictionsTakeIdleObjectsOnly) {
  Cache::Options options = ByAccess();
  options.budget_bytes = 10;
  Cache cache = Make(options);
  std::vector<Ref<Page>> used;
  for (int key = 0; key < 10; ++key) {
    Ref<Page> page = cache.Put(key, Page{});
    if (key % 2 == 0) used.push_back(std::move(page));
  }
  Pass(100);
  for (int key = 10; key < 12; ++key) cache.Put(key, Page{});
  EXPECT_EQ(cache.Stats().evictions_expired, 2u);
  EXPECT_EQ(cache.Stats().evictions_budget, 0u);
  cache.Purge();
  EXPECT_EQ(cache.Stats().evictions_expired, 5u);
  for (int key = 0; key < 10; ++key) EXPECT_EQ(Contains(cache, key), key % 2 == 0) << key;
  used.clear();
  Pass(100);
  cache.Purge();
  EXPECT_TRUE(cache.empty());
  EXPECT_EQ(cache.Stats().evictions_expired, 12u);
  cache.CheckInvariantsForTesting();
}

TEST_F(InUseTest, AnObjectExpiresByItsAgeAllTheSame) {
  Cache::Options options = ByAccess();
  options.expire_after_write = absl::Seconds(30);
  Cache cache = Make(options);
  const Ref<Page> used = cache.Put(1, Page{});
  Pass(29);
  EXPECT_TRUE(Contains(cache, 1));
  Pass(1);
  EXPECT_FALSE(Contains(cache, 1));
}

// Whoever has missed an object may hold it, in case the load of a new one fails. That does not make
// it an object in use.
TEST_F(InUseTest, WhatHasExpiredStaysSo) {
  Cache::Options options = ByAccess();
  options.stale_if_error = absl::Hours(1);
  Cache cache = Make(options);
  cache.Put(1, Page{1});
  Pass(16);
  const Ref<Page> fresh = cache
                              .GetOrLoad(1,
                                         [&] {
                                           EXPECT_FALSE(Contains(cache, 1));
                                           cache.Purge();
                                           return Page{2};
                                         })
                              .value();
  EXPECT_EQ(fresh->version, 2);
  EXPECT_EQ(cache.Get(1), fresh);
  Pass(100);
  EXPECT_EQ(cache.Get(1), fresh);
  const auto fail = []() -> absl::StatusOr<Page> { return absl::UnavailableError("down"); };
  cache.Put(2, Page{3});
  Pass(16);
  const Ref<Page> stale = cache.GetOrLoad(2, fail).value();
  EXPECT_EQ(stale->version, 3);
  EXPECT_FALSE(Contains(cache, 2));
  EXPECT_TRUE(cache.PutIfAbsent(2, Page{4}).second);
  EXPECT_EQ(cache.Stats().stale_served, 1u);
  cache.CheckInvariantsForTesting();
}

// An object in use that is removed was invalidated, or replaced, and did not expire.
TEST_F(InUseTest, TheCauseOfARemovalAgrees) {
  const std::function<void(Cache&)> removals[] = {
      [](Cache& cache) { cache.Invalidate(1); },
      [](Cache& cache) { cache.InvalidateIf([](int key) { return key == 1; }); },
      [](Cache& cache) { cache.Put(1, Page{}); }};
  for (const auto& remove : removals) {
    for (const bool in_use : {true, false}) {
      Cache::Options options = ByAccess();
      std::vector<RemovalCause> causes;
      options.removal_listener = [&](const int&, RemovalCause cause, uint64_t) {
        causes.push_back(cause);
      };
      Cache cache = Make(options);
      Ref<Page> used = cache.Put(1, Page{});
      if (!in_use) used.reset();
      Pass(100);
      remove(cache);
      ASSERT_EQ(causes.size(), 1u);
      EXPECT_EQ(causes[0] == RemovalCause::kExpired, !in_use);
    }
  }
}

// Ticks last for nine years.
TEST_F(LifeTest, IsExactAfterManyYears) {
  Cache cache = Make(Timed());
  now_ += absl::Hours(24 * 365 * 20);
  cache.Put(1, Lasting(10));
  cache.Put(2, Lasting(1'000'000'000));
  cache.Put(3, Page{});
  Pass(9);
  for (const int key : {1, 2, 3}) EXPECT_TRUE(Contains(cache, key)) << key;
  Pass(1);
  EXPECT_FALSE(Contains(cache, 1));
  for (const int key : {2, 3}) EXPECT_TRUE(Contains(cache, key)) << key;
}

// By the clock of the system, too.
TEST_F(LifeTest, GoesByTheSystemsClock) {
  Cache::Options options = Timed();
  options.clock = nullptr;
  Cache cache = Make(options);
  cache.Put(1, Lasting(1'000));
  cache.Put(2, Lasting(0));
  cache.Put(3, Page{});
  EXPECT_TRUE(Contains(cache, 1));
  EXPECT_FALSE(Contains(cache, 2));
  EXPECT_TRUE(Contains(cache, 3));
}

// A thousand objects with lives of 1 to 1000 seconds, in a random order, fill the budget. Whatever
// time has passed, new objects take the place of those that have expired first.
TEST_F(LifeTest, ExpiredObjectsGoFirstWhateverTheirOrder) {
  constexpr int kObjects = 1000;
  for (const int passed : {1, 10, 400, 1000}) {
    Cache cache = Make(Timed(kObjects));
    std::vector<int> lives(kObjects);
    for (int i = 0; i < kObjects; ++i) lives[i] = i + 1;
    std::shuffle(lives.begin(), lives.end(), std::mt19937(passed));
    for (const int life : lives) cache.Put(life, Lasting(life));
    Pass(passed);
    for (int i = 0; i < passed; ++i) cache.Put(10'000 + i, Page{});
    // A turn looks at some hundreds of those that have not expired; here it has found all.
    EXPECT_EQ(cache.Stats().evictions_expired, static_cast<uint64_t>(passed));
    EXPECT_EQ(cache.Stats().evictions_budget, 0u);
    for (int life = 1; life <= kObjects; ++life) EXPECT_EQ(Contains(cache, life), life > passed);
    cache.CheckInvariantsForTesting();
  }
}

// One that lives for ever, in a cache whose objects expire, is not in the way.
TEST_F(LifeTest, ALongLifeOfItsOwnDoesNotHideExpiredObjects) {
  Cache::Options options = Timed(10);
  options.expire_after_write = absl::Seconds(10);
  Cache cache = Make(options);
  for (int key = 0; key < 5; ++key) {
    cache.Put(key, Loaded<Page>{.object = Page{}, .expires_after = absl::InfiniteDuration()});
  }
  for (int key = 5; key < 10; ++key) cache.Put(key, Page{});
  Pass(10);
  for (int key = 10; key < 15; ++key) cache.Put(key, Page{});
  EXPECT_EQ(cache.Stats().evictions_expired, 5u);
  EXPECT_EQ(cache.Stats().evictions_budget, 0u);
}

TEST_F(LifeTest, AChangedLifeChangesWhoGoesFirst) {
  Cache cache = Make(Timed(10));
  for (int key = 0; key < 10; ++key) cache.Put(key, Lasting(100));
  EXPECT_TRUE(cache.SetExpiry(7, absl::Seconds(1)));
  EXPECT_TRUE(cache.SetExpiry(3, absl::InfiniteDuration()));
  Pass(1);
  const Ref<Page> used = cache.Peek(7);  // null: it has expired
  EXPECT_EQ(used, nullptr);
  cache.Put(20, Page{});
  EXPECT_EQ(cache.Stats().evictions_expired, 1u);
  Pass(99);
  for (int key = 21; key < 29; ++key) cache.Put(key, Page{});
  EXPECT_EQ(cache.Stats().evictions_expired, 9u);
  EXPECT_TRUE(Contains(cache, 3));
}

// An entry of the queue alone.
struct Expiring : internal::ExpiryLinks {
  int64_t expiry_time() const { return time; }
  int64_t time = 0;
};

// Against the plain set of times, with a clock that mostly goes on, by steps of all sizes.
TEST(ExpiryQueueTest, FindsWhatHasExpired) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<Expiring> entries(200);
    std::vector<bool> queued(entries.size());
    internal::ExpiryQueue<Expiring> queue;
    int64_t now = static_cast<int64_t>(random()) >> (random() % 2 * 20);
    for (int step = 0; step < 3000; ++step) {
      const size_t i = random() % entries.size();
      Expiring& entry = entries[i];
      if (!queued[i]) {
        const auto ahead = static_cast<int64_t>(random() >> (1 + random() % 63));
        entry.time =
            now > INT64_MAX - ahead ? INT64_MAX : now + ahead - static_cast<int64_t>(random() % 3);
        queue.Insert(&entry, now);
        queued[i] = true;
      } else if (random() % 4 == 0) {
        queue.Remove(&entry);
        queued[i] = false;
      } else if (random() % 2 == 0) {
        entry.time = std::max(entry.time, now);  // later than its place says
        entry.time +=
            entry.time < INT64_MAX / 2 ? static_cast<int64_t>(random() % 100'000'000'000) : 0;
      }
      if (random() % 5 == 0) {
        const auto passed = static_cast<int64_t>(random() >> (16 + random() % 48));
        if (now < INT64_MAX - passed) now += passed;
        if (random() % 50 == 0) now -= static_cast<int64_t>(random() % 1'000'000'000);
      }
      size_t expired = 0;
      for (size_t j = 0; j < entries.size(); ++j) {
        expired += queued[j] && entries[j].time <= now ? 1 : 0;
      }
      size_t looks = 2 * entries.size();
      Expiring* const found = queue.NextExpired(now, looks);
      ASSERT_EQ(found != nullptr, expired > 0) << seed << " " << step;
      if (found == nullptr) continue;
      ASSERT_LE(found->time, now);
      if (random() % 2 == 0) {
        queue.Remove(found);
        queued[static_cast<size_t>(found - entries.data())] = false;
      }
    }
    for (Expiring& entry : entries) queue.Remove(&entry);
    EXPECT_TRUE(queue.empty());
  }
}

// What is not due is not looked at, whatever there is.
TEST(ExpiryQueueTest, LooksAtEachEntryOnceForABitOfItsLife) {
  constexpr int64_t kSecond = 1'000'000'000;
  std::vector<Expiring> entries(10'000);
  internal::ExpiryQueue<Expiring> queue;
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].time = static_cast<int64_t>(i + 1) * kSecond;
    queue.Insert(&entries[i], 0);
  }
  size_t looked = 0;
  for (int64_t now = 0; now <= 10'000; ++now) {
    size_t left = SIZE_MAX;
    while (Expiring* const expired = queue.NextExpired(now * kSecond, left)) queue.Remove(expired);
    looked += SIZE_MAX - left;
  }
  EXPECT_TRUE(queue.empty());
  EXPECT_LT(looked, 18 * entries.size());  // 10,000 s are 2^17.2 ticks
}

}  // namespace
}  // namespace weakcache
