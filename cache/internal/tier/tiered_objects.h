// SPDX-License-Identifier: Apache-2.0
// The objects of a LargeObjectCache in its second tier: encoded, under keys that are strings. Only
// a cache with a codec has this. See object_tier.h.
//
// Who owns what: the cache and its turns own the TieredObjects, which owns the tier and its
// listener. The listener and the `done` functions, which the tier calls, own only the State. They
// use tier and cache only while a BackgroundTasks::Running says that the cache has not ended. So a
// thread of the tier destroys the tier only if a notice runs user code that ends the cache, such as
// the destructor of a dropped object.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_TIERED_OBJECTS_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_TIERED_OBJECTS_H_

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/loading/background_tasks.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/cache/internal/tier/tier_changes.h"
#include "weakcache/cache/internal/tier/tier_codec.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::internal {

template <typename K>
std::string DefaultEncodeKey(const K& key) {
  if constexpr (IsTextKey<K>) {
    return std::string(static_cast<std::string_view>(key));
  } else {
    char text[24];  // 64 bits in decimal, with a sign, have 20 characters
    return std::string(text, std::to_chars(text, text + sizeof(text), key).ptr);
  }
}
template <typename K>
std::optional<K> DefaultDecodeKey(std::string_view text) {
  if constexpr (IsTextKey<K>) {
    return K(text);
  } else {
    K key{};
    const char* const end = text.data() + text.size();
    const auto read = std::from_chars(text.data(), end, key);
    if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
    return key;
  }
}

// The user's codec.
template <typename V>
struct TierEncoding {
  std::function<uint32_t()> schema;
  std::function<absl::StatusOr<std::string>(const V&)> encode;
  std::function<absl::StatusOr<V>(std::string_view)> decode;
};

template <typename K, typename V>
class TieredObjects final : public ObjectTier<K, V>,
                            public std::enable_shared_from_this<TieredObjects<K, V>> {
 public:
  using Encoding = TierEncoding<std::remove_cv_t<V>>;

  using MakeTarget = std::unique_ptr<TierTarget<K, V>> (*)(void* store);

  // `make_target`: see MakeDefaultTarget.
  TieredObjects(Encoding encoding, MakeTarget make_target, TierSettings<K> settings)
      : make_target_(make_target),
        settings_(WithDefaults(std::move(settings))),
        encoding_(std::move(encoding)),
        state_(std::make_shared<State>(*settings_.tier, settings_.decode_key)),
        listener_(std::make_shared<Listener>(state_, settings_.keeps_when_disconnected,
                                             settings_.checks_again_when_disconnected)) {}

  std::unique_ptr<TierTarget<K, V>> MakeDefaultTarget(void* store) override {
    return make_target_(store);
  }
  void Attach(TierTarget<K, V>& target) override {
    state_->target = &target;
    settings_.tier->Subscribe(listener_);
  }
  void Detach() override {
    Check(
        !Walk::Runs(*state_), "~LargeObjectCache",
        "a destructor or the listener has ended the cache inside a notice that drops all objects");
    state_->tasks->Close();
    CatchErrors([&] { EraseWhatIsOverdue(); }, [] {});
  }

  Owned<V> Ask(const K& key, const TierUse<V>& use, ObjectTerms& terms) override {
    if (!use.reads && !use.writes) return nullptr;
    const bool is_due = use.refresh != nullptr;
    Owned<V> object = CatchErrors(
        [&] {
          const Key asked{key, settings_.encode_key(key)};
          return is_due ? AskForRefresh(asked.encoded, use, terms) : AskOrThrow(asked, use, terms);
        },
        [] { return Owned<V>(); });
    const bool has_read = is_due ? use.refresh->has_read : use.reads;
    if (has_read) CountRead(object, use.recheck);
    return object;
  }

  void AskAll(absl::Span<TierQuestion<K, V>> questions, const TierUse<V>& use) override {
    if (!use.reads && !use.writes) return;
    CatchErrors([&] { AskAllOrThrow(questions, use); }, [] {});
    if (!use.reads) return;
    for (const TierQuestion<K, V>& question : questions)
      CountRead(question.object, question.recheck);
  }

  TierTurnPtr<V> BeginChange(const K& key) override {
    std::optional<std::string> encoded;
    return CatchErrors(
        [&]() -> TierTurnPtr<V> {
          encoded.emplace(settings_.encode_key(key));
          std::unique_ptr<Turn> turn = MakeTurn(*encoded);
          state_->changes.Begin(*encoded);
          turn->job().is_change = true;
          return turn;
        },
        [&]() -> TierTurnPtr<V> {
          // There may be an entry, which will be old. (Not under a key that can't be encoded.)
          if (encoded.has_value() || IsOutOfMemory()) state_->changes.DistrustAll();
          return nullptr;
        });
  }
  void EndUnmarkedChange() override { state_->changes.DistrustAll(); }
  void EraseGroup(uint32_t group) override {
    const uint64_t number = state_->changes.BeginMany();
    const bool erased = tier().EraseGroup(group).ok();
    CatchErrors([&] { state_->changes.EndGroup(group, number, erased); },
                [&] { state_->changes.DistrustAll(); });
  }
  void EraseAll() override {
    const uint64_t number = state_->changes.BeginMany();
    state_->changes.EndAll(number, tier().EraseAll().ok());
  }
  void EraseIf(absl::FunctionRef<bool(const K&)> condition) override {
    // Other processes may have objects that are in no tier yet, and write them when they evict
    // them.
    if (writes_evicted()) return EraseAll();
    state_->changes.BeginMany();
    std::vector<std::string> keys;
    bool complete = true;
    // Also those that have only a lease, which the erasure revokes: what is put from then on was
    // loaded after that.
    const absl::Status status = tier().ForEachKey([&](std::string_view key) {
      CatchErrors([&] { keys.emplace_back(key); }, [&] { complete = false; });
    });
    if (!complete || !status.ok()) return EraseAll();
    for (const std::string& encoded : keys) {
      const std::optional<K> key = settings_.decode_key(encoded);
      if (!key.has_value() || !condition(*key)) continue;
      state_->changes.Begin(encoded);
      EraseUnderWay(state_, encoded);
    }
  }

  bool checks_again() const override { return settings_.checks_again_when_disconnected; }

  bool writes_evicted() const override { return settings_.eviction_executor != nullptr; }
  void PauseEvictions() override { ++pauses_; }
  void ResumeEvictions() override { --pauses_; }
  void WriteEvicted(const K& key, const Ref<V>& object) override {
    // Relaxed: see the field.
    if (evictions_.load(std::memory_order_relaxed) >= kMaxEvictions) return;
    const auto self = this->shared_from_this();  // the executor may end the cache
    CatchErrors(
        [&] {
          const auto eviction = std::make_shared<Eviction>(self, settings_.encode_key(key), object);
          settings_.eviction_executor([eviction] { eviction->Run(); });
        },
        [] {});
  }

  void AddTo(CacheStats& stats) const override {
    const TierStats of_tier = tier().Stats();
    stats.has_tier = true;
    stats.tier_hits = figures_.hits.load(std::memory_order_relaxed);
    stats.tier_misses = figures_.misses.load(std::memory_order_relaxed);
    stats.tier_rechecks = figures_.rechecks.load(std::memory_order_relaxed);
    stats.tier_decode_failures = figures_.decode_failures.load(std::memory_order_relaxed);
    stats.tier_encode_failures = figures_.encode_failures.load(std::memory_order_relaxed);
    stats.tier_failed_changes = state_->changes.failures();
    stats.tier_failed_notices = state_->failed_notices.load(std::memory_order_relaxed);
    stats.tier_errors = of_tier.errors;
    stats.tier_timeouts = of_tier.timeouts;
    stats.tier_puts = of_tier.puts;
    stats.tier_erases = of_tier.erases;
    stats.tier_bytes_read = of_tier.bytes_read;
    stats.tier_bytes_written = of_tier.bytes_written;
    stats.tier_skipped_values = of_tier.skipped_values;
    stats.tier_leases_won = of_tier.leases_won;
    stats.tier_leases_awaited = of_tier.leases_awaited;
    stats.tier_leases_lost = of_tier.leases_lost;
    stats.tier_notices = of_tier.notices;
    stats.tier_dropped_changes = of_tier.dropped_changes;
    stats.tier_read_time = of_tier.read_time;
    stats.tier_write_time = of_tier.write_time;
    stats.tier_condition = of_tier.condition;
    const std::string_view own_condition =
        state_->HasMissedNotice() ? "a notice could not be applied" : state_->changes.condition();
    if (!own_condition.empty()) {
      if (!stats.tier_condition.empty()) stats.tier_condition += "; ";
      stats.tier_condition += own_condition;
    }
  }

 private:
  using Object = std::remove_cv_t<V>;
  using Ended = TierChanges::Ended;

  // No entry has this group, as an object's is smaller.
  static constexpr uint32_t kNoGroup = 65536;
  // A tier ends a wait for another one's lease itself; this is for one that does not.
  static constexpr std::chrono::minutes kLongestWait{1};
  // How many evicted objects may wait to be written.
  static constexpr size_t kMaxEvictions = 64;
  // How often a load reads an entry that is changed meanwhile.
  static constexpr int kMaxLooks = 3;
  // How much later than now the entry of a process with another clock may seem to be written.
  static constexpr absl::Duration kClockError = absl::Seconds(1);

  // What the tier's threads use.
  struct State {
    State(SecondTier& of_cache, std::function<std::optional<K>(std::string_view)> decode)
        : tier(of_cache), decode_key(std::move(decode)) {}

    SecondTier& tier;
    const std::function<std::optional<K>(std::string_view)> decode_key;
    TierTarget<K, V>* target = nullptr;  // set before the tier knows the listener
    const std::shared_ptr<BackgroundTasks> tasks = std::make_shared<BackgroundTasks>();
    TierChanges changes;
    // Only grows, and nobody concludes anything from it: relaxed.
    std::atomic<uint64_t> failed_notices{0};
    // How many notices could not be applied, and up to which one of these everything has been
    // dropped since. Both only grow, by any thread that uses WithTarget. Sequentially consistent:
    // an eviction that reads equal numbers after the notices that it awaits finds the cache without
    // what they should have removed.
    std::atomic<uint64_t> missed_notices{0};
    std::atomic<uint64_t> made_up_for{0};
    // Returns whether the cache may have an object that a notice should have removed.
    bool HasMissedNotice() const {
      const uint64_t made_up = made_up_for;
      return missed_notices != made_up;
    }
  };
  // Any thread adds 1, and none concludes anything from them: relaxed. They only grow.
  struct Figures {
    static void Count(std::atomic<uint64_t>& figure) {
      figure.fetch_add(1, std::memory_order_relaxed);
    }
    std::atomic<uint64_t> hits{0};
    std::atomic<uint64_t> misses{0};
    std::atomic<uint64_t> rechecks{0};
    std::atomic<uint64_t> decode_failures{0};
    std::atomic<uint64_t> encode_failures{0};
  };

  // Calls `function(target)`, unless the cache has ended. If it throws (the
  // user's functions for keys, hash or clock, or an allocation), drops all objects instead.
  template <typename Function>
  static void WithTarget(State& state, const Function& function) {
    {
      const BackgroundTasks::Running running(state.tasks);
      if (!running.may_run()) return;
      if (CatchErrors([&] { return function(*state.target), true; }, [] { return false; })) {
        if (state.HasMissedNotice()) DropAll(state);
        return;
      }
      ++state.missed_notices;
    }
    state.failed_notices.fetch_add(1, std::memory_order_relaxed);
    DropAll(state);
  }
  // If that fails, too, leaves it to the next notice.
  static void DropAll(State& state) {
    const BackgroundTasks::Running running(state.tasks);
    if (!running.may_run()) return;
    const uint64_t missed = state.missed_notices;
    const Walk walk(state);
    if (!CatchErrors([&] { return state.target->Clear(), true; }, [] { return false; })) return;
    uint64_t made_up = state.made_up_for;
    while (made_up < missed && !state.made_up_for.compare_exchange_weak(made_up, missed)) {
    }
  }

  // Marks this thread as being in a notice that goes from object to object: see Detach.
  class Walk {
   public:
    explicit Walk(const State& state) : state_(state), outer_(std::exchange(Innermost(), this)) {}
    Walk(const Walk&) = delete;
    Walk& operator=(const Walk&) = delete;
    ~Walk() { Innermost() = outer_; }
    static bool Runs(const State& state) {
      const Walk* walk = Innermost();
      while (walk != nullptr && &walk->state_ != &state) walk = walk->outer_;
      return walk != nullptr;
    }

   private:
    struct OfThread {
      const Walk* innermost;
    };
    static const Walk*& Innermost() { return StdAtomics::ThreadLocal<OfThread>().innermost; }

    const State& state_;
    const Walk* const outer_;
  };

  class Listener final : public TierListener {
   public:
    Listener(std::shared_ptr<State> state, bool keeps_when_disconnected, bool checks_again)
        : state_(std::move(state)),
          keeps_when_disconnected_(keeps_when_disconnected),
          checks_again_(checks_again) {}

    void OnChanged(std::string_view key) override {
      WithTarget(*state_, [&](TierTarget<K, V>& target) {
        const std::optional<K> decoded = state_->decode_key(key);
        if (decoded.has_value()) {
          target.Invalidate(*decoded);
        } else {
          state_->failed_notices.fetch_add(1, std::memory_order_relaxed);
        }
      });
    }
    void OnGroupErased(uint32_t group) override {
      if (group >= kNoGroup) return;
      WithTarget(*state_, [&](TierTarget<K, V>& target) { target.InvalidateGroup(group); });
    }
    void OnAllErased() override {
      WithTarget(*state_, [&](TierTarget<K, V>& target) {
        const Walk walk(*state_);
        target.Clear();
      });
    }
    void OnDisconnected() override {
      if (keeps_when_disconnected_) return;
      if (!checks_again_) return OnAllErased();
      WithTarget(*state_, [&](TierTarget<K, V>& target) {
        const Walk walk(*state_);
        target.MakeAllUnverified();
      });
    }
    // What has come in the meantime may be old, too.
    void OnConnected() override { OnDisconnected(); }

   private:
    const std::shared_ptr<State> state_;
    const bool keeps_when_disconnected_;
    const bool checks_again_;
  };

  // What a turn has to do.
  struct Job {
    enum class Action { kNone, kPut, kErase };

    Job(std::shared_ptr<TieredObjects> of, std::string of_key)
        : objects(std::move(of)), key(std::move(of_key)) {}
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;

    const std::shared_ptr<TieredObjects> objects;
    const std::string key;
    TierLease lease = {};
    bool is_change = false;    // else of a load
    bool only_erases = false;  // as the tier gives no lease for a key that has an entry
    Action action = Action::kNone;
    Ref<V> object = {};
    absl::Time written = {};
    absl::Time expires = absl::InfiniteFuture();
    std::optional<uint32_t> group = {};
  };

  class Turn final : public TierTurn<V> {
   public:
    Turn(std::shared_ptr<TieredObjects> objects, std::string key)
        : job_(std::move(objects), std::move(key)) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() override { job_.objects->Do(job_); }

    Job& job() { return job_; }
    void SetTerms(const ObjectTerms& terms) override {
      const TierSettings<K>& settings = job_.objects->settings_;
      job_.written = job_.objects->Now();
      job_.expires = job_.written + terms.expires_after.value_or(settings.expire_after_write);
      job_.group = terms.group;
    }
    void SetEvictedTerms(const EvictedTerms& terms) {
      job_.written = job_.objects->Now() - terms.age;
      job_.expires = job_.written + terms.life;
      job_.group = terms.group;
    }
    void Put(const Ref<V>& object) override {
      if (job_.only_erases) return Erase();
      job_.object = object;
      job_.action = Job::Action::kPut;
    }
    void Erase() override { job_.action = Job::Action::kErase; }
    bool is_idle() const override { return job_.action == Job::Action::kNone; }

   private:
    Job job_;
  };

  // An evicted object that is to be written by a task.
  class Eviction {
   public:
    Eviction(std::shared_ptr<TieredObjects> objects, std::string key, const Ref<V>& object)
        : objects_(std::move(objects)), key_(std::move(key)), object_(object) {
      objects_->evictions_.fetch_add(1, std::memory_order_relaxed);
    }
    Eviction(const Eviction&) = delete;
    Eviction& operator=(const Eviction&) = delete;
    ~Eviction() { objects_->evictions_.fetch_sub(1, std::memory_order_relaxed); }

    // Once.
    void Run() {
      if (object_.get() == nullptr) return;
      CatchErrors([&] { objects_->WriteOrThrow(key_, object_); }, [] {});
      object_.reset();
    }

   private:
    const std::shared_ptr<TieredObjects> objects_;
    const std::string key_;
    Ref<V> object_;
  };

  static TierSettings<K> WithDefaults(TierSettings<K> settings) {
    if constexpr (HasDefaultTierKey<K>) {
      if (!settings.encode_key) settings.encode_key = DefaultEncodeKey<K>;
      if (!settings.decode_key) settings.decode_key = DefaultDecodeKey<K>;
    }
    return settings;
  }
  SecondTier& tier() const { return *settings_.tier; }
  absl::Time Now() const { return settings_.clock ? settings_.clock() : absl::Now(); }
  std::unique_ptr<Turn> MakeTurn(std::string key) {
    return std::make_unique<Turn>(this->shared_from_this(), std::move(key));
  }

  static TierWait WaitOf(const TierUse<V>& use) {
    TierWait wait;
    wait.deadline = std::min(use.wait.deadline(), std::chrono::steady_clock::now() + kLongestWait);
    wait.stop_token = use.stop_token();
    return wait;
  }

  // Lets notices cancel the load again, on whatever way the tier is left.
  struct HearingEnd {
    ~HearingEnd() {
      if (notices != nullptr) notices->End();
    }
    TierNotices* notices;
  };

  struct Key {
    const K& own;
    const std::string encoded;
  };
  // What the tier's entry has turned out to be: a decoded object, the object that the cache has
  // already, or nothing.
  struct Found {
    explicit operator bool() const { return object != nullptr || is_cached; }

    Owned<V> object = nullptr;
    bool is_cached = false;  // the recheck has found the entry's object in the cache
  };

  // Does Ask. What was read before a notice may be old, and is read again; the last time, a notice
  // cancels the load.
  Owned<V> AskOrThrow(const Key& key, const TierUse<V>& use, ObjectTerms& terms) {
    if (!MayAsk(key.encoded)) return nullptr;
    TierNotices* const notices = use.reads ? use.notices : nullptr;
    const HearingEnd end{notices};
    TierWait wait = WaitOf(use);
    for (int looks = 1; notices != nullptr && looks < kMaxLooks; ++looks) {
      notices->Hear();
      wait.before_look = [notices] { notices->Hear(); };
      ObjectTerms found_terms = terms;
      Found found = LookOrLead(key, use, wait, found_terms);
      if (!found) return nullptr;
      if (!notices->TryEnd()) {
        if (found.is_cached) use.recheck->Dismiss();
        continue;
      }
      terms = found_terms;
      return std::move(found.object);
    }
    if (notices != nullptr) notices->End();
    wait.before_look = nullptr;
    return LookOrLead(key, use, wait, terms).object;
  }
  // Returns the object of the tier's entry. If there is none, gives the load a turn if it may
  // write.
  Found LookOrLead(const Key& key, const TierUse<V>& use, const TierWait& wait,
                   ObjectTerms& terms) {
    bool is_unusable = false;
    if (use.reads) {
      const absl::StatusOr<TierEntry> entry = tier().Get(key.encoded, wait);
      if (entry.ok()) {
        Found found = Read(key.own, *entry, use.recheck, terms);
        if (found) return found;
      } else if (!absl::IsNotFound(entry.status()) && !absl::IsDataLoss(entry.status())) {
        return {};
      }
      is_unusable = !absl::IsNotFound(entry.status());
    }
    if (!use.writes || writes_evicted()) return {};
    std::unique_ptr<Turn> turn = MakeTurn(key.encoded);
    if (!use.reads) {
      static_cast<void>(LeadAtOnce(turn->job(), /*is_there=*/true));
    } else if (!use.waits_for_lease) {
      static_cast<void>(LeadAtOnce(turn->job(), is_unusable));
    } else if (!is_unusable || !LeadOver(turn->job())) {
      Found found = Lead(key.own, turn->job(), wait, use.recheck, terms);
      if (found) return found;
    }
    if (turn->job().lease.held() || turn->job().only_erases) use.turn = std::move(turn);
    return {};
  }
  void CountRead(const Owned<V>& object, const TierRecheckPtr<V>& recheck) {
    if (HasFound(recheck)) return Figures::Count(figures_.rechecks);
    Figures::Count(object != nullptr ? figures_.hits : figures_.misses);
  }
  // Does Ask for a refresh that is due. Takes the lease before it reads: so a process that gets the
  // lease after another one has refreshed the object reads the new entry.
  Owned<V> AskForRefresh(const std::string& key, const TierUse<V>& use, ObjectTerms& terms) {
    if (!MayAsk(key)) return nullptr;
    std::unique_ptr<Turn> turn;
    std::optional<TierEntry> entry;
    if (!LeadRefresh(key, use, turn, entry)) return nullptr;
    if (use.refresh->age_limit > absl::ZeroDuration()) {
      use.refresh->has_read = true;
      if (!entry.has_value()) {
        absl::StatusOr<TierEntry> read = tier().Get(key, WaitOf(use));
        if (read.ok()) entry = *std::move(read);
      }
      if (entry.has_value() && IsNews(*entry, use.refresh->age_limit)) {
        turn.reset();  // others need not wait until it is decoded
        Owned<V> object = DecodeOf(checks_again() ? FingerprintOf(*entry) : 0, *entry, terms);
        if (object != nullptr) return object;
        if (!LeadRefresh(key, use, turn, entry)) return nullptr;
      }
    }
    if (turn != nullptr && (turn->job().lease.held() || turn->job().only_erases)) {
      use.turn = std::move(turn);
    }
    return nullptr;
  }
  // Makes the turn of a refresh that may write, and takes the lease, or gets the entry from a tier
  // that can't give one beside it. Returns false if the tier is not to be asked for anything more:
  // the refresh is left to another process, or the tier has failed. (Then the entry stays, as a
  // refresh is no change. With a refresh_after_write it is due by its own age.)
  bool LeadRefresh(const std::string& key, const TierUse<V>& use, std::unique_ptr<Turn>& turn,
                   std::optional<TierEntry>& entry) {
    if (!use.writes || writes_evicted()) return true;
    turn = MakeTurn(key);
    absl::StatusOr<TierLead> lead = LeadAtOnce(turn->job(), /*is_there=*/true);
    if (!lead.ok()) return false;
    use.refresh->is_left = lead->is_taken && use.refresh->may_be_left;
    entry = std::move(lead->entry);
    return !use.refresh->is_left;
  }
  // Returns whether a refresh takes the entry. Not one that seems to come from the future: its
  // writer's clock is ahead, or this one was set back, so it may be the stale object's own.
  bool IsNews(const TierEntry& entry, absl::Duration age_limit) const {
    const absl::Time now = Now();
    const absl::Duration age = now - entry.written;
    return age >= -kClockError && age < age_limit && IsUsable(entry, now);
  }
  void AskAllOrThrow(absl::Span<TierQuestion<K, V>> questions, const TierUse<V>& use) {
    std::vector<std::string> keys;
    std::vector<TierQuestion<K, V>*> asked;
    for (TierQuestion<K, V>& question : questions) {
      std::string key = settings_.encode_key(*question.key);
      if (!MayAsk(key)) continue;
      keys.push_back(std::move(key));
      asked.push_back(&question);
    }
    std::vector<absl::StatusOr<TierEntry>> entries;
    if (use.reads) entries = tier().GetAll(keys, WaitOf(use));
    for (size_t i = 0; i < asked.size(); ++i) {
      bool is_there = true;  // something that is to be replaced
      if (i < entries.size()) {
        const absl::StatusOr<TierEntry>& entry = entries[i];
        if (entry.ok()) {
          const K& key = *asked[i]->key;
          Found found = Read(key, *entry, asked[i]->recheck, asked[i]->terms);
          asked[i]->object = std::move(found.object);
          if (found.is_cached || asked[i]->object != nullptr) continue;
        } else if (!absl::IsNotFound(entry.status()) && !absl::IsDataLoss(entry.status())) {
          continue;
        }
        is_there = !absl::IsNotFound(entry.status());
      }
      if (!use.writes || writes_evicted()) continue;
      std::unique_ptr<Turn> turn = MakeTurn(std::move(keys[i]));
      static_cast<void>(LeadAtOnce(turn->job(), is_there));
      if (turn->job().lease.held() || turn->job().only_erases) asked[i]->turn = std::move(turn);
    }
  }
  // Repeats what has failed, if it is time to. Others do not wait for that: until it is done, they
  // do without the tier.
  void RepairIfDue() {
    if (!state_->changes.HasFailed()) return;
    TierChanges::Repair repair = state_->changes.TakeRepair(Now());
    if (repair.all) EraseAll();
    if (repair.group.has_value()) EraseGroup(*repair.group);
    for (const std::string& key : repair.keys) EraseUnderWay(state_, key);
  }
  // Returns whether the tier has no older entry than it should have. Erases one if need be.
  bool MayAsk(const std::string& key) {
    RepairIfDue();
    const TierChanges::State state = state_->changes.Look(key);
    if (state != TierChanges::State::kFailed) return state == TierChanges::State::kNone;
    // Without waiting: the caller may have a deadline.
    state_->changes.Begin(key);
    EraseUnderWay(state_, key);
    return state_->changes.Look(key) == TierChanges::State::kNone;
  }
  // Takes the lease of a key without an entry, or returns the object that has come.
  Found Lead(const K& key, Job& job, const TierWait& wait, TierRecheckPtr<V>& recheck,
             ObjectTerms& terms) {
    absl::StatusOr<TierLead> lead = tier().Lead(job.key, wait);
    if (!lead.ok()) return {};
    job.lease = std::move(lead->lease);
    return lead->entry.has_value() ? Read(key, *lead->entry, recheck, terms) : Found();
  }
  // Takes the lease of a key for a refresh, or of one of several keys: waits for nobody. If there
  // is an entry, which will be old, and no lease to be had beside it, or the tier fails, the turn
  // will erase it. Returns what the tier has said, without the lease.
  absl::StatusOr<TierLead> LeadAtOnce(Job& job, bool is_there) {
    absl::StatusOr<TierLead> lead = tier().TryLead(job.key);
    if (lead.ok()) job.lease = std::exchange(lead->lease, TierLease());
    job.only_erases = is_there && (!lead.ok() || lead->entry.has_value());
    return lead;
  }
  // Takes the lease of a key whose entry is of no use, or else erases that. Returns false if there
  // is no entry any more.
  bool LeadOver(Job& job) {
    absl::StatusOr<TierLead> lead = tier().TryLead(job.key);
    if (lead.ok() && !lead->entry.has_value()) {
      job.lease = std::move(lead->lease);
      return true;
    }
    // As in MayAsk.
    state_->changes.Begin(job.key);
    EraseUnderWay(state_, job.key);
    return state_->changes.Look(job.key) != TierChanges::State::kNone;
  }

  // Returns whether the entry is of the codec's schema, and has not expired.
  bool IsUsable(const TierEntry& entry, absl::Time now) const {
    if (entry.schema != encoding_.schema() || entry.expires <= now) return false;
    return !entry.group.has_value() ||
           (*entry.group < kNoGroup && state_->changes.TrustsGroup(*entry.group));
  }
  // Returns the cache's own object if the entry is its, or else the decoded one; nothing if the
  // entry is unusable or can't be decoded.
  Found Read(const K& key, const TierEntry& entry, TierRecheckPtr<V>& recheck, ObjectTerms& terms) {
    if (!checks_again()) return {Decode(entry, terms)};
    if (!IsUsable(entry, Now())) return {};
    const uint64_t fingerprint = FingerprintOf(entry);
    if (recheck == nullptr) recheck = state_->target->MakeRecheck(key);
    if (recheck->Find(fingerprint)) return {nullptr, /*is_cached=*/true};
    return {DecodeOf(fingerprint, entry, terms)};
  }
  Owned<V> DecodeOf(uint64_t fingerprint, const TierEntry& entry, ObjectTerms& terms) {
    Owned<V> object = Decode(entry, terms);
    if (object != nullptr) terms.tier_fingerprint = fingerprint;
    return object;
  }
  // Returns a hash, not 0, of everything in the entry. The time of writing alone might not tell two
  // entries apart: clocks may be coarse, and those of two machines may agree.
  static uint64_t FingerprintOf(const TierEntry& entry) {
    const uint64_t hash =
        absl::HashOf(entry.bytes.view(), entry.schema, absl::ToUnixNanos(entry.written),
                     absl::ToUnixNanos(entry.expires), entry.group);
    return hash == 0 ? 1 : hash;
  }
  // Returns null unless the entry is usable and whole.
  Owned<V> Decode(const TierEntry& entry, ObjectTerms& terms) {
    const absl::Time now = Now();
    if (!IsUsable(entry, now)) return nullptr;
    Owned<V> object = CatchErrors(
        [&] {
          absl::StatusOr<Object> decoded = encoding_.decode(entry.bytes.view());
          return decoded.ok() ? MakeObject<Ref<V>>(*std::move(decoded)) : Owned<V>();
        },
        [] { return Owned<V>(); });
    if (object == nullptr) {
      Figures::Count(figures_.decode_failures);
      return nullptr;
    }
    if (entry.expires != absl::InfiniteFuture()) terms.expires_after = entry.expires - now;
    if (settings_.refresh_after_write != absl::InfiniteDuration()) {
      const absl::Duration age = std::max(now - entry.written, absl::ZeroDuration());
      terms.refresh_after = std::max(settings_.refresh_after_write - age, absl::ZeroDuration());
    }
    if (entry.group.has_value()) terms.group = entry.group;
    return object;
  }
  std::optional<TierEntry> Encode(const Job& job) {
    return CatchErrors(
        [&]() -> std::optional<TierEntry> {
          if (job.expires <= job.written) return std::nullopt;
          absl::StatusOr<std::string> bytes = encoding_.encode(*job.object);
          if (!bytes.ok()) return std::nullopt;
          return TierEntry{TierBytes(*std::move(bytes)), encoding_.schema(), job.written,
                           job.expires, job.group};
        },
        [] { return std::optional<TierEntry>(); });
  }

  // Does what a turn has to do, which ends.
  void Do(Job& job) {
    CatchErrors([&] { DoOrThrow(job); }, [&] { state_->changes.DistrustAll(); });
  }
  void DoOrThrow(Job& job) {
    if (job.action == Job::Action::kPut) {
      const std::optional<TierEntry> entry = Encode(job);
      if (entry.has_value()) return Write(job, *entry);
      if (job.expires > job.written) Figures::Count(figures_.encode_failures);
    }
    if (!job.is_change) {
      if (job.lease.held()) return tier().EndLead(job.key, job.lease);
      if (job.action != Job::Action::kErase) return;
      state_->changes.Begin(job.key);
    } else if (job.action == Job::Action::kNone) {
      return EndChange(state_, job.key, Ended::kNothing);
    }
    EraseUnderWay(state_, job.key);
  }
  // Puts the entry, and waits for the result on this thread. An asynchronous Put would be wrong for
  // two reasons: user code runs afterwards, which no thread of the tier may run; and a Put without
  // a lease that came later could overwrite a later change by another process.
  void Write(const Job& job, const TierEntry& entry) {
    const absl::Status status = PutOrFail(job, entry);
    if (status.ok() && checks_again()) RecordFingerprint(job, entry);
    if (job.is_change) {
      EndChange(state_, job.key, status.ok() ? Ended::kDone : Ended::kNotPut);
    } else if (absl::IsAborted(status)) {  // another one has changed the key since the load began
      DropIfSame(job);
    }
  }
  // Fails if the tier throws, as a change has to end then, and a lease to be given back.
  absl::Status PutOrFail(const Job& job, const TierEntry& entry) {
    const auto put = [&] { return tier().Put(job.key, entry, job.lease); };
    const auto fail = [&] {
      if (job.lease.held()) tier().EndLead(job.key, job.lease);
      return absl::Status(absl::StatusCode::kUnknown, "");
    };
    return CatchErrors(put, fail);
  }
  // Records which entry the written object is. If that fails, a later load decodes or loads the
  // object again in place of checking it.
  void RecordFingerprint(const Job& job, const TierEntry& entry) {
    const BackgroundTasks::Running running(state_->tasks);
    if (!running.may_run()) return;
    CatchErrors(
        [&] {
          const std::optional<K> key = state_->decode_key(job.key);
          if (key.has_value())
            state_->target->SetFingerprint(*key, job.object, FingerprintOf(entry));
        },
        [] {});
  }
  // Writes an evicted object, if the tier has none, and nobody has changed the key since it was
  // loaded.
  void WriteOrThrow(const std::string& key, const Ref<V>& object) {
    const BackgroundTasks::Running running(state_->tasks);
    if (!running.may_run() || !MayAsk(key)) return;
    TierWait wait;
    wait.deadline = std::chrono::steady_clock::now() + kLongestWait;
    const absl::StatusOr<TierEntry> entry = tier().Get(key, wait);
    if (entry.ok() ? IsUsable(*entry, Now())
                   : !absl::IsNotFound(entry.status()) && !absl::IsDataLoss(entry.status())) {
      return;
    }
    const std::unique_ptr<Turn> turn = MakeTurn(key);
    absl::StatusOr<TierLead> lead = tier().TryLead(key);
    if (!lead.ok()) return;
    turn->job().lease = std::move(lead->lease);
    if (!turn->job().lease.held() || !tier().AwaitNotices(wait).ok()) return;
    // A change before the lease has reached the cache by now; a later one revokes the lease.
    const std::optional<K> decoded = settings_.decode_key(key);
    if (!decoded.has_value() || state_->HasMissedNotice() || pauses_ != 0) return;
    const std::optional<EvictedTerms> terms = state_->target->TermsOf(*decoded, object);
    if (!terms.has_value()) return;
    turn->SetEvictedTerms(*terms);
    turn->Put(object);
  }
  void DropIfSame(const Job& job) {
    WithTarget(*state_, [&](TierTarget<K, V>& target) {
      const std::optional<K> key = state_->decode_key(job.key);
      if (key.has_value()) target.InvalidateIfSame(*key, WeakRef<V>(job.object));
    });
  }

  // In a handler: returns whether there was no memory.
  static bool IsOutOfMemory() {
#ifdef __cpp_exceptions
    try {
      throw;
    } catch (const std::bad_alloc&) {
      return true;
    } catch (...) {
    }
#endif
    return false;
  }

  // One EraseAsync. It may throw for want of memory after it has called `done`; `has_ended` makes
  // sure that the change ends once.
  struct Erasure {
    Erasure(std::shared_ptr<State> of, std::string of_key)
        : state(std::move(of)), key(std::move(of_key)) {}
    bool TryEnd() { return !has_ended.exchange(true); }

    const std::shared_ptr<State> state;
    const std::string key;
    std::atomic<bool> has_ended{false};  // false to true once, by the thread that ends the change
  };
  // Erases what would have been erased as changes end, or by later loads. If the tier says at once
  // that it can't, it is away: then each of the others would only take its time.
  void EraseWhatIsOverdue() {
    // Set by any thread, and never cleared. Relaxed: nothing is read by reason of it.
    const auto has_failed = std::make_shared<std::atomic<bool>>(false);
    for (std::string& key : state_->changes.KeysToErase()) {
      settings_.tier->EraseAsync(std::move(key), [has_failed](const absl::Status& status) {
        if (!status.ok()) has_failed->store(true, std::memory_order_relaxed);
      });
      if (has_failed->load(std::memory_order_relaxed)) break;
    }
  }

  // Erases an entry, which is a change that has begun. The tier has to be certain to be there.
  static void EraseUnderWay(const std::shared_ptr<State>& state, const std::string& key) {
    std::shared_ptr<Erasure> erasure;
    const auto begin = [&] {
      erasure = std::make_shared<Erasure>(state, key);
      state->tier.EraseAsync(key, [erasure](const absl::Status& status) {
        if (!erasure->TryEnd()) return;
        EndChange(erasure->state, erasure->key, status.ok() ? Ended::kDone : Ended::kNotErased);
      });
      return true;
    };
    if (CatchErrors(begin, [] { return false; })) return;
    if (erasure != nullptr && !erasure->TryEnd()) return;
    EndUnerased(*state, key);
  }
  // Ends a change for which no Erase can begin. If the key has to be erased once more, that can't
  // be done either.
  static void EndUnerased(State& state, const std::string& key) {
    while (state.changes.End(key, Ended::kNotErased)) {
    }
  }
  static void EndChange(const std::shared_ptr<State>& state, const std::string& key, Ended how) {
    if (!state->changes.End(key, how)) return;
    const BackgroundTasks::Running running(state->tasks);
    if (running.may_run()) return EraseUnderWay(state, key);
    EndUnerased(*state, key);  // for the end of the cache, which erases what is overdue
  }

  const MakeTarget make_target_;
  const TierSettings<K> settings_;
  const Encoding encoding_;
  const std::shared_ptr<State> state_;
  const std::shared_ptr<Listener> listener_;
  Figures figures_;
  // Objects that wait to be written. A few more may begin to wait at the same time. Relaxed:
  // nothing else is concluded from it.
  std::atomic<size_t> evictions_{0};
  // How many changes are under way that erase in the tier first: from before that until they have
  // changed the cache. Sequentially consistent: whoever has taken a lease after such an erasure, by
  // which it sees the addition, and then reads 0, sees the cache as it was changed.
  std::atomic<size_t> pauses_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_TIERED_OBJECTS_H_
