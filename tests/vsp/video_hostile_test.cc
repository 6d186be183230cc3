// SPDX-License-Identifier: Apache-2.0
// The fuzzer's hostile guest (fuzz/video/video_harness.h) with random bytes.

#include <cstdint>
#include <random>
#include <vector>

#include "fuzz/video/video_harness.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::vsp {
namespace {

TEST(VideoHostileTest, RandomBytes) {
  std::mt19937 random(TestSeed());
  VideoHarness harness;
  for (int round = 0; round < 3000; ++round) {
    std::vector<uint8_t> bytes(random() % 600);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    harness.Play(bytes.data(), bytes.size());
  }
  EXPECT_GT(harness.frames, 1000u);
  EXPECT_GT(harness.rectangles, 200u);
  EXPECT_GT(harness.images, 100u);
}

}  // namespace
}  // namespace hvsdk::vsp
