// SPDX-License-Identifier: Apache-2.0
// The counts of a control block: who destroys the referent, who frees the block, and that nobody
// looks at either afterwards.
#include <atomic>
#include <memory>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

// One of the threads that races the last release through a weak reference of its own.
void UpgradeAndLeave(ModelBlock& block) {
  if (block.TryAddStrong()) {
    block.UseAndRelease();
  } else {
    RL_ASSERT(block.strong_count() == 0);
  }
  block.ReleaseWeak();
}

// Among the schedules are those in which the upgrade comes between the other thread's count to zero
// and its flag, and the upgrader goes through its own last releases before the other goes on.
class UpgradeAgainstLastDrop : public BlockModel<UpgradeAgainstLastDrop, 2> {
 public:
  void Prepare() { block().AddWeak(); }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
    } else {
      UpgradeAndLeave(block());
    }
  }
};

class UpgradeAgainstOnlyDrop : public BlockModel<UpgradeAgainstOnlyDrop, 2> {
 public:
  void Prepare() { block().AddWeak(); }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndReleaseAsOnly();
    } else {
      UpgradeAndLeave(block());
    }
  }
};

// Both may be the only reference, or neither. The upgrade may overtake the other thread's release.
class OnlyDropsAndUpgrade : public BlockModel<OnlyDropsAndUpgrade, 3> {
 public:
  void Prepare() {
    block().AddStrong();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
    } else if (index == 1) {
      block().UseAndReleaseAsOnly();
    } else {
      if (block().TryAddStrong()) block().UseAndReleaseAsOnly();
      block().ReleaseWeak();
    }
  }
};

class TwoUpgradesAgainstLastDrop : public BlockModel<TwoUpgradesAgainstLastDrop, 3> {
 public:
  void Prepare() {
    block().AddWeak();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
    } else {
      UpgradeAndLeave(block());
    }
  }
};

// Two upgrades in a row by one thread, so that two overtaken releases can be pending at once.
class RepeatedUpgrades : public BlockModel<RepeatedUpgrades, 2> {
 public:
  void Prepare() { block().AddWeak(); }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
      return;
    }
    if (block().TryAddStrong()) block().UseAndRelease();
    UpgradeAndLeave(block());
  }
};

class UpgradeAgainstTwoLastDrops : public BlockModel<UpgradeAgainstTwoLastDrops, 3> {
 public:
  void Prepare() {
    block().AddStrong();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index < 2) {
      block().UseAndRelease();
    } else {
      UpgradeAndLeave(block());
    }
  }
};

template <int kThreads>
class LastDrops : public BlockModel<LastDrops<kThreads>, kThreads> {
 public:
  void Prepare() {
    for (int i = 1; i < kThreads; ++i) this->block().AddStrong();
  }
  void Thread(unsigned) { this->block().UseAndRelease(); }
};

class TwoLastDropsWhileWeaklyHeld : public BlockModel<TwoLastDropsWhileWeaklyHeld, 2> {
 public:
  void Prepare() {
    block().AddStrong();
    block().AddWeak();
  }
  void Thread(unsigned) { block().UseAndRelease(); }
  void Finish() {
    RL_ASSERT(fate().destroyed == 1 && fate().freed == 0);
    RL_ASSERT(block().strong_count() == 0 && block().weak_count() == 1);
    RL_ASSERT(!block().TryAddStrong());
    block().ReleaseWeak();
  }
};

// A referent whose destructor tries to come by a reference to itself.
class ProbingBlock final : public ModelBlock {
 public:
  using ModelBlock::ModelBlock;

 private:
  void RunDestructor() override {
    RL_ASSERT(expired());
    RL_ASSERT(strong_count() == 0);
    RL_ASSERT(!TryAddStrong());
  }
};

class ExpiredBeforeItsDestructorRuns
    : public BlockModel<ExpiredBeforeItsDestructorRuns, 2, ProbingBlock> {
 public:
  void Prepare() {
    block().AddStrong();
    block().AddWeak();
  }
  void Thread(unsigned) { block().UseAndRelease(); }
  void Finish() { block().ReleaseWeak(); }
};

class CopiesAgainstDrop : public BlockModel<CopiesAgainstDrop, 2> {
 public:
  void Prepare() { block().AddStrong(); }
  void Thread(unsigned index) {
    if (index == 1) {
      block().AddStrong();
      RL_ASSERT(block().strong_count() >= 1);
      block().UseAndRelease();
    }
    block().UseAndRelease();
  }
};

// A search for cycles has a strong and a weak reference. If nobody else has one, what others did to
// the object happened before.
class BothCountsAgainstDrop : public BlockModel<BothCountsAgainstDrop, 2> {
 public:
  void Prepare() {
    label_.Create(1);
    block().AddStrong();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      *label_.get() = 2;
      block().UseAndRelease();
      return;
    }
    const auto [strong, sole_weak] = block().ReadBothCounts();
    RL_ASSERT(sole_weak);
    if (strong == 1) RL_ASSERT(*label_.get() == 2);
    block().UseAndRelease();
    block().ReleaseWeak();
  }
  void Finish() { std::destroy_at(label_.get()); }

 private:
  Storage<RelacyPlain<int>> label_;
};

class WeakDropAgainstStrongDrop : public BlockModel<WeakDropAgainstStrongDrop, 2> {
 public:
  void Prepare() { block().AddWeak(); }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
    } else {
      block().ReleaseWeak();
    }
  }
};

class TwoWeakDropsAgainstStrongDrop : public BlockModel<TwoWeakDropsAgainstStrongDrop, 3> {
 public:
  void Prepare() {
    block().AddWeak();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
    } else {
      block().ReleaseWeak();
    }
  }
};

// A weak reference that is made and dropped while the last strong one goes.
class WeakCopyAgainstStrongDrop : public BlockModel<WeakCopyAgainstStrongDrop, 2> {
 public:
  void Prepare() { block().AddWeak(); }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
      return;
    }
    block().AddWeak();
    block().ReleaseWeak();
    if (block().expired()) RL_ASSERT(!block().TryAddStrong());
    block().ReleaseWeak();
  }
};

// A block whose memory is reused for one referent after the other, like a slot's of a concurrent
// table. The table holds a weak reference, drops it when a referent's expiry is reported, and
// re-arms the block when the last weak reference has gone. Readers upgrade speculatively.
class ReusedBlock final : public internal::BasicControlBlock<RelacyAtomics> {
 public:
  ReusedBlock() : BasicControlBlock(internal::StartsExpired()) {}

  void Start() {
    referent_ = ++referents_;
    ended_.store(0, std::memory_order_relaxed);
    freed_.store(0, std::memory_order_relaxed);
    PrepareRearm();
    Rearm();
  }
  // Returns true if the table may re-arm the block: the referent has expired, and there are no
  // references.
  bool TryTakeBack() {
    if (ended_.load(std::memory_order_acquire) == 1) {
      ended_.store(0, std::memory_order_relaxed);
      if (DropWeak()) return true;
    }
    return freed_.load(std::memory_order_acquire) == 1;
  }
  void ReleaseAsOnly() {
    DeferredReleases deferred;
    if (!TryReleaseOnlyStrong(deferred)) ReleaseStrong(deferred);
  }
  // Called by a reader: whichever referent it gets is alive.
  void UpgradeAndRelease() {
    if (!TryAddStrongSpeculatively()) return;
    RL_ASSERT(referent_ != 0);
    ReleaseStrong();
  }
  int destroyed() const { return destroyed_; }

 private:
  void Expire() noexcept override {
    RL_ASSERT(referent_ != 0);
    referent_ = 0;
    RL_ASSERT(++destroyed_ == referents_);
    ended_.store(1, std::memory_order_release);
    FinishExpiry();
  }
  void FreeBlock() noexcept override {
    RL_ASSERT(destroyed_ == referents_);
    freed_.store(1, std::memory_order_release);
  }

  RelacyPlain<int> referent_{0};  // 0: none
  RelacyAtomic<int> ended_{0};    // the table has not given up its reference
  RelacyAtomic<int> freed_{0};    // the last reference went after the table's
  int referents_ = 0;
  int destroyed_ = 0;
};

// Thread 0 is the owner and the table; it goes on to the next referents as far as it comes. The
// others upgrade late: at the end of one referent, while there is none, or at the next one's.
template <int kThreads, int kReferents, bool kAsOnly = false>
class SpeculativeUpgradeAgainstRearm
    : public rl::test_suite<SpeculativeUpgradeAgainstRearm<kThreads, kReferents, kAsOnly>,
                            kThreads> {
 public:
  void before() {
    ++current_schedule;
    block_.Create();
    block_->Start();
  }
  void thread(unsigned index) {
    if (index != 0) {
      block_->UpgradeAndRelease();
      return;
    }
    Release();
    while (begun_ < kReferents && block_->TryTakeBack()) BeginAndRelease();
  }
  void after() {
    RL_ASSERT(block_->destroyed() == begun_);
    for (; begun_ < kReferents; BeginAndRelease()) RL_ASSERT(block_->TryTakeBack());
    RL_ASSERT(block_->destroyed() == kReferents);
    RL_ASSERT(block_->strong_count() == 0);
    RL_ASSERT(block_->TryTakeBack());
    RL_ASSERT(!block_->TryAddStrongSpeculatively());
    block_->Start();
    RL_ASSERT(block_->strong_count() == 1 && block_->weak_count() == 1);
    block_->ReleaseStrong();
    RL_ASSERT(block_->TryTakeBack());
    std::destroy_at(block_.get());
  }

 private:
  void BeginAndRelease() {
    ++begun_;
    block_->Start();
    Release();
  }
  void Release() {
    if (kAsOnly) {
      block_->ReleaseAsOnly();
    } else {
      block_->ReleaseStrong();
    }
  }

  Storage<ReusedBlock> block_;
  int begun_ = 1;
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<UpgradeAgainstLastDrop>("an upgrade against the last drop");
  runner.Exhaustive<RepeatedUpgrades>("two upgrades in a row against the last drop");
  runner.Exhaustive<LastDrops<2>>("two last drops");
  runner.Exhaustive<LastDrops<3>>("three last drops");
  runner.Exhaustive<TwoLastDropsWhileWeaklyHeld>("two last drops while weakly held");
  runner.Exhaustive<ExpiredBeforeItsDestructorRuns>("expired before the destructor runs");
  runner.Exhaustive<CopiesAgainstDrop>("copies against a drop");
  runner.Exhaustive<BothCountsAgainstDrop>("a look at both counts against a drop");
  runner.Exhaustive<WeakDropAgainstStrongDrop>("a weak drop against the last strong one");
  runner.Exhaustive<TwoWeakDropsAgainstStrongDrop>("two weak drops against the last strong one");
  runner.Exhaustive<WeakCopyAgainstStrongDrop>("a weak copy against the last strong drop");
  runner.Exhaustive<UpgradeAgainstTwoLastDrops>("an upgrade against two last drops");
  runner.Bounded<TwoUpgradesAgainstLastDrop>("two upgrades against the last drop", 5);
  runner.Exhaustive<UpgradeAgainstOnlyDrop>("an upgrade against a drop of the only reference");
  runner.Bounded<OnlyDropsAndUpgrade>("drops of the only reference and an upgrade", 5);
  runner.Exhaustive<SpeculativeUpgradeAgainstRearm<2, 2>>("a speculative upgrade against a re-arm");
  runner.Exhaustive<SpeculativeUpgradeAgainstRearm<2, 2, true>>(
      "a speculative upgrade against a re-arm after a drop of the only reference");
  runner.Bounded<SpeculativeUpgradeAgainstRearm<2, 3>>("a speculative upgrade against two re-arms",
                                                       5, 100'000);
  runner.Bounded<SpeculativeUpgradeAgainstRearm<3, 2>>("two speculative upgrades against a re-arm",
                                                       4, 100'000);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
