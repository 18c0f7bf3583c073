// SPDX-License-Identifier: Apache-2.0
// ToSharedPtr and FromSharedPtr: one object, owned through Ref here and std::shared_ptr there.
//
// Why: code that takes or gives std::shared_ptr should not keep a program from using Ref, or make
// it copy a large object at the border.
//
//   weakcache::Ref<Image> image = weakcache::MakeRef<Image>(width, height);
//   std::shared_ptr<Image> shared = weakcache::ToSharedPtr(image);
//   library::Draw(shared);                                        // may keep it
//   weakcache::Ref<Image> drawn = weakcache::FromSharedPtr(library::Canvas());
//
// Either call makes a *family*: the result, its copies and what is converted from them. The family
// as a whole holds one reference of the other sort, from the call until its last member goes, and
// gives it back then, whatever weak references to the family remain. So the object lives until both
// sides have let go, and
//  - on either side weak references see their own family: they expire with its last member (a
//    std::weak_ptr with the last shared_ptr of it, a WeakRef and whoever registered for the expiry
//    with the last Ref), although the other side may keep the object alive;
//  - use_count() counts on the other side one for the family, however many are in it;
//  - two calls for one object make two families, which do not have the same owner.
//
// Round trips lead back: ToSharedPtr of a Ref that FromSharedPtr made gives the family that this
// one holds, that is, a copy of the original shared_ptr (pointing to what the Ref points to); and
// FromSharedPtr of a shared_ptr that ToSharedPtr made gives the original family of Refs. Neither
// allocates. The result does not hold the family in between: its weak references expire as if the
// result did not exist. Under -fno-rtti FromSharedPtr can't tell and makes a family anew, which
// holds the shared_ptr, which holds a Ref.
//
// Null gives null. An alias keeps its pointer and its owner. Both are for arrays and void as well.
//
// Thread safety: as copying the argument.
//
// Differences from the std types
//  - The memory of a large referent goes back at the last release of both sides even if a
//    std::weak_ptr remains: that keeps a few words. An object of std::make_shared stays as pinned
//    by std::weak_ptrs as it is without this header.
//  - ToSharedPtr does not enable std::enable_shared_from_this in the object, nor FromSharedPtr
//    EnableRefFromThis.
//
// Complexity: O(1); one allocation, none for a round trip or null. If it fails, nothing has
// changed; the argument is moved from only on success.
#ifndef WEAKCACHE_WEAKREF_SHARED_PTR_INTEROP_H_
#define WEAKCACHE_WEAKREF_SHARED_PTR_INTEROP_H_

#include <memory>
#include <utility>

#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/shared_ptr_block.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {

// Precondition: `ref` is null or owns something (it is not an alias of a null Ref).
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
  // A pointer to the object itself would let std::enable_shared_from_this in, which is not made for
  // two such calls at once.
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

// Precondition: `shared` is null or owns something (it is not an alias of an empty shared_ptr).
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
