// SPDX-License-Identifier: Apache-2.0
// Knows who has taken some of a cache's objects since they were last idle: see cache_holders.h.
//
// An object is sampled or not for all of its life: HolderSampler decides when the object is about
// to be entered, and gives it a HolderLog. Look-ups that hand out a sampled object write to the
// log, under a lock of its own. (They don't take the fast path of a hit: see Ownership.)
//
// A log begins anew when the cache sees that nobody held the object just before. References can't
// be told apart, so that is when there are no more of them than the caller's own and the cache's.
// The log knows under its lock whether the cache has one: the Retention sets that after it has
// added its reference, and clears it before it releases it. So a log is never emptied while anybody
// who is in it holds the object.
#ifndef WEAKCACHE_CACHE_INTERNAL_STATS_HOLDER_SAMPLER_H_
#define WEAKCACHE_CACHE_INTERNAL_STATS_HOLDER_SAMPLER_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "absl/time/time.h"
#include "weakcache/cache/cache_holders.h"
#include "weakcache/cache/holder_label.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/pointer_lock.h"
#include "weakcache/weakref/internal/watcher_info.h"

namespace weakcache::internal {

// Who a look-up is for. Made outside of all locks.
struct HolderOrigin {
  static constexpr size_t kMostFrames = 32;

  explicit HolderOrigin(const char* holder_label, bool with_stack) : label(holder_label) {
    if (with_stack) depth = static_cast<size_t>(CaptureStack(stack.data(), int{kMostFrames}));
  }

  const char* const label;  // may be null
  size_t depth = 0;
  std::array<const void*, kMostFrames> stack;  // the first `depth`
};

// The log of one object. Thread-safe.
class HolderLog {
  using Stack = std::array<const void*, HolderOrigin::kMostFrames>;

 public:
  // How many different origins are kept.
  static constexpr size_t kMostHolders = HoldersInfo::kMost;

  // Returns null if memory runs out. `has_own_clock` only goes on to Snapshot.
  static std::unique_ptr<HolderLog> TryNew(bool with_stacks, bool has_own_clock) noexcept {
    Stack* const stacks = with_stacks ? new (std::nothrow) Stack[kMostHolders] : nullptr;
    if (with_stacks && stacks == nullptr) return nullptr;
    std::unique_ptr<HolderLog> log(new (std::nothrow) HolderLog(stacks, has_own_clock));
    if (log == nullptr) delete[] stacks;
    return log;
  }
  HolderLog(const HolderLog&) = delete;
  HolderLog& operator=(const HolderLog&) = delete;
  ~HolderLog() { delete[] stacks_.GetUnshared(); }

  // Records that the cache has a reference to the object: called after it has added that, and with
  // false before it releases it. The caller holds the budget's lock.
  void SetRetained(bool retained) {
    const Lock lock(*this);
    retained_ = retained;
  }

  // Adds a look-up at the time `now`, of which the caller holds `own` references to the object.
  void Add(const ControlBlock& object, size_t own, const HolderOrigin& origin, int64_t now) {
    const Lock lock(*this);
    if (ReferencesBeside(object, own) == 0) Clear();
    if (size_ != 0 && !IsOf(records_[0], origin, lock.stacks)) [[unlikely]] {
      MoveToFront(origin, now, lock.stacks);
    } else if (size_ == 0) {
      size_ = 1;
      SetFirst(origin, now, /*stack=*/0, lock.stacks);
    }
    ++records_[0].look_ups;
    records_[0].last = now;
  }

  // Describes the holders, without the object's weight. Returns false if nobody but the caller,
  // with `own` references, and caches hold the object, where other caches, or other entries of
  // this one, have `elsewhere`. Begins anew if they have none: they may release theirs, and
  // somebody may take the object, before the log is locked.
  bool Describe(const ControlBlock& object, size_t own, size_t elsewhere, int64_t now,
                HeldObject& held) {
    // Copied, so that no memory is allocated under the lock.
    std::array<HolderRecord, kMostHolders> records;
    std::array<Stack, kMostHolders> stacks;
    size_t size = 0;
    {
      const Lock lock(*this);
      held.references = ReferencesBeside(object, own);
      if (held.references == 0) Clear();
      if (held.references <= elsewhere) return false;
      held.references -= elsewhere;
      held.dropped_look_ups = dropped_look_ups_;
      for (; size < size_; ++size) {
        records[size] = records_[size];
        std::copy_n(StackOf(records[size], lock.stacks), records[size].depth, stacks[size].data());
      }
    }
    held.holders.resize(size);
    for (size_t i = 0; i < size; ++i) {
      const HolderRecord& record = records[i];
      PossibleHolder& holder = held.holders[i];
      if (record.label != nullptr) holder.label = record.label;
      holder.stack.assign(stacks[i].data(), stacks[i].data() + record.depth);
      holder.look_ups = record.look_ups;
      holder.first_age = AgeAt(now, record.first);
      holder.last_age = AgeAt(now, record.last);
    }
    return true;
  }

  // Returns the holders without their stacks, and changes nothing. The caller keeps the object.
  HoldersInfo Snapshot(const ControlBlock& object) {
    HoldersInfo info{.sampled = true, .has_own_clock = has_own_clock_};
    const Lock lock(*this);
    info.references = ReferencesBeside(object, /*own=*/0);
    info.dropped_look_ups = dropped_look_ups_;
    for (; info.size < size_; ++info.size) {
      const HolderRecord& record = records_[info.size];
      info.holders[info.size] = {record.label, record.look_ups, record.first, record.last};
    }
    return info;
  }

 private:
  // Look-ups of one origin.
  struct HolderRecord {
    const char* label;
    uint64_t look_ups;
    int64_t first;
    int64_t last;
    uint8_t depth;
    uint8_t stack;  // the index of its stack
  };

  // Holds the log's lock for its lifetime.
  struct Lock {
    // Acquire pairs with the release in Unlock.
    explicit Lock(HolderLog& of_log)
        : log(of_log), stacks(of_log.stacks_.Lock(std::memory_order_acquire)) {}
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    ~Lock() { log.stacks_.Unlock(stacks); }

    HolderLog& log;
    Stack* const stacks;  // null if stacks are not taken: then all have a depth of 0
  };

  HolderLog(Stack* stacks, bool has_own_clock) : stacks_(stacks), has_own_clock_(has_own_clock) {}

  // Returns 0 if the clock has been set back.
  static absl::Duration AgeAt(int64_t now, int64_t then) {
    return now <= then ? absl::ZeroDuration() : absl::Nanoseconds(now) - absl::Nanoseconds(then);
  }
  static const void** StackOf(const HolderRecord& record, Stack* stacks) {
    return stacks == nullptr ? nullptr : stacks[record.stack].data();
  }
  static bool IsOf(const HolderRecord& record, const HolderOrigin& origin, Stack* stacks) {
    return record.label == origin.label && record.depth == origin.depth &&
           std::equal(origin.stack.data(), origin.stack.data() + origin.depth,
                      StackOf(record, stacks));
  }

  // All that follow: under the lock.
  size_t ReferencesBeside(const ControlBlock& object, size_t own) const {
    const size_t known = own + (retained_ ? 1 : 0);
    const size_t all = object.strong_count();
    return all - std::min(all, known);
  }
  void Clear() {
    size_ = 0;
    dropped_look_ups_ = 0;
  }
  // Moves the record of that origin to the front, or has a new one there.
  [[gnu::noinline]] void MoveToFront(const HolderOrigin& origin, int64_t now, Stack* stacks) {
    HolderRecord* const first = records_.data();
    for (HolderRecord* record = first; record != first + size_; ++record) {
      if (!IsOf(*record, origin, stacks)) continue;
      std::rotate(first, record, record + 1);
      return;
    }
    auto stack = static_cast<uint8_t>(size_);
    HolderRecord* end = first + size_;  // of those that stay in their order
    if (size_ < kMostHolders) {
      ++size_;
    } else {
      // Not the last one: it is the likeliest to have forgotten a reference.
      end = first + kMostHolders - 2;
      dropped_look_ups_ += end->look_ups;
      stack = end->stack;
    }
    std::move_backward(first, end, end + 1);
    SetFirst(origin, now, stack, stacks);
  }
  void SetFirst(const HolderOrigin& origin, int64_t now, uint8_t stack, Stack* stacks) {
    records_[0] = {origin.label, 0, now, now, static_cast<uint8_t>(origin.depth), stack};
    std::copy_n(origin.stack.data(), origin.depth, StackOf(records_[0], stacks));
  }

  // Where the records' stacks are, or null. The lock is its lowest bit, and a leaf: no other lock
  // is taken under it, no memory allocated, and no user code runs. It guards the fields that
  // follow.
  BasicPointerLock<StdAtomics, Stack> stacks_;
  bool retained_ = false;
  const bool has_own_clock_;
  size_t size_ = 0;
  uint64_t dropped_look_ups_ = 0;
  std::array<HolderRecord, kMostHolders> records_;  // the first `size_`, the most recent first
};

// Chooses the objects. Thread-safe.
class HolderSampler {
 public:
  struct Settings {
    uint64_t sample_bytes = 0;  // 0: no object is sampled
    bool with_stacks = false;
    bool has_own_clock = false;
  };

  explicit HolderSampler(Settings settings) : settings_(settings) {}

  bool active() const { return settings_.sample_bytes != 0; }
  uint64_t sample_bytes() const { return settings_.sample_bytes; }

  // Returns the log of a new object, or null if it is not sampled.
  std::unique_ptr<HolderLog> TryNewLog(uint64_t weight) const noexcept {
    if (!active() || !IsSampled(weight)) return nullptr;
    return HolderLog::TryNew(settings_.with_stacks, settings_.has_own_clock);
  }
  // Returns how many bytes a sampled object of that weight stands for.
  uint64_t RepresentedBytes(uint64_t weight) const { return std::max(weight, sample_bytes()); }
  // Returns who this thread's look-up is for.
  HolderOrigin Origin() const { return OriginOf(HolderLabel::Current()); }
  HolderOrigin OriginOf(const char* label) const {
    return HolderOrigin(label, settings_.with_stacks);
  }

 private:
  // Returns true with a probability of weight to sample_bytes, so that the objects that are sampled
  // of so many bytes are one on average, whatever order they come in.
  bool IsSampled(uint64_t weight) const {
    if (settings_.sample_bytes == 1) return true;  // also without a weight
    // SplitMix64. Relaxed: only that the numbers differ matters.
    constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;
    uint64_t random = sequence_.fetch_add(kGoldenRatio, std::memory_order_relaxed) + kGoldenRatio;
    random = (random ^ (random >> 30)) * 0xbf58476d1ce4e5b9;
    random = (random ^ (random >> 27)) * 0x94d049bb133111eb;
    random ^= random >> 31;
    return random % settings_.sample_bytes < weight;
  }

  const Settings settings_;
  // A multiple of the golden ratio, modulo 2^64. Any thread adds one. Relaxed: see IsSampled.
  mutable std::atomic<uint64_t> sequence_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_STATS_HOLDER_SAMPLER_H_
