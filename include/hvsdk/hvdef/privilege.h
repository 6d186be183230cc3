// SPDX-License-Identifier: Apache-2.0
// HV_PARTITION_PRIVILEGE_MASK: what a partition may do. CPUID leaf 0x40000003 reports it in EBX:EAX.

#ifndef HVSDK_HVDEF_PRIVILEGE_H_
#define HVSDK_HVDEF_PRIVILEGE_H_

#include <cstdint>

namespace hvsdk::hvdef::privilege {

// Access to synthetic MSRs.
inline constexpr uint64_t kAccessVpRuntimeReg = uint64_t{1} << 0;
inline constexpr uint64_t kAccessPartitionReferenceCounter = uint64_t{1} << 1;
inline constexpr uint64_t kAccessSynicRegs = uint64_t{1} << 2;
inline constexpr uint64_t kAccessSyntheticTimerRegs = uint64_t{1} << 3;
inline constexpr uint64_t kAccessIntrCtrlRegs = uint64_t{1} << 4;
inline constexpr uint64_t kAccessHypercallMsrs = uint64_t{1} << 5;
inline constexpr uint64_t kAccessVpIndex = uint64_t{1} << 6;
inline constexpr uint64_t kAccessResetReg = uint64_t{1} << 7;
inline constexpr uint64_t kAccessStatsReg = uint64_t{1} << 8;
inline constexpr uint64_t kAccessPartitionReferenceTsc = uint64_t{1} << 9;
inline constexpr uint64_t kAccessGuestIdleReg = uint64_t{1} << 10;
inline constexpr uint64_t kAccessFrequencyRegs = uint64_t{1} << 11;
inline constexpr uint64_t kAccessReenlightenmentControls = uint64_t{1} << 13;
inline constexpr uint64_t kAccessTscInvariantControls = uint64_t{1} << 15;

// Access to hypercalls.
inline constexpr uint64_t kCreatePartitions = uint64_t{1} << 32;
inline constexpr uint64_t kAccessPartitionId = uint64_t{1} << 33;
inline constexpr uint64_t kAccessMemoryPool = uint64_t{1} << 34;
inline constexpr uint64_t kPostMessages = uint64_t{1} << 36;
inline constexpr uint64_t kSignalEvents = uint64_t{1} << 37;
inline constexpr uint64_t kCreatePort = uint64_t{1} << 38;
inline constexpr uint64_t kConnectPort = uint64_t{1} << 39;
inline constexpr uint64_t kAccessStats = uint64_t{1} << 40;
inline constexpr uint64_t kDebugging = uint64_t{1} << 43;
inline constexpr uint64_t kCpuManagement = uint64_t{1} << 44;
inline constexpr uint64_t kAccessVsm = uint64_t{1} << 48;
inline constexpr uint64_t kAccessVpRegisters = uint64_t{1} << 49;
inline constexpr uint64_t kEnableExtendedHypercalls = uint64_t{1} << 52;
inline constexpr uint64_t kStartVirtualProcessor = uint64_t{1} << 53;

}  // namespace hvsdk::hvdef::privilege

#endif  // HVSDK_HVDEF_PRIVILEGE_H_
