// SPDX-License-Identifier: Apache-2.0
// The strong and the weak count of one referent in one atomic word.
//
//      63            32 31        30             0        (64-bit words; a model may use less)
//     +----------------+---------+----------------+
//     |   weak count   | expired |  strong count  |
//     +----------------+---------+----------------+
//
// The strong count is sticky at zero: once the expired flag is set, nothing but a re-arm clears it.
// So an upgrade is one fetch_add, whatever other threads do (after the sticky counter of Anderson,
// Blelloch and Wei, PLDI 2021 and 2022).
//
// The last release is two steps: the count goes to zero, then the flag is set. An upgrade between
// them wins, and the releasing thread, now overtaken, still has to read the word. That counter
// leaves open how long the word must stay for such a thread; here the upgrade adds a weak reference
// on its behalf (see FinishUpgradeSlow). The state machine is in docs/concurrency.md.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REFERENCE_COUNTS_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REFERENCE_COUNTS_H_

#include <atomic>
#include <climits>
#include <cstddef>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// The duty that a release leaves to its caller.
enum class AfterRelease {
  kNothing,
  kDestroyReferent,  // it was the last strong reference
  kFreeBlock,        // an upgrade overtook this release, and it dropped the last weak reference
};

// Tags of constructors.
struct StartsWithWeakRef {};
struct StartsExpired {};

template <typename Policy>
class BasicReferenceCounts {
 public:
  using Word = typename Policy::CountWord;

  // Starts with one strong reference, and with the weak reference that all strong references share:
  // it is dropped when the referent's destruction is complete.
  BasicReferenceCounts() = default;
  // Starts with the same, and one more weak reference, which the creator holds.
  explicit BasicReferenceCounts(StartsWithWeakRef) : word_{kInitialCounts + kWeakOne} {}
  // Starts expired, without references, until Rearm.
  explicit BasicReferenceCounts(StartsExpired) : word_{kExpiredFlag} {}
  BasicReferenceCounts(const BasicReferenceCounts&) = delete;
  BasicReferenceCounts& operator=(const BasicReferenceCounts&) = delete;

  // Adds a strong reference. The caller holds one.
  void AddStrong() {
    // Relaxed: the caller's reference keeps the referent alive, and the caller got it in order.
    const Word before = word_.fetch_add(kStrongOne, std::memory_order_relaxed);
    if (!IsWithinLimits(before & kStrongMask)) [[unlikely]]
      StrongOverflow();
  }

  // Adds a strong reference unless the referent has expired, and returns whether it did. The caller
  // holds a weak reference. Wait-free.
  bool TryAddStrong() {
    // Relaxed: this reads nothing of the referent. The referent was published to the caller
    // together with the weak reference. Later writes to it are ordered by whatever synchronisation
    // their writers and the caller use.
    const Word before = word_.fetch_add(kStrongOne, std::memory_order_relaxed);
    if (IsWithinLimits(before & kStrongMask)) [[likely]]
      return true;
    return FinishUpgradeSlow(before);
  }

  // Adds a strong reference speculatively: the caller holds no reference, and only the memory of
  // the counts is known to stay. The counts may by now be another referent's, or no one's. Returns
  // whether a reference was added; if not, the caller passes `*seen` to FinishSpeculativeUpgrade.
  // Two steps keep the common one small enough to inline.
  bool TryAddStrongSpeculatively(Word* seen) {
    // Acquire pairs with the release in Rearm: the caller sees which referent the counts are for.
    *seen = word_.fetch_add(kStrongOne, std::memory_order_acquire);
    return IsWithinLimits(*seen & kStrongMask);
  }
  struct SpeculativeUpgrade {
    bool added;
    AfterRelease after;  // the caller's duty
  };
  SpeculativeUpgrade FinishSpeculativeUpgrade(Word seen) {
    if ((seen & kExpiredFlag) == 0) return {FinishUpgradeSlow(seen), AfterRelease::kNothing};
    // A full release rather than an undo: the counts may have been re-armed since, and then this
    // may be the last reference to their new referent.
    return {false, ReleaseStrong()};
  }

  // Re-arm expired counts without references: they count for another referent, as if they had just
  // been constructed with StartsWithWeakRef. PrepareRearm adds the weak references, so that the new
  // referent's constructor can use them; Rearm then adds the strong one. Concurrent calls of
  // TryAddStrongSpeculatively are allowed, and what they have added so far is kept.
  //
  // Only counts that were constructed with StartsWithWeakRef or StartsExpired can be re-armed:
  // others take a shortcut in FinishLastRelease, which would overwrite a speculative reference.
  void PrepareRearm() {
    // Relaxed: the owner of the memory got it after the last accesses of all former holders.
    word_.fetch_add(MissingWeak(), std::memory_order_relaxed);
  }
  void Rearm() {
    // Release pairs with the acquire in TryAddStrongSpeculatively.
    word_.fetch_add(static_cast<Word>(kStrongOne - kExpiredFlag), std::memory_order_release);
  }
  // Takes both steps at once.
  void RearmAtOnce() {
    // Release: as in Rearm.
    word_.fetch_add(static_cast<Word>(MissingWeak() + kStrongOne - kExpiredFlag),
                    std::memory_order_release);
  }

  // Drops a strong reference. Returns true if the strong count is now zero: the caller passes
  // `*left` to FinishLastRelease. Two steps keep the common one small enough to inline.
  [[nodiscard]] bool ReleaseStrong(Word* left) {
    // Release pairs with the acquire in FinishLastRelease: what this holder did with the referent
    // happens before its destruction.
    const Word before = word_.fetch_sub(kStrongOne, std::memory_order_release);
    *left = static_cast<Word>(before - kStrongOne);
    return (before & kStrongMask) == kStrongOne;
  }
  // Sets the expired flag, unless an upgrade has overtaken the release; then it drops the weak
  // reference that the upgrade added for this thread. Of all threads that call this for one
  // referent, exactly one sets the flag.
  [[nodiscard]] AfterRelease FinishLastRelease(Word current) {
    // Acquire, here and below, pairs with the release in ReleaseStrong of every former holder.
    if (current == kWeakOne) {
      // There are no weak references, so no other thread can reach the word. (Where speculative
      // references are possible, the owner of the memory holds a weak reference.)
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
  // Takes both steps at once.
  [[nodiscard]] AfterRelease ReleaseStrong() {
    Word left;
    return ReleaseStrong(&left) ? FinishLastRelease(left) : AfterRelease::kNothing;
  }

  // Drops the caller's strong reference if there is no other, as both steps at once do: then the
  // caller destroys the referent. Otherwise it does nothing, and returns false.
  [[nodiscard]] bool TryReleaseOnlyStrong() {
    Word current = word_.load(std::memory_order_relaxed);
    while ((current & kStrongMask) == kStrongOne) {
      // Acquire pairs with the release in ReleaseStrong of every former holder. Relaxed on failure:
      // `current` is only compared.
      if (word_.compare_exchange_weak(current,
                                      static_cast<Word>(current + (kExpiredFlag - kStrongOne)),
                                      std::memory_order_acquire, std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  // Adds a weak reference. The caller holds a strong or a weak one.
  void AddWeak() {
    // Relaxed: as in AddStrong.
    const Word before = word_.fetch_add(kWeakOne, std::memory_order_relaxed);
    if ((before >> kHalfBits) >= kLimit) [[unlikely]] {
      CheckFailed("WeakRef", "too many weak references to one object");
    }
  }

  // Drops `count` weak references. Returns true if they were the last: the caller frees the block.
  [[nodiscard]] bool ReleaseWeak(Word count = 1) {
    const auto released = static_cast<Word>(count * kWeakOne);
    // Acquire pairs with the release below of every other former holder.
    if (word_.load(std::memory_order_acquire) == (kExpiredFlag | released)) return true;
    // Release: this holder's last access to the block happens before it is freed. Acquire pairs
    // with that release, for the holder that frees it.
    const Word before = word_.fetch_sub(released, std::memory_order_acq_rel);
    return (before >> kHalfBits) == count;
  }

  // Returns whether the referent has expired. Relaxed: the answer publishes nothing else.
  bool expired() const { return (word_.load(std::memory_order_relaxed) & kExpiredFlag) != 0; }

  // Returns the number of strong references, zero once expired. Between the two steps of the last
  // release the referent can still be upgraded, so it then returns one.
  size_t strong_count() const {
    const Word word = word_.load(std::memory_order_relaxed);
    if ((word & kExpiredFlag) != 0) return 0;
    const Word strong = word & kStrongMask;
    return strong == 0 ? 1 : static_cast<size_t>(strong);
  }

  // Returns whether, at one moment, there is exactly one weak reference besides the one that the
  // strong references share, and how many strong references there are then; the caller holds one.
  // Acquire pairs with the release in ReleaseStrong of every former holder.
  struct StrongAndSoleWeak {
    size_t strong;
    bool sole_weak;
  };
  StrongAndSoleWeak ReadBoth() const {
    const Word word = word_.load(std::memory_order_acquire);
    return {static_cast<size_t>(word & kStrongMask), word >> kHalfBits == 2};
  }

  // Returns the number of weak references, without the one that the strong references share.
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
  // A count that reaches this aborts. It leaves at least as many additions to an overflow into the
  // flag or out of the word: more than there are threads that can add before the abort.
  static constexpr Word kLimit = kWeakOne >> 2;

  // Returns what must be added to expired counts so that the weak count becomes two.
  Word MissingWeak() const {
    // No other thread changes the upper half now. It may not be zero, as ReleaseWeak does not
    // subtract the last references. Relaxed: as in PrepareRearm.
    const Word left_over = word_.load(std::memory_order_relaxed) & static_cast<Word>(~kStrongMask);
    return static_cast<Word>(2 * kWeakOne - left_over);
  }

  // Returns whether a strong count is neither zero, nor expired, nor too large, by one comparison.
  static bool IsWithinLimits(Word strong) {
    return static_cast<Word>(strong - 1) < static_cast<Word>(kLimit - 1);
  }

  [[noreturn]] static void StrongOverflow() {
    CheckFailed("Ref", "too many strong references to one object");
  }

  [[gnu::noinline]] bool FinishUpgradeSlow(Word before) {
    if ((before & kExpiredFlag) != 0) {
      // Undo, or failed upgrades would fill the lower half. Relaxed: the caller's weak reference
      // keeps the word.
      word_.fetch_sub(kStrongOne, std::memory_order_relaxed);
      return false;
    }
    if ((before & kStrongMask) != 0) StrongOverflow();
    // Another thread has counted down to zero and not yet set the flag: this upgrade overtakes it.
    // That thread will find that the count is not zero, or a later one will set the flag first. All
    // references may be dropped before it reads the word again; the weak reference added here keeps
    // the word for it, and FinishLastRelease drops that.
    AddWeak();
    return true;
  }

  // Invariant: upper half = weak references, + 1 until the referent's destruction is complete, + 1
  // for each overtaken release that has not yet dropped it. Lower half = strong references until
  // the expired flag is set; from then on the flag, plus failed upgrades that are about to be
  // undone. Written by: every holder of a reference, and holders of none by speculative upgrades.
  // Transitions: strong n to n + 1 and back; 0 to 0 + flag, once; from there back only by a re-arm,
  // by the owner of memory to which there are no references.
  typename Policy::template Atomic<Word> word_{kInitialCounts};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REFERENCE_COUNTS_H_
