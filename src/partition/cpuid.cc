// SPDX-License-Identifier: Apache-2.0
// The hypervisor's CPUID leaves and the privileges behind them: nothing is offered that does not work.
#include "hvsdk/hvdef/cpuid.h"

#include "hvsdk/hvdef/privilege.h"
#include "partition/cpuid.h"

namespace hvsdk::partition {

namespace cpuid = hvdef::cpuid;
namespace privilege = hvdef::privilege;

namespace {

// The interface level that guests read as a version: that of Windows Server 2022, whose VMBus versions, message formats
// and hypercalls these are.
constexpr uint32_t kBuild = 20348;
constexpr uint32_t kMajorMinor = 10u << 16;

// After how many tries of a lock a guest should call HvCallNotifyLongSpinWait.
constexpr uint32_t kSpinWaitTries = 0xFFF;

constexpr uint64_t kImplemented =
    privilege::kAccessVpRuntimeReg | privilege::kAccessPartitionReferenceCounter | privilege::kAccessSynicRegs |
    privilege::kAccessSyntheticTimerRegs | privilege::kAccessIntrCtrlRegs | privilege::kAccessHypercallMsrs |
    privilege::kAccessVpIndex | privilege::kAccessResetReg | privilege::kAccessPartitionReferenceTsc |
    privilege::kAccessGuestIdleReg | privilege::kAccessFrequencyRegs | privilege::kAccessTscInvariantControls |
    privilege::kPostMessages | privilege::kSignalEvents | privilege::kAccessVpRegisters |
    privilege::kEnableExtendedHypercalls | privilege::kStartVirtualProcessor;

uint32_t Features(uint64_t privileges) {
  uint32_t features =
      cpuid::kFeatureXmmInput | cpuid::kFeatureXmmOutput | cpuid::kFeatureCrashMsrs | cpuid::kFeatureHypercallMsrLock;
  if ((privileges & privilege::kAccessGuestIdleReg) != 0) features |= cpuid::kFeatureGuestIdle;
  if ((privileges & privilege::kAccessFrequencyRegs) != 0) features |= cpuid::kFeatureFrequencyMsrs;
  if ((privileges & privilege::kAccessSynicRegs) != 0) features |= cpuid::kFeatureSintPolling;
  if ((privileges & privilege::kAccessSyntheticTimerRegs) != 0) features |= cpuid::kFeatureDirectTimers;
  return features;
}

uint32_t Recommendations(uint64_t privileges, const backend::BackendCaps& caps) {
  uint32_t hints = cpuid::kRecommendRelaxedTiming | cpuid::kRecommendExProcessorMasks;
  if (caps.cheap_tlb_flush) hints |= cpuid::kRecommendRemoteTlbFlush;
  if (caps.cheap_ipi) hints |= cpuid::kRecommendClusterIpi;
  if (!caps.auto_eoi || !caps.cheap_auto_eoi) hints |= cpuid::kRecommendDeprecateAutoEoi;
  if ((privileges & privilege::kAccessResetReg) != 0) hints |= cpuid::kRecommendResetMsr;
  return hints;
}

}  // namespace

uint64_t EffectivePrivileges(uint64_t wanted, const backend::BackendCaps& caps, bool has_vp_runtime) {
  uint64_t privileges = wanted & kImplemented;
  if (!has_vp_runtime) privileges &= ~privilege::kAccessVpRuntimeReg;
  if (!caps.apic_msrs) privileges &= ~privilege::kAccessIntrCtrlRegs;
  if (caps.tsc_frequency_hz == 0 || caps.apic_frequency_hz == 0) privileges &= ~privilege::kAccessFrequencyRegs;
  if (!caps.invariant_tsc) privileges &= ~privilege::kAccessTscInvariantControls;
  return privileges;
}

std::vector<backend::CpuidEntry> HypervisorCpuid(uint64_t privileges, const backend::BackendCaps& caps) {
  return {
      {.leaf = cpuid::kVendorAndMaxLeaf,
       .eax = cpuid::kMaxLeaf,
       .ebx = cpuid::kVendorEbx,
       .ecx = cpuid::kVendorEcx,
       .edx = cpuid::kVendorEdx},
      {.leaf = cpuid::kInterface, .eax = cpuid::kInterfaceSignature},
      {.leaf = cpuid::kVersion, .eax = kBuild, .ebx = kMajorMinor},
      {.leaf = cpuid::kFeatures,
       .eax = static_cast<uint32_t>(privileges),
       .ebx = static_cast<uint32_t>(privileges >> 32),
       .edx = Features(privileges)},
      {.leaf = cpuid::kRecommendations, .eax = Recommendations(privileges, caps), .ebx = kSpinWaitTries},
      {.leaf = cpuid::kLimits, .eax = caps.max_vps, .ebx = caps.max_vps},
      // What the host's hardware does below the engine is not known here; and there is no nesting.
      {.leaf = cpuid::kHardwareFeatures},
      {.leaf = cpuid::kCpuManagementFeatures},
      {.leaf = cpuid::kSvmFeatures},
      {.leaf = cpuid::kNestedFeatures},
      {.leaf = cpuid::kNestedOptimizations},
  };
}

}  // namespace hvsdk::partition
