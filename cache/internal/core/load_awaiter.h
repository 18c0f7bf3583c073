// SPDX-License-Identifier: Apache-2.0
// What a coroutine awaits to get an object of a LargeObjectCache. Nothing, for compilers that have
// no coroutines of C++20, such as clang 14.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_AWAITER_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_AWAITER_H_

#include <version>

#ifdef __cpp_impl_coroutine

#include <atomic>
#include <coroutine>
#include <exception>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/core/load_receivers.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// Lives in the coroutine's frame, which stays until the coroutine is resumed. Asks when it is
// awaited. If the result is there before the coroutine has been suspended, it goes on at once.
template <typename Asks, typename K, typename V, typename Loader, typename Executor>
class LoadAwaiter {
 public:
  template <typename Key, typename GivenLoader, typename AnyExecutor>
  LoadAwaiter(Asks& asks, Key&& key, GivenLoader&& loader, AnyExecutor&& executor,
              LoadOptions options)
      : asks_(asks),
        key_(std::forward<Key>(key)),
        loader_(std::forward<GivenLoader>(loader)),
        executor_(std::forward<AnyExecutor>(executor)),
        options_(std::move(options)) {}
  LoadAwaiter(const LoadAwaiter&) = delete;
  LoadAwaiter& operator=(const LoadAwaiter&) = delete;

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> coroutine) {
    coroutine_ = coroutine;
    asks_.LoadAsync(std::move(key_), std::move(loader_), std::move(executor_), Receiver{this},
                    options_);
    // Acquire and release, as in Receive: one of the two threads comes last, and sees what the
    // other has written. Once this has come first the coroutine may be resumed, and its frame be
    // gone.
    return state_.exchange(State::kSuspended, std::memory_order_acq_rel) != State::kReceived;
  }
  absl::StatusOr<Ref<V>> await_resume() {
    if (outcome_.error != nullptr) std::rethrow_exception(outcome_.error);
    if (outcome_.object.get() != nullptr) return std::move(outcome_.object);
    if (!outcome_.status.ok()) return std::move(outcome_.status);
    return absl::AbortedError("the loading thread has ended");
  }

 private:
  struct Receiver {
    void operator()(LoadOutcome<V> outcome) const noexcept { awaiter->Receive(std::move(outcome)); }
    void Drop() const noexcept {
      LoadOutcome<V> outcome;
      outcome.status = TaskWasDropped();
      awaiter->Receive(std::move(outcome));
    }
    LoadAwaiter* awaiter;
  };
  enum class State { kAsking, kSuspended, kReceived };

  void Receive(LoadOutcome<V> outcome) {
    outcome_ = std::move(outcome);
    const std::coroutine_handle<> coroutine = coroutine_;
    // See await_suspend.
    if (state_.exchange(State::kReceived, std::memory_order_acq_rel) == State::kSuspended) {
      coroutine.resume();
    }
  }

  Asks& asks_;
  K key_;
  Loader loader_;
  Executor executor_;
  const LoadOptions options_;
  std::coroutine_handle<> coroutine_;
  LoadOutcome<V> outcome_;
  // kSuspended by the thread that asks, kReceived by the one that has the result; by the later of
  // the two the coroutine goes on.
  std::atomic<State> state_{State::kAsking};
};

}  // namespace weakcache::internal

#endif  // __cpp_impl_coroutine

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_AWAITER_H_
