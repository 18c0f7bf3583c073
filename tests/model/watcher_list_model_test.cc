// SPDX-License-Identifier: Apache-2.0
// Watchers that are registered and cancelled while their referent expires: each is told once, or
// was cancelled in time, and then nobody touches it any more.
#include <array>
#include <memory>
#include <optional>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

using Watcher = internal::BasicWatcher<RelacyAtomics>;

// One watcher and its owner.
class Watch final : public internal::BasicWatcherOwner<RelacyAtomics> {
 public:
  explicit Watch(ModelBlock& block) : block_(block) { watcher_.Create(this); }
  ~Watch() {
    if (!cancelled_) std::destroy_at(watcher_.get());
  }

  // The caller holds a strong reference.
  void Register() { block_.AddWatcher(watcher_.get()); }
  // The caller holds a weak reference. A watcher that is cancelled in time goes at once.
  void Cancel() {
    cancelled_ = block_.RemoveWatcher(watcher_.get());
    if (cancelled_) {
      RL_ASSERT(taken_ == 0);
      std::destroy_at(watcher_.get());
    } else {
      RL_ASSERT(taken_ == 1);
    }
  }

  // For the end of a model.
  bool ToldOrCancelled() const {
    const int times = cancelled_ ? 0 : 1;
    return taken_ == times && told_ == times;
  }

 private:
  void OnClaimed() noexcept override { taken_ = taken_ + 1; }
  void OnExpired(Watcher* watcher) noexcept override {
    RL_ASSERT(watcher == watcher_.get());
    told_ = told_ + 1;
    watcher->set_next(nullptr);  // it is the owner's again
  }

  ModelBlock& block_;
  Storage<Watcher> watcher_;
  bool cancelled_ = false;
  RelacyPlain<int> taken_{0};
  RelacyPlain<int> told_{0};
};

// A block and some watches of it.
template <typename Derived, int kThreads, int kWatches>
class WatchModel : public BlockModel<Derived, kThreads> {
 public:
  void Prepare() {
    for (std::optional<Watch>& watch : watches_) watch.emplace(this->block());
    static_cast<Derived*>(this)->PrepareReferences();
  }
  void Finish() {
    for (std::optional<Watch>& watch : watches_) RL_ASSERT(watch->ToldOrCancelled());
  }

 protected:
  Watch& watch(int index) { return *watches_[index]; }
  void RegisterAll() {
    for (std::optional<Watch>& watch : watches_) watch->Register();
  }

 private:
  std::array<std::optional<Watch>, kWatches> watches_;
};

class RegisterAndCancelAgainstExpiry : public WatchModel<RegisterAndCancelAgainstExpiry, 2, 1> {
 public:
  void PrepareReferences() {
    block().AddStrong();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
      return;
    }
    watch(0).Register();
    block().UseAndRelease();
    watch(0).Cancel();
    block().ReleaseWeak();
  }
};

// The registering thread has only a weak reference to begin with.
class RegisterAfterUpgradeAgainstExpiry
    : public WatchModel<RegisterAfterUpgradeAgainstExpiry, 2, 2> {
 public:
  void PrepareReferences() {
    watch(0).Register();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
      return;
    }
    const bool upgraded = block().TryAddStrong();
    if (upgraded) {
      watch(1).Register();
      block().UseAndRelease();
    }
    registered_ = upgraded;
    block().ReleaseWeak();
  }
  void Finish() {
    RL_ASSERT(watch(0).ToldOrCancelled());
    RL_ASSERT(watch(1).ToldOrCancelled() == registered_);
  }

 private:
  bool registered_ = false;
};

class TwoRegistrations : public WatchModel<TwoRegistrations, 2, 2> {
 public:
  void PrepareReferences() { block().AddStrong(); }
  void Thread(unsigned index) {
    watch(static_cast<int>(index)).Register();
    block().UseAndRelease();
  }
};

// Cancels one of the watchers: the newest, the oldest, or one in between.
template <int kCancelled, int kWatches>
class CancelAgainstExpiry
    : public WatchModel<CancelAgainstExpiry<kCancelled, kWatches>, 2, kWatches> {
 public:
  void PrepareReferences() {
    this->RegisterAll();
    this->block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      this->block().UseAndRelease();
    } else {
      this->watch(kCancelled).Cancel();
      this->block().ReleaseWeak();
    }
  }
};

class TwoCancelsAgainstExpiry : public WatchModel<TwoCancelsAgainstExpiry, 3, 2> {
 public:
  void PrepareReferences() {
    RegisterAll();
    block().AddWeak();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
    } else {
      watch(static_cast<int>(index) - 1).Cancel();
      block().ReleaseWeak();
    }
  }
};

// Two cancellations of neighbours in one thread, which empty the list under the teller's hands.
class CancelAllAgainstExpiry : public WatchModel<CancelAllAgainstExpiry, 2, 2> {
 public:
  void PrepareReferences() {
    RegisterAll();
    block().AddWeak();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block().UseAndRelease();
      return;
    }
    watch(0).Cancel();
    RL_ASSERT(block().watcher_count() <= 1);
    watch(1).Cancel();
    block().ReleaseWeak();
  }
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<RegisterAndCancelAgainstExpiry>("a registration and its end against expiry");
  runner.Exhaustive<RegisterAfterUpgradeAgainstExpiry>("registering after an upgrade");
  runner.Exhaustive<TwoRegistrations>("two registrations");
  runner.Exhaustive<CancelAgainstExpiry<0, 1>>("cancelling the only watcher against expiry");
  runner.Bounded<CancelAgainstExpiry<0, 2>>("cancelling the oldest against expiry", 3);
  runner.Bounded<CancelAgainstExpiry<1, 2>>("cancelling the newest against expiry", 3);
  runner.Bounded<CancelAgainstExpiry<1, 3>>("cancelling in the middle against expiry", 3);
  runner.Bounded<CancelAllAgainstExpiry>("cancelling all against expiry", 3);
  runner.Bounded<TwoCancelsAgainstExpiry>("two cancellations against expiry", 2);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
