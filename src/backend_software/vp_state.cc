// SPDX-License-Identifier: Apache-2.0
// A processor's state, to and from the terms that all engines have (hvsdk/backend/state.h).
#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_format.h"
#include "backend_software/code/code_cache.h"
#include "backend_software/software_vp.h"
#include "backend_software/vector/fpu.h"
#include "base/status_macros.h"

namespace hvsdk::software {
namespace {

using backend::Activity;
using backend::MsrState;
using backend::VpState;
using interrupt::LocalApic;
using interrupt::LocalApicState;

constexpr uint32_t kMsrApicBase = 0x1B, kMsrPat = 0x277, kMsrEfer = 0xC0000080;

// Saved whatever their values are: every engine has them. Beside them EFER and IA32_APIC_BASE.
constexpr uint32_t kAlwaysSaved[] = {0x174,      0x175,      0x176,      kMsrPat,   0xC0000081,
                                     0xC0000082, 0xC0000083, 0xC0000084, 0xC0000102};

// What PlainMsr holds after power-on (Cpu::Reset).
uint64_t PowerOnMsr(uint32_t number) {
  if (number == kMsrPat) return 0x0007040600070406;
  constexpr uint32_t kBanksEnd = backend::kMsrMc0Ctl + backend::kMachineCheckBanks * backend::kBankRegisters;
  if (number >= backend::kMsrMc0Ctl && number < kBanksEnd && number % backend::kBankRegisters == backend::kBankCtl) {
    return ~uint64_t{0};
  }
  return number == 0x1A0 ? 0x1801 : 0;
}

// HV_X64_PENDING_INTERRUPTION_REGISTER.
constexpr uint64_t kEventPending = 1, kEventReserved = 0xFF00FE00;
constexpr int kTypeException = 3;
int TypeOf(uint64_t event) { return static_cast<int>(event >> 1 & 7); }
uint8_t VectorOf(uint64_t event) { return static_cast<uint8_t>(event >> 16); }

absl::Status Impossible(absl::string_view field, uint64_t value) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: impossible value %#x", field, value));
}

uint64_t FindMsr(const VpState& state, uint32_t index, uint64_t otherwise) {
  for (const MsrState& msr : state.msrs) {
    if (msr.index == index) return msr.value;
  }
  return otherwise;
}

absl::Status CheckMsrs(Cpu& c, const VpState& state) {
  for (size_t i = 0; i < state.msrs.size(); ++i) {
    const auto [index, value] = state.msrs[i];
    if (i > 0 && index <= state.msrs[i - 1].index) {
      return absl::InvalidArgumentError(absl::StrFormat("msrs: %#x is not in order", index));
    }
    // The APIC's own has its own check.
    if (index == kMsrApicBase || (index == kMsrEfer && (value & ~c.features.efer()) == 0)) continue;
    const bool known = index != kMsrEfer && c.PlainMsr(index) != nullptr;
    if (known ? c.MayHoldMsr(index, value) : value == 0 && index != kMsrEfer) continue;
    return absl::InvalidArgumentError(absl::StrFormat("msrs: this processor's %#x cannot be %#x", index, value));
  }
  return absl::OkStatus();
}

absl::Status CheckRegisters(const Cpu& c, const VpState& state, uint64_t efer) {
  if ((state.rflags & ~kRflagsBits) != 0 || !(state.rflags & kFlagOne)) return Impossible("rflags", state.rflags);
  if (state.cr0 >> 32 != 0 || ((state.cr0 & kCr0Pg) && !(state.cr0 & kCr0Pe)) ||
      ((state.cr0 & kCr0Nw) && !(state.cr0 & kCr0Cd))) {
    return Impossible("cr0", state.cr0);
  }
  if (state.cr3 >> c.features.physical_address_bits() != 0) return Impossible("cr3", state.cr3);
  if ((state.cr4 & ~c.features.cr4()) != 0) return Impossible("cr4", state.cr4);
  if (!(state.xcr0 & 1) || (state.xcr0 & ~c.features.xcr0()) != 0) return Impossible("xcr0", state.xcr0);
  const bool active = efer & kEferLma;
  if (active != ((efer & kEferLme) && (state.cr0 & kCr0Pg)) || (active && !(state.cr4 & kCr4Pae))) {
    return Impossible("msrs: EFER, with these control registers,", efer);
  }
  if ((state.rflags & kFlagVm) && (active || !(state.cr0 & kCr0Pe))) return Impossible("rflags", state.rflags);
  if (state.dr6 >> 32 != 0) return Impossible("dr6", state.dr6);
  if (state.dr7 >> 32 != 0) return Impossible("dr7", state.dr7);
  for (int i = 0; i < 8; ++i) {
    const uint64_t base = state.segments[i].base;
    const bool narrow = i == kEs || i == kCs || i == kSs || i == kDs;
    if (narrow ? base >> 32 != 0 : !IsCanonical(base)) return Impossible(absl::StrFormat("segments[%d].base", i), base);
  }
  if (!IsCanonical(state.gdtr.base)) return Impossible("gdtr.base", state.gdtr.base);
  if (!IsCanonical(state.idtr.base)) return Impossible("idtr.base", state.idtr.base);
  constexpr uint16_t kLongMode = 0x2000;
  const bool is64 = active && (state.segments[1].attributes & kLongMode);
  if (is64 ? !IsCanonical(state.rip) : state.rip >> 32 != 0) return Impossible("rip", state.rip);
  uint8_t image[512];
  std::copy(state.fxsave.begin(), state.fxsave.end(), image);
  if (FxImageMxcsr(image) & ~kMxcsrMask) return Impossible("fxsave: MXCSR", FxImageMxcsr(image));
  for (const backend::XsaveComponent& component : state.xsave) {
    return absl::InvalidArgumentError(absl::StrFormat("xsave: this processor has no component %u", component.number));
  }
  return absl::OkStatus();
}

absl::Status CheckEvents(const VpState& state) {
  if (state.activity > static_cast<uint8_t>(Activity::kWaitForSipi)) return Impossible("activity", state.activity);
  if (state.guest_idle && state.activity != static_cast<uint8_t>(Activity::kHalted)) {
    return absl::InvalidArgumentError("guest_idle: the processor is not halted");
  }
  const uint64_t event = state.pending_interruption;
  const bool pending = event & kEventPending;
  const int type = TypeOf(event);
  if (pending ? (event & kEventReserved) != 0 || type == 1 || type == 7 : event != 0) {
    return Impossible("pending_interruption", event);
  }
  const bool exception = pending && type == kTypeException;
  if (exception && VectorOf(event) >= 32) return Impossible("pending_interruption", event);
  if (state.pending_has_payload && !(exception && (VectorOf(event) == kDebug || VectorOf(event) == kPageFault))) {
    return absl::InvalidArgumentError("pending_has_payload: no #DB nor #PF is pending");
  }
  if (state.pending_dr6 >> 32 != 0) return Impossible("pending_dr6", state.pending_dr6);
  if (state.stack_shadow && !state.interrupt_shadow) {
    return absl::InvalidArgumentError("stack_shadow: there is no interrupt shadow");
  }
  if (state.waiting_debug > 0xF || (state.waiting_debug != 0 && !state.stack_shadow)) {
    return Impossible("waiting_debug", state.waiting_debug);
  }
  return absl::OkStatus();
}

void SaveApic(LocalApic& apic, VpState& state) {
  const LocalApicState saved = apic.Save();
  state.apic = saved.page;
  state.tsc_deadline = saved.tsc_deadline;
  state.auto_eoi = saved.auto_eoi;
  state.init_pending = (saved.signals & LocalApic::kInit) != 0;
  state.sipi_pending = (saved.signals & LocalApic::kSipi) != 0;
  state.sipi_vector = saved.sipi_vector;
  state.nmi_pending = (saved.signals & LocalApic::kNmi) != 0;
  state.apic_errors = saved.errors;
  state.apic_start_count = saved.start_count;
  state.apic_elapsed_100ns = saved.elapsed_100ns;
  state.apic_wait_100ns = saved.wait_100ns;
}

LocalApicState ApicOf(const VpState& state, uint64_t base) {
  return {.page = state.apic,
          .base = base,
          .tsc_deadline = state.tsc_deadline,
          .auto_eoi = state.auto_eoi,
          // An NMI is taken from there with the rest, behind an INIT.
          .signals = (state.nmi_pending ? LocalApic::kNmi : 0u) | (state.init_pending ? LocalApic::kInit : 0u) |
                     (state.sipi_pending ? LocalApic::kSipi : 0u),
          .sipi_vector = state.sipi_vector,
          .errors = state.apic_errors,
          .start_count = state.apic_start_count,
          .elapsed_100ns = state.apic_elapsed_100ns,
          .wait_100ns = state.apic_wait_100ns};
}

}  // namespace

absl::Status SoftwareVp::SaveState(VpState& state) {
  state = {};
  const Cpu& c = *cpu_;
  for (size_t i = 0; i < state.gpr.size(); ++i) state.gpr[i] = c.r[i];
  state.rip = c.r[kIp];
  state.rflags = c.GetRflags();
  for (int i = 0; i < 8; ++i) {
    const Segment& segment = c.segment[i];
    state.segments[i] = {cpu_->base(i), segment.limit, segment.selector, segment.attributes};
  }
  state.gdtr = {c.gdtr.base, c.gdtr.limit};
  state.idtr = {c.idtr.base, c.idtr.limit};
  state.cr0 = c.cr0;
  state.cr2 = c.cr2;
  state.cr3 = c.cr3;
  state.cr4 = c.cr4;
  state.xcr0 = c.xcr0;
  std::copy(std::begin(c.dr), std::end(c.dr), state.dr.begin());
  state.dr6 = c.dr6;
  state.dr7 = c.dr7;
  uint8_t image[512];
  SaveFxImage(c, image);
  std::copy(std::begin(image), std::end(image), state.fxsave.begin());
  state.fpu_cs = c.x87.last_cs;
  state.fpu_ds = c.x87.last_ds;

  LocalApic& apic = machine_->apic(ToInt(index()));
  SaveApic(apic, state);
  state.msrs = {{kMsrApicBase, apic.base()}, {kMsrEfer, c.efer}};
  for (const uint32_t number : Cpu::PlainMsrs()) {
    const uint64_t value = *cpu_->PlainMsr(number);
    const bool always = std::find(std::begin(kAlwaysSaved), std::end(kAlwaysSaved), number) != std::end(kAlwaysSaved);
    if (always || value != PowerOnMsr(number)) state.msrs.push_back({number, value});
  }
  std::sort(state.msrs.begin(), state.msrs.end(),
            [](const MsrState& a, const MsrState& b) { return a.index < b.index; });
  state.tsc_offset = c.tsc_offset;

  state.activity = c.halted;
  state.guest_idle = c.idle;
  state.interrupt_shadow = c.interrupt_shadow;
  state.stack_shadow = c.stack_shadow;
  state.waiting_debug = static_cast<uint8_t>(c.stack_shadow ? c.pending_debug & 0xF : 0);
  state.nmi_blocked = c.nmi_blocked;
  state.nmi_pending |= c.nmi_pending && !state.init_pending;  // INIT would take it away
  state.pending_interruption = c.PendingInterruption();
  return absl::OkStatus();
}

absl::Status SoftwareVp::RestoreState(const VpState& state) {
  Cpu& c = *cpu_;
  LocalApic& apic = machine_->apic(ToInt(index()));
  const uint64_t efer = FindMsr(state, kMsrEfer, 0);
  const LocalApicState apic_state = ApicOf(state, FindMsr(state, kMsrApicBase, 0));
  RETURN_IF_ERROR(CheckMsrs(c, state));
  RETURN_IF_ERROR(CheckRegisters(c, state, efer));
  RETURN_IF_ERROR(CheckEvents(state));
  RETURN_IF_ERROR(apic.Check(apic_state));

  // From here on nothing fails. What the state says nothing of is as after power-on.
  RETURN_IF_ERROR(Reset());
  for (size_t i = 0; i < state.gpr.size(); ++i) c.r[i] = state.gpr[i];
  c.r[kIp] = state.rip;
  c.flags.Set(state.rflags);
  c.rflags = (state.rflags & ~kArithmeticFlags & kRflagsBits) | kFlagOne;
  for (int i = 0; i < 8; ++i) {
    const backend::SegmentState& from = state.segments[i];
    c.base(i) = from.base;
    c.segment[i] = {from.selector, from.attributes, from.limit};
  }
  c.gdtr = {state.gdtr.base, state.gdtr.limit};
  c.idtr = {state.idtr.base, state.idtr.limit};
  c.cr0 = state.cr0 | kCr0Et;
  c.cr2 = state.cr2;
  c.cr3 = state.cr3;
  c.cr4 = state.cr4;
  c.efer = efer;
  c.xcr0 = state.xcr0;
  std::copy(state.dr.begin(), state.dr.end(), c.dr);
  c.dr6 = state.dr6;
  c.dr7 = state.dr7;
  uint8_t image[512];
  std::copy(state.fxsave.begin(), state.fxsave.end(), image);
  RestoreFxImage(c, image);
  c.x87.last_cs = state.fpu_cs;
  c.x87.last_ds = state.fpu_ds;
  for (const MsrState& msr : state.msrs) {
    if (uint64_t* plain = c.PlainMsr(msr.index); plain != nullptr) *plain = msr.value;
  }
  c.tsc_offset = state.tsc_offset;

  // CPL is the stack segment's DPL, where there is one.
  c.cpl = static_cast<uint8_t>(!c.IsProtected() ? 0 : c.IsVm86() ? 3 : c.segment[kSs].dpl());
  c.interrupt_shadow = state.interrupt_shadow;
  c.stack_shadow = state.stack_shadow;
  c.pending_debug = state.waiting_debug;
  c.nmi_blocked = state.nmi_blocked;
  c.SetPendingInterruption(state.pending_interruption);
  if (c.exception_pending) {
    // Nothing comes between now and its delivery, so what belongs to it may be in place already.
    if (state.pending_has_payload && c.injected.vector == kDebug) c.dr6 = state.pending_dr6;
    if (state.pending_has_payload && c.injected.vector == kPageFault) c.cr2 = state.pending_cr2;
  }
  RETURN_IF_ERROR(SetActivity(static_cast<Activity>(state.activity)));
  c.idle = state.guest_idle;
  c.FlushTlb(false);
  c.code->DropAll();
  c.UpdateMode();
  c.UpdateStepping();
  apic.Restore(apic_state);  // its deadline is of the TSC that is in place now
  c.attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
  return absl::OkStatus();
}

}  // namespace hvsdk::software
