// SPDX-License-Identifier: Apache-2.0
// The numbers of RFB, by the sections of RFC 6143; those without one are of the community's rfbproto. All integers on the wire are big endian.

#ifndef HVSDK_SRC_VIEWER_RFB_WIRE_H_
#define HVSDK_SRC_VIEWER_RFB_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace hvsdk::viewer {

inline constexpr absl::string_view kRfbVersion = "RFB 003.008\n";  // 7.1.1
inline constexpr uint8_t kSecurityNone = 1, kSecurityVnc = 2;      // 7.1.2
inline constexpr uint8_t kSecurityVeNCrypt = 19;                   // "VeNCrypt" of the rfbproto, version 0.2
inline constexpr uint32_t kX509None = 260,
                          kX509Vnc = 261;  // its subtypes: TLS with a certificate, and what follows in it

// From the viewer, 7.5: type and size, of what has a size.
inline constexpr uint8_t kSetPixelFormat = 0, kSetEncodings = 2, kUpdateRequest = 3, kKeyEvent = 4, kPointerEvent = 5;
inline constexpr uint8_t kClientCutText = 6, kQemuMessage = 255;
inline constexpr uint8_t kQemuKeyEvent = 0;

// To the viewer, 7.6.
inline constexpr uint8_t kFramebufferUpdate = 0;

// 7.7 and 7.8.
inline constexpr int32_t kRaw = 0, kZrle = 16, kCursor = -239, kDesktopSize = -223, kQemuExtendedKeys = -258;
// Buttons beyond the seventh: where both sides know it, a pointer event whose mask has kMoreButtons has those in one byte more.
inline constexpr int32_t kExtendedMouseButtons = -316;
inline constexpr uint8_t kMoreButtons = 0x80;

// 7.4: the pixel format that a viewer wants.
struct PixelLayout {
  uint8_t bits = 32, depth = 24;
  bool is_big_endian = false;
  uint16_t max[3] = {255, 255, 255};  // of red, green and blue
  uint8_t shift[3] = {16, 8, 0};
  bool operator==(const PixelLayout&) const = default;
  uint32_t bytes() const { return bits / 8u; }
};
inline constexpr size_t kPixelLayoutBytes = 16;

inline void PutBe8(std::string& to, uint32_t value) { to.push_back(static_cast<char>(value)); }
inline void PutBe16(std::string& to, uint32_t value) {
  PutBe8(to, value >> 8);
  PutBe8(to, value);
}
inline void PutBe32(std::string& to, uint32_t value) {
  PutBe16(to, value >> 16);
  PutBe16(to, value);
}
inline uint16_t GetBe16(const uint8_t* from) { return static_cast<uint16_t>(from[0] << 8 | from[1]); }
inline uint32_t GetBe32(const uint8_t* from) { return uint32_t{GetBe16(from)} << 16 | GetBe16(from + 2); }

}  // namespace hvsdk::viewer

#endif  // HVSDK_SRC_VIEWER_RFB_WIRE_H_
