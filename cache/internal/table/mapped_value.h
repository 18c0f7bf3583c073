// SPDX-License-Identifier: Apache-2.0
// The mapped values of a WeakKeyMap: where they lie, and what its look-ups give.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_MAPPED_VALUE_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_MAPPED_VALUE_H_

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/held_value.h"
#include "weakcache/weakref/internal/referent_storage.h"

namespace weakcache::internal {

template <typename H, typename V, typename Keys>
using FoundValue = std::conditional_t<Keys::kHoldsFoundKey, HeldValue<H, V>, V*>;

// A value that is too large to let its memory wait for the purge.
template <typename V>
class SeparateValue {
 public:
  template <typename... Args>
  explicit SeparateValue(Args&&... args) {
    Memory<Object, std::allocator<char>> memory{std::allocator<char>()};
    Construct(std::allocator<char>(), memory.get(), std::forward<Args>(args)...);
    value_ = memory.release();
  }
  SeparateValue(const SeparateValue&) = delete;
  SeparateValue& operator=(const SeparateValue&) = delete;
  ~SeparateValue() { Discard(std::allocator<char>(), value_); }

  V& value() const { return *value_; }

 private:
  using Object = std::remove_const_t<V>;
  Object* value_;
};

// What a slot of a WeakKeyMap holds.
inline constexpr size_t kMaxValueInSlotBytes = 64;
template <typename V>
using ValueStorage = std::conditional_t<sizeof(V) <= kMaxValueInSlotBytes, V, SeparateValue<V>>;
template <typename V>
V& ValueIn(V& payload) {
  return payload;
}
template <typename V>
V& ValueIn(SeparateValue<V>& payload) {
  return payload.value();
}
template <typename V>
const V& ValueIn(const SeparateValue<V>& payload) {
  return payload.value();
}

template <typename Pointer, typename Found>
Pointer MakeFound(Found found) {
  if (found.slot == nullptr) return Pointer();
  if constexpr (std::is_pointer_v<Pointer>) {
    return std::addressof(ValueIn(found.slot->payload()));
  } else {
    return Pointer(std::move(found.key), std::addressof(ValueIn(found.slot->payload())));
  }
}

// What takes the place of a Pointer that can't be null.
template <typename Pointer>
using GivenValue =
    std::conditional_t<std::is_pointer_v<Pointer>,
                       std::add_lvalue_reference_t<std::remove_pointer_t<Pointer>>, Pointer>;
template <typename Pointer>
GivenValue<Pointer> Give(Pointer pointer) {
  if constexpr (std::is_pointer_v<Pointer>) {
    return *pointer;
  } else {
    return pointer;
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_MAPPED_VALUE_H_
