// SPDX-License-Identifier: Apache-2.0
// EnableRefFromThis<T>: gives an object's methods a Ref or a WeakRef to the object.
//
// Why: a method that passes `this` to a callback, a queue or a registry needs a counted reference,
// and a plain pointer can't be turned into one.
//
//   class Download : public weakcache::EnableRefFromThis<Download> {
//    public:
//     std::function<void()> OnTimeout() {
//       return [weak = weak_from_this()] {
//         if (weakcache::Ref<Download> self = weak.lock()) self->Cancel();
//       };
//     }
//     void Cancel();
//   };
//
// Thread safety: all operations may be called on any threads at once while the object is alive,
// also while its last Ref is being dropped, if the destructor waits for such callers.
//
// Differences from std::enable_shared_from_this: ref_from_this() aborts with a message where
// shared_from_this() throws; it is one pointer, not two, and can't be a virtual base of T; only a
// Ref sets the link, never a std::shared_ptr (weakref/shared_ptr_interop.h).
//
// Complexity: every operation is O(1) and lock-free.
#ifndef WEAKCACHE_WEAKREF_ENABLE_REF_FROM_THIS_H_
#define WEAKCACHE_WEAKREF_ENABLE_REF_FROM_THIS_H_

#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/ref_from_this.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

// The link is set when the first Ref is made, after the constructor, whether T or a base of it
// derives from EnableRefFromThis. Until then the object has no references to itself, and in the
// destructor they have expired. A copy of the object does not copy the link.
//
// The object holds one weak reference to itself until its destructor has run: weak_count() counts
// it, and the last release takes one compare-exchange more. It pins no memory and is no cycle.
template <typename T>
class EnableRefFromThis {
 public:
  // Return a Ref to the object. Precondition: a Ref owns the object, and the last one has not been
  // dropped. Aborts otherwise, as in a constructor or destructor.
  [[nodiscard]] Ref<T> ref_from_this() { return StrongTo(static_cast<T*>(this)); }
  [[nodiscard]] Ref<const T> ref_from_this() const { return StrongTo(static_cast<const T*>(this)); }

  // Return a WeakRef to the object: null if no Ref has owned the object yet, expired once the last
  // one has been dropped.
  [[nodiscard]] WeakRef<T> weak_from_this() noexcept { return WeakTo(static_cast<T*>(this)); }
  [[nodiscard]] WeakRef<const T> weak_from_this() const noexcept {
    return WeakTo(static_cast<const T*>(this));
  }

 protected:
  constexpr EnableRefFromThis() noexcept = default;
  // Copy nothing: the link belongs to the object, not to its value.
  constexpr EnableRefFromThis(const EnableRefFromThis&) noexcept {}
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): it assigns nothing
  EnableRefFromThis& operator=(const EnableRefFromThis&) noexcept { return *this; }
  ~EnableRefFromThis() {
    if (block_ != nullptr) block_->ReleaseWeak();
  }

 private:
  friend struct internal::RefFromThisAccess;

  void Link(internal::ControlBlock* block) const {
    if (block_ != nullptr) {
      // A second owner, whose deleter does not delete. The first one keeps the link while it lives.
      if (!block_->expired()) return;
      block_->ReleaseWeak();
    }
    block->AddWeak();
    block_ = block;
  }

  template <typename Self>
  Ref<Self> StrongTo(Self* self) const {
    internal::Check(block_ != nullptr, "EnableRefFromThis::ref_from_this",
                    "no Ref owns the object (yet)");
    internal::Check(block_->TryAddStrong(), "EnableRefFromThis::ref_from_this",
                    "the last Ref to the object has gone");
    return internal::RefAccess::Adopt<Self>(self, block_);
  }

  template <typename Self>
  WeakRef<Self> WeakTo(Self* self) const noexcept {
    if (block_ == nullptr) return WeakRef<Self>();
    return internal::RefAccess::AddWeak<Self>(self, block_);
  }

  // Holds one weak reference. The block outlives the referent anyway, but without that reference
  // the thread that drops the last Ref would assume that no other thread can reach the counts.
  // Written by LinkRefToThis only, before the object is shared. Mutable: the object may be const.
  mutable internal::ControlBlock* block_ = nullptr;
};

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_ENABLE_REF_FROM_THIS_H_
