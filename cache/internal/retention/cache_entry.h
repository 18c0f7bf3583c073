// SPDX-License-Identifier: Apache-2.0
// What a cache keeps with an object, in its slot.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_CACHE_ENTRY_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_CACHE_ENTRY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"
#include "weakcache/cache/internal/stats/cache_counters.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache {

namespace internal {

// What of a cache its objects may need after its end, when they die late.
template <typename K>
struct CacheShared {
  using Listener = std::function<void(const K&, RemovalCause, uint64_t weight)>;

  explicit CacheShared(Listener listener) : listener(std::move(listener)) {}

  // What the listener throws goes where other callbacks' exceptions go.
  void NotifyListener(const K& key, RemovalCause cause, uint64_t weight) noexcept {
#ifdef __cpp_exceptions
    try {
      listener(key, cause, weight);
    } catch (...) {
      ReportCallbackError();
    }
#else
    listener(key, cause, weight);
#endif
  }

  const Listener listener;
  CacheCounters counters;
  // Whether the cache is there. True to false by the cache's end, once. Relaxed: a thread that lets
  // an object go at the same time may be told of either.
  std::atomic<bool> open{true};
};

template <typename K>
class CacheEntry;

// What a hit looks at; the rest lies apart.
template <typename K>
struct CacheKey {
  using Cold = CacheEntry<K>;

  template <typename Key>
  explicit CacheKey(std::in_place_t, Key&& key) : key(std::forward<Key>(key)) {}
  CacheKey(const CacheKey&) = delete;
  CacheKey& operator=(const CacheKey&) = delete;

  const K key;
  AccessCounter mark;
};

// Who may touch what: a look-up that is counted in at the slot, the key and what is atomic. The
// rest belongs to the thread that prepares the slot, until it enters it; then it is guarded by the
// mutex of the cache's Retention; in the end it is the last reader's.
template <typename K>
class CacheEntry : public GreedyDualNode {
 public:
  template <typename Slot>
  explicit CacheEntry(Slot* slot) noexcept
      : GreedyDualNode(&slot->payload().mark), key(slot->payload().key), slot(slot) {}
  CacheEntry(const CacheEntry&) = delete;
  CacheEntry& operator=(const CacheEntry&) = delete;

  // Before it is entered. `shared` outlives the entry.
  void SetUp(CacheShared<K>* shared, uint64_t hash) {
    shared_ = shared;
    key_hash = hash;
  }

  ~CacheEntry() { OnObjectExpired(); }

  // If it is still in the cache, its object has died without being retained. Nobody else has a use
  // for the entry then.
  void OnObjectExpired() noexcept {
    if (!std::exchange(in_cache, false)) return;
    const uint64_t weight = object_weight();
    shared_->counters.Unpinned(weight);
    if (mark->left_idle()) return;  // its death was the eviction's doing
    shared_->counters.CountRemoval(RemovalCause::kDied);
    // Relaxed: see the field.
    if (!shared_->listener || !shared_->open.load(std::memory_order_relaxed)) return;
    shared_->NotifyListener(key, RemovalCause::kDied, weight);
  }

  // Relaxed, all of these: see the fields.
  // Invariant: the cache counts as an owner of the object, and the entry is in the policy.
  bool retained() const { return mark->is_in_policy(); }
  uint64_t object_weight() const { return weight_.load(std::memory_order_relaxed); }
  void set_object_weight(uint64_t weight) { weight_.store(weight, std::memory_order_relaxed); }

  // Nanoseconds of the cache's clock. Invariant: never before the entry was made. The time of
  // writing is written before the entry is entered; of access by any look-up, unordered, as the
  // last of them is as good as any. Relaxed: nothing else is concluded from them.
  std::atomic<int64_t> written{0};
  std::atomic<int64_t> accessed{0};
  // Whether a thread is replacing the object by a fresh one. False to true by that thread, which
  // wins by an exchange, and back if it has failed. Relaxed: it orders nothing but who loads.
  std::atomic<bool> refreshing{false};

  const K& key;
  uint64_t key_hash = 0;
  // The counts of the slot, and those of the object, which are the same for a resident.
  ControlBlock* const slot;
  ControlBlock* object = nullptr;
  bool in_cache = false;  // in the cache, as far as anybody but its death is concerned

  // Weighings of the object that have begun, and the last one of them that has ended.
  uint32_t weighings = 0;
  uint32_t weighed = 0;

  // While a thread tells the listener about it, which it alone does until nothing is left to tell.
  bool notifying = false;
  bool unused_at_eviction = false;  // nobody used it when it was evicted last
  RemovalCause cause = RemovalCause::kBudget;
  uint64_t notified_weight = 0;
  std::optional<RemovalCause> next_cause;
  CacheEntry* next_pending = nullptr;

 private:
  // Written before the entry is entered, and then under the mutex. Relaxed: look-ups only guess by
  // it whether the object may be retained.
  std::atomic<uint64_t> weight_{0};
  CacheShared<K>* shared_ = nullptr;
};

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_CACHE_ENTRY_H_
