// SPDX-License-Identifier: Apache-2.0
// OnExpire: run a callback when an object has gone.
//
// Why: a side table, a statistic or a peer that depends on an object wants to know when it dies,
// without keeping it alive and without the object knowing.
//
//   weakcache::ExpiryRegistration registration =
//       weakcache::OnExpire(image, [&] { textures.Release(id); });
//   image.reset();         // ~Image runs, its memory goes back, then the callback runs, here
//
// Destroying the registration cancels. If the callback is running on another thread just then, that
// waits for it to return, so that nothing which the callback uses goes away under it; on the
// callback's own thread it returns at once. (As std::stop_callback.) So two callbacks that run on
// two threads must not cancel each other, and a lock that the callback takes must not be held while
// cancelling.
//
// Thread safety: registering, cancelling and the last release may race on any threads; one
// ExpiryRegistration is as safe as a plain pointer.
//
//  - The callback takes no arguments: it can't see the referent, which is gone.
//  - It runs once, on the thread that dropped the last Ref (or, for deeply nested destructions,
//    when that thread gets to it). Callbacks of one object run newest first.
//  - A callback that throws does not keep the others from running: see SetExpiryErrorHandler.
//  - A callback that owns a Ref to its own referent keeps it alive for ever.
//
// Complexity: registering is one allocation; registering and cancelling are O(1).
#ifndef WEAKCACHE_WEAKREF_EXPIRY_H_
#define WEAKCACHE_WEAKREF_EXPIRY_H_

#include <exception>
#include <functional>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/call_result.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/expiry_callback.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

// What becomes of an exception that an expiry callback throws. The handler must not throw.
using ExpiryErrorHandler = void (*)(std::exception_ptr error);

// Sets the handler for all threads and returns the former one. Null stands for the default, which
// writes a line to stderr. Thread-safe.
ExpiryErrorHandler SetExpiryErrorHandler(ExpiryErrorHandler handler);

class ExpiryRegistration {
 public:
  // Registers nothing.
  ExpiryRegistration() = default;
  ExpiryRegistration(ExpiryRegistration&& other) noexcept
      : callback_(std::exchange(other.callback_, nullptr)) {}
  ExpiryRegistration& operator=(ExpiryRegistration&& other) noexcept {
    ExpiryRegistration(std::move(other)).swap(*this);
    return *this;
  }
  ~ExpiryRegistration() { reset(); }

  // Cancels, as the destructor does.
  void reset() {
    if (callback_ != nullptr) std::exchange(callback_, nullptr)->CancelOrWait();
  }
  void swap(ExpiryRegistration& other) noexcept { std::swap(callback_, other.callback_); }
  friend void swap(ExpiryRegistration& a, ExpiryRegistration& b) noexcept { a.swap(b); }

  // True until the callback has returned. Another thread may make it false at any time.
  bool active() const { return callback_ != nullptr && !callback_->done(); }

 private:
  template <typename T, typename Callback>
  friend ExpiryRegistration OnExpire(const Ref<T>& ref, Callback&& callback);

  explicit ExpiryRegistration(internal::ExpiryCallback* callback) : callback_(callback) {}

  internal::ExpiryCallback* callback_ = nullptr;
};

// Calls `callback()` once, after `ref`'s referent has been destroyed. Precondition: `ref` owns an
// object. If an allocation or the callback's copy throws, nothing is registered.
template <typename T, typename Callback>
[[nodiscard]] ExpiryRegistration OnExpire(const Ref<T>& ref, Callback&& callback) {
  static_assert(std::is_invocable_v<std::decay_t<Callback>&>,
                "an expiry callback is called without arguments: the referent is gone");
  const Ref<T> held = ref;  // the callback's copy may change the caller's reference
  internal::ControlBlock* const block = internal::RefAccess::Block(held);
  internal::Check(block != nullptr, "OnExpire", "the reference is null or owns nothing");
  internal::CheckNotNullFunction<std::decay_t<Callback>>(callback, "OnExpire");
  auto* const node = new internal::ExpiryCallbackFor<std::decay_t<Callback>>(
      block, std::forward<Callback>(callback));
  node->Register();
  return ExpiryRegistration(node);
}

// The same through a weak reference. If the referent has expired already, nothing is registered and
// the result is not active().
template <typename T, typename Callback>
[[nodiscard]] ExpiryRegistration OnExpire(const WeakRef<T>& weak, Callback&& callback) {
  const Ref<T> ref = weak.lock();
  if (internal::RefAccess::Block(ref) == nullptr) return ExpiryRegistration();
  return OnExpire(ref, std::forward<Callback>(callback));
}

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_EXPIRY_H_
