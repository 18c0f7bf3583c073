// SPDX-License-Identifier: Apache-2.0
// Ref<T>: a strong reference to a large object.
//
// Why: the memory of a std::make_shared object stays allocated while any weak_ptr remains, so a
// cache of weak_ptrs pins what it has dropped. The referent of a Ref is destroyed *and its memory
// is freed* when the last Ref is dropped, whatever weak references remain.
//
//   weakcache::Ref<Image> image = weakcache::MakeRef<Image>(width, height);
//   weakcache::WeakRef<Image> weak = image;                   // weakref/weak_ref.h
//   if (weakcache::Ref<Image> again = weak.lock()) Show(*again);
//   image.reset();                                            // ~Image runs, its memory is freed
//
// Thread safety: distinct Refs to one object may be used, copied and destroyed on any threads at
// once; one Ref is as safe as a plain pointer (as with std::shared_ptr).
//
// Differences from std::shared_ptr: a referent of more than a few words has an allocation of its
// own; dereferencing a null Ref and overflowing a count abort with a message, in every build; a
// long chain of Refs is destroyed on a fixed amount of stack (see ~Ref); counts are always atomic.
//
// Complexity: O(1), and one atomic addition for a copy or a drop; the last release also notifies
// the watchers, and watcher_count() counts them.
#ifndef WEAKCACHE_WEAKREF_REF_H_
#define WEAKCACHE_WEAKREF_REF_H_

#include <compare>
#include <cstddef>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/census_hook.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/ref_access.h"
#include "weakcache/weakref/internal/ref_from_this.h"
#include "weakcache/weakref/internal/referent_storage.h"

namespace weakcache {

template <typename T>
class WeakRef;

namespace internal {

struct RefAccess;

// True for conversions to a base class, to const and to void; for arrays only to const.
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

  // Makes an alias: it points to `part` and keeps `owner`'s referent alive, which `part` must not
  // outlive.
  template <typename U>
  Ref(const Ref<U>& owner, element_type* part) noexcept : Ref(part, owner.block_) {
    AddStrong();
  }
  template <typename U>
  Ref(Ref<U>&& owner, element_type* part) noexcept : Ref(part, owner.block_) {
    owner.Forget();
  }

  // Drops the reference. At the last one, in this order: every weak reference reads expired; the
  // destructor of the referent runs; its memory is freed; the watchers (weakref/expiry.h) are
  // notified, newest first.
  //
  // If this runs inside 32 other destructions on this thread, the destruction is deferred until the
  // one at that depth has returned. So at such a depth a referent may outlive the object that held
  // its last Ref: its destructor must not use that object.
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

  [[nodiscard]] element_type* get() const noexcept { return pointer_; }
  explicit operator bool() const noexcept { return pointer_ != nullptr; }

  // Access the referent. Precondition: not null. An index into an array is not checked.
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

  // Returns the number of strong references to the referent; zero if null. All three counts are
  // hints while other threads use their references.
  [[nodiscard]] size_t use_count() const noexcept {
    return block_ == nullptr ? 0 : block_->strong_count();
  }
  // Returns the number of WeakRefs, entries of containers, and registrations.
  [[nodiscard]] size_t weak_count() const noexcept {
    return block_ == nullptr ? 0 : block_->weak_count();
  }
  // Returns how many entries and registrations will be notified of the expiry. O(that number).
  [[nodiscard]] size_t watcher_count() const noexcept {
    return block_ == nullptr ? 0 : block_->watcher_count();
  }

  // Compares ownership: returns whether both keep the same object alive, whatever part of it they
  // point to. The order and the hash agree with it. All are stable, also after the referent's death
  // through a WeakRef.
  template <typename U>
  [[nodiscard]] bool owner_equal(const U& other) const noexcept {
    return block_ == other.block_;
  }
  template <typename U>
  [[nodiscard]] bool owner_before(const U& other) const noexcept {
    return std::less<const void*>()(block_, other.block_);
  }
  [[nodiscard]] size_t owner_hash() const noexcept { return std::hash<const void*>()(block_); }

  // Compare addresses, as std::shared_ptr does.
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

  // Takes over one strong reference, which is counted already.
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

// Returns the first reference to the referent of a new block.
template <typename T, typename Block>
Ref<T> FirstRef(Block* block) {
  if constexpr (std::is_array_v<T>) {
    return RefAccess::Adopt<T>(block->referent(), block);
  } else {
    LinkRefToThis(block->referent(), block);
    Ref<T> first = RefAccess::Adopt<T>(block->referent(), block);
    JoinIfCensus<std::remove_cv_t<T>>(block, first.get());  // see weakref/cycles.h
    return first;
  }
}

template <typename T>
using CopiesOfElement = CopiesOf<std::remove_extent_t<T>>;

template <typename T, typename Allocator, typename Initializer>
Ref<T> NewArray(const Allocator& allocator, size_t count, const Initializer& initializer) {
  return FirstRef<T>(
      NewBlock<ArrayBlock<std::remove_extent_t<T>, Allocator>>(allocator, count, initializer));
}

}  // namespace internal

// Creates a T and the first reference to it. If an allocation or T's constructor throws, nothing is
// leaked. An operator new of T's own is not used. A large T takes two allocations: one is freed at
// the last strong release, the other, for the counts, with the last reference of any kind.
template <typename T, typename... Args>
requires(!std::is_array_v<T> && !std::is_void_v<T>) [[nodiscard]] Ref<T> MakeRef(Args&&... args) {
  return internal::FirstRef<T>(internal::NewBlock<internal::BlockFor<T, std::allocator<char>>>(
      std::allocator<char>(), std::forward<Args>(args)...));
}

// Creates an array and the first reference to it; each element is value-initialised, or a copy of
// `value`. With inner arrays, as in MakeRef<T[][3]>(count, value), `value` is one of those.
template <typename T>
requires std::is_unbounded_array_v<T>
[[nodiscard]] Ref<T> MakeRef(size_t count) {
  return internal::NewArray<T>(std::allocator<char>(), count, internal::ValueInitialize());
}
template <typename T>
requires std::is_unbounded_array_v<T>
[[nodiscard]] Ref<T> MakeRef(size_t count, const std::remove_extent_t<T>& value) {
  return internal::NewArray<T>(std::allocator<char>(), count, internal::CopiesOfElement<T>{value});
}
template <typename T>
requires std::is_bounded_array_v<T>
[[nodiscard]] Ref<T> MakeRef() {
  return internal::NewArray<T>(std::allocator<char>(), std::extent_v<T>,
                               internal::ValueInitialize());
}
template <typename T>
requires std::is_bounded_array_v<T>
[[nodiscard]] Ref<T> MakeRef(const std::remove_extent_t<T>& value) {
  return internal::NewArray<T>(std::allocator<char>(), std::extent_v<T>,
                               internal::CopiesOfElement<T>{value});
}

// Does the same as MakeRef, but leaves values without a constructor uninitialised: for buffers that
// are about to be filled.
template <typename T>
requires(!std::is_array_v<T>) [[nodiscard]] Ref<T> MakeRefForOverwrite() {
  return internal::FirstRef<T>(internal::NewBlock<internal::BlockFor<T, std::allocator<char>>>(
      std::allocator<char>(), internal::DefaultInitialize()));
}
template <typename T>
requires std::is_unbounded_array_v<T>
[[nodiscard]] Ref<T> MakeRefForOverwrite(size_t count) {
  return internal::NewArray<T>(std::allocator<char>(), count, internal::DefaultInitialize());
}
template <typename T>
requires std::is_bounded_array_v<T>
[[nodiscard]] Ref<T> MakeRefForOverwrite() {
  return internal::NewArray<T>(std::allocator<char>(), std::extent_v<T>,
                               internal::DefaultInitialize());
}

// Does the same as MakeRef, with memory from `allocator`, which also constructs and destroys the
// object. The counts are in that memory too: a std::pmr::memory_resource must outlive every Ref and
// WeakRef, and a destruction that is deferred (see the destructor).
template <typename T, typename Allocator, typename... Args>
requires(!std::is_array_v<T> && !std::is_void_v<T>)
    [[nodiscard]] Ref<T> AllocateRef(const Allocator& allocator, Args&&... args) {
  return internal::FirstRef<T>(
      internal::NewBlock<internal::BlockFor<T, Allocator>>(allocator, std::forward<Args>(args)...));
}
template <typename T, typename Allocator>
requires std::is_unbounded_array_v<T>
[[nodiscard]] Ref<T> AllocateRef(const Allocator& allocator, size_t count) {
  return internal::NewArray<T>(allocator, count, internal::ValueInitialize());
}
template <typename T, typename Allocator>
requires std::is_unbounded_array_v<T>
[[nodiscard]] Ref<T> AllocateRef(const Allocator& allocator, size_t count,
                                 const std::remove_extent_t<T>& value) {
  return internal::NewArray<T>(allocator, count, internal::CopiesOfElement<T>{value});
}
template <typename T, typename Allocator>
requires std::is_bounded_array_v<T>
[[nodiscard]] Ref<T> AllocateRef(const Allocator& allocator) {
  return internal::NewArray<T>(allocator, std::extent_v<T>, internal::ValueInitialize());
}
template <typename T, typename Allocator>
requires std::is_bounded_array_v<T>
[[nodiscard]] Ref<T> AllocateRef(const Allocator& allocator, const std::remove_extent_t<T>& value) {
  return internal::NewArray<T>(allocator, std::extent_v<T>, internal::CopiesOfElement<T>{value});
}

// Takes over the object and the deleter of a unique_ptr; null gives null. If the allocation of the
// counts throws, `owner` keeps the object; if a Census can't allocate its entry, the object ends.
template <typename T, typename Deleter>
[[nodiscard]] Ref<T> AdoptRef(std::unique_ptr<T, Deleter>&& owner) {
  static_assert(sizeof(std::remove_extent_t<T>) > 0, "the type must be complete");
  static_assert(std::is_pointer_v<typename std::unique_ptr<T, Deleter>::pointer>,
                "deleters with plain pointers only");
  if (owner == nullptr) return nullptr;
  return internal::FirstRef<T>(new internal::AdoptedBlock<T, Deleter>(std::move(owner)));
}

// Returns the deleter that AdoptRef took over, null if `ref` is null, was made otherwise, or has a
// deleter of another type. `Deleter` is exactly that of the unique_ptr, without a reference. Works
// without run-time type information. The result is valid while somebody holds the referent.
template <typename Deleter, typename T>
[[nodiscard]] Deleter* get_deleter(const Ref<T>& ref) noexcept {
  internal::ControlBlock* const block = internal::RefAccess::Block(ref);
  return block == nullptr ? nullptr : block->template FindOwnerPart<Deleter>();
}

// Cast like the casts of the same names between pointers. A dynamic cast that fails gives null.
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
