// SPDX-License-Identifier: Apache-2.0
#include "tests/script/large_object_cache_script.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/script/script.h"
#include "tests/support/cache_options.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::testing {
namespace {

struct Weighed {
  uint64_t byte_size() const { return weight; }
  uint64_t weight = 0;
};
using Cache = LargeObjectCache<int, Weighed>;

// Who is in use is known, as the script holds the objects. So it is known, too, whether an object
// finds room below the hard limit: if what else is in use leaves it. Which idle objects go for it
// is the policy's affair.
class CacheScript {
 public:
  CacheScript(ScriptBytes bytes, bool trace)
      : bytes_(bytes),
        trace_(trace),
        budget_(1 + static_cast<uint64_t>(bytes_.Next())),
        limit_(budget_ + static_cast<uint64_t>(bytes_.Next(4) == 0 ? 0 : bytes_.Next())),
        serves_(bytes_.Next(2) != 0),
        cache_(MakeCache(bytes_.Next(4) != 0)) {}

  ScriptResult Run() {
    while (!bytes_.AtEnd() && result_.failure.empty()) {
      const CacheStats before = cache_.Stats();
      const uint64_t charged = cache_.charged_bytes();
      Operate(before);
      ++result_.operations;
      Require(cache_.charged_bytes() <= std::max(limit_, charged), "above the hard limit");
      Compare();
    }
    for (Known& known : known_) known.held.reset();
    cache_.SetBudget(0);
    Require(cache_.charged_bytes() == 0 && cache_.empty(), "something is left");
    return result_;
  }

 private:
  static constexpr int kKeys = 16;
  struct Known {
    Ref<Weighed> held;
    WeakRef<Weighed> weak;
  };

  Cache MakeCache(bool covers_in_use) const {
    Cache::Options options = WithBudget<Cache>(budget_);
    options.hard_limit_bytes = limit_;
    options.at_hard_limit = serves_ ? AtHardLimit::kServeUncached : AtHardLimit::kFail;
    options.budget_covers_in_use = covers_in_use;
    options.shards = 1;
    return std::move(Cache::Create(std::move(options))).value();
  }

  void Operate(const CacheStats& before) {
    const int operation = bytes_.Next(32);
    const int key = bytes_.Next(kKeys);
    if (trace_) std::printf("%d of %d\n", operation, key);
    Known& known = known_[static_cast<size_t>(key)];
    if (operation < 10) {
      Load(key, before);
    } else if (operation < 14) {
      Put(key, operation == 13, before);
    } else if (operation < 17) {
      if (Ref<Weighed> found = cache_.Get(key); found != nullptr) known.held = std::move(found);
    } else if (operation < 25) {
      known.held.reset();
    } else if (operation < 27) {
      cache_.Invalidate(key);
      known = Known();
    } else if (operation < 29) {
      Weigh(key);
    } else if (operation == 29) {
      const uint64_t freed = cache_.Trim(Weight());
      Require(cache_.Stats().bytes() + freed == before.bytes(), "Trim: a wrong sum");
    } else if (operation == 30) {
      budget_ = Weight();
      cache_.SetBudget(budget_);
    } else {
      limit_ = Weight() + Weight();
      cache_.SetHardLimit(limit_);
      Require(cache_.charged_bytes() <= limit_ || cache_.Stats().bytes_idle == 0,
              "SetHardLimit: leaves idle objects");
    }
  }

  void Load(int key, const CacheStats& before) {
    const uint64_t weight = Weight();
    const bool estimates = bytes_.Next(4) != 0;
    const bool external = bytes_.Next(4) == 0;
    Known& known = known_[static_cast<size_t>(key)];
    const bool is_hit = !known.weak.expired();
    LoadOptions options;
    if (estimates) options.weight_estimate = weight;
    absl::StatusOr<Ref<Weighed>> loaded =
        external ? cache_.GetOrLoad(
                       key, [&] { return MakeRef<Weighed>(Weighed{weight}); }, options)
                 : cache_.GetOrLoad(
                       key, [&] { return Weighed{weight}; }, options);
    if (is_hit) {
      Require(loaded.ok() && known.weak.lock() == *loaded, "GetOrLoad: another object");
      return;
    }
    const bool fits = before.bytes_in_use + weight <= limit_;
    const bool is_in_cache = cache_.Peek(key) != nullptr;
    Require(loaded.ok() == (fits || serves_), "GetOrLoad: refuses, or exceeds the limit");
    Require(!is_in_cache || fits, "GetOrLoad: enters what does not fit");
    if (!loaded.ok()) {
      Require(absl::IsResourceExhausted(loaded.status()), "GetOrLoad: another error");
    } else {
      Require(is_in_cache == fits, "GetOrLoad: does not enter what fits");
      if (is_in_cache) known = {*std::move(loaded), known.weak};
    }
    if (is_in_cache) Remember(known);
  }

  void Put(int key, bool if_absent, const CacheStats& before) {
    const uint64_t weight = Weight();
    Known& known = known_[static_cast<size_t>(key)];
    if (if_absent && !known.weak.expired()) {
      Require(!cache_.PutIfAbsent(key, Weighed{weight}).second, "PutIfAbsent: replaces");
      return;
    }
    Ref<Weighed> put;
    if (if_absent) {
      put = cache_.PutIfAbsent(key, Weighed{weight}).first;
    } else if (bytes_.Next(4) == 0) {
      put = cache_.Put(key, MakeRef<Weighed>(Weighed{weight}));
    } else {
      put = cache_.Put(key, Weighed{weight});
    }
    const uint64_t replaced = known.held == nullptr ? 0 : known.held->weight;
    const bool is_in_cache = cache_.Peek(key) != nullptr;
    Require(put->weight == weight, "Put: another object");
    Require(is_in_cache || before.bytes_in_use + weight > limit_, "Put: does not enter what fits");
    Require(!is_in_cache || before.bytes_in_use - replaced + weight <= limit_,
            "Put: enters what does not fit");
    known = Known();
    if (!is_in_cache) return;
    known.held = std::move(put);
    Remember(known);
  }

  void Weigh(int key) {
    Known& known = known_[static_cast<size_t>(key)];
    const Ref<Weighed> object = known.weak.lock();
    if (object == nullptr) {
      Require(!cache_.UpdateWeight(key), "UpdateWeight: of what is not there");
      return;
    }
    uint64_t others = 0;
    for (const Known& other : known_) {
      if (&other != &known && other.held != nullptr) others += other.held->weight;
    }
    const uint64_t before = object->weight;
    const_cast<Weighed&>(*object).weight = Weight();
    Require(cache_.UpdateWeight(key), "UpdateWeight: misses an object");
    const bool stays = object->weight <= before || others + object->weight <= limit_;
    Require((cache_.Peek(key) != nullptr) == stays, "UpdateWeight: a wrong object leaves");
    if (!stays) known = Known();
  }

  void Remember(Known& known) {
    known.weak = known.held;
    if (bytes_.Next(2) == 0) known.held.reset();
  }

  void Compare() {
    uint64_t in_use = 0;
    uint64_t idle = 0;
    size_t count = 0;
    for (int key = 0; key < kKeys; ++key) {
      const Known& known = known_[static_cast<size_t>(key)];
      const Ref<Weighed> object = known.weak.lock();
      Require(cache_.Peek(key) == object, "contents: another object");
      if (object == nullptr) continue;
      ++count;
      (known.held == nullptr ? idle : in_use) += object->weight;
    }
    const CacheStats stats = cache_.Stats();
    Require(stats.bytes_in_use == in_use && stats.bytes_idle == idle, "a wrong sum");
    Require(stats.bytes_reserved == 0, "a reservation is left");
    Require(cache_.charged_bytes() == in_use + idle, "the hard limit counts something else");
    Require(cache_.size() == count, "a wrong size");
    cache_.CheckInvariantsForTesting();
  }

  uint64_t Weight() { return 1 + static_cast<uint64_t>(bytes_.Next(128)); }
  void Require(bool condition, const char* what) {
    if (condition || !result_.failure.empty()) return;
    result_.failure = std::string(what) + ", operation " + std::to_string(result_.operations);
    std::fprintf(stderr, "script: %s\n", result_.failure.c_str());
  }

  ScriptBytes bytes_;
  const bool trace_;
  ScriptResult result_;
  uint64_t budget_;
  uint64_t limit_;
  const bool serves_;
  Cache cache_;
  std::array<Known, kKeys> known_;
};

}  // namespace

// The first bytes choose the budget, the hard limit, and what a load does that exceeds it.
ScriptResult RunLargeObjectCacheScript(const uint8_t* data, size_t size, bool trace) {
  return CacheScript(ScriptBytes(data, size), trace).Run();
}

}  // namespace weakcache::testing
