// SPDX-License-Identifier: Apache-2.0
// How a container whose keys are objects finds one: by identity, or by value.
#ifndef WEAKCACHE_CACHE_INTERNAL_KEY_KEY_MATCHING_H_
#define WEAKCACHE_CACHE_INTERNAL_KEY_KEY_MATCHING_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// The object that a handle keeps alive. A Ref's is the same whichever part of it the Ref points to;
// of other handles, whose owner has no hash, the parts are different keys.
template <typename H>
class IdentityKeys {
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;

 public:
  static constexpr bool kHoldsFoundKey = false;
  template <typename Slot>
  struct Found {
    Slot* slot = nullptr;  // if there is none
  };
  template <typename Slot>
  static Found<Slot> FoundIn(Slot* slot, const H&) {
    return {slot};
  }

  template <typename Key>
  static const H& Lookup(const Key& key) requires std::same_as<Key, H> {
    return key;
  }
  template <typename Key>
  static H Lookup(const Key& key) requires(!std::same_as<Key, H>) {
    return key;
  }

  static uint32_t HashOf(const H& key) {
    using PointerHash = std::hash<const void*>;
    if constexpr (kNotifies) {
      return SlotHash<PointerHash>(key.owner_hash());
    } else {
      return SlotHash<PointerHash>(PointerHash()(key.get()));
    }
  }

  template <typename Table, typename Slot = typename Table::Slot>
  Found<Slot> Find(const Table& table, uint32_t hash, const H& key) const {
    return {table.FindWithoutHashCheck(hash, [&](const Slot& slot) {
      if constexpr (kNotifies) {
        return slot.SameOwner(key);
      } else {
        return slot.SameOwner(key) && slot.Lock().get() == key.get();
      }
    })};
  }
};

// Equality of the objects. A dead object can't be asked, so its hash is stored, and a candidate is
// held while it is compared: a look-up can turn out to be the last to hold it, and run its
// destructor.
template <typename H, typename Hash, typename Equal>
class ValueKeys {
  using Object = std::remove_cv_t<ReferentOf<H>>;

 public:
  static constexpr bool kHoldsFoundKey = true;
  template <typename Slot>
  struct Found {
    Slot* slot = nullptr;
    H key{};  // so that the slot stays what it is
  };
  template <typename Slot>
  static Found<Slot> FoundIn(Slot* slot, H key) {
    return {slot, std::move(key)};
  }

  ValueKeys() = default;
  ValueKeys(Hash hash, Equal equal) : hash_(std::move(hash)), equal_(std::move(equal)) {}

  // What to hash and compare: the object that a handle refers to; or what hash and equality take;
  // or else an object that is made for it.
  template <typename Key>
  static decltype(auto) Lookup(const Key& key) {
    if constexpr (std::is_convertible_v<const Key&, H>) {
      Check(key.get() != nullptr, "look-up by value", "the key is null");
      return static_cast<const Object&>(*key.get());
    } else if constexpr (TransparentLookup<Hash, Equal> || std::derived_from<Key, Object> ||
                         std::is_same_v<Key, Object>) {
      return (key);
    } else {
      return static_cast<Object>(key);
    }
  }

  template <typename Key>
  uint32_t HashOf(const Key& key) const {
    return SlotHash<Hash>(hash_(key));
  }

  // If it returns nothing, nothing has changed since it looked.
  template <typename Table, typename Key, typename Slot = typename Table::Slot>
  Found<Slot> Find(const Table& table, uint32_t hash, const Key& key) const {
    for (;;) {
      const uint64_t version = table.version();
      Found<Slot> found;
      table.Find(hash, [&](Slot& slot) {
        H held = slot.Lock();
        if (held.get() != nullptr && equal_(std::as_const(*held.get()), key)) {
          found = {&slot, std::move(held)};
          return true;
        }
        held = H();  // user code may run, and then the way is another
        return table.version() != version;
      });
      if (found.slot != nullptr || table.version() == version) return found;
    }
  }

 private:
  [[no_unique_address]] Hash hash_;
  [[no_unique_address]] Equal equal_;
};

// What goes with a key that is all there is to say.
struct Nothing {};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_KEY_KEY_MATCHING_H_
