// SPDX-License-Identifier: Apache-2.0
// What a monitor says of itself: one block of EDID, with one size that it prefers.
//
// Source: VESA Enhanced EDID Standard, Release A, Revision 2 (EDID 1.4), 3.

#ifndef HVSDK_SRC_VSP_EDID_H_
#define HVSDK_SRC_VSP_EDID_H_

#include <algorithm>
#include <array>
#include <cstdint>

#include "hvsdk/hvdef/video.h"

namespace hvsdk::vsp {

// Sizes are below 4096 each way.
inline std::array<uint8_t, hvdef::video::kEdidBytes> MakeEdid(uint32_t width, uint32_t height) {
  constexpr uint32_t kRefreshHz = 60, kBlankWidth = 160, kBlankHeight = 45;
  constexpr uint32_t kFrontPorch = 48, kSyncWidth = 32, kVerticalPorch = 3, kSyncHeight = 6;
  const uint64_t clock_10khz = uint64_t{width + kBlankWidth} * (height + kBlankHeight) * kRefreshHz / 10'000;
  std::array<uint8_t, hvdef::video::kEdidBytes> edid{};
  const auto put = [&edid](size_t at, std::initializer_list<uint32_t> bytes) {
    for (const uint32_t byte : bytes) edid[at++] = static_cast<uint8_t>(byte);
  };
  put(0x00, {0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x00});
  put(0x08, {0x22, 0xD3});  // 3.4.1: "HVS", five bits a letter
  put(0x10, {0xFF, 36});    // 3.4.4: the model's year, 2026
  put(0x12, {1, 4});        // version
  put(0x14,
      {0xA5, 0, 0, 120, 0x06});  // 3.6: digital, 8 bits a colour; no size; gamma 2.2; sRGB, prefers its first timing
  put(0x19, {0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54});  // 3.7: sRGB's
  std::fill(edid.begin() + 0x26, edid.begin() + 0x36, uint8_t{0x01});       // 3.9: no standard timings
  // 3.10.2: the detailed timing.
  put(0x36, {static_cast<uint32_t>(clock_10khz) & 0xFF, static_cast<uint32_t>(clock_10khz >> 8), width & 0xFF,
             kBlankWidth & 0xFF, (width >> 8) << 4 | kBlankWidth >> 8, height & 0xFF, kBlankHeight & 0xFF,
             (height >> 8) << 4 | kBlankHeight >> 8, kFrontPorch, kSyncWidth, kVerticalPorch << 4 | kSyncHeight, 0, 0,
             0, 0, 0, 0, 0x1A});
  // 3.10.3: the name, and dummies.
  put(0x48, {0, 0, 0, 0xFC, 0, 'h', 'v', 's', 'd', 'k', '\n', ' ', ' ', ' ', ' ', ' ', ' ', ' '});
  put(0x5A, {0, 0, 0, 0x10});
  put(0x6C, {0, 0, 0, 0x10});
  uint8_t sum = 0;
  for (const uint8_t byte : edid) sum = static_cast<uint8_t>(sum + byte);
  edid[127] = static_cast<uint8_t>(-sum);
  return edid;
}

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_EDID_H_
