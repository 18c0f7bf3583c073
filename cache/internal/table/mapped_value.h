// SPDX-License-Identifier: Apache-2.0
// The mapped values of a WeakKeyMap: where they are stored, and what look-ups return.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_MAPPED_VALUE_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_MAPPED_VALUE_H_

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/held_value.h"
#include "weakcache/cache/internal/slot/payload_description.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/referent_storage.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::internal {

template <typename H, typename V, typename Keys>
using FoundValue = std::conditional_t<Keys::kHoldsFoundKey, HeldValue<H, V>, V*>;

// A value in an allocation of its own: its memory is freed at the key's death, not at the purge.
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

template <typename V>
struct PayloadDescription<SeparateValue<V>> : PayloadDescription<V> {
  using Argument = V;
};

// Stores large values separately, small ones in the slot.
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

// The strong handle of a mapped value that is a weak reference; void for other values.
template <typename V>
struct StrongOfWeakValue {
  using type = void;
};
template <typename T>
struct StrongOfWeakValue<WeakRef<T>> {
  using type = Ref<T>;
};
template <typename T>
struct StrongOfWeakValue<std::weak_ptr<T>> {
  using type = std::shared_ptr<T>;
};
template <typename V>
inline constexpr bool kIsWeakValue =
    !std::is_void_v<typename StrongOfWeakValue<std::remove_cv_t<V>>::type>;

// Returns whether the value is a weak reference to a dead object: then its entry is dead too.
template <typename V>
bool IsDeadValue(const V& value) {
  if constexpr (kIsWeakValue<V>) {
    return HandleTraits<typename StrongOfWeakValue<std::remove_cv_t<V>>::type>::Expired(value);
  } else {
    return false;
  }
}

// Returns what a look-up found; null if it found no slot.
template <typename Pointer, typename Found>
Pointer MakeFound(Found found) {
  if (found.slot == nullptr) return Pointer();
  if constexpr (std::is_pointer_v<Pointer>) {
    return std::addressof(ValueIn(found.slot->payload()));
  } else {
    return Pointer(std::move(found.key), std::addressof(ValueIn(found.slot->payload())));
  }
}

// The non-null form of Pointer: a reference for a plain pointer.
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
