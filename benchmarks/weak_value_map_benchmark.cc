// SPDX-License-Identifier: Apache-2.0
// Maps of weak references, against what people write by hand and against the physical floor. Names
// are operation/subject/size; compare the rows of one run.
//
//   weakcache                WeakValueMap<K, V>, objects made by try_emplace
//   weakcache_inserted       the same, objects made by MakeRef and entered with insert
//   weakcache_shared_ptr     WeakValueMap<K, std::shared_ptr<V>>
//   floor                    flat_hash_map<K, T*>: find, one atomic increment, one decrement
//   std_mutex_unordered_map  std::mutex + unordered_map<K, weak_ptr<V>>, make_shared, and a sweep
//                            over the whole table whenever it has doubled: the code that everybody
//                            writes
//   absl_flat_hash_map       flat_hash_map<K, weak_ptr<V>> with the same sweep and no lock
//
//   get_hit, get_miss        look-ups with keys of 8 bytes
//   get_hit_string           look-ups with strings of 16 to 64 bytes, by string_view where the map
//                            can (std::unordered_map can't)
//   iterate                  over all entries, with a strong reference to each in turn;
//                            time_per_entry is the figure to compare
//   churn                    an object's whole life in a map at its steady size
//   mass_expiry              see mass_expiry.h
//   memory                   see value_map_memory.h
#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/fixtures.h"
#include "benchmarks/mass_expiry.h"
#include "benchmarks/run_benchmarks.h"
#include "benchmarks/value_map_memory.h"
#include "benchmarks/value_map_subjects.h"

namespace weakcache {
namespace {

// A map with `size` live objects and the keys of the look-ups, in their order.
template <typename Subject>
class Filled {
  using Key = typename Subject::Key;

 public:
  explicit Filled(size_t size) {
    held_.reserve(size);
    for (size_t i = 0; i < size; ++i) Fill(held_.emplace_back());
    std::mt19937_64 random(1);
    keys_.resize(KeyCount(size));
    for (Key& key : keys_) key = KeyOf<Key>(KeyAt(random() % size));
  }

  Subject& subject() { return subject_; }
  size_t size() const { return held_.size(); }
  const std::vector<Key>& keys() const { return keys_; }

  // Another object takes the place of `victim`.
  void Replace(size_t victim) {
    if constexpr (kRemovesAtEnd<Subject>) End(subject_, held_[victim]);
    Fill(held_[victim]);
  }

  // Whether some of the objects are there while they live and not afterwards.
  bool IsRight() {
    for (size_t i = 0; i < size(); i += size() / 100) {
      const int64_t id = held_[i]->id;
      const auto found = subject_.Get(KeyOf<Key>(id));
      if (!found || found->id != id) return false;
    }
    const int64_t ended = held_[0]->id;
    Replace(0);
    return !subject_.Get(KeyOf<Key>(ended));
  }

 private:
  // A power of two. Strings are long: as many as it takes to reach all entries.
  static size_t KeyCount(size_t size) {
    constexpr size_t kMost = size_t{1} << 20;
    constexpr size_t kFewestStrings = size_t{1} << 14;
    if constexpr (!std::is_same_v<Key, std::string>) return kMost;
    return std::clamp(std::bit_ceil(size), kFewestStrings, kMost);
  }

  void Fill(typename Subject::Strong& place) {
    const int64_t id = KeyAt(next_++);
    place = subject_.Insert(KeyOf<Key>(id), id);
  }

  Subject subject_;
  std::vector<typename Subject::Strong> held_;
  std::vector<Key> keys_;
  size_t next_ = 0;
};

// One that is churned is no other benchmark's.
template <typename Subject>
Filled<Subject>& GetFilled(const benchmark::State& state, bool churns) {
  return Fixtures::Get<Filled<Subject>>(state.range(0), churns ? 1 : 0, [&] {
    return std::make_unique<Filled<Subject>>(static_cast<size_t>(state.range(0)));
  });
}

template <typename Subject>
void GetHit(benchmark::State& state) {
  Filled<Subject>& filled = GetFilled<Subject>(state, false);
  const auto& keys = filled.keys();
  size_t next = 0;
  for (auto _ : state) {
    auto found = filled.subject().Get(keys[next++ & (keys.size() - 1)]);
    if (!found) state.SkipWithError("wrong answer");
    benchmark::DoNotOptimize(found);
  }
}

template <typename Subject>
void GetMiss(benchmark::State& state) {
  Filled<Subject>& filled = GetFilled<Subject>(state, false);
  const auto& keys = filled.keys();
  size_t next = 0;
  for (auto _ : state) {
    auto found = filled.subject().Get(keys[next++ & (keys.size() - 1)] | 1);
    if (found) state.SkipWithError("wrong answer");
    benchmark::DoNotOptimize(found);
  }
}

template <typename Subject>
void Iterate(benchmark::State& state) {
  Filled<Subject>& filled = GetFilled<Subject>(state, false);
  uint64_t expected = 0;
  for (size_t i = 0; i < filled.size(); ++i) expected += static_cast<uint64_t>(KeyAt(i));
  for (auto _ : state) {
    uint64_t sum = 0;
    filled.subject().ForEach(
        [&](const Object& object) { sum += static_cast<uint64_t>(object.id); });
    if (sum != expected) state.SkipWithError("wrong answer");
  }
  const auto entries = static_cast<double>(state.iterations()) * static_cast<double>(filled.size());
  state.SetItemsProcessed(static_cast<int64_t>(entries));
  state.counters["time_per_entry"] =
      benchmark::Counter(entries, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// Enough for several of the others' sweeps, which come once their table has doubled.
int64_t ChurnSteps(int64_t size) { return std::max<int64_t>(1'000'000, 4 * size); }

// Steady state: with each step an object under a new key takes the place of another.
template <typename Subject>
void Churn(benchmark::State& state) {
  Filled<Subject>& filled = GetFilled<Subject>(state, true);
  std::mt19937_64 random(1);
  for (auto _ : state) filled.Replace(random() % filled.size());
  if (!filled.IsRight()) state.SkipWithError("wrong answer");
}

template <template <typename> typename Subject>
void RegisterSubject(const std::string& subject) {
  const std::pair<const char*, void (*)(benchmark::State&)> operations[] = {
      {"get_hit/", &GetHit<Subject<int64_t>>},
      {"get_miss/", &GetMiss<Subject<int64_t>>},
      {"iterate/", &Iterate<Subject<int64_t>>},
      {"churn/", &Churn<Subject<int64_t>>},
      {"get_hit_string/", &GetHit<Subject<std::string>>},
  };
  // All operations on one size in a row, churn the last: they share the filled map.
  for (const int64_t size : {1000, 100'000, 1'000'000}) {
    for (const auto& [operation, run] : operations) {
      if (run == &Iterate<Subject<int64_t>> && size != 1'000'000) continue;
      auto* const registered = benchmark::RegisterBenchmark((operation + subject).c_str(), run);
      registered->Arg(size);
      if (run == &Churn<Subject<int64_t>>) registered->Iterations(ChurnSteps(size));
    }
  }
}

// With nothing else in memory.
template <void (*kRun)(benchmark::State&)>
void Alone(benchmark::State& state) {
  Fixtures::Clear();
  kRun(state);
}

template <template <typename> typename Subject>
void RegisterAlone(const std::string& subject) {
  benchmark::RegisterBenchmark(("mass_expiry/" + subject).c_str(),
                               &Alone<&MassExpiry<Subject<int64_t>>>)
      ->Arg(kMassEntries)
      ->Iterations(kMassRepetitions)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
  auto* const memory = benchmark::RegisterBenchmark(("memory/" + subject).c_str(),
                                                    &Alone<&MapMemory<Subject<int64_t>>>);
  memory->Iterations(1);
  for (const int64_t size : {1000, 1500, 70'000, 100'000, 700'000, 1'000'000}) memory->Arg(size);
}

void RegisterAll() {
  RegisterSubject<CreatedSubject>("weakcache");
  RegisterSubject<InsertedSubject>("weakcache_inserted");
  RegisterSubject<SharedPtrSubject>("weakcache_shared_ptr");
  RegisterSubject<FloorSubject>("floor");
  RegisterSubject<StdMutexSubject>("std_mutex_unordered_map");
  RegisterSubject<AbslSubject>("absl_flat_hash_map");
  RegisterAlone<CreatedSubject>("weakcache");
  RegisterAlone<InsertedSubject>("weakcache_inserted");
  RegisterAlone<SharedPtrSubject>("weakcache_shared_ptr");
  RegisterAlone<FloorSubject>("floor");
  RegisterAlone<StdMutexSubject>("std_mutex_unordered_map");
  RegisterAlone<AbslSubject>("absl_flat_hash_map");
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) {
  weakcache::RegisterAll();
  return weakcache::RunBenchmarks(argc, argv);
}
