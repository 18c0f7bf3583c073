// SPDX-License-Identifier: Apache-2.0
// The changes of a second tier that are under way, or have failed: what the tier has under their
// keys may be old.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CHANGES_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CHANGES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe.
class TierChanges {
 public:
  enum class State {
    kNone,
    kUnderWay,  // the tier is not to be asked
    kFailed     // the entry has to be erased before the tier is asked
  };

  State Look(const std::string& key) {
    Lock lock(mutex_);
    if (is_distrusted_) return State::kUnderWay;
    const auto found = keys_.find(key);
    if (found == keys_.end()) return State::kNone;
    return found->second.under_way == 0 ? State::kFailed : State::kUnderWay;
  }
  // Returns whether an entry of that group may be used.
  bool TrustsGroup(uint32_t group) {
    Lock lock(mutex_);
    return failed_groups_.empty() || !failed_groups_.contains(group);
  }

  void Begin(const std::string& key) {
    Lock lock(mutex_);
    Change& change = keys_[key];
    change.overlapped = change.overlapped || change.under_way != 0;
    ++change.under_way;
  }
  enum class Ended {
    kDone,     // the tier has been changed
    kNothing,  // nothing was to be done
    kNotErased,
    kNotPut
  };
  // Ends a change. Returns true if the key has to be erased now: then that is a change under way.
  bool End(const std::string& key, Ended how) {
    Lock lock(mutex_);
    const auto found = keys_.find(key);
    Change& change = found->second;
    --change.under_way;
    if (how == Ended::kNotErased) change.failed = true;
    if (how == Ended::kNotPut) change.overlapped = true;
    if (how == Ended::kDone && !change.overlapped) change.failed = false;
    if (change.under_way != 0) return false;
    if (change.overlapped) {
      change.overlapped = false;
      change.under_way = 1;
      return true;
    }
    if (!change.failed) {
      keys_.erase(found);
    } else if (keys_.size() > kMaxFailed) {
      Distrust();
    }
    return false;
  }
  // Begins to erase many entries. Lets each change that is under way end with an Erase, as it may
  // put its object after that. Returns a number for EndAll.
  uint64_t BeginMany() {
    Lock lock(mutex_);
    for (auto& [key, change] : keys_) change.overlapped = true;
    return distrusts_;
  }
  // Returns the keys that are to be erased as their changes end.
  std::vector<std::string> Overlapped() {
    Lock lock(mutex_);
    std::vector<std::string> keys;
    for (const auto& [key, change] : keys_) {
      if (change.overlapped || change.failed) keys.push_back(key);
    }
    return keys;
  }

  void EndGroup(uint32_t group, bool erased) {
    Lock lock(mutex_);
    if (erased) {
      failed_groups_.erase(group);
    } else {
      failed_groups_.insert(group);
    }
  }
  // Ends an EraseAll that was begun with `number`.
  void EndAll(uint64_t number, bool erased) {
    Lock lock(mutex_);
    if (!erased) return Distrust();
    if (number == distrusts_) is_distrusted_ = false;
    failed_groups_.clear();
    std::erase_if(keys_, [](const auto& entry) { return entry.second.under_way == 0; });
  }
  // Lets nobody ask the tier until all has been erased.
  void DistrustAll() {
    Lock lock(mutex_);
    Distrust();
  }

 private:
  using Lock = BasicMutexLock<StdAtomics>;
  static constexpr size_t kMaxFailed = 4096;

  struct Change {
    size_t under_way = 0;
    bool overlapped = false;  // two were under way at a time, or a Put has failed
    bool failed = false;      // the last Erase
  };

  void Distrust() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    is_distrusted_ = true;
    ++distrusts_;
  }

  BasicMutex<StdAtomics> mutex_;
  std::unordered_map<std::string, Change> keys_ ABSL_GUARDED_BY(mutex_);
  std::unordered_set<uint32_t> failed_groups_ ABSL_GUARDED_BY(mutex_);
  bool is_distrusted_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t distrusts_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CHANGES_H_
