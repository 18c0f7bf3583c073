// SPDX-License-Identifier: Apache-2.0
// One search for cycles: traces objects into a graph of numbers.
//
// The search visits memory in the order of the edges, which is no order, so most of its time would
// be cache misses. Hence arrays that hold only what one step needs, and prefetches: edges are
// entered many at a time, and each walk over the graph fetches what the next steps will read.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CYCLE_SEARCH_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CYCLE_SEARCH_H_

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/edge_state.h"

namespace weakcache {

class Census;
struct AlivePath;
struct CycleObject;
struct CycleReport;

namespace internal {

// The open-addressed tables below multiply addresses by this (Fibonacci hashing).
inline constexpr uint64_t kHashFactor = 0x9e3779b97f4a7c15u;
inline size_t HashOf(uintptr_t word, int shift) {
  return static_cast<size_t>((word * kHashFactor) >> shift);
}

// A set of the addresses of objects that are at least as large as a pointer and do not overlap. Has
// a word of bits for each stretch of memory, since the members of one object lie close together.
class AddressSet {
 public:
  AddressSet() : stretches_(size_t{1} << kInitialBits) {}
  void Prefetch(const void* address) const {
    __builtin_prefetch(&stretches_[HashOf(StretchOf(address), shift_)]);
  }
  // Returns false if the address is there already.
  bool Insert(const void* address);

 private:
  struct Stretch {
    uintptr_t number = 0;  // 0: not used; no object lies there
    uint64_t bits = 0;
  };
  static constexpr int kInitialBits = 8;
  static constexpr uintptr_t kBytesPerBit = sizeof(void*);

  static uintptr_t StretchOf(const void* address) {
    return reinterpret_cast<uintptr_t>(address) / (64 * kBytesPerBit);
  }
  Stretch& Find(uintptr_t number);
  void Grow();

  std::vector<Stretch> stretches_;
  int shift_ = 64 - kInitialBits;
  size_t size_ = 0;
};

class CycleSearch {
 public:
  using Number = uint32_t;
  static constexpr Number kNone = ~Number{0};

  // Pins the objects of a census until the end.
  explicit CycleSearch(const Census& census);
  CycleSearch(const CycleSearch&) = delete;
  CycleSearch& operator=(const CycleSearch&) = delete;
  ~CycleSearch() {
    for (const CensusEntry* const entry : pinned_) entry->Unpin();
  }

  // Builds the graph, and counts the references to each object that no edge explains.
  void Trace();
  // The same while other threads run. The edges are those of which nobody else made use between two
  // looks at each; between them, the counts are read.
  void TraceConcurrently();
  // Names the reference that DiscountReference will be about, before Trace.
  void SetPassed(const void* handle) { passed_ = handle; }
  // Leaves that reference to an object out of account, unless it is an edge.
  void DiscountReference(const void* identity) {
    const Number number = FindNumber(identity);
    if (!passed_is_edge_ && number != kNone && outside_[number] != 0) --outside_[number];
  }

  // Called by the Tracer. TellEdge tells an edge of the object that is traced, unless SetHolder has
  // named another one, by its number; kNone is one that is not in the census.
  Number SetHolder(Number holder) { return std::exchange(holder_, holder); }
  Number NumberOf(const void* identity) const { return FindNumber(identity); }
  void TellEdge(const void* identity, const void* handle, const char* name);
  void TellEdgeState(const EdgeState& edge, const char* name);
  const CensusEntry* FindEntry(const void* identity) const {
    const Number number = FindNumber(identity);
    return number == kNone ? nullptr : entries_[number];
  }

  CycleReport Report();
  AlivePath Path(const void* identity) const;

 private:
  // An edge that waits for others, so that the cache lines that they need are fetched at once.
  struct ToldEdge {
    const void* identity;
    const void* handle;
    const char* name;
    Number from;
    bool in_order;  // an edge of the object that is traced
  };
  struct HeldEdge {
    Number from;
    Number to;
    Number name;
  };
  static constexpr size_t kToldAtOnce = 64;
  // What a walk fetches so many steps ahead.
  static constexpr size_t kAhead = 8;

  // All that an edge needs of its target, in one place of memory.
  struct Slot {
    const void* identity = nullptr;  // null: not used
    Number number = 0;
    Number explained = 0;  // references to the object, by pins and edges
  };

  enum class Phase { kQuiet, kFirstLook, kSecondLook };

  void MakeIndex();
  // Gives the entry's object a number, unless it has one.
  void NumberObject(const CensusEntry& entry);
  // Calls the trace function of each object.
  void TraceEach();
  void BuildGraph();
  // Reads how many references there are to each object, for TraceConcurrently.
  void ReadCounts();
  // Returns the slot of the identity, or the unused one where it belongs.
  size_t FindSlot(const void* identity) const;
  Number FindNumber(const void* identity) const {
    const Slot& slot = index_[FindSlot(identity)];
    return slot.identity == nullptr ? kNone : slot.number;
  }
  void PrefetchSlot(const void* identity) const {
    __builtin_prefetch(&index_[HashOf(reinterpret_cast<uintptr_t>(identity), index_shift_)], 1);
  }
  // Enters the edges that wait.
  void EnterEdges();
  // Puts the edges of `held_edges_` among those of the objects that they begin at.
  void InsertHeldEdges();
  void CountOutside();
  // Returns the number of references to an object, those of pins and edges included.
  size_t CountOf(Number node) const {
    return counts_.empty() ? entries_[node]->strong_count() : counts_[node];
  }
  Number NumberOfName(const char* name);
  Number count() const { return static_cast<Number>(entries_.size()); }
  CycleObject Describe(Number node) const;

  // Marks what outside references reach, breadth first: `marks` becomes kNone there. If `via` is
  // not null, each object's `via` is the edge by which it was reached first. Returns the number of
  // objects reached.
  size_t Reach(std::vector<Number>* marks, std::vector<Number>* via) const;

  class ComponentSearch;
  // Finds the strongly connected components of the objects whose mark is 0; others are kNone. A
  // mark of 0 becomes the number of the object's component; a component's successors have smaller
  // numbers. Returns the number of components.
  Number FindComponents(std::vector<Number>* marks) const;
  // The nodes of each component, one component after the other.
  struct Members {
    std::vector<Number> begin;  // where each component begins, and where the last ends
    std::vector<Number> nodes;
    std::vector<Number> position;  // of each node within its component
  };
  Members MembersOf(const std::vector<Number>& component, Number components) const;
  // Returns whether a component is a cycle: several nodes, or one with an edge to itself.
  bool IsCyclic(const Members& members, Number component) const;
  void MakeGroups(const std::vector<Number>& component, Number components,
                  CycleReport* report) const;
  // Returns whether it has made a group of the component.
  bool StartGroup(const Members& members, Number component, CycleReport* report) const;

  std::vector<const CensusEntry*> pinned_;
  // The graph. Each object has a number once, however often it was added.
  std::vector<const CensusEntry*> entries_;
  std::vector<Number> outside_;     // references that no edge explains
  std::vector<Number> first_edge_;  // and where the last object's edges end
  std::vector<Number> edge_targets_;
  std::vector<Number> edge_names_;
  size_t edges_seen_ = 0;    // also those to objects that are not in the census
  std::vector<Slot> index_;  // open-addressed, by identity
  int index_shift_ = 0;

  // Of a search beside other threads.
  Phase phase_ = Phase::kQuiet;
  std::unordered_map<const EdgeState*, EdgeState::Look> first_looks_;
  std::vector<size_t> counts_;  // between the looks; kReachable if there is another way to it
  static constexpr size_t kReachable = ~size_t{0};

  // While tracing.
  Number tracing_ = 0;  // the object that is traced
  Number holder_ = 0;   // the object whose edges are told
  std::vector<HeldEdge> held_edges_;
  ToldEdge told_[kToldAtOnce];
  size_t told_count_ = 0;
  const void* passed_ = nullptr;
  bool passed_is_edge_ = false;
  AddressSet handles_;  // that were told
  std::vector<const char*> names_;
  std::unordered_map<const char*, Number> name_numbers_;
  const char* latest_name_ = nullptr;
  Number latest_number_ = 0;
};

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CYCLE_SEARCH_H_
