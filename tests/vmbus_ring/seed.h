// SPDX-License-Identifier: Apache-2.0
// Where random tests get their seed and their length: HVSDK_TEST_SEED repeats a run, HVSDK_TEST_SCALE (per cent) shortens it.

#ifndef HVSDK_TESTS_VMBUS_RING_SEED_H_
#define HVSDK_TESTS_VMBUS_RING_SEED_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace hvsdk::vmbus {

inline uint64_t TestSeed() {
  const char* given = std::getenv("HVSDK_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
  std::printf("seed %llu (HVSDK_TEST_SEED repeats it)\n", static_cast<unsigned long long>(seed));
  return seed;
}

inline int ScaledSteps(int steps) {
  const char* scale = std::getenv("HVSDK_TEST_SCALE");
  return scale != nullptr ? static_cast<int>(int64_t{steps} * std::atoi(scale) / 100) : steps;
}

}  // namespace hvsdk::vmbus

#endif  // HVSDK_TESTS_VMBUS_RING_SEED_H_
