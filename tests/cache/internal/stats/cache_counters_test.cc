// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/stats/cache_counters.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "weakcache/cache/internal/stats/load_time.h"

namespace weakcache::internal {
namespace {

void CountLoad(CacheCounters& counters, absl::Duration time, bool ok) {
  counters.LoadBegan();
  counters.LoadEnded(absl::ToInt64Nanoseconds(time), ok);
}

CacheStats StatsOf(const CacheCounters& counters) {
  CacheStats stats;
  counters.AddTo(&stats);
  return stats;
}

// Runs `run(i)` on so many threads, all of which exist until the last has finished.
template <typename Run>
void OnThreads(int threads, Run&& run) {
  testing::SpinBarrier barrier(threads);
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      barrier.Wait();
      run(i);
      barrier.Wait();
    });
  }
  for (std::thread& thread : running) thread.join();
}

void CountOneOfEach(CacheCounters& counters) {
  counters.CountHit();
  counters.CountWeakHit();
  counters.CountMiss();
  counters.CountRemoval(RemovalCause::kBudget);
  counters.CountRemoval(RemovalCause::kExpired);
  counters.CountRemoval(RemovalCause::kReplaced);
  counters.CountRemoval(RemovalCause::kInvalidated);
  counters.CountRemoval(RemovalCause::kDied);
}

CacheStats OneOfEach(uint64_t times) {
  CacheStats stats;
  stats.hits = stats.weak_hits = stats.misses = times;
  stats.evictions_budget = stats.evictions_expired = times;
  stats.removals_replaced = stats.removals_invalidated = stats.removals_died = times;
  return stats;
}

TEST(CacheCountersTest, ALoadIsInTheBucketThatTheFiguresSay) {
  for (size_t bucket = 0; bucket < CacheStats::kLoadTimeBuckets - 1; ++bucket) {
    const absl::Duration limit = CacheStats::LoadTimeLimit(bucket);
    for (const absl::Duration time : {limit, limit + absl::Nanoseconds(1)}) {
      const auto counters = std::make_unique<CacheCounters>();
      CountLoad(*counters, time, /*ok=*/true);
      EXPECT_EQ(StatsOf(*counters).load_time_histogram[CacheStats::LoadTimeBucket(time)], 1u);
    }
  }
}

TEST(CacheCountersTest, CountsWhatItIsTold) {
  CacheCounters counters;
  EXPECT_EQ(StatsOf(counters), CacheStats());
  for (int i = 0; i < 1; ++i) counters.CountHit();
  for (int i = 0; i < 2; ++i) counters.CountWeakHit();
  for (int i = 0; i < 3; ++i) counters.CountMiss();
  for (int i = 0; i < 4; ++i) counters.CountRemoval(RemovalCause::kBudget);
  for (int i = 0; i < 5; ++i) counters.CountRemoval(RemovalCause::kExpired);
  for (int i = 0; i < 6; ++i) counters.CountRemoval(RemovalCause::kReplaced);
  for (int i = 0; i < 7; ++i) counters.CountRemoval(RemovalCause::kInvalidated);
  for (int i = 0; i < 8; ++i) counters.CountRemoval(RemovalCause::kDied);
  for (int i = 0; i < 9; ++i) counters.CountTimeSaved(LoadTime(3'000));
  counters.CountTimeSaved(LoadTime());
  CacheStats expected;
  expected.hits = 1;
  expected.weak_hits = 2;
  expected.misses = 3;
  expected.evictions_budget = 4;
  expected.evictions_expired = 5;
  expected.removals_replaced = 6;
  expected.removals_invalidated = 7;
  expected.removals_died = 8;
  expected.time_saved = absl::Microseconds(27);
  EXPECT_EQ(StatsOf(counters), expected);
}

TEST(LoadTimeTest, IsWithinASixteenth) {
  constexpr uint64_t kLongest = uint64_t{15} << 30;  // microseconds
  EXPECT_FALSE(LoadTime().known());
  EXPECT_EQ(LoadTime().microseconds(), 0u);
  for (const int64_t nanoseconds : {INT64_MIN, int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{999}}) {
    EXPECT_TRUE(LoadTime(nanoseconds).known());
    EXPECT_EQ(LoadTime(nanoseconds).microseconds(), 1u);
  }
  EXPECT_EQ(LoadTime(2'500).microseconds(), 3u);
  uint64_t last = 1;
  for (uint64_t time = 1; time <= kLongest; time += time / 100 + 1) {
    const uint64_t rounded = LoadTime(static_cast<int64_t>(1000 * time)).microseconds();
    ASSERT_LE(rounded > time ? rounded - time : time - rounded, time / 16) << time;
    ASSERT_GE(rounded, last);
    last = rounded;
  }
  for (const int64_t nanoseconds : {static_cast<int64_t>(1000 * kLongest), INT64_MAX}) {
    EXPECT_EQ(LoadTime(nanoseconds).microseconds(), kLongest);
  }
}

TEST(CacheCountersTest, CountsLoads) {
  CacheCounters counters;
  CountLoad(counters, absl::Microseconds(1), /*ok=*/true);
  CountLoad(counters, absl::Microseconds(3), /*ok=*/false);
  CountLoad(counters, absl::Microseconds(4), /*ok=*/true);
  const CacheStats stats = StatsOf(counters);
  EXPECT_EQ(stats.loads, 3u);
  EXPECT_EQ(stats.load_failures, 1u);
  EXPECT_EQ(stats.load_time, absl::Microseconds(8));
  EXPECT_EQ(stats.load_time_histogram[0], 1u);
  EXPECT_EQ(stats.load_time_histogram[2], 2u);
}

TEST(CacheCountersTest, AddsUpWhatIsLoaded) {
  CacheCounters counters;
  counters.Loaded(3);
  for (int i = 0; i < 1 << 17; ++i) counters.Loaded(UINT64_MAX);  // stands for "never retained"
  counters.Loaded(uint64_t{1} << 48);
  EXPECT_EQ(StatsOf(counters).bytes_loaded, 3 + (uint64_t{1} << 48));
}

TEST(CacheCountersTest, GaugesGoUpAndDown) {
  CacheCounters counters;
  counters.LoadBegan();
  counters.LoadBegan();
  counters.Pinned(100);
  EXPECT_EQ(StatsOf(counters).loads_in_flight, 2u);
  EXPECT_EQ(StatsOf(counters).bytes_pinned, 100u);
  // On another thread, whose own sum is negative then.
  std::thread([&] {
    counters.LoadEnded(1'000'000'000, /*ok=*/true);
    counters.Unpinned(60);
  }).join();
  EXPECT_EQ(StatsOf(counters).loads_in_flight, 1u);
  EXPECT_EQ(StatsOf(counters).bytes_pinned, 40u);
}

TEST(CacheCountersTest, GaugesOfManyThreadsAddUp) {
  CacheCounters counters;
  constexpr int kThreads = 8;
  OnThreads(kThreads, [&](int thread) {
    for (int i = 0; i < 20000; ++i) {
      if ((i + thread) % 2 == 0) {
        counters.Pinned(static_cast<uint64_t>(i));
      } else {
        counters.Unpinned(static_cast<uint64_t>(i + thread % 2 - (thread + 1) % 2));
      }
    }
  });
  EXPECT_EQ(StatsOf(counters).bytes_pinned, 0u);
}

TEST(CacheCountersTest, LoadsOfAClockAtItsLimits) {
  CacheCounters counters;
  CountLoad(counters, -absl::InfiniteDuration(), /*ok=*/true);
  EXPECT_EQ(StatsOf(counters).load_time, absl::ZeroDuration());
  for (uint64_t loads = 2; loads <= 4; ++loads) {
    CountLoad(counters, absl::InfiniteDuration(), /*ok=*/true);
    EXPECT_GT(StatsOf(counters).load_time, absl::Hours(24 * 365 * 292));
    EXPECT_EQ(StatsOf(counters).loads, loads);
  }
}

TEST(CacheCountersTest, AddsToWhatIsThere) {
  CacheCounters counters;
  CountOneOfEach(counters);
  CountLoad(counters, absl::Seconds(1), /*ok=*/false);
  counters.Pinned(17);
  CacheStats stats = StatsOf(counters);
  EXPECT_EQ(stats.bytes_pinned, 17u);
  const CacheStats once = stats;
  counters.AddTo(&stats);
  EXPECT_EQ(stats, once + once);
}

TEST(CacheCountersTest, FourThreadsCountExactly) {
  CacheCounters counters;
  constexpr int kRounds = 100000;
  OnThreads(4, [&](int thread) {
    testing::SpreadOverCores(static_cast<size_t>(thread));
    for (int i = 0; i < kRounds; ++i) {
      CountOneOfEach(counters);
      CountLoad(counters, absl::Microseconds(2), i % 2 == 0);
    }
  });
  CacheStats expected = OneOfEach(4 * kRounds);
  expected.loads = expected.load_time_histogram[1] = 4 * kRounds;
  expected.load_failures = 2 * kRounds;
  expected.load_time = absl::Microseconds(8 * kRounds);
  EXPECT_EQ(StatsOf(counters), expected);
}

// Enough threads that at least two have each of the shared numbers.
constexpr int kTooManyThreads =
    ThreadNumber::kOwned + 2 * (ThreadNumber::kAll - ThreadNumber::kOwned);

TEST(CacheCountersTest, ManyThreadsCountExactly) {
  CacheCounters counters;
  constexpr int kRounds = 2000;
  OnThreads(kTooManyThreads, [&](int) {
    for (int i = 0; i < kRounds; ++i) CountOneOfEach(counters);
  });
  EXPECT_EQ(StatsOf(counters), OneOfEach(uint64_t{kTooManyThreads} * kRounds));
}

TEST(CacheCountersTest, ThreadsThatShareACellCountExactly) {
  CacheCounters counters;
  constexpr int kRounds = 100000;
  std::atomic<unsigned> sharing{0};
  testing::SpinBarrier all_have_numbers(kTooManyThreads);
  OnThreads(kTooManyThreads, [&](int) {
    const bool shares = ThreadNumber::Claim() == ThreadNumber::kOwned;
    const unsigned sharer = shares ? sharing.fetch_add(1) : 0;
    if (shares) testing::SpreadOverCores(sharer);
    all_have_numbers.Wait();
    for (int i = 0; shares && i < kRounds; ++i) CountOneOfEach(counters);
  });
  EXPECT_GE(sharing, 2u);
  EXPECT_EQ(StatsOf(counters), OneOfEach(uint64_t{sharing} * kRounds));
}

// Threads end while others begin, so that numbers and cells go from one to the next.
TEST(CacheCountersTest, ShortThreadsCountExactly) {
  CacheCounters counters;
  const int rounds = testing::RaceRounds(2000);
  OnThreads(2, [&](int) {
    for (int i = 0; i < rounds; ++i) {
      std::thread a([&] { CountOneOfEach(counters); });
      std::thread b([&] { CountOneOfEach(counters); });
      a.join();
      b.join();
    }
  });
  EXPECT_EQ(StatsOf(counters), OneOfEach(uint64_t{4} * static_cast<uint64_t>(rounds)));
}

TEST(CacheCountersTest, FiguresNeverGoBackForAReader) {
  CacheCounters counters;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int i = 0; i < 100000; ++i) CountOneOfEach(counters);
    done = true;
  });
  CacheStats before;
  while (!done) {
    const CacheStats now = StatsOf(counters);
    ASSERT_GE(now.hits, before.hits);
    ASSERT_GE(now.removals_died, before.removals_died);
    before = now;
  }
  writer.join();
  EXPECT_EQ(StatsOf(counters), OneOfEach(100000));
}

TEST(ThreadNumberTest, RunningThreadsDontShareOwnedNumbers) {
  constexpr int kThreads = 16;
  std::vector<uint32_t> numbers(kThreads);
  OnThreads(kThreads, [&](int thread) {
    numbers[static_cast<size_t>(thread)] = ThreadNumber::Claim();
    EXPECT_EQ(ThreadNumber::Current(), ThreadNumber::Claim());
  });
  std::set<uint32_t> different;
  for (const uint32_t number : numbers) {
    EXPECT_LT(number, ThreadNumber::kOwned);
    different.insert(number);
  }
  EXPECT_EQ(different.size(), numbers.size());
}

TEST(ThreadNumberTest, NumbersOfThreadsThatEndedAreUsedAgain) {
  for (uint32_t i = 0; i < 3 * ThreadNumber::kOwned; ++i) {
    std::thread([] { EXPECT_LT(ThreadNumber::Claim(), ThreadNumber::kOwned); }).join();
  }
}

// Counts in the destructor of a thread's variable.
struct CountsAtEnd {
  CountsAtEnd(CacheCounters* counters, uint32_t* number) : counters(counters), number(number) {}
  CountsAtEnd(const CountsAtEnd&) = delete;
  CountsAtEnd& operator=(const CountsAtEnd&) = delete;
  ~CountsAtEnd() {
    CountOneOfEach(*counters);
    *number = ThreadNumber::Current();
  }
  CacheCounters* const counters;
  uint32_t* const number;  // set to the thread's number in the end
};

TEST(CacheCountersTest, CountsAfterAThreadsNumberWentBack) {
  CacheCounters counters;
  uint32_t number_at_end = 0;
  std::thread([&] {
    // Made before the thread has its number, and thus destroyed after that went back.
    static thread_local CountsAtEnd at_end(&counters, &number_at_end);
    CountOneOfEach(*at_end.counters);
    EXPECT_LT(ThreadNumber::Current(), ThreadNumber::kOwned);
  }).join();
  EXPECT_GE(number_at_end, ThreadNumber::kOwned);
  EXPECT_LT(number_at_end, ThreadNumber::kAll);
  EXPECT_EQ(StatsOf(counters), OneOfEach(2));
}

TEST(CacheCountersTest, CountsFirstWhileAThreadEnds) {
  CacheCounters counters;
  uint32_t number_at_end = 0;
  std::thread([&] {
    static thread_local CountsAtEnd at_end(&counters, &number_at_end);
    static_cast<void>(&at_end);
  }).join();
  EXPECT_EQ(StatsOf(counters), OneOfEach(1));
  // The number it got in its destructor has gone back as well.
  for (uint32_t i = 0; i < 2 * ThreadNumber::kOwned; ++i) {
    std::thread([] { EXPECT_LT(ThreadNumber::Claim(), ThreadNumber::kOwned); }).join();
  }
}

TEST(CacheCountersTest, MemoryIsBounded) {
  static_assert(sizeof(CacheCounters) <= 12 * 1024);
  auto counters = std::make_unique<CacheCounters>();
  CountOneOfEach(*counters);
  const int64_t before = testing::LiveAllocations();
  testing::FailAllocation(1);
  for (int i = 0; i < 1000; ++i) {
    CountOneOfEach(*counters);
    CountLoad(*counters, absl::Seconds(i), /*ok=*/true);
  }
  testing::FailAllocation(0);
  EXPECT_EQ(testing::LiveAllocations(), before);
}

}  // namespace
}  // namespace weakcache::internal
