// SPDX-License-Identifier: Apache-2.0
// ConcurrentWeakValueMap and what happens around it in a process: threads that come and go, a fork,
// and the end, in whichever order static objects go.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/handle_kinds.h"
#include "tests/support/object.h"
#include "tests/support/rounds.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::HandleOf;
using testing::LiveAllocatedBytes;
using testing::Make;
using testing::Object;
using testing::OwnHandles;
using testing::SharedPointers;

template <typename Kind>
class ConcurrentWeakValueMapProcessTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(ConcurrentWeakValueMapProcessTest, Kinds);

// Threads that have been leave nothing behind in the map.
TYPED_TEST(ConcurrentWeakValueMapProcessTest, ThreadsComeAndGo) {
  // What a map keeps per thread, if anything, is the same for both kinds of handle.
  const int kThreads = testing::kThreadSanitizer    ? 1'000  // each takes milliseconds then
                       : testing::kAddressSanitizer ? 4'000
                       : std::is_same_v<TypeParam, OwnHandles> ? testing::Rounds(100'000, 20'000)
                                                               : 10'000;
  constexpr int kBatch = 20;
  ConcurrentWeakValueMap<int, testing::ValueOf<TypeParam, Object>> map;
  const HandleOf<TypeParam, Object> object =
      map.get_or_create(1, [] { return Make<TypeParam, Object>(1); });
  std::atomic<int> found{0};
  int64_t bytes_half_way = 0;
  std::vector<std::thread> batch;
  batch.reserve(kBatch);
  for (int begun = 0; begun < kThreads; begun += kBatch) {
    for (int i = 0; i < kBatch; ++i) {
      batch.emplace_back([&] { found += map.get(1) == object ? 1 : 0; });
    }
    for (std::thread& thread : batch) thread.join();
    batch.clear();
    if (begun < kThreads / 2) bytes_half_way = std::max(bytes_half_way, LiveAllocatedBytes());
  }
  EXPECT_EQ(found, kThreads);
  EXPECT_LE(LiveAllocatedBytes(), bytes_half_way);
  map.CheckInvariantsForTesting();
}

// Forks while other threads are in the map; the child only execs.
TYPED_TEST(ConcurrentWeakValueMapProcessTest, ForkAndExec) {
  ConcurrentWeakValueMap<int, testing::ValueOf<TypeParam, Object>> map;
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      for (int key = 0; !done; key = (key + 1) % 100) {
        map.get_or_create(key, [key] { return Make<TypeParam, Object>(key); });
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      execl("/bin/true", "true", static_cast<char*>(nullptr));
      _exit(127);
    }
    ASSERT_GT(child, 0);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_EQ(WEXITSTATUS(status), 0);
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  map.purge();
  EXPECT_EQ(map.size(), 0u);
  map.CheckInvariantsForTesting();
}

template <typename Kind>
using Map = ConcurrentWeakValueMap<int, testing::ValueOf<Kind, Object>>;

template <typename Kind>
void Fill(Map<Kind>& map, std::vector<HandleOf<Kind, Object>>& objects,
          testing::OnDestruction on_destruction = nullptr) {
  for (int key = 0; key < 100; ++key) {
    objects.push_back(
        map.get_or_create(key, [&] { return Make<Kind, Object>(key, on_destruction); }));
  }
}

// Of static objects, the last one that was made is the first to go. The objects' destructors may
// use a map that is still there.
template <typename Kind>
[[noreturn]] void ExitWithObjectsFirst() {
  static Map<Kind> map;
  static std::vector<HandleOf<Kind, Object>> objects;
  Fill<Kind>(map, objects, [](const Object& object) {
    if (map.get(object.id) != nullptr || map.erase(object.id) != 0) _exit(3);
    map.get_or_create(1000, [] { return Make<Kind, Object>(1000); });
  });
  std::exit(0);
}
template <typename Kind>
[[noreturn]] void ExitWithMapFirst() {
  static std::vector<HandleOf<Kind, Object>> objects;
  static Map<Kind> map;
  Fill<Kind>(map, objects);
  std::exit(0);
}
template <typename Kind>
std::vector<HandleOf<Kind, Object>>& ThreadsObjects() {
  static thread_local std::vector<HandleOf<Kind, Object>> objects;
  return objects;
}
// The thread's own references go at its end, which for the main thread is before static objects'.
template <typename Kind>
[[noreturn]] void ExitWithThreadsReferences() {
  static Map<Kind> map;
  std::thread([] { Fill<Kind>(map, ThreadsObjects<Kind>()); }).join();
  map.purge();
  if (map.size() != 0) _exit(3);
  Fill<Kind>(map, ThreadsObjects<Kind>());
  std::exit(0);
}
// The map and its objects are never destroyed, and reachable.
template <typename Kind>
[[noreturn]] void ExitWithoutDestruction() {
  static auto* const map = new Map<Kind>;
  static auto* const objects = new std::vector<HandleOf<Kind, Object>>;
  Fill<Kind>(*map, *objects);
  std::exit(0);
}

TYPED_TEST(ConcurrentWeakValueMapProcessTest, StaticDestructionInAnyOrder) {
  EXPECT_EXIT(ExitWithObjectsFirst<TypeParam>(), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(ExitWithMapFirst<TypeParam>(), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(ExitWithThreadsReferences<TypeParam>(), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(ExitWithoutDestruction<TypeParam>(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace weakcache
