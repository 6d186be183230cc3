// SPDX-License-Identifier: Apache-2.0
// A WebSocket's frames as clients send them, also such as none may.

#ifndef HVSDK_TESTS_WEB_CLIENT_FRAME_H_
#define HVSDK_TESTS_WEB_CLIENT_FRAME_H_

#include <cstdint>
#include <string>

#include "web/frames.h"

namespace hvsdk::web {

struct FrameKind {
  FrameType type = FrameType::kBinary;
  bool is_final = true;
  bool is_masked = true;
  uint8_t reserved = 0;
};

inline std::string ClientFrame(FrameKind kind, const std::string& payload, uint32_t mask = 0x12345678) {
  std::string frame(1, static_cast<char>((kind.is_final ? 0x80 : 0) | kind.reserved | static_cast<uint8_t>(kind.type)));
  const uint8_t masked = kind.is_masked ? 0x80 : 0;
  const size_t size = payload.size(), bytes = size < 126 ? 0 : size < 65536 ? 2 : 8;
  frame += static_cast<char>(masked | (bytes == 0 ? size : bytes == 2 ? 126 : 127));
  for (size_t i = bytes; i-- != 0;) frame += static_cast<char>(uint64_t{size} >> (8 * i));
  if (!kind.is_masked) return frame + payload;
  for (int i = 0; i < 4; ++i) frame += static_cast<char>(mask >> (8 * i));
  for (size_t i = 0; i < size; ++i) frame += static_cast<char>(payload[i] ^ static_cast<char>(mask >> (8 * (i % 4))));
  return frame;
}

}  // namespace hvsdk::web

#endif  // HVSDK_TESTS_WEB_CLIENT_FRAME_H_
