// SPDX-License-Identifier: Apache-2.0
// The structures of a VHDX file, little-endian ([MS-VHDX], "VHDX format specification"). Offsets are asserted; each is
// copied out of the file before it is looked at.

#ifndef HVSDK_SRC_IMAGE_VHDX_LAYOUT_H_
#define HVSDK_SRC_IMAGE_VHDX_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "image/guid.h"

namespace hvsdk::internal::vhdx {

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uint64_t kMaxDiskBytes = uint64_t{64} << 40;
inline constexpr uint32_t kMinBlockBytes = 1 << 20;
inline constexpr uint32_t kMaxBlockBytes = 256 << 20;
// More than one block of the greatest size for each that a disk has, and its tables: no image needs to grow beyond.
inline constexpr uint64_t kMaxFileBytes = uint64_t{128} << 40;

// 2.2: where the structures of the header section lie.
inline constexpr uint64_t kHeaderOffsets[2] = {64 << 10, 128 << 10};
inline constexpr uint64_t kRegionTableOffsets[2] = {192 << 10, 256 << 10};
inline constexpr uint32_t kRegionTableBytes = 64 << 10;

// 2.2.1 File type identifier.
inline constexpr char kFileSignature[8] = {'v', 'h', 'd', 'x', 'f', 'i', 'l', 'e'};

// 2.2.2 Header.
inline constexpr uint32_t kHeaderSignature = 0x64616568;  // "head"
inline constexpr uint32_t kHeaderBytes = 4096;            // of which the checksum covers all
struct Header {
  uint32_t signature;
  uint32_t checksum;
  uint64_t sequence_number;
  Guid file_write_guid;
  Guid data_write_guid;
  Guid log_guid;
  uint16_t log_version;
  uint16_t version;
  uint32_t log_length;
  uint64_t log_offset;
};
static_assert(sizeof(Header) == 80);
static_assert(offsetof(Header, checksum) == 4);
static_assert(offsetof(Header, sequence_number) == 8);
static_assert(offsetof(Header, file_write_guid) == 16);
static_assert(offsetof(Header, data_write_guid) == 32);
static_assert(offsetof(Header, log_guid) == 48);
static_assert(offsetof(Header, log_version) == 64);
static_assert(offsetof(Header, version) == 66);
static_assert(offsetof(Header, log_length) == 68);
static_assert(offsetof(Header, log_offset) == 72);

// 2.2.3 Region table.
inline constexpr uint32_t kRegionSignature = 0x69676572;  // "regi"
inline constexpr uint32_t kMaxRegions = 2047;
struct RegionTableHeader {
  uint32_t signature;
  uint32_t checksum;
  uint32_t entry_count;
  uint32_t reserved;
};
static_assert(sizeof(RegionTableHeader) == 16);
static_assert(offsetof(RegionTableHeader, checksum) == 4);
static_assert(offsetof(RegionTableHeader, entry_count) == 8);
static_assert(offsetof(RegionTableHeader, reserved) == 12);

struct RegionEntry {
  Guid guid;
  uint64_t file_offset;
  uint32_t length;
  uint32_t required;  // bit 0
};
static_assert(sizeof(RegionEntry) == 32);
static_assert(offsetof(RegionEntry, file_offset) == 16);
static_assert(offsetof(RegionEntry, length) == 24);
static_assert(offsetof(RegionEntry, required) == 28);

inline constexpr Guid kBatRegion = MakeGuid(0x2DC27766, 0xF623, 0x4200, 0x9D64115E9BFD4A08);
inline constexpr Guid kMetadataRegion = MakeGuid(0x8B7CA206, 0x4790, 0x4B9A, 0xB8FE575F050F886E);

// 2.3 Log: entries of whole sectors, with descriptors first and then data sectors.
inline constexpr uint32_t kLogSectorBytes = 4096;
inline constexpr uint32_t kLogEntrySignature = 0x65676F6C;        // "loge"
inline constexpr uint32_t kDataDescriptorSignature = 0x63736564;  // "desc"
inline constexpr uint32_t kZeroDescriptorSignature = 0x6F72657A;  // "zero"
inline constexpr uint32_t kDataSectorSignature = 0x61746164;      // "data"
struct LogEntryHeader {
  uint32_t signature;
  uint32_t checksum;
  uint32_t entry_length;
  uint32_t tail;
  uint64_t sequence_number;
  uint32_t descriptor_count;
  uint32_t reserved;
  Guid log_guid;
  uint64_t flushed_file_offset;
  uint64_t last_file_offset;
};
static_assert(sizeof(LogEntryHeader) == 64);
static_assert(offsetof(LogEntryHeader, checksum) == 4);
static_assert(offsetof(LogEntryHeader, entry_length) == 8);
static_assert(offsetof(LogEntryHeader, tail) == 12);
static_assert(offsetof(LogEntryHeader, sequence_number) == 16);
static_assert(offsetof(LogEntryHeader, descriptor_count) == 24);
static_assert(offsetof(LogEntryHeader, reserved) == 28);
static_assert(offsetof(LogEntryHeader, log_guid) == 32);
static_assert(offsetof(LogEntryHeader, flushed_file_offset) == 48);
static_assert(offsetof(LogEntryHeader, last_file_offset) == 56);

// 2.3.1.2, 2.3.1.3: the zero descriptor and the data descriptor have the same size.
struct LogDescriptor {
  uint32_t signature;
  uint32_t trailing_bytes;           // data: the last 4 bytes of the sector
  uint64_t leading_bytes_or_length;  // data: its first 8 bytes; zero: how many bytes
  uint64_t file_offset;
  uint64_t sequence_number;
};
static_assert(sizeof(LogDescriptor) == 32);
static_assert(offsetof(LogDescriptor, trailing_bytes) == 4);
static_assert(offsetof(LogDescriptor, leading_bytes_or_length) == 8);
static_assert(offsetof(LogDescriptor, file_offset) == 16);
static_assert(offsetof(LogDescriptor, sequence_number) == 24);

// 2.3.1.4
struct LogDataSector {
  uint32_t signature;
  uint32_t sequence_high;
  uint8_t data[4084];
  uint32_t sequence_low;
};
static_assert(sizeof(LogDataSector) == kLogSectorBytes);
static_assert(offsetof(LogDataSector, sequence_high) == 4);
static_assert(offsetof(LogDataSector, data) == 8);
static_assert(offsetof(LogDataSector, sequence_low) == 4092);

// 2.5 BAT entry: bits 0 to 2 the state, bits 20 to 63 the offset in the file in MiB.
enum class BlockState : uint8_t {
  kNotPresent = 0,  // the parent's; without one, zeroes
  kUndefined = 1,
  kZero = 2,
  kUnmapped = 3,
  kFullyPresent = 6,
  kPartiallyPresent = 7  // the sector bitmap says which sectors
};
inline constexpr uint8_t kBitmapPresent = 6;
constexpr BlockState StateOf(uint64_t entry) { return static_cast<BlockState>(entry & 7); }
constexpr uint64_t OffsetOf(uint64_t entry) { return entry >> 20 << 20; }
constexpr uint64_t MakeEntry(BlockState state, uint64_t offset) { return offset | static_cast<uint64_t>(state); }

// 2.6 Metadata table.
inline constexpr char kMetadataSignature[8] = {'m', 'e', 't', 'a', 'd', 'a', 't', 'a'};
inline constexpr uint32_t kMetadataTableBytes = 64 << 10;
inline constexpr uint32_t kMaxMetadataEntries = 2047;
inline constexpr uint32_t kMaxMetadataItemBytes = 1 << 20;
struct MetadataTableHeader {
  char signature[8];
  uint16_t reserved;
  uint16_t entry_count;
  uint32_t reserved2[5];
};
static_assert(sizeof(MetadataTableHeader) == 32);
static_assert(offsetof(MetadataTableHeader, reserved) == 8);
static_assert(offsetof(MetadataTableHeader, entry_count) == 10);
static_assert(offsetof(MetadataTableHeader, reserved2) == 12);

inline constexpr uint32_t kItemIsUser = 1;
inline constexpr uint32_t kItemIsVirtualDisk = 2;
inline constexpr uint32_t kItemIsRequired = 4;
struct MetadataEntry {
  Guid item_id;
  uint32_t offset;  // from the region's start; at least 64 KiB
  uint32_t length;
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(MetadataEntry) == 32);
static_assert(offsetof(MetadataEntry, offset) == 16);
static_assert(offsetof(MetadataEntry, length) == 20);
static_assert(offsetof(MetadataEntry, flags) == 24);
static_assert(offsetof(MetadataEntry, reserved) == 28);

// 2.6.2 Known items.
inline constexpr Guid kFileParametersItem = MakeGuid(0xCAA16737, 0xFA36, 0x4D43, 0xB3B633F0AA44E76B);
inline constexpr Guid kDiskSizeItem = MakeGuid(0x2FA54224, 0xCD1B, 0x4876, 0xB2115DBED83BF4B8);
inline constexpr Guid kDiskIdItem = MakeGuid(0xBECA12AB, 0xB2E6, 0x4523, 0x93EFC309E000C746);
inline constexpr Guid kLogicalSectorItem = MakeGuid(0x8141BF1D, 0xA96F, 0x4709, 0xBA47F233A8FAAB5F);
inline constexpr Guid kPhysicalSectorItem = MakeGuid(0xCDA348C7, 0x445D, 0x4471, 0x9CC9E9885251C556);
inline constexpr Guid kParentLocatorItem = MakeGuid(0xA8D35F2D, 0xB30B, 0x454D, 0xABF7D3D84834AB0C);

// 2.6.2.1 File parameters.
inline constexpr uint32_t kLeaveBlocksAllocated = 1;  // a fixed disk
inline constexpr uint32_t kHasParent = 2;
struct FileParameters {
  uint32_t block_bytes;
  uint32_t flags;
};
static_assert(sizeof(FileParameters) == 8);
static_assert(offsetof(FileParameters, flags) == 4);

// 2.6.2.6 Parent locator.
inline constexpr Guid kVhdxParentLocator = MakeGuid(0xB04AEFB7, 0xD19E, 0x4A81, 0xB78925B8E9445913);
struct ParentLocatorHeader {
  Guid type;
  uint16_t reserved;
  uint16_t key_value_count;
};
static_assert(sizeof(ParentLocatorHeader) == 20);
static_assert(offsetof(ParentLocatorHeader, reserved) == 16);
static_assert(offsetof(ParentLocatorHeader, key_value_count) == 18);

struct ParentLocatorEntry {
  uint32_t key_offset;  // from the locator's start
  uint32_t value_offset;
  uint16_t key_length;  // in bytes of UTF-16
  uint16_t value_length;
};
static_assert(sizeof(ParentLocatorEntry) == 12);
static_assert(offsetof(ParentLocatorEntry, value_offset) == 4);
static_assert(offsetof(ParentLocatorEntry, key_length) == 8);
static_assert(offsetof(ParentLocatorEntry, value_length) == 10);

}  // namespace hvsdk::internal::vhdx

#endif  // HVSDK_SRC_IMAGE_VHDX_LAYOUT_H_
