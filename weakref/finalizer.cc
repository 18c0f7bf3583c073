// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/finalizer.h"

#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>

#include "absl/base/thread_annotations.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/finalizer_node.h"

namespace weakcache {
namespace {

// A mutex with thread annotations: std::mutex has none, and absl::Mutex is not in absl/base.
class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }

 private:
  Mutex* const mutex_;
};

}  // namespace

namespace internal {

// The finalizers that run at exit and are pending or just being claimed, newest first. It is an
// owner of each. Only links change under its mutex.
class ExitRegistry {
 public:
  // Never destroyed: static destructors may still drop references.
  static ExitRegistry& Instance() {
    alignas(ExitRegistry) static unsigned char storage[sizeof(ExitRegistry)];
    static ExitRegistry* const instance = ::new (static_cast<void*>(storage)) ExitRegistry();
    return *instance;
  }

  // Adds a finalizer and takes over one of its owners' shares from the caller.
  void Add(FinalizerNode* node) {
    const MutexLock lock(&mutex_);
    node->in_exit_registry_ = true;
    node->older_ = newest_;
    if (newest_ != nullptr) newest_->newer_ = node;
    newest_ = node;
  }

  // Removes a finalizer. Returns true if it was there: the caller is now the owner in its place.
  [[nodiscard]] bool Remove(FinalizerNode* node) {
    const MutexLock lock(&mutex_);
    if (!node->in_exit_registry_) return false;
    Unlink(node);
    return true;
  }

  // Removes and returns the newest finalizer, or null. The caller is now the owner in its place.
  [[nodiscard]] FinalizerNode* TakeNewest() {
    const MutexLock lock(&mutex_);
    FinalizerNode* const node = newest_;
    if (node != nullptr) Unlink(node);
    return node;
  }

 private:
  void Unlink(FinalizerNode* node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (node->older_ != nullptr) node->older_->newer_ = node->newer_;
    (node->newer_ != nullptr ? node->newer_->older_ : newest_) = node->older_;
    node->newer_ = node->older_ = nullptr;
    node->in_exit_registry_ = false;
  }

  Mutex mutex_;
  FinalizerNode* newest_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

void FinalizerNode::PrepareForExit() {
  // After a failure the next caller tries again.
  static const bool prepared = [] {
    if (std::atexit([] { RunFinalizersAtExit(); }) == 0) return true;
#ifdef __cpp_exceptions
    throw std::bad_alloc();
#else
    CheckFailed("Finalize", "std::atexit is out of memory");
#endif
  }();
  static_cast<void>(prepared);
}

void FinalizerNode::JoinExitRegistry() noexcept { ExitRegistry::Instance().Add(this); }

void FinalizerNode::LeaveExitRegistry() noexcept {
  if (ExitRegistry::Instance().Remove(this)) DropOwner();
}

}  // namespace internal

size_t RunFinalizersAtExit() {
  size_t ran = 0;
  while (internal::FinalizerNode* const node = internal::ExitRegistry::Instance().TakeNewest()) {
    if (node->ClaimAndRun()) ++ran;
    node->DropOwner();
  }
  return ran;
}

}  // namespace weakcache
