// SPDX-License-Identifier: Apache-2.0
// The slots of a concurrent table: a key, and an object or a weak handle to one.
//
// A look-up comes without a lock and without a reference, at a slot that may be leaving or may be
// another's by now. What makes that safe: a slot's memory stays a slot for as long as the table
// lives, and so do its counts; a reader counts itself in first and looks at the key after. While
// anybody is counted, key and handle stay as they are; the last one out destroys both.
//
// Of a *embedded* slot, the counts are those of an object that the table has created: a reader
// that counts itself in has the object. Of a *external*, which refers to an object that was there
// before, the table holds one count itself, and a reader's count protects the handle until the
// reader has locked it.
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
#include "weakcache/cache/internal/slot/slot_alignment.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/ref_from_this.h"
#include "weakcache/weakref/internal/referent_storage.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

// What of a payload a hit does not look at, if anything, is its `Cold` and lies apart from the
// slots, which stay small thereby. It lives as long as the payload, begins after it and ends before
// it. Of a external whose object tells of its end, OnObjectExpired() is called in between, by the
// thread that drops the last reference, before the slot goes to the retire_list.
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
  kUnderConstruction,  // somebody's who is about to enter it
  kVisible,            // in the index
  kErased,             // out of the index; its counts have not gone yet
  kRetired             // emptied; will be pushed to the retire_list, or has been, to become free
};

template <typename H, typename Payload>
class ConcurrentSlot : public BlockOf<H> {
  using Policy = typename AtomicsOf<H>::Policy;
  template <typename T>
  using Plain = typename Policy::template Plain<T>;

 public:
  using State = ConcurrentSlotState;

  // It tells which slots are worth to be counted in at; the key decides. Acquire pairs with the
  // release in set_hash: who passes a slot by because it has been used again sees that it had left.
  uint32_t hash() const { return tagged_hash_.load(std::memory_order_acquire) & ~kExternalTag; }
  void set_hash(uint32_t hash) {
    tagged_hash_.store(hash | (is_external() ? kExternalTag : 0), std::memory_order_release);
  }
  // As `hash() == hash && !is_external()`, in one comparison. Relaxed: to be false says nothing.
  bool IsEmbeddedWithHash(uint32_t hash) const {
    return tagged_hash_.load(std::memory_order_relaxed) == hash;
  }

  bool is_external() const { return is_external_ != 0; }
  // Relaxed: under the table's lock an entered slot is seen as such, and no other is; what else it
  // may be is told by who has it.
  State state() const { return state_.load(std::memory_order_relaxed); }
  void set_state(State state) { state_.store(state, std::memory_order_relaxed); }
  bool is_free() const { return state() == State::kFree; }

  // What the page begins with that the slot is in.
  void* page() const {
    return const_cast<char*>(reinterpret_cast<const char*>(this)) - kDistanceUnit * distance_;
  }

  // The pages' while it is free, the retire_list's while it is on its way.
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
        distance_(DistanceFrom(page)),
        is_external_(is_external ? 1 : 0) {}
  ~ConcurrentSlot() {}  // it is empty

  void* pointer() const { return pointer_; }
  void set_pointer(void* pointer) { pointer_ = pointer; }

 private:
  static constexpr size_t kDistanceUnit = 8;
  uint32_t DistanceFrom(const void* page) const {
    const auto bytes =
        static_cast<size_t>(reinterpret_cast<const char*>(this) - static_cast<const char*>(page));
    // Eight slots of nearly eight megabytes.
    Check(bytes / kDistanceUnit < size_t{1} << 23, "ConcurrentWeakValueMap", "huge keys");
    return static_cast<uint32_t>(bytes / kDistanceUnit);
  }

  static constexpr uint32_t kExternalTag = uint32_t{1} << 31;
  static_assert(kSlotHashBits < 31);

  // Invariant: the hash of the key, while somebody is counted in; with a tag if it is a external.
  // Written by whoever enters the slot, before that; read by anybody.
  typename Policy::template Atomic<uint32_t> tagged_hash_{0};
  const uint32_t distance_ : 23;  // to the page's outcome, in units
  const uint32_t is_external_ : 1;
  // Invariant: entered if and only if in the index. To entered and from there to removed or
  // returning only under the table's lock. Others are set by whoever has the slot: free to prepared
  // to returning by the thread that prepares it; removed to returning by a external's last reader,
  // or under the lock; returning to free under the lock. Beside the distance: a slot with a key of
  // eight bytes is one cache line then, with a few bytes to spare.
  typename Policy::template Atomic<State> state_{State::kFree};
  Plain<void*> pointer_{nullptr};  // the next slot; of a embedded that is counted in, the object
  union {
    Payload payload_;  // from kUnderConstruction until nobody is counted in
  };
};

// Owner is what the slot's page begins with.
template <typename H, typename Payload, typename Owner>
class alignas(kSlotAlignment<ConcurrentSlot<H, Payload>>) ConcurrentEmbeddedSlot final
    : public ConcurrentSlot<H, Payload> {
  using Base = ConcurrentSlot<H, Payload>;
  using Object = std::remove_cv_t<typename HandleTraits<H>::element_type>;

 public:
  using State = typename Base::State;

  explicit ConcurrentEmbeddedSlot(Owner* owner) : Base(owner, false) {}

  // Where the object is; only for whoever is counted in.
  H Adopt() {
    if constexpr (HandleTraits<H>::kNotifiesExpiry) {
      return RefAccess::AdoptAs<H>(object(), this);
    } else {
      return H();  // such handles have counts of their own, and links only
    }
  }

  // Takes over `object`, which has memory of its own. Once the slot is in the index, Publish lets
  // others have it; the first reference is the caller's.
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

 private:
  Owner* owner() const { return static_cast<Owner*>(this->page()); }
  Object* object() const { return static_cast<Object*>(this->pointer()); }

  void Expire() noexcept override {
    Discard(std::allocator<char>(), object());
    Owner::DestroyPayload(this);
    // Whoever removes a slot from the index is counted in, so it is one or the other by now.
    if (this->state() == State::kVisible) owner()->retire_list().CountExpired();
    this->FinishExpiry([this] { owner()->PushExpired(this); });
  }
  void FreeBlock() noexcept override { owner()->Push(this); }
};

// What tells a external of the end of its object; nothing if the handle can't.
template <typename H, bool kNotifies = HandleTraits<H>::kNotifiesExpiry>
class ExternalSlotWatcher : public BlockOf<H>::Watcher {
 protected:
  template <typename Owner>
  explicit ExternalSlotWatcher(Owner* owner) : BlockOf<H>::Watcher(owner) {}

  void Watch(const H& object) { RefAccess::Block(object)->AddWatcher(this); }
  // False if the expiry came first.
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

  using Base::next;  // rather than the watcher's
  using Base::set_next;

  explicit ConcurrentExternalSlot(Owner* owner)
      : Base(owner, true), ExternalSlotWatcher<H>(owner) {}

  // The handle is in the next cache line, and what is atomic waits for its own.
  void Prefetch() const { __builtin_prefetch(&handle_); }
  // These are for whoever is counted in, or holds the table's lock while the slot is entered.
  H Lock() const { return Traits::Lock(*handle_); }
  bool expired() const { return Traits::Expired(*handle_); }

  // As of a embedded. One count is the table's, until ReleaseStrong; one is the caller's `object`.
  void SetReferent(const H& object) { handle_.emplace(Traits::MakeWeak(object)); }
  void Publish(const H& object) {
    this->RearmAtOnce();
    this->Watch(object);
  }
  // False if it will be pushed for its object's end, or has been.
  bool Unwatch() { return ExternalSlotWatcher<H>::Unwatch(*handle_); }

 private:
  Owner* owner() const { return static_cast<Owner*>(this->page()); }

  // The last one out.
  void Expire() noexcept override {
    handle_.reset();
    Owner::DestroyPayload(this);
    this->set_state(State::kRetired);
    // The table's, and the one that the counts hold together.
    if (this->DropWeak(2)) owner()->Push(this);
  }
  void FreeBlock() noexcept override { owner()->Push(this); }

  std::optional<Weak> handle_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CONCURRENT_CONCURRENT_SLOT_H_
