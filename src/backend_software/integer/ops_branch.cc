// SPDX-License-Identifier: Apache-2.0
// Near branches, calls and returns, and the ends of blocks.
#include "backend_software/code/code_cache.h"
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

// `delta` is how far r[kIp] went from the block's first byte. Links never leave the page: as long as this block runs,
// its own page is mapped where it is.
const Op* Follow(Cpu& c, const Op* op, int64_t delta, const Op*& link) {
  if (c.attention.load(std::memory_order_relaxed) != 0) return nullptr;
  const uint64_t target = c.r[kIp] + c.code_base;
  const bool same_page = ((target ^ (target - delta)) & ~(kPageSize - 1)) == 0;
  const uint32_t generation = c.code_generation;
  const Op* next = LookUpJump(c);
  if (next == nullptr) return nullptr;
  // Only what the jump cache holds is a block that lives as long as its page; an instruction across two pages is not.
  const JumpEntry& entry = c.jump[JumpIndex(target)];
  const bool cached = entry.linear == target && entry.op == next;
  if (cached && same_page && LinksOf(op).linkable && generation == c.code_generation && c.Is64()) link = next;
  return next;
}

template <bool kTaken>
inline const Op* GoTo(Cpu& c, const Op* op) {
  const Op* to = kTaken ? LinksOf(op).taken : LinksOf(op).next;
  if (to != nullptr && c.attention.load(std::memory_order_relaxed) == 0) [[likely]]
    HVSDK_NEXT(to);
  return kTaken ? FollowTaken(c, op, static_cast<int64_t>(op->imm)) : FollowNext(c, op);
}

// ---- 64-bit mode ----

const Op* Jump(Cpu& c, const Op* op) {
  c.r[kIp] += op->imm;
  const Op* to = LinksOf(op).taken;
  if (to != nullptr && c.attention.load(std::memory_order_relaxed) == 0) [[likely]]
    HVSDK_NEXT(to);
  return FollowTaken(c, op, static_cast<int64_t>(op->imm));
}

template <int kCondition>
const Op* JumpIf(Cpu& c, const Op* op) {
  if (c.flags.Test<kCondition>()) {
    c.r[kIp] += op->imm;
    return GoTo<true>(c, op);
  }
  c.r[kIp] += op->ip + op->length;
  return GoTo<false>(c, op);
}

constexpr Handler kJumpIf[16] = {&JumpIf<0>,  &JumpIf<1>,  &JumpIf<2>,  &JumpIf<3>, &JumpIf<4>,  &JumpIf<5>,
                                 &JumpIf<6>,  &JumpIf<7>,  &JumpIf<8>,  &JumpIf<9>, &JumpIf<10>, &JumpIf<11>,
                                 &JumpIf<12>, &JumpIf<13>, &JumpIf<14>, &JumpIf<15>};

// Goes on at r[kIp], most often in another page, and makes the far link.
HVSDK_TWIN const Op* FollowFar(Cpu& c, const Op* op) {
  const Op* const to = LookUpJump(c);
  if (to == nullptr) return nullptr;
  Links& links = LinksOf(op);
  const uint64_t linear = c.r[kIp];
  const JumpEntry& entry = c.jump[JumpIndex(linear)];
  // As in Follow: what the jump cache does not hold is gone soon. The look-up may even have taken our own block.
  if (entry.linear == linear && entry.op == to && entry.tag == c.code_tag && links.linkable == 1) {
    links.far = to;
    links.far_linear = linear;
    links.far_tag = c.link_tag;
  }
  HVSDK_NEXT(to);
}

template <bool kQuick = true>
HVSDK_TWIN const Op* Call(Cpu& c, const Op* op) {
  const uint64_t sp = c.r[kRsp] - 8;
  if (!StoreTo<kQuick>(c, op, sp, c.NextIp(op))) [[unlikely]]
    return Call<false>(c, op);
  c.r[kRsp] = sp;
  const uint64_t target = c.r[kIp] + op->imm;
  c.r[kIp] = target;
  const Links& links = LinksOf(op);
  if (links.far_linear == target && links.far_tag == c.link_tag && c.attention.load(std::memory_order_relaxed) == 0)
      [[likely]] {
    HVSDK_NEXT(links.far);
  }
  return FollowFar(c, op);
}

inline bool CheckTarget(Cpu& c, const Op* op, uint64_t target) {
  if (IsCanonical(target)) [[likely]]
    return true;
  c.op = op;
  c.Raise(kGeneralProtection, 0);
}

template <bool kQuick = true>
HVSDK_TWIN const Op* Return(Cpu& c, const Op* op) {
  const uint64_t sp = c.r[kRsp];
  uint64_t target;
  if (!LoadTo<kQuick>(c, op, sp, target) || (kQuick && !IsCanonical(target))) [[unlikely]]
    return Return<false>(c, op);
  if constexpr (!kQuick) CheckTarget(c, op, target);
  c.r[kRsp] = sp + 8 + op->imm;
  c.r[kIp] = target;
  return GoOn(c, op);
}

template <bool kMemory, bool kCall, bool kQuick = true>
HVSDK_TWIN const Op* Indirect(Cpu& c, const Op* op) {
  uint64_t target;
  if constexpr (kMemory) {
    uint64_t address;
    if (!AddressTo<false, kQuick>(c, op, 8, false, address) || !LoadTo<kQuick>(c, op, address, target)) [[unlikely]] {
      return Indirect<kMemory, kCall, false>(c, op);
    }
  } else {
    target = c.Get<uint64_t>(op->a);
  }
  if (kQuick && !IsCanonical(target)) [[unlikely]]
    return Indirect<kMemory, kCall, false>(c, op);
  if constexpr (kCall) {
    const uint64_t sp = c.r[kRsp] - 8;
    if (!StoreTo<kQuick>(c, op, sp, c.NextIp(op))) [[unlikely]]
      return Indirect<kMemory, kCall, false>(c, op);
    if constexpr (!kQuick) CheckTarget(c, op, target);
    c.r[kRsp] = sp;
  } else if constexpr (!kQuick) {
    CheckTarget(c, op, target);
  }
  c.r[kIp] = target;
  return GoOn(c, op);
}

// ---- any mode; extra is the operand size in bytes ----

const Op* GoToOffset(Cpu& c, const Op* op, uint64_t target) {
  c.op = op;
  if (op->extra == 2) target &= 0xFFFF;
  if (op->extra == 4) target &= 0xFFFFFFFF;
  if (c.Is64() ? !IsCanonical(target) : target > c.segment[kCs].limit) c.Raise(kGeneralProtection, 0);
  c.r[kIp] = target;
  return LookUpJump(c);
}

bool Holds(const LazyFlags& f, int condition) {
  switch (condition) {
    case 0:
      return f.Test<0>();
    case 1:
      return f.Test<1>();
    case 2:
      return f.Test<2>();
    case 3:
      return f.Test<3>();
    case 4:
      return f.Test<4>();
    case 5:
      return f.Test<5>();
    case 6:
      return f.Test<6>();
    case 7:
      return f.Test<7>();
    case 8:
      return f.Test<8>();
    case 9:
      return f.Test<9>();
    case 10:
      return f.Test<10>();
    case 11:
      return f.Test<11>();
    case 12:
      return f.Test<12>();
    case 13:
      return f.Test<13>();
    case 14:
      return f.Test<14>();
    default:
      return f.Test<15>();
  }
}

const Op* FallThrough(Cpu& c, const Op* op) {
  c.r[kIp] = c.NextIp(op) & c.IpMask();
  return LookUpJump(c);
}

const Op* JumpIfAny(Cpu& c, const Op* op) {
  if (op->a == 16 || Holds(c.flags, op->a)) return GoToOffset(c, op, c.r[kIp] + op->imm);
  return FallThrough(c, op);
}

// LOOP, LOOPE, LOOPNE and JCXZ; b tells which, the address size the counter.
enum LoopKind : uint8_t { kLoop, kLoopEqual, kLoopNotEqual, kJumpIfZero };
const Op* LoopAny(Cpu& c, const Op* op) {
  const uint64_t mask = (op->flags & kOpAddress16) ? 0xFFFF : (op->flags & kOpAddress32) ? 0xFFFFFFFF : ~uint64_t{0};
  uint64_t count = c.r[kRcx] & mask;
  bool taken;
  if (op->b == kJumpIfZero) {
    taken = count == 0;
  } else {
    count = (count - 1) & mask;
    taken = count != 0 && (op->b == kLoop || c.flags.zf() == (op->b == kLoopEqual));
  }
  const uint64_t target = c.r[kIp] + op->imm;
  const Op* next = nullptr;
  if (taken) {
    c.op = op;
    uint64_t to = op->extra == 2 ? target & 0xFFFF : op->extra == 4 ? target & 0xFFFFFFFF : target;
    if (c.Is64() ? !IsCanonical(to) : to > c.segment[kCs].limit) c.Raise(kGeneralProtection, 0);
  }
  if (op->b != kJumpIfZero) c.r[kRcx] = mask == 0xFFFF ? (c.r[kRcx] & ~mask) | count : count;
  next = taken ? GoToOffset(c, op, target) : FallThrough(c, op);
  return next;
}

const Op* CallAny(Cpu& c, const Op* op) {
  c.op = op;
  uint64_t target = c.r[kIp] + op->imm;
  if (op->extra == 2) target &= 0xFFFF;
  if (op->extra == 4) target &= 0xFFFFFFFF;
  if (c.Is64() ? !IsCanonical(target) : target > c.segment[kCs].limit) c.Raise(kGeneralProtection, 0);
  c.Push(c.NextIp(op), op->extra);
  c.r[kIp] = target;
  return LookUpJump(c);
}

const Op* ReturnAny(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t sp = c.r[kRsp];
  const uint64_t target = c.Pop(op->extra);
  if (c.Is64() ? !IsCanonical(target) : target > c.segment[kCs].limit) {
    c.r[kRsp] = sp;
    c.Raise(kGeneralProtection, 0);
  }
  c.SetSp(c.r[kRsp] + op->imm);
  c.r[kIp] = target;
  return LookUpJump(c);
}

template <bool kMemory, bool kCall>
const Op* IndirectAny(Cpu& c, const Op* op) {
  c.op = op;
  uint64_t target;
  const int size = op->extra;
  if (kMemory) {
    const uint64_t address = Address<false>(c, op, size, false);
    target = size == 2   ? Load<uint16_t>(c, op, address)
             : size == 4 ? Load<uint32_t>(c, op, address)
                         : Load<uint64_t>(c, op, address);
  } else {
    target = c.Get<uint64_t>(op->a);
  }
  if (size == 2) target &= 0xFFFF;
  if (size == 4) target &= 0xFFFFFFFF;
  if (c.Is64() ? !IsCanonical(target) : target > c.segment[kCs].limit) c.Raise(kGeneralProtection, 0);
  if (kCall) c.Push(c.NextIp(op), size);
  c.r[kIp] = target;
  return LookUpJump(c);
}

// Far transfers. a: 0 pointer in imm (offset) and disp (selector), 1 in memory.
template <bool kCall>
const Op* FarTransfer(Cpu& c, const Op* op) {
  c.op = op;
  const int size = op->extra;
  uint64_t offset = op->imm;
  auto selector = static_cast<uint16_t>(op->disp);
  if (op->a) {
    const uint64_t address = Address<false>(c, op, size + 2, false);
    offset = size == 2   ? Load<uint16_t>(c, op, address)
             : size == 4 ? Load<uint32_t>(c, op, address)
                         : Load<uint64_t>(c, op, address);
    selector = Load<uint16_t>(c, op, address + size);
  }
  if (kCall) {
    c.FarCall(selector, offset, size, c.NextIp(op));
  } else {
    c.FarJump(selector, offset, size);
  }
  return LookUpJump(c);
}

const Op* FarReturnAny(Cpu& c, const Op* op) {
  c.op = op;
  c.FarReturn(op->extra, static_cast<uint32_t>(op->imm));
  return LookUpJump(c);
}

const Op* InterruptReturnAny(Cpu& c, const Op* op) {
  c.op = op;
  c.InterruptReturn(op->extra);
  return LookUpJump(c);
}

// ---- translators ----

// The size that a near branch's new instruction pointer is cut to.
uint8_t BranchSize(const Insn& in) { return in.Is64() ? 8 : static_cast<uint8_t>(in.width() / 8); }

int64_t Target(const Insn& in, const Op& op) { return op.ip + op.length + in.o[0].imm.value.s; }

bool TranslateFar(Insn& in, Op& op, bool call) {
  op.extra = static_cast<uint8_t>(in.width() / 8);
  if (in.o[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
    op.imm = in.o[0].ptr.offset;
    op.disp = in.o[0].ptr.segment;
  } else {
    SetMemory(in, in.o[0], op);
    op.a = 1;
  }
  op.handler = call ? &FarTransfer<true> : &FarTransfer<false>;
  return true;
}

bool TranslateJump(Insn& in, Op& op) {
  in.ends = true;
  if (in.z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return TranslateFar(in, op, false);
  op.extra = BranchSize(in);
  if (in.IsImm(0)) {
    op.imm = static_cast<uint64_t>(Target(in, op));
    op.a = 16;
    op.handler = in.Is64() ? &Jump : &JumpIfAny;
    in.links = in.Is64();
  } else if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = in.Is64() ? &Indirect<false, false> : &IndirectAny<false, false>;
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = in.Is64() ? &Indirect<true, false> : &IndirectAny<true, false>;
  }
  return true;
}

bool TranslateCall(Insn& in, Op& op) {
  in.ends = true;
  if (in.z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return TranslateFar(in, op, true);
  op.extra = BranchSize(in);
  if (in.IsImm(0)) {
    op.flags |= kOpStackSegment;
    op.imm = static_cast<uint64_t>(Target(in, op));
    op.handler = in.Is64() ? &Call<> : &CallAny;
    in.links = in.Is64();
  } else if (in.IsReg(0)) {
    op.flags |= kOpStackSegment;
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = in.Is64() ? &Indirect<false, true> : &IndirectAny<false, true>;
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = in.Is64() ? &Indirect<true, true> : &IndirectAny<true, true>;
  }
  return true;
}

bool TranslateReturn(Insn& in, Op& op) {
  in.ends = true;
  op.flags |= kOpStackSegment;
  op.imm = in.z.operand_count_visible > 0 ? in.o[0].imm.value.u : 0;
  if (in.z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
    op.extra = static_cast<uint8_t>(in.width() / 8);
    op.handler = &FarReturnAny;
    return true;
  }
  op.extra = BranchSize(in);
  op.handler = in.Is64() ? &Return<> : &ReturnAny;
  return true;
}

template <int kCondition>
bool TranslateJumpIf(Insn& in, Op& op) {
  in.ends = true;
  op.imm = static_cast<uint64_t>(Target(in, op));
  op.extra = BranchSize(in);
  op.a = kCondition;
  op.handler = in.Is64() ? kJumpIf[kCondition] : &JumpIfAny;
  in.links = in.Is64();
  return true;
}

template <LoopKind kKind>
bool TranslateLoop(Insn& in, Op& op) {
  in.ends = true;
  op.imm = static_cast<uint64_t>(Target(in, op));
  op.extra = BranchSize(in);
  op.b = kKind;
  // A repeat prefix decides over the opcode's own condition; no manual says so, every processor does it.
  if (kKind == kLoopEqual || kKind == kLoopNotEqual) {
    for (int i = 0; i < in.z.raw.prefix_count; ++i) {
      if (in.z.raw.prefixes[i].value == 0xF3) op.b = kLoopEqual;
      if (in.z.raw.prefixes[i].value == 0xF2) op.b = kLoopNotEqual;
    }
  }
  if (in.z.address_width == 32) op.flags |= kOpAddress32;
  if (in.z.address_width == 16) op.flags |= kOpAddress16;
  op.handler = &LoopAny;
  return true;
}

bool TranslateInterruptReturn(Insn& in, Op& op) {
  in.ends = true;
  op.flags |= kOpStackSegment;
  op.extra = in.z.mnemonic == ZYDIS_MNEMONIC_IRETQ ? 8 : in.z.mnemonic == ZYDIS_MNEMONIC_IRETD ? 4 : 2;
  op.handler = &InterruptReturnAny;
  return true;
}

}  // namespace

const Op* FollowTaken(Cpu& c, const Op* op, int64_t delta) { return Follow(c, op, delta, LinksOf(op).taken); }
const Op* FollowNext(Cpu& c, const Op* op) { return Follow(c, op, op->ip + op->length, LinksOf(op).next); }

int LinkedBranchCondition(const Op& branch) {
  for (int i = 0; i < 16; ++i) {
    if (branch.handler == kJumpIf[i]) return i;
  }
  return -1;
}

const Op* EndBlock(Cpu& c, const Op* op) {
  c.r[kIp] += op->ip;
  const Op* to = LinksOf(op).next;
  if (to != nullptr && c.attention.load(std::memory_order_relaxed) == 0) [[likely]]
    HVSDK_NEXT(to);
  if (!c.Is64()) c.r[kIp] &= 0xFFFFFFFF;
  // A block that ends at the end of its page goes on in another, which is never linked.
  return GoOn(c, op);
}

const Op* RaiseUndefined(Cpu& c, const Op* op) { c.Undefined(op); }
const Op* RaiseTooLong(Cpu& c, const Op* op) {
  c.op = op;
  c.Raise(kGeneralProtection, 0);
}
const Op* RaiseNoDevice(Cpu& c, const Op* op) {
  c.op = op;
  c.Raise(kDeviceNotAvailable);
}

void RegisterBranch(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_JMP, &TranslateJump);
  table.Set(ZYDIS_MNEMONIC_CALL, &TranslateCall);
  table.Set(ZYDIS_MNEMONIC_RET, &TranslateReturn);
  table.Set(ZYDIS_MNEMONIC_JO, &TranslateJumpIf<0>);
  table.Set(ZYDIS_MNEMONIC_JNO, &TranslateJumpIf<1>);
  table.Set(ZYDIS_MNEMONIC_JB, &TranslateJumpIf<2>);
  table.Set(ZYDIS_MNEMONIC_JNB, &TranslateJumpIf<3>);
  table.Set(ZYDIS_MNEMONIC_JZ, &TranslateJumpIf<4>);
  table.Set(ZYDIS_MNEMONIC_JNZ, &TranslateJumpIf<5>);
  table.Set(ZYDIS_MNEMONIC_JBE, &TranslateJumpIf<6>);
  table.Set(ZYDIS_MNEMONIC_JNBE, &TranslateJumpIf<7>);
  table.Set(ZYDIS_MNEMONIC_JS, &TranslateJumpIf<8>);
  table.Set(ZYDIS_MNEMONIC_JNS, &TranslateJumpIf<9>);
  table.Set(ZYDIS_MNEMONIC_JP, &TranslateJumpIf<10>);
  table.Set(ZYDIS_MNEMONIC_JNP, &TranslateJumpIf<11>);
  table.Set(ZYDIS_MNEMONIC_JL, &TranslateJumpIf<12>);
  table.Set(ZYDIS_MNEMONIC_JNL, &TranslateJumpIf<13>);
  table.Set(ZYDIS_MNEMONIC_JLE, &TranslateJumpIf<14>);
  table.Set(ZYDIS_MNEMONIC_JNLE, &TranslateJumpIf<15>);
  table.Set(ZYDIS_MNEMONIC_LOOP, &TranslateLoop<kLoop>);
  table.Set(ZYDIS_MNEMONIC_LOOPE, &TranslateLoop<kLoopEqual>);
  table.Set(ZYDIS_MNEMONIC_LOOPNE, &TranslateLoop<kLoopNotEqual>);
  table.Set(ZYDIS_MNEMONIC_JCXZ, &TranslateLoop<kJumpIfZero>);
  table.Set(ZYDIS_MNEMONIC_JECXZ, &TranslateLoop<kJumpIfZero>);
  table.Set(ZYDIS_MNEMONIC_JRCXZ, &TranslateLoop<kJumpIfZero>);
  table.Set(ZYDIS_MNEMONIC_IRET, &TranslateInterruptReturn);
  table.Set(ZYDIS_MNEMONIC_IRETD, &TranslateInterruptReturn);
  table.Set(ZYDIS_MNEMONIC_IRETQ, &TranslateInterruptReturn);
}

}  // namespace hvsdk::software
