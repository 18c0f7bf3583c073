// SPDX-License-Identifier: Apache-2.0
// WeakSet<T>: a set of objects that keeps none alive: observers, open documents, live sessions.
//
// Why not std::set<std::weak_ptr<T>, std::owner_less<>>: its dead members stay until somebody looks
// for them, and count. Here a member leaves when its last Ref goes.
//
//   weakcache::WeakSet<Listener> listeners;
//   listeners.insert(listener);                       // a weakcache::Ref<Listener>
//   for (const auto& each : listeners) each->OnChange();
//   listener.reset();                              // gone from the set too
//   weakcache::WeakSet<Listener> both = listeners & others;
//
// WeakSet<std::shared_ptr<T>> takes std::shared_ptrs (see weak_value_map.h about what it can't do).
// Members go by identity: the object that a Ref keeps alive, whichever part of it the Ref points
// to. A std::shared_ptr to a part of an object is a member of its own.
//
// Thread safety: thread-compatible: const operations may run at once on any threads, others need
// exclusive access; objects may be released on any thread at any time, whatever the set is doing.
//
// Differences from absl::flat_hash_set
//  - Members are handed in and out as strong references.
//  - Iteration visits the live members, holds each while it stands on it, and survives insertion,
//    erasure and expiry meanwhile.
//  - Set and objects may go in either order, on any threads; the set's destructor waits for nobody.
//    Objects' destructors may use the set, but not end it inside an operation on many members,
//    iteration too.
//  - Copies are explicit: clone() (weak), snapshot() (strong).
//
// The allocator: as of WeakValueMap.
//
// Every operation on one object leaves the set as it was if an allocation throws; one on many stops
// there. More than 2^28 members abort.
//
// Complexity: O(1) amortised, unless stated. Adding enters one member and removes up to four
// expired ones.
#ifndef WEAKCACHE_CACHE_WEAK_SET_H_
#define WEAKCACHE_CACHE_WEAK_SET_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/key/key_matching.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/weak_container.h"

namespace weakcache {

template <typename T, typename Allocator = std::allocator<char>>
class WeakSet
    : private internal::WeakContainer<internal::HandleFor<T>, internal::Nothing,
                                      internal::PayloadLifetime::kUntilPurge,
                                      internal::IdentityKeys<internal::HandleFor<T>>, Allocator> {
  using Strong = internal::HandleFor<T>;
  using Keys = internal::IdentityKeys<Strong>;
  using Base = internal::WeakContainer<Strong, internal::Nothing,
                                       internal::PayloadLifetime::kUntilPurge, Keys, Allocator>;
  using Base::table_;
  using typename Base::Slot;

 public:
  using key_type = Strong;  // a Ref<T>; T itself if that is a handle
  using value_type = Strong;
  using const_iterator = typename Base::template Iterator<const Strong&>;
  using iterator = const_iterator;
  using typename Base::allocator_type;
  using typename Base::size_type;

  explicit WeakSet(const Allocator& allocator = Allocator()) : Base(Keys(), allocator) {}
  WeakSet(WeakSet&&) noexcept = default;
  WeakSet& operator=(WeakSet&&) noexcept = default;

  using Base::CheckInvariantsForTesting;
  using Base::clear;
  using Base::empty;
  using Base::get_allocator;
  using Base::purge;
  using Base::reserve;
  using Base::shrink_to_fit;
  using Base::size;

  // True if it was not a member. Precondition: `object` owns an object.
  bool insert(const Strong& object) {
    internal::CheckOwns(object, "WeakSet::insert");
    const Strong held = object;
    const auto purged = table_.PurgeUpTo();
    const uint32_t hash = Keys::HashOf(held);
    if (Find(held) != nullptr) return false;
    table_.Enter(table_.Prepare(), hash, held);
    return true;
  }

  // How many members it removed: 0 or 1.
  size_type erase(const Strong& object) {
    const auto purged = table_.PurgeUpTo();
    Slot* const slot = Find(object);
    if (slot == nullptr) return 0;
    table_.Erase(slot);
    return 1;
  }

  [[nodiscard]] bool contains(const Strong& object) const { return Find(object) != nullptr; }

  // Removes any member and returns it, or null if there is none. O(1) amortised over a loop that
  // empties the set.
  Strong pop() {
    while (Slot* const slot = table_.NextToPop()) {
      Strong popped = slot->Lock();
      table_.Erase(slot);
      if (popped.get() != nullptr) return popped;
    }
    return Strong();
  }

  // Removes the members for which `condition(member)` is true, and returns how many. The condition
  // must not change the set. O(the most members that there were), as all that follow.
  template <typename Condition>
  size_type erase_if(Condition&& condition) {
    return Base::EraseIf(begin(), "WeakSet::erase_if", condition);
  }

  // Calls `visit(member)` for each live member. It may change the set, see iteration above.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const Strong& member : *this) visit(member);
  }
  const_iterator begin() const { return const_iterator(&table_); }
  std::default_sentinel_t end() const { return {}; }

  // The live members, held; and a set of them, which keeps none alive either.
  std::vector<Strong> snapshot() const {
    return Base::template Collect<Strong>(begin(), [](const Strong& member) { return member; });
  }
  WeakSet clone() const {
    WeakSet clone(table_.allocator());
    clone.reserve(size());
    clone |= *this;
    return clone;
  }

  // Union, intersection, difference and symmetric difference of the live members.
  WeakSet& operator|=(const WeakSet& other) {
    other.for_each([&](const Strong& member) { insert(member); });
    return *this;
  }
  WeakSet& operator&=(const WeakSet& other) {
    erase_if([&](const Strong& member) { return !other.contains(member); });
    return *this;
  }
  WeakSet& operator-=(const WeakSet& other) {
    erase_if([&](const Strong& member) { return other.contains(member); });
    return *this;
  }
  WeakSet& operator^=(const WeakSet& other) {
    if (this == &other) {
      clear();
    } else {
      other.for_each([&](const Strong& member) {
        if (erase(member) == 0) insert(member);
      });
    }
    return *this;
  }
  friend WeakSet operator|(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() |= b); }
  friend WeakSet operator&(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() &= b); }
  friend WeakSet operator-(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() -= b); }
  friend WeakSet operator^(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() ^= b); }

  bool is_subset_of(const WeakSet& other) const {
    for (const Strong& member : *this) {
      if (!other.contains(member)) return false;
    }
    return true;
  }
  bool is_superset_of(const WeakSet& other) const { return other.is_subset_of(*this); }
  bool is_disjoint_from(const WeakSet& other) const {
    for (const Strong& member : *this) {
      if (other.contains(member)) return false;
    }
    return true;
  }
  friend bool operator==(const WeakSet& a, const WeakSet& b) {
    return a.is_subset_of(b) && b.is_subset_of(a);
  }

  void swap(WeakSet& other) noexcept { Base::swap(other); }
  friend void swap(WeakSet& a, WeakSet& b) noexcept { a.swap(b); }

 private:
  Slot* Find(const Strong& object) const {
    return Keys().Find(table_, Keys::HashOf(object), object).slot;
  }
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WEAK_SET_H_
