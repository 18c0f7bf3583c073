// SPDX-License-Identifier: Apache-2.0
// ExpiredReferenceError: thrown if an object is used through a WeakProxy after its death.
//
//   try {
//     proxy->Draw();
//   } catch (const weakcache::ExpiredReferenceError& error) {
//     Log(error.what());        // "WeakProxy::operator->: the referent has expired"
//   }
//
// Thread safety: distinct objects may be used on any threads at once, as with any exception.
//
// Differences from Python's ReferenceError and from std::bad_weak_ptr: it derives from
// std::runtime_error, and its message names the call. Under -fno-exceptions, the call aborts with
// that message instead.
//
// Complexity: constructing it copies the message.
#ifndef WEAKCACHE_WEAKREF_EXPIRED_REFERENCE_ERROR_H_
#define WEAKCACHE_WEAKREF_EXPIRED_REFERENCE_ERROR_H_

#include <stdexcept>
#include <string>

#include "weakcache/weakref/internal/check.h"

namespace weakcache {

class ExpiredReferenceError : public std::runtime_error {
 public:
  // `call` names the public operation that needed the referent.
  explicit ExpiredReferenceError(const char* call)
      : std::runtime_error(std::string(call) + ": the referent has expired") {}
};

namespace internal {

// Throws ExpiredReferenceError, or aborts with its message under -fno-exceptions.
[[noreturn]] [[gnu::cold]] inline void FailExpired(const char* call) {
#ifdef __cpp_exceptions
  throw ExpiredReferenceError(call);
#else
  CheckFailed(call, "the referent has expired");
#endif
}

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_EXPIRED_REFERENCE_ERROR_H_
