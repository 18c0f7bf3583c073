// SPDX-License-Identifier: Apache-2.0
// A finalizer that its handles and its referent's last release want to run: one of them does, and
// the finalizer goes after all of them have left it.
#include <memory>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

using Watcher = internal::BasicWatcher<RelacyAtomics>;

struct Trace {
  int runs = 0;
  int freed = 0;
};

// As a finalizer's node does it, with the shipped state and the shipped watcher list.
class Finalizer final : public Watcher, public internal::BasicWatcherOwner<RelacyAtomics> {
 public:
  Finalizer(ModelBlock* block, Trace* trace, RelacyPlain<int>* destroyed)
      : Watcher(this), block_(block), trace_(trace), destroyed_(destroyed) {
    block_->AddWeak();
    block_->AddWatcher(this);
  }
  ~Finalizer() { block_->ReleaseWeak(); }

  void AddHandle() { state_.AddOwner(); }
  void DropOwner() {
    if (!state_.DropOwner()) return;
    RL_ASSERT(trace_->freed++ == 0);
    std::destroy_at(this);
  }
  // Through a handle. Returns whether it was this call that ran the function.
  bool Call() {
    if (!state_.TryClaim()) return false;
    if (block_->RemoveWatcher(this)) DropOwner();
    Run();
    return true;
  }
  bool pending() const { return state_.pending(); }

 private:
  void OnExpired(Watcher*) noexcept override {
    RL_ASSERT(*destroyed_ == 1);
    if (state_.TryClaim()) {
      RL_ASSERT(!block_->RemoveWatcher(this));
      Run();
    }
    DropOwner();
  }
  void Run() {
    RL_ASSERT(trace_->runs++ == 0);
    RL_ASSERT(function_ == 1);
    function_ = 0;
  }

  ModelBlock* const block_;  // one weak reference is held
  Trace* const trace_;
  RelacyPlain<int>* const destroyed_;
  internal::BasicFinalizerState<RelacyAtomics> state_{1};
  RelacyPlain<int> function_{1};
};

// A block whose destructor's effect can be asked for afterwards.
class TellingBlock final : public ModelBlock {
 public:
  TellingBlock(Fate* fate, RelacyPlain<int>* destroyed) : ModelBlock(fate), destroyed_(destroyed) {}

 private:
  void RunDestructor() override { *destroyed_ = 1; }

  RelacyPlain<int>* const destroyed_;
};

// Thread 0 drops the last reference; each other one has a handle, and drops it last.
template <typename Derived, int kThreads>
class FinalizerModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    block_.Create(&fate_, &destroyed_);
    finalizer_.Create(block_.get(), &trace_, &destroyed_);
    for (int handle = 1; handle < kThreads; ++handle) finalizer_->AddHandle();
  }
  void thread(unsigned index) {
    if (index == 0) {
      block_->UseAndRelease();
    } else {
      static_cast<Derived*>(this)->UseHandle();
      finalizer_->DropOwner();
    }
  }
  void after() {
    RL_ASSERT(fate_.Over());
    RL_ASSERT(trace_.runs == 1);
    RL_ASSERT(trace_.freed == 1);
  }

 protected:
  Finalizer& finalizer() { return *finalizer_.get(); }
  int destroyed() const { return destroyed_; }

 private:
  Fate fate_;
  Trace trace_;
  RelacyPlain<int> destroyed_{0};
  Storage<TellingBlock> block_;
  Storage<Finalizer> finalizer_;
};

class CallAgainstExpiry : public FinalizerModel<CallAgainstExpiry, 2> {
 public:
  void UseHandle() {
    // Whoever comes too late for the only other owner finds the referent destroyed.
    if (!finalizer().Call()) RL_ASSERT(destroyed() == 1);
  }
};

class LookAgainstExpiry : public FinalizerModel<LookAgainstExpiry, 2> {
 public:
  void UseHandle() {
    if (!finalizer().pending()) RL_ASSERT(destroyed() == 1);
  }
};

class CopyOfAHandleAgainstExpiry : public FinalizerModel<CopyOfAHandleAgainstExpiry, 2> {
 public:
  void UseHandle() {
    finalizer().AddHandle();
    finalizer().DropOwner();
  }
};

class TwoCallsAgainstExpiry : public FinalizerModel<TwoCallsAgainstExpiry, 3> {
 public:
  void UseHandle() { finalizer().Call(); }
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<LookAgainstExpiry>("a look against expiry");
  runner.Exhaustive<CopyOfAHandleAgainstExpiry>("a copy of a handle against expiry");
  runner.Bounded<CallAgainstExpiry>("a call against expiry", 4);
  runner.Bounded<TwoCallsAgainstExpiry>("two calls against expiry", 3);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
