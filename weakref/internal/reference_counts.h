// SPDX-License-Identifier: Apache-2.0
// The strong and the weak count of one referent in one atomic word.
//
// The strong count is sticky at zero: once its expired flag is set it never counts again, so an
// upgrade is one fetch_add whatever happens at the same time (after the sticky counter of Anderson,
// Blelloch and Wei, PLDI 2021 and 2022). That counter leaves open how long a thread that has
// counted down to zero may still touch the word; here whoever revives the count pays for it (see
// TryAddStrong). The state machine is in docs/concurrency.md.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REFERENCE_COUNTS_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REFERENCE_COUNTS_H_

#include <atomic>
#include <climits>
#include <cstddef>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// What the caller of ReleaseStrong has to do next.
enum class AfterRelease {
  kNothing,
  kDestroyReferent,  // it was the last strong reference
  kFreeBlock,        // it was not, but it was the last to touch the block
};

struct StartsWithWeakRef {};
struct StartsExpired {};

template <typename Policy>
class BasicReferenceCounts {
 public:
  using Word = typename Policy::CountWord;

  // Starts with one strong reference, and with the one weak reference that all strong references
  // hold together and that goes when the referent's destruction is complete.
  BasicReferenceCounts() = default;
  // As well with one weak reference of its creator's.
  explicit BasicReferenceCounts(StartsWithWeakRef) : word_{kInitialCounts + kWeakOne} {}
  // Counts nothing yet: see Rearm.
  explicit BasicReferenceCounts(StartsExpired) : word_{kExpiredFlag} {}
  BasicReferenceCounts(const BasicReferenceCounts&) = delete;
  BasicReferenceCounts& operator=(const BasicReferenceCounts&) = delete;

  // The caller holds a strong reference.
  void AddStrong() {
    // Relaxed: the caller's own reference keeps the referent alive and was handed over to it in
    // order.
    const Word before = word_.fetch_add(kStrongOne, std::memory_order_relaxed);
    if (!IsWithinLimits(before & kStrongMask)) [[unlikely]]
      StrongOverflow();
  }

  // The caller holds a weak reference. False once the referent has expired. Wait-free.
  bool TryAddStrong() {
    // Relaxed: it reads nothing of the referent. What the caller then reads there was published to
    // it with the weak reference; later changes are ordered by whatever the writers and the caller
    // share.
    const Word before = word_.fetch_add(kStrongOne, std::memory_order_relaxed);
    if (IsWithinLimits(before & kStrongMask)) [[likely]]
      return true;
    return FinishUpgradeSlow(before);
  }

  // As TryAddStrong, by a caller that holds no reference at all, of counts whose memory stays: by
  // now they may count for another referent, or for none. In two steps, so that what nearly always
  // happens fits in registers: if this is false, `*seen` is for FinishSpeculativeUpgrade.
  bool TryAddStrongSpeculatively(Word* seen) {
    // Acquire pairs with the release in Rearm: the caller sees whose counts these are.
    *seen = word_.fetch_add(kStrongOne, std::memory_order_acquire);
    return IsWithinLimits(*seen & kStrongMask);
  }
  struct SpeculativeUpgrade {
    bool added;
    AfterRelease after;  // what is then to do
  };
  SpeculativeUpgrade FinishSpeculativeUpgrade(Word seen) {
    if ((seen & kExpiredFlag) == 0) return {FinishUpgradeSlow(seen), AfterRelease::kNothing};
    // A whole release, not an undo: the count may be another referent's by now, and the last.
    return {false, ReleaseStrong()};
  }

  // Lets counts whose last weak reference has gone count for another referent, as if they had been
  // constructed with StartsWithWeakRef, in two steps: weak references first, so that the referent
  // can be told of its own, and with Rearm the strong one. Callers of TryAddStrongSpeculatively may
  // be at it meanwhile, and their counts stay. Counts can be revived only if they were born expired
  // or held weakly: without that weak reference, the last strong one leaves without a look at them
  // (see FinishLastRelease).
  void PrepareRearm() {
    // Relaxed: the releasing threads' last accesses have been handed over with the memory.
    word_.fetch_add(MissingWeak(), std::memory_order_relaxed);
  }
  void Rearm() {
    // Release pairs with the acquire in TryAddStrongSpeculatively.
    word_.fetch_add(static_cast<Word>(kStrongOne - kExpiredFlag), std::memory_order_release);
  }
  // Both steps in one.
  void RearmAtOnce() {
    // Orders as above.
    word_.fetch_add(static_cast<Word>(MissingWeak() + kStrongOne - kExpiredFlag),
                    std::memory_order_release);
  }

  // In two steps, so that what nearly always happens is small: true if the count has come to zero;
  // `*left` is for FinishLastRelease then.
  [[nodiscard]] bool ReleaseStrong(Word* left) {
    // Release: what this owner did to the referent happens before its destruction (the acquire in
    // FinishLastRelease).
    const Word before = word_.fetch_sub(kStrongOne, std::memory_order_release);
    *left = static_cast<Word>(before - kStrongOne);
    return (before & kStrongMask) == kStrongOne;
  }
  // Of all threads that get here for one referent exactly one sets the flag; each of the others
  // drops the weak reference that a revival paid.
  [[nodiscard]] AfterRelease FinishLastRelease(Word current) {
    // Acquire, here and below, pairs with the release in ReleaseStrong of every former owner.
    if (current == kWeakOne) {
      // There is no weak reference, so nobody else can reach the word. (Whoever lets others reach
      // it unheld holds a weak reference.)
      static_cast<void>(word_.load(std::memory_order_acquire));
      word_.store(kExpiredFlag | kWeakOne, std::memory_order_relaxed);
      return AfterRelease::kDestroyReferent;
    }
    while ((current & kStrongMask) == 0) {
      // Relaxed on failure: `current` is only compared.
      if (word_.compare_exchange_weak(current, static_cast<Word>(current | kExpiredFlag),
                                      std::memory_order_acquire, std::memory_order_relaxed)) {
        return AfterRelease::kDestroyReferent;
      }
    }
    return ReleaseWeak() ? AfterRelease::kFreeBlock : AfterRelease::kNothing;
  }
  [[nodiscard]] AfterRelease ReleaseStrong() {
    Word left;
    return ReleaseStrong(&left) ? FinishLastRelease(left) : AfterRelease::kNothing;
  }

  // The caller holds a strong or a weak reference.
  void AddWeak() {
    // Relaxed: as AddStrong.
    const Word before = word_.fetch_add(kWeakOne, std::memory_order_relaxed);
    if ((before >> kHalfBits) >= kLimit) [[unlikely]] {
      CheckFailed("WeakRef", "too many weak references to one object");
    }
  }

  // Gives up so many weak references. True if they were the last of all: the caller frees the
  // block.
  [[nodiscard]] bool ReleaseWeak(Word count = 1) {
    const auto released = static_cast<Word>(count * kWeakOne);
    // Acquire pairs with the release below of every other former holder.
    if (word_.load(std::memory_order_acquire) == (kExpiredFlag | released)) return true;
    // Release: this holder's last look at the block happens before it is freed. Acquire: so does
    // everybody else's.
    const Word before = word_.fetch_sub(released, std::memory_order_acq_rel);
    return (before >> kHalfBits) == count;
  }

  // Relaxed: as TryAddStrong, it says nothing but that the referent can't be had any more.
  bool expired() const { return (word_.load(std::memory_order_relaxed) & kExpiredFlag) != 0; }

  // Zero once expired. While a count of zero is still being settled the referent is alive: one.
  size_t strong_count() const {
    const Word word = word_.load(std::memory_order_relaxed);
    if ((word & kExpiredFlag) != 0) return 0;
    const Word strong = word & kStrongMask;
    return strong == 0 ? 1 : static_cast<size_t>(strong);
  }

  // Without the one that the strong references share.
  size_t weak_count() const {
    const Word word = word_.load(std::memory_order_relaxed);
    const auto weak = static_cast<size_t>(word >> kHalfBits);
    return (word & kExpiredFlag) != 0 || weak == 0 ? weak : weak - 1;
  }

 private:
  static constexpr int kHalfBits = sizeof(Word) * CHAR_BIT / 2;
  static constexpr Word kStrongOne = 1;
  static constexpr Word kWeakOne = static_cast<Word>(Word{1} << kHalfBits);
  static constexpr Word kStrongMask = kWeakOne - 1;
  static constexpr Word kExpiredFlag = kWeakOne >> 1;  // the top bit of the strong half
  static constexpr Word kInitialCounts = kStrongOne | kWeakOne;
  // No count may reach this. It is half of what would touch a flag or the other half: the other
  // threads that count between an overflow and its abort cannot be that many.
  static constexpr Word kLimit = kWeakOne >> 2;

  // What the upper half of expired counts lacks to be two.
  Word MissingWeak() const {
    // Nobody else changes the upper half now. It is as the last one left it (see ReleaseWeak).
    // Relaxed: as in PrepareRearm.
    const Word left_over = word_.load(std::memory_order_relaxed) & static_cast<Word>(~kStrongMask);
    return static_cast<Word>(2 * kWeakOne - left_over);
  }

  // Neither zero, nor expired, nor too many: one comparison for what nearly always holds.
  static bool IsWithinLimits(Word strong) {
    return static_cast<Word>(strong - 1) < static_cast<Word>(kLimit - 1);
  }

  [[noreturn]] static void StrongOverflow() {
    CheckFailed("Ref", "too many strong references to one object");
  }

  [[gnu::noinline]] bool FinishUpgradeSlow(Word before) {
    if ((before & kExpiredFlag) != 0) {
      // Undo, or the lower half would fill up. Relaxed: the caller's weak reference keeps the word.
      word_.fetch_sub(kStrongOne, std::memory_order_relaxed);
      return false;
    }
    if ((before & kStrongMask) != 0) StrongOverflow();
    // Another thread has counted down to zero and has not yet set the flag: this upgrade wins. That
    // thread, or one that gets to zero later, will find the count revived and walk away, at a time
    // when every other reference may be gone. The weak reference added here is what it then drops.
    AddWeak();
    return true;
  }

  // Invariant: upper half = weak references + 1 until the referent's destruction is complete + one
  // for each revival whose releaser has not yet walked away. Lower half = strong references until
  // the expired flag; from then on the flag plus failed upgrades that are about to be undone.
  // Written by: whoever holds a reference, by the operations above.
  // Transitions: strong n to n + 1 and back; 0 to 0 + flag, once, and never back unless revived,
  // by the owner of memory that nobody refers to any more.
  typename Policy::template Atomic<Word> word_{kInitialCounts};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REFERENCE_COUNTS_H_
