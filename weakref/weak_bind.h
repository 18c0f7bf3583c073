// SPDX-License-Identifier: Apache-2.0
// WeakBind: a callable that calls an object's method while the object lives, and keeps it not
// alive.
//
// Why: a callback list that holds [ref] { ref->OnClick(); } keeps every listener for ever, and one
// that holds a raw `this` calls the dead. The C++ answer to Python's weakref.WeakMethod.
//
//   std::function<void(Point)> on_click = weakcache::WeakBind(button, &Button::Press);
//   auto area = weakcache::WeakBind(button, [](const Button& b, int dpi) { return b.Area(dpi); });
//   std::optional<int> pixels = area(96);       // empty once the button has gone
//   button.reset();
//   on_click({3, 4});                           // does nothing
//
// Thread safety: calls may be made on any threads at once, also while the last Ref is being
// dropped, if the bound function allows it: they share it. Otherwise as safe as a plain pointer.
//
// Differences from Python's weakref.WeakMethod and from std::bind_front
//  - A call through it calls the method, while the object is held; WeakMethod gives a method to
//    call.
//  - The result is a std::optional, or true or false for a method that returns nothing. One that
//    returns R& gives std::optional<std::reference_wrapper<R>>: if it refers into the object, use
//    it only while somebody holds that. One that returns R&& gives a std::optional<R> moved from
//    it.
//  - Equal are two bindings of the same part of the same object to equal functions. Functions with
//    no ==, such as lambdas with captures, make bindings with no ==.
//  - Arguments are forwarded, and left alone if the object has gone.
//  - A binding of a weak reference that has expired already never calls.
//
// Complexity: a call adds one lock() and one release, O(1) and lock-free; binding copies or moves
// the function and allocates nothing.
#ifndef WEAKCACHE_WEAKREF_WEAK_BIND_H_
#define WEAKCACHE_WEAKREF_WEAK_BIND_H_

#include <concepts>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/call_result.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

// What WeakBind returns. Copyable if the function is.
template <typename T, typename Function>
class WeakBound {
  static_assert(std::is_object_v<T> && !std::is_array_v<T>, "there is no T& to call with");

 public:
  // Calls function(referent, arguments...), or does nothing if the referent has expired.
  template <typename... Arguments>
  auto operator()(Arguments&&... arguments) -> internal::CallResult<Function&, T&, Arguments...> {
    return CallWhileAlive(*this, std::forward<Arguments>(arguments)...);
  }
  template <typename... Arguments>
  auto operator()(Arguments&&... arguments) const
      -> internal::CallResult<const Function&, T&, Arguments...> {
    return CallWhileAlive(*this, std::forward<Arguments>(arguments)...);
  }

  // See WeakRef::expired.
  bool expired() const noexcept { return weak_.expired(); }
  const WeakRef<T>& weak() const noexcept { return weak_; }
  const Function& function() const noexcept { return function_; }

  friend bool operator==(const WeakBound& a,
                         const WeakBound& b) requires std::equality_comparable<Function> {
    return a.weak_ == b.weak_ && a.part_ == b.part_ && a.function_ == b.function_;
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
  // Only ever compared: tells apart references to different parts of one object.
  const void* part_;
  Function function_;
};

// Binds `function`, which is a member of T or takes a T& first, to `weak`'s referent.
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

#endif  // WEAKCACHE_WEAKREF_WEAK_BIND_H_
