// SPDX-License-Identifier: Apache-2.0
// The slots of a weak table: each has a weak reference to an object and the container's payload.
//
// Three kinds of slot:
//   EmbeddedSlot  contains the control block of an object that the container created, so that a
//                 look-up finds key and counts in one cache line.
//   ExternalSlot  refers to an object that was created elsewhere, and watches its expiry.
//   PolledSlot    refers to an object whose handle notifies nobody of its expiry.
// All derive from TableSlot, the part that the table uses.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_SLOT_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_SLOT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string_view>
#include <type_traits>
#include <utility>

#include "weakcache/cache/internal/slot/handle_atomics.h"
#include "weakcache/cache/internal/slot/hash_bits.h"
#include "weakcache/cache/internal/slot/payload_description.h"
#include "weakcache/cache/internal/slot/slot_alignment.h"
#include "weakcache/cache/internal/table/expiry_claim.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/ref_from_this.h"
#include "weakcache/weakref/internal/referent_storage.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// The state of a slot. A second, independent fact is whether the slot is still to come through the
// retire list (expiry_pending): the thread that dropped the last reference to its object has pushed
// it there, or is about to.
enum class SlotState : uint32_t {
  kFree,
  kUnderConstruction,  // has a payload but no object
  kVisible,            // in the index; slots in all other states are not
  kErased,             // not in the index; its payload is still to be destroyed
  kDestroying,         // its payload is being destroyed
  kRetired,            // without payload; becomes free when it comes through the retire list, or,
                       // if embedded, when the last weak reference to its object is dropped
};

// A payload that is the memory of the referent itself. For small objects, whose separate allocation
// would cost more memory than it frees early.
template <typename T>
class ObjectInSlot {
 public:
  ObjectInSlot() {}
  T* get() { return std::launder(reinterpret_cast<T*>(bytes_)); }

 private:
  alignas(T) unsigned char bytes_[sizeof(T)];
};
template <typename T>
inline constexpr bool kFitsInSlot = sizeof(T) <= 32 && alignof(T) <= alignof(std::max_align_t);

template <typename Payload>
inline constexpr bool kIsObjectInSlot = false;
template <typename T>
inline constexpr bool kIsObjectInSlot<ObjectInSlot<T>> = true;

template <typename T>
struct PayloadDescription<ObjectInSlot<T>> {
  static constexpr std::string_view container = "WeakInterner";
  using Argument = void;
};

template <typename H, typename Payload>
class EmbeddedSlotBase;
template <typename H, typename Payload>
class ExternalSlot;

template <typename H, typename Payload>
class TableSlot {
  using Traits = HandleTraits<H>;
  static constexpr bool kNotifies = Traits::kNotifiesExpiry;

 public:
  TableSlot(const TableSlot&) = delete;
  TableSlot& operator=(const TableSlot&) = delete;

  uint32_t hash() const { return hash_; }
  SlotState state() const { return static_cast<SlotState>(state_); }
  void set_state(SlotState state) { state_ = static_cast<uint32_t>(state) & kStateMask; }
  bool is_free() const { return state() == SlotState::kFree; }
  // Returns whether an erased, destroying or retired slot is still to come through the retire list
  // for its object's expiry.
  bool expiry_pending() const { return expiry_pending_ != 0; }
  void set_expiry_pending(bool pending) { expiry_pending_ = pending ? 1 : 0; }
  bool is_embedded() const { return embedded_ != 0; }

  // Returns the header of the page that the slot is in.
  void* page() const {
    return const_cast<char*>(reinterpret_cast<const char*>(this)) - distance_to_page_;
  }

  // Returns the link of the free list and of the retire list. It shares its memory with the
  // reference, so it is usable only while the slot is free or its object has expired.
  TableSlot* next() const { return next_; }
  void set_next(TableSlot* next) { next_ = next; }

  Payload& payload() { return payload_; }
  const Payload& payload() const { return payload_; }
  template <typename... Args>
  void MakePayload(Args&&... args) {
    void* const memory = const_cast<std::remove_const_t<Payload>*>(std::addressof(payload_));
    if constexpr ((kIsResultOf<Args> || ...)) {
      ::new (memory) Payload((std::forward<decltype(args.function)>(args.function)(), ...));
    } else {
      ::new (memory) Payload(std::forward<Args>(args)...);
    }
  }
  void DestroyPayload() { std::destroy_at(std::addressof(payload_)); }

  // Returns the object, or null if it has expired. The slot is visible or erased.
  H Lock() const {
    if constexpr (kNotifies) {
      BlockOf<H>* const block = this->block();
      // Reads the pointer only after the upgrade: the releasing thread overwrites it with next_.
      return block->TryAddStrong() ? RefAccess::AdoptAs<H>(reference_, block) : H();
    } else {
      return Traits::Lock(reference_);
    }
  }
  bool expired() const {
    if constexpr (kNotifies) {
      return block()->expired();
    } else {
      return Traits::Expired(reference_);
    }
  }
  // Returns whether `other`, a strong or weak handle, refers to the same object.
  template <typename Other>
  bool SameOwner(const Other& other) const {
    if constexpr (kNotifies) {
      return block() == RefAccess::Block(other);
    } else {
      return Traits::SameOwner(reference_, other);
    }
  }
  // Returns whether the slot refers to the same object as `referent`, and to the same part of it.
  bool Is(const H& referent) const {
    if constexpr (kNotifies) {
      return SameOwner(referent) && reference_ == referent.get();
    } else {
      return false;  // replacing the reference is as cheap as comparing it
    }
  }

 protected:
  using Reference =
      std::conditional_t<kNotifies, typename Traits::element_type*, typename Traits::weak_type>;

  TableSlot(void* page, bool embedded)
      : hash_(0),
        state_(0),
        expiry_pending_(0),
        distance_to_page_(
            static_cast<uint32_t>(reinterpret_cast<char*>(this) - static_cast<char*>(page)) &
            kDistanceMask),
        embedded_(embedded ? 1 : 0) {}
  ~TableSlot() {}  // the payload has been destroyed

  template <typename Argument>
  void MakeLive(uint32_t hash, Argument&& reference) {
    ::new (static_cast<void*>(std::addressof(reference_)))
        Reference(std::forward<Argument>(reference));
    hash_ = hash & kHashMask;
    set_state(SlotState::kVisible);
  }
  Reference& reference() { return reference_; }

 private:
  // The masks tell compilers that nothing is lost in a bit-field.
  static constexpr int kStateBits = 3;
  static constexpr int kDistanceBits = 31;
  static constexpr uint32_t kHashMask = (uint32_t{1} << kSlotHashBits) - 1;
  static constexpr uint32_t kStateMask = (uint32_t{1} << kStateBits) - 1;
  static constexpr uint32_t kDistanceMask = (uint32_t{1} << kDistanceBits) - 1;

  BlockOf<H>* block() const;

  union {
    Reference reference_;  // from MakeLive until its object expires or FinishErasure
    TableSlot* next_;
  };
  uint32_t hash_ : kSlotHashBits;
  uint32_t state_ : kStateBits;
  uint32_t expiry_pending_ : 1;
  static_assert(kSlotHashBits + kStateBits + 1 <= 32);
  // Begins another memory location: a thread that drops the last reference reads the fields below
  // while the container writes the fields above.
  uint32_t : 0;
  const uint32_t distance_to_page_ : kDistanceBits;  // in bytes
  const uint32_t embedded_ : 1;
  union {
    Payload payload_;  // constructed and destroyed by the container
  };
};

// The part of an EmbeddedSlot that does not depend on the page header: the control block of an
// object that the container created. Exists as long as anybody refers to the object, even after the
// container's end.
template <typename H, typename Payload>
class EmbeddedSlotBase : public BlockOf<H>, public TableSlot<H, Payload> {
 protected:
  // Starts with the container's weak reference.
  explicit EmbeddedSlotBase(void* page)
      : BlockOf<H>(StartsWithWeakRef()), TableSlot<H, Payload>(page, true) {}
  ~EmbeddedSlotBase() = default;

  BasicExpiryClaim<typename AtomicsOf<H>::Policy> claim_;
};

// `Owner` is the page header.
template <typename H, typename Payload, typename Owner>
class alignas(kSlotAlignment<EmbeddedSlotBase<H, Payload>>) EmbeddedSlot final
    : public EmbeddedSlotBase<H, Payload> {
  using Object = std::remove_cv_t<typename H::element_type>;

 public:
  explicit EmbeddedSlot(Owner* owner) : EmbeddedSlotBase<H, Payload>(owner) {}

  // Makes the slot visible and returns the first reference to `object`, which was constructed in
  // the payload if that is an ObjectInSlot, otherwise in an allocation of its own.
  H MakeLive(uint32_t hash, Object* object) {
    TableSlot<H, Payload>::MakeLive(hash, object);
    LinkRefToThis(object, this);
    return RefAccess::AdoptAs<H>(object, this);
  }
  // Stops the expiry from being told. Returns false if the object expired first.
  bool Detach() { return this->claim_.Detach(); }

  WatcherInfo DescribeOwnEntry() const noexcept override {
    return this->claim_.unclaimed() ? Owner::EntryInfo() : WatcherInfo();
  }

 private:
  Owner* owner() const { return static_cast<Owner*>(this->page()); }

  void Expire() noexcept override {
    auto* const object = const_cast<Object*>(this->reference());
    if constexpr (kIsObjectInSlot<Payload>) {
      std::destroy_at(object);
    } else {
      Discard(std::allocator<char>(), object);
    }
    if (this->claim_.ClaimExpiry(owner()->retire_list())) {
      this->FinishExpiry([this] { owner()->PushExpired(this); });
    } else {
      this->FinishExpiry();
    }
  }
  void FreeBlock() noexcept override { owner()->Push(this); }
};

// A watched reference to an object that was created elsewhere.
template <typename H, typename Payload>
class ExternalSlot final : public BlockOf<H>::Watcher, public TableSlot<H, Payload> {
 public:
  template <typename Owner>
  explicit ExternalSlot(Owner* owner)
      : BlockOf<H>::Watcher(owner), TableSlot<H, Payload>(owner, false) {}

  using TableSlot<H, Payload>::next;
  using TableSlot<H, Payload>::set_next;

  BlockOf<H>* block() const { return block_; }

  void MakeLive(uint32_t hash, const H& referent) {
    TableSlot<H, Payload>::MakeLive(hash, referent.get());
    block_ = RefAccess::Block(referent);
    block_->AddWeak();
    block_->AddWatcher(this);
  }
  // Refers to another object from now on. Precondition: detached.
  void Reassign(const H& referent) {
    auto* const replaced = block_;
    MakeLive(this->hash(), referent);
    replaced->ReleaseWeak();
  }
  // Stops the expiry from being told. Returns false if the object expired first.
  bool Detach() { return block_->RemoveWatcher(this); }
  void DropReferent() { block_->ReleaseWeak(); }

 private:
  BlockOf<H>* block_;
};

// A polled weak reference. A slot of 32 bytes is aligned so that it lies in one cache line.
template <typename H, typename Payload>
class alignas(sizeof(TableSlot<H, Payload>) == 32 ? 32
                                                  : alignof(TableSlot<H, Payload>)) PolledSlot final
    : public TableSlot<H, Payload> {
 public:
  template <typename Owner>
  explicit PolledSlot(Owner* owner) : TableSlot<H, Payload>(owner, false) {}

  void MakeLive(uint32_t hash, const H& referent) {
    TableSlot<H, Payload>::MakeLive(hash, HandleTraits<H>::MakeWeak(referent));
  }
  void Reassign(const H& referent) {
    auto replaced = HandleTraits<H>::MakeWeak(referent);
    std::swap(replaced, this->reference());
  }
  bool Detach() { return true; }
  void DropReferent() { std::destroy_at(std::addressof(this->reference())); }
};

template <typename H, typename Payload>
BlockOf<H>* TableSlot<H, Payload>::block() const {
  auto* const slot = const_cast<TableSlot*>(this);
  if (is_embedded()) [[likely]]
    return static_cast<EmbeddedSlotBase<H, Payload>*>(slot);
  return static_cast<ExternalSlot<H, Payload>*>(slot)->block();
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_TABLE_SLOT_H_
