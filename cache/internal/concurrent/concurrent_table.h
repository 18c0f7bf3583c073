// SPDX-License-Identifier: Apache-2.0
// The engine under the thread-safe containers, one of several shards: slots that look-ups find
// without a lock (see concurrent_slot.h), an index over them, and a lock for everything else.
//
// A slot's life: free -> prepared (a key is constructed in it, outside the lock) -> entered -> back
// to free. A embedded goes when its object does: the thread that drops the last reference destroys
// object and key and pushes the slot to the retire_list; the table takes it out of the index,
// unless it has been removed from there before, and gives up its weak reference; when the last of
// those has gone the slot comes through the retire_list once more and is free. A external goes when
// the table lets go of it, because it is removed or because its watcher has been pushed to the
// retire_list; the last reader at it destroys handle and key and pushes the slot, which then is
// free.
//
// Nobody's code but hash and equality runs under the lock: no reference is dropped there for good,
// see DeferredReleases.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_TABLE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/concurrent/concurrent_core.h"
#include "weakcache/cache/internal/concurrent/concurrent_index.h"
#include "weakcache/cache/internal/concurrent/concurrent_slot.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

template <typename H, typename Payload>
class ConcurrentTable {
  using Policy = typename AtomicsOf<H>::Policy;
  using Core = ConcurrentCore<H, Payload>;
  using State = ConcurrentSlotState;
  using Index = ConcurrentIndex<ConcurrentSlot<H, Payload>, Policy>;
  static constexpr bool kNotifies = HandleTraits<H>::kNotifiesExpiry;

 public:
  using Slot = ConcurrentSlot<H, Payload>;
  using Embedded = typename Core::Embedded;
  using External = typename Core::External;
  using Position = typename Core::Position;
  using Mutex = BasicMutex<Policy>;
  using MutexLock = BasicMutexLock<Policy>;
  // Is declared before the lock, so that it goes after it.
  using DeferredReleases = typename BlockOf<H>::DeferredReleases;

  // A slot that is nobody else's, to be entered; given back if it is not.
  class PreparedSlot {
   public:
    PreparedSlot() = default;
    PreparedSlot(const PreparedSlot&) = delete;
    PreparedSlot& operator=(const PreparedSlot&) = delete;
    ~PreparedSlot() {
      if (slot_ == nullptr) return;
      if (has_payload_) Core::DestroyPayload(slot_);
      slot_->set_state(State::kRetired);
      static_cast<void>(core_->retire_list.Push(slot_));
    }

    template <typename... Args>
    void MakePayload(Args&&... args) {
      slot_->MakePayload(std::forward<Args>(args)...);
      if constexpr (!std::is_void_v<typename Core::Cold>) {
        static_assert(std::is_nothrow_constructible_v<typename Core::Cold, Slot*>);
        ::new (static_cast<void*>(Core::ColdPartAt(slot_))) typename Core::Cold(slot_);
      }
      has_payload_ = true;
    }
    Payload& payload() { return slot_->payload(); }
    auto& cold() { return cold_part(slot_); }
    Slot* slot() const { return slot_; }

   private:
    friend class ConcurrentTable;
    Slot* Take() { return std::exchange(slot_, nullptr); }

    Core* core_ = nullptr;
    Slot* slot_ = nullptr;
    bool has_payload_ = false;
  };

  ConcurrentTable() : core_(Core::New()) {}
  ConcurrentTable(const ConcurrentTable&) = delete;
  ConcurrentTable& operator=(const ConcurrentTable&) = delete;
  // Before anybody uses the table: keeps `keep_alive` as long as there is any payload, also after
  // the table's end.
  void SetKeepAlive(const std::shared_ptr<const void>& keep_alive) {
    core_->keep_alive = keep_alive;
  }
  // Nobody uses the table any more; its objects may live on.
  ~ConcurrentTable() { core_->Shutdown(retired_); }

  // The object for whose slot `match` is true, or null. Takes no lock if it is found, or if
  // nobody changes the table meanwhile. (By value: what is passed by reference can't stay in
  // registers across an atomic operation, and costs a hit a third.)
  template <typename Match>
  H Find(uint32_t hash, Match match) const {
    if constexpr (kNotifies) {
      if (Embedded* const embedded = FindEmbeddedFast(hash, match)) [[likely]]
        return embedded->Adopt();
      const auto found = FindSlow(hash, match);
      return RefAccess::AdoptAs<H>(found.pointer, found.block);
    } else {
      H found = FindFast(hash, match);
      if (found.get() != nullptr) [[likely]]
        return found;
      return FindOrProveAbsent(hash, match).object;
    }
  }
  // Where Find nearly always finds an object that the table has created; null says nothing. The
  // caller is counted in at it, which is a reference to its object.
  template <typename Match>
  Embedded* FindEmbeddedFast(uint32_t hash, const Match& match) const {
    return static_cast<Embedded*>(index_.FindFirst(hash, [&](Slot* slot) {
      return slot->IsEmbeddedWithHash(hash) && TryRefEmbedded(slot, match);
    }));
  }
  // As well, any object.
  template <typename Match>
  H FindFast(uint32_t hash, Match match) const {
    H found;
    if constexpr (kNotifies) {
      Embedded* const embedded = FindEmbeddedFast(hash, match);
      if (embedded != nullptr) [[likely]]
        found = embedded->Adopt();
    } else {
      const auto take = [&](Slot* slot) {
        return slot->hash() == hash && Take(slot, match, found, Immediately()) == Taken::kYes;
      };
      static_cast<void>(index_.FindFirst(hash, take));
    }
    return found;
  }
  // As Find, with the version of the table as of which there is nothing, if that is the result.
  struct FindResult {
    H object;
    uint64_t version;
  };
  template <typename Match>
  FindResult FindOrProveAbsent(uint32_t hash, const Match& match) const {
    FindResult result;
    if (index_.IsAbsent(hash, &result.version)) return result;
    return FindOrProveAbsentSlow(hash, match);
  }
  // See ConcurrentIndex::version.
  uint64_t version() const { return index_.version(); }

  struct Entry {
    Slot* slot = nullptr;
    H object;
  };
  // For the writer. A dead external that it meets, whose handle notifies nobody, leaves the table.
  template <typename Match>
  Entry FindLocked(uint32_t hash, const Match& match, DeferredReleases& deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Entry entry;
    Slot* dead = nullptr;
    entry.slot = index_.FindAsWriter(hash, [&](Slot* slot) {
      const Taken taken = Take(slot, match, entry.object, deferred);
      if (taken == Taken::kDead) dead = slot;
      return taken == Taken::kYes;
    });
    if (entry.slot != nullptr && !entry.slot->is_external()) {
      entry.object = Core::AsEmbedded(entry.slot)->Adopt();
    }
    if (!kNotifies && dead != nullptr) Remove({dead, H()}, deferred);
    return entry;
  }

  // A free slot, if there is none prepared yet. If memory runs out it throws and changes nothing.
  template <bool kEmbedded>
  void Prepare(PreparedSlot& prepared) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (prepared.slot_ != nullptr) return;
    Prepare(core_->template Allocate<kEmbedded>(), prepared);
  }
  // The same without the lock, of a slot that was kept for it; false if there is none. The caller
  // sees to it that one thread has the spare slots at a time (see SingleFlight).
  template <bool kEmbedded>
  bool PrepareSpare(PreparedSlot& prepared) {
    Slot* const slot = spare_[kEmbedded];
    if (slot == nullptr) return false;
    spare_[kEmbedded] = nullptr;
    Prepare(slot, prepared);
    return true;
  }
  // Keeps one, if that takes no memory. As well.
  template <bool kEmbedded>
  void KeepSpare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (spare_[kEmbedded] != nullptr) return;
    Slot* const slot = core_->template AllocateFree<kEmbedded>();
    if (slot == nullptr) return;
    slot->set_state(State::kUnderConstruction);
    spare_[kEmbedded] = slot;
  }

  // Makes room for one more. As well.
  void MakeRoom(DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (in_index_ < index_.max_size()) [[likely]]
      return;
    PurgeUpTo(SIZE_MAX, deferred);
    // Often full of the dead: not worth growing.
    if (in_index_ < index_.max_size() / 2) return;
    GrowFor(in_index_ + 1);
  }
  void Reserve(size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (size > index_.max_size()) GrowFor(size);
  }
  static size_t max_size() { return Index::max_slots(); }

  // What lies apart from the slot, for whoever may look at its payload.
  static auto& cold_part(Slot* slot) { return *Core::ColdPartAt(slot); }

  // Enters `object` with a prepared payload: there is room, and nothing live under the key but
  // `replaced`, which leaves the table; the caller holds its object.
  void Enter(PreparedSlot& prepared, uint32_t hash, const H& object, const Entry& replaced,
             DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto* const external = Core::AsExternal(prepared.Take());
    external->SetReferent(object);
    Enter(external, hash, replaced, deferred, [&] { external->Publish(object); });
  }
  // As well, an object that is no handle yet; the result is the first.
  template <typename Object, typename Deleter>
  H Enter(PreparedSlot& prepared, uint32_t hash, std::unique_ptr<Object, Deleter>& object,
          const Entry& replaced, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto* const embedded = Core::AsEmbedded(prepared.Take());
    embedded->SetReferent(object.release());
    Enter(embedded, hash, replaced, deferred, [&] { embedded->Publish(); });
    return embedded->Adopt();
  }

  // The caller holds the entry's object. False if somebody else has removed it.
  bool Remove(const Entry& entry, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (entry.slot->state() != State::kVisible) return false;
    index_.Erase(entry.slot);
    --in_index_;
    Detach(entry, deferred);
    return true;
  }

  // Takes up to `limit` entries of expired objects out of the table; for handles that notify
  // nobody, of those among the next `limit`. Returns how many it has taken.
  size_t PurgeUpTo(size_t limit, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t purged = 0;
    for (size_t i = 0; i < limit; ++i) {
      Slot* const slot = NextRetired();
      if (slot == nullptr) break;
      purged += Reclaim(slot, deferred);
    }
    if constexpr (!kNotifies) purged += Sweep(limit, deferred);
    return purged;
  }
  // How many every operation that changes the table does.
  static constexpr size_t kPurgesPerOperation = 4;

  // A few entries, held weakly.
  class Collected {
   public:
    Collected() = default;
    Collected(const Collected&) = delete;
    Collected& operator=(const Collected&) = delete;
    ~Collected() {
      while (!empty()) slots_[--count_]->ReleaseWeak();
    }

    bool empty() const { return count_ == 0; }
    // Lets go of one, after calling `visit(entry)` if its object is there.
    template <typename Visit>
    void VisitNext(Visit&& visit) {
      Slot* const slot = slots_[--count_];
      const WeakSlotReference held{slot};
      if (!slot->TryAddStrong()) return;
      const SlotReference counted{slot};
      const Entry entry{slot,
                        slot->is_external() ? Core::AsExternal(slot)->Lock() : Core::Share(slot)};
      if (entry.object.get() != nullptr) visit(entry);
    }

   private:
    friend class ConcurrentTable;
    static constexpr size_t kMax = 64;
    struct WeakSlotReference {
      ~WeakSlotReference() { slot->ReleaseWeak(); }
      Slot* slot;
    };

    Slot* slots_[kMax];
    size_t count_ = 0;
  };
  // Takes those among the next few slots from `position` on. False at the end.
  bool Collect(Position& position, Collected& collected) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    for (size_t i = 0; i < Collected::kMax; ++i, ++position) {
      Slot* const slot = core_->At(position);
      if (slot == nullptr) return false;
      if (slot->state() != State::kVisible) continue;
      slot->AddWeak();
      collected.slots_[collected.count_++] = slot;
    }
    return true;
  }

  // Own handles: without the objects whose last release has happened before; exact while nobody
  // changes the table. Others: with those of the dead that are not purged yet.
  size_t size() const {
    // Relaxed, also where it is written: whoever wants an exact answer has ordered it.
    const size_t entries = entry_count_.load(std::memory_order_relaxed);
    const size_t expired = kNotifies ? core_->retire_list.expired_count() : 0;
    return entries > expired ? entries - expired : 0;
  }

  // With those of the dead that are not purged yet.
  size_t in_index() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return in_index_; }

  void CheckInvariantsForTesting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    core_->CheckInvariantsForTesting();
    size_t entered = 0;
    for (Position position; const Slot* const slot = core_->At(position); ++position) {
      if (slot->state() == State::kVisible) ++entered;
    }
    Check(entered == in_index_, "CheckInvariantsForTesting",
          "a slot is in the index or out of it by mistake");
    index_.CheckInvariantsForTesting(in_index_);
  }

 private:
  struct SlotReference {
    ~SlotReference() {
      if (slot != nullptr) slot->ReleaseStrong();
    }
    Slot* slot;
  };

  struct Immediately {};
  static void Release(Slot* slot, Immediately) { slot->ReleaseStrong(); }
  static void Release(Slot* slot, DeferredReleases& deferred) { slot->ReleaseStrong(deferred); }
  static bool TryRef(Slot* slot, Immediately) { return slot->TryAddStrongSpeculatively(); }
  static bool TryRef(Slot* slot, DeferredReleases& deferred) {
    return slot->TryAddStrongSpeculatively(deferred);
  }

  template <typename Match>
  static bool TryRefEmbedded(Slot* slot, const Match& match) {
    if (!slot->TryAddStrongSpeculatively()) return false;
    SlotReference counted{slot};
    if (!match(*slot)) return false;
    counted.slot = nullptr;
    return true;
  }

  // As FindOrProveAbsent.
  template <typename Match>
  FindResult FindOrProveAbsentSlow(uint32_t hash, const Match& match) const;
  template <typename Match>
  [[gnu::noinline]] auto FindSlow(uint32_t hash, Match match) const {
    return RefAccess::TakeApart(FindOrProveAbsent(hash, match).object);
  }

  enum class Taken { kNo, kDead, kYes };
  // Whether the slot's object can be had and its payload matches: of a embedded it is counted in
  // then, of a external it is in `external_object`; of a dead external whose payload matches it is
  // not.
  template <typename Match, typename When>
  static Taken Take(Slot* slot, const Match& match, H& external_object, When&& when) {
    if (slot->is_external()) Core::AsExternal(slot)->Prefetch();
    if (!TryRef(slot, when)) return Taken::kNo;
    struct Counted {
      ~Counted() {
        if (slot != nullptr) Release(slot, when);
      }
      Slot* slot;
      When& when;
    } counted{slot, when};
    if (!match(*slot)) return Taken::kNo;
    if (slot->is_external()) {
      external_object = Core::AsExternal(slot)->Lock();
      return external_object.get() != nullptr ? Taken::kYes : Taken::kDead;
    }
    counted.slot = nullptr;
    return Taken::kYes;
  }

  void Prepare(Slot* slot, PreparedSlot& prepared) {
    slot->set_state(State::kUnderConstruction);
    prepared.core_ = core_;
    prepared.slot_ = slot;
  }

  // By no less than to twice the size, or what it replaces would add up.
  void GrowFor(size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    index_.Grow(std::max(size, std::min(2 * index_.max_size(), max_size())));
  }

  // From `publish()` on the object can be had.
  template <typename Publish>
  void Enter(Slot* slot, uint32_t hash, const Entry& replaced, DeferredReleases& deferred,
             Publish&& publish) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    slot->set_hash(hash);
    slot->set_state(State::kVisible);
    AddToEntryCount(1);
    if (replaced.slot == nullptr) {
      index_.Insert(slot);
      ++in_index_;
      publish();
      index_.NotePublished();
    } else {
      index_.Replace(replaced.slot, slot, publish);
      Detach(replaced, deferred);
    }
  }
  // The entry is out of the index.
  void Detach(const Entry& entry, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    AddToEntryCount(-1);
    entry.slot->set_state(State::kErased);
    if (entry.slot->is_external()) {
      // The caller holds the object, so the watcher is there.
      static_cast<void>(Core::AsExternal(entry.slot)->Unwatch());
      entry.slot->ReleaseStrong(deferred);
    }
  }
  void AddToEntryCount(int change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const size_t entries = entry_count_.load(std::memory_order_relaxed);
    entry_count_.store(entries + static_cast<size_t>(change), std::memory_order_relaxed);
  }

  Slot* NextRetired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (retired_ == nullptr) retired_ = core_->retire_list.TakeAll();
    Slot* const slot = retired_;
    if (slot != nullptr) retired_ = slot->next();
    return slot;
  }
  // True if that was the end of an entry.
  bool Reclaim(Slot* slot, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const bool entered = slot->state() == State::kVisible;
    if (entered) {
      index_.Erase(slot);
      --in_index_;
    }
    if (slot->state() == State::kRetired) {
      core_->Free(slot);
    } else if (slot->is_external()) {
      slot->set_state(State::kErased);
      slot->ReleaseStrong(deferred);
    } else {
      core_->ReclaimEmbedded(slot);
    }
    return entered;
  }
  size_t Sweep(size_t limit, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t removed = 0;
    limit = std::min(limit, core_->size());
    for (size_t i = 0; i < limit; ++i, ++sweep_) {
      Slot* slot = core_->At(sweep_);
      if (slot == nullptr) {
        sweep_ = Position();
        slot = core_->At(sweep_);
      }
      if (slot->state() != State::kVisible || !Core::AsExternal(slot)->expired()) continue;
      Remove({slot, H()}, deferred);
      ++removed;
    }
    return removed;
  }

  // Ends with what every change writes, and shares that cache line with the next fields.
  [[no_unique_address]] Index index_;

 public:
  // Guards all but looking up, size and what threads do that drop references.
  mutable Mutex mutex;

 private:
  size_t in_index_ ABSL_GUARDED_BY(mutex) = 0;
  Slot* retired_ ABSL_GUARDED_BY(mutex) =
      nullptr;  // taken from the retire_list; external_object by next()
  // Entries, without those that were removed; with the expired ones if the handle notifies. Written
  // under the lock, read by anybody.
  typename Policy::template Atomic<size_t> entry_count_{0};
  Core* const core_;
  // ExternalSlots and residents in state prepared that nobody uses, or null. See PrepareSpare.
  typename Policy::template Plain<Slot*> spare_[2]{nullptr, nullptr};
  Position sweep_ ABSL_GUARDED_BY(mutex);
};

template <typename H, typename Payload>
template <typename Match>
auto ConcurrentTable<H, Payload>::FindOrProveAbsentSlow(uint32_t hash, const Match& match) const
    -> FindResult {
  constexpr int kAttempts = 4;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    H external_object;
    bool met_dead = false;
    const auto found = index_.Find(hash, [&](Slot* slot) {
      const Taken taken = Take(slot, match, external_object, Immediately());
      met_dead |= taken == Taken::kDead;
      return taken == Taken::kYes;
    });
    if (!found.certain) continue;
    if (found.slot == nullptr) {
      // A weak handle's failure is ordered with nothing, so its successor may have been missed.
      if (met_dead) break;
      return {H(), found.version};
    }
    if (found.slot->is_external()) return {std::move(external_object), found.version};
    return {Core::AsEmbedded(found.slot)->Adopt(), found.version};
  }
  // As the writer, nothing changes meanwhile.
  DeferredReleases deferred;
  Entry entry;
  MutexLock lock(mutex);
  entry.slot = index_.FindAsWriter(
      hash, [&](Slot* slot) { return Take(slot, match, entry.object, deferred) == Taken::kYes; });
  if (entry.slot != nullptr && !entry.slot->is_external()) {
    entry.object = Core::AsEmbedded(entry.slot)->Adopt();
  }
  return {std::move(entry.object), index_.version()};
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_TABLE_H_
