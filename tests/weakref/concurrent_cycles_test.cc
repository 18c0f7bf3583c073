// SPDX-License-Identifier: Apache-2.0
// EdgeRef, and FindCyclesConcurrently beside threads that use the objects.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/race.h"
#include "weakcache/weakref/cycles.h"
#include "weakcache/weakref/edge_ref.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/shared_ptr_interop.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

struct Node {
  explicit Node(std::string label = "") : label(std::move(label)) {}
  const std::string label;
  EdgeRef<Node> next;
  EdgeRef<Node> other;
  std::optional<EdgeRef<Node>> replaceable;
  Ref<Node> plain;
  std::function<void()> before_trace;  // stands for a thread that runs then
};
void WeakcacheTrace(const Node& node, Tracer& trace) {
  if (node.before_trace) node.before_trace();
  trace(node.next, "next");
  trace(node.other, "other");
  trace(node.replaceable, "replaceable");
  trace(node.plain, "plain");
}
std::string WeakcacheLabel(const Node& node) { return node.label; }

size_t Groups(const Census& census) { return FindCyclesConcurrently(census).groups.size(); }

// A cycle of two objects, traced in this order, and what breaks it: plain pointers, which no search
// knows of.
struct Pair {
  Pair() : held(MakeRef<Node>("a")), a(held.get()) {
    Ref<Node> second = MakeRef<Node>("b");
    b = second.get();
    second->next.store(held);
    a->next.store(std::move(second));
  }
  ~Pair() {
    if (held != nullptr) a = held.get();
    const Ref<Node> last = a->next.exchange(nullptr);
    if (last != nullptr) b->next.store(nullptr);
    held.reset();
  }

  Ref<Node> held;
  Node* a;
  Node* b;
};

TEST(EdgeRefTest, HoldsOneReference) {
  Ref<Node> node = MakeRef<Node>();
  const WeakRef<Node> weak = node;
  std::optional<EdgeRef<Node>> edge(std::in_place, node);
  EXPECT_EQ(edge->load(), node);
  EXPECT_EQ(weak.use_count(), 2u);
  EXPECT_EQ(edge->exchange(nullptr), node);
  EXPECT_EQ(edge->load(), nullptr);
  edge->store(std::move(node));
  EXPECT_EQ(weak.use_count(), 1u);
  edge.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(EdgeRef<const int>(MakeRef<const int>(7)).load().get()[0], 7);
}

TEST(EdgeRefTest, RacesLoadsWithStores) {
  EdgeRef<Node> edge;
  testing::Race(
      testing::RaceRounds(100000), [&](int) { edge.store(MakeRef<Node>("first")); },
      {[&] {
         const Ref<Node> node = edge.load();
         EXPECT_FALSE(node->label.empty());
       },
       [&] { edge.store(MakeRef<Node>("second")); },
       [&] { EXPECT_FALSE(edge.exchange(MakeRef<Node>("third"))->label.empty()); }},
      [&](int) { EXPECT_EQ(edge.load().use_count(), 2u); });
}

TEST(ConcurrentCyclesTest, FindsACycleAndWhatItHolds) {
  Census census;
  Pair pair;
  pair.b->other.store(MakeRef<Node>("leaf"));
  EXPECT_EQ(Groups(census), 0u) << "somebody holds it";
  pair.held.reset();
  const CycleReport report = FindCyclesConcurrently(census);
  ASSERT_EQ(report.groups.size(), 1u);
  EXPECT_EQ(report.groups[0].objects.size(), 2u);
  EXPECT_EQ(report.groups[0].objects[0].label, "a");
  ASSERT_EQ(report.groups[0].edges.size(), 2u);
  EXPECT_EQ(report.groups[0].edges[0].name, "next");
  EXPECT_EQ(report.groups[0].held_objects, 1u);
  EXPECT_EQ(FindCycles(census).groups.size(), 1u) << "the edges are those of both searches";
}

TEST(ConcurrentCyclesTest, ARootReachesWhatItHolds) {
  Census census;
  Pair pair;
  const Node root("root");
  const_cast<Node&>(root).next.store(std::move(pair.held));
  {
    const CensusRoot in_census(census, root, "root");
    EXPECT_EQ(Groups(census), 0u);
  }
  EXPECT_EQ(Groups(census), 0u) << "a reference that no object explains";
}

TEST(ConcurrentCyclesTest, AnotherWayToAnObjectHidesTheCycle) {
  Census census;
  Pair pair;
  {
    const WeakRef<Node> weak = pair.held;
    pair.held.reset();
    EXPECT_EQ(Groups(census), 0u) << "somebody may upgrade it";
  }
  EXPECT_EQ(Groups(census), 1u);
  pair.held = pair.b->next.load();
  {
    const ExpiryRegistration registration = OnExpire(pair.held, [] {});
    pair.held.reset();
    EXPECT_EQ(Groups(census), 0u);
  }
  EXPECT_EQ(Groups(census), 1u);
  pair.b->plain = pair.b->next.load();
  EXPECT_EQ(Groups(census), 0u) << "a plain member may be copied unseen";
  pair.b->plain.reset();
  EXPECT_EQ(Groups(census), 1u);
}

TEST(ConcurrentCyclesTest, WhoHasTheSharedPtrReachesTheObject) {
  Census census;
  std::shared_ptr<Node> shared = std::make_shared<Node>();
  Ref<Node> ref = FromSharedPtr(shared);
  census.Add(ref);
  shared->next.store(std::move(ref));
  EXPECT_EQ(Groups(census), 0u);
  shared->next.store(nullptr);
}

TEST(ConcurrentCyclesTest, AnEdgeThatWasFollowedProvesNothing) {
  Census census;
  Pair pair;
  pair.held.reset();
  pair.b->before_trace = [&] { static_cast<void>(pair.a->next.load()); };
  EXPECT_EQ(Groups(census), 0u);
  pair.b->before_trace = nullptr;
  EXPECT_EQ(Groups(census), 1u);
}

// One reference is moved from outside into an edge when that is looked at, and another one out of
// the edge that was looked at before. All counts stay, all edges seem to, and somebody always holds
// an object.
TEST(ConcurrentCyclesTest, ReferencesThatMoveAlongTheEdgesAreSeen) {
  Census census;
  Pair pair;
  static_cast<void>(pair.b->next.exchange(nullptr));
  pair.a->before_trace = [&] {
    if (pair.held.get() == pair.a) return;
    Ref<Node> a = pair.b->next.exchange(nullptr);
    pair.a->next.store(std::exchange(pair.held, std::move(a)));
  };
  pair.b->before_trace = [&] {
    Ref<Node> b = pair.a->next.exchange(nullptr);
    pair.b->next.store(std::exchange(pair.held, std::move(b)));
  };
  EXPECT_EQ(Groups(census), 0u);
  EXPECT_EQ(pair.held.get(), pair.b);
  EXPECT_EQ(pair.held.use_count(), 1u);
  pair.a->before_trace();
  pair.b->before_trace = nullptr;
  pair.a->before_trace = nullptr;
}

// The same by another edge at the same address.
TEST(ConcurrentCyclesTest, AnEdgeInTheSamePlaceIsAnotherOne) {
  Census census;
  Ref<Node> held = MakeRef<Node>("a");
  Node* const a = held.get();
  const Ref<Node> last = MakeRef<Node>("traced last");
  a->before_trace = [&] {
    if (held != nullptr) a->replaceable.emplace(std::move(held));
  };
  last->before_trace = [&] {
    held = a->replaceable->exchange(nullptr);
    a->replaceable.reset();
  };
  EXPECT_EQ(Groups(census), 0u);
  EXPECT_NE(held, nullptr);
}

struct Fan {
  std::vector<std::unique_ptr<EdgeRef<Fan>>> edges;
  std::function<void()> before_trace;
};
void WeakcacheTrace(const Fan& fan, Tracer& trace) {
  if (fan.before_trace) fan.before_trace();
  trace(fan.edges, "edges");
}

TEST(ConcurrentCyclesTest, EdgesMayComeInAnotherOrder) {
  Census census;
  Ref<Fan> held = MakeRef<Fan>();
  Fan* const fan = held.get();
  for (int i = 0; i < 5; ++i) fan->edges.push_back(std::make_unique<EdgeRef<Fan>>(held));
  held.reset();
  int traces = 0;
  fan->before_trace = [&] {
    if (++traces == 2) std::rotate(fan->edges.begin(), fan->edges.begin() + 2, fan->edges.end());
  };
  const CycleReport report = FindCyclesConcurrently(census);
  EXPECT_EQ(traces, 2);
  ASSERT_EQ(report.groups.size(), 1u);
  EXPECT_EQ(report.groups[0].edges.size(), 5u);
  // An edge that only the second look sees proves nothing, and nor does one that has been followed.
  fan->before_trace = [&] {
    if (++traces != 4) return;
    std::reverse(fan->edges.begin(), fan->edges.end());
    static_cast<void>(fan->edges[3]->load());
  };
  EXPECT_EQ(Groups(census), 0u);
  fan->before_trace = [&] {
    if (++traces != 6) return;
    fan->edges.insert(fan->edges.begin(), std::make_unique<EdgeRef<Fan>>(fan->edges[0]->load()));
  };
  EXPECT_EQ(Groups(census), 0u);
  fan->before_trace = nullptr;
  EXPECT_EQ(Groups(census), 1u);
  const auto edges = std::exchange(fan->edges, {});
}

struct Shelves {
  std::vector<std::unique_ptr<EdgeRef<Shelves>>> left, right;
  std::function<void()> between;
};
void WeakcacheTrace(const Shelves& shelves, Tracer& trace) {
  trace(shelves.left, "left");
  if (shelves.between) shelves.between();
  trace(shelves.right, "right");
}

// An edge moves without an access while its object is traced, so that it is told twice.
TEST(ConcurrentCyclesTest, AnEdgeThatMovesProvesNothing) {
  Census census;
  Ref<Shelves> held = MakeRef<Shelves>();
  Shelves* const shelves = held.get();
  shelves->left.push_back(std::make_unique<EdgeRef<Shelves>>(held));
  held.reset();
  const auto move_right = [&] { std::swap(shelves->left, shelves->right); };
  int traces = 0;
  shelves->between = [&] {
    if (++traces == 2) move_right();
  };
  EXPECT_EQ(Groups(census), 0u);
  EXPECT_EQ(traces, 2);
  // Both looks see it twice.
  move_right();
  shelves->between = move_right;
  const Ref<Node> last = MakeRef<Node>("traced last");
  last->before_trace = move_right;
  EXPECT_EQ(Groups(census), 0u);
  shelves->between = nullptr;
  last->before_trace = nullptr;
  EXPECT_EQ(Groups(census), 1u);
  const auto edges = std::exchange(shelves->left, {});
  EXPECT_EQ(edges.size(), 1u);
}

TEST(ConcurrentCyclesTest, ReportsNothingThatAWalkerHolds) {
  std::optional<Census> census;
  std::vector<Node*> ring(4);
  Ref<Node> walker, upgrader;
  WeakRef<Node> weak;
  testing::Race(
      testing::RaceRounds(100000),
      [&](int round) {
        census.emplace();
        walker = MakeRef<Node>("first");
        Ref<Node> last = walker;
        for (size_t i = 0; i < ring.size(); ++i) {
          ring[i] = last.get();
          Ref<Node> next = i + 1 < ring.size() ? MakeRef<Node>() : walker;
          last->next.store(next);
          last = std::move(next);
        }
        upgrader = round % 2 == 0 ? walker->next.load() : nullptr;
        weak = upgrader;
      },
      {[&] { EXPECT_EQ(Groups(*census), 0u); },
       [&] {
         for (int step = 0; step < 5; ++step) walker = walker->next.load();
         // Take one reference out of the ring, and put it back.
         Ref<Node> next = walker->next.exchange(nullptr);
         std::swap(walker, next);
         next->next.store(walker);
         next.reset();
       },
       [&] {
         if (upgrader == nullptr) return;
         for (int step = 0; step < 3; ++step) {
           // The walker may have taken it out.
           if (Ref<Node> next = upgrader->next.load()) upgrader = std::move(next);
           if (Ref<Node> again = weak.lock()) upgrader = std::move(again);
         }
       }},
      [&](int) {
        EXPECT_EQ(Groups(*census), 0u);
        walker.reset();
        upgrader.reset();
        weak.reset();
        const CycleReport report = FindCyclesConcurrently(*census);
        ASSERT_EQ(report.groups.size(), 1u);
        EXPECT_EQ(report.groups[0].objects.size(), ring.size());
        static_cast<void>(ring[0]->next.exchange(nullptr));
        EXPECT_EQ(census->size(), 0u);
      });
}

struct SharedNode {
  std::shared_ptr<SharedNode> next;
};
void WeakcacheTrace(const SharedNode& node, Tracer& trace) { trace(node.next, "next"); }

// Entries of std::shared_ptrs are told of no death: whoever adds another one looks for dead ones,
// just when the search drops the last references. Meanwhile others' deaths move entries.
TEST(ConcurrentCyclesTest, RacesWithTheDeathsOfSharedObjects) {
  constexpr size_t kObjects = 15;  // one less than there are when the census looks for dead ones
  std::optional<Census> census;
  std::vector<std::shared_ptr<SharedNode>> dying(kObjects);
  std::vector<Ref<SharedNode>> refs(kObjects);
  const auto both = std::make_shared<SharedNode>();
  const auto another = std::make_shared<SharedNode>();
  testing::Race(
      testing::RaceRounds(100000),
      [&](int) {
        census.emplace();
        for (Ref<SharedNode>& ref : refs) ref = MakeRef<SharedNode>();
        census->Add(FromSharedPtr(both));
        for (size_t i = 0; i + 1 < kObjects; ++i) {
          dying[i] = std::make_shared<SharedNode>();
          census->Add(dying[i]);
        }
        census->Add(both);
      },
      {[&] { EXPECT_EQ(Groups(*census), 0u); },
       [&] {
         for (std::shared_ptr<SharedNode>& object : dying) object.reset();
         census->Add(another);
       },
       [&] {
         for (Ref<SharedNode>& ref : refs) ref.reset();
       }},
      [&](int) {
        EXPECT_EQ(Groups(*census), 0u);
        EXPECT_EQ(census->size(), 2u);
        EXPECT_EQ(another.use_count(), 1);
      });
}

// The last entry takes the place of one that leaves, while a search compares it with another one of
// its object. Relaxed: the threads must not be ordered by anything but the census.
TEST(ConcurrentCyclesTest, ADeathMovesAnEntryThatASearchReads) {
  std::atomic<bool> dying{false}, read{false}, moved{false};
  Ref<Node> node = MakeRef<Node>();
  // Runs after the census has heard of the death.
  const ExpiryRegistration after =
      OnExpire(node, [&] { moved.store(true, std::memory_order_relaxed); });
  Census census;
  census.Add(node);
  const Ref<Node> traced = MakeRef<Node>();
  traced->before_trace = [&] {
    read.store(true, std::memory_order_relaxed);
    while (!moved.load(std::memory_order_relaxed)) std::this_thread::yield();
  };
  const auto shared = std::make_shared<SharedNode>();
  census.Add(shared);
  const Ref<SharedNode> last = FromSharedPtr(shared);
  census.Add(last);
  // Runs before the census hears of the death.
  const ExpiryRegistration registration = OnExpire(node, [&] {
    dying.store(true, std::memory_order_relaxed);
    while (!read.load(std::memory_order_relaxed)) std::this_thread::yield();
  });
  std::thread dropper([&] { node.reset(); });
  while (!dying.load(std::memory_order_relaxed)) std::this_thread::yield();
  const CycleReport report = FindCyclesConcurrently(census);
  dropper.join();
  EXPECT_TRUE(report.groups.empty());
  EXPECT_EQ(report.objects_seen, 2u);
  EXPECT_EQ(census.size(), 3u) << "one object has two entries";
}

}  // namespace
}  // namespace weakcache
