// SPDX-License-Identifier: Apache-2.0
// Checks of preconditions, in every build: a violated one aborts with a message that names the
// call.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CHECK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CHECK_H_

#include <cstdio>
#include <cstdlib>

#include "weakcache/weakref/internal/language_version.h"

namespace weakcache::internal {

[[noreturn]] [[gnu::cold]] inline void CheckFailed(const char* call, const char* problem) {
  std::fprintf(stderr, "weakcache: %s: %s\n", call, problem);
  std::abort();
}

// Aborts unless `condition` holds. `call` names the public operation, `problem` what the caller did
// wrong.
inline void Check(bool condition, const char* call, const char* problem) {
  if (!condition) [[unlikely]]
    CheckFailed(call, problem);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CHECK_H_
