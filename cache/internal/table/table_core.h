// SPDX-License-Identifier: Apache-2.0
// The part of a weak table that may outlive it: the pages of slots, and the retire list through
// which expired slots return.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_CORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/page_header.h"
#include "weakcache/cache/internal/slot/payload_description.h"
#include "weakcache/cache/internal/slot/polling_ring.h"
#include "weakcache/cache/internal/slot/retire_list.h"
#include "weakcache/cache/internal/slot/slot_pages.h"
#include "weakcache/cache/internal/slot/table_pages.h"
#include "weakcache/cache/internal/table/table_slot.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/referent_storage.h"

namespace weakcache::internal {

// When the value in a slot is destroyed.
enum class PayloadLifetime {
  kUntilPurge,         // by the container, when it removes the slot
  kUntilReferentDies,  // by whichever thread drops the last reference, if the handle notifies
};

// An object in the memory of its slot.
template <typename T>
struct ObjectDestroyer {
  void operator()(T* object) const { std::destroy_at(object); }
};
template <typename T, typename... Args>
std::unique_ptr<T, ObjectDestroyer<T>> NewObjectIn(ObjectInSlot<T>& memory, Args&&... args) {
  Construct(std::allocator<char>(), memory.get(), std::forward<Args>(args)...);
  return std::unique_ptr<T, ObjectDestroyer<T>>(memory.get());
}

// The name of the container whose table has such entries.
template <typename H, typename Payload, PayloadLifetime kLifetime>
constexpr ContainerType NameContainerOfTable() {
  using Description = PayloadDescription<Payload>;
  const auto object = ArgumentName<typename HandleTraits<H>::element_type>();
  const auto argument = ArgumentName<typename Description::Argument>();
  if (kLifetime == PayloadLifetime::kUntilReferentDies) return {"WeakKeyMap", object, argument};
  if (Description::container.empty()) return {"WeakValueMap", argument, object};
  return {Description::container, object, {}};
}
template <typename H, typename Payload, PayloadLifetime kLifetime>
inline constexpr ContainerType kContainerOfTable = NameContainerOfTable<H, Payload, kLifetime>();

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
class TableCore {
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;
  using Policy = typename AtomicsOf<H>::Policy;
  using State = SlotState;

  // See PageHeaderBase.
  class PageHeader : public PageHeaderBase<TableCore, Policy> {
   public:
    explicit PageHeader(TableCore* core) : PageHeaderBase<TableCore, Policy>(core) {}

    static WatcherInfo EntryInfo() {
      return {.kind = WatcherInfo::Kind::kEntry,
              .container = &kContainerOfTable<H, Payload, kLifetime>};
    }

   protected:
    ~PageHeader() = default;

   private:
    void OnExpired(BasicWatcher<Policy>* watcher) noexcept override {
      if constexpr (kNotifies) {
        auto* const slot = static_cast<ExternalSlot<H, Payload>*>(watcher);
        if constexpr (kLifetime == PayloadLifetime::kUntilReferentDies) slot->DestroyPayload();
        this->Push(slot);
      }
    }
    WatcherInfo Describe(const BasicWatcher<Policy>*) const noexcept override {
      return EntryInfo();
    }
  };

 public:
  using Slot = TableSlot<H, Payload>;
  using External = std::conditional_t<kNotifies, ExternalSlot<H, Payload>, PolledSlot<H, Payload>>;
  using Embedded = EmbeddedSlot<H, Payload, PageHeader>;
  using ExternalCold = std::conditional_t<kNotifies, void, PollingPlace<External>>;
  using ExternalSlots = SlotPages<External, PageHeader, Allocator, ExternalCold, false>;
  using EmbeddedSlots =
      std::conditional_t<kNotifies, SlotPages<Embedded, PageHeader, Allocator>, ExternalSlots>;

  using Pages = TablePages<ExternalSlots, EmbeddedSlots, kNotifies, Allocator, Policy>;
  using Position = typename Pages::Position;

  // Owns a slot with its payload: destroys the payload and frees the slot, unless that is taken.
  class PreparedSlot {
   public:
    template <typename... Args>
    PreparedSlot(TableCore* core, Slot* slot, Args&&... payload) : core_(core), slot_(slot) {
      slot_->set_state(State::kUnderConstruction);
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
    PreparedSlot(const PreparedSlot&) = delete;
    PreparedSlot& operator=(const PreparedSlot&) = delete;
    ~PreparedSlot() {
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

  // Up to kMax slots that have left the index. Their payloads are destroyed with this object.
  class PurgedSlots {
   public:
    static constexpr size_t kMax = 4;

    template <typename Fill>
    PurgedSlots(TableCore* core, Fill fill) : core_(core) {
      if (core_ != nullptr) fill(*this);
    }
    PurgedSlots(const PurgedSlots&) = delete;
    PurgedSlots& operator=(const PurgedSlots&) = delete;
    ~PurgedSlots() {
      for (size_t i = 0; i < slots_used_; ++i) {
        core_->DestroyExpiredPayload(slots_[i]);
        core_->FinishErasure(slots_[i], kRetiredReferences);
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
    // Counts a slot that was handled.
    void Count() { ++count_; }
    bool full() const { return count_ == kMax; }
    // Returns whether any slot was handled.
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

  template <bool kEmbedded>
  Slot* Allocate() {
    if constexpr (kEmbedded) {
      Embedded* const slot = pages_.embedded.Allocate(this);
      auto* const page = static_cast<PageHeader*>(slot->page());
      // A new object needs a new control block.
      if constexpr (PageHeader::kEndsSlots) std::destroy_at(slot);
      return ::new (static_cast<void*>(slot)) Embedded(page);
    } else {
      return pages_.external.Allocate(this);
    }
  }
  static External* AsExternal(Slot* slot) { return static_cast<External*>(slot); }
  // Returns the cold part of a polled slot.
  static auto& PollingPlaceOf(External* slot) {
    return *static_cast<ExternalCold*>(ExternalSlots::cold_part(slot));
  }
  static Embedded* AsEmbedded(Slot* slot) {
    return static_cast<Embedded*>(static_cast<EmbeddedSlotBase<H, Payload>*>(slot));
  }

  void Free(Slot* slot) {
    if (shut_down_) [[unlikely]] {
      // The container has ended while this slot's payload was destroyed.
      static_cast<PageHeader*>(slot->page())->FinishRefusedPush(slot);
      return;
    }
    slot->set_state(State::kFree);
    if constexpr (kNotifies) {
      if (slot->is_embedded()) {
        pages_.embedded.Free(AsEmbedded(slot));
        return;
      }
    }
    pages_.external.Free(AsExternal(slot));
  }

  // Stops a slot's expiry from being told. Returns false if the object expired first.
  static bool Detach(Slot* slot) {
    if constexpr (kNotifies) {
      if (slot->is_embedded()) return AsEmbedded(slot)->Detach();
    }
    return AsExternal(slot)->Detach();
  }

  // Destroys the payload of a slot that has left the index, and frees the slot unless it is still
  // to come through the retire list. Runs user code, which may use the table: meanwhile the slot is
  // kDestroying, so nobody else frees or reuses it.
  void DestroyErased(Slot* slot) {
    slot->set_state(State::kDestroying);
    if (!slot->expiry_pending()) {
      slot->DestroyPayload();
      FinishErasure(slot, 1);
      return;
    }
    DestroyExpiredPayload(slot);
    if (!slot->expiry_pending()) {  // user code has drained it from the retire list
      FinishErasure(slot, kRetiredReferences);
    } else if (shut_down_) {
      FinishErasure(slot, 1);
    } else {
      slot->set_state(State::kRetired);
    }
  }
  // Destroys the payload of an expired slot unless the releasing thread has done so.
  void DestroyExpiredPayload(Slot* slot) {
    if constexpr (!kNotifies || kLifetime == PayloadLifetime::kUntilPurge) slot->DestroyPayload();
  }
  // The weak references that the container drops when an embedded slot has come through the retire
  // list for its object's death: its own, and the one that the strong references shared.
  static constexpr int kRetiredReferences = 2;
  // Frees a slot without payload that is not still to come through the retire list. Drops
  // `references` weak references to the object of an embedded slot, which becomes free only with
  // the last of them.
  void FinishErasure(Slot* slot, int references) {
    if constexpr (kNotifies) {
      if (slot->is_embedded()) {
        slot->set_state(State::kRetired);
        if (AsEmbedded(slot)->DropWeak(references)) Free(slot);
        return;
      }
    }
    AsExternal(slot)->DropReferent();
    Free(slot);
  }

  // Returns the number of slots, free or not.
  size_t size() const { return pages_.size(); }
  // Returns the first slot at or after `position`: see TablePages.
  Slot* At(Position& position) const { return pages_.template At<Slot>(position); }
  void DropFreePages() { pages_.DropFreePages(); }

  // Frees the core, or lets the last thread that uses one of its slots free it: slots that are
  // about to be pushed, and embedded slots to whose objects there are still references.
  void Shutdown() {
    for (Slot* slot = retire_list.Close(); slot != nullptr;) {
      Slot* const retired = std::exchange(slot, slot->next());
      if (!retired->expiry_pending()) {
        Free(retired);
        continue;
      }
      retired->set_expiry_pending(false);
      if (retired->state() == State::kRetired) {
        FinishErasure(retired, kRetiredReferences);
      } else if (retired->state() != State::kDestroying) {
        Free(retired);
      }
    }
    shut_down_ = true;
    if (pages_.Shutdown(CountOutstanding)) Delete();
  }

  void CheckInvariantsForTesting() const { pages_.CheckInvariantsForTesting(); }

  BasicRetireList<Policy, Slot> retire_list;

 private:
  using CoreTraits = std::allocator_traits<
      typename std::allocator_traits<Allocator>::template rebind_alloc<TableCore>>;

  friend class PageHeaderBase<TableCore, Policy>;

  explicit TableCore(const Allocator& allocator) : pages_(allocator) {}

  // Drops what a slot still refers to. Returns the number of its outstanding uses: how often it
  // will be or has been pushed to the closed retire list, or freed by a frame further down the
  // stack.
  static size_t CountOutstanding(Slot* slot) {
    if (slot->is_free()) return 0;
    if (!slot->expiry_pending()) return 1;
    if (slot->state() == State::kDestroying) return 2;
    if (slot->state() == State::kRetired) {
      if constexpr (kNotifies) {
        if (slot->is_embedded()) return AsEmbedded(slot)->DropWeak() ? 1 : 2;
      }
      AsExternal(slot)->DropReferent();
    }
    return 1;
  }

  // Deletes a page, after the table's end, by the last thread that needs it.
  void EndPage(Slot* slot) {
    if (pages_.EndPage(static_cast<PageHeader*>(slot->page()), !slot->is_embedded())) Delete();
  }
  void Delete() {
    typename CoreTraits::allocator_type rebound(pages_.allocator());
    this->~TableCore();
    CoreTraits::deallocate(rebound, this, 1);
  }

  Pages pages_;
  bool shut_down_ = false;  // only the container's thread looks at it
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_CORE_H_
