// SPDX-License-Identifier: Apache-2.0
// The version of the library, for the preprocessor and for programs.
//
//   #if WEAKCACHE_VERSION < 200                    // before 0.2.0
//   std::puts(weakcache::kVersion);                // "0.1.0"
//
// Versions follow semver.org: before 1.0.0 a new minor version may change the interface, a new
// patch version may not.
#ifndef WEAKCACHE_WEAKREF_VERSION_H_
#define WEAKCACHE_WEAKREF_VERSION_H_

#include "weakcache/weakref/internal/language_version.h"

#define WEAKCACHE_VERSION_MAJOR 0
#define WEAKCACHE_VERSION_MINOR 1
#define WEAKCACHE_VERSION_PATCH 0

// Orders versions: major * 10000 + minor * 100 + patch.
#define WEAKCACHE_VERSION \
  (WEAKCACHE_VERSION_MAJOR * 10000 + WEAKCACHE_VERSION_MINOR * 100 + WEAKCACHE_VERSION_PATCH)

#define WEAKCACHE_INTERNAL_STRINGIZE(token) #token
#define WEAKCACHE_INTERNAL_DOTTED(major, minor, patch) \
  WEAKCACHE_INTERNAL_STRINGIZE(major)                  \
  "." WEAKCACHE_INTERNAL_STRINGIZE(minor) "." WEAKCACHE_INTERNAL_STRINGIZE(patch)

namespace weakcache {

// "major.minor.patch" of the headers that the program was compiled with.
inline constexpr char kVersion[] = WEAKCACHE_INTERNAL_DOTTED(
    WEAKCACHE_VERSION_MAJOR, WEAKCACHE_VERSION_MINOR, WEAKCACHE_VERSION_PATCH);

}  // namespace weakcache

#undef WEAKCACHE_INTERNAL_DOTTED
#undef WEAKCACHE_INTERNAL_STRINGIZE

#endif  // WEAKCACHE_WEAKREF_VERSION_H_
