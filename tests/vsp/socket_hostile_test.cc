// SPDX-License-Identifier: Apache-2.0
// Random guests at the socket provider; each seed is one input of the fuzz target. HVSDK_HOSTILE_SEEDS says how many.

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "fuzz/sockets/sockets_harness.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vsp {
namespace {

TEST(SocketHostileTest, LiesFromManySeeds) {
  const char* const given = std::getenv("HVSDK_HOSTILE_SEEDS");
  const uint32_t seeds = given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 0)) : ScaledCount(200);
  const uint32_t first = TestSeed();
  uint64_t taken = 0, opened = 0, broken = 0;
  for (uint32_t i = 0; i < seeds; ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << first + i);
    std::mt19937 random(first + i);
    std::vector<uint8_t> input(16 + random() % 1500);
    for (auto& byte : input) byte = static_cast<uint8_t>(random());
    SocketsHarness harness;
    harness.Play(input.data(), input.size());
    taken += harness.taken();
    opened += harness.counts().from_guest + harness.counts().from_host;
    broken += harness.counts().broken;
  }
  // It gets somewhere.
  std::printf("%u seeds: %llu bytes taken, %llu connections opened, %llu broken\n", seeds,
              static_cast<unsigned long long>(taken), static_cast<unsigned long long>(opened),
              static_cast<unsigned long long>(broken));
  EXPECT_GT(taken, 100 * seeds);
  EXPECT_GT(opened, seeds);
  EXPECT_GT(broken, seeds / 2);
}

}  // namespace
}  // namespace hvsdk::vsp
