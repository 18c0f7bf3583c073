// SPDX-License-Identifier: Apache-2.0
// What second tiers cost, against no tier and against their engines without one. Names are
// operation/subject/size, with the size of an object in bytes; compare the rows of one run. Starts
// a Redis server, on a Unix socket; RocksDB's folders are in memory (/dev/shm).
//
//   hit       look-ups of objects that the cache has: none, redis_tier, rocksdb_tier (configured)
//   get       an entry of the engine, as many different ones as make 128 MB, random bytes:
//             redis_tier (SecondTier::Get) and hiredis (GET of one string); rocksdb_tier and
//             rocksdb (DB::Get into a PinnableSlice, no compression, a Bloom filter)
//   stampede  as many processes as the size says ask for one key at the same time, until all have
//             its object: `loads` is how many have loaded it, each for 20 ms
//   notice    a cache puts a new object until another one has dropped the old one; `longest_ms` is
//             the longest time that it was seen after the Put had returned
#include <benchmark/benchmark.h>
#include <hiredis/hiredis.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/slice.h>
#include <rocksdb/table.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "benchmarks/run_benchmarks.h"
#include "examples/shared_images/process.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/redis_tier.h"
#include "weakcache/cache/rocksdb_tier.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using Cache = LargeObjectCache<int64_t, std::string>;

constexpr int64_t kHitObjects = 1024;
constexpr size_t kHitBytes = 4096;
constexpr int64_t kStoredBytes = int64_t{128} << 20;
constexpr size_t kProcesses = 8;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "second_tier_benchmark: %s\n", what.c_str());
  std::exit(1);
}

// Made by main, before there are threads, and ended by it.
struct Environment {
  std::string folder = {};
  std::unique_ptr<shared_images::RedisServer> redis = nullptr;
  std::vector<shared_images::Worker> processes = {};
};
Environment* environment = nullptr;

std::string RandomBytes(size_t size) {
  std::mt19937_64 random(size);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

std::string KeyAt(int64_t number) { return "object " + std::to_string(number); }

// Goes through all numbers below a size, none of which comes again soon.
class Numbers {
 public:
  explicit Numbers(int64_t size) : size_(size) {}
  int64_t Next() { return number_ = (number_ + 40503) % size_; }

 private:
  const int64_t size_;
  int64_t number_ = 0;
};

// --- Tiers ---------------------------------------------------------------------------------------

using RedisConnection = std::unique_ptr<redisContext, decltype(&redisFree)>;

// Returns a connection to the server, which has nothing any more.
RedisConnection ConnectToEmptyRedis() {
  RedisConnection connection(redisConnectUnix(environment->redis->socket().c_str()), &redisFree);
  if (connection == nullptr || connection->err != 0) Fail("hiredis does not connect");
  freeReplyObject(redisCommand(connection.get(), "FLUSHALL"));
  return connection;
}

std::shared_ptr<SecondTier> MakeRedisTier(const std::string& socket,
                                          const std::string& key_namespace) {
  RedisTierOptions options;
  options.key_namespace = key_namespace;
  options.address.unix_socket = socket;
  options.soft_timeout = absl::Seconds(10);
  options.hard_timeout = absl::Seconds(20);
  absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
  if (!tier.ok()) Fail(tier.status().ToString());
  return *std::move(tier);
}

struct NoTier {
  static std::shared_ptr<SecondTier> Make() { return nullptr; }
};

struct RedisTierSubject {
  static std::shared_ptr<SecondTier> Make() {
    ConnectToEmptyRedis();
    return MakeRedisTier(environment->redis->socket(), "benchmark");
  }
};

struct RocksdbTierSubject {
  static std::shared_ptr<SecondTier> Make() {
    RocksdbTierOptions options;
    options.folder = environment->folder + "/tier";
    std::filesystem::remove_all(options.folder);
    options.limit_bytes = uint64_t{2} << 30;
    absl::StatusOr<std::shared_ptr<RocksdbTier>> tier = RocksdbTier::Create(options);
    if (!tier.ok()) Fail(tier.status().ToString());
    return *std::move(tier);
  }
};

Cache MakeCache(std::shared_ptr<SecondTier> tier) {
  Cache::Options options;
  options.budget_bytes = uint64_t{1} << 30;
  if (tier != nullptr) {
    options.second_tier = std::move(tier);
    options.codec = std::make_shared<const ContiguousCodec<std::string>>();
  }
  absl::StatusOr<Cache> cache = Cache::Create(std::move(options));
  if (!cache.ok()) Fail(cache.status().ToString());
  return *std::move(cache);
}

// --- hit -----------------------------------------------------------------------------------------

template <typename Subject>
void Hit(benchmark::State& state) {
  Cache cache = MakeCache(Subject::Make());
  std::vector<int64_t> keys;
  const auto load = [](int64_t) { return std::string(kHitBytes, 'x'); };
  for (int64_t i = 0; i < kHitObjects; ++i) {
    // Until they need not count their hits any more.
    for (int hit = 0; hit < 32; ++hit) benchmark::DoNotOptimize(cache.GetOrLoad(i, load).ok());
    keys.push_back(i);
  }
  std::shuffle(keys.begin(), keys.end(), std::mt19937(1));
  size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(cache.GetOrLoad(keys[i], load));
    i = (i + 1) % keys.size();
  }
}

// --- get -----------------------------------------------------------------------------------------

// A tier as a store of strings.
template <typename Subject>
class TierStore {
 public:
  void Put(const std::string& key, const std::string& bytes) {
    const TierEntry entry{.bytes = TierBytes(bytes)};
    if (!tier_->Put(key, entry, {}).ok()) Fail("a Put has failed");
  }
  void Finish() {}
  size_t Get(const std::string& key) {
    const absl::StatusOr<TierEntry> entry = tier_->Get(key, {});
    return entry.ok() ? entry->bytes.size() : 0;
  }

 private:
  const std::shared_ptr<SecondTier> tier_ = Subject::Make();
};

class HiredisStore {
 public:
  void Put(const std::string& key, const std::string& bytes) {
    Call("SET bare:%b %b", key.data(), key.size(), bytes.data(), bytes.size());
  }
  void Finish() {}
  size_t Get(const std::string& key) { return Call("GET bare:%b", key.data(), key.size()); }

 private:
  template <typename... Arguments>
  size_t Call(const char* format, Arguments... arguments) {
    auto* const reply =
        static_cast<redisReply*>(redisCommand(connection_.get(), format, arguments...));
    if (reply == nullptr) Fail("hiredis has no connection");
    const size_t size = reply->type == REDIS_REPLY_STRING ? reply->len : 0;
    freeReplyObject(reply);
    return size;
  }

  const RedisConnection connection_ = ConnectToEmptyRedis();
};

class RocksdbStore {
 public:
  RocksdbStore() {
    const std::string folder = environment->folder + "/bare";
    std::filesystem::remove_all(folder);
    rocksdb::Options options;
    options.create_if_missing = true;
    options.compression = rocksdb::kNoCompression;
    rocksdb::BlockBasedTableOptions table;
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    rocksdb::DB* database = nullptr;
    if (!rocksdb::DB::Open(options, folder, &database).ok()) Fail("RocksDB does not open");
    database_.reset(database);
  }
  void Put(const std::string& key, const std::string& bytes) {
    if (!database_->Put({}, key, bytes).ok()) Fail("RocksDB does not put");
  }
  void Finish() {
    if (!database_->Flush({}).ok()) Fail("RocksDB does not flush");
  }
  size_t Get(const std::string& key) {
    rocksdb::PinnableSlice bytes;
    const rocksdb::Status status =
        database_->Get({}, database_->DefaultColumnFamily(), key, &bytes);
    return status.ok() ? bytes.size() : 0;
  }

 private:
  std::unique_ptr<rocksdb::DB> database_;
};

template <typename Store>
void Get(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  const int64_t objects = kStoredBytes / state.range(0);
  Store store;
  const std::string bytes = RandomBytes(size);
  for (int64_t i = 0; i < objects; ++i) store.Put(KeyAt(i), bytes);
  store.Finish();
  Numbers numbers(objects);
  for (auto _ : state) {
    if (store.Get(KeyAt(numbers.Next())) != size) state.SkipWithError("an entry is missing");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}

// --- stampede ------------------------------------------------------------------------------------

// Gets each key that a line names; answers whether it has loaded the object.
void RunProcess(const std::string& socket, shared_images::Lines& lines) {
  Cache cache = MakeCache(MakeRedisTier(socket, "stampede"));
  lines.Send("ready");
  while (const std::optional<std::string> line = lines.Receive()) {
    if (*line == "end") return;
    bool loaded = false;
    const absl::StatusOr<Ref<std::string>> object =
        cache.GetOrLoad(std::stoll(*line), [&](int64_t) {
          loaded = true;
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          return std::string(size_t{256} << 10, 'x');
        });
    lines.Send(!object.ok() ? "failed" : loaded ? "1" : "0");
  }
}

void Stampede(benchmark::State& state) {
  static int64_t key = 0;
  int64_t loads = 0;
  for (auto _ : state) {
    ++key;
    for (shared_images::Worker& process : environment->processes) {
      process.lines().Send(std::to_string(key));
    }
    for (shared_images::Worker& process : environment->processes) {
      const std::optional<std::string> answer = process.lines().Receive();
      if (answer != "0" && answer != "1") return state.SkipWithError("a process has failed");
      loads += *answer == "1" ? 1 : 0;
    }
  }
  state.counters["loads"] = static_cast<double>(loads) / static_cast<double>(state.iterations());
}

// --- notice --------------------------------------------------------------------------------------

double MillisecondsBetween(std::chrono::steady_clock::time_point begin,
                           std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double, std::milli>(end - begin).count();
}

void Notice(benchmark::State& state) {
  const std::string& socket = environment->redis->socket();
  Cache writer = MakeCache(MakeRedisTier(socket, "notice"));
  Cache reader = MakeCache(MakeRedisTier(socket, "notice"));
  const auto size = static_cast<size_t>(state.range(0));
  const auto load = [&](int64_t) { return std::string(size, 'x'); };
  double longest = 0;
  for (auto _ : state) {
    while (reader.Peek(1) == nullptr) benchmark::DoNotOptimize(reader.GetOrLoad(1, load).ok());
    const auto begin = std::chrono::steady_clock::now();
    writer.Put(1, std::string(size, 'y'));
    const auto returned = std::chrono::steady_clock::now();
    while (reader.Peek(1) != nullptr) std::this_thread::yield();
    const auto end = std::chrono::steady_clock::now();
    state.SetIterationTime(MillisecondsBetween(begin, end) / 1000);
    longest = std::max(longest, MillisecondsBetween(returned, end));
  }
  state.counters["longest_ms"] = longest;
}

void StartProcesses() {
  for (size_t i = 0; i < kProcesses; ++i) {
    environment->processes.emplace_back(
        [](shared_images::Lines& lines) { RunProcess(environment->redis->socket(), lines); });
  }
  for (shared_images::Worker& process : environment->processes) {
    if (process.lines().Receive() != "ready") Fail("a process has failed");
  }
}

BENCHMARK_TEMPLATE(Hit, NoTier)->Name("hit/none")->Arg(kHitBytes);
BENCHMARK_TEMPLATE(Hit, RedisTierSubject)->Name("hit/redis_tier")->Arg(kHitBytes);
BENCHMARK_TEMPLATE(Hit, RocksdbTierSubject)->Name("hit/rocksdb_tier")->Arg(kHitBytes);

void GetArguments(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(4 << 10)->Arg(256 << 10)->Arg(8 << 20)->UseRealTime();
}
BENCHMARK_TEMPLATE(Get, HiredisStore)->Name("get/hiredis")->Apply(GetArguments);
BENCHMARK_TEMPLATE(Get, TierStore<RedisTierSubject>)->Name("get/redis_tier")->Apply(GetArguments);
BENCHMARK_TEMPLATE(Get, RocksdbStore)->Name("get/rocksdb")->Apply(GetArguments);
BENCHMARK_TEMPLATE(Get, TierStore<RocksdbTierSubject>)
    ->Name("get/rocksdb_tier")
    ->Apply(GetArguments);
BENCHMARK(Stampede)->Name("stampede/redis_tier")->Arg(kProcesses)->UseRealTime();
BENCHMARK(Notice)->Name("notice/redis_tier")->Arg(kHitBytes)->Arg(1 << 20)->UseManualTime();

int Main(int argc, char** argv) {
  std::string folder = std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
  folder += "/second_tier.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) Fail("no temporary folder");
  Environment made{.folder = folder};
  environment = &made;
  made.redis = std::make_unique<shared_images::RedisServer>(folder + "/redis");
  if (!shared_images::RedisServer::IsInstalled() || !made.redis->Start()) {
    Fail("no redis-server");
  }
  StartProcesses();
  const int code = RunBenchmarks(argc, argv);
  made.processes.clear();
  made.redis->Kill();
  std::filesystem::remove_all(folder);
  return code;
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) { return weakcache::Main(argc, argv); }
