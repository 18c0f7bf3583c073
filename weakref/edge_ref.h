// SPDX-License-Identifier: Apache-2.0
// EdgeRef<T>: a reference from one object to another by which cycles are found while threads run.
//
// Why: FindCycles (weakref/cycles.h) needs quiet, which a server never has. If the objects of a
// census hold each other by EdgeRefs, FindCyclesConcurrently needs none.
//
//   struct Node {
//     weakcache::EdgeRef<Node> next;
//   };
//   void WeakcacheTrace(const Node& node, weakcache::Tracer& trace) { trace(node.next, "next"); }
//   node->next.store(other);                       // on any thread
//   weakcache::Ref<Node> next = node->next.load(); // on any other
//
// Thread safety: all operations may race on any threads, save for construction and destruction.
//
// Unlike AtomicRef, it has no compare-exchange, and each operation leaves a mark, by which a search
// knows whether anybody has followed or changed the edge. It takes 32 bytes, and neither moves nor
// copies: what a search has seen stays where it is.
//
// Complexity: O(1), and no allocation. A lock is held for a few instructions; no destructor runs
// under it. Constructing one increments a counter that all threads share.
#ifndef WEAKCACHE_WEAKREF_EDGE_REF_H_
#define WEAKCACHE_WEAKREF_EDGE_REF_H_

#include <utility>

#include "weakcache/weakref/internal/edge_state.h"
#include "weakcache/weakref/internal/ref_access.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {

class Tracer;

template <typename T>
class EdgeRef {
 public:
  using element_type = typename Ref<T>::element_type;

  // Starts null, or with a reference.
  EdgeRef() noexcept : EdgeRef(Ref<T>()) {}
  EdgeRef(Ref<T> initial) noexcept  // NOLINT(google-explicit-constructor): as AtomicRef
      : state_(Release(std::move(initial))) {}
  EdgeRef(const EdgeRef&) = delete;
  EdgeRef& operator=(const EdgeRef&) = delete;

  // Returns a copy of the current reference.
  [[nodiscard]] Ref<T> load() const noexcept { return Adopt(state_.Load()); }
  // Replaces the reference. The former one is dropped on this thread, after the replacement.
  void store(Ref<T> desired) noexcept { static_cast<void>(exchange(std::move(desired))); }
  // Replaces the reference and returns the former one.
  [[nodiscard]] Ref<T> exchange(Ref<T> desired) noexcept {
    return Adopt(state_.Exchange(Release(std::move(desired))));
  }

 private:
  friend class Tracer;

  static internal::EdgeState::Parts Release(Ref<T> reference) {
    const auto parts = internal::RefAccess::TakeApart(std::move(reference));
    return {parts.pointer, parts.block};
  }
  // Takes over the count of `parts`.
  static Ref<T> Adopt(internal::EdgeState::Parts parts) {
    auto* const pointer = static_cast<const element_type*>(parts.pointer);
    return internal::RefAccess::AdoptCounted<Ref<T>>(const_cast<element_type*>(pointer),
                                                     parts.block);
  }

  internal::EdgeState state_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_EDGE_REF_H_
