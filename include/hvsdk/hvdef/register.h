// SPDX-License-Identifier: Apache-2.0
// HV_REGISTER_NAME and HV_REGISTER_VALUE for x64 (TLFS, data type HV_REGISTER_NAME; chapter 7 "Virtual Processors").

#ifndef HVSDK_HVDEF_REGISTER_H_
#define HVSDK_HVDEF_REGISTER_H_

#include <cstddef>
#include <cstdint>

namespace hvsdk::hvdef {

enum class RegisterName : uint32_t {
  kExplicitSuspend = 0x00000000,
  kInterceptSuspend = 0x00000001,
  kPendingInterruption = 0x00010002,
  kInterruptState = 0x00010003,
  kPendingEvent0 = 0x00010004,
  kPendingEvent1 = 0x00010005,
  kRax = 0x00020000,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15,
  kRip,
  kRflags,
  kXmm0 = 0x00030000,
  kXmm1,
  kXmm2,
  kXmm3,
  kXmm4,
  kXmm5,
  kXmm6,
  kXmm7,
  kXmm8,
  kXmm9,
  kXmm10,
  kXmm11,
  kXmm12,
  kXmm13,
  kXmm14,
  kXmm15,
  kFpMmx0 = 0x00030010,
  kFpMmx1,
  kFpMmx2,
  kFpMmx3,
  kFpMmx4,
  kFpMmx5,
  kFpMmx6,
  kFpMmx7,
  kFpControlStatus = 0x00030018,
  kXmmControlStatus = 0x00030019,
  kCr0 = 0x00040000,
  kCr2,
  kCr3,
  kCr4,
  kCr8,
  kXfem,
  kDr0 = 0x00050000,
  kDr1,
  kDr2,
  kDr3,
  kDr6,
  kDr7,
  kEs = 0x00060000,
  kCs,
  kSs,
  kDs,
  kFs,
  kGs,
  kLdtr,
  kTr,
  kIdtr = 0x00070000,
  kGdtr,
  kTsc = 0x00080000,
  kEfer,
  kKernelGsBase,
  kApicBase,
  kPat,
  kSysenterCs,
  kSysenterEip,
  kSysenterEsp,
  kStar,
  kLstar,
  kCstar,
  kSfmask,
  kInitialApicId,
  kTscAux = 0x0008007B,

  // Synthetic registers: the synthetic MSRs by name.
  kGuestCrashP0 = 0x00000210,
  kGuestCrashP1,
  kGuestCrashP2,
  kGuestCrashP3,
  kGuestCrashP4,
  kGuestCrashCtl,
  kVpRuntime = 0x00090000,
  kHypercall,
  kGuestOsId,
  kVpIndex,
  kTimeRefCount,
  kVpAssistPage = 0x00090013,
  kReferenceTsc = 0x00090017,
  kSint0 = 0x000A0000,
  kSint1,
  kSint2,
  kSint3,
  kSint4,
  kSint5,
  kSint6,
  kSint7,
  kSint8,
  kSint9,
  kSint10,
  kSint11,
  kSint12,
  kSint13,
  kSint14,
  kSint15,
  kScontrol = 0x000A0010,
  kSversion,
  kSiefp,
  kSimp,
  kEom,
  kStimer0Config = 0x000B0000,
  kStimer0Count,
  kStimer1Config,
  kStimer1Count,
  kStimer2Config,
  kStimer2Count,
  kStimer3Config,
  kStimer3Count,
};

// HV_REGISTER_VALUE: the 16 bytes of any register. Which of the two words mean what depends on the name: general
// registers use `low` alone, XMM registers both, segment and table registers the structures below.
struct RegisterValue {
  uint64_t low;
  uint64_t high;
};
static_assert(sizeof(RegisterValue) == 16);
static_assert(offsetof(RegisterValue, low) == 0 && offsetof(RegisterValue, high) == 8);

// HV_X64_SEGMENT_REGISTER.
struct SegmentRegister {
  uint64_t base;
  uint32_t limit;  // in bytes, already expanded by granularity
  uint16_t selector;
  uint16_t attributes;  // type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15; the rest is zero
};
static_assert(sizeof(SegmentRegister) == 16);
static_assert(offsetof(SegmentRegister, base) == 0 && offsetof(SegmentRegister, limit) == 8 &&
              offsetof(SegmentRegister, selector) == 12 && offsetof(SegmentRegister, attributes) == 14);

// HV_X64_TABLE_REGISTER.
struct TableRegister {
  uint16_t reserved[3];
  uint16_t limit;
  uint64_t base;
};
static_assert(sizeof(TableRegister) == 16);
static_assert(offsetof(TableRegister, reserved) == 0 && offsetof(TableRegister, limit) == 6 &&
              offsetof(TableRegister, base) == 8);

}  // namespace hvsdk::hvdef

#endif  // HVSDK_HVDEF_REGISTER_H_
