// WeakValueMap<K, V>: finds large objects that are in use, and keeps none alive.
//
// Why not unordered_map<K, std::weak_ptr<V>>: its dead entries stay until somebody scans for them,
// and each pins the memory of its make_shared object. Here an object's memory goes back when its
// last Ref goes, and its entry leaves by itself: the release puts it on a queue, and every later
// operation that adds or removes takes up to four entries off that queue.
//
//   weakcache::WeakValueMap<std::string, Image> images;
//   weakcache::Ref<Image> cover =
//       images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
//   images.get("cover");      // the same object, while anybody holds it
//   cover.reset();            // ~Image runs, its memory goes back
//   images.get("cover");      // null
//
// Thread safety: thread-compatible: const operations may run at once on any threads, others need
// exclusive access; objects may be released on any thread at any time, whatever the map is doing.
//
// Differences from absl::flat_hash_map
//  - Values are handed in and out as strong references; get() replaces find(), which could only
//    hand out something that dies under the caller.
//  - Iteration visits the live objects, holds each while it stands on it, and survives insertion,
//    erasure and expiry meanwhile. Entries do not move, but for the map's own move.
//  - A look-up between an object's last release and the end of its destructor is a miss and may
//    create a new object for the key; both exist then until that destructor is through.
//  - Object and map may go in either order, on any threads; the map's destructor waits for nobody.
//  - Values' and keys' destructors may use the map. Hash, equality and key copies must not.
//  - An object that is released inside 32 nested destructions counts until the thread gets to it
//    (see weakref/ref.h).
//
// Every operation leaves the map as it was if an allocation, the hash, the equality or a
// constructor throws. Entries are limited to 2^28.
//
// Complexity: O(1) amortised, unless stated. An insertion adds one entry and removes up to four
// expired ones, so those of past objects dwindle and the table does not grow while there are any.
#ifndef WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_
#define WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>

#include "cache/internal/created_ref.h"
#include "cache/internal/key_lookup.h"
#include "cache/internal/live_iterator.h"
#include "cache/internal/weak_table.h"
#include "weakref/internal/check.h"
#include "weakref/ref.h"
#include "weakref/weak_ref.h"

namespace weakcache {

template <typename K, typename V, typename Hash = internal::DefaultHash<K>,
          typename Equal = internal::DefaultEqual<K>>
class WeakValueMap {
  using Table = internal::WeakTable<V, K, internal::PayloadLifetime::kUntilPurge>;
  using Slot = typename Table::Slot;
  template <typename Key>
  using LookupKey = internal::LookupKey<K, Hash, Equal, Key>;

 public:
  // What an iterator gives; both references are good until it moves on or the entry is erased.
  struct Entry {
    Entry(const Slot& slot, const Ref<V>& referent) : key(slot.payload()), value(referent) {}
    const K& key;
    const Ref<V>& value;
  };

  using key_type = K;
  using mapped_type = Ref<V>;
  using size_type = size_t;
  using hasher = Hash;
  using key_equal = Equal;
  using const_iterator = internal::LiveIterator<Table, Ref<V>, Entry>;
  using iterator = const_iterator;

  explicit WeakValueMap(Hash hash = Hash(), Equal equal = Equal())
      : hash_(std::move(hash)), equal_(std::move(equal)) {}
  WeakValueMap(WeakValueMap&&) noexcept = default;
  WeakValueMap& operator=(WeakValueMap&& other) noexcept {
    WeakValueMap(std::move(other)).swap(*this);
    return *this;
  }

  // The object under the key, or null.
  template <typename Key = K>
  [[nodiscard]] Ref<V> get(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const Slot* const slot = Find(HashOf(lookup), lookup);
    return slot == nullptr ? Ref<V>() : slot->referent().lock();
  }

  // The object may be gone when this has returned: to use it, get() it.
  template <typename Key = K>
  [[nodiscard]] bool contains(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const Slot* const slot = Find(HashOf(lookup), lookup);
    return slot != nullptr && !slot->referent().expired();
  }

  // The object under the key; if there is none, what `factory()` makes: a V or a Ref<V>, which is
  // entered unless it is null. The factory may use the map; if it enters an object under this very
  // key itself, that one is returned.
  template <typename Key = K, typename Factory>
  Ref<V> get_or_create(Key&& key, Factory&& factory) {
    return GetOrCreate(std::forward<Key>(key), std::forward<Factory>(factory)).first;
  }

  // The object under the key and false, or one made from `args` and true.
  template <typename Key = K, typename... Args>
  std::pair<Ref<V>, bool> try_emplace(Key&& key, Args&&... args) {
    return GetOrCreate(std::forward<Key>(key),
                       [&] { return MakeRef<V>(std::forward<Args>(args)...); });
  }

  // Enters `value` unless there is an object under the key. Returns the object that is there now,
  // and whether it is `value`; if it is not, and nobody else holds `value`, that ends here.
  // Precondition, also below: `value` owns an object.
  template <typename Key = K>
  std::pair<Ref<V>, bool> insert(Key&& key, Ref<V> value) {
    CheckOwns(value, "WeakValueMap::insert");
    table_.PurgeSome();
    const LookupKey<Key> lookup = key;
    return InsertHashed(HashOf(lookup), lookup, std::forward<Key>(key), std::move(value));
  }

  // Enters `value` in place of what is there. True if there was no object.
  template <typename Key = K>
  bool insert_or_assign(Key&& key, const Ref<V>& value) {
    CheckOwns(value, "WeakValueMap::insert_or_assign");
    table_.PurgeSome();
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashOf(lookup);
    bool inserted = true;
    while (Slot* const slot = Find(hash, lookup)) {
      inserted = slot->referent().expired();
      if (table_.Replace(slot, value)) return inserted;
      table_.Erase(slot);
    }
    InsertNew(hash, std::forward<Key>(key), value);
    return inserted;
  }

  // How many objects left the map: 0 or 1. They live on if somebody holds them.
  template <typename Key = K>
  size_type erase(const Key& key) {
    return EraseIf(key, [](const Slot&) { return true; });
  }

  // Removes the object only if it is `expected`, so that a destructor or a slow thread can't remove
  // its successor.
  template <typename Key = K>
  size_type erase(const Key& key, const WeakRef<V>& expected) {
    return EraseIf(key, [&](const Slot& slot) { return slot.referent() == expected; });
  }

  // Exact: without the objects whose destruction is through.
  size_type size() const { return table_.size(); }
  bool empty() const { return size() == 0; }

  // Removes the entries of all objects that have expired; returns how many. O(that number).
  size_type purge() { return table_.Purge(SIZE_MAX); }
  // O(the most entries that there were).
  void clear() { table_.Clear(); }
  // Room for `count` entries, expired ones included.
  void reserve(size_type count) { table_.Reserve(count); }

  // O(the most entries that there were) for all of the iteration.
  const_iterator begin() const { return const_iterator(&table_); }
  std::default_sentinel_t end() const { return {}; }

  void swap(WeakValueMap& other) noexcept {
    using std::swap;
    table_.swap(other.table_);
    swap(hash_, other.hash_);
    swap(equal_, other.equal_);
  }
  friend void swap(WeakValueMap& a, WeakValueMap& b) noexcept { a.swap(b); }

 private:
  static void CheckOwns(const Ref<V>& value, const char* call) {
    internal::Check(value != nullptr && internal::RefAccess::Block(value) != nullptr, call,
                    "the reference is null or owns nothing");
  }

  template <typename Lookup>
  uint32_t HashOf(const Lookup& key) const {
    return internal::SpreadHash(hash_(key));
  }

  template <typename Lookup>
  auto Matches(const Lookup& key) const {
    return [&](const Slot& slot) { return equal_(slot.payload(), key); };
  }

  template <typename Lookup>
  Slot* Find(uint32_t hash, const Lookup& key) const {
    return table_.Find(hash, Matches(key));
  }

  // The object and whether it is new.
  template <typename Key, typename Factory>
  std::pair<Ref<V>, bool> GetOrCreate(Key&& key, Factory&& factory) {
    const LookupKey<Key> lookup = key;
    const uint32_t hash = HashOf(lookup);
    if (const Slot* const slot = Find(hash, lookup)) {
      if (Ref<V> found = slot->referent().lock()) return {std::move(found), false};
    }
    table_.PurgeSome();
    Ref<V> created = internal::CreateRef<V>(std::forward<Factory>(factory));
    if (created == nullptr) return {nullptr, false};
    CheckOwns(created, "WeakValueMap::get_or_create");
    return InsertHashed(hash, lookup, std::forward<Key>(key), std::move(created));
  }

  // As insert(). An expired entry under the key makes way.
  template <typename Lookup, typename Key>
  std::pair<Ref<V>, bool> InsertHashed(uint32_t hash, const Lookup& lookup, Key&& key,
                                       Ref<V> value) {
    while (Slot* const slot = Find(hash, lookup)) {
      if (Ref<V> present = slot->referent().lock()) return {std::move(present), false};
      table_.Erase(slot);
    }
    InsertNew(hash, std::forward<Key>(key), value);
    return {std::move(value), true};
  }

  // The key has no entry.
  template <typename Key>
  void InsertNew(uint32_t hash, Key&& key, const Ref<V>& value) {
    const auto same_key = [&](const Slot& slot, const K& other) {
      return equal_(slot.payload(), other);
    };
    table_.Insert(hash, same_key, value, std::forward<Key>(key));
  }

  template <typename Key, typename Condition>
  size_type EraseIf(const Key& key, Condition&& condition) {
    table_.PurgeSome();
    const LookupKey<Key> lookup = key;
    Slot* const slot = Find(HashOf(lookup), lookup);
    if (slot == nullptr || !condition(*slot)) return 0;
    const bool expired = slot->referent().expired();
    table_.Erase(slot);
    return expired ? 0 : 1;
  }

  Table table_;
  [[no_unique_address]] Hash hash_;
  [[no_unique_address]] Equal equal_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WEAK_VALUE_MAP_H_
