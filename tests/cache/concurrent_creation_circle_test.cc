// SPDX-License-Identifier: Apache-2.0
// Creations that would wait for each other for ever, on several threads and across containers: one
// of them at least gets an error that names the keys, and nobody hangs. What only waits for a
// permit to load gets one. And threads that are cancelled while they wait.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/cache_options.h"
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

Cache MakeCache(size_t max_concurrent_loads = 0) {
  Cache::Options options = testing::WithBudget<Cache>(100);
  options.max_concurrent_loads = max_concurrent_loads;
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

// What a loader returns that has asked for another object.
absl::StatusOr<int> Forward(const absl::StatusOr<Ref<int>>& other) {
  if (!other.ok()) return other.status();
  return **other;
}

// The factory needs a permit, whose holder needs what the factory creates: no circle of creations,
// so both succeed.
TEST(PermitCircleTest, AFactoryNeedsThePermit) {
  Map map;
  Cache cache = MakeCache(1);
  SpinBarrier both_create(2);
  absl::Status loaded;
  std::thread loads([&] {
    loaded = cache
                 .GetOrLoad("holds the permit",
                            [&] {
                              both_create.Wait();
                              return *map.get_or_create("in the map", [] { return 1; });
                            })
                 .status();
  });
  absl::Status nested;
  map.get_or_create("in the map", [&] {
    both_create.Wait();
    nested = cache.GetOrLoad("needs the permit", [] { return 2; }).status();
    return 2;
  });
  loads.join();
  EXPECT_EQ(loaded, absl::OkStatus());
  EXPECT_EQ(nested, absl::OkStatus());
  EXPECT_EQ(**cache.GetOrLoad("holds the permit", [] { return 0; }), 2);
  cache.CheckInvariantsForTesting();
}

// As before, but now the factory needs the very object whose loader has the permit, through a load
// that needs a permit itself.
TEST(PermitCircleTest, ThroughACreationAsWell) {
  Map map;
  Cache cache = MakeCache(1);
  SpinBarrier both_create(2);
  bool map_refused = false;
  absl::Status loaded;
  std::thread loads([&] {
    loaded = cache
                 .GetOrLoad("a",
                            [&]() -> absl::StatusOr<int> {
                              both_create.Wait();
                              try {
                                return *map.get_or_create("c", [] { return 1; });
                              } catch (const RecursiveCreationError& error) {
                                map_refused = true;
                                return absl::AbortedError(error.what());
                              }
                            })
                 .status();
  });
  absl::Status nested;
  map.get_or_create("c", [&] {
    both_create.Wait();
    nested = cache
                 .GetOrLoad("b",
                            [&]() -> absl::StatusOr<int> {
                              return Forward(cache.GetOrLoad("a", [] { return 1; }));
                            })
                 .status();
    return 2;
  });
  loads.join();
  EXPECT_NE(map_refused, nested.code() == absl::StatusCode::kFailedPrecondition);
  const std::string message(map_refused ? loaded.message() : nested.message());
  EXPECT_NE(message.find("\"a\""), std::string::npos) << message;
  EXPECT_NE(message.find("\"c\""), std::string::npos) << message;
  cache.CheckInvariantsForTesting();
}

// Each one's loader needs a permit of the other one.
TEST(PermitCircleTest, TwoCaches) {
  std::vector<Cache> caches;
  for (int i = 0; i < 2; ++i) caches.push_back(MakeCache(1));
  SpinBarrier both_load(2);
  std::vector<absl::Status> statuses(2);
  RunThreads(2, [&](int i) {
    const auto mine = static_cast<size_t>(i);
    statuses[mine] =
        caches[mine]
            .GetOrLoad("outer",
                       [&] {
                         both_load.Wait();
                         return Forward(caches[1 - mine].GetOrLoad("inner", [] { return 1; }));
                       })
            .status();
  });
  for (const absl::Status& status : statuses) EXPECT_EQ(status, absl::OkStatus());
}

// The limit of a cache holds for loads inside another cache's loads, too.
TEST(PermitCircleTest, ALoadOfAnotherCacheNeedsAPermit) {
  Cache outer = MakeCache();
  Cache inner = MakeCache(1);
  constexpr int kThreads = 4;
  SpinBarrier all_load(kThreads);
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  RunThreads(kThreads, [&](int i) {
    const std::string key = std::to_string(i);
    (void)outer.GetOrLoad(key, [&] {
      all_load.Wait();
      return Forward(inner.GetOrLoad(key, [&] {
        most = std::max<int>(most, ++running);
        for (int turn = 0; turn < 100; ++turn) std::this_thread::yield();
        --running;
        return 1;
      }));
    });
  });
  EXPECT_EQ(most, 1);
}

// A loader waits for a task that it has made, of which the graph knows nothing.
TEST(PermitCircleTest, ATaskOfTheLoaderThatHasThePermit) {
  Cache cache = MakeCache(1);
  std::vector<std::thread> threads;
  const auto executor = [&](auto task) { threads.emplace_back(std::move(task)); };
  const auto status = cache
                          .GetOrLoad("scene",
                                     [&] {
                                       auto mesh = cache.GetOrLoadAsync(
                                           "mesh", [] { return 1; }, executor);
                                       return Forward(mesh.get());
                                     })
                          .status();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(status, absl::OkStatus());
}

// Once the load is over that has made it, a task waits like any other load.
TEST(PermitCircleTest, ATaskOfALoadThatHasEnded) {
  Cache cache = MakeCache(1);
  std::vector<std::function<void()>> tasks;
  std::future<absl::StatusOr<Ref<int>>> later;
  bool has_run = false;
  ASSERT_TRUE(
      cache
          .GetOrLoad("first",
                     [&] {
                       later = cache.GetOrLoadAsync(
                           "later",
                           [&] {
                             has_run = true;
                             return 1;
                           },
                           [&](std::function<void()> task) { tasks.push_back(std::move(task)); });
                       return 1;
                     })
          .ok());
  ASSERT_TRUE(cache
                  .GetOrLoad("other",
                             [&] {
                               std::thread(tasks.at(0)).join();  // blocks no thread
                               EXPECT_FALSE(has_run);
                               return 1;
                             })
                  .ok());
  ASSERT_EQ(tasks.size(), 2u);  // it has been posted again
  tasks[1]();
  EXPECT_TRUE(later.get().ok());
}

// A key whose copy constructor runs a function, once.
struct CallingKey {
  explicit CallingKey(int of, std::function<void()>* call = nullptr) : i(of), on_copy(call) {}
  CallingKey(const CallingKey& other) : i(other.i) {
    if (other.on_copy != nullptr) (*other.on_copy)();
  }
  CallingKey& operator=(const CallingKey&) = delete;

  bool operator==(const CallingKey& other) const { return i == other.i; }
  // Odd ones have the same hash.
  template <typename H>
  friend H AbslHashValue(H h, const CallingKey& key) {
    return H::combine(std::move(h), key.i % 2);
  }

  int i;
  std::function<void()>* on_copy = nullptr;
};

TEST(CreationCircleTest, AKeyThatAsksForAnotherOneAsItIsCopied) {
  ConcurrentWeakValueMap<CallingKey, int> map;
  SpinBarrier both_create(2);
  std::exception_ptr refused_in_copy;
  std::exception_ptr refused_in_factory;
  const auto make = [] { return 1; };
  std::thread creates([&] {
    (void)map.get_or_create(CallingKey(2), [&] {
      both_create.Wait();
      try {
        (void)map.get_or_create(CallingKey(3), make);
      } catch (const RecursiveCreationError&) {
        refused_in_factory = std::current_exception();
      }
      return 1;
    });
  });
  std::function<void()> ask = [&] {
    both_create.Wait();
    try {
      (void)map.get_or_create(CallingKey(2), make);
    } catch (const RecursiveCreationError&) {
      refused_in_copy = std::current_exception();
    }
  };
  const CallingKey calls(1, &ask);
  EXPECT_TRUE(map.get_or_create(calls, make) != nullptr);
  creates.join();
  EXPECT_NE(refused_in_copy == nullptr, refused_in_factory == nullptr);
  map.CheckInvariantsForTesting();
}

// It has the same hash, and its creation has no key yet, but no other thread creates it.
TEST(CreationCircleTest, AKeyThatCreatesAnotherOneAsItIsCopied) {
  ConcurrentWeakValueMap<CallingKey, int> map;
  int created = 0;
  std::function<void()> ask = [&] {
    created = *map.get_or_create(CallingKey(3), [] { return 3; });
  };
  const CallingKey calls(1, &ask);
  EXPECT_EQ(*map.get_or_create(calls, [] { return 1; }), 1);
  EXPECT_EQ(created, 3);
}

// A thread that is cancelled while it waits for another's creation takes nothing of it along.
TEST(CancellationTest, WhoWaitsForACreation) {
  Map map;
  SpinBarrier creating(2);
  std::atomic<bool> go{false};
  Ref<int> created;
  std::thread creates([&] {
    created = map.get_or_create("a", [&] {
      creating.Wait();
      go.wait(false);
      return 1;
    });
  });
  creating.Wait();
  std::thread waits([&] { (void)map.get_or_create("a", [] { return 2; }); });
  // It may come to its wait only afterwards, and ends there all the same.
  pthread_cancel(waits.native_handle());
  waits.join();
  go = true;
  go.notify_all();
  creates.join();
  EXPECT_EQ(created.use_count(), 1u);
  created.reset();
  EXPECT_EQ(map.size(), 0u);
  map.CheckInvariantsForTesting();
}

TEST(CancellationTest, WhoWaitsForAPermit) {
  Cache cache = MakeCache(1);
  SpinBarrier loading(2);
  std::atomic<bool> go{false};
  std::thread loads([&] {
    EXPECT_TRUE(cache
                    .GetOrLoad("a",
                               [&] {
                                 loading.Wait();
                                 go.wait(false);
                                 return 1;
                               })
                    .ok());
  });
  loading.Wait();
  std::thread waits([&] { (void)cache.GetOrLoad("b", [] { return 2; }); });
  pthread_cancel(waits.native_handle());
  waits.join();
  go = true;
  go.notify_all();
  loads.join();
  EXPECT_TRUE(cache.GetOrLoad("b", [] { return 2; }).ok());
  cache.CheckInvariantsForTesting();
}

#if !defined(__SANITIZE_THREAD__)  // GCC's, which ends a child that makes threads
// A child may wait in containers that no other thread used at the time of the fork, whatever other
// threads did in others.
TEST(ForkTest, AChildThatWaits) {
  if (testing::kAddressSanitizer) {
    GTEST_SKIP() << "its allocator's lock may be held at the fork, and so for ever in the child";
  }
  // One of them waits for the other one, which is refused again and again. The message has the
  // keys, so most of the time somebody has the lock of the graph.
  Map map;
  const std::string keys[] = {std::string(100'000, 'a'), std::string(100'000, 'b')};
  SpinBarrier both_create(2);
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      (void)map.get_or_create(keys[i], [&] {
        both_create.Wait();
        while (!done) {
          try {
            (void)map.get_or_create(keys[1 - i], [] { return 1; });
          } catch (const RecursiveCreationError&) {
          }
        }
        return 1;
      });
    });
  }
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(20);
      Map own;
      std::thread waits;
      (void)own.get_or_create("a", [&] {
        std::atomic<bool> started{false};
        waits = std::thread([&] {
          started = true;
          (void)own.get_or_create("a", [] { return 1; });
        });
        while (!started) std::this_thread::yield();
        for (int turn = 0; turn < 20; ++turn) std::this_thread::yield();
        return 1;
      });
      waits.join();
      _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << status;
    ASSERT_EQ(WEXITSTATUS(status), 0);
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
}
#endif

}  // namespace
}  // namespace weakcache
