// SPDX-License-Identifier: Apache-2.0
// The shipped single flight, as the thread-safe map uses it, under the model checker: of those that
// ask for one key at a time one creates, the others wait, and a failure wakes all of them and
// leaves nothing. A wake-up that is missing shows as a deadlock.
#include <array>
#include <optional>

#include "tests/model/concurrent_model.h"
#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"
#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/cache/internal/creation/single_flight.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/internal/slot/mutex.h"

namespace weakcache::model {
namespace {

// Each thread asks for the same key; Derived has Make(unsigned), which is thread i's factory.
template <typename Derived, int kThreads>
class FlightModel : public MapModel<Derived, kThreads> {
 public:
  void Thread(unsigned index) { Ask(index); }

 protected:
  // What the map returned stays until Finish.
  void Ask(unsigned index) {
    results_[index] = this->map().get_or_create(Key(1), [&] {
      RL_ASSERT(!creating_);  // one at a time
      creating_ = true;
      ++calls_;
      // Lets the others come meanwhile.
      static_cast<void>(step_.load(std::memory_order_relaxed));
      Handle made = static_cast<Derived*>(this)->Make(index);
      creating_ = false;
      return made;
    });
    if (results_[index].get() != nullptr) results_[index].get()->UseFor(1);
  }

  const Handle& result(unsigned index) const { return results_[index]; }
  void DropResults() {
    for (Handle& result : results_) result.reset();
  }
  int calls() const { return calls_; }
  // Nobody waits, nothing is in the index, and the next one tries again.
  void CheckNothingLeft() {
    this->map().CheckInvariantsForTesting();
    RL_ASSERT(this->map().size() == 0);
    RL_ASSERT(census.objects == 0);
    const Handle next = this->Create(1);
    RL_ASSERT(next.get() != nullptr);
  }

 private:
  RelacyAtomic<int> step_{0};
  std::array<Handle, kThreads> results_;
  int calls_ = 0;
  bool creating_ = false;
};

// All factories fail.
template <int kThreads>
class FlightsThatFail : public FlightModel<FlightsThatFail<kThreads>, kThreads> {
 public:
  static Handle Make(unsigned) { return Handle(); }
  void Finish() {
    RL_ASSERT(this->calls() >= 1);
    for (unsigned i = 0; i < kThreads; ++i) RL_ASSERT(this->result(i).get() == nullptr);
    this->CheckNothingLeft();
  }
};

// Thread 0's factory fails; the others' do not.
template <int kThreads>
class FailureAgainstSuccess : public FlightModel<FailureAgainstSuccess<kThreads>, kThreads> {
 public:
  static Handle Make(unsigned index) { return index == 0 ? Handle() : ExternalBlock::Make(1); }
  void Finish() {
    const Object* there = nullptr;
    for (unsigned i = 0; i < kThreads; ++i) {
      const Object* const object = this->result(i).get();
      if (object == nullptr) continue;
      RL_ASSERT(there == nullptr || there == object);
      there = object;
    }
    // A failure is one call, and a success that is held is the last.
    RL_ASSERT(this->calls() <= 2);
    RL_ASSERT(this->Get(1).get() == there);
    this->DropResults();
    this->CheckNothingLeft();
  }
};

// All succeed and hold what they get: one call, one object.
template <int kThreads>
class FlightsThatSucceed : public FlightModel<FlightsThatSucceed<kThreads>, kThreads> {
 public:
  static Handle Make(unsigned) { return ExternalBlock::Make(1); }
  void Finish() {
    RL_ASSERT(this->calls() == 1);
    for (unsigned i = 0; i < kThreads; ++i) {
      RL_ASSERT(this->result(i).get() != nullptr);
      RL_ASSERT(this->result(i).get() == this->result(0).get());
    }
    this->DropResults();
    this->CheckNothingLeft();
  }
};

// The object is created in the map's own slot, and everybody lets go of it at once: those that wait
// get it alive, and who comes too late creates another.
template <int kThreads>
class EmbeddedSlotsThatGo : public MapModel<EmbeddedSlotsThatGo<kThreads>, kThreads> {
 public:
  void Thread(unsigned) {
    const Handle created = this->Create(1);
    RL_ASSERT(created.get() != nullptr);
    created.get()->UseFor(1);
  }
  void Finish() { RL_ASSERT(this->Get(1).get() == nullptr); }
};

// While thread 0 creates, thread 1 inserts: both have one object in the end.
class CreationAgainstInsertion : public FlightModel<CreationAgainstInsertion, 2> {
 public:
  void Thread(unsigned index) {
    if (index == 0) {
      Ask(0);
      return;
    }
    handle(0) = ExternalBlock::Make(1);
    inserted_ = map().insert(Key(1), handle(0)).second;
    handle(1) = Get(1);
    RL_ASSERT(handle(1).get() != nullptr);
  }
  static Handle Make(unsigned) { return ExternalBlock::Make(1); }
  void Finish() {
    RL_ASSERT(result(0).get() == handle(1).get());
    RL_ASSERT(inserted_ == (result(0).get() == handle(0).get()));
    DropResults();
    for (size_t i = 0; i < 2; ++i) handle(i).reset();
    CheckNothingLeft();
  }

 private:
  bool inserted_ = false;
};

// Two keys with the same hash are created at a time; neither waits for the other's object.
class TwoKeysAtATime : public MapModel<TwoKeysAtATime, 3> {
 public:
  void Thread(unsigned index) {
    const int key = index == 0 ? 1 : 2;
    handle(index) = Create(key);
    RL_ASSERT(handle(index).get() != nullptr);
  }
  void Finish() {
    RL_ASSERT(handle(1).get() == handle(2).get());
    RL_ASSERT(census.objects == 2);
  }
};

// Creations come and go; the slot that one has kept for the next is used by one at a time.
template <int kThreads>
class CreationAfterCreation : public MapModel<CreationAfterCreation<kThreads>, kThreads> {
 public:
  void Prepare() {
    // Leaves two slots, one of them kept.
    for (int key : {3, 4}) this->handle(static_cast<size_t>(key - 3)) = this->Create(key);
    for (size_t i = 0; i < 2; ++i) this->handle(i).reset();
    this->map().purge();
    this->Create(3).get()->UseFor(3);
    this->map().purge();
  }
  void Thread(unsigned index) {
    const int key = static_cast<int>(index) + 1;
    for (int i = 0; i < (kThreads == 2 ? 2 : 1); ++i) {
      const Handle created = this->Create(key);
      RL_ASSERT(created.get() != nullptr);
      created.get()->UseFor(key);
      RL_ASSERT(this->Get(key).get() == created.get());
    }
  }
  void Finish() { RL_ASSERT(census.objects == 0); }
};

// Thread 0 creates what thread 1 replaces by an object that the map makes, too.
class CreationAgainstReplacement : public MapModel<CreationAgainstReplacement, 2> {
 public:
  void Thread(unsigned index) {
    if (index == 0) {
      handle(0) = Create(1);
      handle(0).get()->UseFor(1);
    } else {
      handle(1) = map().emplace_or_assign(Key(1), 1);
      RL_ASSERT(Get(1).get() == handle(1).get());
    }
  }
  void Finish() { RL_ASSERT(Get(1).get() == handle(1).get()); }
};

using PlainKey = RelacyPlain<int>;
using FlightsOfInts =
    internal::SingleFlight<internal::CreationResult<Handle>, PlainKey, RelacyAtomics>;
struct ShardWithSpare {
  internal::BasicMutex<RelacyAtomics> mutex;
  FlightsOfInts flights;
  RelacyPlain<int> spare{0};
};

// A creation is cancelled, after a look at its key, while another one may begin, which takes over
// what only one has at a time.
class CancelledFlight : public rl::test_suite<CancelledFlight, 3> {
 public:
  void before() {
    ++current_schedule;
    shard_.emplace();
  }
  void thread(unsigned index) {
    if (index == 1) {
      Lock lock(shard_->mutex);
      int keys = 0;
      shard_->flights.ForEachKey(/*hash=*/0, /*bits=*/0, [&](const PlainKey& key) {
        keys += key % 2 == 0 ? 1 : 2;
        return true;
      });
      RL_ASSERT(keys <= 1);
      shard_->flights.CancelAll();
    } else {
      Fly(index);
    }
  }
  void after() {
    RL_ASSERT(shard_->flights.empty());
    shard_.reset();
  }

 private:
  using Lock = internal::BasicMutexLock<RelacyAtomics>;
  void Fly(unsigned index) {
    FlightsOfInts::Flight flight(index);
    if (!shard_->flights.StartUncontended(flight)) return;
    const PlainKey key(static_cast<int>(index));
    shard_->spare = shard_->spare + 1;
    flight.SetKey(&key);
    Lock lock(shard_->mutex);
    if (flight.has_spares()) shard_->spare = shard_->spare + 1;
    shard_->flights.End(flight, internal::CreationResult<Handle>());
  }

  std::optional<ShardWithSpare> shard_;
};

// A wait that may end at any time.
struct WaitWithDeadline : internal::UnboundedWait {
  static constexpr bool has_deadline() { return true; }
  void StopLater(const internal::StopSource& /*unused*/) { stops = true; }

  bool stops = false;
};

// Thread 0 creates, all others wait until a deadline that comes at any time, and thread 0's caller
// leaves meanwhile, told by the last thread. Who leaves before the creation completes is not looked
// at by it, and the last to leave stops it.
template <int kThreads>
class LeavingAgainstCompletion
    : public rl::test_suite<LeavingAgainstCompletion<kThreads>, kThreads> {
 public:
  void before() {
    ++current_schedule;
    wait_graph.emplace();
    shard_.emplace();
    interest_.emplace(internal::SteadyTime::max(), internal::StopSource(internal::kNoStopState));
    joined_ = left_ = stops_ = 0;
    creating_ = false;
  }
  void thread(unsigned index) {
    if (index == 0) {
      Create();
    } else if (index + 1 < kThreads) {
      Await();
    } else {
      Lock lock(shard_->mutex);
      // Before the end, as a stop callback of the creating thread's.
      if (!creating_) return;
      ++left_;
      if (interest_->CallerLeaves()) ++stops_;
    }
  }
  void after() {
    RL_ASSERT(shard_->flights.empty());
    interest_.reset();
    shard_.reset();
    wait_graph.reset();
  }

 private:
  using Lock = internal::BasicMutexLock<RelacyAtomics>;

  void Create() {
    const PlainKey key(1);
    FlightsOfInts::Flight flight(0);
    flight.SetInterest(&*interest_);
    {
      Lock lock(shard_->mutex);
      RL_ASSERT(shard_->flights.Start(flight, shard_->flights.Find(0, IsAny)));
      flight.SetKey(&key);
      creating_ = true;
      left_ = joined_ = 0;
    }
    Lock lock(shard_->mutex);
    creating_ = false;
    // Whoever waits, the caller included, has not been told to stop; nobody does, so has been.
    const bool nobody_waits = left_ == joined_ + 1;
    RL_ASSERT(!nobody_waits || stops_ > 0);
    internal::CreationResult<Handle> result;
    shard_->flights.End(flight, result);
  }
  void Await() {
    Lock lock(shard_->mutex);
    const auto found = shard_->flights.Find(0, IsAny);
    if (found.flight == nullptr) return;
    using Outcome = FlightsOfInts::AwaitOutcome;
    WaitWithDeadline wait;
    internal::CreationResult<Handle> result;
    ++joined_;
    const Outcome outcome =
        shard_->flights.Await(*found.flight, shard_->mutex, result, nullptr, wait);
    RL_ASSERT(outcome != Outcome::kCircular);
    if (outcome == Outcome::kCompleted) {
      RL_ASSERT(!creating_ && !wait.stops);
      return;
    }
    RL_ASSERT(creating_);
    ++left_;
    if (!wait.stops) return;
    // It was the last.
    RL_ASSERT(left_ == joined_ + 1);
    ++stops_;
  }
  static constexpr auto IsAny = [](int) { return true; };

  std::optional<ShardWithSpare> shard_;
  std::optional<internal::BasicInterest<RelacyAtomics>> interest_;
  // Guarded by the shard's mutex: whether the creation is under way; how many have joined it, have
  // left it, and were the last to.
  bool creating_ = false;
  int joined_ = 0;
  int left_ = 0;
  int stops_ = 0;
};

// Thread 1 waits until it is cancelled; the creation does not end before.
class CancelledWait : public rl::test_suite<CancelledWait, 2> {
 public:
  void before() {
    ++current_schedule;
    wait_graph.emplace();
    shard_.emplace();
    cancelled_.emplace(0);
    left_.emplace(0);
  }
  void thread(unsigned index) {
    if (index == 1) {
      Await();
      left_->store(1, std::memory_order_release);
      return;
    }
    const PlainKey key(1);
    FlightsOfInts::Flight flight(0);
    {
      Lock lock(shard_->mutex);
      RL_ASSERT(shard_->flights.Start(flight, shard_->flights.Find(0, IsAny)));
      flight.SetKey(&key);
    }
    cancelled_->store(1, std::memory_order_release);
    shard_->flights.WakeAll(shard_->mutex);
    while (left_->load(std::memory_order_acquire) == 0) RelacyAtomics::Pause(1);
    Lock lock(shard_->mutex);
    shard_->flights.End(flight, internal::CreationResult<Handle>());
  }
  void after() {
    left_.reset();
    cancelled_.reset();
    shard_.reset();
    wait_graph.reset();
  }

 private:
  using Lock = internal::BasicMutexLock<RelacyAtomics>;
  struct CancellableWait : internal::UnboundedWait {
    bool cancelled() const { return flag->load(std::memory_order_acquire) != 0; }
    const RelacyAtomic<int>* flag;
  };

  void Await() {
    Lock lock(shard_->mutex);
    const auto found = shard_->flights.Find(0, IsAny);
    if (found.flight == nullptr) return;
    CancellableWait wait;
    wait.flag = &*cancelled_;
    internal::CreationResult<Handle> result;
    RL_ASSERT(shard_->flights.Await(*found.flight, shard_->mutex, result, nullptr, wait) ==
              FlightsOfInts::AwaitOutcome::kLeft);
  }
  static constexpr auto IsAny = [](int) { return true; };

  std::optional<ShardWithSpare> shard_;
  std::optional<RelacyAtomic<int>> cancelled_;
  std::optional<RelacyAtomic<int>> left_;
};

int RunAll() {
  constexpr int kRandom = 20'000;
  ModelRunner runner;
  runner.Bounded<FlightsThatFail<2>>("a failing flight", 2, kRandom);
  runner.Bounded<FlightsThatFail<3>>("a failing flight, two wait", 1, kRandom);
  runner.Bounded<FailureAgainstSuccess<2>>("failure against success", 1, kRandom);
  runner.Bounded<FailureAgainstSuccess<3>>("failure against two successes", 0, kRandom);
  runner.Bounded<FlightsThatSucceed<2>>("a flight that succeeds", 1, kRandom);
  runner.Bounded<FlightsThatSucceed<3>>("a flight that succeeds, two wait", 0, kRandom);
  runner.Bounded<EmbeddedSlotsThatGo<2>>("embedded slots that go", 1, kRandom);
  runner.Bounded<EmbeddedSlotsThatGo<3>>("embedded slots that go, two wait", 0, kRandom);
  runner.Bounded<CreationAgainstInsertion>("creation against insertion", 1, kRandom);
  runner.Bounded<TwoKeysAtATime>("two keys at a time", 1, kRandom);
  // With one preemption it has three million schedules.
  const unsigned preemptions = testing::AllRounds() ? 1 : 0;
  runner.Bounded<CreationAfterCreation<2>>("creation after creation", preemptions, 5 * kRandom);
  // Even without any preemption it has 160,000 schedules.
  if (testing::AllRounds()) {
    runner.Bounded<CreationAfterCreation<3>>("three creations", 0, kRandom);
  }
  runner.Bounded<CancelledFlight>("a cancelled flight", 2, 5 * kRandom);
  runner.Bounded<LeavingAgainstCompletion<3>>("leaving against completion", 4, 5 * kRandom);
  runner.Bounded<LeavingAgainstCompletion<4>>("two leave against completion", 2, 5 * kRandom);
  runner.Bounded<CancelledWait>("a cancelled wait", 2, kRandom);
  runner.Bounded<CreationAgainstReplacement>("creation against replacement", 1, kRandom);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
