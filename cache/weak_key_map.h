// SPDX-License-Identifier: Apache-2.0
// WeakKeyMap<K, V>: attaches data to large objects from outside, for as long as they live.
//
// Why not unordered_map<const K*, V>: its values stay when their keys die, and a new object at the
// same address inherits them. Here the value is destroyed at the key's death, by the thread that
// lets the key go; the small rest of the entry leaves with a later operation.
//
//   weakcache::WeakKeyMap<Image, Thumbnail> thumbnails;
//   thumbnails.get_or_create(image, [&] { return Shrink(*image); });
//   thumbnails.get(image);    // a Thumbnail*, good for as long as `image` lives
//   image.reset();            // ~Image runs, then ~Thumbnail
//
// Keys go by identity: the object that a Ref keeps alive, whichever part of it the Ref points to.
// Or by value, if the type says so: then any key equal to one that is there finds it.
//
//   weakcache::WeakKeyMap<Font, Metrics, weakcache::ByValue<>> metrics;  // absl::Hash, ==
//   metrics.try_emplace(font);
//   if (auto found = metrics.get(Font("Serif", 12))) Use(*found);    // holds its key meanwhile
//   weakcache::Ref<Font> first = metrics.canonical_key(font);
//
// WeakKeyMap<std::shared_ptr<K>, V> takes std::shared_ptrs (see weak_value_map.h about what it
// can't do); their values go when the entry is purged. By identity, one to a part is a key of its
// own.
//
// Thread safety: thread-compatible: const operations may run at once on any threads, others need
// exclusive access; keys may be released on any thread at any time, whatever the map is doing.
//
// Differences from absl::node_hash_map
//  - Keys are handed in and out as strong references; get() takes the place of find().
//  - By value, look-ups give a HeldValue, since the caller may not hold the very key that is there.
//    They hold each candidate while they compare it, and so can be the ones to destroy it.
//  - Pointers to values stay valid while the key lives and is not erased, through any growth.
//  - Values are destroyed by whichever thread drops the last Ref to the key, after the key's
//    destructor.
//  - Iteration visits live keys, holds each while it stands on it, and survives insertion,
//    erasure and expiry meanwhile. insert_or_assign makes a new entry, which it may visit too, or
//    miss.
//  - Map and keys may go in either order, on any threads; the map's destructor waits for nobody.
//    Keys' and values' destructors may use the map, but not end it inside an operation on many
//    entries, iteration too; hash and equality must not use it.
//  - A key that is released inside 32 nested destructions keeps its value until the thread gets
//    to it (see weakref/ref.h).
//  - A value that holds a Ref to its own key keeps it, and itself, alive until it is erased:
//    find_self_references() reports such keys.
//
// The allocator, which is for entries: as of WeakValueMap. A value of more than 64 bytes has an
// allocation of its own, which goes back with it.
//
// Every operation on one key leaves the map as it was if an allocation, the hash, the equality or a
// constructor throws; one on many keys stops there. More than 2^28 entries abort.
//
// Complexity: O(1) amortised, unless stated. An insertion adds one entry and removes up to four
// expired ones.
#ifndef WEAKCACHE_CACHE_WEAK_KEY_MAP_H_
#define WEAKCACHE_CACHE_WEAK_KEY_MAP_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "weakcache/cache/held_value.h"
#include "weakcache/cache/internal/key/key_matching.h"
#include "weakcache/cache/internal/key/key_selection.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/mapped_value.h"
#include "weakcache/cache/internal/table/weak_container.h"
#include "weakcache/cache/key_policy.h"

namespace weakcache {

template <typename K, typename V, typename KeyPolicy = ByIdentity,
          typename Allocator = std::allocator<char>>
class WeakKeyMap
    : private internal::WeakContainer<internal::HandleFor<K>, internal::ValueStorage<V>,
                                      internal::PayloadLifetime::kUntilReferentDies,
                                      internal::KeysFor<internal::HandleFor<K>, KeyPolicy>,
                                      Allocator> {
  using Strong = internal::HandleFor<K>;
  using Keys = internal::KeysFor<Strong, KeyPolicy>;
  using Base =
      internal::WeakContainer<Strong, internal::ValueStorage<V>,
                              internal::PayloadLifetime::kUntilReferentDies, Keys, Allocator>;
  using Base::keys_;
  using Base::table_;
  using typename Base::Slot;

  // What an iterator gives; both references are good until it moves on or ends, or the entry
  // is erased.
  template <typename Value>
  struct BasicEntry {
    BasicEntry(Slot& slot, const Strong& referent)
        : key(referent), value(internal::ValueIn(slot.payload())) {}
    const Strong& key;
    Value& value;
  };

 public:
  using Entry = BasicEntry<V>;
  using ConstEntry = BasicEntry<const V>;

  using key_type = Strong;  // a Ref<K>; K itself if that is a handle
  using mapped_type = V;
  using iterator = typename Base::template Iterator<Entry>;
  using const_iterator = typename Base::template Iterator<ConstEntry>;
  using typename Base::allocator_type;
  using typename Base::size_type;
  // What look-ups give: a V*, or by value a HeldValue; null if there is none.
  using pointer = internal::FoundValue<Strong, V, Keys>;
  using const_pointer = internal::FoundValue<Strong, const V, Keys>;

  WeakKeyMap() requires std::default_initializable<Keys> : Base(Keys(), Allocator()) {}
  explicit WeakKeyMap(const Allocator& allocator) : Base(Keys(), allocator) {}
  // By value: with the functions to hash and compare by.
  template <typename Hash, typename Equal>
  WeakKeyMap(Hash hash, Equal equal, const Allocator& allocator = Allocator()) requires
      std::constructible_from<Keys, Hash, Equal>
      : Base(Keys(std::move(hash), std::move(equal)), allocator) {}
  WeakKeyMap(WeakKeyMap&&) noexcept = default;
  WeakKeyMap& operator=(WeakKeyMap&&) noexcept = default;

  using Base::CheckInvariantsForTesting;
  using Base::clear;
  using Base::empty;
  using Base::get_allocator;
  using Base::purge;
  using Base::reserve;
  using Base::shrink_to_fit;
  using Base::size;

  // The value attached to the key. By value, `key` is a handle, an object, or what hash and
  // equality take in its place. Precondition, of all look-ups by value: a handle is not null.
  template <typename Key = Strong>
  [[nodiscard]] pointer get(const Key& key) {
    return internal::MakeFound<pointer>(Find(key));
  }
  template <typename Key = Strong>
  [[nodiscard]] const_pointer get(const Key& key) const {
    return internal::MakeFound<const_pointer>(Find(key));
  }

  template <typename Key = Strong>
  [[nodiscard]] bool contains(const Key& key) const {
    return Find(key).slot != nullptr;
  }

  // The key that is there, by value the one equal to `key`; or null.
  template <typename Key = Strong>
  [[nodiscard]] Strong canonical_key(const Key& key) const {
    const auto found = Find(key);
    return found.slot == nullptr ? Strong() : found.slot->Lock();
  }

  // The value attached to the key (a V&; by value a HeldValue); if there is none, what `factory()`
  // returns is attached. The factory may use the map; if it attaches a value to this very key
  // itself, that one is returned.
  template <typename Factory>
  internal::GivenValue<pointer> get_or_create(const Strong& key, Factory&& factory) {
    internal::CheckOwns(key, "WeakKeyMap::get_or_create");
    using Result = internal::ResultOf<Factory>;
    return internal::Give(try_emplace(key, Result{std::forward<Factory>(factory)}).first);
  }

  // Attaches a value made from `args` unless there is one. Returns the one that is there now, and
  // whether it is new. Precondition, also below: `key` owns an object.
  template <typename... Args>
  std::pair<pointer, bool> try_emplace(const Strong& key, Args&&... args) {
    internal::CheckOwns(key, "WeakKeyMap::try_emplace");
    Strong held = key;
    const auto purged = table_.PurgeUpTo();
    auto [found, inserted] = Emplace(
        std::move(held), [] { return true; }, std::forward<Args>(args)...);
    return {internal::MakeFound<pointer>(std::move(found)), inserted};
  }
  std::pair<pointer, bool> insert(const Strong& key, V value) {
    internal::CheckOwns(key, "WeakKeyMap::insert");
    return try_emplace(key, std::move(value));
  }

  // Attaches the value, in place of one that is there. True if there was none. By value, the key
  // takes the place of the equal one too, or the new value would die with the old key.
  template <typename Value = V>
  bool insert_or_assign(const Strong& key, Value&& value) {
    internal::CheckOwns(key, "WeakKeyMap::insert_or_assign");
    const Strong held = key;
    const auto purged = table_.PurgeUpTo();
    return Assign(
        held, [] { return true; }, std::forward<Value>(value));
  }

  // Detaches and destroys the key's value: 0 or 1.
  template <typename Key = Strong>
  size_type erase(const Key& key) {
    const auto purged = table_.PurgeUpTo();
    const auto found = Find(key);
    if (found.slot == nullptr) return 0;
    table_.Erase(found.slot);
    return 1;
  }

  // Detaches the key's value and returns it.
  template <typename Key = Strong>
  std::optional<V> extract(const Key& key) {
    const auto purged = table_.PurgeUpTo();
    std::optional<V> extracted;
    const auto found = Find(key);
    if (found.slot == nullptr) return extracted;
    extracted.emplace(std::move(internal::ValueIn(found.slot->payload())));
    table_.Erase(found.slot);
    return extracted;
  }

  // Detaches any value and returns it with its key, or nothing if there is none. O(1) amortised
  // over a loop that empties the map.
  std::optional<std::pair<Strong, V>> pop() {
    std::optional<std::pair<Strong, V>> popped;
    while (Slot* const slot = table_.NextToPop()) {
      if (Strong key = slot->Lock(); key.get() != nullptr) {
        popped.emplace(std::move(key), std::move(internal::ValueIn(slot->payload())));
      }
      table_.Erase(slot);
      if (popped.has_value()) break;
    }
    return popped;
  }

  // Removes the entries for which `condition(key, value)` is true, and returns how many. The
  // condition must not change the map. O(the most entries that there were), as all that follow.
  template <typename Condition>
  size_type erase_if(Condition&& condition) {
    return Base::EraseIf(begin(), "WeakKeyMap::erase_if",
                         [&](const Entry& entry) { return condition(entry.key, entry.value); });
  }

  // Enters copies of all values of `other`, in place of those under the same keys.
  void update(const WeakKeyMap& other) {
    if (&other == this) return;
    for (const auto& [key, value] : other) {
      const auto purged = table_.PurgeUpTo();
      Assign(key, other.Unchanged(), value);
    }
  }
  // Moves the values of `other` here, except those whose keys have one here. An entry that a
  // destructor changes meanwhile, in `other`, stays there as it then is.
  void merge(WeakKeyMap& other) {
    if (&other == this) return;
    Base::MoveEach(other, other.table_, [&](const Entry& entry) {
      return Emplace(entry.key, other.Unchanged(), std::move(entry.value)).second;
    });
  }

  // The live keys, held; copies of their values; both; and a map of such copies, which keeps no key
  // alive either.
  std::vector<Strong> keys() const {
    return Base::template Collect<Strong>(begin(), [](const auto& entry) { return entry.key; });
  }
  std::vector<V> values() const {
    return Base::template Collect<V>(begin(), [](const auto& entry) { return entry.value; });
  }
  std::vector<std::pair<Strong, V>> snapshot() const {
    return Base::template Collect<std::pair<Strong, V>>(
        begin(), [](const auto& entry) { return std::pair<Strong, V>(entry.key, entry.value); });
  }
  WeakKeyMap clone() const {
    WeakKeyMap clone(keys_, table_.allocator());
    clone.reserve(size());
    clone.update(*this);
    return clone;
  }

  // For debugging: the keys that a copy of their own value would hold, which therefore can't
  // expire. Copies each value; one that can't be copied, or that holds its key in ways that a copy
  // does not, needs the other form, which asks `holds(value, key)`. No other thread copies or drops
  // references to the keys meanwhile.
  std::vector<Strong> find_self_references() const {
    return find_self_references([](const V& value, const Strong& key) {
      const auto count = key.use_count();
      [[maybe_unused]] const V copy(value);
      return key.use_count() > count;
    });
  }
  template <typename Holds>
  std::vector<Strong> find_self_references(Holds&& holds) const {
    std::vector<Strong> found;
    for (const auto& [key, value] : *this) {
      if (holds(value, key)) found.push_back(key);
    }
    return found;
  }

  // Calls `visit(key, value)` for each live key. It may change the map, see iteration above.
  template <typename Visit>
  void for_each(Visit&& visit) {
    for (const auto& [key, value] : *this) visit(key, value);
  }
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const auto& [key, value] : *this) visit(key, value);
  }

  iterator begin() { return iterator(&table_); }
  const_iterator begin() const { return const_iterator(&table_); }
  std::default_sentinel_t end() const { return {}; }

  // Whether both have equal values under the same keys.
  friend bool operator==(const WeakKeyMap& a, const WeakKeyMap& b) {
    return a.IsIn(b) && b.IsIn(a);
  }

  void swap(WeakKeyMap& other) noexcept { Base::swap(other); }
  friend void swap(WeakKeyMap& a, WeakKeyMap& b) noexcept { a.swap(b); }

 private:
  WeakKeyMap(const Keys& keys, const Allocator& allocator) : Base(keys, allocator) {}

  template <typename Key>
  auto Find(const Key& key) const {
    const auto& lookup = Keys::Lookup(key);
    return keys_.Find(table_, keys_.HashOf(lookup), lookup);
  }

  // Whether nothing has changed since, so that a value that lies here is still there.
  auto Unchanged() const {
    return [this, version = table_.version()] { return table_.version() == version; };
  }

  // Where the key's value is, and whether it is new: made from `args`, if they are `still_there`
  // when it has turned out that there is none. Before, a destructor may run (see ValueKeys).
  template <typename StillThere, typename... Args>
  auto Emplace(Strong key, StillThere still_there, Args&&... args) {
    const auto& lookup = Keys::Lookup(key);
    const uint32_t hash = keys_.HashOf(lookup);
    table_.MakeRoom();
    auto found = keys_.Find(table_, hash, lookup);
    if (found.slot != nullptr || !still_there()) return std::pair(std::move(found), false);
    const uint64_t version = table_.version();
    auto prepared = table_.Prepare(std::forward<Args>(args)...);
    // The value's constructor may have attached one. Otherwise nothing can fail any more.
    if (table_.version() != version) found = keys_.Find(table_, hash, lookup);
    const bool inserted = found.slot == nullptr;
    if (inserted) {
      Slot* const slot = table_.Enter(std::move(prepared), hash, key);
      found = Keys::FoundIn(slot, std::move(key));
    }
    return std::pair(std::move(found), inserted);
  }
  // As well, in place of what is there. True if there was none.
  template <typename StillThere, typename Value>
  bool Assign(const Strong& key, StillThere still_there, Value&& value) {
    const auto& lookup = Keys::Lookup(key);
    const uint32_t hash = keys_.HashOf(lookup);
    table_.MakeRoom();
    auto found = keys_.Find(table_, hash, lookup);
    if (!still_there()) return false;
    const uint64_t version = table_.version();
    auto prepared = table_.Prepare(std::forward<Value>(value));
    if (table_.version() != version) {
      found = {};  // first: this may be the end of a key, whose destructor may change the map
      found = keys_.Find(table_, hash, lookup);
    }
    table_.Enter(std::move(prepared), hash, key, found.slot);
    return found.slot == nullptr;
  }

  bool IsIn(const WeakKeyMap& other) const {
    for (const auto& [key, value] : *this) {
      const auto found = other.get(key);
      if (!found || !(*found == value)) return false;
    }
    return true;
  }
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WEAK_KEY_MAP_H_
