// SPDX-License-Identifier: Apache-2.0
// The engine under the thread-safe containers, one of several shards: slots that look-ups find
// without a lock (see concurrent_slot.h), an index over them, and a lock for everything else.
//
// A hit, step by step (FindEmbeddedFast):
//
//   1. The hash's home chunk is read; its tags are compared with the hash's, all at once.
//   2. The slot of the first one that matches is read. If its hash is another one, the fast path
//      ends.
//   3. TryAddStrongSpeculatively takes a slot reference, by one fetch_add. If the object was dead
//      it is taken back.
//   4. The key is compared. If it is another one, because the slot has been reused, the reference
//      is dropped again. Else the reference is the caller's.
//
// A slot's life is
//
//   kFree --> kUnderConstruction --> kVisible --> (kErased) --> kRetired --> kFree
//
// A thread constructs a key in it, outside the lock, and enters it under the lock. From there it
// depends on the kind.
//
// An embedded slot lasts as long as its object. The thread that drops the last reference destroys
// object and key and pushes the slot to the retire list. The table takes it from there, takes it
// out of the index unless it was erased before, and drops its own weak reference. When the last
// weak reference is dropped the slot comes through the retire list once more, and is free.
//
// An external slot lasts until the table drops its slot reference: because the entry is erased, or
// because the slot has come through the retire list, to which its watcher has pushed it. The last
// reader of it destroys handle and key and pushes the slot, which comes through the retire list and
// is free.
//
// Under the lock no user code runs but hash, equality and copies of keys: references are dropped
// after it, see DeferredReleases.
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
#include "weakcache/cache/internal/slot/deferred_releases.h"
#include "weakcache/cache/internal/slot/fail_allocation.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/internal/slot/polling_ring.h"
#include "weakcache/cache/internal/slot/slot_pages.h"
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
  // What an entry takes beside its object: its slot and its share of the index, whose chunks, with
  // those that they have replaced, take 25 to 51 bytes an entry. The key's own memory is not known.
  static constexpr size_t kIndexBytes = 32;
  static constexpr size_t kEmbeddedEntryBytes =
      sizeof(Embedded) + SizeOf<typename Core::Cold>() + kIndexBytes;
  static constexpr size_t kExternalEntryBytes =
      sizeof(External) + SizeOf<typename Core::Cold>() + kIndexBytes;
  // Declare it before the lock, so that it is destroyed after the unlock.
  using DeferredReleases = DeferredReleasesOf<typename BlockOf<H>::DeferredReleases>;

  // A slot that only the caller has, to be entered. Given back if it is not entered.
  class PreparedSlot {
   public:
    PreparedSlot() = default;
    PreparedSlot(const PreparedSlot&) = delete;
    PreparedSlot& operator=(const PreparedSlot&) = delete;
    ~PreparedSlot() {
      if (slot_ == nullptr) return;
      // The payload's destructor may have ended the table by now; not the slot's page.
      if (has_payload_) Core::DestroyPayload(slot_);
      slot_->set_state(State::kRetired);
      Core::Push(slot_);
    }

    template <typename... Args>
    void MakePayload(Args&&... args) {
      slot_->MakePayload(std::forward<Args>(args)...);
      if constexpr (!std::is_void_v<typename Core::Cold>) {
        static_assert(std::is_nothrow_constructible_v<typename Core::Cold, Slot*>);
        cold_ = ::new (static_cast<void*>(Core::ColdPartAt(slot_))) typename Core::Cold(slot_);
      }
      has_payload_ = true;
    }
    Payload& payload() { return slot_->payload(); }
    auto& cold() { return *cold_; }
    Slot* slot() const { return slot_; }

   private:
    friend class ConcurrentTable;
    Slot* Release() { return std::exchange(slot_, nullptr); }

    Slot* slot_ = nullptr;
    typename Core::Cold* cold_ = nullptr;  // once there is a payload
    bool has_payload_ = false;
  };

  ConcurrentTable() : core_(Core::New()) {}
  ConcurrentTable(const ConcurrentTable&) = delete;
  ConcurrentTable& operator=(const ConcurrentTable&) = delete;
  // Keeps `keep_alive` as long as there is any payload, also after the table's end. Call it before
  // the table is used.
  void SetKeepAlive(const std::shared_ptr<const void>& keep_alive) {
    core_->keep_alive = keep_alive;
  }
  // Precondition: no other thread uses the table. Its objects may live on.
  ~ConcurrentTable() {
    for (Slot* const slot : spare_) {
      if (slot != nullptr) slot->set_state(State::kFree);
    }
    core_->Shutdown(retired_);
  }

  // Returns the object for whose slot `match` is true, or null. Takes no lock if it is found, or if
  // no thread changes the table meanwhile. (`match` is passed by value: what is passed by reference
  // can't stay in registers across an atomic operation, which makes a hit a third slower.)
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
  // Returns the object of a slot. The caller has a slot reference, and a reference to the object.
  static H ObjectOf(Slot* slot) {
    if (slot->is_external()) return Core::AsExternal(slot)->Lock();
    slot->AddStrong();
    return Core::AsEmbedded(slot)->Adopt();
  }
  // Changes the version. Has to be called when look-ups begin to find a slot that they passed over
  // before: an earlier version no longer proves that nothing has come.
  void NotePublished() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { index_.NotePublished(); }
  // Finds the slot of an object that the table has created, nearly always; null proves nothing. The
  // caller gets a slot reference, which is a reference to the object.
  template <typename Match>
  Embedded* FindEmbeddedFast(uint32_t hash, const Match& match) const {
    return static_cast<Embedded*>(index_.FindFirst(hash, [&](Slot* slot) {
      return slot->IsEmbeddedWithHash(hash) && TryRefEmbedded(slot, match);
    }));
  }
  // Like FindEmbeddedFast, but also finds objects held by external slots.
  template <typename Match>
  H FindFast(uint32_t hash, Match match) const {
    H found;
    if constexpr (kNotifies) {
      Embedded* const embedded = FindEmbeddedFast(hash, match);
      if (embedded != nullptr) [[likely]]
        found = embedded->Adopt();
    } else {
      const auto take = [&](Slot* slot) {
        return slot->hash() == hash &&
               TryRefMatching(slot, match, found, Immediately()) == RefOutcome::kRef;
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
  // Finds an entry under the lock. Removes a dead entry under the key, whose handle notifies
  // nobody.
  template <typename Match>
  Entry FindLocked(uint32_t hash, const Match& match, DeferredReleases& deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Entry entry;
    Slot* dead = nullptr;
    entry.slot = index_.FindAsWriter(hash, [&](Slot* slot) {
      const RefOutcome outcome = TryRefMatching(slot, match, entry.object, deferred);
      if (outcome == RefOutcome::kDead) dead = slot;
      return outcome == RefOutcome::kRef;
    });
    if (entry.slot != nullptr && !entry.slot->is_external()) {
      entry.object = Core::AsEmbedded(entry.slot)->Adopt();
    }
    if (!kNotifies && dead != nullptr) Remove({dead, H()}, deferred);
    return entry;
  }
  // Returns the slot of an object that the caller holds, or null if it is not in the table.
  // `refers_to_it(slot)` says whether an external slot does.
  template <typename Condition>
  Slot* FindSlotOf(const H& object, uint32_t hash, const Condition& refers_to_it)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    // Every slot in the index has its payload under the lock, unless its object has died.
    return index_.FindAsWriter(hash, [&](Slot* slot) {
      return slot->is_external() ? refers_to_it(*slot) : slot == RefAccess::Block(object);
    });
  }

  // Prepares a free slot, unless one is prepared already. If memory runs out it throws and changes
  // nothing.
  template <bool kEmbedded>
  void Prepare(PreparedSlot& prepared) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (prepared.slot_ != nullptr) return;
    Prepare(core_->template Allocate<kEmbedded>(), prepared);
  }
  // Prepares the spare slot, without the lock. Returns false if there is none. Only one thread may
  // use the spare slots at a time (see SingleFlight).
  template <bool kEmbedded>
  bool PrepareSpare(PreparedSlot& prepared) {
    Slot* const slot = spare_[kEmbedded];
    if (slot == nullptr) return false;
    spare_[kEmbedded] = nullptr;
    Prepare(slot, prepared);
    return true;
  }
  // Keeps a spare slot for the next creation, if that takes no memory.
  template <bool kEmbedded>
  void KeepSpare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (spare_[kEmbedded] != nullptr) return;
    Slot* const slot = core_->template AllocateFree<kEmbedded>();
    if (slot == nullptr) return;
    slot->set_state(State::kUnderConstruction);
    spare_[kEmbedded] = slot;
  }

  // Makes room for one more entry. If memory runs out it throws and changes nothing.
  void MakeRoom(DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (in_index_ < index_.max_size()) [[likely]]
      return;
    PurgeUpTo(kPurgesPerTurn, deferred);
    const size_t room = index_.max_size() - in_index_;
    if (room == 0) {
      GrowFor(in_index_ + 1);
    } else if (room < std::min(kPurgesPerTurn, index_.max_size()) / 2 &&
               index_.max_size() < max_size()) {
      // With so few dead entries the next purge would come too soon. If memory runs out, it has to.
      static_cast<void>(index_.TryGrow(GrownSize(in_index_ + 1)));
    }
  }
  void Reserve(size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (size > max_size()) FailAllocation("ConcurrentWeakValueMap::reserve");
    if (size > index_.max_size()) GrowFor(size);
  }
  static size_t max_size() { return Index::max_slots(); }

  // Returns the cold part of the slot's payload.
  static auto& cold_part(Slot* slot) { return *Core::ColdPartAt(slot); }

  // Enters `object` with a prepared payload. Replaces the entry `replaced`, if it has a slot; the
  // caller holds its object. Precondition: there is room, and no other live entry under the key.
  void Enter(PreparedSlot& prepared, uint32_t hash, const H& object, const Entry& replaced,
             DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto* const external = Core::AsExternal(prepared.Release());
    external->SetReferent(object);
    Enter(external, hash, replaced, deferred, [&] { external->Publish(object); });
  }
  // The same for an object that has no handle yet; returns its first one.
  template <typename Object, typename Deleter>
  H Enter(PreparedSlot& prepared, uint32_t hash, std::unique_ptr<Object, Deleter>& object,
          const Entry& replaced, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto* const embedded = Core::AsEmbedded(prepared.Release());
    embedded->SetReferent(object.release());
    Enter(embedded, hash, replaced, deferred, [&] { embedded->Publish(); });
    return embedded->Adopt();
  }

  // Removes an entry, whose object the caller holds. Returns false if another thread has removed
  // it.
  bool Remove(const Entry& entry, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (entry.slot->state() != State::kVisible) return false;
    index_.Erase(entry.slot);
    --in_index_;
    Detach(entry, deferred);
    return true;
  }

  // Whether the table has ever had an entry of an object that was inserted as a handle.
  bool has_external_slots() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return core_->has_external_slots();
  }

  // Removes up to `limit` entries of expired objects; of handles that notify nobody, those among
  // the next `limit` entries. Returns how many it has removed.
  size_t PurgeUpTo(size_t limit, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t purged = 0;
    ReclaimUpTo(limit, deferred, purged);
    if constexpr (!kNotifies) purged += Sweep(limit, deferred);
    return purged;
  }
  // How many entries each operation that changes the table purges.
  static constexpr size_t kPurgesPerOperation = 4;

  // Removes the entries of all objects that have expired before the call; returns how many. Looks
  // at a few hundred slots at a time, and releases the lock in between.
  size_t Purge() ABSL_LOCKS_EXCLUDED(mutex) {
    size_t purged = 0;
    size_t left = SIZE_MAX;  // of the slots that may have to be looked at
    for (size_t looked = 0;; left -= std::min(left, looked)) {
      DeferredReleases deferred;
      MutexLock lock(mutex);
      // An embedded slot comes through the retire list twice.
      if (left == SIZE_MAX) left = kNotifies ? 2 * core_->size() : polled_.size();
      if (left == 0) return purged;
      looked = ReclaimUpTo(kPurgesPerTurn, deferred, purged);
      if constexpr (!kNotifies) {
        looked = std::min(kPurgesPerTurn, polled_.size());
        purged += Sweep(kPurgesPerTurn, deferred);
      }
      if (looked < kPurgesPerTurn) return purged;
    }
  }

  // A few slots, with weak references to them.
  class Collected {
   public:
    Collected() = default;
    Collected(const Collected&) = delete;
    Collected& operator=(const Collected&) = delete;
    ~Collected() {
      while (!empty()) slots_[--count_]->ReleaseWeak();
    }

    bool empty() const { return count_ == 0; }
    // Drops one of them, after calling `visit(entry)` if its object is alive.
    template <typename Visit>
    void VisitNext(Visit&& visit) {
      Slot* const slot = slots_[--count_];
      const WeakSlotReference held{slot};
      if (!slot->TryAddStrong()) return;
      const SlotReference reference{slot};
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
  // Collects the entries among the next few slots from `position` on. Returns false at the end.
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

  // Calls `visit(entry)` for each live object, without holding the lock.
  template <typename Visit>
  void ForEach(const Visit& visit) {
    Position position;
    for (bool more = true; more;) {
      Collected collected;
      {
        MutexLock lock(mutex);
        more = Collect(position, collected);
      }
      while (!collected.empty()) collected.VisitNext(visit);
    }
  }

  // Before the end: removes the entries whose keys are destroyed with them. Such a key's destructor
  // may use the container, also to enter something: so it has to be called until it returns false,
  // which says that there was no such entry.
  bool DropExternalEntries() {
    bool dropped = false;
    {
      DeferredReleases deferred;
      MutexLock lock(mutex);
      if (!has_external_slots()) return false;
      dropped = PurgeUpTo(SIZE_MAX, deferred) != 0;
    }
    ForEach([&](const Entry& entry) {
      if (!entry.slot->is_external()) return;
      DeferredReleases deferred;
      MutexLock lock(mutex);
      dropped |= Remove(entry, deferred);
    });
    return dropped;
  }

  // Returns the number of entries. Own handles: without those whose object's last release happened
  // before; exact while no thread changes the table. Other handles: with the dead entries that are
  // not purged yet.
  size_t size() const {
    // Relaxed, also where it is written: whoever wants an exact answer has ordered it.
    const size_t entries = entry_count_.load(std::memory_order_relaxed);
    const size_t expired = kNotifies ? core_->retire_list.expired_count() : 0;
    return entries > expired ? entries - expired : 0;
  }

  // Returns the number of entries with the dead ones that are not purged yet.
  size_t in_index() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return in_index_; }

  void CheckInvariantsForTesting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    core_->CheckInvariantsForTesting();
    size_t visible = 0;
    for (Position position; const Slot* const slot = core_->At(position); ++position) {
      if (slot->state() == State::kVisible) ++visible;
    }
    Check(visible == in_index_, "CheckInvariantsForTesting",
          "a slot is in the index or out of it by mistake");
    index_.CheckInvariantsForTesting(in_index_);
  }

 private:
  static constexpr size_t kPurgesPerTurn = 256;

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
    SlotReference reference{slot};
    if (!match(*slot)) return false;
    reference.slot = nullptr;
    return true;
  }

  // See FindOrProveAbsent.
  template <typename Match>
  FindResult FindOrProveAbsentSlow(uint32_t hash, const Match& match) const;
  template <typename Match>
  [[gnu::noinline]] auto FindSlow(uint32_t hash, Match match) const {
    return RefAccess::TakeApart(FindOrProveAbsent(hash, match).object);
  }

  // What an attempt to take a reference to a slot's object has come to.
  enum class RefOutcome {
    kNoMatch,  // the payload is another one, or an embedded slot's object is dead
    kDead,     // an external slot's payload matches, but its object is dead
    kRef,      // the caller has a reference
  };
  // Takes a reference to the slot's object if the payload matches: for an embedded slot that is a
  // slot reference; an external slot's object goes to `external_object`.
  template <typename Match, typename When>
  static RefOutcome TryRefMatching(Slot* slot, const Match& match, H& external_object,
                                   When&& when) {
    if (slot->is_external()) Core::AsExternal(slot)->Prefetch();
    if (!TryRef(slot, when)) return RefOutcome::kNoMatch;
    struct Reference {
      ~Reference() {
        if (slot != nullptr) Release(slot, when);
      }
      Slot* slot;
      When& when;
    } reference{slot, when};
    if (!match(*slot)) return RefOutcome::kNoMatch;
    if (slot->is_external()) {
      external_object = Core::AsExternal(slot)->Lock();
      return external_object.get() != nullptr ? RefOutcome::kRef : RefOutcome::kDead;
    }
    reference.slot = nullptr;
    return RefOutcome::kRef;
  }

  void Prepare(Slot* slot, PreparedSlot& prepared) {
    slot->set_state(State::kUnderConstruction);
    prepared.slot_ = slot;
  }

  // Grows the index to at least twice its size, so that the ones that it replaces don't add up.
  void GrowFor(size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { index_.Grow(GrownSize(size)); }
  size_t GrownSize(size_t size) const {
    return std::max(size, std::min(2 * index_.max_size(), max_size()));
  }

  // Enters a slot. From `publish()` on other threads can take references to the object.
  template <typename Publish>
  void Enter(Slot* slot, uint32_t hash, const Entry& replaced, DeferredReleases& deferred,
             Publish&& publish) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    slot->set_hash(hash);
    slot->set_state(State::kVisible);
    AddToEntryCount(1);
    if constexpr (!kNotifies) polled_.Enter(Core::AsExternal(slot));
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
  // Drops what the table has of an entry that has been taken out of the index.
  void Detach(const Entry& entry, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    AddToEntryCount(-1);
    if constexpr (!kNotifies) polled_.Leave(Core::AsExternal(entry.slot));
    entry.slot->set_state(State::kErased);
    if (entry.slot->is_external()) {
      // The caller holds the object, so the watcher is still registered.
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
  // Reclaims up to `limit` slots that have come through the retire list, and adds to `entries` how
  // many of them were entries. Returns how many it has reclaimed.
  size_t ReclaimUpTo(size_t limit, DeferredReleases& deferred, size_t& entries)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    for (size_t reclaimed = 0; reclaimed < limit; ++reclaimed) {
      Slot* const slot = NextRetired();
      if (slot == nullptr) return reclaimed;
      entries += Reclaim(slot, deferred) ? 1u : 0u;
    }
    return limit;
  }
  // Reclaims a slot that has come through the retire list. Returns whether it was an entry.
  bool Reclaim(Slot* slot, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const bool was_entry = slot->state() == State::kVisible;
    if (was_entry) {
      index_.Erase(slot);
      --in_index_;
    }
    if (slot->state() == State::kRetired) {
      core_->Free(slot, deferred.unused_blocks);
    } else if (slot->is_external()) {
      slot->set_state(State::kErased);
      slot->ReleaseStrong(deferred);
    } else {
      core_->ReclaimEmbedded(slot, deferred.unused_blocks);
    }
    return was_entry;
  }
  size_t Sweep(size_t limit, DeferredReleases& deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t removed = 0;
    for (size_t left = std::min(limit, polled_.size()); left > 0; --left) {
      External* const slot = polled_.Next();
      if (slot->expired()) {
        Remove({slot, H()}, deferred);
        ++removed;
      } else {
        polled_.Pass();
      }
    }
    return removed;
  }

  // Its last field is written by every change, and shares a cache line with the next fields.
  [[no_unique_address]] Index index_;

 public:
  // Guards everything but look-ups, size() and dropping references.
  mutable Mutex mutex;

 private:
  size_t in_index_ ABSL_GUARDED_BY(mutex) = 0;
  Slot* retired_ ABSL_GUARDED_BY(mutex) = nullptr;  // taken from the retire list, linked by next()
  // Invariant: the number of visible slots, dead ones included. Written under the lock, read by any
  // thread.
  typename Policy::template Atomic<size_t> entry_count_{0};
  Core* const core_;
  // An external and an embedded slot under construction that are not in use, or null. See
  // PrepareSpare.
  typename Policy::template Plain<Slot*> spare_[2]{nullptr, nullptr};
  // The entries, if the handle notifies nobody.
  PollingRing<External> polled_ ABSL_GUARDED_BY(mutex);
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
      const RefOutcome outcome = TryRefMatching(slot, match, external_object, Immediately());
      met_dead |= outcome == RefOutcome::kDead;
      return outcome == RefOutcome::kRef;
    });
    if (!found.certain) continue;
    if (found.slot == nullptr) {
      // That a weak handle could not be locked orders nothing, so the index may have been read
      // before the key got another object.
      if (met_dead) break;
      return {H(), found.version};
    }
    if (found.slot->is_external()) return {std::move(external_object), found.version};
    return {Core::AsEmbedded(found.slot)->Adopt(), found.version};
  }
  // Under the lock nothing changes meanwhile.
  DeferredReleases deferred;
  Entry entry;
  MutexLock lock(mutex);
  entry.slot = index_.FindAsWriter(hash, [&](Slot* slot) {
    return TryRefMatching(slot, match, entry.object, deferred) == RefOutcome::kRef;
  });
  if (entry.slot != nullptr && !entry.slot->is_external()) {
    entry.object = Core::AsEmbedded(entry.slot)->Adopt();
  }
  return {std::move(entry.object), index_.version()};
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_TABLE_H_
