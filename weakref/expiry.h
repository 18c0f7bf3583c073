// SPDX-License-Identifier: Apache-2.0
// OnExpire: runs a callback when an object has been destroyed.
//
// Why: a side table, a statistic or a peer that depends on an object wants to know when it dies,
// without keeping it alive and without the object knowing.
//
//   weakcache::ExpiryRegistration registration =
//       weakcache::OnExpire(image, [&] { textures.Release(id); });
//   image.reset();         // ~Image runs, its memory is freed, then the callback runs, here
//
// Thread safety: registering, cancelling and the last release may race on any threads; one
// ExpiryRegistration is as safe as a plain pointer.
//
// Resembles std::stop_callback: destroying the registration cancels, and waits for a callback that
// is running on another thread.
//
// Complexity: registering is one allocation; registering and cancelling are O(1).
#ifndef WEAKCACHE_WEAKREF_EXPIRY_H_
#define WEAKCACHE_WEAKREF_EXPIRY_H_

#include <exception>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/call_result.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/expiry_callback.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

// Handles the exception that an expiry callback or a finalizer threw. Must not throw.
using ExpiryErrorHandler = void (*)(std::exception_ptr error);

// Sets the handler of all threads and returns the former one. Null stands for the default, which
// writes a line to stderr. After an exception the other callbacks still run. Thread-safe.
ExpiryErrorHandler SetExpiryErrorHandler(ExpiryErrorHandler handler);

// Owns the registration of a callback: destroying it cancels.
//
// If the callback is running on another thread, cancelling waits for it to return, so that what the
// callback uses can be destroyed next. On the callback's own thread, cancelling returns at once.
// Two callbacks on two threads must not cancel each other, as each would wait for the other; and a
// thread that cancels must not hold a lock that the callback takes.
class ExpiryRegistration {
 public:
  // Owns no registration.
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

  // Returns whether this owns a callback that has not returned yet. Another thread may make it
  // false at any time.
  [[nodiscard]] bool active() const { return callback_ != nullptr && !callback_->done(); }

 private:
  template <typename T, typename Callback>
  friend ExpiryRegistration OnExpire(const Ref<T>& ref, Callback&& callback);

  explicit ExpiryRegistration(internal::ExpiryCallback* callback) : callback_(callback) {}

  internal::ExpiryCallback* callback_ = nullptr;
};

// Registers `callback()` to be called once, after `ref`'s referent has been destroyed and its
// memory freed, on the thread that drops the last Ref. Callbacks of one object run newest first.
// The callback can't see the referent; one that owns a Ref to the referent keeps it alive for ever.
// Precondition: `ref` owns an object. If an allocation or the callback's copy throws, nothing is
// registered.
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

// Does the same through a weak reference. If the referent has expired already, registers nothing,
// and the result is not active().
template <typename T, typename Callback>
[[nodiscard]] ExpiryRegistration OnExpire(const WeakRef<T>& weak, Callback&& callback) {
  const Ref<T> ref = weak.lock();
  if (internal::RefAccess::Block(ref) == nullptr) return ExpiryRegistration();
  return OnExpire(ref, std::forward<Callback>(callback));
}

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_EXPIRY_H_
