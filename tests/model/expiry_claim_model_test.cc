// SPDX-License-Identifier: Apache-2.0
// The end of an embedded object against its container's letting go: one of them is first, and a
// container that comes too late finds the expiry counted.
#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

struct Node {
  Node* next() const { return next_; }
  void set_next(Node* next) { next_ = next; }

 private:
  RelacyPlain<Node*> next_{nullptr};
};

// Thread 0 takes the expired, thread 1 detaches.
class ExpiryAgainstDetach : public rl::test_suite<ExpiryAgainstDetach, 2> {
 public:
  void before() { ++current_schedule; }
  void thread(unsigned index) {
    if (index == 0) {
      taken_ = link_.ClaimExpiry(queue_);
      if (taken_) RL_ASSERT(queue_.Push(&node_));
      return;
    }
    detached_ = link_.Detach();
    RL_ASSERT(queue_.expired_count() == (detached_ ? 0 : 1));
  }
  void after() {
    RL_ASSERT(taken_ != detached_);
    RL_ASSERT(queue_.expired_count() == (taken_ ? 1 : 0));
    RL_ASSERT(queue_.TakeAll() == (taken_ ? &node_ : nullptr));
  }

 private:
  internal::BasicExpiryClaim<RelacyAtomics> link_;
  internal::BasicRetireList<RelacyAtomics, Node> queue_;
  Node node_;
  bool taken_ = false;
  bool detached_ = false;
};

// Two objects of one container: each count is exact for the container that comes too late for it.
class TwoExpiriesAgainstDetach : public rl::test_suite<TwoExpiriesAgainstDetach, 3> {
 public:
  void before() { ++current_schedule; }
  void thread(unsigned index) {
    if (index < 2) {
      taken_[index] = links_[index].ClaimExpiry(queue_);
      return;
    }
    size_t too_late = 0;
    for (int i = 0; i < 2; ++i) {
      detached_[i] = links_[i].Detach();
      if (!detached_[i]) ++too_late;
      RL_ASSERT(queue_.expired_count() >= too_late);
    }
    RL_ASSERT(queue_.expired_count() == too_late);
  }
  void after() {
    for (int i = 0; i < 2; ++i) RL_ASSERT(taken_[i] != detached_[i]);
  }

 private:
  internal::BasicExpiryClaim<RelacyAtomics> links_[2];
  internal::BasicRetireList<RelacyAtomics, Node> queue_;
  bool taken_[2] = {};
  bool detached_[2] = {};
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<ExpiryAgainstDetach>("expiry against detaching");
  runner.Exhaustive<TwoExpiriesAgainstDetach>("two expiries against detaching");
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
