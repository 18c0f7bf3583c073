// SPDX-License-Identifier: Apache-2.0
// The two halves of shared_ptr_interop.h: a Ref that lives in a std::shared_ptr, and a
// std::shared_ptr that lives behind Refs.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// The control block of Refs to an object that a std::shared_ptr owns: all of them together hold one
// shared_ptr.
class SharedPtrBlock final : public ControlBlock {
 public:
  explicit SharedPtrBlock(std::shared_ptr<void> owner) : owner_(std::move(owner)) {}

  // The shared_ptr behind `block`; null if it is a block of another class. Needs no run-time type
  // information. The caller holds a strong reference for as long as it uses the result.
  static const std::shared_ptr<void>* Owner(const ControlBlock* block) {
    return static_cast<const std::shared_ptr<void>*>(block->foreign_owner());
  }

 private:
  const void* foreign_owner() const override { return &owner_; }
  void Expire() noexcept override {
    owner_.reset();
    FinishExpiry();
  }
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
