// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/change_queue.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace weakcache::internal {
namespace {

absl::Status Away() { return absl::UnavailableError("Redis is away"); }

bool IsWide(const Change& change) {
  return change.kind == Change::Kind::kEraseGroup || change.kind == Change::Kind::kEraseAll;
}

bool IsOfKey(const Change& change) {
  return change.kind == Change::Kind::kPut || change.kind == Change::Kind::kErase ||
         change.kind == Change::Kind::kEndLead;
}

}  // namespace

ChangeQueue::ChangeQueue(size_t max_changes, uint64_t max_bytes, TierCounters& counters,
                         std::function<void()> wake)
    : max_changes_(max_changes),
      max_bytes_(max_bytes),
      counters_(counters),
      wake_(std::move(wake)) {}

void ChangeQueue::Push(Change change) {
  std::vector<Ended> ended;
  {
    const MutexLock lock(mutex_);
    if (!open_) {
      Keep(change, ended);
    } else if (queue_.size() >= max_changes_) {
      // The new one is one of all.
      queue_.push_back(std::move(change));
      Count(queue_.back(), 1);
      queued_bytes_ += queue_.back().sealed.size();
      EraseAllInstead(ended);
    } else if (change.kind == Change::Kind::kPut &&
               queued_bytes_ + change.sealed.size() > max_bytes_) {
      TierCounters::Add(counters_.dropped_changes);
      if (change.lease.empty()) {
        // The former value must go all the same.
        change.kind = Change::Kind::kErase;
      } else {
        ended.push_back({std::move(change.done),
                         absl::UnavailableError("too many bytes wait to be sent to Redis")});
        change.done = [](const absl::Status&) {};
        change.kind = Change::Kind::kEndLead;
        change.erases = true;
      }
      change.sealed = {};
      Enqueue(std::move(change));
    } else {
      Enqueue(std::move(change));
    }
  }
  wake_();
  Run(ended);
}

void ChangeQueue::Enqueue(Change change) {
  queue_.push_back(std::move(change));
  queued_bytes_ += queue_.back().sealed.size();
  Count(queue_.back(), 1);
}

absl::Status ChangeQueue::AwaitChangesOf(std::string_view key, Deadline deadline) {
  const std::string own(key);
  const MutexLock lock(mutex_);
  const auto none = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return !open_ || (wide_changes_ == 0 && !changes_of_.contains(own));
  };
  finished_.WaitUntil(mutex_, none, deadline);
  if (!open_) return Away();
  if (!none()) return absl::DeadlineExceededError("changes wait to be sent to Redis");
  return absl::OkStatus();
}

std::optional<Change> ChangeQueue::Pop() {
  const MutexLock lock(mutex_);
  if (queue_.empty()) return std::nullopt;
  Change change = std::move(queue_.front());
  queue_.pop_front();
  queued_bytes_ -= change.sealed.size();
  return change;
}

void ChangeQueue::Finish(Change&& change, const absl::Status& status) {
  {
    const MutexLock lock(mutex_);
    Count(change, -1);
  }
  finished_.NotifyAll();
  if (change.done) change.done(status);
}

std::vector<Change> ChangeQueue::TakeKept() {
  const MutexLock lock(mutex_);
  std::vector<Change> changes;
  if (kept_all_) changes.push_back({.kind = Change::Kind::kEraseAll});
  for (const uint32_t group : kept_groups_) {
    changes.push_back({.kind = Change::Kind::kEraseGroup, .group = group});
  }
  for (const std::string& key : kept_keys_) {
    changes.push_back({.kind = Change::Kind::kErase, .key = key});
  }
  kept_all_ = false;
  kept_groups_.clear();
  kept_keys_.clear();
  for (const Change& change : changes) Count(change, 1);
  if (changes.empty()) open_ = true;
  return changes;
}

void ChangeQueue::Close(std::vector<Change> unanswered) {
  std::vector<Ended> ended;
  {
    const MutexLock lock(mutex_);
    open_ = false;
    for (Change& change : unanswered) Keep(change, ended);
    for (Change& change : queue_) Keep(change, ended);
    queue_.clear();
    queued_bytes_ = 0;
    changes_of_.clear();
    wide_changes_ = 0;
  }
  finished_.NotifyAll();
  Run(ended);
}

void ChangeQueue::KeepAll() {
  const MutexLock lock(mutex_);
  TierCounters::Add(counters_.dropped_changes);
  kept_all_ = true;
  kept_keys_.clear();
  kept_groups_.clear();
}

bool ChangeQueue::empty() {
  const MutexLock lock(mutex_);
  return queue_.empty();
}

bool ChangeQueue::has_kept() {
  const MutexLock lock(mutex_);
  return kept_all_ || !kept_groups_.empty() || !kept_keys_.empty();
}

void ChangeQueue::Keep(Change& change, std::vector<Ended>& ended) {
  if (!change.is_kept()) {
    if (change.done) ended.push_back({std::move(change.done), Away()});
    return;
  }
  if (change.done) ended.push_back({std::move(change.done), absl::OkStatus()});
  if (kept_all_) return;
  if (change.kind == Change::Kind::kEraseAll) {
    kept_all_ = true;
  } else if (change.kind == Change::Kind::kEraseGroup) {
    kept_groups_.insert(*change.group);
  } else {
    kept_keys_.insert(std::move(change.key));
  }
  const size_t kept = kept_keys_.size() + kept_groups_.size();
  if (kept > max_changes_) {
    TierCounters::Add(counters_.dropped_changes, kept);
    kept_all_ = true;
  }
  if (!kept_all_) return;
  kept_keys_.clear();
  kept_groups_.clear();
}

void ChangeQueue::Count(const Change& change, int difference) {
  if (IsWide(change)) wide_changes_ += difference;
  if (!IsOfKey(change)) return;
  const auto count = changes_of_.try_emplace(change.key, 0).first;
  count->second += difference;
  if (count->second <= 0) changes_of_.erase(count);
}

void ChangeQueue::EraseAllInstead(std::vector<Ended>& ended) {
  TierCounters::Add(counters_.dropped_changes, queue_.size());
  for (Change& change : queue_) {
    Count(change, -1);
    if (!change.done) continue;
    ended.push_back({std::move(change.done),
                     change.is_kept() ? absl::OkStatus()
                                      : absl::UnavailableError("too many changes wait for Redis")});
  }
  queue_.clear();
  queued_bytes_ = 0;
  Enqueue({.kind = Change::Kind::kEraseAll});
}

void ChangeQueue::Run(std::vector<Ended>& ended) {
  for (Ended& change : ended) change.done(change.status);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
