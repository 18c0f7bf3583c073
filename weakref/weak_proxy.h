// SPDX-License-Identifier: Apache-2.0
// WeakProxy<T>: uses an object as a pointer would, without keeping it alive between uses.
//
// Why: code that expects its object to outlive it (an observer, a child that calls its parent) need
// neither test nor lock at each use, and yet never touches a dead object: it throws.
//
//   weakcache::WeakProxy<Window> parent(window);    // window is a weakcache::Ref<Window>
//   parent->SetTitle("saved");                      // window lives until the semicolon
//   Print(*parent);                                 // void Print(const Window&): likewise
//   window.reset();
//   parent->SetTitle("lost");                       // throws ExpiredReferenceError
//
// Thread safety: as WeakRef: distinct proxies to one object may be used on any threads at once,
// also while its last Ref is being dropped; one proxy is as safe as a plain pointer.
//
// Differences from Python's weakref.proxy, and limits
//  - C++ can't overload the dot: members are reached by ->. `(*proxy).member` does not compile.
//  - Each -> and each * holds the referent to the end of the full expression and no longer.
//    `Window* raw = &parent->Self();` and `Window& window = *parent;` compile, as they would with
//    any temporary owner, and dangle if nobody else holds the object: lock weak() for such uses.
//  - *proxy gives a HeldReference<T>, which converts to T&. A function template deduces that class,
//    not T: write `(*proxy).get()`, or static_cast. `auto held = *proxy;` keeps the object alive
//    for as long as `held` stays.
//  - There is no test by `if (proxy)`: what it finds may be outdated before the braces open.
//    expired() says the same in a word that promises less; `if (auto ref = proxy.weak().lock())` is
//    the test that holds.
//  - Equality and order are by owner, not forwarded to the object; stable after its death.
//
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

// What *proxy gives: stands for a T& and keeps the object alive while it exists.
template <typename T>
class HeldReference {
 public:
  HeldReference(const HeldReference&) = delete;
  HeldReference& operator=(const HeldReference&) = delete;

  operator T&() const noexcept { return *ref_; }  // NOLINT(google-explicit-constructor)
  T& get() const noexcept { return *ref_; }

 private:
  template <typename U>
  friend class WeakProxy;

  // Precondition: not null.
  explicit HeldReference(Ref<T> ref) noexcept : ref_(std::move(ref)) {}

  const Ref<T> ref_;
};

template <typename T>
class WeakProxy {
  static_assert(std::is_object_v<T> && !std::is_array_v<T>,
                "there is nothing to reach by -> or *: use a WeakRef");

 public:
  using element_type = T;

  // Expired.
  WeakProxy() = default;
  // A null reference makes an expired proxy.
  template <internal::PointsAs<T> U>
  explicit WeakProxy(const Ref<U>& ref) noexcept : weak_(ref) {}
  template <internal::PointsAs<T> U>
  explicit WeakProxy(const WeakRef<U>& weak) noexcept : weak_(weak) {}

  // Both hold the referent until the end of the full expression, and throw ExpiredReferenceError if
  // it has expired.
  Ref<T> operator->() const { return Lock("WeakProxy::operator->"); }
  HeldReference<T> operator*() const { return HeldReference<T>(Lock("WeakProxy::operator*")); }

  // See WeakRef::expired.
  bool expired() const noexcept { return weak_.expired(); }
  const WeakRef<T>& weak() const noexcept { return weak_; }

  // By owner.
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
