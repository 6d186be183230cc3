// SPDX-License-Identifier: Apache-2.0
// HostClock: the host's time, which goes on whatever a guest's does. Thread-safe.

#ifndef HVSDK_OS_HOST_CLOCK_H_
#define HVSDK_OS_HOST_CLOCK_H_

#include <chrono>
#include <cstdint>
#include <ratio>

#include "hvsdk/base/clock.h"

namespace hvsdk::os {

class HostClock final : public Clock {
 public:
  uint64_t Now100ns() const override {
    using Unit = std::chrono::duration<uint64_t, std::ratio<1, 10'000'000>>;
    return std::chrono::duration_cast<Unit>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
};

}  // namespace hvsdk::os

#endif  // HVSDK_OS_HOST_CLOCK_H_
