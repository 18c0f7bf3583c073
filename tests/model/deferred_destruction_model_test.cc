// SPDX-License-Identifier: Apache-2.0
// A chain of referents, each of which owns the next: destructions that are nested too deeply wait
// on a list of the thread, while other threads still look at the blocks.
#include <array>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

struct Nesting {
  int depth;
};

// A block whose referent holds a strong reference to the next one.
class ChainLink final : public ModelBlock {
 public:
  ChainLink(Fate* fate, ModelBlock* next) : ModelBlock(fate), next_(next) {}

 private:
  void RunDestructor() override {
    int& depth = RelacyAtomics::ThreadLocal<Nesting>().depth;
    ++depth;
    RL_ASSERT(depth <= RelacyAtomics::kMaxNestedDestructions);
    if (next_ != nullptr) next_->ReleaseStrong();
    --depth;
  }

  ModelBlock* const next_;
};

// Chains of two and of three; Derived prepares more references to their links.
template <typename Derived, int kThreads>
class ChainModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    ModelBlock* next = nullptr;
    for (size_t i = links_.size(); i-- > 0;) next = links_[i].Create(&fates_[i], next);
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(index); }
  void after() {
    for (const Fate& fate : fates_) RL_ASSERT(fate.Over());
  }

 protected:
  ModelBlock& link(int index) { return *links_[index].get(); }
  const Fate& fate(int index) const { return fates_[index]; }

 private:
  std::array<Fate, 4> fates_;
  std::array<Storage<ChainLink>, 4> links_;
};

class UpgradeInTheChain : public ChainModel<UpgradeInTheChain, 2> {
 public:
  void Prepare() { link(2).AddWeak(); }
  void Thread(unsigned index) {
    if (index == 0) {
      link(0).UseAndRelease();
      return;
    }
    if (link(2).TryAddStrong()) link(2).UseAndRelease();
    link(2).ReleaseWeak();
  }
};

// Both threads destroy a part of the chain, each with a list of its own.
class TwoEnds : public ChainModel<TwoEnds, 2> {
 public:
  void Prepare() { link(1).AddStrong(); }
  void Thread(unsigned index) { link(static_cast<int>(index)).UseAndRelease(); }
};

// A watcher of a referent whose destruction is waiting can still be cancelled.
class CancelInTheChain final : public ChainModel<CancelInTheChain, 2>,
                               public internal::BasicWatcherOwner<RelacyAtomics> {
 public:
  void Prepare() {
    watcher_.Create(this);
    link(1).AddWatcher(watcher_.get());
    link(1).AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      link(0).UseAndRelease();
      return;
    }
    cancelled_ = link(1).RemoveWatcher(watcher_.get());
    link(1).ReleaseWeak();
  }
  void after() {
    RL_ASSERT(told_ == (cancelled_ ? 0 : 1));
    std::destroy_at(watcher_.get());
    ChainModel::after();
  }

 private:
  using Watcher = internal::BasicWatcher<RelacyAtomics>;

  void OnExpired(Watcher*) noexcept override {
    RL_ASSERT(fate(1).destroyed == 1);
    ++told_;
  }

  Storage<Watcher> watcher_;
  bool cancelled_ = false;
  int told_ = 0;
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<UpgradeInTheChain>("an upgrade of a link against the end of the chain");
  runner.Exhaustive<TwoEnds>("two threads end a chain");
  runner.Bounded<CancelInTheChain>("cancelling in a chain", 3);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
