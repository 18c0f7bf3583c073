// SPDX-License-Identifier: Apache-2.0
// The library's own way into a Ref or a WeakRef, to its control block and its counts.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REF_ACCESS_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REF_ACCESS_H_

#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/control_block.h"

namespace weakcache {

template <typename T>
class Ref;
template <typename T>
class WeakRef;

namespace internal {

// Gives the library's own code access to the control block of a Ref or a WeakRef.
struct RefAccess {
  template <typename R>
  static auto* Block(const R& reference) {
    return reference.block_;
  }
  // Returns a Ref that takes over one strong reference, which is counted already.
  template <typename T>
  static Ref<T> Adopt(std::remove_extent_t<T>* pointer, ControlBlock* block) {
    return Ref<T>(pointer, block);
  }
  // Does the same for a given type of reference.
  template <typename R, typename AnyBlock>
  static R AdoptAs(typename R::element_type* pointer, AnyBlock* block) {
    return R(pointer, block);
  }
  // A reference taken apart. The compiler can keep it in registers, unlike an object that has a
  // destructor.
  template <typename Pointer, typename AnyBlock>
  struct Parts {
    Pointer* pointer;
    AnyBlock* block;
  };
  // Returns the parts of a reference, together with its count; AdoptAs or AdoptCounted takes it.
  template <typename R>
  static auto TakeApart(R reference) {
    using Pointer = std::remove_pointer_t<decltype(reference.pointer_)>;
    using AnyBlock = std::remove_pointer_t<decltype(reference.block_)>;
    return Parts<Pointer, AnyBlock>{std::exchange(reference.pointer_, nullptr),
                                    std::exchange(reference.block_, nullptr)};
  }
  // Returns the parts of a reference, which keeps its count.
  template <typename R>
  static auto PartsOf(const R& reference) {
    using Pointer = std::remove_pointer_t<decltype(reference.pointer_)>;
    using AnyBlock = std::remove_pointer_t<decltype(reference.block_)>;
    return Parts<Pointer, AnyBlock>{reference.pointer_, reference.block_};
  }
  // Returns a Ref or WeakRef that takes over a count of its kind.
  template <typename R>
  static R AdoptCounted(typename R::element_type* pointer, ControlBlock* block) {
    R reference;
    reference.pointer_ = pointer;
    reference.block_ = block;
    return reference;
  }
  // Adds a weak reference and returns it.
  template <typename T>
  static WeakRef<T> AddWeak(T* pointer, ControlBlock* block) {
    return WeakRef<T>(pointer, block);
  }
};

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REF_ACCESS_H_
