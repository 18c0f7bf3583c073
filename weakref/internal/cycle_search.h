// SPDX-License-Identifier: Apache-2.0
// One search for cycles: traces objects into a graph of numbers.
//
// The search visits memory in the order of the edges, which is no order, so most of its time would
// be cache misses. Hence arrays that hold only what one step needs, and prefetches: edges are
// entered many at a time, and each walk over the graph fetches what the next steps will read.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CYCLE_SEARCH_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CYCLE_SEARCH_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/edge_state.h"
#include "weakcache/weakref/internal/large_array.h"

namespace weakcache {

class Census;
struct AlivePath;
struct CycleGroup;
struct CycleObject;
struct CycleReport;

namespace internal {

// The open-addressed tables below multiply addresses by this (Fibonacci hashing).
inline constexpr uint64_t kHashFactor = 0x9e3779b97f4a7c15u;
inline size_t HashOf(uintptr_t word, int shift) {
  return static_cast<size_t>((word * kHashFactor) >> shift);
}

// An open-addressed table with a word of bits for each stretch of 64 * kBytesPerBit bytes of
// memory: a bit for each address that was inserted. No two of these addresses are in the same
// kBytesPerBit bytes. What a program allocates lies close together, so such a table is much smaller
// than one of the addresses.
template <uintptr_t kBytesPerBit>
class StretchTable {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};

  struct Stretch {
    uintptr_t number = 0;  // 0: not used; no object lies there
    uint64_t bits = 0;
  };

  StretchTable() : stretches_(size_t{1} << kInitialBits) {}
  void Prefetch(const void* address) const { __builtin_prefetch(&stretches_[HomeOf(address)]); }
  // Returns false if the address is there already.
  bool Insert(const void* address) {
    const uintptr_t number = StretchOf(address);
    if (stretches_[latest_].number != number) latest_ = FindOrAdd(number);
    uint64_t& bits = stretches_[latest_].bits;
    const uint64_t bit = BitOf(address);
    const bool is_new = (bits & bit) == 0;
    bits |= bit;
    return is_new;
  }

 protected:
  static uintptr_t StretchOf(const void* address) {
    return reinterpret_cast<uintptr_t>(address) / (64 * kBytesPerBit);
  }
  static uint64_t BitOf(const void* address) {
    return uint64_t{1} << (reinterpret_cast<uintptr_t>(address) / kBytesPerBit % 64);
  }
  size_t HomeOf(const void* address) const { return HashOf(StretchOf(address), shift_); }
  // Returns where the stretch is, or the unused place where it belongs.
  size_t Find(uintptr_t number) const {
    const size_t mask = stretches_.size() - 1;
    size_t i = HashOf(number, shift_);
    while (stretches_[i].number != number && stretches_[i].number != 0) i = (i + 1) & mask;
    return i;
  }
  const std::vector<Stretch>& stretches() const { return stretches_; }

 private:
  static constexpr int kInitialBits = 8;

  [[gnu::noinline]] size_t FindOrAdd(uintptr_t number) {
    size_t i = Find(number);
    if (stretches_[i].number != 0) return i;
    if (4 * (size_ + 1) > 3 * stretches_.size()) {
      Grow();
      i = Find(number);
    }
    stretches_[i].number = number;
    ++size_;
    return i;
  }
  void Grow() {
    std::vector<Stretch> old;
    FillLarge(&old, 2 * stretches_.size(), Stretch());
    old.swap(stretches_);
    --shift_;
    for (const Stretch& stretch : old) {
      if (stretch.number != 0) stretches_[Find(stretch.number)] = stretch;
    }
  }

  std::vector<Stretch> stretches_;
  int shift_ = 64 - kInitialBits;
  size_t size_ = 0;
  size_t latest_ = 0;  // where the last insertion was
};

// The addresses of the references that were told. Each is as large as a pointer at least.
using AddressSet = StretchTable<sizeof(void*)>;

// Gives numbers to control blocks. All are inserted before any is numbered.
class BlockNumbers : public StretchTable<16> {
 public:
  static_assert(sizeof(ControlBlock) >= 16, "blocks are told apart by 16 bytes");

  // Ends the insertions. `count` of them have returned true.
  void StartNumbering(size_t count) {
    FillLarge(&first_rank_, stretches().size(), kNone);
    FillLarge(&numbers_, count, kNone);
  }
  // Returns where the number of an inserted block is, kNone at first.
  uint32_t& NumberOf(const void* block) {
    const size_t i = Find(StretchOf(block));
    uint32_t& first = first_rank_[i];
    if (first == kNone) {  // in the order of the numbering, so that numbers lie close together
      first = ranks_;
      ranks_ += static_cast<uint32_t>(std::popcount(stretches()[i].bits));
    }
    return numbers_[first + RankIn(i, block)];
  }
  // Returns the place for NumberAt, or kNone if the block was not inserted.
  uint32_t FindPlace(const void* block) const {
    const size_t i = Find(StretchOf(block));
    const bool is_there = (stretches()[i].bits & BitOf(block)) != 0;
    return is_there ? first_rank_[i] + RankIn(i, block) : kNone;
  }
  uint32_t NumberAt(uint32_t place) const { return numbers_[place]; }
  void PrefetchNumber(uint32_t place) const { __builtin_prefetch(&numbers_[place]); }
  void PrefetchPlace(const void* block) const {
    Prefetch(block);
    if (!first_rank_.empty()) __builtin_prefetch(&first_rank_[HomeOf(block)]);
  }

 private:
  uint32_t RankIn(size_t stretch, const void* block) const {
    return static_cast<uint32_t>(std::popcount(stretches()[stretch].bits & (BitOf(block) - 1)));
  }

  std::vector<uint32_t> first_rank_;  // of each stretch's first block among all
  std::vector<uint32_t> numbers_;     // by rank
  uint32_t ranks_ = 0;
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
    for (const CensusEntry* const entry : pinned_) core_.Unpin(*entry);
  }

  // Builds the graph, and counts the references to each object that no edge explains.
  void Trace();
  // The same while other threads run. The edges are those of which nobody else made use between two
  // looks at each; between them, the counts are read.
  void TraceConcurrently();
  // Names the reference that DiscountReference will be about, before Trace.
  void SetPassed(const void* handle) { passed_ = handle; }
  // Leaves that reference to an object out of account, unless it is an edge.
  void DiscountReference(Number number) {
    if (!passed_is_edge_ && number != kNone && outside_[number] != 0) --outside_[number];
  }

  // Return the number of the object of a block, and of the object that lies at an address and that
  // a handle owns; kNone if there is none in the census.
  Number NumberOf(const void* block) const;
  Number NumberOf(const void* object, const OwnerTest& test, const void* handle) const;

  // Called by the Tracer. The first two tell an edge of the object that is traced, unless SetHolder
  // has named another one, by its number; kNone is one that is not in the census.
  Number SetHolder(Number holder) { return std::exchange(holder_, holder); }
  void TellEdge(const void* block, const void* handle, const char* name) {
    blocks_.PrefetchPlace(block);
    Tell({block, handle, name, holder_, kNone, holder_ == tracing_});
  }
  void TellEdge(Number to, const void* handle, const char* name) {
    Tell({nullptr, handle, name, holder_, to, holder_ == tracing_});
  }
  void TellEdgeState(const EdgeState& edge, const char* name);

  CycleReport Report();
  AlivePath Path(Number node) const;

  // Returns for how many edges to make room once there are `so_far`: for a few more than there will
  // be if the other objects have as many each as the `traced` ones.
  static size_t EdgesToReserve(size_t so_far, Number traced, Number objects);

 private:
  // An edge that waits for others, so that the cache lines that they need are fetched at once.
  struct ToldEdge {
    const void* block;  // of the target; null if the number is known
    const void* handle;
    const char* name;
    Number from;
    Number to;      // at first, where the block's number is
    bool in_order;  // an edge of the object that is traced
  };
  using NameNumber = uint16_t;
  struct HeldEdge {
    Number from;
    Number to;
    NameNumber name;
  };
  static constexpr size_t kToldAtOnce = 64;
  // What a walk fetches so many steps ahead.
  static constexpr size_t kAhead = 8;

  // The place of an object that handles other than Refs own.
  struct Slot {
    const void* object = nullptr;  // null: not used
    Number number = 0;
  };
  struct RecentName {
    const char* name = nullptr;
    NameNumber number = 0;
  };

  enum class Phase { kQuiet, kFirstLook, kSecondLook };

  void MakeIndex();
  // Make the entry's object the next one, unless it has a number.
  void NumberObject(const CensusEntry& entry);
  void NumberBlock(const CensusEntry& entry);
  Number AddObject(const CensusEntry& entry);
  // Enters another entry of an object.
  void AddAgain(Number number, const CensusEntry& entry);
  // Calls the trace function of each object.
  void TraceEach();
  void BuildGraph();
  // Reads how many references there are to each object, for TraceConcurrently.
  void ReadCounts();
  // Returns where the object at that address is, or the unused slot where it belongs.
  size_t FindSlot(const void* object) const;
  void Tell(const ToldEdge& told) {
    handles_.Prefetch(told.handle);
    told_[told_count_++] = told;
    if (told_count_ == kToldAtOnce) EnterEdges();
  }
  // Enters the edges that wait.
  void EnterEdges();
  void EnterEdge(const ToldEdge& told);
  void ReserveEdges();
  // Puts the edges of `held_edges_` among those of the objects that they begin at.
  void InsertHeldEdges();
  void CountOutside();
  // Returns the number of references to an object, those of pins and edges included.
  size_t CountOf(Number node) const {
    return counts_.empty() ? entries_[node]->strong_count() : counts_[node];
  }
  NameNumber NumberOfName(const char* name);
  NameNumber FindName(const char* name);
  Number count() const { return count_; }
  const CensusEntry& EntryOf(Number number) const {
    return distinct_.empty() ? *pinned_[number] : *distinct_[number];
  }
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
    std::vector<Number> place;  // of each node among `nodes`, or kNone
  };
  Members MembersOf(const std::vector<Number>& component, Number components) const;
  // Returns whether a component is a cycle: several nodes, or one with an edge to itself.
  bool IsCyclic(const Members& members, Number component) const;
  void MakeGroups(const std::vector<Number>& component, Number components,
                  CycleReport* report) const;
  // Returns whether it has made a group of the component.
  bool StartGroup(const Members& members, Number component, CycleReport* report) const;
  void DescribeMembers(const Members& members, Number component, CycleGroup* group) const;
  // Enters the edges within a component, and calls `leave(to)` for those to others that are not
  // reached.
  template <typename Leave>
  void AddEdges(const Members& members, Number component, CycleGroup* group,
                const Leave& leave) const;

  CensusCore& core_;
  // First those of objects that only Refs own.
  std::vector<const CensusEntry*> pinned_;
  size_t pinned_plain_ = 0;
  // The graph. Each object has a number once, however often it was added.
  const CensusEntry* const* entries_ = nullptr;  // by number
  Number count_ = 0;
  std::vector<const CensusEntry*> distinct_;  // `entries_`, if these are not the first of `pinned_`
  std::vector<Number> outside_;  // at first the references that pins and edges explain, then others
  std::vector<Number> first_edge_;  // and where the last object's edges end
  std::vector<Number> edge_targets_;
  std::vector<NameNumber> edge_names_;
  size_t edges_seen_ = 0;  // also those to objects that are not in the census
  BlockNumbers blocks_;
  std::vector<Slot> index_;  // open-addressed, of objects that handles other than Refs own
  int index_shift_ = 0;
  // Entries of Refs to objects that have another entry.
  std::vector<std::pair<Number, const CensusEntry*>> added_again_;

  // Of a search beside other threads.
  Phase phase_ = Phase::kQuiet;
  struct FirstLook {
    const EdgeState* edge;
    EdgeState::Look look;
  };
  // Returns the first look at that edge, or null.
  const FirstLook* FindFirstLook(const EdgeState* edge);
  Number CountLooks() const;
  std::vector<FirstLook> first_looks_;
  std::vector<Number> look_begin_;  // where those of each object begin, and the last object's end
  size_t next_look_ = 0;            // the one after the last that was found
  bool looks_are_sorted_ = false;   // those of the object that is traced
  std::vector<size_t> counts_;      // between the looks; kReachable if there is another way to it
  static constexpr size_t kReachable = ~size_t{0};

  // While tracing.
  Number tracing_ = 0;  // the object that is traced
  Number holder_ = 0;   // the object whose edges are told
  std::vector<HeldEdge> held_edges_;
  std::array<ToldEdge, kToldAtOnce> told_;
  size_t told_count_ = 0;
  const void* passed_ = nullptr;
  bool passed_is_edge_ = false;
  AddressSet handles_;  // that were told
  std::vector<std::string_view> names_;
  std::unordered_map<const char*, NameNumber> name_numbers_;
  static constexpr int kRecentNameBits = 4;
  std::array<RecentName, size_t{1} << kRecentNameBits> recent_names_;  // by the address
};

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CYCLE_SEARCH_H_
