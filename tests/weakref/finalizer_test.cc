// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/finalizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/internal/finalizer_state.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocations;
using testing::Tracked;

// The function's copy takes the caller's reference away: what is registered still runs.
TEST(FinalizerTest, ACopyMayTakeTheCallersReference) {
  struct Taker {
    Taker(Ref<Tracked>* victim, int* calls) : victim(victim), calls(calls) {}
    Taker(const Taker& other) : victim(other.victim), calls(other.calls) { victim->reset(); }
    void operator()() const { ++*calls; }
    Ref<Tracked>* victim;
    int* calls;
  };
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  const Taker taker(&ref, &calls);
  Finalize(ref, taker);
  EXPECT_EQ(ref, nullptr);
  EXPECT_EQ(calls, 1);
}

TEST(FinalizerTest, RunsOnceAfterTheReferentHasGoneThoughNobodyKeepsTheHandle) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const WeakRef<Tracked> weak = ref;
  int calls = 0;
  Finalize(ref, [&] {
    ++calls;
    EXPECT_TRUE(weak.expired());
    EXPECT_EQ(Tracked::live(), 0);
  });
  Ref<Tracked> copy = ref;
  ref.reset();
  EXPECT_EQ(calls, 0);
  copy.reset();
  EXPECT_EQ(calls, 1);
}

TEST(FinalizerTest, ExampleOfTheHeader) {
  static int released = 0;
  const auto release_texture = [](int texture_id) { released = texture_id; };
  const std::string path = ::testing::TempDir() + "/finalizer_test_no_such_file";
  const int texture_id = 5;
  Ref<Tracked> image = MakeRef<Tracked>(1);
  auto finalizer = Finalize(image, [path] { return std::remove(path.c_str()); });
  Finalize(image, release_texture, texture_id);
  std::optional<int> result = finalizer();
  EXPECT_NE(result, 0);
  EXPECT_NE(result, std::nullopt);
  image.reset();
  EXPECT_EQ(released, 5);
}

TEST(FinalizerTest, AliveUntilItRuns) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  bool alive_in_callback = true;
  Finalizer<std::function<void()>> seen;
  const auto finalizer = Finalize(ref, std::function<void()>([&] {
                                    ++calls;
                                    alive_in_callback = seen.alive();
                                  }));
  seen = finalizer;
  EXPECT_TRUE(finalizer.alive());
  ref.reset();
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(alive_in_callback);
  EXPECT_FALSE(finalizer.alive());
  EXPECT_FALSE(finalizer());
  EXPECT_FALSE(finalizer.detach().has_value());
  EXPECT_EQ(finalizer.peek(), nullptr);
  EXPECT_EQ(calls, 1);
}

TEST(FinalizerTest, DefaultHandleIsDead) {
  const Finalizer<int (*)()> finalizer;
  EXPECT_FALSE(finalizer.alive());
  EXPECT_EQ(finalizer(), std::nullopt);
  EXPECT_EQ(finalizer.detach(), std::nullopt);
  EXPECT_EQ(finalizer.peek(), nullptr);
}

TEST(FinalizerTest, CallNowReturnsTheResultOnce) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  const auto finalizer = Finalize(ref, [&] { return std::to_string(++calls); });
  const auto copy = finalizer;
  EXPECT_EQ(copy(), "1");
  EXPECT_EQ(finalizer(), std::nullopt);
  EXPECT_FALSE(finalizer.alive());
  EXPECT_NE(ref, nullptr);
  ref.reset();
  EXPECT_EQ(calls, 1);
}

TEST(FinalizerTest, ResultsByTheirKind) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  static int target = 0;
  EXPECT_TRUE(Finalize(ref, [] {})());
  EXPECT_EQ(&Finalize(ref, []() -> int& { return target; })().value().get(), &target);
  EXPECT_EQ(*Finalize(ref, [] { return std::make_unique<int>(5); })().value(), 5);
  EXPECT_EQ(Finalize(ref, []() -> const std::string { return "6"; })(), "6");
  EXPECT_TRUE(Finalize(ref, [] { return std::optional<int>(); })().has_value());
}

TEST(FinalizerTest, CallNowDestroysTheCaptures) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  Ref<Tracked> captured = MakeRef<Tracked>(2);
  const auto finalizer = Finalize(ref, [captured] {});
  captured.reset();
  EXPECT_EQ(Tracked::live(), 2);
  finalizer();
  EXPECT_EQ(Tracked::live(), 1);
}

TEST(FinalizerTest, ExpiryDestroysTheCapturesThoughAHandleStays) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  Ref<Tracked> captured = MakeRef<Tracked>(2);
  const auto finalizer = Finalize(ref, [captured] {});
  captured.reset();
  ref.reset();
  EXPECT_EQ(Tracked::live(), 0);
}

TEST(FinalizerTest, CallNowMayLetGoOfItsOwnHandleAndCallItselfAgain) {
  const int64_t before = LiveAllocations();
  {
    Ref<Tracked> ref = MakeRef<Tracked>(1);
    Finalizer<std::function<int()>> finalizer;
    bool ran_again = true;
    finalizer = Finalize(ref, std::function<int()>([&] {
                           ran_again = finalizer().has_value();
                           finalizer = {};
                           ref.reset();
                           return 7;
                         }));
    EXPECT_EQ(finalizer(), 7);
    EXPECT_FALSE(ran_again);
  }
  EXPECT_EQ(LiveAllocations(), before);
}

TEST(FinalizerTest, CallNowThrowsToTheCallerAndHasRun) {
  const int64_t before = LiveAllocations();
  {
    Ref<Tracked> ref = MakeRef<Tracked>(1);
    const Ref<Tracked> captured = MakeRef<Tracked>(2);
    const auto finalizer = Finalize(ref, [captured] { throw std::runtime_error("now"); });
    EXPECT_EQ(captured.use_count(), 2u);
    EXPECT_THROW(finalizer(), std::runtime_error);
    EXPECT_EQ(captured.use_count(), 1u);
    EXPECT_FALSE(finalizer.alive());
    EXPECT_FALSE(finalizer());
  }
  EXPECT_EQ(LiveAllocations(), before);
}

TEST(FinalizerTest, DetachGivesTheFunctionBack) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  const auto finalizer = Finalize(ref, [&calls, box = std::make_unique<int>(5)] {
    ++calls;
    return *box;
  });
  auto function = finalizer.detach();
  ASSERT_TRUE(function.has_value());
  EXPECT_FALSE(finalizer.alive());
  EXPECT_FALSE(finalizer.detach().has_value());
  ref.reset();
  EXPECT_EQ(calls, 0);
  EXPECT_EQ((*function)(), 5);
}

TEST(FinalizerTest, DetachLeavesNoCaptureBehind) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  const Ref<Tracked> captured = MakeRef<Tracked>(2);
  const auto finalizer = Finalize(ref, [captured] {});
  finalizer.detach();
  EXPECT_EQ(captured.use_count(), 1u);
}

TEST(FinalizerTest, PeekGivesTheReferentWhileAlive) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const auto finalizer = Finalize(ref, [] {});
  const Finalizer<decltype(finalizer)::callback_type> untyped = finalizer;
  EXPECT_EQ(finalizer.peek(), ref);
  EXPECT_TRUE(untyped.peek().owner_equal(ref));
  EXPECT_EQ(ref.use_count(), 1u);
  finalizer.detach();
  EXPECT_EQ(finalizer.peek(), nullptr);
  EXPECT_EQ(untyped.peek(), nullptr);
}

TEST(FinalizerTest, ArraysAndPartsAndReferencesThatPointNowhere) {
  int calls = 0;
  Ref<int[]> array = MakeRef<int[]>(3);
  const Ref<int> part(array, &array[1]), nowhere(array, nullptr);
  const auto of_array = Finalize(array, [&] { ++calls; });
  const auto of_part = Finalize(WeakRef<int>(part), [&] { ++calls; });
  const auto of_nothing = Finalize(WeakRef<int>(nowhere), [&] { ++calls; });
  EXPECT_EQ(of_array.peek(), array);
  EXPECT_EQ(of_part.peek(), part);
  EXPECT_TRUE(of_nothing.alive());
  EXPECT_EQ(of_nothing.peek(), nullptr);
}

TEST(FinalizerTest, PeekDuringTheDestructorIsNull) {
  struct Peeking {
    ~Peeking() {
      EXPECT_TRUE(finalizer->alive());
      EXPECT_EQ(finalizer->peek(), nullptr);
    }
    const Finalizer<void (*)()>* finalizer = nullptr;
  };
  Ref<Peeking> ref = MakeRef<Peeking>();
  const Finalizer<void (*)()> finalizer = Finalize(ref, static_cast<void (*)()>([] {}));
  ref->finalizer = &finalizer;
  ref.reset();
  EXPECT_FALSE(finalizer.alive());
}

TEST(FinalizerTest, NewestFirstAmongAllWatchers) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  std::string order;
  Finalize(ref, [&] { order += 'a'; });
  const ExpiryRegistration registration = OnExpire(ref, [&] { order += 'b'; });
  Finalize(ref, [&] { order += 'c'; });
  ref.reset();
  EXPECT_EQ(order, "cba");
}

TEST(FinalizerTest, HandlesCompareByFinalizer) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  const auto function = [] {};
  const auto a = Finalize(ref, function);
  const auto b = Finalize(ref, function);
  const auto copy = a;
  const Finalizer<std::decay_t<decltype(function)>> untyped = a;
  EXPECT_EQ(a, copy);
  EXPECT_EQ(untyped, a);
  EXPECT_NE(a, b);
}

TEST(FinalizerTest, MovingAHandleLeavesADeadOne) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  auto a = Finalize(ref, [] {});
  auto b = std::move(a);
  EXPECT_FALSE(a.alive());  // NOLINT(bugprone-use-after-move): what is asserted
  EXPECT_TRUE(b.alive());
  a = std::move(b);
  EXPECT_TRUE(a.alive());
  swap(a, b);
  EXPECT_TRUE(b.alive());
}

TEST(FinalizerTest, WeakReferenceWillDoUntilItHasExpired) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const WeakRef<Tracked> weak = ref;
  int calls = 0;
  Finalize(weak, [&] { ++calls; });
  Finalize(
      weak, [&](int more) { calls += more; }, 10);
  ref.reset();
  EXPECT_EQ(calls, 11);
  const auto too_late = Finalize(weak, [&] { ++calls; });
  EXPECT_FALSE(too_late.alive());
  EXPECT_EQ(calls, 11);
}

void Append(std::string* log, const std::string& text) { *log += text; }

TEST(FinalizerTest, BoundArgumentsArePassedOn) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  std::string log;
  Finalize(ref, Append, &log, "array ");
  Finalize(
      ref, [&](std::unique_ptr<int> box) { log += std::to_string(*box) + " "; },
      std::make_unique<int>(3));
  Finalize(ref, &std::string::clear, std::ref(log));
  Finalize(ref, Append, FinalizerOptions(), &log, "lost");
  ref.reset();
  EXPECT_EQ(log, "3 array ");
}

TEST(FinalizerTest, BoundArgumentsAreCopiedAndComeBackWithTheFunction) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  std::string log, text = "before";
  const auto finalizer = Finalize(ref, Append, &log, text);
  text = "after";
  auto bound = finalizer.detach();
  ASSERT_TRUE(bound.has_value());
  EXPECT_EQ(bound->function(), &Append);
  EXPECT_EQ(std::get<1>(bound->arguments()), "before");
  std::move (*bound)();
  EXPECT_EQ(log, "before");
}

TEST(FinalizerTest, ReferencesToOtherObjectsMayBeBound) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  Ref<Tracked> other = MakeRef<Tracked>(2);
  int seen = 0;
  Finalize(
      ref, [&](const Ref<Tracked>& argument) { seen = argument->id(); }, other);
  Finalize(
      ref, [&](const WeakRef<Tracked>& self) { EXPECT_TRUE(self.expired()); },
      WeakRef<Tracked>(ref));
  other.reset();
  ref.reset();
  EXPECT_EQ(seen, 2);
  EXPECT_EQ(Tracked::live(), 0);
}

TEST(FinalizerTest, CapturedReferenceKeepsTheReferentUntilDetached) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const auto finalizer = Finalize(ref, [ref] {});
  const WeakRef<Tracked> weak = ref;
  ref.reset();
  EXPECT_TRUE(finalizer.alive());
  EXPECT_FALSE(weak.expired());
  finalizer.detach();
  EXPECT_TRUE(weak.expired());
}

TEST(FinalizerTest, ChainOfObjectsFinalizesEach) {
  struct Link {
    Ref<Link> next;
  };
  int calls = 0;
  Ref<Link> first;
  for (int i = 0; i < 1000; ++i) {
    first = MakeRef<Link>(Link{std::move(first)});
    Finalize(first, [&] { ++calls; });
  }
  first.reset();
  EXPECT_EQ(calls, 1000);
}

std::string handled_errors;

TEST(FinalizerTest, ThrowingAtExpiryGoesToTheHandlerAndTheOthersRun) {
  SetExpiryErrorHandler([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& exception) {
      handled_errors += exception.what();
    }
  });
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  Finalize(ref, [&] { ++calls; });
  Finalize(ref, [] { throw std::runtime_error("expiry "); });
  Finalize(ref, [&] { ++calls; });
  ref.reset();
  EXPECT_EQ(calls, 2);
  const Ref<Tracked> alive = MakeRef<Tracked>(2);
  Finalize(alive, [&] { ++calls; }, {.at_exit = true});
  Finalize(alive, [] { throw std::runtime_error("exit"); }, {.at_exit = true});
  EXPECT_EQ(RunFinalizersAtExit(), 2u);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(handled_errors, "expiry exit");
  SetExpiryErrorHandler(nullptr);
}

TEST(FinalizerTest, AtExitRunsWhatAskedForItNewestFirstAcrossObjects) {
  Ref<Tracked> first = MakeRef<Tracked>(1);
  Ref<Tracked> second = MakeRef<Tracked>(2);
  std::string order;
  const auto a = Finalize(first, [&] { order += 'a'; }, {.at_exit = true});
  Finalize(second, [&] { order += 'b'; }, {.at_exit = true});
  const auto c = Finalize(first, [&] { order += 'c'; });
  const auto d = Finalize(first, [&] { order += 'd'; }, {.at_exit = true});
  const auto e = Finalize(first, [&] { order += 'e'; }, {.at_exit = true});
  const auto f = Finalize(first, Append, {.at_exit = true}, &order, "f");
  e.detach();
  EXPECT_EQ(RunFinalizersAtExit(), 4u);
  EXPECT_EQ(order, "fdba");
  EXPECT_FALSE(a.alive());
  EXPECT_TRUE(c.alive());
  EXPECT_EQ(RunFinalizersAtExit(), 0u);
  second.reset();
  first.reset();
  EXPECT_EQ(order, "fdbac");
}

TEST(FinalizerTest, AtExitRunsNothingThatHasRun) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const Ref<Tracked> other = MakeRef<Tracked>(2);
  int calls = 0;
  Finalize(ref, [&] { ++calls; }, {.at_exit = true});
  const auto called = Finalize(other, [&] { ++calls; }, {.at_exit = true});
  called();
  ref.reset();
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(RunFinalizersAtExit(), 0u);
  EXPECT_EQ(calls, 2);
}

TEST(FinalizerTest, AtExitFunctionsMayRegisterExpireAndRunOthers) {
  Ref<Tracked> first = MakeRef<Tracked>(1);
  Ref<Tracked> second = MakeRef<Tracked>(2);
  std::string order;
  Finalize(second, [&] { order += "expired "; }, {.at_exit = true});
  Finalize(first,
           [&] {
             Finalize(first, [&] { order += "late"; }, {.at_exit = true});
             second.reset();
             EXPECT_EQ(RunFinalizersAtExit(), 1u);
             order += "; outer";
           },
           {.at_exit = true});
  EXPECT_EQ(RunFinalizersAtExit(), 1u);
  EXPECT_EQ(order, "expired late; outer");
}

TEST(FinalizerTest, AtExitRunsWhatIsRegisteredMeanwhile) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  Finalize(ref, [&] { Finalize(ref, [&] { ++calls; }, {.at_exit = true}); }, {.at_exit = true});
  EXPECT_EQ(RunFinalizersAtExit(), 2u);
  EXPECT_EQ(calls, 1);
}

// In any position of the registry.
TEST(FinalizerTest, DetachedFinalizersLeaveTheExitRegistry) {
  for (int detached = 0; detached < 3; ++detached) {
    const Ref<Tracked> ref = MakeRef<Tracked>(1);
    std::string order;
    std::vector<std::function<void()>> detach;
    for (int i = 0; i < 3; ++i) {
      const auto finalizer =
          Finalize(ref, [&order, i] { order += static_cast<char>('0' + i); }, {.at_exit = true});
      detach.emplace_back([finalizer] { finalizer.detach(); });
    }
    detach[detached]();
    EXPECT_EQ(RunFinalizersAtExit(), 2u);
    std::string expected = "210";
    std::erase(expected, static_cast<char>('0' + detached));
    EXPECT_EQ(order, expected);
  }
}

// At once, not only when the referent goes or at exit.
TEST(FinalizerTest, EverythingIsGivenBack) {
  RunFinalizersAtExit();
  const Ref<Tracked> exits = MakeRef<Tracked>(1);
  const int64_t before = LiveAllocations();
  for (const bool at_exit : {false, true}) {
    const auto function = [] {};
    Ref<Tracked> ref = MakeRef<Tracked>(1);
    Finalize(ref, function, {.at_exit = at_exit})();
    Finalize(ref, function, {.at_exit = at_exit}).detach();
    EXPECT_EQ(ref.weak_count(), 0u);
    EXPECT_EQ(ref.watcher_count(), 0u);
    Finalize(ref, function, {.at_exit = at_exit});
    EXPECT_EQ(ref.watcher_count(), 1u);
    ref.reset();
    EXPECT_EQ(LiveAllocations(), before);
  }
  Finalize(exits, [] {}, {.at_exit = true});
  RunFinalizersAtExit();
  EXPECT_EQ(LiveAllocations(), before);
  EXPECT_EQ(exits.watcher_count(), 0u);
}

TEST(FinalizerTest, FailedAllocationRegistersNothing) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const std::string text(100, 'x');  // two allocations: the finalizer, and its copy of the text
  const int64_t before = LiveAllocations();
  int calls = 0;
  const int failures = testing::FailEachAllocation(
      [&] {
        Finalize(
            ref, [&](const std::string& bound) { calls += bound == text; }, {.at_exit = true},
            text);
      },
      [&] {
        EXPECT_EQ(LiveAllocations(), before);
        EXPECT_EQ(ref.weak_count(), 0u);
        EXPECT_EQ(RunFinalizersAtExit(), 0u);
      });
  EXPECT_EQ(failures, 2);
  ref.reset();
  EXPECT_EQ(calls, 1);
}

template <typename Reference, typename... Arguments>
concept Finalizable = requires(Reference& reference, Arguments... arguments) {
  Finalize(reference, arguments...);
};

TEST(FinalizerTest, ForbiddenUsesDoNotCompile) {
  using Function = void (*)();
  using Handle = Finalizer<Function, Tracked>;
  static_assert(std::is_nothrow_copy_constructible_v<Handle>);
  static_assert(std::is_nothrow_move_constructible_v<Handle>);
  static_assert(std::is_convertible_v<Handle, Finalizer<Function>>);
  static_assert(!std::is_convertible_v<Finalizer<Function>, Handle>, "the type was forgotten");
  static_assert(!std::is_convertible_v<Handle, Finalizer<Function, const Tracked>>,
                "to a base it would have to look at an object that may be dead");
  static_assert(Finalizable<Ref<Tracked>, Function>);
  static_assert(Finalizable<WeakRef<Tracked>, Function>);
  static_assert(!Finalizable<Tracked*, Function>, "a raw pointer has no expiry");
  static_assert(!Finalizable<std::shared_ptr<Tracked>, Function>, "nor has a shared_ptr");
}

TEST(FinalizerDeathTest, MisuseNamesTheCall) {
  const Ref<Tracked> null;
  EXPECT_DEATH(Finalize(null, [] {}), "Finalize: the reference is null");
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  EXPECT_DEATH(Finalize(ref, static_cast<void (*)()>(nullptr)), "Finalize: the function is null");
}

TEST(FinalizerDeathTest, BindingTheReferentItselfIsRefused) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  int part = 0;
  const Ref<int> alias(ref, &part);
  const char* const message = "Finalize: a bound argument is a reference to the referent";
  EXPECT_DEATH(Finalize(
                   ref, [](const Ref<Tracked>&) {}, ref),
               message);
  EXPECT_DEATH(Finalize(
                   ref, [](int, const Ref<const Tracked>&) {}, 1, Ref<const Tracked>(ref)),
               message);
  EXPECT_DEATH(Finalize(
                   ref, [](const Ref<int>&) {}, {.at_exit = true}, alias),
               message);
  EXPECT_DEATH(Finalize(
                   WeakRef<int>(alias), [](const Ref<Tracked>&) {}, ref),
               message);
}

// The process's real exit, in a child.

auto SaysAtExit(const char* text) {
  return [text] { std::fprintf(stderr, "%s;", text); };
}

const Ref<Tracked>& StaticReferent() {
  static const Ref<Tracked> referent = MakeRef<Tracked>(1);
  return referent;
}

void RegisterAndExit() {
  const Ref<Tracked> local = MakeRef<Tracked>(2);
  Finalize(StaticReferent(), SaysAtExit("oldest"), {.at_exit = true});
  Finalize(local, SaysAtExit("newer"), {.at_exit = true});
  Finalize(StaticReferent(), SaysAtExit("static expires"));
  Finalize(local, SaysAtExit("never"));
  Finalize(StaticReferent(), SaysAtExit("newest"), {.at_exit = true});
  std::exit(0);
}

TEST(FinalizerDeathTest, RunsNewestFirstAtExitAndOnceWithStaticReferents) {
  EXPECT_EXIT(RegisterAndExit(), ::testing::ExitedWithCode(0),
              ::testing::Eq("newest;newer;oldest;static expires;"));
}

// A static that is older than the first registration is destroyed after the run at exit; it may
// still register and drop references.
struct Late {
  ~Late() {
    Finalize(ref, SaysAtExit("late"), {.at_exit = true});
    ref.reset();
  }
  Ref<Tracked> ref;
};

TEST(FinalizerDeathTest, StaticDestructorsMayStillRegister) {
  EXPECT_EXIT(
      {
        static Late late{MakeRef<Tracked>(1)};
        Finalize(late.ref, SaysAtExit("exit"), {.at_exit = true});
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), ::testing::Eq("exit;late;"));
}

TEST(FinalizerDeathTest, NothingRunsUnderscoreExitButTheExplicitCall) {
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  Finalize(ref, SaysAtExit("explicit"), {.at_exit = true});
  EXPECT_EXIT(_exit(0), ::testing::ExitedWithCode(0), ::testing::Eq(""));
  EXPECT_EXIT(
      {
        RunFinalizersAtExit();
        _exit(0);
      },
      ::testing::ExitedWithCode(0), ::testing::Eq("explicit;"));
  EXPECT_EQ(RunFinalizersAtExit(), 1u);
}

struct NarrowCounts : internal::StdAtomics {
  using CountWord = uint8_t;
};

TEST(FinalizerDeathTest, TooManyHandlesAbort) {
  internal::BasicFinalizerState<NarrowCounts> state(1);
  for (int owners = 1; owners < 127; ++owners) state.AddOwner();
  EXPECT_DEATH(
      {
        state.AddOwner();
        state.AddOwner();
      },
      "Finalizer: too many handles");
}

// Races: the function has exactly one taker, and nothing is left behind. Each round has one object,
// two references to it, and a finalizer with a handle for each racer.
class FinalizerRaceTest : public ::testing::Test {
 protected:
  const int rounds_ = testing::RaceRounds(100'000);
  using Handle = Finalizer<std::function<int()>, Tracked>;

  ~FinalizerRaceTest() override { EXPECT_EQ(LiveAllocations(), before_); }

  void Initialise(int round) {
    ran_ = 0;
    taken_ = 0;
    refs_[0] = refs_[1] = MakeRef<Tracked>(round);
    handles_[0] = handles_[1] = handles_[2] = handles_[3] =
        Finalize(refs_[0], std::function<int()>([this] { return ++ran_; }), {.at_exit = at_exit_});
  }

  // Racers.
  std::function<void()> Drop(int which) {
    return [this, which] {
      refs_[which].reset();
      handles_[which] = {};
    };
  }
  std::function<void()> Call(int which) {
    return [this, which] {
      if (handles_[which]() == 1) ++taken_;
      handles_[which] = {};
    };
  }
  std::function<void()> Detach(int which) {
    return [this, which] {
      if (auto function = handles_[which].detach()) {
        ++taken_;
        (*function)();
      }
      handles_[which] = {};
    };
  }
  std::function<void()> RunAtExit(int which) {
    return [this, which] {
      handles_[which] = {};
      taken_ += static_cast<int>(RunFinalizersAtExit());
    };
  }

  // Afterwards the object, dropped by all, has gone: its finalizer has run once.
  void RaceAll(const std::vector<std::function<void()>>& racers) {
    testing::Race(
        rounds_, [this](int round) { Initialise(round); }, racers,
        [this](int) {
          refs_[0].reset();
          refs_[1].reset();
          ASSERT_EQ(ran_, 1);
          ASSERT_LE(taken_, 1);
          told_by_others_ += taken_;
          told_by_expiry_ += 1 - taken_;
        });
    EXPECT_EQ(told_by_others_ + told_by_expiry_, rounds_);
  }
  void ExpectBothOutcomes() const {
    EXPECT_GT(told_by_others_, 0);
    EXPECT_GT(told_by_expiry_, 0);
  }

  const int64_t before_ = LiveAllocations();
  bool at_exit_ = true;
  Ref<Tracked> refs_[2];
  Handle handles_[4];
  std::atomic<int> ran_{0}, taken_{0};
  int told_by_others_ = 0, told_by_expiry_ = 0;
};

TEST_F(FinalizerRaceTest, CallNowAgainstExpiry) {
  RaceAll({Drop(0), Drop(1), Call(2), Call(3)});
  ExpectBothOutcomes();
}

TEST_F(FinalizerRaceTest, CallNowAgainstExpiryOfOneThatDoesNotRunAtExit) {
  at_exit_ = false;
  RaceAll({Drop(0), Drop(1), Call(2), Call(3)});
  ExpectBothOutcomes();
}

TEST_F(FinalizerRaceTest, DetachAgainstExpiry) {
  RaceAll({Drop(0), Drop(1), Detach(2), Detach(3)});
  ExpectBothOutcomes();
}

TEST_F(FinalizerRaceTest, CallNowAgainstCallNow) {
  std::atomic<int> wins[4] = {};
  std::vector<std::function<void()>> racers;
  for (int which = 0; which < 4; ++which) {
    racers.emplace_back([this, which, &wins] {
      const int won = handles_[which]() == 1 ? 1 : 0;
      wins[which] += won;
      taken_ += won;
      handles_[which] = {};
    });
  }
  RaceAll(racers);
  EXPECT_EQ(told_by_expiry_, 0);
  EXPECT_EQ(wins[0] + wins[1] + wins[2] + wins[3], rounds_);
  for (const std::atomic<int>& count : wins) EXPECT_GT(count, 0);
}

TEST_F(FinalizerRaceTest, RunAtExitAgainstExpiry) {
  RaceAll({Drop(0), Drop(1), RunAtExit(2), RunAtExit(3)});
  ExpectBothOutcomes();
}

TEST_F(FinalizerRaceTest, CallNowAndDetachAndRunAtExitAgainstExpiry) {
  RaceAll({[this, drop = Drop(0)] {
             refs_[1].reset();
             drop();
           },
           Call(1), Detach(2), RunAtExit(3)});
  ExpectBothOutcomes();
}

// Who finds a handle dead, or comes too late to detach, sees what the destructor did: there is no
// data race on `destroyed`.
class FinalizerDestructorRaceTest : public ::testing::Test {
 protected:
  struct Leaving {
    explicit Leaving(bool* destroyed) : destroyed(destroyed) {}
    ~Leaving() { *destroyed = true; }
    bool* destroyed;
  };

  void RaceAll(const std::vector<std::function<void()>>& racers) {
    testing::Race(
        testing::RaceRounds(100'000),
        [this](int) {
          destroyed_ = false;
          refs_[0] = refs_[1] = refs_[2] = MakeRef<Leaving>(&destroyed_);
          handles_[0] = handles_[1] = handles_[2] = Finalize(refs_[0], &DoNothing);
        },
        racers, [](int) {});
  }
  std::function<void()> Drop(int which) {
    return [this, which] { refs_[which].reset(); };
  }

  static void DoNothing() {}

  bool destroyed_ = false;
  Ref<Leaving> refs_[3];
  Finalizer<void (*)(), Leaving> handles_[3];
};

TEST_F(FinalizerDestructorRaceTest, NotAlive) {
  std::atomic<int> dead{0}, alive{0};
  const auto look = [&](int which) {
    return [&, which] {
      const bool is_alive = handles_[which].alive();
      EXPECT_TRUE(is_alive || destroyed_);
      ++(is_alive ? alive : dead);
    };
  };
  RaceAll({[this] {
             for (Ref<Leaving>& ref : refs_) ref.reset();
           },
           look(0), look(1),
           [this] {
             while (handles_[2].alive()) std::this_thread::yield();
             EXPECT_TRUE(destroyed_);
           }});
  EXPECT_EQ(dead + alive, 2 * testing::RaceRounds(100'000));
}

TEST_F(FinalizerDestructorRaceTest, TooLateToDetach) {
  int detached = 0, late = 0;
  RaceAll({Drop(0), Drop(1), Drop(2), [&] {
             const bool in_time = handles_[0].detach().has_value();
             EXPECT_TRUE(in_time || destroyed_);
             ++(in_time ? detached : late);
           }});
  EXPECT_EQ(detached + late, testing::RaceRounds(100'000));
  EXPECT_GT(detached, 0);
  EXPECT_GT(late, 0);
}

}  // namespace
}  // namespace weakcache
