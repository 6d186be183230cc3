// SPDX-License-Identifier: Apache-2.0
// Synthetic MSRs of the "Hv#1" interface and the bits of their values (TLFS, appendix "Hypervisor Synthetic MSRs", and
// the chapter that each group names).

#ifndef HVSDK_HVDEF_MSR_H_
#define HVSDK_HVDEF_MSR_H_

#include <cstdint>

namespace hvsdk::hvdef::msr {

// Hypercall interface (chapter "Hypercall Interface").
inline constexpr uint32_t kGuestOsId = 0x40000000;  // HV_X64_MSR_GUEST_OS_ID
inline constexpr uint32_t kHypercall = 0x40000001;  // HV_X64_MSR_HYPERCALL
inline constexpr uint32_t kVpIndex = 0x40000002;    // HV_X64_MSR_VP_INDEX
inline constexpr uint32_t kReset = 0x40000003;      // HV_X64_MSR_RESET
inline constexpr uint32_t kVpRuntime = 0x40000010;  // HV_X64_MSR_VP_RUNTIME

// Time (chapter "Timers").
inline constexpr uint32_t kTimeRefCount = 0x40000020;         // HV_X64_MSR_TIME_REF_COUNT
inline constexpr uint32_t kReferenceTsc = 0x40000021;         // HV_X64_MSR_REFERENCE_TSC
inline constexpr uint32_t kTscFrequency = 0x40000022;         // HV_X64_MSR_TSC_FREQUENCY, Hz
inline constexpr uint32_t kApicFrequency = 0x40000023;        // HV_X64_MSR_APIC_FREQUENCY, Hz
inline constexpr uint32_t kTscInvariantControl = 0x40000118;  // HV_X64_MSR_TSC_INVARIANT_CONTROL

// Local APIC (chapter "Virtual Interrupt Control").
inline constexpr uint32_t kEoi = 0x40000070;           // HV_X64_MSR_EOI
inline constexpr uint32_t kIcr = 0x40000071;           // HV_X64_MSR_ICR
inline constexpr uint32_t kTpr = 0x40000072;           // HV_X64_MSR_TPR
inline constexpr uint32_t kVpAssistPage = 0x40000073;  // HV_X64_MSR_VP_ASSIST_PAGE

// SynIC (chapter "Inter-Partition Communication").
inline constexpr uint32_t kScontrol = 0x40000080;  // HV_X64_MSR_SCONTROL
inline constexpr uint32_t kSversion = 0x40000081;  // HV_X64_MSR_SVERSION
inline constexpr uint32_t kSiefp = 0x40000082;     // HV_X64_MSR_SIEFP
inline constexpr uint32_t kSimp = 0x40000083;      // HV_X64_MSR_SIMP
inline constexpr uint32_t kEom = 0x40000084;       // HV_X64_MSR_EOM
inline constexpr uint32_t kSint0 = 0x40000090;     // HV_X64_MSR_SINT0
inline constexpr uint32_t kSint15 = 0x4000009F;    // HV_X64_MSR_SINT15

// Synthetic timers: configuration and count of timer n are at kStimer0Config + 2n and one above.
inline constexpr uint32_t kStimer0Config = 0x400000B0;  // HV_X64_MSR_STIMER0_CONFIG
inline constexpr uint32_t kStimer0Count = 0x400000B1;   // HV_X64_MSR_STIMER0_COUNT
inline constexpr uint32_t kStimer3Count = 0x400000B7;   // HV_X64_MSR_STIMER3_COUNT

inline constexpr uint32_t kGuestIdle = 0x400000F0;  // HV_X64_MSR_GUEST_IDLE

// Crash enlightenment (chapter "Partition Properties").
inline constexpr uint32_t kCrashP0 = 0x40000100;   // HV_X64_MSR_CRASH_P0
inline constexpr uint32_t kCrashP4 = 0x40000104;   // HV_X64_MSR_CRASH_P4
inline constexpr uint32_t kCrashCtl = 0x40000105;  // HV_X64_MSR_CRASH_CTL

// The range of synthetic MSRs.
inline constexpr uint32_t kFirst = 0x40000000;
inline constexpr uint32_t kLast = 0x400001FF;

// HYPERCALL, REFERENCE_TSC, VP_ASSIST_PAGE, SIEFP and SIMP have one layout: enable 0, preserved 11:1, page
// number 63:12.
inline constexpr uint64_t kPageEnable = 1;
inline constexpr uint64_t kPageAddressMask = ~uint64_t{0xFFF};
// HYPERCALL alone: once set, the register is immutable until the partition is reset.
inline constexpr uint64_t kHypercallLocked = 2;

inline constexpr uint64_t kResetNow = 1;  // RESET

inline constexpr uint64_t kExposeInvariantTsc = 1;  // TSC_INVARIANT_CONTROL; the rest is reserved

inline constexpr uint64_t kScontrolEnable = 1;  // SCONTROL
inline constexpr uint64_t kSynicVersion = 1;    // SVERSION

// SINTx: vector 7:0, the rest preserved.
inline constexpr uint64_t kSintVectorMask = 0xFF;
inline constexpr uint64_t kSintMasked = 1u << 16;
inline constexpr uint64_t kSintAutoEoi = 1u << 17;
inline constexpr uint64_t kSintPolling = 1u << 18;
inline constexpr uint64_t kSintDefault = kSintMasked;
inline constexpr uint8_t kFirstValidVector = 16;

// STIMERx_CONFIG.
inline constexpr uint64_t kStimerEnable = 1u << 0;
inline constexpr uint64_t kStimerPeriodic = 1u << 1;
inline constexpr uint64_t kStimerLazy = 1u << 2;
inline constexpr uint64_t kStimerAutoEnable = 1u << 3;
inline constexpr uint32_t kStimerVectorShift = 4;  // 11:4
inline constexpr uint64_t kStimerDirect = 1u << 12;
inline constexpr uint32_t kStimerSintShift = 16;  // 19:16
inline constexpr uint64_t kStimerReservedMask = ~uint64_t{0xF1FFF};

// CRASH_CTL (HV_CRASH_CTL_REG_CONTENTS).
inline constexpr uint32_t kCrashPreOsIdShift = 58;  // 60:58
inline constexpr uint64_t kCrashNoDump = uint64_t{1} << 61;
inline constexpr uint64_t kCrashMessage = uint64_t{1} << 62;  // P3: its address, P4: its length in bytes
inline constexpr uint64_t kCrashNotify = uint64_t{1} << 63;
inline constexpr uint32_t kCrashMaxMessageBytes = 4096;

}  // namespace hvsdk::hvdef::msr

#endif  // HVSDK_HVDEF_MSR_H_
