// SPDX-License-Identifier: Apache-2.0
// Seeded scripts of operations on a LargeObjectCache whose objects have lives, against a model of
// what is fresh: lives of their own and by the options, last uses, refreshes and their back-off,
// expired objects for loads that fail, kept failures, and groups. In virtual time, on one thread,
// without jitter; the time often stops just before, at, or just after an instant that matters.
//
//   WEAKCACHE_SCRIPT_SEED=N  runs the script of that seed only, and prints its operations
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/rounds.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Page {
  int version = 0;
};
using Cache = LargeObjectCache<int, Page>;
using Group = std::optional<uint32_t>;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kNever = INT64_MAX;
// The last use that is recorded may be so much older than the last one, in a cache whose
// `expire_after_access` is that: see the option. Two ticks of 67 ms come on top.
constexpr int64_t AccessResolution(int64_t access) {
  return std::min(access / 16, kSecond) + 2 * (int64_t{1} << 26);
}

class FreshnessScript {
 public:
  FreshnessScript(uint64_t seed, bool trace) : random_(seed), trace_(trace), cache_(MakeCache()) {}

  // Returns what went wrong, or nothing.
  std::string Run() {
    for (operation_ = 0; operation_ < kOperations && failure_.empty(); ++operation_) {
      Operate();
      Compare();
    }
    return failure_;
  }

 private:
  static constexpr int kOperations = 300;
  static constexpr int kKeys = 6;
  static constexpr uint32_t kGroups = 3;

  // What the model knows of an object. Times in nanoseconds.
  struct Object {
    int64_t written = 0;
    int64_t life = kNever;
    int64_t due = kNever;  // for a refresh, since it was written
    int refresh_failures = 0;
    // Between these is the last use that the cache has recorded.
    int64_t used_from = 0;
    int64_t used_until = 0;
    Group group = {};
    bool invalidated = false;
  };
  struct Failure {
    int64_t until;
    absl::StatusCode code;
    Group group;
  };
  // What a loader does.
  struct Plan {
    absl::StatusCode code = absl::StatusCode::kOk;
    int version = 0;
    Loaded<Page> loaded;
    LoadOptions options;
    int64_t takes = 0;
    std::function<void()> meanwhile = [] {};
  };
  // A load or refresh under way.
  struct Flight {
    int key;
    Group group;
    bool is_refresh;
    bool cancelled = false;
    bool superseded = false;
    std::set<uint32_t> invalidated = {};  // groups
    int refreshed = 0;                    // the version, of a refresh
  };
  // The version that a call returns, or how it fails.
  struct Result {
    int version = 0;  // 0: none
    absl::StatusCode code = absl::StatusCode::kOk;
    bool operator==(const Result&) const = default;
  };

  // ---- Chance.
  int Next(int below) { return static_cast<int>(random_() % static_cast<uint64_t>(below)); }
  int NextKey() { return Next(kKeys); }
  Group NextGroup() { return Next(2) == 0 ? Group() : Group(static_cast<uint32_t>(Next(kGroups))); }
  int64_t Seconds(int below) { return (1 + Next(below)) * kSecond; }

  Cache MakeCache() {
    Cache::Options options = testing::WithBudget<Cache>(1'000'000);
    options.weigher = [](const Page&) { return uint64_t{1}; };
    options.shards = 1;
    options.clock = [this] { return absl::FromUnixNanos(now_); };
    if (Next(2) == 0) write_ = Seconds(20);
    if (Next(3) == 0) access_ = Seconds(20);
    if (Next(2) == 0) refresh_ = Seconds(10);
    if (refresh_ >= write_) refresh_ = kNever;
    // With both, an object's end would depend on uses that the model knows only roughly.
    if (access_ == kNever && Next(3) != 0) stale_ = Seconds(10);
    options.expire_after_write = AsDuration(write_);
    options.expire_after_access = AsDuration(access_);
    options.refresh_after_write = AsDuration(refresh_);
    options.stale_if_error = AsDuration(stale_);
    backoff_ = Next(3) == 0 ? 0 : Seconds(2);
    backoff_limit_ = backoff_ == 0 ? kSecond : backoff_ * (1 + Next(5));
    options.refresh_backoff = {AsDuration(backoff_), AsDuration(backoff_limit_), 0};
    options.failure_ttl = [](const absl::Status& status) {
      return AsDuration(TtlOf(status.code()));
    };
    options.removal_listener = [this](int, const Ref<Page>& page, RemovalCause cause, uint64_t) {
      CheckRemoval(page, cause);
    };
    if (trace_) {
      std::printf("write %.0f, access %.0f, refresh %.0f, stale %.0f\n", AsSeconds(write_),
                  AsSeconds(access_), AsSeconds(refresh_), AsSeconds(stale_));
    }
    return std::move(Cache::Create(std::move(options))).value();
  }
  static absl::Duration AsDuration(int64_t time) {
    return time == kNever ? absl::InfiniteDuration() : absl::Nanoseconds(time);
  }
  static double AsSeconds(int64_t time) { return static_cast<double>(time) / kSecond; }
  static int64_t TtlOf(absl::StatusCode code) {
    return code == absl::StatusCode::kNotFound ? 5 * kSecond : 0;
  }

  // Something that a loader or Put makes.
  Loaded<Page> NextLoaded() {
    objects_.emplace_back();
    Loaded<Page> loaded{.object = Page{static_cast<int>(objects_.size()) - 1}};
    if (Next(3) == 0) loaded.expires_after = absl::Nanoseconds((Next(12) - 1) * kSecond);
    if (Next(8) == 0) loaded.expires_after = absl::InfiniteDuration();
    if (Next(3) == 0) loaded.refresh_after = absl::Nanoseconds(Next(8) * kSecond);
    if (Next(3) == 0) loaded.group = NextGroup();
    return loaded;
  }
  Plan NextPlan(int key, bool alone) {
    Plan plan;
    const int kind = Next(6);
    if (kind == 0) plan.code = absl::StatusCode::kNotFound;
    if (kind == 1) plan.code = absl::StatusCode::kUnavailable;
    plan.loaded = NextLoaded();
    plan.version = plan.loaded.object.version;
    plan.options.group = NextGroup();
    if (!alone) return plan;
    if (Next(4) == 0) plan.takes = Next(3) * kSecond;
    switch (Next(12)) {
      case 0:
        plan.meanwhile = [this, key] { Invalidate(key); };
        break;
      case 1:
        plan.meanwhile = [this] { InvalidateGroup(); };
        break;
      case 2:
        plan.meanwhile = [this] { Clear(); };
        break;
      case 3:
        plan.meanwhile = [this, key] { Put(key); };
        break;
      default:
        break;
    }
    return plan;
  }

  // ---- The model.
  Object& ObjectOf(int version) { return objects_[static_cast<size_t>(version)]; }
  static bool IsDue(int64_t since, int64_t now, int64_t life) {
    return life != kNever && now - since >= life;
  }
  static int64_t Sum(int64_t a, int64_t b) { return a > kNever - b ? kNever : a + b; }
  // Returns whether somebody holds the object: a refresh that is under way does.
  bool IsInUse(const Object& object) const {
    return flight_ != nullptr && flight_->refreshed != 0 &&
           &object == &objects_[static_cast<size_t>(flight_->refreshed)];
  }
  bool IsIdleSince(int64_t used, const Object& object) const {
    return IsDue(used, now_, access_) && !IsInUse(object);
  }
  bool IsExpired(const Object& object) const {
    return object.invalidated || IsDue(object.written, now_, object.life) ||
           IsIdleSince(object.used_until, object);
  }
  bool MayBeExpired(const Object& object) const {
    return IsExpired(object) || IsIdleSince(object.used_from, object);
  }
  bool IsRemovable(const Object& object) const {
    return object.invalidated || IsDue(object.written, now_, Sum(object.life, stale_)) ||
           IsIdleSince(object.used_until, object);
  }
  // Finds out by the cache what the model can't know: whether the last use is too long ago.
  void Resolve(int key) {
    const auto found = present_.find(key);
    if (found == present_.end()) return;
    Object& object = ObjectOf(found->second);
    if (!IsExpired(object) && IsInUse(object) && IsDue(object.used_from, now_, access_)) {
      Require(cache_.Peek(key).get() != nullptr, "an object in use has expired");
      object.used_from = now_ - access_ + 1;
      object.used_until = now_;  // if the time was over
    }
    if (IsExpired(object) || !MayBeExpired(object)) return;
    if (cache_.Peek(key).get() != nullptr) {
      object.used_from = now_ - access_ + 1;
    } else {
      object.used_until = now_ - access_;
    }
  }
  // Returns the version under the key that a look-up finds, or 0; and that a failing load gives.
  int Fresh(int key) {
    const auto found = present_.find(key);
    return found == present_.end() || IsExpired(ObjectOf(found->second)) ? 0 : found->second;
  }
  int Stale(int key) {
    const auto found = present_.find(key);
    if (found == present_.end()) return 0;
    const Object& object = ObjectOf(found->second);
    return !IsExpired(object) || IsRemovable(object) ? 0 : found->second;
  }
  void RecordUse(int version) {
    Object& object = ObjectOf(version);
    object.used_until = now_;
    if (access_ != kNever) {
      object.used_from = std::max(object.used_from, now_ - AccessResolution(access_));
    }
  }
  void Enter(int key, const Loaded<Page>& loaded, const Group& group) {
    Object& object = ObjectOf(loaded.object.version);
    object.written = object.used_from = object.used_until = now_;
    object.life = LifeOf(loaded.expires_after, write_);
    object.due = LifeOf(loaded.refresh_after, refresh_);
    object.group = group;
    present_[key] = loaded.object.version;
  }
  static int64_t LifeOf(const std::optional<absl::Duration>& own, int64_t otherwise) {
    if (!own.has_value()) return otherwise;
    return std::max(absl::ToInt64Nanoseconds(*own), int64_t{0});
  }
  // Returns whether a failure is handed out for the key.
  bool HasFailure(int key) {
    const auto failure = failures_.find(key);
    return failure != failures_.end() && now_ < failure->second.until;
  }
  Result FailureOrStale(absl::StatusCode code, int stale) {
    if (stale == 0) return {0, code};
    ++stale_served_;
    return {stale};
  }
  Result KeptFailureOrStale(int key, int stale) {
    ++failures_served_;
    return FailureOrStale(failures_.at(key).code, stale);
  }

  // ---- Loads: the call of the cache runs the loader, and then the model does the same.
  absl::StatusOr<Loaded<Page>> Load(Plan& plan) {
    ++calls_;
    now_ += plan.takes;
    plan.meanwhile();
    if (plan.code != absl::StatusCode::kOk) return absl::Status(plan.code, "");
    return plan.loaded;
  }
  // Returns what the load gives to those that wait for it, and enters it.
  Result EndLoad(int key, const Plan& plan, const Flight& flight) {
    if (plan.code != absl::StatusCode::kOk) {
      const int64_t ttl = TtlOf(plan.code);
      if (!flight.cancelled && ttl > 0) failures_[key] = {now_ + ttl, plan.code, flight.group};
      return {0, plan.code};
    }
    if (flight.superseded && Fresh(key) != 0) return {Fresh(key)};
    EnterUnlessCancelled(key, plan, flight);
    return {plan.version};
  }
  bool EnterUnlessCancelled(int key, const Plan& plan, const Flight& flight) {
    const Group group = plan.loaded.group.has_value() ? plan.loaded.group : flight.group;
    const bool invalidated = group.has_value() && flight.invalidated.contains(*group);
    if (flight.cancelled || invalidated) return false;
    Enter(key, plan.loaded, group);
    return true;
  }
  // Returns the version that the cache has after the refresh of `old`, or how it has failed.
  Result EndRefresh(int key, int old, const Plan& plan, const Flight& flight) {
    if (plan.code != absl::StatusCode::kOk) {
      BackOff(ObjectOf(old));
      return {0, plan.code};
    }
    const bool stays = present_.contains(key) && present_.at(key) == old;
    if (stays && EnterUnlessCancelled(key, plan, flight)) return {plan.version};
    return {Fresh(key) != 0 ? Fresh(key) : plan.version};
  }
  void BackOff(Object& object) const {
    ++object.refresh_failures;
    if (backoff_ == 0 || object.due == kNever) return;
    int64_t delay = backoff_;
    for (int i = 1; i < object.refresh_failures && delay < backoff_limit_; ++i) delay *= 2;
    delay = std::min(delay, backoff_limit_);
    object.due = std::max(object.due, now_ - object.written + delay);
  }
  Group GroupOfRefresh(const Plan& plan, int old) {
    return plan.options.group.has_value() ? plan.options.group : ObjectOf(old).group;
  }

  // ---- Operations.
  void Operate() {
    if (Next(3) == 0) return Pass();
    const int key = NextKey();
    switch (Next(20)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
        return GetOrLoad(key, /*async=*/false);
      case 5:
      case 6:
        return GetOrLoad(key, /*async=*/true);
      case 7:
      case 8:
        return Get(key);
      case 9:
      case 10:
        return GetAll();
      case 11:
        return Put(key);
      case 12:
        return PutIfAbsent(key);
      case 13:
        return Refresh(key);
      case 14:
        return SetExpiry(key);
      case 15:
        return Invalidate(key);
      case 16:
      case 17:
        return InvalidateGroup();
      case 18:
        return Next(2) == 0 ? Clear() : InvalidateIf();
      default:
        return Purge();
    }
  }

  // Lets time pass: often until just before, at, or just after an instant that matters.
  void Pass() {
    std::vector<int64_t> instants;
    for (const auto& [key, version] : present_) {
      const Object& object = ObjectOf(version);
      for (const int64_t life : {object.life, Sum(object.life, stale_), object.due}) {
        if (life != kNever) instants.push_back(object.written + life);
      }
      if (access_ != kNever) instants.push_back(object.used_until + access_);
    }
    for (const auto& [key, failure] : failures_) instants.push_back(failure.until);
    std::erase_if(instants, [this](int64_t instant) { return instant <= now_ + 1; });
    if (instants.empty() || Next(3) == 0) {
      const int64_t steps[] = {1, kSecond / 100, kSecond / 2, kSecond, 3 * kSecond};
      now_ += steps[Next(5)];
    } else {
      now_ = instants[static_cast<size_t>(Next(static_cast<int>(instants.size())))] + Next(3) - 1;
    }
    Say("pass", -1);
  }
  void Get(int key) {
    Say("Get", key);
    Resolve(key);
    const int fresh = Fresh(key);
    const Ref<Page> found = cache_.Get(key);
    Require((found.get() == nullptr ? 0 : found->version) == fresh, "Get");
    if (fresh != 0) RecordUse(fresh);
  }
  void GetOrLoad(int key, bool async) {
    Say(async ? "GetOrLoadAsync" : "GetOrLoad", key);
    Resolve(key);
    Plan plan = NextPlan(key, /*alone=*/true);
    const int fresh = Fresh(key);
    const int stale = Stale(key);
    const bool due = fresh != 0 && IsDue(ObjectOf(fresh).written, now_, ObjectOf(fresh).due);
    const bool fails = fresh == 0 && HasFailure(key);
    const bool loads = fresh == 0 ? !fails : due;
    if (fresh != 0) RecordUse(fresh);
    Flight flight{key, due ? GroupOfRefresh(plan, fresh) : plan.options.group, due};
    if (due) flight.refreshed = fresh;
    if (loads) flight_ = &flight;
    const int calls = calls_;
    const Result result = Ask(key, plan, async);
    flight_ = nullptr;
    Require(calls_ - calls == (loads ? 1 : 0), "GetOrLoad: a load too many, or none");
    Result expected;
    if (fails) {
      expected = KeptFailureOrStale(key, stale);
    } else if (fresh == 0) {
      expected = EndLoad(key, plan, flight);
      if (expected.version == 0) expected = FailureOrStale(expected.code, stale);
    } else {
      if (due) expected = EndRefresh(key, fresh, plan, flight);
      if (async || expected.version == 0) expected = {fresh};
    }
    Require(result == expected, "GetOrLoad");
  }
  Result Ask(int key, Plan& plan, bool async) {
    const auto load = [this, &plan] { return Load(plan); };
    const auto run = [](const auto& task) { task(); };
    const absl::StatusOr<Ref<Page>> page =
        async ? cache_.GetOrLoadAsync(key, load, run, plan.options).get()
              : cache_.GetOrLoad(key, load, plan.options);
    if (!page.ok()) return {0, page.status().code()};
    return {(*page)->version};
  }
  void GetAll() {
    Say("GetAll", -1);
    std::vector<int> keys;
    std::map<int, Plan> plans;
    const Group group = NextGroup();
    std::map<int, Result> expected;
    std::set<int> missing;
    for (int key = 0; key < kKeys; ++key) {
      if (Next(2) == 0) continue;
      keys.push_back(key);
      Resolve(key);
      Plan& plan = plans[key] = NextPlan(key, /*alone=*/false);
      plan.options.group = group;
      if (const int fresh = Fresh(key); fresh != 0) {
        RecordUse(fresh);
        expected[key] = {fresh};
      } else if (HasFailure(key)) {
        expected[key] = KeptFailureOrStale(key, Stale(key));
      } else {
        missing.insert(key);
        const int stale = Stale(key);
        expected[key] = EndLoad(key, plan, Flight{key, group, false});
        if (expected[key].version == 0) expected[key] = FailureOrStale(plan.code, stale);
      }
    }
    std::set<int> loaded;
    const auto load = [&](const std::vector<int>& of) {
      std::vector<absl::StatusOr<Loaded<Page>>> pages;
      for (const int key : of) {
        loaded.insert(key);
        pages.push_back(Load(plans.at(key)));
      }
      return pages;
    };
    LoadOptions options;
    options.group = group;
    const auto pages = cache_.GetAll(keys, load, options);
    for (size_t i = 0; i < keys.size(); ++i) {
      const Result result =
          pages[i].ok() ? Result{(*pages[i])->version} : Result{0, pages[i].status().code()};
      Require(result == expected.at(keys[i]), "GetAll");
    }
    Require(loaded == missing, "GetAll: loads something else");
  }
  void Put(int key) {
    Say("Put", key);
    const Loaded<Page> loaded = NextLoaded();
    Require(cache_.Put(key, Loaded<Page>(loaded))->version == loaded.object.version, "Put");
    EndPut(key, loaded);
  }
  void EndPut(int key, const Loaded<Page>& loaded) {
    failures_.erase(key);
    if (flight_ != nullptr && flight_->key == key && !flight_->is_refresh) {
      flight_->cancelled = flight_->superseded = true;
    }
    Enter(key, loaded, loaded.group);
  }
  void PutIfAbsent(int key) {
    Say("PutIfAbsent", key);
    Resolve(key);
    const Loaded<Page> loaded = NextLoaded();
    const int fresh = Fresh(key);
    const auto [page, is_new] = cache_.PutIfAbsent(key, Loaded<Page>(loaded));
    Require(is_new == (fresh == 0), "PutIfAbsent");
    Require(page->version == (fresh != 0 ? fresh : loaded.object.version), "PutIfAbsent: another");
    if (fresh == 0) EndPut(key, loaded);
  }
  void Refresh(int key) {
    Say("Refresh", key);
    Resolve(key);
    Plan plan = NextPlan(key, /*alone=*/true);
    const int fresh = Fresh(key);
    if (fresh == 0) failures_.erase(key);
    Flight flight{key, fresh == 0 ? plan.options.group : GroupOfRefresh(plan, fresh), fresh != 0};
    flight.refreshed = fresh;
    flight_ = &flight;
    const auto load = [this, &plan] { return Load(plan); };
    const absl::Status status = cache_.Refresh(key, load, plan.options);
    flight_ = nullptr;
    if (fresh == 0) {
      EndLoad(key, plan, flight);
    } else {
      EndRefresh(key, fresh, plan, flight);
    }
    Require(status.code() == plan.code, "Refresh");
  }
  void SetExpiry(int key) {
    Say("SetExpiry", key);
    Resolve(key);
    const int fresh = Fresh(key);
    const int64_t life = (Next(12) - 1) * kSecond;
    Require(cache_.SetExpiry(key, absl::Nanoseconds(life)) == (fresh != 0), "SetExpiry");
    if (fresh == 0) return;
    Object& object = ObjectOf(fresh);
    object.life = now_ - object.written + std::max(life, int64_t{0});
  }
  void Invalidate(int key) {
    Say("Invalidate", key);
    const bool is_there = Fresh(key) != 0 || Stale(key) != 0;
    const bool removed = cache_.Invalidate(key);
    Require(removed || !is_there || access_ != kNever, "Invalidate: misses an object");
    Require(!removed || present_.contains(key), "Invalidate: of nothing");
    Forget(key);
  }
  void InvalidateGroup() {
    const auto group = static_cast<uint32_t>(Next(kGroups));
    Say("InvalidateGroup", static_cast<int>(group));
    cache_.InvalidateGroup(group);
    for (const auto& [key, version] : present_) {
      Object& object = ObjectOf(version);
      if (object.group == group) object.invalidated = true;
    }
    std::erase_if(failures_, [&](const auto& failure) { return failure.second.group == group; });
    if (flight_ == nullptr) return;
    flight_->invalidated.insert(group);
    if (flight_->group == group) flight_->cancelled = true;
  }
  void Clear() {
    Say("Clear", -1);
    cache_.Clear();
    Require(cache_.empty(), "Clear: leaves something");
    for (int key = 0; key < kKeys; ++key) Forget(key);
  }
  void InvalidateIf() {
    Say("InvalidateIf", -1);
    const int rest = Next(2);
    cache_.InvalidateIf([&](int key) { return key % 2 == rest; });
    for (int key = rest; key < kKeys; key += 2) Forget(key);
  }
  void Forget(int key) {
    present_.erase(key);
    failures_.erase(key);
    if (flight_ != nullptr && flight_->key == key) flight_->cancelled = true;
  }
  void Purge() {
    Say("Purge", -1);
    for (int key = 0; key < kKeys; ++key) Resolve(key);
    cache_.Purge();
    std::erase_if(present_, [&](const auto& entry) { return IsRemovable(ObjectOf(entry.second)); });
    Require(cache_.size() == present_.size(), "Purge: leaves something, or takes too much");
  }

  // ---- Comparison.
  void CheckRemoval(const Ref<Page>& page, RemovalCause cause) {
    if (page.get() == nullptr) return Require(false, "an object has died in the cache");
    const Object& object = ObjectOf(page->version);
    if (object.invalidated) {
      Require(cause == RemovalCause::kInvalidated, "a cause other than the invalidated group");
    } else if (IsExpired(object)) {
      Require(cause == RemovalCause::kExpired, "a cause other than the expiry");
    } else if (!MayBeExpired(object)) {
      Require(cause == RemovalCause::kReplaced || cause == RemovalCause::kInvalidated,
              "a cause that can't be");
    }
  }
  void Compare() {
    for (int key = 0; key < kKeys; ++key) {
      Resolve(key);
      const Ref<Page> found = cache_.Peek(key);
      const int version = found.get() == nullptr ? 0 : found->version;
      Require(version == Fresh(key), "contents");
    }
    const CacheStats stats = cache_.Stats();
    Require(stats.stale_served == stale_served_, "a wrong number of stale objects");
    Require(stats.failures_served == failures_served_, "a wrong number of kept failures");
    cache_.CheckInvariantsForTesting();
  }
  void Say(const char* operation, int key) {
    if (!trace_) return;
    std::printf("%d at %.9f: %s %d\n", operation_, AsSeconds(now_), operation, key);
  }
  void Require(bool condition, const char* what) {
    if (condition || !failure_.empty()) return;
    failure_ = std::string(what) + ", operation " + std::to_string(operation_);
  }

  std::mt19937_64 random_;
  const bool trace_;
  int operation_ = 0;
  std::string failure_;
  int64_t now_ = 1000 * kSecond;
  // The options.
  int64_t write_ = kNever;
  int64_t access_ = kNever;
  int64_t refresh_ = kNever;
  int64_t stale_ = 0;
  int64_t backoff_ = 0;
  int64_t backoff_limit_ = 0;
  // The model.
  std::vector<Object> objects_ = std::vector<Object>(1);  // by version; there is no version 0
  std::map<int, int> present_;                            // versions by key; expired ones, too
  std::map<int, Failure> failures_;
  Flight* flight_ = nullptr;
  int calls_ = 0;
  uint64_t stale_served_ = 0;
  uint64_t failures_served_ = 0;

  Cache cache_;
};

TEST(LargeObjectCacheFreshnessScriptTest, TheCacheAgreesWithTheModel) {
  constexpr uint64_t kAllSeeds = testing::kSanitized ? 1000 : 10'000;
  const char* const only = std::getenv("WEAKCACHE_SCRIPT_SEED");
  const uint64_t first = only != nullptr ? std::strtoull(only, nullptr, 10) : 1;
  const uint64_t seeds = only != nullptr ? 1 : testing::Rounds(kAllSeeds, kAllSeeds / 20);
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    SCOPED_TRACE("WEAKCACHE_SCRIPT_SEED=" + std::to_string(seed));
    ASSERT_EQ(FreshnessScript(seed, only != nullptr).Run(), "");
  }
}

}  // namespace
}  // namespace weakcache
