// SPDX-License-Identifier: Apache-2.0
// How long the heavy tests run: HVSDK_TEST_SCALE=N in the environment divides their counts by N, for runs under a
// sanitizer, and HVSDK_TEST_LENGTH=N multiplies them, for those who have the time.

#ifndef HVSDK_TESTS_TEST_SCALE_H_
#define HVSDK_TESTS_TEST_SCALE_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace hvsdk {

inline uint32_t ScaledCount(uint32_t usual) {
  const auto factor = [](const char* name) -> uint64_t {
    const char* const text = std::getenv(name);
    return text == nullptr ? 1 : static_cast<uint64_t>(std::clamp<long>(std::strtol(text, nullptr, 10), 1, 1000));
  };
  const uint64_t count = usual * factor("HVSDK_TEST_LENGTH") / factor("HVSDK_TEST_SCALE");
  return static_cast<uint32_t>(std::clamp<uint64_t>(count, 1, UINT32_MAX));
}

}  // namespace hvsdk

#endif  // HVSDK_TESTS_TEST_SCALE_H_
