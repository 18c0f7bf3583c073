// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/weak_bind.h"

#include <gtest/gtest.h>

#include <atomic>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::LiveAllocations;
using testing::Tracked;

struct Account {
  int Add(int amount) { return balance += amount; }
  int Get() const noexcept { return balance; }
  void Clear() noexcept { balance = 0; }
  int& Balance() { return balance; }
  std::string&& TakeName() { return std::move(name); }
  void Rename(std::unique_ptr<std::string> to) { name = *to; }
  void Fail() { throw std::runtime_error("no funds"); }
  int Choose(int) { return 1; }
  int Choose(const char*) { return 2; }
  int balance = 0;
  std::string name = "me";
};
struct Savings : Account {};

struct Point {
  int x, y;
};
struct Button {
  void Press(Point at) { pressed_at = at.x + at.y; }
  int Area(int dpi) const { return 2 * dpi; }
  int pressed_at = 0;
};

TEST(WeakBindTest, ExampleOfTheHeader) {
  Ref<Button> button = MakeRef<Button>();
  std::function<void(Point)> on_click = WeakBind(button, &Button::Press);
  auto area = WeakBind(button, [](const Button& b, int dpi) { return b.Area(dpi); });
  std::optional<int> pixels = area(96);
  EXPECT_EQ(pixels, 192);
  on_click({1, 2});
  EXPECT_EQ(button->pressed_at, 3);
  button.reset();
  on_click({3, 4});
  EXPECT_EQ(area(96), std::nullopt);
}

TEST(WeakBindTest, CallsWhileAlive) {
  Ref<Account> ref = MakeRef<Account>();
  const auto add = WeakBind(ref, &Account::Add);
  EXPECT_EQ(ref.use_count(), 1u);
  EXPECT_EQ(add(3), 3);
  EXPECT_EQ(add(4), 7);
  EXPECT_FALSE(add.expired());
  ref.reset();
  EXPECT_EQ(add(4), std::nullopt);
  EXPECT_TRUE(add.expired());
}

TEST(WeakBindTest, VoidMethodsTellWhetherTheyRan) {
  Ref<Account> ref = MakeRef<Account>();
  ref->balance = 5;
  const auto clear = WeakBind(ref, &Account::Clear);
  static_assert(std::is_same_v<decltype(clear()), bool>);
  EXPECT_TRUE(clear());
  EXPECT_EQ(ref->balance, 0);
  ref.reset();
  EXPECT_FALSE(clear());
}

TEST(WeakBindTest, ReferenceResults) {
  const Ref<Account> ref = MakeRef<Account>();
  const auto balance = WeakBind(ref, &Account::Balance);
  static_assert(std::is_same_v<decltype(balance()), std::optional<std::reference_wrapper<int>>>);
  balance()->get() = 9;
  EXPECT_EQ(ref->balance, 9);
  const auto name = WeakBind(ref, &Account::TakeName);
  static_assert(std::is_same_v<decltype(name()), std::optional<std::string>>);
  EXPECT_EQ(name(), "me");
  EXPECT_EQ(&WeakBind(ref, &Account::balance)()->get(), &ref->balance);
}

TEST(WeakBindTest, ConstMethodsAndOverloads) {
  const Ref<const Account> ref = MakeRef<const Account>();
  EXPECT_EQ(WeakBind(ref, &Account::Get)(), 0);
  const Ref<Savings> savings = MakeRef<Savings>();
  EXPECT_EQ(WeakBind(savings, static_cast<int (Account::*)(const char*)>(&Account::Choose))("x"),
            2);
  const Ref<Account> base = savings;
  EXPECT_EQ(WeakBind(WeakRef<Account>(base), &Account::Get)(), 0);
}

TEST(WeakBindTest, LambdasGetTheReferentFirst) {
  Ref<Account> ref = MakeRef<Account>();
  const auto twice = WeakBind(ref, [](Account& account, int amount) {
    account.Add(amount);
    return account.Add(amount);
  });
  EXPECT_EQ(twice(2), 4);
  auto counting = WeakBind(ref, [calls = 0](Account&) mutable { return ++calls; });
  EXPECT_EQ(counting(), 1);
  EXPECT_EQ(counting(), 2);
  ref.reset();
  EXPECT_EQ(counting(), std::nullopt);
}

TEST(WeakBindTest, MoveOnlyArgumentsAreForwardedOrLeftAlone) {
  Ref<Account> ref = MakeRef<Account>();
  const auto rename = WeakBind(ref, &Account::Rename);
  EXPECT_TRUE(rename(std::make_unique<std::string>("you")));
  EXPECT_EQ(ref->name, "you");
  const auto keep = WeakBind(ref, [](Account&, std::unique_ptr<std::string>&& text) {
    const std::unique_ptr<std::string> taken = std::move(text);
  });
  ref.reset();
  auto text = std::make_unique<std::string>("kept");
  EXPECT_FALSE(keep(std::move(text)));
  EXPECT_NE(text, nullptr);  // NOLINT(bugprone-use-after-move): what is asserted
}

TEST(WeakBindTest, MoveOnlyFunctions) {
  const Ref<Account> ref = MakeRef<Account>();
  auto bound = WeakBind(ref, [box = std::make_unique<int>(3)](Account&) { return *box; });
  auto moved = std::move(bound);
  EXPECT_EQ(moved(), 3);
  static_assert(!std::copy_constructible<decltype(moved)>);
}

TEST(WeakBindTest, BecomesAStdFunction) {
  Ref<Account> ref = MakeRef<Account>();
  const std::function<std::optional<int>(int)> add = WeakBind(ref, &Account::Add);
  const std::function<void()> clear = WeakBind(ref, &Account::Clear);
  EXPECT_EQ(add(3), 3);
  clear();
  EXPECT_EQ(ref->balance, 0);
  ref.reset();
  EXPECT_EQ(add(3), std::nullopt);
  clear();
}

// The method drops the last other Ref, and goes on using its object.
TEST(WeakBindTest, ExtendsTheLifeDuringTheCallOnly) {
  Ref<Tracked> ref = MakeRef<Tracked>(7);
  const auto read = WeakBind(ref, [&](Tracked& tracked) {
    ref.reset();
    EXPECT_EQ(Tracked::live(), 1);
    return tracked.id();
  });
  EXPECT_EQ(read(), 7);
  EXPECT_EQ(Tracked::live(), 0);
}

TEST(WeakBindTest, ExceptionsGoToTheCallerAndKeepNothing) {
  Ref<Account> ref = MakeRef<Account>();
  const auto fail = WeakBind(ref, &Account::Fail);
  EXPECT_THROW(fail(), std::runtime_error);
  EXPECT_EQ(ref.use_count(), 1u);
}

TEST(WeakBindTest, EqualIfObjectAndFunctionAre) {
  Ref<Account> a = MakeRef<Account>();
  const Ref<Account> b = MakeRef<Account>();
  const auto get = [](const Ref<Account>& ref) {
    return WeakBind(ref, static_cast<int (Account::*)(int)>(&Account::Choose));
  };
  const auto add = [](const Ref<Account>& ref) { return WeakBind(ref, &Account::Add); };
  const auto get_a = get(a), add_a = add(a), add_a_too = add(a), add_b = add(b);
  EXPECT_EQ(add_a, add_a_too);
  EXPECT_NE(add_a, add_b);
  EXPECT_NE(add_a, get_a);
  a.reset();
  EXPECT_EQ(add_a, add_a_too);
  EXPECT_NE(add_a, add_b);
}

TEST(WeakBindTest, PartsOfOneObjectDiffer) {
  struct Panel {
    Account left, right;
  };
  const Ref<Panel> panel = MakeRef<Panel>();
  const Ref<Account> left(panel, &panel->left), right(panel, &panel->right);
  EXPECT_NE(WeakBind(left, &Account::Add), WeakBind(right, &Account::Add));
  EXPECT_EQ(WeakBind(left, &Account::Add), WeakBind(WeakRef<Account>(left), &Account::Add));
}

// As when an object has died and another has its address now.
TEST(WeakBindTest, SameAddressOfDifferentOwnersDiffers) {
  Account shared;
  const Ref<Account> a(MakeRef<int>(1), &shared), b(MakeRef<int>(2), &shared);
  EXPECT_NE(WeakBind(a, &Account::Add), WeakBind(b, &Account::Add));
}

TEST(WeakBindTest, ObserversCanBeKeptInASet) {
  Ref<Account> account = MakeRef<Account>();
  const Ref<Account> other = MakeRef<Account>();
  using Observer = decltype(WeakBind(account, &Account::Add));
  std::unordered_set<Observer> observers;
  EXPECT_TRUE(observers.insert(WeakBind(account, &Account::Add)).second);
  EXPECT_TRUE(observers.insert(WeakBind(other, &Account::Add)).second);
  EXPECT_FALSE(observers.insert(WeakBind(account, &Account::Add)).second);
  const Observer expired = WeakBind(account, &Account::Add);
  account.reset();
  EXPECT_EQ(observers.erase(expired), 1u);
  EXPECT_EQ(observers.count(WeakBind(other, &Account::Add)), 1u);
}

TEST(WeakBindTest, HashTellsFunctionsApartThatStdHashDoes) {
  const Ref<Account> account = MakeRef<Account>();
  using Function = int (*)(Account&);
  const Function one = [](Account&) { return 1; };
  const Function two = [](Account&) { return 2; };
  EXPECT_EQ(WeakBind(account, one).hash(), WeakBind(account, one).hash());
  EXPECT_NE(WeakBind(account, one).hash(), WeakBind(account, two).hash());
  const auto lambda = [account](Account&) {};
  static_assert(!std::is_default_constructible_v<std::hash<WeakBound<Account, decltype(lambda)>>>,
                "what has no == has no hash");
}

TEST(WeakBindTest, BindingAllocatesNothing) {
  const Ref<Account> ref = MakeRef<Account>();
  const auto bind = [&] { EXPECT_EQ(WeakBind(ref, &Account::Add)(1), 1); };
  EXPECT_EQ(testing::FailEachAllocation(bind, [] {}), 0);
}

TEST(WeakBindTest, CopyThatFailsToAllocateBindsNothing) {
  const Ref<Account> ref = MakeRef<Account>();
  const int64_t before = LiveAllocations();
  {
    const auto function = [text = std::string(100, 'x')](Account&) { return text.size(); };
    EXPECT_EQ(testing::FailEachAllocation([&] { EXPECT_EQ(WeakBind(ref, function)(), 100u); },
                                          [&] { EXPECT_EQ(ref.weak_count(), 0u); }),
              1);
  }
  EXPECT_EQ(LiveAllocations(), before);
}

TEST(WeakBindTest, ForbiddenUsesDoNotCompile) {
  using Add = decltype(WeakBind(std::declval<Ref<Account>>(), &Account::Add));
  static_assert(std::invocable<const Add&, int>);
  static_assert(!std::invocable<const Add&>, "an argument is missing");
  static_assert(!std::invocable<const Add&, std::string>);
  using OnConst = decltype(WeakBind(std::declval<Ref<const Account>>(), &Account::Add));
  static_assert(!std::invocable<const OnConst&, int>, "the method is not const");
  const auto mutating = [calls = 0](Account&) mutable { return ++calls; };
  using Mutating = decltype(WeakBind(std::declval<Ref<Account>>(), mutating));
  static_assert(std::invocable<Mutating&>);
  static_assert(!std::invocable<const Mutating&>, "the function is not const");
  static_assert(std::equality_comparable<Add>);
  static_assert(!std::equality_comparable<Mutating>, "nor are lambdas with captures");
}

TEST(WeakBindDeathTest, NullFunctionNamesTheCall) {
  const Ref<Account> ref = MakeRef<Account>();
  int (Account::*const null)(int) = nullptr;
  EXPECT_DEATH((void)WeakBind(ref, null), "WeakBind: the function is null");
}

// A call either finds the whole object or does nothing.
TEST(WeakBindRaceTest, CallAgainstLastRelease) {
  const int64_t before = LiveAllocations();
  const int rounds = testing::RaceRounds(100'000);
  std::atomic<int> called{0}, refused{0};
  {
    Ref<Tracked> refs[2];
    std::function<std::optional<int>()> calls[2];
    int id = 0;
    const auto call = [&](int which) {
      return [&, which] {
        const std::optional<int> result = calls[which]();
        EXPECT_EQ(result.value_or(id), id);
        ++(result ? called : refused);
        calls[which] = nullptr;
      };
    };
    testing::Race(
        rounds,
        [&](int round) {
          id = round;
          refs[0] = refs[1] = MakeRef<Tracked>(round);
          calls[0] = calls[1] = WeakBind(refs[0], &Tracked::id);
        },
        {[&] { refs[0].reset(); }, [&] { refs[1].reset(); }, call(0), call(1)},
        [](int) { ASSERT_EQ(Tracked::live(), 0); });
  }
  EXPECT_EQ(called + refused, 2 * rounds);
  EXPECT_GT(called, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(LiveAllocations(), before);
}

}  // namespace
}  // namespace weakcache
