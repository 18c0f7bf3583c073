// SPDX-License-Identifier: Apache-2.0
// Who wants to know that a referent has expired: an intrusive list, newest first.
//
// Any thread may add (it holds a strong reference) and remove (it holds a weak one) while another
// tells the watchers. The list is guarded by a lock in the lowest bit of its head, held for a few
// instructions, or to count the watchers, and never while anything else runs.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_WATCHER_LIST_H_
#define WEAKCACHE_WEAKREF_INTERNAL_WATCHER_LIST_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

template <typename Policy>
class BasicWatcherList;
template <typename Policy>
class BasicWatcher;

// Receives the news for its watchers.
template <typename Policy>
class BasicWatcherOwner {
 public:
  // The watcher has just been taken off its list for good. Runs under the list's lock: it may
  // count, nothing else. A Remove that returns false happens after it.
  virtual void OnClaimed() noexcept {}

  // Called once, outside the lock, after OnClaimed. From here on the watcher is the owner's again.
  virtual void OnExpired(BasicWatcher<Policy>* watcher) noexcept = 0;

 protected:
  ~BasicWatcherOwner() = default;
};

template <typename Policy>
class BasicWatcher {
 public:
  explicit BasicWatcher(BasicWatcherOwner<Policy>* owner) : owner_(owner) {}
  BasicWatcher(const BasicWatcher&) = delete;
  BasicWatcher& operator=(const BasicWatcher&) = delete;

  // Free for the owner's use while the watcher is on no list.
  BasicWatcher* next() const { return next_; }
  void set_next(BasicWatcher* next) { next_ = next; }

 private:
  friend class BasicWatcherList<Policy>;
  using Link = typename Policy::template Plain<BasicWatcher*>;

  // Guarded by the list's lock while on a list. `previous_` is null when on no list, the watcher
  // itself when it is the first.
  Link next_{nullptr};
  Link previous_{nullptr};
  BasicWatcherOwner<Policy>* const owner_;
};

template <typename Policy>
class BasicWatcherList {
 public:
  using Watcher = BasicWatcher<Policy>;

  BasicWatcherList() = default;
  BasicWatcherList(const BasicWatcherList&) = delete;
  BasicWatcherList& operator=(const BasicWatcherList&) = delete;

  void Add(Watcher* watcher) {
    Watcher* const first = Lock();
    watcher->next_ = first;
    watcher->previous_ = watcher;
    if (first != nullptr) first->previous_ = watcher;
    Unlock(watcher);
  }

  // False if the watcher has been taken already: its OnExpired has run, is running, or will.
  bool Remove(Watcher* watcher) {
    Watcher* first = Lock();
    Watcher* const previous = watcher->previous_;
    if (previous == nullptr) {
      Unlock(first);
      return false;
    }
    Watcher* const next = watcher->next_;
    if (previous == watcher) {
      first = next;
    } else {
      previous->next_ = next;
    }
    if (next != nullptr) next->previous_ = previous == watcher ? next : previous;
    watcher->previous_ = nullptr;
    Unlock(first);
    return true;
  }

  // Once the referent has expired, so that no watcher can be added any more. Relaxed: every Add
  // happened before its caller's release of the strong reference.
  bool empty() const { return head_.load(std::memory_order_relaxed) == 0; }

  // Tells every watcher, newest first, one at a time: one that is removed in the meantime is not
  // told. As well.
  void NotifyAll() {
    while (!empty()) {
      Watcher* const watcher = Lock();
      if (watcher == nullptr) {
        Unlock(nullptr);
        return;
      }
      Watcher* const next = watcher->next_;
      if (next != nullptr) next->previous_ = next;
      watcher->previous_ = nullptr;
      BasicWatcherOwner<Policy>* const owner = watcher->owner_;
      owner->OnClaimed();
      Unlock(next);
      owner->OnExpired(watcher);
    }
  }

  size_t size() {
    Watcher* const first = Lock();
    size_t count = 0;
    for (Watcher* watcher = first; watcher != nullptr; watcher = watcher->next_) ++count;
    Unlock(first);
    return count;
  }

 private:
  static constexpr uintptr_t kLocked = 1;

  Watcher* Lock() {
    uintptr_t head = head_.load(std::memory_order_relaxed);
    for (int attempt = 0;; ++attempt) {
      // Acquire pairs with the release in Unlock.
      if ((head & kLocked) == 0 &&
          head_.compare_exchange_weak(head, head | kLocked, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        return reinterpret_cast<Watcher*>(head);
      }
      if ((head & kLocked) != 0) {
        Policy::Pause(attempt);
        head = head_.load(std::memory_order_relaxed);
      }
    }
  }

  void Unlock(Watcher* first) {
    // Release pairs with the acquire in Lock.
    head_.store(reinterpret_cast<uintptr_t>(first), std::memory_order_release);
  }

  // The first watcher's address; the lowest bit is the lock, and only its holder changes the rest.
  // Transitions: any even value to itself + 1, and from there to any even value.
  typename Policy::template Atomic<uintptr_t> head_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_WATCHER_LIST_H_
