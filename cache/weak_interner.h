// SPDX-License-Identifier: Apache-2.0
// WeakInterner<T>: one object for all equal values, for as long as anybody uses it.
//
// Why not a static std::set<T>: it keeps every value ever seen, and so does a
// set<std::shared_ptr<const T>>. With std::weak_ptrs instead, the dead ones can't be compared.
//
//   weakcache::WeakInterner<std::string> names;
//   weakcache::Ref<const std::string> a = names.intern("position");
//   weakcache::Ref<const std::string> b = names.intern("position");
//   a == b;                                     // one object: equality is one comparison
//   names.contains("velocity");                 // false, and does not enter it
//
// WeakInterner<std::shared_ptr<const T>> returns std::shared_ptrs.
//
// Thread safety: thread-compatible; objects may be released on any thread at any time.
//
// Differences from boost::flyweight: the interner is an object, not a global, and may be destroyed
// before or after the objects it returned, which are plain Refs. A look-up takes anything that hash
// and equality take; an object is made only if it is new. A look-up holds each candidate while it
// compares it, and so may run its destructor. Destructors may use the interner; hash and equality
// must not. A failed operation changes nothing. See docs/guide.md.
//
// Complexity: O(1) amortised unless stated otherwise.
#ifndef WEAKCACHE_CACHE_WEAK_INTERNER_H_
#define WEAKCACHE_CACHE_WEAK_INTERNER_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/key/key_matching.h"
#include "weakcache/cache/internal/slot/payload_description.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/weak_container.h"

namespace weakcache {

namespace internal {

// The handle that an interner of Ts returns: T is an object's type or a handle to a const object.
template <typename T>
using InternedHandle = std::conditional_t<Handle<T>, HandleFor<T>, HandleFor<const T>>;
template <typename T>
using InternedObject = std::remove_cv_t<ReferentOf<InternedHandle<T>>>;
// Small objects lie in their slots.
template <typename T>
using InternerPayload =
    std::conditional_t<kHasEmbeddedSlots<InternedHandle<T>> && kFitsInSlot<InternedObject<T>>,
                       ObjectInSlot<InternedObject<T>>, NothingBesideInterned>;

}  // namespace internal

template <typename T, typename Hash = internal::DefaultHash<internal::InternedObject<T>>,
          typename Equal = internal::DefaultEqual<internal::InternedObject<T>>,
          typename Allocator = std::allocator<char>>
class WeakInterner
    : private internal::WeakContainer<internal::InternedHandle<T>, internal::InternerPayload<T>,
                                      internal::PayloadLifetime::kUntilPurge,
                                      internal::ValueKeys<internal::InternedHandle<T>, Hash, Equal>,
                                      Allocator> {
  using Payload = internal::InternerPayload<T>;
  using Keys = internal::ValueKeys<internal::InternedHandle<T>, Hash, Equal>;
  using Base = internal::WeakContainer<internal::InternedHandle<T>, Payload,
                                       internal::PayloadLifetime::kUntilPurge, Keys, Allocator>;
  using Base::keys_;
  using Base::table_;
  using typename Base::Slot;

 public:
  using typename Base::Strong;  // a Ref<const T>; T itself if that is a handle
  using typename Base::Weak;

  static_assert(std::is_const_v<internal::ReferentOf<Strong>>,
                "the objects must be const, or they would not stay equal to their values");

  using key_type = Strong;
  using value_type = Strong;
  using hasher = Hash;
  using key_equal = Equal;
  using const_iterator = typename Base::template Iterator<const Strong&>;
  using iterator = const_iterator;
  using typename Base::allocator_type;
  using typename Base::difference_type;
  using typename Base::size_type;

  WeakInterner() requires std::default_initializable<Hash> : WeakInterner(Hash()) {}
  explicit WeakInterner(const Allocator& allocator) : WeakInterner(Hash(), Equal(), allocator) {}
  explicit WeakInterner(Hash hash, Equal equal = Equal(), const Allocator& allocator = Allocator())
      : Base(Keys(std::move(hash), std::move(equal)), allocator) {}
  // Interns the values in [first, last): handles, whose objects are entered themselves unless there
  // are equal ones. (An object made from another value would die at once.)
  template <std::input_iterator Iterator, std::sentinel_for<Iterator> Sentinel>
  WeakInterner(Iterator first, Sentinel last, Hash hash = Hash(), Equal equal = Equal(),
               const Allocator& allocator = Allocator())
      : WeakInterner(std::move(hash), std::move(equal), allocator) {
    for (; first != last; ++first) intern(Strong(*first));
  }
  WeakInterner(std::initializer_list<Strong> objects, Hash hash = Hash(), Equal equal = Equal(),
               const Allocator& allocator = Allocator())
      : WeakInterner(objects.begin(), objects.end(), std::move(hash), std::move(equal), allocator) {
  }
  WeakInterner(WeakInterner&&) noexcept = default;
  WeakInterner& operator=(WeakInterner&&) noexcept = default;

  using Base::CheckInvariantsForTesting;
  using Base::clear;  // objects in use live on but are not found any more
  using Base::empty;
  using Base::get_allocator;
  using Base::purge;
  using Base::reserve;
  using Base::shrink_to_fit;
  using Base::size;

  // Returns the object equal to `value`; if there is none, enters and returns an object made from
  // `value`, which is a T or anything that hash and equality take and a T can be made from. If
  // `value` is a handle, its object itself is entered: then nobody may change that object.
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

  // Returns the object equal to `value`, or null.
  template <typename Value = internal::InternedObject<T>>
  [[nodiscard]] Strong get(const Value& value) const {
    const auto& lookup = Keys::Lookup(value);
    return keys_.Find(table_, keys_.HashOf(lookup), lookup).key;
  }
  // Returns whether there is an object equal to `value`. It may die at any time: to use it, call
  // get().
  template <typename Value = internal::InternedObject<T>>
  [[nodiscard]] bool contains(const Value& value) const {
    return get(value).get() != nullptr;
  }

  // Removes the object equal to `value`: it lives on while anybody holds it, but is not found any
  // more. Returns the number of removed objects, 0 or 1.
  template <typename Value = internal::InternedObject<T>>
  size_type erase(const Value& value) {
    const auto purged = table_.PurgeUpTo();
    const auto& lookup = Keys::Lookup(value);
    const auto found = keys_.Find(table_, keys_.HashOf(lookup), lookup);
    if (found.slot == nullptr) return 0;
    table_.Erase(found.slot);
    return 1;
  }

  // Removes any object and returns it; null if the interner is empty. O(1) amortised over a loop
  // that empties the interner.
  Strong pop() {
    while (Slot* const slot = table_.NextToPop()) {
      Strong popped = slot->Lock();
      table_.Erase(slot);
      if (popped.get() != nullptr) return popped;
    }
    return Strong();
  }

  // Removes the objects for which `condition(object)` is true, and returns their number. The
  // condition must not change the interner, or the call aborts. O(the most objects that there
  // were), as are all functions below.
  template <typename Condition>
  size_type erase_if(Condition&& condition) {
    return Base::EraseIf(begin(), "WeakInterner::erase_if", condition);
  }

  // Calls `visit(object)` for each live object.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const Strong& object : *this) visit(object);
  }
  [[nodiscard]] const_iterator begin() const { return const_iterator(&table_); }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }

  // Return the live objects: as a vector, or as another interner, which keeps none alive either.
  [[nodiscard]] std::vector<Strong> snapshot() const {
    return Base::template Collect<Strong>(begin(), [](const Strong& object) { return object; });
  }
  [[nodiscard]] WeakInterner clone() const {
    WeakInterner clone(keys_, table_.allocator());
    clone.reserve(size());
    for (const Strong& object : *this) clone.intern(object);
    return clone;
  }

  // Returns whether both have the same objects. (Equal ones in different interners are not the
  // same.)
  friend bool operator==(const WeakInterner& a, const WeakInterner& b) {
    return a.IsIn(b) && b.IsIn(a);
  }

  void swap(WeakInterner& other) noexcept { Base::swap(other); }
  friend void swap(WeakInterner& a, WeakInterner& b) noexcept { a.swap(b); }

 private:
  WeakInterner(const Keys& keys, const Allocator& allocator) : Base(keys, allocator) {}

  bool IsIn(const WeakInterner& other) const {
    for (const Strong& object : *this) {
      if (other.get(object).get() != object.get()) return false;
    }
    return true;
  }

  // Enters an object made from `value`. No equal object exists, but the new object's constructor
  // may intern one.
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
      internal::CheckOwns(handle, "WeakInterner::intern");
      return handle;
    } else {
      return internal::MakeObject<Strong>(std::forward<Value>(value));
    }
  }
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WEAK_INTERNER_H_
