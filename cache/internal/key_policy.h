// How WeakKeyMap compares its keys, and what its look-ups give.
#ifndef WEAKCACHE_CACHE_INTERNAL_KEY_POLICY_H_
#define WEAKCACHE_CACHE_INTERNAL_KEY_POLICY_H_

#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include "cache/internal/key_lookup.h"
#include "cache/internal/key_matching.h"
#include "cache/internal/stored_handle.h"
#include "weakref/internal/check.h"
#include "weakref/internal/referent_storage.h"

namespace weakcache {

// Two keys are the same if they are one object.
struct ByIdentity {};

// Two keys are the same if the objects are equal. `Hash` and `Equal` take objects; by default
// absl::Hash, and ==.
template <typename Hash = void, typename Equal = void>
struct ByValue {};

// A value of a WeakKeyMap with keys by value, and the key that keeps it: good until the entry is
// erased or replaced.
template <typename Strong, typename V>
class HeldValue {
 public:
  HeldValue() = default;
  HeldValue(Strong key, V* value) : key_(std::move(key)), value_(value) {}
  // To one whose value is const.
  template <typename U>
  HeldValue(HeldValue<Strong, U> other) requires std::convertible_to<U*, V*>  // NOLINT: as pointers
      : key_(other.key()), value_(other.get()) {}

  // The key that the map has, null if this is empty.
  const Strong& key() const { return key_; }
  V* get() const { return value_; }
  explicit operator bool() const { return value_ != nullptr; }
  // Precondition: not empty.
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

namespace internal {

template <typename H>
struct GivenHash {
  using Hash = H;
};
template <typename E>
struct GivenEqual {
  using Equal = E;
};

template <typename H, typename Policy>
struct KeysOf;
template <typename H>
struct KeysOf<H, ByIdentity> {
  using type = IdentityKeys<H>;
};
template <typename H, typename Hash, typename Equal>
struct KeysOf<H, ByValue<Hash, Equal>> {
  using Object = std::remove_cv_t<ReferentOf<H>>;
  using type = ValueKeys<
      H,
      typename std::conditional_t<std::is_void_v<Hash>, KeyDefaults<Object>, GivenHash<Hash>>::Hash,
      typename std::conditional_t<std::is_void_v<Equal>, KeyDefaults<Object>,
                                  GivenEqual<Equal>>::Equal>;
};
template <typename H, typename Policy>
using KeysFor = typename KeysOf<H, Policy>::type;

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

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_INTERNAL_KEY_POLICY_H_
