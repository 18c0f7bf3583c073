// SPDX-License-Identifier: Apache-2.0
// EnableRefFromThis<T>: an object's way to a Ref to itself.
//
// Why: a member function that hands `this` to a callback, a queue or a registry needs a reference
// that counts, and a plain pointer can't be turned into one.
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
//   weakcache::Ref<Download> download = weakcache::MakeRef<Download>();
//   std::function<void()> on_timeout = download->OnTimeout();
//
// The link is set when the first Ref is made, after the constructor, whether T itself or a class
// between derives from EnableRefFromThis. So in the constructor the object refers to nothing yet,
// and in the destructor its weak references have expired: there ref_from_this() aborts, and
// weak_from_this() gives an expired WeakRef. A copy of the object does not take the link over.
//
// Thread safety: the const operations, and those that are not const as well, may be called on any
// threads at once while the object is alive, also while its last Ref is being dropped, provided
// that the destructor waits for the callers (say, by taking the lock under which they found it).
//
// Differences from std::enable_shared_from_this
//  - ref_from_this() aborts with a message where shared_from_this() throws std::bad_weak_ptr.
//  - It is one pointer, not two. In return it can't be a virtual base of T.
//  - Only a Ref links: an object that a std::shared_ptr owns has no ref_from_this(), also if a Ref
//    holds that shared_ptr (weakref/shared_ptr_interop.h).
//
// Cost: the object holds one weak reference to itself until its destructor has run: weak_count()
// counts it, and the last release takes an atomic compare-exchange that other objects without weak
// references are spared. It keeps no memory longer and is no cycle, as ~T drops it.
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

template <typename T>
class EnableRefFromThis {
 public:
  // Precondition: a Ref owns the object, and the last one has not gone.
  [[nodiscard]] Ref<T> ref_from_this() { return StrongTo(static_cast<T*>(this)); }
  [[nodiscard]] Ref<const T> ref_from_this() const { return StrongTo(static_cast<const T*>(this)); }

  // Refers to nothing if no Ref has owned the object yet; expired once the last one has gone.
  [[nodiscard]] WeakRef<T> weak_from_this() noexcept { return WeakTo(static_cast<T*>(this)); }
  [[nodiscard]] WeakRef<const T> weak_from_this() const noexcept {
    return WeakTo(static_cast<const T*>(this));
  }

 protected:
  constexpr EnableRefFromThis() noexcept = default;
  // The link belongs to the object, not to its value.
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
      // A second owner, whose deleter does not delete. The first counts while it is there.
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

  // One weak reference is held, although the block outlives the referent anyway: without it the
  // thread that drops the last Ref would take itself to be alone with the block. Written before the
  // object is shared, by LinkRefToThis only. Mutable: the object may be const.
  mutable internal::ControlBlock* block_ = nullptr;
};

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_ENABLE_REF_FROM_THIS_H_
