// SPDX-License-Identifier: Apache-2.0
// Timers on an executor, whose time can stand still.

#include "base/executor_timer.h"

#include <chrono>

#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/base/queue_executor.h"

namespace hvsdk {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kMs = 10'000;

class ExecutorTimerTest : public testing::Test {
 protected:
  void Advance(uint64_t ms) {
    timers_.AdvanceBy(ms * kMs);
    executor_.RunUntilIdle();
  }

  QueueExecutor executor_;
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  int fired_ = 0;
  ExecutorTimer timer_{timers_, clock_, executor_, [this] { ++fired_; }};
};

TEST_F(ExecutorTimerTest, FiresOnceAndTheLastDeadlineCounts) {
  timer_.ArmIn(milliseconds(10));
  timer_.ArmIn(milliseconds(20));
  Advance(15);
  EXPECT_EQ(fired_, 0);
  Advance(5);
  EXPECT_EQ(fired_, 1);
  EXPECT_FALSE(timer_.is_armed());
  Advance(100);
  EXPECT_EQ(fired_, 1);
  timer_.ArmIn(milliseconds(10));
  timer_.Cancel();
  Advance(100);
  EXPECT_EQ(fired_, 1);
}

TEST_F(ExecutorTimerTest, WhatWasLeftIsLeft) {
  timer_.ArmIn(milliseconds(10));
  Advance(7);
  for (int i = 0; i < 2; ++i) {
    timer_.Pause();
    timer_.Pause();
    Advance(100);
    EXPECT_TRUE(timer_.is_armed());
    timer_.Resume();
    timer_.Resume();
    Advance(1);
  }
  EXPECT_EQ(fired_, 0);
  Advance(1);
  EXPECT_EQ(fired_, 1);
}

TEST_F(ExecutorTimerTest, ArmedAndCancelledWhileItStandsStill) {
  timer_.Pause();
  timer_.ArmIn(milliseconds(10));
  Advance(100);
  timer_.Resume();
  Advance(9);
  EXPECT_EQ(fired_, 0);
  Advance(1);
  EXPECT_EQ(fired_, 1);
  timer_.ArmIn(milliseconds(10));
  timer_.Pause();
  timer_.Cancel();
  timer_.Resume();
  Advance(100);
  EXPECT_EQ(fired_, 1);
}

// It is due, and its callback was about to run.
TEST_F(ExecutorTimerTest, OneThatIsDueWaitsUntilItGoesOn) {
  timer_.ArmIn(milliseconds(10));
  timers_.AdvanceBy(10 * kMs);
  timer_.Pause();
  executor_.RunUntilIdle();
  Advance(100);
  EXPECT_EQ(fired_, 0);
  timer_.Resume();
  Advance(0);
  EXPECT_EQ(fired_, 1);
}

}  // namespace
}  // namespace hvsdk
