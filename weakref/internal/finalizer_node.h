// SPDX-License-Identifier: Apache-2.0
// One finalizer: a watcher whose function is run by whoever claims it first.
//
// Unlike an ExpiryCallback it has no owner that would cancel it or wait for it: its handles, its
// referent's watcher list and the registry of those that run at exit share it.
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

  // Makes sure that the process runs finalizers at its exit. Throws std::bad_alloc if it can't.
  static void PrepareForExit();

  // The caller holds a strong reference, and PrepareForExit has been called if `at_exit`.
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

  // True for one caller, once: the function is then that caller's, who is an owner.
  [[nodiscard]] bool Claim() {
    if (!state_.TryClaim()) return false;
    if (block_->RemoveWatcher(this)) DropOwner();
    if (at_exit_) LeaveExitRegistry();
    return true;
  }

  // False if somebody else has claimed the function.
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

  // Runs the function and destroys it, so that what it captured does not outlive the news.
  virtual void RunAndDiscard() noexcept = 0;

  void OnExpired(Watcher*) noexcept override {
    ClaimAndRun();
    DropOwner();
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

  // The following are for whoever has claimed the function.

  CallResult<Callback> RunForResult() {
    const Discarder discarder{&callback_};
    return CallForResult(std::move(*callback_));
  }

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
