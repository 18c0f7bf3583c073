// SPDX-License-Identifier: Apache-2.0
// Data attached to objects from outside, by identity and, in the operations that end in _by_value,
// by the value of the object, a string of 16 to 64 bytes.
//
//   weakcache                 WeakKeyMap<T, V>; WeakKeyMap<std::string, V, ByValue<>>, whose
//                             look-ups hold the object that they find
//   std_mutex_unordered_map   std::mutex + unordered_map<const T*, V> or <std::string, V>, erased
//                             by hand in the object's destructor; its look-ups hold nothing, which
//                             is a race where the object may go on another thread
//
//   get_hit          finds the value and reads it
//   attach_and_die   an object is made, a value is attached to it, the object goes; meanwhile the
//                    map has that many other entries
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/weak_containers_benchmark.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Attached {
  explicit Attached(int64_t id) : id(id) {}
  int64_t id;
  char bytes[56] = {};
};

class WeakcacheSubject {
 public:
  using Strong = Ref<Object>;
  using Lookup = Strong;
  Strong Make(int64_t id) { return MakeRef<Object>(id); }
  static Lookup LookupOf(const Strong& object) { return object; }
  bool Attach(const Strong& object, int64_t id) { return map_.try_emplace(object, id).second; }
  auto Get(const Lookup& lookup) { return map_.get(lookup); }
  size_t size() const { return map_.size(); }

 private:
  WeakKeyMap<Object, Attached> map_;
};

class WeakcacheByValueSubject {
 public:
  using Strong = Ref<std::string>;
  using Lookup = std::string;
  Strong Make(int64_t id) { return MakeRef<std::string>(TextOf(id)); }
  static Lookup LookupOf(const Strong& object) { return *object; }
  bool Attach(const Strong& object, int64_t id) { return map_.try_emplace(object, id).second; }
  auto Get(const Lookup& lookup) { return map_.get(lookup); }
  size_t size() const { return map_.size(); }

 private:
  WeakKeyMap<std::string, Attached, ByValue<>> map_;
};

// `Key` is how the map finds an object: by its address or by its text.
template <typename Key>
class StdMutexSubject {
  static constexpr bool kByValue = std::is_same_v<Key, std::string>;
  using Content = std::conditional_t<kByValue, std::string, Object>;

  struct Observed {
    Observed(int64_t id, StdMutexSubject* map) : content(KeyOf<Id>(id)), map(map) {}
    ~Observed() { map->Erase(KeyFrom(*this)); }
    using Id = std::conditional_t<kByValue, std::string, int64_t>;
    Content content;
    StdMutexSubject* map;
  };

 public:
  using Strong = std::shared_ptr<Observed>;
  using Lookup = std::conditional_t<kByValue, std::string, Strong>;

  Strong Make(int64_t id) { return std::make_shared<Observed>(id, this); }
  static Lookup LookupOf(const Strong& object) {
    if constexpr (kByValue) {
      return object->content;
    } else {
      return object;
    }
  }
  bool Attach(const Strong& object, int64_t id) {
    const std::lock_guard lock(mutex_);
    return map_.try_emplace(KeyFrom(*object), id).second;
  }
  Attached* Get(const Lookup& lookup) {
    const std::lock_guard lock(mutex_);
    const auto found = Find(lookup);
    return found == map_.end() ? nullptr : &found->second;
  }
  size_t size() const { return map_.size(); }

 private:
  static decltype(auto) KeyFrom(const Observed& object) {
    if constexpr (kByValue) {
      return (object.content);
    } else {
      return static_cast<Key>(&object.content);
    }
  }
  auto Find(const Lookup& lookup) {
    if constexpr (kByValue) {
      return map_.find(lookup);
    } else {
      return map_.find(KeyFrom(*lookup));
    }
  }
  void Erase(const Key& key) {
    const std::lock_guard lock(mutex_);
    map_.erase(key);
  }

  std::mutex mutex_;
  std::unordered_map<Key, Attached> map_;
};

// Objects with values, which end before their map.
template <typename Subject>
struct Filled {
  explicit Filled(size_t size) {
    for (size_t i = 0; i < size; ++i) {
      objects.push_back(subject.Make(KeyAt(i)));
      subject.Attach(objects.back(), KeyAt(i));
    }
  }
  Subject subject;
  std::vector<typename Subject::Strong> objects;
};

template <typename Subject>
void GetHit(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  Filled<Subject> filled(size);
  std::mt19937_64 random(1);
  std::vector<std::pair<typename Subject::Lookup, int64_t>> lookups;
  for (size_t i = 0; i < size_t{1} << 16; ++i) {
    const size_t wanted = random() % size;
    lookups.emplace_back(Subject::LookupOf(filled.objects[wanted]), KeyAt(wanted));
  }
  size_t next = 0;
  for (auto _ : state) {
    const auto& [lookup, id] = lookups[next++ & (lookups.size() - 1)];
    const auto found = filled.subject.Get(lookup);
    if (!found || found->id != id) state.SkipWithError("wrong answer");
  }
}

template <typename Subject>
void AttachAndDie(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  Filled<Subject> filled(size);
  size_t next_key = size;
  for (auto _ : state) {
    const int64_t id = KeyAt(next_key++);
    const auto object = filled.subject.Make(id);
    if (!filled.subject.Attach(object, id)) state.SkipWithError("wrong answer");
  }
  if (filled.subject.size() != size) state.SkipWithError("wrong answer");
}

template <typename Subject>
void RegisterSubject(const std::string& subject, const std::string& suffix) {
  const std::pair<const char*, void (*)(benchmark::State&)> operations[] = {
      {"get_hit", &GetHit<Subject>},
      {"attach_and_die", &AttachAndDie<Subject>},
  };
  for (const auto& [operation, run] : operations) {
    benchmark::RegisterBenchmark((operation + suffix + "/" + subject).c_str(), run)
        ->Arg(1000)
        ->Arg(100'000);
  }
}

}  // namespace

void RegisterKeyMapBenchmarks() {
  RegisterSubject<WeakcacheSubject>("weakcache", "");
  RegisterSubject<StdMutexSubject<const Object*>>("std_mutex_unordered_map", "");
  RegisterSubject<WeakcacheByValueSubject>("weakcache", "_by_value");
  RegisterSubject<StdMutexSubject<std::string>>("std_mutex_unordered_map", "_by_value");
}

}  // namespace weakcache
