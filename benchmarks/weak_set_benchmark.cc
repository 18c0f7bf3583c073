// SPDX-License-Identifier: Apache-2.0
// Sets of objects by identity.
//
//   weakcache             WeakSet<T>
//   std_set_owner_less    std::set<std::weak_ptr<T>, std::owner_less<>>
//   absl_flat_hash_map    flat_hash_map<T*, std::weak_ptr<T>>: the usual list of observers
//
//   add_discard   adds an object to a set of that size and takes it out again
//   contains      of an object that is in the set
//   for_each      time_per_entry is the figure to compare
//
// Nothing dies meanwhile; the peers would have to sweep.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/benchmark_data.h"
#include "benchmarks/weak_containers_benchmark.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

class WeakcacheSubject {
 public:
  using Strong = Ref<Object>;
  static Strong Make(int64_t id) { return MakeRef<Object>(id); }
  bool Add(const Strong& object) { return set_.insert(object).second; }
  bool Discard(const Strong& object) { return set_.erase(object) == 1; }
  bool Contains(const Strong& object) { return set_.contains(object); }
  template <typename Visit>
  void ForEach(Visit visit) {
    set_.for_each([&](const Strong& object) { visit(*object); });
  }

 private:
  WeakSet<Object> set_;
};

class OwnerLessSubject {
 public:
  using Strong = std::shared_ptr<Object>;
  static Strong Make(int64_t id) { return std::make_shared<Object>(id); }
  bool Add(const Strong& object) { return set_.insert(object).second; }
  bool Discard(const Strong& object) {
    const auto found = set_.find(object);
    if (found == set_.end()) return false;
    set_.erase(found);
    return true;
  }
  bool Contains(const Strong& object) { return set_.contains(object); }
  template <typename Visit>
  void ForEach(Visit visit) {
    for (const auto& weak : set_) {
      if (const Strong object = weak.lock()) visit(*object);
    }
  }

 private:
  std::set<std::weak_ptr<Object>, std::owner_less<>> set_;
};

class ObserversSubject {
 public:
  using Strong = std::shared_ptr<Object>;
  static Strong Make(int64_t id) { return std::make_shared<Object>(id); }
  // A dead entry is a former object's at the same address.
  bool Add(const Strong& object) {
    const auto [entry, added] = observers_.try_emplace(object.get(), object);
    if (added) return true;
    if (!entry->second.expired()) return false;
    entry->second = object;
    return true;
  }
  bool Discard(const Strong& object) { return observers_.erase(object.get()) == 1; }
  bool Contains(const Strong& object) {
    const auto found = observers_.find(object.get());
    return found != observers_.end() && !found->second.expired();
  }
  template <typename Visit>
  void ForEach(Visit visit) {
    for (const auto& [address, weak] : observers_) {
      if (const Strong object = weak.lock()) visit(*object);
    }
  }

 private:
  absl::flat_hash_map<Object*, std::weak_ptr<Object>> observers_;
};

// `size` objects in the set and a few thousand that are not.
template <typename Subject>
struct Filled {
  explicit Filled(size_t size) {
    for (size_t i = 0; i < size; ++i) {
      members.push_back(Subject::Make(KeyAt(i)));
      subject.Add(members.back());
    }
    for (size_t i = 0; i < size_t{1} << 12; ++i) others.push_back(Subject::Make(KeyAt(size + i)));
  }
  Subject subject;
  std::vector<typename Subject::Strong> members;
  std::vector<typename Subject::Strong> others;
};

template <typename Subject>
void AddDiscard(benchmark::State& state) {
  Filled<Subject> filled(static_cast<size_t>(state.range(0)));
  size_t next = 0;
  for (auto _ : state) {
    const auto& object = filled.others[next++ & (filled.others.size() - 1)];
    if (!filled.subject.Add(object)) state.SkipWithError("wrong answer");
    if (!filled.subject.Discard(object)) state.SkipWithError("wrong answer");
  }
}

template <typename Subject>
void Contains(benchmark::State& state) {
  Filled<Subject> filled(static_cast<size_t>(state.range(0)));
  std::mt19937_64 random(1);
  std::vector<typename Subject::Strong> lookups;
  for (size_t i = 0; i < size_t{1} << 16; ++i) {
    lookups.push_back(filled.members[random() % filled.members.size()]);
  }
  size_t next = 0;
  for (auto _ : state) {
    if (!filled.subject.Contains(lookups[next++ & (lookups.size() - 1)])) {
      state.SkipWithError("wrong answer");
    }
  }
  if (filled.subject.Contains(filled.others[0])) state.SkipWithError("wrong answer");
}

template <typename Subject>
void ForEach(benchmark::State& state) {
  Filled<Subject> filled(static_cast<size_t>(state.range(0)));
  uint64_t expected = 0;
  for (const auto& object : filled.members) expected += static_cast<uint64_t>(object->id);
  for (auto _ : state) {
    uint64_t sum = 0;
    filled.subject.ForEach([&](const Object& object) { sum += static_cast<uint64_t>(object.id); });
    if (sum != expected) state.SkipWithError("wrong answer");
  }
  const auto entries =
      static_cast<double>(state.iterations()) * static_cast<double>(filled.members.size());
  state.counters["time_per_entry"] =
      benchmark::Counter(entries, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

template <typename Subject>
void RegisterSubject(const std::string& subject) {
  const std::pair<const char*, void (*)(benchmark::State&)> operations[] = {
      {"add_discard/", &AddDiscard<Subject>},
      {"contains/", &Contains<Subject>},
      {"for_each/", &ForEach<Subject>},
  };
  for (const auto& [operation, run] : operations) {
    benchmark::RegisterBenchmark((operation + subject).c_str(), run)->Arg(1000)->Arg(100'000);
  }
}

}  // namespace

void RegisterSetBenchmarks() {
  RegisterSubject<WeakcacheSubject>("weakcache");
  RegisterSubject<OwnerLessSubject>("std_set_owner_less");
  RegisterSubject<ObserversSubject>("absl_flat_hash_map");
}

}  // namespace weakcache
