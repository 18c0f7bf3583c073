// SPDX-License-Identifier: Apache-2.0
// Thread-safe maps of weak references, against what people write by hand and against the physical
// floor. Names are operation/subject/size; compare the rows of one run. Times are per operation of
// one thread: with two threads, twice the throughput is the same time.
//
//   weakcache                    ConcurrentWeakValueMap<K, V>, objects made by get_or_create
//   weakcache_shared_ptr         ConcurrentWeakValueMap<K, std::shared_ptr<V>>
//   floor                        flat_hash_map<K, T*>: find, one atomic increment, one decrement,
//                                no lock: good for reading only
//   std_mutex_unordered_map      std::mutex + unordered_map<K, weak_ptr<V>>, swept when it doubles
//   absl_mutex_flat_hash_map     absl::Mutex + flat_hash_map, the same sweep
//   sharded_mutex_flat_hash_map  64 of them, each with a std::mutex
//   tbb_concurrent_hash_map      never swept
//
//   get_hit, get_miss            look-ups, all keys alike
//   get_hit_zipf                 look-ups, the k-th key in proportion to 1 / k ^ 0.99
//   get_hit_hot                  look-ups of one key
//   get_hit_string               as get_hit, with strings of 16 to 64 bytes
//   mixed_95_5                   95 % look-ups, 5 % replacements by a new object
//   get_or_create_churn          half the keys are found; for the others, which are new ones, an
//                                object is made, in place of another that goes
//   get_or_create_recurring      as well, with keys from a set of twice the size: a weak_ptr map
//                                puts the new object where a dead one of the same key was, and so
//                                it never grows, and never needs a sweep
//   growth                       the longest look-up of one thread while another fills the map from
//                                1e5 to 2e6 entries, in `longest_us`, and the 99.99 percentile
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/concurrent_map_subjects.h"
#include "benchmarks/fixtures.h"
#include "benchmarks/run_benchmarks.h"

namespace weakcache {
namespace {

constexpr size_t kLookups = size_t{1} << 18;

// The places of the keys to look up, in their order.
std::vector<size_t> UniformPlaces(size_t size, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<size_t> places(kLookups);
  for (size_t& place : places) place = random() % size;
  return places;
}
std::vector<size_t> ZipfPlaces(size_t size, unsigned seed) {
  std::vector<double> sums(size);
  double sum = 0;
  for (size_t rank = 0; rank < size; ++rank) {
    sums[rank] = sum += 1 / std::pow(static_cast<double>(rank + 1), 0.99);
  }
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> draw(0, sum);
  std::vector<size_t> places(kLookups);
  for (size_t& place : places) {
    const auto rank = std::lower_bound(sums.begin(), sums.end(), draw(random)) - sums.begin();
    // Neighbours in rank are not neighbours in memory.
    place = static_cast<size_t>(rank) * 7919 % size;
  }
  return places;
}

// A map with `size` live objects.
template <typename Subject>
struct Filled {
  using Key = typename Subject::Key;

  explicit Filled(size_t size) : held(size) {
    subject.Reserve(size);
    for (size_t i = 0; i < size; ++i) held[i] = subject.GetOrCreate(KeyOf<Key>(KeyAt(i)), KeyAt(i));
  }

  Subject subject;
  std::vector<typename Subject::Strong> held;
};
// One that is changed is no other benchmark's.
template <typename Subject>
void Fill(const benchmark::State& state, bool changes) {
  Fixtures::Get<Filled<Subject>>(state.range(0), changes ? 1 : 0, [&] {
    return std::make_unique<Filled<Subject>>(static_cast<size_t>(state.range(0)));
  });
}
template <typename Subject>
Filled<Subject>& CurrentlyFilled() {
  return Fixtures::Current<Filled<Subject>>();
}

enum class Keys { kUniform, kZipf, kHot, kAbsent };

template <typename Subject, Keys kKeys>
void Get(benchmark::State& state) {
  using Key = typename Subject::Key;
  if (state.thread_index() == 0) Fill<Subject>(state, false);
  const auto size = static_cast<size_t>(state.range(0));
  const auto seed = static_cast<unsigned>(state.thread_index() + 1);
  std::vector<Key> keys;
  for (const size_t place :
       kKeys == Keys::kZipf ? ZipfPlaces(size, seed) : UniformPlaces(size, seed)) {
    keys.push_back(
        KeyOf<Key>(KeyAt(kKeys == Keys::kHot ? 0 : place) | (kKeys == Keys::kAbsent ? 1 : 0)));
  }
  size_t next = 0;
  Subject* subject = nullptr;
  bool right = true;
  for (auto _ : state) {
    // Another thread may have filled it, until here.
    if (subject == nullptr) subject = &CurrentlyFilled<Subject>().subject;
    auto found = subject->Get(keys[next++ % kLookups]);
    right &= (kKeys == Keys::kAbsent) != static_cast<bool>(found);
    benchmark::DoNotOptimize(found);
  }
  if (!right) state.SkipWithError("wrong answer");
}

template <typename Subject>
void Mixed(benchmark::State& state) {
  using Key = typename Subject::Key;
  if (state.thread_index() == 0) Fill<Subject>(state, true);
  const auto threads = static_cast<size_t>(state.threads());
  const auto thread = static_cast<size_t>(state.thread_index());
  const std::vector<size_t> places =
      UniformPlaces(static_cast<size_t>(state.range(0)), static_cast<unsigned>(thread + 1));
  size_t next = 0;
  bool right = true;
  for (auto _ : state) {
    auto& filled = CurrentlyFilled<Subject>();
    const size_t place = places[next++ % kLookups];
    // A thread replaces objects of its own only, as nobody else may touch what holds them.
    if (next % 20 == 0) {
      const size_t mine = place / threads * threads + thread;
      if (mine < filled.held.size()) {
        filled.held[mine] = filled.subject.Assign(KeyOf<Key>(KeyAt(mine)), KeyAt(mine));
      }
    } else {
      const auto found = filled.subject.Get(KeyOf<Key>(KeyAt(place)));
      right &= found != nullptr && found->id == KeyAt(place);
    }
  }
  if (!right) state.SkipWithError("wrong answer");
}

// Enough for two of a peer's sweeps at least, which come once it has doubled.
int64_t ChurnSteps(int64_t size) { return std::max<int64_t>(1'000'000, 6 * size); }

template <typename Subject, bool kRecurring>
void Churn(benchmark::State& state) {
  using Key = typename Subject::Key;
  const auto size = static_cast<size_t>(state.range(0));
  const auto threads = static_cast<size_t>(state.threads());
  const auto thread = static_cast<size_t>(state.thread_index());
  if (thread == 0) Fixtures::GetNew(std::make_unique<Filled<Subject>>(1));
  std::mt19937_64 random(static_cast<unsigned>(thread + 1));
  std::vector<typename Subject::Strong> held(size / threads);
  size_t next_new = thread + 1;  // counts up by `threads`, so no two threads make the same
  const auto new_id = [&] { return KeyAt(std::exchange(next_new, next_new + threads)); };
  bool right = true;
  const auto step = [&](Subject& subject, bool only_new) {
    const uint64_t bits = random();
    auto& place = held[bits % held.size()];
    int64_t id;
    if (kRecurring) {
      id = KeyAt((bits >> 32) % (2 * size));
    } else if ((bits >> 63) != 0 && !only_new) {
      auto found = subject.GetOrCreate(KeyOf<Key>(place->id), place->id);
      right &= found->id == place->id;
      return;
    } else {
      id = new_id();
    }
    place = subject.GetOrCreate(KeyOf<Key>(id), id);
    right &= place->id == id;
  };
  bool warm = false;
  for (auto _ : state) {
    auto& subject = CurrentlyFilled<Subject>().subject;
    if (!warm) {
      warm = true;
      state.PauseTiming();
      for (auto& place : held) {
        const int64_t id = new_id();
        place = subject.GetOrCreate(KeyOf<Key>(id), id);
      }
      for (size_t i = 0; i < 4 * held.size(); ++i) step(subject, true);
      state.ResumeTiming();
    }
    step(subject, false);
  }
  if (!right) state.SkipWithError("wrong answer");
}

// In nanoseconds, how long each of many look-ups took while the map grew.
template <typename Subject>
void Growth(benchmark::State& state) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kFirst = 100'000, kLast = 2'000'000;
  for (auto _ : state) {
    Subject subject;
    std::vector<typename Subject::Strong> held;
    held.reserve(kLast);
    const auto add = [&] {
      const int64_t id = KeyAt(held.size());
      held.push_back(subject.GetOrCreate(id, id));
    };
    while (held.size() < kFirst) add();
    std::vector<int64_t> times;
    times.reserve(size_t{1} << 25);
    std::atomic<bool> done{false};
    std::thread reader([&] {
      std::mt19937_64 random(1);
      while (!done.load(std::memory_order_relaxed) && times.size() < times.capacity()) {
        const int64_t key = KeyAt(random() % kFirst);
        const Clock::time_point start = Clock::now();
        benchmark::DoNotOptimize(subject.Get(key));
        times.push_back((Clock::now() - start).count());
      }
    });
    while (held.size() < kLast) add();
    done = true;
    reader.join();
    std::sort(times.begin(), times.end());
    const auto microseconds = [&](double share) {
      const double last = static_cast<double>(times.size() - 1);
      return static_cast<double>(times[static_cast<size_t>(share * last)]) / 1000;
    };
    state.counters["longest_us"] = microseconds(1);
    state.counters["p9999_us"] = microseconds(0.9999);
    state.counters["lookups"] = static_cast<double>(times.size());
  }
}

template <template <typename> typename Subject>
void RegisterSubject(const std::string& subject) {
  using Run = void (*)(benchmark::State&);
  using Plain = Subject<int64_t>;
  std::vector<std::pair<const char*, Run>> operations = {
      {"get_hit/", &Get<Plain, Keys::kUniform>},
      {"get_hit_zipf/", &Get<Plain, Keys::kZipf>},
      {"get_hit_hot/", &Get<Plain, Keys::kHot>},
      {"get_miss/", &Get<Plain, Keys::kAbsent>},
      {"get_hit_string/", &Get<Subject<std::string>, Keys::kUniform>},
  };
  if constexpr (!kIsReadOnly<Plain>) {
    operations.emplace_back("mixed_95_5/", &Mixed<Plain>);
    operations.emplace_back("mixed_95_5_string/", &Mixed<Subject<std::string>>);
    operations.emplace_back("get_or_create_churn/", &Churn<Plain, false>);
    operations.emplace_back("get_or_create_recurring/", &Churn<Plain, true>);
  }
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  for (const int64_t size : {1000, 100'000, 1'000'000}) {
    for (const auto& [operation, run] : operations) {
      for (int threads = 1; threads <= std::max(2, cores); threads *= 2) {
        auto* const registered = benchmark::RegisterBenchmark((operation + subject).c_str(), run);
        registered->Arg(size)->Threads(threads)->UseRealTime();
        if (std::string(operation).find("get_or_create") == 0) {
          registered->Iterations(ChurnSteps(size) / threads);
        }
      }
    }
  }
  if constexpr (!kIsReadOnly<Plain>) {
    benchmark::RegisterBenchmark(("growth/" + subject).c_str(), &Growth<Plain>)
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  }
}

void RegisterAll() {
  RegisterSubject<ConcurrentSubject>("weakcache");
  RegisterSubject<ConcurrentSharedPtrSubject>("weakcache_shared_ptr");
  RegisterSubject<ConcurrentFloorSubject>("floor");
  RegisterSubject<ConcurrentStdMutexSubject>("std_mutex_unordered_map");
  RegisterSubject<AbslMutexSubject>("absl_mutex_flat_hash_map");
  RegisterSubject<ShardedSubject>("sharded_mutex_flat_hash_map");
  RegisterSubject<TbbSubject>("tbb_concurrent_hash_map");
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) {
  weakcache::RegisterAll();
  return weakcache::RunBenchmarks(argc, argv);
}
