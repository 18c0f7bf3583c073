// SPDX-License-Identifier: Apache-2.0
// Races a transition many times: initialise, meet at a barrier, race, check, and again.
#ifndef WEAKCACHE_TESTS_SUPPORT_RACE_H_
#define WEAKCACHE_TESTS_SUPPORT_RACE_H_

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <initializer_list>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/rounds.h"

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
      phase_.notify_all();
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
      // More threads than cores would take long turns at spinning.
      if (spins >= kSpins) phase_.wait(phase, std::memory_order_acquire);
    }
  }

 private:
  static constexpr int kSpins = 300;

  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<int> phase_{0};
};

// Lets a racer start up to a few dozen nanoseconds late, differently in each round.
class Jitter {
 public:
  explicit Jitter(unsigned seed) : state_(seed * 2654435761u + 1) {}
  void operator()() {
    for (unsigned spins = Next() >> 26; spins > 0; --spins) asm volatile("");
  }
  // Up to a millisecond, and lets others have the core.
  void HoldBack() { std::this_thread::sleep_for(std::chrono::microseconds(Next() >> 22)); }

 private:
  unsigned Next() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_;
  }

  unsigned state_;
};

// Lets two racers begin within nanoseconds of each other, although there are more of them than
// cores: the first of each two waits a little for the second, which is likely to be on another
// core.
class StartInPairs {
 public:
  void Reset() { started_.store(0, std::memory_order_relaxed); }
  void Wait() {
    // Relaxed, here and in Overlap: the harness must not order what the racers do.
    const int place = started_.fetch_add(1, std::memory_order_relaxed);
    if (place % 2 != 0) return;
    for (int spins = 0; spins < 2000; ++spins) {
      if (started_.load(std::memory_order_relaxed) > place + 1) return;
    }
  }

 private:
  std::atomic<int> started_{0};
};

// Whether any two racers of a round were inside at once.
class Overlap {
 public:
  void Reset() { seen_.store(false, std::memory_order_relaxed); }
  void Enter() {
    if (inside_.fetch_add(1, std::memory_order_relaxed) != 0) {
      seen_.store(true, std::memory_order_relaxed);
    }
  }
  void Exit() { inside_.fetch_sub(1, std::memory_order_relaxed); }
  bool seen() const { return seen_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int> inside_{0};
  std::atomic<bool> seen_{false};
};

// Racers that the scheduler keeps on one core take turns and never race.
inline void SpreadOverCores(size_t racer) {
  const unsigned cores = std::thread::hardware_concurrency();
  if (cores < 2) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(racer % cores, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);  // a wish: it may be refused
}

// Of so many rounds, those to run here: all where AllRounds(); else a sixteenth under
// ThreadSanitizer, which is what finds races, and a twentieth elsewhere.
inline int RaceRounds(int all) { return Rounds(all, kThreadSanitizer ? all / 16 : all / 20); }

// How many rounds a race has: `rounds`, and on a busy machine, whose scheduler lets the same racer
// begin for long, up to twenty times as many, until each of the outcomes that are counted has come.
// In those further rounds the racers are held back by turns.
class RaceLength {
 public:
  // Implicit, so that a race may have plain rounds.
  RaceLength(int rounds, std::initializer_list<const int*> outcomes = {})  // NOLINT
      : RaceLength(rounds, [counts = std::vector<const int*>(outcomes)] {
          return std::all_of(counts.begin(), counts.end(),
                             [](const int* count) { return *count != 0; });
        }) {}
  // For outcomes that are counted otherwise.
  RaceLength(int rounds, std::function<bool()> all_have_come)
      : rounds_(rounds), all_have_come_(std::move(all_have_come)) {}

  bool IsFurther(int round) const { return round >= rounds_; }
  bool HasRound(int round) const {
    if (!IsFurther(round)) return true;
    return round < 20 * rounds_ && !all_have_come_();
  }

 private:
  int rounds_;
  std::function<bool()> all_have_come_;
};

// In each round: initialise(round) on one thread, then all racers at once, then check(round).
// Returns in how many rounds at least two racers ran at the same time.
inline int Race(const RaceLength& length, const std::function<void(int)>& initialise,
                const std::vector<std::function<void()>>& racers,
                const std::function<void(int)>& check) {
  SpinBarrier barrier(static_cast<int>(racers.size()) + 1);
  StartInPairs start;
  Overlap overlap;
  bool over = false;  // the barrier orders it
  std::vector<std::thread> threads;
  for (size_t i = 0; i < racers.size(); ++i) {
    threads.emplace_back([&, i] {
      SpreadOverCores(i);
      Jitter jitter(static_cast<unsigned>(i));
      for (size_t round = 0;; ++round) {
        barrier.Wait();
        if (over) return;
        start.Wait();
        overlap.Enter();
        jitter();
        if (length.IsFurther(static_cast<int>(round)) && round % racers.size() == i) {
          jitter.HoldBack();
        }
        racers[i]();
        overlap.Exit();
        barrier.Wait();
      }
    });
  }
  int overlapped = 0;
  for (int round = 0; length.HasRound(round); ++round) {
    initialise(round);
    start.Reset();
    overlap.Reset();
    barrier.Wait();
    barrier.Wait();
    overlapped += overlap.seen() ? 1 : 0;
    check(round);
  }
  over = true;
  barrier.Wait();
  for (std::thread& thread : threads) thread.join();
  return overlapped;
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_RACE_H_
