// SPDX-License-Identifier: Apache-2.0
// The receivers of asynchronous loads: they hand a result to a callback, or to a future.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_RECEIVERS_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_RECEIVERS_H_

#include <exception>
#include <functional>
#include <future>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

inline absl::Status StatusOfError([[maybe_unused]] const std::exception_ptr& error) noexcept {
#ifdef __cpp_exceptions
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& thrown) {
    return CatchErrors(
        [&] { return absl::UnknownError(absl::StrCat("the load threw: ", thrown.what())); },
        [] { return absl::Status(absl::StatusCode::kUnknown, {}); });
  } catch (...) {
  }
#endif
  return NoThrowStatus(absl::StatusCode::kUnknown, "the load threw");
}
// Returns the result of an ask whose load has neither an object nor an error.
inline absl::Status ThreadHasEnded() {
  return NoThrowStatus(absl::StatusCode::kAborted, "the loading thread has ended");
}
inline absl::Status TaskWasDropped() {
  return NoThrowStatus(absl::StatusCode::kAborted, "the executor has dropped the task");
}

// Calls a function that takes an absl::StatusOr<Ref<V>>.
template <typename V, typename Callback>
class CallbackReceiver {
 public:
  explicit CallbackReceiver(Callback callback) : callback_(std::move(callback)) {}

  // Calls the callback. No exception may leave it, since it runs where others' calls end.
  void operator()(LoadOutcome<V> outcome) noexcept {
    if (outcome.error != nullptr) {
      Call(StatusOfError(outcome.error));
    } else if (outcome.object.get() != nullptr) {
      Call(std::move(outcome.object));
    } else if (!outcome.status.ok()) {
      Call(std::move(outcome.status));
    } else {
      Call(ThreadHasEnded());
    }
  }
  void Drop() noexcept { Call(TaskWasDropped()); }

 private:
  void Call(absl::StatusOr<Ref<V>> result) {
    // Its captures may hold the last reference to something that the call has just ended.
    Callback callback = std::move(callback_);
    std::invoke(std::move(callback), std::move(result));
  }

  Callback callback_;
};

template <typename V>
class FutureReceiver {
 public:
  explicit FutureReceiver(std::promise<absl::StatusOr<Ref<V>>> promise)
      : promise_(std::move(promise)) {}

  void operator()(LoadOutcome<V> outcome) {
    if (outcome.error != nullptr) {
      promise_.set_exception(outcome.error);
    } else if (outcome.object.get() != nullptr) {
      promise_.set_value(std::move(outcome.object));
    } else if (!outcome.status.ok()) {
      promise_.set_value(std::move(outcome.status));
    } else {
      promise_.set_value(ThreadHasEnded());
    }
  }
  void Drop() { const std::promise<absl::StatusOr<Ref<V>>> dropped = std::move(promise_); }

 private:
  std::promise<absl::StatusOr<Ref<V>>> promise_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_LOAD_RECEIVERS_H_
