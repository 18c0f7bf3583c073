// SPDX-License-Identifier: Apache-2.0
// Calls a loader that takes a stop token like one that takes none.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_STOPPABLE_LOADER_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_STOPPABLE_LOADER_H_

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/time/time.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/load_options.h"

namespace weakcache::internal {

template <typename Loader, typename K>
inline constexpr bool kTakesKeyAndStopToken = std::is_invocable_v<Loader, const K&, StopToken>;
template <typename Loader, typename K>
inline constexpr bool kTakesStopToken = kTakesKeyAndStopToken<Loader, K> ||
                                        (!std::is_invocable_v<Loader, const K&> &&
                                         !std::is_invocable_v<Loader> &&
                                         std::is_invocable_v<Loader, StopToken>);

// How a load is asked for.
struct LoadRequest {
  const LoadOptions& options;
  // Of a loader that takes a token, or null: the load puts its own source there.
  StopSource* source = nullptr;
  // How long the caller waits for what others do, because it can have an expired object instead.
  std::chrono::nanoseconds patience = kEndlessPatience;
};

// Returns the patience of a caller that can have an expired object instead of a new one.
inline std::chrono::nanoseconds PatienceOf(const LoadOptions& options) {
  if (options.soft_timeout == absl::InfiniteDuration()) return kEndlessPatience;
  return absl::ToChronoNanoseconds(std::max(options.soft_timeout, absl::ZeroDuration()));
}

// The call of a loader, or of a bulk loader, that those who wait for its load may stop, if the
// loader takes a token. Declare it before flights and permits, and after `wait`.
class StoppableCall {
 public:
  StoppableCall(const BoundedWait& wait, const LoadRequest& request) : wait_(wait) {
    if (request.source == nullptr) return;
    interest_.emplace(wait.deadline());
    *request.source = interest_->source();
  }
  StoppableCall(const StoppableCall&) = delete;
  StoppableCall& operator=(const StoppableCall&) = delete;

  // Returns the interest for the flights; null if the loader takes no token.
  Interest* interest() { return interest_.has_value() ? &*interest_ : nullptr; }
  // Lets the caller leave by its stop token from now on.
  void Watch() { cancellation_.Watch(interest(), wait_.stop_token()); }
  // Takes the caller off those that wait, because a task has none: only continuations wait, which
  // have joined by now.
  void RemoveCaller() {
    if (!interest_.has_value() || !interest_->CallerLeaves()) return;
    StopSource source = interest_->source();
    source.request_stop();
  }
  // Marks, in its destructor, the LoadOutcome of a call that has failed.
  template <typename Outcome>
  struct MarkIfAbandoned {
    ~MarkIfAbandoned() {
      if (outcome.object.get() == nullptr) outcome.abandoned = call.abandoned();
    }
    const StoppableCall& call;
    Outcome& outcome;
  };
  // Returns whether a failure does not concern the other callers, because this caller has left, or
  // the loader was told to stop.
  bool abandoned() const {
    return wait_.ended() || (interest_.has_value() && interest_->stopped());
  }

 private:
  const BoundedWait& wait_;
  std::optional<Interest> interest_;
  CallerCancellation cancellation_;
};

// Refers to a loader of the type Loader, a forwarding reference's. K is what it takes.
template <typename K, typename Loader>
class StoppableLoader {
 public:
  StoppableLoader(std::remove_reference_t<Loader>& loader, const LoadOptions& options)
      : loader_(loader), options_(options) {}
  StoppableLoader(const StoppableLoader&) = delete;
  StoppableLoader& operator=(const StoppableLoader&) = delete;

  LoadRequest Request() { return {options_, &source_}; }
  decltype(auto) operator()(const K& key) {
    if constexpr (kTakesKeyAndStopToken<Loader, K>) {
      return std::invoke(std::forward<Loader>(loader_), key, source_.get_token());
    } else {
      return std::invoke(std::forward<Loader>(loader_), source_.get_token());
    }
  }
  // Returns the loader, for a call that nobody stops, and that may come after this object's end.
  auto ForTask() {
    return [loader = std::decay_t<Loader>(std::forward<Loader>(loader_))](
               const K& key) mutable -> decltype(auto) {
      const StopSource never{kNoStopState};
      if constexpr (kTakesKeyAndStopToken<Loader, K>) {
        return std::invoke(std::move(loader), key, never.get_token());
      } else {
        return std::invoke(std::move(loader), never.get_token());
      }
    };
  }

 private:
  std::remove_reference_t<Loader>& loader_;
  const LoadOptions& options_;
  // A refresh never asks it to stop.
  StopSource source_{kNoStopState};
};

template <typename Loader>
inline constexpr bool kIsStoppableLoader = false;
template <typename K, typename Loader>
inline constexpr bool kIsStoppableLoader<StoppableLoader<K, Loader>> = true;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_STOPPABLE_LOADER_H_
