// SPDX-License-Identifier: Apache-2.0
// ObjectTier: what the core of a LargeObjectCache knows of a second tier. A cache without a tier
// has a null pointer to it. TieredObjects (tiered_objects.h) is the only class that is derived from
// it.
//
// A load first starts its flight, then asks the tier, and runs its loader if the tier has no
// object. The load then mostly has a *turn*: the right to write the object that it makes. A change
// by the user, such as Put, has a turn, too. The end of a turn writes to the tier. To do so it runs
// the user's codec, which may end the cache; so a load's turn ends after its flight and its permit,
// and after the last use of the cache. But the turn ends before any other user code, such as a
// continuation, runs on the thread: such code may load other keys, or wait for threads that do. If
// loads of two processes did so while each has the lease that the other waits for, neither would go
// on. For the same reason no write is left to an executor, where it could come after a task that
// waits for a lease.
//
// Why no old object comes back, whatever else happens at the same time:
//
//   * A change marks its key before it changes the cache, until the tier has been changed, too. A
//     load that meets the mark does not ask the tier. A load that has asked the tier earlier had
//     started its flight before the change, so the change cancels or supersedes the flight, or
//     finds the object that the load has entered.
//   * A refresh enters what it has read only in place of the stale object. Changes and notices have
//     removed or replaced that. SetExpiry, which leaves it there, marks it: then what was read is
//     dropped.
//   * What a load writes needs a lease, which a change of the key in the tier makes void, and so
//     does the erasure of the object's group. If the tier says so, the cache drops what it has just
//     entered.
//   * A change by another process is told by the tier. What a load has read before the notice does
//     not enter: while the load reads from the tier, the notice makes it read again, and otherwise
//     cancels its flight in the same way. What it reads after the notice is new.
//   * An evicted object that is written was not changed since it was loaded: the task that writes
//     it takes a lease, waits until it has been told of all changes before that, and looks whether
//     the cache still has the object, which the task keeps alive. Later changes revoke the lease.
//     While this process erases in the tier before it changes the cache, no evicted object is
//     written.
//   * When the connection is lost, and when it is back, objects are dropped, kept, or made
//     unverified (AtTierDisconnect). No look-up finds an unverified object. It has a fingerprint: a
//     hash of the tier's entry that it was read from or written as. If a load that began after the
//     loss reads an entry with that hash, it makes the object current in place of decoding the
//     entry. Whatever would keep the load from entering a decoded object, such as a change of the
//     key or another loss, also keeps it from making this one current.
//   * If two changes of a key overlap, nobody knows which of them the tier has taken last: then the
//     entry is erased as the last of them ends.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_OBJECT_TIER_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_OBJECT_TIER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::internal {

// The right to change a key in the tier. Its destructor makes the change that the last call of Put
// or Erase asked for; it owns all that it needs for that, because the cache may have ended.
template <typename V>
class TierTurn {
 public:
  virtual ~TierTurn() = default;
  // Sets when the object's life ends, counted from now, and its group.
  virtual void SetTerms(const ObjectTerms& terms) = 0;
  // Ask for a change, in place of the one asked for before. Allocate nothing, and run no user code.
  virtual void Put(const Ref<V>& object) = 0;
  virtual void Erase() = 0;
  // Returns whether the end only gives up the lease, which runs no user code.
  virtual bool is_idle() const = 0;
};
template <typename V>
using TierTurnPtr = std::unique_ptr<TierTurn<V>>;

// A load's comparison of the tier's entry with the cache's own object. It may hold the last
// reference to the object, so it has to live until flight, permit and turn have ended.
template <typename V>
class TierRecheck {
 public:
  // What Verify needs to know of the load.
  struct Check {
    uint64_t epoch;                 // at which it began: see GroupStamp
    std::optional<uint32_t> group;  // that it names
    bool cancelled;                 // whether its flight was cancelled
    bool is_ahead;                  // a prefetch: evicts nothing, and does not count as a use
    int64_t now;
  };

  // Runs user code.
  virtual ~TierRecheck() = default;
  // Returns whether the cache has an unexpired object with that fingerprint under the load's key.
  // Runs no user code but the key's hash and equality, and the clock.
  virtual bool Find(uint64_t fingerprint) = 0;
  // Forgets the object that Find has found, because the entry that was read may be old.
  virtual void Dismiss() = 0;
  // Returns whether Find has found the object. Then nothing is loaded or written, and the load
  // calls Verify in place of entering an object.
  virtual bool has_found() const = 0;
  // Makes the object current, unless the flight was cancelled, the object is no longer under the
  // key, or all objects were made unverified, or its group was invalidated, after the load began.
  // Returns the load's result in any case: the object, or another one that is current under the key
  // by now. The caller has the shard's lock. Runs no user code but the key's equality.
  virtual Ref<V> Verify(const Check& check) = 0;
};
template <typename V>
using TierRecheckPtr = std::unique_ptr<TierRecheck<V>>;
template <typename V>
bool HasFound(const TierRecheckPtr<V>& recheck) {
  return recheck != nullptr && recheck->has_found();
}

// Ends a turn that has nothing to write. A load declares four things, which end in reverse order:
// first what runs other user code at its end; then its turn; then the PostLater, whose tasks may
// have to run before the cache ends; and last this, because those tasks may wait for the lease.
template <typename V>
class IdleTurnEnd {
 public:
  explicit IdleTurnEnd(TierTurnPtr<V>& turn) : turn_(turn) {}
  IdleTurnEnd(const IdleTurnEnd&) = delete;
  IdleTurnEnd& operator=(const IdleTurnEnd&) = delete;
  ~IdleTurnEnd() {
    if (turn_ != nullptr && turn_->is_idle()) turn_.reset();
  }

 private:
  TierTurnPtr<V>& turn_;
};

// The notices of a load's key. All functions take the shard's lock.
class TierNotices {
 public:
  virtual ~TierNotices() = default;
  // From now on a notice does not cancel the load, but is remembered: the load is about to read
  // what the notices so far were about.
  virtual void Hear() = 0;
  // Lets notices cancel the load again. Returns false, and does nothing, if one has come since
  // Hear: then what has been read since may be old.
  virtual bool TryEnd() = 0;
  // Ends it even if a notice has come.
  virtual void End() = 0;
};

// How a refresh that is due uses the tier: it takes what another process has loaded meanwhile, and
// is left to one that is loading.
struct TierRefresh {
  // The age below which an entry is newer than the stale object, and not due itself.
  absl::Duration age_limit = absl::ZeroDuration();
  bool may_be_left = false;  // to a process that has the lease
  bool is_left = false;      // set by Ask: the refresh is left to another process
  bool has_read = false;     // set by Ask: it has looked for an entry
};

// How a load uses the tier.
template <typename V>
struct TierUse {
  // Returns the token that ends the load's wait for another process: if its loader can be stopped,
  // only when nobody waits any more.
  StopToken stop_token() const {
    return source != nullptr ? source->get_token() : wait.stop_token();
  }

  const BoundedWait& wait;
  const StopSource* source;  // of the loader, or null
  bool reads;
  bool writes;
  TierTurnPtr<V>& turn;        // gets the load's
  TierRecheckPtr<V>& recheck;  // the same
  bool waits_for_lease = true;
  TierNotices* notices = nullptr;  // null: a notice cancels the load whatever it does
  TierRefresh* refresh = nullptr;  // of a refresh that is due and reads; null for all others
};

// What a load of several keys asks the tier about one of them, and the answer.
template <typename K, typename V>
struct TierQuestion {
  const K* key;
  Owned<V> object = nullptr;
  ObjectTerms terms = {};
  TierTurnPtr<V> turn = nullptr;
  TierRecheckPtr<V> recheck = nullptr;
};

// What the cache says of an object that it has evicted.
struct EvictedTerms {
  absl::Duration age;
  absl::Duration life = absl::InfiniteDuration();  // from when it was entered
  std::optional<uint32_t> group = {};
};

// What a tier does to its cache. None of that goes back to the tier.
template <typename K, typename V>
class TierTarget {
 public:
  virtual ~TierTarget() = default;
  virtual void Invalidate(const K& key) = 0;
  // Returns nothing unless the cache has that very object under the key, unexpired.
  virtual std::optional<EvictedTerms> TermsOf(const K& key, const Ref<V>& object) = 0;
  virtual void InvalidateIfSame(const K& key, const WeakRef<V>& object) = 0;
  virtual void InvalidateGroup(uint32_t group) = 0;
  virtual void Clear() = 0;

  // Makes all objects unverified: no look-up finds one until a load has verified it.
  virtual void MakeAllUnverified() = 0;
  // Records the fingerprint of the entry that the object was written as, if the cache has that very
  // object. Runs no user code but the key's hash.
  virtual void SetFingerprint(const K& key, const Ref<V>& object, uint64_t fingerprint) = 0;
  // Makes the recheck of a load. `key` is in the load's prepared slot until its flight has ended.
  // Runs no user code but the key's hash.
  virtual TierRecheckPtr<V> MakeRecheck(const K& key) = 0;
};

// Thread-safe. Runs no user code but the codec, the key functions, the clock, the condition of
// EraseIf and, in WriteEvicted, the executor.
template <typename K, typename V>
class ObjectTier {
 public:
  virtual ~ObjectTier() = default;

  // Makes a target that changes `store`, that of a cache whose keys have the default hash and
  // equality. It is made here so that only a cache with a codec has the code.
  virtual std::unique_ptr<TierTarget<K, V>> MakeDefaultTarget(void* store) = 0;
  // Tells the target of others' changes from now on, until Detach, which waits for notices that run
  // on other threads. `target` lives until then.
  virtual void Attach(TierTarget<K, V>& target) = 0;
  virtual void Detach() = 0;

  // Returns the object that the tier has under the key, with its terms, or null if there is none,
  // or `use.recheck` has found it in the cache. Throws nothing. A refresh waits for no lease, and
  // nothing tells it of notices: it only replaces the stale object, which a notice removes.
  virtual Owned<V> Ask(const K& key, const TierUse<V>& use, ObjectTerms& terms) = 0;
  // Does the same for several keys; gives their turns and rechecks to the questions, and waits for
  // no lease.
  virtual void AskAll(absl::Span<TierQuestion<K, V>> questions, const TierUse<V>& use) = 0;

  // Begins a change of a key. Has to be called before the cache is changed. Null, if there is no
  // memory: the tier will not be asked for anything until it has been emptied.
  virtual TierTurnPtr<V> BeginChange(const K& key) = 0;
  // Has to be called after a Put whose change was not begun for want of memory: the tier may have
  // been emptied before the Put, and got an older object from a load since.
  virtual void EndUnmarkedChange() = 0;
  // Erase in the tier. Call each before the cache is changed.
  virtual void EraseGroup(uint32_t group) = 0;
  virtual void EraseAll() = 0;
  virtual void EraseIf(absl::FunctionRef<bool(const K&)> condition) = 0;

  // Returns whether objects are to be checked again after a lost connection.
  virtual bool checks_again() const = 0;

  // Returns whether evicted objects are written, and loaded ones are not.
  virtual bool writes_evicted() const = 0;
  // Has an evicted object written if the tier has none under the key, on another thread unless the
  // executor runs its task at once. Precondition: no lock, load or permit is held.
  virtual void WriteEvicted(const K& key, const Ref<V>& object) = 0;
  // Stops the writing of evicted objects, until ResumeEvictions has been called as often.
  virtual void PauseEvictions() = 0;
  virtual void ResumeEvictions() = 0;

  virtual void AddTo(CacheStats& stats) const = 0;
};

// For a change that erases in the tier before it changes the cache, as long as it lives: what the
// tier has lost and the cache not yet is not written. `tier` may be null.
template <typename K, typename V>
class EvictionPause {
 public:
  explicit EvictionPause(std::shared_ptr<ObjectTier<K, V>> tier) : tier_(std::move(tier)) {
    if (tier_ != nullptr) tier_->PauseEvictions();
  }
  EvictionPause(const EvictionPause&) = delete;
  EvictionPause& operator=(const EvictionPause&) = delete;
  ~EvictionPause() {
    if (tier_ != nullptr) tier_->ResumeEvictions();
  }

 private:
  const std::shared_ptr<ObjectTier<K, V>> tier_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_OBJECT_TIER_H_
