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
static_assert(sizeof(InquiryData) == 104 && offsetof(InquiryData, vendor) == 8);
static_assert(offsetof(InquiryData, version_descriptors) == 58);
inline constexpr uint8_t kDirectAccessDevice = 0x00;
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

struct VpdHeader {
  uint8_t peripheral;  // 0x00
  VpdPage page;        // 0x01
  Be16 length;         // 0x02  bytes that follow
};
static_assert(sizeof(VpdHeader) == 4);

// Header of a designator in page 0x83 (SPC-4 7.8.6).
struct DesignatorHeader {
  uint8_t code_set;  // 0x00  1: binary, 2: ASCII
  uint8_t type;      // 0x01  1: T10 vendor id, 3: NAA; association in bits 5:4
  uint8_t reserved;  // 0x02
  uint8_t length;    // 0x03
};
static_assert(sizeof(DesignatorHeader) == 4);
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
static_assert(sizeof(BlockLimits) == 64 && offsetof(BlockLimits, max_transfer_blocks) == 8);
static_assert(offsetof(BlockLimits, max_unmap_blocks) == 20 && offsetof(BlockLimits, max_write_same_blocks) == 36);

// Page 0xB1 (SBC-3 6.5.2).
struct BlockDeviceCharacteristics {
  VpdHeader header;           // 0x00
  Be16 medium_rotation_rate;  // 0x04  0: not reported, 1: does not rotate
  uint8_t reserved[58];       // 0x06
};
static_assert(sizeof(BlockDeviceCharacteristics) == 64);

// Page 0xB2 (SBC-3 6.5.4).
struct LogicalBlockProvisioning {
  VpdHeader header;            // 0x00
  uint8_t threshold_exponent;  // 0x04
  uint8_t flags;               // 0x05
  uint8_t provisioning_type;   // 0x06  2: thin
  uint8_t reserved;            // 0x07
};
static_assert(sizeof(LogicalBlockProvisioning) == 8);
inline constexpr uint8_t kLbpUnmap = 0x80;        // LBPU
inline constexpr uint8_t kLbpWriteSame16 = 0x40;  // LBPWS
inline constexpr uint8_t kLbpWriteSame10 = 0x20;  // LBPWS10
inline constexpr uint8_t kLbpReadsZeroes = 0x04;  // LBPRZ
inline constexpr uint8_t kProvisioningThin = 0x02;

// READ CAPACITY (10) (SBC-3 5.12) and (16) (5.13).
struct ReadCapacity10Data {
  Be32 last_lba;     // 0x00  all ones: use the longer command
  Be32 block_bytes;  // 0x04
};
static_assert(sizeof(ReadCapacity10Data) == 8);

struct ReadCapacity16Data {
  Be64 last_lba;              // 0x00
  Be32 block_bytes;           // 0x08
  uint8_t protection;         // 0x0C
  uint8_t physical_exponent;  // 0x0D  log2 of logical blocks in a physical one
  Be16 provisioning;          // 0x0E  bit 15: LBPME, bit 14: LBPRZ, bits 13:0 lowest aligned block
  uint8_t reserved[16];       // 0x10
};
static_assert(sizeof(ReadCapacity16Data) == 32 && offsetof(ReadCapacity16Data, provisioning) == 14);
inline constexpr uint16_t kCapacityThin = 0x8000;
inline constexpr uint16_t kCapacityReadsZeroes = 0x4000;

// MODE SENSE (6) and (10) headers (SPC-4 7.5.5) and pages.
struct ModeHeader6 {
  uint8_t data_length;              // 0x00  bytes that follow
  uint8_t medium_type;              // 0x01
  uint8_t device_specific;          // 0x02
  uint8_t block_descriptor_length;  // 0x03
};
static_assert(sizeof(ModeHeader6) == 4);
struct ModeHeader10 {
  Be16 data_length;              // 0x00  bytes that follow
  uint8_t medium_type;           // 0x02
  uint8_t device_specific;       // 0x03
  uint8_t reserved[2];           // 0x04
  Be16 block_descriptor_length;  // 0x06
};
static_assert(sizeof(ModeHeader10) == 8);
inline constexpr uint8_t kModeWriteProtected = 0x80;  // WP
inline constexpr uint8_t kModeDpoFua = 0x10;          // DPOFUA

struct ModeBlockDescriptor {  // short form (SBC-3 6.3.2.2)
  Be32 blocks;                // 0x00
  Be32 block_bytes;           // 0x04  in the low 24 bits
};
static_assert(sizeof(ModeBlockDescriptor) == 8);

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
  uint8_t reserved2[3];         // 0x09
};
static_assert(sizeof(ModePageErrorRecovery) == 12);

struct ModePageCaching {  // SBC-3 6.4.5
  uint8_t page;           // 0x00
  uint8_t length;         // 0x01
  uint8_t flags;          // 0x02  bit 2: WCE, bit 0: RCD
  uint8_t reserved[17];   // 0x03
};
static_assert(sizeof(ModePageCaching) == 20);
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
inline constexpr uint8_t kControlUnrestrictedReordering = 0x10;

// REPORT LUNS (SPC-4 6.33): this header, then eight bytes for each logical unit.
struct LunListHeader {
  Be32 length;    // 0x00  bytes of the list
  Be32 reserved;  // 0x04
};
static_assert(sizeof(LunListHeader) == 8);

// UNMAP parameter list (SBC-3 5.28).
struct UnmapHeader {
  Be16 data_length;              // 0x00  bytes that follow this field
  Be16 block_descriptor_length;  // 0x02
  uint8_t reserved[4];           // 0x04
};
static_assert(sizeof(UnmapHeader) == 8);
struct UnmapDescriptor {
  Be64 lba;             // 0x00
  Be32 blocks;          // 0x08
  uint8_t reserved[4];  // 0x0C
};
static_assert(sizeof(UnmapDescriptor) == 16);

}  // namespace hvsdk::hvdef::scsi

#endif  // HVSDK_HVDEF_SCSI_DATA_H_
