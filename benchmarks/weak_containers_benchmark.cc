// SPDX-License-Identifier: Apache-2.0
// WeakInterner, WeakSet and WeakKeyMap against what people use instead. Names are
// operation/subject/size; compare the rows of one run. Each source says what its subjects are.
#include "benchmarks/weak_containers_benchmark.h"

#include "benchmarks/run_benchmarks.h"

int main(int argc, char** argv) {
  weakcache::RegisterInternerBenchmarks();
  weakcache::RegisterSetBenchmarks();
  weakcache::RegisterKeyMapBenchmarks();
  return weakcache::RunBenchmarks(argc, argv);
}
