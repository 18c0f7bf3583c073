// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/cycles.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <ranges>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/rounds.h"
#include "weakcache/weakref/internal/cycle_search.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/shared_ptr_interop.h"
#include "weakcache/weakref/testing.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

struct Node {
  explicit Node(std::string label = "") : label(std::move(label)) {}
  std::string label;
  Ref<Node> next;
  std::vector<Ref<Node>> children;
  WeakRef<Node> parent;
  bool tell_children = true;
  bool tell_next_again = false;
  bool throw_in_trace = false;
};
void WeakcacheTrace(const Node& node, Tracer& trace) {
  if (node.throw_in_trace) throw std::runtime_error("trace");
  trace(node.next, "next");
  if (node.tell_next_again) trace(node.next, "again");
  if (node.tell_children) trace(node.children, "children");
  trace(node.parent, "parent");
}
std::string WeakcacheLabel(const Node& node) { return node.label; }

Ref<Node> Add(Census& census, std::string label = "") {
  Ref<Node> node = MakeRef<Node>(std::move(label));
  census.Add(node);
  return node;
}

template <typename H>
concept Addable = requires(Census& census, const H& handle) {
  census.Add(handle);
};
static_assert(Addable<Ref<Node>> && Addable<std::shared_ptr<Node>>);
static_assert(!Addable<Ref<Node[]>> && !Addable<std::shared_ptr<Node[]>>,
              "only the first element would be traced");
static_assert(!Addable<std::shared_ptr<Node[2]>>);

// A span without a name that std::ranges::enable_view knows.
template <typename T>
struct Span {
  T* begin() const { return first; }
  T* end() const { return last; }
  T* first = nullptr;
  T* last = nullptr;
};
// A view that lends its elements as constants if it is constant itself.
template <typename T>
struct ConstantSpan : std::ranges::view_base {
  T* begin() { return first; }
  T* end() { return last; }
  const T* begin() const { return first; }
  const T* end() const { return last; }
  T* first = nullptr;
  T* last = nullptr;
};
// A range that owns its elements, and names no allocator.
template <typename T>
struct Owned {
  T* begin() { return elements; }
  T* end() { return elements + 2; }
  const T* begin() const { return elements; }
  const T* end() const { return elements + 2; }
  T elements[2];
};
// Such as boost::optional<T&>.
template <typename T>
struct OptionalReference {
  explicit operator bool() const { return has_value(); }
  bool has_value() const { return referent != nullptr; }
  T& operator*() const { return *referent; }
  T* referent = nullptr;
};
template <typename T>
concept Tellable = internal::IsTellable<T>();
static_assert(Tellable<std::vector<Ref<Node>>> && Tellable<std::set<Ref<Node>>>);
static_assert(Tellable<std::map<int, std::array<Ref<Node>, 2>>> && Tellable<Ref<Node>[2]>);
static_assert(Tellable<const Ref<Node>[2]> && Tellable<std::array<const Ref<Node>, 2>>);
static_assert(Tellable<Owned<Ref<Node>>> && Tellable<std::optional<const Ref<Node>>>);
static_assert(Tellable<std::unique_ptr<Ref<Node>>> && Tellable<std::pair<const Ref<Node>, int>>);
// What does not own the references would invent cycles.
static_assert(!Tellable<Span<Ref<Node>>> && !Tellable<Span<const Ref<Node>>>);
static_assert(!Tellable<std::span<const Ref<Node>>> && !Tellable<ConstantSpan<Ref<Node>>>);
static_assert(!Tellable<std::initializer_list<Ref<Node>>>);
static_assert(!Tellable<OptionalReference<Ref<Node>>>);
static_assert(!Tellable<OptionalReference<const Ref<Node>>>);
static_assert(!Tellable<std::tuple<Ref<Node>&>> && !Tellable<std::pair<const Ref<Node>&, int>>);
static_assert(!Tellable<std::tuple<const Node&>> && !Tellable<std::pair<int, Node&>>);
static_assert(!Tellable<std::vector<Span<const Ref<Node>>>>);
// A range of itself has no end, whether or not it is known to own its elements.
struct Json {
  using allocator_type = std::allocator<Json>;
  const Json* begin() const { return values.data(); }
  const Json* end() const { return values.data() + values.size(); }
  std::vector<Json> values;
};
static_assert(!Tellable<Json> && !Tellable<std::map<int, Json>>);
static_assert(!Tellable<std::filesystem::path>);

// Breaks the cycles that a test has made.
void Break(const WeakRef<Node>& weak) {
  if (const Ref<Node> node = weak.lock()) {
    Ref<Node>().swap(node->next);
    std::vector<Ref<Node>>().swap(node->children);
  }
}

TEST(CyclesTest, FindsACycleAndWhatItHolds) {
  Census census;
  Ref<Node> a = Add(census, "a");
  a->next = Add(census, "b");
  a->next->next = a;
  a->children.push_back(Add(census, "leaf"));
  a->children[0]->next = Add(census, "leaf of leaf");
  const Ref<Node> alive = Add(census, "alive");
  a->children.push_back(alive);
  EXPECT_TRUE(FindCycles(census).groups.empty());
  const WeakRef<Node> weak = a;
  a.reset();
  const CycleReport report = FindCycles(census);
  EXPECT_EQ(report.objects_seen, 5u);
  EXPECT_EQ(report.edges_seen, 5u);
  ASSERT_EQ(report.groups.size(), 1u);
  const CycleGroup& group = report.groups[0];
  ASSERT_EQ(group.objects.size(), 2u);
  EXPECT_EQ(group.objects[0].label, "a");
  EXPECT_NE(group.objects[0].type.find("Node"), std::string::npos) << group.objects[0].type;
  EXPECT_EQ(group.bytes, 2 * sizeof(Node));
  EXPECT_EQ(group.held_objects, 2u);
  EXPECT_EQ(group.held_bytes, 2 * sizeof(Node));
  ASSERT_EQ(group.edges.size(), 2u);
  EXPECT_EQ(group.edges[0].name, "next");
  EXPECT_EQ(group.edges[0].from, 0u);
  EXPECT_EQ(group.edges[0].to, 1u);
  EXPECT_EQ(weak.use_count(), 1u) << "the search has kept a reference";
  Break(weak);
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(census.size(), 1u);
  EXPECT_NO_CYCLES(census);
}

TEST(CyclesTest, FindsAnObjectThatHoldsItself) {
  Census census;
  Ref<Node> node = Add(census);
  node->children.push_back(node);
  const WeakRef<Node> weak = node;
  node.reset();
  const CycleReport report = FindCycles(census);
  ASSERT_EQ(report.groups.size(), 1u);
  EXPECT_EQ(report.groups[0].objects.size(), 1u);
  EXPECT_EQ(report.groups[0].edges[0].name, "children");
  Break(weak);
}

// Two kinds of handle to one object: whoever has one of the other kind reaches it, too.
TEST(CyclesTest, AStdSharedPtrBehindTheRefsIsAReferenceFromOutside) {
  Census census;
  std::shared_ptr<Node> shared = std::make_shared<Node>();
  Ref<Node> ref = FromSharedPtr(shared);
  const WeakRef<Node> weak = ref;
  census.Add(ref);
  ref->next = std::move(ref);
  EXPECT_TRUE(FindCycles(census).groups.empty());
  EXPECT_EQ(WhyAlive(census, weak).references_from_outside, 1u);
  Node* const node = shared.get();
  shared.reset();
  EXPECT_EQ(FindCycles(census).groups.size(), 1u);
  static_cast<void>(std::exchange(node->next, nullptr));
  EXPECT_TRUE(weak.expired());
}

struct SharedNode {
  std::shared_ptr<SharedNode> self;
};
void WeakcacheTrace(const SharedNode& node, Tracer& trace) { trace(node.self, "self"); }

// Tells each edge under another name.
struct ManyNamed {
  const std::array<char[24], 100>* names = nullptr;
  std::vector<Ref<ManyNamed>> edges;
};
void WeakcacheTrace(const ManyNamed& node, Tracer& trace) {
  for (size_t i = 0; i < node.edges.size(); ++i) trace(node.edges[i], (*node.names)[i]);
}

// Each FromSharedPtr makes another family of Refs to the object.
TEST(CyclesTest, AnObjectOfAStdSharedPtrIsOneHoweverItWasAdded) {
  for (int order = 0; order < 3; ++order) {
    Census census;
    std::shared_ptr<Node> shared = std::make_shared<Node>("a");
    Ref<Node> ref = FromSharedPtr(shared);
    Ref<Node> another = FromSharedPtr(shared);
    const WeakRef<Node> weak = ref;
    for (int i = 0; i < 3; ++i) {
      const int kind = (i + order) % 3;
      if (kind == 0) census.Add(shared);
      if (kind == 1) census.Add(ref);
      if (kind == 2) census.Add(another);
    }
    ref->next = ref;
    EXPECT_EQ(FindCycles(census).objects_seen, 1u);
    EXPECT_EQ(WhyAlive(census, weak).references_from_outside, 3u);
    EXPECT_EQ(WhyAlive(census, another).references_from_outside, 2u);
    EXPECT_EQ(WhyAlive(census, shared).references_from_outside, 2u);
    another.reset();
    EXPECT_EQ(WhyAlive(census, weak).references_from_outside, 2u);
    shared.reset();
    EXPECT_NO_CYCLES(census);
    ref.reset();
    const CycleReport report = FindCycles(census);
    ASSERT_EQ(report.groups.size(), 1u) << "order " << order;
    EXPECT_EQ(report.groups[0].objects.size(), 1u);
    EXPECT_EQ(report.groups[0].edges.size(), 1u);
    Break(weak);
  }
}

struct MixedNode {
  std::shared_ptr<MixedNode> shared;
  Ref<MixedNode> ref;
};
void WeakcacheTrace(const MixedNode& node, Tracer& trace) {
  trace(node.shared, "shared");
  trace(node.ref, "ref");
}

TEST(CyclesTest, AStdSharedPtrIsAnEdgeToAnObjectOfFromSharedPtr) {
  Census census;
  std::shared_ptr<MixedNode> node = std::make_shared<MixedNode>();
  MixedNode* const raw = node.get();
  raw->shared = node;
  raw->ref = FromSharedPtr(node);
  census.Add(raw->ref);
  EXPECT_NO_CYCLES(census);
  EXPECT_EQ(WhyAlive(census, raw->ref).references_from_outside, 1u);
  node.reset();
  const CycleReport report = FindCycles(census);
  ASSERT_EQ(report.groups.size(), 1u);
  EXPECT_EQ(report.groups[0].edges.size(), 2u);
  node = std::move(raw->shared);
  raw->ref.reset();
}

// Addresses that one place of the search's tables may have: many objects in little memory.
TEST(CyclesTest, ObjectsInOneArrayAreToldApart) {
  struct Items {
    std::array<SharedNode, 100> nodes;
  };
  Census census;
  std::shared_ptr<Items> items = std::make_shared<Items>();
  for (size_t i = 0; i < items->nodes.size(); ++i) {
    census.Add(std::shared_ptr<SharedNode>(items, &items->nodes[i]));
  }
  EXPECT_EQ(FindCycles(census).objects_seen, items->nodes.size());
  EXPECT_NO_CYCLES(census);
  for (size_t i = 0; i < items->nodes.size(); ++i) {
    EXPECT_EQ(WhyAlive(census, std::shared_ptr<SharedNode>(items, &items->nodes[i])).objects.size(),
              1u);
  }
}

TEST(CyclesTest, ManyNamesOfEdges) {
  Census census;
  static std::array<char[24], 100> names;
  for (size_t i = 0; i < names.size(); ++i) {
    std::snprintf(names[i], sizeof(names[i]), "e%zu", i);
  }
  Ref<ManyNamed> first = MakeRef<ManyNamed>();
  first->names = &names;
  first->edges.assign(names.size(), first);
  ManyNamed* const raw = first.get();
  first.reset();
  const CycleReport report = FindCycles(census);
  ASSERT_EQ(report.groups.size(), 1u);
  ASSERT_EQ(report.groups[0].edges.size(), names.size());
  for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(report.groups[0].edges[i].name, names[i]);
  static_cast<void>(std::exchange(raw->edges, {}));
}

#ifdef __cpp_rtti
TEST(CyclesTest, ARefBehindTheStdSharedPtrsIsAReferenceFromOutside) {
  Ref<SharedNode> ref = MakeRef<SharedNode>();
  ref->self = ToSharedPtr(ref);
  Census census;
  census.Add(ref->self);
  EXPECT_TRUE(FindCycles(census).groups.empty());
  SharedNode* const node = ref.get();
  ref.reset();
  EXPECT_EQ(FindCycles(census).groups.size(), 1u);
  static_cast<void>(std::exchange(node->self, nullptr));
  EXPECT_TRUE(FindCycles(census).groups.empty());
}

TEST(CyclesTest, AnObjectMayBeAddedByBothKindsOfHandle) {
  for (const bool by_ref_first : {true, false}) {
    Census census;
    Ref<Node> node = MakeRef<Node>();  // joins
    const WeakRef<Node> weak = node;
    node->next = node;
    std::shared_ptr<Node> shared = ToSharedPtr(node);
    Census other;
    if (by_ref_first) other.Add(node);
    other.Add(shared);
    other.Add(node);
    census.Add(shared);
    EXPECT_NO_CYCLES(census);
    EXPECT_NO_CYCLES(other);
    node.reset();
    EXPECT_NO_CYCLES(census);
    EXPECT_EQ(WhyAlive(other, weak).references_from_outside, 1u);
    shared.reset();
    EXPECT_EQ(FindCycles(census).objects_seen, 1u);
    EXPECT_EQ(FindCycles(census).groups.size(), 1u);
    EXPECT_EQ(FindCycles(other).groups.size(), 1u);
    Break(weak);
  }
}
#endif

TEST(CyclesTest, AForgottenEdgeHidesACycleAndInventsNone) {
  Census census;
  Ref<Node> node = Add(census);
  const WeakRef<Node> weak = node;
  node->children.push_back(node);
  node->next = node;
  node->tell_children = false;
  node.reset();
  EXPECT_TRUE(FindCycles(census).groups.empty());
  Break(weak);
}

TEST(CyclesTest, NewObjectsJoinEachCensus) {
  const Ref<Node> before = MakeRef<Node>();
  Census first;
  Ref<Node> node = MakeRef<Node>("node");
  EXPECT_EQ(node.watcher_count(), 1u);
  {
    Census second;
    EXPECT_EQ(second.size(), 0u);
    const Ref<const Node> constant = MakeRef<const Node>();
    const Ref<Node> adopted = AdoptRef(std::make_unique<Node>());
    const Ref<Node> allocated = AllocateRef<Node>(std::allocator<char>());
    EXPECT_EQ(second.size(), 3u);
    EXPECT_EQ(first.size(), 4u);
    first.Add(allocated);
    EXPECT_EQ(allocated.watcher_count(), 2u) << "one watcher for each census";
  }
  EXPECT_EQ(first.size(), 1u);
  node->next = node;
  const WeakRef<Node> weak = node;
  node.reset();
  EXPECT_EQ(FindCycles(first).groups.size(), 1u);
  Break(weak);
  EXPECT_GT(testing::FailEachAllocation([] { static_cast<void>(MakeRef<Node>()); },
                                        [&] { EXPECT_EQ(first.size(), 0u); }),
            2);
  EXPECT_EQ(before.watcher_count(), 0u);
}

TEST(CyclesTest, ObjectsAreMadeWhileACensusBeginsAndEnds) {
  std::optional<Census> census;
  std::array<Ref<Node>, 2> nodes;
  testing::Race(
      testing::RaceRounds(100'000), [&](int) { nodes = {}; },
      {[&] {
         census.emplace();
         EXPECT_LE(census->size(), 2u);
         census.reset();
       },
       [&] { nodes[0] = MakeRef<Node>(); }, [&] { nodes[1] = MakeRef<Node>(); }},
      [&](int) {
        for (const Ref<Node>& node : nodes) EXPECT_EQ(node.weak_count(), 0u);
      });
}

// With room for no more than there was at its last look, a search would begin anew for ever.
TEST(CyclesTest, ObjectsMayJoinWheneverASearchReservesMemory) {
  static constexpr size_t kMost = 1000;
  struct Joining {
    Census census;
    std::vector<Ref<Node>> made;
    std::vector<std::shared_ptr<Node>> added;
  };
  static Joining* joining = nullptr;
  Joining of_test;
  joining = &of_test;
  of_test.made.reserve(kMost);
  of_test.added.reserve(kMost);
  testing::OnAllocation([] {
    if (joining->made.size() == kMost) return;
    joining->made.push_back(MakeRef<Node>());
    joining->added.push_back(std::make_shared<Node>());
    joining->census.Add(joining->added.back());
  });
  const CycleReport report = FindCycles(of_test.census);
  testing::OnAllocation(nullptr);
  EXPECT_GT(report.objects_seen, 0u);
  EXPECT_LT(of_test.made.size(), 100u);
}

TEST(CyclesTest, RoomForEdgesGrowsUpToTheLastNumber) {
  using Search = internal::CycleSearch;
  constexpr size_t kLast = Search::kNone - 1;
  EXPECT_EQ(Search::EdgesToReserve(1000, 100, 1000), 3024u);
  EXPECT_EQ(Search::EdgesToReserve(10'000, 900, 1000), 11'267u) << "some more than are expected";
  EXPECT_EQ(Search::EdgesToReserve(6400, 999, 1000), 6864u);
  for (const size_t so_far : {kLast / 2, kLast - 1000, kLast - 1}) {
    for (const Search::Number traced : {1u, 500u, 999u}) {
      EXPECT_GT(Search::EdgesToReserve(so_far, traced, 1000), so_far);
      EXPECT_LE(Search::EdgesToReserve(so_far, traced, 1000), kLast);
    }
  }
}

TEST(CyclesTest, AnObjectOutsideTheCensusHoldsItsReferents) {
  Ref<Node> outside = MakeRef<Node>();
  Census census;
  Ref<Node> node = Add(census);
  node->next = outside;
  outside->next = node;
  const WeakRef<Node> weak = node;
  node.reset();
  outside.reset();
  EXPECT_TRUE(FindCycles(census).groups.empty());
  Break(weak);
}

TEST(CyclesDeathTest, AnEdgeToldTwiceAborts) {
  Census census;
  const Ref<Node> node = Add(census);
  node->next = Add(census);
  node->tell_next_again = true;
  EXPECT_DEATH(static_cast<void>(FindCycles(census)), "told twice.*: again");
  EXPECT_DEATH(census.Add(Ref<Node>()), "Census::Add: the reference is null");
}

TEST(CyclesTest, AddingAnObjectAgainChangesNothing) {
  Census census;
  Ref<Node> node = Add(census);
  census.Add(node);
  node->next = node;
  EXPECT_TRUE(FindCycles(census).groups.empty());
  const WeakRef<Node> weak = node;
  node.reset();
  const CycleReport report = FindCycles(census);
  EXPECT_EQ(report.objects_seen, 1u);
  EXPECT_EQ(report.groups.size(), 1u);
  Break(weak);
  EXPECT_EQ(census.size(), 0u);
}

TEST(CyclesTest, AReferenceThatIsAMemberIsNoneFromOutside) {
  Census census;
  const Ref<Node> node = Add(census);
  node->next = Add(census);
  node->next->next = node;
  EXPECT_EQ(WhyAlive(census, node->next->next).references_from_outside, 1u);
  EXPECT_TRUE(WhyAlive(census, node).objects.empty());
  Break(node);
  const auto shared = std::make_shared<SharedNode>();
  census.Add(shared);
  shared->self = shared;
  EXPECT_EQ(WhyAlive(census, shared->self).references_from_outside, 1u);
  EXPECT_TRUE(WhyAlive(census, shared).objects.empty());
  shared->self.reset();
}

TEST(CyclesTest, WhyAliveGivesAShortestPathFromOutside) {
  Census census;
  const Ref<Node> root = Add(census, "root");
  root->next = Add(census, "middle");
  root->next->children.push_back(Add(census, "leaf"));
  const WeakRef<Node> leaf = root->next->children[0];
  const AlivePath path = WhyAlive(census, leaf);
  ASSERT_EQ(path.objects.size(), 3u);
  EXPECT_EQ(path.references_from_outside, 1u);
  EXPECT_EQ(path.edges, (std::vector<std::string_view>{"next", "children"}));
  const std::string text = ToText(path);
  EXPECT_NE(text.find("\"root\""), std::string::npos) << text;
  EXPECT_NE(text.find("--children--> "), std::string::npos) << text;
  const Ref<Node> held = leaf.lock();
  EXPECT_EQ(WhyAlive(census, held).objects.size(), 3u) << "the reference that is passed counts";
  const Ref<Node> again = held;
  EXPECT_EQ(WhyAlive(census, held).objects.size(), 1u);
  EXPECT_TRUE(WhyAlive(census, WeakRef<Node>()).objects.empty());
  EXPECT_EQ(WhyAlive(census, root).objects.size(), 0u) << "only the caller holds it";
}

// That nothing outside reaches an object is said of no other one.
TEST(CyclesTest, WhyAliveTellsWhetherTheObjectIsInTheCensus) {
  const std::string unknown = "the object is dead, or was not added to the census\n";
  const Ref<Node> before = MakeRef<Node>();
  Census census;
  EXPECT_EQ(ToText(WhyAlive(census, before)), unknown);
  EXPECT_EQ(ToText(WhyAlive(census, WeakRef<Node>(before))), unknown);
  EXPECT_EQ(ToText(WhyAlive(census, std::make_shared<Node>())), unknown);
  EXPECT_EQ(ToText(WhyAlive(census, Ref<Node>())), unknown);
  EXPECT_EQ(ToText(WhyAlive(census, WeakRef<Node>())), unknown);
  EXPECT_EQ(ToText(WhyAlive(census, std::shared_ptr<Node>())), unknown);
  Ref<Node> node = MakeRef<Node>();
  const WeakRef<Node> weak = node;
  EXPECT_EQ(ToText(WhyAlive(census, node)), "nothing outside reaches the object\n");
  EXPECT_EQ(ToText(WhyAlive(census, weak)).substr(0, 23), "1 reference from outsid");
  node.reset();
  EXPECT_EQ(ToText(WhyAlive(census, weak)), unknown);
}

TEST(CyclesTest, WhyAliveFindsAnObjectByTheOtherKindOfHandle) {
  Census census;
  const Ref<Node> node = MakeRef<Node>();
  {
    const std::shared_ptr<Node> shared = ToSharedPtr(node);
    EXPECT_EQ(WhyAlive(census, shared).references_from_outside, 1u);
    const std::shared_ptr<Node> copy = shared;
    EXPECT_EQ(WhyAlive(census, shared).references_from_outside, 2u) << "the copy has the other one";
  }
  const auto owned = std::make_shared<Node>();
  census.Add(owned);
  const Ref<Node> ref = FromSharedPtr(owned);
  EXPECT_EQ(WhyAlive(census, ref).references_from_outside, 1u);
  EXPECT_EQ(WhyAlive(census, WeakRef<Node>(ref)).references_from_outside, 2u);
  const auto only = WeakRef<Node>(FromSharedPtr(owned));
  EXPECT_FALSE(WhyAlive(census, only).known);
}

// Holds references in each way that a Tracer knows.
struct Holder {
  std::optional<Ref<Holder>> optional;
  std::variant<std::monostate, int, Ref<Holder>> variant;
  std::map<int, Ref<Holder>> map;
  std::array<Ref<Holder>, 2> array;
  std::pair<std::string, Ref<Holder>> pair;
  std::unique_ptr<Ref<Holder>> unique;
  std::vector<std::optional<Ref<Holder>>> nested;
  std::shared_ptr<Holder> shared;
  std::weak_ptr<Holder> weak;
  std::string text = "text";
};
void WeakcacheTrace(const Holder& holder, Tracer& trace) {
  trace(holder.optional, "optional");
  trace(holder.variant, "variant");
  trace(holder.map, "map");
  trace(holder.array, "array");
  trace(holder.pair, "pair");
  trace(holder.unique, "unique");
  trace(holder.nested, "nested");
  trace(holder.shared, "shared");
  trace(holder.weak, "weak");
  trace(holder.text, "text");
}

TEST(CyclesTest, TracesTheUsualContainers) {
  const std::vector<std::pair<std::string, void (*)(Holder&, const Ref<Holder>&)>> ways = {
      {"optional", [](Holder& h, const Ref<Holder>& r) { h.optional = r; }},
      {"variant", [](Holder& h, const Ref<Holder>& r) { h.variant = r; }},
      {"map", [](Holder& h, const Ref<Holder>& r) { h.map[3] = r; }},
      {"array", [](Holder& h, const Ref<Holder>& r) { h.array[1] = r; }},
      {"pair", [](Holder& h, const Ref<Holder>& r) { h.pair.second = r; }},
      {"unique",
       [](Holder& h, const Ref<Holder>& r) { h.unique = std::make_unique<Ref<Holder>>(r); }},
      {"nested",
       [](Holder& h, const Ref<Holder>& r) {
         h.nested = {std::nullopt, r};
       }},
  };
  for (const auto& [name, hold] : ways) {
    Census census;
    Ref<Holder> holder = MakeRef<Holder>();
    census.Add(holder);
    hold(*holder, holder);
    const WeakRef<Holder> weak = holder;
    holder.reset();
    const CycleReport report = FindCycles(census);
    ASSERT_EQ(report.groups.size(), 1u) << name;
    ASSERT_EQ(report.groups[0].edges.size(), 1u) << name;
    EXPECT_EQ(report.groups[0].edges[0].name, name);
    const Ref<Holder> kept = weak.lock();
    Holder emptied;
    std::swap(*kept, emptied);
  }
}

TEST(CyclesTest, TracesSharedPointers) {
  Census census;
  auto pointer = std::make_shared<Holder>();
  census.Add(pointer);
  census.Add(pointer);
  pointer->shared = pointer;
  pointer->weak = pointer;
  EXPECT_TRUE(FindCycles(census).groups.empty());
  EXPECT_TRUE(WhyAlive(census, pointer).objects.empty());
  const std::weak_ptr<Holder> weak = pointer;
  pointer.reset();
  EXPECT_EQ(FindCycles(census).groups.size(), 1u);
  EXPECT_EQ(weak.use_count(), 1);
  weak.lock()->shared.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_TRUE(FindCycles(census).groups.empty());
  EXPECT_EQ(census.size(), 0u);
}

// A handle of somebody's own.
struct Widget;
struct Counted {
  Counted() = default;
  explicit Counted(std::shared_ptr<Widget> owned) : pointer(std::move(owned)) {}
  Widget* get() const { return pointer.get(); }
  Widget* operator->() const { return get(); }
  long use_count() const { return pointer.use_count(); }
  std::shared_ptr<Widget> pointer;
};
struct Widget {
  Counted self;
  Counted null;
};
void WeakcacheTrace(const Widget& widget, Tracer& trace) {
  trace(widget.self, "self");
  trace(widget.null, "null");
}

struct OpenDocuments {
  const std::vector<Ref<Node>>* documents;
};
void WeakcacheTrace(const OpenDocuments& open, Tracer& trace) { trace(*open.documents, "open"); }

}  // namespace

template <>
struct HandleTraits<Counted> {
  using element_type = Widget;
  using strong_type = Counted;
  using weak_type = std::weak_ptr<Widget>;
  static constexpr bool kNotifiesExpiry = false;
  static weak_type MakeWeak(const Counted& strong) noexcept { return strong.pointer; }
  static Counted Lock(const weak_type& weak) noexcept { return Counted(weak.lock()); }
  static bool Expired(const weak_type& weak) noexcept { return weak.expired(); }
  template <typename A, typename B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return !Pointer(a).owner_before(Pointer(b)) && !Pointer(b).owner_before(Pointer(a));
  }
  static bool Owns(const Counted& strong) noexcept { return strong.pointer != nullptr; }

 private:
  static const std::shared_ptr<Widget>& Pointer(const Counted& strong) { return strong.pointer; }
  static const weak_type& Pointer(const weak_type& weak) { return weak; }
};

namespace {

TEST(CyclesTest, TracesAnyHandle) {
  Census census;
  auto pointer = Counted(std::make_shared<Widget>());
  census.Add(pointer);
  pointer->self = pointer;
  const Counted null;
  pointer->null = null;
  EXPECT_TRUE(FindCycles(census).groups.empty());
  EXPECT_TRUE(WhyAlive(census, pointer).objects.empty()) << "only the caller holds it";
  const std::weak_ptr<Widget> weak = pointer.pointer;
  pointer = Counted();
  const CycleReport report = FindCycles(census);
  ASSERT_EQ(report.groups.size(), 1u);
  EXPECT_EQ(report.groups[0].edges[0].name, "self");
  weak.lock()->self = Counted();
  EXPECT_TRUE(weak.expired());
  EXPECT_TRUE(FindCycles(census).groups.empty());
  EXPECT_EQ(census.size(), 0u);
}

TEST(CyclesTest, ARootHoldsWhatItTraces) {
  Census census;
  std::vector<Ref<Node>> open = {Add(census, "a")};
  open[0]->next = Add(census, "b");
  const WeakRef<Node> weak = open[0]->next;
  const OpenDocuments documents{&open};
  {
    const CensusRoot root(census, documents, "open documents");
    EXPECT_EQ(census.size(), 2u) << "a root is no object";
    const AlivePath path = WhyAlive(census, weak);
    ASSERT_EQ(path.objects.size(), 3u);
    EXPECT_EQ(path.references_from_outside, 0u);
    EXPECT_EQ(ToText(path).substr(0, 22), "root \"open documents\"\n") << ToText(path);
    EXPECT_EQ(path.edges, (std::vector<std::string_view>{"open", "next"}));
    const CycleReport report = FindCycles(census);
    EXPECT_EQ(report.objects_seen, 2u);
    EXPECT_EQ(report.edges_seen, 2u);
  }
  EXPECT_EQ(WhyAlive(census, weak).objects.size(), 2u);
  EXPECT_GT(testing::FailEachAllocation(
                [&] { const CensusRoot root(census, documents, "a name that is a long one"); },
                [&] { EXPECT_EQ(WhyAlive(census, weak).objects.size(), 2u); }),
            0);
}

static_assert(std::is_constructible_v<CensusRoot, Census&, const OpenDocuments&, const char*>);
static_assert(!std::is_constructible_v<CensusRoot, Census&, OpenDocuments, const char*>,
              "the holder has to live longer than the root");

TEST(CyclesDeathTest, ACensusThatEndsBeforeItsRootAborts) {
  std::optional<Census> census(std::in_place);
  const OpenDocuments documents{nullptr};
  const CensusRoot root(*census, documents, "open documents");
  EXPECT_DEATH(census.reset(), "Census::~Census: a CensusRoot has not ended");
}

TEST(CyclesTest, ASecondOwnerOfAnAddressInventsNothing) {
  Census census;
  auto pointer = std::make_shared<Holder>();
  census.Add(pointer);
  pointer->shared = pointer;
  const std::shared_ptr<Holder> other(pointer.get(), [](Holder*) {});
  census.Add(other);
  EXPECT_TRUE(FindCycles(census).groups.empty());
  // An alias points at an object that it does not own.
  const auto holder = std::make_shared<Holder>();
  census.Add(holder);
  holder->shared = std::shared_ptr<Holder>(holder, pointer.get());
  EXPECT_TRUE(FindCycles(census).groups.empty());
  holder->shared.reset();
  pointer->shared.reset();
}

TEST(CyclesTest, WritesJsonAndDot) {
  Census census;
  Ref<Node> node = Add(census, "a \"quoted\"\n name");
  node->next = node;
  const WeakRef<Node> weak = node;
  node.reset();
  CycleReport report = FindCycles(census);
  report.groups[0].objects[0].type = "Node";
  report.groups[0].objects[0].bytes = report.groups[0].bytes = 8;
  EXPECT_EQ(ToJson(report),
            "{\"objects_seen\":1,\"edges_seen\":1,\"groups\":[{\"bytes\":8,\"held_objects\":0,"
            "\"held_bytes\":0,\"objects\":[{\"type\":\"Node\",\"label\":\"a \\\"quoted\\\"\\u000a "
            "name\",\"bytes\":8}],\"edges\":[{\"from\":0,\"to\":0,\"name\":\"next\"}]}]}");
  // What is no UTF-8 is replaced byte by byte; what is stays.
  report.groups[0].objects[0].label =
      "\x80 \xc0\xaf \xe0\x9f\xbf \xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x82 \xff|"
      "\xc3\xa9 \xe2\x82\xac \xed\x9f\xbf \xf0\x9f\x98\x80 \xe2";
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_NE(ToJson(report).find("\"label\":\"" + bad + " " + bad + bad + " " + bad + bad + bad +
                                " " + bad + bad + bad + " " + bad + bad + bad + bad + " " + bad +
                                bad + " " + bad + "|\xc3\xa9 \xe2\x82\xac \xed\x9f\xbf " +
                                "\xf0\x9f\x98\x80 " + bad + "\""),
            std::string::npos)
      << ToJson(report);
  report.groups[0].objects[0].label = "a";
  EXPECT_EQ(ToDot(report),
            "digraph cycles {\n  node [shape=box];\n  subgraph cluster_0 {\n"
            "    label=\"8 bytes unreachable\";\n    g0_0 [label=\"Node \\\"a\\\"\"];\n"
            "    g0_0 -> g0_0 [label=\"next\"];\n  }\n}\n");
  EXPECT_EQ(ToText(report),
            "1 unreachable group among 1 object and 1 edge\n1 object in a cycle, 8 bytes\n"
            "  Node \"a\" --next--> Node \"a\"\n");
  Break(weak);
}

// Returns the path that follows "picture: ".
std::string PictureOf(const std::string& described) {
  const size_t begin = described.find("picture: ") + 9;
  return described.substr(begin, described.find('\n', begin) - begin);
}
std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST(CyclesTest, APictureOverwritesNoOther) {
  Census census;
  Ref<Node> node = Add(census, "a");
  node->next = node;
  const WeakRef<Node> weak = node;
  node.reset();
  const std::string directory = ::testing::TempDir();
  const std::string prefix =
      directory + "/weakcache_cycles_" + std::to_string(getpid()) + "_";  // not another process's
  const std::string first = PictureOf(internal::DescribeCycles(census, directory));
  EXPECT_EQ(first.substr(0, prefix.size()), prefix);
  EXPECT_EQ(ReadFile(first), ToDot(FindCycles(census)));
  const int number = std::stoi(first.substr(prefix.size()));
  const std::string taken = prefix + std::to_string(number + 1) + ".dot";
  std::ofstream(taken) << "another";
  const std::string second = PictureOf(internal::DescribeCycles(census, directory));
  EXPECT_EQ(second, prefix + std::to_string(number + 2) + ".dot");
  EXPECT_EQ(ReadFile(taken), "another");
  EXPECT_EQ(internal::DescribeCycles(census, directory + "/none").find("picture: "),
            std::string::npos);
  static const Census* failing = nullptr;
  failing = &census;
  EXPECT_NONFATAL_FAILURE(EXPECT_NO_CYCLES(*failing), "picture: " + prefix);
  for (const std::string& path : {first, taken, second}) std::remove(path.c_str());
  std::remove((prefix + std::to_string(number + 4) + ".dot").c_str());
  Break(weak);
}

TEST(CyclesTest, AnExceptionOfATraceLeavesEverythingAsItWas) {
  Census census;
  const Ref<Node> first = Add(census);
  const Ref<Node> second = Add(census);
  second->throw_in_trace = true;
  EXPECT_THROW(static_cast<void>(FindCycles(census)), std::runtime_error);
  EXPECT_EQ(first.use_count(), 1u);
  EXPECT_EQ(second.use_count(), 1u);
  second->throw_in_trace = false;
  EXPECT_NO_CYCLES(census);
}

// Drops a reference while it is traced.
struct Dropper {
  Ref<Dropper>* victim = nullptr;
};
void WeakcacheTrace(const Dropper& dropper, Tracer&) {
  if (dropper.victim != nullptr) dropper.victim->reset();
}

TEST(CyclesTest, AnObjectMayDieWhileItIsTraced) {
  Census census;
  const Ref<Dropper> dropper = MakeRef<Dropper>();
  Ref<Dropper> victim = MakeRef<Dropper>();
  const WeakRef<Dropper> weak = victim;
  dropper->victim = &victim;
  census.Add(dropper);
  census.Add(victim);
  EXPECT_TRUE(FindCycles(census).groups.empty());
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(census.size(), 1u);
}

TEST(CyclesTest, CensusAndObjectsEndInEitherOrder) {
  Ref<Node> node;
  {
    Census census;
    node = Add(census);
    EXPECT_EQ(node.weak_count(), 1u);
    EXPECT_EQ(node.watcher_count(), 1u);
  }
  EXPECT_EQ(node.weak_count(), 0u);
  EXPECT_EQ(node.watcher_count(), 0u);
  node.reset();
  Census census;
  node = Add(census);
  node.reset();
  EXPECT_EQ(census.size(), 0u);
}

TEST(CyclesTest, CensusAndObjectsEndAtOnce) {
  std::optional<Census> census;
  std::array<Ref<Node>, 3> nodes;
  testing::Race(
      testing::RaceRounds(100'000),
      [&](int) {
        census.emplace();
        for (Ref<Node>& node : nodes) node = Add(*census);
      },
      {[&] { census.reset(); },
       [&] {
         for (Ref<Node>& node : nodes) node.reset();
       }},
      [&](int) { EXPECT_FALSE(census.has_value()); });
}

TEST(CyclesTest, ThreadsAddAtOnce) {
  std::optional<Census> census;
  std::array<Ref<Node>, 2> kept;
  testing::Race(
      testing::RaceRounds(100'000), [&](int) { census.emplace(); },
      {[&] {
         kept[0] = Add(*census);
         Add(*census);
       },
       [&] {
         Add(*census);
         kept[1] = Add(*census);
       }},
      [&](int) { EXPECT_EQ(census->size(), 2u); });
}

TEST(CyclesTest, AFailedAllocationAddsNothing) {
  const Ref<Node> node = MakeRef<Node>();
  Census census;
  const auto nothing_added = [&] {
    EXPECT_EQ(census.size(), 0u);
    EXPECT_EQ(node.weak_count(), 0u);
  };
  EXPECT_GT(testing::FailEachAllocation([&] { census.Add(node); }, nothing_added), 0);
  EXPECT_EQ(census.size(), 1u);
  node->next = node;
  const auto nothing_held = [&] { EXPECT_EQ(node.use_count(), 2u); };
  EXPECT_GT(
      testing::FailEachAllocation([&] { static_cast<void>(FindCycles(census)); }, nothing_held), 0);
  Break(node);
}

TEST(CyclesTest, ALongRingTakesNoStack) {
  constexpr int kObjects = testing::kSanitized ? 20'000 : 300'000;
  Census census;
  Ref<Node> first = Add(census);
  Ref<Node> last = first;
  for (int i = 1; i < kObjects; ++i) {
    last->next = Add(census);
    last = last->next;
  }
  last->next = first;
  const WeakRef<Node> weak = first;
  first.reset();
  last.reset();
  const CycleReport report = FindCycles(census);
  ASSERT_EQ(report.groups.size(), 1u);
  EXPECT_EQ(report.groups[0].objects.size(), static_cast<size_t>(kObjects));
  Break(weak);
  EXPECT_EQ(census.size(), 0u);
}

// ---- A model: random graphs against reachability by its definition.

struct RandomGraph {
  RandomGraph(unsigned seed, Census& census) : random(seed) {
    const size_t size = 1 + random() % 12;
    reaches.assign(size, std::vector<bool>(size));
    for (size_t i = 0; i < size; ++i) nodes.push_back(Add(census, std::to_string(i)));
    for (size_t edges = random() % (2 * size + 1); edges > 0; --edges) {
      const size_t from = random() % size;
      const size_t to = random() % size;
      nodes[from]->children.push_back(nodes[to]);
      reaches[from][to] = true;
    }
    for (size_t k = 0; k < size; ++k) {
      for (size_t i = 0; i < size; ++i) {
        for (size_t j = 0; j < size; ++j) {
          if (reaches[i][k] && reaches[k][j]) reaches[i][j] = true;
        }
      }
    }
    for (const Ref<Node>& node : nodes) weak.emplace_back(node);
    for (size_t i = 0; i < size; ++i) {
      held.push_back(random() % 4 == 0);
      if (!held[i]) nodes[i].reset();
    }
  }

  // Returns the cyclic groups that nothing held reaches, as sets of labels.
  std::set<std::set<std::string>> Expected() const {
    std::set<std::set<std::string>> groups;
    for (size_t i = 0; i < held.size(); ++i) {
      bool alive = held[i];
      for (size_t j = 0; j < held.size(); ++j) alive = alive || (held[j] && reaches[j][i]);
      if (alive || !reaches[i][i]) continue;
      std::set<std::string> group;
      for (size_t j = 0; j < held.size(); ++j) {
        if (reaches[i][j] && reaches[j][i]) group.insert(std::to_string(j));
      }
      groups.insert(group);
    }
    return groups;
  }

  std::mt19937 random;
  std::vector<Ref<Node>> nodes;
  std::vector<WeakRef<Node>> weak;
  std::vector<std::vector<bool>> reaches;
  std::vector<bool> held;
};

TEST(CyclesTest, AgreesWithTheDefinitionOnRandomGraphs) {
  size_t found = 0;
  for (unsigned seed = 0; seed < testing::Rounds(20'000u, 2'000u); ++seed) {
    Census census;
    RandomGraph graph(seed, census);
    const CycleReport report = FindCycles(census);
    std::set<std::set<std::string>> groups;
    size_t unreachable = 0;
    for (const CycleGroup& group : report.groups) {
      std::set<std::string> labels;
      for (const CycleObject& object : group.objects) labels.insert(object.label);
      groups.insert(labels);
      unreachable += group.objects.size() + group.held_objects;
    }
    ASSERT_EQ(groups, graph.Expected()) << "seed " << seed;
    found += groups.size();
    for (size_t i = 0; i < graph.weak.size(); ++i) {
      if (graph.weak[i].expired()) continue;
      const AlivePath path = WhyAlive(census, graph.weak[i]);
      unreachable -= path.objects.empty() ? 1 : 0;
      if (!path.objects.empty()) {
        EXPECT_EQ(path.objects.back().label, std::to_string(i));
        EXPECT_TRUE(graph.held[std::stoul(path.objects.front().label)]);
      }
    }
    ASSERT_EQ(unreachable, 0u) << "seed " << seed;
    for (const WeakRef<Node>& weak : graph.weak) Break(weak);
  }
  EXPECT_GT(found, 100u);
}

}  // namespace
}  // namespace weakcache
