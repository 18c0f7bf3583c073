// Races a transition many times: initialise, meet at a barrier, race, check, and again.
#ifndef WEAKCACHE_TESTS_SUPPORT_RACE_H_
#define WEAKCACHE_TESTS_SUPPORT_RACE_H_

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace weakcache::testing {

// As std::barrier, but its threads leave it within nanoseconds of each other, which is what makes
// them meet in the transition that is raced.
class SpinBarrier {
 public:
  explicit SpinBarrier(int threads) : threads_(threads) {}

  void Wait() {
    // Acquire and release on all: what any thread did before happens before what all do after.
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);  // ordered by the next line
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
      if (spins >= 100) std::this_thread::yield();
    }
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<int> phase_{0};
};

// Lets a racer start up to a few dozen nanoseconds late, differently in each round.
class Jitter {
 public:
  explicit Jitter(unsigned seed) : state_(seed * 2654435761u + 1) {}
  void operator()() {
    state_ = state_ * 1664525u + 1013904223u;
    for (unsigned spins = state_ >> 26; spins > 0; --spins) asm volatile("");
  }

 private:
  unsigned state_;
};

// `rounds` times: initialise(round) on one thread, then all racers at once, then check(round).
inline void Race(int rounds, const std::function<void(int)>& initialise,
                 const std::vector<std::function<void()>>& racers,
                 const std::function<void(int)>& check) {
  SpinBarrier barrier(static_cast<int>(racers.size()) + 1);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < racers.size(); ++i) {
    threads.emplace_back([&, i] {
      Jitter jitter(static_cast<unsigned>(i));
      for (int round = 0; round < rounds; ++round) {
        barrier.Wait();
        jitter();
        racers[i]();
        barrier.Wait();
      }
    });
  }
  for (int round = 0; round < rounds; ++round) {
    initialise(round);
    barrier.Wait();
    barrier.Wait();
    check(round);
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_RACE_H_
