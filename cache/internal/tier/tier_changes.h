// SPDX-License-Identifier: Apache-2.0
// The changes of a second tier that are under way, or have failed: what the tier has under their
// keys may be old. Loads repeat what has failed, so that others are told in the end.
//
// Failures and the beginnings of erasures of many entries are numbered in one sequence: an erasure
// makes up only for failures with lower numbers.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CHANGES_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CHANGES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
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
  // Allocates nothing.
  bool End(const std::string& key, Ended how) {
    Lock lock(mutex_);
    const auto found = keys_.find(key);
    Change& change = found->second;
    --change.under_way;
    if (how == Ended::kNotErased) Fail(change);
    if (how == Ended::kNotPut) change.overlapped = true;
    if (how == Ended::kDone && !change.overlapped && change.failed_at != 0) {
      MakeUpFor(change);
      RepairSoon();
    }
    if (change.under_way != 0) return false;
    if (change.overlapped) {
      change.overlapped = false;
      change.under_way = 1;
      return true;
    }
    if (change.failed_at == 0) {
      keys_.erase(found);
    } else if (is_distrusted_ || failed_keys_ > kMaxFailed) {
      Distrust();
    }
    return false;
  }
  // Begins to erase many entries. Lets each change that is under way end with an Erase, as it may
  // put its object after that. Returns a number for EndGroup or EndAll.
  uint64_t BeginMany() {
    Lock lock(mutex_);
    for (auto& [key, change] : keys_) change.overlapped = change.under_way != 0;
    return ++sequence_;
  }
  // Returns the keys that have yet to be erased: as their changes end, or by a later load because
  // an Erase has failed.
  std::vector<std::string> KeysToErase() {
    Lock lock(mutex_);
    std::vector<std::string> keys;
    for (const auto& [key, change] : keys_) {
      if (change.overlapped || change.failed_at != 0) keys.push_back(key);
    }
    return keys;
  }

  // Ends the erasure of a group that was begun with `number`.
  void EndGroup(uint32_t group, uint64_t number, bool erased) {
    Lock lock(mutex_);
    const auto failed = failed_groups_.find(group);
    if (erased) {
      if (failed == failed_groups_.end() || failed->second > number) return;
      failed_groups_.erase(failed);
      RepairSoon();
    } else if (is_distrusted_) {
      ++failures_;
      Distrust();
    } else if (failed != failed_groups_.end()) {
      failed->second = ++sequence_;
    } else {
      const bool was_in_order = in_order();
      failed_groups_.emplace(group, sequence_ + 1);
      CountFailure(was_in_order);
    }
  }
  // Does the same for an EraseAll.
  void EndAll(uint64_t number, bool erased) {
    Lock lock(mutex_);
    if (!erased) return Distrust();
    if (distrusted_at_ < number) is_distrusted_ = false;
    std::erase_if(failed_groups_, [&](const auto& entry) { return entry.second < number; });
    for (auto& [key, change] : keys_) {
      if (change.failed_at < number) MakeUpFor(change);
    }
    EraseUnused();
    RepairSoon();
  }
  // Lets nobody ask the tier until all has been erased.
  void DistrustAll() {
    Lock lock(mutex_);
    Distrust();
  }

  // What a load is to do again, before it asks the tier for anything.
  struct Repair {
    bool all = false;                              // an EraseAll
    std::optional<uint32_t> group = std::nullopt;  // an EraseGroup
    std::vector<std::string> keys = {};            // an Erase of each: changes that have begun
  };
  // Returns whether anything has failed.
  bool HasFailed() {
    Lock lock(mutex_);
    return !in_order();
  }
  // Returns what to do at that time, if anything; each time that nothing comes of it, less often.
  Repair TakeRepair(absl::Time now) {
    Lock lock(mutex_);
    Repair repair;
    if (in_order()) return repair;
    // A clock that has been set back does not put it off for ever.
    const bool is_due =
        repair_at_.has_value() && (now >= *repair_at_ || *repair_at_ - now > kLongestRepairDelay);
    if (repair_at_.has_value() && !is_due) return repair;
    repair_at_ = now + repair_delay_;
    if (!is_due) return repair;  // it has only just failed
    repair_delay_ = std::min(2 * repair_delay_, kLongestRepairDelay);
    if (is_distrusted_) {
      repair.all = true;
    } else if (!failed_groups_.empty()) {
      repair.group = failed_groups_.begin()->first;
    } else {
      repair.keys.reserve(kRepairedKeys);
      for (const auto& [key, change] : keys_) {
        if (repair.keys.size() == kRepairedKeys) break;
        if (change.under_way == 0) repair.keys.push_back(key);
      }
      for (const std::string& key : repair.keys) keys_.find(key)->second.under_way = 1;
    }
    return repair;
  }

  // Returns how many changes have failed so far. A change that fails again before it is made up for
  // counts once.
  uint64_t failures() {
    Lock lock(mutex_);
    return failures_;
  }
  // Returns what has failed and is not made up for yet, or an empty text.
  const char* condition() {
    Lock lock(mutex_);
    if (is_distrusted_) return "not used until it can be cleared";
    if (!failed_groups_.empty()) return "groups have yet to be erased";
    return failed_keys_ == 0 ? "" : "keys have yet to be erased";
  }

 private:
  using Lock = BasicMutexLock<StdAtomics>;
  static constexpr size_t kMaxFailed = 4096;
  static constexpr size_t kRepairedKeys = 16;
  static constexpr absl::Duration kFirstRepairDelay = absl::Milliseconds(100);
  static constexpr absl::Duration kLongestRepairDelay = absl::Seconds(10);

  struct Change {
    size_t under_way = 0;
    bool overlapped = false;  // erased as the last change ends: see Begin, End, BeginMany
    uint64_t failed_at = 0;   // number of the last Erase that has failed, or 0
  };

  bool in_order() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !is_distrusted_ && failed_keys_ == 0 && failed_groups_.empty();
  }
  void CountFailure(bool was_in_order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++sequence_;
    ++failures_;
    if (!was_in_order) return;
    repair_at_.reset();
    repair_delay_ = kFirstRepairDelay;
  }
  void Fail(Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (change.failed_at == 0) {
      CountFailure(in_order());
      ++failed_keys_;
    } else {
      ++sequence_;
    }
    change.failed_at = sequence_;
  }
  void MakeUpFor(Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (change.failed_at != 0) --failed_keys_;
    change.failed_at = 0;
  }
  void EraseUnused() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::erase_if(keys_, [](const auto& entry) {
      return entry.second.under_way == 0 && entry.second.failed_at == 0;
    });
  }
  // The tier works: what else has failed need not wait.
  void RepairSoon() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    repair_at_ = absl::InfinitePast();
    repair_delay_ = kFirstRepairDelay;
  }
  // Stands for all failures so far, which need not be remembered any more.
  void Distrust() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (is_distrusted_) {
      ++sequence_;
    } else {
      CountFailure(in_order());
    }
    is_distrusted_ = true;
    distrusted_at_ = sequence_;
    failed_groups_.clear();
    for (auto& [key, change] : keys_) MakeUpFor(change);
    EraseUnused();
  }

  BasicMutex<StdAtomics> mutex_;
  std::unordered_map<std::string, Change> keys_ ABSL_GUARDED_BY(mutex_);
  size_t failed_keys_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unordered_map<uint32_t, uint64_t> failed_groups_ ABSL_GUARDED_BY(mutex_);  // by number
  bool is_distrusted_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t distrusted_at_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  // When failed changes are to be made again; none until a load has met them.
  std::optional<absl::Time> repair_at_ ABSL_GUARDED_BY(mutex_);
  absl::Duration repair_delay_ ABSL_GUARDED_BY(mutex_) = kFirstRepairDelay;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CHANGES_H_
