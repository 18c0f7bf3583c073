// SPDX-License-Identifier: Apache-2.0
// Finalize: run a function once when an object has gone, whether or not anybody remembers asking.
//
// Why: to give back what belongs to an object but does not lie in it (a file, a texture, an entry
// in a log) without touching its class. OnExpire (weakref/expiry.h) ends with its registration; a
// finalizer needs no keeper. The C++ answer to Python's weakref.finalize.
//
//   auto finalizer = weakcache::Finalize(image, [path] { return std::remove(path.c_str()); });
//   weakcache::Finalize(image, &ReleaseTexture, texture_id);     // with bound arguments
//   if (std::optional<int> result = finalizer()) Log(*result);   // run it now, on this thread
//   image.reset();                          // ~Image runs, then what has not run yet, newest first
//
// Exactly one of these gets the function: the referent's expiry, a call through a handle, detach(),
// and the run at exit. Whoever it is runs it (or takes it) at once; nobody waits for it.
//
// Thread safety: everything here may race on any threads, also on one Finalizer, save for assigning
// to it, moving from it and destroying it.
//
// Differences from Python's weakref.finalize
//  - It does not run at exit unless asked to: {.at_exit = true}. In C++ whatever is alive at exit
//    is often a static; the function runs while it is still alive, and may use statics that have
//    been destroyed. Python's interpreter, intact at that time, can afford the other default.
//  - peek() returns the referent, not the function: while one thread looked at that, another could
//    run and destroy it.
//  - A bound argument that is a Ref to the referent itself is refused: the referent would never
//    die. A Ref in a lambda's captures, or one behind a
//    std::shared_ptr, can't be seen; it keeps the referent alive until detach(),
//    a call, or exit.
//  - Function and bound arguments are copied or moved in, and passed on as rvalues, as by
//    std::thread: std::ref for what is to be referred to. They are destroyed after the run.
//
// An exception at expiry or at exit goes to the handler of SetExpiryErrorHandler, and the others
// still run; one in a call through a handle goes to the caller.
//
// Complexity: registering is one allocation; everything is O(1), except RunFinalizersAtExit, which
// is O(those that it runs). {.at_exit = true} takes a mutex of all such finalizers for a few
// instructions when it registers and when it is claimed.
#ifndef WEAKCACHE_WEAKREF_FINALIZER_H_
#define WEAKCACHE_WEAKREF_FINALIZER_H_

#include <cstddef>
#include <memory>
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
  // Also run when the process exits, if it has not run by then: see RunFinalizersAtExit.
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

// What can be bound when no options are given.
template <typename... Arguments>
concept BoundArguments = !kOptionsFirst<Arguments...>;

}  // namespace internal

// A function with the arguments bound to it by Finalize; what detach() gives back for it.
template <typename Function, typename... Arguments>
class BoundFunction {
 public:
  template <typename F, typename First, typename... Rest>
  explicit BoundFunction(F&& function, First&& first, Rest&&... rest)
      : function_(std::forward<F>(function)),
        arguments_(std::forward<First>(first), std::forward<Rest>(rest)...) {}

  const Function& function() const { return function_; }
  const std::tuple<Arguments...>& arguments() const { return arguments_; }

  // Passes on the arguments themselves: to be called once.
  std::invoke_result_t<Function, Arguments...> operator()() && {
    return std::apply(std::move(function_), std::move(arguments_));
  }

 private:
  Function function_;
  std::tuple<Arguments...> arguments_;
};

// A handle to one finalizer, shared by its copies; it keeps neither referent nor finalizer in
// force. Finalizer<Callback> is a handle that has forgotten the referent's type.
template <typename Callback, typename T = const void>
class Finalizer {
 public:
  using callback_type = Callback;
  // Of a call: bool for a function that returns nothing, std::optional<std::reference_wrapper<R>>
  // for one that returns R&, else std::optional<R>.
  using result_type = internal::CallResult<Callback>;

  // Dead.
  Finalizer() = default;
  Finalizer(const Finalizer& other) noexcept : Finalizer(other.node_, other.pointer_) {}
  Finalizer(Finalizer&& other) noexcept
      : node_(std::exchange(other.node_, nullptr)), pointer_(other.pointer_) {}

  // Forgets the referent's type.
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

  // True until the function begins to run or is detached. Another thread may make it false at any
  // time; who sees false also sees what the referent's destructor did, if that was the reason.
  bool alive() const noexcept { return node_ != nullptr && node_->pending(); }

  // Gives the function back, which then never runs by itself; empty if it is no longer alive. If
  // moving it throws, it is lost.
  std::optional<Callback> detach() const {
    const Finalizer claimed = *this;  // the function may let go of this very handle
    if (claimed.node_ == nullptr || !claimed.node_->Claim()) return std::nullopt;
    return claimed.node_->Take();
  }

  // The referent if the finalizer is alive, else null.
  Ref<T> peek() const noexcept {
    if (!alive() || !node_->block()->TryAddStrong()) return nullptr;
    return internal::RefAccess::Adopt<T>(pointer_, node_->block());
  }

  // Runs the function now, on this thread; false or empty if it is no longer alive. The function
  // may let go of this very handle.
  result_type operator()() const {
    const Finalizer running = *this;
    if (running.node_ == nullptr || !running.node_->Claim()) return result_type();
    return running.node_->RunForResult();
  }

  // Whether both are handles to the same finalizer.
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

// Runs `function(arguments...)` once after `ref`'s referent has gone, even if nobody keeps the
// handle. Preconditions: `ref` owns an object; no argument is a Ref that owns the same one. If an
// allocation or a copy throws, nothing is registered; what was given to be moved may have been.
// Without options: Finalize(ref, function, arguments...).
template <typename T, typename Function, typename... Arguments>
auto Finalize(const Ref<T>& ref, Function&& function, FinalizerOptions options,
              Arguments&&... arguments) {
  static_assert(std::is_invocable_v<std::decay_t<Function>, std::decay_t<Arguments>...>,
                "a finalizer is called with its bound arguments only: the referent is gone");
  using Callback = typename internal::FinalizerCallbackOf<Function, Arguments...>::type;
  const Ref<T> held = ref;  // what is copied or moved below may change the caller's reference
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

// The same through a weak reference. If the referent has expired already, nothing is registered,
// the function does not run, and the handle is dead.
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

// Runs the finalizers that were registered with {.at_exit = true} and have not run, newest first,
// including those that are registered meanwhile, until there are none; returns how many this call
// ran. Their referents may be alive.
//
// std::exit and the return from main call it, by a std::atexit handler of the first such
// registration: statics whose constructors were through by then still exist. What is registered
// after that handler has run, by a static's destructor, runs at its referent's expiry or not at
// all. A program that leaves by std::_Exit or std::quick_exit may call it itself, at any time and
// on any thread. It does not wait for functions that other threads are running.
size_t RunFinalizersAtExit();

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_FINALIZER_H_
