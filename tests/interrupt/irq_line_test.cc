// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/interrupt/irq_line.h"

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hvsdk::interrupt {
namespace {

TEST(IrqLineTest, DrivesChangesOnly) {
  std::vector<bool> levels;
  IrqLine line([&](bool level) { levels.push_back(level); });
  EXPECT_FALSE(line.Want(false));
  EXPECT_TRUE(line.Want(true));
  line.Drive();
  EXPECT_FALSE(line.Want(true));
  line.Drive();
  EXPECT_TRUE(line.Want(false));
  line.Drive();
  EXPECT_THAT(levels, ::testing::ElementsAre(true, false));
}

TEST(IrqLineTest, AnEdgeDecidedBetweenTwoDrivesIsNotLost) {
  std::vector<bool> levels;
  IrqLine line([&](bool level) { levels.push_back(level); });
  (void)line.Want(true);
  line.Drive();
  (void)line.Want(false);
  (void)line.Want(true);
  line.Drive();
  EXPECT_THAT(levels, ::testing::ElementsAre(true, false, true));
}

// Whatever the threads' order, the wire ends at the level that was decided last, and calls never overlap.
TEST(IrqLineTest, ConcurrentDrivers) {
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  bool wire = false;
  IrqLine line([&](bool level) {
    if (inside.fetch_add(1) != 0) overlapped = true;
    wire = level;
    inside.fetch_sub(1);
  });
  std::mutex mutex;
  bool decided = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20000; ++i) {
        bool drive;
        {
          std::lock_guard lock(mutex);
          decided = ((i * 7 + t) & 3) < 2;
          drive = line.Want(decided);
        }
        if (drive) line.Drive();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(wire, decided);
}

}  // namespace
}  // namespace hvsdk::interrupt
