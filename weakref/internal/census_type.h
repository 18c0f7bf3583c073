// SPDX-License-Identifier: Apache-2.0
// What a Tracer and a Census know of a type, at compile time and as functions.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CENSUS_TYPE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CENSUS_TYPE_H_

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

namespace weakcache {

class Tracer;

namespace internal {

// Returns the name of T, without run-time type information.
template <typename T>
constexpr std::string_view TypeName() {
  const std::string_view function = __PRETTY_FUNCTION__;
  const size_t begin = function.find("T = ") + 4;
  const size_t semicolon = function.find("; ", begin);  // GCC goes on with other names
  const size_t end = semicolon == std::string_view::npos ? function.rfind(']') : semicolon;
  return function.substr(begin, end - begin);
}

template <typename T>
concept Traceable = requires(const T& object, Tracer& trace) {
  WeakcacheTrace(object, trace);
};
template <typename T>
concept Labelled = requires(const T& object) {
  { WeakcacheLabel(object) } -> std::convertible_to<std::string>;
};
template <typename T>
concept TellsByteSize = requires(const T& object) {
  { object.byte_size() } -> std::convertible_to<size_t>;
};

// Returns the address by which an object is known whose handles may point to any of its bases.
template <typename T>
const void* WholeObject(const T* object) {
#ifdef __cpp_rtti
  if constexpr (std::is_polymorphic_v<T>) return dynamic_cast<const void*>(object);
#endif
  return object;
}

// The functions of one type of objects.
struct CensusType {
  std::string_view name;
  void (*trace)(const void* object, Tracer& trace);
  std::string (*label)(const void* object);  // null if the type has none
  size_t (*bytes)(const void* object);
  // Returns WholeObject.
  const void* (*whole)(const void* object);
};

template <typename T>
struct CensusTypeOf {
  static void Trace(const void* object, Tracer& trace) {
    WeakcacheTrace(*static_cast<const T*>(object), trace);
  }
  static constexpr auto Label() -> std::string (*)(const void* object) {
    if constexpr (Labelled<T>) {
      return [](const void* object) -> std::string {
        return WeakcacheLabel(*static_cast<const T*>(object));
      };
    } else {
      return nullptr;
    }
  }
  static size_t Bytes(const void* object) {
    if constexpr (TellsByteSize<T>) return static_cast<const T*>(object)->byte_size();
    return sizeof(T);
  }
  static const void* Whole(const void* object) {
    return WholeObject(static_cast<const T*>(object));
  }
};

template <typename T>
inline constexpr CensusType kCensusType = {TypeName<std::remove_cv_t<T>>(), &CensusTypeOf<T>::Trace,
                                           CensusTypeOf<T>::Label(), &CensusTypeOf<T>::Bytes,
                                           &CensusTypeOf<T>::Whole};

// What a root of that type is called in reports, before its name.
template <typename T>
inline constexpr std::string_view kRootKind = "root";
template <typename T>
inline constexpr CensusType kRootType = {kRootKind<T>, &CensusTypeOf<T>::Trace, nullptr, nullptr,
                                         nullptr};

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CENSUS_TYPE_H_
