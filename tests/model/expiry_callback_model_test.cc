// SPDX-License-Identifier: Apache-2.0
// A callback against its cancellation: it does not run, or what it did happens before the
// cancellation returns; and it goes once, after both its owners have left it.
#include <memory>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

// What a callback captured and what it did, kept where neither thread destroys it.
struct Trace {
  RelacyPlain<int> calls{0};
  int destroyed = 0;
};

class Callback final : public internal::BasicExpiryCallback<RelacyAtomics> {
 public:
  Callback(ModelBlock* block, Trace* trace) : BasicExpiryCallback(block), trace_(trace) {}
  ~Callback() override { RL_ASSERT(trace_->destroyed++ == 0); }

  // The callback cancels its own registration.
  void CancelFromInside() { cancel_from_inside_ = true; }

  // Its memory is the model's.
  static void operator delete(void*) {}

 private:
  void RunAndDiscard() noexcept override {
    trace_->calls = trace_->calls + 1;
    if (cancel_from_inside_) CancelOrWait();
    RL_ASSERT(captured_ == 1);
    captured_ = 0;
  }

  Trace* const trace_;
  bool cancel_from_inside_ = false;
  RelacyPlain<int> captured_{1};
};

// A block with some registered callbacks. Thread 0 drops the last strong reference.
template <typename Derived, int kThreads, int kCallbacks>
class CallbackModel : public BlockModel<Derived, kThreads> {
 public:
  void Prepare() {
    for (int i = 0; i < kCallbacks; ++i) {
      callbacks_[i].Create(&this->block(), &traces_[i]);
      static_cast<Derived*>(this)->PrepareCallback(callback(i));
      callback(i).Register();
    }
  }
  void Thread(unsigned index) {
    if (index == 0) {
      this->block().UseAndRelease();
    } else {
      static_cast<Derived*>(this)->Cancel(index - 1);
    }
  }
  void Finish() {
    for (const Trace& trace : traces_) {
      RL_ASSERT(trace.calls <= 1);
      RL_ASSERT(trace.destroyed == 1);
    }
  }

 protected:
  void PrepareCallback(Callback&) {}
  Callback& callback(int index) { return *callbacks_[index].get(); }
  Trace& trace(int index) { return traces_[index]; }

  // The caller may destroy what the callback uses afterwards: the write stands for that.
  void CancelAndDestroyUsed(int index) {
    callback(index).CancelOrWait();
    trace(index).calls = trace(index).calls;
  }

 private:
  Storage<Callback> callbacks_[kCallbacks];
  Trace traces_[kCallbacks];
};

class CancelAgainstExpiry : public CallbackModel<CancelAgainstExpiry, 2, 1> {
 public:
  void Cancel(int index) { CancelAndDestroyUsed(index); }
};

class TwoCancelsAgainstExpiry : public CallbackModel<TwoCancelsAgainstExpiry, 3, 2> {
 public:
  void Cancel(int index) { CancelAndDestroyUsed(index); }
};

class CancelFromInside : public CallbackModel<CancelFromInside, 1, 1> {
 public:
  void PrepareCallback(Callback& callback) { callback.CancelFromInside(); }
  void Cancel(int) {}
};

// One that asks before it cancels.
class DoneAgainstExpiry : public CallbackModel<DoneAgainstExpiry, 2, 1> {
 public:
  void Cancel(int index) {
    if (callback(index).done()) RL_ASSERT(trace(index).calls == 1);
    CancelAndDestroyUsed(index);
  }
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<CancelFromInside>("a callback that cancels itself");
  runner.Bounded<CancelAgainstExpiry>("a cancellation against expiry", 4);
  runner.Bounded<DoneAgainstExpiry>("a look and a cancellation against expiry", 3);
  runner.Bounded<TwoCancelsAgainstExpiry>("two cancellations against expiry", 1);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
