// SPDX-License-Identifier: Apache-2.0
// Faults and the delivery of exceptions and interrupts (Intel SDM volume 3, chapter 6).
#include "backend_software/processor/cpu.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

enum GateType { kTaskGate = 5, kInterruptGate16 = 6, kTrapGate16 = 7, kInterruptGate32 = 14, kTrapGate32 = 15 };

bool IsContributory(int vector) {
  return vector == kDivideError || (vector >= kInvalidTss && vector <= kGeneralProtection);
}

}  // namespace

void Cpu::Raise(uint8_t vector) {
  fault = {vector, false, 0};
  std::longjmp(unwind, kUnwindFault);
}
void Cpu::Raise(uint8_t vector, uint32_t error) {
  fault = {vector, true, error};
  std::longjmp(unwind, kUnwindFault);
}
void Cpu::RaisePageFault(uint64_t linear, uint32_t error) {
  cr2 = linear;
  Raise(kPageFault, error);
}

bool Cpu::DeliverFault() {
  const int first = delivering;
  const int second = fault.vector;
  if (first == kDoubleFault && (IsContributory(second) || second == kPageFault)) return false;
  if (first >= 0 && ((IsContributory(first) && IsContributory(second)) ||
                     (first == kPageFault && (IsContributory(second) || second == kPageFault)))) {
    fault = {kDoubleFault, true, 0};
  }
  delivering = fault.vector;
  Event event{fault.vector, fault.has_error, fault.error};
  event.return_ip = r[kIp];
  event.external = true;
  // A debug exception that is a fault comes with RF as it is to be pushed.
  event.pushed_rf = fault.vector == kDebug ? 0 : kFlagRf;
  if (fault.vector == kBreakpoint || fault.vector == kOverflow || fault.vector == kMachineCheck) event.pushed_rf = 0;
  if (fault.has_error && !IsProtected()) event.has_error = false;
  Interrupt(event);
  if (event.vector == kDebug) dr7 &= ~kDr7GeneralDetect;  // so that the handler may use the debug registers
  delivering = -1;
  return true;
}

void Cpu::Interrupt(const Event& event) {
  trap_after = false;
  interrupt_shadow = stack_shadow = false;
  if (!IsProtected()) {
    InterruptReal(event);
  } else if (IsLong()) {
    InterruptLong(event);
  } else {
    InterruptProtected(event);
  }
}

void Cpu::InterruptReal(const Event& event) {
  if (event.vector * 4 + 3 > idtr.limit) Raise(kGeneralProtection, event.vector * 8 + 2);
  const uint64_t entry = LoadSystem(idtr.base + event.vector * 4, 4);
  const uint64_t sp = r[kRsp];
  const uint64_t stack = base(kSs);
  const auto at = [&](int n) { return (stack + ((sp - 2 * n) & 0xFFFF)) & 0xFFFFFFFF; };
  StoreSystem(at(1), GetRflags() & 0xFFFF, 2);
  StoreSystem(at(2), segment[kCs].selector, 2);
  StoreSystem(at(3), event.return_ip, 2);
  Set<uint16_t>(SlotOffset(kRsp), static_cast<uint16_t>(sp - 6));
  rflags &= ~uint64_t{kFlagIf | kFlagTf | kFlagAc | kFlagRf};
  SetSegmentReal(kCs, static_cast<uint16_t>(entry >> 16));
  r[kIp] = entry & 0xFFFF;
  UpdateStepping();
  UpdateMode();
}

void Cpu::InterruptLong(const Event& event) {
  const uint32_t ext = event.external ? 1 : 0;
  const uint32_t gate_error = event.vector * 8 + 2 + ext;
  if (event.vector * 16 + 15 > idtr.limit) Raise(kGeneralProtection, gate_error);
  const uint64_t low = LoadSystem(idtr.base + event.vector * 16, 8);
  const uint64_t high = LoadSystem(idtr.base + event.vector * 16 + 8, 8);
  const int type = static_cast<int>(low >> 40 & 31);
  if (type != kInterruptGate32 && type != kTrapGate32) Raise(kGeneralProtection, gate_error);
  if (event.software && static_cast<int>(low >> 45 & 3) < cpl) Raise(kGeneralProtection, gate_error);
  if (!(low >> 47 & 1)) Raise(kSegmentNotPresent, gate_error);
  const auto selector = static_cast<uint16_t>(low >> 16);
  const uint64_t target = (low & 0xFFFF) | (low >> 32 & 0xFFFF0000) | high << 32;
  if ((selector & ~3) == 0) Raise(kGeneralProtection, ext);
  Descriptor code;
  if (!ReadDescriptor(selector, code)) Raise(kGeneralProtection, (selector & ~3u) + ext);
  if (!code.segment.code() || code.segment.dpl() > cpl) Raise(kGeneralProtection, (selector & ~3u) + ext);
  if (!code.segment.present()) Raise(kSegmentNotPresent, (selector & ~3u) + ext);
  if (!code.segment.long_mode() || code.segment.big()) Raise(kGeneralProtection, (selector & ~3u) + ext);
  if (!IsCanonical(target)) Raise(kGeneralProtection, ext);
  const int new_cpl = (code.segment.type() & 4) ? cpl : code.segment.dpl();

  const int ist = static_cast<int>(low >> 32 & 7);
  uint64_t sp = r[kRsp];
  if (ist != 0 || new_cpl < cpl) {
    const uint32_t offset = ist != 0 ? 0x24 + 8 * (ist - 1) : 4 + 8 * new_cpl;
    if (offset + 7 > segment[kTr].limit) Raise(kInvalidTss, (segment[kTr].selector & ~3u) + ext);
    sp = LoadSystem(base(kTr) + offset, 8);
    if (!IsCanonical(sp)) Raise(kStackFault, ext);
  }
  sp &= ~uint64_t{15};
  const TlbMode as = new_cpl == 3 ? kTlbUser : kTlbSupervisor;
  const uint64_t values[6] = {event.error, event.return_ip,      segment[kCs].selector, GetRflags() | event.pushed_rf,
                              r[kRsp],     segment[kSs].selector};
  const int first = event.has_error ? 0 : 1;
  for (int i = 5; i >= first; --i) {
    sp -= 8;
    StoreSystem(sp, values[i], 8, as);
  }
  SetAccessedBit(code);
  // From here on nothing faults.
  if (new_cpl != cpl) SetNullSegment(kSs, static_cast<uint16_t>(new_cpl));
  SetCodeSegment(static_cast<uint16_t>((selector & ~3) | new_cpl), code, new_cpl);
  r[kRsp] = sp;
  r[kIp] = target;
  rflags &= ~uint64_t{kFlagTf | kFlagNt | kFlagRf | kFlagVm};
  if (type == kInterruptGate32) rflags &= ~kFlagIf;
  UpdateStepping();
  UpdateMode();
}

void Cpu::InterruptProtected(const Event& event) {
  const uint32_t ext = event.external ? 1 : 0;
  const uint32_t gate_error = event.vector * 8 + 2 + ext;
  if (event.vector * 8 + 7 > idtr.limit) Raise(kGeneralProtection, gate_error);
  const uint64_t gate = LoadSystem(idtr.base + event.vector * 8, 8);
  const int type = static_cast<int>(gate >> 40 & 31);
  const bool wide = type & 8;
  // Hardware task switches are not provided: a task gate is no gate.
  if (type != kInterruptGate16 && type != kTrapGate16 && type != kInterruptGate32 && type != kTrapGate32) {
    Raise(kGeneralProtection, gate_error);
  }
  if (event.software && static_cast<int>(gate >> 45 & 3) < cpl) Raise(kGeneralProtection, gate_error);
  if (!(gate >> 47 & 1)) Raise(kSegmentNotPresent, gate_error);
  const auto selector = static_cast<uint16_t>(gate >> 16);
  uint64_t target = gate & 0xFFFF;
  if (wide) target |= gate >> 32 & 0xFFFF0000;
  if ((selector & ~3) == 0) Raise(kGeneralProtection, ext);
  Descriptor code;
  if (!ReadDescriptor(selector, code)) Raise(kGeneralProtection, (selector & ~3u) + ext);
  if (!code.segment.code() || code.segment.dpl() > cpl) Raise(kGeneralProtection, (selector & ~3u) + ext);
  if (!code.segment.present()) Raise(kSegmentNotPresent, (selector & ~3u) + ext);
  const int new_cpl = (code.segment.type() & 4) ? cpl : code.segment.dpl();
  if (IsVm86() && new_cpl != 0) Raise(kGeneralProtection, (selector & ~3u) + ext);
  if (target > code.segment.limit) Raise(kGeneralProtection, ext);

  const int size = wide ? 4 : 2;
  const bool from_vm86 = IsVm86();
  const bool switches = new_cpl < cpl || from_vm86;
  uint64_t sp = r[kRsp];
  uint64_t stack_base = base(kSs);
  uint64_t stack_mask = StackMask();
  uint16_t new_ss = 0;
  Descriptor stack{};
  if (switches) {
    TaskStack(new_cpl, ext, new_ss, sp);
    if ((new_ss & ~3) == 0) Raise(kInvalidTss, ext);
    if (!ReadDescriptor(new_ss, stack)) Raise(kInvalidTss, (new_ss & ~3u) + ext);
    if ((new_ss & 3) != new_cpl || stack.segment.dpl() != new_cpl || stack.segment.system() || stack.segment.code() ||
        !(stack.segment.type() & 2)) {
      Raise(kInvalidTss, (new_ss & ~3u) + ext);
    }
    if (!stack.segment.present()) Raise(kStackFault, (new_ss & ~3u) + ext);
    stack_base = stack.base;
    stack_mask = stack.segment.big() ? 0xFFFFFFFF : 0xFFFF;
  }
  uint64_t values[12];
  int n = 0;
  if (from_vm86) {
    for (const int s : {kGs, kFs, kDs, kEs}) values[n++] = segment[s].selector;
  }
  if (switches) {
    values[n++] = segment[kSs].selector;
    values[n++] = r[kRsp];
  }
  values[n++] = GetRflags() | event.pushed_rf;
  values[n++] = segment[kCs].selector;
  values[n++] = event.return_ip;
  if (event.has_error) values[n++] = event.error;
  const uint64_t limit = switches ? stack.segment.limit : segment[kSs].limit;
  const bool expands_down = ((switches ? stack.segment.type() : segment[kSs].type()) & 12) == 4;
  const TlbMode as = new_cpl == 3 ? kTlbUser : kTlbSupervisor;
  for (int i = 0; i < n; ++i) {
    sp = (sp - size) & stack_mask;
    const bool inside = expands_down ? sp > limit : sp + size - 1 <= limit;
    if (!inside) Raise(kStackFault, (switches ? new_ss & ~3u : 0) + ext);
    StoreSystem((stack_base + sp) & 0xFFFFFFFF, values[i], size, as);
  }
  SetAccessedBit(code);
  if (switches) SetAccessedBit(stack);
  rflags &= ~uint64_t{kFlagTf | kFlagNt | kFlagRf | kFlagVm};
  if (type == kInterruptGate16 || type == kInterruptGate32) rflags &= ~kFlagIf;
  SetCodeSegment(static_cast<uint16_t>((selector & ~3) | new_cpl), code, new_cpl);
  if (switches) SetSegment(kSs, new_ss, stack);
  if (from_vm86) {
    for (const int s : {kGs, kFs, kDs, kEs}) SetNullSegment(s, 0);
  }
  UpdateMode();
  SetSp(sp);
  r[kIp] = target;
  UpdateStepping();
}

}  // namespace hvsdk::software
