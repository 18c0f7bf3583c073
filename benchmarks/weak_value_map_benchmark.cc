// Look-ups and churn in a map of weak references, against what people write by hand and against the
// physical floor. Names are operation/subject/size; compare the rows of one run.
//
//   floor                    flat_hash_map<K, T*>: find, one atomic increment, one decrement
//   std_mutex_unordered_map  std::mutex + unordered_map<K, weak_ptr<V>>, make_shared, and a sweep
//   over
//                            the whole table whenever it has doubled: the code that everybody
//                            writes
//   absl_flat_hash_map       flat_hash_map<K, weak_ptr<V>> with the same sweep and no lock
#include <benchmark/benchmark.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/run_benchmarks.h"
#include "cache/weak_value_map.h"
#include "weakref/ref.h"

namespace weakcache {
namespace {

// Large enough to have an allocation of its own.
struct Object {
  explicit Object(int64_t id) : id(id) {}
  int64_t id;
  char bytes[120] = {};
};

class WeakcacheSubject {
 public:
  using Strong = Ref<Object>;
  Strong Insert(int64_t key) { return map_.try_emplace(key, key).first; }
  Strong Get(int64_t key) { return map_.get(key); }

 private:
  WeakValueMap<int64_t, Object> map_;
};

// A weak_ptr map that drops its dead entries as hand-written ones do, if at all: all at once, when
// it has grown to twice what the last sweep left.
template <typename Map>
class SweptMap {
 public:
  using Strong = std::shared_ptr<Object>;
  Strong Insert(int64_t key) {
    Strong object = std::make_shared<Object>(key);
    map_[key] = object;
    if (map_.size() >= sweep_at_) Sweep();
    return object;
  }
  Strong Get(int64_t key) {
    const auto found = map_.find(key);
    return found == map_.end() ? nullptr : found->second.lock();
  }

 private:
  void Sweep() {
    for (auto entry = map_.begin(); entry != map_.end();) {
      if (entry->second.expired()) {
        map_.erase(entry++);
      } else {
        ++entry;
      }
    }
    sweep_at_ = 2 * map_.size() + 16;
  }

  Map map_;
  size_t sweep_at_ = 16;
};

using AbslSubject = SweptMap<absl::flat_hash_map<int64_t, std::weak_ptr<Object>>>;

class StdMutexSubject {
 public:
  using Strong = std::shared_ptr<Object>;
  Strong Insert(int64_t key) {
    const std::lock_guard lock(mutex_);
    return map_.Insert(key);
  }
  Strong Get(int64_t key) {
    const std::lock_guard lock(mutex_);
    return map_.Get(key);
  }

 private:
  std::mutex mutex_;
  SweptMap<std::unordered_map<int64_t, std::weak_ptr<Object>>> map_;
};

class FloorSubject {
 public:
  struct Counted {
    explicit Counted(int64_t id) : object(id) {}
    std::atomic<int64_t> count{1};
    Object object;
  };
  // Two atomic operations a look-up: what handing out a counted reference can't do without.
  class Strong {
   public:
    explicit Strong(Counted* counted = nullptr) : counted_(counted) {
      if (counted_ != nullptr) counted_->count.fetch_add(1, std::memory_order_relaxed);
    }
    Strong(Strong&& other) noexcept : counted_(std::exchange(other.counted_, nullptr)) {}
    Strong& operator=(Strong&& other) noexcept {
      std::swap(counted_, other.counted_);
      return *this;
    }
    ~Strong() {
      if (counted_ != nullptr) counted_->count.fetch_sub(1, std::memory_order_release);
    }
    Object* operator->() const { return &counted_->object; }
    explicit operator bool() const { return counted_ != nullptr; }

   private:
    Counted* counted_;
  };

  FloorSubject() = default;
  ~FloorSubject() {
    for (const auto& [key, counted] : map_) delete counted;
  }
  Strong Insert(int64_t key) {
    auto* const counted = new Counted(key);
    map_.emplace(key, counted);
    return Strong(counted);
  }
  Strong Get(int64_t key) {
    const auto found = map_.find(key);
    return Strong(found == map_.end() ? nullptr : found->second);
  }
  // For churn: an object's end takes its entry along, as if it were told at no cost.
  void Remove(int64_t key) {
    const auto found = map_.find(key);
    delete found->second;
    map_.erase(found);
  }

 private:
  absl::flat_hash_map<int64_t, Counted*> map_;
};

// Spread over all of int64 so that no hash is lucky; even ones are in the table, odd ones are not.
int64_t KeyAt(size_t i) { return static_cast<int64_t>(i * 0x9E3779B97F4A7C15u) & ~int64_t{1}; }

// The order of the look-ups, made beforehand.
std::vector<int64_t> RandomKeys(size_t size, int64_t bit) {
  constexpr size_t kKeys = 1 << 20;
  std::mt19937_64 random(1);
  std::vector<int64_t> keys(kKeys);
  for (int64_t& key : keys) key = KeyAt(random() % size) | bit;
  return keys;
}

template <typename Subject>
void LookUp(benchmark::State& state, int64_t bit) {
  const auto size = static_cast<size_t>(state.range(0));
  Subject subject;
  std::vector<typename Subject::Strong> held;
  for (size_t i = 0; i < size; ++i) held.push_back(subject.Insert(KeyAt(i)));
  const std::vector<int64_t> keys = RandomKeys(size, bit);
  size_t next = 0;
  for (auto _ : state) {
    auto found = subject.Get(keys[next++ & (keys.size() - 1)]);
    if (static_cast<bool>(found) == (bit != 0)) state.SkipWithError("wrong answer");
    benchmark::DoNotOptimize(found);
  }
}

template <typename Subject>
void GetHit(benchmark::State& state) {
  LookUp<Subject>(state, 0);
}
template <typename Subject>
void GetMiss(benchmark::State& state) {
  LookUp<Subject>(state, 1);
}

// Steady state: `size` live objects, and with each step one under a new key takes the place of
// another.
template <typename Subject>
void Churn(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  Subject subject;
  std::vector<typename Subject::Strong> held;
  size_t next_key = 0;
  for (; next_key < size; ++next_key) held.push_back(subject.Insert(KeyAt(next_key)));
  std::mt19937_64 random(1);
  for (auto _ : state) {
    auto& victim = held[random() % size];
    if constexpr (requires { subject.Remove(0); }) {
      const int64_t key = victim->id;
      victim = typename Subject::Strong();
      subject.Remove(key);
    }
    victim = subject.Insert(KeyAt(next_key++));
  }
}

template <typename Subject>
void RegisterSubject(const std::string& subject) {
  const std::pair<const char*, void (*)(benchmark::State&)> operations[] = {
      {"get_hit/", &GetHit<Subject>},
      {"get_miss/", &GetMiss<Subject>},
      {"churn/", &Churn<Subject>},
  };
  for (const auto& [operation, run] : operations) {
    benchmark::RegisterBenchmark((operation + subject).c_str(), run)
        ->Arg(1000)
        ->Arg(100'000)
        ->Arg(1'000'000);
  }
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) {
  using namespace weakcache;  // NOLINT(google-build-using-namespace)
  RegisterSubject<WeakcacheSubject>("weakcache");
  RegisterSubject<FloorSubject>("floor");
  RegisterSubject<StdMutexSubject>("std_mutex_unordered_map");
  RegisterSubject<AbslSubject>("absl_flat_hash_map");
  return RunBenchmarks(argc, argv);
}
