// SPDX-License-Identifier: Apache-2.0
// WeakBind: invokes a method only while the object is alive, without extending its lifetime.
//
// Why: a list of callbacks that capture a Ref keeps every listener for ever, and one that captures
// a raw `this` calls dead objects. The C++ answer to Python's weakref.WeakMethod.
//
//   std::function<void(Point)> on_click = weakcache::WeakBind(button, &Button::Press);
//   auto area = weakcache::WeakBind(button, [](const Button& b, int dpi) { return b.Area(dpi); });
//   std::optional<int> pixels = area(96);       // empty once the button has gone
//   button.reset();
//   on_click({3, 4});                           // does nothing
//
// Thread safety: calls may be made on any threads at once, also while the last Ref is being
// dropped, if the bound function allows it; otherwise as safe as a plain pointer.
//
// Differences from Python's WeakMethod and from std::bind_front: calling a binding calls the
// method, and holds the object during the call; the result is a std::optional, or a bool for a
// method that returns nothing; two bindings are equal if object and function are.
//
// Complexity: a call adds one lock() and one release, O(1) and lock-free; binding copies or moves
// the function and allocates nothing.
#ifndef WEAKCACHE_WEAKREF_WEAK_BIND_H_
#define WEAKCACHE_WEAKREF_WEAK_BIND_H_

#include <concepts>
#include <cstddef>
#include <functional>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/call_result.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

namespace internal {

template <typename T>
concept StdHashable = requires(const T& value) {
  { std::hash<T>()(value) } -> std::convertible_to<size_t>;
};

inline void CombineHash(size_t& hash, size_t other) {
  hash ^= other + 0x9e3779b9u + (hash << 6) + (hash >> 2);
}

}  // namespace internal

// The result of WeakBind. Copyable if the function is.
template <typename T, typename Function>
class WeakBound {
  static_assert(std::is_object_v<T> && !std::is_array_v<T>, "there is no T& to call with");

 public:
  // Calls function(referent, arguments...) and holds the referent meanwhile. If the referent has
  // expired, does nothing and leaves the arguments alone.
  //
  // Returns a std::optional of the result, or for a function that returns nothing whether it was
  // called. R& becomes std::optional<std::reference_wrapper<R>>: if it refers into the object, hold
  // the object to use it. R&& becomes std::optional<R>, moved from the result.
  template <typename... Arguments>
  auto operator()(Arguments&&... arguments) -> internal::CallResult<Function&, T&, Arguments...> {
    return CallWhileAlive(*this, std::forward<Arguments>(arguments)...);
  }
  template <typename... Arguments>
  auto operator()(Arguments&&... arguments) const
      -> internal::CallResult<const Function&, T&, Arguments...> {
    return CallWhileAlive(*this, std::forward<Arguments>(arguments)...);
  }

  // Returns whether the referent has expired: see WeakRef::expired.
  [[nodiscard]] bool expired() const noexcept { return weak_.expired(); }
  [[nodiscard]] const WeakRef<T>& weak() const noexcept { return weak_; }
  [[nodiscard]] const Function& function() const noexcept { return function_; }

  // Returns whether both bind equal functions to the same part of the same object. A function
  // without an ==, such as a lambda with captures, makes a binding without one.
  friend bool operator==(const WeakBound& a,
                         const WeakBound& b) requires std::equality_comparable<Function> {
    return a.weak_ == b.weak_ && a.part_ == b.part_ && a.function_ == b.function_;
  }

  // Returns a hash that agrees with ==, also after the referent's death, so that observers can be
  // kept in a set. It covers the function where std::hash does (a pointer to a function, but not
  // one to a member); other bindings of one object collide.
  [[nodiscard]] size_t hash() const requires std::equality_comparable<Function> {
    size_t result = weak_.owner_hash();
    internal::CombineHash(result, std::hash<const void*>()(part_));
    if constexpr (internal::StdHashable<Function>) {
      internal::CombineHash(result, std::hash<Function>()(function_));
    }
    return result;
  }
  template <typename H>
  requires std::equality_comparable<Function>
  friend H AbslHashValue(H hash, const WeakBound& bound) {
    return H::combine(std::move(hash), bound.hash());
  }

 private:
  template <typename U, typename F>
  friend WeakBound<U, std::decay_t<F>> WeakBind(const WeakRef<U>& weak, F&& function);

  template <typename F>
  WeakBound(const WeakRef<T>& weak, F&& function)
      : weak_(weak), part_(weak.lock().get()), function_(std::forward<F>(function)) {}

  template <typename Self, typename... Arguments>
  static auto CallWhileAlive(Self& self, Arguments&&... arguments) {
    using Callee = decltype((self.function_));
    const Ref<T> ref = self.weak_.lock();
    if (ref == nullptr) return internal::CallResult<Callee, T&, Arguments...>();
    return internal::CallForResult<Callee, T&, Arguments...>(self.function_, *ref,
                                                             std::forward<Arguments>(arguments)...);
  }

  WeakRef<T> weak_;
  // Tells apart references to different parts of one object. Compared, never dereferenced.
  const void* part_;
  Function function_;
};

// Binds `function` to `weak`'s referent. The function is a member of T or takes a T& first. If the
// referent has expired already, the binding never calls it.
template <typename T, typename Function>
[[nodiscard]] WeakBound<T, std::decay_t<Function>> WeakBind(const WeakRef<T>& weak,
                                                            Function&& function) {
  internal::CheckNotNullFunction<std::decay_t<Function>>(function, "WeakBind");
  return WeakBound<T, std::decay_t<Function>>(weak, std::forward<Function>(function));
}

template <typename T, typename Function>
[[nodiscard]] WeakBound<T, std::decay_t<Function>> WeakBind(const Ref<T>& ref,
                                                            Function&& function) {
  return WeakBind(WeakRef<T>(ref), std::forward<Function>(function));
}

}  // namespace weakcache

template <typename T, typename Function>
requires std::equality_comparable<Function>
struct std::hash<weakcache::WeakBound<T, Function>> {
  size_t operator()(const weakcache::WeakBound<T, Function>& bound) const { return bound.hash(); }
};

#endif  // WEAKCACHE_WEAKREF_WEAK_BIND_H_
