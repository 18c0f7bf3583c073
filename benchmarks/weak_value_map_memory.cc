// What maps of weak references cost in memory. Names are memory/subject/size. The times mean
// nothing: this is a program of its own because it counts every allocation, which is slow. Counted
// are the bytes that the program asks for, without what malloc adds to them.
//
//   bytes_per_live_entry     `size` live objects, keys of 8 bytes: what the map takes beyond what
//                            the same objects take without it
//   bytes_per_expired_entry  all of them have expired and nothing has been purged: what the map
//                            and the dead objects still hold (the floor's leave at once, so it has
//                            no such figure)
//
// Nothing is reserved: the sizes between the powers of ten show how the tables grow.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "benchmarks/benchmark_data.h"
#include "benchmarks/run_benchmarks.h"
#include "benchmarks/value_map_subjects.h"
#include "tests/support/allocations.h"

namespace weakcache {
namespace {

using testing::LiveAllocatedBytes;

template <typename Subject>
int64_t BytesOfObjects(size_t size) {
  std::vector<decltype(Subject::Make(0))> objects;
  objects.reserve(size);
  const int64_t before = LiveAllocatedBytes();
  for (size_t i = 0; i < size; ++i) objects.push_back(Subject::Make(KeyAt(i)));
  return LiveAllocatedBytes() - before;
}

template <typename Subject>
void Memory(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  const auto per_entry = [size](int64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(size);
  };
  for (auto _ : state) {
    const int64_t objects = BytesOfObjects<Subject>(size);
    std::vector<typename Subject::Strong> held;
    held.reserve(size);
    const int64_t before = LiveAllocatedBytes();
    Subject subject;
    for (size_t i = 0; i < size; ++i) held.push_back(subject.Insert(KeyAt(i), KeyAt(i)));
    state.counters["bytes_per_live_entry"] = per_entry(LiveAllocatedBytes() - before - objects);
    for (size_t i = 0; i < size; ++i) {
      if (!subject.Get(KeyAt(i))) state.SkipWithError("wrong answer");
    }
    held.clear();
    if constexpr (!kRemovesAtEnd<Subject>) {
      state.counters["bytes_per_expired_entry"] = per_entry(LiveAllocatedBytes() - before);
      if (subject.Get(KeyAt(0))) state.SkipWithError("wrong answer");
    }
  }
}

template <template <typename> typename Subject>
void RegisterSubject(const std::string& subject) {
  auto* const benchmark =
      benchmark::RegisterBenchmark(("memory/" + subject).c_str(), &Memory<Subject<int64_t>>);
  benchmark->Iterations(1);
  for (const int64_t size : {1000, 1500, 70'000, 100'000, 700'000, 1'000'000}) benchmark->Arg(size);
}

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) {
  using namespace weakcache;  // NOLINT(google-build-using-namespace)
  RegisterSubject<CreatedSubject>("weakcache");
  RegisterSubject<InsertedSubject>("weakcache_inserted");
  RegisterSubject<SharedPtrSubject>("weakcache_shared_ptr");
  RegisterSubject<FloorSubject>("floor");
  RegisterSubject<StdMutexSubject>("std_mutex_unordered_map");
  RegisterSubject<AbslSubject>("absl_flat_hash_map");
  return RunBenchmarks(argc, argv);
}
