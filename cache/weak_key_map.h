// SPDX-License-Identifier: Apache-2.0
// WeakKeyMap<K, V>: attaches data to large objects from outside, for as long as they live.
//
// Why not unordered_map<const K*, V>: its values stay when their keys die, and a new object at the
// same address inherits them. Here a value is destroyed at its key's death, by the thread that
// drops the last reference; the small rest of the entry is removed by a later operation.
//
//   weakcache::WeakKeyMap<Image, Thumbnail> thumbnails;              // keys by identity
//   thumbnails.get_or_create(image, [&] { return Shrink(*image); });
//   thumbnails.get(image);    // a Thumbnail*, valid while `image` lives
//   image.reset();            // ~Image runs, then ~Thumbnail
//
//   weakcache::WeakKeyMap<Font, Metrics, weakcache::ByValue<>> metrics;  // absl::Hash, ==
//   metrics.try_emplace(font);
//   if (auto found = metrics.get(Font("Serif", 12))) Use(*found);    // holds its key meanwhile
//
// Thread safety: thread-compatible; keys may be released on any thread at any time.
//
// Differences from absl::node_hash_map: keys are strong references, and get() replaces find().
// Pointers to values are valid while the key lives and is not erased. Iteration visits live keys,
// holds the current one, and survives insertion, erasure and expiry. Map and keys may be destroyed
// in either order. A failed operation on one key changes nothing. See docs/guide.md.
//
// Complexity: O(1) amortised unless stated otherwise.
#ifndef WEAKCACHE_CACHE_WEAK_KEY_MAP_H_
#define WEAKCACHE_CACHE_WEAK_KEY_MAP_H_

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
  using Keys = internal::KeysFor<internal::HandleFor<K>, KeyPolicy>;
  using Base =
      internal::WeakContainer<internal::HandleFor<K>, internal::ValueStorage<V>,
                              internal::PayloadLifetime::kUntilReferentDies, Keys, Allocator>;
  using Base::keys_;
  using Base::table_;
  using typename Base::Slot;

 public:
  using typename Base::Strong;  // a Ref<K>; K itself if that is a handle
  using typename Base::Weak;

 private:
  // The value of an iterator. Both references are valid until the iterator moves or is destroyed or
  // the entry is erased.
  template <typename Value>
  struct BasicEntry {
    BasicEntry(Slot& slot, const Strong& referent)
        : key(referent), value(internal::ValueIn(slot.payload())) {}
    static bool IsLive(const Slot& slot) {
      return !internal::IsDeadValue<V>(internal::ValueIn(slot.payload()));
    }
    const Strong& key;
    Value& value;
  };

 public:
  using Entry = BasicEntry<V>;
  using ConstEntry = BasicEntry<const V>;

  using key_type = Strong;
  using mapped_type = V;
  using value_type = Entry;
  using iterator = typename Base::template Iterator<Entry>;
  using const_iterator = typename Base::template Iterator<ConstEntry>;
  using typename Base::allocator_type;
  using typename Base::difference_type;
  using typename Base::size_type;
  // The result of look-ups: a V* with keys by identity, a HeldValue with keys by value. Null if
  // there is no value. A HeldValue keeps the map's key alive, since the caller may hold another.
  using pointer = internal::FoundValue<Strong, V, Keys>;
  using const_pointer = internal::FoundValue<Strong, const V, Keys>;

  WeakKeyMap() requires std::default_initializable<Keys> : Base(Keys(), Allocator()) {}
  explicit WeakKeyMap(const Allocator& allocator) : Base(Keys(), allocator) {}
  // Uses this hash and this equality. For keys by value.
  template <typename Hash, typename Equal>
  WeakKeyMap(Hash hash, Equal equal, const Allocator& allocator = Allocator()) requires
      std::constructible_from<Keys, Hash, Equal>
      : Base(Keys(std::move(hash), std::move(equal)), allocator) {}
  // Enters the pairs of a key and a value in [first, last); the first one of equal keys wins.
  template <std::input_iterator Iterator, std::sentinel_for<Iterator> Sentinel>
  WeakKeyMap(Iterator first, Sentinel last, const Allocator& allocator = Allocator())
      : WeakKeyMap(allocator) {
    for (; first != last; ++first) {
      auto&& [key, value] = *first;
      try_emplace(key, value);
    }
  }
  WeakKeyMap(std::initializer_list<std::pair<Strong, V>> entries,
             const Allocator& allocator = Allocator())
      : WeakKeyMap(entries.begin(), entries.end(), allocator) {}
  WeakKeyMap(WeakKeyMap&&) noexcept = default;
  WeakKeyMap& operator=(WeakKeyMap&&) noexcept = default;

  using Base::CheckInvariantsForTesting;
  using Base::clear;
  using Base::empty;
  using Base::get_allocator;
  using Base::reserve;
  using Base::shrink_to_fit;
  using Base::size;

  // Removes all dead entries and returns their number. An entry is dead when its key is or, if the
  // value is a WeakRef or a std::weak_ptr, the value's object. Nothing finds such an entry, but
  // size() counts one with a dead value until it is purged or replaced.
  size_type purge() {
    const size_type purged = Base::purge();
    if constexpr (!internal::kIsWeakValue<V>) return purged;
    return purged + Base::EraseDead([](const Slot& slot) { return !Entry::IsLive(slot); });
  }

  // Returns the value attached to the key, or null. With keys by identity, a Ref to any part of the
  // key finds it. With keys by value, `key` is a handle that is not null, an object, or anything
  // that hash and equality take; the look-up holds each candidate while it compares it, and so may
  // drop its last reference.
  template <typename Key = Strong>
  [[nodiscard]] pointer get(const Key& key) {
    return internal::MakeFound<pointer>(FindLive(key));
  }
  template <typename Key = Strong>
  [[nodiscard]] const_pointer get(const Key& key) const {
    return internal::MakeFound<const_pointer>(FindLive(key));
  }

  template <typename Key = Strong>
  [[nodiscard]] bool contains(const Key& key) const {
    return FindLive(key).slot != nullptr;
  }

  // Returns the map's own key that matches `key`, or null.
  template <typename Key = Strong>
  [[nodiscard]] Strong canonical_key(const Key& key) const {
    const auto found = FindLive(key);
    return found.slot == nullptr ? Strong() : found.slot->Lock();
  }

  // Returns the value attached to the key: a V&, or a HeldValue with keys by value. If there is
  // none, attaches what `factory()` returns. The factory may use the map; if it attaches a value to
  // the same key, that value is returned.
  template <typename Factory>
  internal::GivenValue<pointer> get_or_create(const Strong& key, Factory&& factory) {
    internal::CheckOwns(key, "WeakKeyMap::get_or_create");
    using Result = internal::ResultOf<Factory>;
    return internal::Give(try_emplace(key, Result{std::forward<Factory>(factory)}).first);
  }

  // Attaches a value made from `args` unless the key has one. Returns the key's value, and whether
  // it is new. Precondition, also below: `key` owns an object.
  template <typename... Args>
  std::pair<pointer, bool> try_emplace(const Strong& key, Args&&... args) {
    internal::CheckOwns(key, "WeakKeyMap::try_emplace");
    Strong held = key;
    const auto purged = table_.PurgeUpTo();
    return Attach<false>(std::move(held), kStillThere, std::forward<Args>(args)...);
  }
  std::pair<pointer, bool> insert(const Strong& key, V value) {
    internal::CheckOwns(key, "WeakKeyMap::insert");
    return try_emplace(key, std::move(value));
  }

  // Attaches the value, replacing the key's value. Returns it, and whether there was none. With
  // keys by value, `key` replaces the equal key too, or the new value would die with the old key.
  template <typename Value = V>
  std::pair<pointer, bool> insert_or_assign(const Strong& key, Value&& value) {
    internal::CheckOwns(key, "WeakKeyMap::insert_or_assign");
    Strong held = key;
    const auto purged = table_.PurgeUpTo();
    return Attach<true>(std::move(held), kStillThere, std::forward<Value>(value));
  }

  // Detaches and destroys the key's value. Returns the number of values removed, 0 or 1.
  template <typename Key = Strong>
  size_type erase(const Key& key) {
    const auto purged = table_.PurgeUpTo();
    const auto found = Find(key);
    if (found.slot == nullptr) return 0;
    const bool live = Entry::IsLive(*found.slot);
    table_.Erase(found.slot);
    return live ? 1 : 0;
  }

  // Detaches the key's value and returns it; nothing if there is none.
  template <typename Key = Strong>
  std::optional<V> take(const Key& key) {
    const auto purged = table_.PurgeUpTo();
    std::optional<V> taken;
    const auto found = Find(key);
    if (found.slot == nullptr) return taken;
    if (Entry::IsLive(*found.slot)) {
      taken.emplace(std::move(internal::ValueIn(found.slot->payload())));
    }
    table_.Erase(found.slot);
    return taken;
  }

  // Detaches any value and returns it with its key, or nothing. O(1) amortised, in a loop.
  std::optional<std::pair<Strong, V>> pop() {
    std::optional<std::pair<Strong, V>> popped;
    while (Slot* const slot = table_.NextToPop()) {
      Strong key = slot->Lock();  // until the slot is erased: its destructor may use the map
      if (key.get() != nullptr && Entry::IsLive(*slot)) {
        popped.emplace(std::move(key), std::move(internal::ValueIn(slot->payload())));
      }
      table_.Erase(slot);
      if (popped.has_value()) break;
    }
    return popped;
  }

  // Removes the entries for which `condition(key, value)` is true, and returns their number. The
  // condition must not change the map, or the call aborts. O(the most entries that there were), as
  // are all functions below.
  template <typename Condition>
  size_type erase_if(Condition&& condition) {
    return Base::EraseIf(begin(), "WeakKeyMap::erase_if",
                         [&](const Entry& entry) { return condition(entry.key, entry.value); });
  }

  // Attaches copies of all values of another map or a range of pairs, like insert_or_assign.
  void update(const WeakKeyMap& other) {
    if (&other == this) return;
    for (const auto& [key, value] : other) {
      const auto purged = table_.PurgeUpTo();
      Attach<true>(key, other.Unchanged(), value);
    }
  }
  template <typename Range = std::initializer_list<std::pair<Strong, V>>>
  void update(const Range& entries) {
    for (const auto& [key, value] : entries) insert_or_assign(key, value);
  }
  // Moves the values of `other` to this map, except those whose keys have one here. Keeps an entry
  // of `other` that a destructor changes meanwhile.
  void merge(WeakKeyMap& other) {
    if (&other == this) return;
    Base::MoveEach(other, other.table_, [&](const Entry& entry) {
      return Attach<false>(entry.key, other.Unchanged(), std::move(entry.value)).second;
    });
  }

  // Return the live keys; copies of their values; both; a map of the copies with weak keys.
  [[nodiscard]] std::vector<Strong> keys() const {
    return Base::template Collect<Strong>(begin(), [](const auto& entry) { return entry.key; });
  }
  [[nodiscard]] std::vector<V> values() const {
    return Base::template Collect<V>(begin(), [](const auto& entry) { return entry.value; });
  }
  [[nodiscard]] std::vector<std::pair<Strong, V>> snapshot() const {
    return Base::template Collect<std::pair<Strong, V>>(
        begin(), [](const auto& entry) { return std::pair<Strong, V>(entry.key, entry.value); });
  }
  [[nodiscard]] WeakKeyMap clone() const {
    WeakKeyMap clone(keys_, table_.allocator());
    clone.reserve(size());
    clone.update(*this);
    return clone;
  }

  // Returns the keys that their own values keep alive. For debugging. The first form copies each
  // value and checks whether that adds a reference to the key; the second form asks `holds(value,
  // key)`. No other thread may copy or drop references to the keys meanwhile.
  [[nodiscard]] std::vector<Strong> find_self_references() const {
    return find_self_references([](const V& value, const Strong& key) {
      const auto count = key.use_count();
      [[maybe_unused]] const V copy(value);
      return key.use_count() > count;
    });
  }
  template <typename Holds>
  [[nodiscard]] std::vector<Strong> find_self_references(Holds&& holds) const {
    std::vector<Strong> found;
    for (const auto& [key, value] : *this) {
      if (holds(value, key)) found.push_back(key);
    }
    return found;
  }

  // Calls `visit(key, value)` for each live key. `visit` may change the map; entries that are added
  // meanwhile may be visited.
  template <typename Visit>
  void for_each(Visit&& visit) {
    for (const auto& [key, value] : *this) visit(key, value);
  }
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const auto& [key, value] : *this) visit(key, value);
  }

  [[nodiscard]] iterator begin() { return iterator(&table_); }
  [[nodiscard]] const_iterator begin() const { return const_iterator(&table_); }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }

  // Returns whether both have equal values under the same keys.
  friend bool operator==(const WeakKeyMap& a, const WeakKeyMap& b) {
    return a.IsIn(b) && b.IsIn(a);
  }

  void swap(WeakKeyMap& other) noexcept { Base::swap(other); }
  friend void swap(WeakKeyMap& a, WeakKeyMap& b) noexcept { a.swap(b); }

 private:
  WeakKeyMap(const Keys& keys, const Allocator& allocator) : Base(keys, allocator) {}

  // Returns the key's entry, even if its value is dead.
  template <typename Key>
  auto Find(const Key& key) const {
    const auto& lookup = Keys::Lookup(key);
    return keys_.Find(table_, keys_.HashOf(lookup), lookup);
  }
  template <typename Key>
  auto FindLive(const Key& key) const {
    auto found = Find(key);
    if constexpr (internal::kIsWeakValue<V>) {
      if (!IsLive(found)) found = {};
    }
    return found;
  }
  template <typename Found>
  static bool IsLive(const Found& found) {
    return found.slot != nullptr && Entry::IsLive(*found.slot);
  }

  static constexpr auto kStillThere = [] { return true; };
  // Returns a function that returns whether references to this map's values are still valid.
  auto Unchanged() const {
    return [this, version = table_.version()] { return table_.version() == version; };
  }

  // Returns the key's value, and whether the key had none. Attaches a value made from `args` if it
  // had none or `kAssign`, unless the look-up ran a destructor after which `still_there()` is
  // false.
  template <bool kAssign, typename StillThere, typename... Args>
  std::pair<pointer, bool> Attach(Strong key, StillThere still_there, Args&&... args) {
    const auto& lookup = Keys::Lookup(key);
    const uint32_t hash = keys_.HashOf(lookup);
    table_.MakeRoom();
    auto found = keys_.Find(table_, hash, lookup);
    if (!kAssign && IsLive(found)) return {internal::MakeFound<pointer>(std::move(found)), false};
    if (!still_there()) return {pointer(), false};
    const uint64_t version = table_.version();
    auto prepared = table_.Prepare(std::forward<Args>(args)...);
    // The value's constructor may have attached one. Otherwise nothing can fail any more.
    if (table_.version() != version) {
      found = {};  // first: the key's destructor may run and change the map
      found = keys_.Find(table_, hash, lookup);
      if (!kAssign && IsLive(found)) return {internal::MakeFound<pointer>(std::move(found)), false};
    }
    const bool inserted = !IsLive(found);
    return {Enter(std::move(prepared), hash, std::move(key), found.slot), inserted};
  }
  pointer Enter(typename Base::Table::PreparedSlot&& prepared, uint32_t hash, Strong key,
                Slot* replaced) {
    // The address first: the replaced value's destructor may erase the new entry or end the map.
    V* const value = std::addressof(internal::ValueIn(prepared.payload()));
    table_.Enter(std::move(prepared), hash, key, replaced);
    if constexpr (std::is_pointer_v<pointer>) {
      return value;
    } else {
      return pointer(std::move(key), value);
    }
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
