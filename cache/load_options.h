// SPDX-License-Identifier: Apache-2.0
// LoadOptions: how long the caller of one load of a LargeObjectCache waits for it, and what the
// object will probably weigh.
//
// Why: an object that takes seconds to load is asked for by many, and each has its own patience. A
// caller that leaves must neither take the object from the others nor go on blocking a thread.
//
//   weakcache::LoadOptions options;
//   options.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
//   options.stop_token = view.stop_token();   // a std::stop_token: the view is closed
//   auto page = pages.GetOrLoad(7, LoadPage, options);   // DeadlineExceeded, Cancelled, …
//
// Thread safety: thread-compatible, plain values.
//
// Unlike Go's context, deadline and token are not passed on to the loader: a loader that wants to
// know takes a std::stop_token, which fires when nobody waits for the load any more.
//
// Complexity: a load without a deadline and a token does nothing for them. A hit looks at neither.
#ifndef WEAKCACHE_CACHE_LOAD_OPTIONS_H_
#define WEAKCACHE_CACHE_LOAD_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "weakcache/cache/internal/creation/stop_token.h"

namespace weakcache {

struct LoadOptions {
  // The probable weight of the object, without its entry. Other objects are evicted before the load
  // until that many bytes are free, so that the budget holds during the load, too. The evicted
  // objects are gone even if the load fails. If so many bytes can't be freed beside other loads'
  // estimates, no object is evicted. A hard limit makes the load wait or fail then.
  uint64_t weight_estimate = 0;
  // When the caller stops waiting for another thread's load, for a permit to load, or for room
  // below a hard limit: it gets DeadlineExceeded. The load goes on for the others, and its object
  // is cached. A deadline does not interrupt the caller's own loader, and no loader begins after
  // it. With a deadline in the past, a caller gets what is cached, and waits for nothing. An
  // asynchronous request looks at it when it is made, and when its task begins.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  // How long a caller that could have an expired object instead (`stale_if_error`) waits for the
  // new one: after that, or at an earlier deadline, it gets the expired one, and the load goes on
  // and its object is cached. With a `refresh_executor` GetOrLoad makes such a load a task of that,
  // as a refresh is; without one, or with a loader that can't be moved or copied, a caller stops
  // waiting for other threads' loads, for a permit and for room, but neither for its own loader nor
  // for another process's load (second_tier.h). GetAll stops waiting for other threads' loads only,
  // after that time for all of them together. Zero: it waits for nothing. The asynchronous forms,
  // which have no timer, ignore this.
  absl::Duration soft_timeout = absl::InfiniteDuration();
  // A std::stop_token: when its stop is requested the caller leaves in the same way, and gets
  // Cancelled. (An empty class with libc++ before version 18.)
  //
  // The std::stop_token that a loader takes fires when the last caller has given up. The one on
  // whose thread the loader runs gives up when its stop token fires, or, as there is no timer, if
  // its deadline has passed when the last other caller gives up; it returns only after the loader.
  // If the loader fails because that caller's stop or deadline has come, the other callers do not:
  // one of them calls its own loader, and the others wait on.
  internal::StopToken stop_token = {};
  // The group of the object that is loaded, a number below 65536: InvalidateGroup invalidates all
  // objects of a group. A hit does not change its object's group. Empty: none; but a refresh keeps
  // the old object's.
  std::optional<uint32_t> group = {};
  // With a second tier: whether a load asks the tier before it calls the loader, and whether the
  // loader's object is written to the tier. Refresh never asks the tier, but writes to it; a load
  // that finds its object due for a refresh asks. The deadline bounds the wait for the tier's
  // answer to a load, but not to a refresh, nor the write.
  bool read_tier = true;
  bool write_tier = true;
};

namespace internal {

// What a call without options gets by reference, so that a hit does not construct any. Never
// destroyed.
union DefaultLoadOptions {
  constexpr DefaultLoadOptions() : options() {}
  ~DefaultLoadOptions() {}
  LoadOptions options;
};
inline constinit const DefaultLoadOptions kDefaultLoad;

}  // namespace internal

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_LOAD_OPTIONS_H_
