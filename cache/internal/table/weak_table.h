// SPDX-License-Identifier: Apache-2.0
// The engine of the single-threaded weak containers: slots that refer weakly to objects, and an
// index of the slots by hash.
//
// The life of a slot: free, under construction, visible (in the index), and free again in one of
// two ways:
//   Erased by the container. The slot is detached from its object, leaves the index, and its
//     payload is destroyed.
//   Expired. The thread that drops the last reference pushes the slot to the retire list. When the
//     container drains that list, it takes the slot out of the index and destroys its payload.
// A slot that is erased while it is in the retire list loses its payload at once and becomes free
// when it comes through the list. An embedded slot (table_slot.h) becomes free only after the last
// weak reference to its object. No two visible slots have equal keys.
//
// Handles that notify nobody (std::shared_ptr) do not use the retire list: their visible slots form
// a ring, and each modifying operation polls the next few slots of the ring.
//
// User code (payload destructors, allocators of referents) runs only while the table is consistent,
// so it may use the same container.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_TABLE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "weakcache/cache/internal/slot/length_error.h"
#include "weakcache/cache/internal/slot/polling_ring.h"
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
  // Polled slots are small, which leaves memory for an index that is less full.
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
    // A caller that remembers either version must see a change.
    version_ = other.version_ = std::max(version_, other.version_) + 1;
    swap(inserted_, other.inserted_);
    swap(detached_, other.detached_);
    swap(retired_, other.retired_);
    polled_.swap(other.polled_);
    swap(pop_, other.pop_);
  }

  const Allocator& allocator() const { return allocator_; }

  // Returns the number of entries whose referents' last release has not happened before the call.
  // If the handle can't notify: the number of all entries.
  size_t size() const {
    if constexpr (!kNotifies) return in_index_;
    return core_ == nullptr ? 0 : inserted_ - detached_ - core_->retire_list.expired_count();
  }

  // Returns a number that changes whenever the result of a look-up may have changed.
  uint64_t version() const { return version_; }

  // Returns the visible slot with this hash for which `equal(slot)` is true, or null. Its referent
  // may have expired.
  template <typename Equal>
  Slot* Find(uint32_t hash, Equal&& equal) const {
    return index_.Find(hash, [&](Slot& slot) { return slot.hash() == hash && equal(slot); });
  }
  // Does the same as Find, but does not compare hashes before it calls `equal`, which must be as
  // cheap.
  template <typename Equal>
  Slot* FindWithoutHashCheck(uint32_t hash, Equal&& equal) const {
    return index_.Find(hash, equal);
  }
  void Prefetch(uint32_t hash) const { index_.Prefetch(hash); }

  // Makes room in the index for one more entry.
  void MakeRoom() {
    if (in_index_ < index_.max_size()) return;
    Check(in_index_ < kMaxEntries, "insert", "more than 2^28 entries");
    RebuildIndex(index_.GrownSize(in_index_ + 1));
  }

  // Returns a slot that is not in the index yet, with a payload made from the arguments: an
  // embedded slot, or one for an existing object. If an allocation or the payload's constructor
  // throws, nothing has changed. That constructor runs last and may use the table.
  template <bool kEmbedded = false, typename... Args>
  PreparedSlot Prepare(Args&&... payload) {
    if (core_ == nullptr) core_ = Core::Create(allocator_);
    MakeRoom();
    Slot* const slot = core_->template Allocate<kEmbedded>();
    return PreparedSlot(core_, slot, std::forward<Args>(payload)...);
  }

  // Enters the slot under a key that has no visible slot, or replaces the visible slot `replaced`,
  // which is erased. An allocation can throw only if the payload's constructor has added entries;
  // then nothing has changed.
  Slot* Enter(PreparedSlot&& prepared, uint32_t hash, const H& referent, Slot* replaced = nullptr) {
    CheckPrepared(prepared);
    Slot* const slot = prepared.Take();
    ++inserted_;
    Core::AsExternal(slot)->MakeLive(hash, referent);
    if constexpr (!kNotifies) polled_.Enter(Core::AsExternal(slot));
    Publish(slot, replaced);
    return slot;
  }
  // Does the same as Enter for an embedded slot: `object`, from NewObject or NewObjectIn, becomes
  // the referent.
  template <typename Object>
  H EnterEmbedded(PreparedSlot&& prepared, uint32_t hash, Object object, Slot* replaced = nullptr) {
    CheckPrepared(prepared);
    Slot* const slot = prepared.Take();
    ++inserted_;
    H referent = Core::AsEmbedded(slot)->MakeLive(hash, object.release());
    Publish(slot, replaced);
    return referent;
  }

  // Makes a visible slot refer to another object. Returns false if the slot is embedded or its
  // object expired first.
  bool Replace(Slot* slot, const H& referent) {
    if (slot->Is(referent)) return true;
    if (slot->is_embedded() || !Core::Detach(slot)) return false;
    Core::AsExternal(slot)->Reassign(referent);
    ++version_;  // a caller that found it expired must look again
    return true;
  }

  // Removes a visible slot, whether its referent has expired or not, and destroys its payload.
  void Erase(Slot* slot) {
    RemoveFromIndex(slot);
    Detach(slot);
    core_->DestroyErased(slot);
  }

  void Clear() {
    if (core_ == nullptr) return;
    for (Position position; Slot* const slot = Next(position); ++position) Detach(slot);
    index_.Clear();
    in_index_ = 0;
    ++version_;
    // The table is empty and consistent; from here on user code may run.
    Core* const core = core_;
    for (Position position; Slot* const slot = core->At(position); ++position) {
      if (slot->state() == State::kErased) core->DestroyErased(slot);
    }
  }

  // Removes all expired entries; returns their number.
  size_t Purge() {
    size_t entries = 0;
    if constexpr (kNotifies) {
      while (PurgedSlots purged = PurgeUpTo()) entries += purged.entries();
    } else {
      for (size_t left = polled_.size(); left > 0; left -= std::min(left, PurgedSlots::kMax)) {
        entries += PurgeUpTo().entries();
      }
    }
    return entries;
  }
  // Takes up to PurgedSlots::kMax slots through the retire list or the ring. Each modifying
  // operation begins with this, so dead entries can't accumulate. The payloads are destroyed with
  // the result, at the end of the operation: its arguments may refer to them, and user code runs.
  [[nodiscard]] PurgedSlots PurgeUpTo() {
    return PurgedSlots(core_, [this](PurgedSlots& purged) {
      if constexpr (kNotifies) {
        Drain(purged);
      } else {
        Sweep(purged);
      }
    });
  }

  // Makes room in the index only: adding a page of slots costs the same at any time.
  void Reserve(size_t count) {
    CheckLength(count <= kMaxEntries, "weakcache: reserve of more than 2^28 entries");
    if (count > index_.max_size()) RebuildIndex(count);
  }

  // Frees memory that the entries do not need; slots do not move.
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

  // Returns the first visible slot at or after `position`, and sets `position` to it; null at the
  // end. An iteration visits a slot that stays visible exactly once, whatever is inserted or erased
  // meanwhile.
  Slot* Next(Position& position) const {
    if (core_ == nullptr) return nullptr;
    for (; Slot* const slot = core_->At(position); ++position) {
      if (slot->state() == State::kVisible) return slot;
    }
    return nullptr;
  }
  // Returns any visible slot, or null. Continues where the last call ended, so that a loop that
  // removes all slots is linear.
  Slot* NextToPop() {
    if (Slot* const slot = Next(pop_)) return slot;
    pop_ = Position();
    return Next(pop_);
  }

  // Aborts with a message if the table is not consistent. No other thread may release a referent
  // meanwhile. O(slots).
  void CheckInvariantsForTesting() const;

 private:
  static constexpr size_t kMaxEntries = size_t{1} << kSlotHashBits;

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
    core_->DestroyErased(replaced);
  }

  void RemoveFromIndex(Slot* slot) {
    index_.Erase(slot->hash(), slot);
    --in_index_;
    ++version_;
    if (index_.needs_refill()) [[unlikely]]
      RefillIndex(slot);
  }
  // Makes the index's counts exact again, without allocation. `erased` is still marked as visible.
  [[gnu::noinline]] void RefillIndex(Slot* erased) {
    index_.Clear();
    for (Position position; Slot* const slot = Next(position); ++position) {
      if (slot != erased) index_.Insert(slot->hash(), slot);
    }
  }
  void RebuildIndex(size_t size) {
    Index index(size, allocator_);
    for (Position position; Slot* const slot = Next(position); ++position) {
      index.Insert(slot->hash(), slot);
    }
    index_ = std::move(index);
    ++version_;
  }

  // Detaches a visible slot from its referent; if the referent expired first, the slot is still to
  // come through the retire list.
  void Detach(Slot* slot) {
    if constexpr (!kNotifies) polled_.Leave(Core::AsExternal(slot));
    if (Core::Detach(slot)) {
      ++detached_;
    } else {
      slot->set_expiry_pending(true);
    }
    slot->set_state(State::kErased);
  }

  // Takes up to PurgedSlots::kMax slots through the retire list. Amortised O(1) each.
  void Drain(PurgedSlots& purged);
  // Polls up to PurgedSlots::kMax slots of the ring, from where it stopped last.
  void Sweep(PurgedSlots& purged);

  // Returns the next slot that has come through the retire list.
  Slot* NextRetired() {
    if (retired_ == nullptr && core_ != nullptr) retired_ = core_->retire_list.TakeAll();
    Slot* const slot = retired_;
    if (slot != nullptr) retired_ = slot->next();
    return slot;
  }

  // Ends the table without waiting for slots that other threads are about to push.
  void Shutdown() {
    // Repeats if destructors have added entries meanwhile.
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
  size_t in_index_ = 0;  // visible slots
  uint64_t version_ = 0;
  // Totals: slots inserted, and slots detached before their referents expired.
  size_t inserted_ = 0;
  size_t detached_ = 0;
  Slot* retired_ = nullptr;  // taken from the retire list but not yet handled, linked by next()
  PollingRing<typename Core::External, Core> polled_;  // visible slots, if the handle can't notify
  Position pop_;                                       // where the next NextToPop begins
};

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
void WeakTable<H, Payload, kLifetime, Allocator>::Drain(PurgedSlots& purged) {
  for (Slot* slot; !purged.full() && (slot = NextRetired()) != nullptr;) {
    const bool first_time = slot->expiry_pending();
    slot->set_expiry_pending(false);
    switch (slot->state()) {
      case State::kVisible:
        RemoveFromIndex(slot);
        slot->set_state(State::kDestroying);
        purged.AddEntry(slot);
        break;
      case State::kErased:
        slot->set_state(State::kDestroying);
        purged.Add(slot);
        break;
      case State::kDestroying:  // the frame that destroys its payload frees the slot
        purged.Count();
        break;
      default:
        if (first_time) {
          core_->FinishErasure(slot, Core::kRetiredReferences);
        } else {
          core_->Free(slot);
        }
        purged.Count();
    }
  }
}

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
void WeakTable<H, Payload, kLifetime, Allocator>::Sweep(PurgedSlots& purged) {
  while (!polled_.empty() && !purged.full()) {
    auto* const slot = polled_.Next();
    if (slot->expired()) {
      polled_.Leave(slot);
      RemoveFromIndex(slot);
      slot->set_state(State::kDestroying);
      purged.AddEntry(slot);
    } else {
      polled_.Pass();
      purged.Count();
    }
  }
}

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
void WeakTable<H, Payload, kLifetime, Allocator>::CheckInvariantsForTesting() const {
  index_.CheckInvariantsForTesting(in_index_);
  Check(!index_.needs_refill(), "CheckInvariantsForTesting",
        "the index has too many counts that were not decremented");
  size_t live = 0;
  size_t alive = 0;
  for (Position position; const Slot* const slot = Next(position); ++position) {
    const auto is_it = [&](const Slot& found) { return &found == slot; };
    Check(Find(slot->hash(), is_it) == slot, "CheckInvariantsForTesting",
          "a visible slot is not in the index");
    ++live;
    if (!slot->expired()) ++alive;
  }
  Check(live == in_index_, "CheckInvariantsForTesting",
        "the table has lost count of its visible slots");
  if constexpr (kNotifies)
    Check(alive == size(), "CheckInvariantsForTesting", "size() is not exact");
  if (core_ != nullptr) core_->CheckInvariantsForTesting();
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_WEAK_TABLE_H_
