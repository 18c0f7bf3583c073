// SPDX-License-Identifier: Apache-2.0
// Loads many keys of a cache with one call of a loader.
//
// Each key has a flight of its own, so who asks for one of them meanwhile waits for it. Keys that
// others are loading come last: nobody is waited for while anybody may be waiting here.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_BULK_LOAD_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_BULK_LOAD_H_

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

// The loader takes a std::vector<K> and returns a vector with as many results in the same order, or
// an absl::StatusOr of that.
template <typename Core, typename K, typename V, typename Loader>
class BulkLoad {
 public:
  using Result = absl::StatusOr<Ref<V>>;

  BulkLoad(Core& core, absl::Span<const K> keys, Loader& loader)
      : core_(core), keys_(keys), loader_(loader), results_(keys.size()) {}

  std::vector<Result> Run() && {
    {
      LoadPermit permit(core_.limiter_);
      for (size_t i = 0; i < keys_.size(); ++i) {
        results_[i] = core_.GetIfPresent(keys_[i]);
        if (results_[i].value().get() != nullptr) continue;
        // Before any flight begins, so that nobody waits for this thread while it waits here.
        if (parts_.empty()) permit.Acquire();
        Start(i);
      }
      if (!parts_.empty()) LoadParts();
    }
    for (const auto& [index, first] : repeated_) {
      core_.shared_->counters.CountMiss();
      results_[index] = results_[first];
    }
    for (const size_t index : others_) {
      results_[index] = core_.GetOrLoad(keys_[index], OneLoader(), /*estimate=*/0);
    }
    return std::move(results_);
  }

 private:
  using Values = WithoutStatus<std::remove_cvref_t<decltype(std::declval<Loader&>()(
      std::declval<const std::vector<K>&>()))>>;
  using Value = typename Values::value_type;
  using Object = WithoutStatus<Value>;
  using Made = typename MadeOf<V, Value>::type;
  static constexpr bool kEmbedded = !std::is_same_v<Made, Ref<V>>;

  // A key that this thread loads.
  struct Part {
    Part(const typename Core::KeyLocation& location, size_t index)
        : location(location), index(index), flight(location.hash()) {}

    const typename Core::KeyLocation location;
    const size_t index;
    typename Core::Flights::Flight flight;
    typename Core::PreparedSlot prepared;
    // What those that wait get if it comes to nothing else.
    LoadOutcome<V> result{nullptr, absl::AbortedError("the bulk load came to nothing")};
    Made made{};
    typename Core::FlightCompletion completion{location.shard, nullptr, result};
  };

  void Start(size_t index) {
    auto part = std::make_unique<Part>(core_.Locate(keys_[index]), index);
    parts_.reserve(parts_.size() + 1);
    others_.reserve(others_.size() + 1);
    repeated_.reserve(repeated_.size() + 1);
    if (!TryStart(*part)) return;
    core_.shared_->counters.CountMiss();
    Part& begun = *parts_.emplace_back(std::move(part));
    core_.MakePayload(begun.location, begun.prepared, keys_[index]);
    begun.flight.SetKey(&begun.prepared.payload().key);
  }
  // False if another thread loads it, or this part of this one already does, or it has just come
  // in: then it is noted for later.
  bool TryStart(Part& part) {
    typename Core::Shard& shard = *part.location.shard;
    typename Core::TableEntry present;
    typename Core::PendingRemovals removals(core_.retention_);
    typename Core::MutexLock lock(shard.table.mutex);
    const K& key = keys_[part.index];
    present = shard.table.FindLocked(part.location.hash(), core_.Matching(key), removals.deferred);
    const auto other = shard.flights.Find(part.location.hash(), core_.MatchingKey(key));
    const auto first = std::find_if(parts_.begin(), parts_.end(), [&](const auto& begun) {
      return &begun->flight == other.flight;
    });
    if (present.slot == nullptr && first != parts_.end()) {
      repeated_.emplace_back(part.index, (*first)->index);
      return false;
    }
    others_.push_back(part.index);
    if (present.slot != nullptr || other.flight != nullptr || other.key_pending) return false;
    shard.table.template Prepare<kEmbedded>(part.prepared);
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
        if (part->completion.flight != nullptr) part->result.error = std::current_exception();
      }
      throw;  // the parts land as they go
    }
#else
    CallAndEnter();
#endif
    for (auto& part : parts_) {
      part->completion.Complete();
      if (part->result.status.ok()) {
        results_[part->index] = std::move(part->result.object);
      } else {
        results_[part->index] = std::move(part->result.status);
      }
    }
  }
  void CallAndEnter() {
    std::vector<K> missing;
    missing.reserve(parts_.size());
    for (const auto& part : parts_) missing.push_back(part->prepared.payload().key);
    typename Core::LoadTimer timer(core_);
    absl::StatusOr<Values> values = loader_(std::as_const(missing));
    absl::Status status = values.status();
    if (status.ok() && values->size() != parts_.size()) {
      status = absl::InternalError("the bulk loader gave too many objects or too few");
    }
    for (size_t i = 0; i < parts_.size(); ++i) {
      Part& part = *parts_[i];
      part.result.status =
          status.ok() ? LoadInto<V>([&]() -> Value { return std::move((*values)[i]); }, part.made)
                      : status;
      if (part.result.status.ok()) Enter(part);
    }
    if (status.ok()) timer.Succeed();
  }
  void Enter(Part& part) {
    core_.SetUp(part.prepared.cold(), core_.Weigh(*part.made), core_.freshness_.NowIfNeeded());
    typename Core::Reservation reservation{core_.retention_};
    core_.EnterLoaded(part.location, part.prepared, part.made, part.completion, reservation);
  }

  // For a key that somebody else was loading; that may have failed.
  auto OneLoader() {
    return [this](const K& key) -> absl::StatusOr<Object> {
      absl::StatusOr<Values> values = loader_(std::vector<K>{key});
      if (!values.ok()) return std::move(values).status();
      if (values->size() != 1) {
        return absl::InternalError("the bulk loader gave too many objects or too few");
      }
      return std::move(values->front());
    };
  }

  Core& core_;
  const absl::Span<const K> keys_;
  Loader& loader_;
  std::vector<Result> results_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::vector<size_t> others_;                       // indices of keys that others load
  std::vector<std::pair<size_t, size_t>> repeated_;  // indices, and of the same keys' first ones
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_BULK_LOAD_H_
