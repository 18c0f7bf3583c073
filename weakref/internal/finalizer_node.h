// SPDX-License-Identifier: Apache-2.0
// One finalizer: a watcher whose function is run by the thread that claims it first.
//
// It is owned jointly by its handles, by its referent's watcher list and, if it runs at exit, by
// the exit registry. Unlike with an ExpiryCallback, no owner cancels it or waits for it.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_FINALIZER_NODE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_FINALIZER_NODE_H_

#include <optional>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/call_result.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/expiry_callback.h"
#include "weakcache/weakref/internal/finalizer_state.h"

namespace weakcache::internal {

class FinalizerNode : private Watcher, private WatcherOwner {
 public:
  FinalizerNode(const FinalizerNode&) = delete;
  FinalizerNode& operator=(const FinalizerNode&) = delete;

  // Registers RunFinalizersAtExit with std::atexit, once. Throws std::bad_alloc if that fails.
  static void PrepareForExit();

  // Adds the finalizer to the watchers and, if it runs at exit, to the exit registry. The caller
  // holds a strong reference and has called PrepareForExit if `at_exit`.
  void Register() noexcept {
    block_->AddWatcher(this);
    if (at_exit_) JoinExitRegistry();
  }

  ControlBlock* block() const { return block_; }
  bool pending() const { return state_.pending(); }
  void AddOwner() { state_.AddOwner(); }
  void DropOwner() {
    if (state_.DropOwner()) delete this;
  }

  // Claims the function. Returns true to one caller, once, who may then run or take the function.
  // The caller is an owner.
  [[nodiscard]] bool Claim() {
    if (!state_.TryClaim()) return false;
    if (block_->RemoveWatcher(this)) DropOwner();
    if (at_exit_) LeaveExitRegistry();
    return true;
  }

  // Claims and runs the function. Returns false if another caller has claimed it.
  bool ClaimAndRun() {
    if (!Claim()) return false;
    RunAndDiscard();
    return true;
  }

 protected:
  FinalizerNode(ControlBlock* block, bool at_exit)
      : Watcher(this), block_(block), at_exit_(at_exit), state_(at_exit ? 2 : 1) {
    block_->AddWeak();
  }
  virtual ~FinalizerNode() { block_->ReleaseWeak(); }

 private:
  friend class ExitRegistry;

  // Runs the function and destroys it, with its captures, at once.
  virtual void RunAndDiscard() noexcept = 0;

  void OnExpired(Watcher*) noexcept override {
    ClaimAndRun();
    DropOwner();
  }

  WatcherInfo Describe(const Watcher*) const noexcept override {
    return {.kind = WatcherInfo::Kind::kFinalizer};
  }

  void JoinExitRegistry() noexcept;
  void LeaveExitRegistry() noexcept;

  ControlBlock* const block_;  // one weak reference is held
  const bool at_exit_;
  BasicFinalizerState<StdAtomics> state_;

  // Guarded by the exit registry's mutex.
  bool in_exit_registry_ = false;
  FinalizerNode* newer_ = nullptr;
  FinalizerNode* older_ = nullptr;
};

template <typename Callback>
class FinalizerNodeFor final : public FinalizerNode {
 public:
  template <typename... Parts>
  FinalizerNodeFor(ControlBlock* block, bool at_exit, Parts&&... parts)
      : FinalizerNode(block, at_exit), callback_(std::in_place, std::forward<Parts>(parts)...) {}

  // The two functions below are for the caller that has claimed the function.

  // Runs the function, returns its result, and destroys it.
  CallResult<Callback> RunForResult() {
    const Discarder discarder{&callback_};
    return CallForResult(std::move(*callback_));
  }

  // Moves the function out.
  std::optional<Callback> Take() {
    const Discarder discarder{&callback_};
    return std::optional<Callback>(std::move(callback_));
  }

 private:
  struct Discarder {
    ~Discarder() { callback->reset(); }
    std::optional<Callback>* callback;
  };

  void RunAndDiscard() noexcept override {
#ifdef __cpp_exceptions
    try {
      RunForResult();
    } catch (...) {
      ReportCallbackError();
    }
#else
    RunForResult();
#endif
  }

  std::optional<Callback> callback_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_FINALIZER_NODE_H_
