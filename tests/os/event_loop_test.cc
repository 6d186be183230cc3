// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::os {
namespace {

class HostClock final : public Clock {
 public:
  uint64_t Now100ns() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_).count() /
           100;
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class CallTask final : public Task {
 public:
  explicit CallTask(std::function<void()> call) : call_(std::move(call)) {}
  void Run() override { call_(); }

 private:
  std::function<void()> call_;
};

class EventLoopTest : public ::testing::Test {
 protected:
  EventLoopTest() : loop_(*EventLoop::Create()), timers_(*LoopTimers::Create(*loop_, clock_)) {}
  void Start() {
    thread_ = std::thread([this] { loop_->Run(); });
  }
  void Finish() {
    loop_->Stop();
    thread_.join();
  }
  // False if `condition` has not come true in half a minute, which is long on a busy host too.
  template <typename Condition>
  bool Eventually(Condition condition) {
    const uint64_t deadline = clock_.Now100ns() + 300'000'000;
    while (!condition()) {
      if (clock_.Now100ns() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }
  HostClock clock_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<LoopTimers> timers_;
  std::thread thread_;
};

TEST_F(EventLoopTest, RunsTasksInOrderOnce) {
  std::vector<int> order;
  CallTask a([&] { order.push_back(1); }), b([&] { order.push_back(2); });
  loop_->Schedule(a);
  loop_->Schedule(b);
  loop_->Schedule(a);  // still queued
  loop_->Stop();
  loop_->Run();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

// Whoever waits for what a task does has to be asked again before the loop sleeps.
TEST_F(EventLoopTest, OnceSleepsOnlyIfThereWasNothing) {
  constexpr std::chrono::seconds kRescue(5);
  int runs = 0;
  CallTask task([&] { ++runs; }), rescue([] {});
  loop_->Schedule(task);
  std::promise<void> is_back;
  std::thread watchdog([&, back = is_back.get_future()] {
    if (back.wait_for(kRescue) == std::future_status::timeout) loop_->Schedule(rescue);
  });
  const auto start = std::chrono::steady_clock::now();
  loop_->RunOnce(/*wait=*/true);
  EXPECT_LT(std::chrono::steady_clock::now() - start, kRescue);
  EXPECT_EQ(runs, 1);
  is_back.set_value();
  watchdog.join();
  loop_->Drain(rescue);
}

// Every wake-up is followed by a run that sees what was written before it.
TEST_F(EventLoopTest, NoWakeUpIsLost) {
  std::atomic<uint64_t> written{0}, seen{0};
  CallTask task([&] { seen = written.load(); });
  Start();
  bool lost = false;
  for (uint64_t i = 1; i <= 20000 && !lost; ++i) {
    written = i;
    loop_->Schedule(task);
    if (i % 7 == 0 || i == 20000) lost = !Eventually([&] { return seen == i; });
  }
  EXPECT_FALSE(lost) << "the task saw " << seen << " and not " << written;
  loop_->Drain(task);
  Finish();
}

// It runs whether processors are idle or not, also when it is all that a sleeping loop has.
TEST_F(EventLoopTest, WhatWaitsForAnIdleProcessorRunsInAMoment) {
  Start();
  ASSERT_TRUE(Eventually([&] { return loop_->knows_idle(); }));
  for (const size_t busy : {size_t{0}, size_t{2 * std::thread::hardware_concurrency()}}) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> loops(busy);
    for (std::thread& thread : loops) {
      thread = std::thread([&] {
        while (!stop.load(std::memory_order_relaxed)) {
        }
      });
    }
    std::atomic<int> runs{0};
    CallTask later([&] { ++runs; });
    CallTask task([&] { loop_->ScheduleWhenIdle(later); });
    for (int i = 1; i <= 200; ++i) {
      loop_->Schedule(task);
      ASSERT_TRUE(Eventually([&] { return runs == i; })) << busy << " threads, run " << i;
    }
    stop = true;
    for (std::thread& thread : loops) thread.join();
    loop_->Drain(task);
    loop_->Drain(later);
  }
  Finish();
  EXPECT_FALSE(loop_->knows_idle());
}

// From another thread, drained at any moment, and beside Schedule: each call is followed by a run.
TEST_F(EventLoopTest, NoWakeUpOfEitherKindIsLost) {
  Start();
  std::atomic<uint64_t> written{0}, seen{0};
  CallTask task([&] { seen = written.load(); });
  std::mt19937_64 random(TestSeed());
  for (uint64_t i = 1; i <= 3000; ++i) {
    written = i;
    random() % 2 == 0 ? loop_->Schedule(task) : loop_->ScheduleWhenIdle(task);
    const bool is_looked_at = i % 5 == 0;
    ASSERT_TRUE(!is_looked_at || Eventually([&] { return seen == i; })) << i;
    if (random() % 16 == 0) loop_->Drain(task);
  }
  loop_->Drain(task);
  Finish();
}

TEST_F(EventLoopTest, DrainWaitsForARunningTask) {
  Start();
  for (int i = 0; i < 500; ++i) {
    std::atomic<bool> running{false}, done{false};
    CallTask task([&] {
      running = true;
      std::this_thread::yield();
      done = true;
    });
    loop_->Schedule(task);
    while (i % 2 != 0 && !running) std::this_thread::yield();
    loop_->Drain(task);
    EXPECT_EQ(running.load(), done.load());
  }
  Finish();
}

TEST_F(EventLoopTest, DrainWithoutALoopThreadRemoves) {
  bool ran = false;
  CallTask task([&] { ran = true; });
  loop_->Schedule(task);
  loop_->Drain(task);
  loop_->Stop();
  loop_->Run();
  EXPECT_FALSE(ran);
  loop_->Schedule(task);  // it can be used again
  loop_->Stop();
  loop_->Run();
  EXPECT_TRUE(ran);
}

TEST_F(EventLoopTest, WatchesDescriptorsWhileTasksNeverEnd) {
  const int fd = eventfd(0, EFD_NONBLOCK);
  CallTask* again = nullptr;
  CallTask busy([&] { loop_->Schedule(*again); });
  again = &busy;
  std::atomic<int> events{0};
  ASSERT_TRUE(loop_
                  ->Watch(fd, EPOLLIN,
                          [&](uint32_t) {
                            uint64_t count;
                            (void)!read(fd, &count, sizeof(count));
                            ++events;
                            loop_->Unwatch(fd);
                            loop_->Drain(busy);
                            loop_->Stop();
                          })
                  .ok());
  loop_->Schedule(busy);
  Start();
  const uint64_t one = 1;
  ASSERT_EQ(write(fd, &one, sizeof(one)), 8);
  thread_.join();
  EXPECT_EQ(events, 1);
  close(fd);
}

TEST_F(EventLoopTest, TimersFireAndNeverEarly) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  Start();
  std::vector<std::unique_ptr<Timer>> timers;
  std::vector<uint64_t> deadlines(200);
  std::atomic<int> fired{0}, early{0};
  const uint64_t start = clock_.Now100ns();
  for (int i = 0; i < 200; ++i) {
    deadlines[i] = start + random() % 2'000'000;
    timers.push_back(timers_->CreateTimer([&, i] {
      if (clock_.Now100ns() < deadlines[i]) ++early;
      ++fired;
    }));
  }
  for (int i = 0; i < 200; ++i) timers[i]->Arm(deadlines[i]);
  while (fired != 200) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(early, 0);
  timers.clear();
  Finish();
}

TEST_F(EventLoopTest, CancelAndRearm) {
  Start();
  std::atomic<int> fired{0};
  auto timer = timers_->CreateTimer([&] { ++fired; });
  timer->Arm(clock_.Now100ns() + 200'000);
  timer->Cancel();
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
  EXPECT_EQ(fired, 0);
  timer->Arm(clock_.Now100ns() + 1'000'000'000);
  timer->Arm(0);  // long past: at once
  while (fired == 0) std::this_thread::yield();
  timer->Arm(UINT64_MAX);
  timer.reset();
  Finish();
  EXPECT_EQ(fired, 1);
}

// A destroyed timer's callback neither runs nor is going to.
TEST_F(EventLoopTest, DestroyRacesWithFiring) {
  Start();
  for (int i = 0; i < 2000; ++i) {
    std::atomic<bool> alive{true}, late{false};
    auto timer = timers_->CreateTimer([&] {
      if (!alive) late = true;
    });
    timer->Arm(clock_.Now100ns() + i % 100);
    timer.reset();
    alive = false;
    ASSERT_FALSE(late);
  }
  Finish();
}

// A timer that arms itself for the past forever leaves room for others.
TEST_F(EventLoopTest, AGreedyTimerDoesNotStarveTheLoop) {
  std::unique_ptr<Timer> greedy;
  greedy = timers_->CreateTimer([&] { greedy->Arm(0); });
  std::atomic<bool> ran{false};
  CallTask task([&] { ran = true; });
  greedy->Arm(0);
  Start();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  loop_->Schedule(task);
  EXPECT_TRUE(Eventually([&] { return ran.load(); }));
  Finish();
  greedy.reset();
}

// --- Stop, whatever there is to do. ---

class StopTest : public EventLoopTest {
 protected:
  // Lets the loop get into its stride, and expects it to end within a second. A busy host is given time before that.
  void ExpectStop() {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto start = std::chrono::steady_clock::now();
    Finish();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  }
};

TEST_F(StopTest, ATaskThatNeverEnds) {
  CallTask* again = nullptr;
  CallTask task([&] { loop_->Schedule(*again); });
  again = &task;
  loop_->Schedule(task);
  Start();
  ExpectStop();
  loop_->Drain(task);
}

TEST_F(StopTest, ManyTasksWithLongTurnsThatNeverEnd) {
  std::vector<std::unique_ptr<CallTask>> tasks;
  for (size_t i = 0; i < 300; ++i) {
    tasks.push_back(std::make_unique<CallTask>([&, i] {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      loop_->Schedule(*tasks[i]);
    }));
  }
  for (auto& task : tasks) loop_->Schedule(*task);
  Start();
  ExpectStop();
  for (auto& task : tasks) loop_->Drain(*task);
}

// A signal, say, is seen as soon.
TEST_F(StopTest, ADescriptorIsSeenAmongManyLongTurns) {
  std::vector<std::unique_ptr<CallTask>> tasks;
  for (size_t i = 0; i < 300; ++i) {
    tasks.push_back(std::make_unique<CallTask>([&, i] {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      loop_->Schedule(*tasks[i]);
    }));
  }
  const int fd = eventfd(0, EFD_NONBLOCK);
  ASSERT_TRUE(loop_->Watch(fd, EPOLLIN, [&](uint32_t) { loop_->Stop(); }).ok());
  for (auto& task : tasks) loop_->Schedule(*task);
  Start();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto start = std::chrono::steady_clock::now();
  const uint64_t one = 1;
  ASSERT_EQ(write(fd, &one, sizeof(one)), 8);
  thread_.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  for (auto& task : tasks) loop_->Drain(*task);
  loop_->Unwatch(fd);
  close(fd);
}

TEST_F(StopTest, ATimerForThePast) {
  std::unique_ptr<Timer> greedy;
  greedy = timers_->CreateTimer([&] { greedy->Arm(0); });
  greedy->Arm(0);
  Start();
  ExpectStop();
}

TEST_F(StopTest, ADescriptorThatIsAlwaysReady) {
  const int fd = eventfd(1, EFD_NONBLOCK);
  std::atomic<int> calls{0};
  ASSERT_TRUE(loop_->Watch(fd, EPOLLIN, [&](uint32_t) { ++calls; }).ok());
  Start();
  ExpectStop();
  EXPECT_GT(calls, 0);
  loop_->Unwatch(fd);
  close(fd);
}

TEST_F(StopTest, RunForEndsByItself) {
  CallTask* again = nullptr;
  CallTask busy([&] { loop_->Schedule(*again); });
  again = &busy;
  for (const bool is_busy : {false, true}) {
    if (is_busy) loop_->Schedule(busy);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(loop_->RunFor(std::chrono::milliseconds(30)));
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(30));
  }
  loop_->Stop();
  EXPECT_TRUE(loop_->RunFor(std::chrono::hours(1)));
  loop_->Drain(busy);
}

// What was scheduled before has its turn, and the loop can be run again.
TEST_F(StopTest, WhatWasScheduledBeforeIsDone) {
  for (int round = 0; round < 3; ++round) {
    int ran = 0;
    std::vector<std::unique_ptr<CallTask>> tasks;
    for (int i = 0; i < 100; ++i) tasks.push_back(std::make_unique<CallTask>([&] { ++ran; }));
    for (auto& task : tasks) loop_->Schedule(*task);
    loop_->Stop();
    loop_->Run();
    EXPECT_EQ(ran, 100);
  }
}

}  // namespace
}  // namespace hvsdk::os
