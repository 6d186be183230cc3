// SPDX-License-Identifier: Apache-2.0
// WallClock: civil time, which a real-time clock shows and a time service tells.

#ifndef HVSDK_RESOURCE_WALL_CLOCK_H_
#define HVSDK_RESOURCE_WALL_CLOCK_H_

#include <cstdint>

namespace hvsdk {

// Thread-safe.
class WallClock {
 public:
  virtual ~WallClock() = default;
  // Nanoseconds since 1970-01-01 00:00 UTC.
  virtual int64_t NowNs() const = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_RESOURCE_WALL_CLOCK_H_
