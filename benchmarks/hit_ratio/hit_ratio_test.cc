// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmarks/hit_ratio/arc_model.h"
#include "benchmarks/hit_ratio/lru_model.h"
#include "benchmarks/hit_ratio/s3_fifo_model.h"
#include "benchmarks/hit_ratio/trace.h"
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

TEST(ArcModelTest, KeepsWhatWasUsedTwiceThroughAScan) {
  EXPECT_EQ(Hits<ArcModel>({1, 2, 1, 2, 10, 11, 12, 13, 14, 15, 1, 2}, 4), "001100000011");
  EXPECT_EQ(Hits<LruModel>({1, 2, 1, 2, 10, 11, 12, 13, 14, 15, 1, 2}, 4), "001100000000");
}

TEST(ArcModelTest, AGhostHitGivesRecentObjectsMoreRoom) {
  // 1 is in the frequent part; 2, pushed out by 3 and 4, comes back as a ghost.
  EXPECT_EQ(Hits<ArcModel>({1, 1, 2, 3, 4, 2, 1}, 3), "0100001");
  EXPECT_EQ(Hits<ArcModel>({1, 1, 2, 3, 4, 2, 2}, 3), "0100001");
}

TEST(ArcModelTest, SurvivesAnyWeights) {
  ArcModel cache(1000);
  uint64_t random = 1;
  for (int step = 0; step < 100'000; ++step) {
    random = random * 6364136223846793005 + 1442695040888963407;
    cache.Access((random >> 33) % 200, (random >> 50) % 1100);
  }
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

TEST(WeakcacheReplayerTest, KeepsSmallAndUsedObjects) {
  EXPECT_EQ(Hits<WeakcacheReplayer>({1, 2, 1, 2, 10, 11, 12, 13, 14, 15, 1, 2}, 4), "001100000011");
  const std::vector<Request> trace = {{1, 4}, {2, 90}, {3, 8}, {1, 4}, {3, 8}, {4, 200}, {4, 200}};
  EXPECT_EQ(Hits<WeakcacheReplayer>(trace, 100), "0001100");
}

}  // namespace
}  // namespace weakcache
