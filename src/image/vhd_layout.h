// SPDX-License-Identifier: Apache-2.0
// The structures of a VHD file, big-endian ("Virtual Hard Disk Image Format Specification", version 1.0, October 2006).

#ifndef HVSDK_SRC_IMAGE_VHD_LAYOUT_H_
#define HVSDK_SRC_IMAGE_VHD_LAYOUT_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace hvsdk::internal::vhd {

template <typename T>
struct BigEndian {
  std::array<uint8_t, sizeof(T)> bytes;

  constexpr operator T() const {
    T value = 0;
    for (const uint8_t byte : bytes) value = static_cast<T>(value << 8 | byte);
    return value;
  }
  constexpr BigEndian& operator=(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * (sizeof(T) - 1 - i)));
    return *this;
  }
};
using Be16 = BigEndian<uint16_t>;
using Be32 = BigEndian<uint32_t>;
using Be64 = BigEndian<uint64_t>;

inline constexpr uint64_t kSector = 512;
inline constexpr uint64_t kMaxDiskBytes = uint64_t{2040} << 30;
inline constexpr uint32_t kVersion = 0x00010000;
inline constexpr uint32_t kNoBlock = 0xFFFFFFFF;  // an entry of the allocation table
inline constexpr int64_t kEpoch = 946684800;      // 2000-01-01 00:00 UTC in Unix time

enum class DiskType : uint32_t { kFixed = 2, kDynamic = 3, kDifferencing = 4 };

// "Hard Disk Footer Format": the last sector, and in a dynamic or differencing disk the first as well.
inline constexpr char kFooterCookie[8] = {'c', 'o', 'n', 'e', 'c', 't', 'i', 'x'};
struct Footer {
  char cookie[8];
  Be32 features;  // bit 1 is always set
  Be32 version;
  Be64 data_offset;  // of the dynamic disk header; a fixed disk: all ones
  Be32 timestamp;    // seconds since kEpoch
  char creator[4];
  Be32 creator_version;
  char creator_host[4];
  Be64 original_bytes;
  Be64 current_bytes;
  Be16 cylinders;
  uint8_t heads;
  uint8_t sectors_per_track;
  Be32 disk_type;
  Be32 checksum;  // of all bytes but these: their sum's complement
  std::array<uint8_t, 16> unique_id;
  uint8_t saved_state;
  uint8_t reserved[427];
};
static_assert(sizeof(Footer) == kSector);
static_assert(offsetof(Footer, features) == 8);
static_assert(offsetof(Footer, version) == 12);
static_assert(offsetof(Footer, data_offset) == 16);
static_assert(offsetof(Footer, timestamp) == 24);
static_assert(offsetof(Footer, creator) == 28);
static_assert(offsetof(Footer, creator_version) == 32);
static_assert(offsetof(Footer, creator_host) == 36);
static_assert(offsetof(Footer, original_bytes) == 40);
static_assert(offsetof(Footer, current_bytes) == 48);
static_assert(offsetof(Footer, cylinders) == 56);
static_assert(offsetof(Footer, heads) == 58);
static_assert(offsetof(Footer, sectors_per_track) == 59);
static_assert(offsetof(Footer, disk_type) == 60);
static_assert(offsetof(Footer, checksum) == 64);
static_assert(offsetof(Footer, unique_id) == 68);
static_assert(offsetof(Footer, saved_state) == 84);
static_assert(offsetof(Footer, reserved) == 85);

// "Dynamic Disk Header Format", parent locator entries.
struct ParentLocator {
  char platform[4];
  Be32 data_space;
  Be32 data_length;  // bytes
  Be32 reserved;
  Be64 data_offset;
};
static_assert(sizeof(ParentLocator) == 24);
static_assert(offsetof(ParentLocator, data_space) == 4);
static_assert(offsetof(ParentLocator, data_length) == 8);
static_assert(offsetof(ParentLocator, reserved) == 12);
static_assert(offsetof(ParentLocator, data_offset) == 16);

// "Dynamic Disk Header Format".
inline constexpr char kHeaderCookie[8] = {'c', 'x', 's', 'p', 'a', 'r', 's', 'e'};
struct DynamicHeader {
  char cookie[8];
  Be64 data_offset;  // all ones
  Be64 table_offset;
  Be32 version;
  Be32 max_entries;
  Be32 block_bytes;
  Be32 checksum;
  std::array<uint8_t, 16> parent_id;
  Be32 parent_timestamp;
  Be32 reserved;
  uint8_t parent_name[512];  // UTF-16, big-endian
  ParentLocator locators[8];
  uint8_t reserved2[256];
};
static_assert(sizeof(DynamicHeader) == 1024);
static_assert(offsetof(DynamicHeader, data_offset) == 8);
static_assert(offsetof(DynamicHeader, table_offset) == 16);
static_assert(offsetof(DynamicHeader, version) == 24);
static_assert(offsetof(DynamicHeader, max_entries) == 28);
static_assert(offsetof(DynamicHeader, block_bytes) == 32);
static_assert(offsetof(DynamicHeader, checksum) == 36);
static_assert(offsetof(DynamicHeader, parent_id) == 40);
static_assert(offsetof(DynamicHeader, parent_timestamp) == 56);
static_assert(offsetof(DynamicHeader, reserved) == 60);
static_assert(offsetof(DynamicHeader, parent_name) == 64);
static_assert(offsetof(DynamicHeader, locators) == 576);
static_assert(offsetof(DynamicHeader, reserved2) == 768);

// The checksum of a structure whose checksum field is at `where`.
template <typename T>
uint32_t Checksum(const T& structure, size_t where) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(&structure);
  uint32_t sum = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    if (i < where || i >= where + 4) sum += bytes[i];
  }
  return ~sum;
}

}  // namespace hvsdk::internal::vhd

#endif  // HVSDK_SRC_IMAGE_VHD_LAYOUT_H_
