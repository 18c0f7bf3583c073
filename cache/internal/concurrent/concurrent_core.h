// SPDX-License-Identifier: Apache-2.0
// The part of a concurrent table that may outlive it: its slots, and the retire list through which
// they come back.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_CORE_H_

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/concurrent/concurrent_slot.h"
#include "weakcache/cache/internal/slot/deferred_releases.h"
#include "weakcache/cache/internal/slot/page_header.h"
#include "weakcache/cache/internal/slot/payload_description.h"
#include "weakcache/cache/internal/slot/retire_list.h"
#include "weakcache/cache/internal/slot/slot_pages.h"
#include "weakcache/cache/internal/slot/table_pages.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/referent_storage.h"

namespace weakcache::internal {

// The name of the container whose table has such entries.
template <typename H, typename Payload>
inline constexpr ContainerType kContainerOfConcurrentTable = {
    PayloadDescription<Payload>::container.empty() ? "ConcurrentWeakValueMap"
                                                   : PayloadDescription<Payload>::container,
    ArgumentName<typename PayloadDescription<Payload>::Argument>(),
    ArgumentName<typename HandleTraits<H>::element_type>()};

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
    // The caller keeps the slot's payload alive.
    static WatcherInfo EntryInfo(const ConcurrentSlot<H, Payload>* slot) {
      WatcherInfo info{.kind = WatcherInfo::Kind::kEntry,
                       .container = &kContainerOfConcurrentTable<H, Payload>,
                       .retained = PayloadDescription<Payload>::IsRetained(slot->payload())};
      if constexpr (requires { PayloadDescription<Payload>::HoldersOf(*ColdPartAt(slot)); }) {
        info.holders = PayloadDescription<Payload>::HoldersOf(*ColdPartAt(slot));
      }
      return info;
    }

   protected:
    ~PageHeader() = default;

   private:
    // Pushes the slot, whose slot reference is the table's until it has come through the retire
    // list. After the table's end this thread drops that reference.
    void OnExpired(BasicWatcher<Policy>* watcher) noexcept override {
      if constexpr (kNotifies) {
        auto* const external = static_cast<External*>(watcher);
        if constexpr (requires { ColdPartAt(external)->OnObjectExpired(); }) {
          ColdPartAt(external)->OnObjectExpired();
        }
        if (!this->retire_list().Push(external)) external->ReleaseStrong();
      }
    }
    // While the watcher is on its list, the table has its slot reference, and the payload lives.
    WatcherInfo Describe(
        [[maybe_unused]] const BasicWatcher<Policy>* watcher) const noexcept override {
      if constexpr (kNotifies) return EntryInfo(static_cast<const External*>(watcher));
      return {};
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
  // Returns another reference to the object of an embedded slot to which the caller has one.
  static H Share(Slot* slot) {
    slot->AddStrong();
    return AsEmbedded(slot)->Adopt();
  }
  static External* AsExternal(Slot* slot) { return static_cast<External*>(slot); }

  // Returns a payload's cold part; or the memory for it, of a slot that is not free.
  static const Cold* ColdPartAt(const Slot* slot) { return ColdPartAt(const_cast<Slot*>(slot)); }
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
  void Free(Slot* slot, UnusedBlocks& unused) {
    slot->set_state(State::kFree);
    if (slot->is_external()) {
      pages_.external.Free(AsExternal(slot));
      pages_.external.ReleaseUnusedCold(unused);
    } else {
      pages_.embedded.Free(AsEmbedded(slot));
      pages_.embedded.ReleaseUnusedCold(unused);
    }
  }

  // Drops the two weak references to an embedded slot that has come through the retire list for its
  // object's end: the table's, and the one that the strong references shared.
  void ReclaimEmbedded(Slot* slot, UnusedBlocks& unused) {
    slot->set_state(State::kRetired);
    if (slot->DropWeak(2)) Free(slot, unused);
  }

  // Pushes a slot to the retire list, also after the table's end.
  static void Push(Slot* slot) { static_cast<PageHeader*>(slot->page())->Push(slot); }

  bool has_external_slots() const { return pages_.external.size() != 0; }
  // Returns how many slots there are, free or not.
  size_t size() const { return pages_.size(); }
  // See TablePages.
  Slot* At(Position& position) const { return pages_.template At<Slot>(position); }

  // Deletes the core, or leaves that to the last thread that still needs a slot of it: because its
  // object is still alive, or has weak references, or a watcher is just being told. `retired` is a
  // list that was taken from the retire list. Keys are destroyed.
  void Shutdown(Slot* retired) {
    Drain(retired);
    Drain(retire_list.Close());
    if (pages_.Shutdown(CountOutstanding)) Discard(Allocator(), this);
  }

  void CheckInvariantsForTesting() const { pages_.CheckInvariantsForTesting(); }

  BasicRetireList<Policy, Slot> retire_list;
  // Kept alive until the last payload has been destroyed.
  std::shared_ptr<const void> keep_alive;

 private:
  friend class PageHeaderBase<ConcurrentCore, Policy>;

  ConcurrentCore() = default;

  // Reclaims the slots of a list that was taken from the retire list.
  void Drain(Slot* slot) {
    UnusedBlocks unused;
    while (slot != nullptr) {
      Slot* const retired = std::exchange(slot, slot->next());
      if (retired->state() == State::kRetired) {
        Free(retired, unused);
      } else if (retired->is_external()) {
        retired->set_state(State::kErased);
        retired->ReleaseStrong();
      } else {
        ReclaimEmbedded(retired, unused);
      }
    }
  }

  // Drops the table's references to a slot that is not in the retire list. Returns how often the
  // slot will be pushed to the closed list, or has been.
  static size_t CountOutstanding(Slot* slot) {
    switch (slot->state()) {
      case State::kFree:
        return 0;
      case State::kUnderConstruction:  // by a frame further up the stack, which will push it
      case State::kRetired:
        return 1;
      case State::kVisible:
      case State::kErased:
        break;
    }
    // It is pushed for its object's end, and when the last weak reference to that is dropped.
    if (!slot->is_external()) return slot->DropWeak() ? 1 : 2;
    if (slot->state() == State::kErased) return 1;
    // An external slot is pushed when its last reference is dropped. If the watcher can't be
    // removed, the thread that is being told drops the table's reference, perhaps at once; so this
    // one takes a reference of its own first, which keeps the handle.
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
