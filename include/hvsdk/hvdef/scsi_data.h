// SPDX-License-Identifier: Apache-2.0
// SCSI parameter data: what INQUIRY, READ CAPACITY, MODE SENSE, REPORT LUNS return and what UNMAP sends.
//
// Source: T10 SPC-4 and SBC-3, by section at each structure.

#ifndef HVSDK_HVDEF_SCSI_DATA_H_
#define HVSDK_HVDEF_SCSI_DATA_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/scsi.h"

namespace hvsdk::hvdef::scsi {

// Standard INQUIRY data (SPC-4 6.6.2), as far as the product revision and padded as Hyper-V's virtual disk returns it.
struct InquiryData {
  uint8_t peripheral;            // 0x00  qualifier in bits 7:5, device type in 4:0
  uint8_t removable;             // 0x01  bit 7
  uint8_t version;               // 0x02
  uint8_t response_data_format;  // 0x03
  uint8_t additional_length;     // 0x04
  uint8_t flags5;                // 0x05
  uint8_t flags6;                // 0x06
  uint8_t flags7;                // 0x07  bit 1: command queuing
  char vendor[8];                // 0x08  padded with spaces
  char product[16];              // 0x10
  char revision[4];              // 0x20
  uint8_t vendor_specific[20];   // 0x24
  uint8_t reserved1[2];          // 0x38
  Be16 version_descriptors[8];   // 0x3A
  uint8_t reserved2[30];         // 0x4A
};
static_assert(sizeof(InquiryData) == 104);
static_assert(offsetof(InquiryData, peripheral) == 0x00 && offsetof(InquiryData, removable) == 0x01 &&
              offsetof(InquiryData, version) == 0x02 && offsetof(InquiryData, response_data_format) == 0x03 &&
              offsetof(InquiryData, additional_length) == 0x04 && offsetof(InquiryData, flags5) == 0x05 &&
              offsetof(InquiryData, flags6) == 0x06 && offsetof(InquiryData, flags7) == 0x07 &&
              offsetof(InquiryData, vendor) == 0x08 && offsetof(InquiryData, product) == 0x10 &&
              offsetof(InquiryData, revision) == 0x20 && offsetof(InquiryData, vendor_specific) == 0x24 &&
              offsetof(InquiryData, reserved1) == 0x38 && offsetof(InquiryData, version_descriptors) == 0x3A &&
              offsetof(InquiryData, reserved2) == 0x4A);
inline constexpr uint8_t kDirectAccessDevice = 0x00;
inline constexpr uint8_t kCdDvdDevice = 0x05;
inline constexpr uint8_t kInquiryRemovable = 0x80;
inline constexpr uint8_t kNoLogicalUnit = 0x7F;  // qualifier 3, type 0x1F: nothing can be here
inline constexpr uint8_t kVersionSpc3 = 0x05;
inline constexpr uint8_t kResponseFormatSpc = 0x02;
inline constexpr uint8_t kInquiryCommandQueue = 0x02;

// Vital product data pages (SPC-4 7.8, SBC-3 6.5).
enum class VpdPage : uint8_t {
  kSupportedPages = 0x00,
  kUnitSerialNumber = 0x80,
  kDeviceIdentification = 0x83,
  kBlockLimits = 0xB0,
  kBlockDeviceCharacteristics = 0xB1,
  kLogicalBlockProvisioning = 0xB2,
};

// The head of a page (SPC-4 7.8).
struct VpdHeader {
  uint8_t peripheral;  // 0x00
  VpdPage page;        // 0x01
  Be16 length;         // 0x02  bytes that follow
};
static_assert(sizeof(VpdHeader) == 4);
static_assert(offsetof(VpdHeader, peripheral) == 0x00 && offsetof(VpdHeader, page) == 0x01 &&
              offsetof(VpdHeader, length) == 0x02);

// Header of a designator in page 0x83 (SPC-4 7.8.6).
struct DesignatorHeader {
  uint8_t code_set;  // 0x00  1: binary, 2: ASCII
  uint8_t type;      // 0x01  1: T10 vendor id, 3: NAA; association in bits 5:4
  uint8_t reserved;  // 0x02
  uint8_t length;    // 0x03
};
static_assert(sizeof(DesignatorHeader) == 4);
static_assert(offsetof(DesignatorHeader, code_set) == 0x00 && offsetof(DesignatorHeader, type) == 0x01 &&
              offsetof(DesignatorHeader, reserved) == 0x02 && offsetof(DesignatorHeader, length) == 0x03);
inline constexpr uint8_t kCodeSetBinary = 1;
inline constexpr uint8_t kDesignatorT10VendorId = 1;
inline constexpr uint8_t kDesignatorNaa = 3;

// Page 0xB0 (SBC-3 6.5.3).
struct BlockLimits {
  VpdHeader header;                          // 0x00
  uint8_t wsnz;                              // 0x04  bit 0: WRITE SAME of zero blocks is refused
  uint8_t max_compare_and_write_blocks;      // 0x05
  Be16 optimal_transfer_granularity_blocks;  // 0x06
  Be32 max_transfer_blocks;                  // 0x08
  Be32 optimal_transfer_blocks;              // 0x0C
  Be32 max_prefetch_blocks;                  // 0x10
  Be32 max_unmap_blocks;                     // 0x14
  Be32 max_unmap_descriptors;                // 0x18
  Be32 optimal_unmap_granularity_blocks;     // 0x1C
  Be32 unmap_granularity_alignment;          // 0x20  bit 31: valid
  Be64 max_write_same_blocks;                // 0x24
  uint8_t reserved[20];                      // 0x2C
};
static_assert(sizeof(BlockLimits) == 64);
static_assert(offsetof(BlockLimits, header) == 0x00 && offsetof(BlockLimits, wsnz) == 0x04 &&
              offsetof(BlockLimits, max_compare_and_write_blocks) == 0x05 &&
              offsetof(BlockLimits, optimal_transfer_granularity_blocks) == 0x06 &&
              offsetof(BlockLimits, max_transfer_blocks) == 0x08 &&
              offsetof(BlockLimits, optimal_transfer_blocks) == 0x0C &&
              offsetof(BlockLimits, max_prefetch_blocks) == 0x10 && offsetof(BlockLimits, max_unmap_blocks) == 0x14 &&
              offsetof(BlockLimits, max_unmap_descriptors) == 0x18 &&
              offsetof(BlockLimits, optimal_unmap_granularity_blocks) == 0x1C &&
              offsetof(BlockLimits, unmap_granularity_alignment) == 0x20 &&
              offsetof(BlockLimits, max_write_same_blocks) == 0x24 && offsetof(BlockLimits, reserved) == 0x2C);

// Page 0xB1 (SBC-3 6.5.2).
struct BlockDeviceCharacteristics {
  VpdHeader header;           // 0x00
  Be16 medium_rotation_rate;  // 0x04  0: not reported, 1: does not rotate
  uint8_t product_type;       // 0x06
  uint8_t flags7;             // 0x07  form factor in bits 3:0
  uint8_t flags8;             // 0x08
  uint8_t reserved[55];       // 0x09
};
static_assert(sizeof(BlockDeviceCharacteristics) == 64);
static_assert(offsetof(BlockDeviceCharacteristics, header) == 0x00 &&
              offsetof(BlockDeviceCharacteristics, medium_rotation_rate) == 0x04 &&
              offsetof(BlockDeviceCharacteristics, product_type) == 0x06 &&
              offsetof(BlockDeviceCharacteristics, flags7) == 0x07 &&
              offsetof(BlockDeviceCharacteristics, flags8) == 0x08 &&
              offsetof(BlockDeviceCharacteristics, reserved) == 0x09);

// Page 0xB2 (SBC-3 6.5.4).
struct LogicalBlockProvisioning {
  VpdHeader header;            // 0x00
  uint8_t threshold_exponent;  // 0x04
  uint8_t flags;               // 0x05
  uint8_t provisioning_type;   // 0x06  2: thin
  uint8_t reserved;            // 0x07
};
static_assert(sizeof(LogicalBlockProvisioning) == 8);
static_assert(offsetof(LogicalBlockProvisioning, header) == 0x00 &&
              offsetof(LogicalBlockProvisioning, threshold_exponent) == 0x04 &&
              offsetof(LogicalBlockProvisioning, flags) == 0x05 &&
              offsetof(LogicalBlockProvisioning, provisioning_type) == 0x06 &&
              offsetof(LogicalBlockProvisioning, reserved) == 0x07);
inline constexpr uint8_t kLbpUnmap = 0x80;        // LBPU
inline constexpr uint8_t kLbpWriteSame16 = 0x40;  // LBPWS
inline constexpr uint8_t kLbpWriteSame10 = 0x20;  // LBPWS10
inline constexpr uint8_t kLbpReadsZeroes = 0x04;  // LBPRZ
inline constexpr uint8_t kProvisioningThin = 0x02;

// READ CAPACITY (10) (SBC-3 5.12).
struct ReadCapacity10Data {
  Be32 last_lba;     // 0x00  all ones: use the longer command
  Be32 block_bytes;  // 0x04
};
static_assert(sizeof(ReadCapacity10Data) == 8);
static_assert(offsetof(ReadCapacity10Data, last_lba) == 0x00 && offsetof(ReadCapacity10Data, block_bytes) == 0x04);

// READ CAPACITY (16) (SBC-3 5.13).
struct ReadCapacity16Data {
  Be64 last_lba;              // 0x00
  Be32 block_bytes;           // 0x08
  uint8_t protection;         // 0x0C
  uint8_t physical_exponent;  // 0x0D  log2 of logical blocks in a physical one
  Be16 provisioning;          // 0x0E  bit 15: LBPME, bit 14: LBPRZ, bits 13:0 lowest aligned block
  uint8_t reserved[16];       // 0x10
};
static_assert(sizeof(ReadCapacity16Data) == 32);
static_assert(offsetof(ReadCapacity16Data, last_lba) == 0x00 && offsetof(ReadCapacity16Data, block_bytes) == 0x08 &&
              offsetof(ReadCapacity16Data, protection) == 0x0C &&
              offsetof(ReadCapacity16Data, physical_exponent) == 0x0D &&
              offsetof(ReadCapacity16Data, provisioning) == 0x0E && offsetof(ReadCapacity16Data, reserved) == 0x10);
inline constexpr uint16_t kCapacityThin = 0x8000;
inline constexpr uint16_t kCapacityReadsZeroes = 0x4000;

// The header of what MODE SENSE (6) returns (SPC-4 7.5.5).
struct ModeHeader6 {
  uint8_t data_length;              // 0x00  bytes that follow
  uint8_t medium_type;              // 0x01
  uint8_t device_specific;          // 0x02
  uint8_t block_descriptor_length;  // 0x03
};
static_assert(sizeof(ModeHeader6) == 4);
static_assert(offsetof(ModeHeader6, data_length) == 0x00 && offsetof(ModeHeader6, medium_type) == 0x01 &&
              offsetof(ModeHeader6, device_specific) == 0x02 && offsetof(ModeHeader6, block_descriptor_length) == 0x03);

// The same of MODE SENSE (10) (SPC-4 7.5.5).
struct ModeHeader10 {
  Be16 data_length;              // 0x00  bytes that follow
  uint8_t medium_type;           // 0x02
  uint8_t device_specific;       // 0x03
  uint8_t reserved[2];           // 0x04
  Be16 block_descriptor_length;  // 0x06
};
static_assert(sizeof(ModeHeader10) == 8);
static_assert(offsetof(ModeHeader10, data_length) == 0x00 && offsetof(ModeHeader10, medium_type) == 0x02 &&
              offsetof(ModeHeader10, device_specific) == 0x03 && offsetof(ModeHeader10, reserved) == 0x04 &&
              offsetof(ModeHeader10, block_descriptor_length) == 0x06);
inline constexpr uint8_t kModeWriteProtected = 0x80;  // WP
inline constexpr uint8_t kModeDpoFua = 0x10;          // DPOFUA

struct ModeBlockDescriptor {  // short form (SBC-3 6.3.2.2)
  Be32 blocks;                // 0x00
  Be32 block_bytes;           // 0x04  in the low 24 bits
};
static_assert(sizeof(ModeBlockDescriptor) == 8);
static_assert(offsetof(ModeBlockDescriptor, blocks) == 0x00 && offsetof(ModeBlockDescriptor, block_bytes) == 0x04);

inline constexpr uint8_t kModePageErrorRecovery = 0x01;
inline constexpr uint8_t kModePageCaching = 0x08;
inline constexpr uint8_t kModePageControl = 0x0A;
inline constexpr uint8_t kModePageAll = 0x3F;
inline constexpr uint8_t kModeSubpageAll = 0xFF;

struct ModePageErrorRecovery {  // SBC-3 6.4.7
  uint8_t page;                 // 0x00
  uint8_t length;               // 0x01
  uint8_t flags;                // 0x02
  uint8_t read_retries;         // 0x03
  uint8_t reserved1[4];         // 0x04
  uint8_t write_retries;        // 0x08
  uint8_t reserved2;            // 0x09
  Be16 recovery_time_limit_ms;  // 0x0A
};
static_assert(sizeof(ModePageErrorRecovery) == 12);
static_assert(offsetof(ModePageErrorRecovery, page) == 0x00 && offsetof(ModePageErrorRecovery, length) == 0x01 &&
              offsetof(ModePageErrorRecovery, flags) == 0x02 && offsetof(ModePageErrorRecovery, read_retries) == 0x03 &&
              offsetof(ModePageErrorRecovery, reserved1) == 0x04 &&
              offsetof(ModePageErrorRecovery, write_retries) == 0x08 &&
              offsetof(ModePageErrorRecovery, reserved2) == 0x09 &&
              offsetof(ModePageErrorRecovery, recovery_time_limit_ms) == 0x0A);

struct ModePageCaching {             // SBC-3 6.4.5
  uint8_t page;                      // 0x00
  uint8_t length;                    // 0x01
  uint8_t flags;                     // 0x02  bit 2: WCE, bit 0: RCD
  uint8_t retention_priority;        // 0x03
  Be16 no_prefetch_blocks;           // 0x04  longer transfers do without
  Be16 min_prefetch_blocks;          // 0x06
  Be16 max_prefetch_blocks;          // 0x08
  Be16 max_prefetch_ceiling_blocks;  // 0x0A
  uint8_t flags12;                   // 0x0C
  uint8_t cache_segments;            // 0x0D
  Be16 cache_segment_bytes;          // 0x0E
  uint8_t reserved;                  // 0x10
  uint8_t obsolete[3];               // 0x11
};
static_assert(sizeof(ModePageCaching) == 20);
static_assert(offsetof(ModePageCaching, page) == 0x00 && offsetof(ModePageCaching, length) == 0x01 &&
              offsetof(ModePageCaching, flags) == 0x02 && offsetof(ModePageCaching, retention_priority) == 0x03 &&
              offsetof(ModePageCaching, no_prefetch_blocks) == 0x04 &&
              offsetof(ModePageCaching, min_prefetch_blocks) == 0x06 &&
              offsetof(ModePageCaching, max_prefetch_blocks) == 0x08 &&
              offsetof(ModePageCaching, max_prefetch_ceiling_blocks) == 0x0A &&
              offsetof(ModePageCaching, flags12) == 0x0C && offsetof(ModePageCaching, cache_segments) == 0x0D &&
              offsetof(ModePageCaching, cache_segment_bytes) == 0x0E && offsetof(ModePageCaching, reserved) == 0x10 &&
              offsetof(ModePageCaching, obsolete) == 0x11);
inline constexpr uint8_t kCachingWriteCacheEnabled = 0x04;

struct ModePageControl {            // SPC-4 7.5.8
  uint8_t page;                     // 0x00
  uint8_t length;                   // 0x01
  uint8_t flags2;                   // 0x02
  uint8_t flags3;                   // 0x03  bits 7:4: queue algorithm, 1: unrestricted reordering
  uint8_t flags4;                   // 0x04
  uint8_t flags5;                   // 0x05
  uint8_t obsolete[2];              // 0x06
  Be16 busy_timeout_100ms;          // 0x08
  Be16 extended_self_test_seconds;  // 0x0A
};
static_assert(sizeof(ModePageControl) == 12);
static_assert(offsetof(ModePageControl, page) == 0x00 && offsetof(ModePageControl, length) == 0x01 &&
              offsetof(ModePageControl, flags2) == 0x02 && offsetof(ModePageControl, flags3) == 0x03 &&
              offsetof(ModePageControl, flags4) == 0x04 && offsetof(ModePageControl, flags5) == 0x05 &&
              offsetof(ModePageControl, obsolete) == 0x06 && offsetof(ModePageControl, busy_timeout_100ms) == 0x08 &&
              offsetof(ModePageControl, extended_self_test_seconds) == 0x0A);
inline constexpr uint8_t kControlUnrestrictedReordering = 0x10;

// REPORT LUNS (SPC-4 6.33): this header, then eight bytes for each logical unit.
struct LunListHeader {
  Be32 length;    // 0x00  bytes of the list
  Be32 reserved;  // 0x04
};
static_assert(sizeof(LunListHeader) == 8);
static_assert(offsetof(LunListHeader, length) == 0x00 && offsetof(LunListHeader, reserved) == 0x04);

// UNMAP parameter list (SBC-3 5.28).
struct UnmapHeader {
  Be16 data_length;              // 0x00  bytes that follow this field
  Be16 block_descriptor_length;  // 0x02
  uint8_t reserved[4];           // 0x04
};
static_assert(sizeof(UnmapHeader) == 8);
static_assert(offsetof(UnmapHeader, data_length) == 0x00 && offsetof(UnmapHeader, block_descriptor_length) == 0x02 &&
              offsetof(UnmapHeader, reserved) == 0x04);

// One range of that list (SBC-3 5.28).
struct UnmapDescriptor {
  Be64 lba;             // 0x00
  Be32 blocks;          // 0x08
  uint8_t reserved[4];  // 0x0C
};
static_assert(sizeof(UnmapDescriptor) == 16);
static_assert(offsetof(UnmapDescriptor, lba) == 0x00 && offsetof(UnmapDescriptor, blocks) == 0x08 &&
              offsetof(UnmapDescriptor, reserved) == 0x0C);

}  // namespace hvsdk::hvdef::scsi

#endif  // HVSDK_HVDEF_SCSI_DATA_H_
