// What of a concurrent table may outlive it: its slots, and the queue through which they return.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CORE_H_

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "cache/internal/concurrent_slot.h"
#include "cache/internal/expired_queue.h"
#include "cache/internal/slot_pages.h"
#include "weakref/handle_traits.h"
#include "weakref/internal/atomics_policy.h"
#include "weakref/internal/control_block.h"
#include "weakref/internal/referent_storage.h"

namespace weakcache::internal {

template <typename H, typename Payload>
class ConcurrentCore {
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;
  using Policy = typename AtomicsOf<H>::Policy;
  using Allocator = typename Policy::template Allocator<char>;
  using State = ConcurrentSlotState;

  // What each page begins with: near its slots, for the threads that drop last references.
  class PageOwner : public BasicWatcherOwner<Policy> {
   public:
    // A slot's end does nothing, but a model checker sees late accesses by it.
    static constexpr bool kEndsSlots = !std::is_same_v<Policy, StdAtomics>;

    explicit PageOwner(ConcurrentCore* core) : core_(core) {}

    auto& queue() { return core_->queue; }
    static void DestroyPayload(ConcurrentSlot<H, Payload>* slot) {
      ConcurrentCore::DestroyPayload(slot);
    }
    // The slot may be gone afterwards, and so may the page.
    void Push(ConcurrentSlot<H, Payload>* slot) {
      if (!core_->queue.Push(slot) && departures_.Leave()) core_->EndPage(slot);
    }

    // Of a resident whose object has ended: the weak reference that the strong ones shared goes
    // along.
    void PushExpired(ConcurrentSlot<H, Payload>* slot) {
      if (core_->queue.Push(slot)) return;
      // Nobody takes it any more. The last reference leaves once more, as by FreeBlock; that can't
      // be the last departure, since this one is still to come.
      if (slot->DropWeak()) static_cast<void>(departures_.Leave());
      if (departures_.Leave()) core_->EndPage(slot);
    }

    [[nodiscard]] bool LeaveTo(size_t still_to_leave) {
      return departures_.LeaveTo(still_to_leave);
    }

   private:
    void OnTaken() noexcept override { core_->queue.CountExpired(); }
    // The slot is the table's until it has come through the queue; after the table's end it is this
    // thread's to let go of.
    void OnExpired(BasicWatcher<Policy>* watcher) noexcept override {
      if constexpr (kNotifies) {
        auto* const link = static_cast<Link*>(watcher);
        if constexpr (requires { ColdAt(link)->OnObjectExpired(); }) {
          ColdAt(link)->OnObjectExpired();
        }
        if (!core_->queue.Push(link)) link->ReleaseStrong();
      }
    }

    ConcurrentCore* const core_;
    BasicDepartures<Policy> departures_;  // of pushes, after the table's end
  };

 public:
  using Slot = ConcurrentSlot<H, Payload>;
  using Resident = ConcurrentResident<H, Payload, PageOwner>;
  using Link = ConcurrentLink<H, Payload, PageOwner>;
  using Cold = typename ColdOf<Payload>::type;
  using Residents = SlotPages<Resident, PageOwner, Allocator, Cold>;
  using Links = SlotPages<Link, PageOwner, Allocator, Cold>;

  // A place in the links' pages, or after them in the residents'.
  class Position {
   public:
    Position& operator++() {
      ++(in_residents_ ? resident_.slot : link_.slot);
      return *this;
    }

   private:
    friend class ConcurrentCore;
    bool in_residents_ = false;
    typename Links::Position link_;
    typename Residents::Position resident_;
  };

  static ConcurrentCore* New() {
    Memory<ConcurrentCore, Allocator> memory{Allocator()};
    ::new (static_cast<void*>(memory.get())) ConcurrentCore;
    return memory.release();
  }
  ConcurrentCore(const ConcurrentCore&) = delete;
  ConcurrentCore& operator=(const ConcurrentCore&) = delete;

  static Resident* AsResident(Slot* slot) { return static_cast<Resident*>(slot); }
  // Another reference to the object of a resident that the caller is counted in at.
  static H Share(Slot* slot) {
    slot->AddStrong();
    return AsResident(slot)->Adopt();
  }
  static Link* AsLink(Slot* slot) { return static_cast<Link*>(slot); }

  // Of a payload that has one. While there is none, it is memory for it.
  static Cold* ColdAt(Slot* slot) {
    return static_cast<Cold*>(slot->is_link() ? Links::ColdOf(AsLink(slot))
                                              : Residents::ColdOf(AsResident(slot)));
  }
  static void DestroyPayload(Slot* slot) {
    if constexpr (!std::is_void_v<Cold>) std::destroy_at(ColdAt(slot));
    slot->DestroyPayload();
  }

  template <bool kResident>
  Slot* Allocate() {
    if constexpr (kResident) {
      return residents_.Allocate(this);
    } else {
      return links_.Allocate(this);
    }
  }
  template <bool kResident>
  Slot* AllocateFree() {
    if constexpr (kResident) {
      return residents_.AllocateFree();
    } else {
      return links_.AllocateFree();
    }
  }
  void Free(Slot* slot) {
    slot->set_state(State::kFree);
    if (slot->is_link()) {
      links_.Free(AsLink(slot));
    } else {
      residents_.Free(AsResident(slot));
    }
  }

  // Lets go of a resident that has come through the queue for its object's end: its weak reference
  // and the table's.
  void DropArrived(Slot* slot) {
    slot->set_state(State::kReturning);
    if (slot->DropWeak(2)) Free(slot);
  }

  // How many slots there are, free or not.
  size_t size() const { return links_.size() + residents_.size(); }
  // The first slot at or after `position`, which becomes its position; null at the end.
  Slot* At(Position& position) const {
    if (!position.in_residents_) {
      if (Slot* const slot = links_.At(position.link_)) return slot;
      position.in_residents_ = true;
    }
    return residents_.At(position.resident_);
  }

  // Ends the core, or leaves it to the last thread that still needs a slot of it: for objects that
  // live on, or weak references to them, or a watcher that is just being told. `arrived` has been
  // taken from the queue. Destructors of keys run.
  void Abandon(Slot* arrived) {
    Drain(arrived);
    Drain(queue.Close());
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
    links_.Abandon(leave);
    residents_.Abandon(leave);
    if (departures_.LeaveTo(pages_left)) Discard(Allocator(), this);
  }

  void Validate() const {
    links_.Validate();
    residents_.Validate();
  }

  BasicExpiredQueue<Policy, Slot> queue;
  // What the payloads need to the last.
  std::shared_ptr<const void> companion;

 private:
  ConcurrentCore() = default;

  // Lets go of what came through the queue.
  void Drain(Slot* slot) {
    while (slot != nullptr) {
      Slot* const arrived = std::exchange(slot, slot->next());
      if (arrived->state() == State::kReturning) {
        Free(arrived);
      } else if (arrived->is_link()) {
        arrived->set_state(State::kRemoved);
        arrived->ReleaseStrong();
      } else {
        DropArrived(arrived);
      }
    }
  }

  // Lets go of what has not come through; returns how often the slot will be pushed to the closed
  // queue, or has been.
  static size_t LeaveBehind(Slot* slot) {
    switch (slot->state()) {
      case State::kFree:
      case State::kPrepared:
        return 0;
      case State::kReturning:
        return 1;
      case State::kEntered:
      case State::kRemoved:
        break;
    }
    // For its object's end, and when the last weak reference to that goes.
    if (!slot->is_link()) return slot->DropWeak() ? 1 : 2;
    if (slot->state() == State::kRemoved) return 1;
    // For the link's end. If the watcher can't be removed, the thread that is being told lets go of
    // the table's reference, which may be at once: counted in here, the handle stays.
    if (!slot->TryAddStrong()) return 1;
    if (AsLink(slot)->Unwatch()) slot->ReleaseStrong();
    slot->ReleaseStrong();
    return 1;
  }

  // By the last thread that needs a page, after the table's end.
  void EndPage(Slot* slot) {
    auto* const page = static_cast<PageOwner*>(slot->page());
    if (slot->is_link()) {
      DeletePage(page, AsLink(slot));
    } else {
      DeletePage(page, AsResident(slot));
    }
    if (departures_.Leave()) Discard(Allocator(), this);
  }
  static void DeletePage(PageOwner* page, Link*) { Links::Delete(page, Allocator()); }
  static void DeletePage(PageOwner* page, Resident*) { Residents::Delete(page, Allocator()); }

  Links links_{Allocator()};
  Residents residents_{Allocator()};
  BasicDepartures<Policy> departures_;  // of pages, after the table's end
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CORE_H_
