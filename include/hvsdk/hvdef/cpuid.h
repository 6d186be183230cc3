// SPDX-License-Identifier: Apache-2.0
// Hypervisor CPUID leaves 0x40000000 to 0x4000000A (TLFS, chapter "Feature and Interface Discovery").

#ifndef HVSDK_HVDEF_CPUID_H_
#define HVSDK_HVDEF_CPUID_H_

#include <cstdint>

namespace hvsdk::hvdef::cpuid {

inline constexpr uint32_t kVendorAndMaxLeaf = 0x40000000;
inline constexpr uint32_t kInterface = 0x40000001;
inline constexpr uint32_t kVersion = 0x40000002;
inline constexpr uint32_t kFeatures = 0x40000003;
inline constexpr uint32_t kRecommendations = 0x40000004;
inline constexpr uint32_t kLimits = 0x40000005;
inline constexpr uint32_t kHardwareFeatures = 0x40000006;
inline constexpr uint32_t kCpuManagementFeatures = 0x40000007;
inline constexpr uint32_t kSvmFeatures = 0x40000008;
inline constexpr uint32_t kNestedFeatures = 0x40000009;
inline constexpr uint32_t kNestedOptimizations = 0x4000000A;
inline constexpr uint32_t kMaxLeaf = kNestedOptimizations;

// Leaf 1, ECX: a hypervisor is present.
inline constexpr uint32_t kHypervisorPresent = uint32_t{1} << 31;

// "Microsoft Hv" in EBX, ECX, EDX of leaf 0x40000000, and "Hv#1" in EAX of leaf 0x40000001.
inline constexpr uint32_t kVendorEbx = 0x7263694D;
inline constexpr uint32_t kVendorEcx = 0x666F736F;
inline constexpr uint32_t kVendorEdx = 0x76482074;
inline constexpr uint32_t kInterfaceSignature = 0x31237648;

// Leaf 0x40000003: EBX:EAX are the partition's privileges (privilege.h), EDX these.
inline constexpr uint32_t kFeatureXmmInput = 1u << 4;
inline constexpr uint32_t kFeatureGuestIdle = 1u << 5;
inline constexpr uint32_t kFeatureFrequencyMsrs = 1u << 8;
inline constexpr uint32_t kFeatureCrashMsrs = 1u << 10;
inline constexpr uint32_t kFeatureXmmOutput = 1u << 15;
inline constexpr uint32_t kFeatureSintPolling = 1u << 17;
inline constexpr uint32_t kFeatureHypercallMsrLock = 1u << 18;
inline constexpr uint32_t kFeatureDirectTimers = 1u << 19;

// Leaf 0x40000004, EAX: what the guest had better do.
inline constexpr uint32_t kRecommendRemoteTlbFlush = 1u << 2;
inline constexpr uint32_t kRecommendApicMsrs = 1u << 3;
inline constexpr uint32_t kRecommendResetMsr = 1u << 4;
inline constexpr uint32_t kRecommendRelaxedTiming = 1u << 5;
inline constexpr uint32_t kRecommendDeprecateAutoEoi = 1u << 9;
inline constexpr uint32_t kRecommendClusterIpi = 1u << 10;
inline constexpr uint32_t kRecommendExProcessorMasks = 1u << 11;

}  // namespace hvsdk::hvdef::cpuid

#endif  // HVSDK_HVDEF_CPUID_H_
