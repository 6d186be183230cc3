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
  const Cpuid features(cpuid::kFeatures);
  Check(((features.edx & cpuid::kFeatureFrequencyMsrs) != 0) == HasPrivilege(privilege::kAccessFrequencyRegs),
        "CPUID 0x40000003: feature and privilege of the frequency MSRs agree");
  Check(((features.edx & cpuid::kFeatureGuestIdle) != 0) == HasPrivilege(privilege::kAccessGuestIdleReg),
        "CPUID 0x40000003: feature and privilege of the idle MSR agree");
  Check(Cpuid(cpuid::kLimits).eax >= 1, "CPUID 0x40000005: one virtual processor at least");
}
