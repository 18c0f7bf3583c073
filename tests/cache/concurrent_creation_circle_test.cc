// SPDX-License-Identifier: Apache-2.0
// Creations that would wait for each other for ever, on several threads and across containers: one
// of them at least gets an error that names the keys, and nobody hangs.
#include <gtest/gtest.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/race.h"
#include "tests/support/rounds.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/recursive_creation_error.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::SpinBarrier;

using Map = ConcurrentWeakValueMap<std::string, int>;
using Cache = LargeObjectCache<std::string, int>;

Cache MakeCache() {
  Cache::Options options;
  options.budget_bytes = 100;
  options.weigher = [](const int&) { return uint64_t{1}; };
  return *Cache::Create(std::move(options));
}

// Runs `function(0)` to `function(threads - 1)` at a time.
void RunThreads(int threads, const std::function<void(int)>& function) {
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) running.emplace_back(function, i);
  for (std::thread& thread : running) thread.join();
}

std::string MessageOf(const std::exception_ptr& error) {
  if (error == nullptr) return "";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    return exception.what();
  }
}

TEST(CreationCircleTest, FactoriesOfAMap) {
  for (const int threads : {2, 3, 5}) {
    Map map;
    SpinBarrier all_create(threads);
    // Exceptions that the threads share. ThreadSanitizer does not see the count in the standard
    // library that tells which one is the last, so all are kept until the threads are through.
    std::vector<std::exception_ptr> errors(static_cast<size_t>(threads));
    RunThreads(threads, [&](int i) {
      try {
        (void)map.get_or_create(std::to_string(i), [&] {
          all_create.Wait();
          return *map.get_or_create(std::to_string((i + 1) % threads), [] { return 1; });
        });
      } catch (const RecursiveCreationError&) {
        errors[static_cast<size_t>(i)] = std::current_exception();
      }
    });
    // The one that is refused fails, and all that wait for it.
    for (const std::exception_ptr& thrown : errors) {
      const std::string error = MessageOf(thrown);
      EXPECT_NE(error.find("wait for each other"), std::string::npos) << error;
      for (int i = 0; i < threads; ++i) {
        EXPECT_NE(error.find('"' + std::to_string(i) + '"'), std::string::npos) << error;
      }
    }
    // Nothing is left: the next ones succeed.
    for (int i = 0; i < threads; ++i) {
      EXPECT_EQ(*map.get_or_create(std::to_string(i), [&] { return i; }), i);
    }
    map.CheckInvariantsForTesting();
  }
}

TEST(CreationCircleTest, LoadersOfACache) {
  Cache cache = MakeCache();
  SpinBarrier both_load(2);
  std::vector<absl::Status> statuses(2);
  RunThreads(2, [&](int i) {
    statuses[static_cast<size_t>(i)] =
        cache
            .GetOrLoad(i == 0 ? "a" : "b",
                       [&]() -> absl::StatusOr<int> {
                         both_load.Wait();
                         auto other = cache.GetOrLoad(i == 0 ? "b" : "a", [] { return 1; });
                         if (!other.ok()) return other.status();
                         return **other;
                       })
            .status();
  });
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(status.message().find("\"a\""), std::string::npos) << status;
    EXPECT_NE(status.message().find("\"b\""), std::string::npos) << status;
  }
  EXPECT_TRUE(cache.GetOrLoad("a", [] { return 1; }).ok());
  cache.CheckInvariantsForTesting();
}

TEST(CreationCircleTest, AcrossContainers) {
  Map map;
  Cache cache = MakeCache();
  SpinBarrier both_create(2);
  bool map_refused = false;
  absl::Status loaded;
  std::thread loads([&] {
    loaded = cache
                 .GetOrLoad("in the cache",
                            [&]() -> absl::StatusOr<int> {
                              both_create.Wait();
                              try {
                                return *map.get_or_create("in the map", [] { return 1; });
                              } catch (const RecursiveCreationError& error) {
                                map_refused = true;
                                return absl::AbortedError(error.what());
                              }
                            })
                 .status();
  });
  absl::Status created;
  Ref<int> object = map.get_or_create("in the map", [&]() -> Ref<int> {
    both_create.Wait();
    auto other = cache.GetOrLoad("in the cache", [] { return 1; });
    created = other.status();
    return MakeRef<int>(2);
  });
  loads.join();
  EXPECT_EQ(*object, 2);
  // One of them is refused; then the other one ends without waiting for ever.
  EXPECT_NE(map_refused, created.code() == absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(map_refused, !loaded.ok());
}

TEST(CreationCircleTest, WaitingThatIsNoCircleIsAllowed) {
  // Both ask for the other's object only after their own creation has ended, again and again.
  Map map;
  constexpr int kThreads = 2;
  const int rounds = testing::Rounds(20'000, 2'000);
  for (int round = 0; round < rounds; round += 100) {
    RunThreads(kThreads, [&](int i) {
      for (int step = 0; step < 100; ++step) {
        const auto make = [] { return 1; };
        EXPECT_NO_THROW({
          map.get_or_create(i == 0 ? "a" : "b", make);
          map.get_or_create(i == 0 ? "b" : "a", make);
        });
      }
    });
  }
}

struct PlainKey {
  int i;
  bool operator==(const PlainKey&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const PlainKey& key) {
    return H::combine(std::move(h), key.i);
  }
};

TEST(CreationCircleTest, KeysThatCantBePrinted) {
  ConcurrentWeakValueMap<PlainKey, int> map;
  SpinBarrier both_create(2);
  std::vector<std::exception_ptr> errors(2);  // kept: see above
  RunThreads(2, [&](int i) {
    try {
      (void)map.get_or_create(PlainKey{i}, [&] {
        both_create.Wait();
        return *map.get_or_create(PlainKey{1 - i}, [] { return 1; });
      });
    } catch (const RecursiveCreationError&) {
      errors[static_cast<size_t>(i)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& thrown : errors) {
    const std::string error = MessageOf(thrown);
    EXPECT_NE(error.find("(a key) -> (a key)"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace weakcache
