// SPDX-License-Identifier: Apache-2.0
// The atomics policy of the model tests: the shipped headers, instantiated with RelacyAtomics, run
// under the Relacy race detector, which tries the interleavings of a few threads and, for each
// load, the older values that its memory order allows.
//
// It checks more than what a model asserts. Every access to a Plain field must be ordered with each
// conflicting one. Every access to an Atomic or a Plain must happen before its destruction, so a
// thread that looks at an object once too often is found, even if the memory is still there.
//
// What Relacy leaves out: loads of a value older than the last but one (the random scheduler: last
// but two), and that since C++20 a thread's later relaxed stores do not belong to its release.
#ifndef WEAKCACHE_TESTS_MODEL_RELACY_POLICY_H_
#define WEAKCACHE_TESTS_MODEL_RELACY_POLICY_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <type_traits>

// The headers under test come first: Relacy redefines words of the language and of <pthread.h>.
#include "weakcache/cache/internal/creation/wait_graph.h"
#include "weakcache/cache/internal/loading/completion_handoff.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
#include "weakcache/cache/internal/loading/pending_completions.h"
#include "weakcache/cache/internal/retention/byte_limit.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/internal/slot/new_object.h"
#include "weakcache/cache/internal/slot/retire_list.h"
#include "weakcache/cache/internal/slot/teardown_count.h"
#include "weakcache/cache/internal/table/expiry_claim.h"
#include "weakcache/cache/internal/table/table_core.h"
#include "weakcache/cache/internal/table/table_slot.h"
#include "weakcache/cache/internal/table/weak_table.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/expiry_callback.h"
#include "weakcache/weakref/internal/finalizer_state.h"
#include "weakcache/weakref/internal/reference_counts.h"
#include "weakcache/weakref/internal/watcher_list.h"

// clang-format off
#include <relacy/relacy.hpp>
// clang-format on

#undef $
#undef VAR
#undef assert
#undef calloc
#undef delete
#undef errno
#undef free
#undef malloc
#undef memory_order_acq_rel
#undef memory_order_acquire
#undef memory_order_consume
#undef memory_order_relaxed
#undef memory_order_release
#undef memory_order_seq_cst
#undef new
#undef realloc

namespace weakcache::model {

// The place of a call, for the history that Relacy prints of a failure.
inline rl::debug_info Here(const char* function = __builtin_FUNCTION(),
                           const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return rl::debug_info(function, file, static_cast<unsigned>(line));
}

constexpr rl::memory_order ToRelacy(std::memory_order order) {
  switch (order) {
    case std::memory_order_relaxed:
      return rl::mo_relaxed;
    case std::memory_order_consume:
      return rl::mo_consume;
    case std::memory_order_acquire:
      return rl::mo_acquire;
    case std::memory_order_release:
      return rl::mo_release;
    case std::memory_order_acq_rel:
      return rl::mo_acq_rel;
    case std::memory_order_seq_cst:
      break;
  }
  return rl::mo_seq_cst;
}

// Shows whether an object lives, also when it does not: the models keep the memory of what they
// destroy. Volatile, or the compiler would leave out a write that ends with the object's life.
class LifeMark {
 public:
  ~LifeMark() { alive_ = false; }
  void Check(rl::debug_info where) const {
    if (alive_) return;
    rl::ctx().fail_test("access after the end of life", rl::test_result_access_to_freed_memory,
                        where);
  }

 private:
  volatile bool alive_ = true;
};

// A field that is not atomic. Destruction counts as a write.
template <typename T>
class RelacyPlain {
 public:
  RelacyPlain(T value) : value_(value) {}  // NOLINT(google-explicit-constructor): as a plain T
  RelacyPlain(const RelacyPlain& other) : value_(static_cast<T>(other)) {}
  ~RelacyPlain() { *this = T(); }
  RelacyPlain& operator=(const RelacyPlain& other) { return *this = static_cast<T>(other); }
  RelacyPlain& operator=(T value) {
    life_.Check(Here());
    value_(Here()).store(value);
    return *this;
  }
  operator T() const {  // NOLINT(google-explicit-constructor): as a plain T
    life_.Check(Here());
    return value_(Here()).load();
  }

 private:
  LifeMark life_;
  rl::var<T> value_;
};

// As std::atomic, as far as the library uses it.
template <typename T>
class RelacyAtomic {
 public:
  RelacyAtomic() : RelacyAtomic(T()) {}
  RelacyAtomic(T value)  // NOLINT(google-explicit-constructor): as std::atomic
      : value_(ToValue(value)) {}
  RelacyAtomic(const RelacyAtomic&) = delete;
  RelacyAtomic& operator=(const RelacyAtomic&) = delete;
  ~RelacyAtomic() {
    life_.Check(Here());
    used_(Here()).store(1);
  }

  T load(std::memory_order order, rl::debug_info where = Here()) const {
    Use(where);
    return static_cast<T>(value_.load(ToRelacy(order), where));
  }
  void store(T value, std::memory_order order, rl::debug_info where = Here()) {
    Use(where);
    value_.store(ToValue(value), ToRelacy(order), where);
  }
  T exchange(T value, std::memory_order order, rl::debug_info where = Here()) {
    Use(where);
    return static_cast<T>(value_.exchange(ToValue(value), ToRelacy(order), where));
  }
  T fetch_add(T value, std::memory_order order, rl::debug_info where = Here()) {
    Use(where);
    return value_.fetch_add(value, ToRelacy(order), where);
  }
  T fetch_sub(T value, std::memory_order order, rl::debug_info where = Here()) {
    Use(where);
    return value_.fetch_sub(value, ToRelacy(order), where);
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order success,
                             std::memory_order failure, rl::debug_info where = Here()) {
    return CompareExchange<true>(expected, desired, success, failure, where);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order success,
                               std::memory_order failure, rl::debug_info where = Here()) {
    return CompareExchange<false>(expected, desired, success, failure, where);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order order,
                               rl::debug_info where = Here()) {
    return CompareExchange<false>(expected, desired, order, FailureOrder(order), where);
  }

  void wait(T old, std::memory_order order, rl::debug_info where = Here()) {
    while (load(order, where) == old) {
      // As the kernel does it: it compares once more and puts the thread to sleep in one step. A
      // wake-up that is missing shows as a deadlock.
      if (value_.debug_value() == ToValue(old)) {
        value_.wait(rl::ctx(), /*is_timed=*/false, /*allow_spurious_wakeup=*/false, where);
      } else {
        rl::yield(1, where);  // do not read the old value for ever
      }
    }
  }
  void notify_all(rl::debug_info where = Here()) {
    Use(where);
    rl::ctx().sched();
    life_.Check(where);
    value_.wake(rl::ctx(), rl::ctx().get_thread_count(), where);
  }

 private:
  template <typename Pointer>
  struct Mutable {
    using type = std::remove_const_t<std::remove_pointer_t<Pointer>>*;
  };
  // What Relacy can count with and print.
  using Value = typename std::conditional_t<
      std::is_enum_v<T>, std::underlying_type<T>,
      std::conditional_t<std::is_pointer_v<T>, Mutable<T>, std::type_identity<T>>>::type;

  static Value ToValue(T value) {
    if constexpr (std::is_pointer_v<T>) {
      return const_cast<Value>(value);
    } else {
      return static_cast<Value>(value);
    }
  }

  static constexpr std::memory_order FailureOrder(std::memory_order order) {
    if (order == std::memory_order_release) return std::memory_order_relaxed;
    return order == std::memory_order_acq_rel ? std::memory_order_acquire : order;
  }

  // A use reads what the destruction writes: a race, unless the use happens before.
  void Use(rl::debug_info where) const {
    life_.Check(where);
    static_cast<void>(used_(where).load());
  }

  template <bool kSpuriousFailures>
  bool CompareExchange(T& expected, T desired, std::memory_order success, std::memory_order failure,
                       rl::debug_info where) {
    Use(where);
    // Relacy knows no failure order above the success order; a fence makes up for it.
    const bool fence = success == std::memory_order_relaxed && failure != success;
    auto value = ToValue(expected);
    const bool exchanged =
        value_.compare_exchange(rl::bool_t<kSpuriousFailures>(), value, ToValue(desired),
                                ToRelacy(success), ToRelacy(fence ? success : failure), where);
    if (fence && !exchanged) rl::atomic_thread_fence(ToRelacy(failure), where);
    expected = static_cast<T>(value);
    return exchanged;
  }

  LifeMark life_;
  rl::var<int> used_{0};
  rl::atomic<Value> value_;
};

// Its memory is not Relacy's, which tries each time whether it is used again.
template <typename T>
struct AlignedAllocator {
  using value_type = T;

  AlignedAllocator() = default;
  template <typename U>
  AlignedAllocator(const AlignedAllocator<U>&) {}  // NOLINT(google-explicit-constructor): as in std
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kAlignment));
  }
  void deallocate(T* memory, size_t) { ::operator delete(memory, kAlignment); }
  friend bool operator==(const AlignedAllocator&, const AlignedAllocator&) { return true; }

  static constexpr std::align_val_t kAlignment{64};
};

// A schedule of a model is one life of everything: what a thread keeps for itself begins anew.
inline uint64_t current_schedule = 0;

struct RelacyAtomics {
  template <typename T>
  using Atomic = RelacyAtomic<T>;
  template <typename T>
  using Plain = RelacyPlain<T>;
  template <typename T>
  using Allocator = AlignedAllocator<T>;
  using CountWord = uint64_t;
  using ThreadId = unsigned;  // 0: no thread

  // As deep as a model can afford.
  static constexpr int kMaxNestedDestructions = 1;

  static ThreadId CurrentThread() { return rl::thread_index() + 1; }

  template <typename T>
  static T& ThreadLocal() {
    struct Instance {
      uint64_t schedule;
      T value;
    };
    static std::array<Instance, 8> instances{};
    Instance& instance = instances.at(rl::thread_index());
    if (instance.schedule != current_schedule) instance = {current_schedule, T{}};
    return instance.value;
  }

  static void Pause(int /*attempt*/) { rl::yield(1, Here()); }
};

// As std::mutex and std::condition_variable: Relacy knows who is blocked, and calls it a deadlock
// if nobody is left to wake them.
class RelacyMutex {
 public:
  void lock(rl::debug_info where = Here()) { mutex_.lock(where); }
  void unlock(rl::debug_info where = Here()) { mutex_.unlock(where); }

 private:
  rl::mutex mutex_;
};
class RelacyConditionVariable {
 public:
  template <typename Lock>
  void wait(Lock& lock, rl::debug_info where = Here()) {
    condition_.wait(*lock.mutex(), where);
  }
  // Tries all times at which the deadline may come.
  template <typename Lock, typename TimePoint>
  std::cv_status wait_until(Lock& lock, const TimePoint& deadline, rl::debug_info where = Here()) {
    return condition_.wait_for(*lock.mutex(), deadline, where) ? std::cv_status::no_timeout
                                                               : std::cv_status::timeout;
  }
  void notify_all(rl::debug_info where = Here()) { condition_.notify_all(where); }

 private:
  rl::condition_variable condition_;
};

}  // namespace weakcache::model

template <>
struct weakcache::internal::MutexesOf<weakcache::model::RelacyAtomics> {
  using Mutex = weakcache::model::RelacyMutex;
  using ConditionVariable = weakcache::model::RelacyConditionVariable;
  static void Lock(Mutex& mutex) { mutex.lock(); }
};

namespace weakcache::model {

// A model has the graph from its before() to its after().
inline std::optional<internal::BasicWaitGraph<RelacyAtomics>> wait_graph;

}  // namespace weakcache::model

template <>
inline weakcache::internal::BasicWaitGraph<weakcache::model::RelacyAtomics>&
weakcache::internal::BasicWaitGraph<weakcache::model::RelacyAtomics>::Get() {
  return *weakcache::model::wait_graph;
}

#endif  // WEAKCACHE_TESTS_MODEL_RELACY_POLICY_H_
