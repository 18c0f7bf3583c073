// SPDX-License-Identifier: Apache-2.0
// LargeObjectCache, against the map that it is built on and what people write by hand. Names are
// operation/subject/size; compare the rows of one run. Times are per operation of one thread: with
// two threads, twice the throughput is the same time.
//
//   weakcache            LargeObjectCache<int64_t, Object>
//   weakcache_write_expiry, weakcache_access_expiry, weakcache_own_life
//                        the same, with objects that expire an hour after they have come, or were
//                        last found; or after an hour that each of them was given
//   concurrent_map       ConcurrentWeakValueMap<int64_t, Object>, all objects held; no budget
//   mutex_lru            std::mutex, a list and an unordered_map of std::shared_ptr
//   rocksdb_lru          RocksDB's LRU cache; this and the next two only with keys of 16 bytes
//   rocksdb_hyper_clock  RocksDB's HyperClock cache
//   tbb_lru              tbb::concurrent_lru_cache
//
//   hit             look-ups of retained objects, all keys alike, that have been hit before
//   hit_young       the same, of objects that have just come in: until it has been hit 16 times an
//                   object counts its hits
//   weak_hit        look-ups of objects that the cache does not retain (it has no budget)
//   miss            loads of new keys by a trivial loader; each evicts another
//   zipf            the k-th key in proportion to 1 / k ^ 0.99, with room for so many objects (of
//                   1 MB, as they say) that about 90 % are hits; the ratio is in `hit_ratio`
//   hit16, miss16, zipf16
//                   the same with keys of 16 bytes. In hit16 nobody else holds the objects, and
//                   every cache has room for twice as many: RocksDB's divide theirs among shards
//   memory_after_peak
//                   see memory_after_peak.h; weakcache_looked_up: after random look-ups
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/large_object_cache_subjects.h"
#include "benchmarks/memory_after_peak.h"
#include "benchmarks/run_benchmarks.h"

namespace weakcache {
namespace {

constexpr size_t kLookups = size_t{1} << 18;

// What the threads of a benchmark share. The first one sets it up before they start.
template <typename Subject>
struct Shared {
  using Strong = decltype(std::declval<Subject&>().Get(0));

  Shared(size_t room, size_t size, bool holds) : subject(room) {
    for (size_t i = 0; i < size; ++i) {
      Strong object = subject.GetOrLoad(KeyAt(i));
      if (holds) held.push_back(std::move(object));
    }
  }
  Subject subject;
  std::vector<Strong> held;
};
template <typename Subject>
std::unique_ptr<Shared<Subject>>& Current() {
  static std::unique_ptr<Shared<Subject>> current;
  return current;
}

// Who holds the objects of Hit: the cache and the benchmark, the cache alone, or the benchmark
// alone. Young ones have just come, and are held by both.
enum class Objects { kRetained, kYoung, kRetainedOnly, kHeldOnly };

template <typename Subject, Objects kObjects>
void Hit(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  if (state.thread_index() == 0) {
    const size_t room = kObjects == Objects::kHeldOnly       ? 0
                        : kObjects == Objects::kRetainedOnly ? 2 * size
                                                             : size;
    constexpr bool kHolds = kObjects != Objects::kRetainedOnly;
    Current<Subject>() = std::make_unique<Shared<Subject>>(room, size, kHolds);
    for (size_t i = 0; i < 20 * size && kObjects != Objects::kYoung; ++i) {
      benchmark::DoNotOptimize(Current<Subject>()->subject.Get(KeyAt(i % size)));
    }
  }
  std::mt19937_64 random(static_cast<unsigned>(state.thread_index() + 1));
  std::vector<int64_t> keys(kLookups);
  for (int64_t& key : keys) key = KeyAt(random() % size);
  size_t next = 0;
  bool right = true;
  for (auto _ : state) {
    auto found = Current<Subject>()->subject.Get(keys[next++ % kLookups]);
    right &= static_cast<bool>(found);
    benchmark::DoNotOptimize(found);
  }
  if (!right) state.SkipWithError("wrong answer");
  if (state.thread_index() == 0) Current<Subject>().reset();
}

template <typename Subject>
void Miss(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  if (state.thread_index() == 0) {
    Current<Subject>() = std::make_unique<Shared<Subject>>(size, size, false);
  }
  const auto threads = static_cast<size_t>(state.threads());
  size_t next = size + static_cast<size_t>(state.thread_index());
  for (auto _ : state) {
    benchmark::DoNotOptimize(Current<Subject>()->subject.GetOrLoad(KeyAt(next)));
    next += threads;
  }
  if (state.thread_index() == 0) Current<Subject>().reset();
}

template <typename Subject>
void Zipf(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  if (state.thread_index() == 0) {
    Current<Subject>() = std::make_unique<Shared<Subject>>(size / 3, size, false);
  }
  std::vector<double> sums(size);
  double sum = 0;
  for (size_t rank = 0; rank < size; ++rank) {
    sums[rank] = sum += 1 / std::pow(static_cast<double>(rank + 1), 0.99);
  }
  std::mt19937_64 random(static_cast<unsigned>(state.thread_index() + 1));
  std::uniform_real_distribution<double> draw(0, sum);
  std::vector<int64_t> keys(kLookups);
  for (int64_t& key : keys) {
    key = KeyAt(static_cast<size_t>(std::lower_bound(sums.begin(), sums.end(), draw(random)) -
                                    sums.begin()));
  }
  size_t next = 0;
  size_t hits = 0;
  for (auto _ : state) {
    Subject& subject = Current<Subject>()->subject;
    const int64_t key = keys[next++ % kLookups];
    if (auto found = subject.Get(key)) {
      ++hits;
    } else {
      benchmark::DoNotOptimize(subject.GetOrLoad(key));
    }
  }
  state.counters["hit_ratio"] =
      benchmark::Counter(static_cast<double>(hits) / static_cast<double>(state.iterations()),
                         benchmark::Counter::kAvgThreads);
  if (state.thread_index() == 0) Current<Subject>().reset();
}

template <typename Function>
void Register(const char* name, Function function, std::vector<int64_t> sizes,
              int64_t iterations = 0) {
  for (const int threads : {1, 2}) {
    auto* const registered = benchmark::RegisterBenchmark(name, function);
    for (const int64_t size : sizes) registered->Arg(size);
    registered->Threads(threads)->UseRealTime();
    if (iterations != 0) registered->Iterations(iterations / threads);
  }
}

void RegisterAll() {
  const std::vector<int64_t> sizes = {1000, 100000};
  Register("hit/weakcache", Hit<WeakcacheSubject<int64_t>, Objects::kRetained>, sizes);
  Register("hit/weakcache_write_expiry",
           Hit<WeakcacheSubject<int64_t, Expire::kAfterWrite>, Objects::kRetained>, sizes);
  Register("hit/weakcache_access_expiry",
           Hit<WeakcacheSubject<int64_t, Expire::kAfterAccess>, Objects::kRetained>, sizes);
  Register("hit/weakcache_own_life",
           Hit<WeakcacheSubject<int64_t, Expire::kAfterOwnLife>, Objects::kRetained>, sizes);
  Register("hit/concurrent_map", Hit<ConcurrentMapSubject, Objects::kRetained>, sizes);
  Register("hit/mutex_lru", Hit<MutexLruSubject<int64_t>, Objects::kRetained>, sizes);
  // So few that most objects have not been hit 16 times in the end.
  constexpr int64_t kYoungSize = 100'000;
  Register("hit_young/weakcache", Hit<WeakcacheSubject<int64_t>, Objects::kYoung>, {kYoungSize},
           8 * kYoungSize);
  Register("hit_young/concurrent_map", Hit<ConcurrentMapSubject, Objects::kYoung>, {kYoungSize},
           8 * kYoungSize);
  Register("weak_hit/weakcache", Hit<WeakcacheSubject<int64_t>, Objects::kHeldOnly>, sizes);
  Register("weak_hit/concurrent_map", Hit<ConcurrentMapSubject, Objects::kHeldOnly>, sizes);
  Register("miss/weakcache", Miss<WeakcacheSubject<int64_t>>, sizes);
  Register("miss/concurrent_map", Miss<ConcurrentMapSubject>, sizes);
  Register("miss/mutex_lru", Miss<MutexLruSubject<int64_t>>, sizes);
  Register("zipf/weakcache", Zipf<WeakcacheSubject<int64_t>>, sizes);
  Register("zipf/mutex_lru", Zipf<MutexLruSubject<int64_t>>, sizes);

  Register("hit16/weakcache", Hit<WeakcacheSubject<Key16>, Objects::kRetainedOnly>, sizes);
  Register("hit16/mutex_lru", Hit<MutexLruSubject<Key16>, Objects::kRetainedOnly>, sizes);
  Register("hit16/rocksdb_lru", Hit<RocksDbLruSubject, Objects::kRetainedOnly>, sizes);
  Register("hit16/rocksdb_hyper_clock", Hit<RocksDbHyperClockSubject, Objects::kRetainedOnly>,
           sizes);
  Register("hit16/tbb_lru", Hit<TbbLruSubject, Objects::kRetainedOnly>, sizes);
  Register("miss16/weakcache", Miss<WeakcacheSubject<Key16>>, sizes);
  Register("miss16/mutex_lru", Miss<MutexLruSubject<Key16>>, sizes);
  Register("miss16/rocksdb_lru", Miss<RocksDbLruSubject>, sizes);
  Register("miss16/rocksdb_hyper_clock", Miss<RocksDbHyperClockSubject>, sizes);
  Register("miss16/tbb_lru", Miss<TbbLruSubject>, sizes);
  Register("zipf16/weakcache", Zipf<WeakcacheSubject<Key16>>, sizes);
  Register("zipf16/mutex_lru", Zipf<MutexLruSubject<Key16>>, sizes);
  Register("zipf16/rocksdb_lru", Zipf<RocksDbLruSubject>, sizes);
  Register("zipf16/rocksdb_hyper_clock", Zipf<RocksDbHyperClockSubject>, sizes);

  constexpr int64_t kPeak = 300'000;
  for (const bool looked_up : {false, true}) {
    benchmark::RegisterBenchmark(
        looked_up ? "memory_after_peak/weakcache_looked_up" : "memory_after_peak/weakcache",
        CacheMemoryAfterPeak, looked_up)
        ->Arg(kPeak)
        ->Iterations(1);
  }
  benchmark::RegisterBenchmark("memory_after_peak/concurrent_map", MapMemoryAfterPeak)
      ->Arg(kPeak)
      ->Iterations(1);
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) {
  weakcache::RegisterAll();
  return weakcache::RunBenchmarks(argc, argv);
}
