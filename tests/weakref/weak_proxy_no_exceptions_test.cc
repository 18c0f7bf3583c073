// SPDX-License-Identifier: Apache-2.0
// Compiled with -fno-exceptions -fno-rtti: the headers do, and what would throw aborts.
#include <gtest/gtest.h>

#include <memory>

#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_bind.h"
#include "weakcache/weakref/weak_proxy.h"

#if defined(__cpp_exceptions) || defined(__cpp_rtti)
#error "this test is about code without either"
#endif

namespace weakcache {
namespace {

TEST(NoExceptionsDeathTest, ExpiredProxyAbortsWithAMessage) {
  const WeakProxy<int> proxy(MakeRef<int>(1));
  EXPECT_DEATH((void)(*proxy).get(), "WeakProxy::operator\\*: the referent has expired");
  EXPECT_DEATH((void)proxy.operator->(), "WeakProxy::operator->: the referent has expired");
}

TEST(NoExceptionsTest, ProxiesAndBindingsAndFinalizersWork) {
  Ref<int> ref = MakeRef<int>(1);
  const WeakProxy<int> proxy(ref);
  EXPECT_EQ(*proxy, 1);
  const auto bound = WeakBind(ref, [](int& value, int more) { return value += more; });
  EXPECT_EQ(bound(2), 3);
  int calls = 0;
  Finalize(ref, [&] { ++calls; });
  Finalize(
      ref, [&](int more) { calls += more; }, {.at_exit = true}, 10)();
  ref.reset();
  EXPECT_EQ(calls, 11);
  EXPECT_EQ(bound(2), std::nullopt);
  EXPECT_EQ(RunFinalizersAtExit(), 0u);
}

TEST(GetDeleterNoRttiTest, FindsTheDeleterThatWasAdopted) {
  const Ref<int> adopted = AdoptRef(std::make_unique<int>(1));
  EXPECT_NE(get_deleter<std::default_delete<int>>(adopted), nullptr);
  EXPECT_EQ(get_deleter<std::default_delete<long>>(adopted), nullptr);
}

}  // namespace
}  // namespace weakcache
