// Uses one ConcurrentWeakValueMap on several threads for a long time: mixed operations on few keys,
// each object that comes back checked to be one that was entered under that key. At the end there
// must be no entry, no waiter and no byte too many.
//
//   ./bazelw run -c opt //tests:concurrent_soak -- --operations=50000000
//
// Prints what has happened, and exits with 1 if anything was wrong.
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "cache/concurrent_weak_value_map.h"
#include "tests/support/allocations.h"
#include "tests/support/handle_kinds.h"
#include "weakref/handle_traits.h"

ABSL_FLAG(int64_t, operations, 50'000'000, "on all threads together");
ABSL_FLAG(int, threads, 4, "that use the map at once");
ABSL_FLAG(uint64_t, seed, 1, "of the random choice of operations and keys");
ABSL_FLAG(int64_t, keys, 256, "of which the first are used most");

namespace weakcache::testing {
namespace {

std::atomic<int64_t> errors{0};
void Expect(bool condition, const char* what) {
  if (condition) return;
  if (errors.fetch_add(1) < 20) std::fprintf(stderr, "concurrent_soak: %s\n", what);
}

struct Value {
  explicit Value(int64_t key) : key(key), check(~key) { ++live; }
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;
  ~Value() {
    check = key;  // no longer good
    asm volatile("" : : "r"(this) : "memory");
    --live;
  }
  const int64_t key;
  int64_t check;
  char bytes[100] = {};
  inline static std::atomic<int64_t> live{0};
};

enum Outcome {
  kHit,
  kMiss,
  kCreated,
  kShared,  // found by get_or_create, or made by another thread meanwhile
  kFailed,  // a factory that threw, or was waited for
  kNull,
  kInserted,
  kRefused,
  kReplaced,
  kErased,
  kPurged,
  kVisited,
  kReleased,
  kOutcomes,
};
constexpr const char* kOutcomeNames[kOutcomes] = {
    "hit",     "miss",     "created", "shared", "failed",  "null",    "inserted",
    "refused", "replaced", "erased",  "purged", "visited", "released"};
using Outcomes = std::array<int64_t, kOutcomes>;

// One thread's part.
template <typename Kind>
class Worker {
 public:
  using Map = ConcurrentWeakValueMap<int64_t, ValueOf<Kind, Value>>;
  using Handle = HandleOf<Kind, Value>;

  Worker(Map& map, uint64_t seed) : map_(map), random_(seed), held_(kHeld) {}

  void Run(int64_t operations) {
    for (int64_t i = 0; i < operations; ++i) Step();
    held_.clear();
  }
  const Outcomes& outcomes() const { return outcomes_; }

 private:
  static constexpr size_t kHeld = 64;

  void Step() {
    const int64_t key = Key();
    const uint64_t choice = random_() % 1000;
    if (choice < 450) {
      Handle found = map_.get(key);
      Count(found == nullptr ? kMiss : kHit);
      Hold(key, std::move(found));
    } else if (choice < 700) {
      GetOrCreate(key);
    } else if (choice < 900) {
      Change(key, choice);
    } else if (choice < 990) {
      Release();
    } else {
      UseAll(choice);
    }
  }

  void GetOrCreate(int64_t key) {
    const uint64_t fate = random_() % 64;  // one in 64 throws, one returns null
    bool called = false;
    try {
      Handle object = map_.get_or_create(key, [&] {
        called = true;
        if (fate == 0) throw std::runtime_error("told to throw");
        return fate == 1 ? Handle() : Make<Kind, Value>(key);
      });
      Count(object == nullptr ? kNull : called ? kCreated : kShared);
      Hold(key, std::move(object));
    } catch (const std::runtime_error&) {
      Count(kFailed);
    }
  }

  void Change(int64_t key, uint64_t choice) {
    if (choice < 760) {
      auto entered = map_.insert(key, Make<Kind, Value>(key));
      Expect(entered.first != nullptr, "insert returns null");
      Count(entered.second ? kInserted : kRefused);
      Hold(key, std::move(entered.first));
    } else if (choice < 820) {
      Handle object = Make<Kind, Value>(key);
      Count(map_.insert_or_assign(key, object) ? kInserted : kReplaced);
      Hold(key, std::move(object));
    } else if (choice < 860) {
      outcomes_[kErased] += static_cast<int64_t>(map_.erase(key));
    } else {
      const Handle& expected = held_[choice % kHeld];
      if (expected == nullptr) return;
      outcomes_[kErased] += static_cast<int64_t>(map_.erase(expected->key, expected));
    }
  }

  // Mostly the small things; a visit or a clear is as long as the table.
  void UseAll(uint64_t choice) {
    const uint64_t dice = random_() % 64;
    if (choice < 995) {
      outcomes_[kPurged] += dice < 16 ? static_cast<int64_t>(map_.purge()) : 0;
    } else if (dice == 0) {
      map_.clear();
    } else if (dice == 1) {
      map_.for_each([&](const int64_t& key, const Handle& value) {
        Check(key, value);
        Count(kVisited);
      });
    } else if (dice == 2) {
      map_.reserve(static_cast<size_t>(random_() % 4096));
      (void)map_.size();
    }
  }

  // Small keys are the frequent ones.
  int64_t Key() { return static_cast<int64_t>(random_() % (1 + random_() % keys_)); }
  void Check(int64_t key, const Handle& found) {
    Expect(found->key == key, "an object of another key");
    Expect(found->check == ~key, "an object that has gone");
  }
  void Hold(int64_t key, Handle found) {
    if (found == nullptr) return;
    Check(key, found);
    held_[random_() % kHeld] = std::move(found);
  }
  void Release() {
    held_[random_() % kHeld].reset();
    Count(kReleased);
  }
  void Count(Outcome outcome) { ++outcomes_[outcome]; }

  Map& map_;
  const uint64_t keys_ = static_cast<uint64_t>(absl::GetFlag(FLAGS_keys));
  std::mt19937_64 random_;
  std::vector<Handle> held_;
  Outcomes outcomes_{};
};

template <typename Kind>
Outcomes RunWorkers(typename Worker<Kind>::Map& map, int64_t operations) {
  const int count = absl::GetFlag(FLAGS_threads);
  std::vector<std::unique_ptr<Worker<Kind>>> workers;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    workers.push_back(std::make_unique<Worker<Kind>>(
        map, absl::GetFlag(FLAGS_seed) * 1000 + static_cast<uint64_t>(i)));
    // The first takes what does not divide.
    const int64_t part = operations / count + (i == 0 ? operations % count : 0);
    threads.emplace_back([&worker = *workers.back(), part] { worker.Run(part); });
  }
  for (std::thread& thread : threads) thread.join();
  Outcomes sum{};
  for (const auto& worker : workers) {
    for (int i = 0; i < kOutcomes; ++i) sum[i] += worker->outcomes()[i];
  }
  return sum;
}

template <typename Kind>
void Soak(const char* name, int64_t operations) {
  const auto begin = std::chrono::steady_clock::now();
  const int64_t allocations_before = LiveAllocations();
  const int64_t bytes_before = LiveAllocatedBytes();
  Outcomes outcomes;
  {
    typename Worker<Kind>::Map map;
    outcomes = RunWorkers<Kind>(map, operations);
    Expect(Value::live == 0, "objects are left");
    map.Validate();  // no waiter
    map.purge();
    Expect(map.size() == 0, "entries are left");
    Expect(map.purge() == 0, "entries are left after a purge");
    map.Validate();
  }
  Expect(LiveAllocations() == allocations_before, "blocks of memory are left");
  Expect(LiveAllocatedBytes() == bytes_before, "bytes are left");
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::printf("%s: %lld operations in %.1f s\n", name, static_cast<long long>(operations),
              taken.count());
  for (int i = 0; i < kOutcomes; ++i) {
    std::printf("  %-9s %lld\n", kOutcomeNames[i], static_cast<long long>(outcomes[i]));
    Expect(outcomes[i] > 0 || operations < 1'000'000, "something has never happened");
  }
}

// What is allocated once, at the first use, is no leak.
void WarmUp() {
  std::thread([] {
    ConcurrentWeakValueMap<int64_t, Value> map;
    (void)map.get_or_create(1, [] { return MakeRef<Value>(1); });
  }).join();
}

}  // namespace
}  // namespace weakcache::testing

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  const int64_t operations = absl::GetFlag(FLAGS_operations);
  if (operations < 1 || absl::GetFlag(FLAGS_threads) < 1 || absl::GetFlag(FLAGS_keys) < 1) {
    std::fprintf(stderr, "concurrent_soak: --operations, --threads and --keys are at least 1\n");
    return 1;
  }
  weakcache::testing::WarmUp();
  using weakcache::testing::OwnHandles;
  using weakcache::testing::SharedPointers;
  weakcache::testing::Soak<OwnHandles>("Ref", operations - operations / 2);
  weakcache::testing::Soak<SharedPointers>("std::shared_ptr", operations / 2);
  const int64_t errors = weakcache::testing::errors;
  std::printf("%lld errors\n", static_cast<long long>(errors));
  return errors == 0 ? 0 : 1;
}
