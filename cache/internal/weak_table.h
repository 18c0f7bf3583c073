// The engine under all weak containers: slots that watch their referents, an index over them, and
// the queue through which expired slots come back.
//
// A slot's life: free -> live (in the index, on its referent's watcher list) -> back to free in one
// of two ways. Erased by the container: off the watcher list, out of the index, emptied. Or
// expired: taken off the list by the releasing thread and pushed to the queue; the container takes
// it out of the index and empties it when it drains the queue. A slot that is erased while it is on
// that way leaves the index and is emptied at once, and becomes free when it arrives. An index
// never has two live slots for one key.
//
// User code (destructors of payloads, allocators of referents) runs only while the table is
// consistent: it may use the same container.
#ifndef WEAKCACHE_CACHE_INTERNAL_WEAK_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_WEAK_TABLE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "cache/internal/expired_queue.h"
#include "cache/internal/slot_index.h"
#include "cache/internal/slot_pages.h"
#include "weakref/internal/check.h"
#include "weakref/internal/control_block.h"
#include "weakref/ref.h"
#include "weakref/weak_ref.h"

namespace weakcache::internal {

// Spreads what a hash function gives over 32 bits, the upper ones first (Knuth's multiplicative
// hash), so that an identity hash is good enough.
inline uint32_t SpreadHash(size_t hash) {
  return static_cast<uint32_t>((uint64_t{hash} * 0x9E3779B97F4A7C15u) >> 32);
}

// When the value in a slot is destroyed.
enum class PayloadLifetime {
  kUntilPurge,         // by the container, when it removes the slot
  kUntilReferentDies,  // by whichever thread drops the last Ref to the referent
};

template <typename Referent, typename Payload, PayloadLifetime kLifetime>
class WeakTable {
  enum class State : uint32_t {
    kFree,
    kLive,      // in the index; all others are out of it
    kRemoved,   // on no list, still to be emptied
    kEmptying,  // on no list, being emptied
    // On its way through the expired queue, and:
    kStranded,          // still to be emptied
    kEmptyingStranded,  // being emptied
    kArrived,           // being emptied, and it has come through meanwhile
    kLeaving,           // emptied
  };

 public:
  class Slot : private Watcher {
   public:
    const WeakRef<Referent>& referent() const { return referent_; }
    Payload& payload() { return payload_; }
    const Payload& payload() const { return payload_; }

   private:
    friend class WeakTable;
    friend class SlotPages<Slot>;

    Slot(WatcherOwner* owner, uint32_t index) : Watcher(owner), index_(index) {}
    ~Slot() = delete;  // its pages go as plain memory: a slot is emptied before

    State state() const { return static_cast<State>(state_); }
    void set_state(State state) { state_ = static_cast<uint32_t>(state); }
    bool TryUnwatch() { return RefAccess::Block(referent_)->RemoveWatcher(this); }
    void Watch() { RefAccess::Block(referent_)->AddWatcher(this); }

    WeakRef<Referent> referent_;
    uint32_t hash_ = 0;
    uint32_t index_ : SlotPages<Slot>::kIndexBits;
    uint32_t state_ : 32 - SlotPages<Slot>::kIndexBits = 0;
    union {
      Payload payload_;  // constructed while live; its end is settled by kLifetime
    };
  };

  WeakTable() = default;
  WeakTable(WeakTable&& other) noexcept { swap(other); }
  WeakTable& operator=(WeakTable&& other) noexcept {
    WeakTable(std::move(other)).swap(*this);
    return *this;
  }
  ~WeakTable() {
    if (shared_ != nullptr) Abandon();
  }

  void swap(WeakTable& other) noexcept {
    std::swap(shared_, other.shared_);
    std::swap(index_, other.index_);
    std::swap(in_index_, other.in_index_);
    std::swap(inserted_, other.inserted_);
    std::swap(unwatched_, other.unwatched_);
    std::swap(arrived_, other.arrived_);
    std::swap(waiting_, other.waiting_);
  }

  // Entries whose referents' last release has not happened before the call.
  size_t size() const {
    return shared_ == nullptr ? 0 : inserted_ - unwatched_ - shared_->expired_count();
  }

  // The live slot with this hash for which `equal(slot)` is true, or null. Its referent may have
  // expired.
  template <typename Equal>
  Slot* Find(uint32_t hash, Equal&& equal) const {
    const uint32_t found = index_.Find(hash, [&](uint32_t index) {
      const Slot& slot = shared_->slots[index];
      return slot.hash_ == hash && equal(slot);
    });
    return found == SlotIndex::kNone ? nullptr : &shared_->slots[found];
  }

  // Adds a slot, for a key that has none, and returns it and true. Should the payload's constructor
  // have added the key itself (a slot for which `equal(slot, payload)`), returns that slot and
  // false. If an allocation or the payload's constructor throws, nothing has changed.
  template <typename Equal, typename... Args>
  std::pair<Slot*, bool> Insert(uint32_t hash, Equal&& equal, const Ref<Referent>& referent,
                                Args&&... payload) {
    if (shared_ == nullptr) shared_ = new Shared;
    const size_t inserted_before = inserted_;
    NewSlot created(shared_, std::forward<Args>(payload)...);
    Check(created.shared == shared_, "insert", "a constructor has moved its own container");
    if (inserted_ != inserted_before) {
      const auto same_key = [&](const Slot& slot) { return equal(slot, created.slot->payload_); };
      if (Slot* const found = Find(hash, same_key)) return {found, false};
    }
    GrowIndex(in_index_ + 1);
    Slot* const slot = created.Keep();
    slot->hash_ = hash;
    slot->referent_ = referent;
    slot->set_state(State::kLive);
    index_.Insert(hash, slot->index_);
    ++in_index_;
    ++inserted_;
    slot->Watch();
    return {slot, true};
  }

  // Lets a live slot refer to another object, unless the expiry of its present one comes first:
  // false.
  bool Replace(Slot* slot, const Ref<Referent>& referent) {
    if (!slot->TryUnwatch()) return false;
    WeakRef<Referent> replaced = referent;
    slot->referent_.swap(replaced);
    slot->Watch();
    return true;
  }

  // Removes a live slot, whether its referent has expired or not, and destroys its payload.
  void Erase(Slot* slot) {
    index_.Erase(slot->hash_, slot->index_);
    --in_index_;
    Unwatch(slot);
    Empty(shared_, slot);
  }

  void Clear() {
    if (shared_ == nullptr) return;
    const uint32_t end = shared_->slots.end();
    for (uint32_t i = 0; i < end; ++i) {
      Slot& slot = shared_->slots[i];
      if (slot.state() == State::kLive) Unwatch(&slot);
    }
    index_.Clear();
    in_index_ = 0;
    // The table is empty and consistent: from here on user code may run.
    Shared* const shared = shared_;
    for (uint32_t i = 0; i < end; ++i) {
      Slot& slot = shared->slots[i];
      if (slot.state() == State::kRemoved || slot.state() == State::kStranded) Empty(shared, &slot);
    }
  }

  // Takes at most `limit` slots that have come through the queue; returns how many entries it
  // removed, which leaves out those that were gone already. Amortised O(1) each.
  size_t Purge(size_t limit) {
    Shared* const shared = shared_;
    Slot* removed = nullptr;
    size_t removed_entries = 0;
    for (Slot* slot; limit > 0 && (slot = NextArrival()) != nullptr; --limit) {
      switch (slot->state()) {
        case State::kLive:
          index_.Erase(slot->hash_, slot->index_);
          --in_index_;
          ++removed_entries;
          [[fallthrough]];
        case State::kStranded:
          slot->set_state(State::kEmptying);
          slot->set_next(removed);
          removed = slot;
          break;
        case State::kEmptyingStranded:
          slot->set_state(State::kArrived);
          break;
        default:
          Free(shared, slot);
      }
    }
    // The table is consistent: from here on user code may run.
    while (removed != nullptr) {
      Slot* const slot = removed;
      removed = static_cast<Slot*>(slot->next());
      EndExpired(slot);
      Free(shared, slot);
    }
    return removed_entries;
  }

  // What every operation that adds or removes does: more than it can add.
  void PurgeSome() { Purge(kPurgedPerOperation); }

  void Reserve(size_t count) {
    if (shared_ == nullptr) shared_ = new Shared;
    shared_->slots.Reserve(count, static_cast<WatcherOwner*>(shared_));
    GrowIndex(count);
  }

  // The first live slot at or after `position`, which becomes its position; null at the end. A slot
  // that is live during the whole iteration is visited once, whatever is inserted or erased
  // meanwhile.
  Slot* Next(uint32_t& position) const {
    const uint32_t end = shared_ == nullptr ? 0 : shared_->slots.end();
    for (; position < end; ++position) {
      Slot& slot = shared_->slots[position];
      if (slot.state() == State::kLive) return &slot;
    }
    return nullptr;
  }

 private:
  static constexpr size_t kPurgedPerOperation = 4;

  // What threads that release referents use: it stays until the last of them has left.
  struct Shared final : BasicExpiredQueue<StdAtomics> {
    void OnExpired(Watcher* watcher) noexcept override {
      if constexpr (kLifetime == PayloadLifetime::kUntilReferentDies) {
        std::destroy_at(&static_cast<Slot*>(watcher)->payload_);
      }
      if (this->Push(watcher)) delete this;
    }

    SlotPages<Slot> slots;
  };

  // A slot with its payload; both go again unless they are kept.
  struct NewSlot {
    template <typename... Args>
    explicit NewSlot(Shared* owner, Args&&... payload)
        : shared(owner), slot(owner->slots.Allocate(static_cast<WatcherOwner*>(owner))) {
      UnusedSlot unused{owner, slot};
      ::new (static_cast<void*>(&slot->payload_)) Payload(std::forward<Args>(payload)...);
      unused.slot = nullptr;
    }
    NewSlot(const NewSlot&) = delete;
    NewSlot& operator=(const NewSlot&) = delete;
    ~NewSlot() {
      if (slot != nullptr) Empty(shared, slot);
    }
    Slot* Keep() { return std::exchange(slot, nullptr); }

    Shared* const shared;
    Slot* slot;
  };

  struct UnusedSlot {
    ~UnusedSlot() {
      if (slot != nullptr) shared->slots.Free(slot);
    }
    Shared* const shared;
    Slot* slot;
  };

  void GrowIndex(size_t size) {
    if (size <= index_.max_size()) return;
    SlotIndex index(std::max(size, index_.max_size() + index_.max_size() / 2));
    uint32_t position = 0;
    for (Slot* slot; (slot = Next(position)) != nullptr; ++position) {
      index.Insert(slot->hash_, slot->index_);
    }
    index_ = std::move(index);
  }

  // Takes a live slot off its referent's list, unless its expiry comes first.
  void Unwatch(Slot* slot) {
    if (slot->TryUnwatch()) {
      ++unwatched_;
      slot->set_state(State::kRemoved);
    } else {
      slot->set_state(State::kStranded);
    }
  }

  // Empties a slot that is out of the index, and frees it unless it is still to come through the
  // queue. Runs user code, which may use the table, but finds this slot neither to empty nor to
  // reuse.
  static void Empty(Shared* shared, Slot* slot) {
    if (slot->state() == State::kStranded) {
      slot->set_state(State::kEmptyingStranded);
      EndExpired(slot);
      if (slot->state() == State::kArrived) {
        Free(shared, slot);
      } else {
        slot->set_state(State::kLeaving);
      }
    } else {
      slot->set_state(State::kEmptying);
      std::destroy_at(&slot->payload_);
      slot->referent_.reset();
      Free(shared, slot);
    }
  }

  // Ends what the thread that takes an expired slot to the queue leaves to the container.
  static void EndExpired(Slot* slot) {
    if constexpr (kLifetime == PayloadLifetime::kUntilPurge) std::destroy_at(&slot->payload_);
    slot->referent_.reset();
  }

  static void Free(Shared* shared, Slot* slot) {
    slot->set_state(State::kFree);
    shared->slots.Free(slot);
  }

  // The next slot that has come through the queue.
  Slot* NextArrival() {
    if (waiting_ == nullptr && shared_ != nullptr) waiting_ = shared_->TakeAll();
    if (waiting_ == nullptr) return nullptr;
    Watcher* const watcher = waiting_;
    waiting_ = watcher->next();
    ++arrived_;
    return static_cast<Slot*>(watcher);
  }

  // Ends the table without waiting for the slots that are on their way to the queue.
  void Abandon() {
    // Again if destructors have added entries meanwhile.
    do {
      Clear();
      Purge(SIZE_MAX);
    } while (in_index_ != 0 || waiting_ != nullptr);
    for (Watcher* watcher = shared_->Close(); watcher != nullptr; watcher = watcher->next()) {
      ++arrived_;
    }
    // Every slot has been taken off its list, here or by a release, so the count of the latter is
    // final.
    if (shared_->LeaveTo(shared_->expired_count() - arrived_)) delete shared_;
  }

  Shared* shared_ = nullptr;
  SlotIndex index_;
  size_t in_index_ = 0;  // live slots
  // Since the beginning: slots inserted, taken off their lists by the container, come through the
  // queue.
  size_t inserted_ = 0;
  size_t unwatched_ = 0;
  size_t arrived_ = 0;
  Watcher* waiting_ = nullptr;  // taken from the queue but not yet looked at, linked by next()
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_WEAK_TABLE_H_
