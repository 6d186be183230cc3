// SPDX-License-Identifier: Apache-2.0
// Random guests and hosts that call the server at once, on threads of their own.

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "fuzz/vmbus_calls/calls_driver.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vmbus {
namespace {

std::vector<uint8_t> RandomBytes(std::mt19937& random, size_t size) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

TEST(ServerCallsTest, FromWithin) {
  const uint32_t seeds = ScaledCount(5000);
  std::mt19937 random(TestSeed());
  for (uint32_t i = 0; i < seeds; ++i) {
    const auto outside = RandomBytes(random, random() % 400), inside = RandomBytes(random, random() % 200);
    CallsDriver::Script script(outside), inner(inside);
    CallsDriver driver(&inner);
    while (!script.is_over()) {
      if (script.Take() % 3 == 0) {
        driver.HostStep(script);
      } else {
        driver.GuestStep(script);
      }
    }
    driver.Finish();
  }
}

TEST(ServerCallsTest, FromManyThreads) {
  constexpr int kProcessors = 3;
  const uint32_t seeds = ScaledCount(300);
  std::mt19937 random(TestSeed());
  for (uint32_t i = 0; i < seeds; ++i) {
    std::vector<std::vector<uint8_t>> bytes;
    for (int j = 0; j <= kProcessors; ++j) bytes.push_back(RandomBytes(random, 1000));
    CallsDriver driver(nullptr);
    std::atomic<int> running{kProcessors};
    std::vector<std::thread> processors;
    for (int j = 0; j < kProcessors; ++j) {
      processors.emplace_back([&, j] {
        CallsDriver::Script script(bytes[j]);
        while (!script.is_over()) driver.GuestStep(script);
        --running;
      });
    }
    CallsDriver::Script script(bytes[kProcessors]);
    while (running != 0 || !script.is_over()) driver.HostStep(script);
    for (std::thread& thread : processors) thread.join();
    driver.Finish();
  }
}

}  // namespace
}  // namespace hvsdk::vmbus
