// SPDX-License-Identifier: Apache-2.0
// When an object in a cache expires by time, and when it is due for a refresh.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>

#include "absl/time/time.h"

namespace weakcache::internal {

// Thread-safe, if the clock is.
class Freshness {
 public:
  using Clock = std::function<absl::Time()>;

  // An empty clock stands for std::chrono::steady_clock, an infinite duration for never.
  Freshness(Clock clock, absl::Duration expire_after_write, absl::Duration expire_after_access,
            absl::Duration refresh_after_write)
      : clock_(std::move(clock)),
        expire_after_write_(absl::ToInt64Nanoseconds(expire_after_write)),
        expire_after_access_(absl::ToInt64Nanoseconds(expire_after_access)),
        refresh_after_write_(absl::ToInt64Nanoseconds(refresh_after_write)) {}

  // Whether any of the durations is finite. If none is, nobody reads the clock.
  bool needed() const {
    return expire_after_write_ != kNever || expire_after_access_ != kNever ||
           refresh_after_write_ != kNever;
  }
  // In nanoseconds since some time or other.
  int64_t Now() const {
    if (clock_) return absl::ToUnixNanos(clock_());
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  int64_t NowIfNeeded() const { return needed() ? Now() : 0; }

  // Entry is a CacheEntry. Relaxed, all: see its fields.
  template <typename Entry>
  bool IsExpired(const Entry& entry, int64_t now) const {
    return IsDue(entry.written, now, expire_after_write_) ||
           IsDue(entry.accessed, now, expire_after_access_);
  }
  template <typename Entry>
  bool IsRefreshDue(const Entry& entry, int64_t now) const {
    return IsDue(entry.written, now, refresh_after_write_) && entry.refresh.available();
  }
  // Whether a time of the entry is later than `now`: the caller was delayed after it had read the
  // clock, while others entered or found the object; or else the clock has been set back.
  template <typename Entry>
  bool SeemsToComeFromTheFuture(const Entry& entry, int64_t now) const {
    return entry.written.load(std::memory_order_relaxed) > now ||
           entry.accessed.load(std::memory_order_relaxed) > now;
  }
  // Then, if the clock has been set back, makes the object new; otherwise it would not age until
  // the clock has caught up. The clock has been set back if it is before a time that was stored
  // already when it was read. Calls the user's clock.
  template <typename Entry>
  void CorrectTimes(Entry& entry) const {
    int64_t written = entry.written.load(std::memory_order_relaxed);
    int64_t accessed = entry.accessed.load(std::memory_order_relaxed);
    const int64_t now = Now();
    if (written > now) {
      entry.written.compare_exchange_strong(written, now, std::memory_order_relaxed,
                                            std::memory_order_relaxed);
    }
    if (accessed > now) {
      entry.accessed.compare_exchange_strong(accessed, now, std::memory_order_relaxed,
                                             std::memory_order_relaxed);
    }
  }
  // Of two look-ups at the same time the earlier one may store its time last. The object then ages
  // from that time, earlier by as long as the thread was delayed.
  template <typename Entry>
  void RecordAccess(Entry& entry, int64_t now) const {
    if (expire_after_access_ != kNever && entry.accessed.load(std::memory_order_relaxed) < now) {
      entry.accessed.store(now, std::memory_order_relaxed);
    }
  }

 private:
  static constexpr int64_t kNever = INT64_MAX;

  static bool IsDue(const std::atomic<int64_t>& since, int64_t now, int64_t limit) {
    if (limit == kNever) return false;
    const int64_t then = since.load(std::memory_order_relaxed);
    // The clock may go back; and the difference of two times may be too large for an int64_t.
    return then < now &&
           static_cast<uint64_t>(now) - static_cast<uint64_t>(then) >= static_cast<uint64_t>(limit);
  }

  const Clock clock_;
  // In nanoseconds.
  const int64_t expire_after_write_;
  const int64_t expire_after_access_;
  const int64_t refresh_after_write_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_
