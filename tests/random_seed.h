// SPDX-License-Identifier: Apache-2.0
// Where random tests get their seed: from HVSDK_TEST_SEED, which repeats a run, else from the system's randomness.

#ifndef HVSDK_TESTS_RANDOM_SEED_H_
#define HVSDK_TESTS_RANDOM_SEED_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace hvsdk {

// Prints what it returns, so that the output of a failed test, or of one that hung, says how to repeat it.
inline uint32_t TestSeed() {
  const char* given = std::getenv("HVSDK_TEST_SEED");
  const uint32_t seed =
      given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 0)) : std::random_device{}();
  std::printf("HVSDK_TEST_SEED=%u\n", seed);
  std::fflush(stdout);
  return seed;
}

}  // namespace hvsdk

#endif  // HVSDK_TESTS_RANDOM_SEED_H_
