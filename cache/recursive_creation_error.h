// SPDX-License-Identifier: Apache-2.0
// RecursiveCreationError: a factory has asked for an object that can't be created before its own.
//
// Why: the thread would wait for itself. It asks for the very key that it creates, or for one that
// another thread is creating, which waits in turn, perhaps through further threads, for this one.
//
//   images.get_or_create("cover", [&] {
//     return Shrink(*images.get_or_create("cover", DecodeCover));  // throws RecursiveCreationError
//   });
//
// Thread safety: distinct objects may be used on any threads at once, as with any exception.
//
// Differences from std::future_error: it is always a mistake in the program, and what() says which.
// Under -fno-exceptions, whatever would throw it aborts with its message instead.
//
// Complexity: constructing it copies the message.
#ifndef WEAKCACHE_CACHE_RECURSIVE_CREATION_ERROR_H_
#define WEAKCACHE_CACHE_RECURSIVE_CREATION_ERROR_H_

#include <exception>
#include <stdexcept>
#include <string>

#include "weakcache/weakref/internal/check.h"

namespace weakcache {

class RecursiveCreationError : public std::logic_error {
 public:
  RecursiveCreationError()
      : std::logic_error("get_or_create: the factory asks for the key that it creates") {}
  // `circle`: the keys that wait for each other, each for the next one.
  explicit RecursiveCreationError(const std::string& circle)
      : std::logic_error("get_or_create: factories wait for each other's keys: " + circle) {}
};

namespace internal {

[[noreturn]] [[gnu::cold]] inline void FailRecursiveCreation() {
#ifdef __cpp_exceptions
  throw RecursiveCreationError();
#else
  CheckFailed("get_or_create", "the factory asks for the key that it creates");
#endif
}

// Returns an error to be thrown on this thread.
[[gnu::cold]] inline std::exception_ptr CircularCreationError(const std::string& circle) {
#ifdef __cpp_exceptions
  return std::make_exception_ptr(RecursiveCreationError(circle));
#else
  CheckFailed("get_or_create", RecursiveCreationError(circle).what());
#endif
}

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_RECURSIVE_CREATION_ERROR_H_
