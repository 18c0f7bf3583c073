// SPDX-License-Identifier: Apache-2.0
// Each callback calls each method: nothing of the user's runs under a lock.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/support/cache_options.h"
#include "tests/support/last_words.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using Blob = testing::CallsAtEnd;
using Cache = LargeObjectCache<int, Blob>;

struct Method {
  const char* name;
  void (*call)(Cache&);
};

const Method kMethods[] = {
    {"Get", [](Cache& cache) { static_cast<void>(cache.Get(1)); }},
    {"Peek", [](Cache& cache) { static_cast<void>(cache.Peek(1)); }},
    {"GetOrLoad", [](Cache& cache) { cache.GetOrLoad(2, [] { return Blob(); }).value(); }},
    // The same key: an error if it is being loaded.
    {"GetOrLoad1",
     [](Cache& cache) { static_cast<void>(cache.GetOrLoad(1, [] { return Blob(); })); }},
    {"GetOrLoadAsync",
     [](Cache& cache) {
       cache
           .GetOrLoadAsync(
               2, [] { return Blob(); }, [](const auto& task) { task(); })
           .get()
           .value();
     }},
    {"GetOrLoadAsyncWithACallback",
     [](Cache& cache) {
       cache.GetOrLoadAsync(
           1, [] { return Blob(); }, [](const auto& task) { task(); },
           [&cache](const absl::StatusOr<Ref<Blob>>&) { static_cast<void>(cache.Get(1)); });
     }},
    {"GetAll",
     [](Cache& cache) {
       const std::vector<int> keys = {1, 2, 3};
       cache.GetAll(keys, [](const std::vector<int>& missing) {
         return std::vector<absl::StatusOr<Ref<Blob>>>(missing.size(), MakeRef<Blob>());
       });
     }},
    {"Put", [](Cache& cache) { cache.Put(1, Blob()); }},
    {"PutIfAbsent", [](Cache& cache) { cache.PutIfAbsent(1, Blob()); }},
    {"PutRef", [](Cache& cache) { cache.Put(1, MakeRef<Blob>()); }},
    {"Invalidate", [](Cache& cache) { cache.Invalidate(1); }},
    {"InvalidateExpected", [](Cache& cache) { cache.Invalidate(1, cache.Peek(1)); }},
    {"InvalidateIf",
     [](Cache& cache) { cache.InvalidateIf([](int, const Ref<Blob>&) { return true; }); }},
    {"InvalidateGroup",
     [](Cache& cache) {
       cache.Put(1, Loaded<Blob>{.object = Blob(), .group = 1});
       cache.InvalidateGroup(1);
       EXPECT_EQ(cache.Get(1), nullptr);
     }},
    {"Clear", [](Cache& cache) { cache.Clear(); }},
    {"Purge", [](Cache& cache) { cache.Purge(); }},
    {"SetBudget", [](Cache& cache) { cache.SetBudget(100); }},
    {"Trim", [](Cache& cache) { cache.Trim(0); }},
    {"UpdateWeight", [](Cache& cache) { cache.UpdateWeight(1); }},
    {"ForEach", [](Cache& cache) { cache.ForEach([](int, const Ref<Blob>&) {}); }},
    {"HottestKeys", [](Cache& cache) { static_cast<void>(cache.HottestKeys(3)); }},
    {"Stats", [](Cache& cache) { static_cast<void>(cache.Stats()); }},
    {"size", [](Cache& cache) { static_cast<void>(cache.size()); }},
};

// Runs `inner` on the cache of the test, once at a time: what it causes does not call it again.
class Reentry {
 public:
  void operator()() {
    if (cache == nullptr || method == nullptr || running_) return;
    running_ = true;
    ++calls;
    method->call(*cache);
    running_ = false;
  }

  Cache* cache = nullptr;
  const Method* method = nullptr;
  int calls = 0;

 private:
  bool running_ = false;
};

// All that makes callbacks run.
void UseAll(Cache& cache, const std::function<Blob()>& make) {
  cache.Put(1, make());
  cache.Put(1, make());
  cache.GetOrLoad(3, make).value();
  Ref<Blob> used = cache.Put(4, make());
  for (int key = 5; key < 20; ++key) cache.GetOrLoad(key, make).value();
  cache.UpdateWeight(19);
  cache.Trim(0);
  used.reset();
  for (int key = 1; key < 4; ++key) cache.Put(key, MakeRef<Blob>());
  cache.Invalidate(1);
  cache.SetBudget(0);
  cache.SetBudget(10);
  cache.Put(2, make());
  cache.Clear();
}

class LargeObjectCacheReentryTest : public ::testing::TestWithParam<Method> {
 protected:
  // A watchdog: a deadlock ends the test.
  void SetUp() override { alarm(60); }
  void TearDown() override { alarm(0); }

  Cache MakeCache(Cache::Options options) {
    options.budget_bytes = 10;
    options.count_entry_memory = false;
    options.shards = 1;
    if (!options.weigher) options.weigher = [](const Blob&) { return 2; };
    return std::move(Cache::Create(options)).value();
  }
  void Run(Cache cache, const std::function<Blob()>& make) {
    reentry_.cache = &cache;
    reentry_.method = &GetParam();
    UseAll(cache, make);
    EXPECT_GT(reentry_.calls, 0);
    reentry_.method = nullptr;
    cache.CheckInvariantsForTesting();
  }

  Reentry reentry_;
};

TEST_P(LargeObjectCacheReentryTest, FromTheLoader) {
  Run(MakeCache({}), [&] {
    reentry_();
    return Blob();
  });
}

TEST_P(LargeObjectCacheReentryTest, FromTheWeigher) {
  Cache::Options options;
  options.weigher = [&](const Blob&) {
    reentry_();
    return 2;
  };
  Run(MakeCache(options), [] { return Blob(); });
}

TEST_P(LargeObjectCacheReentryTest, FromTheListener) {
  Cache::Options options;
  options.removal_listener = [&](int, RemovalCause, uint64_t) { reentry_(); };
  Run(MakeCache(options), [] { return Blob(); });
}

TEST_P(LargeObjectCacheReentryTest, FromADestructor) {
  Run(MakeCache({}), [&] { return Blob([&] { reentry_(); }); });
}

TEST_P(LargeObjectCacheReentryTest, FromAContinuation) {
  Cache cache = MakeCache({});
  reentry_.cache = &cache;
  reentry_.method = &GetParam();
  std::vector<std::function<void()>> tasks;
  const auto ask = [&](int key) {
    cache.GetOrLoadAsync(
        key, [] { return Blob(); },
        [&](std::function<void()> task) { tasks.push_back(std::move(task)); },
        [&](const absl::StatusOr<Ref<Blob>>&) { reentry_(); });
  };
  // Others than the methods', one of which waits.
  for (int key = 11; key < 16; ++key) ask(key);
  ask(11);
  cache.GetOrLoad(11, [] { return Blob(); }).value();  // completes both, and any other way
  tasks.at(1)();
  cache.GetAll(std::vector<int>{13}, [&](const std::vector<int>& missing) {
    ask(13);
    return std::vector<absl::StatusOr<Ref<Blob>>>(missing.size(), MakeRef<Blob>());
  });
  tasks.at(3) = nullptr;  // dropped
  for (size_t i = 0; i < tasks.size(); ++i) {
    const std::function<void()> task = tasks[i];
    if (task) task();
  }
  EXPECT_GT(reentry_.calls, 3);
  reentry_.method = nullptr;
  cache.CheckInvariantsForTesting();
}

TEST_P(LargeObjectCacheReentryTest, FromAnExpiryCallback) {
  std::vector<ExpiryRegistration> registrations;
  Cache cache = MakeCache({});
  reentry_.cache = &cache;
  reentry_.method = &GetParam();
  for (int round = 0; round < 3; ++round) {
    for (int key = 1; key < 4; ++key) {
      registrations.push_back(OnExpire(cache.Put(key, Blob()), [&] { reentry_(); }));
    }
    cache.Trim(round == 0 ? 0 : 2);
    cache.Clear();
  }
  EXPECT_GT(reentry_.calls, 0);
  reentry_.method = nullptr;
  cache.CheckInvariantsForTesting();
}

INSTANTIATE_TEST_SUITE_P(All, LargeObjectCacheReentryTest, ::testing::ValuesIn(kMethods),
                         [](const auto& info) { return info.param.name; });

// What destructors do at the cache's end keeps no object alive after it, however many come in turn.
TEST(LargeObjectCacheEndTest, DestructorsMaySetTheBudgetAndPut) {
  Cache::Options options = testing::WithBudget<Cache>(10);
  options.weigher = [](const Blob&) { return uint64_t{1}; };
  constexpr int kObjects = 5;
  int ended = 0;
  Cache* inner = nullptr;
  std::vector<WeakRef<Blob>> put_at_the_end;
  const std::function<void()> on_end = [&] {
    if (++ended == kObjects) return;
    inner->SetBudget(100);
    put_at_the_end.push_back(WeakRef<Blob>(inner->Put(1 + ended, Blob(on_end))));
  };
  {
    Cache cache = Cache::Create(options).value();
    inner = &cache;
    cache.Put(1, Blob(on_end));
  }
  EXPECT_EQ(ended, kObjects);
  for (const WeakRef<Blob>& object : put_at_the_end) EXPECT_TRUE(object.expired());
}

TEST(LargeObjectCacheListenerTest, MayThrow) {
  static int reports;
  reports = 0;
  const ExpiryErrorHandler former = SetExpiryErrorHandler([](std::exception_ptr) { ++reports; });
  Cache::Options options = testing::WithBudget<Cache>(1000);
  options.removal_listener = [](int, RemovalCause, uint64_t) { throw 1; };
  Cache cache = std::move(Cache::Create(options)).value();
  cache.Put(1, Blob());
  cache.Put(1, Blob());
  cache.Trim(0);
  EXPECT_EQ(reports, 2);
  cache.CheckInvariantsForTesting();
  SetExpiryErrorHandler(former);
}

}  // namespace
}  // namespace weakcache
