// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "benchmarks/hit_ratio/arc_model.h"
#include "benchmarks/hit_ratio/belady.h"
#include "benchmarks/hit_ratio/lirs_model.h"
#include "benchmarks/hit_ratio/lru_model.h"
#include "benchmarks/hit_ratio/s3_fifo_model.h"
#include "benchmarks/hit_ratio/sieve_model.h"
#include "benchmarks/hit_ratio/synthetic_trace.h"
#include "benchmarks/hit_ratio/trace.h"
#include "benchmarks/hit_ratio/w_tiny_lfu_model.h"
#include "benchmarks/hit_ratio/weakcache_replayer.h"

namespace weakcache {
namespace {

std::string TestFile(const std::string& name) { return testing::TempDir() + "/" + name; }

std::vector<uint64_t> Keys(const std::vector<Request>& trace) {
  std::vector<uint64_t> keys;
  for (const Request& request : trace) keys.push_back(request.key);
  return keys;
}

std::vector<Request> TraceOf(const std::vector<uint64_t>& keys) {
  std::vector<Request> trace;
  for (const uint64_t key : keys) trace.push_back({key, 1});
  return trace;
}

// The requests that hit, as a string of ones and zeros.
template <typename Cache>
std::string Hits(const std::vector<Request>& trace, uint64_t capacity) {
  Cache cache(capacity);
  std::string hits;
  for (const Request& request : trace) {
    hits += cache.Access(request.key, request.weight) ? '1' : '0';
  }
  return hits;
}

template <typename Cache>
std::string Hits(const std::vector<uint64_t>& keys, uint64_t capacity) {
  return Hits<Cache>(TraceOf(keys), capacity);
}

TEST(ReadTraceTest, ReadsKeysAndSizes) {
  const std::string path = TestFile("plain.txt");
  std::ofstream(path) << "apple 10\nbanana\n\nbanana 0\r\napple\t7\ncherry 3";
  const absl::StatusOr<std::vector<Request>> trace = ReadTrace(path);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(Keys(*trace), (std::vector<uint64_t>{0, 1, 1, 0, 2}));
  EXPECT_EQ((*trace)[0].weight, 10);
  EXPECT_EQ((*trace)[1].weight, 1);
  EXPECT_EQ((*trace)[2].weight, 1);
  EXPECT_EQ((*trace)[3].weight, 7);
  EXPECT_EQ((*trace)[4].weight, 3);
}

TEST(ReadTraceTest, ReadsGzip) {
  const std::string path = TestFile("packed.txt.gz");
  gzFile file = gzopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  gzputs(file, "a\nb\na\n");
  gzclose(file);
  const absl::StatusOr<std::vector<Request>> trace = ReadTrace(path);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(Keys(*trace), (std::vector<uint64_t>{0, 1, 0}));
}

TEST(ReadTraceTest, TellsWhatIsWrong) {
  EXPECT_TRUE(absl::IsNotFound(ReadTrace(TestFile("missing.txt")).status()));
  const std::string path = TestFile("wrong.txt");
  std::ofstream(path) << "a 1\nb many\n";
  const absl::Status status = ReadTrace(path).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("wrong.txt:2"), absl::string_view::npos);
}

TEST(ReplayTest, CountsObjectsAndBytes) {
  const std::vector<Request> trace = {{1, 10}, {1, 10}, {2, 50}, {2, 50}, {3, 1000}};
  const HitRatio ratio = Replay(trace, LruModel(100));
  EXPECT_DOUBLE_EQ(ratio.objects, 0.4);
  EXPECT_DOUBLE_EQ(ratio.bytes, 60.0 / 1120.0);
  EXPECT_EQ(Replay({}, LruModel(100)).objects, 0);
}

TEST(LruModelTest, EvictsTheLeastRecentlyUsed) {
  EXPECT_EQ(Hits<LruModel>({1, 2, 1, 3, 1, 2, 3}, 2), "0010100");
  EXPECT_EQ(Hits<LruModel>({1, 2, 3, 1, 2, 3}, 2), "000000");
}

TEST(LruModelTest, KeepsWithinTheCapacityAndSkipsWhatIsTooLarge) {
  const std::vector<Request> trace = {{1, 4}, {2, 4}, {3, 11}, {1, 4}, {4, 3}, {2, 4}, {1, 4}};
  EXPECT_EQ(Hits<LruModel>(trace, 10), "0001000");
}

TEST(BestHitRatioTest, KeepsWhatIsRequestedNext) {
  // With room for two: 1 and 2 hit, then 1 stays through 3 and 4.
  EXPECT_DOUBLE_EQ(BestHitRatio(TraceOf({1, 2, 1, 2, 3, 4, 1}), 2).objects, 3.0 / 7);
  // Of a loop over three objects it keeps the same two.
  EXPECT_DOUBLE_EQ(BestHitRatio(TraceOf({1, 2, 3, 1, 2, 3, 1, 2, 3}), 2).objects, 4.0 / 9);
  EXPECT_DOUBLE_EQ(BestHitRatio(TraceOf({1, 1, 1, 1}), 0).objects, 0);
  EXPECT_DOUBLE_EQ(BestHitRatio({{1, 10}, {2, 10}, {1, 10}, {2, 10}}, 19).objects, 0.25);
  EXPECT_EQ(BestHitRatio({}, 100).objects, 0);
}

TEST(BestHitRatioTest, IsNeverBelowAPolicy) {
  std::vector<Request> trace = ScanTrace().requests;
  trace.resize(20'000);
  std::vector<Request> weighted = trace;
  for (Request& request : weighted) request.weight = 1 + request.key * 7919 % 100;
  for (const uint64_t capacity : {1u, 50u, 300u, 2000u, 1'000'000u}) {
    const HitRatio best = BestHitRatio(trace, capacity);
    EXPECT_GE(best.objects, Replay(trace, LruModel(capacity)).objects);
    EXPECT_GE(best.objects, Replay(trace, LirsModel(capacity)).objects);
    const HitRatio bound = BestHitRatio(weighted, 50 * capacity);
    const HitRatio reached = Replay(weighted, WeakcacheReplayer(50 * capacity));
    EXPECT_GE(bound.objects, reached.objects);
    EXPECT_GE(bound.bytes, reached.bytes);
    EXPECT_LE(bound.objects, 1);
    EXPECT_LE(bound.bytes, 1);
  }
}

TEST(BestHitRatioTest, SizesHaveABound) {
  // Six steps of 10 bytes: two hits of 1 take 4 of 60 byte steps each, a hit of 30 would take 60.
  const std::vector<Request> trace = {{1, 2}, {2, 30}, {1, 2}, {2, 30}, {1, 2}, {3, 1}};
  EXPECT_DOUBLE_EQ(BestHitRatio(trace, 10).objects, 2.0 / 6);
  EXPECT_DOUBLE_EQ(BestHitRatio(trace, 10).bytes, 4.0 / 67);
  // An object may stay with the least of its weights.
  EXPECT_DOUBLE_EQ(BestHitRatio({{1, 2}, {1, 20}, {2, 1}}, 5).objects, 1.0 / 3);
  // 32 bytes are room for everything.
  EXPECT_DOUBLE_EQ(BestHitRatio(trace, 32).objects, 3.0 / 6);
}

TEST(ArcModelTest, KeepsWhatWasUsedTwiceThroughAScan) {
  EXPECT_EQ(Hits<ArcModel>({1, 2, 1, 2, 10, 11, 12, 13, 14, 15, 1, 2}, 4), "001100000011");
  EXPECT_EQ(Hits<LruModel>({1, 2, 1, 2, 10, 11, 12, 13, 14, 15, 1, 2}, 4), "001100000000");
}

TEST(ArcModelTest, AGhostHitGivesRecentObjectsMoreRoom) {
  // 1 is in the frequent part; 2, pushed out by 3 and 4, comes back as a ghost.
  EXPECT_EQ(Hits<ArcModel>({1, 1, 2, 3, 4, 2, 1}, 3), "0100001");
  EXPECT_EQ(Hits<ArcModel>({1, 1, 2, 3, 4, 2, 2}, 3), "0100001");
}

TEST(S3FifoModelTest, OneHitWondersLeaveFromTheSmallQueue) {
  std::vector<uint64_t> keys = {1, 1, 1, 2, 2, 2};
  for (uint64_t key = 100; key < 200; ++key) keys.push_back(key);
  keys.insert(keys.end(), {1, 2});
  const std::string hits = Hits<S3FifoModel>(keys, 10);
  EXPECT_EQ(hits.substr(0, 6), "011011");
  EXPECT_EQ(hits.substr(hits.size() - 3), "011");
}

TEST(S3FifoModelTest, AGhostComesBackToTheMainQueue) {
  std::vector<uint64_t> keys;
  for (uint64_t key = 0; key <= 10; ++key) keys.push_back(key);
  keys.push_back(0);  // a ghost
  for (uint64_t key = 100; key < 150; ++key) keys.push_back(key);
  keys.push_back(0);
  const std::string hits = Hits<S3FifoModel>(keys, 10);
  EXPECT_EQ(hits[11], '0');
  EXPECT_EQ(hits.back(), '1');
}

TEST(SieveModelTest, AHitObjectKeepsItsPlaceAndSurvivesTheHand) {
  // The hand passes over 1, which was hit, and goes on from there: 2, 3 and 4 go.
  EXPECT_EQ(Hits<SieveModel>({1, 2, 3, 1, 4, 5, 6, 1, 4}, 3), "000100010");
  EXPECT_EQ(Hits<LruModel>({1, 2, 3, 1, 4, 5, 6, 1, 4}, 3), "000100000");
}

TEST(SieveModelTest, TheHandBeginsAnewAfterTheNewest) {
  // Both were hit, so the hand comes back to 1. Then it passes over 2, and 3 goes.
  EXPECT_EQ(Hits<SieveModel>({1, 2, 1, 2, 3, 2, 4, 2, 3}, 2), "001101010");
}

TEST(LirsModelTest, AnObjectThatReturnsSoonTakesTheOldestLirObjectsPlace) {
  // 1 and 2 are LIR, 3 and 4 go through the queue, which holds one. 3 returns while the stack knows
  // it: it becomes LIR, and 1 waits in the queue, until 4 comes again.
  EXPECT_EQ(Hits<LirsModel>({1, 2, 3, 4, 3, 1, 2, 4, 3, 1, 2}, 3), "00000110101");
}

TEST(LirsModelTest, AnObjectThatIsHitInTheQueueTakesTheOldestLirObjectsPlace) {
  // 3 becomes LIR. 1 waits in the queue, and goes for 4.
  EXPECT_EQ(Hits<LirsModel>({1, 2, 3, 3, 4, 3, 1}, 3), "0001010");
}

TEST(LirsModelTest, KeepsAPartOfALoop) {
  EXPECT_EQ(Hits<LirsModel>({1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5}, 3), "000001100011000");
}

TEST(LirsModelTest, DoesNotCacheWhatIsHeavierThanTheQueue) {
  const std::vector<Request> trace = {{1, 4}, {1, 4}, {2, 3}, {2, 3}};
  EXPECT_EQ(Hits<LirsModel>(trace, 300), "0001");
}

// 1 to 9 are in the main part of 10, requested twice each, and 1 is the next victim.
std::vector<uint64_t> TwiceEach() {
  std::vector<uint64_t> keys;
  for (int round = 0; round < 2; ++round) {
    for (uint64_t key = 1; key <= 9; ++key) keys.push_back(key);
  }
  keys.push_back(10);
  return keys;
}

TEST(WTinyLfuModelTest, RejectsWhatIsNotRequestedMoreOften) {
  std::vector<uint64_t> keys = TwiceEach();
  for (uint64_t key = 100; key < 150; ++key) keys.push_back(key);
  for (uint64_t key = 1; key <= 10; ++key) keys.push_back(key);
  const std::string hits = Hits<WTinyLfuModel>(keys, 10);
  EXPECT_EQ(hits.substr(hits.size() - 10), "1111111110");
}

TEST(WTinyLfuModelTest, RejectsWhatIsRequestedAsOften) {
  std::vector<uint64_t> keys = TwiceEach();
  keys.insert(keys.end(), {20, 20, 21, 1, 20});
  const std::string hits = Hits<WTinyLfuModel>(keys, 10);
  EXPECT_EQ(hits.substr(hits.size() - 5), "01010");
}

TEST(WTinyLfuModelTest, AdmitsWhatIsRequestedMoreOften) {
  std::vector<uint64_t> keys = TwiceEach();
  keys.insert(keys.end(), {20, 20, 20, 21, 20, 1});
  const std::string hits = Hits<WTinyLfuModel>(keys, 10);
  EXPECT_EQ(hits.substr(hits.size() - 6), "011010");
}

TEST(WTinyLfuModelTest, CountsTheRequestsOfEvictedObjects) {
  std::vector<uint64_t> keys = TwiceEach();
  keys.insert(keys.end(), {20, 21, 20, 21, 20, 22, 20});
  const std::string hits = Hits<WTinyLfuModel>(keys, 10);
  EXPECT_EQ(hits.substr(hits.size() - 7), "0000001");
}

TEST(WTinyLfuModelTest, TheWindowGrowsIfNewObjectsAreUsedSoon) {
  // Each object is requested again after 20 others, and then never more. Now and then comes one
  // that is known; so the hit ratio, by which the window climbs, is not the same in each sample.
  std::vector<uint64_t> keys;
  uint64_t random = 1;
  for (uint64_t i = 100; i < 50'000; ++i) {
    keys.insert(keys.end(), {i, i - 20});
    random = random * 6364136223846793005 + 1442695040888963407;
    if ((random >> 60) == 0) keys.push_back((random >> 40) % 50);
  }
  WTinyLfuModel cache(100);
  const double adaptive = Replay(TraceOf(keys), cache).objects;
  EXPECT_GE(cache.window_capacity(), 20);
  EXPECT_GE(adaptive, 0.35);
  EXPECT_LE(Replay(TraceOf(keys), FixedWindowWTinyLfuModel(100)).objects, 0.1);
}

template <typename Model>
class ModelTest : public testing::Test {};
using Models =
    testing::Types<LruModel, ArcModel, S3FifoModel, SieveModel, LirsModel, WTinyLfuModel>;
TYPED_TEST_SUITE(ModelTest, Models);

TYPED_TEST(ModelTest, SurvivesAnyWeights) {
  TypeParam cache(1000);
  uint64_t random = 1;
  uint64_t hits = 0;
  for (int step = 0; step < 30'000; ++step) {
    random = random * 6364136223846793005 + 1442695040888963407;
    hits += uint64_t{cache.Access((random >> 33) % 200, (random >> 50) % 1100)};
  }
  EXPECT_GT(hits, 0);
}

TYPED_TEST(ModelTest, KeepsNothingWithoutCapacity) {
  EXPECT_EQ(Hits<TypeParam>({1, 1, 2, 1}, 0), "0000");
}

// Figures of libCacheSim for such traces, made with other random numbers.
TEST(SyntheticTraceTest, ModelsAgreeWithTheOriginals) {
  const SyntheticTrace loop = LoopTrace();
  EXPECT_NEAR(Replay(loop.requests, LirsModel(loop.capacity)).objects, 0.197, 0.002);
  EXPECT_EQ(Replay(loop.requests, LruModel(loop.capacity)).objects, 0);
  const SyntheticTrace epochs = ShuffledEpochsTrace();
  EXPECT_NEAR(Replay(epochs.requests, LruModel(epochs.capacity)).objects, 0.060, 0.005);
  EXPECT_NEAR(Replay(epochs.requests, S3FifoModel(epochs.capacity)).objects, 0.145, 0.005);
  EXPECT_NEAR(Replay(epochs.requests, SieveModel(epochs.capacity)).objects, 0.206, 0.005);
  EXPECT_NEAR(Replay(epochs.requests, LirsModel(epochs.capacity)).objects, 0.154, 0.005);
}

// What the library's cache gains over LRU.
double Gain(const SyntheticTrace& trace) {
  return Replay(trace.requests, WeakcacheReplayer(trace.capacity)).objects -
         Replay(trace.requests, LruModel(trace.capacity)).objects;
}

TEST(SyntheticTraceTest, ALoopThatFitsIsKeptAndAnotherIsNoWorseThanWithLru) {
  SyntheticTrace trace = LoopTrace();
  EXPECT_GE(Gain(trace), 0);
  EXPECT_NEAR(Replay(trace.requests, WeakcacheReplayer(1011)).objects, 0.99, 1e-9);
}

TEST(SyntheticTraceTest, ShuffledEpochsHitTwiceAsOftenAsWithLru) {
  EXPECT_GE(Gain(ShuffledEpochsTrace()), 0.061);
}

TEST(SyntheticTraceTest, ScansDoLittleHarm) { EXPECT_GE(Gain(ScanTrace()), 0.06); }

TEST(SyntheticTraceTest, AFloodOfOneHitObjectsDoesLittleHarm) {
  EXPECT_GE(Gain(OneHitFloodTrace()), 0.04);
}

TEST(SyntheticTraceTest, ANewWorkingSetIsLearnedInAQuarterOfItsTime) {
  const SyntheticTrace trace = WorkingSetChangeTrace();
  EXPECT_GE(Gain(trace), 0);
  WeakcacheReplayer cache(trace.capacity);
  LruModel lru(trace.capacity);
  uint64_t hits = 0;
  uint64_t lru_hits = 0;
  for (size_t i = 0; i < trace.requests.size(); ++i) {
    const uint64_t key = trace.requests[i].key;
    const bool hit = cache.Access(key, 1);
    const bool lru_hit = lru.Access(key, 1);
    if (i % kRequestsOfWorkingSet < kRequestsOfWorkingSet / 4) continue;
    hits += uint64_t{hit};
    lru_hits += uint64_t{lru_hit};
  }
  EXPECT_GE(hits, lru_hits);
}

TEST(SyntheticTraceTest, HaveNames) {
  for (const char* name :
       {"loop", "shuffled_epochs", "scan", "working_set_change", "one_hit_flood"}) {
    const absl::StatusOr<SyntheticTrace> trace = MakeSyntheticTrace(name);
    ASSERT_TRUE(trace.ok()) << trace.status();
    EXPECT_GT(trace->requests.size(), trace->capacity);
  }
  EXPECT_TRUE(absl::IsInvalidArgument(MakeSyntheticTrace("no_such_trace").status()));
}

TEST(WeakcacheReplayerTest, KeepsSmallAndUsedObjects) {
  EXPECT_EQ(Hits<WeakcacheReplayer>({1, 2, 1, 2, 10, 11, 12, 13, 14, 15, 1, 2}, 4), "001100000011");
  const std::vector<Request> trace = {{1, 4}, {2, 90}, {3, 8}, {1, 4}, {3, 8}, {4, 200}, {4, 200}};
  EXPECT_EQ(Hits<WeakcacheReplayer>(trace, 100), "0001100");
}

TEST(TimeSavingReplayerTest, LosesNothingIfAllLoadsTakeTheSameTime) {
  const SyntheticTrace trace = OneHitFloodTrace();
  const HitRatio saving = Replay(trace.requests, TimeSavingReplayer(trace.capacity));
  const HitRatio counting = Replay(trace.requests, WeakcacheReplayer(trace.capacity));
  EXPECT_GT(saving.objects, counting.objects - 0.001);
}

TEST(TimeSavingReplayerTest, SavesMoreTimeIfTheyDiffer) {
  SyntheticTrace trace = ScanTrace();
  DrawLoadTimes(/*spread=*/100, /*seed=*/1, trace.requests);
  TimeSavingReplayer cache(trace.capacity);
  const HitRatio saving = Replay(trace.requests, cache);
  const HitRatio counting = Replay(trace.requests, WeakcacheReplayer(trace.capacity));
  EXPECT_GT(saving.load_time, 1.05 * counting.load_time);
  EXPECT_GT(saving.objects, 0.8 * counting.objects);
  double all = 0;
  for (const Request& request : trace.requests) all += static_cast<double>(request.load_time);
  const double saved = absl::ToDoubleMicroseconds(cache.Stats().time_saved);
  EXPECT_NEAR(saved, saving.load_time * all, saved / 16);
}

TEST(DrawLoadTimesTest, GoesByKeyAndSeed) {
  std::vector<Request> trace = ScanTrace().requests;
  std::vector<Request> other = trace;
  DrawLoadTimes(10, 1, trace);
  DrawLoadTimes(10, 2, other);
  double sum = 0;
  size_t equal = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    ASSERT_GE(trace[i].load_time, 1000u);
    ASSERT_LE(trace[i].load_time, 10'000u);
    sum += static_cast<double>(trace[i].load_time);
    equal += trace[i].load_time == other[i].load_time ? 1u : 0u;
  }
  EXPECT_LT(equal, trace.size() / 10);
  EXPECT_NEAR(sum / static_cast<double>(trace.size()), 3900, 400);  // 9000 / ln 10
  DrawLoadTimes(10, 1, other);
  for (size_t i = 0; i < trace.size(); ++i) ASSERT_EQ(trace[i].load_time, other[i].load_time);
}

}  // namespace
}  // namespace weakcache
