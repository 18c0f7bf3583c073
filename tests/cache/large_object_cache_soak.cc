// SPDX-License-Identifier: Apache-2.0
// Uses LargeObjectCaches on several threads for a long time: mixed operations on objects whose
// weights change, under budgets from nothing to everything, in one shard and many, with weighers
// and listeners that throw and a clock that goes from one end of time to the other. The retained
// bytes never exceed the budget, and when all is quiet they are exactly what the retained objects
// weigh; what a hard limit counts never exceeds that; at the end nothing is left in any table.
//
//   ./bazelw run -c opt //tests:large_object_cache_soak -- --operations=50000000
//
// Prints what has happened, and exits with 1 if anything was wrong.
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/soak.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

constexpr uint64_t kMostBytes = 200;

struct Blob : SoakObject {
  Blob(int64_t key, uint64_t size) : SoakObject(key), size(size) {}
  Blob(Blob&& other) noexcept : Blob(other.key(), other.size.load()) {}
  Blob& operator=(Blob&&) = delete;

  std::atomic<uint64_t> size;
};

using Cache = LargeObjectCache<int64_t, Blob>;
using Object = Ref<Blob>;

struct Configuration {
  uint64_t budget;
  size_t shards;
  bool hostile;  // weigher and listener throw now and then, and the clock jumps
  uint64_t hard_limit = 0;
  AtHardLimit at_hard_limit = AtHardLimit::kFail;
};

// What the callbacks of one cache share.
struct Environment {
  std::atomic<bool> throws{false};
  std::atomic<uint64_t> calls{0};
  std::array<std::atomic<uint64_t>, kRemovalCauses> told{};

  void MayThrow() {
    if (throws && calls.fetch_add(1) % 97 == 0) throw std::runtime_error("told to throw");
  }
  absl::Time Now() {
    constexpr int64_t kStep = 1000;
    const auto tick = static_cast<int64_t>(throws ? calls.fetch_add(1) : calls.load());
    if (throws && tick % 1009 == 0) return absl::InfiniteFuture();
    if (throws && tick % 1013 == 0) return absl::InfinitePast();
    return absl::FromUnixNanos(tick * kStep);
  }
};

Cache MakeCache(const Configuration& configuration, Environment& environment) {
  Cache::Options options = testing::WithBudget<Cache>(configuration.budget);
  options.shards = configuration.shards;
  if (configuration.hard_limit != 0) {
    options.hard_limit_bytes = configuration.hard_limit;
    options.hard_limit_wait = absl::Microseconds(200);
    options.at_hard_limit = configuration.at_hard_limit;
  }
  options.weigher = [&](const Blob& blob) {
    environment.MayThrow();
    return blob.size.load();
  };
  options.removal_listener = [&](int64_t, RemovalCause cause, uint64_t) {
    ++environment.told[static_cast<size_t>(cause)];
    environment.MayThrow();
  };
  if (configuration.hostile) {
    options.clock = [&] { return environment.Now(); };
    options.expire_after_write = absl::Milliseconds(10);
    options.expire_after_access = absl::Milliseconds(5);
    options.refresh_after_write = absl::Milliseconds(2);
    options.max_concurrent_loads = 2;
  }
  auto cache = configuration.budget == 0 ? Cache::CreateWeak(std::move(options))
                                         : Cache::Create(std::move(options));
  return std::move(cache).value();
}

// One thread's part.
class Worker {
 public:
  Worker(Cache& cache, const Configuration& configuration, uint64_t seed)
      : cache_(cache),
        budget_(configuration.budget),
        hard_limit_(configuration.hard_limit),
        random_(seed),
        held_(kHeld) {}

  void Run(int64_t operations) {
    for (int64_t i = 0; i < operations; ++i) {
      try {
        Step();
      } catch (const std::runtime_error&) {
        ++thrown_;
      }
      if (hard_limit_ != 0) Expect(cache_.charged_bytes() <= hard_limit_, "above the hard limit");
      if (i % 16 == 0) Expect(cache_.Stats().bytes_retained <= budget_, "more than the budget");
    }
    held_.clear();
  }
  int64_t thrown() const { return thrown_; }

 private:
  static constexpr size_t kHeld = 16;

  void Step() {
    const int64_t key = SoakKey(random_);
    const uint64_t choice = random_() % 1000;
    if (choice < 300) {
      Hold(key, cache_.Get(key));
    } else if (choice < 650) {
      Load(key);
    } else if (choice < 800) {
      held_[random_() % kHeld].reset();
    } else if (choice < 860) {
      Weigh(key);
    } else if (choice < 995) {
      Change(key, choice);
    } else {
      UseAll();
    }
  }

  void Load(int64_t key) {
    const uint64_t fate = random_() % 64;
    const uint64_t size = Size();
    // Under a hard limit most loads have one, of which some are wrong.
    const bool estimates = hard_limit_ == 0 ? fate % 4 == 2 : fate % 4 != 2;
    LoadOptions options;
    options.weight_estimate = !estimates ? 0 : fate % 16 == 5 ? Size() : size;
    absl::StatusOr<Object> result =
        fate % 8 == 3 ? cache_.GetOrLoad(
                            key, [&] { return MakeRef<Blob>(key, size); }, options)
                      : cache_.GetOrLoad(
                            key,
                            [&]() -> absl::StatusOr<Blob> {
                              if (fate == 0) throw std::runtime_error("told to throw");
                              if (fate == 1) return absl::AbortedError("told to fail");
                              return Blob(key, size);
                            },
                            options);
    if (result.ok()) Hold(key, *std::move(result));
  }

  void Weigh(int64_t key) {
    const Object found = cache_.Peek(key);
    if (found != nullptr) found->size = Size();
    cache_.UpdateWeight(key);
  }

  void Change(int64_t key, uint64_t choice) {
    if (choice < 900) {
      Hold(key, cache_.Put(key, Blob(key, Size())));
    } else if (choice < 930) {
      Hold(key, cache_.Put(key, MakeRef<Blob>(key, Size())));
    } else if (choice < 960) {
      cache_.Invalidate(key);
    } else {
      const Object& expected = held_[choice % kHeld];
      if (expected != nullptr) cache_.Invalidate(expected->key(), expected);
    }
  }

  // A visit or a clear is as long as the table.
  void UseAll() {
    switch (random_() % 64) {
      case 0:
        cache_.Clear();
        break;
      case 1:
        cache_.ForEach([](int64_t key, const Object& object) { object->ExpectGood(key); });
        break;
      case 2:
        cache_.InvalidateIf([](int64_t key, const Object&) { return key % 16 == 0; });
        break;
      case 3:
      case 4:
        cache_.Trim(random_() % kMostBytes);
        break;
      case 5:
        cache_.SetBudget(budget_ / 2);
        cache_.SetBudget(budget_);
        break;
      default:
        cache_.Purge();
    }
  }

  uint64_t Size() { return random_() % kMostBytes; }
  void Hold(int64_t key, Object found) {
    if (found == nullptr) return;
    found->ExpectGood(key);
    held_[random_() % kHeld] = std::move(found);
  }

  Cache& cache_;
  const uint64_t budget_;
  const uint64_t hard_limit_;
  std::mt19937_64 random_;
  std::vector<Object> held_;
  int64_t thrown_ = 0;
};

// While nobody else uses the cache and no object is held outside it.
void CheckQuiet(Cache& cache, const Configuration& configuration, const Environment& environment) {
  cache.Purge();
  cache.CheckInvariantsForTesting();
  std::vector<int64_t> keys;
  cache.ForEach([&](int64_t key, const Object&) { keys.push_back(key); });
  for (const int64_t key : keys) cache.UpdateWeight(key);
  uint64_t weights = 0;
  for (const int64_t key : cache.HottestKeys(keys.size())) weights += cache.Peek(key)->size;
  const CacheStats stats = cache.Stats();
  Expect(stats.bytes_retained == weights, "the retained bytes are not those of the objects");
  Expect(stats.bytes_pinned == 0, "bytes are pinned by nobody");
  Expect(configuration.hard_limit == 0 || cache.charged_bytes() == weights,
         "the hard limit does not count what the objects weigh");
  Expect(stats.loads_in_flight == 0, "a load is left");
  const std::array<uint64_t, kRemovalCauses> counted = {
      stats.evictions_budget, stats.evictions_expired, stats.removals_replaced,
      stats.removals_invalidated, stats.removals_died};
  for (size_t i = 0; i < kRemovalCauses; ++i) {
    Expect(environment.told[i] == counted[i], "the listener was not told of each removal");
  }
}

void CheckEmpties(Cache& cache) {
  cache.Trim(0);
  cache.Purge();
  Expect(Blob::live() == 0, "objects are left");
  Expect(cache.empty(), "entries are left");
  const CacheStats stats = cache.Stats();
  Expect(stats.bytes_retained == 0, "bytes are retained after Trim(0)");
  Expect(stats.bytes_pinned == 0, "bytes are pinned after Trim(0)");
  Expect(stats.dead_entries == 0, "expired entries are left after a purge");
  cache.CheckInvariantsForTesting();
}

void Soak(const Configuration& configuration, int64_t operations) {
  const auto begin = std::chrono::steady_clock::now();
  CacheStats stats;
  int64_t thrown = 0;
  {
    const NothingIsLeft nothing_is_left;
    Environment environment;
    Cache cache = MakeCache(configuration, environment);
    environment.throws = configuration.hostile;
    const auto workers = RunWorkers<Worker>(operations, [&](uint64_t seed) {
      return std::make_unique<Worker>(cache, configuration, seed);
    });
    for (const auto& worker : workers) thrown += worker->thrown();
    environment.throws = false;
    CheckQuiet(cache, configuration, environment);
    CheckEmpties(cache);
    stats = cache.Stats();
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::printf(
      "budget %llu, hard limit %llu, %zu shard(s)%s: %lld operations in %.1f s, %lld threw\n",
      static_cast<unsigned long long>(configuration.budget),
      static_cast<unsigned long long>(configuration.hard_limit), configuration.shards,
      configuration.hostile ? ", hostile callbacks" : "", static_cast<long long>(operations),
      taken.count(), static_cast<long long>(thrown));
  for (const auto& [name, figure] : std::initializer_list<std::pair<const char*, uint64_t>>{
           {"hits", stats.hits},
           {"weak hits", stats.weak_hits},
           {"misses", stats.misses},
           {"loads", stats.loads},
           {"failed", stats.load_failures},
           {"evicted", stats.evictions()},
           {"replaced", stats.removals_replaced},
           {"invalidated", stats.removals_invalidated},
           {"died", stats.removals_died}}) {
    std::printf("  %-11s %llu\n", name, static_cast<unsigned long long>(figure));
  }
}

void SoakAll(int64_t operations) {
  constexpr uint64_t kHuge = std::numeric_limits<ptrdiff_t>::max();
  std::vector<Configuration> configurations;
  for (const uint64_t budget : {uint64_t{0}, uint64_t{1}, 2 * kMostBytes, 50 * kMostBytes, kHuge}) {
    for (const size_t shards : {1, 16}) {
      for (const bool hostile : {false, true}) {
        configurations.push_back({budget, shards, hostile});
      }
    }
  }
  for (const uint64_t budget : {uint64_t{0}, 2 * kMostBytes, 20 * kMostBytes}) {
    for (const uint64_t above : {uint64_t{0}, 3 * kMostBytes}) {
      for (const bool hostile : {false, true}) {
        const uint64_t hard_limit = budget + above == 0 ? 10 * kMostBytes : budget + above;
        configurations.push_back({budget, above == 0 ? size_t{1} : size_t{16}, hostile, hard_limit,
                                  hostile ? AtHardLimit::kServeUncached : AtHardLimit::kFail});
      }
    }
  }
  const auto count = static_cast<int64_t>(configurations.size());
  for (const Configuration& configuration : configurations) {
    Soak(configuration, (operations + count - 1) / count);
  }
}

void WarmUp() {
  SetExpiryErrorHandler([](std::exception_ptr) {});  // for what the listener throws
  Environment environment;
  Cache cache = MakeCache({1000, 1, true}, environment);
  static_cast<void>(cache.GetOrLoad(1, [] { return Blob(1, 1); }));
  static_cast<void>(cache.Stats().ToJson());
}

}  // namespace
}  // namespace weakcache::testing

int main(int argc, char** argv) {
  return weakcache::testing::RunSoak(argc, argv, &weakcache::testing::WarmUp,
                                     &weakcache::testing::SoakAll);
}
