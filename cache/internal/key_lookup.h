// Default hash and equality of the containers' keys, and look-up by other types than the key's.
#ifndef WEAKCACHE_CACHE_INTERNAL_KEY_LOOKUP_H_
#define WEAKCACHE_CACHE_INTERNAL_KEY_LOOKUP_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"

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

template <typename Key>
using DefaultHash = typename KeyDefaults<Key>::Hash;
template <typename Key>
using DefaultEqual = typename KeyDefaults<Key>::Equal;

// What a function that looks up an `Argument` works with: the argument itself if hash and equality
// take it, or else a Key made from it.
template <typename Key, typename Hash, typename Equal, typename Argument>
using LookupKey = std::conditional_t < requires {
  typename Hash::is_transparent;
  typename Equal::is_transparent;
}
, const std::remove_cvref_t<Argument>&, const Key& > ;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_KEY_LOOKUP_H_
