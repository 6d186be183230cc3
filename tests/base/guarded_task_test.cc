// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/base/guarded_task.h"

#include <atomic>
#include <random>
#include <thread>

#include "gtest/gtest.h"
#include "hvsdk/base/queue_executor.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk {
namespace {

// What is not atomic is the turns', and the owner's while they are held.
struct Counting final : GuardedTask {
  using GuardedTask::GuardedTask;
  ~Counting() override { Hold(); }
  void Turn() override {
    ++turns;
    seen = wanted;
    done.store(seen, std::memory_order_release);
  }
  uint64_t turns = 0, wanted = 0, seen = 0;
  std::atomic<uint64_t> done{0};
};

TEST(GuardedTask, RunsWhatWasScheduledUnlessItIsHeld) {
  QueueExecutor executor;
  Counting task(executor);
  task.Schedule();
  task.Schedule();
  executor.RunUntilIdle();
  EXPECT_EQ(task.turns, 1u);
  task.Schedule();
  task.Hold();
  task.Hold();
  task.Schedule();
  executor.RunUntilIdle();
  EXPECT_EQ(task.turns, 1u);
  EXPECT_TRUE(task.is_held());
  task.Release();
  executor.RunUntilIdle();
  EXPECT_EQ(task.turns, 1u);
  task.Release();
  EXPECT_FALSE(task.is_held());
  executor.RunUntilIdle();
  EXPECT_EQ(task.turns, 2u);
}

TEST(GuardedTask, GoesWhileItIsScheduled) {
  QueueExecutor executor;
  {
    Counting task(executor);
    task.Schedule();
  }
  EXPECT_EQ(executor.RunUntilIdle(), 0u);
}

// One that is held is still run, for nothing, when it is scheduled; ThreadSanitizer sees whether it goes away under that.
TEST(GuardedTask, GoesWhileItIsHeldAndScheduled) {
  QueueExecutor executor;
  std::atomic<bool> stop{false};
  std::thread runner([&] {
    while (!stop.load()) (void)executor.RunOne();
  });
  for (uint32_t round = 0; round < ScaledCount(2000); ++round) {
    Counting task(executor);
    task.Hold();
    task.Schedule();
    if (round % 2 != 0) std::this_thread::yield();
  }
  stop = true;
  runner.join();
  EXPECT_FALSE(executor.RunOne());  // none has left its turn behind
}

// A third thread schedules it all the time; ThreadSanitizer sees whether owner and turns are ever there together.
TEST(GuardedTask, IsItsOwnersWhileItIsHeld) {
  const uint32_t rounds = ScaledCount(500);
  std::mt19937 random(TestSeed());
  QueueExecutor executor;
  std::atomic<bool> stop{false};
  Counting task(executor);
  std::thread runner([&] {
    while (!stop.load()) {
      if (!executor.RunOne()) std::this_thread::yield();
    }
  });
  std::thread scheduler([&] {
    while (!stop.load()) {
      task.Schedule();
      std::this_thread::yield();
    }
  });
  uint64_t turns = 0;
  for (uint64_t round = 1; round <= rounds; ++round) {
    task.Hold();
    EXPECT_GE(task.turns, turns);
    turns = task.turns;
    task.wanted = round;
    if (random() % 4 == 0) std::this_thread::yield();
    EXPECT_EQ(task.turns, turns);
    task.Release();
    // The turn that Release began, or one of the other thread's.
    while (random() % 4 == 0 && task.done.load(std::memory_order_acquire) != round) std::this_thread::yield();
  }
  while (task.done.load(std::memory_order_acquire) != rounds) std::this_thread::yield();
  stop = true;
  scheduler.join();
  runner.join();
}

}  // namespace
}  // namespace hvsdk
