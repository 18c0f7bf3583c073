// SPDX-License-Identifier: Apache-2.0
// How callers wait for an object, and how they leave: at a deadline, or when they are cancelled.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/race.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;

struct Page {
  int text;
  int64_t numbers[4] = {};
};
using Pages = std::vector<Page>;
using Keys = std::vector<int>;

// Counts comparisons. A thread that asks for a key that is being loaded compares it under the
// shard's lock, and waits before it releases that.
struct CountingEqual {
  bool operator()(int a, int b) const {
    ++*comparisons;
    return a == b;
  }
  std::atomic<int>* comparisons;
};
using Cache = LargeObjectCache<int, Page, std::hash<int>, CountingEqual>;
using Result = absl::StatusOr<Ref<Page>>;

std::chrono::steady_clock::time_point Soon() {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
}
constexpr std::chrono::steady_clock::time_point kPast =
    std::chrono::steady_clock::time_point::min();

absl::StatusCode CodeOf(const Result& result) { return result.status().code(); }

Page NotCalled() {
  ADD_FAILURE() << "a loader was called";
  return Page{0};
}

// A step of one thread that others wait for.
class Event {
 public:
  void Set() {
    is_set_.store(true);
    is_set_.notify_all();
  }
  void Wait() const { is_set_.wait(false); }
  bool is_set() const { return is_set_.load(); }

 private:
  std::atomic<bool> is_set_{false};
};

class WaitingTest : public ::testing::Test {
 protected:
  explicit WaitingTest(size_t limit = 0) : cache_(Make(limit)) {}
  ~WaitingTest() override { cache_.CheckInvariantsForTesting(); }

  Cache Make(size_t limit) {
    Cache::Options options;
    options.budget_bytes = 1 << 20;
    options.shards = 1;
    options.max_concurrent_loads = limit;
    return std::move(Cache::Create(options, std::hash<int>(), CountingEqual{&comparisons_}))
        .value();
  }
  // Calls `ask` on another thread, and returns when that waits for the load of a key.
  std::thread AskAndWait(std::function<void()> ask) {
    const int before = comparisons_;
    std::thread thread(std::move(ask));
    while (comparisons_ == before) std::this_thread::yield();
    cache_.Invalidate(1000);  // has the shard's lock after that thread
    return thread;
  }

  std::atomic<int> comparisons_{0};
  Cache cache_;
};

TEST_F(WaitingTest, AFollowerLeavesAtItsDeadlineAndTheLoadGoesOn) {
  Result followed;
  const Result led = cache_.GetOrLoad(1, [&] {
    std::thread follower([&] { followed = cache_.GetOrLoad(1, NotCalled, {.deadline = Soon()}); });
    follower.join();  // while this loader runs
    return Page{7};
  });
  EXPECT_EQ(CodeOf(followed), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*led)->text, 7);
  EXPECT_EQ(cache_.Get(1), *led);
}

TEST_F(WaitingTest, AFollowerLeavesWhenItIsCancelled) {
  std::stop_source stop;
  Result followed;
  const Result led = cache_.GetOrLoad(1, [&] {
    std::thread follower = AskAndWait(
        [&] { followed = cache_.GetOrLoad(1, NotCalled, {.stop_token = stop.get_token()}); });
    stop.request_stop();
    follower.join();
    return Page{7};
  });
  EXPECT_EQ(CodeOf(followed), absl::StatusCode::kCancelled);
  EXPECT_EQ(cache_.Get(1), *led);
}

TEST_F(WaitingTest, ADeadlineInThePastGetsWhatIsThereAndLoadsNothing) {
  EXPECT_EQ(CodeOf(cache_.GetOrLoad(1, NotCalled, {.deadline = kPast})),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(CodeOf(cache_.GetOrLoad(1, NotCalled, {.weight_estimate = 9, .deadline = kPast})),
            absl::StatusCode::kDeadlineExceeded);
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_EQ(CodeOf(cache_.GetOrLoad(1, NotCalled, {.stop_token = stopped.get_token()})),
            absl::StatusCode::kCancelled);
  const auto bulk = [](const Keys&) {
    ADD_FAILURE();
    return Pages();
  };
  cache_.Put(2, Page{2});
  const uint64_t misses = cache_.Stats().misses;
  const auto all = cache_.GetAll(Keys{1, 2}, bulk, {.deadline = kPast});
  EXPECT_EQ(cache_.Stats().misses, misses + 1);
  EXPECT_EQ(CodeOf(all[0]), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*all[1])->text, 2);
  EXPECT_EQ(CodeOf(cache_.GetAll(Keys{1}, bulk, {.stop_token = stopped.get_token()})[0]),
            absl::StatusCode::kCancelled);
  EXPECT_EQ((*cache_.GetOrLoad(2, NotCalled, {.deadline = kPast}))->text, 2);
  auto future =
      cache_.GetOrLoadAsync(1, NotCalled, [](const auto& task) { task(); }, {.deadline = kPast});
  EXPECT_EQ(CodeOf(future.get()), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(WaitingTest, GetAllLeavesTheKeysThatOthersLoad) {
  std::vector<Result> all;
  cache_
      .GetOrLoad(1,
                 [&] {
                   std::thread follower([&] {
                     all = cache_.GetAll(
                         Keys{1, 2}, [](const Keys& keys) { return Pages(keys.size(), Page{5}); },
                         {.deadline = Soon()});
                   });
                   follower.join();
                   return Page{1};
                 })
      .value();
  EXPECT_EQ(CodeOf(all[0]), absl::StatusCode::kDeadlineExceeded);
  // It may not have begun by its deadline.
  if (all[1].ok()) {
    EXPECT_EQ((*all[1])->text, 5);
  } else {
    EXPECT_EQ(CodeOf(all[1]), absl::StatusCode::kDeadlineExceeded);
  }
}

// A loader that fails as its caller is cancelled, which another one shares.
class OwnCancellationTest : public WaitingTest, public ::testing::WithParamInterface<bool> {
 protected:
  static absl::Status Fail() {
    if (GetParam()) throw std::runtime_error("cancelled");
    return absl::UnavailableError("cancelled");
  }
};
INSTANTIATE_TEST_SUITE_P(All, OwnCancellationTest, ::testing::Bool(), [](const auto& of_test) {
  return std::string(of_test.param ? "Exception" : "Status");
});

TEST_P(OwnCancellationTest, FailsNoOtherOfWhichOneLoads) {
  constexpr int kOthers = 3;
  std::stop_source stop;
  std::atomic<int> loads{0};
  std::vector<Result> results(kOthers);
  std::vector<std::thread> others;
  const auto lead = [&] {
    return cache_.GetOrLoad(1,
                            [&]() -> absl::StatusOr<Page> {
                              for (int i = 0; i < kOthers; ++i) {
                                others.push_back(AskAndWait([&, i] {
                                  results[static_cast<size_t>(i)] = cache_.GetOrLoad(1, [&, i] {
                                    ++loads;
                                    return Page{i};
                                  });
                                }));
                              }
                              stop.request_stop();
                              return Fail();
                            },
                            {.stop_token = stop.get_token()});
  };
  if (GetParam()) {
    EXPECT_THROW(static_cast<void>(lead()), std::runtime_error);
  } else {
    EXPECT_EQ(CodeOf(lead()), absl::StatusCode::kUnavailable);
  }
  for (std::thread& other : others) other.join();
  EXPECT_EQ(loads, 1);
  for (const Result& result : results) {
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(*result, *results[0]);
  }
}

TEST_P(OwnCancellationTest, OfABulkLoadFailsNoOther) {
  std::stop_source stop;
  Result followed;
  std::optional<std::thread> follower;
  const auto lead = [&] {
    return cache_.GetAll(
        Keys{1, 2},
        [&](const Keys&) -> absl::StatusOr<Pages> {
          follower = AskAndWait([&] { followed = cache_.GetOrLoad(2, [] { return Page{9}; }); });
          stop.request_stop();
          return Fail();
        },
        {.stop_token = stop.get_token()});
  };
  if (GetParam()) {
    EXPECT_THROW(static_cast<void>(lead()), std::runtime_error);
  } else {
    EXPECT_EQ(CodeOf(lead()[1]), absl::StatusCode::kUnavailable);
  }
  follower->join();
  EXPECT_EQ((*followed)->text, 9);
}

TEST_F(WaitingTest, AFailureOfItsOwnIsEverybodys) {
  Result followed;
  std::optional<std::thread> follower;
  static_cast<void>(cache_.GetOrLoad(1, [&](std::stop_token) -> absl::StatusOr<Page> {
    follower = AskAndWait([&] { followed = cache_.GetOrLoad(1, NotCalled); });
    return absl::NotFoundError("");
  }));
  follower->join();
  EXPECT_EQ(CodeOf(followed), absl::StatusCode::kNotFound);
}

// The loader's token fires when the last of two callers has left, whichever that is.
TEST_F(WaitingTest, ALoaderIsStoppedWhenTheLastCallerHasLeft) {
  for (const bool own_caller_first : {false, true}) {
    std::stop_source own;
    std::stop_source others;
    Event stopped;
    Result followed;
    const Result led = cache_.GetOrLoad(
        1,
        [&](int key, std::stop_token token) -> absl::StatusOr<Page> {
          EXPECT_EQ(key, 1);
          const std::stop_callback note(token, [&] { stopped.Set(); });
          std::thread follower = AskAndWait([&] {
            followed = cache_.GetOrLoad(1, NotCalled, {.stop_token = others.get_token()});
          });
          if (own_caller_first) own.request_stop();
          EXPECT_FALSE(stopped.is_set());
          others.request_stop();
          follower.join();
          EXPECT_EQ(token.stop_requested(), own_caller_first);
          own.request_stop();
          EXPECT_TRUE(token.stop_requested());
          stopped.Wait();
          return absl::CancelledError("stopped");
        },
        {.stop_token = own.get_token()});
    EXPECT_EQ(CodeOf(followed), absl::StatusCode::kCancelled);
    EXPECT_EQ(CodeOf(led), absl::StatusCode::kCancelled);
  }
}

TEST_F(WaitingTest, ACallerWhoseDeadlineIsOverCountsAsGone) {
  // Late enough for the load to begin.
  const auto own = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  const Result led =
      cache_.GetOrLoad(1,
                       [&](std::stop_token token) {
                         std::thread follower([&] {
                           EXPECT_EQ(CodeOf(cache_.GetOrLoad(1, NotCalled, {.deadline = own})),
                                     absl::StatusCode::kDeadlineExceeded);
                         });
                         follower.join();
                         EXPECT_TRUE(token.stop_requested());
                         return Page{3};
                       },
                       {.deadline = own});
  // The loader did not mind.
  EXPECT_EQ((*led)->text, 3);
  EXPECT_EQ(cache_.Get(1), *led);
}

TEST_F(WaitingTest, WhoComesAfterTheStopLoadsByItself) {
  std::stop_source own;
  Result late;
  std::optional<std::thread> latecomer;
  const Result led = cache_.GetOrLoad(
      1,
      [&](std::stop_token token) -> absl::StatusOr<Page> {
        own.request_stop();
        EXPECT_TRUE(token.stop_requested());
        latecomer = AskAndWait([&] { late = cache_.GetOrLoad(1, [] { return Page{4}; }); });
        return absl::CancelledError("stopped");
      },
      {.stop_token = own.get_token()});
  latecomer->join();
  EXPECT_EQ(CodeOf(led), absl::StatusCode::kCancelled);
  EXPECT_EQ((*late)->text, 4);
}

TEST_F(WaitingTest, ABulkLoaderIsStoppedWhenNobodyWaitsForAnyKey) {
  std::stop_source own;
  std::stop_source others;
  const auto all = cache_.GetAll(
      Keys{1, 2},
      [&](const Keys& keys, std::stop_token token) {
        std::thread follower = AskAndWait([&] {
          EXPECT_EQ(CodeOf(cache_.GetOrLoad(2, NotCalled, {.stop_token = others.get_token()})),
                    absl::StatusCode::kCancelled);
        });
        own.request_stop();
        EXPECT_FALSE(token.stop_requested());
        others.request_stop();
        follower.join();
        EXPECT_TRUE(token.stop_requested());
        return Pages(keys.size(), Page{8});
      },
      {.stop_token = own.get_token()});
  EXPECT_EQ((*all[1])->text, 8);
}

class WaitingForAPermitTest : public WaitingTest {
 protected:
  WaitingForAPermitTest() : WaitingTest(1) {}
};

TEST_F(WaitingForAPermitTest, ACallerLeaves) {
  std::stop_source stop;
  cache_
      .GetOrLoad(1,
                 [&] {
                   std::thread late([&] {
                     EXPECT_EQ(CodeOf(cache_.GetOrLoad(2, NotCalled, {.deadline = Soon()})),
                               absl::StatusCode::kDeadlineExceeded);
                   });
                   std::thread cancelled([&] {
                     EXPECT_EQ(
                         CodeOf(cache_.GetOrLoad(
                             3, NotCalled, {.weight_estimate = 5, .stop_token = stop.get_token()})),
                         absl::StatusCode::kCancelled);
                   });
                   std::thread bulk([&] {
                     const auto all = cache_.GetAll(
                         Keys{4, 5}, [](const Keys& keys) { return Pages(keys.size(), Page{0}); },
                         {.stop_token = stop.get_token()});
                     EXPECT_EQ(CodeOf(all[0]), absl::StatusCode::kCancelled);
                     EXPECT_EQ(CodeOf(all[1]), absl::StatusCode::kCancelled);
                   });
                   late.join();
                   stop.request_stop();
                   cancelled.join();
                   bulk.join();
                   return Page{1};
                 })
      .value();
  EXPECT_TRUE(cache_.GetOrLoad(2, [] { return Page{2}; }).ok());
}

// Whatever two of these meet, nobody hangs, and nobody gets another's failure.
TEST_F(WaitingTest, Races) {
  std::optional<std::stop_source> stops[3];
  const auto ask = [&](int i) {
    const Result result =
        cache_.GetOrLoad(1,
                         [i](std::stop_token token) -> absl::StatusOr<Page> {
                           for (int spins = 0; spins < 20 && !token.stop_requested(); ++spins) {
                             std::this_thread::yield();
                           }
                           if (token.stop_requested()) return absl::InternalError("stopped");
                           return Page{i};
                         },
                         {.stop_token = stops[i]->get_token()});
    if (result.ok() || CodeOf(result) == absl::StatusCode::kCancelled) return;
    EXPECT_EQ(CodeOf(result), absl::StatusCode::kInternal);
    EXPECT_TRUE(stops[i]->stop_requested());
  };
  const std::vector<std::function<void()>> others = {
      [&] { stops[1]->request_stop(); },
      [&] { cache_.Invalidate(1); },
      [&] { cache_.Clear(); },
      [&] { cache_.Put(1, Page{6}); },
      [&] { static_cast<void>(cache_.Get(1)); },
  };
  for (const auto& other : others) {
    Race(
        RaceRounds(20'000),
        [&](int) {
          for (auto& stop : stops) stop.emplace();
          cache_.Clear();
        },
        {[&] { ask(0); }, [&] { ask(1); }, [&] { stops[0]->request_stop(); }, other}, [](int) {});
  }
}

}  // namespace
}  // namespace weakcache
