// SPDX-License-Identifier: Apache-2.0
// The graph of waiting threads, as the single flight and the load limiter use it, under the model
// checker: a circle of threads that wait for each other's creations is refused to one of them at
// least, however they meet; nothing else is refused; and a circle through a permit is opened. A
// circle that is missed shows as a deadlock.
#include <optional>

#include "tests/model/concurrent_model.h"
#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/creation/wait_graph.h"
#include "weakcache/cache/internal/loading/load_limiter.h"
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

enum class Answer { kNothingToWaitFor, kLookAgain, kWaited, kRefused };

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
    StartWithoutKey(index, flight);
    flight.SetKey(&key);
  }
  void StartWithoutKey(int index, Flight& flight) {
    Shard& shard = *shards_[index];
    Lock lock(shard.mutex);
    RL_ASSERT(shard.flights.Start(flight, shard.flights.Find(0, IsAny)));
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
    if (found.key_pending != nullptr) {
      if (shard.flights.AwaitKey(*found.key_pending, lock, nullptr)) return Answer::kLookAgain;
      ++refused_;
      return Answer::kRefused;
    }
    if (found.flight == nullptr) return Answer::kNothingToWaitFor;
    internal::CreationResult<Handle> result;
    if (shard.flights.Await(*found.flight, shard.mutex, result, nullptr)) return Answer::kWaited;
    ++refused_;
    return Answer::kRefused;
  }
  // The same, for a thread that does not want that key once it knows it.
  Answer AskForKey(int index) {
    Shard& shard = *shards_[index];
    Lock lock(shard.mutex);
    const auto found = shard.flights.Find(0, [](int) { return false; });
    if (found.key_pending == nullptr) return Answer::kNothingToWaitFor;
    if (shard.flights.AwaitKey(*found.key_pending, lock, nullptr)) return Answer::kLookAgain;
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

// The first asks for the second's creation before it has a key, as its key's copy constructor may.
// The second asks for the first's.
class CircleThroughAKey : public GraphModel<CircleThroughAKey, 2> {
 public:
  void Thread(int index) {
    Flight flight(0);
    if (index == 0) {
      StartWithoutKey(0, flight);
      static_cast<void>(Ask(1));
      flight.SetKey(&index);
    } else {
      Start(1, flight, index);
      while (Ask(0) == Answer::kLookAgain) {
      }
    }
    End(index, flight);
  }
  void Finish() { RL_ASSERT(refused() <= 1); }
};

// As before, but the first asks after it has got its key, when the second has nothing to wait for
// any more that the first has.
template <bool kStartsTwice>
class KeyThatCameMeanwhile : public GraphModel<KeyThatCameMeanwhile<kStartsTwice>, 2> {
 public:
  void Thread(int index) {
    Flight flight(0);
    if (index == 0) {
      this->StartWithoutKey(0, flight);
      if (kStartsTwice) {
        this->End(0, flight);
        this->StartWithoutKey(0, flight);
      }
      flight.SetKey(&index);
      RL_ASSERT(this->Ask(1) != Answer::kRefused);
    } else {
      this->Start(1, flight, index);
      RL_ASSERT(this->AskForKey(0) != Answer::kRefused);
    }
    this->End(index, flight);
  }
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

using Limiter = internal::BasicLoadLimiter<RelacyAtomics>;
using LoadPermit = internal::BasicLoadPermit<RelacyAtomics>;

void Acquire(LoadPermit& permit) {
  while (!permit.TryAcquire()) permit.AwaitChange();
}
// For a thread that nobody waits for any more: no search goes on that has reached it, so it may
// end.
void ReleaseAndEnd(LoadPermit& permit) {
  permit.Release();
  RL_ASSERT(!Graph::ThisThread().is_reached);
}

// Something that happens once, which the graph does not know of.
class Event {
 public:
  void Happen() {
    Lock lock(mutex_);
    happened_ = true;
    condition_.NotifyAll();
  }
  void Await() {
    Lock lock(mutex_);
    condition_.Wait(mutex_, [&] { return happened_; });
  }

 private:
  Mutex mutex_;
  internal::BasicCondition<RelacyAtomics> condition_;
  bool happened_ = false;
};

// The first creates something and needs the permit for it; the second has the permit and asks for
// what the first creates. Nobody is refused: the first gets a permit beyond the limit, if need be.
template <int kThreads>
class CircleThroughAPermit : public GraphModel<CircleThroughAPermit<kThreads>, kThreads> {
 public:
  void Prepare() { limiter_.emplace(1); }
  void Thread(int index) {
    if (index == 0) {
      Flight flight(0);
      this->Start(0, flight, index);
      {
        LoadPermit permit(*limiter_);
        Acquire(permit);
      }
      this->End(0, flight);
    } else {
      LoadPermit permit(*limiter_);
      Acquire(permit);
      if (index == 1) static_cast<void>(this->Ask(0));
      ReleaseAndEnd(permit);
    }
  }
  void Finish() {
    RL_ASSERT(this->refused() == 0);
    limiter_.reset();
  }

 private:
  std::optional<Limiter> limiter_;
};

// Two limiters: who has a permit of the one needs one of the other.
class CircleOfPermits : public GraphModel<CircleOfPermits, 2> {
 public:
  void Prepare() {
    for (auto& limiter : limiters_) limiter.emplace(1);
  }
  void Thread(int index) {
    LoadPermit outer(*limiters_[index]);
    Acquire(outer);
    LoadPermit inner(*limiters_[1 - index]);
    Acquire(inner);
    LoadPermit nested(*limiters_[index]);
    RL_ASSERT(nested.TryAcquire());
    nested.Release();
    inner.Release();
    outer.Release();
  }
  void Finish() {
    for (auto& limiter : limiters_) limiter.reset();
  }

 private:
  std::optional<Limiter> limiters_[2];
};

// Nobody exceeds the limit without need.
template <int kThreads, int kLimit>
class LoadsThatWaitForNothing
    : public GraphModel<LoadsThatWaitForNothing<kThreads, kLimit>, kThreads> {
 public:
  void Prepare() { limiter_.emplace(kLimit); }
  void Thread(int) {
    LoadPermit permit(*limiter_);
    Acquire(permit);
    RL_ASSERT(++running_ <= kLimit);
    static_cast<void>(step_.load(std::memory_order_relaxed));
    --running_;
    ReleaseAndEnd(permit);
  }
  void Finish() {
    RL_ASSERT(running_ == 0);
    limiter_.reset();
  }

 private:
  std::optional<Limiter> limiter_;
  RelacyAtomic<int> step_{0};
  int running_ = 0;
};

// The permit is not returned before the second thread has got its object, which the third one puts,
// or else the first one loads inside its load.
template <int kThreads>
class ObjectThatIsPut : public GraphModel<ObjectThatIsPut<kThreads>, kThreads> {
 public:
  void Prepare() {
    limiter_.emplace(1);
    has_permit_.emplace();
    found_.emplace();
    object_.emplace(0);
  }
  void Thread(int index) {
    LoadPermit permit(*limiter_);
    if (index == 0) {
      Acquire(permit);
      has_permit_->Happen();
      if (kThreads == 2) {
        LoadPermit nested(*limiter_);
        RL_ASSERT(nested.TryAcquire());
        object_->store(1, std::memory_order_release);
      }
      found_->Await();
    } else if (index == 1) {
      has_permit_->Await();
      while (object_->load(std::memory_order_acquire) == 0) {
        RL_ASSERT(!permit.TryAcquire());
        permit.AwaitChange();
      }
      found_->Happen();
    } else {
      object_->store(1, std::memory_order_release);
      limiter_->NotifyChange();
    }
  }
  void Finish() {
    limiter_.reset();
    has_permit_.reset();
    found_.reset();
    object_.reset();
  }

 private:
  std::optional<Limiter> limiter_;
  std::optional<Event> has_permit_;
  std::optional<Event> found_;
  std::optional<RelacyAtomic<int>> object_;
};

// The first thread's load waits for the second's, which it has made, in a way that nobody sees.
template <int kThreads>
class TaskOfALoad : public GraphModel<TaskOfALoad<kThreads>, kThreads> {
 public:
  void Prepare() {
    limiter_.emplace(1);
    made_.emplace();
    done_.emplace();
  }
  void Thread(int index) {
    LoadPermit permit(*limiter_);
    if (index == 0) {
      Acquire(permit);
      maker_ = limiter_->CurrentLoad();
      made_->Happen();
      done_->Await();
    } else if (index == 1) {
      made_->Await();
      const typename Limiter::TaskScope scope(*limiter_, maker_);
      Acquire(permit);
      permit.Release();
      done_->Happen();
    } else {
      Acquire(permit);
    }
  }
  void Finish() {
    limiter_.reset();
    made_.reset();
    done_.reset();
  }

 private:
  std::optional<Limiter> limiter_;
  Limiter::LoadId maker_ = Limiter::kNoLoad;
  std::optional<Event> made_;
  std::optional<Event> done_;
};

int RunAll() {
  constexpr int kRandom = 50'000;
  ModelRunner runner;
  runner.Bounded<Circle<2>>("a circle of two", 3, kRandom);
  runner.Bounded<Circle<3>>("a circle of three", 2, kRandom);
  runner.Bounded<CircleThroughAKey>("a circle through a key that is pending", 3, kRandom);
  runner.Bounded<KeyThatCameMeanwhile<false>>("a key that comes meanwhile", 3, kRandom);
  runner.Bounded<KeyThatCameMeanwhile<true>>("a flight that starts twice", 3, kRandom);
  runner.Bounded<AskAfterEnd>("asking after the end", 3, kRandom);
  runner.Bounded<ChainOfThree>("a chain of three", 2, kRandom);
  runner.Bounded<CircleThroughAPermit<2>>("a circle through a permit", 3, kRandom);
  runner.Bounded<CircleThroughAPermit<3>>("and a third that needs it", 2, kRandom);
  runner.Bounded<CircleOfPermits>("a circle of permits", 3, kRandom);
  runner.Bounded<LoadsThatWaitForNothing<2, 1>>("one load at a time", 3, kRandom);
  runner.Bounded<LoadsThatWaitForNothing<3, 1>>("one of three loads at a time", 2, kRandom);
  runner.Bounded<LoadsThatWaitForNothing<3, 2>>("two loads at a time", 2, kRandom);
  runner.Bounded<ObjectThatIsPut<2>>("an object that is put", 3, kRandom);
  runner.Bounded<ObjectThatIsPut<3>>("an object that a third puts", 2, kRandom);
  runner.Bounded<TaskOfALoad<2>>("a task of a load", 3, kRandom);
  runner.Bounded<TaskOfALoad<3>>("a task of a load and another load", 2, kRandom);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
