// SPDX-License-Identifier: Apache-2.0
// Privileged and system instructions, fast system calls, ports, MSRs, software interrupts, hypercalls.
#include <sched.h>

#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"
#include "hvsdk/backend/port_hypercall.h"

namespace hvsdk::software {
namespace {

// Makes r[kIp] this instruction's address, for what is left by an exit or may go on elsewhere.
void AtInstruction(Cpu& c, const Op* op) {
  c.r[kIp] = (c.r[kIp] + op->ip) & c.IpMask();
  c.exit_ip = c.r[kIp];
  c.before_exit = op->count;
  c.op = nullptr;
}
const Op* AfterInstruction(Cpu& c, const Op* op) {
  c.before_exit = 0;
  if (!std::exchange(c.redirected, false)) c.r[kIp] = (c.r[kIp] + op->length) & c.IpMask();
  return LookUpJump(c);
}
void Privileged(Cpu& c, const Op* op) {
  c.op = op;
  if (c.cpl != 0) c.Raise(kGeneralProtection, 0);
}

// ---- ports ----

template <typename T, bool kImm>
const Op* In(Cpu& c, const Op* op) {
  c.op = op;
  const auto port = static_cast<uint16_t>(kImm ? op->imm : c.r[kRdx]);
  c.CheckPort(port, sizeof(T));
  AtInstruction(c, op);
  T value{};
  c.PortRead(port, reinterpret_cast<uint8_t*>(&value), sizeof(T));
  c.Set<T>(SlotOffset(kRax), value);
  return AfterInstruction(c, op);
}
const Op* Hypercall(Cpu& c, const Op* op);
const Op* SignalByPort(Cpu& c, const Op* op);

template <typename T, bool kImm>
const Op* Out(Cpu& c, const Op* op) {
  c.op = op;
  const auto port = static_cast<uint16_t>(kImm ? op->imm : c.r[kRdx]);
  c.CheckPort(port, sizeof(T));
  if constexpr (sizeof(T) == 1) {
    if (port == backend::kHypercallPort) return Hypercall(c, op);
  } else if constexpr (sizeof(T) == 4) {
    if (port == backend::kSignalPort) return SignalByPort(c, op);
  }
  AtInstruction(c, op);
  const T value = c.Get<T>(SlotOffset(kRax));
  c.PortWrite(port, reinterpret_cast<const uint8_t*>(&value), sizeof(T));
  return AfterInstruction(c, op);
}
template <bool kOut>
bool TranslatePort(Insn& in, Op& op) {
  in.ends = true;
  const int port = kOut ? 0 : 1;
  const int size = in.o[1 - port].size;
  const bool imm = in.IsImm(port);
  if (imm) op.imm = in.o[port].imm.value.u & 0xFF;
  const auto pick = [&]<typename T>() -> Handler {
    if (kOut) return imm ? &Out<T, true> : &Out<T, false>;
    return imm ? &In<T, true> : &In<T, false>;
  };
  op.handler = size == 8    ? pick.template operator()<uint8_t>()
               : size == 16 ? pick.template operator()<uint16_t>()
                            : pick.template operator()<uint32_t>();
  return true;
}

// ---- MSRs, CPUID, counters ----

const Op* Rdmsr(Cpu& c, const Op* op) {
  Privileged(c, op);
  AtInstruction(c, op);
  uint64_t value = 0;
  if (!c.ReadMsr(static_cast<uint32_t>(c.r[kRcx]), value)) c.Raise(kGeneralProtection, 0);
  c.r[kRax] = value & 0xFFFFFFFF;
  c.r[kRdx] = value >> 32;
  return AfterInstruction(c, op);
}
const Op* Wrmsr(Cpu& c, const Op* op) {
  Privileged(c, op);
  AtInstruction(c, op);
  const uint64_t value = c.r[kRdx] << 32 | (c.r[kRax] & 0xFFFFFFFF);
  const backend::MsrOutcome outcome = c.WriteMsr(static_cast<uint32_t>(c.r[kRcx]), value);
  if (outcome == backend::MsrOutcome::kFault) c.Raise(kGeneralProtection, 0);
  if (outcome == backend::MsrOutcome::kHalt) {
    c.Idle();
  }
  return AfterInstruction(c, op);
}
const Op* CpuidOp(Cpu& c, const Op* op) {
  uint32_t out[4];
  c.Cpuid(static_cast<uint32_t>(c.r[kRax]), static_cast<uint32_t>(c.r[kRcx]), out);
  c.r[kRax] = out[0];
  c.r[kRbx] = out[1];
  c.r[kRcx] = out[2];
  c.r[kRdx] = out[3];
  AtInstruction(c, op);
  return AfterInstruction(c, op);  // serialising: attention is looked at
}
template <bool kAux>
const Op* Rdtsc(Cpu& c, const Op* op) {
  c.op = op;
  if ((c.cr4 & kCr4Tsd) && c.cpl != 0) c.Raise(kGeneralProtection, 0);
  const uint64_t value = c.ReadTsc();
  c.r[kRax] = value & 0xFFFFFFFF;
  c.r[kRdx] = value >> 32;
  if (kAux) c.r[kRcx] = c.tsc_aux & 0xFFFFFFFF;
  return op + 1;
}
const Op* Rdpmc(Cpu& c, const Op* op) {
  c.op = op;
  c.Raise(kGeneralProtection, 0);  // there are no counters
}
template <typename T>
const Op* Random(Cpu& c, const Op* op) {
  c.Set<T>(op->a, static_cast<T>(c.host.Random()));
  c.flags.Set(kFlagCf);
  return op + 1;
}
bool TranslateRandom(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  op.handler = ByWideSize(in.o[0].size, []<typename T>() -> Handler { return &Random<T>; });
  return true;
}
const Op* Rdpid(Cpu& c, const Op* op) {
  c.r[op->a / 8] = c.tsc_aux & 0xFFFFFFFF;
  return op + 1;
}
bool TranslateRdpid(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  op.handler = &Rdpid;
  return true;
}

// ---- control and debug registers: a general register, b number, extra width of the move is implied ----

const Op* ReadControl(Cpu& c, const Op* op) {
  Privileged(c, op);
  uint64_t value = 0;
  switch (op->b) {
    case 0:
      value = c.cr0;
      break;
    case 2:
      value = c.cr2;
      break;
    case 3:
      value = c.cr3;
      break;
    case 4:
      value = c.cr4;
      break;
    case 8:
      value = c.apic->cr8();
      break;
    default:
      c.Raise(kInvalidOpcode);
  }
  if (c.Is64()) {
    c.Set<uint64_t>(op->a, value);
  } else {
    c.Set<uint32_t>(op->a, static_cast<uint32_t>(value));
  }
  return op + 1;
}

void WriteCr0(Cpu& c, uint64_t value) {
  if (value >> 32) c.Raise(kGeneralProtection, 0);
  if ((value & kCr0Pg) && !(value & kCr0Pe)) c.Raise(kGeneralProtection, 0);
  if ((value & kCr0Nw) && !(value & kCr0Cd)) c.Raise(kGeneralProtection, 0);
  if ((value & kCr0Pg) && !(c.cr0 & kCr0Pg) && (c.efer & kEferLme) &&
      (!(c.cr4 & kCr4Pae) || c.segment[kCs].long_mode())) {
    c.Raise(kGeneralProtection, 0);
  }
  if (!(value & kCr0Pg) && (c.cr0 & kCr0Pg) && (c.Is64() || (c.cr4 & kCr4Pcide))) c.Raise(kGeneralProtection, 0);
  if ((value ^ c.cr0) & (kCr0Pg | kCr0Cd | kCr0Nw)) c.CheckPaePointers(value, c.cr3, c.cr4);
  c.SetCr0(value);
}
void WriteCr4(Cpu& c, uint64_t value) {
  if (value & ~c.features.cr4()) c.Raise(kGeneralProtection, 0);
  if (c.IsLong() && !(value & kCr4Pae)) c.Raise(kGeneralProtection, 0);
  if ((value & kCr4Pcide) && !(c.cr4 & kCr4Pcide) && (!c.IsLong() || (c.cr3 & 0xFFF))) c.Raise(kGeneralProtection, 0);
  if ((value ^ c.cr4) & (kCr4Pae | kCr4Pge | kCr4Pse | kCr4Smep)) c.CheckPaePointers(c.cr0, c.cr3, value);
  c.SetCr4(value);
}

const Op* WriteControl(Cpu& c, const Op* op) {
  Privileged(c, op);
  const uint64_t value = c.Is64() ? c.Get<uint64_t>(op->a) : c.Get<uint32_t>(op->a);
  switch (op->b) {
    case 0:
      WriteCr0(c, value);
      break;
    case 2:
      c.cr2 = value;
      break;
    case 3: {
      const uint64_t no_flush = (c.cr4 & kCr4Pcide) ? uint64_t{1} << 63 : 0;
      if (c.IsLong() && (value & ~no_flush) >> c.features.physical_address_bits()) c.Raise(kGeneralProtection, 0);
      c.CheckPaePointers(c.cr0, value, c.cr4);
      c.SetCr3(value);
      break;
    }
    case 4:
      WriteCr4(c, value);
      break;
    case 8:
      if (value > 15) c.Raise(kGeneralProtection, 0);
      c.apic->SetCr8(value);
      c.attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
      break;
    default:
      c.Raise(kInvalidOpcode);
  }
  AtInstruction(c, op);
  return AfterInstruction(c, op);
}

int DebugRegister(Cpu& c, int number) {
  if (number == 4 || number == 5) {
    if (c.cr4 & kCr4De) c.Raise(kInvalidOpcode);
    number += 2;
  }
  if (number > 7) c.Raise(kInvalidOpcode);
  if (c.cpl != 0) c.Raise(kGeneralProtection, 0);
  if (c.dr7 & kDr7GeneralDetect) {
    c.rflags |= kFlagRf;  // as every fault but an instruction breakpoint pushes it (Intel SDM volume 3, 17.3.1.1)
    c.RaiseDebug(kDr6GeneralDetect);
  }
  return number;
}
const Op* ReadDebug(Cpu& c, const Op* op) {
  c.op = op;
  const int number = DebugRegister(c, op->b);
  const uint64_t value = number < 4 ? c.dr[number] : number == 6 ? c.dr6 : c.dr7;
  if (c.Is64()) {
    c.Set<uint64_t>(op->a, value);
  } else {
    c.Set<uint32_t>(op->a, static_cast<uint32_t>(value));
  }
  return op + 1;
}
const Op* WriteDebug(Cpu& c, const Op* op) {
  c.op = op;
  const int number = DebugRegister(c, op->b);
  const uint64_t value = c.Is64() ? c.Get<uint64_t>(op->a) : c.Get<uint32_t>(op->a);
  if (number >= 6 && value >> 32) c.Raise(kGeneralProtection, 0);
  AtInstruction(c, op);
  if (number < 4) {
    c.dr[number] = value;
  } else if (number == 6) {
    c.dr6 = (value & 0xE00F) | 0xFFFF0FF0;
  } else {
    c.dr7 = (value & 0xFFFF2BFF) | 0x400;
    c.UpdateMode();
    c.UpdateStepping();
  }
  return AfterInstruction(c, op);
}

const Op* Clts(Cpu& c, const Op* op) {
  Privileged(c, op);
  c.cr0 &= ~kCr0Ts;
  c.UpdateMode();
  AtInstruction(c, op);
  return AfterInstruction(c, op);
}
const Op* Lmsw(Cpu& c, const Op* op) {
  Privileged(c, op);
  const uint64_t value = op->extra ? Load<uint16_t>(c, op, Address<false>(c, op, 2, false)) : c.Get<uint16_t>(op->b);
  // PE can be set, not cleared.
  WriteCr0(c, (c.cr0 & ~uint64_t{0xE}) | (value & 0xF));
  AtInstruction(c, op);
  return AfterInstruction(c, op);
}
bool TranslateLmsw(Insn& in, Op& op) {
  in.ends = true;
  if (in.IsReg(0)) {
    op.b = RegisterOffset(in.o[0].reg.value);
  } else {
    SetMemory(in, in.o[0], op);
    op.extra = 1;
  }
  op.handler = &Lmsw;
  return true;
}

// SMSW, SLDT, STR store a word; to a register, the operand's width. b says which.
uint64_t StoredWord(Cpu& c, const Op* op) {
  if ((c.cr4 & kCr4Umip) && c.cpl != 0) c.Raise(kGeneralProtection, 0);
  if (op->b != 0 && c.IsRealOrVm86()) c.Raise(kInvalidOpcode);
  return op->b == 0 ? c.cr0 : c.segment[op->b == 1 ? kLdtr : kTr].selector;
}
template <typename T>
const Op* StoreWordReg(Cpu& c, const Op* op) {
  c.op = op;
  c.Set<T>(op->a, static_cast<T>(StoredWord(c, op)));
  return op + 1;
}
const Op* StoreWordMem(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t value = StoredWord(c, op);
  Store<uint16_t>(c, op, Address<false>(c, op, 2, true), static_cast<uint16_t>(value));
  return op + 1;
}
template <int kWhich>
bool TranslateStoreWord(Insn& in, Op& op) {
  op.b = kWhich;
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = ByWideSize(in.o[0].size, []<typename T>() -> Handler { return &StoreWordReg<T>; });
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = &StoreWordMem;
  }
  return true;
}

// ---- descriptor tables ----

template <bool kGdt>
const Op* LoadTable(Cpu& c, const Op* op) {
  Privileged(c, op);
  const uint64_t address = Address<false>(c, op, c.Is64() ? 10 : 6, false);
  const auto limit = Load<uint16_t>(c, op, address);
  uint64_t base = c.Is64() ? Load<uint64_t>(c, op, address + 2) : Load<uint32_t>(c, op, address + 2);
  if (!IsCanonical(base)) c.Raise(kGeneralProtection, 0);
  if (op->extra == 2) base &= 0xFFFFFF;
  (kGdt ? c.gdtr : c.idtr) = {base, limit};
  return op + 1;
}
template <bool kGdt>
const Op* StoreTable(Cpu& c, const Op* op) {
  c.op = op;
  if ((c.cr4 & kCr4Umip) && c.cpl != 0) c.Raise(kGeneralProtection, 0);
  const TableRegister& table = kGdt ? c.gdtr : c.idtr;
  const int size = c.Is64() ? 10 : 6;
  uint8_t bytes[10];
  std::memcpy(bytes, &table.limit, 2);
  std::memcpy(bytes + 2, &table.base, 8);
  c.StoreBytes(op, Address<false>(c, op, size, true), bytes, size);
  return op + 1;
}
template <Handler kHandler>
bool TranslateTable(Insn& in, Op& op) {
  SetMemory(in, in.o[0], op);
  op.extra = static_cast<uint8_t>(in.Is64() ? 8 : in.width() / 8);
  op.handler = kHandler;
  return true;
}

template <bool kTask>
const Op* LoadSystemSegment(Cpu& c, const Op* op) {
  c.op = op;
  if (c.IsRealOrVm86()) c.Raise(kInvalidOpcode);
  if (c.cpl != 0) c.Raise(kGeneralProtection, 0);
  const uint16_t selector = op->extra ? Load<uint16_t>(c, op, Address<false>(c, op, 2, false)) : c.Get<uint16_t>(op->b);
  const uint32_t error = selector & ~3u;
  const int which = kTask ? kTr : kLdtr;
  if (error == 0) {
    if (kTask) c.Raise(kGeneralProtection, 0);
    c.SetNullSegment(which, selector);
    return op + 1;
  }
  if (selector & 4) c.Raise(kGeneralProtection, error);
  Cpu::Descriptor d;
  if (!c.ReadDescriptor(selector, d) || !d.segment.system()) c.Raise(kGeneralProtection, error);
  const int type = d.segment.type();
  const bool right = kTask ? type == 9 || (type == 1 && !c.IsLong()) : type == 2;
  if (!right) c.Raise(kGeneralProtection, error);
  if (!d.segment.present()) c.Raise(kSegmentNotPresent, error);
  if (c.IsLong()) {
    const uint64_t high = c.LoadSystem(d.linear + 8, 8);
    d.base |= high << 32;
    if (!IsCanonical(d.base) || (high >> 40 & 31)) c.Raise(kGeneralProtection, error);
  }
  if (kTask) {
    d.segment.attributes |= 2;  // busy
    c.StoreSystem(d.linear + 5, (d.raw >> 40 & 0xFF) | 2, 1);
  }
  c.SetSegment(which, selector, d);
  return op + 1;
}
template <bool kTask>
bool TranslateSystemSegment(Insn& in, Op& op) {
  if (in.IsReg(0)) {
    op.b = RegisterOffset(in.o[0].reg.value);
  } else {
    SetMemory(in, in.o[0], op);
    op.extra = 1;
  }
  op.handler = &LoadSystemSegment<kTask>;
  return true;
}

// ---- caches and translations ----

const Op* Invlpg(Cpu& c, const Op* op) {
  Privileged(c, op);
  // Neither the segment's limit nor its type counts.
  uint64_t linear = c.LegacyOffset(op) + c.Get<uint64_t>(op->segment);
  if (!c.Is64()) linear &= 0xFFFFFFFF;
  AtInstruction(c, op);
  if (IsCanonical(linear)) c.FlushTlbPage(linear);
  return AfterInstruction(c, op);
}
bool TranslateInvlpg(Insn& in, Op& op) {
  in.ends = true;
  SetMemory(in, in.o[0], op);
  op.handler = &Invlpg;
  return true;
}
const Op* Invpcid(Cpu& c, const Op* op) {
  c.op = op;
  if (c.cpl != 0) c.Raise(kGeneralProtection, 0);
  const uint64_t address = Address<false>(c, op, 16, false);
  const auto low = Load<uint64_t>(c, op, address);
  const auto linear = Load<uint64_t>(c, op, address + 8);
  const uint64_t type = c.Is64() ? c.Get<uint64_t>(op->a) : c.Get<uint32_t>(op->a);
  if (type > 3 || (type < 2 && low >> 12) || (type == 0 && !IsCanonical(linear))) c.Raise(kGeneralProtection, 0);
  if (type < 2 && (low & 0xFFF) && !(c.cr4 & kCr4Pcide)) c.Raise(kGeneralProtection, 0);
  AtInstruction(c, op);
  c.FlushTlb(type != 2);
  return AfterInstruction(c, op);
}
bool TranslateInvpcid(Insn& in, Op& op) {
  in.ends = true;
  op.a = RegisterOffset(in.o[0].reg.value);
  SetMemory(in, in.o[1], op);
  op.handler = &Invpcid;
  return true;
}
const Op* CacheControl(Cpu& c, const Op* op) {
  Privileged(c, op);
  return op + 1;  // there are no caches to write back
}
const Op* FlushLine(Cpu& c, const Op* op) {
  Load<uint8_t>(c, op, Address<false>(c, op, 1, false));  // faults as a load does
  return op + 1;
}
bool TranslateFlushLine(Insn& in, Op& op) {
  SetMemory(in, in.o[0], op);
  op.handler = &FlushLine;
  return true;
}
const Op* Fence(Cpu&, const Op* op) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return op + 1;
}
const Op* Pause(Cpu& c, const Op* op) {
  // A VP that waits for another must not hold the host processor that the other needs. Even where there are enough of
  // them, other programs may hold some.
  ++c.spins;
  if (c.spins % 1024 == 0 || (c.spins % 32 == 0 && c.host.crowded())) sched_yield();
  return op + 1;
}

// ---- halting and interrupts ----

const Op* Hlt(Cpu& c, const Op* op) {
  Privileged(c, op);
  AtInstruction(c, op);
  c.r[kIp] = (c.r[kIp] + op->length) & c.IpMask();
  c.halted = static_cast<uint8_t>(backend::Activity::kHalted);
  c.attention.fetch_or(kAttentionHalt, std::memory_order_relaxed);
  return nullptr;
}

const Op* SoftwareInterrupt(Cpu& c, const Op* op) {
  c.op = op;
  if (op->extra == 1 && !c.flags.of()) return op + 1;  // INTO
  // Of the software interrupts only INT n asks for IOPL.
  if (op->extra == 0 && c.IsVm86() && c.Iopl() < 3) c.Raise(kGeneralProtection, 0);
  Cpu::Event event{static_cast<uint8_t>(op->imm)};
  event.software = op->extra != 2;  // INT1 asks no gate for leave
  event.return_ip = c.NextIp(op) & c.IpMask();
  if (op->extra == 2) {
    c.delivering = kDebug;
    event.external = true;
  }
  c.Interrupt(event);
  c.delivering = -1;
  return LookUpJump(c);
}
// kKind: 0 INT n, 1 INTO, 2 INT1, 3 INT3.
template <int kVector, int kKind>
bool TranslateInterrupt(Insn& in, Op& op) {
  in.ends = true;
  op.imm = kVector >= 0 ? kVector : in.o[0].imm.value.u & 0xFF;
  op.extra = kKind;
  op.handler = &SoftwareInterrupt;
  return true;
}

template <typename T>
const Op* Bound(Cpu& c, const Op* op) {
  c.op = op;
  using S = std::make_signed_t<T>;
  const uint64_t address = Address<false>(c, op, 2 * sizeof(T), false);
  const auto low = static_cast<S>(Load<T>(c, op, address));
  const auto high = static_cast<S>(Load<T>(c, op, address + sizeof(T)));
  const auto value = static_cast<S>(c.Get<T>(op->a));
  if (value < low || value > high) c.Raise(kBoundRange);
  return op + 1;
}
bool TranslateBound(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  SetMemory(in, in.o[1], op);
  op.handler = in.width() == 16 ? &Bound<uint16_t> : &Bound<uint32_t>;
  return true;
}

// ---- fast system calls ----

const Op* Syscall(Cpu& c, const Op* op) {
  c.op = op;
  if (!(c.efer & kEferSce) || !c.Is64()) c.Raise(kInvalidOpcode);
  c.r[kRcx] = c.NextIp(op);
  c.r[11] = c.GetRflags() & ~kFlagRf;
  c.r[kIp] = c.lstar;
  const auto cs = static_cast<uint16_t>(c.star >> 32 & 0xFFFC);
  c.SetFlatSegments(cs, static_cast<uint16_t>(cs + 8), 0, true);
  c.SetRflags((c.GetRflags() & ~(c.sfmask | kFlagRf)) | kFlagOne);
  c.trap_after = c.trap_after && (c.rflags & kFlagTf);
  return LookUpJump(c);
}
const Op* Sysret(Cpu& c, const Op* op) {
  c.op = op;
  if (!(c.efer & kEferSce) || !c.Is64()) c.Raise(kInvalidOpcode);
  if (c.cpl != 0) c.Raise(kGeneralProtection, 0);
  const bool to_64 = op->extra == 8;
  if (to_64 && !IsCanonical(c.r[kRcx])) c.Raise(kGeneralProtection, 0);
  c.r[kIp] = to_64 ? c.r[kRcx] : c.r[kRcx] & 0xFFFFFFFF;
  const auto selector = static_cast<uint16_t>(c.star >> 48);
  const uint64_t flags = (c.r[11] & 0x3C7FD7) | kFlagOne;
  c.SetFlatSegments(static_cast<uint16_t>((selector + (to_64 ? 16 : 0)) | 3), static_cast<uint16_t>((selector + 8) | 3),
                    3, to_64);
  c.SetRflags(flags);
  if (flags & kFlagTf) {
    // Unlike IRET and POPF it traps at once, before the first instruction that it returned to.
    c.instructions += op->count;
    c.op = nullptr;
    c.RaiseDebug(kDr6SingleStep);
  }
  return LookUpJump(c);
}
const Op* Sysenter(Cpu& c, const Op* op) {
  c.op = op;
  if (!c.IsProtected() || (c.sysenter_cs & 0xFFFC) == 0) c.Raise(kGeneralProtection, 0);
  c.SetRflags(c.GetRflags() & ~uint64_t{kFlagIf | kFlagVm | kFlagRf});
  const bool wide = c.IsLong();
  c.r[kIp] = wide ? c.sysenter_eip : c.sysenter_eip & 0xFFFFFFFF;
  c.r[kRsp] = wide ? c.sysenter_esp : c.sysenter_esp & 0xFFFFFFFF;
  const auto cs = static_cast<uint16_t>(c.sysenter_cs & 0xFFFC);
  c.SetFlatSegments(cs, static_cast<uint16_t>(cs + 8), 0, wide);
  return LookUpJump(c);
}
const Op* Sysexit(Cpu& c, const Op* op) {
  c.op = op;
  if (!c.IsProtected() || c.cpl != 0 || (c.sysenter_cs & 0xFFFC) == 0) c.Raise(kGeneralProtection, 0);
  const bool wide = op->extra == 8;
  if (wide && (!IsCanonical(c.r[kRdx]) || !IsCanonical(c.r[kRcx]))) c.Raise(kGeneralProtection, 0);
  c.r[kIp] = wide ? c.r[kRdx] : c.r[kRdx] & 0xFFFFFFFF;
  c.r[kRsp] = wide ? c.r[kRcx] : c.r[kRcx] & 0xFFFFFFFF;
  const auto cs = static_cast<uint16_t>((c.sysenter_cs + (wide ? 32 : 16)) | 3);
  c.SetFlatSegments(cs, static_cast<uint16_t>(cs + 8), 3, wide);
  return LookUpJump(c);
}
const Op* Swapgs(Cpu& c, const Op* op) {
  c.op = op;
  if (c.cpl != 0) c.Raise(kGeneralProtection, 0);
  std::swap(c.base(kGs), c.kernel_gs_base);
  HVSDK_NEXT(op + 1);
}
template <Handler kHandler>
bool TranslateSystemCall(Insn& in, Op& op) {
  in.ends = true;
  op.extra = in.z.attributes & ZYDIS_ATTRIB_HAS_REX && in.z.raw.rex.W ? 8 : 4;
  op.handler = kHandler;
  return true;
}
bool TranslateSwapgs(Insn& in, Op& op) {
  op.handler = &Swapgs;
  return in.Is64();
}

// ---- hypercalls ----

template <bool kBySignalPort>
const Op* CallHypervisor(Cpu& c, const Op* op) {
  AtInstruction(c, op);
  c.BeginExit();
  const backend::HypercallOutcome outcome = c.exits->OnHypercall(*c.vp);
  c.EndExit();
  switch (outcome) {
    case backend::HypercallOutcome::kDone:
      if (kBySignalPort) c.r[kRax] += c.r[kRdx];  // the page subtracts it
      return AfterInstruction(c, op);
    case backend::HypercallOutcome::kRetry:
      c.redirected = false;
      c.trap_after = false;  // it is not done yet
      return LookUpJump(c);
    default:
      c.Raise(kInvalidOpcode);
  }
}
const Op* Hypercall(Cpu& c, const Op* op) { return CallHypervisor<false>(c, op); }
const Op* SignalByPort(Cpu& c, const Op* op) { return CallHypervisor<true>(c, op); }

template <Handler kHandler, bool kEnds = false>
bool TranslateSystem(Insn& in, Op& op) {
  in.ends = kEnds;
  op.handler = kHandler;
  return true;
}

}  // namespace

bool TranslatePause(Insn& in, Op& op) { return TranslateSystem<&Pause>(in, op); }

bool TranslateMoveControl(Insn& in, Op& op) {
  const bool write = !in.IsReg(1) || ZydisRegisterGetClass(in.o[0].reg.value) == ZYDIS_REGCLASS_CONTROL ||
                     ZydisRegisterGetClass(in.o[0].reg.value) == ZYDIS_REGCLASS_DEBUG;
  const ZydisRegister special = in.o[write ? 0 : 1].reg.value;
  op.a = RegisterOffset(in.o[write ? 1 : 0].reg.value);
  const bool control = ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_CONTROL;
  op.b = static_cast<uint8_t>(special - (control ? ZYDIS_REGISTER_CR0 : ZYDIS_REGISTER_DR0));
  in.ends = write;
  op.handler = control ? (write ? &WriteControl : &ReadControl) : (write ? &WriteDebug : &ReadDebug);
  return true;
}

void RegisterSystem(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_IN, &TranslatePort<false>);
  table.Set(ZYDIS_MNEMONIC_OUT, &TranslatePort<true>);
  table.Set(ZYDIS_MNEMONIC_RDMSR, (&TranslateSystem<&Rdmsr, true>));
  table.Set(ZYDIS_MNEMONIC_WRMSR, (&TranslateSystem<&Wrmsr, true>));
  table.Set(ZYDIS_MNEMONIC_CPUID, (&TranslateSystem<&CpuidOp, true>));
  table.Set(ZYDIS_MNEMONIC_RDTSC, &TranslateSystem<&Rdtsc<false>>);
  table.Set(ZYDIS_MNEMONIC_RDTSCP, &TranslateSystem<&Rdtsc<true>>);
  table.Set(ZYDIS_MNEMONIC_RDPMC, (&TranslateSystem<&Rdpmc, true>));
  table.Set(ZYDIS_MNEMONIC_RDRAND, &TranslateRandom);
  table.Set(ZYDIS_MNEMONIC_RDSEED, &TranslateRandom);
  table.Set(ZYDIS_MNEMONIC_RDPID, &TranslateRdpid);
  table.Set(ZYDIS_MNEMONIC_CLTS, (&TranslateSystem<&Clts, true>));
  table.Set(ZYDIS_MNEMONIC_LMSW, &TranslateLmsw);
  table.Set(ZYDIS_MNEMONIC_SMSW, &TranslateStoreWord<0>);
  table.Set(ZYDIS_MNEMONIC_SLDT, &TranslateStoreWord<1>);
  table.Set(ZYDIS_MNEMONIC_STR, &TranslateStoreWord<2>);
  table.Set(ZYDIS_MNEMONIC_LGDT, &TranslateTable<&LoadTable<true>>);
  table.Set(ZYDIS_MNEMONIC_LIDT, &TranslateTable<&LoadTable<false>>);
  table.Set(ZYDIS_MNEMONIC_SGDT, &TranslateTable<&StoreTable<true>>);
  table.Set(ZYDIS_MNEMONIC_SIDT, &TranslateTable<&StoreTable<false>>);
  table.Set(ZYDIS_MNEMONIC_LLDT, &TranslateSystemSegment<false>);
  table.Set(ZYDIS_MNEMONIC_LTR, &TranslateSystemSegment<true>);
  table.Set(ZYDIS_MNEMONIC_INVLPG, &TranslateInvlpg);
  table.Set(ZYDIS_MNEMONIC_INVPCID, &TranslateInvpcid);
  table.Set(ZYDIS_MNEMONIC_INVD, &TranslateSystem<&CacheControl>);
  table.Set(ZYDIS_MNEMONIC_WBINVD, &TranslateSystem<&CacheControl>);
  table.Set(ZYDIS_MNEMONIC_CLFLUSH, &TranslateFlushLine);
  table.Set(ZYDIS_MNEMONIC_CLFLUSHOPT, &TranslateFlushLine);
  table.Set(ZYDIS_MNEMONIC_CLWB, &TranslateFlushLine);
  table.Set(ZYDIS_MNEMONIC_MFENCE, &TranslateSystem<&Fence>);
  table.Set(ZYDIS_MNEMONIC_LFENCE, &TranslateSystem<&Fence>);
  table.Set(ZYDIS_MNEMONIC_SFENCE, &TranslateSystem<&Fence>);
  table.Set(ZYDIS_MNEMONIC_HLT, (&TranslateSystem<&Hlt, true>));
  table.Set(ZYDIS_MNEMONIC_INT, (&TranslateInterrupt<-1, 0>));
  table.Set(ZYDIS_MNEMONIC_INT3, (&TranslateInterrupt<kBreakpoint, 3>));
  table.Set(ZYDIS_MNEMONIC_INTO, (&TranslateInterrupt<kOverflow, 1>));
  table.Set(ZYDIS_MNEMONIC_INT1, (&TranslateInterrupt<kDebug, 2>));
  table.Set(ZYDIS_MNEMONIC_BOUND, &TranslateBound);
  table.Set(ZYDIS_MNEMONIC_SYSCALL, &TranslateSystemCall<&Syscall>);
  table.Set(ZYDIS_MNEMONIC_SYSRET, &TranslateSystemCall<&Sysret>);
  table.Set(ZYDIS_MNEMONIC_SYSENTER, &TranslateSystemCall<&Sysenter>);
  table.Set(ZYDIS_MNEMONIC_SYSEXIT, &TranslateSystemCall<&Sysexit>);
  table.Set(ZYDIS_MNEMONIC_SWAPGS, &TranslateSwapgs);
  table.Set(ZYDIS_MNEMONIC_VMMCALL, (&TranslateSystem<&Hypercall, true>));
  table.Set(ZYDIS_MNEMONIC_VMCALL, (&TranslateSystem<&Hypercall, true>));
}

}  // namespace hvsdk::software
