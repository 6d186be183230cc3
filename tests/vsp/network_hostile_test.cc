// SPDX-License-Identifier: Apache-2.0
// Random guests at the network provider, that lie in every field; each seed is one input of the fuzz target. HVSDK_HOSTILE_SEEDS says how
// many.

#include <cstdlib>
#include <random>
#include <vector>

#include "fuzz/netvsp/netvsp_harness.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vsp {
namespace {

TEST(NetworkHostileTest, LiesFromManySeeds) {
  const char* const given = std::getenv("HVSDK_HOSTILE_SEEDS");
  const uint32_t seeds = given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 0)) : ScaledCount(2000);
  const uint32_t first = TestSeed();
  NetvspHarness harness;
  for (uint32_t i = 0; i < seeds; ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << first + i);
    std::mt19937 random(first + i);
    std::vector<uint8_t> input(16 + random() % 1500);
    for (auto& byte : input) byte = static_cast<uint8_t>(random());
    harness.Play(input.data(), input.size());
  }
  // It gets somewhere: of 200 seeds, the usual is 14, 1 and 7 each; frames come from few of them, and vary most.
  std::printf("%u seeds: %llu packets answered, %llu frames sent, %llu transfers received\n", seeds,
              static_cast<unsigned long long>(harness.completions),
              static_cast<unsigned long long>(FicklePort::frames_sent),
              static_cast<unsigned long long>(harness.transfers));
  EXPECT_GT(harness.completions, 5 * seeds);
  EXPECT_GT(FicklePort::frames_sent, seeds / 4);
  EXPECT_GT(harness.transfers, seeds);
}

}  // namespace
}  // namespace hvsdk::vsp
