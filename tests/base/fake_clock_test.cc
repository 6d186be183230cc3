// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/base/fake_clock.h"

#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hvsdk {
namespace {

using testing::ElementsAre;

TEST(FakeTimerQueue, FiresEachTimerAtItsOwnDeadlineInOrder) {
  FakeClock clock(5);
  FakeTimerQueue timers(clock);
  std::vector<uint64_t> fired;
  auto record = [&] { fired.push_back(clock.Now100ns()); };
  auto a = timers.CreateTimer(record);
  auto b = timers.CreateTimer(record);
  a->Arm(30);
  b->Arm(20);
  timers.AdvanceTo(19);
  EXPECT_THAT(fired, ElementsAre());
  timers.AdvanceTo(100);
  EXPECT_THAT(fired, ElementsAre(20, 30));
  EXPECT_EQ(clock.Now100ns(), 100u);
}

TEST(FakeTimerQueue, ArmReplacesAndCancelDisarms) {
  FakeClock clock;
  FakeTimerQueue timers(clock);
  int fired = 0;
  auto timer = timers.CreateTimer([&] { ++fired; });
  timer->Arm(10);
  timer->Arm(50);
  EXPECT_EQ(timers.armed(), 1u);
  timers.AdvanceTo(20);
  EXPECT_EQ(fired, 0);
  timer->Cancel();
  timers.AdvanceTo(60);
  EXPECT_EQ(fired, 0);
}

TEST(FakeTimerQueue, ACallbackMayArmItsOwnTimer) {
  FakeClock clock;
  FakeTimerQueue timers(clock);
  std::vector<uint64_t> fired;
  std::unique_ptr<Timer> timer;
  timer = timers.CreateTimer([&] {
    fired.push_back(clock.Now100ns());
    timer->Arm(clock.Now100ns() + 10);
  });
  timer->Arm(10);
  timers.AdvanceTo(35);
  EXPECT_THAT(fired, ElementsAre(10, 20, 30));
}

TEST(FakeTimerQueue, APassedDeadlineFiresAtThePresent) {
  FakeClock clock(100);
  FakeTimerQueue timers(clock);
  uint64_t fired = 0;
  auto timer = timers.CreateTimer([&] { fired = clock.Now100ns(); });
  timer->Arm(1);
  EXPECT_EQ(fired, 0u) << "never from inside Arm";
  timers.RunDue();
  EXPECT_EQ(fired, 100u);
}

TEST(FakeTimerQueue, DestructionWaitsForTheCallback) {
  FakeClock clock;
  FakeTimerQueue timers(clock);
  std::atomic<bool> inside{false}, done{false};
  auto timer = timers.CreateTimer([&] {
    inside = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    done = true;
  });
  timer->Arm(1);
  std::thread thread([&] { timers.AdvanceTo(1); });
  while (!inside) std::this_thread::yield();
  timer.reset();
  EXPECT_TRUE(done);
  thread.join();
}

}  // namespace
}  // namespace hvsdk
