// SPDX-License-Identifier: Apache-2.0
// A process of redis_tier_history_test.cc: a LargeObjectCache on a RedisTier, whose threads change
// and look up keys at random, and judge what they see by the history that all processes share.
#ifndef WEAKCACHE_TESTS_CACHE_REDIS_TIER_HISTORY_PROCESS_H_
#define WEAKCACHE_TESTS_CACHE_REDIS_TIER_HISTORY_PROCESS_H_

#include <chrono>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace weakcache::testing {

constexpr absl::Duration kLeaseDuration = absl::Milliseconds(200);
// What a machine that has other things to do may take.
constexpr absl::Duration kBusyMachine = absl::Seconds(5);

// As whom a process logs in at the server.
inline std::string UserOf(int process) { return "process" + std::to_string(process); }

inline void PauseBriefly() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

// Runs such a process, and returns its exit code. What the test starts is
//   PROGRAM --process FILE ROLE NUMBER SEED
// with the file of the history. The roles: `random`; `leader`, which leads a load of the first key
// until it is killed; and `follower`, which loads the same key meanwhile.
int RunHistoryProcess(char** arguments);

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_CACHE_REDIS_TIER_HISTORY_PROCESS_H_
