// SPDX-License-Identifier: Apache-2.0
// How a container whose keys are objects finds a key: by identity or by value.
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

// Matches keys by identity: two handles match if they keep the same object alive. Two Refs match
// even if they point to different parts of it. Other handles, whose owner has no hash, must also
// point to the same part.
template <typename H>
class IdentityKeys {
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;

 public:
  static constexpr bool kHoldsFoundKey = false;
  template <typename Slot>
  struct Found {
    Slot* slot = nullptr;  // null if no key matches
  };

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

// Matches keys by the objects' equality. A look-up holds each candidate while it compares it, so
// the look-up may drop the last reference and run the candidate's destructor.
template <typename H, typename Hash, typename Equal>
class ValueKeys {
  using Object = std::remove_cv_t<ReferentOf<H>>;
  static_assert(RefuseTextByAddress<Object, Equal>::value);

 public:
  static constexpr bool kHoldsFoundKey = true;
  template <typename Slot>
  struct Found {
    Slot* slot = nullptr;
    H key{};  // held, so that the slot keeps its object
  };

  ValueKeys() = default;
  ValueKeys(Hash hash, Equal equal) : hash_(std::move(hash)), equal_(std::move(equal)) {}

  // Returns what to hash and compare for `key`: the object that a handle refers to; `key` itself if
  // hash and equality take it; otherwise an object converted from it.
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

  // Returns the slot whose object equals `key`, with that object. When it returns no slot, the
  // table has not changed since it was searched.
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
        held = H();  // may run a destructor, which may change the table
        return table.version() != version;
      });
      if (found.slot != nullptr || table.version() == version) return found;
    }
  }

 private:
  [[no_unique_address]] Hash hash_;
  [[no_unique_address]] Equal equal_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_KEY_KEY_MATCHING_H_
