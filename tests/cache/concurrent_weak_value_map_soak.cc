// SPDX-License-Identifier: Apache-2.0
// Uses one ConcurrentWeakValueMap on several threads for a long time: mixed operations on few keys,
// each object that comes back checked to be one that was entered under that key. At the end there
// must be no entry, no waiter and no byte too many.
//
//   ./bazelw run -c opt //tests:concurrent_soak -- --operations=50000000
//
// Prints what has happened, and exits with 1 if anything was wrong.
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/support/handle_kinds.h"
#include "tests/support/soak.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

struct Value : SoakObject {
  using SoakObject::SoakObject;
  char bytes[100] = {};
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
    const int64_t key = SoakKey(random_);
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
      Count(map_.insert_or_assign(key, object).second ? kInserted : kReplaced);
      Hold(key, std::move(object));
    } else if (choice < 860) {
      outcomes_[kErased] += static_cast<int64_t>(map_.erase(key));
    } else {
      const Handle& expected = held_[choice % kHeld];
      if (expected == nullptr) return;
      outcomes_[kErased] += static_cast<int64_t>(map_.erase(expected->key(), expected));
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
        value->ExpectGood(key);
        Count(kVisited);
      });
    } else if (dice == 2) {
      map_.reserve(static_cast<size_t>(random_() % 4096));
      (void)map_.size();
    }
  }

  void Hold(int64_t key, Handle found) {
    if (found == nullptr) return;
    found->ExpectGood(key);
    held_[random_() % kHeld] = std::move(found);
  }
  void Release() {
    held_[random_() % kHeld].reset();
    Count(kReleased);
  }
  void Count(Outcome outcome) { ++outcomes_[outcome]; }

  Map& map_;
  std::mt19937_64 random_;
  std::vector<Handle> held_;
  Outcomes outcomes_{};
};

template <typename Kind>
void Soak(const char* name, int64_t operations) {
  const auto begin = std::chrono::steady_clock::now();
  Outcomes outcomes{};
  {
    const NothingIsLeft nothing_is_left;
    typename Worker<Kind>::Map map;
    const auto workers = RunWorkers<Worker<Kind>>(
        operations, [&](uint64_t seed) { return std::make_unique<Worker<Kind>>(map, seed); });
    for (const auto& worker : workers) {
      for (int i = 0; i < kOutcomes; ++i) outcomes[i] += worker->outcomes()[i];
    }
    Expect(Value::live() == 0, "objects are left");
    map.CheckInvariantsForTesting();  // no waiter
    map.purge();
    Expect(map.size() == 0, "entries are left");
    Expect(map.purge() == 0, "entries are left after a purge");
    map.CheckInvariantsForTesting();
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::printf("%s: %lld operations in %.1f s\n", name, static_cast<long long>(operations),
              taken.count());
  for (int i = 0; i < kOutcomes; ++i) {
    std::printf("  %-9s %lld\n", kOutcomeNames[i], static_cast<long long>(outcomes[i]));
    Expect(outcomes[i] > 0 || operations < 1'000'000, "something has never happened");
  }
}

void SoakBoth(int64_t operations) {
  Soak<OwnHandles>("Ref", operations - operations / 2);
  Soak<SharedPointers>("std::shared_ptr", operations / 2);
}

void WarmUp() {
  ConcurrentWeakValueMap<int64_t, Value> map;
  (void)map.get_or_create(1, [] { return MakeRef<Value>(1); });
}

}  // namespace
}  // namespace weakcache::testing

int main(int argc, char** argv) {
  return weakcache::testing::RunSoak(argc, argv, &weakcache::testing::WarmUp,
                                     &weakcache::testing::SoakBoth);
}
