// SPDX-License-Identifier: Apache-2.0
// The slots of a concurrent table: a key, and an object or a weak handle to one.
//
// A look-up takes no lock. It finds a slot to which it has no reference: the slot may be about to
// be erased, or have been reused for another key. That is safe because a slot's memory stays a
// slot, with valid counts, for as long as the table lives. So a reader takes a strong reference to
// the slot first (a slot reference) and compares the key after. While there is a slot reference,
// key and handle do not change; whoever drops the last one destroys both.
//
// The counts of an *embedded* slot are those of an object that the table has created: a slot
// reference is a reference to the object. An *external* slot refers to an object that existed
// before. The table has one slot reference itself, and a reader's slot reference protects the weak
// handle until the reader has locked that.
#ifndef WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_SLOT_H_
#define WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_SLOT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/handle_atomics.h"
#include "weakcache/cache/internal/slot/hash_bits.h"
#include "weakcache/cache/internal/slot/polling_ring.h"
#include "weakcache/cache/internal/slot/slot_alignment.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/ref_from_this.h"
#include "weakcache/weakref/internal/referent_storage.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// The part of a payload that a hit does not read, if there is one, is `Payload::Cold`. It lies
// apart from the slots, to keep those small. It is constructed after the payload and destroyed
// before it. If the slot is external and its object notifies of its end, OnObjectExpired() is
// called before that, by the thread that drops the object's last reference.
template <typename Payload>
struct ColdPartOf {
  using type = void;
};
template <typename Payload>
requires requires { typename Payload::Cold; }
struct ColdPartOf<Payload> {
  using type = typename Payload::Cold;
};

enum class ConcurrentSlotState : uint8_t {
  kFree,
  kUnderConstruction,  // of a thread that is about to enter it
  kVisible,            // in the index
  kErased,             // out of the index, but with references
  kRetired             // emptied; will be pushed to the retire_list, or has been, to become free
};

template <typename H, typename Payload>
class ConcurrentSlot : public BlockOf<H> {
  using Policy = typename AtomicsOf<H>::Policy;
  template <typename T>
  using Plain = typename Policy::template Plain<T>;

 public:
  using State = ConcurrentSlotState;

  // Tells at which slots it is worth taking a reference; the key decides. Acquire pairs with the
  // release in set_hash: a reader that skips a slot because that has been reused also sees that its
  // former entry was erased.
  uint32_t hash() const { return tagged_hash_.load(std::memory_order_acquire) & ~kExternalTag; }
  void set_hash(uint32_t hash) {
    tagged_hash_.store(hash | (is_external() ? kExternalTag : 0), std::memory_order_release);
  }
  // Returns `hash() == hash && !is_external()`, by one comparison. Relaxed: false proves nothing.
  bool IsEmbeddedWithHash(uint32_t hash) const {
    return tagged_hash_.load(std::memory_order_relaxed) == hash;
  }

  bool is_external() const { return is_external_ != 0; }
  // Relaxed: under the table's lock it is exact as to whether the slot is visible. The other states
  // are only asked for by the thread that owns the slot then.
  State state() const { return state_.load(std::memory_order_relaxed); }
  void set_state(State state) { state_.store(state, std::memory_order_relaxed); }
  bool is_free() const { return state() == State::kFree; }

  // Returns the header of the slot's page.
  void* page() const {
    return const_cast<char*>(reinterpret_cast<const char*>(this)) - kDistanceUnit * distance_;
  }

  // The next slot: of the free ones while this is free, of the retire list while it is in that.
  ConcurrentSlot* next() const { return static_cast<ConcurrentSlot*>(pointer()); }
  void set_next(ConcurrentSlot* next) { set_pointer(next); }

  Payload& payload() { return payload_; }
  const Payload& payload() const { return payload_; }
  template <typename... Args>
  void MakePayload(Args&&... args) {
    ::new (static_cast<void*>(std::addressof(payload_))) Payload(std::forward<Args>(args)...);
  }
  void DestroyPayload() { std::destroy_at(std::addressof(payload_)); }

 protected:
  ConcurrentSlot(void* page, bool is_external)
      : BlockOf<H>(StartsExpired()),
        distance_(DistanceFrom(page) & ((1u << kDistanceBits) - 1)),  // for -Wconversion
        is_external_(is_external ? 1 : 0) {}
  ~ConcurrentSlot() {}  // the payload has been destroyed before

  void* pointer() const { return pointer_; }
  void set_pointer(void* pointer) { pointer_ = pointer; }

 private:
  static constexpr size_t kDistanceUnit = 8;
  static constexpr int kDistanceBits = 23;
  uint32_t DistanceFrom(const void* page) const {
    const auto bytes =
        static_cast<size_t>(reinterpret_cast<const char*>(this) - static_cast<const char*>(page));
    // Eight slots of nearly eight megabytes.
    Check(bytes / kDistanceUnit < size_t{1} << kDistanceBits, "ConcurrentWeakValueMap",
          "huge keys");
    return static_cast<uint32_t>(bytes / kDistanceUnit);
  }

  static constexpr uint32_t kExternalTag = uint32_t{1} << 31;
  static_assert(kSlotHashBits < 31);

  // Invariant: the hash of the key while there are slot references, with a tag if the slot is
  // external. Written by the thread that enters the slot, before that; read by any thread.
  typename Policy::template Atomic<uint32_t> tagged_hash_{0};
  const uint32_t distance_ : kDistanceBits;  // to the page's beginning, in units
  const uint32_t is_external_ : 1;
  // Invariant: kVisible if and only if the slot is in the index. Transitions:
  //   to kVisible, and from there to kErased or kRetired   only under the table's lock
  //   kFree to kUnderConstruction to kRetired              by the thread that prepares the slot
  //   kErased to kRetired       under the lock, or by an external slot's last reader
  //   kRetired to kFree         under the lock
  // It stands beside the distance, so that a slot with a key of eight bytes fits in one cache line.
  typename Policy::template Atomic<State> state_{State::kFree};
  Plain<void*> pointer_{nullptr};  // the next slot; with slot references, an embedded one's object
  union {
    Payload payload_;  // from kUnderConstruction until the last slot reference is dropped
  };
};

// Owner is the header of the slot's page.
template <typename H, typename Payload, typename Owner>
class alignas(kSlotAlignment<ConcurrentSlot<H, Payload>>) ConcurrentEmbeddedSlot final
    : public ConcurrentSlot<H, Payload> {
  using Base = ConcurrentSlot<H, Payload>;
  using Object = std::remove_cv_t<typename HandleTraits<H>::element_type>;

 public:
  using State = typename Base::State;

  explicit ConcurrentEmbeddedSlot(Owner* owner) : Base(owner, false) {}

  // Returns the object; takes over the caller's slot reference.
  H Adopt() {
    if constexpr (HandleTraits<H>::kNotifiesExpiry) {
      return RefAccess::AdoptAs<H>(object(), this);
    } else {
      return H();  // such handles have counts of their own, and external slots only
    }
  }

  // Takes over `object`, which has memory of its own. Once the slot is in the index, Publish lets
  // other threads take references; the first one is the caller's.
  void SetReferent(Object* object) {
    this->set_pointer(object);
    if constexpr (HasRefFromThis<Object>) {
      this->PrepareRearm();
      LinkRefToThis(object, this);
    }
  }
  void Publish() {
    if constexpr (HasRefFromThis<Object>) {
      this->Rearm();
    } else {
      this->RearmAtOnce();
    }
  }

  // The object's reference keeps the payload. After the table's end the state stays as it was.
  WatcherInfo DescribeOwnEntry() const noexcept override {
    if (this->state() != State::kVisible || owner()->retire_list().closed()) return {};
    return Owner::EntryInfo(this);
  }

 private:
  Owner* owner() const { return static_cast<Owner*>(this->page()); }
  Object* object() const { return static_cast<Object*>(this->pointer()); }

  void Expire() noexcept override {
    Discard(std::allocator<char>(), object());
    Owner::DestroyPayload(this);
    // A thread that erases a slot holds a reference, so the state does not change here any more.
    if (this->state() == State::kVisible) owner()->retire_list().CountExpired();
    this->FinishExpiry([this] { owner()->PushExpired(this); });
  }
  void FreeBlock() noexcept override { owner()->Push(this); }
};

// Notifies an external slot of the end of its object, if the handle can do that.
template <typename H, bool kNotifies = HandleTraits<H>::kNotifiesExpiry>
class ExternalSlotWatcher : public BlockOf<H>::Watcher {
 protected:
  template <typename Owner>
  explicit ExternalSlotWatcher(Owner* owner) : BlockOf<H>::Watcher(owner) {}

  void Watch(const H& object) { RefAccess::Block(object)->AddWatcher(this); }
  // Returns false if the object has expired before.
  template <typename AnyHandle>
  bool Unwatch(const AnyHandle& object) {
    return RefAccess::Block(object)->RemoveWatcher(this);
  }
};
template <typename H>
class ExternalSlotWatcher<H, false> {
 protected:
  template <typename Owner>
  explicit ExternalSlotWatcher(Owner*) {}

  void Watch(const H&) {}
  template <typename AnyHandle>
  bool Unwatch(const AnyHandle&) {
    return true;
  }
};

template <typename H, typename Payload, typename Owner>
class ConcurrentExternalSlot final : public ConcurrentSlot<H, Payload>,
                                     public ExternalSlotWatcher<H> {
  using Base = ConcurrentSlot<H, Payload>;
  using Traits = HandleTraits<H>;
  using Weak = typename Traits::weak_type;

 public:
  using State = typename Base::State;

  using Base::next;  // not the watcher's
  using Base::set_next;

  explicit ConcurrentExternalSlot(Owner* owner)
      : Base(owner, true), ExternalSlotWatcher<H>(owner) {}

  // Prefetches the handle. It is in the next cache line, and an atomic operation on the counts
  // would keep the processor from reading ahead.
  void Prefetch() const { __builtin_prefetch(&handle_); }
  // Precondition of both: the caller has a slot reference, or the table's lock while the slot is
  // visible.
  H Lock() const { return Traits::Lock(*handle_); }
  bool expired() const { return Traits::Expired(*handle_); }

  // As an embedded slot's. The first slot reference is the table's, until ReleaseStrong.
  void SetReferent(const H& object) { handle_.emplace(Traits::MakeWeak(object)); }
  void Publish(const H& object) {
    this->RearmAtOnce();
    this->Watch(object);
  }
  // Guarded by the table's lock. Exists if the handle notifies nobody.
  PollingPlace<ConcurrentExternalSlot>& polling_place() { return polling_place_; }
  // Returns false if the slot will be pushed for its object's end, or has been.
  bool Unwatch() { return ExternalSlotWatcher<H>::Unwatch(*handle_); }

 private:
  Owner* owner() const { return static_cast<Owner*>(this->page()); }

  // Called by the thread that drops the last slot reference.
  void Expire() noexcept override {
    handle_.reset();
    Owner::DestroyPayload(this);
    this->set_state(State::kRetired);
    // The table's weak reference, and the one that the strong ones shared.
    if (this->DropWeak(2)) owner()->Push(this);
  }
  void FreeBlock() noexcept override { owner()->Push(this); }

  std::optional<Weak> handle_;
  // After what a look-up reads.
  struct NoPlace {};
  [[no_unique_address]] std::conditional_t<Traits::kNotifiesExpiry, NoPlace,
                                           PollingPlace<ConcurrentExternalSlot>>
      polling_place_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_SLOT_H_
