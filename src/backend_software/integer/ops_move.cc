// SPDX-License-Identifier: Apache-2.0
// MOV MOVZX MOVSX LEA XCHG PUSH POP CMOVcc SETcc MOVBE BSWAP LEAVE ENTER XLAT, extensions, no-operations.
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

template <typename T>
const Op* MovRegReg(Cpu& c, const Op* op) {
  c.Set<T>(op->a, c.Get<T>(op->b));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* MovRegImm(Cpu& c, const Op* op) {
  c.Set<T>(op->a, static_cast<T>(op->imm));
  HVSDK_NEXT(op + 1);
}
template <typename T, bool kSimple, bool kQuick = true>
HVSDK_TWIN const Op* MovRegMem(Cpu& c, const Op* op) {
  uint64_t address;
  T value;
  if (!AddressTo<kSimple, kQuick>(c, op, sizeof(T), false, address) || !LoadTo<kQuick>(c, op, address, value))
      [[unlikely]] {
    return MovRegMem<T, kSimple, false>(c, op);
  }
  c.Set<T>(op->a, value);
  HVSDK_NEXT(op + 1);
}
template <typename T, bool kSimple, bool kQuick = true>
HVSDK_TWIN const Op* MovMemReg(Cpu& c, const Op* op) {
  uint64_t address;
  if (!AddressTo<kSimple, kQuick>(c, op, sizeof(T), true, address) ||
      !StoreTo<kQuick, T>(c, op, address, c.Get<T>(op->b))) [[unlikely]] {
    return MovMemReg<T, kSimple, false>(c, op);
  }
  HVSDK_NEXT(op + 1);
}
template <typename T, bool kSimple, bool kQuick = true>
HVSDK_TWIN const Op* MovMemImm(Cpu& c, const Op* op) {
  uint64_t address;
  if (!AddressTo<kSimple, kQuick>(c, op, sizeof(T), true, address) ||
      !StoreTo<kQuick, T>(c, op, address, static_cast<T>(op->imm))) [[unlikely]] {
    return MovMemImm<T, kSimple, false>(c, op);
  }
  HVSDK_NEXT(op + 1);
}
// A 64-bit absolute address (in imm) that no displacement can hold.
template <typename T, bool kLoad>
const Op* MovFar(Cpu& c, const Op* op) {
  const uint64_t address = op->imm + c.Get<uint64_t>(op->segment);
  if constexpr (kLoad) {
    c.Set<T>(op->a, Load<T>(c, op, address));
  } else {
    Store<T>(c, op, address, c.Get<T>(op->a));
  }
  HVSDK_NEXT(op + 1);
}

bool TranslateMove(Insn& in, Op& op) {
  if (in.IsReg(0) && ZydisRegisterGetClass(in.o[0].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
    return TranslateMoveToSegment(in, op);
  }
  if (in.IsReg(1) && ZydisRegisterGetClass(in.o[1].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
    return TranslateMoveFromSegment(in, op);
  }
  for (int i = 0; i < 2; ++i) {
    if (!in.IsReg(i)) continue;
    const ZydisRegisterClass reg_class = ZydisRegisterGetClass(in.o[i].reg.value);
    if (reg_class == ZYDIS_REGCLASS_CONTROL || reg_class == ZYDIS_REGCLASS_DEBUG) return TranslateMoveControl(in, op);
    if (reg_class == ZYDIS_REGCLASS_TEST) return false;
  }
  const int size = in.o[0].size;
  const int memory = in.IsMem(0) ? 0 : in.IsMem(1) ? 1 : -1;
  if (memory >= 0 && in.Is64() && in.o[memory].mem.disp.has_displacement &&
      in.o[memory].mem.base == ZYDIS_REGISTER_NONE && in.z.address_width == 64 &&
      in.o[memory].mem.disp.value != static_cast<int32_t>(in.o[memory].mem.disp.value)) {
    const int64_t address = in.o[memory].mem.disp.value;
    SetMemory(in, in.o[memory], op);
    op.imm = static_cast<uint64_t>(address);
    op.a = SlotOffset(kRax);
    op.handler = memory == 1 ? BySize(size, []<typename T>() -> Handler { return &MovFar<T, true>; })
                             : BySize(size, []<typename T>() -> Handler { return &MovFar<T, false>; });
    return true;
  }
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    if (in.IsReg(1)) {
      in.flag_effect = FlagEffect::kKeeps;
      op.b = RegisterOffset(in.o[1].reg.value);
      op.handler = BySize(size, []<typename T>() -> Handler { return &MovRegReg<T>; });
    } else if (in.IsImm(1)) {
      in.flag_effect = FlagEffect::kKeeps;
      op.imm = in.o[1].imm.value.u;
      op.handler = BySize(size, []<typename T>() -> Handler { return &MovRegImm<T>; });
    } else if (SetMemory(in, in.o[1], op)) {
      op.handler = BySize(size, []<typename T>() -> Handler { return &MovRegMem<T, true>; });
    } else {
      op.handler = BySize(size, []<typename T>() -> Handler { return &MovRegMem<T, false>; });
    }
    return true;
  }
  const bool simple = SetMemory(in, in.o[0], op);
  if (in.IsImm(1)) {
    op.imm = in.o[1].imm.value.u;
    op.handler = simple ? BySize(size, []<typename T>() -> Handler { return &MovMemImm<T, true>; })
                        : BySize(size, []<typename T>() -> Handler { return &MovMemImm<T, false>; });
  } else {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = simple ? BySize(size, []<typename T>() -> Handler { return &MovMemReg<T, true>; })
                        : BySize(size, []<typename T>() -> Handler { return &MovMemReg<T, false>; });
  }
  return true;
}

// ---- widening moves: From is signed for MOVSX ----

template <typename To, typename From>
const Op* WidenReg(Cpu& c, const Op* op) {
  c.Set<To>(op->a, static_cast<To>(c.Get<From>(op->b)));
  HVSDK_NEXT(op + 1);
}
template <typename To, typename From, bool kSimple, bool kQuick = true>
HVSDK_TWIN const Op* WidenMem(Cpu& c, const Op* op) {
  uint64_t address;
  std::make_unsigned_t<From> value;
  if (!AddressTo<kSimple, kQuick>(c, op, sizeof(From), false, address) || !LoadTo<kQuick>(c, op, address, value))
      [[unlikely]] {
    return WidenMem<To, From, kSimple, false>(c, op);
  }
  c.Set<To>(op->a, static_cast<To>(static_cast<From>(value)));
  HVSDK_NEXT(op + 1);
}
template <typename From>
Handler WidenHandler(Insn& in, Op& op) {
  const int size = in.o[0].size;
  op.a = RegisterOffset(in.o[0].reg.value);
  if (in.IsReg(1)) {
    in.flag_effect = FlagEffect::kKeeps;
    op.b = RegisterOffset(in.o[1].reg.value);
    return ByWideSize(size, []<typename T>() -> Handler { return &WidenReg<T, From>; });
  }
  return SetMemory(in, in.o[1], op)
             ? ByWideSize(size, []<typename T>() -> Handler { return &WidenMem<T, From, true>; })
             : ByWideSize(size, []<typename T>() -> Handler { return &WidenMem<T, From, false>; });
}
bool TranslateZeroExtend(Insn& in, Op& op) {
  op.handler = in.o[1].size == 8 ? WidenHandler<uint8_t>(in, op) : WidenHandler<uint16_t>(in, op);
  return true;
}
bool TranslateSignExtend(Insn& in, Op& op) {
  op.handler = in.o[1].size == 8    ? WidenHandler<int8_t>(in, op)
               : in.o[1].size == 16 ? WidenHandler<int16_t>(in, op)
                                    : WidenHandler<int32_t>(in, op);
  return true;
}

// ---- LEA ----

template <typename T>
const Op* LeaSimple(Cpu& c, const Op* op) {
  c.Set<T>(op->a, static_cast<T>(c.Get<uint64_t>(op->base) + static_cast<int64_t>(op->disp)));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* Lea(Cpu& c, const Op* op) {
  c.Set<T>(op->a, static_cast<T>(c.Get<uint64_t>(op->base) + (c.Get<uint64_t>(op->index) << op->scale) +
                                 static_cast<int64_t>(op->disp)));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* LeaLegacy(Cpu& c, const Op* op) {
  uint64_t offset = c.Get<uint64_t>(op->base) + (c.Get<uint64_t>(op->index) << op->scale) +
                    static_cast<int64_t>(op->disp) + ((op->flags & kOpRipBias) ? kRipBias : 0);
  if (op->flags & kOpAddress32) offset &= 0xFFFFFFFF;
  if (op->flags & kOpAddress16) offset &= 0xFFFF;
  c.Set<T>(op->a, static_cast<T>(offset));
  HVSDK_NEXT(op + 1);
}
bool TranslateLea(Insn& in, Op& op) {
  const int size = in.o[0].size;
  in.flag_effect = FlagEffect::kKeeps;
  op.a = RegisterOffset(in.o[0].reg.value);
  SetMemory(in, in.o[1], op);
  if (op.flags & (kOpLegacyAddress | kOpRipBias)) {
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &LeaLegacy<T>; });
  } else if (op.index == SlotOffset(kZero)) {
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &LeaSimple<T>; });
  } else {
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &Lea<T>; });
  }
  return true;
}

// ---- XCHG ----

template <typename T>
const Op* XchgReg(Cpu& c, const Op* op) {
  const T a = c.Get<T>(op->a);
  const T b = c.Get<T>(op->b);
  c.Set<T>(op->a, b);
  c.Set<T>(op->b, a);
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* XchgMem(Cpu& c, const Op* op) {
  const uint64_t address = Address<false>(c, op, sizeof(T), true);
  const T value = c.Get<T>(op->b);
  T old{};
  LockedRmw<T>(c, op, address, [&](T seen) {
    old = seen;
    return value;
  });
  c.Set<T>(op->b, old);
  HVSDK_NEXT(op + 1);
}
bool TranslateExchange(Insn& in, Op& op) {
  const int size = in.o[0].size;
  if (in.IsReg(0) && in.IsReg(1)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = BySize(size, []<typename T>() -> Handler { return &XchgReg<T>; });
    return true;
  }
  const int memory = in.IsMem(0) ? 0 : 1;
  SetMemory(in, in.o[memory], op);
  op.b = RegisterOffset(in.o[1 - memory].reg.value);
  op.handler = BySize(size, []<typename T>() -> Handler { return &XchgMem<T>; });
  return true;
}

// F3 90 is PAUSE, unless REX.B makes it an exchange after all.
bool TranslatePauseOrExchange(Insn& in, Op& op) {
  if (!(in.z.attributes & ZYDIS_ATTRIB_HAS_REX) || !in.z.raw.rex.B) return TranslatePause(in, op);
  op.a = SlotOffset(kRax);
  op.b = SlotOffset(8);
  const int size = in.z.raw.rex.W ? 64 : (in.z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) ? 16 : 32;
  op.handler = ByWideSize(size, []<typename T>() -> Handler { return &XchgReg<T>; });
  return true;
}

// ---- PUSH and POP: the 64-bit forms, and any other by Cpu::Push ----

template <bool kQuick = true>
HVSDK_TWIN const Op* PushReg64(Cpu& c, const Op* op) {
  const uint64_t sp = c.r[kRsp] - 8;
  if (!StoreTo<kQuick>(c, op, sp, c.Get<uint64_t>(op->a))) [[unlikely]]
    return PushReg64<false>(c, op);
  c.r[kRsp] = sp;
  HVSDK_NEXT(op + 1);
}
template <bool kQuick = true>
HVSDK_TWIN const Op* PushImm64(Cpu& c, const Op* op) {
  const uint64_t sp = c.r[kRsp] - 8;
  if (!StoreTo<kQuick>(c, op, sp, op->imm)) [[unlikely]]
    return PushImm64<false>(c, op);
  c.r[kRsp] = sp;
  HVSDK_NEXT(op + 1);
}
template <bool kQuick = true>
HVSDK_TWIN const Op* PopReg64(Cpu& c, const Op* op) {
  const uint64_t sp = c.r[kRsp];
  uint64_t value;
  if (!LoadTo<kQuick>(c, op, sp, value)) [[unlikely]]
    return PopReg64<false>(c, op);
  c.r[kRsp] = sp + 8;
  c.Set<uint64_t>(op->a, value);
  HVSDK_NEXT(op + 1);
}
// extra: size in bytes.
uint64_t LoadBySize(Cpu& c, const Op* op, uint64_t address, int size) {
  switch (size) {
    case 2:
      return Load<uint16_t>(c, op, address);
    case 4:
      return Load<uint32_t>(c, op, address);
    default:
      return Load<uint64_t>(c, op, address);
  }
}
const Op* PushAny(Cpu& c, const Op* op) {
  c.op = op;
  c.Push(c.Get<uint64_t>(op->a), op->extra);
  HVSDK_NEXT(op + 1);
}
const Op* PushImmAny(Cpu& c, const Op* op) {
  c.op = op;
  c.Push(op->imm, op->extra);
  HVSDK_NEXT(op + 1);
}
const Op* PushMem(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t value = LoadBySize(c, op, Address<false>(c, op, op->extra, false), op->extra);
  c.Push(value, op->extra);
  HVSDK_NEXT(op + 1);
}
const Op* PopAny(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t value = c.Pop(op->extra);
  if (op->extra == 2) c.Set<uint16_t>(op->a, static_cast<uint16_t>(value));
  if (op->extra == 4) c.Set<uint32_t>(op->a, static_cast<uint32_t>(value));
  if (op->extra == 8) c.Set<uint64_t>(op->a, value);
  HVSDK_NEXT(op + 1);
}
const Op* PopMem(Cpu& c, const Op* op) {
  c.op = op;
  // The address is computed with RSP after the pop; a fault of the store leaves RSP as it was.
  const uint64_t sp = c.r[kRsp];
  const uint64_t value = c.Pop(op->extra);
  const uint64_t after = c.r[kRsp];
  if (op->base != SlotOffset(kRsp)) c.r[kRsp] = sp;
  uint64_t address;
  if (op->base == SlotOffset(kRsp)) {
    // Only the address may be taken with the new RSP, so the checks that may fault see it as the instruction's start.
    c.r[kRsp] = sp;
    const uint64_t bias = after - sp;
    Op moved = *op;
    moved.disp = static_cast<int32_t>(op->disp + static_cast<int64_t>(bias));
    address = Address<false>(c, &moved, op->extra, true);
    c.op = op;
  } else {
    address = Address<false>(c, op, op->extra, true);
  }
  switch (op->extra) {
    case 2:
      Store<uint16_t>(c, op, address, static_cast<uint16_t>(value));
      break;
    case 4:
      Store<uint32_t>(c, op, address, static_cast<uint32_t>(value));
      break;
    default:
      Store<uint64_t>(c, op, address, value);
  }
  c.r[kRsp] = after;
  HVSDK_NEXT(op + 1);
}

// The operand size of stack instructions: 64 bits in 64-bit mode unless 16 were asked for.
uint8_t StackOperandSize(const Insn& in) {
  if (in.Is64()) return in.width() == 16 ? 2 : 8;
  return static_cast<uint8_t>(in.width() / 8);
}

bool TranslatePush(Insn& in, Op& op) {
  op.extra = StackOperandSize(in);
  if (in.IsReg(0) && ZydisRegisterGetClass(in.o[0].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
    return TranslatePushSegment(in, op);
  }
  if (in.IsMem(0)) {
    SetMemory(in, in.o[0], op);
    op.handler = &PushMem;
    return true;
  }
  op.flags |= kOpStackSegment;
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = op.extra == 8 ? &PushReg64<> : &PushAny;
  } else {
    op.imm = static_cast<uint64_t>(in.o[0].imm.value.s);
    op.handler = op.extra == 8 ? &PushImm64<> : &PushImmAny;
  }
  return true;
}
bool TranslatePop(Insn& in, Op& op) {
  op.extra = StackOperandSize(in);
  if (in.IsReg(0) && ZydisRegisterGetClass(in.o[0].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
    return TranslatePopSegment(in, op);
  }
  if (in.IsMem(0)) {
    SetMemory(in, in.o[0], op);
    op.handler = &PopMem;
    return true;
  }
  op.flags |= kOpStackSegment;
  op.a = RegisterOffset(in.o[0].reg.value);
  op.handler = op.extra == 8 ? &PopReg64<> : &PopAny;
  return true;
}

const Op* PushAll(Cpu& c, const Op* op) {
  c.op = op;
  const int size = op->extra;
  const uint64_t sp = c.r[kRsp];
  // Each place first, in the order of the pushes: a fault leaves nothing pushed.
  for (int i = 1; i <= 8; ++i) c.ProbeWrite(op, c.StackLinear((sp - i * size) & c.StackMask(), size, true), size);
  for (const uint8_t reg : {kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi}) {
    c.Push(reg == kRsp ? sp : c.r[reg], size);
  }
  HVSDK_NEXT(op + 1);
}
const Op* PopAll(Cpu& c, const Op* op) {
  c.op = op;
  const int size = op->extra;
  const uint64_t sp = c.r[kRsp] & c.StackMask();
  uint64_t values[8];
  for (int i = 0; i < 8; ++i) {
    values[i] = LoadBySize(c, op, c.StackLinear((sp + i * size) & c.StackMask(), size, false), size);
  }
  const uint8_t order[8] = {kRdi, kRsi, kRbp, kRsp, kRbx, kRdx, kRcx, kRax};
  for (int i = 0; i < 8; ++i) {
    if (order[i] == kRsp) continue;
    if (size == 2) c.Set<uint16_t>(SlotOffset(order[i]), static_cast<uint16_t>(values[i]));
    if (size == 4) c.Set<uint32_t>(SlotOffset(order[i]), static_cast<uint32_t>(values[i]));
  }
  c.SetSp(sp + 8 * size);
  HVSDK_NEXT(op + 1);
}
bool TranslatePushAll(Insn& in, Op& op) {
  op.extra = static_cast<uint8_t>(in.width() / 8);
  op.handler = &PushAll;
  return true;
}
bool TranslatePopAll(Insn& in, Op& op) {
  op.extra = static_cast<uint8_t>(in.width() / 8);
  op.handler = &PopAll;
  return true;
}

const Op* Leave64(Cpu& c, const Op* op) {
  const uint64_t sp = c.r[kRbp];
  const uint64_t value = Load<uint64_t>(c, op, sp);
  c.r[kRsp] = sp + 8;
  c.r[kRbp] = value;
  HVSDK_NEXT(op + 1);
}
const Op* LeaveAny(Cpu& c, const Op* op) {
  c.op = op;
  const int size = op->extra;
  const uint64_t sp = c.r[kRbp] & c.StackMask();
  const uint64_t value = LoadBySize(c, op, c.StackLinear(sp, size, false), size);
  c.SetSp(sp + size);
  if (size == 2) c.Set<uint16_t>(SlotOffset(kRbp), static_cast<uint16_t>(value));
  if (size == 4) c.Set<uint32_t>(SlotOffset(kRbp), static_cast<uint32_t>(value));
  if (size == 8) c.r[kRbp] = value;
  HVSDK_NEXT(op + 1);
}
bool TranslateLeave(Insn& in, Op& op) {
  op.flags |= kOpStackSegment;
  op.extra = StackOperandSize(in);
  op.handler = op.extra == 8 ? &Leave64 : &LeaveAny;
  return true;
}

const Op* Enter(Cpu& c, const Op* op) {
  c.op = op;
  const int size = op->extra;
  const int level = op->a;
  const uint64_t old_sp = c.r[kRsp];
  uint64_t sp = old_sp & c.StackMask();
  const auto push = [&](uint64_t value) {
    sp = (sp - size) & c.StackMask();
    const uint64_t linear = c.StackLinear(sp, size, true);
    if (size == 2) Store<uint16_t>(c, op, linear, static_cast<uint16_t>(value));
    if (size == 4) Store<uint32_t>(c, op, linear, static_cast<uint32_t>(value));
    if (size == 8) Store<uint64_t>(c, op, linear, value);
  };
  push(c.r[kRbp]);
  // The frame pointer is the whole stack pointer after that push: a 16-bit stack leaves its upper half alone.
  const uint64_t frame = sp | (c.StackMask() == 0xFFFF ? old_sp & ~uint64_t{0xFFFF} : 0);
  if (level > 0) {
    uint64_t bp = c.r[kRbp];
    for (int i = 1; i < level; ++i) {
      bp = (bp - size) & c.StackMask();
      push(LoadBySize(c, op, c.StackLinear(bp, size, false), size));
    }
    push(frame);
  }
  sp = (sp - op->imm) & c.StackMask();
  c.ProbeWrite(op, c.StackLinear(sp, 1, true), 1);  // the new stack top must be writable
  c.SetSp(sp);
  if (size == 2) c.Set<uint16_t>(SlotOffset(kRbp), static_cast<uint16_t>(frame));
  if (size == 4) c.Set<uint32_t>(SlotOffset(kRbp), static_cast<uint32_t>(frame));
  if (size == 8) c.r[kRbp] = frame;
  HVSDK_NEXT(op + 1);
}
bool TranslateEnter(Insn& in, Op& op) {
  op.flags |= kOpStackSegment;
  op.extra = StackOperandSize(in);
  op.imm = in.o[0].imm.value.u & 0xFFFF;
  op.a = static_cast<uint8_t>(in.o[1].imm.value.u & 31);
  op.handler = &Enter;
  return true;
}

// ---- CMOVcc and SETcc ----

template <int kCondition, typename T>
const Op* CmovReg(Cpu& c, const Op* op) {
  // A 32-bit move clears the upper half even when the condition is false.
  const T value = c.flags.Test<kCondition>() ? c.Get<T>(op->b) : c.Get<T>(op->a);
  c.Set<T>(op->a, value);
  HVSDK_NEXT(op + 1);
}
template <int kCondition, typename T>
const Op* CmovMem(Cpu& c, const Op* op) {
  const T loaded = Load<T>(c, op, Address<false>(c, op, sizeof(T), false));
  c.Set<T>(op->a, c.flags.Test<kCondition>() ? loaded : c.Get<T>(op->a));
  HVSDK_NEXT(op + 1);
}
template <int kCondition>
bool TranslateCmov(Insn& in, Op& op) {
  const int size = in.o[0].size;
  op.a = RegisterOffset(in.o[0].reg.value);
  if (in.IsReg(1)) {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &CmovReg<kCondition, T>; });
  } else {
    SetMemory(in, in.o[1], op);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &CmovMem<kCondition, T>; });
  }
  return true;
}

template <int kCondition>
const Op* SetReg(Cpu& c, const Op* op) {
  c.Set<uint8_t>(op->a, c.flags.Test<kCondition>());
  HVSDK_NEXT(op + 1);
}
template <int kCondition>
const Op* SetMem(Cpu& c, const Op* op) {
  Store<uint8_t>(c, op, Address<false>(c, op, 1, true), c.flags.Test<kCondition>());
  HVSDK_NEXT(op + 1);
}
template <int kCondition>
bool TranslateSet(Insn& in, Op& op) {
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = &SetReg<kCondition>;
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = &SetMem<kCondition>;
  }
  return true;
}

// ---- the rest ----

template <typename T>
T Swap(T value) {
  if constexpr (sizeof(T) == 2) return static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
  return value;
}
template <typename T>
const Op* Bswap(Cpu& c, const Op* op) {
  // Undefined for 16 bits; processors give zero.
  c.Set<T>(op->a, sizeof(T) == 2 ? T{0} : Swap<T>(c.Get<T>(op->a)));
  HVSDK_NEXT(op + 1);
}
bool TranslateBswap(Insn& in, Op& op) {
  in.flag_effect = FlagEffect::kKeeps;
  op.a = RegisterOffset(in.o[0].reg.value);
  op.handler = ByWideSize(in.o[0].size, []<typename T>() -> Handler { return &Bswap<T>; });
  return true;
}
template <typename T>
const Op* MovbeLoad(Cpu& c, const Op* op) {
  c.Set<T>(op->a, Swap<T>(Load<T>(c, op, Address<false>(c, op, sizeof(T), false))));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* MovbeStore(Cpu& c, const Op* op) {
  Store<T>(c, op, Address<false>(c, op, sizeof(T), true), Swap<T>(c.Get<T>(op->b)));
  HVSDK_NEXT(op + 1);
}
bool TranslateMovbe(Insn& in, Op& op) {
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    SetMemory(in, in.o[1], op);
    op.handler = ByWideSize(in.o[0].size, []<typename T>() -> Handler { return &MovbeLoad<T>; });
  } else {
    SetMemory(in, in.o[0], op);
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = ByWideSize(in.o[0].size, []<typename T>() -> Handler { return &MovbeStore<T>; });
  }
  return true;
}

// CBW, CWDE, CDQE: From to the next wider type. CWD, CDQ, CQO: the sign of T into RDX.
template <typename To, typename From>
const Op* ExtendA(Cpu& c, const Op* op) {
  c.Set<To>(SlotOffset(kRax), static_cast<To>(c.Get<From>(SlotOffset(kRax))));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* SignToD(Cpu& c, const Op* op) {
  using S = std::make_signed_t<T>;
  c.Set<T>(SlotOffset(kRdx), c.Get<S>(SlotOffset(kRax)) < 0 ? static_cast<T>(~T{0}) : T{0});
  HVSDK_NEXT(op + 1);
}
template <Handler kHandler>
bool TranslateFixed(Insn& in, Op& op) {
  in.flag_effect = FlagEffect::kKeeps;  // extensions and no-operations
  op.handler = kHandler;
  return true;
}

const Op* Nop([[maybe_unused]] Cpu& c, const Op* op) { HVSDK_NEXT(op + 1); }

// XLAT and the store forms that need DS:RBX.
const Op* Xlat(Cpu& c, const Op* op) {
  c.op = op;
  uint64_t offset = c.r[kRbx] + c.Get<uint8_t>(SlotOffset(kRax));
  if (op->flags & kOpAddress32) offset &= 0xFFFFFFFF;
  if (op->flags & kOpAddress16) offset &= 0xFFFF;
  c.Set<uint8_t>(SlotOffset(kRax), Load<uint8_t>(c, op, c.SegmentLinear(op->a, offset, 1, false)));
  HVSDK_NEXT(op + 1);
}
bool TranslateXlat(Insn& in, Op& op) {
  op.a = kDs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES) op.a = kEs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS) op.a = kCs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS) op.a = kSs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) op.a = kFs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) op.a = kGs;
  if (in.z.address_width == 32) op.flags |= kOpAddress32;
  if (in.z.address_width == 16) op.flags |= kOpAddress16;
  op.handler = &Xlat;
  return true;
}

template <int kCondition>
void SetConditional(TranslatorTable& table, ZydisMnemonic cmov, ZydisMnemonic set) {
  table.Set(cmov, &TranslateCmov<kCondition>);
  table.Set(set, &TranslateSet<kCondition>);
}

}  // namespace

bool JoinMove(Op& move, const Op& next) {
  const int bits = move.handler == &MovRegReg<uint32_t> ? 32 : move.handler == &MovRegReg<uint64_t> ? 64 : 0;
  if (bits == 0 || next.a != move.a) return false;
  for (const absl::Span<const Joined> table : {JoinedAlu(), JoinedShift()}) {
    for (const Joined& joined : table) {
      if (joined.bits != bits || joined.next != next.handler || (joined.reads_b && next.b == move.a)) continue;
      move.handler = joined.both;
      return true;
    }
  }
  return false;
}

void RegisterMove(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_MOV, &TranslateMove);
  table.Set(ZYDIS_MNEMONIC_MOVNTI, &TranslateMove);
  table.Set(ZYDIS_MNEMONIC_MOVZX, &TranslateZeroExtend);
  table.Set(ZYDIS_MNEMONIC_MOVSX, &TranslateSignExtend);
  table.Set(ZYDIS_MNEMONIC_MOVSXD, &TranslateSignExtend);
  table.Set(ZYDIS_MNEMONIC_LEA, &TranslateLea);
  table.Set(ZYDIS_MNEMONIC_XCHG, &TranslateExchange);
  table.Set(ZYDIS_MNEMONIC_PAUSE, &TranslatePauseOrExchange);
  table.Set(ZYDIS_MNEMONIC_PUSH, &TranslatePush);
  table.Set(ZYDIS_MNEMONIC_POP, &TranslatePop);
  table.Set(ZYDIS_MNEMONIC_PUSHA, &TranslatePushAll);
  table.Set(ZYDIS_MNEMONIC_PUSHAD, &TranslatePushAll);
  table.Set(ZYDIS_MNEMONIC_POPA, &TranslatePopAll);
  table.Set(ZYDIS_MNEMONIC_POPAD, &TranslatePopAll);
  table.Set(ZYDIS_MNEMONIC_LEAVE, &TranslateLeave);
  table.Set(ZYDIS_MNEMONIC_ENTER, &TranslateEnter);
  SetConditional<0>(table, ZYDIS_MNEMONIC_CMOVO, ZYDIS_MNEMONIC_SETO);
  SetConditional<1>(table, ZYDIS_MNEMONIC_CMOVNO, ZYDIS_MNEMONIC_SETNO);
  SetConditional<2>(table, ZYDIS_MNEMONIC_CMOVB, ZYDIS_MNEMONIC_SETB);
  SetConditional<3>(table, ZYDIS_MNEMONIC_CMOVNB, ZYDIS_MNEMONIC_SETNB);
  SetConditional<4>(table, ZYDIS_MNEMONIC_CMOVZ, ZYDIS_MNEMONIC_SETZ);
  SetConditional<5>(table, ZYDIS_MNEMONIC_CMOVNZ, ZYDIS_MNEMONIC_SETNZ);
  SetConditional<6>(table, ZYDIS_MNEMONIC_CMOVBE, ZYDIS_MNEMONIC_SETBE);
  SetConditional<7>(table, ZYDIS_MNEMONIC_CMOVNBE, ZYDIS_MNEMONIC_SETNBE);
  SetConditional<8>(table, ZYDIS_MNEMONIC_CMOVS, ZYDIS_MNEMONIC_SETS);
  SetConditional<9>(table, ZYDIS_MNEMONIC_CMOVNS, ZYDIS_MNEMONIC_SETNS);
  SetConditional<10>(table, ZYDIS_MNEMONIC_CMOVP, ZYDIS_MNEMONIC_SETP);
  SetConditional<11>(table, ZYDIS_MNEMONIC_CMOVNP, ZYDIS_MNEMONIC_SETNP);
  SetConditional<12>(table, ZYDIS_MNEMONIC_CMOVL, ZYDIS_MNEMONIC_SETL);
  SetConditional<13>(table, ZYDIS_MNEMONIC_CMOVNL, ZYDIS_MNEMONIC_SETNL);
  SetConditional<14>(table, ZYDIS_MNEMONIC_CMOVLE, ZYDIS_MNEMONIC_SETLE);
  SetConditional<15>(table, ZYDIS_MNEMONIC_CMOVNLE, ZYDIS_MNEMONIC_SETNLE);
  table.Set(ZYDIS_MNEMONIC_BSWAP, &TranslateBswap);
  table.Set(ZYDIS_MNEMONIC_MOVBE, &TranslateMovbe);
  table.Set(ZYDIS_MNEMONIC_CBW, (&TranslateFixed<&ExtendA<uint16_t, int8_t>>));
  table.Set(ZYDIS_MNEMONIC_CWDE, (&TranslateFixed<&ExtendA<uint32_t, int16_t>>));
  table.Set(ZYDIS_MNEMONIC_CDQE, (&TranslateFixed<&ExtendA<uint64_t, int32_t>>));
  table.Set(ZYDIS_MNEMONIC_CWD, &TranslateFixed<&SignToD<uint16_t>>);
  table.Set(ZYDIS_MNEMONIC_CDQ, &TranslateFixed<&SignToD<uint32_t>>);
  table.Set(ZYDIS_MNEMONIC_CQO, &TranslateFixed<&SignToD<uint64_t>>);
  table.Set(ZYDIS_MNEMONIC_XLAT, &TranslateXlat);
  for (const ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_NOP, ZYDIS_MNEMONIC_PREFETCH, ZYDIS_MNEMONIC_PREFETCHW, ZYDIS_MNEMONIC_PREFETCHNTA,
        ZYDIS_MNEMONIC_PREFETCHT0, ZYDIS_MNEMONIC_PREFETCHT1, ZYDIS_MNEMONIC_PREFETCHT2, ZYDIS_MNEMONIC_PREFETCHWT1}) {
    table.Set(mnemonic, &TranslateFixed<&Nop>);
  }
}

}  // namespace hvsdk::software
