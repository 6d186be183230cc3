// SPDX-License-Identifier: Apache-2.0
// A display's frame as a PNG file.
//
// Thread-safe. The frame's pixels are read once.

#ifndef HVSDK_SRC_VMM_PNG_H_
#define HVSDK_SRC_VMM_PNG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/resource/display.h"

namespace hvsdk::vmm {

// What a frame shows, and keeps showing when the guest draws on: 8 bits each of red, green and blue, row by row without gaps.
struct StillFrame {
  uint32_t width = 0, height = 0;
  std::vector<uint8_t> pixels;

  static StillFrame Of(const Frame& frame);
};

// Unimplemented: this system has no libpng, or the program was built without its header.
absl::Status CheckPng();
absl::StatusOr<std::string> EncodePng(const StillFrame& frame);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_PNG_H_
