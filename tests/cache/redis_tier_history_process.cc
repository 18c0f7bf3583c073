// SPDX-License-Identifier: Apache-2.0
#include "tests/cache/redis_tier_history_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
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

namespace weakcache::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Act = TierHistory::Act;
using Cache = LargeObjectCache<int, std::string>;

constexpr int kKeys = TierHistory::kKeys;
constexpr absl::Duration kHeartbeat = absl::Seconds(1);
constexpr absl::Duration kHardTimeout = absl::Seconds(4);
const int64_t kBound = absl::ToInt64Nanoseconds(kHeartbeat + kHardTimeout + kBusyMachine);

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
    Cache::Options options = WithBudget<Cache>(writes_evicted ? 700 : 12'000);
    if (writes_evicted) {
      options.tier_write = TierWrite::kOnEviction;
      options.refresh_executor = [this](std::function<void()> task) {
        tasks_.Add(std::move(task));
      };
    }
    if (history_.settings.checks_again) {
      options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
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

  TierRecheck BeginLook(int actor, int key) const {
    return {.actor = actor,
            .began = TierHistory::Now(),
            .floor = floor(key),
            .connected_since = connected_since_};
  }
  void Judge(int key, std::string_view value, const TierRecheck& look) {
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
  void JudgeLoad(int key, const absl::StatusOr<Ref<std::string>>& object, const TierRecheck& look,
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
    const TierRecheck look = process_.BeginLook(number_, key);
    JudgeLoad(key,
              process_.cache().GetOrLoad(
                  key, [&] { return LoadNewest(key); }, options),
              look, Act::kGetOrLoad);
  }
  // Of the key's group.
  void LoadSeveral(int key) {
    const Doing doing(*this, Act::kGetAll, key);
    const std::vector<int> keys = {key, (key + TierHistory::kGroups) % kKeys};
    std::vector<TierRecheck> looks;
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
    const TierRecheck look = process_.BeginLook(number_, key);
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
    TierRecheck look = process_.BeginLook(number_, key);
    look.floor = std::max(look.floor, history_.key(key).made_in_place.load());
    const absl::StatusOr<TierEntry> entry = process_.tier().Get(std::to_string(key), {});
    if (entry.ok()) JudgeEntry(key, *entry, look);
  }
  void JudgeEntry(int key, const TierEntry& entry, const TierRecheck& look) {
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
    std::vector<TierRecheck> looks;
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
  figures.tier_rechecks += stats.tier_rechecks;
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
  const TierRecheck look = process.BeginLook(TierHistory::kThreads, 0);
  const absl::StatusOr<Ref<std::string>> object =
      process.cache().GetOrLoad(0, [&] { return TierHistory::ValueOf(0, history.key(0).source); });
  history.scene.followed = TierHistory::Now();
  if (object.ok()) process.Judge(0, **object, look);
  done = true;
  watcher.join();
  return object.ok() && history.failures == 0 ? 0 : 1;
}

}  // namespace

int RunHistoryProcess(char** arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const SharedTierHistory history(std::atoi(arguments[2]));
  if (history.get() == nullptr) return 1;
  const std::string_view role = arguments[3];
  if (role == "leader") return RunLeader(*history);
  if (role == "follower") return RunFollower(*history);
  return RunAtRandom(*history, std::atoi(arguments[4]), std::strtoull(arguments[5], nullptr, 10));
}

}  // namespace weakcache::testing
