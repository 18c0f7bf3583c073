// SPDX-License-Identifier: Apache-2.0
// The watchers of one referent, which are told once that it has expired: an intrusive list, newest
// first.
//
// A thread that holds a strong reference may add watchers, and one that holds a weak reference may
// remove its own, while another thread notifies. A lock in the lowest bit of the list's head guards
// the links. It is held for a few instructions, or to look at each watcher; OnExpired runs outside
// it.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_WATCHER_LIST_H_
#define WEAKCACHE_WEAKREF_INTERNAL_WATCHER_LIST_H_

#include <atomic>
#include <cstddef>

#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/pointer_lock.h"
#include "weakcache/weakref/internal/watcher_info.h"

namespace weakcache::internal {

template <typename Policy>
class BasicWatcherList;
template <typename Policy>
class BasicWatcher;

// Receives the notifications of its watchers.
template <typename Policy>
class BasicWatcherOwner {
 public:
  // Reports that a watcher has been taken off its list to be notified. Runs under the list's lock,
  // so it may count and nothing else. A Remove that returns false happens after it.
  virtual void OnClaimed() noexcept {}

  // Reports the expiry, once, after OnClaimed and outside the lock. The list does not touch the
  // watcher after the call has begun, so the owner may reuse or destroy it.
  virtual void OnExpired(BasicWatcher<Policy>* watcher) noexcept = 0;

  // Says what a watcher is for. Runs under the list's lock, so it reads constants and atomics.
  virtual WatcherInfo Describe(
      [[maybe_unused]] const BasicWatcher<Policy>* watcher) const noexcept {
    return {};
  }

 protected:
  ~BasicWatcherOwner() = default;
};

template <typename Policy>
class BasicWatcher {
 public:
  explicit BasicWatcher(BasicWatcherOwner<Policy>* owner) : owner_(owner) {}
  BasicWatcher(const BasicWatcher&) = delete;
  BasicWatcher& operator=(const BasicWatcher&) = delete;

  // Returns a link for the owner's own use while the watcher is on no list.
  BasicWatcher* next() const { return next_; }
  void set_next(BasicWatcher* next) { next_ = next; }

 private:
  friend class BasicWatcherList<Policy>;
  using Link = typename Policy::template Plain<BasicWatcher*>;

  // Guarded by the list's lock while the watcher is on a list. `previous_` is null while it is on
  // no list, and the watcher itself while it is the first.
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

  // Adds a watcher in front. The caller holds a strong reference to the referent.
  void Add(Watcher* watcher) {
    Watcher* const first = Lock();
    watcher->next_ = first;
    watcher->previous_ = watcher;
    if (first != nullptr) first->previous_ = watcher;
    Unlock(watcher);
  }

  // Removes a watcher. Returns false if it was taken off already: its OnExpired has run, is
  // running, or will run.
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

  // Returns whether there are no watchers. For use after the expiry, when none can be added: every
  // Add happened before its caller released its strong reference, so a relaxed load suffices.
  bool empty() const { return head_.IsNullRelaxed(); }

  // Notifies the watchers one by one, newest first, and skips those that are removed meanwhile. For
  // use after the expiry.
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

  // Returns whether a watcher of that owner is on the list. O(watchers).
  bool Has(const BasicWatcherOwner<Policy>* owner) {
    Watcher* const first = Lock();
    Watcher* watcher = first;
    while (watcher != nullptr && watcher->owner_ != owner) watcher = watcher->next_;
    Unlock(first);
    return watcher != nullptr;
  }

  // Calls `visit(info)` for each watcher, newest first, under the lock: it may store and nothing
  // else.
  template <typename Visit>
  void DescribeEach(const Visit& visit) {
    Watcher* const first = Lock();
    for (Watcher* watcher = first; watcher != nullptr; watcher = watcher->next_) {
      visit(watcher->owner_->Describe(watcher));
    }
    Unlock(first);
  }

  // Counts the watchers.
  size_t size() {
    Watcher* const first = Lock();
    size_t count = 0;
    for (Watcher* watcher = first; watcher != nullptr; watcher = watcher->next_) ++count;
    Unlock(first);
    return count;
  }

 private:
  // Acquire pairs with the release in Unlock.
  Watcher* Lock() { return head_.Lock(std::memory_order_acquire); }
  void Unlock(Watcher* first) { head_.Unlock(first); }

  // The first watcher. Whoever holds the lock changes it and the links of all watchers.
  BasicPointerLock<Policy, Watcher> head_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_WATCHER_LIST_H_
