// SPDX-License-Identifier: Apache-2.0
// Ref<T>: a strong reference to a large object.
//
// Why not std::shared_ptr: the memory of a make_shared object stays allocated for as long as any
// weak_ptr remains, so a cache of weak_ptr pins what it was meant to let go. A Ref's referent is
// destroyed *and its memory given back* when the last Ref goes, whatever weak references remain.
//
//   weakcache::Ref<Image> image = weakcache::MakeRef<Image>(width, height);
//   weakcache::WeakRef<Image> weak = image;                   // weakref/weak_ref.h
//   if (weakcache::Ref<Image> again = weak.lock()) Show(*again);
//   image.reset();                                            // ~Image runs, its memory goes back
//
// Thread safety: as std::shared_ptr: distinct Refs to one object may be used, copied and destroyed
// on any threads at once; one Ref is as safe as a plain pointer.
//
// Differences from std::shared_ptr
//  - A referent of more than a few words has an allocation of its own (MakeRef allocates twice
//    for it).
//  - Dereferencing a null Ref aborts with a message, in every build.
//  - A count that would overflow aborts with a message; it never wraps.
//  - Destroying a long chain of Refs takes a fixed amount of stack: destructions nested deeper than
//    32 on one thread wait until the one at that depth is through. So a referent at that depth can
//    outlive the object that held its last Ref: a destructor must not rely on its owner, nor on the
//    owner's other members, being there.
//  - Counts are always atomic, also while the process has one thread.
//
// At the last release, in this order: every weak reference reads expired; the destructor runs; the
// memory goes back; those who registered for it are told (weakref/expiry.h), newest first.
//
// Complexity: every operation is O(1), watcher_count() excepted; copy and drop are one atomic
// addition each. The last release also tells the watchers, under whose list's lock there is nothing
// but a few instructions, or a count of them by watcher_count().
#ifndef WEAKCACHE_WEAKREF_REF_H_
#define WEAKCACHE_WEAKREF_REF_H_

#include <compare>
#include <cstddef>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/ref_from_this.h"
#include "weakcache/weakref/internal/referent_storage.h"

namespace weakcache {

template <typename T>
class WeakRef;

namespace internal {

struct RefAccess;

// Up the class hierarchy, to const, to void; for arrays only to const.
template <typename U, typename T>
concept PointsAs = std::is_convertible_v<U*, T*>;

}  // namespace internal

template <typename T>
class Ref {
  static_assert(!std::is_volatile_v<std::remove_extent_t<T>>, "volatile objects can't be shared");

 public:
  using element_type = std::remove_extent_t<T>;
  using weak_type = WeakRef<T>;

  constexpr Ref() noexcept = default;
  constexpr Ref(std::nullptr_t) noexcept {}  // NOLINT(google-explicit-constructor): as in std

  Ref(const Ref& other) noexcept : Ref(other.pointer_, other.block_) { AddStrong(); }
  Ref(Ref&& other) noexcept : Ref(other.pointer_, other.block_) { other.Forget(); }

  template <internal::PointsAs<T> U>
  Ref(const Ref<U>& other) noexcept : Ref(other.pointer_, other.block_) {  // NOLINT: as in std
    AddStrong();
  }
  template <internal::PointsAs<T> U>
  Ref(Ref<U>&& other) noexcept : Ref(other.pointer_, other.block_) {  // NOLINT: as in std
    other.Forget();
  }

  // Aliasing: points to `part`, which must live as long as `owner`'s referent, and owns that
  // referent.
  template <typename U>
  Ref(const Ref<U>& owner, element_type* part) noexcept : Ref(part, owner.block_) {
    AddStrong();
  }
  template <typename U>
  Ref(Ref<U>&& owner, element_type* part) noexcept : Ref(part, owner.block_) {
    owner.Forget();
  }

  ~Ref() {
    if (block_ != nullptr) block_->ReleaseStrong();
  }

  Ref& operator=(const Ref& other) noexcept {
    Ref(other).swap(*this);
    return *this;
  }
  Ref& operator=(Ref&& other) noexcept {
    Ref(std::move(other)).swap(*this);
    return *this;
  }

  void reset() noexcept { Ref().swap(*this); }
  void swap(Ref& other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(block_, other.block_);
  }
  friend void swap(Ref& a, Ref& b) noexcept { a.swap(b); }

  element_type* get() const noexcept { return pointer_; }
  explicit operator bool() const noexcept { return pointer_ != nullptr; }

  // Precondition: not null. An array is indexed, anything else dereferenced; the bounds are the
  // caller's.
  std::add_lvalue_reference_t<T> operator*() const
      requires(!std::is_void_v<T> && !std::is_array_v<T>) {
    internal::Check(pointer_ != nullptr, "Ref::operator*", "the reference is null");
    return *pointer_;
  }
  T* operator->() const requires(!std::is_void_v<T> && !std::is_array_v<T>) {
    internal::Check(pointer_ != nullptr, "Ref::operator->", "the reference is null");
    return pointer_;
  }
  std::add_lvalue_reference_t<element_type> operator[](size_t index) const
      requires(std::is_array_v<T>) {
    internal::Check(pointer_ != nullptr, "Ref::operator[]", "the reference is null");
    return pointer_[index];
  }

  // The number of strong references to the referent; zero if null. While other threads copy or drop
  // theirs it is a hint, and so are the others. weak_count() counts WeakRefs, containers' entries
  // and registrations; watcher_count(), O(that number), those of them that will be told of the end.
  // The references themselves can't be listed, as Python's getweakrefs does: each would have to be
  // linked into a list, which costs every copy a lock and two pointers.
  size_t use_count() const noexcept { return block_ == nullptr ? 0 : block_->strong_count(); }
  size_t weak_count() const noexcept { return block_ == nullptr ? 0 : block_->weak_count(); }
  size_t watcher_count() const noexcept { return block_ == nullptr ? 0 : block_->watcher_count(); }

  // Identity: whether both keep the same object alive, whatever part of it they point to; and a
  // hash and an order that agree with it. Stable, also after the referent's death (through a
  // WeakRef).
  template <typename U>
  bool owner_equal(const U& other) const noexcept {
    return block_ == other.block_;
  }
  template <typename U>
  bool owner_before(const U& other) const noexcept {
    return std::less<const void*>()(block_, other.block_);
  }
  size_t owner_hash() const noexcept { return std::hash<const void*>()(block_); }

  // By address, as std::shared_ptr.
  template <typename U>
  friend bool operator==(const Ref& a, const Ref<U>& b) noexcept {
    return a.get() == b.get();
  }
  template <typename U>
  friend std::strong_ordering operator<=>(const Ref& a, const Ref<U>& b) noexcept {
    return std::compare_three_way()(a.get(), b.get());
  }
  friend bool operator==(const Ref& a, std::nullptr_t) noexcept { return a.get() == nullptr; }

  template <typename Stream>
  requires requires(Stream& stream, const void* address) { stream << address; }
  friend Stream& operator<<(Stream& stream, const Ref& ref) {
    stream << static_cast<const void*>(ref.get());
    return stream;
  }
  template <typename H>
  friend H AbslHashValue(H hash, const Ref& ref) {
    return H::combine(std::move(hash), static_cast<const void*>(ref.get()));
  }

 private:
  template <typename U>
  friend class Ref;
  template <typename U>
  friend class WeakRef;
  friend struct internal::RefAccess;

  // Takes over one strong reference that has been counted already.
  Ref(element_type* pointer, internal::ControlBlock* block) noexcept
      : pointer_(pointer), block_(block) {}

  void AddStrong() const {
    if (block_ != nullptr) block_->AddStrong();
  }
  void Forget() {
    pointer_ = nullptr;
    block_ = nullptr;
  }

  element_type* pointer_ = nullptr;
  internal::ControlBlock* block_ = nullptr;
};

namespace internal {

// How the library's own code reaches the control block behind a Ref or a WeakRef.
struct RefAccess {
  template <typename R>
  static auto* Block(const R& reference) {
    return reference.block_;
  }
  // The result takes over one strong reference that has been counted already.
  template <typename T>
  static Ref<T> Adopt(std::remove_extent_t<T>* pointer, ControlBlock* block) {
    return Ref<T>(pointer, block);
  }
  // As well, for a Ref type that the caller need not take apart.
  template <typename R, typename AnyBlock>
  static R AdoptAs(typename R::element_type* pointer, AnyBlock* block) {
    return R(pointer, block);
  }
  // A reference that the compiler can keep in registers, as it can't one that has a destructor;
  // AdoptAs makes it whole again.
  template <typename Pointer, typename AnyBlock>
  struct Parts {
    Pointer* pointer;
    AnyBlock* block;
  };
  template <typename R>
  static auto TakeApart(R reference) {
    using Pointer = std::remove_pointer_t<decltype(reference.pointer_)>;
    using AnyBlock = std::remove_pointer_t<decltype(reference.block_)>;
    return Parts<Pointer, AnyBlock>{std::exchange(reference.pointer_, nullptr),
                                    std::exchange(reference.block_, nullptr)};
  }
  // The result counts one more weak reference.
  template <typename T>
  static WeakRef<T> AddWeak(T* pointer, ControlBlock* block) {
    return WeakRef<T>(pointer, block);
  }
};

// The first reference to the referent of a new block.
template <typename T, typename Block>
Ref<T> FirstRef(Block* block) {
  if constexpr (!std::is_array_v<T>) LinkRefToThis(block->referent(), block);
  return RefAccess::Adopt<T>(block->referent(), block);
}

}  // namespace internal

// Creates a T and the first reference to it. Leaves nothing behind if an allocation or T's
// constructor throws. Not with T's own operator new, if it has one.
template <typename T, typename... Args>
requires(!std::is_array_v<T> && !std::is_void_v<T>) [[nodiscard]] Ref<T> MakeRef(Args&&... args) {
  return internal::FirstRef<T>(internal::NewBlock<internal::BlockFor<T, std::allocator<char>>>(
      std::allocator<char>(), std::forward<Args>(args)...));
}

// Creates an array of `count` value-initialised elements: MakeRef<T[]>(count).
template <typename T>
requires std::is_unbounded_array_v<T>
[[nodiscard]] Ref<T> MakeRef(size_t count) {
  return internal::FirstRef<T>(internal::NewBlock<internal::ArrayBlock<std::remove_extent_t<T>>>(
      std::allocator<char>(), count, internal::ValueInitialize()));
}

// As MakeRef, but what has no constructor of its own is left uninitialised: for buffers that are
// about to be filled.
template <typename T>
requires(!std::is_array_v<T>) [[nodiscard]] Ref<T> MakeRefForOverwrite() {
  return internal::FirstRef<T>(internal::NewBlock<internal::BlockFor<T, std::allocator<char>>>(
      std::allocator<char>(), internal::DefaultInitialize()));
}
template <typename T>
requires std::is_unbounded_array_v<T>
[[nodiscard]] Ref<T> MakeRefForOverwrite(size_t count) {
  return internal::FirstRef<T>(internal::NewBlock<internal::ArrayBlock<std::remove_extent_t<T>>>(
      std::allocator<char>(), count, internal::DefaultInitialize()));
}

// As MakeRef, with memory from `allocator`, which constructs and destroys the object too. The
// counts are its memory as well: a std::pmr::memory_resource must outlive every WeakRef, and the
// destruction of the object also where that is deferred (see the top).
template <typename T, typename Allocator, typename... Args>
requires(!std::is_array_v<T> && !std::is_void_v<T>)
    [[nodiscard]] Ref<T> AllocateRef(const Allocator& allocator, Args&&... args) {
  return internal::FirstRef<T>(
      internal::NewBlock<internal::BlockFor<T, Allocator>>(allocator, std::forward<Args>(args)...));
}

// Takes over what a unique_ptr owns, with its deleter, which lies beside the counts; null gives
// null. If the allocation of the counts throws, `owner` still owns it.
template <typename T, typename Deleter>
[[nodiscard]] Ref<T> AdoptRef(std::unique_ptr<T, Deleter>&& owner) {
  static_assert(sizeof(std::remove_extent_t<T>) > 0, "the type must be complete");
  static_assert(std::is_pointer_v<typename std::unique_ptr<T, Deleter>::pointer>,
                "deleters with plain pointers only");
  if (owner == nullptr) return nullptr;
  return internal::FirstRef<T>(new internal::AdoptedBlock<T, Deleter>(std::move(owner)));
}

// As the casts of the same names between pointers. A dynamic cast that fails gives null.
template <typename T, typename U>
[[nodiscard]] Ref<T> static_pointer_cast(Ref<U> ref) noexcept {
  auto* const pointer = static_cast<std::remove_extent_t<T>*>(ref.get());
  return Ref<T>(std::move(ref), pointer);
}
template <typename T, typename U>
[[nodiscard]] Ref<T> const_pointer_cast(Ref<U> ref) noexcept {
  auto* const pointer = const_cast<std::remove_extent_t<T>*>(ref.get());
  return Ref<T>(std::move(ref), pointer);
}
#ifdef __cpp_rtti
template <typename T, typename U>
[[nodiscard]] Ref<T> dynamic_pointer_cast(Ref<U> ref) noexcept {
  auto* const pointer = dynamic_cast<T*>(ref.get());
  return pointer == nullptr ? Ref<T>() : Ref<T>(std::move(ref), pointer);
}
#endif

}  // namespace weakcache

template <typename T>
struct std::hash<weakcache::Ref<T>> {
  size_t operator()(const weakcache::Ref<T>& ref) const noexcept {
    return std::hash<const void*>()(ref.get());
  }
};

#endif  // WEAKCACHE_WEAKREF_REF_H_
