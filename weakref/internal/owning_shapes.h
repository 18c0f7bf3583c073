// SPDX-License-Identifier: Apache-2.0
// The shapes of types that own their parts, by which a Tracer goes through what has no trace of its
// own.
//
// A part that lives elsewhere must not be told: somebody else's reference would count as one of the
// traced object, and what that keeps alive would look unreachable. No trait says whether a type
// owns its parts. But what owns them gives them out as constants if it is constant itself, and what
// only refers to them does not.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_OWNING_SHAPES_H_
#define WEAKCACHE_WEAKREF_INTERNAL_OWNING_SHAPES_H_

#include <array>
#include <cstddef>
#include <optional>
#include <ranges>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

namespace weakcache::internal {

template <typename T>
inline constexpr bool kIsVariant = false;
template <typename... Ts>
inline constexpr bool kIsVariant<std::variant<Ts...>> = true;
template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <typename T>
inline constexpr bool kIsStdArray = false;
template <typename T, size_t kSize>
inline constexpr bool kIsStdArray<std::array<T, kSize>> = true;

template <typename Reference>
inline constexpr bool kRefersToConst = std::is_const_v<std::remove_reference_t<Reference>>;

// Whether the type is known to own its elements, of which all references may be constant.
template <typename T>
concept KnownToOwn = std::is_array_v<T> || kIsStdArray<T> || requires {
  typename T::allocator_type;
};
template <typename Range>
using ElementOf = std::ranges::range_reference_t<Range>;
// A range that owns its elements, unlike a view or a span, which refers to those of another, and
// unlike this library's containers. A range of itself, such as a path, is none.
template <typename T>
concept OwningRange =
    std::ranges::input_range<T> && std::ranges::input_range<const T> && !std::ranges::view<T> &&
    !requires {
  typename T::Weak;
}
&&std::is_lvalue_reference_v<ElementOf<const T>> &&
    !std::is_same_v<std::remove_cvref_t<ElementOf<const T>>, T> &&
    (KnownToOwn<T> || (kRefersToConst<ElementOf<const T>> && !kRefersToConst<ElementOf<T>>));
template <typename T>
concept HoldsNothing =
    std::is_scalar_v<T> || std::is_empty_v<T> || std::is_convertible_v<const T&, std::string_view>;
// A std::optional, or its like, or a std::unique_ptr.
template <typename T>
concept OwningPointer = requires(T& changeable, const T& held) {
  requires requires {
    held.get_deleter();
  } ||(requires { held.has_value(); } &&
       (kIsOptional<T> ||
        (kRefersToConst<decltype(*held)> && !kRefersToConst<decltype(*changeable)>)));
  static_cast<bool>(held);
  *held;
};
template <typename T>
concept TupleLike = requires {
  std::tuple_size<T>::value;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_OWNING_SHAPES_H_
