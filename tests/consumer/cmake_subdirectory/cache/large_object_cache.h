// SPDX-License-Identifier: Apache-2.0
// An application's own header, whose path is also one of the library's within its repository.
#ifndef WEAKCACHE_TESTS_CONSUMER_CMAKE_SUBDIRECTORY_CACHE_LARGE_OBJECT_CACHE_H_
#define WEAKCACHE_TESTS_CONSUMER_CMAKE_SUBDIRECTORY_CACHE_LARGE_OBJECT_CACHE_H_

int MineNotTheLibrarys();

#endif  // WEAKCACHE_TESTS_CONSUMER_CMAKE_SUBDIRECTORY_CACHE_LARGE_OBJECT_CACHE_H_
