// SPDX-License-Identifier: Apache-2.0
// The shipped index of a concurrent table alone, under the model checker: small enough for a reader
// to be late by several changes. Only the random search lets a load give a value older than the
// last but one, which is what a reader of a replaced entry needs to go wrong.
#include <cstdint>
#include <optional>

#include "tests/model/concurrent_model.h"
#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/internal/concurrent/concurrent_index.h"

namespace weakcache::model {
namespace {

// As far as the index is concerned, with the orders of ConcurrentSlot.
struct IndexedSlot {
  uint32_t hash() const {
    static_cast<void>(static_cast<int>(page));
    return tagged_hash.load(std::memory_order_acquire);
  }
  void set_hash(uint32_t hash) { tagged_hash.store(hash, std::memory_order_release); }
  RelacyAtomic<uint32_t> tagged_hash{0};
  RelacyAtomics::Plain<int> page{1};  // stands for what a page has been set up with
};

// Thread 0 changes an index in which there always is a slot of one hash, unless kErases; the others
// never miss it.
template <typename Derived, int kThreads>
class IndexModel : public rl::test_suite<Derived, kThreads> {
 public:
  static constexpr uint32_t kHash = 7;
  static constexpr uint32_t kOtherHash = 9;
  static constexpr bool kOnlyEnters = false;
  static constexpr bool kErases = false;

  void before() {
    ++current_schedule;
    index_.emplace();
    for (auto& slot : slots_) slot.emplace();
    Enter(slot(0), kHash);
    version_before_ = index_->version();
  }
  void thread(unsigned i) {
    if (i == 0) {
      static_cast<Derived*>(this)->Change();
      return;
    }
    const auto found = index_->Find(kHash, [](IndexedSlot*) { return true; });
    RL_ASSERT(found.slot != nullptr || !found.certain || Derived::kErases);
    uint64_t version;
    RL_ASSERT(!index_->IsAbsent(kHash, &version) || Derived::kErases);
    // Who sees the version after the entry, which adds 2 twice, does not miss it.
    if (Derived::kOnlyEnters && index_->IsAbsent(kOtherHash, &version)) {
      RL_ASSERT(version < version_before_ + 4);
    }
  }
  void after() {
    index_->CheckInvariantsForTesting(static_cast<Derived*>(this)->kSlots);
    index_.reset();
    for (auto& slot : slots_) slot.reset();
    AlignedMemory::End();
  }

 protected:
  IndexedSlot* slot(int i) { return &*slots_[i]; }
  void MakeAnew(int i) { slots_[i].emplace(); }
  void Enter(IndexedSlot* slot, uint32_t hash) {
    slot->set_hash(hash);
    index_->Insert(slot);
    index_->NotePublished();
  }
  void Replace(IndexedSlot* replaced, IndexedSlot* slot) {
    slot->set_hash(replaced->hash());
    index_->Replace(replaced, slot, [] {});
  }
  auto& index() { return *index_; }

 private:
  std::optional<internal::ConcurrentIndex<IndexedSlot, RelacyAtomics>> index_;
  std::optional<IndexedSlot> slots_[2];
  uint64_t version_before_ = 0;
};

// A replaced slot is used again, for another hash.
template <int kThreads>
struct Reuse : IndexModel<Reuse<kThreads>, kThreads> {
  static constexpr size_t kSlots = 2;
  void Change() {
    this->Replace(this->slot(0), this->slot(1));
    this->Enter(this->slot(0), this->kOtherHash);
  }
};
template <int kThreads>
struct Entry : IndexModel<Entry<kThreads>, kThreads> {
  static constexpr size_t kSlots = 2;
  static constexpr bool kOnlyEnters = true;
  void Change() { this->Enter(this->slot(1), this->kOtherHash); }
};
template <int kThreads>
struct Growth : IndexModel<Growth<kThreads>, kThreads> {
  static constexpr size_t kSlots = 2;
  void Change() {
    this->index().Grow(this->index().max_size() + 1);
    this->Enter(this->slot(1), this->kHash);
  }
};
// The other of two leaves.
template <int kThreads>
struct Erasure : IndexModel<Erasure<kThreads>, kThreads> {
  static constexpr size_t kSlots = 1;
  void Change() {
    this->Enter(this->slot(1), this->kHash);
    this->index().Erase(this->slot(0));
  }
};
// The only one leaves, and a slot of a new page comes to its place.
template <int kThreads>
struct Succession : IndexModel<Succession<kThreads>, kThreads> {
  static constexpr size_t kSlots = 1;
  static constexpr bool kErases = true;
  void Change() {
    this->index().Erase(this->slot(0));
    this->MakeAnew(1);
    this->Enter(this->slot(1), this->kHash);
  }
};

int RunAll() {
  constexpr int kRandom = 200'000;
  ModelRunner runner;
  runner.Bounded<Reuse<2>>("reuse of a replaced slot", 3, kRandom);
  runner.Bounded<Reuse<3>>("reuse of a replaced slot, two look-ups", 1, kRandom);
  runner.Bounded<Entry<2>>("entry of another", 3, kRandom / 10);
  runner.Bounded<Growth<2>>("growth", 2, kRandom / 10);
  runner.Bounded<Erasure<2>>("erasure of another", 3, kRandom);
  runner.Bounded<Succession<2>>("a slot of a new page", 3, kRandom / 10);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
