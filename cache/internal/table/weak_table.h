// SPDX-License-Identifier: Apache-2.0
// The engine under all weak containers: slots that refer weakly to objects, and an index over them.
//
// A slot's life: free -> live (in the index, to be told of its object's end) -> back to free in one
// of two ways. Erased by the container: detached from its object, out of the index, emptied. Or
// expired: pushed to the retire_list by the thread that dropped the last reference; the container
// takes it out of the index and empties it when it drains the retire_list. A slot that is erased
// while it is on that way leaves the index and is emptied at once, and becomes free when it
// arrives. A resident slot (see table_slot.h) also waits for the last weak reference to its object.
// An index never has two live slots for one key.
//
// Handles that notify nobody (std::shared_ptr) don't use the retire_list: their live slots are in a
// ring, and every operation that adds or removes looks at the next few of it.
//
// User code (destructors of payloads, allocators of referents) runs only while the table is
// consistent: it may use the same container.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_TABLE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "weakcache/cache/internal/table/slot_index.h"
#include "weakcache/cache/internal/table/table_core.h"
#include "weakcache/cache/internal/table/table_slot.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
class WeakTable {
  using Traits = HandleTraits<H>;
  using Core = TableCore<H, Payload, kLifetime, Allocator>;
  using State = SlotState;
  static constexpr bool kNotifies = Traits::kNotifiesExpiry;
  // Swept slots are small: there is room for an index that is less full.
  using Index = SlotIndex<TableSlot<H, Payload>, Allocator, kNotifies ? 6 : 5>;

 public:
  using Slot = TableSlot<H, Payload>;
  using Position = typename Core::Position;
  using PreparedSlot = typename Core::PreparedSlot;
  using PurgedSlots = typename Core::PurgedSlots;

  explicit WeakTable(const Allocator& allocator) : allocator_(allocator), index_(allocator) {}
  WeakTable(WeakTable&& other) noexcept : WeakTable(other.allocator_) { swap(other); }
  WeakTable& operator=(WeakTable&& other) noexcept {
    WeakTable(std::move(other)).swap(*this);
    return *this;
  }
  ~WeakTable() {
    if (core_ != nullptr) Shutdown();
  }

  void swap(WeakTable& other) noexcept {
    using std::swap;
    SwapAllocators(allocator_, other.allocator_);
    swap(core_, other.core_);
    index_.swap(other.index_);
    swap(in_index_, other.in_index_);
    // To whoever was looking at either, it is another one now.
    version_ = other.version_ = std::max(version_, other.version_) + 1;
    swap(inserted_, other.inserted_);
    swap(detached_, other.detached_);
    swap(retired_, other.retired_);
    swap(sweep_last_, other.sweep_last_);
    swap(sweep_count_, other.sweep_count_);
    swap(pop_, other.pop_);
  }

  const Allocator& allocator() const { return allocator_; }

  // Entries whose referents' last release has not happened before the call; if the handle can't
  // notify, all entries.
  size_t size() const {
    if constexpr (!kNotifies) return in_index_;
    return core_ == nullptr ? 0 : inserted_ - detached_ - core_->retire_list.expired_count();
  }

  // Changes whenever a slot found before may be gone or refer to another, or another be found.
  uint64_t version() const { return version_; }

  // The live slot with this hash for which `equal(slot)` is true, or null. Its referent may have
  // expired.
  template <typename Equal>
  Slot* Find(uint32_t hash, Equal&& equal) const {
    return index_.Find(hash, [&](Slot& slot) { return slot.hash() == hash && equal(slot); });
  }
  // As well; `equal` is so cheap that comparing the hashes first would not save anything.
  template <typename Equal>
  Slot* FindWithoutHashCheck(uint32_t hash, Equal&& equal) const {
    return index_.Find(hash, equal);
  }
  void Prefetch(uint32_t hash) const { index_.Prefetch(hash); }

  // For one entry more in the index.
  void MakeRoom() {
    if (in_index_ < index_.max_size()) return;
    CheckCount(in_index_ + 1);
    RebuildIndex(index_.GrownSize(in_index_ + 1));
  }

  // A slot that is not in the table yet, with a payload made from the arguments: for an object that
  // is there, or to be resident. If an allocation or the payload's constructor throws, nothing has
  // changed; that constructor comes last, and may use the table.
  template <bool kEmbedded = false, typename... Args>
  PreparedSlot Prepare(Args&&... payload) {
    if (core_ == nullptr) core_ = Core::Create(allocator_);
    MakeRoom();
    Slot* const slot = core_->template Allocate<kEmbedded>();
    return PreparedSlot(core_, slot, std::forward<Args>(payload)...);
  }

  // Enters the slot, for a key that has none; or in place of the live slot `replaced`, which it
  // then erases. If an allocation throws, which it does only if the payload's constructor has added
  // entries, nothing has changed.
  Slot* Enter(PreparedSlot&& prepared, uint32_t hash, const H& referent, Slot* replaced = nullptr) {
    CheckPrepared(prepared);
    Slot* const slot = prepared.Take();
    ++inserted_;
    Core::AsExternal(slot)->MakeLive(hash, referent);
    if constexpr (!kNotifies) EnterRing(slot);
    Publish(slot, replaced);
    return slot;
  }
  // As well; `object` is what NewObject or NewObjectIn has made, and becomes the referent.
  template <typename Object>
  H EnterEmbedded(PreparedSlot&& prepared, uint32_t hash, Object object, Slot* replaced = nullptr) {
    CheckPrepared(prepared);
    Slot* const slot = prepared.Take();
    ++inserted_;
    H referent = Core::AsEmbedded(slot)->MakeLive(hash, object.release());
    Publish(slot, replaced);
    return referent;
  }

  // Lets a live slot refer to another object. False if it can't: a resident, or its expiry comes
  // first.
  bool Replace(Slot* slot, const H& referent) {
    if (slot->Is(referent)) return true;
    if (slot->is_embedded() || !Core::Detach(slot)) return false;
    Core::AsExternal(slot)->Reassign(referent);
    ++version_;  // what was found expired is so no longer
    return true;
  }

  // Removes a live slot, whether its referent has expired or not, and destroys its payload.
  void Erase(Slot* slot) {
    RemoveFromIndex(slot);
    Detach(slot);
    core_->Empty(slot);
  }

  void Clear() {
    if (core_ == nullptr) return;
    for (Position position; Slot* const slot = Next(position); ++position) Detach(slot);
    index_.Clear();
    in_index_ = 0;
    ++version_;
    // The table is empty and consistent: from here on user code may run.
    Core* const core = core_;
    for (Position position; Slot* const slot = core->At(position); ++position) {
      if (slot->state() == State::kErased) core->Empty(slot);
    }
  }

  // Removes all expired entries; returns how many.
  size_t Purge() {
    size_t removed_entries = 0;
    if constexpr (kNotifies) {
      while (PurgedSlots removed = PurgeUpTo()) removed_entries += removed.entries();
    } else {
      for (size_t left = sweep_count_; left > 0; left -= std::min(left, PurgedSlots::kMax)) {
        removed_entries += PurgeUpTo().entries();
      }
    }
    return removed_entries;
  }
  // What every operation that adds or removes begins with: more than it can add. What is removed
  // ends with the result, at the end of the operation: what it was given may lie in there, and user
  // code runs.
  [[nodiscard]] PurgedSlots PurgeUpTo() {
    return PurgedSlots(core_, [this](PurgedSlots& removed) {
      if constexpr (kNotifies) {
        Drain(removed);
      } else {
        Sweep(removed);
      }
    });
  }

  // Makes room in the index: the slots' pages don't need it, adding one costs the same at any time.
  void Reserve(size_t count) {
    CheckCount(count);
    if (count > index_.max_size()) RebuildIndex(count);
  }

  // Gives back the memory that the entries don't need; slots stay where they are.
  void ShrinkToFit() {
    Purge();
    if (core_ != nullptr) core_->DropFreePages();
    if (in_index_ != 0) {
      RebuildIndex(in_index_);
    } else {
      index_ = Index(allocator_);
      ++version_;
    }
  }

  // The first live slot at or after `position`, which becomes its position; null at the end. A slot
  // that is live during the whole iteration is visited once, whatever is inserted or erased
  // meanwhile.
  Slot* Next(Position& position) const {
    if (core_ == nullptr) return nullptr;
    for (; Slot* const slot = core_->At(position); ++position) {
      if (slot->state() == State::kVisible) return slot;
    }
    return nullptr;
  }
  // Some live slot, or null. For a loop that removes them all: it begins where the last call ended.
  Slot* NextToPop() {
    if (Slot* const slot = Next(pop_)) return slot;
    pop_ = Position();
    return Next(pop_);
  }

  // Aborts, and says why, if the table is not consistent. No other thread releases a referent
  // meanwhile. O(slots).
  void CheckInvariantsForTesting() const;

 private:
  static void CheckCount(size_t count) {
    Check(count <= size_t{1} << kSlotHashBits, "insert or reserve", "more than 2^28 entries");
  }

  void CheckPrepared(const PreparedSlot& prepared) {
    Check(prepared.core() == core_, "insert", "a constructor has moved its own container");
    MakeRoom();
  }
  void Publish(Slot* slot, Slot* replaced) {
    ++version_;
    if (replaced == nullptr) {
      index_.Insert(slot->hash(), slot);
      ++in_index_;
      return;
    }
    index_.Replace(slot->hash(), replaced, slot);
    Detach(replaced);
    core_->Empty(replaced);
  }

  void RemoveFromIndex(Slot* slot) {
    index_.Erase(slot->hash(), slot);
    --in_index_;
    ++version_;
  }
  void RebuildIndex(size_t size) {
    Index index(size, allocator_);
    for (Position position; Slot* const slot = Next(position); ++position) {
      index.Insert(slot->hash(), slot);
    }
    index_ = std::move(index);
    ++version_;
  }

  // Lets a live slot's referent tell it nothing any more, unless its expiry comes first.
  void Detach(Slot* slot) {
    if constexpr (!kNotifies) LeaveRing(slot);
    if (Core::Detach(slot)) {
      ++detached_;
    } else {
      slot->set_expiry_pending(true);
    }
    slot->set_state(State::kErased);
  }

  // Takes some slots that have come through the retire_list. Amortised O(1) each.
  void Drain(PurgedSlots& removed);
  // Looks at some slots of the ring, from where it stopped last.
  void Sweep(PurgedSlots& removed);

  // As the last that Sweep comes to.
  void EnterRing(Slot* slot) {
    auto* const entered = Core::AsExternal(slot);
    auto* const last = sweep_last_ == nullptr ? entered : sweep_last_;
    auto* const first = sweep_last_ == nullptr ? entered : Core::LinksOf(last).next;
    ::new (static_cast<void*>(&Core::LinksOf(entered))) typename Core::ExternalCold{last, first};
    Core::LinksOf(last).next = Core::LinksOf(first).previous = entered;
    sweep_last_ = entered;
    ++sweep_count_;
  }
  void LeaveRing(Slot* slot) {
    const auto links = Core::LinksOf(Core::AsExternal(slot));
    Core::LinksOf(links.previous).next = links.next;
    Core::LinksOf(links.next).previous = links.previous;
    if (slot == sweep_last_) sweep_last_ = links.previous == slot ? nullptr : links.previous;
    --sweep_count_;
  }

  // The next slot that has come through the retire_list.
  Slot* NextRetired() {
    if (retired_ == nullptr && core_ != nullptr) retired_ = core_->retire_list.TakeAll();
    Slot* const slot = retired_;
    if (slot != nullptr) retired_ = slot->next();
    return slot;
  }

  // Ends the table without waiting for the slots that are on their way to the retire_list.
  void Shutdown() {
    // Again if destructors have added entries meanwhile.
    do {
      Clear();
      Purge();
    } while (in_index_ != 0 || retired_ != nullptr);
    // A destructor may have moved the table's contents elsewhere.
    if (core_ != nullptr) core_->Shutdown();
  }

  [[no_unique_address]] Allocator allocator_;
  Core* core_ = nullptr;
  Index index_;
  size_t in_index_ = 0;  // live slots
  uint64_t version_ = 0;
  // Since the beginning: slots inserted, and detached before their referents expired.
  size_t inserted_ = 0;
  size_t detached_ = 0;
  Slot* retired_ = nullptr;  // taken from the retire_list but not yet looked at, linked by next()
  // The slots that Sweep looks at in turn; this is the one that it has looked at last.
  typename Core::External* sweep_last_ = nullptr;
  size_t sweep_count_ = 0;
  Position pop_;  // where the next NextToPop begins
};

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
void WeakTable<H, Payload, kLifetime, Allocator>::Drain(PurgedSlots& removed) {
  for (Slot* slot; !removed.full() && (slot = NextRetired()) != nullptr;) {
    const bool first_time = slot->expiry_pending();
    slot->set_expiry_pending(false);
    switch (slot->state()) {
      case State::kVisible:
        RemoveFromIndex(slot);
        slot->set_state(State::kDestroying);
        removed.AddEntry(slot);
        break;
      case State::kErased:
        slot->set_state(State::kDestroying);
        removed.Add(slot);
        break;
      case State::kDestroying:  // the frame that destroys its payload goes on with it
        removed.Count();
        break;
      default:
        if (first_time) {
          core_->FinishEmptying(slot, Core::kRetiredReferences);
        } else {
          core_->Free(slot);
        }
        removed.Count();
    }
  }
}

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
void WeakTable<H, Payload, kLifetime, Allocator>::Sweep(PurgedSlots& removed) {
  while (sweep_last_ != nullptr && !removed.full()) {
    auto* const slot = Core::LinksOf(sweep_last_).next;
    if (slot->expired()) {
      LeaveRing(slot);
      RemoveFromIndex(slot);
      slot->set_state(State::kDestroying);
      removed.AddEntry(slot);
    } else {
      sweep_last_ = slot;
      removed.Count();
    }
  }
}

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
void WeakTable<H, Payload, kLifetime, Allocator>::CheckInvariantsForTesting() const {
  index_.CheckInvariantsForTesting(in_index_);
  size_t live = 0;
  size_t alive = 0;
  for (Position position; const Slot* const slot = Next(position); ++position) {
    const auto is_it = [&](const Slot& found) { return &found == slot; };
    Check(Find(slot->hash(), is_it) == slot, "CheckInvariantsForTesting",
          "a live slot is not in the index");
    ++live;
    if (!slot->expired()) ++alive;
  }
  Check(live == in_index_, "CheckInvariantsForTesting",
        "the table has lost count of its live slots");
  if constexpr (kNotifies)
    Check(alive == size(), "CheckInvariantsForTesting", "size() is not exact");
  if (core_ != nullptr) core_->CheckInvariantsForTesting();
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_TABLE_H_
