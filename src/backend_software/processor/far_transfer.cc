// SPDX-License-Identifier: Apache-2.0
// Descriptors, segment loads and far control transfers (Intel SDM volume 3, chapters 3 and 5).
#include <algorithm>

#include "backend_software/processor/cpu.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

enum SystemType { kTss16 = 1, kLdt = 2, kCallGate16 = 4, kTss = 9, kCallGate = 12 };

uint32_t ErrorOf(uint16_t selector) { return selector & ~3u; }

}  // namespace

bool Cpu::ReadDescriptor(uint16_t selector, Descriptor& descriptor) {
  const bool local = selector & 4;
  const uint32_t limit = local ? segment[kLdtr].limit : gdtr.limit;
  if (local && !segment[kLdtr].present()) return false;
  const uint32_t offset = selector & ~7u;
  if (offset + 7 > limit) return false;
  descriptor.linear = (local ? base(kLdtr) : gdtr.base) + offset;
  const uint64_t raw = LoadSystem(descriptor.linear, 8);
  descriptor.raw = raw;
  descriptor.base = (raw >> 16 & 0xFFFFFF) | (raw >> 56) << 24;
  descriptor.segment.selector = selector;
  descriptor.segment.attributes = static_cast<uint16_t>((raw >> 40 & 0xFF) | (raw >> 52 & 15) << 12);
  descriptor.segment.limit = static_cast<uint32_t>((raw & 0xFFFF) | (raw >> 48 & 15) << 16);
  if (descriptor.segment.attributes & 0x8000) descriptor.segment.limit = descriptor.segment.limit << 12 | 0xFFF;
  return true;
}

void Cpu::SetAccessedBit(Descriptor& descriptor) {
  if (descriptor.segment.attributes & 1) return;
  StoreSystem(descriptor.linear + 5, (descriptor.raw >> 40 & 0xFF) | 1, 1);
  descriptor.segment.attributes |= 1;
}

void Cpu::SetSegment(int segment_index, uint16_t selector, const Descriptor& descriptor) {
  segment[segment_index] = descriptor.segment;
  segment[segment_index].selector = selector;
  base(segment_index) = descriptor.base;
}

void Cpu::SetNullSegment(int segment_index, uint16_t selector) {
  segment[segment_index] = Segment{};
  segment[segment_index].selector = selector;
  // SS keeps a privilege level and, in 64-bit mode, is otherwise not looked at.
  if (segment_index == kSs) segment[kSs].attributes = static_cast<uint16_t>((selector & 3) << 5);
  base(segment_index) = 0;
}

void Cpu::SetSegmentReal(int segment_index, uint16_t selector) {
  segment[segment_index].selector = selector;
  base(segment_index) = static_cast<uint64_t>(selector) << 4;
  if (IsVm86()) {
    segment[segment_index].limit = 0xFFFF;
    segment[segment_index].attributes = 0xF3;
  } else {
    // Real mode keeps limits that protected mode left behind.
    segment[segment_index].attributes = static_cast<uint16_t>((segment[segment_index].attributes & 0xC000) | 0x93);
    if (segment[segment_index].limit < 0xFFFF) segment[segment_index].limit = 0xFFFF;
    if (segment_index == kCs) segment[kCs].attributes |= 8;
  }
}

void Cpu::LoadSegment(int segment_index, uint16_t selector) {
  if (IsRealOrVm86()) {
    SetSegmentReal(segment_index, selector);
    if (segment_index == kSs) UpdateMode();
    return;
  }
  if ((selector & ~3) == 0) {
    if (segment_index == kSs && !(Is64() && cpl < 3 && (selector & 3) == cpl)) Raise(kGeneralProtection, 0);
    SetNullSegment(segment_index, selector);
    if (segment_index == kSs) UpdateMode();
    return;
  }
  Descriptor d;
  if (!ReadDescriptor(selector, d)) Raise(kGeneralProtection, ErrorOf(selector));
  const int rpl = selector & 3;
  const int type = d.segment.type();
  if (segment_index == kSs) {
    if (rpl != cpl || d.segment.dpl() != cpl || d.segment.system() || d.segment.code() || !(type & 2)) {
      Raise(kGeneralProtection, ErrorOf(selector));
    }
    if (!d.segment.present()) Raise(kStackFault, ErrorOf(selector));
  } else {
    if (d.segment.system() || (d.segment.code() && !(type & 2))) Raise(kGeneralProtection, ErrorOf(selector));
    const bool conforming = d.segment.code() && (type & 4);
    if (!conforming && std::max<int>(rpl, cpl) > d.segment.dpl()) Raise(kGeneralProtection, ErrorOf(selector));
    if (!d.segment.present()) Raise(kSegmentNotPresent, ErrorOf(selector));
  }
  SetAccessedBit(d);
  SetSegment(segment_index, selector, d);
  if (segment_index == kSs) UpdateMode();
}

void Cpu::SetCodeSegment(uint16_t selector, const Descriptor& descriptor, int new_cpl) {
  SetSegment(kCs, static_cast<uint16_t>((selector & ~3) | new_cpl), descriptor);
  segment[kCs].attributes |= 1;
  cpl = static_cast<uint8_t>(new_cpl);
}

void Cpu::SetFlatSegments(uint16_t cs, uint16_t ss, int new_cpl, bool long_mode) {
  segment[kCs].selector = cs;
  segment[kCs].attributes = static_cast<uint16_t>((long_mode ? 0xA09B : 0xC09B) | new_cpl << 5);
  segment[kCs].limit = 0xFFFFFFFF;
  base(kCs) = 0;
  segment[kSs].selector = ss;
  segment[kSs].attributes = static_cast<uint16_t>(0xC093 | new_cpl << 5);
  segment[kSs].limit = 0xFFFFFFFF;
  base(kSs) = 0;
  cpl = static_cast<uint8_t>(new_cpl);
  UpdateMode();
}

void Cpu::CheckIpLimit(const Descriptor& descriptor, uint64_t ip) {
  const bool to_64 = IsLong() && descriptor.segment.long_mode();
  if (to_64 ? !IsCanonical(ip) : ip > descriptor.segment.limit) Raise(kGeneralProtection, 0);
}

// A direct far jump or call to a code segment.
void Cpu::CheckCodeDescriptor(uint16_t selector, const Descriptor& d, uint32_t ext) {
  const int rpl = selector & 3;
  if (d.segment.type() & 4) {
    if (d.segment.dpl() > cpl) Raise(kGeneralProtection, ErrorOf(selector) + ext);
  } else if (rpl > cpl || d.segment.dpl() != cpl) {
    Raise(kGeneralProtection, ErrorOf(selector) + ext);
  }
  if (!d.segment.present()) Raise(kSegmentNotPresent, ErrorOf(selector) + ext);
  if (IsLong() && d.segment.long_mode() && d.segment.big()) Raise(kGeneralProtection, ErrorOf(selector) + ext);
}

void Cpu::FarJump(uint16_t selector, uint64_t offset, int size) {
  if (size == 2) offset &= 0xFFFF;
  if (IsRealOrVm86()) {
    if (offset > segment[kCs].limit) Raise(kGeneralProtection, 0);
    SetSegmentReal(kCs, selector);
    r[kIp] = offset;
    UpdateMode();
    return;
  }
  if ((selector & ~3) == 0) Raise(kGeneralProtection, 0);
  Descriptor d;
  if (!ReadDescriptor(selector, d)) Raise(kGeneralProtection, ErrorOf(selector));
  if (d.segment.system()) {
    CallGate(selector, d, false, 0);
    return;
  }
  if (!d.segment.code()) Raise(kGeneralProtection, ErrorOf(selector));
  CheckCodeDescriptor(selector, d, 0);
  CheckIpLimit(d, offset);
  SetAccessedBit(d);
  SetCodeSegment(selector, d, cpl);
  r[kIp] = offset;
  UpdateMode();
}

void Cpu::FarCall(uint16_t selector, uint64_t offset, int size, uint64_t return_ip) {
  if (size == 2) offset &= 0xFFFF;
  const uint64_t sp = r[kRsp];
  const uint16_t old_cs = segment[kCs].selector;
  // Both words are known to fit before the first is pushed.
  const auto push = [&] {
    const uint64_t low = (sp - 2 * size) & StackMask();
    ProbeWrite(op, StackLinear(low, 2 * size, true), 2 * size);
    Push(old_cs, size);
    Push(return_ip, size);
  };
  if (IsRealOrVm86()) {
    if (offset > segment[kCs].limit) Raise(kGeneralProtection, 0);
    push();
    SetSegmentReal(kCs, selector);
    r[kIp] = offset;
    UpdateMode();
    return;
  }
  if ((selector & ~3) == 0) Raise(kGeneralProtection, 0);
  Descriptor d;
  if (!ReadDescriptor(selector, d)) Raise(kGeneralProtection, ErrorOf(selector));
  if (d.segment.system()) {
    CallGate(selector, d, true, return_ip);
    return;
  }
  if (!d.segment.code()) Raise(kGeneralProtection, ErrorOf(selector));
  CheckCodeDescriptor(selector, d, 0);
  CheckIpLimit(d, offset);
  SetAccessedBit(d);
  push();
  SetCodeSegment(selector, d, cpl);
  r[kIp] = offset;
  UpdateMode();
}

// The stack for a more privileged level, from the task state segment.
void Cpu::TaskStack(int privilege, uint32_t ext, uint16_t& selector, uint64_t& sp) {
  const uint32_t tss_error = ErrorOf(segment[kTr].selector) + ext;
  if (IsLong()) {
    const uint32_t offset = 4 + 8 * privilege;
    if (offset + 7 > segment[kTr].limit) Raise(kInvalidTss, tss_error);
    sp = LoadSystem(base(kTr) + offset, 8);
    selector = static_cast<uint16_t>(privilege);
    return;
  }
  const bool wide = segment[kTr].type() & 8;
  const uint32_t offset = wide ? 4 + 8 * privilege : 2 + 4 * privilege;
  if (offset + (wide ? 5 : 3) > segment[kTr].limit) Raise(kInvalidTss, tss_error);
  sp = LoadSystem(base(kTr) + offset, wide ? 4 : 2);
  selector = static_cast<uint16_t>(LoadSystem(base(kTr) + offset + (wide ? 4 : 2), 2));
}

void Cpu::CallGate(uint16_t selector, const Descriptor& gate, bool call, uint64_t return_ip) {
  const int type = gate.segment.type();
  // Task gates and task state segments are not provided, and 64-bit mode has only its own call gate.
  if (type != kCallGate && (IsLong() || type != kCallGate16)) Raise(kGeneralProtection, ErrorOf(selector));
  if (gate.segment.dpl() < cpl || gate.segment.dpl() < (selector & 3)) Raise(kGeneralProtection, ErrorOf(selector));
  if (!gate.segment.present()) Raise(kSegmentNotPresent, ErrorOf(selector));
  const auto code_selector = static_cast<uint16_t>(gate.raw >> 16);
  uint64_t target = gate.raw & 0xFFFF;
  if (type == kCallGate) target |= gate.raw >> 32 & 0xFFFF0000;
  if (IsLong()) {
    const uint64_t high = LoadSystem(gate.linear + 8, 8);
    if (high >> 40 & 31) Raise(kGeneralProtection, ErrorOf(selector));
    target |= high << 32;
  }
  if ((code_selector & ~3) == 0) Raise(kGeneralProtection, 0);
  Descriptor code;
  if (!ReadDescriptor(code_selector, code)) Raise(kGeneralProtection, ErrorOf(code_selector));
  const bool conforming = code.segment.type() & 4;
  if (!code.segment.code() || code.segment.dpl() > cpl || (!call && !conforming && code.segment.dpl() != cpl)) {
    Raise(kGeneralProtection, ErrorOf(code_selector));
  }
  if (IsLong() && (!code.segment.long_mode() || code.segment.big())) Raise(kGeneralProtection, ErrorOf(code_selector));
  if (!code.segment.present()) Raise(kSegmentNotPresent, ErrorOf(code_selector));
  CheckIpLimit(code, target);
  const int size = IsLong() ? 8 : type == kCallGate ? 4 : 2;
  const int new_cpl = call && !conforming ? code.segment.dpl() : cpl;
  if (!call) {
    SetAccessedBit(code);
    SetCodeSegment(code_selector, code, cpl);
    r[kIp] = target;
    UpdateMode();
    return;
  }
  if (new_cpl == cpl) {
    const uint64_t low = (r[kRsp] - 2 * size) & StackMask();
    ProbeWrite(op, StackLinear(low, 2 * size, true), 2 * size);
    SetAccessedBit(code);
    const uint16_t old_cs = segment[kCs].selector;
    Push(old_cs, size);
    Push(return_ip, size);
    SetCodeSegment(code_selector, code, cpl);
    r[kIp] = target;
    UpdateMode();
    return;
  }
  uint16_t new_ss;
  uint64_t sp;
  TaskStack(new_cpl, 0, new_ss, sp);
  Descriptor stack{};
  uint64_t mask = ~uint64_t{0};
  if (!IsLong()) {
    if ((new_ss & ~3) == 0) Raise(kInvalidTss, 0);
    if (!ReadDescriptor(new_ss, stack)) Raise(kInvalidTss, ErrorOf(new_ss));
    if ((new_ss & 3) != new_cpl || stack.segment.dpl() != new_cpl || stack.segment.system() || stack.segment.code() ||
        !(stack.segment.type() & 2)) {
      Raise(kInvalidTss, ErrorOf(new_ss));
    }
    if (!stack.segment.present()) Raise(kStackFault, ErrorOf(new_ss));
    mask = stack.segment.big() ? 0xFFFFFFFF : 0xFFFF;
  }
  const int parameters = IsLong() ? 0 : static_cast<int>(gate.raw >> 32 & 31);
  const auto push = [&](uint64_t value) {
    sp = (sp - size) & mask;
    StoreSystem(IsLong() ? sp : (stack.base + sp) & 0xFFFFFFFF, value, size);
  };
  push(segment[kSs].selector);
  push(r[kRsp]);
  for (int i = parameters - 1; i >= 0; --i) {
    const uint64_t at = StackLinear((r[kRsp] + i * size) & StackMask(), size, false);
    push(size == 4 ? Load<uint32_t>(*this, op, at) : Load<uint16_t>(*this, op, at));
  }
  push(segment[kCs].selector);
  push(return_ip);
  SetAccessedBit(code);
  if (!IsLong()) SetAccessedBit(stack);
  SetCodeSegment(code_selector, code, new_cpl);
  if (IsLong()) {
    SetNullSegment(kSs, static_cast<uint16_t>(new_cpl));
  } else {
    SetSegment(kSs, new_ss, stack);
  }
  UpdateMode();
  SetSp(sp);
  r[kIp] = target;
}

// The second half of a return to a less privileged level.
void Cpu::ReturnOuter(uint16_t cs, const Descriptor& code, uint64_t ip, uint16_t ss, uint64_t sp) {
  const int new_cpl = cs & 3;
  Descriptor stack{};
  const bool to_64 = IsLong() && code.segment.long_mode();
  const bool null_stack = (ss & ~3) == 0;
  if (null_stack) {
    if (!to_64 || new_cpl == 3 || (ss & 3) != new_cpl) Raise(kGeneralProtection, 0);
  } else {
    if (!ReadDescriptor(ss, stack)) Raise(kGeneralProtection, ErrorOf(ss));
    if ((ss & 3) != new_cpl || stack.segment.dpl() != new_cpl || stack.segment.system() || stack.segment.code() ||
        !(stack.segment.type() & 2)) {
      Raise(kGeneralProtection, ErrorOf(ss));
    }
    if (!stack.segment.present()) Raise(kStackFault, ErrorOf(ss));
    SetAccessedBit(stack);
  }
  SetCodeSegment(cs, code, new_cpl);
  if (null_stack) {
    SetNullSegment(kSs, ss);
  } else {
    SetSegment(kSs, ss, stack);
  }
  UpdateMode();
  SetSp(sp);
  r[kIp] = ip;
  // Data segments that the new level may not see become null.
  for (const int s : {kEs, kDs, kFs, kGs}) {
    const Segment& data = segment[s];
    const bool conforming = data.code() && (data.type() & 4);
    if (!data.present()) {
      segment[s].selector = 0;
    } else if (!conforming && data.dpl() < new_cpl) {
      segment[s] = Segment{};
    }
    // Either way the base stays, which 64-bit code works by.
  }
}

// The code segment that a far return or IRET leads to: no more privileged than the present one.
void Cpu::ReadReturnCode(uint16_t cs, uint64_t ip, Descriptor& code) {
  if ((cs & ~3) == 0) Raise(kGeneralProtection, 0);
  if (!ReadDescriptor(cs, code)) Raise(kGeneralProtection, ErrorOf(cs));
  const int rpl = cs & 3;
  if (!code.segment.code() || rpl < cpl ||
      ((code.segment.type() & 4) ? code.segment.dpl() > rpl : code.segment.dpl() != rpl)) {
    Raise(kGeneralProtection, ErrorOf(cs));
  }
  if (!code.segment.present()) Raise(kSegmentNotPresent, ErrorOf(cs));
  if (IsLong() && code.segment.long_mode() && code.segment.big()) Raise(kGeneralProtection, ErrorOf(cs));
  CheckIpLimit(code, ip);
}

void Cpu::FarReturn(int size, uint32_t pop) {
  const uint64_t mask = StackMask();
  const uint64_t sp = r[kRsp] & mask;
  const auto read = [&](uint64_t offset) -> uint64_t {
    const uint64_t at = StackLinear((sp + offset) & mask, size, false);
    return size == 8   ? Load<uint64_t>(*this, op, at)
           : size == 4 ? Load<uint32_t>(*this, op, at)
                       : Load<uint16_t>(*this, op, at);
  };
  const uint64_t ip = read(0);
  const auto cs = static_cast<uint16_t>(read(size));
  if (IsRealOrVm86()) {
    if (ip > segment[kCs].limit) Raise(kGeneralProtection, 0);
    SetSegmentReal(kCs, cs);
    SetSp(sp + 2 * size + pop);
    r[kIp] = ip;
    UpdateMode();
    return;
  }
  Descriptor code;
  ReadReturnCode(cs, ip, code);
  const int rpl = cs & 3;
  if (rpl == cpl) {
    SetAccessedBit(code);
    SetCodeSegment(cs, code, cpl);
    SetSp(sp + 2 * size + pop);
    r[kIp] = ip;
    UpdateMode();
    return;
  }
  const uint64_t new_sp = read(2 * size + pop);
  const auto ss = static_cast<uint16_t>(read(3 * size + pop));
  SetAccessedBit(code);
  ReturnOuter(cs, code, ip, ss, new_sp + pop);
}

// IRET with NT set goes back to the task that the TSS names. Task switches are not provided, so it faults in any case.
void Cpu::ReturnToTask() {
  if (IsLong()) Raise(kGeneralProtection, 0);
  const auto link = static_cast<uint16_t>(LoadSystem(base(kTr), 2));
  Descriptor task;
  if ((link & 4) || !ReadDescriptor(link, task)) Raise(kInvalidTss, ErrorOf(link));
  if (!task.segment.system() || (task.segment.type() & ~8) != 3) Raise(kInvalidTss, ErrorOf(link));
  if (!task.segment.present()) Raise(kSegmentNotPresent, ErrorOf(link));
  Raise(kGeneralProtection, ErrorOf(link));
}

void Cpu::InterruptReturn(int size) {
  // Even if it faults (Intel SDM volume 3, 6.7.1).
  SetNmiBlocked(false);
  const uint64_t mask = StackMask();
  const uint64_t sp = r[kRsp] & mask;
  const auto read = [&](int n) -> uint64_t {
    const uint64_t at = StackLinear((sp + n * size) & mask, size, false);
    return size == 8   ? Load<uint64_t>(*this, op, at)
           : size == 4 ? Load<uint32_t>(*this, op, at)
                       : Load<uint16_t>(*this, op, at);
  };
  constexpr uint64_t kCommon = kArithmeticFlags | kFlagTf | kFlagDf | kFlagNt;
  if (IsRealOrVm86()) {
    if (IsVm86() && Iopl() < 3) Raise(kGeneralProtection, 0);
    const uint64_t ip = read(0);
    const auto cs = static_cast<uint16_t>(read(1));
    const uint64_t value = read(2);
    if (ip > segment[kCs].limit) Raise(kGeneralProtection, 0);
    uint64_t change = kCommon | kFlagIf | (IsVm86() ? 0 : kFlagIopl);
    if (size == 4) change |= kFlagAc | kFlagId | kFlagRf;
    SetSegmentReal(kCs, cs);
    SetSp(sp + 3 * size);
    r[kIp] = ip;
    SetRflags((GetRflags() & ~change) | (value & change) | kFlagOne);
    UpdateMode();
    return;
  }
  if (rflags & kFlagNt) ReturnToTask();
  const uint64_t ip = read(0);
  const auto cs = static_cast<uint16_t>(read(1));
  const uint64_t value = read(2);
  if (!IsLong() && (value & kFlagVm) && cpl == 0) {
    const uint64_t new_sp = read(3);
    uint16_t selectors[5];
    for (int i = 0; i < 5; ++i) selectors[i] = static_cast<uint16_t>(read(4 + i));
    flags.Set(value);
    rflags = (value & ~kArithmeticFlags & kRflagsBits) | kFlagOne | kFlagVm;
    const int order[5] = {kSs, kEs, kDs, kFs, kGs};
    cpl = 3;
    SetSegmentReal(kCs, cs);
    for (int i = 0; i < 5; ++i) SetSegmentReal(order[i], selectors[i]);
    r[kRsp] = new_sp & 0xFFFFFFFF;
    r[kIp] = ip & 0xFFFF;
    SetRflags(GetRflags());
    UpdateMode();
    return;
  }
  Descriptor code;
  ReadReturnCode(cs, ip, code);
  const int rpl = cs & 3;
  uint64_t change = kCommon | kFlagRf | kFlagAc | kFlagId;
  if (cpl == 0) change |= kFlagIopl | kFlagVif | kFlagVip;
  if (cpl <= Iopl()) change |= kFlagIf;
  if (size == 2) change &= 0xFFFF;
  const uint64_t new_flags = (GetRflags() & ~change) | (value & change) | kFlagOne;
  if (rpl == cpl && !Is64()) {
    SetAccessedBit(code);
    SetCodeSegment(cs, code, cpl);
    SetSp(sp + 3 * size);
    r[kIp] = ip;
  } else {
    // 64-bit mode always pops the stack pointer too.
    const uint64_t new_sp = read(3);
    const auto ss = static_cast<uint16_t>(read(4));
    SetAccessedBit(code);
    ReturnOuter(cs, code, ip, ss, new_sp);
  }
  UpdateMode();
  SetRflags(new_flags);
}

}  // namespace hvsdk::software
