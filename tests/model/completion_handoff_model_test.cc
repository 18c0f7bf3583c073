// SPDX-License-Identifier: Apache-2.0
// A completion that is called or dropped, against the loader's return and the end of the cache: one
// thread ends the load, with what it should, and sees all that the loader's thread has done.
#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/internal/loading/completion_handoff.h"

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

 private:
  // Uses the load as its owner.
  void End(int value) {
    RL_ASSERT(state_of_load_ == 1);
    state_of_load_ = 2;
    ended_with_ = value;
    ++ends_;
  }

  internal::BasicCompletionHandoff<RelacyAtomics, Result> handoff_;
  RelacyPlain<int> state_of_load_{0};
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

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<CalledAgainstReturn>("a completion against the loader's return");
  runner.Exhaustive<DroppedAgainstReturn>("a drop against the loader's return");
  runner.Exhaustive<CalledAgainstFailure>("a completion against the loader's failure");
  runner.Exhaustive<CalledAgainstTheEndOfTheCache>("a completion against the end of the cache");
  runner.Exhaustive<AllThree>("a drop, the loader's return and the end of the cache");
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
