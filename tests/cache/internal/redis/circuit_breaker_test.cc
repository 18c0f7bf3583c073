// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/redis/circuit_breaker.h"

#include <gtest/gtest.h>

#include <chrono>

namespace weakcache::internal {
namespace {

using std::chrono::milliseconds;
using State = CircuitBreaker::State;

// A breaker that opens after three failures, in a time that the test makes.
class CircuitBreakerTest : public ::testing::Test {
 protected:
  void Fail(int calls) {
    for (int i = 0; i < calls; ++i) breaker_.Failed(now_);
  }
  void Pass(int time) { now_ += milliseconds(time); }

  CircuitBreaker::TimePoint now_ = {};
  CircuitBreaker breaker_{3, Backoff(milliseconds(100), milliseconds(400), [] { return 0.0; })};
};

TEST_F(CircuitBreakerTest, OpensAfterFailuresOneAfterTheOther) {
  Fail(2);
  breaker_.Succeeded();
  Fail(2);
  EXPECT_TRUE(breaker_.Allow(now_));
  EXPECT_EQ(breaker_.state(), State::kClosed);
  Fail(1);
  EXPECT_FALSE(breaker_.Allow(now_));
  EXPECT_EQ(breaker_.state(), State::kOpen);
}

TEST_F(CircuitBreakerTest, LetsOneCallTryAndClosesIfThatSucceeds) {
  Fail(3);
  Pass(99);
  EXPECT_FALSE(breaker_.Allow(now_));
  Pass(1);
  EXPECT_TRUE(breaker_.Allow(now_));
  EXPECT_FALSE(breaker_.Allow(now_));
  EXPECT_EQ(breaker_.state(), State::kHalfOpen);
  breaker_.Succeeded();
  EXPECT_TRUE(breaker_.Allow(now_));
  EXPECT_TRUE(breaker_.Allow(now_));
  // The count of failures and the time begin anew.
  Fail(2);
  EXPECT_TRUE(breaker_.Allow(now_));
  Fail(1);
  Pass(100);
  EXPECT_TRUE(breaker_.Allow(now_));
}

TEST_F(CircuitBreakerTest, WaitsTwiceAsLongAfterEachFailureUpToALimit) {
  Fail(3);
  for (const int time : {100, 200, 400, 400}) {
    // Calls that were allowed before it opened change nothing.
    Fail(2);
    Pass(time - 1);
    EXPECT_FALSE(breaker_.Allow(now_)) << time;
    Pass(1);
    EXPECT_TRUE(breaker_.Allow(now_)) << time;
    Fail(1);
  }
}

TEST_F(CircuitBreakerTest, ACallThatHasNotWaitedLeavesTheTrialToTheNext) {
  Fail(3);
  Pass(100);
  ASSERT_TRUE(breaker_.Allow(now_));
  breaker_.Unclear();
  EXPECT_TRUE(breaker_.Allow(now_));
  breaker_.Succeeded();
  breaker_.Unclear();
  EXPECT_EQ(breaker_.state(), State::kClosed);
}

TEST_F(CircuitBreakerTest, ACallThatThrowsLeavesTheTrialToTheNext) {
  Fail(3);
  Pass(100);
  ASSERT_TRUE(breaker_.Allow(now_));
  { const CircuitBreaker::Call call(breaker_); }
  EXPECT_EQ(breaker_.state(), State::kOpen);
  ASSERT_TRUE(breaker_.Allow(now_));
  CircuitBreaker::Call(breaker_).Failed(now_);
  EXPECT_FALSE(breaker_.Allow(now_));
  Pass(200);
  ASSERT_TRUE(breaker_.Allow(now_));
  CircuitBreaker::Call(breaker_).Succeeded();
  EXPECT_EQ(breaker_.state(), State::kClosed);
}

TEST(BackoffTest, TakesARandomPartOfUpToAHalfOff) {
  double random = 0;
  Backoff backoff(milliseconds(100), milliseconds(1000), [&] { return random; });
  EXPECT_EQ(backoff.Next(), milliseconds(100));
  random = 0.5;
  EXPECT_EQ(backoff.Next(), milliseconds(150));
  random = 1;
  EXPECT_EQ(backoff.Next(), milliseconds(200));
  backoff.Reset();
  EXPECT_EQ(backoff.Next(), milliseconds(50));
}

}  // namespace
}  // namespace weakcache::internal
