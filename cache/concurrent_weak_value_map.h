// SPDX-License-Identifier: Apache-2.0
// ConcurrentWeakValueMap<K, V>: finds large objects that are in use on any thread, without a lock,
// and keeps none alive.
//
// Why not a mutex and unordered_map<K, std::weak_ptr<V>>: every look-up takes the lock, two threads
// that miss load the same object twice, and a last reference that is dropped under the lock runs a
// destructor there. Here a look-up that finds its object takes no lock and writes to nothing but
// the object's own count; one thread creates an object while the others that ask for it wait; and
// nobody's destructor ever runs under a lock.
//
//   weakcache::ConcurrentWeakValueMap<std::string, Image> images;
//   weakcache::Ref<Image> cover =                              // on any thread; decoded once
//       images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
//   images.get("cover");      // the same object, while anybody holds it
//   cover.reset();            // ~Image runs, its memory goes back
//   images.get("cover");      // null
//
// Thread safety: thread-safe, except that construction, moves and destruction need it quiet: no
// other thread is in a call of the map's. Objects may be released at any time, also after its end.
//
// Operations on one key are linearizable, as far as threads' happens-before tells what is earlier.
// Two live objects under one key exist only where one was replaced or erased, or is still inside
// its destructor: from the last release on it is not found any more, also by its own destructor,
// which may use the map.
//
// Differences from WeakValueMap
//  - No iterators and no strong copies of the whole: for_each visits entries as it gets to them.
//  - get_or_create makes others wait that ask for the same key. A factory that asks for its own key
//    gets a RecursiveCreationError (and must not wait for another thread that does). What it throws
//    or a null handle goes to all that wait; nothing is left behind, and the next one tries again.
//  - A look-up holds what it finds, and for a moment may hold another object too (one whose key has
//    the same hash bits, or that has just got the entry of such a one); so any look-up may be what
//    ends an object. Until a stalled one goes on, that object stays; no other does.
//  - Others wait busily for a key's copy constructor, as get_or_create runs it.
//  - A key is destroyed with its object, on the thread that drops the last reference; the key of an
//    object that was inserted as a handle, when its entry is removed.
//  - An object that was inserted as a handle (and every std::shared_ptr) is reached through a count
//    of its entry's: a look-up writes there, too.
//  - Memory stays until the map's end: there are entries and index for the most objects that there
//    were at a time, dead ones included. Every operation that changes a shard removes up to four of
//    the dead; nobody has to purge. std::shared_ptr: it looks at the next four entries.
//
// Complexity: O(1) for all operations on a key; a shard's lock is held while its index grows, which
// readers don't notice.
#ifndef WEAKCACHE_CACHE_CONCURRENT_WEAK_VALUE_MAP_H_
#define WEAKCACHE_CACHE_CONCURRENT_WEAK_VALUE_MAP_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "weakcache/cache/internal/concurrent/concurrent_shard.h"
#include "weakcache/cache/internal/concurrent/sharding.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/recursive_creation_error.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

struct ConcurrentWeakValueMapOptions {
  // Parts with a lock each: a power of two, at most 4096. 0: eight for each core, at least 16.
  size_t shards = 0;
  // Room for so many entries from the start.
  size_t expected_size = 0;
};

template <typename K, typename V, typename Hash = internal::DefaultHash<K>,
          typename Equal = internal::DefaultEqual<K>>
class ConcurrentWeakValueMap {
  static_assert(internal::RefuseTextByAddress<K, Equal>::value);

 public:
  using key_type = K;
  using hasher = Hash;
  using key_equal = Equal;
  using size_type = size_t;
  using Strong = internal::HandleFor<V>;  // Ref<V>, or V if that is a handle
  using Weak = typename HandleTraits<Strong>::weak_type;
  using Options = ConcurrentWeakValueMapOptions;

  ConcurrentWeakValueMap()
      : ConcurrentWeakValueMap(internal::DefaultShards(), 0, Hash(), Equal()) {}

  // InvalidArgument if there is a bad option.
  static absl::StatusOr<ConcurrentWeakValueMap> Create(const Options& options, Hash hash = Hash(),
                                                       Equal equal = Equal()) {
    if (absl::Status status = internal::ValidateShards(options.shards); !status.ok()) return status;
    const size_t shards = options.shards == 0 ? internal::DefaultShards() : options.shards;
    if (options.expected_size / shards > Table::max_size() / 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected_size: ", options.expected_size, " is too many"));
    }
    return ConcurrentWeakValueMap(shards, options.expected_size, std::move(hash), std::move(equal));
  }

  // A map that was moved from can only be assigned to or destroyed.
  ConcurrentWeakValueMap(ConcurrentWeakValueMap&&) noexcept = default;
  ConcurrentWeakValueMap& operator=(ConcurrentWeakValueMap&&) noexcept = default;

  // The object under the key, or null.
  template <typename Key = K>
  Strong get(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    return location.shard->Find(location.hash, keys_, lookup);
  }
  template <typename Key = K>
  bool contains(const Key& key) const {
    return get(key).get() != nullptr;
  }

  // The object under the key, or else the one that `factory()` makes: it returns an object or a
  // handle. One factory runs for a key at a time; it runs without a lock, and may use the map.
  template <typename Key = K, typename Factory>
  Strong get_or_create(Key&& key, Factory&& factory) {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    Strong found = location.shard->FindFast(location.hash, keys_, lookup);
    if (found.get() != nullptr) [[likely]]
      return found;
    return location.shard->FindOrCreate(location.hash, keys_, lookup, std::forward<Key>(key),
                                        std::forward<Factory>(factory));
  }

  // Enters `value` unless there is an object under the key. Returns the object that is there now,
  // and whether it is `value`. Precondition, also below: `value` owns an object.
  template <typename Key = K>
  std::pair<Strong, bool> insert(Key&& key, Strong value) {
    internal::CheckOwns(value, "ConcurrentWeakValueMap::insert");
    Strong present = Enter(std::forward<Key>(key), value, /*replace=*/false).previous;
    if (present.get() != nullptr) return {std::move(present), false};
    return {std::move(value), true};
  }
  // Enters `value` in location of what is there. True if there was no object.
  template <typename Key = K>
  bool insert_or_assign(Key&& key, const Strong& value) {
    internal::CheckOwns(value, "ConcurrentWeakValueMap::insert_or_assign");
    return Enter(std::forward<Key>(key), value, /*replace=*/true).previous.get() == nullptr;
  }

  // Enters an object made from `args` in location of what is there; returns it.
  template <typename Key = K, typename... Args>
  Strong emplace_or_assign(Key&& key, Args&&... args) {
    auto made = internal::MakeObject<Strong>(std::forward<Args>(args)...);
    auto entered = Enter(std::forward<Key>(key), made, /*replace=*/true);
    if constexpr (std::is_same_v<decltype(made), Strong>) {
      return made;
    } else {
      return std::move(entered.current);
    }
  }

  // How many objects left the map: 0 or 1. They live on if somebody holds them.
  template <typename Key = K>
  size_type erase(const Key& key) {
    return EraseIf(key, [](const Strong&) { return true; });
  }
  // Removes the object only if it is `expected` (a Ref or WeakRef, or the like), so that a
  // destructor or a slow thread can't remove its successor.
  template <typename Key = K>
  size_type erase(const Key& key, const Weak& expected) {
    return EraseIf(key, [&](const Strong& object) {
      return HandleTraits<Strong>::SameOwner(object, expected);
    });
  }

  // Calls `visit(key, value)` for each live object, once for those that are in the map all along;
  // without a lock: it may use the map, and take its time. O(the most entries that there were).
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (Shard& shard : shards_) {
      shard.ForEach(
          [&](const Entry& entry) { visit(std::as_const(entry.slot->payload()), entry.object); });
    }
  }

  // Own handles: without the objects whose destruction is through, exact while nobody changes the
  // map. Others: with those of the dead that are not purged yet. O(shards).
  size_type size() const {
    size_t size = 0;
    for (const Shard& shard : shards_) size += shard.table.size();
    return size;
  }
  bool empty() const { return size() == 0; }

  // Removes the entries of all objects that have expired; returns how many. O(that number); others
  // than own handles: O(the most entries that there were).
  size_type purge() {
    size_t purged = 0;
    for (Shard& shard : shards_) {
      typename Table::DeferredReleases deferred;
      typename Table::MutexLock lock(shard.table.mutex);
      purged += shard.table.PurgeUpTo(SIZE_MAX, deferred);
    }
    return purged;
  }
  // Removes each object that is there when it gets to it.
  void clear() {
    for (Shard& shard : shards_) {
      Table& table = shard.table;
      shard.ForEach([&](const Entry& entry) {
        typename Table::DeferredReleases deferred;
        typename Table::MutexLock lock(table.mutex);
        table.Remove(entry, deferred);
      });
    }
  }
  // Lets no index grow until there are more than `size` entries (if the keys spread evenly).
  void reserve(size_type size) {
    for (Shard& shard : shards_) {
      typename Table::MutexLock lock(shard.table.mutex);
      shard.table.Reserve(shards_.RoomPerShard(size));
    }
  }

  hasher hash_function() const { return keys_.hash; }
  key_equal key_eq() const { return keys_.equal; }

  // For tests, while the map is quiet and no object is released: aborts, and says why, if the map
  // is inconsistent.
  void CheckInvariantsForTesting() const {
    for (Shard& shard : shards_) shard.CheckInvariantsForTesting();
  }

 private:
  template <typename Key>
  using LookupKey = internal::LookupKey<K, Hash, Equal, Key>;
  using Shard = internal::ConcurrentShard<Strong, K>;
  using Table = typename Shard::Table;
  using Entry = typename Shard::Entry;

  struct KeyLocation {
    Shard* shard;
    uint32_t hash;
  };

  ConcurrentWeakValueMap(size_t shards, size_t expected_size, Hash hash, Equal equal)
      : keys_(std::move(hash), std::move(equal)), shards_(shards) {
    if (expected_size != 0) reserve(expected_size);
  }

  template <typename Lookup>
  KeyLocation Locate(const Lookup& key) const {
    const uint64_t hash = internal::MixedHash<Hash>(keys_.hash(key));
    return {&shards_.ForHash(hash), static_cast<uint32_t>(hash >> internal::kBitsBelowSlotHash)};
  }
  template <typename Key, typename Made>
  auto Enter(Key&& key, Made& made, bool replace) {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    return location.shard->Enter(location.hash, keys_, lookup, std::forward<Key>(key), made,
                                 replace);
  }
  template <typename Key, typename Condition>
  size_type EraseIf(const Key& key, Condition&& condition) {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup);
    return location.shard->EraseIf(location.hash, keys_, lookup, condition) ? 1 : 0;
  }

  internal::KeyFunctions<Hash, Equal> keys_;
  internal::ShardArray<Shard> shards_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CONCURRENT_WEAK_VALUE_MAP_H_
