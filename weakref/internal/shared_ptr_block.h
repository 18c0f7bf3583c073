// SPDX-License-Identifier: Apache-2.0
// The two directions of shared_ptr_interop.h: a control block that owns a std::shared_ptr, and the
// deleter of a std::shared_ptr that owns a strong reference.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_
#define WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// The control block of Refs to an object that a std::shared_ptr owns. It holds one shared_ptr until
// the last of those Refs goes.
class SharedPtrBlock final : public ControlBlock {
 public:
  explicit SharedPtrBlock(std::shared_ptr<void> owner) : owner_(std::move(owner)) {}

  // Returns the shared_ptr that `block` holds, or null if it is a block of another class. The
  // caller holds a strong reference for as long as it uses the result.
  static const std::shared_ptr<void>* Owner(ControlBlock* block) {
    return block->FindOwnerPart<std::shared_ptr<void>>();
  }

 private:
  void* FindOwnerPart(const void* type_tag) noexcept override {
    return type_tag == &kTypeTag<std::shared_ptr<void>> ? &owner_ : nullptr;
  }
  void Expire() noexcept override {
    owner_.reset();
    FinishExpiry();
  }
  void FreeBlock() noexcept override { delete this; }

  std::shared_ptr<void> owner_;
};

// The deleter of a std::shared_ptr to an object that Refs own: holds one strong reference. It is
// not a template, so std::get_deleter finds it after any conversion of the shared_ptr.
class ReleaseRef {
 public:
  // Takes over one strong reference, which is counted already.
  explicit ReleaseRef(ControlBlock* block) : block_(block) {}
  ReleaseRef(const ReleaseRef&) = default;

  // Drops the strong reference. The shared_ptr calls it exactly once, at its last release or if its
  // construction fails. A destructor would be too late, as a std::weak_ptr keeps the deleter.
  void operator()(std::nullptr_t) const { block_->ReleaseStrong(); }

  // Returns the block. The caller holds the shared_ptr.
  ControlBlock* block() const { return block_; }

 private:
  ControlBlock* block_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_SHARED_PTR_BLOCK_H_
