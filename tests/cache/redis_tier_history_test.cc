// SPDX-License-Identifier: Apache-2.0
// Several processes, each with a LargeObjectCache on a RedisTier of its own, change and look up a
// few keys at random on one server; what each has seen is checked against a history that all share
// (tests/support/tier_history.h). Processes are killed meanwhile, and the server gets into trouble.
//
// The source of a key is the number of its newest version. Whoever changes a key is the only one
// that changes it then; raises the number; and calls Put, Invalidate, InvalidateIf, InvalidateGroup
// or Clear of its cache. Loaders return the version that is the newest as they begin. A change is
// *returned* when that call has returned, and *made* once the tier has it, which a process sees by
// a look-up in its tier that succeeds after the call: it waits for earlier changes of the process,
// and fails while their connection is lost. So the time during which a process that makes a change
// has no connection does not count; the others do not hear of the change before.
//
// For each look-up that finds an object:
//
// 1. It is a version of that key, and not a newer one than the source has.
// 2. In the process that has made a change, look-ups that begin after its return find no older
//    version. (InvalidateIf: the same; in other processes it need not reach an object that is in no
//    tier, so an Invalidate of the same keys follows it here.)
// 3. Once AwaitNotices has returned OK, no look-up of the process finds anything older than the
//    changes that were made before AwaitNotices was called. Likewise once the process was told of a
//    change of that key, of its group or of everything, or of a lost or regained connection, as to
//    the changes of the key's own entry that were made before it was told. (The erasure of a group
//    or of everything is in force in a process when the process hears of that very erasure.)
// 4. The tier itself has nothing older than 2 and 3 say, nor than a change of the key's own entry
//    that was made before the look-up in the tier began.
// 5. No look-up finds anything older than a change that was made longer ago than the bound of
//    RedisTierOptions::heartbeat_interval: that interval and `hard_timeout`; and some time for a
//    machine that has other things to do. While a process is not connected, and knows it, this does
//    not hold: it drops everything when the connection is back, and only from then on it counts.
// 6. At the end, when nothing changes any more, all have made their changes, and have heard of the
//    others': all look-ups of all processes find the newest version.
//
// 1 to 4 and 6 know no time, so that 5 need not be tight: how long old versions were really seen is
// printed. A process that is killed loses changes that are not made: the one that takes its place
// repeats them; before that, the killed one's connections are closed at the server, which else
// might do later what they have sent. No call takes longer than a minute.
//
//   WEAKCACHE_HISTORY_SEED=N  draws other operations
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/redis_server.h"
#include "tests/support/rounds.h"
#include "tests/support/tier_history.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/redis_tier.h"
#include "weakcache/cache/redis_tier_options.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::Raise;
using testing::RedisServer;
using testing::SharedTierHistory;
using testing::TierHistory;
using testing::TierLook;
using Act = TierHistory::Act;
using Cache = LargeObjectCache<int, std::string>;

constexpr int kKeys = TierHistory::kKeys;
constexpr absl::Duration kHeartbeat = absl::Seconds(1);
constexpr absl::Duration kHardTimeout = absl::Seconds(4);
constexpr absl::Duration kBusyMachine = absl::Seconds(5);
constexpr absl::Duration kLeaseDuration = absl::Milliseconds(200);
constexpr int64_t kHang = 60'000'000'000;
const int64_t kBound = absl::ToInt64Nanoseconds(kHeartbeat + kHardTimeout + kBusyMachine);

std::string UserOf(int process) { return "process" + std::to_string(process); }

void PauseBriefly() { std::this_thread::sleep_for(milliseconds(1)); }
// Not by giving way, which takes long on a machine that has other things to do.
void SpinFor(std::chrono::microseconds time) {
  const auto end = steady_clock::now() + time;
  while (steady_clock::now() < end) {
  }
}

RedisTierOptions OptionsOf(const TierHistory& history, int process) {
  const TierHistory::Settings& settings = history.settings;
  RedisTierOptions options;
  options.key_namespace = "history";
  options.address.unix_socket = history.socket.data();
  options.user = UserOf(process);
  options.password = "any";
  options.connect_timeout = absl::Seconds(4);
  // If the server pauses, loads do without it.
  options.soft_timeout = settings.has_trouble ? absl::Milliseconds(100) : absl::Seconds(4);
  options.hard_timeout = kHardTimeout;
  options.heartbeat_interval = kHeartbeat;
  options.min_backoff = absl::Milliseconds(5);
  options.max_backoff = absl::Milliseconds(50);
  options.lease_duration = kLeaseDuration;
  options.lease_timeout = absl::Milliseconds(settings.lease_timeout_ms);
  options.max_age = absl::Milliseconds(settings.max_age_ms);
  options.compress_above = 256;
  options.chunk_bytes = 1024;
  options.max_value_bytes = 1 << 20;
  return options;
}

// --- A process ---------------------------------------------------------------------------------

// An executor, whose tasks one thread runs.
class TaskThread {
 public:
  TaskThread() : thread_([this] { Run(); }) {}
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;
  ~TaskThread() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void Add(std::function<void()> task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return ends_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // guarded by the mutex, as is the next
  bool ends_ = false;
  std::thread thread_;
};

// What all threads of a process have.
class Process {
 public:
  Process(TierHistory& history, int number)
      : history_(history),
        number_(number),
        before_(std::make_shared<Listener>(*this, /*is_first=*/true)),
        after_(std::make_shared<Listener>(*this, /*is_first=*/false)) {}

  absl::Status Start() {
    // Nothing that was made before is hidden from a tier that connects now.
    for (int key = 0; key < kKeys; ++key) RaiseFloor(key, history_.key(key).made);
    absl::StatusOr<std::shared_ptr<RedisTier>> tier =
        RedisTier::Create(OptionsOf(history_, number_));
    if (!tier.ok()) return tier.status();
    tier_ = *std::move(tier);
    // Listeners are told in this order.
    tier_->Subscribe(before_);
    const bool writes_evicted = history_.settings.writes_evicted;
    // Not all objects have room, or hardly any.
    Cache::Options options = testing::WithBudget<Cache>(writes_evicted ? 700 : 12'000);
    if (writes_evicted) {
      options.tier_write = TierWrite::kOnEviction;
      options.refresh_executor = [this](std::function<void()> task) {
        tasks_.Add(std::move(task));
      };
    }
    options.weigher = [](const std::string& value) { return value.size() + 100; };
    options.second_tier = tier_;
    options.codec = std::make_shared<const ContiguousCodec<std::string>>();
    absl::StatusOr<Cache> cache = Cache::Create(std::move(options));
    if (!cache.ok()) return cache.status();
    cache_.emplace(*std::move(cache));
    tier_->Subscribe(after_);
    return absl::OkStatus();
  }

  TierHistory& history() { return history_; }
  int number() const { return number_; }
  RedisTier& tier() { return *tier_; }
  Cache& cache() { return *cache_; }

  uint64_t floor(int key) const { return floors_[static_cast<size_t>(key)]; }
  void RaiseFloor(int key, uint64_t version) { Raise(floors_[static_cast<size_t>(key)], version); }

  TierLook BeginLook(int actor, int key) const {
    return {.actor = actor,
            .began = TierHistory::Now(),
            .floor = floor(key),
            .connected_since = connected_since_};
  }
  void Judge(int key, std::string_view value, const TierLook& look) {
    history_.Judge(key, value, look, kBound);
  }

 private:
  // Of two listeners, the cache's is told in between.
  class Listener final : public TierListener {
   public:
    Listener(Process& process, bool is_first) : process_(process), is_first_(is_first) {}
    void OnChanged(std::string_view key) override {
      Told(std::atoi(std::string(key).c_str()), std::nullopt);
    }
    void OnGroupErased(uint32_t group) override { Told(-1, group); }
    void OnAllErased() override { Told(-1, std::nullopt); }
    void OnDisconnected() override {
      if (!is_first_) process_.connected_since_ = 0;
      Told(-1, std::nullopt);
    }
    void OnConnected() override {
      Told(-1, std::nullopt);
      if (!is_first_) process_.connected_since_ = TierHistory::Now();
    }

   private:
    void Told(int only_key, std::optional<uint32_t> only_group) {
      for (int key = 0; key < kKeys; ++key) {
        if (only_key >= 0 && key != only_key) continue;
        if (only_group.has_value() && *only_group != TierHistory::GroupOf(key)) continue;
        uint64_t& version = process_.made_before_told_[static_cast<size_t>(key)];
        if (is_first_) {
          version = process_.history_.key(key).made_in_place;
        } else {
          process_.RaiseFloor(key, version);
        }
      }
      if (is_first_) return;
      process_.history_.Log(process_.number_ * TierHistory::kThreads, Act::kTold, only_key, 0);
    }

    Process& process_;
    const bool is_first_;
  };

  TierHistory& history_;
  const int number_;
  // Only grow; any thread of the process.
  std::array<std::atomic<uint64_t>, kKeys> floors_ = {};
  std::atomic<int64_t> connected_since_{0};            // 0: it is not; set by the tier's thread
  std::array<uint64_t, kKeys> made_before_told_ = {};  // the tier's thread only
  const std::shared_ptr<Listener> before_;
  const std::shared_ptr<Listener> after_;
  TaskThread tasks_;
  std::shared_ptr<RedisTier> tier_;
  std::optional<Cache> cache_;
};

// A thread of a process.
class Actor {
 public:
  Actor(Process& process, int thread, uint64_t seed)
      : process_(process),
        history_(process.history()),
        number_(process.number() * TierHistory::kThreads + thread),
        own_(history_.actor(number_)),
        random_(seed * 1000 + static_cast<uint64_t>(number_)) {}

  void Run() {
    RepeatUnmade();
    while (history_.failures == 0 &&
           history_.operations.fetch_add(1) < history_.settings.operations)
      Step();
    while (history_.failures == 0 && !TryMake()) {
      // What the tier has refused is repeated by later loads.
      Refresh(static_cast<int>(random_() % kKeys));
      const Doing doing(*this, Act::kSettle, -1);
      PauseBriefly();
    }
  }

  // When nothing changes any more.
  void CheckAtEnd() {
    const Doing doing(*this, Act::kCheckAtEnd, -1);
    while (history_.failures == 0 && !AwaitNotices()) PauseBriefly();
    for (int key = 0; key < kKeys && history_.failures == 0; ++key) {
      const uint64_t newest = history_.key(key).source;
      if (history_.key(key).made != newest) Fail(key, "has a change that is not made");
      process_.RaiseFloor(key, newest);
      Look(key);
      Load(key);
      ReadTier(key);
    }
    process_.cache().CheckInvariantsForTesting();
  }

 private:
  // What the actor does now, for those that look whether it hangs.
  class Doing {
   public:
    Doing(Actor& actor, Act act, int key) : actor_(actor), began_(TierHistory::Now()) {
      actor_.own_.act = static_cast<int>(act);
      actor_.own_.key = key;
      actor_.own_.began = began_;
    }
    Doing(const Doing&) = delete;
    Doing& operator=(const Doing&) = delete;
    ~Doing() {
      actor_.own_.began = 0;
      Raise(actor_.history_.figures.longest_act, TierHistory::Now() - began_);
    }

   private:
    Actor& actor_;
    const int64_t began_;
  };
  // Versions that may not be made yet; 0: none. Those `in_place` have changed the key's own entry.
  struct Unmade {
    uint64_t version = 0;
    uint64_t in_place = 0;
  };

  void Step() {
    const int key = static_cast<int>(std::min(random_() % kKeys, random_() % kKeys));
    const uint64_t dice = random_() % 1000;
    if (dice < 540) return Load(key);
    if (dice < 700) return Look(key);
    if (dice < 730) return LoadSeveral(key);
    if (dice < 750) return Refresh(key);
    if (dice < 790) return ReadTier(key);
    if (dice < 830) {
      const Doing doing(*this, Act::kAwaitNotices, -1);
      (void)AwaitNotices();
      return;
    }
    const unsigned of_key = 1U << key;
    unsigned of_group = 0;
    for (int other = key % TierHistory::kGroups; other < kKeys; other += TierHistory::kGroups) {
      of_group |= 1U << other;
    }
    if (dice < 905) return Change(Act::kPut, of_key);
    if (dice < 960) return Change(Act::kInvalidate, of_key);
    if (dice < 972) return Change(Act::kInvalidateIf, dice % 2 == 0 ? of_key : of_group);
    if (dice < 995) return Change(Act::kInvalidateGroup, of_group);
    Change(Act::kClear, (1U << kKeys) - 1);
  }

  void Fail(int key, const std::string& what) { history_.Fail(number_, key, what); }
  void Log(Act act, int key, uint64_t version) { history_.Log(number_, act, key, version); }

  // --- Look-ups

  LoadOptions OptionsFor(int key) {
    LoadOptions options;
    options.group = TierHistory::GroupOf(key);
    if (random_() % 32 == 0) options.deadline = steady_clock::now() + milliseconds(1);
    return options;
  }
  // A loader, on any thread: begins with a look at the source, and takes its time then.
  static absl::StatusOr<std::string> LoadNewest(TierHistory& history, TierHistory::Actor& actor,
                                                int key, uint64_t dice) {
    actor.loading = 1;
    ++history.figures.loads;
    const uint64_t version = history.key(key).source;
    SpinFor(std::chrono::microseconds(dice % 64));
    if (dice / 4096 % 8 == 0) PauseBriefly();  // for long enough to be killed meanwhile
    actor.loading = 0;
    if (dice / 64 % 64 == 0) return absl::DataLossError("told to fail");
    return TierHistory::ValueOf(key, version);
  }
  absl::StatusOr<std::string> LoadNewest(int key) {
    return LoadNewest(history_, own_, key, random_());
  }
  void JudgeLoad(int key, const absl::StatusOr<Ref<std::string>>& object, const TierLook& look,
                 Act act) {
    if (object.ok()) {
      Log(act, key, TierHistory::VersionOf(key, **object));
      process_.Judge(key, **object, look);
    } else if (!absl::IsDataLoss(object.status()) && !absl::IsDeadlineExceeded(object.status())) {
      Fail(key, "can't be loaded: " + object.status().ToString());
    }
  }

  void Load(int key) {
    const Doing doing(*this, Act::kGetOrLoad, key);
    const LoadOptions options = OptionsFor(key);
    const TierLook look = process_.BeginLook(number_, key);
    JudgeLoad(key,
              process_.cache().GetOrLoad(
                  key, [&] { return LoadNewest(key); }, options),
              look, Act::kGetOrLoad);
  }
  // Of the key's group.
  void LoadSeveral(int key) {
    const Doing doing(*this, Act::kGetAll, key);
    const std::vector<int> keys = {key, (key + TierHistory::kGroups) % kKeys};
    std::vector<TierLook> looks;
    for (const int one : keys) looks.push_back(process_.BeginLook(number_, one));
    const auto load = [&](const std::vector<int>& missing) {
      std::vector<absl::StatusOr<std::string>> objects;
      for (const int one : missing) objects.push_back(LoadNewest(one));
      return objects;
    };
    const std::vector<absl::StatusOr<Ref<std::string>>> objects =
        process_.cache().GetAll(keys, load, OptionsFor(key));
    for (size_t i = 0; i < keys.size(); ++i) {
      JudgeLoad(keys[i], objects[i], looks[i], Act::kGetAll);
    }
  }
  void Look(int key) {
    const Doing doing(*this, Act::kGet, key);
    const TierLook look = process_.BeginLook(number_, key);
    const Ref<std::string> object =
        random_() % 2 == 0 ? process_.cache().Get(key) : process_.cache().Peek(key);
    if (object.get() == nullptr) return;
    Log(Act::kGet, key, TierHistory::VersionOf(key, *object));
    process_.Judge(key, *object, look);
  }
  void Refresh(int key) {
    const Doing doing(*this, Act::kRefresh, key);
    // May be called later, by a task.
    const auto load = [&history = history_, &own = own_, key, dice = random_()] {
      return LoadNewest(history, own, key, dice);
    };
    (void)process_.cache().Refresh(key, load, OptionsFor(key));
  }
  void ReadTier(int key) {
    const Doing doing(*this, Act::kReadTier, key);
    TierLook look = process_.BeginLook(number_, key);
    look.floor = std::max(look.floor, history_.key(key).made_in_place.load());
    const absl::StatusOr<TierEntry> entry = process_.tier().Get(std::to_string(key), {});
    if (entry.ok()) JudgeEntry(key, *entry, look);
  }
  void JudgeEntry(int key, const TierEntry& entry, const TierLook& look) {
    ++history_.figures.tier_reads;
    Log(Act::kReadTier, key, TierHistory::VersionOf(key, entry.bytes.view()));
    process_.Judge(key, entry.bytes.view(), look);
  }
  bool AwaitNotices() {
    std::array<uint64_t, kKeys> made = {};
    for (size_t key = 0; key < kKeys; ++key) made[key] = history_.keys[key].made;
    if (!process_.tier().AwaitNotices({}).ok()) return false;
    ++history_.figures.awaited;
    for (int key = 0; key < kKeys; ++key) process_.RaiseFloor(key, made[static_cast<size_t>(key)]);
    Log(Act::kAwaitNotices, -1, 0);
    return true;
  }

  // --- Changes

  static bool Has(unsigned keys, int key) { return (keys >> key & 1) != 0; }

  // Keeps others from changing the keys.
  bool TryLock(unsigned keys) {
    for (int key = 0; key < kKeys; ++key) {
      if (!Has(keys, key)) continue;
      int nobody = 0;
      if (history_.key(key).changer.compare_exchange_strong(nobody, number_ + 1)) continue;
      Unlock(keys & ((1U << key) - 1));
      return false;
    }
    return true;
  }
  void Unlock(unsigned keys) {
    for (int key = 0; key < kKeys; ++key) {
      if (Has(keys, key)) history_.key(key).changer = 0;
    }
  }
  void Change(Act act, unsigned keys) {
    const Doing doing(*this, act, -1);
    int attempts = 0;
    while (!TryLock(keys)) {
      if (++attempts == 20) return;
      SpinFor(std::chrono::microseconds(10));
    }
    ChangeLocked(act, keys);
    Unlock(keys);
    (void)TryMake();
  }
  void ChangeLocked(Act act, unsigned keys) {
    std::array<uint64_t, kKeys> versions = {};
    own_.unmade |= keys;
    for (int key = 0; key < kKeys; ++key) {
      if (!Has(keys, key)) continue;
      uint64_t& version = versions[static_cast<size_t>(key)];
      version = history_.key(key).source + 1;
      if (version >= TierHistory::kVersions) return Fail(key, "has more versions than expected");
      history_.key(key).source = version;
      Log(act, key, version);
    }
    ++history_.figures.changes;
    Tell(act, keys, versions);
    if (act == Act::kInvalidateIf) {
      NoteReturn(keys, versions, /*in_place=*/false);
      for (int key = 0; key < kKeys; ++key) {
        if (!Has(keys, key)) continue;
        Look(key);
        ReadTier(key);
      }
      Tell(Act::kInvalidate, keys, versions);
    }
    NoteReturn(keys, versions, act != Act::kInvalidateGroup && act != Act::kClear);
    for (int key = 0; key < kKeys; ++key) {
      if (Has(keys, key)) Look(key);
    }
  }
  void Tell(Act act, unsigned keys, const std::array<uint64_t, kKeys>& versions) {
    Cache& cache = process_.cache();
    for (int key = 0; key < kKeys; ++key) {
      if (!Has(keys, key)) continue;
      const uint32_t group = TierHistory::GroupOf(key);
      switch (act) {
        case Act::kPut:
          cache.Put(key, Loaded<std::string>{.object = TierHistory::ValueOf(
                                                 key, versions[static_cast<size_t>(key)]),
                                             .group = group});
          break;
        case Act::kInvalidate:
          cache.Invalidate(key);
          break;
        case Act::kInvalidateIf:
          cache.InvalidateIf([&](int other) { return Has(keys, other); });
          return;
        case Act::kInvalidateGroup:
          cache.InvalidateGroup(group);
          return;
        default:
          cache.Clear();
          return;
      }
    }
  }
  void NoteReturn(unsigned keys, const std::array<uint64_t, kKeys>& versions, bool in_place) {
    const int64_t now = TierHistory::Now();
    for (int key = 0; key < kKeys; ++key) {
      if (!Has(keys, key)) continue;
      const uint64_t version = versions[static_cast<size_t>(key)];
      history_.key(key).versions[version].returned = now;
      process_.RaiseFloor(key, version);
      Unmade& unmade = unmade_[static_cast<size_t>(key)];
      unmade.version = version;
      if (in_place) unmade.in_place = version;
    }
  }

  // Returns whether all changes are made that this actor has returned from.
  bool TryMake() {
    std::vector<int> keys;
    std::vector<std::string> names;
    std::vector<TierLook> looks;
    for (int key = 0; key < kKeys; ++key) {
      if (unmade_[static_cast<size_t>(key)].version == 0) continue;
      keys.push_back(key);
      names.push_back(std::to_string(key));
      looks.push_back(process_.BeginLook(number_, key));
      looks.back().floor = std::max(looks.back().floor, history_.key(key).made_in_place.load());
    }
    if (keys.empty()) return true;
    const std::vector<absl::StatusOr<TierEntry>> entries = process_.tier().GetAll(names, {});
    for (const absl::StatusOr<TierEntry>& entry : entries) {
      if (!entry.ok() && !absl::IsNotFound(entry.status())) return false;
    }
    if (history_.settings.has_trouble && !HasTakenAll()) return false;
    for (size_t i = 0; i < keys.size(); ++i) {
      if (entries[i].ok()) JudgeEntry(keys[i], *entries[i], looks[i]);
      NoteMade(keys[i]);
    }
    return true;
  }
  // Whether no change was refused, or has yet to be repeated. The tier's thread has noted refusals
  // by the time that it has told of notices that have come later.
  bool HasTakenAll() {
    return process_.tier().AwaitNotices({}).ok() && process_.cache().Stats().tier_condition.empty();
  }
  void NoteMade(int key) {
    const Unmade unmade = std::exchange(unmade_[static_cast<size_t>(key)], {});
    TierHistory::Key& of = history_.key(key);
    of.versions[unmade.version].made = TierHistory::Now();
    Raise(of.made, unmade.version);
    Raise(of.made_in_place, unmade.in_place);
    own_.unmade &= ~(1U << key);
    Log(Act::kMade, key, unmade.version);
  }

  // Repeats the changes that the killed process has left, at whose place this one is.
  void RepeatUnmade() {
    const unsigned unmade = own_.unmade;
    for (int key = 0; key < kKeys; ++key) {
      std::atomic<int>& changer = history_.key(key).changer;
      if (!Has(unmade, key) && changer != number_ + 1) continue;
      const Doing doing(*this, Act::kStart, key);
      while (changer != number_ + 1 && !TryLock(1U << key)) {
        if (history_.failures != 0) return;
        PauseBriefly();
      }
      ++history_.figures.repeated;
      ChangeLocked(Act::kInvalidate, 1U << key);
      Unlock(1U << key);
      (void)TryMake();
    }
  }

  Process& process_;
  TierHistory& history_;
  const int number_;
  TierHistory::Actor& own_;
  std::mt19937_64 random_;
  std::array<Unmade, kKeys> unmade_ = {};
};

void AddFigures(TierHistory::Figures& figures, const CacheStats& stats) {
  figures.tier_hits += stats.tier_hits;
  figures.leases_awaited += stats.tier_leases_awaited;
  figures.leases_lost += stats.tier_leases_lost;
  figures.notices += stats.tier_notices;
  figures.tier_errors += stats.tier_errors;
}

// Looks up and changes keys at random.
int RunAtRandom(TierHistory& history, int number, uint64_t seed) {
  std::atomic<TierHistory::State>& state = history.states[static_cast<size_t>(number)];
  {
    Process process(history, number);
    const absl::Status started = process.Start();
    if (!started.ok()) {
      history.Fail(number * TierHistory::kThreads, -1, "can't start: " + started.ToString());
      return 1;
    }
    std::vector<std::unique_ptr<Actor>> actors;
    std::vector<std::thread> threads;
    for (int thread = 0; thread < TierHistory::kThreads; ++thread) {
      actors.push_back(std::make_unique<Actor>(process, thread, seed));
    }
    for (const std::unique_ptr<Actor>& actor : actors) {
      threads.emplace_back([&actor] { actor->Run(); });
    }
    for (std::thread& thread : threads) thread.join();
    state = TierHistory::State::kSettled;
    while (history.failures == 0 && history.phase != TierHistory::Phase::kChecking) PauseBriefly();
    if (history.failures != 0) return 1;
    actors[0]->CheckAtEnd();
    AddFigures(history.figures, process.cache().Stats());
    TierHistory::Actor& ends = history.actor(number * TierHistory::kThreads);
    ends.act = static_cast<int>(Act::kEnd);
    ends.began = TierHistory::Now();
  }
  state = TierHistory::State::kDone;
  return history.failures == 0 ? 0 : 1;
}

// Leads a load of the first key, until it is killed.
int RunLeader(TierHistory& history) {
  Process process(history, 0);
  if (!process.Start().ok()) return 1;
  (void)process.cache().GetOrLoad(0, [&]() -> absl::StatusOr<std::string> {
    history.scene.leads = 1;
    while (true) ::pause();
  });
  return 1;
}
// Loads the same key meanwhile.
int RunFollower(TierHistory& history) {
  Process process(history, 1);
  if (!process.Start().ok()) return 1;
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done && process.tier().Stats().leases_awaited == 0) PauseBriefly();
    history.scene.waits = 1;
  });
  const TierLook look = process.BeginLook(TierHistory::kThreads, 0);
  const absl::StatusOr<Ref<std::string>> object =
      process.cache().GetOrLoad(0, [&] { return TierHistory::ValueOf(0, history.key(0).source); });
  history.scene.followed = TierHistory::Now();
  if (object.ok()) process.Judge(0, **object, look);
  done = true;
  watcher.join();
  return object.ok() && history.failures == 0 ? 0 : 1;
}

// --- The test's process ------------------------------------------------------------------------

uint64_t Seed() {
  const char* const wish = std::getenv("WEAKCACHE_HISTORY_SEED");
  return wish == nullptr ? 1 : std::strtoull(wish, nullptr, 10);
}

pid_t Spawn(const SharedTierHistory& history, const std::string& role, int number, uint64_t seed) {
  std::vector<std::string> words = {"redis_tier_history_test",      "--process",
                                    std::to_string(history.file()), role,
                                    std::to_string(number),         std::to_string(seed)};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t process = 0;
  const int error =
      ::posix_spawn(&process, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
  return error == 0 ? process : 0;
}
// Returns the exit code, or minus the signal that has ended the process.
int WaitFor(pid_t process) {
  int status = 0;
  ::waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// The processes with their server.
class Processes {
 public:
  explicit Processes(const TierHistory::Settings& settings,
                     const std::vector<std::string>& arguments = {})
      : server_(ArgumentsWith(arguments)), random_(Seed()) {
    history_->settings = settings;
    std::strncpy(history_->socket.data(), server_.socket().c_str(), history_->socket.size() - 1);
    for (int number = 0; number < TierHistory::kProcesses; ++number) Start(number);
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes() {
    for (const pid_t process : processes_) {
      if (process == 0) continue;
      ::kill(process, SIGKILL);
      WaitFor(process);
    }
  }

  RedisServer& server() { return server_; }
  TierHistory& history() { return *history_; }
  std::mt19937_64& random() { return random_; }

  // Calls `trouble` again and again until the operations are done, and lets the processes check
  // what they have at the end.
  void Run(const std::function<void()>& trouble) {
    const auto are = [this](TierHistory::State state) {
      return std::all_of(history_->states.begin(), history_->states.end(),
                         [&](const auto& other) { return other >= state; });
    };
    bool runs = true;
    while (runs && history_->operations < history_->settings.operations) {
      trouble();
      PauseBriefly();
      runs = Watch();
    }
    while (runs && !are(TierHistory::State::kSettled)) {
      PauseBriefly();
      runs = Watch();
    }
    history_->phase = TierHistory::Phase::kChecking;
    while (runs && !(are(TierHistory::State::kDone) && HaveEnded())) {
      PauseBriefly();
      runs = Watch();
    }
    if (history_->failures != 0) ADD_FAILURE() << history_->Report();
    Print();
  }

  void KillOne() {
    const int number = ChooseVictim();
    const auto place = static_cast<size_t>(number);
    ::kill(processes_[place], SIGKILL);
    ASSERT_EQ(WaitFor(processes_[place]), -SIGKILL) << "process " << number << " has ended";
    history_->Log(number * TierHistory::kThreads, Act::kKilled, -1, 0);
    for (int thread = 0; thread < TierHistory::kThreads; ++thread) {
      TierHistory::Actor& actor = history_->actor(number * TierHistory::kThreads + thread);
      actor.began = 0;
      killed_loads_ += actor.loading.exchange(0);
    }
    // The server might do later what it has not read yet.
    server_.Command({"CLIENT", "KILL", "USER", UserOf(number)});
    Start(number);
    ++kills_;
  }
  int kills() const { return kills_; }
  int killed_loads() const { return killed_loads_; }

 private:
  static std::vector<std::string> ArgumentsWith(std::vector<std::string> arguments) {
    for (int process = 0; process < TierHistory::kProcesses; ++process) {
      const std::vector<std::string> user = {"--user", UserOf(process), "on", "nopass", "~*",
                                             "&*",     "+@all"};
      arguments.insert(arguments.end(), user.begin(), user.end());
    }
    return arguments;
  }

  void Start(int number) {
    const auto place = static_cast<size_t>(number);
    history_->states[place] = TierHistory::State::kStarted;
    processes_[place] = Spawn(history_, "random", number, random_() % 1'000'000'000);
    EXPECT_NE(processes_[place], 0) << "process " << number << " can't be started";
  }
  // Prefers one that is just loading.
  int ChooseVictim() {
    const int chosen = static_cast<int>(random_() % TierHistory::kProcesses);
    if (random_() % 3 == 0) return chosen;
    const auto end = steady_clock::now() + milliseconds(5);
    while (steady_clock::now() < end) {
      for (int actor = 0; actor < TierHistory::kActors; ++actor) {
        if (history_->actor(actor).loading != 0) return actor / TierHistory::kThreads;
      }
    }
    return chosen;
  }

  bool HaveEnded() const {
    return std::all_of(processes_.begin(), processes_.end(), [](pid_t one) { return one == 0; });
  }
  // Returns false if something is wrong.
  bool Watch() {
    for (size_t place = 0; place < processes_.size(); ++place) {
      int status = 0;
      if (processes_[place] == 0 || ::waitpid(processes_[place], &status, WNOHANG) == 0) continue;
      processes_[place] = 0;
      const bool is_done = history_->states[place] == TierHistory::State::kDone;
      if (is_done && WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
      if (history_->failures == 0) {
        ADD_FAILURE() << "process " << place << " has ended with status " << status;
      }
      return false;
    }
    for (int number = 0; number < TierHistory::kActors; ++number) {
      const TierHistory::Actor& actor = history_->actor(number);
      const int64_t began = actor.began;
      if (began == 0 || TierHistory::Now() - began < kHang) continue;
      ADD_FAILURE() << "process " << number / TierHistory::kThreads << " hangs in "
                    << TierHistory::NameOf(static_cast<Act>(actor.act.load())) << " of key "
                    << actor.key << "\n"
                    << history_->Report();
      return false;
    }
    return history_->failures == 0;
  }
  void Print() const {
    const TierHistory::Figures& figures = history_->figures;
    const std::string text =
        "seed " + std::to_string(Seed()) + ": " + std::to_string(figures.looks) +
        " objects found, " + std::to_string(figures.changes) + " changes (" +
        std::to_string(figures.repeated) + " repeated), " + std::to_string(figures.loads) +
        " loads, " + std::to_string(figures.tier_hits) + " hits of the tier, " +
        std::to_string(figures.leases_awaited) + " leases awaited, " +
        std::to_string(figures.leases_lost) + " lost, " + std::to_string(figures.notices) +
        " notices, " + std::to_string(figures.tier_errors) + " errors of the tier, " +
        std::to_string(kills_) + " kills (" + std::to_string(killed_loads_) +
        " while loading); longest call " + std::to_string(figures.longest_act / 1'000'000) +
        " ms; an old version was found " + std::to_string(figures.old_looks) + " times, at most " +
        std::to_string(static_cast<double>(figures.longest_old) / 1e6) +
        " ms after the change had returned";
    std::puts(text.c_str());
  }

  RedisServer server_;
  std::mt19937_64 random_;
  const SharedTierHistory history_;
  std::array<pid_t, TierHistory::kProcesses> processes_ = {};
  int kills_ = 0;
  int killed_loads_ = 0;
};

// Does something again and again, each time after about so many operations.
class Repeatedly {
 public:
  Repeatedly(Processes& processes, uint64_t every, std::function<void()> event)
      : processes_(processes), every_(every), event_(std::move(event)) {}
  void operator()() {
    if (processes_.history().operations < next_) return;
    event_();
    next_ = processes_.history().operations + every_ / 2 + processes_.random()() % every_;
  }

 private:
  Processes& processes_;
  const uint64_t every_;
  const std::function<void()> event_;
  uint64_t next_ = 0;
};

// What else happens to a server.
class Trouble {
 public:
  static constexpr int kKinds = 9;

  explicit Trouble(Processes& processes)
      : server_(processes.server()), history_(processes.history()), random_(processes.random()) {}

  void Cause() {
    const auto kind = static_cast<int>(random_() % kKinds);
    history_.Log(0, Act::kTrouble, -1, static_cast<uint64_t>(kind));
    ++counts_[static_cast<size_t>(kind)];
    switch (kind) {
      case 0:
        server_.Command({"FLUSHALL"});
        break;
      case 1:
        server_.Command({"CLIENT", "KILL", "TYPE", "pubsub"});
        break;
      case 2:
        server_.Command({"CLIENT", "KILL", "TYPE", "normal"});
        break;
      case 3:
        KillOneClient();
        break;
      case 4:
        server_.Pause();
        WaitUpTo(150);
        server_.Resume();
        break;
      case 5:  // what it has now comes back some time
        server_.Command({"SAVE"});
        break;
      case 6:
        server_.Kill();
        WaitUpTo(50);
        EXPECT_TRUE(server_.Start());
        break;
      case 7:
        ChangeEntries();
        break;
      default:
        server_.Command({"CONFIG", "SET", "maxmemory", "1"});
        WaitUpTo(20);
        server_.Command({"CONFIG", "SET", "maxmemory", "0"});
    }
  }
  const std::array<int, kKinds>& counts() const { return counts_; }

 private:
  void WaitUpTo(uint64_t most) { std::this_thread::sleep_for(milliseconds(random_() % most)); }
  void KillOneClient() {
    const std::string clients = server_.Command({"CLIENT", "LIST"});
    std::vector<std::string> ids;
    for (size_t place = clients.find("id="); place != std::string::npos;
         place = clients.find("\nid=", place)) {
      place = clients.find('=', place) + 1;
      ids.push_back(clients.substr(place, clients.find(' ', place) - place));
    }
    if (ids.empty()) return;
    server_.Command({"CLIENT", "KILL", "ID", ids[random_() % ids.size()]});
  }
  // As another client, which knows nothing of caches.
  void ChangeEntries() {
    for (int key = 0; key < kKeys; ++key) {
      const std::string name = "history:v:" + std::to_string(key);
      if (random_() % 2 == 0) {
        server_.Command({"DEL", name});
      } else if (random_() % 2 == 0) {
        server_.Command({"SETRANGE", name, std::to_string(random_() % 100), "?"});
      }
    }
  }

  RedisServer& server_;
  TierHistory& history_;
  std::mt19937_64& random_;
  std::array<int, kKinds> counts_ = {};
};

TEST(RedisTierHistoryTest, NobodySeesAnythingOldOrWrong) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  const uint64_t operations = testing::Rounds<uint64_t>(400'000, 2'500);
  Processes processes({.operations = operations});
  processes.Run([] {});
  const TierHistory::Figures& figures = processes.history().figures;
  // Or else nothing has been tested.
  EXPECT_GT(figures.looks, operations / 2);
  EXPECT_GT(figures.changes, operations / 20);
  EXPECT_GT(figures.tier_hits, 0u);
  EXPECT_GT(figures.leases_awaited, 0u);
  EXPECT_GT(figures.leases_lost, 0u);
  if (testing::AllRounds()) {
    EXPECT_GT(figures.old_looks, 0u);
  }
}

TEST(RedisTierHistoryTest, NorIfEvictedObjectsAreWritten) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes(
      {.operations = testing::Rounds<uint64_t>(100'000, 1'000), .writes_evicted = true});
  processes.Run([] {});
  EXPECT_GT(processes.history().figures.tier_hits, 0u);
}

// What has expired in the tier stays in the caches, as the server tells that it is no change.
TEST(RedisTierHistoryTest, NorIfEntriesExpireAndTheServerTellsThat) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes({.operations = testing::Rounds<uint64_t>(100'000, 1'000), .max_age_ms = 4},
                      {"--notify-keyspace-events", "KA", "--hz", "500"});
  processes.Run([] {});
  EXPECT_GT(processes.history().figures.tier_hits, 0u);
}

TEST(RedisTierHistoryTest, NorIfProcessesAreKilled) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes({.operations = testing::Rounds<uint64_t>(200'000, 1'500)});
  Repeatedly kill(processes, 300, [&] { processes.KillOne(); });
  processes.Run([&] { kill(); });
  EXPECT_GT(processes.kills(), 0);
  if (testing::AllRounds()) {
    EXPECT_GT(processes.killed_loads(), 0);
    EXPECT_GT(processes.history().figures.repeated, 0u);
  }
}

TEST(RedisTierHistoryTest, NorIfTheServerIsInTrouble) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes(
      {.operations = testing::Rounds<uint64_t>(150'000, 1'500), .has_trouble = true});
  Trouble trouble(processes);
  Repeatedly cause(processes, 150, [&] { trouble.Cause(); });
  processes.Run([&] { cause(); });
  if (testing::AllRounds()) {
    EXPECT_GT(processes.history().figures.tier_errors, 0u);
    for (const int count : trouble.counts()) EXPECT_GT(count, 0);
  }
}

TEST(RedisTierHistoryTest, NorIfBothHappen) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes({.operations = testing::Rounds<uint64_t>(50'000, 700), .has_trouble = true});
  Trouble trouble(processes);
  Repeatedly cause(processes, 200, [&] { trouble.Cause(); });
  Repeatedly kill(processes, 400, [&] { processes.KillOne(); });
  processes.Run([&] {
    cause();
    kill();
  });
  EXPECT_GT(processes.kills(), 0);
}

// A process is killed while it leads a load that another one waits for: early, or once its lease
// has lasted for longer than one that is not prolonged.
TEST(RedisTierHistoryTest, AKilledProcessDelaysOthersByItsLeaseAtMost) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  const int64_t lease = absl::ToInt64Nanoseconds(kLeaseDuration);
  const int rounds = testing::Rounds(50, 2);
  std::mt19937_64 random(Seed());
  int64_t longest = 0;
  int delayed = 0;
  for (int round = 0; round < rounds; ++round) {
    RedisServer server({"--user", UserOf(0), "on", "nopass", "~*", "&*", "+@all",  //
                        "--user", UserOf(1), "on", "nopass", "~*", "&*", "+@all"});
    const SharedTierHistory history;
    history->settings.lease_timeout_ms = 3 * kHang / 1'000'000;
    std::strncpy(history->socket.data(), server.socket().c_str(), history->socket.size() - 1);
    const pid_t leader = Spawn(history, "leader", 0, 0);
    EXPECT_TRUE(testing::Eventually([&] { return history->scene.leads != 0; }));
    const pid_t follower = Spawn(history, "follower", 1, 0);
    EXPECT_TRUE(testing::Eventually([&] { return history->scene.waits != 0; }));
    const int64_t earliest = round % 2 == 0 ? 0 : lease;
    std::this_thread::sleep_for(
        std::chrono::nanoseconds(earliest + static_cast<int64_t>(random() % 50'000'000)));
    // Else the machine has held up the leader for longer than its lease lasts.
    const bool waits = history->scene.followed == 0;
    ::kill(leader, SIGKILL);
    const int64_t killed = TierHistory::Now();
    EXPECT_EQ(WaitFor(leader), -SIGKILL);
    EXPECT_TRUE(testing::Eventually([&] { return history->scene.followed != 0; })) << "it hangs";
    if (history->scene.followed == 0) ::kill(follower, SIGKILL);
    EXPECT_EQ(WaitFor(follower), 0) << history->Report();
    if (!waits) continue;
    ++delayed;
    longest = std::max(longest, history->scene.followed - killed);
  }
  EXPECT_GT(delayed, 0) << "nobody has waited for the lease";
  EXPECT_LE(longest, lease + absl::ToInt64Nanoseconds(kBusyMachine));
  std::printf("seed %ju: waited for up to %.1f ms after the kill, with leases of %.0f ms\n",
              uintmax_t{Seed()}, static_cast<double>(longest) / 1e6,
              static_cast<double>(lease) / 1e6);
}

}  // namespace

// What the test starts: PROGRAM --process FILE ROLE NUMBER SEED
int RunProcess(char** arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const SharedTierHistory history(std::atoi(arguments[2]));
  if (history.get() == nullptr) return 1;
  const std::string_view role = arguments[3];
  if (role == "leader") return RunLeader(*history);
  if (role == "follower") return RunFollower(*history);
  return RunAtRandom(*history, std::atoi(arguments[4]), std::strtoull(arguments[5], nullptr, 10));
}

}  // namespace weakcache

int main(int count, char** arguments) {
  if (count > 5 && std::strcmp(arguments[1], "--process") == 0) {
    return weakcache::RunProcess(arguments);
  }
  ::testing::InitGoogleTest(&count, arguments);
  return RUN_ALL_TESTS();
}
