// SPDX-License-Identifier: Apache-2.0
// References that threads read and replace at once: a reader gets a reference to a living referent,
// every count is given back, and pointer and block always belong together.
#include <array>
#include <atomic>
#include <memory>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/weakref/internal/atomic_reference.h"

namespace weakcache::model {
namespace {

using Strong =
    internal::BasicAtomicReference<RelacyAtomics, Fate, ModelBlock, internal::StrongCounting>;
using Weak =
    internal::BasicAtomicReference<RelacyAtomics, Fate, ModelBlock, internal::WeakCounting>;

// Some referents, each with its block and, as the pointer to it, the address of its fate.
template <typename Derived, typename Reference, int kThreads, int kReferents>
class AtomicRefModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    for (int i = 0; i < kReferents; ++i) blocks_[i].Create(&fates_[i]);
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(index); }
  void after() {
    static_cast<Derived*>(this)->Finish();
    std::destroy_at(reference_.get());
    for (const Fate& fate : fates_) RL_ASSERT(fate.Over());
  }

 protected:
  using Parts = typename Reference::Parts;

  void Finish() {}
  ModelBlock& block(int index) { return *blocks_[index].get(); }
  Parts parts(int index) { return {&fates_[index], &block(index)}; }
  Reference& reference() { return *reference_.get(); }
  // The reference takes over a count of that referent.
  void CreateReference(int index) { reference_.Create(parts(index)); }
  void CreateNullReference() { reference_.Create(Parts()); }

  void CheckWhole(Parts parts) {
    for (int i = 0; i < kReferents; ++i) {
      RL_ASSERT((parts.pointer == &fates_[i]) == (parts.block == &block(i)));
    }
  }
  static void UseAndRelease(Parts parts) {
    if (parts.block != nullptr) parts.block->UseAndRelease();
  }
  void LoadAndRelease() {
    const Parts loaded = reference().Load();
    CheckWhole(loaded);
    UseAndRelease(loaded);
  }

 private:
  std::array<Fate, kReferents> fates_;
  std::array<Storage<ModelBlock>, kReferents> blocks_;
  Storage<Reference> reference_;
};

template <int kThreads>
class LoadsAgainstStore : public AtomicRefModel<LoadsAgainstStore<kThreads>, Strong, kThreads, 2> {
 public:
  void Prepare() { this->CreateReference(0); }
  void Thread(unsigned index) {
    if (index == 0) {
      this->UseAndRelease(this->reference().Exchange(this->parts(1)));
    } else {
      this->LoadAndRelease();
    }
  }
  void Finish() { RL_ASSERT(this->block(1).strong_count() == 1); }
};

class StoreOfNullAgainstStore : public AtomicRefModel<StoreOfNullAgainstStore, Strong, 2, 2> {
 public:
  void Prepare() { CreateReference(0); }
  void Thread(unsigned index) {
    UseAndRelease(reference().Exchange(index == 0 ? Parts() : parts(1)));
  }
};

// Each replaces what both expect: one of them does, and the other gets what that one stored.
class TwoCompareExchanges : public AtomicRefModel<TwoCompareExchanges, Strong, 2, 3> {
 public:
  void Prepare() { CreateReference(0); }
  void Thread(unsigned index) {
    const int mine = static_cast<int>(index) + 1;
    const auto [exchanged, former] = reference().CompareExchange(parts(0), parts(mine));
    CheckWhole(former);
    RL_ASSERT(former == parts(exchanged ? 0 : 3 - mine));
    UseAndRelease(former);
    if (!exchanged) UseAndRelease(parts(mine));
    exchanges_[index] = exchanged ? 1 : 0;
  }
  void Finish() { RL_ASSERT(exchanges_[0] + exchanges_[1] == 1); }

 private:
  std::array<int, 2> exchanges_{};
};

// The referent was published by plain writes: who loads the reference reads them.
class PublicationByStore : public AtomicRefModel<PublicationByStore, Strong, 2, 1> {
 public:
  void Prepare() {
    CreateNullReference();
    published_ = 0;
  }
  void Thread(unsigned index) {
    if (index == 0) {
      published_ = 1;
      UseAndRelease(reference().Exchange(parts(0)));
      return;
    }
    const Parts loaded = reference().Load();
    if (loaded.block == nullptr) return;
    RL_ASSERT(published_ == 1);
    UseAndRelease(loaded);
  }

 private:
  RelacyPlain<int> published_{0};
};

// A store and a flag, each read by the other thread: not both miss the other's write. (Relacy lets
// every exchange read the newest value, so this does not need the lock's seq_cst to pass; the
// argument for that is in the header.)
class StoreThenFlagAgainstFlagThenLoad
    : public AtomicRefModel<StoreThenFlagAgainstFlagThenLoad, Strong, 2, 1> {
 public:
  void Prepare() {
    CreateNullReference();
    flag_.store(0, std::memory_order_relaxed);
  }
  void Thread(unsigned index) {
    if (index == 0) {
      UseAndRelease(reference().Exchange(parts(0)));
      saw_flag_ = flag_.load(std::memory_order_seq_cst) == 1;
    } else {
      flag_.store(1, std::memory_order_seq_cst);
      const Parts loaded = reference().Load();
      saw_reference_ = loaded.block != nullptr;
      UseAndRelease(loaded);
    }
  }
  void Finish() { RL_ASSERT(saw_flag_ || saw_reference_); }

 private:
  RelacyAtomic<int> flag_{0};
  bool saw_flag_ = false;
  bool saw_reference_ = false;
};

// The last strong reference goes while a weak one is loaded by one thread and replaced by another.
class WeakLoadAgainstStoreAndLastRelease
    : public AtomicRefModel<WeakLoadAgainstStoreAndLastRelease, Weak, 3, 1> {
 public:
  void Prepare() {
    block(0).AddWeak();
    CreateReference(0);
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block(0).UseAndRelease();
      return;
    }
    const Parts weak = index == 1 ? reference().Load() : reference().Exchange(Parts());
    CheckWhole(weak);
    if (weak.block == nullptr) return;
    if (weak.block->TryAddStrong()) weak.block->UseAndRelease();
    weak.block->ReleaseWeak();
  }
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<LoadsAgainstStore<2>>("a load against a store");
  runner.Bounded<LoadsAgainstStore<3>>("two loads against a store", 3, 100'000);
  runner.Exhaustive<StoreOfNullAgainstStore>("a store of null against a store");
  runner.Exhaustive<TwoCompareExchanges>("two compare-exchanges");
  runner.Exhaustive<PublicationByStore>("a publication");
  runner.Exhaustive<StoreThenFlagAgainstFlagThenLoad>("a store and a flag");
  runner.Bounded<WeakLoadAgainstStoreAndLastRelease>("a weak load against the last release", 3,
                                                     100'000);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
