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
//
// Thread safety: thread-compatible: const operations may run at once on any threads, others need
// exclusive access; keys may be released on any thread at any time, whatever the map is doing.
//
// Differences from absl::node_hash_map
//  - Keys are handed in and out as strong references; get() takes the place of find().
//  - Pointers to values stay valid while the key lives and is not erased, through any growth.
//  - Values are destroyed by whichever thread drops the last Ref to the key, after the key's
//    destructor.
//  - Iteration visits live keys, holds each while it stands on it, and survives insertion,
//    erasure and expiry meanwhile.
//  - Map and keys may go in either order, on any threads; the map's destructor waits for nobody.
//    Keys' and values' destructors may use the map.
//  - A key that is released inside 32 nested destructions keeps its value until the thread gets
//    to it (see weakref/ref.h).
//  - A value that holds a Ref to its own key keeps it, and itself, alive for ever.
//
// Every operation leaves the map as it was if an allocation or a constructor throws. Entries are
// limited to 2^28.
//
// Complexity: O(1) amortised, unless stated. An insertion adds one entry and removes up to four
// expired ones.
#ifndef WEAKCACHE_CACHE_WEAK_KEY_MAP_H_
#define WEAKCACHE_CACHE_WEAK_KEY_MAP_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <type_traits>
#include <utility>

#include "cache/internal/live_iterator.h"
#include "cache/internal/weak_table.h"
#include "weakref/internal/check.h"
#include "weakref/ref.h"
#include "weakref/weak_ref.h"

namespace weakcache {

template <typename K, typename V>
class WeakKeyMap {
  using Table = internal::WeakTable<K, V, internal::PayloadLifetime::kUntilReferentDies>;
  using Slot = typename Table::Slot;

  // What an iterator gives; both references are good until it moves on or the entry is erased.
  template <typename Value>
  struct BasicEntry {
    BasicEntry(Slot& slot, const Ref<K>& referent) : key(referent), value(slot.payload()) {}
    const Ref<K>& key;
    Value& value;
  };

 public:
  using Entry = BasicEntry<V>;
  using ConstEntry = BasicEntry<const V>;

  using key_type = Ref<K>;
  using mapped_type = V;
  using size_type = size_t;
  using iterator = internal::LiveIterator<Table, Ref<K>, Entry>;
  using const_iterator = internal::LiveIterator<Table, Ref<K>, ConstEntry>;

  WeakKeyMap() = default;
  WeakKeyMap(WeakKeyMap&&) noexcept = default;
  WeakKeyMap& operator=(WeakKeyMap&&) noexcept = default;

  // The value attached to the key, or null.
  [[nodiscard]] V* get(const Ref<K>& key) {
    Slot* const slot = Find(key);
    return slot == nullptr ? nullptr : &slot->payload();
  }
  [[nodiscard]] const V* get(const Ref<K>& key) const {
    const Slot* const slot = Find(key);
    return slot == nullptr ? nullptr : &slot->payload();
  }

  [[nodiscard]] bool contains(const Ref<K>& key) const { return Find(key) != nullptr; }

  // The value attached to the key; if there is none, what `factory()` returns is attached. The
  // factory may use the map; if it attaches a value to this very key itself, that one is returned.
  template <typename Factory>
  V& get_or_create(const Ref<K>& key, Factory&& factory) {
    if (V* const value = get(key)) return *value;
    const Ref<K> held = key;
    return *try_emplace(held, std::invoke(std::forward<Factory>(factory))).first;
  }

  // Attaches a value made from `args` unless there is one. Returns the one that is there now, and
  // whether it is new. Precondition, also below: `key` owns an object.
  template <typename... Args>
  std::pair<V*, bool> try_emplace(const Ref<K>& key, Args&&... args) {
    internal::Check(key != nullptr && internal::RefAccess::Block(key) != nullptr,
                    "WeakKeyMap: inserting", "the key is null or owns nothing");
    // V's constructor may change the caller's reference.
    const Ref<K> held = key;
    table_.PurgeSome();
    if (V* const value = get(held)) return {value, false};
    const auto same_key = [&](const Slot& slot, const V&) {
      return slot.referent().owner_equal(held);
    };
    const auto [slot, inserted] =
        table_.Insert(HashOf(held), same_key, held, std::forward<Args>(args)...);
    return {&slot->payload(), inserted};
  }
  std::pair<V*, bool> insert(const Ref<K>& key, V value) {
    return try_emplace(key, std::move(value));
  }

  // Attaches the value, or assigns it to the one that is there. True if there was none.
  template <typename Value = V>
  bool insert_or_assign(const Ref<K>& key, Value&& value) {
    if (V* const present = get(key)) {
      *present = std::forward<Value>(value);
      return false;
    }
    return try_emplace(key, std::forward<Value>(value)).second;
  }

  // Detaches and destroys the key's value: 0 or 1.
  size_type erase(const Ref<K>& key) {
    table_.PurgeSome();
    Slot* const slot = Find(key);
    if (slot == nullptr) return 0;
    table_.Erase(slot);
    return 1;
  }

  // Exact: without the keys whose destruction is through.
  size_type size() const { return table_.size(); }
  bool empty() const { return size() == 0; }

  // Removes what is left of the entries of all keys that have expired; returns how many. O(that
  // number).
  size_type purge() { return table_.Purge(SIZE_MAX); }
  // O(the most entries that there were).
  void clear() { table_.Clear(); }
  // Room for `count` entries, expired ones included.
  void reserve(size_type count) { table_.Reserve(count); }

  // O(the most entries that there were) for all of the iteration.
  iterator begin() { return iterator(&table_); }
  const_iterator begin() const { return const_iterator(&table_); }
  std::default_sentinel_t end() const { return {}; }

  void swap(WeakKeyMap& other) noexcept { table_.swap(other.table_); }
  friend void swap(WeakKeyMap& a, WeakKeyMap& b) noexcept { a.swap(b); }

 private:
  static uint32_t HashOf(const Ref<K>& key) { return internal::SpreadHash(key.owner_hash()); }

  Slot* Find(const Ref<K>& key) const {
    return table_.Find(HashOf(key),
                       [&](const Slot& slot) { return slot.referent().owner_equal(key); });
  }

  Table table_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WEAK_KEY_MAP_H_
