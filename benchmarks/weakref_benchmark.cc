// SPDX-License-Identifier: Apache-2.0
// The handles themselves: copying, upgrading, making and ending them, against std, Boost and the
// bare atomic operations. Names are operation/subject/size; compare the rows of one run.
//
//   floor   one fetch_add and one fetch_sub, or one allocation of that size and its end
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <boost/make_shared.hpp>
#include <boost/shared_ptr.hpp>
#include <boost/weak_ptr.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "benchmarks/run_benchmarks.h"
#include "weakcache/weakref/atomic_ref.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

struct Weakcache {
  template <typename T>
  using Strong = Ref<T>;
  template <typename T>
  using Weak = WeakRef<T>;
  template <typename T>
  using Atomic = AtomicRef<T>;
  template <typename T>
  static Ref<T> Make() {
    return MakeRef<T>();
  }
};

struct Std {
  template <typename T>
  using Strong = std::shared_ptr<T>;
  template <typename T>
  using Weak = std::weak_ptr<T>;
  template <typename T>
  using Atomic = std::atomic<std::shared_ptr<T>>;
  template <typename T>
  static std::shared_ptr<T> Make() {
    return std::make_shared<T>();
  }
};

struct Boost {
  template <typename T>
  using Strong = boost::shared_ptr<T>;
  template <typename T>
  using Weak = boost::weak_ptr<T>;
  template <typename T>
  static boost::shared_ptr<T> Make() {
    return boost::make_shared<T>();
  }
};

// Not initialised, as the buffers of decoders are not: what is measured is the handle's share.
template <size_t kBytes>
struct Payload {
  Payload() {}  // NOLINT(modernize-use-equals-default): `= default` would fill it with zeros
  alignas(8) char bytes[kBytes];
};

// Threads that the scheduler keeps on one core take turns and never contend.
void SpreadOverCores(const benchmark::State& state) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(state.thread_index()) % std::thread::hardware_concurrency(), &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

// One object for all threads of a run.
template <typename Subject>
struct Shared {
  using Object = Payload<16>;
  inline static typename Subject::template Strong<Object> strong;
  inline static typename Subject::template Weak<Object> weak;
};

template <typename Subject>
void SetUp(const benchmark::State&) {
  Shared<Subject>::strong = Subject::template Make<typename Shared<Subject>::Object>();
  Shared<Subject>::weak = Shared<Subject>::strong;
}
template <typename Subject>
void TearDown(const benchmark::State&) {
  Shared<Subject>::strong.reset();
  Shared<Subject>::weak.reset();
}

template <typename Subject>
void CopyDrop(benchmark::State& state) {
  SpreadOverCores(state);
  for (auto _ : state) {
    auto copy = Shared<Subject>::strong;
    benchmark::DoNotOptimize(copy);
  }
}

template <typename Subject>
void LockRelease(benchmark::State& state) {
  SpreadOverCores(state);
  for (auto _ : state) {
    auto strong = Shared<Subject>::weak.lock();
    benchmark::DoNotOptimize(strong);
  }
}

// One reference that all threads of a run load and replace.
template <typename Subject>
struct SharedAtomic {
  using Object = Payload<16>;
  inline static typename Subject::template Atomic<Object> reference;
};

template <typename Subject>
void SetUpAtomic(const benchmark::State&) {
  using Object = typename SharedAtomic<Subject>::Object;
  SharedAtomic<Subject>::reference.store(Subject::template Make<Object>());
}
template <typename Subject>
void TearDownAtomic(const benchmark::State&) {
  SharedAtomic<Subject>::reference.store(nullptr);
}

template <typename Subject>
void AtomicLoad(benchmark::State& state) {
  SpreadOverCores(state);
  for (auto _ : state) {
    auto strong = SharedAtomic<Subject>::reference.load();
    benchmark::DoNotOptimize(strong);
  }
}

// Each thread stores references to an object of its own, made before.
template <typename Subject>
void AtomicStore(benchmark::State& state) {
  SpreadOverCores(state);
  const auto mine = Subject::template Make<typename SharedAtomic<Subject>::Object>();
  for (auto _ : state) SharedAtomic<Subject>::reference.store(mine);
}

template <typename Subject>
void AtomicCompareExchange(benchmark::State& state) {
  SpreadOverCores(state);
  const auto mine = Subject::template Make<typename SharedAtomic<Subject>::Object>();
  auto expected = SharedAtomic<Subject>::reference.load();
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        SharedAtomic<Subject>::reference.compare_exchange_strong(expected, mine));
  }
}

std::atomic<uint64_t> floor_count{1};

void FloorAddSub(benchmark::State& state) {
  SpreadOverCores(state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(floor_count.fetch_add(1, std::memory_order_relaxed));
    benchmark::DoNotOptimize(floor_count.fetch_sub(1, std::memory_order_release));
  }
}

template <typename Subject, size_t kBytes>
void MakeDrop(benchmark::State& state) {
  for (auto _ : state) {
    auto object = Subject::template Make<Payload<kBytes>>();
    benchmark::DoNotOptimize(object);
  }
}

template <size_t kBytes>
void FloorMakeDrop(benchmark::State& state) {
  for (auto _ : state) {
    auto object = std::unique_ptr<Payload<kBytes>>(new Payload<kBytes>);
    benchmark::DoNotOptimize(object);
  }
}

void ExpireWatched(benchmark::State& state) {
  int64_t told = 0;
  std::vector<ExpiryRegistration> registrations(static_cast<size_t>(state.range(0)));
  for (auto _ : state) {
    auto object = MakeRef<Payload<200>>();
    for (ExpiryRegistration& registration : registrations) {
      registration = OnExpire(object, [&told] { ++told; });
    }
    object.reset();
  }
  benchmark::DoNotOptimize(told);
}

// What people write by hand: the deleter runs a list of functions.
void ExpireWatchedByDeleter(benchmark::State& state) {
  int64_t told = 0;
  for (auto _ : state) {
    auto callbacks = std::make_shared<std::vector<std::function<void()>>>();
    std::shared_ptr<Payload<200>> object(new Payload<200>, [callbacks](Payload<200>* payload) {
      delete payload;
      for (auto callback = callbacks->rbegin(); callback != callbacks->rend(); ++callback) {
        (*callback)();
      }
    });
    for (int64_t i = 0; i < state.range(0); ++i) callbacks->push_back([&told] { ++told; });
    object.reset();
  }
  benchmark::DoNotOptimize(told);
}

void RegisterShared(const std::string& name, void (*run)(benchmark::State&),
                    void (*set_up)(const benchmark::State&),
                    void (*tear_down)(const benchmark::State&)) {
  for (const int threads : {1, 2}) {
    benchmark::RegisterBenchmark(name.c_str(), run)
        ->Setup(set_up)
        ->Teardown(tear_down)
        ->Threads(threads)
        ->UseRealTime();
  }
}

template <typename Subject>
void RegisterSubject(const std::string& subject) {
  RegisterShared("copy_drop/" + subject, &CopyDrop<Subject>, &SetUp<Subject>, &TearDown<Subject>);
  RegisterShared("lock_release/" + subject, &LockRelease<Subject>, &SetUp<Subject>,
                 &TearDown<Subject>);
  const std::string make_drop = "make_drop/" + subject;
  benchmark::RegisterBenchmark((make_drop + "/16").c_str(), &MakeDrop<Subject, 16>);
  benchmark::RegisterBenchmark((make_drop + "/4096").c_str(), &MakeDrop<Subject, 4096>);
  benchmark::RegisterBenchmark((make_drop + "/16777216").c_str(), &MakeDrop<Subject, 16 << 20>);
}

// The size is that of the object, for names of one form.
template <typename Subject>
void RegisterAtomic(const std::string& subject) {
  const auto add = [&](const char* operation, void (*run)(benchmark::State&)) {
    RegisterShared(operation + subject + "/16", run, &SetUpAtomic<Subject>,
                   &TearDownAtomic<Subject>);
  };
  add("atomic_load/", &AtomicLoad<Subject>);
  add("atomic_store/", &AtomicStore<Subject>);
  add("atomic_compare_exchange/", &AtomicCompareExchange<Subject>);
}

void RegisterFloor() {
  const auto nothing = [](const benchmark::State&) {};
  RegisterShared("copy_drop/floor", &FloorAddSub, nothing, nothing);
  RegisterShared("lock_release/floor", &FloorAddSub, nothing, nothing);
  benchmark::RegisterBenchmark("make_drop/floor/16", &FloorMakeDrop<16>);
  benchmark::RegisterBenchmark("make_drop/floor/4096", &FloorMakeDrop<4096>);
  benchmark::RegisterBenchmark("make_drop/floor/16777216", &FloorMakeDrop<16 << 20>);
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) {
  using namespace weakcache;  // NOLINT(google-build-using-namespace)
  RegisterSubject<Weakcache>("weakcache");
  RegisterSubject<Std>("std_shared_ptr");
  RegisterSubject<Boost>("boost_shared_ptr");
  RegisterAtomic<Weakcache>("weakcache");
  RegisterAtomic<Std>("std_shared_ptr");
  RegisterFloor();
  for (const int64_t watchers : {0, 1, 8}) {
    benchmark::RegisterBenchmark("expire_watched/weakcache", &ExpireWatched)->Arg(watchers);
    benchmark::RegisterBenchmark("expire_watched/std_shared_ptr", &ExpireWatchedByDeleter)
        ->Arg(watchers);
  }
  return RunBenchmarks(argc, argv);
}
