// SPDX-License-Identifier: Apache-2.0
// WeakValueMap<K, V>: finds large objects that are in use, and keeps none alive.
//
// Why not unordered_map<K, std::weak_ptr<V>>: its dead entries stay until somebody scans for them,
// and each pins the memory of its make_shared object. Here an object's memory goes back when its
// last Ref goes, and its entry leaves by itself: the release puts it on a queue, and every later
// operation that adds or removes under a key takes up to four entries off that queue.
//
//   weakcache::WeakValueMap<std::string, Image> images;
//   weakcache::Ref<Image> cover =
//       images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
//   images.get("cover");      // the same object, while anybody holds it
//   cover.reset();            // ~Image runs, its memory goes back
//   images.get("cover");      // null
//
// WeakValueMap<std::string, std::shared_ptr<Image>> does the same with std::shared_ptr (and with
// any handle that weakref/handle_traits.h is specialised for), as a drop-in for the map above.
// Those tell nobody of their end, so such an operation looks at the next four entries instead, and
// size() counts the dead that are still there. While objects come and go, at most about a third as
// many dead entries are left as there are live ones; after many ends at once the last leaves within
// a quarter as many operations as there are entries. Look-ups, being const, remove nothing.
//
// Thread safety: thread-compatible: const operations may run at once on any threads, others need
// exclusive access; objects may be released on any thread at any time, whatever the map is doing.
//
// Differences from absl::flat_hash_map
//  - Values are handed in and out as strong references; get() replaces find(), which could only
//    hand out something that dies under the caller.
//  - Iteration visits the live objects, holds each while it stands on it, and survives insertion,
//    erasure and expiry meanwhile. Entries do not move, but for the map's own move; only where an
//    object that the map has created is replaced, or one that it creates replaces another, there
//    is a new entry, which an iteration may visit too, or miss.
//  - A look-up between an object's last release and the end of its destructor is a miss and may
//    create a new object for the key; both exist then until that destructor is through.
//  - Object and map may go in either order, on any threads; the map's destructor waits for nobody.
//  - Values' and keys' destructors may use the map, and end it; but not end it inside pop() or an
//    operation on many entries, iteration too. Hash, equality and key copies must not use it.
//  - An object that is released inside 32 nested destructions counts until the thread gets to it
//    (see weakref/ref.h).
//  - The counts of an object that the map has created are in its entry. After the map's end they
//    keep a page of entries (eight or up to 64 KB) until the last such object, and the last WeakRef
//    to one, has gone.
//  - The allocator, which is for entries, goes along with a move or swap. Its memory must outlive
//    the map, those pages, and releases of the map's objects that have begun on other threads at
//    the map's end; the last of these, on its thread, gives it back.
//
// Every operation on one key leaves the map as it was if an allocation, the hash, the equality or a
// constructor throws; one on many keys stops there. More than 2^28 entries abort.
//
// Complexity: O(1) amortised, unless stated. An insertion adds one entry and removes up to four
// expired ones, whose places are used again.
#ifndef WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_
#define WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/weak_container.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache {

template <typename K, typename V, typename Hash = internal::DefaultHash<K>,
          typename Equal = internal::DefaultEqual<K>, typename Allocator = std::allocator<char>>
class WeakValueMap
    : private internal::WeakContainer<internal::HandleFor<V>, K,
                                      internal::PayloadLifetime::kUntilPurge,
                                      internal::KeyFunctions<Hash, Equal>, Allocator> {
  using Strong = internal::HandleFor<V>;
  using Weak = typename HandleTraits<Strong>::weak_type;
  using Base = internal::WeakContainer<Strong, K, internal::PayloadLifetime::kUntilPurge,
                                       internal::KeyFunctions<Hash, Equal>, Allocator>;
  using Base::keys_;
  using Base::table_;
  using typename Base::Slot;
  template <typename Key>
  using LookupKey = internal::LookupKey<K, Hash, Equal, Key>;

 public:
  // What an iterator gives; both references are good until it moves on or ends, or the entry is
  // erased.
  struct Entry {
    Entry(const Slot& slot, const Strong& referent) : key(slot.payload()), value(referent) {}
    const K& key;
    const Strong& value;
  };

  using key_type = K;
  using mapped_type = Strong;  // a Ref<V>; V itself if that is a handle
  using hasher = Hash;
  using key_equal = Equal;
  using const_iterator = typename Base::template Iterator<Entry>;
  using iterator = const_iterator;
  using typename Base::allocator_type;
  using typename Base::size_type;

  WeakValueMap() requires std::default_initializable<Hash> : WeakValueMap(Hash()) {}
  explicit WeakValueMap(const Allocator& allocator) : WeakValueMap(Hash(), Equal(), allocator) {}
  explicit WeakValueMap(Hash hash, Equal equal = Equal(), const Allocator& allocator = Allocator())
      : Base({std::move(hash), std::move(equal)}, allocator) {}
  WeakValueMap(WeakValueMap&&) noexcept = default;
  WeakValueMap& operator=(WeakValueMap&&) noexcept = default;

  using Base::CheckInvariantsForTesting;
  using Base::clear;
  using Base::empty;
  using Base::get_allocator;
  using Base::purge;
  using Base::reserve;
  using Base::shrink_to_fit;
  using Base::size;

  // The object under the key, or null.
  template <typename Key = K>
  [[nodiscard]] Strong get(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const Slot* const slot = Find(keys_.HashOf(lookup), lookup);
    return slot == nullptr ? Strong() : slot->Lock();
  }

  // The object may be gone when this has returned: to use it, get() it.
  template <typename Key = K>
  [[nodiscard]] bool contains(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const Slot* const slot = Find(keys_.HashOf(lookup), lookup);
    return slot != nullptr && !slot->expired();
  }

  // The object under the key; if there is none, what `factory()` makes: an object or a handle,
  // which is entered unless it is null. The factory may use the map; if it enters an object under
  // this very key itself, that one is returned.
  template <typename Key = K, typename Factory>
  Strong get_or_create(Key&& key, Factory&& factory) {
    return GetOrMake(std::forward<Key>(key),
                     [&] { return internal::MakeObjectBy<Strong>(std::forward<Factory>(factory)); })
        .first;
  }

  // The object under the key and false, or one made from `args` and true.
  template <typename Key = K, typename... Args>
  std::pair<Strong, bool> try_emplace(Key&& key, Args&&... args) {
    return GetOrMake(std::forward<Key>(key),
                     [&] { return internal::MakeObject<Strong>(std::forward<Args>(args)...); });
  }

  // Enters `value` unless there is an object under the key. Returns the object that is there now,
  // and whether it is `value`; if it is not, and nobody else holds `value`, that ends here.
  // Precondition, also below: `value` owns an object.
  template <typename Key = K>
  std::pair<Strong, bool> insert(Key&& key, Strong value) {
    internal::CheckOwns(value, "WeakValueMap::insert");
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    return InsertHashed(hash, lookup, std::forward<Key>(key), std::move(value));
  }

  // Enters `value` in place of what is there. True if there was no object.
  template <typename Key = K>
  bool insert_or_assign(Key&& key, const Strong& value) {
    internal::CheckOwns(value, "WeakValueMap::insert_or_assign");
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    Slot* const present = Find(hash, lookup);
    const bool inserted = present == nullptr || present->expired();
    if (present != nullptr && table_.Replace(present, value)) return inserted;
    InsertNew(hash, std::forward<Key>(key), value, present);
    return inserted;
  }

  // Enters an object made from `args` in place of what is there; returns it.
  template <typename Key = K, typename... Args>
  Strong emplace_or_assign(Key&& key, Args&&... args) {
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    auto made = internal::MakeObject<Strong>(std::forward<Args>(args)...);
    Slot* const replaced = Find(hash, lookup);
    return InsertNew(hash, std::forward<Key>(key), std::move(made), replaced);
  }

  // How many objects left the map: 0 or 1. They live on if somebody holds them.
  template <typename Key = K>
  size_type erase(const Key& key) {
    return EraseSlotIf(key, [](const Slot&) { return true; });
  }

  // Removes the object only if it is `expected` (a Ref or WeakRef, or the like), so that a
  // destructor or a slow thread can't remove its successor.
  template <typename Key = K>
  size_type erase(const Key& key, const Weak& expected) {
    return EraseSlotIf(key, [&](const Slot& slot) { return slot.SameOwner(expected); });
  }

  // Removes the objects for which `condition(key, value)` is true, and returns how many. The
  // condition must not change the map. O(the most entries that there were), as all that follow.
  template <typename Condition>
  size_type erase_if(Condition&& condition) {
    return Base::EraseIf(begin(), "WeakValueMap::erase_if",
                         [&](const Entry& entry) { return condition(entry.key, entry.value); });
  }

  // Removes the object under the key from the map and returns it, or null.
  template <typename Key = K>
  Strong extract(const Key& key) {
    Strong extracted;
    EraseSlotIf(key, [&](const Slot& slot) {
      extracted = slot.Lock();
      return true;
    });
    return extracted;
  }

  // Removes any object from the map and returns it with its key, or nothing if there is none. O(1)
  // amortised over a loop that empties the map.
  std::optional<std::pair<K, Strong>> pop() {
    std::optional<std::pair<K, Strong>> popped;
    while (Slot* const slot = table_.NextToPop()) {
      if (Strong value = slot->Lock(); value.get() != nullptr) {
        popped.emplace(std::move(slot->payload()), std::move(value));
      }
      table_.Erase(slot);
      if (popped.has_value()) break;
    }
    return popped;
  }

  template <typename Condition>
  friend size_type erase_if(WeakValueMap& map, Condition&& condition) {
    return map.erase_if(std::forward<Condition>(condition));
  }

  // Enters all objects of `other`, in place of those under the same keys, which it copies.
  template <typename OtherHash, typename OtherEqual, typename OtherAllocator>
  void update(const WeakValueMap<K, V, OtherHash, OtherEqual, OtherAllocator>& other) {
    if (static_cast<const void*>(&other) == this) return;
    for (const auto& [key, value] : other) insert_or_assign(key, value);
  }

  // Moves the objects of `other` here, except those whose keys have an object here. Copies the
  // keys. An entry that a destructor changes meanwhile, in `other`, stays there as it then is.
  template <typename OtherHash, typename OtherEqual, typename OtherAllocator>
  void merge(WeakValueMap<K, V, OtherHash, OtherEqual, OtherAllocator>& other) {
    if (static_cast<const void*>(&other) == this) return;
    Base::MoveEach(other, other.table_, [&](const auto& entry) {
      return InsertHashed(HashToWrite(entry.key), entry.key, entry.key, entry.value).second;
    });
  }

  // Copies of the keys of the live objects; the objects; both. (These and the copies below need
  // keys that can be copied.)
  std::vector<K> keys() const {
    return Base::template Collect<K>(begin(), [](const Entry& entry) { return entry.key; });
  }
  std::vector<Strong> values() const {
    return Base::template Collect<Strong>(begin(), [](const Entry& entry) { return entry.value; });
  }
  std::vector<std::pair<K, Strong>> snapshot() const {
    return Base::template Collect<std::pair<K, Strong>>(
        begin(), [](const Entry& entry) { return std::pair<K, Strong>(entry.key, entry.value); });
  }
  // A map of the same live objects, which keeps none alive either.
  WeakValueMap clone() const {
    WeakValueMap clone(keys_.hash, keys_.equal, table_.allocator());
    clone.reserve(size());
    clone.update(*this);
    return clone;
  }

  // Calls `visit(key, value)` for each live object. It may change the map, see iteration above.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const auto& [key, value] : *this) visit(key, value);
  }

  const_iterator begin() const { return const_iterator(&table_); }
  std::default_sentinel_t end() const { return {}; }

  // Whether both have the same objects under the same keys.
  friend bool operator==(const WeakValueMap& a, const WeakValueMap& b) {
    return a.IsIn(b) && b.IsIn(a);
  }

  hasher hash_function() const { return keys_.hash; }
  key_equal key_eq() const { return keys_.equal; }

  void swap(WeakValueMap& other) noexcept { Base::swap(other); }
  friend void swap(WeakValueMap& a, WeakValueMap& b) noexcept { a.swap(b); }

 private:
  template <typename OtherK, typename OtherV, typename OtherHash, typename OtherEqual,
            typename OtherAllocator>
  friend class WeakValueMap;  // for merge

  // The hash, of a key whose entry will be written to.
  template <typename Lookup>
  uint32_t HashToWrite(const Lookup& key) const {
    const uint32_t hash = keys_.HashOf(key);
    table_.Prefetch(hash);
    return hash;
  }

  template <typename Lookup>
  Slot* Find(uint32_t hash, const Lookup& key) const {
    const auto matches = [&](const Slot& slot) { return keys_.equal(slot.payload(), key); };
    if constexpr (internal::kIsCheapToCompare<K, Equal>) {
      return table_.FindWithoutHashCheck(hash, matches);
    } else {
      return table_.Find(hash, matches);
    }
  }

  // The object and whether it is new.
  template <typename Key, typename Make>
  std::pair<Strong, bool> GetOrMake(Key&& key, Make&& make) {
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    Slot* const expired = Find(hash, lookup);
    if (expired != nullptr) {
      if (Strong present = expired->Lock(); present.get() != nullptr) {
        return {std::move(present), false};
      }
    }
    const uint64_t version = table_.version();
    auto made = make();
    if (made.get() == nullptr) return {Strong(), false};
    if constexpr (std::is_same_v<decltype(made), Strong>) {
      internal::CheckOwns(made, "WeakValueMap::get_or_create");
    }
    if (table_.version() != version) {
      return InsertHashed(hash, lookup, std::forward<Key>(key), std::move(made));
    }
    return {InsertNew(hash, std::forward<Key>(key), std::move(made), expired), true};
  }

  // As insert(). An expired entry under the key makes way.
  template <typename Lookup, typename Key, typename Made>
  std::pair<Strong, bool> InsertHashed(uint32_t hash, const Lookup& lookup, Key&& key, Made made) {
    Slot* const expired = Find(hash, lookup);
    if (expired != nullptr) {
      if (Strong present = expired->Lock(); present.get() != nullptr) {
        return {std::move(present), false};
      }
    }
    return {InsertNew(hash, std::forward<Key>(key), std::move(made), expired), true};
  }

  // The key has no entry but `replaced`, or none.
  template <typename Key, typename Made>
  Strong InsertNew(uint32_t hash, Key&& key, Made made, Slot* replaced) {
    table_.MakeRoom();
    const uint64_t version = table_.version();
    constexpr bool kIsHandle = std::is_same_v<Made, Strong>;
    auto prepared = table_.template Prepare<!kIsHandle>(std::forward<Key>(key));
    internal::Check(table_.version() == version, "WeakValueMap",
                    "a key's copy has changed the map");
    if constexpr (kIsHandle) {
      table_.Enter(std::move(prepared), hash, made, replaced);
      return made;
    } else {
      return table_.EnterEmbedded(std::move(prepared), hash, std::move(made), replaced);
    }
  }

  template <typename Key, typename Condition>
  size_type EraseSlotIf(const Key& key, Condition&& condition) {
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    Slot* const slot = Find(hash, lookup);
    if (slot == nullptr) return 0;
    const bool expired = slot->expired();
    if (!condition(*slot)) return 0;
    table_.Erase(slot);
    return expired ? 0 : 1;
  }

  bool IsIn(const WeakValueMap& other) const {
    for (const auto& [key, value] : *this) {
      if (other.get(key).get() != value.get()) return false;
    }
    return true;
  }
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_
