// SPDX-License-Identifier: Apache-2.0
// SCSI as a disk speaks it: operation codes, status, sense. The layouts of what commands return are in scsi_data.h.
//
// Source: T10 SPC-4 (primary commands, sense data), SBC-3 (block commands) and MMC-6 (those of a DVD drive). Numbers on the wire are big-endian;
// Be16, Be32 and Be64 hold them as bytes, so that structures have no alignment.

#ifndef HVSDK_HVDEF_SCSI_H_
#define HVSDK_HVDEF_SCSI_H_

#include <cstddef>
#include <cstdint>

namespace hvsdk::hvdef::scsi {

// A big-endian number of N bytes.
template <typename T, size_t N = sizeof(T)>
struct BigEndian {
  uint8_t bytes[N];

  constexpr BigEndian() : bytes{} {}
  // Implicit: a number and its wire form are interchangeable.
  constexpr BigEndian(T value) : bytes{} {  // NOLINT(google-explicit-constructor)
    for (size_t i = N; i-- > 0; value = static_cast<T>(value >> 8)) bytes[i] = static_cast<uint8_t>(value);
  }
  constexpr operator T() const {  // NOLINT(google-explicit-constructor)
    T value = 0;
    for (uint8_t byte : bytes) value = static_cast<T>(value << 8 | byte);
    return value;
  }
};
using Be16 = BigEndian<uint16_t>;
using Be32 = BigEndian<uint32_t>;
using Be64 = BigEndian<uint64_t>;
static_assert(sizeof(Be16) == 2 && sizeof(Be32) == 4 && sizeof(Be64) == 8 && alignof(Be64) == 1);

// The number of type T at `bytes`.
template <typename T>
constexpr T LoadBigEndian(const uint8_t* bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | bytes[i]);
  return value;
}

enum class OpCode : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kRead6 = 0x08,
  kWrite6 = 0x0A,
  kInquiry = 0x12,
  kModeSelect6 = 0x15,
  kReserve6 = 0x16,
  kRelease6 = 0x17,
  kModeSense6 = 0x1A,
  kStartStopUnit = 0x1B,
  kSendDiagnostic = 0x1D,
  kPreventAllowMediumRemoval = 0x1E,
  kReadCapacity10 = 0x25,
  kRead10 = 0x28,
  kWrite10 = 0x2A,
  kWriteAndVerify10 = 0x2E,
  kVerify10 = 0x2F,
  kSynchronizeCache10 = 0x35,
  kWriteSame10 = 0x41,
  kUnmap = 0x42,
  kModeSelect10 = 0x55,
  kModeSense10 = 0x5A,
  kRead16 = 0x88,
  kWrite16 = 0x8A,
  kWriteAndVerify16 = 0x8E,
  kVerify16 = 0x8F,
  kSynchronizeCache16 = 0x91,
  kWriteSame16 = 0x93,
  kServiceActionIn16 = 0x9E,
  kReportLuns = 0xA0,
  kRead12 = 0xA8,
  kWrite12 = 0xAA,
  kWriteAndVerify12 = 0xAE,
  kVerify12 = 0xAF,
  // MMC-6.
  kSeek10 = 0x2B,
  kReadToc = 0x43,
  kGetConfiguration = 0x46,
  kGetEventStatusNotification = 0x4A,
  kReadDiscInformation = 0x51,
  kReadTrackInformation = 0x52,
  kReadDvdStructure = 0xAD,
  kSetCdSpeed = 0xBB,
  kMechanismStatus = 0xBD,
  kReadCd = 0xBE,
};

// Service actions of kServiceActionIn16, in the low five bits of the second byte.
inline constexpr uint8_t kReadCapacity16 = 0x10;

// The bytes of a command block, by the group code in the top three bits of the operation code (SPC-4 4.2.5.1); 0 where
// the standard does not say.
constexpr size_t CdbBytes(uint8_t op_code) {
  constexpr uint8_t kByGroup[8] = {6, 10, 10, 0, 16, 12, 0, 0};
  return kByGroup[op_code >> 5];
}

enum class Status : uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kConditionMet = 0x04,
  kBusy = 0x08,
  kReservationConflict = 0x18,
  kTaskSetFull = 0x28,
  kTaskAborted = 0x40,
};

enum class SenseKey : uint8_t {
  kNoSense = 0x0,
  kRecoveredError = 0x1,
  kNotReady = 0x2,
  kMediumError = 0x3,
  kHardwareError = 0x4,
  kIllegalRequest = 0x5,
  kUnitAttention = 0x6,
  kDataProtect = 0x7,
  kAbortedCommand = 0xB,
  kMiscompare = 0xE,
};

// Additional sense code and qualifier, as 0xCCQQ.
enum class Asc : uint16_t {
  kNone = 0x0000,
  kPeripheralDeviceWriteFault = 0x0300,
  kWriteError = 0x0C00,
  kUnrecoveredReadError = 0x1100,
  kParameterListLengthError = 0x1A00,
  kMiscompareDuringVerify = 0x1D00,
  kInvalidOpCode = 0x2000,
  kLbaOutOfRange = 0x2100,
  kInvalidFieldInCdb = 0x2400,
  kLogicalUnitNotSupported = 0x2500,
  kInvalidFieldInParameterList = 0x2600,
  kWriteProtected = 0x2700,
  kSpaceAllocationFailedWriteProtect = 0x2707,
  kNotReadyToReadyChange = 0x2800,  // the medium may have changed
  kPowerOnOrResetOccurred = 0x2900,
  kCapacityDataHasChanged = 0x2A09,
  kLogicalUnitNotReadyInitializingCommandRequired = 0x0402,
  kSavingParametersNotSupported = 0x3900,
  kMediumNotPresentTrayClosed = 0x3A01,
  kMediumNotPresentTrayOpen = 0x3A02,
  kReportedLunsDataHasChanged = 0x3F0E,
  kInternalTargetFailure = 0x4400,
  kMediumRemovalPrevented = 0x5302,
  kIllegalModeForThisTrack = 0x6400,
};

// Fixed format sense data (SPC-4 4.5.3).
struct FixedSense {
  uint8_t response_code;               // 0x00  0x70: current error; bit 7: `information` is valid
  uint8_t obsolete;                    // 0x01
  uint8_t sense_key;                   // 0x02
  Be32 information;                    // 0x03  the logical block an error is about
  uint8_t additional_sense_length;     // 0x07  bytes that follow
  uint8_t command_specific[4];         // 0x08
  uint8_t additional_sense_code;       // 0x0C
  uint8_t additional_sense_qualifier;  // 0x0D
  uint8_t field_replaceable_unit;      // 0x0E
  uint8_t sense_key_specific[3];       // 0x0F
};
static_assert(sizeof(FixedSense) == 18);
static_assert(offsetof(FixedSense, response_code) == 0x00 && offsetof(FixedSense, obsolete) == 0x01 &&
              offsetof(FixedSense, sense_key) == 0x02 && offsetof(FixedSense, information) == 0x03 &&
              offsetof(FixedSense, additional_sense_length) == 0x07 && offsetof(FixedSense, command_specific) == 0x08 &&
              offsetof(FixedSense, additional_sense_code) == 0x0C &&
              offsetof(FixedSense, additional_sense_qualifier) == 0x0D &&
              offsetof(FixedSense, field_replaceable_unit) == 0x0E && offsetof(FixedSense, sense_key_specific) == 0x0F);
inline constexpr uint8_t kSenseCurrentFixed = 0x70;
inline constexpr uint8_t kSenseCurrentDescriptor = 0x72;
inline constexpr uint8_t kSenseInformationValid = 0x80;

// Descriptor format, header only (SPC-4 4.5.2).
struct DescriptorSense {
  uint8_t response_code;               // 0x00
  uint8_t sense_key;                   // 0x01
  uint8_t additional_sense_code;       // 0x02
  uint8_t additional_sense_qualifier;  // 0x03
  uint8_t reserved[3];                 // 0x04
  uint8_t additional_sense_length;     // 0x07
};
static_assert(sizeof(DescriptorSense) == 8);
static_assert(offsetof(DescriptorSense, response_code) == 0x00 && offsetof(DescriptorSense, sense_key) == 0x01 &&
              offsetof(DescriptorSense, additional_sense_code) == 0x02 &&
              offsetof(DescriptorSense, additional_sense_qualifier) == 0x03 &&
              offsetof(DescriptorSense, reserved) == 0x04 &&
              offsetof(DescriptorSense, additional_sense_length) == 0x07);

}  // namespace hvsdk::hvdef::scsi

#endif  // HVSDK_HVDEF_SCSI_H_
