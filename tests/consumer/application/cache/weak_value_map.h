// SPDX-License-Identifier: Apache-2.0
// An application's own header, whose path is also one of the library's within its repository.
#ifndef WEAKCACHE_TESTS_CONSUMER_APPLICATION_CACHE_WEAK_VALUE_MAP_H_
#define WEAKCACHE_TESTS_CONSUMER_APPLICATION_CACHE_WEAK_VALUE_MAP_H_

inline constexpr int kMineNotTheLibrarys = 42;

#endif  // WEAKCACHE_TESTS_CONSUMER_APPLICATION_CACHE_WEAK_VALUE_MAP_H_
