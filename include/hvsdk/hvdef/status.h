// SPDX-License-Identifier: Apache-2.0
// HV_STATUS: what a hypercall answers in the low 16 bits of its result value (TLFS, appendix "Hypercall Status Codes").

#ifndef HVSDK_HVDEF_STATUS_H_
#define HVSDK_HVDEF_STATUS_H_

#include <cstdint>

namespace hvsdk::hvdef {

enum class HvStatus : uint16_t {
  kSuccess = 0x0000,
  kInvalidHypercallCode = 0x0002,
  kInvalidHypercallInput = 0x0003,
  kInvalidAlignment = 0x0004,
  kInvalidParameter = 0x0005,
  kAccessDenied = 0x0006,
  kInvalidPartitionState = 0x0007,
  kOperationDenied = 0x0008,
  kUnknownProperty = 0x0009,
  kPropertyValueOutOfRange = 0x000A,
  kInsufficientMemory = 0x000B,
  kPartitionTooDeep = 0x000C,
  kInvalidPartitionId = 0x000D,
  kInvalidVpIndex = 0x000E,
  kInvalidPortId = 0x0011,
  kInvalidConnectionId = 0x0012,
  kInsufficientBuffers = 0x0013,
  kNotAcknowledged = 0x0014,
  kInvalidVpState = 0x0015,
  kAcknowledged = 0x0016,
  kInvalidSaveRestoreState = 0x0017,
  kInvalidSynicState = 0x0018,
  kObjectInUse = 0x0019,
  kInvalidProximityDomainInfo = 0x001A,
  kNoData = 0x001B,
  kInactive = 0x001C,
  kNoResources = 0x001D,
  kFeatureUnavailable = 0x001E,
  kPartialPacket = 0x001F,
  kProcessorFeatureNotSupported = 0x0020,
  kInsufficientBuffer = 0x0033,
  kInvalidRegisterValue = 0x0050,
  kInvalidVtlState = 0x0051,
  kTimeout = 0x0078,
};

}  // namespace hvsdk::hvdef

#endif  // HVSDK_HVDEF_STATUS_H_
