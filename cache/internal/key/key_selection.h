// SPDX-License-Identifier: Apache-2.0
// Maps a key policy (key_policy.h) to the class of key_matching.h that implements it.
#ifndef WEAKCACHE_CACHE_INTERNAL_KEY_KEY_SELECTION_H_
#define WEAKCACHE_CACHE_INTERNAL_KEY_KEY_SELECTION_H_

#include <type_traits>

#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/key/key_matching.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/key_policy.h"

namespace weakcache::internal {

template <typename H>
struct GivenHash {
  using Hash = H;
};
template <typename E>
struct GivenEqual {
  using Equal = E;
};

template <typename H, typename Policy>
struct KeysOf;
template <typename H>
struct KeysOf<H, ByIdentity> {
  using type = IdentityKeys<H>;
};
template <typename H, typename Hash, typename Equal>
struct KeysOf<H, ByValue<Hash, Equal>> {
  using Object = std::remove_cv_t<ReferentOf<H>>;
  using type = ValueKeys<
      H,
      typename std::conditional_t<std::is_void_v<Hash>, KeyDefaults<Object>, GivenHash<Hash>>::Hash,
      typename std::conditional_t<std::is_void_v<Equal>, KeyDefaults<Object>,
                                  GivenEqual<Equal>>::Equal>;
};
template <typename H, typename Policy>
using KeysFor = typename KeysOf<H, Policy>::type;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_KEY_KEY_SELECTION_H_
