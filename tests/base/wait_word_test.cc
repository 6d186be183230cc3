// SPDX-License-Identifier: Apache-2.0
#include "base/wait_word.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk {
namespace {

// A lost wake-up is a test that hangs, which its time limit ends. What is not atomic below is there for
// ThreadSanitizer to find if a change that was waited for did not bring along what was written before it.

void Dawdle(std::mt19937& random) {
  // Seldom a yield, which gives whole time slices away where others want the processor, too.
  switch (random() % 64) {
    case 0:
      std::this_thread::yield();
      break;
    case 1:
    case 2:
    case 3:
    case 4:
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 50));
      break;
    default:
      for (volatile uint32_t i = random() % 256; i > 0;) i = i - 1;
  }
}

TEST(WaitWord, ReturnsAtOnceIfTheWordIsAnother) {
  WaitWord word(7);
  word.Wait(6);
  word.Wait(8);
  word.store(8, std::memory_order_relaxed);
  word.Wait(7);
  EXPECT_EQ(word.load(std::memory_order_relaxed), 8u);
  word.WakeOne();
  word.WakeAll();
}

// As a VP and those who ask things of it use it: each asker has a bit, and sleeps in turn until it is answered.
TEST(WaitWord, LosesNoBitOfManyAskersAndNoAnswer) {
  constexpr uint32_t kAskers = 5;
  const uint32_t rounds = ScaledCount(4'000);
  const uint32_t seed = TestSeed();
  WaitWord attention;
  WaitWord answered[kAskers];
  uint64_t question[kAskers] = {}, answer[kAskers] = {};

  std::vector<std::thread> askers;
  for (uint32_t me = 0; me < kAskers; ++me) {
    askers.emplace_back([&, me] {
      std::mt19937 random(seed + me);
      for (uint32_t round = 1; round <= rounds; ++round) {
        question[me] = random();
        attention.fetch_or(1u << me, std::memory_order_release);
        attention.WakeOne();
        for (uint32_t now; (now = answered[me].load(std::memory_order_acquire)) != round;) answered[me].Wait(now);
        ASSERT_EQ(answer[me], question[me] + 1);
        Dawdle(random);
      }
    });
  }
  std::mt19937 random(seed + kAskers);
  for (uint64_t left = uint64_t{kAskers} * rounds; left > 0;) {
    attention.Wait(0);
    for (uint32_t asked = attention.exchange(0, std::memory_order_acquire); asked != 0; asked &= asked - 1) {
      const int asker = __builtin_ctz(asked);
      answer[asker] = question[asker] + 1;
      answered[asker].fetch_add(1, std::memory_order_release);
      answered[asker].WakeOne();
      --left;
    }
    Dawdle(random);
  }
  for (std::thread& asker : askers) asker.join();
  EXPECT_EQ(attention.load(std::memory_order_relaxed), 0u);
}

// Many wait on one word for one event: a VP's leaving the guest.
TEST(WaitWord, WakesAllThatWaitForAChange) {
  constexpr int kWaiters = 6;
  const uint32_t rounds = ScaledCount(4'000);
  const uint32_t seed = TestSeed();
  WaitWord generation;
  WaitWord waiting;
  uint64_t written = 0;
  std::vector<std::thread> waiters;
  for (int me = 0; me < kWaiters; ++me) {
    waiters.emplace_back([&, me] {
      std::mt19937 random(seed + me);
      for (uint32_t round = 0; round < rounds; ++round) {
        if (waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == kWaiters) waiting.WakeOne();
        Dawdle(random);
        generation.Wait(round);
        ASSERT_EQ(written, round + 1);
      }
    });
  }
  std::mt19937 random(seed + kWaiters);
  for (uint32_t round = 0; round < rounds; ++round) {
    for (uint32_t now; (now = waiting.load(std::memory_order_acquire)) != kWaiters;) waiting.Wait(now);
    waiting.store(0, std::memory_order_relaxed);
    Dawdle(random);
    written = round + 1;
    generation.fetch_add(1, std::memory_order_release);
    generation.WakeAll();
  }
  for (std::thread& waiter : waiters) waiter.join();
}

TEST(WaitWord, SleepsOnThroughSignalsAndBurnsNoProcessor) {
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR2, &action, &before), 0);
  WaitWord word, started;
  uint64_t cpu_ns = 0;
  std::thread waiter([&] {
    started.store(1, std::memory_order_release);
    started.WakeOne();
    word.Wait(0);
    timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    cpu_ns = static_cast<uint64_t>(used.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(used.tv_nsec);
    EXPECT_EQ(word.load(std::memory_order_relaxed), 1u);
  });
  started.Wait(0);
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(pthread_kill(waiter.native_handle(), SIGUSR2), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  word.store(1, std::memory_order_release);
  word.WakeOne();
  waiter.join();
  EXPECT_LT(cpu_ns, 100'000'000u) << "of 200 ms";
  sigaction(SIGUSR2, &before, nullptr);
}

}  // namespace
}  // namespace hvsdk
