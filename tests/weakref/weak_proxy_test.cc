// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/weak_proxy.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
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

struct Window {
  explicit Window(std::string title_in = "") : title(std::move(title_in)) {}
  virtual ~Window() { ++destroyed; }
  void SetTitle(std::string text) { title = std::move(text); }
  size_t TitleSize() const { return title.size(); }
  static inline int destroyed = 0;
  std::string title;
};

struct Dialog : Window {
  using Window::Window;
};

size_t SizeOf(const Window& window) { return window.title.size(); }
void Rename(Window& window, const std::string& title) { window.title = title; }

TEST(WeakProxyTest, ReachesTheReferentWithoutKeepingIt) {
  Ref<Window> window = MakeRef<Window>("a");
  const WeakProxy<Window> proxy(window);
  EXPECT_EQ(window.use_count(), 1u);
  proxy->SetTitle("abc");
  EXPECT_EQ(proxy->TitleSize(), 3u);
  Rename(*proxy, "abcd");
  EXPECT_EQ(SizeOf(*proxy), 4u);
  EXPECT_EQ((*proxy).get().title, "abcd");
  EXPECT_EQ(window.use_count(), 1u);
  EXPECT_FALSE(proxy.expired());
  window.reset();
  EXPECT_TRUE(proxy.expired());
}

TEST(WeakProxyTest, ExpiredThrowsAndNamesTheCall) {
  const WeakProxy<Window> proxy(MakeRef<Window>());
  ASSERT_TRUE(proxy.expired());
  try {
    proxy->SetTitle("");
    FAIL();
  } catch (const ExpiredReferenceError& error) {
    EXPECT_STREQ(error.what(), "WeakProxy::operator->: the referent has expired");
  }
  try {
    SizeOf(*proxy);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "WeakProxy::operator*: the referent has expired");
  }
  EXPECT_THROW(WeakProxy<Window>()->TitleSize(), ExpiredReferenceError);
  EXPECT_THROW(WeakProxy(Ref<Window>())->TitleSize(), ExpiredReferenceError);
}

// Drops the last Ref in the middle of the expression, and sees that the object is still there.
TEST(WeakProxyTest, HoldsTheReferentForTheFullExpression) {
  Ref<Window> window = MakeRef<Window>("title");
  const WeakProxy<Window> proxy(window);
  Window::destroyed = 0;
  const auto drop_and_count = [&] {
    window.reset();
    return Window::destroyed;
  };
  EXPECT_EQ(proxy->title.compare(0, static_cast<size_t>(drop_and_count()), ""), 0);
  EXPECT_EQ(Window::destroyed, 1);

  window = MakeRef<Window>("title");
  const WeakProxy<Window> other(window);
  Window::destroyed = 0;
  EXPECT_EQ((SizeOf(*other), drop_and_count()), 0);
  EXPECT_EQ(Window::destroyed, 1);
}

TEST(WeakProxyTest, HeldReferenceByNameKeepsTheReferent) {
  Ref<Window> window = MakeRef<Window>("title");
  const WeakProxy<Window> proxy(window);
  {
    const auto held = *proxy;
    window.reset();
    EXPECT_FALSE(proxy.expired());
    EXPECT_EQ(SizeOf(held), 5u);
  }
  EXPECT_TRUE(proxy.expired());
}

TEST(WeakProxyTest, ConvertsUpTheHierarchyAndFromWeak) {
  const Ref<Dialog> dialog = MakeRef<Dialog>("d");
  const WeakProxy<const Window> from_ref(dialog);
  const WeakProxy<Window> from_weak{WeakRef<Dialog>(dialog)};
  const WeakProxy deduced(dialog);
  static_assert(std::is_same_v<decltype(deduced), const WeakProxy<Dialog>>);
  EXPECT_EQ(from_ref->TitleSize(), 1u);
  EXPECT_EQ(from_weak->TitleSize(), 1u);
  EXPECT_EQ(deduced.weak().lock(), dialog);
}

TEST(WeakProxyTest, ComparesByOwnerAlsoAfterDeath) {
  Ref<Dialog> a = MakeRef<Dialog>("same");
  const Ref<Dialog> b = MakeRef<Dialog>("same");
  const WeakProxy<Window> proxy_a(a);
  const WeakProxy<Dialog> proxy_a_too(a), proxy_b(b);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(proxy_a, proxy_a_too);
    EXPECT_NE(proxy_a, proxy_b);
    EXPECT_EQ(proxy_a<proxy_b, proxy_b> proxy_a);
    EXPECT_NE(proxy_a < proxy_b, proxy_b < proxy_a);
    a.reset();
  }
}

TEST(WeakProxyTest, AllocatesNothing) {
  const Ref<Window> window = MakeRef<Window>("t");
  const auto use = [&] {
    const WeakProxy<Window> proxy(window);
    EXPECT_EQ(proxy->TitleSize() + SizeOf(*proxy), 2u);
  };
  EXPECT_EQ(testing::FailEachAllocation(use, [] {}), 0);
}

template <typename P>
concept TestableAsBool = requires(P proxy) {
  proxy ? 1 : 0;
};
template <typename P>
concept HasDotTitle = requires(P proxy) {
  (*proxy).title;
};

TEST(WeakProxyTest, ForbiddenUsesDoNotCompile) {
  static_assert(!TestableAsBool<WeakProxy<Window>>, "what it finds would be outdated at once");
  static_assert(!HasDotTitle<WeakProxy<Window>>, "the dot can't be overloaded");
  static_assert(!std::is_convertible_v<Ref<Window>, WeakProxy<Window>>, "explicit: it may throw");
  static_assert(!std::is_constructible_v<WeakProxy<Window>, Window*>);
  static_assert(!std::is_constructible_v<WeakProxy<Window>, Ref<const Window>>, "const stays");
  static_assert(!std::is_constructible_v<WeakProxy<Dialog>, Ref<Window>>);
  static_assert(!std::is_copy_constructible_v<HeldReference<Window>>);
  static_assert(!std::is_convertible_v<HeldReference<const Window>, Window&>);
  static_assert(std::is_base_of_v<std::runtime_error, ExpiredReferenceError>);
}

// A use either finds the whole object or throws.
TEST(WeakProxyRaceTest, UseAgainstLastRelease) {
  const int64_t before = LiveAllocations();
  const int rounds = testing::RaceRounds(100'000);
  std::atomic<int> used{0}, refused{0};
  {
    Ref<Tracked> refs[2];
    WeakProxy<Tracked> proxies[2];
    int id = 0;
    const auto use = [&](int which, auto read) {
      return [&, which, read] {
        try {
          EXPECT_EQ(read(proxies[which]), id);
          ++used;
        } catch (const ExpiredReferenceError&) {
          EXPECT_TRUE(proxies[which].expired());
          ++refused;
        }
        proxies[which] = {};
      };
    };
    testing::Race(
        rounds,
        [&](int round) {
          id = round;
          refs[0] = refs[1] = MakeRef<Tracked>(round);
          proxies[0] = proxies[1] = WeakProxy<Tracked>(refs[0]);
        },
        {[&] { refs[0].reset(); }, [&] { refs[1].reset(); },
         use(0, [](const WeakProxy<Tracked>& proxy) { return proxy->id(); }),
         use(1, [](const WeakProxy<Tracked>& proxy) { return (*proxy).get().id(); })},
        [](int) { ASSERT_EQ(Tracked::live(), 0); });
  }
  EXPECT_EQ(used + refused, 2 * rounds);
  EXPECT_GT(used, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(LiveAllocations(), before);
}

}  // namespace
}  // namespace weakcache
