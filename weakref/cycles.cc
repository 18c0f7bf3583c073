// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/cycles.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/cycle_search.h"
#include "weakcache/weakref/internal/edge_state.h"
#include "weakcache/weakref/internal/large_array.h"
#include "weakcache/weakref/internal/shared_ptr_block.h"

namespace weakcache {
namespace internal {

// ---- Tracing.

CycleSearch::CycleSearch(const Census& census) : core_(*census.core_) {
  // In the body, not the initializers: whatever throws before this has pinned nothing.
  pinned_plain_ = core_.PinAll(pinned_);
}

void CycleSearch::MakeIndex() {
  Check(pinned_.size() < kNone / 4, "FindCycles", "there are too many objects");
  size_t blocks = 0;
  for (size_t i = 0; i < pinned_.size(); ++i) {
    if (i + kAhead < pinned_.size()) __builtin_prefetch(pinned_[i + kAhead]);
    const ControlBlock* const block = pinned_[i]->block;
    if (block != nullptr && blocks_.Insert(block)) ++blocks;
  }
  blocks_.StartNumbering(blocks);
  ReserveLarge(&outside_, pinned_.size());
  for (size_t i = 0; i < pinned_plain_; ++i) {
    if (i + kAhead < pinned_plain_) __builtin_prefetch(pinned_[i + kAhead]);
    NumberBlock(*pinned_[i]);
  }
  size_t size = 16;
  while (3 * size < 4 * (pinned_.size() - pinned_plain_ + 1)) size *= 2;
  index_.assign(size, Slot());
  index_shift_ = 64 - std::countr_zero(size);
  std::vector<const CensusEntry*> of_both_kinds;  // those of handles beside Refs
  for (size_t i = pinned_plain_; i < pinned_.size(); ++i) {
    const CensusEntry* const entry = pinned_[i];
    if (entry->block == nullptr && AsForeign(*entry).ref_block() != nullptr) {
      of_both_kinds.push_back(entry);
    } else {
      NumberObject(*entry);
    }
  }
  // An object that was added by a Ref, too, has its number: the other handles are left out.
  for (const CensusEntry* const entry : of_both_kinds) {
    if (NumberOf(AsForeign(*entry).ref_block()) == kNone) NumberObject(*entry);
  }
  entries_ = distinct_.empty() ? pinned_.data() : distinct_.data();
}

void CycleSearch::NumberBlock(const CensusEntry& entry) {
  Number& number = blocks_.NumberOf(entry.block);
  if (number == kNone) {
    number = AddObject(entry);
  } else {
    ++outside_[number];  // added twice, so pinned twice
  }
}

void CycleSearch::NumberObject(const CensusEntry& entry) {
  if (entry.is_root()) {
    AddObject(entry);
    return;
  }
  Number* const of_block = entry.block == nullptr ? nullptr : &blocks_.NumberOf(entry.block);
  if (of_block != nullptr && *of_block != kNone) {
    ++outside_[*of_block];  // added twice, so pinned twice
    return;
  }
  Slot& slot = index_[FindSlot(entry.whole_object())];
  if (slot.object == nullptr) {
    slot = {entry.whole_object(), AddObject(entry)};
  } else if (EntryOf(slot.number).SameOwner(entry)) {
    AddAgain(slot.number, entry);
  } else if (of_block != nullptr) {
    *of_block = AddObject(entry);
    return;
  }  // else a second owner of the same address, which is left out
  if (of_block != nullptr) *of_block = slot.number;
}

CycleSearch::Number CycleSearch::AddObject(const CensusEntry& entry) {
  if (!distinct_.empty() || pinned_[count_] != &entry) {
    if (distinct_.empty()) {
      ReserveLarge(&distinct_, pinned_.size());
      distinct_.assign(pinned_.begin(), pinned_.begin() + count_);
    }
    distinct_.push_back(&entry);
  }
  outside_.push_back(1);  // the pin
  return count_++;
}
void CycleSearch::AddAgain(Number number, const CensusEntry& entry) {
  ++outside_[number];  // the pin
  if (entry.block != nullptr) added_again_.emplace_back(number, &entry);
}

size_t CycleSearch::FindSlot(const void* object) const {
  const size_t mask = index_.size() - 1;
  size_t i = HashOf(reinterpret_cast<uintptr_t>(object), index_shift_);
  while (index_[i].object != object && index_[i].object != nullptr) i = (i + 1) & mask;
  return i;
}

CycleSearch::Number CycleSearch::NumberOf(const void* block) const {
  const Number place = blocks_.FindPlace(block);
  return place == kNone ? kNone : blocks_.NumberAt(place);
}
CycleSearch::Number CycleSearch::NumberOf(const void* object, const OwnerTest& test,
                                          const void* handle) const {
  const Slot& slot = index_[FindSlot(object)];
  // Another owner may point at the same address, and an alias at an object that it does not own.
  const bool known = slot.object != nullptr && entries_[slot.number]->IsOwnedBy(test, handle);
  return known ? slot.number : kNone;
}

CycleSearch::NameNumber CycleSearch::NumberOfName(const char* name) {
  RecentName& recent =
      recent_names_[HashOf(reinterpret_cast<uintptr_t>(name), 64 - kRecentNameBits)];
  if (recent.name != name) recent = {name, FindName(name)};
  return recent.number;
}
CycleSearch::NameNumber CycleSearch::FindName(const char* name) {
  const auto [found, added] =
      name_numbers_.try_emplace(name, static_cast<NameNumber>(names_.size()));
  if (!added) return found->second;
  Check(names_.size() < std::numeric_limits<NameNumber>::max(), "FindCycles",
        "there are too many names of edges: they have to be string literals");
  names_.emplace_back(name);
  return found->second;
}

void CycleSearch::EnterEdges() {
  edges_seen_ += told_count_;
  if (edge_targets_.capacity() < edge_targets_.size() + told_count_) ReserveEdges();
  for (size_t i = 0; i < told_count_; ++i) {
    ToldEdge& told = told_[i];
    if (told.block == nullptr) continue;
    told.to = blocks_.FindPlace(told.block);
    if (told.to != kNone) blocks_.PrefetchNumber(told.to);
  }
  for (size_t i = 0; i < told_count_; ++i) {
    ToldEdge& told = told_[i];
    const bool is_new = handles_.Insert(told.handle);
    if (!is_new && phase_ != Phase::kSecondLook) {
      CheckFailed("WeakcacheTrace, a reference told twice (or one that is not a member)",
                  told.name);
    }
    if (told.block != nullptr && told.to != kNone) told.to = blocks_.NumberAt(told.to);
    if (!is_new && told.to != kNone) {
      // Another thread may have moved it meanwhile, so whoever does that may hold its target.
      counts_[told.to] = kReachable;
      told.to = kNone;
    }
    if (told.to != kNone) __builtin_prefetch(&outside_[told.to], 1);
  }
  for (size_t i = 0; i < told_count_; ++i) {
    if (told_[i].to != kNone && told_[i].from != kNone) EnterEdge(told_[i]);
  }
  told_count_ = 0;
}

void CycleSearch::EnterEdge(const ToldEdge& told) {
  ++outside_[told.to];
  if (told.handle == passed_) passed_is_edge_ = true;
  if (!told.in_order) {
    held_edges_.push_back({told.from, told.to, NumberOfName(told.name)});
    return;
  }
  ++first_edge_[told.from + 1];
  edge_names_.push_back(NumberOfName(told.name));
  edge_targets_.push_back(told.to);
}

size_t CycleSearch::EdgesToReserve(size_t so_far, Number traced, Number objects) {
  size_t edges = 2 * so_far + 16 * kToldAtOnce;
  if (traced > objects / 16) {
    const size_t others = so_far * (objects - traced) / traced;
    edges = std::min(edges, so_far + others + so_far / 64);
    edges = std::max(edges, so_far + so_far / 16 + kToldAtOnce);
  }
  return std::min<size_t>(edges, kNone - 1);  // so that ReserveEdges checks in time
}

void CycleSearch::ReserveEdges() {
  Check(edge_targets_.size() < kNone - kToldAtOnce, "FindCycles", "there are too many edges");
  const size_t edges = EdgesToReserve(edge_targets_.size(), tracing_, count());
  ReserveLarge(&edge_targets_, edges);
  ReserveLarge(&edge_names_, edges);
}

void CycleSearch::TellEdgeState(const EdgeState& edge, const char* name) {
  const EdgeState::Look look = edge.LookAt();
  if (phase_ == Phase::kFirstLook) {
    first_looks_.push_back({&edge, look});
    return;
  }
  if (look.block == nullptr) return;
  if (phase_ == Phase::kSecondLook) {
    const FirstLook* const first = FindFirstLook(&edge);
    if (first == nullptr || first->look != look || holder_ != tracing_) return;
  }
  TellEdge(look.block, &edge, name);
}

const CycleSearch::FirstLook* CycleSearch::FindFirstLook(const EdgeState* edge) {
  const size_t end = look_begin_[tracing_ + 1];
  if (next_look_ < end && first_looks_[next_look_].edge == edge) return &first_looks_[next_look_++];
  // The object has changed, so its edges come in another order.
  const auto first = first_looks_.begin() + look_begin_[tracing_];
  const auto last = first_looks_.begin() + static_cast<ptrdiff_t>(end);
  const std::less<> less;
  if (!looks_are_sorted_) {
    std::sort(first, last,
              [&](const FirstLook& a, const FirstLook& b) { return less(a.edge, b.edge); });
    looks_are_sorted_ = true;
    next_look_ = end;
  }
  const auto found = std::lower_bound(
      first, last, edge, [&](const FirstLook& a, const EdgeState* b) { return less(a.edge, b); });
  return found != last && found->edge == edge ? &*found : nullptr;
}

CycleSearch::Number CycleSearch::CountLooks() const {
  Check(first_looks_.size() < kNone, "FindCyclesConcurrently", "there are too many edges");
  return static_cast<Number>(first_looks_.size());
}

void CycleSearch::TraceConcurrently() {
  MakeIndex();
  phase_ = Phase::kFirstLook;
  ReserveLarge(&look_begin_, size_t{count()} + 1);
  TraceEach();
  ReadCounts();
  phase_ = Phase::kSecondLook;
  BuildGraph();
}

void CycleSearch::ReadCounts() {
  counts_.assign(count(), kReachable);
  for (Number i = 0; i < count(); ++i) {
    ControlBlock* const block = entries_[i]->block;
    // Whoever has a std::shared_ptr reaches an object of FromSharedPtr.
    if (block == nullptr || SharedPtrBlock::Owner(block) != nullptr) continue;
    const auto [strong, sole_weak] = block->ReadBothCounts();
    if (sole_weak) counts_[i] = strong;  // that of the census's entry
  }
}

void CycleSearch::Trace() {
  MakeIndex();
  BuildGraph();
}

void CycleSearch::TraceEach() {
  Tracer tracer(this, phase_ != Phase::kQuiet);
  for (tracing_ = 0; tracing_ < count(); ++tracing_) {
    if (tracing_ + kAhead < count()) {
      __builtin_prefetch(entries_[tracing_ + kAhead]);
      __builtin_prefetch(entries_[tracing_ + kAhead / 2]->object);
    }
    const CensusEntry& entry = *entries_[tracing_];
    holder_ = tracing_;
    if (phase_ == Phase::kFirstLook) look_begin_.push_back(CountLooks());
    if (phase_ == Phase::kSecondLook) {
      next_look_ = look_begin_[tracing_];
      looks_are_sorted_ = false;
    }
    entry.type().trace(entry.object, tracer);
  }
  if (phase_ == Phase::kFirstLook) look_begin_.push_back(CountLooks());
}

void CycleSearch::BuildGraph() {
  FillLarge(&first_edge_, size_t{count()} + 1,
            Number{0});  // at first, the number of each object's edges
  TraceEach();
  EnterEdges();
  handles_ = AddressSet();
  std::vector<FirstLook>().swap(first_looks_);
  for (Number i = 0; i < count(); ++i) first_edge_[i + 1] += first_edge_[i];
  if (!held_edges_.empty()) InsertHeldEdges();
  CountOutside();
}

void CycleSearch::InsertHeldEdges() {
  std::vector<Number> next(first_edge_.size());
  for (const HeldEdge& edge : held_edges_) ++next[edge.from + 1];
  for (Number i = 0; i < count(); ++i) next[i + 1] += next[i];
  Check(edge_targets_.size() + held_edges_.size() < kNone, "FindCycles",
        "there are too many edges");
  // Each edge so far moves towards the end by the number of held edges that go before it.
  const size_t told = edge_targets_.size();
  edge_targets_.resize(told + held_edges_.size());
  edge_names_.resize(edge_targets_.size());
  for (Number node = count(); node-- > 0;) {
    for (Number edge = first_edge_[node + 1]; edge-- > first_edge_[node];) {
      edge_targets_[edge + next[node]] = edge_targets_[edge];
      edge_names_[edge + next[node]] = edge_names_[edge];
    }
  }
  for (Number node = 0; node < count(); ++node) {
    const Number held_before = next[node];
    next[node] += first_edge_[node + 1];  // where its next held edge goes
    first_edge_[node] += held_before;
  }
  first_edge_[count()] = static_cast<Number>(edge_targets_.size());
  for (const HeldEdge& edge : held_edges_) {
    edge_targets_[next[edge.from]] = edge.to;
    edge_names_[next[edge.from]++] = edge.name;
  }
  std::vector<HeldEdge>().swap(held_edges_);
}

void CycleSearch::CountOutside() {
  std::vector<size_t> again;  // references to the objects of `added_again_`, by these entries
  if (!added_again_.empty() && counts_.empty()) again.resize(count());
  for (const auto& [number, entry] : added_again_) {
    // The std::shared_ptr of the Refs is counted by the first entry.
    if (!again.empty()) again[number] += entry->block->strong_count() - 1;
  }
  for (Number i = 0; i < count(); ++i) {
    if (i + kAhead < count()) {
      __builtin_prefetch(entries_[i + kAhead]);
      __builtin_prefetch(entries_[i + kAhead / 2]->block);
    }
    const CensusEntry& entry = *entries_[i];
    if (entry.is_root()) continue;  // the pin stands for what keeps it
    const size_t explained = outside_[i];
    const size_t all = CountOf(i) + (again.empty() ? 0 : again[i]);
    if (all < explained) {
      std::string problem = "more edges than references to an object of type ";
      problem += entry.type().name;
      CheckFailed("FindCycles", problem.c_str());
    }
    outside_[i] = static_cast<Number>(std::min<size_t>(all - explained, kNone));
  }
}

// ---- The walks over the graph.

size_t CycleSearch::Reach(std::vector<Number>* marks, std::vector<Number>* via) const {
  std::vector<Number> queue;
  ReserveLarge(&queue, count());
  for (Number i = 0; i < count(); ++i) {
    if (outside_[i] == 0) continue;
    (*marks)[i] = kNone;
    queue.push_back(i);
  }
  for (size_t next = 0; next < queue.size(); ++next) {
    if (next + 2 * kAhead < queue.size())
      __builtin_prefetch(&first_edge_[queue[next + 2 * kAhead]]);
    if (next + kAhead < queue.size()) {
      // No element: an object without edges may be the last one.
      __builtin_prefetch(edge_targets_.data() + first_edge_[queue[next + kAhead]]);
    }
    const Number from = queue[next];
    for (Number edge = first_edge_[from]; edge != first_edge_[from + 1]; ++edge) {
      const Number to = edge_targets_[edge];
      if ((*marks)[to] == kNone) continue;
      (*marks)[to] = kNone;
      if (via != nullptr) (*via)[to] = edge;
      queue.push_back(to);
    }
  }
  return queue.size();
}

// Tarjan's algorithm (1972), without recursion.
class CycleSearch::ComponentSearch {
 public:
  ComponentSearch(const CycleSearch& graph, std::vector<Number>& low) : graph_(graph), low_(low) {}

  Number Run() {
    ReserveLarge(&stack_, low_.size());
    ReserveLarge(&calls_, low_.size());
    for (Number root = 0; root < graph_.count(); ++root) {
      if (low_[root] != 0) continue;
      Enter(root);
      while (!calls_.empty()) Step();
    }
    for (Number& mark : low_) {
      if (mark != kNone) mark &= ~kDone;
    }
    return components_;
  }

 private:
  // A flag that exceeds the numbers of all visits, so that a complete component lowers nothing.
  static constexpr Number kDone = ~(kNone >> 1);

  struct Call {
    Number node;
    Number edge;
    Number position;
  };

  void Enter(Number node) {
    const Number begin = graph_.first_edge_[node];
    const Number end = graph_.first_edge_[node + 1];
    for (Number edge = begin; edge != std::min<Number>(end, begin + kAhead); ++edge) {
      __builtin_prefetch(&low_[graph_.edge_targets_[edge]], 1);
      __builtin_prefetch(&graph_.first_edge_[graph_.edge_targets_[edge]]);
    }
    low_[node] = ++visits_;
    stack_.push_back(node);
    calls_.push_back({node, begin, visits_});
  }
  // Follows an edge of the innermost call's object, or returns from the call.
  void Step() {
    Call& call = calls_.back();
    const Number node = call.node;
    if (call.edge == graph_.first_edge_[node + 1]) return Leave(call);
    const Number to = graph_.edge_targets_[call.edge++];
    if (low_[to] == 0) {
      Enter(to);
    } else {
      low_[node] = std::min(low_[node], low_[to]);
    }
  }
  void Leave(const Call& call) {
    const Number node = call.node;
    if (low_[node] == call.position) {
      for (Number member = kNone; member != node; stack_.pop_back()) {
        member = stack_.back();
        low_[member] = kDone | components_;
      }
      ++components_;
    }
    calls_.pop_back();
    if (calls_.empty()) return;
    const Number caller = calls_.back().node;
    low_[caller] = std::min(low_[caller], low_[node]);
  }

  const CycleSearch& graph_;
  // For each object: 0 before its visit; while the object is on the stack, the lowest visit that it
  // is known to reach; afterwards the number of its component, with kDone.
  std::vector<Number>& low_;
  std::vector<Number> stack_;
  std::vector<Call> calls_;
  Number visits_ = 0;
  Number components_ = 0;
};

CycleSearch::Number CycleSearch::FindComponents(std::vector<Number>* marks) const {
  return ComponentSearch(*this, *marks).Run();
}

// ---- The report.

CycleReport CycleSearch::Report() {
  CycleReport report;
  blocks_ = BlockNumbers();  // nothing more is looked up
  for (Number i = 0; i < count(); ++i) report.objects_seen += entries_[i]->is_root() ? 0u : 1u;
  report.edges_seen = edges_seen_;
  std::vector<Number> marks;
  FillLarge(&marks, count(), Number{0});
  if (Reach(&marks, nullptr) == count()) return report;
  const Number components = FindComponents(&marks);
  MakeGroups(marks, components, &report);
  return report;
}

bool CycleSearch::StartGroup(const Members& members, Number component, CycleReport* report) const {
  if (!IsCyclic(members, component)) return false;
  CycleGroup& group = report->groups.emplace_back();
  size_t edges = 0;
  for (Number m = members.begin[component]; m != members.begin[component + 1]; ++m) {
    edges += first_edge_[members.nodes[m] + 1] - first_edge_[members.nodes[m]];
  }
  ReserveLarge(&group.objects, members.begin[component + 1] - members.begin[component]);
  ReserveLarge(&group.edges, edges);
  return true;
}

void CycleSearch::MakeGroups(const std::vector<Number>& component, Number components,
                             CycleReport* report) const {
  const Members members = MembersOf(component, components);
  // Components come in the order of the edges, so the holder of a held object gets its group first.
  std::vector<Number> group_of(components, kNone);
  for (Number c = components; c-- > 0;) {
    const bool cyclic = StartGroup(members, c, report);
    if (cyclic) {
      group_of[c] = static_cast<Number>(report->groups.size() - 1);
    } else if (group_of[c] == kNone) {
      continue;  // its last other reference was dropped since it was pinned
    }
    CycleGroup& group = report->groups[group_of[c]];
    if (cyclic) {
      DescribeMembers(members, c, &group);
    } else {
      const CensusEntry& held = *entries_[members.nodes[members.begin[c]]];
      ++group.held_objects;
      group.held_bytes += held.type().bytes(held.object);
    }
    AddEdges(members, c, &group, [&](Number to) {
      if (group_of[component[to]] == kNone) group_of[component[to]] = group_of[c];
    });
  }
}

void CycleSearch::DescribeMembers(const Members& members, Number component,
                                  CycleGroup* group) const {
  for (Number m = members.begin[component]; m != members.begin[component + 1]; ++m) {
    if (m + kAhead < members.nodes.size()) {
      __builtin_prefetch(entries_[members.nodes[m + kAhead]]);
    }
    group->objects.push_back(Describe(members.nodes[m]));
    group->bytes += group->objects.back().bytes;
  }
}

template <typename Leave>
void CycleSearch::AddEdges(const Members& members, Number component, CycleGroup* group,
                           const Leave& leave) const {
  const Number begin = members.begin[component];
  const Number size = members.begin[component + 1] - begin;
  for (Number m = begin; m != begin + size; ++m) {
    const Number node = members.nodes[m];
    for (Number e = first_edge_[node]; e != first_edge_[node + 1]; ++e) {
      const Number place = members.place[edge_targets_[e]];
      if (place - begin < size) {  // places before `begin` wrap around
        group->edges.push_back({m - begin, place - begin, names_[edge_names_[e]]});
      } else if (place != kNone) {
        leave(edge_targets_[e]);
      }
    }
  }
}

CycleSearch::Members CycleSearch::MembersOf(const std::vector<Number>& component,
                                            Number components) const {
  Members members;
  FillLarge(&members.begin, size_t{components} + 1, Number{0});
  for (const Number c : component) {
    if (c != kNone) ++members.begin[c + 1];
  }
  for (Number c = 0; c < components; ++c) members.begin[c + 1] += members.begin[c];
  FillLarge(&members.nodes, members.begin.back(), Number{0});
  FillLarge(&members.place, count(), kNone);
  std::vector<Number> next;
  ReserveLarge(&next, components);
  next.assign(members.begin.begin(), members.begin.end() - 1);
  for (Number node = 0; node < count(); ++node) {
    const Number c = component[node];
    if (c == kNone) continue;
    members.place[node] = next[c];
    members.nodes[next[c]++] = node;
  }
  return members;
}

bool CycleSearch::IsCyclic(const Members& members, Number component) const {
  if (members.begin[component + 1] - members.begin[component] > 1) return true;
  const Number only = members.nodes[members.begin[component]];
  for (Number e = first_edge_[only]; e != first_edge_[only + 1]; ++e) {
    if (edge_targets_[e] == only) return true;
  }
  return false;
}

CycleObject CycleSearch::Describe(Number node) const {
  const CensusEntry& entry = *entries_[node];
  if (entry.is_root()) return {entry.type().name, *AsForeign(entry).root_name(), entry.object, 0};
  return {entry.type().name,
          entry.type().label == nullptr ? std::string() : entry.type().label(entry.object),
          entry.object, entry.type().bytes(entry.object)};
}

AlivePath CycleSearch::Path(Number node) const {
  AlivePath path;
  if (node == kNone) return path;
  path.known = true;
  std::vector<Number> marks(count());
  std::vector<Number> via(count(), kNone);
  Reach(&marks, &via);
  if (marks[node] != kNone) return path;
  while (true) {
    path.objects.push_back(Describe(node));
    const Number edge = via[node];
    if (edge == kNone) break;
    path.edges.emplace_back(names_[edge_names_[edge]]);
    // The object at which the edge begins is the last one whose edges begin at or before it.
    const auto after = std::upper_bound(first_edge_.begin(), first_edge_.end(), edge);
    node = static_cast<Number>(after - first_edge_.begin() - 1);
  }
  path.references_from_outside = entries_[node]->is_root() ? 0 : outside_[node];
  std::reverse(path.objects.begin(), path.objects.end());
  std::reverse(path.edges.begin(), path.edges.end());
  return path;
}

AlivePath FindAlivePath(const Census& census, ControlBlock* block, const void* object,
                        const void* strong) {
  CycleSearch search(census);
  search.SetPassed(strong);
  search.Trace();
  if (block == nullptr) return AlivePath();
  CycleSearch::Number number = search.NumberOf(block);
  bool counts = true;
  if (number == CycleSearch::kNone) {
    const std::shared_ptr<void>* const owner = SharedPtrBlock::Owner(block);
    if (owner == nullptr) return AlivePath();
    number = search.NumberOf(object, kOwnerTest<std::shared_ptr<void>>, owner);
    counts = block->strong_count() == 1;  // then its std::shared_ptr goes with it
  }
  if (counts) search.DiscountReference(number);
  return search.Path(number);
}
AlivePath FindAlivePath(const Census& census, const void* object, const OwnerTest& test,
                        const void* strong, const ControlBlock* refs, bool holds_a_ref) {
  CycleSearch search(census);
  search.SetPassed(strong);
  search.Trace();
  CycleSearch::Number number = search.NumberOf(object, test, strong);
  const bool by_refs = number == CycleSearch::kNone && refs != nullptr;
  if (by_refs) number = search.NumberOf(refs);
  if (!by_refs || holds_a_ref) search.DiscountReference(number);
  return search.Path(number);
}

}  // namespace internal

void Tracer::TellBlock(const void* block, const void* handle, const char* name) {
  search_->TellEdge(block, handle, name);
}
void Tracer::TellForeign(const void* object, const internal::OwnerTest& test, const void* handle,
                         const char* name) {
  const internal::CycleSearch::Number to = search_->NumberOf(object, test, handle);
  if (to != internal::CycleSearch::kNone) search_->TellEdge(to, handle, name);
}

void Tracer::TellEdgeState(const internal::EdgeState& edge, const char* name) {
  search_->TellEdgeState(edge, name);
}

size_t Tracer::StartHolder(const void* identity) {
  return search_->SetHolder(search_->NumberOf(identity));
}
size_t Tracer::StartHolder(const void* object, const internal::OwnerTest& test,
                           const void* handle) {
  return search_->SetHolder(search_->NumberOf(object, test, handle));
}
void Tracer::EndHolder(size_t former) {
  search_->SetHolder(static_cast<internal::CycleSearch::Number>(former));
}

CycleReport FindCyclesConcurrently(const Census& census) {
  internal::CycleSearch search(census);
  search.TraceConcurrently();
  return search.Report();
}

CycleReport FindCycles(const Census& census) {
  internal::CycleSearch search(census);
  search.Trace();
  return search.Report();
}

}  // namespace weakcache
