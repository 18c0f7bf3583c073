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
#include "weakcache/cache/internal/slot/page_header.h"
#include "weakcache/cache/internal/slot/retire_list.h"
#include "weakcache/cache/internal/slot/slot_pages.h"
#include "weakcache/cache/internal/slot/table_pages.h"
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

  // See PageHeaderBase.
  class PageHeader : public PageHeaderBase<ConcurrentCore, Policy> {
   public:
    explicit PageHeader(ConcurrentCore* core) : PageHeaderBase<ConcurrentCore, Policy>(core) {}

    static void DestroyPayload(ConcurrentSlot<H, Payload>* slot) {
      ConcurrentCore::DestroyPayload(slot);
    }

   private:
    // The slot is the table's until it has come through the retire_list; after the table's end it
    // is this thread's to let go of.
    void OnExpired(BasicWatcher<Policy>* watcher) noexcept override {
      if constexpr (kNotifies) {
        auto* const external = static_cast<External*>(watcher);
        if constexpr (requires { ColdPartAt(external)->OnObjectExpired(); }) {
          ColdPartAt(external)->OnObjectExpired();
        }
        if (!this->retire_list().Push(external)) external->ReleaseStrong();
      }
    }
  };

 public:
  using Slot = ConcurrentSlot<H, Payload>;
  using Embedded = ConcurrentEmbeddedSlot<H, Payload, PageHeader>;
  using External = ConcurrentExternalSlot<H, Payload, PageHeader>;
  using Cold = typename ColdPartOf<Payload>::type;
  using EmbeddedSlots = SlotPages<Embedded, PageHeader, Allocator, Cold>;
  using ExternalSlots = SlotPages<External, PageHeader, Allocator, Cold>;

  using Pages = TablePages<ExternalSlots, EmbeddedSlots, /*kHasEmbedded=*/true, Allocator, Policy>;
  using Position = typename Pages::Position;

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
      return pages_.embedded.Allocate(this);
    } else {
      return pages_.external.Allocate(this);
    }
  }
  template <bool kEmbedded>
  Slot* AllocateFree() {
    if constexpr (kEmbedded) {
      return pages_.embedded.AllocateFree();
    } else {
      return pages_.external.AllocateFree();
    }
  }
  void Free(Slot* slot) {
    slot->set_state(State::kFree);
    if (slot->is_external()) {
      pages_.external.Free(AsExternal(slot));
    } else {
      pages_.embedded.Free(AsEmbedded(slot));
    }
  }

  // Lets go of a embedded that has come through the retire_list for its object's end: its weak
  // reference and the table's.
  void ReclaimEmbedded(Slot* slot) {
    slot->set_state(State::kRetired);
    if (slot->DropWeak(2)) Free(slot);
  }

  // How many slots there are, free or not.
  size_t size() const { return pages_.size(); }
  // See TablePages.
  Slot* At(Position& position) const { return pages_.template At<Slot>(position); }

  // Ends the core, or leaves it to the last thread that still needs a slot of it: for objects that
  // live on, or weak references to them, or a watcher that is just being told. `arrived` has been
  // taken from the retire_list. Destructors of keys run.
  void Shutdown(Slot* arrived) {
    Drain(arrived);
    Drain(retire_list.Close());
    if (pages_.Shutdown(CountOutstanding)) Discard(Allocator(), this);
  }

  void CheckInvariantsForTesting() const { pages_.CheckInvariantsForTesting(); }

  BasicRetireList<Policy, Slot> retire_list;
  // What the payloads need to the last.
  std::shared_ptr<const void> keep_alive;

 private:
  friend class PageHeaderBase<ConcurrentCore, Policy>;

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

  // Deletes a page, after the table's end, by the last thread that needs it.
  void EndPage(Slot* slot) {
    if (pages_.EndPage(static_cast<PageHeader*>(slot->page()), slot->is_external())) {
      Discard(Allocator(), this);
    }
  }

  Pages pages_{Allocator()};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_CORE_H_
