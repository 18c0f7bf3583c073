// SPDX-License-Identifier: Apache-2.0
// Tables that take longer to fill than to measure, kept from one benchmark to the next.
//
// Usually one is kept: the benchmarks that follow each other on one subject share it, and there may
// not be room for two. With --benchmark_enable_random_interleaving all are kept, which takes
// several GB; it is what evens out a machine whose speed changes during a run.
#ifndef WEAKCACHE_BENCHMARKS_FIXTURES_H_
#define WEAKCACHE_BENCHMARKS_FIXTURES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <typeindex>
#include <typeinfo>
#include <utility>

#include "benchmarks/run_benchmarks.h"

namespace weakcache {

class Fixtures {
 public:
  // The fixture of that type, size and variant; `make()` makes it, in a unique_ptr.
  template <typename Fixture, typename Make>
  static Fixture& Get(int64_t size, int variant, Make make) {
    const Key key(typeid(Fixture), size, variant);
    const auto kept = all_.find(key);
    if (kept != all_.end()) return Use<Fixture>(kept->second.get());
    if (!repetitions_are_interleaved) all_.clear();
    auto& made = all_[key];
    made = std::make_unique<Holder<Fixture>>(make());
    return Use<Fixture>(made.get());
  }
  // One that is used once, and kept until the next one.
  template <typename Fixture>
  static Fixture& GetNew(std::unique_ptr<Fixture> fixture) {
    all_.erase(Transient());
    if (!repetitions_are_interleaved) all_.clear();
    auto& made = all_[Transient()];
    made = std::make_unique<Holder<Fixture>>(std::move(fixture));
    return Use<Fixture>(made.get());
  }
  // The one that was got last: for the other threads of a benchmark, once thread 0 has got it.
  template <typename Fixture>
  static Fixture& Current() {
    return *static_cast<Holder<Fixture>*>(current_)->fixture;
  }
  static void Clear() { all_.clear(); }

 private:
  struct AnyHolder {
    virtual ~AnyHolder() = default;
  };
  template <typename Fixture>
  struct Holder final : AnyHolder {
    explicit Holder(std::unique_ptr<Fixture> fixture) : fixture(std::move(fixture)) {}
    const std::unique_ptr<Fixture> fixture;
  };
  using Key = std::tuple<std::type_index, int64_t, int>;

  static Key Transient() { return {typeid(void), 0, 0}; }
  template <typename Fixture>
  static Fixture& Use(AnyHolder* holder) {
    current_ = holder;
    return Current<Fixture>();
  }

  inline static std::map<Key, std::unique_ptr<AnyHolder>> all_;
  inline static AnyHolder* current_ = nullptr;
};

}  // namespace weakcache

#endif  // WEAKCACHE_BENCHMARKS_FIXTURES_H_
