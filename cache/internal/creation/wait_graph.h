// SPDX-License-Identifier: Apache-2.0
// Knows which thread waits for which other one, so that a circle of waits is refused, instead of
// hanging.
//
// A thread that creates an object may ask for another one, which another thread is creating; that
// one may ask for the first. Each is right by itself, and together they would wait for ever, in
// one container or across several. So there is one graph for the process. Before a thread waits it
// follows who waits for whom, and does not wait if that comes back to itself:
//
//   thread 1 creates a, asks for b      1 waits for 2
//   thread 2 creates b, asks for a      2 would wait for 1, which waits for 2: refused
//
// A thread waits for one thing at a time: for another thread's creation, or for any one of several
// threads to return a permit to load. It is stuck if every thread that could end its wait is stuck,
// so the wait is allowed if a thread that does not wait can be reached. If none can, but a thread
// among them waits for a permit, that thread gets one beyond the limit instead (load_limiter.h):
// nobody runs who holds one, so nothing that the limit is for is exceeded.
//
// Looking and waiting are one step, under the graph's lock: of two threads that close a circle at
// the same time the later one sees it. A creation's end takes those that waited for it out of the
// graph before they wake up, so nobody is taken for waiting who is not.
//
// The lock is taken only by threads that are about to wait, and by those that others wait for. It
// is taken under a shard's lock; a load limiter's is taken under it. A forked child finds it free.
#ifndef WEAKCACHE_CACHE_INTERNAL_CREATION_WAIT_GRAPH_H_
#define WEAKCACHE_CACHE_INTERNAL_CREATION_WAIT_GRAPH_H_

#include <pthread.h>

#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Visible outside a shared object that is compiled with hidden symbols: else each one would have a
// graph of its own, and a circle through two of them would not be seen.
template <typename Policy>
class [[gnu::visibility("default")]] BasicWaitGraph {
 public:
  class Wait;

  // A thread, as long as it lives. Its fields are guarded by the graph's lock.
  struct Thread {
    Wait* wait;            // what the thread waits for, or null
    bool is_reached;       // by the search under way
    Thread* next_reached;  // by the search under way
  };
  static Thread& ThisThread() { return Policy::template ThreadLocal<Thread>(); }

  // Visits the threads any one of which can end a wait.
  class Visitor {
   public:
    virtual void Visit(Thread& thread) = 0;

   protected:
    ~Visitor() = default;
  };

  // Something, other than a creation, that a thread waits for, and that any one of several threads
  // can give, such as a permit.
  class Resource {
   public:
    // Visits those threads; or returns false if the wait is over already. Called under the graph's
    // lock; may take one lock under it. The threads must not end before the search has.
    virtual bool VisitHolders(Visitor& visitor) const = 0;
    // Ends the wait without any of them, if possible. Called as VisitHolders.
    virtual bool Grant() { return false; }
    // Returns what messages call it.
    virtual const char* Name() const = 0;

   protected:
    ~Resource() = default;
  };

  // One wait of a thread; lives on its stack.
  class Wait {
   public:
    Wait() = default;
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;

   private:
    friend class BasicWaitGraph;
    Thread* waiting_ = nullptr;  // null unless in the graph
    // What is awaited: a creation of `target_`, or else `resource_`.
    Thread* target_ = nullptr;
    Resource* resource_ = nullptr;
    const void* key_ = nullptr;  // of the creation
    void (*append_key_)(const void* key, std::string& message) = nullptr;
  };

  // Returns the process's graph.
  static BasicWaitGraph& Get();

  // Begins to wait for a creation of the thread `target` under the key `*key`, which can't end
  // before the caller waits. If that closes a circle, appends it to `*circle` and returns false.
  template <typename Key>
  [[nodiscard]] bool Begin(Wait & wait, Thread & target, const Key* key, std::string* circle) {
    wait.target_ = &target;
    wait.key_ = key;
    wait.append_key_ = [](const void* any_key, std::string& message) {
      AppendKey(*static_cast<const Key*>(any_key), message);
    };
    return Begin(wait, circle);
  }
  // Does the same for a resource. Also returns true if the resource has been granted: then the wait
  // is over.
  [[nodiscard]] bool Begin(Wait & wait, Resource & resource, std::string * circle) {
    wait.resource_ = &resource;
    return Begin(wait, circle);
  }
  // Ends a wait; afterwards the waiting thread counts as running. Called by the thread that ends
  // the wait.
  void End(Wait & wait) {
    Lock lock(mutex_);
    EndLocked(wait);
  }
  // Makes `to` the thread of a creation, instead of `thread`, also in the waits for it, from
  // `first` on.
  template <typename Waiter>
  void Redirect(Waiter * first, Thread * &thread, Thread & to) {
    Lock lock(mutex_);
    thread = &to;
    for (Waiter* waiter = first; waiter != nullptr; waiter = waiter->next) {
      if (waiter->wait.target_ != nullptr) waiter->wait.target_ = &to;
    }
  }
  // Returns a thread that never waits, which stands for the one that will end a wait if nobody
  // knows which that is.
  Thread& AnyThread() { return any_thread_; }
  // Returns when every search is over that was under way.
  void AwaitSearch() { Lock lock(mutex_); }
  // Ends all waits from `first` on, which have `wait` and `next`.
  template <typename Waiter>
  void EndAll(Waiter * first) {
    Lock lock(mutex_);
    for (Waiter* waiter = first; waiter != nullptr; waiter = waiter->next) EndLocked(waiter->wait);
  }

 private:
  using Mutex = BasicMutex<Policy>;
  using Lock = BasicMutexLock<Policy>;

  // Looks at each thread that can be reached once, in the order in which they are reached.
  class Search final : public Visitor {
   public:
    Search() = default;
    Search(const Search&) = delete;
    Search& operator=(const Search&) = delete;
    ~Search() {
      while (first_ != nullptr) {
        Thread* const thread = first_;
        first_ = thread->next_reached;
        *thread = {thread->wait, false, nullptr};
      }
    }

    // Returns whether all threads that can be reached from `from` wait.
    bool AllWait(Thread& from) {
      Visit(from);
      for (Thread* thread = first_; thread != nullptr; thread = thread->next_reached) {
        const Wait* const wait = thread->wait;
        if (wait == nullptr) return false;
        if (wait->target_ != nullptr) {
          Visit(*wait->target_);
        } else if (!wait->resource_->VisitHolders(*this)) {
          return false;
        }
      }
      return true;
    }
    // Ends the wait of one of the threads that AllWait has reached, if that is possible. Each of
    // the others can reach that one, or it would have been stuck before.
    bool GrantOne() {
      for (Thread* thread = first_; thread != nullptr; thread = thread->next_reached) {
        Wait& wait = *thread->wait;
        if (wait.resource_ == nullptr || !wait.resource_->Grant()) continue;
        EndLocked(wait);
        return true;
      }
      return false;
    }

    void Visit(Thread& thread) override {
      if (thread.is_reached) return;
      thread.is_reached = true;
      (last_ == nullptr ? first_ : last_->next_reached) = &thread;
      last_ = &thread;
    }

   private:
    Thread* first_ = nullptr;
    Thread* last_ = nullptr;
  };

  // The first thread that can give a resource.
  struct FirstHolder final : Visitor {
    void Visit(Thread& thread) override {
      if (first == nullptr) first = &thread;
    }
    Thread* first = nullptr;
  };

  bool Begin(Wait & wait, std::string * circle) {
    Thread& thread = ThisThread();
    Lock lock(mutex_);
    wait.waiting_ = &thread;
    thread.wait = &wait;
    Search search;
    if (!search.AllWait(thread) || search.GrantOne()) return true;
    EndAfter end{wait};
    if (circle != nullptr) Describe(wait, thread, *circle);
    return false;
  }
  struct EndAfter {
    ~EndAfter() { EndLocked(wait); }
    Wait& wait;
  };
  static void EndLocked(Wait & wait) {
    if (wait.waiting_ != nullptr) wait.waiting_->wait = nullptr;
    wait.waiting_ = nullptr;
  }

  // Follows one way around the circle of threads that have all been reached.
  static void Describe(const Wait& wait, Thread& thread, std::string& circle) {
    thread.is_reached = false;
    for (const Wait* at = &wait;;) {
      if (!circle.empty()) circle += " -> ";
      Thread* next = at->target_;
      if (next != nullptr) {
        at->append_key_(at->key_, circle);
      } else {
        circle += at->resource_->Name();
        FirstHolder holders;
        static_cast<void>(at->resource_->VisitHolders(holders));
        next = holders.first;
      }
      if (next == nullptr || !std::exchange(next->is_reached, false)) return;
      at = next->wait;
    }
  }
  // Appends a key of a type that is printed without running its user's code.
  template <typename Key>
  static void AppendKey(const Key& key, std::string& message) {
    if constexpr (std::is_same_v<Key, std::string> || std::is_same_v<Key, std::string_view>) {
      message += '"';
      message += std::string_view(key);
      message += '"';
    } else if constexpr (std::is_integral_v<Key> && !std::is_same_v<Key, wchar_t>) {
      message += std::to_string(key);
    } else {
      message += "(a key)";
    }
  }

  // Makes the lock anew in the child, whose only thread is this one. Another thread may have had
  // the lock, and may have been searching. (The parent does not take it for the fork: the
  // application's handlers, which come later, may wait for threads that want it.)
  static void AfterForkInChild() {
    ::new (static_cast<void*>(&Get().mutex_)) Mutex;
    ThisThread().is_reached = false;
    Get().any_thread_ = {};
  }

  Mutex mutex_;
  Thread any_thread_{};  // guarded as any other thread is
};

template <typename Policy>
BasicWaitGraph<Policy>& BasicWaitGraph<Policy>::Get() {
  // Never destroyed, since threads may still wait while the process ends.
  alignas(BasicWaitGraph) static unsigned char memory[sizeof(BasicWaitGraph)];
  static auto* const graph = [] {
    auto* const made = ::new (static_cast<void*>(memory)) BasicWaitGraph;
    // If that fails for want of memory, a child is as if there were no handlers.
    static_cast<void>(pthread_atfork(nullptr, nullptr, AfterForkInChild));
    return made;
  }();
  return *graph;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CREATION_WAIT_GRAPH_H_
