// SPDX-License-Identifier: Apache-2.0
// Segment registers: MOV PUSH POP, LDS and the like, LAR LSL VERR VERW ARPL, and FSGSBASE.
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

int SegmentNumber(ZydisRegister reg) { return reg - ZYDIS_REGISTER_ES; }

const Op* AfterSegmentLoad(Cpu& c, const Op* op, int segment) {
  c.r[kIp] = c.NextIp(op) & c.IpMask();
  if (segment == kSs) {
    // No interrupt between the stack segment and the stack pointer that comes with it.
    c.BeginShadow(/*stack=*/true);
    c.trap_after = false;  // nor a single step, ever
  }
  return LookUpJump(c);
}

template <bool kMemory>
const Op* MovToSegment(Cpu& c, const Op* op) {
  c.op = op;
  const uint16_t selector = kMemory ? Load<uint16_t>(c, op, Address<false>(c, op, 2, false)) : c.Get<uint16_t>(op->b);
  c.LoadSegment(op->a, selector);
  return AfterSegmentLoad(c, op, op->a);
}
template <typename T>
const Op* MovFromSegment(Cpu& c, const Op* op) {
  c.Set<T>(op->a, c.segment[op->b].selector);
  return op + 1;
}
const Op* MovFromSegmentMem(Cpu& c, const Op* op) {
  Store<uint16_t>(c, op, Address<false>(c, op, 2, true), c.segment[op->b].selector);
  return op + 1;
}
const Op* PushSegment(Cpu& c, const Op* op) {
  c.op = op;
  c.Push(c.segment[op->a].selector, op->extra);
  return op + 1;
}
const Op* PopSegment(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t sp = c.r[kRsp];
  const uint64_t value = c.Pop(op->extra);
  const uint64_t after = c.r[kRsp];
  c.r[kRsp] = sp;
  c.LoadSegment(op->a, static_cast<uint16_t>(value));
  c.r[kRsp] = after;
  return AfterSegmentLoad(c, op, op->a);
}

// LDS LES LFS LGS LSS; b is the segment.
template <typename T>
const Op* LoadFar(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t address = Address<false>(c, op, sizeof(T) + 2, false);
  const T offset = Load<T>(c, op, address);
  const auto selector = Load<uint16_t>(c, op, address + sizeof(T));
  c.LoadSegment(op->b, selector);
  c.Set<T>(op->a, offset);
  c.r[kIp] = c.NextIp(op) & c.IpMask();
  return LookUpJump(c);
}
template <int kSegment>
bool TranslateLoadFar(Insn& in, Op& op) {
  in.ends = true;
  op.a = RegisterOffset(in.o[0].reg.value);
  op.b = kSegment;
  SetMemory(in, in.o[1], op);
  op.handler = ByWideSize(in.o[0].size, []<typename T>() -> Handler { return &LoadFar<T>; });
  return true;
}

void SetZf(LazyFlags& f, bool zf) { f.Set((f.Get() & ~kFlagZf) | (zf ? kFlagZf : 0)); }

template <bool kMemory>
uint16_t Selector(Cpu& c, const Op* op) {
  return kMemory ? Load<uint16_t>(c, op, Address<false>(c, op, 2, false)) : c.Get<uint16_t>(op->b);
}

// Whether a data or conforming code segment, or one of the system types of `system_types`, is visible from CPL and RPL.
bool Visible(Cpu& c, uint16_t selector, Cpu::Descriptor& d, uint32_t system_types) {
  if ((selector & ~3) == 0 || !c.ReadDescriptor(selector, d)) return false;
  if (d.segment.system()) {
    if (!(system_types >> d.segment.type() & 1)) return false;
  } else if (d.segment.code() && (d.segment.type() & 4)) {
    return true;
  }
  return d.segment.dpl() >= c.cpl && d.segment.dpl() >= (selector & 3);
}

template <typename T, bool kMemory, bool kLimit>
const Op* LarLsl(Cpu& c, const Op* op) {
  c.op = op;
  if (c.IsRealOrVm86()) c.Raise(kInvalidOpcode);
  Cpu::Descriptor d;
  // LAR knows the TSSs, the LDT and call and task gates (Intel SDM volume 2); LSL what has a limit.
  const uint32_t types = c.IsLong() ? (kLimit ? 0x0A04 : 0x1A04) : (kLimit ? 0x0A0E : 0x1A3E);
  const bool ok = Visible(c, Selector<kMemory>(c, op), d, types);
  if (ok) {
    const uint64_t value = kLimit ? d.segment.limit : d.raw >> 32 & 0x00FFFF00;
    c.Set<T>(op->a, static_cast<T>(value));
  }
  SetZf(c.flags, ok);
  return op + 1;
}
template <bool kLimit>
bool TranslateLarLsl(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  const int size = in.o[0].size;
  if (in.IsReg(1)) {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &LarLsl<T, false, kLimit>; });
  } else {
    SetMemory(in, in.o[1], op);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &LarLsl<T, true, kLimit>; });
  }
  return true;
}

template <bool kMemory, bool kWrite>
const Op* Verify(Cpu& c, const Op* op) {
  c.op = op;
  if (c.IsRealOrVm86()) c.Raise(kInvalidOpcode);
  Cpu::Descriptor d;
  bool ok = Visible(c, Selector<kMemory>(c, op), d, 0);
  if (ok) {
    const int type = d.segment.type();
    ok = kWrite ? !(type & 8) && (type & 2) : !(type & 8) || (type & 2);
  }
  SetZf(c.flags, ok);
  return op + 1;
}
template <bool kWrite>
bool TranslateVerify(Insn& in, Op& op) {
  if (in.IsReg(0)) {
    op.b = RegisterOffset(in.o[0].reg.value);
    op.handler = &Verify<false, kWrite>;
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = &Verify<true, kWrite>;
  }
  return true;
}

template <bool kMemory>
const Op* Arpl(Cpu& c, const Op* op) {
  c.op = op;
  if (c.IsRealOrVm86()) c.Raise(kInvalidOpcode);
  const uint16_t source = c.Get<uint16_t>(op->b) & 3;
  uint16_t value;
  if constexpr (kMemory) {
    value = Load<uint16_t>(c, op, Address<false>(c, op, 2, false));
  } else {
    value = c.Get<uint16_t>(op->a);
  }
  const bool changes = (value & 3) < source;
  if (changes) {
    value = static_cast<uint16_t>((value & ~3) | source);
    if constexpr (kMemory) {
      // The manuals leave open whether an operand that stays as it is must be writable; processors do not ask it.
      Store<uint16_t>(c, op, Address<false>(c, op, 2, true), value);
    } else {
      c.Set<uint16_t>(op->a, value);
    }
  }
  SetZf(c.flags, changes);
  return op + 1;
}
bool TranslateArpl(Insn& in, Op& op) {
  op.b = RegisterOffset(in.o[1].reg.value);
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = &Arpl<false>;
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = &Arpl<true>;
  }
  return true;
}

// RDFSBASE and its kin; b is the segment base's slot.
template <typename T, bool kWrite>
const Op* FsGsBase(Cpu& c, const Op* op) {
  c.op = op;
  if (!(c.cr4 & kCr4Fsgsbase)) c.Raise(kInvalidOpcode);
  if constexpr (kWrite) {
    const uint64_t value = c.Get<T>(op->a);
    if (!IsCanonical(value)) c.Raise(kGeneralProtection, 0);
    c.Set<uint64_t>(op->b, value);
  } else {
    c.Set<T>(op->a, static_cast<T>(c.Get<uint64_t>(op->b)));
  }
  return op + 1;
}
template <int kSegment, bool kWrite>
bool TranslateFsGsBase(Insn& in, Op& op) {
  if (!in.Is64()) return false;
  op.a = RegisterOffset(in.o[0].reg.value);
  op.b = SlotOffset(kSegmentBase + kSegment);
  op.handler = in.o[0].size == 64 ? &FsGsBase<uint64_t, kWrite> : &FsGsBase<uint32_t, kWrite>;
  return true;
}

}  // namespace

bool TranslateMoveToSegment(Insn& in, Op& op) {
  in.ends = true;
  op.a = static_cast<uint8_t>(SegmentNumber(in.o[0].reg.value));
  if (op.a == kCs || op.a > kGs) return false;
  if (in.IsReg(1)) {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = &MovToSegment<false>;
  } else {
    SetMemory(in, in.o[1], op);
    op.handler = &MovToSegment<true>;
  }
  return true;
}
bool TranslateMoveFromSegment(Insn& in, Op& op) {
  op.b = static_cast<uint8_t>(SegmentNumber(in.o[1].reg.value));
  if (op.b > kGs) return false;
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = ByWideSize(in.width(), []<typename T>() -> Handler { return &MovFromSegment<T>; });
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = &MovFromSegmentMem;
  }
  return true;
}
bool TranslatePushSegment(Insn& in, Op& op) {
  op.flags |= kOpStackSegment;
  op.a = static_cast<uint8_t>(SegmentNumber(in.o[0].reg.value));
  op.handler = &PushSegment;
  return true;
}
bool TranslatePopSegment(Insn& in, Op& op) {
  in.ends = true;
  op.flags |= kOpStackSegment;
  op.a = static_cast<uint8_t>(SegmentNumber(in.o[0].reg.value));
  op.handler = &PopSegment;
  return op.a != kCs;
}

void RegisterSegment(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_LDS, &TranslateLoadFar<kDs>);
  table.Set(ZYDIS_MNEMONIC_LES, &TranslateLoadFar<kEs>);
  table.Set(ZYDIS_MNEMONIC_LFS, &TranslateLoadFar<kFs>);
  table.Set(ZYDIS_MNEMONIC_LGS, &TranslateLoadFar<kGs>);
  table.Set(ZYDIS_MNEMONIC_LSS, &TranslateLoadFar<kSs>);
  table.Set(ZYDIS_MNEMONIC_LAR, &TranslateLarLsl<false>);
  table.Set(ZYDIS_MNEMONIC_LSL, &TranslateLarLsl<true>);
  table.Set(ZYDIS_MNEMONIC_VERR, &TranslateVerify<false>);
  table.Set(ZYDIS_MNEMONIC_VERW, &TranslateVerify<true>);
  table.Set(ZYDIS_MNEMONIC_ARPL, &TranslateArpl);
  table.Set(ZYDIS_MNEMONIC_RDFSBASE, (&TranslateFsGsBase<kFs, false>));
  table.Set(ZYDIS_MNEMONIC_RDGSBASE, (&TranslateFsGsBase<kGs, false>));
  table.Set(ZYDIS_MNEMONIC_WRFSBASE, (&TranslateFsGsBase<kFs, true>));
  table.Set(ZYDIS_MNEMONIC_WRGSBASE, (&TranslateFsGsBase<kGs, true>));
}

}  // namespace hvsdk::software
