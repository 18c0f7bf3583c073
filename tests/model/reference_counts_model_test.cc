// The counts of a control block: who destroys the referent, who frees the block, and that nobody
// looks at either afterwards.
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

// Two revivals in a row by one thread, so that two late threads can be on their way at once.
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

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<UpgradeAgainstLastDrop>("an upgrade against the last drop");
  runner.Exhaustive<RepeatedUpgrades>("two upgrades in a row against the last drop");
  runner.Exhaustive<LastDrops<2>>("two last drops");
  runner.Exhaustive<LastDrops<3>>("three last drops");
  runner.Exhaustive<TwoLastDropsWhileWeaklyHeld>("two last drops while weakly held");
  runner.Exhaustive<ExpiredBeforeItsDestructorRuns>("expired before the destructor runs");
  runner.Exhaustive<CopiesAgainstDrop>("copies against a drop");
  runner.Exhaustive<WeakDropAgainstStrongDrop>("a weak drop against the last strong one");
  runner.Exhaustive<TwoWeakDropsAgainstStrongDrop>("two weak drops against the last strong one");
  runner.Exhaustive<WeakCopyAgainstStrongDrop>("a weak copy against the last strong drop");
  runner.Exhaustive<UpgradeAgainstTwoLastDrops>("an upgrade against two last drops");
  runner.Bounded<TwoUpgradesAgainstLastDrop>("two upgrades against the last drop", 5);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
