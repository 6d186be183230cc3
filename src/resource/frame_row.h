// SPDX-License-Identifier: Apache-2.0
// Pixels of a frame as those need them who look at colours, in whichever format the guest has them.
//
// Thread-safe. Each byte of the guest's is read once.

#ifndef HVSDK_SRC_RESOURCE_FRAME_ROW_H_
#define HVSDK_SRC_RESOURCE_FRAME_ROW_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hvsdk/resource/display.h"
#include "memory/guest_copy.h"

namespace hvsdk::internal {

// `width` pixels of row `y` from `x` on, all within the frame, as 0x00RRGGBB.
inline void ReadRow(const Frame& frame, uint32_t x, uint32_t y, uint32_t width, uint32_t* to) {
  constexpr uint32_t kAtOnce = 256;
  const uint32_t pixel_bytes = BytesOf(frame.format);
  const uint8_t* from = frame.pixels + size_t{y} * frame.stride_bytes + size_t{x} * pixel_bytes;
  uint8_t copy[kAtOnce * 4];
  while (width != 0) {
    const uint32_t count = std::min(width, kAtOnce);
    GuestCopy(copy, from, size_t{count} * pixel_bytes);
    for (uint32_t i = 0; i < count; ++i) {
      const uint8_t* const pixel = &copy[i * pixel_bytes];
      if (frame.format == PixelFormat::kXrgb8888) {
        to[i] = uint32_t{pixel[0]} | uint32_t{pixel[1]} << 8 | uint32_t{pixel[2]} << 16;
      } else {
        const uint32_t all = pixel[0] | uint32_t{pixel[1]} << 8;
        const uint32_t red = all >> 11, green = all >> 5 & 0x3F, blue = all & 0x1F;
        to[i] = (red << 3 | red >> 2) << 16 | (green << 2 | green >> 4) << 8 | (blue << 3 | blue >> 2);
      }
    }
    from += size_t{count} * pixel_bytes;
    to += count;
    width -= count;
  }
}

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_RESOURCE_FRAME_ROW_H_
