// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/cycles.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache {
namespace internal {

// ---- The census.

void CensusCore::Add(ControlBlock* block, const void* object, const CensusType& type) {
  auto entry = std::make_unique<CensusEntry>(this);
  block->AddWeak();
  entry->block = block;
  entry->object = object;
  entry->type = &type;
  CensusEntry* const watcher = entry.get();
  Enter(std::move(entry));
  block->AddWatcher(watcher);
}

void CensusCore::Add(std::weak_ptr<const void> owner, const void* identity, const void* object,
                     const CensusType& type) {
  auto entry = std::make_unique<CensusEntry>(this);
  entry->shared = std::make_unique<SharedOwner>();
  entry->shared->weak = std::move(owner);
  entry->shared->identity = identity;
  entry->object = object;
  entry->type = &type;
  Enter(std::move(entry));
}

void CensusCore::Enter(std::unique_ptr<CensusEntry> entry) {
  CensusEntry* dead = nullptr;
  {
    const std::lock_guard lock(mutex_);
    entry->position = entries_.size();
    entries_.push_back(entry.get());
    static_cast<void>(entry.release());
    if (entries_.size() >= sweep_at_) {
      dead = RemoveDead();
      sweep_at_ = std::max<size_t>(16, 2 * entries_.size());
    }
  }
  DeleteAll(dead);
}

void CensusCore::Remove(const CensusEntry& entry) {
  entries_[entry.position] = entries_.back();
  entries_[entry.position]->position = entry.position;
  entries_.pop_back();
}

CensusEntry* CensusCore::RemoveDead() {
  CensusEntry* first = nullptr;
  for (size_t i = entries_.size(); i-- > 0;) {
    CensusEntry* const entry = entries_[i];
    if (entry->shared == nullptr || !entry->shared->weak.expired()) continue;
    Remove(*entry);
    entry->set_next(first);
    first = entry;
  }
  return first;
}

void CensusCore::DeleteAll(CensusEntry* first) {
  while (first != nullptr) {
    auto* const next = static_cast<CensusEntry*>(first->next());
    delete first;
    first = next;
  }
}

size_t CensusCore::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

std::vector<const CensusEntry*> CensusCore::PinAll() {
  std::vector<const CensusEntry*> pinned;
  CensusEntry* dead = nullptr;
  for (bool done = false; !done;) {
    pinned.reserve(size());
    const std::lock_guard lock(mutex_);
    if (entries_.size() > pinned.capacity()) continue;
    dead = RemoveDead();
    // An entry that can't be pinned waits for its OnExpired.
    for (const CensusEntry* const entry : entries_) {
      if (entry->Pin()) pinned.push_back(entry);
    }
    done = true;
  }
  DeleteAll(dead);
  return pinned;
}

void CensusCore::OnExpired(Watcher* watcher) noexcept {
  auto* const entry = static_cast<CensusEntry*>(watcher);
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    Remove(*entry);
    last = closed_ && entries_.empty();
  }
  delete entry;
  if (last) delete this;
}

void CensusCore::Close() {
  CensusEntry* removed = nullptr;
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (size_t i = entries_.size(); i-- > 0;) {
      CensusEntry* const entry = entries_[i];
      // If the watcher is about to be told, its OnExpired deletes the entry.
      if (entry->block != nullptr && !entry->block->RemoveWatcher(entry)) continue;
      Remove(*entry);
      entry->set_next(removed);
      removed = entry;
    }
    last = entries_.empty();
  }
  DeleteAll(removed);
  if (last) delete this;
}

// ---- The search.

// The open-addressed tables below multiply addresses by this (Fibonacci hashing).
constexpr uint64_t kHashFactor = 0x9e3779b97f4a7c15u;
inline size_t HashOf(const void* address, int shift) {
  return static_cast<size_t>((reinterpret_cast<uintptr_t>(address) * kHashFactor) >> shift);
}

// A set of addresses.
class AddressSet {
 public:
  AddressSet() : slots_(size_t{1} << kInitialBits) {}
  void Prefetch(const void* address) const { __builtin_prefetch(&slots_[HashOf(address, shift_)]); }
  // Returns false if the address is there already.
  bool Insert(const void* address) {
    if (4 * (size_ + 1) > 3 * slots_.size()) Grow();
    return InsertNoGrow(address);
  }

 private:
  static constexpr int kInitialBits = 8;
  bool InsertNoGrow(const void* address) {
    const size_t mask = slots_.size() - 1;
    for (size_t i = HashOf(address, shift_);; i = (i + 1) & mask) {
      if (slots_[i] == address) return false;
      if (slots_[i] != nullptr) continue;
      slots_[i] = address;
      ++size_;
      return true;
    }
  }
  void Grow() {
    std::vector<const void*> old(2 * slots_.size());
    old.swap(slots_);
    --shift_;
    size_ = 0;
    for (const void* const address : old) {
      if (address != nullptr) InsertNoGrow(address);
    }
  }
  std::vector<const void*> slots_;
  int shift_ = 64 - kInitialBits;
  size_t size_ = 0;
};

// One search: pins the objects of a census, and traces them into a graph of numbers.
class CycleSearch {
 public:
  using Number = uint32_t;
  static constexpr Number kNone = ~Number{0};

  explicit CycleSearch(const Census& census) : core_(census.core_) {
    core_->PinAll().swap(pinned_);
  }
  CycleSearch(const CycleSearch&) = delete;
  CycleSearch& operator=(const CycleSearch&) = delete;
  ~CycleSearch() {
    for (const CensusEntry* const entry : pinned_) entry->Unpin();
  }

  // Builds the graph, and counts the references to each object that no edge explains.
  void Trace();
  // Leaves one reference to an object out of account.
  void DiscountReference(const void* identity) {
    const Number number = FindNumber(identity);
    if (number != kNone && nodes_[number].outside != 0) --nodes_[number].outside;
  }

  // Called by the Tracer.
  Number FindNumber(const void* identity) const;
  void TellEdge(const void* identity, const void* handle, const char* name);
  const CensusEntry* FindEntry(const void* identity) const {
    const Number number = FindNumber(identity);
    return number == kNone ? nullptr : nodes_[number].entry;
  }

  // Numbers what outside references reach, breadth first: each object's `via` is the edge by which
  // it was reached first. Returns the objects in the order.
  std::vector<Number> Reach(std::vector<Number>* via) const;

  CycleReport Report();
  AlivePath Path(const void* identity) const;

 private:
  struct Node {
    const void* identity;
    const CensusEntry* entry;
    Number first_edge;
    Number outside;  // references that no edge explains
  };
  struct Edge {
    Number to;  // kNone: an object that is not in the census
    Number name;
  };

  // An edge that waits for others, so that the cache lines that they need are fetched at once.
  struct Told {
    const void* identity;
    const void* handle;
    const char* name;
  };
  static constexpr size_t kToldAtOnce = 32;

  void MakeIndex();
  // Enters the edges that wait.
  void EnterEdges();
  void CountOutside();
  Number end_of_edges(Number node) const {
    return node + 1 < nodes_.size() ? nodes_[node + 1].first_edge
                                    : static_cast<Number>(edges_.size());
  }
  Number NumberOfName(const char* name);
  CycleObject Describe(Number node) const;

  // Finds the strongly connected components of the objects that are not `reached` (Tarjan, without
  // recursion). component[i] becomes the number of the component of object i; a component's
  // successors have smaller numbers. Returns the number of components.
  Number FindComponents(const std::vector<bool>& reached, std::vector<Number>* component) const;
  // The nodes of each component, one component after the other.
  struct Members {
    std::vector<Number> begin;  // where each component begins, and where the last ends
    std::vector<Number> nodes;
    std::vector<Number> position;  // of each node within its component
  };
  Members MembersOf(const std::vector<Number>& component, Number components) const;
  // Returns whether a component is a cycle: several nodes, or one with an edge to itself.
  bool IsCyclic(const Members& members, Number component) const;
  void MakeGroups(const std::vector<Number>& component, Number components, CycleReport* report);

  CensusCore* const core_;
  std::vector<const CensusEntry*> pinned_;
  std::vector<Node> nodes_;    // each object once, however often it was added
  std::vector<Number> index_;  // open-addressed, by identity
  int index_shift_ = 0;
  std::vector<Edge> edges_;  // by the objects that they begin at
  Told told_[kToldAtOnce];
  size_t told_count_ = 0;
  std::unique_ptr<AddressSet> handles_;  // that were told
  std::vector<const char*> names_;
  std::unordered_map<const char*, Number> name_numbers_;
  const char* latest_name_ = nullptr;
  Number latest_number_ = 0;
};

void CycleSearch::MakeIndex() {
  Check(pinned_.size() < kNone / 4, "FindCycles", "there are too many objects");
  int bits = 4;
  while ((size_t{3} << bits) < 4 * (pinned_.size() + 1)) ++bits;
  index_.assign(size_t{1} << bits, kNone);
  index_shift_ = 64 - bits;
  nodes_.reserve(pinned_.size());
  const size_t mask = index_.size() - 1;
  for (const CensusEntry* const entry : pinned_) {
    const void* const identity = entry->identity();
    size_t i = HashOf(identity, index_shift_);
    while (index_[i] != kNone && nodes_[index_[i]].identity != identity) i = (i + 1) & mask;
    if (index_[i] != kNone) {
      // Added twice, so pinned twice. A second owner of the same address is left out.
      if (nodes_[index_[i]].entry->SameOwner(*entry)) ++nodes_[index_[i]].outside;
      continue;
    }
    index_[i] = static_cast<Number>(nodes_.size());
    nodes_.push_back({identity, entry, 0, 1});  // `outside` counts pins at first
  }
}

CycleSearch::Number CycleSearch::FindNumber(const void* identity) const {
  const size_t mask = index_.size() - 1;
  for (size_t i = HashOf(identity, index_shift_);; i = (i + 1) & mask) {
    if (index_[i] == kNone || nodes_[index_[i]].identity == identity) return index_[i];
  }
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
  handles_->Prefetch(handle);
  __builtin_prefetch(&index_[HashOf(identity, index_shift_)]);
  told_[told_count_++] = {identity, handle, name};
  if (told_count_ == kToldAtOnce) EnterEdges();
}

void CycleSearch::EnterEdges() {
  for (size_t i = 0; i < told_count_; ++i) {
    const Number number = index_[HashOf(told_[i].identity, index_shift_)];
    if (number != kNone) __builtin_prefetch(&nodes_[number]);
  }
  for (size_t i = 0; i < told_count_; ++i) {
    const Told& told = told_[i];
    if (!handles_->Insert(told.handle)) {
      CheckFailed("WeakcacheTrace, a reference told twice (or one that is not a member)",
                  told.name);
    }
    Check(edges_.size() < kNone - 1, "FindCycles", "there are too many edges");
    edges_.push_back({FindNumber(told.identity), NumberOfName(told.name)});
  }
  told_count_ = 0;
}

void CycleSearch::Trace() {
  MakeIndex();
  handles_ = std::make_unique<AddressSet>();
  Tracer tracer(this);
  for (Node& node : nodes_) {
    node.first_edge = static_cast<Number>(edges_.size() + told_count_);
    node.entry->type->trace(node.entry->object, tracer);
  }
  EnterEdges();
  handles_.reset();
  CountOutside();
}

void CycleSearch::CountOutside() {
  std::vector<Number> explained(nodes_.size());
  for (const Edge& edge : edges_) {
    if (edge.to != kNone) ++explained[edge.to];
  }
  for (Number i = 0; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    const size_t ours = size_t{node.outside} + explained[i];  // the pins, and the edges
    const size_t all = node.entry->strong_count();
    if (all < ours) {
      std::string problem = "more edges than references to an object of type ";
      problem += node.entry->type->name;
      CheckFailed("FindCycles", problem.c_str());
    }
    node.outside = static_cast<Number>(std::min<size_t>(all - ours, kNone));
  }
}

std::vector<CycleSearch::Number> CycleSearch::Reach(std::vector<Number>* via) const {
  std::vector<bool> reached(nodes_.size());
  std::vector<Number> order;
  for (Number i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].outside == 0) continue;
    reached[i] = true;
    order.push_back(i);
  }
  for (size_t next = 0; next < order.size(); ++next) {
    const Number from = order[next];
    for (Number edge = nodes_[from].first_edge; edge != end_of_edges(from); ++edge) {
      const Number to = edges_[edge].to;
      if (to == kNone || reached[to]) continue;
      reached[to] = true;
      if (via != nullptr) (*via)[to] = edge;
      order.push_back(to);
    }
  }
  return order;
}

CycleSearch::Number CycleSearch::FindComponents(const std::vector<bool>& reached,
                                                std::vector<Number>* component) const {
  // Is 0 before the visit. While the object is on the stack, it is the lowest visit that the object
  // is known to reach.
  std::vector<Number> low(nodes_.size());
  std::vector<Number> stack;
  struct Call {
    Number node;
    Number edge;
    Number position;
  };
  std::vector<Call> calls;
  Number visits = 0;
  Number components = 0;
  const auto enter = [&](Number node) {
    low[node] = ++visits;
    stack.push_back(node);
    calls.push_back({node, nodes_[node].first_edge, visits});
  };
  for (Number root = 0; root < nodes_.size(); ++root) {
    if (reached[root] || low[root] != 0) continue;
    enter(root);
    while (!calls.empty()) {
      Call& call = calls.back();
      const Number node = call.node;
      if (call.edge != end_of_edges(node)) {
        const Number to = edges_[call.edge++].to;
        if (to == kNone || reached[to]) continue;
        if (low[to] == 0) {
          enter(to);
        } else if ((*component)[to] == kNone) {
          low[node] = std::min(low[node], low[to]);
        }
        continue;
      }
      if (low[node] == call.position) {
        for (Number member = kNone; member != node; stack.pop_back()) {
          member = stack.back();
          (*component)[member] = components;
        }
        ++components;
      }
      calls.pop_back();
      if (!calls.empty()) {
        const Number caller = calls.back().node;
        low[caller] = std::min(low[caller], low[node]);
      }
    }
  }
  return components;
}

CycleReport CycleSearch::Report() {
  CycleReport report;
  report.objects_seen = nodes_.size();
  report.edges_seen = edges_.size();
  std::vector<bool> reached(nodes_.size());
  size_t alive = 0;
  for (const Number node : Reach(nullptr)) {
    reached[node] = true;
    ++alive;
  }
  if (alive == nodes_.size()) return report;
  std::vector<Number> component(nodes_.size(), kNone);
  const Number components = FindComponents(reached, &component);
  MakeGroups(component, components, &report);
  return report;
}

void CycleSearch::MakeGroups(const std::vector<Number>& component, Number components,
                             CycleReport* report) {
  const Members members = MembersOf(component, components);
  // Components come in the order of the edges, so a held object's holder has its group before.
  std::vector<Number> group_of(components, kNone);
  for (Number c = components; c-- > 0;) {
    const bool cyclic = IsCyclic(members, c);
    if (cyclic) {
      group_of[c] = static_cast<Number>(report->groups.size());
      report->groups.emplace_back();
    } else if (group_of[c] == kNone) {
      continue;  // its last reference has gone since it was pinned
    }
    CycleGroup& group = report->groups[group_of[c]];
    for (Number m = members.begin[c]; m != members.begin[c + 1]; ++m) {
      const Number node = members.nodes[m];
      if (cyclic) {
        group.objects.push_back(Describe(node));
        group.bytes += group.objects.back().bytes;
      } else {
        ++group.held_objects;
        group.held_bytes += nodes_[node].entry->type->bytes(nodes_[node].entry->object);
      }
      for (Number e = nodes_[node].first_edge; e != end_of_edges(node); ++e) {
        const Number to = edges_[e].to;
        if (to == kNone) continue;
        if (component[to] == c) {
          group.edges.push_back(
              {members.position[node], members.position[to], names_[edges_[e].name]});
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
  members.position.resize(nodes_.size());
  std::vector<Number> next(members.begin.begin(), members.begin.end() - 1);
  for (Number node = 0; node < nodes_.size(); ++node) {
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
  for (Number e = nodes_[only].first_edge; e != end_of_edges(only); ++e) {
    if (edges_[e].to == only) return true;
  }
  return false;
}

CycleObject CycleSearch::Describe(Number node) const {
  const CensusEntry& entry = *nodes_[node].entry;
  return {entry.type->name, entry.type->label(entry.object), entry.object,
          entry.type->bytes(entry.object)};
}

AlivePath CycleSearch::Path(const void* identity) const {
  AlivePath path;
  Number node = identity == nullptr ? kNone : FindNumber(identity);
  if (node == kNone) return path;
  std::vector<Number> via(nodes_.size(), kNone);
  const std::vector<Number> order = Reach(&via);
  if (nodes_[node].outside == 0 && via[node] == kNone) return path;
  while (true) {
    path.objects.push_back(Describe(node));
    const Number edge = via[node];
    if (edge == kNone) break;
    path.edges.emplace_back(names_[edges_[edge].name]);
    // The object at which the edge begins is the last one whose edges begin at or before it.
    const auto after = std::upper_bound(
        nodes_.begin(), nodes_.end(), edge,
        [](Number wanted, const Node& candidate) { return wanted < candidate.first_edge; });
    node = static_cast<Number>(after - nodes_.begin() - 1);
  }
  path.references_from_outside = nodes_[node].outside;
  std::reverse(path.objects.begin(), path.objects.end());
  std::reverse(path.edges.begin(), path.edges.end());
  return path;
}

AlivePath FindAlivePath(const Census& census, const void* identity, bool is_strong) {
  CycleSearch search(census);
  search.Trace();
  if (is_strong) search.DiscountReference(identity);
  return search.Path(identity);
}
AlivePath FindAlivePath(const Census& census, const void* identity,
                        const std::weak_ptr<const void>& owner) {
  CycleSearch search(census);
  search.Trace();
  const CensusEntry* const entry = search.FindEntry(identity);
  // Another owner may point at the same address.
  if (entry == nullptr || !entry->IsOwnedBy(owner)) return AlivePath();
  search.DiscountReference(identity);
  return search.Path(identity);
}

}  // namespace internal

void Tracer::TellBlock(const void* block, const void* handle, const char* name) {
  search_->TellEdge(block, handle, name);
}
const internal::CensusEntry* Tracer::Find(const void* identity) const {
  return search_->FindEntry(identity);
}

Census::Census() : core_(new internal::CensusCore) {}
Census::~Census() { core_->Close(); }

CycleReport FindCycles(const Census& census) {
  internal::CycleSearch search(census);
  search.Trace();
  return search.Report();
}

}  // namespace weakcache
