// SPDX-License-Identifier: Apache-2.0
// A refresh of a LargeObjectCache's object that an executor runs, while everybody gets the old
// object.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_REFRESH_TASK_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_REFRESH_TASK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/loading/background_tasks.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// Owns the claim on the refresh of an entry. Keeps the memory of the entry's slot, but the object
// only while the task runs, which the cache's end waits for: the object's destructor may use the
// cache. Does nothing if the object is gone, or the cache has ended. If the task is dropped, the
// refresh has failed. Refresh is a CacheRefresh; Loader is a decayed type.
template <typename Refresh, typename Loader>
class RefreshTask {
 public:
  using K = typename Refresh::K;
  using Entry = typename Refresh::Entry;
  using KeyLocation = typename Refresh::KeyLocation;

  // The claim is the task's once it has been constructed. The caller holds a reference to the slot.
  template <typename Key, typename AnyLoader>
  RefreshTask(Refresh& refresh, std::shared_ptr<BackgroundTasks> tasks, const KeyLocation& location,
              Entry* entry, Key&& key, AnyLoader&& loader, uint64_t estimate)
      : refresh_(refresh),
        tasks_(std::move(tasks)),
        location_(location),
        estimate_(estimate),
        key_(std::forward<Key>(key)),
        loader_(std::forward<AnyLoader>(loader)),
        slot_(*entry->slot),
        entry_(entry) {
    slot_.AddWeak();
  }
  RefreshTask(const RefreshTask&) = delete;
  RefreshTask& operator=(const RefreshTask&) = delete;
  ~RefreshTask() {
    if (!begun_.load(std::memory_order_relaxed)) {
      WithEntry([&] { refresh_.GiveUp(*entry_); });
    }
    slot_.ReleaseWeak();
  }

  void Run() {
    if (begun_.exchange(true, std::memory_order_relaxed)) return;
    WithEntry([&] {
      // The entry has left the cache: nobody would find the new object by it.
      if (entry_->refresh.closed()) return;
      static_cast<void>(
          refresh_.Refresh(location_, entry_, std::move(key_), std::move(loader_), estimate_));
    });
  }

 private:
  struct StrongReference {
    ~StrongReference() { slot.ReleaseStrong(); }
    ControlBlock& slot;
  };

  // Calls `function()`, unless the entry or the cache is gone, or is about to go.
  template <typename Function>
  void WithEntry(const Function& function) {
    // The reference ends first: its release may run a destructor that uses the cache.
    const BackgroundTasks::Running running(tasks_);
    if (!running.may_run() || !slot_.TryAddStrong()) return;
    const StrongReference held{slot_};
    function();
  }

  Refresh& refresh_;  // of the cache, as is the location
  const std::shared_ptr<BackgroundTasks> tasks_;
  const KeyLocation location_;
  const uint64_t estimate_;
  K key_;
  Loader loader_;
  ControlBlock& slot_;  // with a weak reference
  Entry* const entry_;  // in the slot
  // False to true once, by the thread that runs the task. Relaxed: only that thread goes on by it,
  // and the last owner, who comes after it.
  std::atomic<bool> begun_{false};
};

// Whether a loader, of the type of a forwarding reference, can be copied or moved into a task.
template <typename Loader>
inline constexpr bool kCanOutliveCall = std::is_constructible_v<std::decay_t<Loader>, Loader>;
template <typename K, typename Loader>
inline constexpr bool kCanOutliveCall<StoppableLoader<K, Loader>&> = kCanOutliveCall<Loader>;

// Whether its refresh can be posted: a task also owns the key.
template <typename Loader, typename K>
inline constexpr bool kCanBePosted = std::is_move_constructible_v<K>&& kCanOutliveCall<Loader> &&
                                     (kIsStoppableLoader<std::remove_cvref_t<Loader>> ||
                                      std::is_invocable_v<std::decay_t<Loader>, const K&> ||
                                      std::is_invocable_v<std::decay_t<Loader>>);

template <typename Loader>
auto LoaderForTask(Loader&& loader) {
  if constexpr (kIsStoppableLoader<std::remove_cvref_t<Loader>>) {
    return loader.ForTask();
  } else {
    return std::decay_t<Loader>(std::forward<Loader>(loader));
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_REFRESH_TASK_H_
