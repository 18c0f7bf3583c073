// SPDX-License-Identifier: Apache-2.0
// A completion that is called or dropped, against the loader's return and the end of the cache: one
// thread ends the load, with what it should, and sees all that the loader's thread has done.
#include <memory>
#include <optional>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/internal/loading/completion_handoff.h"
#include "weakcache/cache/internal/loading/pending_completions.h"

namespace weakcache::model {
namespace {

constexpr int kNothing = 0;
constexpr int kObject = 1;
constexpr int kDropped = 2;
constexpr int kFailed = 3;
constexpr int kCacheEnded = 4;

struct Result {
  RelacyPlain<int> value{kNothing};
};

// Thread 0 is the loader's, 1 the completing one, and 2, if any, ends the cache.
template <typename Derived, int kThreads>
class HandoffModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() { ++current_schedule; }
  void after() {
    RL_ASSERT(ends_ == 1);
    Derived::CheckEnd(ended_with_);
  }

 protected:
  void Complete(int value) {
    Result result;
    result.value = value;
    if (handoff_.Complete(result)) End(result.value);
  }
  void Return() {
    state_of_load_ = 1;
    Result result;
    if (handoff_.LoaderReturned(result)) End(result.value);
  }
  void Fail() {
    state_of_load_ = 1;
    Result unwanted;
    handoff_.LoaderFailed(unwanted);
    RL_ASSERT(unwanted.value == kNothing || unwanted.value == kObject);
    End(kFailed);
  }
  void EndCache() {
    if (handoff_.TryEnd()) End(kCacheEnded);
  }

  // Uses the load as its owner.
  void End(int value) {
    RL_ASSERT(state_of_load_ == 1);
    state_of_load_ = 2;
    ended_with_ = value;
    ++ends_;
  }

  internal::BasicCompletionHandoff<RelacyAtomics, Result> handoff_;
  RelacyPlain<int> state_of_load_{0};

 private:
  RelacyPlain<int> ended_with_{kNothing};
  int ends_ = 0;
};

class CalledAgainstReturn : public HandoffModel<CalledAgainstReturn, 2> {
 public:
  void thread(unsigned index) { index == 0 ? Return() : Complete(kObject); }
  static void CheckEnd(int with) { RL_ASSERT(with == kObject); }
};

class DroppedAgainstReturn : public HandoffModel<DroppedAgainstReturn, 2> {
 public:
  void thread(unsigned index) { index == 0 ? Return() : Complete(kDropped); }
  static void CheckEnd(int with) { RL_ASSERT(with == kDropped); }
};

class CalledAgainstFailure : public HandoffModel<CalledAgainstFailure, 2> {
 public:
  void thread(unsigned index) { index == 0 ? Fail() : Complete(kObject); }
  static void CheckEnd(int with) { RL_ASSERT(with == kFailed); }
};

// The cache ends after the loader has returned.
class CalledAgainstTheEndOfTheCache : public HandoffModel<CalledAgainstTheEndOfTheCache, 2> {
 public:
  void thread(unsigned index) {
    if (index == 0) {
      Return();
      EndCache();
    } else {
      Complete(kObject);
    }
  }
  static void CheckEnd(int with) { RL_ASSERT(with == kObject || with == kCacheEnded); }
};

// The thread that ends the cache is another one than the loader's.
class AllThree : public HandoffModel<AllThree, 3> {
 public:
  void thread(unsigned index) {
    if (index == 0) {
      Return();
    } else if (index == 1) {
      Complete(kDropped);
    } else {
      EndCache();
    }
  }
  static void CheckEnd(int with) { RL_ASSERT(with == kDropped || with == kCacheEnded); }
};

// With the list of pending loads: thread 0 hands the load over, and the last thread ends the cache,
// at any time; so nothing else may end a load whose completion is never called.
template <typename Derived, int kThreads>
class ListModel : public HandoffModel<Derived, kThreads> {
 public:
  void before() {
    HandoffModel<Derived, kThreads>::before();
    pending_.emplace();
  }
  void after() {
    RL_ASSERT(pending_->TakeFirst() == nullptr);
    pending_.reset();
    HandoffModel<Derived, kThreads>::after();
  }

 protected:
  using PendingLoads = internal::BasicPendingLoads<RelacyAtomics>;

  void HandOver() {
    this->state_of_load_ = 1;
    Result result;
    const auto load = std::shared_ptr<Load>(std::shared_ptr<void>(), &load_);
    switch (pending_->Add(load_, load, [&] { return this->handoff_.LoaderReturned(result); })) {
      case PendingLoads::HandOver::kPending:
        return;
      case PendingLoads::HandOver::kCompleted:
        return this->End(result.value);
      case PendingLoads::HandOver::kCacheEnds:
        return this->EndCache();
    }
  }
  void CompleteAndRemove(int value) {
    Result result;
    result.value = value;
    if (!this->handoff_.Complete(result)) return;
    pending_->Remove(load_);
    this->End(result.value);
  }
  void EndAll() {
    pending_->Close();
    while (const auto load = pending_->TakeFirst()) load->EndWithCache();
  }

 private:
  struct Load final : PendingLoads::Load {
    explicit Load(ListModel& of_model) : model(of_model) {}
    void EndWithCache() override { model.EndCache(); }
    ListModel& model;
  };

  std::optional<PendingLoads> pending_;
  Load load_{*this};
};

class NeverCompleted : public ListModel<NeverCompleted, 2> {
 public:
  void thread(unsigned index) { index == 0 ? HandOver() : EndAll(); }
  static void CheckEnd(int with) { RL_ASSERT(with == kCacheEnded); }
};

// Leaves nothing on the list.
class CompletedAsTheLoaderReturns : public ListModel<CompletedAsTheLoaderReturns, 2> {
 public:
  void thread(unsigned index) { index == 0 ? HandOver() : CompleteAndRemove(kObject); }
  static void CheckEnd(int with) { RL_ASSERT(with == kObject); }
};

class CompletedAsTheCacheEnds : public ListModel<CompletedAsTheCacheEnds, 3> {
 public:
  void thread(unsigned index) {
    if (index == 0) {
      HandOver();
    } else if (index == 1) {
      CompleteAndRemove(kObject);
    } else {
      EndAll();
    }
  }
  static void CheckEnd(int with) { RL_ASSERT(with == kObject || with == kCacheEnded); }
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<CalledAgainstReturn>("a completion against the loader's return");
  runner.Exhaustive<DroppedAgainstReturn>("a drop against the loader's return");
  runner.Exhaustive<CalledAgainstFailure>("a completion against the loader's failure");
  runner.Exhaustive<CalledAgainstTheEndOfTheCache>("a completion against the end of the cache");
  runner.Exhaustive<AllThree>("a drop, the loader's return and the end of the cache");
  runner.Exhaustive<NeverCompleted>("the loader's return against the end of the cache");
  runner.Exhaustive<CompletedAsTheLoaderReturns>("a completion against the listing of its load");
  runner.Bounded<CompletedAsTheCacheEnds>("all three, with the list of pending loads", 3);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
