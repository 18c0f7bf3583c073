// SPDX-License-Identifier: Apache-2.0
// What of a concurrent table may outlive it: its slots, and the retire_list through which they
// return.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_CORE_H_

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/concurrent/concurrent_slot.h"
#include "weakcache/cache/internal/slot/retire_list.h"
#include "weakcache/cache/internal/slot/slot_pages.h"
#include "weakcache/cache/internal/slot/teardown_count.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/referent_storage.h"

namespace weakcache::internal {

template <typename H, typename Payload>
class ConcurrentCore {
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;
  using Policy = typename AtomicsOf<H>::Policy;
  using Allocator = typename Policy::template Allocator<char>;
  using State = ConcurrentSlotState;

  // What each page begins with: near its slots, for the threads that drop last references.
  class PageHeader : public BasicWatcherOwner<Policy> {
   public:
    // A slot's end does nothing, but a model checker sees late accesses by it.
    static constexpr bool kEndsSlots = !std::is_same_v<Policy, StdAtomics>;

    explicit PageHeader(ConcurrentCore* core) : core_(core) {}

    auto& retire_list() { return core_->retire_list; }
    static void DestroyPayload(ConcurrentSlot<H, Payload>* slot) {
      ConcurrentCore::DestroyPayload(slot);
    }
    // The slot may be gone afterwards, and so may the page.
    void Push(ConcurrentSlot<H, Payload>* slot) {
      if (!core_->retire_list.Push(slot) && teardown_count_.Decrement()) core_->EndPage(slot);
    }

    // Of a embedded whose object has ended: the weak reference that the strong ones shared goes
    // along.
    void PushExpired(ConcurrentSlot<H, Payload>* slot) {
      if (core_->retire_list.Push(slot)) return;
      // Nobody takes it any more. The last reference leaves once more, as by FreeBlock; that can't
      // be the last departure, since this one is still to come.
      if (slot->DropWeak()) static_cast<void>(teardown_count_.Decrement());
      if (teardown_count_.Decrement()) core_->EndPage(slot);
    }

    [[nodiscard]] bool SetRemaining(size_t remaining) {
      return teardown_count_.SetRemaining(remaining);
    }

   private:
    void OnClaimed() noexcept override { core_->retire_list.CountExpired(); }
    // The slot is the table's until it has come through the retire_list; after the table's end it
    // is this thread's to let go of.
    void OnExpired(BasicWatcher<Policy>* watcher) noexcept override {
      if constexpr (kNotifies) {
        auto* const external = static_cast<External*>(watcher);
        if constexpr (requires { ColdPartAt(external)->OnObjectExpired(); }) {
          ColdPartAt(external)->OnObjectExpired();
        }
        if (!core_->retire_list.Push(external)) external->ReleaseStrong();
      }
    }

    ConcurrentCore* const core_;
    BasicTeardownCount<Policy> teardown_count_;  // of pushes, after the table's end
  };

 public:
  using Slot = ConcurrentSlot<H, Payload>;
  using Embedded = ConcurrentEmbeddedSlot<H, Payload, PageHeader>;
  using External = ConcurrentExternalSlot<H, Payload, PageHeader>;
  using Cold = typename ColdPartOf<Payload>::type;
  using EmbeddedSlots = SlotPages<Embedded, PageHeader, Allocator, Cold>;
  using ExternalSlots = SlotPages<External, PageHeader, Allocator, Cold>;

  // A place in the links' pages, or after them in the residents'.
  class Position {
   public:
    Position& operator++() {
      ++(in_embedded_slots_ ? embedded_.slot : external_.slot);
      return *this;
    }

   private:
    friend class ConcurrentCore;
    bool in_embedded_slots_ = false;
    typename ExternalSlots::Position external_;
    typename EmbeddedSlots::Position embedded_;
  };

  static ConcurrentCore* New() {
    Memory<ConcurrentCore, Allocator> memory{Allocator()};
    ::new (static_cast<void*>(memory.get())) ConcurrentCore;
    return memory.release();
  }
  ConcurrentCore(const ConcurrentCore&) = delete;
  ConcurrentCore& operator=(const ConcurrentCore&) = delete;

  static Embedded* AsEmbedded(Slot* slot) { return static_cast<Embedded*>(slot); }
  // Another reference to the object of a embedded that the caller is counted in at.
  static H Share(Slot* slot) {
    slot->AddStrong();
    return AsEmbedded(slot)->Adopt();
  }
  static External* AsExternal(Slot* slot) { return static_cast<External*>(slot); }

  // Of a payload that has one. While there is none, it is memory for it.
  static Cold* ColdPartAt(Slot* slot) {
    return static_cast<Cold*>(slot->is_external() ? ExternalSlots::cold_part(AsExternal(slot))
                                                  : EmbeddedSlots::cold_part(AsEmbedded(slot)));
  }
  static void DestroyPayload(Slot* slot) {
    if constexpr (!std::is_void_v<Cold>) std::destroy_at(ColdPartAt(slot));
    slot->DestroyPayload();
  }

  template <bool kEmbedded>
  Slot* Allocate() {
    if constexpr (kEmbedded) {
      return embedded_slots_.Allocate(this);
    } else {
      return external_slots_.Allocate(this);
    }
  }
  template <bool kEmbedded>
  Slot* AllocateFree() {
    if constexpr (kEmbedded) {
      return embedded_slots_.AllocateFree();
    } else {
      return external_slots_.AllocateFree();
    }
  }
  void Free(Slot* slot) {
    slot->set_state(State::kFree);
    if (slot->is_external()) {
      external_slots_.Free(AsExternal(slot));
    } else {
      embedded_slots_.Free(AsEmbedded(slot));
    }
  }

  // Lets go of a embedded that has come through the retire_list for its object's end: its weak
  // reference and the table's.
  void ReclaimEmbedded(Slot* slot) {
    slot->set_state(State::kRetired);
    if (slot->DropWeak(2)) Free(slot);
  }

  // How many slots there are, free or not.
  size_t size() const { return external_slots_.size() + embedded_slots_.size(); }
  // The first slot at or after `position`, which becomes its position; null at the end.
  Slot* At(Position& position) const {
    if (!position.in_embedded_slots_) {
      if (Slot* const slot = external_slots_.At(position.external_)) return slot;
      position.in_embedded_slots_ = true;
    }
    return embedded_slots_.At(position.embedded_);
  }

  // Ends the core, or leaves it to the last thread that still needs a slot of it: for objects that
  // live on, or weak references to them, or a watcher that is just being told. `arrived` has been
  // taken from the retire_list. Destructors of keys run.
  void Shutdown(Slot* arrived) {
    Drain(arrived);
    Drain(retire_list.Close());
    size_t pages_left = 0;
    const auto leave = [&](PageHeader* page, auto* slots, size_t size) {
      size_t outstanding = 0;
      for (size_t i = 0; i < size; ++i) outstanding += CountOutstanding(&slots[i]);
      if (page->SetRemaining(outstanding)) {
        DeletePage(page, slots);
      } else {
        ++pages_left;
      }
    };
    external_slots_.Shutdown(leave);
    embedded_slots_.Shutdown(leave);
    if (teardown_count_.SetRemaining(pages_left)) Discard(Allocator(), this);
  }

  void CheckInvariantsForTesting() const {
    external_slots_.CheckInvariantsForTesting();
    embedded_slots_.CheckInvariantsForTesting();
  }

  BasicRetireList<Policy, Slot> retire_list;
  // What the payloads need to the last.
  std::shared_ptr<const void> keep_alive;

 private:
  ConcurrentCore() = default;

  // Lets go of what came through the retire_list.
  void Drain(Slot* slot) {
    while (slot != nullptr) {
      Slot* const arrived = std::exchange(slot, slot->next());
      if (arrived->state() == State::kRetired) {
        Free(arrived);
      } else if (arrived->is_external()) {
        arrived->set_state(State::kErased);
        arrived->ReleaseStrong();
      } else {
        ReclaimEmbedded(arrived);
      }
    }
  }

  // Lets go of what has not come through; returns how often the slot will be pushed to the closed
  // retire_list, or has been.
  static size_t CountOutstanding(Slot* slot) {
    switch (slot->state()) {
      case State::kFree:
      case State::kUnderConstruction:
        return 0;
      case State::kRetired:
        return 1;
      case State::kVisible:
      case State::kErased:
        break;
    }
    // For its object's end, and when the last weak reference to that goes.
    if (!slot->is_external()) return slot->DropWeak() ? 1 : 2;
    if (slot->state() == State::kErased) return 1;
    // For the external's end. If the watcher can't be removed, the thread that is being told lets
    // go of the table's reference, which may be at once: counted in here, the handle stays.
    if (!slot->TryAddStrong()) return 1;
    if (AsExternal(slot)->Unwatch()) slot->ReleaseStrong();
    slot->ReleaseStrong();
    return 1;
  }

  // By the last thread that needs a page, after the table's end.
  void EndPage(Slot* slot) {
    auto* const page = static_cast<PageHeader*>(slot->page());
    if (slot->is_external()) {
      DeletePage(page, AsExternal(slot));
    } else {
      DeletePage(page, AsEmbedded(slot));
    }
    if (teardown_count_.Decrement()) Discard(Allocator(), this);
  }
  static void DeletePage(PageHeader* page, External*) { ExternalSlots::Delete(page, Allocator()); }
  static void DeletePage(PageHeader* page, Embedded*) { EmbeddedSlots::Delete(page, Allocator()); }

  ExternalSlots external_slots_{Allocator()};
  EmbeddedSlots embedded_slots_{Allocator()};
  BasicTeardownCount<Policy> teardown_count_;  // of pages, after the table's end
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_CORE_H_
