// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli), as VHDX checks its structures: initial value and final exclusive-or 0xFFFFFFFF, bits reversed.

#ifndef HVSDK_SRC_IMAGE_CRC32C_H_
#define HVSDK_SRC_IMAGE_CRC32C_H_

#include <array>
#include <cstdint>

#include "absl/types/span.h"

namespace hvsdk::internal {

// Eight tables, for eight bytes a step.
inline constexpr auto kCrc32cTables = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
    tables[0][byte] = crc;
  }
  for (uint32_t byte = 0; byte < 256; ++byte) {
    for (int i = 1; i < 8; ++i) tables[i][byte] = tables[i - 1][byte] >> 8 ^ tables[0][tables[i - 1][byte] & 0xFF];
  }
  return tables;
}();

// Of several parts in turn: the value of the one before is `crc` of the next.
inline uint32_t Crc32c(absl::Span<const uint8_t> bytes, uint32_t crc = 0) {
  crc = ~crc;
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  const auto& t = kCrc32cTables;
  for (; left >= 8; left -= 8, at += 8) {
    const uint32_t low = crc ^ (at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24);
    crc = t[7][low & 0xFF] ^ t[6][low >> 8 & 0xFF] ^ t[5][low >> 16 & 0xFF] ^ t[4][low >> 24] ^ t[3][at[4]] ^
          t[2][at[5]] ^ t[1][at[6]] ^ t[0][at[7]];
  }
  for (; left != 0; --left) crc = crc >> 8 ^ t[0][(crc ^ *at++) & 0xFF];
  return ~crc;
}

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_CRC32C_H_
