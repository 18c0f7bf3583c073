// SPDX-License-Identifier: Apache-2.0
// FindCycles: finds objects that keep each other alive although nobody else uses them.
//
// Why: reference counting never frees a cycle of strong references. A leak checker does not report
// one while anything points at it, or sees it only when the process ends.
//
//   void WeakcacheTrace(const Node& node, weakcache::Tracer& trace) {
//     trace(node.parent, "parent");
//     trace(node.children, "children");       // a std::vector<weakcache::Ref<Node>>
//   }
//   weakcache::Census census;                 // MakeRef<Node> joins from now on
//   std::cerr << weakcache::ToText(weakcache::FindCycles(census));
//
// Thread safety: Add and size may be called on any threads at once; FindCycles and WhyAlive need
// quiet: no other thread uses the census, its objects or references to them meanwhile.
// FindCyclesConcurrently does not.
//
// Unlike Python's gc, this frees nothing: it reports. An edge that WeakcacheTrace leaves out may
// hide a cycle, but never invents one. Without a Census, MakeRef of a type that has a
// WeakcacheTrace costs a load and a branch more; declare that function beside the type.
//
// Complexity: Add is O(1) amortised, plus O(watchers of the object). FindCycles and WhyAlive are
// linear in the objects and edges on average, and take a fixed amount of stack.
#ifndef WEAKCACHE_WEAKREF_CYCLES_H_
#define WEAKCACHE_WEAKREF_CYCLES_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ranges>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "weakcache/weakref/edge_ref.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/census_type.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/edge_state.h"
#include "weakcache/weakref/internal/owning_shapes.h"
#include "weakcache/weakref/internal/ref_access.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

namespace internal {

class CycleSearch;

template <typename T>
inline constexpr bool kIsWeakHandle = false;
template <typename T>
inline constexpr bool kIsWeakHandle<WeakRef<T>> = true;
template <typename T>
inline constexpr bool kIsWeakHandle<std::weak_ptr<T>> = true;

template <typename T>
inline constexpr bool kIsEdgeRef = false;
template <typename T>
inline constexpr bool kIsEdgeRef<EdgeRef<T>> = true;

// Returns whether a Tracer takes a T.
template <typename T>
constexpr bool IsTellable();
template <typename... Ts>
constexpr bool AreTellable(const std::variant<Ts...>*) {
  return (IsTellable<Ts>() && ...);
}
template <typename T, size_t... kIndices>
constexpr bool AreTellable(std::index_sequence<kIndices...>) {
  // Who has a reference owns nothing.
  return ((!std::is_reference_v<std::tuple_element_t<kIndices, T>> &&
           IsTellable<std::remove_cv_t<std::tuple_element_t<kIndices, T>>>()) &&
          ...);
}
template <typename T>
constexpr bool IsTellable() {
  if constexpr (kIsWeakHandle<T> || HoldsNothing<T> || Handle<T> || kIsEdgeRef<T> || Traceable<T>) {
    return true;
  } else if constexpr (kIsVariant<T>) {
    return AreTellable(static_cast<const T*>(nullptr));
  } else if constexpr (OwningRange<T>) {
    return IsTellable<std::remove_cvref_t<std::ranges::range_reference_t<const T>>>();
  } else if constexpr (TupleLike<T>) {
    return AreTellable<T>(std::make_index_sequence<std::tuple_size_v<T>>());
  } else if constexpr (OwningPointer<T>) {
    return IsTellable<std::remove_cvref_t<decltype(*std::declval<const T&>())>>();
  }
  return false;
}

struct TracerAccess;

}  // namespace internal

// Receives the references that an object holds: WeakcacheTrace calls it once for each member that
// is a reference or contains references.
class Tracer {
 public:
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Tells what `held` holds under the name `name`, a string literal. `held` is a Ref, an EdgeRef, a
  // std::shared_ptr or another Handle (a strong edge), a WeakRef or a std::weak_ptr (none), a
  // std::optional, variant, unique_ptr, pair, tuple, array or owning range of such, or a part with
  // its own WeakcacheTrace: cache/cycles.h has those of the containers. It is part of the traced
  // object, not a copy. Telling one reference twice aborts with its name; FindCyclesConcurrently,
  // beside which a reference may move, leaves out what it refers to.
  template <typename Held>
  void operator()(const Held& held, const char* name);
  template <typename Held>
  void operator()(const Held&& held, const char* name) = delete;

 private:
  friend class internal::CycleSearch;
  friend struct internal::TracerAccess;

  Tracer(internal::CycleSearch* search, bool others_run)
      : search_(search), others_run_(others_run) {}

  template <typename T>
  void Tell(const Ref<T>& ref, const char* name) {
    if (others_run_) return;  // anybody may copy it, unseen
    if (const void* const block = internal::RefAccess::Block(ref)) TellBlock(block, &ref, name);
  }
  template <typename T>
  void Tell(const EdgeRef<T>& edge, const char* name) {
    TellEdgeState(edge.state_, name);
  }
  template <Handle H>
  void Tell(const H& handle, const char* name) {
    static_assert(sizeof(H) >= sizeof(void*), "handles are told apart by their addresses");
    if (others_run_) return;
    if (HandleTraits<H>::Owns(handle)) {
      TellForeign(internal::WholeObject(handle.get()), internal::kOwnerTest<H>, &handle, name);
    }
  }

  void TellBlock(const void* block, const void* handle, const char* name);
  void TellForeign(const void* object, const internal::OwnerTest& test, const void* handle,
                   const char* name);
  void TellEdgeState(const internal::EdgeState& edge, const char* name);

  // Between the two calls, references count as held by another object, that of a handle.
  // StartHolder returns what EndHolder takes.
  size_t StartHolder(const void* identity);
  size_t StartHolder(const void* object, const internal::OwnerTest& test, const void* handle);
  void EndHolder(size_t former);

  internal::CycleSearch* const search_;
  const bool others_run_;
};

template <typename Held>
void Tracer::operator()(const Held& held, const char* name) {
  static_assert(internal::IsTellable<Held>(),
                "the type needs a function WeakcacheTrace(const Held&, weakcache::Tracer&)");
  if constexpr (internal::kIsWeakHandle<Held> || internal::HoldsNothing<Held>) {
    return;
  } else if constexpr (requires { Tell(held, name); }) {
    Tell(held, name);
  } else if constexpr (internal::Traceable<Held>) {
    WeakcacheTrace(held, *this);
  } else if constexpr (internal::kIsVariant<Held>) {
    if (held.valueless_by_exception()) return;
    std::visit([&](const auto& value) { (*this)(value, name); }, held);
  } else if constexpr (internal::OwningRange<Held>) {
    for (const auto& element : held) (*this)(element, name);
  } else if constexpr (internal::TupleLike<Held>) {
    std::apply([&](const auto&... parts) { ((*this)(parts, name), ...); }, held);
  } else if constexpr (internal::OwningPointer<Held>) {
    if (held) (*this)(*held, name);
  }
}

namespace internal {

// What the traces of containers need beside the Tracer.
struct TracerAccess {
  // Tells a strong reference of another form than a Ref; `handle` is an address of its own.
  template <typename T>
  static void TellReference(Tracer& trace, const Ref<T>& target, const void* handle,
                            const char* name) {
    if (trace.others_run_) return;  // as of a Ref
    trace.TellBlock(RefAccess::Block(target), handle, name);
  }
  // Tells what lives as long as the holder's object, so that it counts as held by that.
  template <typename T, typename Held>
  static void TellHeldBy(Tracer& trace, const Ref<T>& holder, const Held& held, const char* name) {
    const Scope scope{trace, trace.StartHolder(RefAccess::Block(holder))};
    trace(held, name);
  }
  template <Handle H, typename Held>
  static void TellHeldBy(Tracer& trace, const H& holder, const Held& held, const char* name) {
    const Scope scope{trace, trace.StartHolder(WholeObject(holder.get()), kOwnerTest<H>, &holder)};
    trace(held, name);
  }

 private:
  struct Scope {
    ~Scope() { trace.EndHolder(former); }
    Tracer& trace;
    const size_t former;
  };
};

}  // namespace internal

// An object in a report, which refers to no object: names of types and edges are literals.
struct CycleObject {
  std::string_view type;
  std::string label;  // what WeakcacheLabel(object) returned; empty if there is no such function
  const void* address = nullptr;
  size_t bytes = 0;  // what byte_size() returned; sizeof if there is no such member
};

// A strong reference between two objects of a group or a path.
struct CycleEdge {
  uint32_t from = 0;  // positions in `objects`
  uint32_t to = 0;
  std::string_view name;
};

// Objects that reach each other and that nobody else reaches.
struct CycleGroup {
  std::vector<CycleObject> objects;
  std::vector<CycleEdge> edges;
  size_t bytes = 0;         // of `objects`
  size_t held_objects = 0;  // what only such groups keep alive besides, counted in one of them
  size_t held_bytes = 0;
};

struct CycleReport {
  std::vector<CycleGroup> groups;
  size_t objects_seen = 0;
  size_t edges_seen = 0;  // those of Refs and EdgeRefs to objects outside the census included
};

// What keeps an object alive: a shortest path that begins at a root, or at an object with
// references from outside, and ends at the object itself. Empty if there is none.
struct AlivePath {
  // Whether the object is alive and in the census. If it is, and the path is empty, nothing outside
  // reaches it; otherwise nothing is known about it.
  bool known = false;
  std::vector<CycleObject> objects;
  std::vector<std::string_view> edges;  // edges[i] leads from objects[i] to objects[i + 1]
  size_t references_from_outside = 0;   // to objects[0]; 0 for a root
};

// Knows live objects without keeping them alive: those with a WeakcacheTrace that MakeRef,
// AllocateRef and AdoptRef make while the census exists, on any thread, and those that are added.
// What a container or std::make_shared makes has to be added. Each costs one watcher. Objects and
// census may end in either order.
class Census {
 public:
  Census();
  ~Census();
  Census(const Census&) = delete;
  Census& operator=(const Census&) = delete;

  // Adds an object until its death. T has a function WeakcacheTrace; it should be the object's own
  // type, not a base. Adding an object again changes nothing. Precondition: not null. If an
  // allocation throws, nothing is added.
  template <typename T>
  requires internal::Traceable<T>
  void Add(const Ref<T>& ref) {
    internal::Check(ref.get() != nullptr && internal::RefAccess::Block(ref) != nullptr,
                    "Census::Add", "the reference is null or owns nothing");
    core_->Add(internal::RefAccess::Block(ref), ref.get(), internal::kCensusType<T>);
  }
  // Does the same for a std::shared_ptr or another Handle that has a use_count(). An object that
  // was added by a Ref, too, is one object; each std::shared_ptr of ToSharedPtr is a reference from
  // outside then. Without RTTI, a std::shared_ptr of ToSharedPtr must not be added: the Refs behind
  // it are not seen. Arrays are refused, as their other elements would not be traced.
  template <Handle H>
  requires(internal::Traceable<typename HandleTraits<H>::element_type> &&
           !internal::kIsArrayHandle<H>) void Add(const H& handle) {
    internal::Check(handle.get() != nullptr && HandleTraits<H>::Owns(handle), "Census::Add",
                    "the reference is null or owns nothing");
    core_->Add(std::make_unique<internal::HandleEntry<H>>(
        core_, handle, internal::WholeObject(handle.get()),
        &internal::kCensusType<typename HandleTraits<H>::element_type>));
  }

  // Returns the number of objects added and not known to be dead, without the roots. The death of a
  // Ref's object counts at once; that of another handle's object when a later call looks.
  [[nodiscard]] size_t size() const { return core_->size(); }

 private:
  friend class internal::CycleSearch;
  friend class CensusRoot;
  internal::CensusCore* const core_;
};

// Tells a census of a holder that is no object of the census, such as a cache or a variable with a
// WeakcacheTrace: paths of WhyAlive begin at it, under its name. A root must end before the census
// and the holder.
class CensusRoot {
 public:
  template <typename T>
  requires internal::Traceable<T> CensusRoot(Census& census, const T& holder, std::string name)
      : core_(census.core_),
        entry_(new internal::RootEntry(core_, std::addressof(holder), &internal::kRootType<T>,
                                       std::move(name))) {
    core_->Add(std::unique_ptr<internal::ForeignEntry>(entry_));
  }
  template <typename T>
  requires internal::Traceable<T> CensusRoot(Census& census, const T&& holder, std::string name)
  = delete;
  CensusRoot(const CensusRoot&) = delete;
  CensusRoot& operator=(const CensusRoot&) = delete;
  ~CensusRoot() { core_->RemoveRoot(entry_); }

 private:
  internal::CensusCore* const core_;
  internal::RootEntry* const entry_;
};

// Finds the groups of objects that nothing outside the census reaches. While it runs, it holds one
// reference to each object of the census; it traces and counts. An exception of a WeakcacheTrace
// passes through, and changes nothing. Precondition, here and below: the census does not end
// meanwhile, not even by a destructor that runs in the call, and WeakcacheTrace starts no search.
[[nodiscard]] CycleReport FindCycles(const Census& census);

// Finds such groups while other threads use the objects and references. Reports only objects that
// nobody can reach any more, strongly or weakly: all references to them are in EdgeRefs of these
// objects (weakref/edge_ref.h), and they have no WeakRefs, registrations or entries; plain pointers
// are not seen. So it never finds what is in two censuses, what a container has made in place, or
// what has EnableRefFromThis. It first takes a reference to each object of the census, which takes
// a time in proportion to their number. Meanwhile threads that make or drop traceable objects wait;
// and until the call ends a cache sees the objects as in use. A group that was used during the call
// is left out; a later call finds it. Calls WeakcacheTrace twice for an object, while other threads
// may change it, so the function must be safe then. Holds a reference to each object meanwhile, so
// destructors may run here. Preconditions: no other search of the census runs meanwhile, and none
// of its roots ends.
[[nodiscard]] CycleReport FindCyclesConcurrently(const Census& census);

namespace internal {
// Two ways to name the object: by a reference to it, which is at `strong`, and by another handle.
// An object that was added by the other kind of reference is found, too.
AlivePath FindAlivePath(const Census& census, ControlBlock* block, const void* object,
                        const void* strong);
AlivePath FindAlivePath(const Census& census, const void* object, const OwnerTest& test,
                        const void* strong, const ControlBlock* refs, bool holds_a_ref);
// Returns nothing if there are no cycles; else the text of the report, and the path of the picture
// that it has written to `directory`.
std::string DescribeCycles(const Census& census, const std::string& directory);
}  // namespace internal

// Finds out why an object of the census is alive. The reference that is passed does not count,
// unless it is one that an object holds and tells. Add what a container or std::make_shared has
// made to the census before: of other objects nothing is known.
template <typename T>
[[nodiscard]] AlivePath WhyAlive(const Census& census, const Ref<T>& ref) {
  return internal::FindAlivePath(census, internal::RefAccess::Block(ref),
                                 internal::WholeObject(ref.get()), &ref);
}
template <typename T>
[[nodiscard]] AlivePath WhyAlive(const Census& census, const WeakRef<T>& weak) {
  const Ref<T> locked = weak.lock();
  return WhyAlive(census, locked);
}
template <Handle H>
[[nodiscard]] AlivePath WhyAlive(const Census& census, const H& handle) {
  bool is_sole = false;
  if constexpr (internal::kIsSharedPtr<H>) is_sole = handle.use_count() == 1;
  return internal::FindAlivePath(census, internal::WholeObject(handle.get()),
                                 internal::kOwnerTest<H>, &handle,
                                 internal::OwnerFamily<H>::RefBlock(handle), is_sole);
}

// Return a report for people, for programs (RFC 8259), and as a picture for Graphviz (`dot -Tsvg`).
[[nodiscard]] std::string ToText(const CycleReport& report);
[[nodiscard]] std::string ToText(const AlivePath& path);
[[nodiscard]] std::string ToJson(const CycleReport& report);
[[nodiscard]] std::string ToDot(const CycleReport& report);

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_CYCLES_H_
