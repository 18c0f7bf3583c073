// SPDX-License-Identifier: Apache-2.0
// RecursiveCreationError: a factory has asked for the very key that it creates.
//
// Why: it would wait for itself.
//
//   images.get_or_create("cover", [&] {
//     return Shrink(*images.get_or_create("cover", DecodeCover));  // throws RecursiveCreationError
//   });
//
// Thread safety: as any exception: distinct objects may be used on any threads.
//
// Differences from std::future_error: there is one reason only, and it is a mistake in the program.
// Under -fno-exceptions, whatever would throw it aborts with its message instead.
//
// Complexity: constructing it copies the message.
#ifndef WEAKCACHE_CACHE_RECURSIVE_CREATION_ERROR_H_
#define WEAKCACHE_CACHE_RECURSIVE_CREATION_ERROR_H_

#include <stdexcept>

#include "weakcache/weakref/internal/check.h"

namespace weakcache {

class RecursiveCreationError : public std::logic_error {
 public:
  RecursiveCreationError()
      : std::logic_error("get_or_create: the factory asks for the key that it creates") {}
};

namespace internal {

[[noreturn]] [[gnu::cold]] inline void FailRecursiveCreation() {
#ifdef __cpp_exceptions
  throw RecursiveCreationError();
#else
  CheckFailed("get_or_create", "the factory asks for the key that it creates");
#endif
}

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_RECURSIVE_CREATION_ERROR_H_
