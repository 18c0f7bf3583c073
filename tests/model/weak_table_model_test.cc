// SPDX-License-Identifier: Apache-2.0
// The shipped table, under the model checker: the life of a slot between the threads that drop the
// last references to its object and the container that erases, drains, reuses or ends. What
// goes with a slot, a page or the core shows who still looks at it.
#include <array>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {

using Block = internal::BasicControlBlock<RelacyAtomics>;

// As Ref.
template <typename T>
struct ModelRef {
  using element_type = T;

  ModelRef() = default;
  ModelRef(T* pointer, Block* block) : pointer_(pointer), block_(block) {}
  ModelRef(ModelRef&& other) noexcept
      : pointer_(std::exchange(other.pointer_, nullptr)),
        block_(std::exchange(other.block_, nullptr)) {}
  ModelRef& operator=(ModelRef&& other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(block_, other.block_);
    return *this;
  }
  ~ModelRef() {
    if (block_ != nullptr) block_->ReleaseStrong();
  }

  T* get() const { return pointer_; }
  void reset() { ModelRef(std::move(*this)); }

  T* pointer_ = nullptr;
  Block* block_ = nullptr;
};

}  // namespace weakcache::model

template <typename T>
struct weakcache::HandleTraits<weakcache::model::ModelRef<T>> {
  using element_type = T;
  using weak_type = void*;  // nobody asks for it
  static constexpr bool kNotifiesExpiry = true;
};

template <typename T>
struct weakcache::internal::AtomicsOf<weakcache::model::ModelRef<T>> {
  using Policy = weakcache::model::RelacyAtomics;
};

namespace weakcache::model {
namespace {

// Memory that stays until the schedule ends, so that a use after it was given back finds life
// marks.
class Memory {
 public:
  static void* Allocate(size_t bytes) {
    Piece& piece = pieces_.at(count_++);
    piece = {std::malloc(bytes), true};
    return piece.start;
  }
  static void Deallocate(void* memory) {
    for (size_t i = 0; i < count_; ++i) {
      if (pieces_[i].start != memory) continue;
      RL_ASSERT(std::exchange(pieces_[i].in_use, false));
    }
  }
  // Of one schedule.
  static void End() {
    for (; count_ > 0; --count_) {
      RL_ASSERT(!pieces_[count_ - 1].in_use);
      std::free(pieces_[count_ - 1].start);
    }
  }

 private:
  struct Piece {
    void* start;
    bool in_use;
  };
  static inline std::array<Piece, 64> pieces_;
  static inline size_t count_ = 0;
};

template <typename T>
struct ModelAllocator {
  using value_type = T;

  ModelAllocator() = default;
  template <typename U>
  ModelAllocator(const ModelAllocator<U>&) {}  // NOLINT(google-explicit-constructor): as in std
  T* allocate(size_t count) { return static_cast<T*>(Memory::Allocate(count * sizeof(T))); }
  void deallocate(T* memory, size_t) { Memory::Deallocate(memory); }
  friend bool operator==(const ModelAllocator&, const ModelAllocator&) { return true; }
};

// What happens to an object and to the payloads of its slots.
struct Trace {
  RelacyPlain<int> objects_destroyed{0};
  int payloads = 0;
  std::function<void()> at_payload_end = {};
};

// Aligned so that its memory is not Relacy's, which tries each time whether it is used again.
class alignas(64) Object {
 public:
  explicit Object(Trace* trace) : trace_(trace) {}
  ~Object() {
    RL_ASSERT(alive_ == 1);
    trace_->objects_destroyed = trace_->objects_destroyed + 1;
  }
  void Use() const { RL_ASSERT(alive_ == 1); }

 private:
  Trace* const trace_;
  RelacyPlain<int> alive_{1};
};

class Payload {
 public:
  explicit Payload(Trace* trace) : trace_(trace) { ++trace_->payloads; }
  Payload(const Payload&) = delete;
  Payload& operator=(const Payload&) = delete;
  ~Payload() {
    if (trace_->at_payload_end) std::exchange(trace_->at_payload_end, {})();
    alive_ = 0;
    --trace_->payloads;
  }

 private:
  Trace* const trace_;
  RelacyPlain<int> alive_{1};
};

using Handle = ModelRef<Object>;
using internal::PayloadLifetime;

// A table and some objects. Derived has Prepare() and Thread(unsigned), and may have Finish(),
// which runs when the table has ended and its objects are no longer referred to.
template <typename Derived, int kThreads, int kObjects,
          PayloadLifetime kLifetime = PayloadLifetime::kUntilPurge>
class TableModel : public rl::test_suite<Derived, kThreads> {
 protected:
  using Table = internal::WeakTable<Handle, Payload, kLifetime, ModelAllocator<char>>;
  using Slot = typename Table::Slot;

 public:
  void before() {
    ++current_schedule;
    table_.emplace(ModelAllocator<char>());
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(index); }
  void after() {
    if (table_.has_value()) {
      // All that has expired comes through, and each slot is free.
      table_->Purge();
      table_->CheckInvariantsForTesting();
      RL_ASSERT(table_->size() == 0);
      table_->ShrinkToFit();
      table_->Purge();
      EndTable();
    }
    static_cast<Derived*>(this)->Finish();
    for (const Trace& trace : traces_) {
      RL_ASSERT(trace.objects_destroyed == 1);
      RL_ASSERT(trace.payloads == 0);
    }
    Memory::End();
  }

 protected:
  void Prepare() {}
  void Finish() {}

  Table& table() { return *table_; }
  Trace& trace(int index) { return traces_[index]; }
  // What the model's threads hold, one each.
  Handle& handle(int index) { return handles_[index]; }

  // Creates object `index` in the table, for a key that has none.
  Slot* EnterEmbedded(int index) {
    auto prepared = table_->template Prepare<true>(&traces_[index]);
    handles_[index] = table_->EnterEmbedded(std::move(prepared), HashOf(index),
                                            internal::NewObject<Object>(&traces_[index]));
    return Find(index);
  }
  // Enters the object that handle `index` holds, under key `key`.
  Slot* EnterExternal(int key, int index) {
    return table_->Enter(table_->Prepare(&traces_[index]), HashOf(key), handles_[index]);
  }
  Slot* Find(int index) {
    return table_->Find(HashOf(index), [](const Slot&) { return true; });
  }
  void EndTable() { table_.reset(); }

 private:
  static uint32_t HashOf(int index) { return static_cast<uint32_t>(index) + 2; }

  std::optional<Table> table_;
  std::array<Trace, kObjects> traces_;
  std::array<Handle, kObjects> handles_;
};

// One embedded. Thread 0 drops the last reference, thread 1 is the container, and thread 2, if
// there is one, drops a weak reference, so that it may be the one that frees the block.
template <typename Derived, int kThreads, int kObjects = 1>
class EmbeddedSlotModel : public TableModel<Derived, kThreads, kObjects> {
 public:
  void Prepare() {
    slot_ = this->EnterEmbedded(0);
    block_ = this->handle(0).block_;
    if (kThreads == 3) block_->AddWeak();
  }
  void Thread(unsigned index) {
    switch (index) {
      case 0:
        this->handle(0).get()->Use();
        this->handle(0).reset();
        break;
      case 1:
        static_cast<Derived*>(this)->Contain();
        break;
      default:
        static_cast<Derived*>(this)->UseWeakly();
        block_->ReleaseWeak();
    }
  }
  void UseWeakly() {}

 protected:
  typename EmbeddedSlotModel::Slot* slot() { return slot_; }
  Block* block() { return block_; }

 private:
  typename EmbeddedSlotModel::Slot* slot_ = nullptr;
  Block* block_ = nullptr;
};

// What the container does, for a model of any number of threads.
template <int kThreads>
class EraseAgainstExpiry : public EmbeddedSlotModel<EraseAgainstExpiry<kThreads>, kThreads> {
 public:
  void Contain() {
    this->table().Erase(this->slot());
    // The expiry is counted, or it will not be.
    RL_ASSERT(this->table().size() == 0);
    RL_ASSERT(this->trace(0).payloads == 0);
    RL_ASSERT(this->Find(0) == nullptr);
  }
};

template <int kThreads>
class DrainAgainstExpiry : public EmbeddedSlotModel<DrainAgainstExpiry<kThreads>, kThreads> {
 public:
  void Contain() {
    const size_t purged = this->table().Purge();
    RL_ASSERT((this->Find(0) == nullptr) == (purged == 1));
    if (purged == 0) return;
    RL_ASSERT(this->trace(0).objects_destroyed == 1);
    RL_ASSERT(this->table().size() == 0);
  }
};

template <int kThreads>
class EndAgainstExpiry : public EmbeddedSlotModel<EndAgainstExpiry<kThreads>, kThreads> {
 public:
  void Contain() { this->EndTable(); }
};

// The key of the erased entry ends the container, between the expiry and the push that tells of it
// or after both.
template <int kThreads>
class ErasureThatEndsTheTableAgainstExpiry
    : public EmbeddedSlotModel<ErasureThatEndsTheTableAgainstExpiry<kThreads>, kThreads> {
 public:
  void Contain() {
    this->trace(0).at_payload_end = [this] { this->EndTable(); };
    this->table().Erase(this->slot());
  }
};

// As a map's insertion under a key whose object expires: the old slot makes way, and if it has come
// back it is the new one's.
template <int kThreads>
class ReplaceAgainstExpiry : public EmbeddedSlotModel<ReplaceAgainstExpiry<kThreads>, kThreads, 2> {
 public:
  void Contain() {
    this->table().Erase(this->slot());
    static_cast<void>(this->table().PurgeUpTo());
    this->EnterEmbedded(1);
    RL_ASSERT(this->table().size() == 1);
    this->handle(1).reset();
    RL_ASSERT(this->table().size() == 0);
    RL_ASSERT(this->table().Purge() == 1);
  }
};

// The container drains, and creates another object in what may be the same slot; then it ends.
template <int kThreads>
class ReuseAndEndAgainstExpiry
    : public EmbeddedSlotModel<ReuseAndEndAgainstExpiry<kThreads>, kThreads, 2> {
 public:
  void Contain() {
    this->table().Purge();
    this->EnterEmbedded(1);
    this->handle(1).reset();
    this->EndTable();
  }
};

// A look-up may hold the last reference.
template <int kThreads>
class LookUpAgainstExpiry : public EmbeddedSlotModel<LookUpAgainstExpiry<kThreads>, kThreads> {
 public:
  void Contain() {
    Handle found = this->slot()->Lock();
    if (found.get() != nullptr) {
      RL_ASSERT(this->table().size() == 1);
      found.get()->Use();
      found.reset();
    }
    this->table().Purge();
  }
};

class UpgradeAgainstEnd : public EmbeddedSlotModel<UpgradeAgainstEnd, 3> {
 public:
  void Contain() { EndTable(); }
  void UseWeakly() {
    if (block()->TryAddStrong()) block()->ReleaseStrong();
  }
};

// The memory of the entries that have come back goes, while others are on their way.
class ShrinkAgainstExpiry : public EmbeddedSlotModel<ShrinkAgainstExpiry, 3> {
 public:
  void Contain() {
    table().ShrinkToFit();
    table().Clear();
    table().ShrinkToFit();
  }
};

// Two embedded slots in one page: the last one of all frees it.
class EndAgainstTwoExpiries : public TableModel<EndAgainstTwoExpiries, 3, 2> {
 public:
  void Prepare() {
    for (int i = 0; i < 2; ++i) EnterEmbedded(i);
  }
  void Thread(unsigned index) {
    if (index < 2) {
      handle(static_cast<int>(index)).reset();
    } else {
      EndTable();
    }
  }
};

// A table with an external slot, which refers to an object that was there before.
template <typename Derived, int kThreads, int kObjects = 1,
          PayloadLifetime kLifetime = PayloadLifetime::kUntilPurge>
class ExternalSlotModel : public TableModel<Derived, kThreads, kObjects, kLifetime> {
 public:
  void Prepare() {
    object_.Create(&this->trace(0));
    block_.Create(&fate_, object_.get());
    this->handle(0) = Handle(object_.get(), block_.get());
    slot_ = this->EnterExternal(0, 0);
  }
  void Thread(unsigned index) {
    if (index == 0) {
      this->handle(0).reset();
    } else {
      static_cast<Derived*>(this)->Contain();
    }
  }
  void Finish() { RL_ASSERT(fate_.Over()); }

 protected:
  typename ExternalSlotModel::Slot* slot() { return slot_; }

 private:
  class OwningBlock final : public ModelBlock {
   public:
    OwningBlock(Fate* fate, Object* object) : ModelBlock(fate), object_(object) {}

   private:
    void RunDestructor() override { std::destroy_at(object_); }

    Object* const object_;
  };

  Fate fate_;
  Storage<Object> object_;
  Storage<OwningBlock> block_;
  typename ExternalSlotModel::Slot* slot_ = nullptr;
};

template <PayloadLifetime kLifetime>
class EraseOfAnExternalSlotAgainstExpiry
    : public ExternalSlotModel<EraseOfAnExternalSlotAgainstExpiry<kLifetime>, 2, 1, kLifetime> {
 public:
  void Contain() {
    this->table().Erase(this->slot());
    RL_ASSERT(this->table().size() == 0);
    this->table().Purge();
  }
};

template <PayloadLifetime kLifetime>
class EndAgainstAnExternalSlotsExpiry
    : public ExternalSlotModel<EndAgainstAnExternalSlotsExpiry<kLifetime>, 2, 1, kLifetime> {
 public:
  void Contain() {
    this->table().Purge();
    this->EndTable();
  }
};

// A page of each kind: the last to leave the last page frees the core.
class EndAgainstExpiriesInTwoPages : public ExternalSlotModel<EndAgainstExpiriesInTwoPages, 3, 2> {
 public:
  void Prepare() {
    ExternalSlotModel::Prepare();
    EnterEmbedded(1);
  }
  void Thread(unsigned index) {
    if (index < 2) {
      handle(static_cast<int>(index)).reset();
    } else {
      EndTable();
    }
  }
};

// An object of an embedded slot that is also in an external slot of the same table, under another
// key: the table itself may drop the last weak reference to it.
template <bool kErased>
class EmbeddedAndExternalSlotAgainstExpiry
    : public TableModel<EmbeddedAndExternalSlotAgainstExpiry<kErased>, 2, 1> {
 public:
  void Prepare() {
    this->EnterEmbedded(0);
    external_ = this->EnterExternal(1, 0);
  }
  void Thread(unsigned index) {
    if (index == 0) {
      this->handle(0).reset();
      return;
    }
    if (kErased) this->table().Erase(external_);
    this->table().Purge();
    this->EndTable();
  }

 private:
  typename EmbeddedAndExternalSlotAgainstExpiry::Slot* external_ = nullptr;
};

int RunAll() {
  constexpr int kRandom = 50'000;
  ModelRunner runner;
  runner.Exhaustive<EraseAgainstExpiry<2>>("erasure against expiry");
  runner.Bounded<EraseAgainstExpiry<3>>("erasure against expiry, weakly held", 3, kRandom);
  runner.Exhaustive<DrainAgainstExpiry<2>>("draining against expiry");
  runner.Bounded<DrainAgainstExpiry<3>>("draining against expiry, weakly held", 3, kRandom);
  runner.Bounded<EndAgainstExpiry<2>>("the end against expiry", 4, kRandom);
  runner.Bounded<EndAgainstExpiry<3>>("the end against expiry, weakly held", 3, kRandom);
  runner.Bounded<ErasureThatEndsTheTableAgainstExpiry<2>>(
      "an erasure that ends the table against expiry", 4, kRandom);
  runner.Bounded<ErasureThatEndsTheTableAgainstExpiry<3>>(
      "an erasure that ends the table against expiry, weakly held", 2, kRandom);
  runner.Bounded<ReplaceAgainstExpiry<2>>("a replacement against expiry", 3, kRandom);
  runner.Bounded<ReplaceAgainstExpiry<3>>("a replacement against expiry, weakly held", 2, kRandom);
  runner.Bounded<ReuseAndEndAgainstExpiry<2>>("reuse and the end against expiry", 3, kRandom);
  runner.Bounded<ReuseAndEndAgainstExpiry<3>>("reuse and the end against expiry, weakly held", 2,
                                              kRandom);
  runner.Exhaustive<LookUpAgainstExpiry<2>>("a look-up against expiry");
  runner.Bounded<LookUpAgainstExpiry<3>>("a look-up against expiry, weakly held", 3, kRandom);
  runner.Bounded<UpgradeAgainstEnd>("an upgrade against expiry and the end", 3, kRandom);
  runner.Bounded<ShrinkAgainstExpiry>("shrinking against expiry", 3, kRandom);
  runner.Bounded<EndAgainstTwoExpiries>("the end against two expiries", 2, kRandom);
  runner.Bounded<EraseOfAnExternalSlotAgainstExpiry<PayloadLifetime::kUntilPurge>>(
      "erasure of an external slot against expiry", 3, kRandom);
  runner.Bounded<EndAgainstAnExternalSlotsExpiry<PayloadLifetime::kUntilPurge>>(
      "the end against an external slot's expiry", 3, kRandom);
  runner.Bounded<EraseOfAnExternalSlotAgainstExpiry<PayloadLifetime::kUntilReferentDies>>(
      "erasure of an external slot against expiry", 3, kRandom);
  runner.Bounded<EndAgainstAnExternalSlotsExpiry<PayloadLifetime::kUntilReferentDies>>(
      "the end against an external slot's expiry", 3, kRandom);
  runner.Bounded<EndAgainstExpiriesInTwoPages>("the end against expiries in two pages", 1, kRandom);
  runner.Bounded<EmbeddedAndExternalSlotAgainstExpiry<false>>(
      "the end against the expiry of an object in an embedded and an external slot", 2, kRandom);
  runner.Bounded<EmbeddedAndExternalSlotAgainstExpiry<true>>(
      "erasure of an external slot of an embedded slot's object", 2, kRandom);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
