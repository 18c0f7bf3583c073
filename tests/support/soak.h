// SPDX-License-Identifier: Apache-2.0
// What the soaks share: programs that use one container on several threads for a long time, and
// expect that nothing was wrong and nothing is left. They have the flags --operations, --threads,
// --seed and --keys.
#ifndef WEAKCACHE_TESTS_SUPPORT_SOAK_H_
#define WEAKCACHE_TESTS_SUPPORT_SOAK_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "tests/support/allocations.h"

namespace weakcache::testing {

// Counts what is wrong, and prints the first few.
void Expect(bool condition, const char* what);

int SoakThreads();
uint64_t SoakSeed();
// Small ones are the frequent ones.
int64_t SoakKey(std::mt19937_64& random);

// For main to return: 1 if anything was wrong. `soak(operations)` is called after `warm_up()`,
// which lets be allocated what is allocated once, on a thread that ends.
int RunSoak(int argc, char** argv, void (*warm_up)(), void (*soak)(int64_t operations));

// An object of one key that shows whether it is still there.
class SoakObject {
 public:
  explicit SoakObject(int64_t key) : key_(key), check_(~key) { ++live_; }
  SoakObject(const SoakObject&) = delete;
  SoakObject& operator=(const SoakObject&) = delete;
  ~SoakObject() {
    check_ = key_;  // no longer good
    asm volatile("" : : "r"(this) : "memory");
    --live_;
  }

  int64_t key() const { return key_; }
  void ExpectGood(int64_t key) const {
    Expect(key_ == key, "an object of another key");
    Expect(check_ == ~key, "an object that has gone");
  }
  static int64_t live() { return live_; }

 private:
  const int64_t key_;
  int64_t check_;
  inline static std::atomic<int64_t> live_{0};
};

// Expects at its end that all that was allocated since has been given back.
class NothingIsLeft {
 public:
  NothingIsLeft() = default;
  NothingIsLeft(const NothingIsLeft&) = delete;
  NothingIsLeft& operator=(const NothingIsLeft&) = delete;
  ~NothingIsLeft() {
    Expect(LiveAllocations() == allocations_, "blocks of memory are left");
    Expect(LiveAllocatedBytes() == bytes_, "bytes are left");
  }

 private:
  const int64_t allocations_ = LiveAllocations();
  const int64_t bytes_ = LiveAllocatedBytes();
};

// Each of the threads has a worker, made by `make(seed)`, which runs its part of the operations.
template <typename Worker, typename Make>
std::vector<std::unique_ptr<Worker>> RunWorkers(int64_t operations, Make&& make) {
  const int count = SoakThreads();
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    workers.push_back(make(SoakSeed() * 1000 + static_cast<uint64_t>(i)));
    // The first takes what does not divide.
    const int64_t part = operations / count + (i == 0 ? operations % count : 0);
    threads.emplace_back([&worker = *workers.back(), part] { worker.Run(part); });
  }
  for (std::thread& thread : threads) thread.join();
  return workers;
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_SOAK_H_
