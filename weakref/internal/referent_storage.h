// The control blocks of MakeRef: where a referent lives decides when its memory goes back.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_
#define WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include "weakref/internal/control_block.h"

namespace weakcache::internal {

// A referent up to this size lies beside its counts and shares their fate; it fills a 64-byte
// block. A larger one has an allocation of its own, which goes back at the last strong release.
inline constexpr size_t kMaxInlineReferentBytes = 24;

template <typename T>
inline constexpr bool kStoredInline = sizeof(T) <= kMaxInlineReferentBytes &&
                                      alignof(T) <= alignof(std::max_align_t);

template <typename T>
class InlineBlock final : public ControlBlock {
 public:
  template <typename... Args>
  explicit InlineBlock(Args&&... args) {
    ::new (static_cast<void*>(storage_)) T(std::forward<Args>(args)...);
  }

  T* referent() { return std::launder(reinterpret_cast<T*>(storage_)); }

 private:
  void DestroyReferent() noexcept override { std::destroy_at(referent()); }
  void FreeBlock() noexcept override { delete this; }

  alignas(T) unsigned char storage_[sizeof(T)];
};

template <typename T>
class SeparateBlock final : public ControlBlock {
 public:
  template <typename... Args>
  explicit SeparateBlock(Args&&... args) {
    std::unique_ptr<T, Deallocate> storage(std::allocator<T>().allocate(1));
    ::new (static_cast<void*>(storage.get())) T(std::forward<Args>(args)...);
    referent_ = storage.release();
  }

  T* referent() { return referent_; }

 private:
  struct Deallocate {
    void operator()(T* storage) const { std::allocator<T>().deallocate(storage, 1); }
  };

  void DestroyReferent() noexcept override {
    std::destroy_at(referent_);
    Deallocate()(referent_);
  }
  void FreeBlock() noexcept override { delete this; }

  T* referent_;
};

template <typename T>
using BlockFor = std::conditional_t<kStoredInline<T>, InlineBlock<T>, SeparateBlock<T>>;

}  // namespace weakcache::internal

#endif  // WEAKCACHE_WEAKREF_INTERNAL_REFERENT_STORAGE_H_
