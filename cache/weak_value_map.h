// SPDX-License-Identifier: Apache-2.0
// WeakValueMap<K, V>: finds large objects that are in use, and keeps none of them alive.
//
// Why not unordered_map<K, std::weak_ptr<V>>: its dead entries stay until somebody scans for them,
// and each pins the memory of its make_shared object. Here an object's memory is freed when its
// last Ref is dropped, and each modifying operation removes up to four dead entries.
//
//   weakcache::WeakValueMap<std::string, Image> images;
//   weakcache::Ref<Image> cover =
//       images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
//   images.get("cover");      // the same object, while anybody holds it
//   cover.reset();            // ~Image runs, its memory is freed
//   images.get("cover");      // null
//
// WeakValueMap<std::string, std::shared_ptr<Image>> is the drop-in with std::shared_ptr.
//
// Thread safety: thread-compatible; objects may be released on any thread at any time.
//
// Differences from absl::flat_hash_map: values are strong references, and get() replaces find().
// Iteration visits live objects, holds the current one, and survives insertion, erasure and expiry.
// Map and objects may be destroyed in either order. A failed operation on one key changes nothing.
// Destructors may use the map; hash, equality and key copies must not. See docs/guide.md.
//
// Complexity: O(1) amortised unless stated otherwise.
#ifndef WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_
#define WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
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
  using Base =
      internal::WeakContainer<internal::HandleFor<V>, K, internal::PayloadLifetime::kUntilPurge,
                              internal::KeyFunctions<Hash, Equal>, Allocator>;
  static_assert(internal::RefuseTextByAddress<K, Equal>::value);
  using Base::keys_;
  using Base::table_;
  using typename Base::Slot;
  template <typename Key>
  using LookupKey = internal::LookupKey<K, Hash, Equal, Key>;

 public:
  using typename Base::Strong;  // a Ref<V>; V itself if that is a handle
  using typename Base::Weak;

  // The value of an iterator. Both references are valid until the iterator moves or is destroyed or
  // the entry is erased.
  struct Entry {
    Entry(const Slot& slot, const Strong& referent) : key(slot.payload()), value(referent) {}
    const K& key;
    const Strong& value;
  };

  using key_type = K;
  using mapped_type = Strong;
  using value_type = Entry;
  using hasher = Hash;
  using key_equal = Equal;
  using const_iterator = typename Base::template Iterator<Entry>;
  using iterator = const_iterator;
  using typename Base::allocator_type;
  using typename Base::difference_type;
  using typename Base::size_type;

  WeakValueMap() requires std::default_initializable<Hash> : WeakValueMap(Hash()) {}
  explicit WeakValueMap(const Allocator& allocator) : WeakValueMap(Hash(), Equal(), allocator) {}
  explicit WeakValueMap(Hash hash, Equal equal = Equal(), const Allocator& allocator = Allocator())
      : Base({std::move(hash), std::move(equal)}, allocator) {}
  // Enters the pairs of a key and a value in [first, last); the first one of equal keys wins.
  template <std::input_iterator Iterator, std::sentinel_for<Iterator> Sentinel>
  WeakValueMap(Iterator first, Sentinel last, Hash hash = Hash(), Equal equal = Equal(),
               const Allocator& allocator = Allocator())
      : WeakValueMap(std::move(hash), std::move(equal), allocator) {
    for (; first != last; ++first) {
      auto&& [key, value] = *first;
      insert(key, value);
    }
  }
  WeakValueMap(std::initializer_list<std::pair<K, Strong>> entries, Hash hash = Hash(),
               Equal equal = Equal(), const Allocator& allocator = Allocator())
      : WeakValueMap(entries.begin(), entries.end(), std::move(hash), std::move(equal), allocator) {
  }
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

  // Returns the object under the key, or null. Removes nothing.
  template <typename Key = K>
  [[nodiscard]] Strong get(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const Slot* const slot = Find(keys_.HashOf(lookup), lookup);
    return slot == nullptr ? Strong() : slot->Lock();
  }

  // Returns whether there is a live object under the key. It may die at any time: to use it, call
  // get().
  template <typename Key = K>
  [[nodiscard]] bool contains(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const Slot* const slot = Find(keys_.HashOf(lookup), lookup);
    return slot != nullptr && !slot->expired();
  }

  // Returns the object under the key. If there is none, enters what `factory()` returns: an object
  // or a handle. A null handle is returned but not entered. The factory may use the map; if it
  // enters an object under the same key, that object is returned. Between an object's last release
  // and the end of its destructor a new object may be created: both exist for that time.
  template <typename Key = K, typename Factory>
  Strong get_or_create(Key&& key, Factory&& factory) {
    return GetOrMake(std::forward<Key>(key),
                     [&] { return internal::MakeObjectBy<Strong>(std::forward<Factory>(factory)); })
        .first;
  }

  // Returns the object under the key and false, or a new object made from `args` and true.
  template <typename Key = K, typename... Args>
  std::pair<Strong, bool> try_emplace(Key&& key, Args&&... args) {
    return GetOrMake(std::forward<Key>(key),
                     [&] { return internal::MakeObject<Strong>(std::forward<Args>(args)...); });
  }

  // Enters `value` unless there is an object under the key. Returns the object under the key, and
  // whether it was entered. Precondition, also below: `value` owns an object.
  template <typename Key = K>
  std::pair<Strong, bool> insert(Key&& key, Strong value) {
    internal::CheckOwns(value, "WeakValueMap::insert");
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    return InsertHashed(hash, lookup, std::forward<Key>(key), std::move(value));
  }

  // Enters `value`, replacing the object under the key. Returns `value`, and whether there was no
  // object.
  template <typename Key = K>
  std::pair<Strong, bool> insert_or_assign(Key&& key, Strong value) {
    internal::CheckOwns(value, "WeakValueMap::insert_or_assign");
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    Slot* const present = Find(hash, lookup);
    const bool inserted = present == nullptr || present->expired();
    if (present != nullptr && table_.Replace(present, value)) return {std::move(value), inserted};
    return {InsertNew(hash, std::forward<Key>(key), std::move(value), present), inserted};
  }

  // Enters an object made from `args`, replacing the object under the key, and returns it.
  template <typename Key = K, typename... Args>
  Strong emplace_or_assign(Key&& key, Args&&... args) {
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashToWrite(lookup);
    const auto purged = table_.PurgeUpTo();
    auto made = internal::MakeObject<Strong>(std::forward<Args>(args)...);
    Slot* const replaced = Find(hash, lookup);
    return InsertNew(hash, std::forward<Key>(key), std::move(made), replaced);
  }

  // Removes the object under the key from the map. Returns the number of removed live objects, 0
  // or 1.
  template <typename Key = K>
  size_type erase(const Key& key) {
    return EraseSlotIf(key, [](const Slot&) { return true; });
  }

  // Removes the object under the key only if it is `expected`, a strong or weak reference. So an
  // object's destructor, or a slow thread, can't remove the object's successor.
  template <typename Key = K>
  size_type erase(const Key& key, const Weak& expected) {
    return EraseSlotIf(key, [&](const Slot& slot) { return slot.SameOwner(expected); });
  }

  // Removes the objects for which `condition(key, value)` is true, and returns their number. The
  // condition must not change the map, or the call aborts. O(the most entries that there were), as
  // are all functions below unless stated otherwise.
  template <typename Condition>
  size_type erase_if(Condition&& condition) {
    return Base::EraseIf(begin(), "WeakValueMap::erase_if",
                         [&](const Entry& entry) { return condition(entry.key, entry.value); });
  }

  // Removes the object under the key from the map and returns it, or null. O(1) amortised.
  template <typename Key = K>
  Strong take(const Key& key) {
    Strong taken;
    EraseSlotIf(key, [&](const Slot& slot) {
      taken = slot.Lock();
      return true;
    });
    return taken;
  }

  // Removes any object from the map and returns it with its key; nothing if the map is empty. O(1)
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

  // Enters each pair of a key and a value of a range or another map, like insert_or_assign.
  template <typename Range = std::initializer_list<std::pair<K, Strong>>>
  void update(const Range& entries) {
    if (static_cast<const void*>(std::addressof(entries)) == this) return;
    for (const auto& [key, value] : entries) insert_or_assign(key, value);
  }

  // Moves the objects of `other` to this map, except those whose keys have an object here. Copies
  // the keys. Keeps an entry of `other` that a destructor changes meanwhile.
  template <typename OtherHash, typename OtherEqual, typename OtherAllocator>
  void merge(WeakValueMap<K, V, OtherHash, OtherEqual, OtherAllocator>& other) {
    if (static_cast<const void*>(&other) == this) return;
    Base::MoveEach(other, other.table_, [&](const auto& entry) {
      return InsertHashed(HashToWrite(entry.key), entry.key, entry.key, entry.value).second;
    });
  }

  // Return copies of the keys of the live objects; the objects; both. They need keys that can be
  // copied, as clone() does.
  [[nodiscard]] std::vector<K> keys() const {
    return Base::template Collect<K>(begin(), [](const Entry& entry) { return entry.key; });
  }
  [[nodiscard]] std::vector<Strong> values() const {
    return Base::template Collect<Strong>(begin(), [](const Entry& entry) { return entry.value; });
  }
  [[nodiscard]] std::vector<std::pair<K, Strong>> snapshot() const {
    return Base::template Collect<std::pair<K, Strong>>(
        begin(), [](const Entry& entry) { return std::pair<K, Strong>(entry.key, entry.value); });
  }
  // Returns a map of the same live objects; it keeps none alive either.
  [[nodiscard]] WeakValueMap clone() const {
    WeakValueMap clone(keys_.hash, keys_.equal, table_.allocator());
    clone.reserve(size());
    clone.update(*this);
    return clone;
  }

  // Calls `visit(key, value)` for each live object. `visit` may change the map; entries that are
  // added meanwhile may be visited.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const auto& [key, value] : *this) visit(key, value);
  }

  [[nodiscard]] const_iterator begin() const { return const_iterator(&table_); }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }

  // Returns whether both have the same objects under the same keys.
  friend bool operator==(const WeakValueMap& a, const WeakValueMap& b) {
    return a.IsIn(b) && b.IsIn(a);
  }

  [[nodiscard]] hasher hash_function() const { return keys_.hash; }
  [[nodiscard]] key_equal key_eq() const { return keys_.equal; }

  void swap(WeakValueMap& other) noexcept { Base::swap(other); }
  friend void swap(WeakValueMap& a, WeakValueMap& b) noexcept { a.swap(b); }

 private:
  template <typename OtherK, typename OtherV, typename OtherHash, typename OtherEqual,
            typename OtherAllocator>
  friend class WeakValueMap;  // for merge

  // Returns the hash of a key whose entry will be written.
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

  // Returns the object under the key and whether it is new.
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

  // Inserts as insert() does, with the key's hash. Replaces a dead entry under the key.
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

  // Enters an object under a key that has no entry other than `replaced`, which may be null.
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
