// SPDX-License-Identifier: Apache-2.0
// Finalize: runs a function once after an object's death, whether or not the handle is kept.
//
// Why: to release what belongs to an object but is not part of it (a file, a texture, an entry in a
// log) without changing its class. OnExpire (weakref/expiry.h) ends with its registration; a
// finalizer stays. The C++ answer to Python's weakref.finalize.
//
//   auto finalizer = weakcache::Finalize(image, [path] { return std::remove(path.c_str()); });
//   weakcache::Finalize(image, &ReleaseTexture, texture_id);     // with bound arguments
//   if (std::optional<int> result = finalizer()) Log(*result);   // run it now, on this thread
//   image.reset();                          // ~Image runs, then the pending ones, newest first
//
// Thread safety: all operations may race on any threads, also on one Finalizer, except assigning
// to it, moving from it and destroying it.
//
// Differences from Python's weakref.finalize: a finalizer runs at exit only with {.at_exit = true};
// peek() returns the referent, not the function; a bound argument that is a Ref to the referent is
// refused, as the referent would never die. (A Ref in a lambda's captures can't be seen: it keeps
// the referent alive until detach(), a call, or exit.)
//
// Complexity: registering is one allocation; everything is O(1), except RunFinalizersAtExit.
#ifndef WEAKCACHE_WEAKREF_FINALIZER_H_
#define WEAKCACHE_WEAKREF_FINALIZER_H_

#include <cstddef>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/call_result.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/finalizer_node.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

struct FinalizerOptions {
  // Runs the function at the exit of the process, if it has not run by then: see
  // RunFinalizersAtExit. Registering and claiming then take a mutex for a few instructions. Off by
  // default, unlike in Python: at exit the referent is often a static that is still alive, and the
  // function may use statics that have been destroyed.
  bool at_exit = false;
};

namespace internal {

template <typename U, typename T>
concept ForgettableAs = std::is_same_v<T, const void> && !std::is_same_v<U, const void>;

template <typename... Arguments>
inline constexpr bool kOptionsFirst = false;
template <typename First, typename... Rest>
inline constexpr bool kOptionsFirst<First, Rest...> =
    std::is_same_v<std::remove_cvref_t<First>, FinalizerOptions>;

// The arguments that can be bound when no options are given.
template <typename... Arguments>
concept BoundArguments = !kOptionsFirst<Arguments...>;

}  // namespace internal

// A function with the arguments that Finalize bound to it; detach() returns it.
template <typename Function, typename... Arguments>
class BoundFunction {
 public:
  template <typename F, typename First, typename... Rest>
  explicit BoundFunction(F&& function, First&& first, Rest&&... rest)
      : function_(std::forward<F>(function)),
        arguments_(std::forward<First>(first), std::forward<Rest>(rest)...) {}

  const Function& function() const { return function_; }
  const std::tuple<Arguments...>& arguments() const { return arguments_; }

  // Calls the function with the arguments as rvalues: at most once.
  std::invoke_result_t<Function, Arguments...> operator()() && {
    return std::apply(std::move(function_), std::move(arguments_));
  }

 private:
  Function function_;
  std::tuple<Arguments...> arguments_;
};

// Refers to one registered function. Copies refer to the same one. Destroying them neither cancels
// nor runs the function. Finalizer<Callback> has no referent's type.
//
// The function goes to the first of these: the death of the referent, a call of a Finalizer,
// detach(), and the run at exit. That one runs or takes the function at once; the others do
// nothing, and do not wait for it.
template <typename Callback, typename T = const void>
class Finalizer {
 public:
  using callback_type = Callback;
  // The result of a call: bool for a function that returns nothing,
  // std::optional<std::reference_wrapper<R>> for one that returns R&, otherwise std::optional<R>.
  using result_type = internal::CallResult<Callback>;

  // Makes an empty Finalizer, which is not alive.
  Finalizer() = default;
  Finalizer(const Finalizer& other) noexcept : Finalizer(other.node_, other.pointer_) {}
  Finalizer(Finalizer&& other) noexcept
      : node_(std::exchange(other.node_, nullptr)), pointer_(other.pointer_) {}

  // Converts to a handle without the referent's type.
  template <internal::ForgettableAs<T> U>
  Finalizer(const Finalizer<Callback, U>& other) noexcept  // NOLINT(google-explicit-constructor)
      : Finalizer(other.node_, other.pointer_) {}

  ~Finalizer() {
    if (node_ != nullptr) node_->DropOwner();
  }

  Finalizer& operator=(const Finalizer& other) noexcept {
    Finalizer(other).swap(*this);
    return *this;
  }
  Finalizer& operator=(Finalizer&& other) noexcept {
    Finalizer(std::move(other)).swap(*this);
    return *this;
  }
  void swap(Finalizer& other) noexcept {
    std::swap(node_, other.node_);
    std::swap(pointer_, other.pointer_);
  }
  friend void swap(Finalizer& a, Finalizer& b) noexcept { a.swap(b); }

  // Returns true until the function begins to run or is detached. Another thread may make it false
  // at any time. A caller that sees false because of the expiry also sees what the referent's
  // destructor did.
  [[nodiscard]] bool alive() const noexcept { return node_ != nullptr && node_->pending(); }

  // Returns the function, which then never runs by itself; empty if the finalizer is not alive. If
  // moving the function throws, it is lost.
  std::optional<Callback> detach() const {
    const Finalizer claimed = *this;  // the function's move may destroy this handle
    if (claimed.node_ == nullptr || !claimed.node_->Claim()) return std::nullopt;
    return claimed.node_->Take();
  }

  // Returns the referent if the finalizer is alive, otherwise null.
  [[nodiscard]] Ref<T> peek() const noexcept {
    if (!alive() || !node_->block()->TryAddStrong()) return nullptr;
    return internal::RefAccess::Adopt<T>(pointer_, node_->block());
  }

  // Runs the function now, on this thread, and passes its exception to the caller. Returns false or
  // empty if the finalizer is not alive. The function may destroy this handle.
  result_type operator()() const {
    const Finalizer running = *this;
    if (running.node_ == nullptr || !running.node_->Claim()) return result_type();
    return running.node_->RunForResult();
  }

  // Returns whether both are handles to the same finalizer.
  template <typename U>
  friend bool operator==(const Finalizer& a, const Finalizer<Callback, U>& b) noexcept {
    return a.SharesNode(b);
  }

 private:
  using Node = internal::FinalizerNodeFor<Callback>;

  template <typename OtherCallback, typename U>
  friend class Finalizer;
  template <typename U, typename Function, typename... Arguments>
  friend auto Finalize(const Ref<U>& ref, Function&& function, FinalizerOptions options,
                       Arguments&&... arguments);

  Finalizer(Node* node, std::remove_extent_t<T>* pointer) noexcept
      : node_(node), pointer_(pointer) {
    if (node_ != nullptr) node_->AddOwner();
  }
  template <typename U>
  bool SharesNode(const Finalizer<Callback, U>& other) const {
    return node_ == other.node_;
  }

  Node* node_ = nullptr;  // shared
  std::remove_extent_t<T>* pointer_ = nullptr;
};

namespace internal {

template <typename Function, typename... Arguments>
struct FinalizerCallbackOf {
  using type = BoundFunction<std::decay_t<Function>, std::decay_t<Arguments>...>;
};
template <typename Function>
struct FinalizerCallbackOf<Function> {
  using type = std::decay_t<Function>;
};

template <typename Argument>
void CheckDoesNotKeep(const ControlBlock*, const Argument&) {}
template <typename U>
void CheckDoesNotKeep(const ControlBlock* block, const Ref<U>& argument) {
  Check(RefAccess::Block(argument) != block, "Finalize",
        "a bound argument is a reference to the referent, which would never die");
}

}  // namespace internal

// Registers `function(arguments...)` to be called once after `ref`'s referent has been destroyed,
// even if the handle is not kept. Without options: Finalize(ref, function, arguments...).
//
// Function and arguments are copied or moved in and passed on as rvalues, as by std::thread (use
// std::ref for references), and destroyed after the run. An exception at expiry or at exit goes to
// the handler of SetExpiryErrorHandler, and the other finalizers still run.
//
// Preconditions: `ref` owns an object; no argument is a Ref that owns the same one. If an
// allocation or a copy throws, nothing is registered, but an rvalue argument may have been moved
// from.
template <typename T, typename Function, typename... Arguments>
auto Finalize(const Ref<T>& ref, Function&& function, FinalizerOptions options,
              Arguments&&... arguments) {
  static_assert(std::is_invocable_v<std::decay_t<Function>, std::decay_t<Arguments>...>,
                "a finalizer is called with its bound arguments only: the referent is gone");
  using Callback = typename internal::FinalizerCallbackOf<Function, Arguments...>::type;
  const Ref<T> held = ref;  // the copies and moves below may change the caller's reference
  internal::ControlBlock* const block = internal::RefAccess::Block(held);
  internal::Check(block != nullptr, "Finalize", "the reference is null or owns nothing");
  internal::CheckNotNullFunction<std::decay_t<Function>>(function, "Finalize");
  (internal::CheckDoesNotKeep(block, arguments), ...);
  if (options.at_exit) internal::FinalizerNode::PrepareForExit();
  auto* const node = new internal::FinalizerNodeFor<Callback>(
      block, options.at_exit, std::forward<Function>(function),
      std::forward<Arguments>(arguments)...);
  const Finalizer<Callback, T> handle(node, held.get());
  node->Register();
  return handle;
}

template <typename T, typename Function, typename... Arguments>
auto Finalize(const Ref<T>& ref, Function&& function,
              Arguments&&... arguments) requires internal::BoundArguments<Arguments...> {
  return Finalize(ref, std::forward<Function>(function), FinalizerOptions(),
                  std::forward<Arguments>(arguments)...);
}

// Does the same through a weak reference. If the referent has expired already, registers nothing,
// and the handle is dead.
template <typename T, typename Function, typename... Arguments>
auto Finalize(const WeakRef<T>& weak, Function&& function, FinalizerOptions options,
              Arguments&&... arguments) {
  const Ref<T> ref = weak.lock();
  using Handle = decltype(Finalize(ref, std::forward<Function>(function), options,
                                   std::forward<Arguments>(arguments)...));
  if (internal::RefAccess::Block(ref) == nullptr) return Handle();
  return Finalize(ref, std::forward<Function>(function), options,
                  std::forward<Arguments>(arguments)...);
}

template <typename T, typename Function, typename... Arguments>
auto Finalize(const WeakRef<T>& weak, Function&& function,
              Arguments&&... arguments) requires internal::BoundArguments<Arguments...> {
  return Finalize(weak, std::forward<Function>(function), FinalizerOptions(),
                  std::forward<Arguments>(arguments)...);
}

// Runs the pending finalizers that were registered with {.at_exit = true}, newest first, including
// those that are registered meanwhile. Returns how many this call ran. Their referents may be
// alive. Does not wait for functions that other threads are running. O(number of finalizers run).
//
// The first such registration installs it as a std::atexit handler, so std::exit and the return
// from main call it, before the destructors of statics that were constructed earlier. A finalizer
// that is registered after the handler has run, by a static's destructor, runs at its referent's
// expiry or not at all. A program that ends by std::_Exit or std::quick_exit may call this itself,
// at any time and on any thread.
size_t RunFinalizersAtExit();

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_FINALIZER_H_
