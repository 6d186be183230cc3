// SPDX-License-Identifier: Apache-2.0
// Model-specific registers (Intel SDM volume 4) and CPUID.
#include <algorithm>
#include <vector>

#include "backend_software/processor/cpu.h"

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
  kMsrMcgCap = backend::kMsrMcgCap,
  kMsrMcgStatus = backend::kMsrMcgStatus,
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
constexpr uint32_t kBankMsrs = backend::kMachineCheckBanks * backend::kBankRegisters;

// A register of a machine-check bank.
bool IsBank(uint32_t msr) { return msr - backend::kMsrMc0Ctl < kBankMsrs; }

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
      value = apic->base();
      return true;
    case kMsrP5McAddr:
    case kMsrP5McType:
    case kMsrPlatformId:
    case kMsrDebugCtl:
      value = 0;
      return true;
    case kMsrMcgCap:
      value = backend::kMcgCap & (backend::IsAmd(cpuid) ? backend::kMcgCapOfAmd : ~uint64_t{0});
      return true;
    case kMsrFeatureControl:
      value = feature_control;
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
      break;
    case kMsrPredCmd:
      return false;  // can only be written
    case kMsrEfer:
      value = efer;
      return true;
    case kMsrFsBase:
      value = base(kFs);
      return true;
    case kMsrGsBase:
      value = base(kGs);
      return true;
    case kMsrTscAux:
      if (!features.Has(Feature::kRdtscp) && !features.Has(Feature::kRdpid)) return false;
      break;
    default:
      break;
  }
  if (const uint64_t* const plain = PlainMsr(number); plain != nullptr) {
    value = *plain;
    return true;
  }
  if (number == kMsrTscDeadline || (number >= kMsrX2apicFirst && number <= kMsrX2apicLast)) {
    return apic->ReadMsr(number, value);
  }
  if (number == kMsrHvIcr) {
    value = apic->icr();
    return true;
  }
  if (number == kMsrHvTpr) {
    value = apic->tpr();
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
      apic->OnTscChanged();
      return MsrOutcome::kDone;
    case kMsrTscAdjust:
      if (!features.Has(Feature::kTscAdjust)) return MsrOutcome::kFault;
      tsc_offset = value;
      apic->OnTscChanged();
      return MsrOutcome::kDone;
    case kMsrApicBase:
      if (!apic->WriteBase(value)) return MsrOutcome::kFault;
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
    case kMsrSysenterCs:
    case kMsrSfmask:
      value &= 0xFFFFFFFF;
      break;
    case kMsrFsBase:
    case kMsrGsBase:
      if (!IsCanonical(value)) return MsrOutcome::kFault;
      base(number == kMsrFsBase ? kFs : kGs) = value;
      return MsrOutcome::kDone;
    case kMsrEfer:
      return SetEfer(value) ? MsrOutcome::kDone : MsrOutcome::kFault;
    case kMsrTscAux:
      if (!features.Has(Feature::kRdtscp) && !features.Has(Feature::kRdpid)) return MsrOutcome::kFault;
      break;
    default:
      break;
  }
  // Software clears a bank's status; the processor alone sets it (Intel SDM volume 3, 15.3.2.2).
  if (IsBank(number) && number % backend::kBankRegisters == backend::kBankStatus && value != 0)
    return MsrOutcome::kFault;
  if (uint64_t* const plain = PlainMsr(number); plain != nullptr) {
    if (!MayHoldMsr(number, value)) return MsrOutcome::kFault;
    *plain = value;
    return MsrOutcome::kDone;
  }
  if (number == kMsrTscDeadline || (number >= kMsrX2apicFirst && number <= kMsrX2apicLast)) {
    const bool done = apic->WriteMsr(number, value);
    LookAtApic();
    return done ? MsrOutcome::kDone : MsrOutcome::kFault;
  }
  // The synthetic forms of three APIC registers (TLFS, chapter "Virtual Interrupt Controller").
  if (number >= kMsrHvEoi && number <= kMsrHvTpr) {
    bool done = true;
    if (number == kMsrHvEoi) apic->Eoi();
    if (number == kMsrHvIcr) done = apic->WriteIcr(value);
    if (number == kMsrHvTpr) apic->SetTpr(static_cast<uint8_t>(value));
    LookAtApic();
    return done ? MsrOutcome::kDone : MsrOutcome::kFault;
  }
  BeginExit();
  const backend::MsrOutcome outcome = exits->OnMsrWrite(*vp, number, value);
  EndExit();
  return outcome;
}

uint64_t* Cpu::PlainMsr(uint32_t number) {
  switch (number) {
    case kMsrSpecCtrl:
      return &spec_ctrl;
    case kMsrUcodeRev:
      return &microcode;
    case kMsrSysenterCs:
      return &sysenter_cs;
    case kMsrSysenterEsp:
      return &sysenter_esp;
    case kMsrSysenterEip:
      return &sysenter_eip;
    case kMsrMcgStatus:
      return &mcg_status;
    case kMsrMiscEnable:
      return &misc_enable;
    case kMsrPat:
      return &pat;
    case kMsrMtrrDefType:
      return &mtrr_def_type;
    case kMsrStar:
      return &star;
    case kMsrLstar:
      return &lstar;
    case kMsrCstar:
      return &cstar;
    case kMsrSfmask:
      return &sfmask;
    case kMsrKernelGsBase:
      return &kernel_gs_base;
    case kMsrTscAux:
      return &tsc_aux;
    default:
      break;
  }
  if (number >= kMsrMtrrVariable && number < kMsrMtrrVariable + 2 * kVariableMtrrs) {
    return &mtrr_variable[number - kMsrMtrrVariable];
  }
  if (IsBank(number)) return &mc_bank[number - backend::kMsrMc0Ctl];
  const int fixed = FixedMtrr(number);
  return fixed >= 0 ? &mtrr_fixed[fixed] : nullptr;
}

absl::Span<const uint32_t> Cpu::PlainMsrs() {
  static const std::vector<uint32_t>* const all = [] {
    auto* numbers = new std::vector<uint32_t>{
        kMsrSpecCtrl,   kMsrUcodeRev,     kMsrSysenterCs,  kMsrSysenterEsp,  kMsrSysenterEip,  kMsrMcgStatus,
        kMsrMiscEnable, kMsrPat,          kMsrMtrrDefType, kMsrStar,         kMsrLstar,        kMsrCstar,
        kMsrSfmask,     kMsrKernelGsBase, kMsrTscAux,      kMsrMtrrFixed64k, kMsrMtrrFixed16k, kMsrMtrrFixed16k + 1};
    for (uint32_t i = 0; i < 8; ++i) numbers->push_back(kMsrMtrrFixed4k + i);
    for (uint32_t i = 0; i < 2 * kVariableMtrrs; ++i) numbers->push_back(kMsrMtrrVariable + i);
    for (uint32_t i = 0; i < kBankMsrs; ++i) numbers->push_back(backend::kMsrMc0Ctl + i);
    std::sort(numbers->begin(), numbers->end());
    return numbers;
  }();
  return *all;
}

bool Cpu::MayHoldMsr(uint32_t number, uint64_t value) const {
  switch (number) {
    case kMsrSpecCtrl: {
      const uint64_t bits = kSpecCtrlIbrs | (features.Has(Feature::kBhiCtrl) ? kSpecCtrlBhiDisS : 0);
      return value == 0 || (features.Has(Feature::kSpecCtrl) && (value & ~bits) == 0);
    }
    case kMsrTscAux:
      return value == 0 || (value >> 32 == 0 && (features.Has(Feature::kRdtscp) || features.Has(Feature::kRdpid)));
    case kMsrSysenterCs:
    case kMsrSfmask:
      return value >> 32 == 0;
    case kMsrSysenterEsp:
    case kMsrSysenterEip:
    case kMsrLstar:
    case kMsrCstar:
    case kMsrKernelGsBase:
      return IsCanonical(value);
    case kMsrPat:
      return EachByte(value, &IsPatType);
    case kMsrMtrrDefType:
      return (value & ~uint64_t{0xCFF}) == 0 && IsMemoryType(value & 0xFF);
    default:
      return FixedMtrr(number) < 0 || EachByte(value, &IsMemoryType);
  }
}

}  // namespace hvsdk::software
