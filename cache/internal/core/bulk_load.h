// SPDX-License-Identifier: Apache-2.0
// GetAll of a LargeObjectCache: loads many keys with one call of a loader.
//
//   1. Each key is looked up. For each one that is missing, and that no other thread is loading,
//      a part starts: a flight of its own, so that a thread that asks for this key meanwhile waits
//      for the bulk load. The permit is acquired before the first flight, for nobody may wait for
//      a thread that waits for a permit.
//   2. The loader runs once, with the keys of all parts.
//   3. Each part's object is weighed and entered like that of a single load.
//   4. Only then come the keys that other threads were loading, one by one, by GetOrLoad: no thread
//      waits for another's flight while it has flights itself. Keys that are repeated in the
//      argument get the result of their first occurrence.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_BULK_LOAD_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_BULK_LOAD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
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

  BulkLoad(Loads& loads, absl::Span<const K> keys, Loader& loader)
      : loads_(loads), store_(loads.store()), keys_(keys), loader_(loader), results_(keys.size()) {}

  // `load_one(key, loader)` is GetOrLoad.
  template <typename LoadOne>
  std::vector<Result> Run(LoadOne&& load_one) && {
    {
      LoadPermit permit(loads_.limiter());
      for (size_t i = 0; i < keys_.size(); ++i) {
        results_[i] = store_.GetIfPresent(keys_[i]);
        if (results_[i].value().get() != nullptr) continue;
        if (parts_.empty()) permit.Acquire();
        Start(i);
      }
      if (!parts_.empty()) LoadParts();
    }
    for (const auto& [index, first] : repeated_) {
      store_.counters().CountMiss();
      results_[index] = results_[first];
    }
    for (const size_t index : others_) results_[index] = load_one(keys_[index], OneLoader());
    return std::move(results_);
  }

 private:
  using Store = std::remove_cvref_t<decltype(std::declval<Loads>().store())>;
  using KeyLocation = typename Loads::KeyLocation;
  using Values = WithoutStatus<std::remove_cvref_t<decltype(std::declval<Loader&>()(
      std::declval<const std::vector<K>&>()))>>;
  using Value = typename Values::value_type;
  using Object = WithoutStatus<Value>;
  using Made = typename MadeOf<V, Value>::type;

  // A key that this thread loads.
  struct Part {
    Part(const KeyLocation& location, size_t index)
        : location(location), index(index), flight(location.hash()) {}

    const KeyLocation location;
    const size_t index;
    typename Loads::Flights::Flight flight;
    typename Loads::PreparedSlot prepared;
    // For those that wait, unless something else becomes of it.
    LoadOutcome<V> outcome{nullptr, absl::AbortedError("the bulk load came to nothing")};
    Made made{};
    typename Loads::FlightCompletion completion{location.shard, nullptr, outcome};
  };

  void Start(size_t index) {
    auto new_part = std::make_unique<Part>(store_.shards().Locate(keys_[index]), index);
    parts_.reserve(parts_.size() + 1);
    others_.reserve(others_.size() + 1);
    repeated_.reserve(repeated_.size() + 1);
    if (!TryStart(*new_part)) return;
    store_.counters().CountMiss();
    Part& part = *parts_.emplace_back(std::move(new_part));
    store_.MakePayload(part.location, part.prepared, keys_[index]);
    part.flight.SetKey(&part.prepared.payload().key);
  }
  // False if another thread loads the key, or an earlier part does, or its object has come in by
  // now: then the key is noted for later.
  bool TryStart(Part& part) {
    typename Store::Shard& shard = *part.location.shard;
    typename Store::TableEntry present;
    typename Store::PendingRemovals removals(store_.retention());
    typename Store::MutexLock lock(shard.table.mutex);
    const K& key = keys_[part.index];
    present = shard.table.FindLocked(part.location.hash(), store_.shards().Matching(key),
                                     removals.deferred);
    const auto other = shard.flights.Find(part.location.hash(), store_.shards().MatchingKey(key));
    const auto first = std::find_if(parts_.begin(), parts_.end(), [&](const auto& earlier) {
      return &earlier->flight == other.flight;
    });
    if (present.slot == nullptr && first != parts_.end()) {
      repeated_.emplace_back(part.index, (*first)->index);
      return false;
    }
    others_.push_back(part.index);
    if (present.slot != nullptr || other.flight != nullptr || other.key_pending) return false;
    shard.table.template Prepare<Loads::template kIsEmbedded<Made>>(part.prepared);
    if (!shard.flights.Start(part.flight, other)) return false;
    others_.pop_back();
    part.completion.flight = &part.flight;
    return true;
  }

  void LoadParts() {
#ifdef __cpp_exceptions
    try {
      CallAndEnter();
    } catch (...) {
      for (auto& part : parts_) {
        if (part->completion.flight != nullptr) part->outcome.error = std::current_exception();
      }
      throw;  // the parts' destructors end their flights
    }
#else
    CallAndEnter();
#endif
    for (auto& part : parts_) {
      part->completion.Complete();
      if (part->outcome.status.ok()) {
        results_[part->index] = std::move(part->outcome.object);
      } else {
        results_[part->index] = std::move(part->outcome.status);
      }
    }
  }
  void CallAndEnter() {
    std::vector<K> missing;
    missing.reserve(parts_.size());
    for (const auto& part : parts_) missing.push_back(part->prepared.payload().key);
    typename Loads::Timer timer(store_);
    absl::StatusOr<Values> values = loader_(std::as_const(missing));
    absl::Status status = values.status();
    if (status.ok() && values->size() != parts_.size()) status = WrongCount();
    for (size_t i = 0; i < parts_.size(); ++i) {
      Part& part = *parts_[i];
      part.outcome.status =
          status.ok() ? LoadInto<V>([&]() -> Value { return std::move((*values)[i]); }, part.made)
                      : status;
      if (part.outcome.status.ok()) Enter(part);
    }
    if (status.ok()) timer.Succeed();
  }
  void Enter(Part& part) {
    Store::SetUp(part.prepared.cold(), store_.Weigh(*part.made), store_.freshness().NowIfNeeded());
    typename Store::Reservation none(store_.retention());
    loads_.EnterLoaded(part.location, part.prepared, part.made, part.completion, none);
  }

  // The loader for a single key, which another thread was loading, perhaps in vain.
  auto OneLoader() {
    return [this](const K& key) -> absl::StatusOr<Object> {
      absl::StatusOr<Values> values = loader_(std::vector<K>{key});
      if (!values.ok()) return std::move(values).status();
      if (values->size() != 1) return WrongCount();
      return std::move(values->front());
    };
  }
  static absl::Status WrongCount() {
    return absl::InternalError("the bulk loader gave too many objects or too few");
  }

  Loads& loads_;
  Store& store_;
  const absl::Span<const K> keys_;
  Loader& loader_;
  std::vector<Result> results_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::vector<size_t> others_;                       // indices of keys that others load
  std::vector<std::pair<size_t, size_t>> repeated_;  // indices, and those of the first occurrences
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_BULK_LOAD_H_
