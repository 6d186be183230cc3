// SPDX-License-Identifier: Apache-2.0
// Model-specific registers (Intel SDM volume 4) and CPUID.
#include "backend_software/cpu.h"
#include "backend_software/machine.h"

namespace hvsdk::software {
namespace {

enum Msr : uint32_t {
  kMsrP5McAddr = 0x0,
  kMsrP5McType = 0x1,
  kMsrTsc = 0x10,
  kMsrPlatformId = 0x17,
  kMsrApicBase = 0x1B,
  kMsrFeatureControl = 0x3A,
  kMsrTscAdjust = 0x3B,
  kMsrSpecCtrl = 0x48,
  kMsrPredCmd = 0x49,
  kMsrUcodeWrite = 0x79,
  kMsrUcodeRev = 0x8B,
  kMsrMtrrCap = 0xFE,
  kMsrArchCapabilities = 0x10A,
  kMsrSysenterCs = 0x174,
  kMsrSysenterEsp = 0x175,
  kMsrSysenterEip = 0x176,
  kMsrMcgCap = 0x179,
  kMsrMcgStatus = 0x17A,
  kMsrMiscEnable = 0x1A0,
  kMsrDebugCtl = 0x1D9,
  kMsrMtrrVariable = 0x200,
  kMsrMtrrFixed64k = 0x250,
  kMsrMtrrFixed16k = 0x258,
  kMsrMtrrFixed4k = 0x268,
  kMsrPat = 0x277,
  kMsrMtrrDefType = 0x2FF,
  kMsrTscDeadline = 0x6E0,
  kMsrX2apicFirst = 0x800,
  kMsrX2apicLast = 0x8FF,
  kMsrEfer = 0xC0000080,
  kMsrStar = 0xC0000081,
  kMsrLstar = 0xC0000082,
  kMsrCstar = 0xC0000083,
  kMsrSfmask = 0xC0000084,
  kMsrFsBase = 0xC0000100,
  kMsrGsBase = 0xC0000101,
  kMsrKernelGsBase = 0xC0000102,
  kMsrTscAux = 0xC0000103,
  kMsrHvEoi = 0x40000070,
  kMsrHvIcr = 0x40000071,
  kMsrHvTpr = 0x40000072,
};

constexpr int kVariableMtrrs = 8;

// IA32_ARCH_CAPABILITIES: nothing here runs ahead of the program, so nothing leaks.
constexpr uint64_t kIbrsAll = 1 << 1;
constexpr uint64_t kLeaksNothing = 1 << 0 /*RDCL_NO*/ | 1 << 3 /*SKIP_L1DFL_VMENTRY*/ | 1 << 4 /*SSB_NO*/ |
                                   1 << 5 /*MDS_NO*/ | 1 << 6 /*IF_PSCHANGE_MC_NO*/ | 1 << 8 /*TAA_NO*/ |
                                   1 << 13 /*SBDR_SSDP_NO*/ | 1 << 14 /*FBSDP_NO*/ | 1 << 15 /*PSDP_NO*/ |
                                   1 << 20 /*BHI_NO*/ | 1 << 24 /*PBRSB_NO*/ | 1 << 26 /*GDS_NO*/ |
                                   1 << 27 /*RFDS_NO*/ | uint64_t{1} << 62 /*ITS_NO*/;

// IA32_SPEC_CTRL. Without STIBP in CPUID its bit is ignored, not reserved, where there is IBRS.
constexpr uint64_t kSpecCtrlIbrs = 1 << 0;
constexpr uint64_t kSpecCtrlStibp = 1 << 1;
constexpr uint64_t kSpecCtrlBhiDisS = 1 << 10;
constexpr uint64_t kPredCmdIbpb = 1 << 0;

bool IsMemoryType(uint64_t type) { return type < 2 || (type > 3 && type < 7); }
bool IsPatType(uint64_t type) { return IsMemoryType(type) || type == 7; }
bool EachByte(uint64_t value, bool (*valid)(uint64_t)) {
  for (int i = 0; i < 8; ++i) {
    if (!valid(value >> (8 * i) & 0xFF)) return false;
  }
  return true;
}

// The index of a fixed-range MTRR, or -1.
int FixedMtrr(uint32_t msr) {
  if (msr == kMsrMtrrFixed64k) return 0;
  if (msr == kMsrMtrrFixed16k || msr == kMsrMtrrFixed16k + 1) return static_cast<int>(1 + msr - kMsrMtrrFixed16k);
  if (msr >= kMsrMtrrFixed4k && msr < kMsrMtrrFixed4k + 8) return static_cast<int>(3 + msr - kMsrMtrrFixed4k);
  return -1;
}

}  // namespace

bool Cpu::ReadMsr(uint32_t number, uint64_t& value) {
  switch (number) {
    case kMsrTsc:
      value = ReadTsc();
      return true;
    case kMsrTscAdjust:
      if (!features.Has(Feature::kTscAdjust)) return false;
      value = tsc_offset;
      return true;
    case kMsrApicBase:
      value = machine.apic(index).base();
      return true;
    case kMsrP5McAddr:
    case kMsrP5McType:
    case kMsrPlatformId:
    case kMsrMcgCap:
    case kMsrDebugCtl:
      value = 0;
      return true;
    case kMsrFeatureControl:
      value = feature_control;
      return true;
    case kMsrUcodeRev:
      value = microcode;
      return true;
    case kMsrMtrrCap:
      value = 0x500 | kVariableMtrrs;
      return true;
    case kMsrArchCapabilities:
      if (!features.Has(Feature::kArchCapabilities)) return false;
      value = kLeaksNothing | (features.Has(Feature::kSpecCtrl) ? kIbrsAll : 0);
      return true;
    case kMsrSpecCtrl:
      if (!features.Has(Feature::kSpecCtrl)) return false;
      value = spec_ctrl;
      return true;
    case kMsrPredCmd:
      return false;  // can only be written
    case kMsrSysenterCs:
      value = sysenter_cs;
      return true;
    case kMsrSysenterEsp:
      value = sysenter_esp;
      return true;
    case kMsrSysenterEip:
      value = sysenter_eip;
      return true;
    case kMsrMcgStatus:
      value = mcg_status;
      return true;
    case kMsrMiscEnable:
      value = misc_enable;
      return true;
    case kMsrPat:
      value = pat;
      return true;
    case kMsrMtrrDefType:
      value = mtrr_def_type;
      return true;
    case kMsrEfer:
      value = efer;
      return true;
    case kMsrStar:
      value = star;
      return true;
    case kMsrLstar:
      value = lstar;
      return true;
    case kMsrCstar:
      value = cstar;
      return true;
    case kMsrSfmask:
      value = sfmask;
      return true;
    case kMsrFsBase:
      value = base(kFs);
      return true;
    case kMsrGsBase:
      value = base(kGs);
      return true;
    case kMsrKernelGsBase:
      value = kernel_gs_base;
      return true;
    case kMsrTscAux:
      if (!features.Has(Feature::kRdtscp) && !features.Has(Feature::kRdpid)) return false;
      value = tsc_aux;
      return true;
    default:
      break;
  }
  if (number == kMsrTscDeadline || (number >= kMsrX2apicFirst && number <= kMsrX2apicLast)) {
    return machine.apic(index).ReadMsr(number, value);
  }
  if (number == kMsrHvIcr) {
    value = machine.apic(index).icr();
    return true;
  }
  if (number == kMsrHvTpr) {
    value = machine.apic(index).tpr();
    return true;
  }
  if (number >= kMsrMtrrVariable && number < kMsrMtrrVariable + 2 * kVariableMtrrs) {
    value = mtrr_variable[number - kMsrMtrrVariable];
    return true;
  }
  if (const int fixed = FixedMtrr(number); fixed >= 0) {
    value = mtrr_fixed[fixed];
    return true;
  }
  BeginExit();
  const backend::MsrOutcome outcome = exits->OnMsrRead(*vp, number, value);
  EndExit();
  if (outcome == backend::MsrOutcome::kHalt) Idle();
  return outcome != backend::MsrOutcome::kFault;
}

backend::MsrOutcome Cpu::WriteMsr(uint32_t number, uint64_t value) {
  using backend::MsrOutcome;
  switch (number) {
    case kMsrTsc:
      tsc_offset += value - ReadTsc();
      machine.apic(index).OnTscChanged();
      return MsrOutcome::kDone;
    case kMsrTscAdjust:
      if (!features.Has(Feature::kTscAdjust)) return MsrOutcome::kFault;
      tsc_offset = value;
      machine.apic(index).OnTscChanged();
      return MsrOutcome::kDone;
    case kMsrApicBase:
      if (!machine.apic(index).WriteBase(value)) return MsrOutcome::kFault;
      FlushTlb(false);
      LookAtApic();
      return MsrOutcome::kDone;
    case kMsrPlatformId:
    case kMsrMtrrCap:
    case kMsrArchCapabilities:
    case kMsrMcgCap:
      return MsrOutcome::kFault;
    case kMsrP5McAddr:
    case kMsrP5McType:
    case kMsrUcodeWrite:
    case kMsrDebugCtl:
      return MsrOutcome::kDone;
    case kMsrSpecCtrl: {
      const uint64_t bits = kSpecCtrlIbrs | (features.Has(Feature::kBhiCtrl) ? kSpecCtrlBhiDisS : 0);
      if (!features.Has(Feature::kSpecCtrl) || (value & ~(bits | kSpecCtrlStibp))) return MsrOutcome::kFault;
      spec_ctrl = value & bits;
      return MsrOutcome::kDone;
    }
    case kMsrPredCmd:
      if (!features.Has(Feature::kSpecCtrl) || (value & ~kPredCmdIbpb)) return MsrOutcome::kFault;
      return MsrOutcome::kDone;
    case kMsrFeatureControl:
      return MsrOutcome::kFault;  // locked
    case kMsrUcodeRev:
      microcode = value;
      return MsrOutcome::kDone;
    case kMsrSysenterCs:
      sysenter_cs = value & 0xFFFFFFFF;
      return MsrOutcome::kDone;
    case kMsrSysenterEsp:
    case kMsrSysenterEip:
    case kMsrLstar:
    case kMsrCstar:
    case kMsrFsBase:
    case kMsrGsBase:
    case kMsrKernelGsBase:
      if (!IsCanonical(value)) return MsrOutcome::kFault;
      if (number == kMsrSysenterEsp) sysenter_esp = value;
      if (number == kMsrSysenterEip) sysenter_eip = value;
      if (number == kMsrLstar) lstar = value;
      if (number == kMsrCstar) cstar = value;
      if (number == kMsrFsBase) base(kFs) = value;
      if (number == kMsrGsBase) base(kGs) = value;
      if (number == kMsrKernelGsBase) kernel_gs_base = value;
      return MsrOutcome::kDone;
    case kMsrMcgStatus:
      mcg_status = value;
      return MsrOutcome::kDone;
    case kMsrMiscEnable:
      misc_enable = value;
      return MsrOutcome::kDone;
    case kMsrPat:
      if (!EachByte(value, &IsPatType)) return MsrOutcome::kFault;
      pat = value;
      return MsrOutcome::kDone;
    case kMsrMtrrDefType:
      if ((value & ~uint64_t{0xCFF}) || !IsMemoryType(value & 0xFF)) return MsrOutcome::kFault;
      mtrr_def_type = value;
      return MsrOutcome::kDone;
    case kMsrEfer:
      return SetEfer(value) ? MsrOutcome::kDone : MsrOutcome::kFault;
    case kMsrStar:
      star = value;
      return MsrOutcome::kDone;
    case kMsrSfmask:
      sfmask = value & 0xFFFFFFFF;
      return MsrOutcome::kDone;
    case kMsrTscAux:
      if (!features.Has(Feature::kRdtscp) && !features.Has(Feature::kRdpid)) return MsrOutcome::kFault;
      if (value >> 32) return MsrOutcome::kFault;
      tsc_aux = value;
      return MsrOutcome::kDone;
    default:
      break;
  }
  if (number == kMsrTscDeadline || (number >= kMsrX2apicFirst && number <= kMsrX2apicLast)) {
    const bool done = machine.apic(index).WriteMsr(number, value);
    LookAtApic();
    return done ? MsrOutcome::kDone : MsrOutcome::kFault;
  }
  // The synthetic forms of three APIC registers (TLFS, chapter "Virtual Interrupt Controller").
  if (number >= kMsrHvEoi && number <= kMsrHvTpr) {
    bool done = true;
    if (number == kMsrHvEoi) machine.apic(index).Eoi();
    if (number == kMsrHvIcr) done = machine.apic(index).WriteIcr(value);
    if (number == kMsrHvTpr) machine.apic(index).SetTpr(static_cast<uint8_t>(value));
    LookAtApic();
    return done ? MsrOutcome::kDone : MsrOutcome::kFault;
  }
  if (number >= kMsrMtrrVariable && number < kMsrMtrrVariable + 2 * kVariableMtrrs) {
    mtrr_variable[number - kMsrMtrrVariable] = value;
    return MsrOutcome::kDone;
  }
  if (const int fixed = FixedMtrr(number); fixed >= 0) {
    if (!EachByte(value, &IsMemoryType)) return MsrOutcome::kFault;
    mtrr_fixed[fixed] = value;
    return MsrOutcome::kDone;
  }
  BeginExit();
  const backend::MsrOutcome outcome = exits->OnMsrWrite(*vp, number, value);
  EndExit();
  return outcome;
}

}  // namespace hvsdk::software
