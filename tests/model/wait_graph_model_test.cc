// SPDX-License-Identifier: Apache-2.0
// The graph of waiting threads, as the single flight uses it, under the model checker: a circle of
// threads that wait for each other's creations is refused to one of them at least, however they
// meet; and nothing else is refused. A circle that is missed shows as a deadlock.
#include <optional>

#include "tests/model/concurrent_model.h"
#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/creation/wait_graph.h"
#include "weakcache/cache/internal/slot/mutex.h"

namespace weakcache::model {
namespace {

using Flights = internal::SingleFlight<internal::CreationResult<Handle>, int, RelacyAtomics>;
using Flight = Flights::Flight;
using Graph = internal::BasicWaitGraph<RelacyAtomics>;
using Lock = internal::BasicMutexLock<RelacyAtomics>;
using Mutex = internal::BasicMutex<RelacyAtomics>;

struct Shard {
  Mutex mutex;
  Flights flights;
};

enum class Answer { kNothingToWaitFor, kWaited, kRefused };

// Threads that have a shard each.
template <typename Derived, int kThreads>
class GraphModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    wait_graph.emplace();
    for (auto& shard : shards_) shard.emplace();
    refused_ = 0;
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(static_cast<int>(index)); }
  void after() {
    static_cast<Derived*>(this)->Finish();
    for (auto& shard : shards_) {
      RL_ASSERT(shard->flights.empty());
      shard.reset();
    }
    wait_graph.reset();
  }

 protected:
  void Prepare() {}
  void Finish() {}

  void Start(int index, Flight& flight, const int& key) {
    Shard& shard = *shards_[index];
    {
      Lock lock(shard.mutex);
      RL_ASSERT(shard.flights.Start(flight, shard.flights.Find(0, IsAny)));
    }
    flight.SetKey(&key);
  }
  void End(int index, Flight& flight) {
    Shard& shard = *shards_[index];
    Lock lock(shard.mutex);
    shard.flights.End(flight, internal::CreationResult<Handle>());
  }
  // Asks for what is being created in that shard.
  Answer Ask(int index) {
    Shard& shard = *shards_[index];
    Lock lock(shard.mutex);
    const auto found = shard.flights.Find(0, IsAny);
    if (found.flight == nullptr) return Answer::kNothingToWaitFor;
    internal::CreationResult<Handle> result;
    if (shard.flights.Await(*found.flight, shard.mutex, result, nullptr)) return Answer::kWaited;
    ++refused_;
    return Answer::kRefused;
  }
  int refused() const { return refused_; }

 private:
  static constexpr auto IsAny = [](int) { return true; };

  std::optional<Shard> shards_[kThreads];
  int refused_ = 0;
};

// Each creates something and asks for the next one's.
template <int kThreads>
class Circle : public GraphModel<Circle<kThreads>, kThreads> {
 public:
  void Thread(int index) {
    Flight flight(0);
    this->Start(index, flight, index);
    static_cast<void>(this->Ask((index + 1) % kThreads));
    this->End(index, flight);
  }
  // After one refusal the circle is open.
  void Finish() { RL_ASSERT(this->refused() <= 1); }
};

// The first's creation ends before it asks for the second's, which has been waiting for it: nobody
// may be refused, whether the second has woken up or not.
class AskAfterEnd : public GraphModel<AskAfterEnd, 2> {
 public:
  void Thread(int index) {
    Flight flight(0);
    Start(index, flight, index);
    if (index == 0) {
      End(0, flight);
      RL_ASSERT(Ask(1) != Answer::kRefused);
    } else {
      RL_ASSERT(Ask(0) != Answer::kRefused);
      End(1, flight);
    }
  }
};

// Two wait for the third, which waits for nobody; and it waits for one of them when that has
// ended.
class ChainOfThree : public GraphModel<ChainOfThree, 3> {
 public:
  void Thread(int index) {
    Flight flight(0);
    Start(index, flight, index);
    if (index != 2) RL_ASSERT(Ask(index + 1) != Answer::kRefused);
    End(index, flight);
    if (index == 2) RL_ASSERT(Ask(0) != Answer::kRefused);
  }
};

// One permit, as LoadLimiter has them.
class Permit final : public Graph::Resource {
 public:
  bool Acquire() {
    Graph::Wait wait;
    {
      Lock lock(mutex_);
      if (TryTake(nullptr)) return true;
    }
    if (!Graph::Get().Begin(wait, *this, nullptr)) return false;
    {
      Lock lock(mutex_);
      released_.Wait(mutex_, [&] { return TryTake(&wait); });
    }
    Graph::Get().End(wait);
    return true;
  }
  void Release() {
    Lock lock(mutex_);
    holder_ = nullptr;
    released_.NotifyAll();
  }

  bool VisitHolders(const Graph::Wait& wait, Graph::Visitor& visitor) const override {
    Lock lock(mutex_);
    if (holder_ == nullptr || satisfied_ == &wait) return false;
    visitor.Visit(*holder_);
    return true;
  }

 private:
  bool TryTake(const Graph::Wait* wait) {
    if (holder_ != nullptr) return false;
    holder_ = &Graph::ThisThread();
    satisfied_ = wait;
    return true;
  }

  mutable Mutex mutex_;
  internal::BasicCondition<RelacyAtomics> released_;
  Graph::Thread* holder_ = nullptr;
  const Graph::Wait* satisfied_ = nullptr;  // whose holder has not left the graph, perhaps
};

// The first creates something and needs the permit for it; the second has the permit and asks for
// what the first creates.
template <int kThreads>
class CircleThroughAPermit : public GraphModel<CircleThroughAPermit<kThreads>, kThreads> {
 public:
  void Prepare() {
    permit_.emplace();
    permits_refused_ = 0;
  }
  void Thread(int index) {
    if (index == 0) {
      Flight flight(0);
      this->Start(0, flight, index);
      TakeAndReturn();
      this->End(0, flight);
    } else if (index == 1) {
      if (permit_->Acquire()) {
        static_cast<void>(this->Ask(0));
        permit_->Release();
      }
    } else {
      TakeAndReturn();
    }
  }
  void Finish() {
    RL_ASSERT(this->refused() + permits_refused_ <= 1);
    permit_.reset();
  }

 private:
  void TakeAndReturn() {
    if (permit_->Acquire()) {
      permit_->Release();
    } else {
      ++permits_refused_;
    }
  }

  std::optional<Permit> permit_;
  int permits_refused_ = 0;
};

int RunAll() {
  constexpr int kRandom = 50'000;
  ModelRunner runner;
  runner.Bounded<Circle<2>>("a circle of two", 3, kRandom);
  runner.Bounded<Circle<3>>("a circle of three", 2, kRandom);
  runner.Bounded<AskAfterEnd>("asking after the end", 3, kRandom);
  runner.Bounded<ChainOfThree>("a chain of three", 2, kRandom);
  runner.Bounded<CircleThroughAPermit<2>>("a circle through a permit", 3, kRandom);
  runner.Bounded<CircleThroughAPermit<3>>("and a third that needs it", 2, kRandom);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
