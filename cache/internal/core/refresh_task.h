// SPDX-License-Identifier: Apache-2.0
// A refresh of a LargeObjectCache's object that an executor runs, while everybody gets the old
// object.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_REFRESH_TASK_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_REFRESH_TASK_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "weakcache/cache/internal/loading/any_loader.h"
#include "weakcache/cache/internal/loading/background_tasks.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// What a refresh takes from the options of its call.
struct RefreshTerms {
  // `is_due`: or else the user wants the object loaded anew, whatever a second tier has.
  RefreshTerms(const LoadOptions& options, bool is_due)
      : weight_estimate(options.weight_estimate),
        group(options.group),
        reads_tier(is_due && options.read_tier),
        writes_tier(options.write_tier) {}

  // Returns the group of the new object: that of the old one, unless the call names one.
  template <typename Entry>
  std::optional<uint32_t> GroupAfter(const Entry& entry) const {
    return group.has_value() ? group : GroupOf(entry.stamp());
  }

  const uint64_t weight_estimate;
  const std::optional<uint32_t> group;
  const bool reads_tier;
  const bool writes_tier;
};

// Owns the claim on the refresh of an entry. Keeps the memory of the entry's slot, but the object
// only while the task runs, which the cache's end waits for: the object's destructor may use the
// cache. Does nothing if the object is gone, or the cache has ended. If the task is dropped, the
// refresh has failed. Refresh is a CacheRefresh.
template <typename Refresh, typename Made>
class RefreshTask {
 public:
  using K = typename Refresh::K;
  using Entry = typename Refresh::Entry;
  using KeyLocation = typename Refresh::KeyLocation;

  // The claim is the task's once it has been constructed. The caller holds a reference to the slot.
  template <typename Key>
  RefreshTask(Refresh& refresh, std::shared_ptr<BackgroundTasks> tasks, const KeyLocation& location,
              Entry* entry, Key&& key, std::unique_ptr<AnyLoader<K, Made>> loader,
              const RefreshTerms& terms)
      : refresh_(refresh),
        tasks_(std::move(tasks)),
        location_(location),
        terms_(terms),
        key_(std::forward<Key>(key)),
        loader_(std::move(loader)),
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
      static_cast<void>(refresh_.Refresh(location_, entry_, std::move(key_), *loader_, terms_));
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
  const RefreshTerms terms_;
  K key_;
  const std::unique_ptr<AnyLoader<K, Made>> loader_;
  ControlBlock& slot_;  // with a weak reference
  Entry* const entry_;  // in the slot
  // False to true once, by the thread that runs the task. Relaxed: only that thread goes on by it,
  // and the last owner, who comes after it.
  std::atomic<bool> begun_{false};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_REFRESH_TASK_H_
