// SPDX-License-Identifier: Apache-2.0
// AtomicRef<T> and AtomicWeakRef<T>: a Ref or WeakRef that threads read and replace at once.
//
// Why: a current configuration, a published snapshot or the head of a list is one reference that
// many threads copy while one replaces it. With a plain Ref that is a data race.
//
//   weakcache::AtomicRef<Config> current(weakcache::MakeRef<Config>());
//   weakcache::Ref<Config> config = current.load();            // on any thread
//   current.store(weakcache::MakeRef<Config>(*config));        // on any other
//
// Thread safety: all operations may race on any threads, save for construction and destruction.
//
// Differences from std::atomic<std::shared_ptr<T>>
//  - Every operation is sequentially consistent. A memory order may be passed, so that code can be
//    ported, and has no effect. (How the lock gives that order: internal/atomic_reference.h.)
//  - compare_exchange_weak does not fail spuriously.
//  - There is no wait, notify_one or notify_all.
//  - compare_exchange on an AtomicWeakRef compares address and owner, as std's does; == of two
//    WeakRefs compares owners only.
//
// Complexity: O(1), and no allocation. Not lock-free, and is_lock_free() says so: one bit of the
// stored block's address is a lock, held for a few instructions. No destructor runs under it.
#ifndef WEAKCACHE_WEAKREF_ATOMIC_REF_H_
#define WEAKCACHE_WEAKREF_ATOMIC_REF_H_

#include <atomic>
#include <type_traits>
#include <utility>

#include "weakcache/weakref/internal/atomic_reference.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace internal {

// The common base of AtomicRef and AtomicWeakRef. `Reference` is Ref<T> or WeakRef<T>.
template <typename Reference, typename Counting>
class AtomicReferenceTo {
 public:
  using value_type = Reference;

  static constexpr bool is_always_lock_free = false;

  // Starts null.
  AtomicReferenceTo() noexcept : AtomicReferenceTo(Reference()) {}
  AtomicReferenceTo(Reference initial) noexcept  // NOLINT(google-explicit-constructor): as in std
      : state_(Release(std::move(initial))) {}
  AtomicReferenceTo(const AtomicReferenceTo&) = delete;
  AtomicReferenceTo& operator=(const AtomicReferenceTo&) = delete;

  void operator=(Reference desired) noexcept { store(std::move(desired)); }
  operator Reference() const noexcept { return load(); }  // NOLINT: as in std

  // Returns false: see the top of this file.
  [[nodiscard]] bool is_lock_free() const noexcept { return false; }

  // Returns a copy of the current reference.
  [[nodiscard]] Reference load(std::memory_order = std::memory_order_seq_cst) const noexcept {
    return Adopt(state_.Load());
  }

  // Replaces the reference. The former one is dropped on this thread, after the replacement: a
  // destructor that runs may use this AtomicRef.
  void store(Reference desired, std::memory_order = std::memory_order_seq_cst) noexcept {
    static_cast<void>(exchange(std::move(desired)));
  }

  // Replaces the reference and returns the former one.
  [[nodiscard]] Reference exchange(Reference desired,
                                   std::memory_order = std::memory_order_seq_cst) noexcept {
    return Adopt(state_.Exchange(Release(std::move(desired))));
  }

  // Replaces the reference by `desired` if it is `expected`: the same address and the same owner.
  // Otherwise sets `expected` to the current reference and returns false. The reference that was
  // replaced, or that `expected` held, is dropped after the operation.
  bool compare_exchange_strong(Reference& expected, Reference desired, std::memory_order,
                               std::memory_order) noexcept {
    return CompareExchange(expected, std::move(desired));
  }
  bool compare_exchange_strong(Reference& expected, Reference desired,
                               std::memory_order = std::memory_order_seq_cst) noexcept {
    return CompareExchange(expected, std::move(desired));
  }
  bool compare_exchange_weak(Reference& expected, Reference desired, std::memory_order,
                             std::memory_order) noexcept {
    return CompareExchange(expected, std::move(desired));
  }
  bool compare_exchange_weak(Reference& expected, Reference desired,
                             std::memory_order = std::memory_order_seq_cst) noexcept {
    return CompareExchange(expected, std::move(desired));
  }

 private:
  using Element = typename Reference::element_type;
  using State = BasicAtomicReference<StdAtomics, Element, ControlBlock, Counting>;
  using Parts = typename State::Parts;

  static Parts Release(Reference reference) {
    const auto parts = RefAccess::TakeApart(std::move(reference));
    return {parts.pointer, parts.block};
  }
  // Takes over the count of `parts`.
  static Reference Adopt(Parts parts) {
    return RefAccess::AdoptCounted<Reference>(parts.pointer, parts.block);
  }

  bool CompareExchange(Reference& expected, Reference desired) {
    const auto wanted = RefAccess::PartsOf(expected);
    const auto offered = RefAccess::PartsOf(desired);
    const auto [exchanged, former] =
        state_.CompareExchange({wanted.pointer, wanted.block}, {offered.pointer, offered.block});
    // Dropped at the end of the scope, under no lock.
    Reference current = Adopt(former);
    if (exchanged) {
      static_cast<void>(Release(std::move(desired)));  // its count is the state's now
    } else {
      expected.swap(current);
    }
    return exchanged;
  }

  State state_;
};

}  // namespace internal

template <typename T>
class AtomicRef : public internal::AtomicReferenceTo<Ref<T>, internal::StrongCounting> {
 public:
  using internal::AtomicReferenceTo<Ref<T>, internal::StrongCounting>::AtomicReferenceTo;
  using internal::AtomicReferenceTo<Ref<T>, internal::StrongCounting>::operator=;
};

template <typename T>
class AtomicWeakRef : public internal::AtomicReferenceTo<WeakRef<T>, internal::WeakCounting> {
 public:
  using internal::AtomicReferenceTo<WeakRef<T>, internal::WeakCounting>::AtomicReferenceTo;
  using internal::AtomicReferenceTo<WeakRef<T>, internal::WeakCounting>::operator=;
};

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_ATOMIC_REF_H_
