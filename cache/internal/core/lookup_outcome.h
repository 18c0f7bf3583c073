// SPDX-License-Identifier: Apache-2.0
// What a look-up has found that is not a fast hit, and what is to be done about it.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_LOOKUP_OUTCOME_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_LOOKUP_OUTCOME_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "weakcache/cache/internal/core/freshness.h"
#include "weakcache/cache/internal/stats/load_time.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// A hit on a retained object for whose times there is nothing to be done, and that is not sampled,
// leaves no trace here. Any other entry that is found is held by a reference to its slot, so that
// it can be used after the look-up: to retain the object again, to remove it because it has expired
// by time, to refresh it, or to record who takes it.
template <typename Entry>
class LookupOutcome {
 public:
  explicit LookupOutcome(const Freshness& freshness)
      : freshness_(freshness), times_matter_(freshness.needed()) {
    if (!times_matter_) return;
    // The user's clock may not be called during the look-up, which may hold a lock.
    if (freshness.has_own_clock()) {
      now_ = freshness.Now();
      tick_ = freshness.TickOfOwnClock(now_);
    } else {
      tick_ = freshness.Tick();
    }
  }
  LookupOutcome(const LookupOutcome&) = delete;
  LookupOutcome& operator=(const LookupOutcome&) = delete;
  ~LookupOutcome() { Reset(); }
  // Releases the entry.
  void Reset() {
    if (Entry* const held = std::exchange(entry_, nullptr)) held->slot->ReleaseStrong();
  }

  // Records that the look-up has found the entry, to whose slot the caller holds a reference. A
  // look-up that starts over may record several, of which the last one counts.
  void Record(Entry& entry) {
    if (entry.hot.RecordAccess()) [[likely]] {
      weak_ = false;
      load_time_ = LoadTime();
      if (entry_ == nullptr && NeedsNoTime(entry)) [[likely]]
        return;
    } else {
      weak_ = !entry.hot.RecordAccessSlow();
      load_time_ = entry.hot.load_time;
      if (!weak_ && entry.holders() == nullptr && entry_ == nullptr && NeedsNoTime(entry)) return;
    }
    RecordSlow(entry);
  }
  // Holds the entry, whatever its state.
  void AddRef(Entry& entry) {
    entry.slot->AddStrong();
    Entry* const held = std::exchange(entry_, &entry);
    // Deferred, as the caller may hold a lock.
    if (held != nullptr) held->slot->ReleaseStrong(deferred_);
  }

  // Returns the entry, or null after a hit that leaves nothing to do.
  Entry* entry() const { return entry_; }
  bool weak() const { return weak_; }
  // Returns the time that the hit saves, if that is to be counted.
  LoadTime load_time() const { return load_time_; }
  // Returns whether the object may not be handed out: it has expired, or is unverified.
  bool expired() const { return expired_; }
  // Returns whether the object has expired, and is not even kept for loads that fail.
  bool removable() const { return removable_; }
  // Returns whether an expired object may be handed out if the load of a new one fails.
  bool servable_if_load_fails() const { return servable_if_load_fails_; }
  bool refresh_due() const { return refresh_due_; }
  // Returns whether to call Freshness::CorrectTimes, which calls the user's clock, after the
  // look-up, which may hold a lock.
  bool times_are_doubtful() const { return times_are_doubtful_; }

 private:
  bool NeedsNoTime(const Entry& entry) const {
    // Relaxed: see the field.
    return !times_matter_ || tick_ < entry.hot.fresh_until.load(std::memory_order_relaxed);
  }
  [[gnu::noinline]] void RecordSlow(Entry& entry) {
    const bool is_sampled = entry.holders() != nullptr;
    if (!weak_ && !is_sampled && entry_ == nullptr && freshness_.IsFreshSlow(entry, tick_)) {
      return;
    }
    if (times_matter_ && !freshness_.has_own_clock()) now_ = freshness_.Now();
    times_are_doubtful_ = times_matter_ && freshness_.SeemsToComeFromTheFuture(entry, now_);
    // The look-up may have begun anew, and hold the entry already.
    const size_t held = entry_ == &entry ? 1 : 0;
    const size_t own = entry.is_embedded() ? 1 + held : 0;
    const bool is_unverified = freshness_.IsUnverified(entry);
    const bool has_expired = freshness_.IsExpiredUnlessInUse(entry, now_, own);
    expired_ = is_unverified || has_expired;
    removable_ = expired_ && freshness_.IsRemovable(entry, now_);
    servable_if_load_fails_ = expired_ && !removable_ && !is_unverified;
    refresh_due_ = !expired_ && freshness_.IsRefreshDue(entry, now_);
    if (!expired_) freshness_.RecordAccess(entry, now_);
    if (times_matter_ && !expired_ && !refresh_due_) freshness_.Arm(entry);
    if (weak_ || is_sampled || expired_ || refresh_due_ || times_are_doubtful_ ||
        entry_ != nullptr) {
      AddRef(entry);
    }
  }

  const Freshness& freshness_;
  const bool times_matter_;
  int64_t now_ = 0;
  uint32_t tick_ = 0;
  Entry* entry_ = nullptr;  // with a reference to its slot
  bool weak_ = false;
  LoadTime load_time_;
  bool expired_ = false;
  bool removable_ = false;
  bool servable_if_load_fails_ = false;
  bool refresh_due_ = false;
  bool times_are_doubtful_ = false;
  ControlBlock::DeferredReleases deferred_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_LOOKUP_OUTCOME_H_
