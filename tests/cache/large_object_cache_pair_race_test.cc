// SPDX-License-Identifier: Apache-2.0
// Races each two of the things that may happen to one key: to ask in each way, to leave, to land,
// to cancel, and to remove or replace the object. For ThreadSanitizer, and for what has to hold
// whoever comes first: each asynchronous caller gets one result, and the cache is consistent.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;

struct Page {
  int version = 0;
};
using Cache = LargeObjectCache<int, Page>;
using Result = absl::StatusOr<Ref<Page>>;

// A round begins with an expired object that is kept for loads that fail, and with a load that is
// queued: for an asynchronous caller, and for one that has left at its soft timeout.
class PairRaceTest : public ::testing::Test {
 protected:
  struct Operation {
    const char* name;
    std::function<void()> run;
  };

  Cache Make() {
    Cache::Options options = testing::WithBudget<Cache>(1000);
    options.stale_if_error = absl::Hours(1);
    options.refresh_executor = tasks_.executor();
    options.shards = 1;
    return std::move(Cache::Create(options)).value();
  }
  void Begin() {
    cache_.Put(1, Loaded<Page>{.object = Page{1}, .expires_after = absl::ZeroDuration()});
    stop_ = std::stop_source();
    asked_ = 0;
    results_ = 0;
    AskAsync({.stop_token = stop_.get_token()});
    AskSoftly();
  }
  // Ends what is left. Every caller has one result by then.
  void End() {
    tasks_.RunAll();
    EXPECT_EQ(results_, asked_);
    const Ref<Page> present = cache_.Get(1);
    EXPECT_TRUE(present.get() == nullptr || present->version >= 2);
    cache_.CheckInvariantsForTesting();
  }
  static Page Load() { return Page{2}; }
  void AskAsync(const LoadOptions& options) {
    ++asked_;
    cache_.GetOrLoadAsync(
        1, Load, tasks_.executor(), [this](const Result&) { ++results_; }, options);
  }
  void AskSoftly() {
    EXPECT_TRUE(cache_.GetOrLoad(1, Load, {.soft_timeout = absl::ZeroDuration()}).ok());
  }
  std::vector<Operation> Operations() {
    return {{"ask", [this] { EXPECT_TRUE(cache_.GetOrLoad(1, Load).ok()); }},
            {"ask softly", [this] { AskSoftly(); }},
            {"ask asynchronously", [this] { AskAsync({}); }},
            {"land", [this] { static_cast<void>(tasks_.RunOne()); }},
            {"cancel", [this] { stop_.request_stop(); }},
            {"invalidate", [this] { cache_.Invalidate(1); }},
            {"put", [this] { cache_.Put(1, Page{3}); }},
            {"clear", [this] { cache_.Clear(); }}};
  }

  testing::SharedTaskQueue tasks_;
  std::stop_source stop_;
  std::atomic<int> asked_{0};
  std::atomic<int> results_{0};
  Cache cache_ = Make();
};

TEST_F(PairRaceTest, EachTwo) {
  const std::vector<Operation> operations = Operations();
  for (size_t i = 0; i < operations.size(); ++i) {
    for (size_t j = i; j < operations.size(); ++j) {
      SCOPED_TRACE(std::string(operations[i].name) + " and " + operations[j].name);
      const auto begin = [this](int) { Begin(); };
      const auto end = [this](int) { End(); };
      Race(RaceRounds(2000), begin, {operations[i].run, operations[j].run}, end);
    }
  }
}

}  // namespace
}  // namespace weakcache
