// SPDX-License-Identifier: Apache-2.0
// WeakSet<T>: a set of objects that keeps none of them alive: observers, open documents, sessions.
//
// Why not std::set<std::weak_ptr<T>, std::owner_less<>>: its dead members stay, and count in
// size(), until somebody looks for them. Here a member leaves the set when its last Ref is dropped.
//
//   weakcache::WeakSet<Listener> listeners;
//   listeners.insert(listener);                       // a weakcache::Ref<Listener>
//   listeners.for_each([](const auto& each) { each->OnChange(); });
//   listener.reset();                                 // gone from the set too
//   weakcache::WeakSet<Listener> both = listeners & others;
//
// WeakSet<std::shared_ptr<T>> takes std::shared_ptrs. Members are compared by identity.
//
// Thread safety: thread-compatible; objects may be released on any thread at any time.
//
// Differences from absl::flat_hash_set: members are strong references. Iteration visits live
// members, holds the current one, and survives insertion, erasure and expiry; copies are explicit:
// clone() or snapshot(). Set and objects may be destroyed in either order. A failed operation on
// one object changes nothing. See docs/guide.md.
//
// Complexity: O(1) amortised unless stated otherwise.
#ifndef WEAKCACHE_CACHE_WEAK_SET_H_
#define WEAKCACHE_CACHE_WEAK_SET_H_

#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <ranges>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/key/key_matching.h"
#include "weakcache/cache/internal/slot/payload_description.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/internal/table/bounded_visit.h"
#include "weakcache/cache/internal/table/live_iterator.h"
#include "weakcache/cache/internal/table/weak_container.h"

namespace weakcache {

template <typename T, typename Allocator = std::allocator<char>>
class WeakSet
    : private internal::WeakContainer<internal::HandleFor<T>, internal::Nothing,
                                      internal::PayloadLifetime::kUntilPurge,
                                      internal::IdentityKeys<internal::HandleFor<T>>, Allocator> {
  using Keys = internal::IdentityKeys<internal::HandleFor<T>>;
  using Base = internal::WeakContainer<internal::HandleFor<T>, internal::Nothing,
                                       internal::PayloadLifetime::kUntilPurge, Keys, Allocator>;
  using Base::table_;
  using typename Base::Slot;

 public:
  using typename Base::Strong;  // a Ref<T>; T itself if that is a handle
  using typename Base::Weak;

  using key_type = Strong;
  using value_type = Strong;
  using const_iterator = typename Base::template Iterator<const Strong&>;
  using iterator = const_iterator;
  using typename Base::allocator_type;
  using typename Base::difference_type;
  using typename Base::size_type;

  explicit WeakSet(const Allocator& allocator = Allocator()) : Base(Keys(), allocator) {}
  template <std::input_iterator Iterator, std::sentinel_for<Iterator> Sentinel>
  WeakSet(Iterator first, Sentinel last, const Allocator& allocator = Allocator())
      : WeakSet(allocator) {
    for (; first != last; ++first) insert(*first);
  }
  WeakSet(std::initializer_list<Strong> objects, const Allocator& allocator = Allocator())
      : WeakSet(objects.begin(), objects.end(), allocator) {}
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

  // Adds the object. Returns it, and whether it is new in the set. Precondition: `object` owns an
  // object.
  std::pair<Strong, bool> insert(Strong object) {
    internal::CheckOwns(object, "WeakSet::insert");
    const auto purged = table_.PurgeUpTo();
    const bool inserted = Find(object) == nullptr;
    if (inserted) {
      auto prepared = table_.Prepare();
      internal::BoundedVisit::RecordEntry(&table_, prepared.payload());
      table_.Enter(std::move(prepared), Keys::HashOf(object), object);
    }
    return {std::move(object), inserted};
  }

  // Removes the object. Returns the number of removed members, 0 or 1.
  size_type erase(const Strong& object) {
    const auto purged = table_.PurgeUpTo();
    Slot* const slot = Find(object);
    if (slot == nullptr) return 0;
    table_.Erase(slot);
    return 1;
  }

  // Returns whether the object is a member: the object that a Ref keeps alive, whichever part of it
  // the Ref points to. A std::shared_ptr to a part of an object is a member of its own.
  [[nodiscard]] bool contains(const Strong& object) const { return Find(object) != nullptr; }

  // Removes any member and returns it; null if the set is empty. O(1) amortised over a loop that
  // empties the set.
  Strong pop() {
    while (Slot* const slot = table_.NextToPop()) {
      Strong popped = slot->Lock();
      table_.Erase(slot);
      if (popped.get() != nullptr) return popped;
    }
    return Strong();
  }

  // Removes the members for which `condition(member)` is true, and returns their number. The
  // condition must not change the set, or the call aborts. O(the most members that there were), as
  // are all functions below.
  template <typename Condition>
  size_type erase_if(Condition&& condition) {
    return Base::EraseIf(begin(), "WeakSet::erase_if", condition);
  }

  // Calls `visit(member)` for each live member. `visit` may change the set: members that are added
  // during the call, also again, are not visited, so that an observer that registers itself anew
  // does not keep the loop going. A loop over begin() and end() may visit them.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    const internal::BoundedVisit bound(&table_);
    for (auto entry = begin(); entry != end(); ++entry) {
      if (bound.Includes(entry.slot()->payload())) visit(*entry);
    }
  }
  [[nodiscard]] const_iterator begin() const { return const_iterator(&table_); }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }

  // Return the live members: as a vector, or as another set, which keeps none alive either.
  [[nodiscard]] std::vector<Strong> snapshot() const {
    return Base::template Collect<Strong>(begin(), [](const Strong& member) { return member; });
  }
  [[nodiscard]] WeakSet clone() const {
    WeakSet clone(table_.allocator());
    clone.reserve(size());
    clone |= *this;
    return clone;
  }

  // Adds the objects of a range or of another set.
  template <typename Range = std::initializer_list<Strong>>
  void update(const Range& objects) {
    if (static_cast<const void*>(std::addressof(objects)) == this) return;
    for (const auto& object : objects) insert(object);
  }

  // Form the union, intersection, difference or symmetric difference with another set or a range of
  // objects that are not null.
  template <typename Range = std::initializer_list<Strong>>
  WeakSet& operator|=(const Range& objects) {
    update(objects);
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
      return *this;
    }
    for (const Strong& member : other) {
      if (erase(member) == 0) insert(member);
    }
    return *this;
  }
  template <internal::RangeOtherThan<WeakSet> Range>
  WeakSet& operator&=(const Range& objects) {
    return *this &= WeakSet(std::ranges::begin(objects), std::ranges::end(objects));
  }
  template <internal::RangeOtherThan<WeakSet> Range>
  WeakSet& operator-=(const Range& objects) {
    for (const auto& object : objects) erase(object);
    return *this;
  }
  template <internal::RangeOtherThan<WeakSet> Range>
  WeakSet& operator^=(const Range& objects) {
    return *this ^= WeakSet(std::ranges::begin(objects), std::ranges::end(objects));
  }
  friend WeakSet operator|(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() |= b); }
  friend WeakSet operator&(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() &= b); }
  friend WeakSet operator-(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() -= b); }
  friend WeakSet operator^(const WeakSet& a, const WeakSet& b) { return std::move(a.clone() ^= b); }

  [[nodiscard]] bool is_subset_of(const WeakSet& other) const {
    for (const Strong& member : *this) {
      if (!other.contains(member)) return false;
    }
    return true;
  }
  [[nodiscard]] bool is_superset_of(const WeakSet& other) const {
    return other.is_subset_of(*this);
  }
  [[nodiscard]] bool is_disjoint_from(const WeakSet& other) const {
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
