// How old an object in a cache may get, and what a look-up notes about the one that it finds.
#ifndef WEAKCACHE_CACHE_INTERNAL_FRESHNESS_H_
#define WEAKCACHE_CACHE_INTERNAL_FRESHNESS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cache/internal/cache_entry.h"
#include "cache/internal/eviction_policy.h"
#include "weakref/internal/control_block.h"

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
  bool IsStale(const CacheEntry<K>& entry, int64_t now) const {
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
class EntrySighting {
 public:
  using Entry = CacheEntry<K>;

  explicit EntrySighting(const Freshness& freshness)
      : freshness_(freshness), ages_matter_(freshness.needed()) {
    if (ages_matter_) now_ = freshness.NowIfNeeded();
  }
  EntrySighting(const EntrySighting&) = delete;
  EntrySighting& operator=(const EntrySighting&) = delete;
  ~EntrySighting() { Reset(); }
  void Reset() {
    if (Entry* const held = std::exchange(entry_, nullptr)) held->slot->ReleaseStrong();
  }

  // The caller is counted in at the entry. It may have been so at another one before, in vain.
  void See(Entry& entry) {
    const bool retained = entry.mark->Touch();
    if (retained && !ages_matter_ && entry_ == nullptr) [[likely]]
      return;
    SeeUnusual(entry);
  }
  void Hold(Entry& entry) {
    entry.slot->AddStrong();
    Entry* const held = std::exchange(entry_, &entry);
    // Perhaps under a lock.
    if (held != nullptr) held->slot->ReleaseStrong(postponed_);
  }

  // Null after an ordinary hit.
  Entry* entry() const { return entry_; }
  bool weak() const { return weak_; }
  bool stale() const { return stale_; }
  bool refresh_due() const { return refresh_due_; }

 private:
  [[gnu::noinline]] void SeeUnusual(Entry& entry) {
    weak_ = !entry.retained();
    stale_ = freshness_.IsStale(entry, now_);
    refresh_due_ = !stale_ && freshness_.IsRefreshDue(entry, now_);
    if (!stale_) freshness_.NoteAccess(entry, now_);
    if (weak_ || stale_ || refresh_due_ || entry_ != nullptr) Hold(entry);
  }

  const Freshness& freshness_;
  const bool ages_matter_;
  int64_t now_ = 0;
  Entry* entry_ = nullptr;  // the caller is counted in at it once more
  bool weak_ = false;
  bool stale_ = false;
  bool refresh_due_ = false;
  ControlBlock::Postponed postponed_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_FRESHNESS_H_
