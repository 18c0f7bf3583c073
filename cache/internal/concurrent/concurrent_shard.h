// SPDX-License-Identifier: Apache-2.0
// One shard of a concurrent container: a table, and the creations that are under way in it.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_SHARD_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_SHARD_H_

#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/concurrent/concurrent_table.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/recursive_creation_error.h"
#include "weakcache/weakref/handle_traits.h"

namespace weakcache::internal {

// `keys`, below, compares keys; `hash` and `lookup` are a key's hash and the key as its user wrote
// it.
template <typename H, typename K>
class alignas(64) ConcurrentShard {
  static constexpr uint64_t kNoVersion = ~uint64_t{0};
  using Policy = typename AtomicsOf<H>::Policy;
  using Flights = SingleFlight<CreationResult<H>, K, Policy>;
  using ShardCompletion = FlightCompletion<ConcurrentShard, Flights>;

 public:
  using Table = ConcurrentTable<H, K>;
  using Entry = typename Table::Entry;
  using Slot = typename Table::Slot;

  // Returns the object under the key, or null; see ConcurrentTable.
  template <typename Keys, typename Lookup>
  H Find(uint32_t hash, const Keys& keys, const Lookup& lookup) const {
    return table.Find(hash, Matching(keys, lookup));
  }

  struct Entered {
    H previous;  // the live object that was under the key, or null
    H current;   // if `made` was no handle and has been entered: its first one
  };
  // Enters `made`, which is a handle or an object that has none yet. An object that is under the
  // key already stays unless `replace`.
  template <typename Keys, typename Lookup, typename Key, typename Made>
  Entered Enter(uint32_t hash, const Keys& keys, const Lookup& lookup, Key&& key, Made& made,
                bool replace) {
    constexpr bool kEmbedded = !std::is_same_v<std::remove_const_t<Made>, H>;
    // Copying such a key runs no user code.
    constexpr bool kKeyIsPlain = std::is_trivially_copyable_v<K> &&
                                 std::is_trivially_copy_constructible_v<K> &&
                                 std::is_same_v<Lookup, K>;
    Entry present;
    typename Table::DeferredReleases deferred;
    typename Table::PreparedSlot prepared;
    typename Table::MutexLock lock(table.mutex);
    table.PurgeUpTo(Table::kPurgesPerOperation, deferred);
    if (kKeyIsPlain || !replace) {
      present = table.FindLocked(hash, Matching(keys, lookup), deferred);
      if (present.slot != nullptr && !replace) return {std::move(present.object), H()};
    }
    table.template Prepare<kEmbedded>(prepared);
    if constexpr (kKeyIsPlain) {
      prepared.MakePayload(lookup);
    } else {
      lock.unlock();
      prepared.MakePayload(std::forward<Key>(key));
      lock.lock();
      present = table.FindLocked(hash, Matching(keys, prepared.payload()), deferred);
      if (present.slot != nullptr && !replace) return {std::move(present.object), H()};
    }
    table.MakeRoom(deferred);
    Entered entered;
    if constexpr (kEmbedded) {
      entered.current = table.Enter(prepared, hash, made, present, deferred);
    } else {
      table.Enter(prepared, hash, made, present, deferred);
    }
    entered.previous = std::move(present.object);
    return entered;
  }

  // Removes the object under the key if `condition(object)` is true. Returns whether it has.
  template <typename Keys, typename Lookup, typename Condition>
  bool EraseIf(uint32_t hash, const Keys& keys, const Lookup& lookup, Condition&& condition) {
    Entry present;
    typename Table::DeferredReleases deferred;
    typename Table::MutexLock lock(table.mutex);
    table.PurgeUpTo(Table::kPurgesPerOperation, deferred);
    present = table.FindLocked(hash, Matching(keys, lookup), deferred);
    if (present.slot == nullptr || !condition(present.object)) return false;
    return table.Remove(present, deferred);
  }

  // Returns the object under the key nearly always; null proves nothing. See ConcurrentTable.
  template <typename Keys, typename Lookup>
  H FindFast(uint32_t hash, const Keys& keys, const Lookup& lookup) const {
    return table.FindFast(hash, Matching(keys, lookup));
  }
  // Returns the object under the key, or creates it. Called after FindFast has found nothing.
  template <typename Keys, typename Lookup, typename Key, typename Factory>
  [[gnu::noinline]] H FindOrCreate(uint32_t hash, const Keys& keys, const Lookup& lookup, Key&& key,
                                   Factory&& factory) {
    using Made = decltype(MakeObjectBy<H>(std::forward<Factory>(factory)));
    constexpr bool kEmbedded = !std::is_same_v<Made, H>;
    auto found = table.FindOrProveAbsent(hash, Matching(keys, lookup));
    if (found.object.get() != nullptr) return std::move(found.object);
    typename Flights::Flight flight(hash);
    typename Table::PreparedSlot prepared;
    CreationResult<H> result;
    Made made{};                                        // destroyed after the creation has ended
    ShardCompletion completion{this, nullptr, result};  // ends it before its key is destroyed
    CatchInto(result, [&] {
      if (!Start<kEmbedded>(hash, keys, lookup, &found.version, flight, prepared, completion))
        return;
      prepared.MakePayload(std::forward<Key>(key));
      flight.SetKey(std::addressof(prepared.payload()));
      made = MakeObjectBy<H>(std::forward<Factory>(factory));
      if (made.get() == nullptr) return;
      if constexpr (!kEmbedded) {
        CheckOwns(made, "ConcurrentWeakValueMap::get_or_create");
      }
      EnterCreated<kEmbedded>(hash, keys, found.version, prepared, made, completion);
    });
    completion.Complete();
    return std::move(result.object);
  }

  // Calls `visit(entry)` for each live object, without holding the lock.
  template <typename Visit>
  void ForEach(Visit&& visit) {
    table.ForEach(visit);
  }

  // See ShardArray.
  bool DropEntries() { return table.DropExternalEntries(); }

  void CheckInvariantsForTesting() {
    typename Table::MutexLock lock(table.mutex);
    table.CheckInvariantsForTesting();
    Check(flights.empty(), "CheckInvariantsForTesting", "a creation has not ended");
  }

  Table table;
  Flights flights;  // guarded by the table's mutex

 private:
  // Starts a flight. Returns false if there is a result instead: the object was in the map, or
  // another thread has created it. As of `*version` the table did not have the key.
  template <bool kEmbedded, typename Keys, typename Lookup>
  bool Start(uint32_t hash, const Keys& keys, const Lookup& lookup, uint64_t* version,
             typename Flights::Flight& flight, typename Table::PreparedSlot& prepared,
             ShardCompletion& completion) {
    const auto match = Matching(keys, lookup);
    StartOutcome outcome =
        StartUncontended<kEmbedded>(*this, flight, prepared, completion, *version);
    if (outcome == StartOutcome::kRefused) {
      *version = kNoVersion;
      outcome = StartOrJoin<kEmbedded, Policy>(*this, hash, match, MatchingKey(keys, lookup),
                                               flight, prepared, completion.result);
      if (outcome == StartOutcome::kStarted) completion.flight = &flight;
    }
    if (outcome == StartOutcome::kRecursive) FailRecursiveCreation();
    if (completion.result.error != nullptr) std::rethrow_exception(completion.result.error);
    return outcome == StartOutcome::kStarted;
  }

  // Enters what the factory has made, and ends the flight. If another object has been entered under
  // the key meanwhile, that one is the result, and `made` is dropped.
  template <bool kEmbedded, typename Keys, typename Made>
  void EnterCreated(uint32_t hash, const Keys& keys, uint64_t version,
                    typename Table::PreparedSlot& prepared, Made& made,
                    ShardCompletion& completion) {
    CreationResult<H>& result = completion.result;
    Entry present;
    typename Table::DeferredReleases deferred;
    typename Table::MutexLock lock(table.mutex);
    // Nothing has been entered since. (Objects that have died without notice are still in the
    // table.)
    const bool is_absent = HandleTraits<H>::kNotifiesExpiry && table.version() == version;
    if (!is_absent) {
      present = table.FindLocked(hash, Matching(keys, prepared.payload()), deferred);
    }
    table.PurgeUpTo(Table::kPurgesPerOperation, deferred);
    if (present.slot == nullptr) {
      table.MakeRoom(deferred);
      if constexpr (kEmbedded) {
        result.object = table.Enter(prepared, hash, made, Entry(), deferred);
      } else {
        table.Enter(prepared, hash, made, Entry(), deferred);
        result.object = std::move(made);
      }
    } else {
      result.object = std::move(present.object);
    }
    if (completion.flight->has_spares()) table.template KeepSpare<kEmbedded>();
    completion.CompleteLocked(table);
  }

  template <typename Keys, typename Lookup>
  static auto Matching(const Keys& keys, const Lookup& key) {
    if constexpr (kIsCheapToCompare<K, decltype(keys.equal)>) {
      return [key](const Slot& slot) { return slot.payload() == key; };
    } else {
      return [&keys, &key](const Slot& slot) { return keys.equal(slot.payload(), key); };
    }
  }
  template <typename Keys, typename Lookup>
  static auto MatchingKey(const Keys& keys, const Lookup& key) {
    return [&keys, &key](const K& present) { return keys.equal(present, key); };
  }
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_SHARD_H_
