// SPDX-License-Identifier: Apache-2.0
// What all references to one referent share: its counts, its watchers, and how to destroy it.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CONTROL_BLOCK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CONTROL_BLOCK_H_

#include <cstddef>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/reference_counts.h"
#include "weakcache/weakref/internal/watcher_list.h"

namespace weakcache::internal {

template <typename Policy>
class BasicControlBlock {
  using Word = typename BasicReferenceCounts<Policy>::Word;

 public:
  using Watcher = BasicWatcher<Policy>;

  BasicControlBlock(const BasicControlBlock&) = delete;
  BasicControlBlock& operator=(const BasicControlBlock&) = delete;

  void AddStrong() { counts_.AddStrong(); }
  bool TryAddStrong() { return counts_.TryAddStrong(); }
  void AddWeak() { counts_.AddWeak(); }

  void ReleaseStrong() {
    Word left;
    if (counts_.ReleaseStrong(&left)) [[unlikely]]
      FinishLastRelease(left);
  }

  // What has been released where nobody's destructor may run; they run when this goes.
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
  // True if it was the last: the destruction is yet to come.
  bool ReleaseStrong(DeferredReleases& deferred) {
    const AfterRelease after = counts_.ReleaseStrong();
    Finish(after, deferred);
    return after == AfterRelease::kDestroyReferent;
  }

  // As TryAddStrong, without any reference: see BasicReferenceCounts. The caller may thereby have
  // had the last reference to another referent, for a moment.
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

  // As ReleaseWeak, of several at once; but if it is true the caller frees the block.
  [[nodiscard]] bool DropWeak(int count = 1) {
    return counts_.ReleaseWeak(static_cast<Word>(count));
  }

  bool expired() const { return counts_.expired(); }
  size_t strong_count() const { return counts_.strong_count(); }
  size_t weak_count() const { return counts_.weak_count(); }

  // The caller holds a strong reference, and a weak one for as long as the watcher may be removed.
  void AddWatcher(Watcher* watcher) { watchers_.Add(watcher); }
  // False if the watcher has been or is about to be told.
  bool RemoveWatcher(Watcher* watcher) { return watchers_.Remove(watcher); }
  size_t watcher_count() { return watchers_.size(); }

  // The std::shared_ptr<void> that keeps the referent alive, if one does (shared_ptr_block.h).
  virtual const void* foreign_owner() const { return nullptr; }

 protected:
  BasicControlBlock() = default;
  explicit BasicControlBlock(StartsWithWeakRef starts_with_weak_ref)
      : counts_(starts_with_weak_ref) {}
  explicit BasicControlBlock(StartsExpired starts_expired) : counts_(starts_expired) {}
  ~BasicControlBlock() = default;

  // Ends the weak reference that the strong ones shared.
  void FinishExpiry() {
    watchers_.NotifyAll();
    ReleaseWeak();
  }
  // Leaves that weak reference to whoever gets the block by `pass_on()`.
  template <typename PassOn>
  void FinishExpiry(PassOn&& pass_on) {
    if (watchers_.empty()) [[likely]] {
      pass_on();
      return;
    }
    AddWeak();  // the block is still needed to tell them
    pass_on();
    FinishExpiry();
  }

  // Nobody refers to the block; from now on the caller does, weakly, and then strongly too.
  void PrepareRearm() { counts_.PrepareRearm(); }
  void Rearm() { counts_.Rearm(); }
  void RearmAtOnce() { counts_.RearmAtOnce(); }

 private:
  // A chain of references of any length is destroyed on a fixed amount of stack.
  struct Destructions {
    int depth;                    // at most Policy::kMaxNestedDestructions
    BasicControlBlock* deferred;  // linked by next_deferred_
  };

  // Every weak reference reads expired already. Destroys the referent and gives back its memory,
  // but for what lies in the block itself; then calls FinishExpiry. The block may be gone when this
  // returns.
  virtual void Expire() noexcept = 0;
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
      nullptr};  // the expiring thread's own
};

using ControlBlock = BasicControlBlock<StdAtomics>;
using Watcher = BasicWatcher<StdAtomics>;
using WatcherOwner = BasicWatcherOwner<StdAtomics>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CONTROL_BLOCK_H_
