// SPDX-License-Identifier: Apache-2.0
// When an object in a cache expires, by time or because its group has been invalidated, and when it
// is due for a refresh; and whether it is unverified, because the second tier had lost its
// connection.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/retention/cache_entry.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// An infinite duration stands for never, an empty clock for std::chrono::steady_clock.
struct FreshnessSettings {
  std::function<absl::Time()> clock = {};
  absl::Duration expire_after_write = absl::InfiniteDuration();
  absl::Duration expire_after_access = absl::InfiniteDuration();
  absl::Duration refresh_after_write = absl::InfiniteDuration();
  double expiry_jitter = 0;
  absl::Duration stale_if_error = absl::ZeroDuration();
  RefreshBackoff refresh_backoff = {};
  bool checks_again = false;  // whether objects may become unverified
};

// Thread-safe, if the clock is.
class Freshness {
 public:
  explicit Freshness(FreshnessSettings settings)
      : clock_(std::move(settings.clock)),
        expire_after_write_(InNanoseconds(settings.expire_after_write)),
        expire_after_access_(InNanoseconds(settings.expire_after_access)),
        refresh_after_write_(InNanoseconds(settings.refresh_after_write)),
        stale_if_error_(InNanoseconds(settings.stale_if_error)),
        backoff_initial_(InNanoseconds(settings.refresh_backoff.initial)),
        backoff_limit_(InNanoseconds(settings.refresh_backoff.limit)),
        backoff_jitter_(settings.refresh_backoff.jitter),
        jitter_(settings.expiry_jitter),
        start_(clock_ ? Now() : 0),
        needed_(expires_by_default() || refresh_after_write_ != kNever),
        checks_again_(settings.checks_again),
        latest_(start_) {}
  Freshness(Freshness&& other) noexcept
      : clock_(other.clock_),
        expire_after_write_(other.expire_after_write_),
        expire_after_access_(other.expire_after_access_),
        refresh_after_write_(other.refresh_after_write_),
        stale_if_error_(other.stale_if_error_),
        backoff_initial_(other.backoff_initial_),
        backoff_limit_(other.backoff_limit_),
        backoff_jitter_(other.backoff_jitter_),
        jitter_(other.jitter_),
        start_(other.start_),
        needed_(other.needed()),
        checks_again_(other.checks_again_),
        latest_(other.start_) {}
  Freshness& operator=(Freshness&&) = delete;

  // Returns whether any object may expire or become due. If none may, no look-up reads the clock.
  bool needed() const { return needed_.load(std::memory_order_relaxed); }     // see the field
  void SetNeeded() const { needed_.store(true, std::memory_order_relaxed); }  // see the field
  // Returns whether objects without a life of their own expire.
  bool expires_by_default() const {
    return expire_after_write_ != kNever || expire_after_access_ != kNever;
  }
  // Returns how long an expired object is kept for loads that fail, in nanoseconds.
  int64_t stale_if_error() const { return stale_if_error_; }
  // Returns the time in nanoseconds since some fixed time.
  int64_t Now() const {
    if (clock_) return absl::ToUnixNanos(clock_());
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  int64_t NowIfNeeded() const { return needed() ? Now() : 0; }
  // Returns a time for ages that are only reported. Reads the exact clock if objects may expire or
  // the user has set one, else a coarse one, several times as fast, which may be 10 ms behind.
  int64_t RoughNow() const { return needed() || clock_ ? Now() : CoarseNow(); }
  // Returns the stamp of an object whose load, or Put, names that group, or none. If it names one,
  // no look-up is fast any more without a look at the object's hot part.
  GroupStamp StampFor(const std::optional<uint32_t>& group) const {
    if (!group.has_value()) return groups_->Stamp();
    CheckGroup(*group, "a load or a Put of a LargeObjectCache");
    SetNeeded();
    return groups_->Stamp(*group);
  }
  // Puts an object into the group that its maker names, if any, before it is entered.
  template <typename Entry>
  void SetGroup(Entry& entry, const std::optional<uint32_t>& group) const {
    if (!group.has_value()) return;
    CheckGroup(*group, "a Loaded of a LargeObjectCache");
    SetNeeded();
    GroupStamp stamp = entry.stamp();
    ObjectGroups::SetGroup(stamp, *group);
    entry.set_stamp(stamp);
  }
  // If there is no memory, throws and changes nothing.
  void InvalidateGroup(uint32_t group) const {
    CheckGroup(group, "LargeObjectCache::InvalidateGroup");
    groups_->Invalidate(group);
  }
  bool IsInvalidated(GroupStamp stamp) const { return groups_->IsInvalidated(stamp); }

  // Returns whether objects may become unverified.
  bool checks_again() const { return checks_again_; }
  // Makes all objects unverified, also those of loads that have begun. From then on every hit reads
  // its object's stamp, in the cold part. Precondition: checks_again().
  void MakeAllUnverified() const {
    SetNeeded();
    groups_->MakeAllUnverified();
  }
  // Returns whether a load has to ask the second tier whether the object is current, before a
  // look-up may hand it out.
  template <typename Entry>
  bool IsUnverified(const Entry& entry) const {
    return checks_again_ && groups_->IsUnverified(entry.stamp());
  }
  // Raises the object's epoch to that at which the verifying load began. An object without a group
  // gets the load's. Returns false, and changes nothing, if all objects were made unverified, or
  // the group was invalidated, after the load began. The caller has the shard's lock.
  template <typename Entry>
  bool Verify(Entry& entry, uint64_t epoch, std::optional<uint32_t> group) const {
    GroupStamp stamp = entry.stamp();
    stamp.epoch = std::max(uint64_t{stamp.epoch}, epoch);
    // The entry of an object without a group has none either. Had the load decoded it, the object
    // would have the load's group.
    if (!stamp.has_group && group.has_value()) ObjectGroups::SetGroup(stamp, *group);
    if (IsInvalidated(stamp) || groups_->IsUnverified(stamp)) return false;
    entry.set_stamp(stamp);
    return true;
  }

  // Lets look-ups read the clock from now on, if an object on these terms may expire. Comes before
  // the object is entered.
  void PrepareFor(const ObjectTerms& terms) const {
    if (terms.has_life()) SetNeeded();
  }
  // Returns the time for an object that is about to be entered on these terms: see BeginLife.
  int64_t NowFor(const ObjectTerms& terms) const {
    PrepareFor(terms);
    return RoughNow();
  }

  // Returns the time at which an object that has been set up is entered: the present time if
  // objects may expire, else that of its set-up, so that no clock is read.
  template <typename Entry>
  int64_t NowOrWritten(const Entry& entry) const {
    return needed() ? Now() : entry.written.load(std::memory_order_relaxed);
  }

  // Returns the present tick, which a hit compares with CacheKey::fresh_until; or kNoTick, which is
  // later than every tick, if the clock has been set back.
  uint32_t Tick() const { return clock_ ? TickOfOwnClock(Now()) : TickOf(CoarseNow()); }
  // Returns the tick of a time that the user's clock has just shown, in the same way.
  [[gnu::noinline]] uint32_t TickOfOwnClock(int64_t now) const {
    // A clock that has been set back makes no object fresh for longer: then look-ups go by the
    // exact times, and correct them, until the clock has caught up.
    if (now < latest_.load(std::memory_order_relaxed)) return kNoTick;
    NoteTime(now);
    return TickOf(now);
  }
  bool has_own_clock() const { return static_cast<bool>(clock_); }

  // Entry is a CacheEntry, in all that follows. Relaxed: see its fields.

  // Begins the life of an object that is about to be entered, at a time that is exact if it has a
  // life of its own, or else as RoughNow returns it.
  template <typename Entry>
  void BeginLife(Entry& entry, const ObjectTerms& terms, int64_t now) const {
    PrepareFor(terms);
    entry.written.store(now, std::memory_order_relaxed);
    entry.accessed.store(now, std::memory_order_relaxed);
    entry.expires_after.store(Spread(entry, LifeOf(terms.expires_after, expire_after_write_)),
                              std::memory_order_relaxed);
    entry.refresh_after.store(Spread(entry, LifeOf(terms.refresh_after, refresh_after_write_)),
                              std::memory_order_relaxed);
    entry.has_own_life = terms.expires_after.has_value() || jitter_ > 0;
    if (!needed()) return;
    NoteTime(now);
    entry.hot.fresh_until.store(FreshUntil(entry), std::memory_order_relaxed);
  }
  // Sets until when hits need not look at the entry's times. A thread that shortens a life does so
  // before it calls this. If two threads do this at the same time, the last value that is stored
  // may have been computed from the longer life; but then its thread, which looks once more, sees
  // the shorter one. Sequentially consistent, all: each of the threads writes one field and reads
  // the other.
  template <typename Entry>
  void Arm(Entry& entry) const {
    uint32_t until = FreshUntil(entry);
    if (entry.hot.fresh_until.load(std::memory_order_seq_cst) == until) return;
    for (uint32_t again;; until = again) {
      entry.hot.fresh_until.store(until, std::memory_order_seq_cst);
      again = FreshUntil(entry);
      if (again >= until) return;
    }
  }
  // Sets an object to expire that long after this time.
  template <typename Entry>
  void SetExpiry(Entry& entry, absl::Duration duration) const {
    SetNeeded();
    const int64_t now = Now();
    const int64_t written = entry.written.load(std::memory_order_relaxed);
    const int64_t life = LifeOf(duration, kNever);
    entry.expires_after.store(life == kNever ? kNever : Sum(Elapsed(written, now), life),
                              std::memory_order_seq_cst);
    Arm(entry);
  }

  // Returns whether an object has expired by its times or its group alone, in use or not, or is
  // unverified.
  template <typename Entry>
  bool IsExpired(const Entry& entry, int64_t now) const {
    return IsUnverified(entry) || IsExpiredForGood(entry, now) ||
           IsDue(entry.accessed, now, expire_after_access_);
  }
  // Returns whether look-ups may hand the object out: see IsExpiredUnlessInUse.
  template <typename Entry>
  bool IsCurrent(const Entry& entry, int64_t now, size_t own) const {
    return !IsUnverified(entry) && !IsExpiredUnlessInUse(entry, now, own);
  }
  // Returns whether an object has expired. One that has not been accessed for too long, but is in
  // use now, has not: that counts as an access. The operation that asks has `own` references to the
  // object.
  template <typename Entry>
  bool IsExpiredUnlessInUse(const Entry& entry, int64_t now, size_t own) const {
    return IsExpiredForGood(entry, now) ||
           (IsDue(entry.accessed, now, expire_after_access_) && !RenewIfInUse(entry, now, own));
  }
  // Returns whether an object has been expired for longer than it is kept for loads that fail. One
  // whose group has been invalidated is not kept for them.
  template <typename Entry>
  bool IsRemovable(const Entry& entry, int64_t now) const {
    const int64_t life = entry.expires_after.load(std::memory_order_relaxed);
    return IsInvalidated(entry.stamp()) || IsDue(entry.written, now, Sum(life, stale_if_error_)) ||
           IsDue(entry.accessed, now, Sum(expire_after_access_, stale_if_error_));
  }
  // Tests an object whose stamp each look-up has to read: returns whether a look-up at this tick
  // has nothing to do about it.
  template <typename Entry>
  bool IsFreshSlow(const Entry& entry, uint32_t tick) const {
    return NeedsStampCheck(entry) && !IsInvalidated(entry.stamp()) && !IsUnverified(entry) &&
           tick < FreshUntilByTimes(entry);
  }
  template <typename Entry>
  bool IsRefreshDue(const Entry& entry, int64_t now) const {
    return IsDue(entry.written, now, entry.refresh_after.load(std::memory_order_relaxed)) &&
           entry.refresh.available();
  }
  // Has an object that is due for a refresh become due again later, after that many refreshes have
  // failed. By the thread that has claimed the refresh. Calls the clock.
  template <typename Entry>
  void BackOff(Entry& entry, int failures) const {
    const int64_t due = entry.refresh_after.load(std::memory_order_relaxed);
    if (backoff_initial_ == 0 || due == kNever) return;
    int64_t delay = backoff_initial_;
    for (int i = 1; i < failures && delay < backoff_limit_; ++i) delay = Sum(delay, delay);
    delay = std::min(delay, backoff_limit_);
    // Differently each time, or two keys that have failed together would fail together for ever.
    delay -= PartOf(delay, backoff_jitter_, entry.key_hash + static_cast<uint64_t>(failures));
    DelayRefresh(entry, due, delay);
  }
  // Has an object that is due become due again a second later, or `refresh_after_write` if that is
  // shorter, as another process is refreshing it. By the thread that has claimed the refresh. Calls
  // the clock.
  template <typename Entry>
  void LeaveRefresh(Entry& entry) const {
    entry.refresh.CountLeft();
    DelayRefresh(entry, entry.refresh_after.load(std::memory_order_relaxed),
                 std::min(kLeftFor, refresh_after_write_));
  }
  // Returns the age below which a second tier's entry is newer than an object that is due, and not
  // due itself. If this process has loaded the object, the tier's entry may be that very object,
  // and its time is a moment later. So an entry counts as newer only if it is at most half as old
  // as the object. Zero if objects have only times of their own, which the tier does not know.
  // Calls the clock.
  template <typename Entry>
  absl::Duration AgeLimitInTier(const Entry& entry) const {
    if (refresh_after_write_ == kNever) return absl::ZeroDuration();
    int64_t limit = Spread(entry, refresh_after_write_);
    if (!entry.came_from_tier) {
      const int64_t age = Elapsed(entry.written.load(std::memory_order_relaxed), Now());
      limit = std::min(limit, age / 2);
    }
    return absl::Nanoseconds(limit);
  }
  // Claims the refresh of the entry. Returns false if another thread has it, or the entry has left
  // the cache. Until ReleaseRefresh, hits need not look whether a refresh is due.
  template <typename Entry>
  bool ClaimRefresh(Entry& entry) const {
    if (!entry.refresh.Claim()) return false;
    Arm(entry);
    return true;
  }
  // Releases the claim of the thread that calls this: see RefreshClaim::Release.
  template <typename Entry>
  void ReleaseRefresh(Entry& entry) const {
    entry.refresh.Release();
    Arm(entry);
  }
  // Returns whether a time of the entry is later than `now`: either the caller was delayed after it
  // had read the clock, while others entered or found the object; or the clock has been set back.
  template <typename Entry>
  bool SeemsToComeFromTheFuture(const Entry& entry, int64_t now) const {
    return entry.written.load(std::memory_order_relaxed) > now ||
           entry.accessed.load(std::memory_order_relaxed) > now;
  }
  // Makes such an object new if the clock has been set back; otherwise it would not age until the
  // clock has caught up. The clock has been set back if it is before a time that had been stored
  // when the clock was read. Calls the user's clock.
  template <typename Entry>
  void CorrectTimes(Entry& entry) const {
    int64_t written = entry.written.load(std::memory_order_relaxed);
    int64_t accessed = entry.accessed.load(std::memory_order_relaxed);
    const int64_t now = Now();
    if (written > now) {
      entry.written.compare_exchange_strong(written, now, std::memory_order_seq_cst,
                                            std::memory_order_relaxed);
    }
    if (accessed > now) {
      entry.accessed.compare_exchange_strong(accessed, now, std::memory_order_seq_cst,
                                             std::memory_order_relaxed);
    }
    Arm(entry);
  }
  // Records an access. Of two look-ups at the same time the earlier one may store its time last.
  // The object then ages from that time, earlier by as long as the thread was delayed.
  template <typename Entry>
  void RecordAccess(Entry& entry, int64_t now) const {
    if (expire_after_access_ != kNever && entry.accessed.load(std::memory_order_relaxed) < now) {
      entry.accessed.store(now, std::memory_order_relaxed);
    }
  }

 private:
  static constexpr int64_t kNever = kNeverDue;
  static constexpr int64_t kLeftFor = 1'000'000'000;

  // Ticks are coarse, so that 32 bits last for nine years: the exact times only matter to a look-up
  // in the last few of a life.
  static constexpr int kTickBits = 26;  // nanoseconds: a tick is 67 ms
  static constexpr uint32_t kNoTick = UINT32_MAX;

  // Returns nanoseconds of std::chrono::steady_clock, up to 10 ms ago; several times as fast.
  static int64_t CoarseNow() {
#ifdef CLOCK_MONOTONIC_COARSE
    timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
#else
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
  }
  uint32_t TickOf(int64_t now) const {
    const uint64_t tick = (static_cast<uint64_t>(now) - static_cast<uint64_t>(start_)) >> kTickBits;
    return static_cast<uint32_t>(std::min<uint64_t>(tick, kNoTick));
  }
  // Returns whether an object has expired, whoever uses it.
  template <typename Entry>
  bool IsExpiredForGood(const Entry& entry, int64_t now) const {
    return IsInvalidated(entry.stamp()) ||
           IsDue(entry.written, now, entry.expires_after.load(std::memory_order_relaxed)) ||
           entry.expired_idle.load(std::memory_order_relaxed);
  }
  // Lets the life of an object by access begin anew, if it is in use. Otherwise it is over for
  // good.
  template <typename Entry>
  [[gnu::noinline]] bool RenewIfInUse(const Entry& entry, int64_t now, size_t own) const {
    if (!entry.IsInUse(own)) {
      entry.expired_idle.store(true, std::memory_order_relaxed);
      return false;
    }
    entry.accessed.store(now, std::memory_order_relaxed);
    return true;
  }
  template <typename Entry>
  void DelayRefresh(Entry& entry, int64_t due, int64_t delay) const {
    const int64_t age = Elapsed(entry.written.load(std::memory_order_relaxed), Now());
    entry.refresh_after.store(std::max(due, Sum(age, delay)), std::memory_order_seq_cst);
    Arm(entry);
  }
  void NoteTime(int64_t now) const {
    if (!clock_ || now <= latest_.load(std::memory_order_relaxed)) return;
    latest_.store(now, std::memory_order_relaxed);
  }

  // Returns the tick before which the object neither expires nor becomes due, and no access need be
  // recorded; kNoTick if it never does. It is one tick before the object's next event, because the
  // coarse time of a look-up may be 10 ms old, less than a tick.
  template <typename Entry>
  uint32_t FreshUntilByTimes(const Entry& entry) const {
    const int64_t written = entry.written.load(std::memory_order_seq_cst);
    int64_t life = entry.expires_after.load(std::memory_order_seq_cst);
    // Relaxed: `refresh_after` only grows once the entry is entered, so an old value is the safe
    // one.
    if (entry.refresh.available()) {
      life = std::min(life, entry.refresh_after.load(std::memory_order_relaxed));
    }
    uint64_t ticks = TicksUntil(written, life);
    if (expire_after_access_ != kNever) {
      const int64_t accessed = entry.accessed.load(std::memory_order_seq_cst);
      ticks = std::min(ticks, TicksUntil(accessed, AccessResolution()));
    }
    return static_cast<uint32_t>(ticks);
  }
  // Returns the value for CacheKey::fresh_until.
  template <typename Entry>
  uint32_t FreshUntil(const Entry& entry) const {
    return NeedsStampCheck(entry) ? 0 : FreshUntilByTimes(entry);
  }
  // Returns whether each look-up has to read the object's stamp: at any time its group may be
  // invalidated, or all objects be made unverified. Then CacheKey::fresh_until is always 0.
  template <typename Entry>
  bool NeedsStampCheck(const Entry& entry) const {
    return checks_again_ || entry.stamp().has_group;
  }
  // Returns how long after one access the next one is recorded.
  int64_t AccessResolution() const {
    return std::min(expire_after_access_ / 16, int64_t{1'000'000'000});
  }
  uint64_t TicksUntil(int64_t since, int64_t life) const {
    if (life == kNever) return kNoTick;
    const int64_t before_start = Elapsed(since, start_);
    if (life <= before_start) return 0;
    const int64_t time = Sum(Elapsed(start_, since), life - before_start);
    return std::clamp<uint64_t>(static_cast<uint64_t>(time) >> kTickBits, 1, kNoTick) - 1;
  }

  static void CheckGroup(uint32_t group, const char* call) {
    Check(group < ObjectGroups::kGroups, call, "a group is a number below 65536");
  }
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
    return life == kNever ? life : life - PartOf(life, jitter_, entry.key_hash);
  }
  // Returns the part of a time, between 0 and the fraction `jitter` of it, that the hash
  // determines.
  static int64_t PartOf(int64_t time, double jitter, uint64_t hash) {
    if (jitter <= 0) return 0;
    // The golden ratio's multiples spread evenly also hashes that differ in few bits.
    const uint64_t bits = hash * 0x9e3779b97f4a7c15;
    const double part = static_cast<double>(bits >> 11) * 0x1p-53;
    return static_cast<int64_t>(static_cast<double>(time) * jitter * part);
  }
  static int64_t Sum(int64_t a, int64_t b) { return a > kNever - b ? kNever : a + b; }
  // Returns the time since `then`. The clock may go back; and the difference of two times may be
  // too large for an int64_t.
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
  const int64_t stale_if_error_;
  const int64_t backoff_initial_;
  const int64_t backoff_limit_;
  const double backoff_jitter_;
  const double jitter_;  // at most that part of a life is taken away
  const int64_t start_;  // of the ticks
  // False to true once: before the first object with a life or a group of its own is entered, or by
  // the first MakeAllUnverified. Relaxed: a look-up that still reads false began before that object
  // was entered, or before MakeAllUnverified returned.
  mutable std::atomic<bool> needed_;
  const bool checks_again_;
  // The latest time that the user's clock has shown, nearly: of two threads at the same time, the
  // later time may be lost. Relaxed: that the clock was set back may be noticed later.
  mutable std::atomic<int64_t> latest_;
  // Apart, as it is large, and hits use what lies after this object.
  const std::unique_ptr<ObjectGroups> groups_ = std::make_unique<ObjectGroups>();
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_FRESHNESS_H_
