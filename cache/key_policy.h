// SPDX-License-Identifier: Apache-2.0
// How a container whose keys are objects compares them: by identity, or by value.
//
//   weakcache::WeakKeyMap<Image, Thumbnail> by_object;                        // ByIdentity
//   weakcache::WeakKeyMap<Url, Page, weakcache::ByValue<>> by_equal_objects;  // absl::Hash and ==
//
// A policy is part of the container's type, so that none changes silently.
#ifndef WEAKCACHE_CACHE_KEY_POLICY_H_
#define WEAKCACHE_CACHE_KEY_POLICY_H_

namespace weakcache {

// Two keys are the same if they are one object.
struct ByIdentity {};

// Two keys are the same if the objects are equal. `Hash` and `Equal` take objects; by default
// absl::Hash, and ==.
template <typename Hash = void, typename Equal = void>
struct ByValue {};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_KEY_POLICY_H_
