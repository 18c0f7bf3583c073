// SPDX-License-Identifier: Apache-2.0
// One object for equal strings of 16 to 64 bytes.
//
//   weakcache                          WeakInterner<std::string>, asked with string_views
//   boost_flyweight                    refcounted, simple_locking; it makes a copy of the string
//                                      for every look-up
//   boost_flyweight_no_locking         the same for one thread
//   std_mutex_unordered_set_weak_ptr   std::mutex + unordered_set of weak_ptrs with their hashes,
//                                      make_shared, and a sweep over the whole set whenever it has
//                                      doubled
//
//   intern_hit     the string is there
//   intern_churn   a steady number of strings: a new one takes the place of another
#include <benchmark/benchmark.h>

#include <boost/flyweight/flyweight.hpp>
#include <boost/flyweight/hashed_factory.hpp>
#include <boost/flyweight/no_locking.hpp>
#include <boost/flyweight/refcounted.hpp>
#include <boost/flyweight/simple_locking.hpp>
#include <boost/flyweight/static_holder.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/weak_containers_benchmark.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

class WeakcacheSubject {
 public:
  using Strong = Ref<const std::string>;
  Strong intern(const std::string& text) { return interner_.intern(std::string_view(text)); }
  static const std::string* Address(const Strong& interned) { return interned.get(); }

 private:
  WeakInterner<std::string> interner_;
};

// The strings of a flyweight type are in one place for the whole program.
template <typename Locking>
class FlyweightSubject {
 public:
  using Strong = boost::flyweights::flyweight<std::string, boost::flyweights::hashed_factory<>,
                                              boost::flyweights::refcounted, Locking,
                                              boost::flyweights::static_holder>;
  Strong intern(const std::string& text) { return Strong(text); }
  static const std::string* Address(const Strong& interned) { return &interned.get(); }
};

class StdMutexSubject {
 public:
  using Strong = std::shared_ptr<const std::string>;

  Strong intern(const std::string& text) {
    const std::lock_guard lock(mutex_);
    const Lookup lookup{std::hash<std::string_view>()(text), text};
    if (const auto found = entries_.find(lookup); found != entries_.end()) {
      if (Strong present = found->weak.lock()) return present;
    }
    if (entries_.size() >= sweep_at_) Sweep();
    Strong made = std::make_shared<const std::string>(text);
    entries_.insert(Entry{lookup.hash, made});
    return made;
  }
  static const std::string* Address(const Strong& interned) { return interned.get(); }

 private:
  struct Entry {
    size_t hash;
    std::weak_ptr<const std::string> weak;
  };
  struct Lookup {
    size_t hash;
    std::string_view text;
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(const Entry& entry) const { return entry.hash; }
    size_t operator()(const Lookup& lookup) const { return lookup.hash; }
  };
  // Dead entries equal only themselves, so they never hide a live one.
  struct Equal {
    using is_transparent = void;
    bool operator()(const Entry& a, const Entry& b) const {
      return !a.weak.owner_before(b.weak) && !b.weak.owner_before(a.weak);
    }
    bool operator()(const Lookup& lookup, const Entry& entry) const {
      if (lookup.hash != entry.hash) return false;
      const Strong text = entry.weak.lock();
      return text != nullptr && *text == lookup.text;
    }
    bool operator()(const Entry& entry, const Lookup& lookup) const {
      return (*this)(lookup, entry);
    }
  };

  void Sweep() {
    std::erase_if(entries_, [](const Entry& entry) { return entry.weak.expired(); });
    sweep_at_ = 2 * entries_.size() + 16;
  }

  std::mutex mutex_;
  std::unordered_set<Entry, Hash, Equal> entries_;
  size_t sweep_at_ = 16;
};

template <typename Subject>
void InternHit(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  Subject subject;
  std::vector<typename Subject::Strong> held;
  for (size_t i = 0; i < size; ++i) held.push_back(subject.intern(TextOf(KeyAt(i))));

  struct Lookup {
    std::string text;
    const std::string* expected;
  };
  std::vector<Lookup> lookups(size_t{1} << 16);
  std::mt19937_64 random(1);
  for (Lookup& lookup : lookups) {
    const size_t i = random() % size;
    lookup = {TextOf(KeyAt(i)), Subject::Address(held[i])};
  }
  size_t next = 0;
  for (auto _ : state) {
    const Lookup& lookup = lookups[next++ & (lookups.size() - 1)];
    const auto found = subject.intern(lookup.text);
    if (Subject::Address(found) != lookup.expected) state.SkipWithError("wrong answer");
    benchmark::DoNotOptimize(found);
  }
}

template <typename Subject>
void InternChurn(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  Subject subject;
  std::vector<typename Subject::Strong> held;
  size_t next_key = 0;
  for (; next_key < size; ++next_key) held.push_back(subject.intern(TextOf(KeyAt(next_key))));

  std::mt19937_64 random(1);
  std::string text;
  text.reserve(64);
  for (auto _ : state) {
    AssignText(KeyAt(next_key++), text);
    auto& victim = held[random() % size];
    victim = subject.intern(text);
    if (*Subject::Address(victim) != text) state.SkipWithError("wrong answer");
  }
}

template <typename Subject>
void RegisterSubject(const std::string& subject) {
  benchmark::RegisterBenchmark(("intern_hit/" + subject).c_str(), &InternHit<Subject>)
      ->Arg(1000)
      ->Arg(100'000);
  benchmark::RegisterBenchmark(("intern_churn/" + subject).c_str(), &InternChurn<Subject>)
      ->Arg(1000)
      ->Arg(100'000);
}

}  // namespace

void RegisterInternerBenchmarks() {
  RegisterSubject<WeakcacheSubject>("weakcache");
  RegisterSubject<FlyweightSubject<boost::flyweights::simple_locking>>("boost_flyweight");
  RegisterSubject<FlyweightSubject<boost::flyweights::no_locking>>("boost_flyweight_no_locking");
  RegisterSubject<StdMutexSubject>("std_mutex_unordered_set_weak_ptr");
}

}  // namespace weakcache
