// SPDX-License-Identifier: Apache-2.0
// WeakProxy<T>: uses an object as a pointer would, without keeping it alive between uses.
//
// Why: code that expects its object to outlive it (an observer, a child that calls its parent)
// needs no lock() at each use, and yet never touches a dead object: the proxy throws instead.
//
//   weakcache::WeakProxy<Window> parent(window);    // window is a weakcache::Ref<Window>
//   parent->SetTitle("saved");                      // window lives until the semicolon
//   Print(*parent);                                 // void Print(const Window&): likewise
//   window.reset();
//   parent->SetTitle("lost");                       // throws ExpiredReferenceError
//
// Thread safety: distinct proxies to one object may be used on any threads at once, also while its
// last Ref is being dropped; one proxy is as safe as a plain pointer.
//
// Differences from Python's weakref.proxy: members are reached by ->, as C++ can't overload the
// dot; equality and order compare owners and are not forwarded to the object. There is no
// `if (proxy)`, as its answer could be outdated at once: use `if (auto ref = proxy.weak().lock())`.
// Under -fno-exceptions an expired proxy aborts with a message.
//
// Complexity: every operation is O(1) and lock-free; each use is one lock() and one release.
#ifndef WEAKCACHE_WEAKREF_WEAK_PROXY_H_
#define WEAKCACHE_WEAKREF_WEAK_PROXY_H_

#include <compare>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/expired_reference_error.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

// The result of *proxy: converts to a T& and keeps the object alive while it exists. A function
// template deduces this class instead of T: pass `(*proxy).get()`.
template <typename T>
class HeldReference {
 public:
  HeldReference(const HeldReference&) = delete;
  HeldReference& operator=(const HeldReference&) = delete;

  operator T&() const noexcept { return *ref_; }  // NOLINT(google-explicit-constructor)
  [[nodiscard]] T& get() const noexcept { return *ref_; }

 private:
  template <typename U>
  friend class WeakProxy;

  // Holds the referent. Precondition: `ref` is not null.
  explicit HeldReference(Ref<T> ref) noexcept : ref_(std::move(ref)) {}

  const Ref<T> ref_;
};

template <typename T>
class WeakProxy {
  static_assert(std::is_object_v<T> && !std::is_array_v<T>,
                "there is nothing to reach by -> or *: use a WeakRef");

 public:
  using element_type = T;

  // Makes an expired proxy.
  WeakProxy() = default;
  // Make a proxy of the referent; of a null reference an expired one.
  template <internal::PointsAs<T> U>
  explicit WeakProxy(const Ref<U>& ref) noexcept : weak_(ref) {}
  template <internal::PointsAs<T> U>
  explicit WeakProxy(const WeakRef<U>& weak) noexcept : weak_(weak) {}

  // Hold the referent until the end of the full expression, or throw ExpiredReferenceError if it
  // has expired. `Window* raw = &parent->Self();` and `Window& window = *parent;` compile, and
  // dangle if nobody else holds the object: lock weak() for such uses, or write `auto held =
  // *parent;`.
  Ref<T> operator->() const { return Lock("WeakProxy::operator->"); }
  HeldReference<T> operator*() const { return HeldReference<T>(Lock("WeakProxy::operator*")); }

  // Returns whether the referent has expired: see WeakRef::expired.
  [[nodiscard]] bool expired() const noexcept { return weak_.expired(); }
  [[nodiscard]] const WeakRef<T>& weak() const noexcept { return weak_; }

  // Compare owners. Stable after the referent's death.
  template <typename U>
  friend bool operator==(const WeakProxy& a, const WeakProxy<U>& b) noexcept {
    return a.weak() == b.weak();
  }
  template <typename U>
  friend std::strong_ordering operator<=>(const WeakProxy& a, const WeakProxy<U>& b) noexcept {
    return a.weak() <=> b.weak();
  }

 private:
  Ref<T> Lock(const char* call) const {
    Ref<T> ref = weak_.lock();
    if (ref == nullptr) [[unlikely]]
      internal::FailExpired(call);
    return ref;
  }

  WeakRef<T> weak_;
};

template <typename T>
WeakProxy(const Ref<T>&) -> WeakProxy<T>;
template <typename T>
WeakProxy(const WeakRef<T>&) -> WeakProxy<T>;

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_WEAK_PROXY_H_
