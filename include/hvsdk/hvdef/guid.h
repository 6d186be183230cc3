// SPDX-License-Identifier: Apache-2.0
// Guid: the 16 bytes by which VMBus names a kind of device (class id, "interface type") and one device (instance id),
// and the well-known class ids.
//
// On the wire the first three fields are little-endian numbers and the last eight bytes stand as written (RFC 4122,
// "mixed-endian" form). Freestanding.
//
//   constexpr Guid kMine = MakeGuid("6b9d2f1e-0a4c-4c1f-9b7e-2d6a51f0c3aa");

#ifndef HVSDK_HVDEF_GUID_H_
#define HVSDK_HVDEF_GUID_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hvsdk::hvdef {

// RFC 4122, 4.1.2; Linux has it as guid_t.
struct Guid {
  uint32_t data1;
  uint16_t data2;
  uint16_t data3;
  uint8_t data4[8];

  friend constexpr bool operator==(const Guid& a, const Guid& b) {
    for (int i = 0; i < 8; ++i) {
      if (a.data4[i] != b.data4[i]) return false;
    }
    return a.data1 == b.data1 && a.data2 == b.data2 && a.data3 == b.data3;
  }
  // The order of the text forms.
  friend constexpr bool operator<(const Guid& a, const Guid& b) {
    if (a.data1 != b.data1) return a.data1 < b.data1;
    if (a.data2 != b.data2) return a.data2 < b.data2;
    if (a.data3 != b.data3) return a.data3 < b.data3;
    for (int i = 0; i < 8; ++i) {
      if (a.data4[i] != b.data4[i]) return a.data4[i] < b.data4[i];
    }
    return false;
  }
};
static_assert(sizeof(Guid) == 16);
static_assert(offsetof(Guid, data1) == 0 && offsetof(Guid, data2) == 4 && offsetof(Guid, data3) == 6 &&
              offsetof(Guid, data4) == 8);
static_assert(alignof(Guid) == 4 && std::is_trivially_copyable_v<Guid>);

inline constexpr size_t kGuidTextSize = 36;  // "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f"

// Reads the 36-character form, upper or lower case, without braces. False leaves `guid` untouched.
constexpr bool ParseGuid(const char* text, size_t size, Guid& guid) {
  if (size != kGuidTextSize) return false;
  uint8_t bytes[16] = {};
  int nibbles = 0;
  for (size_t i = 0; i < size; ++i) {
    const char c = text[i];
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (c != '-') return false;
      continue;
    }
    int digit = 0;
    if (c >= '0' && c <= '9') {
      digit = c - '0';
    } else if (c >= 'a' && c <= 'f') {
      digit = c - 'a' + 10;
    } else if (c >= 'A' && c <= 'F') {
      digit = c - 'A' + 10;
    } else {
      return false;
    }
    bytes[nibbles / 2] = static_cast<uint8_t>(bytes[nibbles / 2] << 4 | digit);
    ++nibbles;
  }
  guid.data1 = uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
  guid.data2 = static_cast<uint16_t>(bytes[4] << 8 | bytes[5]);
  guid.data3 = static_cast<uint16_t>(bytes[6] << 8 | bytes[7]);
  for (int i = 0; i < 8; ++i) guid.data4[i] = bytes[8 + i];
  return true;
}

namespace internal {
void ThisIsNotAGuid();  // not constexpr and never defined: to reach it is a compile error
}

// A Guid from a literal; a wrong literal does not compile.
consteval Guid MakeGuid(const char (&text)[kGuidTextSize + 1]) {
  Guid guid = {};
  if (!ParseGuid(text, kGuidTextSize, guid)) internal::ThisIsNotAGuid();
  return guid;
}

// Writes the 36-character form, lower case, without a terminating zero.
constexpr void FormatGuid(const Guid& guid, char (&text)[kGuidTextSize]) {
  constexpr char kDigits[] = "0123456789abcdef";
  const uint8_t bytes[16] = {static_cast<uint8_t>(guid.data1 >> 24),
                             static_cast<uint8_t>(guid.data1 >> 16),
                             static_cast<uint8_t>(guid.data1 >> 8),
                             static_cast<uint8_t>(guid.data1),
                             static_cast<uint8_t>(guid.data2 >> 8),
                             static_cast<uint8_t>(guid.data2),
                             static_cast<uint8_t>(guid.data3 >> 8),
                             static_cast<uint8_t>(guid.data3),
                             guid.data4[0],
                             guid.data4[1],
                             guid.data4[2],
                             guid.data4[3],
                             guid.data4[4],
                             guid.data4[5],
                             guid.data4[6],
                             guid.data4[7]};
  size_t at = 0;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
    text[at++] = kDigits[bytes[i] >> 4];
    text[at++] = kDigits[bytes[i] & 15];
  }
}

// Class ids that guests know (Linux: include/linux/hyperv.h).
namespace class_id {

inline constexpr Guid kNetwork = MakeGuid("f8615163-df3e-46c5-913f-f2d2f965ed0e");
inline constexpr Guid kScsi = MakeGuid("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f");
inline constexpr Guid kIde = MakeGuid("32412632-86cb-44a2-9b5c-50d1417354f5");
inline constexpr Guid kFibreChannel = MakeGuid("2f9bcc4a-0069-4af3-b76b-6fd0be528cda");
inline constexpr Guid kVideo = MakeGuid("da0a7802-e377-4aac-8e77-0558eb1073f8");
inline constexpr Guid kKeyboard = MakeGuid("f912ad6d-2b17-48ea-bd65-f927a61c7684");
inline constexpr Guid kMouse = MakeGuid("cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a");
inline constexpr Guid kShutdown = MakeGuid("0e0b6031-5213-4934-818b-38d90ced39db");
inline constexpr Guid kTimeSync = MakeGuid("9527e630-d0ae-497b-adce-e80ab0175caf");
inline constexpr Guid kHeartbeat = MakeGuid("57164f39-9115-4e78-ab55-382f3bd5422d");
inline constexpr Guid kKeyValuePair = MakeGuid("a9a0f4e7-5a45-4d96-b827-8a841e8c03e6");
inline constexpr Guid kBackup = MakeGuid("35fa2e29-ea23-4236-96ae-3a6ebacba440");
inline constexpr Guid kFileCopy = MakeGuid("34d14be3-dee4-41c8-9ae7-6b174977c192");
inline constexpr Guid kDynamicMemory = MakeGuid("525074dc-8985-46e2-8057-a307dc18a502");
inline constexpr Guid kPci = MakeGuid("44c4f61d-4444-4400-9d52-802e27ede19f");

}  // namespace class_id
}  // namespace hvsdk::hvdef

#endif  // HVSDK_HVDEF_GUID_H_
