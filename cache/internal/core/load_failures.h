// SPDX-License-Identifier: Apache-2.0
// What becomes of a failed load in a LargeObjectCache with a `failure_ttl`.
//
// A load that fails asks that option how long, keeps its failure in the shard's table, and only
// then ends its flight. A load that has begun its own flight looks into the table before it calls
// its loader. So nobody who asks for the key, at the same time or later, calls a loader until the
// failure is over. Callers also look before they begin a flight, only to save a permit or a task.
//
// Entering an object under the key, and invalidating the key or the group of the load, take the
// failure out, under the shard's lock. They also cancel the flight of a load under way, which then
// keeps no failure; a refresh that enters its object only has it keep none.
//
// Keys and statuses of failures have destructors of the user's. So an operation that takes failures
// out, or looks at one, passes them to its Held, which outlives its flight and its permit.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_FAILURES_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_FAILURES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/loading/failure_table.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/retention/object_groups.h"

namespace weakcache::internal {

// Thread-safe. Store is a CacheStore, which outlives this.
template <typename Store>
class LoadFailures {
 public:
  using K = typename Store::Key;
  using Entry = typename Store::Entry;
  using KeyLocation = typename Store::KeyLocation;
  using Flight = typename Store::Flights::Flight;
  using Shard = typename Store::Shard;
  using Ttl = std::function<absl::Duration(const absl::Status&)>;
  // Failures that an operation has met, until it holds nothing that others wait for: declare it
  // before flights and permits.
  using Held = std::vector<typename FailureTable<K>::Failure>;

  enum class Asker { kRequest, kPrefetch };

  LoadFailures(Store& store, Ttl ttl) : store_(store), ttl_(std::move(ttl)) {}
  LoadFailures(const LoadFailures&) = delete;
  LoadFailures& operator=(const LoadFailures&) = delete;

  // Returns the failure that is kept under the key; or OK. Counts it as served, unless to a
  // prefetch. Calls the clock.
  template <typename Lookup>
  absl::Status Find(const KeyLocation& location, const Lookup& lookup, Held& held,
                    Asker asker = Asker::kRequest) const {
    if (location.shard->failures.empty()) [[likely]]
      return absl::OkStatus();
    absl::Status failure = FindSlow(location, lookup, held);
    if (!failure.ok() && asker == Asker::kRequest) store_.counters().CountFailureServed();
    return failure;
  }

  // Keeps the failure of a load, if the option says so and no change has made it void. Called
  // before its flight ends. Calls the option and the clock, and copies the key; if one of these
  // throws, or there is no memory, the failure is not kept.
  void Keep(const KeyLocation& location, const Flight& flight, const Entry& entry,
            const absl::Status& status, Held& held) const {
    if (!ttl_) return;
    CatchErrors([&] { KeepOrThrow(location, flight, entry, status, held); }, [] {});
  }

  // Forgets the failure that is kept under the key, if any.
  template <typename Lookup>
  void Forget(const KeyLocation& location, const Lookup& lookup) const {
    if (location.shard->failures.empty()) return;
    Failure failure;
    typename Store::MutexLock lock(location.shard->table.mutex);
    failure = location.shard->failures.Take(location.hash(), store_.shards().MatchingKey(lookup));
  }
  // Forgets all failures of a shard under keys for which `condition(key)` is true, which is called
  // without a lock.
  template <typename Condition>
  static void ForgetIf(Shard& shard, Condition&& condition) {
    ForgetFailuresIf(shard, [&](const KeptFailure<K>& failure) { return condition(failure.key); });
  }
  // Forgets those of loads that named the group.
  static void ForgetGroup(Shard& shard, uint32_t group) {
    ForgetFailuresIf(shard, [&](const KeptFailure<K>& failure) { return failure.group == group; });
  }
  // Forgets those that are over.
  void Purge() const {
    store_.shards().ForEachShard([&](Shard& shard) {
      if (shard.failures.empty()) return;
      const int64_t now = store_.freshness().Now();
      ForgetFailuresIf(shard, [&](const KeptFailure<K>& failure) { return failure.IsOver(now); });
    });
  }

 private:
  using Failure = typename FailureTable<K>::Failure;

  // Makes room for what one operation adds. A bulk load has one Held for many operations, so the
  // room grows by a factor.
  static void Reserve(Held& held) {
    constexpr size_t kMost = FailureTable<K>::kRowSize + 1;
    if (held.capacity() - held.size() >= kMost) return;
    held.reserve(std::max(2 * held.capacity(), held.size() + kMost));
  }

  template <typename Lookup>
  [[gnu::noinline]] absl::Status FindSlow(const KeyLocation& location, const Lookup& lookup,
                                          Held& held) const {
    const int64_t now = store_.freshness().Now();
    Reserve(held);
    typename Store::MutexLock lock(location.shard->table.mutex);
    Failure failure = location.shard->failures.Find(location.hash(),
                                                    store_.shards().MatchingKey(lookup), now, held);
    lock.unlock();
    if (failure == nullptr) return absl::OkStatus();
    held.push_back(std::move(failure));
    return held.back()->Holds(now) ? held.back()->status : absl::OkStatus();
  }
  // Does Keep, but may throw.
  void KeepOrThrow(const KeyLocation& location, const Flight& flight, const Entry& entry,
                   const absl::Status& status, Held& held) const {
    if constexpr (std::is_copy_constructible_v<K>) {
      const int64_t life = absl::ToInt64Nanoseconds(ttl_(status));
      if (life <= 0) return;
      const int64_t now = store_.freshness().Now();
      const int64_t until = now > INT64_MAX - life ? INT64_MAX : now + life;
      const K& key = entry.key();
      Reserve(held);
      held.push_back(std::make_shared<const KeptFailure<K>>(key, location.hash(), status, now,
                                                            until, GroupOf(entry.stamp())));
      Failure& failure = held.back();
      typename Store::MutexLock lock(location.shard->table.mutex);
      if (!flight.keeps_failure()) return;
      location.shard->failures.Insert(failure, store_.shards().MatchingKey(key), now, held);
    }
  }
  // Forgets those of a shard for which `condition(failure)` is true, which is called without a
  // lock.
  template <typename Condition>
  static void ForgetFailuresIf(Shard& shard, const Condition& condition) {
    if (shard.failures.empty()) return;
    std::vector<Failure> failures;
    {
      typename Store::MutexLock lock(shard.table.mutex);
      failures = shard.failures.All();
    }
    std::erase_if(failures, [&](const Failure& failure) { return !condition(*failure); });
    Forget(shard, failures);
  }
  // Removes the failures, under the lock. The caller's pointers keep them until after the unlock.
  static void Forget(Shard& shard, const std::vector<Failure>& failures) {
    if (failures.empty()) return;
    typename Store::MutexLock lock(shard.table.mutex);
    for (const Failure& failure : failures) shard.failures.Remove(failure);
  }

  Store& store_;
  const Ttl ttl_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_FAILURES_H_
