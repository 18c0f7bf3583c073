// The engine under the thread-safe containers, one of several shards: slots that look-ups find
// without a lock (see concurrent_slot.h), an index over them, and a lock for everything else.
//
// A slot's life: free -> prepared (a key is constructed in it, outside the lock) -> entered -> back
// to free. A resident goes when its object does: the thread that drops the last reference destroys
// object and key and pushes the slot to the queue; the table takes it out of the index, unless it
// has been removed from there before, and gives up its weak reference; when the last of those has
// gone the slot comes through the queue once more and is free. A link goes when the table lets go
// of it, because it is removed or because its watcher has been pushed to the queue; the last reader
// at it destroys handle and key and pushes the slot, which then is free.
//
// Nobody's code but hash and equality runs under the lock: no reference is dropped there for good,
// see Postponed.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_TABLE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "cache/internal/concurrent_core.h"
#include "cache/internal/concurrent_index.h"
#include "cache/internal/concurrent_slot.h"
#include "cache/internal/mutex.h"
#include "weakref/handle_traits.h"
#include "weakref/internal/check.h"

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
  using Resident = typename Core::Resident;
  using Link = typename Core::Link;
  using Position = typename Core::Position;
  using Mutex = BasicMutex<Policy>;
  using MutexLock = BasicMutexLock<Policy>;
  // Is declared before the lock, so that it goes after it.
  using Postponed = typename BlockOf<H>::Postponed;

  // A slot that is nobody else's, to be entered; given back if it is not.
  class Prepared {
   public:
    Prepared() = default;
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;
    ~Prepared() {
      if (slot_ == nullptr) return;
      if (has_payload_) Core::DestroyPayload(slot_);
      slot_->set_state(State::kReturning);
      static_cast<void>(core_->queue.Push(slot_));
    }

    template <typename... Args>
    void MakePayload(Args&&... args) {
      slot_->MakePayload(std::forward<Args>(args)...);
      if constexpr (!std::is_void_v<typename Core::Cold>) {
        static_assert(std::is_nothrow_constructible_v<typename Core::Cold, Slot*>);
        ::new (static_cast<void*>(Core::ColdAt(slot_))) typename Core::Cold(slot_);
      }
      has_payload_ = true;
    }
    Payload& payload() { return slot_->payload(); }
    auto& cold() { return ColdOf(slot_); }
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
  // Before anybody uses the table: keeps `companion` as long as there is any payload, also after
  // the table's end.
  void SetCompanion(const std::shared_ptr<const void>& companion) { core_->companion = companion; }
  // Nobody uses the table any more; its objects may live on.
  ~ConcurrentTable() { core_->Abandon(arrived_); }

  // The object for whose slot `match` is true, or null. Takes no lock if it is found, or if
  // nobody changes the table meanwhile. (By value: what is passed by reference can't stay in
  // registers across an atomic operation, and costs a hit a third.)
  template <typename Match>
  H Find(uint32_t hash, Match match) const {
    if constexpr (kNotifies) {
      if (Resident* const resident = FindResident(hash, match)) [[likely]]
        return resident->Adopt();
      const auto found = FindFurther(hash, match);
      return RefAccess::AdoptAs<H>(found.pointer, found.block);
    } else {
      H found = FindQuickly(hash, match);
      if (found.get() != nullptr) [[likely]]
        return found;
      return FindSurely(hash, match).object;
    }
  }
  // Where Find nearly always finds an object that the table has created; null says nothing. The
  // caller is counted in at it, which is a reference to its object.
  template <typename Match>
  Resident* FindResident(uint32_t hash, const Match& match) const {
    return static_cast<Resident*>(index_.FindFirst(
        hash, [&](Slot* slot) { return slot->IsResidentOf(hash) && TakeResident(slot, match); }));
  }
  // As well, any object.
  template <typename Match>
  H FindQuickly(uint32_t hash, Match match) const {
    H found;
    if constexpr (kNotifies) {
      Resident* const resident = FindResident(hash, match);
      if (resident != nullptr) [[likely]]
        found = resident->Adopt();
    } else {
      const auto take = [&](Slot* slot) {
        return slot->hash() == hash && Take(slot, match, found, Immediately()) == Taken::kYes;
      };
      static_cast<void>(index_.FindFirst(hash, take));
    }
    return found;
  }
  // As Find, with the version of the table as of which there is nothing, if that is the result.
  struct Sure {
    H object;
    uint64_t version;
  };
  template <typename Match>
  Sure FindSurely(uint32_t hash, const Match& match) const {
    Sure sure;
    if (index_.IsAbsent(hash, &sure.version)) return sure;
    return FindInAll(hash, match);
  }
  // See ConcurrentIndex::version.
  uint64_t version() const { return index_.version(); }

  struct Entry {
    Slot* slot = nullptr;
    H object;
  };
  // For the writer. A dead link that it meets, whose handle notifies nobody, leaves the table.
  template <typename Match>
  Entry FindLocked(uint32_t hash, const Match& match, Postponed& postponed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Entry entry;
    Slot* dead = nullptr;
    entry.slot = index_.FindAsWriter(hash, [&](Slot* slot) {
      const Taken taken = Take(slot, match, entry.object, postponed);
      if (taken == Taken::kDead) dead = slot;
      return taken == Taken::kYes;
    });
    if (entry.slot != nullptr && !entry.slot->is_link()) {
      entry.object = Core::AsResident(entry.slot)->Adopt();
    }
    if (!kNotifies && dead != nullptr) Remove({dead, H()}, postponed);
    return entry;
  }

  // A free slot, if there is none prepared yet. If memory runs out it throws and changes nothing.
  template <bool kResident>
  void Prepare(Prepared& prepared) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (prepared.slot_ != nullptr) return;
    Prepare(core_->template Allocate<kResident>(), prepared);
  }
  // The same without the lock, of a slot that was kept for it; false if there is none. The caller
  // sees to it that one thread has the spare slots at a time (see SingleFlight).
  template <bool kResident>
  bool PrepareSpare(Prepared& prepared) {
    Slot* const slot = spare_[kResident];
    if (slot == nullptr) return false;
    spare_[kResident] = nullptr;
    Prepare(slot, prepared);
    return true;
  }
  // Keeps one, if that takes no memory. As well.
  template <bool kResident>
  void KeepSpare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (spare_[kResident] != nullptr) return;
    Slot* const slot = core_->template AllocateFree<kResident>();
    if (slot == nullptr) return;
    slot->set_state(State::kPrepared);
    spare_[kResident] = slot;
  }

  // Makes room for one more. As well.
  void MakeRoom(Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (in_index_ < index_.max_size()) [[likely]]
      return;
    PurgeUpTo(SIZE_MAX, postponed);
    // Often full of the dead: not worth growing.
    if (in_index_ < index_.max_size() / 2) return;
    GrowFor(in_index_ + 1);
  }
  void Reserve(size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (size > index_.max_size()) GrowFor(size);
  }
  static size_t max_size() { return Index::max_slots(); }

  // What lies apart from the slot, for whoever may look at its payload.
  static auto& ColdOf(Slot* slot) { return *Core::ColdAt(slot); }

  // Enters `object` with a prepared payload: there is room, and nothing live under the key but
  // `replaced`, which leaves the table; the caller holds its object.
  void Enter(Prepared& prepared, uint32_t hash, const H& object, const Entry& replaced,
             Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto* const link = Core::AsLink(prepared.Take());
    link->Hold(object);
    Enter(link, hash, replaced, postponed, [&] { link->Publish(object); });
  }
  // As well, an object that is no handle yet; the result is the first.
  template <typename Object, typename Deleter>
  H Enter(Prepared& prepared, uint32_t hash, std::unique_ptr<Object, Deleter>& object,
          const Entry& replaced, Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto* const resident = Core::AsResident(prepared.Take());
    resident->Hold(object.release());
    Enter(resident, hash, replaced, postponed, [&] { resident->Publish(); });
    return resident->Adopt();
  }

  // The caller holds the entry's object. False if somebody else has removed it.
  bool Remove(const Entry& entry, Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (entry.slot->state() != State::kEntered) return false;
    index_.Erase(entry.slot);
    --in_index_;
    Detach(entry, postponed);
    return true;
  }

  // Takes up to `limit` entries of expired objects out of the table; for handles that notify
  // nobody, of those among the next `limit`. Returns how many it has taken.
  size_t PurgeUpTo(size_t limit, Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t purged = 0;
    for (size_t i = 0; i < limit; ++i) {
      Slot* const slot = NextArrived();
      if (slot == nullptr) break;
      purged += Arrive(slot, postponed);
    }
    if constexpr (!kNotifies) purged += Sweep(limit, postponed);
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
      const HeldWeakly held{slot};
      if (!slot->TryAddStrong()) return;
      const CountedIn counted{slot};
      const Entry entry{slot, slot->is_link() ? Core::AsLink(slot)->Lock() : Core::Share(slot)};
      if (entry.object.get() != nullptr) visit(entry);
    }

   private:
    friend class ConcurrentTable;
    static constexpr size_t kMax = 64;
    struct HeldWeakly {
      ~HeldWeakly() { slot->ReleaseWeak(); }
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
      if (slot->state() != State::kEntered) continue;
      slot->AddWeak();
      collected.slots_[collected.count_++] = slot;
    }
    return true;
  }

  // Own handles: without the objects whose last release has happened before; exact while nobody
  // changes the table. Others: with those of the dead that are not purged yet.
  size_t size() const {
    // Relaxed, also where it is written: whoever wants an exact answer has ordered it.
    const size_t attached = attached_.load(std::memory_order_relaxed);
    const size_t expired = kNotifies ? core_->queue.expired_count() : 0;
    return attached > expired ? attached - expired : 0;
  }

  // With those of the dead that are not purged yet.
  size_t in_index() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return in_index_; }

  void Validate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    core_->Validate();
    size_t entered = 0;
    for (Position position; const Slot* const slot = core_->At(position); ++position) {
      if (slot->state() == State::kEntered) ++entered;
    }
    Check(entered == in_index_, "Validate", "a slot is in the index or out of it by mistake");
    index_.Validate(in_index_);
  }

 private:
  struct CountedIn {
    ~CountedIn() {
      if (slot != nullptr) slot->ReleaseStrong();
    }
    Slot* slot;
  };

  struct Immediately {};
  static void Release(Slot* slot, Immediately) { slot->ReleaseStrong(); }
  static void Release(Slot* slot, Postponed& postponed) { slot->ReleaseStrong(postponed); }
  static bool CountIn(Slot* slot, Immediately) { return slot->TryAddStrongUnheld(); }
  static bool CountIn(Slot* slot, Postponed& postponed) {
    return slot->TryAddStrongUnheld(postponed);
  }

  template <typename Match>
  static bool TakeResident(Slot* slot, const Match& match) {
    if (!slot->TryAddStrongUnheld()) return false;
    CountedIn counted{slot};
    if (!match(*slot)) return false;
    counted.slot = nullptr;
    return true;
  }

  // As FindSurely.
  template <typename Match>
  Sure FindInAll(uint32_t hash, const Match& match) const;
  template <typename Match>
  [[gnu::noinline]] auto FindFurther(uint32_t hash, Match match) const {
    return RefAccess::TakeApart(FindSurely(hash, match).object);
  }

  enum class Taken { kNo, kDead, kYes };
  // Whether the slot's object can be had and its payload matches: of a resident it is counted in
  // then, of a link it is in `linked`; of a dead link whose payload matches it is not.
  template <typename Match, typename When>
  static Taken Take(Slot* slot, const Match& match, H& linked, When&& when) {
    if (slot->is_link()) Core::AsLink(slot)->Prefetch();
    if (!CountIn(slot, when)) return Taken::kNo;
    struct Counted {
      ~Counted() {
        if (slot != nullptr) Release(slot, when);
      }
      Slot* slot;
      When& when;
    } counted{slot, when};
    if (!match(*slot)) return Taken::kNo;
    if (slot->is_link()) {
      linked = Core::AsLink(slot)->Lock();
      return linked.get() != nullptr ? Taken::kYes : Taken::kDead;
    }
    counted.slot = nullptr;
    return Taken::kYes;
  }

  void Prepare(Slot* slot, Prepared& prepared) {
    slot->set_state(State::kPrepared);
    prepared.core_ = core_;
    prepared.slot_ = slot;
  }

  // By no less than to twice the size, or what it replaces would add up.
  void GrowFor(size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    index_.Grow(std::max(size, std::min(2 * index_.max_size(), max_size())));
  }

  // From `publish()` on the object can be had.
  template <typename Publish>
  void Enter(Slot* slot, uint32_t hash, const Entry& replaced, Postponed& postponed,
             Publish&& publish) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    slot->set_hash(hash);
    slot->set_state(State::kEntered);
    AddAttached(1);
    if (replaced.slot == nullptr) {
      index_.Insert(slot);
      ++in_index_;
      publish();
      index_.NotePublished();
    } else {
      index_.Replace(replaced.slot, slot, publish);
      Detach(replaced, postponed);
    }
  }
  // The entry is out of the index.
  void Detach(const Entry& entry, Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    AddAttached(-1);
    entry.slot->set_state(State::kRemoved);
    if (entry.slot->is_link()) {
      // The caller holds the object, so the watcher is there.
      static_cast<void>(Core::AsLink(entry.slot)->Unwatch());
      entry.slot->ReleaseStrong(postponed);
    }
  }
  void AddAttached(int change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const size_t attached = attached_.load(std::memory_order_relaxed);
    attached_.store(attached + static_cast<size_t>(change), std::memory_order_relaxed);
  }

  Slot* NextArrived() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (arrived_ == nullptr) arrived_ = core_->queue.TakeAll();
    Slot* const slot = arrived_;
    if (slot != nullptr) arrived_ = slot->next();
    return slot;
  }
  // True if that was the end of an entry.
  bool Arrive(Slot* slot, Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const bool entered = slot->state() == State::kEntered;
    if (entered) {
      index_.Erase(slot);
      --in_index_;
    }
    if (slot->state() == State::kReturning) {
      core_->Free(slot);
    } else if (slot->is_link()) {
      slot->set_state(State::kRemoved);
      slot->ReleaseStrong(postponed);
    } else {
      core_->DropArrived(slot);
    }
    return entered;
  }
  size_t Sweep(size_t limit, Postponed& postponed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t removed = 0;
    limit = std::min(limit, core_->size());
    for (size_t i = 0; i < limit; ++i, ++sweep_) {
      Slot* slot = core_->At(sweep_);
      if (slot == nullptr) {
        sweep_ = Position();
        slot = core_->At(sweep_);
      }
      if (slot->state() != State::kEntered || !Core::AsLink(slot)->expired()) continue;
      Remove({slot, H()}, postponed);
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
  Slot* arrived_ ABSL_GUARDED_BY(mutex) = nullptr;  // taken from the queue; linked by next()
  // Entries, without those that were removed; with the expired ones if the handle notifies. Written
  // under the lock, read by anybody.
  typename Policy::template Atomic<size_t> attached_{0};
  Core* const core_;
  // Links and residents in state prepared that nobody uses, or null. See PrepareSpare.
  typename Policy::template Plain<Slot*> spare_[2]{nullptr, nullptr};
  Position sweep_ ABSL_GUARDED_BY(mutex);
};

template <typename H, typename Payload>
template <typename Match>
auto ConcurrentTable<H, Payload>::FindInAll(uint32_t hash, const Match& match) const -> Sure {
  constexpr int kAttempts = 4;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    H linked;
    bool met_dead = false;
    const auto found = index_.Find(hash, [&](Slot* slot) {
      const Taken taken = Take(slot, match, linked, Immediately());
      met_dead |= taken == Taken::kDead;
      return taken == Taken::kYes;
    });
    if (!found.certain) continue;
    if (found.slot == nullptr) {
      // A weak handle's failure is ordered with nothing, so its successor may have been missed.
      if (met_dead) break;
      return {H(), found.version};
    }
    if (found.slot->is_link()) return {std::move(linked), found.version};
    return {Core::AsResident(found.slot)->Adopt(), found.version};
  }
  // As the writer, nothing changes meanwhile.
  Postponed postponed;
  Entry entry;
  MutexLock lock(mutex);
  entry.slot = index_.FindAsWriter(
      hash, [&](Slot* slot) { return Take(slot, match, entry.object, postponed) == Taken::kYes; });
  if (entry.slot != nullptr && !entry.slot->is_link()) {
    entry.object = Core::AsResident(entry.slot)->Adopt();
  }
  return {std::move(entry.object), index_.version()};
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_TABLE_H_
