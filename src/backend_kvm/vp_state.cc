// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/vp_state.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/str_format.h"
#include "backend_kvm/kvm_registers.h"
#include "base/status_macros.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::backend::kvm {
namespace {

constexpr uint32_t kMsrTsc = 0x10, kMsrApicBase = 0x1B, kMsrTscAdjust = 0x3B, kMsrTscDeadline = 0x6E0, kMsrPat = 0x277,
                   kMsrEfer = 0xC0000080;
constexpr uint32_t kMsrKvmWallClock = 0x11, kMsrKvmSystemTime = 0x12;
constexpr uint64_t kBaseX2apic = 1 << 10, kBaseEnable = 1 << 11;

// Saved whatever their values are.
constexpr uint32_t kAlwaysSaved[] = {
    0x174,      0x175,      0x176,                               // IA32_SYSENTER_CS, ESP, EIP
    0x277,                                                       // IA32_PAT
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084, 0xC0000102,  // STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE
};

// What the kernel lists and is not architectural state, or has a place of its own in VpState: the TSC and what is made
// from it, the x2APIC's registers, the hypervisor's (Hyper-V's and KVM's).
bool IsSavedMsr(uint32_t index) {
  return index != kMsrTsc && index != kMsrKvmWallClock && index != kMsrKvmSystemTime && index != kMsrTscAdjust &&
         index != kMsrTscDeadline && (index & 0xF0000000) != 0x40000000 && (index & 0xFFFFFF00) != 0x800;
}

uint64_t FindMsr(const std::vector<kvm_msr_entry>& msrs, uint32_t index) {
  for (const kvm_msr_entry& msr : msrs) {
    if (msr.index == index) return msr.data;
  }
  return 0;
}

// XSAVE.

constexpr size_t kLegacyBytes = 416;  // of the FXSAVE image; the rest means nothing
constexpr size_t kFcw = 0, kMxcsr = 24, kRegisters = 32, kXmm0 = 160, kXstateBv = 512;
constexpr uint64_t kX87 = 1, kSse = 2;

absl::string_view ComponentName(uint32_t number) {
  switch (number) {
    case 2:
      return "AVX";
    case 3:
      return "BNDREGS";
    case 4:
      return "BNDCSR";
    case 5:
      return "AVX-512 opmask";
    case 6:
      return "AVX-512 ZMM_Hi256";
    case 7:
      return "AVX-512 Hi16_ZMM";
    case 9:
      return "PKRU";
    case 17:
      return "TILECFG";
    case 18:
      return "TILEDATA";
    default:
      return "unknown";
  }
}

struct Place {
  uint32_t offset = 0, size = 0;  // size 0: this processor has no such component
};

// Where the standard format has a component, which is where the kernel's area has it (Intel SDM volume 1, 13.4.3).
Place PlaceOf(uint32_t number, size_t area_bytes) {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (number < 2 || number > 62 || !__get_cpuid_count(0xD, 0, &eax, &ebx, &ecx, &edx)) return {};
  if (((uint64_t{edx} << 32 | eax) >> number & 1) == 0) return {};
  if (!__get_cpuid_count(0xD, number, &eax, &ebx, &ecx, &edx)) return {};
  if (ebx > area_bytes || eax > area_bytes - ebx) return {};
  return {.offset = ebx, .size = eax};
}

void SaveXsave(const std::vector<uint8_t>& area, VpState& state) {
  uint64_t in_use;
  std::memcpy(&in_use, area.data() + kXstateBv, sizeof(in_use));
  std::memcpy(state.fxsave.data(), area.data(), kLegacyBytes);
  // A component whose bit is clear is in its initial state, whatever its bytes say.
  if ((in_use & kX87) == 0) {
    std::memset(state.fxsave.data(), 0, kMxcsr);
    std::memset(state.fxsave.data() + kRegisters, 0, kXmm0 - kRegisters);
    const uint16_t control = 0x37F;
    std::memcpy(state.fxsave.data() + kFcw, &control, sizeof(control));
  }
  if ((in_use & kSse) == 0) std::memset(state.fxsave.data() + kXmm0, 0, kLegacyBytes - kXmm0);
  for (uint32_t number = 2; number < 63; ++number) {
    if ((in_use >> number & 1) == 0) continue;
    const Place place = PlaceOf(number, area.size());
    const uint8_t* from = area.data() + place.offset;
    // All components from 2 on are initially zero, and a processor may or may not notice that one is.
    if (std::all_of(from, from + place.size, [](uint8_t byte) { return byte == 0; })) continue;
    state.xsave.push_back({.number = static_cast<uint8_t>(number), .bytes = {from, from + place.size}});
  }
}

absl::Status RestoreXsave(const VpState& state, std::vector<uint8_t>& area) {
  std::fill(area.begin(), area.end(), uint8_t{0});
  std::memcpy(area.data(), state.fxsave.data(), kLegacyBytes);
  uint64_t in_use = kX87 | kSse;
  for (const XsaveComponent& component : state.xsave) {
    const uint32_t number = component.number;
    const Place place = PlaceOf(number, area.size());
    if (place.size == 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("xsave: this host has no component %u (%s)", number, ComponentName(number)));
    }
    if (component.bytes.size() != place.size) {
      return absl::InvalidArgumentError(absl::StrFormat("xsave: component %u (%s) has %u bytes, not %u", number,
                                                        ComponentName(number), component.bytes.size(), place.size));
    }
    if ((in_use >> number & 1) != 0) {
      return absl::InvalidArgumentError(absl::StrFormat("xsave: component %u comes twice", number));
    }
    in_use |= uint64_t{1} << number;
    std::memcpy(area.data() + place.offset, component.bytes.data(), place.size);
  }
  std::memcpy(area.data() + kXstateBv, &in_use, sizeof(in_use));
  return absl::OkStatus();
}

// The local APIC.

// Without KVM_CAP_X2APIC_API the kernel has the id in bits 31:24 in x2APIC mode, too.
bool HasWideId(uint64_t apic_base, const HostFeatures& host) {
  return (apic_base & kBaseX2apic) != 0 && host.x2apic_ids;
}

absl::Status RestoreApic(const VpState& state, uint64_t apic_base, const VcpuState& power_on, const HostFeatures& host,
                         uint32_t apic_id, kvm_lapic_state& apic) {
  static_assert(sizeof(apic.regs) == sizeof(state.apic));
  const uint32_t id = ApicWord(state.apic, kApicId), own_id = (apic_base & kBaseX2apic) != 0 ? apic_id : apic_id << 24;
  if ((apic_base & kBaseEnable) != 0 && id != own_id) {
    return absl::InvalidArgumentError(absl::StrFormat("apic: its id is %#x, this processor's %#x", id, own_id));
  }
  for (const size_t bits : {kApicIrr, kApicIsr, kApicTmr}) {
    if ((ApicWord(state.apic, bits) & 0xFFFF) != 0) {
      return absl::InvalidArgumentError(absl::StrFormat("apic: a vector below 16 at %#x", bits));
    }
  }
  if (ApicWord(state.apic, kApicCurrentCount) > ApicWord(state.apic, kApicInitialCount)) {
    return absl::InvalidArgumentError("apic: the timer's current count is above its initial one");
  }
  std::memcpy(apic.regs, state.apic.data(), sizeof(apic.regs));
  SetApicWord(apic.regs, kApicId, HasWideId(apic_base, host) ? apic_id : apic_id << 24);
  SetApicWord(apic.regs, kApicVersion, ApicWord(power_on.apic.regs, kApicVersion));
  // A kernel that is given a one-shot timer with nothing left to count has it expire, again.
  if ((ApicWord(state.apic, kApicLvtTimer) & kLvtTimerMode) == 0 && ApicWord(state.apic, kApicCurrentCount) == 0) {
    SetApicWord(apic.regs, kApicInitialCount, 0);
  }
  // Another engine may have no such entry.
  if (ApicWord(state.apic, kApicLvtCmci) == 0 && ApicWord(power_on.apic.regs, kApicLvtCmci) != 0) {
    SetApicWord(apic.regs, kApicLvtCmci, kLvtMasked);
  }
  return absl::OkStatus();
}

// Events.

constexpr uint64_t kEventPending = 1;
constexpr uint64_t kTypeMask = 7 << 1, kTypeException = 3 << 1;
constexpr uint8_t kDebugVector = 1, kPageFaultVector = 14;
// DR6 as a payload has the bits that become set inverted where DR6 has ones for nothing (Linux, DR6_ACTIVE_LOW).
constexpr uint64_t kDr6ActiveLow = 0xFFFF0FF0, kDr6Traps = 0xF;
constexpr uint64_t kDr6InvertedInUse = 1 << 16 | 1 << 11;  // RTM, bus lock

uint64_t Dr6After(uint64_t dr6, uint64_t payload) {
  dr6 = (dr6 & ~kDr6Traps) | kDr6ActiveLow | payload;
  return (dr6 ^ (payload & kDr6ActiveLow)) & 0xFFFFFFFF;
}
uint64_t Dr6Payload(uint64_t dr6) { return (dr6 & ~kDr6ActiveLow & 0xFFFFFFFF) | (~dr6 & kDr6InvertedInUse); }

void SaveEvents(const VcpuState& now, VpState& state) {
  const kvm_vcpu_events& events = now.events;
  state.interrupt_shadow = events.interrupt.shadow != 0;
  // On AMD's processors the kernel cannot tell, and says both.
  state.stack_shadow = events.interrupt.shadow == KVM_X86_SHADOW_INT_MOV_SS;
  state.nmi_blocked = events.nmi.masked != 0;
  state.nmi_pending = events.nmi.pending != 0;
  // INIT and start-up messages are taken in, see VcpuState::Take.
  state.pending_interruption = PendingInterruption(events).low;
  // An interrupt that is under delivery is gone from the local APIC, while an exception beside it happens again.
  if (state.pending_interruption != 0 || !events.exception.pending) return;
  kvm_vcpu_events begun = events;
  begun.exception.injected = 1;
  state.pending_interruption = PendingInterruption(begun).low;
  if (!events.exception_has_payload) return;
  state.pending_has_payload = events.exception.nr == kDebugVector || events.exception.nr == kPageFaultVector;
  if (events.exception.nr == kDebugVector) state.pending_dr6 = Dr6After(now.debug.dr6, events.exception_payload);
  if (events.exception.nr == kPageFaultVector) state.pending_cr2 = events.exception_payload;
}

absl::Status RestoreEvents(const VpState& state, const HostFeatures& host, VcpuState& vcpu) {
  kvm_vcpu_events& events = vcpu.events;
  events = {};
  events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
                 (host.exception_payload ? KVM_VCPUEVENT_VALID_PAYLOAD : 0);
  if (state.stack_shadow && !state.interrupt_shadow) {
    return absl::InvalidArgumentError("stack_shadow: there is no interrupt shadow");
  }
  if (state.interrupt_shadow) {
    events.interrupt.shadow = state.stack_shadow ? KVM_X86_SHADOW_INT_MOV_SS : KVM_X86_SHADOW_INT_STI;
  }
  events.nmi.masked = state.nmi_blocked;
  events.nmi.pending = state.nmi_pending;
  if (!SetPendingInterruption(events, state.pending_interruption)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("pending_interruption: impossible value %#x", state.pending_interruption));
  }
  const bool is_exception =
      (state.pending_interruption & kEventPending) != 0 && (state.pending_interruption & kTypeMask) == kTypeException;
  const uint8_t vector = is_exception ? events.exception.nr : 0;
  if (state.pending_has_payload && vector != kDebugVector && vector != kPageFaultVector) {
    return absl::InvalidArgumentError("pending_has_payload: no #DB nor #PF is pending");
  }
  if (state.pending_dr6 >> 32 != 0) return absl::InvalidArgumentError("pending_dr6: more than 32 bits");
  if (!is_exception) return absl::OkStatus();
  if (!host.exception_payload) {
    // This kernel delivers an exception without a look at what belongs to it.
    if (state.pending_has_payload && vector == kDebugVector) vcpu.debug.dr6 = state.pending_dr6;
    if (state.pending_has_payload && vector == kPageFaultVector) vcpu.sregs.cr2 = state.pending_cr2;
    return absl::OkStatus();
  }
  // To begin a delivery again does no harm; what it does first (RFLAGS.RF, DR7.GD) is done once.
  events.exception.injected = 0;
  events.exception.pending = 1;
  if (!state.pending_has_payload) return absl::OkStatus();
  events.exception_has_payload = 1;
  events.exception_payload = vector == kDebugVector ? Dr6Payload(state.pending_dr6) : state.pending_cr2;
  return absl::OkStatus();
}

}  // namespace

void ToVpState(const VcpuState& now, const VcpuState& power_on, const HostFeatures& host, VpState& state) {
  for (size_t i = 0; i < state.gpr.size(); ++i) state.gpr[i] = ReadGpr(now.regs, static_cast<Gpr>(i));
  state.rip = now.regs.rip;
  state.rflags = now.regs.rflags;
  for (size_t i = 0; i < state.segments.size(); ++i) {
    const hvdef::SegmentRegister segment = FromSegment(SegmentOf(now.sregs, i));
    state.segments[i] = {segment.base, segment.limit, segment.selector, segment.attributes};
  }
  state.gdtr = {now.sregs.gdt.base, now.sregs.gdt.limit};
  state.idtr = {now.sregs.idt.base, now.sregs.idt.limit};
  state.cr0 = now.sregs.cr0;
  state.cr2 = now.sregs.cr2;
  state.cr3 = now.sregs.cr3;
  state.cr4 = now.sregs.cr4;
  state.xcr0 = now.xcrs.nr_xcrs != 0 ? now.xcrs.xcrs[0].value : 1;
  std::copy(std::begin(now.debug.db), std::end(now.debug.db), state.dr.begin());
  state.dr6 = now.debug.dr6;
  state.dr7 = now.debug.dr7;
  SaveXsave(now.xsave, state);

  std::map<uint32_t, uint64_t> msrs = {{kMsrApicBase, now.sregs.apic_base}, {kMsrEfer, now.sregs.efer}};
  std::map<uint32_t, uint64_t> first;
  for (const kvm_msr_entry& msr : power_on.msrs) first[msr.index] = msr.data;
  for (const kvm_msr_entry& msr : now.msrs) {
    if (!IsSavedMsr(msr.index)) continue;
    const bool always =
        std::find(std::begin(kAlwaysSaved), std::end(kAlwaysSaved), msr.index) != std::end(kAlwaysSaved);
    const auto found = first.find(msr.index);
    if (always || found == first.end() || found->second != msr.data) msrs.emplace(msr.index, msr.data);
  }
  for (const auto& [index, value] : msrs) state.msrs.push_back({index, value});

  std::memcpy(state.apic.data(), now.apic.regs, sizeof(now.apic.regs));
  if ((now.sregs.apic_base & kBaseX2apic) != 0 && !host.x2apic_ids) {
    SetApicWord(state.apic, kApicId, ApicWord(state.apic, kApicId) >> 24);
  }
  state.tsc_deadline = FindMsr(now.msrs, kMsrTscDeadline);
  SaveEvents(now, state);
}

absl::StatusOr<VcpuState> FromVpState(const VpState& state, const VcpuState& power_on, const HostFeatures& host,
                                      uint32_t apic_id) {
  VcpuState vcpu = power_on;
  for (size_t i = 0; i < state.gpr.size(); ++i) WriteGpr(vcpu.regs, static_cast<Gpr>(i), state.gpr[i]);
  vcpu.regs.rip = state.rip;
  constexpr uint64_t kRflagsOne = 2, kRflagsReserved = ~uint64_t{0x3F7FD5};
  if ((state.rflags & kRflagsReserved) != kRflagsOne) {
    return absl::InvalidArgumentError(absl::StrFormat("rflags: impossible value %#x", state.rflags));
  }
  vcpu.regs.rflags = state.rflags;
  for (size_t i = 0; i < state.segments.size(); ++i) {
    const SegmentState& from = state.segments[i];
    hvdef::SegmentRegister segment{};
    segment.base = from.base;
    segment.limit = from.limit;
    segment.selector = from.selector;
    segment.attributes = from.attributes;
    SegmentOf(vcpu.sregs, i) = ToSegment(segment);
  }
  vcpu.sregs.gdt = {.base = state.gdtr.base, .limit = state.gdtr.limit, .padding = {}};
  vcpu.sregs.idt = {.base = state.idtr.base, .limit = state.idtr.limit, .padding = {}};
  for (const auto& [value, name] : {std::pair{state.cr0, "cr0"}, {state.dr6, "dr6"}, {state.dr7, "dr7"}}) {
    if (value >> 32 != 0) return absl::InvalidArgumentError(absl::StrFormat("%s: more than 32 bits", name));
  }
  vcpu.sregs.cr0 = state.cr0;
  vcpu.sregs.cr2 = state.cr2;
  vcpu.sregs.cr3 = state.cr3;
  vcpu.sregs.cr4 = state.cr4;
  std::memset(vcpu.sregs.interrupt_bitmap, 0, sizeof(vcpu.sregs.interrupt_bitmap));
  std::copy(state.dr.begin(), state.dr.end(), std::begin(vcpu.debug.db));
  vcpu.debug.dr6 = state.dr6;
  vcpu.debug.dr7 = state.dr7;
  if (vcpu.xcrs.nr_xcrs != 0) {
    vcpu.xcrs.xcrs[0].value = state.xcr0;
  } else if (state.xcr0 != 1) {
    return absl::InvalidArgumentError(absl::StrFormat("xcr0: %#x, and this host has no XSAVE", state.xcr0));
  }
  RETURN_IF_ERROR(RestoreXsave(state, vcpu.xsave));

  std::map<uint32_t, uint64_t> msrs;
  for (const kvm_msr_entry& msr : power_on.msrs) msrs[msr.index] = msr.data;
  uint32_t last = 0;
  for (const MsrState& msr : state.msrs) {
    if (msr.index <= last && &msr != state.msrs.data()) {
      return absl::InvalidArgumentError(absl::StrFormat("msrs: %#x is not in order", msr.index));
    }
    last = msr.index;
    if (!IsSavedMsr(msr.index)) {
      return absl::InvalidArgumentError(absl::StrFormat("msrs: %#x is no part of a processor's state", msr.index));
    }
    // Not every kernel looks.
    if (msr.index == kMsrPat && !IsPat(msr.value)) {
      return absl::InvalidArgumentError(absl::StrFormat("msrs: %#x (PAT) cannot be %#x", msr.index, msr.value));
    }
    if (msr.index == kMsrApicBase) {
      vcpu.sregs.apic_base = msr.value;
    } else if (msr.index == kMsrEfer) {
      vcpu.sregs.efer = msr.value;
    } else {
      msrs[msr.index] = msr.value;
    }
  }
  // These have come with the control registers.
  msrs.erase(kMsrApicBase);
  msrs.erase(kMsrEfer);
  // What guests write to the TSC becomes visible there.
  if (const auto adjust = msrs.find(kMsrTscAdjust); adjust != msrs.end()) adjust->second = state.tsc_offset;
  if (const auto deadline = msrs.find(kMsrTscDeadline); deadline != msrs.end()) {
    deadline->second = state.tsc_deadline;
  } else if (state.tsc_deadline != 0) {
    return absl::InvalidArgumentError("tsc_deadline: this host has no such timer");
  }
  vcpu.msrs.clear();
  for (const auto& [index, value] : msrs) vcpu.msrs.push_back({.index = index, .reserved = 0, .data = value});

  RETURN_IF_ERROR(RestoreApic(state, vcpu.sregs.apic_base, power_on, host, apic_id, vcpu.apic));
  vcpu.sregs.cr8 = static_cast<uint8_t>(vcpu.apic.regs[0x80]) >> 4;
  RETURN_IF_ERROR(RestoreEvents(state, host, vcpu));
  if (state.activity > static_cast<uint8_t>(Activity::kWaitForSipi)) {
    return absl::InvalidArgumentError(absl::StrFormat("activity: impossible value %u", state.activity));
  }
  if (state.guest_idle && state.activity != static_cast<uint8_t>(Activity::kHalted)) {
    return absl::InvalidArgumentError("guest_idle: the processor is not halted");
  }
  return vcpu;
}

absl::Status CheckMsrs(const Fd& vcpu, const VpState& state) {
  std::vector<kvm_msr_entry> wanted;
  for (const MsrState& msr : state.msrs) {
    if (msr.index == kMsrApicBase || msr.index == kMsrEfer) continue;  // they came with the control registers
    wanted.push_back({.index = msr.index, .reserved = 0, .data = msr.value});
  }
  std::map<uint32_t, uint64_t> now;
  for (const kvm_msr_entry& msr : ReadMsrs(vcpu, wanted)) now[msr.index] = msr.data;
  for (const kvm_msr_entry& msr : wanted) {
    const auto found = now.find(msr.index);
    if ((found == now.end() && msr.data == 0) || (found != now.end() && found->second == msr.data)) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "msrs: this processor's %#x cannot be %#x", static_cast<uint32_t>(msr.index), static_cast<uint64_t>(msr.data)));
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::backend::kvm
