// SPDX-License-Identifier: Apache-2.0
// x87 instructions: translation, the long way's operands and faults, WAIT and EMMS.
#include "backend_software/vector/x87_ops.h"

#include "backend_software/vector/fpu.h"

namespace hvsdk::software {

const Op* X87LongWay(Cpu& c, const Op* op) {
  const X87Form form = X87Form::Unpack(op->imm);
  if (!X87IsNoWait(form.opcode, form.modrm)) CheckX87Pending(c, op);
  uint8_t memory[108];
  uint64_t linear = 0;
  if (form.bytes != 0) {
    linear = Address<false>(c, op, form.bytes, form.store);
    // A store that cannot be done must not have popped: the page is tried first.
    if (form.store) {
      c.ProbeWrite(op, linear, form.bytes);
    } else {
      c.LoadBytes(op, linear, memory, form.bytes);
    }
  }
  const X87Image image = c.IsRealOrVm86() ? form.narrow ? X87Image::kReal16 : X87Image::kReal32
                         : form.narrow    ? X87Image::kProtected16
                                          : X87Image::kProtected32;
  const uint64_t before = c.GetRflags();
  uint64_t rflags = before;
  uint16_t ax = c.Get<uint16_t>(SlotOffset(kRax));
  bool stored = false;
  const X87Outcome outcome = ExecuteX87(c.x87, form.opcode, form.modrm, image, memory, rflags, ax, stored);
  if (outcome == X87Outcome::kUndefinedOpcode) c.Undefined(op);
  // Control instructions leave the pointers to the last computing one alone.
  const bool control = X87IsNoWait(form.opcode, form.modrm) ||
                       (form.modrm < 0xC0 && ((form.opcode == 0xD9 && (form.modrm >> 3 & 7) >= 4) ||
                                              (form.opcode == 0xDD && (form.modrm >> 3 & 7) == 4)));
  if (!control) {
    RememberX87Instruction(c, op);
    if (form.bytes != 0) RememberX87Operand(c, op, linear);
  }
  if (rflags != before) c.flags.Set(rflags);
  if (form.opcode == 0xDF && form.modrm == 0xE0) c.Set<uint16_t>(SlotOffset(kRax), ax);
  if (stored) c.StoreBytes(op, linear, memory, form.bytes);
  return op + 1;
}

namespace {

bool TranslateX87(Insn& in, Op& op) {
  if (in.z.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || in.z.opcode < 0xD8 || in.z.opcode > 0xDF) return false;
  if (UnitMissing(in, op, Unit::kX87)) return true;
  X87Form form{};
  form.opcode = in.z.opcode;
  form.modrm = static_cast<uint8_t>(in.z.raw.modrm.mod << 6 | in.z.raw.modrm.reg << 3 | in.z.raw.modrm.rm);
  form.narrow = in.z.operand_width == 16;
  for (int i = 0; i < in.z.operand_count_visible; ++i) {
    if (!in.IsMem(i)) continue;
    const X87Memory memory =
        X87MemoryOperand(form.opcode, form.modrm, form.narrow ? X87Image::kProtected16 : X87Image::kProtected32);
    form.bytes = memory.size_bytes;
    form.store = memory.store;
    SetMemory(in, in.o[i], op);
    form.segment = static_cast<uint8_t>(SegmentOf(in.o[i].mem.segment));
  }
  const auto [tags, handler] = PickX87Short(form.opcode, form.modrm);
  if (handler != nullptr) {
    form.taken = x87::kExceptions | (x87::kConditionCodes & ~X87KeptConditionCodes(form.opcode, form.modrm));
    op.a = form.modrm & 7;
    op.b = tags.value;
    op.extra = tags.mask;
  }
  op.imm = form.Pack();
  op.handler = handler != nullptr ? handler : &X87LongWay;
  return true;
}

const Op* Wait(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  return op + 1;
}
const Op* WaitNoDevice(Cpu& c, const Op* op) {
  // CR0.MP couples WAIT to the task switch flag; MP is no part of a block's mode, so it is looked at here.
  if (c.cr0 & kCr0Mp) return RaiseNoDevice(c, op);
  return Wait(c, op);
}
bool TranslateWait(Insn& in, Op& op) {
  op.handler = in.mode & kModeTaskSwitched ? &WaitNoDevice : &Wait;
  return true;
}

const Op* EmptyMmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();  // the top becomes zero here too
  c.x87.valid = 0;
  return op + 1;
}
bool TranslateEmptyMmx(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kMmx)) return true;
  op.handler = &EmptyMmx;
  return true;
}

}  // namespace

void RegisterX87(TranslatorTable& table) {
  for (int mnemonic = ZYDIS_MNEMONIC_F2XM1; mnemonic <= ZYDIS_MNEMONIC_FYL2XP1; ++mnemonic) {
    table.Set(static_cast<ZydisMnemonic>(mnemonic), &TranslateX87);
  }
  table.Set(ZYDIS_MNEMONIC_FEMMS, nullptr);  // 3DNow!
  table.Set(ZYDIS_MNEMONIC_FWAIT, &TranslateWait);
  table.Set(ZYDIS_MNEMONIC_EMMS, &TranslateEmptyMmx);
}

}  // namespace hvsdk::software
