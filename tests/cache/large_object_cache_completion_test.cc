// SPDX-License-Identifier: Apache-2.0
// Loaders that are themselves asynchronous: their objects come by a LoadCompletion.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/ref.h"
#ifdef __cpp_impl_coroutine
#include "tests/support/detached_coroutine.h"
#endif

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;
using testing::RunInline;

// Weighs what it says; may fail to be weighed.
struct Page {
  explicit Page(int of_number, uint64_t of_weight = 1) : number(of_number), weight(of_weight) {
    ++live;
  }
  Page(Page&& other) noexcept : number(other.number), weight(other.weight) { ++live; }
  Page& operator=(Page&&) = delete;
  ~Page() { --live; }

  int number;
  uint64_t weight;
  inline static std::atomic<int> live{0};
};
using Cache = LargeObjectCache<std::string, Page>;
using Result = absl::StatusOr<Ref<Page>>;
using Done = LoadCompletion<Page>;
static_assert(!std::is_copy_constructible_v<Done> && std::is_nothrow_move_constructible_v<Done>);

absl::StatusCode CodeOf(const std::optional<Result>& result) {
  return result.has_value() ? result->status().code() : absl::StatusCode::kUnknown;
}
int NumberOf(const std::optional<Result>& result) {
  return result.has_value() && result->ok() ? (**result)->number : -1;
}
Page NotCalled() {
  ADD_FAILURE() << "a loader was called";
  return Page(0);
}

class CompletionTest : public ::testing::Test {
 protected:
  CompletionTest() { Make({}); }
  ~CompletionTest() override {
    done_.clear();
    if (cache_.has_value()) cache_->CheckInvariantsForTesting();
  }
  struct Limits {
    size_t loads = 0;
    uint64_t hard_bytes = 0;
    AtHardLimit at_hard_limit = AtHardLimit::kFail;
    RemovalListener<std::string, Page> listener = nullptr;
  };
  void Make(const Limits& limits) {
    Cache::Options options = testing::WithBudget<Cache>(100);
    options.shards = 1;
    options.max_concurrent_loads = limits.loads;
    options.hard_limit_bytes = limits.hard_bytes;
    options.at_hard_limit = limits.at_hard_limit;
    options.removal_listener = limits.listener;
    options.weigher = [](const Page& page) {
      if (page.weight == UINT64_MAX) throw std::runtime_error("no scales");
      return page.weight;
    };
    cache_.emplace(std::move(Cache::Create(options)).value());
  }
  auto Into(std::optional<Result>& result) {
    return [&](Result got) {
      EXPECT_FALSE(result.has_value());
      result = std::move(got);
    };
  }
  // Asks, with a loader that leaves its completion in `done_`.
  void Ask(const std::string& key, std::optional<Result>& result, const LoadOptions& options = {}) {
    cache_->GetOrLoadAsync(key, Keep(), RunInline, Into(result), options);
  }
  std::function<void(const std::string&, Done)> Keep() {
    return [this](const std::string&, Done done) { done_.push_back(std::move(done)); };
  }

  std::optional<Cache> cache_;
  testing::TaskQueue queue_;
  std::vector<Done> done_;
};

TEST_F(CompletionTest, TheCompletingThreadRunsTheContinuations) {
  std::optional<Result> first;
  std::thread::id where;
  Ask("a", first);
  cache_->GetOrLoadAsync("a", NotCalled, queue_.executor(),
                         [&](const Result&) { where = std::this_thread::get_id(); });
  auto future = cache_->GetOrLoadAsync("a", NotCalled, queue_.executor());
  EXPECT_EQ(queue_.posted, 0);
  ASSERT_EQ(done_.size(), 1u);
  EXPECT_FALSE(first.has_value());
  EXPECT_EQ(cache_->Stats().loads_in_flight, 1u);
  std::thread completes([&] {
    done_[0](Page(1));
    EXPECT_EQ(where, std::this_thread::get_id());
  });
  EXPECT_EQ((*future.get())->number, 1);
  completes.join();
  EXPECT_EQ(NumberOf(first), 1);
  EXPECT_EQ(cache_->Get("a"), **first);
  const CacheStats stats = cache_->Stats();
  EXPECT_EQ(stats.loads, 1u);
  EXPECT_EQ(stats.load_failures, 0u);
  EXPECT_EQ(stats.loads_in_flight, 0u);
}

TEST_F(CompletionTest, GivesWhateverALoaderMayReturn) {
  const Ref<Page> shared = MakeRef<Page>(4);
  const std::vector<std::function<void(Done&)>> gives = {
      [](Done& done) { done(Page(4)); },
      [](Done& done) { done(std::make_unique<Page>(4)); },
      [&](Done& done) { done(shared); },
      [](Done& done) { done(Loaded<Page>{.object = Page(4), .weight = 9}); },
      [](Done& done) { done(absl::StatusOr<Page>(Page(4))); },
      [](Done& done) { done(absl::StatusOr<std::unique_ptr<Page>>(std::make_unique<Page>(4))); },
      [&](Done& done) {
        done(absl::StatusOr<Loaded<Ref<Page>>>(Loaded<Ref<Page>>{.object = shared}));
      },
  };
  for (size_t i = 0; i < gives.size(); ++i) {
    const std::string key = std::to_string(i);
    std::optional<Result> result;
    Ask(key, result);
    gives[i](done_.back());
    EXPECT_EQ(NumberOf(result), 4) << i;
    EXPECT_EQ(cache_->Get(key), **result) << i;
  }
  const std::vector<std::function<void(Done&)>> fails = {
      [](Done& done) { done(absl::NotFoundError("none")); },
      [](Done& done) { done(absl::StatusOr<Page>(absl::NotFoundError("none"))); },
      [](Done& done) { done(absl::OkStatus()); },
      [](Done& done) { done(std::unique_ptr<Page>()); },
  };
  for (size_t i = 0; i < fails.size(); ++i) {
    std::optional<Result> result;
    Ask("none", result);
    fails[i](done_.back());
    EXPECT_EQ(CodeOf(result), i < 2 ? absl::StatusCode::kNotFound : absl::StatusCode::kInternal);
  }
  EXPECT_EQ(cache_->Get("none"), nullptr);
}

TEST_F(CompletionTest, LoadersTakeAKeyAndATokenOrNeither) {
  std::optional<Result> results[3];
  cache_->GetOrLoadAsync(
      "a", [](Done done) { done(Page(1)); }, RunInline, Into(results[0]));
  cache_->GetOrLoadAsync(
      "b",
      [](const std::string& key, std::stop_token token, Done done) {
        EXPECT_TRUE(token.stop_possible());
        done(Page(static_cast<int>(key.size())));
      },
      RunInline, Into(results[1]));
  // A completion fits where a move-only callback is expected.
  using Callback = absl::AnyInvocable<void(absl::StatusOr<Page>)>;
  cache_->GetOrLoadAsync(
      "c", [](std::stop_token, Callback done) { done(Page(1)); }, RunInline, Into(results[2]));
  for (const auto& result : results) EXPECT_EQ(NumberOf(result), 1);
}

// Nothing of the task's is under way any more when the results come, wherever the completion is
// called.
TEST_F(CompletionTest, ACompletionInTheLoaderTakesEffectWhenThatReturns) {
  bool returned = false;
  std::optional<Result> result;
  cache_->GetOrLoadAsync(
      "a",
      [&](Done done) {
        std::thread([&] { done(Page(1)); }).join();
        EXPECT_FALSE(result.has_value());
        returned = true;
      },
      RunInline,
      [&, here = std::this_thread::get_id()](Result got) {
        EXPECT_TRUE(returned);
        EXPECT_EQ(here, std::this_thread::get_id());
        result = std::move(got);
        cache_.reset();
      });
  EXPECT_EQ(NumberOf(result), 1);
}

TEST_F(CompletionTest, ADroppedCompletionFailsAllThatWait) {
  const absl::Status dropped =
      absl::AbortedError("the loader's completion was dropped without a call");
  std::optional<Result> results[4];
  Ask("a", results[0]);
  Ask("a", results[1]);
  done_.clear();
  EXPECT_EQ(results[0]->status(), dropped);
  EXPECT_EQ(results[1]->status(), dropped);
  cache_->GetOrLoadAsync(
      "a", [](const Done&) {}, RunInline, Into(results[2]));
  EXPECT_EQ(results[2]->status(), dropped);
  Ask("a", results[3]);
  std::optional<Result> other;
  Ask("b", other);
  done_[0] = std::move(done_[1]);
  EXPECT_EQ(results[3]->status(), dropped);
  EXPECT_FALSE(other.has_value());
  done_[0](Page(2));
  EXPECT_EQ(NumberOf(other), 2);
  EXPECT_EQ(cache_->Stats().load_failures, 3u);
}

TEST_F(CompletionTest, ALoaderThatThrowsFailsTheLoad) {
  std::optional<Result> results[3];
  cache_->GetOrLoadAsync(
      "a", [](const Done&) { throw std::runtime_error("no route"); }, RunInline, Into(results[0]));
  cache_->GetOrLoadAsync(
      "a",
      [&](Done done) {
        done_.push_back(std::move(done));
        throw std::runtime_error("no route");
      },
      RunInline, Into(results[1]));
  cache_->GetOrLoadAsync(
      "a",
      [&](Done done) {
        done(Page(1));
        throw std::runtime_error("no route");
      },
      RunInline, Into(results[2]));
  done_[0](Page(1));  // nobody wants it
  for (const auto& result : results) {
    EXPECT_EQ(result->status(), absl::UnknownError("the load threw: no route"));
  }
  EXPECT_EQ(cache_->Get("a"), nullptr);
  EXPECT_EQ(Page::live, 0);
}

TEST_F(CompletionTest, AWeigherThatThrowsFailsTheLoad) {
  std::optional<Result> result;
  Ask("a", result);
  done_[0](Page(1, UINT64_MAX));
  EXPECT_EQ(result->status(), absl::UnknownError("the load threw: no scales"));
}

using CompletionDeathTest = CompletionTest;
TEST_F(CompletionDeathTest, IsCalledOnce) {
  std::optional<Result> result;
  Ask("a", result);
  done_[0](Page(1));
  EXPECT_DEATH(done_[0](Page(1)), "LoadCompletion: it has been called, or moved from");
}

TEST_F(CompletionTest, MayOutliveTheCache) {
  std::optional<Result> results[2];
  std::optional<Result> again;
  Ask("a", results[0]);
  cache_->GetOrLoadAsync("b", Keep(), RunInline, [&](Result got) {
    results[1] = std::move(got);
    Ask("c", again);  // a destructor may do this, too
  });
  cache_.reset();
  for (const auto& result : results) {
    EXPECT_EQ(result->status(),
              absl::AbortedError("the cache has ended before the loader's completion was called"));
  }
  EXPECT_EQ(CodeOf(again), absl::StatusCode::kAborted);
  done_[0](Page(1));
  done_.clear();
  EXPECT_EQ(Page::live, 0);
}

TEST_F(CompletionTest, ThreadsWaitForTheLoad) {
  std::optional<Result> result;
  Ask("a", result);
  const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
  EXPECT_EQ(cache_->GetOrLoad("a", NotCalled, {.deadline = soon}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  std::atomic<bool> asks{false};
  std::thread waits([&] {
    asks = true;
    EXPECT_EQ(cache_->GetOrLoad("a", NotCalled).value()->number, 1);
  });
  std::thread waits_for_all([&] {
    const auto all = cache_->GetAll(std::vector<std::string>{"a"}, [](const auto&) {
      ADD_FAILURE();
      return std::vector<Page>();
    });
    EXPECT_EQ((*all[0])->number, 1);
  });
  while (!asks) std::this_thread::yield();
  done_[0](Page(1));
  waits.join();
  waits_for_all.join();
  EXPECT_EQ(NumberOf(result), 1);
}

// While the loader runs its thread counts as that of the load, for threads that wait; and not any
// more afterwards, also for threads that have begun to wait before.
TEST_F(CompletionTest, WhatIsPendingClosesNoCircle) {
  std::optional<Result> result;
  const auto code_of_b = [&] {
    const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
    return cache_->GetOrLoad("b", NotCalled, {.deadline = soon}).status().code();
  };
  std::thread other;
  cache_->GetOrLoadAsync(
      "a",
      [&](Done done) {
        done_.push_back(std::move(done));
        std::atomic<bool> loads{false};
        other = std::thread([&] {
          const auto needs_a = [&]() -> absl::StatusOr<Page> {
            loads = true;
            Result a = absl::FailedPreconditionError("");
            // It closes the circle if it comes while the other thread looks for b.
            while (absl::IsFailedPrecondition(a.status())) a = cache_->GetOrLoad("a", NotCalled);
            return Page((*a)->number + 1);
          };
          EXPECT_TRUE(cache_->GetOrLoad("b", needs_a).ok());
        });
        while (!loads) std::this_thread::yield();
        // Until the other one waits for this thread.
        while (code_of_b() != absl::StatusCode::kFailedPrecondition) std::this_thread::yield();
      },
      RunInline, Into(result));
  EXPECT_EQ(code_of_b(), absl::StatusCode::kDeadlineExceeded);
  done_[0](Page(1));
  other.join();
  EXPECT_EQ(cache_->Get("b")->number, 2);
}

TEST_F(CompletionTest, ALoaderThatWaitsForItsOwnKeyIsRefused) {
  std::optional<Result> result;
  cache_->GetOrLoadAsync(
      "a",
      [&](Done done) {
        const Result own = cache_->GetOrLoad("a", NotCalled);
        EXPECT_EQ(own.status().code(), absl::StatusCode::kFailedPrecondition);
        done(own.status());
      },
      RunInline, Into(result));
  EXPECT_EQ(CodeOf(result), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CompletionTest, TheLastToLeaveStopsTheLoad) {
  std::stop_source stops[2];
  std::optional<Result> results[2];
  std::optional<Result> late;
  std::stop_token token;
  for (int i = 0; i < 2; ++i) {
    cache_->GetOrLoadAsync("a",
                           [&](std::stop_token of_load, Done done) {
                             token = std::move(of_load);
                             done_.push_back(std::move(done));
                           },
                           RunInline, Into(results[i]), {.stop_token = stops[i].get_token()});
  }
  stops[0].request_stop();
  EXPECT_EQ(CodeOf(results[0]), absl::StatusCode::kCancelled);
  EXPECT_FALSE(token.stop_requested());
  stops[1].request_stop();
  EXPECT_TRUE(token.stop_requested());
  // Who asks now is not failed by others' leaving.
  cache_->GetOrLoadAsync(
      "a", [] { return Page(7); }, RunInline, Into(late));
  EXPECT_FALSE(late.has_value());
  done_[0](absl::CancelledError("stopped"));
  EXPECT_EQ(NumberOf(late), 7);
}

TEST_F(CompletionTest, WhatComesMeanwhile) {
  std::optional<Result> results[3];
  Ask("invalidated", results[0]);
  cache_->Invalidate("invalidated");
  Ask("put", results[1]);
  cache_->Put("put", Page(9));
  done_[0](Page(1));
  done_[1](Page(1));
  Ask("cleared", results[2]);
  cache_->Clear();
  done_[2](std::make_unique<Page>(1));
  EXPECT_EQ(NumberOf(results[0]), 1);
  EXPECT_EQ(NumberOf(results[1]), 9);
  EXPECT_EQ(NumberOf(results[2]), 1);
  for (const char* key : {"invalidated", "put", "cleared"}) EXPECT_EQ(cache_->Get(key), nullptr);
}

TEST_F(CompletionTest, HoldsItsPermitWithoutAThread) {
  Make({.loads = 1});
  std::optional<Result> results[3];
  for (int i = 0; i < 3; ++i) {
    cache_->GetOrLoadAsync(std::to_string(i), Keep(), queue_.executor(), Into(results[i]));
  }
  queue_.RunAll();
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(done_.size(), i + 1);  // the others are put off
    EXPECT_TRUE(queue_.tasks.empty());
    if (i == 1) {
      done_[i] = std::move(done_[0]);  // drops it, which returns the permit just as well
    } else {
      done_[i](Page(static_cast<int>(i)));
    }
    queue_.RunAll();
  }
  EXPECT_EQ(NumberOf(results[0]), 0);
  EXPECT_EQ(CodeOf(results[1]), absl::StatusCode::kAborted);
  EXPECT_EQ(NumberOf(results[2]), 2);
  // A thread waits for the permit, too.
  std::optional<Result> last;
  Ask("last", last);
  std::thread waits([&] { EXPECT_TRUE(cache_->GetOrLoad("x", [] { return Page(1); }).ok()); });
  std::thread completes([&] { done_.back()(Page(1)); });
  waits.join();
  completes.join();
}

// What a load needs for its own object needs no permit of its own: whether its loader asks, or a
// continuation, or one of that one's, and although the load's thread has long gone.
TEST_F(CompletionTest, ALoadMadeOfOthersExceedsTheLimit) {
  Make({.loads = 1});
  std::optional<Result> result;
  const auto one = [](Done done) { done(Page(1)); };
  cache_->GetOrLoadAsync(
      "whole",
      [&](Done whole) {
        EXPECT_TRUE(cache_->GetOrLoad("head", [] { return Page(1); }).ok());
        auto done = std::make_shared<Done>(std::move(whole));
        cache_->GetOrLoadAsync("part 1", one, queue_.executor(), [&, done](const Result&) {
          cache_->GetOrLoadAsync("part 2", one, queue_.executor(), [&, done](const Result&) {
            cache_->GetOrLoadAsync("part 3", one, queue_.executor(),
                                   [done](const Result&) { (*done)(Page(3)); });
          });
        });
      },
      queue_.executor(), Into(result));
  // Asked for before, by somebody else, and put off.
  std::optional<Result> before;
  cache_->GetOrLoadAsync("part 3", one, queue_.executor(), Into(before));
  queue_.RunAll();
  EXPECT_EQ(NumberOf(result), 3);
  EXPECT_EQ(NumberOf(before), 1);
}

// One that begins inside another load takes a permit of its own, for it lasts longer.
TEST_F(CompletionTest, InsideAnotherLoadItHasItsOwnPermit) {
  Make({.loads = 1});
  std::optional<Result> inner;
  std::optional<Result> next;
  cache_
      ->GetOrLoad("outer",
                  [&] {
                    Ask("inner", inner);
                    return Page(1);
                  })
      .value();
  ASSERT_EQ(done_.size(), 1u);
  cache_->GetOrLoadAsync("next", Keep(), queue_.executor(), Into(next));
  queue_.RunAll();
  EXPECT_EQ(done_.size(), 1u);
  done_[0](Page(1));
  queue_.RunAll();
  ASSERT_EQ(done_.size(), 2u);
  done_[1](Page(2));
  EXPECT_EQ(NumberOf(next), 2);
}

TEST_F(CompletionTest, AnEstimateIsReservedAllTheTime) {
  cache_->Put("old", Page(0, 60));
  std::optional<Result> results[2];
  Ask("a", results[0], {.weight_estimate = 50});
  EXPECT_EQ(cache_->Peek("old"), nullptr);
  EXPECT_EQ(cache_->Stats().bytes_reserved, 50u);
  Ask("b", results[1], {.weight_estimate = 40});
  EXPECT_EQ(cache_->Stats().bytes_reserved, 90u);
  done_[0](Page(1, 55));
  EXPECT_EQ(cache_->Stats().bytes_reserved, 40u);
  EXPECT_NE(cache_->Peek("a"), nullptr);
  done_.clear();
  EXPECT_EQ(cache_->Stats().bytes_reserved, 0u);
}

TEST_F(CompletionTest, TheHardLimitHolds) {
  for (const AtHardLimit at_limit : {AtHardLimit::kFail, AtHardLimit::kServeUncached}) {
    Make({.hard_bytes = 100, .at_hard_limit = at_limit});
    done_.clear();
    std::optional<Result> results[4];
    Ask("a", results[0], {.weight_estimate = 60});
    EXPECT_EQ(cache_->charged_bytes(), 60u);
    Ask("estimated too high", results[1], {.weight_estimate = 50});
    if (at_limit == AtHardLimit::kFail) {
      EXPECT_EQ(CodeOf(results[1]), absl::StatusCode::kResourceExhausted);
      ASSERT_EQ(done_.size(), 1u);
    } else {
      done_[1](Page(2, 50));
      EXPECT_EQ(NumberOf(results[1]), 2);
      EXPECT_EQ(cache_->Get("estimated too high"), nullptr);
      done_.pop_back();
    }
    Ask("b", results[2], {.weight_estimate = 10});
    done_[1](Page(2, 45));  // more than there is room for, beside the other's reservation
    if (at_limit == AtHardLimit::kFail) {
      EXPECT_EQ(CodeOf(results[2]), absl::StatusCode::kResourceExhausted);
    } else {
      EXPECT_EQ(NumberOf(results[2]), 2);
      EXPECT_EQ(cache_->Get("b"), nullptr);
    }
    done_[0](std::make_unique<Page>(1, 70));
    EXPECT_EQ(NumberOf(results[0]), 1);
    EXPECT_EQ(cache_->charged_bytes(), 70u);
    for (auto& result : results) result.reset();
    cache_->CheckInvariantsForTesting();
  }
}

// Whatever a call of the completion runs may use the cache, and end it.
TEST_F(CompletionTest, ContinuationsAskAgainAndEndTheCache) {
  std::optional<Result> again;
  cache_->GetOrLoadAsync("a", Keep(), RunInline, [&](const Result&) {
    cache_->Invalidate("a");
    Ask("a", again);
  });
  done_[0](Page(1));
  ASSERT_EQ(done_.size(), 2u);
  cache_->GetOrLoadAsync("a", NotCalled, RunInline, [&](const Result&) { cache_.reset(); });
  std::optional<Result> pending;
  Ask("b", pending);
  done_[1](Page(2));
  EXPECT_EQ(NumberOf(again), 2);
  EXPECT_EQ(CodeOf(pending), absl::StatusCode::kAborted);
}

TEST_F(CompletionTest, AListenerEndsTheCache) {
  Make({.listener = [&](const std::string&, RemovalCause, uint64_t) {
    if (done_.size() == 1) cache_.reset();
  }});
  cache_->Put("old", Page(0, 60));
  std::optional<Result> result;
  Ask("new", result);
  done_[0](Page(1, 60));
  EXPECT_FALSE(cache_.has_value());
  EXPECT_EQ(NumberOf(result), 1);
}

TEST_F(CompletionTest, FailedAllocations) {
  std::optional<Result> result;
  const std::string key = "a key that is too long to be without an allocation";
  const auto failed = [&] { return result.has_value() && !result->ok(); };
  // Of the ask and of the task: then it throws, or the ask gets the exception.
  done_.reserve(1);
  const int failed_asks = testing::FailEachAllocation(
      [&] {
        Ask(key, result);
        if (failed()) throw std::bad_alloc();
      },
      [&] {
        EXPECT_TRUE(done_.empty());
        result.reset();
      });
  EXPECT_GT(failed_asks, 3);
  ASSERT_EQ(done_.size(), 1u);
  // Of the completion, which does not throw.
  int failures = 0;
  for (;; ++failures) {
    auto page = std::make_unique<Page>(5);
    testing::FailAllocation(failures + 1);
    if (failures % 2 == 0) {
      done_[0](std::move(page));
    } else {
      done_[0](Page(5));
    }
    testing::FailAllocation(0);
    if (NumberOf(result) == 5) break;
    ASSERT_TRUE(failed());
    result.reset();
    done_.clear();
    ASSERT_EQ(cache_->size(), 0u) << failures;
    Ask(key, result);
  }
  EXPECT_GT(failures, 0);
  result.reset();
  cache_.reset();
  EXPECT_EQ(Page::live, 0);
}

#ifdef __cpp_impl_coroutine
TEST_F(CompletionTest, ACoroutineAwaits) {
  std::stop_source stop;
  std::vector<std::string> seen;
  // Parameters, as a lambda's captures end before its coroutine.
  const auto ask = [](Cache& cache, std::function<void(const std::string&, Done)> keep,
                      std::stop_token token,
                      std::vector<std::string>& to) -> testing::DetachedCoroutine {
    const Result first = co_await cache.CoGetOrLoad("a", keep, RunInline);
    to.push_back(std::to_string((*first)->number));
    // Not a temporary of the co_await, which GCC 12 destroys twice if it is an aggregate.
    LoadOptions options;
    options.stop_token = std::move(token);
    const Result second = co_await cache.CoGetOrLoad("b", keep, RunInline, options);
    to.push_back(std::string(second.status().message()));
    const Result third = co_await cache.CoGetOrLoad(
        "c", [](const Done&) {}, RunInline);
    to.push_back(std::string(third.status().message()));
  };
  ask(*cache_, Keep(), stop.get_token(), seen);
  EXPECT_TRUE(seen.empty());
  done_[0](Page(1));
  EXPECT_EQ(seen, std::vector<std::string>{"1"});
  stop.request_stop();
  EXPECT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen.back(), "the loader's completion was dropped without a call");
}
#endif

// Each of several threads completes, drops, asks, leaves, or changes the cache.
TEST_F(CompletionTest, Races) {
  Make({.loads = 1});
  testing::SharedTaskQueue tasks;
  std::atomic<int> answers{0};
  std::optional<std::stop_source> stop;
  std::optional<Done> done;
  const auto ask = [&](bool stoppable) {
    LoadOptions options;
    if (stoppable) options.stop_token = stop->get_token();
    cache_->GetOrLoadAsync(
        "a", [](Done own) { own(Page(2)); }, tasks.executor(),
        [&, stoppable](const Result& got) {
          ++answers;
          EXPECT_TRUE(got.ok() || absl::IsAborted(got.status()) ||
                      (stoppable && absl::IsCancelled(got.status())));
        },
        options);
  };
  const std::vector<std::function<void()>> others = {
      [&] { cache_->Invalidate("a"); },
      [&] { cache_->Clear(); },
      [&] { cache_->Put("a", Page(3)); },
      [&] { cache_->GetOrLoad("a", [] { return Page(2); }).IgnoreError(); },
      [&] { cache_->GetOrLoad("b", [] { return Page(2); }).value(); },
      [&] { tasks.RunOne(); },
  };
  int round_of = 0;
  for (const auto& other : others) {
    Race(
        RaceRounds(10'000),
        [&](int round) {
          round_of = round;
          stop.emplace();
          answers = 0;
          cache_->Clear();
          cache_->GetOrLoadAsync(
              "a", [&](std::stop_token, Done own) { done.emplace(std::move(own)); }, RunInline,
              [&](const Result&) { ++answers; }, {.stop_token = stop->get_token()});
        },
        {[&] {
           if (round_of % 2 == 0) (*done)(Page(1));
           done.reset();
         },
         [&] { ask(false); }, [&] { ask(true); }, [&] { stop->request_stop(); }, other},
        [&](int) {
          tasks.RunAll();
          EXPECT_EQ(answers, 3);
        });
  }
}

TEST_F(CompletionTest, RacesWithTheReturnOfTheLoaderAndTheEndOfTheCache) {
  std::optional<Done> done;
  std::atomic<bool> handed_over{false};
  std::atomic<int> answers{0};
  Race(
      RaceRounds(10'000),
      [&](int) {
        Make({});
        handed_over = false;
        answers = 0;
      },
      {[&] {
         cache_->GetOrLoadAsync(
             "a",
             [&](Done own) {
               done.emplace(std::move(own));
               handed_over = true;
             },
             RunInline, [&](const Result&) { ++answers; });
         cache_.reset();
       },
       [&] {
         while (!handed_over) std::this_thread::yield();
         std::optional<Done> own = std::move(done);
         if (Page::live % 2 == 0) (*own)(Page(1));
       }},
      [&](int) {
        EXPECT_EQ(answers, 1);
        done.reset();
      });
  EXPECT_EQ(Page::live, 0);
}

}  // namespace
}  // namespace weakcache
