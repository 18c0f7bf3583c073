// SPDX-License-Identifier: Apache-2.0
// What of a weak table may outlive it: its slots, and the retire_list through which expired ones
// return.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_CORE_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_CORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/retire_list.h"
#include "weakcache/cache/internal/slot/slot_pages.h"
#include "weakcache/cache/internal/slot/teardown_count.h"
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

template <typename H, typename Payload, PayloadLifetime kLifetime, typename Allocator>
class TableCore {
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;
  using Policy = typename AtomicsOf<H>::Policy;
  using State = SlotState;

  // What each page begins with: near its slots, for the threads that drop last references.
  class PageHeader : public BasicWatcherOwner<Policy> {
   public:
    // A slot's end does nothing, but a model checker sees late accesses by it.
    static constexpr bool kEndsSlots = !std::is_same_v<Policy, StdAtomics>;

    explicit PageHeader(TableCore* core) : core_(core) {}

    auto& retire_list() { return core_->retire_list; }
    // The slot may be gone afterwards, and so may the page.
    void Push(TableSlot<H, Payload>* slot) {
      if (!core_->retire_list.Push(slot)) FinishRefusedPush(slot);
    }
    // Of a resident whose object has ended: the weak reference that the strong ones shared goes
    // along.
    void PushExpired(EmbeddedSlotBase<H, Payload>* slot) {
      if (core_->retire_list.Push(slot)) return;
      // Nobody takes it any more. The last reference leaves once more, as by FreeBlock; that can't
      // be the last departure, since this one is still to come.
      if (slot->DropWeak()) static_cast<void>(teardown_count_.Decrement());
      FinishRefusedPush(slot);
    }
    // After the table's end. As well.
    void FinishRefusedPush(TableSlot<H, Payload>* slot) {
      if (teardown_count_.Decrement()) core_->EndPage(slot);
    }

    [[nodiscard]] bool SetRemaining(size_t remaining) {
      return teardown_count_.SetRemaining(remaining);
    }

   private:
    void OnClaimed() noexcept override { core_->retire_list.CountExpired(); }
    void OnExpired(BasicWatcher<Policy>* watcher) noexcept override {
      if constexpr (kNotifies) {
        auto* const slot = static_cast<ExternalSlot<H, Payload>*>(watcher);
        if constexpr (kLifetime == PayloadLifetime::kUntilReferentDies) slot->DestroyPayload();
        Push(slot);
      }
    }

    TableCore* const core_;
    BasicTeardownCount<Policy> teardown_count_;  // of pushes, after the table's end
  };

 public:
  using Slot = TableSlot<H, Payload>;
  using External = std::conditional_t<kNotifies, ExternalSlot<H, Payload>, PolledSlot<H, Payload>>;
  using Embedded = EmbeddedSlot<H, Payload, PageHeader>;
  using ExternalCold = std::conditional_t<kNotifies, void, PollingLinks<External>>;
  using ExternalSlots = SlotPages<External, PageHeader, Allocator, ExternalCold>;
  using EmbeddedSlots =
      std::conditional_t<kNotifies, SlotPages<Embedded, PageHeader, Allocator>, ExternalSlots>;

  // A place in the guests' pages, or after them in the residents'.
  class Position {
   public:
    Position& operator++() {
      ++(in_embedded_slots_ ? embedded_.slot : external_.slot);
      return *this;
    }

   private:
    friend class TableCore;
    bool in_embedded_slots_ = false;
    typename ExternalSlots::Position external_;
    typename EmbeddedSlots::Position embedded_;
  };

  // A slot with its payload; both go again unless the slot is taken.
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

  // A few slots that are out of the index, and emptied when this goes.
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
        core_->EndExpiredPayload(slots_[i]);
        core_->FinishEmptying(slots_[i], kRetiredReferences);
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

  template <bool kEmbedded>
  Slot* Allocate() {
    if constexpr (kEmbedded) {
      Embedded* const slot = embedded_slots_.Allocate(this);
      auto* const page = static_cast<PageHeader*>(slot->page());
      // The control block starts anew.
      if constexpr (PageHeader::kEndsSlots) std::destroy_at(slot);
      return ::new (static_cast<void*>(slot)) Embedded(page);
    } else {
      return external_slots_.Allocate(this);
    }
  }
  static External* AsExternal(Slot* slot) { return static_cast<External*>(slot); }
  // Of a swept slot.
  static auto& LinksOf(External* slot) {
    return *static_cast<ExternalCold*>(ExternalSlots::cold_part(slot));
  }
  static Embedded* AsEmbedded(Slot* slot) {
    return static_cast<Embedded*>(static_cast<EmbeddedSlotBase<H, Payload>*>(slot));
  }

  void Free(Slot* slot) {
    if (shut_down_) [[unlikely]] {
      // Its container has ended while this slot's payload did.
      static_cast<PageHeader*>(slot->page())->FinishRefusedPush(slot);
      return;
    }
    slot->set_state(State::kFree);
    if constexpr (kNotifies) {
      if (slot->is_embedded()) {
        embedded_slots_.Free(AsEmbedded(slot));
        return;
      }
    }
    external_slots_.Free(AsExternal(slot));
  }

  // False if the expiry comes first.
  static bool Detach(Slot* slot) {
    if constexpr (kNotifies) {
      if (slot->is_embedded()) return AsEmbedded(slot)->Detach();
    }
    return AsExternal(slot)->Detach();
  }

  // Empties a slot that is out of the index, and frees it unless something is still to come through
  // the retire_list. Runs user code, which may use the table, but finds this slot neither to empty
  // nor to reuse.
  void Empty(Slot* slot) {
    slot->set_state(State::kDestroying);
    if (!slot->expiry_pending()) {
      slot->DestroyPayload();
      FinishEmptying(slot, 1);
      return;
    }
    EndExpiredPayload(slot);
    if (!slot->expiry_pending()) {  // it has come through meanwhile
      FinishEmptying(slot, kRetiredReferences);
    } else if (shut_down_) {
      FinishEmptying(slot, 1);
    } else {
      slot->set_state(State::kRetired);
    }
  }
  // Of an expired slot: what the thread that takes it to the retire_list leaves to the container.
  void EndExpiredPayload(Slot* slot) {
    if constexpr (!kNotifies || kLifetime == PayloadLifetime::kUntilPurge) slot->DestroyPayload();
  }
  // The weak references to a resident that has come through the retire_list for its object's end:
  // the container's, and the one that the strong references shared.
  static constexpr int kRetiredReferences = 2;
  // The slot is without payload and not on its way. Afterwards it is free, or returning. So many
  // weak references to a resident are given up.
  void FinishEmptying(Slot* slot, int references) {
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

  // How many slots there are, free or not.
  size_t size() const { return external_slots_.size() + embedded_slots_.size(); }

  // The first slot at or after `position`, which becomes its position; null at the end.
  Slot* At(Position& position) const {
    if (!position.in_embedded_slots_) {
      if (Slot* const slot = external_slots_.At(position.external_)) return slot;
      position.in_embedded_slots_ = kNotifies;
    }
    return embedded_slots_.At(position.embedded_);
  }

  void DropFreePages() {
    external_slots_.DropFreePages();
    if constexpr (kNotifies) embedded_slots_.DropFreePages();
  }

  // Ends the core, or leaves it to the last thread that still needs a slot of it: those that are on
  // their way, and residents whose objects, or weak references to them, are still there.
  void Shutdown() {
    for (Slot* slot = retire_list.Close(); slot != nullptr;) {
      Slot* const retired = std::exchange(slot, slot->next());
      if (!retired->expiry_pending()) {
        Free(retired);
        continue;
      }
      retired->set_expiry_pending(false);
      if (retired->state() == State::kRetired) {
        FinishEmptying(retired, kRetiredReferences);
      } else if (retired->state() != State::kDestroying) {
        Free(retired);
      }
    }
    shut_down_ = true;
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
    if constexpr (kNotifies) embedded_slots_.Shutdown(leave);
    if (teardown_count_.SetRemaining(pages_left)) Delete();
  }

  void CheckInvariantsForTesting() const {
    external_slots_.CheckInvariantsForTesting();
    if constexpr (kNotifies) embedded_slots_.CheckInvariantsForTesting();
  }

  BasicRetireList<Policy, Slot> retire_list;

 private:
  using CoreTraits = std::allocator_traits<
      typename std::allocator_traits<Allocator>::template rebind_alloc<TableCore>>;

  explicit TableCore(const Allocator& allocator)
      : allocator_(allocator), external_slots_(allocator), embedded_slots_(allocator) {}

  // Lets go of what a slot still refers to; returns how often it will be pushed to the closed
  // retire_list, or has been, or will be freed by a frame further down the stack.
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

  // By the last thread that needs a page, after the table's end.
  void EndPage(Slot* slot) {
    auto* const page = static_cast<PageHeader*>(slot->page());
    if constexpr (kNotifies) {
      if (slot->is_embedded()) {
        DeletePage(page, AsEmbedded(slot));
      } else {
        DeletePage(page, AsExternal(slot));
      }
    } else {
      DeletePage(page, AsExternal(slot));
    }
    if (teardown_count_.Decrement()) Delete();
  }
  void DeletePage(PageHeader* page, External*) { ExternalSlots::Delete(page, allocator_); }
  template <typename AnyResident>
  void DeletePage(PageHeader* page, AnyResident*) {
    EmbeddedSlots::Delete(page, allocator_);
  }
  void Delete() {
    typename CoreTraits::allocator_type rebound(allocator_);
    this->~TableCore();
    CoreTraits::deallocate(rebound, this, 1);
  }

  [[no_unique_address]] Allocator allocator_;
  ExternalSlots external_slots_;
  EmbeddedSlots embedded_slots_;
  BasicTeardownCount<Policy> teardown_count_;  // of pages, after the table's end
  bool shut_down_ = false;                     // only the container's thread looks at it
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_CORE_H_
