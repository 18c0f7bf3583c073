// Where the entries of one container go when their referents expire: a lock-free stack that any
// thread pushes to and that the container empties in its own time (Treiber, 1986; taken only as a
// whole, so a node that comes back can confuse nobody).
//
// The queue outlives its container for as long as a thread is between taking an entry from its
// referent's watchers and pushing it. The container never waits for such a thread: it closes the
// queue, says how many are still to come, and the last of all frees it.
#ifndef WEAKCACHE_CACHE_INTERNAL_EXPIRED_QUEUE_H_
#define WEAKCACHE_CACHE_INTERNAL_EXPIRED_QUEUE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "weakref/internal/atomics_policy.h"
#include "weakref/internal/watcher_list.h"

namespace weakcache::internal {

template <typename Policy>
class BasicExpiredQueue : public BasicWatcherOwner<Policy> {
 public:
  using Watcher = BasicWatcher<Policy>;

  // How many entries have expired since the beginning. Exact for every release that happened
  // before.
  size_t expired_count() const {
    // Relaxed: whatever made the release happen before this call orders the count too.
    return expired_count_.load(std::memory_order_relaxed);
  }

  // The entries pushed so far, linked by next(). Only the container calls this, before Close.
  Watcher* TakeAll() {
    // Relaxed: only a hint that there is nothing to do; a push that happened before is seen.
    if (head_.load(std::memory_order_relaxed) == 0) return nullptr;
    // Acquire pairs with the release in Push.
    return reinterpret_cast<Watcher*>(head_.exchange(0, std::memory_order_acquire));
  }

  // As TakeAll; later pushes are refused. The container calls it last, when it has no watcher left.
  Watcher* Close() {
    return reinterpret_cast<Watcher*>(head_.exchange(kClosed, std::memory_order_acquire));
  }

  // After Close: `still_to_come` watchers have been taken but were not pushed. True if all of them
  // have been refused by now, so that the caller frees the queue.
  [[nodiscard]] bool LeaveTo(size_t still_to_come) {
    const size_t surplus = kOpen - still_to_come;
    // Acquire and release: what each of the leavers did happens before the queue is freed.
    return outstanding_.fetch_sub(surplus, std::memory_order_acq_rel) == surplus;
  }

  void OnTaken() noexcept final {
    // Relaxed: the watcher list's lock orders it before a Remove that comes too late; see
    // expired_count.
    expired_count_.fetch_add(1, std::memory_order_relaxed);
  }

 protected:
  ~BasicExpiredQueue() = default;

  // True if the caller frees the queue: it was closed and this was the last push to come. Otherwise
  // the queue may be gone when this returns.
  [[nodiscard]] bool Push(Watcher* watcher) {
    uintptr_t head = head_.load(std::memory_order_relaxed);
    while (head != kClosed) {
      watcher->set_next(reinterpret_cast<Watcher*>(head));
      // Release pairs with the acquire in TakeAll and Close. Relaxed on failure: only compared.
      if (head_.compare_exchange_weak(head, reinterpret_cast<uintptr_t>(watcher),
                                      std::memory_order_release, std::memory_order_relaxed)) {
        return false;
      }
    }
    // Acquire and release: see LeaveTo.
    return outstanding_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

 private:
  static constexpr uintptr_t kClosed = 1;
  // More than entries can ever be on their way, so that the count reaches zero only after LeaveTo.
  static constexpr size_t kOpen = SIZE_MAX / 2;

  // The entry pushed last; 0 if none; kClosed for good. Any thread pushes, the container takes.
  typename Policy::template Atomic<uintptr_t> head_{0};
  // Only grows. Written under the lock of the watcher list that the entry was on.
  typename Policy::template Atomic<size_t> expired_count_{0};
  // kOpen while the container lives, then pushes still to come; each refused push takes one off,
  // also between Close and LeaveTo. Whoever makes it zero frees the queue.
  typename Policy::template Atomic<size_t> outstanding_{kOpen};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_EXPIRED_QUEUE_H_
