// SPDX-License-Identifier: Apache-2.0
// Refuses compilers that are not in C++20 mode, with one message in place of pages of errors.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_LANGUAGE_VERSION_H_
#define WEAKCACHE_WEAKREF_INTERNAL_LANGUAGE_VERSION_H_

#if defined(_MSVC_LANG)
#define WEAKCACHE_INTERNAL_CPLUSPLUS _MSVC_LANG
#else
#define WEAKCACHE_INTERNAL_CPLUSPLUS __cplusplus
#endif

// g++ 10, which calls C++20 by the number 201709, has no std::atomic::wait and is too old as well.
#if WEAKCACHE_INTERNAL_CPLUSPLUS < 202002L
#error "weakcache needs C++20: compile with -std=c++20 or later"
// #error alone does not stop the compiler; an include that fails does.
#include "weakcache needs C++20"
#endif

#undef WEAKCACHE_INTERNAL_CPLUSPLUS

#endif  // WEAKCACHE_WEAKREF_INTERNAL_LANGUAGE_VERSION_H_
