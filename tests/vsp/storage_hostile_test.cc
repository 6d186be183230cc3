// SPDX-License-Identifier: Apache-2.0
// Random guests at the storage provider; each seed is one input of the fuzz target.

#include <random>
#include <vector>

#include "fuzz/storvsp/storvsp_harness.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vsp {
namespace {

TEST(StorageHostileTest, RandomPacketsFromManySeeds) {
  const uint32_t seeds = ScaledCount(100000);
  const uint32_t first = TestSeed();
  StorvspHarness harness;
  for (uint32_t i = 0; i < seeds; ++i) {
    std::mt19937 random(first + i);
    std::vector<uint8_t> input(16 + random() % 200);
    // Operation codes that exist are more fun than those that do not.
    constexpr uint8_t kCodes[] = {0x00, 0x03, 0x08, 0x0A, 0x12, 0x15, 0x1A, 0x1B, 0x25, 0x28, 0x2A, 0x2E,
                                  0x2F, 0x35, 0x41, 0x42, 0x55, 0x5A, 0x88, 0x8A, 0x93, 0x9E, 0xA0};
    for (auto& byte : input) byte = random() % 4 ? static_cast<uint8_t>(random()) : kCodes[random() % sizeof(kCodes)];
    harness.Play(input.data(), input.size());
  }
}

}  // namespace
}  // namespace hvsdk::vsp
