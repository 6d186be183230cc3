// SPDX-License-Identifier: Apache-2.0
// Every synthetic MSR: what it holds after reset, what it takes, what faults, and that CPUID tells the truth about it.

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

namespace {

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
  Check(!MsrFaultsOnRead(msr::kReset) && ReadMsr(msr::kReset) == 0, "MSR RESET: reads as zero");
  Check(TryWriteMsr(msr::kReset, 0), "MSR RESET: zero does nothing");
  const uint64_t runtime = ReadMsr(msr::kVpRuntime), start = Now();
  uint64_t later = runtime;
  bool forward = true;
  Check(!MsrFaultsOnRead(msr::kVpRuntime) && WaitUntil([&] {
    const uint64_t now = ReadMsr(msr::kVpRuntime);
    forward = forward && now >= later;
    later = now;
    return later >= runtime + kMillisecond;
  }) && forward,
        "MSR VP_RUNTIME: grows while the processor runs, and does not go back");
  // By at most the time that passed; the two are read one after the other, and counted by different clocks.
  Check(later - runtime <= (Now() - start) * 5 / 4 + kMillisecond, "MSR VP_RUNTIME: is no faster than time");
  Check(!TryWriteMsr(msr::kVpRuntime, 1), "MSR VP_RUNTIME: faults on write");
  Check(!MsrFaultsOnRead(msr::kTimeRefCount), "MSR TIME_REF_COUNT: readable");
  Check(!TryWriteMsr(msr::kTimeRefCount, 0), "MSR TIME_REF_COUNT: faults on write");
  Check(ReadMsr(msr::kReferenceTsc) == 0, "MSR REFERENCE_TSC: disabled at first");
  Check(ReadMsr(msr::kTscFrequency) != 0 && ReadMsr(msr::kApicFrequency) != 0,
        "MSR TSC_FREQUENCY, APIC_FREQUENCY: readable");
  Check(!TryWriteMsr(msr::kTscFrequency, 1) && !TryWriteMsr(msr::kApicFrequency, 1),
        "MSR TSC_FREQUENCY, APIC_FREQUENCY: fault on write");
  const bool invariant = HasInvariantTsc();
  Check(MsrFaultsOnRead(msr::kTscInvariantControl) == !invariant, "MSR TSC_INVARIANT_CONTROL: as CPUID says");
  Check(!TryWriteMsr(msr::kTscInvariantControl, 2) &&
            TryWriteMsr(msr::kTscInvariantControl, msr::kExposeInvariantTsc) == invariant &&
            ReadMsr(msr::kTscInvariantControl) == (invariant ? msr::kExposeInvariantTsc : 0) &&
            HasInvariantTsc() == invariant,
        "MSR TSC_INVARIANT_CONTROL: takes bit 0, where it is");
  const bool apic_msrs = HasPrivilege(privilege::kAccessIntrCtrlRegs);
  Check(MsrFaultsOnRead(msr::kTpr) == !apic_msrs, "MSR TPR: as CPUID says");
  Check(MsrFaultsOnRead(msr::kIcr) == !apic_msrs, "MSR ICR: as CPUID says");
  Check(TryWriteMsr(msr::kEoi, 0) == apic_msrs, "MSR EOI: as CPUID says");
  Check(ReadMsr(msr::kVpAssistPage) == 0, "MSR VP_ASSIST_PAGE: disabled at first");
  TestSynicMsrs();
  TestTimerMsrs();
  Check(!TryWriteMsr(msr::kGuestIdle, 0), "MSR GUEST_IDLE: faults on write");
  for (uint32_t i = 0; i <= msr::kCrashP4 - msr::kCrashP0; ++i) {
    Check(Holds(msr::kCrashP0 + i, 0x1234 + i), "MSR CRASH_P: holds a value:", i);
  }
  constexpr uint64_t kCrash = msr::kCrashNotify | msr::kCrashMessage;
  Check((ReadMsr(msr::kCrashCtl) & kCrash) == kCrash, "MSR CRASH_CTL: offers notification and a message");
  Check(TryWriteMsr(msr::kCrashCtl, msr::kCrashMessage) && (ReadMsr(msr::kCrashCtl) & kCrash) == kCrash,
        "MSR CRASH_CTL: a write that does not notify has no effect");
  Check(MsrFaultsOnRead(0x40000004) && !TryWriteMsr(0x40000004, 0), "MSR 0x40000004: nothing there, faults");
  Check(MsrFaultsOnRead(msr::kLast) && !TryWriteMsr(msr::kLast, 0), "MSR 0x400001FF: nothing there, faults");
}

// The register is immutable once locked (TLFS, "Establishing the Hypercall Interface"), so this comes last.
void TestHypercallLock() {
  static Page elsewhere;
  const uint64_t locked = ReadMsr(msr::kHypercall) | msr::kHypercallLocked;
  Check(TryWriteMsr(msr::kHypercall, locked) && ReadMsr(msr::kHypercall) == locked, "MSR HYPERCALL: locked");
  Check(!TryWriteMsr(msr::kHypercall, elsewhere.gpa() | msr::kPageEnable) && !TryWriteMsr(msr::kHypercall, 0) &&
            ReadMsr(msr::kHypercall) == locked,
        "MSR HYPERCALL: faults when it is to change after that");
  CheckEqual(FastCall(CallCode::kNotifyLongSpinWait, 1, 0), HvStatus::kSuccess,
             "MSR HYPERCALL: and the page still works");
}
