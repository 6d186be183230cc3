// SPDX-License-Identifier: Apache-2.0
// The fuzzer's hostile guest (fuzz/balloon/balloon_harness.h) with random bytes.

#include <cstdint>
#include <random>
#include <vector>

#include "fuzz/balloon/balloon_harness.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::vsp {
namespace {

TEST(BalloonHostileTest, RandomBytes) {
  std::mt19937 random(TestSeed());
  BalloonHarness harness;
  for (int round = 0; round < 1000; ++round) {
    std::vector<uint8_t> bytes(random() % 600);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    harness.Play(bytes.data(), bytes.size());
  }
  EXPECT_GT(harness.given, 200u);
  EXPECT_GT(harness.given_back, 50u);
  EXPECT_GT(harness.added, 30u);
}

}  // namespace
}  // namespace hvsdk::vsp
