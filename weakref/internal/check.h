// SPDX-License-Identifier: Apache-2.0
// Preconditions that hold in every build: a violated one names the call and aborts.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CHECK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace weakcache::internal {

[[noreturn]] [[gnu::cold]] inline void CheckFailed(const char* call, const char* problem) {
  std::fprintf(stderr, "weakcache: %s: %s\n", call, problem);
  std::abort();
}

// `call` is the public operation that was misused, `problem` what the caller did wrong.
inline void Check(bool condition, const char* call, const char* problem) {
  if (!condition) [[unlikely]]
    CheckFailed(call, problem);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CHECK_H_
