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
//   weakcache::Census census;
//   census.Add(node);                         // for each object that takes part
//   std::cerr << weakcache::ToText(weakcache::FindCycles(census));
//
// Thread safety: Add and size may be called on any threads at once; FindCycles and WhyAlive need
// quiet: no other thread uses the census, its objects or references to them meanwhile.
//
// Unlike Python's gc, this frees nothing: it reports. An edge that WeakcacheTrace does not tell may
// hide a cycle, and never makes one up. Without a Census there is no cost.
//
// Complexity: Add is O(1) amortised. FindCycles and WhyAlive are linear in the objects and edges on
// average, and take a fixed amount of stack.
#ifndef WEAKCACHE_WEAKREF_CYCLES_H_
#define WEAKCACHE_WEAKREF_CYCLES_H_

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <ranges>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/check.h"
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
inline constexpr bool kIsVariant = false;
template <typename... Ts>
inline constexpr bool kIsVariant<std::variant<Ts...>> = true;

template <typename T>
concept Traceable = requires(const T& object, Tracer& trace) {
  WeakcacheTrace(object, trace);
};
template <typename T>
concept Labelled = requires(const T& object) {
  { WeakcacheLabel(object) } -> std::convertible_to<std::string>;
};
template <typename T>
concept TellsByteSize = requires(const T& object) {
  { object.byte_size() } -> std::convertible_to<size_t>;
};
// Holds its elements itself; a view or a span refers to elements of others.
template <typename T>
concept OwningRange = std::ranges::input_range<const T> && !std::ranges::view<T> &&
                      std::is_lvalue_reference_v<std::ranges::range_reference_t<const T>>;
template <typename T>
concept HoldsNothing =
    std::is_scalar_v<T> || std::is_empty_v<T> || std::is_convertible_v<const T&, std::string_view>;
template <typename T>
concept OwningPointer = requires(const T& held) {
  requires requires { held.has_value(); } || requires {
    held.get_deleter();
  };
  static_cast<bool>(held);
  *held;
};
template <typename T>
concept TupleLike = requires {
  std::tuple_size<T>::value;
};

// Returns the address by which an object of a std::shared_ptr is known, whatever base a handle
// points to.
template <typename T>
const void* WholeObject(const T* object) {
#ifdef __cpp_rtti
  if constexpr (std::is_polymorphic_v<T>) return dynamic_cast<const void*>(object);
#endif
  return object;
}

}  // namespace internal

// Receives the references that an object holds: WeakcacheTrace calls it once for each member that
// is one or contains some.
class Tracer {
 public:
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Tells what `held` holds under the name `name`, a string literal. `held` is a Ref or a
  // std::shared_ptr (a strong edge), a WeakRef or a std::weak_ptr (none), a std::optional, variant,
  // unique_ptr, pair, tuple, array or owning range of such, or a part with its own WeakcacheTrace.
  // It is part of the traced object, not a copy. Telling one reference twice aborts with its name.
  template <typename Held>
  void operator()(const Held& held, const char* name);
  template <typename Held>
  void operator()(const Held&& held, const char* name) = delete;

 private:
  friend class internal::CycleSearch;

  explicit Tracer(internal::CycleSearch* search) : search_(search) {}

  template <typename T>
  void Tell(const Ref<T>& ref, const char* name) {
    if (const void* const block = internal::RefAccess::Block(ref)) TellBlock(block, &ref, name);
  }
  template <typename T>
  void Tell(const std::shared_ptr<T>& pointer, const char* name) {
    if (pointer != nullptr) TellShared(internal::WholeObject(pointer.get()), pointer, name);
  }

  void TellBlock(const void* block, const void* handle, const char* name);
  template <typename T>
  void TellShared(const void* object, const std::shared_ptr<T>& pointer, const char* name) {
    const internal::CensusEntry* const target = Find(object);
    // An alias may point at an object that it does not own.
    if (target != nullptr && target->IsOwnedBy(pointer)) TellBlock(object, &pointer, name);
  }
  const internal::CensusEntry* Find(const void* identity) const;

  internal::CycleSearch* const search_;
};

template <typename Held>
void Tracer::operator()(const Held& held, const char* name) {
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
  } else {
    static_assert(internal::OwningPointer<Held>,
                  "the type needs a function WeakcacheTrace(const Held&, weakcache::Tracer&)");
    if (held) (*this)(*held, name);
  }
}

// An object in a report, which refers to no object: names of types and edges are literals.
struct CycleObject {
  std::string_view type;
  std::string label;  // what WeakcacheLabel(object) returned; empty if there is no such function
  const void* address = nullptr;
  size_t bytes = 0;  // what byte_size() returned; sizeof if there is no such member
};

// A strong reference between two objects of a group or a path.
struct CycleEdge {
  size_t from = 0;  // positions in `objects`
  size_t to = 0;
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
  size_t edges_seen = 0;  // those to objects outside the census included
};

// What keeps an object alive: a shortest path that begins at an object with references from
// outside, and ends at the asked one. Empty if there is none: the object is unreachable or not in
// the census.
struct AlivePath {
  std::vector<CycleObject> objects;
  std::vector<std::string_view> edges;  // edges[i] leads from objects[i] to objects[i + 1]
  size_t references_from_outside = 0;   // to objects[0]
};

namespace internal {

template <typename T>
struct CensusTypeOf {
  static void Trace(const void* object, Tracer& trace) {
    WeakcacheTrace(*static_cast<const T*>(object), trace);
  }
  static std::string Label(const void* object) {
    if constexpr (Labelled<T>) return WeakcacheLabel(*static_cast<const T*>(object));
    return std::string();
  }
  static size_t Bytes(const void* object) {
    if constexpr (TellsByteSize<T>) return static_cast<const T*>(object)->byte_size();
    return sizeof(T);
  }
};

template <typename T>
inline constexpr CensusType kCensusType = {TypeName<std::remove_cv_t<T>>(), &CensusTypeOf<T>::Trace,
                                           &CensusTypeOf<T>::Label, &CensusTypeOf<T>::Bytes};

}  // namespace internal

// Knows live objects without keeping them alive. Objects and census may end in either order.
class Census {
 public:
  Census();
  ~Census();
  Census(const Census&) = delete;
  Census& operator=(const Census&) = delete;

  // Adds an object until its death. T has a function WeakcacheTrace; it should be the object's own
  // type, not a base. Adding an object again changes no report. Precondition: not null. If an
  // allocation throws, nothing is added.
  template <typename T>
  requires internal::Traceable<T>
  void Add(const Ref<T>& ref) {
    internal::Check(ref.get() != nullptr && internal::RefAccess::Block(ref) != nullptr,
                    "Census::Add", "the reference is null or owns nothing");
    core_->Add(internal::RefAccess::Block(ref), ref.get(), internal::kCensusType<T>);
  }
  template <typename T>
  requires internal::Traceable<T>
  void Add(const std::shared_ptr<T>& pointer) {
    internal::Check(pointer != nullptr && pointer.use_count() != 0, "Census::Add",
                    "the reference is null or owns nothing");
    core_->Add(pointer, internal::WholeObject(pointer.get()), pointer.get(),
               internal::kCensusType<T>);
  }

  // Returns the number of objects added and not known to be dead. A std::shared_ptr tells of a
  // death only when a later call looks.
  [[nodiscard]] size_t size() const { return core_->size(); }

 private:
  friend class internal::CycleSearch;
  internal::CensusCore* const core_;
};

// Finds the groups of objects that nothing outside the census reaches. While it runs, it holds one
// reference to each object of the census; it traces and counts. An exception of a WeakcacheTrace
// passes through, and changes nothing.
[[nodiscard]] CycleReport FindCycles(const Census& census);

namespace internal {
AlivePath FindAlivePath(const Census& census, const void* identity, bool is_strong);
AlivePath FindAlivePath(const Census& census, const void* identity,
                        const std::weak_ptr<const void>& owner);
// Returns nothing if there are no cycles; else the text of the report, and the path of the picture
// that it has written to `directory`.
std::string DescribeCycles(const Census& census, const std::string& directory);
}  // namespace internal

// Finds out why an object is alive. The reference that is passed does not count.
template <typename T>
[[nodiscard]] AlivePath WhyAlive(const Census& census, const Ref<T>& ref) {
  return internal::FindAlivePath(census, internal::RefAccess::Block(ref), true);
}
template <typename T>
[[nodiscard]] AlivePath WhyAlive(const Census& census, const WeakRef<T>& weak) {
  return internal::FindAlivePath(census, internal::RefAccess::Block(weak), false);
}
template <typename T>
[[nodiscard]] AlivePath WhyAlive(const Census& census, const std::shared_ptr<T>& pointer) {
  return internal::FindAlivePath(census, internal::WholeObject(pointer.get()),
                                 std::weak_ptr<const void>(pointer));
}

// Return a report for people, for programs (RFC 8259), and as a picture for Graphviz (`dot -Tsvg`).
[[nodiscard]] std::string ToText(const CycleReport& report);
[[nodiscard]] std::string ToText(const AlivePath& path);
[[nodiscard]] std::string ToJson(const CycleReport& report);
[[nodiscard]] std::string ToDot(const CycleReport& report);

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_CYCLES_H_
