// SPDX-License-Identifier: Apache-2.0
// Limits how many loads run at a time.
//
// The limit bounds the loads that run, not those that wait. A load inside another one of the same
// cache, on the same thread, needs no permit of its own: otherwise the outer load would wait for
// the inner one, and the inner one for the outer one's permit. A task that a load has made may
// exceed the limit while that load runs, because the load may wait for the task in ways that the
// limiter can't see. And a thread that waits for a permit is in the wait graph, like one that waits
// for another thread's creation (see wait_graph.h): if all threads that hold permits wait for it in
// turn, it gets a permit beyond the limit.
//
//   limit 1    thread 1 creates a in a map, which needs b of the cache    waits for a permit
//              thread 2 loads c in the cache, which needs a of the map    waits for thread 1
//              now nobody would run, so thread 1 gets a permit
//
// A load whose loader has a completion (completion_load.h) keeps its permit when its thread goes on
// to other things: the permit is *detached* from the thread. Nobody knows who will return it, so a
// wait for it closes no circle. If a load waits for a continuation, directly or through others, the
// requests of the continuation count as made by that load.
//
// A cache without a limit takes no part in this, and a hit never does.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/wait_graph.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

template <typename Policy>
class BasicLoadPermit;

// The task of a load that no thread waits for. If there is no permit for it, its thread does not
// wait: the task is deferred, and posted again when there is a permit, in order of arrival. The
// fields are the limiter's, guarded by its mutex.
class DeferrableTask {
 public:
  DeferrableTask(const DeferrableTask&) = delete;
  DeferrableTask& operator=(const DeferrableTask&) = delete;

  // Gives the task to its executor again, or drops it if it is not wanted any more. Called without
  // a lock.
  virtual void PostAgain() = 0;
  // Returns whether the load is still to be made. Called under the limiter's mutex.
  virtual bool wanted() const = 0;

 protected:
  // Makes a task; one that comes last is for nobody who waits, so threads come before it, too.
  explicit DeferrableTask(bool comes_last = false) : arrival_(comes_last ? kLast : 0) {}
  virtual ~DeferrableTask() = default;

 private:
  template <typename Policy>
  friend class BasicLoadLimiter;
  friend class PostLater;
  static constexpr uint64_t kLast = UINT64_MAX;
  bool comes_last() const { return arrival_ == kLast; }

  uint64_t arrival_;         // 0: has not yet asked for a permit
  bool may_exceed_ = false;  // a load that runs waits for this one
  bool deferred_ = false;    // on the limiter's list
  DeferrableTask* next_ = nullptr;
};
// Tasks that are to be posted. Declare it before locks, flights and permits, as its destructor
// posts the tasks; and after everything whose destructor runs other user code, which may wait for
// one of them.
class PostLater {
 public:
  PostLater() = default;
  PostLater(const PostLater&) = delete;
  PostLater& operator=(const PostLater&) = delete;
  ~PostLater() { PostAll(); }
  // Posts the tasks, which runs user code: the executors.
  void PostAll() {
    while (first_ != nullptr) {
      DeferrableTask* const task = first_;
      first_ = task->next_;
      task->PostAgain();
    }
  }
  void Add(DeferrableTask& task) {
    task.next_ = first_;
    first_ = &task;
  }

 private:
  DeferrableTask* first_ = nullptr;
};

// Thread-safe. Visible outside a shared object, like the wait graph, for the threads' permits.
template <typename Policy>
class [[gnu::visibility("default")]] BasicLoadLimiter {
 public:
  // Identifies a load that has a permit; no other load ever has the same, of whatever limiter.
  using LoadId = uint64_t;
  static constexpr LoadId kNoLoad = 0;

  // 0: no limit.
  explicit BasicLoadLimiter(size_t limit) : limit_(limit) {}
  BasicLoadLimiter(const BasicLoadLimiter&) = delete;
  BasicLoadLimiter& operator=(const BasicLoadLimiter&) = delete;
  // Drops tasks that are not wanted any more.
  ~BasicLoadLimiter() {
    PostLater post;
    PostAllDeferred(post);
  }

  // Wakes the threads that wait for a permit. Has to be called after an object has entered the
  // cache by other ways than a load. Takes no lock if nobody waits.
  void NotifyChange() {
    if (limit_ == 0) return;
    // An RMW, like the addition of a thread that is about to wait, so that one of them comes first:
    // if it is this one, then release pairs with the acquire there, and that thread finds the
    // object; else this thread finds that one counted.
    if (waiters_.fetch_add(0, std::memory_order_release) == 0) return;
    Lock lock(mutex_);
    NotifyChangeLocked();
  }

  // Makes all threads that wait for a permit look whether they have been cancelled.
  void WakeAll() {
    if (limit_ == 0) return;
    // Whoever has looked before is asleep by then, or else sees the request.
    { Lock lock(mutex_); }
    changed_.NotifyAll();
  }

  // Returns the load with a permit of this limiter that the calling thread runs, or kNoLoad.
  LoadId CurrentLoad() const { return limit_ == 0 ? kNoLoad : CurrentLoadOf(this); }
  // Returns the load for which the calling thread acts: that one, or the maker of the task that it
  // runs, whichever has begun later; or kNoLoad.
  LoadId CurrentMaker() const {
    if (limit_ == 0) return kNoLoad;
    const TaskScope* const task = InnermostTask();
    const LoadId load = CurrentLoad();
    return task != nullptr && (load == kNoLoad || load == task->load_) ? task->maker_ : load;
  }

  // Defers a task. Returns false, and does nothing, if the task may run by now.
  bool Defer(DeferrableTask & task) {
    Lock lock(mutex_);
    if (MayRun(task)) return false;
    DeferrableTask** link = &deferred_;
    while (*link != nullptr && (*link)->arrival_ < task.arrival_) link = &(*link)->next_;
    task.next_ = *link;
    *link = &task;
    task.deferred_ = true;
    return true;
  }
  // Lets a task exceed the limit, because a load that runs waits for it, and has the task posted.
  void LetExceed(DeferrableTask & task, PostLater & post) {
    if (limit_ == 0) return;
    Lock lock(mutex_);
    task.may_exceed_ = true;
    if (!task.deferred_) return;
    DeferrableTask** link = &deferred_;
    while (*link != &task) link = &(*link)->next_;
    Undefer(link, post);
  }
  // Has all deferred tasks posted.
  void PostAllDeferred(PostLater & post) {
    if (limit_ == 0) return;
    Lock lock(mutex_);
    while (deferred_ != nullptr) Undefer(&deferred_, post);
  }
  // Has the next deferred task posted, if there is a permit. A task that was posted for a permit
  // and takes none has to call this.
  void PostNext(PostLater & post) {
    if (limit_ == 0) return;
    Lock lock(mutex_);
    PostNextLocked(post);
  }

  // Makes the calling thread's loads, for its lifetime, count as made by the load `maker`. Does
  // nothing if that is kNoLoad. The limiter may have ended.
  class TaskScope {
   public:
    TaskScope(const BasicLoadLimiter& limiter, LoadId maker)
        : limiter_(limiter), maker_(maker), load_(kNoLoad), outer_(nullptr) {
      if (maker_ == kNoLoad) return;
      load_ = CurrentLoadOf(&limiter);
      outer_ = std::exchange(ThisThread().task, this);
    }
    TaskScope(const TaskScope&) = delete;
    TaskScope& operator=(const TaskScope&) = delete;
    ~TaskScope() {
      if (maker_ != kNoLoad) ThisThread().task = outer_;
    }

   private:
    friend class BasicLoadLimiter;
    const BasicLoadLimiter& limiter_;
    const LoadId maker_;
    LoadId load_;  // the thread's current one when this began
    const TaskScope* outer_;
  };

 private:
  using Permit = BasicLoadPermit<Policy>;
  friend Permit;
  using Mutex = BasicMutex<Policy>;
  using Lock = BasicMutexLock<Policy>;

  // The permits and tasks of one thread, of all limiters. Only that thread uses them.
  struct PerThread {
    Permit* innermost;      // of the permits that it holds
    const TaskScope* task;  // the innermost
  };
  static PerThread& ThisThread() { return Policy::template ThreadLocal<PerThread>(); }

  void NotifyChangeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++changes_;
    changed_.NotifyAll();
  }
  bool MayAcquire(const Permit& permit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (permit.task_ != nullptr) return MayRun(*permit.task_);
    return running_ < limit_ || permit.granted_ || MakerRuns();
  }
  bool MayRun(DeferrableTask & task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (task.arrival_ == 0) task.arrival_ = ++last_arrival_;
    // Relaxed: the additions are under the mutex.
    const bool gives_way = task.comes_last() && waiters_.load(std::memory_order_relaxed) != 0;
    const bool is_first = deferred_ == nullptr || task.arrival_ <= deferred_->arrival_;
    return (running_ < limit_ && is_first && !gives_way) || task.may_exceed_ || MakerRuns();
  }
  void PostNextLocked(PostLater & post) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (deferred_ != nullptr && running_ < limit_) {
      const bool wanted = deferred_->wanted();
      Undefer(&deferred_, post);
      if (wanted) return;
    }
  }
  static void Undefer(DeferrableTask * *link, PostLater & post) {
    DeferrableTask& task = **link;
    *link = task.next_;
    task.deferred_ = false;
    post.Add(task);
  }
  // Returns the load with a permit of the limiter, which may have ended, that the thread runs.
  static LoadId CurrentLoadOf(const BasicLoadLimiter* limiter) {
    const Permit* permit = ThisThread().innermost;
    while (permit != nullptr && &permit->limiter_ != limiter) permit = permit->outer_;
    return permit == nullptr ? kNoLoad : permit->id_;
  }
  // Returns the task of this limiter's that the calling thread runs, or null.
  const TaskScope* InnermostTask() const {
    const TaskScope* task = ThisThread().task;
    while (task != nullptr && &task->limiter_ != this) task = task->outer_;
    return task;
  }
  // Returns whether the load that has made the calling thread's task still runs.
  bool MakerRuns() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const TaskScope* const task = InnermostTask();
    if (task == nullptr) return false;
    const Permit* permit = permits_;
    while (permit != nullptr && permit->id_ != task->maker_) permit = permit->next_;
    return permit != nullptr;
  }

  const size_t limit_;
  // How many threads may be waiting. A thread adds 1 under the mutex, before it looks for the last
  // time whether it has to wait, and takes it off when it does not wait any more.
  typename Policy::template Atomic<uint64_t> waiters_{0};
  // Taken under a shard's lock or the wait graph's, or none; no other lock is taken under it.
  mutable Mutex mutex_;
  // How many permits are on the list that begins at `permits_`.
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  Permit* permits_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  // The number of permits that all limiters have given. Unique, since what a thread or a task does
  // for a load may outlast that load's limiter, and another one may come to the same address.
  // Relaxed: nothing is read by reason of it.
  inline static std::atomic<LoadId> last_id_{kNoLoad};
  // Deferred tasks, in order of arrival. If there are any, then a load runs, or a task has been
  // taken from here that will run or call PostNext.
  DeferrableTask* deferred_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint64_t last_arrival_ ABSL_GUARDED_BY(mutex_) = 0;
  BasicCondition<Policy> changed_;
};

// RAII permit for one load, on one thread. A thread waits not for a permit itself but for a change.
// After each change it looks again whether its object has come, whether another thread is loading
// it, and only then whether it gets a permit:
//
//   while (!ObjectIsThere() && !AnotherThreadLoadsIt() && !permit.TryAcquire()) {
//     permit.AwaitChange();
//   }
template <typename Policy>
class BasicLoadPermit {
  using Limiter = BasicLoadLimiter<Policy>;
  using Graph = BasicWaitGraph<Policy>;
  using Lock = BasicMutexLock<Policy>;

 public:
  // The tasks to be posted when the permit is returned go to `*post`, which may be null where tasks
  // are never deferred.
  explicit BasicLoadPermit(Limiter& limiter, PostLater* post = nullptr,
                           DeferrableTask* task = nullptr)
      : limiter_(limiter), post_(post), task_(task) {}
  BasicLoadPermit(const BasicLoadPermit&) = delete;
  BasicLoadPermit& operator=(const BasicLoadPermit&) = delete;
  ~BasicLoadPermit() {
    // Tasks may have given way to this one, in vain.
    if (is_waiting_ && post_ != nullptr) {
      StopWaiting();
      limiter_.PostNext(*post_);
    }
    StopWaiting();
    Release();
  }

  // Returns whether TryAcquire always succeeds.
  bool unlimited() const { return limiter_.limit_ == 0; }
  // Returns whether TryAcquire would succeed, if no other thread came first.
  bool available() {
    if (acquired_ || IsFree()) return true;
    Lock lock(limiter_.mutex_);
    return limiter_.MayAcquire(*this);
  }
  // Takes a permit, unless this has one. Returns false if there is none to be had.
  bool TryAcquire() {
    if (!acquired_) acquired_ = IsFree() || TryList();
    if (acquired_) StopWaiting();
    return acquired_;
  }
  // For a load that may outlast its thread. PrepareToDetach comes before TryAcquire, and keeps this
  // permit off the thread's list. LeaveThread comes after the loader has returned: from then on the
  // permit does not count as that thread's, and any thread may release it.
  void PrepareToDetach(DeferrableTask& task, PostLater& post) {
    may_detach_ = true;
    task_ = &task;
    post_ = &post;
  }
  void LeaveThread() {
    if (!is_listed_) return;
    bool has_waiters;
    {
      Lock lock(limiter_.mutex_);
      thread_ = &Graph::Get().AnyThread();
      has_waiters = limiter_.waiters_.load(std::memory_order_relaxed) != 0;  // as in Unlist
    }
    if (has_waiters) Graph::Get().AwaitSearch();
  }
  // Sets where the tasks go that are to be posted when this is released: see the constructor.
  void set_post(PostLater* post) { post_ = post; }
  typename Limiter::LoadId id() const { return id_; }

  void Release() {
    if (!std::exchange(acquired_, false)) return;
    if (is_listed_) {
      Unlist();
    } else {
      limiter_.NotifyChange();
    }
  }

  // Posts the tasks that could begin when this was released, without waiting for its end. User code
  // runs. Precondition: this has no permit.
  void PostTasks() {
    if (post_ != nullptr) post_->PostAll();
  }
  // Has to be called if user code has destroyed the limiter. Precondition: this has no permit.
  void ForgetLimiter() { is_waiting_ = false; }

  // Returns when a permit has been returned or granted, or NotifyChange() called, since the last
  // call of this; the first call returns at once, and from then on changes count. Also returns when
  // the wait has ended; whoever cancels the wait has to call WakeAll. Precondition: there is a
  // limit, and the caller holds no lock, flight or permit of the cache's.
  void AwaitChange() { AwaitChange(UnboundedWait()); }
  template <typename Wait>
  void AwaitChange(const Wait& wait) {
    if (!is_waiting_) {
      Lock lock(limiter_.mutex_);
      seen_ = limiter_.changes_;
      is_waiting_ = true;
      // Acquire pairs with the release in NotifyChange.
      limiter_.waiters_.fetch_add(1, std::memory_order_acquire);
      return;
    }
    uint64_t changes;
    {
      const PermitWait in_graph(*this);
      Lock lock(limiter_.mutex_);
      WaitFor(
          limiter_.changed_, limiter_.mutex_,
          [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return limiter_.changes_ != seen_ || granted_ || wait.cancelled();
          },
          wait);
      changes = limiter_.changes_;
    }
    // Not before the wait has left the graph, where this says whether it is over.
    seen_ = changes;
  }

 private:
  friend Limiter;

  // Puts the wait into the wait graph for its own lifetime, also if the thread is cancelled while
  // it waits.
  class PermitWait final : public Graph::Resource {
   public:
    explicit PermitWait(BasicLoadPermit& permit) : permit_(permit) {
      // Never refused, as it can be granted.
      static_cast<void>(Graph::Get().Begin(wait_, *this, nullptr));
    }
    ~PermitWait() { Graph::Get().End(wait_); }

   private:
    bool VisitHolders(typename Graph::Visitor& visitor) const override {
      const Limiter& limiter = permit_.limiter_;
      Lock lock(limiter.mutex_);
      if (limiter.changes_ != permit_.seen_) return false;
      for (const BasicLoadPermit* permit = limiter.permits_; permit != nullptr;
           permit = permit->next_) {
        visitor.Visit(*permit->thread_);
      }
      return true;
    }
    bool Grant() override {
      Lock lock(permit_.limiter_.mutex_);
      permit_.granted_ = true;
      permit_.limiter_.changed_.NotifyAll();
      return true;
    }
    const char* Name() const override { return "(a permit to load)"; }

    BasicLoadPermit& permit_;
    typename Graph::Wait wait_;
  };

  // Returns whether the load needs no permit of its own.
  bool IsFree() const {
    return unlimited() || (!may_detach_ && limiter_.CurrentLoad() != Limiter::kNoLoad);
  }

  bool TryList() {
    {
      Lock lock(limiter_.mutex_);
      if (!limiter_.MayAcquire(*this)) return false;
      granted_ = false;
      ++limiter_.running_;
      id_ = Limiter::last_id_.fetch_add(1, std::memory_order_relaxed) + 1;
      thread_ = &Graph::ThisThread();
      previous_ = nullptr;
      next_ = limiter_.permits_;
      if (next_ != nullptr) next_->previous_ = this;
      limiter_.permits_ = this;
    }
    if (!may_detach_) outer_ = std::exchange(Limiter::ThisThread().innermost, this);
    is_listed_ = true;
    return true;
  }
  void Unlist() {
    is_listed_ = false;
    if (!may_detach_) {
      BasicLoadPermit** link = &Limiter::ThisThread().innermost;
      while (*link != this) link = &(*link)->outer_;
      *link = outer_;
    }
    bool has_waiters;
    {
      Lock lock(limiter_.mutex_);
      --limiter_.running_;
      (previous_ == nullptr ? limiter_.permits_ : previous_->next_) = next_;
      if (next_ != nullptr) next_->previous_ = previous_;
      limiter_.NotifyChangeLocked();
      if (post_ != nullptr) limiter_.PostNextLocked(*post_);
      // Relaxed: a thread that a search finds waiting was counted under the mutex.
      has_waiters = limiter_.waiters_.load(std::memory_order_relaxed) != 0;
    }
    // A search may have reached this thread through the list. This thread may end afterwards.
    if (has_waiters) Graph::Get().AwaitSearch();
  }
  void StopWaiting() {
    // Relaxed: an RMW, which leaves the order of the others as it is.
    if (std::exchange(is_waiting_, false)) {
      limiter_.waiters_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  Limiter& limiter_;
  PostLater* post_;
  DeferrableTask* task_;  // whose load this is for, or null: a thread's
  bool acquired_ = false;
  bool is_listed_ = false;  // acquired, and counted in the limiter
  bool may_detach_ = false;
  bool is_waiting_ = false;  // counted in the limiter's `waiters_`
  // Guarded by the limiter's mutex: whether a permit beyond the limit is this one's.
  bool granted_ = false;
  // The limiter's `changes_` before the last look; constant while the wait is in the graph.
  uint64_t seen_ = 0;
  // While it is listed. The limiter's list, guarded by its mutex:
  BasicLoadPermit* previous_ = nullptr;
  BasicLoadPermit* next_ = nullptr;
  typename Limiter::LoadId id_ = Limiter::kNoLoad;
  typename Graph::Thread* thread_ = nullptr;  // who is to return it
  // The thread's list, which is that thread's only:
  BasicLoadPermit* outer_ = nullptr;
};

using LoadLimiter = BasicLoadLimiter<StdAtomics>;
using LoadPermit = BasicLoadPermit<StdAtomics>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_LIMITER_H_
