// SPDX-License-Identifier: Apache-2.0
// Default hash and equality of the containers' keys, and look-up by other types than the key's.
#ifndef WEAKCACHE_CACHE_INTERNAL_KEY_KEY_LOOKUP_H_
#define WEAKCACHE_CACHE_INTERNAL_KEY_KEY_LOOKUP_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "weakcache/cache/internal/slot/hash_bits.h"

namespace weakcache::internal {

struct StringHash {
  using is_transparent = void;
  // absl::string_view may or may not be std::string_view; both are made of this.
  size_t operator()(std::string_view string) const {
    return absl::Hash<absl::string_view>()(absl::string_view(string.data(), string.size()));
  }
};

template <typename Key>
struct KeyDefaults {
  using Hash = absl::Hash<Key>;
  using Equal = std::equal_to<Key>;
};
template <>
struct KeyDefaults<std::string> {
  using Hash = StringHash;
  using Equal = std::equal_to<>;
};
template <>
struct KeyDefaults<std::string_view> : KeyDefaults<std::string> {};

template <typename T>
inline constexpr bool kIsCharacter =
    std::is_same_v<T, char> || std::is_same_v<T, wchar_t> || std::is_same_v<T, char8_t> ||
    std::is_same_v<T, char16_t> || std::is_same_v<T, char32_t>;

// Whether `Equal` compares pointers to characters by address, which finds no equal text elsewhere.
template <typename Key, typename Equal>
inline constexpr bool kComparesTextByAddress = false;
template <typename Char, typename Equal>
requires kIsCharacter<std::remove_cv_t<Char>>
inline constexpr bool kComparesTextByAddress<Char*, Equal> =
    std::is_same_v<Equal, std::equal_to<Char*>> || std::is_same_v<Equal, std::equal_to<>>;
// Refuses such keys with a message. For each container whose keys are compared by value.
template <typename Key, typename Equal>
struct RefuseTextByAddress {
  static_assert(!kComparesTextByAddress<std::remove_cv_t<Key>, Equal>,
                "keys of const char* would be compared by address: use std::string or "
                "std::string_view, or give a hash and an equality of the characters");
  static constexpr bool value = true;
};

// Whether comparing keys is as cheap as comparing their hashes.
template <typename Key, typename Equal>
inline constexpr bool kIsCheapToCompare =
    (std::is_arithmetic_v<Key> || std::is_enum_v<Key> ||
     std::is_pointer_v<Key>)&&std::is_same_v<Equal, std::equal_to<Key>>;

template <>
inline constexpr bool kIsWellMixed<StringHash> = sizeof(size_t) == 8;

// The hash and the equality of keys that the slots hold.
template <typename Hash, typename Equal>
struct KeyFunctions {
  KeyFunctions(Hash hasher, Equal key_equal)
      : hash(std::move(hasher)), equal(std::move(key_equal)) {}

  template <typename Lookup>
  uint32_t HashOf(const Lookup& key) const {
    return SlotHash<Hash>(hash(key));
  }

  [[no_unique_address]] Hash hash;
  [[no_unique_address]] Equal equal;
};

template <typename Key>
using DefaultHash = typename KeyDefaults<Key>::Hash;
template <typename Key>
using DefaultEqual = typename KeyDefaults<Key>::Equal;

// What a look-up of an `Argument` hashes and compares: the argument itself if hash and equality are
// transparent and take it; otherwise a Key converted from it.
template <typename Hash, typename Equal>
concept TransparentLookup = requires {
  typename Hash::is_transparent;
  typename Equal::is_transparent;
};
template <typename Key, typename Hash, typename Equal, typename Argument>
using LookupKey =
    std::conditional_t<TransparentLookup<Hash, Equal> &&
                           std::is_invocable_v<const Hash&, const Argument&> &&
                           std::is_invocable_v<const Equal&, const Key&, const Argument&>,
                       const std::remove_cvref_t<Argument>&, const Key&>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_KEY_KEY_LOOKUP_H_
