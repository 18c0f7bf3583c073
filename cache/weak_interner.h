// SPDX-License-Identifier: Apache-2.0
// WeakInterner<T>: one object for all equal values, for as long as anybody uses it.
//
// Why not a static std::set<T>: it keeps every value that was ever seen. Why not
// set<std::shared_ptr<const T>>: it does too; and with std::weak_ptr in their place the dead can't
// be compared, and stay.
//
//   weakcache::WeakInterner<std::string> names;
//   weakcache::Ref<const std::string> a = names.intern("position");
//   weakcache::Ref<const std::string> b = names.intern("position");
//   a == b;                                     // one object: equality is one comparison
//   names.contains("velocity");                 // false, and does not enter it
//
// WeakInterner<std::shared_ptr<const T>> gives std::shared_ptrs (see weak_value_map.h about what it
// can't do).
//
// Thread safety: thread-compatible: const operations may run at once on any threads, others need
// exclusive access; objects may be released on any thread at any time, whatever the interner does.
//
// Differences from boost::flyweight
//  - The interner is an object, not a global; it can go before or after what it gave.
//  - Objects are plain Refs. The memory of one of more than 32 bytes goes back with the last of
//    them; a smaller one lies in its entry, which is used again.
//  - Look-up by what the object would be made from, without making it; Intern makes it only if it
//    is new.
//  - A look-up holds each candidate while it compares it, so it can be the one to destroy it.
//    Objects' destructors may use the interner, but not end it inside an operation on many
//    objects, iteration too; hash and equality must not use it.
//
// The allocator, and what is left after the interner's end: as of WeakValueMap.
//
// Every operation leaves the interner as it was if an allocation, the hash, the equality or a
// constructor throws. More than 2^28 objects abort.
//
// Complexity: O(1) amortised, unless stated. Interning enters at most one object and removes up to
// four expired ones.
#ifndef WEAKCACHE_CACHE_WEAK_INTERNER_H_
#define WEAKCACHE_CACHE_WEAK_INTERNER_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/key/key_matching.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/weak_container.h"

namespace weakcache {

namespace internal {

// What an interner of Ts gives out: T is an object's type, or a handle to a const object.
template <typename T>
using InternedHandle = std::conditional_t<Handle<T>, HandleFor<T>, HandleFor<const T>>;
template <typename T>
using InternedObject = std::remove_cv_t<ReferentOf<InternedHandle<T>>>;
// A small object lies in its slot.
template <typename T>
using InternerPayload =
    std::conditional_t<kHasEmbeddedSlots<InternedHandle<T>> && kFitsInSlot<InternedObject<T>>,
                       ObjectInSlot<InternedObject<T>>, Nothing>;

}  // namespace internal

template <typename T, typename Hash = internal::DefaultHash<internal::InternedObject<T>>,
          typename Equal = internal::DefaultEqual<internal::InternedObject<T>>,
          typename Allocator = std::allocator<char>>
class WeakInterner
    : private internal::WeakContainer<internal::InternedHandle<T>, internal::InternerPayload<T>,
                                      internal::PayloadLifetime::kUntilPurge,
                                      internal::ValueKeys<internal::InternedHandle<T>, Hash, Equal>,
                                      Allocator> {
  using Strong = internal::InternedHandle<T>;
  using Payload = internal::InternerPayload<T>;
  using Keys = internal::ValueKeys<Strong, Hash, Equal>;
  using Base = internal::WeakContainer<Strong, Payload, internal::PayloadLifetime::kUntilPurge,
                                       Keys, Allocator>;
  using Base::keys_;
  using Base::table_;

  static_assert(std::is_const_v<internal::ReferentOf<Strong>>,
                "the objects must be const, or they would not stay equal to their values");

 public:
  using value_type = Strong;  // a Ref<const T>; T itself if that is a handle
  using hasher = Hash;
  using key_equal = Equal;
  using const_iterator = typename Base::template Iterator<const Strong&>;
  using iterator = const_iterator;
  using typename Base::allocator_type;
  using typename Base::size_type;

  WeakInterner() requires std::default_initializable<Hash> : WeakInterner(Hash()) {}
  explicit WeakInterner(const Allocator& allocator) : WeakInterner(Hash(), Equal(), allocator) {}
  explicit WeakInterner(Hash hash, Equal equal = Equal(), const Allocator& allocator = Allocator())
      : Base(Keys(std::move(hash), std::move(equal)), allocator) {}
  WeakInterner(WeakInterner&&) noexcept = default;
  WeakInterner& operator=(WeakInterner&&) noexcept = default;

  using Base::CheckInvariantsForTesting;
  using Base::clear;  // what has been given out stays, but is not found any more
  using Base::empty;
  using Base::get_allocator;
  using Base::purge;
  using Base::reserve;
  using Base::shrink_to_fit;
  using Base::size;

  // The object equal to `value`; if there is none, one made from it. `value` is a T or, if hash and
  // equality take it, anything that a T can be made from. Or a handle: then the object itself, to
  // which nobody may keep a handle by which it can be changed.
  template <typename Value = internal::InternedObject<T>>
  Strong intern(Value&& value) {
    const auto& lookup = Keys::Lookup(value);
    const uint32_t hash = keys_.HashOf(lookup);
    if (auto found = keys_.Find(table_, hash, lookup); found.slot != nullptr) {
      return std::move(found.key);
    }
    const auto purged = table_.PurgeUpTo();
    return InternNew(hash, std::forward<Value>(value));
  }

  // The object equal to what is looked up, or null.
  template <typename Value = internal::InternedObject<T>>
  [[nodiscard]] Strong get(const Value& value) const {
    const auto& lookup = Keys::Lookup(value);
    return keys_.Find(table_, keys_.HashOf(lookup), lookup).key;
  }
  // It may be gone when this has returned: to use it, get() it.
  template <typename Value = internal::InternedObject<T>>
  [[nodiscard]] bool contains(const Value& value) const {
    return get(value).get() != nullptr;
  }

  // Calls `visit(object)` for each live object. O(the most objects that there were), as below.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const Strong& object : *this) visit(object);
  }
  const_iterator begin() const { return const_iterator(&table_); }
  std::default_sentinel_t end() const { return {}; }

  // The live objects, held.
  std::vector<Strong> snapshot() const {
    return Base::template Collect<Strong>(begin(), [](const Strong& object) { return object; });
  }

  void swap(WeakInterner& other) noexcept { Base::swap(other); }
  friend void swap(WeakInterner& a, WeakInterner& b) noexcept { a.swap(b); }

 private:
  // There was no live object, but a constructor may intern an equal one.
  template <typename Value>
  Strong InternNew(uint32_t hash, Value&& value) {
    table_.MakeRoom();
    const uint64_t version = table_.version();
    if constexpr (internal::kHasEmbeddedSlots<Strong> && !std::is_convertible_v<Value, Strong>) {
      constexpr bool kEmbedded = true;
      auto prepared = table_.template Prepare<kEmbedded>();
      auto made = Make(prepared, std::forward<Value>(value));
      if (Strong other = FindIfChanged(version, hash, *made); other.get() != nullptr) return other;
      return table_.EnterEmbedded(std::move(prepared), hash, std::move(made));
    } else {
      Strong made = MakeHandle(std::forward<Value>(value));
      if (Strong other = FindIfChanged(version, hash, *made.get()); other.get() != nullptr) {
        return other;
      }
      table_.Enter(table_.Prepare(), hash, made);
      return made;
    }
  }
  Strong FindIfChanged(uint64_t version, uint32_t hash,
                       const internal::InternedObject<T>& object) const {
    return table_.version() == version ? Strong() : keys_.Find(table_, hash, object).key;
  }
  template <typename PreparedSlot, typename Value>
  static auto Make(PreparedSlot& prepared, Value&& value) {
    if constexpr (internal::kIsObjectInSlot<Payload>) {
      return internal::NewObjectIn(prepared.payload(), std::forward<Value>(value));
    } else {
      return internal::MakeObject<Strong>(std::forward<Value>(value));
    }
  }
  template <typename Value>
  static Strong MakeHandle(Value&& value) {
    if constexpr (std::is_convertible_v<Value, Strong>) {
      Strong handle = std::forward<Value>(value);
      internal::CheckOwns(handle, "WeakInterner::Intern");
      return handle;
    } else {
      return internal::MakeObject<Strong>(std::forward<Value>(value));
    }
  }
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WEAK_INTERNER_H_
