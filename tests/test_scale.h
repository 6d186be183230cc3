// SPDX-License-Identifier: Apache-2.0
// How long the heavy tests run: HVSDK_TEST_SCALE=N in the environment divides their counts by N, for runs under a
// sanitizer. Without it they run in full.

#ifndef HVSDK_TESTS_TEST_SCALE_H_
#define HVSDK_TESTS_TEST_SCALE_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace hvsdk {

inline uint32_t ScaledCount(uint32_t full) {
  const char* text = std::getenv("HVSDK_TEST_SCALE");
  const long scale = text == nullptr ? 1 : std::strtol(text, nullptr, 10);
  return std::max<uint32_t>(1, full / static_cast<uint32_t>(std::clamp<long>(scale, 1, 1000000)));
}

}  // namespace hvsdk

#endif  // HVSDK_TESTS_TEST_SCALE_H_
