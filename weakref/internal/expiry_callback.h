// SPDX-License-Identifier: Apache-2.0
// One registered callback: a watcher that runs a function, and the hand-shake of its two owners,
// the registration and the thread that tells the news.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_EXPIRY_CALLBACK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_EXPIRY_CALLBACK_H_

#include <atomic>
#include <optional>
#include <utility>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/watcher_list.h"

namespace weakcache::internal {

// Hands the exception in flight to the handler. Call it from a catch block.
void ReportCallbackError() noexcept;

template <typename Policy>
class BasicExpiryCallback : private BasicWatcher<Policy>, private BasicWatcherOwner<Policy> {
 public:
  using Block = BasicControlBlock<Policy>;

  BasicExpiryCallback(const BasicExpiryCallback&) = delete;
  BasicExpiryCallback& operator=(const BasicExpiryCallback&) = delete;

  // The caller holds a strong reference.
  void Register() { block_->AddWatcher(this); }

  // Gives up the registration's ownership. Afterwards the callback never starts, and does not run
  // unless on the calling thread.
  void CancelOrWait() {
    if (block_->RemoveWatcher(this)) {
      delete this;
      return;
    }
    // Relaxed: only a value that this very thread wrote can be equal to its id.
    if (runner_.load(std::memory_order_relaxed) != Policy::CurrentThread()) {
      AwaitDone();
    }
    DropOwner();
  }

  // Acquire: see OnExpired.
  bool done() const { return progress_.load(std::memory_order_acquire) == Progress::kDone; }

 protected:
  explicit BasicExpiryCallback(Block* block) : BasicWatcher<Policy>(this), block_(block) {
    block_->AddWeak();
  }
  virtual ~BasicExpiryCallback() { block_->ReleaseWeak(); }

 private:
  enum class Progress : int { kPending, kAwaited, kDone };

  // Runs the function and destroys it, so that what it captured does not outlive the news.
  virtual void RunAndDiscard() noexcept = 0;

  void OnExpired(BasicWatcher<Policy>*) noexcept override {
    // Relaxed: see CancelOrWait.
    runner_.store(Policy::CurrentThread(), std::memory_order_relaxed);
    RunAndDiscard();
    // Release pairs with the acquire in AwaitDone and done(): what the callback did happens before.
    // Waking costs a system call, so only if there is somebody to wake.
    if (progress_.exchange(Progress::kDone, std::memory_order_release) == Progress::kAwaited) {
      progress_.notify_all();
    }
    DropOwner();
  }

  void AwaitDone() {
    Progress progress = Progress::kPending;
    // Acquire, here and below: see OnExpired.
    if (progress_.compare_exchange_strong(progress, Progress::kAwaited,
                                          std::memory_order_acquire) ||
        progress == Progress::kAwaited) {
      progress_.wait(Progress::kAwaited, std::memory_order_acquire);
    }
  }

  void DropOwner() {
    // Acquire and release: whatever either owner did happens before the deletion by the other.
    if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  Block* const block_;  // one weak reference is held
  // Written by the thread that runs the callback, once. Tells it from those that have to wait.
  typename Policy::template Atomic<typename Policy::ThreadId> runner_{};
  // kPending to kAwaited by the registration's cancellation; either to kDone by the thread that
  // runs the callback.
  typename Policy::template Atomic<Progress> progress_{Progress::kPending};
  // The registration and the telling thread; whoever is last deletes. A cancellation in time owns
  // both.
  typename Policy::template Atomic<int> owners_{2};
};

using ExpiryCallback = BasicExpiryCallback<StdAtomics>;

template <typename Callback>
class ExpiryCallbackFor final : public ExpiryCallback {
 public:
  template <typename Argument>
  ExpiryCallbackFor(ControlBlock* block, Argument&& callback)
      : ExpiryCallback(block), callback_(std::in_place, std::forward<Argument>(callback)) {}

 private:
  void RunAndDiscard() noexcept override {
#ifdef __cpp_exceptions
    try {
      (*callback_)();
    } catch (...) {
      ReportCallbackError();
    }
#else
    (*callback_)();
#endif
    callback_.reset();
  }

  std::optional<Callback> callback_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_EXPIRY_CALLBACK_H_
