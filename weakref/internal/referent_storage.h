// SPDX-License-Identifier: Apache-2.0
// The control blocks of objects, of arrays and of adopted unique_ptrs. Where the referent is stored
// decides when its memory is freed: with the block, or at the last strong release.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_

#include <cstddef>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// A referent up to this size is stored in its block, which then has at most 64 bytes and stays
// until the last weak reference goes. A larger one has an allocation of its own, which is freed at
// the last strong release.
inline constexpr size_t kMaxInlineReferentBytes = 24;

template <typename T>
inline constexpr bool kStoredInline = sizeof(T) <= kMaxInlineReferentBytes &&
                                      alignof(T) <= alignof(std::max_align_t);

// These stand in place of constructor arguments. ResultOf: the object is the result of a function.
struct ValueInitialize {};
struct DefaultInitialize {};
template <typename Function>
struct ResultOf {
  Function&& function;
};

template <typename T>
inline constexpr bool kIsResultOf = false;
template <typename Function>
inline constexpr bool kIsResultOf<ResultOf<Function>> = true;

template <typename T, typename Allocator>
using Rebound = typename std::allocator_traits<Allocator>::template rebind_alloc<T>;

// Owns uninitialised memory for `count` Ts, and deallocates it unless released.
template <typename T, typename Allocator>
class Memory {
 public:
  explicit Memory(const Allocator& allocator, size_t count = 1)
      : allocator_(allocator), count_(count), start_(Traits::allocate(allocator_, count)) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (start_ != nullptr) Traits::deallocate(allocator_, start_, count_);
  }

  T* get() const { return start_; }
  T* release() { return std::exchange(start_, nullptr); }

 private:
  using Traits = std::allocator_traits<Rebound<T, Allocator>>;
  static_assert(std::is_same_v<typename Traits::pointer, T*>,
                "allocators with plain pointers only");

  [[no_unique_address]] Rebound<T, Allocator> allocator_;
  const size_t count_;
  T* start_;
};

// Constructs a T as the arguments say: by the allocator, unless they are one of the tags above.
template <typename T, typename Allocator, typename... Args>
void Construct(const Allocator& allocator, T* memory, Args&&... args) {
  if constexpr ((std::is_same_v<Args, DefaultInitialize> || ...)) {
    ::new (static_cast<void*>(memory)) T;
  } else if constexpr ((kIsResultOf<Args> || ...)) {
    ::new (static_cast<void*>(memory))
        T((std::forward<decltype(args.function)>(args.function)(), ...));
  } else {
    Rebound<T, Allocator> rebound(allocator);
    std::allocator_traits<decltype(rebound)>::construct(rebound, memory,
                                                        std::forward<Args>(args)...);
  }
}

// Destroys an object and deallocates its memory.
template <typename T, typename Allocator>
void Discard(const Allocator& allocator, T* referent) {
  Rebound<T, Allocator> rebound(allocator);
  using Traits = std::allocator_traits<decltype(rebound)>;
  Traits::destroy(rebound, referent);
  Traits::deallocate(rebound, referent, 1);
}

// A block that was allocated by `allocator` and deallocates itself by it.
template <typename Derived, typename Allocator>
class AllocatedBlock : public ControlBlock {
 protected:
  explicit AllocatedBlock(const Allocator& allocator) : allocator_(allocator) {}
  ~AllocatedBlock() = default;

  const Allocator& allocator() const { return allocator_; }

 private:
  void FreeBlock() noexcept final {
    auto* const block = static_cast<Derived*>(this);
    Rebound<Derived, Allocator> allocator(allocator_);
    std::destroy_at(block);
    std::allocator_traits<decltype(allocator)>::deallocate(allocator, block, 1);
  }

  [[no_unique_address]] Allocator allocator_;
};

// Allocates and constructs a block. If either throws, nothing is leaked.
template <typename Block, typename Allocator, typename... Args>
Block* NewBlock(const Allocator& allocator, Args&&... args) {
  Memory<Block, Allocator> memory(allocator);
  ::new (static_cast<void*>(memory.get())) Block(allocator, std::forward<Args>(args)...);
  return memory.release();
}

// Stores the referent in the block.
template <typename T, typename Allocator>
class InlineBlock final : public AllocatedBlock<InlineBlock<T, Allocator>, Allocator> {
 public:
  template <typename... Args>
  explicit InlineBlock(const Allocator& allocator, Args&&... args)
      : AllocatedBlock<InlineBlock, Allocator>(allocator) {
    Construct(allocator, reinterpret_cast<T*>(storage_), std::forward<Args>(args)...);
  }

  T* referent() { return std::launder(reinterpret_cast<T*>(storage_)); }

 private:
  void Expire() noexcept override {
    Rebound<T, Allocator> allocator(this->allocator());
    std::allocator_traits<decltype(allocator)>::destroy(allocator, referent());
    this->FinishExpiry();
  }

  alignas(T) unsigned char storage_[sizeof(T)];
};

// Stores the referent in an allocation of its own.
template <typename T, typename Allocator>
class SeparateBlock final : public AllocatedBlock<SeparateBlock<T, Allocator>, Allocator> {
 public:
  template <typename... Args>
  explicit SeparateBlock(const Allocator& allocator, Args&&... args)
      : AllocatedBlock<SeparateBlock, Allocator>(allocator) {
    Memory<T, Allocator> memory(allocator);
    Construct(allocator, memory.get(), std::forward<Args>(args)...);
    referent_ = memory.release();
  }

  T* referent() { return referent_; }

 private:
  void Expire() noexcept override {
    Discard(this->allocator(), referent_);
    this->FinishExpiry();
  }

  T* referent_;
};

// The class of the block of a T, which does not depend on const.
template <typename T, typename Allocator>
using BlockFor = std::conditional_t<kStoredInline<T>, InlineBlock<std::remove_cv_t<T>, Allocator>,
                                    SeparateBlock<std::remove_cv_t<T>, Allocator>>;

// In place of constructor arguments: each element is a copy of `value`.
template <typename Element>
struct CopiesOf {
  const Element& value;
};

// Guards an array's elements, those of inner arrays one by one, during their construction: destroys
// them, the last one first, unless released.
template <typename Scalar, typename Allocator>
class ElementSequence {
 public:
  ElementSequence(const Allocator& allocator, Scalar* first)
      : allocator_(allocator), first_(first) {}
  ElementSequence(const ElementSequence&) = delete;
  ElementSequence& operator=(const ElementSequence&) = delete;
  ~ElementSequence() { DestroyElements(allocator_, first_, count_); }

  template <typename... Args>
  void Append(Args&&... args) {
    Construct(allocator_, first_ + count_, std::forward<Args>(args)...);
    ++count_;
  }
  Scalar* first() const { return first_; }
  void release() { count_ = 0; }

  static void DestroyElements(const Allocator& allocator, Scalar* first, size_t count) {
    if constexpr (!std::is_trivially_destructible_v<Scalar>) {
      Rebound<Scalar, Allocator> rebound(allocator);
      for (size_t i = count; i > 0; --i) {
        std::allocator_traits<decltype(rebound)>::destroy(rebound, first + i - 1);
      }
    }
  }

 private:
  const Allocator& allocator_;
  Scalar* const first_;
  size_t count_ = 0;
};

// The block of an array of `Element`s, which has an allocation of its own, whatever its size. An
// Element may be an array itself.
template <typename Element, typename Allocator>
class ArrayBlock final : public AllocatedBlock<ArrayBlock<Element, Allocator>, Allocator> {
  using Scalar = std::remove_cv_t<std::remove_all_extents_t<Element>>;
  using Sequence = ElementSequence<Scalar, Allocator>;

 public:
  template <typename Initializer>
  ArrayBlock(const Allocator& allocator, size_t count, const Initializer& initializer)
      : AllocatedBlock<ArrayBlock, Allocator>(allocator), scalars_(ScalarCount(count)) {
    Memory<Scalar, Allocator> memory(allocator, scalars_);
    Sequence sequence(allocator, memory.get());
    ConstructElements(sequence, initializer);
    sequence.release();
    first_ = memory.release();
  }

  std::remove_cv_t<Element>* referent() {
    return reinterpret_cast<std::remove_cv_t<Element>*>(first_);
  }

 private:
  static constexpr size_t kScalarsPerElement = sizeof(Element) / sizeof(Scalar);

  // Returns the number of scalars; if it overflows, a number that no allocator can provide.
  static size_t ScalarCount(size_t count) {
    constexpr size_t kMax = std::numeric_limits<size_t>::max();
    return count > kMax / kScalarsPerElement ? kMax : count * kScalarsPerElement;
  }

  void ConstructElements(Sequence& sequence, ValueInitialize) {
    if constexpr (std::is_trivial_v<Scalar> &&
                  std::is_same_v<Allocator, std::allocator<typename Allocator::value_type>>) {
      std::uninitialized_value_construct_n(sequence.first(), scalars_);  // one memset
    } else {
      for (size_t i = 0; i < scalars_; ++i) sequence.Append();
    }
  }
  void ConstructElements(Sequence& sequence, DefaultInitialize) {
    if constexpr (!std::is_trivially_default_constructible_v<Scalar>) {
      for (size_t i = 0; i < scalars_; ++i) sequence.Append(DefaultInitialize());
    }
  }
  void ConstructElements(Sequence& sequence, const CopiesOf<Element>& copies) {
    const Scalar* const values = reinterpret_cast<const Scalar*>(std::addressof(copies.value));
    for (size_t i = 0; i < scalars_; ++i) sequence.Append(values[i % kScalarsPerElement]);
  }

  void Expire() noexcept override {
    Sequence::DestroyElements(this->allocator(), first_, scalars_);
    Rebound<Scalar, Allocator> rebound(this->allocator());
    std::allocator_traits<decltype(rebound)>::deallocate(rebound, first_, scalars_);
    this->FinishExpiry();
  }

  const size_t scalars_;
  Scalar* first_;
};

// Owns the referent by the unique_ptr that AdoptRef took.
template <typename T, typename Deleter>
class AdoptedBlock final : public ControlBlock {
 public:
  explicit AdoptedBlock(std::unique_ptr<T, Deleter>&& owner) : owner_(std::move(owner)) {}

  std::remove_extent_t<T>* referent() { return owner_->get(); }

 private:
  void Expire() noexcept override {
    owner_.reset();
    FinishExpiry();
  }
  void FreeBlock() noexcept override { delete this; }
  void* FindOwnerPart([[maybe_unused]] const void* type_tag) noexcept override {
    using D = std::remove_reference_t<Deleter>;
    if constexpr (std::is_object_v<D>) {
      if (type_tag == &kTypeTag<D>) {
        return const_cast<void*>(
            static_cast<const volatile void*>(std::addressof(owner_->get_deleter())));
      }
    }
    return nullptr;
  }

  std::optional<std::unique_ptr<T, Deleter>> owner_;  // the deleter ends with the referent
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_
