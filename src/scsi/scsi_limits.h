// SPDX-License-Identifier: Apache-2.0
// Limits that VPD page 0xB0 announces and the commands enforce.

#ifndef HVSDK_SRC_SCSI_SCSI_LIMITS_H_
#define HVSDK_SRC_SCSI_SCSI_LIMITS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "hvsdk/resource/block_device.h"

namespace hvsdk::scsi {

inline constexpr uint64_t kMaxWriteSameBytes = 64 << 20;
inline constexpr uint64_t kMaxDiscardStepBytes = 64 << 20;  // what the device is asked for at a time
inline constexpr size_t kMaxUnmapDescriptors = 256;
inline constexpr uint64_t kMaxUnmapBlocks = 1 << 23;  // 4 GiB of 512-byte blocks in one command

// The device's own serial number, or its id in hexadecimal digits.
std::string SerialOf(const BlockInfo& info, const std::array<uint8_t, 16>& id);

}  // namespace hvsdk::scsi

#endif  // HVSDK_SRC_SCSI_SCSI_LIMITS_H_
