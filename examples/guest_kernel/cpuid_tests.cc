// SPDX-License-Identifier: Apache-2.0
// TLFS, chapter "Feature and Interface Discovery".

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

void TestCpuid() {
  Check((Cpuid(1).ecx & cpuid::kHypervisorPresent) != 0, "CPUID 1: a hypervisor is present");
  const Cpuid vendor(cpuid::kVendorAndMaxLeaf);
  Check(vendor.eax >= cpuid::kLimits, "CPUID 0x40000000: leaves up to the limits at least");
  Check(vendor.ebx == cpuid::kVendorEbx && vendor.ecx == cpuid::kVendorEcx && vendor.edx == cpuid::kVendorEdx,
        "CPUID 0x40000000: \"Microsoft Hv\"");
  Check(Cpuid(cpuid::kInterface).eax == cpuid::kInterfaceSignature, "CPUID 0x40000001: \"Hv#1\"");
  const Cpuid version(cpuid::kVersion);
  Check(version.eax != 0 && version.ebx != 0, "CPUID 0x40000002: a version");
  Check(HasPrivilege(privilege::kAccessHypercallMsrs | privilege::kAccessVpIndex),
        "CPUID 0x40000003: hypercalls and VP index");
  Check(HasPrivilege(privilege::kAccessSynicRegs | privilege::kAccessSyntheticTimerRegs),
        "CPUID 0x40000003: SynIC and synthetic timers");
  Check(HasPrivilege(privilege::kAccessPartitionReferenceCounter | privilege::kAccessPartitionReferenceTsc),
        "CPUID 0x40000003: reference counter and reference TSC");
  Check(HasPrivilege(privilege::kPostMessages | privilege::kSignalEvents), "CPUID 0x40000003: messages and events");
  Check(!HasPrivilege(privilege::kCreatePartitions), "CPUID 0x40000003: a child does not create partitions");
  Check(HasFeature(cpuid::kFeatureFrequencyMsrs) && HasPrivilege(privilege::kAccessFrequencyRegs),
        "CPUID 0x40000003: frequency MSRs");
  Check(HasFeature(cpuid::kFeatureGuestIdle) && HasPrivilege(privilege::kAccessGuestIdleReg),
        "CPUID 0x40000003: idle MSR");
  Check(HasPrivilege(privilege::kAccessTscInvariantControls) == HasInvariantTsc(),
        "CPUID 0x40000003: control of the invariant TSC, if there is one");
  Check(HasPrivilege(privilege::kAccessVpRuntimeReg | privilege::kAccessResetReg),
        "CPUID 0x40000003: runtime and reset");
  Check(HasPrivilege(privilege::kAccessVpRegisters | privilege::kStartVirtualProcessor),
        "CPUID 0x40000003: registers and start of processors");
  Check(HasPrivilege(privilege::kEnableExtendedHypercalls), "CPUID 0x40000003: extended hypercalls");
  Check(HasFeature(cpuid::kFeatureXmmInput | cpuid::kFeatureXmmOutput),
        "CPUID 0x40000003: hypercalls in XMM registers");
  Check(HasFeature(cpuid::kFeatureCrashMsrs | cpuid::kFeatureHypercallMsrLock),
        "CPUID 0x40000003: crash MSRs and a hypercall page that can be locked");
  Check(HasFeature(cpuid::kFeatureSintPolling | cpuid::kFeatureDirectTimers),
        "CPUID 0x40000003: polled SINTs and direct timers");
  Check(HasPrivilege(privilege::kAccessIntrCtrlRegs) || !RequiresWholeApic(),
        "CPUID 0x40000003: APIC MSRs, if the APIC is whole");
  Check(Cpuid(cpuid::kLimits).eax >= 1, "CPUID 0x40000005: one virtual processor at least");
}
