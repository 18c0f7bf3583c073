// What of a weak table may outlive it: its slots, and the queue through which expired ones return.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_CORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "cache/internal/expired_queue.h"
#include "cache/internal/slot_pages.h"
#include "cache/internal/table_slot.h"
#include "weakref/handle_traits.h"
#include "weakref/internal/atomics_policy.h"
#include "weakref/internal/control_block.h"
#include "weakref/internal/referent_storage.h"

namespace weakcache::internal {

// When the value in a slot is destroyed.
enum class PayloadLifetime {
  kUntilPurge,         // by the container, when it removes the slot
  kUntilReferentDies,  // by whichever thread drops the last reference, if the handle notifies
};

// An object in memory of its own, to be made the referent of a resident slot.
template <typename T>
struct ObjectDiscarder {
  void operator()(T* object) const { Discard(std::allocator<char>(), object); }
};
template <typename T, typename... Args>
std::unique_ptr<T, ObjectDiscarder<T>> NewObject(Args&&... args) {
  Memory<T, std::allocator<char>> memory{std::allocator<char>()};
  Construct(std::allocator<char>(), memory.get(), std::forward<Args>(args)...);
  return std::unique_ptr<T, ObjectDiscarder<T>>(memory.release());
}

// As well, in a slot.
template <typename T>
struct ObjectDestroyer {
  void operator()(T* object) const { std::destroy_at(object); }
};
template <typename T, typename... Args>
std::unique_ptr<T, ObjectDestroyer<T>> NewObjectIn(ObjectInSlot<T>& memory, Args&&... args) {
  Construct(std::allocator<char>(), memory.get(), std::forward<Args>(args)...);
  return std::unique_ptr<T, ObjectDestroyer<T>>(memory.get());
}

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
class TableCore {
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;
  using Policy = typename AtomicsOf<H>::Policy;
  using State = SlotState;

  // What each page begins with: near its slots, for the threads that drop last references.
  class PageOwner : public BasicWatcherOwner<Policy> {
   public:
    // A slot's end does nothing, but a model checker sees late accesses by it.
    static constexpr bool kEndsSlots = !std::is_same_v<Policy, StdAtomics>;

    explicit PageOwner(TableCore* core) : core_(core) {}

    auto& queue() { return core_->queue; }
    // The slot may be gone afterwards, and so may the page.
    void Push(TableSlot<H, Payload>* slot) {
      if (!core_->queue.Push(slot)) Leave(slot);
    }
    // Of a resident whose object has ended: the weak reference that the strong ones shared goes
    // along.
    void PushExpired(ResidentSlotBase<H, Payload>* slot) {
      if (core_->queue.Push(slot)) return;
      // Nobody takes it any more. The last reference leaves once more, as by FreeBlock; that can't
      // be the last departure, since this one is still to come.
      if (slot->DropWeak()) static_cast<void>(departures_.Leave());
      Leave(slot);
    }
    // After the table's end. As well.
    void Leave(TableSlot<H, Payload>* slot) {
      if (departures_.Leave()) core_->EndPage(slot);
    }

    [[nodiscard]] bool LeaveTo(size_t still_to_leave) {
      return departures_.LeaveTo(still_to_leave);
    }

   private:
    void OnTaken() noexcept override { core_->queue.CountExpired(); }
    void OnExpired(BasicWatcher<Policy>* watcher) noexcept override {
      if constexpr (kNotifies) {
        auto* const slot = static_cast<GuestSlot<H, Payload>*>(watcher);
        if constexpr (kLifetime == PayloadLifetime::kUntilReferentDies) slot->DestroyPayload();
        Push(slot);
      }
    }

    TableCore* const core_;
    BasicDepartures<Policy> departures_;  // of pushes, after the table's end
  };

 public:
  using Slot = TableSlot<H, Payload>;
  using Guest = std::conditional_t<kNotifies, GuestSlot<H, Payload>, SweptSlot<H, Payload>>;
  using Resident = ResidentSlot<H, Payload, PageOwner>;
  using GuestCold = std::conditional_t<kNotifies, void, SweepLinks<Guest>>;
  using Guests = SlotPages<Guest, PageOwner, Allocator, GuestCold>;
  using Residents =
      std::conditional_t<kNotifies, SlotPages<Resident, PageOwner, Allocator>, Guests>;

  // A place in the guests' pages, or after them in the residents'.
  class Position {
   public:
    Position& operator++() {
      ++(in_residents_ ? resident_.slot : guest_.slot);
      return *this;
    }

   private:
    friend class TableCore;
    bool in_residents_ = false;
    typename Guests::Position guest_;
    typename Residents::Position resident_;
  };

  // A slot with its payload; both go again unless the slot is taken.
  class NewSlot {
   public:
    template <typename... Args>
    NewSlot(TableCore* core, Slot* slot, Args&&... payload) : core_(core), slot_(slot) {
      slot_->set_state(State::kPrepared);
      struct Unused {
        ~Unused() {
          if (slot != nullptr) core->Free(slot);
        }
        TableCore* core;
        Slot* slot;
      } unused{core_, slot_};
      slot_->MakePayload(std::forward<Args>(payload)...);
      unused.slot = nullptr;
    }
    NewSlot(const NewSlot&) = delete;
    NewSlot& operator=(const NewSlot&) = delete;
    ~NewSlot() {
      if (slot_ == nullptr) return;
      slot_->DestroyPayload();
      core_->Free(slot_);
    }

    const TableCore* core() const { return core_; }
    Payload& payload() { return slot_->payload(); }
    Slot* Take() { return std::exchange(slot_, nullptr); }

   private:
    TableCore* const core_;
    Slot* slot_;
  };

  // A few slots that are out of the index, and emptied when this goes.
  class Removed {
   public:
    static constexpr size_t kMax = 4;

    template <typename Fill>
    Removed(TableCore* core, Fill fill) : core_(core) {
      if (core_ != nullptr) fill(*this);
    }
    Removed(const Removed&) = delete;
    Removed& operator=(const Removed&) = delete;
    ~Removed() {
      for (size_t i = 0; i < slots_used_; ++i) {
        core_->EndExpiredPayload(slots_[i]);
        core_->FinishEmptying(slots_[i], kArrivedReferences);
      }
    }

    void AddEntry(Slot* slot) {
      ++entries_;
      Add(slot);
    }
    void Add(Slot* slot) {
      slots_[slots_used_++] = slot;
      Count();
    }
    // A slot was looked at.
    void Count() { ++count_; }
    bool full() const { return count_ == kMax; }
    // Whether there was any to look at.
    explicit operator bool() const { return count_ != 0; }
    size_t entries() const { return entries_; }

   private:
    TableCore* const core_;
    Slot* slots_[kMax];
    size_t slots_used_ = 0;
    size_t count_ = 0;
    size_t entries_ = 0;
  };

  static TableCore* Create(const Allocator& allocator) {
    typename CoreTraits::allocator_type rebound(allocator);
    return ::new (static_cast<void*>(CoreTraits::allocate(rebound, 1))) TableCore(allocator);
  }

  template <bool kResident>
  Slot* Allocate() {
    if constexpr (kResident) {
      Resident* const slot = residents_.Allocate(this);
      auto* const page = static_cast<PageOwner*>(slot->page());
      // The control block starts anew.
      if constexpr (PageOwner::kEndsSlots) std::destroy_at(slot);
      return ::new (static_cast<void*>(slot)) Resident(page);
    } else {
      return guests_.Allocate(this);
    }
  }
  static Guest* AsGuest(Slot* slot) { return static_cast<Guest*>(slot); }
  // Of a swept slot.
  static auto& LinksOf(Guest* slot) { return *static_cast<GuestCold*>(Guests::ColdOf(slot)); }
  static Resident* AsResident(Slot* slot) {
    return static_cast<Resident*>(static_cast<ResidentSlotBase<H, Payload>*>(slot));
  }

  void Free(Slot* slot) {
    if (abandoned_) [[unlikely]] {
      // Its container has ended while this slot's payload did.
      static_cast<PageOwner*>(slot->page())->Leave(slot);
      return;
    }
    slot->set_state(State::kFree);
    if constexpr (kNotifies) {
      if (slot->is_resident()) {
        residents_.Free(AsResident(slot));
        return;
      }
    }
    guests_.Free(AsGuest(slot));
  }

  // False if the expiry comes first.
  static bool Detach(Slot* slot) {
    if constexpr (kNotifies) {
      if (slot->is_resident()) return AsResident(slot)->Detach();
    }
    return AsGuest(slot)->Detach();
  }

  // Empties a slot that is out of the index, and frees it unless something is still to come through
  // the queue. Runs user code, which may use the table, but finds this slot neither to empty nor to
  // reuse.
  void Empty(Slot* slot) {
    if (slot->state() == State::kStranded) {
      slot->set_state(State::kEmptyingStranded);
      EndExpiredPayload(slot);
      if (slot->state() == State::kArrived) {
        FinishEmptying(slot, kArrivedReferences);
      } else if (abandoned_) {
        FinishEmptying(slot, 1);
      } else {
        slot->set_state(State::kLeaving);
      }
    } else {
      slot->set_state(State::kEmptying);
      slot->DestroyPayload();
      FinishEmptying(slot, 1);
    }
  }
  // Of an expired slot: what the thread that takes it to the queue leaves to the container.
  void EndExpiredPayload(Slot* slot) {
    if constexpr (!kNotifies || kLifetime == PayloadLifetime::kUntilPurge) slot->DestroyPayload();
  }
  // The weak references to a resident that has come through the queue for its object's end: the
  // container's, and the one that the strong references shared.
  static constexpr int kArrivedReferences = 2;
  // The slot is without payload and not on its way. Afterwards it is free, or returning. So many
  // weak references to a resident are given up.
  void FinishEmptying(Slot* slot, int references) {
    if constexpr (kNotifies) {
      if (slot->is_resident()) {
        slot->set_state(State::kReturning);
        if (AsResident(slot)->DropWeak(references)) Free(slot);
        return;
      }
    }
    AsGuest(slot)->DropReferent();
    Free(slot);
  }

  // How many slots there are, free or not.
  size_t size() const { return guests_.size() + residents_.size(); }

  // The first slot at or after `position`, which becomes its position; null at the end.
  Slot* At(Position& position) const {
    if (!position.in_residents_) {
      if (Slot* const slot = guests_.At(position.guest_)) return slot;
      position.in_residents_ = kNotifies;
    }
    return residents_.At(position.resident_);
  }

  void DropFreePages() {
    guests_.DropFreePages();
    if constexpr (kNotifies) residents_.DropFreePages();
  }

  // Ends the core, or leaves it to the last thread that still needs a slot of it: those that are on
  // their way, and residents whose objects, or weak references to them, are still there.
  void Abandon() {
    for (Slot* slot = queue.Close(); slot != nullptr;) {
      Slot* const arrived = std::exchange(slot, slot->next());
      if (arrived->state() == State::kLeaving) {
        FinishEmptying(arrived, kArrivedReferences);
      } else if (arrived->state() == State::kEmptyingStranded) {
        arrived->set_state(State::kArrived);
      } else {
        Free(arrived);
      }
    }
    abandoned_ = true;
    size_t pages_left = 0;
    const auto leave = [&](PageOwner* page, auto* slots, size_t size) {
      size_t still_to_push = 0;
      for (size_t i = 0; i < size; ++i) still_to_push += LeaveBehind(&slots[i]);
      if (page->LeaveTo(still_to_push)) {
        DeletePage(page, slots);
      } else {
        ++pages_left;
      }
    };
    guests_.Abandon(leave);
    if constexpr (kNotifies) residents_.Abandon(leave);
    if (departures_.LeaveTo(pages_left)) Delete();
  }

  void Validate() const {
    guests_.Validate();
    if constexpr (kNotifies) residents_.Validate();
  }

  BasicExpiredQueue<Policy, Slot> queue;

 private:
  using CoreTraits = std::allocator_traits<
      typename std::allocator_traits<Allocator>::template rebind_alloc<TableCore>>;

  explicit TableCore(const Allocator& allocator)
      : allocator_(allocator), guests_(allocator), residents_(allocator) {}

  // Lets go of what a slot still refers to; returns how often it will be pushed to the closed
  // queue, or has been, or will be freed by a frame further down the stack.
  static size_t LeaveBehind(Slot* slot) {
    if (slot->is_free()) return 0;
    if (slot->state() == State::kEmptyingStranded) return 2;
    if (slot->state() == State::kLeaving) {
      if constexpr (kNotifies) {
        if (slot->is_resident()) return AsResident(slot)->DropWeak() ? 1 : 2;
      }
      AsGuest(slot)->DropReferent();
    }
    return 1;
  }

  // By the last thread that needs a page, after the table's end.
  void EndPage(Slot* slot) {
    auto* const page = static_cast<PageOwner*>(slot->page());
    if constexpr (kNotifies) {
      if (slot->is_resident()) {
        DeletePage(page, AsResident(slot));
      } else {
        DeletePage(page, AsGuest(slot));
      }
    } else {
      DeletePage(page, AsGuest(slot));
    }
    if (departures_.Leave()) Delete();
  }
  void DeletePage(PageOwner* page, Guest*) { Guests::Delete(page, allocator_); }
  template <typename AnyResident>
  void DeletePage(PageOwner* page, AnyResident*) {
    Residents::Delete(page, allocator_);
  }
  void Delete() {
    typename CoreTraits::allocator_type rebound(allocator_);
    this->~TableCore();
    CoreTraits::deallocate(rebound, this, 1);
  }

  [[no_unique_address]] Allocator allocator_;
  Guests guests_;
  Residents residents_;
  BasicDepartures<Policy> departures_;  // of pages, after the table's end
  bool abandoned_ = false;              // only the container's thread looks at it
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_CORE_H_
