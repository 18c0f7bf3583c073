// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/expiry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocations;
using testing::Tracked;

TEST(ExpiryTest, CallbackRunsOnceAfterTheReferentHasGone) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const WeakRef<Tracked> weak = ref;
  int calls = 0;
  const ExpiryRegistration registration = OnExpire(ref, [&] {
    ++calls;
    EXPECT_TRUE(weak.expired());
    EXPECT_EQ(Tracked::live(), 0);
  });
  EXPECT_TRUE(registration.active());
  Ref<Tracked> copy = ref;
  ref.reset();
  EXPECT_EQ(calls, 0);
  copy.reset();
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(registration.active());
}

TEST(ExpiryTest, NewestFirst) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  std::string order;
  const ExpiryRegistration a = OnExpire(ref, [&] { order += 'a'; });
  const ExpiryRegistration b = OnExpire(ref, [&] { order += 'b'; });
  const ExpiryRegistration c = OnExpire(ref, [&] { order += 'c'; });
  ref.reset();
  EXPECT_EQ(order, "cba");
}

TEST(ExpiryTest, MemoryOfTheReferentIsBackWhenTheCallbackRuns) {
  struct Large {
    char bytes[1 << 20];
  };
  const int64_t before = testing::LiveAllocatedBytes();
  Ref<Large> ref = MakeRef<Large>();
  int64_t bytes_then = -1;
  const ExpiryRegistration registration =
      OnExpire(ref, [&] { bytes_then = testing::LiveAllocatedBytes() - before; });
  ref.reset();
  EXPECT_LT(bytes_then, 1024);
}

TEST(ExpiryTest, CancelsInAnyPositionOfTheList) {
  for (int cancelled = 0; cancelled < 3; ++cancelled) {
    Ref<Tracked> ref = MakeRef<Tracked>(1);
    std::string order;
    ExpiryRegistration registrations[3];
    for (int i = 0; i < 3; ++i) {
      registrations[i] = OnExpire(ref, [&order, i] { order += static_cast<char>('0' + i); });
    }
    registrations[cancelled].reset();
    EXPECT_FALSE(registrations[cancelled].active());
    ref.reset();
    std::string expected = "210";
    std::erase(expected, static_cast<char>('0' + cancelled));
    EXPECT_EQ(order, expected);
  }
}

TEST(ExpiryTest, MovedRegistrationStaysInForce) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  ExpiryRegistration outer;
  {
    ExpiryRegistration inner = OnExpire(ref, [&] { ++calls; });
    outer = std::move(inner);
  }
  ref.reset();
  EXPECT_EQ(calls, 1);
}

TEST(ExpiryTest, AssigningCancelsTheFormerRegistration) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  ExpiryRegistration registration = OnExpire(ref, [&] { calls += 1; });
  registration = OnExpire(ref, [&] { calls += 10; });
  ref.reset();
  EXPECT_EQ(calls, 10);
}

TEST(ExpiryTest, WeakReferenceWillDoUntilItHasExpired) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const WeakRef<Tracked> weak = ref;
  int calls = 0;
  const ExpiryRegistration in_time = OnExpire(weak, [&] { ++calls; });
  ref.reset();
  EXPECT_EQ(calls, 1);
  const ExpiryRegistration too_late = OnExpire(weak, [&] { ++calls; });
  EXPECT_FALSE(too_late.active());
  EXPECT_EQ(calls, 1);
}

std::string handled_error;

TEST(ExpiryTest, ThrowingCallbackGoesToTheHandlerAndTheOthersRun) {
  const ExpiryErrorHandler former = SetExpiryErrorHandler([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& exception) {
      handled_error = exception.what();
    }
  });
  EXPECT_EQ(former, nullptr);
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int calls = 0;
  const ExpiryRegistration first = OnExpire(ref, [&] { ++calls; });
  const ExpiryRegistration second = OnExpire(ref, [] { throw std::runtime_error("second"); });
  const ExpiryRegistration third = OnExpire(ref, [&] { ++calls; });
  ref.reset();
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(handled_error, "second");
  EXPECT_NE(SetExpiryErrorHandler(nullptr), nullptr);
}

TEST(ExpiryTest, ErrorsGoToStderrByDefault) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const ExpiryRegistration registration =
      OnExpire(ref, [] { throw std::runtime_error("out of luck"); });
  ::testing::internal::CaptureStderr();
  ref.reset();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "weakcache: an expiry callback threw: out of luck\n");
}

TEST(ExpiryTest, CallbackMayCancelItselfAndOthers) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  std::string order;
  ExpiryRegistration older = OnExpire(ref, [&] { order += "older"; });
  ExpiryRegistration self;
  self = OnExpire(ref, [&] {
    self.reset();
    older.reset();
    order += "self";
  });
  ref.reset();
  EXPECT_EQ(order, "self");
}

TEST(ExpiryTest, CallbackMayOwnItsOwnRegistration) {
  const int64_t before = LiveAllocations();
  {
    Ref<Tracked> ref = MakeRef<Tracked>(1);
    auto registration = std::make_shared<ExpiryRegistration>();
    *registration = OnExpire(ref, [registration] {});
    registration.reset();
    ref.reset();
  }
  EXPECT_EQ(LiveAllocations(), before);
}

TEST(ExpiryTest, CallbackMayRegisterOnAnotherObjectAndDropIt) {
  Ref<Tracked> first = MakeRef<Tracked>(1);
  Ref<Tracked> second = MakeRef<Tracked>(2);
  std::string order;
  ExpiryRegistration inner;
  const ExpiryRegistration outer = OnExpire(first, [&] {
    inner = OnExpire(second, [&] { order += "inner "; });
    second.reset();
    order += "outer";
  });
  first.reset();
  EXPECT_EQ(order, "inner outer");
}

TEST(ExpiryTest, CapturesGoWithTheNews) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  Ref<Tracked> captured = MakeRef<Tracked>(2);
  const ExpiryRegistration registration = OnExpire(ref, [captured] {});
  captured.reset();
  EXPECT_EQ(Tracked::live(), 2);
  ref.reset();
  EXPECT_EQ(Tracked::live(), 0);
}

TEST(ExpiryTest, MoveOnlyCallback) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  int value = 0;
  const ExpiryRegistration registration =
      OnExpire(ref, [pointer = std::make_unique<int>(5), &value] { value = *pointer; });
  ref.reset();
  EXPECT_EQ(value, 5);
}

TEST(ExpiryTest, FailedAllocationRegistersNothing) {
  Ref<Tracked> ref = MakeRef<Tracked>(1);
  const int64_t before = LiveAllocations();
  int calls = 0;
  ExpiryRegistration registration;
  const int failures =
      testing::FailEachAllocation([&] { registration = OnExpire(ref, [&] { ++calls; }); },
                                  [&] {
                                    EXPECT_EQ(LiveAllocations(), before);
                                    EXPECT_EQ(ref.weak_count(), 0u);
                                  });
  EXPECT_EQ(failures, 1);
  ref.reset();
  EXPECT_EQ(calls, 1);
}

TEST(ExpiryTest, ForbiddenUsesDoNotCompile) {
  static_assert(!std::is_copy_constructible_v<ExpiryRegistration>, "one registration, one owner");
  static_assert(std::is_nothrow_move_constructible_v<ExpiryRegistration>);
}

TEST(ExpiryDeathTest, RegisteringOnNullNamesTheCall) {
  const Ref<Tracked> null;
  EXPECT_DEATH((void)OnExpire(null, [] {}), "OnExpire: the reference is null");
  const Ref<Tracked> ref = MakeRef<Tracked>(1);
  EXPECT_DEATH((void)OnExpire(ref, static_cast<void (*)()>(nullptr)),
               "OnExpire: the function is null");
}

// A cancellation on another thread returns only when the running callback has. The callback goes on
// until the canceller has had every chance to return too early.
TEST(ExpiryTest, CancelWaitsForARunningCallbackOnAnotherThread) {
  for (int round = 0; round < 50; ++round) {
    Ref<Tracked> ref = MakeRef<Tracked>(1);
    std::atomic<bool> running{false}, cancelling{false}, cancelled{false};
    bool returned = false;
    ExpiryRegistration registration = OnExpire(ref, [&] {
      running = true;
      while (!cancelling) std::this_thread::yield();
      for (int i = 0; i < 100 && !cancelled; ++i) std::this_thread::yield();
      returned = true;
    });
    std::thread dropper([&] { ref.reset(); });
    while (!running) std::this_thread::yield();
    std::thread canceller([&] {
      cancelling = true;
      registration.reset();
      EXPECT_TRUE(returned);
      cancelled = true;
    });
    dropper.join();
    canceller.join();
  }
}

// Once the cancellation has returned, what the callback uses may go.
TEST(ExpiryRaceTest, CancelAgainstExpiry) {
  const int64_t before = LiveAllocations();
  std::atomic<int> told{0}, cancelled{0};
  int rounds = 0;
  {
    Ref<Tracked> ref;
    ExpiryRegistration registrations[3];
    std::unique_ptr<int> used[3];
    const auto cancel = [&](int which) {
      return [&, which] {
        registrations[which].reset();
        const int ran = *used[which];
        used[which].reset();
        ++(ran == 0 ? cancelled : told);
      };
    };
    testing::Race(
        {testing::RaceRounds(100'000), [&] { return told > 0 && cancelled > 0; }},
        [&](int round) {
          ++rounds;
          ref = MakeRef<Tracked>(round);
          for (int i = 0; i < 3; ++i) {
            used[i] = std::make_unique<int>(0);
            registrations[i] = OnExpire(ref, [counter = used[i].get()] { ++*counter; });
          }
        },
        {[&] { ref.reset(); }, cancel(0), [] {}, cancel(1)},
        [&](int) {
          ASSERT_EQ(Tracked::live(), 0);
          ASSERT_EQ(*used[2], 1);
          registrations[2].reset();
          used[2].reset();
        });
  }
  EXPECT_EQ(LiveAllocations(), before);
  EXPECT_EQ(told + cancelled, 2 * rounds);
  EXPECT_GT(told, 0);
  EXPECT_GT(cancelled, 0);
}

// Either the registration comes in time and is told, or it is refused.
TEST(ExpiryRaceTest, RegisterAgainstLastRelease) {
  const int64_t before = LiveAllocations();
  int told = 0, refused = 0;
  {
    Ref<Tracked> ref;
    WeakRef<Tracked> weak[2];
    ExpiryRegistration registrations[2];
    std::atomic<int> ran{0};
    const auto try_register = [&](int which) {
      return [&, which] {
        registrations[which] = OnExpire(weak[which], [&] { ++ran; });
        weak[which].reset();
      };
    };
    testing::Race(
        {testing::RaceRounds(100'000), {&told, &refused}},
        [&](int round) {
          ran = 0;
          ref = MakeRef<Tracked>(round);
          weak[0] = ref;
          weak[1] = ref;
        },
        {[&] { ref.reset(); }, try_register(0), try_register(1)},
        [&](int) {
          ASSERT_EQ(Tracked::live(), 0);
          ASSERT_LE(ran, 2);
          for (ExpiryRegistration& registration : registrations) {
            ASSERT_FALSE(registration.active());
            registration.reset();
          }
          told += ran;
          refused += 2 - ran;
        });
  }
  EXPECT_EQ(LiveAllocations(), before);
  EXPECT_GT(told, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace weakcache
