// SPDX-License-Identifier: Apache-2.0
// GetAll of a LargeObjectCache: loads many keys with one call of a loader.
//
//   1. Each key is looked up. If any is missing, a permit is acquired, and the keys are looked up
//      again after each time that the thread has waited for one.
//   2. For each missing key that no other thread is loading, a part starts: a flight of its own, so
//      that a thread that asks for this key meanwhile waits for the bulk load. If a failure is kept
//      under the key, that is the part's result, and its flight ends.
//   3. The loader runs once, with the keys of all parts; but the second tier, if there is one, is
//      asked for them before, and the parts whose objects it has end as in step 4.
//   4. Each part's object is weighed and entered like that of a single load, and its flight ends.
//      The permit is returned, and only then user code runs: see cache_loads.h.
//   5. Only then come the keys that other threads were loading, one by one: no thread waits for
//      another's flight while it has flights itself. If such a load fails this thread loads the key
//      after all, so no other thread's failure is among the results. Keys that are repeated in the
//      argument get the result of their first occurrence.
//
// When the caller's wait ends, it leaves step 1 or 5, and the keys that have no result get an
// error.
//
// User code also runs between these steps, without a flight or a permit. If it has ended the cache,
// the keys that have no result yet get an error.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_BULK_LOAD_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_BULK_LOAD_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "weakcache/cache/internal/core/cache_loads.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

template <typename T>
struct WithoutStatusImpl {
  using type = T;
};
template <typename T>
struct WithoutStatusImpl<absl::StatusOr<T>> {
  using type = T;
};
template <typename T>
using WithoutStatus = typename WithoutStatusImpl<T>::type;

// One call of GetAll. The loader takes a std::vector<K> and returns a vector with as many results
// in the same order, or an absl::StatusOr of that. Loads is a CacheLoads.
template <typename Loads, typename Loader>
class BulkLoad {
 public:
  using K = typename Loads::K;
  using V = typename Loads::V;
  using Result = typename Loads::Result;

  BulkLoad(Loads& loads, absl::Span<const K> keys, Loader& loader, const LoadRequest& request)
      : wait_(request.options.deadline, request.options.stop_token),
        options_{.deadline = request.options.deadline,
                 .soft_timeout = request.options.soft_timeout,
                 .stop_token = request.options.stop_token,
                 .group = request.options.group,
                 .read_tier = request.options.read_tier,
                 .write_tier = request.options.write_tier},
        request_{options_, request.source},
        loads_(loads),
        store_(loads.store()),
        shared_(store_.shared()),
        keys_(keys),
        loader_(loader),
        results_(keys.size()) {}

  std::vector<Result> Run() && {
    for (size_t i = 0; i < keys_.size(); ++i) missing_.push_back(i);
    LookUpMissing();
    if (!missing_.empty()) LoadMissing();
    for (const size_t index : others_) results_[index] = LoadOther(index);
    ServeStale();
    return std::move(results_);
  }

 private:
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;
  using PendingRemovals = typename Store::PendingRemovals;
  using KeyLocation = typename Loads::KeyLocation;
  using Flight = typename Loads::Flights::Flight;
  using Values = WithoutStatus<std::remove_cvref_t<decltype(std::declval<Loader&>()(
      std::declval<const std::vector<K>&>()))>>;
  using Value = typename Values::value_type;
  using Object = WithoutStatus<Value>;
  using Made = typename MadeOf<V, Value>::type;

  // A key that this thread loads.
  struct Part {
    Part(const KeyLocation& of_key, size_t index_of_key)
        : location(of_key), index(index_of_key), flight(of_key.hash()) {}

    const KeyLocation location;
    const size_t index;
    typename Loads::Flights::EndedContinuations ended;
    Flight flight;
    typename Loads::PreparedSlot prepared;
    // The result for those that wait, unless the part gets another one.
    LoadOutcome<V> outcome{nullptr, absl::AbortedError("the bulk load came to nothing")};
    Made made{};
    TierTurnPtr<V>* turn = nullptr;        // of the tier, one of Ending::turns, or null
    TierRecheckPtr<V>* recheck = nullptr;  // the same
    typename Store::TableEntry present;    // what the made object replaces
    typename Loads::FlightCompletion completion{location.shard, nullptr, outcome, &ended};
  };

  // Ends what LoadMissing has begun: the permit, the flights, the tier's turns, and then what runs
  // other user code, in this order.
  struct Ending {
    explicit Ending(BulkLoad& bulk_load)
        : load(bulk_load),
          call(bulk_load.wait_, bulk_load.request_),
          permit(bulk_load.loads_.limiter(), &post) {}
    ~Ending() {
      permit.Release();
      for (auto& part : load.parts_) Loads::EndFlight(part->completion, removals);
      removals.FinishEviction();
      for (TierTurnPtr<V>& turn : turns) const IdleTurnEnd<V> idle_end(turn);
    }

    BulkLoad& load;
    PendingRemovals removals;
    std::vector<K> keys;
    absl::StatusOr<Values> values;
    StoppableCall call;
    std::vector<TierQuestion<K, V>> questions;
    std::vector<TierRecheckPtr<V>> rechecks;
    std::vector<TierTurnPtr<V>> turns;
    PostLater post;
    LoadPermit permit;
  };

  // Sets the results of missing keys whose objects have come. User code may run; if that ends the
  // cache, no key is missing any more.
  void LookUpMissing() {
    std::erase_if(missing_, [&](size_t index) {
      if (shared_->ended()) return false;
      Ref<V> expired;
      results_[index] = store_.GetIfPresent(keys_[index], expired);
      if (results_[index].value().get() != nullptr) return true;
      if (expired.get() != nullptr) fallbacks_.insert_or_assign(index, std::move(expired));
      return FindFailure(index);
    });
    if (!shared_->ended()) return;
    for (const size_t index : missing_) results_[index] = CacheHasEnded();
    missing_.clear();
  }

  // Sets the result of a missing key whose failure is kept. Runs no destructors.
  bool FindFailure(size_t index) {
    if (shared_->ended()) return false;
    const typename Store::template LookupKeyOf<K> lookup = keys_[index];
    absl::Status failure =
        loads_.failures().Find(store_.shards().Locate(lookup), lookup, held_failures_);
    if (failure.ok()) return false;
    store_.counters().CountMiss();
    results_[index] = std::move(failure);
    return true;
  }

  // Replaces failures by expired objects.
  void ServeStale() {
    if (wait_.cancelled()) return;
    for (auto& [index, expired] : fallbacks_) {
      if (results_[index].ok()) continue;
      shared_->counters.CountStaleServed();
      results_[index] = std::move(expired);
    }
  }

  void LoadMissing() {
    {
      Ending ending(*this);
      AcquirePermit(ending.permit);
      for (const size_t index : missing_) Start(index, ending);
      ResolveRepeated();
      if (!parts_.empty()) LoadParts(ending);
    }
    for (auto& part : parts_) {
      if (part->outcome.status.ok()) {
        results_[part->index] = std::move(part->outcome.object);
      } else {
        results_[part->index] = std::move(part->outcome.status);
      }
    }
    for (const auto& [index, first] : copies_) results_[index] = results_[first];
    parts_.clear();
    failed_.clear();
  }
  void AcquirePermit(LoadPermit& permit) {
    while (!missing_.empty()) {
      if (wait_.ended()) return LeaveMissing();
      if (permit.TryAcquire()) return;
      loads_.AwaitPermit(permit, wait_);
      LookUpMissing();
    }
    if (shared_->ended()) permit.ForgetLimiter();
  }

  void LeaveMissing() {
    for (const size_t index : missing_) {
      shared_->counters.CountMiss();
      results_[index] = HasLeft(wait_);
    }
    missing_.clear();
  }

  void Start(size_t index, Ending& ending) {
    auto part = std::make_unique<Part>(store_.shards().Locate(keys_[index]), index);
    part->flight.SetInterest(ending.call.interest());
    const Flight* own = nullptr;
    if (!TryStart(*part, own, ending.removals)) {
      // Held on to, as this may be the last reference, until the key gets its turn.
      results_[index] = std::move(part->present.object);
      if (own != nullptr) {
        repeated_.emplace_back(index, own);
      } else {
        others_.push_back(index);
      }
      return;
    }
    Part& started = *parts_.emplace_back(std::move(part));
    store_.MakePayload(started.location, started.prepared, keys_[index]);
    store_.BeginLoad(started.flight, started.prepared, options_.group);
    if (FindFailure(index)) {
      started.outcome.status = results_[index].status();
      Loads::EndFlight(started.completion, ending.removals);
      failed_.push_back(std::move(parts_.back()));
      parts_.pop_back();
    } else {
      store_.counters().CountMiss();
    }
  }
  // Starts a part. Returns false if the object has come by now, or the key is being loaded; if this
  // very thread loads it, mostly for an earlier part, `own` is that flight.
  bool TryStart(Part& part, const Flight*& own, PendingRemovals& removals) {
    typename Store::Shard& shard = *part.location.shard;
    const K& key = keys_[part.index];
    const typename Store::template LookupKeyOf<K> lookup = key;
    // One that has expired is looked for when its successor is entered.
    const auto match = store_.MatchingUnexpired(lookup, store_.freshness().NowIfNeeded());
    typename Store::MutexLock lock(shard.table.mutex);
    part.present = shard.table.FindLocked(part.location.hash(), match, removals.deferred);
    if (part.present.slot != nullptr) return false;
    for (bool is_prepared = false;; is_prepared = true) {
      const auto other = shard.flights.Find(part.location.hash(), store_.shards().MatchingKey(key));
      if (other.flight != nullptr && other.flight->IsThisThreads()) own = other.flight;
      if (other.flight != nullptr || other.key_pending != nullptr) return false;
      if (!is_prepared) {
        shard.table.template Prepare<Loads::template kIsEmbedded<Made>>(part.prepared);
      }
      if (shard.flights.Start(part.flight, other)) break;
      // Another key's flight has started since, without the lock. No other one can: that is only
      // for the first flight of a shard, and a flight ends under the lock.
    }
    part.completion.flight = &part.flight;
    return true;
  }

  void ResolveRepeated() {
    if (repeated_.empty()) return;
    std::unordered_map<const Flight*, size_t> first_occurrences;
    for (const auto& part : parts_) first_occurrences.emplace(&part->flight, part->index);
    for (const auto& [index, flight] : repeated_) {
      const auto first = first_occurrences.find(flight);
      if (first == first_occurrences.end()) {
        others_.push_back(index);  // a loader of this thread's that is under way loads the key
      } else {
        store_.counters().CountMiss();
        copies_.emplace_back(index, first->second);
      }
    }
  }

  void LoadParts(Ending& ending) {
#ifdef __cpp_exceptions
    try {
      CallAndEnter(ending);
    } catch (...) {
      for (auto& part : parts_) {
        if (part->completion.flight == nullptr) continue;
        part->outcome.error = std::current_exception();
        part->outcome.abandoned = ending.call.abandoned();
      }
      throw;
    }
#else
    CallAndEnter(ending);
#endif
  }
  void CallAndEnter(Ending& ending) {
    ending.call.Watch();
    typename Loads::Timer timer(store_);
    const std::vector<Part*> parts = PartsNotInTier(ending);
    if (parts.empty()) {
      timer.Succeed();
      return;
    }
    ending.keys.reserve(parts.size());
    for (Part* const part : parts) ending.keys.push_back(part->prepared.payload().key);
    absl::StatusOr<Values>& values = ending.values;
    if (loads_.tier() != nullptr && wait_.ended()) {
      values = HasLeft(wait_);
    } else {
      values = loader_(std::as_const(ending.keys));
    }
    const float load_time =
        timer.LoadTimeUntil(store_.freshness().Now()) / static_cast<float>(parts.size());
    absl::Status status = values.status();
    if (status.ok() && values->size() != parts.size()) {
      status = WrongCount(values->size(), parts.size());
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      Part& part = *parts[i];
      ObjectTerms terms;
      part.outcome.status =
          status.ok() ? TakeObject<V, Value>(std::move((*values)[i]), part.made, terms) : status;
      if (part.outcome.status.ok()) {
        part.prepared.cold().load_time = load_time;
        Enter(part, terms, ending.removals);
      } else {
        part.outcome.abandoned = ending.call.abandoned();
        if (part.outcome.abandoned) continue;
        loads_.failures().Keep(part.location, part.flight, part.prepared.cold(),
                               part.outcome.status, held_failures_);
      }
    }
    if (status.ok()) timer.Succeed();
  }
  // Enters the objects that the second tier has, which ends their flights. Returns the other parts.
  std::vector<Part*> PartsNotInTier(Ending& ending) {
    std::vector<Part*> parts;
    parts.reserve(parts_.size());
    for (const auto& part : parts_) parts.push_back(part.get());
    if (loads_.tier() != nullptr) EnterFromTier(parts, ending);
    return parts;
  }
  [[gnu::noinline]] void EnterFromTier(std::vector<Part*>& parts, Ending& ending) {
    std::vector<TierQuestion<K, V>>& questions = ending.questions;
    questions.resize(parts.size());
    for (size_t i = 0; i < parts.size(); ++i) questions[i].key = &parts[i]->prepared.payload().key;
    ending.turns.resize(parts.size());
    ending.rechecks.resize(parts.size());
    TierTurnPtr<V> no_turn;
    TierRecheckPtr<V> no_recheck;
    loads_.tier()->AskAll(absl::MakeSpan(questions), {wait_, request_.source, options_.read_tier,
                                                      options_.write_tier, no_turn, no_recheck});
    // Turns end before what may run other user code.
    for (size_t i = 0; i < parts.size(); ++i) {
      ending.turns[i] = std::move(questions[i].turn);
      ending.rechecks[i] = std::move(questions[i].recheck);
      parts[i]->turn = &ending.turns[i];
      parts[i]->recheck = &ending.rechecks[i];
    }
    for (size_t i = 0; i < parts.size(); ++i) SetMadeFromTier(*parts[i], questions[i].object);
    size_t missing = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      Part& part = *parts[i];
      if (HasFound(ending.rechecks[i])) {
        part.outcome.status = absl::OkStatus();
        typename Store::Reservation none_needed(store_.retention());
        EnterReserved(part, none_needed, ending.removals);
        continue;
      }
      if (!part.prepared.cold().came_from_tier) {
        parts[missing++] = &part;
        continue;
      }
      part.outcome.status = absl::OkStatus();
      Enter(part, questions[i].terms, ending.removals);
    }
    parts.resize(missing);
  }
  void SetMadeFromTier(Part& part, Owned<V>& object) {
    if (object == nullptr) return;
    part.prepared.cold().came_from_tier = true;
    if constexpr (Loads::template kIsEmbedded<Made>) {
      part.made = std::move(object);
    } else {
      part.made = AsRef<V>(std::move(object));
    }
  }
  void Enter(Part& part, const ObjectTerms& terms, PendingRemovals& removals) {
    const uint64_t weight = store_.WeightOf(*part.made, terms);
    store_.template SetUpLoaded<Loads::template kIsEmbedded<Made>>(
        part.prepared.cold(), weight, terms, store_.freshness().NowFor(terms));
    TierTurn<V>* const turn = part.turn == nullptr ? nullptr : part.turn->get();
    if (turn != nullptr) Loads::SetTermsOf(*turn, part.prepared.cold(), terms);
    typename Store::Reservation reservation(store_.retention());
    store_.template GrowRoom<Loads::template kIsEmbedded<Made>>(part.prepared.cold(), reservation,
                                                                removals);
    EnterReserved(part, reservation, removals);
  }
  void EnterReserved(Part& part, typename Store::Reservation& reservation,
                     PendingRemovals& removals) {
    loads_.EnterLoaded(part.location, part.prepared, part.made, part.present, part.completion,
                       reservation, removals, part.turn == nullptr ? nullptr : part.turn->get(),
                       part.recheck == nullptr ? nullptr : part.recheck->get());
    store_.RecordTaken(part.location, part.outcome.object);
    // Other threads rely on it, and the next part's weigher may take its time.
    removals.FinishEviction();
  }

  // Returns the object under a key that another thread was loading, perhaps in vain.
  Result LoadOther(size_t index) {
    if (shared_->ended()) return CacheHasEnded();
    const K& key = keys_[index];
    if (Ref<V> found = store_.GetIfPresent(key); found.get() != nullptr) return found;
    if (shared_->ended()) return CacheHasEnded();
    store_.counters().CountMiss();
    const typename Store::template LookupKeyOf<K> lookup = key;
    // Destroyed after the load.
    const std::vector<K> keys{key};
    absl::StatusOr<Values> values;
    const auto loader = [&]() -> absl::StatusOr<Object> {
      values = loader_(keys);
      if (!values.ok()) return values.status();
      if (values->size() != 1) return WrongCount(values->size(), 1);
      return std::move(values->front());
    };
    LoaderRef<V, K, decltype(loader)&> any(loader);
    LoadRequest request = request_;
    if (fallbacks_.contains(index)) request.patience = PatienceLeft();
    return loads_.Load(store_.shards().Locate(lookup), lookup, key, any.erased(), request,
                       IfOtherFails::kLoad);
  }
  // Returns how long this still waits for keys that have expired objects: for all of them together
  // as long as the soft timeout, from the first one on.
  std::chrono::nanoseconds PatienceLeft() {
    const std::chrono::nanoseconds patience = PatienceOf(options_);
    if (patience == kEndlessPatience) return patience;
    const SteadyTime now = std::chrono::steady_clock::now();
    if (!leaves_at_.has_value()) {
      leaves_at_ = patience < SteadyTime::max() - now ? now + patience : SteadyTime::max();
    }
    return std::max(*leaves_at_ - now, std::chrono::nanoseconds::zero());
  }
  static absl::Status WrongCount(size_t objects, size_t keys) {
    return absl::InternalError(
        absl::StrCat("the bulk loader gave ", objects, " objects for ", keys, " keys"));
  }

  BoundedWait wait_;           // destroyed last, as it may run user code
  const LoadOptions options_;  // without an estimate, which is for one object
  const LoadRequest request_;
  Loads& loads_;
  Store& store_;
  const std::shared_ptr<typename Store::Shared> shared_;
  const absl::Span<const K> keys_;
  Loader& loader_;
  typename LoadFailures<Store>::Held held_failures_;
  std::vector<Result> results_;
  std::vector<size_t> missing_;                   // indices of keys
  std::unordered_map<size_t, Ref<V>> fallbacks_;  // expired objects of missing keys
  std::optional<SteadyTime> leaves_at_;           // by the soft timeout
  std::vector<std::unique_ptr<Part>> parts_;
  std::vector<std::unique_ptr<Part>> failed_;  // by a failure that was kept
  std::vector<size_t> others_;                 // indices of keys that others load
  // Indices of keys that this thread loads already, and the flights.
  std::vector<std::pair<size_t, const Flight*>> repeated_;
  std::vector<std::pair<size_t, size_t>> copies_;  // indices of repeated keys and their first ones
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_BULK_LOAD_H_
