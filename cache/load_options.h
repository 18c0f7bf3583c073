// SPDX-License-Identifier: Apache-2.0
// What one load of a LargeObjectCache is told: how long its caller waits for it, and what the
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
// Unlike Go's context, neither is handed on to what the loader calls by itself: a loader that wants
// to know takes a std::stop_token, which fires when nobody waits for the load any more.
//
// Complexity: without a deadline and a token, none. A hit looks at neither.
#ifndef WEAKCACHE_CACHE_LOAD_OPTIONS_H_
#define WEAKCACHE_CACHE_LOAD_OPTIONS_H_

#include <chrono>
#include <cstdint>

#include "weakcache/cache/internal/creation/stop_token.h"

namespace weakcache {

struct LoadOptions {
  // The probable weight of the object, without its entry. Other objects are evicted before the load
  // until that many bytes are free, so that the budget is kept during it, too; in vain, if the load
  // then fails. If so many can't be had beside other loads' estimates, none are evicted. A hard
  // limit makes the load wait or fail then.
  uint64_t weight_estimate = 0;
  // When the caller stops waiting, for another's load, a permit to load or room below a hard limit:
  // it gets DeadlineExceeded. The load goes on for the others, and its object is cached. A deadline
  // does not interrupt the caller's own loader, and none begins after it; a time in the past gets
  // what is cached, and waits for nothing. An asynchronous ask heeds it when it asks, and when its
  // task begins.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  // A std::stop_token: when its stop is requested the caller leaves in the same way, and gets
  // Cancelled. (An empty class with libc++ before version 18.)
  //
  // The loader's own std::stop_token fires when the last caller has left, the one on whose thread
  // it runs included. If that one's stop or deadline ends the loader, this fails no other caller:
  // one of them calls its own loader, and the others wait on.
  internal::StopToken stop_token = {};
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_LOAD_OPTIONS_H_
