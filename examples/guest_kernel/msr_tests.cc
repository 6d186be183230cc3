// SPDX-License-Identifier: Apache-2.0
// Every synthetic MSR: what it holds after reset, what it takes, what faults, and that CPUID tells the truth about it.

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

namespace {

// An MSR that a privilege governs answers if the partition possesses it and faults if not.
void CheckReadable(uint32_t index, uint64_t wanted, const char* what) {
  Check(MsrFaultsOnRead(index) == !HasPrivilege(wanted), what);
}

bool Holds(uint32_t index, uint64_t value) { return TryWriteMsr(index, value) && ReadMsr(index) == value; }

void TestHypercallMsrs() {
  Check(ReadMsr(msr::kGuestOsId) == 0, "MSR GUEST_OS_ID: zero at first");
  Check(ReadMsr(msr::kHypercall) == 0, "MSR HYPERCALL: zero at first");
  static Page early;
  TryWriteMsr(msr::kHypercall, early.gpa() | msr::kPageEnable);
  Check((ReadMsr(msr::kHypercall) & msr::kPageEnable) == 0, "MSR HYPERCALL: not enabled before the guest is known");
  Check(StartHypercalls(), "MSR HYPERCALL: enabled");
  Check(!TryWriteMsr(msr::kHypercall, uint64_t{1} << 40 | msr::kPageEnable), "MSR HYPERCALL: faults outside memory");
  Check(TryWriteMsr(msr::kGuestOsId, 0) && (ReadMsr(msr::kHypercall) & msr::kPageEnable) == 0,
        "MSR GUEST_OS_ID: zero disables the hypercall page");
  Check(StartHypercalls(), "MSR HYPERCALL: enabled again");
}

void TestSynicMsrs() {
  Check(ReadMsr(msr::kScontrol) == 0, "MSR SCONTROL: disabled at first");
  Check(ReadMsr(msr::kSversion) == msr::kSynicVersion, "MSR SVERSION: 1");
  Check(!TryWriteMsr(msr::kSversion, 1), "MSR SVERSION: faults on write");
  Check((ReadMsr(msr::kSimp) & msr::kPageEnable) == 0, "MSR SIMP: disabled at first");
  Check((ReadMsr(msr::kSiefp) & msr::kPageEnable) == 0, "MSR SIEFP: disabled at first");
  Check(ReadMsr(msr::kEom) == 0 && TryWriteMsr(msr::kEom, 0), "MSR EOM: reads as zero, takes a write");
  for (uint32_t sint = 0; sint < hvsdk::hvdef::kSintCount; ++sint) {
    const uint32_t index = msr::kSint0 + sint;
    const bool ok = ReadMsr(index) == msr::kSintDefault && !TryWriteMsr(index, msr::kFirstValidVector - 1) &&
                    ReadMsr(index) == msr::kSintDefault && Holds(index, SintVector(sint)) &&
                    Holds(index, msr::kSintMasked | SintVector(sint)) && Holds(index, msr::kSintDefault);
    Check(ok, "MSR SINT: masked at first, refuses vectors below 16, holds others:", sint);
  }
  Check(MsrFaultsOnRead(msr::kSint15 + 1), "MSR behind SINT15: faults");
}

void TestTimerMsrs() {
  for (uint32_t timer = 0; timer < hvsdk::hvdef::kStimerCount; ++timer) {
    const uint32_t config = msr::kStimer0Config + 2 * timer, count = config + 1;
    const uint64_t to_sint1 = uint64_t{1} << msr::kStimerSintShift;
    bool ok = ReadMsr(config) == 0 && ReadMsr(count) == 0;
    ok = ok && !TryWriteMsr(config, uint64_t{1} << 63) && ReadMsr(config) == 0;             // reserved
    ok = ok && TryWriteMsr(config, msr::kStimerEnable) && ReadMsr(config) == 0;             // SINT 0
    ok = ok && Holds(config, to_sint1 | msr::kStimerEnable) && Holds(count, ~uint64_t{0});  // never
    ok = ok && TryWriteMsr(count, 0) && (ReadMsr(config) & msr::kStimerEnable) == 0;        // a count of zero stops
    ok = ok && Holds(config, 0);
    Check(ok, "MSR STIMER: zero at first, refuses reserved bits and SINT 0, stops at zero:", timer);
  }
}

}  // namespace

void TestMsrs() {
  TestHypercallMsrs();
  Check(!MsrFaultsOnRead(msr::kVpIndex) && ReadMsr(msr::kVpIndex) == 0, "MSR VP_INDEX: 0 on the first processor");
  Check(!TryWriteMsr(msr::kVpIndex, 1), "MSR VP_INDEX: faults on write");
  CheckReadable(msr::kReset, privilege::kAccessResetReg, "MSR RESET: as CPUID says");
  Check(ReadMsr(msr::kReset) == 0, "MSR RESET: reads as zero");
  CheckReadable(msr::kVpRuntime, privilege::kAccessVpRuntimeReg, "MSR VP_RUNTIME: as CPUID says");
  const uint64_t runtime = ReadMsr(msr::kVpRuntime);
  Check(ReadMsr(msr::kVpRuntime) >= runtime, "MSR VP_RUNTIME: does not go back");
  Check(!MsrFaultsOnRead(msr::kTimeRefCount), "MSR TIME_REF_COUNT: readable");
  Check(!TryWriteMsr(msr::kTimeRefCount, 0), "MSR TIME_REF_COUNT: faults on write");
  Check(ReadMsr(msr::kReferenceTsc) == 0, "MSR REFERENCE_TSC: disabled at first");
  CheckReadable(msr::kTscFrequency, privilege::kAccessFrequencyRegs, "MSR TSC_FREQUENCY: as CPUID says");
  CheckReadable(msr::kApicFrequency, privilege::kAccessFrequencyRegs, "MSR APIC_FREQUENCY: as CPUID says");
  Check(!TryWriteMsr(msr::kTscFrequency, 1) && !TryWriteMsr(msr::kApicFrequency, 1),
        "MSR TSC_FREQUENCY, APIC_FREQUENCY: fault on write");
  CheckReadable(msr::kTpr, privilege::kAccessIntrCtrlRegs, "MSR TPR: as CPUID says");
  CheckReadable(msr::kIcr, privilege::kAccessIntrCtrlRegs, "MSR ICR: as CPUID says");
  Check(TryWriteMsr(msr::kEoi, 0) == HasPrivilege(privilege::kAccessIntrCtrlRegs), "MSR EOI: as CPUID says");
  Check(ReadMsr(msr::kVpAssistPage) == 0, "MSR VP_ASSIST_PAGE: disabled at first");
  TestSynicMsrs();
  TestTimerMsrs();
  Check(!TryWriteMsr(msr::kGuestIdle, 0), "MSR GUEST_IDLE: faults on write");
  for (uint32_t i = 0; i <= msr::kCrashP4 - msr::kCrashP0; ++i) {
    Check(Holds(msr::kCrashP0 + i, 0x1234 + i), "MSR CRASH_P: holds a value:", i);
  }
  Check((ReadMsr(msr::kCrashCtl) & msr::kCrashNotify) != 0, "MSR CRASH_CTL: offers notification");
  Check(MsrFaultsOnRead(0x40000004) && !TryWriteMsr(0x40000004, 0), "MSR 0x40000004: nothing there, faults");
  Check(MsrFaultsOnRead(msr::kLast) && !TryWriteMsr(msr::kLast, 0), "MSR 0x400001FF: nothing there, faults");
}
