// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/cycles.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/cycle_search.h"
#include "weakcache/weakref/internal/edge_state.h"
#include "weakcache/weakref/internal/shared_ptr_block.h"

namespace weakcache {
namespace internal {

// ---- The addresses that were told.

AddressSet::Stretch& AddressSet::Find(uintptr_t number) {
  const size_t mask = stretches_.size() - 1;
  size_t i = HashOf(number, shift_);
  while (stretches_[i].number != number && stretches_[i].number != 0) i = (i + 1) & mask;
  return stretches_[i];
}

bool AddressSet::Insert(const void* address) {
  const uintptr_t number = StretchOf(address);
  Stretch* stretch = &Find(number);
  if (stretch->number == 0) {
    if (4 * (size_ + 1) > 3 * stretches_.size()) {
      Grow();
      stretch = &Find(number);
    }
    stretch->number = number;
    ++size_;
  }
  const uint64_t bit = uint64_t{1} << (reinterpret_cast<uintptr_t>(address) / kBytesPerBit % 64);
  if ((stretch->bits & bit) != 0) return false;
  stretch->bits |= bit;
  return true;
}

void AddressSet::Grow() {
  std::vector<Stretch> old(2 * stretches_.size());
  old.swap(stretches_);
  --shift_;
  for (const Stretch& stretch : old) {
    if (stretch.number != 0) Find(stretch.number) = stretch;
  }
}

// ---- Tracing.

CycleSearch::CycleSearch(const Census& census) {
  // In the body, not the initializers: whatever throws before this has pinned nothing.
  census.core_->PinAll().swap(pinned_);
}

void CycleSearch::MakeIndex() {
  Check(pinned_.size() < kNone / 4, "FindCycles", "there are too many objects");
  int bits = 4;
  while ((size_t{3} << bits) < 4 * (pinned_.size() + 1)) ++bits;
  index_.assign(size_t{1} << bits, Slot());
  index_shift_ = 64 - bits;
  entries_.reserve(pinned_.size());
  std::vector<const CensusEntry*> of_both_kinds;  // those of handles beside Refs
  for (size_t i = 0; i < pinned_.size(); ++i) {
    if (i + 2 * kAhead < pinned_.size()) __builtin_prefetch(pinned_[i + 2 * kAhead]);
    if (i + kAhead < pinned_.size()) PrefetchSlot(pinned_[i + kAhead]->identity());
    const CensusEntry* const entry = pinned_[i];
    if (entry->block == nullptr && AsForeign(*entry).ref_block() != nullptr) {
      of_both_kinds.push_back(entry);
    } else {
      NumberObject(*entry);
    }
  }
  // An object that was added by a Ref, too, has its number: the other handles are left out.
  for (const CensusEntry* const entry : of_both_kinds) {
    if (FindNumber(AsForeign(*entry).ref_block()) == kNone) NumberObject(*entry);
  }
}

void CycleSearch::NumberObject(const CensusEntry& entry) {
  Slot& slot = index_[FindSlot(entry.identity())];
  if (slot.identity == nullptr) {
    slot = {entry.identity(), count(), 1};  // the pin
    entries_.push_back(&entry);
  } else if (entries_[slot.number]->SameOwner(entry)) {
    ++slot.explained;  // added twice, so pinned twice
  }                    // else a second owner of the same address, which is left out
}

size_t CycleSearch::FindSlot(const void* identity) const {
  const size_t mask = index_.size() - 1;
  size_t i = HashOf(reinterpret_cast<uintptr_t>(identity), index_shift_);
  while (index_[i].identity != identity && index_[i].identity != nullptr) i = (i + 1) & mask;
  return i;
}

CycleSearch::Number CycleSearch::NumberOfName(const char* name) {
  if (name == latest_name_) return latest_number_;
  const auto [found, added] = name_numbers_.try_emplace(name, static_cast<Number>(names_.size()));
  if (added) names_.push_back(name);
  latest_name_ = name;
  latest_number_ = found->second;
  return latest_number_;
}

void CycleSearch::TellEdge(const void* identity, const void* handle, const char* name) {
  handles_.Prefetch(handle);
  PrefetchSlot(identity);
  told_[told_count_++] = {identity, handle, name, holder_, holder_ == tracing_};
  if (told_count_ == kToldAtOnce) EnterEdges();
}

void CycleSearch::EnterEdges() {
  edges_seen_ += told_count_;
  for (size_t i = 0; i < told_count_; ++i) {
    const ToldEdge& told = told_[i];
    if (!handles_.Insert(told.handle)) {
      CheckFailed("WeakcacheTrace, a reference told twice (or one that is not a member)",
                  told.name);
    }
    Slot& target = index_[FindSlot(told.identity)];
    if (target.identity == nullptr || told.from == kNone) continue;
    Check(edge_targets_.size() < kNone - 1, "FindCycles", "there are too many edges");
    ++target.explained;
    if (told.handle == passed_) passed_is_edge_ = true;
    if (!told.in_order) {
      held_edges_.push_back({told.from, target.number, NumberOfName(told.name)});
      continue;
    }
    ++first_edge_[told.from + 1];
    edge_names_.push_back(NumberOfName(told.name));
    edge_targets_.push_back(target.number);
  }
  told_count_ = 0;
}

void CycleSearch::TellEdgeState(const EdgeState& edge, const char* name) {
  const EdgeState::Look look = edge.LookAt();
  if (phase_ == Phase::kFirstLook) {
    first_looks_.insert_or_assign(&edge, look);
    return;
  }
  if (look.block == nullptr) return;
  if (phase_ == Phase::kSecondLook) {
    const auto first = first_looks_.find(&edge);
    if (first == first_looks_.end() || first->second != look || holder_ != tracing_) return;
  }
  TellEdge(look.block, &edge, name);
}

void CycleSearch::TraceConcurrently() {
  MakeIndex();
  phase_ = Phase::kFirstLook;
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
    entry.type->trace(entry.object, tracer);
  }
}

void CycleSearch::BuildGraph() {
  first_edge_.assign(size_t{count()} + 1, 0);  // at first, the number of each object's edges
  TraceEach();
  EnterEdges();
  AddressSet emptied;
  std::swap(handles_, emptied);
  for (Number i = 0; i < count(); ++i) first_edge_[i + 1] += first_edge_[i];
  if (!held_edges_.empty()) InsertHeldEdges();
  CountOutside();
}

void CycleSearch::InsertHeldEdges() {
  std::vector<Number> next(first_edge_.size());
  for (const HeldEdge& edge : held_edges_) ++next[edge.from + 1];
  for (Number i = 0; i < count(); ++i) next[i + 1] += next[i];
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
  outside_.resize(count());
  for (const Slot& slot : index_) {
    if (slot.identity != nullptr) outside_[slot.number] = slot.explained;
  }
  for (Number i = 0; i < count(); ++i) {
    if (i + kAhead < count()) {
      __builtin_prefetch(entries_[i + kAhead]);
      __builtin_prefetch(entries_[i + kAhead / 2]->block);
    }
    const CensusEntry& entry = *entries_[i];
    if (entry.is_root()) continue;  // the pin stands for what keeps it
    const size_t explained = outside_[i];
    const size_t all = CountOf(i);
    if (all < explained) {
      std::string problem = "more edges than references to an object of type ";
      problem += entry.type->name;
      CheckFailed("FindCycles", problem.c_str());
    }
    outside_[i] = static_cast<Number>(std::min<size_t>(all - explained, kNone));
  }
}

// ---- The walks over the graph.

size_t CycleSearch::Reach(std::vector<Number>* marks, std::vector<Number>* via) const {
  std::vector<Number> queue;
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
  std::vector<Slot>().swap(index_);  // nothing more is looked up
  for (const CensusEntry* const entry : entries_) report.objects_seen += entry->is_root() ? 0u : 1u;
  report.edges_seen = edges_seen_;
  std::vector<Number> marks(count());
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
  group.objects.reserve(members.begin[component + 1] - members.begin[component]);
  group.edges.reserve(edges);
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
    for (Number m = members.begin[c]; m != members.begin[c + 1]; ++m) {
      const Number node = members.nodes[m];
      if (cyclic) {
        group.objects.push_back(Describe(node));
        group.bytes += group.objects.back().bytes;
      } else {
        ++group.held_objects;
        group.held_bytes += entries_[node]->type->bytes(entries_[node]->object);
      }
      for (Number e = first_edge_[node]; e != first_edge_[node + 1]; ++e) {
        const Number to = edge_targets_[e];
        if (component[to] == c) {
          group.edges.push_back(
              {members.position[node], members.position[to], names_[edge_names_[e]]});
        } else if (component[to] != kNone && group_of[component[to]] == kNone) {
          group_of[component[to]] = group_of[c];
        }
      }
    }
  }
}

CycleSearch::Members CycleSearch::MembersOf(const std::vector<Number>& component,
                                            Number components) const {
  Members members;
  members.begin.resize(size_t{components} + 1);
  for (const Number c : component) {
    if (c != kNone) ++members.begin[c + 1];
  }
  for (Number c = 0; c < components; ++c) members.begin[c + 1] += members.begin[c];
  members.nodes.resize(members.begin.back());
  members.position.resize(count());
  std::vector<Number> next(members.begin.begin(), members.begin.end() - 1);
  for (Number node = 0; node < count(); ++node) {
    const Number c = component[node];
    if (c == kNone) continue;
    members.position[node] = next[c] - members.begin[c];
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
  if (entry.is_root()) return {entry.type->name, *AsForeign(entry).root_name(), entry.object, 0};
  return {entry.type->name, entry.type->label(entry.object), entry.object,
          entry.type->bytes(entry.object)};
}

AlivePath CycleSearch::Path(const void* identity) const {
  AlivePath path;
  Number node = identity == nullptr ? kNone : FindNumber(identity);
  if (node == kNone) return path;
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

AlivePath FindAlivePath(const Census& census, const void* identity, const void* strong) {
  CycleSearch search(census);
  search.SetPassed(strong);
  search.Trace();
  if (strong != nullptr) search.DiscountReference(identity);
  return search.Path(identity);
}
AlivePath FindAlivePath(const Census& census, const void* identity, const OwnerTest& test,
                        const void* strong) {
  CycleSearch search(census);
  search.SetPassed(strong);
  search.Trace();
  const CensusEntry* const entry = search.FindEntry(identity);
  // Another owner may point at the same address.
  if (entry == nullptr || !entry->IsOwnedBy(test, strong)) return AlivePath();
  search.DiscountReference(identity);
  return search.Path(identity);
}

}  // namespace internal

void Tracer::TellBlock(const void* block, const void* handle, const char* name) {
  search_->TellEdge(block, handle, name);
}
void Tracer::TellForeign(const void* object, const internal::OwnerTest& test, const void* handle,
                         const char* name) {
  const internal::CensusEntry* const target = search_->FindEntry(object);
  // An alias may point at an object that it does not own.
  if (target != nullptr && target->IsOwnedBy(test, handle)) {
    search_->TellEdge(object, handle, name);
  }
}

void Tracer::TellEdgeState(const internal::EdgeState& edge, const char* name) {
  search_->TellEdgeState(edge, name);
}

size_t Tracer::StartHolder(const void* identity) {
  return search_->SetHolder(search_->NumberOf(identity));
}
size_t Tracer::StartHolder(const void* object, const internal::OwnerTest& test,
                           const void* handle) {
  const internal::CensusEntry* const holder = search_->FindEntry(object);
  const bool known = holder != nullptr && holder->IsOwnedBy(test, handle);
  return search_->SetHolder(known ? search_->NumberOf(object) : internal::CycleSearch::kNone);
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
