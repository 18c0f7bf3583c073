// SPDX-License-Identifier: Apache-2.0
// ConcurrentWeakValueMap<K, V>: finds large objects that are in use, on any thread, without a lock
// and without keeping them alive.
//
// Why not a mutex and unordered_map<K, std::weak_ptr<V>>: every look-up takes the lock, two threads
// that miss load the same object twice, and a last reference that is dropped under the lock runs a
// destructor there.
//
//   weakcache::ConcurrentWeakValueMap<std::string, Image> images;
//   weakcache::Ref<Image> cover =                              // on any thread; decoded once
//       images.get_or_create("cover", [] { return DecodeImage("cover.png"); });
//   images.get("cover");      // the same object, while anybody holds it
//   cover.reset();            // ~Image runs, its memory is freed
//   images.get("cover");      // null
//
// Thread safety: thread-safe, except for construction, moves and destruction.
//
// Main differences from WeakValueMap: there are no iterators; get_or_create makes other threads
// that ask for the same key wait; a look-up may briefly hold an unrelated object; memory stays
// until the map's end. The guide has the details.
//
// Complexity: O(1) for all operations on a key. A hit takes no lock, and writes only to the
// object's own count; if the object was inserted as a handle, also to one of its entry.
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
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

struct ConcurrentWeakValueMapOptions {
  // How many parts the map has, with a lock each: a power of two, at most 4096. 0: eight for each
  // core, at least 16.
  size_t shards = 0;
  // For how many entries the map has room from the start.
  size_t expected_size = 0;
};

// Operations on one key are linearizable, where happens-before defines which is earlier. Two live
// objects under one key exist only if one was replaced or erased, or is still inside its
// destructor: from its last release on an object is not found any more.
//
// No lock is held while a destructor or a factory runs, and either may use the map. A key is
// destroyed with its object, by the thread that drops the last reference; the key of an object that
// was inserted as a handle, when its entry is removed.
//
// Every operation that changes the map removes up to four dead entries, so nobody has to purge. The
// map keeps the memory for the most entries that it had at a time until its end.
//
// Objects may be released at any time, also after the map's end. While the map is constructed,
// moved or destroyed no other thread may call it. In a forked child it may only be used if no other
// thread was in a call of it at the time of fork().
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
  using mapped_type = Strong;
  using Options = ConcurrentWeakValueMapOptions;

  ConcurrentWeakValueMap()
      : ConcurrentWeakValueMap(internal::DefaultShards(), 0, Hash(), Equal()) {}

  // Returns a map, or InvalidArgument if an option is bad.
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

  // Takes over the entries of a map, which can then only be assigned to or destroyed; other calls
  // abort.
  ConcurrentWeakValueMap(ConcurrentWeakValueMap&&) noexcept = default;
  ConcurrentWeakValueMap& operator=(ConcurrentWeakValueMap&&) noexcept = default;

  // Returns the object under the key, or null.
  //
  // The look-up may briefly hold another object, whose key has the same 28 bits of hash or whose
  // slot has just been reused, and so drop that object's last reference. A stalled look-up delays
  // the death of at most one object.
  template <typename Key = K>
  [[nodiscard]] Strong get(const Key& key) const {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup, "ConcurrentWeakValueMap::get");
    return location.shard->Find(location.hash, keys_, lookup);
  }
  template <typename Key = K>
  [[nodiscard]] bool contains(const Key& key) const {
    return get(key).get() != nullptr;
  }

  // Returns the object under the key, or else the one that `factory()` returns, as an object or a
  // handle.
  //
  // One factory runs for a key at a time; other threads that ask for the key wait for it, and get
  // the same object. If the factory throws or returns null, they get the same exception or null,
  // nothing is entered, and the next call tries again. Throws RecursiveCreationError if the factory
  // asks for its own key, directly or by waiting, perhaps through other threads and containers, for
  // a creation that waits for this one. Other threads wait busily while the key is copied.
  template <typename Key = K, typename Factory>
  Strong get_or_create(Key&& key, Factory&& factory) {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup, "ConcurrentWeakValueMap::get_or_create");
    Strong found = location.shard->FindFast(location.hash, keys_, lookup);
    if (found.get() != nullptr) [[likely]]
      return found;
    return location.shard->FindOrCreate(location.hash, keys_, lookup, std::forward<Key>(key),
                                        std::forward<Factory>(factory));
  }

  // Enters `value` unless there is an object under the key. Returns the object under the key, and
  // whether `value` was inserted. Precondition, also of insert_or_assign: `value` owns an object.
  template <typename Key = K>
  std::pair<Strong, bool> insert(Key&& key, Strong value) {
    constexpr const char* kCall = "ConcurrentWeakValueMap::insert";
    internal::CheckOwns(value, kCall);
    Strong present = Enter(kCall, std::forward<Key>(key), value, /*replace=*/false).previous;
    if (present.get() != nullptr) return {std::move(present), false};
    return {std::move(value), true};
  }
  // Enters `value`; replaces the object under the key, if there is one. Returns `value`, and
  // whether there was none.
  template <typename Key = K>
  std::pair<Strong, bool> insert_or_assign(Key&& key, Strong value) {
    constexpr const char* kCall = "ConcurrentWeakValueMap::insert_or_assign";
    internal::CheckOwns(value, kCall);
    const bool inserted =
        Enter(kCall, std::forward<Key>(key), value, /*replace=*/true).previous.get() == nullptr;
    return {std::move(value), inserted};
  }

  // Enters an object made from `args`; replaces the one under the key, if there is one. Returns it.
  template <typename Key = K, typename... Args>
  Strong emplace_or_assign(Key&& key, Args&&... args) {
    auto made = internal::MakeObject<Strong>(std::forward<Args>(args)...);
    auto entered = Enter("ConcurrentWeakValueMap::emplace_or_assign", std::forward<Key>(key), made,
                         /*replace=*/true);
    if constexpr (std::is_same_v<decltype(made), Strong>) {
      return made;
    } else {
      return std::move(entered.current);
    }
  }

  // Removes the object under the key, which lives on if somebody holds it. Returns 1 if there was
  // one, else 0.
  template <typename Key = K>
  size_type erase(const Key& key) {
    return EraseIf(key, [](const Strong&) { return true; });
  }
  // Removes the object under the key only if it is `expected` (a Ref or WeakRef, or the like), so
  // that a destructor or a slow thread can't remove its successor.
  template <typename Key = K>
  size_type erase(const Key& key, const Weak& expected) {
    return EraseIf(key, [&](const Strong& object) {
      return HandleTraits<Strong>::SameOwner(object, expected);
    });
  }

  // Calls `visit(key, value)` for each live object: exactly once if it is in the map during the
  // whole call. No lock is held: `visit` may use the map, and take its time. O(the most entries
  // that there were).
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (Shard& shard : Shards("ConcurrentWeakValueMap::for_each")) {
      shard.ForEach(
          [&](const Entry& entry) { visit(std::as_const(entry.slot->payload()), entry.object); });
    }
  }

  // Returns the number of entries; O(shards). With Refs, an object does not count once its
  // destruction has finished; exact while no thread changes the map. With other handles, dead
  // entries count until they are purged: at most about a third of the live ones, however high the
  // peak was.
  [[nodiscard]] size_type size() const {
    size_t size = 0;
    for (const Shard& shard : Shards("ConcurrentWeakValueMap::size")) size += shard.table.size();
    return size;
  }
  [[nodiscard]] bool empty() const { return size() == 0; }

  // Removes all dead entries; returns how many. O(that number); with handles other than Ref,
  // O(size()).
  size_type purge() {
    size_t purged = 0;
    for (Shard& shard : Shards("ConcurrentWeakValueMap::purge")) purged += shard.table.Purge();
    return purged;
  }
  // Removes all objects; those that are inserted meanwhile may stay.
  void clear() {
    for (Shard& shard : Shards("ConcurrentWeakValueMap::clear")) {
      Table& table = shard.table;
      shard.ForEach([&](const Entry& entry) {
        typename Table::DeferredReleases deferred;
        typename Table::MutexLock lock(table.mutex);
        table.Remove(entry, deferred);
      });
    }
  }
  // Makes room for `size` entries, if keys spread evenly, so that no index grows until there are
  // more.
  void reserve(size_type size) {
    for (Shard& shard : Shards("ConcurrentWeakValueMap::reserve")) {
      typename Table::MutexLock lock(shard.table.mutex);
      shard.table.Reserve(shards_.RoomPerShard(size));
    }
  }

  [[nodiscard]] hasher hash_function() const { return keys_.hash; }
  [[nodiscard]] key_equal key_eq() const { return keys_.equal; }

  // Aborts, and says why, if the map is inconsistent. For tests. Precondition: no thread uses the
  // map or releases an object.
  void CheckInvariantsForTesting() const {
    for (Shard& shard : Shards("CheckInvariantsForTesting")) shard.CheckInvariantsForTesting();
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

  void CheckNotMovedFrom(const char* call) const {
    internal::Check(!shards_.moved_from(), call, "the map has been moved from");
  }
  const internal::ShardArray<Shard>& Shards(const char* call) const {
    CheckNotMovedFrom(call);
    return shards_;
  }
  template <typename Lookup>
  KeyLocation Locate(const Lookup& key, const char* call) const {
    CheckNotMovedFrom(call);
    const uint64_t hash = internal::MixedHash<Hash>(keys_.hash(key));
    return {&shards_.ForHash(hash), static_cast<uint32_t>(hash >> internal::kBitsBelowSlotHash)};
  }
  template <typename Key, typename Made>
  auto Enter(const char* call, Key&& key, Made& made, bool replace) {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup, call);
    return location.shard->Enter(location.hash, keys_, lookup, std::forward<Key>(key), made,
                                 replace);
  }
  template <typename Key, typename Condition>
  size_type EraseIf(const Key& key, Condition&& condition) {
    const LookupKey<Key> lookup = key;
    const KeyLocation location = Locate(lookup, "ConcurrentWeakValueMap::erase");
    return location.shard->EraseIf(location.hash, keys_, lookup, condition) ? 1 : 0;
  }

  internal::KeyFunctions<Hash, Equal> keys_;
  internal::ShardArray<Shard> shards_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CONCURRENT_WEAK_VALUE_MAP_H_
