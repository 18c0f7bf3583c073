// SPDX-License-Identifier: Apache-2.0
// WeakRef<T>: refers to an object without keeping it alive.
//
//   weakcache::WeakRef<Image> weak = image;          // image is a weakcache::Ref<Image>
//   if (weakcache::Ref<Image> strong = weak.lock()) Show(*strong);
//   if (weak.expired()) Reload();
//
// Thread safety: distinct WeakRefs to one object may be used on any threads at once, also while its
// last Ref is being dropped; one WeakRef is as safe as a plain pointer (as with std::weak_ptr).
//
// Differences from std::weak_ptr
//  - It does not pin the memory of a large referent: only the counts stay (see weakref/ref.h).
//  - lock() is wait-free: one atomic addition, no compare-exchange loop.
//  - Equality, order and hash compare the identity of the object, and are stable after its death:
//    a WeakRef can be a key.
//
// Complexity: every operation is O(1) and wait-free, except watcher_count(). A conversion to a
// virtual base holds the object meanwhile. The last WeakRef may free the counts.
#ifndef WEAKCACHE_WEAKREF_WEAK_REF_H_
#define WEAKCACHE_WEAKREF_WEAK_REF_H_

#include <compare>
#include <cstddef>
#include <functional>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {

template <typename T>
class WeakRef {
 public:
  using element_type = std::remove_extent_t<T>;

  constexpr WeakRef() noexcept = default;

  WeakRef(const WeakRef& other) noexcept : WeakRef(other.pointer_, other.block_) {}
  WeakRef(WeakRef&& other) noexcept
      : pointer_(std::exchange(other.pointer_, nullptr)),
        block_(std::exchange(other.block_, nullptr)) {}

  template <internal::PointsAs<T> U>
  WeakRef(const Ref<U>& ref) noexcept : WeakRef(ref.pointer_, ref.block_) {}  // NOLINT: as in std
  template <internal::PointsAs<T> U>
  WeakRef(const WeakRef<U>& other) noexcept  // NOLINT: as in std
      : WeakRef(other.PointerTo(static_cast<element_type*>(nullptr)), other.block_) {}

  ~WeakRef() {
    if (block_ != nullptr) block_->ReleaseWeak();
  }

  WeakRef& operator=(const WeakRef& other) noexcept {
    WeakRef(other).swap(*this);
    return *this;
  }
  WeakRef& operator=(WeakRef&& other) noexcept {
    WeakRef(std::move(other)).swap(*this);
    return *this;
  }

  void reset() noexcept { WeakRef().swap(*this); }
  void swap(WeakRef& other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(block_, other.block_);
  }
  friend void swap(WeakRef& a, WeakRef& b) noexcept { a.swap(b); }

  // Returns a strong reference, or null once the referent is dead.
  [[nodiscard]] Ref<T> lock() const noexcept {
    if (block_ == nullptr || !block_->TryAddStrong()) return nullptr;
    return Ref<T>(pointer_, block_);
  }

  // Returns true once the last Ref has been dropped, even while the destructor runs, and for a null
  // WeakRef. It never becomes false again, but false may be outdated at once: to use the object,
  // call lock().
  [[nodiscard]] bool expired() const noexcept { return block_ == nullptr || block_->expired(); }

  // Return the counts, as the functions of Ref do.
  [[nodiscard]] size_t use_count() const noexcept {
    return block_ == nullptr ? 0 : block_->strong_count();
  }
  [[nodiscard]] size_t weak_count() const noexcept {
    return block_ == nullptr ? 0 : block_->weak_count();
  }
  [[nodiscard]] size_t watcher_count() const noexcept {
    return block_ == nullptr ? 0 : block_->watcher_count();
  }

  // Compare ownership, as the functions of Ref do.
  template <typename U>
  [[nodiscard]] bool owner_equal(const U& other) const noexcept {
    return block_ == other.block_;
  }
  template <typename U>
  [[nodiscard]] bool owner_before(const U& other) const noexcept {
    return std::less<const void*>()(block_, other.block_);
  }
  [[nodiscard]] size_t owner_hash() const noexcept { return std::hash<const void*>()(block_); }

  // Compare owners.
  template <typename U>
  friend bool operator==(const WeakRef& a, const WeakRef<U>& b) noexcept {
    return a.owner_equal(b);
  }
  template <typename U>
  friend std::strong_ordering operator<=>(const WeakRef& a, const WeakRef<U>& b) noexcept {
    return a.owner_equal(b)    ? std::strong_ordering::equal
           : a.owner_before(b) ? std::strong_ordering::less
                               : std::strong_ordering::greater;
  }
  // Prints the address of the object, also after its death. Prints null for a WeakRef that was
  // converted to a virtual base after that.
  template <typename Stream>
  requires requires(Stream& stream, const void* address) { stream << address; }
  friend Stream& operator<<(Stream& stream, const WeakRef& weak) {
    stream << static_cast<const void*>(weak.pointer_);
    return stream;
  }
  template <typename H>
  friend H AbslHashValue(H hash, const WeakRef& weak) {
    return H::combine(std::move(hash), static_cast<const void*>(weak.block_));
  }

 private:
  template <typename U>
  friend class Ref;
  template <typename U>
  friend class WeakRef;
  friend struct internal::RefAccess;

  // Adds a weak reference.
  WeakRef(element_type* pointer, internal::ControlBlock* block) noexcept
      : pointer_(pointer), block_(block) {
    if (block_ != nullptr) block_->AddWeak();
  }

  // Converts the pointer to a base. For a virtual base that reads the object, so it is locked.
  template <typename Base>
  Base* PointerTo(Base*) const {
    if constexpr (requires(std::remove_cv_t<Base> * base) {
                    static_cast<std::remove_cv_t<element_type>*>(base);
                  }) {
      return pointer_;
    } else {
      return lock().get();
    }
  }

  element_type* pointer_ = nullptr;
  internal::ControlBlock* block_ = nullptr;
};

template <typename T>
WeakRef(const Ref<T>&) -> WeakRef<T>;

}  // namespace weakcache

template <typename T>
struct std::hash<weakcache::WeakRef<T>> {
  size_t operator()(const weakcache::WeakRef<T>& weak) const noexcept { return weak.owner_hash(); }
};

#endif  // WEAKCACHE_WEAKREF_WEAK_REF_H_
