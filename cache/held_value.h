// SPDX-License-Identifier: Apache-2.0
// What a look-up by value in a WeakKeyMap returns: the mapped value, and the key that keeps it.
//
// Thread safety: thread-compatible, as a pair of a Ref and a pointer is.
#ifndef WEAKCACHE_CACHE_HELD_VALUE_H_
#define WEAKCACHE_CACHE_HELD_VALUE_H_

#include <concepts>
#include <cstddef>
#include <utility>

#include "weakcache/weakref/internal/check.h"

namespace weakcache {

// A value of a WeakKeyMap with keys by value, and the key that keeps it: good until the entry is
// erased or replaced.
template <typename Strong, typename V>
class HeldValue {
 public:
  HeldValue() = default;
  HeldValue(Strong key, V* value) : key_(std::move(key)), value_(value) {}
  // Converts to a HeldValue whose value is const.
  template <typename U>
  HeldValue(HeldValue<Strong, U> other) requires std::convertible_to<U*, V*>  // NOLINT: as pointers
      : key_(other.key()), value_(other.get()) {}

  // Returns the map's key, null if this is empty.
  const Strong& key() const { return key_; }
  V* get() const { return value_; }
  explicit operator bool() const { return value_ != nullptr; }
  // Accesses the value. Precondition: not empty.
  V& operator*() const {
    internal::Check(value_ != nullptr, "HeldValue::operator*", "there is no value");
    return *value_;
  }
  V* operator->() const {
    internal::Check(value_ != nullptr, "HeldValue::operator->", "there is no value");
    return value_;
  }
  friend bool operator==(const HeldValue& held, std::nullptr_t) { return held.value_ == nullptr; }

 private:
  Strong key_{};
  V* value_ = nullptr;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_HELD_VALUE_H_
