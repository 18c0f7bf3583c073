// SPDX-License-Identifier: Apache-2.0
// When an object in a cache expires by time, and when it is due for a refresh.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/retention/cache_entry.h"

namespace weakcache::internal {

// An infinite duration stands for never, an empty clock for std::chrono::steady_clock.
struct FreshnessSettings {
  std::function<absl::Time()> clock = {};
  absl::Duration expire_after_write = absl::InfiniteDuration();
  absl::Duration expire_after_access = absl::InfiniteDuration();
  absl::Duration refresh_after_write = absl::InfiniteDuration();
  double expiry_jitter = 0;
};

// Thread-safe, if the clock is.
class Freshness {
 public:
  explicit Freshness(FreshnessSettings settings)
      : clock_(std::move(settings.clock)),
        expire_after_write_(InNanoseconds(settings.expire_after_write)),
        expire_after_access_(InNanoseconds(settings.expire_after_access)),
        refresh_after_write_(InNanoseconds(settings.refresh_after_write)),
        jitter_(settings.expiry_jitter),
        needed_(expires_by_default() || refresh_after_write_ != kNever) {}
  Freshness(Freshness&& other) noexcept
      : clock_(std::move(other.clock_)),
        expire_after_write_(other.expire_after_write_),
        expire_after_access_(other.expire_after_access_),
        refresh_after_write_(other.refresh_after_write_),
        jitter_(other.jitter_),
        needed_(other.needed()) {}
  Freshness& operator=(Freshness&&) = delete;

  // Whether any object may expire or become due. If none may, nobody reads the clock.
  bool needed() const { return needed_.load(std::memory_order_relaxed); }  // see the field
  // Whether objects expire that have no life of their own.
  bool expires_by_default() const {
    return expire_after_write_ != kNever || expire_after_access_ != kNever;
  }
  // In nanoseconds since some time or other.
  int64_t Now() const {
    if (clock_) return absl::ToUnixNanos(clock_());
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  int64_t NowIfNeeded() const { return needed() ? Now() : 0; }

  // Entry is a CacheEntry, in all that follows. Relaxed: see its fields.

  // Begins the life of an object that is about to be entered: at this time.
  template <typename Entry>
  void BeginLife(Entry& entry, const ObjectTerms& terms) const {
    if (terms.has_life()) needed_.store(true, std::memory_order_relaxed);  // see the field
    const int64_t now = NowIfNeeded();
    entry.written.store(now, std::memory_order_relaxed);
    entry.accessed.store(now, std::memory_order_relaxed);
    entry.expires_after.store(Spread(entry, LifeOf(terms.expires_after, expire_after_write_)),
                              std::memory_order_relaxed);
    entry.refresh_after.store(Spread(entry, LifeOf(terms.refresh_after, refresh_after_write_)),
                              std::memory_order_relaxed);
    entry.has_own_life = terms.expires_after.has_value() || jitter_ > 0;
  }
  // Has an object expire that long after this time.
  template <typename Entry>
  void SetExpiry(Entry& entry, absl::Duration duration) const {
    needed_.store(true, std::memory_order_relaxed);  // see the field
    const int64_t now = Now();
    const int64_t written = entry.written.load(std::memory_order_relaxed);
    const int64_t life = LifeOf(duration, kNever);
    entry.expires_after.store(life == kNever ? kNever : Sum(Elapsed(written, now), life),
                              std::memory_order_relaxed);
  }

  template <typename Entry>
  bool IsExpired(const Entry& entry, int64_t now) const {
    return IsDue(entry.written, now, entry.expires_after.load(std::memory_order_relaxed)) ||
           IsDue(entry.accessed, now, expire_after_access_);
  }
  template <typename Entry>
  bool IsRefreshDue(const Entry& entry, int64_t now) const {
    return IsDue(entry.written, now, entry.refresh_after.load(std::memory_order_relaxed)) &&
           entry.refresh.available();
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
  static constexpr int64_t kNever = kNeverDue;

  static int64_t InNanoseconds(absl::Duration duration) {
    return std::max(absl::ToInt64Nanoseconds(duration), int64_t{0});
  }
  static int64_t LifeOf(const std::optional<absl::Duration>& own, int64_t otherwise) {
    return own.has_value() ? InNanoseconds(*own) : otherwise;
  }
  // Shortens a life by a part of the jitter that depends on the key's hash alone, so that two
  // caches, or two runs, spread the same keys in the same way.
  template <typename Entry>
  int64_t Spread(const Entry& entry, int64_t life) const {
    if (jitter_ <= 0 || life == kNever) return life;
    // The golden ratio's multiples spread evenly also hashes that differ in few bits.
    const uint64_t bits = entry.key_hash * 0x9e3779b97f4a7c15;
    const double part = static_cast<double>(bits >> 11) * 0x1p-53;
    return life - static_cast<int64_t>(static_cast<double>(life) * jitter_ * part);
  }
  static int64_t Sum(int64_t a, int64_t b) { return a > kNever - b ? kNever : a + b; }
  // The clock may go back; and the difference of two times may be too large for an int64_t.
  static int64_t Elapsed(int64_t then, int64_t now) {
    if (now <= then) return 0;
    const uint64_t elapsed = static_cast<uint64_t>(now) - static_cast<uint64_t>(then);
    return static_cast<int64_t>(std::min(elapsed, static_cast<uint64_t>(kNever)));
  }
  static bool IsDue(const std::atomic<int64_t>& since, int64_t now, int64_t limit) {
    return limit != kNever && Elapsed(since.load(std::memory_order_relaxed), now) >= limit;
  }

  const std::function<absl::Time()> clock_;
  // In nanoseconds.
  const int64_t expire_after_write_;
  const int64_t expire_after_access_;
  const int64_t refresh_after_write_;
  const double jitter_;  // at most that part of a life is taken away
  // False to true once, by the first thread that gives an object a life of its own, before it
  // enters the object. Relaxed: a look-up that still reads false, and finds the object, began
  // before the object's life.
  mutable std::atomic<bool> needed_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_
