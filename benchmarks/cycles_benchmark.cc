// SPDX-License-Identifier: Apache-2.0
// FindCycles over a million objects with three million edges, beside a plain Tarjan over the same
// graph in two arrays of numbers (`Floor`). Half of the objects are held from outside. The counters
// of `Find` are bytes for each object: what the census keeps, and with what the search needs at its
// peak, without the report.
//
// FindCyclesConcurrently over as many objects that hold each other by EdgeRefs, alone and beside a
// thread that follows and changes edges. `found` is the number of objects in cycles: half of all.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "benchmarks/run_benchmarks.h"
#include "weakcache/weakref/cycles.h"
#include "weakcache/weakref/edge_ref.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace {

// What is allocated while counting is on, and the most that was.
bool counting = false;
size_t allocated = 0;
size_t allocated_at_most = 0;

}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  if (counting) {
    allocated += malloc_usable_size(memory) + sizeof(size_t);  // and malloc's own word
    allocated_at_most = std::max(allocated_at_most, allocated);
  }
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  if (counting && memory != nullptr) allocated -= malloc_usable_size(memory) + sizeof(size_t);
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }

namespace weakcache {
namespace {

constexpr uint32_t kObjects = 1'000'000;
constexpr size_t kEdgesEach = 3;

struct Node {
  std::array<Ref<Node>, kEdgesEach> edges;
};
void WeakcacheTrace(const Node& node, Tracer& trace) { trace(node.edges, "edges"); }

// The graph as numbers: the edges of object i lead to targets[3 * i] and the next two. Edges stay
// within a half, so that the second half is unreachable.
std::vector<uint32_t> MakeTargets() {
  std::mt19937 random(42);
  std::vector<uint32_t> targets(kObjects * kEdgesEach);
  for (uint32_t i = 0; i < targets.size(); ++i) {
    const uint32_t half = i / kEdgesEach < kObjects / 2 ? 0 : kObjects / 2;
    targets[i] = half + static_cast<uint32_t>(random()) % (kObjects / 2);
  }
  return targets;
}

// Returns the number of strongly connected components.
size_t PlainTarjan(const std::vector<uint32_t>& targets) {
  std::vector<uint32_t> low(kObjects);
  std::vector<bool> done(kObjects);
  std::vector<uint32_t> stack;
  struct Call {
    uint32_t node, edge, position;
  };
  std::vector<Call> calls;
  uint32_t visits = 0;
  size_t components = 0;
  const auto enter = [&](uint32_t node) {
    low[node] = ++visits;
    stack.push_back(node);
    calls.push_back({node, 0, visits});
  };
  for (uint32_t root = 0; root < kObjects; ++root) {
    if (low[root] != 0) continue;
    enter(root);
    while (!calls.empty()) {
      Call& call = calls.back();
      const uint32_t node = call.node;
      if (call.edge != kEdgesEach) {
        const uint32_t to = targets[node * kEdgesEach + call.edge++];
        if (low[to] == 0) {
          enter(to);
        } else if (!done[to]) {
          low[node] = std::min(low[node], low[to]);
        }
        continue;
      }
      if (low[node] == call.position) {
        uint32_t member;
        do {
          member = stack.back();
          stack.pop_back();
          done[member] = true;
        } while (member != node);
        ++components;
      }
      calls.pop_back();
      if (!calls.empty()) {
        low[calls.back().node] = std::min(low[calls.back().node], low[node]);
      }
    }
  }
  return components;
}

void Floor(benchmark::State& state) {
  const std::vector<uint32_t> targets = MakeTargets();
  for (auto _ : state) benchmark::DoNotOptimize(PlainTarjan(targets));
}

// Keeps the graph. Its second half has no references from outside.
struct Graph {
  explicit Graph(const std::vector<uint32_t>& targets) {
    std::vector<Ref<Node>> nodes;
    for (uint32_t i = 0; i < kObjects; ++i) nodes.push_back(MakeRef<Node>());
    allocated = 0;
    counting = true;
    census.emplace();
    for (const Ref<Node>& node : nodes) census->Add(node);
    counting = false;
    census_bytes = allocated;
    for (size_t i = 0; i < targets.size(); ++i) {
      nodes[i / kEdgesEach]->edges[i % kEdgesEach] = nodes[targets[i]];
    }
    weak.assign(nodes.begin(), nodes.end());
    nodes.resize(kObjects / 2);
    held.swap(nodes);
  }
  ~Graph() {
    for (const WeakRef<Node>& each : weak) {
      if (const Ref<Node> node = each.lock()) node->edges = {};
    }
  }
  std::optional<Census> census;
  size_t census_bytes = 0;
  std::vector<WeakRef<Node>> weak;
  std::vector<Ref<Node>> held;
};

void Find(benchmark::State& state) {
  const Graph graph(MakeTargets());
  size_t groups = 0;
  for (auto _ : state) groups = FindCycles(*graph.census).groups.size();
  state.counters["groups"] = static_cast<double>(groups);
  state.counters["census_bytes"] = static_cast<double>(graph.census_bytes) / kObjects;
  allocated = allocated_at_most = 0;
  counting = true;
  const CycleReport report = FindCycles(*graph.census);
  counting = false;
  size_t report_bytes = 0;
  for (const CycleGroup& group : report.groups) {
    report_bytes += group.objects.capacity() * sizeof(group.objects[0]) +
                    group.edges.capacity() * sizeof(group.edges[0]);
  }
  state.counters["peak_bytes"] =
      static_cast<double>(graph.census_bytes + allocated_at_most - report_bytes) / kObjects;
}

// The same for EdgeRefs. An object that has a WeakRef would count as reached, and plain pointers
// are no references, so one edge of each object leads to the next one of its half: then none dies
// until the end, and the pointers stay good.
struct EdgeNode {
  std::array<EdgeRef<EdgeNode>, kEdgesEach> edges;
};
void WeakcacheTrace(const EdgeNode& node, Tracer& trace) { trace(node.edges, "edges"); }

struct EdgeGraph {
  EdgeGraph() {
    std::vector<uint32_t> targets = MakeTargets();
    for (uint32_t i = 0; i < kObjects; ++i) {
      const uint32_t half = i < kObjects / 2 ? 0 : kObjects / 2;
      targets[i * kEdgesEach] = half + (i + 1) % (kObjects / 2);
    }
    std::vector<Ref<EdgeNode>> nodes;
    for (uint32_t i = 0; i < kObjects; ++i) nodes.push_back(MakeRef<EdgeNode>());  // joins
    for (size_t i = 0; i < targets.size(); ++i) {
      nodes[i / kEdgesEach]->edges[i % kEdgesEach].store(nodes[targets[i]]);
    }
    for (uint32_t i = kObjects / 2; i < kObjects; ++i) unreachable.push_back(nodes[i].get());
    nodes.resize(kObjects / 2);
    held.swap(nodes);
  }
  ~EdgeGraph() {
    // The edges of all are taken away before the first object dies.
    std::vector<Ref<EdgeNode>> taken;
    for (EdgeNode* const node : unreachable) {
      for (EdgeRef<EdgeNode>& edge : node->edges) taken.push_back(edge.exchange(nullptr));
    }
    for (const Ref<EdgeNode>& node : held) {
      for (EdgeRef<EdgeNode>& edge : node->edges) taken.push_back(edge.exchange(nullptr));
    }
  }

  Census census;
  std::vector<Ref<EdgeNode>> held;
  std::vector<EdgeNode*> unreachable;
};

// Follows edges of the held half at random, and leads each sixteenth one to another object, until
// it is told to stop.
void Walk(const EdgeGraph& graph, const std::atomic<bool>& stop, std::atomic<uint64_t>& steps) {
  std::mt19937 random(43);
  const auto some = [&] { return graph.held[random() % graph.held.size()]; };
  for (Ref<EdgeNode> at = some(); !stop.load(std::memory_order_relaxed);) {
    EdgeRef<EdgeNode>& edge = at->edges[random() % kEdgesEach];
    if (random() % 16 == 0) edge.store(some());
    at = edge.load();
    steps.fetch_add(1, std::memory_order_relaxed);
  }
}

// The argument: how many threads walk through the graph meanwhile.
void FindConcurrently(benchmark::State& state) {
  const EdgeGraph graph;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> steps{0};
  std::vector<std::thread> walkers;
  for (int64_t i = 0; i < state.range(0); ++i) {
    walkers.emplace_back([&] { Walk(graph, stop, steps); });
  }
  size_t found = 0;
  for (auto _ : state) {
    found = 0;
    for (const CycleGroup& group : FindCyclesConcurrently(graph.census).groups) {
      found += group.objects.size();
    }
  }
  stop = true;
  for (std::thread& walker : walkers) walker.join();
  state.counters["found"] = static_cast<double>(found);
  state.counters["steps"] =
      benchmark::Counter(static_cast<double>(steps.load()), benchmark::Counter::kIsRate);
}

BENCHMARK(Floor)->Unit(benchmark::kMillisecond);
BENCHMARK(Find)->Unit(benchmark::kMillisecond);
BENCHMARK(FindConcurrently)->Unit(benchmark::kMillisecond)->UseRealTime()->Arg(0)->Arg(1);

}  // namespace
}  // namespace weakcache

int main(int argc, char** argv) { return weakcache::RunBenchmarks(argc, argv); }
