// SPDX-License-Identifier: Apache-2.0
// A GUID as VHDX keeps it: the first three fields little-endian ([MS-DTYP] 2.3.4.2), in memory as on disk.

#ifndef HVSDK_SRC_IMAGE_GUID_H_
#define HVSDK_SRC_IMAGE_GUID_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace hvsdk::internal {

using Guid = std::array<uint8_t, 16>;

// From the fields as they are written: 2DC27766-F623-4200-9D64-115E9BFD4A08 is
// MakeGuid(0x2DC27766, 0xF623, 0x4200, 0x9D64115E9BFD4A08).
constexpr Guid MakeGuid(uint32_t a, uint16_t b, uint16_t c, uint64_t d) {
  Guid guid{};
  for (int i = 0; i < 4; ++i) guid[i] = static_cast<uint8_t>(a >> (8 * i));
  for (int i = 0; i < 2; ++i) guid[4 + i] = static_cast<uint8_t>(b >> (8 * i));
  for (int i = 0; i < 2; ++i) guid[6 + i] = static_cast<uint8_t>(c >> (8 * i));
  for (int i = 0; i < 8; ++i) guid[8 + i] = static_cast<uint8_t>(d >> (8 * (7 - i)));
  return guid;
}

// A new one (RFC 4122, version 4).
Guid NewGuid();

// "{2dc27766-f623-4200-9d64-115e9bfd4a08}", and back, in any case; all zeroes: it is none.
std::string FormatGuid(const Guid& guid);
Guid ParseGuid(absl::string_view text);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_GUID_H_
