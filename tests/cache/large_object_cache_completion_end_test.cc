// SPDX-License-Identifier: Apache-2.0
// Loads that end by a LoadCompletion, at the end of the cache, and by completions that fail.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
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
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;
using testing::RunInline;

// Weighs what it says.
struct Page {
  explicit Page(uint64_t of_weight) : weight(of_weight) { ++live; }
  Page(Page&& other) noexcept : weight(other.weight) { ++live; }
  Page& operator=(Page&&) = delete;
  ~Page() { --live; }

  uint64_t weight;
  inline static std::atomic<int> live{0};
};
using Cache = LargeObjectCache<std::string, Page>;
using Result = absl::StatusOr<Ref<Page>>;
using Done = LoadCompletion<Page>;

absl::StatusCode CodeOf(const std::optional<Result>& result) {
  return result.has_value() ? result->status().code() : absl::StatusCode::kUnknown;
}

class CompletionEndTest : public ::testing::Test {
 protected:
  CompletionEndTest() { Make(NewOptions()); }
  ~CompletionEndTest() override {
    done_.clear();
    cache_.reset();
    EXPECT_EQ(Page::live, 0);
  }
  static Cache::Options NewOptions(size_t max_loads = 0) {
    Cache::Options options = testing::WithBudget<Cache>(100);
    options.shards = 1;
    options.max_concurrent_loads = max_loads;
    options.weigher = [](const Page& page) { return page.weight; };
    return options;
  }
  void Make(Cache::Options options) {
    cache_.emplace(std::move(Cache::Create(std::move(options))).value());
  }
  static auto Into(std::optional<Result>& result) {
    return [&](Result got) {
      EXPECT_FALSE(result.has_value());
      result = std::move(got);
    };
  }
  // A loader that leaves its completion in `done_`.
  std::function<void(const std::string&, std::stop_token, Done)> Keep() {
    return [this](const std::string&, const std::stop_token&, Done done) {
      done_.push_back(std::move(done));
    };
  }
  // Begins a load that only the end of the cache ends, and that says so.
  void BeginEndless(std::atomic<bool>& cache_ends) {
    cache_->GetOrLoadAsync("endless", Keep(), RunInline, [&](const Result& got) {
      EXPECT_TRUE(absl::IsAborted(got.status()));
      cache_ends = true;
    });
  }
  // Waits until the cache's end has begun, and then gives it a moment to go on. Returns whether it
  // has waited for this thread instead. Preconditions: BeginEndless; nobody but the cache has
  // pages.
  static bool EndWaits(const std::atomic<bool>& cache_ends) {
    while (!cache_ends) std::this_thread::yield();
    const auto latest = std::chrono::steady_clock::now() + std::chrono::milliseconds(10);
    while (Page::live > 0 && std::chrono::steady_clock::now() < latest) std::this_thread::yield();
    return Page::live > 0;
  }
  void Ask(const std::string& key, std::optional<Result>& result, const LoadOptions& options = {}) {
    cache_->GetOrLoadAsync(key, Keep(), RunInline, Into(result), options);
  }

  std::optional<Cache> cache_;
  testing::TaskQueue queue_;
  std::vector<Done> done_;
};

// The caller of the load has left; but at the end of the cache the others must not ask anew.
TEST_F(CompletionEndTest, NobodyAsksAnew) {
  std::stop_source stop;
  std::optional<Result> results[2];
  Ask("a", results[0], {.stop_token = stop.get_token()});
  Ask("a", results[1]);
  stop.request_stop();
  EXPECT_EQ(CodeOf(results[0]), absl::StatusCode::kCancelled);
  cache_.reset();
  EXPECT_EQ(results[1]->status(),
            absl::AbortedError("the cache has ended before the loader's completion was called"));
  EXPECT_EQ(done_.size(), 1u);
}

TEST_F(CompletionEndTest, DeferredAsksEndToo) {
  Make(NewOptions(/*max_loads=*/1));
  std::stop_source stop;
  std::optional<Result> results[4];
  Ask("a", results[0]);
  for (size_t i = 1; i < 4; ++i) {
    LoadOptions options;
    options.stop_token = stop.get_token();
    cache_->GetOrLoadAsync("put off " + std::to_string(i), Keep(), queue_.executor(),
                           Into(results[i]), options);
  }
  queue_.RunAll();
  EXPECT_EQ(queue_.posted, 3);
  cache_.reset();
  EXPECT_EQ(queue_.posted, 3);
  EXPECT_EQ(done_.size(), 1u);
  EXPECT_EQ(CodeOf(results[0]), absl::StatusCode::kAborted);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(results[i]->status(),
              absl::AbortedError("the cache has ended before the load could begin"));
  }
  stop.request_stop();  // finds nothing
}

// A continuation of the end may put off more; and a put-off ask's continuation may ask again.
TEST_F(CompletionEndTest, AsksDuringTheEnd) {
  Make(NewOptions(/*max_loads=*/1));
  std::optional<Result> results[4];
  cache_->GetOrLoadAsync("a", Keep(), RunInline, [&](Result got) {
    results[0] = std::move(got);
    Ask("c", results[2]);
  });
  cache_->GetOrLoadAsync("b", Keep(), RunInline, [&](Result got) {
    results[1] = std::move(got);
    Ask("d", results[3]);  // is put off, and again ended
  });
  cache_.reset();
  for (const auto& result : results) EXPECT_EQ(CodeOf(result), absl::StatusCode::kAborted);
}

TEST_F(CompletionEndTest, ADeferredTaskIsPostedBeforeTheListenerRuns) {
  Cache::Options options = NewOptions(/*max_loads=*/1);
  int posted = 0;
  options.removal_listener = [&](const std::string&, RemovalCause, uint64_t) {
    posted = queue_.posted;
  };
  Make(std::move(options));
  cache_->Put("old", Page(60));
  std::optional<Result> results[2];
  Ask("a", results[0]);
  cache_->GetOrLoadAsync("b", Keep(), queue_.executor(), Into(results[1]));
  queue_.RunAll();
  EXPECT_EQ(queue_.posted, 1);
  done_[0](Page(60));
  EXPECT_EQ(posted, 2);
  queue_.RunAll();
  done_[1](Page(1));
  EXPECT_TRUE(results[1]->ok());
}

TEST_F(CompletionEndTest, TheFiguresHaveTheBytes) {
  std::optional<Result> results[2];
  Ask("a", results[0]);
  Ask("b", results[1]);
  done_[0](Page(7));
  done_[1](std::make_unique<Page>(20));
  EXPECT_EQ(cache_->Stats().bytes_loaded, 27u);
}

// What a thread does for a load of a cache that has ended is for no load of another cache, which
// may lie where that one was.
TEST_F(CompletionEndTest, LoadsOfTwoCachesAreTwo) {
  Make(NewOptions(/*max_loads=*/1));
  std::optional<Result> whole;
  std::optional<Result> others[2];
  cache_->GetOrLoadAsync(
      "whole",
      [&](Done done) {
        done_.push_back(std::move(done));
        cache_->GetOrLoadAsync("part", Keep(), RunInline, [&](const Result&) {
          cache_.reset();
          Make(NewOptions(/*max_loads=*/1));
          Ask("x", others[0]);
          cache_->GetOrLoadAsync("y", Keep(), queue_.executor(), Into(others[1]));
          queue_.RunAll();
        });
      },
      RunInline, Into(whole));
  ASSERT_EQ(done_.size(), 2u);
  Done part = std::move(done_[1]);
  done_.pop_back();
  part(Page(1));
  EXPECT_EQ(CodeOf(whole), absl::StatusCode::kAborted);
  EXPECT_EQ(done_.size(), 2u);  // not y's, which is put off
  done_[1](Page(1));
  EXPECT_TRUE(others[0]->ok());
  queue_.RunAll();
  ASSERT_EQ(done_.size(), 3u);
  done_[2](Page(1));
  EXPECT_TRUE(others[1]->ok());
}

// The refresh waits for a pending load, and the end of the cache for the refresh.
TEST_F(CompletionEndTest, ARefreshWaitsForAPendingLoad) {
  testing::SharedTaskQueue refreshes;
  Cache::Options options = NewOptions();
  options.refresh_executor = refreshes.executor();
  Make(std::move(options));
  Cache& cache = *cache_;
  cache.Put("refreshed", Page(1));
  std::atomic<bool> loads_b{false};
  const auto refresh = [&](const std::string&) {
    const auto needs_pending = [&]() -> absl::StatusOr<Page> {
      loads_b = true;
      absl::Status status = absl::FailedPreconditionError("");
      // It closes the circle if it comes while the other thread looks for b.
      while (absl::IsFailedPrecondition(status)) {
        status = cache.GetOrLoad("pending", [] { return Page(1); }).status();
      }
      return status;
    };
    return absl::StatusOr<Page>(cache.GetOrLoad("b", needs_pending).status());
  };
  ASSERT_TRUE(cache.Refresh("refreshed", refresh).ok());
  std::thread runs;
  std::optional<Result> result;
  cache.GetOrLoadAsync(
      "pending",
      [&](Done done) {
        done_.push_back(std::move(done));
        runs = std::thread([&] { EXPECT_TRUE(refreshes.RunOne()); });
        while (!loads_b) std::this_thread::yield();
        // Until the refresh waits for this thread.
        absl::Status status;
        while (!absl::IsFailedPrecondition(status)) {
          const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
          const auto not_found = [] { return absl::NotFoundError(""); };
          status = cache.GetOrLoad("b", not_found, {.deadline = soon}).status();
        }
      },
      RunInline, Into(result));
  cache_.reset();
  runs.join();
  EXPECT_EQ(CodeOf(result), absl::StatusCode::kAborted);
}

// The ask of the task has been cancelled, so its result is there; but its loader still runs.
TEST_F(CompletionEndTest, WaitsForATaskThatHasNoAsk) {
  testing::SharedTaskQueue tasks;
  std::atomic<bool> loading{false};
  std::atomic<bool> cache_ends{false};
  std::stop_source stop;
  std::optional<Result> result;
  cache_->Put("kept", Page(1));
  BeginEndless(cache_ends);
  cache_->GetOrLoadAsync("a",
                         [&] {
                           loading = true;
                           EXPECT_TRUE(EndWaits(cache_ends));
                           return Page(1);
                         },
                         tasks.executor(), Into(result), {.stop_token = stop.get_token()});
  std::thread runs([&] { tasks.RunOne(); });
  while (!loading) std::this_thread::yield();
  stop.request_stop();
  EXPECT_EQ(CodeOf(result), absl::StatusCode::kCancelled);
  cache_.reset();
  runs.join();
}

// An ask that is cancelled passes its turn on, to another one's executor, while the cache ends.
TEST_F(CompletionEndTest, WaitsForAnAskThatLeaves) {
  Make(NewOptions(/*max_loads=*/2));
  std::atomic<bool> leaving{false};
  std::atomic<bool> cache_ends{false};
  std::stop_source stop;
  std::optional<Result> first;
  std::optional<Result> leaves;
  absl::Status next;
  int posted = 0;
  cache_->Put("kept", Page(1));
  BeginEndless(cache_ends);
  Ask("first", first);
  cache_->GetOrLoadAsync("leaves", Keep(), queue_.executor(), Into(leaves),
                         {.stop_token = stop.get_token()});
  queue_.RunAll();
  cache_->GetOrLoadAsync(
      "next", [] { return Page(1); },
      [&](const std::function<void()>& task) {
        task();
        if (++posted == 1) return;  // there was no permit
        leaving = true;
        EXPECT_TRUE(EndWaits(cache_ends));
      },
      [&](const Result& got) { next = got.status(); });
  done_[1](absl::NotFoundError(""));
  EXPECT_EQ(queue_.posted, 2);  // it has the permit that was returned
  EXPECT_EQ(posted, 1);
  std::thread cancels([&] { stop.request_stop(); });
  while (!leaving) std::this_thread::yield();
  cache_.reset();
  cancels.join();
  EXPECT_EQ(posted, 2);
  EXPECT_TRUE(next.ok());
  EXPECT_EQ(CodeOf(leaves), absl::StatusCode::kCancelled);
}

struct Fragile {
  Fragile() = default;
  Fragile(const Fragile& other) : copies_left(other.copies_left) { Count(); }
  Fragile(Fragile&& other) : copies_left(other.copies_left) { Count(); }
  void Count() {
    if (copies_left-- == 0) throw std::runtime_error("broken");
  }
  uint64_t byte_size() const { return sizeof(*this); }
  int copies_left = 0;
};

TEST(CompletionFailureTest, AnObjectThatCannotBeMovedFailsTheLoad) {
  using Fragiles = LargeObjectCache<int, Fragile>;
  Fragiles::Options options;
  options.budget_bytes = 1 << 20;
  Fragiles cache = std::move(Fragiles::Create(options)).value();
  const absl::Status broken = absl::UnknownError("the load threw: broken");
  for (int copies = 0;; ++copies) {
    for (const bool is_lvalue : {false, true}) {
      std::optional<LoadCompletion<Fragile>> done;
      std::optional<absl::Status> status;
      cache.GetOrLoadAsync(
          2 * copies + is_lvalue, [&](LoadCompletion<Fragile> own) { done = std::move(own); },
          RunInline, [&](const absl::StatusOr<Ref<Fragile>>& got) { status = got.status(); });
      Fragile object;
      object.copies_left = copies;
      if (is_lvalue) {
        (*done)(object);
      } else {
        (*done)(std::move(object));
      }
      ASSERT_TRUE(status.has_value());
      if (!status->ok()) {
        EXPECT_EQ(*status, broken);
      }
      if (is_lvalue && status->ok()) {
        EXPECT_GE(copies, 1);
        return;
      }
    }
  }
}

TEST_F(CompletionEndTest, FailedAllocationsOfADropAndOfTheEnd) {
  for (int64_t countdown = 1; countdown < 6; ++countdown) {
    std::optional<Result> results[2];
    Ask("a", results[0]);
    testing::FailAllocation(countdown);
    done_.clear();
    testing::FailAllocation(0);
    EXPECT_EQ(CodeOf(results[0]), absl::StatusCode::kAborted);
    Ask("b", results[1]);
    testing::FailAllocation(countdown);
    cache_.reset();
    testing::FailAllocation(0);
    EXPECT_EQ(CodeOf(results[1]), absl::StatusCode::kAborted);
    done_.clear();
    Make(NewOptions());
  }
}

TEST_F(CompletionEndTest, FailedAllocationsOfALoaderThatThrows) {
  for (int64_t countdown = 1; countdown < 6; ++countdown) {
    std::optional<Result> result;
    cache_->GetOrLoadAsync(
        "a",
        [&](const Done&) {
          testing::FailAllocation(countdown);
          throw 1;
        },
        RunInline,
        [&](Result got) {
          testing::FailAllocation(0);
          result = std::move(got);
        });
    testing::FailAllocation(0);
    EXPECT_EQ(CodeOf(result), absl::StatusCode::kUnknown);
  }
}

// One thread runs the loader, one calls or drops the completion, and one ends the cache, once the
// loader has handed the completion over.
TEST_F(CompletionEndTest, RacesWithTheLoadersReturn) {
  testing::SharedTaskQueue tasks;
  std::optional<Done> done;
  std::atomic<bool> handed_over{false};
  std::atomic<int> answers{0};
  int round_of = 0;
  Race(
      RaceRounds(20'000),
      [&](int round) {
        round_of = round;
        Make(NewOptions(/*max_loads=*/round % 2 == 0 ? 1 : 0));
        handed_over = false;
        answers = 0;
        cache_->GetOrLoadAsync(
            "a",
            [&](Done own) {
              done.emplace(std::move(own));
              handed_over = true;
            },
            tasks.executor(),
            [&](const Result& got) {
              ++answers;
              EXPECT_TRUE(got.ok() || absl::IsAborted(got.status()));
            });
      },
      {[&] { tasks.RunOne(); },
       [&] {
         while (!handed_over) std::this_thread::yield();
         cache_.reset();
       },
       [&] {
         while (!handed_over) std::this_thread::yield();
         if (round_of % 3 == 0) (*done)(Page(1));
         if (round_of % 3 == 1) done.reset();
       }},
      [&](int) {
        EXPECT_EQ(answers, 1);
        done.reset();
        EXPECT_EQ(Page::live, 0);
      });
}

// Asks wait for a pending load and for a permit, while the load is completed, they are cancelled,
// and the cache ends.
TEST_F(CompletionEndTest, RacesWithTheEndOfTheCache) {
  std::optional<Done> done;
  std::atomic<int> answers{0};
  std::optional<std::stop_source> stops[2];
  int round_of = 0;
  const auto count = [&](const Result& got) {
    ++answers;
    EXPECT_TRUE(got.ok() || absl::IsAborted(got.status()) || absl::IsCancelled(got.status()));
  };
  const auto ask = [&](const char* key, int stop) {
    LoadOptions options;
    options.stop_token = stops[stop]->get_token();
    // The inner completion, if it is the first to load "a" anew, completes at once.
    cache_->GetOrLoadAsync(
        key, [](Done own) { own(Page(2)); }, RunInline, count, options);
  };
  Race(
      RaceRounds(20'000),
      [&](int round) {
        round_of = round;
        Make(NewOptions(/*max_loads=*/1));
        for (auto& stop : stops) stop.emplace();
        answers = 0;
        cache_->GetOrLoadAsync("a",
                               [&](std::stop_token, Done own) { done.emplace(std::move(own)); },
                               RunInline, count, {.stop_token = stops[0]->get_token()});
        ask("a", 1);
        ask("a", round % 2);
        ask("put off", 1);
        ask("put off too", 0);
      },
      {[&] { cache_.reset(); },
       [&] {
         if (round_of % 4 == 0) (*done)(Page(1));
         if (round_of % 4 == 1) (*done)(absl::CancelledError("stopped"));
         if (round_of % 4 == 2) done.reset();
       },
       [&] { stops[0]->request_stop(); },
       [&] {
         if (round_of % 3 != 0) stops[1]->request_stop();
       }},
      [&](int) {
        EXPECT_EQ(answers, 5);
        done.reset();
      });
}

}  // namespace
}  // namespace weakcache
