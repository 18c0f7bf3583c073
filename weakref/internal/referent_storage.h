// SPDX-License-Identifier: Apache-2.0
// Control blocks: where a referent lives decides when its memory goes back.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_

#include <cstddef>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// A referent up to this size lies beside its counts and shares their fate; the block is of 64 bytes
// then. A larger one has an allocation of its own, which goes back at the last strong release.
inline constexpr size_t kMaxInlineReferentBytes = 24;

template <typename T>
inline constexpr bool kStoredInline = sizeof(T) <= kMaxInlineReferentBytes &&
                                      alignof(T) <= alignof(std::max_align_t);

// In place of constructor arguments.
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

// One T's worth of memory, given back unless released.
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

// Ends and gives back what was constructed in memory of its own.
template <typename T, typename Allocator>
void Discard(const Allocator& allocator, T* referent) {
  Rebound<T, Allocator> rebound(allocator);
  using Traits = std::allocator_traits<decltype(rebound)>;
  Traits::destroy(rebound, referent);
  Traits::deallocate(rebound, referent, 1);
}

// A block that `allocator` has allocated, and that gives its own memory back to it.
template <typename Derived, typename Allocator>
class AllocatedBlock : public ControlBlock {
 protected:
  explicit AllocatedBlock(const Allocator& allocator) : allocator_(allocator) {}

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

// Allocates and constructs a block. Leaves nothing behind if that throws.
template <typename Block, typename Allocator, typename... Args>
Block* NewBlock(const Allocator& allocator, Args&&... args) {
  Memory<Block, Allocator> memory(allocator);
  ::new (static_cast<void*>(memory.get())) Block(allocator, std::forward<Args>(args)...);
  return memory.release();
}

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

// The block of a T; const or not, it is made the same way.
template <typename T, typename Allocator>
using BlockFor = std::conditional_t<kStoredInline<T>, InlineBlock<std::remove_cv_t<T>, Allocator>,
                                    SeparateBlock<std::remove_cv_t<T>, Allocator>>;

// An array has an allocation of its own, whatever its size.
template <typename T>
class ArrayBlock final : public AllocatedBlock<ArrayBlock<T>, std::allocator<char>> {
  using Element = std::remove_cv_t<T>;
  using Allocator = std::allocator<char>;

 public:
  ArrayBlock(const Allocator& allocator, size_t count, ValueInitialize)
      : AllocatedBlock<ArrayBlock, Allocator>(allocator), count_(count) {
    Memory<Element, Allocator> memory(allocator, count);
    std::uninitialized_value_construct_n(memory.get(), count);
    referent_ = memory.release();
  }
  ArrayBlock(const Allocator& allocator, size_t count, DefaultInitialize)
      : AllocatedBlock<ArrayBlock, Allocator>(allocator), count_(count) {
    Memory<Element, Allocator> memory(allocator, count);
    std::uninitialized_default_construct_n(memory.get(), count);
    referent_ = memory.release();
  }

  Element* referent() { return referent_; }

 private:
  void Expire() noexcept override {
    for (size_t i = count_; i > 0; --i) std::destroy_at(referent_ + i - 1);
    std::allocator<Element>().deallocate(referent_, count_);
    this->FinishExpiry();
  }

  const size_t count_;
  Element* referent_;
};

// What a unique_ptr owned.
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

  std::optional<std::unique_ptr<T, Deleter>> owner_;  // so that its deleter goes at the same time
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_
