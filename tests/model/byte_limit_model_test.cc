// SPDX-License-Identifier: Apache-2.0
// The hard limit of a cache under the model checker: the sum never exceeds the limit, and every
// load that waits is woken when there is room, however deaths, evictions, loads that end, changes
// of the limit and loads that give up meet. A wake-up that is lost shows as a deadlock.
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/internal/retention/byte_limit.h"
#include "weakcache/cache/internal/slot/mutex.h"

namespace weakcache::model {
namespace {

using Limit = internal::BasicByteLimit<RelacyAtomics>;
using Waiter = Limit::Waiter;
using Lock = internal::BasicMutexLock<RelacyAtomics>;
using Mutex = internal::BasicMutex<RelacyAtomics>;

// A thread that nobody wakes stays blocked.
using Never = Waiter::NoDeadline;

// Threads that add and subtract bytes below one limit.
template <typename Derived, int kThreads>
class LimitModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    limit_.emplace(Derived::kLimit);
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(static_cast<int>(index)); }
  void after() {
    static_cast<Derived*>(this)->Finish();
    RL_ASSERT(limit_->used() == 0);
    RL_ASSERT(!limit_->HasWaiters() && limit_->Sleeping() == 0);
    limit_.reset();
  }

 protected:
  static constexpr uint64_t kLimit = 10;

  void Prepare() {}
  void Finish() {}
  Limit& limit() { return *limit_; }

  // As a load does.
  void Add(uint64_t bytes) {
    if (!limit_->HasWaiters() && TryAdd(bytes)) return;
    Waiter waiter(*limit_, /*hash=*/0);
    waiter.Join();
    while (!(waiter.IsFirst() && TryAdd(bytes))) {
      RL_ASSERT(waiter.Await(Never()) == Waiter::Event::kRoom);
    }
    waiter.Leave();
  }
  bool TryAdd(uint64_t bytes) {
    if (!limit_->TryAdd(bytes)) return false;
    RL_ASSERT(limit_->used() <= limit_->limit());
    return true;
  }

 private:
  std::optional<Limit> limit_;
};

// Each needs more than what another one leaves.
template <int kThreads, uint64_t kBytes>
class OneAfterTheOther : public LimitModel<OneAfterTheOther<kThreads, kBytes>, kThreads> {
 public:
  void Thread(int) {
    this->Add(kBytes);
    this->limit().Subtract(kBytes);
  }
};

// Two objects have to die before there is room.
class TwoDeaths : public LimitModel<TwoDeaths, 3> {
 public:
  void Prepare() { RL_ASSERT(TryAdd(10)); }
  void Thread(int index) {
    if (index == 0) Add(10);
    limit().Subtract(index == 0 ? 10 : 5);
  }
};

// The first in the queue gives up; the second has room already.
class FirstGivesUp : public LimitModel<FirstGivesUp, 3> {
 public:
  void Prepare() { RL_ASSERT(TryAdd(8)); }
  void Thread(int index) {
    if (index == 0) {
      Waiter waiter(limit(), /*hash=*/0);
      waiter.Join();
      static_cast<void>(waiter.IsFirst() && TryAdd(12));  // never fits
    } else if (index == 1) {
      Add(5);
      limit().Subtract(5);
    } else {
      limit().Subtract(8);
    }
  }
};

class LimitIsRaised : public LimitModel<LimitIsRaised, 2> {
 public:
  void Thread(int index) {
    if (index == 0) {
      Add(15);
      limit().Subtract(15);
    } else {
      limit().SetLimit(20);
    }
  }
};

// A load waits, and another thread enters its object. Looking for it and waiting are not one step.
class ObjectEnters : public LimitModel<ObjectEnters, 2> {
 public:
  void Prepare() {
    RL_ASSERT(TryAdd(10));
    entered_.emplace(0);
  }
  void Thread(int index) {
    if (index == 0) {
      Waiter waiter(limit(), /*hash=*/1);
      waiter.Join();
      // Relaxed: the order is that of the word.
      if (entered_->load(std::memory_order_relaxed) == 0) {
        RL_ASSERT(waiter.Await(Never()) == Waiter::Event::kEntered);
        RL_ASSERT(entered_->load(std::memory_order_relaxed) == 1);
      }
    } else {
      entered_->store(1, std::memory_order_relaxed);
      limit().NotifyEntered(/*hash=*/1);
    }
  }
  void Finish() {
    limit().Subtract(10);
    entered_.reset();
  }

 private:
  std::optional<RelacyAtomic<int>> entered_;
};

// As the retention does it: an object that is retained and in use becomes idle in silence. So the
// waiter lets go of it, and while a load waits no object is retained.
template <bool kRetainedBefore>
class ObjectInUse : public LimitModel<ObjectInUse<kRetainedBefore>, 2> {
 public:
  void Prepare() {
    RL_ASSERT(this->TryAdd(10));
    budget_.emplace();
    retained_ = kRetainedBefore;
    in_use_ = true;
  }
  void Thread(int index) {
    if (index == 0) {
      Waiter waiter(this->limit(), /*hash=*/0);
      waiter.Join();
      while (!(waiter.IsFirst() && Evict() && this->TryAdd(10))) {
        RL_ASSERT(waiter.Await(Never()) == Waiter::Event::kRoom);
      }
    } else {
      if (!kRetainedBefore) {
        Lock lock(*budget_);
        retained_ = !this->limit().HasWaiters();
      }
      bool dies = false;
      {
        // The count of references, in one step.
        Lock lock(*budget_);
        in_use_ = false;
        dies = !retained_;
      }
      if (dies) this->limit().Subtract(10);
    }
  }
  void Finish() {
    this->limit().Subtract(10);
    budget_.reset();
  }

 private:
  bool Evict() {
    bool dies = false;
    {
      Lock lock(*budget_);
      dies = std::exchange(retained_, false) && !in_use_;
    }
    if (dies) this->limit().Subtract(10);
    return true;
  }

  std::optional<Mutex> budget_;
  bool retained_ = false;
  bool in_use_ = false;
};

int RunAll() {
  ModelRunner runner;
  runner.Bounded<OneAfterTheOther<2, 10>>("one after the other", 4);
  runner.Bounded<OneAfterTheOther<3, 5>>("two of three at a time", 2);
  runner.Bounded<TwoDeaths>("two deaths", 3);
  runner.Bounded<FirstGivesUp>("the first gives up", 3);
  runner.Bounded<LimitIsRaised>("the limit is raised", 4);
  runner.Bounded<ObjectEnters>("the object enters", 4);
  runner.Bounded<ObjectInUse<true>>("an object in use", 4);
  runner.Bounded<ObjectInUse<false>>("an object is retained", 4);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
