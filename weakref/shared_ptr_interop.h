// SPDX-License-Identifier: Apache-2.0
// ToSharedPtr and FromSharedPtr: one object, owned by Refs here and by std::shared_ptrs there.
//
// Why: code that takes or returns std::shared_ptr should not keep a program from using Ref, or make
// it copy a large object at the border.
//
//   weakcache::Ref<Image> image = weakcache::MakeRef<Image>(width, height);
//   std::shared_ptr<Image> shared = weakcache::ToSharedPtr(image);
//   library::Draw(shared);                                        // may keep it
//   weakcache::Ref<Image> drawn = weakcache::FromSharedPtr(library::Canvas());
//
// Either call makes a *family*: the result and its copies. The family together holds one reference
// of the other kind until its last member is destroyed. So the object lives until both sides have
// released it, and weak references expire with their own family. A round trip returns to the first
// family.
//
// Thread safety: as copying the argument.
//
// Differences from the std types: the memory of a large referent is freed at the last release of
// both sides even if a std::weak_ptr remains (an object of std::make_shared stays pinned by those).
// Neither std::enable_shared_from_this nor EnableRefFromThis is linked by a conversion.
//
// Complexity: O(1); one allocation, none for a round trip or null. docs/guide.md has the details.
#ifndef WEAKCACHE_WEAKREF_SHARED_PTR_INTEROP_H_
#define WEAKCACHE_WEAKREF_SHARED_PTR_INTEROP_H_

#include <memory>
#include <utility>

#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/shared_ptr_block.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {

// Returns a std::shared_ptr that keeps `ref`'s referent alive; null gives null, and an alias keeps
// its pointer and its owner. For a Ref that FromSharedPtr made, returns a copy of the shared_ptr
// that it holds. On the Refs' side, use_count() counts the whole family of the result as one; two
// calls make two families with different owners. Precondition: `ref` is null or owns an object (it
// is not an alias of a null Ref). If the allocation fails, nothing has changed; the argument is
// moved from only on success.
template <typename T>
[[nodiscard]] std::shared_ptr<T> ToSharedPtr(const Ref<T>& ref) {
  internal::ControlBlock* const block = internal::RefAccess::Block(ref);
  if (block == nullptr) {
    internal::Check(ref.get() == nullptr, "ToSharedPtr", "the reference owns nothing");
    return nullptr;
  }
  if (const std::shared_ptr<void>* original = internal::SharedPtrBlock::Owner(block)) {
    return std::shared_ptr<T>(*original, ref.get());
  }
  // A shared_ptr of the object's own type would link std::enable_shared_from_this, which does not
  // allow two such calls at once. So the owner is one of void.
  block->AddStrong();
  std::shared_ptr<void> owner(nullptr, internal::ReleaseRef(block));
  return std::shared_ptr<T>(std::move(owner), ref.get());
}

template <typename T>
[[nodiscard]] std::shared_ptr<T> ToSharedPtr(Ref<T>&& ref) {
  std::shared_ptr<T> shared = ToSharedPtr(std::as_const(ref));
  ref.reset();
  return shared;
}

// Returns a Ref that keeps `shared`'s object alive; the rest is as for ToSharedPtr. For a
// shared_ptr that ToSharedPtr made, returns a Ref of the original family; under -fno-rtti that
// can't be found out, and the result is a new family, which holds the shared_ptr. Precondition:
// `shared` is null or owns an object (it is not an alias of an empty shared_ptr).
template <typename T>
[[nodiscard]] Ref<T> FromSharedPtr(const std::shared_ptr<T>& shared) {
  if (shared.use_count() == 0) {
    internal::Check(shared.get() == nullptr, "FromSharedPtr", "the shared_ptr owns nothing");
    return nullptr;
  }
#ifdef __cpp_rtti
  if (const auto* original = std::get_deleter<internal::ReleaseRef>(shared)) {
    original->block()->AddStrong();
    return internal::RefAccess::Adopt<T>(shared.get(), original->block());
  }
#endif
  auto* const block = new internal::SharedPtrBlock(std::shared_ptr<void>(shared, nullptr));
  return internal::RefAccess::Adopt<T>(shared.get(), block);
}

template <typename T>
[[nodiscard]] Ref<T> FromSharedPtr(std::shared_ptr<T>&& shared) {
  Ref<T> ref = FromSharedPtr(std::as_const(shared));
  shared.reset();
  return ref;
}

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_SHARED_PTR_INTEROP_H_
