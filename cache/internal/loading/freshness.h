// SPDX-License-Identifier: Apache-2.0
// How old an object in a cache may get, and what a look-up notes about the one that it finds.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_FRESHNESS_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_FRESHNESS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// Thread-safe, if the clock is.
class Freshness {
 public:
  using Clock = std::function<absl::Time()>;

  // Without a clock it is the real one. Infinite durations are as good as none.
  Freshness(Clock clock, absl::Duration expire_after_write, absl::Duration expire_after_access,
            absl::Duration refresh_after_write)
      : clock_(std::move(clock)),
        expire_after_write_(absl::ToInt64Nanoseconds(expire_after_write)),
        expire_after_access_(absl::ToInt64Nanoseconds(expire_after_access)),
        refresh_after_write_(absl::ToInt64Nanoseconds(refresh_after_write)) {}

  // Whether ages matter.
  bool needed() const {
    return expire_after_write_ != kNever || expire_after_access_ != kNever ||
           refresh_after_write_ != kNever;
  }
  absl::Time Now() const { return clock_ ? clock_() : absl::Now(); }
  int64_t NowIfNeeded() const { return needed() ? absl::ToUnixNanos(Now()) : 0; }

  // Relaxed, all: see the fields.
  template <typename K>
  bool IsExpired(const CacheEntry<K>& entry, int64_t now) const {
    return IsDue(entry.written, now, expire_after_write_) ||
           IsDue(entry.accessed, now, expire_after_access_);
  }
  template <typename K>
  bool IsRefreshDue(const CacheEntry<K>& entry, int64_t now) const {
    return IsDue(entry.written, now, refresh_after_write_) &&
           !entry.refreshing.load(std::memory_order_relaxed);
  }
  template <typename K>
  void NoteAccess(CacheEntry<K>& entry, int64_t now) const {
    if (expire_after_access_ != kNever) entry.accessed.store(now, std::memory_order_relaxed);
  }

 private:
  static constexpr int64_t kNever = INT64_MAX;

  static bool IsDue(const std::atomic<int64_t>& since, int64_t now, int64_t limit) {
    if (limit == kNever) return false;
    const int64_t then = since.load(std::memory_order_relaxed);
    // The clock may go back, and its ends may be further apart than an int64_t says.
    return then < now &&
           static_cast<uint64_t>(now) - static_cast<uint64_t>(then) >= static_cast<uint64_t>(limit);
  }

  const Clock clock_;
  // In nanoseconds.
  const int64_t expire_after_write_;
  const int64_t expire_after_access_;
  const int64_t refresh_after_write_;
};

// What a look-up sees of the entry that it finds. An ordinary hit leaves no trace here; any other
// entry is held, so that it can still be used after the look-up.
template <typename K>
class LookupOutcome {
 public:
  using Entry = CacheEntry<K>;

  explicit LookupOutcome(const Freshness& freshness)
      : freshness_(freshness), ages_matter_(freshness.needed()) {
    if (ages_matter_) now_ = freshness.NowIfNeeded();
  }
  LookupOutcome(const LookupOutcome&) = delete;
  LookupOutcome& operator=(const LookupOutcome&) = delete;
  ~LookupOutcome() { Reset(); }
  void Reset() {
    if (Entry* const held = std::exchange(entry_, nullptr)) held->slot->ReleaseStrong();
  }

  // The caller is counted in at the entry. It may have been so at another one before, in vain.
  void Record(Entry& entry) {
    const bool retained = entry.mark->RecordAccess();
    if (retained && !ages_matter_ && entry_ == nullptr) [[likely]]
      return;
    RecordSlow(entry);
  }
  void AddRef(Entry& entry) {
    entry.slot->AddStrong();
    Entry* const held = std::exchange(entry_, &entry);
    // Perhaps under a lock.
    if (held != nullptr) held->slot->ReleaseStrong(deferred_);
  }

  // Null after an ordinary hit.
  Entry* entry() const { return entry_; }
  bool weak() const { return weak_; }
  bool expired() const { return expired_; }
  bool refresh_due() const { return refresh_due_; }

 private:
  [[gnu::noinline]] void RecordSlow(Entry& entry) {
    weak_ = !entry.retained();
    expired_ = freshness_.IsExpired(entry, now_);
    refresh_due_ = !expired_ && freshness_.IsRefreshDue(entry, now_);
    if (!expired_) freshness_.NoteAccess(entry, now_);
    if (weak_ || expired_ || refresh_due_ || entry_ != nullptr) AddRef(entry);
  }

  const Freshness& freshness_;
  const bool ages_matter_;
  int64_t now_ = 0;
  Entry* entry_ = nullptr;  // the caller is counted in at it once more
  bool weak_ = false;
  bool expired_ = false;
  bool refresh_due_ = false;
  ControlBlock::DeferredReleases deferred_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_FRESHNESS_H_
