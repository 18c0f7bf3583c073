// SPDX-License-Identifier: Apache-2.0
// One callback registered by OnExpire: a watcher that runs a function. It has two owners, the
// registration and the thread that notifies it, and the one that drops it last deletes it.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_EXPIRY_CALLBACK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_EXPIRY_CALLBACK_H_

#include <atomic>
#include <optional>
#include <utility>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/watcher_list.h"

namespace weakcache::internal {

// Passes the exception in flight to the handler of SetExpiryErrorHandler. Call it from a catch
// block.
void ReportCallbackError() noexcept;

template <typename Policy>
class BasicExpiryCallback : private BasicWatcher<Policy>, private BasicWatcherOwner<Policy> {
 public:
  using Block = BasicControlBlock<Policy>;

  BasicExpiryCallback(const BasicExpiryCallback&) = delete;
  BasicExpiryCallback& operator=(const BasicExpiryCallback&) = delete;

  // Adds the callback to the watchers. The caller holds a strong reference.
  void Register() { block_->AddWatcher(this); }

  // Cancels the callback and drops the registration's ownership. If the callback is running on
  // another thread, waits for its return; if on this one, does not.
  void CancelOrWait() {
    if (block_->RemoveWatcher(this)) {
      delete this;
      return;
    }
    // Relaxed: only this thread itself can have written its own id.
    if (runner_.load(std::memory_order_relaxed) != Policy::CurrentThread()) {
      AwaitDone();
    }
    DropOwner();
  }

  // Returns whether the callback has returned. Acquire: see OnExpired.
  bool done() const { return progress_.load(std::memory_order_acquire) == Progress::kDone; }

 protected:
  explicit BasicExpiryCallback(Block* block) : BasicWatcher<Policy>(this), block_(block) {
    block_->AddWeak();
  }
  virtual ~BasicExpiryCallback() { block_->ReleaseWeak(); }

 private:
  enum class Progress : int { kPending, kAwaited, kDone };

  // Runs the function and destroys it, with its captures, at once.
  virtual void RunAndDiscard() noexcept = 0;

  void OnExpired(BasicWatcher<Policy>*) noexcept override {
    // Relaxed: see CancelOrWait.
    runner_.store(Policy::CurrentThread(), std::memory_order_relaxed);
    RunAndDiscard();
    // Release pairs with the acquire in AwaitDone and done(): what the callback did happens before.
    // Waking costs a system call, so it is done only if a thread waits.
    if (progress_.exchange(Progress::kDone, std::memory_order_release) == Progress::kAwaited) {
      progress_.notify_all();
    }
    DropOwner();
  }

  WatcherInfo Describe(const BasicWatcher<Policy>*) const noexcept override {
    return {.kind = WatcherInfo::Kind::kExpiryCallback};
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
    // Acquire pairs with release: what either owner did happens before the other one deletes.
    if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  Block* const block_;  // one weak reference is held
  // The thread that runs the callback, which writes it once, before the callback. A cancellation on
  // that thread must not wait.
  typename Policy::template Atomic<typename Policy::ThreadId> runner_{};
  // Transitions: kPending to kAwaited by the thread that cancels; either of them to kDone by the
  // thread that runs the callback.
  typename Policy::template Atomic<Progress> progress_{Progress::kPending};
  // Invariant: the owners that have not dropped the callback. Written by both. Transitions: 2 to 1
  // to 0. A cancellation that comes in time deletes it for both.
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
