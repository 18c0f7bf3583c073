// The two halves of shared_ptr_interop.h: a Ref that lives in a std::shared_ptr, and a
// std::shared_ptr that lives behind Refs.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "weakref/internal/control_block.h"

namespace weakcache::internal {

// The control block of Refs to an object that a std::shared_ptr owns: all of them together hold one
// shared_ptr.
class SharedPtrBlock final : public ControlBlock {
 public:
  explicit SharedPtrBlock(std::shared_ptr<void> owner) : owner_(std::move(owner)) {}

  // Null if `block` is of another kind. Needs no run-time type information.
  static const SharedPtrBlock* From(const ControlBlock* block) {
    return block->kind() == &kKind ? static_cast<const SharedPtrBlock*>(block) : nullptr;
  }

  const void* kind() const override { return &kKind; }

  // The caller holds a strong reference.
  const std::shared_ptr<void>& owner() const { return owner_; }

 private:
  inline static constexpr char kKind = 0;

  void DestroyReferent() noexcept override { owner_.reset(); }
  void FreeBlock() noexcept override { delete this; }

  std::shared_ptr<void> owner_;
};

// The deleter of a std::shared_ptr to an object that Refs own. Its type does not depend on the
// object's, so that it is recognised after any conversion of the shared_ptr.
class ReleaseRef {
 public:
  // Takes over one strong reference that has been counted already.
  explicit ReleaseRef(ControlBlock* block) : block_(block) {}
  ReleaseRef(const ReleaseRef&) = default;

  // Called exactly once, at the last release of the shared_ptr, or if creating that fails. The
  // deleter itself lives on as long as a std::weak_ptr does, which is why this is no destructor.
  void operator()(std::nullptr_t) const { block_->ReleaseStrong(); }

  // The caller holds the shared_ptr.
  ControlBlock* block() const { return block_; }

 private:
  ControlBlock* block_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_
