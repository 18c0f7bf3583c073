// SPDX-License-Identifier: Apache-2.0
// The control block: what all references to one referent share. It has the counts, the list of
// watchers, and the virtual functions that destroy the referent and free the block.
//
// The last strong release runs FinishRelease: Expire() destroys the referent, frees its memory and
// tells the watchers; then it drops the weak reference that the strong ones shared. Whoever drops
// the last weak reference frees the block.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CONTROL_BLOCK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CONTROL_BLOCK_H_

#include <cstddef>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/reference_counts.h"
#include "weakcache/weakref/internal/watcher_list.h"

namespace weakcache::internal {

// One address for each type. Not constant, or a linker could merge two of them.
template <typename T>
inline char kTypeTag = 0;

template <typename Policy>
class BasicControlBlock {
  using Word = typename BasicReferenceCounts<Policy>::Word;

 public:
  using Watcher = BasicWatcher<Policy>;

  BasicControlBlock(const BasicControlBlock&) = delete;
  BasicControlBlock& operator=(const BasicControlBlock&) = delete;

  // Forward to BasicReferenceCounts.
  void AddStrong() { counts_.AddStrong(); }
  bool TryAddStrong() { return counts_.TryAddStrong(); }
  void AddWeak() { counts_.AddWeak(); }

  // Drops a strong reference. If it was the last, destroys the referent or defers its destruction.
  void ReleaseStrong() {
    Word left;
    if (counts_.ReleaseStrong(&left)) [[unlikely]]
      FinishLastRelease(left);
  }

  // Referents whose last reference was dropped where no destructor may run, as under a lock. The
  // destructor of this list destroys them.
  class DeferredReleases {
   public:
    DeferredReleases() = default;
    DeferredReleases(const DeferredReleases&) = delete;
    DeferredReleases& operator=(const DeferredReleases&) = delete;
    bool empty() const { return first_ == nullptr; }
    ~DeferredReleases() {
      while (BasicControlBlock* const block = first_) {
        first_ = block->next_deferred_;
        block->FinishRelease(AfterRelease::kDestroyReferent);
      }
    }

   private:
    friend class BasicControlBlock;
    BasicControlBlock* first_ = nullptr;  // linked by next_deferred_
  };
  // Drops a strong reference. If it was the last, adds the block to `deferred` and returns true.
  bool ReleaseStrong(DeferredReleases& deferred) {
    const AfterRelease after = counts_.ReleaseStrong();
    Finish(after, deferred);
    return after == AfterRelease::kDestroyReferent;
  }
  // Does the same if it is the last one; otherwise it does nothing, and returns false.
  bool TryReleaseOnlyStrong(DeferredReleases& deferred) {
    if (!counts_.TryReleaseOnlyStrong()) return false;
    Finish(AfterRelease::kDestroyReferent, deferred);
    return true;
  }

  // Takes a strong reference speculatively: the caller holds none, so the block may by now count
  // for another referent (see BasicReferenceCounts). Returns false if it got none. A failed attempt
  // may for a moment hold the last reference to that other referent; it then destroys the referent,
  // at once or by `deferred`.
  bool TryAddStrongSpeculatively() {
    Word seen;
    if (counts_.TryAddStrongSpeculatively(&seen)) [[likely]]
      return true;
    return FinishSpeculativeUpgrade(seen);
  }
  bool TryAddStrongSpeculatively(DeferredReleases& deferred) {
    Word seen;
    if (counts_.TryAddStrongSpeculatively(&seen)) [[likely]]
      return true;
    const auto [added, after] = counts_.FinishSpeculativeUpgrade(seen);
    Finish(after, deferred);
    return added;
  }

  void ReleaseWeak() {
    if (counts_.ReleaseWeak()) FreeBlock();
  }

  // Drops `count` weak references. Returns true if they were the last: the caller frees the block.
  [[nodiscard]] bool DropWeak(int count = 1) {
    return counts_.ReleaseWeak(static_cast<Word>(count));
  }

  bool expired() const { return counts_.expired(); }
  size_t strong_count() const { return counts_.strong_count(); }
  size_t weak_count() const { return counts_.weak_count(); }
  auto ReadBothCounts() const { return counts_.ReadBoth(); }

  // Adds a watcher. The caller holds a strong reference now, and a weak one for as long as it may
  // call RemoveWatcher.
  void AddWatcher(Watcher* watcher) { watchers_.Add(watcher); }
  // Removes a watcher. Returns false if the watcher has been told or is about to be.
  bool RemoveWatcher(Watcher* watcher) { return watchers_.Remove(watcher); }
  size_t watcher_count() { return watchers_.size(); }
  bool HasWatcherOf(const BasicWatcherOwner<Policy>* owner) { return watchers_.Has(owner); }
  // See BasicWatcherList.
  template <typename Visit>
  void DescribeWatchers(const Visit& visit) {
    watchers_.DescribeEach(visit);
  }
  // Returns the entry of the container in whose slot the block is, while the object is in that
  // container; such an entry needs no watcher. The caller holds a strong reference.
  virtual WatcherInfo DescribeOwnEntry() const noexcept { return {}; }

  // Returns the address of the T through which the block owns its referent (a deleter or a
  // std::shared_ptr<void>), or null. T is exactly the type that the block's class names; no
  // run-time type information is needed. The caller holds a strong reference for as long as it uses
  // the result.
  template <typename T>
  T* FindOwnerPart() {
    return static_cast<T*>(FindOwnerPart(&kTypeTag<T>));
  }

 protected:
  BasicControlBlock() = default;
  explicit BasicControlBlock(StartsWithWeakRef starts_with_weak_ref)
      : counts_(starts_with_weak_ref) {}
  explicit BasicControlBlock(StartsExpired starts_expired) : counts_(starts_expired) {}
  ~BasicControlBlock() = default;

  // Tells the watchers, then drops the weak reference that the strong ones shared.
  void FinishExpiry() {
    watchers_.NotifyAll();
    ReleaseWeak();
  }
  // Does the same for a block that `pass_on()` gives to a new owner: the shared weak reference
  // becomes that owner's.
  template <typename PassOn>
  void FinishExpiry(PassOn&& pass_on) {
    if (watchers_.empty()) [[likely]] {
      pass_on();
      return;
    }
    AddWeak();  // keeps the block until the watchers have been told
    pass_on();
    FinishExpiry();
  }

  // Returns the T whose kTypeTag is at `type_tag`, or null.
  virtual void* FindOwnerPart([[maybe_unused]] const void* type_tag) noexcept { return nullptr; }

  // Re-arm the counts of a block without references for another referent: see BasicReferenceCounts.
  void PrepareRearm() { counts_.PrepareRearm(); }
  void Rearm() { counts_.Rearm(); }
  void RearmAtOnce() { counts_.RearmAtOnce(); }

 private:
  // The calling thread's nested destructions. They bound the stack that a chain of references takes
  // to be destroyed, whatever its length.
  struct Destructions {
    int depth;                    // at most Policy::kMaxNestedDestructions
    BasicControlBlock* deferred;  // linked by next_deferred_
  };

  // Destroys the referent, frees its memory unless that is part of the block, and calls
  // FinishExpiry. All weak references read expired before. The block may be freed by the return.
  virtual void Expire() noexcept = 0;
  // Destroys and deallocates the block.
  virtual void FreeBlock() noexcept = 0;

  [[gnu::noinline]] void FinishLastRelease(Word left) {
    FinishRelease(counts_.FinishLastRelease(left));
  }
  [[gnu::noinline]] bool FinishSpeculativeUpgrade(Word seen) {
    const auto [added, after] = counts_.FinishSpeculativeUpgrade(seen);
    FinishRelease(after);
    return added;
  }

  void FinishRelease(AfterRelease after) {
    if (after != AfterRelease::kDestroyReferent) {
      if (after == AfterRelease::kFreeBlock) FreeBlock();
      return;
    }
    auto& destructions = Policy::template ThreadLocal<Destructions>();
    if (destructions.depth == Policy::kMaxNestedDestructions) {
      next_deferred_ = destructions.deferred;
      destructions.deferred = this;
      return;
    }
    ++destructions.depth;
    Expire();
    if (destructions.depth == Policy::kMaxNestedDestructions) {
      while (BasicControlBlock* block = destructions.deferred) {
        destructions.deferred = block->next_deferred_;
        block->Expire();
      }
    }
    --destructions.depth;
  }

  void Finish(AfterRelease after, DeferredReleases& deferred) {
    if (after == AfterRelease::kNothing) [[likely]]
      return;
    if (after == AfterRelease::kFreeBlock) {
      FreeBlock();
      return;
    }
    next_deferred_ = deferred.first_;
    deferred.first_ = this;
  }

  BasicReferenceCounts<Policy> counts_;
  BasicWatcherList<Policy> watchers_;
  typename Policy::template Plain<BasicControlBlock*> next_deferred_{
      nullptr};  // used only by the thread that made the last strong release
};

using ControlBlock = BasicControlBlock<StdAtomics>;
using Watcher = BasicWatcher<StdAtomics>;
using WatcherOwner = BasicWatcherOwner<StdAtomics>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CONTROL_BLOCK_H_
