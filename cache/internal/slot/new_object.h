// SPDX-License-Identifier: Apache-2.0
// Objects that are constructed before a slot takes them.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_NEW_OBJECT_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_NEW_OBJECT_H_

#include <memory>
#include <utility>

#include "weakcache/weakref/internal/referent_storage.h"

namespace weakcache::internal {

// An object in an allocation of its own, to become the referent of an embedded slot.
template <typename T>
struct ObjectDiscarder {
  void operator()(T* object) const { Discard(std::allocator<char>(), object); }
};
template <typename T, typename... Args>
std::unique_ptr<T, ObjectDiscarder<T>> NewObject(Args&&... args) {
  Memory<T, std::allocator<char>> memory{std::allocator<char>()};
  Construct(std::allocator<char>(), memory.get(), std::forward<Args>(args)...);
  return std::unique_ptr<T, ObjectDiscarder<T>>(memory.release());
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_NEW_OBJECT_H_
