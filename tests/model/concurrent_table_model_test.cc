// SPDX-License-Identifier: Apache-2.0
// The shipped thread-safe map and its table, under the model checker: look-ups without a lock
// against releases, reuse of slots, growth, replacement and insertion, and releases against the
// map's end. All keys have the same hash, so that each is mistaken for the others where it can be.
#include <cstddef>
#include <utility>

#include "tests/model/concurrent_model.h"
#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

// Thread 0 drops the last reference; the others look the object up.
template <bool kEmbedded, int kThreads>
class LookUpAgainstLastRelease
    : public MapModel<LookUpAgainstLastRelease<kEmbedded, kThreads>, kThreads> {
 public:
  void Prepare() { this->handle(0) = this->template EnterFirst<kEmbedded>(1); }
  void Thread(unsigned index) {
    if (index == 0) {
      this->handle(0).get()->UseFor(1);
      releasing_ = true;
      this->handle(0).reset();
    } else if (this->Get(1).get() == nullptr) {
      RL_ASSERT(releasing_);
      RL_ASSERT(this->Get(1).get() == nullptr);
    }
  }
  void Finish() {
    RL_ASSERT(census.objects == 0);
    RL_ASSERT(this->Get(1).get() == nullptr);
  }

 private:
  bool releasing_ = false;
};

// Thread 0 drops the last reference, thread 1 looks it up, thread 2 purges.
class LookUpAgainstReleaseAndPurge : public MapModel<LookUpAgainstReleaseAndPurge, 3> {
 public:
  void Prepare() { handle(0) = Create(1); }
  void Thread(unsigned index) {
    switch (index) {
      case 0:
        handle(0).reset();
        break;
      case 1:
        Get(1);
        break;
      default:
        RL_ASSERT(map().purge() <= 1);
    }
  }
};

// Thread 0 gives back the slot of one key and uses it for another, while others are still at it.
template <bool kEmbedded, int kThreads>
class LookUpAgainstReuse : public MapModel<LookUpAgainstReuse<kEmbedded, kThreads>, kThreads> {
 public:
  void Prepare() { this->handle(0) = this->template EnterFirst<kEmbedded>(1); }
  void Thread(unsigned index) {
    if (index != 0) {
      this->Get(static_cast<int>(index));
      return;
    }
    if (kEmbedded) {
      this->handle(0).reset();
      this->map().purge();
    } else {
      RL_ASSERT(this->map().erase(Key(1)) == 1);
    }
    Handle successor = this->template EnterFirst<kEmbedded>(2);
    RL_ASSERT(this->Get(2).get() == successor.get());
    successor.get()->UseFor(2);
  }
};

// As well, and the same key comes back: who still is at the slot since before may find the second
// object, but only once everybody does.
class LookUpAgainstReturn : public MapModel<LookUpAgainstReturn, 2> {
 public:
  void Prepare() {
    handle(0) = Create(1);
    first_ = handle(0).get();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      handle(0).reset();
      map().purge();
      handle(0) = Create(1);
      return;
    }
    const Handle found = Get(1);
    if (found.get() == nullptr || found.get() == first_) return;
    RL_ASSERT(Get(1).get() == found.get());
  }
  void Finish() { RL_ASSERT(Get(1).get() == handle(0).get()); }

 private:
  const Object* first_ = nullptr;
};

// A key is found while the index grows, and so is one that has been entered since.
template <int kThreads>
class LookUpAgainstGrowth : public MapModel<LookUpAgainstGrowth<kThreads>, kThreads> {
 public:
  void Prepare() { this->handle(0) = this->Create(1); }
  void Thread(unsigned index) {
    if (index == 0) {
      this->map().reserve(25);
      this->handle(1) = this->Create(2);
      entered_.store(1, std::memory_order_release);
      return;
    }
    if (entered_.load(std::memory_order_acquire) == 1) {
      RL_ASSERT(this->Get(2).get() == this->handle(1).get());
    }
    RL_ASSERT(this->Get(1).get() == this->handle(0).get());
  }

 private:
  RelacyAtomic<int> entered_{0};
};

// The key is there all the time: the first object lives, and then the second.
template <bool kEmbedded, int kThreads>
class LookUpAgainstReplacement
    : public MapModel<LookUpAgainstReplacement<kEmbedded, kThreads>, kThreads> {
 public:
  void Prepare() {
    this->handle(0) = this->template EnterFirst<kEmbedded>(1);
    this->handle(1) = ExternalBlock::Make(1);
    first_ = this->handle(0).get();
    second_ = this->handle(1).get();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      RL_ASSERT(!this->map().insert_or_assign(Key(1), this->handle(1)).second);
      RL_ASSERT(this->Get(1).get() == second_);
      this->handle(0).reset();
      return;
    }
    const Object* const found = this->Get(1).get();
    RL_ASSERT(found == first_ || found == second_);
    if (found == second_) RL_ASSERT(this->Get(1).get() == second_);
  }

 private:
  const Object* first_ = nullptr;
  const Object* second_ = nullptr;
};

// As well, by an object that the map makes.
class LookUpAgainstReplacementByNew : public MapModel<LookUpAgainstReplacementByNew, 2> {
 public:
  void Prepare() {
    handle(0) = Create(1);
    first_ = handle(0).get();
  }
  void Thread(unsigned index) {
    if (index == 0) {
      handle(1) = map().emplace_or_assign(Key(1), 1);
      RL_ASSERT(Get(1).get() == handle(1).get());
      handle(0).reset();
      return;
    }
    const Handle found = Get(1);
    RL_ASSERT(found.get() != nullptr);
    if (found.get() != first_) RL_ASSERT(Get(1).get() == found.get());
  }

 private:
  const Object* first_ = nullptr;
};

// Of two that insert under one key one wins, and both have its object. Thread 2, if there is one,
// looks.
template <int kThreads>
class InsertAgainstInsert : public MapModel<InsertAgainstInsert<kThreads>, kThreads> {
 public:
  void Prepare() {
    for (size_t i = 0; i < 2; ++i) this->handle(i) = ExternalBlock::Make(1);
  }
  void Thread(unsigned index) {
    if (index == 2) {
      const Handle seen = this->Get(1);
      if (seen.get() != nullptr) RL_ASSERT(this->Get(1).get() == seen.get());
      return;
    }
    auto [present, inserted] = this->map().insert(Key(1), this->handle(index));
    if (inserted) {
      RL_ASSERT(winner_++ == 0);
      RL_ASSERT(present.get() == this->handle(index).get());
    }
    present.get()->UseFor(1);
    present_[index] = std::move(present);
  }
  void Finish() {
    RL_ASSERT(winner_ == 1);
    RL_ASSERT(this->map().size() == 1);
    RL_ASSERT(present_[0].get() == present_[1].get());
    RL_ASSERT(this->Get(1).get() == present_[0].get());
    for (Handle& present : present_) present.reset();
  }

 private:
  int winner_ = 0;
  Handle present_[2];
};

// Who sees a new object once sees it always, and so does whoever hears of it.
template <bool kEmbedded, int kThreads>
class InsertionAgainstLookUp
    : public MapModel<InsertionAgainstLookUp<kEmbedded, kThreads>, kThreads> {
 public:
  void Thread(unsigned index) {
    switch (index) {
      case 0:
        this->handle(0) = this->template EnterFirst<kEmbedded>(1);
        break;
      case 1:
        if (this->Get(1).get() == nullptr) return;
        RL_ASSERT(this->Get(1).get() != nullptr);
        seen_.store(1, std::memory_order_release);
        break;
      default:
        if (seen_.load(std::memory_order_acquire) == 1) RL_ASSERT(this->Get(1).get() != nullptr);
    }
  }
  void Finish() { RL_ASSERT(this->Get(1).get() == this->handle(0).get()); }

 private:
  RelacyAtomic<int> seen_{0};
};

// One key leaves while a reader passes its entry on the way to another with the same hash.
class LookUpAgainstErasure : public MapModel<LookUpAgainstErasure, 3> {
 public:
  void Prepare() {
    for (int i = 0; i < 2; ++i) handle(static_cast<size_t>(i)) = Create(i + 1);
  }
  void Thread(unsigned index) {
    switch (index) {
      case 0:
        map().erase(Key(1));
        RL_ASSERT(Get(1).get() == nullptr);
        break;
      case 1:
        RL_ASSERT(Get(2).get() == handle(1).get());
        break;
      default:
        handle(0).reset();
    }
  }
};

// Thread 0, and 1 if there are three, drop last references; the last thread ends the map. The pages
// go with the last of them all.
template <bool kEmbedded, int kThreads>
class EndAgainstLastRelease
    : public MapModel<EndAgainstLastRelease<kEmbedded, kThreads>, kThreads> {
 public:
  void Prepare() {
    for (unsigned i = 0; i + 1 < kThreads; ++i) {
      this->handle(i) = this->template EnterFirst<kEmbedded>(static_cast<int>(i) + 1);
    }
  }
  void Thread(unsigned index) {
    if (index + 1 < kThreads) {
      this->handle(index).reset();
    } else {
      this->EndMap();
    }
  }
};

// A weak reference outlives the embedded object, and may outlive the map.
class EndAgainstWeakReference : public MapModel<EndAgainstWeakReference, 3> {
 public:
  void Prepare() {
    handle(0) = Create(1);
    weak_ = HandleTraits<Handle>::MakeWeak(handle(0));
  }
  void Thread(unsigned index) {
    switch (index) {
      case 0:
        handle(0).reset();
        break;
      case 1:
        EndMap();
        break;
      default:
        if (Handle locked = HandleTraits<Handle>::Lock(weak_); locked.get() != nullptr) {
          locked.get()->UseFor(1);
        }
        weak_ = ModelWeakRef<Object>();
    }
  }

 private:
  ModelWeakRef<Object> weak_;
};

int RunAll() {
  constexpr int kRandom = 20'000;
  ModelRunner runner;
  runner.Bounded<LookUpAgainstLastRelease<true, 2>>("a look-up against the last release", 4,
                                                    kRandom);
  runner.Bounded<LookUpAgainstLastRelease<false, 2>>(
      "a look-up against an external slot's last release", 2, kRandom);
  runner.Bounded<LookUpAgainstLastRelease<true, 3>>("two look-ups against the last release", 2,
                                                    kRandom);
  runner.Bounded<LookUpAgainstReleaseAndPurge>("a look-up against the last release and a purge", 2,
                                               kRandom);
  runner.Bounded<LookUpAgainstReuse<true, 2>>("a look-up against reuse", 2, kRandom);
  runner.Bounded<LookUpAgainstReuse<true, 3>>("two look-ups against reuse", 0, kRandom);
  runner.Bounded<LookUpAgainstReuse<false, 2>>("a look-up against reuse by an external slot", 1,
                                               kRandom);
  runner.Bounded<LookUpAgainstReuse<false, 3>>("two look-ups against reuse by an external slot", 0,
                                               kRandom);
  runner.Bounded<LookUpAgainstReturn>("a look-up against a key's return", 2, kRandom);
  runner.Bounded<LookUpAgainstGrowth<2>>("a look-up against growth", 2, kRandom);
  runner.Bounded<LookUpAgainstGrowth<3>>("two look-ups against growth", 1, kRandom);
  runner.Bounded<LookUpAgainstReplacement<true, 2>>("a look-up against replacement", 1, kRandom);
  runner.Bounded<LookUpAgainstReplacement<true, 3>>("two look-ups against replacement", 0, kRandom);
  runner.Bounded<LookUpAgainstReplacement<false, 2>>(
      "a look-up against an external slot's replacement", 1, kRandom);
  runner.Bounded<LookUpAgainstReplacementByNew>("a look-up against replacement by a new object", 1,
                                                kRandom);
  runner.Bounded<InsertAgainstInsert<2>>("insert against insert", 2, kRandom);
  runner.Bounded<InsertAgainstInsert<3>>("insert against insert and a look-up", 1, kRandom);
  runner.Bounded<InsertionAgainstLookUp<true, 2>>("insertion against a look-up", 3, kRandom);
  runner.Bounded<InsertionAgainstLookUp<true, 3>>("insertion against two look-ups", 1, kRandom);
  runner.Bounded<InsertionAgainstLookUp<false, 3>>(
      "an external slot's insertion against two look-ups", 1, kRandom);
  runner.Bounded<LookUpAgainstErasure>("a look-up against erasure of another", 1, kRandom);
  runner.Bounded<EndAgainstLastRelease<true, 2>>("the end against a last release", 3, kRandom);
  runner.Bounded<EndAgainstLastRelease<true, 3>>("the end against two last releases", 1, kRandom);
  runner.Bounded<EndAgainstLastRelease<false, 2>>("the end against an external slot's last release",
                                                  2, kRandom);
  runner.Bounded<EndAgainstLastRelease<false, 3>>(
      "the end against two external slots' last releases", 0, kRandom);
  runner.Bounded<EndAgainstWeakReference>("the end against an upgrade and the last release", 1,
                                          kRandom);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
