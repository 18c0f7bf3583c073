// SPDX-License-Identifier: Apache-2.0
// HandleTraits<H>: the operations of a strong handle that containers need.
//
// Why: a weak container should take the handles that a program has: this library's Ref, the
// std::shared_ptr of a million existing lines, or a handle of the program's own.
//
//   template <weakcache::Handle H>
//   class Observers {
//     using Traits = weakcache::HandleTraits<H>;
//    public:
//     void Add(const H& observer) { observers_.push_back(Traits::MakeWeak(observer)); }
//     template <typename Function>
//     void ForEach(Function function) {
//       for (const auto& weak : observers_) {
//         if (const H observer = Traits::Lock(weak); Traits::Owns(observer)) function(*observer);
//       }
//     }
//    private:
//     std::vector<typename Traits::weak_type> observers_;
//   };
//
// Thread safety: each function is as safe as the operation of the handle that it calls.
// Difference from std::pointer_traits: a handle owns its object, and there are weak ones to it.
// Complexity: O(1) for Ref and std::shared_ptr; only Make allocates.
#ifndef WEAKCACHE_WEAKREF_HANDLE_TRAITS_H_
#define WEAKCACHE_WEAKREF_HANDLE_TRAITS_H_

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

// Only specialisations are defined. One for a handle of your own has these members
// (tests/weakref/handle_traits_test.cc has two, one of them for boost::shared_ptr):
//
//   template <typename T>
//   struct weakcache::HandleTraits<my::Pointer<T>> {
//     using element_type = T;
//     using strong_type = my::Pointer<T>;    // keeps the object alive; null if value-initialised
//     using weak_type = my::WeakPointer<T>;  // does not; expired if value-initialised
//
//     // Whether an entry can be notified of the expiry. Only this library's handles do that; for
//     // others, each operation that adds or removes polls a few entries.
//     static constexpr bool kNotifiesExpiry = false;
//
//     static weak_type MakeWeak(const strong_type&) noexcept;
//     static strong_type Lock(const weak_type&) noexcept;  // null once expired
//     static bool Expired(const weak_type&) noexcept;      // never becomes false again
//     // Returns whether both share the ownership of one object, for each mix of the two types: an
//     // equivalence that outlives the object for as long as weak references to it remain.
//     template <typename A, typename B>
//     static bool SameOwner(const A&, const B&) noexcept;
//     // Returns false for null and for an alias without an owner: they can't expire.
//     static bool Owns(const strong_type&) noexcept;
//     template <typename... Args>
//     static strong_type Make(Args&&...);                  // a new object
//   };
template <typename H>
struct HandleTraits;

namespace internal {

template <typename Argument, typename H>
concept EitherHandle = std::same_as<Argument, typename HandleTraits<H>::strong_type> ||
    std::same_as<Argument, typename HandleTraits<H>::weak_type>;

template <typename T, typename... Args>
concept Creatable = std::is_array_v<T> ||
    (std::is_object_v<T>&& std::is_constructible_v<T, Args...>);

}  // namespace internal

template <typename T>
struct HandleTraits<Ref<T>> {
  using element_type = typename Ref<T>::element_type;
  using strong_type = Ref<T>;
  using weak_type = WeakRef<T>;

  static constexpr bool kNotifiesExpiry = true;

  static weak_type MakeWeak(const strong_type& strong) noexcept { return weak_type(strong); }
  static strong_type Lock(const weak_type& weak) noexcept { return weak.lock(); }
  static bool Expired(const weak_type& weak) noexcept { return weak.expired(); }

  template <internal::EitherHandle<strong_type> A, internal::EitherHandle<strong_type> B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return a.owner_equal(b);
  }
  static bool Owns(const strong_type& strong) noexcept {
    return internal::RefAccess::Block(strong) != nullptr;
  }

  template <typename... Args>
  requires internal::Creatable<T, Args...>
  [[nodiscard]] static strong_type Make(Args&&... args) {
    return MakeRef<T>(std::forward<Args>(args)...);
  }
};

template <typename T>
struct HandleTraits<std::shared_ptr<T>> {
  using element_type = typename std::shared_ptr<T>::element_type;
  using strong_type = std::shared_ptr<T>;
  using weak_type = std::weak_ptr<T>;

  static constexpr bool kNotifiesExpiry = false;

  static weak_type MakeWeak(const strong_type& strong) noexcept { return weak_type(strong); }
  static strong_type Lock(const weak_type& weak) noexcept { return weak.lock(); }
  static bool Expired(const weak_type& weak) noexcept { return weak.expired(); }

  template <internal::EitherHandle<strong_type> A, internal::EitherHandle<strong_type> B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return !a.owner_before(b) && !b.owner_before(a);
  }
  static bool Owns(const strong_type& strong) noexcept { return !SameOwner(strong, weak_type()); }

  template <typename... Args>
  requires internal::Creatable<T, Args...>
  [[nodiscard]] static strong_type Make(Args&&... args) {
    return std::make_shared<T>(std::forward<Args>(args)...);
  }
};

namespace internal {

template <typename Traits, typename A, typename B>
concept ComparesOwners = requires(const A& a, const B& b) {
  { Traits::SameOwner(a, b) } -> std::same_as<bool>;
  requires noexcept(Traits::SameOwner(a, b));
};

// A handle that containers can store, swap and clear.
template <typename T>
concept HandleValue = std::semiregular<T> && std::is_nothrow_move_constructible_v<T> &&
    std::is_nothrow_move_assignable_v<T>;

template <typename Traits, typename Strong, typename Weak>
concept ConvertsHandles = requires(const Strong& strong, const Weak& weak) {
  requires std::same_as<decltype(Traits::kNotifiesExpiry), const bool>;
  { strong.get() } -> std::convertible_to<typename Traits::element_type*>;
  { Traits::MakeWeak(strong) } -> std::same_as<Weak>;
  { Traits::Lock(weak) } -> std::same_as<Strong>;
  { Traits::Expired(weak) } -> std::same_as<bool>;
  { Traits::Owns(strong) } -> std::same_as<bool>;
  requires noexcept(Traits::MakeWeak(strong));
  requires noexcept(Traits::Lock(weak));
  requires noexcept(Traits::Expired(weak));
  requires noexcept(Traits::Owns(strong));
};

template <typename Traits, typename Strong = typename Traits::strong_type,
          typename Weak = typename Traits::weak_type>
concept CompleteHandleTraits =
    HandleValue<Strong> && HandleValue<Weak> && ConvertsHandles<Traits, Strong, Weak> &&
    ComparesOwners<Traits, Strong, Strong> && ComparesOwners<Traits, Strong, Weak> &&
    ComparesOwners<Traits, Weak, Strong> && ComparesOwners<Traits, Weak, Weak>;

}  // namespace internal

// A strong handle that containers take: HandleTraits<H> is specialised and complete. Make is not
// required, as its arguments depend on the object.
template <typename H>
concept Handle = internal::CompleteHandleTraits<HandleTraits<H>> &&
    std::same_as<typename HandleTraits<H>::strong_type, H>;

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_HANDLE_TRAITS_H_
